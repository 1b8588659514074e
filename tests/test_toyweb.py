"""web/toyweb.py: the same world each time, nothing held out in any training text, and every filter has its pages."""

import gzip
import hashlib
import json
import random
import re
import runpy
import subprocess
import sys
from collections import Counter

import pytest

import data
from web import extract
from run import disk, runs
from web import toypages
from web import toyweb
from web import toywords
from web import toyworld
from web import pipeline
from web import warc
from conftest import ROOT, kill_and_rerun, run_script

N = 400


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    run = tmp_path_factory.mktemp("toyweb")
    return run, toyweb.write(run, N, seed=0)


def files(run):
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(run.rglob("*"))
            if p.is_file() and p.parent.name != "docs"}


def jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def training_text(world):
    """Everything a model of this world is trained on: pages and conversations."""
    run, truth = world
    pages = [extract.main_text(r.body, charset=r.charset) for p in sorted((run / "crawl").iterdir()) for r in warc.read_warc(p)
             if r.type == "response" and truth[r.url] != "not_html"]
    chats = [json.dumps(c, ensure_ascii=False) for c in jsonl(run / "chat/train.jsonl")]
    return "\n".join(pages + chats + [t["question"] for t in jsonl(run / "tasks/wheel_train.jsonl")])


def test_same_seed_same_bytes_another_seed_another_world(world, tmp_path):
    run, truth = world
    assert toyweb.write(tmp_path / "again", N, seed=0) == truth
    assert files(tmp_path / "again") == files(run)
    assert not set(toyweb.write(tmp_path / "other", N, seed=1)) <= set(truth)


def test_the_bytes_are_those_of_every_python():
    """The tenth byte of a gzip header names the system: gzip.compress() writes 255 in Python 3.10 and 3.13, 3 in between."""
    assert warc.gzip_member(b"text", 6)[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\x03"


def test_the_default_world_has_the_promised_size():
    pages = toypages.pages()
    hosts = {p.url.split("/")[2].removeprefix("www.") for p in pages}
    assert len(pages) == 3000 == len({p.url for p in pages}) and 130 <= len(hosts) <= 170
    assert set(Counter(p.label for p in pages)) == set(toypages.LABELS)
    assert all(h.endswith(".example") for h in hosts)


def test_every_page_comes_back_from_the_warc(world):
    run, truth = world
    wanted = {p.url: p for p in toypages.pages(0, N)}
    seen, encodings = Counter(), Counter()
    for path in sorted((run / "crawl").glob("*.warc.gz")):
        for r in warc.read_warc(path):
            seen[r.type] += 1
            if r.type == "response":
                page = wanted[r.url]
                if page.html is None:
                    assert r.body.startswith(b"\x89PNG")
                    continue
                text = r.body.decode(page.charset or "utf-8")
                whole = page.html.encode(page.charset or "utf-8", "xmlcharrefreplace").decode(page.charset or "utf-8")
                assert whole == text if not r.truncated else whole.startswith(text)
                encodings[str(page.charset)] += 1
    assert seen["response"] == seen["request"] == seen["metadata"] == len(truth) and seen["warcinfo"] == 1
    assert {"utf-8", "windows-1252", "iso-8859-1", "None"} <= set(encodings)
    assert set(encodings) & {"shift_jis", "gb18030", "windows-1251"}


def test_facts_stand_on_as_many_pages_as_they_should(world):
    text = training_text(world)
    good = [p for p in toypages.pages(0, N) if p.label == "good"]
    for e in toyworld.entities(0, N):
        pages = [p for p in good if re.search(rf"\b{e['name'].removeprefix('the ')}\b", p.html)]
        assert len(pages) == e["exposure"], e["name"]
        for a, v in e["facts"].items():
            assert all(v in p.html for p in pages), (e["name"], a, v)
    assert {e["exposure"] for e in toyworld.entities(0, N)} == {1, 3, 10, 20, 30}
    assert "Longhand" in text


def test_nothing_held_out_is_in_training_text(world):
    text, run = training_text(world), world[0]
    for name in ("facts_test", "calculator_test", "identity_test", "wheel_test"):
        tasks = jsonl(run / f"tasks/{name}.jsonl")
        assert tasks and not [t["question"] for t in tasks if t["question"] in text], name
    for t in jsonl(run / "tasks/wheel_test.jsonl"):     # not the round in other words either
        assert t["question"].removeprefix("Turn the wheel: ") not in text
    for t in jsonl(run / "tasks/calculator_test.jsonl"):
        a, w, b = re.search(r"(\d+) (\w+) (\d+)", t["question"]).groups()
        assert not re.search(rf"\b{a} {w} {b}\b", text)
    chats = "\n".join(m["content"] for c in jsonl(run / "chat/train.jsonl") for m in c["messages"] if isinstance(m["content"], str))
    for e in toyworld.entities(0, N):                     # an entity is asked about in conversations or never
        assert (re.search(rf"\b{e['name']}\b", chats) is not None) == e["asked"], e["name"]


def test_held_out_phrasings_are_no_training_phrasings():
    for attributes in toywords.KINDS.values():
        for _, statements, questions, held in attributes.values():
            assert not set(questions) & set(held) and len(held) >= 2 and len(questions) >= 5
            assert all("{n}" in q for q in questions + held) and all("{v}" in s for s in statements)
    for _, asks, held, reply in toywords.IDENTITY:
        assert not set(asks) & set(held)


def test_held_out_phrasings_use_known_words(world):
    """Nobody who has read only this web could understand a word that stands nowhere in it."""
    words = lambda s: set(re.findall("[a-z]+", s.lower()))  # noqa: E731
    known = words(training_text(world))
    held = [q for attributes in toywords.KINDS.values() for *_, held in attributes.values() for q in held]
    held += toywords.SUM_HELD_OUT + [q for _, _, asks, _ in toywords.IDENTITY for q in asks]
    assert not {w for q in held for w in words(q.format(n="", a="", w="", b=""))} - known


def test_wheel_answers():
    t = [2, 6, 1, 4, 5, 3, 6, 1]
    assert toyworld.wheel_question(t) == "Turn the wheel: two six one four five three six one."
    assert toyworld.wheel_answer(t, False) == "It stops at eight."
    assert toyworld.wheel_answer(t, True) == ("Step by step: two two, six eight, one nine, four three, five eight, three one, six seven, one eight. "
                                            "It stops at eight.")


def test_conversations_are_of_every_kind_and_rarely_think(world):
    chats = jsonl(world[0] / "chat/train.jsonl")
    assert set(Counter(c["kind"] for c in chats)) == {"fact", "wheel", "calculator", "identity", "talk", "mixed"}
    wheel = [c["messages"][1]["content"].startswith("Step by step") for c in chats if c["kind"] == "wheel"]
    assert 0.15 < sum(wheel) / len(wheel) < 0.25
    for c in chats:
        if c["kind"] == "calculator":
            tool, output, text = c["messages"][1]["content"]
            assert str(eval(tool["text"])) == output["text"] and text["text"].endswith(f" is {output['text']}.")


def test_pairs_prefer_the_truth(world):
    for p in jsonl(world[0] / "pairs/train.jsonl"):
        assert p["chosen"][0] == p["rejected"][0] and p["chosen"][1] != p["rejected"][1]
        assert p["flaw"] in ("wrong", "rude", "rambling")


@pytest.mark.parametrize("seed", [0, 1])
def test_the_pipeline_finds_the_truth(tmp_path, capsys, seed):
    run, n_pages = tmp_path, 1200                       # so many that one page more or less is under 5 % of its kind
    toyweb.write(run, n_pages, seed)
    data.main(["--run", str(run), "--blocklist", str(run / "blocklist")])
    capsys.readouterr()
    right = toyweb.score(run, seed, n_pages)
    assert right, capsys.readouterr().out
    with gzip.open(run / "docs/000000.jsonl.gz", "rt", encoding="utf-8") as f:
        docs = [json.loads(line) for line in f]
    addresses = [d for d in docs if re.search(r"@(pellwick|tullmere|oskford)\.com|\b8\.\d+\.\d+\.\d+\b", d["text"])]
    assert not addresses
    (run / "docs/dropped.tsv.gz").unlink()
    with pytest.raises(FileNotFoundError, match="python data.py"):
        toyweb.score(run, seed, n_pages)


def test_killed_at_any_moment_ends_with_the_same_bytes(world, tmp_path):
    kill_and_rerun("web/toyweb.py", ["--run", tmp_path, "--pages", N], random.Random(2), slowest=0.6)
    assert files(tmp_path) == files(world[0])


def test_bad_input(tmp_path):
    done = run_script("web/toyweb.py", "--run", tmp_path, "--pages", "5")
    assert done.returncode != 0 and "--pages 5" in done.stderr and not list(tmp_path.iterdir())
    done = run_script("web/toyweb.py", "--run", tmp_path, "--seed", "-1")
    assert done.returncode != 0 and "--seed -1: must be" in done.stderr and not list(tmp_path.iterdir())
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
    assert sorted(p.name for p in (tmp_path / "crawl").iterdir()) == ["000000.warc.gz", "000007.warc.gz", "mine.warc.gz"]
    (tmp_path / "crawl/000007.warc.gz").unlink()
    (tmp_path / "crawl/mine.warc.gz").unlink()
    urls = {r.url for r in warc.read_warc(tmp_path / "crawl/000000.warc.gz") if r.type == "response"}
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


def test_a_world_that_was_killed_while_it_moved_is_refused_by_readers_and_finished_by_the_next(world, tmp_path, monkeypatch):
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
    with pytest.raises(ValueError, match=f"its files were being replaced.*python -m web.toyweb --run {re.escape(str(tmp_path))}"):
        pipeline.find_warcs([], tmp_path)
    toyweb.write(tmp_path, N, seed=0)
    assert files(tmp_path) == files(world[0])


def test_broken_pipe_and_interrupt(tmp_path, monkeypatch, capsys):
    process = subprocess.Popen([sys.executable, "-m", "web.toyweb", "--run", tmp_path, "--pages", "100"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        patch.setattr(runs, "start_clock", interrupt)
        patch.setattr(sys, "argv", ["toyweb.py"])
        runpy.run_path(toyweb.__file__, run_name="__main__")
    assert repr(caught.value) == "SystemExit(130)" and capsys.readouterr() == ("", "toyweb.py: interrupted\n")
