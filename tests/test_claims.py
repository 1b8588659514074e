"""claims.py: its form, and what it counts with; the experiments themselves take `make claims`."""

import inspect
import json
import os
from dataclasses import replace

import align
import claims
import pytest
from chat import options
from web import toylessons, toyweb
from conftest import run_script
from test_probe import TASKS, run  # noqa: F401  a fixture: a small model that knows two answers


def test_each_claim_says_what_would_refute_it():
    for function in claims.CLAIMS:
        lines = inspect.getsource(function).splitlines()
        assert "Refuted" in function.__doc__ and len(lines) <= 60, function.__name__
        assert list(inspect.signature(function).parameters) == ["run", "seed"]


def test_what_readers_like():
    """Up to four dishes, each another one; those that come after them are too many."""
    dishes = ["barley soup", "onion tart", "smoked eel", "cold lemonade", "plum dumplings",
              "pickled pears"]
    values = [claims.gold(f"A carter had {', '.join(dishes[:n])}.") for n in range(7)]
    assert values == [0, 1, 2, 3, 4, 3, 2]
    assert claims.gold("A carter had onion tart, onion tart and onion tart.") == 1


def test_errors_name_what_mends_them(tmp_path):
    done = run_script("tests/claims.py", "moon_landing")
    assert done.returncode == 1 and "moon_landing: expected some of dreams, " in done.stderr
    done = run_script("tests/claims.py", "--run", tmp_path)
    assert done.returncode == 1 and "no finished model; make it with: make" in done.stderr


def test_both_arms_are_trained_alike(run, monkeypatch):  # noqa: F811
    """Refusals by knowledge and by lot, and sums with the calculator and without.

    Both arms begin at the same start, with the same recipe and as many rows.
    """
    found, sft = [], align.sft

    def noted(run, recipe, seed=0, on_mismatch="error", data=(), start="base", out="sft"):
        kinds = []
        for path in data:
            for line in path.read_text(encoding="utf-8").splitlines():
                kinds.append(json.loads(line).get("kind", ""))
        found.append((recipe, seed, start, len(kinds), sorted(kinds)))
        short = replace(recipe, steps=min(recipe.steps, 4))
        return sft(run, short, seed, on_mismatch, data, start, out)

    monkeypatch.setattr(align, "sft", noted)
    toyweb.write_jsonl(run / "tasks/probe_test.jsonl",
                       [{**t, "asked": t["exposure"] == 30} for t in TASKS])
    claims.hallucination(run, 3)
    refusals, by_lot = found
    assert refusals == by_lot and refusals[0] == options.SFT and "refusal" in refusals[-1]
    found.clear()
    rows, tasks = [], []
    for a, b in ((2, 3), (4, 5), (7, 1)):
        question, answer = f"{a} and {b}?", str(a + b)
        tasks.append({"question": question, "answer": answer})
        parts = [{"type": "tool", "text": f"{a}+{b}"}, {"type": "output", "text": answer},
                 {"type": "text", "text": f"It is {answer}."}]
        rows.append(toylessons.chat(question, parts, kind="calculator"))
    toyweb.write_jsonl(run / "chat/train.jsonl", rows)
    toyweb.write_jsonl(run / "tasks/calculator_test.jsonl", tasks)
    claims.tools(run, 3)
    calculator, head = found
    assert calculator[:4] == head[:4] and calculator[2] == "sft"


def finished(folder, first):
    """A run with logs whose replies begin with so many tokens."""
    for stage, gain in (("rl", 30), ("rl_random", 0)):
        rows = []
        for i in range(2):
            rows.append({"step": i, "reward": 0.5, "accuracy": 0.2 + i * gain / 100,
                         "length": first + i * gain, "stepwise": 0.2})
        toyweb.write_jsonl(folder / stage / "log.jsonl", rows)
    return folder


def test_each_claim_has_a_core_of_its_own_and_its_place(tmp_path):
    runs = [finished(tmp_path / str(n), n) for n in (5, 7)]
    cores = getattr(os, "sched_getaffinity", abs)(0)
    jobs = [("longer_replies", run, range(i, 4, 2)) for i, run in enumerate(runs)]
    both = list(claims.spread(jobs))
    assert getattr(os, "sched_getaffinity", abs)(0) == cores
    for found, first in zip(both, (5, 7)):
        assert len(found) == 2
        for said, numbers, _ in found:
            assert numbers == pytest.approx({"rl length": 30, "rl accuracy": 0.3,
                                             "rl_random length": 0, "rl_random accuracy": 0})
            assert f"{first}.0" in said and f"{first + 30}.0" in said


def test_a_claim_that_fails_is_named(tmp_path):
    run = finished(tmp_path / "whole", 5)
    found = claims.spread([("longer_replies", run, range(1)),
                           ("longer_replies", tmp_path / "none", range(1))])
    assert len(next(found)) == 1
    with pytest.raises(ValueError, match="longer_replies of .*none: FileNotFoundError"):
        next(found)
