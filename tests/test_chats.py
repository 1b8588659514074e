"""chats.py: a small file in each schema, as its data set writes it, and what becomes of it."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

import bpe
import chats
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
    assert read(tmp_path, *rows, lang="de") == ([], {"message not in de": 1, "conversation with nothing in it": 1})


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
    assert compare(tmp_path, row, *others)[1] == {
        "pair of two equal replies": 1, "pair with an empty message": 1, "pair that differs before its last reply": 1,
        "pair with two messages of one role in a row": 1, "pair that does not end with a reply": 1}


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
    assert [chats.final_answer(t) for t in ("so\n#### 12.", "#### 1 \n#### $5", "no")] == ["12", "$5", None]


def test_gsm8k_whole():
    """Every call of the calculator in the real data is one that ours answers alike: 23,716, of which 667 with zeros it does not write."""
    path = DATA / "gsm8k_train.jsonl"
    if not path.exists():
        pytest.skip(f"no {path}; LONGHAND_DATA names another folder")
    notes, found = Counter(), []
    for _, messages, _ in chats.conversations(path, notes):
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


@pytest.mark.parametrize("row, message", [
    ({"text": "x"}, "chat.jsonl:2: of no known schema: the keys text; known are pair: chosen, rejected;"),
    (5, "chat.jsonl:2: of no known schema: 5"),
    ({"messages": [TWO[0], TWO[0]]}, "chat.jsonl:2: message 1 is the user's, expected the assistant's"),
    ({"messages": [TWO[1]]}, "chat.jsonl:2: message 0 is the assistant's, expected the user's"),
    ({"messages": [TWO[0], said("", "assistant")]}, "chat.jsonl:2: message 1 of the assistant is empty"),
    ({"messages": [TWO[0]]}, "chat.jsonl:2: the conversation ends with the user, there is no reply to learn"),
    ({"messages": ["Hello"]}, "chat.jsonl:2: 'Hello' is no message"),
    ({"messages": [said("x", "wizard")]}, "role 'wizard'"),
    ({"messages": [TWO[0], {"role": "tool", "content": "24"}]}, "chat.jsonl:2: a tool's message that nobody called for"),
    ({"messages": [TWO[0], {"role": "assistant", "tool_calls": [{"function": {"name": "calculator", "arguments": "{"}}]}]}, "are no JSON: '{'"),
    ({"conversations": [{"from": "cat", "value": "meow"}]}, 'chat.jsonl:2: expected {"from": human, gpt or system'),
    ({"data": ["Hello", 5]}, "chat.jsonl:2: data is '5', expected a text"),
    ({"data": "Hello"}, "chat.jsonl:2: data is 'Hello', expected a list"),
    ({"prompt": node("Q", "wizard"), "message_tree_id": "1"}, "expected a message with role prompter or assistant"),
    ({"chosen": "Hello", "rejected": "Hi"}, "a transcript begins with"),
    ({"instruction": "x", "completions": [{"response": "y"}]}, "a completion without a number as overall_score"),
    ({"question": "x", "answer": 5}, "chat.jsonl:2: answer is '5', expected a text"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "role is \"['user']\", expected a text"),
    ({"messages": [{**TWO[0], "tool_calls": [{}]}, TWO[1]]}, "a message of the user that calls tools"),
    ({"messages": [TWO[0], {"role": "assistant", "tool_calls": 5}]}, "tool_calls is '5', expected a list"),
    ({"messages": [TWO[0], said([{"type": "text", "text": ""}], "assistant")]}, "message 1 of the assistant is empty"),
    ({"messages": [said([{"type": "tool", "text": "1+1"}]), TWO[1]]}, "message 0 has parts of a tool, which only the assistant can call"),
    ({"prompt": {**node("Q", "prompter"), "replies": 5}, "message_tree_id": "1"}, "replies is '5', expected a list"),
    ({"prompt": {**node("Q", "prompter"), "rank": "best"}, "message_tree_id": "1"}, "rank is 'best', expected a number"),
    ({"message_id": None, "parent_id": None, "text": "Q", "role": "prompter"}, "chat.jsonl:2: message_id is 'None', expected a text"),
    ({"chosen": [5], "rejected": TWO}, "chat.jsonl:2: '5' is no message"),
    ({"instruction": "x", "completions": [{"response": "y", "overall_score": float("nan")}]}, "a completion without a number as overall_score"),
])
def test_bad_rows(tmp_path, row, message):
    with pytest.raises(ValueError) as error:
        read(tmp_path, {"messages": TWO}, row)
    assert message in str(error.value)


def test_a_second_message_of_one_id(tmp_path):
    """Else a message could be its own ancestor, and a tree without end."""
    message = {"message_id": "a", "parent_id": None, "text": "Q", "role": "prompter", "message_tree_id": "a"}
    with pytest.raises(ValueError, match="chat.jsonl:3: a second message of the message_id 'a'"):
        read(tmp_path, message, {**message, "message_id": "b", "parent_id": "a", "role": "assistant"}, {**message, "parent_id": "b"})


def test_an_empty_list_is_a_row(tmp_path):
    found, notes = read(tmp_path, [], {"messages": TWO})
    assert found == [TWO] and notes == {"conversation with nothing in it": 1}


def test_bad_files(tmp_path):
    for content, message in ((b"", "empty"), (b"\n\n", "empty"), (b"{broken", "chat.jsonl:1: not JSON"), (b'["\xff"]', "chat.jsonl:1: not JSON"), (b"[" * 10**5, "not JSON")):
        (tmp_path / "chat.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            list(chats.conversations(tmp_path / "chat.jsonl", Counter()))
    (tmp_path / "chat.jsonl").write_text('{"messages": []}\n{"question": "x", "answer": "#### "}\n')
    with pytest.raises(ValueError, match="chat.jsonl:1: expected .*question"):
        chats.tasks(tmp_path / "chat.jsonl")
    (tmp_path / "chat.jsonl").write_text('{"question": "x", "answer": ""}\n')
    with pytest.raises(ValueError, match="chat.jsonl:1: a task without an answer"):
        chats.tasks(tmp_path / "chat.jsonl")
    (tmp_path / "chat.jsonl").write_text('{"messages": []}\n')
    with pytest.raises(ValueError, match="messages has no replies to compare"):
        list(chats.comparisons(tmp_path / "chat.jsonl", Counter()))


def test_the_command(tmp_path):
    (tmp_path / "chat.jsonl").write_text(json.dumps({"question": "Half of 48?", "answer": "<<48/2=24>>24\n#### 24"}) + "\n")
    done = run_script("chats.py", tmp_path / "chat.jsonl")
    assert done.returncode == 0 and "assistant  [48/2 = 24]24\n#### 24" in done.stdout and "1 conversations, 2 messages, 1 calls" in done.stdout
    done = run_script("chats.py", tmp_path / "none.jsonl")
    assert done.returncode == 1 and "none.jsonl" in done.stderr and "Traceback" not in done.stderr
