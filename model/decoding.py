"""decoding.py: new tokens on their way through a model, past what it has read: model/fast.decode.

One thread walks from layer to layer. Each product is divided over all cores by itself, and so is
what lies between two products where it is large, by rows or by heads.
"""

import functools

from model import cores                     # before numpy, whose BLAS it sets up
from model.cores import in_parallel
from model import families, llama, lora, operations, walk, walk_llama
import numpy as np

GAP = 16 << 10          # bytes: a gap in what is read costs more than to read so many
MANY = 32               # rows: the keys and values of so many do not stay in cache between layers
LARGE = 1 << 17         # numbers: with fewer, a thread more costs what it saves
HEAD_COLUMNS = 512      # of logits at a time: the BLAS's copy of weights stays in cache
JOINED = 16 << 20       # bytes: of larger blocks no weights are joined
ALL = slice(None)


def of(params, cfg, tokens, cache, n_new, n_threads):
    """The Decoding of a model's family."""
    kind = DecodingLlama if families.of(cfg) is llama else DecodingGPT2
    return kind(params, cfg, tokens, cache, n_new, n_threads)


class Decoding:
    """New positions on their way through the model. n_threads: all of the machine's, or 1.

    A family says how x (N,C) begins, and how it gets through a block and the last norm.
    """

    def __init__(self, params, cfg, tokens, cache, n_new, n_threads):
        B, T = tokens.shape
        room = cache.k.shape[3]
        self.params = params
        self.cfg = cfg
        self.tokens = tokens
        self.cache = cache
        self.n_new = n_new
        self.n_threads = n_threads
        self.product = operations.product if n_threads == 1 else cores.product
        longest = int(cache.length.max())
        self.S = min(longest + T, room)
        at = cache.length[:, None] + np.arange(T)
        self.at = np.minimum(at, self.S - 1)                # (B,T)
        counts = np.arange(T) < n_new[:, None]
        self.row, self.column = np.nonzero(counts)          # (n,) of what counts
        self.slot = self.at[self.row, self.column]

    def run(self, only_last):
        """The logits."""
        B, T = self.tokens.shape
        x = self.begin()
        for i in range(self.cfg.n_layer):
            p = self.layer_params(i)
            self.block(x, p, self.cache.k[i], self.cache.v[i])
        if only_last:
            x = x.reshape(B, T, -1)[np.arange(B), self.n_new - 1]
        y = self.norm(x, self.params, "ln_f")
        logits = np.empty((len(y), self.cfg.vocab_size), y.dtype)
        in_parallel(functools.partial(self.head, y, logits), self.n_threads)
        return logits if only_last else logits.reshape(B, T, -1)

    def head(self, y, logits, part):
        """Some columns of the logits."""
        w = self.params[families.head_name(self.cfg)]
        mine = part(self.cfg.vocab_size)
        for begin in range(mine.start, mine.stop, HEAD_COLUMNS):
            end = min(begin + HEAD_COLUMNS, mine.stop)
            at = slice(begin, end)
            logits[:, at] = y @ w[at].T

    def layer_params(self, i):
        """The parameters of block i."""
        return walk.layer_params(self.params, self.cfg, i)

    def linear(self, x, p, layer):
        """A layer's result: (N,in) -> (N,out)"""
        y = self.product(x, p[f"{layer}.weight"])
        return self.add_rest(x, p, layer, y)

    def add_rest(self, x, p, layer, y):
        """y += what a layer adds to its product, where it has a bias or an adapter."""
        b = p.get(f"{layer}.bias")
        if b is not None:
            y += b
        A = p.get(f"{layer}.lora_A")
        if A is not None:
            operations.lora_forward(x, A, p[f"{layer}.lora_B"], p[lora.SCALE], y)
        return y

    def by_rows(self, operation, x, y):
        """operation(x, y) with y as the place of its result: some rows in each thread."""
        def some_rows(part):
            rows = part(len(x))
            operation(x[rows], y[rows])

        in_parallel(some_rows, self.n_threads if x.size >= LARGE else 1)
        return y

    def attention(self, qkv, k_cache, v_cache):
        """o (N,NH*HS). The new keys and values go into the cache.

        Threads divide the rows, or the heads where there are few rows.
        """
        B, T = self.tokens.shape
        n_head = self.cfg.n_head
        n_kv, HS = families.kv_heads(self.cfg)
        q, k, v = operations.heads(qkv.reshape(B, T, -1), n_head, n_kv)
        k_cache[self.row, :, self.slot] = k[self.row, :, self.column]
        v_cache[self.row, :, self.slot] = v[self.row, :, self.column]
        o = np.empty((B, T, n_head, HS), qkv.dtype)
        heads = o.swapaxes(1, 2)                            # a view: writing fills o
        n_parts = self.n_threads if q.size * self.S >= 8 * LARGE else 1

        def some_rows(part):
            at = part(B)
            self.attend(q[at], k_cache[at], v_cache[at], self.at[at], heads[at])

        def some_heads(part):
            of_k = part(n_kv)
            n_group = n_head // n_kv
            of_q = slice(n_group * of_k.start, n_group * of_k.stop)
            places = q[:, of_q], k_cache[:, of_k], v_cache[:, of_k], self.at, heads[:, of_q]
            self.attend(*places)

        in_parallel(some_rows if B >= n_parts else some_heads, n_parts)
        return o.reshape(B * T, -1)

    def attend(self, q, k_cache, v_cache, at, o):
        """Fill o (B,heads,T,HS) of some rows or heads. at (B,T): where the queries stand.

        Queries go in blocks that look at no later keys, as in operations.attention_forward. So
        memory does not grow like T^2, and 4,096 tokens are read in less than half of the time.
        For single queries of many rows, the free places are read too, and hidden, if they are few:
        memory is then read in order. That saves a seventh of the time of 256 replies of 47 tokens.
        """
        B, _, T, HS = q.shape
        room = k_cache.shape[2]
        if q.size == 0:
            return
        for t0 in range(0, T, operations.QUERY_BLOCK):
            t = slice(t0, t0 + operations.QUERY_BLOCK)
            at_t = at[:, None, t, None]                     # (B,1,t,1)
            S = int(at_t.max()) + 1
            if T == 1 and B >= MANY and (room - S) * HS * k_cache.itemsize <= GAP:
                S = room
            q_t = q[:, :, t] * float(HS**-0.5)
            keys = k_cache[:, :, :S]
            s = of_key_heads(q_t, keys.swapaxes(-1, -2))    # (B,heads,t,S)
            later = np.arange(S) > at_t                     # (B,1,t,S) key behind query
            if later.any():
                hidden = np.where(later, -np.inf, 0.0)
                s += hidden.astype(s.dtype)
            s -= s.max(-1, keepdims=True)
            np.exp(s, out=s)
            s /= s.sum(-1, keepdims=True)
            o[:, :, t] = of_key_heads(s, v_cache[:, :, :S])


def of_key_heads(x, w):
    """The product of each query head with the matrix of its key head.

    x (B,NH,t,n), w (B,NKV,n,m) -> (B,NH,t,m)
    A group is one product, as in operations.grouped. But a product with three rows costs twice as
    much as three with one, so single queries go one by one: 32 rows are written in 8 % less time.
    """
    B, NH, t, n = x.shape
    n_kv = w.shape[1]
    if t == 1:
        x = x.reshape(B, n_kv, NH // n_kv, 1, n)
        y = x @ w[:, :, None]
    else:
        y = operations.grouped(x, n_kv) @ w
    return y.reshape(B, NH, t, w.shape[3])


class DecodingGPT2(Decoding):
    """Through gpt.py's blocks."""

    def begin(self):
        """x (N,C) of the new tokens."""
        params = self.params
        wte, wpe = params["wte.weight"], params["wpe.weight"]
        return operations.embedding_forward(self.tokens, self.at, wte, wpe)

    def norm(self, x, p, name):
        """The norm of that name."""
        w = p[f"{name}.weight"]
        b = p[f"{name}.bias"]
        y, _ = operations.layernorm_forward(x, w, b)
        return y

    def block(self, x, p, k_cache, v_cache):
        """gpt.block_forward in place of x (N,C)."""
        a = self.norm(x, p, "ln_1")
        qkv = self.linear(a, p, "attn.c_attn")
        o = self.attention(qkv, k_cache, v_cache)
        x += self.linear(o, p, "attn.c_proj")
        m = self.norm(x, p, "ln_2")
        h = self.linear(m, p, "mlp.c_fc")
        u = self.by_rows(self.gelu, h, np.empty_like(h))
        x += self.linear(u, p, "mlp.c_proj")

    def gelu(self, h, u):
        """Fill u (N,F); h is used up."""
        operations.gelu_forward(h, out=(u, h))


class DecodingLlama(Decoding):
    """Through llama.py's blocks.

    Layers that read the same are one product where blocks are small: the threads of the BLAS meet
    after each, which takes as long as a small product. Their weights are joined for that, and kept
    with the cache, whose keys and values were made by the same weights. A model of 135 million
    parameters takes 0.34 GB more, and writes one row in an eighth less time.
    """

    QKV = ("attn.q", "attn.k", "attn.v")
    GATE_UP = ("mlp.gate", "mlp.up")

    def begin(self):
        """x (N,C) of the new tokens."""
        table = walk_llama.rotary_table(self.cfg, self.S, self.cache.k.dtype)
        self.angles = operations.rotary_factors(table[self.at.ravel()])
        self.forget_other_weights()
        return self.params["wte.weight"][self.tokens.ravel()]

    def forget_other_weights(self):
        """Drop what was joined of a model that has learned since, or of another one."""
        kept = self.cache.joined.get(0)
        p = walk.layer_params(self.params, self.cfg, 0)
        if kept and not np.array_equal(kept[self.QKV][0], join(p, self.QKV, slice(0, 1))[0]):
            self.cache.joined.clear()

    def layer_params(self, i):
        """The parameters of block i, and {layers: their joined weights}."""
        p = super().layer_params(i)
        joined = self.cache.joined
        if i not in joined:
            joined[i] = {}
            if self.n_threads > 1 and may_be_joined(p):
                joined[i] = {layers: join(p, layers) for layers in (self.QKV, self.GATE_UP)}
        p.update(joined[i])
        return p

    def side_by_side(self, x, p, layers):
        """The results of several layers, side by side: (N,in) -> (N,sum of out)"""
        if layers in p:
            y = self.product(x, p[layers])
        else:
            y = np.empty((len(x), sum(width(p, layer) for layer in layers)), x.dtype)
        begin = 0
        for layer in layers:
            place = y[:, begin : begin + width(p, layer)]
            if layers not in p:
                self.product(x, p[f"{layer}.weight"], place)
            self.add_rest(x, p, layer, place)
            begin += width(p, layer)
        return y

    def norm(self, x, p, name):
        """The norm of that name."""
        w = p[f"{name}.weight"]
        y, _ = operations.rmsnorm_forward(x, w, self.cfg.norm_eps)
        return y

    def block(self, x, p, k_cache, v_cache):
        """llama.block_forward in place of x (N,C)."""
        a = self.norm(x, p, "ln_1")
        qkv = self.side_by_side(a, p, self.QKV)
        q, k, _ = walk_llama.parts_of(qkv, self.cfg)
        if self.cfg.qk_norm:
            q[...] = self.norm(q, p, "attn.q_norm")
            k[...] = self.norm(k, p, "attn.k_norm")
        operations.turn(qkv, self.angles, self.cfg.n_head + self.cfg.n_kv_head)
        o = self.attention(qkv, k_cache, v_cache)
        x += self.linear(o, p, "attn.o")
        m = self.norm(x, p, "ln_2")
        h = self.side_by_side(m, p, self.GATE_UP)
        u = np.empty((len(x), self.cfg.n_hidden), x.dtype)
        self.by_rows(operations.swiglu_forward, h, u)
        x += self.linear(u, p, "mlp.down")


def width(p, layer):
    """How many columns a layer's result has."""
    return p[f"{layer}.weight"].shape[1]


def may_be_joined(p):
    """Whether a block is small, and its weights are arrays."""
    weights = [w for name, w in p.items() if name.endswith("weight")]
    are_arrays = all(isinstance(w, np.ndarray) for w in weights)
    return are_arrays and sum(w.nbytes for w in weights) <= JOINED


def join(p, layers, rows=ALL):
    """Some rows of the weights of layers, side by side, each row in one piece."""
    weights = [p[f"{layer}.weight"][rows] for layer in layers]
    return np.ascontiguousarray(np.concatenate(weights, axis=1))
