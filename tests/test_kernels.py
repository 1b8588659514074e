"""kernels/: every kernel against its NumPy operation in float64, on a GPU if there is one, else on
the CPU.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "cuda"))
try:
    import cupy as cp

    cp.cuda.runtime.getDeviceCount()
    ON_GPU = True
except Exception:       # no CuPy, no driver, no device: the stand-in runs the same kernels
    if os.environ.get("LONGHAND_GPU"):      # `make gpu` is to test the GPU
        raise
    import cupy_cpu as cp

    if cp.MISSING:
        pytest.skip(f"no GPU, and the CPU that plays one needs {cp.MISSING}",
                    allow_module_level=True)
    sys.modules["cupy"] = cp
    ON_GPU = False

from model import operations
import gpt
import kernels
from kernels import launching
import train

RNG = np.random.default_rng(0)  # a new one for each test, so that it draws the same if run alone
# Of the largest number of the result: some roundings of 2^-24, of 2^-9.
TOLERANCE = {"float32": 2e-5, "bf16": 2e-2}
DTYPES = list(TOLERANCE)
SIZES = [(1, 1), (1, 31), (31, 33), (33, 8), (257, 40), (5, 257), (7, 1032)]


@pytest.fixture(autouse=True)
def _rng():
    global RNG
    RNG = np.random.default_rng(0)


def bits_of(x):  # float -> bfloat16 as uint16, to the nearest, ties to even
    u = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


def value_of(bits):
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def device(x, dtype):
    """(array for the kernels, the same numbers in float64, as the kernels see them)"""
    a = cp.asarray(bits_of(x) if dtype == "bf16" else np.asarray(x, np.float32))
    return a, host(a).astype(np.float64)


def host(a):
    a = cp.asnumpy(a)
    return value_of(a) if a.dtype == np.uint16 else a


def same(got, want, dtype, what=""):
    got, want = host(got).astype(np.float64), np.asarray(want)
    assert got.shape == want.shape, what
    error = np.abs(got - want).max() if want.size else 0.0
    assert error <= TOLERANCE[dtype] * max(np.abs(want).max(), 1e-3), (
        f"{what}: off by {error:.2e}, the largest is {np.abs(want).max():.2e}")


def randn(*shape):
    return RNG.standard_normal(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N, C", SIZES)
@pytest.mark.parametrize("fused", [False, True])
def test_layernorm(N, C, dtype, fused):
    (x, x64), (w, w64), (b, b64), (dy, dy64), (plus, plus64) = (
        device(randn(*s), dtype) for s in ((N, C), (C,), (C,), (N, C), (N, C)))
    y, cache = kernels.layernorm_forward(x, w, b, plus=plus if fused else None)
    if fused:
        x64 = x64 + plus64
        same(x, x64, dtype, "x")
    want, want_cache = operations.layernorm_forward(x64, w64, b64)
    if C > 1:  # the deviation of one number is 0, and its inverse all rounding
        same(y, want, dtype, "y")
        same(cache[0], want_cache[0], dtype, "n")
    n64, rstd64 = host(cache[0]).astype(np.float64), host(cache[1]).astype(np.float64)
    got = kernels.layernorm_backward(dy, cache, plus=plus if fused else None)
    want = operations.layernorm_backward(dy64, (n64, rstd64, w64), plus64 if fused else None)
    for what, a, a64 in zip(("dx", "dw", "db"), got, want):
        same(a, a64, dtype, what)
    again = kernels.layernorm_backward(dy, cache, plus=plus if fused else None,
                                       out=tuple(map(cp.array, map(cp.asnumpy, got))), add=True)
    same(again[1], 2 * want[1], dtype, "dw added")
    assert got[1].dtype == got[2].dtype == np.float32  # gradients of parameters


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 31, 33, 257, 5000])
def test_gelu(n, dtype):
    (x, x64), (dy, dy64) = device(3 * randn(n), dtype), device(randn(n), dtype)
    y, cache = kernels.gelu_forward(x)
    want, slope = operations.gelu_forward(x64[None])
    same(y, want[0], dtype, "y")
    same(kernels.gelu_backward(dy, cache), dy64 * slope[0], dtype, "dx")


@pytest.mark.parametrize("least", [0, 1 << 16])  # two ways to sort
def test_look_ups(least):
    tokens = least + RNG.integers(0, 50, 300)
    order, starts, values = kernels.look_ups(tokens)
    np.testing.assert_array_equal(order, np.argsort(tokens, kind="stable"))
    different, first = np.unique(tokens[order], return_index=True)
    np.testing.assert_array_equal(starts, np.pad(first, (0, 301 - len(first)), constant_values=300))
    np.testing.assert_array_equal(values[: len(first)], different)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N, C", SIZES)
def test_embedding(N, C, dtype):
    V, P = 11, 300
    tokens, positions = RNG.integers(0, V, N).astype(np.int32), (np.arange(N) % P).astype(np.int32)
    (wte, wte64), (wpe, wpe64), (dx, dx64) = (
        device(randn(*s), dtype) for s in ((V, C), (P, C), (N, C)))
    dtable, dtable64 = device(randn(V, C), "float32")
    x = kernels.embedding_forward(cp.asarray(tokens), cp.asarray(positions), wte, wpe)
    same(x, operations.embedding_forward(tokens, positions, wte64, wpe64), dtype, "x")
    kernels.embedding_backward(dx, tuple(map(cp.asarray, kernels.look_ups(tokens))), dtable)
    operations.embedding_backward(dx64, tokens, dtable64)
    same(dtable, dtable64, dtype, "dtable")
    B = 3 if N % 3 == 0 else 1
    dwpe, dwpe64 = device(randn(N // B + 2, C), "float32")
    kernels.position_backward(dx, B, dwpe)
    dwpe64[: N // B] += dx64.reshape(B, N // B, C).sum(0)
    same(dwpe, dwpe64, dtype, "dwpe")
    kernels.position_backward(dx, B, dwpe, add=False)
    same(dwpe, np.concatenate([dx64.reshape(B, N // B, C).sum(0), np.zeros((2, C))]), dtype,
         "dwpe not added")


@pytest.mark.parametrize("dtype, B, T, NH, HS",
                         [("float32", 1, 1, 1, 1), ("float32", 2, 33, 3, 5),
                          ("float32", 1, 70, 2, 64), ("float32", 1, 9, 1, 256),
                          ("bf16", 2, 33, 2, 16), ("bf16", 1, 1, 1, 32), ("bf16", 1, 150, 2, 32),
                          ("bf16", 1, 1, 1, 64), ("bf16", 1, 127, 1, 64), ("bf16", 1, 128, 1, 64),
                          ("bf16", 1, 257, 1, 64), ("bf16", 2, 70, 1, 128), ("bf16", 2, 63, 1, 64),
                          ("bf16", 1, 64, 2, 64), ("bf16", 1, 65, 1, 64), ("bf16", 1, 150, 1, 64),
                          ("bf16", 1, 129, 1, 128)])
def test_attention(dtype, B, T, NH, HS):
    (qkv, qkv64), (do, do64) = (device(randn(B, T, 3 * NH * HS), dtype),
                                device(randn(B, T, NH * HS), dtype))
    o, cache = kernels.attention_forward(qkv, NH)
    want, want_cache = operations.attention_forward(qkv64, NH)
    same(o, want, dtype, "o")
    same(cache[2], want_cache[2], "float32" if dtype == "float32" else "bf16", "lse")
    dqkv = kernels.attention_backward(do, cache, NH)
    want = operations.attention_backward(do64, want_cache, NH).reshape(B, T, 3, -1)
    got = host(dqkv).astype(np.float64).reshape(B, T, 3, -1)
    for i, what in enumerate(("dq", "dk", "dv")):  # each against its own largest number
        error, most = np.abs(got[:, :, i] - want[:, :, i]).max(), np.abs(want[:, :, i]).max()
        assert error <= TOLERANCE[dtype] * max(most, 1e-2), (
            f"{what}: off by {error:.2e}, the largest is {most:.2e}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("B, T, NH, S, HS",
                         [(1, 1, 1, 1, 1), (3, 1, 2, 9, 5), (2, 4, 3, 40, 32), (2, 1, 1, 70, 64),
                          (1, 3, 2, 33, 128), (1, 1, 1, 20, 256)])
def test_decode_attention(B, T, NH, S, HS, dtype):
    (qkv, qkv64), (k, k64), (v, v64) = (
        device(randn(*s), dtype) for s in ((B, T, 3 * NH * HS), (B, NH, S, HS), (B, NH, S, HS)))
    length, n_new = (RNG.integers(0, S - T + 1, B).astype(np.int32),
                     RNG.integers(1, T + 1, B).astype(np.int32))
    length[0], n_new[0] = S - T, T
    o = host(kernels.decode_attention(qkv, k, v, cp.asarray(length), cp.asarray(n_new)))
    q, k_new, v_new = qkv64.reshape(B, T, 3, NH, HS).transpose(2, 0, 1, 3, 4)
    for b in range(B):
        for t in range(n_new[b]):
            seen = slice(0, length[b] + t + 1)
            k64[b, :, length[b] + t], v64[b, :, length[b] + t] = k_new[b, t], v_new[b, t]
            s = np.einsum("hd,hjd->hj", q[b, t], k64[b, :, seen]) / HS**0.5
            p = np.exp(s - s.max(-1, keepdims=True))
            same(cp.asarray(o[b, t]),
                 np.einsum("hj,hjd->hd", p / p.sum(-1, keepdims=True), v64[b, :, seen]).ravel(),
                 dtype, f"o of row {b}, {t}")
    # The cache has the new keys, and nothing else is changed.
    np.testing.assert_array_equal(host(k), k64.astype(np.float32))
    np.testing.assert_array_equal(host(v), v64.astype(np.float32))
    rows = RNG.integers(0, B * T, 3).astype(np.int32)
    np.testing.assert_array_equal(host(kernels.take_rows(qkv.reshape(B * T, -1), cp.asarray(rows),
                                                         cp.empty((3, 3 * NH * HS), qkv.dtype))),
                                  qkv64.reshape(B * T, -1)[rows].astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N, V, stride",
                         [(1, 1, 1), (3, 31, 31), (5, 65, 65), (33, 257, 264), (4, 1000, 1000),
                          (2, 9001, 9008)])
def test_cross_entropy(N, V, stride, dtype):
    z, z64 = device(3 * randn(N, stride), dtype)
    targets, weights = RNG.integers(0, V, N).astype(np.int32), randn(N).astype(np.float32)
    before = host(z).copy()
    nll = kernels.cross_entropy(z, cp.asarray(targets), n_vocab=V)
    want, cache = operations.cross_entropy_forward(z64[:, :V].copy(), targets)
    same(nll, want, "float32", "nll")  # from logits as they are: only the sum is rounded
    np.testing.assert_array_equal(host(z), before)
    same(kernels.cross_entropy(z, cp.asarray(targets), cp.asarray(weights), n_vocab=V), want,
         "float32", "nll again")
    same(cp.asarray(host(z)[:, :V]),
         operations.cross_entropy_backward(weights.astype(np.float64), cache), dtype, "dz")
    assert not host(z)[:, V:].any()
    state = cp.zeros((3,), np.float32)
    for times in (1, 2):
        kernels.loss_sum(nll, cp.asarray(weights), state, add=times > 1)
        np.testing.assert_allclose(host(state), [times * (want * weights).sum(), 0, 0], rtol=1e-5,
                                   atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N, F", SIZES)
def test_bias(N, F, dtype):
    (y, y64), (b, b64) = (device(randn(*s), dtype) for s in ((N, F), (F,)))
    db, db64 = device(randn(F), "float32")
    same(kernels.bias_backward(y), y64.sum(0), dtype, "db")
    same(kernels.bias_backward(y, out=db, add=True), db64 + y64.sum(0), dtype, "db added")
    same(kernels.bias_forward(y, b), y64 + b64, dtype, "y")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, n_decayed", [(1, 0), (33, 33), (5000, 1234)])
def test_adamw_and_norm(n, n_decayed, dtype):
    (grads, g), lr, clip, b1, b2, eps, decay = (
        device(randn(n), "float32"), 0.01, 0.5, 0.9, 0.95, 1e-8, 0.1)
    p, m, v = randn(n), 0.1 * randn(n), 0.1 * randn(n) ** 2
    master, dm, dv = (cp.asarray(a.astype(np.float32)) for a in (p, m, v))
    params = cp.zeros((n,), np.uint16) if dtype == "bf16" else None
    state, t = cp.asarray(np.array([2.5, 0.0, 0.0], np.float32)), 3
    rates = cp.asarray(np.array([lr, 1 / (1 - b1**t), 1 / (1 - b2**t)], np.float32))
    kernels.grad_norm(grads, clip, state)
    norm = np.sqrt((g * g).sum())
    np.testing.assert_allclose(host(state), [2.5, norm, min(1.0, clip / norm)], rtol=1e-5)
    kernels.adamw(grads, master, dm, dv, params, state, rates, n_decayed, b1, b2, eps, decay)
    g = g * min(1.0, clip / norm)
    m, v = m + (1 - b1) * (g - m), v + (1 - b2) * (g * g - v)
    p = p - lr * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
                  + decay * p * (np.arange(n) < n_decayed))
    for what, a, want in (("m", dm, m), ("v", dv, v), ("master", master, p)):
        same(a, want, "float32", what)
    if params is not None:
        np.testing.assert_array_equal(cp.asnumpy(params), bits_of(host(master)))
    kept, bad = host(master).copy(), host(grads).copy()
    bad[n // 2] = np.nan
    # A step that would spoil everything is not taken.
    for loss, values in ((2.5, bad), (np.nan, host(grads)), (np.inf, host(grads))):
        state.set(np.array([loss, 0.0, 1.0], np.float32))
        kernels.grad_norm(cp.asarray(values), clip, state)
        kernels.adamw(grads, master, dm, dv, params, state, rates, n_decayed, b1, b2, eps, decay)
        assert host(state)[2] == 0 and np.array_equal(host(master), kept)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_in, n_out, n_parts, blocks",
                         [(1, 1, 1, 1024), (1, 5, 1, 1024), (5, 1, 3, 1024), (8, 8, 3, 3),
                          (33, 257, 1, 1024), (257, 33, 1, 1024), (300, 257, 1, 4)])
def test_muon(n_in, n_out, n_parts, blocks, dtype, monkeypatch):
    """Steps of train.Muon for one matrix: the first is clipped, and the second skipped.

    In bfloat16 each of the five rounds adds some roundings of 2^-9.
    """
    monkeypatch.setattr(kernels.muon, "MOST_BLOCKS", blocks)
    name, width = "h.0.attn.c_attn.weight" if n_parts == 3 else "h.0.w", n_parts * n_out
    p = host(device(randn(n_in, width), dtype)[0]).astype(np.float64)
    optimizer = train.Muon({name: p}, ratio=2.0, momentum=0.9, weight_decay=0.5)
    mean, master = cp.zeros(p.shape, np.float32), cp.asarray(p.astype(np.float32))
    params = kernels.to_bf16(master) if dtype == "bf16" else None
    rates, kind = cp.asarray(np.array([0.1, 1, 1], np.float32)), device(p, dtype)[0].dtype
    memory = {k: cp.empty(shape, kind) for k, shape in
              kernels.muon.memory_shapes((n_in + 1, n_out)).items()}
    for scale in (0.5, 0.0, 1.0):
        g, start = randn(n_in, width).astype(np.float32), host(master).astype(np.float64)
        grads, state = cp.asarray(g), cp.asarray(np.array([1, 1, scale], np.float32))
        was, p_was = [host(a).copy() for a in (grads, mean, master)], p.copy()
        kernels.muon.step(grads, mean, master, params, state, rates, memory, n_parts, 2.0, 0.9, 0.5)
        if scale == 0.0:
            for a, before in zip((grads, mean, master), was):
                np.testing.assert_array_equal(host(a), before)
            continue
        optimizer.step({name: g.astype(np.float64)}, 0.1, scale)
        same(mean, optimizer.mean[name], "float32", "mean")
        ahead = 0.1 * scale * g.astype(np.float64) + 0.9 * optimizer.mean[name]
        same(grads, ahead, "float32", "look-ahead")
        error = np.linalg.norm(host(master) - start - (p - p_was)) / np.linalg.norm(p - p_was)
        assert error < (0.05 if dtype == "bf16" else 1e-5), error
    if params is not None:
        np.testing.assert_array_equal(cp.asnumpy(params), bits_of(host(master)))


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_muon_takes_part_of_a_matrix(shape):
    """What lies left and right of the part stays as it is."""
    (n_in, n_out), first = shape, 7
    whole = [randn(n_in, n_out + 15).astype(np.float32) for _ in range(3)]
    grads, mean, master = map(cp.asarray, whole)
    x, ones = cp.empty(shape, np.float32), cp.asarray(np.ones(3, np.float32))
    kernels.muon.look_ahead(grads, mean, x, ones, 0.9, first)
    kernels.muon.update(master, None, x, ones, ones, 2.0, 0.5, first)
    part = slice(first, first + n_out)
    for a, before in zip((grads, mean, master), whole):
        changed = host(a) != before
        assert changed[:, part].all() and changed.sum() == n_in * n_out
    ahead = host(grads)[:, part].astype(np.float64)
    same(x, ahead / np.linalg.norm(ahead), "float32", "x")
    with pytest.raises(ValueError, match="columns 16 to .*, expected 0 to"):
        kernels.muon.update(master, None, x, ones, ones, 2.0, 0.5, 16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["cublasLt", "gemmEx"])
@pytest.mark.parametrize("N, C, F", [(1, 1, 1), (5, 31, 33), (33, 8, 40), (257, 40, 24)])
def test_linear(N, C, F, backend, dtype, monkeypatch):
    if backend == "gemmEx":
        monkeypatch.setattr(kernels.cublas, "cublaslt", lambda: None)
    (x, x64), (w, w64), (b, b64), (dy, dy64) = (
        device(randn(*s), dtype) for s in ((N, C), (C, F), (F,), (N, F)))
    same(kernels.linear_forward(x, w, b), x64 @ w64 + b64, dtype, "y")
    want, x_before = operations.linear_backward(dy64, x64, w64), host(x).copy()
    got = kernels.linear_backward(dy, x, w)
    for what, a, a64 in zip(("dx", "dw", "db"), got, want):
        same(a, a64, dtype if what == "dx" else "float32", what)
    np.testing.assert_array_equal(host(x), x_before)
    # dx in the place of x, the others added up
    again = kernels.linear_backward(dy, x, w, out=(x, *got[1:]), add=True)
    for what, a, a64, times in zip(("dx", "dw", "db"), again, want, (1, 2, 2)):
        same(a, times * a64, dtype if what == "dx" else "float32", what)
    with pytest.raises(ValueError, match="a product of"):
        kernels.linear_forward(x, cp.zeros((C + 1, F), x.dtype), b)


def test_a_product_that_the_library_refuses_is_made_all_the_same(monkeypatch, capsys):
    lt = kernels.cublas.cublaslt()
    if not lt:
        pytest.skip("no cublasLt here")
    monkeypatch.setattr(lt, "plans", {})
    monkeypatch.setattr(lt.library, "cublasLtMatmul", lambda *_: 14)
    (x, x64), (w, w64), (b, b64) = (device(randn(*s), "float32") for s in ((5, 8), (8, 16), (16,)))
    for _ in range(2):
        same(kernels.linear_forward(x, w, b), x64 @ w64 + b64, "float32", "y")
    assert capsys.readouterr().err.count("cublasLt answers 14") == 1


def test_conversion_rounds_to_the_nearest_even():
    x = np.concatenate(
        [randn(1000), [0.0, -0.0, 1.0, np.inf, -np.inf, 1.00390625, 1.01171875, 3.3e38, 1e-40]]
    ).astype(np.float32)
    y = kernels.to_bf16(cp.asarray(x))
    np.testing.assert_array_equal(cp.asnumpy(y), bits_of(x))
    np.testing.assert_array_equal(kernels.on_host(y), value_of(bits_of(x)))
    not_a_number = kernels.to_bf16(cp.asarray(np.array([np.nan], np.float32)))
    assert np.isnan(value_of(cp.asnumpy(not_a_number)))


def test_what_a_launcher_refuses():
    x, w = cp.zeros((4, 8), np.float32), cp.zeros((8,), np.float32)
    with pytest.raises(ValueError, match=r"w: float32 \(8,\), expected float32 \(6,\)"):
        kernels.layernorm_forward(cp.zeros((4, 6), np.float32), w, w)
    with pytest.raises(ValueError, match="b: uint16"):
        kernels.layernorm_forward(x, w, cp.zeros((8,), np.uint16))
    with pytest.raises(ValueError, match="x: float64, expected float32, or uint16"):
        kernels.gelu_forward(cp.zeros((4,), np.float64))
    with pytest.raises(ValueError, match="dy: its rows do not lie one behind the other"):
        kernels.gelu_backward(cp.zeros((4, 16), np.float32)[:, :8], x)
    with pytest.raises(ValueError, match="dy: the numbers of a row do not lie one behind the oth"):
        kernels.bias_backward(cp.zeros((4, 16), np.float32)[:, ::2])
    with pytest.raises(TypeError, match="w: a ndarray, expected a CuPy array"):
        kernels.layernorm_forward(x, np.zeros(8, np.float32), w)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N, C", [(5, 31), (33, 40)])
def test_the_plain_kernels_say_what_the_fast_ones_do(N, C, dtype):
    (x, x64), (plus, plus64), (w, w64), (b, b64), (dy, dy64) = (
        device(randn(*s), dtype) for s in ((N, C), (N, C), (C,), (C,), (N, C)))
    size = [np.int32(N), np.int32(C)]

    def empty(*shape):
        return cp.empty(shape, x.dtype)

    def run(file, name, n, *args):
        launching.launch(file, name, x.dtype, launching.ceil_div(n, 64), 64, *args)

    y, n, rstd, dx = empty(N, C), empty(N, C), cp.empty((N, 1), np.float32), empty(N, C)
    run("layernorm.cu", "layernorm_forward_v1", N, x, plus, w, b, y, n, rstd, *size,
        np.float32(1e-5))
    want, cache = operations.layernorm_forward(x64 + plus64, w64, b64)
    same(y, want, dtype, "y")
    run("layernorm.cu", "layernorm_backward_v1", N, dy, n, rstd, w, plus, dx, *size)
    same(dx, operations.layernorm_backward(dy64, cache, plus64)[0], dtype, "dx")

    h, h64 = device(randn(N * C), dtype)
    u = empty(N * C)
    run("gelu.cu", "gelu_forward_v1", N * C, h, u, np.int64(N * C))
    same(u, operations.gelu_forward(h64[None])[0][0], dtype, "u")

    tokens, (table, table64) = (RNG.integers(0, 7, N).astype(np.int32),
                                device(randn(7, C), "float32"))
    run("embedding.cu", "embedding_backward_v1", 7 * C, dy, cp.asarray(tokens), table, np.int32(N),
        np.int32(7), np.int32(C))
    operations.embedding_backward(dy64, tokens, table64)
    same(table, table64, dtype, "table")

    (z, z64), weights, nll = (device(randn(N, C), dtype), randn(N).astype(np.float32),
                              cp.empty((N,), np.float32))
    targets = RNG.integers(0, C, N).astype(np.int32)
    run("cross_entropy.cu", "cross_entropy_v1", N, z, cp.asarray(targets), cp.asarray(weights), nll,
        *size, np.int32(C))
    want, cache = operations.cross_entropy_forward(z64.copy(), targets)
    same(nll, want, "float32", "nll")
    same(z, operations.cross_entropy_backward(weights.astype(np.float64), cache), dtype, "dz")

    db = cp.empty((C,), np.float32)
    run("bias.cu", "bias_backward_v1", C, dy, db, *size)
    same(db, dy64.sum(0), dtype, "db")


# -------------------------------------------------------------------------- what a GPU may not have


@pytest.fixture
def a_gpu_with(monkeypatch):
    """Gives the device other limits: a_gpu_with(MaxThreadsPerBlock=512)."""
    if ON_GPU:
        pytest.skip("a GPU has the limits that it has")

    def change(**attributes):
        for what, value in attributes.items():
            monkeypatch.setitem(cp.ATTRIBUTES, what, value)
        kernels.checks._limits_of.cache_clear()
        launching.kernel.cache_clear()  # functions remember what shared memory they were promised
        launching.say_once.cache_clear()

    yield change
    monkeypatch.undo()
    change()


# KB of shared memory a block, compute capability: any, Turing, 30-, 40- and 50-series, A100, H100
GPUS = [(48, (8, 6)), (64, (7, 5)), (99, (8, 6)), (163, (8, 0)), (227, (9, 0))]
PRESETS = [name for name in gpt.PRESETS if name.startswith("gpt2")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kilobytes, capability", GPUS)
def test_what_needs_much_shared_memory_fits_every_gpu(kilobytes, capability, dtype, a_gpu_with,
                                                      capsys):
    a_gpu_with(MaxSharedMemoryPerBlockOptin=kilobytes << 10, ComputeCapabilityMajor=capability[0],
               ComputeCapabilityMinor=capability[1])
    if dtype == "bf16" and capability < (8, 0):
        with pytest.raises(
            ValueError,
            match="bfloat16 needs a GPU of compute capability 8.0, this one has 7.5; use float32",
        ):
            kernels.gelu_forward(device(randn(8), dtype)[0])
        with pytest.raises(ValueError,
                           match="to_real: bfloat16 needs a GPU of compute capability 8.0"):
            kernels.to_bf16(device(randn(8), "float32")[0])
        return
    for name in PRESETS:
        N, C = 9, gpt.PRESETS[name].n_embd
        (x, x64), (w, w64), (b, b64), (dy, dy64) = (
            device(randn(*s), dtype) for s in ((N, C), (C,), (C,), (N, C)))
        y, cache = kernels.layernorm_forward(x, w, b)
        same(y, operations.layernorm_forward(x64, w64, b64)[0], dtype, f"{name} y")
        n64, rstd64 = host(cache[0]).astype(np.float64), host(cache[1]).astype(np.float64)
        for what, a, want in zip(("dx", "dw", "db"), kernels.layernorm_backward(dy, cache),
                                 operations.layernorm_backward(dy64, (n64, rstd64, w64))):
            same(a, want, dtype, f"{name} {what}")
    for HS in (32, 64, 128):
        (qkv, qkv64), (do, do64) = (device(randn(1, 66, 3 * HS), dtype),
                                    device(randn(1, 66, HS), dtype))
        o, cache = kernels.attention_forward(qkv, 1)
        want, want_cache = operations.attention_forward(qkv64, 1)
        same(o, want, dtype, f"o of heads of {HS}")
        same(kernels.attention_backward(do, cache, 1),
             operations.attention_backward(do64, want_cache, 1), dtype, f"dqkv of heads of {HS}")
    said = capsys.readouterr().err.splitlines()
    if kilobytes > 48 or dtype == "float32":  # all through tensor cores, or plain by nature
        assert not said
    else:
        assert [line.split()[1] for line in said] == [
            "attention_backward_q", "attention_backward_kv", "attention_forward",
            "attention_backward_q", "attention_backward_kv"]
        why = ("without tensor cores, which is slow: heads of 64 take 65536 bytes of shared "
               "memory, this GPU has 49152")
        assert why in said[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PRESETS)
def test_the_other_operations_need_what_every_gpu_has(name, dtype, a_gpu_with):
    a_gpu_with(MaxSharedMemoryPerBlockOptin=48 << 10)
    C, V = gpt.PRESETS[name].n_embd, 50257
    (h, h64), (dh, dh64), (b, b64) = (device(randn(*s), dtype)
                                      for s in ((3, 4 * C), (3, 4 * C), (4 * C,)))
    u, cache = kernels.gelu_forward(h)
    want, slope = operations.gelu_forward(h64)
    same(u, want, dtype, "u")
    same(kernels.gelu_backward(dh, cache), dh64 * slope, dtype, "dh")
    same(kernels.bias_backward(dh), dh64.sum(0), dtype, "db")
    same(kernels.bias_forward(h, b), h64 + b64, dtype, "h")
    tokens = np.array([5, 0, 5], np.int32)
    (wte, wte64), (wpe, wpe64), (dx, dx64) = (
        device(randn(*s), dtype) for s in ((7, C), (3, C), (3, C)))
    dtable, dtable64 = device(randn(7, C), "float32")
    x = kernels.embedding_forward(cp.asarray(tokens), cp.asarray(np.arange(3, dtype=np.int32)), wte,
                                  wpe)
    same(x, wte64[tokens] + wpe64, dtype, "x")
    kernels.embedding_backward(dx, tuple(map(cp.asarray, kernels.look_ups(tokens))), dtable)
    operations.embedding_backward(dx64, tokens, dtable64)
    same(dtable, dtable64, dtype, "dtable")
    kernels.position_backward(dx, 1, dtable, add=False)
    same(dtable, np.pad(dx64, ((0, 4), (0, 0))), dtype, "dwpe")
    z, z64 = device(3 * randn(1, 50304), dtype)
    nll = kernels.cross_entropy(z, cp.asarray(tokens[:1]), cp.asarray(np.ones(1, np.float32)),
                                n_vocab=V)
    want, cache = operations.cross_entropy_forward(z64[:, :V].copy(), tokens[:1])
    same(nll, want, "float32", "nll")
    same(cp.asarray(host(z)[:, :V]), operations.cross_entropy_backward(np.ones(1), cache), dtype,
         "dz")
    for HS in (32, 64, 128):
        qkv, (k, v) = (device(randn(1, 1, 3 * HS), dtype)[0],
                       (device(randn(1, 1, 40, HS), dtype)[0] for _ in "kv"))
        o = kernels.decode_attention(qkv, k, v, cp.asarray(np.array([39], np.int32)),
                                     cp.asarray(np.array([1], np.int32)))
        s = host(k)[0, 0].astype(np.float64) @ host(qkv)[0, 0, :HS] / HS**0.5
        p = np.exp(s - s.max())
        same(o, ((p / p.sum()) @ host(v)[0, 0])[None, None], dtype, "decode")


def test_what_a_gpu_cannot_do_is_refused_by_name(a_gpu_with):
    zeros = lambda *shape: cp.zeros(shape, np.float32)  # noqa: E731
    wide = zeros(1, 20000)
    cache = wide, zeros(1, 1), wide[0]
    a_gpu_with(MaxSharedMemoryPerBlockOptin=99 << 10)
    with pytest.raises(ValueError,
                       match="does not fit the 101376 bytes of this GPU's shared memory"):
        kernels.layernorm_backward(wide, cache)
    with pytest.raises(
        ValueError,
        match="attention_forward_v1: 1000000 bytes of shared memory a block, this GPU has 101376",
    ):
        launching.launch("attention.cu", "attention_forward_v1", np.float32, 1, 32, shared=1000000)
    with pytest.raises(
        ValueError,
        match=r"_v1: a grid of \(1, 1, 65536\) blocks, this GPU has \(2147483647, 65535, 65535\)",
    ):
        kernels.attention_forward(zeros(65536, 1, 3), 1)
    with pytest.raises(ValueError, match="gelu_forward_v2: nothing to do, for an array is empty"):
        kernels.gelu_forward(zeros(0))
    with pytest.raises(ValueError, match="2147483648 is more than the kernels can count"):
        kernels.checks.int32(1 << 31)
    assert kernels.checks.int32((1 << 31) - 1) == 2**31 - 1
    a_gpu_with(MaxThreadsPerBlock=512)
    with pytest.raises(ValueError,
                       match="cross_entropy_v2: blocks of 1024 threads, this GPU has 512 at most"):
        kernels.cross_entropy(zeros(1, 9000), cp.zeros((1,), np.int32))
    a_gpu_with(WarpSize=64)
    with pytest.raises(ValueError,
                       match="this GPU's warps have 64 threads; the kernels are written for 32"):
        kernels.gelu_forward(zeros(4))


# ----------------------------------------------------------------------- arrays in each other's way


class Field:
    """Arrays in one memory, each with room behind it."""

    def __init__(self):
        self.bytes = cp.zeros((1 << 20,), np.uint8)
        self.end = 0

    def array(self, *shape, dtype=np.float32, at=None):
        begin = self.end if at is None else at
        a = (self.bytes[begin : begin + int(np.prod(shape)) * np.dtype(dtype).itemsize] .view(
                 dtype) .reshape(shape))
        self.end = max(self.end, begin + -(-a.nbytes // 256) * 256)
        return a


def launches():
    """For each launcher: its name, inputs and outputs {name: array}, allowed pairs, call.

    allowed: {(output, input)} where the output may take the input's place. call(**arrays) launches.
    """
    f, N, C, B, T = Field(), 4, 8, 2, 3
    a, ints = f.array, lambda *shape: f.array(*shape, dtype=np.int32)  # noqa: E731
    k = kernels
    yield ("layernorm_forward", dict(x=a(N, C), plus=a(N, C), w=a(C), b=a(C)),
           dict(y=a(N, C), n=a(N, C), rstd=a(N, 1)),
           {("y", "plus"), ("n", "plus"), ("y", "x"), ("n", "x")},
           lambda x, plus, w, b, y, n, rstd: k.layernorm_forward(
               x, w, b, out=(y, n, rstd), plus=plus))
    yield ("layernorm_backward", dict(dy=a(N, C), n=a(N, C), rstd=a(N, 1), w=a(C), plus=a(N, C)),
           dict(dx=a(N, C), dw=a(C), db=a(C)), {("dx", "dy"), ("dx", "n"), ("dx", "plus")},
           lambda dy, n, rstd, w, plus, dx, dw, db: k.layernorm_backward(
               dy, (n, rstd, w), plus, (dx, dw, db)))
    yield ("gelu_forward", dict(x=a(N, C)), dict(y=a(N, C)), {("y", "x")},
           lambda x, y: k.gelu_forward(x, out=(y, x)))
    yield ("gelu_backward", dict(dy=a(N, C), x=a(N, C)), dict(dx=a(N, C)),
           {("dx", "dy"), ("dx", "x")}, lambda dy, x, dx: k.gelu_backward(dy, x, out=dx))
    yield ("embedding_forward", dict(tokens=ints(N), positions=ints(N), wte=a(N, C), wpe=a(N, C)),
           dict(x=a(N, C)), set(),
           lambda tokens, positions, wte, wpe, x: k.embedding_forward(
               tokens, positions, wte, wpe, out=x))
    yield ("embedding_backward",
           dict(dx=a(N, C), order=ints(N), starts=ints(N + 1), values=ints(N)),
           dict(dtable=a(N, C)), set(),
           lambda dx, order, starts, values, dtable: k.embedding_backward(
               dx, (order, starts, values), dtable))
    yield ("position_backward", dict(dx=a(B * T, C)), dict(dwpe=a(T, C)), set(),
           lambda dx, dwpe: k.position_backward(dx, B, dwpe))
    yield ("attention_forward", dict(qkv=a(B, T, 3 * C)), dict(o=a(B, T, C), lse=a(B, 1, T, 1)),
           set(), lambda qkv, o, lse: k.attention_forward(qkv, 1, (o, lse)))
    yield ("attention_backward",
           dict(qkv=a(B, T, 3 * C), o=a(B, T, C), lse=a(B, 1, T, 1), do=a(B, T, C)),
           dict(dqkv=a(B, T, 3 * C)), set(),
           lambda qkv, o, lse, do, dqkv: k.attention_backward(do, (qkv, o, lse), 1, out=dqkv))
    yield ("decode_attention", dict(qkv=a(B, 1, 3 * C), length=ints(B), n_new=ints(B)),
           dict(k_cache=a(B, 1, T, C), v_cache=a(B, 1, T, C), o=a(B, 1, C)), set(),
           lambda qkv, k_cache, v_cache, length, n_new, o: k.decode_attention(
               qkv, k_cache, v_cache, length, n_new, out=o))
    yield ("take_rows", dict(x=a(N, C), rows=ints(2)), dict(out=a(2, C)), set(), k.take_rows)
    yield ("cross_entropy", dict(targets=ints(N), weights=a(N)), dict(logits=a(N, C), nll=a(N)),
           set(),
           lambda targets, weights, logits, nll: k.cross_entropy(logits, targets, weights, out=nll))
    yield ("loss_sum", dict(nll=a(N), weights=a(N)), dict(state=a(3)), set(), k.loss_sum)
    yield ("bias_forward", dict(b=a(C)), dict(y=a(N, C)), set(), lambda b, y: k.bias_forward(y, b))
    yield ("bias_backward", dict(dy=a(N, C)), dict(db=a(C)), set(),
           lambda dy, db: k.bias_backward(dy, out=db))
    yield ("matmul", dict(x=a(N, C), w=a(C, C), bias=a(C)), dict(out=a(N, C)), set(),
           lambda x, w, bias, out: k.matmul(x, w, out, bias=bias))
    yield ("linear_forward", dict(x=a(N, C), w=a(C, C), b=a(C)), dict(out=a(N, C)), set(),
           lambda x, w, b, out: k.linear_forward(x, w, b, out=out))
    yield ("linear_backward", dict(dy=a(N, C), x=a(N, C), w=a(C, C)),
           dict(dx=a(N, C), dw=a(C, C), db=a(C)), {("dx", "x")},
           lambda dy, x, w, dx, dw, db: k.linear_backward(dy, x, w, out=(dx, dw, db)))
    yield ("grad_norm", dict(grads=a(C)), dict(state=a(3)), set(),
           lambda grads, state: k.grad_norm(grads, 1.0, state))
    yield ("norm_partials", dict(grads=a(C)), dict(partial=a(1)), set(),
           lambda grads, partial: k.norm_partials(grads, partial))
    yield ("norm_and_scale", dict(partial=a(C)), dict(state=a(3)), set(),
           lambda partial, state: k.norm_and_scale(partial, 1.0, state))
    yield ("adamw", dict(grads=a(C), state=a(3), rates=a(3)),
           dict(master=a(C), m=a(C), v=a(C), params=f.array(C, dtype=np.uint16)), set(),
           lambda grads, state, rates, master, m, v, params: k.adamw(
               grads, master, m, v, params, state, rates, 0, 0.9, 0.95, 1e-8, 0.1))
    yield ("muon.look_ahead", dict(state=a(3)),
           dict(grads=a(C, 3 * C), mean=a(C, 3 * C), x=a(C, C)), set(),
           lambda state, grads, mean, x: k.muon.look_ahead(grads, mean, x, state, 0.9, 2 * C))
    yield ("muon.newton_schulz", {},
           dict(x=a(C, N), spare=a(C, N), squared=a(N, N), factor=a(N, N)), set(),
           k.muon.newton_schulz)
    yield ("muon.update", dict(x=f.array(C, N, dtype=np.uint16), state=a(3), rates=a(3)),
           dict(master=a(C, 3 * N), params=f.array(C, 3 * N, dtype=np.uint16)), set(),
           lambda x, state, rates, master, params: k.muon.update(
               master, params, x, state, rates, 2.0, 0.1, 2 * N))
    yield ("to_bf16", dict(x=a(N, C)), dict(y=f.array(N, C, dtype=np.uint16)), set(),
           lambda x, y: k.to_bf16(x, out=y))


def launch_named(name, among):
    return next(launch for launch in among() if launch[0] == name)


@pytest.mark.parametrize("name", [launch[0] for launch in launches()])
def test_outputs_are_kept_from_what_is_still_needed(name):
    check_outputs_are_kept(launch_named(name, launches))


def check_outputs_are_kept(launch):
    """An output at the very place of another array, at a part of it, and at its end."""
    _, inputs, outputs, allowed, call = launch
    call(**inputs, **outputs)           # as they are they may stand
    arrays = {**inputs, **outputs}
    first = min(a.data.ptr for a in arrays.values())
    field = Field()
    for out, a in outputs.items():
        for what, other in arrays.items():
            if what == out:
                continue
            last = other.nbytes - 1
            for shift in {0, min(16, last) & -16, last & -16}:
                copies = {}
                for k, v in arrays.items():
                    copies[k] = field.array(*v.shape, dtype=v.dtype, at=v.data.ptr - first)
                place = other.data.ptr - first + shift
                copies[out] = field.array(*a.shape, dtype=a.dtype, at=place)
                if (out, what) in allowed and shift == 0 and a.nbytes == other.nbytes:
                    call(**copies)
                    continue
                with pytest.raises(ValueError, match="share memory"):
                    call(**copies)


@pytest.mark.parametrize("name", [launch[0] for launch in launches()])
def test_arrays_of_other_kinds_are_refused(name):
    check_other_kinds_are_refused(launch_named(name, launches))


def check_other_kinds_are_refused(launch):
    """Of other dtypes, on the host, with a column more, with gaps."""
    name, inputs, outputs, _, call = launch
    arrays = {**inputs, **outputs}
    for what, a in arrays.items():
        shape, more = a.shape, cp.zeros((*a.shape[:-1], 2 * a.shape[-1] + 2), a.dtype)
        bad = [cp.zeros(shape, np.float64), cp.zeros(shape, np.int64), np.zeros(shape, a.dtype)]
        if (name, what) not in (
            ("cross_entropy", "logits"),
            ("grad_norm", "grads"),
            ("norm_partials", "grads"),
            ("norm_and_scale", "partial"),
        ):  # which may have any shape
            bad.append(cp.zeros((*shape[:-1], shape[-1] + 1), a.dtype))
        if a.size > 1:
            bad.append(more[..., :-2:2])
        for wrong in bad:
            with pytest.raises(
                (ValueError, TypeError),
                match="expected|one behind the other|a product of|columns for",
            ):
                call(**{**arrays, what: wrong})


def test_arrays_that_do_not_begin_at_16_bytes_are_refused():
    for dtype in (np.float32, np.uint16):
        flat = cp.zeros((100,), dtype)
        odd, even = flat[1:33], flat[:32]
        for call in (lambda: kernels.gelu_forward(odd), lambda: kernels.gelu_backward(even, odd),
                     lambda: kernels.bias_backward(odd.reshape(2, 16)),
                     lambda: kernels.layernorm_forward(odd.reshape(2, 16), even[:16], even[:16]),
                     lambda: kernels.attention_forward(odd[:24].reshape(1, 1, 24), 1)):
            with pytest.raises(ValueError,
                               match="does not begin at a multiple of 16 bytes; pass a copy"):
                call()
    with pytest.raises(ValueError, match="grads: it does not begin at a multiple of 16 bytes"):
        kernels.grad_norm(cp.zeros((9,), np.float32)[1:], 1.0, cp.zeros((3,), np.float32))
    # Rows that are no whole packs are read number by number.
    kernels.bias_backward(cp.zeros((31,), np.float32)[1:].reshape(2, 15))


def test_in_the_place_of_an_input(dtype="float32"):
    (dy, dy64), (w, w64), (b, b64), (plus, plus64) = (
        device(randn(*s), dtype) for s in ((5, 40), (40,), (40,), (5, 40)))
    x, x64 = device(randn(5, 40), dtype)
    y, (n, rstd, _) = kernels.layernorm_forward(
        x, w, b, out=(x, cp.empty((5, 40)), cp.empty((5, 1))))
    want, cache = operations.layernorm_forward(x64, w64, b64)
    same(y, want, dtype, "y in x")
    want = operations.layernorm_backward(dy64, cache, plus64)[0]
    for what, arrays in (("dy", (dy, n, plus)), ("n", (dy, n, plus)), ("plus", (dy, n, plus))):
        dy2, n2, plus2 = (cp.array(cp.asnumpy(a)) for a in arrays)
        place = {"dy": dy2, "n": n2, "plus": plus2}[what]
        same(kernels.layernorm_backward(dy2, (n2, rstd, w), plus2,
                                        (place, cp.empty((40,)), cp.empty((40,))))[0],
             want, dtype, f"dx in {what}")


# -------------------------------------------------------------------- the name that this folder has


def test_whoever_looks_for_another_package_of_this_name(tmp_path):
    """As transformers does: find_spec, then the version that is installed, then an import.

    Without CuPy, with the checkout as the current folder, with such a package and without.
    """
    look = r"""
import importlib.metadata, importlib.util, sys
sys.modules["cupy"] = None
assert importlib.util.find_spec("kernels")
try:
    version = importlib.metadata.version("kernels")
except importlib.metadata.PackageNotFoundError:
    package = importlib.import_module("kernels")
    version = getattr(package, "__version__", "N/A")
    assert package.__file__
import kernels
try:
    from kernels import Device, layer
    print(version, Device.name, layer.Device is Device, kernels.layer is layer)
except ImportError as e:
    print(version, e)
try:
    kernels.gelu_forward(None)
except ModuleNotFoundError as e:
    print(e)
print(hasattr(kernels, "no_such_name"), hasattr(kernels, "_no_such_name"), kernels.MOST_HEAD_SIZE)
"""
    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from kernels.layer import Device\n__version__ = '0.18.3'\n")
    (package / "layer.py").write_text("class Device:\n    name = 'theirs'\n")
    (tmp_path / "kernels-0.18.3.dist-info").mkdir()
    (tmp_path / "kernels-0.18.3.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.3\n")
    ends = "x: the kernels need CuPy, which is not here\nFalse False 256\n"
    alone = "N/A cannot import name 'Device' from 'kernels'"
    for path, begins in (("", alone), (str(tmp_path), "0.18.3 theirs True True\n")):
        done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True,
                              cwd=Path(gpt.__file__).parent, env={**os.environ, "PYTHONPATH": path})
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(begins) and done.stdout.endswith(ends), done.stdout
