"""model/walk.py: the gradients of a block. tests/test_fast.py has the walk through a model."""

from types import SimpleNamespace

import numpy as np
import pytest

from model import operations, walk
from conftest import check_grad
from test_fast import blocks, in_blocks, randn, same_numbers, tiny  # noqa: F401


@in_blocks
@pytest.mark.parametrize("B", [2, 5])
def test_block_grad(B):
    cfg, params = tiny()
    p, x, dy = walk.layer_params(params, 1), randn(B * 5, cfg.n_embd), randn(B * 5, cfg.n_embd)

    def forward():
        s = SimpleNamespace(
            **{k: np.empty(shape) for k, shape in walk.block_shapes(cfg, B, 5).items()}
        )
        s.t, s.hidden = np.empty_like(x), None
        y = x.copy()
        return y + walk.block_forward(operations, y, None, p, s, cfg.n_head), s

    _, s = forward()
    grads = {k: np.empty_like(a) for k, a in p.items()}
    dx = walk.block_backward(operations, dy.copy(), p, s, cfg.n_head, grads)
    check_grad(
        lambda: (forward()[0] * dy).sum(), {"x": (x, dx), **{k: (p[k], grads[k]) for k in p}}, n=6
    )
