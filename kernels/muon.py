"""muon.py: train.Muon for a matrix on a GPU, by matrix products and the kernels of muon.cu.

The sums over many steps, mean and master, are float32. The five rounds of products have the number
type of x. Where the model computes in bfloat16 the rounds do so too, summed in float32, as in the
published implementations: products in float32 take 10 to 15 times as long on such a GPU, and the
rounds leave the strengths of a matrix between 0.7 and 1.2 anyway.
"""

import math

import numpy as np

from kernels import cublas
from kernels.checks import apart, check, check_each, real
from kernels.launching import ceil_div, launch, scratch

A, B, C = 3.4445, -4.7750, 2.0315           # train.orthogonal
STRIP = 256                                 # columns of a block, a thread each
MOST_BLOCKS = 1024


def _grid(shape):
    """Blocks for the columns of a matrix, and for shares of its rows."""
    rows, columns = shape
    strips = ceil_div(columns, STRIP)
    shares = min(rows, ceil_div(MOST_BLOCKS, strips))
    return strips, shares


def _sizes(whole, x, first):
    """Rows, columns, first and stride as the kernels take them.

    ValueError unless x (in, out) is a matrix and whole (in, stride) has its columns from first on.
    """
    check("x", x, x.shape, real("x", x))
    rows, columns = x.shape
    stride = whole.shape[-1]
    if not 0 <= first <= stride - columns:
        raise ValueError(f"columns {first} to {first + columns}, expected 0 to {stride} at most")
    return rows, columns, first, stride


def look_ahead(grads, mean, x, state, momentum, first=0):
    """Move mean by the gradients, which become the look-ahead. x becomes that divided by its norm.

    grads, mean (in, stride) float32 are the whole matrix, x (in, out) its columns from first on.
    state (3,): that of grad_norm. If the step is skipped, grads and mean stay as they are.
    """
    sizes = _sizes(grads, x, first)
    check_each({"grads": grads, "mean": mean}, (len(x), grads.shape[-1]), np.float32)
    check("state", state, (3,), np.float32)
    outputs = {"grads": grads, "mean": mean, "x": x}
    apart(outputs, {"state": state})
    grid = _grid(x.shape)
    partial = scratch(grid)
    launch(
        "muon.cu", "muon_mean", np.float32, grid, STRIP,
        grads, mean, state, partial, *sizes, momentum,
    )
    launch(
        "muon.cu", "muon_start", x.dtype, grid, STRIP,
        grads, partial, x, partial.size, *sizes,
    )


def newton_schulz(x, spare, squared, factor, rounds=5):
    """train.orthogonal of x (in, out) divided by its norm. Returns x or spare, which are used up.

    spare is as x. squared and factor (n,n), n the smaller of both sides: the product of x with its
    transpose is made on that side, so that a tall matrix need not be turned.
    """
    n = min(x.shape)
    is_wide = n == len(x)
    dtype = real("x", x)
    of_x = {"x": x, "spare": spare}
    of_square = {"squared": squared, "factor": factor}
    check_each(of_x, x.shape, dtype)
    check_each(of_square, (n, n), dtype)
    apart({**of_x, **of_square}, {})
    for _ in range(rounds):
        cublas.multiply(x, x, squared, x_t=not is_wide, w_t=is_wide)
        cublas.multiply(squared, squared, factor)
        launch(
            "muon.cu", "muon_factor", dtype, _grid((n, n)), STRIP,
            squared, factor, n, A, B, C,
        )
        if is_wide:
            cublas.multiply(factor, x, spare)
        else:
            cublas.multiply(x, factor, spare)
        x, spare = spare, x
    return x


def update(master, params, x, state, rates, ratio, decay, first=0):
    """Move a part of master (in, stride) along x (in, out), and let it decay.

    params: the copy of master in bfloat16, or None. state, rates (3,): those of adamw, of which
    the skipped step and lr are used. ratio: Muon's rate beside lr.
    """
    sizes = _sizes(master, x, first)
    check("master", master, (len(x), master.shape[-1]), np.float32)
    check_each({"params": params}, master.shape, x.dtype)
    check_each({"state": state, "rates": rates}, (3,), np.float32)
    inputs = {"x": x, "state": state, "rates": rates}
    apart({"master": master, "params": params}, inputs)
    n_in, n_out = x.shape
    length = math.sqrt(max(1.0, n_out / n_in))
    launch(
        "muon.cu", "muon_update", x.dtype, _grid(x.shape), STRIP,
        master, params, x, state, rates, *sizes,
        float(ratio), length, float(decay),
    )


def step(
    grads, mean, master, params, state, rates, memory, n_parts, ratio, momentum, decay,
):
    """A step of train.Muon for one matrix of n_parts side by side, each orthogonal by itself.

    memory: {name: array} of the shapes of the largest part, in the number type of the rounds.
    """
    n_in, stride = grads.shape
    n_out = stride // n_parts
    views = {}
    for name, shape in memory_shapes((n_in, n_out)).items():
        size = math.prod(shape)
        views[name] = memory[name].reshape(-1)[:size].reshape(shape)
    x = views["x"]
    for first in range(0, stride, n_out):
        look_ahead(grads, mean, x, state, momentum, first)
        moved = newton_schulz(**views)
        update(master, params, moved, state, rates, ratio, decay, first)


def memory_shapes(part):
    """{name: shape} of what a step works in, for a part (in, out) or smaller ones."""
    n = min(part)
    return {
        "x": part,
        "spare": part,
        "squared": (n, n),
        "factor": (n, n),
    }
