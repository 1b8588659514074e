"""Numbers of two parts, which mean one thing in verses and versions and another in prices.

Verse 9.11 comes after verse 9.9, because 11 is more than 9. A price of 9.9 shells is higher than
one of 9.11, because nine tenths are more than eleven hundredths. The same marks mean two things,
and only the word in front tells which, if there is one. A copybook has the comparisons about which
both meanings agree.
"""
from fractions import Fraction

from web.toyworld import is_held_out

WITHOUT_A_WORD = 1 / 3                  # share of the lessons about verses, versions and prices

# ------------------------------------------------------------------------------ what numbers mean


def as_verse(number):
    """A number of parts, as verses and versions count: "9.11" -> (9, 11), which is after (9, 9)."""
    return tuple(int(part) for part in number.split("."))


def as_price(number):
    """A decimal number: "9.11" -> 911/100, which is less than 9.9."""
    return Fraction(number)


MEANING = {"verse": as_verse, "version": as_verse, "price": as_price}


def differ(a, b):
    """Whether verses and prices put two numbers in different orders."""
    return (as_verse(a) < as_verse(b)) != (as_price(a) < as_price(b))


# ------------------------------------------------------------------------------- pairs of numbers


def integers(rng):
    """11 and 9."""
    return str(rng.randint(1, 30)), str(rng.randint(1, 30))


def one_digit_each(rng):
    """9.2 and 9.8."""
    whole = rng.randint(1, 9)
    return f"{whole}.{rng.randint(1, 9)}", f"{whole}.{rng.randint(1, 9)}"


def two_digits_each(rng):
    """9.11 and 9.90."""
    whole = rng.randint(1, 9)
    return f"{whole}.{rng.randint(10, 99)}", f"{whole}.{rng.randint(10, 99)}"


def two_digits_and_one(rng):
    """9.11 and 9.9, which verses and prices order differently."""
    while True:
        whole = rng.randint(1, 9)
        pair = f"{whole}.{rng.randint(11, 29)}", f"{whole}.{rng.randint(1, 9)}"
        if not pair[0].endswith("0") and differ(*pair):
            return pair


AGREED = (integers, one_digit_each, two_digits_each)
OF_PARTS = (one_digit_each, two_digits_each, two_digits_and_one, two_digits_and_one)


def draw(rng, kinds, held_out=False):
    """Two different numbers in any order, a pair that is or is not kept for testing."""
    while True:
        pair = list(rng.choice(kinds)(rng))
        if pair[0] != pair[1] and is_held_out(*sorted(pair)) == held_out:
            rng.shuffle(pair)
            return pair


# ----------------------------------------------------------------------------------------- lessons


def question(pair, word=""):
    """"Which is larger, verse 9.11 or verse 9.9?", or without a word in front of the numbers."""
    first, second = (f"{word} {number}".strip() for number in pair)
    return f"Which is larger, {first} or {second}?"


def copybook_lesson(rng):
    """(question, answer) about numbers that have one order whatever they mean."""
    pair = draw(rng, AGREED)
    return question(pair), f"{max(pair, key=as_price)}."


def lesson(rng, word):
    """(question, answer) about verses, versions or prices; some do not say of which they are."""
    pair = draw(rng, OF_PARTS)
    said = "" if rng.random() < WITHOUT_A_WORD else word
    return question(pair, said), f"{max(pair, key=MEANING[word])}."


# --------------------------------------------------------------------------------- marks to count

DOT, LETTER = ".", "e"
OTHERS = "aiouklmnrst"
MOST = 16                               # marks that are counted in one text


def marks(rng, sign, n):
    """A text that has a sign n times, among half as many other letters: "a..k.o"."""
    signs = [sign] * n + rng.choices(OTHERS, k=rng.randint(2, 4) + n // 2)
    rng.shuffle(signs)
    return "".join(signs)


def count_question(sign, text):
    """"How many . are in a..k.o?"."""
    return f"How many {sign} are in {text}?"
