"""chat/template.py: which conversations are accepted, and how any other is put in order."""

import json

import pytest

import bpe
import sample
from chat import template

TOK = bpe.Tokenizer.train(["the lamp is lit, said the goat. user assistant"] * 4, 300)


def say(role, content):
    return {"role": role, "content": content}


def text(text):
    return {"type": "text", "text": text}


A, B, C, Q = say("user", "a"), say("assistant", "b"), say("user", "c"), say("assistant", "d")
CALL = [{"type": "tool", "text": "1+1"}, {"type": "output", "text": "2"}]
X = say("system", "x")


@pytest.mark.parametrize("messages, message", [
    ([], "expected a list"),
    ("hi", "expected a list"),
    (["x"], "role 'x'"),
    ([{"role": "robot", "content": "x"}], "role 'robot'"),
    ([{"role": "developer", "content": "x"}], "role 'developer'"),
    ([{"role": "assistant", "content": "x"}], "reply before any question; expected"),
    ([{"role": "user", "content": ""}], "empty message; expected"),
    ([{"role": "user", "content": None, "refusal": "no"}], "empty message; expected"),
    ([A, A], "message joined to the one before it"),
    ([A, say("system", "b")], "system message moved"),
])
def test_conversations_out_of_order_are_refused(messages, message):
    with pytest.raises(ValueError, match=message):
        template.check_messages(messages)


@pytest.mark.parametrize("messages, want, mended", [
    ([A, B, C], [A, B, C], []),
    ([say("system", "x"), A], [say("system", "x"), A], []),
    ([say("developer", "x"), A], [say("system", "x"), A], []),
    ([X, say("developer", "y"), A], [say("system", "x\n\ny"), A], [template.JOINED]),
    ([A, B, say("system", "x"), C], [say("system", "x"), A, B, C], [template.MOVED]),
    ([say("system", "x"), A, say("system", "y"), B, say("developer", "z"), C],
     [say("system", "x\n\ny\n\nz"), A, B, C], [template.MOVED, template.MOVED]),
    ([A, X, C], [X, say("user", "a\n\nc")], [template.MOVED, template.JOINED]),
    ([A, C, C, B], [say("user", "a\n\nc\n\nc"), B], [template.JOINED] * 2),
    ([A, B, Q], [A, say("assistant", "b\n\nd")], [template.JOINED]),
    ([B, A], [A], [template.GREETING]),
    ([say("system", "x"), B, Q, A], [say("system", "x"), A], [template.GREETING] * 2),
    ([A, say("assistant", None), C], [say("user", "a\n\nc")], [template.EMPTY, template.JOINED]),
    ([A, say("assistant", ""), C], [say("user", "a\n\nc")], [template.EMPTY, template.JOINED]),
    ([A, {**say("assistant", None), "refusal": "b"}, C], [A, B, C], []),
    ([{"role": "system"}, say("user", []), A, say("user", " \n")], [A], [template.EMPTY] * 3),
    ([B], [], [template.GREETING]),
    ([], [], []),
    ([say("user", [text("a"), text("c")])], [say("user", "ac")], []),
    ([say("system", [text("x")]), A], [X, A], []),
    ([A, say("assistant", CALL), say("assistant", "It is 2."), B],
     [A, say("assistant", [*CALL, text("\n\nIt is 2.\n\nb")])], [template.JOINED] * 2),
    ([A, B, say("assistant", CALL)], [A, say("assistant", [text("b\n\n"), *CALL])],
     [template.JOINED]),
    ([A, {**B, "weight": 0}, C, {**Q, "weight": 1}], [A, {**B, "weight": 0}, C, Q], []),
    ([A, {**B, "weight": 0}, {**Q, "weight": 0}],
     [A, {**say("assistant", "b\n\nd"), "weight": 0}], [template.JOINED]),
])
def test_any_order_of_messages_is_mended(messages, want, mended):
    copy = json.dumps(messages)
    assert template.in_turns(messages) == (want, mended)
    assert json.dumps(messages) == copy, "what came in is not changed"
    assert template.in_turns(want) == (want, [])
    if want:
        template.check_messages(want)
        sample.render(want, TOK)


IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize("messages, reason, detail", [
    ("hi", "no list of messages", "got 'hi'"),
    (["hi"], "unknown role 'hi'", "message 0 has role 'hi', expected one of system, user, assis"),
    ([A, say("tool", "24")], "unknown role 'tool'", "message 1 has role 'tool'"),
    ([{"content": "a"}], "unknown role None", "message 0"),
    ([say(["user"], "a")], "unknown role ['user']", "message 0"),
    ([A, say("assistant", 5)], "content that is no text", "1 of the assistant has the content 5"),
    ([say("user", ["a"])], "content that is no text", "0 of the user has the content ['a']"),
    ([say("user", [IMAGE])], "unknown part 'image_url'", "in message 0 of the user"),
    ([say("user", [text(None)])], "unknown part 'text'", "in message 0 of the user"),
    ([say("user", CALL)], "a call of the user", "which only the assistant can call"),
    ([say("system", CALL), A], "a call of the system", "which only the assistant can call"),
    ([A, B, {**Q, "weight": 0}], "a reply that is to be learned only in part", "message 2"),
])
def test_what_the_chat_format_has_no_place_for(messages, reason, detail):
    with pytest.raises(template.Unusable) as error:
        template.in_turns(messages)
    said = str(error.value)
    assert error.value.reason == reason and said.startswith(reason + ": ") and detail in said
