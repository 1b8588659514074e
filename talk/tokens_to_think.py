"""tokens_to_think.py: a model needs tokens to think; a task of many steps needs many of them.

The work for one token is the same for each token, and it is small. So a model cannot do many steps
of a task in one token, but one step in each. Three models learn the same rounds of the wheel in as
many steps: one answers at once, one writes the steps, and one writes as many words that say
nothing.

Refuted if short replies, or replies as long but without steps, do as well.

    python -m talk.tokens_to_think
"""

from talk import plots, results         # before numpy
from talk.experiment import teach
import numpy as np

from chat import arena
from run import command
from web import toylessons, toywords, toyworld

STAGES = ("base",)
SECONDS = 100
THROWS = range(1, 9)


def rounds(rng, n, held_out):
    """n rounds of one to eight throws; of those with three or more, only held-out ones or none."""
    found = []
    while len(found) < n:
        thrown = [rng.randint(1, 6) for _ in range(rng.randint(1, 8))]
        if len(thrown) < 3 or toyworld.is_held_out(*thrown) == held_out:    # few short ones exist
            found.append(thrown)
    return found


def at_once(thrown):
    """The answer alone."""
    return toyworld.wheel_answer(thrown, False)


def empty_words(thrown):
    """An answer as long as that with steps; the words say nothing."""
    words = ", ".join(["so so"] * len(thrown))
    return f"Step by step: {words}. {at_once(thrown)}"


def step_by_step(thrown):
    """The answer behind the steps that lead to it."""
    return toyworld.wheel_answer(thrown, True)


WAYS = {"at once": at_once, "as long, no steps": empty_words, "step by step": step_by_step}


def task_of(thrown):
    """A round as a task."""
    stop = toywords.NUMBERS[sum(thrown) % 10]
    return {"question": toyworld.wheel_question(thrown), "answer": stop}


def experiment(run, seed):
    """Teach three models, and ask each of them for rounds of every length."""
    rng, found = toyworld.stream(seed, "think"), {}
    lessons, tests = rounds(rng, 6000, False), rounds(rng, 800, True)
    tasks = [task_of(thrown) for thrown in tests]
    n_throws = np.array([len(thrown) for thrown in tests])
    print("   throws to add     " + "".join(f"{n:6}" for n in THROWS) + "   tokens")
    for name, answer in WAYS.items():
        rows = []
        for thrown in lessons:
            rows.append(toylessons.chat(toyworld.wheel_question(thrown), answer(thrown)))
        model = teach(run, f"tokens_to_think/{answer.__name__}", rows, 400, seed, batch=32)
        verdicts = arena.ask(*model, tasks, 0.0, 0, 80)[1]
        ok = np.array([verdict.correct for verdict in verdicts])
        by_throws = [float(ok[n_throws == n].mean()) for n in THROWS]
        length = np.mean([verdict.n_tokens for verdict in verdicts])
        print(f"   {name:18}" + "".join(f"{x:6.0%}" for x in by_throws) + f"{length:9.1f}")
        found |= {
            f"{name}, 2 throws": by_throws[1],
            f"{name}, 8 throws": by_throws[7],
            f"{name}, by throws": by_throws,
        }
    return found


def plot(figure, found):
    """Right answers by throws, for each way to answer."""
    axes = figure.subplots()
    for which, name in enumerate(WAYS):
        plots.curve(axes, found, f"{name}, by throws", THROWS, name, which, 100)
    axes.axhline(10, color="0.5", linewidth=0.8)
    axes.text(1, 11, "a guess among ten", fontsize=8)
    axes.set_xlabel("throws to add up")
    axes.set_ylabel("right answers (%)")
    axes.set_ylim(0, 104)
    axes.legend()
    long, empty, short = (100 * plots.mean(found, f"{name}, 8 throws") for name in
                          ("step by step", "as long, no steps", "at once"))
    plots.title(figure, f"Eight throws: {long:.0f} % right step by step, {empty:.0f} % with as "
                        f"many empty words, {short:.0f} % at once")


if __name__ == "__main__":
    command.run(results.main)
