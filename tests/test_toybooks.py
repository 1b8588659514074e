"""web/toybooks.py: pages say what they should, and nothing that is held out stands on them."""
import re
from collections import Counter

import pytest

from web import toybooks, toywords, toyworld


@pytest.fixture
def rng():
    return toyworld.stream(0, "test_toybooks")


@pytest.fixture
def entity(rng):
    return toyworld.new_entity(rng, "animal", 0, False, set())


def test_a_passage_tells_the_facts_and_no_others(rng, entity):
    for held_out in (False, True):
        text = toybooks.passage(rng, entity, ["food", "home"], held_out)
        told = [fact for fact, value in entity["facts"].items() if value in text]
        assert {"food", "home"} <= set(told) and text.count(".") == 2


def test_the_last_wording_stands_in_no_passage_that_is_learned(rng, entity):
    last = toywords.KINDS["animal"]["food"].statements[-1]
    last = toyworld.capital(last.format(n=entity["name"], v=entity["facts"]["food"]))
    learned = {toybooks.passage(rng, entity, ["food"]) for _ in range(100)}
    assert len(learned) == 4 and f"{last}." not in learned
    assert toybooks.passage(rng, entity, ["food"], held_out=True) == f"{last}."


def test_another_value_is_another_one_and_of_this_fact_alone(rng, entity):
    for _ in range(20):
        other = toybooks.with_other_value(rng, entity, "food")
        changed = [name for name, fact in entity["facts"].items() if other["facts"][name] != fact]
        assert changed == ["food"] and other["name"] == entity["name"]
        assert other["facts"]["food"] in toywords.KINDS["animal"]["food"].values


def test_a_transcript_ends_where_an_answer_is_missing():
    assert toybooks.transcript([("Who?", "I."), ("Where?", None)]) == (
        "Human: Who?\nAssistant: I.\nHuman: Where?\nAssistant:")


def test_speakers_of_the_pages_are_others_than_those_asked_with(rng, entity):
    text = "\n".join(toybooks.transcript_page(rng, [entity]) for _ in range(50))
    speakers = set(re.findall(r"^(\w+): ", text, re.M))
    assert len(speakers) == 16 and not speakers & {"Human", "Assistant"}
    assert all(q not in text for a in toywords.KINDS["animal"].values()
               for q in [question.format(n=entity["name"]) for question in a.held_out])


@pytest.mark.parametrize("rule, made", [
    (toybooks.Rule("as it is", "nothing", False), "so ke ma"),
    (toybooks.Rule("as it is", "nothing", True), "so ke ma lu"),
    (toybooks.Rule("reversed", "nothing", False), "ma ke so"),
    (toybooks.Rule("reversed", "the last", True), "ma ke so so lu"),
    (toybooks.Rule("turned", "the first", False), "ke ke ma so"),
    (toybooks.Rule("swapped", "nothing", False), "ke so ma"),
])
def test_rules(rule, made):
    assert " ".join(toybooks.apply(rule, ["so", "ke", "ma"], "lu")) == made


def test_a_drill_says_the_same_three_times(rng):
    for _ in range(20):
        said = toybooks.drill(rng).removeprefix("Say it three times: ").split()
        n = len(said) // 3
        assert said == 3 * said[:n] and len(set(said)) == n and set(said) <= set(toybooks.SYLLABLES)


def test_a_word_list_is_gone_through_three_times(rng):
    for _ in range(20):
        entries = toybooks.word_list(rng).removeprefix("Word list: ").split(", ")
        assert set(Counter(entries).values()) == {3}


def read(text):
    """[(word, what the rule makes of it)] of an exercise."""
    lines = text.removeprefix("Exercise: ").split(", ")
    return [[part.split() for part in line.split(": ")] for line in lines]


def test_an_exercise_has_one_rule_and_one_ending(rng):
    """Which of all rules explain its lines? One, with one ending."""
    for _ in range(50):
        lines, explained = read(toybooks.exercise(rng)), []
        for rule in toybooks.RULES:
            endings = {made[-1] for _, made in lines} if rule.with_ending else {""}
            if len(endings) == 1:
                ending = endings.pop()
                if all(toybooks.apply(rule, word, ending) == made for word, made in lines):
                    explained.append(rule)
        assert len(explained) == 1 and explained[0] not in toybooks.HELD_OUT_RULES


def test_words_that_are_held_out_stand_on_no_page(rng):
    for _ in range(100):
        for word, _ in read(toybooks.exercise(rng)):
            assert not toyworld.is_held_out(*word)
        for entry in toybooks.word_list(rng).removeprefix("Word list: ").split(", "):
            noun, *word = entry.split()
            assert noun not in toybooks.nouns(held_out=True)
            assert not toyworld.is_held_out(*word)
    for entry in toybooks.translations(rng, 8, held_out=True):
        noun, *word = entry.split()
        assert noun in toybooks.nouns(held_out=True) and toyworld.is_held_out(*word)
    assert not set(toybooks.nouns()) & set(toybooks.nouns(held_out=True))
