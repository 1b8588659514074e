"""web/dedup.py: signatures and clusters, and the steps on files."""

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
from web import dedup
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
    dedup.main([step, *map(str, argv)])


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
    assert dedup.sign(path, tmp_path) == len(DOCS)
    monkeypatch.setattr(dedup, "minhash", lambda texts: pytest.fail("signed again"))
    assert dedup.sign(path, tmp_path) == len(DOCS)


def fails(*argv):
    """What the command says when it refuses."""
    with pytest.raises((ValueError, OSError)) as error:
        dedup.main(list(map(str, argv)))
    return str(error.value)


def test_mistakes_and_damage(tmp_path):
    path = write(tmp_path / "a.jsonl", DOCS)
    assert "no *.keys.npy; make them with: python -m web.dedup sign" in fails(
        "match", "--work", tmp_path
    )
    dedup.sign(path, tmp_path)
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
    dedup.sign(path, tmp_path)
    dedup.match(tmp_path)
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
            dedup.main(list(map(str, argv)))


def test_names_hold_no_separators():
    assert dedup.name_of({"date": "d", "url": "a\tb\nc", "id": None}) == "d\ta b c\tNone"


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
    (work / "matched.json").write_text(json.dumps({**dedup.METHOD, "files": {"a": 5}}))
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
    assert n_calls == 12
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
    assert len(dedup.load_keys(work, "0")[1]) == 3
    files[1].write_bytes(files[0].read_bytes())
    run("sign", files[1], "--work", work)  # moved
    write(files[1], DOCS[3:5])
    run("sign", files[1], "--work", work)  # and changed there
    assert len(dedup.load_keys(work, "0")[1]) == 2


def test_work_of_another_version(tmp_path, monkeypatch):
    path, work = write(tmp_path / "a.jsonl", DOCS), tmp_path / "w"
    run("sign", path, "--work", work)
    run("match", "--work", work)
    monkeypatch.setitem(dedup.METHOD, "version", dedup.METHOD["version"] + 1)
    assert "made by another version of dedup.py" in fails("match", "--work", work)
    assert "made by another version of dedup.py" in fails(
        "drop", path, "--work", work, "--to", tmp_path / "out"
    )
    signed = []
    monkeypatch.setattr(
        dedup,
        "minhash",
        lambda texts, minhash=dedup.minhash: signed.append(texts) or minhash(texts),
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
    assert "a.keys.npy: uint64 (16, 14) is not what this step writes" in fails(
        "match", "--work", work, "--index", work / "a.keys.npy"
    )
    np.save(tmp_path / "other.npy", np.load(tmp_path / "index.npy")[:, ::-1])
    assert "other.npy: no index, because its keys are not sorted" in fails(
        "match", "--work", work, "--index", tmp_path / "index.npy", tmp_path / "other.npy"
    )
    assert "No such file" in fails(
        "match", "--work", work, "--save-index", tmp_path / "nowhere" / "index.npy"
    )
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
    monkeypatch.setattr(dedup, "minhash", lambda texts: os._exit(9))
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


# --------------------------------------------------------------------------------------------------
# Signatures and clusters.


def clusters_of(signatures):
    """The first document of each one's cluster."""
    return dedup.clusters(dedup.band_keys(signatures))


def test_minhash_conformance():
    a, b = dedup.permutations()
    assert (
        a[:4].tolist()
        == [775169054918279404, 1758426461858698313, 2109959069025162, 965365488286768774]
        and a[111] == 223865076026037746
    )
    assert (
        b[:4].tolist()
        == [1062448801025099917, 1324811268927594100, 1217488311597731462, 100775521383383736]
        and b[111] == 1097409548522419201
    )
    assert dedup.shingle_hashes("a b c d e").tolist() == [1214900226509477255]
    signature = dedup.minhash(["a b c d e"])
    assert (data.minhash(["a b c d e"]) == signature).all()
    assert signature.shape == (1, 112) and signature.dtype == np.uint64
    assert signature[0, :4].tolist() == [
        1579576027991400705, 4472124569112051, 889064944675421779, 305477644026747238,
    ]  # wraps at 64 bits


@pytest.mark.parametrize(
    "text, normal",
    [
        ("|$17.56||1|\n|$15.37||2599|", "0 0 0 0"),
        ("Don't  PANIC — naïve\tcafé", "don t panic naive cafe"), ("1.5.2, ٣٫١٤!", "0 0 0"),
        ("?!", ""), ("", ""),
    ],
)
def test_normalize(text, normal):
    assert dedup.normalize(text) == normal


@pytest.mark.parametrize(
    "text, normal",
    [
        ("|$17.56||1|\n|$15.37||2599|", "01 01"),
        ("Don't  PANIC — naïve\tcafé", "dont panic  naive cafe"), ("1.5.2, ٣ 4x", "0 0 0x"),
        ("?!", ""),
    ],
)
def test_normalize_of_v1(text, normal):
    """Punctuation is deleted before digits are looked at, and joins what stood beside it."""
    want = normal.replace("01", "0")
    assert dedup.normalize(text, "v1") == want


@pytest.mark.parametrize(
    "text, split",
    [
        (
            "you cannot gonna gotta gimme lemme wanna",
            "you can not gon na got ta gim me lem me wan na",
        ),
        ("doesnt 0km wannabe cannots", "doesnt 0km wannabe cannots"),
        ("a ‘b x―y cannot‘", "a ‘ b x ― y can not ‘"),
        ("gimme😀 wanna😀", "gim me 😀 wanna😀"),
        ("", ""),
    ],
)
def test_words_of_v1(text, split):
    assert dedup.split_v1(text) == split


def test_words_without_apostrophes_are_split_before_they_are_hashed():
    for text, split in (
        ("it doesnt cost 0mb a day", "it does nt cost 0 mb a day"),
        ("a b c dé id x", "a b c dé i d x"),
    ):
        words_ = split.split()
        shingles = [" ".join(words_[i : i + 5]) for i in range(len(words_) - 4)]
        want = [int.from_bytes(hashlib.sha1(x.encode()).digest()[:8], "little") for x in shingles]
        assert dedup.shingle_hashes(text).tolist() == want


def test_signature_is_the_minimum_over_shingles_in_any_blocks():
    text = " ".join(VOCABULARY[:5000])
    a, b = dedup.permutations()
    hashes = dedup.shingle_hashes(text)
    slow = [
        min((int(h) * int(a[j]) + int(b[j])) % 2**64 % (2**61 - 1) for h in hashes)
        for j in (0, 57, 111)
    ]
    assert dedup.minhash([text])[0, [0, 57, 111]].tolist() == slow


def test_fewer_than_five_words_have_no_signature_and_no_duplicate():
    short = ["one two three four", "", "!!!", "one two three four"]
    assert (data.minhash(short) == dedup.NO_SIGNATURE).all()
    assert data.deduplicate(short).all()
    assert data.deduplicate(["one two three four five"] * 2).tolist() == [True, False]
    assert data.deduplicate([]).shape == (0,) and data.minhash([]).shape == (0, 112)


def test_numbers_case_accents_and_punctuation_do_not_matter():
    assert data.deduplicate(
        [
            "It cost $3.50 in 1999, Zoë said!",
            "it COST 7 in 2024 — zoe: said",
            "it cost a lot in 2024, zoe said",
        ]
    ).tolist() == [True, False, True]


def test_the_earliest_of_a_cluster_is_kept_and_chains_are_one_cluster():
    base = VOCABULARY[:1000]
    changed = lambda seed: [w if i // 100 != seed else f"new{seed}x" for i, w in enumerate(base)]
    a, b, c = changed(0), base, changed(9)  # a~b and b~c are nearer than a~c
    texts = [" ".join(t) for t in (a, VOCABULARY[2000:3000], c, b)]
    assert data.deduplicate(texts).tolist() == [True, True, False, False]


def test_chain_whose_ends_share_no_band():
    signatures = np.arange(4 * 112, dtype=np.uint64).reshape(4, 112)
    signatures[3, :8] = signatures[0, :8]  # 0 ~ 3 in the first band, 3 ~ 1 in the last
    signatures[1, -8:] = signatures[3, -8:]
    assert clusters_of(signatures).tolist() == data.clusters(signatures).tolist() == [0, 0, 2, 0]


def test_union_in_any_order_agrees_with_a_plain_search():
    r = np.random.default_rng(0)
    signatures = r.integers(0, 3, (300, 112)).astype(np.uint64) * 10**6 + r.integers(
        0, 10**5, (300, 112)
    ).astype(np.uint64)
    for _ in range(250):  # equal bands between random documents
        i, j, k = r.integers(0, 300, 2).tolist() + [int(r.integers(0, 14))]
        signatures[i, 8 * k : 8 * k + 8] = signatures[j, 8 * k : 8 * k + 8]
    cluster = list(range(300))
    for i in range(300):
        for j in range(i):
            if any(
                (signatures[i, 8 * k : 8 * k + 8] == signatures[j, 8 * k : 8 * k + 8]).all()
                for k in range(14)
            ):
                old, new = max(cluster[i], cluster[j]), min(cluster[i], cluster[j])
                cluster = [new if c == old else c for c in cluster]
    assert clusters_of(signatures).tolist() == data.clusters(signatures).tolist() == cluster
    assert 20 < sum(c != i for i, c in enumerate(cluster)) < 280


def test_ten_thousand_identical_pages():
    start = time.process_time()
    assert not clusters_of(np.repeat(dedup.minhash([prose(100)]), 10_000, 0)).any()
    assert time.process_time() - start < 5


def test_match_rate_follows_the_curve():
    """Pairs of known similarity match as often as 1 - (1 - s^8)^14 says, within 3 deviations."""
    r, pairs = np.random.default_rng(1), 400
    a, b = dedup.permutations()
    for s, expected in ((0.60, 0.2111), (0.72, 0.6499), (0.80, 0.9236)):
        assert abs(data.p_linked(s) - expected) < 1e-4
        n = 300
        shared = int(round(2 * n * s / (1 + s)))  # |A & B| / |A u B| = s for |A| = |B| = n
        hit = 0
        for _ in range(pairs):
            h = r.integers(0, 2**64, 2 * n - shared, np.uint64)
            both = np.stack(
                [
                    (part[:, None] * a + b).__mod__(dedup.MERSENNE).min(0)
                    for part in (h[:n], h[n - shared :])
                ]
            )
            hit += not (clusters_of(both)[1] == 1)
        assert (
            abs(hit / pairs - expected) < 3 * (expected * (1 - expected) / pairs) ** 0.5 + 0.01
        ), (s, hit / pairs)
