"""model/fast.py, operations.py, walk_llama.py and decoding.py against model/llama.py, which defines
them, with every block size forced small and work divided among threads."""

import itertools

import numpy as np
import pytest

from model import cores, decoding, families, fast, llama, lora, operations, walk_llama
from test_fast import BLOCKS, pool, set_blocks, set_threads  # noqa: F401
from test_llama import random_params

# Every option is in one of them; heads in groups of 1, 2 and 8, and one key head.
CASES = {
    **llama.EXAMPLES,
    "groups of 8": llama.Config(13, 9, 12, 2, 8, 1, 6, 20, tied=False),
    "two groups": llama.Config(13, 9, 12, 3, 6, 2, 4, 7, qk_norm=True, qkv_bias=True, o_bias=True),
}
SETTINGS = [(name, n) for name in BLOCKS for n in (1, 3)]
PAIRS = [
    (llama.rmsnorm_forward, operations.rmsnorm_forward),
    (llama.rmsnorm_backward, operations.rmsnorm_backward),
    (llama.rotary_forward, operations.rotary_forward),
    (llama.rotary_backward, operations.rotary_backward),
    (llama.swiglu_forward, operations.swiglu_forward),
    (llama.swiglu_backward, operations.swiglu_backward),
    (llama.forward, fast.forward),
    (llama.token_losses, fast.token_losses),
    (llama.loss_and_grads, fast.loss_and_grads),
    (llama.Cache, fast.Cache),
    (llama.decode, fast.decode),
]


@pytest.fixture(params=SETTINGS, ids=lambda p: f"{p[0]}-{p[1]}")
def in_blocks(request, monkeypatch, pool):  # noqa: F811
    name, n = request.param
    set_blocks(monkeypatch, name)
    set_threads(monkeypatch, n, pool)
    monkeypatch.setattr(fast, "SMALL_MODEL", 8 << 20)


@pytest.fixture(params=CASES.values(), ids=CASES)
def model(request):
    return random_params(request.param), request.param


def randn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def batch(cfg, B=4, T=None):
    """tokens, targets of which some are ignored, weights of either sign"""
    rng = np.random.default_rng(2)
    tokens, targets = rng.integers(0, cfg.vocab_size, (2, B, T or cfg.n_positions))
    targets[0, :3] = -1
    return tokens, targets, rng.standard_normal(tokens.shape)


def same_grads(got, want):
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_every_function_of_both_is_a_pair():
    shared = set()
    for name, room in itertools.product(vars(llama), (fast, operations, decoding)):
        plain, twin = getattr(llama, name), getattr(room, name, None)
        if callable(plain) and callable(twin) and plain is not twin and "linear" not in name:
            if getattr(plain, "__module__", "") == "model.llama":
                shared.add((plain, twin))
    assert shared == set(PAIRS)


# -------------------------------------------------------------------------------------- operations


@pytest.mark.parametrize("n_heads", [1, 3])
def test_rmsnorm(in_blocks, n_heads):
    x, dy, plus = randn(3, 7, 4 * n_heads)
    w, dw_before = randn(2, 4, seed=1)
    y, cache = llama.rmsnorm_forward((x + plus).reshape(7, n_heads, 4), w, 1e-5)
    dx, dw = llama.rmsnorm_backward(dy.reshape(7, n_heads, 4), cache)

    summed = x.copy()
    got, of_fast = operations.rmsnorm_forward(summed, w, 1e-5, plus=plus)
    np.testing.assert_allclose(summed, x + plus)
    np.testing.assert_allclose(got, y.reshape(7, -1))
    got, got_dw = operations.rmsnorm_backward(dy, of_fast)
    np.testing.assert_allclose(got, dx.reshape(7, -1), atol=1e-12)
    np.testing.assert_allclose(got_dw, dw, atol=1e-12)
    out = dy.copy(), dw_before.copy()               # in the place of dy, and added
    operations.rmsnorm_backward(out[0], of_fast, plus, out, add=True)
    np.testing.assert_allclose(out[0], dx.reshape(7, -1) + plus, atol=1e-12)
    np.testing.assert_allclose(out[1], dw + dw_before, atol=1e-12)


def test_heads_are_normed_where_they_lie(in_blocks):
    qkv, w = randn(5, 18), randn(4)
    want, _ = llama.rmsnorm_forward(qkv[:, :12].reshape(5, 3, 4), w, 1e-6)
    rest = qkv[:, 12:].copy()
    q, n, rrms = qkv[:, :12], np.empty((5, 12)), np.empty((5, 3))
    operations.rmsnorm_forward(q, w, 1e-6, out=(q, n, rrms))
    np.testing.assert_allclose(qkv[:, :12], want.reshape(5, 12))
    np.testing.assert_array_equal(qkv[:, 12:], rest)


def test_rotary(in_blocks):
    cfg = CASES["two groups"]
    B, T, HS = 3, 5, cfg.head_size
    qkv = randn(B * T, 10 * HS)
    positions = np.random.default_rng(0).integers(0, cfg.n_positions, (B, T))
    table = walk_llama.rotary_table(cfg, cfg.n_positions, np.float64)
    cos, sin = llama.turns_of(cfg, positions, np.float64)
    turned = qkv.reshape(B, T, 10, HS).swapaxes(1, 2)[:, :8]
    for plain, quick in ((llama.rotary_forward, operations.rotary_forward),
                         (llama.rotary_backward, operations.rotary_backward)):
        got = qkv.copy()
        quick(got, positions, table, 8)
        found = got.reshape(B, T, 10, HS).swapaxes(1, 2)
        np.testing.assert_allclose(found[:, :8], plain(turned, cos, sin), atol=1e-12)
        np.testing.assert_array_equal(got[:, 8 * HS :], qkv[:, 8 * HS :])     # values stay


def test_swiglu(in_blocks):
    h, du = randn(9, 14), randn(9, 7, seed=1)
    u, cache = llama.swiglu_forward(h[:, :7], h[:, 7:])
    np.testing.assert_allclose(operations.swiglu_forward(h), u)
    want = np.concatenate(llama.swiglu_backward(du, cache), axis=1)
    np.testing.assert_allclose(operations.swiglu_backward(du, h), want)
    assert operations.swiglu_backward(du, h, out=h) is h
    np.testing.assert_allclose(h, want)


def test_swiglu_of_large_numbers_warns_of_nothing():
    h = np.array([[-1e4, 1e4, 1.0, 1.0]], np.float32)
    assert operations.swiglu_forward(h).tolist() == [[0.0, 1e4]]


# ------------------------------------------------------------------------------------------ models


def check_losses(plain, params, cfg):
    """fast's logits and losses are those of a definition."""
    tokens, targets, _ = batch(cfg)
    np.testing.assert_allclose(
        fast.forward(params, cfg, tokens)[0], plain.forward(params, cfg, tokens)[0], atol=1e-12)
    np.testing.assert_allclose(
        fast.token_losses(params, cfg, tokens, targets, temperature=0.6),
        plain.token_losses(params, cfg, tokens, targets, temperature=0.6), atol=1e-12)


def check_gradients(plain, params, cfg, recompute):
    """fast's gradients are those of a definition. Returns them."""
    tokens, targets, weights = batch(cfg)
    weights[1, 2:4] = 0.0                           # rows of which nothing counts
    loss, want = plain.loss_and_grads(params, cfg, tokens, targets, weights, temperature=0.7)
    got_loss, got = fast.loss_and_grads(
        params, cfg, tokens, targets, weights, temperature=0.7, recompute=recompute)
    assert got_loss == pytest.approx(loss)
    same_grads(got, want)
    return got


def check_added_gradients(plain, params, cfg):
    """The gradients of two parts of a batch, added, are those of a definition for the whole."""
    tokens, targets, weights = batch(cfg)
    _, want = plain.loss_and_grads(params, cfg, tokens, targets, weights)
    grads = {name: np.full_like(p, np.nan) for name, p in lora.learned(params).items()}
    arena = cores.Arena()
    fast.loss_and_grads(params, cfg, tokens[:1], targets[:1], weights[:1], grads=grads, arena=arena)
    fast.loss_and_grads(
        params, cfg, tokens[1:], targets[1:], weights[1:], grads=grads, add=True, arena=arena)
    same_grads(grads, want)


def check_cleared_gradients(params, cfg):
    """A batch of which nothing counts leaves no gradient."""
    tokens, targets, weights = batch(cfg)
    grads = {name: np.full_like(p, 7.0) for name, p in lora.learned(params).items()}
    fast.loss_and_grads(params, cfg, tokens, targets, np.zeros_like(weights), grads=grads)
    assert not any(g.any() for g in grads.values())


def test_logits_and_losses(in_blocks, model):
    check_losses(llama, *model)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients(in_blocks, model, recompute):
    check_gradients(llama, *model, recompute)


def test_gradients_are_added_to_what_is_there(in_blocks, model):
    check_added_gradients(llama, *model)


def test_a_batch_of_which_nothing_counts_clears_the_gradients(model):
    check_cleared_gradients(*model)


def test_several_texts_in_a_row_are_as_if_alone(in_blocks, model):
    params, cfg = model
    tokens, targets, weights = batch(cfg, 2, 6)
    _, want = llama.loss_and_grads(
        params, cfg, tokens.reshape(4, 3), targets.reshape(4, 3), weights.reshape(4, 3))
    segments = np.repeat([[1, 2]], 3, axis=1).repeat(2, 0)
    positions = np.tile(np.arange(3), (2, 2))
    _, got = fast.loss_and_grads(
        params, cfg, tokens, targets, weights, positions=positions, segments=segments)
    same_grads(got, want)


def test_a_head_of_its_own(in_blocks, model):
    """fast.hidden_and_grads under a quadratic head, against the trunk's own derivatives."""
    params, cfg = model
    tokens, _, _ = batch(cfg)
    y, cache = llama.trunk_forward(params, cfg, tokens)
    want = llama.trunk_backward(2.0 * y, cache, params, cfg)
    if not cfg.tied:
        want["lm_head.weight"] = np.zeros_like(params["lm_head.weight"])
    grads = {name: np.full_like(p, np.nan) for name, p in params.items()}
    loss, got = fast.hidden_and_grads(
        params, cfg, tokens, lambda y: (float((y * y).sum()), 2.0 * y, None), grads=grads)
    assert loss == pytest.approx(float((y * y).sum()))
    same_grads(got, want)


@pytest.mark.parametrize("large", [False, True])
def test_decoding_of_rows_that_differ_in_length(in_blocks, model, large, monkeypatch):
    """Prompts of 4 and 2 tokens at once, then one token each, equal each text alone."""
    params, cfg = model
    if large:
        monkeypatch.setattr(fast, "SMALL_MODEL", 0)         # the weights are divided, not the rows
    tokens = np.random.default_rng(1).integers(0, cfg.vocab_size, (3, 6))
    n_new = np.array([4, 2, 3])
    cache = fast.Cache(cfg, 3, like=params["wte.weight"])
    first = fast.decode(params, cfg, tokens[:, :4], cache, n_new, only_last=True)
    then = fast.decode(params, cfg, tokens[:, 4:5], cache, only_last=True)
    for b, n in enumerate(n_new):
        text = np.concatenate([tokens[b, :n], tokens[b, 4:5]])[None]
        want, _ = llama.forward(params, cfg, text)
        np.testing.assert_allclose(first[b], want[0, n - 1], atol=1e-12)
        np.testing.assert_allclose(then[b], want[0, n], atol=1e-12)


def test_float32_stays_float32(model):
    params, cfg = model
    params = {name: p.astype(np.float32) for name, p in params.items()}
    tokens, targets, weights = batch(cfg)
    loss, grads = fast.loss_and_grads(params, cfg, tokens, targets, weights)
    want, _ = llama.loss_and_grads(params, cfg, tokens, targets, weights)
    assert loss == pytest.approx(want, rel=1e-4)
    assert {g.dtype for g in grads.values()} == {np.dtype(np.float32)}
    cache = fast.Cache(cfg, len(tokens))
    assert fast.decode(params, cfg, tokens, cache).dtype == np.float32


def test_a_cache_of_another_model_is_refused():
    cfg, other = CASES["Llama"], CASES["groups of 8"]
    params = random_params(cfg)
    cache = fast.Cache(other, 1, 6, like=params["wte.weight"])
    with pytest.raises(ValueError, match="a cache of 1 rows, 2 layers and 1 heads of 6"):
        fast.decode(params, cfg, np.array([[1]]), cache)


def test_missing_tensors_and_wrong_shapes_are_named(model):
    params, cfg = model
    tokens, targets, _ = batch(cfg)
    for name in list(families.shapes(cfg))[-3:]:
        with pytest.raises(ValueError, match=f"no tensor {name}"):
            fast.token_losses({k: p for k, p in params.items() if k != name}, cfg, tokens, targets)
    with pytest.raises(ValueError, match="h.1.mlp.up.weight has shape"):
        bad = {**params, "h.1.mlp.up.weight": params["h.1.mlp.up.weight"].T}
        fast.loss_and_grads(bad, cfg, tokens, targets)
