"""decoding.py: new tokens on their way through a model, past what it has read: model/fast.decode.

Threads divide each block, by its key heads and by the hidden units of its MLP. Both end in a sum
over them, the second projection: so a thread needs nobody else's until there, and then the sums are
added.
"""

import functools

from model import cores                     # before numpy, whose BLAS it sets up
from model.cores import in_parallel
from model import families, llama, lora, operations, walk, walk_llama
import numpy as np

GAP = 16 << 10          # bytes: a gap in what is read costs more than to read so many
MANY = 32               # rows: the keys and values of so many do not stay in cache between layers
ALL = slice(None)
HEAD_COLUMNS = 512      # of a decoder's logits at a time: the BLAS's copy of weights stays in cache


def of(params, cfg, tokens, cache, n_new, n_parts):
    """The Decoding of a model's family."""
    kind = DecodingLlama if families.of(cfg) is llama else DecodingGPT2
    return kind(params, cfg, tokens, cache, n_new, n_parts)


class Decoding:
    """New positions on their way through the model. n_parts threads divide each block.

    A family says how x (N,C) begins, and how it gets through a block and the last norm.
    """

    def __init__(self, params, cfg, tokens, cache, n_new, n_parts):
        B, T = tokens.shape
        room = cache.k.shape[3]
        self.params = params
        self.cfg = cfg
        self.tokens = tokens
        self.cache = cache
        self.n_new = n_new
        self.n_parts = n_parts
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
            p = walk.layer_params(self.params, self.cfg, i)
            self.block(x, p, self.cache.k[i], self.cache.v[i])
        if only_last:
            x = x.reshape(B, T, -1)[np.arange(B), self.n_new - 1]
        y = self.norm(x, self.params, "ln_f")
        logits = np.empty((len(y), self.cfg.vocab_size), y.dtype)
        self.in_parts(self.head, y, logits)
        return logits if only_last else logits.reshape(B, T, -1)

    def in_parts(self, work, *args):
        """[what work(*args, part) returns, of each part]"""
        return in_parallel(functools.partial(work, *args), self.n_parts)

    def head(self, y, logits, part):
        """Some columns of the logits."""
        w = self.params[families.head_name(self.cfg)]
        mine = part(self.cfg.vocab_size)
        for begin in range(mine.start, mine.stop, HEAD_COLUMNS):
            end = min(begin + HEAD_COLUMNS, mine.stop)
            at = slice(begin, end)
            logits[:, at] = y @ w[at].T

    def columns(self, x, p, layer, y, part):
        """Some columns of a layer's result y."""
        at = part(y.shape[1])
        y[:, at] = self.product(x, p, layer, columns=at)
        b = p.get(f"{layer}.bias")
        if b is not None:
            y[:, at] += b[at]

    def product(self, x, p, layer, rows=ALL, columns=ALL):
        """x times some rows and columns of a layer's weight, and of its adapter where it has one.

        x (N,rows) -> (N,columns)
        """
        w = p[f"{layer}.weight"]
        y = x @ w[rows, columns]
        A = p.get(f"{layer}.lora_A")
        if A is not None:
            B = p[f"{layer}.lora_B"]
            scale = p[lora.SCALE]
            operations.lora_forward(x, A[rows], B[:, columns], scale, y)
        return y

    def attention(self, qkv, k_cache, v_cache, heads):
        """o (N,heads*HS) of some query heads: slices (of the queries, of the keys).

        Their keys and values go into the cache. Queries go in blocks that look at no later keys, as
        in operations.attention_forward. So memory does not grow like T^2, and 4,096 tokens are read
        in less than half of the time.
        For single queries of many rows, the free places are read too, and hidden, if they are few:
        memory is then read in order. That saves a seventh of the time of 256 replies of 47 tokens.
        """
        B, T = self.tokens.shape
        room = k_cache.shape[2]
        n_kv, HS = families.kv_heads(self.cfg)
        q, k, v = operations.heads(qkv.reshape(B, T, -1), self.cfg.n_head, n_kv)
        of_q, of_k = heads
        q, k, v = q[:, of_q], k[:, of_k], v[:, of_k]        # (B,heads,T,HS)
        n_kv = k.shape[1]
        new = self.row, slice(None), self.column
        k_cache[self.row, of_k, self.slot] = k[new]
        v_cache[self.row, of_k, self.slot] = v[new]
        o = np.empty((B, T, q.shape[1], HS), qkv.dtype)
        for t0 in range(0, T, operations.QUERY_BLOCK):
            t = slice(t0, t0 + operations.QUERY_BLOCK)
            at = self.at[:, None, t, None]                  # (B,1,t,1)
            S = int(at.max()) + 1
            if T == 1 and B >= MANY and (room - S) * HS * k_cache.itemsize <= GAP:
                S = room
            q_t = q[:, :, t] * float(HS**-0.5)
            keys = k_cache[:, of_k, :S]
            s = operations.grouped(q_t, n_kv) @ keys.swapaxes(-1, -2)
            s = s.reshape(*q_t.shape[:3], S)                # (B,heads,t,S)
            later = np.arange(S) > at                       # (B,1,t,S) key behind query
            if later.any():
                hidden = np.where(later, -np.inf, 0.0)
                s += hidden.astype(s.dtype)
            s -= s.max(-1, keepdims=True)
            np.exp(s, out=s)
            s /= s.sum(-1, keepdims=True)
            values = v_cache[:, of_k, :S]
            o_t = operations.grouped(s, n_kv) @ values
            o_t = o_t.reshape(q_t.shape)
            o[:, t] = o_t.swapaxes(1, 2)
        return o.reshape(B * T, -1)


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
        qkv = np.empty((len(x), 3 * self.cfg.n_embd), x.dtype)
        self.in_parts(self.columns, a, p, "attn.c_attn", qkv)
        of_heads = self.in_parts(self.attend, qkv, p, k_cache, v_cache)
        x += sum(of_heads)
        x += p["attn.c_proj.bias"]
        m = self.norm(x, p, "ln_2")
        x += sum(self.in_parts(self.mlp, m, p))
        x += p["mlp.c_proj.bias"]

    def attend(self, qkv, p, k_cache, v_cache, part):
        """What some heads add to x: (N,3C) -> (N,C)"""
        heads = part(self.cfg.n_head)
        o = self.attention(qkv, k_cache, v_cache, (heads, heads))
        HS = self.cfg.n_embd // self.cfg.n_head
        rows = slice(heads.start * HS, heads.stop * HS)
        return self.product(o, p, "attn.c_proj", rows)

    def mlp(self, m, p, part):
        """What some hidden units add to x: (N,C) -> (N,C)"""
        at = part(4 * self.cfg.n_embd)
        h = self.product(m, p, "mlp.c_fc", columns=at)
        h += p["mlp.c_fc.bias"][at]
        u, _ = operations.gelu_forward(h)
        return self.product(u, p, "mlp.c_proj", at)


class DecodingLlama(Decoding):
    """Through llama.py's blocks."""

    def begin(self):
        """x (N,C) of the new tokens."""
        self.table = walk_llama.rotary_table(self.cfg, self.S, self.cache.k.dtype)
        return self.params["wte.weight"][self.tokens.ravel()]

    def norm(self, x, p, name):
        """The norm of that name."""
        w = p[f"{name}.weight"]
        y, _ = operations.rmsnorm_forward(x, w, self.cfg.norm_eps)
        return y

    def block(self, x, p, k_cache, v_cache):
        """llama.block_forward in place of x (N,C)."""
        a = self.norm(x, p, "ln_1")
        qkv = self.qkv(a, p)
        of_heads = self.in_parts(self.attend, qkv, p, k_cache, v_cache)
        x += sum(of_heads)
        if self.cfg.o_bias:
            x += p["attn.o.bias"]
        m = self.norm(x, p, "ln_2")
        x += sum(self.in_parts(self.mlp, m, p))

    def qkv(self, a, p):
        """Queries, keys and values (N,(NH+2NKV)*HS) of what attention reads."""
        cfg = self.cfg
        n_turned = cfg.n_head + cfg.n_kv_head
        n_heads = n_turned + cfg.n_kv_head
        qkv = np.empty((len(a), n_heads * cfg.head_size), a.dtype)
        q, k, v = walk_llama.parts_of(qkv, cfg)
        self.in_parts(self.projections, a, p, (q, k, v))
        if cfg.qk_norm:
            q[...] = self.norm(q, p, "attn.q_norm")
            k[...] = self.norm(k, p, "attn.k_norm")
        operations.rotary_forward(qkv, self.at, self.table, n_turned)
        return qkv

    def projections(self, a, p, places, part):
        """Some columns of the queries, of the keys and of the values."""
        for layer, y in zip(("attn.q", "attn.k", "attn.v"), places):
            self.columns(a, p, layer, y, part)

    def attend(self, qkv, p, k_cache, v_cache, part):
        """What the query heads of some key heads add to x: -> (N,C)"""
        of_k = part(self.cfg.n_kv_head)
        n_group = self.cfg.n_head // self.cfg.n_kv_head
        of_q = slice(n_group * of_k.start, n_group * of_k.stop)
        o = self.attention(qkv, k_cache, v_cache, (of_q, of_k))
        HS = self.cfg.head_size
        rows = slice(of_q.start * HS, of_q.stop * HS)
        return self.product(o, p, "attn.o", rows)

    def mlp(self, m, p, part):
        """What some hidden units add to x: (N,C) -> (N,C)"""
        at = part(self.cfg.n_hidden)
        gate = self.product(m, p, "mlp.gate", columns=at)
        up = self.product(m, p, "mlp.up", columns=at)
        gate *= operations.sigmoid(gate)
        gate *= up
        return self.product(gate, p, "mlp.down", at)
