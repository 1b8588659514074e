"""chat/tuning.py: what a stage begins with, resumes from, and leaves as it was."""

import dataclasses
import importlib
import json
import random
import shutil
import sys

import numpy as np
import pytest

import align
import gpt
import sample
from chat import judges, options, tuning
from model import adapters, bfloat16, checkpoint, lora
from conftest import kill_and_rerun, run_script
from test_align import TOK, put, run  # noqa: F401  a fixture


def test_a_step_without_a_signal_leaves_the_model_as_it_is(run):
    """It must not take the gradient of the step before once more; nor may where a run was killed
    matter."""
    align.main(f"sft --run {run} --steps 20 --batch 8".split())
    recipe = dataclasses.replace(
        options.RL, steps=6, group=4, prompts=2, max_tokens=12, warmup=1, batch=0, save_every=1
    )
    asked, weights = [], []

    def only_once(rollout):  # rewards that differ at the first step, never again
        asked.append(len(rollout.texts))
        return np.arange(len(rollout.texts)) if len(asked) == 1 else np.ones(len(rollout.texts))

    update = tuning.Learner.update

    def keep(learner, *rest):
        update(learner, *rest)
        weights.append({k: p.copy() for k, p in learner.params.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning.Learner, "update", keep)
        align.rl(run, recipe, only_once)
    before = sample.load_model(run / "sft")[0]
    assert any((weights[0][k] != before[k]).any() for k in before)
    assert all((w[k] == weights[0][k]).all() for w in weights[1:] for k in before)
    assert [
        json.loads(line)["grad_norm"]
        for line in (run / "rl_only_once/log.jsonl").read_text().splitlines()
    ][1:] == [0.0] * 5


def test_an_edited_reward_does_not_resume(run, tmp_path, monkeypatch):
    """The identity of a run holds the source of its reward, not only its name."""
    monkeypatch.syspath_prepend(tmp_path)
    recipe = dataclasses.replace(options.RL, steps=2, group=2, prompts=2, max_tokens=8, batch=0)
    for name, factor in (("mine", 1), ("same", 1), ("edited", 2)):
        put(tmp_path / f"{name}.py",
            f"def short(rollout):\n    return -{factor} * rollout.lengths\n")
    for name in ("mine", "same"):
        align.rl(run, recipe, importlib.import_module(name).short, start="base")
    with pytest.raises(ValueError, match="cannot resume, reward: checkpoint"):
        align.rl(run, recipe, importlib.import_module("edited").short, start="base")


def test_nothing_takes_the_place_of_what_it_begins_with(run):
    for command, start in (("sft", "base"), ("rl", "base"), ("reward", "base"), ("dpo", "base")):
        with pytest.raises(ValueError, match="--out base: the model it begins with lies there"):
            align.main(
                [command, "--run", str(run), "--start", start, "--out", "base", "--on-mismatch",
                 "restart", "--steps", "2"]
            )
    assert (run / "base/model.safetensors").exists()
    align.main(f"reward --run {run} --start base --steps 2 --batch 4".split())
    config = (run / "reward/config.json").read_bytes()
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # made again when it is finished, and stopped before the end
        patch.setattr(judges, "save", lambda *_: sys.exit(1))
        with pytest.raises(SystemExit):
            align.main(f"reward --run {run} --start base --steps 2 --batch 4".split())
    assert (run / "reward/config.json").read_bytes() == config
    for args in (["rl", "--start", "reward"], ["arena", "base", "reward"]):
        with pytest.raises(
            ValueError, match="reward: a reward model, which judges replies and writes none"
        ):
            align.main([*args, "--run", str(run)])
    with pytest.raises(ValueError, match="base: named twice"):
        align.main(f"arena --run {run} base base".split())


def test_a_leash_to_another_stage(run):
    """It may be tied to any model of the same shape and to none of another; a reward model must
    read the same ids."""
    align.main(f"sft --run {run} --steps 20 --batch 8".split())
    args = f"rl --run {run} --steps 2 --group 4 --prompts 2 --leash 0.1".split()
    for out, more in (("near", []), ("far", ["--leash-to", "base"])):
        align.main([*args, "--out", out, *more])
    near, far = (
        json.loads((run / out / "log.jsonl").read_text().splitlines()[0])["kl_nats"]
        for out in ("near", "far")
    )
    assert near == 0.0 and abs(far) > 0.1
    cfg = gpt.Config(TOK.n_vocab, 48, 32, 1, 2)
    gpt.save(run / "small", gpt.init(cfg, 0), cfg)
    TOK.save(run / "small" / "tokenizer.json")
    for command in (args, f"dpo --run {run} --steps 2".split()):
        with pytest.raises(
            ValueError, match="small: a reference of another shape than sft: n_layer 1, expected 2"
        ):
            align.main([*command, "--out", "other", "--leash-to", "small"])
    align.main(f"dpo --run {run} --steps 2 --leash-to base".split())


@pytest.mark.parametrize(
    "stage, args",
    [("sft", ["--steps", "150", "--batch", "8"]), ("rl", ["--steps", "12", "--group", "4"]),
     ("reward", ["--steps", "120", "--batch", "4"]), ("dpo", ["--steps", "60", "--batch", "2"]),
     ("rl", ["--steps", "12", "--group", "4", "--leash", "0.1"]),
     ("sft", ["--steps", "150", "--batch", "8", "--lora-rank", "2"])],
)
def test_killed_at_any_moment_ends_with_the_same_bits(run, stage, args, monkeypatch):
    if stage != "sft":
        align.main(f"sft --run {run} --steps 20 --batch 8".split())
    assert run_script("align.py", stage, "--run", run, *args).returncode == 0
    names = ["model.safetensors", "trainer.safetensors", "config.json"]
    names += adapters.FILES if "--lora-rank" in args else []
    calm = {n: (run / stage / n).read_bytes() for n in names}
    shutil.rmtree(run / stage)
    kill_and_rerun("align.py", [stage, "--run", run, *args], random.Random(1), most=2)
    for name, data in calm.items():
        assert (run / stage / name).read_bytes() == data, name


def test_where_to_talk_to_a_model_in_training(run, capsys):
    """Only where there will be a checkpoint before the end, and a model that talks."""
    recipe = dataclasses.replace(options.SFT, steps=2, batch=2, replay=0, warmup=1, save_every=1)
    align.sft(run, recipe, out="tried")
    assert f"python sample.py chat --model {run / 'tried'}" in capsys.readouterr().err
    align.sft(run, dataclasses.replace(recipe, save_every=2), on_mismatch="restart", out="tried")
    assert "sample.py" not in capsys.readouterr().err


# ------------------------------------------------------------------------------ low-rank adapters


def losses(folder):
    """loss_nats of each step of a stage."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss_nats"] for line in lines]


def test_an_adapter_is_merged_and_kept_beside_the_model(run, capsys):
    before = (run / "base/model.safetensors").read_bytes()
    align.main(f"sft --run {run} --steps 20 --batch 8 --lora-rank 4 --lr 0.02".split())
    assert (run / "base/model.safetensors").read_bytes() == before
    said = capsys.readouterr().err
    base, cfg, _ = sample.load_model(run / "base")
    n = sum(4 * (n_in + n_out) for n_in, n_out in lora.layers(cfg).values())
    assert f"an adapter learns: {n:,} numbers beside" in said and "sample.py" not in said
    assert losses(run / "sft")[-1] < losses(run / "sft")[0] - 0.2

    merged, _, _ = sample.load_model(run / "sft")
    adapter = adapters.read(run / "sft/adapter", base, cfg)
    assert adapter[lora.SCALE] == 4.0
    config = json.loads((run / "sft/adapter/adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(run / "base")
    for name, p in lora.in_memory({**base, **adapter}).items():
        np.testing.assert_array_equal(merged[name], p, err_msg=name)
        assert np.array_equal(merged[name], base[name]) == (p.ndim == 1 or name[0] == "w"), name
    saved, _ = checkpoint.load_safetensors(run / "sft/trainer.safetensors")
    learned = lora.learned({**base, **adapter})
    assert saved.keys() == {f"{kind}{name}" for name in learned
                            for kind in ("", "adamw.m.", "adamw.v.")}


def test_an_adapter_learns_on(run):
    """Nothing is forgotten: the first loss is that of the merged model.

    A model that was made without an adapter has none beside it.
    """
    args = f"--run {run} --steps 20 --batch 8 --lr 0.02".split()
    align.main(["sft", *args, "--lora-rank", "4"])
    align.main(["sft", *args, "--adapter", str(run / "sft/adapter"), "--out", "more"])
    align.main(["sft", *args, "--start", "sft", "--out", "whole"])
    assert losses(run / "more")[0] == pytest.approx(losses(run / "whole")[0], abs=1e-5)
    assert losses(run / "more")[-1] < losses(run / "sft")[-1]
    assert (run / "more/adapter").exists()
    align.main(["sft", *args, "--out", "more", "--on-mismatch", "restart"])
    assert not list((run / "more/adapter").glob("*"))
    (run / "sft/model.safetensors").unlink()            # as if the training still went on
    with pytest.raises(ValueError, match="holds an adapter without its model; finish the train"):
        sample.load_model(run / "sft")
    align.main(["sft", *args, "--on-mismatch", "restart"])
    assert not list((run / "sft/adapter").glob("*"))


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_a_reward_model_of_an_adapter(run, dtype):
    """It learns with its head, and is saved merged."""
    args = f"reward --run {run} --start base --batch 4 --lora-rank 2 --lr 0.02 --dtype {dtype}"
    align.main([*args.split(), "--steps", "6"])
    base, cfg, _ = sample.load_model(run / "base")
    judge = judges.load(run / "reward")
    changed = {name for name, p in base.items() if not np.array_equal(judge.params[name], p)}
    assert changed == {f"{layer}.weight" for layer in lora.layers(cfg)}
    assert judge.params["score.weight"].any() and not (run / "reward/adapter").exists()
    rows = [json.loads(line) for line in open(run / "reward/log.jsonl", encoding="utf-8")]
    losses = [row["loss_nats"] for row in rows if "loss_nats" in row]
    assert losses[-1] < losses[0]


def test_rl_and_dpo_of_an_adapter(run):
    """The leash is tied to the model without its adapter, which takes no copy of it."""
    align.main(f"sft --run {run} --steps 20 --batch 8".split())
    args = f"--run {run} --steps 3 --lora-rank 2 --leash 0.1".split()
    seen = []
    load = tuning.load_reference

    def keep(run, stage, start, params, cfg):
        reference = load(run, stage, start, params, cfg)
        seen.append(all(p is params[name] for name, p in reference.items()))
        return reference

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "load_reference", keep)
        align.main(["rl", *args, "--group", "4", "--prompts", "2", "--lr", "0.05"])
        align.main(["dpo", *args, "--lr", "0.05"])
    assert seen == [True, True]
    for name, first in (("rl", "kl_nats"), ("dpo", "chosen")):
        lines = (run / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
        moved = [abs(json.loads(line)[first]) for line in lines]
        assert moved[0] == pytest.approx(0.0, abs=1e-6) and moved[-1] > 1e-3, name
        assert (run / name / "adapter/adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    "args, said",
    [("--lora-rank 0", "--lora-rank 0: must be at least 1"),
     ("--lora-rank 33", "LoRA of rank 33: expected 1 to 32, since attn.c_attn is 32 x 96"),
     ("--lora-rank 2 --lora-alpha nan", "--lora-alpha nan: must be above 0 and finite"),
     ("--lora-rank 2 --lora-alpha inf", "--lora-alpha inf: must be above 0 and finite"),
     ("--lora-alpha 8", "--lora-alpha 8.0: there is no adapter without --lora-rank"),
     ("--adapter x --lora-rank 2", "--adapter x: it has its own rank and alpha; leave out"),
     ("--adapter x", "x/adapter_config.json: no such file; an adapter's folder holds")],
)
def test_adapters_that_no_model_can_have(run, args, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        align.main(["sft", "--run", str(run), "--steps", "1", *args.split()])
    assert not (run / "sft").exists()


def test_an_adapter_beside_a_model_in_bfloat16(run):
    """The base stays in the file as it is; what is merged has all numbers in float32."""
    base, cfg, _ = sample.load_model(run / "base")
    for name, p in base.items():
        if p.ndim == 2:
            base[name] = bfloat16.narrow(p)
    gpt.save(run / "base", base, cfg)
    args = f"--run {run} --steps 10 --batch 8 --lora-rank 2 --lr 0.02".split()
    align.main(["sft", *args])
    align.main(["sft", *args, "--dtype", "bf16", "--out", "half"])
    assert losses(run / "half") == pytest.approx(losses(run / "sft"), abs=1e-3)
    whole, half = (sample.load_model(run / name)[0] for name in ("sft", "half"))
    for name in whole:
        np.testing.assert_allclose(half[name], whole[name], atol=2e-3, err_msg=name)
    with pytest.raises(ValueError, match="--dtype bf16: on the CPU the model learns in float32"):
        align.main(f"sft --run {run} --dtype bf16".split())
