"""talk/working_memory.py, in_context.py, as_assistant.py: what is asked, what counts as right."""

import pytest

from talk import as_assistant, in_context, working_memory
from web import toybooks, toylessons, toyweb, toywords, toyworld


@pytest.fixture
def rng():
    return toyworld.stream(0, "test_talk_context")


@pytest.fixture
def entities(tmp_path):
    """Those of a small world, as a run's tasks tell them."""
    facts = toylessons.tasks(3, 300)["facts_test"]
    (tmp_path / "tasks").mkdir()
    toyweb.write_jsonl(tmp_path / "tasks" / "facts_test.jsonl", facts)
    return working_memory.known_entities(tmp_path)


def test_the_entities_of_a_run_are_those_of_its_world(entities):
    world = {one["name"]: one for one in toyworld.entities(3, 300)}
    assert len(entities) == len(world)
    for one in entities:
        assert all(world[one["name"]][key] == value for key, value in one.items())


def test_names_that_were_never_read_begin_like_no_other(rng):
    others = working_memory.new_entities(rng, 400, [])
    new = working_memory.new_entities(rng, 40, others)
    names = " ".join(one["name"].lower() for one in others)
    assert len(new) == 40 and all(one["exposure"] == 0 for one in new)
    assert not [one for one in new if one["stem"] in names]


def test_a_passage_tells_what_is_asked(rng, entities):
    for one in entities:
        tasks = working_memory.tasks(rng, [one])
        facts = set(one["facts"].values())
        for plain, told, other in zip(*(tasks[k] for k in ("no passage", "passage",
                                                           "contradiction"))):
            assert plain["answer"] == told["answer"] in facts and told["answer"] in told["question"]
            assert other["answer"] in other["question"] and other["answer"] != told["answer"]
            assert other["reply"].endswith(f"{other['answer']}.")
        assert not {task["answer"] for task in tasks["contradiction"]} & facts


def test_what_is_taught_has_no_wording_that_is_held_out(rng, entities):
    for one in entities:
        user, assistant = working_memory.conversation(rng, one)["messages"]
        for name, attribute in toywords.KINDS[one["kind"]].items():
            last = attribute.statements[-1].format(n=one["name"], v=one["facts"][name])
            asked = [q.format(n=one["name"]) for q in attribute.held_out]
            assert not [text for text in [toyworld.capital(last), *asked]
                        if text in user["content"]]
        assert any(fact in user["content"] and fact in assistant["content"]
                   for fact in one["facts"].values())


@pytest.mark.parametrize("task", in_context.TASKS)
@pytest.mark.parametrize("k", in_context.EXAMPLES)
def test_questions_have_k_examples_of_words_held_out(rng, task, k):
    for _ in range(10):
        text, answer = in_context.question(rng, task, k)
        *lines, asked = text.split("\n")
        assert len(lines) == k
        if task == "look up":
            assert k == 0 or asked + answer in lines
            assert asked.strip() in toybooks.nouns(held_out=True)
        else:
            word = asked.removesuffix(":").split()
            assert toyworld.is_held_out(*word) and set(word) <= set(answer.split())


@pytest.mark.parametrize("text, expected", [
    (" The kip eats snails.\nHuman: Who?", (True, True, True)),
    (" The kip eats beetles.\nHuman: Who?\nAssistant:", (True, False, True)),
    (" The kip eats snails.\nThen it slept.", (True, True, False)),
    (" The kip eats snails. It rained.", (True, True, False)),
    (" Snails.\nHuman: Who?", (False, False, True)),
    ("", (False, False, False)),
])
def test_marks_of_a_continuation(text, expected):
    asked = {"reply": "The kip eats snails.", "answer": "snails"}
    assert as_assistant.marks(asked, text) == expected


def test_transcripts_are_not_about_those_that_are_asked_about(entities):
    told, asked = as_assistant.halves(entities)
    assert len(told) + len(asked) == len(entities)
    assert not {one["name"] for one in told} & {one["name"] for one in asked}
