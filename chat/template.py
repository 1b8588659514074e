"""template.py: which conversations the chat format can hold, and how any other is put in order.

sample.render writes an optional system message and then user, assistant, user, assistant and so on,
each with some content. Clients and data sets send more: two messages of the user in a row, a system
message in the middle, null instead of a text. `in_turns` turns such a list into one that
`check_messages` accepts, and says what it changed.

A content is a text, or a list of parts {"type": "text" | "tool" | "output", "text": ...}: texts,
calls of a tool and their outputs. Only the assistant can call a tool.
"""

import itertools
import operator


ROLES = ("system", "user", "assistant")
OTHER_NAMES = {"developer": "system"}
PARTS = ("text", "tool", "output")

# The changes that in_turns makes, by the names under which they are counted.
EMPTY = "empty message"
GREETING = "reply before any question"
JOINED = "message joined to the one before it, of the same role"
MOVED = "system message moved to the beginning"
PARTLY = "a reply that is to be learned only in part"        # a reason to refuse


class Unusable(ValueError):
    """Messages that cannot be used. `reason` is a short name to count; the text adds the value."""

    def __init__(self, reason, detail=""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def check_messages(messages, where="conversation"):
    """ValueError unless messages is [system,] user, assistant, user ..., each with some content."""
    if not isinstance(messages, list) or not messages:
        got = str(messages)[:60]
        raise ValueError(f"{where}: expected a list of messages with a text, got {got!r}")
    try:
        _, changes = in_turns(messages, others={})
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from None
    changes += [EMPTY for m in messages if m.get("content") is None]    # a refusal has a text
    if changes:
        expected = "[system,] user, assistant, user and so on, each with a text"
        raise ValueError(f"{where}: {changes[0]}; expected {expected}")


def checked_content(i, role, content):
    """The content of message i: a text, or a list of parts if a tool was called in it.

    None is the empty text. Unusable: a content that the chat format cannot hold, such as an image.
    """
    if content is None or isinstance(content, str):
        return content or ""
    whose = f"message {i} of the {role}"
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        got = repr(content)[:40]
        detail = f"{whose} has the content {got}, expected a text or a list of parts"
        raise Unusable("content that is no text", detail)
    for part in content:
        if part.get("type") not in PARTS or not isinstance(part.get("text"), str):
            types = ", ".join(PARTS)
            detail = f"{repr(part)[:60]} in {whose}, expected the type {types} and a text"
            raise Unusable(f"unknown part {repr(part.get('type'))[:30]}", detail)
    if all(part["type"] == "text" for part in content):
        return "".join(part["text"] for part in content)
    if role != "assistant":
        detail = f"{whose} has parts of a tool, which only the assistant can call"
        raise Unusable(f"a call of the {role}", detail)
    return content


def is_empty(content):
    """Whether a content has nothing but white space."""
    if isinstance(content, str):
        return not content.strip()
    return not any(part["text"].strip() for part in content)


def joined(contents):
    """Several contents of one role as one content, with a blank line between each two."""
    if all(isinstance(content, str) for content in contents):
        return "\n\n".join(contents)
    parts = []
    for content in contents:
        if parts:
            parts.append({"type": "text", "text": "\n\n"})
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    out = []
    for kind, same in itertools.groupby(parts, key=operator.itemgetter("type")):
        if kind == "text":              # one text has other tokens than two, one after the other
            same = [{"type": "text", "text": "".join(part["text"] for part in same)}]
        out += same
    return out


def in_turns(messages, others=OTHER_NAMES):
    """Any list of messages, put into the order that check_messages demands -> (messages, changes).

    - All messages of the system and of the developer become one message at the beginning.
    - Neighbours of one role become one message, with a blank line between them.
    - A message without a text is removed; null counts as the empty text.
    - A reply before the first question, a greeting, is removed: no model learns to read one.

    A reply may have the "weight" 0, which says that it is not to be learned, and thoughts as
    "reasoning_content".
    changes: EMPTY, GREETING, JOINED or MOVED for each change. The messages are [] if all are empty.
    Unusable: a role or a content that the chat format cannot hold.
    """
    if not isinstance(messages, list):
        detail = f"expected a list of messages, got {repr(messages)[:60]}"
        raise Unusable("no list of messages", detail)
    system, turns, changes = [], [], []     # texts; (role, weight, contents, thoughts); names
    for i, m in enumerate(messages):
        role = m.get("role") if isinstance(m, dict) else m
        role = others.get(role, role) if isinstance(role, str) else role
        if role not in ROLES or not isinstance(m, dict):
            detail = f"message {i} has role {repr(role)[:60]}, expected one of {', '.join(ROLES)}"
            raise Unusable(f"unknown role {repr(role)[:30]}", detail)
        content = m.get("content")
        if content is None:                     # OpenAI's API has a field of its own for a refusal
            content = m.get("refusal")
        content = checked_content(i, role, content)
        weight, thoughts = 1, []
        if role == "assistant":
            weight = m.get("weight", 1)
            thoughts = [m["reasoning_content"]] if m.get("reasoning_content") else []
        if is_empty(content):
            changes.append(EMPTY)
        elif role == "system":
            if turns or system:
                changes.append(MOVED if turns else JOINED)
            system.append(content)
        elif not turns and role == "assistant":
            changes.append(GREETING)
        elif turns and turns[-1][0] == role:
            if turns[-1][1] != weight:
                raise Unusable(PARTLY, f"message {i}")
            changes.append(JOINED)
            turns[-1][2].append(content)
            turns[-1][3].extend(thoughts)
        else:
            turns.append((role, weight, [content], thoughts))

    out = [{"role": "system", "content": joined(system)}] if system else []
    for role, weight, contents, thoughts in turns:
        content = contents[0] if len(contents) == 1 else joined(contents)
        more = {} if weight == 1 else {"weight": weight}
        if thoughts:
            more["reasoning_content"] = joined(thoughts)
        out.append({"role": role, "content": content, **more})
    return out, changes
