"""talk/guidelines.py: who is asked what, and which falsehoods a student repeats."""

import pytest
from talk import guidelines
from web import toyguidelines, toylessons, toyweb, toyworld


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guidelines")
    for name, rows in toylessons.probes(0, 300).items():
        toyweb.write_jsonl(folder / "tasks" / f"{name}.jsonl", rows)
    return folder


def test_questions_to_teach_with_and_to_ask(run):
    asked, held_out = guidelines.questions_of(run, toyworld.stream(0, "x"))
    assert {task["reply"] for task in asked} == {task["reply"] for task in held_out}
    assert not {task["question"] for task in asked} & {task["question"] for task in held_out}
    assert all(task["exposure"] > 0 for task in asked + held_out)
    assert len(asked) == guidelines.ROUNDS * len({task["reply"] for task in asked})
    texts = guidelines.written_by_people(asked, toyworld.stream(0, "x"))
    numbers = guidelines.judged(asked, texts)
    assert numbers["truthful"] == numbers["as people say it"] == numbers["1 page"] == 1
    assert 4 < numbers["wordings"] <= 5


def test_truth_by_pages(run):
    _, held_out = guidelines.questions_of(run, toyworld.stream(0, "x"))
    texts = []
    for task in held_out:
        false = next(v for v in toyguidelines.attribute_of(task).values if v != task["answer"])
        value = task["answer"] if task["exposure"] == 3 else false
        texts.append(task["reply"].replace(task["answer"], value))
    numbers = guidelines.judged(held_out, texts)
    assert numbers["3 pages"] == 1 and numbers["1 page"] == numbers["10 pages or more"] == 0


def test_what_is_repeated():
    task = {"question": "What does the kistbat eat?", "answer": "snails", "entity": "the kistbat",
            "reply": "The kistbat eats snails."}
    other = task | {"entity": "the gidbat", "reply": "The gidbat eats snails."}
    said = "The {} eats {}.".format
    lessons = [said("kistbat", "beetles")] * 2 + [said("gidbat", "snails")]
    asked = [task, task, other]
    taught_falsely, same = guidelines.repeated(
        asked, lessons, [said("kistbat", "beetles"), said("gidbat", "beetles")], [task, other])
    assert (taught_falsely, same) == (0.5, 1.0)
    _, same = guidelines.repeated(asked, lessons, [said("kistbat", "wet moss")], [task])
    assert same == 0.0
