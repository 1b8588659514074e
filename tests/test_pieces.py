"""tokens/pieces.py: the cuts of the patterns, from arrays."""

import itertools

import numpy as np
import pytest
import regex

from tokens import pieces
from tokens.patterns import PATTERNS
from tokens.pieces import RULES

NAMES = [name for name, pattern in PATTERNS.items() if pattern in RULES]


# Of every kind some: letters of each case, contractions, digits, spaces, marks that combine, signs,
# an emoji.
REPRESENTATIVES = ("aBs'tlredmvS1\u0663 \t\n\r\u00a0\u2028-!/.\u0301\u4e2d\u01c5\u02b0\u017f"
                   "\U0001f44d\ufe0f\u0939\u093f")


def cut(parts, pattern):                                    # -> the pieces of each part
    data, begin, length, ends = pieces.cut(parts, pattern)
    every = [data[b:b + n].tobytes().decode() for b, n in zip(begin, length)]
    return [every[a:b] for a, b in zip([0, *ends], ends)]


def agree(text, name):
    got = np.flatnonzero(pieces.starts(text, RULES[PATTERNS[name]])[0])
    want = np.array([found.start() for found in regex.finditer(PATTERNS[name], text)])
    if not np.array_equal(got, want):
        first = min(set(got.tolist()) ^ set(want.tolist()))
        raise AssertionError((name, text[max(0, first - 20):first + 20], first))


@pytest.mark.parametrize("name", NAMES)
def test_short_texts_are_cut_as_the_pattern_cuts(name):
    for n in (1, 2):
        for characters in itertools.product(REPRESENTATIVES, repeat=n):
            agree("".join(characters), name)
    rng = np.random.default_rng(0)
    for _ in range(1500):
        agree("".join(rng.choice(list(REPRESENTATIVES), rng.integers(3, 12))), name)


@pytest.mark.parametrize("name", NAMES)
def test_long_texts_are_cut_as_the_pattern_cuts(name):
    """Every four of them in a row, most fives; and texts with much of one kind."""
    rng = np.random.default_rng(1)
    for _ in range(3):
        agree("".join(rng.choice(list(REPRESENTATIVES), 300_000)), name)
    for common in ("a ", "\n ", "'s", "aB\u4e2d", "1a", "!\u0301", "\u0301\u4e2d", "!/\n"):
        weights = np.array([8 if c in common else 0.3 for c in REPRESENTATIVES])
        agree("".join(rng.choice(list(REPRESENTATIVES), 50_000, p=weights / weights.sum())), name)


@pytest.mark.parametrize("name", NAMES)
def test_every_character_of_unicode(name):
    """Each with three neighbours of other kinds on either side, drawn at random.

    Above U+40000 there are only unassigned characters, tags and private ones: every 16th of them,
    and all tags.
    """
    rng = np.random.default_rng(2)
    higher = [c for c in range(0x40000, 0x110000) if c % 16 == 0 or 0xE0000 <= c < 0xE0200]
    every = np.array([*range(0xD800), *range(0xE000, 0x40000), *higher], "<u4")
    around = np.array([ord(c) for c in REPRESENTATIVES], "<u4")
    text = np.concatenate(
        [rng.choice(around, (3, len(every))), every[None], rng.choice(around, (3, len(every)))]
    ).T
    agree(np.ascontiguousarray(text).tobytes().decode("utf-32-le"), name)


@pytest.mark.parametrize("name", PATTERNS)
def test_parts_change_no_piece(name, monkeypatch):
    monkeypatch.setattr(pieces, "BLOCK", 20)
    rng = np.random.default_rng(3)
    n_parts = 0
    for _ in range(60):
        text = "".join(rng.choice(list(REPRESENTATIVES + "abc de fg\n" * 6), rng.integers(0, 300)))
        whole = regex.findall(PATTERNS[name], text)
        assert "".join(whole) == text
        parts = list(pieces.parts_of(text, PATTERNS[name], 20))
        assert [piece for part in parts for piece in regex.findall(PATTERNS[name], part)] == whole
        blocks = pieces.blocks_of([text], PATTERNS[name])
        got = [piece
               for block in blocks
               for part in cut([part for _, part in block], PATTERNS[name])
               for piece in part]
        assert got == whole
        n_parts += len(parts)
    assert n_parts > 200 or name == "characters"
    assert list(pieces.parts_of("a b " * 20, r"\w+ \w+|\s", 20)) == [
        "a b " * 20
    ]  # a pattern of one's own is never cut


@pytest.mark.parametrize("name", PATTERNS)
def test_texts_cut_together_are_cut_alone(name):
    """All endings with all beginnings of two characters, empty ones between them, and longer ones
    at random."""
    rng = np.random.default_rng(4)
    two = ["".join(x) for x in itertools.product(REPRESENTATIVES, repeat=2)]
    for texts in (
        two,
        rng.permutation(two * 3).tolist(),
        ["", *two[::7], "", ""],
        ["".join(rng.choice(list(REPRESENTATIVES), rng.integers(0, 9))) for _ in range(3000)],
        ["".join(rng.choice(list("a's \n!\n1B"), rng.integers(0, 9))) for _ in range(3000)],
    ):
        assert cut(texts, PATTERNS[name]) == [regex.findall(PATTERNS[name], text) for text in texts]


def test_blocks_hold_all_of_the_texts_in_order(monkeypatch):
    monkeypatch.setattr(pieces, "BLOCK", 50)
    texts = ["a b " * n for n in (0, 1, 100, 3, 0, 5, 50, 2)]
    blocks = list(pieces.blocks_of(texts, PATTERNS["gpt2"]))
    assert [i for block in blocks for i, _ in block] == sorted(
        i for block in blocks for i, _ in block
    )
    for i, text in enumerate(texts):
        assert "".join(part for block in blocks for k, part in block if k == i) == text
    assert (len(blocks) > 10
            and max(map(len, blocks)) > 1
            and max(len(part) for block in blocks for _, part in block) < 60)


def test_text_that_a_pattern_does_not_match_is_dropped():
    assert cut(["ab1é2", "", "1", "2c"], r"\p{L}") == [["a", "b", "é"], [], [], ["c"]]
