"""walk.py: the way through the blocks of a model, forward and back, in arrays that lie ready.

gpt.py's block_forward makes a new array for each result. Here each result has its place, and every
gradient takes the place of an activation that is needed no more: a step allocates nothing. The
operations are an argument: model/fast.py walks with model/operations.py, model/device.py with
kernels/. Both offer the same functions.
"""

import functools
from types import SimpleNamespace

from gpt import Config, param_shapes

_OF_ONE = param_shapes(Config(vocab_size=1, n_positions=1, n_embd=1, n_layer=1, n_head=1))
# The names of a block's parameters, without "h.i." before them.
LAYER = tuple(name.removeprefix("h.0.") for name in _OF_ONE if name.startswith("h.0."))


def layer_params(params, i):
    """gpt.block_params for arrays that may have others beside them. No array is copied."""
    return {name: params[f"h.{i}.{name}"] for name in LAYER}


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


def trunk_shapes(cfg, B, T, want_grads=True, recompute=False):
    """{name: shape} of all that the way through the trunk needs, and with want_grads the way back.

    recompute: of each block only the input is kept, and the way back runs its forward again. That
    is a third more work for a fraction of the memory.
    """
    N, C = B * T, cfg.n_embd
    L = cfg.n_layer
    n_kept = L if want_grads and not recompute else 1       # one serves all blocks in turn
    shapes = {}
    for i in range(n_kept):
        for name, shape in block_shapes(cfg, B, T).items():
            shapes[f"h.{i}.{name}"] = shape
    shapes["x"] = (N, C)        # the residual stream, later its gradient
    shapes["t"] = (N, C)        # what a branch adds to it
    shapes["y"] = (N, C)        # the last norm's result, later its gradient
    shapes["n_f"] = (N, C)
    shapes["rstd_f"] = (N, 1)
    if want_grads and recompute:
        for i in range(L):
            shapes[f"x.{i}"] = (N, C)
    return shapes


def block_arrays(arrays, i, hidden=None):
    """What block i works in, of arrays of trunk_shapes. hidden: as for attention_forward."""
    kept = i if f"h.{i}.a" in arrays else 0
    prefix = f"h.{kept}."
    block = SimpleNamespace(t=arrays["t"], hidden=hidden)
    for name, array in arrays.items():
        if name.startswith(prefix):
            setattr(block, name.removeprefix(prefix), array)
    if "dqkv" in arrays:
        block.dqkv = arrays["dqkv"]
    return block


def block_forward(ops, x, plus, p, s, n_head, keep=None, attend=None):
    """gpt.block_forward, except that the last sum is left to the next norm, which reads x anyway.

    x (N,C) is updated in place, first by plus, which the block before left over (None: nothing).
    Returns what this block leaves over. p: the block's parameters; s: arrays of block_shapes, and
    beside them t (N,C) for the branches. keep: an array for the block's input, where it is wanted.
    attend(qkv, o): what to call in place of ops.attention_forward.
    """
    out = s.a, s.n_1, s.rstd_1
    ops.layernorm_forward(x, p["ln_1.weight"], p["ln_1.bias"], out=out, plus=plus)
    if keep is not None:
        keep[...] = x
    ops.linear_forward(s.a, p["attn.c_attn.weight"], p["attn.c_attn.bias"], out=s.qkv)
    B, _, T, _ = s.lse.shape
    qkv = s.qkv.reshape(B, T, -1)
    o = s.o.reshape(B, T, -1)
    if attend:
        attend(qkv, o)
    else:
        ops.attention_forward(qkv, n_head, out=(o, s.lse), hidden=s.hidden)
    ops.linear_forward(s.o, p["attn.c_proj.weight"], p["attn.c_proj.bias"], out=s.t)
    out = s.m, s.n_2, s.rstd_2
    ops.layernorm_forward(x, p["ln_2.weight"], p["ln_2.bias"], out=out, plus=s.t)
    ops.linear_forward(s.m, p["mlp.c_fc.weight"], p["mlp.c_fc.bias"], out=s.h)
    ops.gelu_forward(s.h, out=(s.u, s.h))
    return ops.linear_forward(s.u, p["mlp.c_proj.weight"], p["mlp.c_proj.bias"], out=s.t)


def block_backward(ops, dx, p, s, n_head, grads, add=False):
    """gpt.block_backward in place: dx (N,C) is the gradient at the output, then at the input.

    The gradients of parameters go into grads, or are added to what is there. What is in s is used
    up. dqkv takes the place of qkv, or its own where s has a dqkv.
    """
    B, _, T, _ = s.lse.shape

    def linear(dy, x, name, out):
        weight, bias = f"{name}.weight", f"{name}.bias"
        places = out, grads[weight], grads[bias]
        return ops.linear_backward(dy, x, p[weight], places, add)[0]

    def norm(dy, n, rstd, name):        # adds to dx, which comes down beside the branch
        weight, bias = f"{name}.weight", f"{name}.bias"
        places = dx, grads[weight], grads[bias]
        ops.layernorm_backward(dy, (n, rstd, p[weight]), dx, places, add)

    # forward was: x = x + mlp(norm(x))
    du = linear(dx, s.u, "mlp.c_proj", out=s.u)
    dh = ops.gelu_backward(du, s.h, out=s.h)
    dm = linear(dh, s.m, "mlp.c_fc", out=s.m)
    norm(dm, s.n_2, s.rstd_2, "ln_2")
    # forward was: x = x + attention(norm(x))
    do = linear(dx, s.o, "attn.c_proj", out=s.t)
    dqkv = getattr(s, "dqkv", s.qkv)
    cache = s.qkv.reshape(B, T, -1), s.o.reshape(B, T, -1), s.lse
    ops.attention_backward(
        do.reshape(B, T, -1),
        cache,
        n_head,
        out=dqkv.reshape(B, T, -1),
        hidden=s.hidden,
    )
    da = linear(dqkv, s.a, "attn.c_attn", out=s.a)
    norm(da, s.n_1, s.rstd_1, "ln_1")
    return dx


class Trunk:
    """gpt.trunk_forward and gpt.trunk_backward, in arrays of trunk_shapes.

    hidden: as for attention_forward.
    """

    def __init__(self, ops, params, cfg, arrays, hidden=None):
        self.ops = ops
        self.params = params
        self.cfg = cfg
        self.a = arrays
        self.layers = [layer_params(params, i) for i in range(cfg.n_layer)]
        self.blocks = [block_arrays(arrays, i, hidden) for i in range(cfg.n_layer)]

    def forward(self, tokens, positions, attend=None):
        """Fill y, (N,C) after the last norm. attend(i, qkv, o): block i's, as in block_forward."""
        ops, params, a = self.ops, self.params, self.a
        ops.embedding_forward(
            tokens, positions, params["wte.weight"], params["wpe.weight"], out=a["x"]
        )
        plus = None
        for i, p in enumerate(self.layers):
            of_block = functools.partial(attend, i) if attend else None
            s, keep = self.blocks[i], a.get(f"x.{i}")
            plus = block_forward(ops, a["x"], plus, p, s, self.cfg.n_head, keep, of_block)
        out = a["y"], a["n_f"], a["rstd_f"]
        ops.layernorm_forward(
            a["x"], params["ln_f.weight"], params["ln_f.bias"], out=out, plus=plus
        )

    def backward(self, grads, add):
        """From dy in y to dx in x. The gradients of all but the embeddings go into grads."""
        ops, a, n_head = self.ops, self.a, self.cfg.n_head
        last = a["n_f"], a["rstd_f"], self.params["ln_f.weight"]
        out = a["x"], grads["ln_f.weight"], grads["ln_f.bias"]
        ops.layernorm_backward(a["y"], last, out=out, add=add)
        for i in reversed(range(self.cfg.n_layer)):
            p, s = self.layers[i], self.blocks[i]
            if f"x.{i}" in a:           # its input is all that was kept
                block_forward(ops, a[f"x.{i}"], None, p, s, n_head)
            block_backward(ops, a["x"], p, s, n_head, layer_params(grads, i), add)
