"""chat/induction.py: texts that say everything twice, and heads scored by where they look."""

import random

import numpy as np
import pytest

import gpt
from chat import inside, induction
from model import fast, llama
from small_talker import CFG, PARAMS, TOK
from test_llama import random_params

N = 6


def rows(n_rows=8):
    """Rows of N tokens that are said twice."""
    return induction.rows_of(TOK, random.Random(0), list(range(200)), n_rows, N)


def test_rows_say_different_tokens_twice():
    found = rows()
    assert found.shape == (8, 1 + 2 * N) and (found[:, 0] == TOK.eot_token).all()
    np.testing.assert_array_equal(found[:, 1:N + 1], found[:, N + 1:])
    assert all(len(set(row)) == N for row in found[:, 1:N + 1].tolist())
    assert induction.length_of(found) == induction.length_of(found[:, 1:]) == N


def test_ordinary_tokens():
    """No special token, and no part of a character."""
    found = induction.ordinary_tokens(TOK)
    assert ord("a") in found and 0xe4 not in found
    assert not set(found) & set(TOK.special_tokens.values())
    assert all(TOK.encode_ordinary(TOK.decode([i])) for i in found)


def test_the_score_is_attention_to_what_came_next(monkeypatch):
    """A made-up head that looks at nothing else scores 1, the others 0."""
    def attention_of(cache):
        tokens = cache[0]
        seen = np.zeros((2, len(tokens), 2, *[tokens.shape[1]] * 2))
        for row, ids in enumerate(tokens.tolist()):
            for t in range(len(ids) - N, len(ids)):
                earlier = ids.index(ids[t])
                seen[0, row, 0, t, earlier] = 1.0               # the same token
                seen[0, row, 1, t, earlier + 1] = 1.0           # the one after it
                seen[1, row, :, t, t - 1] = 1.0                 # the one before
        return seen

    monkeypatch.setattr(inside, "attention_of", attention_of)
    for found in (rows(), rows()[:, 1:]):           # with and without a token that begins them
        scores = induction.scores(PARAMS, CFG, found)
        np.testing.assert_array_equal(scores, [[0, 1], [0, 0]])


def test_scores_are_means_over_the_rows():
    """Each row alone, by the attention that the page shows."""
    found, alone = rows(), []
    for row in found:
        seen, _ = inside.look(PARAMS, CFG, row)
        reading = range(N + 1, 2 * N)
        alone.append(sum(seen[:, :, t, t - N + 1] for t in reading) / (N - 1))
    np.testing.assert_allclose(induction.scores(PARAMS, CFG, found), np.mean(alone, 0), rtol=1e-5)


def test_scores_of_grouped_heads():
    """Each query head has its score, also where several share one key head."""
    cfg = llama.EXAMPLES["Llama"]
    found = np.array([[1, 2, 3, 1, 2, 3]])
    scores = induction.scores(random_params(cfg), cfg, found)
    assert scores.shape == (cfg.n_layer, cfg.n_head) and (scores > 0).all()
    assert len(set(scores.ravel().tolist())) == scores.size


def test_an_induction_head_is_found():
    """A model made by hand: a head of layer 2 looks at the token behind the earlier copy.

    The channels are four blocks, a token's own vector and the one before it. Layer 1 copies the
    vector of the place before into the second block, found by its position; the head of layer 2
    looks for the place whose second block is its own token. The first place has none before it and
    copies itself, so one of the five tokens that are read finds itself there.
    """
    V, T, E = 20, 2 * N, 32
    cfg = gpt.Config(V, T, 4 * E, 2, 1)
    rng = np.random.default_rng(0)
    params = {name: np.zeros(shape) for name, shape in gpt.param_shapes(cfg).items()}
    for name in params:
        if "ln_" in name and name.endswith("weight"):
            params[name][...] = 1
    signs = rng.choice([-1.0, 1.0], (V + 2 * T, E))
    tokens, places = signs[:V], signs[V:V + T]
    params["wte.weight"][:, :E] = tokens
    params["wpe.weight"][:, 2 * E:3 * E] = places
    params["wpe.weight"][1:, 3 * E:] = places[:-1]              # the place before
    for layer, query, key, value, to in ((0, 3, 2, 0, 1), (1, 0, 1, 0, 2)):
        c_attn = params[f"h.{layer}.attn.c_attn.weight"]
        block = [slice(i * E, (i + 1) * E) for i in range(4)]
        c_attn[block[query], :E] = 20 * np.eye(E)
        c_attn[block[key], 4 * E:5 * E] = np.eye(E)
        c_attn[block[value], 8 * E:9 * E] = np.eye(E)
        params[f"h.{layer}.attn.c_proj.weight"][:E, block[to]] = np.eye(E)
    once = rng.permutation(V)[:N]
    scores = induction.scores(params, cfg, np.concatenate([once, once])[None])
    assert scores[1, 0] == pytest.approx(0.8, abs=0.01) and scores[0, 0] < 0.01


def test_the_second_time_begins_after_its_first_token(monkeypatch):
    found = rows()
    own = induction.losses(PARAMS, CFG, found)
    want = fast.token_losses(PARAMS, CFG, found[:, :-1], found[:, 1:]).mean(0)
    np.testing.assert_array_equal(own, want)
    monkeypatch.setattr(induction, "losses", lambda *_: np.arange(2.0 * N))
    assert induction.second_time(PARAMS, CFG, found) == np.arange(2.0 * N)[N + 1:].mean()
