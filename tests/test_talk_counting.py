"""talk/counting.py: the calls that it teaches count rightly."""

from talk import counting
from chat import tools
from web import toynumbers, toyworld


def test_a_lesson_calls_the_tool_or_does_not():
    rng = toyworld.stream(0, "counting")
    for sign in counting.KINDS.values():
        text, n = counting.drawn(rng, sign)
        question, head = (m["content"] for m in
                          counting.lesson(sign, text, n, "in the head")["messages"])
        assert question == f"How many {sign} are in {text}?" and head == f"{n}."
        content = counting.lesson(sign, text, n, "with the tool")["messages"][1]["content"]
        call, output, said = (part["text"] for part in content)
        name, _, argument = call.partition(": ")
        assert name == "count" and tools.count(argument) == output == str(n) and said == head


def test_all_numbers_are_in_a_band():
    numbers = sum(map(list, counting.BANDS.values()), [])
    assert numbers == list(range(1, toynumbers.MOST + 1))
