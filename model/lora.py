"""lora.py: fine-tuning that learns a small change of each matrix, and leaves the model as it is.

To train a whole model takes four times its memory: the weights, a gradient and AdamW's two means of
each. Low-rank adaptation keeps every matrix W (in,out) of the blocks as it is, and learns two thin
matrices beside it, its adapter:

    y = x W + s (x A) B         A (in,r) drawn at random, B (r,out) zero at first, s = alpha / r

At first x A B is 0, so training begins with the very model. Only A and B have gradients and means.
In Llama 3.1 8B, adapters of rank 8 have 21 million numbers beside its 8,030 million.

Afterwards W + s A B is one matrix of the old shape: merged, the model is as fast as before, and any
program that opens the one opens the other. Or the adapter is kept by itself (model/adapters.py).

params is the model's, with the adapter beside it: "h.0.attn.q.lora_A" and "h.0.attn.q.lora_B" for
"h.0.attn.q.weight", and "lora.scale", which is s and never learns. Where there is an adapter, only
its tensors learn (learned). This file is the definition; model/fast.py computes the same faster,
and tests hold the two equal.

    python -m model.lora        check every derivative

Source: Hu et al. 2021.
"""

import argparse
import functools
import math

import numpy as np

import gpt
from model import families, llama
from run import command

SCALE = "lora.scale"
HEAD = "score.weight"           # of a reward model: it is new, so it learns beside the adapter

# ---------------------------------------------------------------------------------------- a layer


def linear_forward(x, w, A, B, scale):
    """y = x w + s (x A) B: (N,in), (in,out), (in,r), (r,out) -> (N,out), cache"""
    low = x @ A                                     # (N,r): all that B gets to see of x
    return x @ w + scale * (low @ B), (x, w, A, B, scale, low)


def linear_backward(dy, cache):
    """(N,out) -> dx (N,in), dA (in,r), dB (r,out). w is frozen: its gradient is never formed.

    That gradient, x^T dy, has as many numbers as w, and to compute it takes a third of the time of
    training a layer. The products below go through r numbers a row instead.
    """
    x, w, A, B, scale, low = cache
    # forward was: y = x w + s low B
    dlow = scale * (dy @ B.T)                       # (N,r)
    dB = scale * (low.T @ dy)
    # forward was: low = x A
    dA = x.T @ dlow
    dx = dy @ w.T + dlow @ A.T
    return dx, dA, dB


def merge_forward(w, A, B, scale):
    """w + s A B: the one matrix that does what the layer does."""
    return w + scale * (A @ B)


def merge_backward(dw, A, B, scale):
    """From the gradient of the merged matrix to dA, dB

    With dw = x^T dy these are the same as above. dA = s (x^T dy) B^T = x^T (s dy B^T): what differs
    is which product comes first, and so how much there is to compute.
    """
    dA = scale * (dw @ B.T)
    dB = scale * (A.T @ dw)
    return dA, dB


# ---------------------------------------------------------------------------------------- adapters


@functools.lru_cache(maxsize=16)
def layers(cfg):
    """{"h.0.attn.q": (in, out)} of all layers that may have an adapter: the blocks' matrices."""
    found = {}
    for name, shape in families.shapes(cfg).items():
        if name.startswith("h.") and len(shape) == 2:
            found[name.removesuffix(".weight")] = shape
    return found


@functools.lru_cache(maxsize=16)
def layer_names(cfg):
    """The names of a block's part of an adapter, without "h.0." before them."""
    of_block = [name.removeprefix("h.0.") for name in layers(cfg) if name.startswith("h.0.")]
    return tuple(f"{layer}.lora_{letter}" for layer in of_block for letter in "AB")


def check_rank(cfg, rank, alpha):
    """ValueError for a rank or an alpha that no adapter of this model can have."""
    name, shape = min(layers(cfg).items(), key=lambda item: min(item[1]))
    if not 1 <= rank <= min(shape):
        raise ValueError(f"LoRA of rank {rank}: expected 1 to {min(shape)}, since "
                         f"{name.partition('.')[2].partition('.')[2]} is {shape[0]} x {shape[1]}")
    if not 0.0 < alpha < math.inf:
        raise ValueError(f"LoRA with alpha {alpha}: expected a finite number above 0")


def init(params, cfg, rank, alpha, seed):
    """A fresh adapter {name: array} for the params of a model.

    A row of normed x has numbers about 1. A is drawn so that x A has too. B is zero, and so is the
    first gradient of A: B learns first.
    """
    check_rank(cfg, rank, alpha)
    dtype = params["wte.weight"].dtype
    rng = np.random.default_rng(seed)
    adapter = {SCALE: np.array(alpha / rank, dtype)}
    for name, (n_in, n_out) in layers(cfg).items():
        drawn = rng.standard_normal((n_in, rank)) / math.sqrt(n_in)
        adapter[f"{name}.lora_A"] = drawn.astype(dtype)
        adapter[f"{name}.lora_B"] = np.zeros((rank, n_out), dtype)
    return adapter


def of_params(params):
    """The adapter beside a model's params; {} where there is none."""
    if SCALE not in params:
        return {}
    names = [name for name in params if name.endswith((".lora_A", ".lora_B"))]
    return {name: params[name] for name in [SCALE, *names]}


def learned(params):
    """{name: array} of what training changes: the adapter's matrices, or all where there is none.

    A reward model's head learns with the adapter. The arrays are those of params.
    """
    adapter = of_params(params)
    if not adapter:
        return params
    del adapter[SCALE]
    return adapter | {HEAD: params[HEAD]} if HEAD in params else adapter


def without(params):
    """The params of the model that an adapter is trained on. No array is copied."""
    adapter = of_params(params)
    return {name: p for name, p in params.items() if name not in adapter}


def check(params, cfg):
    """ValueError where the adapter beside a model does not fit it."""
    adapter = of_params(params)
    scale = adapter.pop(SCALE)
    dtype, shapes = params["wte.weight"].dtype, layers(cfg)
    if scale.shape != () or not 0.0 < scale < math.inf:
        raise ValueError(f"adapter: {SCALE} is {scale}, expected one finite number above 0")
    if not adapter:
        raise ValueError(f"adapter: {SCALE} without any matrix")
    for name, array in adapter.items():
        layer = name.rpartition(".")[0]
        if layer not in shapes:
            raise ValueError(f"adapter: {name} is of no linear layer of the model's blocks")
        pair = [adapter.get(f"{layer}.lora_{letter}") for letter in "AB"]
        found = [getattr(a, "shape", None) for a in pair]
        n_in, n_out = shapes[layer]
        rank = array.shape[name.endswith("A")]
        if found != [(n_in, rank), (rank, n_out)] or not rank:
            raise ValueError(f"adapter: A and B of {layer} have shapes {found[0]} and {found[1]}; "
                             f"expected ({n_in}, r) and (r, {n_out})")
        if array.dtype != dtype:
            raise ValueError(f"adapter: {name} is {array.dtype}, wte.weight {dtype}")


class Merged:
    """w + s A B, computed where it is read: np.asarray(m). So a model is merged matrix by matrix.

    What writes an array into a file asks no more of it than this class has.
    """

    ndim = 2

    def __init__(self, w, A, B, scale):
        self.parts = w, A, B
        self.scale = scale
        self.shape, self.size = w.shape, w.size
        self.dtype = A.dtype
        self.nbytes = self.size * self.dtype.itemsize

    @property
    def T(self):
        """The transpose: (w + s A B)^T = w^T + s B^T A^T"""
        w, A, B = self.parts
        return Merged(w.T, B.T, A.T, self.scale)

    def sum(self):
        """The sum of all numbers."""
        return np.asarray(self).sum()

    def __array__(self, dtype=None, copy=None):
        w, A, B = self.parts
        merged = merge_forward(np.asarray(w), A, B, self.scale)
        return merged.astype(dtype or self.dtype, copy=False)


def merged(params):
    """{name: array} of the whole model, where each matrix with an adapter is a Merged."""
    scale = params[SCALE].item()
    whole = without(params)
    for name in whole:
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_A" in params:
            A, B = params[f"{layer}.lora_A"], params[f"{layer}.lora_B"]
            whole[name] = Merged(whole[name], A, B, scale)
    return whole


# ---------------------------------------------------------------------------------------- the model


def in_memory(params):
    """merged(), computed: {name: array}"""
    return {name: np.asarray(p) for name, p in merged(params).items()}


def forward(params, cfg, tokens):
    """Logits of the next token at every position: (B,T) int -> (B,T,V), cache"""
    return families.of(cfg).forward(in_memory(params), cfg, tokens)


def token_losses(params, cfg, tokens, targets, temperature=1.0):
    """gpt.token_losses: (B,T), (B,T) -> (B,T)"""
    whole = in_memory(params)
    return families.of(cfg).token_losses(whole, cfg, tokens, targets, temperature)


def loss_and_grads(params, cfg, tokens, targets, weights=None, temperature=1.0):
    """gpt.loss_and_grads, with the gradients of the adapter alone, by those of the merged model."""
    family, scale = families.of(cfg), params[SCALE].item()
    loss, of_whole = family.loss_and_grads(
        in_memory(params), cfg, tokens, targets, weights, temperature
    )
    grads = {}
    for layer in layers(cfg):
        a, b = f"{layer}.lora_A", f"{layer}.lora_B"
        if a in params:
            dw = of_whole[f"{layer}.weight"]
            grads[a], grads[b] = merge_backward(dw, params[a], params[b], scale)
    return loss, grads


def decode(params, cfg, tokens, cache):
    """gpt.decode: read new tokens and return the logits of the token after each."""
    return families.of(cfg).decode(in_memory(params), cfg, tokens, cache)


# --------------------------------------------------------------------------- python -m model.lora


EXAMPLES = {"GPT-2": gpt.Config(11, 6, 8, 2, 2), **llama.EXAMPLES}


def check_layer(tolerance=1e-7):
    """The names of the layer's tensors whose derivative by hand is not the measured one."""
    rng = np.random.default_rng(0)
    x, w, A, B = (rng.standard_normal(shape) for shape in ((7, 5), (5, 6), (5, 3), (3, 6)))
    dy = rng.standard_normal((7, 6))
    _, cache = linear_forward(x, w, A, B, 0.7)
    dx, dA, dB = linear_backward(dy, cache)

    def loss():
        return (linear_forward(x, w, A, B, 0.7)[0] * dy).sum()

    tensors = {"x": (x, dx), "A": (A, dA), "B": (B, dB)}
    return llama.wrong_slopes(loss, tensors, rng, tolerance)


def check_gradients(cfg, tolerance=1e-7):
    """As llama.check_gradients, of the tensors of an adapter of rank 2."""
    rng = np.random.default_rng(0)
    params = families.of(cfg).init(cfg, 0, np.float64)
    params.update(init(params, cfg, 2, 3.0, 0))
    for name, p in params.items():
        if name != SCALE:
            p += 0.1 * rng.standard_normal(p.shape)
    tokens, targets = rng.integers(0, cfg.vocab_size, (2, 3, cfg.n_positions))
    weights = rng.standard_normal(tokens.shape)

    def loss():
        return loss_and_grads(params, cfg, tokens, targets, weights, 0.7)[0]

    _, grads = loss_and_grads(params, cfg, tokens, targets, weights, 0.7)
    tensors = {name: (params[name], grad) for name, grad in grads.items()}
    return llama.wrong_slopes(loss, tensors, rng, tolerance)


def main(argv=None):
    """Returns the exit status: 1 if a derivative is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m model.lora", description="Check all derivatives of low-rank adapters.")
    parser.parse_args(argv)
    print(f"{'derivative of the loss by':26} {'by hand':>12} {'error':>9}")
    wrong = [f"the layer's {name}" for name in check_layer()]
    for name, cfg in EXAMPLES.items():
        print(f"{name}: {cfg}")
        wrong += [f"{name}'s {tensor}" for tensor in check_gradients(cfg)]
    print(f"WRONG: {', '.join(wrong)}" if wrong else "All derivatives agree.")
    return 1 if wrong else 0


if __name__ == "__main__":
    command.run(main)
