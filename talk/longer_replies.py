"""longer_replies.py: rewards for right answers make replies longer; nothing asks for length.

DeepSeek-R1's answers grew while it was reinforced, because long ones were right more often. Here
the models of the run's reinforcement are read: rl, rewarded for right answers, and its control,
rl_random, in as many steps. Theory: a model that learns only from its right replies multiplies the
odds of step by step by ten in a round, because one guess in ten is right.

Refuted if length does not grow with accuracy, or if it grows under random rewards as well.

    python -m talk.longer_replies
"""

from talk import plots, results         # before numpy
from talk.experiment import log_of
from run import command

STAGES = ("rl", "rl_random")
READS = ("rl/log.jsonl", "rl_random/log.jsonl")
SECONDS = 1
NAMES = {"rl": "rewarded for right answers", "rl_random": "random rewards"}
KEPT = ("length", "accuracy", "stepwise")


def expected(start, n):
    """The share of step by step in n rounds, if its odds grow tenfold in each."""
    shares = [start]
    for _ in range(n - 1):
        share = shares[-1]
        shares.append(share / (share + (1 - share) / 10))
    return shares


def show(name, log):
    """Print about seven rows of a log; each of them counts as a round of the theory."""
    print(f"   {name:10} step  reward  accuracy  length  step by step   theory")
    rows = log[::max(1, len(log) // 7)]
    first = log[0]["stepwise"]
    theory = expected(first, len(rows)) if name == "rl" else [first] * len(rows)
    for x, share in zip(rows, theory):
        print(f"   {'':10} {x['step']:4}  {x['reward']:6.2f}  {x['accuracy']:8.2f}  "
              f"{x['length']:6.1f}  {x['stepwise']:12.2f}   {share:6.2f}")


def experiment(run, seed):
    """Read what the run's reinforcement logged, with both rewards."""
    found = {}
    for name in STAGES:
        log = log_of(run / name)
        show(name, log)
        for what in ("length", "accuracy"):
            found[f"{name} {what}"] = log[-1][what] - log[0][what]
        for what in KEPT:
            found[f"{name}: {what}"] = [x[what] for x in log]
    return found


def plot(figure, found):
    """Length and accuracy along the steps of both models."""
    left, right = figure.subplots(1, 2)
    for which, (name, said) in enumerate(NAMES.items()):
        steps = range(1, len(found[0][f"{name}: length"]) + 1)
        plots.curve(left, found, f"{name}: length", steps, said, which)
        plots.curve(right, found, f"{name}: accuracy", steps, said, which, 100)
    left.set_ylabel("tokens a reply, mean")
    right.set_ylabel("right answers (%)")
    right.set_ylim(-2, 102)
    for axes in (left, right):
        axes.set_xlabel("step of reinforcement")
    left.legend()
    longer, control = (plots.mean(found, f"{name} length") for name in STAGES)
    plots.title(figure, f"Rewarded for right answers, replies grow by {longer:.0f} tokens; under "
                        f"random rewards by {control:.0f}")


if __name__ == "__main__":
    command.run(results.main)
