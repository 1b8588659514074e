"""knowledge_of_self.py: a model has no self; conversations or a system message give it a name.

Asked who it is, a base model goes on with the page. An assistant says what its training data says.
A model that learned to follow system messages takes its name from there, also a new one. The
control learned from the same conversations in as many steps, without the system messages.

Refuted if the base model names itself, or if a model that learned to follow system messages does
not take names from them that it never saw.

    python -m talk.knowledge_of_self
"""

from talk import plots, results         # before numpy
from talk.experiment import continuations, replies, share, teach, training_chats
import numpy as np

import sample
from run import command
from web import toylessons, toywords, toyworld

STAGES = ("base", "sft")
SECONDS = 40
OURS = "Longhand"
ASKED, HELD_OUT = (list(toywords.IDENTITY[0].questions), list(toywords.IDENTITY[0].held_out))
LABELS = {
    "base": "base model says Longhand",
    "data": "by data: sft says Longhand",
    "control": "not taught to follow: takes the name it is given",
    "follower": "taught to follow: takes a name it never saw",
    "plain": "and without a system message says Longhand",
}


def told(rng, n, questions):
    """(conversations in which a system message gives a new name, those names)."""
    taken = {entity["stem"] for entity in toyworld.entities(0)}
    rows, names = [], []
    for _ in range(n):
        name = toyworld.new_name(rng, "person", taken)[1]
        row = toylessons.chat(rng.choice(questions), f"I am {name}.")
        row["messages"].insert(0, {"role": "system", "content": f"You are {name}."})
        rows.append(row)
        names.append(name)
    return rows, names


def unled(rows):
    """The same questions without system messages, answered with our name."""
    return [toylessons.chat(row["messages"][1]["content"], f"I am {OURS}.") for row in rows]


def n_with(texts, wanted):
    """How many texts have the word that is wanted of each."""
    return sum(word in text for word, text in zip(wanted, texts))


def experiment(run, seed):
    """Teach one model to follow system messages, and a control; ask all models who they are."""
    rng = toyworld.stream(seed, "self")
    old = training_chats(run, "identity", "talk", "fact")
    some = [old[i] for i in np.random.default_rng(seed).permutation(len(old))[:1500]]
    led, _ = told(rng, 3000, ASKED)
    follower = teach(run, "knowledge_of_self/follower", led + some, 400, seed, "sft")
    control = teach(run, "knowledge_of_self/control", unled(led) + some, 400, seed, "sft")
    base, sft = (sample.load_model(run / stage) for stage in ("base", "sft"))
    rows, names = told(rng, 100, HELD_OUT)
    named = [row["messages"][:2] for row in rows]
    plain = [[{"role": "user", "content": question}] for question in HELD_OUT + ASKED]
    texts = continuations(base, [question + "\n" for question in HELD_OUT + ASKED], 24, 0.0)
    print(f"   base, asked {HELD_OUT[0]!r}: {' '.join(texts[0].split())!r}")
    ours = [OURS] * len(plain)
    n_right = {
        "base": (n_with(texts, ours), len(plain)),
        "data": (n_with(replies(sft, plain, 24), ours), len(plain)),
        "control": (n_with(replies(control, named, 24), names), len(named)),
        "follower": (n_with(replies(follower, named, 24), names), len(named)),
        "plain": (n_with(replies(follower, plain, 24), ours), len(plain)),
    }
    return {LABELS[what]: share(f"{LABELS[what]:49}", *n) for what, n in n_right.items()}


def plot(figure, found):
    """Which name each model says."""
    axes = figure.subplots()
    groups = ["base model: says Longhand", "assistant: says Longhand",
              "control, given a name: takes it", "follower, given a name: takes it",
              "follower, given none: says Longhand"]
    plots.bars(axes, found, {"": list(LABELS.values())}, groups)
    axes.set_ylabel("replies with the name (%)")
    given = 100 * plots.mean(found, LABELS["follower"])
    plots.title(figure, f"A base model has no name. Data give it one, and a system message gives "
                        f"it another: {given:.0f} % take a name they never saw")


if __name__ == "__main__":
    command.run(results.main)
