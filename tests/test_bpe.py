"""bpe.py against published ids, against references too simple to be wrong, and against misuse."""

import base64
import gzip
import hashlib
import json
import os
import pickle
import runpy
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import regex

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import bpe
from tokens import encoder
from run import runs
from model import corpus
from tokens import vocabularies
from bpe import PATTERNS, SPECIAL_TOKENS, Tokenizer

DATA = Path(os.environ.get("LONGHAND_DATA", ROOT.parent / "shared" / "data"))

AWKWARD = [
    "", " ", "\n", "?", "hello", "hello ", "  hello  ", "hello!!!? (안녕하세요!) lol123 😉",
    "请考试我的软件！12345", "don't DON'T we'Ll", "def f():\n    return 1\n", "x\n  ", "a\r\nb\r\n\r\n",
    "\t\t\u00a0\u2028\u2029\u3000 mixed   white\x85space \n \n", "1234567 ١٢٣ ½ ²",
    "\x00\x7f\x80\xff", "e\u0301 \u200d👩‍👩‍👧‍👦 🏳️‍🌈", "ſ'ſ K", "\ufeffbom", "'rer 'S 's",
    "." * 50 + "\n\n" + " " * 40, "<|endoftext|>", "नमस्ते दुनिया", "ab" * 300, "\U0010ffff\ufffe",
]
PROSE = ("Once upon a time there was a little otter named Bo. Bo liked 12 + 30 = 42 and the sea.\n"
         "\"Don't go!\" said the old heron; but Bo went, and went, and went again.\n\n") * 3


def random_text(rng, n):
    """n characters over all planes, with more weight on what the patterns tell apart."""
    pools = ["abcdeABC ", "   \n\r\t", "0123456789", "'sdmtlvre", ".,!?/-()", "éßſñçÅ",
             "中文字かな한글", "١٢٣½²", "\u00a0\u2003\u3000\x85", "👍🏽👩‍🚀"]
    out = []
    while len(out) < n:
        if rng.random() < 0.1:
            code = int(rng.integers(0x110000))
            out.append("?" if 0xD800 <= code < 0xE000 else chr(code))
        else:
            pool = pools[rng.integers(len(pools))]
            out += [pool[rng.integers(len(pool))] for _ in range(rng.integers(1, 5))]
    return "".join(out)


@pytest.fixture(scope="module")
def trained():
    return Tokenizer.train([PROSE, "naïve café 请考试"], 340)


@pytest.fixture(scope="module", params=["r50k_base", "cl100k_base", "o200k_base"])
def published(request):
    path = DATA / f"{request.param}.tiktoken"
    if not path.exists():
        pytest.skip(f"no {path.name}: set LONGHAND_DATA to a folder that has it")
    return request.param, Tokenizer.load(path)


# ---- references ----------------------------------------------------------------------------------

def scan_merge(ranks, piece):
    """BPE as it is defined: look at all neighbours, join the lowest, leftmost; again."""
    parts = [piece[i:i + 1] for i in range(len(piece))]
    while True:
        neighbours = enumerate(zip(parts, parts[1:]))
        known = [(ranks[a + b], i) for i, (a, b) in neighbours if a + b in ranks]
        if not known:
            return parts
        _, i = min(known)
        parts[i:i + 2] = [parts[i] + parts[i + 1]]


def recount_train(piece_counts, n_tokens):
    """Training as it is defined: count every pair of every piece, join the best; again."""
    words = [(list(piece), count) for piece, count in piece_counts.items()]
    tokens = [bytes([b]) for b in range(256)]
    while len(tokens) < n_tokens:
        pairs = Counter()
        for word, count in words:
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        for word, _ in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i:i + 2] = [len(tokens)]
                i += 1
        tokens.append(tokens[best[0]] + tokens[best[1]])
    return tokens


def piece_counts(texts, pattern):
    return Counter(piece.encode() for text in texts
                   for piece in regex.findall(PATTERNS[pattern], text))


def products(tokenizer):
    return [token for token, i in tokenizer.ranks.items() if i >= 256]


# ---- training ------------------------------------------------------------------------------------

def test_ties_go_to_the_smallest_pair():
    """12 products worked out with a recounting reference, in the order of rustbpe, not minbpe's."""
    texts = ["low lower lowest\nnew newer newest wide wider widest\n", "aaaa aaa  12 123 café"]
    tokenizer = Tokenizer.train(texts, 268, pattern="gpt4", special_tokens=())
    expected = ["aa", "we", " w", "de", "ide", "lo", "ne", "st", " wide", " lo", " ne", "12"]
    assert products(tokenizer) == [token.encode() for token in expected]


def test_published_examples_of_training():
    tokenizer = Tokenizer.train(["aaabdaaabac"], 259, special_tokens=())
    assert products(tokenizer) == [b"aa", b"ab", b"aaab"]
    assert tokenizer.encode("aaabdaaabac") == [258, 100, 258, 97, 99]
    assert products(Tokenizer.train(["bbbaaaddddcccc"], 260, special_tokens=())) == \
        [b"cc", b"dd", b"aa", b"bb"]
    assert products(Tokenizer.train(["aaa"] * 10, 258, special_tokens=())) == [b"aa", b"aaa"]


@pytest.mark.parametrize("pattern", ["digits", "gpt4", "cl100k", "gpt2", "o200k"])
def test_train_equals_recounting(pattern):
    texts = [PROSE, "aaaa aaaaa aaaaaa abababab 1111 22222 请考试考试"]
    tokenizer = Tokenizer.train(texts, 256 + 8 + 90, pattern)
    assert list(tokenizer.ranks) == recount_train(piece_counts(texts, pattern), 256 + 90)


def test_train_equals_recounting_on_random_pieces():
    """Two or three letters: runs, overlaps and ties everywhere, until no pair is left."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        letters = list(b"aab"[:rng.integers(2, 4)])
        counts = {bytes(rng.choice(letters, rng.integers(1, 25)).tolist()): int(rng.integers(1, 6))
                  for _ in range(rng.integers(1, 12))}
        n_tokens = 256 + int(rng.integers(1, 60))
        assert bpe.learn_tokens(counts, n_tokens) == recount_train(counts, n_tokens)


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
    (("abc", 300), "iterable of documents"),
    ((["abc"], 300, "(a|b"), "pattern '(a|b'"),
    ((["abc"], 300, "(a|b)"), "capturing group"),
])
def test_bad_training(arguments, message):
    with pytest.raises(ValueError, match=regex.escape(message)):
        Tokenizer.train(*arguments)


def test_training_mends_surrogates():
    assert Tokenizer.train(["\ud83d\udc4d \ud83d"] * 2, 300) .ranks == \
        Tokenizer.train(["👍 \ufffd"] * 2, 300).ranks


# ---- encoding ------------------------------------------------------------------------------------

HELLO = ["hello world", "Hello world", "helloworld", " hello  world",
         "I want Spiderman! I want Dr Doom"]
IDS = {
    "r50k_base": dict(zip(HELLO, [
        [31373, 995], [15496, 995], [12758, 322, 1764], [23748, 220, 995],
        [40, 765, 12648, 805, 0, 314, 765, 1583, 18688]])) | {
        "<|endoftext|>": [27, 91, 437, 1659, 5239, 91, 29], "": [],
        "0" * 9: [10535, 830], "0" * 16: [25645], "0" * 17: [8269, 10535, 830]},
    "cl100k_base": dict(zip(HELLO, [
        [15339, 1917], [9906, 1917], [71, 96392], [24748, 220, 1917],
        [40, 1390, 29490, 1543, 0, 358, 1390, 2999, 51334]])) | {
        "hello ": [15339, 220], "hello  ": [15339, 256], "  hello": [220, 24748], "": [],
        "1234567": [4513, 10961, 22], "don't DON'T": [15357, 956, 45373, 17773],
        "def f():\n    return 1\n": [755, 282, 4019, 262, 471, 220, 16, 198],
        "<|endoftext|>": [27, 91, 8862, 728, 428, 91, 29], "\u2028": [378, 101],
        "hello123!!!? (안녕하세요!) 😉": [15339, 4513, 12340, 30, 320, 31495, 230, 75265, 243, 92245,
                                    16715, 57037],
        "rer": [38149], "'rer": [2351, 81], "today\n ": [31213, 198, 220],
        "today\n \n": [31213, 27907], "today\n  \n": [31213, 14211],
        " \x850": [220, 126, 227, 15], "👍": [9468, 239, 235],
        "\ud83d\udc4d": [9468, 239, 235], " " * 64: [5351]},
    "o200k_base": dict(zip(HELLO, [
        [24912, 2375], [13225, 2375], [10844, 192256], [40617, 220, 2375],
        [40, 1682, 2856, 155992, 0, 357, 1682, 3808, 121184]])) | {"What's": [45350], "": []},
}


def test_published_ids(published):
    name, tokenizer = published
    for text, ids in IDS[name].items():
        assert tokenizer.encode_ordinary(text) == ids, text
    n_vocab = {"r50k_base": 50257, "cl100k_base": 100277, "o200k_base": 200019}
    assert tokenizer.n_vocab == n_vocab[name]
    assert tokenizer.encode_ordinary("\ud83d") == tokenizer.encode_ordinary("\ufffd")
    assert tokenizer.encode_single_token("<|endoftext|>") == tokenizer.eot_token
    for i in range(0, 10_000, 7):
        assert tokenizer.encode_single_token(tokenizer.decode_single_token_bytes(i)) == i


def test_published_round_trips(published):
    rng = np.random.default_rng(2)
    for text in AWKWARD + [random_text(rng, 60) for _ in range(200)]:
        assert published[1].decode(published[1].encode_ordinary(text)) == text


def test_published_special_tokens(published):
    name, tokenizer = published
    eot = tokenizer.eot_token
    assert tokenizer.encode("hello <|endoftext|>", allowed_special="all")[-2:] == [220, eot]
    if name == "cl100k_base":
        assert tokenizer.token_bytes[100256] == b""
        with pytest.raises(KeyError):
            tokenizer.decode([100256])


def test_round_trips(trained):
    rng = np.random.default_rng(3)
    for text in AWKWARD + [random_text(rng, 40) for _ in range(300)]:
        ids = trained.encode_ordinary(text)
        assert trained.decode(ids) == text
        assert trained.decode_bytes(np.array(ids, np.uint32)) == text.encode()
        numpy_ids = trained.encode_to_numpy(text, disallowed_special=())
        assert numpy_ids.dtype == np.uint32 and numpy_ids.tolist() == ids
        assert all(type(i) is int for i in ids)


def test_merge_equals_scanning(trained):
    rng = np.random.default_rng(4)
    alphabet = b"ot her" + "é".encode()
    ranks = [trained.ranks, {b"ab": 0, b"cd": 1},
             {b"aa": 0, b"aaa": 1, b"ba": 2, b"aab": 3, b"b": 4}]
    for n in list(range(12)) * 20 + [50, 120, 333]:
        for table in ranks:
            letters = list(alphabet if table is trained.ranks else b"abcd")
            piece = bytes(rng.choice(letters, n).tolist())
            assert bpe.merge(table, piece) == scan_merge(table, piece)
    assert bpe.merge({b"ab": 0, b"cd": 1}, b"abcd") == [b"ab", b"cd"]
    assert bpe.merge({b"ab": 256, b"abc": 257}, b"xabcab") == [b"x", b"abc", b"ab"]


def test_encode_equals_scanning(trained):
    rng = np.random.default_rng(5)
    for text in AWKWARD + [random_text(rng, 50) for _ in range(100)]:
        expected = [trained.ranks[part] for piece in regex.findall(trained.pattern, text)
                    for part in scan_merge(trained.ranks, piece.encode())]
        assert trained.encode_ordinary(text) == expected


def test_all_merges_equals_trying_every_cut(trained):
    expected = []
    for token, rank in trained.ranks.items():
        for i in range(1, len(token)):
            pair = token[:i], token[i:]
            if all(part in trained.ranks for part in pair):
                expected.append((rank, [trained.ranks[part] for part in pair], pair))
    assert vocabularies.all_merges(trained.ranks) == [pair for *_, pair in sorted(expected)]


def test_a_long_run_trains_and_loads(tmp_path, capsys):
    """Its tokens are up to 2^18 bytes long; listing their merges took 37 s."""
    (tmp_path / "a.txt").write_text("a" * 400_000)
    start = time.process_time()
    assert bpe.main(["train", "--run", str(tmp_path), "--input", str(tmp_path / "a.txt")]) == 0
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.tiktoken")
    assert time.process_time() - start < 5
    assert len(tokenizer.encode("a" * 400_000)) == 1
    assert capsys.readouterr().out.endswith(f"the longest {'a' * 40 + '...'!r}\n")


def test_long_pieces_finish(trained):
    for unit in ("a", "^", "'s", "0", "\n", " ", "the"):
        text = " " + unit * 100_000
        assert trained.decode(trained.encode_ordinary(text)) == text


def test_what_is_remembered_is_bounded_and_harmless(trained, monkeypatch):
    fresh = Tokenizer(trained.ranks, trained.pattern, trained.special_tokens)
    rng = np.random.default_rng(5)
    text = " ".join(random_text(rng, 50) + " so" for _ in range(40))
    want = trained.encode_ordinary(text)
    monkeypatch.setattr(encoder, "REMEMBERED", 3)
    monkeypatch.setattr(encoder, "TOGETHER", 100)
    assert fresh.encode_ordinary(text) == want
    assert fresh._encoder.n < trained._encoder.n - 100


PIECES_OF = {                           # of "I'LL don't12345  (x)!\n\n  HTMLparser/\n "
    "gpt2": ["I", "'", "LL", " don", "'t", "12345", " ", " (", "x", ")!", "\n\n ", " HTMLparser",
             "/", "\n "],
    "cl100k": ["I", "'LL", " don", "'t", "123", "45", " ", " (", "x", ")!\n\n", " ", " HTMLparser",
               "/\n", " "],
    "o200k": ["I'LL", " don't", "123", "45", " ", " (", "x", ")!\n\n", " ", " HTMLparser", "/\n",
              " "],
    "gpt4": ["I", "'LL", " don", "'t", "123", "45", " ", " (", "x", ")!\n\n", " ", " HTMLparser",
             "/\n", " "],
    "digits": ["I", "'LL", " don", "'t", *"12345", " ", " (", "x", ")!\n\n", " ", " HTMLparser",
               "/\n", " "],
    "nanochat": ["I", "'LL", " don", "'t", "12", "34", "5", " ", " (", "x", ")!\n\n", " ", " HTMLparser", "/\n", " "],
    "qwen2": ["I", "'LL", " don", "'t", *"12345", " ", " (", "x", ")!\n\n", " ", " HTMLparser", "/\n", " "],
    "characters": list("I'LL don't12345  (x)!\n\n  HTMLparser/\n "),
}


def test_patterns_cut_where_they_should():
    assert list(PIECES_OF) == list(PATTERNS)
    for name, pieces in PIECES_OF.items():
        assert regex.findall(PATTERNS[name], "".join(pieces)) == pieces


def test_special_token_rules(trained):
    text = "a<|im_start|>b<|im_end|>"
    start, end = trained.special_tokens["<|im_start|>"], trained.special_tokens["<|im_end|>"]
    plain = trained.encode_ordinary(text)
    assert start not in plain and end not in plain
    assert trained.encode(text, disallowed_special=()) == plain
    assert trained.encode(text, allowed_special="all") == [97, start, 98, end]
    one = trained.encode(text, allowed_special={"<|im_end|>"}, disallowed_special=())
    assert one == trained.encode_ordinary("a<|im_start|>b") + [end]
    for arguments in ({}, {"disallowed_special": "all"}, {"disallowed_special": {"<|im_end|>"}},
                      {"allowed_special": {"<|im_end|>"}},
                      {"allowed_special": "all", "disallowed_special": ["<|im_end|>"]},
                      {"disallowed_special": {"b"}}):
        with pytest.raises(ValueError, match="text contains the special token"):
            trained.encode(text, **arguments)
    with pytest.raises(ValueError, match="pass a set"):
        trained.encode(text, allowed_special="<|im_end|>")
    assert trained.encode("plain", {"no such name"}) == trained.encode_ordinary("plain")
    assert trained.decode([start, 97]) == "<|im_start|>a"


def test_special_slices_are_encoded_apart():
    tokenizer = Tokenizer({b"a": 0, b"b": 1, b"ab": 2}, "gpt4", {"|": 7, "||": 9})
    assert tokenizer.encode("ab", allowed_special="all") == [2]
    assert tokenizer.encode("a|b", allowed_special="all") == [0, 7, 1]
    assert tokenizer.encode("a|||b", allowed_special="all") == [0, 9, 7, 1]      # the longest first
    assert tokenizer.n_vocab == 10 and tokenizer.token_bytes[5] == b""


def test_single_tokens(trained):
    assert trained.encode_single_token("a") == trained.encode_single_token(b"a") == 97
    assert trained.encode_single_token("<|im_sep|>") == trained.special_tokens["<|im_sep|>"]
    assert trained.decode_single_token_bytes(trained.special_tokens["<|im_sep|>"]) == b"<|im_sep|>"
    for token in ("no such token", b"\xff\xfe"):
        with pytest.raises(KeyError):
            trained.encode_single_token(token)


def test_decode_partial_characters_and_unknown_ids(trained):
    assert trained.decode([0xE9]) == "\ufffd"
    with pytest.raises(UnicodeDecodeError):
        trained.decode([0xE9], errors="strict")
    for unknown in (-1, 340, 10**9):
        with pytest.raises(KeyError):
            trained.decode([unknown])
        with pytest.raises(KeyError):
            trained.decode(np.array([unknown]))


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


def test_pickle(trained):
    copy = pickle.loads(pickle.dumps(trained))
    assert copy.encode(PROSE) == trained.encode(PROSE) and copy.fingerprint == trained.fingerprint


def test_characters():
    tokenizer = Tokenizer.characters("hello wörld\n")
    assert [token.decode() for token in tokenizer.ranks] == sorted(set("hello wörld\n"))
    assert tokenizer.encode("hö\n") == [4, 9, 0] and tokenizer.decode([4, 9, 0]) == "hö\n"
    assert tokenizer.n_vocab == 10 and tokenizer.special_tokens == {}
    unknown = {"hellø": "'ø' (U+00F8)", "x": "'x' (U+0078)", "o中": "'中' (U+4E2D)"}
    for text, name in unknown.items():
        with pytest.raises(ValueError, match=regex.escape(f"no token for the character {name}")):
            tokenizer.encode(text)
    with pytest.raises(ValueError, match="at least one token"):
        Tokenizer.characters("")


def test_missing_bytes_name_the_character():
    tokenizer = Tokenizer({"é".encode(): 0, b"a": 1, b"\xc3": 2}, "gpt4", {})
    with pytest.raises(ValueError, match=regex.escape("'è' (U+00E8)")):
        tokenizer.encode("aéèa")


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


# ---- tokenizer files -----------------------------------------------------------------------------

@pytest.mark.parametrize("pattern", PATTERNS)
def test_save_and_load(tmp_path, trained, pattern):
    if pattern == "characters":
        saved = Tokenizer.characters("".join(AWKWARD))
    else:
        saved = Tokenizer(trained.ranks, pattern, trained.special_tokens)
    saved.save(tmp_path / "tokenizer.json")
    saved.save(tmp_path / "tokenizer.tiktoken")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["tokenizer.json", "tokenizer.tiktoken", "tokenizer_config.json"]
    for name in names[:2]:
        loaded = Tokenizer.load(tmp_path / name)
        assert (loaded.ranks, loaded.pattern, loaded.special_tokens, loaded.fingerprint) == \
            (saved.ranks, saved.pattern, saved.special_tokens, saved.fingerprint)
        for text in AWKWARD:
            assert loaded.encode_ordinary(text) == saved.encode_ordinary(text)


def test_tiktoken_lines(tmp_path):
    Tokenizer({b"b": 5, b"a": 0, b" \xff": 3}, "gpt2", {"<|x|>": 4}).save(tmp_path / "t.tiktoken")
    assert (tmp_path / "t.tiktoken").read_bytes() == b"YQ== 0\nIP8= 3\nYg== 5\n"


def test_ranks_without_pattern(tmp_path, trained):
    path = tmp_path / "mine.tiktoken"
    trained.save(path)
    with pytest.raises(ValueError, match="mine.tiktoken: holds no pattern, .* mine.json beside it"):
        Tokenizer.load(path)
    assert Tokenizer.load(path, pattern="gpt2").special_tokens == {}
    loaded = Tokenizer.load(path, pattern=trained.pattern, special_tokens=trained.special_tokens)
    assert loaded.fingerprint == trained.fingerprint
    for name, eot in (("gpt2", 50256), ("p50k_base", 50256), ("cl100k_base", 100257)):
        trained.save(tmp_path / f"{name}.tiktoken")
        assert Tokenizer.load(tmp_path / f"{name}.tiktoken").eot_token == eot


def test_json_beside_must_agree(tmp_path, trained):
    trained.save(tmp_path / "tokenizer.tiktoken")
    Tokenizer.train([PROSE], 300).save(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="other ranks than tokenizer.json .* bpe.py train --run"):
        Tokenizer.load(tmp_path / "tokenizer.tiktoken")
    assert Tokenizer.load(tmp_path / "tokenizer.json").n_vocab == 300


@pytest.mark.parametrize("content, message", [
    (b"YQ== 0\nYg==\n", "t.tiktoken:2: not base64 and a rank"),
    (b"YQ== 0\n\nY!Q= 1\n", "t.tiktoken:3: not base64 and a rank"),
    (b"YQ== 0 1\n", "t.tiktoken:1: not base64 and a rank"),
    (b"YQ== zero\n", "t.tiktoken:1: not base64 and a rank"),
    (b"YQ== 0\nYg== 1\nYQ== 2\n", "t.tiktoken:3: token b'a' or rank 2 is on line 1 too"),
    (b"YQ== 0\nYg== 1\nYw== 1\n", "t.tiktoken:3: token b'c' or rank 1 is on line 2 too"),
    (b"YQ== -1\n", "t.tiktoken:1: rank -1 is not 0 to 4194303"),
    (b"YQ== 0\nYg== 200000000\n", "t.tiktoken:2: rank 200000000 is not 0 to 4194303"),
    (b"\n", "no ranks"),
    (b"\xff\xfe\x00", "t.tiktoken:1: not base64 and a rank"),
])
def test_broken_tiktoken_files(tmp_path, content, message):
    (tmp_path / "t.tiktoken").write_bytes(content)
    with pytest.raises(ValueError, match=regex.escape(message)):
        Tokenizer.load(tmp_path / "t.tiktoken", pattern="gpt2")


def gpt2_style(tokenizer):
    """tokenizer.json as GPT-2's: ByteLevel splits alone, one merge a token, no ignore_merges."""
    def spell(token):
        return "".join(vocabularies.BYTE_TO_CHARACTER[b] for b in token)

    merges = []
    for token, rank in tokenizer.ranks.items():
        if len(token) > 1:
            below = {t: r for t, r in tokenizer.ranks.items() if r < rank}
            left, right = scan_merge(below, token)
            merges.append([spell(left), spell(right)])
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "special": True, "content": name, "single_word": False,
                          "lstrip": False, "rstrip": False, "normalized": True}
                         for name, i in tokenizer.special_tokens.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {"dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "merges": merges,
                  "vocab": {spell(token): i for token, i in tokenizer.ranks.items()}
                  | tokenizer.special_tokens}}


@pytest.mark.parametrize("as_strings", [False, True])
def test_gpt2_style_json(tmp_path, as_strings):
    tokenizer = Tokenizer.train([PROSE], 330, "gpt2", ["<|endoftext|>"])
    content = gpt2_style(tokenizer)
    if as_strings:
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.fingerprint == tokenizer.fingerprint


def change(path, value):
    def apply(content):
        *keys, last = path
        for key in keys:
            content = content[key]
        content[last] = value
    return apply


def swap_merges(content):
    merges = content["model"]["merges"]
    merges[0], merges[-1] = merges[-1], merges[0]


SPLIT = {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


@pytest.mark.parametrize("edit, message", [
    (change(["normalizer"], {"type": "StripAccents"}), "normalizer {'type': 'StripAccents'} is not supported"),
    (change(["model", "type"], "Unigram"), "type 'Unigram' is not supported"),
    (change(["model", "dropout"], 0.1), "dropout 0.1 is not supported"),
    (lambda content: (content["model"]["vocab"].pop("z"), content["model"].update(unk_token="<unk>")), "unk_token '<unk>' is not supported"),
    (change(["model", "end_of_word_suffix"], "</w>"), "end_of_word_suffix '</w>' is not supported"),
    (lambda content: (content["model"]["vocab"].pop("z"), content["model"].update(byte_fallback=True)), "byte_fallback True is not supported"),
    (change(["pre_tokenizer", "add_prefix_space"], 1), "add_prefix_space 1 is not supported"),
    (change(["pre_tokenizer", "type"], "Metaspace"), "pre_tokenizer 'Metaspace' is not supported"),
    (change(["pre_tokenizer", "type"], "Whitespace"), "a pre_tokenizer with 0 times ByteLevel"),
    (change(["pre_tokenizer"], {"type": "Sequence", "pretokenizers": [BYTES, SPLIT, BYTES]}), "a pre_tokenizer with 2 times ByteLevel"),
    (change(["pre_tokenizer"], {"type": "Sequence", "pretokenizers": [
        SPLIT | {"behavior": "Gone"}, BYTES]}),
     "behavior 'Gone' is not supported"),
    (change(["pre_tokenizer"], {"type": "Sequence", "pretokenizers": [
        SPLIT | {"pattern": {"Regex": r"\h+"}}, BYTES]}), "has the escape \\h, which means something else"),
    (change(["pre_tokenizer"], {"type": "Sequence", "pretokenizers": [
        SPLIT | {"pattern": {"Regex": r"\p{N}{1,3}+|\s++$"}}, BYTES]}), "possessive {m,n}+"),
    (change(["post_processor"], {"type": "Whatever"}), "post_processor 'Whatever' is not supported"),
    (change(["added_tokens", 0, "lstrip"], "yes"), "<|endoftext|> lstrip 'yes' is not supported"),
    (lambda content: content["added_tokens"].append({"id": 300 + 5, "content": "<x>"}), "'<x>' has the ids 305 and 300 (the next one that is free"),
    (change(["model", "vocab", "中"], 999), "token '中' is not byte-level"),
    (change(["model", "vocab", "zzzz"], 999), "token b'zzzz' is not what its merges make of it"),
    (change(["model", "vocab", "a"], 98), "different ids"),
    (swap_merges, "not in the order of their ids"),
    (lambda content: content.pop("model"), "KeyError('model')"),
    (lambda content: content.update(model=[]), "cannot be read"),
])
def test_unsupported_json_is_refused_by_name(tmp_path, edit, message):
    content = gpt2_style(Tokenizer.train([PROSE], 300, "gpt2", ["<|endoftext|>"]))
    edit(content)
    (tmp_path / "t.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=regex.escape(message)) as caught:
        Tokenizer.load(tmp_path / "t.json")
    assert str(tmp_path / "t.json") in str(caught.value)


def test_other_bad_files(tmp_path, trained):
    for name, content in (("a.json", b"{"), ("b.json", b"\xff"), ("c.json", b"[]"),
                          ("d.json", b"[" * 200_000), ("e.json", b"9" * 5000)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            Tokenizer.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="python bpe.py train --run"):
        Tokenizer.load(tmp_path / "tokenizer.tiktoken")
    with pytest.raises(ValueError, match="ending|ends in .tiktoken or .json"):
        trained.save(tmp_path / "tokenizer.bin")
    trained.save(tmp_path / "t.json")
    with pytest.raises(ValueError, match="pass neither"):
        Tokenizer.load(tmp_path / "t.json", pattern="gpt2")
    odd = Tokenizer(trained.ranks, r"\p{N}{1,3}+|\s++$|(?s:.)", {})
    with pytest.raises(ValueError, match="possessive"):
        odd.save(tmp_path / "odd.json")
    assert not (tmp_path / "odd.json").exists() and not (tmp_path / "tokenizer.bin").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path, trained, monkeypatch):
    path = tmp_path / "t.tiktoken"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError("disk on fire")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk on fire"):
        trained.save(path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


# ---- shards --------------------------------------------------------------------------------------

def test_shards_round_trip(tmp_path, trained):
    ids = np.random.default_rng(7).integers(0, trained.n_vocab, 1000)
    path = tmp_path / "train_000000.bin"
    bpe.write_shard(path, ids, trained)
    opened = bpe.open_shard(path)
    assert isinstance(opened, np.memmap) and opened.dtype == np.uint16 and (opened == ids).all()
    assert bpe.shard_info(path) == (1000, np.uint16, 340, trained.fingerprint)
    raw = np.fromfile(path, np.int32, 256)                  # llm.c's own reading of the file
    assert raw[:4].tolist() == [20240520, 1, 1000, 340]
    assert raw[4:6].tobytes().hex() == trained.fingerprint and not raw[6:].any()
    assert (np.fromfile(path, np.uint16, offset=1024) == ids).all()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_wide_and_foreign_shards(tmp_path):
    path = tmp_path / "x.bin"
    wide = Tokenizer({b"a": 0, b"b": 2**16}, "characters", {})
    bpe.write_shard(path, [0, 1], wide)
    assert np.fromfile(path, np.int32, 3).tolist() == [20240801, 7, 2]
    assert bpe.shard_info(path)[:3] == (2, np.uint32, 2**16 + 1)
    for ids, dtype in (([0, 65535], np.uint16), ([0, 65536], np.uint32)):
        bpe.write_shard(path, np.array(ids))
        assert bpe.shard_info(path) == (2, dtype, 0, "0" * 16)
        assert bpe.open_shard(path).tolist() == ids


@pytest.mark.parametrize("ids", [[340], [-1], [], [[1]], [1.0]])
def test_bad_ids_make_no_shard(tmp_path, trained, ids):
    with pytest.raises(ValueError, match="x.bin"):
        bpe.write_shard(tmp_path / "x.bin", np.array(ids), trained)
    assert not list(tmp_path.iterdir())


def test_damaged_shards(tmp_path, trained):
    path = tmp_path / "tokens" / "train_000000.bin"
    path.parent.mkdir()
    remedy = regex.escape(f"python bpe.py encode --run {tmp_path}")
    with pytest.raises(FileNotFoundError, match=remedy):
        bpe.open_shard(path)
    bpe.write_shard(path, np.arange(10), trained)
    good = path.read_bytes()
    for content, message in (
            (good[:-1], "has 1043 bytes, but its header's 10 tokens make 1044"),
            (good + b"\0\0", "has 1046 bytes, but its header's 10 tokens make 1044"),
            (good[:100], "has 100 bytes"), (b"", "magic 0 version 0"),
            (b"\1" + good[1:], "is no token shard's"),
            (good[:8] + bytes(4) + good[12:1024], "its header says 0 tokens"),
            (good[:8] + b"\xff" * 4 + good[12:1022], "its header says -1 tokens"),
            (good[:4] + b"\2" + good[5:], "magic 20240520 version 2 is no token shard's")):
        path.write_bytes(content)
        for function in (bpe.shard_info, bpe.open_shard):
            with pytest.raises(ValueError, match=regex.escape(message) + ".*" + remedy) as caught:
                function(path)
            assert str(path) in str(caught.value)


# ---- commands ------------------------------------------------------------------------------------

def write_documents(run, n=60, name="part.jsonl.gz", seed=8, reverse=False):
    rng = np.random.default_rng(seed)
    words = PROSE.split()
    lines = []
    for i in range(n):
        text = " ".join(words[j] for j in rng.integers(0, len(words), rng.integers(5, 60)))
        line = {"text": text + ("" if i % 7 else " <|endoftext|>\n")}
        lines.append(line | ({"id": f"d{i}"} if i % 3 else {}))
    path = run / "docs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with (gzip.open if name.endswith(".gz") else open)(path, "wt", encoding="utf-8") as file:
        for line in reversed(lines) if reverse else lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return lines


def read_tokens(run, split):
    shards = sorted((run / "tokens").glob(f"{split}_*.bin"))
    return shards, np.concatenate([bpe.open_shard(path) for path in shards])


def documents_in(tokens, eot):
    starts = np.flatnonzero(tokens == eot)
    assert starts[0] == 0
    return [part[1:].tolist() for part in np.split(tokens, starts[1:])]


def test_train_and_encode_commands(tmp_path, capsys):
    lines = write_documents(tmp_path, n=300)
    assert bpe.main(["train", "--run", str(tmp_path), "--vocab-size", "330"]) == 0
    assert "330 tokens" in capsys.readouterr().out
    arguments = ["encode", "--run", str(tmp_path), "--val-percent", "30", "--shard-tokens", "500"]
    assert bpe.main(arguments) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.tiktoken")
    assert tokenizer.pattern == PATTERNS["digits"]

    expected, counts = {"train": [], "val": []}, {}
    for line in lines:
        digest = hashlib.sha256(line.get("id", line["text"]).encode()).digest()
        split = "val" if int.from_bytes(digest[:8], "big") % 100 < 30 else "train"
        expected[split].append(tokenizer.encode_ordinary(line["text"]))
    for split in ("train", "val"):
        shards, tokens = read_tokens(tmp_path, split)
        names = [f"{split}_{k:06d}.bin" for k in range(len(shards))]
        assert [path.name for path in shards] == names
        assert [bpe.shard_info(path).n_tokens for path in shards[:-1]] == [500] * (len(shards) - 1)
        assert all(bpe.shard_info(path).fingerprint == tokenizer.fingerprint for path in shards)
        assert documents_in(tokens, tokenizer.eot_token) == expected[split]
        counts[split] = len(tokens)
    assert f"{len(expected['train']) + len(expected['val'])} documents" in printed.out
    assert f"{counts['train']:,} + {counts['val']:,} tokens" in printed.out

    # In another order, and in bigger shards: the same documents on each side, no old shard left.
    write_documents(tmp_path, n=300, reverse=True)
    assert bpe.main(arguments[:-2]) == 0
    for split in ("train", "val"):
        shards, tokens = read_tokens(tmp_path, split)
        assert len(shards) == 1
        assert documents_in(tokens, tokenizer.eot_token) == expected[split][::-1]
    assert sorted(path.name for path in (tmp_path / "tokens").iterdir()) == \
        ["train_000000.bin", "val_000000.bin"]


def test_text_files_and_other_inputs(tmp_path, capsys):
    text = "".join(f"line {i} of the text\n" for i in range(200))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    run = tmp_path / "run"
    inputs = ["--input", str(tmp_path / "a.txt"), "--run", str(run)]
    assert bpe.main(["train", *inputs, "--vocab-size", "300", "--pattern", "gpt4"]) == 0
    assert bpe.main(["encode", *inputs, "--val-percent", "10"]) == 0
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    assert tokenizer.ranks == Tokenizer.train([text], 300, "gpt4").ranks
    halves = [tokenizer.decode(read_tokens(run, split)[1]) for split in ("train", "val")]
    train, val = [half.removeprefix("<|endoftext|>") for half in halves]
    assert train + val == text and train.endswith("\n")
    assert 0.10 <= len(val) / len(text) < 0.11
    assert bpe.main(["encode", *inputs, "--val-percent", "0"]) == 0
    assert "no val documents" in capsys.readouterr().err
    assert not list((run / "tokens").glob("val_*"))
    write_documents(run, name="plain.jsonl")
    assert bpe.main(["encode", "--run", str(run)]) == 0


def test_encode_without_endoftext(tmp_path):
    (tmp_path / "a.txt").write_text("abcabc\n" * 50)
    for name in ("tokenizer.json", "tokenizer.tiktoken"):
        Tokenizer.characters("abc\n").save(tmp_path / name)
    assert bpe.main(["encode", "--run", str(tmp_path), "--input", str(tmp_path / "a.txt")]) == 0
    assert read_tokens(tmp_path, "train")[1][:8].tolist() == [1, 2, 3, 1, 2, 3, 0, 1]


def test_decode_and_show_commands(tmp_path, capsys, monkeypatch):
    write_documents(tmp_path)
    run = ["--run", str(tmp_path)]
    bpe.main(["train", *run])
    capsys.readouterr()
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.tiktoken")
    ids = tokenizer.encode("the little otter é")
    assert bpe.main(["decode", *map(str, ids), *run]) == 0
    assert capsys.readouterr().out == "the little otter é\n"
    monkeypatch.setattr("sys.stdin", __import__("io").StringIO(" ".join(map(str, ids))))
    assert bpe.main(["decode", *run]) == 0
    assert capsys.readouterr().out == "the little otter é\n"
    assert bpe.main(["show", "the little otter<|im_end|>", *run]) == 0
    text, ids, _, last = capsys.readouterr().out.splitlines()
    assert [int(i) for i in ids.split()] == tokenizer.encode("the little otter<|im_end|>", "all")
    assert text.replace("|", "") == "the little otter<|im_end|>".replace("|", "")
    assert last.split()[1:4] == ["26", "26", str(len(ids.split()))]
    for word, message in (("99999", "Invalid token for decoding: 99999"), ("-1", "'-1' is no"),
                          ("xyz", "'xyz' is no token id; ids are whole"), ("1.0", "'1.0' is no")):
        assert bpe.main(["decode", word, *run]) == 2
        assert message in capsys.readouterr().err


GOOD = b'{"text": "hello hello"}\n'


@pytest.mark.parametrize("command", ["train", "encode"])
@pytest.mark.parametrize("name, content, message", [
    (None, b"", "docs: no documents; make them with: python data.py --run"),
    ("a.jsonl", GOOD + b"{", "a.jsonl:2: cannot be read"),
    ("a.jsonl", GOOD + b'{"txt": 1}\n', r'a.jsonl:2: cannot be read: expected \{"text": "..."\}'),
    ("a.jsonl", GOOD + b'{"text": null}\n', "a.jsonl:2: cannot be read"),
    ("a.jsonl", GOOD + b"[1]\n", "a.jsonl:2: cannot be read"),
    ("a.jsonl", b'{"text": "\xff"}\n', "a.jsonl:1: cannot be read"),
    ("a.jsonl", GOOD + b"[" * 200_000, "a.jsonl:2: cannot be read: .*recursion"),
    ("a.jsonl", GOOD + b'{"text": "x", "id": ' + b"9" * 5000 + b"}", "a.jsonl:2: cannot be read"),
    ("a.jsonl", b"", "empty corpus|no text in the input"),
    ("a.jsonl.gz", gzip.compress(GOOD * 1000)[:-9], "a.jsonl.gz:.*cannot be read"),
    ("a.jsonl.gz", GOOD, "a.jsonl.gz:0: cannot be read: Not a gzipped file"),
])
def test_bad_input_is_named_and_leaves_nothing(tmp_path, capsys, command, name, content, message):
    if command == "encode":
        Tokenizer.train([PROSE], 300).save(tmp_path / "tokenizer.json")
        Tokenizer.train([PROSE], 300).save(tmp_path / "tokenizer.tiktoken")
    before = sorted(tmp_path.iterdir())
    if name:
        (tmp_path / "docs").mkdir()
        (tmp_path / "docs" / name).write_bytes(content)
    assert bpe.main([command, "--run", str(tmp_path)]) == 2
    *progress, error = capsys.readouterr().err.splitlines()
    assert error.startswith("bpe.py: error: ") and regex.search(message, error)
    assert str(tmp_path) in error or "empty corpus" in error
    assert all(line.startswith("bpe.py: reading ") for line in progress)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and "docs" not in path.parts]
    assert sorted(left) == before


@pytest.mark.parametrize("arguments, message", [
    (["train", "--vocab-size", "256"], "vocab_size 256: vocabulary smaller than 256 bytes and 8"),
    (["train", "--input", "nowhere.txt"], "No such file or directory: 'nowhere.txt'"),
    (["train", "--input", __file__], f"{__file__}:1: cannot be read"),
    (["encode"], "tokenizer.tiktoken: no tokenizer; make it with: python bpe.py train --run"),
    (["encode", "--val-percent", "100"], "--val-percent 100 must be 0 to 99"),
    (["encode", "--shard-tokens", "0"], "--shard-tokens 0 1 to"),
    (["show", "x"], "python bpe.py train --run"),
])
def test_bad_arguments(tmp_path, capsys, arguments, message):
    write_documents(tmp_path)
    assert bpe.main([*arguments, "--run", str(tmp_path)]) == 2
    *progress, error = capsys.readouterr().err.splitlines()
    assert error.startswith("bpe.py: error: ") and message in error
    assert all(line.startswith("bpe.py: reading ") for line in progress)
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]


def test_a_failed_encode_leaves_the_old_shards(tmp_path):
    write_documents(tmp_path)
    run = ["--run", str(tmp_path)]
    assert bpe.main(["train", *run]) == 0
    assert bpe.main(["encode", *run, "--shard-tokens", "300"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "tokens").iterdir()}
    (tmp_path / "docs" / "z.jsonl").write_bytes(b"{broken")
    assert bpe.main(["encode", *run]) == 2
    assert {path: path.read_bytes() for path in (tmp_path / "tokens").iterdir()} == before


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_encode_stopped_between_shards_leaves_no_mixture(tmp_path, monkeypatch, error):
    """Val of one --val-percent beside train of another would be the same documents twice."""
    write_documents(tmp_path)
    run = ["--run", str(tmp_path)]
    assert bpe.main(["train", *run]) == 0
    encode = ["encode", *run, "--shard-tokens", "300"]
    assert bpe.main([*encode, "--val-percent", "10"]) == 0
    tokens = tmp_path / "tokens"
    (tokens / "train_000003.bin.99-0123abcd.tmp").write_bytes(b"left by a kill")
    (tokens / "notes.txt").write_bytes(b"the user's")

    def shards():
        return {p.name: p.read_bytes() for p in tokens.iterdir() if p.is_file() and p.name[0] != "."}

    before = {k: v for k, v in shards().items() if not k.endswith(".tmp")}

    def stop(module, name, at):
        """Let the function of a module fail at its call number `at`."""
        real, calls = getattr(module, name), []

        def stopped(*args):
            calls.append(args)
            if len(calls) == at:
                raise error
            return real(*args)
        return lambda m: m.setattr(module, name, stopped)

    def encode_stopped(patch):
        with monkeypatch.context() as m:
            patch(m)
            if isinstance(error, OSError):
                assert bpe.main([*encode, "--val-percent", "50"]) == 2
            else:
                with pytest.raises(KeyboardInterrupt):
                    bpe.main([*encode, "--val-percent", "50"])

    for at in (1, 2, 5):                                # while the new ones are written: nothing has happened
        encode_stopped(stop(bpe, "write_shard", at))
        assert shards() == before and not (tokens / ".new").exists()
    encode_stopped(stop(runs.os, "replace", 12))        # while they take the places of the old ones
    assert "train_000000.bin" not in shards()
    with pytest.raises(ValueError, match="its files were being replaced.*python bpe.py encode"):
        corpus.load_run(tmp_path, None)
    assert bpe.main([*encode, "--val-percent", "50"]) == 0
    after = shards()
    assert {k for k in after if k.startswith("val")} != {k for k in before if k.startswith("val")}
    assert after["notes.txt"] == b"the user's" and not (tokens / ".new").exists()
    shutil.rmtree(tokens)
    assert bpe.main([*encode, "--val-percent", "50"]) == 0
    assert shards() == {k: v for k, v in after.items() if k != "notes.txt"}


def test_killed_and_rerun_gives_the_same_bytes(tmp_path):
    """Kill train and encode at many moments: any file under its final name is whole, and a rerun
    mends the rest."""
    def command(run, *words):
        return [sys.executable, str(ROOT / "bpe.py"), *words, "--run", str(run)]

    def finals(run):
        return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*")
                if path.suffix in (".json", ".tiktoken", ".bin") and ".new" not in path.parts}

    steps = [["train", "--vocab-size", "700"], ["encode", "--shard-tokens", "4000"]]
    reference, victim = tmp_path / "reference", tmp_path / "victim"
    for run in (reference, victim):
        write_documents(run, n=2000)
    full_s = []
    for step in steps:
        start = time.perf_counter()
        subprocess.run(command(reference, *step), check=True, capture_output=True)
        full_s.append(time.perf_counter() - start)
    expected = finals(reference)
    assert len(expected) > 10
    n_killed = 0
    for step, seconds in zip(steps, full_s):
        for wait_s in seconds * np.linspace(0.3, 1.0, 7):
            process = subprocess.Popen(command(victim, *step), stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            try:
                process.wait(wait_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                n_killed += 1
            for name, content in finals(victim).items():
                assert content == expected[name], name
        subprocess.run(command(victim, *step), check=True, capture_output=True)
    assert n_killed >= 3
    assert finals(victim) == expected
    left = {path.name for path in victim.rglob("*") if path.is_file()}
    assert left == {path.name for path in reference.rglob("*") if path.is_file()}


def test_closed_and_broken_streams(tmp_path, trained):
    """sh closes stdin or stdout; a reader that has enough, such as head, closes the pipe."""
    for name in ("tokenizer.json", "tokenizer.tiktoken"):
        trained.save(tmp_path / name)
    decode = f"{sys.executable} {ROOT / 'bpe.py'} decode --run {tmp_path}"
    for command, message in ((f"{decode} <&-", "stdin is closed"),
                             (f"{decode} 100 >&-", "stdout is closed")):
        done = subprocess.run(command, shell=True, capture_output=True, text=True)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    process = subprocess.Popen([*decode.split(), "100"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141


def test_interrupted(monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    stopped = pytest.raises((SystemExit, KeyboardInterrupt))
    with monkeypatch.context() as patch, stopped as caught:
        patch.setattr(Path, "is_file", interrupt)
        patch.setattr(sys, "argv", ["bpe.py", "decode", "1"])
        runpy.run_path(str(ROOT / "bpe.py"), run_name="__main__")
    assert repr(caught.value) == "SystemExit(130)"
    assert capsys.readouterr() == ("", "bpe.py: interrupted\n")


def test_importing_does_nothing():
    code = "import sys, bpe; print({'tiktoken', 'tokenizers', 'torch', 'cupy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, "--run", "nowhere"], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n" and done.stderr == ""


# ---- the references and tests themselves ---------------------------------------------------------

def test_the_references_can_fail():
    """A trainer with minbpe's tie rule, and a merge that is greedy, must not pass for ours."""
    counts = {b"bbbaaaddddcccc": 1}
    assert recount_train(counts, 258)[256:] == [b"cc", b"dd"]
    assert bpe.learn_tokens(counts, 258)[256:] != [b"dd", b"cc"]
    ranks = {b"bc": 0, b"ab": 1, b"abcd": 2}
    assert scan_merge(ranks, b"abc") == bpe.merge(ranks, b"abc") == [b"a", b"bc"]


def test_base64_of_every_byte_survives(tmp_path):
    ranks = {bytes([b, 255 - b]): b for b in range(256)}
    Tokenizer(ranks, "gpt2", {}).save(tmp_path / "t.tiktoken")
    lines = (tmp_path / "t.tiktoken").read_bytes().split(b"\n")
    assert [base64.b64decode(line.split()[0]) for line in lines[:-1]] == list(ranks)
    assert Tokenizer.load(tmp_path / "t.tiktoken", pattern="gpt2").ranks == ranks
