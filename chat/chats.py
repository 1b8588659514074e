"""chats.py: the chat data of others, read as conversations, comparisons and tasks.

Everybody writes the same three things down in their own way. Here they become

    conversation    [{"role": "system", "user" or "assistant", "content": a text, or the assistant's parts}, ...]
    comparison      what was asked, a conversation that ends with the user; replies to it, and a score for each
    task            {"question", "answer", "kind"}

    {"messages": [{"role", "content"}, ...]}        Hugging Face, SmolTalk, UltraChat 200k, our own; or the list alone
    {"conversation": [{"role", "content"}, ...]}    LMSYS-Chat-1M, WildChat; or Capybara's {"input", "output"}
    {"data": ["Hello", "Hi! How can I help?", ...]} UltraChat
    {"conversations": [{"from", "value"}, ...]}     ShareGPT; or LIMA's texts
    {"message_tree_id", "prompt": {"replies"}}      OpenAssistant's trees; or its messages, a row each, with parent_id
    {"chosen", "rejected"}                          HH-RLHF's transcripts, or messages; with "prompt" or without
    {"instruction", "completions"}                  UltraFeedback, with a score for each
    {"question", "answer"}                          GSM8K: its <<48/2=24>> become calls of the calculator

A file has a row a line, or is one JSON list, and may be gzipped. `read_rows` has the one rule for
its rows: a row is read, or mended, or left out, and what is mended or left out is counted under a
short reason. Nothing that carries meaning is dropped unseen: a system text beside the messages, the
name of a speaker, reasoning, a mark that a reply is not to be learned, an image, other tools. A
file that is no JSON, or in which nothing can be used, is a ValueError that names file and line.

Sources: the data sets' cards; openai/grade-school-math (the calculator's annotations).
"""

import argparse
import contextlib
import itertools
import json
import re
import sys
from collections import Counter, OrderedDict, namedtuple
from fractions import Fraction
from pathlib import Path

from run import command, disk
from chat import template
from chat.template import Unusable
from chat.tools import calculator

Comparison = namedtuple("Comparison", "prompt replies scores")      # messages; their contents; the higher the better

# ------------------------------------------------------------------------------------------------------ rows


@contextlib.contextmanager
def named(where):
    """What is wrong with a row, or with a line that is no JSON, becomes a ValueError that names it.

    An Unusable keeps its reason; any other error gets one.
    """
    try:
        yield
    except Unusable as e:
        reason, what = e.reason, str(e)
    except ValueError as e:
        reason, what = "malformed", str(e)
    except RecursionError:
        reason = what = "nested too deep"
    except (TypeError, LookupError, AttributeError, ArithmeticError) as e:
        reason = f"malformed ({type(e).__name__})"
        what = f"malformed ({type(e).__name__}: {str(e)[:100]})"
    else:
        return
    error = Unusable(f"{where}: {what[:500]}")
    error.reason = reason
    raise error from None


def read_rows(path, found, notes, read):
    """Yields (where, each that read(where, row) gives) for the rows found, (where, row), of a file.

    This is the rule for a row with which anything is wrong: it is left out, and its reason is
    counted in notes.
    ValueError where nothing is left of the file, with all the reasons and the first row.
    """
    before, first, used = Counter(notes), "", False
    for where, row in found:
        try:
            with named(where):
                results = read(where, row)
        except Unusable as e:
            first = first or f"; the first is {e}"
            notes[e.reason] += 1
            continue
        for each in results:
            used = True
            yield where, each
    if not used:
        raise ValueError(f"{path}: nothing in it can be used: {report(notes - before)}{first}")


def parse(text):
    """The value of a JSON text, read with the error handler surrogateescape."""
    try:
        text = text.encode("utf-8", "surrogateescape").decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=disk.distinct)
    except (ValueError, RecursionError) as e:   # not UTF-8, not JSON, too deep, a number too long
        raise ValueError(f"not JSON ({str(e)[:100]})") from e


def rows(path):
    """Yields (where, row) of a file of JSON lines or of one JSON list."""
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file; write the demo's with: python -m web.toyweb")
    lines = enumerate(disk.read_lines(path, "surrogateescape"), 1)
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
    return isinstance(row, dict) and ("role" in row or "from" in row)


# The first whose keys are all there: a row of pairs may hold its best conversation as messages too.
SCHEMAS = {"pair": ("chosen", "rejected"), "ultrafeedback": ("instruction", "completions"), "tree": ("prompt", "message_tree_id"),
           "message": ("message_id", "parent_id", "text"), "messages": ("messages",), "ultrachat": ("data",),
           "sharegpt": ("conversations",), "conversation": ("conversation",),
           "gsm8k": ("question", "answer")}


def schema(row):
    """The name of the schema a row is in. Null columns count only where no other schema fits."""
    if isinstance(row, list):
        return "list"
    null = None
    for name, keys in SCHEMAS.items():
        if isinstance(row, dict) and all(key in row for key in keys):
            if all(row[key] is not None for key in keys):
                return name
            null = null or name
    if null:
        return null
    found = f"the keys {', '.join(row)}"[:200] if isinstance(row, dict) else repr(row)[:60]
    known = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in SCHEMAS.items())
    raise Unusable("of no known schema", f"{found}; known are {known}")


def shown(value):
    """The beginning of a value as Python spells it, for an error message: 5 is no '5'."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def text_of(value, what):
    if not isinstance(value, str):
        raise Unusable(f"{what} is no text", shown(value))
    return value


def list_of(value, what):
    if not isinstance(value, list):
        raise Unusable(f"{what} is no list", shown(value))
    return value


def number_of(value, what):
    """An int or a float that float32 and float64 can hold; true and false are none."""
    if type(value) not in (int, float) or not abs(value) < 1e30:
        raise Unusable(f"{what} is no number", shown(value))
    return value


# --------------------------------------------------------------------------- one schema each

# Who speaks, as data sets call them. "call" is a message that is nothing but a call of a tool.
ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "chatgpt": "assistant",
    "bard": "assistant", "bing": "assistant", "claude": "assistant", "gemini": "assistant",
    "bot": "assistant", "ai": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool",
    "function_response": "tool", "tool_response": "tool",
    "function_call": "call", "tool_call": "call"}

# Keys of a message or of a row. What the chat format has no place for is never dropped unseen.
CONTENT = ("content", "value", "text")
CALLS = {"tool_calls", "function_call"}
# OpenAI's, Axolotl's, ms-swift's and LLaMA-Factory's: 0 or false is read and not learned.
LEARNED = ("weight", "train", "training", "loss", "loss_scale", "loss_weight")
LEARNED_IN_PARTS = ("train_detail", "training_detail")
REASONING = ("reasoning_content", "reasoning", "thinking", "thought")
MEDIA = ("image", "images", "video", "videos", "audio", "audios", "documents")
ABOUT = ("context", "passage", "choices", "history")     # what a question is about
SYSTEM = ("system", "system_prompt", "systemPrompt", "system_message", "systemMessage",
          "custom_instructions")
TOOLS = ("tools", "functions", "xml_tools", "python_tools")
GOOD = ("label", "kto_tag")                             # KTO's: false is what not to say
BESIDE = {*MEDIA, *ABOUT, *SYSTEM, *TOOLS, "weight", "train", "chat_template_kwargs"}


def role_of(m):
    """Who speaks: system, user, assistant, tool or call."""
    if not isinstance(m, dict):
        raise Unusable("no message", shown(m))
    spelled = m.get("role")
    spelled = m.get("from") if spelled is None else spelled
    role = ROLES.get(spelled) if isinstance(spelled, str) else None
    if role is None and isinstance(spelled, str):
        role = ROLES.get(spelled.strip().lower().replace("-", "_").replace(" ", "_"))
    if role is None:
        detail = f"expected system, user, assistant or tool, found {shown(m)}"
        raise Unusable(f"unknown role {shown(spelled)}", detail)
    return role


def content_of(m):
    """What a message says, a text or parts; None where it says nothing."""
    for key in CONTENT:
        if m.get(key) is not None:
            content = m[key]
            return [renamed(part) for part in content] if isinstance(content, list) else content
    return m.get("refusal")                     # OpenAI's API puts it there


def renamed(part):
    """A part whose text is under "text"; LLaMA-Factory has it under "value"."""
    if isinstance(part, dict) and part.get("text") is None and isinstance(part.get("value"), str):
        return {**part, "text": part["value"]}
    return part


def refuse_keys(holder, keys=MEDIA):
    """Unusable: something under one of the keys, which the chat format has no place for."""
    for key in keys:
        if holder.get(key):
            raise Unusable(f"with {key}", shown(holder[key]))


def weight_of(holder):
    """1, or 0 for what is to be read and not learned; None where it does not say."""
    for key in LEARNED_IN_PARTS:
        if holder.get(key):
            raise Unusable(template.PARTLY, f"{key} is {shown(holder[key])}")
    weights = [holder[key] for key in LEARNED if holder.get(key) is not None]
    for weight in weights:
        if not isinstance(weight, (bool, int, float)) or weight not in (0, 1):
            raise Unusable("a weight that is neither 0 nor 1", shown(weight))
    return int(min(weights)) if weights else None


def read_fields(m, role, notes):
    """The weight of a message that has more than a role and a content; notes what has no place."""
    refuse_keys(m)
    weight = weight_of(m)
    if weight == 1 and role == "user":
        notes["message of the user that is to be learned, which it is not"] += 1
    if any(m.get(key) for key in REASONING):
        notes["reasoning beside a reply, which is left out"] += 1
    if m.get("name") and role in template.ROLES:
        notes["name of a speaker, which is left out"] += 1
    return weight if role == "assistant" and weight is not None else 1


def read_json(text, what):
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text, object_pairs_hook=disk.distinct)
    except ValueError:
        raise Unusable(f"{what} are no JSON", shown(text)) from None


def calls_of(m, role):
    """The calls of tools in a message: OpenAI's, its older function_call, or ShareGPT's."""
    if role == "call":
        calls = read_json(content_of(m), "the calls of a tool")
        return calls if isinstance(calls, list) else [calls]
    calls = list(list_of(m.get("tool_calls") or [], "tool_calls"))
    if m.get("function_call"):
        calls.append({"function": m["function_call"]})
    if calls and role != "assistant":
        raise Unusable(f"a call of the {role}", "a message that calls tools")
    return calls


def expression_of(call):
    """What a tool call has the calculator work out. Unusable: it calls another tool."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        raise Unusable("a tool call of no known form",
                       f'{shown(call)}, expected {{"function": {{"name", "arguments"}}}}')
    name = text_of(function["name"], "the name of a tool")
    arguments = read_json(function.get("arguments"), "the arguments of a tool call")
    expression = arguments.get("expression") if isinstance(arguments, dict) else None
    if name != "calculator" or not isinstance(expression, str):
        raise Unusable(f"calls the tool {name[:60]}, we have only calculator(expression)")
    return expression


class Calls:
    """The calls of one reply that have no result yet, and the results of all."""

    def __init__(self):
        self.open = OrderedDict()               # id of the call, or an object() of its own -> part
        self.outputs = {}                       # id() of a part -> result

    def add(self, part, call=None):
        name = call.get("id") if isinstance(call, dict) else None
        self.open[name if isinstance(name, str) and name not in self.open else object()] = part

    def answer(self, m):
        """A result belongs to the call of its tool_call_id; without one, to the first open one."""
        result = template.checked_content(0, "tool", content_of(m))
        name = m.get("tool_call_id")
        if isinstance(name, str) and name in self.open:
            part = self.open.pop(name)
        elif self.open and not (isinstance(name, str) and isinstance(next(iter(self.open)), str)):
            part = self.open.popitem(last=False)[1]
        else:
            raise Unusable("a tool's message that nobody called for", shown(m))
        self.outputs[id(part)] = result

    def with_outputs(self, parts):
        found = []
        for part in parts:
            found.append(part)
            if id(part) in self.outputs:
                found.append({"type": "output", "text": self.outputs[id(part)]})
        return found


def without_output(parts):
    """The calls among an assistant's parts that no output follows."""
    kinds = [part.get("type") if isinstance(part, dict) else None for part in parts]
    found = zip(parts, kinds, [*kinds[1:], None])
    return [part for part, kind, after in found if kind == "tool" and after != "output"]


def texts_in_turn(turns):
    """The texts of turns that do not say who speaks; [] where one is no such turn.

    A turn is a text (LIMA), {"input", "output"} (Capybara) or [question, reply] (Gradio).
    """
    texts = []
    for turn in turns:
        if isinstance(turn, dict):
            turn = [turn["input"], turn["output"]] if turn.keys() == {"input", "output"} else []
        said = turn if isinstance(turn, list) and len(turn) == 2 else [turn]
        if not all(isinstance(text, str) for text in said):
            return []
        texts += said
    return texts


def from_messages(messages, notes):
    """Messages as Hugging Face, OpenAI or ShareGPT spell them -> [{"role", "content"}].

    Calls of the calculator become parts of the reply they belong to. An assistant's message that is
    not to be learned has "weight" 0. The order is as it came: finished mends it.
    """
    out, calls = [], Calls()
    messages = read_json(messages, "the messages")          # a text, in columns of some
    messages = list_of(messages, "messages")
    texts = [] if messages and is_message(messages[0]) else texts_in_turn(messages)
    if len(texts) > 1:
        return from_ultrachat(texts, notes)
    for m in messages:
        role = role_of(m)
        called = calls_of(m, role) if role == "call" or not CALLS.isdisjoint(m) else []
        content = None if role == "call" else content_of(m)
        role = "assistant" if role == "call" else role
        weight = read_fields(m, role, notes) if len(m) > 2 else 1
        if role == "tool":
            calls.answer(m)
            continue
        before = out[-1] if out else {"role": None, "content": None}
        goes_on = role == before["role"] == "assistant" and isinstance(before["content"], list)
        if not called and not goes_on and not isinstance(content, list):
            out.append({"role": role, "content": content})
            calls.open.clear()
        else:                                   # parts of one reply
            if isinstance(content, str):
                content = [{"type": "text", "text": content}] if content else []
            parts = list_of(content or [], "the content of a message")
            expressions = [{"type": "tool", "text": expression_of(call)} for call in called]
            if goes_on:
                if before.get("weight", 1) != weight:
                    raise Unusable(template.PARTLY)
                before["content"] += parts + expressions
            else:
                out.append({"role": role, "content": parts + expressions})
                calls.open.clear()
            for part in without_output(parts):
                calls.add(part)
            for part, call in zip(expressions, called):
                calls.add(part, call)
        if weight != 1:
            out[-1]["weight"] = weight
    for m in out:
        if isinstance(m["content"], list):
            m["content"] = calls.with_outputs(m["content"])
    return out


def from_sharegpt(turns, notes):
    """As from_messages, without the white space around each text, which pages of ChatGPT had."""
    out = from_messages(turns, notes)
    for m in out:
        if isinstance(m["content"], str):
            m["content"] = m["content"].strip()
    return out


def from_ultrachat(turns, notes):
    turns = list_of(turns, "data")
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


# ------------------------------------------------------------- what a row says beside its messages


def refuse_row(row):
    """Unusable: a row with an image, a passage or other tools, or one that is not to be learned."""
    refuse_keys(row, MEDIA + ABOUT)
    if row.get("weight") == 0 or row.get("train") is False:
        raise Unusable("a row that is not to be learned")
    for key in TOOLS:
        tools = row.get(key)
        if isinstance(tools, str):
            tools = None if tools.strip() in ("", "None") else read_json(tools, "the tools")
        if not isinstance(tools, list):
            tools = [tools] if tools else []
        for tool in tools:
            function = tool.get("function", tool) if isinstance(tool, dict) else {}
            name = function.get("name") if isinstance(function, dict) else None
            if name != "calculator":
                raise Unusable("offers other tools than calculator(expression)", shown(tool))


def system_of(row):
    """[a system message] of what the row itself says to the assistant, or []."""
    for key in SYSTEM:
        text = row.get(key)
        if text is not None and text_of(text, key).strip():
            return [{"role": "system", "content": text}]
    return []


def beside(row):
    """The system message of a row that is a dict, as a list; refuses what refuse_row does."""
    if not isinstance(row, dict) or BESIDE.isdisjoint(row):
        return []
    settings = row.get("chat_template_kwargs")  # SmolTalk 2's, TRL's
    found = []
    for holder in (row, settings if isinstance(settings, dict) else {}):
        refuse_row(holder)
        found = found or system_of(holder)
    return found


def with_system(system, messages):
    """The messages behind the system's, unless they say it themselves."""
    for m in messages if system else []:
        said = m["content"] if m["role"] == "system" else None
        if isinstance(said, str) and said.strip() == system[0]["content"].strip():
            return messages
    return system + messages


TREE_ROLES = {"prompter": "user", "assistant": "assistant"}


def checked_node(m):
    """A message of OpenAssistant's, checked."""
    known = isinstance(m, dict) and m.get("role") in list(TREE_ROLES)
    if not known or not isinstance(m.get("text"), str):
        raise Unusable("no message of a tree",
                       f"expected one with role prompter or assistant and a text, found {shown(m)}")
    if m.get("rank") is not None:
        number_of(m["rank"], "rank")
    list_of(m.get("replies") or [], "replies")
    return m


def is_usable(m, notes, lang):
    """Whether a message of a tree, and the replies to it, can be used. Why not is noted."""
    try:
        checked_node(m)
    except Unusable as e:
        notes[e.reason] += 1
        return False
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
    todo = [(root, None, True)] if is_usable(root, notes, lang) else []
    while todo:                                 # the best path first; deep trees must not recurse
        m, before, on_best = todo.pop()
        path = before, {"role": TREE_ROLES[m["role"]], "content": m["text"]}
        if on_best:
            best = path
        replies = [r for r in m.get("replies") or [] if is_usable(r, notes, lang)]
        replies = best_first(replies)
        ranked = [r for r in replies if r.get("rank") is not None and r["role"] == "assistant"]
        if len(ranked) > 1:
            compared.append((path, ranked))
        todo += [(r, path, on_best and i == 0) for i, r in reversed(list(enumerate(replies)))]
    return messages_of(best), (comparison_of(*each) for each in compared)


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


def trees(rows, notes):
    """[(where, root)] of OpenAssistant's messages that came a row each.

    Of two with one message_id the first counts: with both, a message could be its own ancestor.
    """
    by_id, messages, seen = {}, [], 0
    for where, row in rows:
        if row["message_id"] in by_id:
            notes["second message of one message_id"] += 1
        else:
            by_id[row["message_id"]] = row
            messages.append((where, row))
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


MARKER = re.compile(r"(?:\n\n|\A\s*)(Human|Assistant):(?: |(?=\n|\Z))")


def is_transcript(text):
    """Whether a text begins as HH-RLHF's do."""
    return bool(MARKER.match(text))


def is_prompt_transcript(text):
    """Whether a prompt is a transcript: begins like one, or ends where the assistant speaks."""
    if text.startswith("\n\nHuman:"):
        return True
    return text.rstrip().endswith("\n\nAssistant:") and bool(MARKER.search(text))


def from_transcript(text):
    """HH-RLHF's "\\n\\nHuman: ...\\n\\nAssistant: ..." -> conversation, as it stands.

    What stands before the first Human or Assistant is the system's.
    """
    found = list(MARKER.finditer(text))
    if not found:
        raise Unusable("no transcript", f"one has '\\n\\nHuman: ', this begins with {text[:40]!r}")
    begin = text[:found[0].start()].strip()
    out = [{"role": "system", "content": begin}] if begin else []
    for m, end in zip(found, [m.start() for m in found[1:]] + [len(text)]):
        role = "user" if m[1] == "Human" else "assistant"
        out.append({"role": role, "content": text[m.end():end].strip()})
    return out


def from_prompt(row, notes):
    """The prompt of a pair: a text, messages or a transcript, under its name in the data set.

    [] where it stands in the replies themselves.
    """
    prompt = row.get("prompt") or row.get("conversations") or row.get("question") or ""
    if not prompt:                              # Alpaca's; Argilla has the input alone
        texts = [text_of(row[key], key) for key in ("instruction", "input") if row.get(key)]
        prompt = "\n".join(texts)
    if not isinstance(prompt, str):
        return from_messages(prompt, notes)
    if not is_prompt_transcript(prompt):
        return [{"role": "user", "content": prompt}] if prompt else []
    messages = from_transcript(prompt)
    return messages if messages[-1]["content"] else messages[:-1]


def from_side(side, prompt, notes):
    """The conversation of what was chosen or rejected, behind the prompt where it lacks it."""
    if not isinstance(side, str):
        messages = from_messages([side] if isinstance(side, dict) else side, notes)
    elif is_transcript(side) or not prompt:
        messages = from_transcript(side)
    else:
        messages = [{"role": "assistant", "content": side}]
    return with_prompt(prompt, messages)


def spoken(messages):
    """[(role, content)] of users and assistants, without white space around the texts."""
    out = []
    for m in messages:
        content = m["content"].strip() if isinstance(m["content"], str) else m["content"]
        if m["role"] != "system":
            out.append((m["role"], content))
    return out


def with_prompt(prompt, messages):
    """prompt + messages, without what stands in both: all of the prompt, or its last message."""
    asked, said = spoken(prompt), spoken(messages)
    if said[:len(asked)] == asked or len(asked) == 1 and asked[0] in said:
        return [m for m in prompt if m["role"] == "system" and m not in messages] + messages
    if said[:1] == asked[-1:]:
        return prompt[:-1] + messages
    return prompt + messages


def is_reply(messages):
    return bool(messages) and messages[-1]["role"] == "assistant"


def from_pair(row, notes):
    """-> Comparison of chosen and rejected. Unusable where more than the last reply differs."""
    system, prompt, sides = beside(row), from_prompt(row, notes), []
    as_transcript = isinstance(row.get("prompt"), str) and is_prompt_transcript(row["prompt"])
    for side in (row["chosen"], row["rejected"]):
        if as_transcript and isinstance(side, str) and not is_transcript(side):
            side = side.strip()                 # as the other replies of a transcript
        messages = from_side(side, prompt, notes)
        last = messages[-1] if messages else {"role": "assistant", "content": None}
        content = template.checked_content(len(messages) - 1, last["role"], last["content"])
        if template.is_empty(content):
            raise Unusable("pair with an empty message")
        sides.append(in_turns(with_system(system, messages), notes))
    chosen, rejected = sides
    if not is_reply(chosen) or not is_reply(rejected):
        raise Unusable("pair that does not end with a reply")
    replies = [chosen[-1]["content"], rejected[-1]["content"]]
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("pair that differs before its last reply")
    if replies[0] == replies[1]:
        raise Unusable("pair of two equal replies")
    if 0 in (chosen[-1].get("weight"), rejected[-1].get("weight")):
        raise Unusable("a row that is not to be learned")
    return Comparison(chosen[:-1], replies, [1, 0])


def from_ultrafeedback(row, notes):
    """-> Comparison of the completions that have a score."""
    replies, scores = [], []
    for completion in list_of(row["completions"], "completions"):
        try:
            if not isinstance(completion, dict):
                raise Unusable("a completion of no known form",
                               f'{shown(completion)}, expected {{"response", "overall_score"}}')
            score = number_of(completion.get("overall_score"), "the overall_score of a completion")
            reply = text_of(completion.get("response"), "the response of a completion")
        except Unusable as e:
            notes[e.reason] += 1
            continue
        if template.is_empty(reply):
            notes[template.EMPTY] += 1
            continue
        if completion.get("custom_system_prompt"):
            notes["system prompt of a single reply, which is left out"] += 1
        scores.append(score)
        replies.append(reply)
    if len(set(scores)) < 2:
        raise Unusable("replies that all have one score, or are empty")
    question = [{"role": "user", "content": text_of(row["instruction"], "instruction")}]
    return Comparison(with_system(beside(row), question), replies, scores)


ANNOTATION = re.compile(r"<<([^<>]*)=([^<>=]*)>>")


def gsm8k_parts(answer, notes):
    """'48/2 = <<48/2=24>>24 clips' -> parts, the annotations as calls of the calculator. One whose result is not what the
    calculator gives is left out."""
    parts, at = [], 0
    for found in ANNOTATION.finditer(answer):
        result, said = calculator(found[1]), found[2].strip().lstrip("$").replace(",", "")
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


# A number as people write it: -3, 70,000, 1,00,000, .5, 29.00, 1/2, with a currency $5, -$5, $-5.
# A dash may be its sign, and a space that does not break may stand between its thousands.
SIGN = "[-\u2212\u2013]"
CURRENCY = "[$\u20ac\u00a3]"
BETWEEN = "[,\u00a0\u2009\u202f]"
DIGITS = f"(?:[0-9]{{1,3}}(?:{BETWEEN}[0-9]{{2,3}})*{BETWEEN}[0-9]{{3}}(?![0-9])|[0-9]+)"
PREFIX = rf"(?<![\w)]){SIGN}{CURRENCY}?|{CURRENCY}{SIGN}?|"
NUMBER = re.compile(rf"({PREFIX})({DIGITS}(?:\.[0-9]+)?|\.[0-9]+)(/[0-9]+)?")
MOST_DIGITS = 200                               # of a number: a longer one is compared as a text


def number_in(text):
    """The first number in a text as (text without separators and currency, Fraction), or None.

    number_in("$70,000.50 each") -> ("70000.50", Fraction(140001, 2))
    """
    found = NUMBER.search(text)
    if not found or len(found[0]) > MOST_DIGITS:
        return None
    sign = "-" * bool(re.search(SIGN, found[1]))
    number = sign + re.sub(BETWEEN, "", found[2])
    divisor = int(found[3][1:]) if found[3] else 1
    if not divisor:
        return None
    return number + (found[3] or ""), Fraction(number) / divisor


def is_number(text):
    """Whether a text is a number and nothing else."""
    return bool(NUMBER.fullmatch(text)) and number_in(text) is not None


def final_answer(text):
    """The first number behind the last ####; the line where there is no number; else None."""
    for behind in reversed(text.split("####")[1:]):
        number = number_in(behind)
        line = behind.strip().split("\n")[0].strip().rstrip(".")
        if number or line:
            return number[0] if number else line
    return None


def comparable(answer):
    """An answer such that equal ones are ==: its first number, a Fraction, or its text, lowered.

    GSM8K's own grader and lm-eval's strict match demand #### and compare the text of the number, so
    that 29.00 and $29 are not 29. lm-eval's flexible match takes the last number anywhere, without
    ####. Here #### is demanded and numbers are compared. All three read 1/2 as 1 or 2: here it is
    a half.
    """
    if answer is None:
        return None
    number = number_in(str(answer))
    return number[1] if number else str(answer).strip().lower()


# ---------------------------------------------------------------------------------------------------- whole files


def in_turns(messages, notes):
    """The messages in order; what that changed is noted."""
    messages, mended = template.in_turns(messages)
    notes.update(mended)
    return messages


def finished(messages, notes):
    """The conversation to be learned. Unusable without a reply, or without one to be learned."""
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
    """The conversation in a row of the schema `name`; of a comparison the best reply."""
    if name in ("pair", "ultrafeedback"):
        comparison = comparison_in(row, name, notes)
        best = comparison.replies[comparison.scores.index(max(comparison.scores))]
        return [*comparison.prompt, {"role": "assistant", "content": best}]
    for key in GOOD:
        if isinstance(row, dict) and row.get(key) is False:
            raise Unusable("an example of what not to say", f"{key} is false")
    if name == "tree":
        messages = walk_tree(row["prompt"], notes, lang)[0]
    elif name == "gsm8k":
        question, answer = text_of(row["question"], "question"), text_of(row["answer"], "answer")
        messages = [{"role": "user", "content": question},
                    {"role": "assistant", "content": gsm8k_parts(answer, notes)}]
    elif name == "ultrachat":
        messages = from_ultrachat(row["data"], notes)
    elif name == "sharegpt":
        messages = from_sharegpt(row["conversations"], notes)
    else:
        messages = from_messages(row if name == "list" else row[name], notes)
    return finished(with_system(beside(row), messages), notes)


def answerable(comparison, notes):
    """The Comparison with its prompt in order. Unusable unless the prompt ends with the user."""
    prompt = in_turns(comparison.prompt, notes)
    if not prompt or prompt[-1]["role"] != "user":
        raise Unusable("replies to no question")
    return comparison._replace(prompt=prompt)


def comparison_in(row, name, notes):
    """The Comparison in a row of pairs or of replies with scores. Unusable, with a reason."""
    read = from_pair if name == "pair" else from_ultrafeedback
    return answerable(read(row, notes), notes)


def comparisons_of(row, name, notes, lang):
    """The Comparisons in a row of the schema `name`. Unusable, with a reason."""
    if name in ("pair", "ultrafeedback"):
        return [comparison_in(row, name, notes)]
    if name != "tree":
        expected = "chosen and rejected, UltraFeedback's completions or OpenAssistant's ranks"
        raise Unusable(f"{name} has no replies to compare", f"expected {expected}")
    found, ranked = [], False
    for comparison in walk_tree(row["prompt"], notes, lang)[1]:
        ranked = True
        try:
            found.append(answerable(comparison, notes))
        except Unusable as e:                   # the others of the tree can be used
            notes[e.reason] += 1
    if not ranked:
        raise Unusable("tree without ranked replies")
    return found


def kind_of(row):
    """The kind that a row says it is of, as a text; None if it says nothing."""
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
    """Yields (where, conversation, kind or None) of a file in any of the schemas; of comparisons the best reply.

    notes: a Counter, to which what is left out or changed is added under its reason. lang: of OpenAssistant's messages.
    ValueError as read_rows says.
    """
    def read(row, name):
        return [(conversation_of(row, name, notes, lang), kind_of(row))]

    for where, (messages, kind) in read_file(path, notes, read):
        yield where, messages, kind


def comparisons(path, notes, lang="en"):
    """Yields (where, Comparison) of a file of pairs, of replies with scores, or of OpenAssistant's trees."""
    return read_file(path, notes, lambda row, name: comparisons_of(row, name, notes, lang))


def task_of(row):
    """A task, checked: what chat/arena.py and align.py ask of it."""
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
        row = {**row, "answer": final_answer(answer), "kind": "gsm8k"}
    if row["answer"] is None or row["answer"] == "":
        raise Unusable("a task without an answer", shown(answer))
    if not isinstance(answer, str):
        number_of(answer, "answer")
    return row


def tasks(path):
    """[{"question", "answer", ...}] of our own tasks, or of GSM8K with the number behind ####.

    Prints how many rows are left out, and why. ValueError as read_rows says.
    """
    notes = Counter()
    found = read_rows(path, rows(path), notes, lambda where, row: [task_of(row)])
    out = [task for _, task in found]
    if notes.total():
        print(f"{path}: {report(notes)}", file=sys.stderr)
    return out


def report(notes):
    """The notes, for the eye; the twenty that are most frequent."""
    found = [f"{n:,} x {why}" for why, n in notes.most_common() if n]
    more = [f"{len(found) - 20:,} other reasons"] if len(found) > 20 else []
    return "; ".join(found[:20] + more)


def parse_args(argv=None):
    p = argparse.ArgumentParser(prog="python -m chat.chats", description="Show how chat data of any schema is read.")
    p.add_argument("file", nargs="+", help=".jsonl, .json, either of them gzipped")
    p.add_argument("--lang", default="en", help="of OpenAssistant's messages (default: %(default)s)")
    p.add_argument("--show", type=int, default=1, help="conversations to print of each file (default: %(default)s)")
    args = p.parse_args(argv)
    if args.show < 0:
        p.error(f"--show {args.show}: at least 0")
    return args


SHOWN = {"text": "{}", "tool": "[{}", "output": " = {}]"}


def show(where, messages):
    """Prints a conversation, with what stands in a call of the calculator in brackets."""
    print(where)
    for m in messages:
        content = m["content"]
        if isinstance(content, list):
            content = "".join(SHOWN[part["type"]].format(part["text"]) for part in content)
        print(f"  {m['role']:10} {content}" + "  (not learned)" * (not m.get("weight", 1)))


def count_calls(messages):
    parts = itertools.chain(*(m["content"] for m in messages if isinstance(m["content"], list)))
    return sum(part["type"] == "tool" for part in parts)


def main(argv=None):
    args = parse_args(argv)
    for path in args.file:
        notes, n, turns, calls = Counter(), 0, 0, 0
        for where, messages, _ in conversations(Path(path), notes, args.lang):
            if n < args.show:
                show(where, messages)
            n += 1
            turns += len(messages)
            calls += count_calls(messages)
        said = report(notes)
        counts = f"{n:,} conversations, {turns:,} messages, {calls:,} calls of the calculator"
        print(f"{path}: {counts}" + f"; {said}" * bool(said))


if __name__ == "__main__":
    command.run(main)
