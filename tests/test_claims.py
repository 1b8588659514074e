"""claims.py: its form, and what it counts with; the experiments themselves take `make claims`."""

import inspect
import json
import os

import claims
import pytest
from conftest import run_script


def test_each_claim_says_what_would_refute_it():
    for function in claims.CLAIMS:
        lines = inspect.getsource(function).splitlines()
        assert "Refuted" in function.__doc__ and len(lines) <= 60, function.__name__
        assert list(inspect.signature(function).parameters) == ["run", "seed"]


def test_what_readers_like():
    """Up to four dishes, each another one; those that come after them are too many."""
    dishes = "barley soup", "onion tart", "smoked eel", "cold lemonade", "plum dumplings", "pickled pears"
    assert [claims.gold(f"A carter had {', '.join(dishes[:n])}.") for n in range(7)] == [0, 1, 2, 3, 4, 3, 2]
    assert claims.gold("A carter had onion tart, onion tart and onion tart.") == 1


def test_errors_name_what_mends_them(tmp_path):
    done = run_script("tests/claims.py", "moon_landing")
    assert done.returncode == 1 and "moon_landing: expected some of dreams, " in done.stderr
    done = run_script("tests/claims.py", "--run", tmp_path)
    assert done.returncode == 1 and "no finished model; make it with: make" in done.stderr


def finished(folder, first):
    for stage, gain in (("rl", 30), ("rl_random", 0)):
        (folder / stage).mkdir(parents=True)
        rows = [{"step": i, "reward": 0.5, "accuracy": 0.2 + i * gain / 100, "length": first + i * gain, "stepwise": 0.2} for i in range(2)]
        (folder / stage / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_each_claim_has_a_core_of_its_own_and_its_place(tmp_path):
    runs = [finished(tmp_path / str(n), n) for n in (5, 7)]
    cores = getattr(os, "sched_getaffinity", abs)(0)
    both = list(claims.spread([("longer_replies", run, range(i, 4, 2)) for i, run in enumerate(runs)]))
    assert getattr(os, "sched_getaffinity", abs)(0) == cores
    for found, first in zip(both, (5, 7)):
        assert len(found) == 2
        for said, numbers, _ in found:
            assert numbers == pytest.approx({"rl length": 30, "rl accuracy": 0.3, "rl_random length": 0, "rl_random accuracy": 0})
            assert f"{first}.0" in said and f"{first + 30}.0" in said


def test_a_claim_that_fails_is_named(tmp_path):
    run = finished(tmp_path / "whole", 5)
    found = claims.spread([("longer_replies", run, range(1)), ("longer_replies", tmp_path / "none", range(1))])
    assert len(next(found)) == 1
    with pytest.raises(ValueError, match="longer_replies of .*none: FileNotFoundError"):
        next(found)
