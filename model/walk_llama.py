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


def parts_of(qkv, cfg):
    """The columns of queries, keys and values, as views."""
    queries = cfg.n_head * cfg.head_size
    keys = cfg.n_kv_head * cfg.head_size
    return qkv[:, :queries], qkv[:, queries : queries + keys], qkv[:, queries + keys :]


@functools.lru_cache(maxsize=16)
def rotary_table(cfg, n_positions, dtype):
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


def attend_forward(layers, x, plus, s, keep=None, attend=None):
    """The first part of a block: o. Its arguments are those of walk.block_forward."""
    cfg = layers.cfg
    layers.norm(
        x,
        "ln_1",
        out=(s.a, s.n_1, s.rstd_1),
        plus=plus,
    )
    if keep is not None:
        keep[...] = x
    q, k, v = parts_of(s.qkv, cfg)
    layers.linear(s.a, "attn.q", out=q)
    layers.linear(s.a, "attn.k", out=k)
    layers.linear(s.a, "attn.v", out=v)
    if cfg.qk_norm:
        layers.norm(q, "attn.q_norm", (q, s.n_q, s.rstd_q))
        layers.norm(k, "attn.k_norm", (k, s.n_k, s.rstd_k))
    layers.ops.rotary_forward(s.qkv, *s.turn, cfg.n_head + cfg.n_kv_head)
    layers.attention(s, attend)


def rowwise_forward(layers, x, s):
    """The second part of a block, from o on: every row by itself. What is left over, in t."""
    layers.linear(s.o, "attn.o", out=s.t)
    layers.norm(
        x,
        "ln_2",
        out=(s.m, s.n_2, s.rstd_2),
        plus=s.t,
    )
    F = s.u.shape[1]
    layers.linear(s.m, "mlp.gate", out=s.h[:, :F])
    layers.linear(s.m, "mlp.up", out=s.h[:, F:])
    layers.ops.swiglu_forward(s.h, out=s.u)
    return layers.linear(s.u, "mlp.down", out=s.t)


def rowwise_backward(layers, dx, s):
    """From dx at the block's output to dx behind its attention. Returns do."""
    F = s.u.shape[1]
    # forward was: x = x + mlp(norm(x)), and the MLP read norm(x) twice
    du = layers.linear_backward(dx, s.u, "mlp.down", out=s.u)
    dh = layers.ops.swiglu_backward(du, s.h, out=s.h)
    dm = layers.linear_backward(dh[:, :F], s.m, "mlp.gate", out=s.t)
    of_up = layers.linear_backward(dh[:, F:], s.m, "mlp.up", out=s.m)
    layers.ops.add_to(dm, of_up)
    layers.norm_backward(dm, (s.n_2, s.rstd_2), "ln_2", out=dx, plus=dx)
    # forward was: x = x + linear(o)
    return layers.linear_backward(dx, s.o, "attn.o", out=s.do)


def attend_backward(layers, dx, do, s):
    """From there and do to dx at the block's input."""
    cfg = layers.cfg
    # forward was: o = attention(q, k, v)
    dqkv = layers.attention_backward(do, s)
    # forward was: q = turn(norm(linear(x))), k = turn(norm(linear(x))), v = linear(x)
    layers.ops.rotary_backward(dqkv, *s.turn, cfg.n_head + cfg.n_kv_head)
    dq, dk, dv = parts_of(dqkv, cfg)
    if cfg.qk_norm:
        layers.norm_backward(dq, (s.n_q, s.rstd_q), "attn.q_norm", out=dq)
        layers.norm_backward(dk, (s.n_k, s.rstd_k), "attn.k_norm", out=dk)
    da = layers.linear_backward(dq, s.a, "attn.q", out=s.t)
    of_keys = layers.linear_backward(dk, s.a, "attn.k", out=s.n_2)
    of_values = layers.linear_backward(dv, s.a, "attn.v", out=s.a)
    layers.ops.add_to(da, of_keys)
    layers.ops.add_to(da, of_values)
    layers.norm_backward(da, (s.n_1, s.rstd_1), "ln_1", out=dx, plus=dx)
