"""chat/lessons.py: files as ids, and the order of examples."""

import numpy as np

from chat import lessons


def test_every_conversation_comes_once_an_epoch():
    chats = [([i] * (2 + i % 5), [1] * (2 + i % 5)) for i in range(40)]
    batches = lessons.Batches(chats, 8, seed=1)
    seen = [ids[0] for step in range(5) for ids, _ in batches.at(step)]
    assert sorted(seen) == list(range(40))
    again = lessons.Batches(chats, 8, seed=1)
    again.at(7)
    assert again.at(3) == batches.at(3) and batches.at(3) != batches.at(8)
    assert len(lessons.Batches(chats[:3], 8, seed=1).at(0)) == 3


def test_all_replies_side_by_side():
    compared = [lessons.Compared([([1, 2], [0, 1]), ([1], [1])], np.array([2.0, 1.0])),
                lessons.Compared([([3], [1])], np.array([0.0]))]
    rows, scores, prompts = lessons.side_by_side(compared)
    assert (rows, scores.tolist(), prompts.tolist()) == (
        [[1, 2], [1], [3]],
        [2.0, 1.0, 0.0],
        [0, 0, 1],
    )
