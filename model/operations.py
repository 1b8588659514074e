"""operations.py: gpt.py's operations for NumPy at full speed. kernels/ has them for a GPU.

The functions have the names and the meanings of gpt.py's, which are their definitions. What
differs: rows are flattened, x is (N,C) with N = B * T wherever positions do not interact. `out` is
where results go, NumPy's way: training passes arrays that lie ready, anyone else passes nothing.
With `add`, the gradients of parameters are added to what their arrays in `out` hold; None in the
place of such an array is of a parameter that is frozen. A cache holds what is quickest to read,
which is not always what the definition keeps. Arguments are not checked here: the functions of
model/fast.py check theirs.

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
    """(B,T) int twice, (V,C), (P,C) or None -> (N,C)"""
    if isinstance(wte, np.ndarray):
        x = np.take(wte, tokens.ravel(), axis=0, out=out, mode="clip")  # "raise" would copy
    else:
        x = given(wte[tokens.ravel()], out)
    if wpe is not None:
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
    # forward was: y = n * w + b
    t = dy * n
    if dw is not None:
        if not add:
            dw[...], db[...] = 0.0, 0.0
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


def rmsnorm_forward(x, w, eps, out=None, plus=None):
    """llama.rmsnorm_forward: (N,C), (C,) -> (N,C), cache. First x += plus, as in layernorm_forward.

    w may be (HS,) for rows of several heads, (N,heads*HS): then each head is normed by itself.
    """
    (N, C), HS = x.shape, len(w)
    by_head = N, C // HS, HS
    y, n, rrms = out or (np.empty_like(x), np.empty_like(x), np.empty(by_head[:2], x.dtype))
    if plus is not None:
        x += plus
    x, y_heads, n_heads = x.reshape(by_head), y.reshape(by_head), n.reshape(by_head)
    mean_square = np.einsum("nhc,nhc->nh", x, x) / HS
    rrms[...] = 1.0 / np.sqrt(mean_square + eps)
    np.multiply(x, rrms[..., None], out=n_heads)
    np.multiply(n_heads, w, out=y_heads)
    return y, (n, rrms, w)


def rmsnorm_backward(dy, cache, plus=None, out=None, add=False):
    """llama.rmsnorm_backward: (N,C) -> plus + dx (N,C), dw. dx may take the place of dy."""
    n, rrms, w = cache
    (N, C), HS = dy.shape, len(w)
    by_head = N, C // HS, HS
    dx, dw = out or (np.empty_like(dy), np.empty_like(w))
    n, dy_heads = n.reshape(by_head), dy.reshape(by_head)
    # forward was: y = n * w
    if dw is not None:
        if not add:
            dw[...] = 0.0
        dw += np.einsum("nhc,nhc->c", dy_heads, n)
    dn = dy_heads * w
    # forward was: n = x * rrms(x)
    along_n = np.einsum("nhc,nhc->nh", dn, n) / HS
    dn -= n * along_n[..., None]
    dn *= rrms[..., None]
    np.add(dn.reshape(N, C), 0.0 if plus is None else plus, out=dx)
    return dx, dw


def product(x, w, out=None):
    """x @ w, where w may be frozen in bfloat16: then some of it is widened at a time."""
    if isinstance(w, np.ndarray):
        return np.matmul(x, w, out=out)
    return given(x @ w, out)


def given(found, out):
    """A result, in its place where there is one."""
    if out is None:
        return found
    out[...] = found
    return out


def linear_forward(x, w, b=None, out=None):
    """(N,C), (C,F), (F,) or None -> (N,F)"""
    y = product(x, w, out)
    if b is not None:
        y += b
    return y


def linear_backward(dy, x, w, out=None, add=False):
    """(N,F), (N,C), (C,F) -> dx (N,C), dw (C,F), db (F,). dx may take the place of x.

    A layer without a bias gives None as the place of db.
    """
    dx, dw, db = out or (None, np.empty(w.shape, dy.dtype), np.empty(w.shape[1], dy.dtype))
    ones = np.ones(len(dy), dy.dtype)
    if dw is not None and add:
        dw += x.T @ dy
    elif dw is not None:
        np.matmul(x.T, dy, out=dw)
    if db is not None and add:
        db += ones @ dy
    elif db is not None:
        np.matmul(ones, dy, out=db)
    return product(dy, w.T, dx), dw, db                 # dx last: it may lie over x


def lora_forward(x, A, B, scale, y):
    """What lora.linear_forward adds to y = x w, in place: (N,C), (C,r), (r,F), y (N,F)"""
    low = x @ A
    low *= scale
    return add_product(low, B, y)


def lora_backward(dy, x, A, B, scale, out, add=False):
    """lora.linear_backward, but for dx: (N,F), (N,C) -> dlow (N,r). out: the places of dA and dB.

    dx is dy w^T + dlow A^T, and x may be gone by then. x A is computed again: with r columns, it
    costs less than it would to keep.
    """
    dA, dB = out
    low = x @ A
    low *= scale
    # forward was: y = x w + low B
    dlow = dy @ B.T
    dlow *= scale
    if add:
        dB += low.T @ dy
        dA += x.T @ dlow
    else:
        np.matmul(low.T, dy, out=dB)
        np.matmul(x.T, dlow, out=dA)
    return dlow


def add_product(x, w, y, w_t=False):
    """y += x w, in place, some rows at a time: what is added stays in cache. (N,r), (r,F), (N,F)

    With w_t it is the transpose of w.
    """
    w = w.T if w_t else w
    for r in row_blocks(y):
        y[r] += x[r] @ w
    return y


def add_to(x, more):
    """x += more, in place. On a GPU, += does not know bfloat16."""
    x += more
    return x


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


def swiglu_forward(h, out=None):
    """llama.swiglu_forward of h (N,2F), gate and up side by side -> (N,F)"""
    F = h.shape[1] // 2
    u = np.empty((len(h), F), h.dtype) if out is None else out
    for r in row_blocks(h):
        gate, up = h[r, :F], h[r, F:]
        np.multiply(gate, sigmoid(gate), out=u[r])
        u[r] *= up
    return u


def swiglu_backward(du, h, out=None):
    """(N,F) -> dh (N,2F), which may take the place of h"""
    F = du.shape[1]
    dh = np.empty_like(h) if out is None else out
    for r in row_blocks(h):
        gate, up = h[r, :F], h[r, F:]
        s = sigmoid(gate)
        # forward was: u = silu(gate) * up with silu(a) = a sigmoid(a)
        silu = gate * s
        slope = 1.0 - s                                 # silu' = s + silu (1 - s)
        slope *= silu
        slope += s
        slope *= up
        np.multiply(du[r], slope, out=dh[r, :F])
        np.multiply(du[r], silu, out=dh[r, F:])
    return dh


def sigmoid(x):
    """1 / (1 + e^-x). Where e^-x overflows the result is 0, which is right."""
    with np.errstate(over="ignore"):
        y = np.exp(-x)
    y += 1.0
    return np.reciprocal(y, out=y)


def rotary_forward(qkv, positions, table, n_turned):
    """llama.rotary_forward of the first n_turned heads of each row, in place.

    qkv (N,heads*HS), positions (B,T) int, table (P,HS): the cosines and the sines of each position.
    """
    angles = table[positions.ravel()]
    for r in row_blocks(qkv):
        turn(qkv[r], rotary_factors(angles[r]), n_turned)


def rotary_backward(dqkv, positions, table, n_turned):
    """By the same angle back."""
    angles = table[positions.ravel()]
    for r in row_blocks(dqkv):
        cos, sin = rotary_factors(angles[r])
        turn(dqkv[r], (cos, -sin), n_turned)


def rotary_factors(angles):
    """Cosines and sines (N,HS) -> what turn() takes: (cos, cos) and (-sin, sin), (N,1,2,HS/2)"""
    cos, sin = np.split(angles[:, None, None], 2, axis=-1)
    return np.concatenate([cos, cos], axis=2), np.concatenate([-sin, sin], axis=2)


def turn(x, factors, n_turned):
    """Turn the first heads of x (N,heads*HS) in place: (a, b) * cos + (b, a) * (-sin, sin)."""
    cos, sin = factors
    N, _, _, half = cos.shape
    turned = x[:, : 2 * half * n_turned].reshape(N, n_turned, 2, half)
    crossed = turned[:, :, ::-1] * sin
    turned *= cos
    turned += crossed


def heads(qkv, n_head, n_kv_head):
    """q (B,NH,T,HS), k and v (B,NKV,T,HS) of qkv (B,T,(NH+2NKV)*HS): views without a copy"""
    B, T, width = qkv.shape
    n_heads = n_head + 2 * n_kv_head
    of_all = qkv.reshape(B, T, n_heads, width // n_heads).swapaxes(1, 2)
    end_of_keys = n_head + n_kv_head
    return of_all[:, :n_head], of_all[:, n_head:end_of_keys], of_all[:, end_of_keys:]


def grouped(x, n_kv_head):
    """The rows of all query heads that share a key head under each other.

    (B,NH,T,n) -> (B,NKV,G*T,n) with NH = NKV * G. So a group is one matrix product, and a product
    that ends in keys sums over its group.
    """
    B, _, _, n = x.shape
    return x.reshape(B, n_kv_head, -1, n)


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
    first = t1 - len(seen)              # if they are one run
    return slice(first, t1) if seen[0] == first else seen


def _hide(s, t0, keys, hidden):
    """Add -inf to the scores s (B,NH,queries,keys) of keys that queries from t0 must not see."""
    n = s.shape[2]
    if hidden is None:                  # keys before t0 are the past of every query here
        s[..., t0:] += causal_mask(n, s.dtype)
    else:
        s += hidden[:, None, t0 : t0 + n, keys]


def attention_forward(qkv, n_head, out=None, hidden=None, n_kv_head=None):
    """(B,T,(NH+2NKV)*HS) -> (B,T,NH*HS), cache. n_kv_head: NKV, where it is not NH.

    hidden: of segments_hidden, or None for one text a row. Queries go in blocks, and a block never
    looks at keys later than its last query: half of the square is not computed. Nor does it look
    at keys that are hidden from all of its queries.
    """
    B, T, width = qkv.shape
    n_kv = n_kv_head or n_head
    HS = width // (n_head + 2 * n_kv)
    o, lse = out or (
        np.empty((B, T, n_head * HS), qkv.dtype),
        np.empty((B, n_head, T, 1), qkv.dtype),
    )
    for b in _sequence_blocks(B, T, n_head):
        q, k, v = heads(qkv[b], n_head, n_kv)
        hidden_b = None if hidden is None else hidden[b]
        o_heads = o[b].reshape(-1, T, n_head, HS).swapaxes(1, 2)    # a view: writing fills o
        for t0 in range(0, T, QUERY_BLOCK):
            t1 = min(t0 + QUERY_BLOCK, T)
            keys = _keys_seen(t0, t1, hidden_b)
            q_t = q[:, :, t0:t1] * float(HS**-0.5)
            s = grouped(q_t, n_kv) @ k[:, :, keys].swapaxes(-1, -2)
            s = s.reshape(*q_t.shape[:3], -1)
            _hide(s, t0, keys, hidden_b)
            largest = s.max(-1, keepdims=True)
            s -= largest
            p = np.exp(s, out=s)
            total = np.einsum("bhqk->bhq", p)[..., None]
            o_t = grouped(p, n_kv) @ v[:, :, keys]
            np.divide(o_t.reshape(q_t.shape), total, out=o_heads[:, :, t0:t1])
            np.add(largest, np.log(total), out=lse[b, :, t0:t1])
    return o, (qkv, o, lse)


def attention_backward(do, cache, n_head, out=None, hidden=None, n_kv_head=None):
    """(B,T,NH*HS) -> (B,T,(NH+2NKV)*HS). out may be qkv itself (but not on a GPU)."""
    qkv, o, lse = cache
    B, T, _ = qkv.shape
    n_kv = n_kv_head or n_head
    dqkv = np.empty_like(qkv) if out is None else out
    for b in _sequence_blocks(B, T, n_head):
        do_heads, o_heads = (a[b].reshape(-1, T, n_head, do.shape[2] // n_head).swapaxes(1, 2)
                             for a in (do, o))
        _sequences_backward(
            heads(dqkv[b], n_head, n_kv), do_heads, o_heads, heads(qkv[b], n_head, n_kv), lse[b],
            None if hidden is None else hidden[b],
        )
    return dqkv


def _sequences_backward(places, do, o, qkv, lse, hidden):
    """Write dq, dk and dv to places, which may be qkv: (B,NH,T,HS), (B,NKV,T,HS) twice."""
    q, k, v = qkv
    n_kv, T, scale = k.shape[1], do.shape[2], float(do.shape[3] ** -0.5)
    dq, dk_place, dv_place = places
    dk, dv = np.zeros(k.shape, k.dtype), np.zeros(v.shape, v.dtype)
    D = np.einsum("bhtd,bhtd->bht", do, o)[..., None]   # sum_j p_ij dp_ij, as in gpt.py
    for t0 in reversed(range(0, T, QUERY_BLOCK)):
        t1 = min(t0 + QUERY_BLOCK, T)
        keys = _keys_seen(t0, t1, hidden)
        q_t, do_t = q[:, :, t0:t1] * scale, do[:, :, t0:t1]
        q_group, do_group = grouped(q_t, n_kv), grouped(do_t, n_kv)
        k_t, v_t = k[:, :, keys], v[:, :, keys]
        s = (q_group @ k_t.swapaxes(-1, -2)).reshape(*q_t.shape[:3], -1)
        _hide(s, t0, keys, hidden)
        s -= lse[:, :, t0:t1]                           # no score is above it: no overflow
        p = np.exp(s, out=s)
        p_group = grouped(p, n_kv)
        # forward was: o = p v
        dp = (do_group @ v_t.swapaxes(-1, -2)).reshape(p.shape)
        dv[:, :, keys] += p_group.swapaxes(-1, -2) @ do_group
        # forward was: p = softmax(s)
        dp -= D[:, :, t0:t1]
        ds = np.multiply(dp, p, out=dp)
        ds_group = grouped(ds, n_kv)
        # forward was: s = (scale q) k^T
        dk[:, :, keys] += ds_group.swapaxes(-1, -2) @ q_group
        np.multiply((ds_group @ k_t).reshape(q_t.shape), scale, out=dq[:, :, t0:t1])
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
