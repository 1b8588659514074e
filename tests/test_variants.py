"""chat/variants.py: baselines and normalisers, reply by reply and token by token from their
formulas."""

import numpy as np
import pytest

import align
from chat import variants


def test_advantages_are_their_formulas():
    """Each baseline reply by reply, from the sum of squares and the others of its group; groups of
    equal rewards are among them."""
    rng = np.random.default_rng(3)
    for group in (2, 3, 8):
        rewards = np.concatenate(
            [rng.standard_normal(group * 5), np.full(group, 0.3), rng.integers(0, 2, group * 4)]
        )
        want = {"mean": [], "rloo": [], "std": [], "none": []}
        for i, r in enumerate(rewards):
            g = rewards[i // group * group : (i // group + 1) * group].tolist()
            mean = sum(g) / group
            others = (sum(g) - r) / (group - 1)
            deviation = (sum((x - mean) ** 2 for x in g) / (group - 1)) ** 0.5
            want["mean"].append(r - mean)
            want["rloo"].append(r - others)
            want["std"].append((r - mean) / (deviation + 1e-4))
            want["none"].append(r)
        for baseline, by_hand in want.items():
            given = rewards.copy()
            found = align.advantages(given, group, baseline)
            np.testing.assert_allclose(found, by_hand, atol=1e-12)
            assert (
                found[group * 5 : group * 6] == (0.3 if baseline == "none" else 0)
            ).all()  # equal rewards: exactly
            found[:] = 7
            assert (given == rewards).all()  # an array of its own
    assert align.advantages([0.5, 2.0], 1, "none").tolist() == [0.5, 2.0] and align.advantages(
        [0.5], 1
    ).tolist() == [0.0]
    assert set(variants.BASELINES) == want.keys() - {"mean"}


def test_normalisers_are_their_formulas():
    rng = np.random.default_rng(4)
    mask = rng.integers(0, 2, (6, 9))
    mask[2] = 0
    for how in ("tokens", "replies", "constant"):
        found = align.normaliser(mask, how, 11)
        for r, t in np.ndindex(mask.shape):
            n = {"tokens": sum(map(sum, mask.tolist())),
                 "replies": 6 * max(1, sum(mask[r].tolist())), "constant": 6 * 11}[how]
            assert found[r, t] == pytest.approx(mask[r, t] / n)
    assert set(variants.NORMALISERS) == {"replies", "constant"}
