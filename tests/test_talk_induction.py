"""talk/induction.py: heads are switched off whole. tests/test_induction.py has their scores."""

import numpy as np

from chat import induction as scoring, patching
import gpt
from talk import induction
from web import toyworld
from small_talker import CFG, PARAMS, TOK


def rows():
    """Rows of tokens that are said twice."""
    rng, n = toyworld.stream(0, "rows"), induction.LENGTH
    return scoring.rows_of(TOK, rng, list(range(200)), induction.ROWS, n)


def test_a_head_that_is_off_adds_nothing(monkeypatch):
    """The same logits as when the head's output is zero, and as chat/patching.py makes it so."""
    join, tokens = gpt.join_heads, rows()[:4]
    off = gpt.forward(induction.without_heads(PARAMS, CFG, [(0, 1), (1, 1)]), CFG, tokens)[0]
    change = patching.change_of(CFG, off=["1.2", "2.2"])
    for ids, logits in zip(tokens, off):
        patched = patching.changed(PARAMS, CFG, ids, change)
        np.testing.assert_allclose(logits, patched, atol=1e-5)

    def without_the_second(x):
        x = x.copy()
        x[:, 1] = 0.0
        return join(x)

    monkeypatch.setattr(gpt, "join_heads", without_the_second)
    np.testing.assert_allclose(off, gpt.forward(PARAMS, CFG, tokens)[0], atol=1e-5)
    assert np.abs(PARAMS["h.0.attn.c_proj.weight"]).min(1).all()        # the model stays


def test_the_heads_with_the_best_scores_are_switched_off(monkeypatch, capsys):
    """And the others in their place."""
    monkeypatch.setattr(induction, "scores", lambda *_: np.array([[0.1, 0.8], [0.7, 0.2]]))
    monkeypatch.setattr(induction, "second_time", lambda params, cfg, rows: params)
    switched = []

    def without_heads(params, cfg, heads):
        switched.append(heads)
        return 1.0

    monkeypatch.setattr(induction, "without_heads", without_heads)
    found = induction.switch_off(2.0, CFG, rows(), toyworld.stream(0, "x"))
    assert switched[-1] == [(0, 1), (1, 0)]
    assert all(set(heads) == {(0, 0), (1, 1)} for heads in switched[:-1])
    assert found["attention of those heads"] == 0.75
    assert "1.2 80%, 2.1 70%" in capsys.readouterr().out
