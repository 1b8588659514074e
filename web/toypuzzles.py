"""Puzzles in which it pays to try, to check and to go back: which throws bring the wheel to zero?

    Bring the wheel back to zero with three of two six one four five three one.

        two two, six eight, four two. No. Try again. five five, four nine, one zero. Yes.

Each step of an attempt is a throw and where the wheel then stands, as in toyworld.wheel_answer. No
throw is used twice. Where an attempt ends is not known before its steps are done. The checker does
them itself and believes nothing that a reply says of them.
"""
from itertools import accumulate, combinations, combinations_with_replacement

from web.toywords import NUMBERS
from web.toyworld import is_held_out

GIVEN, USED = 7, 3              # throws of the die; how many of them bring the wheel back
MOST = 8                        # attempts in an answer to learn from
GO_BACK = "No. Try again."
CLAIM = "Yes."


def puzzles(held_out=False):
    """[throws in order]: all puzzles that are, or are not, kept for testing.

    Each has a solution, and attempts that fail. A hash of the sorted throws picks one in ten. So no
    other order of a puzzle that is kept for testing is learned from.
    """
    found = []
    for thrown in combinations_with_replacement(range(1, 7), GIVEN):
        reached = {sum(used) % 10 for used in combinations(thrown, USED)}
        if 0 in reached and len(reached) > 1 and is_held_out("puzzle", *thrown) == held_out:
            found.append(thrown)
    return found


def question(thrown):
    """Throws 2 6 1 4 -> "Bring the wheel back to zero with three of two six one four."."""
    words = " ".join(NUMBERS[n] for n in thrown)
    return f"Bring the wheel back to zero with {NUMBERS[USED]} of {words}."


def task(rng, thrown):
    """A puzzle as a task, its throws in a random order."""
    thrown = rng.sample(thrown, len(thrown))
    return {
        "question": question(thrown),
        "answer": NUMBERS[0],
        "kind": "puzzle",
        "throws": thrown,
    }


# ------------------------------------------------------------------------------------------ answers

def attempt(used):
    """Throws 2 6 1 -> "two two, six eight, one nine"."""
    stands = [NUMBERS[total % 10] for total in accumulate(used)]
    return ", ".join(f"{NUMBERS[n]} {stand}" for n, stand in zip(used, stands))


def answer(rng, thrown, goes_back):
    """An answer to learn from: one attempt, claimed whether right or not.

    goes_back: the first attempt fails, and so others follow until one is right, MOST at most.
    """
    said = []
    while True:
        used = rng.sample(thrown, USED)
        right = sum(used) % 10 == 0
        if right and goes_back and not said:
            continue
        if right or not goes_back or len(said) == MOST - 1:
            said.append(f"{attempt(used)}. {CLAIM}")
            return " ".join(said)
        said.append(f"{attempt(used)}. {GO_BACK}")


# ------------------------------------------------------------------------------------------ checker

def attempts(reply):
    """The attempts in a reply: "two two. No. Try again. one one. Yes." -> ["two two", "one one"]"""
    parts = reply.strip().removesuffix(CLAIM).split(GO_BACK)
    return [part.strip().removesuffix(".") for part in parts]


def throws_of(text, thrown):
    """The throws of an attempt, sorted; None if it breaks a rule.

    The rules: three throws are used, none more often than it was thrown, and every step says
    rightly where the wheel stands.
    """
    left, used, at = list(thrown), [], 0
    for step in text.split(", "):
        words = step.split(" ")
        if len(words) != 2 or not set(words) <= set(NUMBERS):
            return None
        n, stands = (NUMBERS.index(word) for word in words)
        at = (at + n) % 10
        if n not in left or stands != at:
            return None
        left.remove(n)
        used.append(n)
    return tuple(sorted(used)) if len(used) == USED else None


def solves(task, text):
    """Whether an attempt breaks no rule and brings the wheel back to zero."""
    used = throws_of(text, task["throws"])
    return used is not None and sum(used) % 10 == 0


def is_solved(task, reply):
    """Whether a reply ends with a claim, and the attempt before it solves the puzzle."""
    return reply.endswith(f". {CLAIM}") and solves(task, attempts(reply)[-1])
