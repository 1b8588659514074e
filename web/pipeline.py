"""How data.py's run reads, works and writes: pages in, worker processes, units, shards out.

Near-duplicates are known only when all documents are. So a run has six phases, which several tasks
may share (run/tasks.py):

    pages       by files    each page up to its signature, some hundred documents (a unit) at a time
    pairs       by bands    pairs of near-duplicates (web/matching.py)
    clusters    task 0      which documents go
    rest        by files    the others through the remaining stages
    shards      by shards   10,000 documents each, cut over the files in their order
    publish     task 0      the report; all moves to RUN/docs

RUN/docs/.new holds the files of a run that is not complete, in a folder named by a hash of all that
the run is made of, so that another run does not go on with it:

    tasks.json, done/           how many tasks there are, and the phases that they have completed
    sources.TASK.json           the SHA-256 of each file that a task reads
    units/000003/000000.jsonl   file 3: its first 256 documents, with their texts or reasons
    keys/000003.*               names and band keys of all that stay of file 3, then which of them
                                are near-duplicates (web/matching.py)
    keys/000003.counts.json     what the reader counted; written when all of file 3 was read
    spent.TASK                  seconds up to the last unit
    pairs/                      pairs of near-duplicates
    index.npy                   band keys, for --save-index
    rest/000003.jsonl           the documents of file 3 that stay, as they stand in shards
    rest/000003.dropped.json    lines for dropped.tsv.gz
    rest/000003.json            its funnel
    rest/000003.rows.json       how many documents stay; written last
    shards/                     what will be moved to RUN/docs, report.json last

A run that was killed goes on after the last unit of each file. Workers get single documents and
answer in the order of the input. So neither their number nor that of tasks changes anything in what
is written.
"""

import contextlib
import functools
import itertools
import json
import operator
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

from run import disk, parquet, progress, runs, tasks
from web import dedup, matching, options, remote, results
from web.funnel import MAX_TEXT
from web.warc import DOCUMENT_TYPES, FILE_ENDS, Record, read_warc

ORIGIN = ("dump", "file_path")  # columns that say where a document comes from
UNIT = 256                      # documents; a killed run loses no more
TOGETHER = 4                    # documents that a worker is sent at once
PROGRAM = (                     # on which texts depend
    "data.py", "bpe.py", "web/*.py", "web/*.ftz", "tokens/*.py", "run/parquet.py")

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
                raise FileNotFoundError(f"{path}: no *.warc, *.warc.gz or *.parquet files in it")
            files += found
        elif Path(path).exists():
            files.append(Path(path))
        else:
            raise FileNotFoundError(f"{path}: no such file")
    return files


def warcs_in(folder):
    """The WARC, WET, ARC and Parquet files in a folder, sorted."""
    return sorted(path for path in folder.iterdir()
                  if path.name.endswith((*FILE_ENDS, ".parquet")))


def pages_of(path, file, counts):
    """Yields (record, columns that are known already) for every page in a WARC.

    A file of documents, such as FineWeb's own, holds texts that somebody has extracted, as a WET
    file does. What it says of where they come from is kept. counts: see read_warc.
    """
    if not str(path).endswith(parquet.SUFFIXES):
        for record in read_warc(file, counts):
            if record.type in DOCUMENT_TYPES:
                yield record, {}
        return
    if is_address(path):
        raise ValueError(f"{path}: only WARCs are read from the net; fetch the file first")
    for document in parquet.documents(path):
        url, date, name = (document.get(column) or "" for column in ("url", "date", "id"))
        text = document["text"].encode("utf-8", "surrogatepass")
        known = {column: document[column] for column in ORIGIN if document.get(column)}
        counts["conversion"] += 1
        yield Record(url, str(date), name, "conversion", body=text, charset="utf-8"), known


class Documents:
    """A document for every page in the files, in order: a dict that collects FineWeb's columns.

    skip: how many pages at the start of each file are read and left out. A document's "file" is the
    position of its file.
    """

    def __init__(self, files, run_dir, dump=None, skip=None):
        self.files, self.run_dir, self.dump = files, run_dir, dump
        self.skip = skip or [0] * len(files)
        self.counts = [Counter() for _ in files]    # of each file's records, see read_warc
        self.file, self.n_before = None, 0  # the file that is read, and how many were read before

    def __iter__(self):
        given = {"dump": self.dump} if self.dump else {}
        for n, path in enumerate(self.files):
            columns = {"dump": snapshot_of(path), "file_path": self.name_of(path)}
            with remote.open_url(path) if is_address(path) else open(path, "rb") as file:
                self.file, self.n_before = file, n
                pages = pages_of(path, file, self.counts[n])
                for record, known in itertools.islice(pages, self.skip[n], None):
                    yield {"url": record.url, "id": record.id, "date": record.date,
                           "license": None, **columns, **known, **given, "record": record,
                           "file": n}

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


def with_progress(items, label, share_done=lambda: 0):
    """The items, with a line on standard error now and then: how many, how fast, how long still.

    share_done: a function that tells the part done, if known.
    """
    start, n = time.perf_counter(), 0
    for n, item in enumerate(items, 1):
        if n % 100 == 0:
            seconds, share = time.perf_counter() - start, share_done()
            line = f"{label}: {n:,} documents, {n / seconds:,.0f} a second"
            if share > 0:
                line += f", about {progress.duration(seconds / share * (1 - share))} left"
            progress.show(line)
        yield item
    progress.end()


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


def identity(job):
    """What a run is made of: settings, and the contents of lists, models and program.

    Of its files there are only the names: each task looks at the contents of its own, see begin.
    """
    return {                                # names that are no text as \\udc.. too
        "program": tasks.program(PROGRAM),
        "files": [str(path) for path in job.files],
        "dump": job.dump,
        "settings": vars(job.settings),
        "lists": digests(job.settings.files),
        "index": digests(job.index),
        "save_index": bool(job.save_index),
        "unit": UNIT,
        "shard": results.SHARD_DOCUMENTS,
        "stages": list(job.stages),
    }


# ---------------------------------------------------------------------------------------- the run


@dataclass
class Job:
    """A run: its input, what it does to a document, and where it counts."""
    files: list                 # of find_warcs
    run_dir: Path
    dump: str | None            # the column; None: by the file's name
    settings: object            # web.options.Settings
    stages: dict                # name: function of a document and the tools, in their order
    tools: object               # data.Tools
    new_funnel: object          # a function that makes an empty web.funnel.Funnel
    n_workers: int
    index: tuple = ()           # files of band keys of earlier crawls (web/matching.py)
    save_index: Path | None = None
    task: tasks.Task = tasks.ALONE
    phase: str | None = None    # the one phase to do

    @property
    def passes(self):
        """The names of the stages up to the signature, and of those after it."""
        names = list(self.stages)
        n = names.index("minhash") + 1
        return names[:n], names[n:]

    @property
    def of_task(self):
        """A word behind each line of progress, where the lines of several tasks are mixed."""
        return "" if self.task == tasks.ALONE else f" of task {self.task}"

    @property
    def staged(self):
        """The folder of complete results, on their way to RUN/docs."""
        return self.run_dir / "docs" / ".new" / "shards"


def run_job(job):
    """Read WARCs, write RUN/docs: shards of documents, dropped.tsv.gz, report.json. -> Funnel

    All is made in RUN/docs/.new and moved when complete, report.json last. What an earlier run
    made stays until then. Returns None if this task has not published the results.
    """
    check_index(job)
    docs, published = job.run_dir / "docs", []
    with tasks.locked(docs, "data.py", job.task):
        if job.task.index == 0:
            runs.settle(job.staged, docs)
        phases = begin(job)
        folder = phases.folder
        try:
            phases.run("pages", lambda: read_pages(job, folder))
            phases.run("pairs", lambda: find_pairs(job, folder))
            phases.run("clusters", lambda: join_pairs(job, folder))
            phases.run("rest", lambda: take_the_rest(job, folder))
            phases.run("shards", lambda: results.write_shards(job, folder))
            phases.run("publish", lambda: published.append(results.publish(job, folder)))
        finally:
            nothing = not any((folder / "units").glob("*/*.jsonl"))
            if job.task == tasks.ALONE and nothing:         # nothing to go on from
                phases.finish()
        phases.check_products([docs / "report.json"])
        if phases.is_complete():
            phases.finish()
    return published[0] if published else None


def check_index(job):
    """An index that cannot be read or written is an error before an hour of work."""
    for path in job.index:
        matching.load_index(path, job.settings.fineweb)
    folder = Path(job.save_index or ".").parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{job.save_index}: its folder {folder} is not there; "
                                f"make it, or name another file")


def sources_of(job):
    """[number, SHA-256] of the files that the job's task reads."""
    return [[n, digest_of(job.files[n])] for n in job.task.own(range(len(job.files)))]


def begin(job):
    """The Phases of the run, after a look whether the task's files are those that it began with."""
    sources = sources_of(job)
    place = job.run_dir / "docs" / ".new"
    phases = tasks.Phases(place, job.task, options.PHASES, identity(job), job.phase)
    record = phases.folder / f"sources.{job.task.index}.json"
    if record.exists() and json.loads(record.read_text(encoding="utf-8")) != sources:
        if job.task != tasks.ALONE:
            raise ValueError(f"{phases.folder}: files of task {job.task} have changed since the "
                             f"run was begun; end all tasks and remove the folder, then start "
                             f"them again")
        shutil.rmtree(phases.folder)
        return begin(job)
    for name in ("units", "keys", "pairs", "rest"):
        (phases.folder / name).mkdir(exist_ok=True)
    if not record.exists():
        results.write_json(record, sources)
    return phases


# --------------------------------------------------------------------------------------- the phases


def unfinished(job, folder, name):
    """The numbers of a task's files that have no record yet: folder/000003.NAME for file 3."""
    mine = job.task.own(range(len(job.files)))
    return [n for n in mine if not (folder / f"{n:06}.{name}").exists()]


def by_file(docs, n):
    """Yields (position, its documents) for each of n files, also for those without documents.

    docs: in the order of files. When the documents of a file have been taken, one of a later file
    has been asked for: so all that is to be read of this file has been read.
    """
    groups = itertools.groupby(docs, key=operator.itemgetter("file"))
    group = next(groups, None)
    for position in range(n):
        if group and group[0] == position:
            yield position, group[1]
            group = next(groups, None)
        else:
            yield position, ()


def read_pages(job, folder):
    """Write the units of the task's files that are not there yet, and then each file's keys."""
    keys, spent = folder / "keys", folder / f"spent.{job.task.index}"
    numbers = unfinished(job, keys, "counts.json")
    units = [folder / "units" / f"{n:06}" for n in numbers]
    begun = [len(list(unit.glob("*.jsonl"))) for unit in units]
    if spent.exists():
        runs.add_earlier(float(spent.read_text(encoding="utf-8")))
        print(f"{folder}: going on behind what a killed run has done", file=sys.stderr)
    skip = [n * UNIT for n in begun]                        # these are read again, no more
    documents = Documents([job.files[n] for n in numbers], job.run_dir, job.dump, skip)
    before, _ = job.passes
    with worker_processes(job.n_workers, functools.partial(take, job.stages, job.tools)) as each:
        made = with_progress(each(before, iter(documents)), f"pass 1{job.of_task}",
                             documents.share_read)
        for position, docs in by_file(made, len(numbers)):
            units[position].mkdir(exist_ok=True)
            docs = iter(docs)
            for unit in itertools.count(begun[position]):
                some = list(itertools.islice(docs, UNIT))
                if not some:
                    break
                disk.write_text(spent, f"{runs.seconds_spent():.1f}\n")
                write_unit(units[position] / f"{unit:06}.jsonl", some)
            number = f"{numbers[position]:06}"
            write_keys(units[position], keys, number)
            results.write_json(keys / f"{number}.counts.json", documents.counts[position])


def write_unit(path, docs):
    """Write documents after the first pass, a line each. Those that stay have their band keys."""
    kept = [doc for doc in docs if not doc["reason"]]
    keys = matching.keys_of([doc.pop("signature") for doc in kept])
    for doc, row in zip(kept, keys.tolist()):
        doc["keys"] = row
        del doc["file"]                 # its position among the files of this task
    with disk.whole_file(path) as out:
        for doc in docs:
            if doc["reason"]:
                wanted = ("url", "trail", "reason", "text", "page_cut")
                doc = {name: doc[name] for name in wanted if name in doc}
            out.write(json.dumps(doc, ensure_ascii=False).encode() + b"\n")


def documents_of(unit):
    """The documents of all units of a file, in order. unit: their folder."""
    for path in sorted(unit.glob("*.jsonl")):
        with open(path, encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def write_keys(unit, keys, number):
    """Write names and band keys of a file's documents, which its units have."""
    rows, names = [], []
    for doc in documents_of(unit):
        if not doc["reason"]:
            rows.append(doc["keys"])
            names.append(matching.name_of(doc))
    rows = np.array(rows, np.uint64).reshape(-1, dedup.BANDS)
    matching.save_keys(keys, number, rows, names)


def find_pairs(job, folder):
    """Find the task's part of the pairs of near-duplicates."""
    start = time.process_time()
    matching.find_pairs(folder / "keys", folder / "pairs", job.task, job.index,
                        job.settings.fineweb)
    seconds = time.process_time() - start
    results.write_json(folder / f"minhash.{job.task.index}.json", {"seconds": seconds})


def join_pairs(job, folder):
    """Decide which documents go."""
    start = time.process_time()
    if not any((folder / "units").glob("*/*.jsonl")):
        names = ", ".join(map(str, job.files))
        raise ValueError(f"{names}: no response records, so no documents")
    save_index = folder / "index.npy" if job.save_index else None
    matching.join_pairs(folder / "keys", folder / "pairs", save_index, job.settings.fineweb)
    seconds = time.process_time() - start
    results.write_json(folder / "minhash.clusters.json", {"seconds": seconds})


def after_first_pass(folder, number):
    """The documents of a file in order; near-duplicates have that as their reason."""
    goes = iter(np.load(folder / "keys" / f"{number}.drop.npy").tolist())
    for doc in documents_of(folder / "units" / number):
        if not doc["reason"] and next(goes):
            doc["reason"] = "duplicate"
            doc["trail"][-1][2] = 0     # bytes that left minhash, the last stage so far
        yield doc


def take_the_rest(job, folder):
    """Take what is left of the task's files through the last stages, and write their results."""
    numbers = unfinished(job, folder / "rest", "rows.json")
    accounts = [results.Account(job.new_funnel()) for _ in numbers]

    def left():
        for position, number in enumerate(numbers):
            read = disk.read_json(folder / "keys" / f"{number:06}.counts.json")
            accounts[position].funnel.reader.update(read)
            for doc in after_first_pass(folder, f"{number:06}"):
                accounts[position].add_first(doc)
                if not doc["reason"]:
                    yield {**doc, "file": position}

    _, behind = job.passes
    with worker_processes(job.n_workers, functools.partial(take, job.stages, job.tools)) as each:
        made = with_progress(each(behind, left()), f"pass 2{job.of_task}")
        for position, docs in by_file(made, len(numbers)):
            results.write_file(folder / "rest", numbers[position], docs, accounts[position])
            accounts[position] = None
