"""assistant.py: examples make an assistant of a base model, and right rewards teach it more.

After fine-tuning on conversations, a model answers questions in words that it was never shown, and
it ends its replies. Rewards for right answers teach it more; random rewards, in as many steps,
teach it nothing. From comparisons of replies a reward model learns what people prefer.

Refuted by under nine in ten well-known facts, a reply without an end, under 95 % of wheels after
reinforcement, or a control that gains.

    python -m talk.assistant
"""

from dataclasses import replace

from talk import plots, results         # before numpy
from talk.experiment import share, stage
import align
import numpy as np

import sample
from chat import arena, options
from run import command

STAGES = ("base", "sft", "rl", "rl_random")
SECONDS = 40
TAUGHT = {"sft": "examples alone", "rl": "reinforced", "rl_random": "with random rewards"}


def evaluated(run, stage):
    """{kind of question: (right, asked, ended)} of a stage's model on the held-out tasks."""
    return arena.evaluate(*sample.load_model(run / stage), run)


def comparisons(run, seed):
    """(held-out pairs of replies that a reward model orders as people do, all such pairs)."""
    recipe = replace(options.REWARD, steps=250, batch=8, save_every=250)
    out = stage("assistant/judge", seed)
    _, in_order, pairs = align.reward(run, recipe, seed, "restart", out=out)
    return in_order, pairs


def experiment(run, seed):
    """Ask the models what conversations did not ask, and train a reward model."""
    counts, found = evaluated(run, "sft"), {}
    known = [row for kind, row in counts.items() if kind.startswith("facts on 10+ pages")]
    n_right, n_asked, _ = np.sum(known, 0)
    found["facts"] = share("facts on ten pages or more, in other words:", n_right, n_asked)
    _, n_asked, n_ended = np.sum(list(counts.values()), 0)
    found["replies that end"] = share("replies that end:", n_ended, n_asked)
    for name, taught in TAUGHT.items():
        n_right, n_asked, _ = evaluated(run, name)["wheel"]
        found[f"the wheel, {name}"] = share(f"the wheel, {taught}:", n_right, n_asked)
    in_order, pairs = comparisons(run, seed)
    found["comparisons in order"] = share("held-out comparisons in order:", in_order, pairs)
    return found


def plot(figure, found):
    """What each way of teaching reaches."""
    axes = figure.subplots()
    wheels = [f"the wheel, {name}" for name in TAUGHT]
    labels = ["facts", "replies that end", *wheels, "comparisons in order"]
    groups = ["known facts", "replies that end", *(f"wheel: {how}" for how in TAUGHT.values()),
              "comparisons in order"]
    plots.bars(axes, found, {"": labels}, groups)
    axes.set_ylabel("right, or as it should be (%)")
    before, after, control = (100 * plots.mean(found, label) for label in wheels)
    plots.title(figure, f"Reinforcement takes the wheel from {before:.0f} to {after:.0f} % right, "
                        f"random rewards to {control:.0f} %")


if __name__ == "__main__":
    command.run(results.main)
