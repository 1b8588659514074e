"""tokens/shards.py: documents to shards and back; damaged, stopped and killed."""

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import regex

from conftest import ROOT
from token_texts import PROSE, run_bpe, trained, write_documents
from bpe import Tokenizer
from model import corpus
from run import runs
from tokens import shards
from tokens.patterns import PATTERNS

GOOD = b'{"text": "hello hello"}\n'


def read_tokens(run, split):
    paths = sorted((run / "tokens").glob(f"{split}_*.bin"))
    return paths, np.concatenate([shards.open_shard(path) for path in paths])


def documents_in(tokens, eot):
    starts = np.flatnonzero(tokens == eot)
    assert starts[0] == 0
    return [part[1:].tolist() for part in np.split(tokens, starts[1:])]


def test_shards_round_trip(tmp_path, trained):
    ids = np.random.default_rng(7).integers(0, trained.n_vocab, 1000)
    path = tmp_path / "train_000000.bin"
    shards.write_shard(path, ids, trained)
    opened = shards.open_shard(path)
    assert isinstance(opened, np.memmap) and opened.dtype == np.uint16 and (opened == ids).all()
    assert shards.shard_info(path) == (1000, np.uint16, 340, trained.fingerprint)
    raw = np.fromfile(path, np.int32, 256)                  # llm.c's own reading of the file
    assert raw[:4].tolist() == [20240520, 1, 1000, 340]
    assert raw[4:6].tobytes().hex() == trained.fingerprint and not raw[6:].any()
    assert (np.fromfile(path, np.uint16, offset=1024) == ids).all()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_wide_and_foreign_shards(tmp_path):
    path = tmp_path / "x.bin"
    wide = Tokenizer({b"a": 0, b"b": 2**16}, "characters", {})
    shards.write_shard(path, [0, 1], wide)
    assert np.fromfile(path, np.int32, 3).tolist() == [20240801, 7, 2]
    assert shards.shard_info(path)[:3] == (2, np.uint32, 2**16 + 1)
    for ids, dtype in (([0, 65535], np.uint16), ([0, 65536], np.uint32)):
        shards.write_shard(path, np.array(ids))
        assert shards.shard_info(path) == (2, dtype, 0, "0" * 16)
        assert shards.open_shard(path).tolist() == ids


@pytest.mark.parametrize("ids", [[340], [-1], [], [[1]], [1.0]])
def test_bad_ids_make_no_shard(tmp_path, trained, ids):
    with pytest.raises(ValueError, match="x.bin"):
        shards.write_shard(tmp_path / "x.bin", np.array(ids), trained)
    assert not list(tmp_path.iterdir())


def test_damaged_shards(tmp_path, trained):
    path = tmp_path / "tokens" / "train_000000.bin"
    path.parent.mkdir()
    remedy = regex.escape(f"python bpe.py encode --run {tmp_path}")
    with pytest.raises(FileNotFoundError, match=remedy):
        shards.open_shard(path)
    shards.write_shard(path, np.arange(10), trained)
    good = path.read_bytes()
    for content, message in (
            (good[:-1], "has 1043 bytes, but its header's 10 tokens make 1044"),
            (good + b"\0\0", "has 1046 bytes, but its header's 10 tokens make 1044"),
            (good[:100], "has 100 bytes"), (b"", "magic 0 version 0"),
            (b"\1" + good[1:], "is no token shard's"),
            (good[:8] + bytes(4) + good[12:1024], "its header's 0 tokens make 1024"),
            (good[:8] + b"\xff" * 4 + good[12:1022], "its header's -1 tokens make 1022"),
            (good[:4] + b"\2" + good[5:], "magic 20240520 version 2 is no token shard's")):
        path.write_bytes(content)
        for function in (shards.shard_info, shards.open_shard):
            with pytest.raises(ValueError, match=regex.escape(message) + ".*" + remedy) as caught:
                function(path)
            assert str(path) in str(caught.value)


def test_train_and_encode_commands(tmp_path, capsys):
    lines = write_documents(tmp_path, n=300)
    assert run_bpe(["train", "--run", str(tmp_path), "--vocab-size", "330"]) == 0
    assert "330 tokens" in capsys.readouterr().out
    arguments = ["encode", "--run", str(tmp_path), "--val-percent", "30", "--shard-tokens", "500"]
    assert run_bpe(arguments) == 0
    printed = capsys.readouterr()
    assert max(map(len, printed.out.splitlines())) <= 80
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.tiktoken")
    assert tokenizer.pattern == PATTERNS["digits"]

    expected, counts = {"train": [], "val": []}, {}
    for line in lines:
        digest = hashlib.sha256(line.get("id", line["text"]).encode()).digest()
        split = "val" if int.from_bytes(digest[:8], "big") % 100 < 30 else "train"
        expected[split].append(tokenizer.encode_ordinary(line["text"]))
    for split in ("train", "val"):
        paths, tokens = read_tokens(tmp_path, split)
        names = [f"{split}_{k:06d}.bin" for k in range(len(paths))]
        assert [path.name for path in paths] == names
        infos = [shards.shard_info(path) for path in paths]
        assert [info.n_tokens for info in infos[:-1]] == [500] * (len(paths) - 1)
        assert all(info.fingerprint == tokenizer.fingerprint for info in infos)
        assert documents_in(tokens, tokenizer.eot_token) == expected[split]
        counts[split] = len(tokens)
    assert f"{len(expected['train']) + len(expected['val'])} documents" in printed.out
    assert f"{counts['train'] + counts['val']:,} tokens" in printed.out
    assert f"{counts['train']:,} tokens for training, {counts['val']:,} for val" in printed.out

    # In another order, and in bigger shards: the same documents on each side, no old shard left.
    write_documents(tmp_path, n=300, reverse=True)
    assert run_bpe(arguments[:-2]) == 0
    for split in ("train", "val"):
        paths, tokens = read_tokens(tmp_path, split)
        assert len(paths) == 1
        assert documents_in(tokens, tokenizer.eot_token) == expected[split][::-1]
    assert sorted(path.name for path in (tmp_path / "tokens").iterdir()) == \
        ["train_000000.bin", "val_000000.bin"]


def test_text_files_and_other_inputs(tmp_path, capsys):
    text = "".join(f"line {i} of the text\n" for i in range(200))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    run = tmp_path / "run"
    inputs = ["--input", str(tmp_path / "a.txt"), "--run", str(run)]
    assert run_bpe(["train", *inputs, "--vocab-size", "300", "--pattern", "gpt4"]) == 0
    assert run_bpe(["encode", *inputs, "--val-percent", "10"]) == 0
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    assert tokenizer.ranks == Tokenizer.train([text], 300, "gpt4").ranks
    halves = [tokenizer.decode(read_tokens(run, split)[1]) for split in ("train", "val")]
    train, val = [half.removeprefix("<|endoftext|>") for half in halves]
    assert train + val == text and train.endswith("\n")
    assert 0.10 <= len(val) / len(text) < 0.11
    assert run_bpe(["encode", *inputs, "--val-percent", "0"]) == 0
    assert "no val documents" in capsys.readouterr().err
    assert not list((run / "tokens").glob("val_*"))
    write_documents(run, name="plain.jsonl")
    assert run_bpe(["encode", "--run", str(run)]) == 0


def test_encode_without_endoftext(tmp_path):
    (tmp_path / "a.txt").write_text("abcabc\n" * 50)
    for name in ("tokenizer.json", "tokenizer.tiktoken"):
        Tokenizer.characters("abc\n").save(tmp_path / name)
    assert run_bpe(["encode", "--run", str(tmp_path), "--input", str(tmp_path / "a.txt")]) == 0
    assert read_tokens(tmp_path, "train")[1][:8].tolist() == [1, 2, 3, 1, 2, 3, 0, 1]


def test_an_id_that_is_null_is_none(tmp_path):
    """Such documents do not all come to one side."""
    documents = [{"text": f"text {i}"} for i in range(40)]
    sides = []
    for name, more in (("a.jsonl", {}), ("b.jsonl", {"id": None})):
        path = tmp_path / name
        path.write_text("".join(json.dumps(document | more) + "\n" for document in documents))
        sides.append([split for split, _ in shards.read_documents(path, 50)])
    assert sides[0] == sides[1] and {"train", "val"} == set(sides[0])


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
    assert run_bpe([command, "--run", str(tmp_path)]) == 2
    *progress, error = capsys.readouterr().err.splitlines()
    assert error.startswith("bpe.py: error: ") and regex.search(message, error)
    assert str(tmp_path) in error or "empty corpus" in error
    assert all(line.startswith("bpe.py: reading ") for line in progress)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and "docs" not in path.parts]
    assert sorted(left) == before


def test_a_failed_encode_leaves_the_old_shards(tmp_path):
    write_documents(tmp_path)
    run = ["--run", str(tmp_path)]
    assert run_bpe(["train", *run]) == 0
    assert run_bpe(["encode", *run, "--shard-tokens", "300"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "tokens").iterdir()}
    (tmp_path / "docs" / "z.jsonl").write_bytes(b"{broken")
    assert run_bpe(["encode", *run]) == 2
    assert {path: path.read_bytes() for path in (tmp_path / "tokens").iterdir()} == before


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_encode_stopped_between_shards_leaves_no_mixture(tmp_path, monkeypatch, error):
    """Val of one --val-percent beside train of another would be the same documents twice."""
    write_documents(tmp_path)
    run = ["--run", str(tmp_path)]
    assert run_bpe(["train", *run]) == 0
    encode = ["encode", *run, "--shard-tokens", "300"]
    assert run_bpe([*encode, "--val-percent", "10"]) == 0
    tokens = tmp_path / "tokens"
    (tokens / "train_000003.bin.99-0123abcd.tmp").write_bytes(b"left by a kill")
    (tokens / "notes.txt").write_bytes(b"the user's")

    def files():
        return {
            p.name: p.read_bytes() for p in tokens.iterdir() if p.is_file() and p.name[0] != "."
        }

    before = {k: v for k, v in files().items() if not k.endswith(".tmp")}

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
                assert run_bpe([*encode, "--val-percent", "50"]) == 2
            else:
                with pytest.raises(KeyboardInterrupt):
                    run_bpe([*encode, "--val-percent", "50"])

    for at in (1, 2, 5):  # while the new ones are written: nothing has happened
        encode_stopped(stop(shards, "write_shard", at))
        assert files() == before and not (tokens / ".new").exists()
    encode_stopped(stop(runs.os, "replace", 12))        # while they take the places of the old ones
    assert "train_000000.bin" not in files()
    with pytest.raises(ValueError, match="its files were being replaced.*python bpe.py encode"):
        corpus.load_run(tmp_path, None)
    assert run_bpe([*encode, "--val-percent", "50"]) == 0
    after = files()
    assert {k for k in after if k.startswith("val")} != {k for k in before if k.startswith("val")}
    assert after["notes.txt"] == b"the user's" and not (tokens / ".new").exists()
    shutil.rmtree(tokens)
    assert run_bpe([*encode, "--val-percent", "50"]) == 0
    assert files() == {k: v for k, v in after.items() if k != "notes.txt"}


def test_killed_and_rerun_gives_the_same_bytes(tmp_path):
    """Kill train and encode at many moments: any file under its final name is whole, and a rerun
    mends the rest."""
    def command(run, *words):
        return [sys.executable, str(ROOT / "bpe.py"), *words, "--run", str(run)]

    def finals(run):
        return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*")
                if path.suffix in (".json", ".tiktoken", ".bin")
                and not {".new", ".train", ".encode"} & set(path.parts)}

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
