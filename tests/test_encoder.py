"""tokens/encoder.py: the ids of bpe.py, whatever the sizes of blocks; all pairs of twins."""

import gzip
import multiprocessing
from collections import Counter

import numpy as np
import pytest
import regex

import bpe
from conftest import SHARED
from tokens.tiktoken import Encoding
from token_texts import AWKWARD, PROSE, encoding, random_text, trained
from tokens import decoder, encoder, hashtable, pieces, trainer
from tokens.patterns import PATTERNS


# ---- the fast twins of what bpe.py defines -------------------------------------------------------

def texts_of_all_kinds():
    """Awkward texts, random ones over all of Unicode, and bytes of a real crawl if it is there."""
    rng = np.random.default_rng(5)
    texts = AWKWARD + [random_text(rng, 60) for _ in range(40)] + ["ab" * 40, "中文" * 30]
    crawl = SHARED / "crawl-dev.warc.gz"
    if crawl.exists():
        with gzip.open(crawl) as file:
            for place in rng.integers(0, 2_000_000, 8).tolist():
                file.seek(place)
                texts.append(file.read(500).decode("utf-8", "replace"))
    return texts


def random_pieces():
    """Bytes of a few letters, with runs and ties everywhere, and of all values."""
    rng = np.random.default_rng(4)
    letters = [list(b"ab"), list(b"abcd"), list(b"ot her" + "é".encode()), list(range(256))]
    pieces = []
    for n in [*range(1, 12)] * 12 + [15, 16, 17, 50, 120, 256, 257, 333]:
        pieces += [bytes(rng.choice(some, n).tolist()) for some in letters]
    return pieces


def vocabularies():
    """{bytes: rank}: trained ones, and some whose ranks no training gives."""
    counts = Counter(piece.encode() for text in texts_of_all_kinds()
                     for piece in regex.findall(bpe.PATTERN, text))
    tokens = trainer.train(counts | Counter(random_pieces()), 700)
    singles = {bytes([b]): 1000 + b for b in range(256)}
    odd = [b"aa", b"aaa", b"ba", b"aab", b"abcd", b"cd", b"ot", b"a" * 12, b"a" * 20]
    odd = {token: i for i, token in enumerate(odd)}
    return [{token: i for i, token in enumerate(tokens)}, singles | odd]


def check_merge():
    """One piece."""
    for ranks in [*vocabularies(), {b"ab": 0, b"cd": 1}]:
        for piece in [b"", *random_pieces()]:
            assert encoder.merge(ranks, piece) == bpe.merge(ranks, piece)


def check_merge_all():
    """Pieces of all lengths together."""
    for ranks in vocabularies():
        fast = Encoding(ranks, "digits", {}).encoder
        pieces = [piece for piece in random_pieces() if len(piece) <= encoder.WIDTHS[-1]]
        rows = encoder.padded(dict(enumerate(pieces)))
        ids, counts = encoder.merge_all(rows.raw, rows.length, fast.pairs)
        want = [[ranks[token] for token in bpe.merge(ranks, piece)] for piece in pieces]
        assert ids.tolist() == [i for some in want for i in some]
        assert counts.tolist() == list(map(len, want))


def check_merge_long():
    """Pieces of many windows, some of which have no token in common."""
    rng = np.random.default_rng(3)
    some = [b"a" * 900, b"ab" * 500, b"aab" * 300 + b"cd" * 300,
            *(bytes(rng.choice(list(letters), 1000).tolist()) for letters in (b"ab", b"abcd ")),
            *filter(None, random_pieces())]
    for ranks in vocabularies():
        fast = Encoding(ranks, "digits", {}).encoder
        want = [[ranks[token] for token in bpe.merge(ranks, piece)] for piece in some]
        together = encoder.merge_long(some, ranks, fast.pairs)
        assert [ids.tolist() for ids in together] == want
        for piece, ids in zip(some[:30], want):
            assert encoder.merge_long([piece], ranks, fast.pairs)[0].tolist() == ids


def check_cut():
    """Where a text is cut."""
    for name, pattern in PATTERNS.items():
        texts = texts_of_all_kinds()
        for block in pieces.blocks_of(texts, pattern):
            parts = [part for _, part in block]
            data, begin, length, ends = pieces.cut(parts, pattern)
            found = [data[b:b + n].tobytes().decode() for b, n in zip(begin, length)]
            assert found == [piece for part in parts for piece in regex.findall(pattern, part)]
            assert ends[-1] == len(found), name


def check_encode():
    """Texts alone and together, with names of special tokens in them."""
    for ranks in vocabularies():
        special = {"<|im_end|>": 2000, "<|im": 2001}
        tokenizer = Encoding(ranks, "digits", special)
        texts = [f"{text}<|im_end|>{text[:3]}" for text in texts_of_all_kinds()]
        for allowed in ({}, special, {"<|im": 2001}):
            want = [bpe.encode(text, ranks, allowed) for text in texts]
            options = {"allowed_special": allowed.keys(), "disallowed_special": ()}
            assert [tokenizer.encode(text, **options) for text in texts] == want
            assert tokenizer.encode_batch(texts, num_threads=2, **options) == want
            assert tokenizer.encode_batch(texts, num_threads=1, **options) == want


def check_decode():
    """Lists and arrays of ids, with characters that are cut."""
    rng = np.random.default_rng(6)
    for ranks in vocabularies():
        tokenizer = Encoding(ranks, "digits", {})
        every = rng.permutation(list(ranks.values()))
        for ids in (every[:0], every[:1], every, rng.choice(every, 300)):
            want = bpe.decode(ids.tolist(), tokenizer.token_bytes)
            assert tokenizer.decode(ids) == tokenizer.decode(ids.tolist()) == want


def check_train():
    """Counts of pieces, until no pair is left."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        letters = list(b"aab"[:rng.integers(2, 4)])
        counts = {bytes(rng.choice(letters, rng.integers(1, 25)).tolist()): int(rng.integers(1, 6))
                  for _ in range(rng.integers(1, 12))}
        n_tokens = 256 + int(rng.integers(1, 60))
        assert trainer.train(counts, n_tokens) == bpe.train(counts, n_tokens)
    texts = texts_of_all_kinds()
    counts = Counter(piece.encode() for text in texts for piece in regex.findall(bpe.PATTERN, text))
    assert trainer.count_pieces(texts, bpe.PATTERN) == counts
    assert list(trainer.count_pieces(texts, bpe.PATTERN)) == list(counts)
    assert trainer.train(counts, 320) == bpe.train(counts, 320)


# The definition, its fast twin, and the function that compares them.
PAIRS = [(bpe.merge, encoder.merge, check_merge),
         (bpe.merge, encoder.merge_all, check_merge_all),
         (bpe.merge, encoder.merge_long, check_merge_long),
         (bpe.PATTERN, pieces.cut, check_cut),
         (bpe.encode, bpe.Tokenizer.encode, check_encode),
         (bpe.decode, decoder.Decoder.decode, check_decode),
         (bpe.train, trainer.train, check_train)]


def small_blocks(monkeypatch):
    """Every size of a block as small as it can be, so that texts need many."""
    monkeypatch.setattr(pieces, "BLOCK", 20)
    monkeypatch.setattr(encoder, "SHORT_TEXT", 0)
    monkeypatch.setattr(encoder, "TOGETHER", 30)
    monkeypatch.setattr(encoder, "WIDTHS", (1, 2, 5, encoder.SURE, 17, 20, 60))
    monkeypatch.setattr(encoder, "FEW", 2)
    monkeypatch.setattr(encoder, "MANY", 3)
    monkeypatch.setattr(encoder, "WINDOW", 12)
    monkeypatch.setattr(encoder, "STRIDE", 7)
    monkeypatch.setattr(encoder, "MANY_WINDOWS", 5)
    monkeypatch.setattr(encoder, "LONG", 30)
    monkeypatch.setattr(encoder, "REMEMBERED", 5)
    monkeypatch.setattr(encoder, "CACHE_PIECES", 3)
    monkeypatch.setattr(decoder, "MANY", 2)
    monkeypatch.setattr(decoder, "TOGETHER", 3)
    monkeypatch.setattr(trainer, "BATCH_CHARACTERS", 40)
    monkeypatch.setattr(hashtable.Table.__init__, "__defaults__", (1,))


@pytest.mark.parametrize("small", [False, True], ids=["", "small blocks"])
@pytest.mark.parametrize("definition, twin, check", PAIRS, ids=[c.__name__ for *_, c in PAIRS])
def test_the_fast_twin_equals_its_definition(definition, twin, check, small, monkeypatch):
    if small:
        small_blocks(monkeypatch)
    check()


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
    texts = ["".join(rng.choice(letters, rng.integers(0, 200))) for _ in range(60)] + [
        PROSE, "", "a" * 300, "\u4e2d" * 100, "x" * 3000,
    ]
    texts += [
        "".join(rng.choice(list("the or\u4e2d".replace(" ", "")), n)) for n in range(3, 270, 7)
    ]
    published = [SHARED / f"{name}.tiktoken" for name in ("cl100k_base", "o200k_base")]
    tokenizers = [Encoding.train([PROSE, *texts], 400, name) for name in PATTERNS] + [
        Encoding.load(path) for path in published if path.exists()
    ]
    tokenizers += [Encoding.characters("".join(texts)),
                   Encoding({b"ab": 0, b"cd": 1, b"abcd": 7}, r"[\s\S]+", {})]
    for tokenizer in tokenizers:
        some = texts if len(tokenizer.ranks) > 3 else ["abcd", "cdab", "abab" * 20, ""]
        monkeypatch.setattr(encoder, "SHORT_TEXT", 10**9)
        want = list(map(tokenizer.encode_ordinary, some))
        for short, few in ((0, 1), (0, 24), (50, 24)):
            monkeypatch.setattr(encoder, "SHORT_TEXT", short)
            monkeypatch.setattr(encoder, "FEW", few)
            tokenizer.encoder.forget()
            assert (list(map(tokenizer.encode_ordinary, some))
                    == want
                    == tokenizer.encode_ordinary_batch(some))
    lacking = Encoding.characters("abc")
    for short in (0, 10**9):
        monkeypatch.setattr(encoder, "SHORT_TEXT", short)
        for text, name in (("abxc", "'x'"), ("\u4e2d" * 20, "'\u4e2d'"), ("ab", None)):
            if name is None:
                assert lacking.encode(text) == [0, 1]                   # also after one that failed
                continue
            with pytest.raises(ValueError, match=f"no token for the character {name}"):
                lacking.encode(text)


def test_words_of_short_texts_are_cut_as_the_pattern_cuts():
    """Spaces of all kinds in a row, before and behind everything."""
    rng = np.random.default_rng(7)
    letters = ["a", "B", "1", "!", "'s", " ", " ", " ", "\n", "\u00a0", "\u3000", "\x1c", "\u0301"]
    texts = ["".join(rng.choice(letters, rng.integers(0, 9))) for _ in range(2000)]
    two = [a.encode() + b.encode() for a in letters for b in letters]
    tokens = dict.fromkeys([bytes([b]) for b in range(256)] + two)
    ranks = {token: i for i, token in enumerate(tokens)}
    for pattern in pieces.RULES:
        fast = encoder.Encoder(ranks, pattern)
        for text in texts:
            found = [piece.encode() for piece in regex.findall(pattern, text)]
            want = [i for piece in found for i in fast.encode_piece(piece)]
            assert fast.encode([text])[0].tolist() == want


def test_a_batch_in_threads_is_the_same():
    """Texts of all lengths, in a child process too, where the threads of its parent are not."""
    rng = np.random.default_rng(8)
    texts = [" ".join(rng.choice(PROSE.split(), n)) for n in rng.integers(0, 3000, 300)] + [
        "\u4e2d\n" * 50_000,
        "ab" * 100_000,
    ]
    tokenizer = Encoding.train([PROSE], 340, "o200k")
    want = tokenizer.encode_ordinary_batch(texts, num_threads=1)
    assert want[:100] == list(map(tokenizer.encode_ordinary, texts[:100]))
    for n in (2, 3, 7):
        assert (Encoding(tokenizer.ranks, tokenizer.pattern, {}).encode_ordinary_batch(
                    texts, num_threads=n
                )
                == want)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(tokenizer.encode_ordinary_batch, (texts,), {"num_threads": 2}) == want
    for n in (1, 2):
        with pytest.raises(ValueError, match="no token for the character 'x'"):
            Encoding.characters("abc").encode_ordinary_batch(
                ["abc" * 3000] * 20 + ["abx"], num_threads=n
            )


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
