"""align.py on ranks: the stages learn the same, whoever computes which rows."""

import json
import random
import shutil

import numpy as np
import pytest
from conftest import kill_and_rerun, run_script
from test_align import run  # noqa: F401  a fixture
from test_resume import assert_same_files

OF_THE_CLOCK = ("dt_s", "spent_s", "sent_bytes")
STAGES = {
    "sft": "sft --steps 3 --batch 5 --replay 1",
    "sft with an adapter": "sft --steps 3 --batch 4 --replay 0 --lora-rank 4",
    "reward": "reward --start base --steps 3 --batch 2",
    "dpo": "dpo --start base --steps 3 --batch 3",
    "rl": "rl --start base --reward random --steps 3 --prompts 2 --group 3 --max-tokens 6 "
          "--batch 3 --replay 1",
    "rl with a leash": "rl --start base --reward random --steps 3 --prompts 3 --group 2 "
                       "--max-tokens 6 --batch 0 --leash 0.1",
}


def learn(folder, stage, n, *more):
    """Run a stage on n ranks. -> (its log without what the clock says, what it printed)"""
    words = STAGES[stage].split()
    done = run_script("align.py", words[0], "--run", folder, "--out", f"out{n}", *words[1:],
                      "--ranks", str(n), *more)
    assert done.returncode == 0, done.stderr
    entries = []
    for line in (folder / f"out{n}/log.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        assert ("sent_bytes" in entry) == (n > 1)
        entries.append({k: v for k, v in entry.items() if k not in OF_THE_CLOCK})
    return entries, done.stdout


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_learns_the_same_on_any_number_of_ranks(run, stage):  # noqa: F811
    """With fewer rows than ranks too, as the reward model's two groups on three ranks."""
    expected, said = learn(run, stage, 1)
    for n in (2, 3):
        entries, said_now = learn(run, stage, n)
        assert len(entries) == len(expected) == 3
        for entry, wanted in zip(entries, expected):
            assert entry.keys() == wanted.keys()
            for name, value in wanted.items():
                if isinstance(value, float):
                    np.testing.assert_allclose(entry[name], value, rtol=2e-4, atol=2e-6,
                                               err_msg=f"{n} {name}")
                else:
                    assert entry[name] == value, f"{n} {name}"
        assert said_now.count("\n") == said.count("\n")


def test_a_stage_that_is_killed_goes_on_with_the_same_bits(run):  # noqa: F811
    words = "sft --steps 120 --batch 4 --replay 1 --ranks 2".split()
    for name in ("calm", "killed"):
        shutil.copytree(run, run.parent / f"{run.name}-{name}")
    calm, killed = (run.parent / f"{run.name}-{name}" for name in ("calm", "killed"))
    assert run_script("align.py", *words, "--run", calm).returncode == 0
    kill_and_rerun("align.py", [*words, "--run", killed], random.Random(3), slowest=6)
    assert_same_files(calm / "sft", killed / "sft", ("model.safetensors", "trainer.safetensors"))


def test_eval_has_no_ranks(run):  # noqa: F811
    done = run_script("align.py", "eval", "--run", run, "--ranks", "2")
    assert done.returncode == 2 and "unrecognized arguments: --ranks 2" in done.stderr
