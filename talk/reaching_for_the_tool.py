"""reaching_for_the_tool.py: rewarded for right results, a model learns to use the calculator.

Nobody has to tell the model when a tool helps. It has seen sums mostly without the calculator, in
one answer of five with it. Answers with it are right more often, so reinforcement makes them
likelier. The control gets random rewards in as many steps.

Refuted if the share of calls does not rise, if accuracy does not rise with it, or if both rise as
much under random rewards.

    python -m talk.reaching_for_the_tool
"""

from talk import plots, results         # before numpy
from talk.experiment import reinforce, stage, teach, training_chats, write
from talk.tools import without_calls
from run import command
from web import toyworld

STAGES = ("sft",)
SECONDS = 80
STEPS = 25
WITH_CALL = 0.2                         # share of the sums that are shown with the calculator
REWARDS = {"answer": "for right results", "random": "random"}


def teach_mostly_without(run, seed, rows):
    """Teach the assistant its sums once more, most of them without the calculator."""
    rng, shown = toyworld.stream(seed, "reach"), []
    for row, plain in zip(rows, without_calls(rows)):
        shown.append(row if rng.random() < WITH_CALL else plain)
    teach(run, "reaching_for_the_tool/start", shown, 160, seed, "sft", lr=3e-4)
    return stage("reaching_for_the_tool/start", seed)


def tasks_of(rows):
    """Sums as tasks; the answer is what the calculator gave."""
    tasks = []
    for row in rows:
        question, answer = (message["content"] for message in row["messages"])
        tasks.append({"question": question, "answer": answer[1]["text"], "kind": "calculator"})
    return tasks


def experiment(run, seed):
    """Reinforce the same start with both rewards."""
    rows, found = training_chats(run, "calculator"), {}
    start = teach_mostly_without(run, seed, rows)
    path = write(run, "reaching_for_the_tool/sums", seed, tasks_of(rows))
    held_out = run / "tasks" / "calculator_test.jsonl"
    for reward, said in REWARDS.items():
        before, after, log = reinforce(run, f"reaching_for_the_tool/{reward}", reward, seed, start,
                                       path, held_out, steps=STEPS, lr=2e-4)
        print(f"   rewards {said}:")
        for x in log[::4]:
            print(f"   step {x['step']:3}   with a call {x['calls']:6.1%}   "
                  f"right {x['accuracy']:6.1%}")
        before, after = before["at_temperature_1"], after["at_temperature_1"]
        print(f"   sums it never saw, at temperature 1: {before:.1%} before, {after:.1%} after")
        found |= {f"{reward}: calls": [x["calls"] for x in log],
                  f"{reward}: right": [x["accuracy"] for x in log],
                  f"{reward}: calls first": log[0]["calls"],
                  f"{reward}: calls last": log[-1]["calls"],
                  f"{reward}: right before": before,
                  f"{reward}: right after": after}
    return found


def plot(figure, found):
    """Calls and right results along the steps, under both rewards."""
    axes, steps = figure.subplots(), range(1, STEPS + 1)
    curves = [("answer: calls", "calls, rewarded for right results"),
              ("answer: right", "right, rewarded for right results"),
              ("random: calls", "calls, random rewards"),
              ("random: right", "right, random rewards")]
    for which, (label, name) in enumerate(curves):
        plots.curve(axes, found, label, steps, name, which, 100)
    axes.set_xlabel("step of reinforcement")
    axes.set_ylabel("replies (%)")
    axes.set_ylim(-2, 102)
    axes.legend()
    first, last = (100 * plots.mean(found, f"answer: calls {when}") for when in ("first", "last"))
    plots.title(figure, f"Rewarded for right results alone, the model calls the calculator in "
                        f"{last:.0f} % of replies, at first in {first:.0f} %")


if __name__ == "__main__":
    command.run(results.main)
