"""tokens/vocabularies.py: published encodings, save and load."""

import hashlib
import os

import numpy as np
import pytest

from conftest import SHARED
from token_texts import AWKWARD, PROSE, random_text, run_bpe, trained
from bpe import Tokenizer
from tokens import vocabularies
from tokens.patterns import PATTERNS
from tokens.ranks import ranks_file
from tokens.tiktoken import Encoding

HELLO = ["hello world", "Hello world", "helloworld", " hello  world",
         "I want Spiderman! I want Dr Doom"]


IDS = {"r50k_base": dict(zip(HELLO, [
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
           [40, 1682, 2856, 155992, 0, 357, 1682, 3808, 121184]])) | {"What's": [45350], "": []}}


@pytest.fixture(scope="module", params=["r50k_base", "cl100k_base", "o200k_base"])
def published(request):
    path = SHARED / f"{request.param}.tiktoken"
    if not path.exists():
        pytest.skip(f"no {path.name}: set LONGHAND_DATA to a folder that has it")
    return request.param, Encoding.load(path)


def test_published_ids(published):
    name, tokenizer = published
    for text, ids in IDS[name].items():
        assert tokenizer.encode_ordinary(text) == ids, text
    n_vocab = {"r50k_base": 50257, "cl100k_base": 100277, "o200k_base": 200019}
    assert tokenizer.n_vocab == n_vocab[name]
    assert tokenizer.encode_ordinary("\ud83d") == tokenizer.encode_ordinary("\ufffd")
    assert tokenizer.encode_single_token("<|endoftext|>") == tokenizer.eot_token


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


def test_published_encodings_by_name(tmp_path, monkeypatch):
    ranks = {bytes([b]): b for b in range(256)}
    raw = ranks_file(ranks)
    monkeypatch.setitem(vocabularies.PUBLISHED,
                        "tiny",
                        vocabularies.Published("tiny", PATTERNS["gpt2"], {"<|x|>": 256}))
    monkeypatch.setitem(vocabularies.SHA256, "tiny", hashlib.sha256(raw).hexdigest())
    with pytest.raises(
        FileNotFoundError,
        match=r"no tiny.tiktoken; fetch https://.*tiny.tiktoken \(SHA-256 [0-9a-f]{64}\) and name "
        r"its folder with --ranks",
    ):
        Tokenizer.load("tiny", folder=tmp_path)
    (tmp_path / "tiny.tiktoken").write_bytes(raw)
    assert Tokenizer.load("tiny", folder=tmp_path).special_tokens == {"<|x|>": 256}
    stored = tmp_path / "cache"                                  # as tiktoken stores it
    stored.mkdir()
    (stored / hashlib.sha1(vocabularies.url_of("tiny").encode()).hexdigest()).write_bytes(raw)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(stored))
    assert Tokenizer.load("tiny").ranks == ranks
    (tmp_path / "tiny.tiktoken").write_bytes(raw[:-5])
    with pytest.raises(ValueError, match="its SHA-256 is .*: fetch https"):
        Tokenizer.load("tiny", folder=tmp_path)
    assert run_bpe(["show", "a b", "--vocab", "no_such_name"]) == 2


def test_tables():
    assert {
        name: p.special_tokens.get("<|endoftext|>") for name, p in vocabularies.PUBLISHED.items()
    } == {"gpt2": 50256, "r50k_base": 50256, "p50k_base": 50256, "p50k_edit": 50256,
          "cl100k_base": 100257, "o200k_base": 199999, "o200k_harmony": 199999}
    assert vocabularies.PUBLISHED["p50k_edit"].special_tokens["<|fim_suffix|>"] == 50283
    harmony = vocabularies.PUBLISHED["o200k_harmony"].special_tokens
    assert max(harmony.values()) == 201087 and len(harmony) == len(set(harmony.values())) == 1090
    assert harmony["<|call|>"] == 200012 and harmony["<|reserved_200013|>"] == 200013
    urls = {
        file: hashlib.sha1(vocabularies.url_of(file).encode()).hexdigest()
        for file in vocabularies.SHA256
    }
    assert urls == {"r50k_base": "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4",
                    "p50k_base": "ec7223a39ce59f226a68acc30dc1af2788490e15",
                    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
                    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790"}
