"""gpt.py: GPT-2, forward and backward by hand.

The whole model is in this file: each operation's forward stands right above its backward, in the order
data flows through them, then the block, the model, the loss, the key/value cache that makes generation
cheap, and the files. There is no autograd; a derivative is a few lines under the thing it differentiates.

The model is GPT-2 exactly: learned positions, LayerNorm before each sublayer, tanh GELU, tied output
head. Parameters carry Hugging Face's GPT-2 names and shapes, so real checkpoints load and ours load there.

Left out on purpose: dropout (the published small-model recipes run without it) and any precision other
than the one it is given. float32 in, float32 out; float64 in, float64 out, which is how
tests/test_gpt.py compares every derivative here with finite differences.

    python gpt.py                          check one gradient of a tiny model, print the sizes of the presets
    python gpt.py out/demo/base            describe a checkpoint

Sources: Radford et al. 2019 (GPT-2); Vaswani et al. 2017 (attention); Ba et al. 2016 (LayerNorm);
Hendrycks & Gimpel 2016 (GELU); Dao et al. 2022 (attention backward from the log-sum-exp alone).
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
# the batch over Python threads ourselves: that also parallelises everything that is not a matrix product.
if _avx512():
    os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse  # noqa: E402
import ctypes  # noqa: E402
import json  # noqa: E402
import struct  # noqa: E402
import sys  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

# B batch   T query positions   S key positions   N = B*T rows   V vocabulary
# L layers  NH heads            HS head size      C = NH*HS channels          F = 4*C MLP width

QUERY_BLOCK = 64        # attention works on this many queries at a time and never touches later keys
BLOCK_FLOATS = 65536    # element-wise work goes in blocks of rows this large: 256 KB stays in a core's L2
N_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_freed_memory():
    """Tell glibc to keep freed blocks instead of giving them back to the kernel.

    A training step frees and takes the same few dozen megabyte arrays again and again. By default each
    one is mapped anew and its pages are zeroed one fault at a time, which costs more than the arithmetic.
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
            if not (isinstance(value, int) and value >= 1):
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
# Rows are flattened: x is (N, C) wherever positions do not interact. `dx` is dLoss/dx, of x's shape.


def embedding_forward(tokens, positions, wte, wpe):     # (B,T) int, (B,T) int, (V,C), (T,C) -> (N,C)
    x = wte[tokens]                                     # (B,T,C)
    x += wpe[positions]
    return x.reshape(-1, x.shape[-1])


def embedding_backward(dx, indices, table_shape):       # (N,C), (N,) -> (V,C)
    """Row v of the gradient is the sum of dx over the places where v was looked up.

    Sorting brings equal indices together, so each sum is one reduce in a fixed order: same bits every time.
    """
    indices = indices.ravel()
    order = np.argsort(indices, kind="stable")
    values, starts = np.unique(indices[order], return_index=True)
    dtable = array_module(dx).zeros(table_shape, dx.dtype)
    dtable[values] = np.add.reduceat(dx[order], starts, axis=0)
    return dtable


def layernorm_forward(x, w, b, eps=1e-5):               # (N,C), (C,), (C,) -> (N,C)
    y, n = np.empty_like(x), np.empty_like(x)
    rstd = np.empty_like(x[:, :1])                      # (N,1)
    for r in _row_blocks(x):
        nr, yr = n[r], y[r]
        np.subtract(x[r], x[r].mean(-1, keepdims=True), out=nr)
        var = np.einsum("nc,nc->n", nr, nr)[:, None] / x.shape[-1]
        rstd[r] = 1.0 / np.sqrt(var + eps)
        nr *= rstd[r]                                   # n: mean 0, variance 1 along C
        np.multiply(nr, w, out=yr)
        yr += b
    return y, (n, rstd, w)


def layernorm_backward(dy, cache):                      # (N,C) -> (N,C), (C,), (C,)
    n, rstd, w = cache
    dw = np.einsum("nc,nc->c", dy, n)                   # forward was: y = n * w + b
    db = dy.sum(0)
    dx = np.empty_like(dy)
    for r in _row_blocks(dy):
        # n = (x - mean) * rstd, and both statistics depend on x: moving x along 1 shifts the mean, moving
        # it along n stretches the variance, and neither changes n. So those two parts of dn drop out.
        dn = dy[r] * w
        along_n = np.einsum("nc,nc->n", dn, n[r])[:, None] / dy.shape[-1]
        dn -= dn.mean(-1, keepdims=True)
        np.multiply(n[r], along_n, out=dx[r])
        np.subtract(dn, dx[r], out=dx[r])
        dx[r] *= rstd[r]
    return dx, dw, db


def linear_forward(x, w, b):                            # (N,C), (C,F), (F,) -> (N,F)
    y = x @ w
    y += b
    return y


def linear_backward(dy, x, w):                          # (N,F), (N,C), (C,F) -> (N,C), (C,F), (F,)
    ones = array_module(dy).ones(len(dy), dy.dtype)
    return dy @ w.T, x.T @ dy, ones @ dy                # a product with ones is the fastest column sum


GELU_K, GELU_C = 0.7978845608028654, 0.044715           # sqrt(2/pi); the cubic term of the tanh approximation


def gelu_forward(x):                                    # (N,F) -> (N,F)
    """y = x/2 (1 + tanh(k (x + c x^3))), the form GPT-2 was trained with."""
    t, y = np.empty_like(x), np.empty_like(x)
    for r in _row_blocks(x):
        xr, tr, yr = x[r], t[r], y[r]
        np.multiply(xr, xr, out=tr)
        tr *= GELU_C
        tr += 1.0
        tr *= xr
        tr *= GELU_K
        np.tanh(tr, out=tr)
        np.add(tr, 1.0, out=yr)
        yr *= xr
        yr *= 0.5
    return y, (x, t)


def gelu_backward(dy, cache):                           # (N,F) -> (N,F)
    x, t = cache
    dx = np.empty_like(dy)
    for r in _row_blocks(dy):
        xr, tr = x[r], t[r]
        # dy/dx = (1 + t)/2 + x/2 (1 - t^2) k (1 + 3 c x^2), with t the tanh
        u = xr * xr
        u *= 3.0 * GELU_C * GELU_K
        u += GELU_K
        u *= xr
        s = tr * tr
        np.subtract(1.0, s, out=s)
        u *= s
        u += tr
        u += 1.0
        u *= 0.5
        np.multiply(u, dy[r], out=dx[r])
    return dx


def _split_heads(qkv, n_head):                          # (B,T,3C) -> three (B,NH,T,HS), views without a copy
    B, T, C3 = qkv.shape
    return qkv.reshape(B, T, 3, n_head, C3 // 3 // n_head).transpose(2, 0, 3, 1, 4)


def _causal_mask(xp, T, dtype):                         # (T,T): 0 on and below the diagonal, -inf above
    return xp.triu(xp.full((T, T), -np.inf, dtype), k=1)


def attention_forward(qkv, n_head):                     # (B,T,3C) -> (B,T,C)
    """o_i = sum_{j<=i} p_ij v_j, with p_i = softmax_j(q_i . k_j / sqrt(HS)) over the keys up to i.

    Queries go in blocks, and a block never looks at keys behind its end: half of the square is not computed.
    Kept for the backward: the log of each row's normaliser, from which p is cheaper to recompute than to keep.
    """
    B, T, C3 = qkv.shape
    xp, scale = array_module(qkv), float((C3 // 3 // n_head) ** -0.5)
    q, k, v = _split_heads(qkv, n_head)                 # each (B,NH,T,HS)
    o = xp.empty((B, T, C3 // 3), qkv.dtype)
    o_heads = o.reshape(B, T, n_head, -1).transpose(0, 2, 1, 3)
    lse = xp.empty((B, n_head, T, 1), qkv.dtype)
    mask = _causal_mask(xp, min(T, QUERY_BLOCK), qkv.dtype)
    for t0 in range(0, T, QUERY_BLOCK):
        t1 = min(t0 + QUERY_BLOCK, T)
        p = q[:, :, t0:t1] @ k[:, :, :t1].swapaxes(-1, -2)      # (B,NH,t1-t0,t1) scores, soon probabilities
        p *= scale
        p[..., t0:] += mask[:t1 - t0, :t1 - t0]
        top = p.max(-1, keepdims=True)
        p -= top
        np.exp(p, out=p)
        total = np.einsum("bhqs->bhq", p)[..., None]
        p /= total
        lse[:, :, t0:t1] = top + np.log(total)
        o_heads[:, :, t0:t1] = p @ v[:, :, :t1]
    return o, (qkv, o, lse)


def attention_backward(do, cache, n_head):              # (B,T,C) -> (B,T,3C)
    qkv, o, lse = cache
    B, T, C3 = qkv.shape
    xp, scale = array_module(qkv), float((C3 // 3 // n_head) ** -0.5)
    q, k, v = _split_heads(qkv, n_head)
    dqkv = xp.zeros_like(qkv)
    dq, dk, dv = _split_heads(dqkv, n_head)
    do_heads = do.reshape(B, T, n_head, -1).transpose(0, 2, 1, 3)
    # Softmax's backward needs sum_j p_ij dp_ij. Since dp_ij = do_i . v_j, that is do_i . (sum_j p_ij v_j),
    # which is do_i . o_i: no pass over the keys.
    D = np.einsum("bthd,bthd->bht", do.reshape(B, T, n_head, -1), o.reshape(B, T, n_head, -1))[..., None]
    mask = _causal_mask(xp, min(T, QUERY_BLOCK), qkv.dtype)
    for t0 in range(0, T, QUERY_BLOCK):
        t1 = min(t0 + QUERY_BLOCK, T)
        qb, kb, vb, dob = q[:, :, t0:t1], k[:, :, :t1], v[:, :, :t1], do_heads[:, :, t0:t1]
        p = qb @ kb.swapaxes(-1, -2)                    # again: p = exp(scale q k^T - lse)
        p *= scale
        p -= lse[:, :, t0:t1]
        p[..., t0:] += mask[:t1 - t0, :t1 - t0]
        np.exp(p, out=p)
        dv[:, :, :t1] += p.swapaxes(-1, -2) @ dob       # forward was: o = p v
        ds = dob @ vb.swapaxes(-1, -2)                  # dp = do v^T
        ds -= D[:, :, t0:t1]                            # forward was: p = softmax(s); ds = p (dp - D)
        ds *= p
        ds *= scale                                     # forward was: s = scale q k^T
        dq[:, :, t0:t1] = ds @ kb
        dk[:, :, :t1] += ds.swapaxes(-1, -2) @ qb
    return dqkv


def cross_entropy_forward(logits, targets, weights):    # (N,V), (N,) int, (N,) -> (), cache
    """sum_i w_i (-log softmax(logits_i)[target_i]), in nats. Overwrites logits with the probabilities.

    The weights carry everything a training objective says about a token: 1/N for a mean, 0 for "ignore",
    an advantage for policy gradients, of either sign.
    """
    logits -= logits.max(-1, keepdims=True)
    rows = array_module(logits).arange(len(logits))
    picked = logits[rows, targets].copy()
    p = np.exp(logits, out=logits)
    total = np.einsum("nv->n", p)
    p /= total[:, None]
    return (weights * (np.log(total) - picked)).sum(), (p, targets, weights)


def cross_entropy_backward(cache):                      # -> (N,V); overwrites the probabilities
    p, targets, weights = cache                         # d(-log p_y)/dlogits = p - onehot(y)
    p[array_module(p).arange(len(p)), targets] -= 1.0
    p *= weights[:, None]
    return p


# ---------------------------------------------------------------------------------------------- the model


def layer_params(params, i):
    """The parameters of block i without their "h.i." prefix. The arrays are the same, not copies."""
    prefix = f"h.{i}."
    return {k[len(prefix):]: v for k, v in params.items() if k.startswith(prefix)}


def block_forward(x, p, shape, n_head):                 # (N,C), layer parameters, (B,T) -> (N,C)
    """x + attention(norm(x)), then x + mlp(norm(x))."""
    a, ln_1 = layernorm_forward(x, p["ln_1.weight"], p["ln_1.bias"])
    qkv = linear_forward(a, p["attn.c_attn.weight"], p["attn.c_attn.bias"])
    o, att = attention_forward(qkv.reshape(*shape, -1), n_head)
    o = o.reshape(x.shape)
    x1 = linear_forward(o, p["attn.c_proj.weight"], p["attn.c_proj.bias"])
    x1 += x
    m, ln_2 = layernorm_forward(x1, p["ln_2.weight"], p["ln_2.bias"])
    h = linear_forward(m, p["mlp.c_fc.weight"], p["mlp.c_fc.bias"])
    u, gelu = gelu_forward(h)
    x2 = linear_forward(u, p["mlp.c_proj.weight"], p["mlp.c_proj.bias"])
    x2 += x1
    return x2, (a, ln_1, o, att, m, ln_2, u, gelu)


def block_backward(dx2, p, cache, shape, n_head):       # (N,C) -> (N,C), gradients under p's names
    a, ln_1, o, att, m, ln_2, u, gelu = cache
    g = {}
    # x2 = x1 + mlp(norm(x1)): the gradient reaches x1 by both terms
    du, g["mlp.c_proj.weight"], g["mlp.c_proj.bias"] = linear_backward(dx2, u, p["mlp.c_proj.weight"])
    dh = gelu_backward(du, gelu)
    dm, g["mlp.c_fc.weight"], g["mlp.c_fc.bias"] = linear_backward(dh, m, p["mlp.c_fc.weight"])
    dx1, g["ln_2.weight"], g["ln_2.bias"] = layernorm_backward(dm, ln_2)
    dx1 += dx2
    # x1 = x + attention(norm(x)): likewise
    do, g["attn.c_proj.weight"], g["attn.c_proj.bias"] = linear_backward(dx1, o, p["attn.c_proj.weight"])
    dqkv = attention_backward(do.reshape(*shape, -1), att, n_head).reshape(len(dx1), -1)
    da, g["attn.c_attn.weight"], g["attn.c_attn.bias"] = linear_backward(dqkv, a, p["attn.c_attn.weight"])
    dx, g["ln_1.weight"], g["ln_1.bias"] = layernorm_backward(da, ln_1)
    dx += dx1
    return dx, g


def _trunk_forward(params, cfg, tokens):                # (B,T) -> (N,C) after the last norm, cache
    positions = np.broadcast_to(array_module(tokens).arange(tokens.shape[1]), tokens.shape)
    x = embedding_forward(tokens, positions, params["wte.weight"], params["wpe.weight"])
    blocks = []
    for i in range(cfg.n_layer):
        x, cache = block_forward(x, layer_params(params, i), tokens.shape, cfg.n_head)
        blocks.append(cache)
    x, ln_f = layernorm_forward(x, params["ln_f.weight"], params["ln_f.bias"])
    return x, (tokens, positions, blocks, ln_f)


def _trunk_backward(dx, params, cfg, cache):            # (N,C) -> gradients
    tokens, positions, blocks, ln_f = cache
    grads = {}
    dx, grads["ln_f.weight"], grads["ln_f.bias"] = layernorm_backward(dx, ln_f)
    for i in reversed(range(cfg.n_layer)):
        dx, g = block_backward(dx, layer_params(params, i), blocks.pop(), tokens.shape, cfg.n_head)
        grads.update({f"h.{i}.{k}": v for k, v in g.items()})
    grads["wte.weight"] = embedding_backward(dx, tokens, params["wte.weight"].shape)
    T = tokens.shape[1]
    grads["wpe.weight"] = array_module(dx).zeros_like(params["wpe.weight"])
    grads["wpe.weight"][:T] = dx.reshape(-1, T, dx.shape[-1]).sum(0)
    return grads


def _check_tokens(cfg, tokens, name="tokens"):
    if tokens.ndim != 2 or tokens.shape[1] < 1:
        raise ValueError(f"{name}: shape {tokens.shape}, expected (batch, positions)")
    if tokens.shape[1] > cfg.n_positions:
        raise ValueError(f"{name}: {tokens.shape[1]} positions, the model's context is {cfg.n_positions}")
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < cfg.vocab_size):
        bad = tokens[(tokens < 0) | (tokens >= cfg.vocab_size)].ravel()[0]
        raise ValueError(f"{name}: id {bad} is outside the model's vocabulary of {cfg.vocab_size}")


def forward(params, cfg, tokens):                       # (B,T) int -> (B,T,V), cache
    """Logits of the next token at every position."""
    _check_tokens(cfg, tokens)
    x, cache = _trunk_forward(params, cfg, tokens)
    return (x @ params["wte.weight"].T).reshape(*tokens.shape, -1), cache


def _head_loss(x, wte, targets, weights, want_grads):
    """Loss of the rows x (N,C) under the tied head, and its gradients dx (N,C), dwte (V,C).

    The logits are the largest array of the model. They live for one block of rows at a time, become
    probabilities and then their own gradient in place, and are multiplied into dx and dwte while in cache.
    """
    loss, dx = 0.0, np.zeros_like(x)
    dwte = np.zeros_like(wte) if want_grads else None
    counted = np.flatnonzero(weights)                   # a row of weight 0 costs nothing
    step = max(1, 4 * BLOCK_FLOATS // len(wte))
    for i in range(0, len(counted), step):
        r = counted[i:i + step]
        xr = x[r]
        part, cache = cross_entropy_forward(xr @ wte.T, targets[r], weights[r])
        loss += float(part)
        if want_grads:
            dlogits = cross_entropy_backward(cache)
            dx[r] = dlogits @ wte                       # forward was: logits = x wte^T
            dwte += dlogits.T @ xr
    return loss, dx, dwte


def _as_weights(targets, weights, dtype):
    """Per-token weights (B,T) and targets safe to index with. Default: a mean over targets that are not -1."""
    counted = targets >= 0
    if weights is None:
        if not counted.any():
            raise ValueError("every target is ignored (-1): the mean of nothing is not zero")
        weights = counted / counted.sum()
    elif weights.shape != targets.shape:
        raise ValueError(f"weights have shape {weights.shape}, targets {targets.shape}")
    return np.where(counted, weights, 0.0).astype(dtype), np.where(counted, targets, 0)


_pool = ThreadPoolExecutor(max(1, N_THREADS - 1))       # the calling thread works too


def _over_rows(work, n_rows):
    """[work(slice), ...] for contiguous parts of the rows, one part a thread, results in order."""
    n = max(1, min(N_THREADS, n_rows))
    parts = [slice(n_rows * i // n, n_rows * (i + 1) // n) for i in range(n)]
    others = [_pool.submit(work, part) for part in parts[1:]]
    return [work(parts[0])] + [f.result() for f in others]


def loss_and_grads(params, cfg, tokens, targets, weights=None, want_grads=True):
    """Weighted cross-entropy of targets given tokens, and its gradient for every parameter.

    tokens, targets (B,T) int, a target of -1 is ignored; weights (B,T) float or None for the mean over
    the counted targets. The loss is sum(weights * nll) in nats: with weights given, the caller normalises.
    Returns (float, {name: array}); the dict is empty without want_grads.
    """
    _check_tokens(cfg, tokens)
    _check_tokens(cfg, np.maximum(targets, 0), "targets")
    wte = params["wte.weight"]
    weights, targets = _as_weights(targets, weights, wte.dtype)

    def part(rows):
        x, cache = _trunk_forward(params, cfg, tokens[rows])
        loss, dx, dwte = _head_loss(x, wte, targets[rows].ravel(), weights[rows].ravel(), want_grads)
        if not want_grads:
            return loss, {}
        grads = _trunk_backward(dx, params, cfg, cache)
        grads["wte.weight"] += dwte                     # the embedding and the head are one matrix
        return loss, grads

    (loss, grads), *others = _over_rows(part, len(tokens))
    for more_loss, more in others:
        loss += more_loss
        for k in grads:
            grads[k] += more[k]
    return loss, grads


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
    _check_tokens(cfg, tokens)
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
    parts = _over_rows(lambda r: _decode_rows(params, cfg, tokens[r], cache.rows(r), n_new[r], only_last), B)
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
        q, k, v = _split_heads(qkv, cfg.n_head)
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


SAFETENSORS_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
                      "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "BF16": "<u2"}


def save_safetensors(path, tensors, metadata=None):
    """Write {name: array} in safetensors format, whole or not at all: a temporary name, then a rename.

    Layout: u64 header length | JSON header | the arrays, little-endian, back to back. The header is padded
    with spaces to a multiple of 8, so that every float array begins on an aligned byte.
    """
    header, offset, arrays = {"__metadata__": metadata or {}}, 0, []
    codes = {np.dtype(v): k for k, v in SAFETENSORS_DTYPES.items() if k != "BF16"}
    for name, array in tensors.items():
        array = np.asarray(array, order="C")
        header[name] = {"dtype": codes[array.dtype], "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
        arrays.append(array)
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    tmp = Path(f"{path}.tmp")
    with open(tmp, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for array in arrays:
            f.write(array.reshape(-1).view(np.uint8).data)
    os.replace(tmp, path)


def load_safetensors(path):
    """({name: read-only array mapped from the file}, metadata). BF16 is widened to float32.

    ValueError if the file is not well formed: cut short, holes or overlaps between tensors, sizes that
    disagree with shapes, a dtype we do not know.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        head = f.read(8)
        n = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= n <= min(size - 8, 100_000_000):
            raise ValueError(f"{path}: not a safetensors file (header length {n}, file of {size} bytes)")
        text = f.read(n)
    try:
        header = json.loads(text.decode("utf-8"))
        metadata = header.pop("__metadata__", {})
        spans = sorted((*info["data_offsets"], name) for name, info in header.items())
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as e:
        raise ValueError(f"{path}: bad safetensors header: {e}") from None
    data, tensors, end = np.memmap(path, np.uint8, "r") if size else None, {}, 0
    for a, b, name in spans:
        info = header[name]
        dtype, shape = SAFETENSORS_DTYPES.get(info["dtype"]), tuple(info["shape"])
        if dtype is None:
            raise ValueError(f"{path}: {name} has dtype {info['dtype']}, which this reader does not know")
        need = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if a != end or b - a != need or 8 + n + b > size:
            raise ValueError(f"{path}: {name} spans bytes {a}..{b}, expected to begin at {end}, hold {need} and end "
                             f"within {size - 8 - n}: truncated or overlapping; copy or save the file again")
        end = b
        array = data[8 + n + a:8 + n + b].view(dtype).reshape(shape)
        tensors[name] = (array.astype("<u4") << 16).view("<f4") if info["dtype"] == "BF16" else array
    if 8 + n + end != size:
        raise ValueError(f"{path}: {size} bytes, the header accounts for {8 + n + end}; copy or save the file again")
    return tensors, metadata


def write_text(path, text):
    """Write a small text file whole or not at all."""
    tmp = Path(f"{path}.tmp")
    tmp.write_text(text, encoding="utf-8")
    os.replace(tmp, path)


def save_config(folder, cfg):
    """config.json as Hugging Face transformers reads it."""
    write_text(Path(folder) / "config.json", json.dumps({
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "torch_dtype": "float32",
        "n_ctx": cfg.n_positions, **vars(cfg)}, indent=2) + "\n")


def save(folder, params, cfg):
    """Write a Hugging Face GPT-2 folder. model.safetensors comes last: where it is, the folder is whole."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_config(folder, cfg)
    save_safetensors(Path(folder) / "model.safetensors", params, {"format": "pt"})


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
    config = json.loads(path.read_text(encoding="utf-8"))
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
    tensors, _ = load_safetensors(path)
    tensors = {k.removeprefix("transformer."): v for k, v in tensors.items()}
    params = {}
    for name, shape in param_shapes(cfg).items():
        if name not in tensors:
            raise ValueError(f"{path}: has no tensor {name}, which config.json's {cfg.n_layer} layers need")
        if tensors[name].shape != shape:
            raise ValueError(f"{path}: {name} has shape {tensors[name].shape}, config.json says {shape}")
        params[name] = np.array(tensors[name], np.float32)
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
    except (ValueError, OSError) as e:
        sys.exit(f"gpt.py: error: {e}")
