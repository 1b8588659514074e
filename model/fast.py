"""fast.py: gpt.py's model for NumPy at full speed: every core, no memory taken anew, blocks that stay in cache.

The functions have the names and the meanings of gpt.py's, which are their specification.
"""

import contextlib
import functools
import math
import sys
import threading
from types import MappingProxyType, SimpleNamespace

from model import cores                                            # before numpy, whose BLAS it sets up
from model.cores import Arena, in_parallel, padded
from gpt import param_shapes
import numpy as np

# B batch   T query positions   S key positions   N = B*T rows   V vocabulary   F width of a linear layer's output
# L layers  NH heads            HS head size      C = NH*HS channels

QUERY_BLOCK = 64        # attention works on this many queries at a time and never touches later keys
BLOCK_FLOATS = 131072   # element-wise work goes in blocks of rows this large: 512 KB stays in a core's L2
SMALL_MODEL = 8 << 20   # parameters; below, a model's weights stay in cache while it writes
PART = 64 << 20         # parameters x tokens; with less to do, a thread of decode waits for its turn at the interpreter more than it works
LOGIT_FLOATS = 1 << 24  # rows of logits that exist at once: 64 MB in float32
HEAD_COLUMNS = 512      # of a decoder's logits at a time: the BLAS's copy of weights stays in cache


# --------------------------------------------------------------------------------- what is accepted
# Checks of what callers give. They stand where a caller enters. They look at the numbers themselves
# only where those are few.


def array_module(x, what="array"):
    """The library an array belongs to: numpy, or cupy for an array on a GPU.

    TypeError for anything else: a list, a tensor of another library, and NumPy's matrix and masked
    array, whose operators mean other things.
    """
    if type(x) in (np.ndarray, np.memmap):
        return np
    cupy = sys.modules.get("cupy")                      # who has such an array has imported it
    if cupy is not None and isinstance(x, cupy.ndarray):
        return cupy
    raise TypeError(f"{what}: a {type(x).__module__}.{type(x).__qualname__}, "
                    "expected a NumPy array, or a CuPy array on a GPU")


def or_kernel(operation):
    """The operation for NumPy arrays, and for CuPy arrays the kernel of the same name in kernels/."""
    @functools.wraps(operation)
    def either(x, *args, **kwargs):
        if type(x) is np.ndarray or array_module(x, operation.__name__) is np:
            return operation(x, *args, **kwargs)
        import kernels                                  # needs CuPy, which a machine without a GPU has not
        return getattr(kernels, operation.__name__)(x, *args, **kwargs)
    return either


def _check_shape(name, a, shape):
    if a.shape != shape:
        raise ValueError(f"{name}: shape {a.shape}, expected {shape}")


def _check_integers(name, a):
    if array_module(a, name) is not np:
        raise TypeError(f"{name}: an array on a GPU, expected a NumPy array of integers")
    if a.dtype.kind not in "iu":
        raise TypeError(f"{name}: {a.dtype} numbers, expected integers")


def _check_ids(name, ids, n, of):
    """Integers from 0 to n - 1. NumPy takes -1 for the last row of a table, and True for a mask."""
    _check_integers(name, ids)
    unsigned = ids.view(ids.dtype.str.replace("i", "u"))        # of which -1 is the largest
    if ids.size and np.maximum.reduce(unsigned, None) >= n:
        bad = ids[(ids < 0) | (ids >= n)].ravel()[0]
        raise ValueError(f"{name}: id {bad} is outside {of} of {n}")


def _same_place(a, b):
    return a.ctypes.data == b.ctypes.data and a.shape == b.shape and a.strides == b.strides


def _check_out(name, out, apart=(), in_place=()):
    """ValueError where out, which results are written to, lies over an array that is still needed.

    It must share no memory with the arrays in apart. It may take the place of one in in_place, element
    for element.
    """
    if out is None:                                     # then it is a new one
        return
    for others in (apart, in_place):
        for other in others:
            if other is None or not np.may_share_memory(out, other):    # looks at their ends only
                continue
            if others is in_place and _same_place(out, other):
                continue
            if np.shares_memory(out, other):
                raise ValueError(f"{name}: out shares memory with an array that is still needed; "
                                 "give another one")


def _row_blocks(x):
    """Slices of x's rows, each small enough that several passes over it stay in cache."""
    step = max(1, BLOCK_FLOATS // x.shape[-1])
    return [slice(i, min(i + step, len(x))) for i in range(0, len(x), step)]


# ---------------------------------------------------------------------------------------------- operations
# Rows are flattened: x is (N,C) wherever positions do not interact. `dx` is dLoss/dx, of x's shape.
# `out` is where results go, NumPy's way: training passes arrays of its arena, anyone else passes nothing.
# With `add`, gradients of parameters are added to what their arrays in `out` hold.


@or_kernel
def embedding_forward(tokens, positions, wte, wpe, out=None):   # (B,T) int twice, (V,C), (n_positions,C) -> (N,C)
    _check_ids("embedding_forward: tokens", tokens, len(wte), "the table")
    _check_ids("embedding_forward: positions", positions, len(wpe), "the table")
    _check_shape("embedding_forward: positions", positions, tokens.shape)
    x = np.take(wte, tokens.ravel(), axis=0, out=out, mode="clip")      # "raise" would copy
    x += wpe[positions.ravel()]
    return x


def embedding_backward(dx, indices, dtable):            # (N,C), (N,) int, adds to (V,C)
    """Row v of the table's gradient is the sum of dx over the places where v was looked up.

    Sorting brings equal indices together, so each sum is one reduce in a fixed order: same bits every time.
    """
    _check_ids("embedding_backward: indices", indices, len(dtable), "the table")
    _check_shape("embedding_backward: dx", dx, (len(indices), dtable.shape[1]))
    order = np.argsort(indices, kind="stable")
    values, starts = np.unique(indices[order], return_index=True)
    dtable[values] += np.add.reduceat(dx[order], starts, axis=0)


@or_kernel
def layernorm_forward(x, w, b, eps=1e-5, out=None, plus=None):          # (N,C), (C,), (C,) -> (N,C), cache
    """y = n * w + b with n = (x - mean(x)) * rstd(x): every row at mean 0 and variance 1, then scaled and shifted.
    With plus (N,C), what a branch adds to the stream: first x += plus, in place."""
    C = x.shape[1]
    y, n, rstd = out or (np.empty_like(x), np.empty_like(x), np.empty((len(x), 1), x.dtype))
    if plus is not None:
        _check_shape("layernorm_forward: plus", plus, x.shape)
    if out:
        _check_out("layernorm_forward", n, apart=(y,), in_place=(x, plus))
        _check_out("layernorm_forward", y, in_place=(x, plus))
    mean_of = np.full((C, 1), 1.0 / C, x.dtype)         # a product with it is the fastest mean of short rows
    for r in _row_blocks(x):
        nr, yr = n[r], y[r]
        if plus is not None:
            x[r] += plus[r]
        np.subtract(x[r], x[r] @ mean_of, out=nr)
        np.multiply(nr, nr, out=yr)
        rstd[r] = 1.0 / np.sqrt(yr @ mean_of + eps)     # variance of the whole row, no Bessel correction
        nr *= rstd[r]
        np.multiply(nr, w, out=yr)
        yr += b
    return y, (n, rstd, w)


@or_kernel
def layernorm_backward(dy, cache, plus=None, out=None, add=False):      # (N,C) -> (N,C), (C,), (C,)
    """Returns plus + dx, dw, db: where the norm stands on a branch, plus is what comes down the other one.

    With dn = dy * w, and mean() along C:  dx = rstd * (dn - mean(dn) - n * mean(dn * n)).
    The mean subtracted in the forward takes the component of dn along 1 away; the division by the deviation
    takes the one along n. Moving x in either direction does not change n (but for the tiny eps).
    """
    n, rstd, w = cache
    if add and not out:
        raise ValueError("layernorm_backward: add needs out, the arrays that hold what is added to")
    dx, dw, db = out or (np.empty_like(dy), np.empty_like(w), np.empty_like(w))
    _check_shape("layernorm_backward: dy", dy, n.shape)
    if plus is not None:
        _check_shape("layernorm_backward: plus", plus, dy.shape)
    if out:
        _check_out("layernorm_backward", dx, apart=(dw, db), in_place=(dy, n, plus))
        _check_out("layernorm_backward", dw, apart=(w, db))
    mean_w = (w / dy.shape[1])[:, None]
    if not add:
        dw[...], db[...] = 0.0, 0.0
    for r in _row_blocks(dy):
        ones = np.ones(len(dy[r]), dy.dtype)
        t = dy[r] * n[r]
        dw += ones @ t                                  # forward was: y = n * w + b
        db += ones @ dy[r]
        along_n = t @ mean_w                            # mean(dn * n), (rows,1)
        d = dy[r] * w
        d -= dy[r] @ mean_w                             # mean(dn)
        np.multiply(n[r], along_n, out=t)
        d -= t
        d *= rstd[r]
        np.add(d, 0.0 if plus is None else plus[r], out=dx[r])
    return dx, dw, db


@or_kernel
def linear_forward(x, w, b, out=None):                  # (N,C), (C,F), (F,) -> (N,F)
    y = np.matmul(x, w, out=out)
    y += b
    return y


@or_kernel
def linear_backward(dy, x, w, out=None, add=False):     # (N,F), (N,C), (C,F) -> (N,C), (C,F), (F,)
    """dx = dy w^T,  dw = x^T dy,  db = the sum of dy's rows. In out, x itself may be the place of dx."""
    dx, dw, db = out or (None, None, None)
    if add and (dw is None or db is None):
        raise ValueError("linear_backward: add needs out, the arrays that hold what is added to")
    _check_out("linear_backward", dw, apart=(dy, w, db))        # dx is written last
    _check_out("linear_backward", db, apart=(dy,))
    ones = np.ones(len(dy), dy.dtype)                   # a product with it is the fastest column sum
    if add:
        dw += x.T @ dy
        db += ones @ dy
    else:
        dw, db = np.matmul(x.T, dy, out=dw), np.matmul(ones, dy, out=db)
    return np.matmul(dy, w.T, out=dx), dw, db


GELU_K, GELU_C = 0.7978845608028654, 0.044715           # sqrt(2/pi); the cubic term of the tanh approximation


@or_kernel
def gelu_forward(x, out=None):                          # (N,F) -> (N,F), cache
    """y = x s with s = (1 + tanh(k (x + c x^3))) / 2, the form GPT-2 was trained with.

    The cache is dy/dx, taken while x and s are at hand: half the memory of keeping both for the backward.
        dy/dx = s + x ds/dx = s + x s (1 - s) 2k (1 + 3 c x^2)
    `out` may be (y, x): then the derivative takes x's place.
    """
    y, slope = out or (np.empty_like(x), np.empty_like(x))
    if out:
        _check_out("gelu_forward", y, apart=(slope,), in_place=(x,))
        _check_out("gelu_forward", slope, in_place=(x,))
    for r in _row_blocks(x):
        xr, yr = x[r], y[r]
        s = xr * xr
        d = s * (6.0 * GELU_K * GELU_C)
        d += 2.0 * GELU_K                               # 2k (1 + 3 c x^2)
        s *= GELU_K * GELU_C
        s += GELU_K
        s *= xr
        np.tanh(s, out=s)
        s *= 0.5
        s += 0.5
        np.multiply(xr, s, out=yr)
        d *= yr                                         # x s ...
        np.subtract(1.0, s, out=slope[r])
        d *= slope[r]                                   # ... (1 - s) ...
        np.add(d, s, out=slope[r])
    return y, slope


@or_kernel
def gelu_backward(dy, slope, out=None):                 # (N,F) -> (N,F)
    return np.multiply(dy, slope, out=out)


@or_kernel
def mlp_forward(x, w_fc, b_fc, w_proj, b_proj, out=None):               # (N,C), (C,F), (F,), (F,C), (C,) -> (N,C), cache
    """y = gelu(x w_fc + b_fc) w_proj + b_proj. out: places for y, the GELU's result, and its cache, (N,C), (N,F), (N,F)."""
    y, u, h = out or (None, None, None)
    if out:                                             # x, u and h are what the backward reads
        _check_out("mlp_forward", y, apart=(x, u, h))
        _check_out("mlp_forward", x, apart=(u, h))
    h = linear_forward(x, w_fc, b_fc, out=h)
    u, h = gelu_forward(h, out=out and (u, h))          # h becomes du/dh
    return linear_forward(u, w_proj, b_proj, out=y), (x, u, h)


@or_kernel
def mlp_backward(dy, cache, w_fc, w_proj, out=None, add=False):         # (N,C) -> (N,C), (C,F), (F,), (F,C), (C,)
    """dx, dw_fc, db_fc, dw_proj, db_proj. The cache is used up: du takes the place of u, dh that of du/dh. x may be that of dx."""
    x, u, h = cache
    dx, dw_fc, db_fc, dw_proj, db_proj = out or (None,) * 5
    du, dw_proj, db_proj = linear_backward(dy, u, w_proj, (u, dw_proj, db_proj), add)
    dh = gelu_backward(du, h, out=h)
    return *linear_backward(dh, x, w_fc, (dx, dw_fc, db_fc), add), dw_proj, db_proj


def _heads(qkv, n_head):                                # (B,T,3C) -> three (B,NH,T,HS), views without a copy
    B, T, C3 = qkv.shape
    return qkv.reshape(B, T, 3, n_head, C3 // 3 // n_head).transpose(2, 0, 3, 1, 4)


def _sequence_blocks(B, T, n_head):
    """Slices of the batch, so many sequences that a block of their scores stays in cache."""
    step = max(1, BLOCK_FLOATS // (n_head * min(T, QUERY_BLOCK) * T))
    return [slice(i, min(i + step, B)) for i in range(0, B, step)]


@functools.lru_cache(maxsize=16)
def _causal_mask(T, dtype):                             # (T,T): 0 on and below the diagonal, -inf above
    mask = np.triu(np.full((T, T), -np.inf, dtype), k=1)
    mask.flags.writeable = False                        # every caller gets the same one
    return mask


@or_kernel
def attention_forward(qkv, n_head, out=None, hidden=None):      # (B,T,3C) -> (B,T,C), cache
    """o_i = sum_{j<=i} p_ij v_j, with p_i = softmax_j(s_ij) and s_ij = q_i . k_j / sqrt(HS), over the keys up to i. hidden: see segments.

    Queries go in blocks, and a block never looks at keys later than its last query: half of the square is not
    computed. Kept for the backward: lse, the log of each row's sum of exp(s), (B,NH,T,1). The probabilities
    are exp(s - lse), quicker to make again than to keep.
    """
    B, T, C3 = qkv.shape
    C = C3 // 3
    scale, mask = float((C // n_head) ** -0.5), _causal_mask(min(T, QUERY_BLOCK), qkv.dtype)
    o, lse = out or (np.empty((B, T, C), qkv.dtype), np.empty((B, n_head, T, 1), qkv.dtype))
    if hidden is not None:
        _check_shape("attention_forward: hidden", hidden, (B, T, T))
    if out:                                             # qkv is what the backward reads as well
        _check_out("attention_forward", o, apart=(qkv, lse))
        _check_out("attention_forward", lse, apart=(qkv,))
    for b in _sequence_blocks(B, T, n_head):
        q, k, v = _heads(qkv[b], n_head)
        o_heads = o[b].reshape(-1, T, n_head, C // n_head).swapaxes(1, 2)       # (B,NH,T,HS), a view: writing fills o
        for t0 in range(0, T, QUERY_BLOCK):
            t1 = min(t0 + QUERY_BLOCK, T)
            s = (q[:, :, t0:t1] * scale) @ k[:, :, :t1].swapaxes(-1, -2)        # (B,NH,t1-t0,t1)
            if hidden is None:
                s[..., t0:] += mask[:t1 - t0, :t1 - t0]         # keys before t0 are the past of every query here
            else:
                s += hidden[b, None, t0:t1, :t1]
            top = s.max(-1, keepdims=True)
            s -= top
            p = np.exp(s, out=s)
            total = np.einsum("bhqk->bhq", p)[..., None]
            ot = np.matmul(p, v[:, :, :t1], out=o_heads[:, :, t0:t1])
            ot /= total
            np.add(top, np.log(total), out=lse[b, :, t0:t1])
    return o, (qkv, o, lse)


@or_kernel
def attention_backward(do, cache, n_head, out=None, hidden=None):       # (B,T,C) -> (B,T,3C); out may be qkv itself (not on a GPU)
    qkv, o, lse = cache
    B, T, C3 = qkv.shape
    C = C3 // 3
    scale, mask = float((C // n_head) ** -0.5), _causal_mask(min(T, QUERY_BLOCK), qkv.dtype)
    dqkv = np.empty((B, T, C3), qkv.dtype) if out is None else out
    _check_shape("attention_backward: do", do, o.shape)
    if hidden is not None:
        _check_shape("attention_backward: hidden", hidden, (B, T, T))
    if out is not None:
        _check_out("attention_backward", out, apart=(do, o, lse), in_place=(qkv,))
    for b in _sequence_blocks(B, T, n_head):
        q, k, v = _heads(qkv[b], n_head)
        dq, dk_out, dv_out = _heads(dqkv[b], n_head)    # views: writing to them fills dqkv
        dk, dv = np.empty(k.shape, k.dtype), np.empty(v.shape, v.dtype)
        do_heads = do[b].reshape(-1, T, n_head, C // n_head).swapaxes(1, 2)
        # Softmax's backward needs sum_j p_ij dp_ij, and dp_ij = do_i . v_j: so that is do_i . (sum_j p_ij v_j),
        # which is do_i . o_i. No pass over the keys.
        D = np.einsum("bhtd,bhtd->bht", do_heads, o[b].reshape(-1, T, n_head, C // n_head).swapaxes(1, 2))[..., None]
        for t0 in reversed(range(0, T, QUERY_BLOCK)):   # the last queries see all keys: they write dk and dv first
            t1 = min(t0 + QUERY_BLOCK, T)
            qt, kt, vt, dot = q[:, :, t0:t1] * scale, k[:, :, :t1], v[:, :, :t1], do_heads[:, :, t0:t1]
            s = qt @ kt.swapaxes(-1, -2)                # as in the forward
            if hidden is None:
                s[..., t0:] += mask[:t1 - t0, :t1 - t0]
            else:
                s += hidden[b, None, t0:t1, :t1]
            s -= lse[b, :, t0:t1]                       # no score is above its lse, so exp cannot overflow
            p = np.exp(s, out=s)
            dp = dot @ vt.swapaxes(-1, -2)              # forward was: o = p v
            if t1 == T:
                np.matmul(p.swapaxes(-1, -2), dot, out=dv)
            else:                                       # a key served the later queries too
                dv[:, :, :t1] += p.swapaxes(-1, -2) @ dot
            dp -= D[:, :, t0:t1]                        # forward was: p = softmax(s), so ds = p (dp - D)
            ds = np.multiply(dp, p, out=dp)
            if t1 == T:                                 # forward was: s = (scale q) k^T
                np.matmul(ds.swapaxes(-1, -2), qt, out=dk)
            else:
                dk[:, :, :t1] += ds.swapaxes(-1, -2) @ qt
            np.multiply(ds @ kt, scale, out=dq[:, :, t0:t1])
        dk_out[...], dv_out[...] = dk, dv
    return dqkv


def segments_hidden(segments, dtype):                   # (B,T) int -> (B,T,T): 0 where query i sees key j, else -inf
    """Several texts in a row, each as if alone: a key is seen by later queries of its own segment, and if its segment is 0, the
    beginning that the texts share, by those of all. Any integer names a segment: -1 may be what pads a row."""
    T = segments.shape[1]
    seen = (segments[:, :, None] == segments[:, None]) | (segments[:, None] == 0)
    return np.where(seen & np.tri(T, dtype=bool), 0, -np.inf).astype(dtype)


def cross_entropy_forward(logits, targets):             # (N,V), (N,) int -> (N,), cache
    """-log softmax(logits_i)[target_i] of each row, in nats. Overwrites logits."""
    _check_shape("cross_entropy_forward: targets", targets, logits.shape[:1])
    _check_ids("cross_entropy_forward: targets", targets, logits.shape[1], "the logits' vocabulary")
    nll, total = np.empty(len(logits), logits.dtype), np.empty(len(logits), logits.dtype)
    for r in _row_blocks(logits):
        z = logits[r]
        z -= z.max(-1, keepdims=True)
        nll[r] = z[np.arange(len(z)), targets[r]]
        e = np.exp(z, out=z)
        total[r] = np.einsum("nv->n", e)
    np.subtract(np.log(total), nll, out=nll)
    return nll, (logits, total, targets)


def cross_entropy_backward(weights, cache):             # (N,) -> (N,V), in the place of the logits
    """The gradient of sum_i weights_i nll_i. The weights carry everything a training objective says about a token:
    1/N for a mean, 0 for "ignore", an advantage for policy gradients, of either sign. The cache is used up."""
    e, total, targets = cache                           # softmax = e / total
    _check_shape("cross_entropy_backward: weights", weights, total.shape)
    if not total.all():
        raise ValueError("cross_entropy_backward: the cache is used up; its logits are a gradient now")
    scale = (weights / total)[:, None]
    total[...] = 0.0                                    # marks it: exp(0) is the largest of its terms
    for r in _row_blocks(e):                            # d nll/dlogits = softmax - onehot(target)
        d = e[r]
        d *= scale[r]
        d[np.arange(len(d)), targets[r]] -= weights[r]
    return e


# ---------------------------------------------------------------------------------------------- the model


LAYER = ("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "attn.c_proj.bias",
         "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias")
MLP = LAYER[-4:]


def layer_params(params, i):
    """The parameters of block i without their "h.i." prefix. The arrays are the same, not copies."""
    return {k: params[f"h.{i}.{k}"] for k in LAYER}


def _full(k, i):
    """A parameter's name in the model, from its name in block i; the last norm belongs to no block."""
    return k if k.startswith("ln_f") else f"h.{i}.{k}"


def block_shapes(cfg, B, T):
    """What a block keeps for its backward. The first axis of each is B sequences long."""
    N, C = B * T, cfg.n_embd
    return {"a": (N, C), "n_1": (N, C), "rstd_1": (N, 1), "qkv": (N, 3 * C), "o": (N, C), "lse": (B, cfg.n_head, T, 1),
            "m": (N, C), "n_2": (N, C), "rstd_2": (N, 1), "u": (N, 4 * C), "h": (N, 4 * C)}


def block_forward(x, plus, p, s, n_head, keep=None, attend=None):
    """x + attention(norm(x)), then x + mlp(norm(x)); p: layer parameters, s: arrays of block_shapes, and t (N,C).

    The last sum is left to the next norm, which reads x anyway: x (N,C) is updated in place up to there, what is still to be
    added is returned, and plus is what the block before returned, or None. keep: an array for the block's input.
    attend: what to call in place of attention_forward.
    """
    B, _, T, _ = s.lse.shape
    layernorm_forward(x, p["ln_1.weight"], p["ln_1.bias"], out=(s.a, s.n_1, s.rstd_1), plus=plus)
    if keep is not None:
        keep[...] = x
    linear_forward(s.a, p["attn.c_attn.weight"], p["attn.c_attn.bias"], out=s.qkv)
    attend = attend or attention_forward                # looked up now: a default would be bound earlier
    attend(s.qkv.reshape(B, T, -1), n_head, out=(s.o.reshape(B, T, -1), s.lse), **getattr(s, "only", {}))
    linear_forward(s.o, p["attn.c_proj.weight"], p["attn.c_proj.bias"], out=s.t)
    layernorm_forward(x, p["ln_2.weight"], p["ln_2.bias"], out=(s.m, s.n_2, s.rstd_2), plus=s.t)
    return mlp_forward(s.m, *(p[k] for k in MLP), out=(s.t, s.u, s.h))[0]


def trunk_forward(x, params, layers, blocks, n_head, out, keep=None, attend=None):
    """All blocks, then the last norm, into out (y, n, rstd). Block by block: layers' parameters, blocks' arrays, and where they are
    given keep and attend, as for block_forward."""
    plus = None
    for i, (layer, s) in enumerate(zip(layers, blocks)):
        plus = block_forward(x, plus, layer, s, n_head, keep and keep[i], attend and attend[i])
    layernorm_forward(x, params["ln_f.weight"], params["ln_f.bias"], out=out, plus=plus)


def block_backward(dx, p, s, n_head, grads, add=False):
    """From the gradient at the block's output to the one at its input, (N,C) in place; fills grads, {name: gradient} of the
    layer's parameters. Each gradient takes the place of an activation that is not needed any more; dqkv that of qkv,
    unless s has one of its own."""
    B, _, T, _ = s.lse.shape

    def linear(dy, x, name, out):
        return linear_backward(dy, x, p[f"{name}.weight"], (out, grads[f"{name}.weight"], grads[f"{name}.bias"]), add)[0]

    def norm(dy, n, rstd, name):                        # dx is what comes down beside the branch
        layernorm_backward(dy, (n, rstd, p[f"{name}.weight"]), dx, (dx, grads[f"{name}.weight"], grads[f"{name}.bias"]), add)

    # x2 = x1 + mlp(norm(x1)): the gradient reaches x1 by both terms
    dm = mlp_backward(dx, (s.m, s.u, s.h), p["mlp.c_fc.weight"], p["mlp.c_proj.weight"], (s.m, *(grads[k] for k in MLP)), add)[0]
    norm(dm, s.n_2, s.rstd_2, "ln_2")
    # x1 = x + attention(norm(x)): likewise
    qkv, o, do, dqkv = (y.reshape(B, T, -1) for y in (s.qkv, s.o, linear(dx, s.o, "attn.c_proj", out=s.t), getattr(s, "dqkv", s.qkv)))
    dqkv = attention_backward(do, (qkv, o, s.lse), n_head, out=dqkv, **getattr(s, "only", {})).reshape(B * T, -1)
    da = linear(dqkv, s.a, "attn.c_attn", out=s.a)
    norm(da, s.n_1, s.rstd_1, "ln_1")
    return dx


# -------------------------------------------------------------------------------------------------- memory


def step_shapes(cfg, B, T, threads, want_grads=True, recompute=False):
    """Everything one call of loss_and_grads divides its arena into: {name: shape}, read-only.

    With recompute only the input of each block is kept, and the backward runs the block's forward again:
    a third more work for a fraction of the memory.
    """
    return _step_shapes(cfg, B, T, threads, want_grads, recompute, LOGIT_FLOATS)


@functools.lru_cache(maxsize=16)
def _step_shapes(cfg, B, T, threads, want_grads, recompute, logit_floats):
    N, C, L = B * T, cfg.n_embd, cfg.n_layer
    kept = L if want_grads and not recompute else 1
    shapes = {f"h.{i}.{k}": shape for i in range(kept) for k, shape in block_shapes(cfg, B, T).items()}
    rows = min(N, max(threads, logit_floats // cfg.vocab_size))
    shapes.update({"x": (N, C), "t": (N, C), "y": (N, C), "n_f": (N, C), "rstd_f": (N, 1), "logits": (rows, cfg.vocab_size), "y_rows": (rows, C)})
    if want_grads:
        if recompute:
            shapes.update({f"x.{i}": (N, C) for i in range(L)})
        ours = {k.removeprefix("h.0."): shape for k, shape in param_shapes(cfg).items() if k.startswith(("h.0.", "ln_f."))}
        shapes.update({f"grad.{i}.{k}": shape for i in range(min(threads, B)) for k, shape in ours.items()})
    return MappingProxyType(shapes)                     # every caller gets the same one


def _thread_count(threads):
    """How many threads a caller wants: None for one on each core."""
    if threads is None:
        return cores.N_THREADS
    if not (isinstance(threads, int) and threads >= 1):
        raise ValueError(f"threads: {threads!r}, expected an integer of at least 1, "
                         "or None for one on each core")
    return threads


def memory_plan(cfg, B, T, recompute=False, threads=None, itemsize=4):
    """{what: bytes} of training with B sequences of T tokens at once, known before any of it is taken."""
    shapes = step_shapes(cfg, B, T, _thread_count(threads), True, recompute)
    n = cfg.n_params * itemsize
    plan = {"parameters": n, "gradients": n, "AdamW": 2 * n, "activations": 0, "logits": 0}
    for k, shape in shapes.items():
        kind = "gradients" if k.startswith("grad.") else "logits" if k in ("logits", "y_rows") else "activations"
        plan[kind] += padded(shape, itemsize)
    return plan


# --------------------------------------------------------------------------------------------- the whole model


def check_tokens(cfg, tokens, name="tokens"):
    array_module(tokens, name)
    if tokens.ndim != 2 or not tokens.size:
        raise ValueError(f"{name}: shape {tokens.shape}, "
                         "expected (batch, positions), one of each at least")
    if tokens.shape[1] > cfg.n_positions:
        raise ValueError(f"{name}: {tokens.shape[1]} positions, the model's context is {cfg.n_positions}")
    _check_ids(name, tokens, cfg.vocab_size, "the model's vocabulary")


def _check_targets(cfg, tokens, targets):
    """Targets have the shape of tokens. As many in another shape would go with the wrong tokens."""
    array_module(targets, "targets")
    check_tokens(cfg, np.where(targets == -1, 0, targets), "targets")
    _check_shape("targets", targets, tokens.shape)


def _check_weights(weights, shape):
    if array_module(weights, "weights") is not np or weights.dtype.kind not in "fiub":
        raise TypeError(f"weights: {weights.dtype} numbers, expected real numbers in a NumPy array")
    if weights.shape != shape:
        raise ValueError(f"weights have shape {weights.shape}, targets {shape}")
    if not np.isfinite(weights).all():
        raise ValueError("weights: not all are finite; one that is not spreads to every gradient")


def _check_texts(cfg, tokens, positions, segments):
    """positions and segments of rows of several texts, where they are given."""
    if positions is not None:
        _check_ids("positions", positions, cfg.n_positions, "the model's context")
        _check_shape("positions", positions, tokens.shape)
    if segments is not None:
        _check_integers("segments", segments)
        _check_shape("segments", segments, tokens.shape)


@functools.lru_cache(maxsize=16)
def _shapes_of(cfg):
    return tuple(param_shapes(cfg).items())


def _check_params(params, cfg):
    """The tensors of cfg, all of one dtype.

    wte and wpe may have more rows, which pad them. Other tensors may lie beside the model's.
    """
    wte = params["wte.weight"]
    xp = array_module(wte, "wte.weight")
    for name, shape in _shapes_of(cfg):
        if name not in params:
            raise ValueError(f"parameters: no tensor {name}, "
                             f"which a model of {cfg.n_layer} layers has")
        p = params[name]
        if type(p) is not type(wte) and array_module(p, name) is not xp:
            raise ValueError(f"parameters: {name} is an array of {array_module(p).__name__}, "
                             f"wte.weight of {xp.__name__}")
        padded_table = name in ("wte.weight", "wpe.weight") and p.shape[1:] == shape[1:] and len(p) > shape[0]
        if p.shape != shape and not padded_table:
            raise ValueError(f"parameters: {name} has shape {p.shape}, the config says {shape}")
        if p.dtype != wte.dtype:
            raise ValueError(f"parameters: {name} is {p.dtype}, wte.weight {wte.dtype}")
    if f"h.{cfg.n_layer}.ln_1.weight" in params:
        raise ValueError(f"parameters: more layers than the config's {cfg.n_layer}")


def _check_temperature(temperature):
    if not (temperature > 0.0 and math.isfinite(temperature)):
        raise ValueError(f"temperature: {temperature}, expected a finite number above 0")


def _check_host(params, function):
    if array_module(params["wte.weight"], "wte.weight") is not np:
        raise ValueError(f"{function}: for NumPy arrays; bring the parameters to the host first")


def _gradients(params, cfg, grads):
    """grads as given, once they are checked, or fresh arrays.

    Tensors beside the model's, such as another head's, are the caller's affair: given arrays are left
    as they are, and fresh ones are zeros.
    """
    if grads is None:
        names = dict(_shapes_of(cfg))
        return {k: np.empty_like(p) if k in names else np.zeros_like(p) for k, p in params.items()}
    for name, _ in _shapes_of(cfg):
        p, g = params[name], grads.get(name)
        if g is None:
            raise ValueError(f"grads: no array for {name}")
        if type(g) is not np.ndarray:
            raise TypeError(f"grads: {name} is a {type(g).__name__}, expected a NumPy array")
        if g.shape != p.shape or g.dtype != p.dtype:
            raise ValueError(f"grads: {name} is {g.dtype} {g.shape}, "
                             f"the parameter {p.dtype} {p.shape}")
        if np.may_share_memory(g, p) and np.shares_memory(g, p):
            raise ValueError(f"grads: {name} shares memory with the parameter")
    if len({id(grads[name]) for name, _ in _shapes_of(cfg)}) < len(_shapes_of(cfg)):
        raise ValueError("grads: one array serves two parameters")
    return grads


@contextlib.contextmanager
def _only_user(arena):
    """Two calls that work in one arena at a time would overwrite each other's arrays."""
    lock = vars(arena).setdefault("in_use", threading.Lock())
    if not lock.acquire(blocking=False):
        raise ValueError("arena: in use by another call; give each thread an Arena of its own")
    try:
        yield arena
    finally:
        lock.release()


class _Step:
    """The arrays of one step and the walks through the model, each for a part of the batch.

    The sequences are divided among threads, and each takes its own through the whole trunk and back without waiting
    for others. The gradients of parameters are sums over all rows: each thread sums those of its rows in arrays of its
    own, which are then added up.
    """

    def __init__(self, params, cfg, tokens, arena, threads, want_grads=True, recompute=False, positions=None, segments=None):
        self.params, self.cfg, self.tokens, self.recompute, self.positions = params, cfg, tokens, recompute and want_grads, positions
        self.hidden = None if segments is None else segments_hidden(segments, params["wte.weight"].dtype)
        self.B, self.T = tokens.shape
        self.a = arena.divide(step_shapes(cfg, self.B, self.T, threads, want_grads, recompute), params["wte.weight"].dtype)
        self.layers = [layer_params(params, i) for i in range(cfg.n_layer)]
        self.kept = [i if f"h.{i}.a" in self.a else 0 for i in range(cfg.n_layer)]      # which arrays block i uses

    def rows(self, part, *names):
        """The rows of arrays that belong to a part of the batch."""
        s, out = part(self.B), []
        for name in names:
            each = len(self.a[name]) // self.B          # rows of this array that a sequence has
            out.append(self.a[name][s.start * each:s.stop * each])
        return out if len(out) > 1 else out[0]

    def block(self, i, part):
        names = {**{k: f"h.{self.kept[i]}.{k}" for k in block_shapes(self.cfg, 1, 1)}, "t": "t"}
        only = {} if self.hidden is None else {"hidden": self.hidden[part(self.B)]}
        return SimpleNamespace(**dict(zip(names, self.rows(part, *names.values()))), only=only)

    def trunk_forward(self, part):                      # fills y, (N,C) after the last norm
        p, tokens = self.params, self.tokens[part(self.B)]
        x, y, n_f, rstd_f = self.rows(part, "x", "y", "n_f", "rstd_f")
        positions = np.broadcast_to(np.arange(self.T), tokens.shape) if self.positions is None else self.positions[part(self.B)]
        embedding_forward(tokens, positions, p["wte.weight"], p["wpe.weight"], out=x)
        blocks = [self.block(i, part) for i in range(self.cfg.n_layer)]
        keep = [self.rows(part, f"x.{i}") for i in range(self.cfg.n_layer)] if self.recompute else None
        trunk_forward(x, p, self.layers, blocks, self.cfg.n_head, (y, n_f, rstd_f), keep)

    def head(self, part, rows, targets, weights=None, temperature=1.0):        # (n,) int -> nll of this part's share of the rows
        """The losses under the tied head of some rows of the batch; with weights also their dy, in the place of y.

        Logits are the largest array of the model. They exist for some rows at a time, and become their own
        gradient in place.
        """
        at, wte = part(len(rows)), self.params["wte.weight"][:self.cfg.vocab_size]
        rows, y, z = rows[at], self.a["y_rows"][at], self.a["logits"][at]
        np.take(self.a["y"], rows, axis=0, out=y, mode="clip")
        if temperature != 1.0:                          # softmax(y wte^T / temperature)
            y /= temperature
        np.matmul(y, wte.T, out=z)
        nll, cache = cross_entropy_forward(z, targets[rows])
        if weights is not None:
            dy = cross_entropy_backward(weights[rows], cache) @ wte     # forward was: logits = y wte^T
            self.a["y"][rows] = dy if temperature == 1.0 else dy / temperature
        return nll

    def head_weight_backward(self, part, n, dwte, add):         # of the n rows that head was given last
        v = part(self.cfg.vocab_size)
        dz, y, dw = self.a["logits"][:n].T[v], self.a["y_rows"][:n], dwte[v]
        if not add:
            np.matmul(dz, y, out=dw)
            return
        for r in _row_blocks(dw):                       # a temporary that stays in cache
            dw[r] += dz[r] @ y

    def own_gradients(self, part, i, grads, add):
        """{name: array} in which a thread sums the gradients of block i over its rows: those of grads where it may."""
        names = [*LAYER, "ln_f.weight", "ln_f.bias"] if i == self.cfg.n_layer - 1 else LAYER
        if part == 0 and not add:
            return {k: grads[_full(k, i)] for k in names}
        return {k: self.a[f"grad.{part}.{k}"] for k in names}

    def block_backward(self, part, i, own):             # from dy in y, or dx in x, to dx in x
        dx, s = self.rows(part, "x"), self.block(i, part)
        if i == self.cfg.n_layer - 1:
            dy, n_f, rstd_f = self.rows(part, "y", "n_f", "rstd_f")
            layernorm_backward(dy, (n_f, rstd_f, self.params["ln_f.weight"]), out=(dx, own["ln_f.weight"], own["ln_f.bias"]))
        if self.recompute:
            block_forward(self.rows(part, f"x.{i}"), None, self.layers[i], s, self.cfg.n_head)
        block_backward(dx, self.layers[i], s, self.cfg.n_head, own)

    def trunk_backward(self, n_parts, threads, grads, add):
        for i in reversed(range(self.cfg.n_layer)):
            own = [self.own_gradients(part, i, grads, add) for part in range(n_parts)]
            in_parallel(lambda part, i=i, own=own: self.block_backward(part, i, own[part.index]), n_parts)
            in_parallel(lambda part, i=i, own=own: self.add_up(part, i, own, grads), threads)

    def add_up(self, part, i, own, grads):              # own: what own_gradients gave to each thread
        """Part of the rows of the gradients of block i; after the first block, part of the columns of the embeddings."""
        for k in own[0]:
            total = grads[_full(k, i)]
            rows = part(len(total))
            for of_thread in own:
                if of_thread[k] is not total:
                    total[rows] += of_thread[k][rows]
        if i > 0:
            return
        columns = part(self.cfg.n_embd)
        dx = self.a["x"][:, columns]
        embedding_backward(dx, self.tokens.ravel(), grads["wte.weight"][:, columns])
        if self.positions is None:
            grads["wpe.weight"][:self.T, columns] += dx.reshape(self.B, self.T, -1).sum(0)
        else:
            embedding_backward(dx, self.positions.ravel(), grads["wpe.weight"][:, columns])


def _device():
    """The same model on a GPU, for parameters that lie there."""
    from model import device                                       # which imports this file
    return device


def _even_blocks(rows, most):
    """rows in as few blocks as possible of at most that many, all about as long."""
    return np.array_split(rows, -(-len(rows) // most)) if len(rows) else []


def forward(params, cfg, tokens):                       # (B,T) int -> (B,T,V), {name: array}
    """Logits of the next token at every position, and all that was computed on the way, under the names of step_shapes."""
    check_tokens(cfg, tokens)
    _check_params(params, cfg)
    _check_host(params, "forward")
    step = _Step(params, cfg, tokens, Arena(), cores.N_THREADS)
    in_parallel(step.trunk_forward, min(cores.N_THREADS, len(tokens)))
    return (step.a["y"] @ params["wte.weight"][:cfg.vocab_size].T).reshape(*tokens.shape, -1), step.a


def token_losses(params, cfg, tokens, targets, arena=None, temperature=1.0):       # (B,T) int, (B,T) int -> (B,T)
    """-log probability of each target given the tokens up to its place, in nats; 0 where the target is -1. temperature: what the
    logits are divided by."""
    check_tokens(cfg, tokens)
    _check_targets(cfg, tokens, targets)
    _check_params(params, cfg)
    _check_temperature(temperature)
    with _only_user(arena or Arena()) as arena:
        if not isinstance(params["wte.weight"], np.ndarray):
            return _device().token_losses(params, cfg, tokens, targets, arena, temperature)
        return _token_losses(params, cfg, tokens, targets, arena, temperature)


def _token_losses(params, cfg, tokens, targets, arena, temperature):
    threads = cores.N_THREADS
    wte, counted = params["wte.weight"], np.flatnonzero(targets != -1)
    step = _Step(params, cfg, tokens, arena, threads, want_grads=False)
    in_parallel(step.trunk_forward, min(threads, len(tokens)))
    nll, n = np.zeros(targets.size, wte.dtype), len(step.a["logits"])
    for rows in _even_blocks(counted, n):
        nll[rows] = np.concatenate(in_parallel(lambda part, rows=rows: step.head(part, rows, targets.ravel(), None, temperature), threads))
    return nll.reshape(targets.shape)


def loss_and_grads(params, cfg, tokens, targets, weights=None, want_grads=True, grads=None, add=False, arena=None,
                   recompute=False, threads=None, temperature=1.0, positions=None, segments=None):
    """Weighted cross-entropy of targets given tokens, and its gradient for every parameter.

    tokens, targets (B,T) int, a target of -1 is ignored; weights (B,T) float or None for the mean over
    the counted targets. The loss is sum(weights * nll) in nats: with weights given, the caller normalises.
    Returns (float, {name: array}); the dict is empty without want_grads. Parameters on a GPU get their gradients there.

    grads: arrays to write the gradients to, or with add to add them to, for batches that come in several parts.
    A wrong argument is an error before they are written to.
    arena: an Arena to work in; with both given, a step allocates nothing of size. recompute: see step_shapes.
    threads: how many, by default one for each core. temperature: what the logits are divided by, as in token_losses.
    positions, segments (B,T) int: for rows of several texts, where each token stands in its own, and which it belongs to
    (segments_hidden).
    """
    check_tokens(cfg, tokens)
    _check_targets(cfg, tokens, targets)
    _check_params(params, cfg)
    _check_temperature(temperature)
    _check_texts(cfg, tokens, positions, segments)
    threads = _thread_count(threads)
    wte, counted = params["wte.weight"], targets != -1
    if weights is None:
        if not counted.any():
            raise ValueError("every target is ignored (-1): the mean of nothing is not zero")
        weights = counted / counted.sum()
    on_host = isinstance(wte, np.ndarray)
    _check_weights(weights, targets.shape)
    weights = np.where(counted, weights, 0.0).astype(wte.dtype if on_host else np.float32).ravel()
    if (positions is not None or segments is not None) and not (want_grads and on_host):
        raise ValueError("positions and segments are for gradients of NumPy arrays")
    if not want_grads:
        return float(weights @ token_losses(params, cfg, tokens, targets, arena, temperature).ravel()), {}
    if add and grads is None:
        raise ValueError("add needs grads, the arrays that hold what is added to")
    if on_host:
        grads = _gradients(params, cfg, grads)
    with _only_user(arena or Arena()) as arena:
        if not on_host:
            return _device().loss_and_grads(params, cfg, tokens, targets, weights, grads, add, arena, recompute, temperature)
        step = _Step(params, cfg, tokens, arena, threads, True, recompute, positions, segments)
        return _loss_and_grads(step, targets, weights, grads, add, threads, temperature)


def _loss_and_grads(step, targets, weights, grads, add, threads, temperature):
    tokens, cfg = step.tokens, step.cfg
    targets, n_parts = targets.ravel(), min(threads, len(tokens))
    in_parallel(step.trunk_forward, n_parts)
    counted, n, loss = np.flatnonzero(weights), len(step.a["logits"]), 0.0      # a row of weight 0 needs no logits
    if len(counted) < len(weights):
        step.a["y"][weights == 0.0] = 0.0
    if not add:                                         # where no product below will write
        grads["wpe.weight"][...] = 0.0
        grads["wte.weight"][cfg.vocab_size if len(counted) else 0:] = 0.0
    for j, rows in enumerate(_even_blocks(counted, n)):
        nll = in_parallel(lambda part, rows=rows: step.head(part, rows, targets, weights, temperature), threads)
        loss += float(weights[rows] @ np.concatenate(nll))
        in_parallel(lambda part, rows=rows, j=j: step.head_weight_backward(part, len(rows), grads["wte.weight"], add or j > 0), threads)
    step.trunk_backward(n_parts, threads, grads, add)
    return loss, grads


def hidden_and_grads(params, cfg, tokens, head, want_grads=True, grads=None, add=False, arena=None):
    """For another head than the tied one, such as a reward's: head(y) -> (loss, dy, dwte or None) of the last hidden states y,
    (B,T,C) after the final norm; dy is the gradient there, dwte what the head has to add to that of wte.weight.

    Returns (loss, {name: array}) as loss_and_grads does. y lies in the arena: a head copies what it wants to keep.
    """
    check_tokens(cfg, tokens)
    _check_params(params, cfg)
    _check_host(params, "hidden_and_grads")
    if want_grads:
        if add and grads is None:
            raise ValueError("add needs grads, the arrays that hold what is added to")
        grads = _gradients(params, cfg, grads)
    with _only_user(arena or Arena()) as arena:
        step = _Step(params, cfg, tokens, arena, cores.N_THREADS, want_grads)
        return _hidden_and_grads(step, head, want_grads, grads, add, cores.N_THREADS)


def _hidden_and_grads(step, head, want_grads, grads, add, threads):
    n_parts, y = min(threads, step.B), step.a["y"]
    in_parallel(step.trunk_forward, n_parts)
    loss, dy, dwte = head(y.reshape(step.B, step.T, -1))
    if not want_grads:
        return loss, {}
    _check_shape("head: dy", dy, (step.B, step.T, step.cfg.n_embd))
    if dwte is not None:
        _check_shape("head: dwte", dwte, grads["wte.weight"].shape)
        _check_out("head: dwte", grads["wte.weight"], apart=(dwte,))
    y[...] = dy.reshape(y.shape)
    if not add:
        grads["wpe.weight"][...], grads["wte.weight"][...] = 0.0, 0.0
    if dwte is not None:
        grads["wte.weight"] += dwte
    step.trunk_backward(n_parts, threads, grads, add)
    return loss, grads


# -------------------------------------------------------------------------------------- cached generation


class Cache:
    """Keys and values of the positions a batch has already seen, so that a new token costs one position.

    k, v (L,B,NH,S,HS), of the kind of `like`, one of the model's parameters (default: float32 in NumPy); length (B,) int in
    NumPy: positions in use, row by row, so rows may differ in length.
    """

    def __init__(self, cfg, batch, n_positions=None, like=None):
        S = cfg.n_positions if n_positions is None else n_positions
        xp = np if like is None else array_module(like, "like")
        dtype = np.float32 if like is None else like.dtype
        if not 1 <= S <= cfg.n_positions:
            raise ValueError(f"cache of {S} positions, the model's context is {cfg.n_positions}")
        shape = (cfg.n_layer, batch, cfg.n_head, S, cfg.n_embd // cfg.n_head)
        self.k, self.v = xp.zeros(shape, dtype), xp.zeros(shape, dtype)
        self.length, self.step = np.zeros(batch, np.int64), None       # step: what decoding on a GPU keeps

    def rows(self, index):
        """A cache of some of the rows. A slice gives views on this one; an index array copies what is in use, which
        is how one prefilled prompt becomes many rows ([0, 0, 0]) and finished rows are dropped."""
        if np.ndim(self.length[index]) != 1:
            raise ValueError(f"rows of a cache: {index!r}, expected a slice or an array of row numbers")
        part = Cache.__new__(Cache)
        part.length, part.step = self.length[index], None
        if isinstance(index, slice):
            part.k, part.v = self.k[:, index], self.v[:, index]
            return part
        L, _, NH, S, HS = self.k.shape
        used, xp = int(part.length.max()) if len(part.length) else 0, array_module(self.k)
        part.k, part.v = (xp.zeros((L, len(part.length), NH, S, HS), self.k.dtype) for _ in "kv")
        index = xp.asarray(index)
        part.k[:, :, :, :used], part.v[:, :, :, :used] = self.k[:, index, :, :used], self.v[:, index, :, :used]
        return part


def decode(params, cfg, tokens, cache, n_new=None, only_last=False):
    """Logits of the next token after each new position, given all that the cache has seen.

    tokens (B,T) int, right-padded when rows differ; n_new (B,) says how many of each row count (default T), at least 1.
    Returns (B,T,V), or (B,V) for the last counted position of each row with only_last, the case of
    generation. Adds the new positions to the cache. The logits are NumPy's, also those of a model on a GPU.

    A small model's rows are divided among threads. A large model's time goes into reading its weights, so the weights
    are divided, and each is read once for all rows.
    """
    check_tokens(cfg, tokens)
    (B, T), wte = tokens.shape, params["wte.weight"]
    n_new = np.full(B, T) if n_new is None else np.asarray(n_new)
    if n_new.shape != (B,) or n_new.dtype.kind not in "iu":
        raise ValueError(f"n_new: {n_new.dtype} {n_new.shape}, "
                         f"expected an integer for each of {B} rows")
    if int(n_new.min()) < 1 or int(n_new.max()) > T:
        raise ValueError(f"n_new = {n_new.tolist()[:8]}: expected 1 to {T} for each row")
    if cache.k.dtype != wte.dtype:
        raise ValueError(f"a {cache.k.dtype} cache for {wte.dtype} parameters; "
                         "give Cache one of them as like")
    if array_module(cache.k) is not array_module(wte):
        raise ValueError(f"a cache of {array_module(cache.k).__name__} "
                         f"for parameters of {array_module(wte).__name__}; "
                         "give Cache one of them as like")
    L, rows, heads, _, width = cache.k.shape
    fits = (L, rows, heads, heads * width) == (cfg.n_layer, B, cfg.n_head, cfg.n_embd)
    if not fits or f"h.{L}.ln_1.weight" in params:
        raise ValueError(f"a cache of {rows} rows, {L} layers and {heads} heads of {width} "
                         f"for {B} rows and {cfg}")
    if int((cache.length + n_new).max()) > cache.k.shape[3]:
        raise ValueError(f"{int((cache.length + n_new).max())} positions do not fit the cache of "
                         f"{cache.k.shape[3]}; the model's context is {cfg.n_positions}")
    if not isinstance(cache.k, np.ndarray):
        logits = _device().decode(params, cfg, tokens, cache, n_new, only_last)
    elif cfg.n_params >= SMALL_MODEL:
        logits = _decode_rows(params, cfg, tokens, cache, n_new, only_last, min(cores.N_THREADS, cfg.n_head))
    else:
        parts = in_parallel(lambda part: _decode_rows(params, cfg, tokens[part(B)], cache.rows(part(B)), n_new[part(B)], only_last, 1),
                            max(1, min(cores.N_THREADS, B, cfg.n_params * tokens.size // PART)))
        logits = np.concatenate(parts)
    cache.length += n_new
    return logits


def _decode_rows(params, cfg, tokens, cache, n_new, only_last, n_parts):
    """n_parts threads divide each block by its heads and by the hidden units of its MLP: both end in a sum over them,
    the second projection, so a thread gets by with its own until then, and the sums of all are added."""
    (B, T), C, HS = tokens.shape, cfg.n_embd, cfg.n_embd // cfg.n_head
    scale = float(HS ** -0.5)
    S = min(int(cache.length.max()) + T, cache.k.shape[3])
    at = np.minimum(cache.length[:, None] + np.arange(T), S - 1)        # (B,T) places in the cache
    row, col = np.nonzero(np.arange(T) < n_new[:, None])                # the tokens that are no padding, (n,) each
    slot = at[row, col]
    later = np.arange(S) > at[:, None, :, None]         # (B,1,T,S): keys that come after the query
    mask = np.where(later, -np.inf, 0.0).astype(cache.k.dtype) if later.any() else None

    def qkv_of(part, a, p, qkv):                        # (N,C) -> (N,share of 3C)
        c = part(3 * C)
        linear_forward(a, p["attn.c_attn.weight"][:, c], p["attn.c_attn.bias"][c], out=qkv[:, c])

    def attention(part, qkv, p, k_cache, v_cache):      # (N,3C) -> (N,C), what some heads contribute
        heads = part(cfg.n_head)
        q, k, v = _heads(qkv.reshape(B, T, -1), cfg.n_head)[:, :, heads]        # (B,heads,T,HS)
        k_cache[row, heads, slot] = k[row, :, col]      # (n,heads,HS)
        v_cache[row, heads, slot] = v[row, :, col]
        s = (q * scale) @ k_cache[:, heads, :S].swapaxes(-1, -2)        # (B,heads,T,S)
        if mask is not None:
            s += mask
        s -= s.max(-1, keepdims=True)
        np.exp(s, out=s)
        s /= s.sum(-1, keepdims=True)
        o = np.empty((B, T, heads.stop - heads.start, HS), x.dtype)
        np.matmul(s, v_cache[:, heads, :S], out=o.swapaxes(1, 2))
        return o.reshape(B * T, -1) @ p["attn.c_proj.weight"][heads.start * HS:heads.stop * HS]

    def mlp(part, m, p):                                # (N,C) -> (N,C), what some hidden units contribute
        f = part(4 * C)
        u, _ = gelu_forward(linear_forward(m, p["mlp.c_fc.weight"][:, f], p["mlp.c_fc.bias"][f]))
        return u @ p["mlp.c_proj.weight"][f]

    def head(part):                                     # (N,C) -> (N,share of V)
        v = part(cfg.vocab_size)
        for i in range(v.start, v.stop, HEAD_COLUMNS):
            j = min(i + HEAD_COLUMNS, v.stop)
            np.matmul(x, params["wte.weight"][i:j].T, out=logits[:, i:j])

    x = embedding_forward(tokens, at, params["wte.weight"], params["wpe.weight"])
    qkv = np.empty((B * T, 3 * C), x.dtype)
    for i in range(cfg.n_layer):
        p = layer_params(params, i)
        a, _ = layernorm_forward(x, p["ln_1.weight"], p["ln_1.bias"])
        in_parallel(lambda part, a=a, p=p: qkv_of(part, a, p, qkv), n_parts)
        x += sum(in_parallel(lambda part, p=p, i=i: attention(part, qkv, p, cache.k[i], cache.v[i]), n_parts))
        x += p["attn.c_proj.bias"]
        m, _ = layernorm_forward(x, p["ln_2.weight"], p["ln_2.bias"])
        x += sum(in_parallel(lambda part, m=m, p=p: mlp(part, m, p), n_parts))
        x += p["mlp.c_proj.bias"]
    if only_last:
        x = x.reshape(B, T, C)[np.arange(B), n_new - 1]
    x, _ = layernorm_forward(x, params["ln_f.weight"], params["ln_f.bias"])
    logits = np.empty((len(x), cfg.vocab_size), x.dtype)
    in_parallel(head, n_parts)
    return logits if only_last else logits.reshape(B, T, -1)
