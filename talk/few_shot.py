"""few_shot.py: examples in front of a question make a base model answer it, without any training.

Large base models pick up from a few examples what is asked. They learned this because later tokens
of a document are easier to predict than early ones: the document itself tells how it goes on. Here
the examples are "name: value" lines about things of one kind, and only they tell what is asked.

Refuted if accuracy does not rise with the number of examples, or if the loss does not fall along a
window. At this size the first is refuted; talk/in_context.py asks for less than facts.

    python -m talk.few_shot
"""

from talk import plots, results         # before numpy
from talk.experiment import continuations, questions, share
import numpy as np

import sample
from model import corpus, evaluate, fast
from run import command

STAGES = ("base",)
SECONDS = 5
EXAMPLES = (0, 1, 2, 4, 8)
PARTS = 16                              # of a window, for its loss by place


def facts_of(run):
    """Each well-known fact once. The options of a task tell its kind, such as what animals eat."""
    facts = {}
    for task in questions(run):
        facts[task["entity"], *task["options"]] = task
    return list(facts.values())


def prompt_of(task, asked, k, rng):
    """The name in question behind k lines "name: value." of other facts of its kind."""
    others = []
    for i in rng.permutation(len(asked)):
        other = asked[i]
        if other["options"] == task["options"] and other is not task:
            others.append(other)
    lines = [f"{other['entity']}: {other['answer']}." for other in others[:k]]
    return "\n".join([*lines, f"{task['entity']}:"])


def answered(base, asked, k, rng):
    """How many names are continued with the right value after k examples."""
    prompts = [prompt_of(task, asked, k, rng) for task in asked]
    texts = continuations(base, prompts, 8, 0.0)
    return sum(task["answer"] in text for task, text in zip(asked, texts))


def loss_by_place(base, run):
    """Mean loss in nats a token in each of the parts of a window of held-out text."""
    params, cfg, tokenizer = base
    _, shards = corpus.load_run(run, tokenizer)
    rows = evaluate.validation_rows(shards, cfg.n_positions, 128).astype(np.int64)
    losses = fast.token_losses(params, cfg, rows[:, :-1], rows[:, 1:])
    return losses.mean(0).reshape(PARTS, -1).mean(1)


def experiment(run, seed):
    """Ask for facts behind more and more examples; measure the loss along a window."""
    base, rng, found = sample.load_model(run / "base"), np.random.default_rng(seed), {}
    asked = facts_of(run)
    for k in EXAMPLES:
        n_right = answered(base, asked, k, rng)
        found[f"{k} examples"] = share(f"{k} examples in front:", n_right, len(asked))
    if found["8 examples"] <= 0.1:
        print("   a guess among ten does as well: so small a model does not learn from examples")
    losses = loss_by_place(base, run)
    early, late = losses[1], losses[-PARTS // 4:].mean()
    print(f"   loss in the second sixteenth of a window {early:.3f} nats a token, "
          f"in its last quarter {late:.3f}")
    return found | {"late minus early": float(late - early), "loss by place": losses.tolist()}


def plot(figure, found):
    """Right answers by examples, and loss by place."""
    left, right = figure.subplots(1, 2)
    labels = [f"{k} examples" for k in EXAMPLES]
    plots.curve(left, found, labels, EXAMPLES, "base model", 0, 100)
    left.axhline(10, color="0.5", linewidth=0.8)
    left.text(8, 11, "a guess among ten", ha="right", fontsize=8)
    left.set_ylim(0, 100)
    left.set_xlabel("examples in front of the question")
    left.set_ylabel("right answers (%)")
    places = (np.arange(PARTS) + 0.5) * 100 / PARTS
    plots.curve(right, found, "loss by place", places, "base model", 0)
    right.set_xlabel("place in the window (% of its length)")
    right.set_ylabel("loss (nats a token)")
    plots.title(figure, f"Later tokens are easier to predict, but eight examples leave the answers "
                        f"at {100 * plots.mean(found, '8 examples'):.0f} %")


if __name__ == "__main__":
    command.run(results.main)
