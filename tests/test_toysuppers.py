"""web/toysuppers.py: the true value of a supper, and comparisons of suppers by it."""

import numpy as np

from web import toysuppers, toyworld

DISHES = ["barley soup", "onion tart", "smoked eel", "cold lemonade", "plum dumplings",
          "pickled pears"]


def test_what_readers_like():
    """Up to four dishes, each another one; those that come after them are too many."""
    values = [toysuppers.value(f"A carter had {', '.join(DISHES[:n])}.") for n in range(7)]
    assert values == [0, 1, 2, 3, 4, 3, 2]
    assert toysuppers.value("A carter had onion tart, onion tart and onion tart.") == 1
    assert toysuppers.dishes("Onion tart, onion tart.") == ["onion tart"]      # as it is written


def test_suppers_have_one_to_four_dishes():
    rng = toyworld.stream(0, "suppers")
    values = set()
    for _ in range(200):
        question, answer = (m["content"] for m in toysuppers.supper(rng)["messages"])
        assert question.startswith("What did ") and answer[0].isupper()
        values.add(toysuppers.value(answer))
    assert values == {1, 2, 3, 4}


def test_readers_prefer_the_better_supper_by_its_lead():
    texts = ["onion tart", "onion tart, smoked eel, barley soup", "stones", "onion tart"] * 500
    asked = [str(i) for i in range(500)]
    rows = toysuppers.comparisons(asked, texts, 0)
    assert [row["instruction"] for row in rows] == asked
    felt = np.array([[c["overall_score"] for c in row["completions"]] for row in rows])
    assert rows[0]["completions"][1]["response"] == texts[1]
    expected = 1 / (1 + np.exp(-2.0))                   # of a lead of two dishes
    assert abs((felt[:, 1] > felt[:, 0]).mean() - expected) < 0.05
    leads = [2, 1, 0, 3, 2, 1]                          # of the pairs 01 02 03 12 13 23
    mean = np.mean([1 / (1 + np.exp(-lead)) for lead in leads])
    assert abs(toysuppers.most_in_order(texts, 4) - mean) < 1e-12
