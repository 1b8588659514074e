"""run/disk.py: files are whole after a kill or a power loss; damaged files are named."""

import errno
import gzip
import os
import subprocess
import sys
import threading
import time

import pytest

from run import disk, runs
from conftest import ROOT

# ---------------------------------------------------------------------------------------- reading


def test_reading_gives_back_what_was_written(tmp_path):
    disk.write_text(tmp_path / "a.json", '{"ä": [1, 2]}')
    assert disk.read_json(tmp_path / "a.json") == {"ä": [1, 2]}
    disk.write_text(tmp_path / "a.jsonl", '{"n": 1}\n\n{"n": 2}\n')
    assert disk.read_jsonl(tmp_path / "a.jsonl") == [(1, {"n": 1}), (3, {"n": 2})]
    (tmp_path / "a.gz").write_bytes(gzip.compress("ä\nb".encode()))
    assert list(disk.read_lines(tmp_path / "a.gz")) == ["ä\n", "b"]


DAMAGED = [
    (disk.read_json, b"{", r"a: not JSON \("),
    (disk.read_json, b"\xff", r"a: not JSON \("),
    (disk.read_json, b"[" * 10**5, r"a: not JSON \("),
    (disk.read_json, b"[1]", r"a: expected a JSON object, found '\[1\]'"),
    (disk.read_jsonl, b'{"n": 1}\n{"n": }\n', r"a:2: not JSON \("),
    (disk.read_jsonl, b"\n\n", "a: empty, there is nothing to learn from"),
    (disk.read_lines, b"one\n\xff\n", "a: not UTF-8 text .* at byte 4"),
]


@pytest.mark.parametrize("read, data, message", DAMAGED)
def test_a_damaged_file_is_named(tmp_path, read, data, message):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        list(read(tmp_path / "a"))


@pytest.mark.parametrize("spoil", [
    lambda data: data[:-4],                             # the end is missing
    lambda data: b"text" + data,                        # no gzip at all
    lambda data: data[:12] + b"\x00\xff" + data[14:],   # other bits
])
def test_a_damaged_gzip_file_is_named(tmp_path, spoil):
    (tmp_path / "a.gz").write_bytes(spoil(gzip.compress(os.urandom(1000).hex().encode())))
    with pytest.raises(ValueError, match=r"a\.gz: damaged gzip \(.*fetch or make it again"):
        list(disk.read_lines(tmp_path / "a.gz"))


def test_a_key_that_stands_twice_is_named():
    assert disk.distinct([("a", 1), ("b", 1)]) == {"a": 1, "b": 1}
    with pytest.raises(ValueError, match="the key 'a' stands twice"):
        disk.distinct([("a", 1), ("b", 1), ("a", 1)])


# ---------------------------------------------------------------------------------------- writing


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    calls = []
    fsync, rename = os.fsync, os.replace

    def watched_fsync(handle):
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def watched_replace(old, new):
        calls.append(("rename", str(old), str(new)))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    with disk.whole_file(tmp_path / "a") as f:
        f.write(b"x" * 100_000)
    tmp = calls[0][1]
    assert calls == [
        ("fsync", tmp),
        ("rename", tmp, str(tmp_path / "a")),
        ("fsync", str(tmp_path)),
    ]


def test_a_failed_write_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError):
        with disk.whole_file(tmp_path / "a") as f:
            f.write(b"half of the new")
            1 / 0
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"


def test_an_error_without_a_file_names_the_one_that_is_written(tmp_path):
    with pytest.raises(OSError, match="No space left on device: .*/a'"):
        with disk.whole_file(tmp_path / "a"):
            raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError, match="'other'"):
        with disk.naming(tmp_path / "a"):
            open("other")


def test_writers_of_one_name_at_the_same_time_each_write_a_whole_file(tmp_path):
    path, texts = tmp_path / "a", [bytes([65 + k]) * 300_000 for k in range(4)]

    def write(text):
        for _ in range(20):
            with disk.whole_file(path) as f:
                for i in range(0, len(text), 50_000):
                    f.write(text[i:i + 50_000])

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for t in threads:
        t.start()
    while any(t.is_alive() for t in threads):
        if path.exists():
            assert path.read_bytes() in texts
    for t in threads:
        t.join()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


# ------------------------------------------------------------------------ what killed writers left


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    """Two stages may have the same folder, such as the run's."""
    with runs.locked(tmp_path, "toyweb.py"), disk.whole_file(tmp_path / "a") as f:
        f.write(b"whole")
        with runs.locked(tmp_path, "bpe.py train"):
            pass
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_a_dead_process_that_nobody_waited_for_is_dead(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    process.stdout.read()                               # to its end
    until = time.monotonic() + 20
    while disk.is_alive(process.pid):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert os.path.exists(f"/proc/{process.pid}")       # a zombie, until this
    process.wait()
    assert disk.is_alive(os.getpid()) and not disk.is_alive(2 ** 70)


HALF = """import os, sys
from run import disk
with disk.whole_file(sys.argv[1] + "/model.safetensors") as f:
    f.write(b"half")
    os.kill(os.getpid(), 9)
"""


def test_the_next_process_removes_what_a_killed_one_left(tmp_path):
    subprocess.run([sys.executable, "-c", HALF, str(tmp_path)], cwd=ROOT)
    (tmp_path / "notes.tmp").write_text("of the user")
    assert len(list(tmp_path.iterdir())) == 2
    disk.remove_temporaries(tmp_path, {"config.json"})    # the name of another file
    assert len(list(tmp_path.iterdir())) == 2
    with runs.locked(tmp_path, "x"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["notes.tmp"]
