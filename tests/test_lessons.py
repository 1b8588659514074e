"""chat/lessons.py: files as ids, questions kept to measure on, and the order of examples."""

import json

import numpy as np

from chat import lessons
from test_align import TOK


def test_every_conversation_comes_once_an_epoch():
    chats = [([i] * (2 + i % 5), [1] * (2 + i % 5)) for i in range(40)]
    batches = lessons.Batches(chats, 8, seed=1)
    seen = [ids[0] for step in range(5) for ids, _ in batches.at(step)]
    assert sorted(seen) == list(range(40))
    again = lessons.Batches(chats, 8, seed=1)
    again.at(7)
    assert again.at(3) == batches.at(3) and batches.at(3) != batches.at(8)
    assert len(lessons.Batches(chats[:3], 8, seed=1).at(0)) == 3


def write(path, questions):
    rows = [{"question": question, "answer": "one"} for question in questions]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_ones_own_is_split(tmp_path):
    """Every tenth question is kept to measure on; those that fill the context are in neither part.
    """
    path = write(tmp_path / "mine.jsonl", [f"{i}?" for i in range(21)] + ["what " * 60])
    files, learned, unseen = lessons.split_tasks(tmp_path, path, None, TOK, 48)
    asked = [[task["question"] for task in tasks] for tasks in (learned, unseen)]
    assert files == [path] and asked[1] == ["0?", "10?", "20?"] and len(asked[0]) == 18
    other = write(tmp_path / "other.jsonl", ["x?"])
    assert len(lessons.split_tasks(tmp_path, path, other, TOK, 48)[1]) == 21
    few = write(tmp_path / "few.jsonl", ["x?"])
    assert [len(tasks) for tasks in lessons.split_tasks(tmp_path, few, None, TOK, 48)[1:]] == [1, 1]


def test_all_replies_side_by_side():
    compared = [
        lessons.Compared([([1, 2], [0, 1]), ([1], [1])], np.array([2.0, 1.0])),
        lessons.Compared([([3], [1])], np.array([0.0])),
    ]
    rows, scores, prompts = lessons.side_by_side(compared)
    assert (rows, scores.tolist(), prompts.tolist()) == (
        [[1, 2], [1], [3]],
        [2.0, 1.0, 0.0],
        [0, 0, 1],
    )
