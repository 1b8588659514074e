"""web/toyworld.py: facts stand on as many pages as they should; the counting game."""
import re

from web import toypages
from web import toyworld
from toy_world import N, training_text, world  # noqa: F401


def test_facts_stand_on_as_many_pages_as_they_should(world):
    text = training_text(world)
    good = [p for p in toypages.pages(0, N) if p.label == "good"]
    for e in toyworld.entities(0, N):
        pages = [p for p in good if re.search(rf"\b{e['name'].removeprefix('the ')}\b", p.html)]
        assert len(pages) == e["exposure"], e["name"]
        for a, v in e["facts"].items():
            assert all(v in p.html for p in pages), (e["name"], a, v)
    assert {e["exposure"] for e in toyworld.entities(0, N)} == {1, 3, 10, 20, 30}
    assert "Longhand" in text


def test_wheel_answers():
    t = [2, 6, 1, 4, 5, 3, 6, 1]
    assert toyworld.wheel_question(t) == "Turn the wheel: two six one four five three six one."
    assert toyworld.wheel_answer(t, False) == "It stops at eight."
    assert toyworld.wheel_answer(t,
        True) == (
        "Step by step: two two, six eight, one nine, four three, five eight, three one, "
        "six seven, one eight. "
                                            "It stops at eight.")
