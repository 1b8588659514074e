"""What data.py's run has made: the results of each file, cut into shards, and the report.

web/pipeline.py takes documents through the stages, and writes the results of each WARC file apart,
because tasks take whole files. Shards have 10,000 documents each, over all files in their order: a
shard may begin in the middle of one file's documents and end in that of another's.
"""

import itertools
import json
import os
import shutil

from model import cores
from run import disk, parquet, runs

COLUMNS = tuple(parquet.COLUMNS)
SHARD_DOCUMENTS = 10_000
EVERY = 1000                    # documents: the place of each such line is noted

# ----------------------------------------------------------------------------------------- writing


def write_json(path, value):
    """Write a JSON file, whole."""
    disk.write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


# ----------------------------------------------------------------------------------------- a file


class Account:
    """What became of a file's documents: its funnel, and lines for dropped.tsv.gz.

    first, later: the lines of documents that were dropped up to minhash, and after it.
    """

    def __init__(self, funnel):
        self.funnel, self.first, self.later = funnel, [], []

    def add_first(self, doc):
        """Count a document after the first pass."""
        self.add(doc, self.first)
        self.funnel.reader["page_cut"] += doc.get("page_cut", 0)

    def add(self, doc, lines):
        """Count a document after a pass; if it was dropped, add its line to the lines."""
        self.funnel.add(doc)
        if doc["reason"]:
            stage = doc["trail"][-1][0]
            lines.append(f"{doc['url']}\t{stage}\t{doc['reason']}\n")


def write_file(folder, number, docs, account):
    """Write the results of a file: the rows of documents that stay, and its account."""
    places, at, n = [], 0, 0
    with disk.whole_file(folder / f"{number:06}.jsonl") as rows:
        for doc in docs:
            account.add(doc, account.later)
            if doc["reason"]:
                continue
            if n % EVERY == 0:
                places.append(at)
            row = {column: doc[column] for column in COLUMNS}
            at += rows.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            n += 1
    write_json(folder / f"{number:06}.dropped.json", [account.first, account.later])
    write_json(folder / f"{number:06}.json", account.funnel.counted())
    write_json(folder / f"{number:06}.rows.json", {"documents": n, "places": places})


# ----------------------------------------------------------------------------------- all the files


def write_shards(job, folder):
    """Write the task's shards that are not there yet: a line each with FineWeb's columns."""
    shards, rest = folder / "shards", folder / "rest"
    shards.mkdir(exist_ok=True)
    files = [disk.read_json(rest / f"{n:06}.rows.json") for n in range(len(job.files))]
    n_documents = sum(file["documents"] for file in files)
    numbers = job.task.own(range(-(-n_documents // SHARD_DOCUMENTS)))
    numbers = [n for n in numbers if not (shards / f"{n:06}.jsonl.gz").exists()]

    def write(number):
        path = shards / f"{number:06}.jsonl.gz"
        with disk.whole_file(path) as file, disk.gzip_text(file) as shard:
            shard.writelines(rows_of(number, files, rest))

    if min(job.n_workers, len(numbers)) > 1:
        with cores.processes(min(job.n_workers, len(numbers)), write) as in_order:
            for _ in in_order(numbers):
                pass
    else:
        for number in numbers:
            write(number)


def rows_of(number, files, rest):
    """The rows of a shard, out of those of all files. files: see write_file."""
    begin = number * SHARD_DOCUMENTS
    end, first = begin + SHARD_DOCUMENTS, 0                 # of all documents
    for n, file in enumerate(files):
        last = first + file["documents"]
        n_rows = min(last, end) - max(first, begin)         # of this file in this shard
        if n_rows > 0:
            place, behind = divmod(max(0, begin - first), EVERY)
            with open(rest / f"{n:06}.jsonl", "rb") as rows:
                rows.seek(file["places"][place])
                for row in itertools.islice(rows, behind, behind + n_rows):
                    yield row.decode("utf-8")
        first = last


def publish(job, folder):
    """Write dropped.tsv.gz and report.json beside the shards, and move all to RUN/docs. -> Funnel

    A process that was killed in between may have moved some or all of it.
    """
    docs, shards, rest = job.run_dir / "docs", folder / "shards", folder / "rest"
    numbers = range(len(job.files))
    funnel = job.new_funnel()
    for n in numbers:
        funnel.merge(disk.read_json(rest / f"{n:06}.json"))
    for path in folder.glob("minhash.*.json"):
        funnel.counts["minhash"]["seconds"] += disk.read_json(path)["seconds"]
    if shards.exists():
        with disk.gzip_text(open(shards / "dropped.tsv.gz", "wb")) as dropped:
            dropped.write("url\tstage\treason\n")
            for which in (0, 1):        # all of the first pass first
                for n in numbers:
                    text = (rest / f"{n:06}.dropped.json").read_text(encoding="utf-8")
                    dropped.writelines(json.loads(text)[which])
        write_json(shards / "report.json", funnel.report())
        if job.save_index:      # perhaps to another disk, where it may fail: before the old goes
            with open(folder / "index.npy", "rb") as made, disk.whole_file(job.save_index) as out:
                shutil.copyfileobj(made, out)
        made = {path.name for path in shards.iterdir()}
        old = [path.name for path in docs.glob("*.jsonl.gz") if path.name not in made]
        runs.prepare(shards, "report.json", old)    # first: a folder in job.staged is complete
        shutil.rmtree(job.staged, ignore_errors=True)
        os.rename(shards, job.staged)
    with cores.uninterrupted():
        runs.settle(job.staged, docs)
    return funnel
