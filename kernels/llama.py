"""llama.py: the operations of model/llama.py that GPT-2 has not, launched as those of __init__.py.

Attention with fewer heads of keys than of queries is GPT-2's: kernels.attention_forward and
kernels.decode_attention take n_kv_head.
"""

import numpy as np

from kernels.checks import (
    apart, check, check_columns, check_each, cp, real, row_length, width,
)
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


def _row_defines(C, dtype):
    lanes = _lanes_a_row(C, dtype)
    packs_a_lane = ceil_div(packs(C, dtype), lanes)
    return (f"-DLANES={lanes}", f"-DPACKS={packs_a_lane}", *packed(C, dtype))


def rmsnorm_forward(x, w, eps, out=None, plus=None):
    """(N,C), (C,) -> (N,C), cache. First x += plus (N,C), in place, where it is given.

    w may be (HS,) for rows of several heads, (N,heads*HS): then each head is normed by itself.
    x and y may be some heads of longer rows. out: y, n, rstd (N,heads). rstd is float32.
    """
    dtype = real("x", x)
    N, heads, HS = _rows_of("x", x, w)
    y, n, rstd = out or (
        cp.empty(x.shape, dtype),
        cp.empty(x.shape, dtype),
        cp.empty((N, heads), np.float32),
    )
    heads_of_each = _check_norm({"x": x, "y": y}, n, rstd, w, plus)
    if plus is not None:
        apart({"x": x}, {"plus": plus, "w": w}, in_place=("plus",))
    inputs = {"x": x, "plus": plus, "w": w}
    apart({"y": y, "n": n, "rstd": rstd}, inputs, in_place=("x", "plus"))
    blocks = ceil_div(N * heads * _lanes_a_row(HS, dtype), 256)
    launch(
        "rmsnorm.cu", "rmsnorm_forward_v2", dtype, blocks, 256,
        x, plus, w, y, n, rstd, N * heads, HS, heads, *heads_of_each, float(eps),
        defines=_row_defines(HS, dtype),
    )
    return y, (n, rstd, w)


def rmsnorm_backward(dy, cache, plus=None, out=None, add=False):
    """(N,C) -> plus + dx (N,C), dw (C,). Or of several heads, as in the forward."""
    n, rstd, w = cache
    dtype = real("dy", dy)
    N, heads, HS = _rows_of("dy", dy, w)
    dx, dw = out or (
        cp.empty(dy.shape, dtype),
        cp.empty((HS,), np.float32),
    )
    heads_of_each = _check_norm({"dy": dy, "dx": dx}, n, rstd, w, plus)
    check_each({"dw": dw}, (HS,), np.float32)
    inputs = {"dy": dy, "n": n, "rstd": rstd, "w": w, "plus": plus}
    apart({"dx": dx, "dw": dw}, inputs, in_place=("dy", "n", "plus"))
    rows = 256 // _lanes_a_row(HS, dtype)               # a block has at once
    blocks = min(BACKWARD_BLOCKS, ceil_div(N * heads, rows))
    partial = scratch((blocks, HS))
    sums = HS + HS // width(dtype) + 1                  # floats of a row in shared memory
    launch(
        "rmsnorm.cu", "rmsnorm_backward_v2", dtype, blocks, 256,
        dy, n, rstd, w, plus, dx, partial, N * heads, HS, heads, *heads_of_each,
        shared=4 * rows * sums,
        defines=_row_defines(HS, dtype),
    )
    if dw is not None:
        column_sums(partial, dw, add=add)
    return dx, dw


def _rows_of(what, x, w):
    """(N, heads, HS) of x (N,heads*HS) and w (HS,)."""
    (N, C), HS = x.shape, w.size
    heads, rest = divmod(C, HS)
    if rest:
        raise ValueError(f"{what}: {C} columns, expected a multiple of {HS}, which w has")
    return N, heads, HS


def _check_norm(both, n, rstd, w, plus):
    """Checks what both directions are given. both: {name: array} of what may be columns of more.

    Returns how many heads fit into a whole row of each.
    """
    N, heads, HS = _rows_of("n", n, w)
    dtype, is_packed = n.dtype, packed(HS, n.dtype)
    for what, a in both.items():
        check_columns(what, a, n.shape, dtype, is_packed)
        if row_length(a) % HS:
            raise ValueError(
                f"{what}: columns of rows of {row_length(a)}, expected a multiple of {HS}")
    check_each({"n": n, "plus": plus}, n.shape, dtype, is_packed)
    check("w", w, (HS,), dtype, is_packed)
    check("rstd", rstd, (N, heads), np.float32)
    return [row_length(a) // HS for a in both.values()]


# ------------------------------------------------------------------------------------- rotary.cu


def rotary_forward(qkv, positions, table, n_turned):
    """Turn the first n_turned heads of each row of qkv (N,columns) by its position, in place.

    positions: N int32 of any shape; table (P,HS) float32: cosines | sines.
    """
    return _rotate(qkv, positions, table, n_turned, 1.0)


def rotary_backward(dqkv, positions, table, n_turned):
    """By the same angles back."""
    return _rotate(dqkv, positions, table, n_turned, -1.0)


def _rotate(x, positions, table, n_turned, sign):
    columns, HS = x.shape[-1], table.shape[-1]
    N = x.size // columns
    dtype = real("qkv", x)
    heads, rest = divmod(columns, HS)
    if rest or HS % 2 or HS > MOST_HEAD_SIZE or not 1 <= n_turned <= heads:
        raise ValueError(
            f"qkv: {columns} columns for {n_turned} heads of {HS} to turn; expected whole heads of "
            f"an even size, {MOST_HEAD_SIZE} at most")
    is_packed = packed(HS // 2, dtype, columns)
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


def add_to(x, more):
    """x += more, in place: any shape"""
    dtype = real("x", x)
    check_each({"x": x, "more": more}, x.shape, dtype, packed=True)
    apart({"x": x}, {"more": more})
    blocks = ceil_div(packs(x.size, dtype), 256)
    launch("add.cu", "add_to", dtype, blocks, 256, x, more, np.int64(x.size))
    return x


def _gated(h):
    """Rows, columns of a half, and dtype of gate | up."""
    N, columns = h.shape
    if columns % 2:
        raise ValueError(f"h: {columns} columns, expected as many for the gate as for what it lets "
                         "through")
    return N, columns // 2, real("h", h)
