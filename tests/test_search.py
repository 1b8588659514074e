"""web/search.py: BM25 by the formula, and passages that hold what was asked."""
import math
import random

import numpy as np
import pytest

from web import search, toypages, toyworld

TEXTS = [
    "The gull eats wax. It is a bird.",
    "The bat eats moss. The bat is grey, and it sleeps all day long in the tower.",
    "A letter home\nWhat does the bat eat? I asked the goat. The Bat, said the goat, eats bells!",
    "",
]


def plain_scores(texts, query):
    """BM25 as the formula stands in the docstring, page by page and word by word."""
    pages = [search.words_of(text) for text in texts]
    mean = sum(map(len, pages)) / len(pages)
    found = []
    for page in pages:
        score = 0.0
        for word in search.words_of(query):
            n = sum(word in other for other in pages)
            f = page.count(word)
            rarity = math.log(1 + (len(pages) - n + 0.5) / (n + 0.5))
            length = 1 - search.B + search.B * len(page) / mean
            score += rarity * f * (search.K + 1) / (f + search.K * length)
        found.append(score)
    return found


def test_scores_are_the_formula():
    rng = random.Random(1)
    words = "the bat gull moss eats grey tower unheard".split()
    texts = [" ".join(rng.choices(words[:-1], k=rng.randint(0, 30))) for _ in range(40)] + TEXTS
    index = search.Index(texts)
    for query in ["the bat", "bat bat", "unheard", "", "grey THE tower's moss", *words]:
        assert np.allclose(index.scores(query), plain_scores(texts, query), atol=1e-12), query


@pytest.mark.parametrize("query, answer", [
    ("the gull", "The gull eats wax."),
    ("the bat", "The bat eats moss. The bat is grey, and it sleeps all day long in the tower."),
    ("BAT BELLS", "The Bat, said the goat, eats bells!"),      # of the page with the rarest word
    ("the dodo", None),                                         # no page has it
    ("letter", None),                                           # in a heading only
    ("?", None),
    ("", None),
])
def test_the_best_page_answers(query, answer):
    assert search.Index(TEXTS).search(query) == answer


def test_nothing_is_found_where_nothing_is():
    assert search.Index([]).search("bat") is None
    assert search.Index([""]).search("bat") is None


def test_a_passage_is_short_and_in_order():
    text = "Bats fly.  Bats\nsleep. " + "The bats eat " + "moss and " * 20 + "wax. Bats hum."
    assert search.passage(text, "bats", 10) == "Bats fly. Bats hum."
    assert search.passage(text, "bats", 4) == "Bats fly. Bats hum."
    assert search.passage(text, "bats", 3) == "Bats fly."
    assert search.passage("No end", "end") == search.passage("Bats fly.", "bat") == ""


def test_an_entity_of_one_page_is_found_with_its_facts():
    """Nearly all facts of entities that stand on one page are in what a search finds."""
    rng, texts, there, n = random.Random(0), [], 0, 0
    entities = [e for e in toyworld.entities(0) if e["exposure"] == 1]
    for entity in entities:
        texts += ["\n".join(toypages.entity_text(rng, entity)[1])]
        texts += ["\n".join(toypages.story_text(rng)[1])]
    index = search.Index(texts)
    for entity in entities:
        found = index.search(entity["name"])
        for value in entity["facts"].values():
            there, n = there + (value in found), n + 1
    assert n == 96 and there / n > 0.93
