"""web/matching.py: band keys on files, pairs by bands and by their parts, and what tasks share."""

import gzip
import json
import random

import numpy as np
import pytest

from run import tasks
from web import dedup, dedup_steps, matching
from conftest import ROOT  # noqa: F401   the path


def random_keys(n, r):
    """Band keys (n, 14) of which some are equal, and some documents have none."""
    keys = r.integers(0, 2**64 - 1, (n, dedup.BANDS), np.uint64)
    for _ in range(n // 2):
        i, j = r.integers(0, n, 2)
        keys[i, r.integers(0, dedup.BANDS)] = keys[j, r.integers(0, dedup.BANDS)]
    for k in range(dedup.BANDS):
        i, j = r.integers(0, n, (2, n // 20))
        keys[i, k] = keys[j, k]
    keys[r.integers(0, n, n // 10)] = dedup.NO_SIGNATURE
    return keys


def signed(work, sizes=(30, 0, 50, 1, 19), seed=0):
    """A work folder with files of so many documents; returns their keys."""
    r = np.random.default_rng(seed)
    keys, first = random_keys(sum(sizes), r), 0
    work.mkdir()
    for number, n in enumerate(sizes):
        names = [f"{r.integers(2000, 2009)}\thttp://a.com/{first + i}\t<{i}>" for i in range(n)]
        matching.save_keys(work, f"{number:06}", keys[first:first + n], names)
        first += n
    return keys


def find(work, to, n_tasks, index=()):
    """The pairs of all tasks, in a folder."""
    to.mkdir()
    for i in range(n_tasks):
        matching.find_pairs(work, to, tasks.Task(i, n_tasks), index)
    return to


def results(work):
    """{name: bytes} of what join_pairs writes."""
    return {path.name: path.read_bytes() for path in [*work.glob("*.drop.npy"),
                                                      work / "matched.json"]}


def plain_result(work, keys, index_keys=None):
    """Which documents go: the definition, over dedup.clusters."""
    names = []
    for stem in matching.stems_in(work):
        names += (work / f"{stem}.names.tsv").read_text().splitlines()
    root, old = dedup.clusters(keys), np.zeros(len(keys), bool)
    if index_keys is not None:
        for k in range(dedup.BANDS):
            old |= np.isin(keys[:, k], index_keys[k]) & (keys[:, k] != dedup.NO_SIGNATURE)
    drop = np.zeros(len(keys), bool)
    for leader in set(root.tolist()):
        cluster = np.flatnonzero(root == leader).tolist()
        stays = min(cluster, key=lambda i: (names[i] + "\n", i))
        for i in cluster:
            drop[i] = i != stays or old[cluster].any()
    return drop


@pytest.mark.parametrize("n_tasks, most, few", [
    (1, 1 << 27, 1 << 20), (2, 1 << 27, 0), (3, 7, 350), (20, 1 << 27, 0), (1, 30, 350),
])
def test_any_number_of_tasks_and_parts_decides_the_same(tmp_path, monkeypatch, n_tasks, most, few):
    work = tmp_path / "w"
    keys = signed(work)
    earlier = np.sort(random_keys(40, np.random.default_rng(5)).T, axis=1)
    root = dedup.clusters(keys)
    later = int(np.flatnonzero(root != np.arange(len(root)))[0])        # not the first of a cluster
    earlier[3, 7] = keys[later, 3]
    earlier = np.sort(earlier, axis=1)
    matching.save_array(tmp_path / "earlier.npy", earlier)
    monkeypatch.setattr(matching, "MOST_AT_ONCE", most)
    monkeypatch.setattr(matching, "FEW", few)
    monkeypatch.setattr(matching, "SHARE_OF_NAMES", 30)         # four clusters at once
    monkeypatch.setattr(dedup, "AT_ONCE", 7)
    for index, index_keys in (((), None), ((tmp_path / "earlier.npy",), earlier)):
        to = find(work, tmp_path / f"pairs{len(index)}", n_tasks, index)
        n, dropped, old = matching.join_pairs(work, to, tmp_path / "index.npy")
        drop = np.concatenate([np.load(work / f"{s}.drop.npy") for s in matching.stems_in(work)])
        want = plain_result(work, keys, index_keys)
        assert drop.tolist() == want.tolist() and (n, dropped) == (len(keys), want.sum())
        assert bool(old) == bool(index)
        stays = ~want & (keys[:, 0] != dedup.NO_SIGNATURE)
        found = matching.load_index(tmp_path / "index.npy")
        np.testing.assert_array_equal(found, np.sort(keys[stays].T, axis=1))


def test_parts_of_a_band_are_all_of_it_once(tmp_path):
    keys = signed(tmp_path / "w")
    documents = matching.Documents(tmp_path / "w")
    whole, _ = documents.band(3)
    assert whole.tolist() == np.flatnonzero(keys[:, 3] != dedup.NO_SIGNATURE).tolist()
    parts = [documents.band(3, part, 5) for part in range(5)]
    assert sorted(np.concatenate([numbers for numbers, _ in parts]).tolist()) == whole.tolist()
    for numbers, found in parts:
        assert found.tolist() == keys[numbers, 3].tolist()
    largest = [int(found.max()) for _, found in parts]
    assert largest == sorted(largest)


def test_more_tasks_hold_less_of_a_band(monkeypatch):
    monkeypatch.setattr(matching, "MOST_AT_ONCE", 1000)
    for n_tasks, parts in ((1, 4), (2, 4), (6, 6), (14, 14), (100, 14), (1000, 72)):
        pieces = matching.parts_of_bands(3001, n_tasks)
        assert len(set(pieces)) == len(pieces) == dedup.BANDS * parts >= n_tasks
        assert {(k, of) for k, _, of in pieces} == {(k, parts) for k in range(dedup.BANDS)}


def test_a_task_that_was_killed_makes_only_what_is_missing(tmp_path, monkeypatch):
    work = tmp_path / "w"
    signed(work)
    matching.join_pairs(work, find(work, tmp_path / "whole", 1))
    want = results(work)
    to, made, save = tmp_path / "pairs", [], matching.save_array
    to.mkdir()

    def killed(path, a):
        if len(made) == fail_at:
            raise KeyboardInterrupt
        made.append(path.name)
        save(path, a)

    monkeypatch.setattr(matching, "save_array", killed)
    monkeypatch.setattr(matching, "FEW", 0)
    for fail_at in (0, 5, 6, 12, 99):
        try:
            matching.find_pairs(work, to, tasks.ALONE)
        except KeyboardInterrupt:
            pass
    assert len(made) == len(set(made)) == dedup.BANDS
    monkeypatch.setattr(matching, "save_array", save)
    matching.join_pairs(work, to)
    assert results(work) == want


def test_tasks_check_all_signed_files_between_them(tmp_path):
    work = tmp_path / "w"
    signed(work)
    (work / "000002.names.tsv").write_text("others\n" * 50)
    (tmp_path / "to").mkdir()
    matching.find_pairs(work, tmp_path / "to", tasks.Task(1, 2))
    with pytest.raises(ValueError, match="000002.names.tsv: not what 000002.signed.json"):
        matching.find_pairs(work, tmp_path / "to", tasks.Task(0, 2))


# --------------------------------------------------------------------- the three steps, by tasks


def write_documents(folder, n_files=5, each=12):
    """Files of documents of which some are near-duplicates."""
    r, texts, files = random.Random(0), [], []
    vocabulary = ["".join(r.choices("bcdfgklmnprst", k=5)) for _ in range(900)]
    folder.mkdir()
    for number in range(n_files):
        files.append(folder / f"{number}.jsonl.gz")
        with gzip.open(files[-1], "wt", encoding="utf-8") as out:
            for i in range(each):
                if texts and r.random() < 0.3:
                    words = r.choice(texts)[:-1] + ["changed"]
                else:
                    words = r.choices(vocabulary, k=80)
                texts.append(words)
                doc = {"text": " ".join(words), "id": f"{number}.{i}", "url": f"http://a.com/{i}",
                       "date": str(r.randrange(2000, 2010))}
                out.write(json.dumps(doc) + "\n")
    return files


def step(*argv):
    dedup_steps.main(list(map(str, argv)))


def steps_by_tasks(files, work, out, n, *more):
    """sign, match and drop, each by n tasks one after another."""
    each = [["--task", f"{i}/{n}"] for i in range(n)]
    for task in each:
        step("sign", *files, "--work", work, "--workers", 1, *task)
    for task in each:
        step("match", "--work", work, *more, *task, "--phase", "pairs")
    step("match", "--work", work, *more, *each[0], "--phase", "clusters")
    for task in each:
        step("drop", *files, "--work", work, "--to", out, "--workers", 1, *task)


def products(out):
    """{name: bytes} of the files without duplicates."""
    return {path.name: path.read_bytes() for path in out.glob("*.jsonl.gz")}


def test_three_steps_by_tasks_write_the_same_bytes(tmp_path, capsys):
    files = write_documents(tmp_path / "docs")
    step("sign", *files, "--work", tmp_path / "w", "--workers", 1)
    step("match", "--work", tmp_path / "w")
    step("drop", *files, "--work", tmp_path / "w", "--to", tmp_path / "out", "--workers", 1)
    want = products(tmp_path / "out")
    assert len(want) == 5 and not (tmp_path / "w" / ".match").exists()
    for n in (2, 3, 20):
        steps_by_tasks(files, tmp_path / f"w{n}", tmp_path / f"out{n}", n)
        assert products(tmp_path / f"out{n}") == want
        left = [path.name for path in (tmp_path / f"w{n}").rglob("*") if path.is_file()]
        assert not [name for name in left if name.startswith("pairs") and name.endswith("npy")]
    step("match", "--work", tmp_path / "w2", "--task", "1/2")       # started again: nothing to do
    step("drop", *files, "--work", tmp_path / "w2", "--to", tmp_path / "out2", "--workers", 1)
    assert products(tmp_path / "out2") == want


def test_another_number_of_tasks_in_the_middle_of_a_match(tmp_path):
    files = write_documents(tmp_path / "docs", 3)
    work = tmp_path / "w"
    for i in range(2):
        step("sign", *files, "--work", work, "--workers", 1, "--task", f"{i}/2")
    step("match", "--work", work, "--task", "0/2", "--phase", "pairs")
    for task in ("0/3", "0/1"):
        with pytest.raises(ValueError, match="begun by 2 tasks, and this is task"):
            step("match", "--work", work, "--task", task)
    with pytest.raises(ValueError, match="comes after --phase pairs, which task 1/2 must do first"):
        step("match", "--work", work, "--task", "0/2", "--phase", "clusters")
    step("match", "--work", work, "--task", "1/2", "--phase", "pairs")
    step("match", "--work", work, "--task", "0/2", "--phase", "clusters")
    step("drop", *files, "--work", work, "--to", tmp_path / "out", "--workers", 1)


def test_the_script_for_slurm_has_no_phase_where_a_step_has_one(tmp_path, capsys):
    step("sign", "a.jsonl", "--work", tmp_path, "--slurm", "2")
    said = capsys.readouterr().out
    assert '-m web.dedup sign a.jsonl --work' in said and '--phase' not in said
    step("match", "--work", tmp_path, "--slurm", "2")
    said = capsys.readouterr().out
    assert '--phase "$PHASE" --task "$SLURM_ARRAY_TASK_ID/2"' in said and "clusters) last=0" in said


def test_a_match_by_tasks_whose_record_was_deleted(tmp_path):
    """It is not taken for done."""
    work = tmp_path / "w"
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "one two three"}) + "\n", encoding="utf-8")
    step("sign", path, "--work", work, "--workers", 1)
    for phase, i in (("pairs", 0), ("pairs", 1), ("clusters", 0)):
        step("match", "--work", work, "--phase", phase, "--task", f"{i}/2")
    (work / "matched.json").unlink()
    with pytest.raises(ValueError, match="made is no longer there; to begin anew"):
        step("match", "--work", work, "--task", "0/2")
