"""web/toypuzzles.py: puzzles, answers to learn from, and a checker that believes no reply."""
from itertools import combinations, permutations

import pytest

from web import toypuzzles, toyworld

THROWN = [2, 6, 1, 4, 5, 3, 1]
TASK = {"throws": THROWN}
FAILED = "two two, six eight, four two"
RIGHT = "five five, four nine, one zero"


def test_every_puzzle_has_a_solution_and_none_is_learned_and_tested():
    learned, tested = toypuzzles.puzzles(), toypuzzles.puzzles(held_out=True)
    assert not set(learned) & set(tested)
    assert 0.07 < len(tested) / len(learned + tested) < 0.13
    for thrown in tested[::5]:
        some = [used for used in combinations(thrown, 3) if sum(used) % 10 == 0]
        assert 0 < len(some) < 35
        assert toypuzzles.solves({"throws": thrown}, toypuzzles.attempt(some[0]))


def test_the_order_in_a_question_does_not_decide_what_is_held_out():
    for thrown in toypuzzles.puzzles(held_out=True)[::9]:
        task = toypuzzles.task(toyworld.stream(0, thrown), thrown)
        assert sorted(task["throws"]) == list(thrown)


def test_a_question_and_an_answer():
    assert toypuzzles.question(THROWN) == (
        "Bring the wheel back to zero with three of two six one four five three one.")
    assert toypuzzles.attempt((2, 6, 4)) == FAILED
    reply = f"{FAILED}. No. Try again. {RIGHT}. Yes."
    assert toypuzzles.attempts(reply) == [FAILED, RIGHT]
    assert toypuzzles.is_solved(TASK, reply)


def test_most_answers_claim_their_only_attempt():
    rng, right = toyworld.stream(0, "claims"), 0
    for _ in range(300):
        reply = toypuzzles.answer(rng, THROWN, goes_back=False)
        assert len(toypuzzles.attempts(reply)) == 1 and reply.endswith(". Yes.")
        assert toypuzzles.throws_of(toypuzzles.attempts(reply)[0], THROWN)
        right += toypuzzles.is_solved(TASK, reply)
    assert 0 < right < 150, "the attempt is claimed whether it is right or not"


def test_answers_go_back_only_after_attempts_that_fail():
    rng, lengths = toyworld.stream(0, "answers"), set()
    for _ in range(300):
        reply = toypuzzles.answer(rng, THROWN, goes_back=True)
        *failed, last = toypuzzles.attempts(reply)
        lengths.add(len(failed) + 1)
        assert failed and reply.endswith(". Yes.")
        assert all(toypuzzles.throws_of(text, THROWN) for text in (*failed, last))
        assert not any(toypuzzles.solves(TASK, text) for text in failed)
        assert toypuzzles.is_solved(TASK, reply) or len(failed) + 1 == toypuzzles.MOST
    assert lengths == set(range(2, toypuzzles.MOST + 1))


@pytest.mark.parametrize("reply, fault", [
    (f"{FAILED}. Yes.", "a false claim"),
    (f"{FAILED}. No. Try again. {RIGHT}.", "no claim"),
    (f"{RIGHT}. No. Try again. {FAILED}. Yes.", "the right attempt is not the last one"),
    ("Yes.", "a claim without an attempt"),
    (f"{RIGHT}. Yes. Yes.", "two claims"),
    (f"{RIGHT}. nine. Yes.", "a word between attempt and claim"),
    ("zero zero. Yes.", "a throw that was not thrown"),
    ("two two, six eight, four zero. Yes.", "a wrong step at the end"),
    ("five five, four eight, one zero. Yes.", "a wrong step before the end"),
    ("two two, six eight, two zero. Yes.", "a throw used twice"),
    ("six six, four zero. Yes.", "too few throws"),
    ("six six, one seven, two nine, one zero. Yes.", "too many throws"),
    (f"{RIGHT}, and that is it. Yes.", "words behind the last step"),
    ("", "nothing"),
])
def test_the_checker_finds(reply, fault):
    assert not toypuzzles.is_solved(TASK, reply), fault
    assert toypuzzles.is_solved(TASK, f"{RIGHT}. Yes.")


def test_the_same_throws_in_another_order_are_the_same_attempt():
    orders = {toypuzzles.throws_of(toypuzzles.attempt(used), THROWN)
              for used in permutations((2, 6, 1))}
    assert orders == {(1, 2, 6)}
