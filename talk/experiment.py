"""experiment.py: what the experiments of the talk have in common.

    teach, study, reinforce     make a small model for one experiment: by conversations, by
                                documents, by rewards
    right, replies, continuations
                                ask a model
    share                       counts, with an interval

A model for an experiment is a stage like those of the run, in RUN/talk/. "tools/head" with seed 0
lies in RUN/talk/tools/head-0, so the models of different seeds do not meet. The same stage with the
same settings, data and start is not made again.
"""

from dataclasses import replace

import align                            # before numpy
import numpy as np

import sample
from chat import arena, chats, generate, lessons, options, tuning
from run import disk
from web import toyweb

MEND = "python -m talk"                 # makes the models of the experiments
BATCH = 16                              # conversations of a step that teaches

# ------------------------------------------------------------------------------------------- counts


def share(label, right, n):
    """Print a share with its 95 % interval, and return it."""
    low, high = arena.wilson(right, n)
    print(f"   {label} {right / n:6.1%} ({low:.1%} to {high:.1%} of {n:,})")
    return float(right / n)


# ----------------------------------------------------------------------------- what a run has


def questions(run, exposure=10):
    """The held-out tasks about facts that stand on so many pages or more."""
    tasks = chats.tasks(run / "tasks" / "facts_test.jsonl")
    return [task for task in tasks if task.get("exposure", exposure) >= exposure]


def training_chats(run, *kinds):
    """The run's conversations of some kinds."""
    rows = [row for _, row in disk.read_jsonl(run / "chat" / "train.jsonl")]
    return [row for row in rows if row["kind"] in kinds]


def log_of(folder):
    """The rows of a stage's log."""
    return [row for _, row in disk.read_jsonl(folder / "log.jsonl")]


# -------------------------------------------------------------------------------- asking a model


def written(model, prompts, n_tokens, temperature, seed, stop, tools):
    """The Reply to each prompt, ids; many are written together."""
    found = []
    for i in range(0, len(prompts), 128):
        found += generate.generate(
            *model,
            prompts[i:i + 128],
            stop={stop},
            max_new_tokens=n_tokens,
            temperature=temperature,
            seed=seed,
            tools=tools,
        )
    return found


def replies(model, conversations, n_tokens=64, temperature=0.0, seed=0):
    """What a model replies to each conversation, a list of messages."""
    tokenizer = model[2]
    prompts = [sample.render_prompt(messages, tokenizer) for messages in conversations]
    stop = sample.special(tokenizer, "<|im_end|>")
    found = written(model, prompts, n_tokens, temperature, seed, stop, tools=True)
    return [sample.reply_text(reply.ids, tokenizer) for reply in found]


def continuations(model, texts, n_tokens, temperature, seed=0):
    """What a model writes after each text, as if it continued a document, up to its end."""
    tokenizer = model[2]
    end = tokenizer.eot_token
    prompts = [[end, *tokenizer.encode_ordinary(text)] for text in texts]
    found = []
    for reply in written(model, prompts, n_tokens, temperature, seed, end, tools=False):
        ids = [token for token in reply.ids if token != end]
        found.append(tokenizer.decode(ids))
    return found


def right(model, tasks, temperature=0.0, seed=0):
    """(tasks,) whether each task was answered rightly."""
    _, verdicts = arena.ask(*model, tasks, temperature, seed, max_tokens=80)
    return np.array([verdict.correct for verdict in verdicts])


def both_ways(label, model, tasks, seed):
    """Print and return a model's accuracy at temperature 1, and print the greedy one."""
    greedy = right(model, tasks)
    ok = right(model, tasks, 1.0, seed)
    return share(f"{label} greedy {greedy.mean():.1%}, at temperature 1", ok.sum(), len(ok))


# ------------------------------------------------------------------------------- making a model


def stage(name, seed):
    """The stage, as align.py's `out` and `start` name it, of an experiment's model."""
    return f"talk/{name}-{seed}"


def write(run, name, seed, rows):
    """Write rows beside the models of an experiment: RUN/talk/NAME-SEED.jsonl. Returns the path."""
    path = run / f"{stage(name, seed)}.jsonl"
    toyweb.write_jsonl(path, rows)
    return path


def load(run, name, seed):
    """(params, cfg, tokenizer) of an experiment's model."""
    return tuning.load_stage(run, stage(name, seed), mend=MEND)


def teach(run, name, rows, steps, seed, start="base", **settings):
    """A model for one experiment: the stage start, fine-tuned on conversations.

    name: EXPERIMENT/MODEL, such as "tools/head". settings: of the recipe, such as lr and batch.
    A step has BATCH conversations and no text that the base model read.
    """
    recipe = replace(
        options.SFT,
        steps=steps,
        lr=2e-3,
        warmup=10,
        batch=BATCH,
        replay=0,
        save_every=steps,
    )
    recipe = replace(recipe, **settings)
    path = write(run, name, seed, rows)
    align.sft(run, recipe, seed, "restart", [path], start, stage(name, seed))
    return load(run, name, seed)


def study(run, name, texts, steps, seed, start="base", **settings):
    """A model for one experiment: the stage start, which reads on: pre-training on more documents.

    A step reads `batch` windows of these texts (8) and `replay` windows of the run's own text (8);
    both kinds count the same. A text longer than a window is several of them. settings: of the
    recipe; the rate is constant and 0.0004 unless they say otherwise.
    """
    recipe = replace(
        options.SFT,
        steps=steps,
        lr=4e-4,
        min_lr=4e-4,
        warmup=10,
        batch=8,
        replay=8,
        save_every=steps,
    )
    recipe = replace(recipe, **settings)
    model = params, cfg, tokenizer = tuning.load_stage(run, start)
    path = write(run, name, seed, [{"text": text} for text in texts])
    rows = windows(texts, tokenizer, cfg.n_positions)
    batches = lessons.Batches(rows, recipe.batch, seed)
    old = tuning.replay_text(run, recipe, tokenizer, cfg, seed)
    identity = tuning.identity("study", seed, params, [path], old)
    with tuning.begun(run / stage(name, seed), model, recipe, identity, "restart") as learner:
        for step in learner.steps():
            loss, _ = align.add_conversations(learner, batches.at(step), cfg.n_positions)
            info = {"replay_loss_nats": align.add_replay(learner, old, step, recipe)}
            learner.update(loss, info)
    return load(run, name, seed)


def windows(texts, tokenizer, n_positions):
    """[(ids, mask)] of texts, cut into windows of at most n_positions + 1; every token counts."""
    found = []
    for text in texts:
        ids = [tokenizer.eot_token, *tokenizer.encode_ordinary(text), tokenizer.eot_token]
        for i in range(0, len(ids) - 1, n_positions):
            window = ids[i:i + n_positions + 1]     # its last token is the first of the next
            found.append((window, [1] * len(window)))
    return found


def reinforce(run, name, reward, seed, start, tasks=None, held_out=None, **settings):
    """Reinforce a stage, at a constant rate, for one experiment.

    reward, tasks, held_out: as for align.rl. settings: of the recipe; steps and lr are among them.
    Returns (what held-out tasks measure before, after, the rows of the log).
    """
    recipe = replace(
        options.RL,
        min_lr=settings["lr"],
        batch=0,
        save_every=settings["steps"],
    )
    recipe = replace(recipe, **settings)
    out = stage(name, seed)
    before, after = align.rl(
        run,
        recipe,
        reward,
        seed,
        "restart",
        tasks,
        held_out,
        out,
        start,
    )
    return before, after, log_of(run / out)
