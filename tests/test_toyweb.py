"""web/toyweb.py: the same world each time, whole or not at all, and every filter has its pages."""
import gzip
import json
import random
import re
import runpy
import subprocess
import sys

import pytest

import data
from run import disk, runs
from web import pipeline
from web import toypages
from web import toyweb
from web import warc
from conftest import ROOT, kill_and_rerun, run_script
from toy_world import N, files, world  # noqa: F401


def test_same_seed_same_bytes_another_seed_another_world(world, tmp_path):
    run, truth = world
    assert toyweb.write(tmp_path / "again", N, seed=0) == truth
    assert files(tmp_path / "again") == files(run)
    assert not set(toyweb.write(tmp_path / "other", N, seed=1)) <= set(truth)


def test_the_bytes_are_those_of_every_python():
    """The tenth byte of a gzip header names the system.

    gzip.compress() writes 255 in Python 3.10 and 3.13, and 3 in between.
    """
    assert warc.gzip_member(b"text", 6)[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\x03"


@pytest.mark.parametrize("seed", [0, 1])
def test_the_pipeline_finds_the_truth(tmp_path, capsys, seed):
    run, n_pages = tmp_path, 1200       # so many that one page is under 5 % of its kind
    toyweb.write(run, n_pages, seed)
    data.main(["--run", str(run), "--blocklist", str(run / "blocklist")])
    capsys.readouterr()
    right = toyweb.score(run, seed, n_pages)
    assert right, capsys.readouterr().out
    with gzip.open(run / "docs/000000.jsonl.gz", "rt", encoding="utf-8") as f:
        docs = [json.loads(line) for line in f]
    addresses = [d
        for d in docs if re.search(r"@(pellwick|tullmere|oskford)\.com|\b8\.\d+\.\d+\.\d+\b",
            d["text"])]
    assert not addresses
    (run / "docs/dropped.tsv.gz").unlink()
    with pytest.raises(FileNotFoundError, match="python data.py"):
        toyweb.score(run, seed, n_pages)


def test_killed_at_any_moment_ends_with_the_same_bytes(world, tmp_path):
    kill_and_rerun("web/toyweb.py", ["--run", tmp_path, "--pages", N], random.Random(2),
        slowest=0.6)
    assert files(tmp_path) == files(world[0])


def test_bad_input(tmp_path):
    done = run_script("web/toyweb.py", "--run", tmp_path, "--pages", "5")
    assert done.returncode != 0 and "--pages 5" in done.stderr and not list(tmp_path.iterdir())
    done = run_script("web/toyweb.py", "--run", tmp_path, "--seed", "-1")
    assert done.returncode != 0 and "--seed -1: must be" in done.stderr
    assert not list(tmp_path.iterdir())
    done = run_script("web/toyweb.py", "--run", tmp_path / "none", "--score")
    assert done.returncode != 0 and "python data.py" in done.stderr


def test_a_failed_write_leaves_what_was_there(world, tmp_path, monkeypatch):
    toyweb.write(tmp_path, N, seed=0)
    written = []

    def full(path, data):
        written.append(path)
        if path.suffix == ".gz":
            raise OSError(28, "No space left on device")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    monkeypatch.setattr(toyweb, "write_file", full)
    with pytest.raises(OSError, match="No space left"):
        toyweb.write(tmp_path, N, seed=1)
    assert len(written) > 5 and files(tmp_path) == files(world[0])
    with pytest.raises(OSError, match="No space left"):
        toyweb.write(tmp_path / "fresh", N, seed=1)
    assert not files(tmp_path / "fresh")


def test_another_world_takes_the_place_of_the_old_one_and_of_nothing_else(tmp_path, capsys):
    toyweb.write(tmp_path, 1200, seed=0)
    (tmp_path / "crawl/mine.warc.gz").write_bytes(gzip.compress(b"WARC/1.0\r\nof the user"))
    (tmp_path / "crawl/000007.warc.gz").write_bytes(b"not even gzip")
    truth = toyweb.write(tmp_path, N, seed=1)
    assert sorted(p.name for p in (tmp_path / "crawl").iterdir()) == ["000000.warc.gz",
        "000007.warc.gz", "mine.warc.gz"]
    (tmp_path / "crawl/000007.warc.gz").unlink()
    (tmp_path / "crawl/mine.warc.gz").unlink()
    urls = {r.url for r in warc.read_warc(tmp_path / "crawl/000000.warc.gz") if r.type
        == "response"}
    assert urls == set(truth)


def test_the_score_counts_documents_of_another_world(tmp_path, capsys):
    docs = tmp_path / "docs"
    docs.mkdir()
    urls = [p.url for p in toypages.pages(0, N)][:50] + ["http://elsewhere.example/"]
    with gzip.open(docs / "000000.jsonl.gz", "wt", encoding="utf-8") as f:
        f.writelines(json.dumps({"url": url}) + "\n" for url in urls)
    with gzip.open(docs / "dropped.tsv.gz", "wt", encoding="utf-8") as f:
        f.write("")
    assert not toyweb.score(tmp_path, 0, N)
    assert "\n1 documents are of no page of this world" in capsys.readouterr().out


def test_a_world_that_was_killed_while_it_moved_is_refused_by_readers_and_finished_by_the_next(
    world, tmp_path, monkeypatch):
    toyweb.write(tmp_path, N, seed=1)
    replace, calls = disk.replace, []

    def until_third(old, new):
        calls.append(new)
        if len(calls) == 4:                             # the first is of the list of moves
            raise KeyboardInterrupt
        replace(old, new)

    monkeypatch.setattr(disk, "replace", until_third)
    with pytest.raises(KeyboardInterrupt):
        toyweb.write(tmp_path, N, seed=0)
    monkeypatch.undo()
    assert not (tmp_path / toyweb.FIRST_WARC).exists()
    with pytest.raises(ValueError,
        match=f"its files were being replaced.*web.toyweb --run {re.escape(str(tmp_path))}"):
        pipeline.find_warcs([], tmp_path)
    toyweb.write(tmp_path, N, seed=0)
    assert files(tmp_path) == files(world[0])


def test_broken_pipe_and_interrupt(tmp_path, monkeypatch, capsys):
    process = subprocess.Popen([sys.executable, "-m", "web.toyweb", "--run", tmp_path, "--pages",
        "100"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        patch.setattr(runs, "start_clock", interrupt)
        patch.setattr(sys, "argv", ["toyweb.py"])
        runpy.run_path(toyweb.__file__, run_name="__main__")
    assert repr(caught.value) == "SystemExit(130)"
    assert capsys.readouterr() == ("", "toyweb.py: interrupted\n")
