"""dreams.py: a base model dreams documents; it does not answer and stop, as an assistant does.

Pre-training teaches a model to go on from text as the web does. Asked nothing, it writes pages like
those it has read. Asked a question, it continues the page on which the question might stand.

Refuted if the base model ends after a question as often as the assistant made from it.

    python -m talk.dreams
"""

from talk import plots, results         # before numpy
from talk.experiment import continuations, questions, share

import sample
from chat import arena
from run import command

STAGES = ("base", "sft")
SECONDS = 1
SHORT = 30                              # tokens
MODELS = ("base", "sft")


def show_dreams(base, seed):
    """Print three documents that begin with nothing."""
    for text in continuations(base, [""] * 3, 60, 1.0, seed):
        print("   dreamt: " + " ".join(text.split()))


def experiment(run, seed):
    """Ask both models the same questions, and count the replies that end soon."""
    base, sft = (sample.load_model(run / stage) for stage in MODELS)
    show_dreams(base, seed)
    tasks = questions(run)[::4]
    texts = continuations(base, [task["question"] + "\n" for task in tasks], 60, 1.0, seed)
    replies, verdicts = arena.ask(*sft, tasks, 1.0, seed)
    print(f"   asked {tasks[0]['question']!r}, it continues: {' '.join(texts[0].split())!r}")
    print(f"   the assistant: {sample.reply_text(replies[0].ids, sft[2])!r}")
    short = sum(len(base[2].encode_ordinary(text)) < SHORT for text in texts)
    ended = sum(verdict.ended and verdict.n_tokens < SHORT for verdict in verdicts)
    return {
        "base ends": share(f"base   ends within {SHORT} tokens:", short, len(tasks)),
        "sft ends": share(f"sft    ends within {SHORT} tokens:", ended, len(tasks)),
    }


def plot(figure, found):
    """Replies that end soon, of the base model and of the assistant."""
    axes = figure.subplots()
    labels = [f"{name} ends" for name in MODELS]
    plots.bars(axes, found, {"": labels}, ["base model", "assistant"])
    axes.set_ylabel(f"replies that end within {SHORT} tokens (%)")
    base, sft = (100 * plots.mean(found, label) for label in labels)
    plots.title(figure, f"Asked a question, the base model ends soon in {base:.0f} % of cases, the "
                        f"assistant in {sft:.0f} %")


if __name__ == "__main__":
    command.run(results.main)
