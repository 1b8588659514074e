"""train.py: pre-training. Tokens in, a base model out.

The file tells one step of training in the order in which it happens, and then the loop:

    batch               rows of tokens, chosen by (seed, step) alone
    loss, gradients     of each micro-batch, added up
    clipping            by the norm of all gradients together
    learning rate       of this step: a warm-up, then a decay
    AdamW, Muon         the update
    log, checkpoint     what is measured, and what a killed run needs to go on

gpt.py defines the model; model/fast.py makes it fast on a CPU, model/device.py on a GPU.
model/corpus.py reads tokens and texts, model/resume.py goes on after a kill, model/planning.py
knows what fits in memory, model/parallel.py uses all cores, model/evaluate.py measures. Dropout
is left out.

One process runs it, or many, called ranks (model/ranks.py). Each takes its share of a batch's rows.
Their gradients are added up, and each updates its share of the weights (model/zero.py).

    python train.py                 the demo: out/demo/tokens -> out/demo/base, in two minutes
    python train.py --preset shakespeare --data FILE.txt --run out/shakespeare
    python train.py --preset gpt2 --data fineweb10B/ --tokenizer r50k_base.tiktoken --run out/gpt2
    python train.py --device cuda ...       the same on a GPU, in bfloat16
    python train.py --ranks 2 ...           as two processes; or mpirun -n 8 python train.py ...
    python train.py --device cuda --ranks 8 ...     on eight GPUs (model/nccl_ranks.py)
    python train.py --check         check schedule, micro-batches and optimizers

Sources: Kingma & Ba 2015 (Adam); Loshchilov & Hutter 2019 (AdamW); Jordan et al. 2024 (Muon);
nanoGPT, llm.c (recipes).
"""

import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from model import cores                     # before numpy: it tells NumPy's BLAS which CPU this is
from model import corpus
from model import device
from model import evaluate
from model import examples
from model import families
from model import fast
from model import joining
from model import llama
from model import muon
from model import options
from model import parallel
from model import planning
from model import ranks
from model import report
from model import resume
from model import zero
import gpt
import numpy as np
from run import command, progress, runs


@dataclass(frozen=True)
class Recipe:
    """What to train and how."""

    model: gpt.Config           # or llama.Config
    steps: int
    batch: int                  # rows a step, however few of them fit in memory at once
    lr: float                   # the highest learning rate
    warmup: int                 # steps
    min_lr: float = 0.0         # where the decay ends
    beta1: float = 0.9
    beta2: float = 0.95         # AdamW below says why it is not Adam's usual 0.999
    weight_decay: float = 0.1
    clip: float = 1.0           # the largest norm of a step's gradients
    muon: float = 0.0           # Muon's learning rate for matrices, times lr; 0: AdamW for all
    eval_every: int = 250
    save_every: int = 250


MODELS = {**gpt.PRESETS, **llama.PRESETS}
PRESETS = {
    # 0.76 million parameters, 4.6 passes over the demo's own small web (web/toyweb.py)
    "demo": Recipe(MODELS["demo"], steps=1200, batch=8, lr=1.6e-2, warmup=100, muon=1.25,
                   eval_every=300, save_every=200),
    # as many parameters in the blocks of the Llama family (model/llama.py)
    "llama-demo": Recipe(MODELS["llama-demo"], steps=1200, batch=8, lr=1.6e-2, warmup=100,
                         muon=1.25, eval_every=300, save_every=200),
    # nanoGPT's setting for a laptop, where 2,000 steps of AdamW end at 1.77 nats and these at 1.70
    "shakespeare": Recipe(MODELS["shakespeare"], steps=1000, batch=12, lr=7e-3, warmup=40,
                          beta2=0.99, muon=5.0, eval_every=100),
    # nanoGPT's recipe for a GPU, without dropout: the model overfits before the end
    "baby": Recipe(MODELS["baby"], steps=5000, batch=64, lr=1e-3, min_lr=1e-4,
                   warmup=100, beta2=0.99),
    # llm.c's recipes: 10, 30 and 150 billion tokens of FineWeb; gpt2-xl 33.5 of FineWeb-Edu
    "gpt2": Recipe(MODELS["gpt2"], steps=18865, batch=512, lr=6e-4, warmup=700),
    "gpt2-medium": Recipe(MODELS["gpt2-medium"], steps=60000, batch=512, lr=3e-4, warmup=700),
    "gpt2-large": Recipe(MODELS["gpt2-large"], steps=286102, batch=512, lr=2.5e-4, warmup=700),
    "gpt2-xl": Recipe(MODELS["gpt2-xl"], steps=32000, batch=1024, lr=6e-4, min_lr=6e-5, warmup=700),
}


# ------------------------------------------------------------------------------------------- batch

class Windows:
    """Rows of T+1 tokens. The first T are inputs and the last T targets, so that every position
    learns which token comes next.

    shards: arrays of tokens, one for each file; in each, the documents follow one another. An epoch
    is one pass over all of them. It cuts each shard into windows from a new random offset, and
    visits the windows in a new random order. Row i of a run depends on the seed and on i alone, so
    a run that goes on after a kill needs no saved position.

    A window can hold the end of one document and the beginning of the next. Attention looks across
    that border too. The model has to learn that what stands before <|endoftext|>, the token in
    front of each document, no longer matters.

    document_start: this token, if every window is to begin where a document begins.
    """

    def __init__(self, shards, T, seed, document_start=None):
        self.shards = corpus.long_enough(shards, T)
        self.T, self.seed = T, seed
        self.epoch, self.order = None, None         # made by begin_epoch
        self.at_documents = None
        # n windows need n T + 1 tokens, the last one as a target. An offset of up to T - 1 comes
        # before them. That is at most (n + 1) T tokens, so n = len // T - 1 windows always fit.
        self.per_epoch = sum(len(shard) // T - 1 for shard in self.shards)
        if document_start is not None:
            self.at_documents = corpus.document_windows(self.shards, T, document_start)
            self.per_epoch = sum(map(len, self.at_documents))

    def begin_epoch(self, epoch):
        """Make order (per_epoch, 2) int64: shard and first token of each window, shuffled."""
        rng = np.random.default_rng((self.seed, epoch))
        windows = []
        for i, shard in enumerate(self.shards):
            offset = int(rng.integers(self.T))      # not used if windows begin at documents
            if self.at_documents:
                starts = self.at_documents[i]
            else:
                starts = offset + self.T * np.arange(len(shard) // self.T - 1)
            shard_of_each = np.full(len(starts), i)
            windows.append(np.stack([shard_of_each, starts], axis=1))
        windows = np.concatenate(windows)
        self.order = windows[rng.permutation(len(windows))]
        self.epoch = epoch

    def rows(self, first, count):
        """(count, T+1) int64: rows first to first + count - 1 of the run."""
        out = np.empty((count, self.T + 1), np.int64)
        for n in range(count):
            epoch, place = divmod(first + n, self.per_epoch)
            if epoch != self.epoch:
                self.begin_epoch(epoch)
            i, start = self.order[place]
            out[n] = self.shards[i][start:start + self.T + 1]
        return out


# -------------------------------------------------------------------------- loss and gradients

def add_gradients(work, rows, micro_batch, here=ranks.ALONE):
    """The mean loss over all tokens of the rows (B,T+1), in nats. work keeps its gradient.

    here: the ranks. Each takes its share of the rows, and work has the gradient of that share.

    Only micro_batch rows fit in memory at once, so their losses and gradients are added up. Each
    token weighs 1 / (tokens of all rows), in whatever micro-batch it is. The mean of the
    micro-batches' means would be wrong where these are of unequal size: of 12 rows in parts of 5, 5
    and 2, a token in the last part would count 2.5 times as much as the others.

    work does the forward and the backward pass (gpt.loss_and_grads) and keeps the sum of the
    gradients: work.clear() sets the sum to 0, work.add(inputs, targets, weights) adds those of a
    micro-batch and returns its weighted loss. (A GPU is still at work then: add() returns 0.0, and
    work.update() the loss.)
    """
    work.clear()
    n_tokens = rows[:, 1:].size
    loss = 0.0
    own = rows[here.own_slice(len(rows))]
    for i in range(0, max(1, len(own)), micro_batch):       # once where there are no rows
        inputs = own[i:i + micro_batch, :-1]
        targets = own[i:i + micro_batch, 1:]
        weights = np.full(targets.shape, 1.0 / n_tokens)
        loss += work.add(inputs, targets, weights)
    return here.sum_of(loss)[0]


# ---------------------------------------------------------------------------------------- clipping

def grad_norm(grads, here=ranks.ALONE):
    """The length of all gradients taken as one vector. grads: those of this rank's rows."""
    squares = 0.0
    for g in grads.values():
        squares += float(np.vdot(g, g))
    return math.sqrt(here.sum_of(squares)[0])


def clip_scale(norm, limit):
    """The factor that shortens gradients of this norm to the limit; 1 if they are shorter.

    One unusual batch can have a gradient many times as long as the others. It keeps its direction,
    but it cannot throw the weights far.
    """
    if norm <= limit:
        return 1.0
    return limit / norm


# ----------------------------------------------------------------------------------- learning rate

def learning_rate(step, recipe):
    """(step, recipe) -> rate: a linear warm-up to lr, then half a cosine down to min_lr.

    Steps count from 0. Step 0 has lr / warmup, steps warmup - 1 and warmup have lr.
    The warm-up is for AdamW (below), which divides a mean of gradients by the root of a mean of
    their squares. After one gradient the two are equal but for the sign, so the very first step
    moves every weight by the whole learning rate, in a direction that is mostly noise. The step
    after the last would have min_lr. For another schedule, give `remaining` another curve from 1 to
    0. `python train.py --check` tests the result.
    """
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)    # from 0 to 1
    remaining = 0.5 * (1.0 + math.cos(math.pi * progress))                      # from 1 to 0
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * remaining


# ------------------------------------------------------------------------------------------- AdamW

class AdamW:
    """Adam with decoupled weight decay: the definition. train() uses adamw.AdamW, its fast twin.

    Adam keeps a running mean m of each gradient and v of its square. The step m / sqrt(v) has about
    the same length for all parameters, whatever the scale of their gradients. eps keeps it finite
    where all gradients were 0. The mean v reaches back about 1 / (1 - beta2) steps: 1000 with the
    usual 0.999, 20 with 0.95. Language models take 0.95, because v then adapts soon when gradients
    grow. Batches of few tokens have noisy gradients, so nanoGPT's small recipes take 0.99.

    Both means begin at 0, which pulls them towards 0 at first: after t updates with the same
    gradient g, m is (1 - beta1^t) g and v is (1 - beta2^t) g^2. The bias correction divides each by
    its factor. Without it, the first step would be (1 - beta1) / sqrt(1 - beta2) = 0.45 times as
    long as it should be, and with the usual beta2 = 0.999 it would be 3.2 times as long.

    Weight decay pulls matrices and embeddings towards 0, so that no weight is large without a
    reason. It is decoupled: it goes straight into the update and not through m and v, which would
    divide it by the size of gradients. Biases and norms do not decay: they are few, and a norm's
    weight is meant to be near 1, not 0.
    """

    def __init__(self, params, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1):
        self.params, self.beta1, self.beta2 = params, beta1, beta2
        self.eps, self.weight_decay = eps, weight_decay
        self.t = 0              # updates made
        self.skipped = 0        # updates skipped in a row
        self.m = {name: np.zeros_like(p) for name, p in params.items()}
        self.v = {name: np.zeros_like(p) for name, p in params.items()}

    def step(self, grads, lr, scale=1.0):
        """One update of all parameters, in place. scale is the factor of clipping, g = scale grads:

            m <- beta1 m + (1 - beta1) g            v <- beta2 v + (1 - beta2) g^2
            p <- p - lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + decay p)

        t counts the updates. decay is weight_decay for matrices and embeddings, which have two
        axes, and 0 for biases and norms.
        """
        self.t += 1
        for name, m in self.m.items():
            p, v = self.params[name], self.v[name]
            g = scale * grads[name]
            m += (1.0 - self.beta1) * (g - m)
            v += (1.0 - self.beta2) * (g * g - v)
            m_corrected = m / (1.0 - self.beta1 ** self.t)
            v_corrected = v / (1.0 - self.beta2 ** self.t)
            decay = self.weight_decay if p.ndim >= 2 else 0.0
            p -= lr * (m_corrected / (np.sqrt(v_corrected) + self.eps) + decay * p)


# -------------------------------------------------------------------------------------------- Muon

def orthogonal(m, rounds=5):
    """The matrix m with all its strengths brought near 1: (in, out) -> (in, out)

    Every matrix is U S V^T: it takes a vector apart along the columns of U, multiplies each part by
    a strength, which stands on the diagonal of S, and puts the parts together along the columns of
    V. To find U, S and V takes long. But the product m m^T is U S^2 U^T, so

        a m + b (m m^T) m + c (m m^T)^2 m  =  U (a S + b S^3 + c S^5) V^T

    Products of matrices thus send each strength s through a s + b s^3 + c s^5. Divided by its norm,
    m has strengths from 0 to 1. With a, b, c = 3.4445, -4.7750, 2.0315, each round raises a small
    strength to 3.4 times itself, and keeps a large one between 0.7 and 1.2. After five rounds all
    that began above 0.01 are there. They are not exactly 1, which makes no difference to training.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    if len(m) > m.shape[1]:
        return orthogonal(m.T, rounds).T        # m m^T is then the smaller of the two products
    m = m / (np.sqrt(np.sum(m * m)) + 1e-7)
    for _ in range(rounds):
        squared = m @ m.T
        m = a * m + (b * squared + c * squared @ squared) @ m
    return m


class Muon(AdamW):
    """Muon for the matrices of the blocks, AdamW for all else: the definition of muon.Muon.

    AdamW sees numbers, each by itself. A matrix also has directions. In its gradients a few of them
    are far stronger than the others: what all tokens have in common drowns what one fact needs.
    Muon takes the running mean of the gradients, as Adam does, and moves the matrix by the same
    length in all directions. The demo reaches a loss with half the steps that AdamW takes.

    m is the mean. The update is made of (1 - momentum) g + momentum m, which looks one gradient
    ahead (Nesterov). It moves a vector of length 1 by up to 1. So that the numbers of the result
    change alike in every matrix, one that has more outputs than inputs moves sqrt(out / in) times
    as far. c_attn is three matrices side by side, and each is made orthogonal by itself.

    ratio: Muon's learning rate beside AdamW's. An embedding is a table of rows and no map from
    vectors to vectors, so it stays with AdamW, and so do biases and norms.
    """

    def __init__(self, params, ratio, momentum=0.95, **of_adamw):
        matrices = {name: p for name, p in params.items() if muon.is_block_matrix(name, p.shape)}
        others = {name: p for name, p in params.items() if name not in matrices}
        super().__init__(others, **of_adamw)
        self.params = params                    # all of them; m and v are those of the others
        self.ratio, self.momentum = ratio, momentum
        self.mean = {name: np.zeros_like(p) for name, p in matrices.items()}

    def step(self, grads, lr, scale=1.0):
        """One update of all parameters, in place."""
        super().step(grads, lr, scale)
        rate = self.ratio * lr
        for name, mean in self.mean.items():
            p = self.params[name]
            g = scale * grads[name]
            mean += (1.0 - self.momentum) * (g - mean)
            ahead = (1.0 - self.momentum) * g + self.momentum * mean
            p -= rate * self.weight_decay * p
            for part, direction in zip(muon.parts_of(name, p), muon.parts_of(name, ahead)):
                n_in, n_out = part.shape
                part -= rate * math.sqrt(max(1.0, n_out / n_in)) * orthogonal(direction)


MOST_SKIPPED = 10               # steps in a row that may be skipped before a run gives up


def update(optimizer, grads, loss, step, recipe, parts=zero.EVERYTHING):
    """Add up the gradients of all ranks, clip them and take a step.

    parts: the rows of each array that this rank updates. The optimizer has the means of these.
    Returns (norm before clipping, learning rate, None or the reason why the step was skipped).
    """
    parts.add_up(grads)
    norm = grad_norm(parts.own(grads), parts.here)
    scale = clip_scale(norm, recipe.clip)
    lr = learning_rate(step, recipe)
    reason = count_if_skipped(optimizer, loss, norm, step, recipe)
    if not reason:
        optimizer.step(parts.updated(grads), lr, scale)
        parts.spread()                                      # to the other ranks
    return norm, lr, reason


def update_on_gpu(work, optimizer, step, recipe):
    """The same on a GPU. Returns (loss, norm, learning rate, None or the reason for skipping it).

    work.update() clips, takes the step and waits for it. If the loss or the norm is not finite, the
    GPU leaves the weights as they are, and the step is only counted here.
    """
    lr = learning_rate(step, recipe)
    loss, norm = work.update(lr, recipe.clip)
    return loss, norm, lr, count_if_skipped(optimizer, loss, norm, step, recipe)


def count_if_skipped(optimizer, loss, norm, step, recipe):
    """Count and report a step that must be skipped. Returns the reason, or None if it is sound.

    One gradient that is not finite would spread to every weight. optimizer.skipped counts the steps
    skipped in a row. ValueError if they are too many.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        optimizer.skipped = 0
        return None
    reason = f"loss {loss}, gradient norm {norm}"
    optimizer.skipped += 1
    progress.end()
    print(f"step {step + 1}: skipped, {reason}", file=sys.stderr)
    if optimizer.skipped == MOST_SKIPPED:
        raise ValueError(f"step {step + 1}: {MOST_SKIPPED} steps in a row were skipped, the last "
                         f"with {reason}; lower --lr (now {recipe.lr})")
    return reason


# --------------------------------------------------------------------------- what is measured
# A loss of L nats a token is L / ln 2 bits a token. A tokenizer with longer tokens has a higher
# loss for the same text, so models are compared by bits a byte:
#
#     bits a byte = nats a token / (ln 2 * bytes a token)
#
# A token of GPT-2 stands for 4.38 bytes of English on average. The 3.28 nats that its smallest
# model reaches on FineWeb are then 3.28 / (0.693 * 4.38) = 1.08 bits a byte: with the model's
# predictions, text could be stored in 1.08 / 8 = 14 % of its bytes.

def log_entry(step, recipe, loss, norm, lr, reason, dt_s, gpu):
    """{name: value} of one step for log.jsonl. reason: why it was skipped, or None."""
    tokens_per_step = recipe.batch * recipe.model.n_positions
    tokens_per_s = tokens_per_step / dt_s
    entry = {
        "step": step + 1,
        "tokens": (step + 1) * tokens_per_step,         # read so far
        "loss_nats": round(loss, 6),
        "lr": lr,
        "grad_norm": round(norm, 6),                    # before clipping
        "dt_s": round(dt_s, 4),
        "tokens_per_s": round(tokens_per_s),
        # Model FLOPs utilisation: the share of the GPU's peak; None on a CPU.
        "mfu": planning.utilisation(recipe.model, tokens_per_s, gpu),
    }
    if reason:
        entry.update(skipped=reason, loss_nats=None, grad_norm=None)
    return entry


def validate(work, recipe, tokenizer, val_shards, micro_batch, engine):
    """{name: value} of the loss on text that is never trained on, for log.jsonl."""
    at_once = min(32, micro_batch)          # fits into the memory that training has
    nats, bits = evaluate.validation_loss(
        work.params, recipe.model, tokenizer, val_shards, at_once, work.arena, engine, ranks.here()
    )
    if not math.isfinite(nats):
        raise ValueError(f"validation loss {nats}; lower --lr (now {recipe.lr})")
    return {"val_loss_nats": nats, "val_bits_per_byte": bits}


# -------------------------------------------------------------------------------------- checkpoint
# A killed run ends with the same bits, because a checkpoint holds all that later steps depend on:
#
#     weights             and the means of each: AdamW's m and v, or Muon's
#     updates made        the t of the bias correction
#     skipped in a row    otherwise each kill would grant a broken run ten more steps
#     steps done          rows and learning rate follow from (seed, step): there is no state of a
#                         random generator and no position in the data to be saved
#     identity            settings, schedule, seed, fingerprints of the data and of the first
#                         weights; micro-batch, threads and ranks, which decide the order of sums
#                         and so their last bits
# A run with another identity does not go on from the checkpoint (model/resume.py), but one with
# another number of ranks does: its sums are then rounded otherwise.

def settings(recipe):
    """The settings of a recipe that decide the weights, as one flat dict, for a run's identity.

    The schedule is part of it, as a fingerprint of its rates: learning_rate() may be edited, and a
    run must not go on with another one. How often to validate and save decides nothing.
    """
    flat = asdict(recipe)
    sizes = flat.pop("model", {})           # the recipes of align.py have none
    flat.update(sizes)
    for name in ("eval_every", "save_every"):
        flat.pop(name, None)
    rates = [learning_rate(step, recipe) for step in range(recipe.steps)]
    flat["schedule"] = resume.fingerprint([np.array(rates, np.float32)])
    return flat


def identity_of(recipe, tokenizer, train_shards, seed, align_documents, start, gpu):
    """{name: value} of all that decides what a run computes. planning.plan_run adds the micro-batch
    and the number of threads."""
    identity = settings(recipe)
    identity["seed"] = seed
    identity["tokens"] = resume.fingerprint(train_shards)
    identity["tokenizer"] = tokenizer.fingerprint if tokenizer else None
    identity["align_documents"] = align_documents
    identity["start"] = resume.fingerprint(start.values()) if start else None
    if gpu:
        identity["device"] = f"{gpu.name}, {'bf16' if gpu.bf16 else 'float32'}"
    return identity


# ---------------------------------------------------------------------------------------- the loop

def train(recipe, tokenizer, train_shards, val_shards, folder, seed=0, on_mismatch="error",
          micro_batch=None, recompute=False, budget=None, start=None, align_documents=False,
          gpu=None):
    """Run a recipe to its end, or on from where an earlier call was killed.

    start: parameters to begin with instead of fresh ones. micro_batch, recompute and budget (bytes)
    are those of planning.fit_batch. gpu: what device.connect() gave, to train there.
    Returns (params, the last entry of the log). Every rank of a run calls it; rank 0 writes.
    """
    here = ranks.here()
    cfg, folder = recipe.model, Path(folder)
    document_start = corpus.start_token(tokenizer) if align_documents else None
    windows = Windows(train_shards, cfg.n_positions, seed, document_start)
    evaluate.validation_rows(val_shards, cfg.n_positions)   # fails now if there are too few tokens
    identity = identity_of(recipe, tokenizer, train_shards, seed, align_documents, start, gpu)
    micro_batch, recompute = planning.plan_run(         # adds to the identity
        recipe, folder, identity, micro_batch, recompute, budget, gpu, here)
    params = start or families.of(cfg).init(cfg, seed)
    # The classes above, made fast. With a GPU they only hold t and the means, for checkpoints.
    parts = zero.Parts(params, here, whole_matrices=recipe.muon > 0)
    optimizer = muon.optimizer(parts.updated(params), recipe)
    # begin() fills params and optimizer from a checkpoint, if there is one, after stage.done steps.
    # stage.log.write() adds a line to log.jsonl, stage.save_checkpoint() writes what is listed
    # above, and stage.finish() writes the model.
    with resume.begin(
        folder, params, optimizer, cfg, tokenizer, identity, on_mismatch, parts
    ) as stage:
        report.print_beginning(recipe, windows, stage.place, stage.done, micro_batch, recompute)
        work = parallel.for_training(params, optimizer, parts, cfg, micro_batch, recompute, gpu)
        engine = device if gpu else fast
        entry, started = {}, time.perf_counter()
        for step in range(stage.done, recipe.steps):
            step_beginning = time.perf_counter()
            rows = windows.rows(step * recipe.batch, recipe.batch)
            loss = add_gradients(work, rows, micro_batch, here)
            if gpu:
                loss, norm, lr, reason = update_on_gpu(work, optimizer, step, recipe)
            else:
                norm, lr, reason = update(optimizer, work.sum, loss, step, recipe, parts)
            dt_s = time.perf_counter() - step_beginning
            entry = log_entry(step, recipe, loss, norm, lr, reason, dt_s, gpu)
            n_done = step + 1
            last = n_done == recipe.steps
            if last or n_done % recipe.eval_every == 0:
                entry.update(validate(work, recipe, tokenizer, val_shards, micro_batch, engine))
                report.print_validation(entry, work.params, cfg, tokenizer, seed + step, engine)
            stage.log.write(**entry)
            if last or n_done % recipe.save_every == 0:
                if gpu:
                    work.download()
                stage.save_checkpoint(params, optimizer, n_done)
            seconds_a_step = (time.perf_counter() - started) / (n_done - stage.done)
            report.print_progress(entry, recipe, seconds_a_step * (recipe.steps - n_done))
        progress.end()
        work.close()
        if not entry:                                       # an earlier call has done all steps
            entry["tokens"] = stage.done * recipe.batch * cfg.n_positions
            entry.update(validate(work, recipe, tokenizer, val_shards, micro_batch, engine))
        stage.finish(params, cfg, gpt.save)
        return params, entry


# ------------------------------------------------------------------------------------ command line

def main(argv=None):
    """Train a model as the command line says, and print how good it is."""
    args = options.parse_args(argv, PRESETS)
    runs.start_clock()
    recipe = options.recipe_of(args, PRESETS)
    if args.check:
        return examples.check(sys.modules[__name__], recipe)
    with joining.joined(args.ranks) as here:
        return pretrain(args, recipe, here)


def pretrain(args, recipe, here):
    """Train as the command line says. Every rank does; only rank 0 is heard."""
    gpu = device.chosen(args)
    tokenizer, train_shards, val_shards = corpus.load_data(
        args.run, args.data, args.tokenizer, args.raw
    )
    start, cfg = None, recipe.model
    if args.init:
        start, cfg = gpt.load(args.init)
        if tokenizer and tokenizer.n_vocab > cfg.vocab_size:
            raise ValueError(f"{args.init}: knows {cfg.vocab_size} tokens, the tokenizer has "
                             f"{tokenizer.n_vocab}")
    elif tokenizer:
        cfg = replace(cfg, vocab_size=tokenizer.n_vocab)
    recipe = replace(recipe, model=cfg)
    n_tokens = tokenizer.n_vocab if tokenizer else cfg.vocab_size   # a model may know more
    corpus.check_shards([*train_shards, *val_shards], n_tokens, args.data)
    budget = 1e9 * args.memory_gb if args.memory_gb else None
    args.run.mkdir(parents=True, exist_ok=True)
    _, last = train(
        recipe,
        tokenizer,
        train_shards,
        val_shards,
        args.run / "base",
        args.seed,
        args.on_mismatch,
        args.micro_batch,
        args.recompute,
        budget,
        start,
        args.align_documents,
        gpu,
    )
    report.print_ranks()
    if here.rank == 0:
        report.print_result(last, recipe, tokenizer, train_shards, val_shards)
    return 0


if __name__ == "__main__":
    command.run(main)
