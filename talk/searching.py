"""searching.py: a model that may search looks up what it does not know, instead of making it up.

What a model read once is a vague recollection; what stands in front of it is working memory. So the
talk's second remedy against made-up answers is a tool: the model writes a query, and what was found
is put into its context. When to do so `sft` learns here from conversations that search for invented
names (web/toytools.py), among its own so that it forgets nothing. No conversation searches for a
name of the pages. The control may not begin a call. Reinforcement then pays 1 for a right answer,
which for a name of no page is that it does not know, less a little for a search.

Refuted if facts of one page are not told more often with the search, if names that stand on no page
are still answered, if well-known facts are refused, or if searches do not become rarer for what the
model can recollect when they cost something.

    python -m talk.searching
"""

from talk import plots, results         # before numpy
from talk.experiment import load, log_of, reinforce, share, stage, teach, write
import numpy as np

import sample
from chat import chats, formats, generate, grading, lessons
from run import command, disk
from web import toytools, toyworld

STAGES = ("sft",)
SECONDS = 180
OWN = 0.5                               # so many of sft's own conversations to one with a tool
TAUGHT, REINFORCED = 400, 40            # steps
PRICE = 0.1                             # of a search, where a right answer is worth 1
GROUPS = {                              # {name: (pages, whether a conversation was about it)}
    "no page": (0, False),
    "1 page": (1, False),
    "3 pages": (3, False),
    "10 pages": (10, False),
    "20 pages": (20, False),
    "30 pages": (30, False),
    "10 pages or more, asked": (None, True),
}


def tasks_of(run, name):
    """Held-out questions of a group; names of no page have the answer that one does not know."""
    pages, asked = GROUPS[name]
    file = "facts_test" if pages != 0 else "probe_test"
    found = []
    for task in chats.tasks(run / "tasks" / f"{file}.jsonl"):
        fits = task["exposure"] == pages if pages is not None else task["exposure"] >= 10
        if fits and task["asked"] == asked:
            found.append(honest(task))
    return found[::4] if pages == 0 else found


def honest(task):
    """The task; if no page tells its answer, the answer is that one does not know."""
    return task if task["exposure"] else {**task, "answer": toytools.UNKNOWN}


def ask(model, tasks, may_search=True, temperature=0.0, seed=0):
    """(right, refused, searched), (tasks,) each."""
    tokenizer = model[2]
    bias = () if may_search else ((sample.special(tokenizer, "<|tool_start|>"), -100.0),)
    found = []
    for i in range(0, len(tasks), 128):
        part = tasks[i:i + 128]
        prompts = [lessons.prompt_of(task, tokenizer) for task in part]
        replies = generate.generate(
            *model,
            prompts,
            stop=formats.of(tokenizer).ends,
            max_new_tokens=64,
            temperature=temperature,
            seed=seed + i,
            logit_bias=bias,
        )
        for task, reply in zip(part, replies):
            text = sample.reply_text(reply.ids, tokenizer)
            found.append((grading.is_correct(task, text), text == toytools.UNKNOWN, called(reply)))
    return np.array(found).T


def called(reply):
    """Whether a tool wrote something into a reply."""
    return 0 in reply.sampled


def examine(run, model, when):
    """Ask each group of questions with the search. Prints a table; returns its numbers."""
    found = {}
    print(f"   {when:26}{'right':>8}{'made up':>9}{'refused':>9}{'searched':>10}")
    for name in GROUPS:
        right, refused, searched = ask(model, tasks_of(run, name))
        made_up = ~right & ~refused
        row = {"right": right, "made up": made_up, "refused": refused, "searched": searched}
        row = {label: float(values.mean()) for label, values in row.items()}
        print(f"   {name:26}{row['right']:8.1%}{row['made up']:9.1%}{row['refused']:9.1%}"
              f"{row['searched']:10.1%}")
        found |= {f"{when}: {label} of {name}": value for label, value in row.items()}
    return found


def reward_with_a_price(rollout):
    """1 for a right answer, less the price of a search."""
    rewards = []
    for task, text, reply in zip(rollout.tasks, rollout.texts, rollout.replies):
        rewards.append(grading.is_correct(task, text) - PRICE * called(reply))
    return rewards


def conversations(run, seed):
    """Those of the run with tools, and some of the others."""
    tools, others = (
        [row for _, row in disk.read_jsonl(run / "chat" / f"{name}.jsonl")]
        for name in ("tools", "train")
    )
    return tools + toyworld.stream(seed, "searching").sample(others, round(OWN * len(tools)))


def experiment(run, seed):
    """Recollect and search; then reinforce at a price."""
    rows, start = conversations(run, seed), "searching/taught"
    model, found = teach(run, start, rows, TAUGHT, seed, "sft", lr=1e-3, replay=2), {}
    for name in ("1 page", "no page"):
        tasks = tasks_of(run, name)
        for way, may_search in (("recollected", False), ("searched", True)):
            right, _, _ = ask(model, tasks, may_search)
            found[f"{way}: {name}"] = share(f"{name}, {way:12} right", right.sum(), len(right))
    found |= examine(run, model, "before")
    tasks = [honest(task) for task in chats.tasks(run / "tasks" / "probe_train.jsonl")]
    held_out = write(run, "searching/held_out", seed, tasks_of(run, "20 pages"))
    path = write(run, "searching/questions", seed, tasks)
    reinforce(run, "searching/priced", reward_with_a_price, seed, stage(start, seed), path,
              held_out, steps=REINFORCED, lr=3e-4, prompts=32, group=8)
    found["reward"] = [row["reward"] for row in log_of(run / stage("searching/priced", seed))]
    return found | examine(run, load(run, "searching/priced", seed), "at a price")


def plot(figure, found):
    """How often it searches, by pages, before and after searches had a price."""
    axes = figure.subplots()
    groups = list(GROUPS)[:6]
    for i, when in enumerate(("before", "at a price")):
        labels = [f"{when}: searched of {name}" for name in groups]
        plots.curve(axes, found, labels, range(len(groups)), f"searches, {when}", 2 * i, 100)
        labels = [f"{when}: right of {name}" for name in groups]
        plots.curve(axes, found, labels, range(len(groups)), f"right, {when}", 2 * i + 1, 100)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlabel("how many pages tell of it (no conversation did)")
    axes.set_ylabel("questions (%)")
    axes.set_ylim(-2, 102)
    axes.legend()
    head, tool = (100 * plots.mean(found, f"{way}: 1 page") for way in ("recollected", "searched"))
    plots.title(figure, f"Facts of one page are right in {head:.0f} % of recollections and in "
                        f"{tool:.0f} % of searches")


if __name__ == "__main__":
    command.run(results.main)
