"""chats.py: files of conversations, comparisons and tasks, in any schema.

    conversation    [{"role": "system", "user" or "assistant", "content": a text, or the
                    assistant's parts}, ...]
    comparison      a conversation that ends with the user; replies to it, and a score for each
    task            {"question", "answer", "kind"}

A file has a row a line, or is one JSON list, and may be gzipped. chat/datasets.py knows how others
write conversations, chat/comparisons.py how they write comparisons, chat/rows.py what becomes of a
row that cannot be read. What is mended or left out is counted under a short reason.

    python -m chat.chats FILE ...       show how files are read
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from chat import grading
from chat.comparisons import checked_row, from_pair, from_tree, from_ultrafeedback, messages_of
from chat.comparisons import trees, walk_tree
from chat.datasets import GOOD, beside, from_messages, gsm8k_parts, in_turns, schema, with_system
from chat.rows import list_of, number_of, read_rows, report, rows, shown, text_of
from chat.template import Unusable
from run import command


def finished(messages, notes):
    """The conversation in order, ending with a reply. Unusable if nothing in it can be learned."""
    messages = in_turns(messages, notes)
    if messages and messages[-1]["role"] == "user":
        notes["question at the end without a reply"] += 1
        messages.pop()
    if not messages or messages[-1]["role"] != "assistant":
        raise Unusable("conversation with nothing in it")
    for m in messages:
        if m["role"] == "assistant" and m.get("weight", 1):
            return messages
    raise Unusable("conversation of which nothing is to be learned")


def conversation_of(row, name, notes, lang):
    """The conversation in a row of a schema; of a comparison the one with the best reply."""
    if name in ("pair", "ultrafeedback"):
        [(prompt, replies, scores)] = comparisons_of(row, name, notes, lang)
        best = replies[scores.index(max(scores))]
        return [*prompt, {"role": "assistant", "content": best}]
    for key in GOOD:
        if isinstance(row, dict) and row.get(key) is False:
            raise Unusable("an example of what not to say", f"{key} is false")
    if name == "tree":
        messages = messages_of(walk_tree(row["prompt"], notes, lang)[0])
    elif name == "gsm8k":
        question, answer = text_of(row["question"], "question"), text_of(row["answer"], "answer")
        messages = [{"role": "user", "content": question},
                    {"role": "assistant", "content": gsm8k_parts(answer, notes)}]
    else:
        messages = from_messages(row if name == "list" else row[name], notes)
    for m in messages if name == "conversations" else ():   # as ChatGPT's pages have them
        if isinstance(m["content"], str):
            m["content"] = m["content"].strip()
    return finished(with_system(beside(row), messages), notes)


def answerable(comparison, notes):
    """The Comparison with its prompt in order. Unusable unless the prompt ends with the user."""
    prompt = in_turns(comparison.prompt, notes)
    if not prompt or prompt[-1]["role"] != "user":
        raise Unusable("replies to no question")
    return comparison._replace(prompt=prompt)


def comparisons_of(row, name, notes, lang):
    """The Comparisons in a row of a schema."""
    if name in ("pair", "ultrafeedback"):
        read = from_pair if name == "pair" else from_ultrafeedback
        return [answerable(read(row, notes), notes)]
    if name != "tree":
        expected = "chosen and rejected, UltraFeedback's completions or OpenAssistant's ranks"
        raise Unusable(f"{name} has no replies to compare", f"expected {expected}")
    compared, found = list(from_tree(row["prompt"], notes, lang)), []
    if not compared:
        raise Unusable("tree without ranked replies")
    for comparison in compared:
        try:
            found.append(answerable(comparison, notes))
        except Unusable as e:                   # the others of the tree can be used
            notes[e.reason] += 1
    return found


def kind_of(row):
    """The "kind" of a row as a text, or None."""
    kind = row.get("kind") if isinstance(row, dict) else None
    if type(kind) not in (str, int, type(None)):
        raise Unusable("kind is no text", shown(kind))
    return None if kind is None else str(kind)


def read_file(path, notes, read):
    """read_rows with read(row, name of its schema) of a whole file.

    OpenAssistant's messages, a row each, are read as the trees they make, when the file has ended.
    """
    messages = []

    def found():
        yield from rows(path)
        for where, root in trees(messages, notes):
            yield where, {"message_tree_id": root["message_id"], "prompt": root}

    def read_row(where, row):
        name = schema(row)
        if name != "message":
            return read(row, name)
        messages.append((where, checked_row(row)))
        return []

    return read_rows(path, found(), notes, read_row)


def conversations(path, notes, lang="en"):
    """Yield (where, conversation, kind or None) of a file in any schema.

    Of a comparison it is the best reply. notes: a Counter, to which everything that is left out or
    changed is added under its reason. lang: the language of OpenAssistant's messages. ValueError as
    for read_rows.
    """
    def read(row, name):
        return [(conversation_of(row, name, notes, lang), kind_of(row))]

    for where, (messages, kind) in read_file(path, notes, read):
        yield where, messages, kind


def comparisons(path, notes, lang="en"):
    """Yield (where, Comparison) of a file of pairs, replies with scores, or trees with ranks."""
    return read_file(path, notes, lambda row, name: comparisons_of(row, name, notes, lang))


def task_of(row):
    """A task with all that chat/arena.py and align.py need; Unusable if it lacks something."""
    question = row.get("question") if isinstance(row, dict) else None
    if not question or not isinstance(question, str) or "answer" not in row:
        expected = '{"question": "...", "answer": ...}'
        raise Unusable("no task", f"expected {expected}, found {shown(row)}")
    if type(row.get("exposure", 0)) is not int:
        raise Unusable("exposure is no number of pages", shown(row["exposure"]))
    kind_of(row)
    for option in list_of(row.get("options", []), "options"):
        text_of(option, "an option")
    text_of(row.get("reply", ""), "reply")
    answer = row["answer"]
    if isinstance(answer, str) and "####" in answer:
        row = {**row, "answer": grading.final_answer(answer), "kind": "gsm8k"}
    if row["answer"] is None or row["answer"] == "":
        raise Unusable("a task without an answer", shown(answer))
    if not isinstance(answer, str):
        number_of(answer, "answer")
    return row


def tasks(path):
    """[{"question", "answer", ...}] of our own tasks, or of GSM8K with the number behind ####.

    Prints how many rows are left out, and why. ValueError as for read_rows.
    """
    notes = Counter()
    found = read_rows(path, rows(path), notes, lambda where, row: [task_of(row)])
    out = [task for _, task in found]
    if notes.total():
        print(f"{path}: {report(notes)}", file=sys.stderr)
    return out


def parse_args(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m chat.chats",
        description="Show how chat data of any schema is read.",
    )
    p.add_argument("file", nargs="+", help=".jsonl or .json, also gzipped")
    p.add_argument("--lang", default="en",
                   help="language of OpenAssistant's messages (default: %(default)s)")
    p.add_argument("--show", type=int, default=1,
                   help="conversations to print of each file (default: %(default)s)")
    args = p.parse_args(argv)
    if args.show < 0:
        p.error(f"--show {args.show}: at least 0")
    return args


SHOWN = {"text": "{}", "tool": "[{}", "output": " = {}]"}


def parts_of(message):
    """The content of a message as parts."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def show(where, messages):
    """Print a conversation, with calls of the calculator in brackets."""
    print(where)
    for m in messages:
        content = "".join(SHOWN[part["type"]].format(part["text"]) for part in parts_of(m))
        if m.get("reasoning_content"):
            print(f"  {'thinks':10} {m['reasoning_content']}")
        print(f"  {m['role']:10} {content}" + "  (not learned)" * (not m.get("weight", 1)))


def main(argv=None):
    """Print how each file is read."""
    args = parse_args(argv)
    for path in args.file:
        notes, n, turns, calls = Counter(), 0, 0, 0
        for where, messages, _ in conversations(Path(path), notes, args.lang):
            if n < args.show:
                show(where, messages)
            n += 1
            for m in messages:
                turns += 1
                calls += sum(part["type"] == "tool" for part in parts_of(m))
        said = report(notes)
        counts = f"{n:,} conversations, {turns:,} messages, {calls:,} calls of the calculator"
        print(f"{path}: {counts}" + f"; {said}" * bool(said))


if __name__ == "__main__":
    command.run(main)
