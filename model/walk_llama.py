"""walk_llama.py: llama.py's block, forward and back, in arrays that lie ready.

The functions are those of model/walk_gpt2.py, for the other family. A block's qkv holds queries,
keys and values side by side:

    | NH heads of queries | NKV heads of keys | NKV heads of values |      each head HS wide

Keys and queries are normed and turned where they lie.
"""

import functools

import numpy as np

from model import llama


def block_shapes(cfg, B, T):
    """{name: shape} of what a block keeps for its backward. Each first axis has B equal parts."""
    N, C, F = B * T, cfg.n_embd, cfg.n_hidden
    queries, keys = cfg.n_head * cfg.head_size, cfg.n_kv_head * cfg.head_size
    shapes = {
        "a": (N, C),                # what attention reads: the first norm's result, n_1 * w
        "n_1": (N, C),
        "rstd_1": (N, 1),
        "qkv": (N, queries + 2 * keys),
        "o": (N, queries),          # attention's result
        "lse": (B, cfg.n_head, T, 1),
        "m": (N, C),                # what the MLP reads: the second norm's result
        "n_2": (N, C),
        "rstd_2": (N, 1),
        "u": (N, F),                # SwiGLU's result
        "h": (N, 2 * F),            # gate and up, or their derivatives
    }
    if cfg.qk_norm:
        shapes["n_q"] = (N, queries)
        shapes["n_k"] = (N, keys)
        shapes["rstd_q"] = (N, cfg.n_head)
        shapes["rstd_k"] = (N, cfg.n_kv_head)
    return shapes


# What rowwise_forward and rowwise_backward read and write, beside o, do, x and the parameters.
OF_EACH_ROW = ("t", "m", "n_2", "rstd_2", "u", "h")


def shared_shapes(cfg, N):
    """{name: shape} of what all blocks use in turn."""
    return {"do": (N, cfg.n_head * cfg.head_size)}      # a GPT-2's has the shape of t


def columns(cfg):
    """{"q": slice, "k": slice, "v": slice} of qkv."""
    q = cfg.n_head * cfg.head_size
    k = q + cfg.n_kv_head * cfg.head_size
    v = k + cfg.n_kv_head * cfg.head_size
    return {"q": slice(0, q), "k": slice(q, k), "v": slice(k, v)}


@functools.lru_cache(maxsize=16)
def rotary_table(cfg, n_positions, dtype=np.float32):
    """(n_positions, HS): cosines and sines of each position. Read-only: every caller gets the same.

    n_positions is made a power of two, so that a text that grows asks for few tables.
    """
    n = 1 << (n_positions - 1).bit_length()
    if n != n_positions:
        return rotary_table(cfg, n, dtype)
    table = np.concatenate(llama.rotary_tables(cfg, np.arange(n), dtype), axis=-1)
    table.flags.writeable = False
    return table


def embed(ops, params, tokens, positions, x):
    """Fill x (N,C), where the walk begins. Positions come in with attention."""
    ops.embedding_forward(tokens, positions, params["wte.weight"], None, out=x)


def norm_forward(ops, x, p, name, cfg, out, plus=None):
    """out = (y, n, rstd); first x += plus."""
    ops.rmsnorm_forward(x, p[f"{name}.weight"], cfg.norm_eps, out=out, plus=plus)


def norm_backward(layers, dy, n, rstd, name, dx, plus=None):
    """plus + the derivative by x, in dx."""
    weight = f"{name}.weight"
    cache = n, rstd, layers.p[weight]
    layers.ops.rmsnorm_backward(dy, cache, plus, (dx, layers.grads[weight]), layers.add)


def attend_forward(ops, x, plus, p, s, cfg, keep=None, attend=None):
    """The first part of a block: o. Its arguments are those of walk.block_forward."""
    norm_forward(ops, x, p, "ln_1", cfg, (s.a, s.n_1, s.rstd_1), plus)
    if keep is not None:
        keep[...] = x
    at = columns(cfg)
    for name in ("q", "k", "v"):
        layer = f"attn.{name}"
        ops.linear_forward(
            s.a, p[f"{layer}.weight"], p.get(f"{layer}.bias"), out=s.qkv[:, at[name]])
    if cfg.qk_norm:
        q, k = s.qkv[:, at["q"]], s.qkv[:, at["k"]]
        norm_forward(ops, q, p, "attn.q_norm", cfg, (q, s.n_q, s.rstd_q))
        norm_forward(ops, k, p, "attn.k_norm", cfg, (k, s.n_k, s.rstd_k))
    ops.rotary_forward(s.qkv, *s.turn, cfg.n_head + cfg.n_kv_head)
    B, _, T, _ = s.lse.shape
    qkv = s.qkv.reshape(B, T, -1)
    o = s.o.reshape(B, T, -1)
    if attend:
        attend(qkv, o)
    else:
        ops.attention_forward(
            qkv, cfg.n_head, out=(o, s.lse), hidden=s.hidden, n_kv_head=cfg.n_kv_head)


def rowwise_forward(ops, x, p, s, cfg):
    """The second part of a block, from o on: every row by itself."""
    ops.linear_forward(s.o, p["attn.o.weight"], p.get("attn.o.bias"), out=s.t)
    norm_forward(ops, x, p, "ln_2", cfg, (s.m, s.n_2, s.rstd_2), plus=s.t)
    F = cfg.n_hidden
    ops.linear_forward(s.m, p["mlp.gate.weight"], out=s.h[:, :F])
    ops.linear_forward(s.m, p["mlp.up.weight"], out=s.h[:, F:])
    ops.swiglu_forward(s.h, out=s.u)
    return ops.linear_forward(s.u, p["mlp.down.weight"], out=s.t)


def rowwise_backward(layers, dx, s):
    """From dx at the block's output to dx behind its attention. Returns do."""
    F = s.u.shape[1]
    # forward was: x = x + mlp(norm(x)), and the MLP read norm(x) twice
    du = layers.linear(dx, s.u, "mlp.down", out=s.u)
    dh = layers.ops.swiglu_backward(du, s.h, out=s.h)
    dm = layers.linear(dh[:, :F], s.m, "mlp.gate", out=s.t)
    dm += layers.linear(dh[:, F:], s.m, "mlp.up", out=s.m)
    norm_backward(layers, dm, s.n_2, s.rstd_2, "ln_2", dx, plus=dx)
    # forward was: x = x + linear(o)
    return layers.linear(dx, s.o, "attn.o", out=s.do)


def attend_backward(layers, dx, do, s, cfg):
    """From there and do to dx at the block's input."""
    # forward was: o = attention(q, k, v)
    B, _, T, _ = s.lse.shape
    dqkv = getattr(s, "dqkv", s.qkv)
    layers.ops.attention_backward(
        do.reshape(B, T, -1),
        (s.qkv.reshape(B, T, -1), s.o.reshape(B, T, -1), s.lse),
        cfg.n_head,
        out=dqkv.reshape(B, T, -1),
        hidden=s.hidden,
        n_kv_head=cfg.n_kv_head,
    )
    # forward was: q = turn(norm(linear(x))), k = turn(norm(linear(x))), v = linear(x)
    layers.ops.rotary_backward(dqkv, *s.turn, cfg.n_head + cfg.n_kv_head)
    at = columns(cfg)
    dq, dk, dv = (dqkv[:, at[name]] for name in ("q", "k", "v"))
    if cfg.qk_norm:
        norm_backward(layers, dq, s.n_q, s.rstd_q, "attn.q_norm", dq)
        norm_backward(layers, dk, s.n_k, s.rstd_k, "attn.k_norm", dk)
    da = layers.linear(dq, s.a, "attn.q", out=s.t)
    da += layers.linear(dk, s.a, "attn.k", out=s.n_2)
    da += layers.linear(dv, s.a, "attn.v", out=s.a)
    norm_backward(layers, da, s.n_1, s.rstd_1, "ln_1", dx, plus=dx)
