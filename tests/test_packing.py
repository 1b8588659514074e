"""chat/packing.py: many texts in a row have the gradient of one text a row."""

import numpy as np
import pytest

import align
import gpt
import sample
from chat import packing
from model import fast, parallel, planning
from test_align import behind


def test_packed_conversations_have_the_gradient_of_one_a_row(monkeypatch):
    rng = np.random.default_rng(2)
    cfg = gpt.Config(30, 24, 16, 2, 2)
    params = gpt.init(cfg, 1, np.float64)
    for p in params.values():
        p += 0.2 * rng.standard_normal(p.shape)
    rows = [
        (rng.integers(0, 30, n).tolist(), rng.integers(0, 2, n).tolist())
        for n in (25, 2, 3, 9, 9, 4, 12, 20, 3, 6)
    ]
    tokens, targets, mask = align.pad_rows(rows)
    loss, grads = fast.loss_and_grads(params, cfg, tokens, targets, mask / mask.sum())
    (packed,) = packing.packed(tokens, targets, mask, cfg.n_positions)
    assert (
        packed[0].shape[1] <= 24
        and packed[0].size < 0.5 * tokens.size
        and (packed[2] != 0).sum() == (mask != 0).sum()
    )
    for at_once in (10_000, 48):
        monkeypatch.setattr(planning, "AT_ONCE", at_once)
        added = parallel.Gradients(params, cfg)
        found, n = align.add_conversations(added, rows, cfg.n_positions)
        assert found == pytest.approx(loss, rel=1e-10) and n == mask.sum()
        for k, g in grads.items():
            np.testing.assert_allclose(added.sum[k], g, atol=1e-10 * np.abs(g).max() + 1e-14)


def test_prompts_that_are_shared_change_no_gradient():
    """Rows of many replies behind one prompt, with calls of a tool in them, have the gradient of a
    row for each."""
    rng = np.random.default_rng(5)
    cfg = gpt.Config(30, 24, 16, 2, 2)
    params = gpt.init(cfg, 1, np.float64)
    for p in params.values():
        p += 0.2 * rng.standard_normal(p.shape)
    prompts = [[1, 2, 3]] * 7 + [[1, 2]] * 2 + [[4, 5, 6, 7]] + [[1, 2, 3]] * 2
    replies = [
        sample.Reply(
            rng.integers(0, 30, n).tolist(), [1, *rng.integers(0, 2, n - 1).tolist()], "stop"
        )
        for n in (1, 5, 9, 2, 3, 20, 4, 6, 1, 8, 2, 21)
    ]
    rows = align.policy_rows(behind(prompts, replies))
    weights = rows[2] * rng.standard_normal(rows[2].shape)
    alone_loss, alone = fast.loss_and_grads(params, cfg, rows[0], rows[1], weights)
    shared, loss, grads = (list(packing.shared(*rows[:2], weights, rows[2], cfg.n_positions)), 0.0,
                           None)
    assert (
        max(part[0].shape[1] for part in shared) <= 24
        and sum(part[0].size for part in shared) < 0.7 * rows[0].size
    )
    assert sum((part[2] != 0).sum() for part in shared) == (weights != 0).sum()
    for part in shared:
        more, grads = fast.loss_and_grads(params, cfg, *part[:3], positions=part[3],
                                          segments=part[4], grads=grads, add=grads is not None)
        loss += more
    assert loss == pytest.approx(alone_loss, rel=1e-10)
    for k in grads:
        np.testing.assert_allclose(grads[k], alone[k], atol=1e-10 * np.abs(alone[k]).max() + 1e-14)
    with pytest.raises(ValueError, match="positions and segments"):
        fast.loss_and_grads(
            params, cfg, *part[:3], want_grads=False, positions=part[3], segments=part[4]
        )


def test_rows_stay_short_where_the_context_is_long():
    """Two of the longest texts fit a row, with the prompt that they share, or ROW tokens."""
    texts = [(np.ones(n, int), np.ones(n, int), np.ones(n)) for n in (400, 300, 300, 9)]
    assert packing.row_length(texts, 10 ** 5) == 800 and packing.row_length(texts, 600) == 600
    assert packing.row_length(texts, 10 ** 5, 50) == 900
    assert packing.row_length(texts[3:], 10 ** 5) == packing.ROW
    tokens, targets, values = align.pad_rows([([1] * (n + 1), [1] * (n + 1)) for n in (400, 300)])
    parts = list(packing.packed(*[np.repeat(a, 9, 0) for a in (tokens, targets, values)], 10 ** 5))
    assert sum(part[2].sum() for part in parts) == 9 * 700
    assert max(part[0].shape[1] for part in parts) <= 800
