"""tokens/by_tasks.py: several tasks make what one task makes, also when some are killed."""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from token_texts import run_bpe, trained, write_documents
from run import tasks
from tokens import by_tasks, shards, trainer

TRAIN = ["train", "--vocab-size", "400", "--workers", "1"]
ENCODE = ["encode", "--shard-tokens", "700", "--val-percent", "20", "--workers", "1"]


def seven_files(run):
    """Files of documents of unequal lengths, one of them empty, and one a .txt file."""
    for i, n in enumerate([3, 40, 0, 17, 90, 1]):
        write_documents(run, n=n, name=f"{i}.jsonl.gz", seed=i)
    (run / "z.txt").write_text("".join(f"line {i} of the text\n" for i in range(90)))
    return ["--input", *map(str, sorted((run / "docs").iterdir())), str(run / "z.txt")]


def made_in(run):
    """{name: bytes} of all files of a run but the documents, the work of tasks apart."""
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*")
            if path.is_file() and path.suffix != ".txt" and "docs" not in path.parts
            and not {".train", ".encode"} & set(path.parts)}


@pytest.fixture(scope="module", params=trainer.TIES)
def one_task(request, tmp_path_factory):
    """(ties, what one task makes)."""
    run = tmp_path_factory.mktemp("one")
    inputs = seven_files(run)
    assert run_bpe([*TRAIN, "--run", str(run), *inputs, "--ties", request.param]) == 0
    assert run_bpe([*ENCODE, "--run", str(run), *inputs]) == 0
    made = made_in(run)
    assert len(made) == len(list(run.rglob("*.bin"))) + 3 > 15
    assert not [path for path in run.rglob(".*")]
    return request.param, made


def test_the_shards_are_the_ids_of_all_documents_in_order(tmp_path, trained):
    trained.save(tmp_path / "tokenizer.json")
    trained.save(tmp_path / "tokenizer.tiktoken")
    _, *inputs = seven_files(tmp_path)
    expected = {"train": [], "val": []}
    for path in inputs:
        for split, text in shards.read_documents(Path(path), 20):
            expected[split] += [trained.eot_token, *trained.encode_ordinary(text)]
    assert run_bpe([*ENCODE, "--run", str(tmp_path), "--input", *inputs]) == 0
    for split, ids in expected.items():
        found = [shards.open_shard(path) for path in sorted(tmp_path.glob(f"tokens/{split}_*"))]
        assert np.concatenate(found).tolist() == ids
        assert {len(shard) for shard in found[:-1]} == {700}


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_any_number_of_tasks_makes_the_same_bytes(tmp_path, monkeypatch, one_task, n):
    """Phase by phase, as Slurm's arrays do it, the last task first. The blocks are small."""
    monkeypatch.setattr(by_tasks, "BATCH_CHARACTERS", 500)
    ties, expected = one_task
    inputs = seven_files(tmp_path)
    for command, more in ((TRAIN, ["--ties", ties]), (ENCODE, [])):
        words = [*command, *more, "--run", str(tmp_path), *inputs]
        for phase, who in by_tasks.PHASES[command[0]].items():
            for i in reversed(range(n)) if who == tasks.ALL else [0]:
                assert run_bpe([*words, "--phase", phase, "--task", f"{i}/{n}"]) == 0
    assert made_in(tmp_path) == expected


def command(run, words, *more):
    """The command line of a task."""
    return [sys.executable, str(ROOT / "bpe.py"), *words, "--run", str(run), *more]


@pytest.mark.parametrize("one_task", ["minbpe"], indirect=True)
@pytest.mark.parametrize("words", [TRAIN, ENCODE], ids=["train", "encode"])
def test_two_tasks_of_which_one_is_killed_twice(tmp_path, one_task, words):
    """At random moments. The other task waits, or works meanwhile."""
    ties, expected = one_task
    inputs = seven_files(tmp_path)
    more = [*inputs, "--ties", ties] if words is TRAIN else inputs
    if words is ENCODE:
        for name in ("tokenizer.json", "tokenizer.tiktoken", "tokenizer_config.json"):
            (tmp_path / name).write_bytes(expected[name])
    rng, start = random.Random(), time.monotonic()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    other = subprocess.Popen(command(tmp_path, words, *more, "--task", "1/2"), **quiet)
    mine = command(tmp_path, words, *more)
    env = {**os.environ, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
    for _ in range(2):
        killed = subprocess.Popen(mine, env=env, **quiet)
        try:
            killed.communicate(timeout=rng.uniform(0.3, 0.9))
        except subprocess.TimeoutExpired:
            killed.kill()
            killed.communicate()
    subprocess.run(mine, env=env, check=True, **quiet)
    assert other.wait(60) == 0, other.stderr.read()
    other.stderr.close()
    made = made_in(tmp_path)
    assert {name: made.get(name) for name in made} == {name: expected.get(name) for name in made}
    assert len(made) == (3 if words is TRAIN else len(expected)), time.monotonic() - start


def test_a_tokenizer_cut_short_leaves_nothing(tmp_path):
    """What the killed task left goes, and a temporary file of something else stays."""
    words = [*TRAIN, "--run", str(tmp_path), *seven_files(tmp_path)]
    for i in range(2):
        assert run_bpe([*words, "--phase", "count", "--task", f"{i}/2"]) == 0
    names = ["tokenizer.tiktoken", "tokenizer.json", "tokenizer_config.json", "notes.json"]
    left = [tmp_path / f"{name}.{2 ** 70}-00000000.tmp" for name in names]
    for path in left:
        path.touch()
    assert run_bpe([*words, "--phase", "merge", "--task", "0/2"]) == 0
    assert [path.exists() for path in left] == [False, False, False, True]
    assert all((tmp_path / name).exists() for name in names[:3])


@pytest.fixture
def two_tasks(tmp_path, trained):
    """The run folder of an encode that has yet to be done, and its words."""
    trained.save(tmp_path / "tokenizer.json")
    trained.save(tmp_path / "tokenizer.tiktoken")
    return tmp_path, [*ENCODE, "--run", str(tmp_path), *seven_files(tmp_path)]


def test_a_task_goes_on_where_it_was(two_tasks, monkeypatch):
    """Behind its last whole file, and behind its last shard. What is done is not done again."""
    run, words = two_tasks
    names = []

    def stop_at_the_fourth(real):
        def stopped(path, *args):
            names.append(path.name)
            if len(names) == 4:
                raise KeyboardInterrupt
            return real(path, *args)
        return stopped

    monkeypatch.setattr(by_tasks, "BATCH_CHARACTERS", 1)
    assert run_bpe([*words, "--phase", "encode", "--task", "1/2"]) == 0
    monkeypatch.setattr(shards, "read_documents", stop_at_the_fourth(shards.read_documents))
    with pytest.raises(KeyboardInterrupt):
        run_bpe([*words, "--task", "0/2"])
    assert run_bpe([*words, "--task", "0/2", "--phase", "encode"]) == 0
    assert names == ["0.jsonl.gz", "2.jsonl.gz", "4.jsonl.gz", "z.txt", "4.jsonl.gz", "z.txt"]

    names.clear()
    monkeypatch.setattr(shards, "write_shard", stop_at_the_fourth(shards.write_shard))
    with pytest.raises(KeyboardInterrupt):
        run_bpe([*words, "--task", "0/2"])
    assert run_bpe([*words, "--task", "0/2", "--phase", "cut"]) == 0
    assert names[3] == names[4] and len(set(names)) == len(names) - 1 > 5


def test_what_does_not_fit_the_work_is_refused(two_tasks, capsys):
    run, words = two_tasks

    def error_of(*more):
        capsys.readouterr()
        assert run_bpe([*words, *more]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert run_bpe([*words, "--phase", "encode", "--task", "1/2"]) == 0
    remedy = f"rm -r {run}/tokens/.encode/"
    for more in (["--task", "0/3"], []):        # another number of tasks
        said = error_of(*more)
        assert "begun by 2 tasks" in said and "--task 0/2" in said and remedy in said
    assert "--phase encode, which task 0/2 must do first" in error_of(
        "--phase", "cut", "--task", "1/2")
    path = run / "docs" / "1.jsonl.gz"          # other contents, of the same size
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert f"{path}: has changed since task 1/2 began; " in error_of("--task", "1/2")
    assert f"{path}: has changed" in error_of("--phase", "cut", "--task", "1/2")


def test_one_task_begins_anew_when_a_file_has_changed(two_tasks, monkeypatch):
    run, words = two_tasks
    assert run_bpe([*words, "--phase", "encode"]) == 0
    path = run / "z.txt"
    path.write_text(path.read_text().replace("line 3 ", "line 9 "))
    assert run_bpe(words) == 0
    made = made_in(run)
    shutil.rmtree(run / "tokens")
    assert run_bpe(words) == 0
    assert made_in(run) == made and not (run / "tokens" / ".encode").exists()


def test_a_finished_task_that_is_started_again_does_nothing(two_tasks, monkeypatch, capsys):
    run, words = two_tasks
    for phase, who in by_tasks.PHASES["encode"].items():
        for i in range(2 if who == tasks.ALL else 1):
            assert run_bpe([*words, "--phase", phase, "--task", f"{i}/2"]) == 0
    left = [path for path in (run / "tokens" / ".encode").rglob("*") if path.stat().st_size]
    assert sorted(path.name for path in left if path.is_file()) == [
        "files-of-0.json", "files-of-1.json", "tasks.json"]
    monkeypatch.setattr(shards, "read_documents", None)
    capsys.readouterr()
    assert run_bpe([*words, "--task", "1/2"]) == 0
    assert "task 1/2 has done its part, and all of the work is complete" in capsys.readouterr().out
    for path in (run / "tokens").glob("*.bin"):
        path.unlink()
    assert run_bpe([*words, "--task", "0/2"]) == 2
    assert "made is no longer there; to begin anew, end all tasks and" in capsys.readouterr().err


@pytest.mark.parametrize("name, message", [
    ("000001.train", "000001.train: has less than .* ids; to begin anew, end all tasks and run: "),
    ("000001.json", "000001.json: not JSON"),
])
def test_damaged_work_is_named(two_tasks, capsys, name, message):
    run, words = two_tasks
    assert run_bpe([*words, "--phase", "encode"]) == 0
    [path] = (run / "tokens" / ".encode").glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:-2])
    assert run_bpe(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, error)


def test_counts_in_a_file(tmp_path):
    counts = {b"a": 3, b"\0\0": 2**40, b"": 1, "안녕".encode(): 7, b"\0": 2}
    path = tmp_path / "000000.npz"
    by_tasks.save_counts(path, counts)
    assert list(by_tasks.load_counts(path).items()) == list(counts.items())
    good = path.read_bytes()
    for content in (b"", good[:-1], good[:40], b"x" * 99):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="000000.npz: damaged .*; to begin anew, end all task"):
            by_tasks.load_counts(path)


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="this system has no such files")
def test_a_pipe_is_read_once(tmp_path):
    """bpe.py train --input <(zcat a.jsonl.gz): only its name can be known beforehand."""
    lines = b'{"text": "hello hello"}\n' * 9
    for _ in range(2):
        done = subprocess.run(command(tmp_path, TRAIN, "--input", "/dev/stdin"), input=lines,
                              capture_output=True)
        assert done.returncode == 0 and b"of 136 merges" in done.stderr, done.stderr


def test_a_script_for_slurm(tmp_path, capsys):
    assert run_bpe(["encode", "--run", str(tmp_path), "--slurm", "5", "--val-percent", "3"]) == 0
    script = capsys.readouterr().out
    assert "for phase in encode cut publish; do" in script and "publish) last=0" in script
    words = f"bpe.py encode --run {tmp_path} --val-percent 3"
    assert f'{words} --phase "$PHASE" --task "$SLURM_ARRAY_TASK_ID/5"' in script
    assert not list(tmp_path.iterdir())
