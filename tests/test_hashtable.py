"""tokens/hashtable.py beside a dict."""

from collections import Counter

import numpy as np
import pytest

from tokens.hashtable import Pieces, SURE, Table, WIDE


@pytest.mark.parametrize("seed", range(4))
def test_pieces_are_numbered_as_they_are_met(seed):
    """Beside a dict: bytes of all values, zeros among them, of 1 to 40, in calls of all sizes."""
    rng, ours, theirs, seen = np.random.default_rng(seed), Pieces(), {}, Counter()
    letters = [b"\0", b"a", b"ab", b"\xff", b"\0\0", b"abcdefgh", b"\x01" * 15]
    for n in [0, 1, 2, 5000, 300, 20_000, 1]:
        some = [b"".join(letters[i] for i in rng.integers(len(letters), size=rng.integers(1, 6)))
                for _ in range(n)]
        length = np.array([len(piece) for piece in some], np.int64)
        data = np.frombuffer(b"".join(some) + bytes(31), np.uint8)
        begin, half = np.cumsum(length) - length, n // 3
        got = np.concatenate(ours.find([ours.look(data, begin[some], length[some])
                                        for some in (slice(half), slice(half, None))]))
        assert got.tolist() == [theirs.setdefault(piece, len(theirs)) for piece in some]
        seen.update(got.tolist())
    assert ours.all() == list(theirs) and ours.n == len(theirs) > 5000
    assert any(len(piece) > WIDE for piece in theirs) and any(
        len(piece) == SURE for piece in theirs
    )


@pytest.mark.parametrize("n_words", [1, 2])
def test_keys_that_share_a_home(monkeypatch, n_words):
    """All at one place: each search walks over all of them."""
    monkeypatch.setattr(
        Table, "home", lambda self, *key: np.zeros(len(key[0]), np.int64) + self.size - 3)
    table, numbers = Table(n_words), {}
    keys = np.arange(1, 100 * n_words + 1, dtype=np.uint64).reshape(-1, n_words)
    for some in (list(range(60)), [62, 60, 62, 61, 60, *range(63, 100)]):
        before = len(numbers)
        rows, firsts = table.add(*keys[some].T)
        assert rows.tolist() == [numbers.setdefault(i, len(numbers)) for i in some]
        assert [some[i] for i in firsts] == list(numbers)[before:]
    unknown = keys + np.uint64(1000)
    assert table.find(*keys.T).tolist() == [numbers[i] for i in range(100)]
    assert table.find(*unknown.T).tolist() == [-1] * 100


def test_a_table_that_grows():
    """Beside a dict, through several sizes, with keys that differ in one word only."""
    rng = np.random.default_rng(0)
    table, numbers = Table(2, 4), {}
    for n in (3, 50, 1000, 20_000):
        keys = rng.integers(0, 200, (n, 2)).astype(np.uint64)
        new = keys[table.find(*keys.T) < 0]
        table.add(*new.T)
        for key in map(tuple, new.tolist()):
            numbers.setdefault(key, len(numbers))
        want = [numbers.get(key, -1) for key in map(tuple, keys.tolist())]
        assert table.find(*keys.T).tolist() == want and table.n == len(numbers)
        assert 4 * table.n <= table.size
