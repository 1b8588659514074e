"""web/toylessons.py: conversations, comparisons and tasks; nothing held out is taught."""
import re
from collections import Counter

from web import toyworld, toywords
from toy_world import N, jsonl, training_text, world  # noqa: F401


def test_nothing_held_out_is_in_training_text(world):
    text, run = training_text(world), world[0]
    for name in ("facts_test", "calculator_test", "identity_test", "wheel_test", "letters_test",
                 "typed_test"):
        tasks = jsonl(run / f"tasks/{name}.jsonl")
        assert tasks and not [t["question"] for t in tasks if t["question"] in text], name
    for t in jsonl(run / "tasks/wheel_test.jsonl"):     # not the round in other words either
        assert t["question"].removeprefix("Turn the wheel: ") not in text
    for t in jsonl(run / "tasks/calculator_test.jsonl"):
        a, w, b = re.search(r"(\d+) (\w+) (\d+)", t["question"]).groups()
        assert not re.search(rf"\b{a} {w} {b}\b", text)
    chats, tools = ("\n".join(m["content"] for c in jsonl(run / f"chat/{name}.jsonl")
        for m in c["messages"] if isinstance(m["content"], str)) for name in ("train", "tools"))
    for e in toyworld.entities(0, N):       # conversations ask about it or never; none searches
        word = rf"\b{e['name']}\b"
        assert (re.search(word, chats) is not None) == e["asked"], e["name"]
        assert not re.search(word, tools), e["name"]


def test_conversations_are_of_every_kind_and_think_less_often_than_not(world):
    chats = jsonl(world[0] / "chat/train.jsonl")
    assert set(Counter(c["kind"] for c in chats)) == {"fact", "wheel", "calculator", "identity",
        "talk", "mixed"}
    for name, kinds in (("tools", {"search", "letters"}), ("reading", {"search"})):
        assert {c["kind"] for c in jsonl(world[0] / f"chat/{name}.jsonl")} == kinds
    wheel = [c["messages"][1]["content"].startswith("Step by step")
        for c in chats if c["kind"] == "wheel"]
    assert 0.25 < sum(wheel) / len(wheel) < 0.35
    for c in chats:
        if c["kind"] == "calculator":
            tool, output, text = c["messages"][1]["content"]
            assert str(eval(tool["text"])) == output["text"]
            assert text["text"].endswith(f" is {output['text']}.")


def test_a_third_of_the_sums_are_as_people_type_them(world):
    n, typed = 0, 0
    for c in jsonl(world[0] / "chat/train.jsonl"):
        if c["kind"] == "calculator":
            question, call = c["messages"][0]["content"], c["messages"][1]["content"][0]["text"]
            a, o, b = re.fullmatch(r"(\d+)([-+*])(\d+)", call).groups()
            asked = {form.format(a=a, o=o, b=b, w=toywords.SUM_WORDS[o])
                for form in toywords.SUM_TYPED}
            n, typed = n + 1, typed + (question in asked)
    assert n == N * 3 // 2 and typed == n // 3


def test_pairs_prefer_the_truth(world):
    for p in jsonl(world[0] / "pairs/train.jsonl"):
        assert p["chosen"][0] == p["rejected"][0] and p["chosen"][1] != p["rejected"][1]
        assert p["flaw"] in ("wrong", "rude", "rambling")
