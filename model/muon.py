"""muon.py: train.Muon made fast for NumPy.

The matrices are divided among the cores. A round adds a to the diagonal of b s + c s^2, which makes
the sum a m + (b s + c s^2) m one product, and writes it where there is room already.
tests/test_muon.py holds it equal to the definition.
"""

import math

from model import cores                     # before numpy
from model import adamw
import numpy as np


def optimizer(params, recipe):
    """The optimizer of a recipe: Muon if it names a rate for it, else AdamW."""
    settings = {
        "beta1": recipe.beta1,
        "beta2": recipe.beta2,
        "weight_decay": recipe.weight_decay,
    }
    if recipe.muon:
        return Muon(params, recipe.muon, **settings)
    return adamw.AdamW(params, **settings)


def is_block_matrix(name, shape):
    """Whether a parameter is a matrix of a block."""
    return name.startswith("h.") and len(shape) == 2


def n_parts(name):
    """How many matrices stand side by side in a parameter: in c_attn those of q, k and v."""
    return 3 if "c_attn" in name else 1


def parts_of(name, matrix):
    """The matrices that a parameter consists of, as views."""
    return np.split(matrix, n_parts(name), axis=1)


def orthogonal(m, rounds=5):
    """train.orthogonal: (in, out) -> (in, out)"""
    a, b, c = 3.4445, -4.7750, 2.0315
    if len(m) > m.shape[1]:
        return orthogonal(np.ascontiguousarray(m.T), rounds).T
    m = m / (math.sqrt(np.vdot(m, m)) + 1e-7)
    product = np.empty_like(m)
    for _ in range(rounds):
        squared = m @ m.T
        factor = squared @ squared
        factor *= c
        squared *= b
        factor += squared
        np.einsum("ii->i", factor)[...] += a            # the diagonal, as a view
        np.matmul(factor, m, out=product)
        m, product = product, m
    return m


class Muon(adamw.AdamW):
    """Muon for the matrices of the blocks, AdamW for all else; train.Muon says what and why."""

    def __init__(self, params, ratio, momentum=0.95, **of_adamw):
        matrices = {name: p for name, p in params.items() if is_block_matrix(name, p.shape)}
        others = {name: p for name, p in params.items() if name not in matrices}
        super().__init__(others, **of_adamw)
        self.params = params        # the same dict: parallel.Gradients moves the arrays in it
        self.ratio, self.momentum = ratio, momentum
        self.mean = {name: np.zeros_like(p) for name, p in matrices.items()}

    def step(self, grads, lr, scale=1.0):
        """One update of all parameters, in place, with the gradients times scale."""
        super().step(grads, lr, scale)
        names = [name for name, mean in self.mean.items() if mean.size]     # else another rank's

        def update_matrices(part):
            for name in names[part(len(names))]:
                self._update_matrix(name, scale * grads[name], self.ratio * lr)

        cores.in_parallel(update_matrices)

    def _update_matrix(self, name, g, rate):
        """The update of one matrix by its gradient g, which is used up."""
        p, mean = self.params[name], self.mean[name]
        g *= 1.0 - self.momentum
        mean *= self.momentum
        mean += g
        g += self.momentum * mean
        p *= 1.0 - rate * self.weight_decay
        for part, direction in zip(parts_of(name, p), parts_of(name, g)):
            n_in, n_out = part.shape
            part -= rate * math.sqrt(max(1.0, n_out / n_in)) * orthogonal(direction)
