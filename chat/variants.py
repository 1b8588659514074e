"""variants.py: other baselines and normalisers of a policy gradient, beside those of align.py.

Sources: Ahmadian et al. 2024 (RLOO); Shao et al. 2024 (GRPO); Liu et al. 2025 (Dr. GRPO).
"""

import numpy as np



def by_deviation(advantages, rewards):
    """GRPO's first form: divided by the deviation of the group, which is taken with G - 1."""
    return advantages / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)


# --baseline: (advantages, rewards), both (prompts, group) -> (prompts, group)
BASELINES = {
    # reward - mean of the others, which is G / (G - 1) times reward - mean of all
    "rloo": lambda a, r: a * (a.shape[1] / (a.shape[1] - 1)),
    "std": by_deviation,
    # REINFORCE without a baseline: the reward itself
    "none": lambda a, r: r,
}


def per_reply(sampled, longest):
    """GRPO's first form, 1 / (B * tokens of the reply): (B,T) of 0 and 1 -> (B,T)"""
    length = np.maximum(sampled.sum(1, keepdims=True), 1.0)
    return sampled / (len(sampled) * length)


# --normaliser: what a token counts
NORMALISERS = {
    "replies": per_reply,
    # 1 / (B * the longest length that is allowed)
    "constant": lambda sampled, longest: sampled / (len(sampled) * longest),
}
