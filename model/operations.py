"""operations.py: gpt.py's operations for NumPy at full speed. kernels/ has them for a GPU.

The functions have the names and the meanings of gpt.py's, which are their definitions. What
differs: rows are flattened, x is (N,C) with N = B * T wherever positions do not interact. `out` is
where results go, NumPy's way: training passes arrays that lie ready, anyone else passes nothing.
With `add`, the gradients of parameters are added to what their arrays in `out` hold. A cache holds
what is quickest to read, which is not always what the definition keeps. Arguments are not checked
here: the functions of model/fast.py check theirs.

Sums are matrix products and einsum where NumPy's own are slower: a column sum is a product with
ones, a mean of rows one with 1 / C. docs/log.md has what each trick saves.
"""

import functools

from model import cores     # noqa: F401        before numpy, whose BLAS it sets up
import numpy as np

QUERY_BLOCK = 64        # attention takes so many queries at a time, and never touches later keys
BLOCK_FLOATS = 131072   # numbers that several passes go over at a time: 512 KB stay in a core's L2


def row_blocks(x):
    """Slices of x's rows, so few that BLOCK_FLOATS holds them: they stay in cache."""
    step = max(1, BLOCK_FLOATS // x.shape[-1])
    return [slice(i, min(i + step, len(x))) for i in range(0, len(x), step)]


def embedding_forward(tokens, positions, wte, wpe, out=None):
    """(B,T) int twice, (V,C), (P,C) -> (N,C)"""
    x = np.take(wte, tokens.ravel(), axis=0, out=out, mode="clip")      # "raise" would copy
    x += wpe[positions.ravel()]
    return x


def embedding_backward(dx, indices, dtable):
    """Add dx (N,C) to the rows of one table that were looked up: indices (N,) int, dtable (V,C).

    Rows of the same index are sorted side by side and summed in one call. np.add.at, which takes
    them one by one, takes 2 to 4 times as long: 2 to 4 % of a step of a small model.
    """
    order = indices.argsort(kind="stable")
    in_order = indices[order]
    begins = np.flatnonzero(np.diff(in_order, prepend=-1))      # where each index is first met
    dtable[in_order[begins]] += np.add.reduceat(dx[order], begins, axis=0)


def layernorm_forward(x, w, b, eps=1e-5, out=None, plus=None):
    """(N,C), (C,), (C,) -> (N,C), cache. First x += plus (N,C), in place, where it is given."""
    C = x.shape[1]
    y, n, rstd = out or (
        np.empty_like(x),
        np.empty_like(x),
        np.empty((len(x), 1), x.dtype),
    )
    if plus is not None:
        x += plus
    mean_of = np.full((C, 1), 1.0 / C, x.dtype)
    np.subtract(x, x @ mean_of, out=n)
    np.multiply(n, n, out=y)
    rstd[...] = 1.0 / np.sqrt(y @ mean_of + eps)
    n *= rstd
    np.multiply(n, w, out=y)
    y += b
    return y, (n, rstd, w)


def layernorm_backward(dy, cache, plus=None, out=None, add=False):
    """(N,C) -> plus + dx (N,C), dw (C,), db (C,). plus: what comes down beside the branch."""
    n, rstd, w = cache
    dx, dw, db = out or (
        np.empty_like(dy),
        np.empty_like(w),
        np.empty_like(w),
    )
    if not add:
        dw[...], db[...] = 0.0, 0.0
    # forward was: y = n * w + b
    t = dy * n
    ones = np.ones(len(dy), dy.dtype)
    dw += ones @ t
    db += ones @ dy
    # forward was: n = (x - mean(x)) * rstd(x)
    mean_of_w = (w / dy.shape[1])[:, None]              # (C,1): a @ mean_of_w is mean(a * w)
    along_1, along_n = dy @ mean_of_w, t @ mean_of_w
    d = dy * w
    d -= along_1
    np.multiply(n, along_n, out=t)
    d -= t
    d *= rstd
    np.add(d, 0.0 if plus is None else plus, out=dx)
    return dx, dw, db


def linear_forward(x, w, b, out=None):
    """(N,C), (C,F), (F,) -> (N,F)"""
    y = np.matmul(x, w, out=out)
    y += b
    return y


def linear_backward(dy, x, w, out=None, add=False):
    """(N,F), (N,C), (C,F) -> dx (N,C), dw (C,F), db (F,). dx may take the place of x."""
    dx, dw, db = out or (None, None, None)
    ones = np.ones(len(dy), dy.dtype)
    if add:
        dw += x.T @ dy
        db += ones @ dy
    else:
        dw, db = np.matmul(x.T, dy, out=dw), np.matmul(ones, dy, out=db)
    return np.matmul(dy, w.T, out=dx), dw, db           # dx last: it may lie over x


GELU_K, GELU_C = 0.7978845608028654, 0.044715           # sqrt(2 / pi), and the cubic term


def gelu_forward(x, out=None):
    """(N,F) -> (N,F), cache. out is (y, slope), and slope may take the place of x.

    The cache is slope = dy/dx, taken while all that it needs is at hand, which halves the memory.
    The nine passes go over some rows at a time, which also keeps what lies between them small.
        y = x s with s = (1 + tanh(k (x + c x^3))) / 2
        dy/dx = s + x ds/dx = s + x s (1 - s) 2k (1 + 3 c x^2)
    """
    y, slope = out or (np.empty_like(x), np.empty_like(x))
    for r in row_blocks(x):
        x_r, y_r, slope_r = x[r], y[r], slope[r]
        s = x_r * x_r
        d = s * (6.0 * GELU_K * GELU_C)
        d += 2.0 * GELU_K                               # 2k (1 + 3 c x^2)
        s *= GELU_K * GELU_C
        s += GELU_K
        s *= x_r
        np.tanh(s, out=s)
        s *= 0.5
        s += 0.5
        np.multiply(x_r, s, out=y_r)
        d *= y_r                                        # x s 2k (1 + 3 c x^2)
        np.subtract(1.0, s, out=slope_r)
        d *= slope_r
        np.add(d, s, out=slope_r)
    return y, slope


def gelu_backward(dy, slope, out=None):
    """(N,F) -> (N,F)"""
    return np.multiply(dy, slope, out=out)


def heads(qkv, n_head):
    """(B,T,3C) -> q, k and v as one array (3,B,NH,T,HS), a view without a copy"""
    B, T, C3 = qkv.shape
    return qkv.reshape(B, T, 3, n_head, C3 // 3 // n_head).transpose(2, 0, 3, 1, 4)


def _sequence_blocks(B, T, n_head):
    """Slices of the batch, so few sequences that a block of their scores stays in cache."""
    step = max(1, BLOCK_FLOATS // (n_head * min(T, QUERY_BLOCK) * T))
    return [slice(i, min(i + step, B)) for i in range(0, B, step)]


@functools.lru_cache(maxsize=16)
def causal_mask(T, dtype):
    """(T,T): 0 on and below the diagonal, -inf above. Read-only: every caller gets the same."""
    mask = np.triu(np.full((T, T), -np.inf, dtype), k=1)
    mask.flags.writeable = False
    return mask


def segments_hidden(segments, dtype):
    """What attention adds to the scores of rows of several texts, each as if alone.

    (B,T) int -> (B,T,T): 0 where query i sees key j, else -inf. A key is seen by later queries of
    its own segment. Segment 0, the beginning that the texts share, is seen by those of all. Any
    integer names a segment: -1 may be what pads a row.
    """
    T = segments.shape[1]
    seen = (segments[:, :, None] == segments[:, None]) | (segments[:, None] == 0)
    return np.where(seen & np.tri(T, dtype=bool), 0, -np.inf).astype(dtype)


def _keys_seen(t0, t1, hidden):
    """The keys, a slice or their numbers, that one of the queries t0 to t1 at least may see.

    Of several texts in a row, a block of queries looks at its own and at the beginning that they
    share. In a row of 256 tokens with six texts, that saves half of attention.
    """
    if hidden is None:
        return slice(0, t1)
    seen = np.flatnonzero(hidden[:, t0:t1, :t1].max((0, 1)) == 0.0)
    return slice(t1 - len(seen), t1) if seen[0] == t1 - len(seen) else seen


def _hide(s, t0, keys, hidden):
    """Add -inf to the scores s (B,NH,queries,keys) of keys that queries from t0 must not see."""
    n = s.shape[2]
    if hidden is None:                  # keys before t0 are the past of every query here
        s[..., t0:] += causal_mask(n, s.dtype)
    else:
        s += hidden[:, None, t0 : t0 + n, keys]


def attention_forward(qkv, n_head, out=None, hidden=None):
    """(B,T,3C) -> (B,T,C), cache. hidden: of segments_hidden, or None for one text a row.

    Queries go in blocks, and a block never looks at keys later than its last query: half of the
    square is not computed. Nor does it look at keys that are hidden from all of its queries.
    """
    B, T, C3 = qkv.shape
    C = C3 // 3
    HS = C // n_head
    o, lse = out or (np.empty((B, T, C), qkv.dtype), np.empty((B, n_head, T, 1), qkv.dtype))
    for b in _sequence_blocks(B, T, n_head):
        q, k, v = heads(qkv[b], n_head)
        hidden_b = None if hidden is None else hidden[b]
        o_heads = o[b].reshape(-1, T, n_head, HS).swapaxes(1, 2)    # a view: writing fills o
        for t0 in range(0, T, QUERY_BLOCK):
            t1 = min(t0 + QUERY_BLOCK, T)
            keys = _keys_seen(t0, t1, hidden_b)
            s = (q[:, :, t0:t1] * float(HS**-0.5)) @ k[:, :, keys].swapaxes(-1, -2)
            _hide(s, t0, keys, hidden_b)
            largest = s.max(-1, keepdims=True)
            s -= largest
            p = np.exp(s, out=s)
            total = np.einsum("bhqk->bhq", p)[..., None]
            o_t = np.matmul(p, v[:, :, keys], out=o_heads[:, :, t0:t1])
            o_t /= total
            np.add(largest, np.log(total), out=lse[b, :, t0:t1])
    return o, (qkv, o, lse)


def attention_backward(do, cache, n_head, out=None, hidden=None):
    """(B,T,C) -> (B,T,3C). out may be qkv itself (but not on a GPU)."""
    qkv, o, lse = cache
    B, T, C3 = qkv.shape
    HS = C3 // 3 // n_head
    dqkv = np.empty((B, T, C3), qkv.dtype) if out is None else out
    for b in _sequence_blocks(B, T, n_head):
        do_heads, o_heads = (a[b].reshape(-1, T, n_head, HS).swapaxes(1, 2) for a in (do, o))
        _sequences_backward(
            heads(dqkv[b], n_head), do_heads, o_heads, heads(qkv[b], n_head), lse[b],
            None if hidden is None else hidden[b],
        )
    return dqkv


def _sequences_backward(places, do, o, qkv, lse, hidden):
    """Write dq, dk and dv to places, which may be qkv. All have heads: (B,NH,T,HS)."""
    q, k, v = qkv
    T, scale = do.shape[2], float(do.shape[3] ** -0.5)
    dq, dk_place, dv_place = places
    dk, dv = np.zeros(k.shape, k.dtype), np.zeros(v.shape, v.dtype)
    D = np.einsum("bhtd,bhtd->bht", do, o)[..., None]   # sum_j p_ij dp_ij, as in gpt.py
    for t0 in reversed(range(0, T, QUERY_BLOCK)):
        t1 = min(t0 + QUERY_BLOCK, T)
        keys = _keys_seen(t0, t1, hidden)
        q_t, do_t = q[:, :, t0:t1] * scale, do[:, :, t0:t1]
        k_t, v_t = k[:, :, keys], v[:, :, keys]
        s = q_t @ k_t.swapaxes(-1, -2)
        _hide(s, t0, keys, hidden)
        s -= lse[:, :, t0:t1]                           # no score is above it: no overflow
        p = np.exp(s, out=s)
        # forward was: o = p v
        dp = do_t @ v_t.swapaxes(-1, -2)
        dv[:, :, keys] += p.swapaxes(-1, -2) @ do_t
        # forward was: p = softmax(s)
        dp -= D[:, :, t0:t1]
        ds = np.multiply(dp, p, out=dp)
        # forward was: s = (scale q) k^T
        dk[:, :, keys] += ds.swapaxes(-1, -2) @ q_t
        np.multiply(ds @ k_t, scale, out=dq[:, :, t0:t1])
    dk_place[...], dv_place[...] = dk, dv


def cross_entropy_forward(logits, targets):
    """(N,V), (N,) int -> (N,), cache. It overwrites logits, which are the largest array of all."""
    z = logits
    z -= z.max(-1, keepdims=True)
    of_targets = z[np.arange(len(z)), targets]
    e = np.exp(z, out=z)
    total = np.einsum("nv->n", e)
    return np.log(total) - of_targets, (e, total, targets)


def cross_entropy_backward(weights, cache):
    """(N,) -> (N,V), in the place of the logits. The cache is used up."""
    e, total, targets = cache                           # softmax(z) = e / total
    scale = (weights / total)[:, None]
    # forward was: nll = -log softmax(z)[target], so dz = softmax(z) - onehot(target)
    dz = np.multiply(e, scale, out=e)
    dz[np.arange(len(dz)), targets] -= weights
    return dz
