"""objectives.py: what fine-tuning, reinforcement and preferences ask of a model, a few lines each.

All but the last ones know the model only through l, the log-probability of each token it was to say at temperature tau. With z the
logits and y the token, their gradient is one formula,

    dL/dz = w (softmax(z / tau) - onehot(y)) / tau,   w = -dL/dl

which is the weighted cross-entropy of pre-training (gpt.loss_and_grads). An objective is its weights:

    SFT             w = m / sum(m)                                       m: 1 on what is to be learned
    REINFORCE ...   w = c A                                              A: how much better than usual the reply was, c: a normaliser
    PPO, GRPO       w = c A r, 0 where r has gone too far                r = exp(l - l_old)
    KL              w = c beta (exp(d) - 1), d = l_ref - l, or c beta d  k3 and k2
    DPO             w = +-beta sigma(-beta delta) / pairs                delta = (l - l_ref) of the chosen minus that of the rejected

Every function gives the loss too, so that each line can be checked by finite differences (tests/test_objectives.py). At the
end stand what needs more than l: the exact KL and entropy of all logits, and heads with one number a position or a reply.

Sources: Schulman et al. 2017 (PPO); Shao et al. 2024 (GRPO); Ahmadian et al. 2024 (RLOO); Liu et al. 2025 (Dr. GRPO); Yu et al. 2025
(DAPO); Rafailov et al. 2023 (DPO); Ouyang et al. 2022 (the reward model's loss); Schulman 2020 (k1, k2, k3).
"""

import numpy as np

FAR = 20.0          # |l_ref - l| beyond which exp is not taken any further


def sigmoid(x):
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, np.float64)))


# ------------------------------------------------------------------------------------------ how good a reply was


def advantages(rewards, group, baseline="mean"):
    """(prompts * group,) rewards -> (prompts * group,) how much likelier each reply is to become.

    The replies to one prompt are a group. baseline:

    mean   reward - mean of the group
    rloo   reward - mean of the others of the group, which is group / (group - 1) times as much
    std    (reward - mean of the group) / (deviation + 1e-4), as GRPO did first, the deviation with
           group - 1; it makes much of groups that are nearly all right or nearly all wrong
    none   the reward itself: REINFORCE without a baseline

    A group of equal rewards gets zeros from the first three, and its rewards from none.
    ValueError if rloo or std have no other reply to compare with.
    """
    r = np.asarray(rewards, np.float64).reshape(-1, group)
    if baseline not in ("mean", "rloo", "std", "none"):
        raise ValueError(f"baseline {baseline!r}: expected mean, rloo, std or none")
    if baseline in ("rloo", "std") and group < 2:
        raise ValueError(f"baseline {baseline!r}: a group of {group} has nothing to compare a reply with")
    if baseline == "none":
        return r.flatten()
    a = r - r.mean(1, keepdims=True)
    a[np.ptp(r, 1) == 0.0] = 0.0                            # not what rounding made of it
    if baseline == "rloo":
        a *= group / (group - 1)
    elif baseline == "std":
        a /= r.std(1, ddof=1, keepdims=True) + 1e-4
    return a.ravel()


def normaliser(mask, how="tokens", longest=None):
    """(B,T) mask of sampled tokens -> (B,T) what each counts.

    tokens: 1 / all of the batch (DAPO). replies: 1 / (B * tokens of its reply), GRPO's first: long wrong replies are punished less
    a token, so wrong replies grow. constant: 1 / (B * longest) (Dr. GRPO).
    """
    mask = np.asarray(mask, np.float64)
    if how == "tokens":
        return mask / max(mask.sum(), 1.0)
    if how == "replies":
        return mask / (len(mask) * np.maximum(mask.sum(1, keepdims=True), 1.0))
    if how == "constant":
        return mask / (len(mask) * longest)
    raise ValueError(f"normaliser {how!r}: expected tokens, replies or constant")


# -------------------------------------------------------------------- losses of l: (loss, w), arrays (B,T), c from normaliser


def policy(l, c, advantage):
    """REINFORCE, RLOO, GRPO with one step a batch: -sum c A l. advantage (B,)."""
    w = c * advantage[:, None]
    return -float((w * l).sum()), w


def clipped(l, l_old, c, advantage, low=0.2, high=0.2, most=None):
    """PPO's and GRPO's -sum c min(r A, clip(r, 1 - low, 1 + high) A), r = exp(l - l_old). A token whose ratio went past the clip in
    the direction of its advantage has no gradient. most: beyond it neither have unlikely tokens of bad replies (two-sided)."""
    A, r = advantage[:, None], np.exp(np.clip(l - l_old, -FAR, FAR))
    gone = ((A > 0) & (r > 1 + high)) | ((A < 0) & (r < 1 - low))
    if most is not None:
        gone |= (A < 0) & (r > most)
        A_r = np.where(A < 0, np.minimum(r, most), r) * A
    else:
        A_r = r * A
    loss = -float((c * np.minimum(A_r, np.clip(r, 1 - low, 1 + high) * A)).sum())
    return loss, np.where(gone, 0.0, c * A * r)


def cispo(l, l_old, c, advantage, most=5.0):
    """-sum c min(r, most) A l, the ratio taken for a constant: no token loses its gradient."""
    w = c * np.minimum(np.exp(np.clip(l - l_old, -FAR, FAR)), most) * advantage[:, None]
    return -float((w * l).sum()), w


def kl_estimate(l, l_ref, c, kind="k3"):
    """Estimates from sampled tokens of how far the model is from a reference. As a loss k2 pulls like KL(model || reference),
    k3 like KL(reference || model), and k1, whose gradient is zero on average, not at all."""
    d = np.clip(l_ref - l, -FAR, FAR)
    value, w = {"k1": (-d, -np.ones_like(d)), "k2": (0.5 * d * d, d), "k3": (np.expm1(d) - d, np.expm1(d))}[kind]
    return float((c * value).sum()), c * w


def dpo(l, l_ref, mask, beta=0.1, smoothing=0.0, nll=0.0):
    """Rows come in pairs, the chosen reply and then the rejected: -log sigma(beta delta), the mean over pairs, where
    delta = sum of l - l_ref over the chosen's tokens minus that over the rejected's. nll: weight of the chosen's mean -l beside it."""
    mask, n = np.asarray(mask, np.float64), len(l) // 2
    score = ((l - l_ref) * mask).sum(1)
    delta = beta * (score[0::2] - score[1::2])
    loss = float(((1 - smoothing) * np.logaddexp(0, -delta) + smoothing * np.logaddexp(0, delta)).mean())
    u = beta * ((1 - smoothing) * sigmoid(-delta) - smoothing * sigmoid(delta)) / n
    w = np.repeat(u, 2)[:, None] * np.resize([1.0, -1.0], len(l))[:, None] * mask
    if nll:
        each = nll * mask[0::2] / (n * np.maximum(mask[0::2].sum(1, keepdims=True), 1.0))
        loss -= float((each * l[0::2]).sum())
        w[0::2] += each
    return loss, w


# ------------------------------------------------------------------------------- losses of all logits: (loss, dz)


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def exact_kl(z, z_ref, c, temperature=1.0, direction="reverse"):
    """(n,V) logits of model and reference, (n,) c -> the sum of c KL over all tokens that might have been said, and its gradient
    with respect to z. reverse: KL(model || reference), forward: KL(reference || model)."""
    log_p, log_q = log_softmax(z / temperature), log_softmax(z_ref / temperature)
    p, c = np.exp(log_p), np.asarray(c)[:, None]
    if direction == "reverse":
        kl = (p * (log_p - log_q)).sum(-1, keepdims=True)
        return float((c * kl).sum()), c * p * (log_p - log_q - kl) / temperature
    q = np.exp(log_q)
    return float((c * q * (log_q - log_p)).sum()), c * (p - q) / temperature


def entropy(z, c, temperature=1.0):
    """(n,V), (n,) -> sum of c H(softmax(z / temperature)), and its gradient."""
    log_p = log_softmax(z / temperature)
    p, c = np.exp(log_p), np.asarray(c)[:, None]
    H = -(p * log_p).sum(-1, keepdims=True)
    return float((c * H).sum()), -c * p * (log_p + H) / temperature


# ------------------------------------------------------------------------------------------- heads of one number


def preferences(rewards, scores, prompts, margin=0.0, centre=0.0):
    """The reward model's loss. (n,) rewards of replies, (n,) scores people gave them, (n,) which prompt each is a reply to.

    Of each prompt all pairs of replies with different scores are one element: their mean -log sigma(better - worse - margin);
    the loss is the mean over prompts. centre: weight of the mean (better + worse)^2, which keeps rewards about 0.
    Returns (loss, (n,) gradient, pairs that are in order, pairs)."""
    loss, d, right, n_pairs = 0.0, np.zeros(len(rewards)), 0, 0
    groups = [np.flatnonzero(prompts == p) for p in np.unique(prompts)]
    for at in groups:
        better, worse = np.nonzero(scores[at][:, None] > scores[at])
        if not len(better):
            continue
        better, worse, each = at[better], at[worse], 1.0 / (len(better) * len(groups))
        apart, both = rewards[better] - rewards[worse] - margin, rewards[better] + rewards[worse]
        loss += each * float((np.logaddexp(0, -apart) + centre * both * both).sum())
        s, b = each * sigmoid(-apart), 2 * each * centre * both
        np.add.at(d, better, b - s)
        np.add.at(d, worse, b + s)
        right += int((rewards[better] > rewards[worse]).sum())
        n_pairs += len(better)
    return loss, d, right, n_pairs


def value_loss(v, returns, c, v_old=None, clip=0.2):
    """1/2 sum c (v - returns)^2; with v_old PPO's, which takes the worse of v and v kept within clip of v_old. -> (loss, dv)"""
    error = v - returns
    if v_old is None:
        return 0.5 * float((c * error * error).sum()), c * error
    near = v_old + np.clip(v - v_old, -clip, clip)
    free = (np.abs(v - v_old) <= clip) | (error ** 2 >= (near - returns) ** 2)
    return 0.5 * float((c * np.maximum(error ** 2, (near - returns) ** 2)).sum()), np.where(free, c * error, 0.0)


def gae(rewards, values, mask, discount=1.0, decay=0.95):
    """Generalised advantage estimation over the tokens of each row whose mask is 1. (B,T) each -> advantages and returns."""
    advantage, later, value_later = np.zeros(rewards.shape), np.zeros(len(rewards)), np.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        here = mask[:, t] > 0
        error = rewards[:, t] + discount * value_later - values[:, t]
        later = np.where(here, error + discount * decay * later, later)
        value_later = np.where(here, values[:, t], value_later)
        advantage[:, t] = np.where(here, later, 0.0)
    return advantage, np.where(mask > 0, advantage + values, 0.0)
