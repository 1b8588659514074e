"""kernels/attention.py: rows of several texts, against operations.attention with what it hides.

tests/test_kernels.py and test_kernels_llama.py have rows of one text, and decoding.
"""

import numpy as np
import pytest
from test_kernels import TOLERANCE, bits_of, cp, device, host, same     # noqa: F401

from chat import packing
from kernels import attention
from model import operations

SHARED_AT_FIRST = [(0, 7), (1, 5), (2, 60), (3, 90), (4, 1)]      # (segment, its tokens)
MANY = [(i, n) for i, n in enumerate((3, 1, 40, 70, 2, 33, 65), 1)]
LONG = [(0, 70), (9, 64), (4, 30), (5, 40)]     # the shared beginning fills more than a tile


def segments_of(*rows, T):
    """[(segment, its tokens)] of each row -> (B,T), padded with -1"""
    segments = np.full((len(rows), T), -1)
    for row, pieces in zip(segments, rows):
        end = 0
        for segment, n in pieces:
            row[end : end + n] = segment
            end += n
    return segments


def test_where_texts_begin_and_end():
    """The drawing in attention.cu."""
    got = attention.texts_of(segments_of([(0, 3), (1, 2), (2, 2)], T=8))
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, [[3, *(0, 0, 0, 3, 3, 5, 5, 7), *(8, 8, 8, 5, 5, 7, 7, 8)]])


@pytest.mark.parametrize("pieces", [MANY, SHARED_AT_FIRST, LONG, [(1, 10)], []])
def test_they_say_what_the_definition_hides(pieces):
    segments = segments_of(pieces, MANY, T=220)
    n, row = segments.shape[1], np.arange(segments.shape[1])
    for texts, hidden in zip(attention.texts_of(segments),
                             operations.segments_hidden(segments, np.float32)):
        shared, begin, end = texts[0], texts[1 : 1 + n], texts[1 + n :]
        query, key = row[:, None], row[None]
        seen = (key <= query) & ((key < shared) | (key >= begin[:, None]))
        np.testing.assert_array_equal(seen, hidden == 0)
        np.testing.assert_array_equal((key <= query) & (query < end), hidden == 0)


@pytest.mark.parametrize("wrong", [[(1, 2), (2, 1), (1, 2)], [(1, 2), (0, 2)]])
def test_a_text_in_two_pieces_is_refused(wrong):
    with pytest.raises(ValueError, match="row 1 has a text in two pieces"):
        attention.texts_of(segments_of(MANY, wrong, T=220))


def check_texts(dtype, rows, T, NH, NKV, HS):
    """Forward and backward of rows of texts, each gradient against its own largest number."""
    segments = segments_of(*rows, T=T)
    B, rng = len(segments), np.random.default_rng(0)
    (qkv, qkv64), (do, do64) = (device(rng.standard_normal((B, T, n * HS)), dtype)
                                for n in (NH + 2 * NKV, NH))
    hidden = operations.segments_hidden(segments, np.float64)
    texts = cp.asarray(attention.texts_of(segments))
    o, cache = attention.attention_forward(qkv, NH, hidden=texts, n_kv_head=NKV)
    want, want_cache = operations.attention_forward(qkv64, NH, hidden=hidden, n_kv_head=NKV)
    same(o, want, dtype, "o")
    same(cache[2], want_cache[2], dtype, "lse")
    dqkv = attention.attention_backward(do, cache, NH, hidden=texts, n_kv_head=NKV)
    want = operations.attention_backward(do64, want_cache, NH, hidden=hidden, n_kv_head=NKV)
    ends = np.cumsum([0, NH * HS, NKV * HS, NKV * HS])
    for what, begin, end in zip(("dq", "dk", "dv"), ends, ends[1:]):
        got = host(dqkv)[:, :, begin:end].astype(np.float64)
        error, most = np.abs(got - want[:, :, begin:end]).max(), np.abs(want[:, :, begin:end]).max()
        assert error <= TOLERANCE[dtype] * most, f"{what}: {error:.2e}, the largest {most:.2e}"


@pytest.mark.parametrize("dtype, NH, NKV, HS", [
    ("float32", 2, 2, 5), ("bf16", 2, 1, 16), ("bf16", 1, 1, 32), ("bf16", 2, 1, 64),
    ("bf16", 1, 1, 128),
])
def test_attention_of_rows_of_texts(dtype, NH, NKV, HS):
    """So many tokens that every loop over tiles goes round several times, and leaves some out."""
    check_texts(dtype, (MANY, SHARED_AT_FIRST, LONG), 220, NH, NKV, HS)


def test_packed_replies_to_a_prompt():
    """What chat/packing.py makes of replies to one prompt can be had on a GPU."""
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 9, (2, 6, 30))
    tokens[:, :4] = 5
    sampled = np.zeros((6, 30))
    sampled[:, 4:] = 1
    for part in packing.shared(tokens, targets, sampled, sampled, 128):
        texts = attention.texts_of(part[4])
        assert (texts[:, 0] == 4).all()
