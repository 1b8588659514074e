"""data.py: every limit of its rules from both sides; plain definitions beside fast twins."""

import doctest
import gzip
import json
import math
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest

import data
from conftest import ROOT, SHARED
from data import c4_quality
from pages import VOCABULARY, lines_of, prose, reason
from web import dedup
from web import extract
from web import pii
from web import quality
from web import toyweb
from web import warc
from web import words

# A plain definition, and the fast twin of the same name that a run uses.
PAIRS = [
    (data.Words, quality.Words), (data.parts_of, quality.parts_of), (data.minhash, dedup.minhash),
    (data.clusters, dedup.clusters), (data.redact, pii.redact),
]
DUPLICATE_NGRAMS = [(5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)]
COUNTS = ("n_real", "mean_length", "n_alphabetic", "n_stop_words")


def both(name, text, *args):
    """What a method of data.Words says of a text, and quality.Words as well."""
    plain, fast = (getattr(kind(text), name)(*args) for kind in (data.Words, quality.Words))
    assert plain == fast, (name, text[:300])
    return plain


def with_both(rule, *twins):
    """A rule that is asked with the plain definitions and with their twins."""

    def asked(text):
        plain, fast = rule(text), rule(text, *twins)
        assert plain == fast, text[:300]
        return plain

    return asked


gopher_repetition = with_both(data.gopher_repetition, quality.words_of, quality.parts_of)
gopher_quality = with_both(data.gopher_quality, quality.words_of)
fineweb_quality = with_both(data.fineweb_quality, quality.words_of)


def test_examples_of_the_docstrings():
    found = doctest.testmod(data)
    assert found.attempted > 5 and not found.failed


# ------------------------------------------------------------------------------------ plain = fast


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """The pages of crawl-dev and of toyweb, and 1,000 made-up texts."""
    folder = tmp_path_factory.mktemp("toyweb")
    toyweb.write(folder, n_pages=500)
    files = sorted((folder / "crawl").iterdir())
    if (SHARED / "crawl-dev.warc.gz").exists():
        files.append(SHARED / "crawl-dev.warc.gz")
    found = []
    for path in files:
        for record in warc.read_warc(path):
            if record.type == "response":
                found.append(extract.main_text(record.body, record.url, record.charset))
    assert len(found) > 450
    return found + made_up(1000)


def made_up(n):
    """Texts of few words, so that they repeat, with odd marks and white space between them."""
    rng, found = random.Random(0), []
    odd = [
        "the", "of", "It's", "5km", "e.g.", "#", "...", "…", "•", "-", "{", "[1]", "javascript",
        "use cookies", "jo@site.com", "8.8.8.8", "10.0.0.1", "\u3002", "caf\u00e9", "\ud800",
        "x" * 40, "?", "!", "\u203d", "3.50", "1999", "doesnt", "0mb", "\u0301", "a@b@c.org",
    ]
    spaces = [" "] * 20 + ["\n", "\n", "\n\n", "\n\n\n", "  ", "\t", "\u2028", "\x0c", "\xa0", ""]
    for _ in range(n):
        some = rng.sample(VOCABULARY, rng.choice([3, 20, 200])) + rng.sample(odd, rng.randint(0, 8))
        pieces = rng.choices(some, k=rng.choice([0, 1, 4, 30, 100, 300]))
        found.append("".join(piece + rng.choice(spaces) for piece in pieces))
    return found


@pytest.fixture
def small_blocks(monkeypatch):
    """Every block and every memory is as small as it can be, so that it is begun anew in a text."""
    monkeypatch.setattr(dedup, "BLOCK", 3)
    monkeypatch.setattr(words.Memory, "MOST", 7)
    monkeypatch.setattr(quality.Vocabulary, "MOST", 50)
    monkeypatch.setattr(quality, "vocabulary", quality.Vocabulary())


def test_the_pairs_are_all_the_names_that_are_here_and_in_a_room():
    named = set()
    for room in (dedup, extract, pii, quality, words):
        for name, value in vars(room).items():
            plain = vars(data).get(name)
            own = getattr(plain, "__module__", None) == "data"
            if own and getattr(value, "__module__", None) == room.__name__:
                named.add((plain, value))
    commands = {pair for pair in named if pair[0] is data.main}
    assert named - commands == set(PAIRS)


def test_the_words_of_a_text_are_counted_alike(texts, small_blocks):
    for text in texts:
        plain, fast = data.Words(text), quality.Words(text)
        assert len(plain) == len(fast), text
        for name in COUNTS:
            assert getattr(plain, name) == getattr(fast, name), (name, text)
        for n in (2, 3, 4):
            assert plain.top_ngram_chars(n) == fast.top_ngram_chars(n), (n, text)
        for n in (5, 6, 7, 8, 9, 10):
            assert plain.duplicate_ngram_chars(n) == fast.duplicate_ngram_chars(n), (n, text)


def test_a_text_is_kept_or_dropped_alike(texts, small_blocks):
    reasons = set()
    for text in texts:
        for rule in (gopher_repetition, gopher_quality, fineweb_quality):
            reasons.add(rule(text)[1])
    assert len(reasons) > 15  # the texts put the rules to the test


def test_signatures_and_clusters_are_alike(texts, small_blocks):
    signatures = data.minhash(texts)
    np.testing.assert_array_equal(signatures, dedup.minhash(texts))
    plain, fast = data.clusters(signatures), dedup.clusters(dedup.band_keys(signatures))
    assert (plain == fast).all() and 20 < (plain != np.arange(len(texts))).sum() < len(texts) - 20


def test_a_text_is_redacted_alike(texts):
    changed = 0
    for text in texts:
        plain = data.redact(text)
        assert plain == pii.redact(text), text
        changed += plain != text
    assert changed > 50


# -------------------------------------------------------------------------------- a reader's change

STAGE = (
    "STAGES = {",
    '''def stage_question(doc, tools):
    """Drops a text without a question."""
    return None if re.search(r"\\?(\\s|$)", doc["text"]) else "no_question"


STAGES = {''',
)
LISTED = (
    '    "fineweb": stage_fineweb,',
    '    "fineweb": stage_fineweb,\n    "question": stage_question,',
)
LIMIT = ("GOPHER_QUALITY = {", 'GOPHER_QUALITY = {\n    "no_question": (1, math.inf),')
MEASURE = (
    '    yield "gopher_enough_stop_words", found.n_stop_words',
    '    yield "gopher_enough_stop_words", found.n_stop_words\n'
    '    yield "no_question", len(re.findall(r"\\?(?:\\s|$)", text))',
)


@pytest.mark.parametrize(
    "stage, changes", [("question", (STAGE, LISTED)), ("gopher_quality", (LIMIT, MEASURE))]
)
def test_a_rule_that_is_added_to_this_file_alone_takes_effect(stage, changes, tmp_path):
    """A text must ask a question: as a stage of its own, and as one more measure."""
    toyweb.write(tmp_path, n_pages=150)
    source = (ROOT / "data.py").read_text(encoding="utf-8")
    for old, new in changes:
        assert source.count(old) == 1
        source = source.replace(old, new)
    (tmp_path / "data.py").write_text(source, encoding="utf-8")
    for argv in (["--check"], ["--run", tmp_path]):
        done = subprocess.run([sys.executable, tmp_path / "data.py", *argv], cwd=ROOT, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
        assert done.returncode == 0, done.stderr
        if argv == ["--check"]:
            assert f"new rule: {stage} drops http://a.com/lighthouse (no_question)" in done.stdout
    report = json.loads((tmp_path / "docs/report.json").read_text(encoding="utf-8"))
    assert report["stages"][stage]["reasons"]["no_question"] > 10
    with gzip.open(tmp_path / "docs/000000.jsonl.gz", "rt", encoding="utf-8") as lines:
        kept = [json.loads(line)["text"] for line in lines]
    assert kept and all("?" in text for text in kept)


# --------------------------------------------------------------------- each limit from both sides


def test_prose_passes_everything():
    text = prose(300)
    for check in (gopher_repetition, gopher_quality, c4_quality, fineweb_quality):
        assert check(text) == (text, None)


@pytest.mark.parametrize(
    "check",
    [
        gopher_repetition,
        gopher_quality,
        c4_quality,
        fineweb_quality,
        data.redact,
        lambda t: data.minhash([t]),
    ],
)
@pytest.mark.parametrize(
    "text",
    [
        "", " ", "\n", "\n\n\n", ".", "a", "a b", "...", "\u2028", "\x0c", "-", "#", "•\n•", "é",
        "\ufffd", "_" * 10, "🏳️‍🌈" * 5,
    ],
)
def test_no_division_by_zero(check, text):
    check(text)


@pytest.mark.parametrize("n_lines, n_repeated, want", [(10, 3, None), (10, 4, "dup_line_frac")])
def test_dup_line_frac(n_lines, n_repeated, want):
    lines = prose(200).split("\n")[: n_lines - n_repeated] + ["go on"] * (n_repeated + 1)
    assert (
        reason(
            gopher_repetition(
                "\n".join(lines[: n_lines - n_repeated - 1] + ["go"] * (n_repeated + 1))
            )
        )
        == want
    )


@pytest.mark.parametrize("blanks, want", [("\n\n", None), ("\n\n\n\n", None)])
def test_blank_lines_are_no_duplicate_lines(blanks, want):
    assert reason(gopher_repetition(prose(100).replace("\n", blanks))) == want


def test_dup_para_frac_and_chars():
    paragraphs = prose(200).split("\n")
    assert reason(gopher_repetition("\n\n".join(paragraphs[:7] + ["x y"] * 3))) is None  # 2 of 10
    assert (
        reason(gopher_repetition("\n\n".join(paragraphs[:6] + ["x y"] * 4))) is None
    )  # 3 of 10 is not over 0.3
    assert reason(gopher_repetition("\n\n".join(paragraphs[:5] + ["x y"] * 5))) == "dup_para_frac"
    assert (
        reason(gopher_repetition("\n\n".join(paragraphs[:8] + ["".join(paragraphs[10:12])] * 2)))
        != "dup_para_char_frac"
    )
    assert (
        reason(gopher_repetition("\n\n".join(paragraphs[:8] + ["".join(paragraphs[10:14])] * 2)))
        == "dup_para_char_frac"
    )


def test_dup_line_char_frac():
    lines = prose(200).split("\n")
    assert (
        reason(gopher_repetition("\n".join(lines[:8] + ["".join(lines[10:14])] * 2)))
        == "dup_line_char_frac"
    )


@pytest.mark.parametrize("n, limit", [(2, 0.20), (3, 0.18), (4, 0.16)])
def test_top_ngram(n, limit):
    ngram = ["aaaa", "bbbb", "cccc", "dddd"][:n]

    def text(share):  # 20 times the n-gram between different words, padded to the share
        one = len(" ".join(ngram)) * 20
        words_ = [w for w in VOCABULARY[:20]]
        parts = [" ".join(ngram) + " " + w for w in words_]
        out = " ".join(parts)
        size = int(one / share)
        filler = VOCABULARY[100:]
        while len(out) < size:
            out += " " + filler[0]
            filler = filler[1:]
        return out

    below, above = text(limit - 0.01), text(limit + 0.02)
    assert reason(gopher_repetition(below)) in (None, "duplicated_5_n_grams")
    assert f"top_{n}_gram" not in (reason(gopher_repetition(below)) or "")
    if n == 2:
        assert reason(gopher_repetition(above)) == "top_2_gram"


def test_top_ngram_counts_even_once_and_takes_the_first_of_equals():
    assert both("top_ngram_chars", "aa b c d", 2) == 4  # "aa b", not the later ones
    assert both("top_ngram_chars", "a b a b a", 2) == 6  # overlaps counted, first of equals
    assert both("top_ngram_chars", "a", 2) == 0
    assert both("top_ngram_chars", "b c a c a", 2) == 6  # "c a", whose second is the last of all
    assert reason(gopher_repetition("only three words")) == "top_2_gram"


def repeated(text, n):
    return both("duplicate_ngram_chars", text, n)


def test_duplicate_ngrams_scan():
    assert repeated("a b c d e a b c d e", 5) == 5
    assert repeated("a a a a a a a a a a a", 5) == 10  # seen at 0; dup at 1, jump; dup at 6, jump
    assert repeated("a b c d", 5) == 0


@pytest.mark.parametrize("n, limit", DUPLICATE_NGRAMS)
def test_duplicate_ngram_thresholds(n, limit, monkeypatch):
    for k in (2, 3, 4):  # these would see the texts first
        monkeypatch.setitem(data.GOPHER_REPETITION, f"top_{k}_gram", (0, math.inf))
    base = VOCABULARY[:n]
    chars = len("".join(base))

    def text(share):
        out = " ".join(base)
        size, filler = int(chars / share), iter(VOCABULARY[50:])
        middle = ""
        while len(out) * 2 + len(middle) + 2 < size:
            middle += " " + next(filler)
        return out + middle + " " + out

    assert reason(gopher_repetition(text(limit + 0.02))) == next(
        f"duplicated_{m}_n_grams"
        for m, at in DUPLICATE_NGRAMS
        if repeated(text(limit + 0.02), m) / len(text(limit + 0.02)) > at
    )
    assert reason(gopher_repetition(text(limit - 0.02))) != f"duplicated_{n}_n_grams"


def test_gopher_counts():
    fifty = ["the", "of"] + VOCABULARY[:48]
    assert reason(gopher_quality(" ".join(fifty))) is None
    assert (
        reason(gopher_quality(" ".join(fifty[:49] + ["."]))) == "gopher_short_doc"
    )  # a symbol is no word
    assert reason(gopher_quality("the of " + "word " * 99_998)) is None
    assert reason(gopher_quality("the of " + "word " * 99_999)) == "gopher_long_doc"


def test_gopher_mean_word_length():
    assert reason(gopher_quality("the of " + "abc " * 40 + "abcd " * 8)) is None
    assert reason(gopher_quality("the " * 50 + "of the")) == "gopher_below_avg_threshold"  # 2.98
    assert reason(gopher_quality("the that " + "x" * 23 + " abcdefghij" * 50)) is None  # 10 exactly
    assert (
        reason(gopher_quality("the that " + "x" * 24 + " abcdefghij" * 50))
        == "gopher_above_avg_threshold"
    )
    assert (
        reason(gopher_quality("the that " + "abcdefghijk " * 100)) == "gopher_above_avg_threshold"
    )


def with_symbols(symbol, n, words_=90):
    return " ".join([symbol] * n + ["the", "of"] + VOCABULARY[: words_ - 2])


def test_gopher_symbol_ratios():
    assert reason(gopher_quality(with_symbols("#", 10))) is None  # 10 of 100
    assert reason(gopher_quality(with_symbols("#", 11))) == "gopher_too_many_hashes"
    assert reason(gopher_quality(with_symbols("…", 10))) is None
    assert reason(gopher_quality(with_symbols("…", 11))) == "gopher_too_many_ellipsis"
    assert reason(gopher_quality(with_symbols("...", 11))) == "gopher_too_many_ellipsis"


def test_gopher_lines():
    lines = prose(200).split("\n")[:10]
    bullets = lambda mark, n: "\n".join(
        (mark if i < n else "") + line for i, line in enumerate(lines)
    )
    assert reason(gopher_quality(bullets("- ", 9))) is None
    assert reason(gopher_quality(bullets("  • ", 10))) == "gopher_too_many_bullets"
    ends = lambda mark, n: "\n".join(line + (mark if i < n else "") for i, line in enumerate(lines))
    assert reason(gopher_quality(ends("…", 3))) is None
    assert reason(gopher_quality(ends("... ", 4))) == "gopher_too_many_end_ellipsis"


def test_gopher_alphabetic_and_stop_words():
    assert reason(gopher_quality(with_symbols("7", 22))) is None  # 90 of 112
    assert (
        reason(gopher_quality(with_symbols("7", 23))) == "gopher_below_alpha_threshold"
    )  # 90 of 113
    text = " ".join(VOCABULARY[:100])
    assert reason(gopher_quality("the of " + text)) is None
    assert reason(gopher_quality("the the " + text)) == "gopher_enough_stop_words"
    assert (
        reason(gopher_quality("the The Of " + text)) == "gopher_enough_stop_words"
    )  # case-sensitive


FIVE = "\n".join(f"Here is line number {w}." for w in ("one", "two", "three", "four", "five"))


@pytest.mark.parametrize(
    "line, kept",
    [
        ("two words", None), ("three words here", "three words here"),
        ("x" * 1000 + " a b", "x" * 1000 + " a b"), ("x" * 1001 + " a b", None),
        ("Please enable Javascript to see this.", None), ("Read our Privacy Policy here.", None),
        ("This site uses cookies and more.", None), ("Terms of use are below.", None),
        ("We like cookies very much.", "We like cookies very much."),
        ("It is so[1][23] said [citation needed] here[edit].", "It is so said  here."),
        ("a [1] [2]", "a  "), ("[1] [2] [3]", "  "), ("  padded line here  ", "padded line here"),
        ("javascript { is fine }", None), ("{ two", None),
        ("no punctuation at end", "no punctuation at end"),
    ],
)
def test_c4_lines(line, kept):
    text, why = c4_quality(FIVE + "\n" + line + "\nThe end is here.")
    assert (
        why is None and text == FIVE + ("" if kept is None else "\n" + kept) + "\nThe end is here."
    )


def test_c4_survives_a_long_blank_line():
    assert c4_quality(FIVE + "\n" + " " * 1001 + "\nx")[0] == FIVE


def test_c4_documents():
    assert c4_quality(FIVE) == (FIVE, None)
    assert reason(c4_quality(FIVE.rpartition("\n")[0])) == "too_few_sentences"
    assert reason(c4_quality(FIVE + "\nThis is LOREM ipsum text.")) == "lorem_ipsum"
    assert reason(c4_quality(FIVE + "\nif (a) { b }")) == "curly_bracket"
    assert (
        reason(c4_quality(FIVE + "\nlorem ipsum javascript {")) == "lorem_ipsum"
    )  # before the others
    assert c4_quality("One. Two. Three. Four. Five.") == ("One. Two. Three. Four. Five.", None)
    assert c4_quality(FIVE.replace("\n", "\u2028")) == (FIVE, None)  # splitlines
    assert c4_quality("\n" + FIVE + "\n")[0] == FIVE


def test_fineweb_line_punctuation():
    assert reason(fineweb_quality(lines_of(3, 25))) is None  # 0.12 is enough
    assert reason(fineweb_quality(lines_of(2, 25))) == "line_punct_ratio"
    assert (
        reason(fineweb_quality(lines_of(25, 25, end='"'))) == "line_punct_ratio"
    )  # quotes do not count
    assert reason(fineweb_quality(lines_of(25, 25, end=". "))) == "line_punct_ratio"
    assert reason(fineweb_quality(lines_of(25, 25, end="。"))) is None
    assert reason(fineweb_quality(" \n\t\n")) == "empty"


def test_fineweb_short_lines():
    long = lines_of(33, 33)
    short = lambda n, size: "\n".join(
        (f"{i} " + "word other thing next again " * 3)[: size - 1] + "." for i in range(n)
    )
    assert reason(fineweb_quality(long + "\n" + short(67, 30))) is None  # 0.67 is allowed
    assert reason(fineweb_quality(long + "\n" + short(68, 30))) == "short_line_ratio"
    assert reason(fineweb_quality(long + "\n" + short(68, 31))) is None
    assert (
        reason(fineweb_quality(long + "\n\n\n" + short(67, 30) + "\n" * 40)) is None
    )  # blank lines do not count


def test_fineweb_duplicate_characters():
    text = lines_of(50, 50, size=100)  # 50 x 100 characters
    assert (
        reason(fineweb_quality(text + "\n" + "a" * 49 + ".\n" + "a" * 49 + ".")) is None
    )  # 50 of 5100
    assert (
        reason(fineweb_quality(text + "\n" + "a" * 50 + ".\n" + "a" * 50 + ".")) is None
    )  # 51 of 5102
    assert (
        reason(fineweb_quality(text + "\n" + "a" * 51 + ".\n" + "a" * 51 + ".")) == "char_dup_ratio"
    )


def test_fineweb_list_ratio():
    line = lambda i: VOCABULARY[i] + "x" * 30 + f" {VOCABULARY[i + 500]}."  # three tokens
    assert (
        reason(fineweb_quality("\n".join(line(i) for i in range(100)))) == "list_ratio"
    )  # 99 of 300
    assert (
        reason(fineweb_quality("\n".join("and " + line(i) for i in range(100)))) is None
    )  # 99 of 400


def test_an_empty_text_goes():
    assert reason(gopher_repetition("")) == reason(fineweb_quality("")) == "empty"


def test_c4_counts_a_sentence_after_wide_white_space():
    lines = "\n".join(f"Here is line number {w}." for w in ("one", "two", "three"))
    assert c4_quality(lines + "\nAnd the end.  ***") == (lines + "\nAnd the end.  ***", None)
    assert reason(c4_quality(lines + "\nAnd the end. ***")) == "too_few_sentences"
    assert c4_quality(lines + "\nAnd the end. [1] ***")[0] == lines + "\nAnd the end.  ***"


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000, "a " * 100_000, "ab" * 200_000 + ".", "1." * 100_000, "A." * 100_000,
        "http://" * 50_000, "a@" * 100_000, "n't" * 100_000, "'" * 200_000, "." * 300_000,
        "\u0300" * 200_000, "a.b" * 100_000, "a-" * 100_000, "a" + "\u0315\u0300" * 50_000,
    ],
)
def test_filters_in_linear_time(text):
    start = time.process_time()
    for rule in (data.gopher_repetition, data.gopher_quality, data.fineweb_quality):
        rule(text, quality.words_of)
    c4_quality(text)
    dedup.minhash([text])
    assert time.process_time() - start < 6
