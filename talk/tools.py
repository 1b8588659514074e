"""tools.py: arithmetic in the head is unreliable; with a calculator it is reliable.

A model that writes the result of a sum at once has to find it in the work of a few tokens. A call
of a tool needs only the numbers copied. Here the assistant is taught its sums once more: with the
calculator, and without it from the same start, with the same questions in as many steps.

Refuted if it does as well without.

    python -m talk.tools
"""

from talk import plots, results         # before numpy
from talk.experiment import right, share, teach, training_chats
import numpy as np

from chat import chats
from run import command
from web import toylessons

STAGES = ("sft",)
SECONDS = 45
WAYS = ("with the calculator", "without it")


def without_calls(rows):
    """The same conversations, with the result written at once."""
    plain = []
    for row in rows:
        question, answer = (message["content"] for message in row["messages"])
        plain.append(toylessons.chat(question, answer[-1]["text"]))
    return plain


def by_digits(ok, tasks):
    """{digits of the result: share of right answers}."""
    digits = np.array([len(task["answer"].lstrip("-")) for task in tasks])
    return {int(n): float(ok[digits == n].mean()) for n in np.unique(digits)}


def experiment(run, seed):
    """Teach sums in both ways, and ask for sums that no conversation had."""
    tasks = chats.tasks(run / "tasks" / "calculator_test.jsonl")
    rows, found = training_chats(run, "calculator"), {}
    for name, lessons in zip(WAYS, (rows, without_calls(rows))):
        model = teach(run, f"tools/{name.split()[0]}", lessons, 400, seed, "sft", lr=1e-3)
        ok = right(model, tasks)
        found[name] = share(f"{name:20}", ok.sum(), len(ok))
        parts = [f"{n}: {accuracy:.0%}" for n, accuracy in by_digits(ok, tasks).items()]
        print(f"   {'':20} by digits of the result: {', '.join(parts)}")
    return found


def plot(figure, found):
    """Right sums in both ways."""
    axes = figure.subplots()
    plots.bars(axes, found, {"": list(WAYS)}, list(WAYS))
    axes.set_ylabel("right sums (%)")
    tool, head = (100 * plots.mean(found, name) for name in WAYS)
    plots.title(figure, f"Sums are right in {tool:.0f} % of cases with the calculator, in "
                        f"{head:.0f} % in the head")


if __name__ == "__main__":
    command.run(results.main)
