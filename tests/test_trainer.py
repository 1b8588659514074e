"""tokens/trainer.py: the tokens of bpe.train, and the ties of others."""

import time
import zlib
from collections import Counter

import numpy as np
import pytest
import regex

import bpe
from token_texts import PROSE, run_bpe, trained
from bpe import SPECIAL_TOKENS, Tokenizer
from tokens import trainer
from tokens.patterns import GPT2_BYTES, PATTERNS
from tokens.trainer import TIES, in_processes

CORPUS = ["low lower lowest\nnew newer newest wide wider widest\n", "aaaa aaa  12 123 café"]


def products(tokenizer):
    return [token for token, i in tokenizer.ranks.items() if i >= 256]


def piece_counts(texts, pattern):
    return Counter(piece.encode() for text in texts
                   for piece in regex.findall(PATTERNS[pattern], text))


def slowly(texts, n_merges, pattern):
    """minbpe's way: count all pairs anew, take the most frequent, of equals the first in the
    corpus."""
    words = [[bytes([b]) for b in piece.encode()]
             for text in texts
             for piece in regex.findall(pattern, text)]
    merges = []
    for _ in range(n_merges):
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(
            counts, key=counts.get
        )  # max takes the first of equals; dicts keep the order of insertion
        merges.append(best[0] + best[1])
        for k, word in enumerate(words):
            joined, i = [], 0
            while i < len(word):
                two = i + 1 < len(word) and (word[i], word[i + 1]) == best
                joined.append(word[i] + word[i + 1] if two else word[i])
                i += 1 + two
            words[k] = joined
    return merges


@pytest.mark.parametrize("pattern", ["digits", "gpt4", "cl100k", "gpt2", "o200k"])
def test_train_equals_recounting(pattern):
    texts = [PROSE, "aaaa aaaaa aaaaaa abababab 1111 22222 请考试考试"]
    tokenizer = Tokenizer.train(texts, 256 + 8 + 90, pattern)
    assert list(tokenizer.ranks) == bpe.train(piece_counts(texts, pattern), 256 + 90)


def test_special_tokens_follow_the_ranks(trained):
    assert trained.n_vocab == 340 and len(trained.ranks) == 340 - len(SPECIAL_TOKENS)
    assert list(trained.special_tokens) == list(SPECIAL_TOKENS)
    assert list(trained.special_tokens.values()) == list(range(332, 340))
    assert trained.eot_token == 332
    assert all(trained.ranks[bytes([b])] == b for b in range(256))
    assert len(trained.token_bytes) == 340
    assert trained.token_bytes[65] == b"A" and trained.token_bytes[332] == b"<|endoftext|>"


def test_pairs_run_out(capsys):
    tokenizer = Tokenizer.train(["ab ab"], 1000)
    assert products(tokenizer) == [b"ab", b" ab"]
    assert tokenizer.n_vocab == 258 + 8
    assert "after 2 of 736 merges" in capsys.readouterr().err
    assert Tokenizer.train(["a"], 264).n_vocab == 264
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("arguments, message", [
    ((["abc"], 263), "vocab_size 263: vocabulary smaller than 256 bytes and 8 special tokens"),
    ((["abc"], 100, "digits", ()), "vocabulary smaller than 256"),
    (([], 300), "empty corpus"),
    ((["", ""], 300), "empty corpus"),
    (("abc", 300), "an iterable of documents"),
    ((["abc"], 300, "(a|b"), "pattern '(a|b'"),
    ((["abc"], 300, "(a|b)"), "capturing group"),
])
def test_bad_training(arguments, message):
    with pytest.raises(ValueError, match=regex.escape(message)):
        Tokenizer.train(*arguments)


def test_training_mends_surrogates():
    assert Tokenizer.train(["\ud83d\udc4d \ud83d"] * 2, 300) .ranks == \
        Tokenizer.train(["👍 \ufffd"] * 2, 300).ranks


def test_a_long_run_trains_and_loads(tmp_path, capsys):
    """Its tokens are up to 2^18 bytes long; listing their merges took 37 s."""
    (tmp_path / "a.txt").write_text("a" * 400_000)
    start = time.process_time()
    assert run_bpe(["train", "--run", str(tmp_path), "--input", str(tmp_path / "a.txt")]) == 0
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.tiktoken")
    assert time.process_time() - start < 5
    assert len(tokenizer.encode("a" * 400_000)) == 1
    assert capsys.readouterr().out.startswith(f"the longest token is {'a' * 40 + '...'!r}\n")


@pytest.mark.parametrize("ties, products",
                         [("minbpe", "aa we lo st ne _w _wi _wid _wide _lo _lowe _ne"),
                          ("rustbpe", "aa we _w de ide lo ne st _wide _lo _ne 12"),
                          ("huggingface", "aa we de ide lo ne st wide _wide 12 _lo _ne")])
def test_ties(ties, products):
    """Published by whoever ran them all: facts about the three trainers."""
    trained = Tokenizer.train(CORPUS, 256 + 12, "gpt4", (), ties=ties)
    assert [
        token.decode().replace(" ", "_") for token in list(trained.ranks)[256:]
    ] == products.split()
    single = GPT2_BYTES if ties == "huggingface" else bytes(range(256))
    assert b"".join(list(trained.ranks)[:256]) == single


@pytest.mark.parametrize(
    "ties, products",
    [("minbpe", "dd cc bb aa"), ("rustbpe", "cc dd aa bb"), ("huggingface", "cc dd aa bb")],
)
def test_ties_of_runs(ties, products):
    trained = Tokenizer.train(["bbbaaaddddcccc"], 260, r"[\s\S]+", (), ties=ties)
    assert [token.decode() for token in list(trained.ranks)[256:]] == products.split()


def test_minbpes_merges_are_those_of_counting_anew():
    rng = np.random.default_rng(0)
    texts = [PROSE, "".join(rng.choice(list("ab c"), 3000)),
             "".join(rng.choice(list("abcdefgh "), 3000))]
    trained = Tokenizer.train(texts, 256 + 300, "gpt4", (), ties="minbpe")
    assert list(trained.ranks)[256:] == slowly(texts, 300, PATTERNS["gpt4"])


def test_rules_that_refuse_what_others_are_made_of(monkeypatch):
    """Then a new pair can come before pairs that are older and more frequent."""
    rng = np.random.default_rng(3)
    for seed in range(20):
        pieces = [bytes(rng.choice(list(b"abc"), rng.integers(2, 9)).tolist()) for _ in range(40)]
        counts = {piece: int(rng.integers(1, 100)) for piece in pieces}

        def rule(token, seed=seed):
            return zlib.crc32(token, seed) % 3 > 0

        monkeypatch.setattr(bpe, "may_be_token", rule)
        assert trainer.train(counts, 300) == bpe.train(counts, 300, rule)


def test_a_minimum_frequency_and_processes(capsys, monkeypatch):
    texts = [PROSE] * 40
    often = Tokenizer.train(texts, 2000, "gpt4", (), min_frequency=200)
    assert "no pair is left that comes 200 times" in capsys.readouterr().err
    rest = list(Tokenizer.train(texts, len(often.ranks) + 1, "gpt4", ()).ranks)
    assert rest[:-1] == list(often.ranks)
    monkeypatch.setattr(trainer, "BATCH_CHARACTERS", 1000)
    calls = []
    monkeypatch.setattr(
        trainer.cores,
        "processes",
        lambda *args, processes=trainer.cores.processes: (calls.append(args[0]), processes(*args))[
            1
        ],
    )
    for ties in TIES:
        assert (Tokenizer.train(iter(texts), 340, "gpt4", ties=ties, workers=3).ranks
                == Tokenizer.train(texts, 340, "gpt4", ties=ties).ranks)
    assert calls == [3] * len(TIES)
    Tokenizer.train([PROSE] * 6, 340, "gpt4", workers=3)
    assert calls == [3] * len(TIES)                     # so few start no processes
    with pytest.raises(ValueError, match="ties 'fair': one of rustbpe, huggingface, minbpe"):
        Tokenizer.train(texts, 300, ties="fair")


def test_an_error_in_a_process_is_the_error():
    assert list(in_processes(int, map(str, range(50)), 2)) == list(range(50))
    with pytest.raises(ValueError, match="invalid literal"):
        list(in_processes(int, ["1", "x", "2"], 2))
