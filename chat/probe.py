"""probe.py: find out what a model knows by asking it, and teach it to say when it does not know.

A model that was trained to answer answers everything. Of names that it never read it makes
something up, in the same sure voice; yet inside it is not equally sure. Llama 3's remedy:

    1  ask      every question of tasks/probe_train.jsonl five times
    2  sort     known: right at least 4 times of 5; unknown: at most once; the others are left out
    3  train    base/ as before, but with these conversations among the others: the known questions
                with their answers, the unknown ones with refusals -> honest/
    4  test     on tasks/probe_test.jsonl: other names, other words, and names that stand nowhere

A refusal is the right reply without its answer, "The kistbat eats something I have not read about."
So it differs from an answer only where the model would have to know.

    python -m chat.probe                out/demo/base and sft -> out/demo/honest, in 3 minutes
    python -m chat.probe --control      as many refusals, of questions drawn by lot

Source: Dubey et al. 2024, "The Llama 3 herd of models", section 4.3.6 (factuality).
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import align                            # before numpy
import numpy as np

import sample
from chat import arena, chats, options, places, tuning
from model import device
from run import command, disk, runs

ASKED = 5                               # times that each question is asked
KNOWN, UNKNOWN = 4, 1                   # right at least, right at most so many times
UNSAID = "something I have not read about"
REFUSAL = "I do not know."


def ask_often(model, tasks, times=ASKED, temperature=0.8, seed=0, place=places.CORES):
    """Ask each task several times: (right, texts), (tasks, times) each. place: where it answers"""
    model = place.model(model)
    print(f"asking {len(tasks):,} questions {times} times", file=sys.stderr)
    asked = [task for task in tasks for _ in range(times)]
    replies, verdicts = arena.ask(*model, asked, temperature, seed, engine=place.engine)
    right = [verdict.correct for verdict in verdicts]
    texts = [sample.reply_text(reply.ids, model[2]) for reply in replies]
    shape = len(tasks), times
    return np.array(right).reshape(shape), np.array(texts, object).reshape(shape)


def is_refusal(text):
    """Whether a reply says that it does not know."""
    return UNSAID in text or text.strip() == REFUSAL


def refusal(task):
    """The task's "reply" without its answer, or that one does not know."""
    reply, answer = str(task.get("reply", "")), str(task["answer"])
    return reply.replace(answer, UNSAID, 1) if answer in reply else REFUSAL


def is_fact(row):
    """Whether a conversation is one question about a name and its answer, both plain texts."""
    if row.get("kind") != "fact":
        return False
    form = [(m["role"], type(m["content"])) for m in row["messages"]]
    return form == [("user", str), ("assistant", str)]


def lessons(tasks, right, texts, old=(), seed=0, control=False):
    """(rows of conversations, {what: how many}) from the answers that ask_often got.

    Every known question gets a right answer of the model's own, every unknown one a refusal. The
    old conversations follow. control: as many refusals, but of questions drawn by lot.
    """
    times = right.sum(1)
    known, unknown = times >= KNOWN, times <= UNKNOWN
    found = []                                  # (question, its answer, its refusal)
    refuse = []                                 # which of them are refused
    for i, task in enumerate(tasks):
        copies = int(known[i] + 2 * unknown[i])     # twice, or answers are many more
        answer = texts[i][right[i].argmax()]
        found += [(task["question"], answer, refusal(task))] * copies
        refuse += [unknown[i]] * copies
    for row in old:
        if is_fact(row):
            question, answer = (m["content"] for m in row["messages"])
            found.append((question, answer, REFUSAL))
            refuse.append(False)
    if control:
        refuse = np.random.default_rng(seed).permutation(np.array(refuse))
    rows = []
    for (question, answer, refused), by_refusal in zip(found, refuse):
        reply = refused if by_refusal or not answer.strip() else answer
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        rows.append({"messages": messages, "kind": "refusal" if by_refusal else "fact"})
    counts = {
        "known": int(known.sum()),
        "unknown": int(unknown.sum()),
        "between": int((~known & ~unknown).sum()),
    }
    return rows + [row for row in old if not is_fact(row)], counts


def kind_of(task):
    """The row of the test that a task counts in, by how many pages tell of it."""
    n = task.get("exposure", 0)
    if n >= 10:
        return "10 pages or more" + (", asked before" if task.get("asked") else "")
    return {0: "no page", 1: "1 page"}.get(n, f"{n} pages")


def test(model, tasks, temperature=0.0, place=places.CORES):
    """{kind of question: [right, wrong, refused]}

    Greedy decoding hides uncertainty. If ten answers have 7 % each and refusing has 30 %, greedy
    refuses every time, although the model answers in 70 % of samples. So it is also tested at
    temperature 1.
    """
    print(f"testing on {len(tasks):,} questions", file=sys.stderr)
    model = place.model(model)
    replies, verdicts = arena.ask(*model, tasks, temperature, 0, engine=place.engine)
    found = {}
    rows = sorted(zip(tasks, replies, verdicts), key=lambda row: row[0].get("exposure", 0))
    for task, reply, verdict in rows:
        refused = is_refusal(sample.reply_text(reply.ids, model[2]))
        what = 2 if refused else int(not verdict.correct)
        found.setdefault(kind_of(task), [0, 0, 0])[what] += 1
    return found


def old_conversations(path):
    """The rows of a file of conversations; prints what is left out of it."""
    notes, rows = Counter(), []
    for _, messages, kind in chats.conversations(path, notes):
        rows.append({"messages": messages, "kind": kind} if kind else {"messages": messages})
    if notes.total():
        print(f"{path}: {chats.report(notes)}", file=sys.stderr)
    return rows


class Probed(NamedTuple):
    """What the probe found: how many questions are known, and three tests."""

    counts: dict                        # {"known", "unknown", "between": questions}
    before: dict                        # the test of sft/
    after: dict                         # that of honest/
    free: dict                          # that of honest/ at temperature 1


def probe(
    run, recipe=options.SFT, seed=0, control=False, on_mismatch="error", asked=None, out=None
):
    """base/ -> honest/. Returns a Probed.

    asked: what ask_often gave for tasks/probe_train.jsonl, if it was asked already. out: another
    stage to make; its conversations then lie beside it, and not in chat/.
    """
    name, place = out or ("honest_control" if control else "honest"), places.of(recipe)
    model = tuning.load_stage(run, "sft")
    tasks = chats.tasks(run / "tasks" / "probe_train.jsonl")
    held_out = chats.tasks(run / "tasks" / "probe_test.jsonl")
    old = old_conversations(run / "chat" / "train.jsonl")
    right, texts = asked or ask_often(model, tasks, seed=seed, place=place)
    rows, counts = lessons(tasks, right, texts, old, seed, control)
    if not counts["known"] or not counts["unknown"]:
        raise ValueError(f"{run / 'sft'}: of {len(tasks)} questions {counts['known']} are known "
                         f"and {counts['unknown']} unknown: there is nothing to tell apart")
    path = run / f"{name}.jsonl" if out else run / "chat" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    align.sft(run, recipe, seed, on_mismatch, [path], "base", name)
    honest = tuning.load_stage(run, name, mend="python -m chat.probe")
    before = test(model, held_out, place=place)
    after = test(honest, held_out, place=place)
    return Probed(counts, before, after, test(honest, held_out, 1.0, place))


def table(probed):
    """The three tests side by side, in percent."""
    lines = [
        f"{'':38}{'before':^19}{'after':^19}{'at T 1':>4}",
        f"{'pages that tell of it':32}{'':6}" + "right wrong  none  " * 2 + "  none",
    ]
    for kind, was in probed.before.items():
        n = sum(was)
        line = f"{kind:32}{n:6,}"
        for counts in (was, probed.after[kind]):
            line += "".join(f"{100 * x / n:5.1f} " for x in counts) + " "
        lines.append(line + f"{100 * probed.free[kind][2] / n:6.1f}")
    lines.append('in percent; none: it says that it does not know; T 1: at temperature 1, after')
    return "\n".join(lines)


def parse_args(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m chat.probe",
        description="Find what a model does not know and teach it to say so. The demo takes 3 "
                    "minutes on two cores.",
    )
    add = p.add_argument
    add("--run", type=Path, default=Path("out/demo"), help="run folder (default: %(default)s)")
    add("--control", action="store_true", help="refusals of questions drawn by lot")
    add("--steps", type=int, default=options.SFT.steps,
        help="optimizer steps (default: %(default)s)")
    add("--lr", type=float, default=options.SFT.lr,
        help="peak learning rate (default: %(default)s)")
    add("--seed", type=int, default=0,
        help="of the asking and of the data's order (default: %(default)s)")
    add("--on-mismatch", default="error", choices=("error", "restart"),
        help="if the folder holds a checkpoint of other settings or data (default: %(default)s)")
    options.add_device(p, f"{options.ANSWERS} and one learns there")
    args = p.parse_args(argv)
    device.check_dtype(args)
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: must be 0 or more")
    return args


def main(argv=None):
    """Probe, train, and print the table."""
    args = parse_args(argv)
    runs.start_clock()
    recipe = options.changed(options.SFT, {"steps": args.steps, "lr": args.lr})
    if args.device == "cuda":
        recipe = replace(recipe, device="cuda", dtype=args.dtype)
    probed = probe(args.run, recipe, args.seed, args.control, args.on_mismatch)
    counts = ", ".join(f"{n:,} {what}" for what, n in probed.counts.items())
    print(f"asked five times: {counts}")
    print(table(probed))
    print(f"{runs.seconds_spent():.0f} s")


if __name__ == "__main__":
    command.run(main)
