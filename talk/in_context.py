"""in_context.py: a base model learns from the examples in front of a question, without training.

Show a large base model some lines of a list, and it goes on with the list: nobody changed a weight,
the examples alone told it what to do. A model can do so if pages paid it for looking back. Here it
reads pages in invented tongues, a new one each: drills, word lists, and exercises that apply a rule
line by line. It is asked about words and rules that were kept for testing.

Refuted if accuracy does not rise with the number of examples, or if a model that read as much of
the old pages does as well.

    python -m talk.in_context
"""

from talk import plots, results         # before numpy
from talk.experiment import continuations, stage, study
import numpy as np

import sample
from run import command
from tokens.shards import read_documents
from web import toybooks, toyworld

STAGES = ("base",)
SECONDS = 200                           # half of it for the control
EXAMPLES = [0, 1, 2, 4, 8]
EACH = 60                               # questions for each number of examples
MODELS = {"base": "base", "control": "after more of the old pages", "books": "after the exercises"}
TASKS = {
    "look up": "looks up new words in the list above",
    "rules": "applies rules of exercises to new words",
    "new rules": "applies rules of no exercise",
}


# ------------------------------------------------------------------------------- what is read


def ordinary(run, texts, rng):
    """As many pages of the run as there are texts, each cut to as many tokens as one of them."""
    tokenizer, pages, found = sample.load_model(run / "base")[2], [], []
    for path in sorted((run / "docs").glob("*.jsonl.gz")):
        for side, text in read_documents(path):
            if side == "train":
                pages.append(tokenizer.encode_ordinary(text))
    for text in texts:
        n = len(tokenizer.encode_ordinary(text))
        found.append(tokenizer.decode(rng.choice(pages)[:n]))
    return found


def models(run, seed):
    """{name: model} of base, base after the exercises, and base after as many of the old pages.

    First come drills alone: heads that look back form on these, and the others build on them.
    """
    rng, found = toyworld.stream(seed, "books"), {"base": sample.load_model(run / "base")}
    drills = [toybooks.drill(rng) for _ in range(9600)]
    kinds = (toybooks.drill, toybooks.word_list, toybooks.exercise)
    mixed = [rng.choice(kinds)(rng) for _ in range(7000)]
    for name in ("books", "control"):
        start = "base"
        for part, texts, batch, steps in (("first", drills, 20, 450), ("then", mixed, 10, 600)):
            pages = texts if name == "books" else ordinary(run, texts, rng)
            found[name] = study(run, f"in_context/{name}_{part}", pages, steps, seed, start,
                                batch=batch, replay=1, lr=2e-3, min_lr=2e-4, warmup=20)
            start = stage(f"in_context/{name}_{part}", seed)
    return {name: found[name] for name in MODELS}


# ------------------------------------------------------------------------------- what is asked


def question(rng, task, k):
    """(text, answer): an exercise or a word list with k examples, up to where the answer stands."""
    if task == "look up":
        entries = toybooks.translations(rng, k + 1, held_out=True)
        asked = rng.choice(entries[:k] or entries)
        noun, answer = asked.split(" ", 1)
        return ", ".join(["Word list:", *entries[:k], noun]).replace(":,", ":"), answer
    rules = toybooks.HELD_OUT_RULES
    if task == "rules":
        rules = [rule for rule in toybooks.RULES if rule not in rules]
    *before, last = toybooks.examples(rng, rng.choice(rules), k + 1, held_out=True)
    given, answer = last.split(": ")
    return f"Exercise: {', '.join([*before, given])}:", answer


def accuracy(model, task, k, rng):
    """The share of questions with k examples that a model continues with the right answer."""
    asked = [question(rng, task, k) for _ in range(EACH)]
    texts = continuations(model, [text for text, _ in asked], 8, 0.0)
    said = [text.split(",")[0].strip() for text in texts]
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
        axes.set_title(said, fontsize=8)
    all_axes[0].set_ylabel("right answers (%)")
    all_axes[0].set_ylim(-4, 104)
    all_axes[0].legend(frameon=False, fontsize=7)
    after, control = (100 * plots.mean(found, f"{name}, look up")[3] for name in MODELS
                      if name != "base")
    plots.title(figure, f"With four words in the list, {control:.0f} % ... {after:.0f} %")


if __name__ == "__main__":
    command.run(results.main)
