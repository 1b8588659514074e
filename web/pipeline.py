"""How data.py's run reads, works and writes: pages in, worker processes, units, shards out.

Near-duplicates are known only when all documents are, so a run makes two passes. The first takes
each document up to its signature, a few hundred documents (a unit) at a time. Each unit is a file,
and a run that was killed goes on after the last one. Then web/dedup.py finds the near-duplicates.
The second pass takes the other documents through the remaining stages into shards.

RUN/docs/.new holds the files of a run that is not complete:

    identity.json           what the run is made of; another run does not go on with it
    units/000000.jsonl      256 documents after the first pass, with their texts or reasons
    units/000000.*          their names and band keys, then which of them go (web/dedup.py)
    spent_s                 seconds up to the last unit
    first.json              what the reader of WARCs counted; here when the first pass is complete
    index.npy               band keys, for --save-index
    shards/                 what will be moved to RUN/docs, report.json last

Workers get single documents and answer in the order of the input, so their number changes nothing
in what is written.
"""

import contextlib
import functools
import gzip
import io
import itertools
import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from model import cores                # before NumPy
import numpy as np

from run import disk, progress, runs
from web import dedup, remote
from web.funnel import MAX_TEXT
from web.warc import DOCUMENT_TYPES, FILE_ENDS, read_warc

COLUMNS = ("text", "id", "dump", "url", "date", "file_path", "language", "language_score",
           "token_count", "license")
SHARD_DOCUMENTS = 10_000
UNIT = 256                      # documents; a killed run loses no more
TOGETHER = 4                    # documents that a worker is sent at once
HOME = Path(__file__).parent.parent
PROGRAM = ("data.py", "bpe.py", "web/*.py", "web/*.ftz", "tokens/*.py")     # on which texts depend

# ----------------------------------------------------------------------------------------- sources


def is_address(path):
    """Whether a source is on the net."""
    return str(path).startswith(("http://", "https://"))


def find_warcs(paths, run_dir):
    """The WARC files of paths: folders listed in order, addresses as they are; none: RUN/crawl."""
    if not paths:
        remake, folder = f"python -m web.toyweb --run {run_dir}", Path(run_dir) / "crawl"
        runs.check_settled(Path(run_dir) / ".toyweb", remake)
        files = warcs_in(folder) if folder.is_dir() else []
        if not files:
            raise FileNotFoundError(
                f"{folder}: no WARC files; make the embedded crawl with: {remake}")
        return files
    files = []
    for path in paths:
        if is_address(path):
            files.append(str(path))
        elif Path(path).is_dir():
            found = warcs_in(Path(path))
            if not found:
                raise FileNotFoundError(f"{path}: no *.warc or *.warc.gz files in it")
            files += found
        elif Path(path).exists():
            files.append(Path(path))
        else:
            raise FileNotFoundError(f"{path}: no such file")
    return files


def warcs_in(folder):
    """The WARC, WET and ARC files in a folder, sorted."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(FILE_ENDS))


class Documents:
    """A document for every page in the files, in order: a dict that collects FineWeb's columns."""

    def __init__(self, files, run_dir, dump=None):
        self.files, self.run_dir, self.dump = files, run_dir, dump
        self.counts = Counter()             # of the records, see read_warc
        self.file, self.n_before = None, 0  # the file that is read, and how many were read before

    def __iter__(self):
        for n, path in enumerate(self.files):
            columns = {"dump": self.dump or snapshot_of(path), "file_path": self.name_of(path)}
            with remote.open_url(path) if is_address(path) else open(path, "rb") as file:
                self.file, self.n_before = file, n
                for record in read_warc(file, self.counts):
                    if record.type in DOCUMENT_TYPES:
                        yield {"url": record.url, "id": record.id, "date": record.date,
                               "license": None, **columns, "record": record}

    def name_of(self, path):
        """A file's name for the column file_path: relative to the run folder, if it lies there."""
        if not is_address(path):
            inside = path.is_relative_to(self.run_dir)
            path = (path.relative_to(self.run_dir) if inside else path).as_posix()
        return os.fsencode(path).decode("utf-8", "backslashreplace")

    def share_read(self):
        """The part of the files that was read. Each counts alike; of a pipe nothing is known."""
        raw, part = self.file.raw, float(self.file.closed)
        with contextlib.suppress(OSError, ValueError, TypeError, ZeroDivisionError):
            if isinstance(raw, remote.Remote):
                part = raw.at / raw.size
            else:
                part = raw.tell() / os.fstat(raw.fileno()).st_size
        return (self.n_before + part) / len(self.files)


def snapshot_of(path):
    """The crawl of Common Crawl that a path names, else "local"."""
    found = re.search(r"CC-MAIN-\d{4}-\d{2}", str(path))
    return found[0] if found else "local"


# ----------------------------------------------------------------------------------------- workers


def take(stages, tools, names, doc):
    """Take a document through the stages of these names until one drops it; returns the document.

    doc["reason"] is why it was dropped, or None. doc["trail"] gets a row for each stage: its name,
    bytes in, bytes out, CPU seconds. A stage that fails on a document drops it, and the error is
    the reason: one page must not end a crawl.
    """
    doc["trail"], doc["reason"] = [], None
    n_out = size_of(doc)
    for name in names:
        start, n_in, text = time.process_time(), n_out, doc.get("text", "")
        try:
            doc["reason"] = stages[name](doc, tools)
            n_out = 0 if doc["reason"] else size_of(doc)
        except Exception as error:
            doc["text"], doc["reason"], n_out = text, f"error_{type(error).__name__}", 0
        doc["trail"].append((name, n_in, n_out, time.process_time() - start))
        if doc["reason"]:
            doc.pop("record", None)
            doc.pop("signature", None)
            doc["text"] = doc.get("text", "")[:MAX_TEXT]    # an example for the funnel
            break
    return doc


def size_of(doc):
    """Bytes of a document: of its page, and once that is extracted, of its text."""
    return len(doc["record"].body) if "record" in doc else len(doc["text"].encode())


@contextlib.contextmanager
def worker_processes(n, function):
    """Gives each(stages, documents): function(stages, document) in order, done by n processes."""
    if n == 1:
        yield lambda stages, docs: (function(stages, doc) for doc in docs)
        return

    def some(item):                         # a few documents at a time
        stages, docs = item
        return [function(stages, doc) for doc in docs]

    with cores.processes(n, some) as in_order:
        def each(stages, docs):
            docs = iter(docs)
            lists = iter(lambda: list(itertools.islice(docs, TOGETHER)), [])
            answers = in_order((stages, some_docs) for some_docs in lists)
            return itertools.chain.from_iterable(answers)

        try:
            yield each
        except ChildProcessError as error:
            raise ChildProcessError(
                f"{error}; the same command goes on from the last unit, and if memory was short, "
                f"with fewer --workers") from None


def with_progress(items, label, n_before=0, share_done=lambda: 0):
    """The items, with a line on standard error now and then: how many, how fast, how long still.

    n_before: items of a killed run; share_done: a function that tells the part done, if known.
    """
    start, n = time.perf_counter(), 0
    for n, item in enumerate(items, 1):
        if n % 100 == 0:
            seconds, share = time.perf_counter() - start, share_done()
            line = f"{label}: {n_before + n:,} documents, {n / seconds:,.0f} a second"
            if share > 0:
                line += f", about {progress.duration(seconds / share * (1 - share))} left"
            progress.show(line)
        yield item
    if n >= 100:
        print(file=sys.stderr)


# --------------------------------------------------------------------------------------- identity


def digest_of(path):
    """A file's SHA-256; None for an address or a pipe, which cannot be read twice."""
    return runs.sha256_of(path) if not is_address(path) and Path(path).is_file() else None


def digests(paths):
    """[name, SHA-256] of files, and of the files in folders."""
    found = []
    for path in map(Path, paths):
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        found += [[str(p), digest_of(p)] for p in inside or [path]]
    return found


def identity(files, dump, settings, stages=()):
    """What a run is made of: settings, and the contents of pages, lists, models and program."""
    program = []
    for pattern in PROGRAM:
        for path in sorted(HOME.glob(pattern)):
            program.append([str(path.relative_to(HOME)), digest_of(path)])
    return json.dumps({                     # names that are no text as \\udc.. too
        "program": program,
        "files": [[str(path), digest_of(path)] for path in files],
        "dump": dump,
        "settings": vars(settings),
        "lists": digests(settings.files),
        "unit": UNIT,
        "stages": stages,
    })


# ---------------------------------------------------------------------------------------- the run


@contextlib.contextmanager
def gzip_text(file):
    """Text that is gzipped into a file, which is closed at the end of the block.

    The bytes depend on the text only: they hold no name and no time.
    """
    with file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packer:
        with io.TextIOWrapper(packer, encoding="utf-8", newline="\n") as text:
            yield text


def write_json(path, value):
    """Write a JSON file, whole."""
    disk.write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


@dataclass
class Job:
    """A run: its input, what it does to a document, and where it counts."""
    files: list                 # of find_warcs
    run_dir: Path
    dump: str | None            # the column; None: by the file's name
    settings: object            # web.options.Settings
    stages: dict                # name: function of a document and the tools, in their order
    tools: object               # data.Tools
    funnel: object              # web.funnel.Funnel
    n_workers: int
    index: tuple = ()           # files of band keys of earlier crawls (web/dedup.py)
    save_index: Path | None = None

    @property
    def passes(self):
        """The names of the stages up to the signature, and of those after it."""
        names = list(self.stages)
        n = names.index("minhash") + 1
        return names[:n], names[n:]


def run_job(job):
    """Read WARCs, write RUN/docs: shards of documents, dropped.tsv.gz, report.json.

    All is made in RUN/docs/.new and moved when complete, report.json last. What an earlier run
    made stays until then.
    """
    check_index(job)
    docs = job.run_dir / "docs"
    new = docs / ".new"
    with runs.locked(docs, "data.py"):
        runs.settle(new / "shards", docs)
        made_of = identity(job.files, job.dump, job.settings, list(job.stages))
        recorded = new / "identity.json"
        if not recorded.exists() or recorded.read_bytes() != made_of.encode():
            shutil.rmtree(new, ignore_errors=True)
            (new / "units").mkdir(parents=True)
            disk.write_text(recorded, made_of)
        try:
            take_through = functools.partial(take, job.stages, job.tools)
            with worker_processes(job.n_workers, take_through) as each:
                first_pass(job, new, each)
                second_pass(job, new, each)
        finally:
            if not any((new / "units").glob("*.jsonl")):    # nothing to go on from
                shutil.rmtree(new, ignore_errors=True)
        if job.save_index:      # perhaps to another disk, where it may fail: before the old goes
            with open(new / "index.npy", "rb") as made, disk.whole_file(job.save_index) as out:
                shutil.copyfileobj(made, out)
        with cores.uninterrupted():
            replaced = {path.name for path in (new / "shards").iterdir()}
            old = [path.name for path in docs.glob("*.jsonl.gz") if path.name not in replaced]
            runs.publish(new / "shards", docs, "report.json", old)
        shutil.rmtree(new, ignore_errors=True)


def check_index(job):
    """An index that cannot be read or written is an error before an hour of work."""
    for path in job.index:
        dedup.load_index(path, job.settings.fineweb)
    folder = Path(job.save_index or ".").parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{job.save_index}: its folder {folder} is not there; "
                                f"make it, or name another file")


def first_pass(job, new, each):
    """Write the units that are not there yet: documents, and their names and band keys."""
    units = new / "units"
    n_units = len(list(units.glob("*.jsonl")))
    n_before = n_units * UNIT
    if n_units:
        runs.add_earlier(float((new / "spent_s").read_text(encoding="utf-8")))
    if (new / "first.json").exists():
        return
    documents = Documents(job.files, job.run_dir, job.dump)
    found = iter(documents)
    if n_units:
        print(f"{new}: going on behind {n_before:,} documents", file=sys.stderr)
        next(itertools.islice(found, n_before - 1, None), None)     # read again, no more
    before, _ = job.passes
    made = with_progress(each(before, found), "pass 1", n_before, documents.share_read)
    for number in itertools.count(n_units):
        unit = list(itertools.islice(made, UNIT))
        if not unit:
            break
        disk.write_text(new / "spent_s", f"{runs.seconds_spent():.1f}\n")
        write_unit(units, f"{number:06}", unit)
    write_json(new / "first.json", documents.counts)


def write_unit(units, stem, docs):
    """Write the files of a unit, that of its documents last."""
    kept = [doc for doc in docs if not doc["reason"]]
    signatures = np.array([doc.pop("signature") for doc in kept], np.uint64)
    signatures = signatures.reshape(-1, dedup.BANDS * dedup.ROWS)
    dedup.save_keys(units, stem, signatures, map(dedup.name_of, kept))
    with disk.whole_file(units / f"{stem}.jsonl") as out:
        for doc in docs:
            if doc["reason"]:
                wanted = ("url", "trail", "reason", "text", "page_cut")
                doc = {name: doc[name] for name in wanted if name in doc}
            out.write(json.dumps(doc, ensure_ascii=False).encode() + b"\n")


def second_pass(job, new, each):
    """Find duplicates, take the others through the last stages, write shards and report.

    All of it goes to .new/shards; a second pass that was interrupted begins anew.
    """
    shards, funnel = new / "shards", job.funnel
    shutil.rmtree(shards, ignore_errors=True)
    shards.mkdir()
    units = sorted((new / "units").glob("*.jsonl"))
    if not units:
        names = ", ".join(map(str, job.files))
        raise ValueError(f"{names}: no response records, so no documents")
    funnel.reader.update(json.loads((new / "first.json").read_text(encoding="utf-8")))
    start = time.process_time()
    save_index = new / "index.npy" if job.save_index else None
    dedup.match(new / "units", job.index, save_index, job.settings.fineweb)
    funnel.counts["minhash"]["seconds"] += time.process_time() - start

    with gzip_text(open(shards / "dropped.tsv.gz", "wb")) as dropped:
        dropped.write("url\tstage\treason\n")

        def count(doc):
            funnel.add(doc)
            if doc["reason"]:
                stage = doc["trail"][-1][0]
                dropped.write(f"{doc['url']}\t{stage}\t{doc['reason']}\n")
            return not doc["reason"]

        for doc in after_first_pass(units):     # all before the others, so that rows keep an order
            count(doc)
            funnel.reader["page_cut"] += doc.get("page_cut", 0)
        left = (doc for doc in after_first_pass(units) if not doc["reason"])
        _, behind = job.passes
        made = with_progress(each(behind, left), "pass 2")
        write_shards(filter(count, made), shards)
    write_json(shards / "report.json", funnel.report())


def after_first_pass(units):
    """The documents of all units in order; near-duplicates have that as their reason."""
    for path in units:
        goes = iter(np.load(path.with_suffix(".drop.npy")).tolist())
        with open(path, encoding="utf-8") as lines:
            for doc in map(json.loads, lines):
                if not doc["reason"] and next(goes):
                    doc["reason"] = "duplicate"
                    doc["trail"][-1][2] = 0     # bytes that left minhash, the last stage so far
                yield doc


def write_shards(docs, folder):
    """Write documents to 000000.jsonl.gz and so on, a line each with FineWeb's columns."""
    docs = iter(docs)
    for number in itertools.count():
        some = itertools.islice(docs, SHARD_DOCUMENTS)
        first = next(some, None)
        if first is None:
            return
        with gzip_text(open(folder / f"{number:06}.jsonl.gz", "wb")) as shard:
            for doc in itertools.chain([first], some):
                row = {column: doc[column] for column in COLUMNS}
                shard.write(json.dumps(row, ensure_ascii=False) + "\n")
