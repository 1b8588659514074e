"""model/lora.py: derivatives by hand, and the fast twins in model/fast.py, for both families."""

import numpy as np
import pytest

from model import adamw, bfloat16, cores, families, fast, lora, parallel
from test_fast import pool  # noqa: F401
from test_fast_llama import CASES as LLAMAS
from test_fast_llama import (  # noqa: F401
    batch, check_added_gradients, check_cleared_gradients, check_gradients, check_losses, in_blocks,
    same_grads,
)

CASES = {"GPT-2": lora.EXAMPLES["GPT-2"], **LLAMAS}
PAIRS = [
    (lora.forward, fast.forward),
    (lora.token_losses, fast.token_losses),
    (lora.loss_and_grads, fast.loss_and_grads),
    (lora.decode, fast.decode),
]


def adapted(cfg, rank=2, only=None, seed=0):
    """Parameters in float64 with an adapter, away from the start, where B is 0.

    only: what the names of layers with an adapter end with, by default any.
    """
    rng = np.random.default_rng(seed)
    params = families.of(cfg).init(cfg, seed, np.float64)
    adapter = lora.init(params, cfg, min(rank, *map(min, lora.layers(cfg).values())), 3.0, seed)
    for name, array in adapter.items():
        if name == lora.SCALE or only is None or name.rpartition(".")[0].endswith(only):
            params[name] = array
    for name, p in params.items():
        if name != lora.SCALE:
            p += 0.1 * rng.standard_normal(p.shape)
    return params


@pytest.fixture(params=CASES.values(), ids=CASES)
def model(request):
    return adapted(request.param), request.param


# ------------------------------------------------------------------------------------ by hand


def test_every_derivative_is_the_measured_one(capsys):
    assert lora.check_layer() == []
    for cfg in lora.EXAMPLES.values():
        assert lora.check_gradients(cfg) == []
    assert lora.main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "All derivatives agree."


def test_the_check_finds_a_wrong_derivative(monkeypatch, capsys):
    of_layer, of_merged = lora.linear_backward, lora.merge_backward

    def without_scale(dy, cache):
        x, w, A, B, scale, low = cache
        return of_layer(dy, (x, w, A, B, 1.0, low))

    monkeypatch.setattr(lora, "linear_backward", without_scale)
    monkeypatch.setattr(
        lora, "merge_backward", lambda dw, A, B, scale: (of_merged(dw, A, B, scale)[0], 2.0 * B))
    assert lora.main([]) == 1
    line = capsys.readouterr().out.splitlines()[-1]
    assert "the layer's A" in line and "GPT-2's h.0.attn.c_attn.lora_B" in line
    assert "lora_A" not in line


def test_a_layer_and_its_merged_matrix_have_the_same_derivatives():
    rng = np.random.default_rng(0)
    x, w, A, B, dy = (rng.standard_normal(s) for s in ((9, 4), (4, 6), (4, 3), (3, 6), (9, 6)))
    y, cache = lora.linear_forward(x, w, A, B, 0.6)
    whole = lora.merge_forward(w, A, B, 0.6)
    np.testing.assert_allclose(y, x @ whole)
    dx, dA, dB = lora.linear_backward(dy, cache)
    np.testing.assert_allclose(dx, dy @ whole.T)
    of_whole = lora.merge_backward(x.T @ dy, A, B, 0.6)
    np.testing.assert_allclose(dA, of_whole[0])
    np.testing.assert_allclose(dB, of_whole[1])


def test_a_fresh_adapter_changes_nothing_and_learns_with_b(model):
    params, cfg = model
    tokens, targets, weights = batch(cfg)
    whole = lora.without(params)
    params = {**whole, **lora.init(whole, cfg, 2, 4.0, 1)}
    np.testing.assert_array_equal(
        lora.forward(params, cfg, tokens)[0], families.of(cfg).forward(whole, cfg, tokens)[0])
    np.testing.assert_array_equal(
        fast.forward(params, cfg, tokens)[0], fast.forward(whole, cfg, tokens)[0])
    _, grads = fast.loss_and_grads(params, cfg, tokens, targets, weights)
    for name, grad in grads.items():
        assert grad.any() == name.endswith("B"), name
    assert params[lora.SCALE] == 2.0
    n_in, _ = lora.layers(cfg)[next(iter(lora.layers(cfg)))]
    drawn = np.concatenate([a.ravel() * len(a) ** 0.5
                            for name, a in params.items() if name.endswith("lora_A")])
    assert drawn.std() == pytest.approx(1.0, rel=5 / np.sqrt(2 * drawn.size))


def test_with_full_rank_a_step_is_the_one_of_the_whole_matrix(model):
    """A the unit matrix, s = 1: the gradient of B is that of W, so a step moves W + A B as it would
    move W. A has no gradient there, since B is 0."""
    params, cfg = model
    tokens, targets, weights = batch(cfg)
    whole = lora.without(params)
    _, want = fast.loss_and_grads(whole, cfg, tokens, targets, weights)
    params = {**whole, lora.SCALE: np.array(1.0)}
    for layer, (n_in, n_out) in lora.layers(cfg).items():
        if n_in <= n_out:               # a rank is at most the smaller of the two
            params[f"{layer}.lora_A"] = np.eye(n_in)
            params[f"{layer}.lora_B"] = np.zeros((n_in, n_out))
    _, got = fast.loss_and_grads(params, cfg, tokens, targets, weights)
    assert got
    for name, grad in got.items():
        if name.endswith("A"):
            assert not grad.any()
        else:
            np.testing.assert_allclose(
                grad, want[name.replace("lora_B", "weight")], rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------ fast twins


def test_logits_and_losses(in_blocks, model):  # noqa: F811
    check_losses(lora, *model)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients(in_blocks, model, recompute):  # noqa: F811
    params, cfg = model
    before = {name: p.copy() for name, p in params.items()}
    got = check_gradients(lora, params, cfg, recompute)
    assert got.keys() == lora.learned(params).keys()
    for name in before:
        np.testing.assert_array_equal(params[name], before[name])


def test_gradients_are_added_to_what_is_there(in_blocks, model):  # noqa: F811
    check_added_gradients(lora, *model)


def test_a_batch_of_which_nothing_counts_clears_the_gradients(model):
    check_cleared_gradients(*model)


@pytest.mark.parametrize("only", [("attn.q", "attn.v", "attn.c_attn"), ("mlp.down", "mlp.c_proj")])
@pytest.mark.parametrize("cfg", CASES.values(), ids=CASES)
def test_an_adapter_of_some_layers(cfg, only):
    """PEFT's own default is the queries and the values."""
    params = adapted(cfg, only=only)
    tokens, targets, weights = batch(cfg)
    loss, want = lora.loss_and_grads(params, cfg, tokens, targets, weights)
    got_loss, got = fast.loss_and_grads(params, cfg, tokens, targets, weights)
    assert got_loss == pytest.approx(loss) and len(want) < 2 * len(lora.layers(cfg))
    same_grads(got, want)


@pytest.mark.parametrize("large", [False, True])
def test_decoding_with_an_adapter_and_merged(in_blocks, model, large, monkeypatch):  # noqa: F811
    """Prompts of 4 and 2 tokens at once, then one token each, equal each text alone, under the
    adapter and under the merged matrices."""
    params, cfg = model
    if large:
        monkeypatch.setattr(fast, "SMALL_MODEL", 0)         # the weights are divided, not the rows
    tokens = np.random.default_rng(1).integers(0, cfg.vocab_size, (2, 6))
    n_new = np.array([4, 2])
    for these in (params, lora.in_memory(params)):
        cache = fast.Cache(cfg, 2, like=params["wte.weight"])
        first = fast.decode(these, cfg, tokens[:, :4], cache, n_new, only_last=True)
        then = fast.decode(these, cfg, tokens[:, 4:5], cache, only_last=True)
        for b, n in enumerate(n_new):
            text = np.concatenate([tokens[b, :n], tokens[b, 4:5]])[None]
            want, _ = lora.forward(params, cfg, text)
            np.testing.assert_allclose(first[b], want[0, n - 1], atol=1e-12)
            np.testing.assert_allclose(then[b], want[0, n], atol=1e-12)
    cache = fast.Cache(cfg, 2, like=params["wte.weight"])
    by_hand = lora.decode(params, cfg, tokens, cache)
    np.testing.assert_allclose(by_hand, lora.forward(params, cfg, tokens)[0], atol=1e-12)


def test_float32_stays_float32(model):
    params, cfg = model
    params = {name: p.astype(np.float32) for name, p in params.items()}
    tokens, targets, weights = batch(cfg)
    loss, grads = fast.loss_and_grads(params, cfg, tokens, targets, weights)
    want, _ = lora.loss_and_grads(params, cfg, tokens, targets, weights)
    assert loss == pytest.approx(want, rel=1e-4)
    assert {g.dtype for g in grads.values()} == {np.dtype(np.float32)}
    assert fast.decode(params, cfg, tokens, fast.Cache(cfg, len(tokens))).dtype == np.float32


@pytest.mark.parametrize("n", [1, 2])
def test_ranks_share_a_batch_and_see_what_an_update_does(model, n, monkeypatch):
    """The optimizer has means of the adapter alone, and the weights of the model do not move."""
    params, cfg = model
    monkeypatch.setattr(cores, "N_THREADS", n)
    before = {name: p.copy() for name, p in params.items()}
    tokens, targets, weights = batch(cfg)
    optimizer = adamw.AdamW(lora.learned(params), weight_decay=0.0)
    optimizer.params = params
    gradients = parallel.Gradients(params, cfg)
    for _ in range(2):
        want_loss, want = lora.loss_and_grads(params, cfg, tokens, targets, weights)
        gradients.clear()
        assert gradients.add(tokens, targets, weights) == pytest.approx(want_loss)
        same_grads(gradients.sum, want)
        optimizer.step(gradients.sum, 0.01)
    assert optimizer.m.keys() == gradients.sum.keys() == lora.learned(params).keys()
    assert gradients.sum.flat.size == sum(p.size for p in lora.learned(params).values())
    for name, p in params.items():
        assert np.array_equal(p, before[name]) == (name not in lora.learned(params)), name
    gradients.close()


def test_another_head_leaves_the_embeddings_of_a_frozen_model(model):
    params, cfg = model
    dwte = np.zeros_like(params["wte.weight"])
    with pytest.raises(ValueError, match="an adapter leaves wte.weight as it is"):
        fast.hidden_and_grads(params, cfg, batch(cfg)[0], lambda y: (0.0, y, dwte))


# --------------------------------------------------------------------------------------- merging


def test_a_matrix_is_merged_where_it_is_read(model):
    params, cfg = model
    layer, (n_in, n_out) = next(iter(lora.layers(cfg).items()))
    w, A, B = (params[f"{layer}.{kind}"] for kind in ("weight", "lora_A", "lora_B"))
    want = w + params[lora.SCALE] * A @ B
    whole = lora.merged(params)
    m = whole[f"{layer}.weight"]
    assert whole.keys() == families.shapes(cfg).keys()
    assert (m.shape, m.dtype, m.nbytes, m.ndim) == (want.shape, want.dtype, want.nbytes, 2)
    np.testing.assert_allclose(m, want)
    np.testing.assert_allclose(m.T, want.T)
    assert m.sum() == pytest.approx(want.sum()) and np.isfinite(m).all()
    assert np.asarray(m, np.float32).dtype == np.float32
    assert whole["wte.weight"] is params["wte.weight"]


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "rank, alpha, said",
    [(0, 1.0, "LoRA of rank 0: expected 1 to 6, since attn.k is 12 x 6"),
     (7, 1.0, "LoRA of rank 7: expected 1 to 6, since attn.k is 12 x 6"),
     (2, 0.0, "LoRA with alpha 0.0: expected a finite number above 0"),
     (2, float("nan"), "LoRA with alpha nan"), (2, float("inf"), "LoRA with alpha inf")],
)
def test_what_no_adapter_can_have(rank, alpha, said):
    cfg = CASES["groups of 8"]
    params = families.of(cfg).init(cfg, 0)
    with pytest.raises(ValueError, match=said):
        lora.init(params, cfg, rank, alpha, 0)


def test_an_adapter_that_does_not_fit_is_named():
    cfg = CASES["Llama"]
    tokens, targets, _ = batch(cfg)
    a, b = "h.0.attn.q.lora_A", "h.0.attn.q.lora_B"
    good = adapted(cfg)
    for change, said in (
        ({lora.SCALE: np.array(np.nan)}, "lora.scale is nan"),
        ({lora.SCALE: np.array([1.0])}, "expected one finite number"),
        ({a: good[a].T}, r"h.0.attn.q have shapes \(2, 8\) and \(2, 16\); expected \(8, r\)"),
        ({b: good[b][:1]}, r"expected \(8, r\) and \(r, 16\)"),
        ({a: good[a].astype(np.float32)}, "h.0.attn.q.lora_A is float32, wte.weight float64"),
        ({"h.9.attn.q.lora_A": good[a]}, "h.9.attn.q.lora_A is of no linear layer"),
    ):
        for call in (fast.loss_and_grads, fast.token_losses):
            with pytest.raises(ValueError, match=said):
                call({**good, **change}, cfg, tokens, targets)
    for gone, said in ((b, r"\(8, 2\) and None"), (a, r"None and \(2, 16\)")):
        with pytest.raises(ValueError, match=said):
            fast.forward({k: p for k, p in good.items() if k != gone}, cfg, tokens)
    bare = {**lora.without(good), lora.SCALE: np.array(1.0)}
    with pytest.raises(ValueError, match="lora.scale without any matrix"):
        fast.forward(bare, cfg, tokens)
    with pytest.raises(ValueError, match="grads: no array for h.0.attn.q.lora_A"):
        fast.loss_and_grads(good, cfg, tokens, targets, grads={})


# -------------------------------------------------------------------------------------- bfloat16


def in_bfloat16(params, cfg):
    """(params whose matrices are bfloat16.Arrays, the same numbers in float32), some transposed."""
    half, whole = {}, {}
    for number, name in enumerate(params):
        p = params[name].astype(np.float32)
        if p.ndim == 2 and name in families.shapes(cfg):
            bits = bfloat16.narrow(p).bits
            half[name] = bfloat16.Array(np.asfortranarray(bits) if number % 2 else bits)
            p = np.asarray(half[name])
        whole[name] = p
        half.setdefault(name, p)
    return half, whole


def test_an_adapter_beside_a_model_in_bfloat16(model, monkeypatch):
    """The numbers are those of the widened model, in another order of sums."""
    monkeypatch.setattr(bfloat16, "BLOCK", 30)
    params, cfg = model
    half, whole = in_bfloat16(params, cfg)
    tokens, targets, weights = batch(cfg)
    loss, want = fast.loss_and_grads(whole, cfg, tokens, targets, weights)
    got_loss, got = fast.loss_and_grads(half, cfg, tokens, targets, weights)
    assert got_loss == pytest.approx(loss, rel=1e-5) and got.keys() == want.keys()
    for name in want:
        size = np.abs(want[name]).max()
        np.testing.assert_allclose(got[name], want[name], atol=1e-4 * size, err_msg=name)
    np.testing.assert_allclose(
        fast.token_losses(half, cfg, tokens, targets),
        fast.token_losses(whole, cfg, tokens, targets), atol=1e-4)
    merged = lora.in_memory(half)
    for name, p in lora.in_memory(whole).items():
        np.testing.assert_array_equal(merged[name], p)


def test_a_matrix_in_bfloat16_does_not_learn(model):
    params, cfg = model
    half, _ = in_bfloat16(lora.without(params), cfg)
    tokens, targets, _ = batch(cfg)
    grads = {name: np.empty(shape, np.float32) for name, shape in families.shapes(cfg).items()}
    for places in (None, grads):
        with pytest.raises(ValueError, match="wte.weight is in bfloat16, which does not learn"):
            fast.loss_and_grads(half, cfg, tokens, targets, grads=places)
