"""chat/objectives.py: every weight and gradient against finite differences, through the whole model at a temperature that is not 1."""

import numpy as np
import pytest

from model import fast
import gpt
from chat import objectives as o
from conftest import check_grad

RNG = np.random.default_rng(0)
B, T, TAU = 4, 6, 1.7
CFG = gpt.Config(vocab_size=13, n_positions=T, n_embd=8, n_layer=2, n_head=2)
TOKENS, TARGETS = RNG.integers(0, 13, (2, B, T))
MASK = (RNG.random((B, T)) < 0.7).astype(float)
MASK[:, 2] = 1.0
ADVANTAGE = np.array([1.0, -1.0, 0.6, -0.4])
L_OLD, L_REF = (-2.5 + 0.3 * RNG.standard_normal((B, T)) for _ in "or")


def model():
    params = gpt.init(CFG, 1, np.float64)
    for p in params.values():
        p += 0.2 * RNG.standard_normal(p.shape)
    return params


def said(params):
    return -fast.token_losses(params, CFG, TOKENS, np.where(MASK > 0, TARGETS, -1), temperature=TAU)


C = o.normaliser(MASK)
OBJECTIVES = {
    "sft": lambda l: o.policy(l, C, np.ones(B)),
    "reinforce": lambda l: o.policy(l, C, ADVANTAGE),
    "grpo with both biases": lambda l: o.policy(l, o.normaliser(MASK, "replies"), o.advantages([1, 0, 0.5, 0.2], 2, "std")),
    "dr grpo": lambda l: o.policy(l, o.normaliser(MASK, "constant", 9), o.advantages([1, 0, 0.5, 0.2], 2)),
    "clipped": lambda l: o.clipped(l, L_OLD, C, ADVANTAGE, 0.1, 0.3),
    "clipped on both sides": lambda l: o.clipped(l, L_OLD, C, ADVANTAGE, 0.2, 0.2, 1.15),
    "k2": lambda l: o.kl_estimate(l, L_REF, C, "k2"),
    "k3": lambda l: o.kl_estimate(l, L_REF, C, "k3"),
    "k1": lambda l: o.kl_estimate(l, L_REF, C, "k1"),
    "dpo": lambda l: o.dpo(l, L_REF, MASK, 0.7),
    "dpo, smoothed, with likelihood": lambda l: o.dpo(l, L_REF, MASK, 0.7, 0.1, 0.2),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_weights_are_the_gradient_through_the_model(name):
    """d loss / d parameters = loss_and_grads with these weights, by finite differences of the loss itself."""
    params, objective = model(), OBJECTIVES[name]
    _, w = objective(said(params))
    targets = np.where(MASK > 0, TARGETS, -1)
    _, grads = fast.loss_and_grads(params, CFG, TOKENS, targets, w, temperature=TAU)
    names = ("wte.weight", "h.0.attn.c_attn.weight", "h.1.mlp.c_fc.bias", "ln_f.weight", "wpe.weight")
    check_grad(lambda: objective(said(params))[0], {k: (params[k], grads[k]) for k in names})


def test_the_ratio_as_a_constant():
    """CISPO's weight is that of a loss whose ratios are frozen where they are."""
    l = L_OLD + 0.5 * RNG.standard_normal(L_OLD.shape)
    loss, w = o.cispo(l, L_OLD, C, ADVANTAGE, 1.2)
    frozen = np.minimum(np.exp(l - L_OLD), 1.2)
    assert np.allclose(w, C * frozen * ADVANTAGE[:, None]) and np.isclose(loss, -(C * frozen * ADVANTAGE[:, None] * l).sum())
    assert (w[MASK > 0] != 0).all()                         # also of tokens that PPO would have clipped


def test_who_is_clipped():
    """The four cases of sign and side, and the two-sided bound."""
    l, one = np.log([[1.5, 0.5], [1.5, 0.5]]), np.ones((2, 2))
    A = np.array([1.0, -1.0])
    assert np.allclose(o.clipped(l, 0 * l, one, A)[1], [[0, 0.5], [-1.5, 0]])
    assert np.allclose(o.clipped(l, 0 * l, one, A, most=1.4)[1], [[0, 0.5], [0, 0]])
    assert np.allclose(o.clipped(0 * l, 0 * l, one, A)[1], o.policy(l, one, A)[1])      # on policy nothing is clipped
    assert np.isfinite(o.clipped(l + 1e4, 0 * l, one, A)[0]) and np.isfinite(o.kl_estimate(l - 1e4, 0 * l, one)[1]).all()


def test_advantages():
    np.testing.assert_allclose(o.advantages([1, 0, 0, 0, 1, 1, 1, 1], 4), [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0])
    r = [1, 0, 0, 1, 0.3, 0.3, 0.3, 0.3]
    assert not o.advantages(r, 4)[4:].any() and not o.advantages(r, 4, "std")[4:].any()
    for baseline in ("mean", "rloo", "std"):
        assert np.allclose(o.advantages(r, 4, baseline).reshape(-1, 4).sum(1), 0)
    others = [r[i] - np.mean([r[j] for j in range(i // 4 * 4, i // 4 * 4 + 4) if j != i]) for i in range(8)]
    assert np.allclose(o.advantages(r, 4, "rloo"), others)
    assert np.allclose(o.advantages(r, 4, "rloo"), 4 / 3 * o.advantages(r, 4))
    assert np.allclose(o.advantages(r, 4, "none"), r)
    with pytest.raises(ValueError, match="'median'"):
        o.advantages(r, 4, "median")


def test_normalisers():
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert np.allclose(o.normaliser(mask), mask / 4)
    assert np.allclose(o.normaliser(mask, "replies"), [[1 / 9] * 3 + [0], [1 / 3, 0, 0, 0], [0] * 4])
    assert np.allclose(o.normaliser(mask, "constant", 4), mask / 12)
    assert not o.normaliser(0 * mask).any()


def test_what_the_estimates_estimate():
    """On policy k1, k2 and k3 have KL(model || reference) as their mean or nearly so; the gradient of k2 is that of KL(model ||
    reference), that of k3 of KL(reference || model), that of k1 zero: facts the choice of an estimate hangs on."""
    z, z_ref = RNG.standard_normal((2, 1, 9))
    p, log_p, log_q = np.exp(o.log_softmax(z))[0], o.log_softmax(z)[0], o.log_softmax(z_ref)[0]
    every = np.arange(9)

    def mean_gradient(kind):                                # over what might be sampled, of E[w (p - onehot)]
        w = np.array([o.kl_estimate(log_p[None, i:i + 1], log_q[None, i:i + 1], np.ones((1, 1)), kind)[1].item() for i in every])
        return (p[:, None] * w[:, None] * (p[None] - np.eye(9))).sum(0)

    assert np.allclose(mean_gradient("k2"), o.exact_kl(z, z_ref, [1.0])[1])
    assert np.allclose(mean_gradient("k3"), o.exact_kl(z, z_ref, [1.0], direction="forward")[1])
    assert np.allclose(mean_gradient("k1"), 0)
    for kind in ("k1", "k3"):
        value = sum(p[i] * o.kl_estimate(log_p[None, i:i + 1], log_q[None, i:i + 1], np.ones((1, 1)), kind)[0] for i in every)
        assert np.isclose(value, o.exact_kl(z, z_ref, [1.0])[0])


@pytest.mark.parametrize("name", ["reverse", "forward", "entropy"])
def test_gradients_of_all_logits(name):
    z, z_ref, c = RNG.standard_normal((5, 7)), RNG.standard_normal((5, 7)), RNG.standard_normal(5)

    def f():
        return o.entropy(z, c, TAU) if name == "entropy" else o.exact_kl(z, z_ref, c, TAU, name)

    check_grad(lambda: f()[0], {"z": (z, f()[1])}, n=35)
    assert o.entropy(np.zeros((1, 8)), [1.0])[0] == pytest.approx(np.log(8)) and o.exact_kl(z, z, c)[0] == 0.0


def test_exact_kl_through_the_model():
    """A head of all logits on fast.hidden_and_grads."""
    params, reference, c = model(), model(), np.abs(RNG.standard_normal(B * T))
    z_ref = fast.forward(reference, CFG, TOKENS)[0].reshape(B * T, -1)

    def head(y):
        y = y.reshape(B * T, -1)
        loss, dz = o.exact_kl(y @ params["wte.weight"].T, z_ref, c, TAU)
        return loss, (dz @ params["wte.weight"]).reshape(B, T, -1), dz.T @ y

    _, grads = fast.hidden_and_grads(params, CFG, TOKENS, head)
    names = ("wte.weight", "h.0.attn.c_proj.weight", "ln_f.bias", "wpe.weight")
    check_grad(lambda: fast.hidden_and_grads(params, CFG, TOKENS, head)[0], {k: (params[k], grads[k]) for k in names})
    twice = fast.hidden_and_grads(params, CFG, TOKENS, head, grads={k: g.copy() for k, g in grads.items()}, add=True)[1]
    assert all(np.allclose(twice[k], 2 * grads[k], atol=1e-12) for k in grads)


def test_preferences():
    """Two prompts, of four and of three replies, two of them as good as each other: by hand and by finite differences."""
    rewards, scores, prompts = RNG.standard_normal(7), np.array([3, 1, 1, 0, 2, 1, 0]), np.array([0, 0, 0, 0, 5, 5, 5])
    check_grad(lambda: o.preferences(rewards, scores, prompts, 0.3, 0.01)[0], {"r": (rewards, o.preferences(rewards, scores, prompts, 0.3, 0.01)[1])})
    loss, d, right, n = o.preferences(rewards, scores, prompts)
    pairs = [[(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)], [(4, 5), (4, 6), (5, 6)]]
    assert n == 8 and right == sum(rewards[i] > rewards[j] for some in pairs for i, j in some)
    assert loss == pytest.approx(np.mean([np.mean([np.log(1 + np.exp(rewards[j] - rewards[i])) for i, j in some]) for some in pairs]))
    assert abs(d[:4].sum()) < 1e-12 and abs(d[4:].sum()) < 1e-12
    assert o.preferences(rewards + 5, scores, prompts)[0] == pytest.approx(loss)        # only differences count
    assert o.preferences(rewards, 0 * scores, prompts)[0] == 0.0


def test_values():
    v, returns, old, c = (RNG.standard_normal((3, 5)) for _ in range(4))
    for v_old in (None, old, v + 0.05):
        check_grad(lambda v_old=v_old: o.value_loss(v, returns, c ** 2, v_old)[0], {"v": (v, o.value_loss(v, returns, c ** 2, v_old)[1])}, n=15)


def test_advantages_of_tokens():
    """Against the sum that defines them, with gaps where a tool wrote."""
    rewards, values, mask = RNG.standard_normal((3, 6)), RNG.standard_normal((3, 6)), np.array([[0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]])
    advantage, returns = o.gae(rewards, values, mask, 0.9, 0.8)
    for row in range(3):
        at = np.flatnonzero(mask[row])
        next_value = [*values[row, at[1:]], 0.0]
        error = rewards[row, at] + 0.9 * np.array(next_value) - values[row, at]
        want = [sum((0.9 * 0.8) ** k * error[i + k] for k in range(len(at) - i)) for i in range(len(at))]
        assert np.allclose(advantage[row, at], want) and np.allclose(returns[row, at], want + values[row, at])
    assert not advantage[mask == 0].any()
