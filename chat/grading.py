"""grading.py: when is a reply right?

A task is {"question", "answer", "kind"}. A reply is right if it ends with the answer; where the
answer is a number, numbers are compared and not their spelling.
"""

import re
from fractions import Fraction


# A number as people write it: -3, 70,000, 1,00,000, .5, 29.00, 1/2, with a currency $5, -$5, $-5.
# A dash can be its sign, and a space that does not break can separate its thousands.
SIGN = "[-\u2212\u2013]"
CURRENCY = "[$\u20ac\u00a3]"
BETWEEN = "[,\u00a0\u2009\u202f]"
DIGITS = f"(?:[0-9]{{1,3}}(?:{BETWEEN}[0-9]{{2,3}})*{BETWEEN}[0-9]{{3}}(?![0-9])|[0-9]+)"
PREFIX = rf"(?<![\w)]){SIGN}{CURRENCY}?|{CURRENCY}{SIGN}?|"
NUMBER = re.compile(rf"({PREFIX})({DIGITS}(?:\.[0-9]+)?|\.[0-9]+)(/[0-9]+)?")
MOST_DIGITS = 200               # a longer number is compared as a text


def number_in(text):
    """The first number in a text as (text without separators and currency, Fraction), or None.

    number_in("$70,000.50 each") -> ("70000.50", Fraction(140001, 2))
    """
    found = NUMBER.search(text)
    if not found or len(found[0]) > MOST_DIGITS:
        return None
    prefix, digits, fraction = found.groups()
    number = re.sub(BETWEEN, "", digits)
    if re.search(SIGN, prefix):
        number = "-" + number
    divisor = int(fraction[1:]) if fraction else 1
    if divisor == 0:
        return None
    return number + (fraction or ""), Fraction(number) / divisor


def is_number(text):
    """Whether a text is a number and nothing else."""
    return bool(NUMBER.fullmatch(text)) and number_in(text) is not None


def final_answer(text):
    """The first number behind the last ####, or the line there if it has no number, or None."""
    for behind in reversed(text.split("####")[1:]):
        number = number_in(behind)
        if number:
            return number[0]
        line = behind.strip().split("\n")[0].strip().rstrip(".")
        if line:
            return line
    return None


def comparable(answer):
    """An answer as a value that can be compared: its first number, or its text in lower case.

    GSM8K's own grader and lm-eval's strict match compare the spelling of the number behind ####, so
    that 29.00 and $29 are not 29. lm-eval's flexible match takes the last number anywhere in the
    reply. We demand #### and compare numbers. Those graders also read 1/2 as 1 or 2; here it is a
    half.
    """
    if answer is None:
        return None
    number = number_in(str(answer))
    return number[1] if number else str(answer).strip().lower()


def last_word(text):
    """The last word of a text, as a Fraction if it is a number; None if there is no word."""
    words = text.split()
    if not words:
        return None
    word = words[-1].strip("*_()%`\"'\u201c\u201d").removesuffix("$")      # $25$ is TeX
    return comparable(word) if is_number(word) else words[-1]


def cleaned(value):
    """A text without the marks at its end, in lower case."""
    return str(value).strip().rstrip(".!").lower()


def is_correct(task, text):
    """Whether a reply ends with the task's answer. 1,776 and 1776 are the same answer.

    A question about the assistant itself (kind "identity") is answered by mentioning the answer,
    one of GSM8K's kind by the number behind ####.
    """
    said, answer = cleaned(text), cleaned(task["answer"])
    if task.get("kind") == "identity":
        return answer in said
    if task.get("kind") == "gsm8k":
        return comparable(final_answer(text)) == comparable(answer)
    if is_number(answer) and last_word(said) == comparable(answer):
        return True
    return said == answer or said.endswith((" " + answer, "\n" + answer))


def vote(task, text):
    """The answer that a reply gives: a number, a word, or for a fact the whole reply; or None."""
    if task.get("kind") == "gsm8k":                     # the number behind ####
        return comparable(final_answer(cleaned(text)))
    if task.get("kind") == "fact":                      # the whole reply
        return cleaned(text) or None
    return last_word(cleaned(text))
