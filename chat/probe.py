"""probe.py: find out what a model knows by asking it, and teach it to say when it does not.

A model trained to answer answers everything: of names it never read it makes something up, in the same sure voice. Yet it is not
equally sure inside. Llama 3's remedy: ask it questions several times over and compare with the truth. What it gets right again and
again it knows; what it gets wrong again and again it does not, and for such questions the right reply is that it does not know.
A few hundred conversations like that, and it says so of other things it does not know, too.

    1  ask      every question of tasks/probe_train.jsonl five times
    2  sort     known: right 4 times of 5; unknown: at most once; what lies between is left out
    3  train    base/ as before, but with these among the conversations: the known with its answer, the unknown with a refusal -> honest/
    4  test     on tasks/probe_test.jsonl: other names, other words, and names that stand nowhere

A refusal is the right reply with its answer taken out, "The kistbat eats something I have not read about.": it parts from an answer
only where the model, having said whom it speaks of, would have to know.

    python -m chat.probe                out/demo/base and sft -> out/demo/honest, with a table of before and after
    python -m chat.probe --control      as many refusals, but of questions drawn by lot -> out/demo/honest_control

Source: Dubey et al. 2024, "The Llama 3 herd of models", section 4.3.6 (factuality).
"""

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import align                    # before numpy
from chat import arena
from chat import chats
from run import command, disk
import numpy as np
import sample

ASKED, KNOWN, UNKNOWN = 5, 4, 1         # times; right at least, at most
UNSAID, REFUSAL = "something I have not read about", "I do not know."


def ask_often(model, tasks, times=ASKED, temperature=0.8, seed=0):
    """-> (tasks, times) whether each answer was right, and the texts."""
    right, texts = [], []
    for t in range(times):
        replies, verdicts = arena.ask(*model, tasks, temperature, seed + 1000 * t)
        right.append([v.correct for v in verdicts])
        texts.append([sample.reply_text(r.ids, model[2]) for r in replies])
    return np.array(right).T, np.array(texts, object).T


def is_refusal(text):
    return UNSAID in text or text.strip() == REFUSAL


def refusal(task):
    """The task's "reply" without its answer; where there is none, that one does not know."""
    reply, answer = str(task.get("reply", "")), str(task["answer"])
    return reply.replace(answer, UNSAID, 1) if answer in reply else REFUSAL


def lessons(tasks, right, texts, old=(), seed=0, control=False):
    """([conversation], {what: how many}): every known question with a right answer of the model's own, every unknown one with a refusal, and
    the old conversations. control: as many refusals among all these questions about names, but drawn by lot."""
    n = right.sum(1)
    known, unknown = n >= KNOWN, n <= UNKNOWN
    picked = np.repeat(np.arange(len(tasks)), known + 2 * unknown)      # twice, or answers are many more
    items = [(tasks[i]["question"], texts[i][right[i].argmax()], refusal(tasks[i]), unknown[i]) for i in picked]
    def is_fact(row):                                       # a question and an answer; what is more than that stays as it is
        return row.get("kind") == "fact" and [(m["role"], type(m["content"])) for m in row["messages"]] == [("user", str), ("assistant", str)]

    facts = [row["messages"] for row in old if is_fact(row)]
    items += [(messages[0]["content"], messages[1]["content"], REFUSAL, False) for messages in facts]
    refused = np.array([item[3] for item in items])
    if control:
        refused = np.random.default_rng(seed).permutation(refused)
    rows = [{"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply if refuse or not answer.strip() else answer}],
             "kind": "refusal" if refuse else "fact"} for (question, answer, reply, _), refuse in zip(items, refused)]
    counts = {"known": int(known.sum()), "unknown": int(unknown.sum()), "between": len(tasks) - int((known | unknown).sum())}
    return rows + [row for row in old if not is_fact(row)], counts


def test(model, tasks, temperature=0.0):
    """{what is asked about: [right, wrong, refused]}, by how many pages tell of it, and whether chats asked of it. What a greedy answer hides
    shows at temperature 1: of ten answers that are as likely each, and a refusal as likely as three, it is always the refusal."""
    replies, verdicts = arena.ask(*model, tasks, temperature, 0)
    out = {}
    for task, reply, verdict in sorted(zip(tasks, replies, verdicts), key=lambda x: x[0].get("exposure", 0)):
        n = task.get("exposure", 0)
        row = "no page" if n == 0 else "1 page" if n == 1 else f"{n} pages" if n < 10 else "10 pages or more" + ", asked before" * bool(task.get("asked"))
        counts = out.setdefault(row, [0, 0, 0])
        counts[2 if is_refusal(sample.reply_text(reply.ids, model[2])) else 0 if verdict.correct else 1] += 1
    return out


def probe(run, recipe=align.SFT, seed=0, control=False, on_mismatch="error", asked=None):
    """base/ -> honest/. Returns (counts of the sorted questions, the test of sft/, that of honest/, the same at temperature 1). asked: what
    ask_often gave for tasks/probe_train.jsonl, where it is known already."""
    run, name = Path(run), "honest_control" if control else "honest"
    model = align.load_stage(run, "sft", "python align.py sft")
    tasks, held_out = (chats.tasks(run / "tasks" / f"probe_{split}.jsonl") for split in ("train", "test"))
    notes = Counter()
    old = [{"messages": messages, **({"kind": kind} if kind else {})} for _, messages, kind in chats.conversations(run / "chat" / "train.jsonl", notes)]
    if notes.total():
        print(f"{run / 'chat' / 'train.jsonl'}: {chats.report(notes)}", file=sys.stderr)
    rows, counts = lessons(tasks, *(asked or ask_often(model, tasks, seed=seed)), old, seed, control)
    if not counts["known"] or not counts["unknown"]:
        raise ValueError(f"{run / 'sft'}: of {len(tasks)} questions {counts['known']} are known and {counts['unknown']} unknown: there is nothing to tell apart")
    path = run / "chat" / f"{name}.jsonl"
    disk.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    align.sft(run, recipe, seed, on_mismatch, [path], "base", name)
    honest = align.load_stage(run, name, "python -m chat.probe")
    return counts, test(model, held_out), test(honest, held_out), test(honest, held_out, 1.0)


def table(before, after, free):
    lines = [f"{'what is told of on':34}{'':6}{'before: right    wrong refused':>34}{'after: right    wrong refused':>34}{'at temperature 1':>19}"]
    for row, was in before.items():
        n = sum(was)
        shares = "".join(f"{x / n:{w}.1%}" for counts, widths in ((was, (18, 8, 7)), (after[row], (18, 8, 7))) for x, w in zip(counts, widths))
        lines.append(f"{row:34}{n:6,}{shares}{free[row][2] / n:19.1%}")
    return "\n".join(lines)


def parse_args(argv=None):
    p = argparse.ArgumentParser(prog="python -m chat.probe", description="Find what a model does not know and teach it to say so.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--run", default="out/demo", help="run folder")
    p.add_argument("--control", action="store_true", help="refusals for questions drawn by lot")
    p.add_argument("--steps", type=int, default=align.SFT.steps, help="optimizer steps")
    p.add_argument("--lr", type=float, default=align.SFT.lr, help="peak learning rate")
    p.add_argument("--seed", type=int, default=0, help="of the asking and of the order of the data")
    p.add_argument("--on-mismatch", default="error", choices=("error", "restart"), help="when the folder holds a checkpoint of other settings or data")
    return p.parse_args(argv)


def main(argv=None):
    args, started = parse_args(argv), time.perf_counter()
    if args.steps < 1 or not 0 < args.lr < float("inf") or args.seed < 0:
        raise ValueError(f"--steps {args.steps}, --lr {args.lr}, --seed {args.seed}: expected at least 1, above 0, and 0 or more")
    recipe = replace(align.SFT, steps=args.steps, lr=args.lr, min_lr=align.SFT.min_lr * args.lr / align.SFT.lr, warmup=min(align.SFT.warmup, args.steps))
    counts, *tests = probe(args.run, recipe, args.seed, args.control, args.on_mismatch)
    print("asked five times: " + ", ".join(f"{n:,} {what}" for what, n in Counter(counts).items()))
    print(table(*tests))
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    command.run(main)
