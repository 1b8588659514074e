"""llama.py: the operations of model/llama.py that GPT-2 has not, launched as those of __init__.py.

Attention with fewer heads of keys than of queries is GPT-2's: kernels.attention_forward and
kernels.decode_attention take n_kv_head.
"""

import numpy as np

from kernels.checks import apart, check, check_columns, check_each, cp, real, width
from kernels.launching import (
    BACKWARD_BLOCKS, MOST_HEAD_SIZE, ceil_div, column_sums, launch, or_empty, packed, packs,
    scratch,
)


# ------------------------------------------------------------------------------------ rmsnorm.cu

MOST_LANES = 256        # threads that share a row: a whole block
PACKS_A_LANE = 4        # of a long row a lane has so many in registers, before more lanes share it


def _lanes_a_row(C, dtype):
    """How many threads share a row: a power of two, a pack each if one warp is enough for that."""
    n_packs = packs(C, dtype)
    wanted = max(min(n_packs, 32), ceil_div(n_packs, PACKS_A_LANE))
    lanes = 1
    while lanes < min(wanted, MOST_LANES):
        lanes *= 2
    return lanes


def _row_defines(C, lanes, dtype):
    packs_a_lane = ceil_div(packs(C, dtype), lanes)
    return (f"-DLANES={lanes}", f"-DPACKS={packs_a_lane}", *packed(C, dtype))


def _normalise(x, plus, w, y, n, rstd, eps, heads):
    """Launch the forward for the N rows of n (N,C), of which x and y have `heads` in a row."""
    N, C = n.shape
    dtype = n.dtype
    lanes = _lanes_a_row(C, dtype)
    blocks = ceil_div(N * lanes, 256)
    launch(
        "rmsnorm.cu", "rmsnorm_forward_v2", dtype, blocks, 256,
        x, plus, w, y, n, rstd, N, C, heads, row_stride(x), float(eps),
        defines=_row_defines(C, lanes, dtype),
    )


def _slopes(dy, n, rstd, w, plus, dx, dw, heads, add):
    """Launch the backward for the N rows of n (N,C), of which dy and dx have `heads` in a row."""
    N, C = n.shape
    dtype = n.dtype
    lanes = _lanes_a_row(C, dtype)
    rows = 256 // lanes                                 # a block has at once
    blocks = min(BACKWARD_BLOCKS, ceil_div(N, rows))
    partial = scratch((blocks, C))
    sums = C + C // width(dtype) + 1                    # floats of a row in shared memory
    launch(
        "rmsnorm.cu", "rmsnorm_backward_v2", dtype, blocks, 256,
        dy, n, rstd, w, plus, dx, partial, N, C, heads, row_stride(dy),
        shared=4 * rows * sums,
        defines=_row_defines(C, lanes, dtype),
    )
    column_sums(partial, dw, add=add)


def row_stride(a):
    """The distance from one row of a matrix to the next, in numbers."""
    return a.strides[0] // a.dtype.itemsize


def rmsnorm_forward(x, w, eps, out=None, plus=None):
    """(N,C), (C,) -> (N,C), cache. First x += plus (N,C), in place, where it is given.

    out: y, n, rstd. rstd is float32.
    """
    N, C = x.shape
    dtype = real("x", x)
    y, n, rstd = out or (
        cp.empty((N, C), dtype),
        cp.empty((N, C), dtype),
        cp.empty((N, 1), np.float32),
    )
    check_each({"x": x, "y": y, "n": n, "plus": plus}, (N, C), dtype, packed(C, dtype))
    check("w", w, (C,), dtype, packed(C, dtype))
    check("rstd", rstd, (N, 1), np.float32)
    if plus is not None:
        apart({"x": x}, {"plus": plus, "w": w}, in_place=("plus",))
    inputs = {"x": x, "plus": plus, "w": w}
    apart({"y": y, "n": n, "rstd": rstd}, inputs, in_place=("x", "plus"))
    _normalise(x, plus, w, y, n, rstd, eps, heads=1)
    return y, (n, rstd, w)


def rmsnorm_backward(dy, cache, plus=None, out=None, add=False):
    """(N,C) -> plus + dx (N,C), dw (C,)"""
    n, rstd, w = cache
    N, C = dy.shape
    dtype = real("dy", dy)
    dx, dw = out or (
        cp.empty((N, C), dtype),
        cp.empty((C,), np.float32),
    )
    check_each({"dy": dy, "n": n, "dx": dx, "plus": plus}, (N, C), dtype, packed(C, dtype))
    check("w", w, (C,), dtype, packed(C, dtype))
    check("rstd", rstd, (N, 1), np.float32)
    check("dw", dw, (C,), np.float32)
    inputs = {"dy": dy, "n": n, "rstd": rstd, "w": w, "plus": plus}
    apart({"dx": dx, "dw": dw}, inputs, in_place=("dy", "n", "plus"))
    _slopes(dy, n, rstd, w, plus, dx, dw, 1, add)
    return dx, dw


def head_norm_forward(qk, w, eps, out=None):
    """RMSNorm of each head by itself, in place: (N, heads*HS), (HS,) -> qk, cache

    qk: columns of an array with longer rows. out: n (N, heads*HS), rstd (N, heads) float32.
    """
    dtype = real("qk", qk)
    heads, HS = _heads_of("qk", qk, w)
    n, rstd = out or (
        cp.empty(qk.shape, dtype),
        cp.empty((len(qk), heads), np.float32),
    )
    _check_heads("qk", qk, n, rstd, w)
    apart({"qk": qk, "n": n, "rstd": rstd}, {"w": w})
    _normalise(qk, None, w, qk, n.reshape(-1, HS), rstd, eps, heads)
    return qk, (n, rstd, w)


def head_norm_backward(dqk, cache, out=None, add=False):
    """(N, heads*HS) -> dqk in place, dw (HS,). out: the array for dw."""
    n, rstd, w = cache
    heads, HS = _heads_of("dqk", dqk, w)
    dw = or_empty(out, (HS,), np.float32)
    _check_heads("dqk", dqk, n, rstd, w)
    check("dw", dw, (HS,), np.float32)
    apart({"dqk": dqk, "dw": dw}, {"n": n, "rstd": rstd, "w": w})
    _slopes(dqk, n.reshape(-1, HS), rstd, w, None, dqk, dw, heads, add)
    return dqk, dw


def _heads_of(what, qk, w):
    """How many heads of w's size stand side by side in a row, and that size."""
    heads, rest = divmod(qk.shape[1], w.size)
    if rest:
        raise ValueError(
            f"{what}: {qk.shape[1]} columns, expected a multiple of {w.size}, which w has")
    return heads, w.size


def _check_heads(what, qk, n, rstd, w):
    """What both directions are given."""
    dtype = real(what, qk)
    heads, HS = _heads_of(what, qk, w)
    is_packed = packed(HS, dtype)
    check_columns(what, qk, qk.shape, dtype, is_packed)
    check("n", n, qk.shape, dtype, is_packed)
    check("w", w, (HS,), dtype, is_packed)
    check("rstd", rstd, (len(qk), heads), np.float32)


# ------------------------------------------------------------------------------------- rotary.cu


def rotary_forward(qkv, positions, table, n_turned):
    """Turn the first n_turned heads of each row of qkv by its position, in place.

    qkv (..., columns), positions int32, one a row; table (P,HS) float32: cosines | sines.
    """
    return _rotate(qkv, positions, table, n_turned, 1.0)


def rotary_backward(dqkv, positions, table, n_turned):
    """Turn the gradients back, in place: the transpose of a rotation is the one by -angle."""
    return _rotate(dqkv, positions, table, n_turned, -1.0)


def _rotate(x, positions, table, n_turned, sign):
    columns, HS = x.shape[-1], table.shape[-1]
    N = x.size // columns
    dtype = real("qkv", x)
    if HS % 2 or HS > MOST_HEAD_SIZE or not 0 < n_turned * HS <= columns:
        raise ValueError(
            f"qkv: {columns} columns for {n_turned} heads of {HS} to turn; expected heads of an "
            f"even size, {MOST_HEAD_SIZE} at most")
    is_packed = packed(HS // 2, dtype) and packed(columns, dtype)
    check("qkv", x, x.shape, dtype, is_packed)
    check("positions", positions, positions.shape, np.int32)
    if positions.size != N:
        raise ValueError(f"positions: {positions.shape}, expected one for each of {N} rows")
    check("table", table, (len(table), HS), np.float32, is_packed)
    apart({"qkv": x}, {"positions": positions, "table": table})
    blocks = ceil_div(N * n_turned * packs(HS // 2, dtype), 256)
    launch(
        "rotary.cu", "rotary", dtype, blocks, 256,
        x, positions, table, N, n_turned, columns, HS, sign,
        defines=is_packed,
    )
    return x


# ------------------------------------------------------------------------------------- swiglu.cu


def swiglu_forward(h, out=None):
    """gate | up (N,2F) -> u = silu(gate) up, (N,F). What swiglu_backward needs is h."""
    N, F, dtype = _gated(h)
    u = or_empty(out, (N, F), dtype)
    is_packed = packed(F, dtype)
    check("h", h, (N, 2 * F), dtype, is_packed)
    check("u", u, (N, F), dtype, is_packed)
    apart({"u": u}, {"h": h})
    blocks = ceil_div(N * packs(F, dtype), 256)
    launch("swiglu.cu", "swiglu_forward_v2", dtype, blocks, 256, h, u, N, F, defines=is_packed)
    return u


def swiglu_backward(du, h, out=None):
    """(N,F), (N,2F) -> dh (N,2F), which may take the place of h."""
    N, F, dtype = _gated(h)
    dh = or_empty(out, h.shape, dtype)
    is_packed = packed(F, dtype)
    check("du", du, (N, F), dtype, is_packed)
    check_each({"h": h, "dh": dh}, (N, 2 * F), dtype, is_packed)
    apart({"dh": dh}, {"du": du, "h": h}, in_place=("h",))
    blocks = ceil_div(N * packs(F, dtype), 256)
    launch("swiglu.cu", "swiglu_backward", dtype, blocks, 256, du, h, dh, N, F, defines=is_packed)
    return dh


def _gated(h):
    """Rows, columns of a half, and dtype of gate | up."""
    N, columns = h.shape
    if columns % 2:
        raise ValueError(f"h: {columns} columns, expected as many for the gate as for what it lets "
                         "through")
    return N, columns // 2, real("h", h)
