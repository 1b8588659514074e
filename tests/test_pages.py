"""model/pages.py: keys and values in pages: what rows share, and what happens when none is left."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_device import CFG, MODELS, close, model    # skips where neither a GPU nor g++ is there
from test_kernels import cp, device as on_gpu, host

import bpe
from chat import generate
from kernels import attention
from model import device, fast, pages

TOKENIZER = bpe.Tokenizer.characters("abcdefghijklmnopqrstuvwxyz ABCDEFGHIJ")


@pytest.fixture
def small_pages(monkeypatch):
    """Pages of four positions."""
    monkeypatch.setattr(pages, "PAGE", 4)


def cache_of(rows=4, n_pages=12):
    """A cache of numbers on the host, whose pages hold their own number."""
    budget = n_pages * pages.bytes_a_page(CFG, np.float32)
    cache = pages.PagedCache(np, CFG, rows, budget=budget)
    for page in range(len(cache.pool.n_rows)):
        cache.k[:, page] = cache.v[:, page] = page
    return cache


def grow(cache, row, n):
    """Let a row have n more tokens."""
    n_new = np.zeros(len(cache.length), int)
    n_new[row] = n
    cache.extend(n_new)
    cache.length[row] += n


def check(cache):
    """Each page is free or a row's, and the pool knows how many rows have it."""
    n_rows = np.zeros_like(cache.pool.n_rows)
    for row, used in enumerate(cache.used):
        assert used * pages.PAGE >= cache.length[row]
        np.add.at(n_rows, cache.table[row, :used], 1)
    np.testing.assert_array_equal(n_rows, cache.pool.n_rows)
    assert sorted(cache.pool.free) == np.flatnonzero(n_rows == 0).tolist()


def test_rows_take_pages_as_they_grow(small_pages):
    cache = cache_of()
    assert cache.shape == (2, 4, 2, 20, 16) and len(cache.pool.free) == 12
    for n, used in ((1, 1), (3, 1), (1, 2), (8, 4)):
        grow(cache, 2, n)
        assert cache.used.tolist() == [0, 0, used, 0]
        check(cache)
    cache.swap(2, 0)
    assert cache.used.tolist() == [4, 0, 0, 0] and cache.length[0] == 13
    cache.cut(0, 5)
    assert cache.used[0] == 2 and len(cache.pool.free) == 10
    some = cache.rows(slice(1, 3))
    grow(some, 0, 3)
    assert cache.length.tolist() == [5, 3, 0, 0]
    check(cache)


def test_rows_share_whole_pages_and_write_into_none_of_them(small_pages):
    cache = cache_of()
    grow(cache, 0, 10)
    assert cache.take(1, 0, 10) == 10
    check(cache)
    np.testing.assert_array_equal(cache.table[1, :2], cache.table[0, :2])
    of_last = cache.table[0, 2]
    assert cache.table[1, 2] != of_last and (cache.k[:, cache.table[1, 2]] == of_last).all()
    assert len(cache.pool.free) == 8
    cache.cut(1, 6)                     # back in a page that both have
    shared = cache.table[1, 1]
    grow(cache, 1, 1)
    check(cache)
    assert cache.table[0, 1] == shared != cache.table[1, 1]
    assert (cache.v[:, cache.table[1, 1]] == shared).all()      # a copy of what it was
    cache.cut(0, 0)
    assert cache.length[1] == 7 and cache.table[1, 0] not in cache.pool.free
    check(cache)


def test_where_no_page_is_left(small_pages):
    cache = cache_of(n_pages=5)
    grow(cache, 0, 18)
    assert cache.take(1, 0, 18) == 16           # the last page of its text has no copy
    check(cache)
    assert cache.lacks(np.array([2, 0, 0, 0])) == 0 and cache.has_free(0)
    assert cache.lacks(np.array([3, 1, 0, 0])) == 2 and not cache.has_free(1)
    with pytest.raises(ValueError, match="a cache of 5 pages of 4 tokens has none left"):
        grow(cache, 1, 1)
    with pytest.raises(ValueError, match="cache of 21 positions, the model's context is 20"):
        pages.PagedCache(np, CFG, 1, 21)


@pytest.mark.parametrize("dtype, group", [("float32", 1), ("bf16", 3)])
def test_attention_reads_and_writes_pages(dtype, group):
    """As with a row for each text, where two rows share their first pages."""
    B, T, NKV, HS, size, most = 3, 2, 2, 16, 8, 4
    rng = np.random.default_rng(0)
    (qkv, _), (k, k64), (v, v64) = (on_gpu(rng.standard_normal(shape), dtype) for shape in
                                    ((B, T, (group + 2) * NKV * HS), *[(9, NKV, size, HS)] * 2))
    table = np.array([[4, 1, 7, 0], [4, 1, 5, 2], [3, 0, 0, 0]], np.int32)
    length, n_new = np.array([22, 17, 0], np.int32), np.array([2, 1, 2], np.int32)
    flat = []
    for pool in (k64, v64):
        rows = pool[table].swapaxes(1, 2).reshape(B, NKV, most * size, HS)
        flat.append(on_gpu(rows, dtype)[0])
    sent = [cp.asarray(a) for a in (length, n_new)]
    want = attention.decode_attention(qkv, *flat, *sent)
    got = attention.decode_attention(qkv, k, v, *sent, pages=cp.asarray(table))
    np.testing.assert_array_equal(host(got), host(want))
    for pool, rows in zip((k, v), flat):
        now = host(pool)[table].swapaxes(1, 2).reshape(B, NKV, most * size, HS)
        for b in range(B):
            end = length[b] + n_new[b]
            np.testing.assert_array_equal(now[b, :, :end], host(rows)[b, :, :end])


@pytest.mark.parametrize("name, n_pages", [("GPT-2", 7), ("Qwen 3", 100)])
def test_replies_are_the_same_with_few_pages(name, n_pages, small_pages, monkeypatch):
    """With 7 pages for 5 rows of up to 17 tokens rows are set back, and write the same tokens."""
    cfg = MODELS[name]
    params = model(cfg)
    there = device.upload(params, cfg, False)
    prompts = [[3, 5, 7, 1, 2, 9], [3, 5, 7, 1, 2, 9], [2], [3, 5, 7, 1, 2, 4], [9, 9, 1, 4]]
    set_back, plain = [], generate.Batch._set_back
    monkeypatch.setattr(generate.Batch, "_set_back",
                        lambda batch: set_back.append(batch.rows[-1]) or plain(batch))
    budget = n_pages * pages.bytes_a_page(cfg, np.float32)
    small = device.Cache.__init__
    monkeypatch.setattr(device.Cache, "__init__", lambda cache, *args, **how: small(
        cache, *args, **how, budget=budget))
    settings = {"max_new_tokens": 11, "seed": 1, "temperature": 0.8, "top_p": 0.9}
    want = generate.generate(params, cfg, TOKENIZER, prompts, fast, **settings)
    assert not set_back
    got = generate.generate(there, cfg, TOKENIZER, prompts, device, **settings)
    assert [reply.ids for reply in got] == [reply.ids for reply in want]
    close(np.concatenate([r.logp for r in got]), np.concatenate([r.logp for r in want]), 1e-4)
    assert bool(set_back) == (n_pages == 7)


def test_memory_that_was_given_back_counts(monkeypatch):
    """Or a cache would be half of what the last one left."""
    if not hasattr(cp, "POOL"):
        pytest.skip("a GPU has the memory that it has")
    a_page = pages.bytes_a_page(CFG, np.float32)
    monkeypatch.setattr(cp.cuda.runtime, "memGetInfo", lambda: (3 * a_page, 99 * a_page))
    monkeypatch.setitem(cp.POOL, "free_bytes", 5 * a_page)
    assert len(device.Cache(CFG, 9).pool.n_rows) == 4


def test_a_text_that_no_cache_has_room_for(small_pages, monkeypatch):
    batch = generate.Batch(device.upload(model(), CFG, False), CFG, TOKENIZER, 1, 20, device)
    batch.cache.pool.free = batch.cache.pool.free[:1]
    batch.add([[1, 2, 3, 4, 5, 6]], generate.sample.Settings(max_new_tokens=2).check())
    with pytest.raises(ValueError, match="has none left; write fewer texts at once"):
        batch.step()


@pytest.mark.parametrize("prompts, group, n_prompt, n_reply", [(2, 3, 9, 7), (1, 4, 8, 8)])
def test_the_plan_of_pages_is_what_replies_take(prompts, group, n_prompt, n_reply, small_pages):
    """Replies to the same prompt share its whole pages."""
    there, used = device.upload(model(), CFG, False), []
    asked = [[i, *range(10, 9 + n_prompt)] for i in range(prompts) for _ in range(group)]
    batch = generate.Batch(there, CFG, TOKENIZER, len(asked), n_prompt + n_reply, device)
    batch.add(asked, generate.sample.Settings(max_new_tokens=n_reply).check())
    while len(batch):
        batch.step()
        used.append(int((batch.cache.pool.n_rows > 0).sum()))
    assert max(used) == pages.pages_of_replies(prompts, group, n_prompt, n_reply)
