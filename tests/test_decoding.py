"""model/decoding.py: how a block is divided.

tests/test_fast.py and tests/test_fast_llama.py hold its logits equal to the definitions'.
"""

import numpy as np
import pytest

import gpt
from model import bfloat16, cores, decoding, fast, llama
from test_fast import pool, set_threads  # noqa: F401
from test_llama import random_params


@pytest.mark.parametrize("n_parts", [1, 2, 3])
def test_parts_add_up_to_the_whole(n_parts, pool, monkeypatch):  # noqa: F811
    """Any number of threads: fewer heads than threads leave some without work of that kind."""
    set_threads(monkeypatch, n_parts, pool)
    monkeypatch.setattr(decoding, "LARGE", 1)
    cfg = llama.EXAMPLES["Qwen 3"]
    params, tokens = random_params(cfg), np.array([[1, 2, 3], [4, 5, 6]])
    cache = fast.Cache(cfg, 2, like=params["wte.weight"])
    got = decoding.of(params, cfg, tokens, cache, np.array([3, 3]), n_parts).run(False)
    want, _ = llama.forward(params, cfg, tokens)
    np.testing.assert_allclose(got, want, atol=1e-12)
    assert cores.N_THREADS == n_parts


@pytest.mark.parametrize("block", [1, 100, bfloat16.BLOCK])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", llama.EXAMPLES)
def test_matrices_that_stay_in_bfloat16(name, large, block, pool, monkeypatch):  # noqa: F811
    """The logits are those of the widened weights, with blocks of any size."""
    set_threads(monkeypatch, 3, pool)
    monkeypatch.setattr(bfloat16, "BLOCK", block)
    monkeypatch.setattr(fast, "SMALL_MODEL", 0 if large else 8 << 20)
    cfg = llama.EXAMPLES[name]
    tokens = np.array([[1, 2, 3], [4, 5, 6]])
    kept, widened = {}, {}
    for key, p in random_params(cfg).items():
        narrow = bfloat16.narrow(p)
        widened[key] = np.asarray(narrow)
        kept[key] = bfloat16.Array(narrow.bits.T.copy().T) if p.ndim == 2 else widened[key]
    cache = fast.Cache(cfg, 2, like=kept["wte.weight"])
    got = fast.decode(kept, cfg, tokens, cache)
    want, _ = llama.forward(widened, cfg, tokens)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("most", [0, 1 << 30])
@pytest.mark.parametrize("name", llama.EXAMPLES)
def test_joined_weights(name, most, turned, monkeypatch):
    """With weights joined or not: the definition's logits, and those of weights that have learned
    since, in the same cache."""
    monkeypatch.setattr(decoding, "JOINED", most)
    monkeypatch.setattr(fast, "SMALL_MODEL", 0)
    monkeypatch.setattr(cores, "N_THREADS", 2)
    cfg = llama.EXAMPLES[name]
    params, tokens = random_params(cfg), np.array([[1, 2, 3], [4, 5, 6]])
    if turned:                              # as files have them
        params = {key: p.T.copy().T for key, p in params.items()}
    cache = fast.Cache(cfg, 2, like=params["wte.weight"])
    for _ in range(2):
        cache.length[...] = 0
        got = fast.decode(params, cfg, tokens, cache)
        want, _ = llama.forward(params, cfg, tokens)
        np.testing.assert_allclose(got, want, atol=1e-12)
        assert all(cache.joined.values()) == (most > 0)
        assert cache.rows(slice(0, 1)).joined is cache.joined
        for p in params.values():
            p *= 1.5


def test_a_family_has_its_own_way():
    for cfg, kind in ((gpt.PRESETS["demo"], decoding.DecodingGPT2),
                      (llama.PRESETS["llama-demo"], decoding.DecodingLlama)):
        cache = fast.Cache(cfg, 1, 8)
        of = decoding.of({}, cfg, np.array([[1]]), cache, np.array([1]), 1)
        assert type(of) is kind
