"""tokens/encoder.py and tokens/decoder.py: the ids of bpe.py, whatever the sizes of blocks."""

import multiprocessing

import numpy as np
import pytest
import regex

import bpe
from conftest import SHARED
from tokens.tiktoken import Encoding
from token_texts import AWKWARD, PROSE, encoding, random_text, trained
from tokens import decoder, encoder
from tokens.patterns import PATTERNS


def test_merge_equals_scanning(trained):
    rng = np.random.default_rng(4)
    alphabet = b"ot her" + "é".encode()
    ranks = [trained.ranks, {b"ab": 0, b"cd": 1},
             {b"aa": 0, b"aaa": 1, b"ba": 2, b"aab": 3, b"b": 4}]
    for n in list(range(12)) * 20 + [50, 120, 333]:
        for table in ranks:
            letters = list(alphabet if table is trained.ranks else b"abcd")
            piece = bytes(rng.choice(letters, n).tolist())
            assert encoder.merge(table, piece) == bpe.merge(table, piece)
    assert encoder.merge({b"ab": 0, b"cd": 1}, b"abcd") == [b"ab", b"cd"]
    assert encoder.merge({b"ab": 256, b"abc": 257}, b"xabcab") == [b"x", b"abc", b"ab"]


def test_encode_equals_scanning(trained):
    rng = np.random.default_rng(5)
    for text in AWKWARD + [random_text(rng, 50) for _ in range(100)]:
        expected = [trained.ranks[part] for piece in regex.findall(trained.pattern, text)
                    for part in bpe.merge(trained.ranks, piece.encode())]
        assert trained.encode_ordinary(text) == expected


def test_long_pieces_finish(trained):
    for unit in ("a", "^", "'s", "0", "\n", " ", "the"):
        text = " " + unit * 100_000
        assert trained.decode(trained.encode_ordinary(text)) == text


def test_what_is_remembered_is_bounded_and_harmless(trained, monkeypatch):
    fresh = Encoding(trained.ranks, trained.pattern, trained.special_tokens)
    rng = np.random.default_rng(5)
    text = " ".join(random_text(rng, 50) + " so" for _ in range(40))
    want = trained.encode_ordinary(text)
    monkeypatch.setattr(encoder, "REMEMBERED", 3)
    monkeypatch.setattr(encoder, "TOGETHER", 100)
    assert fresh.encode_ordinary(text) == want
    assert fresh.encoder.n < trained.encoder.n - 100


def test_missing_bytes_name_the_character():
    tokenizer = Encoding({"é".encode(): 0, b"a": 1, b"\xc3": 2}, "gpt4", {})
    with pytest.raises(ValueError, match=regex.escape("'è' (U+00E8)")):
        tokenizer.encode("aéèa")


def test_arrays_and_the_dict_give_the_same_ids(monkeypatch):
    rng = np.random.default_rng(3)
    letters = list("aBs'tlrevm \n\t1\u0663-!/.\u0301\u4e2d\u01c5\u017f\U0001f44d\u0939\u093f\ud800")
    texts = ["".join(rng.choice(letters, rng.integers(0, 200))) for _ in range(60)] + [PROSE, "", "a" * 300, "\u4e2d" * 100, "x" * 3000]
    texts += ["".join(rng.choice(list("the or\u4e2d".replace(" ", "")), n)) for n in range(3, 270, 7)]
    published = [SHARED / f"{name}.tiktoken" for name in ("cl100k_base", "o200k_base")]
    tokenizers = [Encoding.train([PROSE, *texts], 400, name) for name in PATTERNS] + [Encoding.load(path) for path in published if path.exists()]
    tokenizers += [Encoding.characters("".join(texts)), Encoding({b"ab": 0, b"cd": 1, b"abcd": 7}, r"[\s\S]+", {})]
    for tokenizer in tokenizers:
        some = texts if len(tokenizer.ranks) > 3 else ["abcd", "cdab", "abab" * 20, ""]
        monkeypatch.setattr(encoder, "SHORT_TEXT", 10**9)
        want = list(map(tokenizer.encode_ordinary, some))
        for short, few in ((0, 1), (0, 24), (50, 24)):
            monkeypatch.setattr(encoder, "SHORT_TEXT", short)
            monkeypatch.setattr(encoder, "FEW", few)
            tokenizer.encoder.forget()
            assert list(map(tokenizer.encode_ordinary, some)) == want == tokenizer.encode_ordinary_batch(some)
    lacking = Encoding.characters("abc")
    for short in (0, 10**9):
        monkeypatch.setattr(encoder, "SHORT_TEXT", short)
        for text, name in (("abxc", "'x'"), ("\u4e2d" * 20, "'\u4e2d'"), ("ab", None)):
            if name is None:
                assert lacking.encode(text) == [0, 1]                   # also after one that failed
                continue
            with pytest.raises(ValueError, match=f"no token for the character {name}"):
                lacking.encode(text)


def test_a_batch_in_threads_is_the_same():
    """Texts of all lengths, in a child process too, where the threads of its parent are not."""
    rng = np.random.default_rng(8)
    texts = [" ".join(rng.choice(PROSE.split(), n)) for n in rng.integers(0, 3000, 300)] + ["\u4e2d\n" * 50_000, "ab" * 100_000]
    tokenizer = Encoding.train([PROSE], 340, "o200k")
    want = tokenizer.encode_ordinary_batch(texts, num_threads=1)
    assert want[:100] == list(map(tokenizer.encode_ordinary, texts[:100]))
    for n in (2, 3, 7):
        assert Encoding(tokenizer.ranks, tokenizer.pattern, {}).encode_ordinary_batch(texts, num_threads=n) == want
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(tokenizer.encode_ordinary_batch, (texts,), {"num_threads": 2}) == want
    for n in (1, 2):
        with pytest.raises(ValueError, match="no token for the character 'x'"):
            Encoding.characters("abc").encode_ordinary_batch(["abc" * 3000] * 20 + ["abx"], num_threads=n)


@pytest.mark.parametrize("name", ["r50k_base", "cl100k_base", "o200k_base"])
@pytest.mark.parametrize("unit", ["^", "0", "a", "'s", " ", "\n"])
def test_long_runs_round_trip(name, unit):
    tokenizer = encoding(name)
    for text in (unit * 10_000, " " + unit * 10_000, " " + unit * 10_000 + "\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_million_letters():
    tokenizer = encoding("o200k_base")
    ids = tokenizer.encode_to_numpy("x" * 1_000_000)
    assert tokenizer.decode(ids) == "x" * 1_000_000


@pytest.mark.parametrize("name", ["r50k_base", "cl100k_base", "o200k_base"])
def test_every_token_is_its_own_id(name):
    tokenizer = encoding(name)
    for i in range(10_000):
        assert tokenizer.encode_single_token(tokenizer.decode_single_token_bytes(i)) == i


def test_long_lists_are_decoded_by_arrays(monkeypatch):
    trained = Encoding.train([PROSE, "a" * 400], 400)
    assert max(map(len, trained.ranks)) > 15
    rng = np.random.default_rng(2)
    ids = rng.integers(0, trained.n_vocab, 5000)
    want = b"".join(trained.token_bytes[i] for i in ids)
    for many in (1, 7, 5000, 10_000):
        monkeypatch.setattr(decoder, "MANY", many)
        for form in (ids, ids.tolist(), tuple(ids.tolist()), iter(ids.tolist()), ids.astype(np.uint16)):
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
