"""web/results.py: the results of each file, and shards over all. A run: test_pipeline.py."""

import gzip
import json
import types

import pytest

from run import tasks
from web import results


class Nothing:
    """In place of a funnel."""

    def add(self, doc):
        pass

    def counted(self):
        return {}


def write_results(folder, sizes):
    """Results of files with so many documents each; returns the rows that shards should hold."""
    rest, n = folder / "rest", 0
    rest.mkdir(parents=True)
    rows = []
    for number, size in enumerate(sizes):
        docs = []
        for _ in range(size):
            doc = dict.fromkeys(results.COLUMNS) | {"text": f"zwei\u2028\x85{n} é" * (n % 5)}
            rows.append(json.dumps(doc, ensure_ascii=False) + "\n")
            docs.append({**doc, "reason": None, "signature": "no column"})
            n += 1
        results.write_file(rest, number, docs, results.Account(Nothing()))
    return rows


@pytest.mark.parametrize("every", [1, 3, 1000])
@pytest.mark.parametrize("sizes", [[0], [7], [10], [0, 3, 0, 25, 1, 0, 6], [4, 1, 0, 0, 15]])
@pytest.mark.parametrize("n_tasks, workers", [(1, 1), (3, 1), (2, 2)])
def test_shards_are_cut_over_all_files_in_order(tmp_path, monkeypatch, sizes, every, n_tasks,
                                                workers):
    monkeypatch.setattr(results, "SHARD_DOCUMENTS", 5)
    monkeypatch.setattr(results, "EVERY", every)
    rows = write_results(tmp_path, sizes)
    for i in range(n_tasks):
        job = types.SimpleNamespace(files=sizes, task=tasks.Task(i, n_tasks), n_workers=workers)
        results.write_shards(job, tmp_path)
    shards = sorted((tmp_path / "shards").iterdir())
    assert [path.name for path in shards] == [f"{i:06}.jsonl.gz" for i in range(-(-len(rows) // 5))]
    found = [gzip.decompress(path.read_bytes()).decode() for path in shards]
    assert found == ["".join(rows[i:i + 5]) for i in range(0, len(rows), 5)]


def test_a_shard_that_is_there_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "SHARD_DOCUMENTS", 5)
    write_results(tmp_path, [12])
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "000001.jsonl.gz").write_text("made before")
    results.write_shards(types.SimpleNamespace(files=[0], task=tasks.ALONE, n_workers=1), tmp_path)
    assert (tmp_path / "shards" / "000001.jsonl.gz").read_text() == "made before"
    assert len(list((tmp_path / "shards").iterdir())) == 3
