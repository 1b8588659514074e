"""hallucination.py: a model that was trained to answer makes up what it does not know.

Every question of its training had an answer in a sure voice, so it answers everything. The remedy
is to ask the model what it knows, and to train it again with refusals for what it does not know.
Then it should refuse names that were not in this training, too. The control is trained in as many
steps with as many refusals, of questions drawn by lot.

Refuted if wrong answers about unknown names stay, if it refuses what it knows, or if refusals drawn
by lot distinguish names that it has read from others as well.

    python -m talk.hallucination
"""

import textwrap
from dataclasses import replace

from talk import plots, results         # before numpy
from talk.experiment import BATCH, stage

import sample
from chat import chats, options, probe
from run import command

STAGES = ("base", "sft")
SECONDS = 235
KNOWN, OTHER, NONE = "10 pages or more, asked before", "10 pages or more", "no page"
STEPS = 1000                            # of each way
WAYS = {"taught by what it knows": False, "taught at random": True}     # whether it is the control
LABELS = ("wrong of no page", "refused of no page", "refused of known",
          "refused of read but never asked")


def wrong(test, kind):
    """The share of wrong answers to questions of a kind."""
    return test[kind][1] / sum(test[kind])


def refused(test, kind):
    """The share of refusals of questions of a kind."""
    return test[kind][2] / sum(test[kind])


def numbers_of(name, probed):
    """What one way of teaching did, from the tests before and after."""
    after, free = probed.after, probed.free
    return {
        f"{name}: wrong of no page": wrong(after, NONE),
        f"{name}: refused of no page": refused(after, NONE),
        f"{name}: refused of known": refused(after, KNOWN),
        f"{name}: refused of read but never asked": refused(after, OTHER),
        f"{name}: refused of no page less those, at temperature 1":
            refused(free, NONE) - refused(free, OTHER),
    }


def experiment(run, seed):
    """Ask what the assistant knows, then train with refusals by knowledge, and by lot."""
    tasks = chats.tasks(run / "tasks" / "probe_train.jsonl")
    asked = probe.ask_often(sample.load_model(run / "sft"), tasks, seed=seed)
    recipe, found = replace(options.SFT, steps=STEPS, batch=BATCH), {}
    for name, control in WAYS.items():
        out = stage("hallucination/" + ("control" if control else "honest"), seed)
        probed = probe.probe(run, recipe, seed, control, "restart", asked, out)
        counts = ", ".join(f"{n:,} {what}" for what, n in probed.counts.items())
        print(f"   {name}: {counts}")
        print(textwrap.indent(probe.table(probed), "   "))
        found["before: wrong of no page"] = wrong(probed.before, NONE)
        found |= numbers_of(name, probed)
    return found


def plot(figure, found):
    """Wrong answers and refusals, taught by knowledge and at random."""
    axes = figure.subplots()
    series = {name: [f"{name}: {label}" for label in LABELS] for name in WAYS}
    groups = ["wrong about names never read", "refused: never read", "refused: asked in training",
              "refused: read, never asked about"]
    plots.bars(axes, found, series, groups)
    axes.set_ylabel("questions (%)")
    before = 100 * plots.mean(found, "before: wrong of no page")
    after = 100 * plots.mean(found, "taught by what it knows: wrong of no page")
    plots.title(figure, f"Made-up answers about names never read fall from {before:.0f} to "
                        f"{after:.0f} %")


if __name__ == "__main__":
    command.run(results.main)
