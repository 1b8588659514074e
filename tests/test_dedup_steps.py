"""web/dedup_steps.py and web/matching.py: the steps on files of documents."""

import gzip
import hashlib
import json
import os
import random
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
from web import dedup, dedup_steps, matching
from run import disk, runs
from conftest import run_script
from pages import VOCABULARY, prose

WORDS = [
    "".join(random.Random(i).choices("bcdfgklmnprst", k=3)) + "aeiou"[i % 5] * (1 + i // 1500)
    for i in range(3000)
]  # no digits: they count alike


def text(seed, changed=0):
    words = random.Random(seed).choices(WORDS, k=120)
    return " ".join(words[: 120 - changed] + ["new" + "x" * i for i in range(changed)])


def doc(i, content, date):
    return {"text": content, "id": f"<{i}>", "url": f"http://a.com/{i}", "date": date}


DOCS = [doc(i, text(i), f"2024-01-{1 + i:02}") for i in range(10)] + [
    doc(10, text(3, 4), "2023-12-31"), doc(11, text(4, 4), "2024-02-01"),
    doc(12, text(4, 2), "2024-02-02"), doc(13, "too short", "2024-01-01"),
    doc(14, "too short", "2024-01-01"), doc(15, text(5), "2024-01-06"),
]
# Of a cluster what was fetched first; 5 and 15 at the same time, but "a.com/15" < "a.com/5".
KEPT = {0, 1, 2, 10, 4, 15, 6, 7, 8, 9, 13, 14}


def write(path, docs):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as f:
        f.writelines(json.dumps(d) + "\n" for d in docs)
    return path


def steps(folder, parts, *match):
    """Ids that stay after the three steps over files of these documents."""
    folder.mkdir()
    work, out = folder / "w", folder / "out"
    files = [write(folder / f"{name}.jsonl.gz", docs) for name, docs in parts.items()]
    run("sign", *files, "--work", work, "--workers", "2")
    run("match", "--work", work, *match)
    run("drop", *files, "--work", work, "--to", out, "--workers", "1")
    return {int(name[1:-1]) for name in kept(out)}


def run(step, *argv):
    dedup_steps.main([step, *map(str, argv)])


def kept(folder):
    """The ids of the documents in the files of a folder."""
    found = set()
    for path in folder.glob("*.jsonl.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found.update(json.loads(line)["id"] for line in lines)
    return found


def test_the_first_fetched_of_a_cluster_stays_in_whatever_order(tmp_path):
    orders = [DOCS, DOCS[::-1], random.Random(0).sample(DOCS, len(DOCS))]
    kept = [
        steps(tmp_path / str(i), {"a": docs[:5], "b": docs[5:6], "c": docs[6:]})
        for i, docs in enumerate(orders)
    ]
    assert kept == [KEPT] * 3


def test_a_task_removes_what_it_left_when_it_was_killed_and_nothing_of_others(tmp_path):
    files = [write(tmp_path / f"{name}.jsonl", DOCS[:1]) for name in "ab"]
    work, out, ended = tmp_path / "work", tmp_path / "out", 2 ** 70
    left = [work / f"{name}.keys.npy.{ended}-00000000.tmp" for name in "ab"]
    left += [out / f"{name}.jsonl.gz.{ended}-00000000.tmp" for name in "ab"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    run("sign", *files, "--work", work, "--task", "0/2", "--workers", "1")
    assert [path.exists() for path in left] == [False, True, True, True]
    matching.sign(files[1], work)
    run("match", "--work", work)
    run("drop", *files, "--work", work, "--to", out, "--task", "1/2", "--workers", "1")
    assert [path.exists() for path in left] == [False, False, True, False]


def test_an_index_takes_the_whole_cluster(tmp_path):
    first = steps(tmp_path / "first", {"a": [DOCS[4]]}, "--save-index", str(tmp_path / "index.npy"))
    assert first == {4}
    left = steps(
        tmp_path / "second", {"a": DOCS}, "--index", str(tmp_path / "index.npy"), "--save-index",
        str(tmp_path / "second.npy"),
    )
    assert left == KEPT - {4}  # and not 11 or 12 in its place
    assert steps(
        tmp_path / "third", {"a": DOCS}, "--index", str(tmp_path / "index.npy"),
        str(tmp_path / "second.npy"),
    ) == {13, 14}  # without signature


def test_what_is_signed_is_not_signed_again(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", DOCS)
    assert matching.sign(path, tmp_path) == len(DOCS)
    monkeypatch.setattr(matching, "minhash", lambda texts: pytest.fail("signed again"))
    assert matching.sign(path, tmp_path) == len(DOCS)


def fails(*argv):
    """What the command says when it refuses."""
    with pytest.raises((ValueError, OSError)) as error:
        dedup_steps.main(list(map(str, argv)))
    return str(error.value)


def test_mistakes_and_damage(tmp_path):
    path = write(tmp_path / "a.jsonl", DOCS)
    assert "no *.keys.npy; make them with: python -m web.dedup sign" in fails(
        "match", "--work", tmp_path
    )
    matching.sign(path, tmp_path)
    assert "matched.json: no such file; make it with: python -m web.dedup match" in fails(
        "drop", path, "--work", tmp_path, "--to", tmp_path / "out"
    )
    keys = tmp_path / "a.keys.npy"
    keys.write_bytes(keys.read_bytes()[:-50])
    assert re.search(
        r"a.keys.npy: damaged .* delete it and make it again with: python -m web.dedup sign",
        fails("match", "--work", tmp_path),
    )
    np.save(keys, np.zeros((3, 5)))
    assert "a.keys.npy: float64 (3, 5) is not what this step writes" in fails(
        "match", "--work", tmp_path
    )
    keys.unlink()
    matching.sign(path, tmp_path)
    run("match", "--work", tmp_path)
    write(path, DOCS[:-1])
    assert "a.jsonl: has changed since it was signed; run: python -m web.dedup sign" in fails(
        "drop", path, "--work", tmp_path, "--to", tmp_path / "out"
    )
    assert not list((tmp_path / "out").glob("*.gz*"))
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n{"no": 1}\n')
    assert "b.jsonl:2: no document with a text" in fails(
        "sign", tmp_path / "b.jsonl", "--work", tmp_path
    )
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "fine"}\n' * 100)[:-9])
    assert "c.jsonl.gz: damaged gzip" in fails("sign", tmp_path / "c.jsonl.gz", "--work", tmp_path)
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "\xff"}\n')
    assert "d.jsonl:1: no document with a text ('utf-8' codec can't decode byte 0xff" in fails(
        "sign", tmp_path / "d.jsonl", "--work", tmp_path
    )
    assert "No such file" in fails("sign", tmp_path / "none.jsonl", "--work", tmp_path / "w")
    done = run_script("web/dedup.py", "sign", tmp_path / "b.jsonl", "--work", tmp_path)
    assert (
        done.returncode == 1
        and done.stderr.startswith("dedup.py: error: ")
        and "Traceback" not in done.stderr
    )
    for argv in (
        ["sign", "--work", tmp_path], ["match", path, "--work", tmp_path],
        ["drop", path, "--work", tmp_path], ["sign", path, path, "--work", tmp_path],
        ["match", "--work", tmp_path, "--workers", "1"],
        ["sign", path, "--work", tmp_path, "--to", tmp_path / "x"],
        ["drop", path, "--work", tmp_path, "--to", tmp_path / "x", "--index", path],
        ["sign", path, "--work", tmp_path, "--workers", "0"],
    ):
        with pytest.raises(SystemExit):
            dedup_steps.main(list(map(str, argv)))


def test_names_hold_no_separators():
    assert matching.name_of({"date": "d", "url": "a\tb\nc", "id": None}) == "d\ta b c\tNone"


def test_a_file_that_changed_is_signed_again_whatever_its_time_and_size(tmp_path):
    path, work = tmp_path / "a.jsonl", tmp_path / "w"
    write(path, [doc(0, text(0), "2024-01-01"), doc(1, text(0), "2024-01-02")])
    before = path.stat()
    run("sign", path, "--work", work)
    run("match", "--work", work)
    write(
        path,
        [
            doc(0, text(0), "2024-01-01"),
            doc(1, text(1)[: len(text(0))].ljust(len(text(0)), "x"), "2024-01-02"),
        ],
    )
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    assert "a.jsonl: has changed since it was signed; run: python -m web.dedup sign" in fails(
        "drop", path, "--work", work, "--to", tmp_path / "out"
    )
    run("sign", path, "--work", work)
    assert "a was signed or removed after the last match; run: python -m web.dedup match" in fails(
        "drop", path, "--work", work, "--to", tmp_path / "out"
    )
    assert not list((tmp_path / "out").glob("*.gz*"))
    run("match", "--work", work)
    run("drop", path, "--work", work, "--to", tmp_path / "out")
    assert kept(tmp_path / "out") == {"<0>", "<1>"}


def test_a_change_to_another_file_asks_for_a_new_match(tmp_path):
    """What goes from a.jsonl depends on all files that were matched."""
    files, work = (
        [write(tmp_path / f"{name}.jsonl", DOCS[i : i + 3]) for i, name in enumerate("abc")],
        tmp_path / "w",
    )
    run("sign", *files, "--work", work)
    run("match", "--work", work)
    drop = ["drop", files[0], "--work", work, "--to", tmp_path / "out"]
    for path in work.glob("c.*"):
        path.unlink()
    assert "c was signed or removed" in fails(*drop)
    run("match", "--work", work)
    run("sign", write(tmp_path / "d.jsonl", DOCS), "--work", work)
    assert "d was signed or removed" in fails(*drop)
    run("match", "--work", work)
    assert "c.jsonl: not among the files matched" in fails(
        "drop", files[2], "--work", work, "--to", tmp_path / "out"
    )
    np.save(work / "a.drop.npy", np.ones(3, bool))
    assert "a.drop.npy: not what the last match wrote" in fails(*drop)
    (work / "matched.json").write_text(json.dumps({**matching.METHOD, "files": {"a": 5}}))
    assert "matched.json: not what match writes" in fails(*drop)


def test_a_step_that_is_cut_short_anywhere_is_made_again(tmp_path, monkeypatch):
    """Each file of the three steps in turn fails to get its name, as if killed there."""
    first, second = (
        [write(tmp_path / "a.jsonl", DOCS[:8]), write(tmp_path / "b.jsonl", DOCS[8:])],
        tmp_path / "b.jsonl",
    )
    steps_of = lambda work, to: (
        ["sign", *first, "--work", work],
        ["match", "--work", work],
        ["drop", *first, "--work", work, "--to", to],
    )  # noqa: E731
    replace, calls = disk.replace, []

    def failing(old, new):
        calls.append(new)
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        replace(old, new)

    monkeypatch.setattr(disk, "replace", failing)
    fail_at = 0
    for argv in steps_of(tmp_path / "w", tmp_path / "out"):
        run(*argv, *["--workers", "1"] * (argv[0] != "match"))
    want, n_calls = kept(tmp_path / "out"), len(calls)
    assert n_calls == 16
    for at in range(1, n_calls + 1):
        work, out = tmp_path / f"w{at}", tmp_path / f"out{at}"
        work.mkdir()
        write(
            second, [doc(99, "what stood here at first had other words in it", "2020")]
        )  # signatures and results of another world
        fail_at = 0
        for argv in steps_of(work, out):
            run(*argv, *["--workers", "1"] * (argv[0] != "match"))
        write(second, DOCS[8:])
        calls.clear()
        fail_at, interrupted = at, 0
        for argv in steps_of(work, out) * 2:
            try:
                run(*argv, *["--workers", "1"] * (argv[0] != "match"))
            except KeyboardInterrupt:
                interrupted += 1
            except (ValueError, FileNotFoundError) as error:
                assert re.search(
                    "run: python -m web.dedup|make it (again )?with: python -m web.dedup",
                    str(error),
                )
        assert kept(out) == want and interrupted == (at <= len(calls))
        assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob(".lock"))


def test_two_files_of_one_name(tmp_path):
    """In one command and one after the other; the same file in another place is no other file."""
    here, there, work = tmp_path / "here", tmp_path / "there", tmp_path / "w"
    here.mkdir()
    there.mkdir()
    files = write(here / "0.jsonl", DOCS[:3]), write(there / "0.jsonl", DOCS[3:6])
    run("sign", files[0], "--work", work)
    assert (
        f"there/0.jsonl: {work} holds the signatures of another file of this name, {files[0]}"
        in fails("sign", files[1], "--work", work)
    )
    assert matching.load_keys(work, "0")[1].shape == (14, 3)
    files[1].write_bytes(files[0].read_bytes())
    run("sign", files[1], "--work", work)  # moved
    write(files[1], DOCS[3:5])
    run("sign", files[1], "--work", work)  # and changed there
    assert matching.load_keys(work, "0")[1].shape == (14, 2)


def test_work_of_another_version(tmp_path, monkeypatch):
    path, work = write(tmp_path / "a.jsonl", DOCS), tmp_path / "w"
    run("sign", path, "--work", work)
    run("match", "--work", work)
    monkeypatch.setitem(matching.METHOD, "version", matching.METHOD["version"] + 1)
    assert "made by another version of dedup.py" in fails("match", "--work", work)
    assert "made by another version of dedup.py" in fails(
        "drop", path, "--work", work, "--to", tmp_path / "out"
    )
    signed = []
    monkeypatch.setattr(
        matching,
        "minhash",
        lambda texts, minhash=matching.minhash: signed.append(texts) or minhash(texts),
    )
    run("sign", path, "--work", work, "--workers", "1")
    assert len(signed) == len(DOCS)
    run("match", "--work", work)
    for name in (
        "a.signed.json",
        "a.names.tsv",
    ):  # a version without records; names that went astray
        (work / name).rename(work / "away")
        assert re.search(
            rf"a.names.tsv: not what|{name}: no such file; "
            r"make it with: python -m web.dedup sign FILE",
            fails("match", "--work", work),
        )
        (work / "away").rename(work / name)
    (work / "a.names.tsv").write_text("others\n" * len(DOCS))
    assert "a.names.tsv: not what a.signed.json was written for" in fails("match", "--work", work)


def test_an_index_that_is_none(tmp_path):
    path, work = write(tmp_path / "a.jsonl", DOCS), tmp_path / "w"
    run("sign", path, "--work", work)
    run("match", "--work", work, "--save-index", tmp_path / "index.npy")
    assert "a.keys.npy: no index, because its keys are not sorted" in fails(
        "match", "--work", work, "--index", work / "a.keys.npy"
    )
    np.save(tmp_path / "wide.npy", np.zeros((16, 14), np.uint64))
    assert "wide.npy: uint64 (16, 14) is not what this step writes" in fails(
        "match", "--work", work, "--index", tmp_path / "wide.npy"
    )
    np.save(tmp_path / "other.npy", np.load(tmp_path / "index.npy")[:, ::-1])
    assert "other.npy: no index, because its keys are not sorted" in fails(
        "match", "--work", work, "--index", tmp_path / "index.npy", tmp_path / "other.npy"
    )
    assert "No such file" in fails(
        "match", "--work", work, "--save-index", tmp_path / "nowhere" / "index.npy"
    )
    run("match", "--work", work)
    assert "not sorted" in fails("match", "--work", work, "--index", tmp_path / "other.npy")
    assert "matched.json: no such file" in fails(
        "drop", path, "--work", work, "--to", tmp_path / "out"
    )


def test_results_never_replace_what_is_no_result(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    works = [tmp_path / "w0", tmp_path / "w1"]
    for folder, work, docs in ((here, works[0], DOCS[:4]), (there, works[1], DOCS[4:8])):
        folder.mkdir()
        run("sign", write(folder / "0.jsonl.gz", docs), "--work", work)
        run("match", "--work", work)
    for to in (here, works[0]):
        assert "the results need a folder of their own" in fails(
            "drop", here / "0.jsonl.gz", "--work", works[0], "--to", to
        )
    out = tmp_path / "out"
    for _ in range(2):
        run("drop", here / "0.jsonl.gz", "--work", works[0], "--to", out)
    before = (out / "0.jsonl.gz").read_bytes()
    assert "0.jsonl.gz: already there, and not made from" in fails(
        "drop", there / "0.jsonl.gz", "--work", works[1], "--to", out
    )
    assert (out / "0.jsonl.gz").read_bytes() == before


def test_what_is_left_out_is_said(tmp_path, capsys):
    files, work, out = (
        [write(tmp_path / f"{name}.jsonl", DOCS) for name in "ab"],
        tmp_path / "w",
        tmp_path / "out",
    )
    run("sign", *files, "--work", work, "--workers", "1")
    run("match", "--work", work)
    run("drop", files[0], "--work", work, "--to", out)
    said = capsys.readouterr()
    assert (
        "32 documents of 2 files, 18 near-duplicates" in said.out
        and "1 files that were matched are not among these, such as b" in said.err
    )
    assert re.search(r"\d+ documents kept, \d+ dropped", said.out)
    for path in work.glob("a.*"):
        path.unlink()
    run("match", "--work", work)
    run("drop", files[1], "--work", work, "--to", out)
    assert (
        "holds 1 files from before, which are no longer matched, such as a.jsonl.gz"
        in capsys.readouterr().err
    )


def test_two_at_once(tmp_path):
    path, work = write(tmp_path / "a.jsonl", DOCS), tmp_path / "w"
    with runs.locked(work, "dedup.py"):
        for argv in (["sign", path], ["match"], ["drop", path, "--to", tmp_path / "out"]):
            assert "another dedup.py is writing there" in fails(*argv, "--work", work)
    run("sign", path, "--work", work)
    run("match", "--work", work)
    with runs.locked(tmp_path / "out", "dedup.py"):
        assert "another dedup.py is writing there" in fails(
            "drop", path, "--work", work, "--to", tmp_path / "out"
        )


def test_a_worker_that_dies_ends_the_step(tmp_path, monkeypatch):
    files = [write(tmp_path / f"{name}.jsonl", DOCS) for name in "ab"]
    monkeypatch.setattr(matching, "minhash", lambda texts: os._exit(9))
    with pytest.raises(ChildProcessError, match="has died"):
        run("sign", *files, "--work", tmp_path / "w", "--workers", "2")


@pytest.mark.parametrize(
    "line",
    [
        b"", b"5", b"null", b"[]", b'"text"', b"{", b'{"text": 5}', b'{"text": null}',
        b'{"text": ["a"]}', b'{"text": {}}', b'{"text": NaN}', b"\0", b"\xff",
        b'{"text": "\xed\xa0\x80"}',
        b'{"text": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"text": "a", "x": ' + b'{"x":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b'{"text": "a", "id": ' + b"9" * 5000 + b"}", b'{"text": "a", "url": "\\ud800"}',
        b'{"text": "a", "id": "\\udfff"}', b'{"text": "a", "date": ["\\ud800"]}', b'\xff\xfe{\0"\0',
        b'\xef\xbb\xbf{"text": "a"}',
    ],
)
def test_rows_that_are_no_documents(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    if line == b'{"text": "a", "date": ["\\ud800"]}':  # is spelled with a backslash
        run("sign", path, "--work", tmp_path / "w")
        return
    assert "a.jsonl:2: no document with a text" in fails("sign", path, "--work", tmp_path / "w")
    assert not list((tmp_path / "w").iterdir())


def test_half_a_surrogate_pair_in_a_text_counts_like_any_letter(tmp_path):
    docs = [
        doc(0, text(0) + " \ud800", "2024"),
        doc(1, text(0) + " \ud800", "2025"),
        doc(2, "\udfff", "2024"),
    ]
    run("sign", write(tmp_path / "a.jsonl", docs), "--work", tmp_path / "w")
    run("match", "--work", tmp_path / "w")
    run("drop", tmp_path / "a.jsonl", "--work", tmp_path / "w", "--to", tmp_path / "out")
    assert kept(tmp_path / "out") == {"<0>", "<2>"}


