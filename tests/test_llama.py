"""model/llama.py: derivatives, positions, grouped heads, the cache."""

import numpy as np
import pytest

import gpt
from model import llama

CASES = list(llama.EXAMPLES.items())
IDS = [name for name, _ in CASES]


def random_params(cfg, seed=0):
    """Parameters in float64, away from the start, where many gradients are 0."""
    rng = np.random.default_rng(seed)
    params = llama.init(cfg, seed, np.float64)
    for p in params.values():
        p += 0.1 * rng.standard_normal(p.shape)
    return params


def tokens_for(cfg, batch=3, seed=1):
    return np.random.default_rng(seed).integers(0, cfg.vocab_size, (batch, cfg.n_positions))


@pytest.mark.parametrize("cfg", [cfg for _, cfg in CASES], ids=IDS)
def test_every_derivative_is_the_measured_one(cfg, capsys):
    assert llama.check_gradients(cfg) == []
    assert len(capsys.readouterr().out.splitlines()) == len(llama.param_shapes(cfg))


def test_the_check_finds_a_wrong_derivative(monkeypatch, capsys):
    right = llama.swiglu_backward
    monkeypatch.setattr(llama, "swiglu_backward", lambda dh, cache: right(dh, cache)[::-1])
    wrong = llama.check_gradients(llama.EXAMPLES["Llama"])
    assert "h.0.mlp.gate.weight" in wrong
    assert "h.1.mlp.down.weight" not in wrong       # it lies before the fault on the way back


def test_main_names_what_is_wrong(monkeypatch, capsys):
    assert llama.main([]) == 0
    monkeypatch.setattr(llama, "rotary_backward", lambda dy, cos, sin: dy)
    assert llama.main([]) == 1
    assert "Qwen 3's h.0.attn.q.weight" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("cfg", [cfg for _, cfg in CASES], ids=IDS)
def test_decode_in_pieces_equals_forward(cfg):
    params, tokens = random_params(cfg), tokens_for(cfg)
    logits, _ = llama.forward(params, cfg, tokens)
    cache = llama.Cache(cfg, 3, like=params["wte.weight"])
    pieces = [llama.decode(params, cfg, tokens[:, t : t + 2], cache) for t in (0, 2, 4)]
    np.testing.assert_allclose(np.concatenate(pieces, 1), logits, atol=1e-12)
    with pytest.raises(ValueError, match="7 positions do not fit the cache of 6"):
        llama.decode(params, cfg, tokens[:, :1], cache)


@pytest.mark.parametrize("cfg", [cfg for _, cfg in CASES], ids=IDS)
def test_rows_of_different_length_continue_their_own_text(cfg):
    params, tokens = random_params(cfg), tokens_for(cfg, 2)
    cache = llama.Cache(cfg, 2, like=params["wte.weight"])
    llama.decode(params, cfg, tokens[:, :4], cache)
    cache.length[1] = 2                             # the second row goes back in its text
    found = llama.decode(params, cfg, tokens[:, 4:5], cache)
    shorter = np.concatenate([tokens[1:, :2], tokens[1:, 4:5]], axis=1)
    logits, _ = llama.forward(params, cfg, shorter)
    np.testing.assert_allclose(found[1, 0], logits[0, -1], atol=1e-12)


def test_a_later_token_changes_no_earlier_logits():
    cfg = llama.EXAMPLES["Llama"]
    params, tokens = random_params(cfg), tokens_for(cfg, 1)
    before, _ = llama.forward(params, cfg, tokens)
    tokens[0, 4] = (tokens[0, 4] + 1) % cfg.vocab_size
    after, _ = llama.forward(params, cfg, tokens)
    np.testing.assert_array_equal(before[0, :4], after[0, :4])
    assert not np.allclose(before[0, 4:], after[0, 4:])


def test_rotation_keeps_lengths_and_makes_products_depend_on_distance_alone():
    cfg = llama.EXAMPLES["Llama"]
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 1, cfg.head_size))

    def at(x, position):
        cos, sin = llama.turns_of(cfg, np.array([[position]]), np.float64)
        return llama.rotary_forward(x, cos, sin)

    assert np.sum(at(q, 5) ** 2) == pytest.approx(np.sum(q**2))
    near = np.sum(at(q, 5) * at(k, 2))
    assert near == pytest.approx(np.sum(at(q, 103) * at(k, 100)), rel=1e-5)
    assert near != pytest.approx(np.sum(at(q, 5) * at(k, 3)))


def test_rotary_pairs_are_halves_and_not_neighbours():
    """Meta's own files pair neighbours; a model with the wrong pairs writes plausible nonsense."""
    x = np.array([1.0, 0.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
    cos, sin = np.array([0.0, 1.0]), np.array([1.0, 0.0])       # a quarter turn of the first pair
    np.testing.assert_array_equal(llama.rotary_forward(x, cos, sin).ravel(), [0, 0, 1, 0])


def test_scaled_frequencies_of_llama_3():
    """Fast pairs stay, slow ones become slower by the factor, and it is monotonous between."""
    cfg = llama.PRESETS["llama-3.1-8b"]
    plain = llama.Config(**{**vars(cfg), "rope_scaling": None})
    ratio = llama.rotary_frequencies(plain) / llama.rotary_frequencies(cfg)
    wavelengths = 2 * np.pi / llama.rotary_frequencies(plain)
    np.testing.assert_array_equal(ratio[wavelengths < 8192 / 4], 1.0)
    np.testing.assert_allclose(ratio[wavelengths > 8192], 8.0, rtol=1e-6)
    assert np.all(np.diff(ratio) >= 0)
    assert np.sum((ratio > 1.0) & (ratio < 7.999)) > 3


def test_neighbouring_query_heads_share_a_key_head():
    k = np.arange(2.0).reshape(1, 2, 1, 1)
    assert llama.grouped_forward(k, 3).ravel().tolist() == [0, 0, 0, 1, 1, 1]
    dk = np.arange(6.0).reshape(1, 6, 1, 1)
    assert llama.grouped_backward(dk, 3).ravel().tolist() == [0 + 1 + 2, 3 + 4 + 5]


def test_heads_of_keys_save_cache():
    cfg = llama.PRESETS["llama-demo"]
    of_all_heads = llama.Config(**{**vars(cfg), "n_kv_head": cfg.n_head})
    assert 2 * llama.Cache(cfg, 1, 8).k.nbytes == llama.Cache(of_all_heads, 1, 8).k.nbytes


def test_presets_have_the_published_sizes():
    millions = {name: round(cfg.n_params / 1e6, 1) for name, cfg in llama.PRESETS.items()}
    assert millions["smollm2-135m"] == 134.5
    assert millions["qwen3-0.6b"] == 596.0
    assert millions["llama-3.2-1b"] == 1235.8
    assert millions["llama-3.1-8b"] == 8030.3
    of_gpt = gpt.PRESETS["demo"].n_params
    assert abs(llama.PRESETS["llama-demo"].n_params / of_gpt - 1) < 0.01


def test_first_loss_is_near_that_of_guessing():
    cfg = llama.PRESETS["llama-demo"]
    params = llama.init(cfg, 0)
    tokens = tokens_for(cfg, 2)
    losses = llama.token_losses(params, cfg, tokens[:, :-1], tokens[:, 1:])
    assert losses.mean() == pytest.approx(np.log(cfg.vocab_size), abs=0.05)
    assert losses.dtype == np.float32


def test_ignored_targets_move_no_gradient():
    cfg = llama.EXAMPLES["Qwen 3"]
    params, tokens = random_params(cfg), tokens_for(cfg)
    targets = np.full_like(tokens, -1)
    with pytest.raises(ValueError, match="every target is ignored"):
        llama.loss_and_grads(params, cfg, tokens, targets)
    targets[0, 2] = 3
    loss, grads = llama.loss_and_grads(params, cfg, tokens, targets)
    losses = llama.token_losses(params, cfg, tokens, targets)
    assert loss == pytest.approx(losses[0, 2]) and losses.sum() == losses[0, 2]
    unread = np.setdiff1d(np.arange(cfg.vocab_size), tokens[0, :3])
    assert not grads["wte.weight"][unread].any()


@pytest.mark.parametrize("changes, message", [
    ({"n_kv_head": 3}, "n_head 4 is no multiple of n_kv_head 3"),
    ({"head_size": 5}, "head_size 5 is odd"),
    ({"n_layer": 0}, "n_layer = 0, expected an integer of at least 1"),
    ({"n_layer": True}, "n_layer = True, expected an integer of at least 1"),
    ({"rope_theta": 0.0}, "rope_theta = 0.0, expected a finite number above 0"),
    ({"norm_eps": float("nan")}, "norm_eps = nan, expected a finite number above 0"),
])
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        llama.Config(**{**vars(llama.EXAMPLES["Llama"]), **changes})
