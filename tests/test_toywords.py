"""web/toywords.py: ways to ask that are held out, in words that are known."""
import re

from web import toywords
from toy_world import training_text, world  # noqa: F401


def test_held_out_phrasings_are_no_training_phrasings():
    for attributes in toywords.KINDS.values():
        for _, statements, questions, held in attributes.values():
            assert not set(questions) & set(held) and len(held) >= 2 and len(questions) >= 5
            assert all("{n}" in q for q in questions + held) and all("{v}" in s for s in statements)
    for _, asks, held, reply in toywords.IDENTITY:
        assert not set(asks) & set(held)


def test_held_out_phrasings_use_known_words(world):
    """Nobody who has read only this web could understand a word that stands nowhere in it."""
    words = lambda s: set(re.findall("[a-z]+", s.lower()))  # noqa: E731
    known = words(training_text(world))
    held = [q for attributes in toywords.KINDS.values() for *_,
        held in attributes.values() for q in held]
    held += toywords.SUM_HELD_OUT + [q for _, _, asks, _ in toywords.IDENTITY for q in asks]
    assert not {w for q in held for w in words(q.format(n="", a="", w="", b=""))} - known
