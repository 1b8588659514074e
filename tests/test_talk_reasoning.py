"""talk/reasoning.py and talk/thinking_time.py: lessons, rewards, budgets and repeated tries."""
from types import SimpleNamespace

import numpy as np
import pytest

from talk import reasoning, thinking_time
from web import toypuzzles

THROWN = [2, 6, 1, 4, 5, 3, 1]
TASK = {"throws": THROWN}
FAILED = "two two, six eight, four two"
RIGHT = "five five, four nine, one zero"
BACK = "No. Try again."
REPLIES = [
    f"{FAILED}. Yes.",
    f"{FAILED}. {BACK} {RIGHT}. Yes.",
    f"{RIGHT}. Yes.",
    "Yes.",
]


def test_few_lessons_go_back_and_no_lesson_is_tested(monkeypatch):
    monkeypatch.setattr(reasoning, "LESSONS", 1000)
    rows = reasoning.lessons(0)
    asked, replies = zip(*([m["content"] for m in row["messages"]] for row in rows))
    back = np.mean([len(toypuzzles.attempts(reply)) > 1 for reply in replies])
    assert 0.04 < back < 0.1
    assert not {task["question"] for task in reasoning.tasks_of(0, True)} & {*asked}
    tested = {tuple(sorted(task["throws"])) for task in reasoning.tasks_of(0, True)}
    learned = {tuple(sorted(task["throws"])) for task in reasoning.tasks_of(0, False)}
    assert not tested & learned


def rollout(ended=(True,) * 4):
    """The replies of a step, to the same puzzle."""
    return SimpleNamespace(tasks=[TASK] * 4, texts=REPLIES, ended=np.array(ended),
                           lengths=np.array([10, 30, 10, 2]), rng=np.random.default_rng(0))


def test_the_reward_pays_for_a_right_end_alone():
    notes = []
    assert reasoning.reward_of("the end", notes)(rollout()).tolist() == [0, 1, 1, 0]
    assert notes == [{"right": 0.5, "back": 0.25, "tries": 1.25, "tokens": 13.0}]
    cut = reasoning.reward_of("the end", notes)(rollout((True, False, True, True)))
    assert cut.tolist() == [0, 0, 1, 0]


def test_the_coin_does_not_look_at_replies():
    notes = []
    reward = reasoning.reward_of("a coin", notes)
    step = rollout()
    drawn = np.mean([reward(step) for _ in range(200)], axis=0)
    assert (abs(drawn - 0.5) < 0.15).all()
    assert notes[0]["right"] == 0.5


def test_a_rise_and_the_part_of_it_in_ten_steps():
    even = np.repeat(np.arange(11.0), 10)
    assert reasoning.rise(even) == pytest.approx((10, 0.1))
    jump = np.repeat([0.0, 0, 0, 10, 10, 10], 10)
    assert reasoning.rise(jump) == (10, 1)
    assert reasoning.rise(np.zeros(30)) == (0, 0)


def test_the_last_attempt_of_a_reply_that_is_cut():
    text = f"{FAILED}. {BACK} {RIGHT}. {BACK} two two, six"
    assert thinking_time.last_attempt(text, THROWN) == RIGHT
    assert thinking_time.last_attempt("two two, six", THROWN) == ""


def test_budgets(monkeypatch):
    words = REPLIES[1].split(" ")                       # a word a token
    tokenizer = SimpleNamespace(decode=lambda ids: " ".join(words[i] for i in ids))
    monkeypatch.setattr(thinking_time.sample, "reply_text", lambda ids, t: t.decode(ids))
    monkeypatch.setattr(thinking_time, "BUDGETS", (3, 6, 14, 15, 16, 20))
    replies = [SimpleNamespace(ids=list(range(len(words))))]
    ended, forced = thinking_time.cut(replies, np.array([True]), [TASK], tokenizer)
    assert len(words) == 16
    assert ended == [0, 0, 0, 0, 1, 1]
    assert forced == [0, 0, 0, 1, 1, 1]


def test_repeated_tries():
    again = f"{FAILED}. {BACK} six six, two eight, four two. Yes."
    own, other = thinking_time.repeats([again, REPLIES[1]], [TASK] * 2, 2)
    assert own == 0.5, "one of two later tries has the throws of an earlier one"
    assert other == 0.5
    assert thinking_time.repeats(["Yes."] * 2, [TASK] * 2, 2) == (0, 0)
    faulty = "one one. No. Try again. one one. Yes."
    assert thinking_time.repeats([faulty, faulty], [TASK] * 2, 2) == (0, 0)


def test_habits():
    wrong = "two two, six nine, one zero"
    texts = [*REPLIES[:3], f"{RIGHT}. No. Try again. {wrong}. Yes."]
    found = thinking_time.habits(texts, [TASK] * 4)
    assert found["break no rule"] == pytest.approx(5 / 6)
    assert found["wrong, claimed"] == pytest.approx(2 / 3)
    assert found["right, given up"] == pytest.approx(1 / 3)


def test_the_chance_that_one_of_k_is_right():
    right = np.zeros((2, 64), bool)
    right[0, :16] = True
    found = thinking_time.pass_at(right, "before")
    assert found["before: pass@1"] == pytest.approx(0.125)
    assert found["before: pass@64"] == 0.5
    none = 48 * 47 * 46 * 45 / (64 * 63 * 62 * 61)      # of four without replacement
    assert found["before: pass@4"] == pytest.approx((1 - none) / 2)
