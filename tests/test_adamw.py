"""model/adamw.py: the fast AdamW beside the definition in train.py, with small blocks."""

import numpy as np
import pytest
import train
from model import adamw, cores

PAIRS = [(train.AdamW, adamw.AdamW)]

# Matrices in several blocks, the last one shorter; vectors; two tensors of equal size.
SHAPES = {"w": (5, 3), "b": (4,), "w2": (3, 5), "b2": (4,), "b3": (7,)}


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("block", [4, 15, 131072])
def test_it_equals_the_definition(monkeypatch, block, n_threads):
    """In float64. An update has about 15 roundings of 1e-16 in either version, and five updates
    add up to less than 1e-13; where m is small beside its terms, a factor of ten is lost."""
    monkeypatch.setattr(adamw, "BLOCK", block)
    monkeypatch.setattr(cores, "N_THREADS", n_threads)
    rng = np.random.default_rng(0)
    start = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    (Plain, Fast), = PAIRS
    plain = Plain({k: p.copy() for k, p in start.items()}, 0.9, 0.95, 1e-8, 0.1)
    fast = Fast({k: p.copy() for k, p in start.items()}, 0.9, 0.95, 1e-8, 0.1)
    for t in range(1, 6):
        grads = {k: rng.standard_normal(p.shape) for k, p in start.items()}
        for optimizer in (plain, fast):
            optimizer.step(grads, 0.01 * t, scale=0.5)
        assert fast.t == plain.t == t
        for k in start:
            for what in ("params", "m", "v"):       # a checkpoint holds all three
                got, want = getattr(fast, what)[k], getattr(plain, what)[k]
                np.testing.assert_allclose(got, want, rtol=1e-12, err_msg=f"{what} of {k}")


def test_the_definition_by_hand():
    """One number: two updates, worked out from the formulas of the paper."""
    params = {"w": np.array([[2.0]]), "b": np.array([2.0])}
    optimizer = train.AdamW(params, beta1=0.9, beta2=0.99, eps=0.0, weight_decay=0.5)
    grads = {"w": np.array([[3.0]]), "b": np.array([-3.0])}
    optimizer.step(grads, lr=0.1)           # m / c1 = g and sqrt(v / c2) = |g|: the step is lr
    assert params["w"][0, 0] == pytest.approx(2.0 - 0.1 * (1.0 + 0.5 * 2.0))
    assert params["b"][0] == pytest.approx(2.0 + 0.1)
    before = params["b"][0]
    optimizer.step({name: 0.0 * g for name, g in grads.items()}, lr=0.1)
    m, v = 0.9 * 0.1 * -3.0, 0.99 * 0.01 * 9.0
    step = m / (1 - 0.9 ** 2) / np.sqrt(v / (1 - 0.99 ** 2))
    assert params["b"][0] == pytest.approx(before - 0.1 * step)


def test_it_does_not_depend_on_its_block_size(monkeypatch):
    rng = np.random.default_rng(0)
    start, g = rng.standard_normal((2, 20, 50)).astype(np.float32)
    results = []
    for block in (7, 1000, 999):
        monkeypatch.setattr(adamw, "BLOCK", block)
        params = {"w": start.copy()}
        adamw.AdamW(params).step({"w": g}, 0.1)
        assert (params["w"] != start).all()
        results.append(params["w"])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
