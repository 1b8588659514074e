"""tokens/added.py: special tokens and other names in a text; normal forms."""

import random
import time
import unicodedata

import pytest
import regex

from token_texts import trained
from bpe import Tokenizer
from tokens.added import LeaveOut, Names, normal_form


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


def test_names_are_found_from_the_left_the_longest_first():
    rng = random.Random(0)
    for _ in range(3000):
        names = {
            "".join(rng.choices("ab<|", k=rng.randint(1, 5))) for _ in range(rng.randint(1, 12))
        }
        text = "".join(rng.choices("ab<|c", k=rng.randint(0, 40)))
        pattern = "|".join(map(regex.escape, sorted(names, key=len, reverse=True)))
        assert list(Names(names).find(text)) == [
            (m.start(), m[0]) for m in regex.finditer(pattern, text)
        ]
    assert list(Names(()).find("text")) == []
    odd = ["]", "^", "-", "\\", "[", "\n", "\u4e2d"]
    assert [name for _, name in Names(odd).find("".join(odd))] == odd


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
        text = "".join(
            rng.choice(bases) + "".join(rng.choices(marks, k=rng.choice([0, 3, 40, 100])))
            for _ in range(4)
        )
        for form in ("NFC", "NFD"):
            assert normal_form(form, text) == unicodedata.normalize(form, text)

    def seconds(n):
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            Tokenizer({bytes([b]): b for b in range(256)}, "qwen2", {}, "NFC").encode(
                "a" + "\u0301\u0316" * n
            )
            best = min(best, time.process_time() - start)
        return best

    assert seconds(8000) < 8 * seconds(2000)


def test_bytes_without_a_token_are_left_out(tmp_path):
    """As tokenizers does: from each piece, which is cut with them. "!" and "!" join into "!!"."""
    ranks = {bytes([b]): b for b in range(256)} | {b"!!": 256, b"ab": 257}
    whole = Tokenizer(ranks, "gpt2", {"<x>": 258})
    odd = b"\x04\x7f\xf1"
    bare = {token: i for token, i in ranks.items() if not set(token) & set(odd)}
    lacking = Tokenizer(bare, "gpt2", {"<x>": 258}, (LeaveOut(odd.decode("latin-1")),))
    for text, left in (("ab", "ab"), ("a\x04b", None), ("!\x04!", "!!"), ("!\x7f\x04", "!"),
                       ("\x04", ""), ("", ""), ("ab <x>\x04 !", "ab <x> !")):
        ids = lacking.encode(text, allowed_special="all")
        expected = [97, 98] if left is None else whole.encode(left, allowed_special="all")
        assert ids == expected, text
        assert lacking.encode_many([text, "ab"])[1].tolist() == [257]
    assert lacking.encode_ordinary("\U00050000") == list("\U00050000".encode()[1:])
    lacking.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.normalize == lacking.normalize and again.fingerprint == lacking.fingerprint
    assert again.encode_ordinary("!\x04!") == [256]
