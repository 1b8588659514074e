"""tuning.py: how the four stages of align.py begin, resume, log and save.

A stage that was killed goes on from its last checkpoint and ends with the same bits. A checkpoint
of other settings, data or starting weights is refused: they are in its identity (train.py).
"""

import contextlib
import functools
import hashlib
import inspect
import sys
import time
from pathlib import Path

from chat import formats, models, places        # before numpy
import gpt
import train
from model import adamw, adapters, cores, corpus, folders, lora, parallel, ranks, resume, zero
from run import progress

LORA_ALPHA = 16.0       # where a recipe has a rank alone


def load_stage(
    run, stage, out=None, mend=None, writable=True, dtype="float32", chat_format=None
):
    """(params, cfg, tokenizer) of the model that a stage ended with, to be trained further.

    out: the folder of the stage that is to come. mend: the command that makes the model, where that
    is neither train.py nor align.py sft. writable, dtype: as for sample.load_model. chat_format: as
    for formats.load.
    """
    mend = mend or ("python train.py" if stage == "base" else "python align.py sft")
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such run folder; make the demo's with: make")
    folder = run / stage
    if not folders.is_finished(folder):
        raise FileNotFoundError(f"{folder}: no finished model; make it with: {mend} --run {run}")
    if out and (run / out).resolve() == folder.resolve():
        raise ValueError(f"--out {out}: the model it begins with lies there and would be lost; "
                         "give another name")
    refuse_judge(folder)
    return formats.open_model(folder, writable, dtype, chat_format)


def load_start(run, start, out, recipe, seed):
    """load_stage() of what a stage begins with, with an adapter beside it if the recipe has one.

    The weights of the model are then only read: they are the file itself, where it holds the dtype
    of the recipe.
    """
    whole = recipe.lora_rank is None and recipe.adapter is None
    dtype = "bfloat16" if recipe.dtype == "bf16" and not whole else "float32"
    model = load_stage(run, start, out, None, whole, dtype, recipe.chat_format)
    params, cfg, tokenizer = model
    if not tokenizer.chats.is_known:
        raise ValueError(
            f"{run / start}: neither has a chat template nor the tokens of our own chats; say how "
            "conversations are written: --chat-format chatml, llama3, or a folder with a template")
    if whole:
        return model
    if recipe.adapter is not None:
        adapter = adapters.read(recipe.adapter, params, cfg)
    else:
        adapter = lora.init(params, cfg, recipe.lora_rank, recipe.lora_alpha or LORA_ALPHA, seed)
    params.update(adapter)
    n = sum(p.size for p in lora.learned(params).values())
    print(f"an adapter learns: {n:,} numbers beside {cfg.n_params:,} that stay", file=sys.stderr)
    return model


def save_merged(folder, params, cfg, base):
    """Write the model with the adapter merged into it, and the adapter beside it.

    base: the folder of the model that the adapter belongs to.
    """
    adapters.write(Path(folder) / adapters.FOLDER, params, cfg, base)
    gpt.save(folder, lora.merged(params), cfg)


def refuse_judge(folder):
    """ValueError if a folder holds a reward model."""
    if models.is_judge(folder):
        raise ValueError(f"{folder}: a reward model, which judges replies and writes none")


def load_reference(run, stage, start, params, cfg):
    """The weights of the model that a leash is tied to: those of a stage, by default the start's.

    stage: its name or None. params, cfg: of the model that the training begins with.
    """
    if stage in (None, start):
        if lora.SCALE in params:
            return lora.without(params)         # which do not change
        return {name: p.copy() for name, p in params.items()}
    reference, other, _ = load_stage(run, stage)
    for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
        found, expected = getattr(other, name), getattr(cfg, name)
        if found != expected:
            raise ValueError(f"{run / stage}: a reference of another shape than {start}: "
                             f"{name} {found}, expected {expected}")
    return reference


def replay_text(run, recipe, tokenizer, cfg, seed):
    """Windows of the text that the base model read, or None if the recipe has none."""
    if not recipe.replay:
        return None
    try:
        shards, _ = corpus.load_run(run, tokenizer)
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{e}; or learn without such text: --replay 0") from None
    return train.Windows(shards, cfg.n_positions, seed + 1)


def digest(contents):
    """A short name for some bytes."""
    return hashlib.sha256(contents).hexdigest()[:16]


def source_digest(function):
    """A short name for the source of a reward, so that an edited one does not resume silently."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):                # a partial, an object, or written in C
        source = type(function).__name__
    return digest(source.encode())


def identity(stage, seed, params, files, text=None, reference=None):
    """What the result of a stage depends on, beside its recipe, as a dict for its checkpoints.

    params: what it begins with. files: what it learns from. text: its windows of pre-training text.
    reference: the weights that its leash is tied to.
    """
    data = b"".join(Path(path).read_bytes() for path in files)
    return {
        "stage": stage,
        "seed": seed,
        "start": resume.fingerprint(params.values()),
        "data": digest(data),
        "tokens": resume.fingerprint(text.shards) if text else None,
        "reference": resume.fingerprint(reference.values()) if reference else None,
    }


@contextlib.contextmanager
def begun(folder, model, recipe, identity, on_mismatch, save=gpt.save, base=None):
    """A Learner for a stage whose files go to a folder. The model is written when all is done.

    model: (params, cfg, tokenizer); params change in place. identity: all that decides the result.
    save(folder, params, cfg) writes the model. base: the folder of what it begins with. Beside an
    adapter that model does not change, and neither optimizer nor checkpoint has any of it.
    """
    params, cfg, tokenizer = model
    learned = lora.learned(params)
    if lora.SCALE in params and save is gpt.save:
        save = functools.partial(save_merged, base=base)
    # Weight decay would pull at all weights, also those that no conversation has use for, and so
    # erode what the base model knows.
    here = ranks.here()
    parts = zero.Parts(learned, here)
    optimizer = adamw.AdamW(parts.updated(learned), recipe.beta1, recipe.beta2, weight_decay=0.0)
    format = formats.of(tokenizer)
    place = places.of(recipe)
    identity = {**identity, **train.settings(recipe), "chat_template": format.digest}
    identity["device"] = place.name
    if here.size > 1:
        identity["ranks"] = here.size
    kept = resume.kept_settings(folder, identity, ("threads",), here)
    identity["threads"] = resume.keep_threads(kept)
    ours = tokenizer if format.has_calls else None      # the files of others are copied
    with resume.begin(folder, learned, optimizer, cfg, ours, identity, on_mismatch, parts,
                      end="<|im_end|>") as stage:
        if here.rank == 0:
            format.write(stage.place)
        learner = Learner(stage, model, optimizer, recipe, place)
        if save is gpt.save and recipe.save_every < recipe.steps:
            print(f"after {recipe.save_every} steps it can be talked to in another terminal:\n"
                  f"  python sample.py chat --model {stage.place}", file=sys.stderr)
        yield learner
        learner.gradients.close()
        stage.finish(params, cfg, save)
    here.barrier()                      # the model is there for all


class Learner:
    """The steps of a stage: each adds gradients, then updates the weights once.

    model   (params, cfg, tokenizer) as it is now, where the stage computes
    engine  the room that computes with these params
    """

    def __init__(self, stage, model, optimizer, recipe, place):
        params, cfg, tokenizer = model
        self.stage, self.params, self.optimizer, self.recipe = stage, params, optimizer, recipe
        self.parts, self.here = stage.parts, stage.parts.here
        self.place, self.engine = place, place.engine
        self.gradients = place.gradients(params, optimizer, cfg, self.parts)
        self.model = self.gradients.params, cfg, tokenizer
        # On the cores, Gradients has moved what learns.
        self.parts.params = lora.learned(params) if place.gpu else self.gradients.weights
        optimizer.params = self.parts.updated(self.parts.params)
        cores.give_back_freed_memory()

    def put(self, reference):
        """The weights of a reference, where the stage computes; None for None.

        An adapter's reference is the model beside it, which is there.
        """
        if reference is None:
            return None
        frozen = lora.without(self.params)
        if all(p is frozen.get(name) for name, p in reference.items()):
            return lora.without(self.gradients.params)
        return self.place.put(reference, self.model[1])

    def add(self, *batch):
        """Add the gradients of a batch: tokens, targets, weights and perhaps positions, segments.

        Each rank takes its share of the rows. Returns the loss of the whole batch.
        """
        own = parallel.share_of_rows(batch, self.here.own_slice)
        return self.here.sum_of(self.gradients.add(*own))[0]

    def steps(self):
        """The number of each step that is still to be done. Its gradients begin at zero."""
        started = time.perf_counter()
        for step in range(self.stage.done, self.recipe.steps):
            self.step, self.step_started = step, time.perf_counter()
            self.gradients.clear()
            yield step
            per_step = (time.perf_counter() - started) / (step + 1 - self.stage.done)
            line = f"step {step + 1:,}/{self.recipe.steps:,}  "
            left = per_step * (self.recipe.steps - step - 1)
            line += f"{progress.duration(left)} left  "
            line += f"loss {self.loss:+.4f}"
            for name, value in self.info.items():
                line += f"  {name} {value:.3f}" if isinstance(value, float) else f"  {name} {value}"
            progress.show(line)
        progress.end()

    def update(self, loss, info):
        """Clip the gradients, take a step of AdamW, log it, and save a checkpoint now and then.

        Where nothing was added, as in RL when all rewards are equal, the weights stay as they are.
        """
        step, recipe = self.step, self.recipe
        skipped, norm = None, 0.0
        if not self.gradients.added:
            lr = train.learning_rate(step, recipe)
        elif self.place.gpu:
            _, norm, lr, skipped = train.update_on_gpu(
                self.gradients, self.optimizer, step, recipe)
        else:
            norm, lr, skipped = train.update(
                self.optimizer, self.gradients.sum, loss, step, recipe, self.parts)
        if skipped:
            info["skipped"] = skipped
        self.stage.log.write(
            step=step + 1,
            loss_nats=None if skipped else round(loss, 6),
            lr=lr,
            grad_norm=None if skipped else round(norm, 6),
            dt_s=round(time.perf_counter() - self.step_started, 4),
            **info,
        )
        self.loss, self.info = loss, info
        if step + 1 == recipe.steps or (step + 1) % recipe.save_every == 0:
            if self.place.gpu:
                self.gradients.download()
            learned = lora.learned(self.params)
            self.stage.save_checkpoint(learned, self.optimizer, step + 1)
