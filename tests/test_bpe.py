"""bpe.py: its definitions on their own, the Tokenizer, and the commands."""

import os
import pickle
import random
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import regex

import bpe
from conftest import ROOT, at_a_terminal, run_script
from token_texts import AWKWARD, PROSE, random_text, run_bpe, trained, write_documents
from run import command
from bpe import Tokenizer
from tokens import trainer
from tokens.patterns import PATTERNS
from tokens.trainer import TIES


# ---- the file alone ------------------------------------------------------------------------------

def run_alone(folder, old="", new=""):
    """`python bpe.py` in a folder with nothing else in it, with a change of its text."""
    text = (ROOT / "bpe.py").read_text(encoding="utf-8")
    assert not old or text.count(old) == 1
    (folder / "bpe.py").write_text(text.replace(old, new) if old else text, encoding="utf-8")
    return subprocess.run([sys.executable, "-I", "bpe.py"], cwd=folder, capture_output=True,
                          text=True, encoding="utf-8", env={"PYTHONIOENCODING": "utf-8"})


def test_alone_it_checks_itself_and_teaches(tmp_path):
    done = run_alone(tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.count("ok  ") == 9 and "WRONG" not in done.stdout
    assert "l|am|p| lamps|:" in done.stdout and "rank 322  ␣lowest" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("old, new", [
    ("rank, i = min(found)", "rank, i = max(found)"),
    ("pairs[left, right] += count ", "pairs[left, right] += 1 / count "),
    ("(-pairs[pair], pair)", "(-pairs[pair], -pair[0])"),
    ("best, len(tokens))\n", "best, len(tokens) - 1)\n"),
    ('if not special_tokens:\n', 'if special_tokens is None:\n        special_tokens = '
     '{"<|im_end|>": 330}\n    if not special_tokens:\n'),
    ('.decode("utf-8", errors="replace")\n\n\n# ----', '.decode("latin-1")\n\n\n# ----'),
    ('    r"\\s+",\n', ""),
    ("    return True\n", "    return len(token) <= 6\n"),
    ("    return True\n", '    return b"." not in token\n'),
    ("for pair in pairs if rule(", "for pair in pairs if True or rule("),
])
def test_alone_it_finds_its_faults(tmp_path, old, new):
    done = run_alone(tmp_path, old, new)
    assert done.returncode == 1 and ("WRONG" in done.stdout or "Error" in done.stderr)


def mixed(token):
    """Whether a token has both a digit and a letter."""
    return bool(regex.search(b"[0-9]", token) and regex.search(b"[A-Za-z]", token))


def test_a_rule_about_tokens(tmp_path):
    """A change that the file invites: no token with a digit and a letter."""
    done = run_alone(tmp_path, "    return True\n",
                     '    return not regex.search(b"[0-9][A-Za-z]|[A-Za-z][0-9]", token)\n')
    assert done.returncode == 0 and done.stdout.count("ok  ") == 9


@pytest.mark.parametrize("ties", TIES)
def test_a_rule_about_tokens_holds_for_both_trainers(ties, monkeypatch):
    """The fast trainer asks bpe.may_be_token, too, without a change of its own."""
    texts = ["a1 b2b2 ab12 ab12 12ab c3po r2d2 " * 5 + PROSE]
    free = Tokenizer.train(texts, 310, r"\S+|\s+", ties=ties)
    assert any(mixed(token) for token in free.ranks)
    monkeypatch.setattr(bpe, "may_be_token", lambda token: not mixed(token))
    ruled = Tokenizer.train(texts, 310, r"\S+|\s+", ties=ties)
    assert len(ruled.ranks) == 302 and not any(mixed(token) for token in ruled.ranks)
    assert all(ruled.decode(ruled.encode(text)) == text for text in texts)
    if ties == "rustbpe":
        counts = trainer.count_pieces(texts, r"\S+|\s+")
        assert list(ruled.ranks) == bpe.train(counts, 302)
        monkeypatch.setattr(bpe, "may_be_token", lambda token: False)
        assert len(bpe.train(counts, 300)) == len(trainer.train(counts, 300)) == 256


def test_commands_need_the_rooms(tmp_path):
    run_alone(tmp_path)
    done = subprocess.run([sys.executable, "-I", "bpe.py", "show", "x"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 1 and "need the folders tokens/" in done.stderr
    assert done.stderr.count("\n") == 1


# ---- the definitions -----------------------------------------------------------------------------

def test_the_pattern_is_the_default_one():
    assert bpe.PATTERN == PATTERNS["digits"]


def test_published_examples():
    assert bpe.train({b"aaabdaaabac": 1}, 259)[256:] == [b"aa", b"ab", b"aaab"]
    assert bpe.train({b"bbbaaaddddcccc": 1}, 260)[256:] == [b"cc", b"dd", b"aa", b"bb"]
    assert bpe.train({b"aaa": 10}, 300)[256:] == [b"aa", b"aaa"]
    assert bpe.train({b"ab": 1, b"cd": 2}, 257)[256:] == [b"cd"]
    assert bpe.train({}, 300) == bpe.train({b"a": 9}, 256) == [bytes([b]) for b in range(256)]
    assert bpe.merge({b"ab": 0, b"cd": 1}, b"abcd") == [b"ab", b"cd"]
    assert bpe.merge({b"ab": 256, b"abc": 257}, b"xabcab") == [b"x", b"abc", b"ab"]
    assert bpe.merge({b"bc": 0, b"ab": 1, b"abcd": 2}, b"abc") == [b"a", b"bc"]     # not greedy
    assert bpe.merge({b"ab": 0}, b"") == []
    tokens = [*(bytes([b]) for b in range(256)), b"se", b"he", b" t", b" the"]
    ranks = {token: i for i, token in enumerate(tokens)}
    assert bpe.encode("see the sea", ranks) == [256, 101, 259, 32, 256, 97]     # in the docstring
    steps = []
    bpe.merge({b"ab": 256, b"abc": 257}, b"abc", steps)
    assert steps == [(256, [b"ab", b"c"]), (257, [b"abc"])]


def test_special_tokens_come_only_from_programs():
    ranks = {bytes([b]): b for b in range(256)}
    text = "a<|im_end|>b<|im_end|><|im"
    assert bpe.encode(text, ranks) == list(text.encode())
    allowed = {"<|im": 900, "<|im_end|>": 901, "|": 902}
    assert bpe.encode(text, ranks, allowed) == [97, 901, 98, 901, 900]
    assert bpe.decode([65, 256, 66], [bytes([b]) for b in range(256)] + [b"\xe4\xb8"]) == "A\ufffdB"


# ---- the Tokenizer -------------------------------------------------------------------------------

def test_round_trips(trained):
    rng = np.random.default_rng(3)
    for text in AWKWARD + [random_text(rng, 40) for _ in range(300)]:
        ids = trained.encode_ordinary(text)
        assert trained.decode(ids) == text
        assert trained.decode_bytes(np.array(ids, np.uint32)) == text.encode()
        numpy_ids = trained.encode_to_numpy(text, disallowed_special=())
        assert numpy_ids.dtype == np.uint32 and numpy_ids.tolist() == ids
        assert all(type(i) is int for i in ids)


def test_decode_partial_characters_and_unknown_ids(trained):
    assert trained.decode([0xE9]) == "\ufffd"
    with pytest.raises(UnicodeDecodeError):
        trained.decode([0xE9], errors="strict")
    for unknown in (-1, 340, 10**9):
        with pytest.raises(KeyError):
            trained.decode([unknown])
        with pytest.raises(KeyError):
            trained.decode(np.array([unknown]))


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
        ids = trained.encode(text) + rng.choices(range(300), k=rng.randint(0, 6)) * rng.randint(
            0, 1
        )
        assert bpe.segments(ids, trained.token_bytes) == slow_segments(trained, ids)
    broken = [0x80] * 50_000  # bytes that no character has
    assert bpe.segments([97, *broken], trained.token_bytes) == [("a", [97]),
                                                                ("\ufffd" * len(broken), broken)]


def test_show_keeps_its_colours_and_spells_out_others(tmp_path, monkeypatch, capsys):
    Tokenizer({bytes([b]): b for b in range(256)}, "gpt4", {}).save(tmp_path / "t.json")
    monkeypatch.setattr(sys, "stdout", command.Terminal(sys.stdout))
    monkeypatch.setattr(command.Terminal, "isatty", lambda self: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    arguments = ["show", "a\x1b[2J", "--vocab", str(tmp_path / "t.json"), "--steps"]
    assert run_bpe(arguments) == 0
    said = capsys.readouterr().out
    assert "\x1b[30;48;5;153ma\x1b[0m" in said and "\\x1b" in said and "\x1b[2J" not in said


@pytest.mark.parametrize("columns", [80, 50])
@pytest.mark.parametrize("plain", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_show_fits_the_terminal(columns, plain, tmp_path, trained):
    """And its colours can be switched off. In a file nothing is broken."""
    folder = tmp_path / ("a" * 40)
    folder.mkdir()
    trained.save(folder / "t.json")
    text = "Once upon a time there was a little otter named Bo. " * 2
    words = ["bpe.py", "show", text, "--vocab", str(folder / "t.json"), "--steps"]
    said = at_a_terminal(words, columns, **plain)
    assert ("\x1b[" in said) == (not plain)
    coloured, *lines = said.splitlines()
    assert max(map(len, lines)) < columns
    ids = " ".join(lines[:-2]).partition("  'Once'")[0].split()
    assert ids == list(map(str, trained.encode(text)))
    assert lines[-1].split()[1:4] == ["104", "104", str(len(ids))]
    in_a_file = run_script(*words, env={**os.environ, "COLUMNS": str(columns)}).stdout
    assert in_a_file.splitlines()[1].split() == ids


def test_decode_and_show_commands(tmp_path, capsys, monkeypatch):
    write_documents(tmp_path)
    run = ["--run", str(tmp_path)]
    run_bpe(["train", *run])
    capsys.readouterr()
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.tiktoken")
    ids = tokenizer.encode("the little otter é")
    assert run_bpe(["decode", *map(str, ids), *run]) == 0
    assert capsys.readouterr().out == "the little otter é\n"
    monkeypatch.setattr("sys.stdin", __import__("io").StringIO(" ".join(map(str, ids))))
    assert run_bpe(["decode", *run]) == 0
    assert capsys.readouterr().out == "the little otter é\n"
    assert run_bpe(["show", "the little otter<|im_end|>", *run]) == 0
    text, ids, _, last = capsys.readouterr().out.splitlines()
    assert [int(i) for i in ids.split()] == tokenizer.encode("the little otter<|im_end|>", "all")
    assert text.replace("|", "") == "the little otter<|im_end|>".replace("|", "")
    assert last.split()[1:4] == ["26", "26", str(len(ids.split()))]
    for word, message in (("99999", "Invalid token for decoding: 99999"), ("-1", "'-1' is no"),
                          ("xyz", "'xyz' is no token id; ids are whole"), ("1.0", "'1.0' is no")):
        assert run_bpe(["decode", word, *run]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments, message", [
    (["train", "--vocab-size", "256"], "vocab_size 256: vocabulary smaller than 256 bytes and 8"),
    (["train", "--input", "nowhere.txt"], "nowhere.txt: No such file or directory"),
    (["train", "--input", __file__], f"{__file__}:1: cannot be read"),
    (["encode"], "tokenizer.tiktoken: no tokenizer; make it with: python bpe.py train --run"),
    (["encode", "--val-percent", "100"], "--val-percent 100 must be 0 to 99"),
    (["encode", "--shard-tokens", "0"], "--shard-tokens 0 1 or"),
    (["show", "x"], "python bpe.py train --run"),
])
def test_bad_arguments(tmp_path, capsys, arguments, message):
    write_documents(tmp_path)
    assert run_bpe([*arguments, "--run", str(tmp_path)]) == 2
    *progress, error = capsys.readouterr().err.splitlines()
    assert error.startswith("bpe.py: error: ") and message in error
    assert all(line.startswith("bpe.py: reading ") for line in progress)
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]


def test_closed_and_broken_streams(tmp_path, trained):
    """sh closes stdin or stdout; a reader that has enough, such as head, closes the pipe."""
    for name in ("tokenizer.json", "tokenizer.tiktoken"):
        trained.save(tmp_path / name)
    decode = f"{sys.executable} {ROOT / 'bpe.py'} decode --run {tmp_path}"
    for line, message in ((f"{decode} <&-", "stdin is closed"),
                          (f"{decode} 100 >&-", "stdout is closed")):
        done = subprocess.run(line, shell=True, capture_output=True, text=True)
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
