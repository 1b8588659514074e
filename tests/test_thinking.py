"""chat/thinking.py: thoughts and calls are told from the answer, however the text is cut."""

import random

import pytest

from chat.thinking import Calls, Thinking

REPLIES = [                             # (whether the prompt began the thoughts, reply, both)
    (False, "<think>\nSo.\n</think>\n\nHi!\n", ("So.", "Hi!\n")),
    (False, "\n <think>So.</think>Hi!", ("So.", "Hi!")),
    (True, "So.\n\nYes.\n</think>\n\nHi!", ("So.\n\nYes.", "Hi!")),
    (True, "\n</think>\n\nHi!", ("", "Hi!")),
    (False, "<think>\n\n</think>\n\nHi!", ("", "Hi!")),
    (False, "Hi <think>!</think>", ("", "Hi <think>!</think>")),
    (False, "\n\nHi", ("", "\n\nHi")),
    (False, " <thin", ("", " <thin")),
    (False, "<thinks>", ("", "<thinks>")),
    (False, "", ("", "")),
    (False, "<think>", ("", "")),
    (False, "<think>\nSo </thi", ("So </thi", "")),
    (False, "<think>a < b </ c</think></think>", ("a < b </ c", "</think>")),
    (True, "a\n\n</thin\n</think>\n", ("a\n\n</thin", "")),
    (True, "", ("", "")),
]


def cut(reply):
    """The reply in pieces, 30 times at other places."""
    rng = random.Random(reply)
    for _ in range(30):
        cuts = sorted(rng.choices(range(len(reply) + 1), k=rng.randint(0, 6)))
        yield [reply[a:b] for a, b in zip([0, *cuts], [*cuts, len(reply)])]


@pytest.mark.parametrize("begun, reply, both", REPLIES)
def test_thoughts_and_answer(begun, reply, both):
    assert Thinking(begun).put(reply, ended=True) == both
    for pieces in cut(reply):
        told = Thinking(begun)
        grown = [*map(told.put, pieces), told.put("", ended=True)]
        assert ("".join(t for t, _ in grown), "".join(a for _, a in grown)) == both


def test_what_is_certain_is_not_held_back():
    told = Thinking()
    assert told.put("<think>") == ("", "") and told.put("a<b") == ("a<b", "")
    assert told.put("\n\n") == ("", "") and told.put("c </") == ("\n\nc ", "")
    assert told.put("think>\n") == ("", "") and told.put("\nHi <") == ("", "Hi <")


F = '{"name": "f", "arguments": {"x": "\u00e4 </tool_call"}}'
G = '{"name": "g", "parameters": {}}'
TOOL, LEFT = "<tool_call>", "</tool_call>"
CALLED_F, CALLED_G = ("f", '{"x": "\u00e4 </tool_call"}'), ("g", "{}")
ANSWERS = [                             # (answer, its text, its calls), where f and g are offered
    (f"{TOOL}\n{F}\n{LEFT}", "", [CALLED_F]),
    (f"I look.\n\n{TOOL}\n{F}\n{LEFT}\n{TOOL}{G}{LEFT}\n", "I look.", [CALLED_F, CALLED_G]),
    (f"a {TOOL}{F}{LEFT}\nb\n\nc\n", "a b\n\nc\n", [CALLED_F]),
    (f"{TOOL}{G}", "", [CALLED_G]),                             # its end is missing
    (f"{TOOL}{G[:-1]}", TOOL + G[:-1], []),                     # it was cut off
    (f"a\n{TOOL}\nf(x)\n{LEFT}\nb", f"a\n{TOOL}\nf(x)\n{LEFT}\nb", []),
    (f"{TOOL}x{LEFT}{TOOL}{G}{LEFT}", f"{TOOL}x{LEFT}", [CALLED_G]),
    (TOOL + '{"name": "h", "arguments": {}}' + LEFT, "", [("h", "{}")]),
    (f"{G}", "", [CALLED_G]),
    (f"\n<|python_tag|>{G}; {F}\n", "", [CALLED_G, CALLED_F]),
    ('{"name": "h", "parameters": {}}', '{"name": "h", "parameters": {}}', []),     # not offered
    (f"{G} and", f"{G} and", []),
    (f"{G[:-1]}", f"{G[:-1]}", []),
    ('{"name": "g", "parameters": 3}', '{"name": "g", "parameters": 3}', []),
    ('{"a": 1}\n', '{"a": 1}\n', []),
    ("<|python_tag|>g()", "<|python_tag|>g()", []),
    ("a <tool_", "a <tool_", []),
    (" <|pyth", " <|pyth", []),
    ("\n\nHi\n", "\n\nHi\n", []),
    ("", "", []),
]


@pytest.mark.parametrize("answer, text, calls", ANSWERS)
def test_calls_and_text(answer, text, calls):
    assert Calls("fg").put(answer, ended=True) == (text, calls)
    for pieces in cut(answer):
        told = Calls("fg")
        grown = [*map(told.put, pieces), told.put("", ended=True)]
        assert "".join(more for more, _ in grown) == text
        assert [call for _, more in grown for call in more] == calls


def test_text_beside_calls_is_not_held_back():
    told = Calls("f")
    assert told.put("So. ") == ("So. ", []) and told.put("a <") == ("a ", [])
    assert told.put("b\n") == ("<b", []) and told.put("c" + TOOL + F) == ("\nc", [])
    assert told.put(LEFT) == ("", [CALLED_F]) and told.put("\nd") == ("d", [])
