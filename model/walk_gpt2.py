"""walk_gpt2.py: gpt.py's block, forward and back, in arrays that lie ready.

model/walk.py puts the blocks together, and says what the arguments are. model/walk_llama.py has the
same functions for the other family.
"""


def block_shapes(cfg, B, T):
    """{name: shape} of what a block keeps for its backward. Each first axis has B equal parts."""
    N, C = B * T, cfg.n_embd
    F = 4 * C
    return {
        "a": (N, C),                # what attention reads: the first norm's result, n_1 * w + b
        "n_1": (N, C),
        "rstd_1": (N, 1),
        "qkv": (N, 3 * C),
        "o": (N, C),                # attention's result
        "lse": (B, cfg.n_head, T, 1),
        "m": (N, C),                # what the MLP reads: the second norm's result
        "n_2": (N, C),
        "rstd_2": (N, 1),
        "u": (N, F),                # the GELU's result
        "h": (N, F),                # what it was taken of, or its derivative
    }


# What rowwise_forward and rowwise_backward read and write, beside o, do, x and the parameters.
OF_EACH_ROW = ("t", "m", "n_2", "rstd_2", "u", "h")


def shared_shapes(cfg, N):
    """{name: shape} of what all blocks use in turn, beside the stream and t."""
    return {}


def rotary_table(cfg, n_positions, dtype):
    """None: positions are learned."""
    return None


def embed(ops, params, tokens, positions, x):
    """Fill x (N,C), where the walk begins."""
    ops.embedding_forward(tokens, positions, params["wte.weight"], params["wpe.weight"], out=x)


def attend_forward(layers, x, plus, s, keep=None, attend=None):
    """The first part of a block: o. Its arguments are those of walk.block_forward."""
    layers.norm(
        x,
        "ln_1",
        out=(s.a, s.n_1, s.rstd_1),
        plus=plus,
    )
    if keep is not None:
        keep[...] = x
    layers.linear(s.a, "attn.c_attn", out=s.qkv)
    layers.attention(s, attend)


def rowwise_forward(layers, x, s):
    """The second part of a block, from o on: every row by itself. What is left over, in t."""
    layers.linear(s.o, "attn.c_proj", out=s.t)
    layers.norm(
        x,
        "ln_2",
        out=(s.m, s.n_2, s.rstd_2),
        plus=s.t,
    )
    layers.linear(s.m, "mlp.c_fc", out=s.h)
    layers.ops.gelu_forward(s.h, out=(s.u, s.h))
    return layers.linear(s.u, "mlp.c_proj", out=s.t)


def rowwise_backward(layers, dx, s):
    """From dx at the block's output to dx behind its attention. Returns do."""
    # forward was: x = x + mlp(norm(x))
    du = layers.linear_backward(dx, s.u, "mlp.c_proj", out=s.u)
    dh = layers.ops.gelu_backward(du, s.h, out=s.h)
    dm = layers.linear_backward(dh, s.m, "mlp.c_fc", out=s.m)
    layers.norm_backward(dm, (s.n_2, s.rstd_2), "ln_2", out=dx, plus=dx)
    # forward was: x = x + linear(o)
    return layers.linear_backward(dx, s.o, "attn.c_proj", out=s.do)


def attend_backward(layers, dx, do, s):
    """From there and do to dx at the block's input."""
    # forward was: o = attention(norm(x))
    dqkv = layers.attention_backward(do, s)
    da = layers.linear_backward(dqkv, s.a, "attn.c_attn", out=s.a)
    layers.norm_backward(da, (s.n_1, s.rstd_1), "ln_1", out=dx, plus=dx)
