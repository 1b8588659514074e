"""claims.py: how its experiments are run; what they find is in README."""

import json
import os

import pytest

import claims


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


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="magic: expected some of dreams, few_shot"):
        claims.main(["magic"])
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        claims.main(["dreams", "--run", str(tmp_path / "none")])
