"""tokens/patterns.py: where the patterns cut, and patterns that take too long."""

import time

import pytest
import regex

from token_texts import PROSE
from bpe import Tokenizer
from tokens import patterns, pieces
from tokens.patterns import DEEPSEEK_V3, PATTERNS, finder, from_oniguruma

PIECES_OF = {  # of "I'LL don't12345  (x)!\n\n  HTMLparser/\n "
    "gpt2": ["I", "'", "LL", " don", "'t", "12345", " ", " (", "x", ")!", "\n\n ", " HTMLparser",
             "/", "\n "],
    "cl100k": ["I", "'LL", " don", "'t", "123", "45", " ", " (", "x", ")!\n\n", " ", " HTMLparser",
               "/\n", " "],
    "o200k": ["I'LL", " don't", "123", "45", " ", " (", "x", ")!\n\n", " ", " HTMLparser", "/\n",
              " "],
    "gpt4": ["I", "'LL", " don", "'t", "123", "45", " ", " (", "x", ")!\n\n", " ", " HTMLparser",
             "/\n", " "],
    "digits": ["I", "'LL", " don", "'t", *"12345", " ", " (", "x", ")!\n\n", " ", " HTMLparser",
               "/\n", " "],
    "nanochat": ["I", "'LL", " don", "'t", "12", "34", "5", " ", " (", "x", ")!\n\n", " ",
                 " HTMLparser", "/\n", " "],
    "qwen2": ["I", "'LL", " don", "'t", *"12345", " ", " (", "x", ")!\n\n", " ", " HTMLparser",
              "/\n", " "],
    "characters": list("I'LL don't12345  (x)!\n\n  HTMLparser/\n "),
}


def test_patterns_cut_where_they_should():
    assert list(PIECES_OF) == list(PATTERNS)
    for name, want in PIECES_OF.items():
        assert regex.findall(PATTERNS[name], "".join(want)) == want


def test_published_patterns_have_no_limit(monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0)
    monkeypatch.setattr(patterns, "SECONDS_PER_CHARACTER", 0)
    finder.cache_clear()
    for name in PATTERNS:
        assert finder(PATTERNS[name])(PROSE * 20) == regex.findall(PATTERNS[name], PROSE * 20)
    finder.cache_clear()


HOSTILE = ["a", "A", " ", "\n", "1", "!", "'", "\u0301", "\u4e2d", "aA", "'s", "\n ", " \n", "!\n",
           "!\u0301", "\u0301A", "A\u0301'", "\u02b0A", "\u00a0"]


@pytest.mark.parametrize("name", [*PATTERNS, pytest.param(DEEPSEEK_V3, id="deepseek_v3")])
def test_hostile_texts_take_time_in_proportion(name):
    """Four times the text, by arrays and by the pattern itself: less than eight times the work, in
    processor time."""
    tokenizer = Tokenizer({bytes([b]): b for b in range(256)}, name, {})
    find = finder(tokenizer.pattern)

    def seconds(work):
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            work()
            best = min(best, time.process_time() - start)
        return best

    for unit in HOSTILE:
        for cut in (find, lambda text: pieces.cut([text], tokenizer.pattern)):
            short, long = (("x" + unit * n)[:n] + end for n, end in ((5000, "x"), (20_000, "x")))
            assert seconds(lambda: cut(long)) < 8 * seconds(lambda: cut(short)) + 0.02, (unit, cut)


@pytest.mark.parametrize(
    "pattern, translated",
    [(r"\s+$", r"\s+(?![^\n])"),
     (r"^a", r"(?:(?<![^\n])(?=[\s\S]))a"),
     (r"a\Z", r"a(?=\n?(?![\s\S]))"),
     (r"[\w-]", r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}-]"),
     (r"\w", r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u00b2\u00b3\u00b9\u00bc-\u00be]"),
     (r"[]^$\]]\$\^", r"[]^$\]]\$\^"),
     (r"(?i:'s|'ll)", r"(?i:'s|'ll)"),
     (r"[a[b]]", "[ab]"),
     (r"[^[a[b-d]]\[[\]]]", r"[^ab-d\[\]]"),
     (r" ?[^(\s|[.,!?\u2026])]+", r" ?[^(\s|.,!?\u2026)]+"),
     (r"[a][[b]c]", "[a][bc]")],
)
def test_patterns_of_oniguruma(pattern, translated):
    assert from_oniguruma(pattern) == translated and from_oniguruma(translated) == translated
