"""Texts that the tests of bpe.py and tokens/ share."""

import gzip
import json
import sys

import numpy as np
import pytest

import bpe
from conftest import SHARED
from run import command
from tokens.tiktoken import Encoding

# Short texts that are hard to cut or to encode.
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


def encoding(name):
    if not (SHARED / f"{name}.tiktoken").exists():
        pytest.skip(f"no {SHARED / name}.tiktoken; LONGHAND_DATA names another folder")
    return Encoding.load(name, folder=SHARED)


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


def run_bpe(arguments):
    """bpe.main as the command line runs it: errors go to stderr, and the exit code is 2."""
    try:
        return bpe.main(arguments)
    except (ValueError, OSError) as error:
        print(f"bpe.py: error: {command.message(error)}", file=sys.stderr)
        return 2


@pytest.fixture(scope="module")
def trained():
    """A small vocabulary of 340 tokens."""
    return Encoding.train([PROSE, "naïve café 请考试"], 340)
