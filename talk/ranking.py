"""ranking.py: battles rank models: examples and right rewards improve a model, random ones do not.

No single question tells which of two models is better. So they answer the same questions against
each other, and one rating for each explains who won. It comes with an interval, because other
questions would give other ratings.

Refuted if intervals overlap where a model should be better, or do not overlap where rewards were
random.

    python -m talk.ranking
"""

import textwrap

from talk import past_the_teacher, plots, results       # before numpy
from talk.experiment import stage
import numpy as np

from chat import arena
from run import command
from web import toyworld

STAGES = ("base", "sft", "rl", "rl_random")
AFTER = ("past_the_teacher",)           # which makes two of the models
SECONDS = 10
TEACHER = {"imitation": "past_the_teacher/imitation", "rewarded": "past_the_teacher/rewarded"}
BETTER = [("sft", "base"), ("rl", "sft"), ("rl", "rl_random"), ("rewarded", "imitation")]
ALIKE = [("rl_random", "sft")]


def models(run, seed):
    """{name: folder} of the run's models, and of the two that imitated a teacher."""
    rng = toyworld.stream(seed, "teacher")
    lessons = [past_the_teacher.lesson(rng)[0] for _ in range(past_the_teacher.LESSONS)]
    past_the_teacher.imitate(run, seed, lessons)        # these are only made if they are missing
    past_the_teacher.reward(run, seed)
    found = {name: run / name for name in STAGES}
    return found | {name: run / stage(place, seed) for name, place in TEACHER.items()}


def fight(run, seed):
    """{name: Rated} of all models, the best first."""
    folders = models(run, seed)
    names = {path.relative_to(run).as_posix(): name for name, path in folders.items()}
    rated = arena.fight(run, list(folders.values()), seed)
    rated = [r._replace(name=names.get(r.name, r.name)) for r in rated]
    print(textwrap.indent(arena.table(rated), "   "))
    return {r.name: r for r in rated}


def experiment(run, seed):
    """Let the models fight, and compare the intervals of their ratings."""
    rated = fight(run, seed)
    found = {name: rated[name].rating for name in [*STAGES, *TEACHER]}
    for better, worse in BETTER:
        certain = rated[better].low > rated[worse].high
        print(f"   {better} is {'' if certain else 'not certainly '}above {worse}")
        found[f"{better} is certainly above {worse}"] = float(certain)
    for one, other in ALIKE:
        overlap = rated[one].low <= rated[other].high and rated[other].low <= rated[one].high
        print(f"   {one} {'does not surely differ' if overlap else 'differs'} from {other}")
        found[f"{one} surely differs from {other}"] = float(not overlap)
    return found


def plot(figure, found):
    """The ratings, the best model on top."""
    axes = figure.subplots()
    names = sorted([*STAGES, *TEACHER], key=lambda name: plots.mean(found, name))
    ratings = np.array([plots.mean(found, name) for name in names])
    apart = np.array([plots.spread(found, name) for name in names])
    axes.errorbar(ratings, range(len(names)), xerr=apart if len(found) > 1 else None, fmt="o",
                  color="black", markerfacecolor="white", capsize=3)
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="x", color="0.9")
    axes.set_xlabel("rating (points; the mean of all is 1000)")
    plots.title(figure, f"{names[-1]} wins most battles; {names[0]} loses most")


if __name__ == "__main__":
    command.run(results.main)
