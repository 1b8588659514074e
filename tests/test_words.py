"""web/words.py: the words of spaCy's blank English; test_data_peers.py asks spaCy itself."""

import doctest
import itertools
import random
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from web import dedup
from web import words
from conftest import run_script


def test_examples_of_the_docstrings():
    found = doctest.testmod(words)
    assert found.attempted > 3 and not found.failed


# What spaCy 3.8 gives; words are separated by |, pieces by spaces.
@pytest.mark.parametrize(
    "text, want",
    [
        # Contractions that have lost their apostrophe, and what looks like them.
        (
            "doesnt wont cant Dont im Im youre theyll couldve",
            "does|nt wo|nt ca|nt Do|nt i|m I|m you|re they|ll could|ve",
        ),
        ("id wed shed well ill its were", "i|d we|d shed well ill its were"),
        ("whatre thatre DONT idve mustntve notve", "what|re thatre DONT i|d|ve must|nt|ve not|ve"),
        (
            "I'd've can't Isn't y'all how'd'y c'mon let's",
            "I|'d|'ve ca|n't Is|n't y'|all how|'d|'y c'm|on let|'s",
        ),
        ("I’d doesn’t ’cause goin’ 'em", "I|’d does|n’t ’cause goin’ 'em"),
        ("can't-do Shan't.", "can't|-|do Sha|n't|."),
        ("John's JOHN'S o'clock", "John|'s JOHN|'S o'clock"),
        # Numbers and units.
        (
            "0mb 0x0 5km 5kmh 3mi $5 5$ 5US$ 20% 1990s 8am 13pm 3.5GB",
            "0|mb 0x0 5|km 5|kmh 3mi $|5 5|$ 5|US$ 20|% 1990s 8|am 13pm 3.5|GB",
        ),
        (
            "1,000.5 10-20 3+4 a+b 2^3 x2-3 +5 5+ 25°C. °c.",
            "1,000.5 10|-|20 3|+|4 a+b 2|^|3 x2|-|3 +5 5|+ 25|°|C|. °|c|.",
        ),
        # Abbreviations, and the stop of other words.
        (
            "Mr. e.g. E.g. U.S. p.m. Ph.D. Inc. j. J. end. END. A.",
            "Mr. e.g. E.g. U.S. p.m. Ph.D. Inc. j. J. end|. END|. A.",
        ),
        ("(e.g. etc.) Im. mo. Mo.", "(|e.g. etc|.|) I|m. mo|. Mo."),
        # Marks inside.
        (
            "well-known a--b x—y and/or w/o his/her a:b a=b 3:4 a,b 1,a",
            "well|-|known a|--|b x|—|y and/or w/o his|/|her a|:|b a|=|b 3:4 a|,|b 1,a",
        ),
        ("End.Next end.next wait...what ….", "End|.|Next end.next wait|...|what …|."),
        (
            '"So," (he) <said>! #tag @user _x_ [1] *b*',
            '"|So|,|" (|he|) <|said|>|! #|tag @user _|x|_ [|1|] *|b|*',
        ),
        # URLs and addresses stay whole, without the marks around them.
        (
            "(http://a.com/b-c?d=e), www.a.co.uk/Ab, jo.doe@a.org. a.b@c",
            "(|http://a.com/b-c?d=e|)|, www.a.co.uk/Ab|, jo.doe@a.org|. a.b@c",
        ),
        (
            "8.8.8.8/ab 10.0.0.1/ab mailto:a@b.com site.Com/x",
            "8.8.8.8/ab 10.0.0.1|/|ab mailto:a@b.com site|.|Com|/|x",
        ),
        # Emoticons, also those that come apart and are joined again, and emoji.
        (":) :-( end:) (8) <3 ^_^ o.O :))) xD :'(", ":) :-( end|:) (|8) <3 ^_^ o.O :))) xD :'("),
        ("wow😀😀 ©2024 a☀b 🥺x 🫠x", "wow|😀|😀 ©|2024 a|☀|b 🥺|x 🫠x"),
        (
            "\u4e2d\u6587\u3002 caf\u00e9, na\u00efve\u2019s \u041c\u0438\u0440. 5\u043a\u0433",
            "\u4e2d\u6587|\u3002 caf\u00e9|, na\u00efve|\u2019s "
            "\u041c\u0438\u0440|. 5|\u043a\u0433",
        ),
    ],
)
def test_words(text, want):
    assert words.words(text) == want.replace("|", " ").split()
    assert [words.split_piece(piece) for piece in text.split()] == [
        piece.split("|") for piece in want.split()
    ]


def test_a_text_is_its_pieces():
    r = random.Random(0)
    alphabet = list("abIdmx09.,:;!?()'\"’-/$%°@ \n\t\u00a0\x1c…😀é") + [
        "n't", "km", "www.", ".com", "cannot", "e.g.", ":)",
    ]
    for _ in range(2000):
        text = "".join(r.choices(alphabet, k=r.randint(0, 30)))
        found = words.words(text)
        assert "".join(found) == "".join(text.split()), text
        assert found == [word for piece in text.split() for word in words.split_piece(piece)]


def test_a_word_and_a_mark_are_split_by_the_same_rules():
    for case in [*words.SPECIAL, "US", "C", "kg", "a", "end", "END", "It", "é", "x1"]:
        letters = "".join(filter(str.isalpha, case))
        for word, mark in itertools.product((case, letters, letters.lower()), ",.:;!?)'(-$…"):
            found = words.split_affixes(word + mark, words.SPECIAL)
            want = words.SPECIAL.get(word + mark) or words.join_special(found)
            assert words.split_piece(word + mark) == want, word + mark


def test_what_dedup_takes_for_unsplit_is_one_word():
    """web/dedup.py looks at most texts in ASCII only to see that none of their words is split."""
    r, pieces = random.Random(1), [*dedup.SPLIT, *words.SPECIAL, *words.UNITS]
    pieces = [piece for piece in pieces if piece.isascii() and piece.isalnum()]
    n_split = 0
    for _ in range(20_000):
        before, behind = r.choice(["", "0", "x0", "a"]), r.choice(["", "", "0", "x"])
        piece = dedup.normalize(before + r.choice(pieces) + behind)
        unsplit = piece not in dedup.SPLIT and not dedup.SPLIT_NUMBER.search(piece)
        assert unsplit == (words.split_piece(piece) == [piece]), piece
        n_split += not unsplit
    assert 2000 < n_split < 18_000


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("Mr. Li's 3.14 isn't well-known.", "Mr.|Li|'s|3.14|is|n't|well|-|known|."),
        ("We’re at 1,000, aren’t we?", "We|’re|at|1,000|,|are|n’t|we|?"),
        ("The U.S. and e.g. J. Smith...", "The|U.S.|and|e.g.|J.|Smith|..."),
        ("See http://a.com/b?c=d, or a@b.com.", "See|http://a.com/b?c=d|,|or|a@b.com|."),
        ("$5 50% 20th 10:30 1990s", "$|5|50|%|20th|10:30|1990s"),
        ("O'Donnell cannot", "O'Donnell|can|not"),
        ("example.com End.Next", "example.com|End|.|Next"), ("a--b…", "a|--|b|…"), ("", ""),
        (" \n\t\u00a0", ""), ("\u4e2d\u6587\u3002", "中文|。"),
        ("「東京」は、日本の首都です。 好（一）《书》", "「|東京」は、日本の首都です|。|好（一）《书|》"),
    ],
)
def test_words_of_texts(text, tokens):
    assert words.words(text) == tokens.split("|") * bool(tokens)


@pytest.mark.parametrize(
    "text, n",
    [
        ("One. Two! Three?", 3), ("One. (Two) three", 2), ("No end", 1), ("", 1), ("...", 1),
        ("One...two", 1), ("Mr. Smith of the U.S. came.", 1), ('He said "no." Then he left.', 2),
        ("3.14 is pi. Yes.", 2), ("一。二。三", 1), ("一。 二。 三", 3), ("One.", 1), ("a.b.c", 1),
        ("end. */", 1), ("end.  */", 2), ("end.\u00a0*/", 2), ("end.  Next", 2),
        ("so  on. The\tend?  ! ?", 3), ("one\u17d4 two\u0964 three", 2),
    ],
)
def test_count_sentences(text, n):
    assert words.count_sentences(text) == n


def test_character_sets():
    assert len(words.PUNCTUATION) == 129 and len(words.END_MARKS) == 159
    assert {c for c in words.END_MARKS if c < "\u0250"} == set(".!?")
    assert "•" not in words.SYMBOLS and "１" in words.SYMBOLS and "\t" not in words.SYMBOLS


@pytest.mark.parametrize(
    "piece",
    [
        "(" * 40_000, "a)" * 25_000, ".)" * 25_000, "a.a." * 12_000 + "1", "a@" * 25_000 + ".com",
        "x://" * 15_000, "a." * 25_000 + ":", ":)" * 12_000, "'s" * 25_000, "-a" * 25_000,
        "a" * 100_000 + "!", "1kg" * 20_000, "🥺." * 25_000, "@.a@" * 12_000,
    ],
)
def test_one_long_piece_in_linear_time(piece):
    start = time.process_time()
    assert "".join(words.words(piece)) == piece
    assert time.process_time() - start < 3


def test_command():
    done = run_script("web/words.py", "I'd say it's 5km (i.e. 3mi).")
    assert done.returncode == 0 and done.stdout == "I 'd say it 's 5 km ( i.e. 3mi ) .\n"
