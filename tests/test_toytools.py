"""web/toytools.py: conversations with tools; what the tools say in them is what the tools say."""
import random

import pytest

import sample
from chat import grading
from web import search, toytools, toywords, toyworld


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
        for where in ("page", "short", "part", "nothing"):
            found.append(toytools.invented_talk(rng, stems, where)[:2])
    return found


def test_tools_say_what_the_conversations_say(world):
    for _, (call, output, _) in exchanges(world):
        said = sample.answer(call["text"], {"search": search.Index(["No such name."]).search})
        if not call["text"].startswith("search: "):
            assert said == output["text"], call


def test_an_answer_is_what_the_passage_says():
    """The assistant tells a fact where the passage does, and else says that it does not know."""
    rng, seen = random.Random(5), set()
    for where in ("page", "short", "part", "nothing"):
        for _ in range(100):
            entity = toyworld.new_entity(rng, "town", 0, False, set())
            turns = toytools.search_talk(rng, entity, where)
            call, output, text = (part["text"] for part in turns[1])
            assert call == f"search: {entity['name']}"
            assert (output == toytools.search.NOTHING) == (where == "nothing")
            for question, reply in zip(turns[::2], [text, *turns[3::2]]):
                asked = question.replace(entity["name"], "{n}")
                name = next(name for name, attribute in toywords.KINDS["town"].items()
                            if asked in attribute.questions)
                known = reply == toyworld.fact_answer(entity, name)
                assert known == toytools.told(entity, name, output)
                assert known or reply == toytools.UNKNOWN
                seen.add((where, known))
    assert seen == {("page", True), ("short", True), ("part", False), ("nothing", False)}


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
