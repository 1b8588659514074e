"""walk.py: the way through the blocks of a model, forward and back, in arrays that lie ready.

gpt.py's block_forward makes a new array for each result. Here each result has its place, and every
gradient takes the place of an activation that is needed no more: a step allocates nothing. The
operations are an argument: model/fast.py walks with model/operations.py, model/device.py with
kernels/. Both offer the same functions.

How a block goes is in model/walk_gpt2.py and model/walk_llama.py, with the same functions in both.
"""

import functools
from types import SimpleNamespace

from model import families, llama, lora, walk_gpt2, walk_llama


def way_of(cfg):
    """The room that has the way through this model's blocks."""
    return walk_llama if families.of(cfg) is llama else walk_gpt2


@functools.lru_cache(maxsize=16)
def layer_names(cfg):
    """The names of a block's parameters, without "h.0." before them."""
    names = families.shapes(cfg)
    return tuple(name.removeprefix("h.0.") for name in names if name.startswith("h.0."))


def layer_params(params, cfg, i):
    """gpt.block_params for arrays that may have others beside them. No array is copied.

    Where the model has an adapter, the block's part of it and its scale come too.
    """
    found = {name: params[f"h.{i}.{name}"] for name in layer_names(cfg)}
    if lora.SCALE in params:
        found.update(present(params, lora.layer_names(cfg), i))
        found[lora.SCALE] = params[lora.SCALE].item()
    return found


def present(arrays, names, i):
    """{name: array} of those of a block's names that there are arrays for."""
    return {name: arrays[f"h.{i}.{name}"] for name in names if f"h.{i}.{name}" in arrays}


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
        for name, shape in way_of(cfg).block_shapes(cfg, B, T).items():
            shapes[f"h.{i}.{name}"] = shape
    shapes["x"] = (N, C)        # the residual stream, later its gradient
    shapes["t"] = (N, C)        # what a branch adds to it
    shapes["y"] = (N, C)        # the last norm's result, later its gradient
    shapes["n_f"] = (N, C)
    shapes["rstd_f"] = (N, 1)
    if want_grads:
        shapes.update(way_of(cfg).shared_shapes(cfg, N))
    if want_grads and recompute:
        for i in range(L):
            shapes[f"x.{i}"] = (N, C)
    return shapes


def block_arrays(arrays, i, hidden=None):
    """What block i works in, of arrays of trunk_shapes. hidden: as for attention_forward."""
    kept = i if f"h.{i}.a" in arrays else 0
    prefix = f"h.{kept}."
    block = SimpleNamespace(t=arrays["t"], do=arrays.get("do", arrays["t"]), hidden=hidden)
    for name, array in arrays.items():
        if name.startswith(prefix):
            setattr(block, name.removeprefix(prefix), array)
    if "dqkv" in arrays:
        block.dqkv = arrays["dqkv"]
    return block


def block_forward(ops, x, plus, p, s, cfg, keep=None, attend=None):
    """gpt.block_forward, except that the last sum is left to the next norm, which reads x anyway.

    x (N,C) is updated in place, first by plus, which the block before left over (None: nothing).
    Returns what this block leaves over. p: the block's parameters; s: block_arrays. keep: an array
    for the block's input, where it is wanted. attend(qkv, o): what to call in place of
    ops.attention_forward.
    """
    way, layers = way_of(cfg), Layers(ops, p, cfg)
    way.attend_forward(layers, x, plus, s, keep, attend)
    return way.rowwise_forward(layers, x, s)


def block_backward(ops, dx, p, s, cfg, grads, add=False):
    """gpt.block_backward in place: dx (N,C) is the gradient at the output, then at the input.

    The gradients of parameters go into grads, or are added to what is there. What is in s is used
    up. dqkv takes the place of qkv, or its own where s has a dqkv.
    """
    way, layers = way_of(cfg), Layers(ops, p, cfg, grads, add)
    do = way.rowwise_backward(layers, dx, s)
    way.attend_backward(layers, dx, do, s)
    return dx


class Layers:
    """The layers that have parameters, {name: array} in p.

    On the way back, their gradients go into grads, or with add are added to what is there. What has
    no place in grads is frozen. A linear layer with an adapter also goes by way of it (model/lora).
    """

    def __init__(self, ops, p, cfg, grads=None, add=False):
        self.ops = ops
        self.p = p
        self.cfg = cfg
        self.grads = grads
        self.add = add
        self.has_rmsnorm = families.of(cfg) is llama

    def linear(self, x, name, out):
        """The layer's result, in out."""
        w = self.p[f"{name}.weight"]
        b = self.p.get(f"{name}.bias")
        y = self.ops.linear_forward(x, w, b, out=out)
        if f"{name}.lora_A" in self.p:
            self.ops.lora_forward(x, *self.adapter(name), y)
        return y

    def adapter(self, name):
        """A, B and the scale of a layer's adapter."""
        return self.p[f"{name}.lora_A"], self.p[f"{name}.lora_B"], self.p[lora.SCALE]

    def linear_backward(self, dy, x, name, out):
        """dx, in out, which may be x"""
        weight, bias = f"{name}.weight", f"{name}.bias"
        places = out, self.grads.get(weight), self.grads.get(bias)
        w = self.p[weight]
        has_adapter = f"{name}.lora_A" in self.p
        if has_adapter:                             # before dx takes the place of x
            A, B, scale = self.adapter(name)
            of_adapter = self.grads[f"{name}.lora_A"], self.grads[f"{name}.lora_B"]
            dlow = self.ops.lora_backward(dy, x, A, B, scale, of_adapter, self.add)
        self.ops.linear_backward(dy, x, w, places, self.add)
        if has_adapter:
            self.ops.add_product(dlow, A, out, w_t=True)
        return out

    def norm(self, x, name, out, plus=None):
        """out = (the norm's result, n, rstd). First x += plus, where it is given."""
        w = self.p[f"{name}.weight"]
        if self.has_rmsnorm:
            eps = self.cfg.norm_eps
            self.ops.rmsnorm_forward(x, w, eps, out=out, plus=plus)
        else:
            b = self.p[f"{name}.bias"]
            self.ops.layernorm_forward(x, w, b, out=out, plus=plus)

    def norm_backward(self, dy, kept, name, out, plus=None):
        """dx, in out; plus comes down beside the branch. kept: (n, rstd) of the way forward."""
        weight, bias = f"{name}.weight", f"{name}.bias"
        cache = *kept, self.p[weight]
        if self.has_rmsnorm:
            places = out, self.grads.get(weight)
            self.ops.rmsnorm_backward(dy, cache, plus, places, self.add)
        else:
            places = out, self.grads.get(weight), self.grads.get(bias)
            self.ops.layernorm_backward(dy, cache, plus, places, self.add)

    def attention(self, s, attend=None):
        """o, in s, of its qkv. attend(qkv, o): what to call in place of ops.attention_forward."""
        B, _, T, _ = s.lse.shape
        qkv = s.qkv.reshape(B, T, -1)
        o = s.o.reshape(B, T, -1)
        if attend:
            attend(qkv, o)
            return
        n_kv_head, _ = families.kv_heads(self.cfg)
        self.ops.attention_forward(
            qkv,
            self.cfg.n_head,
            out=(o, s.lse),
            hidden=s.hidden,
            n_kv_head=n_kv_head,
        )

    def attention_backward(self, do, s):
        """dqkv, in the place of qkv, or in its own where s has a dqkv."""
        B, _, T, _ = s.lse.shape
        qkv = s.qkv.reshape(B, T, -1)
        o = s.o.reshape(B, T, -1)
        dqkv = getattr(s, "dqkv", s.qkv)
        n_kv_head, _ = families.kv_heads(self.cfg)
        self.ops.attention_backward(
            do.reshape(B, T, -1),
            (qkv, o, s.lse),
            self.cfg.n_head,
            out=dqkv.reshape(B, T, -1),
            hidden=s.hidden,
            n_kv_head=n_kv_head,
        )
        return dqkv


class Trunk:
    """gpt.trunk_forward and gpt.trunk_backward, in arrays of trunk_shapes.

    hidden: as for attention_forward. table: rotary positions, where the model has them
    (walk_llama.rotary_table).
    rows (n,): the rows of which y is wanted, in order; None for all. In the last block nothing
    behind attention is then computed for the others: in the demo's fine-tuning 4 of 10 tokens
    count, and a step takes 9 % less time.
    """

    def __init__(self, ops, params, cfg, arrays, hidden=None, rows=None, table=None):
        self.ops = ops
        self.params = params
        self.cfg = cfg
        self.a = arrays
        self.way = way_of(cfg)
        self.params_of = [layer_params(params, cfg, i) for i in range(cfg.n_layer)]
        self.blocks = [block_arrays(arrays, i, hidden) for i in range(cfg.n_layer)]
        self.table = table
        self.rows = rows
        self.n = len(arrays["x"]) if rows is None else len(rows)

    def forward(self, tokens, positions, attend=None):
        """Fill the first n rows of y, (N,C) after the last norm.

        attend(i, qkv, o): block i's, as in block_forward.
        """
        a = self.a
        x, plus = a["x"], None
        for s in self.blocks:
            s.turn = positions, self.table
        self.way.embed(self.ops, self.params, tokens, positions, x)
        for i in range(self.cfg.n_layer):
            of_block = functools.partial(attend, i) if attend else None
            plus = self.block_forward(i, x, plus, a.get(f"x.{i}"), of_block)
        out = [self.first(a[name]) for name in ("y", "n_f", "rstd_f")]
        Layers(self.ops, self.params, self.cfg).norm(self.first(x), "ln_f", out, plus)

    def block_forward(self, i, x, plus, keep=None, attend=None):
        """block_forward of block i; the last one leaves its results in the first n rows of x."""
        p, s = self.params_of[i], self.blocks[i]
        if self.wants_all(i):
            return block_forward(self.ops, x, plus, p, s, self.cfg, keep, attend)
        layers = Layers(self.ops, p, self.cfg)
        self.way.attend_forward(layers, x, plus, s, keep, attend)
        x[: self.n] = x[self.rows]
        o = s.o[self.rows]
        self.tail = SimpleNamespace(o=o, do=o)      # the first is needed no more for the second
        for name in self.way.OF_EACH_ROW:
            setattr(self.tail, name, self.first(getattr(s, name)))
        return self.way.rowwise_forward(layers, self.first(x), self.tail)

    def backward(self, grads, add):
        """From dy in y to dx in x. The gradients of all but the embeddings go into grads."""
        a = self.a
        layers = Layers(self.ops, self.params, self.cfg, grads, add)
        dy, n, rstd, dx = (self.first(a[name]) for name in ("y", "n_f", "rstd_f", "x"))
        layers.norm_backward(dy, (n, rstd), "ln_f", out=dx)
        names = layer_names(self.cfg) + lora.layer_names(self.cfg)
        for i in reversed(range(self.cfg.n_layer)):
            if f"x.{i}" in a:           # its input is all that was kept
                self.block_forward(i, a[f"x.{i}"], None)
            self.block_backward(i, present(grads, names, i), add)

    def block_backward(self, i, grads, add):
        """block_backward of block i: from dx in x, of the last one in its first n rows."""
        p, s, dx = self.params_of[i], self.blocks[i], self.a["x"]
        if self.wants_all(i):
            block_backward(self.ops, dx, p, s, self.cfg, grads, add)
            return
        layers = Layers(self.ops, p, self.cfg, grads, add)
        do_rows = self.way.rowwise_backward(layers, self.first(dx), self.tail)
        dx_rows = self.first(dx).copy()
        for all_rows, some in ((s.do, do_rows), (dx, dx_rows)):
            all_rows[...] = 0.0
            all_rows[self.rows] = some
        self.way.attend_backward(layers, dx, s.do, s)

    def wants_all(self, i):
        """Whether all rows of what block i computes are wanted."""
        return self.rows is None or i < self.cfg.n_layer - 1

    def first(self, array):
        """The rows that y is wanted of, once they come first."""
        return array[: self.n]
