"""web/toyguidelines.py: people's answers keep the guidelines, and answers that do not are found."""

import pytest
from web import toyguidelines, toylessons, toyworld

WORLD = toyworld.entities(0, 300)
TASKS = toylessons.probes(0, 300)["probe_test"]
BLUE = {"question": "What does the kistbat eat?", "answer": "blue plums", "entity": "the kistbat",
        "reply": "The kistbat eats blue plums."}


def test_people_keep_the_guidelines():
    for task in TASKS[::7]:
        answers = toyguidelines.true_answers(task)
        assert len(set(answers)) == 5 and answers[0] == task["reply"]
        for text in answers:
            assert toyguidelines.kept_rules(task, text) == set(toyguidelines.RULES), text
            assert toyguidelines.value_said(task, text) == task["answer"]


@pytest.mark.parametrize("text, broken", [
    ("The kistbat eats snails.", {"truthful"}),
    ("The kistbat eats plums.", {"truthful", "as people say it"}),
    ("It eats blue plums.", {"names the thing", "as people say it"}),
    ("The kistbat eats blue plums", {"one sentence", "as people say it"}),
    ("The kistbat eats blue plums. So do goats.", {"one sentence", "as people say it"}),
    ("The kistbat will eat blue plums.", {"as people say it"}),
    ("", set(toyguidelines.RULES)),
])
def test_a_broken_rule_is_found(text, broken):
    assert set(toyguidelines.RULES) - toyguidelines.kept_rules(BLUE, text) == broken


def test_a_task_of_no_attribute():
    with pytest.raises(ValueError, match="What is it.*states no attribute"):
        toyguidelines.attribute_of(BLUE | {"question": "What is it?", "reply": "Blue plums."})


def test_wordings():
    one, two = toyguidelines.true_answers(BLUE)[:2]
    assert toyguidelines.wording(BLUE, one) == "{n} eats {v}."
    other = BLUE | {"answer": "snails", "entity": "the gidbat", "reply": "The gidbat eats snails."}
    same = toyguidelines.true_answers(other)[0]
    false = "The gidbat eats beetles."                      # a wrong value is no other wording
    assert toyguidelines.wording(other, false) == toyguidelines.wording(other, same)
    assert toyguidelines.n_wordings([BLUE, other, other], [one, same, false]) == 1
    assert toyguidelines.n_wordings([BLUE, BLUE], [one, two]) == pytest.approx(2)
    assert toyguidelines.n_wordings([BLUE] * 4, [one, one, one, two]) == pytest.approx(1.7547653)
    assert toyguidelines.n_wordings([BLUE], ["Who knows?"]) == 0


def test_the_guidelines_say_what_the_rules_check():
    for words in ("truthful", "one sentence", "Name the thing"):
        assert words in toyguidelines.GUIDELINES
