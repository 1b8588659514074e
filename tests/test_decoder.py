"""tokens/decoder.py: ids to bytes in arrays, for ids of all types. test_encoder.py has its twin."""

import numpy as np
import pytest

from token_texts import PROSE
from tokens import decoder
from tokens.tiktoken import Encoding


def test_long_lists_are_decoded_by_arrays(monkeypatch):
    trained = Encoding.train([PROSE, "a" * 400], 400)
    assert max(map(len, trained.ranks)) > 15
    rng = np.random.default_rng(2)
    ids = rng.integers(0, trained.n_vocab, 5000)
    want = b"".join(trained.token_bytes[i] for i in ids)
    for many in (1, 7, 5000, 10_000):
        monkeypatch.setattr(decoder, "MANY", many)
        for form in (
            ids, ids.tolist(), tuple(ids.tolist()), iter(ids.tolist()), ids.astype(np.uint16),
        ):
            assert trained.decode_bytes(form) == want
        for bad in (-1, trained.n_vocab, 10**12):
            with pytest.raises(KeyError, match=f"Invalid token for decoding: {bad}"):
                trained.decode_bytes([*ids.tolist(), bad])
    assert trained.decode_bytes([]) == b""


def test_ids_of_all_types(monkeypatch):
    """A list is decoded alike, however long it is: no id is rounded, and none overflows."""
    trained = Encoding.train([PROSE], 300)
    for many in (1, 100):
        monkeypatch.setattr(decoder, "MANY", many)
        for bad in (10**30, -10**30, 2**63, 1.5, float("nan"), None, "97"):
            with pytest.raises(KeyError, match="Invalid token for decoding"):
                trained.decode([97, 98, bad])
        assert trained.decode(np.array([97, 98], np.uint64)) == trained.decode([97, 98]) == "ab"
