"""talk/induction.py: heads are scored where they look, and switched off whole."""

import numpy as np

from chat import inside
import gpt
from talk import induction
from web import toyworld
from small_talker import CFG, PARAMS, TOK


def rows():
    """Rows of tokens that are said twice."""
    return induction.rows_of(TOK, toyworld.stream(0, "rows"), list(range(200)))


def test_rows_say_different_tokens_twice():
    found, n = rows(), induction.LENGTH
    assert found.shape == (induction.ROWS, 1 + 2 * n) and (found[:, 0] == TOK.eot_token).all()
    np.testing.assert_array_equal(found[:, 1:n + 1], found[:, n + 1:])
    assert all(len(set(row)) == n for row in found[:, 1:n + 1].tolist())


def test_the_score_is_attention_to_what_came_next(monkeypatch):
    """A made-up head that looks at nothing else scores 1, its neighbours 0."""
    n = induction.LENGTH

    def look(params, cfg, ids):
        attention = np.zeros((2, 2, len(ids), len(ids)))
        for t in range(n + 1, 2 * n + 1):
            earlier = list(ids).index(ids[t])
            attention[0, 0, t, earlier] = 1.0           # the same token
            attention[0, 1, t, earlier + 1] = 1.0       # the one after it
            attention[1, :, t, t - 1] = 1.0             # the one before
        return attention, None

    monkeypatch.setattr(inside, "look", look)
    np.testing.assert_array_equal(induction.scores(PARAMS, CFG, rows()), [[0, 1], [0, 0]])


def test_a_head_that_is_off_adds_nothing(monkeypatch):
    """The same logits as when the head's output is zero."""
    join, tokens = gpt.join_heads, rows()[:4]
    off = gpt.forward(induction.without_heads(PARAMS, CFG, [(0, 1), (1, 1)]), CFG, tokens)[0]

    def without_the_second(x):
        x = x.copy()
        x[:, 1] = 0.0
        return join(x)

    monkeypatch.setattr(gpt, "join_heads", without_the_second)
    np.testing.assert_allclose(off, gpt.forward(PARAMS, CFG, tokens)[0], atol=1e-5)
    assert np.abs(PARAMS["h.0.attn.c_proj.weight"]).min(1).all()        # the model stays


def test_the_second_time_begins_after_its_first_token(monkeypatch):
    losses = np.arange(2.0 * induction.LENGTH)
    monkeypatch.setattr(induction, "losses", lambda *_: losses)
    assert induction.second_time(PARAMS, CFG, rows()) == losses[induction.LENGTH + 1:].mean()
