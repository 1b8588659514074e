"""kernels: the operations of gpt.py and model/llama.py as raw CUDA; one .cu file an operation.

CuPy compiles and launches them. The functions have the names and the arguments of
model/operations.py, so that model/walk.py can walk with either. They check what a kernel cannot:
shape, dtype and contiguity. A launch itself checks nothing, and CuPy passes a Python number as 64
bits whatever the kernel expects.

Arrays of numbers are float32, or bfloat16 kept as uint16, for which neither NumPy nor CuPy has a
type of its own. Gradients of parameters are float32 either way: they are sums over many rows, and
the batches of a step are added up in them.

    launching     how a kernel gets from its .cu file to the GPU
    checks        what a launcher checks before it launches
    cublas        matrix products by NVIDIA's libraries
    attention     attention of training and of decoding
    muon          Muon's step for a matrix
    llama         what the Llama family has and GPT-2 has not

An output must not share memory with another array, unless its launcher allows it to replace an
input (in_place). The values of indices (tokens, targets, rows) are not checked here, because they
lie on the GPU: model/device.py checks them before it sends them.
"""

import functools
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

from model import checkpoint
import numpy as np

from kernels import cublas, muon
from kernels.attention import (     # noqa: F401    offered here as all others are
    attention_backward, attention_forward, decode_attention, texts_of,
)
from kernels.checks import (
    apart, check, check_columns, check_each, cp, real, row_length, width,
)
from kernels.launching import (     # noqa: F401    the head size is for others
    BACKWARD_BLOCKS, FOLDER, MOST_HEAD_SIZE, ceil_div, column_sums, launch, or_empty, packed, packs,
    rows_that_fit, scratch, strip_bytes,
)
from kernels.llama import (     # noqa: F401        offered here as all others are
    add_to, rmsnorm_backward, rmsnorm_forward, rotary_backward, rotary_forward, swiglu_backward,
    swiglu_forward,
)


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


# ---------------------------------------------------------------------------------- layernorm.cu


def _packs_a_lane(C, dtype):
    return (f"-DPACKS={ceil_div(C, 32 * width(dtype))}", *packed(C, dtype))


def layernorm_forward(x, w, b, eps=1e-5, out=None, plus=None):
    """(N,C), (C,), (C,) -> (N,C), cache. rstd is float32."""
    N, C = x.shape
    dtype = real("x", x)
    y, n, rstd = out or (
        cp.empty((N, C), dtype),
        cp.empty((N, C), dtype),
        cp.empty((N, 1), np.float32),
    )
    check_each({"x": x, "y": y, "n": n, "plus": plus}, (N, C), dtype, packed(C, dtype))
    check_each({"w": w, "b": b}, (C,), dtype, packed(C, dtype))
    check("rstd", rstd, (N, 1), np.float32)
    if plus is not None:
        apart({"x": x}, {"plus": plus, "w": w, "b": b}, in_place=("plus",))
    inputs = {"x": x, "plus": plus, "w": w, "b": b}
    apart({"y": y, "n": n, "rstd": rstd}, inputs, in_place=("x", "plus"))
    launch(
        "layernorm.cu", "layernorm_forward_v2", dtype, ceil_div(N, 8), 256,
        x, plus, w, b, y, n, rstd, N, C, eps,
        defines=_packs_a_lane(C, dtype),
    )
    return y, (n, rstd, w)


def layernorm_backward(dy, cache, plus=None, out=None, add=False):
    """(N,C) -> (N,C), (C,), (C,). A norm that is frozen gives None as the places of dw and db."""
    n, rstd, w = cache
    N, C = dy.shape
    dtype = real("dy", dy)
    dx, dw, db = out or (
        cp.empty((N, C), dtype),
        cp.empty((C,), np.float32),
        cp.empty((C,), np.float32),
    )
    check_each({"dy": dy, "n": n, "dx": dx, "plus": plus}, (N, C), dtype, packed(C, dtype))
    check("w", w, (C,), dtype, packed(C, dtype))
    check("rstd", rstd, (N, 1), np.float32)
    check_each({"dw": dw, "db": db}, (C,), np.float32)
    inputs = {"dy": dy, "n": n, "rstd": rstd, "w": w, "plus": plus}
    apart({"dx": dx, "dw": dw, "db": db}, inputs, in_place=("dy", "n", "plus"))
    sums = 2 * (C + C // width(dtype) + 1)              # floats a warp has in shared memory
    warps = rows_that_fit(sums, 8)
    blocks = min(BACKWARD_BLOCKS, ceil_div(N, warps))
    partial = scratch((blocks, 2 * C))
    launch(
        "layernorm.cu", "layernorm_backward_v2", dtype, blocks, 32 * warps,
        dy, n, rstd, w, plus, dx, partial, N, C,
        shared=4 * warps * sums,
        defines=_packs_a_lane(C, dtype),
    )
    if dw is not None:
        column_sums(partial, dw, db, add=add)
    return dx, dw, db


# --------------------------------------------------------------------------------------- gelu.cu


def gelu_forward(x, out=None):
    """Any shape. The cache is x: its derivative costs less to compute again than to keep.

    out is (y, x), as model/operations.py's (y, slope) in the place of x.
    """
    dtype = real("x", x)
    y = cp.empty(x.shape, dtype) if out is None else out[0]
    check_each({"x": x, "y": y}, x.shape, dtype, packed=True)
    apart({"y": y}, {"x": x}, in_place=("x",))
    blocks = ceil_div(packs(x.size, dtype), 256)
    launch("gelu.cu", "gelu_forward_v2", dtype, blocks, 256, x, y, np.int64(x.size))
    return y, x


def gelu_backward(dy, x, out=None):
    """Any shape. out may take the place of either."""
    dtype = real("dy", dy)
    dx = or_empty(out, dy.shape, dtype)
    check_each({"dy": dy, "x": x, "dx": dx}, dy.shape, dtype, packed=True)
    apart({"dx": dx}, {"dy": dy, "x": x}, in_place=("dy", "x"))
    blocks = ceil_div(packs(dy.size, dtype), 256)
    launch("gelu.cu", "gelu_backward", dtype, blocks, 256, dy, x, dx, np.int64(dy.size))
    return dx


# ---------------------------------------------------------------------------------- embedding.cu


def embedding_forward(tokens, positions, wte, wpe, out=None):
    """N int32 of any shape twice, (V,C), (P,C) or None -> (N,C)"""
    N, C = tokens.size, wte.shape[1]
    dtype = real("wte", wte)
    x = or_empty(out, (N, C), dtype)
    check_each({"tokens": tokens, "positions": positions}, tokens.shape, np.int32)
    is_packed = packed(C, dtype)
    check("wte", wte, (len(wte), C), dtype, is_packed)
    check("x", x, (N, C), dtype, is_packed)
    if wpe is not None:
        check("wpe", wpe, (len(wpe), C), dtype, is_packed)
    apart({"x": x}, {"tokens": tokens, "positions": positions, "wte": wte, "wpe": wpe})
    blocks = ceil_div(N * packs(C, dtype), 256)
    launch(
        "embedding.cu", "embedding_forward", dtype, blocks, 256,
        tokens, positions, wte, wpe, x, N, C,
        defines=is_packed,
    )
    return x


def look_ups(tokens):
    """What embedding_backward needs to know of tokens (N,), made on the host, as int32.

    order (N,): the rows sorted by token. starts (N + 1,): where in order each different token
    begins, and N behind the last one. values (N,): which token that is.
    """
    N = len(tokens)
    if N and tokens.min() < 0:
        raise ValueError(f"look_ups: id {tokens.min()} is negative")
    if N and tokens.max() < 1 << 16:    # NumPy sorts 16 bits by counting, ten times as fast
        tokens = tokens.astype(np.uint16)
    order = np.argsort(tokens, kind="stable")
    ordered = tokens[order]
    is_new = np.concatenate([[True], ordered[1:] != ordered[:-1]])[:N]
    first = np.flatnonzero(is_new)
    starts = np.full(N + 1, N, np.int32)
    starts[: len(first)] = first
    values = np.zeros(N, np.int32)
    values[: len(first)] = ordered[first]
    return order.astype(np.int32), starts, values


def embedding_backward(dx, sorted_rows, dtable):
    """Add dx (N,C) to the rows of dtable (V,C). sorted_rows: look_ups() as CuPy arrays."""
    order, starts, values = sorted_rows
    N, C = dx.shape
    dtype = real("dx", dx)
    check_each({"order": order, "values": values}, (N,), np.int32)
    check("starts", starts, (N + 1,), np.int32)
    check("dx", dx, (N, C), dtype, packed(C, dtype))
    check("dtable", dtable, (len(dtable), C), np.float32)
    apart({"dtable": dtable}, {"dx": dx, "order": order, "starts": starts, "values": values})
    grid = N, ceil_div(packs(C, dtype), 32)
    launch(
        "embedding.cu", "embedding_backward_v2", dtype, grid, 256,
        dx, order, starts, values, dtable, N, C,
        shared=strip_bytes(dtype),
        defines=packed(C, dtype),
    )


def position_backward(dx, B, dwpe, add=True):
    """dx (B*T,C) summed over the batch into the first T rows of dwpe (P,C), or added to them.

    Without add the other rows become 0.
    """
    N, C = dx.shape
    dtype = real("dx", dx)
    P = len(dwpe)
    T = N // B
    check("dx", dx, (B * T, C), dtype)
    check("dwpe", dwpe, (max(P, T), C), np.float32)
    apart({"dwpe": dwpe}, {"dx": dx})
    launch(
        "embedding.cu", "position_backward", dtype, ceil_div(P * C, 256), 256,
        dx, dwpe, B, T, P, C, add,
    )


# ------------------------------------------------------------------------------------- decode.cu


def take_rows(x, rows, out):
    """x[rows]: (N,C), (n,) int32 -> (n,C)"""
    (N, C), n, dtype = x.shape, len(rows), real("x", x)
    check("x", x, (N, C), dtype)
    check("rows", rows, (n,), np.int32)
    check("out", out, (n, C), dtype)
    apart({"out": out}, {"x": x, "rows": rows})
    launch(
        "decode.cu", "take_rows", dtype, ceil_div(n * C, 256), 256,
        x, rows, out, n, C,
    )
    return out


# --------------------------------------------------------------------------------------- draw.cu


def draw(logits, settings, tokens, logp, n_vocab=None, hidden=None):
    """Draw a token for each row: (B,stride) -> tokens (B,) int32, logp (B,) float32, in place

    settings (5,B) float64: temperature, top_k, top_p, min_p, and a number in [0,1) for each row.
    Columns from n_vocab on are padding. hidden (n_vocab,) float32 is added to each row: 0, or -inf
    where an id is that of no token.
    """
    B, stride = logits.shape
    dtype, V = real("logits", logits), n_vocab or stride
    if not 1 <= V <= stride:
        raise ValueError(f"logits: {stride} columns for a vocabulary of {V}")
    check("logits", logits, (B, stride), dtype)
    check("settings", settings, (5, B), np.float64)
    check("tokens", tokens, (B,), np.int32)
    check("logp", logp, (B,), np.float32)
    check_each({"hidden": hidden}, (V,), np.float32)
    inputs = {"logits": logits, "settings": settings, "hidden": hidden}
    apart({"tokens": tokens, "logp": logp}, inputs)
    threads = min(1024, ceil_div(V, 32) * 32)
    launch(
        "draw.cu", "draw", dtype, B, threads,
        logits, settings, hidden, tokens, logp, B, V, stride,
    )
    return tokens, logp


# ------------------------------------------------------------------------------ cross_entropy.cu


def cross_entropy(logits, targets, weights=None, n_vocab=None, out=None):
    """The nll of each row: (N,stride), (N,) int32 -> (N,)

    With weights (N,) the logits become their gradient. Columns from n_vocab on are padding.
    """
    N, stride = logits.shape
    dtype = real("logits", logits)
    V = n_vocab or stride
    nll = or_empty(out, (N,), np.float32)
    if not 1 <= V <= stride:
        raise ValueError(f"logits: {stride} columns for a vocabulary of {V}")
    check("logits", logits, (N, stride), dtype, packed(stride, dtype))
    check("targets", targets, (N,), np.int32)
    check_each({"nll": nll, "weights": weights}, (N,), np.float32)
    apart({"logits": logits, "nll": nll}, {"targets": targets, "weights": weights})
    threads = min(1024, ceil_div(packs(V, dtype), 32) * 32)
    defines = packed(stride, dtype)
    launch(
        "cross_entropy.cu", "cross_entropy_v2", dtype, N, threads,
        logits, targets, weights, nll, N, V, stride,
        defines=defines,
    )
    return nll


def loss_sum(nll, weights, state, add=False):
    """state[0] (of 3) becomes sum(weights * nll), or grows by it: (N,), (N,)"""
    check_each({"nll": nll, "weights": weights}, nll.shape, np.float32)
    check("state", state, (3,), np.float32)
    apart({"state": state}, {"nll": nll, "weights": weights})
    threads = min(1024, ceil_div(nll.size, 32) * 32)
    launch(
        "cross_entropy.cu", "loss_sum", np.float32, 1, threads,
        nll, weights, state, nll.size, add,
    )


# --------------------------------------------------------------------------------------- bias.cu


def bias_forward(y, b):
    """y += b in place: (N,F), (F,). y may be columns of longer rows."""
    N, F = y.shape
    dtype = real("y", y)
    stride = row_length(y)
    is_packed = packed(F, dtype, stride)
    check_columns("y", y, (N, F), dtype, is_packed)
    check("b", b, (F,), dtype, is_packed)
    apart({"y": y}, {"b": b})
    blocks = ceil_div(N * packs(F, dtype), 256)
    launch("bias.cu", "bias_forward", dtype, blocks, 256, y, b, N, F, stride, defines=is_packed)
    return y


def bias_backward(dy, out=None, add=False):
    """The sums of dy's columns: (N,F) -> (F,). dy may be columns of longer rows."""
    N, F = dy.shape
    dtype = real("dy", dy)
    stride = row_length(dy)
    is_packed = packed(F, dtype, stride)
    db = or_empty(out, (F,), np.float32)
    check_columns("dy", dy, (N, F), dtype, is_packed)
    check("db", db, (F,), np.float32)
    apart({"db": db}, {"dy": dy})
    strips = ceil_div(packs(F, dtype), 32)
    # Its loop has one load under way at a time: more blocks, more loads.
    shares = min(ceil_div(N, 8), max(1, 4 * BACKWARD_BLOCKS // strips))
    partial = scratch((shares, F))
    launch(
        "bias.cu", "bias_backward_v2", dtype, (strips, shares), 256,
        dy, partial, N, F, stride, shared=strip_bytes(dtype), defines=is_packed,
    )
    column_sums(partial, db, add=add)
    return db


# ------------------------------------------------------------------ linear: cublas.py and bias.cu


def matmul(x, w, out, x_t=False, w_t=False, bias=None, add=False, scale=1.0):
    """out = scale op(x) op(w) + bias, summed in float32; with add, the product is added to out.

    op(x) is x, or with x_t its transpose. There is no bias with add.
    """
    if not cublas.multiply(x, w, out, x_t, w_t, bias, add, scale):
        bias_forward(out, bias)
    return out


def linear_forward(x, w, b=None, out=None):
    """(N,C), (C,F), (F,) or None -> (N,F)"""
    y = or_empty(out, (len(x), w.shape[1]), real("x", x))
    return matmul(x, w, y, bias=b)


def linear_backward(dy, x, w, out=None, add=False):
    """(N,F), (N,C), (C,F) -> (N,C), (C,F), (F,). dx may take the place of x.

    A layer without a bias gives None as the place of db, one that is frozen also as that of dw.
    """
    dx, dw, db = out or (
        cp.empty(x.shape, real("dy", dy)),
        cp.empty(w.shape, np.float32),
        cp.empty((w.shape[1],), np.float32),
    )
    apart({"dw": dw, "db": db}, {"dy": dy, "x": x, "w": w, "dx": dx})
    apart({"dx": dx}, {"dy": dy, "x": x, "w": w}, in_place=("x",))
    if dw is not None:
        matmul(x, dy, dw, x_t=True, add=add)
    if db is not None:
        bias_backward(dy, db, add)
    return matmul(dy, w, dx, w_t=True), dw, db


def _low(n_rows, rank, dtype, name):
    """An array for rows of an adapter's few numbers, in the dtype of the weights."""
    return scratch((n_rows * rank,), name).view(dtype)[: n_rows * rank].reshape(n_rows, rank)


def lora_forward(x, A, B, scale, y):
    """What lora.linear_forward adds to y = x w, in place: (N,C), (C,r), (r,F), y (N,F)"""
    low = _low(len(x), A.shape[1], real("x", x), "low")
    matmul(x, A, low, scale=scale)
    return matmul(low, B, y, add=True)


def lora_backward(dy, x, A, B, scale, out, add=False):
    """lora.linear_backward, but for dx: (N,F), (N,C) -> dlow (N,r). out: the places of dA and dB.

    The next call takes the place of dlow.
    """
    dA, dB = out
    dtype = real("x", x)
    low = _low(len(x), A.shape[1], dtype, "low")
    dlow = _low(len(x), A.shape[1], dtype, "dlow")
    matmul(x, A, low, scale=scale)
    # forward was: y = x w + low B
    matmul(low, dy, dB, x_t=True, add=add)
    matmul(dy, B, dlow, w_t=True, scale=scale)
    # forward was: low = x A
    matmul(x, dlow, dA, x_t=True, add=add)
    return dlow


def add_product(x, w, y, w_t=False):
    """y += x w, in place, or with w_t the transpose of w."""
    return matmul(x, w, y, w_t=w_t, add=True)


# -------------------------------------------------------------------------------------- adamw.cu

NORM_BLOCKS = 1024


def grad_norm(grads, clip, state):
    """Put the norm of grads (n,) into state[1], and the scale that clips it into state[2].

    The scale is 0 where the norm, or the loss in state[0], is not finite. The host is not asked.
    """
    apart({"state": state}, {"grads": grads})
    partial = scratch((norm_blocks(grads.size),))
    norm_partials(grads, partial)
    norm_and_scale(partial, clip, state)


def norm_blocks(n):
    """How many blocks sum up n squares."""
    return min(NORM_BLOCKS, ceil_div(n, 4 * 512))


def norm_partials(grads, partial):
    """Put the sum of squares of each block into partial: (n,), (norm_blocks(n),)"""
    blocks = norm_blocks(grads.size)
    check("grads", grads, (grads.size,), np.float32, packed=True)
    check("partial", partial, (blocks,), np.float32)
    apart({"partial": partial}, {"grads": grads})
    launch(
        "adamw.cu", "norm_partials", np.float32, blocks, 512,
        grads, partial, np.int64(grads.size),
    )


def norm_and_scale(partial, clip, state):
    """As grad_norm, from the sums of the blocks, of one array or of several: (n,)"""
    check("partial", partial, (partial.size,), np.float32)
    check("state", state, (3,), np.float32)
    apart({"state": state}, {"partial": partial})
    launch(
        "adamw.cu", "norm_and_scale", np.float32, 1, 32,
        partial, state, partial.size, clip,
    )


def adamw(grads, master, m, v, params, state, rates, n_decayed, b1, b2, eps, decay):
    """One step of AdamW for all parameters at once: (n,) five times, (3,) float32 twice.

    rates: lr, 1 / (1 - b1^t), 1 / (1 - b2^t). The first n_decayed parameters decay. params: the
    copy of master in bfloat16, or None.
    """
    n = grads.size
    dtype = np.float32 if params is None else np.uint16
    moved = {"master": master, "m": m, "v": v}
    check_each({"grads": grads, **moved}, (n,), np.float32, packed=True)
    check_each({"params": params}, (n,), np.uint16, packed=True)
    check_each({"state": state, "rates": rates}, (3,), np.float32)
    apart({**moved, "params": params}, {"grads": grads, "state": state, "rates": rates})
    arrays = grads, master, m, v, params, state, rates
    sizes = np.int64(n), np.int64(n_decayed)
    launch(
        "adamw.cu", "adamw", dtype, ceil_div(n, 4 * 256), 256,
        *arrays, *sizes, b1, b2, eps, decay,
    )


# ------------------------------------------------------------------------------------ convert.cu


def to_bf16(x, out=None):
    """float32 -> bfloat16 as uint16, to the nearest."""
    y = or_empty(out, x.shape, np.uint16)
    check("x", x, x.shape, np.float32)
    check("y", y, x.shape, np.uint16)
    apart({"y": y}, {"x": x})
    launch(
        "convert.cu", "to_real", np.uint16, ceil_div(x.size, 256), 256,
        x, y, np.int64(x.size),
    )
    return y


def on_host(a):
    """float32 or bfloat16 on the GPU -> a NumPy array of float32"""
    a = cp.asnumpy(a)
    return checkpoint.widen(a) if a.dtype == np.uint16 else a
