"""tokens/vocabularies.py: the published encodings by name, GPT-2's own files, tokenizer.json of Llama 3's and Qwen's family; and what bpe.py does
with texts by the batch, with offsets, with bytes."""

import base64
import hashlib
import json
import multiprocessing
import os
import pickle
import random
import sys
import time
import tracemalloc
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import regex

sys.path.insert(0, str(Path(__file__).parent.parent))

import bpe
from tokens import encoder
from tokens import pieces
from tokens import vocabularies
from bpe import Tokenizer
from tokens.pieces import PATTERNS

DATA = Path(os.environ.get("LONGHAND_DATA") or Path(__file__).parent.parent.parent / "shared" / "data")
PROSE = ("Once upon a time there was a little otter named Bo. Bo liked 12 + 30 = 42 and the sea.\n"
         "\"Don't go!\" said the old heron; but Bo went, and went, and went again.\n\n") * 3
CORPUS = ["low lower lowest\nnew newer newest wide wider widest\n", "aaaa aaa  12 123 café"]


def encoding(name):
    if not (DATA / f"{name}.tiktoken").exists():
        pytest.skip(f"no {DATA / name}.tiktoken; LONGHAND_DATA names another folder")
    return Tokenizer.load(name, folder=DATA)


# ---- ties ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ties, products", [
    ("minbpe", "aa we lo st ne _w _wi _wid _wide _lo _lowe _ne"), ("rustbpe", "aa we _w de ide lo ne st _wide _lo _ne 12"),
    ("huggingface", "aa we de ide lo ne st wide _wide 12 _lo _ne")])
def test_ties(ties, products):
    """Published by whoever ran them all: facts about the three trainers."""
    trained = Tokenizer.train(CORPUS, 256 + 12, "gpt4", (), ties=ties)
    assert [token.decode().replace(" ", "_") for token in list(trained.ranks)[256:]] == products.split()
    single = vocabularies.GPT2_BYTES if ties == "huggingface" else bytes(range(256))
    assert b"".join(list(trained.ranks)[:256]) == single


@pytest.mark.parametrize("ties, products", [("minbpe", "dd cc bb aa"), ("rustbpe", "cc dd aa bb"), ("huggingface", "cc dd aa bb")])
def test_ties_of_runs(ties, products):
    trained = Tokenizer.train(["bbbaaaddddcccc"], 260, r"[\s\S]+", (), ties=ties)
    assert [token.decode() for token in list(trained.ranks)[256:]] == products.split()


def slowly(texts, n_merges, pattern):
    """minbpe's way: count all pairs anew, take the most frequent, of equals the first in the corpus."""
    import regex
    words = [[bytes([b]) for b in piece.encode()] for text in texts for piece in regex.findall(pattern, text)]
    merges = []
    for _ in range(n_merges):
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=counts.get)                       # max takes the first of equals; dicts keep the order of insertion
        merges.append(best[0] + best[1])
        for k, word in enumerate(words):
            joined, i = [], 0
            while i < len(word):
                two = i + 1 < len(word) and (word[i], word[i + 1]) == best
                joined.append(word[i] + word[i + 1] if two else word[i])
                i += 1 + two
            words[k] = joined
    return merges


def test_minbpes_merges_are_those_of_counting_anew():
    rng = np.random.default_rng(0)
    texts = [PROSE, "".join(rng.choice(list("ab c"), 3000)), "".join(rng.choice(list("abcdefgh "), 3000))]
    trained = Tokenizer.train(texts, 256 + 300, "gpt4", (), ties="minbpe")
    assert list(trained.ranks)[256:] == slowly(texts, 300, PATTERNS["gpt4"])


def test_a_minimum_frequency_and_processes(capsys, monkeypatch):
    texts = [PROSE] * 40
    often = Tokenizer.train(texts, 2000, "gpt4", (), min_frequency=200)
    assert "no pair that comes 200 times is left" in capsys.readouterr().err
    rest = list(Tokenizer.train(texts, len(often.ranks) + 1, "gpt4", ()).ranks)
    assert rest[:-1] == list(often.ranks)
    monkeypatch.setattr(bpe, "TOGETHER", 1000)
    calls = []
    monkeypatch.setattr(bpe.cores, "processes", lambda *args, processes=bpe.cores.processes: (calls.append(args[0]), processes(*args))[1])
    for ties in bpe.TIES:
        assert Tokenizer.train(iter(texts), 340, "gpt4", ties=ties, workers=3).ranks == Tokenizer.train(texts, 340, "gpt4", ties=ties).ranks
    assert calls == [3] * len(bpe.TIES)
    with pytest.raises(ValueError, match="ties 'fair': one of rustbpe, huggingface, minbpe"):
        Tokenizer.train(texts, 300, ties="fair")


# ---- by name ---------------------------------------------------------------------------------------------------------

def test_published_encodings_by_name(tmp_path, monkeypatch):
    ranks = {bytes([b]): b for b in range(256)}
    raw = vocabularies.ranks_file(ranks)
    monkeypatch.setitem(vocabularies.PUBLISHED, "tiny", vocabularies.Published("tiny", PATTERNS["gpt2"], {"<|x|>": 256}, hashlib.sha256(raw).hexdigest()))
    with pytest.raises(FileNotFoundError, match=r"no tiny.tiktoken; fetch https://.*tiny.tiktoken \(SHA-256 [0-9a-f]{64}\) and name its folder with --ranks"):
        Tokenizer.load("tiny", folder=tmp_path)
    (tmp_path / "tiny.tiktoken").write_bytes(raw)
    assert Tokenizer.load("tiny", folder=tmp_path).special_tokens == {"<|x|>": 256}
    stored = tmp_path / "cache"                                  # as tiktoken stores it
    stored.mkdir()
    (stored / hashlib.sha1(vocabularies.PUBLISHED["tiny"].url.encode()).hexdigest()).write_bytes(raw)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(stored))
    assert Tokenizer.load("tiny").ranks == ranks
    (tmp_path / "tiny.tiktoken").write_bytes(raw[:-5])
    with pytest.raises(ValueError, match="its SHA-256 is .*: fetch https"):
        Tokenizer.load("tiny", folder=tmp_path)
    assert bpe.main(["show", "a b", "--vocab", "no_such_name"]) == 2


def test_tables():
    assert {name: p.special_tokens.get("<|endoftext|>") for name, p in vocabularies.PUBLISHED.items()} == {
        "gpt2": 50256, "r50k_base": 50256, "p50k_base": 50256, "p50k_edit": 50256, "cl100k_base": 100257, "o200k_base": 199999, "o200k_harmony": 199999}
    assert vocabularies.PUBLISHED["p50k_edit"].special_tokens["<|fim_suffix|>"] == 50283
    harmony = vocabularies.PUBLISHED["o200k_harmony"].special_tokens
    assert max(harmony.values()) == 201087 and len(harmony) == len(set(harmony.values())) == 1090
    assert harmony["<|call|>"] == 200012 and harmony["<|reserved_200013|>"] == 200013
    urls = {p.file: hashlib.sha1(p.url.encode()).hexdigest() for p in vocabularies.PUBLISHED.values()}
    assert urls == {"r50k_base": "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4", "p50k_base": "ec7223a39ce59f226a68acc30dc1af2788490e15",
                    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4", "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790"}
    for model, name in {"gpt2": "gpt2", "text-davinci-003": "p50k_base", "text-davinci-edit-001": "p50k_edit", "gpt-3.5-turbo-0301": "cl100k_base",
                        "gpt-4": "cl100k_base", "gpt-4-0613": "cl100k_base", "gpt-4o": "o200k_base", "gpt-4o-2024-08-06": "o200k_base",
                        "gpt-oss-120b": "o200k_harmony", "o1-mini": "o200k_base", "davinci-002": "cl100k_base", "davinci": "r50k_base"}.items():
        assert vocabularies.encoding_of(model) == name, model
    with pytest.raises(KeyError, match="no encoding is known for the model 'llama'"):
        vocabularies.encoding_of("llama")


# ---- what tiktoken does ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, offsets", [
    ("hello world", [0, 5]), ("hello world<|endoftext|> green cow", [0, 5, 11, 24, 30]),
    ("我非常渴望与人工智能一起工作", [0, 1, 2, 3, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 13]),
    ("நடிகர் சூர்யா", [0, 0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 9, 10, 11, 12, 12]), (" Ġ除", [0, 1])])
def test_offsets(text, offsets):
    cl100k = encoding("cl100k_base")
    ids = cl100k.encode(text, allowed_special="all")
    assert cl100k.decode_with_offsets(ids) == (text, offsets)
    shared = [len(os.path.commonprefix([text, cl100k.decode(ids[:k], "ignore")])) for k in range(len(ids))]
    assert offsets == shared


def test_digits_of_gpt2_and_the_talks_words():
    r50k, cl100k = encoding("r50k_base"), encoding("cl100k_base")
    assert [r50k.encode("0" * n) for n in range(1, 18)] == [[15], [405], [830], [2388], [20483], [10535], [24598], [8269], [10535, 830], [8269, 405], [8269, 830],
                                                            [8269, 2388], [8269, 20483], [8269, 10535], [8269, 24598], [25645], [8269, 10535, 830]]
    for text, ids in {"hello world": [15339, 1917], "Hello world": [9906, 1917], "helloworld": [71, 96392], " hello  world": [24748, 220, 1917]}.items():
        assert cl100k.encode(text) == ids
    assert cl100k.n_vocab == 100_277 and cl100k.max_token_value == 100_276
    assert cl100k.encode_bytes(b" \xec\x8b\xa4\xed") == [62085]
    assert cl100k.token_byte_values() == sorted(cl100k.ranks) and cl100k.is_special_token(100257) and not cl100k.is_special_token(5)
    assert cl100k.special_tokens_set == set(cl100k.special_tokens)


@pytest.mark.parametrize("name", ["r50k_base", "cl100k_base", "o200k_base"])
def test_every_token_is_its_own_id(name):
    tokenizer = encoding(name)
    for i in range(10_000):
        assert tokenizer.encode_single_token(tokenizer.decode_single_token_bytes(i)) == i


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


def test_batches_and_bytes():
    trained = Tokenizer.train([PROSE], 340)
    rng = np.random.default_rng(1)
    texts = ["", "a", PROSE, "<|im_end|>", "\ud800", *("".join(map(chr, rng.integers(32, 0x2000, 300))) for _ in range(50))]
    for n in (1, 2, 3):
        assert trained.encode_ordinary_batch(texts, num_threads=n) == list(map(trained.encode_ordinary, texts))
    assert trained.encode_batch(["a<|im_end|>", ""], allowed_special="all") == [trained.encode("a<|im_end|>", "all"), []]
    with pytest.raises(ValueError, match="special token"):
        trained.encode_batch(["a", "<|im_end|>"])
    assert trained.decode_batch(trained.encode_ordinary_batch([PROSE, "é"])) == [PROSE, "é"]
    assert trained.encode_ordinary_batch([]) == []
    for _ in range(300):
        data = rng.bytes(rng.integers(0, 30)) + b" and \xe4\xb8" * rng.integers(0, 2) + rng.bytes(3)
        assert trained.decode_bytes(trained.encode_bytes(data)) == data
    assert [trained.decode_bytes(trained.encode_bytes(b"\x80" * n)) for n in range(10)] == [b"\x80" * n for n in range(10)]


def test_long_lists_are_decoded_by_arrays(monkeypatch):
    trained = Tokenizer.train([PROSE, "a" * 400], 400)
    assert max(map(len, trained.ranks)) > 15
    rng = np.random.default_rng(2)
    ids = rng.integers(0, trained.n_vocab, 5000)
    want = b"".join(trained.token_bytes[i] for i in ids)
    for many in (1, 7, 5000, 10_000):
        monkeypatch.setattr(bpe, "MANY", many)
        for form in (ids, ids.tolist(), tuple(ids.tolist()), iter(ids.tolist()), ids.astype(np.uint16)):
            assert trained.decode_bytes(form) == want
        for bad in (-1, trained.n_vocab, 10**12):
            with pytest.raises(KeyError, match=f"Invalid token for decoding: {bad}"):
                trained.decode_bytes([*ids.tolist(), bad])
    assert trained.decode_bytes([]) == b""


# ---- files -----------------------------------------------------------------------------------------------------------

def test_gpt2s_own_files(tmp_path):
    trained = Tokenizer.train([PROSE, "naïve 中文"], 340, "gpt2", ["<|endoftext|>"])
    trained.save(tmp_path / "vocab.json")
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")
    assert lines[0] == "#version: 0.2" and len(lines) == 2 + 340 - 257 and lines[-1] == ""
    for form in ("vocab.json", ""):
        again = Tokenizer.load(tmp_path / form)
        assert (again.ranks, again.pattern, again.special_tokens) == (trained.ranks, trained.pattern, trained.special_tokens)
    (tmp_path / "vocab.json").rename(tmp_path / "encoder.json")
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.bpe")
    assert Tokenizer.load(tmp_path / "encoder.json").ranks == trained.ranks
    broken = {"a b c": "is no pair", "Ġ qqq": "which encoder.json lacks", lines[2]: "not in the order", "中 a": "not byte-level"}
    for line, message in broken.items():
        (tmp_path / "vocab.bpe").write_text("\n".join([lines[0], lines[1], lines[2], lines[3], line, *lines[4:]]) if line != lines[2] else
                                            "\n".join([lines[0], lines[2], lines[1], *lines[3:]]), encoding="utf-8")
        with pytest.raises(ValueError, match=f"encoder.json: cannot be read with equal ids: .*{message}"):
            Tokenizer.load(tmp_path / "encoder.json")
    (tmp_path / "vocab.bpe").unlink()
    with pytest.raises(FileNotFoundError, match="merges.txt: no such file"):
        Tokenizer.load(tmp_path / "encoder.json")
    with pytest.raises(ValueError, match="hold no pattern"):
        Tokenizer.train([PROSE], 340, "gpt4").save(tmp_path / "vocab.json")


def test_qwens_normal_form(tmp_path):
    """Its tokenizer.json composes text first; the tokenizer says so, keeps it in every file and decodes what it composed."""
    trained = Tokenizer.train([PROSE, "café naïve"], 340, "qwen2", ["<|endoftext|>"])
    composing = Tokenizer(trained.ranks, trained.pattern, trained.special_tokens, "NFC")
    composing.save(tmp_path / "tokenizer.json")
    composing.save(tmp_path / "tokenizer.tiktoken")
    for path in (tmp_path / "tokenizer.json", tmp_path / "tokenizer.tiktoken", tmp_path):
        again = Tokenizer.load(path)
        assert again.normalize == "NFC" and again.encode("cafe\u0301") == trained.encode("café") != trained.encode("cafe\u0301")
        assert again.fingerprint == composing.fingerprint != trained.fingerprint


def test_llamas_form(tmp_path):
    """Every split listed, ignore_merges, and a template around texts, which is not for bpe.py to add."""
    ranks = {bytes([b]): b for b in range(256)} | {b".:": 256, b".:.:": 257, b"ab": 258, b"abcd": 259}           # abcd: no two tokens
    tokenizer = Tokenizer(ranks, "cl100k", {"<|begin_of_text|>": 260})
    tokenizer.save(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content["post_processor"] = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.encode("abcd .:.: abcd") == [259, 32, 257, 32, 258, 99, 100]
    with pytest.raises(ValueError, match=r"token b'abcd' ends as 3 parts"):
        Tokenizer(ranks, "gpt2", {}).save(tmp_path / "vocab.json")


@pytest.mark.parametrize("text", ["bQ== 0\nbQ== 1\n", "bQ==\n", "bQ== 0 0\n", "b 0\n", "bQ== -1\n", "bQ== x\n", ""])
def test_broken_ranks(tmp_path, text):
    (tmp_path / "cl100k_base.tiktoken").write_text(text)
    with pytest.raises(ValueError, match="cl100k_base.tiktoken:"):
        Tokenizer.load(tmp_path / "cl100k_base.tiktoken")


def test_base64_of_the_first_line():
    ranks = {b"!": 0, b"\"": 1}
    assert vocabularies.ranks_file(ranks).split(b"\n")[0] == base64.b64encode(b"!") + b" 0"


def test_arrays_and_the_dict_give_the_same_ids(monkeypatch):
    rng = np.random.default_rng(3)
    letters = list("aBs'tlrevm \n\t1\u0663-!/.\u0301\u4e2d\u01c5\u017f\U0001f44d\u0939\u093f\ud800")
    texts = ["".join(rng.choice(letters, rng.integers(0, 200))) for _ in range(60)] + [PROSE, "", "a" * 300, "\u4e2d" * 100, "x" * 3000]
    texts += ["".join(rng.choice(list("the or\u4e2d".replace(" ", "")), n)) for n in range(3, 270, 7)]
    published = [DATA / f"{name}.tiktoken" for name in ("cl100k_base", "o200k_base")]
    tokenizers = [Tokenizer.train([PROSE, *texts], 400, name) for name in PATTERNS] + [Tokenizer.load(path) for path in published if path.exists()]
    tokenizers += [Tokenizer.characters("".join(texts)), Tokenizer({b"ab": 0, b"cd": 1, b"abcd": 7}, r"[\s\S]+", {})]
    for tokenizer in tokenizers:
        some = texts if len(tokenizer.ranks) > 3 else ["abcd", "cdab", "abab" * 20, ""]
        monkeypatch.setattr(encoder, "SHORT", 10**9)
        want = list(map(tokenizer.encode_ordinary, some))
        for short, few in ((0, 1), (0, 24), (50, 24)):
            monkeypatch.setattr(encoder, "SHORT", short)
            monkeypatch.setattr(encoder, "FEW", few)
            tokenizer._encoder.forget()
            assert list(map(tokenizer.encode_ordinary, some)) == want == tokenizer.encode_ordinary_batch(some)
    lacking = Tokenizer.characters("abc")
    for short in (0, 10**9):
        monkeypatch.setattr(encoder, "SHORT", short)
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
    tokenizer = Tokenizer.train([PROSE], 340, "o200k")
    want = tokenizer.encode_ordinary_batch(texts, num_threads=1)
    assert want[:100] == list(map(tokenizer.encode_ordinary, texts[:100]))
    for n in (2, 3, 7):
        assert Tokenizer(tokenizer.ranks, tokenizer.pattern, {}).encode_ordinary_batch(texts, num_threads=n) == want
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(tokenizer.encode_ordinary_batch, (texts,), {"num_threads": 2}) == want
    for n in (1, 2):
        with pytest.raises(ValueError, match="no token for the character 'x'"):
            Tokenizer.characters("abc").encode_ordinary_batch(["abc" * 3000] * 20 + ["abx"], num_threads=n)


def test_an_error_in_a_process_is_the_error():
    assert list(bpe.in_processes(int, map(str, range(50)), 2)) == list(range(50))
    with pytest.raises(ValueError, match="invalid literal"):
        list(bpe.in_processes(int, ["1", "x", "2"], 2))


# ---- files of strangers ------------------------------------------------------------------------

BYTES = {vocabularies.to_characters(bytes([b])): b for b in range(256)}
LOOP = "abcdefghijklmnopqrstuvwxyz" * 20
MISSING = object()


def crafted(vocab=None, merges=(), added=(), pattern=PATTERNS["gpt4"], **rest):
    """A tokenizer.json of 256 bytes and what is given; rest replaces parts of it, MISSING removes them."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    content = {"added_tokens": list(added), "model": {
        "type": "BPE", "ignore_merges": True, "vocab": BYTES | (vocab or {}), "merges": list(merges)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            split, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}}
    for key, value in rest.items():
        part = content["model"] if key in ("type", "ignore_merges") or key.startswith("model_") else content
        part[key.removeprefix("model_")] = value
        if value is MISSING:
            del part[key.removeprefix("model_")]
    return content


def runs_of_a(n):
    return {"a" * k: 254 + k for k in range(2, n)}


def special(*names):
    return [{"id": 256 + i, "content": name} for i, name in enumerate(names)]


def every_cut(n):
    """The merges that json_file writes for runs_of_a."""
    ranks = {bytes([b]): b for b in range(256)} | {b"a" * k: 254 + k for k in range(2, n)}
    return [[left.decode(), right.decode()] for left, right in vocabularies.all_merges(ranks)]


TOKEN = base64.b64encode(b"ab" * 300_000)
JSON_FILES = {                          # content, the reason why it is refused or None if it can be loaded
    "runs of a without merges": (crafted(runs_of_a(800)), "not what its merges make of it"),
    "runs of a with all merges": (crafted(runs_of_a(120), every_cut(120)), None),
    "runs of a with all merges but one": (crafted(runs_of_a(60), every_cut(60)[:-1]), None),
    "merges in disorder": (crafted(runs_of_a(60), every_cut(60)[::-1]), "not in the order"),
    "each token one letter longer": (crafted(
        {LOOP[:k]: 254 + k for k in range(2, 500)},
        [[LOOP[:k - 1], LOOP[k - 1]] for k in range(2, 500)]), "not what its merges make of it"),
    "a merge of no tokens": (crafted({"ab": 256}, [["a", "b"], ["zz", "b"]]), "is not of two tokens"),
    "a merge into no token": (crafted({"ab": 256}, [["a", "b"], ["b", "b"]]), "is not of two tokens"),
    "a merge of three": (crafted({"ab": 256}, [["a", "b", "c"]]), "is not of two tokens"),
    "a merge of none": (crafted({"ab": 256}, [[]]), "is not of two tokens"),
    "a merge that is a number": (crafted({"ab": 256}, [5]), "'int' object is not iterable"),
    "merges that are an object": (crafted({"ab": 256}, model_merges={"a b": 1}), "expected a list"),
    "no vocab": (crafted(model_vocab=MISSING), "KeyError('vocab')"),
    "vocab of a list": (crafted(model_vocab=["a"]), "has no attribute 'values'"),
    "an id in a list": (crafted({"ab": [256]}, [["a", "b"]]), "id [256] is no whole number"),
    "an id that is true": (crafted({"ab": True}, [["a", "b"]]), "id True is no whole number"),
    "an id of null": (crafted({"ab": None}), "id None is no whole number"),
    "an id of 1.5": (crafted({"ab": 1.5}), "id 1.5 is no whole number"),
    "an id of nan": (crafted({"ab": float("nan")}), "id nan is no whole number"),
    "an id of 2^31": (crafted({"ab": 2**31}), "id 2147483648 is no whole number"),
    "an id of 400 digits": (crafted({"ab": 10**400}), "is no whole number"),
    "two tokens of one id": (crafted({"ab": 98}, [["a", "b"]]), "different ids"),
    "an empty token": (crafted({"": 256}), "none of them empty"),
    "a token of a megabyte": (crafted({"a" * 10**6: 256}), None),
    "a token that is not byte-level": (crafted({"\u4e2d" * 10**5: 256}), "is not byte-level"),
    "an empty special token": (crafted(added=special("")), "no special one named ''"),
    "a special token of a megabyte": (crafted(added=special("x" * 10**6)), "expected a text of up to"),
    "a special token that is a number": (crafted(added=special(5)), "special token '5': expected"),
    "a special token that is a list": (crafted(added=special(["x"])), "unhashable"),
    "a special token of half a surrogate pair": (crafted(added=special("\ud800")), "surrogates"),
    "a special token of two ids": (crafted(added=special("<x>", "<x>")), "stands twice"),
    "a special token with another id in vocab": (crafted({"<x>": 300}, added=special("<x>")),
                                                 "'<x>' has the ids 256 and 300"),
    "an id that tokenizers gives to no added token": (crafted(added=special("<x>") + [{"id": 300, "content": "<y>"}]), "'<y>' has the ids 300 and 257"),
    "30,000 special tokens": (crafted(added=special(*(f"<|reserved_{i}|>" for i in range(30_000)))), None),
    "nested special tokens": (crafted(added=special(*("<" + "a" * i for i in range(1, 500)))), None),
    "special tokens of one end": (crafted(added=special(*("a" * i + ">" for i in range(1, 500)))), None),
    "added_tokens of an object": (crafted(added_tokens={}), "expected a list"),
    "added_tokens of a text": (crafted(added_tokens="abc"), "expected a list"),
    "added_tokens of null": (crafted(added_tokens=None), "expected a list"),
    "model of a list": (crafted(model=[]), "has no attribute 'get'"),
    "ignore_merges of 5": (crafted(ignore_merges=5), "ignore_merges 5 is not supported"),
    "type of a list": (crafted(type=["BPE"]), "type ['BPE'] is not supported"),
    "post_processor of a text": (crafted(post_processor="x"), "has no attribute 'get'"),
    "normalizer of an object": (crafted(normalizer={}), "normalizer {} is not supported"),
    "pre_tokenizer of null": (crafted(pre_tokenizer=None), "pre_tokenizer null is not supported: this is no byte-level BPE"),
    "a normalizer that makes texts of megabytes": (crafted(normalizer={"type": "Prepend", "prepend": "x" * 10**6}), "expected a text of up to 100 characters"),
    "a literal pattern of a megabyte": (crafted(normalizer={"type": "Replace", "pattern": {"String": "x" * 10**6}, "content": ""}), "has 1,000,000 characters"),
    "normalizers in one another": (crafted(normalizer=json.loads('{"type": "Sequence", "normalizers": [' * 400 + "]}" * 400)), None),
    "pattern of a list": (crafted(pattern=["a"]), "expected a text"),
    "pattern of null": (crafted(pattern=None), "expected a text"),
    "pattern that is none": (crafted(pattern="["), "unterminated character set"),
    "pattern that closes what it did not open": (crafted(pattern="a)|(?:b"), "unbalanced parenthesis"),
    "pattern of 20,000 letters": (crafted(pattern="a" * 20_000), "has 20,000 characters"),
    "pattern with 4,000 groups in one another": (crafted(pattern="(?:" * 2000 + ")" * 2000), "too deep"),
    "pattern with a hundred million x": (crafted(pattern="x{100000000}"), "repeats multiply"),
    "pattern with repeats in repeats": (crafted(pattern="(?:x{1000}){1000}"), "repeats multiply"),
    "pattern with repeats of 400 digits": (crafted(pattern="x{" + "9" * 400 + "}"), "repeats multiply"),
    "pattern with spaced repeats": (crafted(pattern="(?x) x{1 0 0 0 0 0 0}"), "has the flag x"),
    "pattern in itself": (crafted(pattern="a?(?R)"), "has recursion"),
    "pattern in itself by number": (crafted(pattern="a?(?0)"), "has recursion"),
    "pattern from the end": (crafted(pattern="(?r)a"), "searches backwards"),
    "pattern with a group": (crafted(pattern="(a)"), "capturing group"),
    "pattern of nothing": (crafted(pattern=""), "matches the empty text"),
    "pattern of perhaps nothing": (crafted(pattern="a*"), "matches the empty text"),
    "a key twice": (b'{"model": 1, "model": 2}', "the key 'model' stands twice"),
    "a token twice": (json.dumps(crafted()).replace('"a": 97', '"a": 97, "a": 98').encode(),
                      "the key 'a' stands twice"),
    "a list in a list in ...": (b"[" * 10**6, "recursion"),
    "an object in an object in ...": (b'{"model":' * 10**5, "recursion"),
    "a number of a million digits": (b'{"model": ' + b"9" * 10**6 + b"}", "integer string conversion"),
    "not UTF-8": (b"\xff\xfe", "can't decode byte")}
TIKTOKEN_FILES = {
    "runs of a": (b"".join(b"%s %d\n" % (base64.b64encode(token), i) for i, token in enumerate(
        [bytes([b]) for b in range(256)] + [b"a" * k for k in range(2, 700)])), None),
    "one long token": (b"YQ== 0\nYg== 1\n" + TOKEN + b" 2\n", None),
    "the largest id": (b"YQ== 4194303\n", None),
    "bytes": (random.Random(0).randbytes(10**5), "not base64 and a rank"),
    "one long line": (b"A" * 10**6, "not base64 and a rank"),
    "a rank of a million digits": (b"YQ== " + b"9" * 10**6, "rank 99999999999999999999 is not 0 to"),
    "an empty token": (b"==== 1\n", "not base64 and a rank"),
    "a rank with a plus": (b"YQ== +1\n", "not base64 and a rank"),
    "a rank with a line": (b"YQ== 1_0\n", "not base64 and a rank"),
    "a rank in other digits": ("YQ== \u0663\n".encode(), "not base64 and a rank"),
    "a long token twice": ((TOKEN + b" 1\n") * 2, "is on line 1 too")}


@pytest.mark.parametrize("name, content, message", [
    (name, *case) for name, cases in (("t.json", JSON_FILES), ("cl100k_base.tiktoken", TIKTOKEN_FILES))
    for case in cases.values()], ids=[*JSON_FILES, *TIKTOKEN_FILES])
def test_files_of_strangers(tmp_path, name, content, message):
    """Each is refused, in a line that names the file, or loaded, in memory in proportion to its size; what is loaded encodes."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    text = "a" * 3000 + LOOP + "<|reserved_1<aaa ab>" * 200
    tracemalloc.start()
    try:
        if message is not None:
            with pytest.raises(ValueError) as error:
                Tokenizer.load(path)
            assert str(path) in str(error.value) and message in str(error.value)
            assert len(str(error.value)) < 600 + len(str(path))
        else:
            tokenizer = Tokenizer.load(path)
            if all(bytes([b]) in tokenizer.ranks for b in range(256)):
                for special in ((), "all"):
                    ids = tokenizer.encode(text, allowed_special=special, disallowed_special=())
                    assert tokenizer.decode(ids) == text
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 25 * path.stat().st_size + 40e6, f"{peak / 1e6:.0f} MB"       # 40: ids up to 2^22; kinds of all characters


GPT2_FILES = [
    ({"ab": 256}, "a b c", "merges.txt:1: 'a b c' is no pair"), ({"ab": 256}, "#version: 0.2\n\na", "merges.txt:3: 'a' is no pair"),
    ({"ab": 256}, "a a", "which vocab.json lacks"), ({"ab": 256}, "a b\nzz a", "which vocab.json lacks"),
    ({"ab": [256]}, "a b", "id [256] is no whole number"), ({"ab": {"a": {"b": 5}}}, "a b", "is no whole number"),
    ({"ab": 2**31}, "a b", "id 2147483648 is no whole number"), ({"": 256}, "", "none of them empty"),
    ({"ab": 256}, "x" * 10**6, "is no pair"), ({"ab": 256}, "x" * 10**6 + " a", "which vocab.json lacks"),
    ({"\ud800": 256}, "", "is not byte-level"), (5, "", "has no attribute"), ([1], "", "has no attribute")]


@pytest.mark.parametrize("vocab, merges, message", GPT2_FILES)
def test_gpt2_files_of_strangers(tmp_path, vocab, merges, message):
    (tmp_path / "vocab.json").write_text(json.dumps(BYTES | vocab if isinstance(vocab, dict) else vocab))
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(ValueError) as error:
        Tokenizer.load(tmp_path / "vocab.json")
    assert str(tmp_path / "vocab.json") in str(error.value) and message in str(error.value)
    assert len(str(error.value)) < 600 + len(str(tmp_path))


@pytest.mark.parametrize("pattern", ["(?:a|a)+b", "(?:a|aa)+b", "(?:a|a|aa)+c"])
@pytest.mark.parametrize("length", [40, 6000])
def test_a_pattern_that_takes_exponential_time(tmp_path, monkeypatch, pattern, length):
    """The text decides: ids, or in time an error that names the file and the pattern; for short texts and for long ones."""
    monkeypatch.setattr(pieces, "SECONDS", 0.05)
    monkeypatch.setattr(pieces, "SECONDS_PER_CHARACTER", 1e-6)
    pieces.finder.cache_clear()
    (tmp_path / "t.json").write_text(json.dumps(crafted(pattern=pattern)))
    tokenizer = Tokenizer.load(tmp_path / "t.json")
    assert tokenizer.decode(tokenizer.encode("aab xaab")) == "aab xaab"
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_bytes(text.encode() + b"\xff"),
                   lambda text: bpe.show_text(tokenizer, text, False, True)):
        with pytest.raises(ValueError, match=regex.escape(f"{tmp_path / 't.json'}: pattern {pattern!r}"[:-1])):
            encode("a" * length)
    assert tokenizer.encode("ab") == [97, 98]                   # and nothing of it stays
    pieces.finder.cache_clear()


def test_published_patterns_have_no_limit(monkeypatch):
    monkeypatch.setattr(pieces, "SECONDS", 0)
    monkeypatch.setattr(pieces, "SECONDS_PER_CHARACTER", 0)
    pieces.finder.cache_clear()
    for name in PATTERNS:
        assert pieces.finder(PATTERNS[name])(PROSE * 20) == regex.findall(PATTERNS[name], PROSE * 20)
    pieces.finder.cache_clear()


HOSTILE = ["a", "A", " ", "\n", "1", "!", "'", "\u0301", "\u4e2d", "aA", "'s", "\n ", " \n", "!\n", "!\u0301", "\u0301A", "A\u0301'", "\u02b0A", "\u00a0"]


@pytest.mark.parametrize("name", [*PATTERNS, pytest.param(pieces.DEEPSEEK_V3, id="deepseek_v3")])
def test_hostile_texts_take_time_in_proportion(name):
    """Four times the text, by arrays and by the pattern itself: less than eight times the work, in processor time."""
    tokenizer = Tokenizer({bytes([b]): b for b in range(256)}, name, {})
    find = pieces.finder(tokenizer.pattern)

    def seconds(work):
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            work()
            best = min(best, time.process_time() - start)
        return best

    for unit in HOSTILE:
        for cut in (find, lambda text: pieces.cut([text], tokenizer.pattern)):
            short, long = (("x" + unit * n)[:n] + end for n, end in ((5000, "x"), (20_000, "x")))
            assert seconds(lambda: cut(long)) < 8 * seconds(lambda: cut(short)) + 0.02, (unit, cut)


# ---- names, marks, lists -----------------------------------------------------------------------

def test_names_are_found_from_the_left_the_longest_first():
    rng = random.Random(0)
    for _ in range(3000):
        names = {"".join(rng.choices("ab<|", k=rng.randint(1, 5))) for _ in range(rng.randint(1, 12))}
        text = "".join(rng.choices("ab<|c", k=rng.randint(0, 40)))
        pattern = "|".join(map(regex.escape, sorted(names, key=len, reverse=True)))
        assert list(pieces.Names(names).find(text)) == [(m.start(), m[0]) for m in regex.finditer(pattern, text)]
    assert list(pieces.Names(()).find("text")) == []
    odd = ["]", "^", "-", "\\", "[", "\n", "\u4e2d"]
    assert [name for _, name in pieces.Names(odd).find("".join(odd))] == odd


def test_many_special_tokens_cost_no_more():
    """Not one look at the text for each name: the texts of a megabyte would take a minute."""
    names = {f"<|reserved_{i}|>": 256 + i for i in range(50_000)}
    tokenizer = Tokenizer({bytes([b]): b for b in range(256)}, "gpt4", names)
    text = "<|reserved_1" * 1000 + "<|reserved_4999|>" + "<|reserved_49999|>"
    looked = []
    start = time.process_time()
    ids = tokenizer.encode(text, allowed_special="all")
    looked.append(time.process_time() - start)
    assert ids[-2:] == [256 + 4999, 256 + 49999]
    with pytest.raises(ValueError, match="contains the special token '<|reserved_4999|>'"):
        tokenizer.encode(text)
    with pytest.raises(ValueError, match="contains the special token '<|reserved_49999|>'"):
        tokenizer.encode(text, allowed_special={"<|reserved_4999|>"})
    assert tokenizer.encode(text, disallowed_special=()) == list(text.encode())
    with pytest.raises(ValueError, match="the empty text"):
        tokenizer.encode(text, disallowed_special={""})


def test_normal_forms_of_many_marks():
    """The same as unicodedata's, which takes time that grows with the square of the marks."""
    rng = random.Random(1)
    every = [chr(c) for c in range(0x20000)]
    marks = [c for c in every if unicodedata.category(c)[0] == "M"]
    bases = [c for c in every if unicodedata.decomposition(c)] + list("ae\uac00\uac01")
    for _ in range(500):
        text = "".join(rng.choice(bases) + "".join(rng.choices(marks, k=rng.choice([0, 3, 40, 100]))) for _ in range(4))
        for form in ("NFC", "NFD"):
            assert pieces.normal_form(form, text) == unicodedata.normalize(form, text)

    def seconds(n):
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            Tokenizer({bytes([b]): b for b in range(256)}, "qwen2", {}, "NFC").encode("a" + "\u0301\u0316" * n)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(8000) < 8 * seconds(2000)


def slow_segments(tokenizer, ids):
    found, part = [], []
    for i in ids:
        part.append(i)
        try:
            found.append((tokenizer.decode(part, "strict"), part))
        except UnicodeDecodeError:
            continue
        part = []
    return found + [(tokenizer.decode(part), part)] * bool(part)


def test_segments():
    trained = Tokenizer.train([PROSE, "\u4e2d\u6587 \U0001f44d caf\u00e9"], 300)
    rng = random.Random(2)
    for _ in range(300):
        text = "".join(rng.choices(["a", "\u4e2d", "\U0001f44d", " went"], k=rng.randint(0, 9)))
        ids = trained.encode(text) + rng.choices(range(300), k=rng.randint(0, 6)) * rng.randint(0, 1)
        assert bpe.segments(trained, ids) == slow_segments(trained, ids)
    broken = [0x80] * 50_000                                    # bytes that no character has
    assert bpe.segments(trained, [97, *broken]) == [("a", [97]), ("\ufffd" * len(broken), broken)]


def test_ids_of_all_types(monkeypatch):
    """A list is decoded alike, however long it is: no id is rounded, and none overflows."""
    trained = Tokenizer.train([PROSE], 300)
    for many in (1, 100):
        monkeypatch.setattr(bpe, "MANY", many)
        for bad in (10**30, -10**30, 2**63, 1.5, float("nan"), None, "97"):
            with pytest.raises(KeyError, match="Invalid token for decoding"):
                trained.decode([97, 98, bad])
        assert trained.decode(np.array([97, 98], np.uint64)) == trained.decode([97, 98]) == "ab"


def test_show_keeps_its_colours_and_spells_out_others(monkeypatch, capsys):
    from run import command
    tokenizer = Tokenizer({bytes([b]): b for b in range(256)}, "gpt4", {})
    monkeypatch.setattr(sys, "stdout", command.Terminal(sys.stdout))
    bpe.show_text(tokenizer, "a\x1b[2J", True, True)
    said = capsys.readouterr().out
    assert "\x1b[30;48;5;153ma\x1b[0m" in said and "\\x1b" in said and "\x1b[2J" not in said


# ---- added tokens --------------------------------------------------------------------------------

def added(*tokens):
    """added_tokens of (name, what it is: special, normalized, lstrip, rstrip, single_word); ids from 256 on."""
    keys = ("special", *vocabularies.Flags._fields)
    return [{"id": 256 + i, "content": name, **{key: key in words for key in keys}} for i, (name, *words) in enumerate(tokens)]


def load_json(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return Tokenizer.load(tmp_path / "tokenizer.json")


NFC, LOWER = {"type": "NFC"}, {"type": "Lowercase"}
FOUND = {               # added tokens, normalizer, text, ids; tokenizers has the same (tests/peers/test_bpe_peers.py)
    "in every text": ([("lamp",)], None, "a lampb", [97, 32, 256, 98]),
    "the longest": ([("<x>",), ("<x>b",)], None, "<x>b", [257]),
    "in the text as it is before in the normalised one": ([("<x>",), ("<x>b", "normalized")], None, "<x>b", [256, 98]),
    "a name that is normalised": ([("<\u00e9>", "normalized")], NFC, "<e\u0301>", [256]),
    "a name that is not": ([("<\u00e9>",), ("xx",)], NFC, "xx<e\u0301>", [257, 60, 195, 169, 62]),
    "in small letters": ([("Big", "normalized"), ("ab",)], LOWER, "abBIGA", [257, 256, 97]),
    "white space before": ([("<m>", "lstrip")], None, "a \n<m> b", [97, 256, 32, 98]),
    "white space behind": ([("<m>", "rstrip")], None, "a <m>\u3000\tb", [97, 32, 256, 98]),
    "white space between two": ([("<m>", "rstrip"), ("<n>", "lstrip")], None, "<m>  <n>", [256, 257]),
    "white space that is taken and is a token": ([("<m>", "rstrip"), ("  ",)], None, "<m>  b", [256, 257, 98]),
    "a token of which nothing is left": ([("<m>", "rstrip"), ("\n", "lstrip")], None, "<m> \nb", [256, 98]),
    "whole words": ([("ab", "single_word")], None, "ab ab, bab ab_ ab", [256, 32, 256, 44, 32, 98, 97, 98, 32, 97, 98, 95, 32, 256])}


@pytest.mark.parametrize("tokens, normalizer, text, ids", FOUND.values(), ids=list(FOUND))
def test_added_tokens_are_found(tmp_path, tokens, normalizer, text, ids):
    ours = load_json(tmp_path, crafted(added=added(*tokens), normalizer=normalizer))
    assert ours.encode_ordinary(text) == ours.encode(text) == ours.encode_batch([text])[0] == ours.encode_to_numpy(text).tolist() == ids
    assert pickle.loads(pickle.dumps(ours)).encode(text) == ids
    ours.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.encode(text) == ids and again.fingerprint == ours.fingerprint != Tokenizer(ours.ranks, ours.pattern, {}, ours.normalize).fingerprint
    special = load_json(tmp_path, crafted(added=added(*((*token, "special") for token in tokens)), normalizer=normalizer))
    assert special.encode(text, allowed_special="all") == ids != special.encode_ordinary(text)


def test_added_words_are_text(tmp_path):
    ours = load_json(tmp_path, crafted(added=added(("lamp",), ("<end>", "special"))))
    assert ours.words == {"lamp": 256} and ours.special_tokens == {"<end>": 257} and not ours.is_special_token(256) and ours.is_special_token(257)
    assert ours.decode([256, 257]) == "lamp<end>" and ours.token_bytes[256] == b"lamp" and not len(ours.holes)
    assert ours.encode_single_token("lamp") == ours.encode_single_token(b"lamp") == 256 and ours.encode_single_token(b"<end>") == 257
    assert ours.encode_ordinary("a lamp" * 2000) == [97, 32, 256] * 2000                # by arrays too
    assert ours.encode_bytes(b"lamp\xff") == [256, 255] and ours.encode_with_unstable("a lamp") == ([97, 32, 256], [])
    with pytest.raises(ValueError, match="save as tokenizer.json"):
        Tokenizer(ours.ranks, "gpt2", {}, words={"lamp": 256}).save(tmp_path / "vocab.json")


@pytest.mark.parametrize("tokens, rest, message", [
    ([("<\u00e9>", "normalized"), ("<e\u0301>", "normalized")], {"normalizer": NFC}, "two are equal"),
    ([("  ", "normalized")], {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}}, "one is empty when it is normalised"),
    ([("ab", "single_word")], {"vocab": {"ab": 256}}, "with ignore_merges also a piece that no merges make")])
def test_added_tokens_that_could_mean_two_things(tmp_path, tokens, rest, message):
    with pytest.raises(ValueError, match=message):
        load_json(tmp_path, crafted(added=added(*tokens), **rest))


def test_an_added_token_that_merges_make_too(tmp_path):
    tokens = [{"id": 256, "content": "ab", "special": False, "single_word": True}, {"id": 97, "content": "a", "special": False}]
    ours = load_json(tmp_path, crafted({"ab": 256}, [["a", "b"]], tokens[:1]))
    assert ours.encode("ab cab") == [256, 32, 99, 256]
    assert load_json(tmp_path, crafted({"ab": 256}, [["a", "b"]], tokens[1:])).encode("ab ba") == [97, 98, 32, 98, 97]


def test_words_behind_special_tokens_that_come_first(tmp_path):
    """As when words are added to Pythia's vocabulary: NFC, and <|endoftext|> is 0."""
    ranks = {bytes([b]): b + 1 for b in range(256)}
    ours = Tokenizer(ranks, "gpt2", {"<|endoftext|>": 0, "<x>": 258}, "NFC", {"lamp": 257})
    ours.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.fingerprint == ours.fingerprint and again.encode_ordinary("a lamp") == [98, 33, 257]
    vocab = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert vocab["<|endoftext|>"] == 0 and "lamp" not in vocab


# ---- cuts and normal forms of tokenizer.json -------------------------------------------------------

def pre(*steps):
    return {"type": "Sequence", "pretokenizers": [*steps, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}


def regex_split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


GPT2_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
CUTS = {                # pre_tokenizer, text, pieces; the first five are the examples of tokenizers' documentation
    "Removed": (pre(regex_split("-", "Removed")), "the-final--countdown", ["the", "final", "countdown"]),
    "Isolated": (pre(regex_split("-")), "the-final--countdown", ["the", "-", "final", "-", "-", "countdown"]),
    "MergedWithPrevious": (pre(regex_split("-", "MergedWithPrevious")), "the-final--countdown", ["the-", "final-", "-", "countdown"]),
    "MergedWithNext": (pre(regex_split("-", "MergedWithNext")), "the-final--countdown", ["the", "-final", "-", "-countdown"]),
    "Contiguous": (pre(regex_split("-", "Contiguous")), "the-final--countdown", ["the", "-", "final", "--", "countdown"]),
    "inverted": (pre(regex_split(r"\p{L}+", "Removed", True)), "a1bc2", ["a", "bc"]),
    "a text for a pattern": (pre({"type": "Split", "pattern": {"String": "."}, "behavior": "Isolated", "invert": False}), "a.b", ["a", ".", "b"]),
    "the next cuts what is left": (pre(regex_split(r"\p{N}{1,3}"), regex_split(r"\p{L}+|\s+(?!\S)|\s+")), "ab  1234 !c", ["ab", "  ", "123", "4", " ", "!", "c"]),
    "places": (pre(regex_split("(?=[A-Z])")), "fooBarB", ["foo", "Bar", "B"]),
    "lines": (pre(regex_split(r"^a+$")), "aa\na\nba", ["aa", "\n", "a", "\nba"]),
    "digits": ({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, GPT2_BYTE_LEVEL]}, "a 12\u00b2b's", ["a", " ", "1", "2", "\u00b2", "b", "'s"]),
    "runs of digits": (pre({"type": "Digits"}), "a12b", ["a", "12", "b"]),
    "punctuation": (pre({"type": "Punctuation", "behavior": "Contiguous"}), "a?!b$\u061dc", ["a", "?!", "b", "$", "\u061dc"]),
    "white space": (pre({"type": "WhitespaceSplit"}), " a\u3000b", ["a", "b"]),
    "words": (pre({"type": "Whitespace"}), "Hey, man_1!?", ["Hey", ",", "man_1", "!?"]),
    "a delimiter": (pre({"type": "CharDelimiterSplit", "delimiter": "|"}), "a||b", ["a", "b"]),
    "a space before": ({"type": "ByteLevel", "add_prefix_space": True}, "the end", [" the", " end"]),
    "no space before a space": ({"type": "ByteLevel", "add_prefix_space": True}, " the", [" the"]),
    "a space before each": ({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "ByteLevel", "add_prefix_space": True}]},
                            "a b", [" a", " b"]),
    "none": ({"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}, "a b", ["a b"]),
    "bytes, and then": ({"type": "Sequence", "pretokenizers": [GPT2_BYTE_LEVEL, {"type": "Digits", "individual_digits": True}]},
                        "\u00b2 1", ["\u00b2".encode()[:1], "\u00b2".encode()[1:], b" ", b"1"])}     # the second byte of ² is written ²


@pytest.mark.parametrize("pre_tokenizer, text, pieces_of_it", CUTS.values(), ids=list(CUTS))
def test_cuts(tmp_path, monkeypatch, pre_tokenizer, text, pieces_of_it):
    """Each piece is a token; short texts and long ones, and after saving."""
    tokens = [piece.encode() if isinstance(piece, str) else piece for piece in pieces_of_it]
    ranks = {token: 256 + i for i, token in enumerate(dict.fromkeys(token for token in tokens if len(token) > 1))}
    vocab = {vocabularies.to_characters(token): i for token, i in ranks.items()}
    ours = load_json(tmp_path, crafted(vocab, pre_tokenizer=pre_tokenizer, merges=[
        list(map(vocabularies.to_characters, pair)) for pair in vocabularies.all_merges({bytes([b]): b for b in range(256)} | ranks)]))
    want = [ranks.get(token, token[0]) for token in tokens]
    for _ in range(2):
        for short in (0, 10**9):
            monkeypatch.setattr(encoder, "SHORT", short)
            assert ours.encode_ordinary(text) == want and ours.encode_ordinary_batch(["", text, "", text]) == [[], want, [], want]
        ours.save(tmp_path / "tokenizer.json")
        again = Tokenizer.load(tmp_path / "tokenizer.json")
        assert again.pattern == ours.pattern and again.fingerprint == ours.fingerprint
        ours = again


@pytest.mark.parametrize("normalizer, text, normal", [
    ({"type": "Sequence", "normalizers": []}, "\uff21e\u0301", "\uff21e\u0301"), ({"type": "NFD"}, "\u00e9", "e\u0301"), ({"type": "NFKC"}, "\uff21e\u0301", "A\u00e9"),
    (LOWER, "\u039f\u03a3 \u0130", "\u03bf\u03c3 i\u0307"),
    ({"type": "Sequence", "normalizers": [{"type": "NFKD"}, LOWER]}, "\uff21\u00e9", "ae\u0301"), ({"type": "Strip", "strip_left": True, "strip_right": False}, " a ", "a "),
    ({"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "_"}, "a \n b c", "a_b_c"), ({"type": "Replace", "pattern": {"String": "."}, "content": "\\1"}, "a.b", "a\\1b"),
    ({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"}, NFC]}, "e\u0301", "_\u00e9"), ({"type": "Prepend", "prepend": "_"}, "", "")])
def test_normal_forms(tmp_path, normalizer, text, normal):
    ours = load_json(tmp_path, crafted(normalizer=normalizer))
    assert ours.encode(text) == list(normal.encode())
    ours.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path / "tokenizer.json").normalize == ours.normalize


@pytest.mark.parametrize("pattern, translated", [
    (r"\s+$", r"\s+(?![^\n])"), (r"^a", r"(?:(?<![^\n])(?=[\s\S]))a"), (r"a\Z", r"a(?=\n?(?![\s\S]))"), (r"[\w-]", r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}-]"),
    (r"\w", r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u00b2\u00b3\u00b9\u00bc-\u00be]"), (r"[]^$\]]\$\^", r"[]^$\]]\$\^"), (r"(?i:'s|'ll)", r"(?i:'s|'ll)"),
    (r"[a[b]]", "[ab]"), (r"[^[a[b-d]]\[[\]]]", r"[^ab-d\[\]]"), (r" ?[^(\s|[.,!?\u2026])]+", r" ?[^(\s|.,!?\u2026)]+"), (r"[a][[b]c]", "[a][bc]")])
def test_patterns_of_oniguruma(pattern, translated):
    assert pieces.from_oniguruma(pattern) == translated and pieces.from_oniguruma(translated) == translated


@pytest.mark.parametrize("pattern", [r"\h", r"[a[^b]]", r"[a[]b]]", r"[!-[b]]", r"[[a]-c]", r"[a&&[b]]", r"[a&&b]", r"(?m:.)", r"a{1,2}+", r"a{2}?", r"(?i:i)", r"(?i:ss)", r"(?i:[a-c])", r"(?i:\u00df)".encode().decode("unicode_escape"),
                                     r"a(?i)b", r"[\W]", r"\p{InGreek}", r"\G", r"\X", r"[[:punct:]]", r"\xe9"])
def test_patterns_that_mean_something_else_elsewhere(tmp_path, pattern):
    with pytest.raises(ValueError, match="which means something else in tokenizer.json"):
        load_json(tmp_path, crafted(pattern=pattern + "+" if pattern.endswith("]") else pattern))


def test_normal_forms_that_take_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "SECONDS", 0.05)
    monkeypatch.setattr(pieces, "SECONDS_PER_CHARACTER", 1e-6)
    tenfold = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    ours = load_json(tmp_path, crafted(normalizer={"type": "Sequence", "normalizers": [tenfold] * 9}))
    with pytest.raises(ValueError, match="tokenizer.json: normalised, a text is more than 20 times as long"):
        ours.encode("a" * 1000)
    ours = load_json(tmp_path, crafted(normalizer={"type": "Replace", "pattern": {"Regex": "(?:a|a|aa)+c"}, "content": ""}))
    with pytest.raises(ValueError, match="tokenizer.json: pattern .* takes more than"):
        ours.encode("a" * 1000)


def test_what_a_call_asked_for_last_is_read_past(tmp_path):
    content = crafted(truncation={"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0},
                      padding={"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"})
    assert load_json(tmp_path, content).encode("abc" * 20) == list(b"abc" * 20)


def test_sentencepieces_vocabularies_are_refused_by_name(tmp_path):
    """Llama 2's form."""
    content = crafted(pre_tokenizer=None, normalizer={"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}, model_byte_fallback=True)
    with pytest.raises(ValueError, match="pre_tokenizer null is not supported: this is no byte-level BPE, but one of characters, such as SentencePiece's"):
        load_json(tmp_path, content)


# ---- what else tiktoken's Encoding has --------------------------------------------------------------

def test_what_may_follow():
    """Of a text and of all that goes on from it the first ids are the same, and the next begin with one of those named."""
    trained = Tokenizer.train([PROSE], 400, "cl100k")
    rng = random.Random(5)
    for _ in range(150):
        at = rng.randrange(len(PROSE) - 60)
        text, rest = PROSE[at:at + rng.randint(0, 12)], PROSE[at + 12:at + 30]
        stable, completions = trained.encode_with_unstable(text)
        assert text.encode().startswith(trained.decode_bytes(stable))
        assert all(trained.decode_bytes(stable + some).startswith(text.encode()) for some in completions)
        for more in ("", rest, PROSE[at + len(text):][:9], "x", " ", "\n", "12"):
            ids = trained.encode(text + more)
            assert ids[:len(stable)] == stable and (not completions or any(ids[len(stable):][:len(some)] == some for some in completions))
    assert trained.encode_with_unstable("went<|im_end|>", allowed_special="all") == (trained.encode("went<|im_end|>", "all"), [])
    assert trained.encode_with_unstable("") == ([], [])
    with pytest.raises(ValueError, match="special token"):
        trained.encode_with_unstable("<|im_end|>")


def test_names_arguments_and_errors_of_tiktoken(tmp_path):
    trained = Tokenizer.train([PROSE], 320)
    text = "went<|im_end|>"
    assert trained.encode_to_numpy(text, allowed_special="all").tolist() == trained.encode(text, allowed_special={"<|im_end|>"}) == trained.encode_ordinary("went") + [315]
    assert trained.encode_to_numpy(text, disallowed_special=()).tolist() == trained.encode_ordinary(text)
    assert trained.encode_to_numpy(text, allowed_special="all").dtype == np.uint32
    with pytest.raises(ValueError, match="text contains the special token"):
        trained.encode_to_numpy(text)
    for wrong in (b"went", 5, None):
        with pytest.raises(TypeError):
            trained.encode(wrong)
        with pytest.raises(TypeError):
            trained.encode_ordinary(wrong)
    assert trained.decode_batch([[97], [98]], errors="strict", num_threads=2) == ["a", "b"] and trained.decode_bytes_batch([[97]], num_threads=2) == [b"a"]
    trained.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path / "tokenizer.json").name == str(tmp_path / "tokenizer.json")
    trained.save(tmp_path / "cl100k_base.tiktoken")
    named = Tokenizer.load(tmp_path / "cl100k_base.tiktoken")
    assert named.name == pickle.loads(pickle.dumps(named)).name == "cl100k_base" and repr(named) == "<Tokenizer 'cl100k_base', 100,277 tokens>"


# ---- what transformers reads beside them ------------------------------------------------------------

def config_of(tmp_path):
    return json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))


def test_roles(tmp_path):
    """What pads a text is not what ends it: collators take padding out of what is learned."""
    chats = Tokenizer.train([PROSE], 320)
    for end, pad, template in ((None, "<|endoftext|>", True), ("<|im_end|>", "<|endoftext|>", True), ("<|endoftext|>", "<|output_end|>", False)):
        chats.save(tmp_path / "tokenizer.json", end)
        config = config_of(tmp_path)
        assert (config["bos_token"], config["eos_token"], config["pad_token"]) == ("<|endoftext|>", end or "<|im_end|>", pad)
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and ("chat_template" in config) == template
    Tokenizer.train([PROSE], 320, special_tokens=["<|endoftext|>"]).save(tmp_path / "tokenizer.json")
    assert config_of(tmp_path) == {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    Tokenizer.characters("abc").save(tmp_path / "tokenizer.json")
    assert "eos_token" not in config_of(tmp_path)


def test_gpt2s_files_with_special_tokens(tmp_path):
    """All that a vocabulary for chats has; and what transformers writes beside vocab.json."""
    chats = Tokenizer.train([PROSE], 320, "gpt2")
    chats.save(tmp_path / "vocab.json")
    assert config_of(tmp_path)["added_tokens_decoder"]["315"] == {"content": "<|im_end|>", "normalized": False, "lstrip": False, "rstrip": False, "single_word": False, "special": True}
    assert Tokenizer.load(tmp_path / "vocab.json").fingerprint == chats.fingerprint
    (tmp_path / "tokenizer_config.json").unlink()                   # names in brackets are special tokens anyway
    assert Tokenizer.load(tmp_path / "vocab.json").fingerprint == chats.fingerprint
    (tmp_path / "added_tokens.json").write_text('{"lamp": 320, "<pad>": 321}')
    ours = Tokenizer.load(tmp_path / "vocab.json")
    assert ours.words == {"lamp": 320} and ours.special_tokens == chats.special_tokens | {"<pad>": 321} and ours.encode("a lamp")[-1] == 320
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True, "added_tokens_decoder": {
        "320": {"content": "lamp", "special": True, "lstrip": True}}}))
    ours = Tokenizer.load(tmp_path / "vocab.json")
    assert ours.special_tokens["lamp"] == 320 and ours.flags["lamp"].lstrip and ours.encode("a") == chats.encode(" a")
    for config, message in (({"tokenizer_class": "Qwen2Tokenizer"}, "names the class 'Qwen2Tokenizer', which may cut text otherwise than GPT-2"),
                            ({"added_tokens_decoder": {"7": {"content": "lamp"}}}, "'lamp' has the id 320 in added_tokens.json and 7 in")):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=message):
            Tokenizer.load(tmp_path / "vocab.json")
