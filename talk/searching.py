"""searching.py: a model that may search looks up what it does not know, instead of making it up.

What a model read once is a vague recollection; what stands in front of it is working memory. So the
talk's second remedy against made-up answers is a tool: the model writes a query, and what was found
is put into its context. `sft` learns it here from conversations that search for invented names
(web/toytools.py), never for a name of the pages. The control may not begin a call.

Refuted if facts of one page are not told more often with the search, if names of no page are still
answered, if well-known facts are refused, or if it searches as often for what it knows.

    python -m talk.searching
"""

from talk import plots, results         # before numpy
from talk.experiment import share, stage, teach
import numpy as np

import sample
from chat import chats, formats, generate, grading, lessons
from run import command, disk
from web import toytools, toyworld

STAGES = ("sft",)
SECONDS = 360
OWN = 0.5                               # so many of sft's own conversations to one with a tool
STEPS = 800, 1200                       # of reading and of the mixture
GROUPS = {                              # {name: (pages, whether a conversation was about it)}
    "no page": ([0], False),
    "1 page": ([1], False),
    **{f"{n} pages": ([n], False) for n in (3, 10, 20, 30)},
    "10 pages or more, asked": ([10, 20, 30], True),
}
TICKS = ["no", "1", "3", "10", "20", "30", "asked"]     # the same, short


def honest(run, file):
    """Questions; if no page tells the answer to one, the answer is that one does not know."""
    return [task if task["exposure"] else task | {"answer": toytools.UNKNOWN}
            for task in chats.tasks(run / "tasks" / f"{file}.jsonl")]


def tasks_of(run, name, file="probe_test"):
    """The held-out questions of a group."""
    pages, asked = GROUPS[name]
    return [task for task in honest(run, file)
            if task["exposure"] in pages and task["asked"] == asked]


def ask(model, tasks, may_search=True):
    """(right, refused, searched) of greedy answers, (tasks,) each."""
    tokenizer, found = model[2], []
    bias = () if may_search else ((sample.special(tokenizer, "<|tool_start|>"), -100.0),)
    for i in range(0, len(tasks), 128):
        prompts = [lessons.prompt_of(task, tokenizer) for task in tasks[i:i + 128]]
        replies = generate.generate(
            *model,
            prompts,
            stop=formats.of(tokenizer).ends,
            max_new_tokens=64,
            temperature=0.0,
            logit_bias=bias,
        )
        for task, reply in zip(tasks[i:], replies):
            text = sample.reply_text(reply.ids, tokenizer)
            searched = 0 in reply.sampled               # a tool wrote something into it
            found.append((grading.is_correct(task, text), text == toytools.UNKNOWN, searched))
    return np.array(found).T


def examine(run, model, when="with the search"):
    """Ask each group of questions with the search. Prints a table; returns its numbers."""
    found = {}
    print(f"   {when:26}    right  made up  refused searched")
    for name in GROUPS:
        right, refused, searched = ask(model, tasks_of(run, name))
        row = {"right": right, "made up": ~right & ~refused, "refused": refused,
               "searched": searched}
        print(f"   {name:26}" + "".join(f"{values.mean():9.1%}" for values in row.values()))
        for label, values in row.items():
            found[f"{when}: {label} of {name}"] = float(values.mean())
    return found


def rows_of(run, name):
    """The run's conversations of a file."""
    return [row for _, row in disk.read_jsonl(run / "chat" / f"{name}.jsonl")]


def reader(run, seed):
    """`sft`, taught to find a few facts about a name and to read them. Returns its stage."""
    rows = rows_of(run, "reading")
    teach(run, "searching/reader", rows, STEPS[0], seed, "sft", lr=1e-3, replay=1)
    return stage("searching/reader", seed)


def taught(run, seed):
    """The reader, taught whole pages, with its own conversations beside them."""
    rows, others = rows_of(run, "tools"), rows_of(run, "train")
    rows += toyworld.stream(seed, "searching").sample(others, round(OWN * len(rows)))
    return teach(run, "searching/taught", rows, STEPS[1], seed, reader(run, seed), lr=1e-3,
                 replay=2)


def experiment(run, seed):
    """Recollect and search."""
    model, found = taught(run, seed), {}
    for name in ("1 page", "3 pages"):
        tasks = tasks_of(run, name, "facts_test")
        for way, may_search in (("recollected", False), ("searched", True)):
            right, _, _ = ask(model, tasks, may_search)
            found[f"{way}: {name}"] = share(f"{name:8} {way:12} right", right.sum(), len(right))
    known = [task for n in (10, 20, 30) for task in tasks_of(run, f"{n} pages", "facts_test")]
    _, refused, _ = ask(model, known)
    found["refused"] = share("10 pages or more, never asked: refused", refused.sum(), len(known))
    return found | examine(run, model)


def plot(figure, found):
    """Right answers with the search and without; what it does with it, by pages."""
    bars, curves = figure.subplots(1, 2, width_ratios=(2, 3))
    few = ["1 page", "3 pages"]
    series = {way: [f"{way}: {name}" for name in few] for way in ("recollected", "searched")}
    plots.bars(bars, found, series, few)
    bars.set_ylabel("right answers (%)")
    for i, label in enumerate(("searched", "right", "made up", "refused")):
        labels = [f"with the search: {label} of {name}" for name in GROUPS]
        plots.curve(curves, found, labels, range(len(GROUPS)), label, i, 100)
    curves.set_xticks(range(len(GROUPS)), TICKS)
    curves.set(xlabel="pages; asked: of ten or more", ylabel="questions (%)", ylim=(-2, 102))
    curves.legend(loc="center")
    head, tool = (plots.mean(found, f"{way}: 1 page") for way in ("recollected", "searched"))
    plots.title(figure, f"Facts of one page: {head:.0%} recollected, {tool:.0%} searched")


if __name__ == "__main__":
    command.run(results.main)
