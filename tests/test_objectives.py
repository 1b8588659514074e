"""align.py: the weights and gradients of its objectives against finite differences of their losses,
through the whole model at a temperature that is not 1.
"""

import numpy as np
import pytest

import align
import gpt
from conftest import check_grad
from model import fast

RNG = np.random.default_rng(0)
B, T, TAU = 4, 6, 1.7
CFG = gpt.Config(vocab_size=13, n_positions=T, n_embd=8, n_layer=2, n_head=2)
TOKENS, TARGETS = RNG.integers(0, 13, (2, B, T))
MASK = (RNG.random((B, T)) < 0.7).astype(float)
MASK[:, 2] = 1.0
ADVANTAGE = np.array([1.0, -1.0, 0.6, -0.4])
REFERENCE = -2.5 + 0.3 * RNG.standard_normal((B, T))


def model():
    params = gpt.init(CFG, 1, np.float64)
    for p in params.values():
        p += 0.2 * RNG.standard_normal(p.shape)
    return params


def log_p(params):
    targets = np.where(MASK > 0, TARGETS, -1)
    return -fast.token_losses(params, CFG, TOKENS, targets, temperature=TAU)


def sft(l):
    """The mean over what is to be learned."""
    return -(MASK * l).sum() / MASK.sum(), align.sft_weights(MASK)


def policy(l):
    """-sum A log p / n"""
    counts = align.normaliser(MASK)
    return -(ADVANTAGE[:, None] * MASK * l).sum() / MASK.sum(), align.policy_weights(
        counts, ADVANTAGE
    )


def grpo(l):
    """GRPO as it was first: a mean over each reply, each group divided by its deviation."""
    rewards = np.array([1, 0, 0.5, 0.2])
    a = align.advantages(rewards, 2, "std")
    loss = -np.mean([a[r] * (MASK[r] * l[r]).sum() / MASK[r].sum() for r in range(B)])
    return loss, align.policy_weights(align.normaliser(MASK, "replies"), a)


def dr_grpo(l):
    """Divided by the longest length that is allowed."""
    a = align.advantages([1, 0, 0.5, 0.2], 2)
    loss = -(a[:, None] * MASK * l).sum() / (B * 9)
    return loss, align.policy_weights(align.normaliser(MASK, "constant", 9), a)


def leash(l):
    """beta / 2 (log p_ref - log p)^2 beside the policy gradient."""
    d = REFERENCE - l
    loss = policy(l)[0] + 0.7 * (MASK * d * d).sum() / 2 / MASK.sum()
    return loss, align.policy_weights(align.normaliser(MASK), ADVANTAGE, 0.7, l, REFERENCE)


def dpo(l):
    """-log sigma(beta delta), pair by pair."""
    gained = ((l - REFERENCE) * MASK).sum(1)
    delta = gained[[0, 2]] - gained[[1, 3]]
    loss, weights = align.dpo_weights(l, REFERENCE, MASK, 0.7)
    assert loss == pytest.approx(np.log1p(np.exp(-0.7 * delta)).mean())
    return loss, weights


@pytest.mark.parametrize("objective", [sft, policy, grpo, dr_grpo, leash, dpo])
def test_weights_are_the_gradient_through_the_model(objective):
    """loss_and_grads with these weights gives the derivatives, by differences of the loss."""
    params = model()
    _, w = objective(log_p(params))
    targets = np.where(MASK > 0, TARGETS, -1)
    _, grads = fast.loss_and_grads(params, CFG, TOKENS, targets, w, temperature=TAU)
    names = ("wte.weight", "h.0.attn.c_attn.weight", "h.1.mlp.c_fc.bias", "ln_f.weight",
             "wpe.weight")
    check_grad(lambda: objective(log_p(params))[0], {k: (params[k], grads[k]) for k in names})


def test_advantages():
    advantages = align.advantages
    found = advantages([1, 0, 0, 0, 1, 1, 1, 1], 4)
    np.testing.assert_allclose(found, [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0])
    r = [1, 0, 0, 1, 0.3, 0.3, 0.3, 0.3]
    assert not advantages(r, 4)[4:].any() and not advantages(r, 4, "std")[4:].any()
    for baseline in ("mean", "rloo", "std"):
        assert np.allclose(advantages(r, 4, baseline).reshape(-1, 4).sum(1), 0)
    others = [
        r[i] - np.mean([r[j] for j in range(i // 4 * 4, i // 4 * 4 + 4) if j != i])
        for i in range(8)
    ]
    assert np.allclose(advantages(r, 4, "rloo"), others)
    assert np.allclose(advantages(r, 4, "rloo"), 4 / 3 * advantages(r, 4))
    assert np.allclose(advantages(r, 4, "none"), r)
    one_of_16, eight_of_16 = [1] + [0] * 15, [1] * 8 + [0] * 8  # the figures in its docstring
    assert advantages(one_of_16, 16, "std")[0] == pytest.approx(3.75, abs=0.005)
    assert advantages(eight_of_16, 16, "std")[0] == pytest.approx(0.97, abs=0.005)
    assert advantages(one_of_16, 16)[0] == pytest.approx(0.94, abs=0.005)
    assert advantages(eight_of_16, 16)[0] == 0.5


def test_normalisers():
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert np.allclose(align.normaliser(mask), mask / 4)
    assert np.allclose(
        align.normaliser(mask, "replies"), [[1 / 9] * 3 + [0], [1 / 3, 0, 0, 0], [0] * 4]
    )
    assert np.allclose(align.normaliser(mask, "constant", 4), mask / 12)
    assert not align.normaliser(0 * mask).any()


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def exact_kl(z, z_ref, c, temperature=1.0):
    """(n,V) logits, (n,) c -> the sum of c KL(model || reference), and its gradient by z."""
    log_p, log_q = log_softmax(z / temperature), log_softmax(z_ref / temperature)
    p, c = np.exp(log_p), np.asarray(c)[:, None]
    kl = (p * (log_p - log_q)).sum(-1, keepdims=True)
    return float((c * kl).sum()), c * p * (log_p - log_q - kl) / temperature


def test_the_leash_pulls_like_the_kl_divergence():
    """On average over what might be sampled, its gradient is that of KL(model || reference)."""
    z, z_ref = RNG.standard_normal((2, 1, 9))
    p, log_p, log_q = np.exp(log_softmax(z))[0], log_softmax(z)[0], log_softmax(z_ref)[0]
    one = np.ones((1, 1))
    w = [
        align.policy_weights(
            one, np.zeros(1), 1.0, log_p[None, i : i + 1], log_q[None, i : i + 1]
        ).item()
        for i in range(9)
    ]
    mean = (p[:, None] * np.array(w)[:, None] * (p[None] - np.eye(9))).sum(0)
    assert np.allclose(mean, exact_kl(z, z_ref, [1.0])[1])
    far = align.policy_weights(one, np.zeros(1), 1.0, -1e4 * one, 0 * one)
    assert far == align.FAR  # a token that is impossible now pulls no harder


def test_exact_kl_through_the_model():
    """A head of all logits on fast.hidden_and_grads."""
    params, reference, c = model(), model(), np.abs(RNG.standard_normal(B * T))
    z_ref = fast.forward(reference, CFG, TOKENS)[0].reshape(B * T, -1)

    def head(y):
        y = y.reshape(B * T, -1)
        loss, dz = exact_kl(y @ params["wte.weight"].T, z_ref, c, TAU)
        return loss, (dz @ params["wte.weight"]).reshape(B, T, -1), dz.T @ y

    _, grads = fast.hidden_and_grads(params, CFG, TOKENS, head)
    names = ("wte.weight", "h.0.attn.c_proj.weight", "ln_f.bias", "wpe.weight")
    check_grad(lambda: fast.hidden_and_grads(params, CFG, TOKENS, head)[0],
               {k: (params[k], grads[k]) for k in names})
    twice = fast.hidden_and_grads(
        params, CFG, TOKENS, head, grads={k: g.copy() for k, g in grads.items()}, add=True
    )[1]
    assert all(np.allclose(twice[k], 2 * grads[k], atol=1e-12) for k in grads)


def test_preferences():
    """Two prompts, of four and of three replies, two of them as good as each other: by hand and by
    finite differences."""
    rewards, scores, prompts = (RNG.standard_normal(7), np.array([3, 1, 1, 0, 2, 1, 0]),
                                np.array([0, 0, 0, 0, 5, 5, 5]))

    def loss_of():
        return align.preferences(rewards, scores, prompts, centre=0.01)

    check_grad(lambda: loss_of()[0], {"r": (rewards, loss_of()[1])})
    loss, d, right, n = align.preferences(rewards, scores, prompts)
    pairs = [[(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)], [(4, 5), (4, 6), (5, 6)]]
    assert n == 8 and right == sum(rewards[i] > rewards[j] for some in pairs for i, j in some)
    assert loss == pytest.approx(
        np.mean(
            [
                np.mean([np.log(1 + np.exp(rewards[j] - rewards[i])) for i, j in some])
                for some in pairs
            ]
        )
    )
    assert abs(d[:4].sum()) < 1e-12 and abs(d[4:].sum()) < 1e-12
    assert align.preferences(rewards + 5, scores, prompts)[0] == pytest.approx(
        loss
    )  # only differences count
    assert align.preferences(rewards, 0 * scores, prompts)[0] == 0.0
