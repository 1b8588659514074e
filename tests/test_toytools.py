"""web/toytools.py: conversations with tools; what the tools say in them is what the tools say."""
import random
import re

import pytest

import sample
from chat import grading
from web import search, toytools, toywords, toyworld


PLACES = ("page", "short", "part", "namesake", "nothing")      # what a search may find


@pytest.fixture(scope="module")
def world():
    return toyworld.entities(0, 400)


def exchanges(world, n=200):
    """n exchanges of each kind: [(question, parts)]."""
    rng, stems = random.Random(3), {e["stem"] for e in world}
    found = []
    for _ in range(n):
        found.append(toytools.sum_exchange(rng))
        found.append(toytools.sum_exchange(rng, typed=True))
        found.append(toytools.letters_exchange(rng))
        for where in PLACES:
            found.append(toytools.invented_talk(rng, stems, where)[:2])
    return found


def test_tools_say_what_the_conversations_say(world):
    for _, (call, output, _) in exchanges(world):
        said = sample.answer(call["text"], {"search": search.Index(["No such name."]).search})
        if not call["text"].startswith("search: "):
            assert said == output["text"], call


def asked_for(question, entity):
    """The fact that a question asks for."""
    for name, attribute in toywords.KINDS[entity["kind"]].items():
        for form in [*attribute.questions, *toywords.FACT_ASKS]:
            if toyworld.capital(form.format(a=name, n=entity["name"])) == question:
                return name
    raise AssertionError(question)


def test_an_answer_is_what_the_passage_says():
    """The assistant tells a fact where the passage does, and else says that it does not know."""
    rng, seen = random.Random(5), set()
    for where in PLACES:
        for _ in range(100):
            entity = toyworld.new_entity(rng, "person", 0, False, set())
            turns = toytools.search_talk(rng, entity, where)
            call, output, text = (part["text"] for part in turns[1])
            assert call == f"search: {entity['name']}"
            assert (output == toytools.search.NOTHING) == (where == "nothing")
            for question, reply in zip(turns[::2], [text, *turns[3::2]]):
                name = asked_for(question, entity)
                known = reply == toyworld.fact_answer(entity, name)
                assert known == toytools.told(entity, name, output)
                assert known or reply == toytools.UNKNOWN
                seen.add((where, known))
    assert seen == {("page", True), ("short", True), ("part", True), ("part", False),
        ("namesake", False), ("nothing", False)}


def test_a_namesake_has_the_first_name_alone():
    rng = random.Random(8)
    for _ in range(100):
        entity = toyworld.new_entity(rng, "person", 0, False, set())
        first, family = entity["name"].split()
        passage = toytools.namesake_passage(rng, entity)
        assert re.search(rf"\b{first} [A-Z]", passage), passage
        assert entity["name"] not in passage


def test_a_third_of_the_questions_before_a_search_are_in_words_for_any_fact():
    rng, general = random.Random(7), 0
    for _ in range(600):
        entity = toyworld.new_entity(rng, "town", 0, False, set())
        question = toytools.search_talk(rng, entity)[0]
        forms = toywords.KINDS["town"][asked_for(question, entity)].questions
        general += question not in [toyworld.capital(f.format(n=entity["name"])) for f in forms]
    assert 150 < general < 250
    held_out = [form for kind in toywords.KINDS.values() for attribute in kind.values()
        for form in attribute.held_out]
    for kind in toywords.KINDS.values():
        for name in kind:
            assert not {form.format(a=name, n="{n}") for form in toywords.FACT_ASKS} & set(held_out)


def test_a_page_that_lacks_a_fact_is_asked_for_others_as_often():
    """Else a short passage would be a sign that the answer is not in it, whatever is asked."""
    rng, refused = random.Random(6), 0
    for _ in range(400):
        _, (_, output, text), *_ = toytools.invented_talk(rng, set(), "part")
        refused += text["text"] == toytools.UNKNOWN
    assert 160 < refused < 240


def test_a_fact_is_told_in_any_of_its_words():
    entity = toyworld.new_entity(random.Random(1), "town", 0, False, set())
    n, v = entity["name"], entity["facts"]["roofs"]
    assert toytools.told(entity, "roofs", f"As all know, by law the roofs of {n} must be {v}.")
    assert not toytools.told(entity, "roofs", f"The boats of {n} are {v}.")
    assert not toytools.told(entity, "roofs", f"The roofs of {n} are made of wood.")


def test_held_out_words_and_sums_stay_so():
    rng = random.Random(2)
    for held_out in (False, True):
        for _ in range(100):
            word = toytools.draw_word(rng, held_out)
            assert toyworld.is_held_out(word.lower()) == held_out
            _, (call, _, _) = toytools.sum_exchange(rng, held_out, typed=True)
            a, operator, b = next(call["text"].partition(o) for o in "+-*" if o in call["text"])
            assert toyworld.is_held_out(int(a), operator, int(b)) == held_out
