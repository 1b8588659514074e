"""model/resume.py: runs that are killed, moved, begun with other settings, or damaged."""

import json
import math
import random
from dataclasses import replace

import bpe
import gpt
import numpy as np
import pytest
import train
from conftest import kill_and_rerun, run_script
from model import adamw, checkpoint, cores, resume
from run import runs
from test_train import FEW, SMALL, TEXT, text  # noqa: F401  a fixture

FILES = ("model.safetensors", "trainer.safetensors", "config.json", "tokenizer.json")
OF_THE_CLOCK = ("dt_s", "tokens_per_s", "spent_s")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """In this process the preset of the tests has one narrow block: nothing needs to be learned."""
    recipe = train.PRESETS["shakespeare"]
    narrow = replace(recipe.model, n_layer=1, n_embd=32)
    monkeypatch.setitem(train.PRESETS, "shakespeare", replace(recipe, model=narrow))


def log_of(folder):
    """The entries of a log, without what the clock says."""
    entries = []
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        entries.append({k: v for k, v in entry.items() if k not in OF_THE_CLOCK})
    return entries


def assert_same_files(one, other, names=FILES):
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def die_before(step, monkeypatch, error=ZeroDivisionError):
    """Let training end with the error in the step of that number, counted from 0."""
    update = train.update

    def dies(optimizer, grads, loss, now, *others):
        if now == step:
            raise error
        return update(optimizer, grads, loss, now, *others)

    monkeypatch.setattr(train, "update", dies)
    return lambda: monkeypatch.setattr(train, "update", update)


# ---------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("ratio", [0.0, 5.0])
def test_a_run_goes_on_with_the_bits_it_would_have_had(tmp_path, monkeypatch, ratio):
    """Interrupted in step 5, with a checkpoint after step 3; with AdamW and with Muon."""
    monkeypatch.setattr(cores, "N_THREADS", 1)
    recipe = train.Recipe(gpt.Config(30, 8, 16, 2, 2), steps=8, batch=3, lr=1e-2, min_lr=1e-3,
                          warmup=2, save_every=3, eval_every=4, muon=ratio)
    shards = [np.random.default_rng(seed).integers(0, 30, 400) for seed in (0, 1)]
    revive = die_before(4, monkeypatch, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        train.train(recipe, None, shards[:1], shards[1:], tmp_path / "interrupted")
    revive()
    for name in ("interrupted", "calm"):
        train.train(recipe, None, shards[:1], shards[1:], tmp_path / name)
    interrupted, calm = log_of(tmp_path / "interrupted"), log_of(tmp_path / "calm")
    assert interrupted == calm and [entry["step"] for entry in calm] == list(range(1, 9))
    assert_same_files(tmp_path / "interrupted", tmp_path / "calm", FILES[:2])


def test_killed_at_any_moment_ends_with_the_same_bits(tmp_path, text):  # noqa: F811
    args = ["--data", text, *SMALL, "--steps", "60"]
    assert run_script("train.py", *args, "--run", tmp_path / "calm").returncode == 0
    kill_and_rerun("train.py", [*args, "--run", tmp_path / "killed"], random.Random(0))
    assert_same_files(tmp_path / "calm/base", tmp_path / "killed/base")
    calm, killed = log_of(tmp_path / "calm/base"), log_of(tmp_path / "killed/base")
    assert calm == killed and len(calm) == 60
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_kill_does_not_forget_how_many_steps_were_skipped(tmp_path, monkeypatch):
    """Every step is skipped. Killed after the sixth, the run still gives up after the tenth."""
    monkeypatch.setattr(cores, "N_THREADS", 1)
    recipe = train.Recipe(gpt.Config(30, 8, 16, 1, 2), steps=40, batch=2, lr=1e-2, min_lr=1e-3,
                          warmup=2, save_every=3, eval_every=100)
    shards = [np.random.default_rng(seed).integers(0, 30, 400) for seed in (0, 1)]
    monkeypatch.setattr(train, "grad_norm", lambda grads, here: math.nan)
    revive = die_before(6, monkeypatch)
    with pytest.raises(ZeroDivisionError):
        train.train(recipe, None, shards[:1], shards[1:], tmp_path)
    revive()
    with pytest.raises(ValueError, match="step 10: 10 steps in a row were skipped"):
        train.train(recipe, None, shards[:1], shards[1:], tmp_path)


def test_a_run_that_moves_to_another_machine_keeps_its_threads(
        tmp_path, text, monkeypatch, capsys):  # noqa: F811
    run = ["--data", str(text), *FEW]
    for place in ("calm", "moved"):
        monkeypatch.setattr(cores, "N_THREADS", 3)
        if place == "moved":
            revive = die_before(3, monkeypatch)
            with pytest.raises(ZeroDivisionError):
                train.main([*run, "--run", str(tmp_path / place)])
            revive()
            monkeypatch.setattr(cores, "N_THREADS", 1)      # the other machine
        train.main([*run, "--run", str(tmp_path / place)])
    assert "going on with 3 threads, as this run began" in capsys.readouterr().err
    assert_same_files(tmp_path / "calm/base", tmp_path / "moved/base")


def test_a_resumed_run_counts_the_time_of_the_killed_one(tmp_path, text, monkeypatch):  # noqa: F811
    run = ["--data", str(text), "--run", str(tmp_path / "r"), *SMALL, "--save-every", "10"]
    revive = die_before(15, monkeypatch)
    with pytest.raises(ZeroDivisionError):
        train.main(run)
    revive()
    path = tmp_path / "r/base/log.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[9]["spent_s"] = 5000.0                # as if the first ten steps had taken so long
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    train.main(run)
    spent = [json.loads(line)["spent_s"] for line in path.read_text().splitlines()]
    assert len(spent) == 30 and min(spent[9:]) >= 5000.0 and spent[9:] == sorted(spent[9:])


# ------------------------------------------------------------------- other settings, other models


def test_resuming_with_other_settings_is_an_error(tmp_path, text):  # noqa: F811
    run = ["--data", str(text), "--run", str(tmp_path / "r")]
    path = tmp_path / "r/base/model.safetensors"
    train.main([*run, *FEW])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="cannot resume, .*lr: checkpoint .*, now 0.5"):
        train.main([*run, *FEW, "--lr", "0.5"])
    with pytest.raises(ValueError, match="cannot resume, seed: checkpoint 0, now 1"):
        train.main([*run, *FEW, "--seed", "1"])
    assert path.read_bytes() == before
    train.main([*run, *FEW])                    # the same again: nothing to do, nothing changes
    assert path.read_bytes() == before
    train.main([*run, *FEW, "--save-every", "5", "--eval-every", "4"])      # does not matter
    assert path.read_bytes() == before
    train.main([*run, *FEW, "--seed", "1", "--on-mismatch", "restart"])
    assert path.read_bytes() != before


def test_resuming_with_another_schedule_is_an_error(tmp_path, text, monkeypatch):  # noqa: F811
    run = ["--data", str(text), "--run", str(tmp_path / "r"), *FEW, "--steps", "120"]
    cosine = train.learning_rate
    revive = die_before(4, monkeypatch)
    with pytest.raises(ZeroDivisionError):
        train.main(run)
    revive()

    def linear(step, recipe):
        if step < recipe.warmup:
            return cosine(step, recipe)
        progress = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
        return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1.0 - progress)

    monkeypatch.setattr(train, "learning_rate", linear)
    with pytest.raises(ValueError, match="cannot resume, schedule: checkpoint '.*', now '"):
        train.main(run)


def test_a_model_of_someone_else_is_not_overwritten(tmp_path, text, monkeypatch):  # noqa: F811
    theirs, cfg = tmp_path / "r/base", gpt.Config(9, 8, 16, 1, 2)
    gpt.save(theirs, gpt.init(cfg, 5), cfg)
    before = (theirs / "model.safetensors").read_bytes()
    run = ["--data", str(text), "--run", str(tmp_path / "r"), *FEW]
    with pytest.raises(ValueError, match="a model that this run did not make is already there"):
        train.main(run)
    again = [*run, "--on-mismatch", "restart"]
    revive = die_before(4, monkeypatch)
    with pytest.raises(ZeroDivisionError):
        train.main(again)
    revive()
    assert (theirs / "model.safetensors").read_bytes() == before    # until ours is whole
    assert gpt.load(theirs)[1].vocab_size == 9
    assert (theirs / resume.NEW / resume.CHECKPOINT).exists()
    revive = die_before(3, monkeypatch)         # not reached: ours goes on after step 4
    train.main(again)
    revive()
    assert gpt.load(theirs)[1].vocab_size == len(set(TEXT))
    assert not (theirs / resume.NEW).exists()
    train.main(["--data", str(text), "--run", str(tmp_path / "calm"), *FEW])
    assert_same_files(theirs, tmp_path / "calm/base")


def test_two_processes_do_not_train_in_one_folder(tmp_path, text):  # noqa: F811
    with runs.locked(tmp_path / "r/base", "training"):
        done = run_script("train.py", "--data", text, "--run", tmp_path / "r", *FEW)
    assert done.returncode == 1 and "another training is writing there" in done.stderr
    assert not (tmp_path / "r/base/config.json").exists()


def test_a_checkpoint_of_another_vocabulary_is_refused(tmp_path, text):  # noqa: F811
    run = ["--data", str(text), "--run", str(tmp_path / "r"), *FEW]
    train.main(run)
    text.write_text(TEXT + "\u00e9" * 50, encoding="utf-8")     # one more row in the embedding
    with pytest.raises(ValueError, match=r"cannot resume, .*vocab_size: checkpoint \d+, now \d+"):
        train.main(run)


# ---------------------------------------------------------------------------------- damaged files


def with_about(**changes):
    """A function that changes the metadata of a checkpoint."""
    return lambda arrays, about: (arrays, {**about, **changes})


def without_metadata(arrays, about):
    return arrays, {}


def with_another_shape(arrays, about):
    return {**arrays, "wpe.weight": np.ones(1, np.float32)}, about


def with_nan(arrays, about):
    return {**arrays, "wpe.weight": np.full_like(arrays["wpe.weight"], np.nan)}, about


def without_moments(arrays, about):
    return {k: a for k, a in arrays.items() if k != "adamw.m.wpe.weight"}, about


@pytest.mark.parametrize("spoil, message", [
    (with_about(step="two"), "it is damaged"),
    (with_about(step="999"), "step 999 with 6 updates and 0 skipped: impossible"),
    (with_about(**{"adamw.t": "7"}), "step 6 with 7 updates and 0 skipped: impossible"),
    (with_about(**{"adamw.skipped": "3"}), "step 6 with 6 updates and 3 skipped: impossible"),
    (with_about(identity="[1]"), "it is damaged"),
    (without_metadata, "it is damaged"),
    (with_another_shape, r"wpe.weight: checkpoint \(1,\), now \(64, 32\)"),
    (with_nan, "wpe.weight: holds numbers that are not finite"),
    (without_moments, "adamw.m.wpe.weight: checkpoint None"),
])
def test_a_damaged_checkpoint_is_refused_or_started_over(
        tmp_path, text, spoil, message):  # noqa: F811
    run = ["--data", str(text), "--run", str(tmp_path / "r"), *FEW]
    path = tmp_path / "r/base/trainer.safetensors"
    train.main(run)
    before = (tmp_path / "r/base/model.safetensors").read_bytes()
    checkpoint.save_safetensors(path, *spoil(*checkpoint.load_safetensors(path)))
    with pytest.raises(ValueError, match=f"trainer.safetensors: cannot resume, {message}"):
        train.main(run)
    train.main([*run, "--on-mismatch", "restart"])
    assert (tmp_path / "r/base/model.safetensors").read_bytes() == before


# -------------------------------------------------------------------------------- a stage's folder


@pytest.mark.parametrize("end, pad", [
    ("<|endoftext|>", "<|output_end|>"),
    ("<|im_end|>", "<|endoftext|>"),
])
def test_a_folder_says_what_begins_ends_and_pads_a_text(tmp_path, end, pad):
    """In generation_config.json, in config.json, where classifiers look, and in
    tokenizer_config.json; also once the model is there."""
    tok = bpe.Tokenizer.train([TEXT], 300)
    cfg, folder = gpt.Config(tok.n_vocab, 8, 12, 1, 3), tmp_path / "m"
    params = gpt.init(cfg, 0)
    with resume.begin(folder, params, adamw.AdamW(params), cfg, tok, {}, end=end) as stage:
        stage.finish(params, cfg, gpt.save)
    want = {
        "bos_token_id": tok.eot_token,
        "eos_token_id": tok.special_tokens[end],
        "pad_token_id": tok.special_tokens[pad],
    }
    for name in ("generation_config.json", "config.json"):
        assert want.items() <= json.loads((folder / name).read_text()).items()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["bos_token"] == "<|endoftext|>"
    assert (config["eos_token"], config["pad_token"]) == (end, pad)
