"""chat/places.py: the stages of align.py on a GPU, or on the CPU that plays one.

They log the same losses and write the same tokens as on the cores.

tests/peers/test_kernels_peers.py has twenty steps of each, and of the other family.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_kernels import ON_GPU      # skips where neither a GPU nor g++ is there
from conftest import ROOT
from test_align import CHATS, PAIRS, TASKS, TOK

import align
import cupy_cpu
import gpt
from chat import options, places
from model import families, resume
from tokens.shards import write_shard

CFG = gpt.Config(TOK.n_vocab, 40, 16, 1, 2)
OF_THE_CLOCK = ("dt_s", "spent_s")
ON_A_GPU = "--device", "cuda", "--dtype", "float32"
STAGES = {
    "sft": "sft --steps 2 --batch 3 --replay 1",
    "sft with an adapter": "sft --steps 2 --batch 2 --replay 0 --lora-rank 2",
    "reward": "reward --start base --steps 1 --batch 2",
    "dpo": "dpo --start base --steps 2 --batch 1 --lr 0.003",
    "rl": "rl --start base --reward random --steps 1 --prompts 2 --group 2 --max-tokens 3 "
          "--batch 0 --leash 0.2",
}


def write_run(folder, cfg=CFG, seed=0):
    """A run folder with a tiny base model, and what the stages read."""
    gpt.save(folder / "base", families.of(cfg).init(cfg, seed), cfg)
    TOK.save(folder / "base" / "tokenizer.json")
    (folder / "tokens").mkdir()
    ids = TOK.encode_to_numpy("Turn the wheel: one two. It is a goat. " * 30)
    for split in ("train", "val"):
        write_shard(folder / "tokens" / f"{split}_000000.bin", ids, TOK)
    rows_of = {"chat/train": CHATS * 8, "pairs/train": PAIRS, "pairs/test": PAIRS[:2],
               "tasks/wheel_train": TASKS, "tasks/wheel_test": TASKS[:1]}
    for name, rows in rows_of.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def learn(folder, stage, out, *more):
    """Run a stage. -> its log without what the clock says"""
    words = stage.split()
    align.main([words[0], "--run", str(folder), "--out", out, *words[1:], *more])
    return log_of(folder / out)


def log_of(folder):
    """The log of a stage without what the clock says."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    entries = map(json.loads, lines)
    return [{k: v for k, v in e.items() if k not in OF_THE_CLOCK} for e in entries]


def check_same(ours, theirs, tolerance=1e-4):
    """Two logs with the same numbers, whole ones to the last digit."""
    assert len(ours) == len(theirs)
    for entry, want in zip(theirs, ours):
        assert entry.keys() == want.keys()
        for name, value in want.items():
            if isinstance(value, float):
                assert entry[name] == pytest.approx(value, rel=tolerance, abs=tolerance / 10), name
            else:
                assert entry[name] == value, name


@pytest.fixture
def written(monkeypatch):
    """The tokens of all replies that stages of reinforcement learning draw."""
    found, roll_out = [], align.roll_out

    def roll_out_and_keep(*args):
        rollout = roll_out(*args)
        found.append([reply.ids for reply in rollout.replies])
        return rollout

    monkeypatch.setattr(align, "roll_out", roll_out_and_keep)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_on_a_gpu_learns_what_the_cores_learn(stage, tmp_path, written):
    write_run(tmp_path)
    ours = learn(tmp_path, STAGES[stage], "cpu")
    check_same(ours, learn(tmp_path, STAGES[stage], "gpu", *ON_A_GPU))
    n = len(written) // 2
    assert written[:n] == written[n:] and (n > 0) == (stage == "rl")
    want, got = (gpt.load(tmp_path / out)[0] for out in ("cpu", "gpu"))
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=2e-5, err_msg=name)
    with pytest.raises(ValueError, match="device"):         # the checkpoint is another machine's
        learn(tmp_path, STAGES[stage].replace("--steps ", "--steps 1"), "gpu")


def test_a_stage_that_is_killed_on_a_gpu_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    write_run(tmp_path)
    recipe = dataclasses.replace(options.SFT, save_every=2)
    monkeypatch.setitem(options.RECIPES, "sft", recipe)
    words = "sft --steps 3 --batch 2 --replay 0"
    whole = learn(tmp_path, words, "whole", *ON_A_GPU)
    save = resume.Stage.save_checkpoint

    def save_and_die(*args):
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(resume.Stage, "save_checkpoint", save_and_die)
        learn(tmp_path, words, "killed", *ON_A_GPU)
    assert learn(tmp_path, words, "killed", *ON_A_GPU) == whole
    want, got = (gpt.load(tmp_path / out)[0] for out in ("whole", "killed"))
    assert all(np.array_equal(got[name], want[name]) for name in want)


def test_a_place_on_the_cores_is_the_weights_themselves():
    params = gpt.init(CFG, 0)
    place = places.of(options.SFT)
    assert place.put(params, CFG) is params and place.name is None and place.judge(None) is None


@pytest.mark.skipif(ON_GPU, reason="the name is that of the stand-in")
def test_a_place_has_a_name():
    assert places.Place("cuda", "float32").name == "a CPU that plays GPU, float32"
    assert places.Place("cuda").name == "a CPU that plays GPU, bf16"


@pytest.mark.skipif(ON_GPU, reason="the stand-in of NCCL works on CPUs")
@pytest.mark.parametrize("stage", ["sft with an adapter", "reward", "rl"])
def test_two_gpus_learn_what_one_learns(stage, tmp_path):
    """Each rank computes some rows, if it has any, and updates a part of what learns."""
    write_run(tmp_path)
    want = learn(tmp_path, STAGES[stage], "one", *ON_A_GPU)
    words = STAGES[stage].split()
    words = [words[0], "--run", tmp_path, "--out", "two", *words[1:], *ON_A_GPU, "--ranks", 2]
    variables = {"LONGHAND_CARDS": "2", "LONGHAND_CUDA_BUILD": str(cupy_cpu.BUILD)}
    done = subprocess.run(
        [sys.executable, "tests/cuda/align_on_cards.py", *map(str, words)], cwd=ROOT,
        env={**os.environ, **variables}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    got = log_of(tmp_path / "two")
    assert all(entry.pop("sent_bytes") > 0 for entry in got)
    check_same(want, got)
    want, got = (gpt.load(tmp_path / out)[0] for out in ("one", "two"))
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=2e-5, err_msg=name)
