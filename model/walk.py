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
    attend_forward(ops, x, plus, p, s, n_head, keep, attend)
    return rowwise_forward(ops, x, p, s)


def attend_forward(ops, x, plus, p, s, n_head, keep=None, attend=None):
    """The first part of a block: o. Its arguments are those of block_forward."""
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


def rowwise_forward(ops, x, p, s):
    """The second part of a block, from o on: every row by itself."""
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
    layers = LayersBackward(ops, p, grads, add)
    do = rowwise_backward(layers, dx, s)
    attend_backward(layers, dx, do, s, n_head)
    return dx


class LayersBackward:
    """The way back through the layers of a block that have parameters, {name: array} in p.

    The gradients of these go into grads, or with add are added to what is there.
    """

    def __init__(self, ops, p, grads, add):
        self.ops = ops
        self.p = p
        self.grads = grads
        self.add = add

    def linear(self, dy, x, name, out):
        """dx, in out"""
        weight = f"{name}.weight"
        places = out, self.grads[weight], self.grads[f"{name}.bias"]
        dx, _, _ = self.ops.linear_backward(dy, x, self.p[weight], places, self.add)
        return dx

    def norm(self, dy, n, rstd, name, dx):
        """Add to dx, which comes down beside the branch."""
        weight = f"{name}.weight"
        places = dx, self.grads[weight], self.grads[f"{name}.bias"]
        cache = n, rstd, self.p[weight]
        self.ops.layernorm_backward(dy, cache, dx, places, self.add)


def rowwise_backward(layers, dx, s):
    """From dx at the block's output to dx behind its attention. Returns do, in t."""
    # forward was: x = x + mlp(norm(x))
    du = layers.linear(dx, s.u, "mlp.c_proj", out=s.u)
    dh = layers.ops.gelu_backward(du, s.h, out=s.h)
    dm = layers.linear(dh, s.m, "mlp.c_fc", out=s.m)
    layers.norm(dm, s.n_2, s.rstd_2, "ln_2", dx)
    # forward was: x = x + linear(o)
    return layers.linear(dx, s.o, "attn.c_proj", out=s.t)


def attend_backward(layers, dx, do, s, n_head):
    """From there and do to dx at the block's input."""
    # forward was: o = attention(norm(x))
    B, _, T, _ = s.lse.shape
    dqkv = getattr(s, "dqkv", s.qkv)
    layers.ops.attention_backward(
        do.reshape(B, T, -1),
        (s.qkv.reshape(B, T, -1), s.o.reshape(B, T, -1), s.lse),
        n_head,
        out=dqkv.reshape(B, T, -1),
        hidden=s.hidden,
    )
    da = layers.linear(dqkv, s.a, "attn.c_attn", out=s.a)
    layers.norm(da, s.n_1, s.rstd_1, "ln_1", dx)


# What rowwise_forward and rowwise_backward read and write, beside o, x and the parameters.
OF_EACH_ROW = ("t", "m", "n_2", "rstd_2", "u", "h")


class Trunk:
    """gpt.trunk_forward and gpt.trunk_backward, in arrays of trunk_shapes.

    hidden: as for attention_forward.
    rows (n,): the rows of which y is wanted, in order; None for all. In the last block nothing
    behind attention is then computed for the others: in the demo's fine-tuning 4 of 10 tokens
    count, and a step takes 9 % less time.
    """

    def __init__(self, ops, params, cfg, arrays, hidden=None, rows=None):
        self.ops = ops
        self.params = params
        self.cfg = cfg
        self.a = arrays
        self.layers = [layer_params(params, i) for i in range(cfg.n_layer)]
        self.blocks = [block_arrays(arrays, i, hidden) for i in range(cfg.n_layer)]
        self.rows = rows
        self.n = len(arrays["x"]) if rows is None else len(rows)

    def forward(self, tokens, positions, attend=None):
        """Fill the first n rows of y, (N,C) after the last norm.

        attend(i, qkv, o): block i's, as in block_forward.
        """
        params, a = self.params, self.a
        x, plus = a["x"], None
        self.ops.embedding_forward(
            tokens, positions, params["wte.weight"], params["wpe.weight"], out=x
        )
        for i in range(self.cfg.n_layer):
            of_block = functools.partial(attend, i) if attend else None
            plus = self.block_forward(i, x, plus, a.get(f"x.{i}"), of_block)
        self.ops.layernorm_forward(
            self.first(x),
            params["ln_f.weight"],
            params["ln_f.bias"],
            out=[self.first(a[name]) for name in ("y", "n_f", "rstd_f")],
            plus=plus,
        )

    def block_forward(self, i, x, plus, keep=None, attend=None):
        """block_forward of block i; the last one leaves its results in the first n rows of x."""
        p, s = self.layers[i], self.blocks[i]
        where = p, s, self.cfg.n_head, keep, attend
        if self.wants_all(i):
            return block_forward(self.ops, x, plus, *where)
        attend_forward(self.ops, x, plus, *where)
        x[: self.n] = x[self.rows]
        self.tail = SimpleNamespace(o=s.o[self.rows])
        for name in OF_EACH_ROW:
            setattr(self.tail, name, self.first(getattr(s, name)))
        return rowwise_forward(self.ops, self.first(x), p, self.tail)

    def backward(self, grads, add):
        """From dy in y to dx in x. The gradients of all but the embeddings go into grads."""
        a, weight = self.a, self.params["ln_f.weight"]
        cache = self.first(a["n_f"]), self.first(a["rstd_f"]), weight
        out = self.first(a["x"]), grads["ln_f.weight"], grads["ln_f.bias"]
        self.ops.layernorm_backward(self.first(a["y"]), cache, out=out, add=add)
        for i in reversed(range(self.cfg.n_layer)):
            if f"x.{i}" in a:           # its input is all that was kept
                self.block_forward(i, a[f"x.{i}"], None)
            self.block_backward(i, layer_params(grads, i), add)

    def block_backward(self, i, grads, add):
        """block_backward of block i: from dx in x, of the last one in its first n rows."""
        p, s, n_head = self.layers[i], self.blocks[i], self.cfg.n_head
        dx, do = self.a["x"], self.a["y"]       # y is needed no more
        if self.wants_all(i):
            block_backward(self.ops, dx, p, s, n_head, grads, add)
            return
        layers = LayersBackward(self.ops, p, grads, add)
        do_rows = rowwise_backward(layers, self.first(dx), self.tail)
        dx_rows = self.first(dx).copy()
        for all_rows, some in ((do, do_rows), (dx, dx_rows)):
            all_rows[...] = 0.0
            all_rows[self.rows] = some
        attend_backward(layers, dx, do, s, n_head)

    def wants_all(self, i):
        """Whether all rows of what block i computes are wanted."""
        return self.rows is None or i < self.cfg.n_layer - 1

    def first(self, array):
        """The rows that y is wanted of, once they come first."""
        return array[: self.n]
