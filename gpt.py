"""gpt.py: GPT-2, forward and backward by hand.

The whole model is in this file: each operation's forward stands right above its backward, in the order
data flows through them, then the block, the model, the loss, and the key/value cache that makes generation
cheap. There is no autograd; a derivative is a few lines under the thing it differentiates.

The model is GPT-2 exactly: learned positions, LayerNorm before each sublayer, tanh GELU, tied output
head. Parameters carry Hugging Face's GPT-2 names and shapes, so real checkpoints load and ours load there.

Left out on purpose: dropout (the published small-model recipes run without it) and any precision other
than the one it is given. float32 in, float32 out; float64 in, float64 out, which is how
tests/test_gpt.py compares every derivative here with finite differences.

    python gpt.py                          the sizes of the presets, and one derivative compared with a finite difference
    python gpt.py out/demo/base            describe a checkpoint

Sources: Radford et al. 2019 (GPT-2); Vaswani et al. 2017 (attention); Ba et al. 2016 (LayerNorm);
Hendrycks & Gimpel 2016 (GELU); Dao et al. 2022 (attention backward from the log-sum-exp alone);
Chen et al. 2016 (recomputing activations).
"""

import os


def _avx512():
    """True where the CPU has the AVX-512 parts that OpenBLAS's SkylakeX kernels use."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            flags = next((line for line in f if line.startswith("flags")), "").split()
    except OSError:
        return False
    return {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= set(flags)


# These must be in the environment before NumPy loads. Recent AMD CPUs are taken for older ones by the
# OpenBLAS in NumPy's wheels, which then leaves half the speed unused. One BLAS thread, because we split
# the work over Python threads ourselves: that also parallelises everything that is not a matrix product.
if _avx512():
    os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse  # noqa: E402
import ctypes  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import numpy as np  # noqa: E402
import weights as files  # noqa: E402

# B batch   T query positions   S key positions   N = B*T rows   V vocabulary   F width of a linear layer's output
# L layers  NH heads            HS head size      C = NH*HS channels

QUERY_BLOCK = 64        # attention works on this many queries at a time and never touches later keys
BLOCK_FLOATS = 65536    # element-wise work goes in blocks of rows this large: 256 KB stays in a core's L2
LOGIT_FLOATS = 1 << 24  # rows of logits that exist at once: 64 MB in float32
N_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_freed_memory():
    """Tell glibc to keep freed blocks instead of giving them back to the kernel.

    Scratch of a few hundred kilobytes comes and goes within each operation. By default it would be mapped anew
    each time and its pages zeroed one fault at a time, which costs more than the arithmetic.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return                                          # not glibc: slower, not different
    mallopt(-3, 32 << 20)                               # M_MMAP_THRESHOLD, at its documented maximum
    mallopt(-1, 1 << 30)                                # M_TRIM_THRESHOLD
    mallopt(-8, 1)                                      # M_ARENA_MAX: what one thread frees, all may use


_keep_freed_memory()


@dataclass(frozen=True)
class Config:
    """Sizes of a GPT-2, under the names of Hugging Face's config.json."""

    vocab_size: int
    n_positions: int            # longest context
    n_embd: int                 # C
    n_layer: int                # L
    n_head: int                 # NH

    def __post_init__(self):
        for name, value in vars(self).items():
            if not (type(value) is int and value >= 1):
                raise ValueError(f"config: {name} = {value!r}, expected an integer of at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(f"config: n_embd = {self.n_embd} is not a multiple of n_head = {self.n_head}")

    @property
    def n_params(self):
        L, C = self.n_layer, self.n_embd
        return (self.vocab_size + self.n_positions) * C + L * (12 * C * C + 13 * C) + 2 * C


# vocabulary, context, width, layers, heads
PRESETS = {
    "demo": Config(1024, 256, 128, 3, 4),
    "shakespeare": Config(65, 64, 128, 4, 4),           # nanoGPT's CPU setting; vocabulary = its characters
    "baby": Config(65, 256, 384, 6, 6),                 # nanoGPT's GPU setting for the same text
    "gpt2": Config(50257, 1024, 768, 12, 12),           # 124M
    "gpt2-medium": Config(50257, 1024, 1024, 24, 16),   # 355M
    "gpt2-large": Config(50257, 1024, 1280, 36, 20),    # 774M
    "gpt2-xl": Config(50257, 1024, 1600, 48, 25),       # 1558M
}


def array_module(x):
    """The library an array belongs to: numpy, or cupy for an array on a GPU. Only creation needs it;
    ufuncs and methods find their own way."""
    return np if isinstance(x, np.ndarray) else sys.modules["cupy"]


def _row_blocks(x):
    """Slices of x's rows, each small enough that several passes over it stay in cache."""
    step = max(1, BLOCK_FLOATS // x.shape[-1])
    return [slice(i, min(i + step, len(x))) for i in range(0, len(x), step)]


# ---------------------------------------------------------------------------------------------- operations
# Rows are flattened: x is (N,C) wherever positions do not interact. `dx` is dLoss/dx, of x's shape.
# `out` is where results go, NumPy's way: training passes arrays of its arena, anyone else passes nothing.


def embedding_forward(tokens, positions, wte, wpe, out=None):   # (B,T) int twice, (V,C), (n_positions,C) -> (N,C)
    x = np.take(wte, tokens.ravel(), axis=0, out=out, mode="clip")      # ids are checked; "raise" would copy
    x += wpe[positions.ravel()]
    return x


def embedding_backward(dx, indices, dtable):            # (N,C), (N,) int, adds to (V,C)
    """Row v of the table's gradient is the sum of dx over the places where v was looked up.

    Sorting brings equal indices together, so each sum is one reduce in a fixed order: same bits every time.
    """
    order = np.argsort(indices, kind="stable")
    values, starts = np.unique(indices[order], return_index=True)
    dtable[values] += np.add.reduceat(dx[order], starts, axis=0)


def layernorm_forward(x, w, b, eps=1e-5, out=None):     # (N,C), (C,), (C,) -> (N,C), cache
    """y = n * w + b with n = (x - mean(x)) * rstd(x): every row at mean 0 and variance 1, then scaled and shifted."""
    xp, C = array_module(x), x.shape[1]
    y, n, rstd = out or (xp.empty_like(x), xp.empty_like(x), xp.empty((len(x), 1), x.dtype))
    mean_of = xp.full((C, 1), 1.0 / C, x.dtype)         # a product with it is the fastest mean of short rows
    for r in _row_blocks(x):
        nr, yr = n[r], y[r]
        np.subtract(x[r], x[r] @ mean_of, out=nr)
        np.multiply(nr, nr, out=yr)
        rstd[r] = 1.0 / np.sqrt(yr @ mean_of + eps)     # variance of the whole row, no Bessel correction
        nr *= rstd[r]
        np.multiply(nr, w, out=yr)
        yr += b
    return y, (n, rstd, w)


def layernorm_backward(dy, cache, plus=0.0, out=None):  # (N,C) -> (N,C), (C,), (C,)
    """Returns plus + dx, dw, db: where the norm stands on a branch, plus is what comes down the other one.

    With dn = dy * w, and mean() along C:  dx = rstd * (dn - mean(dn) - n * mean(dn * n)).
    The mean subtracted in the forward takes the component of dn along 1 away; the division by the deviation
    takes the one along n. Moving x in either direction does not change n (but for the tiny eps).
    """
    n, rstd, w = cache
    xp, C = array_module(dy), dy.shape[1]
    dx = xp.empty_like(dy) if out is None else out
    dw, db, mean_w = xp.zeros_like(w), xp.zeros_like(w), (w / C)[:, None]
    for r in _row_blocks(dy):
        ones = xp.ones(len(dy[r]), dy.dtype)
        t = dy[r] * n[r]
        dw += ones @ t                                  # forward was: y = n * w + b
        db += ones @ dy[r]
        along_n = t @ mean_w                            # mean(dn * n), (rows,1)
        d = dy[r] * w
        d -= dy[r] @ mean_w                             # mean(dn)
        np.multiply(n[r], along_n, out=t)
        d -= t
        d *= rstd[r]
        np.add(d, plus if np.isscalar(plus) else plus[r], out=dx[r])
    return dx, dw, db


def linear_forward(x, w, b, out=None):                  # (N,C), (C,F), (F,) -> (N,F)
    y = np.matmul(x, w, out=out)
    y += b
    return y


def linear_backward(dy, w, out=None):                   # (N,F), (C,F) -> (N,C); for dw and db see below
    return np.matmul(dy, w.T, out=out)


def linear_weight_backward(dy, x, dw, db, add, part=slice(None)):   # (N,F), (N,C) into (C,F), (F,)
    """dw = x^T dy and db = the column sums of dy, or added to what is there.

    Apart from linear_backward, because these sum over all rows of the batch: they can be split over threads by
    rows of dw (`part`), while dx is each thread's for its own rows of the batch.
    """
    _product(x.T[part], dy, dw[part], add)
    if part.start in (None, 0):
        ones = array_module(dy).ones((1, len(dy)), dy.dtype)
        _product(ones, dy, db[None], add)               # a product with ones is the fastest column sum


def _product(a, b, out, add):
    """out = a @ b, or out += a @ b in pieces whose temporary stays in cache."""
    if not add:
        np.matmul(a, b, out=out)
        return
    step = max(1, 4 * BLOCK_FLOATS // b.shape[1])
    for i in range(0, len(a), step):
        out[i:i + step] += a[i:i + step] @ b


GELU_K, GELU_C = 0.7978845608028654, 0.044715           # sqrt(2/pi); the cubic term of the tanh approximation


def gelu_forward(x, out=None):                          # (N,F) -> (N,F), cache
    """y = x s with s = (1 + tanh(k (x + c x^3))) / 2, the form GPT-2 was trained with.

    The cache is dy/dx, taken while x and s are at hand: half the memory of keeping both for the backward.
        dy/dx = s + x ds/dx = s + x s (1 - s) 2k (1 + 3 c x^2)
    `out` may be (y, x): then the derivative takes x's place.
    """
    y, slope = out or (array_module(x).empty_like(x), array_module(x).empty_like(x))
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


def gelu_backward(dy, slope, out=None):                 # (N,F) -> (N,F)
    return np.multiply(dy, slope, out=out)


def _heads(qkv, n_head):                                # (T,3C) -> three (NH,T,HS), views without a copy
    T, C3 = qkv.shape
    return qkv.reshape(T, 3, n_head, C3 // 3 // n_head).transpose(1, 2, 0, 3)


def _causal_mask(xp, T, dtype):                         # (T,T): 0 on and below the diagonal, -inf above
    return xp.triu(xp.full((T, T), -np.inf, dtype), k=1)


def attention_forward(qkv, n_head, out=None):           # (B,T,3C) -> (B,T,C), cache
    """o_i = sum_{j<=i} p_ij v_j, with p_i = softmax_j(s_ij) and s_ij = q_i . k_j / sqrt(HS), over the keys up to i.

    Queries go in blocks, and a block never looks at keys later than its last query: half of the square is not
    computed. Kept for the backward: lse, the log of each row's sum of exp(s), (B,NH,T,1). The probabilities
    are exp(s - lse), quicker to make again than to keep.
    """
    B, T, C3 = qkv.shape
    xp, C = array_module(qkv), C3 // 3
    scale, mask = float((C // n_head) ** -0.5), _causal_mask(xp, min(T, QUERY_BLOCK), qkv.dtype)
    o, lse = out or (xp.empty((B, T, C), qkv.dtype), xp.empty((B, n_head, T, 1), qkv.dtype))
    for b in range(B):
        q, k, v = _heads(qkv[b], n_head)
        o_heads = o[b].reshape(T, n_head, -1).swapaxes(0, 1)    # (NH,T,HS), a view: writing to it fills o
        for t0 in range(0, T, QUERY_BLOCK):
            t1 = min(t0 + QUERY_BLOCK, T)
            s = q[:, t0:t1] @ k[:, :t1].swapaxes(-1, -2)        # (NH,t1-t0,t1)
            s *= scale
            s[..., t0:] += mask[:t1 - t0, :t1 - t0]             # keys before t0 are the past of every query here
            top = s.max(-1, keepdims=True)
            s -= top
            p = np.exp(s, out=s)
            total = np.einsum("hqk->hq", p)[..., None]
            np.matmul(p, v[:, :t1], out=o_heads[:, t0:t1])
            o_heads[:, t0:t1] /= total
            np.add(top, np.log(total), out=lse[b, :, t0:t1])
    return o, (qkv, o, lse)


def attention_backward(do, cache, n_head, out=None):    # (B,T,C) -> (B,T,3C)
    qkv, o, lse = cache
    B, T, C3 = qkv.shape
    xp, C = array_module(qkv), C3 // 3
    scale, mask = float((C // n_head) ** -0.5), _causal_mask(xp, min(T, QUERY_BLOCK), qkv.dtype)
    dqkv = xp.empty((B, T, C3), qkv.dtype) if out is None else out
    for b in range(B):
        q, k, v = _heads(qkv[b], n_head)
        dq, dk, dv = _heads(dqkv[b], n_head)            # views: writing to them fills dqkv
        do_heads = do[b].reshape(T, n_head, -1).swapaxes(0, 1)
        # Softmax's backward needs sum_j p_ij dp_ij, and dp_ij = do_i . v_j: so that is do_i . (sum_j p_ij v_j),
        # which is do_i . o_i. No pass over the keys.
        D = np.einsum("thd,thd->ht", do[b].reshape(T, n_head, -1), o[b].reshape(T, n_head, -1))[..., None]
        for t0 in reversed(range(0, T, QUERY_BLOCK)):   # the last queries see all keys: they write dk and dv first
            t1 = min(t0 + QUERY_BLOCK, T)
            qt, kt, vt, dot = q[:, t0:t1], k[:, :t1], v[:, :t1], do_heads[:, t0:t1]
            s = qt @ kt.swapaxes(-1, -2)                # as in the forward
            s *= scale
            s[..., t0:] += mask[:t1 - t0, :t1 - t0]
            s -= lse[b, :, t0:t1]                       # no score is above its lse, so exp cannot overflow
            p = np.exp(s, out=s)
            dp = dot @ vt.swapaxes(-1, -2)              # forward was: o = p v
            dv_t = p.swapaxes(-1, -2) @ dot
            dp -= D[:, t0:t1]                           # forward was: p = softmax(s), so ds = p (dp - D)
            dp *= p
            dp *= scale                                 # forward was: s = scale q k^T; from here on it is d(q k^T)
            np.matmul(dp, kt, out=dq[:, t0:t1])
            dk_t = dp.swapaxes(-1, -2) @ qt
            if t1 == T:
                dk[...], dv[...] = dk_t, dv_t
            else:                                       # a key served the later queries too
                dk[:, :t1] += dk_t
                dv[:, :t1] += dv_t
    return dqkv


def cross_entropy_forward(logits, targets, weights):    # (N,V), (N,) int, (N,) -> (), cache
    """sum_i w_i (-log softmax(logits_i)[target_i]), in nats. Overwrites logits.

    The weights carry everything a training objective says about a token: 1/N for a mean, 0 for "ignore",
    an advantage for policy gradients, of either sign.
    """
    xp = array_module(logits)
    nll, total = xp.empty(len(logits), logits.dtype), xp.empty(len(logits), logits.dtype)
    for r in _row_blocks(logits):
        z = logits[r]
        z -= z.max(-1, keepdims=True)
        nll[r] = z[xp.arange(len(z)), targets[r]]
        e = np.exp(z, out=z)
        total[r] = np.einsum("nv->n", e)
    np.subtract(np.log(total), nll, out=nll)
    return (weights * nll).sum(), (logits, total, targets, weights)


def cross_entropy_backward(cache):                      # -> (N,V), in the place of the logits
    e, total, targets, weights = cache                  # softmax = e / total
    xp, scale = array_module(e), (weights / total)[:, None]
    for r in _row_blocks(e):                            # d(-log softmax_y)/dlogits = softmax - onehot(y)
        d = e[r]
        d *= scale[r]
        d[xp.arange(len(d)), targets[r]] -= weights[r]
    return e


# ---------------------------------------------------------------------------------------------- the model


def layer_params(params, i):
    """The parameters of block i without their "h.i." prefix. The arrays are the same, not copies."""
    prefix = f"h.{i}."
    return {k[len(prefix):]: v for k, v in params.items() if k.startswith(prefix)}


def block_shapes(cfg, B, T):
    """What a block keeps for its backward. The first axis of each is B sequences long, in parts or whole."""
    N, C = B * T, cfg.n_embd
    return {"a": (N, C), "n_1": (N, C), "rstd_1": (N, 1), "qkv": (N, 3 * C), "o": (N, C), "lse": (B, cfg.n_head, T, 1),
            "m": (N, C), "n_2": (N, C), "rstd_2": (N, 1), "u": (N, 4 * C), "h": (N, 4 * C)}


def block_forward(x, p, s, n_head):                     # (N,C) in place, layer parameters, arrays of block_shapes
    """x + attention(norm(x)), then x + mlp(norm(x))."""
    layernorm_forward(x, p["ln_1.weight"], p["ln_1.bias"], out=(s.a, s.n_1, s.rstd_1))
    linear_forward(s.a, p["attn.c_attn.weight"], p["attn.c_attn.bias"], out=s.qkv)
    B, _, T, _ = s.lse.shape
    attention_forward(s.qkv.reshape(B, T, -1), n_head, out=(s.o.reshape(B, T, -1), s.lse))
    x += linear_forward(s.o, p["attn.c_proj.weight"], p["attn.c_proj.bias"], out=s.t)
    layernorm_forward(x, p["ln_2.weight"], p["ln_2.bias"], out=(s.m, s.n_2, s.rstd_2))
    linear_forward(s.m, p["mlp.c_fc.weight"], p["mlp.c_fc.bias"], out=s.h)
    gelu_forward(s.h, out=(s.u, s.h))                   # h becomes du/dh
    x += linear_forward(s.u, p["mlp.c_proj.weight"], p["mlp.c_proj.bias"], out=s.t)
    return x


def backward_shapes(cfg, B, T):
    """What the backward of one block needs, the same arrays for every block."""
    N, C = B * T, cfg.n_embd
    return {"dx2": (N, C), "dx1": (N, C), "dx": (N, C), "dn": (N, C), "dh": (N, 4 * C), "dqkv": (N, 3 * C)}


def block_backward(p, s, g, n_head):
    """From g.dx2, the gradient at the block's output, to g.dx at its input: arrays of backward_shapes, for the
    rows of s. Returns the gradients of the norms' parameters; those of the matrices are left to
    block_weight_backward, which needs the rows of the whole batch."""
    B, _, T, _ = s.lse.shape
    grads = {}
    # x2 = x1 + mlp(norm(x1)): the gradient reaches x1 by both terms
    du = linear_backward(g.dx2, p["mlp.c_proj.weight"], out=g.dh)
    dh = gelu_backward(du, s.h, out=g.dh)
    dm = linear_backward(dh, p["mlp.c_fc.weight"], out=g.dn)
    _, grads["ln_2.weight"], grads["ln_2.bias"] = layernorm_backward(dm, (s.n_2, s.rstd_2, p["ln_2.weight"]), g.dx2, g.dx1)
    # x1 = x + attention(norm(x)): likewise
    do = linear_backward(g.dx1, p["attn.c_proj.weight"], out=g.dn)
    qkv, o, dqkv = (y.reshape(B, T, -1) for y in (s.qkv, s.o, g.dqkv))
    attention_backward(do.reshape(B, T, -1), (qkv, o, s.lse), n_head, out=dqkv)
    da = linear_backward(g.dqkv, p["attn.c_attn.weight"], out=g.dn)
    _, grads["ln_1.weight"], grads["ln_1.bias"] = layernorm_backward(da, (s.n_1, s.rstd_1, p["ln_1.weight"]), g.dx1, g.dx)
    return grads


def block_weight_backward(s, g, grads, add, share):
    """The gradients of a block's four matrices and their biases, into grads. share(n) is this thread's slice of n rows."""
    for name, x, dy in (("attn.c_attn", s.a, g.dqkv), ("attn.c_proj", s.o, g.dx1), ("mlp.c_fc", s.m, g.dh), ("mlp.c_proj", s.u, g.dx2)):
        dw, db = grads[f"{name}.weight"], grads[f"{name}.bias"]
        linear_weight_backward(dy, x, dw, db, add, share(len(dw)))


# ------------------------------------------------------------------------------------- memory and threads


class Arena:
    """One block of memory, divided anew at each step.

    A training step uses the same few dozen arrays every time. Taken fresh from the system, each page of them
    would fault and be zeroed, step after step, which costs more than the arithmetic.
    """

    def __init__(self, xp=np):
        self.xp, self.memory = xp, xp.empty(0, np.uint8)

    def divide(self, shapes, dtype):
        """{name: array} for {name: shape}, back to back; what they held before is lost."""
        sizes, itemsize = {k: int(np.prod(shape)) for k, shape in shapes.items()}, np.dtype(dtype).itemsize
        need = sum(-(-n * itemsize // 64) * 64 for n in sizes.values())
        if need > self.memory.size:
            self.memory = None                          # free the old one first
            self.memory = self.xp.empty(need, np.uint8)
        arrays, at = {}, 0
        for k, n in sizes.items():
            arrays[k] = self.memory[at:at + n * itemsize].view(dtype).reshape(shapes[k])
            at += -(-n * itemsize // 64) * 64
        return arrays


def step_shapes(cfg, B, T, want_grads=True, recompute=False):
    """Everything one call of loss_and_grads divides its arena into. With recompute only the input of each block is
    kept, and the backward runs the block's forward again: a third more work for a fraction of the memory."""
    N, C, L = B * T, cfg.n_embd, cfg.n_layer
    kept = L if want_grads and not recompute else 1
    shapes = {f"h.{i}.{k}": shape for i in range(kept) for k, shape in block_shapes(cfg, B, T).items()}
    if want_grads and recompute:
        shapes.update({f"x.{i}": (N, C) for i in range(L)})
    rows = min(N, max(1, LOGIT_FLOATS // cfg.vocab_size))
    shapes.update({"x": (N, C), "y": (N, C), "n_f": (N, C), "rstd_f": (N, 1), "logits": (rows, cfg.vocab_size), "xr": (rows, C)})
    if want_grads:
        shapes.update(backward_shapes(cfg, B, T))
    else:
        shapes["dn"] = (N, C)
    return shapes


def memory_plan(cfg, B, T, recompute=False, itemsize=4):
    """{what: bytes} of training with B sequences of T tokens at once, known before any of it is taken."""
    shapes, n = step_shapes(cfg, B, T, True, recompute), cfg.n_params * itemsize
    size = {k: -(-int(np.prod(shape)) * itemsize // 64) * 64 for k, shape in shapes.items()}
    logits = size["logits"] + size["xr"]
    activations = sum(v for k, v in size.items() if k not in backward_shapes(cfg, B, T)) - logits
    return {"parameters": n, "gradients": n, "AdamW": 2 * n, "activations": activations,
            "their gradients": sum(size.values()) - activations - logits, "logits": logits}


_pool = ThreadPoolExecutor(max(1, N_THREADS - 1))       # the calling thread works too


def share(part, n_parts):
    """share(part, n_parts)(n) is the slice of n things that one of n_parts gets."""
    return lambda n: slice(n * part // n_parts, n * (part + 1) // n_parts)


def in_parallel(work, n_parts=N_THREADS):
    """[work(share) for each part], each on its own thread; the results in order, so that sums of them are exact."""
    others = [_pool.submit(work, share(i, n_parts)) for i in range(1, n_parts)]
    return [work(share(0, n_parts)), *(f.result() for f in others)]


# --------------------------------------------------------------------------------------------- the whole model


def check_tokens(cfg, tokens, name="tokens"):
    if tokens.ndim != 2 or tokens.shape[1] < 1:
        raise ValueError(f"{name}: shape {tokens.shape}, expected (batch, positions)")
    if tokens.shape[1] > cfg.n_positions:
        raise ValueError(f"{name}: {tokens.shape[1]} positions, the model's context is {cfg.n_positions}")
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < cfg.vocab_size):
        bad = tokens[(tokens < 0) | (tokens >= cfg.vocab_size)].ravel()[0]
        raise ValueError(f"{name}: id {bad} is outside the model's vocabulary of {cfg.vocab_size}")


class _Step:
    """The arrays of one step, and its three walks through the model: trunk forward, head, trunk backward.

    The sequences of the batch are divided among threads, and each thread takes its own through the whole trunk:
    that needs no waiting. Only the gradients of the matrices, sums over all rows, are divided by rows of the matrix.
    """

    def __init__(self, params, cfg, tokens, arena, want_grads, recompute):
        self.params, self.cfg, self.tokens = params, cfg, tokens
        self.B, self.T = tokens.shape
        self.n_parts = min(N_THREADS, self.B)
        self.recompute = recompute and want_grads
        self.a = arena.divide(step_shapes(cfg, self.B, self.T, want_grads, recompute), params["wte.weight"].dtype)
        self.layers = [layer_params(params, i) for i in range(cfg.n_layer)]
        self.kept = [i if f"h.{i}.a" in self.a else 0 for i in range(cfg.n_layer)]      # which arrays block i uses

    def rows(self, names, part=None):
        """The named arrays, or the rows of them that belong to a part of the batch."""
        out = {}
        for name, key in names.items():
            x = self.a[key]
            if part:
                each = len(x) // self.B                 # rows of this array that a sequence has
                s = part(self.B)
                x = x[s.start * each:s.stop * each]
            out[name] = x
        return SimpleNamespace(**out)

    def block(self, i, part=None):
        names = {k: f"h.{self.kept[i]}.{k}" for k in block_shapes(self.cfg, 1, 1)}
        return self.rows({**names, "t": "dn"}, part)

    def trunk_forward(self):                            # -> (N,C) after the last norm
        p, cfg = self.params, self.cfg

        def work(part):
            s = self.rows({k: k for k in ("x", "y", "n_f", "rstd_f")}, part)
            tokens = self.tokens[part(self.B)]
            positions = np.broadcast_to(np.arange(self.T), tokens.shape)
            embedding_forward(tokens, positions, p["wte.weight"], p["wpe.weight"], out=s.x)
            for i in range(cfg.n_layer):
                if self.recompute:
                    self.rows({"x": f"x.{i}"}, part).x[...] = s.x
                block_forward(s.x, self.layers[i], self.block(i, part), cfg.n_head)
            layernorm_forward(s.x, p["ln_f.weight"], p["ln_f.bias"], out=(s.y, s.n_f, s.rstd_f))

        in_parallel(work, self.n_parts)
        return self.a["y"]

    def head(self, targets, weights, dwte, add):        # (N,), (N,), (V,C) or None -> loss
        """The loss under the tied head, and its gradients: dy in the place of y, dwte.

        Logits are the largest array of the model. They exist for some rows at a time, become their own gradient in
        place, and are multiplied into dy and dwte before the next rows come.
        """
        y, logits, xr, wte = self.a["y"], self.a["logits"], self.a["xr"], self.params["wte.weight"][:self.cfg.vocab_size]
        counted, loss = np.flatnonzero(weights), 0.0    # a row of weight 0 costs nothing
        if dwte is not None and not add and (len(counted) == 0 or len(dwte) > len(wte)):
            dwte[...] = 0.0
        for i in range(0, len(counted), len(logits)):
            rows = counted[i:i + len(logits)]

            def work(part, rows=rows):
                at = part(len(rows))
                r, x = rows[at], xr[at]
                np.take(y, r, axis=0, out=x, mode="clip")
                z = np.matmul(x, wte.T, out=logits[at])
                part_loss, cache = cross_entropy_forward(z, targets[r], weights[r])
                if dwte is not None:
                    y[r] = cross_entropy_backward(cache) @ wte      # forward was: logits = x wte^T
                return float(part_loss)

            loss += sum(in_parallel(work))
            if dwte is not None:
                n = len(rows)
                in_parallel(lambda part, n=n, i=i: _product(logits[:n].T[part(len(wte))], xr[:n], dwte[part(len(wte))], add or i > 0))
        if dwte is not None and len(counted) < len(y):
            y[weights == 0] = 0.0
        return loss

    def trunk_backward(self, grads, add):
        """From dy, in the place of y, to all gradients but the head's."""
        p, cfg, a = self.params, self.cfg, self.a
        into = {f"h.{i}": layer_params(grads, i) for i in range(cfg.n_layer)}

        def put(found, target, prefix=""):              # sums of the parts' gradients of the norms
            for k in found[0]:
                total = sum((f[k] for f in found[1:]), found[0][k])
                target[prefix + k][...] = target[prefix + k] + total if add else total

        def last_norm(part):
            s = self.rows({k: k for k in ("y", "n_f", "rstd_f", "dx2")}, part)
            return dict(zip(("weight", "bias"), layernorm_backward(s.y, (s.n_f, s.rstd_f, p["ln_f.weight"]), out=s.dx2)[1:]))

        put(in_parallel(last_norm, self.n_parts), grads, "ln_f.")
        for i in reversed(range(cfg.n_layer)):
            def block(part, i=i):
                s, g = self.block(i, part), self.rows({k: k for k in backward_shapes(cfg, 1, 1)}, part)
                if self.recompute:
                    block_forward(self.rows({"x": f"x.{i}"}, part).x, self.layers[i], s, cfg.n_head)
                return block_backward(self.layers[i], s, g, cfg.n_head)

            put(in_parallel(block, self.n_parts), into[f"h.{i}"])
            s, g = self.block(i), self.rows({k: k for k in backward_shapes(cfg, 1, 1)})
            in_parallel(lambda part, s=s, g=g, i=i: block_weight_backward(s, g, into[f"h.{i}"], add, part))
            a["dx2"], a["dx"] = a["dx"], a["dx2"]       # this block's input is the output of the one before
        dx, C = a["dx2"], cfg.n_embd
        dwpe = dx.reshape(self.B, -1).sum(0).reshape(self.T, C)
        if not add:
            grads["wpe.weight"][...] = 0.0
        grads["wpe.weight"][:self.T] += dwpe
        in_parallel(lambda part: embedding_backward(dx[:, part(C)], self.tokens.ravel(), grads["wte.weight"][:, part(C)]))


def forward(params, cfg, tokens):                       # (B,T) int -> (B,T,V), {name: array}
    """Logits of the next token at every position, and all that was computed on the way, under the names of step_shapes."""
    check_tokens(cfg, tokens)
    step = _Step(params, cfg, tokens, Arena(array_module(params["wte.weight"])), True, False)
    y = step.trunk_forward()
    return (y @ params["wte.weight"][:cfg.vocab_size].T).reshape(*tokens.shape, -1), step.a


def _as_weights(targets, weights, dtype):
    """Per-token weights (B,T) and targets safe to index with. Default: a mean over targets that are not -1."""
    counted = targets != -1
    if weights is None:
        if not counted.any():
            raise ValueError("every target is ignored (-1): the mean of nothing is not zero")
        weights = counted / counted.sum()
    elif weights.shape != targets.shape:
        raise ValueError(f"weights have shape {weights.shape}, targets {targets.shape}")
    return np.where(counted, weights, 0.0).astype(dtype), np.where(counted, targets, 0)


def loss_and_grads(params, cfg, tokens, targets, weights=None, want_grads=True, grads=None, add=False, arena=None,
                   recompute=False):
    """Weighted cross-entropy of targets given tokens, and its gradient for every parameter.

    tokens, targets (B,T) int, a target of -1 is ignored; weights (B,T) float or None for the mean over
    the counted targets. The loss is sum(weights * nll) in nats: with weights given, the caller normalises.
    Returns (float, {name: array}); the dict is empty without want_grads.

    grads: arrays to write the gradients to, or with add to add them to, for batches that come in several parts.
    arena: an Arena to work in; with both given, a step allocates nothing of size.
    """
    check_tokens(cfg, tokens)
    wte = params["wte.weight"]
    weights, targets = _as_weights(targets, weights, wte.dtype)
    check_tokens(cfg, targets, "targets")
    if want_grads and grads is None:
        grads = {k: array_module(p).empty(p.shape, p.dtype) for k, p in params.items()}
    step = _Step(params, cfg, tokens, arena or Arena(array_module(wte)), want_grads, recompute)
    step.trunk_forward()
    loss = step.head(targets.ravel(), weights.ravel(), grads["wte.weight"] if want_grads else None, add)
    if want_grads:
        step.trunk_backward(grads, add)
    return loss, grads if want_grads else {}


# -------------------------------------------------------------------------------------- cached generation


class Cache:
    """Keys and values of the positions a batch has already seen, so that a new token costs one position.

    k, v (L,B,NH,S,HS); length (B,) int: positions in use, row by row, so rows may differ in length.
    """

    def __init__(self, cfg, batch, n_positions=None, dtype=np.float32, xp=np):
        S = n_positions or cfg.n_positions
        if S > cfg.n_positions:
            raise ValueError(f"cache of {S} positions, the model's context is {cfg.n_positions}")
        shape = (cfg.n_layer, batch, cfg.n_head, S, cfg.n_embd // cfg.n_head)
        self.k, self.v = xp.zeros(shape, dtype), xp.zeros(shape, dtype)
        self.length = xp.zeros(batch, np.int64)

    def rows(self, index):
        """A cache of some of the rows. A slice gives views on this one; an index array copies, which
        is how one prefilled prompt becomes many rows ([0, 0, 0]) and finished rows are dropped."""
        part = Cache.__new__(Cache)
        part.k, part.v, part.length = self.k[:, index], self.v[:, index], self.length[index]
        return part


def decode(params, cfg, tokens, cache, n_new=None, only_last=False):
    """Logits of the next token after each new position, given all that the cache has seen.

    tokens (B,T) int, right-padded when rows differ; n_new (B,) says how many of each row count (default T), at least 1.
    Returns (B,T,V), or (B,V) for the last counted position of each row with only_last, the case of
    generation. Adds the new positions to the cache.
    """
    check_tokens(cfg, tokens)
    B, T = tokens.shape
    if n_new is None:
        n_new = np.full(B, T)
    if int(n_new.min()) < 1 or int(n_new.max()) > T:
        raise ValueError(f"n_new = {n_new.tolist()[:8]}: expected 1 to {T} for each row")
    if cache.k.dtype != params["wte.weight"].dtype:
        raise ValueError(f"a {cache.k.dtype} cache for {params['wte.weight'].dtype} parameters; give Cache their dtype")
    if int((cache.length + n_new).max()) > cache.k.shape[3]:
        raise ValueError(f"{int((cache.length + n_new).max())} positions do not fit the cache of "
                         f"{cache.k.shape[3]}; the model's context is {cfg.n_positions}")
    parts = in_parallel(lambda part: _decode_rows(params, cfg, tokens[part(B)], cache.rows(part(B)), n_new[part(B)], only_last),
                        min(N_THREADS, B))
    cache.length += n_new
    return array_module(tokens).concatenate(parts)


def _decode_rows(params, cfg, tokens, cache, n_new, only_last):
    (B, T), C, xp = tokens.shape, cfg.n_embd, array_module(tokens)
    scale = float((C // cfg.n_head) ** -0.5)
    S = min(int(cache.length.max()) + T, cache.k.shape[3])
    at = np.minimum(cache.length[:, None] + xp.arange(T), S - 1)        # (B,T) places in the cache
    row, col = np.nonzero(xp.arange(T) < n_new[:, None])                # the tokens that are no padding, (n,) each
    slot = at[row, col]
    masked = xp.arange(S) > at[:, None, :, None]        # (B,1,T,S): keys that come after the query
    x = embedding_forward(tokens, at, params["wte.weight"], params["wpe.weight"])
    for i in range(cfg.n_layer):
        p = layer_params(params, i)
        a, _ = layernorm_forward(x, p["ln_1.weight"], p["ln_1.bias"])
        qkv = linear_forward(a, p["attn.c_attn.weight"], p["attn.c_attn.bias"]).reshape(B, T, -1)
        q, k, v = qkv.reshape(B, T, 3, cfg.n_head, -1).transpose(2, 0, 3, 1, 4)
        cache.k[i][row, :, slot] = k[row, :, col]       # (n,NH,HS)
        cache.v[i][row, :, slot] = v[row, :, col]
        s = q @ cache.k[i, :, :, :S].swapaxes(-1, -2)   # (B,NH,T,S)
        s *= scale
        s[np.broadcast_to(masked, s.shape)] = -np.inf
        s -= s.max(-1, keepdims=True)
        np.exp(s, out=s)
        s /= s.sum(-1, keepdims=True)
        o = (s @ cache.v[i, :, :, :S]).transpose(0, 2, 1, 3).reshape(B * T, C)
        x = x + linear_forward(o, p["attn.c_proj.weight"], p["attn.c_proj.bias"])
        m, _ = layernorm_forward(x, p["ln_2.weight"], p["ln_2.bias"])
        u, _ = gelu_forward(linear_forward(m, p["mlp.c_fc.weight"], p["mlp.c_fc.bias"]))
        x = x + linear_forward(u, p["mlp.c_proj.weight"], p["mlp.c_proj.bias"])
    if only_last:
        x = x.reshape(B, T, C)[xp.arange(B), n_new - 1]
    x, _ = layernorm_forward(x, params["ln_f.weight"], params["ln_f.bias"])
    logits = x @ params["wte.weight"].T
    return logits if only_last else logits.reshape(B, T, -1)


# --------------------------------------------------------------------------------------- parameters, files


def param_shapes(cfg):
    """{name: shape} of every parameter, in the order of Hugging Face's GPT-2 files."""
    C, shapes = cfg.n_embd, {"wte.weight": (cfg.vocab_size, cfg.n_embd), "wpe.weight": (cfg.n_positions, cfg.n_embd)}
    for i in range(cfg.n_layer):
        for name, shape in (("ln_1.weight", (C,)), ("ln_1.bias", (C,)),
                            ("attn.c_attn.weight", (C, 3 * C)), ("attn.c_attn.bias", (3 * C,)),
                            ("attn.c_proj.weight", (C, C)), ("attn.c_proj.bias", (C,)),
                            ("ln_2.weight", (C,)), ("ln_2.bias", (C,)),
                            ("mlp.c_fc.weight", (C, 4 * C)), ("mlp.c_fc.bias", (4 * C,)),
                            ("mlp.c_proj.weight", (4 * C, C)), ("mlp.c_proj.bias", (C,))):
            shapes[f"h.{i}.{name}"] = shape
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (C,)
    return shapes


def init(cfg, seed, dtype=np.float32):
    """Fresh parameters: N(0, 0.02), the two projections onto the residual stream N(0, 0.02 / sqrt(2L)),
    biases 0, norms 1. The first loss of such a model is close to ln(V)."""
    rng, params = np.random.default_rng(seed), {}
    for name, shape in param_shapes(cfg).items():
        if name.endswith("bias"):
            params[name] = np.zeros(shape, dtype)
        elif "ln_" in name:
            params[name] = np.ones(shape, dtype)
        else:
            std = 0.02 / (2 * cfg.n_layer) ** 0.5 if "c_proj" in name else 0.02
            params[name] = (rng.standard_normal(shape, np.float32) * np.float32(std)).astype(dtype)
    return params


def save_config(folder, cfg):
    """config.json as Hugging Face transformers reads it."""
    files.write_text(Path(folder) / "config.json", json.dumps({
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "torch_dtype": "float32",
        "n_ctx": cfg.n_positions, **vars(cfg)}, indent=2) + "\n")


def save(folder, params, cfg):
    """Write a Hugging Face GPT-2 folder. model.safetensors comes last: where it is, the folder is whole."""
    bad = [k for k, p in params.items() if not np.isfinite(p).all()]
    if bad:
        raise ValueError(f"{folder}: not saved, {bad[0]} and {len(bad) - 1} other tensors hold numbers that are not finite; "
                         "train with a lower --lr")
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_config(folder, cfg)
    files.save_safetensors(Path(folder) / "model.safetensors", params, {"format": "pt"})


# What else a config.json may say that changes the arithmetic, and the values under which it is the model of this file.
GPT2_SETTINGS = {
    "model_type": ("gpt2",), "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "layer_norm_epsilon": (1e-5,),
    "tie_word_embeddings": (True,), "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}


def load_config(folder):
    path = Path(folder) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; a model folder holds config.json and model.safetensors. "
                                f"Make the demo's with: python train.py")
    config = files.read_json(path)
    for key, ours in {**GPT2_SETTINGS, "n_inner": (None, 4 * config.get("n_embd", 0))}.items():
        if config.get(key, ours[0]) not in ours:
            raise ValueError(f"{path}: {key} is {config[key]!r}; this model is GPT-2, with {ours[0]!r}")
    missing = [k for k in Config.__dataclass_fields__ if k not in config]
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(missing)}")
    return Config(**{k: config[k] for k in Config.__dataclass_fields__})


def load(folder):
    """(params, cfg) of a Hugging Face GPT-2 folder; float32 arrays that may be written to.

    Accepts names with and without "transformer.", ignores the causal-mask buffers some exports hold. A
    folder whose training is still going on has no model.safetensors yet: then the last checkpoint is read.
    """
    folder = Path(folder)
    cfg = load_config(folder)
    path = folder / "model.safetensors"
    if not path.exists() and (folder / "trainer.safetensors").exists():
        path = folder / "trainer.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; finish the training that began {folder}")
    tensors, _ = files.load_safetensors(path)
    tensors = {k.removeprefix("transformer."): v for k, v in tensors.items()}
    params = {}
    for name, shape in param_shapes(cfg).items():
        if name not in tensors:
            raise ValueError(f"{path}: has no tensor {name}, which config.json's {cfg.n_layer} layers need")
        if tensors[name].shape != shape:
            raise ValueError(f"{path}: {name} has shape {tensors[name].shape}, config.json says {shape}")
        params[name] = np.require(tensors[name], np.float32, ["C", "W"])
        if not np.isfinite(params[name]).all():
            raise ValueError(f"{path}: {name} holds numbers that are not finite; save the model again from a checkpoint that is sound")
    return params, cfg


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Describe a GPT-2 checkpoint, or the presets.")
    parser.add_argument("folder", nargs="?", help="a Hugging Face GPT-2 folder (default: none)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    if args.folder:
        params, cfg = load(args.folder)
        print(f"{args.folder}: {cfg}, {cfg.n_params:,} parameters")
        for name, p in params.items():
            print(f"  {name:28} {str(p.shape):16} mean {p.mean():+.4f}  std {p.std():.4f}")
        return
    for name, cfg in PRESETS.items():
        print(f"{name:12} {cfg.n_layer:3} layers {cfg.n_head:3} heads {cfg.n_embd:5} wide {cfg.n_params:14,} parameters")
    cfg = Config(11, 6, 8, 2, 2)
    params, rng = init(cfg, 0, np.float64), np.random.default_rng(0)
    tokens, targets = rng.integers(0, 11, (2, 3, 6))
    grads, h = loss_and_grads(params, cfg, tokens, targets)[1], 1e-5
    w, losses = params["h.0.attn.c_attn.weight"], []
    for shift in (h, -2 * h):
        w[3, 4] += shift
        losses.append(loss_and_grads(params, cfg, tokens, targets, want_grads=False)[0])
    print(f"d loss / d h.0.attn.c_attn.weight[3,4]: by hand {grads['h.0.attn.c_attn.weight'][3, 4]:+.10f}, "
          f"by finite differences {(losses[0] - losses[1]) / (2 * h):+.10f}")


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:                             # whoever read our output has gone, as head does
        os._exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, MemoryError) as e:
        sys.exit(f"gpt.py: error: {e}")
