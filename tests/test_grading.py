"""chat/grading.py: numbers in texts, right answers, and the answer that a reply gives."""

import pytest

from chat import arena, grading


@pytest.mark.parametrize(
    "text, answer, kind, right",
    [("It stops at three.", "three", "wheel", True), ("It stops at three", "three", "wheel", True),
     ("three", "three", "wheel", True),
     ("Step by step: one one, two three. It stops at three.", "three", "wheel", True),
     ("It stops at two.", "three", "wheel", False),
     ("It stops at three. No, two.", "three", "wheel", False),
     ("It stops at thirtythree.", "three", "wheel", False), ("", "three", "wheel", False),
     ("3 times 4 is 12.", "12", "calculator", True),
     ("3 times 4 is 112.", "12", "calculator", False),
     ("It lives in Salt Marshes.", "salt marshes", "fact", True),
     ("I am Longhand, a model.", "Longhand", "identity", True),
     ("I am a model.", "Longhand", "identity", False)],
)
def test_is_correct(text, answer, kind, right):
    assert grading.is_correct({"answer": answer, "kind": kind}, text) is right


@pytest.mark.parametrize(
    "answer, text, correct",
    [("1776", "It is 1,776.", True), ("1776", "That makes $1776", True), (29.0, "It is 29.", True),
     (29, "It is 29.00", True), ("-63", "It is -63.", True), ("25", "It is **25**.", True),
     ("25", "It is 25%", True), ("0.5", "It is .5", True), ("25", 'It is "25".', True),
     ("25", "It is \u201c25\u201d", True), ("25", "It is `25`.", True), ("25", "It is $25$.", True),
     ("-5", "It is -$5", True), ("-63", "It is \u201363.", True), ("63", "It is \u201363.", False),
     ("63", "It is -63.", False), ("17", "It is 1776.", False), ("29", "It is 29 or 30", False),
     ("2", "It is H2", False), ("five", "It stops at five.", True),
     ("five", "It stops at 5.", False), ("Longhand", "I am longhand!", True)],
)
def test_numbers_in_replies_are_compared_as_numbers(answer, text, correct):
    assert grading.is_correct({"question": "q", "answer": answer}, text) == correct


def test_right_answers_to_gsm8k():
    def right(answer, text):
        return grading.is_correct({"question": "q", "answer": answer, "kind": "gsm8k"}, text)

    for text in ("#### 29.00", "#### $29", "29 is\n#### 29 eggs", "#### **29**.", "####29"):
        assert right("29", text) and right(29, text) and right(29.0, text) and right("$29", text), (
            text
        )
    for text in ("29", "#### 290", "#### -29", "#### 29\n#### 30", "#### ", "#### twenty-nine"):
        assert not right("29", text), text


def test_votes_for_one_number_are_counted_together():
    gsm, other = {"kind": "gsm8k"}, {"kind": "calculator"}
    votes = [grading.vote(gsm, f"#### {x}") for x in ("1", "29.00", "2", "$29")]
    assert arena.majority(votes) == 1
    votes = [grading.vote(other, f"It is {x}.") for x in ("1", "1,776", "2", "1776")]
    assert arena.majority(votes) == 1
    assert grading.vote(gsm, "29") is None and grading.vote(other, " ") is None


def test_what_a_reply_votes_for():
    assert (
        grading.vote({"kind": "wheel"}, "Step by step: two two. It stops at nine.") == "nine"
        and grading.vote({}, " ") is None
    )
    assert (
        grading.vote({"kind": "fact"}, "It is red.") == "it is red"
        and grading.vote({"kind": "gsm8k"}, "so\n#### 1,000") == 1000
    )


@pytest.mark.parametrize(
    "text, answer",
    [("#### 29.00", "29"), ("#### $29", "29"), ("#### $ 29", "29"), ("#### -$3", "-3"),
     ("#### $-3", "-3"), ("#### \u22123", "-3"), ("#### \u20133", "-3"), ("#### 3\u20135", "3"),
     ("#### 1\u202f234\u202f567 m", "1234567"), ("#### 1\u00a0234 g", "1234"), ("#### 1 234", "1"),
     ("#### 18 eggs", "18"), ("#### **18**", "18"), ("#### \\boxed{18}", "18"),
     ("#### The answer is 18.", "18"), ("####18", "18"), ("#### 70,000 dollars", "70000"),
     ("#### 1,00,000", "100000"), ("#### 1,234,567.50", "1234567.5"), ("#### .5", "0.5"),
     ("#### 1/2", "0.5"), ("#### 2/3", "4/6"), ("#### 25%", "25"), ("#### 007", "7"),
     ("#### 18-20", "18"), ("#### Day-3", "3"), ("#### 18, that is 2 times 9", "18"),
     ("#### 1\n#### 18", "18"), ("#### 18 ####", "18"), ("#### 0.1", "0.10"),
     ("#### 100000000000000000001", "100000000000000000001.0"), ("#### -0", "0"),
     ("#### Paris.", "paris"), ("####\n18", "18")],
)
def test_answers_that_are_equal(text, answer):
    assert grading.comparable(grading.final_answer(text)) == grading.comparable(answer)


@pytest.mark.parametrize(
    "text, answer",
    [("#### 19", "18"), ("#### \u201318", "18"), ("#### 180", "18"), ("18", "18"), ("#### -3", "3"),
     ("#### 1/2", "1"), ("#### 1,8", "18"), ("#### 18\n####  19", "18"),
     ("#### 100000000000000000001", "100000000000000000000"), ("#### 0.30000000000000004", "0.3"),
     ("#### 1/0", "1"), ("#### ", "18"), ("#### Rome", "paris"), ("#### " + "9" * 10**6, "9"),
     ("#### 1" + "0" * 400, "inf"), ("#### nan", "18"), ("", "18")],
)
def test_answers_that_differ(text, answer):
    assert grading.comparable(grading.final_answer(text)) != grading.comparable(answer)


def test_the_answer_behind_the_marks():
    found = [grading.final_answer(text) for text in ("so\n#### 12.", "#### 1 \n#### $5", "no")]
    assert found == ["12", "5", None]
