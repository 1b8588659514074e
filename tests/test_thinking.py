"""chat/thinking.py: thoughts are told from the answer, however the text is cut into pieces."""

import random

import pytest

from chat.thinking import Thinking

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


@pytest.mark.parametrize("begun, reply, both", REPLIES)
def test_thoughts_and_answer(begun, reply, both):
    assert Thinking(begun).put(reply, ended=True) == both
    rng = random.Random(reply)
    for _ in range(30):
        cuts = sorted(rng.choices(range(len(reply) + 1), k=rng.randint(0, 6)))
        pieces = [reply[a:b] for a, b in zip([0, *cuts], [*cuts, len(reply)])]
        told = Thinking(begun)
        grown = [*map(told.put, pieces), told.put("", ended=True)]
        assert ("".join(t for t, _ in grown), "".join(a for _, a in grown)) == both


def test_what_is_certain_is_not_held_back():
    told = Thinking()
    assert told.put("<think>") == ("", "") and told.put("a<b") == ("a<b", "")
    assert told.put("\n\n") == ("", "") and told.put("c </") == ("\n\nc ", "")
    assert told.put("think>\n") == ("", "") and told.put("\nHi <") == ("", "Hi <")
