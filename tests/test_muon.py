"""train.Muon against the singular values, and model/muon.py, its fast twin, beside it."""

import gpt
import numpy as np
import pytest
import train
from model import adamw, cores, muon, parallel

PAIRS = [(train.Muon, muon.Muon), (train.orthogonal, muon.orthogonal)]
CFG = gpt.Config(vocab_size=11, n_positions=6, n_embd=8, n_layer=2, n_head=2)
SHAPES = [(8, 8), (6, 20), (20, 6), (1, 5), (5, 1)]


def by_singular_values(m, rounds=5):
    """orthogonal(), with U, S and V found by LAPACK and the polynomial applied to S alone."""
    u, s, vt = np.linalg.svd(m, full_matrices=False)
    s = s / (np.sqrt(np.sum(m * m)) + 1e-7)
    for _ in range(rounds):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ vt


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("orthogonal", PAIRS[1])
def test_orthogonal_acts_on_the_singular_values_alone(orthogonal, shape):
    """In float64: five rounds of sums of up to 20 products keep 12 of 16 digits."""
    m = np.random.default_rng(0).standard_normal(shape)
    before = m.copy()
    np.testing.assert_allclose(orthogonal(m), by_singular_values(m), rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(m, before)


def test_every_strength_above_a_hundredth_comes_near_1():
    strengths = np.geomspace(0.01, 1.0, 40)
    u, v = (np.linalg.qr(np.random.default_rng(i).standard_normal((40, 40)))[0] for i in (0, 1))
    m = (u * strengths) @ v.T
    m *= 1.0 / np.linalg.norm(m) / strengths.max() * np.linalg.norm(strengths)  # largest: 1
    found = np.linalg.svd(train.orthogonal(m), compute_uv=False)
    weakest = strengths[0] / np.linalg.norm(strengths)
    assert weakest < 0.01 < strengths[10] / np.linalg.norm(strengths)
    assert found.max() < 1.25
    assert (found[:30] > 0.68).all()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_it_equals_the_definition(monkeypatch, n_threads):
    """All parameters and means of a small model after five steps, in float64."""
    monkeypatch.setattr(cores, "N_THREADS", n_threads)
    monkeypatch.setattr(adamw, "BLOCK", 15)
    rng = np.random.default_rng(0)
    more = {"ratio": 5.0, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1}
    plain, fast = (cls(gpt.init(CFG, 0, np.float64), **more) for cls in PAIRS[0])
    names = set(gpt.param_shapes(CFG))
    matrices = {k for k in names if k.startswith("h.") and k.endswith(("attn.weight", "proj.weight",
                                                                       "fc.weight"))}
    for optimizer in (plain, fast):
        assert set(optimizer.mean) == matrices and set(optimizer.m) == names - matrices
    for t in range(1, 6):
        grads = {k: rng.standard_normal(shape) for k, shape in gpt.param_shapes(CFG).items()}
        given = {k: g.copy() for k, g in grads.items()}
        for optimizer in (plain, fast):
            optimizer.step(grads, 0.01 * t, scale=0.5)
        assert fast.t == plain.t == t
        for k in grads:
            np.testing.assert_array_equal(grads[k], given[k])
    for what in ("params", "mean", "m", "v"):
        for k, want in getattr(plain, what).items():
            got = getattr(fast, what)[k]
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12, err_msg=f"{what} of {k}")


@pytest.mark.parametrize("Muon", PAIRS[0])
def test_a_step_by_hand(Muon):
    """Orthogonal gradients: a matrix Q of strengths 1 becomes Q times what the polynomial makes of
    their common strength, and the first step looks ahead to 0.05 + 0.95 * 0.05 of it."""
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    wide = np.linalg.qr(rng.standard_normal((16, 4)))[0].T              # (4,16)
    params = {
        "h.0.attn.c_proj.weight": np.eye(4),
        "h.0.mlp.c_fc.weight": np.ones((4, 16)),
        "h.0.attn.c_attn.weight": np.zeros((4, 12)),
    }
    optimizer = Muon(params, ratio=2.0, weight_decay=0.5)
    three = np.concatenate([q, 10.0 * q, 0.1 * q], axis=1)            # of unequal lengths
    optimizer.step(dict(zip(params, (3.0 * q, wide, three))), lr=0.1)
    strength = 0.5                                                      # 1 / norm of Q
    for _ in range(5):
        strength = 3.4445 * strength - 4.7750 * strength**3 + 2.0315 * strength**5
    near = {"rtol": 1e-4, "atol": 1e-5}                                 # 1e-7 joins each norm
    step = 0.2 * strength
    np.testing.assert_allclose(params["h.0.attn.c_proj.weight"], 0.9 * np.eye(4) - step * q, **near)
    np.testing.assert_allclose(params["h.0.mlp.c_fc.weight"], 0.9 - 2.0 * step * wide, **near)
    np.testing.assert_allclose(
        params["h.0.attn.c_attn.weight"], -step * np.concatenate([q, q, q], axis=1), **near)
    assert optimizer.mean["h.0.attn.c_proj.weight"] == pytest.approx(0.05 * 3.0 * q)


def test_the_mean_looks_one_gradient_ahead():
    """Two steps: the update is made of (1 - momentum) g + momentum mean, not of the mean."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 3, 3))
    params = {"h.0.attn.c_proj.weight": np.zeros((3, 3))}
    optimizer = train.Muon(params, ratio=1.0, momentum=0.8, weight_decay=0.0)
    optimizer.step({"h.0.attn.c_proj.weight": first}, lr=1.0)
    before = params["h.0.attn.c_proj.weight"].copy()
    optimizer.step({"h.0.attn.c_proj.weight": second}, lr=1.0)
    mean = 0.8 * 0.2 * first + 0.2 * second
    update = before - params["h.0.attn.c_proj.weight"]
    want = by_singular_values(0.2 * second + 0.8 * mean)
    np.testing.assert_allclose(update, want, rtol=1e-9, atol=1e-10)


def test_it_moves_the_weights_that_other_processes_see(monkeypatch):
    """parallel.Gradients moves them into shared memory, after the optimizer was made."""
    monkeypatch.setattr(cores, "N_THREADS", 2)
    params = gpt.init(CFG, 0)
    optimizer = muon.Muon(params, ratio=5.0)
    work = parallel.Gradients(params, CFG)
    before = {k: p.copy() for k, p in params.items()}
    rows = np.random.default_rng(0).integers(0, CFG.vocab_size, (4, CFG.n_positions + 1))
    train.add_gradients(work, rows, micro_batch=4)
    optimizer.step(work.sum, lr=0.01)
    work.close()
    assert not [k for k, p in params.items() if np.array_equal(p, before[k])]
