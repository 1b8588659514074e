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
    p, x, dy = walk.layer_params(params, cfg, 1), randn(B * 5, cfg.n_embd), randn(B * 5, cfg.n_embd)

    def forward():
        s = SimpleNamespace(
            **{k: np.empty(shape) for k, shape in walk.way_of(cfg).block_shapes(cfg, B, 5).items()}
        )
        s.t, s.hidden = np.empty_like(x), None
        s.do = s.t
        y = x.copy()
        return y + walk.block_forward(operations, y, None, p, s, cfg), s

    _, s = forward()
    grads = {k: np.empty_like(a) for k, a in p.items()}
    dx = walk.block_backward(operations, dy.copy(), p, s, cfg, grads)
    check_grad(
        lambda: (forward()[0] * dy).sum(), {"x": (x, dx), **{k: (p[k], grads[k]) for k in p}}, n=6
    )


@in_blocks
@pytest.mark.parametrize("recompute", [False, True])
def test_rows_that_are_not_wanted(recompute):
    """The results and gradients of some rows are those that they have among all rows."""
    cfg, params = tiny()
    check_wanted_rows(cfg, params, recompute)


def check_wanted_rows(cfg, params, recompute):
    """Of either family: some rows wanted give what they give among all."""
    B, T, C = 3, 5, cfg.n_embd
    tokens = np.arange(B * T).reshape(B, T) % cfg.vocab_size
    positions = np.tile(np.arange(T), (B, 1))
    wanted = np.array([1, 4, 5, 11])
    dy = np.zeros((B * T, C))
    dy[wanted] = randn(len(wanted), C)
    table = walk.way_of(cfg).rotary_table(cfg, T, np.dtype(np.float64))

    def gradients(rows, some):
        """y of the wanted rows, dx of all, the gradients of the parameters."""
        arrays = {}
        for name, shape in walk.trunk_shapes(cfg, B, T, True, recompute).items():
            arrays[name] = np.full(shape, np.nan)
        trunk = walk.Trunk(operations, params, cfg, arrays, rows=rows, table=table)
        trunk.forward(tokens, positions)
        y = arrays["y"][some].copy()
        arrays["y"][some] = dy[wanted]
        if rows is None:
            arrays["y"][...] = dy
        grads = {name: np.zeros_like(p) for name, p in params.items()}
        trunk.backward(grads, False)
        return {"y": y, "x": arrays["x"], **grads}

    want, got = gradients(None, wanted), gradients(wanted, slice(len(wanted)))
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-9, atol=1e-12, err_msg=name)
