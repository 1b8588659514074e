"""chats.py: a small file in each schema, as its data set writes it, and what becomes of it."""

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
    ({"data": ["Hello", 5]}, "chat.jsonl:2: data is 5, expected a text"),
    ({"data": "Hello"}, "chat.jsonl:2: data is 'Hello', expected a list"),
    ({"prompt": node("Q", "wizard"), "message_tree_id": "1"}, "expected a message with role prompter or assistant"),
    ({"chosen": "Hello", "rejected": "Hi"}, "a transcript begins with"),
    ({"instruction": "x", "completions": [{"response": "y"}]}, "chat.jsonl:2: the overall_score of a completion is"),
    ({"question": "x", "answer": 5}, "chat.jsonl:2: answer is 5, expected a text"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "role is ['user'], expected a text"),
    ({"messages": [{**TWO[0], "tool_calls": [{}]}, TWO[1]]}, "a message of the user that calls tools"),
    ({"messages": [TWO[0], {"role": "assistant", "tool_calls": 5}]}, "tool_calls is 5, expected a list"),
    ({"messages": [TWO[0], said([{"type": "text", "text": ""}], "assistant")]}, "message 1 of the assistant is empty"),
    ({"messages": [said([{"type": "tool", "text": "1+1"}]), TWO[1]]}, "message 0 has parts of a tool, which only the assistant can call"),
    ({"prompt": {**node("Q", "prompter"), "replies": 5}, "message_tree_id": "1"}, "replies is 5, expected a list"),
    ({"prompt": {**node("Q", "prompter"), "rank": "best"}, "message_tree_id": "1"}, "rank is 'best', expected a number"),
    ({"message_id": None, "parent_id": None, "text": "Q", "role": "prompter"}, "chat.jsonl:2: message_id is None, expected a text"),
    ({"chosen": [5], "rejected": TWO}, "chat.jsonl:2: 5 is no message"),
    ({"instruction": "x", "completions": [{"response": "y", "overall_score": float("nan")}]}, "chat.jsonl:2: the overall_score of a completion is"),
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
    """What each reader says of the file; None for one that reads it. Only ValueError may come, with the file and the row."""
    said = {}
    for name, read in readers(path):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                read()
            said[name] = None
        except ValueError as error:
            said[name] = str(error)
            assert re.match(rf"{re.escape(str(path))}(:\d+|: row \d+): ", said[name]), (name, said[name])
            assert ": malformed (" not in said[name], "a kind that no reader foresaw: " + said[name]
            assert len(said[name]) < 1000
    return said


def test_mutated_rows_of_all_schemas(tmp_path):
    """Rows that are almost right, 900 of them, also as one list."""
    rng, path, read, refused = random.Random(0), tmp_path / "chat.jsonl", Counter(), Counter()
    for i in range(900):
        rows = [mutated(rng, rng.choice(VALID)) for _ in range(rng.choice([1, 1, 2]))]
        text = json.dumps(rows) if i % 5 == 0 else "".join(json.dumps(row) + "\n" for row in rows)
        path.unlink(missing_ok=True)                # to write over a file may wait for the disk
        path.write_text(text, encoding="utf-8")
        for name, message in refusals(path).items():
            (read if message is None else refused)[name] += 1
    assert min(read.values()) > 20 and min(refused.values()) > 300, (read, refused)


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


@pytest.mark.parametrize("row, message", [
    ({"messages": [TWO[0], {"role": "assistant"}, *CALLING[2:], TWO[1]]},
     "the content of the assistant is None, expected a text"),
    ({"messages": [TWO[0], {"role": "assistant", "tool_calls": []}, *CALLING[2:]]},
     "the content of the assistant is None, expected a text"),
    ({"messages": [TWO[0], said([*PARTS, {"text": "2"}], "assistant")]}, "unknown part"),
    ({"messages": [TWO[0], said([*PARTS, {"type": ["a"], "text": "2"}], "assistant")]}, "unknown part"),
    ({"messages": [TWO[0], said([{"type": "text", "text": None}], "assistant")]},
     "the text of a part text is None, expected a text"),
    ({"messages": [said(PARTS, "system"), *TWO]}, "message 0 of the system has parts of a tool"),
    ({"messages": [TWO[0], {"role": "assistant", "tool_calls": [{**CALL, "function": {
        "name": "calculator", "arguments": "[" * 100_000}}]}]}, "nested too deep"),
    ({"messages": [TWO[0], {"role": "assistant", "tool_calls": ["x"]}]}, "a tool call is 'x', expected"),
    ({"messages": [TWO[0], {"role": "assistant", "tool_calls": [{"function": {"name": [1]}}]}]},
     "the name of a tool is [1], expected a text"),
    ({"messages": [*CALLING, *CALLING[2:], TWO[1]]}, "a tool's message that nobody called for"),
    ({"prompt": {**node("Q", "prompter"), "rank": float("nan")}, "message_tree_id": "1"},
     "rank is nan, expected a number"),
    ({"prompt": {**node("Q", "prompter"), "rank": True}, "message_tree_id": "1"},
     "rank is True, expected a number"),
    ({"instruction": "x", "completions": [{"response": "y", "overall_score": 10**400}]},
     "expected a number"),
    ({"messages": TWO, "kind": ["x"]}, "kind is ['x'], expected a text"),
    ({"messages": TWO, "x": 10**400}, None)])
def test_more_bad_rows(tmp_path, row, message):
    if message is None:
        assert read(tmp_path, row) == ([TWO], {})
        return
    with pytest.raises(ValueError) as error:
        read(tmp_path, {"messages": TWO}, row)
    assert "chat.jsonl:2: " in str(error.value) and message in str(error.value)


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
    path.write_text('[\n{"data": ["a", "b"]},\n{"data": 5}]')
    with pytest.raises(ValueError, match="chat.json: row 2: data is 5, expected a list"):
        list(chats.conversations(path, Counter()))


def test_pairs_of_no_use_are_counted(tmp_path):
    rows = [{"chosen": [], "rejected": []}, {"chosen": TWO, "rejected": []},
            {"chosen": TWO, "rejected": TWO[:1] * 2}]
    assert compare(tmp_path, *rows)[1] == {"pair with an empty message": 2,
                                           "pair that does not end with a reply": 1}
    system = said("Be brief.", "system")
    with pytest.raises(ValueError, match="pairs.jsonl:1: the replies follow the system"):
        compare(tmp_path, {"chosen": [system, TWO[1]], "rejected": [system, said("No", "assistant")]})


def test_messages_whose_tree_has_no_beginning(tmp_path):
    """Whose parent was not exported, or that are each other's parents."""
    rows = [{**node("Q", "prompter"), "parent_id": None}, {**node("A", "assistant"), "parent_id": "Q"},
            {**node("B", "assistant"), "parent_id": "gone"}, {**node("C", "prompter"), "parent_id": "D"},
            {**node("D", "assistant"), "parent_id": "C"}]
    found, notes = read(tmp_path, *rows)
    assert found == [[said("Q"), said("A", "assistant")]]
    assert notes == {"message whose tree has no beginning": 3}
    with pytest.raises(ValueError, match="chat.jsonl:3: expected a message with role prompter"):
        read(tmp_path, *rows[:2], {**rows[2], "role": "system"})        # the row that is wrong, not its tree's first


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
