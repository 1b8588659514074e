"""chat/chats.py: a small file in each schema, as its data set writes it, and what becomes of it."""

import contextlib
import gzip
import io
import json
import os
import random
import re
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

import align
import bpe
from chat import chats, template
import sample
from conftest import run_script

DATA = Path(os.environ.get("LONGHAND_DATA") or Path(__file__).parent.parent.parent / "shared" / "data")
TWO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]


def said(text, who="user"):
    return {"role": who, "content": text}


def read(tmp_path, *rows, name="chat.jsonl", **settings):
    """-> (conversations, what was noted)"""
    notes, path = Counter(), tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = [messages for _, messages, _ in chats.conversations(path, notes, **settings)]
    return found, {k: v for k, v in notes.items() if v}


def compare(tmp_path, *rows):
    notes, path = Counter(), tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [c for _, c in chats.comparisons(path, notes)], dict(notes)


def test_lists_of_messages(tmp_path):
    """Hugging Face's, with a system message; nanochat's bare lists; UltraChat's texts."""
    system = [said("Be brief.", "system"), *TWO]
    assert read(tmp_path, {"messages": TWO, "kind": "talk"}, {"messages": system, "prompt": "Hello", "prompt_id": "1"}, TWO) == ([TWO, system, TWO], {})
    assert read(tmp_path, TWO, TWO + TWO) == ([TWO, TWO + TWO], {})
    assert read(tmp_path, {"id": "0", "data": ["Hello", "Hi!", "Hello", "Hi!", "Bye"]}) == ([TWO + TWO], {"question at the end without a reply": 1})


def test_a_file_may_be_one_list_and_gzipped(tmp_path):
    rows = [{"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]}] * 3
    for indent in (None, 1):
        assert read(tmp_path, rows) == ([TWO] * 3, {})
        (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(rows, indent=indent).encode()))
        assert [m for _, m, _ in chats.conversations(tmp_path / "a.json.gz", Counter())] == [TWO] * 3


def test_calls_of_tools(tmp_path):
    """Hugging Face's tool_calls become parts of one reply; of tools we do not have, nothing can be learned."""
    def call(name, arguments):
        return {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]}

    rest = [{"role": "tool", "name": "calculator", "content": "24"}, said("It is 24.", "assistant"), said("Thanks"), said("Any time.", "assistant")]
    for arguments in ({"expression": "48/2"}, '{"expression": "48/2"}'):
        [found], notes = read(tmp_path, {"messages": [said("Half of 48?"), call("calculator", arguments), *rest]})
        assert found[1] == {"role": "assistant", "content": [{"type": "tool", "text": "48/2"}, {"type": "output", "text": "24"}, {"type": "text", "text": "It is 24."}]}
        assert found[2:] == rest[2:] and not notes
    both = [call("calculator", {"expression": "48/2"}), call("calculator", {"expression": "6*7"})]
    both = {"role": "assistant", "content": None, "tool_calls": [c["tool_calls"][0] for c in both]}
    [found], _ = read(tmp_path, {"messages": [said("Both?"), both, rest[0], {**rest[0], "content": "42"}, said("24 and 42.", "assistant")]})
    assert [part["text"] for part in found[1]["content"]] == ["48/2", "24", "6*7", "42", "24 and 42."]      # each result behind its call
    found, notes = read(tmp_path, {"messages": [said("Weather?"), call("weather", {}), *rest]}, {"messages": TWO})
    assert found == [TWO] and notes == {"calls the tool weather, we have only calculator(expression)": 1}


def test_sharegpt(tmp_path):
    def turns(*pairs):
        return {"id": "x", "conversations": [{"from": who, "value": text} for who, text in pairs]}

    found, notes = read(tmp_path, turns(("human", "Hello"), ("gpt", "Hi!")),
                        turns(("system", "Be brief."), ("gpt", "Welcome!"), ("human", "Hello"), ("gpt", "Hi"), ("gpt", "there."), ("human", "So"), ("human", "?")),
                        turns(("gpt", "Nobody asked.")), turns(("human", " "), ("human", "Hello"), ("gpt", "Hi!")))
    assert found == [TWO, [said("Be brief.", "system"), said("Hello"), said("Hi\n\nthere.", "assistant")], TWO]
    assert notes == {"reply before any question": 2, "messages joined to the one before of the same role": 2, "question at the end without a reply": 1,
                     "conversation with nothing in it": 1, "empty message": 1}


@pytest.mark.parametrize("key", ["conversations", "conversation", "messages"])
@pytest.mark.parametrize("turns", [["Hello", "Hi!"], [{"input": "Hello", "output": "Hi!"}], [["Hello", "Hi!"]]])
def test_turns_without_roles(tmp_path, key, turns):
    """LIMA's texts in turn, Capybara's pairs, Gradio's: the user begins."""
    assert read(tmp_path, {key: turns, "source": "x"}) == ([TWO], {})
    assert read(tmp_path, {key: 2 * turns})[0] == [TWO + TWO]


def test_turns_of_which_only_some_have_roles(tmp_path):
    rows = [{"conversations": ["Hello", {"from": "gpt", "value": "Hi!"}]}, {"conversation": [{"input": "Hello"}]}, {"conversation": [["Hello", 5]]}]
    found, notes = read(tmp_path, {"messages": TWO}, *rows)
    assert found == [TWO] and notes == {"no message": 2, "unknown role None": 1}


def node(text, role, *replies, rank=None, **more):
    return {"message_id": text, "text": text, "role": role, "rank": rank, "lang": "en", "deleted": False, "review_result": True, "replies": list(replies), **more}


TREE = node("Q", "prompter",
            node("worse", "assistant", node("more?", "prompter", node("deep", "assistant")), rank=1),
            node("unranked", "assistant"),
            node("best", "assistant", node("thanks", "prompter"), node("and?", "prompter", node("so", "assistant", rank=0), node("or so", "assistant", rank=1), rank=0), rank=0),
            node("schlecht", "assistant", rank=2, lang="de"), node("gone", "assistant", rank=3, deleted=True), node("bad", "assistant", rank=4, review_result=False))


def flat(m, parent=None):
    """The tree's messages, a row each, as the data set's parquet has them."""
    yield {k: v for k, v in m.items() if k != "replies"} | {"parent_id": parent, "message_tree_id": "Q"}
    for reply in m["replies"]:
        yield from flat(reply, m["message_id"])


@pytest.mark.parametrize("rows", [[{"message_tree_id": "Q", "tree_state": "ready_for_export", "prompt": TREE}], list(flat(TREE)), list(flat(TREE))[::-1]])
def test_openassistant(tmp_path, rows):
    found, notes = read(tmp_path, *rows)
    assert found == [[said("Q"), said("best", "assistant"), said("and?"), said("so", "assistant")]]
    assert notes == {"message not in en": 1, "message deleted": 1, "message not passed by review": 1}
    found, _ = compare(tmp_path, *rows)
    assert found == [chats.Comparison([said("Q")], ["best", "worse"], [0, -1]),
                     chats.Comparison([said("Q"), said("best", "assistant"), said("and?")], ["so", "or so"], [0, -1])]
    with pytest.raises(ValueError, match="nothing in it can be used: 1 x message not in de; 1 x conversation with nothing in it"):
        read(tmp_path, *rows, lang="de")


def test_hh_rlhf(tmp_path):
    begin = "\n\nHuman: Hello\n\nAssistant: Hi!\n\nHuman: Tell me:\n\n1. two\n\nAssistant:"
    row = {"chosen": begin + " With joy.\n\nReally.", "rejected": begin + " No."}
    prompt = [*TWO, said("Tell me:\n\n1. two")]
    assert compare(tmp_path, row) == ([chats.Comparison(prompt, ["With joy.\n\nReally.", "No."], [1, 0])], {})
    assert read(tmp_path, row) == ([[*prompt, said("With joy.\n\nReally.", "assistant")]], {})
    others = [{"chosen": begin + " A", "rejected": begin + " A"}, {"chosen": begin, "rejected": begin + " A"},
              {"chosen": begin + " A\n\nHuman: B\n\nAssistant: C", "rejected": begin + " D"},
              {"chosen": "\n\nHuman: A\n\nHuman: B\n\nAssistant: C", "rejected": "\n\nHuman: A\n\nHuman: B\n\nAssistant: D"},
              {"chosen": begin + " A\n\nHuman: B", "rejected": begin + " A\n\nHuman: C"}]
    found, notes = compare(tmp_path, row, *others)
    assert found[1:] == [chats.Comparison([said("A\n\nB")], ["C", "D"], [1, 0])]
    assert notes == {
        "pair of two equal replies": 1, "pair with an empty message": 1, "pair that differs before its last reply": 1,
        "messages joined to the one before of the same role": 2, "pair that does not end with a reply": 1}


PROMPT = [said("Is salt a rock?"), said("Yes.", "assistant"), said("Which?")]


@pytest.mark.parametrize("row", [
    {"prompt": "\n\nHuman: Is salt a rock?\n\nAssistant: Yes.\n\nHuman: Which?\n\nAssistant:", "chosen": " Halite.", "rejected": " Granite."},
    {"prompt": "Human: Is salt a rock?\n\nAssistant: Yes.\n\nHuman: Which?\n\nAssistant: ", "chosen": "Halite.", "rejected": "Granite."},
    {"prompt": "\n\nHuman: Is salt a rock?\n\nAssistant: Yes.\n\nHuman: Which?", "chosen": "Halite.", "rejected": "Granite."},
    {"prompt": "\n\nHuman: Is salt a rock?\n\nAssistant: Yes.\n\nHuman: Which?\n\nAssistant:",
     "chosen": "\n\nHuman: Is salt a rock?\n\nAssistant: Yes.\n\nHuman: Which?\n\nAssistant: Halite.",
     "rejected": "\n\nHuman: Is salt a rock?\n\nAssistant: Yes.\n\nHuman: Which?\n\nAssistant: Granite."},
    {"chosen": "Human: Is salt a rock?\n\nAssistant: Yes.\n\nHuman: Which?\n\nAssistant: Halite.",
     "rejected": "Human: Is salt a rock?\n\nAssistant: Yes.\n\nHuman: Which?\n\nAssistant: Granite."},
    {"prompt": PROMPT, "chosen": [said("Halite.", "assistant")], "rejected": "Granite."},
    {"conversations": [{"from": "human", "value": "Is salt a rock?"}, {"from": "gpt", "value": "Yes."}, {"from": "human", "value": "Which?"}],
     "chosen": {"from": "gpt", "value": "Halite."}, "rejected": {"from": "gpt", "value": "Granite."}}])
def test_the_prompt_of_a_pair(tmp_path, row):
    """Transcripts of HH-RLHF in a column of their own, messages, LLaMA-Factory's turns."""
    assert compare(tmp_path, row) == ([chats.Comparison(PROMPT, ["Halite.", "Granite."], [1, 0])], {})


def test_a_prompt_that_stands_in_the_replies_too(tmp_path):
    """All of it, its last message, with white space or without; or only the last question of a longer conversation."""
    replies = [assistant("Halite."), assistant("Granite.")]
    want = [chats.Comparison(PROMPT, ["Halite.", "Granite."], [1, 0])]
    for prompt, begin in ((PROMPT, PROMPT), (PROMPT, PROMPT[-1:]), (PROMPT, [*PROMPT[:2], said("Which? ")]), ("Which?", PROMPT), ("Is salt a rock?", PROMPT)):
        found, notes = compare(tmp_path, {"prompt": prompt, **dict(zip(("chosen", "rejected"), ([*begin, reply] for reply in replies)))})
        assert [c._replace(prompt=[{**m, "content": m["content"].strip()} for m in c.prompt]) for c in found] == want and not notes


def test_a_transcript_with_a_beginning(tmp_path):
    """What stands before the first Human is the system's; a reply may quote a transcript."""
    begin = "Be brief.\n\nHuman: Hello\n\nAssistant:"
    want = [chats.Comparison([said("Be brief.", "system"), said("Hello")], ["Hi!", "No.\n\nHuman: x"], [1, 0])]
    assert compare(tmp_path, {"prompt": begin, "chosen": " Hi!", "rejected": " No.\n\nHuman: x"}) == (want, {})
    found, notes = compare(tmp_path, {"chosen": begin + " Hi!", "rejected": begin + " No."})
    assert found[0].prompt == want[0].prompt and not notes


def test_a_prompt_that_speaks_of_humans(tmp_path):
    """A text that only begins like a transcript is the user's, and keeps its words."""
    row = {"prompt": "Human: kind or machine?", "chosen": "Kind. ", "rejected": "No."}
    assert compare(tmp_path, row)[0] == [chats.Comparison([said("Human: kind or machine?")], ["Kind. ", "No."], [1, 0])]


def test_prompts_by_other_names(tmp_path):
    """Intel's orca_dpo_pairs, Argilla's, Alpaca's; the system's words in the prompt, the replies or the row."""
    want = chats.Comparison([said("Be brief.", "system"), said("Hello")], ["Hi!", "No."], [1, 0])
    system, replies = said("Be brief.", "system"), {"chosen": "Hi!", "rejected": "No."}
    lists = {key: [said("Hello"), said(text, "assistant")] for key, text in replies.items()}
    rows = [{"system": "Be brief.", "question": "Hello", **replies}, {"system": "Be brief.", "input": "Hello", **replies},
            {"system_prompt": "Be brief.", "instruction": "Hello", **replies}, {"prompt": [system, said("Hello")], **lists},
            {"system": "Be brief.", "chosen": [system, *lists["chosen"]], "rejected": lists["rejected"]}]
    assert compare(tmp_path, *rows) == ([want] * 5, {})
    both = {"instruction": "Add.", "input": "1 and 2", "chosen": "3", "rejected": "4"}
    assert compare(tmp_path, both)[0] == [chats.Comparison([said("Add.\n1 and 2")], ["3", "4"], [1, 0])]


def test_pairs_of_messages(tmp_path):
    """Ours, binarised UltraFeedback, TRL's with and without the prompt in both."""
    good, bad = [said("Hello"), said("Hi!", "assistant")], [said("Hello"), said("Go away.", "assistant")]
    want = chats.Comparison([said("Hello")], ["Hi!", "Go away."], [1, 0])
    rows = [{"chosen": good, "rejected": bad, "flaw": "rude"},
            {"prompt": "Hello", "prompt_id": "1", "messages": good, "chosen": good, "rejected": bad, "score_chosen": 8.0, "score_rejected": 2.0},
            {"prompt": "Hello", "chosen": "Hi!", "rejected": "Go away."}, {"prompt": good[:1], "chosen": good[1:], "rejected": bad[1:]}]
    assert compare(tmp_path, *rows) == ([want] * 4, {})
    assert read(tmp_path, *rows) == ([good] * 4, {})


def test_ultrafeedback(tmp_path):
    def row(*scores):
        return {"source": "x", "instruction": "Hello", "models": [], "completions": [{"model": "m", "response": f"reply {i}", "overall_score": s} for i, s in enumerate(scores)]}

    assert compare(tmp_path, row(3, 8.5, 3), row(5, 5), row()) == (
        [chats.Comparison([said("Hello")], ["reply 0", "reply 1", "reply 2"], [3, 8.5, 3])], {"replies that all have one score, or are empty": 2})
    assert read(tmp_path, row(3, 8.5, 3)) == ([[said("Hello"), said("reply 1", "assistant")]], {})


def test_gsm8k(tmp_path):
    answer = "He has 48/2 = <<48/2=24>>24 clips for $<<1.20*4=4.80>>4.80.\nSo <<2^3=8>>8 and <<2+2=5>>5 remain.\n#### 1,234"
    [found], notes = read(tmp_path, {"question": "How many?", "answer": answer})
    text, tool, output = ({"type": t, "text": None} for t in ("text", "tool", "output"))
    assert found[1]["content"] == [{**text, "text": "He has 48/2 = "}, {**tool, "text": "48/2"}, {**output, "text": "24"}, {**text, "text": "24 clips for $"},
                                   {**tool, "text": "1.20*4"}, {**output, "text": "4.8"}, {**text, "text": "4.80.\nSo "}, {**text, "text": "8 and "},
                                   {**text, "text": "5 remain.\n#### 1,234"}]
    assert notes == {"zeros of a result that the calculator writes otherwise": 1, "annotation that the calculator cannot follow": 2}
    (tmp_path / "t.jsonl").write_text(json.dumps({"question": "How many?", "answer": answer}) + "\n")
    assert chats.tasks(tmp_path / "t.jsonl") == [{"question": "How many?", "answer": "1234", "kind": "gsm8k"}]
    assert [chats.final_answer(t) for t in ("so\n#### 12.", "#### 1 \n#### $5", "no")] == ["12", "5", None]


@pytest.mark.parametrize("key, value", [
    ("context", "The wheel is red."), ("passage", "The wheel is red."), ("choices", ["red", "blue"]), ("history", [["Hello", "Hi"]])])
@pytest.mark.parametrize("row", [
    {"question": "Which?", "answer": "red"}, {"messages": [said("Which?"), said("red", "assistant")]},
    {"question": "Which?", "chosen": "red", "rejected": "blue"},
    {"instruction": "Which?", "completions": [{"response": "red", "overall_score": 2}, {"response": "blue", "overall_score": 1}]}])
def test_a_question_is_not_learned_without_what_it_is_about(tmp_path, row, key, value):
    found, notes = read(tmp_path, {**row, key: value}, row, {**row, key: None}, {**row, key: type(value)()})
    assert found == [[said("Which?"), said("red", "assistant")]] * 3 and notes == {f"with {key}": 1}


@pytest.mark.parametrize("text, answer", [
    ("#### 29.00", "29"), ("#### $29", "29"), ("#### $ 29", "29"), ("#### -$3", "-3"), ("#### $-3", "-3"), ("#### \u22123", "-3"),
    ("#### \u20133", "-3"), ("#### 3\u20135", "3"), ("#### 1\u202f234\u202f567 m", "1234567"), ("#### 1\u00a0234 g", "1234"), ("#### 1 234", "1"),
    ("#### 18 eggs", "18"), ("#### **18**", "18"), ("#### \\boxed{18}", "18"), ("#### The answer is 18.", "18"), ("####18", "18"),
    ("#### 70,000 dollars", "70000"), ("#### 1,00,000", "100000"), ("#### 1,234,567.50", "1234567.5"), ("#### .5", "0.5"),
    ("#### 1/2", "0.5"), ("#### 2/3", "4/6"), ("#### 25%", "25"), ("#### 007", "7"), ("#### 18-20", "18"), ("#### Day-3", "3"),
    ("#### 18, that is 2 times 9", "18"), ("#### 1\n#### 18", "18"), ("#### 18 ####", "18"), ("#### 0.1", "0.10"),
    ("#### 100000000000000000001", "100000000000000000001.0"), ("#### -0", "0"), ("#### Paris.", "paris"), ("####\n18", "18")])
def test_answers_that_are_equal(text, answer):
    assert chats.comparable(chats.final_answer(text)) == chats.comparable(answer)


@pytest.mark.parametrize("text, answer", [
    ("#### 19", "18"), ("#### \u201318", "18"), ("#### 180", "18"), ("18", "18"), ("#### -3", "3"), ("#### 1/2", "1"), ("#### 1,8", "18"), ("#### 18\n####  19", "18"),
    ("#### 100000000000000000001", "100000000000000000000"), ("#### 0.30000000000000004", "0.3"), ("#### 1/0", "1"), ("#### ", "18"),
    ("#### Rome", "paris"), ("#### " + "9" * 10**6, "9"), ("#### 1" + "0" * 400, "inf"), ("#### nan", "18"), ("", "18")])
def test_answers_that_differ(text, answer):
    assert chats.comparable(chats.final_answer(text)) != chats.comparable(answer)


def test_gsm8k_whole():
    """Every call of the calculator in the real data is one that ours answers alike: 23,716, of which 667 with zeros it does not write."""
    path = DATA / "gsm8k_train.jsonl"
    if not path.exists():
        pytest.skip(f"no {path}; LONGHAND_DATA names another folder")
    notes, found = Counter(), []
    for _, messages, _ in chats.conversations(path, notes):
        if isinstance(messages[1]["content"], list):
            found += [part for part in messages[1]["content"] if part["type"] == "tool"]
    assert len(found) == 23_716 and notes == {"zeros of a result that the calculator writes otherwise": 667}
    tasks = chats.tasks(path)
    assert len(tasks) == 7473 and all(float(t["answer"]) is not None for t in tasks)


def test_rendering_a_call_of_the_calculator():
    """Ids and mask by hand: what the assistant writes is learned, what the tool answers is not."""
    tok = bpe.Tokenizer.train(["user assistant Half of 48? It is 24."], 280)
    parts = chats.gsm8k_parts("<<48/2=24>>It is 24.", Counter())
    ids, mask = sample.render([said("Half of 48?"), said(parts, "assistant")], tok)
    spelled = [("<|im_start|>", 0), ("user", 0), ("<|im_sep|>", 0), ("Half of 48?", 0), ("<|im_end|>", 0), ("<|im_start|>", 0), ("assistant", 0), ("<|im_sep|>", 0),
               ("<|tool_start|>", 1), ("48/2", 1), ("<|tool_end|>", 1), ("<|output_start|>", 0), ("24", 0), ("<|output_end|>", 0), ("It is 24.", 1), ("<|im_end|>", 1)]
    want = [(i, m) for text, m in spelled for i in tok.encode(text, allowed_special="all")]
    assert list(zip(ids, mask)) == want


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def calling(name, arguments):
    return assistant(None, tool_calls=[{"function": {"name": name, "arguments": arguments}}])


GOOD = {"messages": [said("two"), assistant("three")]}
NOTHING = "conversation with nothing in it"
ONLY_PART = "a reply of which only a part is to be learned"


@pytest.mark.parametrize("row, reason, detail", [
    ({"text": "x"}, "of no known schema", "the keys text; known are pair: chosen, rejected;"),
    (5, "of no known schema", "5; known are"),
    ({"messages": [TWO[1]]}, NOTHING, ""), ({"messages": [TWO[0]]}, NOTHING, ""), ([], NOTHING, ""),
    ({"messages": [said("Be brief.", "system")]}, NOTHING, ""), ({"messages": [TWO[0], assistant("")]}, NOTHING, ""),
    ({"messages": [TWO[0], assistant(" \n")]}, NOTHING, ""), ({"messages": [TWO[0], assistant(None)]}, NOTHING, ""),
    ({"messages": [TWO[0], assistant([{"type": "text", "text": ""}])]}, NOTHING, ""),
    ({"messages": "Hello"}, "the messages are no JSON", "'Hello'"), ({"messages": '"Hello"'}, "messages is no list", "'Hello'"),
    ({"messages": [TWO[0], {**TWO[1], "loss_scale": 0.5}]}, "a weight that is neither 0 nor 1", "0.5"),
    ({"messages": ["Hello"]}, "no message", "'Hello'"), ({"messages": 5}, "messages is no list", "5"),
    ({"messages": [said("x", "wizard")]}, "unknown role 'wizard'", "expected system, user, assistant or tool"),
    ({"messages": [said("x", ["user"])]}, "unknown role ['user']", ""), ({"messages": [{"content": "x"}]}, "unknown role None", ""),
    ({"messages": [TWO[0], assistant(5)]}, "content that is no text", "message 1 of the assistant has the content 5"),
    ({"messages": [TWO[0], assistant(["x"])]}, "content that is no text", "['x']"),
    ({"messages": [said([{"type": "image_url", "image_url": {"url": "x"}}]), TWO[1]]}, "unknown part 'image_url'", "message 0 of the user"),
    ({"messages": [TWO[0], assistant([{"text": "2"}])]}, "unknown part None", ""),
    ({"messages": [TWO[0], assistant([{"type": "text", "text": None}])]}, "unknown part 'text'", ""),
    ({"messages": [said([{"type": "tool", "text": "1+1"}]), TWO[1]]}, "a call of the user", "which only the assistant can call"),
    ({"messages": [said([{"type": "tool", "text": "1+1"}], "system"), *TWO]}, "a call of the system", "which only the assistant can call"),
    ({"messages": [TWO[0], {"role": "tool", "content": "24"}]}, "a tool's message that nobody called for", "'24'"),
    ({"messages": [{**TWO[0], "tool_calls": [{}]}, TWO[1]]}, "a call of the user", ""),
    ({"messages": [TWO[0], assistant(None, tool_calls=5)]}, "tool_calls is no list", "5"),
    ({"messages": [TWO[0], assistant(None, tool_calls=["x"])]}, "a tool call of no known form", "'x', expected"),
    ({"messages": [TWO[0], calling("calculator", "{")]}, "the arguments of a tool call are no JSON", "'{'"),
    ({"messages": [TWO[0], calling([1], "{}")]}, "the name of a tool is no text", "[1]"),
    ({"messages": [TWO[0], calling("calculator", "[" * 100_000)]}, "nested too deep", ""),
    ({"messages": [TWO[0], calling("f", "{}"), {"role": "tool", "content": "1"}, TWO[1]]}, "calls the tool f, we have only calculator(expression)", ""),
    ({"messages": [TWO[0], assistant(None, function_call={"name": "f", "arguments": "{}"}), {"role": "function", "name": "f", "content": "1"}, TWO[1]]},
     "calls the tool f, we have only calculator(expression)", ""),
    ({"messages": [{**TWO[0], "images": ["x.png"]}, TWO[1]]}, "with images", "['x.png']"),
    ({"messages": TWO, "images": ["x.png"]}, "with images", ""), ({"image": "x.png", "messages": TWO}, "with image", ""),
    ({"messages": TWO, "videos": ["x.mp4"]}, "with videos", ""), ({"messages": TWO, "audio": {"path": "x"}}, "with audio", ""),
    ({"messages": TWO, "tools": [{"type": "function", "function": {"name": "f"}}]}, "offers other tools than calculator(expression)", "'f'"),
    ({"messages": TWO, "tools": '[{"name": "f"}]'}, "offers other tools than calculator(expression)", ""),
    ({"messages": TWO, "chat_template_kwargs": {"xml_tools": ["f"]}}, "offers other tools than calculator(expression)", ""),
    ({"messages": TWO, "tools": "f(x)"}, "the tools are no JSON", ""),
    ({"messages": TWO, "label": False}, "an example of what not to say", "label is false"),
    ({"conversations": TWO, "kto_tag": False}, "an example of what not to say", "kto_tag is false"),
    ({"messages": TWO, "system": ["x"]}, "system is no text", "['x']"), ({"messages": TWO, "weight": 0}, "a row that is not to be learned", ""),
    ({"messages": [TWO[0], {**TWO[1], "weight": 0}]}, "conversation of which nothing is to be learned", ""),
    ({"messages": [TWO[0], {**TWO[1], "weight": 0.5}]}, "a weight that is neither 0 nor 1", "0.5"),
    ({"messages": [TWO[0], {**TWO[1], "train": "no"}]}, "a weight that is neither 0 nor 1", "'no'"),
    ({"messages": [TWO[0], {**TWO[1], "train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]}]}, ONLY_PART, "train_detail"),
    ({"messages": [TWO[0], {**TWO[1], "weight": 0}, TWO[1]]}, ONLY_PART, "message 2"),
    ({"messages": [TWO[0], {**calling("calculator", '{"expression": "1+1"}'), "weight": 0}, {"role": "tool", "content": "2"}, TWO[1]]}, ONLY_PART, ""),
    ({"messages": TWO, "kind": ["x"]}, "kind is no text", "['x']"),
    ({"conversations": [{"from": "cat", "value": "meow"}]}, "unknown role 'cat'", "{'from': 'cat', 'value': 'meow'}"),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{}"}, {"from": "observation", "value": "1"}]},
     "a tool call of no known form", "{}"),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": '{"name": "f", "arguments": {}}'}]},
     "calls the tool f, we have only calculator(expression)", ""),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "c"}, {"from": "tool", "value": "1"}, {"from": "gpt", "value": "b"}]},
     "a tool's message that nobody called for", ""),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": None}]}, NOTHING, ""),
    ({"data": ["Hello", 5]}, "content that is no text", "the content 5"), ({"data": "Hello"}, "data is no list", "'Hello'"), ({"data": ["a"]}, NOTHING, ""),
    ({"prompt": node("Q", "wizard"), "message_tree_id": "1"}, NOTHING, ""), ({"prompt": None, "message_tree_id": "1"}, NOTHING, ""),
    ({"message_id": None, "parent_id": None, "text": "Q", "role": "prompter"}, "message_id is no text", "None"),
    ({"message_id": "a", "parent_id": None, "text": None, "role": "prompter"}, "no message of a tree", "'text': None"),
    ({"message_id": "a", "parent_id": 5, "text": "Q", "role": "prompter"}, "parent_id is no text", "5"),
    ({"chosen": "Hello", "rejected": "Hi"}, "no transcript", "begins with"), ({"chosen": [5], "rejected": TWO}, "no message", "5"),
    ({"chosen": None, "rejected": TWO}, "messages is no list", "None"), ({"chosen": [], "rejected": []}, "pair with an empty message", ""),
    ({"chosen": TWO, "rejected": TWO, "history": [["a", "b"]]}, "with history", ""),
    ({"chosen": [TWO[1]], "rejected": [assistant("No")]}, "pair that does not end with a reply", ""),
    ({"instruction": "x", "completions": [{"response": "y", "overall_score": 1}]}, "replies that all have one score, or are empty", ""),
    ({"instruction": "x", "completions": 5}, "completions is no list", "5"),
    ({"instruction": 5, "completions": [{"response": "y", "overall_score": i} for i in (1, 2)]}, "instruction is no text", "5"),
    ({"question": "x", "answer": 5}, "answer is no text", "5"), ({"question": ["x"], "answer": "5"}, "question is no text", "['x']")])
def test_a_bad_row_ends_no_load(tmp_path, row, reason, detail):
    """It is left out and counted; alone in its file, it is an error that names it."""
    found, notes = read(tmp_path, GOOD, row, GOOD)
    assert found == [GOOD["messages"]] * 2 and notes[reason] == 1
    with pytest.raises(ValueError) as error:
        read(tmp_path, row)
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'chat.jsonl'}: nothing in it can be used: ") and f"1 x {reason}" in text
    assert f"; the first is {tmp_path / 'chat.jsonl'}:1: {reason}" in text and detail in text


@pytest.mark.parametrize("row, want, notes", [
    ({"messages": [*TWO, said("Thanks!")]}, TWO, {"question at the end without a reply": 1}),
    ({"messages": [TWO[1], *TWO]}, TWO, {template.GREETING: 1}),
    ({"messages": [said("a"), said("b"), TWO[1]]}, [said("a\n\nb"), TWO[1]], {template.JOINED: 1}),
    ({"messages": [*TWO, said("Be brief.", "system"), *TWO]}, [said("Be brief.", "system"), *TWO, *TWO], {template.MOVED: 1}),
    ({"messages": [said(None, "system"), *TWO]}, TWO, {template.EMPTY: 1}),
    ({"messages": [said("Hello", "User"), said("Hi!", "Assistant")]}, TWO, {}),
    ({"messages": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]}, TWO, {}),
    ({"conversations": TWO}, TWO, {}), ({"conversation": TWO, "language": "English"}, TWO, {}),
    ({"messages": None, "conversations": TWO}, TWO, {}), ({"conversations": [{"from": "user", "content": "Hello"}, {"role": "model", "value": "Hi!"}]}, TWO, {}),
    ([{"from": "prompter", "value": "Hello"}, {"from": "Bing", "value": "Hi!"}], TWO, {}),
    ({"messages": [said([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]), TWO[1]]}, TWO, {}),
    ({"messages": TWO, "system": "Be brief."}, [said("Be brief.", "system"), *TWO], {}),
    ({"conversations": TWO, "system_prompt": "Be brief."}, [said("Be brief.", "system"), *TWO], {}),
    ({"data": ["Hello", "Hi!"], "systemMessage": "Be brief."}, [said("Be brief.", "system"), *TWO], {}),
    ({"messages": TWO, "chat_template_kwargs": {"custom_instructions": "Be brief."}}, [said("Be brief.", "system"), *TWO], {}),
    ({"messages": [said("Be brief.", "system"), *TWO], "system": "Be brief."}, [said("Be brief.", "system"), *TWO], {}),
    ({"messages": [said("Be kind.", "system"), *TWO], "system": "Be brief."}, [said("Be brief.\n\nBe kind.", "system"), *TWO], {template.JOINED: 1}),
    ({"question": "Hello", "answer": "Hi!", "system": "Be brief."}, [said("Be brief.", "system"), *TWO], {}),
    ({"messages": TWO, "system": None, "images": [], "tools": "[]", "label": True, "weight": 1}, TWO, {}),
    ({"messages": [said("Hello"), assistant("Hi!", weight=1, train=True, tool_calls=None, name=None, thinking=None)]}, TWO, {}),
    ({"messages": [said("Hello"), assistant("Hi!", reasoning_content="A greeting.")]}, TWO, {"reasoning beside a reply, which is left out": 1}),
    ({"messages": [{**TWO[0], "name": "Ann"}, TWO[1]]}, TWO, {"name of a speaker, which is left out": 1}),
    ({"messages": [{**TWO[0], "train": True}, TWO[1]]}, TWO, {"message of the user that is to be learned, which it is not": 1}),
    ({"messages": [said("Hello"), assistant("Hm."), *TWO]}, [said("Hello"), assistant("Hm."), *TWO], {}),
    ({"messages": [said("Hello"), assistant("Hm.", weight=0), *TWO]}, [said("Hello"), assistant("Hm.", weight=0), *TWO], {}),
    ({"conversations": [said("Hello"), {"from": "gpt", "value": "Hm.", "train": False}, *TWO]}, [said("Hello"), assistant("Hm.", weight=0), *TWO], {}),
    ({"messages": [said("Hello"), assistant("Hm.", loss=False), *TWO]}, [said("Hello"), assistant("Hm.", weight=0), *TWO], {}),
    ({"messages": [{**TWO[0], "loss_weight": 0.0}, {"role": "assistant", "content": [{"type": "text", "value": "Hi!"}], "loss_weight": 1.0}]}, TWO, {}),
    ({"messages": json.dumps(TWO)}, TWO, {}), ([[said("Hello", "User "), TWO[1]]][0], TWO, {}),
    ({"data": ["Hello", "", "again", "Hi!"]}, [said("Hello\n\nagain"), TWO[1]], {template.EMPTY: 1, template.JOINED: 1}),
    ({"messages": [TWO[0], assistant(None, refusal="Hi!")]}, TWO, {})])
def test_a_row_is_mended(tmp_path, row, want, notes):
    assert read(tmp_path, row) == ([want], notes)


def test_calls_of_the_calculator_in_every_spelling(tmp_path):
    """OpenAI's older function_call, ShareGPT's turns, calls without the word function."""
    want = [said("a"), assistant([{"type": "tool", "text": "1+1"}, {"type": "output", "text": "2"}, {"type": "text", "text": "b"}])]
    flat = {"name": "calculator", "arguments": {"expression": "1+1"}}
    rows = [{"messages": [said("a"), assistant(None, function_call=flat), {"role": "function", "name": "calculator", "content": "2"}, said("b", "assistant")]},
            {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": json.dumps(flat)},
                               {"from": "observation", "value": "2"}, {"from": "gpt", "value": "b"}]},
            {"messages": [said("a"), assistant("", tool_calls=[flat]), said([{"type": "text", "text": "2"}], "tool"), said("b", "assistant")]},
            {"messages": want, "tools": [{"type": "function", "function": {"name": "calculator"}}]}]
    assert read(tmp_path, *rows) == ([want] * 4, {})


def test_results_come_in_any_order(tmp_path):
    """Each belongs to the call of its id; one of an id that nobody has is not guessed."""
    def call(name, expression):
        return {"id": name, "function": {"name": "calculator", "arguments": {"expression": expression}}}

    def result(name, text):
        return {"role": "tool", "tool_call_id": name, "content": text}

    begin = [said("Both?"), assistant(None, tool_calls=[call("x", "48/2"), call("y", "6*7")])]
    end = said("24 and 42.", "assistant")
    [found], notes = read(tmp_path, {"messages": [*begin, result("y", "42"), result("x", "24"), end]})
    assert [part["text"] for part in found[1]["content"]] == ["48/2", "24", "6*7", "42", "24 and 42."] and not notes
    found, notes = read(tmp_path, {"messages": [*begin, result("z", "42"), end]}, GOOD)
    assert len(found) == 1 and notes == {"a tool's message that nobody called for": 1}


@pytest.mark.parametrize("row", [
    {"message_tree_id": "Q", "prompt": node("Q", "prompter", node("A", "assistant", rank=0), node("B", "assistant", rank=1), node(None, "assistant"))},
    {"message_tree_id": "Q", "prompt": node("Q", "prompter", node("A", "assistant", rank=0), node("B", "assistant", rank=1), 5)},
    {"message_tree_id": "Q", "prompt": node("Q", "prompter", node("A", "assistant", rank=0), node("B", "assistant", rank=1), node("C", "wizard"))}])
def test_a_tree_with_a_message_that_is_none(tmp_path, row):
    assert read(tmp_path, row) == ([[said("Q"), said("A", "assistant")]], {"no message of a tree": 1})
    assert compare(tmp_path, row) == ([chats.Comparison([said("Q")], ["A", "B"], [0, -1])], {"no message of a tree": 1})


@pytest.mark.parametrize("bad, reason", [
    ({"rank": "best"}, "rank is no number"), ({"rank": True}, "rank is no number"), ({"rank": float("nan")}, "rank is no number"),
    ({"replies": 5}, "replies is no list")])
def test_a_tree_with_a_reply_that_is_malformed(tmp_path, bad, reason):
    row = {"message_tree_id": "Q", "prompt": node("Q", "prompter", node("A", "assistant"), {**node("B", "assistant"), **bad})}
    assert read(tmp_path, row) == ([[said("Q"), said("A", "assistant")]], {reason: 1})
    found, notes = compare(tmp_path, row, {"chosen": TWO, "rejected": [TWO[0], assistant("No")]})
    assert len(found) == 1 and notes == {reason: 1, "tree without ranked replies": 1}


def test_completions_without_a_score(tmp_path):
    completions = [{"response": text, "overall_score": score} for text, score in (("a", 1), ("b", 2), ("c", None), (None, 3), ("", 4), ("d", "5"), ("e", 10**400))]
    found, notes = compare(tmp_path, {"instruction": "Hello", "completions": [*completions, 5], "system": "Be brief."})
    assert found == [chats.Comparison([said("Be brief.", "system"), said("Hello")], ["a", "b"], [1, 2])]
    assert notes == {"the overall_score of a completion is no number": 3, "the response of a completion is no text": 1, template.EMPTY: 1,
                     "a completion of no known form": 1}


def test_the_listing_shows_what_is_learned(tmp_path):
    """--show, the listing and the training use the same rows of a file with something of everything."""
    tok = bpe.Tokenizer.train(["user assistant Half of 48? It is 24."], 280)
    image = said([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "What?"}])
    rows = [GOOD, {"messages": [image, TWO[1]]}, {"messages": [said("\ud800"), TWO[1]]}, {"messages": [said([]), *TWO]},
            {"messages": [TWO[0], assistant("Hm.", weight=0), *TWO]}, {"messages": [said(5), TWO[1]]}, *VALID, GOOD]
    path, notes = tmp_path / "chat.jsonl", Counter()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = [(where, messages) for where, messages, _ in chats.conversations(path, notes)]
    assert len(found) > 8 and notes["unknown part 'image_url'"] == notes["content that is no text"] == 1
    with contextlib.redirect_stdout(io.StringIO()) as out:
        chats.main(["--show", "99", str(path)])
    shown = out.getvalue()
    assert all(f"{where}\n" in shown for where, _ in found) and f": {len(found)} conversations" in shown and "Hm.  (not learned)" in shown
    assert len(align.load_conversations([path], tok, 10_000)) == len(found)
    for _, messages in found:
        assert sum(sample.render(messages, tok)[1]) > 0
    for _, (prompt, replies, _) in chats.comparisons(path, Counter()):
        for reply in replies:
            sample.render([*prompt, assistant(reply)], tok)


def test_a_second_message_of_one_id(tmp_path):
    """With both, a message could be its own ancestor, and a tree without end."""
    message = {"message_id": "a", "parent_id": None, "text": "Q", "role": "prompter", "message_tree_id": "a"}
    reply = {**message, "message_id": "b", "parent_id": "a", "text": "A", "role": "assistant"}
    found, notes = read(tmp_path, message, reply, {**message, "parent_id": "b"})
    assert found == [[said("Q"), said("A", "assistant")]] and notes == {"second message of one message_id": 1}


def test_an_empty_list_is_a_row(tmp_path):
    found, notes = read(tmp_path, [], {"messages": TWO})
    assert found == [TWO] and notes == {"conversation with nothing in it": 1}


def test_bad_files(tmp_path):
    """What is broken as a file stays an error, with the line, also behind good rows."""
    path, good = tmp_path / "chat.jsonl", json.dumps(GOOD).encode() + b"\n"
    for content, message in ((b"", "empty"), (b"\n\n", "empty"), (b"{broken", "chat.jsonl:1: not JSON"), (b'["\xff"]', "chat.jsonl:1: not JSON"),
                             (b"[" * 10**5, "not JSON"), (good + b"{broken\n", "chat.jsonl:2: not JSON"), (good + b'{"messages": [' + b"\n", "chat.jsonl:2: not JSON")):
        path.write_bytes(content)
        for read_file in (lambda: list(chats.conversations(path, Counter())), lambda: list(chats.comparisons(path, Counter())), lambda: chats.tasks(path)):
            with pytest.raises(ValueError, match=message):
                read_file()
    packed = tmp_path / "chat.jsonl.gz"
    packed.write_bytes(gzip.compress(good * 1000)[:-20])
    with pytest.raises(ValueError, match="chat.jsonl.gz: damaged gzip"):
        list(chats.conversations(packed, Counter()))


def test_tasks_that_cannot_be_used(tmp_path, capsys):
    path, task = tmp_path / "tasks.jsonl", {"question": "a", "answer": "b"}
    bad = [{"messages": []}, {"question": "x", "answer": ""}, {"question": "x", "answer": "#### "}, {**task, "exposure": "1"}, {**task, "options": 5},
           {**task, "kind": []}, {**task, "answer": float("nan")}, 5, {**task, "question": None}]
    path.write_text("".join(json.dumps(row) + "\n" for row in [task, *bad, task]))
    assert chats.tasks(path) == [task, task]
    assert capsys.readouterr().err == (
        f"{path}: 3 x no task; 2 x a task without an answer; 1 x exposure is no number of pages; 1 x options is no list; "
        "1 x kind is no text; 1 x answer is no number\n")
    path.write_text("".join(json.dumps(row) + "\n" for row in bad))
    with pytest.raises(ValueError, match="tasks.jsonl: nothing in it can be used: 3 x no task.*; the first is .*tasks.jsonl:1: no task: expected .*question"):
        chats.tasks(path)


def test_a_file_without_comparisons(tmp_path):
    with pytest.raises(ValueError, match="pairs.jsonl:1: messages has no replies to compare: expected chosen and rejected"):
        compare(tmp_path, GOOD)
    found, notes = compare(tmp_path, GOOD, {"chosen": TWO, "rejected": [TWO[0], assistant("No")]})
    assert len(found) == 1 and notes == {"messages has no replies to compare": 1}


def test_the_command(tmp_path):
    (tmp_path / "chat.jsonl").write_text(json.dumps({"question": "Half of 48?", "answer": "<<48/2=24>>24\n#### 24"}) + "\n")
    done = run_script("chat/chats.py", tmp_path / "chat.jsonl")
    assert done.returncode == 0 and "assistant  [48/2 = 24]24\n#### 24" in done.stdout and "1 conversations, 2 messages, 1 calls" in done.stdout
    done = run_script("chat/chats.py", tmp_path / "none.jsonl")
    assert done.returncode == 1 and "none.jsonl" in done.stderr and "Traceback" not in done.stderr


# ---- every kind of malformed row ---------------------------------------------------------------

CALL = {"function": {"name": "calculator", "arguments": '{"expression": "1+1"}'}}
PARTS = [{"type": "tool", "text": "1+1"}, {"type": "output", "text": "2"}]
TRANSCRIPT = "\n\nHuman: a\n\nAssistant: b"
CALLING = [TWO[0], {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "2"}]
VALID = [
    {"messages": [TWO[0], said(PARTS, "assistant")], "kind": "x"},
    {"messages": [*CALLING, said("It is 2.", "assistant")]},
    [said("Be brief.", "system"), *TWO],
    {"data": ["Hello", "Hi!", "Bye", "Bye!"]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    {"message_tree_id": "Q", "prompt": TREE},
    {"message_id": "a", "parent_id": None, "text": "x", "role": "prompter", "rank": 0},
    {"chosen": TRANSCRIPT, "rejected": TRANSCRIPT + "c"},
    {"prompt": "Hello", "chosen": [TWO[0], TWO[1]], "rejected": [TWO[0], said(PARTS, "assistant")]},
    {"instruction": "a", "completions": [{"response": "b", "overall_score": 1},
                                         {"response": "c", "overall_score": 2.5}]},
    {"question": "a", "answer": "<<1+1=2>>2 #### 2", "exposure": 3, "kind": "fact",
     "options": ["b", "c"], "reply": "b"}]
ODD = [None, True, False, 0, -1, 2**70, 10**400, 0.5, -1e308, float("nan"), float("inf"), "", "x",
       "9" * 400, "\ud800", "\x1b]0;x\x07", "system", "tool", "assistant", "text", "#### ",
       "<<1/0=>>", TRANSCRIPT, "{", "[" * 3000, "9" * 5000, [], {}, [[]], [{}], {"": None}]


def mutated(rng, value):
    """The value with some of its parts replaced, left out, doubled or nested."""
    if rng.random() < 0.06:
        return rng.choice([*ODD, [value], {"type": value}, {"role": value, "content": value}])
    if isinstance(value, list):
        found = [mutated(rng, part) for part in value if rng.random() > 0.04]
        return found + found[-1:] * (rng.random() < 0.04)
    if isinstance(value, dict):
        found = {key: mutated(rng, part) for key, part in value.items() if rng.random() > 0.04}
        if rng.random() < 0.05:
            found[rng.choice(["tool_calls", "content", "rank", "replies", "prompt", "kind"])] = \
                mutated(rng, rng.choice(ODD))
        return found
    return value


def readers(path):
    """(name, function) of all ways to read a file."""
    return {"conversations": lambda: list(chats.conversations(path, Counter())),
            "comparisons": lambda: list(chats.comparisons(path, Counter())),
            "tasks": lambda: chats.tasks(path),
            "the command": lambda: chats.main(["--show", "9", str(path)])}.items()


def refusals(path):
    """What each reader says of the file; None for one that reads something. Only ValueError may come, with the file and the row."""
    said = {}
    for name, read in readers(path):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                read()
            said[name] = None
        except ValueError as error:
            said[name] = str(error)
            where = rf"{re.escape(str(path))}(:\d+|: row \d+): "
            useless = rf"{re.escape(str(path))}: nothing in it can be used: \d+ x .*"
            no_root = "message whose tree has no beginning$"
            assert re.match(f"{where}not JSON|{useless}(; the first is {where}|{no_root})", said[name], re.DOTALL), (name, said[name])
            assert "malformed" not in said[name], "a kind that no reader foresaw: " + said[name]
            assert len(said[name]) < 3000
    return said


def test_mutated_rows_of_all_schemas(tmp_path):
    """Rows that are almost right, 900 of them, also as one list. A bad one is never in the way of a good one."""
    rng, path, read, refused = random.Random(0), tmp_path / "chat.jsonl", Counter(), Counter()
    for i in range(900):
        rows = [mutated(rng, rng.choice(VALID)) for _ in range(rng.choice([1, 1, 2]))]
        text = json.dumps(rows) if i % 5 == 0 else "".join(json.dumps(row) + "\n" for row in rows)
        path.unlink(missing_ok=True)                # to write over a file may wait for the disk
        path.write_text(text, encoding="utf-8")
        for name, message in refusals(path).items():
            (read if message is None else refused)[name] += 1
        notes = Counter()
        with contextlib.suppress(ValueError):
            list(chats.conversations(path, notes))
        assert not any("malformed" in reason for reason in notes), notes
        if i % 5 and not any("not JSON" in str(e) for e in refusals(path).values()):
            path.write_text(text + json.dumps(GOOD) + "\n", encoding="utf-8")
            assert [messages for _, messages, _ in chats.conversations(path, Counter())][-1] == GOOD["messages"] or "message_id" in text
    assert min(read.values()) > 20 and min(refused.values()) > 200, (read, refused)


def test_valid_rows_of_all_schemas_are_read(tmp_path):
    for row in VALID:
        (tmp_path / "chat.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        if "message_id" not in row:                 # a question that nobody answers
            assert refusals(tmp_path / "chat.jsonl")["conversations"] is None, row


def test_mutated_bytes(tmp_path):
    """Bytes that are changed, left out or doubled: not JSON, not UTF-8, a key twice."""
    rng, path = random.Random(1), tmp_path / "chat.jsonl"
    for _ in range(300):
        raw = bytearray(json.dumps(rng.choice(VALID), ensure_ascii=False).encode("utf-8", "replace"))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(raw))
            raw[at:at + rng.randint(0, 3)] = rng.choice(
                [b"", b"\xff", b"\xed\xa0\x80", b"\0", b"\n", b"\r", b'"', b"\\", b"9" * 5000, b"[" * 5000,
                 b"]", b"}", b",", b"null", b"\xef\xbb\xbf", raw[at:at + 40]])
        if raw.strip():
            path.unlink(missing_ok=True)
            path.write_bytes(bytes(raw))
            refusals(path)


def test_a_key_that_stands_twice(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": TWO}) + '\n{"data": ["a", "b"], "data": ["a", "c"]}\n')
    with pytest.raises(ValueError, match="chat.jsonl:2: not JSON .the key 'data' stands twice in one object"):
        list(chats.conversations(path, Counter()))


def test_a_list_over_many_lines_names_the_line(tmp_path):
    path = tmp_path / "chat.json"
    path.write_text('\n[\n{"messages":\n\n[5,}\n]')
    with pytest.raises(ValueError, match="chat.json:5: not JSON"):
        list(chats.conversations(path, Counter()))
    path.write_text('[\n{"data": []},\n{"data": 5}]')
    with pytest.raises(ValueError, match="the first is .*chat.json: row 1: conversation with nothing in it"):
        list(chats.conversations(path, Counter()))


def test_pairs_of_no_use_are_counted(tmp_path):
    rows = [{"chosen": [], "rejected": []}, {"chosen": TWO, "rejected": []},
            {"chosen": TWO, "rejected": TWO[:1] * 2}]
    with pytest.raises(ValueError, match="2 x pair with an empty message; .* x pair that does not end with a reply"):
        compare(tmp_path, *rows)
    system = said("Be brief.", "system")
    with pytest.raises(ValueError, match="pairs.jsonl:1: pair that does not end with a reply"):
        compare(tmp_path, {"chosen": [system, TWO[1]], "rejected": [system, said("No", "assistant")]})


def test_messages_whose_tree_has_no_beginning(tmp_path):
    """Whose parent was not exported, or that are each other's parents."""
    rows = [{**node("Q", "prompter"), "parent_id": None}, {**node("A", "assistant"), "parent_id": "Q"},
            {**node("B", "assistant"), "parent_id": "gone"}, {**node("C", "prompter"), "parent_id": "D"},
            {**node("D", "assistant"), "parent_id": "C"}]
    found, notes = read(tmp_path, *rows)
    assert found == [[said("Q"), said("A", "assistant")]]
    assert notes == {"message whose tree has no beginning": 3}
    found, notes = read(tmp_path, *rows[:2], {**rows[2], "role": "system"})
    assert len(found) == 1 and notes == {"no message of a tree": 1}


@pytest.mark.parametrize("kind", ["calls", "chain", "turns"])
def test_long_rows_take_time_in_proportion(kind):
    """Four times the row: less than eight times the memory and the time."""
    def row(n):
        if kind == "calls":
            many = {"role": "assistant", "tool_calls": [CALL] * n}
            return {"messages": [TWO[0], many, *CALLING[2:] * n, TWO[1]]}
        if kind == "turns":
            turns = [{"from": "gpt", "value": "x"}] * n
            return {"conversations": [{"from": "human", "value": "a"}, *turns]}
        root = {"role": "prompter", "text": "x"}
        for i in range(n):
            replies = [{**root, "rank": 0}, {"role": root["role"], "text": "y", "rank": 1}]
            root = {"role": ("prompter", "assistant")[(i + 1) % 2], "text": "x", "replies": replies}
        return {"message_tree_id": "1", "prompt": root}

    def allocated(n):
        value = row(n)
        name = chats.schema(value)
        tracemalloc.start()
        chats.conversation_of(value, name, Counter(), "en")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    def seconds(n):
        value, best = row(n), 1e9
        for _ in range(3):
            start = time.process_time()
            chats.conversation_of(value, chats.schema(value), Counter(), "en")
            best = min(best, time.process_time() - start)
        return best

    assert allocated(2000) < 8 * allocated(500)
    assert seconds(4000) < 8 * seconds(1000) + 0.01
