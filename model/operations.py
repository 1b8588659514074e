"""operations.py: gpt.py's operations for NumPy at full speed: results go to given arrays, in blocks that stay in cache.

The functions have the names and the meanings of gpt.py's, which are their specification, and kernels/ has them for a GPU.
"""

import functools

from model import cores                                            # before numpy, whose BLAS it sets up  # noqa: F401
from model.checks import check_array, check_ids, check_out, check_shape
import numpy as np

QUERY_BLOCK = 64        # attention works on this many queries at a time and never touches later keys
BLOCK_FLOATS = 131072   # element-wise work goes in blocks of rows this large: 512 KB stays in a core's L2


def row_blocks(x):
    """Slices of x's rows, each small enough that several passes over it stay in cache."""
    step = max(1, BLOCK_FLOATS // x.shape[-1])
    return [slice(i, min(i + step, len(x))) for i in range(0, len(x), step)]


# ---------------------------------------------------------------------------------------------- operations
# Rows are flattened: x is (N,C) wherever positions do not interact. `dx` is dLoss/dx, of x's shape.
# `out` is where results go, NumPy's way: training passes arrays of its arena, anyone else passes nothing.
# With `add`, gradients of parameters are added to what their arrays in `out` hold.


def embedding_forward(tokens, positions, wte, wpe, out=None):   # (B,T) int twice, (V,C), (n_positions,C) -> (N,C)
    check_ids("embedding_forward: tokens", tokens, len(wte), "the table")
    check_ids("embedding_forward: positions", positions, len(wpe), "the table")
    check_shape("embedding_forward: positions", positions, tokens.shape)
    x = np.take(wte, tokens.ravel(), axis=0, out=out, mode="clip")      # "raise" would copy
    x += wpe[positions.ravel()]
    return x


def embedding_backward(dx, indices, dtable):            # (N,C), (N,) int, adds to (V,C)
    """Row v of the table's gradient is the sum of dx over the places where v was looked up.

    Sorting brings equal indices together, so each sum is one reduce in a fixed order: same bits every time.
    """
    check_ids("embedding_backward: indices", indices, len(dtable), "the table")
    check_shape("embedding_backward: dx", dx, (len(indices), dtable.shape[1]))
    order = np.argsort(indices, kind="stable")
    values, starts = np.unique(indices[order], return_index=True)
    dtable[values] += np.add.reduceat(dx[order], starts, axis=0)


def layernorm_forward(x, w, b, eps=1e-5, out=None, plus=None):          # (N,C), (C,), (C,) -> (N,C), cache
    """y = n * w + b with n = (x - mean(x)) * rstd(x): every row at mean 0 and variance 1, then scaled and shifted.
    With plus (N,C), what a branch adds to the stream: first x += plus, in place."""
    check_array("layernorm_forward: x", x)
    C = x.shape[1]
    y, n, rstd = out or (np.empty_like(x), np.empty_like(x), np.empty((len(x), 1), x.dtype))
    if plus is not None:
        check_shape("layernorm_forward: plus", plus, x.shape)
    if out:
        check_out("layernorm_forward", n, apart=(y,), in_place=(x, plus))
        check_out("layernorm_forward", y, in_place=(x, plus))
    mean_of = np.full((C, 1), 1.0 / C, x.dtype)         # a product with it is the fastest mean of short rows
    for r in row_blocks(x):
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
    check_shape("layernorm_backward: dy", dy, n.shape)
    if plus is not None:
        check_shape("layernorm_backward: plus", plus, dy.shape)
    if out:
        check_out("layernorm_backward", dx, apart=(dw, db), in_place=(dy, n, plus))
        check_out("layernorm_backward", dw, apart=(w, db))
    mean_w = (w / dy.shape[1])[:, None]
    if not add:
        dw[...], db[...] = 0.0, 0.0
    for r in row_blocks(dy):
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


def linear_forward(x, w, b, out=None):                  # (N,C), (C,F), (F,) -> (N,F)
    y = np.matmul(x, w, out=out)
    y += b
    return y


def linear_backward(dy, x, w, out=None, add=False):     # (N,F), (N,C), (C,F) -> (N,C), (C,F), (F,)
    """dx = dy w^T,  dw = x^T dy,  db = the sum of dy's rows. In out, x itself may be the place of dx."""
    dx, dw, db = out or (None, None, None)
    if add and (dw is None or db is None):
        raise ValueError("linear_backward: add needs out, the arrays that hold what is added to")
    check_out("linear_backward", dw, apart=(dy, w, db))        # dx is written last
    check_out("linear_backward", db, apart=(dy,))
    ones = np.ones(len(dy), dy.dtype)                   # a product with it is the fastest column sum
    if add:
        dw += x.T @ dy
        db += ones @ dy
    else:
        dw, db = np.matmul(x.T, dy, out=dw), np.matmul(ones, dy, out=db)
    return np.matmul(dy, w.T, out=dx), dw, db


GELU_K, GELU_C = 0.7978845608028654, 0.044715           # sqrt(2/pi); the cubic term of the tanh approximation


def gelu_forward(x, out=None):                          # (N,F) -> (N,F), cache
    """y = x s with s = (1 + tanh(k (x + c x^3))) / 2, the form GPT-2 was trained with.

    The cache is dy/dx, taken while x and s are at hand: half the memory of keeping both for the backward.
        dy/dx = s + x ds/dx = s + x s (1 - s) 2k (1 + 3 c x^2)
    `out` may be (y, x): then the derivative takes x's place.
    """
    check_array("gelu_forward: x", x)
    y, slope = out or (np.empty_like(x), np.empty_like(x))
    if out:
        check_out("gelu_forward", y, apart=(slope,), in_place=(x,))
        check_out("gelu_forward", slope, in_place=(x,))
    for r in row_blocks(x):
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


def heads(qkv, n_head):                                # (B,T,3C) -> three (B,NH,T,HS), views without a copy
    B, T, C3 = qkv.shape
    return qkv.reshape(B, T, 3, n_head, C3 // 3 // n_head).transpose(2, 0, 3, 1, 4)


def _sequence_blocks(B, T, n_head):
    """Slices of the batch, so many sequences that a block of their scores stays in cache."""
    step = max(1, BLOCK_FLOATS // (n_head * min(T, QUERY_BLOCK) * T))
    return [slice(i, min(i + step, B)) for i in range(0, B, step)]


@functools.lru_cache(maxsize=16)
def causal_mask(T, dtype):                             # (T,T): 0 on and below the diagonal, -inf above
    mask = np.triu(np.full((T, T), -np.inf, dtype), k=1)
    mask.flags.writeable = False                        # every caller gets the same one
    return mask


def attention_forward(qkv, n_head, out=None, hidden=None):      # (B,T,3C) -> (B,T,C), cache
    """o_i = sum_{j<=i} p_ij v_j, with p_i = softmax_j(s_ij) and s_ij = q_i . k_j / sqrt(HS), over the keys up to i. hidden: see segments.

    Queries go in blocks, and a block never looks at keys later than its last query: half of the square is not
    computed. Kept for the backward: lse, the log of each row's sum of exp(s), (B,NH,T,1). The probabilities
    are exp(s - lse), quicker to make again than to keep.
    """
    check_array("attention_forward: qkv", qkv)
    B, T, C3 = qkv.shape
    C = C3 // 3
    scale, mask = float((C // n_head) ** -0.5), causal_mask(min(T, QUERY_BLOCK), qkv.dtype)
    o, lse = out or (np.empty((B, T, C), qkv.dtype), np.empty((B, n_head, T, 1), qkv.dtype))
    if hidden is not None:
        check_shape("attention_forward: hidden", hidden, (B, T, T))
    if out:                                             # qkv is what the backward reads as well
        check_out("attention_forward", o, apart=(qkv, lse))
        check_out("attention_forward", lse, apart=(qkv,))
    for b in _sequence_blocks(B, T, n_head):
        q, k, v = heads(qkv[b], n_head)
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


def attention_backward(do, cache, n_head, out=None, hidden=None):       # (B,T,C) -> (B,T,3C); out may be qkv itself (not on a GPU)
    qkv, o, lse = cache
    B, T, C3 = qkv.shape
    C = C3 // 3
    scale, mask = float((C // n_head) ** -0.5), causal_mask(min(T, QUERY_BLOCK), qkv.dtype)
    dqkv = np.empty((B, T, C3), qkv.dtype) if out is None else out
    check_shape("attention_backward: do", do, o.shape)
    if hidden is not None:
        check_shape("attention_backward: hidden", hidden, (B, T, T))
    if out is not None:
        check_out("attention_backward", out, apart=(do, o, lse), in_place=(qkv,))
    for b in _sequence_blocks(B, T, n_head):
        q, k, v = heads(qkv[b], n_head)
        dq, dk_out, dv_out = heads(dqkv[b], n_head)    # views: writing to them fills dqkv
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
    check_shape("cross_entropy_forward: targets", targets, logits.shape[:1])
    check_ids("cross_entropy_forward: targets", targets, logits.shape[1], "the logits' vocabulary")
    nll, total = np.empty(len(logits), logits.dtype), np.empty(len(logits), logits.dtype)
    for r in row_blocks(logits):
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
    check_shape("cross_entropy_backward: weights", weights, total.shape)
    if not total.all():
        raise ValueError("cross_entropy_backward: the cache is used up; its logits are a gradient now")
    scale = (weights / total)[:, None]
    total[...] = 0.0                                    # marks it: exp(0) is the largest of its terms
    for r in row_blocks(e):                            # d nll/dlogits = softmax - onehot(target)
        d = e[r]
        d *= scale[r]
        d[np.arange(len(d)), targets[r]] -= weights[r]
    return e
