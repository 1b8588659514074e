"""chats.py: the chat data of others, read as conversations, comparisons and tasks.

Everybody writes the same three things down in their own way. Here they become

    conversation    [{"role": "system", "user" or "assistant", "content": a text, or the assistant's parts}, ...]
    comparison      what was asked, a conversation that ends with the user; replies to it, and a score for each
    task            {"question", "answer", "kind"}

    {"messages": [{"role", "content"}, ...]}        Hugging Face, SmolTalk, UltraChat 200k, our own; or the list alone
    {"data": ["Hello", "Hi! How can I help?", ...]} UltraChat
    {"conversations": [{"from", "value"}, ...]}     ShareGPT
    {"message_tree_id", "prompt": {"replies"}}      OpenAssistant's trees; or its messages, a row each, with parent_id
    {"chosen", "rejected"}                          HH-RLHF's transcripts, or messages; with "prompt" or without
    {"instruction", "completions"}                  UltraFeedback, with a score for each
    {"question", "answer"}                          GSM8K: its <<48/2=24>> become calls of the calculator

A file has a row a line, or is one JSON list, and may be gzipped. What is of no use is left out and counted under its reason; what
is malformed is a ValueError that names the row.

Sources: the data sets' cards; openai/grade-school-math (the calculator's annotations).
"""

import argparse
import json
import math
import os
import re
import sys
from collections import Counter, namedtuple
from pathlib import Path

import checkpoint
import sample

Comparison = namedtuple("Comparison", "prompt replies scores")      # messages; their contents; the higher the better

# ------------------------------------------------------------------------------------------------------ rows


def rows(path):
    """Yields (where, row) of a file of JSON lines or of one JSON list."""
    def parse(text, where):
        try:
            return json.loads(text.encode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError) as e:           # not UTF-8, not JSON, too deep, a number too long
            raise ValueError(f"{where}: not JSON ({str(e)[:100]})") from None

    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file; write the demo's with: python toyweb.py")
    lines = enumerate(checkpoint.read_lines(path, "surrogateescape"), 1)
    n, first = next(((n, line) for n, line in lines if line.strip()), (0, ""))
    if not first:
        raise ValueError(f"{path}: empty, there is nothing to learn from")
    if first.lstrip().startswith("["):                      # one list of rows, or lines that are lists of messages
        rest = lines = [(i, line) for i, line in lines if line.strip()]
        one_list = not rest
        try:
            row = parse(first, f"{path}:{n}")
        except ValueError:
            if not rest:
                raise
            row, one_list = parse("\n".join([first, *(line for _, line in rest)]), path), True
        if one_list and not (row and isinstance(row[0], dict) and "role" in row[0]):
            yield from ((f"{path}: row {i}", each) for i, each in enumerate(row, 1))
            return
    yield f"{path}:{n}", parse(first, f"{path}:{n}")
    yield from ((f"{path}:{n}", parse(line, f"{path}:{n}")) for n, line in lines if line.strip())


# The first whose keys are all there: a row of pairs may hold its best conversation as messages too.
SCHEMAS = {"pair": ("chosen", "rejected"), "ultrafeedback": ("instruction", "completions"), "tree": ("prompt", "message_tree_id"),
           "message": ("message_id", "parent_id", "text"), "messages": ("messages",), "ultrachat": ("data",),
           "sharegpt": ("conversations",), "gsm8k": ("question", "answer")}


def schema(row, where):
    """The name of the schema a row is in."""
    if isinstance(row, list):
        return "list"
    for name, keys in SCHEMAS.items():
        if isinstance(row, dict) and all(key in row for key in keys):
            return name
    found = f"the keys {', '.join(map(str, row))}"[:200] if isinstance(row, dict) else repr(row)[:60]
    raise ValueError(f"{where}: of no known schema: {found}; known are " + "; ".join(f"{name}: {', '.join(keys)}" for name, keys in SCHEMAS.items()))


def text_of(value, where, what):
    if not isinstance(value, str):
        raise ValueError(f"{where}: {what} is {str(value)[:60]!r}, expected a text")
    return value


def list_of(value, where, what):
    if not isinstance(value, list):
        raise ValueError(f"{where}: {what} is {str(value)[:60]!r}, expected a list")
    return value


# --------------------------------------------------------------------------------------------------- one schema each


def from_messages(messages, where, notes):
    """Hugging Face's list; calls of a calculator become parts of the reply they belong to. -> conversation, or None"""
    out = []
    for m in list_of(messages, where, "messages"):
        if not isinstance(m, dict):
            raise ValueError(f"{where}: {str(m)[:60]!r} is no message")
        role = text_of(m.get("role"), where, "role")
        role, calls = {"developer": "system", "human": "user", "gpt": "assistant"}.get(role, role), list_of(m.get("tool_calls") or [], where, "tool_calls")
        if calls and role != "assistant":
            raise ValueError(f"{where}: a message of the {role} that calls tools")
        if role != "tool" and not calls:
            if out and out[-1]["role"] == role == "assistant" and isinstance(out[-1]["content"], list):
                out[-1]["content"].append({"type": "text", "text": text_of(m.get("content"), where, "content")})
            else:
                out.append({**m, "role": role})
            continue
        if role == "tool":                              # of several calls at once, each result goes behind its own
            said = out[-1]["content"] if out and out[-1]["role"] == "assistant" and isinstance(out[-1]["content"], list) else []
            kinds = [isinstance(part, dict) and part.get("type") for part in said]
            at = next((i for i, kind in enumerate(kinds, 1) if kind == "tool" and kinds[i:i + 1] != ["output"]), None)
            if at is None:
                raise ValueError(f"{where}: a tool's message that nobody called for")
            said.insert(at, {"type": "output", "text": text_of(m.get("content"), where, "a tool's content")})
            continue
        parts = [{"type": "text", "text": text_of(m["content"], where, "content")}] if m.get("content") else []
        for call in calls:
            function = call.get("function") if isinstance(call, dict) else None
            name, arguments = (function.get("name"), function.get("arguments")) if isinstance(function, dict) else (None, None)
            try:
                arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            except ValueError:
                raise ValueError(f"{where}: the arguments of a tool call are no JSON: {str(arguments)[:60]!r}") from None
            expression = arguments.get("expression") if isinstance(arguments, dict) else None
            if name != "calculator" or not isinstance(expression, str):
                notes[f"calls the tool {name}, we have only calculator(expression)"] += 1
                return None
            parts.append({"type": "tool", "text": expression})
        if out and out[-1]["role"] == "assistant" and isinstance(out[-1]["content"], list):
            out[-1]["content"] += parts
        else:
            out.append({"role": role, "content": parts})
    return out


def from_sharegpt(turns, where, notes):
    """A leading reply goes, neighbours of one role become one, a question at the end that nobody answers goes; all of that counted."""
    out = []
    for turn in list_of(turns, where, "conversations"):
        if not isinstance(turn, dict) or turn.get("from") not in ("human", "gpt", "system", "user", "assistant", "chatgpt", "bard"):
            raise ValueError(f"{where}: expected {{\"from\": human, gpt or system, \"value\": text}}, found {str(turn)[:60]!r}")
        role = {"human": "user", "user": "user", "system": "system"}.get(turn["from"], "assistant")
        value = text_of(turn.get("value"), where, "value").strip()
        if not value:
            notes["empty message"] += 1
        elif role == "assistant" and not any(m["role"] == "user" for m in out):
            notes["reply before any question"] += 1
        elif out and out[-1]["role"] == role:
            notes["messages joined to the one before of the same role"] += 1
            out[-1]["content"] += "\n\n" + value
        else:
            out.append({"role": role, "content": value})
    if out and out[-1]["role"] == "user":
        notes["question at the end without a reply"] += 1
        out.pop()
    return out


def best_first(replies):
    """OpenAssistant's siblings by rank, 0 the best; those nobody ranked come last."""
    return sorted(replies, key=lambda m: (m.get("rank") is None, m.get("rank") or 0))


def walk_tree(root, where, notes, lang):
    """(conversation along the best replies, [Comparison] of all replies that were ranked) of an OpenAssistant tree."""
    def usable(m):
        if not isinstance(m, dict) or m.get("role") not in ("prompter", "assistant") or not isinstance(m.get("text"), str):
            raise ValueError(f"{where}: expected a message with role prompter or assistant and a text, found {str(m)[:60]!r}")
        if type(m.get("rank")) not in (int, float, type(None)):
            raise ValueError(f"{where}: rank is {str(m['rank'])[:60]!r}, expected a number")
        why = ("not in " + lang if m.get("lang", lang) != lang else "deleted" if m.get("deleted") else
               "not passed by review" if m.get("review_result") is False else "empty message" if not m["text"].strip() else None)
        if why:
            notes[f"message {why}"] += 1
        return not why

    def message(m):
        return {"role": "user" if m["role"] == "prompter" else "assistant", "content": m["text"]}

    best, comparisons, todo = [], [], [(root, [], True)] if usable(root) else []
    while todo:                                             # the best path first; deep trees must not recurse
        m, before, on_best = todo.pop()
        path = [*before, message(m)]
        if on_best:
            best = path
        replies = best_first([r for r in list_of(m.get("replies") or [], where, "replies") if usable(r)])
        ranked = [r for r in replies if r.get("rank") is not None and r["role"] == "assistant"]
        if len(ranked) > 1:
            comparisons.append(Comparison(path, [r["text"] for r in ranked], [-r["rank"] for r in ranked]))
        todo += [(r, path, on_best and i == 0) for i, r in reversed(list(enumerate(replies)))]
    return best[:len(best) - (len(best) % 2)], comparisons


def trees(messages):
    """[(where, root)] of OpenAssistant's messages that came a row each."""
    by_id = {}
    for where, row in messages:
        if row["parent_id"] is not None:
            text_of(row["parent_id"], where, "parent_id")
        if text_of(row["message_id"], where, "message_id") in by_id:
            raise ValueError(f"{where}: a second message of the message_id {row['message_id'][:60]!r}")
        by_id[row["message_id"]] = {**row, "replies": []}
    for _, row in messages:
        if row["parent_id"] in by_id:                       # a parent that was not exported: nobody can reach the reply
            by_id[row["parent_id"]]["replies"].append(by_id[row["message_id"]])
    return [(where, by_id[row["message_id"]]) for where, row in messages if row["parent_id"] is None]


MARKER = re.compile(r"\n\n(Human|Assistant):(?: |(?=\n|$))")


def from_transcript(text, where):
    """HH-RLHF's "\\n\\nHuman: ...\\n\\nAssistant: ..." -> conversation, as it stands."""
    found = list(MARKER.finditer(text))
    if not found or found[0].start() > 0:
        raise ValueError(f"{where}: a transcript begins with '\\n\\nHuman: ', this one with {text[:40]!r}")
    ends = [m.start() for m in found[1:]] + [len(text)]
    return [{"role": "user" if m[1] == "Human" else "assistant", "content": text[m.end():end].strip()} for m, end in zip(found, ends)]


def from_pair(row, where, notes):
    """-> Comparison of the chosen and the rejected, or None where more than the last reply differs."""
    chosen, rejected = row["chosen"], row["rejected"]
    prompt = row.get("prompt") or []
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list_of(prompt, where, "prompt")
    sides = []
    for side in (chosen, rejected):
        if isinstance(side, str) and prompt:
            side = [{"role": "assistant", "content": side}]
        messages = from_transcript(side, where) if isinstance(side, str) else list_of(side, where, "chosen or rejected")
        for m in [*prompt, *messages]:
            if not isinstance(m, dict):
                raise ValueError(f"{where}: {str(m)[:60]!r} is no message")
        if prompt and messages[:len(prompt)] != prompt:     # the prompt may stand in both as well
            messages = prompt + messages
        sides.append(messages)
    chosen, rejected = sides
    if any(not m.get("content") for m in chosen + rejected):
        notes["pair with an empty message"] += 1
    elif chosen[:-1] != rejected[:-1]:
        notes["pair that differs before its last reply"] += 1
    elif chosen[-1] == rejected[-1]:
        notes["pair of two equal replies"] += 1
    elif any(a.get("role") == b.get("role") for a, b in zip(chosen, chosen[1:])):
        notes["pair with two messages of one role in a row"] += 1
    elif chosen[-1].get("role") != "assistant":
        notes["pair that does not end with a reply"] += 1
    else:
        return Comparison(chosen[:-1], [chosen[-1]["content"], rejected[-1]["content"]], [1, 0])
    return None


def from_ultrafeedback(row, where, notes):
    replies, scores = [], []
    for completion in list_of(row["completions"], where, "completions"):
        score = completion.get("overall_score") if isinstance(completion, dict) else None
        if type(score) not in (int, float) or not -math.inf < score < math.inf:
            raise ValueError(f"{where}: a completion without a number as overall_score: {str(completion)[:60]!r}")
        replies.append(text_of(completion.get("response"), where, "response"))
        scores.append(score)
    if len(set(scores)) < 2 or not all(replies):
        notes["replies that all have one score, or are empty"] += 1
        return None
    return Comparison([{"role": "user", "content": text_of(row["instruction"], where, "instruction")}], replies, scores)


ANNOTATION = re.compile(r"<<([^<>]*)=([^<>=]*)>>")


def gsm8k_parts(answer, notes):
    """'48/2 = <<48/2=24>>24 clips' -> parts, the annotations as calls of the calculator. One whose result is not what the
    calculator gives is left out."""
    parts, at = [], 0
    for found in ANNOTATION.finditer(answer):
        result, said = sample.calculator(found[1]), found[2].strip().lstrip("$").replace(",", "")
        try:
            right = result is not None and abs(float(result) - float(said)) <= 1e-9 * max(1, abs(float(said)))
        except ValueError:
            right = False
        parts.append({"type": "text", "text": answer[at:found.start()]})
        at = found.end()
        if right:
            parts += [{"type": "tool", "text": found[1]}, {"type": "output", "text": result}]
            notes["zeros of a result that the calculator writes otherwise"] += result != found[2]
        else:
            notes["annotation that the calculator cannot follow"] += 1
    parts.append({"type": "text", "text": answer[at:]})
    return [part for part in parts if part["text"]]


def final_answer(text):
    """What stands behind the last ####, as GSM8K writes it: without commas and a full stop at the end; None if there is none."""
    found = re.findall(r"####\s*([^\n]+)", text)
    return found[-1].replace(",", "").strip().rstrip(".") if found else None


# ---------------------------------------------------------------------------------------------------- whole files


def _checked(messages, where, notes):
    """The conversation, or None where it is of no use; ValueError where it is none."""
    if messages is None:
        return None
    if not messages:
        notes["conversation with nothing in it"] += 1
        return None
    sample.check_messages(messages, where)
    for i, m in enumerate(messages):                        # in a chat a reply may say nothing; nobody is to learn that
        if isinstance(m["content"], list) and not any(part.get("text") for part in m["content"]):
            raise ValueError(f"{where}: message {i} of the {m['role']} is empty")
    if messages[-1]["role"] != "assistant":
        raise ValueError(f"{where}: the conversation ends with the {messages[-1]['role']}, there is no reply to learn")
    return messages


def conversations(path, notes, lang="en"):
    """Yields (where, conversation, kind or None) of a file in any of the schemas; of comparisons the best reply.

    notes: a Counter, to which what is left out or changed is added under its reason. lang: of OpenAssistant's messages.
    """
    messages = []
    for where, row in rows(path):
        name = schema(row, where)
        kind = str(row["kind"]) if isinstance(row, dict) and "kind" in row else None
        if name == "message":
            messages.append((where, row))
            continue
        if name in ("list", "messages"):
            found = from_messages(row if name == "list" else row["messages"], where, notes)
        elif name == "ultrachat":
            turns = [text_of(t, where, "data") for t in list_of(row["data"], where, "data")]
            found = [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(turns)]
            if len(found) % 2:
                notes["question at the end without a reply"] += 1
                found.pop()
        elif name == "sharegpt":
            found = from_sharegpt(row["conversations"], where, notes)
        elif name == "tree":
            found = walk_tree(row["prompt"], where, notes, lang)[0]
        elif name == "gsm8k":
            answer = gsm8k_parts(text_of(row["answer"], where, "answer"), notes)
            found = [{"role": "user", "content": text_of(row["question"], where, "question")}, {"role": "assistant", "content": answer}]
        else:
            comparison = (from_pair if name == "pair" else from_ultrafeedback)(row, where, notes)
            best = comparison and comparison.replies[comparison.scores.index(max(comparison.scores))]
            found = comparison and [*comparison.prompt, {"role": "assistant", "content": best}]
        found = _checked(found, where, notes)
        if found:
            yield where, found, kind
    for where, root in trees(messages):
        found = _checked(walk_tree(root, where, notes, lang)[0], where, notes)
        if found:
            yield where, found, None


def comparisons(path, notes, lang="en"):
    """Yields (where, Comparison) of a file of pairs, of replies with scores, or of OpenAssistant's trees."""
    messages = []
    for where, row in rows(path):
        name = schema(row, where)
        if name == "message":
            messages.append((where, row))
        elif name == "tree":
            yield from ((where, c) for c in walk_tree(row["prompt"], where, notes, lang)[1])
        elif name in ("pair", "ultrafeedback"):
            comparison = (from_pair if name == "pair" else from_ultrafeedback)(row, where, notes)
            if comparison:
                sample.check_messages(comparison.prompt, where)
                yield where, comparison
        else:
            raise ValueError(f"{where}: {name} has no replies to compare; expected chosen and rejected, UltraFeedback's completions "
                             "or OpenAssistant's ranks")
    for where, root in trees(messages):
        yield from ((where, c) for c in walk_tree(root, where, notes, lang)[1])


def tasks(path):
    """[{"question", "answer", ...}] of our own tasks or of GSM8K, whose answer is the number behind ####."""
    out = []
    for where, row in rows(path):
        if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"] or "answer" not in row:
            raise ValueError(f'{where}: expected {{"question": "...", "answer": ...}}')
        if type(row.get("exposure", 0)) is not int:
            raise ValueError(f"{where}: exposure is {row['exposure']!r}, expected a number of pages")
        if isinstance(row["answer"], str) and "####" in row["answer"]:
            row = {**row, "answer": final_answer(row["answer"]), "kind": "gsm8k"}
        if row["answer"] is None or row["answer"] == "":
            raise ValueError(f"{where}: a task without an answer")
        out.append(row)
    return out


def report(notes):
    """The notes, for the eye."""
    return "; ".join(f"{n:,} x {why}" for why, n in notes.most_common() if n)


def parse_args(argv=None):
    p = argparse.ArgumentParser(description="Show how chat data of any schema is read.")
    p.add_argument("file", nargs="+", help=".jsonl, .json, either of them gzipped")
    p.add_argument("--lang", default="en", help="of OpenAssistant's messages (default: %(default)s)")
    p.add_argument("--show", type=int, default=1, help="conversations to print of each file (default: %(default)s)")
    return p.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    for path in args.file:
        notes, n, turns, calls = Counter(), 0, 0, 0
        for where, messages, _ in conversations(Path(path), notes, args.lang):
            if n < args.show:
                print(where)
                for m in messages:
                    content = m["content"] if isinstance(m["content"], str) else "".join(
                        {"text": "{}", "tool": "[{}", "output": " = {}]"}[part["type"]].format(part["text"]) for part in m["content"])
                    print(f"  {m['role']:10} {content}")
            n, turns = n + 1, turns + len(messages)
            calls += sum(part["type"] == "tool" for m in messages if isinstance(m["content"], list) for part in m["content"])
        print(f"{path}: {n:,} conversations, {turns:,} messages, {calls:,} calls of the calculator" + f"; {report(notes)}" * bool(report(notes)))


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:                             # whoever read our output has gone, as head does
        os._exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, MemoryError) as e:
        sys.exit(f"chats.py: error: {e}")
