"""comparisons.py: replies to one prompt and how good each is, as other people write them.

    {"chosen", "rejected"}                      HH-RLHF's transcripts, or messages; or "prompt" too
    {"instruction", "completions"}              UltraFeedback, with a score for each completion
    {"message_tree_id", "prompt": {"replies"}}  OpenAssistant's trees, with ranks; or its messages,
                                                a row each, with parent_id
"""

import re
from typing import NamedTuple

from chat import template
from chat.datasets import beside, from_messages, in_turns, with_system
from chat.rows import list_of, number_of, shown, text_of
from chat.template import Unusable


class Comparison(NamedTuple):
    """Replies to one prompt."""

    prompt: list            # messages, of which the last is the user's
    replies: list           # the content of each reply
    scores: list            # the higher, the better


TREE_ROLES = {"prompter": "user", "assistant": "assistant"}


def checked_node(m):
    """A message of a tree; Unusable if it is not one."""
    known = isinstance(m, dict) and m.get("role") in list(TREE_ROLES)
    if not known or not isinstance(m.get("text"), str):
        raise Unusable("no message of a tree",
                       f"expected one with role prompter or assistant and a text, found {shown(m)}")
    if m.get("rank") is not None:
        number_of(m["rank"], "rank")
    list_of(m.get("replies") or [], "replies")
    return m


def is_usable(m, notes, lang):
    """Whether a message of a tree and the replies to it can be used. Notes why not."""
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
        why = "without a text"
    else:
        return True
    notes[f"message {why}"] += 1
    return False


def walk_tree(root, notes, lang):
    """A tree -> (the path of the best replies, [(path, the ranked replies to its last message)])

    A path is (the path before, message), so that the paths of a deep tree share their beginnings;
    messages_of makes a list of it. The best reply has the rank 0. Replies without one come last.
    """
    best, compared = None, []
    todo = [(root, None, True)] if is_usable(root, notes, lang) else []
    while todo:                                 # the best path first; deep trees must not recurse
        m, before, on_best = todo.pop()
        path = before, {"role": TREE_ROLES[m["role"]], "content": m["text"]}
        if on_best:
            best = path
        replies = [r for r in m.get("replies") or [] if is_usable(r, notes, lang)]
        replies.sort(key=lambda r: (r.get("rank") is None, r.get("rank") or 0))
        ranked = [r for r in replies if r.get("rank") is not None and r["role"] == "assistant"]
        if len(ranked) > 1:
            compared.append((path, ranked))
        todo += [(r, path, on_best and r is replies[0]) for r in reversed(replies)]
    return best, compared


def messages_of(path):
    """The messages of a path of walk_tree."""
    found = []
    while path:
        path, message = path
        found.append(message)
    return found[::-1]


def from_tree(root, notes, lang):
    """Yield a Comparison for each message of a tree with ranked replies."""
    for path, ranked in walk_tree(root, notes, lang)[1]:
        scores = [-r["rank"] for r in ranked]
        yield Comparison(messages_of(path), [r["text"] for r in ranked], scores)


def checked_row(row):
    """A message of OpenAssistant that came as a row; Unusable if it is not one."""
    if row["parent_id"] is not None:
        text_of(row["parent_id"], "parent_id")
    text_of(row["message_id"], "message_id")
    return checked_node({**row, "replies": []})


def trees(rows, notes):
    """[(where, root)] of the trees that OpenAssistant's messages make, which came a row each.

    Of two messages with one id the first counts: with both, a message could be its own ancestor.
    """
    by_id = {}
    for where, row in rows:
        if row["message_id"] in by_id:
            notes["second message of one message_id"] += 1
        else:
            by_id[row["message_id"]] = where, row
    for _, row in by_id.values():
        if row["parent_id"] in by_id:
            _, parent = by_id[row["parent_id"]]
            parent["replies"].append(row)
    roots = [(where, row) for where, row in by_id.values() if row["parent_id"] is None]
    lost, todo = len(by_id), [row for _, row in roots]
    while todo:
        lost, todo = lost - len(todo), [reply for row in todo for reply in row["replies"]]
    if lost:
        notes["message whose tree has no beginning"] += lost
    return roots


MARKER = re.compile(r"(?:\n\n|\A\s*)(Human|Assistant):(?: |(?=\n|\Z))")


def is_prompt_transcript(text):
    """Whether a prompt is a transcript: begins like one, or ends where the assistant speaks."""
    if text.startswith("\n\nHuman:"):
        return True
    return text.rstrip().endswith("\n\nAssistant:") and bool(MARKER.search(text))


def from_transcript(text):
    """HH-RLHF's "\\n\\nHuman: ...\\n\\nAssistant: ..." -> messages

    The text before the first Human or Assistant is the system message.
    """
    begin, *turns = MARKER.split(text)
    if not turns:
        raise Unusable("no transcript", f"one has '\\n\\nHuman: ', this begins with {text[:40]!r}")
    out = [{"role": "system", "content": begin.strip()}] if begin.strip() else []
    for who, said in zip(turns[0::2], turns[1::2]):
        role = "user" if who == "Human" else "assistant"
        out.append({"role": role, "content": said.strip()})
    return out


def from_prompt(row, notes):
    """The messages of a pair's prompt, which is a text, messages or a transcript.

    [] if it stands in the replies themselves.
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
    """The conversation that was chosen or rejected, with the prompt before it if it lacks that."""
    if not isinstance(side, str):
        messages = from_messages([side] if isinstance(side, dict) else side, notes)
    elif MARKER.match(side) or not prompt:
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
    """prompt + messages, without what stands in both: the whole prompt, or its last message."""
    asked, said = spoken(prompt), spoken(messages)
    if said[:len(asked)] == asked or len(asked) == 1 and asked[0] in said:
        return [m for m in prompt if m["role"] == "system" and m not in messages] + messages
    if said[:1] == asked[-1:]:
        return prompt[:-1] + messages
    return prompt + messages


def from_pair(row, notes):
    """The Comparison of chosen and rejected. Unusable if more than their last reply differs."""
    system, prompt, sides = beside(row), from_prompt(row, notes), []
    as_transcript = isinstance(row.get("prompt"), str) and is_prompt_transcript(row["prompt"])
    for side in (row["chosen"], row["rejected"]):
        if as_transcript and isinstance(side, str) and not MARKER.match(side):
            side = side.strip()                 # as the other replies of a transcript
        messages = from_side(side, prompt, notes)
        last = messages[-1] if messages else {"role": "assistant", "content": None}
        content = template.checked_content(len(messages) - 1, last["role"], last["content"])
        if template.is_empty(content):
            raise Unusable("pair with an empty message")
        sides.append(in_turns(with_system(system, messages), notes))
    chosen, rejected = sides
    for side in sides:
        if not side or side[-1]["role"] != "assistant":
            raise Unusable("pair that does not end with a reply")
    replies = [chosen[-1]["content"], rejected[-1]["content"]]
    if "reasoning_content" in chosen[-1] or "reasoning_content" in rejected[-1]:
        notes["reasoning beside a reply of a pair, which is left out"] += 1
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("pair that differs before its last reply")
    if replies[0] == replies[1]:
        raise Unusable("pair of two equal replies")
    if 0 in (chosen[-1].get("weight"), rejected[-1].get("weight")):
        raise Unusable("a row that is not to be learned")
    return Comparison(chosen[:-1], replies, [1, 0])


def from_ultrafeedback(row, notes):
    """The Comparison of the completions that have a score."""
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
