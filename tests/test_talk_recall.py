"""talk/recall.py and talk/recital.py: facts, begun pages, and texts word for word."""

import numpy as np
import pytest
from talk import recall, recital
from web import toylessons, toyweb, toyworld

END = 7


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recall")
    for name, rows in {**toylessons.tasks(0, 300), **toylessons.probes(0, 300)}.items():
        toyweb.write_jsonl(folder / "tasks" / f"{name}.jsonl", rows)
    return folder


def test_each_fact_once_with_its_options(run):
    facts = recall.facts_of(run, 10)
    world = toyworld.entities(0, 300)
    assert list(facts) == [0, 1, 3, 10, 20, 30] and len(facts[0]) == 10
    for n in recall.PAGES[1:]:
        assert len(facts[n]) == 4 * sum(entity["exposure"] == n for entity in world)
    for tasks in facts.values():
        assert len({task["reply"] for task in tasks}) == len(tasks)
        for task in tasks:
            assert task["answer"] in task["options"] and len(task["options"]) == 10


def test_a_page_is_begun_up_to_its_value(run):
    task = recall.facts_of(run, 10)[30][0]
    text = recall.begun(toyworld.stream(0, "x"), task)
    title, _, body = text.partition("\n")
    assert title == f"{recall.TITLE}: {toyworld.capital(task['entity'])}"
    assert f"{body[body.rindex('.') + 2:]} {task['answer']}." == task["reply"]


def test_what_is_told(monkeypatch, run):
    task = {"answer": "blue plums", "options": ["snails", "blue plums"], "entity": "the x",
            "reply": "The x eats blue plums."}
    written = [" blue plums, as", " snails.", " what it"]
    monkeypatch.setattr(recall, "continuations", lambda *args: written)
    monkeypatch.setattr(recall, "chance", lambda *args: np.array([0.2, 0.5]))
    found = recall.told(None, [task] * 3, toyworld.stream(0, "x"))
    assert found.tolist() == [[1, 0, 0.5], [0, 1, 0.5], [0, 0, 0.5]]


def test_places_by_how_often_their_tokens_stand_in_a_text():
    rng = np.random.default_rng(0)
    once, twice = rng.integers(8, 50, 200), rng.integers(50, 99, 200)
    ids = np.concatenate([twice, [END], once, [END], twice]).astype(np.int32)
    counts = [recital.grams(ids).count(gram) for gram in recital.grams(ids)]
    found = recital.places_in(ids, END, counts, rng, n=50)
    assert len(found[1]) == len(found[2]) == 50 and not found[0] and not found[5]
    assert all(201 + recital.GIVEN <= i < 401 for i in found[1])    # no place near an end
    assert all(i < 200 or i > 401 for i in found[2])


def test_tokens_word_for_word(monkeypatch):
    ids = np.arange(200)

    class Reply:
        def __init__(self, ids):
            self.ids = ids

    right = list(range(40, 40 + recital.NEXT))
    wrong = list(range(50, 50 + recital.NEXT))
    wrong[3] = 0                                            # what comes after a mistake is nothing
    asked = []

    def generate(params, cfg, tokenizer, prompts, **settings):
        asked.extend(prompts)
        return [Reply(right), Reply(wrong)]

    monkeypatch.setattr(recital.generate, "generate", generate)
    assert recital.recited((None, None, None), ids, [40, 50]).tolist() == [recital.NEXT, 3]
    assert asked[0] == list(range(40 - recital.GIVEN, 40))
