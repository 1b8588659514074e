"""model/fast.py against finite differences, naive loops, and itself."""

import gc
import math
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from model import cores
from model import checks, fast, operations, walk
import gpt
from conftest import ROOT, check_directions, check_grad

RNG = np.random.default_rng(0)

# fast.py works in blocks, and the arrays of a test would fit into one. With the constants forced
# small every loop runs
# several times: blocks of several rows, the last one shorter; other sizes, which divide other
# things; single rows.
BLOCKS = {
    "real": {},
    "small": {
        "BLOCK_FLOATS": 40,
        "QUERY_BLOCK": 3,
        "LOGIT_FLOATS": 200,
        "HEAD_COLUMNS": 4,
        "PART": 1,
    },
    "uneven": {
        "BLOCK_FLOATS": 150,
        "QUERY_BLOCK": 4,
        "LOGIT_FLOATS": 4000,
        "HEAD_COLUMNS": 5,
        "PART": 1,
    },
    "single": {
        "BLOCK_FLOATS": 1,
        "QUERY_BLOCK": 1,
        "LOGIT_FLOATS": 1,
        "HEAD_COLUMNS": 1,
        "PART": 1,
    },
}


@pytest.fixture(autouse=True)
def same_numbers():
    """Every test draws the same numbers, whichever tests ran before it."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def set_blocks(monkeypatch, name):
    for constant, value in BLOCKS[name].items():
        room = operations if hasattr(operations, constant) else fast
        assert isinstance(getattr(room, constant), int)
        monkeypatch.setattr(room, constant, value)


def set_threads(monkeypatch, n, pool):
    monkeypatch.setattr(cores, "_pool", pool)  # the machine's may have fewer workers
    monkeypatch.setattr(cores, "N_THREADS", n)


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as workers:  # and the thread that calls: three
        yield workers


@pytest.fixture(params=BLOCKS)
def blocks(request, monkeypatch):
    """Constants of fast.py, for operations on one thread."""
    set_blocks(monkeypatch, request.param)


@pytest.fixture(
    params=[(name, n) for name in BLOCKS for n in (1, 2, 3)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def blocks_and_threads(request, monkeypatch, pool):
    """Constants of fast.py and as many threads, whatever the machine has."""
    set_blocks(monkeypatch, request.param[0])
    set_threads(monkeypatch, request.param[1], pool)


@pytest.fixture(
    params=[("real", 2), ("small", 3), ("uneven", 2), ("single", 1)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def some_blocks_and_threads(request, monkeypatch, pool):
    """A few of blocks_and_threads, for finite differences of the whole model. That the others give
    the same gradients
    is the subject of test_blocks_and_threads_change_nothing_but_rounding."""
    set_blocks(monkeypatch, request.param[0])
    set_threads(monkeypatch, request.param[1], pool)


in_blocks = pytest.mark.usefixtures("blocks")
in_blocks_and_threads = pytest.mark.usefixtures("blocks_and_threads")
in_some_blocks_and_threads = pytest.mark.usefixtures("some_blocks_and_threads")


def randn(*shape):
    return RNG.standard_normal(shape)


def tiny(vocab=13, n_positions=9, width=12, layers=2, heads=3):
    cfg = gpt.Config(vocab, n_positions, width, layers, heads)
    params = gpt.init(cfg, 1, np.float64)
    for (
        name,
        p,
    ) in params.items():  # away from the symmetric start, so that no gradient is 0 by accident
        p += 0.1 * randn(*p.shape)
    return cfg, params


def batch(cfg, B, T):
    return RNG.integers(0, cfg.vocab_size, (2, B, T))


# ---------------------------------------------------------------------------------------- gradients


@in_blocks
@pytest.mark.parametrize("N, C", [(1, 5), (7, 3), (31, 33), (70, 12)])
def test_layernorm_grad(N, C):
    x, w, b, dy = randn(N, C), randn(C), randn(C), randn(N, C)
    dx, dw, db = operations.layernorm_backward(dy, operations.layernorm_forward(x, w, b)[1])
    check_grad(
        lambda: (operations.layernorm_forward(x, w, b)[0] * dy).sum(),
        {"x": (x, dx), "w": (w, dw), "b": (b, db)},
    )


def test_layernorm_grad_in_blocks_of_the_real_size():
    """Three blocks of 510 rows, the last one shorter."""
    N, C = 1203, 257
    assert N * C > 2 * operations.BLOCK_FLOATS
    x, w, b, dy = randn(N, C), randn(C), randn(C), randn(N, C)
    dx, dw, db = operations.layernorm_backward(dy, operations.layernorm_forward(x, w, b)[1])
    # The loss sums 300,000 products: it is of size 500 and rounded to 1e-13, which leaves 1e-9 of a
    # gradient of size 1.
    check_grad(
        lambda: (operations.layernorm_forward(x, w, b)[0] * dy).sum(),
        {"x": (x, dx), "w": (w, dw), "b": (b, db)},
        n=4,
    )


@in_blocks
def test_what_plus_and_add_add():
    x, plus, w, b, dy = randn(40, 9), randn(40, 9), randn(9), randn(9), randn(40, 9)
    want, cache = operations.layernorm_forward(x + plus, w, b)
    stream = x.copy()
    np.testing.assert_allclose(
        operations.layernorm_forward(stream, w, b, plus=plus)[0], want, atol=1e-12
    )
    np.testing.assert_allclose(stream, x + plus)
    alone = operations.layernorm_backward(dy, cache)
    np.testing.assert_allclose(
        operations.layernorm_backward(dy, cache, plus)[0], alone[0] + plus, atol=1e-12
    )
    weight = randn(9, 9)
    for backward in (
        lambda **how: operations.layernorm_backward(dy, cache, **how),
        lambda **how: operations.linear_backward(dy, x, weight, **how),
    ):
        once = backward()
        twice = backward(out=tuple(a.copy() for a in once), add=True)
        for a, b, times in zip(once, twice, (1, 2, 2)):  # dx is not a sum over rows
            np.testing.assert_allclose(b, times * a, atol=1e-12)


@pytest.mark.parametrize("N, C, F", [(1, 1, 1), (5, 3, 7), (33, 31, 2)])
def test_linear_grad(N, C, F):
    x, w, b, dy = randn(N, C), randn(C, F), randn(F), randn(N, F)
    dx, dw, db = operations.linear_backward(dy, x, w)
    check_grad(
        lambda: (operations.linear_forward(x, w, b) * dy).sum(),
        {"x": (x, dx), "w": (w, dw), "b": (b, db)},
    )


@in_blocks
@pytest.mark.parametrize("N, F", [(1, 1), (31, 33), (70, 12)])
def test_gelu_grad(N, F):
    x, dy = 2 * randn(N, F), randn(N, F)
    dx = operations.gelu_backward(dy, operations.gelu_forward(x)[1])
    check_grad(lambda: (operations.gelu_forward(x)[0] * dy).sum(), {"x": (x, dx)})


def test_gelu_grad_in_blocks_of_the_real_size():
    x, dy = 2 * randn(1203, 257), randn(1203, 257)
    assert x.size > 2 * operations.BLOCK_FLOATS
    dx = operations.gelu_backward(dy, operations.gelu_forward(x)[1])
    check_grad(lambda: (operations.gelu_forward(x)[0] * dy).sum(), {"x": (x, dx)}, n=4)


@in_blocks
@pytest.mark.parametrize("B, T, NH, HS", [(1, 1, 1, 1), (2, 7, 3, 5), (1, 9, 2, 4), (5, 6, 1, 2)])
def test_attention_grad(B, T, NH, HS):
    qkv, do = randn(B, T, 3 * NH * HS), randn(B, T, NH * HS)
    dqkv = operations.attention_backward(do, operations.attention_forward(qkv, NH)[1], NH)
    check_grad(
        lambda: (operations.attention_forward(qkv, NH)[0] * do).sum(), {"qkv": (qkv, dqkv)}, n=30
    )


def test_attention_grad_in_blocks_of_the_real_size():
    B, T, NH, HS = 20, 70, 3, 4
    assert (
        T > operations.QUERY_BLOCK
        and NH * operations.QUERY_BLOCK * T * B > 2 * operations.BLOCK_FLOATS
    )
    qkv, do = randn(B, T, 3 * NH * HS), randn(B, T, NH * HS)
    dqkv = operations.attention_backward(do, operations.attention_forward(qkv, NH)[1], NH)
    check_grad(
        lambda: (operations.attention_forward(qkv, NH)[0] * do).sum(), {"qkv": (qkv, dqkv)}, n=4
    )


@in_blocks
def test_attention_grad_of_several_texts_in_a_row():
    B, T, NH, HS = 3, 7, 2, 3
    segments = np.array([[0, 0, 1, 1, 1, 2, 2], [1, 1, 1, 2, 2, 3, 4], [0, 0, 0, 0, 0, 0, 0]])
    hidden = operations.segments_hidden(segments, np.float64)
    qkv, do = randn(B, T, 3 * NH * HS), randn(B, T, NH * HS)
    dqkv = operations.attention_backward(
        do, operations.attention_forward(qkv, NH, hidden=hidden)[1], NH, hidden=hidden
    )
    check_grad(
        lambda: (operations.attention_forward(qkv, NH, hidden=hidden)[0] * do).sum(),
        {"qkv": (qkv, dqkv)},
        n=30,
    )


@in_blocks
@pytest.mark.parametrize("V", [7, 600])
def test_cross_entropy_grad(V):
    logits, targets, weights = (
        3 * randn(11, V),
        RNG.integers(0, V, 11),
        randn(11),
    )  # weights of either sign
    weights[3] = 0.0
    dlogits = operations.cross_entropy_backward(
        weights, operations.cross_entropy_forward(logits.copy(), targets)[1]
    )
    check_grad(
        lambda: weights @ operations.cross_entropy_forward(logits.copy(), targets)[0],
        {"logits": (logits, dlogits)},
        n=77,
    )
    assert not dlogits[3].any()


@pytest.mark.parametrize("V", [6, 600])
def test_embedding_grad(V):
    wte, wpe, tokens, dx = (
        randn(V, 4),
        randn(5, 4),
        np.array([[1, 1, V - 1], [0, 1, V - 1]]),
        randn(6, 4),
    )
    positions = np.broadcast_to(np.arange(3), tokens.shape)

    def loss():
        return (operations.embedding_forward(tokens, positions, wte, wpe) * dx).sum()

    dwte, dwpe = np.zeros_like(wte), np.zeros_like(wpe)
    operations.embedding_backward(dx, tokens.ravel(), dwte)
    operations.embedding_backward(dx, positions.ravel(), dwpe)
    check_grad(loss, {"wte": (wte, dwte), "wpe": (wpe, dwpe)}, n=24)


@in_blocks
@pytest.mark.parametrize("B", [2, 5])
def test_block_grad(B):
    cfg, params = tiny()
    p, x, dy = walk.layer_params(params, 1), randn(B * 5, cfg.n_embd), randn(B * 5, cfg.n_embd)

    def forward():
        s = SimpleNamespace(
            **{k: np.empty(shape) for k, shape in walk.block_shapes(cfg, B, 5).items()}
        )
        s.t, s.hidden = np.empty_like(x), None
        y = x.copy()
        return y + walk.block_forward(operations, y, None, p, s, cfg.n_head), s

    _, s = forward()
    grads = {k: np.empty_like(a) for k, a in p.items()}
    dx = walk.block_backward(operations, dy.copy(), p, s, cfg.n_head, grads)
    check_grad(
        lambda: (forward()[0] * dy).sum(), {"x": (x, dx), **{k: (p[k], grads[k]) for k in p}}, n=6
    )


# --------------------------------------------------------------------- gradients of the whole model

SEGMENTS = np.array(
    [[0, 0, 1, 1, 1, 2, -1], [1, 1, 1, 2, 2, 3, 4], [0, 0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 4, 4, 4]]
)
POSITIONS = np.array(
    [[0, 1, 2, 3, 4, 2, 3], [0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 4, 5, 6], [8, 0, 4, 0, 1, 2, 3]]
)

SETTINGS = {  # of loss_and_grads
    "mean": {},
    "weights, temperature": {"weights": True, "temperature": 1.7},
    "recompute, arena": {"recompute": True, "arena": True},
    "several texts, recompute": {
        "positions": POSITIONS,
        "segments": SEGMENTS,
        "weights": True,
        "recompute": True,
    },
    "add, weights, arena": {"weights": True, "add": True, "arena": True},
    "add, several texts, temperature": {
        "positions": POSITIONS,
        "segments": SEGMENTS,
        "add": True,
        "temperature": 0.6,
    },
}


def question(setting, vocab=13, B=4, layers=2):
    """(params, grads_of, loss_of) of a small model: loss and gradients under a setting, and the
    loss alone."""
    setting = dict(SETTINGS[setting])
    cfg, params = tiny(vocab, layers=layers)
    tokens, targets = batch(cfg, B, 7)
    targets[0, :3] = -1
    if setting.pop("weights", False):  # of either sign, some of them 0
        setting["weights"] = randn(B, 7) * (RNG.random((B, 7)) < 0.8)
    for name in ("positions", "segments"):
        if name in setting:
            setting[name] = setting[name][:B]
    arena, add = cores.Arena() if setting.pop("arena", False) else None, setting.pop("add", False)

    def grads_of():
        if not add:
            return fast.loss_and_grads(params, cfg, tokens, targets, arena=arena, **setting)
        begun = {k: randn(*p.shape) for k, p in params.items()}
        grads = {k: g.copy() for k, g in begun.items()}
        loss, _ = fast.loss_and_grads(
            params, cfg, tokens, targets, grads=grads, add=True, arena=arena, **setting
        )
        return loss, {k: grads[k] - begun[k] for k in grads}

    def loss_of():
        if "positions" in setting:  # known together with the gradients only
            return fast.loss_and_grads(params, cfg, tokens, targets, **setting)[0]
        forward = {k: v for k, v in setting.items() if k != "recompute"}
        return fast.loss_and_grads(params, cfg, tokens, targets, want_grads=False, **forward)[0]

    return params, grads_of, loss_of


def check_model(params, grads_of, loss_of, n=1):
    loss, grads = grads_of()
    assert set(grads) == set(params) and loss_of() == pytest.approx(loss, rel=1e-12)
    check_grad(loss_of, {k: (params[k], grads[k]) for k in params}, n=n)


@in_some_blocks_and_threads
@pytest.mark.parametrize("setting", SETTINGS)
def test_model_grad(setting):
    check_model(*question(setting))


@in_some_blocks_and_threads
@pytest.mark.parametrize("setting", ["mean", "add, weights, arena"])
def test_model_grad_of_a_vocabulary_above_512(setting):
    check_model(*question(setting, vocab=600, B=2, layers=1))


def test_single_entries_of_the_model_grad():
    check_model(*question("weights, temperature"), n=12)


@in_some_blocks_and_threads
@pytest.mark.parametrize("add", [False, True])
def test_hidden_grad(add):
    """A head that reads the hidden states and, as the tied head does, wte."""
    cfg, params = tiny()
    tokens, (c, begun) = (
        batch(cfg, 4, 7)[0],
        (randn(4, 7, cfg.n_embd), {k: randn(*p.shape) for k, p in params.items()}),
    )

    def head(y):  # loss = sum(c y^2) + sum(wte^2)
        return (
            (c * y * y).sum() + (params["wte.weight"] ** 2).sum(),
            2 * c * y,
            2 * params["wte.weight"],
        )

    grads = {k: g.copy() for k, g in begun.items()}
    loss, _ = fast.hidden_and_grads(params, cfg, tokens, head, grads=grads, add=add)
    if add:
        grads = {k: g - begun[k] for k, g in grads.items()}

    def loss_of():
        return fast.hidden_and_grads(params, cfg, tokens, head, want_grads=False)[0]

    assert loss_of() == pytest.approx(loss, rel=1e-12)
    check_grad(loss_of, {k: (params[k], grads[k]) for k in params}, n=1)


@pytest.mark.parametrize("setting", SETTINGS)
def test_blocks_and_threads_change_nothing_but_rounding(setting, monkeypatch, pool):
    """A gradient sums some hundred products: another order of them changes it by 1e-14 of the
    largest."""
    params, grads_of, loss_of = question(setting, B=4)
    want_loss, want = grads_of()
    for name in BLOCKS:
        for n in (1, 2, 3):
            with monkeypatch.context() as patch:
                set_blocks(patch, name)
                set_threads(patch, n, pool)
                loss, grads = grads_of()
                alone = loss_of()
            assert loss == pytest.approx(want_loss, rel=1e-12), (name, n)
            assert alone == pytest.approx(want_loss, rel=1e-12), (name, n)
            for k in want:
                most = 1e-12 * np.abs(want[k]).max()
                np.testing.assert_allclose(
                    grads[k], want[k], rtol=0, atol=most, err_msg=f"{k} {name} {n}"
                )


def test_the_checker_fails_when_a_backward_is_wrong(monkeypatch):
    x, w, b, dy = randn(4, 6), randn(6), randn(6), randn(4, 6)
    dx, dw, db = operations.layernorm_backward(dy, operations.layernorm_forward(x, w, b)[1])
    loss = lambda: (operations.layernorm_forward(x, w, b)[0] * dy).sum()  # noqa: E731
    for wrong in (dx * 1.001, dx[::-1].copy(), dx + 1e-5, np.zeros_like(dx)):
        for check in (check_grad, check_directions):
            with pytest.raises(AssertionError, match="by finite differences"):
                check(loss, {"x": (x, wrong)})
    right = operations.gelu_backward
    monkeypatch.setattr(
        operations, "gelu_backward", lambda dy, slope, out=None: right(dy, 0.999 * slope, out)
    )
    with pytest.raises(AssertionError, match="by finite differences"):
        test_model_grad("mean")


def test_a_direction_sees_the_entry_that_no_single_entry_looked_at():
    x, c = randn(200), randn(200)
    loss = lambda: (c * x * x).sum()  # noqa: E731
    for i in range(0, 200, 9):
        wrong = 2 * c * x
        wrong[i] += 1e-3
        before = x.copy()
        with pytest.raises(AssertionError, match="along a random direction"):
            check_directions(loss, {"x": (x, wrong)})
        np.testing.assert_array_equal(x, before)  # put back, to the bit
    y, wrong = x.copy(), 2 * c * x
    with pytest.raises(AssertionError, match="x, along a random direction"):
        check_directions(lambda: (c * x * y).sum(), {"x": (x, wrong), "y": (y, c * x)})


# ------------------------------------------------------------------------------ values, naive loops


@in_blocks
def test_attention_equals_a_naive_loop():
    B, T, NH, HS = 3, 11, 3, 5
    C, qkv = NH * HS, randn(B, T, 3 * NH * HS)
    o = operations.attention_forward(qkv, NH)[0]
    for b in range(B):
        for h in range(NH):
            at = slice(h * HS, (h + 1) * HS)
            q, k, v = qkv[b, :, :C][:, at], qkv[b, :, C : 2 * C][:, at], qkv[b, :, 2 * C :][:, at]
            for i in range(T):
                s = np.array([q[i] @ k[j] for j in range(i + 1)]) / math.sqrt(HS)
                p = np.exp(s) / np.exp(s).sum()
                np.testing.assert_allclose(
                    o[b, i, at], sum(p[j] * v[j] for j in range(i + 1)), rtol=1e-10
                )


@in_blocks
def test_layernorm_equals_a_naive_loop():
    x, plus, w, b = randn(11, 6), randn(11, 6), randn(6), randn(6)
    stream = x.copy()
    y, _ = operations.layernorm_forward(stream, w, b, plus=plus)
    for row in range(11):
        t = x[row] + plus[row]
        np.testing.assert_allclose(
            y[row], (t - t.mean()) / math.sqrt(t.var() + 1e-5) * w + b, rtol=1e-10, atol=1e-12
        )


@in_blocks_and_threads
@pytest.mark.parametrize("V", [13, 600])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_losses_are_those_of_the_logits(V, temperature):
    cfg, params = tiny(V)
    tokens, targets = batch(cfg, 4, 7)
    targets[1, 2:5] = -1
    z = fast.forward(params, cfg, tokens)[0] / temperature
    want = np.zeros((4, 7))
    for b, t in np.argwhere(targets >= 0):
        want[b, t] = np.log(np.exp(z[b, t]).sum()) - z[b, t, targets[b, t]]
    nll = fast.token_losses(params, cfg, tokens, targets, temperature=temperature)
    np.testing.assert_allclose(nll, want, rtol=1e-10, atol=1e-12)
    weights = randn(4, 7)
    loss, _ = fast.loss_and_grads(params, cfg, tokens, targets, weights, temperature=temperature)
    assert loss == pytest.approx((weights * want).sum(), rel=1e-10)
    loss, _ = fast.loss_and_grads(params, cfg, tokens, targets, temperature=temperature)
    assert loss == pytest.approx(want.sum() / 25, rel=1e-10)


@in_blocks
def test_gelu_and_cross_entropy_values():
    x = np.array([[-3.0, -0.5, 0.0, 0.5, 3.0]])
    want = [0.5 * a * (1 + math.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))) for a in x[0]]
    np.testing.assert_allclose(operations.gelu_forward(x)[0][0], want, rtol=1e-12, atol=1e-15)
    nll, _ = operations.cross_entropy_forward(
        np.array([np.log([0.2, 0.3, 0.5]), [1000.0, 0.0, -1000.0]]), np.array([1, 0])
    )
    np.testing.assert_allclose(nll, [-math.log(0.3), 0.0], rtol=1e-12)


def test_the_first_loss_is_that_of_guessing():
    cfg = gpt.Config(512, 32, 64, 3, 4)
    tokens, targets = batch(cfg, 4, 32)
    loss, _ = fast.loss_and_grads(gpt.init(cfg, 0), cfg, tokens, targets)
    assert loss == pytest.approx(math.log(512), abs=0.1)


def test_published_parameter_counts():
    counts = {
        "gpt2": 124_439_808,
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
    }
    for name, n in counts.items():
        cfg = gpt.PRESETS[name]
        assert cfg.n_params == n == sum(math.prod(s) for s in gpt.param_shapes(cfg).values())


# --------------------------------------------------------------------------------------- invariants


def test_float32_stays_float32():
    cfg = gpt.Config(17, 8, 16, 2, 2)
    params = gpt.init(cfg, 0)
    tokens, targets = batch(cfg, 2, 8)
    _, grads = fast.loss_and_grads(params, cfg, tokens, targets, RNG.standard_normal((2, 8)))
    assert {g.dtype for g in grads.values()} == {np.dtype(np.float32)}
    assert fast.forward(params, cfg, tokens)[0].dtype == np.float32
    cache = fast.Cache(cfg, 2)
    assert fast.decode(params, cfg, tokens, cache).dtype == np.float32


@in_blocks_and_threads
def test_two_unequal_parts_add_up_to_the_whole_batch():
    cfg, params = tiny()
    tokens, targets = batch(cfg, 5, 7)
    targets[1, 2:] = -1
    weights = np.where(targets >= 0, 1.0 / (targets >= 0).sum(), 0.0)
    loss, grads = fast.loss_and_grads(params, cfg, tokens, targets)
    parts = [
        fast.loss_and_grads(params, cfg, tokens[r], targets[r], weights[r])
        for r in (slice(0, 2), slice(2, 5))
    ]
    assert sum(p[0] for p in parts) == pytest.approx(loss, rel=1e-12)
    for k in grads:
        np.testing.assert_allclose(parts[0][1][k] + parts[1][1][k], grads[k], rtol=1e-9, atol=1e-12)


@in_blocks_and_threads
def test_recomputing_activations_changes_no_bit():
    cfg = gpt.Config(50, 20, 32, 3, 2)
    params = gpt.init(cfg, 0)
    tokens, targets = batch(cfg, 5, 20)
    kept, again = (
        fast.loss_and_grads(params, cfg, tokens, targets, recompute=r) for r in (False, True)
    )
    assert kept[0] == again[0]
    for k in params:
        np.testing.assert_array_equal(kept[1][k], again[1][k])


def test_memory_comes_back_with_the_last_reference(monkeypatch):
    """Not with some later round of the garbage collector: the next model may need it first."""
    monkeypatch.setattr(cores, "N_THREADS", 1)      # a thread of the pool lets go a moment later
    cfg, params = tiny()
    tokens, targets = batch(cfg, 3, 7)
    gc.collect()
    gc.disable()
    try:
        for work in (fast.loss_and_grads, fast.token_losses):
            arena = cores.Arena()
            work(params, cfg, tokens, targets, arena=arena)
            memory = weakref.ref(arena.memory)
            del arena
            assert memory() is None, work.__name__
    finally:
        gc.enable()


@in_blocks_and_threads
@pytest.mark.parametrize("recompute", [False, True])
def test_what_grads_and_arena_held_before_does_not_matter(recompute):
    cfg, params = tiny()
    tokens, targets = batch(cfg, 4, 7)
    targets[1, 2:] = -1
    weights = randn(4, 7)
    loss, want = fast.loss_and_grads(params, cfg, tokens, targets, weights)
    grads, arena = {k: randn(*p.shape) for k, p in params.items()}, cores.Arena()
    for i in range(2):  # what the arrays held before does not matter; the second time it is added
        again, same = fast.loss_and_grads(
            params,
            cfg,
            tokens,
            targets,
            weights,
            grads=grads,
            add=i == 1,
            arena=arena,
            recompute=recompute,
        )
        assert same is grads and again == pytest.approx(loss, rel=1e-12)
        for k in grads:
            np.testing.assert_allclose(grads[k], (i + 1) * want[k], rtol=1e-9, atol=1e-12)


@in_blocks_and_threads
def test_the_arena_is_as_large_as_planned_and_serves_other_shapes():
    cfg = gpt.Config(50, 20, 32, 3, 2)
    params, arena = gpt.init(cfg, 0), cores.Arena()
    for recompute in (True, False):
        for B, T in ((2, 20), (5, 20), (3, 7)):
            tokens, targets = batch(cfg, B, T)
            want = fast.loss_and_grads(params, cfg, tokens, targets, recompute=recompute)
            got = fast.loss_and_grads(
                params, cfg, tokens, targets, arena=arena, recompute=recompute
            )
            assert got[0] == want[0] and all(np.array_equal(got[1][k], want[1][k]) for k in params)
            if (B, T) == (5, 20):
                plan = fast.memory_plan(cfg, B, T, recompute)
                assert (
                    arena.memory.nbytes
                    == plan["activations"] + plan["logits"] + plan["gradients"] - plan["parameters"]
                )
    assert (
        fast.memory_plan(cfg, 5, 20, True)["activations"]
        < 0.6 * fast.memory_plan(cfg, 5, 20, False)["activations"]
    )


@in_blocks_and_threads
def test_rows_that_pad_the_vocabulary_change_nothing():
    cfg, params = tiny()
    tokens, targets = batch(cfg, 3, 7)
    loss, want = fast.loss_and_grads(params, cfg, tokens, targets)
    padded = {**params, "wte.weight": np.concatenate([params["wte.weight"], randn(3, cfg.n_embd)])}
    again, grads = fast.loss_and_grads(padded, cfg, tokens, targets)
    assert again == loss and not grads["wte.weight"][cfg.vocab_size :].any()
    np.testing.assert_array_equal(grads["wte.weight"][: cfg.vocab_size], want["wte.weight"])
    np.testing.assert_array_equal(
        fast.forward(padded, cfg, tokens)[0], fast.forward(params, cfg, tokens)[0]
    )
    one = [
        fast.decode(p, cfg, tokens, fast.Cache(cfg, 3, like=params["wte.weight"]))
        for p in (params, padded)
    ]
    np.testing.assert_array_equal(*one)


@in_blocks_and_threads
def test_same_input_same_bits():
    cfg = gpt.Config(50, 40, 32, 2, 2)
    params = gpt.init(cfg, 0)
    tokens, targets = batch(cfg, 6, 40)
    first, again = (fast.loss_and_grads(params, cfg, tokens, targets) for _ in range(2))
    assert first[0] == again[0] and all(np.array_equal(first[1][k], again[1][k]) for k in params)


def test_one_batch_is_learned_by_heart():
    cfg = gpt.Config(23, 12, 32, 2, 4)
    params = gpt.init(cfg, 0)
    tokens, targets = batch(cfg, 4, 12)
    tokens[:, 0] = range(4)  # rows that begin alike could not be told apart
    m, v = ({k: np.zeros_like(p) for k, p in params.items()} for _ in range(2))
    for t in range(1, 201):
        loss, grads = fast.loss_and_grads(params, cfg, tokens, targets)
        for k, g in grads.items():
            m[k] += 0.1 * (g - m[k])
            v[k] += 0.01 * (g * g - v[k])
            params[k] -= 0.01 * (m[k] / (1 - 0.9**t)) / (np.sqrt(v[k] / (1 - 0.99**t)) + 1e-8)
    assert loss < 0.01


@in_blocks_and_threads
def test_no_position_sees_what_comes_after_it():
    cfg, params = tiny(n_positions=70, width=6)
    tokens, _ = batch(cfg, 1, 70)
    before, _ = fast.forward(params, cfg, tokens)
    for t in (1, 63, 64, 69):
        changed = tokens.copy()
        changed[0, t] = (changed[0, t] + 1) % cfg.vocab_size
        after, _ = fast.forward(params, cfg, changed)
        np.testing.assert_array_equal(after[0, :t], before[0, :t])
        assert not np.allclose(after[0, t], before[0, t])


@in_blocks_and_threads
def test_an_ignored_target_moves_no_gradient():
    cfg, params = tiny()
    tokens, targets = batch(cfg, 2, 7)
    targets[1] = -1
    _, grads = fast.loss_and_grads(params, cfg, tokens, targets)
    _, alone = fast.loss_and_grads(params, cfg, tokens[:1], targets[:1])
    for k in grads:
        np.testing.assert_allclose(grads[k], alone[k], rtol=1e-9, atol=1e-13)
    loss, grads = fast.loss_and_grads(params, cfg, tokens, targets, np.zeros((2, 7)))
    assert loss == 0.0 and not any(g.any() for g in grads.values())
    with pytest.raises(ValueError, match="every target is ignored"):
        fast.loss_and_grads(params, cfg, tokens, np.full((2, 7), -1))
    with pytest.raises(ValueError, match="targets: id -2 is outside"):
        fast.loss_and_grads(params, cfg, tokens, np.full((2, 7), -2))


@in_blocks_and_threads
@pytest.mark.parametrize("vocab", [13, 600])
@pytest.mark.parametrize("small", [True, False])
def test_cached_decoding_equals_the_full_forward(monkeypatch, small, vocab):
    """Of a small model the rows are divided among threads, of a large one the weights."""
    monkeypatch.setattr(fast, "SMALL_MODEL", 8 << 20 if small else 0)
    cfg, params = tiny(vocab, n_positions=12)
    tokens, _ = batch(cfg, 3, 12)
    want, _ = fast.forward(params, cfg, tokens)
    cache, lengths = (
        fast.Cache(cfg, 3, like=params["wte.weight"]),
        np.array([5, 1, 3]),
    )  # rows of unequal length
    first = fast.decode(params, cfg, tokens[:, :5], cache, n_new=lengths)
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(first[b, :n], want[b, :n], rtol=1e-9, atol=1e-12)
    for _ in range(7):
        one = tokens[np.arange(3), cache.length][:, None]
        at = cache.length.copy()
        logits = fast.decode(params, cfg, one, cache, only_last=True)
        np.testing.assert_allclose(logits, want[np.arange(3), at], rtol=1e-9, atol=1e-12)
    cache.length -= [2, 1, 3]
    part, at = cache.rows(slice(1, 3)), cache.length.copy()
    one = tokens[[1, 2], at[1:]][:, None]
    logits = fast.decode(params, cfg, one, part)[:, 0]
    np.testing.assert_allclose(logits, want[[1, 2], at[1:]], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(cache.length, at + [0, 1, 1])  # its rows are the cache's own


@in_blocks_and_threads
def test_padding_never_lands_on_a_token_of_the_cache():
    cfg, params = tiny(n_positions=5)
    tokens, _ = batch(cfg, 2, 5)
    want, _ = fast.forward(params, cfg, tokens)
    cache = fast.Cache(cfg, 2, like=params["wte.weight"])
    fast.decode(params, cfg, tokens[:, :3], cache, n_new=np.array([3, 1]))
    new = np.stack(
        [np.r_[tokens[0, 3:], 0, 0], tokens[1, 1:]]
    )  # row 0 is full after two of the four
    logits = fast.decode(params, cfg, new, cache, n_new=np.array([2, 4]), only_last=True)
    np.testing.assert_allclose(logits, want[:, 4], rtol=1e-9, atol=1e-12)


def test_what_does_not_fit_is_refused():
    cfg, params = tiny()
    with pytest.raises(ValueError, match="10 positions, the model's context is 9"):
        fast.forward(params, cfg, np.zeros((1, 10), int))
    with pytest.raises(ValueError, match="id 13 is outside the model's vocabulary of 13"):
        fast.forward(params, cfg, np.array([[0, 13]]))
    cache = fast.Cache(cfg, 1, 4, params["wte.weight"])
    with pytest.raises(ValueError, match=r"n_new = \[0\]: expected 1 to 4"):
        fast.decode(params, cfg, np.zeros((1, 4), int), cache, n_new=np.array([0]))
    with pytest.raises(ValueError, match="a float32 cache for float64 parameters"):
        fast.decode(params, cfg, np.zeros((1, 4), int), fast.Cache(cfg, 1, 4))
    fast.decode(params, cfg, np.zeros((1, 4), int), cache)
    with pytest.raises(ValueError, match="5 positions do not fit the cache of 4"):
        fast.decode(params, cfg, np.zeros((1, 1), int), cache)
    with pytest.raises(ValueError, match="n_embd 10 is no multiple of n_head 3"):
        gpt.Config(5, 5, 10, 1, 3)


# ------------------------------------------------------------------------ what callers may do wrong


def everything(params, cfg):
    """A call that is right, for tests that make one argument wrong."""
    tokens, targets = batch(cfg, 3, 7)
    return {"params": params, "cfg": cfg, "tokens": tokens, "targets": targets}


def quadratic(y):  # a head
    return (y * y).sum(), 2 * y, None


def test_adding_to_nothing_is_refused():
    """Fresh arrays hold whatever was in memory."""
    cfg, params = tiny()
    call = everything(params, cfg)
    with pytest.raises(ValueError, match="add needs grads"):
        fast.loss_and_grads(**call, add=True)
    with pytest.raises(ValueError, match="add needs grads"):
        fast.hidden_and_grads(params, cfg, call["tokens"], quadratic, add=True)
    x, w, b, dy = randn(4, 3), randn(3), randn(3), randn(4, 3)
    with pytest.raises(ValueError, match="layernorm_backward: add needs out"):
        operations.layernorm_backward(dy, operations.layernorm_forward(x, w, b)[1], add=True)
    with pytest.raises(ValueError, match="linear_backward: add needs out"):
        operations.linear_backward(dy, x, randn(3, 3), add=True)


def test_tensors_beside_the_models_get_no_garbage():
    """A reward model has a head of its own among its parameters."""
    cfg, params = tiny()
    both = {**params, "score.weight": randn(12)}
    call = everything(both, cfg)
    for _ in range(3):
        np.full(12, 7.0)  # leaves 7s where the next array of this size may lie
        assert not fast.loss_and_grads(**call)[1]["score.weight"].any()
        assert not fast.hidden_and_grads(both, cfg, call["tokens"], quadratic)[1][
            "score.weight"
        ].any()
    grads = {k: np.full_like(p, 3.0) for k, p in both.items()}
    fast.loss_and_grads(**call, grads=grads)
    assert (grads["score.weight"] == 3.0).all()  # the caller's affair


@pytest.mark.parametrize(
    "name",
    [
        "attention_forward",
        "attention_backward",
        "layernorm_forward",
        "layernorm_backward",
        "linear_forward",
        "linear_backward",
        "gelu_forward",
        "gelu_backward",
    ],
)
def test_a_patched_operation_is_the_one_that_runs_everywhere(name, monkeypatch):
    """With recompute, block_forward ran attention by another route than the first forward."""
    cfg, params = tiny()
    call, right, calls = everything(params, cfg), getattr(operations, name), []
    monkeypatch.setattr(
        operations, name, lambda *args, **kwargs: calls.append(name) or right(*args, **kwargs)
    )
    monkeypatch.setattr(cores, "N_THREADS", 1)
    fast.loss_and_grads(**call)
    once = len(calls)
    fast.loss_and_grads(**call, recompute=True)
    again = (
        cfg.n_layer if name.endswith("forward") else 0
    )  # recompute runs each block's forward once more
    times = {"layernorm_forward": 2, "linear_forward": 4}.get(name, 1)
    assert once and len(calls) - once == once + again * times


def test_a_patched_attention_gives_the_same_gradients_with_recompute(monkeypatch):
    cfg, params = tiny()
    call, right = everything(params, cfg), operations.attention_forward

    def twice_as_much(qkv, n_head, out=None, hidden=None):
        o, cache = right(qkv, n_head, out, hidden)
        o *= 2.0
        return o, cache

    monkeypatch.setattr(operations, "attention_forward", twice_as_much)
    kept, again = (fast.loss_and_grads(**call, recompute=r)[1] for r in (False, True))
    for k in params:
        np.testing.assert_array_equal(kept[k], again[k])


@pytest.mark.parametrize(
    "tokens, positions, message",
    [
        ([[0, -1]], [[0, 1]], "tokens: id -1 is outside the table of 6"),
        ([[0, 6]], [[0, 1]], "tokens: id 6 is outside the table of 6"),
        ([[0, 1]], [[0, 5]], "positions: id 5 is outside the table of 5"),
        ([[0, 1]], [[-1, 0]], "positions: id -1 is outside the table of 5"),
        ([[0, 1]], [[0]], "positions: shape"),
        ([[0.0, 1.0]], [[0, 1]], "tokens: float64 numbers, expected integers"),
        ([[True, False]], [[0, 1]], "tokens: bool numbers, expected integers"),
        ([[0, 1]], [[0.0, 1.5]], "positions: float64 numbers, expected integers"),
    ],
)
def test_ids_outside_a_table_are_refused(tokens, positions, message):
    with pytest.raises((ValueError, TypeError), match=message):
        operations.embedding_forward(
            np.array(tokens), np.array(positions), randn(6, 4), randn(5, 4)
        )


@pytest.mark.parametrize(
    "indices, message",
    [
        ([0, -1], "id -1 is outside the table of 6"),
        ([0, 6], "id 6 is outside"),
        ([1], "dx: shape"),
        ([0.0, 1.0], "expected integers"),
        ([True, False], "expected integers"),
    ],
)
def test_gradients_of_ids_outside_a_table_are_refused(indices, message):
    table = np.zeros((6, 4))
    with pytest.raises((ValueError, TypeError), match=message):
        operations.embedding_backward(randn(2, 4), np.array(indices), table)
    assert not table.any()


@pytest.mark.parametrize(
    "targets, message",
    [
        ([0, -1], "targets: id -1 is outside"),
        ([0, 3], "targets: id 3 is outside"),
        ([0], "targets: shape"),
        ([0, 1, 2], "targets: shape"),
        ([0.0, 1.0], "expected integers"),
    ],
)
def test_targets_outside_the_logits_are_refused(targets, message):
    with pytest.raises((ValueError, TypeError), match=message):
        operations.cross_entropy_forward(randn(2, 3), np.array(targets))


def test_logits_are_used_up_once():
    _, cache = operations.cross_entropy_forward(randn(4, 3), np.array([0, 1, 2, 0]))
    with pytest.raises(ValueError, match="weights: shape"):
        operations.cross_entropy_backward(randn(1), cache)
    operations.cross_entropy_backward(randn(4), cache)
    with pytest.raises(ValueError, match="cache is used up"):
        operations.cross_entropy_backward(randn(4), cache)


class Tensor:  # of another library, which NumPy could read
    def __array__(self, dtype=None, copy=None):
        return np.zeros((2, 3))


@pytest.mark.parametrize(
    "x",
    [
        [1.0, 2.0],
        [[1.0]],
        3.0,
        None,
        (1.0,),
        "x",
        Tensor(),
        np.float64(1.0),
        np.ones((2, 3)).view(np.matrix),
        np.ma.ones((2, 3)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_is_no_array_is_named(x):
    """np.matrix multiplies with *, a masked array leaves numbers out: neither is an array here."""
    name = type(x).__name__
    for call in (
        lambda: operations.gelu_forward(x),
        lambda: operations.layernorm_forward(x, np.ones(3), np.ones(3)),
        lambda: operations.attention_forward(x, 1),
        lambda: operations.embedding_forward(x, x, np.ones((3, 3)), np.ones((3, 3))),
        lambda: checks.check_array("x", x),
    ):
        with pytest.raises(TypeError, match=rf"a \S*\b{name}, expected a NumPy array"):
            call()


def test_an_array_mapped_from_a_file_is_one(tmp_path):
    x = np.memmap(tmp_path / "x", np.float64, "w+", shape=(2, 3))
    x[...] = randn(2, 3)
    np.testing.assert_array_equal(
        operations.gelu_forward(x)[0], operations.gelu_forward(np.array(x))[0]
    )


BAD_CALLS = {
    "tokens as a list": ({"tokens": [[0, 1]]}, "tokens: a builtins.list"),
    "tokens as floats": (
        {"tokens": np.zeros((3, 7))},
        "tokens: float64 numbers, expected integers",
    ),
    "tokens as bools": ({"tokens": np.zeros((3, 7), bool)}, "tokens: bool numbers"),
    "one dimension": ({"tokens": np.zeros(7, int)}, r"tokens: shape \(7,\)"),
    "no rows": (
        {"tokens": np.zeros((0, 7), int), "targets": np.zeros((0, 7), int)},
        r"tokens: shape \(0, 7\)",
    ),
    "no positions": (
        {"tokens": np.zeros((3, 0), int), "targets": np.zeros((3, 0), int)},
        r"tokens: shape \(3, 0\)",
    ),
    "negative token": ({"tokens": np.full((3, 7), -1)}, "tokens: id -1 is outside"),
    "targets as a list": ({"targets": [[0, 1]]}, "targets: a builtins.list"),
    "targets as floats": ({"targets": np.zeros((3, 7))}, "targets: float64 numbers"),
    "targets transposed": (
        {"targets": np.zeros((7, 3), int)},
        r"targets: shape \(7, 3\), expected \(3, 7\)",
    ),
    "targets of one row": ({"targets": np.zeros((1, 7), int)}, r"targets: shape \(1, 7\)"),
    "targets of -2": ({"targets": np.full((3, 7), -2)}, "targets: id -2 is outside"),
    "target beyond the vocabulary": ({"targets": np.full((3, 7), 13)}, "targets: id 13 is outside"),
    "weights as a list": ({"weights": [[1.0]]}, "weights: a builtins.list"),
    "weights of one row": ({"weights": np.ones((1, 7))}, r"weights have shape \(1, 7\)"),
    "weights of NaN": (
        {"weights": np.where(np.eye(3, 7), np.nan, 1.0)},
        "weights: not all are finite",
    ),
    "weights of inf": (
        {"weights": np.where(np.eye(3, 7), np.inf, 1.0)},
        "weights: not all are finite",
    ),
    "complex weights": ({"weights": np.ones((3, 7), complex)}, "weights: complex128"),
    "temperature 0": ({"temperature": 0.0}, "temperature: 0.0"),
    "temperature below 0": ({"temperature": -1.0}, "temperature: -1.0"),
    "temperature NaN": ({"temperature": math.nan}, "temperature: nan"),
    "temperature inf": ({"temperature": math.inf}, "temperature: inf"),
    "no threads": ({"threads": 0}, "threads: 0"),
    "threads below 0": ({"threads": -1}, "threads: -1"),
    "half a thread": ({"threads": 1.5}, "threads: 1.5"),
    "position of the context's length": (
        {"positions": np.full((3, 7), 9)},
        "positions: id 9 is outside the model's context of 9",
    ),
    "negative position": ({"positions": np.full((3, 7), -1)}, "positions: id -1 is outside"),
    "positions of one row": ({"positions": np.zeros((1, 7), int)}, r"positions: shape \(1, 7\)"),
    "positions of one sequence": ({"positions": np.arange(7)}, r"positions: shape \(7,\)"),
    "positions as floats": ({"positions": np.zeros((3, 7))}, "positions: float64"),
    "positions as a list": ({"positions": [[0]]}, "positions: a builtins.list"),
    "segments of one row": ({"segments": np.zeros((1, 7), int)}, r"segments: shape \(1, 7\)"),
    "segments as floats": ({"segments": np.zeros((3, 7))}, "segments: float64"),
    "segments as bools": ({"segments": np.zeros((3, 7), bool)}, "segments: bool"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_wrong_arguments_are_refused_before_anything_is_written(name):
    cfg, params = tiny()
    bad, message = BAD_CALLS[name]
    call = {**everything(params, cfg), **bad}
    grads = {k: np.ones_like(p) for k, p in params.items()}
    with pytest.raises((ValueError, TypeError), match=message):
        fast.loss_and_grads(**call, grads=grads)
    assert all((g == 1.0).all() for g in grads.values())
    if bad.keys() & {"weights", "threads", "positions", "segments"}:
        return
    with pytest.raises((ValueError, TypeError), match=message):
        fast.token_losses(**call)
    if "tokens" in bad:
        with pytest.raises((ValueError, TypeError), match=message):
            fast.forward(params, cfg, bad["tokens"])
        with pytest.raises((ValueError, TypeError), match=message):
            fast.hidden_and_grads(params, cfg, bad["tokens"], quadratic)
        with pytest.raises((ValueError, TypeError), match=message):
            fast.decode(params, cfg, bad["tokens"], fast.Cache(cfg, 3, like=params["wte.weight"]))


def without(arrays, name):
    return {k: a for k, a in arrays.items() if k != name}


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda p, cfg: (without(p, "h.1.ln_1.weight"), cfg),
            "no tensor h.1.ln_1.weight, which a model of 2 layers has",
        ),
        (lambda p, cfg: (p, gpt.Config(13, 9, 12, 1, 3)), "more layers than the config's 1"),
        (
            lambda p, cfg: (p, gpt.Config(14, 9, 12, 2, 3)),
            r"wte.weight has shape \(13, 12\), the config says \(14, 12\)",
        ),
        (lambda p, cfg: (p, gpt.Config(13, 10, 12, 2, 3)), r"wpe.weight has shape \(9, 12\)"),
        (
            lambda p, cfg: ({**p, "h.0.ln_2.bias": p["h.0.ln_2.bias"].astype(np.float32)}, cfg),
            "h.0.ln_2.bias is float32, wte.weight float64",
        ),
        (
            lambda p, cfg: ({**p, "h.0.ln_2.bias": np.zeros(1)}, cfg),
            r"h.0.ln_2.bias has shape \(1,\)",
        ),
        (
            lambda p, cfg: ({**p, "wte.weight": p["wte.weight"].tolist()}, cfg),
            "wte.weight: a builtins.list",
        ),
    ],
)
def test_parameters_of_another_config_are_refused(change, message):
    """With fewer layers in the config, the others' gradients were whatever was in memory."""
    cfg, params = tiny()
    params, cfg = change(params, cfg)
    call = everything(params, cfg)
    for f in (
        lambda: fast.loss_and_grads(**call),
        lambda: fast.token_losses(**call),
        lambda: fast.forward(params, cfg, call["tokens"]),
        lambda: fast.hidden_and_grads(params, cfg, call["tokens"], quadratic),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            f()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda g, p: without(g, "h.1.ln_1.bias"), "no array for h.1.ln_1.bias"),
        (
            lambda g, p: {**g, "h.1.ln_1.bias": np.zeros((1, 12))},
            r"h.1.ln_1.bias is float64 \(1, 12\)",
        ),
        (lambda g, p: {**g, "h.1.ln_1.bias": np.zeros(12, np.float32)}, "h.1.ln_1.bias is float32"),
        (lambda g, p: {**g, "h.1.ln_1.bias": [0.0] * 12}, "h.1.ln_1.bias is a list"),
        (
            lambda g, p: {**g, "h.1.ln_1.bias": p["h.1.ln_1.bias"]},
            "h.1.ln_1.bias shares memory with the parameter",
        ),
        (
            lambda g, p: {**g, "h.1.ln_1.bias": p["h.1.ln_1.bias"][::-1]},
            "h.1.ln_1.bias shares memory with the parameter",
        ),
        (
            lambda g, p: {**g, "h.1.ln_1.bias": g["h.0.ln_1.bias"]},
            "one array serves two parameters",
        ),
    ],
)
@pytest.mark.parametrize("add", [False, True])
def test_wrong_places_for_gradients_are_refused(change, message, add):
    cfg, params = tiny()
    call, grads = (
        everything(params, cfg),
        change({k: np.ones_like(p) for k, p in params.items()}, params),
    )
    before = {k: np.array(g) for k, g in grads.items()}
    with pytest.raises((ValueError, TypeError), match=message):
        fast.loss_and_grads(**call, grads=grads, add=add)
    with pytest.raises((ValueError, TypeError), match=message):
        fast.hidden_and_grads(params, cfg, call["tokens"], quadratic, grads=grads, add=add)
    assert all(np.array_equal(grads[k], before[k]) for k in grads)


@pytest.mark.parametrize(
    "head, message",
    [
        (
            lambda y, grads, p: (0.0, y.swapaxes(0, 1), None),
            r"head: dy: shape \(7, 3, 12\), expected \(3, 7, 12\)",
        ),
        (lambda y, grads, p: (0.0, y[:1], None), "head: dy: shape"),
        (
            lambda y, grads, p: (0.0, y, np.ones(12)),
            r"head: dwte: shape \(12,\), expected \(13, 12\)",
        ),
        (lambda y, grads, p: (0.0, y, grads["wte.weight"]), "head: dwte: out shares memory"),
    ],
)
def test_what_a_head_returns_is_checked(head, message):
    """Its dwte in the place of the gradient itself was zeroed before it was added."""
    cfg, params = tiny()
    grads = {k: np.ones_like(p) for k, p in params.items()}
    with pytest.raises(ValueError, match=message):
        fast.hidden_and_grads(
            params, cfg, batch(cfg, 3, 7)[0], lambda y: head(y, grads, params), grads=grads
        )
    assert all((g == 1.0).all() for g in grads.values())


def test_an_arena_has_one_user_at_a_time():
    """A head that used its own call's arena got the hidden states of the inner call."""
    cfg, params = tiny()
    call, arena = everything(params, cfg), cores.Arena()
    inside = (
        lambda: fast.loss_and_grads(**call, arena=arena),
        lambda: fast.token_losses(**call, arena=arena),
        lambda: fast.hidden_and_grads(params, cfg, call["tokens"], quadratic, arena=arena),
    )
    for f in inside:
        for want_grads in (True, False):
            with pytest.raises(ValueError, match="arena: in use by another call"):
                fast.hidden_and_grads(
                    params,
                    cfg,
                    call["tokens"],
                    lambda y, f=f: f() and quadratic(y),
                    want_grads,
                    arena=arena,
                )
    with ThreadPoolExecutor(1) as other:  # another thread, likewise
        with pytest.raises(ValueError, match="arena: in use by another call"):
            fast.hidden_and_grads(
                params, cfg, call["tokens"], lambda y: other.submit(inside[0]).result(), arena=arena
            )
    assert (
        fast.loss_and_grads(**call, arena=arena)[0] == fast.loss_and_grads(**call)[0]
    )  # free again after the errors


def two(*shape):
    """Two arrays that share memory, one shifted by a row."""
    memory = randn(shape[0] + 1, *shape[1:])
    return memory[:-1], memory[1:]


def test_results_over_what_is_still_read_are_refused():
    N, C, F, B, T, H = 6, 4, 8, 2, 3, 2
    x, w, b, dy, h = randn(N, C), randn(C), randn(C), randn(N, C), randn(N, 1)
    one, shifted = two(N, C)
    cache = operations.layernorm_forward(x, w, b)[1]
    n, rstd, _ = cache
    spare, w2, wide = randn(N, C), randn(C, F), randn(N, F)
    qkv, do = randn(B, T, 3 * C), randn(B, T, C)
    attention = operations.attention_forward(qkv, H)[1]
    _, o, lse = attention
    flat = randn(B * T * 4 * C)
    small, large = flat[: B * T * C].reshape(B, T, C), flat[: B * T * 3 * C].reshape(B, T, 3 * C)
    shifted_by_C = flat[C : C + B * T * 3 * C].reshape(B, T, 3 * C)
    refused = {
        "y is n": lambda: operations.layernorm_forward(x, w, b, out=(spare, spare, h)),
        "n is x shifted": lambda: operations.layernorm_forward(one, w, b, out=(spare, shifted, h)),
        "y is plus shifted": lambda: operations.layernorm_forward(
            x, w, b, out=(one, spare, h), plus=shifted
        ),
        "dw is db": lambda: operations.layernorm_backward(dy, cache, out=(spare, b, b)),
        "dx holds db": lambda: operations.layernorm_backward(
            dy, cache, out=(spare, randn(C), spare[0])
        ),
        "dw is w": lambda: operations.layernorm_backward(dy, cache, out=(spare, w, randn(C))),
        "dx is dy shifted": lambda: operations.layernorm_backward(
            one, cache, out=(shifted, randn(C), randn(C))
        ),
        "dx is plus shifted": lambda: operations.layernorm_backward(
            dy, cache, one, out=(shifted, randn(C), randn(C))
        ),
        "linear: dw is w": lambda: operations.linear_backward(
            randn(N, F), x, w2, out=(spare, w2, randn(F))
        ),
        "linear: db is in dy": lambda: operations.linear_backward(
            wide, x, w2, out=(spare, randn(C, F), wide[0])
        ),
        "gelu: y is slope": lambda: operations.gelu_forward(x, out=(spare, spare)),
        "gelu: y is x shifted": lambda: operations.gelu_forward(one, out=(shifted, spare)),
        "gelu: slope is x shifted": lambda: operations.gelu_forward(one, out=(spare, shifted)),
        "attention: o in qkv": lambda: operations.attention_forward(
            qkv, H, out=(qkv[..., :C], np.empty_like(lse))
        ),
        "attention: o holds lse": lambda: operations.attention_forward(
            qkv, H, out=(small, flat[: B * H * T].reshape(B, H, T, 1))
        ),
        "attention: out holds do": lambda: operations.attention_backward(
            small, attention, H, out=large
        ),
        "attention: out holds o": lambda: operations.attention_backward(
            do, (qkv, small, lse), H, out=large
        ),
        "attention: out is qkv shifted": lambda: operations.attention_backward(
            do, (large, o, lse), H, out=shifted_by_C
        ),
    }
    for what, call in refused.items():
        try:
            call()
        except ValueError as error:
            assert "shares memory" in str(error), what
        else:
            pytest.fail(f"{what}: not refused")


def test_results_in_the_place_of_what_is_read_no_more():
    """The places that training uses, and views of the same places; columns that lie between one
    another share nothing."""
    x, plus, w, b, dy = randn(6, 4), randn(6, 4), randn(4), randn(4), randn(6, 4)
    want, cache = operations.layernorm_forward(x, w, b)
    for place in (0, 1):
        stream, other, rstd = x.copy(), randn(6, 4), randn(6, 1)
        out = (stream[:], other, rstd) if place == 0 else (other, stream[:], rstd)
        np.testing.assert_array_equal(operations.layernorm_forward(stream, w, b, out=out)[0], want)
    pair = randn(6, 8)
    np.testing.assert_array_equal(
        operations.layernorm_forward(x, w, b, out=(pair[:, ::2], pair[:, 1::2], randn(6, 1)))[0],
        want,
    )
    want = operations.layernorm_backward(dy, cache, plus)[0]
    for i in range(3):
        arrays = [dy.copy(), cache[0].copy(), plus.copy()]
        found = operations.layernorm_backward(
            arrays[0], (arrays[1], *cache[1:]), arrays[2], out=(arrays[i][:], randn(4), randn(4))
        )[0]
        np.testing.assert_array_equal(found, want)
    y, slope = operations.gelu_forward(x)
    for place in (0, 1):
        same = x.copy()
        out = (same[:], randn(6, 4)) if place == 0 else (randn(6, 4), same[:])
        found = operations.gelu_forward(same, out=out)
        np.testing.assert_array_equal(found[0], y)
        np.testing.assert_array_equal(found[1], slope)
    qkv, do = randn(2, 3, 12), randn(2, 3, 4)
    _, cache = operations.attention_forward(qkv, 2)
    want = operations.attention_backward(do, cache, 2)
    np.testing.assert_array_equal(
        operations.attention_backward(do, cache, 2, out=qkv.reshape(6, 12).reshape(2, 3, 12)), want
    )


def test_shapes_that_numpy_would_stretch_are_refused():
    x, w, b, qkv, hidden = randn(4, 4), randn(4), randn(4), randn(2, 3, 12), np.zeros((1, 3, 3))
    _, cache = operations.layernorm_forward(x, w, b)
    _, attention = operations.attention_forward(qkv, 2)
    for call in (
        lambda: operations.layernorm_forward(x, w, b, plus=randn(4)),
        lambda: operations.layernorm_backward(x, cache, plus=randn(4, 1)),
        lambda: operations.layernorm_backward(x[:2], cache),
        lambda: operations.attention_forward(qkv, 2, hidden=hidden),
        lambda: operations.attention_backward(randn(2, 3, 4), attention, 2, hidden=hidden),
        lambda: operations.attention_backward(randn(1, 3, 4), attention, 2),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()


def test_remembered_arrays_cannot_be_written_to_and_follow_the_constants(monkeypatch):
    cfg, _ = tiny()
    shapes = fast.step_shapes(cfg, 3, 7, 1)
    with pytest.raises(TypeError):
        shapes["x"] = (1,)
    with pytest.raises(ValueError, match="read-only"):
        operations.causal_mask(4, np.dtype(np.float64))[0, 0] = 1.0
    assert shapes["logits"] == (21, 13)
    monkeypatch.setattr(fast, "LOGIT_FLOATS", 5 * 13)
    assert fast.step_shapes(cfg, 3, 7, 1)["logits"] == (5, 13)
    with pytest.raises(ValueError, match="threads: 0"):
        fast.memory_plan(cfg, 3, 7, threads=0)


def test_a_cache_of_another_shape_is_refused():
    cfg, params = tiny()
    like, one = params["wte.weight"], np.zeros((2, 1), int)
    good = fast.Cache(cfg, 2, like=like)
    one_layer, two_heads = gpt.Config(13, 9, 12, 1, 3), gpt.Config(13, 9, 12, 2, 2)
    for rows, cache_of, model in (
        (1, cfg, cfg),
        (3, cfg, cfg),
        (2, one_layer, cfg),
        (2, two_heads, cfg),
        (2, one_layer, one_layer),
    ):
        cache = fast.Cache(cache_of, rows, like=like)
        with pytest.raises(ValueError, match="a cache of . rows"):
            fast.decode(params, model, one, cache)
        assert not cache.length.any()
    for n_new in (
        np.array([1]),
        np.array(1),
        np.array([1.0, 1.0]),
        np.array([[1], [1]]),
        np.array([True, True]),
        [1, 1, 1],
    ):
        with pytest.raises(ValueError, match="n_new: .* expected an integer for each of 2 rows"):
            fast.decode(params, cfg, one, good, n_new=n_new)
    for n_positions in (0, -1, 10):
        with pytest.raises(ValueError, match=f"cache of {n_positions} positions"):
            fast.Cache(cfg, 2, n_positions)
    for index in (0, np.array(1), np.array([0, 1])):
        with pytest.raises(ValueError, match="rows of a cache"):
            good.rows(index)
    assert not good.length.any()
    fast.decode(params, cfg, one, good, n_new=[1, 1])  # a list of the right length is as good
    assert good.length.tolist() == [1, 1]
