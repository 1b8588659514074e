"""chat/rollouts.py: what is logged of a step's replies, and which rewards are refused."""

import json

import numpy as np
import pytest

import sample
from chat import options, rollouts
from test_align import CFG, END, REPLIES, TOK, rollout_of

MODEL = (None, CFG, TOK)


def test_what_is_logged():
    """Of four replies in two groups one is right; two are cut off; one has a tool's token in it."""
    replies = [*REPLIES[:3], sample.Reply([5, 6, END], [1, 0, 1], "stop", [-1.0, 0.0, -3.0], [1])]
    replies[0] = replies[0]._replace(logp=[-2.0])
    rollout = rollout_of(replies)
    info = rollouts.describe(
        rollout, np.array([1.0, 0.0, 0.5, 0.5]), np.array([0.5, -0.5, 0.0, 0.0]), 2
    )
    assert info["reward"] == 0.5 and info["accuracy"] == 0.25 and info["cut"] == 0.25
    assert (
        info["length"] == 1.25
        and info["length_right"] == 1.0
        and info["length_wrong"] == pytest.approx(4 / 3)
    )
    assert (
        info["calls"] == 0.25 and info["groups_without_signal"] == 0.5 and info["pass_at_4"] == 0.5
    )
    assert info["entropy"] == pytest.approx((2 + 0 + 0 + 1 + 3) / 5)


def test_a_warning_is_given_once(capsys):
    given = set()
    for _ in range(2):
        rollouts.warn({"cut": 0.5, "groups_without_signal": 1.0}, options.RL, 48, given)
    said = capsys.readouterr().err
    assert said.count("50% of the replies do not end within 64 tokens or the context of 48") == 1
    assert (
        said.count("no group has replies of different rewards: there is nothing to learn from") == 1
    )


@pytest.mark.parametrize(
    "reward, message",
    [(lambda rollout: [1.0], "expected a finite number for each"),
     (lambda rollout: [np.nan] * 4, "expected a finite number for each"),
     (lambda rollout: [[1], [2, 3]], "the reward mine raised ValueError"),
     (lambda rollout: rollout.texts["x"], "the reward mine raised TypeError")],
)
def test_rewards_that_make_no_sense(reward, message):
    with pytest.raises(ValueError, match=message):
        rollouts.checked(reward, "mine", rollout_of(REPLIES))


def write(path, questions):
    rows = [{"question": question, "answer": "one"} for question in questions]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_ones_own_is_split(tmp_path):
    """Every tenth question is kept to measure on; those that do not fit are in neither part."""
    path = write(tmp_path / "mine.jsonl", [f"{i}?" for i in range(21)] + ["what " * 60])
    file, learned, unseen = rollouts.split_tasks(tmp_path, path, None, MODEL)
    asked = [[task["question"] for task in tasks] for tasks in (learned, unseen)]
    assert file == path and asked[1] == ["0?", "10?", "20?"] and len(asked[0]) == 18
    other = write(tmp_path / "other.jsonl", ["x?"])
    assert len(rollouts.split_tasks(tmp_path, path, other, MODEL)[1]) == 21
    few = write(tmp_path / "few.jsonl", ["x?"])
    assert [len(tasks) for tasks in rollouts.split_tasks(tmp_path, few, None, MODEL)[1:]] == [1, 1]
