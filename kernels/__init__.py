"""kernels: gpt.py's operations as raw CUDA, one .cu file for each, launched through CuPy.

The functions here have the names and the meanings of gpt.py's NumPy operations, which are their specification: give gpt.py CuPy
arrays and it calls these. They check what a kernel cannot: shape, dtype, contiguity; a launch itself checks nothing, and
CuPy passes a Python number as 64 bits whatever the kernel expects.

Arrays of numbers are float32, or bfloat16 kept as uint16, for which neither NumPy nor CuPy has a type of its own.
"""

import functools
from pathlib import Path

import cupy as cp
import numpy as np

FOLDER = Path(__file__).resolve().parent
SHARED_BYTES = 227 << 10        # of a block on sm_80 and later, at most (sm_86 and sm_89: 99 KB)
BACKWARD_BLOCKS = 264           # of kernels whose blocks sum over rows: two for each multiprocessor of an H100


@functools.lru_cache(maxsize=None)
def kernel(file, name, bf16):
    """A kernel of one .cu file, compiled for float32 or bfloat16. common.cuh stands in front of the text rather than being
    included, because CuPy's cache of compiled kernels does not look into what is included."""
    return _module(file, bf16).get_function(name)


@functools.lru_cache(maxsize=None)
def _module(file, bf16):
    code = (FOLDER / "common.cuh").read_text() + (FOLDER / file).read_text()
    return cp.RawModule(code=code, options=("-DBF16",) if bf16 else ())


def launch(file, name, dtype, blocks, threads, args, shared=0):
    f = kernel(file, name, dtype == np.uint16)
    if shared > 48 << 10:
        f.max_dynamic_shared_size_bytes = shared
    f((blocks,) if isinstance(blocks, int) else blocks, (threads,), args, shared_mem=shared)


def check(what, a, shape, dtype):
    if not isinstance(a, cp.ndarray):
        raise TypeError(f"{what}: a {type(a).__name__}, expected a CuPy array")
    if a.shape != tuple(shape) or a.dtype != dtype:
        raise ValueError(f"{what}: {a.dtype} {a.shape}, expected {np.dtype(dtype)} {tuple(shape)}")
    if not a.flags.c_contiguous:
        raise ValueError(f"{what}: its rows do not lie one behind the other in memory; pass a copy")


def real(what, a):
    """The dtype of an array that sets it for the others: float32, or uint16 for bfloat16."""
    if a.dtype not in (np.float32, np.uint16):
        raise ValueError(f"{what}: {a.dtype}, expected float32, or uint16 that holds bfloat16")
    return a.dtype


def width(dtype):
    """How many numbers a thread loads at once: 16 bytes of them."""
    return 16 // np.dtype(dtype).itemsize


def ceil_div(a, b):
    return -(-a // b)


def rows_that_fit(floats_a_row, most):
    """Warps of a block that each keep so many floats in shared memory."""
    fit = SHARED_BYTES // (4 * floats_a_row)
    if fit < 1:
        raise ValueError(f"a row of {floats_a_row} numbers does not fit {SHARED_BYTES} bytes of shared memory")
    return min(most, fit)


# -------------------------------------------------------------------------------------------------- layernorm.cu


def layernorm_forward(x, w, b, eps=1e-5, out=None, plus=None):          # (N,C), (C,), (C,) -> (N,C), cache
    (N, C), dtype = x.shape, real("x", x)
    y, n, rstd = out or (cp.empty((N, C), dtype), cp.empty((N, C), dtype), cp.empty((N, 1), np.float32))
    for what, a, shape in (("x", x, (N, C)), ("w", w, (C,)), ("b", b, (C,)), ("y", y, (N, C)), ("n", n, (N, C))):
        check(what, a, shape, dtype)
    check("rstd", rstd, (N, 1), np.float32)
    if plus is not None:
        check("plus", plus, (N, C), dtype)
    row = ceil_div(C, width(dtype)) * width(dtype)
    warps = rows_that_fit(row, 8)
    launch("layernorm.cu", "layernorm_forward_v2", dtype, ceil_div(N, warps), 32 * warps,
           (x, plus, w, b, y, n, rstd, np.int32(N), np.int32(C), np.float32(eps)), shared=4 * warps * row)
    return y, (n, rstd, w)


def layernorm_backward(dy, cache, plus=None, out=None, add=False):      # (N,C) -> (N,C), (C,), (C,)
    n, rstd, w = cache
    (N, C), dtype = dy.shape, real("dy", dy)
    dx, dw, db = out or (cp.empty((N, C), dtype), cp.empty((C,), dtype), cp.empty((C,), dtype))
    for what, a, shape in (("dy", dy, (N, C)), ("n", n, (N, C)), ("w", w, (C,)), ("dx", dx, (N, C)), ("dw", dw, (C,)), ("db", db, (C,))):
        check(what, a, shape, dtype)
    check("rstd", rstd, (N, 1), np.float32)
    if plus is not None:
        check("plus", plus, (N, C), dtype)
    row = ceil_div(C, width(dtype)) * width(dtype)
    warps = rows_that_fit(2 * row, 8)
    blocks = min(BACKWARD_BLOCKS, ceil_div(N, warps))
    partial = cp.empty((blocks, 2, C), np.float32)
    launch("layernorm.cu", "layernorm_backward_v2", dtype, blocks, 32 * warps,
           (dy, n, rstd, w, plus, dx, partial, np.int32(N), np.int32(C)), shared=8 * warps * row)
    launch("layernorm.cu", "layernorm_backward_sums", dtype, ceil_div(2 * C, 256), 256,
           (partial, dw, db, np.int32(blocks), np.int32(C), np.int32(add)))
    return dx, dw, db


# ------------------------------------------------------------------------------------------------------- gelu.cu


def packs(n, dtype):
    """How many threads it takes where each has 16 bytes."""
    return ceil_div(n, width(dtype))


def gelu_forward(x, out=None):                          # any shape; the derivative takes x's place
    dtype = real("x", x)
    y = cp.empty(x.shape, dtype) if out is None else out[0]
    check("x", x, x.shape, dtype)
    check("y", y, x.shape, dtype)
    launch("gelu.cu", "gelu_forward_v2", dtype, ceil_div(packs(x.size, dtype), 256), 256, (x, y, np.int64(x.size)))
    return y, x


def gelu_backward(dy, slope, out=None):
    dtype = real("dy", dy)
    dx = cp.empty(dy.shape, dtype) if out is None else out
    for what, a in (("dy", dy), ("slope", slope), ("dx", dx)):
        check(what, a, dy.shape, dtype)
    launch("gelu.cu", "gelu_backward", dtype, ceil_div(packs(dy.size, dtype), 256), 256, (dy, slope, dx, np.int64(dy.size)))
    return dx


# -------------------------------------------------------------------------------------------------- embedding.cu


def embedding_forward(tokens, positions, wte, wpe, out=None):           # (N,) int32 twice, (V,C), (P,C) -> (N,C)
    (N,), C, dtype = tokens.shape, wte.shape[1], real("wte", wte)
    x = cp.empty((N, C), dtype) if out is None else out
    for what, a, shape, kind in (("tokens", tokens, (N,), np.int32), ("positions", positions, (N,), np.int32), ("wte", wte, wte.shape, dtype),
                                 ("wpe", wpe, (len(wpe), C), dtype), ("x", x, (N, C), dtype)):
        check(what, a, shape, kind)
    launch("embedding.cu", "embedding_forward", dtype, ceil_div(N * packs(C, dtype), 256), 256,
           (tokens, positions, wte, wpe, x, np.int32(N), np.int32(C)))
    return x


def look_ups(tokens):                                   # (N,) int on the host -> what embedding_backward wants to know of them
    """(order, starts, values): the rows sorted by token, where each token's rows begin, and which token it is."""
    order = np.argsort(tokens, kind="stable").astype(np.int32)
    values, starts = np.unique(tokens[order], return_index=True)
    return tuple(cp.asarray(a.astype(np.int32)) for a in (order, np.append(starts, len(tokens)), values))


def embedding_backward(dx, sorted_rows, dtable):        # (N,C), look_ups(), adds to (V,C)
    (order, starts, values), (N, C), dtype = sorted_rows, dx.shape, real("dx", dx)
    for what, a, shape, kind in (("dx", dx, (N, C), dtype), ("order", order, (N,), np.int32), ("values", values, values.shape, np.int32),
                                 ("starts", starts, (len(values) + 1,), np.int32), ("dtable", dtable, (len(dtable), C), dtype)):
        check(what, a, shape, kind)
    launch("embedding.cu", "embedding_backward_v2", dtype, (len(values), ceil_div(packs(C, dtype), 32)), 256,
           (dx, order, starts, values, dtable, np.int32(C)), shared=4 * 8 * 32 * width(dtype))


def position_backward(dx, B, dwpe):                     # (B*T,C), adds to the first T rows of (P,C)
    (N, C), dtype = dx.shape, real("dx", dx)
    T = N // B
    check("dx", dx, (B * T, C), dtype)
    check("dwpe", dwpe, (max(len(dwpe), T), C), dtype)
    launch("embedding.cu", "position_backward", dtype, ceil_div(T * packs(C, dtype), 128), 128, (dx, dwpe, np.int32(B), np.int32(T), np.int32(C)))


# -------------------------------------------------------------------------------------------------- attention.cu

TILE = 64                       # queries, and keys, of a tile of the tensor-core kernels
MOST_HEAD_SIZE = 256


def _attention(B, T, NH, HS, dtype, name, args, tiles, floats=0):
    """Tensor cores where they fit: bfloat16 and heads of 64 or 128; tiles of them and so many floats in shared memory. Else the plain kernel."""
    scale = np.float32(HS ** -0.5)
    if dtype == np.uint16 and HS in (64, 128):
        launch("attention.cu", f"{name}_{HS}", dtype, (ceil_div(T, TILE), NH, B), 128, (*args, np.int32(T), np.int32(NH), scale),
               shared=tiles * TILE * HS * 2 + 4 * floats)
    else:
        launch("attention.cu", f"{name}_v1", dtype, (ceil_div(T, 4), NH, B), 128, (*args, np.int32(T), np.int32(NH), np.int32(HS), scale))


def _head_size(qkv, n_head):
    B, T, C3 = qkv.shape
    if C3 % (3 * n_head) or C3 // (3 * n_head) > MOST_HEAD_SIZE:
        raise ValueError(f"qkv: {C3} columns for {n_head} heads; three times a multiple of {n_head}, and heads of {MOST_HEAD_SIZE} at most")
    return C3 // (3 * n_head)


def attention_forward(qkv, n_head, out=None):           # (B,T,3C) -> (B,T,C), cache
    (B, T, C3), dtype, HS = qkv.shape, real("qkv", qkv), _head_size(qkv, n_head)
    o, lse = out or (cp.empty((B, T, C3 // 3), dtype), cp.empty((B, n_head, T, 1), np.float32))
    check("qkv", qkv, (B, T, C3), dtype)
    check("o", o, (B, T, C3 // 3), dtype)
    check("lse", lse, (B, n_head, T, 1), np.float32)
    _attention(B, T, n_head, HS, dtype, "attention_forward", (qkv, o, lse), tiles=5)
    return o, (qkv, o, lse)


def attention_backward(do, cache, n_head, out=None):    # (B,T,C) -> (B,T,3C); out may not be qkv: its tiles are read to the end
    qkv, o, lse = cache
    (B, T, C3), dtype, HS = qkv.shape, real("qkv", qkv), _head_size(qkv, n_head)
    dqkv, D = cp.empty((B, T, C3), dtype) if out is None else out, cp.empty((B, n_head, T), np.float32)
    for what, a, shape in (("qkv", qkv, (B, T, C3)), ("dqkv", dqkv, (B, T, C3)), ("o", o, (B, T, C3 // 3)), ("do", do, (B, T, C3 // 3))):
        check(what, a, shape, dtype)
    check("lse", lse, (B, n_head, T, 1), np.float32)
    launch("attention.cu", "attention_backward_rows", dtype, (ceil_div(T, 4), n_head, B), 128, (o, do, D, np.int32(T), np.int32(n_head), np.int32(HS)))
    _attention(B, T, n_head, HS, dtype, "attention_backward_q", (qkv, do, lse, D, dqkv), tiles=6)
    _attention(B, T, n_head, HS, dtype, "attention_backward_kv", (qkv, do, lse, D, dqkv), tiles=6, floats=4 * TILE)
    return dqkv


# ----------------------------------------------------------------------------------------------------- decode.cu


def decode_attention(qkv, k_cache, v_cache, length, out=None):          # (B,3C), (B,NH,S,HS) twice, (B,) int32 -> (B,C)
    """One new position a row: its key and value go into the cache at place length, which must be below S."""
    B, NH, S, HS = k_cache.shape
    C, dtype = NH * HS, real("qkv", qkv)
    o = cp.empty((B, C), dtype) if out is None else out
    for what, a, shape in (("qkv", qkv, (B, 3 * C)), ("k_cache", k_cache, (B, NH, S, HS)), ("v_cache", v_cache, (B, NH, S, HS)), ("o", o, (B, C))):
        check(what, a, shape, dtype)
    check("length", length, (B,), np.int32)
    if HS > MOST_HEAD_SIZE:
        raise ValueError(f"heads of {HS}, {MOST_HEAD_SIZE} at most")
    lanes = min(32, 1 << (packs(HS, dtype) - 1).bit_length())
    launch("decode.cu", "decode_attention", dtype, (NH, B), 256,
           (qkv, k_cache, v_cache, length, o, np.int32(NH), np.int32(S), np.int32(HS), np.float32(HS ** -0.5)), shared=4 * (256 // lanes) * (HS + 2))
    return o


# ---------------------------------------------------------------------------------------------- cross_entropy.cu


def cross_entropy(logits, targets, weights=None, n_vocab=None, out=None):       # (N,stride), (N,) int32, (N,) -> (N,)
    """nll of each row; with weights, logits become their gradient. Columns from n_vocab on are padding."""
    (N, stride), dtype = logits.shape, real("logits", logits)
    V, nll = n_vocab or stride, cp.empty((N,), np.float32) if out is None else out
    if not 1 <= V <= stride:
        raise ValueError(f"logits: {stride} columns for a vocabulary of {V}")
    check("logits", logits, (N, stride), dtype)
    check("targets", targets, (N,), np.int32)
    check("nll", nll, (N,), np.float32)
    if weights is not None:
        check("weights", weights, (N,), np.float32)
    threads = min(1024, ceil_div(packs(V, dtype), 32) * 32)
    launch("cross_entropy.cu", "cross_entropy_v2", dtype, N, threads, (logits, targets, weights, nll, np.int32(N), np.int32(V), np.int32(stride)))
    return nll


# -------------------------------------------------------------------------------------------------------- bias.cu


def bias_forward(y, b):                                 # (N,F) in place, (F,)
    (N, F), dtype = y.shape, real("y", y)
    check("y", y, (N, F), dtype)
    check("b", b, (F,), dtype)
    launch("bias.cu", "bias_forward", dtype, ceil_div(N * packs(F, dtype), 256), 256, (y, b, np.int32(N), np.int32(F)))
    return y


def bias_backward(dy, out=None, add=False):             # (N,F) -> (F,)
    (N, F), dtype = dy.shape, real("dy", dy)
    db = cp.empty((F,), dtype) if out is None else out
    check("dy", dy, (N, F), dtype)
    check("db", db, (F,), dtype)
    strips = ceil_div(packs(F, dtype), 32)
    shares = min(ceil_div(N, 8), max(1, BACKWARD_BLOCKS // strips))
    partial = cp.empty((shares, F), np.float32)
    launch("bias.cu", "bias_backward_v2", dtype, (strips, shares), 256, (dy, partial, np.int32(N), np.int32(F)), shared=4 * 8 * 32 * width(dtype))
    launch("bias.cu", "column_sums", dtype, ceil_div(F, 256), 256, (partial, db, np.int32(shares), np.int32(F), np.int32(add)))
    return db


# ------------------------------------------------------------------------------------------------------- adamw.cu


def grad_norm(grads, clip, state, partial):             # (n,), float, (3,) float32, (blocks,) float32
    """Puts the norm, the scale that clips it and the number of skipped steps into state, without asking the host."""
    dtype = real("grads", grads)
    check("grads", grads, (grads.size,), dtype)
    check("state", state, (3,), np.float32)
    check("partial", partial, (partial.size,), np.float32)
    launch("adamw.cu", "norm_partials", dtype, partial.size, 512, (grads, partial, np.int64(grads.size)))
    launch("adamw.cu", "norm_and_scale", dtype, 1, 32, (partial, state, np.int32(partial.size), np.float32(clip)))


def adamw(grads, master, m, v, params, state, rates, n_decayed, b1, b2, eps, decay):    # (n,) five times, (3,) float32 twice
    """One step for all parameters. rates: lr, 1 / (1 - b1^t), 1 / (1 - b2^t); the first n_decayed parameters decay."""
    n, dtype = grads.size, real("grads", grads)
    for what, a, kind in (("grads", grads, dtype), ("master", master, np.float32), ("m", m, np.float32), ("v", v, np.float32), ("params", params, dtype)):
        check(what, a, (n,), kind)
    check("state", state, (3,), np.float32)
    check("rates", rates, (3,), np.float32)
    launch("adamw.cu", "adamw", dtype, ceil_div(packs(n, dtype), 256), 256,
           (grads, master, m, v, params, state, rates, np.int64(n), np.int64(n_decayed), *map(np.float32, (b1, b2, eps, decay))))


# ----------------------------------------------------------------------------------------------------- convert.cu


def to_bf16(x):                                         # float32 -> uint16
    check("x", x, x.shape, np.float32)
    y = cp.empty(x.shape, np.uint16)
    launch("convert.cu", "to_real", np.uint16, ceil_div(x.size, 256), 256, (x, y, np.int64(x.size)))
    return y


def to_float32(x):
    check("x", x, x.shape, np.uint16)
    y = cp.empty(x.shape, np.float32)
    launch("convert.cu", "to_float32", np.uint16, ceil_div(x.size, 256), 256, (x, y, np.int64(x.size)))
    return y
