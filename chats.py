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
is malformed is a ValueError. The readers of rows say what they expected, `named` adds file and line.

Sources: the data sets' cards; openai/grade-school-math (the calculator's annotations).
"""

import argparse
import contextlib
import json
import re
from collections import Counter, deque, namedtuple
from pathlib import Path

import checkpoint
import command
import sample
from vocabularies import distinct

Comparison = namedtuple("Comparison", "prompt replies scores")      # messages; their contents; the higher the better

# ------------------------------------------------------------------------------------------------------ rows


@contextlib.contextmanager
def named(where):
    """Whatever is wrong with a row becomes a ValueError that names the row."""
    try:
        yield
    except ValueError as e:
        raise ValueError(f"{where}: {str(e)[:500]}") from None
    except RecursionError:
        raise ValueError(f"{where}: nested too deep") from None
    except (TypeError, LookupError, AttributeError, ArithmeticError) as e:
        raise ValueError(f"{where}: malformed ({type(e).__name__}: {str(e)[:100]})") from None


def parse(text):
    """The value of a JSON text, read with the error handler surrogateescape."""
    try:
        text = text.encode("utf-8", "surrogateescape").decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as e:   # not UTF-8, not JSON, too deep, a number too long
        raise ValueError(f"not JSON ({str(e)[:100]})") from e


def rows(path):
    """Yields (where, row) of a file of JSON lines or of one JSON list."""
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file; write the demo's with: python toyweb.py")
    lines = enumerate(checkpoint.read_lines(path, "surrogateescape"), 1)
    lines = ((n, line) for n, line in lines if line.strip())
    first = next(lines, None)
    if first is None:
        raise ValueError(f"{path}: empty, there is nothing to learn from")
    if first[1].lstrip().startswith("["):       # one list of rows, or each line a list of messages
        lines = list(lines)
        whole = list_of_rows(path, [first, *lines])
        if whole is not None:
            for i, row in enumerate(whole, 1):
                yield f"{path}: row {i}", row
            return
    yield from ((f"{path}:{n}", parsed(path, n, line)) for n, line in (first, *lines))


def parsed(path, n, line):
    with named(f"{path}:{n}"):
        return parse(line)


def list_of_rows(path, lines):
    """The rows of a file that is one JSON list; None if its first line is a row of its own."""
    try:
        found = parse(lines[0][1])
        if len(lines) > 1 or not found or is_message(found[0]):
            return None
        return found
    except ValueError:                          # the list goes on in the next lines
        pass
    try:
        return list_of(parse("".join(line for _, line in lines)), "the file")
    except ValueError as e:
        at = getattr(e.__cause__, "lineno", 1) - 1
        with named(f"{path}:{lines[min(at, len(lines) - 1)][0]}"):
            raise


def is_message(row):
    return isinstance(row, dict) and "role" in row


# The first whose keys are all there: a row of pairs may hold its best conversation as messages too.
SCHEMAS = {"pair": ("chosen", "rejected"), "ultrafeedback": ("instruction", "completions"), "tree": ("prompt", "message_tree_id"),
           "message": ("message_id", "parent_id", "text"), "messages": ("messages",), "ultrachat": ("data",),
           "sharegpt": ("conversations",), "gsm8k": ("question", "answer")}


def schema(row):
    """The name of the schema a row is in."""
    if isinstance(row, list):
        return "list"
    for name, keys in SCHEMAS.items():
        if isinstance(row, dict) and all(key in row for key in keys):
            return name
    found = f"the keys {', '.join(row)}"[:200] if isinstance(row, dict) else repr(row)[:60]
    known = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in SCHEMAS.items())
    raise ValueError(f"of no known schema: {found}; known are {known}")


def shown(value):
    """The beginning of a value as Python spells it, for an error message: 5 is no '5'."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def text_of(value, what):
    if not isinstance(value, str):
        raise ValueError(f"{what} is {shown(value)}, expected a text")
    return value


def list_of(value, what):
    if not isinstance(value, list):
        raise ValueError(f"{what} is {shown(value)}, expected a list")
    return value


def number_of(value, what):
    """An int or a float that float32 and float64 can hold; true and false are none."""
    if type(value) not in (int, float) or not abs(value) < 1e30:
        raise ValueError(f"{what} is {shown(value)}, expected a number")
    return value


# --------------------------------------------------------------------------- one schema each

ROLES = {"developer": "system", "human": "user", "gpt": "assistant"}


def message_of(m, content_needed=True):
    """{"role", "content"} of a message, checked. The content is a text, or parts {"type", "text"}.

    It may be None where it is not needed.
    """
    if not isinstance(m, dict):
        raise ValueError(f"{shown(m)} is no message")
    role, content = text_of(m.get("role"), "role"), m.get("content")
    role = ROLES.get(role, role)
    if role not in (*sample.ROLES, "tool"):
        raise ValueError(f"role {role[:60]!r}, expected {', '.join(sample.ROLES)} or tool")
    if content is None and not content_needed:
        return {"role": role, "content": None}
    if isinstance(content, list):
        return {"role": role, "content": [part_of(part) for part in content]}
    return {"role": role, "content": text_of(content, f"the content of the {role}")}


def part_of(part):
    if not isinstance(part, dict) or part.get("type") not in ("text", "tool", "output"):
        raise ValueError(f"unknown part {shown(part)}, expected the type text, tool or output")
    text = text_of(part.get("text"), f"the text of a part {part['type']}")
    return {"type": part["type"], "text": text}


def from_messages(messages, notes):
    """Hugging Face's list; calls of a calculator become parts of the reply they belong to.

    -> conversation, or None if another tool is called
    """
    out, open_calls = [], deque()               # calls that have no result yet
    outputs = {}                                # id() of a call's part -> the result
    for m in list_of(messages, "messages"):
        calls = list_of(m.get("tool_calls") or [], "tool_calls") if isinstance(m, dict) else []
        message = message_of(m, content_needed=not calls)
        role, content = message["role"], message["content"]
        if calls and role != "assistant":
            raise ValueError(f"a message of the {role} that calls tools")
        if role == "tool":                      # each result belongs to the first open call
            if not open_calls:
                raise ValueError("a tool's message that nobody called for")
            outputs[id(open_calls.popleft())] = text_of(content, "a tool's content")
            continue
        before = out[-1] if out else {"role": None, "content": None}
        goes_on = role == before["role"] == "assistant" and isinstance(before["content"], list)
        if calls or goes_on:                    # parts of one reply
            parts = []
            if content or not calls:
                parts.append({"type": "text", "text": text_of(content, "content")})
            for call in calls:
                expression = expression_of(call, notes)
                if expression is None:
                    return None
                parts.append({"type": "tool", "text": expression})
        else:
            parts = content if isinstance(content, list) else []
        if not goes_on:
            out.append({"role": role, "content": parts if calls else content})
            open_calls.clear()
        else:
            out[-1]["content"] += parts
        followed = [*parts[1:], {"type": None}]
        open_calls += [part for part, after in zip(parts, followed)
                       if part["type"] == "tool" and after["type"] != "output"]
    for m in out:
        if isinstance(m["content"], list):
            m["content"] = with_outputs(m["content"], outputs)
    return out


def with_outputs(parts, outputs):
    found = []
    for part in parts:
        found.append(part)
        if id(part) in outputs:
            found.append({"type": "output", "text": outputs[id(part)]})
    return found


def expression_of(call, notes):
    """What a tool call has the calculator work out; None, and a note, if it calls another tool."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise ValueError(
            f'a tool call is {shown(call)}, expected {{"function": {{"name", "arguments"}}}}')
    name, arguments = text_of(function.get("name"), "the name of a tool"), function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, object_pairs_hook=distinct)
        except ValueError:
            what = shown(arguments)
            raise ValueError(f"the arguments of a tool call are no JSON: {what}") from None
    expression = arguments.get("expression") if isinstance(arguments, dict) else None
    if name != "calculator" or not isinstance(expression, str):
        notes[f"calls the tool {name[:60]}, we have only calculator(expression)"] += 1
        return None
    return expression


SHAREGPT = {"human": "user", "user": "user", "system": "system", "gpt": "assistant",
            "assistant": "assistant", "chatgpt": "assistant", "bard": "assistant"}


def from_sharegpt(turns, notes):
    """A reply before any question and a question at the end go, neighbours of one role are joined.

    All of that is counted.
    """
    out, asked = [], False
    for turn in list_of(turns, "conversations"):
        if not isinstance(turn, dict) or turn.get("from") not in list(SHAREGPT):
            raise ValueError(
                f'expected {{"from": human, gpt or system, "value": text}}, found {shown(turn)}')
        role, value = SHAREGPT[turn["from"]], text_of(turn.get("value"), "value").strip()
        if not value:
            notes["empty message"] += 1
        elif role == "assistant" and not asked:
            notes["reply before any question"] += 1
        elif out and out[-1]["role"] == role:
            notes["messages joined to the one before of the same role"] += 1
            out[-1]["content"].append(value)
        else:
            out.append({"role": role, "content": [value]})
            asked |= role == "user"
    if out and out[-1]["role"] == "user":
        notes["question at the end without a reply"] += 1
        out.pop()
    return [{"role": m["role"], "content": "\n\n".join(m["content"])} for m in out]


def from_ultrachat(turns, notes):
    turns = [text_of(turn, "data") for turn in list_of(turns, "data")]
    if len(turns) % 2:
        notes["question at the end without a reply"] += 1
        turns.pop()
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


TREE_ROLES = {"prompter": "user", "assistant": "assistant"}


def checked_node(m):
    """A message of OpenAssistant's, checked."""
    known = isinstance(m, dict) and m.get("role") in list(TREE_ROLES)
    if not known or not isinstance(m.get("text"), str):
        raise ValueError(
            f"expected a message with role prompter or assistant and a text, found {shown(m)}")
    if m.get("rank") is not None:
        number_of(m["rank"], "rank")
    list_of(m.get("replies") or [], "replies")
    return m


def is_usable(m, notes, lang):
    if m.get("lang", lang) != lang:
        why = "not in " + lang
    elif m.get("deleted"):
        why = "deleted"
    elif m.get("review_result") is False:
        why = "not passed by review"
    elif not m["text"].strip():
        why = "empty message"
    else:
        return True
    notes[f"message {why}"] += 1
    return False


def best_first(replies):
    """OpenAssistant's siblings by rank, 0 the best; those nobody ranked come last."""
    return sorted(replies, key=lambda m: (m.get("rank") is None, m.get("rank") or 0))


def walk_tree(root, notes, lang):
    """OpenAssistant's tree -> (conversation along the best replies, iterator over Comparisons).

    A Comparison has the replies to one message that were ranked. A path is (the path before,
    message), so that the paths of a deep tree share what they have in common.
    """
    best, compared = None, []
    todo = [(root, None, True)] if is_usable(checked_node(root), notes, lang) else []
    while todo:                                 # the best path first; deep trees must not recurse
        m, before, on_best = todo.pop()
        path = before, {"role": TREE_ROLES[m["role"]], "content": m["text"]}
        if on_best:
            best = path
        replies = [r for r in m.get("replies") or [] if is_usable(checked_node(r), notes, lang)]
        replies = best_first(replies)
        ranked = [r for r in replies if r.get("rank") is not None and r["role"] == "assistant"]
        if len(ranked) > 1:
            compared.append((path, ranked))
        todo += [(r, path, on_best and i == 0) for i, r in reversed(list(enumerate(replies)))]
    best = messages_of(best)
    return best[:len(best) - len(best) % 2], (comparison_of(*each) for each in compared)


def comparison_of(path, ranked):
    scores = [-r["rank"] for r in ranked]       # 0 is the best
    return Comparison(messages_of(path), [r["text"] for r in ranked], scores)


def messages_of(path):                          # see walk_tree
    found = []
    while path:
        path, message = path
        found.append(message)
    return found[::-1]


def checked_row(row):
    """A message of OpenAssistant's that came as a row."""
    if row["parent_id"] is not None:
        text_of(row["parent_id"], "parent_id")
    text_of(row["message_id"], "message_id")
    return checked_node({**row, "replies": []})


def trees(messages, notes):
    """[(where, root)] of OpenAssistant's messages that came a row each."""
    by_id, seen = {}, 0
    for where, row in messages:
        with named(where):
            if row["message_id"] in by_id:
                raise ValueError(f"a second message of the message_id {shown(row['message_id'])}")
        by_id[row["message_id"]] = row
    for _, row in messages:
        if row["parent_id"] in by_id:
            by_id[row["parent_id"]]["replies"].append(row)
    roots = [(where, row) for where, row in messages if row["parent_id"] is None]
    todo = [row for _, row in roots]
    while todo:
        seen, todo = seen + len(todo), [reply for row in todo for reply in row["replies"]]
    if seen < len(messages):
        notes["message whose tree has no beginning"] += len(messages) - seen
    return roots


MARKER = re.compile(r"\n\n(Human|Assistant):(?: |(?=\n|$))")


def from_transcript(text):
    """HH-RLHF's "\\n\\nHuman: ...\\n\\nAssistant: ..." -> conversation, as it stands."""
    found = list(MARKER.finditer(text))
    if not found or found[0].start() > 0:
        raise ValueError(f"a transcript begins with '\\n\\nHuman: ', this one with {text[:40]!r}")
    ends = [m.start() for m in found[1:]] + [len(text)]
    return [{"role": "user" if m[1] == "Human" else "assistant", "content": text[m.end():end].strip()} for m, end in zip(found, ends)]


def from_side(side, prompt):
    """The conversation of what was chosen or rejected; the prompt may stand in it as well."""
    if isinstance(side, str):
        if not prompt:
            return from_transcript(side)
        return [*prompt, {"role": "assistant", "content": side}]
    messages = [message_of(m) for m in list_of(side, "chosen or rejected")]
    return messages if messages[:len(prompt)] == prompt else prompt + messages


def from_pair(row, notes):
    """-> Comparison of the chosen and the rejected, or None where more than the last reply differs."""
    prompt = row.get("prompt") or []
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    prompt = [message_of(m) for m in list_of(prompt, "prompt")]
    chosen, rejected = from_side(row["chosen"], prompt), from_side(row["rejected"], prompt)
    if not chosen or not rejected or not all(m["content"] for m in chosen + rejected):
        notes["pair with an empty message"] += 1
    elif chosen[:-1] != rejected[:-1]:
        notes["pair that differs before its last reply"] += 1
    elif chosen[-1] == rejected[-1]:
        notes["pair of two equal replies"] += 1
    elif any(a["role"] == b["role"] for a, b in zip(chosen, chosen[1:])):
        notes["pair with two messages of one role in a row"] += 1
    elif chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        notes["pair that does not end with a reply"] += 1
    else:
        return Comparison(chosen[:-1], [chosen[-1]["content"], rejected[-1]["content"]], [1, 0])
    return None


def from_ultrafeedback(row, notes):
    replies, scores = [], []
    for completion in list_of(row["completions"], "completions"):
        if not isinstance(completion, dict):
            raise ValueError(
                f'a completion is {shown(completion)}, expected {{"response", "overall_score"}}')
        score = completion.get("overall_score")
        scores.append(number_of(score, "the overall_score of a completion"))
        replies.append(text_of(completion.get("response"), "response"))
    question = text_of(row["instruction"], "instruction")
    if len(set(scores)) < 2 or not all(replies):
        notes["replies that all have one score, or are empty"] += 1
        return None
    return Comparison([{"role": "user", "content": question}], replies, scores)


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
    with named(where):
        for i, m in enumerate(messages):        # nobody is to learn a reply that says nothing
            parts = m["content"] if isinstance(m["content"], list) else []
            if parts and m["role"] == "system" and any(part["type"] != "text" for part in parts):
                raise ValueError(f"message {i} of the system has parts of a tool, "
                                 "which only the assistant can call")
            if not m["content"] or parts and not any(part["text"] for part in parts):
                raise ValueError(f"message {i} of the {m['role']} is empty")
        if messages[-1]["role"] != "assistant":
            role = messages[-1]["role"]
            raise ValueError(f"the conversation ends with the {role}, there is no reply to learn")
    return messages


def _checked_comparison(comparison, where):
    """The Comparison; ValueError unless its prompt is a conversation that ends with the user."""
    sample.check_messages(comparison.prompt, where)
    with named(where):
        role = comparison.prompt[-1]["role"]
        if role != "user":
            raise ValueError(f"the replies follow the {role}, expected the user")
    return comparison


def conversation_of(row, name, notes, lang):
    """The conversation in a row of the schema `name`; of a comparison the best reply.

    None if the row is of no use.
    """
    if name == "list":
        return from_messages(row, notes)
    if name == "messages":
        return from_messages(row["messages"], notes)
    if name == "ultrachat":
        return from_ultrachat(row["data"], notes)
    if name == "sharegpt":
        return from_sharegpt(row["conversations"], notes)
    if name == "tree":
        return walk_tree(row["prompt"], notes, lang)[0]
    if name == "gsm8k":
        question, answer = text_of(row["question"], "question"), text_of(row["answer"], "answer")
        return [{"role": "user", "content": question},
                {"role": "assistant", "content": gsm8k_parts(answer, notes)}]
    comparison = from_pair(row, notes) if name == "pair" else from_ultrafeedback(row, notes)
    if comparison is None:
        return None
    best = comparison.replies[comparison.scores.index(max(comparison.scores))]
    return [*comparison.prompt, {"role": "assistant", "content": best}]


def kind_of(row):
    """The kind that a row says it is of, as a text; None if it says nothing."""
    kind = row.get("kind") if isinstance(row, dict) else None
    if type(kind) not in (str, int, type(None)):
        raise ValueError(f"kind is {shown(kind)}, expected a text")
    return None if kind is None else str(kind)


def conversations(path, notes, lang="en"):
    """Yields (where, conversation, kind or None) of a file in any of the schemas; of comparisons the best reply.

    notes: a Counter, to which what is left out or changed is added under its reason. lang: of OpenAssistant's messages.
    """
    messages = []
    for where, row in rows(path):
        with named(where):
            name, kind = schema(row), kind_of(row)
            if name == "message":
                messages.append((where, checked_row(row)))
                continue
            found = conversation_of(row, name, notes, lang)
        found = _checked(found, where, notes)
        if found:
            yield where, found, kind
    for where, root in trees(messages, notes):
        found = _checked(walk_tree(root, notes, lang)[0], where, notes)
        if found:
            yield where, found, None


def comparisons(path, notes, lang="en"):
    """Yields (where, Comparison) of a file of pairs, of replies with scores, or of OpenAssistant's trees."""
    messages = []
    for where, row in rows(path):
        with named(where):
            name, found = schema(row), []
            if name == "message":
                messages.append((where, checked_row(row)))
            elif name == "tree":
                found = walk_tree(row["prompt"], notes, lang)[1]
            elif name in ("pair", "ultrafeedback"):
                read = from_pair if name == "pair" else from_ultrafeedback
                comparison = read(row, notes)
                found = [comparison] if comparison else []
            else:
                raise ValueError(f"{name} has no replies to compare; expected chosen and rejected, "
                                 "UltraFeedback's completions or OpenAssistant's ranks")
        yield from ((where, _checked_comparison(comparison, where)) for comparison in found)
    for where, root in trees(messages, notes):
        found = walk_tree(root, notes, lang)[1]
        yield from ((where, _checked_comparison(comparison, where)) for comparison in found)


def task_of(row):
    """A task, checked: what arena.py and align.py ask of it."""
    question = row.get("question") if isinstance(row, dict) else None
    if not question or not isinstance(question, str) or "answer" not in row:
        raise ValueError('expected {"question": "...", "answer": ...}')
    if type(row.get("exposure", 0)) is not int:
        raise ValueError(f"exposure is {shown(row['exposure'])}, expected a number of pages")
    kind_of(row)
    for option in list_of(row.get("options", []), "options"):
        text_of(option, "an option")
    text_of(row.get("reply", ""), "reply")
    answer = row["answer"]
    if isinstance(answer, str) and "####" in answer:
        row = {**row, "answer": final_answer(answer), "kind": "gsm8k"}
    if row["answer"] is None or row["answer"] == "":
        raise ValueError("a task without an answer")
    if not isinstance(answer, str):
        number_of(answer, "answer")
    return row


def tasks(path):
    """[{"question", "answer", ...}] of our own tasks or of GSM8K, whose answer is the number behind ####."""
    out = []
    for where, row in rows(path):
        with named(where):
            out.append(task_of(row))
    return out


def report(notes):
    """The notes, for the eye; the twenty that are most frequent."""
    found = [f"{n:,} x {why}" for why, n in notes.most_common() if n]
    more = [f"{len(found) - 20:,} other reasons"] if len(found) > 20 else []
    return "; ".join(found[:20] + more)


def parse_args(argv=None):
    p = argparse.ArgumentParser(description="Show how chat data of any schema is read.")
    p.add_argument("file", nargs="+", help=".jsonl, .json, either of them gzipped")
    p.add_argument("--lang", default="en", help="of OpenAssistant's messages (default: %(default)s)")
    p.add_argument("--show", type=int, default=1, help="conversations to print of each file (default: %(default)s)")
    args = p.parse_args(argv)
    if args.show < 0:
        p.error(f"--show {args.show}: at least 0")
    return args


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
    command.run(main)
