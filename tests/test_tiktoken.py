"""tokens/tiktoken.py: the rest of tiktoken's methods."""

import os
import pickle
import random

import numpy as np
import pytest

from tokens.tiktoken import Encoding
from token_texts import PROSE, encoding, trained


def test_single_tokens(trained):
    assert trained.encode_single_token("a") == trained.encode_single_token(b"a") == 97
    assert trained.encode_single_token("<|im_sep|>") == trained.special_tokens["<|im_sep|>"]
    assert trained.decode_single_token_bytes(trained.special_tokens["<|im_sep|>"]) == b"<|im_sep|>"
    for token in ("no such token", b"\xff\xfe"):
        with pytest.raises(KeyError):
            trained.encode_single_token(token)


@pytest.mark.parametrize(
    "text, offsets",
    [("hello world", [0, 5]),
     ("hello world<|endoftext|> green cow", [0, 5, 11, 24, 30]),
     ("我非常渴望与人工智能一起工作", [0, 1, 2, 3, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 13]),
     ("நடிகர் சூர்யா", [0, 0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 9, 10, 11, 12, 12]),
     (" Ġ除", [0, 1])],
)
def test_offsets(text, offsets):
    cl100k = encoding("cl100k_base")
    ids = cl100k.encode(text, allowed_special="all")
    assert cl100k.decode_with_offsets(ids) == (text, offsets)
    shared = [
        len(os.path.commonprefix([text, cl100k.decode(ids[:k], "ignore")])) for k in range(len(ids))
    ]
    assert offsets == shared


def test_digits_of_gpt2_and_the_talks_words():
    r50k, cl100k = encoding("r50k_base"), encoding("cl100k_base")
    assert [r50k.encode("0" * n) for n in range(1, 18)] == [
        [15], [405], [830], [2388], [20483], [10535], [24598], [8269], [10535, 830], [8269, 405],
        [8269, 830], [8269, 2388], [8269, 20483], [8269, 10535], [8269, 24598], [25645],
        [8269, 10535, 830],
    ]
    for text, ids in {
        "hello world": [15339, 1917], "Hello world": [9906, 1917], "helloworld": [71, 96392],
        " hello  world": [24748, 220, 1917],
    }.items():
        assert cl100k.encode(text) == ids
    assert cl100k.n_vocab == 100_277 and cl100k.max_token_value == 100_276
    assert cl100k.encode_bytes(b" \xec\x8b\xa4\xed") == [62085]
    assert (cl100k.token_byte_values() == sorted(cl100k.ranks)
            and cl100k.is_special_token(100257)
            and not cl100k.is_special_token(5))
    assert cl100k.special_tokens_set == set(cl100k.special_tokens)


def test_batches_and_bytes():
    trained = Encoding.train([PROSE], 340)
    rng = np.random.default_rng(1)
    texts = ["",
             "a",
             PROSE,
             "<|im_end|>",
             "\ud800",
             *("".join(map(chr, rng.integers(32, 0x2000, 300))) for _ in range(50))]
    for n in (1, 2, 3):
        assert trained.encode_ordinary_batch(texts, num_threads=n) == list(
            map(trained.encode_ordinary, texts)
        )
    assert trained.encode_batch(["a<|im_end|>", ""], allowed_special="all") == [
        trained.encode("a<|im_end|>", "all"),
        [],
    ]
    with pytest.raises(ValueError, match="special token"):
        trained.encode_batch(["a", "<|im_end|>"])
    assert trained.decode_batch(trained.encode_ordinary_batch([PROSE, "é"])) == [PROSE, "é"]
    assert trained.encode_ordinary_batch([]) == []
    for _ in range(300):
        data = rng.bytes(rng.integers(0, 30)) + b" and \xe4\xb8" * rng.integers(0, 2) + rng.bytes(3)
        assert trained.decode_bytes(trained.encode_bytes(data)) == data
    assert [trained.decode_bytes(trained.encode_bytes(b"\x80" * n)) for n in range(10)] == [
        b"\x80" * n for n in range(10)
    ]


def test_what_may_follow():
    """Of a text and of all that goes on from it the first ids are the same, and the next begin with
    one of those named."""
    trained = Encoding.train([PROSE], 400, "cl100k")
    rng = random.Random(5)
    for _ in range(150):
        at = rng.randrange(len(PROSE) - 60)
        text, rest = PROSE[at:at + rng.randint(0, 12)], PROSE[at + 12:at + 30]
        stable, completions = trained.encode_with_unstable(text)
        assert text.encode().startswith(trained.decode_bytes(stable))
        assert all(
            trained.decode_bytes(stable + some).startswith(text.encode()) for some in completions
        )
        for more in ("", rest, PROSE[at + len(text):][:9], "x", " ", "\n", "12"):
            ids = trained.encode(text + more)
            assert ids[: len(stable)] == stable and (
                not completions
                or any(ids[len(stable) :][: len(some)] == some for some in completions)
            )
    assert trained.encode_with_unstable("went<|im_end|>", allowed_special="all") == (
        trained.encode("went<|im_end|>", "all"),
        [],
    )
    assert trained.encode_with_unstable("") == ([], [])
    with pytest.raises(ValueError, match="special token"):
        trained.encode_with_unstable("<|im_end|>")


def test_names_arguments_and_errors_of_tiktoken(tmp_path):
    trained = Encoding.train([PROSE], 320)
    text = "went<|im_end|>"
    assert (trained.encode_to_numpy(text, allowed_special="all").tolist()
            == trained.encode(text, allowed_special={"<|im_end|>"})
            == trained.encode_ordinary("went") + [315])
    assert trained.encode_to_numpy(text, disallowed_special=()).tolist() == trained.encode_ordinary(
        text
    )
    assert trained.encode_to_numpy(text, allowed_special="all").dtype == np.uint32
    with pytest.raises(ValueError, match="text contains the special token"):
        trained.encode_to_numpy(text)
    for wrong in (b"went", 5, None):
        with pytest.raises(TypeError):
            trained.encode(wrong)
        with pytest.raises(TypeError):
            trained.encode_ordinary(wrong)
    assert trained.decode_batch([[97], [98]], errors="strict", num_threads=2) == [
        "a",
        "b",
    ] and trained.decode_bytes_batch([[97]], num_threads=2) == [b"a"]
    trained.save(tmp_path / "tokenizer.json")
    assert Encoding.load(tmp_path / "tokenizer.json").name == str(tmp_path / "tokenizer.json")
    trained.save(tmp_path / "cl100k_base.tiktoken")
    named = Encoding.load(tmp_path / "cl100k_base.tiktoken")
    assert (named.name == pickle.loads(pickle.dumps(named)).name == "cl100k_base"
            and repr(named) == "<Tokenizer 'cl100k_base', 100,277 tokens>")
