"""tokens/ranks.py: what can be a vocabulary; .tiktoken files."""

import base64

import numpy as np
import pytest
import regex

from token_texts import trained
from bpe import Tokenizer


def test_holes_are_listed_and_refused(trained):
    moved = {name: i + 500 for name, i in trained.special_tokens.items()}
    gappy = Tokenizer(trained.ranks, trained.pattern, moved)
    first = min(trained.special_tokens.values())
    assert gappy.holes.tolist() == list(range(first, first + 500))
    assert gappy.n_vocab == trained.n_vocab + 500
    assert all(gappy.token_bytes[i] == b"" for i in gappy.holes)
    for hole in gappy.holes[[0, -1]]:
        with pytest.raises(KeyError, match=f"Invalid token for decoding: {hole}"):
            gappy.decode([1, int(hole)])
    scores = np.ones((2, gappy.n_vocab))
    scores[:, gappy.holes] = -np.inf        # what a sampler does
    assert np.isfinite(scores).sum() == 2 * (len(gappy.ranks) + len(moved))
    assert trained.holes.dtype == np.int64 and trained.holes.shape == (0,)


@pytest.mark.parametrize("arguments, message", [
    (({b"a": 0, b"b": 0}, "gpt2", {}), "2 tokens have only 1 different ids"),
    (({b"a": 0}, "gpt2", {"<|x|>": 0}), "2 tokens have only 1 different ids"),
    (({b"a": -1}, "gpt2", {}), "id -1 is no whole number from 0 to 4194303"),
    (({b"a": 0}, "gpt2", {"<|x|>": 2**22}), "id 4194304 is no whole number"),
    (({b"a": 0}, "gpt2", {"<|x|>": 2**40}), "id 1099511627776 is no whole number"),
    (({b"a": 0, b"b": 1.0}, "gpt2", {}), "id 1.0 is no whole number"),
    (({b"a": 0}, "gpt2", {"<|x|>": "7"}), "id '7' is no whole number"),
    (({b"a": 0}, "gpt2", {"": 1}), "no special one named ''"),
    (({}, "gpt2", {"<|x|>": 0}), "at least one token"),
    (({b"a": 0}, "[", {}), "pattern '['"),
])
def test_bad_tokenizers(arguments, message):
    with pytest.raises(ValueError, match=regex.escape(message)):
        Tokenizer(*arguments)


def test_fingerprint(trained):
    assert len(trained.fingerprint) == 16 and int(trained.fingerprint, 16) > 0
    ranks, pattern, special = trained.ranks, trained.pattern, trained.special_tokens
    backwards = Tokenizer(dict(reversed(ranks.items())), pattern, dict(reversed(special.items())))
    assert backwards.fingerprint == trained.fingerprint
    swapped = dict(ranks) | {b"a": 98, b"b": 97}
    for other in (Tokenizer(swapped, pattern, special), Tokenizer(ranks, "gpt2", special),
                  Tokenizer(ranks, pattern, {})):
        assert other.fingerprint != trained.fingerprint


def test_tiktoken_lines(tmp_path):
    Tokenizer({b"b": 5, b"a": 0, b" \xff": 3}, "gpt2", {"<|x|>": 4}).save(tmp_path / "t.tiktoken")
    assert (tmp_path / "t.tiktoken").read_bytes() == b"YQ== 0\nIP8= 3\nYg== 5\n"


@pytest.mark.parametrize("content, message", [
    (b"YQ== 0\nYg==\n", "t.tiktoken:2: not base64 and a rank"),
    (b"YQ== 0\n\nY!Q= 1\n", "t.tiktoken:3: not base64 and a rank"),
    (b"YQ== 0 1\n", "t.tiktoken:1: not base64 and a rank"),
    (b"YQ== zero\n", "t.tiktoken:1: not base64 and a rank"),
    (b"YQ== 0\nYg== 1\nYQ== 2\n", "t.tiktoken:3: token b'a' or rank 2 is on line 1 too"),
    (b"YQ== 0\nYg== 1\nYw== 1\n", "t.tiktoken:3: token b'c' or rank 1 is on line 2 too"),
    (b"YQ== -1\n", "t.tiktoken:1: not base64 and a rank from 0 to 4194303"),
    (b"YQ== 0\nYg== 200000000\n", "t.tiktoken:2: not base64 and a rank from"),
    (b"\n", "no ranks"),
    (b"\xff\xfe\x00", "t.tiktoken:1: not base64 and a rank"),
])
def test_broken_tiktoken_files(tmp_path, content, message):
    (tmp_path / "t.tiktoken").write_bytes(content)
    with pytest.raises(ValueError, match=regex.escape(message)):
        Tokenizer.load(tmp_path / "t.tiktoken", pattern="gpt2")


def test_base64_of_every_byte_survives(tmp_path):
    ranks = {bytes([b, 255 - b]): b for b in range(256)}
    Tokenizer(ranks, "gpt2", {}).save(tmp_path / "t.tiktoken")
    lines = (tmp_path / "t.tiktoken").read_bytes().split(b"\n")
    assert [base64.b64decode(line.split()[0]) for line in lines[:-1]] == list(ranks)
    assert Tokenizer.load(tmp_path / "t.tiktoken", pattern="gpt2").ranks == ranks
