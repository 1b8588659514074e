"""dedup.py: the steps on files. The formula and the clusters are tested in test_data.py."""
import gzip
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
import dedup

WORDS = ["".join(random.Random(i).choices("bcdfgklmnprst", k=3)) + "aeiou"[i % 5] * (1 + i // 1500) for i in range(3000)]       # no digits: they count alike


def text(seed, changed=0):
    words = random.Random(seed).choices(WORDS, k=120)
    return " ".join(words[:120 - changed] + ["new" + "x" * i for i in range(changed)])


def doc(i, content, date):
    return {"text": content, "id": f"<{i}>", "url": f"http://a.com/{i}", "date": date}


DOCS = ([doc(i, text(i), f"2024-01-{1 + i:02}") for i in range(10)]
        + [doc(10, text(3, 4), "2023-12-31"), doc(11, text(4, 4), "2024-02-01"), doc(12, text(4, 2), "2024-02-02"), doc(13, "too short", "2024-01-01"),
           doc(14, "too short", "2024-01-01"), doc(15, text(5), "2024-01-06")])
KEPT = {0, 1, 2, 10, 4, 15, 6, 7, 8, 9, 13, 14}                  # of a cluster what was fetched first; 15 and 5 at the same time, but "a.com/15" < "a.com/5"


def write(path, docs):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as f:
        f.writelines(json.dumps(d) + "\n" for d in docs)
    return path


def steps(folder, parts, *match):
    """Ids that stay after the three steps over files of these documents."""
    folder.mkdir()
    files = [str(write(folder / f"{name}.jsonl.gz", docs)) for name, docs in parts.items()]
    for argv in (["sign", *files, "--work", str(folder / "w"), "--workers", "2"], ["match", "--work", str(folder / "w"), *match],
                 ["drop", *files, "--work", str(folder / "w"), "--to", str(folder / "out"), "--workers", "1"]):
        dedup.main(argv)
    return {int(json.loads(line)["id"][1:-1]) for p in sorted((folder / "out").glob("*.jsonl.gz")) for line in gzip.open(p, "rt", encoding="utf-8")}


def test_the_first_fetched_of_a_cluster_stays_in_whatever_order(tmp_path):
    orders = [DOCS, DOCS[::-1], random.Random(0).sample(DOCS, len(DOCS))]
    kept = [steps(tmp_path / str(i), {"a": docs[:5], "b": docs[5:6], "c": docs[6:]}) for i, docs in enumerate(orders)]
    assert kept == [KEPT] * 3


def test_an_index_takes_the_whole_cluster(tmp_path):
    first = steps(tmp_path / "first", {"a": [DOCS[4]]}, "--save-index", str(tmp_path / "index.npy"))
    assert first == {4}
    left = steps(tmp_path / "second", {"a": DOCS}, "--index", str(tmp_path / "index.npy"), "--save-index", str(tmp_path / "second.npy"))
    assert left == KEPT - {4}                                    # and not 11 or 12 in its place
    assert steps(tmp_path / "third", {"a": DOCS}, "--index", str(tmp_path / "index.npy"), str(tmp_path / "second.npy")) == {13, 14}      # without signature


def test_what_is_signed_is_not_signed_again(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", DOCS)
    assert dedup.sign(path, tmp_path) == len(DOCS)
    monkeypatch.setattr(dedup, "minhash", lambda texts: pytest.fail("signed again"))
    assert dedup.sign(path, tmp_path) == len(DOCS)


def fails(*argv):
    done = subprocess.run([sys.executable, dedup.__file__, *map(str, argv)], capture_output=True, text=True)
    assert done.returncode and "Traceback" not in done.stderr
    return done.stderr


def test_mistakes_and_damage(tmp_path):
    path = write(tmp_path / "a.jsonl", DOCS)
    assert "no *.keys.npy; make them with: python dedup.py sign" in fails("match", "--work", tmp_path)
    dedup.sign(path, tmp_path)
    assert "a.drop.npy: no such file; make it with: python dedup.py match" in fails("drop", path, "--work", tmp_path, "--to", tmp_path / "out")
    keys = tmp_path / "a.keys.npy"
    keys.write_bytes(keys.read_bytes()[:-50])
    assert re.search(r"a.keys.npy: damaged .* delete it and make it again with: python dedup.py sign", fails("match", "--work", tmp_path))
    np.save(keys, np.zeros((3, 5)))
    assert "a.keys.npy: float64 (3, 5) is not what this step writes" in fails("match", "--work", tmp_path)
    keys.unlink()
    dedup.sign(path, tmp_path)
    dedup.match(tmp_path)
    write(path, DOCS[:-1])
    assert "has not the 16 documents that it was signed with" in fails("drop", path, "--work", tmp_path, "--to", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n{"no": 1}\n')
    assert "b.jsonl:2: no document with a text" in fails("sign", tmp_path / "b.jsonl", "--work", tmp_path)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "fine"}\n' * 100)[:-9])
    assert "c.jsonl.gz: damaged gzip" in fails("sign", tmp_path / "c.jsonl.gz", "--work", tmp_path)
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "\xff"}\n')
    assert "d.jsonl: not UTF-8 text" in fails("sign", tmp_path / "d.jsonl", "--work", tmp_path)
    assert "No such file" in fails("sign", tmp_path / "none.jsonl", "--work", tmp_path / "w")
    for argv in (["sign", "--work", tmp_path], ["match", path, "--work", tmp_path], ["drop", path, "--work", tmp_path], ["sign", path, path, "--work", tmp_path]):
        assert "error:" in fails(*argv)


def test_names_hold_no_separators():
    assert dedup.name_of({"date": "d", "url": "a\tb\nc", "id": None}) == "d\ta b c\tNone"
