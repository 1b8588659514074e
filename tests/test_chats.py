"""chat/chats.py: a small file in each schema, as its data set writes it, and what becomes of it."""

import contextlib
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
from chat import chats, datasets, lessons, template
import sample
from conftest import run_script

DATA = Path(
    os.environ.get("LONGHAND_DATA") or Path(__file__).parent.parent.parent / "shared" / "data"
)
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


def node(text, role, *replies, rank=None, **more):
    return {"message_id": text, "text": text, "role": role, "rank": rank, "lang": "en",
            "deleted": False, "review_result": True, "replies": list(replies), **more}


TREE = node(
    "Q",
    "prompter",
    node("worse", "assistant", node("more?", "prompter", node("deep", "assistant")), rank=1),
    node("unranked", "assistant"),
    node(
        "best",
        "assistant",
        node("thanks", "prompter"),
        node("and?", "prompter", node("so", "assistant", rank=0),
             node("or so", "assistant", rank=1), rank=0),
        rank=0,
    ),
    node("schlecht", "assistant", rank=2, lang="de"),
    node("gone", "assistant", rank=3, deleted=True),
    node("bad", "assistant", rank=4, review_result=False),
)


def flat(m, parent=None):
    """The tree's messages, a row each, as the data set's parquet has them."""
    yield {k: v for k, v in m.items() if k != "replies"} | {
        "parent_id": parent,
        "message_tree_id": "Q",
    }
    for reply in m["replies"]:
        yield from flat(reply, m["message_id"])


PROMPT = [said("Is salt a rock?"), said("Yes.", "assistant"), said("Which?")]


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def calling(name, arguments):
    return assistant(None, tool_calls=[{"function": {"name": name, "arguments": arguments}}])


GOOD = {"messages": [said("two"), assistant("three")]}
NOTHING = "conversation with nothing in it"
ONLY_PART = "a reply that is to be learned only in part"


@pytest.mark.parametrize(
    "row, reason, detail",
    [
        ({"text": "x"}, "of no known schema", "the keys text; known are pair: chosen, rejected;"),
        (5, "of no known schema", "5; known are"),
        ({"messages": [TWO[1]]}, NOTHING, ""),
        ({"messages": [TWO[0]]}, NOTHING, ""),
        ([], NOTHING, ""),
        ({"messages": [said("Be brief.", "system")]}, NOTHING, ""),
        ({"messages": [TWO[0], assistant("")]}, NOTHING, ""),
        ({"messages": [TWO[0], assistant(" \n")]}, NOTHING, ""),
        ({"messages": [TWO[0], assistant(None)]}, NOTHING, ""),
        ({"messages": [TWO[0], assistant([{"type": "text", "text": ""}])]}, NOTHING, ""),
        ({"messages": "Hello"}, "the messages are no JSON", "'Hello'"),
        ({"messages": '"Hello"'}, "messages is no list", "'Hello'"),
        ({"messages": [TWO[0], {**TWO[1], "loss_scale": 0.5}]}, "a weight that is neither 0 nor 1",
         "0.5"),
        ({"messages": ["Hello"]}, "no message", "'Hello'"),
        ({"messages": 5}, "messages is no list", "5"),
        ({"messages": [said("x", "wizard")]}, "unknown role 'wizard'",
         "expected system, user, assistant or tool"),
        ({"messages": [said("x", ["user"])]}, "unknown role ['user']", ""),
        ({"messages": [{"content": "x"}]}, "unknown role None", ""),
        ({"messages": [TWO[0], assistant(5)]}, "content that is no text",
         "message 1 of the assistant has the content 5"),
        ({"messages": [TWO[0], assistant(["x"])]}, "content that is no text", "['x']"),
        ({"messages": [said([{"type": "image_url", "image_url": {"url": "x"}}]), TWO[1]]},
         "unknown part 'image_url'", "message 0 of the user"),
        ({"messages": [TWO[0], assistant([{"text": "2"}])]}, "unknown part None", ""),
        ({"messages": [TWO[0], assistant([{"type": "text", "text": None}])]}, "unknown part 'text'",
         ""),
        ({"messages": [said([{"type": "tool", "text": "1+1"}]), TWO[1]]}, "a call of the user",
         "which only the assistant can call"),
        ({"messages": [said([{"type": "tool", "text": "1+1"}], "system"), *TWO]},
         "a call of the system", "which only the assistant can call"),
        ({"messages": [TWO[0], {"role": "tool", "content": "24"}]},
         "a tool's message that nobody called for", "'24'"),
        ({"messages": [{**TWO[0], "tool_calls": [{}]}, TWO[1]]}, "a call of the user", ""),
        ({"messages": [TWO[0], assistant(None, tool_calls=5)]}, "tool_calls is no list", "5"),
        ({"messages": [TWO[0], assistant(None, tool_calls=["x"])]}, "a tool call of no known form",
         "'x', expected"),
        ({"messages": [TWO[0], calling("calculator", "{")]},
         "the arguments of a tool call are no JSON", "'{'"),
        ({"messages": [TWO[0], calling([1], "{}")]}, "the name of a tool is no text", "[1]"),
        ({"messages": [TWO[0], calling("calculator", "[" * 100_000)]}, "nested too deep", ""),
        ({"messages": [TWO[0], calling("f", "{}"), {"role": "tool", "content": "1"}, TWO[1]]},
         f"calls the tool f, we have only {datasets.OURS}", ""),
        (
            {
                "messages": [TWO[0],
                             assistant(None, function_call={"name": "f", "arguments": "{}"}),
                             {"role": "function", "name": "f", "content": "1"}, TWO[1]]
            },
            f"calls the tool f, we have only {datasets.OURS}",
            "",
        ),
        ({"messages": [{**TWO[0], "images": ["x.png"]}, TWO[1]]}, "with images", "['x.png']"),
        ({"messages": TWO, "images": ["x.png"]}, "with images", ""),
        ({"image": "x.png", "messages": TWO}, "with image", ""),
        ({"messages": TWO, "videos": ["x.mp4"]}, "with videos", ""),
        ({"messages": TWO, "audio": {"path": "x"}}, "with audio", ""),
        ({"messages": TWO, "tools": [{"type": "function", "function": {"name": "f"}}]},
         f"offers other tools than {datasets.OURS}", "'f'"),
        ({"messages": TWO, "tools": '[{"name": "f"}]'},
         f"offers other tools than {datasets.OURS}", ""),
        ({"messages": TWO, "chat_template_kwargs": {"xml_tools": ["f"]}},
         f"offers other tools than {datasets.OURS}", ""),
        ({"messages": TWO, "tools": "f(x)"}, "the tools are no JSON", ""),
        ({"messages": TWO, "label": False}, "an example of what not to say", "label is false"),
        ({"conversations": TWO, "kto_tag": False}, "an example of what not to say",
         "kto_tag is false"),
        ({"messages": TWO, "system": ["x"]}, "system is no text", "['x']"),
        ({"messages": TWO, "weight": 0}, "a row that is not to be learned", ""),
        ({"messages": [TWO[0], {**TWO[1], "weight": 0}]},
         "conversation of which nothing is to be learned", ""),
        ({"messages": [TWO[0], {**TWO[1], "weight": 0.5}]}, "a weight that is neither 0 nor 1",
         "0.5"),
        ({"messages": [TWO[0], {**TWO[1], "train": "no"}]}, "a weight that is neither 0 nor 1",
         "'no'"),
        (
            {
                "messages": [
                    TWO[0],
                    {**TWO[1],
                     "train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]},
                ]
            },
            ONLY_PART,
            "train_detail",
        ),
        ({"messages": [TWO[0], {**TWO[1], "weight": 0}, TWO[1]]}, ONLY_PART, "message 2"),
        (
            {
                "messages": [TWO[0],
                             {**calling("calculator", '{"expression": "1+1"}'), "weight": 0},
                             {"role": "tool", "content": "2"}, TWO[1]]
            },
            ONLY_PART,
            "",
        ),
        ({"messages": TWO, "kind": ["x"]}, "kind is no text", "['x']"),
        ({"conversations": [{"from": "cat", "value": "meow"}]}, "unknown role 'cat'",
         "{'from': 'cat', 'value': 'meow'}"),
        (
            {
                "conversations": [{"from": "human", "value": "a"},
                                  {"from": "function_call", "value": "{}"},
                                  {"from": "observation", "value": "1"}]
            },
            "a tool call of no known form",
            "{}",
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "a"},
                    {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
                ]
            },
            f"calls the tool f, we have only {datasets.OURS}",
            "",
        ),
        (
            {
                "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "c"},
                                  {"from": "tool", "value": "1"}, {"from": "gpt", "value": "b"}]
            },
            "a tool's message that nobody called for",
            "",
        ),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": None}]},
         NOTHING, ""),
        ({"data": ["Hello", 5]}, "no message", "'Hello'"),
        ({"data": 5}, "messages is no list", "5"),
        ({"data": ["a"]}, "no message", "'a'"),
        ({"prompt": node("Q", "wizard"), "message_tree_id": "1"}, NOTHING, ""),
        ({"prompt": None, "message_tree_id": "1"}, NOTHING, ""),
        ({"message_id": None, "parent_id": None, "text": "Q", "role": "prompter"},
         "message_id is no text", "None"),
        ({"message_id": "a", "parent_id": None, "text": None, "role": "prompter"},
         "no message of a tree", "'text': None"),
        ({"message_id": "a", "parent_id": 5, "text": "Q", "role": "prompter"},
         "parent_id is no text", "5"),
        ({"chosen": "Hello", "rejected": "Hi"}, "no transcript", "begins with"),
        ({"chosen": [5], "rejected": TWO}, "no message", "5"),
        ({"chosen": None, "rejected": TWO}, "messages is no list", "None"),
        ({"chosen": [], "rejected": []}, "pair with an empty message", ""),
        ({"chosen": TWO, "rejected": TWO, "history": [["a", "b"]]}, "with history", ""),
        ({"chosen": [TWO[1]], "rejected": [assistant("No")]}, "pair that does not end with a reply",
         ""),
        ({"instruction": "x", "completions": [{"response": "y", "overall_score": 1}]},
         "replies that all have one score, or are empty", ""),
        ({"instruction": "x", "completions": 5}, "completions is no list", "5"),
        (
            {"instruction": 5,
             "completions": [{"response": "y", "overall_score": i} for i in (1, 2)]},
            "instruction is no text",
            "5",
        ),
        ({"question": "x", "answer": 5}, "answer is no text", "5"),
        ({"question": ["x"], "answer": "5"}, "question is no text", "['x']"),
    ],
)
def test_a_bad_row_ends_no_load(tmp_path, row, reason, detail):
    """It is left out and counted; alone in its file, it is an error that names it."""
    found, notes = read(tmp_path, GOOD, row, GOOD)
    assert found == [GOOD["messages"]] * 2 and notes[reason] == 1
    with pytest.raises(ValueError) as error:
        read(tmp_path, row)
    text = str(error.value)
    assert (
        text.startswith(f"{tmp_path / 'chat.jsonl'}: nothing in it can be used: ")
        and f"1 x {reason}" in text
    )
    assert f"; the first is {tmp_path / 'chat.jsonl'}:1: {reason}" in text and detail in text


@pytest.mark.parametrize(
    "row, want, notes",
    [
        ({"messages": [*TWO, said("Thanks!")]}, TWO, {"question at the end without a reply": 1}),
        ({"messages": [TWO[1], *TWO]}, TWO, {template.GREETING: 1}),
        ({"messages": [said("a"), said("b"), TWO[1]]}, [said("a\n\nb"), TWO[1]],
         {template.JOINED: 1}),
        ({"messages": [*TWO, said("Be brief.", "system"), *TWO]},
         [said("Be brief.", "system"), *TWO, *TWO], {template.MOVED: 1}),
        ({"messages": [said(None, "system"), *TWO]}, TWO, {template.EMPTY: 1}),
        ({"messages": [said("Hello", "User"), said("Hi!", "Assistant")]}, TWO, {}),
        ({"messages": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]}, TWO,
         {}),
        ({"conversations": TWO}, TWO, {}),
        ({"conversation": TWO, "language": "English"}, TWO, {}),
        ({"messages": None, "conversations": TWO}, TWO, {}),
        (
            {
                "conversations": [{"from": "user", "content": "Hello"},
                                  {"role": "model", "value": "Hi!"}]
            },
            TWO,
            {},
        ),
        ([{"from": "prompter", "value": "Hello"}, {"from": "Bing", "value": "Hi!"}], TWO, {}),
        (
            {
                "messages": [
                    said([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]),
                    TWO[1],
                ]
            },
            TWO,
            {},
        ),
        ({"messages": TWO, "system": "Be brief."}, [said("Be brief.", "system"), *TWO], {}),
        ({"conversations": TWO, "system_prompt": "Be brief."}, [said("Be brief.", "system"), *TWO],
         {}),
        ({"data": ["Hello", "Hi!"], "systemMessage": "Be brief."},
         [said("Be brief.", "system"), *TWO], {}),
        ({"messages": TWO, "chat_template_kwargs": {"custom_instructions": "Be brief."}},
         [said("Be brief.", "system"), *TWO], {}),
        ({"messages": [said("Be brief.", "system"), *TWO], "system": "Be brief."},
         [said("Be brief.", "system"), *TWO], {}),
        ({"messages": [said("Be kind.", "system"), *TWO], "system": "Be brief."},
         [said("Be brief.\n\nBe kind.", "system"), *TWO], {template.JOINED: 1}),
        ({"question": "Hello", "answer": "Hi!", "system": "Be brief."},
         [said("Be brief.", "system"), *TWO], {}),
        (
            {"messages": TWO, "system": None, "images": [], "tools": "[]", "label": True,
             "weight": 1},
            TWO,
            {},
        ),
        (
            {
                "messages": [
                    said("Hello"),
                    assistant(
                        "Hi!", weight=1, train=True, tool_calls=None, name=None, thinking=None
                    ),
                ]
            },
            TWO,
            {},
        ),
        ({"messages": [said("Hello"), assistant("Hi!", reasoning="A greeting.")]},
         [TWO[0], {**TWO[1], "reasoning_content": "A greeting."}], {}),
        ({"messages": [TWO[0], assistant("Hi!", thought="A."), assistant("I", thinking="B")]},
         [TWO[0], {**TWO[1], "content": "Hi!\n\nI", "reasoning_content": "A.\n\nB"}],
         {template.JOINED: 1}),
        ({"messages": [{**TWO[0], "thinking": "I?"}, {**TWO[1], "thinking": [1]}]}, TWO,
         {"reasoning that is no text, or not the assistant's, which is left out": 2}),
        ({"messages": [{**TWO[0], "name": "Ann"}, TWO[1]]}, TWO,
         {"name of a speaker, which is left out": 1}),
        ({"messages": [{**TWO[0], "train": True}, TWO[1]]}, TWO,
         {"message of the user that is to be learned, which it is not": 1}),
        ({"messages": [said("Hello"), assistant("Hm."), *TWO]},
         [said("Hello"), assistant("Hm."), *TWO], {}),
        ({"messages": [said("Hello"), assistant("Hm.", weight=0), *TWO]},
         [said("Hello"), assistant("Hm.", weight=0), *TWO], {}),
        (
            {
                "conversations": [said("Hello"), {"from": "gpt", "value": "Hm.", "train": False},
                                  *TWO]
            },
            [said("Hello"), assistant("Hm.", weight=0), *TWO],
            {},
        ),
        ({"messages": [said("Hello"), assistant("Hm.", loss=False), *TWO]},
         [said("Hello"), assistant("Hm.", weight=0), *TWO], {}),
        (
            {
                "messages": [
                    {**TWO[0], "loss_weight": 0.0},
                    {"role": "assistant", "content": [{"type": "text", "value": "Hi!"}],
                     "loss_weight": 1.0},
                ]
            },
            TWO,
            {},
        ),
        ({"messages": json.dumps(TWO)}, TWO, {}),
        ([[said("Hello", "User "), TWO[1]]][0], TWO, {}),
        ({"data": ["Hello", "", "again", "Hi!"]}, [said("Hello\n\nagain"), TWO[1]],
         {template.EMPTY: 1, template.JOINED: 1}),
        ({"messages": [TWO[0], assistant(None, refusal="Hi!")]}, TWO, {}),
    ],
)
def test_a_row_is_mended(tmp_path, row, want, notes):
    assert read(tmp_path, row) == ([want], notes)


def test_the_listing_shows_what_is_learned(tmp_path):
    """--show, the listing and the training use the same rows of a file with something of
    everything."""
    tok = bpe.Tokenizer.train(["user assistant Half of 48? It is 24."], 280)
    image = said(
        [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "What?"}]
    )
    rows = [GOOD, {"messages": [image, TWO[1]]}, {"messages": [said("\ud800"), TWO[1]]},
            {"messages": [said([]), *TWO]},
            {"messages": [TWO[0], assistant("Hm.", weight=0), *TWO]},
            {"messages": [said(5), TWO[1]]}, *VALID, GOOD]
    path, notes = tmp_path / "chat.jsonl", Counter()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = [(where, messages) for where, messages, _ in chats.conversations(path, notes)]
    assert (
        len(found) > 8
        and notes["unknown part 'image_url'"] == notes["content that is no text"] == 1
    )
    with contextlib.redirect_stdout(io.StringIO()) as out:
        chats.main(["--show", "99", str(path)])
    shown = out.getvalue()
    assert (
        all(f"{where}\n" in shown for where, _ in found)
        and f": {len(found)} conversations" in shown
        and "Hm.  (not learned)" in shown
    )
    assert len(lessons.conversations([path], tok, 10_000)) == len(found)
    for _, messages in found:
        assert sum(sample.render(messages, tok)[1]) > 0
    for _, (prompt, replies, _) in chats.comparisons(path, Counter()):
        for reply in replies:
            sample.render([*prompt, assistant(reply)], tok)


def test_tasks_that_cannot_be_used(tmp_path, capsys):
    path, task = tmp_path / "tasks.jsonl", {"question": "a", "answer": "b"}
    bad = [{"messages": []}, {"question": "x", "answer": ""}, {"question": "x", "answer": "#### "},
           {**task, "exposure": "1"}, {**task, "options": 5}, {**task, "kind": []},
           {**task, "answer": float("nan")}, 5, {**task, "question": None}]
    path.write_text("".join(json.dumps(row) + "\n" for row in [task, *bad, task]))
    assert chats.tasks(path) == [task, task]
    assert capsys.readouterr().err == (
        f"{path}: 3 x no task; 2 x a task without an answer; 1 x exposure is no number of pages; "
        f"1 x options is no list; "
        "1 x kind is no text; 1 x answer is no number\n"
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in bad))
    with pytest.raises(
        ValueError,
        match="tasks.jsonl: nothing in it can be used: 3 x no task.*; "
        "the first is .*tasks.jsonl:1: no task: expected .*question",
    ):
        chats.tasks(path)


def test_a_file_without_comparisons(tmp_path):
    with pytest.raises(
        ValueError,
        match="pairs.jsonl:1: messages has no replies to compare: expected chosen and rejected",
    ):
        compare(tmp_path, GOOD)
    found, notes = compare(tmp_path, GOOD, {"chosen": TWO, "rejected": [TWO[0], assistant("No")]})
    assert len(found) == 1 and notes == {"messages has no replies to compare": 1}


def test_the_command(tmp_path):
    (tmp_path / "chat.jsonl").write_text(
        json.dumps({"question": "Half of 48?", "answer": "<<48/2=24>>24\n#### 24"}) + "\n"
    )
    done = run_script("chat/chats.py", tmp_path / "chat.jsonl")
    assert (
        done.returncode == 0
        and "assistant  [48/2 = 24]24\n#### 24" in done.stdout
        and "1 conversations, 2 messages, 1 calls" in done.stdout
    )
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
    {
        "instruction": "a",
        "completions": [{"response": "b", "overall_score": 1},
                        {"response": "c", "overall_score": 2.5}],
    },
    {"question": "a", "answer": "<<1+1=2>>2 #### 2", "exposure": 3, "kind": "fact",
     "options": ["b", "c"], "reply": "b"},
]
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
            found[rng.choice(["tool_calls", "content", "rank", "replies", "prompt", "kind"])] = (
                mutated(rng, rng.choice(ODD))
            )
        return found
    return value


def readers(path):
    """(name, function) of all ways to read a file."""
    return {"conversations": lambda: list(chats.conversations(path, Counter())),
            "comparisons": lambda: list(chats.comparisons(path, Counter())),
            "tasks": lambda: chats.tasks(path),
            "the command": lambda: chats.main(["--show", "9", str(path)])}.items()


def refusals(path):
    """What each reader says of the file; None for one that reads something. Only ValueError may
    come, with the file and the row."""
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
            assert re.match(f"{where}not JSON|{useless}(; the first is {where}|{no_root})",
                            said[name], re.DOTALL), (name, said[name])
            assert "malformed" not in said[name], "a kind that no reader foresaw: " + said[name]
            assert len(said[name]) < 3000
    return said


def test_mutated_rows_of_all_schemas(tmp_path):
    """Rows that are almost right, 900 of them, also as one list. A bad one is never in the way of a
    good one."""
    rng, path, read, refused = random.Random(0), tmp_path / "chat.jsonl", Counter(), Counter()
    for i in range(900):
        rows = [mutated(rng, rng.choice(VALID)) for _ in range(rng.choice([1, 1, 2]))]
        text = json.dumps(rows) if i % 5 == 0 else "".join(json.dumps(row) + "\n" for row in rows)
        path.unlink(missing_ok=True)  # to write over a file may wait for the disk
        path.write_text(text, encoding="utf-8")
        for name, message in refusals(path).items():
            (read if message is None else refused)[name] += 1
        notes = Counter()
        with contextlib.suppress(ValueError):
            list(chats.conversations(path, notes))
        assert not any("malformed" in reason for reason in notes), notes
        if i % 5 and not any("not JSON" in str(e) for e in refusals(path).values()):
            path.write_text(text + json.dumps(GOOD) + "\n", encoding="utf-8")
            assert [messages for _, messages, _ in chats.conversations(path, Counter())][
                -1
            ] == GOOD["messages"] or "message_id" in text
    assert min(read.values()) > 20 and min(refused.values()) > 200, (read, refused)


def test_valid_rows_of_all_schemas_are_read(tmp_path):
    for row in VALID:
        (tmp_path / "chat.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        if "message_id" not in row:  # a question that nobody answers
            assert refusals(tmp_path / "chat.jsonl")["conversations"] is None, row


def test_mutated_bytes(tmp_path):
    """Bytes that are changed, left out or doubled: not JSON, not UTF-8, a key twice."""
    rng, path = random.Random(1), tmp_path / "chat.jsonl"
    for _ in range(300):
        raw = bytearray(
            json.dumps(rng.choice(VALID), ensure_ascii=False).encode("utf-8", "replace")
        )
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(raw))
            raw[at : at + rng.randint(0, 3)] = rng.choice(
                [b"", b"\xff", b"\xed\xa0\x80", b"\0", b"\n", b"\r", b'"', b"\\", b"9" * 5000,
                 b"[" * 5000, b"]", b"}", b",", b"null", b"\xef\xbb\xbf", raw[at : at + 40]]
            )
        if raw.strip():
            path.unlink(missing_ok=True)
            path.write_bytes(bytes(raw))
            refusals(path)


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
