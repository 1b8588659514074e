"""web/quality.py: words as numbers, and the rules of FineWeb v1."""

import random

import regex

from data import fineweb_quality, gopher_quality, gopher_repetition
from pages import VOCABULARY, lines_of, prose, reason
from web import quality
from web.words import words


def repetition_v1(text):
    return gopher_repetition(text, quality.words_of_v1, quality.parts_of_v1)


def quality_v1(text):
    return gopher_quality(text, quality.words_of_v1)


def test_words_as_numbers_are_the_words():
    """Of every white space and many odd pieces, in contexts that the pattern looks at."""
    pieces = [
        "can", "cannot", "Cannot", "cannots", "don't", "n't", "U.S.", "e.g.", "3.14abc4", "0a0",
        "Mr.", "x@y.z.", "http://a.b/c?", "'s", "é", "\u0301", "中文。", "a\u00adb", "...", "--", "(",
        "a" * 300, "1,000", "O'Neill's", "\ud800",
    ]
    spaces = [chr(c) for c in range(0x3001) if chr(c).isspace() or regex.match(r"\s", chr(c))]
    r = random.Random(0)
    for _ in range(3000):
        text = "".join(
            r.choice(pieces) + r.choice(spaces) * r.randint(0, 2) for _ in range(r.randint(0, 8))
        )
        found, names = quality.Words(text), {i: w for w, i in quality.vocabulary.words.items()}
        assert [names[i] for i in found.ids.tolist()] == words(text), repr(text)
        assert found.length.tolist() == list(map(len, words(text)))
    known = len(quality.vocabulary.pieces)
    quality.vocabulary.MOST = known - 1  # it begins anew
    assert len(quality.Words("a new beginning")) == 3 and len(quality.vocabulary.pieces) == 3


def test_words_remembered_are_bounded_in_characters(monkeypatch):
    """A million pieces may be remembered, but not a million long ones."""
    monkeypatch.setattr(quality.Vocabulary, "MOST_CHARS", 100_000)
    monkeypatch.setattr(quality, "vocabulary", quality.Vocabulary())
    for i in range(100):
        text = f"{i} " + " ".join(f"{i}x{j}" * 300 for j in range(10))
        assert quality.Words(text).length.tolist() == list(map(len, words(text)))
        assert sum(map(len, quality.vocabulary.pieces)) <= 100_000 + len(text)


def test_line_ends_of_v1():
    """A quotation mark ends a line, a blank line counts, and what is at a threshold goes."""
    v1 = lambda text: reason(quality.fineweb_quality_v1(text))
    quoted = lines_of(25, 25, end='."')
    assert v1(quoted) is None and reason(fineweb_quality(quoted)) == "line_punct_ratio"
    assert (
        v1(lines_of(25, 25, end="'")) is None
        and v1(lines_of(25, 25, end="\u3002")) == "line_punct_ratio"
    )
    assert (
        v1(lines_of(3, 25)) == "line_punct_ratio" and v1(lines_of(4, 25)) is None
    )  # 0.12 is too little
    assert v1(lines_of(4, 25) + "\n" * 9) == "line_punct_ratio"  # 4 of 34
    long, short = (
        lines_of(33, 33),
        lambda n: "\n".join(
            (f"{i} " + "word other thing next again " * 3)[:29] + "." for i in range(n)
        ),
    )
    assert v1(long + "\n" + short(67)) == "short_line_ratio" and v1(long + "\n" + short(66)) is None
    assert v1(long + "\n" + short(30) + "\n" * 40) == "short_line_ratio"
    text = lines_of(50, 50, size=100)
    twice = lambda n: text + "\n" + "a" * n + ".\n" + "a" * n + "."
    at = next(n for n in range(40, 60) if (n + 1) / (5000 + 2 * (n + 1)) >= 0.01)
    assert v1(twice(at - 1)) is None and v1(twice(at)) == "char_dup_ratio"
    assert v1("\n \n") == "line_punct_ratio"


def test_blank_lines_and_stop_words_of_v1():
    assert reason(repetition_v1(prose(100).replace("\n", "\n\n"))) == "dup_line_frac"
    assert reason(repetition_v1(prose(100))) is None
    text = " ".join(VOCABULARY[:100])
    assert reason(quality_v1("the the " + text)) is None
    assert reason(quality_v1("the " + text)) == "gopher_enough_stop_words"
    marks = " \u203d" * 9  # symbols in 0.10 only
    short = "the of " + " ".join(VOCABULARY[:40]) + marks
    assert reason(quality_v1(short)) is None and reason(gopher_quality(short)) == "gopher_short_doc"
