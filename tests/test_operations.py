"""model/operations.py against finite differences and naive loops, and what it refuses."""

import math

import numpy as np
import pytest

from model import checks, operations
from conftest import check_grad
from test_fast import RNG, blocks, in_blocks, randn, same_numbers  # noqa: F401


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
    o, cache = operations.attention_forward(qkv, NH, hidden=hidden)
    for row in range(B):
        for segment in set(segments[row]):
            own = np.isin(segments[row], [0, segment])
            alone, _ = operations.attention_forward(qkv[row : row + 1, own], NH)
            where = segments[row, own] == segment
            np.testing.assert_allclose(o[row, own][where], alone[0, where], atol=1e-12)
    dqkv = operations.attention_backward(do, cache, NH, hidden=hidden)
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


@in_blocks
def test_gelu_and_cross_entropy_values():
    x = np.array([[-3.0, -0.5, 0.0, 0.5, 3.0]])
    want = [0.5 * a * (1 + math.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))) for a in x[0]]
    np.testing.assert_allclose(operations.gelu_forward(x)[0][0], want, rtol=1e-12, atol=1e-15)
    nll, _ = operations.cross_entropy_forward(
        np.array([np.log([0.2, 0.3, 0.5]), [1000.0, 0.0, -1000.0]]), np.array([1, 0])
    )
    np.testing.assert_allclose(nll, [-math.log(0.3), 0.0], rtol=1e-12)


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
    with pytest.raises(TypeError, match=rf"a \S*\b{name}, expected a NumPy array"):
        checks.check_array("x", x)


def test_an_array_mapped_from_a_file_is_one(tmp_path):
    x = np.memmap(tmp_path / "x", np.float64, "w+", shape=(2, 3))
    x[...] = randn(2, 3)
    np.testing.assert_array_equal(
        operations.gelu_forward(x)[0], operations.gelu_forward(np.array(x))[0]
    )


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
