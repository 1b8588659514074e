"""kernels/ for the Llama family: every kernel against model/llama.py in float64, on a GPU if there
is one, else on the CPU that plays one.
"""

import numpy as np
import pytest
from test_kernels import (     # noqa: F401        a_gpu_with is a fixture
    DTYPES, SIZES, TOLERANCE, Field, a_gpu_with, check_other_kinds_are_refused,
    check_outputs_are_kept, cp, device, host, launch_named, same,
)

import gpt
import kernels
from kernels import launching
from model import llama, operations

EPS = 1e-5
# query heads, heads of keys: 1:1, 2:1, 7:1, more than a block decodes at once. A group is compiled
# anew for each, and so are heads of whole packs and others: not all of them are combined.
GROUPS = [(2, 2), (4, 2), (7, 1), (20, 2)]
# query heads, heads of keys, B, T, S, HS
DECODED = [(NH, NKV, *shape) for NH, NKV in ((4, 2), (20, 2))
           for shape in ((1, 1, 1, 6), (3, 1, 70, 64), (2, 4, 40, 16), (1, 3, 33, 128))]
DECODED += [(7, 1, 3, 1, 70, 64), (16, 2, 2, 4, 40, 16), (7, 1, 1, 3, 33, 128)]
HEAD_SIZES = [8, 16, 32, 64, 80, 128]
# Each takes other threads a row, and is compiled anew.
NORMED_HEADS = [("float32", HS) for HS in (2, 6, 32, 80, 256)]
NORMED_HEADS += [("bf16", HS) for HS in (6, 8, 16, 128, 256)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def arrays(rng, dtype, *shapes):
    """Random arrays: (for the kernels, in float64) of each shape."""
    return [device(rng.standard_normal(shape), dtype) for shape in shapes]


def heads_of(x, n):
    """(B,T,n*HS) -> (B,n,T,HS)"""
    B, T, columns = x.shape
    return x.reshape(B, T, n, columns // n).swapaxes(1, 2)


def joined(x):
    """(B,n,T,HS) -> (B,T,n*HS)"""
    B, n, T, HS = x.shape
    return x.swapaxes(1, 2).reshape(B, T, n * HS)


# ---------------------------------------------------------------------------------------- RMSNorm

# As of layer norms, and rows that several warps share.
NORM_SIZES = [*SIZES, (3, 2048), (2, 4104), (1, 8200)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N, C", NORM_SIZES)
@pytest.mark.parametrize("fused", [False, True])
def test_rmsnorm(N, C, dtype, fused, rng):
    (x, x64), (w, w64), (dy, dy64), (plus, plus64) = arrays(
        rng, dtype, (N, C), (C,), (N, C), (N, C))
    y, cache = kernels.rmsnorm_forward(x, w, EPS, plus=plus if fused else None)
    if fused:
        x64 = x64 + plus64
        same(x, x64, dtype, "x")
    want, want_cache = llama.rmsnorm_forward(x64, w64, EPS)
    same(y, want, dtype, "y")
    same(cache[0], want_cache[0], dtype, "n")
    same(cache[1], want_cache[1], "float32", "rstd")
    n64, rstd64 = (host(a).astype(np.float64) for a in cache[:2])
    got = kernels.rmsnorm_backward(dy, cache, plus=plus if fused else None)
    dx, dw = llama.rmsnorm_backward(dy64, (n64, rstd64, w64))
    if C > 1:       # of one number the derivative is 0, and all that is left is rounding
        same(got[0], dx + plus64 * fused, dtype, "dx")
    same(got[1], dw, dtype, "dw")
    places = tuple(map(cp.array, map(cp.asnumpy, got)))
    again = kernels.rmsnorm_backward(dy, cache, plus if fused else None, places, add=True)
    same(again[1], 2 * dw, dtype, "dw added")
    assert got[1].dtype == np.float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N, C", [(70, 40), (9, 2048), (5, 4104)])
def test_blocks_that_take_turns_at_the_rows(N, C, dtype, rng, monkeypatch):
    monkeypatch.setattr(kernels.llama, "BACKWARD_BLOCKS", 1)
    (x, _), (w, w64), (dy, dy64) = arrays(rng, dtype, (N, C), (C,), (N, C))
    _, cache = kernels.rmsnorm_forward(x, w, EPS)
    n64, rstd64 = (host(a).astype(np.float64) for a in cache[:2])
    dx, dw = kernels.rmsnorm_backward(dy, cache)
    want_dx, want_dw = llama.rmsnorm_backward(dy64, (n64, rstd64, w64))
    same(dx, want_dx, dtype, "dx")
    same(dw, want_dw, dtype, "dw")


def test_rmsnorm_in_the_place_of_an_input(rng):
    (x, x64), (w, w64), (dy, dy64), (plus, plus64) = arrays(
        rng, "float32", (5, 40), (40,), (5, 40), (5, 40))
    y, (n, rstd, _) = kernels.rmsnorm_forward(
        x, w, EPS, out=(x, cp.empty((5, 40)), cp.empty((5, 1))))
    want, cache = llama.rmsnorm_forward(x64, w64, EPS)
    same(y, want, "float32", "y in x")
    want = llama.rmsnorm_backward(dy64, cache)[0] + plus64
    for i, what in enumerate(("dy", "n", "plus")):
        copies = [cp.array(cp.asnumpy(a)) for a in (dy, n, plus)]
        dx, _ = kernels.rmsnorm_backward(
            copies[0], (copies[1], rstd, w), copies[2], (copies[i], cp.empty((40,))))
        same(dx, want, "float32", f"dx in {what}")


@pytest.mark.parametrize("dtype, HS", NORMED_HEADS)
@pytest.mark.parametrize("N, heads, first, rest", [(1, 1, 0, 0), (31, 3, 0, 2), (257, 1, 2, 1)])
def test_head_norm(N, heads, first, rest, HS, dtype, rng):
    """Of some columns of longer rows; the other columns stay as they are."""
    columns = slice(first * HS, (first + heads) * HS)
    whole_shape = N, (first + heads + rest) * HS
    (whole, whole64), (dwhole, dwhole64), (w, w64) = arrays(
        rng, dtype, whole_shape, whole_shape, (HS,))
    qk, kept = whole[:, columns], (cp.empty((N, heads * HS), w.dtype), cp.empty((N, heads)))
    same_qk, cache = kernels.rmsnorm_forward(qk, w, EPS, (qk, *kept))
    assert same_qk is qk
    by_heads = whole64[:, columns].reshape(N, heads, HS)
    want, want_cache = llama.rmsnorm_forward(by_heads, w64, EPS)
    same(qk, want.reshape(N, -1), dtype, "qk")
    same(cache[0], want_cache[0].reshape(N, -1), dtype, "n")
    same(cache[1], want_cache[1][:, :, 0], "float32", "rstd")
    n64 = host(cache[0]).astype(np.float64).reshape(N, heads, HS)
    rstd64 = host(cache[1]).astype(np.float64)[:, :, None]
    dheads = dwhole64[:, columns].reshape(N, heads, HS)
    dx, dw = llama.rmsnorm_backward(dheads, (n64, rstd64, w64))
    dqk, got_w = dwhole[:, columns], cp.empty((HS,))
    kernels.rmsnorm_backward(dqk, cache, out=(dqk, got_w))
    same(dqk, dx.reshape(N, -1), dtype, "dqk")
    same(got_w, dw, dtype, "dw")
    for a, before in ((whole, whole64), (dwhole, dwhole64)):
        after = host(a).astype(np.float64)
        after[:, columns] = before[:, columns]
        np.testing.assert_array_equal(after, before)
    # Into fresh arrays, with other distances between rows.
    qk, dqk = (device(a[:, columns], dtype)[0] for a in (whole64, dwhole64))
    wide = cp.zeros((N, 2 * heads * HS), w.dtype)
    places = wide[:, : heads * HS], *kept
    same(kernels.rmsnorm_forward(qk, w, EPS, places)[0], want.reshape(N, -1), dtype, "y")
    got, dw_twice = kernels.rmsnorm_backward(dqk, cache, out=(places[0], got_w), add=True)
    same(got, dx.reshape(N, -1), dtype, "dx")
    same(dw_twice, 2 * dw, dtype, "dw added")


# ------------------------------------------------------------------------------- rotary positions


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("HS", [2, 6, *HEAD_SIZES])
@pytest.mark.parametrize("N, heads, turned", [(1, 3, 2), (33, 8, 5), (257, 3, 3)])
def test_rotary(N, heads, turned, HS, dtype, rng):
    cfg = llama.Config(9, 300, 8, 1, 1, 1, HS, 8)
    table = np.concatenate(llama.rotary_tables(cfg, np.arange(300), np.float32), axis=-1)
    positions = rng.permutation(300)[:N].astype(np.int32)
    cos, sin = llama.rotary_tables(cfg, positions, np.float64)
    where = cp.asarray(positions), cp.asarray(table), turned
    for forward, turn in ((kernels.rotary_forward, llama.rotary_forward),
                          (kernels.rotary_backward, llama.rotary_backward)):
        (x, x64), = arrays(rng, dtype, (N, heads * HS))
        want = x64.reshape(N, heads, HS).copy()
        want[:, :turned] = turn(want[:, :turned], cos[:, None], sin[:, None])
        forward(x, *where)
        same(x, want.reshape(N, -1), dtype, forward.__name__)
        still = host(x).reshape(N, heads, HS)[:, turned:]
        np.testing.assert_array_equal(still, x64.reshape(N, heads, HS)[:, turned:])


def test_rotary_of_a_batch_is_that_of_its_rows(rng):
    (x, x64), = arrays(rng, "float32", (6, 40))
    positions = np.array([[4, 0, 9], [1, 1, 2]], np.int32)
    table = cp.asarray(rng.standard_normal((10, 8)).astype(np.float32))
    kernels.rotary_forward(x, cp.asarray(positions), table, 4)
    flat = device(x64, "float32")[0]
    kernels.rotary_forward(flat, cp.asarray(positions.ravel()), table, 4)
    np.testing.assert_array_equal(host(x), host(flat))


# ----------------------------------------------------------------------------------------- SwiGLU


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N, F", SIZES)
def test_swiglu(N, F, dtype, rng):
    (h, h64), (du, du64) = arrays(rng, dtype, (N, 2 * F), (N, F))
    want, cache = llama.swiglu_forward(*np.split(h64, 2, axis=-1))
    same(kernels.swiglu_forward(h), want, dtype, "u")
    dh = np.concatenate(llama.swiglu_backward(du64, cache), axis=-1)
    same(kernels.swiglu_backward(du, h), dh, dtype, "dh")
    np.testing.assert_array_equal(host(h), h64.astype(np.float32))
    same(kernels.swiglu_backward(du, h, out=h), dh, dtype, "dh in h")


def test_swiglu_where_exp_is_infinite():
    a = np.array([-1e4, -200.0, -80.0, 0.0, 80.0, 1e4], np.float32)
    h, ones = cp.asarray(np.concatenate([a, np.ones(6, np.float32)])[None]), cp.asarray(
        np.ones((1, 6), np.float32))
    np.testing.assert_allclose(host(kernels.swiglu_forward(h))[0], np.maximum(a, 0), atol=1e-30)
    dh = host(kernels.swiglu_backward(ones, h))[0]
    np.testing.assert_allclose(dh[:6], [0, 0, 0, 0.5, 1, 1], atol=1e-30)


# ------------------------------------------------------------------------------ grouped attention


def grouped_attention(qkv, NH, NKV):
    """model/llama.py's: o (B,T,NH*HS), lse (B,NH,T,1) and a function from do to dqkv."""
    B, T, columns = qkv.shape
    HS = columns // (NH + 2 * NKV)
    q, k, v = np.split(qkv, [NH * HS, (NH + NKV) * HS], axis=-1)
    q, k, v = heads_of(q, NH), heads_of(k, NKV), heads_of(v, NKV)
    n_group = NH // NKV
    keys, values = llama.grouped_forward(k, n_group), llama.grouped_forward(v, n_group)
    seen = np.tri(T, dtype=bool)
    o, cache = gpt.attention_forward(q, keys, values, seen)
    s = np.where(seen, q @ keys.swapaxes(-1, -2) / HS**0.5, -np.inf)
    most = s.max(-1, keepdims=True)
    lse = most + np.log(np.exp(s - most).sum(-1, keepdims=True))

    def backward(do):
        dq, dk, dv = gpt.attention_backward(heads_of(do, NH), cache)
        dk, dv = llama.grouped_backward(dk, n_group), llama.grouped_backward(dv, n_group)
        return np.concatenate([joined(dq), joined(dk), joined(dv)], axis=-1)

    return joined(o), lse, backward


def check_attention(dtype, B, T, NH, NKV, HS, rng):
    (qkv, qkv64), (do, do64) = arrays(rng, dtype, (B, T, (NH + 2 * NKV) * HS), (B, T, NH * HS))
    o, cache = kernels.attention_forward(qkv, NH, n_kv_head=NKV)
    want, lse, backward = grouped_attention(qkv64, NH, NKV)
    same(o, want, dtype, "o")
    same(cache[2], lse, dtype, "lse")
    dqkv = kernels.attention_backward(do, cache, NH, n_kv_head=NKV)
    cuts = [NH * HS, (NH + NKV) * HS]
    got = np.split(host(dqkv).astype(np.float64), cuts, axis=-1)
    for what, a, b in zip(("dq", "dk", "dv"), got, np.split(backward(do64), cuts, axis=-1)):
        # Each against its own largest number. Of one key dq and dk are 0, but for rounding.
        error, most = np.abs(a - b).max(), np.abs(b).max()
        assert error <= TOLERANCE[dtype] * max(most, 0.1), (
            f"{what}: off by {error:.2e}, the largest is {most:.2e}")


@pytest.mark.parametrize("NH, NKV", GROUPS)
@pytest.mark.parametrize("B, T, HS", [(2, 1, 8), (2, 33, 16), (1, 70, 6)])
def test_grouped_attention(NH, NKV, B, T, HS, rng):
    check_attention("float32", B, T, NH, NKV, HS, rng)


@pytest.mark.parametrize("NH, NKV, B, T, HS", [
    (4, 2, 2, 31, 80), (4, 2, 1, 1, 64), (4, 2, 1, 33, 6), (8, 1, 1, 33, 6)])
def test_grouped_attention_in_bfloat16(NH, NKV, B, T, HS, rng):
    check_attention("bf16", B, T, NH, NKV, HS, rng)


@pytest.mark.parametrize("NH, NKV, B, T, HS", [
    (4, 2, 2, 33, 32), (4, 2, 1, 150, 32), (4, 2, 2, 63, 64), (4, 2, 1, 64, 64), (4, 2, 1, 129, 64),
    (4, 2, 1, 65, 128), (4, 2, 1, 130, 128), (8, 1, 1, 66, 64), (8, 1, 1, 33, 32)])
def test_grouped_attention_on_tensor_cores(NH, NKV, B, T, HS, rng):
    check_attention("bf16", B, T, NH, NKV, HS, rng)


@pytest.mark.parametrize("kilobytes", [48, 99])
def test_grouped_attention_with_less_shared_memory(kilobytes, a_gpu_with, rng):  # noqa: F811
    a_gpu_with(MaxSharedMemoryPerBlockOptin=kilobytes << 10)
    for HS in (64, 128):
        check_attention("bf16", 1, 66, 4, 2, HS, rng)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("HS", [32, 80])
def test_as_many_heads_of_keys_as_of_queries_is_what_it_was(HS, dtype, rng):
    """To the bit: n_kv_head = n_head, and n_kv_head left out."""
    (qkv, _), (do, _) = arrays(rng, dtype, (1, 70, 9 * HS), (1, 70, 3 * HS))
    bits = []
    for how in ({}, {"n_kv_head": 3}):
        o, cache = kernels.attention_forward(qkv, 3, **how)
        dqkv = kernels.attention_backward(do, cache, 3, **how)
        bits.append([cp.asnumpy(a) for a in (o, cache[2], dqkv)])
    for a, b in zip(*bits):
        np.testing.assert_array_equal(a, b)


# ----------------------------------------------------------------------------------------- decode


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("NH, NKV, B, T, S, HS", DECODED)
def test_grouped_decode_attention(NH, NKV, B, T, S, HS, dtype, rng):
    (qkv, qkv64), (k, k64), (v, v64) = arrays(
        rng, dtype, (B, T, (NH + 2 * NKV) * HS), (B, NKV, S, HS), (B, NKV, S, HS))
    length = rng.integers(0, S - T + 1, B).astype(np.int32)
    n_new = rng.integers(1, T + 1, B).astype(np.int32)
    length[0], n_new[0] = S - T, T
    o = kernels.decode_attention(qkv, k, v, cp.asarray(length), cp.asarray(n_new))
    assert o.shape == (B, T, NH * HS)
    o = host(o).reshape(B, T, NH, HS)
    q, k_new, v_new = np.split(qkv64.reshape(B, T, -1, HS), [NH, NH + NKV], axis=2)
    for b in range(B):
        for t in range(T):
            if t >= n_new[b]:
                assert not o[b, t].any()
                continue
            k64[b, :, length[b] + t], v64[b, :, length[b] + t] = k_new[b, t], v_new[b, t]
            seen = slice(0, length[b] + t + 1)
            for h in range(NH):
                s = k64[b, h * NKV // NH, seen] @ q[b, t, h] / HS**0.5
                p = np.exp(s - s.max())
                want = p / p.sum() @ v64[b, h * NKV // NH, seen]
                same(cp.asarray(o[b, t, h]), want, dtype, f"o of row {b}, {t}, head {h}")
    # The cache has the new keys, and nothing else is changed.
    np.testing.assert_array_equal(host(k), k64.astype(np.float32))
    np.testing.assert_array_equal(host(v), v64.astype(np.float32))


def test_decoding_takes_fewer_heads_at_once_where_shared_memory_is_small(a_gpu_with):  # noqa: F811
    a_gpu_with(MaxSharedMemoryPerBlockOptin=48 << 10)
    rng = np.random.default_rng(0)
    qkv, k, v = (a for a, _ in arrays(rng, "bf16", (1, 1, 10 * 128), (1, 1, 9, 128),
                                      (1, 1, 9, 128)))
    length, n_new = (cp.asarray(np.array([n], np.int32)) for n in (8, 1))
    o = kernels.decode_attention(qkv, k, v, length, n_new)
    s = host(qkv)[0, 0].reshape(10, 128)[:8] @ host(k)[0, 0].T / 128**0.5
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    same(o, (p @ host(v)[0, 0]).reshape(1, 1, -1), "bf16", "o")


# ---------------------------------------------- a layer's columns of an array, without biases, sums


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["cublasLt", "gemmEx"])
@pytest.mark.parametrize("N, C, F, first, rest", [
    (1, 1, 1, 0, 2), (5, 31, 33, 3, 0), (33, 8, 40, 8, 16), (70, 16, 8, 0, 8),
])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_of_columns(N, C, F, first, rest, with_bias, backend, dtype, rng, monkeypatch):
    """y, dy and x are columns of longer rows, of which the others stay as they are."""
    if backend == "gemmEx":
        monkeypatch.setattr(kernels.cublas, "cublaslt", lambda: None)
    columns, whole = slice(first, first + F), (N, first + F + rest)
    (y, y64), (dy, dy64), (x, x64), (w, w64), (b, b64) = arrays(
        rng, dtype, whole, whole, (N, C + 8), (C, F), (F,))
    x, x64 = x[:, :C], x64[:, :C]
    kernels.linear_forward(x, w, b if with_bias else None, out=y[:, columns])
    want = y64.copy()
    want[:, columns] = x64 @ w64 + b64 * with_bias
    same(y, want, dtype, "y")
    np.testing.assert_array_equal(np.delete(host(y), np.r_[columns], 1),
                                  np.delete(y64, np.r_[columns], 1))
    dw, db = (cp.zeros(a.shape, np.float32) for a in (w, b))
    for times in (1, 2):
        places = cp.empty((N, C), w.dtype), dw, db if with_bias else None
        dx, _, none = kernels.linear_backward(dy[:, columns], x, w, places, add=times > 1)
        want = operations.linear_backward(dy64[:, columns], x64, w64)
        same(dx, want[0], dtype, "dx")
        same(dw, times * want[1], "float32", "dw")
        if with_bias:
            same(db, times * want[2], "float32", "db")
    assert (none is None) == (not with_bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (31, 33), (257, 8)])
def test_add_to(shape, dtype, rng):
    (x, x64), (more, more64) = arrays(rng, dtype, shape, shape)
    assert kernels.add_to(x, more) is x
    same(x, x64 + more64, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N, C", [(1, 1), (33, 8), (5, 257)])
def test_embedding_without_positions(N, C, dtype, rng):
    (wte, wte64), = arrays(rng, dtype, (11, C))
    tokens = rng.integers(0, 11, N).astype(np.int32)
    x = kernels.embedding_forward(cp.asarray(tokens), cp.asarray(tokens), wte, None)
    np.testing.assert_array_equal(host(x), wte64[tokens].astype(np.float32))


# ----------------------------------------------------------------------- arrays in each other's way


def launches():
    """As test_kernels.launches."""
    f, N, C, HS = Field(), 4, 16, 8
    a, k = f.array, kernels
    yield ("rmsnorm_forward", dict(x=a(N, C), plus=a(N, C), w=a(C)),
           dict(y=a(N, C), n=a(N, C), rstd=a(N, 1)),
           {("y", "plus"), ("n", "plus"), ("y", "x"), ("n", "x")},
           lambda x, plus, w, y, n, rstd: k.rmsnorm_forward(x, w, EPS, (y, n, rstd), plus))
    yield ("rmsnorm_backward", dict(dy=a(N, C), n=a(N, C), rstd=a(N, 2), w=a(HS), plus=a(N, C)),
           dict(dx=a(N, C), dw=a(HS)), {("dx", "dy"), ("dx", "n"), ("dx", "plus")},
           lambda dy, n, rstd, w, plus, dx, dw: k.rmsnorm_backward(
               dy, (n, rstd, w), plus, (dx, dw)))
    yield ("rotary_forward", dict(positions=a(N, dtype=np.int32), table=a(5, HS)),
           dict(qkv=a(N, C)), set(),
           lambda positions, table, qkv: k.rotary_forward(qkv, positions, table, C // HS))
    yield ("swiglu_forward", dict(h=a(N, 2 * C)), dict(u=a(N, C)), set(),
           lambda h, u: k.swiglu_forward(h, out=u))
    yield ("swiglu_backward", dict(du=a(N, C), h=a(N, 2 * C)), dict(dh=a(N, 2 * C)),
           {("dh", "h")}, lambda du, h, dh: k.swiglu_backward(du, h, out=dh))
    yield "add_to", dict(more=a(N, C)), dict(x=a(N, C)), set(), k.add_to
    yield ("attention_forward", dict(qkv=a(2, 3, 4 * HS)), dict(o=a(2, 3, C), lse=a(2, 2, 3, 1)),
           set(), lambda qkv, o, lse: k.attention_forward(qkv, 2, (o, lse), n_kv_head=1))
    yield ("attention_backward",
           dict(qkv=a(2, 3, 4 * HS), o=a(2, 3, C), lse=a(2, 2, 3, 1), do=a(2, 3, C)),
           dict(dqkv=a(2, 3, 4 * HS)), set(),
           lambda qkv, o, lse, do, dqkv: k.attention_backward(
               do, (qkv, o, lse), 2, out=dqkv, n_kv_head=1))
    yield ("decode_attention",
           dict(qkv=a(2, 1, 4 * HS), length=a(2, dtype=np.int32), n_new=a(2, dtype=np.int32)),
           dict(k_cache=a(2, 1, 3, HS), v_cache=a(2, 1, 3, HS), o=a(2, 1, C)), set(),
           lambda qkv, k_cache, v_cache, length, n_new, o: k.decode_attention(
               qkv, k_cache, v_cache, length, n_new, out=o))


NAMES = [launch[0] for launch in launches()]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_kept_from_what_is_still_needed(name):
    check_outputs_are_kept(launch_named(name, launches))


@pytest.mark.parametrize("name", NAMES)
def test_arrays_of_other_kinds_are_refused(name):
    check_other_kinds_are_refused(launch_named(name, launches))


def test_what_a_launcher_refuses():
    def zeros(*shape):
        return cp.zeros(shape, np.float32)

    with pytest.raises(ValueError, match="x: 12 columns, expected a multiple of 8, which w has"):
        kernels.rmsnorm_forward(zeros(3, 12), zeros(8), EPS)
    with pytest.raises(ValueError, match="x: columns of rows of 20, expected a multiple of 8"):
        kernels.rmsnorm_forward(zeros(3, 20)[:, :16], zeros(8), EPS)
    with pytest.raises(ValueError, match="x: it does not begin at a multiple of 16 bytes"):
        kernels.rmsnorm_forward(zeros(3, 24)[:, 2:10], zeros(8), EPS)
    positions, table = cp.zeros((3,), np.int32), zeros(4, 8)
    for heads in (0, 4):
        with pytest.raises(ValueError, match=f"qkv: 24 columns for {heads} heads of 8 to turn"):
            kernels.rotary_forward(zeros(3, 24), positions, table, heads)
    with pytest.raises(ValueError, match="expected whole heads of an even size"):
        kernels.rotary_forward(zeros(3, 21), positions, zeros(4, 7), 1)
    with pytest.raises(ValueError, match=r"positions: \(3,\), expected one for each of 2 rows"):
        kernels.rotary_forward(zeros(2, 24), positions, table, 1)
    with pytest.raises(ValueError, match="h: 5 columns, expected as many for the gate"):
        kernels.swiglu_forward(zeros(3, 5))
    with pytest.raises(ValueError, match="48 columns for 4 heads, 3 of keys and 3 of values"):
        kernels.attention_forward(zeros(1, 2, 48), 4, n_kv_head=3)
    with pytest.raises(ValueError, match="qkv: 32 columns for a cache of 2 heads of 8"):
        kernels.decode_attention(zeros(1, 1, 32), *(zeros(1, 2, 3, 8) for _ in "kv"),
                                 positions[:1], positions[:1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in llama.PRESETS if name != "llama-demo"])
def test_the_sizes_in_use_need_what_every_gpu_has(name, dtype, a_gpu_with, rng):  # noqa: F811
    """48 KB of shared memory."""
    cfg = llama.PRESETS[name]
    a_gpu_with(MaxSharedMemoryPerBlockOptin=48 << 10)
    for heads, HS in ((1, cfg.n_embd), (cfg.n_kv_head, cfg.head_size)):
        (x, x64), (w, w64), (dy, dy64) = arrays(rng, dtype, (3, heads * HS), (HS,), (3, heads * HS))
        y, cache = kernels.rmsnorm_forward(x, w, cfg.norm_eps)
        want, _ = llama.rmsnorm_forward(x64.reshape(3, heads, HS), w64, cfg.norm_eps)
        same(y, want.reshape(3, -1), dtype, "y")
        n64, rstd64 = (host(a).astype(np.float64) for a in cache[:2])
        dx, dw = kernels.rmsnorm_backward(dy, cache)
        want_dx, want_dw = llama.rmsnorm_backward(
            dy64.reshape(3, heads, HS), (n64.reshape(3, heads, HS), rstd64[..., None], w64))
        same(dx, want_dx.reshape(3, -1), dtype, "dx")
        same(dw, want_dw, dtype, "dw")
    HS, n_heads = cfg.head_size, cfg.n_head + 2 * cfg.n_kv_head
    (qkv, qkv64), = arrays(rng, dtype, (1, 1, n_heads * HS))
    k, v = (cp.zeros((1, cfg.n_kv_head, 5, HS), qkv.dtype) for _ in "kv")
    o = kernels.decode_attention(qkv, k, v, *(cp.asarray(np.array([n], np.int32)) for n in (0, 1)))
    values = qkv64.reshape(n_heads, HS)[-cfg.n_kv_head :]       # of one key attention is its value
    same(o, np.repeat(values, cfg.n_head // cfg.n_kv_head, 0).reshape(1, 1, -1), dtype, "o")


# ------------------------------------------------------------------------------- the plain kernels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N, C", [(5, 31), (33, 40)])
def test_the_plain_kernels_say_what_the_fast_ones_do(N, C, dtype, rng):
    (x, x64), (plus, plus64), (w, w64), (dy, dy64) = arrays(
        rng, dtype, (N, C), (N, C), (C,), (N, C))

    def run(file, name, n, *args):
        launching.launch(file, name, x.dtype, launching.ceil_div(n, 64), 64, *args)

    y, n, dx = (cp.empty((N, C), x.dtype) for _ in range(3))
    rstd = cp.empty((N, 1), np.float32)
    run("rmsnorm.cu", "rmsnorm_forward_v1", N, x, plus, w, y, n, rstd, N, C, 1, 1, 1, EPS)
    want, cache = llama.rmsnorm_forward(x64 + plus64, w64, EPS)
    same(y, want, dtype, "y")
    run("rmsnorm.cu", "rmsnorm_backward_v1", N, dy, n, rstd, w, plus, dx, N, C, 1, 1, 1)
    same(dx, llama.rmsnorm_backward(dy64, cache)[0] + plus64, dtype, "dx")
    (h, h64), = arrays(rng, dtype, (N, 2 * C))
    run("swiglu.cu", "swiglu_forward_v1", N * C, h, y, N, C)
    same(y, llama.swiglu_forward(*np.split(h64, 2, axis=-1))[0], dtype, "u")
