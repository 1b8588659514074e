"""variants.py: other baselines and normalisers of a policy gradient, beside those of align.py.

    --baseline rloo         what a reply is compared with: the others of its group
               std          GRPO's first form: the advantage divided by the group's deviation
               none         REINFORCE without a baseline: the reward itself
    --normaliser replies    what a token counts: GRPO's first form, divided by the reply's length
                 constant   divided by the longest length that is allowed

Sources: Ahmadian et al. 2024 (RLOO); Shao et al. 2024 (GRPO); Liu et al. 2025 (Dr. GRPO).
"""

import numpy as np

from run import command


def with_the_others(advantages, rewards):
    """Reward - mean of the others, which is G / (G - 1) times reward - mean of all: (P,G)"""
    group = advantages.shape[1]
    return advantages * (group / (group - 1))


def by_deviation(advantages, rewards):
    """(reward - mean) / (deviation + 1e-4), the deviation with G - 1: (P,G)"""
    return advantages / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)


def without(advantages, rewards):
    """The reward itself: (P,G)"""
    return rewards


BASELINES = {
    "rloo": with_the_others,
    "std": by_deviation,
    "none": without,
}


def per_reply(sampled, longest):
    """1 / (B * tokens of the reply): (B,T) of 0 and 1 -> (B,T)"""
    length = np.maximum(sampled.sum(1, keepdims=True), 1.0)
    return sampled / (len(sampled) * length)


def per_longest(sampled, longest):
    """1 / (B * longest): (B,T) of 0 and 1 -> (B,T)"""
    return sampled / (len(sampled) * longest)


NORMALISERS = {
    "replies": per_reply,
    "constant": per_longest,
}


if __name__ == "__main__":
    command.only_imported(__doc__)
