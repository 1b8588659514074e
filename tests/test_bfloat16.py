"""model/bfloat16.py: an Array computes what the widened array does, whatever its blocks."""

from model import fast                  # before numpy
import numpy as np
import pytest

from model import bfloat16, decoding, llama

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.standard_normal(shape, np.float32)


@pytest.fixture(params=[1, 7, 24, 1 << 19])
def blocks(request, monkeypatch):
    """A row or a column at a time, a few of them, all at once."""
    monkeypatch.setattr(bfloat16, "BLOCK", request.param)


def test_widen_and_narrow():
    halves = np.arange(1 << 16, dtype=np.uint16)        # all there are
    wide = bfloat16.widen(halves)
    assert (wide.view(np.uint32) == halves.astype(np.uint32) << 16).all()
    finite = np.isfinite(wide)
    back = bfloat16.narrow(wide[finite])
    assert (back.bits == halves[finite]).all()
    x = np.float32([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 1 + 2**-9, -1 - 2**-8])
    nearest = [1, 1 + 2**-6, 1 + 2**-7, 1, -1]          # of two as near, the one with an even end
    assert np.asarray(bfloat16.narrow(x)).tolist() == nearest


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products(blocks, turned, dtype):
    """With bits that lie as x @ w has them and as a file has them, of whole matrices and parts."""
    a = bfloat16.narrow(random(5, 8)).T if turned else bfloat16.narrow(random(8, 5))
    w = np.asarray(a)
    assert a.is_turned == turned and a.T.is_turned != turned
    for of_a, of_w in [(a, w), (a[2:7, 1:4], w[2:7, 1:4]), (a.T, w.T), (a[:, 3:], w[:, 3:])]:
        for shape in [(1,), (4,), (2, 3), ()]:
            x = RNG.standard_normal((*shape, len(of_w))).astype(dtype)
            y = x @ of_a
            assert y.dtype == dtype and y.shape == (*shape, of_w.shape[1])
            np.testing.assert_allclose(y, x @ of_w, rtol=1e-5, atol=1e-6)


def test_what_an_array_shows():
    a = bfloat16.narrow(random(6, 4))
    w = np.asarray(a)
    assert (a.shape, a.ndim, a.size, len(a), a.dtype) == (w.shape, 2, 24, 6, w.dtype)
    assert a.nbytes == w.nbytes // 2
    np.testing.assert_array_equal(a[[3, 0, 3]], w[[3, 0, 3]])
    np.testing.assert_array_equal(a[np.array([[1, 2]])], w[np.array([[1, 2]])])
    np.testing.assert_array_equal(a[4], w[4])
    assert np.shares_memory(a[1:3].bits, a.bits) and np.shares_memory(a.T.bits, a.bits)
    assert np.asarray(a, np.float64).dtype == np.float64
    assert bfloat16.are_equal(a, a) and bfloat16.are_equal(a, w)
    assert not bfloat16.are_equal(a, a[:, :3]) and not bfloat16.are_equal(a, w + 1)
    with pytest.raises(TypeError):
        np.exp(a)                               # nothing widens all of it unasked


def test_blocks(blocks):
    for a in (bfloat16.narrow(random(5, 3)), bfloat16.narrow(random(5, 3)).T,
              bfloat16.narrow(random(5))):
        lines = np.asarray(a.T if a.is_turned else a)
        found = np.concatenate([block for _, block in a.blocks()])
        np.testing.assert_array_equal(found, lines)
        for at, block in a.blocks():
            np.testing.assert_array_equal(lines[at], block)
            assert block.size <= max(bfloat16.BLOCK, lines[0].size)


@pytest.mark.parametrize("of_all_threads", [False, True])
def test_a_text_is_written(blocks, monkeypatch, of_all_threads):
    """By a model whose matrices stay in bfloat16, with its rows or its weights on many threads."""
    monkeypatch.setattr(fast, "SMALL_MODEL", 0 if of_all_threads else 1 << 40)
    cfg = llama.Config(23, 16, 12, 2, 4, 2, 4, 10, qkv_bias=True, tied=False)
    widened, kept = {}, {}
    for name, p in llama.init(cfg, 0).items():
        a = bfloat16.narrow(p.T + 0.1 * random(*p.T.shape)).T       # as a file has it
        widened[name] = np.asarray(a)
        kept[name] = a if p.ndim == 2 else widened[name]
    tokens = RNG.integers(0, 23, (3, 5))
    for engine in (llama, fast):
        logits = engine.decode(kept, cfg, tokens, engine.Cache(cfg, 3))
        want = llama.decode(widened, cfg, tokens, llama.Cache(cfg, 3))
        np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-5)
