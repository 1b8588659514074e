"""chat/datasets.py: conversations of each data set, calls of the calculator, GSM8K."""

import json
from collections import Counter

import pytest

import bpe
import sample
from chat import chats, datasets
from test_chats import DATA, GOOD, TWO, assistant, flat, read, said


def test_lists_of_messages(tmp_path):
    """Hugging Face's, with a system message; nanochat's bare lists; UltraChat's texts."""
    system = [said("Be brief.", "system"), *TWO]
    assert read(tmp_path, {"messages": TWO, "kind": "talk"},
                {"messages": system, "prompt": "Hello", "prompt_id": "1"},
                TWO) == ([TWO, system, TWO], {})
    assert read(tmp_path, TWO, TWO + TWO) == ([TWO, TWO + TWO], {})
    assert read(tmp_path, {"id": "0", "data": ["Hello", "Hi!", "Hello", "Hi!", "Bye"]}) == (
        [TWO + TWO],
        {"question at the end without a reply": 1},
    )


def test_calls_of_tools(tmp_path):
    """Hugging Face's tool_calls become parts of one reply; of tools we do not have, nothing can be
    learned."""

    def call(name, arguments):
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"type": "function", "function": {"name": name, "arguments": arguments}}
            ],
        }

    rest = [{"role": "tool", "name": "calculator", "content": "24"}, said("It is 24.", "assistant"),
            said("Thanks"), said("Any time.", "assistant")]
    for arguments in ({"expression": "48/2"}, '{"expression": "48/2"}'):
        [found], notes = read(
            tmp_path, {"messages": [said("Half of 48?"), call("calculator", arguments), *rest]}
        )
        assert found[1] == {
            "role": "assistant",
            "content": [{"type": "tool", "text": "48/2"}, {"type": "output", "text": "24"},
                        {"type": "text", "text": "It is 24."}],
        }
        assert found[2:] == rest[2:] and not notes
    both = [call("calculator", {"expression": "48/2"}), call("calculator", {"expression": "6*7"})]
    both = {"role": "assistant", "content": None, "tool_calls": [c["tool_calls"][0] for c in both]}
    [found], _ = read(
        tmp_path,
        {
            "messages": [said("Both?"), both, rest[0], {**rest[0], "content": "42"},
                         said("24 and 42.", "assistant")]
        },
    )
    assert [part["text"] for part in found[1]["content"]] == [
        "48/2",
        "24",
        "6*7",
        "42",
        "24 and 42.",
    ]  # each result behind its call
    found, notes = read(
        tmp_path, {"messages": [said("Weather?"), call("weather", {}), *rest]}, {"messages": TWO}
    )
    assert found == [TWO] and notes == {
        f"calls the tool weather, we have only {datasets.OURS}": 1
    }


def test_sharegpt(tmp_path):
    def turns(*pairs):
        return {"id": "x", "conversations": [{"from": who, "value": text} for who, text in pairs]}

    found, notes = read(
        tmp_path,
        turns(("human", "Hello"), ("gpt", "Hi!")),
        turns(("system", "Be brief."), ("gpt", "Welcome!"), ("human", "Hello"), ("gpt", "Hi"),
              ("gpt", "there."), ("human", "So"), ("human", "?")),
        turns(("gpt", "Nobody asked.")),
        turns(("human", " "), ("human", "Hello"), ("gpt", "Hi!")),
    )
    assert found == [
        TWO,
        [said("Be brief.", "system"), said("Hello"), said("Hi\n\nthere.", "assistant")],
        TWO,
    ]
    assert notes == {"reply before any question": 2,
                     "message joined to the one before it, of the same role": 2,
                     "question at the end without a reply": 1, "conversation with nothing in it": 1,
                     "empty message": 1}


@pytest.mark.parametrize("key", ["conversations", "conversation", "messages"])
@pytest.mark.parametrize(
    "turns", [["Hello", "Hi!"], [{"input": "Hello", "output": "Hi!"}], [["Hello", "Hi!"]]]
)
def test_turns_without_roles(tmp_path, key, turns):
    """LIMA's texts in turn, Capybara's pairs, Gradio's: the user begins."""
    assert read(tmp_path, {key: turns, "source": "x"}) == ([TWO], {})
    assert read(tmp_path, {key: 2 * turns})[0] == [TWO + TWO]


def test_turns_of_which_only_some_have_roles(tmp_path):
    rows = [{"conversations": ["Hello", {"from": "gpt", "value": "Hi!"}]},
            {"conversation": [{"input": "Hello"}]}, {"conversation": [["Hello", 5]]}]
    found, notes = read(tmp_path, {"messages": TWO}, *rows)
    assert found == [TWO] and notes == {"no message": 2, "unknown role None": 1}


def test_gsm8k(tmp_path):
    answer = "He has 48/2 = <<48/2=24>>24 clips for $<<1.20*4=4.80>>4.80.\n"
    answer += "So <<2^3=8>>8 and <<2+2=5>>5 remain.\n#### 1,234"
    [found], notes = read(tmp_path, {"question": "How many?", "answer": answer})
    text, tool, output = ({"type": t, "text": None} for t in ("text", "tool", "output"))
    assert found[1]["content"] == [{**text, "text": "He has 48/2 = "}, {**tool, "text": "48/2"},
                                   {**output, "text": "24"}, {**text, "text": "24 clips for $"},
                                   {**tool, "text": "1.20*4"}, {**output, "text": "4.8"},
                                   {**text, "text": "4.80.\nSo "}, {**text, "text": "8 and "},
                                   {**text, "text": "5 remain.\n#### 1,234"}]
    assert notes == {"zeros of a result that the calculator writes otherwise": 1,
                     "annotation that the calculator cannot follow": 2}
    (tmp_path / "t.jsonl").write_text(
        json.dumps({"question": "How many?", "answer": answer}) + "\n"
    )
    assert chats.tasks(tmp_path / "t.jsonl") == [
        {"question": "How many?", "answer": "1234", "kind": "gsm8k"}
    ]


@pytest.mark.parametrize(
    "key, value",
    [("context", "The wheel is red."), ("passage", "The wheel is red."),
     ("choices", ["red", "blue"]), ("history", [["Hello", "Hi"]])],
)
@pytest.mark.parametrize(
    "row",
    [
        {"question": "Which?", "answer": "red"},
        {"messages": [said("Which?"), said("red", "assistant")]},
        {"question": "Which?", "chosen": "red", "rejected": "blue"},
        {
            "instruction": "Which?",
            "completions": [{"response": "red", "overall_score": 2},
                            {"response": "blue", "overall_score": 1}],
        },
    ],
)
def test_a_question_is_not_learned_without_what_it_is_about(tmp_path, row, key, value):
    found, notes = read(
        tmp_path, {**row, key: value}, row, {**row, key: None}, {**row, key: type(value)()}
    )
    assert found == [[said("Which?"), said("red", "assistant")]] * 3 and notes == {f"with {key}": 1}


def test_gsm8k_whole():
    """Every call of the calculator in the real data is one that ours answers alike: 23,716, of
    which 667 with zeros it does not write."""
    path = DATA / "gsm8k_train.jsonl"
    if not path.exists():
        pytest.skip(f"no {path}; LONGHAND_DATA names another folder")
    notes, found = Counter(), []
    for _, messages, _ in chats.conversations(path, notes):
        if isinstance(messages[1]["content"], list):
            found += [part for part in messages[1]["content"] if part["type"] == "tool"]
    assert len(found) == 23_716 and notes == {
        "zeros of a result that the calculator writes otherwise": 667
    }
    tasks = chats.tasks(path)
    assert len(tasks) == 7473 and all(float(t["answer"]) is not None for t in tasks)


def test_rendering_a_call_of_the_calculator():
    """Ids and mask by hand: what the assistant writes is learned, what the tool answers is not."""
    tok = bpe.Tokenizer.train(["user assistant Half of 48? It is 24."], 280)
    parts = chats.gsm8k_parts("<<48/2=24>>It is 24.", Counter())
    ids, mask = sample.render([said("Half of 48?"), said(parts, "assistant")], tok)
    spelled = [("<|im_start|>", 0), ("user", 0), ("<|im_sep|>", 0), ("Half of 48?", 0),
               ("<|im_end|>", 0), ("<|im_start|>", 0), ("assistant", 0), ("<|im_sep|>", 0),
               ("<|tool_start|>", 1), ("48/2", 1), ("<|tool_end|>", 1), ("<|output_start|>", 0),
               ("24", 0), ("<|output_end|>", 0), ("It is 24.", 1), ("<|im_end|>", 1)]
    want = [(i, m) for text, m in spelled for i in tok.encode(text, allowed_special="all")]
    assert list(zip(ids, mask)) == want


def test_calls_of_our_other_tools(tmp_path):
    """Each has one argument, and becomes a call as a model of ours writes it."""
    calls = {"search": ("query", "the bat"), "spell": ("word", "bat"),
             "count": ("letters", "a in bat")}
    for name, (argument, text) in calls.items():
        called = {"function": {"name": name, "arguments": {argument: text}}}
        row = {"messages": [said("a"), assistant("", tool_calls=[called]), said("b", "tool")],
               "tools": [{"name": name}]}
        ([messages], notes) = read(tmp_path, row)
        want = [{"type": "tool", "text": f"{name}: {text}"}, {"type": "output", "text": "b"}]
        assert messages[1]["content"] == want and not notes
    wrong = {"function": {"name": "search", "arguments": {"word": "the bat"}}}
    with pytest.raises(ValueError, match="calls the tool search, we have only calculator"):
        read(tmp_path, {"messages": [said("a"), assistant("", tool_calls=[wrong])]})


def test_calls_of_the_calculator_in_every_spelling(tmp_path):
    """OpenAI's older function_call, ShareGPT's turns, calls without the word function."""
    want = [
        said("a"),
        assistant(
            [{"type": "tool", "text": "1+1"}, {"type": "output", "text": "2"},
             {"type": "text", "text": "b"}]
        ),
    ]
    flat = {"name": "calculator", "arguments": {"expression": "1+1"}}
    rows = [
        {
            "messages": [said("a"), assistant(None, function_call=flat),
                         {"role": "function", "name": "calculator", "content": "2"},
                         said("b", "assistant")]
        },
        {
            "conversations": [{"from": "human", "value": "a"},
                              {"from": "function_call", "value": json.dumps(flat)},
                              {"from": "observation", "value": "2"}, {"from": "gpt", "value": "b"}]
        },
        {
            "messages": [said("a"), assistant("", tool_calls=[flat]),
                         said([{"type": "text", "text": "2"}], "tool"), said("b", "assistant")]
        },
        {"messages": want, "tools": [{"type": "function", "function": {"name": "calculator"}}]},
    ]
    assert read(tmp_path, *rows) == ([want] * 4, {})


def test_results_come_in_any_order(tmp_path):
    """Each belongs to the call of its id; one of an id that nobody has is not guessed."""

    def call(name, expression):
        return {"id": name,
                "function": {"name": "calculator", "arguments": {"expression": expression}}}

    def result(name, text):
        return {"role": "tool", "tool_call_id": name, "content": text}

    begin = [said("Both?"), assistant(None, tool_calls=[call("x", "48/2"), call("y", "6*7")])]
    end = said("24 and 42.", "assistant")
    [found], notes = read(
        tmp_path, {"messages": [*begin, result("y", "42"), result("x", "24"), end]}
    )
    assert [part["text"] for part in found[1]["content"]] == [
        "48/2",
        "24",
        "6*7",
        "42",
        "24 and 42.",
    ] and not notes
    found, notes = read(tmp_path, {"messages": [*begin, result("z", "42"), end]}, GOOD)
    assert len(found) == 1 and notes == {"a tool's message that nobody called for": 1}
