"""tests/ablation.py: its composed block, and a small run; the experiment itself takes an hour."""

import dataclasses
import json

import ablation
import bpe
import gpt
import numpy as np
import pytest
import train
from conftest import check_grad
from model import fast, llama, muon
from tokens.shards import write_shard

GPT2 = gpt.Config(vocab_size=11, n_positions=6, n_embd=16, n_layer=2, n_head=4)
CONFIGS = ablation.variants(GPT2)


def example(cfg):
    """Parameters away from the start, in float64, and tokens, targets and weights."""
    rng = np.random.default_rng(0)
    params = ablation.init(cfg, 0, np.float64)
    for p in params.values():
        p += 0.1 * rng.standard_normal(p.shape)
    tokens, targets = rng.integers(0, cfg.vocab_size, (2, 3, 6))
    return params, (tokens, targets, rng.standard_normal((3, 6)))


def as_gpt(named):
    """The names and joined matrices of gpt.py for parameters or gradients of the same model."""
    named, kinds = dict(named), ("weight", "bias")
    for i in range(GPT2.n_layer):
        for kind in kinds:
            attn, mlp = f"h.{i}.attn", f"h.{i}.mlp"
            qkv = [named.pop(f"{attn}.{name}.{kind}") for name in "qkv"]
            named[f"{attn}.c_attn.{kind}"] = np.concatenate(qkv, axis=-1)
            named[f"{attn}.c_proj.{kind}"] = named.pop(f"{attn}.o.{kind}")
            named[f"{mlp}.c_fc.{kind}"] = named.pop(f"{mlp}.up.{kind}")
            named[f"{mlp}.c_proj.{kind}"] = named.pop(f"{mlp}.down.{kind}")
    return named


def assert_equal(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    assert found[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        np.testing.assert_allclose(found[1][name], grad, rtol=1e-10, atol=1e-12, err_msg=name)


def test_all_options_of_gpt2_are_gpt2():
    params, batch = example(CONFIGS["GPT-2"])
    loss, grads = ablation.loss_and_grads(params, CONFIGS["GPT-2"], *batch)
    assert_equal((loss, as_gpt(grads)), gpt.loss_and_grads(as_gpt(params), GPT2, *batch))


@pytest.mark.parametrize(
    "name", ["Llama", "Llama without groups", "Llama with groups of 4 heads"])
def test_all_options_of_llama_are_llama(name):
    cfg = CONFIGS[name]
    theirs = llama.Config(11, 6, 16, 2, 4, cfg.n_kv_head, 4, cfg.n_hidden)
    params, batch = example(cfg)
    assert ablation.param_shapes(cfg) == llama.param_shapes(theirs)
    assert_equal(ablation.loss_and_grads(params, cfg, *batch),
                 llama.loss_and_grads(params, theirs, *batch))


def check_variant(cfg):
    params, batch = example(cfg)

    def loss():
        return ablation.loss_and_grads(params, cfg, *batch)[0]

    _, grads = ablation.loss_and_grads(params, cfg, *batch)
    assert grads.keys() == params.keys()
    pairs = {name: (p, grads[name]) for name, p in params.items()}
    if cfg.positions == "learned":      # softmax takes away what a bias of keys adds to all scores
        for name in [name for name in pairs if name.endswith("attn.k.bias")]:
            assert np.abs(pairs.pop(name)[1]).max() < 1e-15
    check_grad(loss, pairs, n=2)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_derivative_is_the_measured_one(name):
    check_variant(CONFIGS[name])


@pytest.mark.parametrize("name, module, backward", [
    ("GPT-2 with rotary positions", llama, "rotary_backward"),
    ("GPT-2 with groups of 2 heads", llama, "grouped_backward"),
    ("Llama with GELU", gpt, "gelu_backward"),
    ("Llama with LayerNorm", gpt, "layernorm_backward"),
])
def test_the_check_finds_a_wrong_derivative(name, module, backward, monkeypatch):
    def doubled(*args):
        found = right(*args)
        return tuple(2 * x for x in found) if isinstance(found, tuple) else 2 * found

    right = getattr(module, backward)
    monkeypatch.setattr(module, backward, doubled)
    with pytest.raises(AssertionError, match="by finite differences"):
        check_variant(CONFIGS[name])


def test_each_variant_changes_one_option_of_its_kind_and_no_size():
    demo = train.PRESETS["demo"].model
    configs = ablation.variants(demo)
    assert configs["GPT-2"].n_params == demo.n_params and configs["GPT-2"].n_hidden == 512
    assert configs["Llama"].n_hidden == llama.PRESETS["llama-demo"].n_hidden
    for name, cfg in configs.items():
        assert abs(cfg.n_params / demo.n_params - 1) < 0.0035, name
        kind = dataclasses.asdict(configs[name.split()[0]])
        changed = {key for key, value in dataclasses.asdict(cfg).items() if value != kind[key]}
        changed -= {"n_hidden"}
        assert len(changed) == (name not in ("GPT-2", "Llama")), (name, changed)


def test_matrices_of_one_name_and_shape_begin_alike():
    ours, theirs = (ablation.init(CONFIGS[name], 3) for name in ("GPT-2", "Llama"))
    np.testing.assert_array_equal(ours["h.1.attn.q.weight"], theirs["h.1.attn.q.weight"])
    assert (ours["h.0.attn.q.weight"] != ours["h.1.attn.q.weight"]).any()
    assert ours["wte.weight"].dtype == np.float32


def without_speed(lines):
    rows = [json.loads(line) for line in lines]
    assert all(row.pop("step_ms") > 0 for row in rows)
    return rows


def test_a_run_goes_on_where_it_was_cut_off(tmp_path, monkeypatch, capsys):
    """Small models in place of the demo's; the second call trains the missing variants only."""
    tokenizer = bpe.Tokenizer.train(["the lamp is lit, said the goat. " * 20], 280)
    tokenizer.save(tmp_path / "tokenizer.json")
    rng = np.random.default_rng(0)
    (tmp_path / "tokens").mkdir()
    for split, n in (("train", 400), ("val", 60)):
        ids = rng.integers(0, 256, n)
        write_shard(tmp_path / "tokens" / f"{split}_000000.bin", ids, tokenizer)
    small = dataclasses.replace(train.PRESETS["demo"], model=GPT2, batch=4)
    monkeypatch.setitem(train.PRESETS, "demo", small)
    out = tmp_path / "ablation"
    args = ["--run", str(tmp_path), "--out", str(out), "--steps", "3"]
    ablation.main([*args, "--seeds", "0", "1"])
    whole, path = capsys.readouterr(), out / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 28 == len(whole.err.splitlines())
    path.write_text("\n".join(lines[:24]) + "\n", encoding="utf-8")
    ablation.main([*args, "--seeds", "0", "1"])
    again = capsys.readouterr()
    assert len(again.err.splitlines()) == 4
    assert without_speed(path.read_text(encoding="utf-8").splitlines()) == without_speed(lines)
    assert len(whole.out.splitlines()) == len(again.out.splitlines()) == 16
    assert "| GPT-2 | 64 | " in whole.out and " ± " in whole.out
