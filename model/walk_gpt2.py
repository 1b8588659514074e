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


def norm_forward(ops, x, p, name, cfg, out, plus):
    """out = (y, n, rstd); first x += plus."""
    ops.layernorm_forward(x, p[f"{name}.weight"], p[f"{name}.bias"], out=out, plus=plus)


def norm_backward(layers, dy, n, rstd, name, dx, plus=None):
    """plus + the derivative by x, in dx."""
    weight = f"{name}.weight"
    out = dx, layers.grads[weight], layers.grads[f"{name}.bias"]
    cache = n, rstd, layers.p[weight]
    layers.ops.layernorm_backward(dy, cache, plus, out, layers.add)


def attend_forward(ops, x, plus, p, s, cfg, keep=None, attend=None):
    """The first part of a block: o. Its arguments are those of walk.block_forward."""
    norm_forward(ops, x, p, "ln_1", cfg, (s.a, s.n_1, s.rstd_1), plus)
    if keep is not None:
        keep[...] = x
    ops.linear_forward(s.a, p["attn.c_attn.weight"], p["attn.c_attn.bias"], out=s.qkv)
    B, _, T, _ = s.lse.shape
    qkv = s.qkv.reshape(B, T, -1)
    o = s.o.reshape(B, T, -1)
    if attend:
        attend(qkv, o)
    else:
        ops.attention_forward(qkv, cfg.n_head, out=(o, s.lse), hidden=s.hidden)


def rowwise_forward(ops, x, p, s, cfg):
    """The second part of a block, from o on: every row by itself."""
    ops.linear_forward(s.o, p["attn.c_proj.weight"], p["attn.c_proj.bias"], out=s.t)
    norm_forward(ops, x, p, "ln_2", cfg, (s.m, s.n_2, s.rstd_2), plus=s.t)
    ops.linear_forward(s.m, p["mlp.c_fc.weight"], p["mlp.c_fc.bias"], out=s.h)
    ops.gelu_forward(s.h, out=(s.u, s.h))
    return ops.linear_forward(s.u, p["mlp.c_proj.weight"], p["mlp.c_proj.bias"], out=s.t)


def rowwise_backward(layers, dx, s):
    """From dx at the block's output to dx behind its attention. Returns do."""
    # forward was: x = x + mlp(norm(x))
    du = layers.linear(dx, s.u, "mlp.c_proj", out=s.u)
    dh = layers.ops.gelu_backward(du, s.h, out=s.h)
    dm = layers.linear(dh, s.m, "mlp.c_fc", out=s.m)
    norm_backward(layers, dm, s.n_2, s.rstd_2, "ln_2", dx, plus=dx)
    # forward was: x = x + linear(o)
    return layers.linear(dx, s.o, "attn.c_proj", out=s.do)


def attend_backward(layers, dx, do, s, cfg):
    """From there and do to dx at the block's input."""
    # forward was: o = attention(norm(x))
    B, _, T, _ = s.lse.shape
    dqkv = getattr(s, "dqkv", s.qkv)
    layers.ops.attention_backward(
        do.reshape(B, T, -1),
        (s.qkv.reshape(B, T, -1), s.o.reshape(B, T, -1), s.lse),
        cfg.n_head,
        out=dqkv.reshape(B, T, -1),
        hidden=s.hidden,
    )
    da = layers.linear(dqkv, s.a, "attn.c_attn", out=s.a)
    norm_backward(layers, da, s.n_1, s.rstd_1, "ln_1", dx, plus=dx)
