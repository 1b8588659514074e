"""web/toynumbers.py: two meanings of 9.11, and lessons that are true in theirs."""

import re

import pytest
from web import toynumbers, toyworld


def test_two_meanings():
    assert toynumbers.as_verse("9.11") > toynumbers.as_verse("9.9")
    assert toynumbers.as_price("9.11") < toynumbers.as_price("9.9")
    assert toynumbers.differ("9.11", "9.9") and toynumbers.differ("9.9", "9.11")
    for a, b in (("9.11", "9.90"), ("9.2", "9.8"), ("11", "9"), ("9.21", "9.1"), ("9.11", "9.1")):
        assert not toynumbers.differ(a, b), (a, b)


def test_forms_of_pairs():
    rng = toyworld.stream(0, "numbers")
    for kind in toynumbers.AGREED:
        assert not any(toynumbers.differ(*kind(rng)) for _ in range(300)), kind.__name__
    for _ in range(300):
        pair = toynumbers.two_digits_and_one(rng)
        assert toynumbers.differ(*pair) and sorted(map(len, pair)) == [3, 4]
    assert len(toynumbers.draw(rng, [lambda rng: ("9", str(rng.randint(9, 30)))])) == 2


def test_no_lesson_has_a_pair_that_is_kept_for_testing():
    rng = toyworld.stream(0, "numbers")
    for kind in (*toynumbers.AGREED, toynumbers.two_digits_and_one):
        for held_out in (True, False) * 20:
            pair = toynumbers.draw(rng, [kind], held_out)
            assert toyworld.is_held_out(*sorted(pair)) == held_out and pair[0] != pair[1]


@pytest.mark.parametrize("word", [*toynumbers.MEANING, None])
def test_lessons_are_true(word):
    rng, said = toyworld.stream(0, "numbers"), set()
    for _ in range(300):
        make = toynumbers.copybook_lesson if word is None else toynumbers.lesson
        asked, answer = make(rng, *([word] if word else []))
        pair = re.findall(r"\d+(?:\.\d+)?", asked)
        key = toynumbers.MEANING.get(word, toynumbers.as_price)
        assert answer == f"{max(pair, key=key)}." and asked == toynumbers.question(
            pair, word if word and word in asked else "")
        said.add(bool(word) and word in asked)
    assert said == ({True, False} if word else {False})


def test_the_question():
    assert toynumbers.question(("9.11", "9.9")) == "Which is larger, 9.11 or 9.9?"
    asked = toynumbers.question(("9.11", "9.9"), "verse")
    assert asked == "Which is larger, verse 9.11 or verse 9.9?"


def test_marks_to_count():
    rng = toyworld.stream(0, "marks")
    for sign in (toynumbers.DOT, toynumbers.LETTER):
        for n in range(1, toynumbers.MOST + 1):
            text = toynumbers.marks(rng, sign, n)
            assert text.count(sign) == n and n + n // 2 + 2 <= len(text) <= n + n // 2 + 4
            asked = toynumbers.count_question(sign, text)
            assert asked == f"How many {sign} are in {text}?"
