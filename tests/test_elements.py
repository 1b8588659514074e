"""web/elements.py: a page as elements and lines; the budgets."""

import tracemalloc
from collections import Counter

import pytest

from web import elements
from web import extract
from web.extract import main_text

SENTENCE = "The ferry leaves the harbour at noon, and whoever is late waits for the next one. "
LONG = SENTENCE * 4


def test_a_link_that_is_never_closed_ends_with_its_element():
    assert main_text(f"<div><p><a href=/x>One</p><p>{LONG}</p><p>{LONG}</p></div>").endswith(
        LONG.strip() + "\n" + LONG.strip()
    )


@pytest.mark.parametrize(
    "attributes",
    ["=" * 300_000, "a=b " * 100_000, "".join(f"a{i} " for i in range(100_000)) + "class"],
)
def test_a_tag_of_many_attributes_in_little_memory(attributes):
    tracemalloc.start()
    main_text(f"<p>One<div {attributes}>two")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000


def test_a_tag_of_many_attributes_ends_where_it_ends():
    for n in (999, 1000, 1001, 5000):
        assert main_text("<p>One <b " + "a='>' " * n + ">two") == "One two"
        assert main_text("<p>One <b " + "a='>' " * n) == "One"


def test_deep_text_is_found():
    assert main_text("<div>" * 100_000 + SENTENCE + "</div>" * 100_000) == SENTENCE.strip()


def test_budget_is_in_characters_and_elements(monkeypatch):
    monkeypatch.setattr(extract, "MAX_CHARS", 1000)
    assert len(main_text("<p>" + "word " * 1000)) < 1000
    monkeypatch.setattr(elements, "MAX_NODES", 10)
    assert main_text("<p>x</p>" * 100).count("x") == 8


def test_what_a_budget_cuts_is_counted(monkeypatch):
    for limit, page in (
        ("MAX_LINES", "<p>x" * 12),
        ("MAX_LINES", "<pre>" + "x\n" * 12),
        ("MAX_NODES", "<div>" * 12 + "x"),
        ("MAX_CHARS", "<p>" + "x" * 100),
    ):
        counts = Counter()
        extract.main_text(page, counts=counts)
        assert not counts
        monkeypatch.setattr(extract if limit == "MAX_CHARS" else elements, limit, 11)
        text = extract.main_text(page, counts=counts)
        assert counts == {"page_cut": 1} and text.count("\n") < 11
        monkeypatch.undo()
