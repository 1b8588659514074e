"""vocabularies.py: the published encodings by name, GPT-2's own files, tokenizer.json of Llama 3's and Qwen's family; and what bpe.py does
with texts by the batch, with offsets, with bytes."""

import base64
import hashlib
import json
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

import bpe
import encoder
import vocabularies
from bpe import Tokenizer
from pieces import PATTERNS

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
    texts = ["".join(rng.choice(letters, rng.integers(0, 200))) for _ in range(150)] + [PROSE, "", "a" * 300, "\u4e2d" * 100, "x" * 3000]
    texts += ["".join(rng.choice(list("the or\u4e2d".replace(" ", "")), n)) for n in range(3, 270, 2)]
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
