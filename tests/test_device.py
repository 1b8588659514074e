"""device.py: training and decoding on a GPU against gpt.py in NumPy; on the CPU that plays GPU where there is none."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_kernels import bits_of, cp, value_of          # skips where neither a GPU nor g++ is there

import device
import gpt
import kernels
import train

device.connect()
CFG = gpt.Config(vocab_size=37, n_positions=20, n_embd=32, n_layer=2, n_head=2)
RNG = np.random.default_rng(1)


def batch(B, T, cfg=CFG):
    tokens, targets = RNG.integers(0, cfg.vocab_size, (2, B, T))
    targets[0, 1] = -1
    return tokens, targets, RNG.standard_normal((B, T)) / (B * T)


def model(cfg=CFG, bf16=False):
    """The same weights for both: of bfloat16 those that it can hold."""
    params = {k: p + 0.1 * RNG.standard_normal(p.shape).astype(np.float32) for k, p in gpt.init(cfg, 0).items()}
    return {k: value_of(bits_of(p)) for k, p in params.items()} if bf16 else params


def close(got, want, tolerance, what=""):
    got, most = kernels.on_host(got) if isinstance(got, cp.ndarray) else got, max(np.abs(want).max(), 1e-4)
    error = np.abs(got[:len(want)] - want).max()
    assert error <= tolerance * most, f"{what}: off by {error:.2e}, the largest is {most:.2e}"


@pytest.mark.parametrize("bf16, tolerance", [(False, 1e-4), (True, 0.04)])
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients(bf16, tolerance, recompute, monkeypatch):
    monkeypatch.setattr(device, "LOGIT_NUMBERS", 16 * 40)               # logits in several pieces
    device.step_shapes.cache_clear()
    params, (tokens, targets, weights) = model(bf16=bf16), batch(2, 13)
    there = device.upload(params, CFG, bf16)
    want, want_grads = gpt.loss_and_grads({k: p.astype(np.float64) for k, p in params.items()}, CFG, tokens, targets, weights)
    loss, grads = gpt.loss_and_grads(there, CFG, tokens, targets, weights, recompute=recompute)
    assert abs(loss - want) < (0.02 if bf16 else 1e-5)
    for k, g in want_grads.items():
        close(grads[k], g, tolerance, k)
    assert not kernels.on_host(grads["wte.weight"])[CFG.vocab_size:].any()      # what pads the vocabulary
    twice = gpt.loss_and_grads(there, CFG, tokens, targets, weights, grads=grads, add=True, recompute=recompute)[1]
    for k, g in want_grads.items():
        close(twice[k], 2 * g, tolerance, f"{k} twice")
    nats = gpt.token_losses(there, CFG, tokens, targets)
    close(nats, gpt.token_losses(params, CFG, tokens, targets), tolerance, "nats")
    assert nats[0, 1] == 0.0
    device.step_shapes.cache_clear()


@pytest.mark.parametrize("bf16", [False, True])
def test_training_equals_numpy(bf16):
    """Five steps of unequal micro-batches: the fourth and fifth from the recorded graph."""
    recipe = replace(train.PRESETS["demo"], model=CFG, steps=5, batch=5, warmup=2, lr=1e-2, clip=0.5)
    params, there = model(bf16=bf16), {}
    there.update({k: p.copy() for k, p in params.items()})
    ours, theirs = (train.AdamW(p, recipe.beta1, recipe.beta2, weight_decay=recipe.weight_decay) for p in (params, there))
    grads, gpu = train.Gradients(params, CFG), device.Training(there, theirs, CFG, rows=3, bf16=bf16)
    for step in range(recipe.steps):
        tokens, targets, _ = batch(5, CFG.n_positions)
        weights = np.where(targets < 0, 0.0, 1.0 / targets.size)
        grads.clear()
        gpu.clear()
        loss = 0.0
        for rows in (slice(0, 3), slice(3, 5)):
            loss += grads.add(tokens[rows], targets[rows], weights[rows])
            gpu.add(tokens[rows], targets[rows], weights[rows])
        norm, lr, _ = train.update(ours, grads.sum, loss, step, recipe)
        there_loss, there_norm = gpu.update(lr, recipe.clip)
        np.testing.assert_allclose([there_loss, there_norm], [loss, norm], rtol=3e-2 if bf16 else 1e-4)
    grads.close()
    gpu.download()
    assert theirs.t == 5
    for k, p in params.items():
        counts = np.ones(p.shape, bool)
        if "c_attn.bias" in k:
            # A bias of the keys moves all scores of a query alike and changes nothing: its gradient is rounding, and AdamW's step its sign.
            counts[CFG.n_embd:2 * CFG.n_embd] = False
        close(there[k][counts], p[counts], 0.1 if bf16 else 2e-3, k)
        close(theirs.m[k][counts], ours.m[k][counts], 0.1 if bf16 else 2e-3, f"m of {k}")
    before = kernels.on_host(gpu.master)
    gpu.clear()
    gpu.add(tokens[:3], targets[:3], np.full((3, CFG.n_positions), np.inf))
    loss, norm = gpu.update(1e-2, recipe.clip)
    assert not np.isfinite(norm) and theirs.t == 5      # a step that would spoil everything is not taken
    np.testing.assert_array_equal(kernels.on_host(gpu.master), before)


@pytest.mark.parametrize("bf16, tolerance", [(False, 1e-4), (True, 0.04)])
def test_decode(bf16, tolerance):
    params, tokens, lengths = model(bf16=bf16), RNG.integers(0, CFG.vocab_size, (3, 4)), np.array([4, 1, 2])
    there = device.upload(params, CFG, bf16)
    caches = [gpt.Cache(CFG, 3, 16, p["wte.weight"]) for p in (params, there)]
    both = [gpt.decode(p, CFG, tokens, c, lengths, only_last=True) for p, c in zip((params, there), caches)]
    close(both[1], both[0], tolerance, "prompt")
    for i in range(4):                                  # recorded, then replayed
        both = [gpt.decode(p, CFG, tokens[:, i:i + 1], c, only_last=True) for p, c in zip((params, there), caches)]
        close(both[1], both[0], tolerance, f"token {i}")
    caches = [c.rows(np.array([2, 0, 0])) for c in caches]
    both = [gpt.decode(p, CFG, tokens[:, :2], c) for p, c in zip((params, there), caches)]
    assert both[1].shape == (3, 2, CFG.vocab_size)
    close(both[1], both[0], tolerance, "two more, all logits")
    np.testing.assert_array_equal(caches[0].length, caches[1].length)
