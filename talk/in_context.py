"""in_context.py: a base model learns from the examples in front of a question, without training.

Show a large base model some lines of a list, and it goes on with the list: nobody changed a weight,
the examples alone told it what to do. A model can do so if pages paid it for looking back. Here it
reads pages in invented tongues, a new one each: drills, word lists, and exercises that apply a rule
line by line. It is asked about words and rules that were kept for testing.

Refuted if accuracy does not rise with the number of examples, or if a model that read as much of
the old pages does as well.

    python -m talk.in_context
"""

import textwrap
from dataclasses import replace

from talk import plots, results         # before numpy
from talk.experiment import continuations, load, stage, write
import align
import numpy as np

from chat import lessons, options, tuning
import sample
from run import command
from tokens.shards import read_documents
from web import toybooks, toyworld

STAGES = ("base",)
SECONDS = 230                           # half of it for the control
EXAMPLES = [0, 1, 2, 4, 8]
EACH = 60                               # questions for each number of examples
MODELS = {"base": "base", "control": "after more of the old pages", "books": "after the exercises"}
TASKS = {
    "look up": "looks up words in the list above",
    "ending": "adds the ending to words",
    "reverse": "reverses words",
    "new rules": "applies rules of no exercise",
}
RULES = {
    "ending": [toybooks.Rule("as it is", "ending")],        # none of those on the pages
    "reverse": [toybooks.Rule("reversed", "nothing")],
    "new rules": toybooks.HELD_OUT_RULES,
}


def ordinary(run, texts, rng):
    """As many pages of the run as there are texts, each cut to as many tokens as one of them."""
    pages = []
    for path in sorted((run / "docs").glob("*.jsonl.gz")):
        pages += [text for side, text in read_documents(path) if side == "train"]
    return toybooks.cut_alike(rng, pages, texts, sample.load_model(run / "base")[2])


def read(run, name, pages, seed, start, batch, min_lr):
    """The stage start, after it read pages and, in each step, a window of the old text.

    It is experiment.study, but only what can be known counts. With every token counting, no head
    had formed after 350 steps.
    """
    recipe = replace(options.SFT, steps=len(pages) // batch, lr=2e-3, min_lr=min_lr, warmup=20,
                     batch=batch, replay=1, replay_weight=0.3, save_every=10_000)
    model = params, cfg, tokenizer = tuning.load_stage(run, start)
    path = write(run, name, seed, [{"page": page} for page in pages])
    batches = lessons.Batches(toybooks.rows_of(pages, tokenizer), batch, seed)
    old = tuning.replay_text(run, recipe, tokenizer, cfg, seed)
    identity = tuning.identity("read", seed, params, [path], old)
    with tuning.begun(run / stage(name, seed), model, recipe, identity, "restart") as learner:
        for step in learner.steps():
            loss, _ = align.add_conversations(learner, batches.at(step), cfg.n_positions)
            align.add_replay(learner, old, step, recipe)
            learner.update(loss, {})
    return load(run, name, seed)


def models(run, seed):
    """{name: model} of base, base after the exercises, and base after as many of the old pages."""
    rng, found = toyworld.stream(seed, "old pages"), {"base": sample.load_model(run / "base")}
    for name in ("control", "books"):
        start = "base"
        for part, pages, batch, min_lr in toybooks.books(seed):
            if name == "control":
                texts = ordinary(run, [toybooks.text_of(page) for page in pages], rng)
                pages = [[(text, True)] for text in texts]
            out = f"in_context/{name}_{part}"
            found[name] = read(run, out, pages, seed, start, batch, min_lr)
            start = stage(out, seed)
    return found


def question(rng, task, k):
    """(text, answer): an exercise or a word list with k examples, up to where the answer stands."""
    if task == "look up":
        entries = toybooks.translations(rng, k + 1, held_out=True)
        asked = rng.choice(entries[:k] or entries)
    else:
        entries = toybooks.examples(rng, rng.choice(RULES[task]), k + 1, held_out=True)
        asked = entries[-1]
    lines = [f"{given}{answer}\n" for given, answer in entries[:k]]
    return "".join([*lines, asked[0]]), asked[1]


def accuracy(model, task, k, rng):
    """The share of questions with k examples that a model continues with the right answer."""
    asked = [question(rng, task, k) for _ in range(EACH)]
    texts = continuations(model, [text for text, _ in asked], 8, 0.0)
    said = [text.split("\n")[0] for text in texts]
    return float(np.mean([one == answer for one, (_, answer) in zip(said, asked)]))


def experiment(run, seed):
    """Ask three models all kinds of questions, with more and more examples in front."""
    found = {}
    for name, model in models(run, seed).items():
        heading = f"{MODELS[name]}; examples in front:"
        print(f"   {heading:45}" + "".join(f"{k:5}" for k in EXAMPLES))
        for task, said in TASKS.items():
            rng = toyworld.stream(seed, "questions", task)
            curve = [accuracy(model, task, k, rng) for k in EXAMPLES]
            found[f"{name}, {task}"] = curve
            print(f"      {said:42}" + "".join(f"{100 * x:4.0f}%" for x in curve))
    return found


def plot(figure, found):
    """Accuracy by examples: a drawing for each task."""
    all_axes = figure.subplots(1, len(TASKS), sharey=True)
    for axes, (task, said) in zip(all_axes, TASKS.items()):
        for i, (name, model) in enumerate(MODELS.items()):
            plots.curve(axes, found, f"{name}, {task}", range(len(EXAMPLES)), model, i, 100)
        axes.set_xticks(range(len(EXAMPLES)), EXAMPLES)
        axes.set_xlabel("examples in front")
        axes.set_title(textwrap.fill(said, 20), fontsize=8)
    all_axes[0].set_ylabel("right answers (%)")
    all_axes[0].set_ylim(-4, 104)
    all_axes[-1].legend(frameon=False, fontsize=7, loc="upper right")
    after, control = (100 * plots.mean(found, f"{name}, look up")[EXAMPLES.index(4)]
                      for name in ("books", "control"))
    plots.title(figure, f"After exercises in other tongues base finds a new word in a list of four "
                        f"in {after:.0f} % of cases, after ordinary pages in {control:.0f} %")


if __name__ == "__main__":
    command.run(results.main)
