"""kernels: gpt.py's operations as raw CUDA, one .cu file for each, launched through CuPy.

The functions here have the names and the meanings of gpt.py's NumPy operations, which are their specification: give gpt.py CuPy
arrays and it calls these. They check what a kernel cannot: shape, dtype, contiguity; a launch itself checks nothing, and
CuPy passes a Python number as 64 bits whatever the kernel expects.

Arrays of numbers are float32, or bfloat16 kept as uint16, for which neither NumPy nor CuPy has a type of its own. Gradients of
parameters are float32 either way: they are sums over many rows, and the batches of a step are added up in them.

An output must not share memory with another array, unless its launcher allows it to replace an input (in_place).
The values of indices (tokens, targets, rows) are not checked here, because they lie on the GPU: model/device.py
checks them before it sends them.
"""

import functools
import importlib.machinery
import importlib.util
import math
import sys
from pathlib import Path

from model import checkpoint
import numpy as np

from kernels import cublas
from kernels.checks import apart, check, check_launch, cp, int32, limits, real, width

FOLDER = Path(__file__).resolve().parent
# Blocks of kernels that sum over rows: two for each multiprocessor of an H100. Other GPUs take the
# same number: it decides the order of the sums, and so their last bits.
BACKWARD_BLOCKS = 264


def __getattr__(name):
    """A name that is not ours, taken from the installed package `kernels` if there is one.

    Hugging Face has a package of that name, and transformers looks for it. Where the checkout is
    the current folder, it finds this one instead. So both can be used in one process.
    """
    if not name.startswith("_"):
        package = _installed_package()
        if hasattr(package, name):
            return getattr(package, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.lru_cache(maxsize=None)
def _installed_package():
    """The package of this folder's name that is installed, or None."""
    elsewhere = [path for path in sys.path if Path(path).resolve() != FOLDER.parent]
    spec = importlib.machinery.PathFinder.find_spec(__name__, elsewhere)
    if not spec or not spec.origin or "kernels.installed" in sys.modules:
        return None
    __path__.extend(spec.submodule_search_locations)    # for its imports: from kernels.layer ...
    package = sys.modules["kernels.installed"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


@functools.lru_cache(maxsize=None)
def kernel(file, name, bf16, defines=()):
    """A kernel of one .cu file, compiled for float32 or bfloat16. common.cuh stands in front of the text rather than being
    included, because CuPy's cache of compiled kernels does not look into what is included."""
    if bf16 and limits().capability < (8, 0):
        ours = ".".join(map(str, limits().capability))
        raise ValueError(f"{name}: bfloat16 needs a GPU of compute capability 8.0, this one has {ours}; use float32")
    return _module(file, bf16, defines).get_function(name)


@functools.lru_cache(maxsize=None)
def _module(file, bf16, defines):
    code = (FOLDER / "common.cuh").read_text() + (FOLDER / file).read_text()
    return cp.RawModule(code=code, options=(("-DBF16",) if bf16 else ()) + defines)


def launch(file, name, dtype, blocks, threads, args, shared=0, defines=()):
    blocks = (blocks,) if isinstance(blocks, int) else blocks
    check_launch(name, blocks, threads, shared)
    f = kernel(file, name, dtype == np.uint16, defines)
    if shared > 48 << 10:
        f.max_dynamic_shared_size_bytes = shared
    f(blocks, (threads,), args, shared_mem=shared)


_memory = {"scratch": None}


def scratch(shape):
    """A float32 array for what one launch leaves to the next. All share one memory, which grows to the largest need: launches
    run one after the other."""
    n = math.prod(shape)
    if _memory["scratch"] is None or _memory["scratch"].size < n:
        _memory["scratch"] = None                       # free the old one first
        _memory["scratch"] = cp.empty((n,), np.float32)
    return _memory["scratch"][:n].reshape(shape)


class Recording:
    """Launches that are made again and again with the same arguments, as one CUDA graph.

    The first time work() is called as it is, which compiles what it needs and takes what memory it needs. The second time it is
    recorded, and from then on replayed. What changes between calls must lie in arrays. A product that cublasLt has nothing
    for cannot be recorded: then work() is called every time.
    """

    def __init__(self):
        self.calls, self.graph, self.kept = 0, None, None

    def __call__(self, work):                           # not kept: whose method it is would not be freed with the last reference
        self.calls += 1
        if self.calls == 2:
            self._record(work)
        if self.graph:
            self.graph.launch()
        else:
            work()

    def _record(self, work):
        stream = cp.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                work()
            except NotImplementedError as e:            # CuPy's gemmEx says so before it does anything
                stream.end_capture()
                print(f"kernels: not recorded as a CUDA graph ({e})", file=sys.stderr)
                return
            self.graph, self.kept = stream.end_capture(), _memory["scratch"]    # the graph knows where it lies


def packed(columns, dtype):
    """The define that says that rows of so many columns fall into whole packs; () if they do not."""
    return ("-DPACKED=1",) if columns % width(dtype) == 0 else ()


def strip(dtype):
    """Floats that a warp's sums of 32 times that many columns take in shared memory, spread over its banks."""
    return 32 * (width(dtype) + 1)


def ceil_div(a, b):
    return -(-a // b)


def rows_that_fit(floats_a_row, most):
    """Warps of a block that each keep so many floats in shared memory, as many as the GPU has room for."""
    fit = limits().shared_bytes // (4 * floats_a_row)
    if fit < 1:
        raise ValueError(f"a row of {floats_a_row} numbers does not fit the {limits().shared_bytes} bytes "
                         "of this GPU's shared memory")
    return min(most, fit)


def _column_sums(partial, sums, rest=None, *, add):     # (shares,F) -> (F,), or its first columns to one array and the others to the next
    shares, F = partial.shape
    launch("bias.cu", "column_sums", np.float32, ceil_div(F, 32), 256,
           (partial, sums, rest, int32(shares), int32(F), int32(sums.size), int32(add)))


# -------------------------------------------------------------------------------------------------- layernorm.cu


def _packs_a_lane(C, dtype):
    return (f"-DPACKS={ceil_div(C, 32 * width(dtype))}", *packed(C, dtype))


def layernorm_forward(x, w, b, eps=1e-5, out=None, plus=None):          # (N,C), (C,), (C,) -> (N,C), cache
    (N, C), dtype = x.shape, real("x", x)
    y, n, rstd = out or (cp.empty((N, C), dtype), cp.empty((N, C), dtype), cp.empty((N, 1), np.float32))
    for what, a, shape in (("x", x, (N, C)), ("w", w, (C,)), ("b", b, (C,)), ("y", y, (N, C)), ("n", n, (N, C))):
        check(what, a, shape, dtype, packed(C, dtype))
    check("rstd", rstd, (N, 1), np.float32)
    if plus is not None:
        check("plus", plus, (N, C), dtype, packed(C, dtype))
        apart({"x": x}, {"plus": plus, "w": w, "b": b}, in_place=("plus",))
    apart({"y": y, "n": n, "rstd": rstd}, {"x": x, "plus": plus, "w": w, "b": b}, in_place=("x", "plus"))
    launch("layernorm.cu", "layernorm_forward_v2", dtype, ceil_div(N, 8), 256,
           (x, plus, w, b, y, n, rstd, int32(N), int32(C), np.float32(eps)), defines=_packs_a_lane(C, dtype))
    return y, (n, rstd, w)


def layernorm_backward(dy, cache, plus=None, out=None, add=False):      # (N,C) -> (N,C), (C,), (C,)
    n, rstd, w = cache
    (N, C), dtype = dy.shape, real("dy", dy)
    dx, dw, db = out or (cp.empty((N, C), dtype), cp.empty((C,), np.float32), cp.empty((C,), np.float32))
    for what, a, shape in (("dy", dy, (N, C)), ("n", n, (N, C)), ("w", w, (C,)), ("dx", dx, (N, C))):
        check(what, a, shape, dtype, packed(C, dtype))
    for what, a, shape in (("rstd", rstd, (N, 1)), ("dw", dw, (C,)), ("db", db, (C,))):
        check(what, a, shape, np.float32)
    if plus is not None:
        check("plus", plus, (N, C), dtype, packed(C, dtype))
    apart({"dx": dx, "dw": dw, "db": db}, {"dy": dy, "n": n, "rstd": rstd, "w": w, "plus": plus}, in_place=("dy", "n", "plus"))
    sums = 2 * (C + C // width(dtype) + 1)              # floats a warp has in shared memory
    warps = rows_that_fit(sums, 8)
    blocks = min(BACKWARD_BLOCKS, ceil_div(N, warps))
    partial = scratch((blocks, 2 * C))
    launch("layernorm.cu", "layernorm_backward_v2", dtype, blocks, 32 * warps,
           (dy, n, rstd, w, plus, dx, partial, int32(N), int32(C)), shared=4 * warps * sums, defines=_packs_a_lane(C, dtype))
    _column_sums(partial, dw, db, add=add)
    return dx, dw, db


# ------------------------------------------------------------------------------------------------------- gelu.cu


def packs(n, dtype):
    """How many threads it takes where each has 16 bytes."""
    return ceil_div(n, width(dtype))


def gelu_forward(x, out=None):                          # any shape; x itself is what the backward wants
    dtype = real("x", x)
    y = cp.empty(x.shape, dtype) if out is None else out[0]
    check("x", x, x.shape, dtype, packed=True)
    check("y", y, x.shape, dtype, packed=True)
    apart({"y": y}, {"x": x}, in_place=("x",))
    launch("gelu.cu", "gelu_forward_v2", dtype, ceil_div(packs(x.size, dtype), 256), 256, (x, y, np.int64(x.size)))
    return y, x


def gelu_backward(dy, x, out=None):                     # dx may take the place of either
    dtype = real("dy", dy)
    dx = cp.empty(dy.shape, dtype) if out is None else out
    for what, a in (("dy", dy), ("x", x), ("dx", dx)):
        check(what, a, dy.shape, dtype, packed=True)
    apart({"dx": dx}, {"dy": dy, "x": x}, in_place=("dy", "x"))
    launch("gelu.cu", "gelu_backward", dtype, ceil_div(packs(dy.size, dtype), 256), 256, (dy, x, dx, np.int64(dy.size)))
    return dx


# -------------------------------------------------------------------------------------------------- embedding.cu


def embedding_forward(tokens, positions, wte, wpe, out=None):           # N int32 of any shape twice, (V,C), (P,C) -> (N,C)
    N, C, dtype = tokens.size, wte.shape[1], real("wte", wte)
    x = cp.empty((N, C), dtype) if out is None else out
    for what, a in (("tokens", tokens), ("positions", positions)):
        check(what, a, tokens.shape, np.int32)
    for what, a, shape in (("wte", wte, (len(wte), C)), ("wpe", wpe, (len(wpe), C)), ("x", x, (N, C))):
        check(what, a, shape, dtype, packed(C, dtype))
    apart({"x": x}, {"tokens": tokens, "positions": positions, "wte": wte, "wpe": wpe})
    launch("embedding.cu", "embedding_forward", dtype, ceil_div(N * packs(C, dtype), 256), 256,
           (tokens, positions, wte, wpe, x, int32(N), int32(C)), defines=packed(C, dtype))
    return x


def look_ups(tokens):                                   # (N,) int on the host -> (order, starts, values), int32 on the host
    """What embedding_backward wants to know: the rows sorted by token (N,), where the j-th token's rows begin (N + 1,), and which
    token that is (N,). Behind the last different token, starts is N."""
    N = len(tokens)
    if N and tokens.min() < 0:
        raise ValueError(f"look_ups: id {tokens.min()} is negative")
    if N and tokens.max() < 1 << 16:                    # of 16 bits NumPy sorts by counting: ten times as fast, while the GPU waits
        tokens = tokens.astype(np.uint16)
    order = np.argsort(tokens, kind="stable")
    ordered = tokens[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[:N])
    starts, values = np.full(N + 1, N, np.int32), np.zeros(N, np.int32)
    starts[:len(first)], values[:len(first)] = first, ordered[first]
    return order.astype(np.int32), starts, values


def embedding_backward(dx, sorted_rows, dtable):        # (N,C), look_ups() as CuPy arrays, adds to (V,C)
    (order, starts, values), (N, C), dtype = sorted_rows, dx.shape, real("dx", dx)
    for what, a, shape in (("order", order, (N,)), ("values", values, (N,)), ("starts", starts, (N + 1,))):
        check(what, a, shape, np.int32)
    check("dx", dx, (N, C), dtype, packed(C, dtype))
    check("dtable", dtable, (len(dtable), C), np.float32)
    apart({"dtable": dtable}, {"dx": dx, "order": order, "starts": starts, "values": values})
    launch("embedding.cu", "embedding_backward_v2", dtype, (N, ceil_div(packs(C, dtype), 32)), 256,
           (dx, order, starts, values, dtable, int32(N), int32(C)), shared=4 * 8 * strip(dtype), defines=packed(C, dtype))


def position_backward(dx, B, dwpe, add=True):           # (B*T,C), adds to the first T rows of (P,C); without add the others become 0
    (N, C), dtype, P = dx.shape, real("dx", dx), len(dwpe)
    T = N // B
    check("dx", dx, (B * T, C), dtype)
    check("dwpe", dwpe, (max(P, T), C), np.float32)
    apart({"dwpe": dwpe}, {"dx": dx})
    launch("embedding.cu", "position_backward", dtype, ceil_div(P * C, 256), 256,
           (dx, dwpe, int32(B), int32(T), int32(P), int32(C), int32(add)))


# -------------------------------------------------------------------------------------------------- attention.cu

TILE = 64                       # rows of a tile of the tensor-core kernels
# How many tiles of rows a block has, two where nothing is said, and what the kernel's name ends in.
# The second of two kernels is slower and needs less shared memory.
TILES = {("attention_backward_q", 128): ((2, ""), (1, "_small")), ("attention_backward_kv", 128): ((1, ""),)}
MOST_HEAD_SIZE = 256


def _attention(B, T, NH, HS, dtype, name, args, own, floats=0):
    """Tensor cores for bfloat16 and heads of 32, 64 or 128, if the GPU's shared memory is enough. Else the plain kernel.

    A block keeps one or two tiles of rows of so many arrays (own), four tiles that pass by, and so many floats.
    """
    scale = np.float32(HS ** -0.5)
    if dtype == np.uint16 and HS in (32, 64, 128):
        for tiles, kind in TILES.get((name, HS), ((2, ""),)):
            shared = (tiles * own + 4) * TILE * HS * 2 + 4 * floats
            if shared <= limits().shared_bytes:
                grid = ceil_div(T, tiles * TILE), NH, B
                launch("attention.cu", f"{name}_{HS}{kind}", dtype, grid, 128, (*args, int32(T), int32(NH), scale), shared=shared)
                return
        _say_once(f"kernels: {name} without tensor cores, which is slow: heads of {HS} take {shared} bytes "
                  f"of shared memory, this GPU has {limits().shared_bytes}")
    launch("attention.cu", f"{name}_v1", dtype, (ceil_div(T, 4), NH, B), 128, (*args, int32(T), int32(NH), int32(HS), scale))


@functools.lru_cache(maxsize=None)
def _say_once(line):
    print(line, file=sys.stderr)


def lanes_of(HS, dtype):
    """How many lanes share a row of a head: as it has packs, rounded up to a power of two, at most a warp."""
    return min(32, 1 << (packs(HS, dtype) - 1).bit_length())


def _head_size(qkv, n_head):
    B, T, C3 = qkv.shape
    if C3 % (3 * n_head) or C3 // (3 * n_head) > MOST_HEAD_SIZE:
        raise ValueError(f"qkv: {C3} columns for {n_head} heads; three times a multiple of {n_head}, and heads of {MOST_HEAD_SIZE} at most")
    return C3 // (3 * n_head)


def _no_segments(hidden):
    if hidden is not None:
        raise ValueError("hidden: the kernels have no rows of several texts; give each text a row of its own")


def attention_forward(qkv, n_head, out=None, hidden=None):           # (B,T,3C) -> (B,T,C), cache
    _no_segments(hidden)
    (B, T, C3), dtype, HS = qkv.shape, real("qkv", qkv), _head_size(qkv, n_head)
    o, lse = out or (cp.empty((B, T, C3 // 3), dtype), cp.empty((B, n_head, T, 1), np.float32))
    check("qkv", qkv, (B, T, C3), dtype, packed(HS, dtype))
    check("o", o, (B, T, C3 // 3), dtype, packed(HS, dtype))
    check("lse", lse, (B, n_head, T, 1), np.float32)
    apart({"o": o, "lse": lse}, {"qkv": qkv})
    _attention(B, T, n_head, HS, dtype, "attention_forward", (qkv, o, lse), own=1)
    return o, (qkv, o, lse)


def attention_backward(do, cache, n_head, out=None, hidden=None):    # (B,T,C) -> (B,T,3C)
    """Unlike gpt.py's, out cannot take the place of qkv, which other blocks read to the end."""
    _no_segments(hidden)
    qkv, o, lse = cache
    (B, T, C3), dtype, HS = qkv.shape, real("qkv", qkv), _head_size(qkv, n_head)
    dqkv, D = cp.empty((B, T, C3), dtype) if out is None else out, scratch((B, n_head, T))
    for what, a, shape in (("qkv", qkv, (B, T, C3)), ("dqkv", dqkv, (B, T, C3)), ("o", o, (B, T, C3 // 3)), ("do", do, (B, T, C3 // 3))):
        check(what, a, shape, dtype, packed(HS, dtype))
    check("lse", lse, (B, n_head, T, 1), np.float32)
    apart({"dqkv": dqkv}, {"qkv": qkv, "o": o, "do": do, "lse": lse})
    launch("attention.cu", "attention_backward_rows", dtype, (ceil_div(T, 128 // lanes_of(HS, dtype)), n_head, B), 128,
           (o, do, D, int32(T), int32(n_head), int32(HS)))
    _attention(B, T, n_head, HS, dtype, "attention_backward_q", (qkv, do, lse, D, dqkv), own=2)
    _attention(B, T, n_head, HS, dtype, "attention_backward_kv", (qkv, do, lse, D, dqkv), own=2, floats=4 * TILE)
    return dqkv


# ----------------------------------------------------------------------------------------------------- decode.cu


def decode_attention(qkv, k_cache, v_cache, length, n_new, out=None):   # (B,T,3C), (B,NH,S,HS) twice, (B,) int32 twice -> (B,T,C)
    """T new positions a row, of which n_new count: their keys and values go into the cache behind its first length, where they must fit."""
    (B, NH, S, HS), T = k_cache.shape, qkv.shape[1]
    C, dtype = NH * HS, real("qkv", qkv)
    o = cp.empty((B, T, C), dtype) if out is None else out
    for what, a, shape in (("qkv", qkv, (B, T, 3 * C)), ("k_cache", k_cache, (B, NH, S, HS)), ("v_cache", v_cache, (B, NH, S, HS)), ("o", o, (B, T, C))):
        check(what, a, shape, dtype, packed(HS, dtype))
    check("length", length, (B,), np.int32)
    check("n_new", n_new, (B,), np.int32)
    apart({"o": o, "k_cache": k_cache, "v_cache": v_cache}, {"qkv": qkv, "length": length, "n_new": n_new})
    if HS > MOST_HEAD_SIZE:
        raise ValueError(f"heads of {HS}, {MOST_HEAD_SIZE} at most")
    launch("decode.cu", "cache_append", dtype, ceil_div(B * T * C, 256), 256,
           (qkv, k_cache, v_cache, length, n_new, *map(int32, (B, T, NH, S, HS))))
    launch("decode.cu", "decode_attention", dtype, (NH, T, B), 256,
           (qkv, k_cache, v_cache, length, n_new, o, *map(int32, (T, NH, S, HS)), np.float32(HS ** -0.5)),
           shared=4 * (256 // lanes_of(HS, dtype)) * (HS + 2), defines=packed(HS, dtype))
    return o


def take_rows(x, rows, out):                            # (N,C), (n,) int32 -> (n,C)
    (N, C), n, dtype = x.shape, len(rows), real("x", x)
    for what, a, shape, kind in (("x", x, (N, C), dtype), ("rows", rows, (n,), np.int32), ("out", out, (n, C), dtype)):
        check(what, a, shape, kind)
    apart({"out": out}, {"x": x, "rows": rows})
    launch("decode.cu", "take_rows", dtype, ceil_div(n * C, 256), 256, (x, rows, out, int32(n), int32(C)))
    return out


# ---------------------------------------------------------------------------------------------- cross_entropy.cu


def cross_entropy(logits, targets, weights=None, n_vocab=None, out=None):       # (N,stride), (N,) int32, (N,) -> (N,)
    """nll of each row; with weights, logits become their gradient. Columns from n_vocab on are padding."""
    (N, stride), dtype = logits.shape, real("logits", logits)
    V, nll = n_vocab or stride, cp.empty((N,), np.float32) if out is None else out
    if not 1 <= V <= stride:
        raise ValueError(f"logits: {stride} columns for a vocabulary of {V}")
    check("logits", logits, (N, stride), dtype, packed(stride, dtype))
    check("targets", targets, (N,), np.int32)
    check("nll", nll, (N,), np.float32)
    if weights is not None:
        check("weights", weights, (N,), np.float32)
    apart({"logits": logits, "nll": nll}, {"targets": targets, "weights": weights})
    threads = min(1024, ceil_div(packs(V, dtype), 32) * 32)
    launch("cross_entropy.cu", "cross_entropy_v2", dtype, N, threads, (logits, targets, weights, nll, int32(N), int32(V), int32(stride)),
           defines=packed(stride, dtype))
    return nll


def loss_sum(nll, weights, state, add=False):           # (N,), (N,), (3,): state[0] becomes sum(weights * nll), or grows by it
    for what, a, shape in (("nll", nll, nll.shape), ("weights", weights, nll.shape), ("state", state, (3,))):
        check(what, a, shape, np.float32)
    apart({"state": state}, {"nll": nll, "weights": weights})
    launch("cross_entropy.cu", "loss_sum", np.float32, 1, min(1024, ceil_div(nll.size, 32) * 32), (nll, weights, state, int32(nll.size), int32(add)))


# -------------------------------------------------------------------------------------------------------- bias.cu


def bias_forward(y, b):                                 # (N,F) in place, (F,)
    (N, F), dtype = y.shape, real("y", y)
    check("y", y, (N, F), dtype, packed(F, dtype))
    check("b", b, (F,), dtype, packed(F, dtype))
    apart({"y": y}, {"b": b})
    launch("bias.cu", "bias_forward", dtype, ceil_div(N * packs(F, dtype), 256), 256, (y, b, int32(N), int32(F)), defines=packed(F, dtype))
    return y


def bias_backward(dy, out=None, add=False):             # (N,F) -> (F,)
    (N, F), dtype = dy.shape, real("dy", dy)
    db = cp.empty((F,), np.float32) if out is None else out
    check("dy", dy, (N, F), dtype, packed(F, dtype))
    check("db", db, (F,), np.float32)
    apart({"db": db}, {"dy": dy})
    strips = ceil_div(packs(F, dtype), 32)
    shares = min(ceil_div(N, 8), max(1, 4 * BACKWARD_BLOCKS // strips))    # its loop has one load on the way: more blocks, more loads
    partial = scratch((shares, F))
    launch("bias.cu", "bias_backward_v2", dtype, (strips, shares), 256, (dy, partial, int32(N), int32(F)),
           shared=4 * 8 * strip(dtype), defines=packed(F, dtype))
    _column_sums(partial, db, add=add)
    return db


# ---------------------------------------------------------------- linear and MLP: cublas.py, bias.cu and gelu.cu


def matmul(x, w, out, x_t=False, w_t=False, bias=None, add=False):
    """out = op(x) op(w) + bias, summed in float32; with add, the product is added to out, and there is no bias."""
    if not cublas.multiply(x, w, out, x_t, w_t, bias, add):
        bias_forward(out, bias)
    return out


def linear_forward(x, w, b, out=None):                  # (N,C), (C,F), (F,) -> (N,F)
    y = cp.empty((len(x), w.shape[1]), real("x", x)) if out is None else out
    return matmul(x, w, y, bias=b)


def linear_backward(dy, x, w, out=None, add=False):     # (N,F), (N,C), (C,F) -> (N,C), (C,F), (F,); dx may take x's place
    dx, dw, db = out or (cp.empty(x.shape, real("dy", dy)), cp.empty(w.shape, np.float32), cp.empty((w.shape[1],), np.float32))
    apart({"dw": dw, "db": db}, {"dy": dy, "x": x, "w": w, "dx": dx})
    apart({"dx": dx}, {"dy": dy, "x": x, "w": w}, in_place=("x",))
    matmul(x, dy, dw, x_t=True, add=add)
    bias_backward(dy, db, add)
    return matmul(dy, w, dx, w_t=True), dw, db


# ------------------------------------------------------------------------------------------------------- adamw.cu

NORM_BLOCKS = 1024


def grad_norm(grads, clip, state):                      # (n,), float, (3,)
    """Puts the norm and the scale that clips it into state behind the loss, without asking the host."""
    check("grads", grads, (grads.size,), np.float32, packed=True)
    check("state", state, (3,), np.float32)
    apart({"state": state}, {"grads": grads})
    blocks = min(NORM_BLOCKS, ceil_div(grads.size, 4 * 512))
    partial = scratch((blocks,))
    launch("adamw.cu", "norm_partials", np.float32, blocks, 512, (grads, partial, np.int64(grads.size)))
    launch("adamw.cu", "norm_and_scale", np.float32, 1, 32, (partial, state, int32(blocks), np.float32(clip)))


def adamw(grads, master, m, v, params, state, rates, n_decayed, b1, b2, eps, decay):    # (n,) five times, (3,) float32 twice
    """One step for all parameters. rates: lr, 1 / (1 - b1^t), 1 / (1 - b2^t); the first n_decayed parameters decay. params: the
    copy of master in bfloat16, or None."""
    n = grads.size
    for what, a in (("grads", grads), ("master", master), ("m", m), ("v", v)):
        check(what, a, (n,), np.float32, packed=True)
    if params is not None:
        check("params", params, (n,), np.uint16, packed=True)
    check("state", state, (3,), np.float32)
    check("rates", rates, (3,), np.float32)
    apart({"master": master, "m": m, "v": v, "params": params}, {"grads": grads, "state": state, "rates": rates})
    launch("adamw.cu", "adamw", np.uint16 if params is not None else np.float32, ceil_div(n, 4 * 256), 256,
           (grads, master, m, v, params, state, rates, np.int64(n), np.int64(n_decayed), *map(np.float32, (b1, b2, eps, decay))))


# ----------------------------------------------------------------------------------------------------- convert.cu


def to_bf16(x, out=None):                               # float32 -> uint16
    y = cp.empty(x.shape, np.uint16) if out is None else out
    check("x", x, x.shape, np.float32)
    check("y", y, x.shape, np.uint16)
    apart({"y": y}, {"x": x})
    launch("convert.cu", "to_real", np.uint16, ceil_div(x.size, 256), 256, (x, y, np.int64(x.size)))
    return y


def to_float32(x):
    check("x", x, x.shape, np.uint16)
    y = cp.empty(x.shape, np.float32)
    launch("convert.cu", "to_float32", np.uint16, ceil_div(x.size, 256), 256, (x, y, np.int64(x.size)))
    return y


def on_host(a):                                         # float32 or bfloat16 on the GPU -> a NumPy array of float32
    a = cp.asnumpy(a)
    return checkpoint.widen(a) if a.dtype == np.uint16 else a
