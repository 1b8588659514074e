"""chat/rows.py: files of lines and of lists, and the errors that name a place in them."""

import gzip
import json
from collections import Counter

import pytest

from chat import chats
from test_chats import GOOD, TWO, read


def test_an_empty_list_is_a_row(tmp_path):
    found, notes = read(tmp_path, [], {"messages": TWO})
    assert found == [TWO] and notes == {"conversation with nothing in it": 1}


def test_bad_files(tmp_path):
    """What is broken as a file stays an error, with the line, also behind good rows."""
    path, good = tmp_path / "chat.jsonl", json.dumps(GOOD).encode() + b"\n"
    for content, message in (
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"{broken", "chat.jsonl:1: not JSON"),
        (b'["\xff"]', "chat.jsonl:1: not JSON"),
        (b"[" * 10**5, "not JSON"),
        (good + b"{broken\n", "chat.jsonl:2: not JSON"),
        (good + b'{"messages": [' + b"\n", "chat.jsonl:2: not JSON"),
    ):
        path.write_bytes(content)
        for read_file in (
            lambda: list(chats.conversations(path, Counter())),
            lambda: list(chats.comparisons(path, Counter())),
            lambda: chats.tasks(path),
        ):
            with pytest.raises(ValueError, match=message):
                read_file()
    packed = tmp_path / "chat.jsonl.gz"
    packed.write_bytes(gzip.compress(good * 1000)[:-20])
    with pytest.raises(ValueError, match="chat.jsonl.gz: damaged gzip"):
        list(chats.conversations(packed, Counter()))


def test_a_key_that_stands_twice(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": TWO}) + '\n{"data": ["a", "b"], "data": ["a", "c"]}\n')
    with pytest.raises(
        ValueError, match="chat.jsonl:2: not JSON .the key 'data' stands twice in one object"
    ):
        list(chats.conversations(path, Counter()))


def test_a_list_over_many_lines_names_the_line(tmp_path):
    path = tmp_path / "chat.json"
    path.write_text('\n[\n{"messages":\n\n[5,}\n]')
    with pytest.raises(ValueError, match="chat.json:5: not JSON"):
        list(chats.conversations(path, Counter()))
    path.write_text('[\n{"data": []},\n{"data": 5}]')
    with pytest.raises(
        ValueError, match="the first is .*chat.json: row 1: conversation with nothing in it"
    ):
        list(chats.conversations(path, Counter()))


def test_a_file_may_be_one_list_and_gzipped(tmp_path):
    rows = [
        {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]}
    ] * 3
    for indent in (None, 1):
        assert read(tmp_path, rows) == ([TWO] * 3, {})
        (tmp_path / "a.json.gz").write_bytes(
            gzip.compress(json.dumps(rows, indent=indent).encode())
        )
        assert [m for _, m, _ in chats.conversations(tmp_path / "a.json.gz", Counter())] == [
            TWO
        ] * 3
