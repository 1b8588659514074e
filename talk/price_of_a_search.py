"""price_of_a_search.py: reinforced at a price of a search, a model searches only where it must.

Searching costs time, and somebody pays for it. The model of talk/searching.py is reinforced: a
right answer is worth 1, and for a name of no page that is "I do not know."; a search costs a
little. The control pays nothing for it. Half of the questions are about well-known names that its
lessons asked about, where a search is not needed. Names to learn from and names to judge by have
none in common.

Refuted if the model that pays searches as often for what it knows as the one that does not, or if
it no longer searches for what it does not know.

    python -m talk.price_of_a_search
"""

import itertools

from talk import plots, results         # before numpy
from talk.experiment import load, reinforce, stage, write
from talk.searching import GROUPS, TICKS, examine, honest, taught, tasks_of

from chat import grading
from run import command
from web import toyworld

STAGES = ("sft",)
AFTER = ("searching",)                  # which makes the model that it begins with
SECONDS = 125
STEPS = 40
PRICES = {"free": 0.0, "at a price": 0.2}


def reward_at(price):
    """The reward of a rollout: 1 for a right answer, less the price of a search."""
    def reward(rollout):
        return [grading.is_correct(task, text) - price * (0 in reply.sampled)
                for task, text, reply in zip(rollout.tasks, rollout.texts, rollout.replies)]

    reward.__name__ = f"right_less_{price}_a_search"
    return reward


def balanced(tasks, rng):
    """Tasks, half of them about names that lessons asked about; some come again.

    Of the other half each kind of name, by its pages, has the same number.
    """
    asked, others = [task for task in tasks if task["asked"]], {}
    for task in tasks:
        if not task["asked"]:
            others.setdefault(min(task["exposure"], 10), []).append(task)
    most = max(map(len, others.values()))
    found = list(itertools.islice(itertools.cycle(asked), most * len(others)))
    for kind in others.values():
        found += itertools.islice(itertools.cycle(kind), most)
    rng.shuffle(found)
    return found


def experiment(run, seed):
    """Reinforce the model that may search, with a price of a search and without."""
    found = examine(run, taught(run, seed), "before")
    questions = balanced(honest(run, "probe_train"), toyworld.stream(seed, "prices"))
    path = write(run, "price_of_a_search/questions", seed, questions)
    held_out = write(run, "price_of_a_search/held_out", seed, tasks_of(run, "20 pages"))
    start = stage("searching/taught", seed)
    for when, price in PRICES.items():
        name = f"price_of_a_search/{when.split()[-1]}"
        reinforce(run, name, reward_at(price), seed, start, path, held_out, steps=STEPS, lr=3e-4,
                  prompts=32, group=8)
        found |= examine(run, load(run, name, seed), when)
    return found


def plot(figure, found):
    """How often each model searches, and how often it is right, by pages."""
    all_axes = figure.subplots(1, 2, sharey=True)
    for axes, what in zip(all_axes, ("searched", "right")):
        for i, when in enumerate(("before", *PRICES)):
            labels = [f"{when}: {what} of {name}" for name in GROUPS]
            plots.curve(axes, found, labels, range(len(GROUPS)), when, i, 100)
        axes.set_xticks(range(len(GROUPS)), TICKS)
        axes.set(xlabel="pages; asked: of ten or more", ylabel=f"{what} (%)", ylim=(-2, 102))
    all_axes[0].legend(loc="lower left")
    free, paid = (plots.mean(found, f"{when}: searched of 10 pages or more, asked")
                  for when in PRICES)
    plots.title(figure, f"Well-known names are searched for in {paid:.0%} at a price, {free:.0%} "
                        "without")


if __name__ == "__main__":
    command.run(results.main)
