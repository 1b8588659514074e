"""tokens/huggingface.py: tokenizer.json of GPT-2's, Llama 3's and Qwen's family; files of
strangers."""

import base64
import json
import pickle
import random
import tracemalloc

import pytest
import regex

import bpe
from token_texts import PROSE, trained
from tokens.tiktoken import Encoding
from tokens import encoder, huggingface, patterns
from tokens.added import Flags
from tokens.patterns import BYTE_TO_CHARACTER, PATTERNS, finder
from tokens.patterns import to_characters


def test_all_merges_equals_trying_every_cut(trained):
    expected = []
    for token, rank in trained.ranks.items():
        for i in range(1, len(token)):
            pair = token[:i], token[i:]
            if all(part in trained.ranks for part in pair):
                expected.append((rank, [trained.ranks[part] for part in pair], pair))
    assert list(huggingface.all_merges(trained.ranks)) == [pair for *_, pair in sorted(expected)]


def gpt2_style(tokenizer):
    """tokenizer.json as GPT-2's: ByteLevel splits alone, one merge a token, no ignore_merges."""
    def spell(token):
        return "".join(BYTE_TO_CHARACTER[b] for b in token)

    merges = []
    for token, rank in tokenizer.ranks.items():
        if len(token) > 1:
            below = {t: r for t, r in tokenizer.ranks.items() if r < rank}
            left, right = bpe.merge(below, token)
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
    tokenizer = Encoding.train([PROSE], 330, "gpt2", ["<|endoftext|>"])
    content = gpt2_style(tokenizer)
    if as_strings:
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    loaded = Encoding.load(tmp_path / "tokenizer.json")
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


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


@pytest.mark.parametrize(
    "edit, message",
    [(change(["normalizer"], {"type": "StripAccents"}),
      "normalizer {'type': 'StripAccents'} is not supported"),
     (change(["model", "type"], "Unigram"), "type 'Unigram' is not supported"),
     (change(["model", "dropout"], 0.1), "dropout 0.1 is not supported"),
     (lambda content: (content["model"]["vocab"].pop("z"),
                       content["model"].update(unk_token="<unk>")),
      "unk_token '<unk>' is not supported"),
     (change(["model", "end_of_word_suffix"], "</w>"),
      "end_of_word_suffix '</w>' is not supported"),
     (lambda content: (content["model"]["vocab"].pop("z"),
                       content["model"].update(byte_fallback=True)),
      "it is SentencePiece's (byte_fallback)"),
     (change(["pre_tokenizer", "add_prefix_space"], 1), "add_prefix_space 1 is not supported"),
     (change(["pre_tokenizer", "type"], "Metaspace"), "pre_tokenizer 'Metaspace' is not supported"),
     (change(["pre_tokenizer", "type"], "Whitespace"), "a pre_tokenizer with 0 times ByteLevel"),
     (change(["pre_tokenizer"],
             {"type": "Sequence", "pretokenizers": [BYTE_LEVEL, SPLIT, BYTE_LEVEL]}),
      "a pre_tokenizer with 2 times ByteLevel"),
     (change(["pre_tokenizer"],
             {"type": "Sequence", "pretokenizers": [SPLIT | {"behavior": "Gone"}, BYTE_LEVEL]}),
      "behavior 'Gone' is not supported"),
     (change(["pre_tokenizer"],
             {"type": "Sequence",
              "pretokenizers": [SPLIT | {"pattern": {"Regex": r"\h+"}}, BYTE_LEVEL]}),
      "has the escape \\h, which means something else"),
     (change(["pre_tokenizer"],
             {"type": "Sequence",
              "pretokenizers": [SPLIT | {"pattern": {"Regex": r"\p{N}{1,3}+|\s++$"}}, BYTE_LEVEL]}),
      "possessive {m,n}+"),
     (change(["post_processor"], {"type": "Whatever"}),
      "post_processor 'Whatever' is not supported"),
     (change(["added_tokens", 0, "lstrip"], "yes"), "<|endoftext|> lstrip 'yes' is not supported"),
     (lambda content: content["added_tokens"].append({"id": 300 + 5, "content": "<x>"}),
      "'<x>' has the ids 305 and 300 (the next one that is free"),
     (change(["model", "vocab", "中"], 999), "token '中' is not byte-level"),
     (change(["model", "vocab", "zzzz"], 999), "token b'zzzz' is not what its merges make of it"),
     (change(["model", "vocab", "a"], 98), "different ids"),
     (swap_merges, "not in the order of their ids"),
     (lambda content: content.pop("model"), "KeyError('model')"),
     (lambda content: content.update(model=[]), "cannot be read")],
)
def test_unsupported_json_is_refused_by_name(tmp_path, edit, message):
    content = gpt2_style(Encoding.train([PROSE], 300, "gpt2", ["<|endoftext|>"]))
    edit(content)
    (tmp_path / "t.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=regex.escape(message)) as caught:
        Encoding.load(tmp_path / "t.json")
    assert str(tmp_path / "t.json") in str(caught.value)


def test_gpt2s_own_files(tmp_path):
    trained = Encoding.train([PROSE, "naïve 中文"], 340, "gpt2", ["<|endoftext|>"])
    trained.save(tmp_path / "vocab.json")
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")
    assert lines[0] == "#version: 0.2" and len(lines) == 2 + 340 - 257 and lines[-1] == ""
    for form in ("vocab.json", ""):
        again = Encoding.load(tmp_path / form)
        assert (again.ranks, again.pattern, again.special_tokens) == (
            trained.ranks, trained.pattern, trained.special_tokens,
        )
    (tmp_path / "vocab.json").rename(tmp_path / "encoder.json")
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.bpe")
    assert Encoding.load(tmp_path / "encoder.json").ranks == trained.ranks
    broken = {"a b c": "is no pair", "Ġ qqq": "is not of two tokens", lines[2]: "not in the order",
              "中 a": "not byte-level"}
    for line, message in broken.items():
        (tmp_path / "vocab.bpe").write_text(
            "\n".join([lines[0], lines[1], lines[2], lines[3], line, *lines[4:]])
            if line != lines[2]
            else "\n".join([lines[0], lines[2], lines[1], *lines[3:]]),
            encoding="utf-8",
        )
        with pytest.raises(
            ValueError, match=f"encoder.json: cannot be read with equal ids: .*{message}"
        ):
            Encoding.load(tmp_path / "encoder.json")
    (tmp_path / "vocab.bpe").unlink()
    with pytest.raises(FileNotFoundError, match="No such file or directory: .*merges.txt"):
        Encoding.load(tmp_path / "encoder.json")
    with pytest.raises(ValueError, match="hold no pattern"):
        Encoding.train([PROSE], 340, "gpt4").save(tmp_path / "vocab.json")


def test_qwens_normal_form(tmp_path):
    """Its tokenizer.json composes text first; the tokenizer says so, keeps it in every file and
    decodes what it composed."""
    trained = Encoding.train([PROSE, "café naïve"], 340, "qwen2", ["<|endoftext|>"])
    composing = Encoding(trained.ranks, trained.pattern, trained.special_tokens, "NFC")
    composing.save(tmp_path / "tokenizer.json")
    composing.save(tmp_path / "tokenizer.tiktoken")
    for path in (tmp_path / "tokenizer.json", tmp_path / "tokenizer.tiktoken", tmp_path):
        again = Encoding.load(path)
        assert again.normalize == "NFC" and again.encode("cafe\u0301") == trained.encode(
            "café"
        ) != trained.encode("cafe\u0301")
        assert again.fingerprint == composing.fingerprint != trained.fingerprint


def test_llamas_form(tmp_path):
    """Every split listed, ignore_merges, and a template around texts, which is not for bpe.py to
    add."""
    ranks = {bytes([b]): b for b in range(256)} | {
        b".:": 256,
        b".:.:": 257,
        b"ab": 258,
        b"abcd": 259,
    }  # abcd: no two tokens
    tokenizer = Encoding(ranks, "cl100k", {"<|begin_of_text|>": 260})
    tokenizer.save(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content["post_processor"] = {
        "type": "Sequence",
        "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing"}],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    again = Encoding.load(tmp_path / "tokenizer.json")
    assert again.encode("abcd .:.: abcd") == [259, 32, 257, 32, 258, 99, 100]
    with pytest.raises(ValueError, match=r"token b'abcd' ends as 3 parts"):
        Encoding(ranks, "gpt2", {}).save(tmp_path / "vocab.json")


def test_gpt2s_files_with_special_tokens(tmp_path):
    """All that a vocabulary for chats has; and what transformers writes beside vocab.json."""
    chats = Encoding.train([PROSE], 320, "gpt2")
    chats.save(tmp_path / "vocab.json")
    assert config_of(tmp_path)["added_tokens_decoder"]["315"] == {
        "content": "<|im_end|>", "normalized": False, "lstrip": False, "rstrip": False,
        "single_word": False, "special": True,
    }
    assert Encoding.load(tmp_path / "vocab.json").fingerprint == chats.fingerprint
    (tmp_path / "tokenizer_config.json").unlink()  # names in brackets are special tokens anyway
    assert Encoding.load(tmp_path / "vocab.json").fingerprint == chats.fingerprint
    (tmp_path / "added_tokens.json").write_text('{"lamp": 320, "<pad>": 321}')
    ours = Encoding.load(tmp_path / "vocab.json")
    assert (ours.words == {"lamp": 320}
            and ours.special_tokens == chats.special_tokens | {"<pad>": 321}
            and ours.encode("a lamp")[-1] == 320)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "GPT2Tokenizer",
             "add_prefix_space": True,
             "added_tokens_decoder": {"320": {"content": "lamp", "special": True, "lstrip": True}}}
        )
    )
    ours = Encoding.load(tmp_path / "vocab.json")
    assert (ours.special_tokens["lamp"] == 320
            and ours.flags["lamp"].lstrip
            and ours.encode("a") == chats.encode(" a"))
    for config, message in (
        ({"tokenizer_class": "Qwen2Tokenizer"},
         "names the class 'Qwen2Tokenizer', which may cut text otherwise than GPT-2"),
        ({"added_tokens_decoder": {"7": {"content": "lamp"}}},
         "'lamp' has the id 320 in added_tokens.json and 7 in"),
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=message):
            Encoding.load(tmp_path / "vocab.json")


def config_of(tmp_path):
    return json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))


def test_roles(tmp_path):
    """What pads a text is not what ends it: collators take padding out of what is learned."""
    chats = Encoding.train([PROSE], 320)
    for end, pad, template in ((None, "<|endoftext|>", True), ("<|im_end|>", "<|endoftext|>", True),
                               ("<|endoftext|>", "<|output_end|>", False)):
        chats.save(tmp_path / "tokenizer.json", end)
        config = config_of(tmp_path)
        assert (config["bos_token"], config["eos_token"], config["pad_token"]) == (
            "<|endoftext|>", end or "<|im_end|>", pad,
        )
        assert (config["tokenizer_class"] == "PreTrainedTokenizerFast"
                and ("chat_template" in config) == template)
    Encoding.train([PROSE], 320, special_tokens=["<|endoftext|>"]).save(tmp_path / "tokenizer.json")
    assert config_of(tmp_path) == {
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
        "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
    }
    Encoding.characters("abc").save(tmp_path / "tokenizer.json")
    assert "eos_token" not in config_of(tmp_path)


# ---- files of strangers --------------------------------------------------------------------------

BYTES = {to_characters(bytes([b])): b for b in range(256)}


LOOP = "abcdefghijklmnopqrstuvwxyz" * 20


MISSING = object()


def crafted(vocab=None, merges=(), added=(), pattern=PATTERNS["gpt4"], **rest):
    """A tokenizer.json of 256 bytes and what is given; rest replaces parts of it, MISSING removes
    them."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    content = {
        "added_tokens": list(added),
        "model": {"type": "BPE", "ignore_merges": True, "vocab": BYTES | (vocab or {}),
                  "merges": list(merges)},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split,
                              {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}],
        },
    }
    for key, value in rest.items():
        part = (content["model"]
                if key in ("type", "ignore_merges") or key.startswith("model_")
                else content)
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
    return [[left.decode(), right.decode()] for left, right in huggingface.all_merges(ranks)]


TOKEN = base64.b64encode(b"ab" * 300_000)


JSON_FILES = {  # content, the reason why it is refused or None if it can be loaded
    "runs of a without merges": (crafted(runs_of_a(800)), "not what its merges make of it"),
    "runs of a with all merges": (crafted(runs_of_a(120), every_cut(120)), None),
    "runs of a with all merges but one": (crafted(runs_of_a(60), every_cut(60)[:-1]), None),
    "merges in disorder": (crafted(runs_of_a(60), every_cut(60)[::-1]), "not in the order"),
    "each token one letter longer": (crafted({LOOP[:k]: 254 + k for k in range(2, 500)},
                                             [[LOOP[: k - 1], LOOP[k - 1]] for k in range(2, 500)]),
                                     "not what its merges make of it"),
    "a merge of no tokens": (crafted({"ab": 256}, [["a", "b"], ["zz", "b"]]),
                             "is not of two tokens"),
    "a merge into no token": (crafted({"ab": 256}, [["a", "b"], ["b", "b"]]),
                              "is not of two tokens"),
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
    "a special token of a megabyte": (crafted(added=special("x" * 10**6)),
                                      "more than 1000 characters"),
    "a special token that is a number": (crafted(added=special(5)), "'int' has no len()"),
    "a special token that is a list": (crafted(added=special(["x"])), "unhashable"),
    "a special token of half a surrogate pair": (crafted(added=special("\ud800")), "surrogates"),
    "a special token of two ids": (crafted(added=special("<x>", "<x>")), "stands twice"),
    "a special token with another id in vocab": (crafted({"<x>": 300}, added=special("<x>")),
                                                 "'<x>' has the ids 256 and 300"),
    "an id that tokenizers gives to no added token": (
        crafted(added=special("<x>") + [{"id": 300, "content": "<y>"}]),
        "'<y>' has the ids 300 and 257",
    ),
    "30,000 special tokens": (crafted(added=special(*(f"<|reserved_{i}|>" for i in range(30_000)))),
                              None),
    "nested special tokens": (crafted(added=special(*("<" + "a" * i for i in range(1, 500)))),
                              None),
    "special tokens of one end": (crafted(added=special(*("a" * i + ">" for i in range(1, 500)))),
                                  None),
    "added_tokens of an object": (crafted(added_tokens={}), "expected a list"),
    "added_tokens of a text": (crafted(added_tokens="abc"), "expected a list"),
    "added_tokens of null": (crafted(added_tokens=None), "expected a list"),
    "model of a list": (crafted(model=[]), "has no attribute 'get'"),
    "ignore_merges of 5": (crafted(ignore_merges=5), "ignore_merges 5 is not supported"),
    "type of a list": (crafted(type=["BPE"]), "type ['BPE'] is not supported"),
    "post_processor of a text": (crafted(post_processor="x"), "has no attribute 'get'"),
    "normalizer of an object": (crafted(normalizer={}), "normalizer {} is not supported"),
    "pre_tokenizer of null": (crafted(pre_tokenizer=None),
                              "pre_tokenizer null is not supported: this is no byte-level BPE"),
    "a normalizer that makes texts of megabytes": (
        crafted(normalizer={"type": "Prepend", "prepend": "x" * 10**6}),
        "normalised, a text is more than 20 times as long",
    ),
    "a literal pattern of a megabyte": (
        crafted(normalizer={"type": "Replace", "pattern": {"String": "x" * 10**6}, "content": ""}),
        "has 1,000,000 characters",
    ),
    "normalizers in one another": (
        crafted(normalizer=json.loads('{"type": "Sequence", "normalizers": [' * 400 + "]}" * 400)),
        None,
    ),
    "pattern of a list": (crafted(pattern=["a"]), "'list' object has no"),
    "pattern of null": (crafted(pattern=None), "'NoneType' object has no"),
    "pattern that is none": (crafted(pattern="["), "unterminated character set"),
    "pattern that closes what it did not open": (crafted(pattern="a)|(?:b"),
                                                 "unbalanced parenthesis"),
    "pattern of 20,000 letters": (crafted(pattern="a" * 20_000), "has 20,000 characters"),
    "pattern with 4,000 groups in one another": (crafted(pattern="(?:" * 2000 + ")" * 2000),
                                                 "too deep"),
    "pattern with a hundred million x": (crafted(pattern="x{100000000}"), "repeats multiply"),
    "pattern with repeats in repeats": (crafted(pattern="(?:x{1000}){1000}"), "repeats multiply"),
    "pattern with repeats of 400 digits": (crafted(pattern="x{" + "9" * 400 + "}"),
                                           "repeats multiply"),
    "pattern with spaced repeats": (crafted(pattern="(?x) x{1 0 0 0 0 0 0}"), "has the group (?x)"),
    "pattern in itself": (crafted(pattern="a?(?R)"), "has the group (?R)"),
    "pattern in itself by number": (crafted(pattern="a?(?0)"), "has the group (?0)"),
    "pattern from the end": (crafted(pattern="(?r)a"), "has the group (?r)"),
    "pattern with a group": (crafted(pattern="(a)"), "capturing group"),
    "pattern of nothing": (crafted(pattern=""), "matches the empty text"),
    "pattern of perhaps nothing": (crafted(pattern="a*"), "matches the empty text"),
    "a key twice": (b'{"model": 1, "model": 2}', "the key 'model' stands twice"),
    "a token twice": (json.dumps(crafted()).replace('"a": 97', '"a": 97, "a": 98').encode(),
                      "the key 'a' stands twice"),
    "a list in a list in ...": (b"[" * 10**6, "recursion"),
    "an object in an object in ...": (b'{"model":' * 10**5, "recursion"),
    "a number of a million digits": (b'{"model": ' + b"9" * 10**6 + b"}",
                                     "integer string conversion"),
    "not UTF-8": (b"\xff\xfe", "can't decode byte"),
}


TIKTOKEN_FILES = {
    "runs of a": (b"".join(b"%s %d\n" % (base64.b64encode(token), i)
                           for i, token in enumerate(
                               [bytes([b]) for b in range(256)] + [b"a" * k for k in range(2, 700)]
                           )),
                  None),
    "one long token": (b"YQ== 0\nYg== 1\n" + TOKEN + b" 2\n", None),
    "the largest id": (b"YQ== 4194303\n", None),
    "bytes": (random.Random(0).randbytes(10**5), "not base64 and a rank"),
    "one long line": (b"A" * 10**6, "not base64 and a rank"),
    "a rank of a million digits": (b"YQ== " + b"9" * 10**6, "not base64 and a rank from 0 to"),
    "an empty token": (b"==== 1\n", "not base64 and a rank"),
    "a rank with a plus": (b"YQ== +1\n", "not base64 and a rank"),
    "a rank with a line": (b"YQ== 1_0\n", "not base64 and a rank"),
    "a rank in other digits": ("YQ== \u0663\n".encode(), "not base64 and a rank"),
    "a long token twice": ((TOKEN + b" 1\n") * 2, "is on line 1 too"),
}


@pytest.mark.parametrize(
    "name, content, message",
    [(name, *case)
     for name, cases in (("t.json", JSON_FILES), ("cl100k_base.tiktoken", TIKTOKEN_FILES))
     for case in cases.values()],
    ids=[*JSON_FILES, *TIKTOKEN_FILES],
)
def test_files_of_strangers(tmp_path, name, content, message):
    """Each is refused, in a line that names the file, or loaded, in memory in proportion to its
    size; what is loaded encodes."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    text = "a" * 3000 + LOOP + "<|reserved_1<aaa ab>" * 200
    tracemalloc.start()
    try:
        if message is not None:
            with pytest.raises(ValueError) as error:
                Encoding.load(path)
            assert str(path) in str(error.value) and message in str(error.value)
            assert len(str(error.value)) < 600 + len(str(path))
        else:
            tokenizer = Encoding.load(path)
            if all(bytes([b]) in tokenizer.ranks for b in range(256)):
                for special in ((), "all"):
                    ids = tokenizer.encode(text, allowed_special=special, disallowed_special=())
                    assert tokenizer.decode(ids) == text
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 25 * path.stat().st_size + 40e6, (
        f"{peak / 1e6:.0f} MB"
    )  # 40: ids up to 2^22; kinds of all characters


GPT2_FILES = [({"ab": 256}, "a b c", "merges.txt:1: 'a b c' is no pair"),
              ({"ab": 256}, "#version: 0.2\n\na", "merges.txt:3: 'a' is no pair"),
              ({"ab": 256}, "a a", "is not of two tokens"),
              ({"ab": 256}, "a b\nzz a", "is not of two tokens"),
              ({"ab": [256]}, "a b", "id [256] is no whole number"),
              ({"ab": {"a": {"b": 5}}}, "a b", "is no whole number"),
              ({"ab": 2**31}, "a b", "id 2147483648 is no whole number"),
              ({"": 256}, "", "none of them empty"),
              ({"ab": 256}, "x" * 10**6, "is no pair"),
              ({"ab": 256}, "x" * 10**6 + " a", "is not of two tokens"),
              ({"\ud800": 256}, "", "is not byte-level"),
              (5, "", "has no attribute"),
              ([1], "", "has no attribute")]


@pytest.mark.parametrize("vocab, merges, message", GPT2_FILES)
def test_gpt2_files_of_strangers(tmp_path, vocab, merges, message):
    (tmp_path / "vocab.json").write_text(
        json.dumps(BYTES | vocab if isinstance(vocab, dict) else vocab)
    )
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(ValueError) as error:
        Encoding.load(tmp_path / "vocab.json")
    assert str(tmp_path / "vocab.json") in str(error.value) and message in str(error.value)
    assert len(str(error.value)) < 600 + len(str(tmp_path))


@pytest.mark.parametrize("pattern", ["(?:a|a)+b", "(?:a|aa)+b", "(?:a|a|aa)+c"])
@pytest.mark.parametrize("length", [40, 6000])
def test_a_pattern_that_takes_exponential_time(tmp_path, monkeypatch, pattern, length):
    """The text decides: ids, or in time an error that names the file and the pattern; for short
    texts and for long ones."""
    monkeypatch.setattr(patterns, "SECONDS", 0.05)
    monkeypatch.setattr(patterns, "SECONDS_PER_CHARACTER", 1e-6)
    finder.cache_clear()
    (tmp_path / "t.json").write_text(json.dumps(crafted(pattern=pattern)))
    tokenizer = Encoding.load(tmp_path / "t.json")
    assert tokenizer.decode(tokenizer.encode("aab xaab")) == "aab xaab"
    options = ["--steps", "--vocab", str(tmp_path / "t.json")]
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_bytes(text.encode() + b"\xff"),
                   lambda text: bpe.show_command(bpe.parse_args(["show", text, *options]))):
        with pytest.raises(
            ValueError, match=regex.escape(f"{tmp_path / 't.json'}: pattern {pattern!r}"[:-1])
        ):
            encode("a" * length)
    assert tokenizer.encode("ab") == [97, 98]                   # and nothing of it stays
    finder.cache_clear()


def added(*tokens):
    """added_tokens of (name, what it is: special, normalized, lstrip, rstrip, single_word); ids
    from 256 on."""
    keys = ("special", *Flags._fields)
    return [{"id": 256 + i, "content": name, **{key: key in words for key in keys}}
            for i, (name, *words) in enumerate(tokens)]


def load_json(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return Encoding.load(tmp_path / "tokenizer.json")


NFC, LOWER = {"type": "NFC"}, {"type": "Lowercase"}
# Added tokens, normalizer, text, ids; tokenizers has the same (tests/peers/test_bpe_peers.py).
FOUND = {
    "in every text": ([("lamp",)], None, "a lampb", [97, 32, 256, 98]),
    "the longest": ([("<x>",), ("<x>b",)], None, "<x>b", [257]),
    "in the text as it is before in the normalised one": (
        [("<x>",), ("<x>b", "normalized")], None, "<x>b", [256, 98],
    ),
    "a name that is normalised": ([("<\u00e9>", "normalized")], NFC, "<e\u0301>", [256]),
    "a name that is not": ([("<\u00e9>",), ("xx",)], NFC, "xx<e\u0301>", [257, 60, 195, 169, 62]),
    "in small letters": ([("Big", "normalized"), ("ab",)], LOWER, "abBIGA", [257, 256, 97]),
    "white space before": ([("<m>", "lstrip")], None, "a \n<m> b", [97, 256, 32, 98]),
    "white space behind": ([("<m>", "rstrip")], None, "a <m>\u3000\tb", [97, 32, 256, 98]),
    "white space between two": (
        [("<m>", "rstrip"), ("<n>", "lstrip")], None, "<m>  <n>", [256, 257],
    ),
    "white space that is taken and is a token": (
        [("<m>", "rstrip"), ("  ",)], None, "<m>  b", [256, 257, 98],
    ),
    "a token of which nothing is left": (
        [("<m>", "rstrip"), ("\n", "lstrip")], None, "<m> \nb", [256, 98],
    ),
    "whole words": ([("ab", "single_word")], None, "ab ab, bab ab_ ab",
                    [256, 32, 256, 44, 32, 98, 97, 98, 32, 97, 98, 95, 32, 256]),
}


@pytest.mark.parametrize("tokens, normalizer, text, ids", FOUND.values(), ids=list(FOUND))
def test_added_tokens_are_found(tmp_path, tokens, normalizer, text, ids):
    ours = load_json(tmp_path, crafted(added=added(*tokens), normalizer=normalizer))
    assert (ours.encode_ordinary(text)
            == ours.encode(text)
            == ours.encode_batch([text])[0]
            == ours.encode_to_numpy(text).tolist()
            == ids)
    assert pickle.loads(pickle.dumps(ours)).encode(text) == ids
    ours.save(tmp_path / "tokenizer.json")
    again = Encoding.load(tmp_path / "tokenizer.json")
    assert (again.encode(text) == ids
            and again.fingerprint
            == ours.fingerprint
            != Encoding(ours.ranks, ours.pattern, {}, ours.normalize).fingerprint)
    special = load_json(
        tmp_path,
        crafted(added=added(*((*token, "special") for token in tokens)), normalizer=normalizer),
    )
    assert special.encode(text, allowed_special="all") == ids != special.encode_ordinary(text)


def test_added_words_are_text(tmp_path):
    ours = load_json(tmp_path, crafted(added=added(("lamp",), ("<end>", "special"))))
    assert (ours.words == {"lamp": 256}
            and ours.special_tokens == {"<end>": 257}
            and not ours.is_special_token(256)
            and ours.is_special_token(257))
    assert (ours.decode([256, 257]) == "lamp<end>"
            and ours.token_bytes[256] == b"lamp"
            and not len(ours.holes))
    assert (ours.encode_single_token("lamp") == ours.encode_single_token(b"lamp") == 256
            and ours.encode_single_token(b"<end>") == 257)
    assert ours.encode_ordinary("a lamp" * 2000) == [97, 32, 256] * 2000  # by arrays too
    assert ours.encode_bytes(b"lamp\xff") == [256, 255] and ours.encode_with_unstable("a lamp") == (
        [97, 32, 256],
        [],
    )
    with pytest.raises(ValueError, match="save as tokenizer.json"):
        Encoding(ours.ranks, "gpt2", {}, words={"lamp": 256}).save(tmp_path / "vocab.json")


@pytest.mark.parametrize(
    "tokens, rest, message",
    [([("<\u00e9>", "normalized"), ("<e\u0301>", "normalized")],
      {"normalizer": NFC},
      "two are equal"),
     ([("  ", "normalized")],
      {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
      "one is empty when it is normalised"),
     ([("ab", "single_word")],
      {"vocab": {"ab": 256}},
      "with ignore_merges also a piece that no merges make")],
)
def test_added_tokens_that_could_mean_two_things(tmp_path, tokens, rest, message):
    with pytest.raises(ValueError, match=message):
        load_json(tmp_path, crafted(added=added(*tokens), **rest))


def test_an_added_token_that_merges_make_too(tmp_path):
    tokens = [{"id": 256, "content": "ab", "special": False, "single_word": True},
              {"id": 97, "content": "a", "special": False}]
    ours = load_json(tmp_path, crafted({"ab": 256}, [["a", "b"]], tokens[:1]))
    assert ours.encode("ab cab") == [256, 32, 99, 256]
    assert load_json(tmp_path, crafted({"ab": 256}, [["a", "b"]], tokens[1:])).encode("ab ba") == [
        97, 98, 32, 98, 97,
    ]


def test_words_behind_special_tokens_that_come_first(tmp_path):
    """As when words are added to Pythia's vocabulary: NFC, and <|endoftext|> is 0."""
    ranks = {bytes([b]): b + 1 for b in range(256)}
    ours = Encoding(ranks, "gpt2", {"<|endoftext|>": 0, "<x>": 258}, "NFC", {"lamp": 257})
    ours.save(tmp_path / "tokenizer.json")
    again = Encoding.load(tmp_path / "tokenizer.json")
    assert again.fingerprint == ours.fingerprint and again.encode_ordinary("a lamp") == [
        98, 33, 257,
    ]
    vocab = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert vocab["<|endoftext|>"] == 0 and "lamp" not in vocab


def pre(*steps):
    return {"type": "Sequence",
            "pretokenizers": [*steps,
                              {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}


def regex_split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


GPT2_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
# pre_tokenizer, text, pieces; the first five are the examples of tokenizers' documentation.
CUTS = {
    "Removed": (
        pre(regex_split("-", "Removed")), "the-final--countdown", ["the", "final", "countdown"],
    ),
    "Isolated": (
        pre(regex_split("-")), "the-final--countdown", ["the", "-", "final", "-", "-", "countdown"],
    ),
    "MergedWithPrevious": (pre(regex_split("-", "MergedWithPrevious")), "the-final--countdown",
                           ["the-", "final-", "-", "countdown"]),
    "MergedWithNext": (pre(regex_split("-", "MergedWithNext")), "the-final--countdown",
                       ["the", "-final", "-", "-countdown"]),
    "Contiguous": (pre(regex_split("-", "Contiguous")), "the-final--countdown",
                   ["the", "-", "final", "--", "countdown"]),
    "inverted": (pre(regex_split(r"\p{L}+", "Removed", True)), "a1bc2", ["a", "bc"]),
    "a text for a pattern": (
        pre({"type": "Split", "pattern": {"String": "."}, "behavior": "Isolated", "invert": False}),
        "a.b",
        ["a", ".", "b"],
    ),
    "the next cuts what is left": (
        pre(regex_split(r"\p{N}{1,3}"), regex_split(r"\p{L}+|\s+(?!\S)|\s+")),
        "ab  1234 !c",
        ["ab", "  ", "123", "4", " ", "!", "c"],
    ),
    "places": (pre(regex_split("(?=[A-Z])")), "fooBarB", ["foo", "Bar", "B"]),
    "lines": (pre(regex_split(r"^a+$")), "aa\na\nba", ["aa", "\n", "a", "\nba"]),
    "digits": ({"type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": True}, GPT2_BYTE_LEVEL]},
               "a 12\u00b2b's",
               ["a", " ", "1", "2", "\u00b2", "b", "'s"]),
    "runs of digits": (pre({"type": "Digits"}), "a12b", ["a", "12", "b"]),
    "punctuation": (pre({"type": "Punctuation", "behavior": "Contiguous"}),
                    "a?!b$\u061dc",
                    ["a", "?!", "b", "$", "\u061dc"]),
    "white space": (pre({"type": "WhitespaceSplit"}), " a\u3000b", ["a", "b"]),
    "words": (pre({"type": "Whitespace"}), "Hey, man_1!?", ["Hey", ",", "man_1", "!?"]),
    "a delimiter": (pre({"type": "CharDelimiterSplit", "delimiter": "|"}), "a||b", ["a", "b"]),
    "a space before": (
        {"type": "ByteLevel", "add_prefix_space": True},
        "the end",
        [" the", " end"],
    ),
    "no space before a space": ({"type": "ByteLevel", "add_prefix_space": True}, " the", [" the"]),
    "a space before each": ({"type": "Sequence",
                             "pretokenizers": [{"type": "WhitespaceSplit"},
                                               {"type": "ByteLevel", "add_prefix_space": True}]},
                            "a b",
                            [" a", " b"]),
    "none": ({"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}, "a b", ["a b"]),
    "bytes, and then": (
        {"type": "Sequence",
         "pretokenizers": [GPT2_BYTE_LEVEL, {"type": "Digits", "individual_digits": True}]},
        "\u00b2 1",
        ["\u00b2".encode()[:1], "\u00b2".encode()[1:], b" ", b"1"],
    ),
}  # the second byte of ² is written ²


@pytest.mark.parametrize("pre_tokenizer, text, pieces_of_it", CUTS.values(), ids=list(CUTS))
def test_cuts(tmp_path, monkeypatch, pre_tokenizer, text, pieces_of_it):
    """Each piece is a token; short texts and long ones, and after saving."""
    tokens = [piece.encode() if isinstance(piece, str) else piece for piece in pieces_of_it]
    ranks = {token: 256 + i
             for i, token in enumerate(dict.fromkeys(token for token in tokens if len(token) > 1))}
    vocab = {to_characters(token): i for token, i in ranks.items()}
    ours = load_json(
        tmp_path,
        crafted(vocab,
                pre_tokenizer=pre_tokenizer,
                merges=[
                    list(map(to_characters, pair))
                    for pair in huggingface.all_merges({bytes([b]): b for b in range(256)} | ranks)
                ]),
    )
    want = [ranks.get(token, token[0]) for token in tokens]
    for _ in range(2):
        for short in (0, 10**9):
            monkeypatch.setattr(encoder, "SHORT_TEXT", short)
            assert ours.encode_ordinary(text) == want and ours.encode_ordinary_batch(
                ["", text, "", text]
            ) == [[], want, [], want]
        ours.save(tmp_path / "tokenizer.json")
        again = Encoding.load(tmp_path / "tokenizer.json")
        assert again.pattern == ours.pattern and again.fingerprint == ours.fingerprint
        ours = again


@pytest.mark.parametrize(
    "normalizer, text, normal",
    [({"type": "Sequence", "normalizers": []}, "\uff21e\u0301", "\uff21e\u0301"),
     ({"type": "NFD"}, "\u00e9", "e\u0301"),
     ({"type": "NFKC"}, "\uff21e\u0301", "A\u00e9"),
     (LOWER, "\u039f\u03a3 \u0130", "\u03bf\u03c3 i\u0307"),
     ({"type": "Sequence", "normalizers": [{"type": "NFKD"}, LOWER]}, "\uff21\u00e9", "ae\u0301"),
     ({"type": "Strip", "strip_left": True, "strip_right": False}, " a ", "a "),
     ({"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "_"}, "a \n b c", "a_b_c"),
     ({"type": "Replace", "pattern": {"String": "."}, "content": "\\1"}, "a.b", "a\\1b"),
     ({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"}, NFC]},
      "e\u0301",
      "_\u00e9"),
     ({"type": "Prepend", "prepend": "_"}, "", "")],
)
def test_normal_forms(tmp_path, normalizer, text, normal):
    ours = load_json(tmp_path, crafted(normalizer=normalizer))
    assert ours.encode(text) == list(normal.encode())
    ours.save(tmp_path / "tokenizer.json")
    assert Encoding.load(tmp_path / "tokenizer.json").normalize == ours.normalize


@pytest.mark.parametrize(
    "pattern",
    [r"\h", r"[a[^b]]", r"[a[]b]]", r"[!-[b]]", r"[[a]-c]", r"[a&&[b]]", r"[a&&b]", r"(?m:.)",
     r"a{1,2}+", r"a{2}?", r"(?i:i)", r"(?i:ss)", r"(?i:[a-c])",
     r"(?i:\u00df)".encode().decode("unicode_escape"), r"a(?i)b", r"[\W]", r"\p{InGreek}", r"\G",
     r"\X", r"[[:punct:]]", r"\xe9"],
)
def test_patterns_that_mean_something_else_elsewhere(tmp_path, pattern):
    with pytest.raises(ValueError, match="which means something else in tokenizer.json"):
        load_json(tmp_path, crafted(pattern=pattern + "+" if pattern.endswith("]") else pattern))


def test_normal_forms_that_take_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    monkeypatch.setattr(patterns, "SECONDS_PER_CHARACTER", 1e-6)
    tenfold = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    ours = load_json(
        tmp_path, crafted(normalizer={"type": "Sequence", "normalizers": [tenfold] * 9})
    )
    with pytest.raises(
        ValueError, match="tokenizer.json: normalised, a text is more than 20 times as long"
    ):
        ours.encode("a" * 1000)
    ours = load_json(
        tmp_path,
        crafted(
            normalizer={"type": "Replace", "pattern": {"Regex": "(?:a|a|aa)+c"}, "content": ""}
        ),
    )
    with pytest.raises(ValueError, match="tokenizer.json: pattern .* takes more than"):
        ours.encode("a" * 1000)


def test_what_a_call_asked_for_last_is_read_past(tmp_path):
    content = crafted(
        truncation={
            "direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0,
        },
        padding={"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None,
                 "pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
    )
    assert load_json(tmp_path, content).encode("abc" * 20) == list(b"abc" * 20)


def test_sentencepieces_vocabularies_are_refused_by_name(tmp_path):
    """Llama 2's form."""
    content = crafted(
        pre_tokenizer=None,
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
                            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}],
        },
        model_byte_fallback=True,
    )
    with pytest.raises(
        ValueError,
        match="pre_tokenizer null is not supported: this is no byte-level BPE, but one of "
        "characters, such as SentencePiece's",
    ):
        load_json(tmp_path, content)
