"""A raw web crawl in, clean documents out: FineWeb's recipe, stage by stage, on one machine.

    url                 hosts and words that need no reading
    rights              pages that say they are not to be used
    extract             HTML -> main text                           (web/extract.py)
    language            English, and sure of it                     (web/language.py)
    gopher_repetition   text that repeats itself                    (web/filters.py, as all that is not said to be elsewhere)
    gopher_quality      text that is not sentences
    minhash             near-duplicates of another document         (web/dedup.py)
    c4                  lines, then documents, that are code, notices or stubs
    fineweb             lists, menus, lines said twice
    pii                 e-mail and public IP addresses are replaced

FineWeb has two orders, and two sets of rules; report.json names those of a run.

    --order paper       as above: the paper, section 3.7. Near-duplicates go before c4 rewrites the text.
    --order script      c4 and fineweb before minhash: examples/fineweb.py of datatrove, which made the data set.
    --fineweb 0.10      the rules of datatrove 0.10, which later FineWebs run with
    --fineweb v1        the rules of datatrove 0.2, which made FineWeb v1 (web/filters.py lists what differs)
    --no-rights         asks no page for its rights, as FineWeb

The nearest to FineWeb v1 is --order script --fineweb v1 --no-rights, with lid.176.bin and UT1's lists. What stays
different: text is web/extract.py's and not trafilatura's; the filters' words are spaCy's and not NLTK's, whose splitter of
sentences is a trained model; of near-duplicates the one stays that was fetched first; replaced addresses do not
depend on other documents.

Near-duplicates are known only when all documents are, hence two passes. The first takes documents, a few hundred at a time,
to their signatures; each such unit is a file, and a run that was killed goes on behind the last one. The second takes
what is left through the other stages.

    python data.py --run out/demo                        reads out/demo/crawl/*.warc.gz
    python data.py CC-MAIN-x.warc.gz --run out/cc --blocklist ut1/adult --language-model lid.176.ftz
    python data.py --crawl CC-MAIN-2024-51 --files 3 --run out/cc       three files of a crawl, as they come over the net
    python data.py crawl https://example.com --run out/mine             fetch pages politely, into out/mine/crawl (web/crawl.py)

Sources: Penedo et al. 2024 (FineWeb, arXiv 2406.17557); ISO 28500 (WARC).
"""

import argparse
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
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from model import cores                # before NumPy: one BLAS thread for each worker, and freed memory is kept
import numpy as np

from web import charset
from run import command, disk
from web import crawl
from web import dedup
from web import extract
from web import filters
from web import remote
from run import runs
from web.dedup import deduplicate, minhash  # noqa: F401   these too are how others call them
from web.filters import c4_quality, fineweb_quality, gopher_quality, gopher_repetition, redact, url_filter
from web.warc import DOCUMENT_TYPES, FILE_ENDS, document_kind, read_warc

STAGES = ("url", "rights", "extract", "language", "gopher_repetition", "gopher_quality", "minhash",
          "c4", "fineweb", "pii")
ORDERS = {"paper": STAGES, "script": (*STAGES[:6], "c4", "fineweb", "minhash", "pii")}
COLUMNS = ("text", "id", "dump", "url", "date", "file_path", "language", "language_score",
           "token_count", "license")
LANGUAGE_THRESHOLD = 0.65
SHARD_DOCUMENTS = 10_000
UNIT = 256                      # documents; what a killed run loses at most

# --------------------------------------------------------------------------------------------------
# The stages. A document is a dict that collects FineWeb's columns.


@dataclass(frozen=True)
class Settings:
    """All that decides what becomes of a document."""
    blocklist: tuple = ()       # UT1 folders and files of domains
    hard_words: str = None      # files that replace the lists of web/filters.py
    soft_words: str = None
    subwords: str = None
    suffixes: str = None        # public suffix list
    languages: tuple = ("en",)
    language_model: str = None
    tokenizer: str = None
    pii: tuple = ("email", "ip")
    fineweb: str = "0.10"       # whose rules: filters.VERSIONS
    order: str = "paper"        # of the stages: ORDERS
    rights: bool = True         # ask pages for their rights

    @property
    def stages(self):
        """Names of the stages in their order."""
        return tuple(stage for stage in ORDERS[self.order] if self.rights or stage != "rights")

    @property
    def passes(self):
        """The stages up to the signature, and those behind it."""
        at = self.stages.index("minhash") + 1
        return self.stages[:at], self.stages[at:]


class Stages:
    """One method a stage: document -> (kept text, None) or (None, reason). One in every worker."""

    def __init__(self, settings):
        from web import language                                     # here, so that reading WARCs needs none
        s = self.settings = settings
        self.blocklist = filters.load_blocklist(s.blocklist, s.hard_words, s.soft_words, s.subwords, s.suffixes)
        self.classifier, self.tokenizer = language.load(s.language_model), None
        if s.tokenizer:
            import bpe
            self.tokenizer = bpe.Tokenizer.load(s.tokenizer)

    def url(self, doc):
        return url_filter(doc["url"], self.blocklist)

    def rights(self, doc):
        record = doc["record"]
        page = b"" if record.type == "conversion" else record.body      # a text has no tags
        why, doc["license"] = filters.rights(record.http_headers, page, record.date)
        return None if why else "", why

    def extract(self, doc):
        record = doc.pop("record")
        if record.status and not 200 <= record.status < 300:            # Common Crawl keeps those elsewhere
            return None, "http_status"
        kind, why = document_kind(record)
        if kind == "text":                                  # of a WET file: somebody has extracted it
            text = charset.decode(record.body, record.charset or "utf-8")
        else:
            counts = Counter()
            text = extract.main_text(record.body, record.url, record.charset, counts) if kind else None
            doc["page_cut"] = counts["page_cut"]            # of a page beyond every budget the end is not read
        return (text, None) if text else (None, why or "empty")

    def language(self, doc):
        between = "" if self.settings.fineweb == "v1" else " "          # v1 joins words over the ends of lines
        [label], [score] = self.classifier.predict([doc["text"].replace("\n", between)])
        doc["language"], doc["language_score"] = str(label), float(score)
        if label not in self.settings.languages:
            return None, "language"
        return (doc["text"], None) if score > LANGUAGE_THRESHOLD else (None, "low_score")

    def gopher_repetition(self, doc):
        return gopher_repetition(doc["text"], self.settings.fineweb)

    def gopher_quality(self, doc):
        return gopher_quality(doc["text"], self.settings.fineweb)

    def minhash(self, doc):
        doc["signature"] = minhash([doc["text"]], self.settings.fineweb)[0]
        return doc["text"], None

    def c4(self, doc):
        return c4_quality(doc["text"])

    def fineweb(self, doc):
        return fineweb_quality(doc["text"], self.settings.fineweb)

    def pii(self, doc):
        text = redact(doc["text"], self.settings.pii, self.settings.fineweb)
        doc["token_count"] = len(self.tokenizer.encode_ordinary(text)) if self.tokenizer else None
        return text, None


WORKER = None                                               # the Stages of this process
BEFORE_TEXT = ("url", "rights")                             # they judge the page, not yet its text


def start_worker(settings):
    global WORKER
    WORKER = Stages(settings)


def through(doc, stages):
    """Take a document through stages until one drops it, noting in doc["trail"] what each cost.

    A stage that fails on a document drops it under the error's name: one page must not end a crawl.
    """
    doc["trail"], doc["reason"] = [], None
    size = len(doc["record"].body) if "record" in doc else len(doc["text"].encode())
    for stage in stages:
        start = time.process_time()
        try:
            text, doc["reason"] = getattr(WORKER, stage)(doc)
            n_out = 0 if text is None else size if stage in BEFORE_TEXT else len(text.encode())
        except Exception as error:
            text, n_out, doc["reason"] = None, 0, f"error_{type(error).__name__}"
        n_in, size = size, n_out
        doc["trail"].append((stage, n_in, size, time.process_time() - start))
        if text is None:
            for what in ("record", "signature"):
                doc.pop(what, None)
            doc["text"] = doc.get("text", "")[:300]         # an example for the report
            break
        if stage not in BEFORE_TEXT:
            doc["text"] = text
    return doc


def first_pass(doc):
    return through(doc, WORKER.settings.passes[0])


def second_pass(doc):
    return through(doc, WORKER.settings.passes[1])


def work(settings, item):                                   # in a worker process
    if WORKER is None:                                      # a forked one has its parent's
        start_worker(settings)
    each, docs = item
    return [each(doc) for doc in docs]


@contextlib.contextmanager
def worker_processes(n, settings):
    """A function like map that has n processes do the work. They end with the block."""
    if n == 1:
        yield map
        return
    with cores.processes(n, functools.partial(work, settings)) as in_order:
        def each_in_order(each, docs):                      # a few documents at a time
            lists = iter(lambda docs=iter(docs): list(itertools.islice(docs, 4)), [])
            return itertools.chain.from_iterable(in_order((each, docs) for docs in lists))
        try:
            yield each_in_order
        except ChildProcessError as error:
            raise ChildProcessError(f"{error}; the same command goes on from the last unit, and if it was for want of memory, "
                                    f"with fewer --workers") from None


class Report:
    """Counts of every stage, and the list of what was dropped, as the documents come by."""

    def __init__(self, dropped, settings):
        self.dropped, self.settings, self.reader = dropped, settings, Counter()
        self.stages = {stage: Counter() for stage in settings.stages}
        self.reasons = {stage: Counter() for stage in settings.stages}
        self.examples = {stage: defaultdict(list) for stage in settings.stages}

    def add(self, doc):
        for stage, n_in, n_out, seconds in doc["trail"]:
            self.stages[stage].update(documents_in=1, documents_out=1, bytes_in=n_in,
                                      bytes_out=n_out, seconds=seconds)
        if doc["reason"]:
            self.drop(doc, stage, doc["reason"])

    def drop(self, doc, stage, reason):
        self.stages[stage]["documents_out"] -= 1
        self.reasons[stage][reason] += 1
        if len(self.examples[stage][reason]) < 3:
            example = {"url": doc["url"], "text": doc.get("text", "")[:300]}
            self.examples[stage][reason].append(example)
        self.dropped.write(f"{doc['url']}\t{stage}\t{reason}\n")

    def as_dict(self):
        stages = {}
        for stage, row in self.stages.items():
            counts = {k: row[k] for k in ("documents_in", "documents_out", "bytes_in", "bytes_out")}
            stages[stage] = counts | {"seconds": round(row["seconds"], 3),
                                      "reasons": dict(self.reasons[stage].most_common()),
                                      "examples": self.examples[stage]}
        return {"settings": vars(self.settings), "stages": stages, "reader": dict(sorted(self.reader.items())),
                "note": "seconds are CPU seconds of the stage, summed over workers"}

    def table(self):
        lines = [f"{'stage':<18}{'in':>9}{'out':>9}{'dropped':>9}{'MB in':>10}{'MB out':>10}"
                 f"{'CPU s':>9}  main reasons"]
        for stage, row in self.stages.items():
            n, kept = row["documents_in"], row["documents_out"]
            reasons = ", ".join(f"{why} {k}" for why, k in self.reasons[stage].most_common(3))
            lines.append(f"{stage:<18}{n:>9}{kept:>9}{1 - kept / max(n, 1):>9.1%}"
                         f"{row['bytes_in'] / 1e6:>10.2f}{row['bytes_out'] / 1e6:>10.2f}"
                         f"{row['seconds']:>9.2f}  {reasons}".rstrip())
        return "\n".join(lines)


class GzipText(io.TextIOWrapper):
    """Text that is gzipped into a file; the bytes depend on the text only: no name, no time."""

    def __init__(self, file):
        packer = gzip.GzipFile("", "wb", 6, file, mtime=0)
        super().__init__(packer, encoding="utf-8", newline="\n")
        self.file = file

    def close(self):
        try:
            super().close()
        finally:
            self.file.close()                               # GzipFile leaves it and its last bytes


def gzip_text(path):
    return GzipText(open(path, "wb"))


# --------------------------------------------------------------------------------------------------
# Where pages come from.


class Meter:
    """A file, counting what was read of it into a list of (bytes read, size or None), its last row."""

    def __init__(self, file, size, rows):
        self.file, self.rows, self.name = file, rows, getattr(file, "name", "stream")
        rows.append([0, size])

    def read(self, n=-1):
        piece = self.file.read(n)
        self.rows[-1][0] += len(piece)
        return piece


def is_address(path):
    return str(path).startswith(("http://", "https://"))


def find_warcs(paths, run_dir):
    """The WARC files that paths name, folders listed in order, addresses as they are; without paths those of RUN/crawl."""
    files = []
    if not paths:
        runs.check_settled(Path(run_dir) / ".toyweb", f"python -m web.toyweb --run {run_dir}")
    for path in paths or [Path(run_dir) / "crawl"]:
        if is_address(path):
            files.append(str(path))
            continue
        path = Path(path)
        here = [path]
        if path.is_dir():
            here = sorted(p for p in path.iterdir() if p.name.endswith(FILE_ENDS))
        if not paths and not (path.is_dir() and here):
            raise FileNotFoundError(f"{path}: no WARC files; make the embedded crawl with: "
                                    f"python -m web.toyweb --run {run_dir}")
        if not here:
            raise FileNotFoundError(f"{path}: no *.warc or *.warc.gz files in it")
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        files += here
    return files


def documents(files, run_dir, dump, counts, rows):
    """A document for every page in the files, in order. rows: see Meter."""
    for path in files:
        name = path if is_address(path) else (path.relative_to(run_dir) if path.is_relative_to(run_dir) else path).as_posix()
        name = os.fsencode(name).decode("utf-8", "backslashreplace")
        snapshot = re.search(r"CC-MAIN-\d{4}-\d{2}", str(path))
        with contextlib.closing(remote.open_url(path) if is_address(path) else open(path, "rb")) as file:
            size = getattr(file, "size", None) if is_address(path) else path.stat().st_size
            for record in read_warc(Meter(file, size, rows), counts):
                if record.type in DOCUMENT_TYPES:
                    yield {"url": record.url, "id": record.id, "date": record.date, "license": None,
                           "dump": dump or (snapshot[0] if snapshot else "local"), "file_path": name, "record": record}


# --------------------------------------------------------------------------------------------------
# The run. RUN/docs/.new holds what is not complete: units, then shards.


def progress(items, what, done=0, rows=None, n_files=1):
    """The items, with a line on standard error now and then: how many, how fast, and how long it will take."""
    start, shown = time.perf_counter(), False
    for n, item in enumerate(items, 1):
        if n % 100 == 0:
            seconds = time.perf_counter() - start
            part = 0.0
            if rows:                                        # of all bytes: files not yet opened are as large as the last
                sizes = [size or read for read, size in rows]
                part = sum(read for read, _ in rows) / max(1, sum(sizes) + (n_files - len(rows)) * sizes[-1])
            left = f", about {seconds / part * (1 - part):,.0f} s left" if part > 0 else ""
            print(f"\r{what}: {done + n:,} documents, {n / seconds:,.0f} a second{left}  ", end="", file=sys.stderr, flush=True)
            shown = True
        yield item
    if shown:
        print(file=sys.stderr)


def identity(files, dump, settings):
    """What a half-finished run was made of, so that no other goes on with it.

    These are the settings, and the contents of files: pages, lists, models, and this program.
    """
    pages = [[str(f), digest_of(f)] for f in files]
    given = (*settings.blocklist, settings.hard_words, settings.soft_words, settings.subwords, settings.suffixes,
             settings.language_model, settings.tokenizer)
    lists = []
    for path in filter(None, given):
        inside = sorted(p for p in Path(path).rglob("*") if p.is_file())
        lists += [[str(p), digest_of(p)] for p in inside or [Path(path)]]
    here = Path(__file__).parent
    parts = ("data.py", "bpe.py", "web/*.py", "web/*.ftz", "tokens/*.py")
    program = [[str(p.relative_to(here)), digest_of(p)] for part in parts for p in sorted(here.glob(part))]
    found = {"program": program, "files": pages, "dump": dump, "settings": vars(settings), "lists": lists, "unit": UNIT, "stages": settings.stages}
    return json.loads(json.dumps(found))


def digest_of(path):
    """A file's SHA-256; None for what cannot be read twice (an address, a pipe) or is the name of something built in."""
    return runs.sha256_of(path) if not is_address(path) and Path(path).is_file() else None


def run(paths, run_dir, settings=Settings(), workers=None, dump=None, index=(), save_index=None):
    """Read WARCs, write RUN/docs: shards of documents, dropped.tsv.gz, report.json. -> Report

    Workers get single documents and answer in input order, so their number changes nothing that is
    written. All is made in RUN/docs/.new and moved when complete, report.json last; what an earlier run made stays
    until then. index: files of band keys of earlier crawls (web/dedup.py), whose near-duplicates go too; save_index: a
    file for those of this one.
    """
    files, workers = find_warcs(paths, run_dir), workers or os.cpu_count()
    start_worker(settings)                                  # before all else: mistakes show at once
    for path in index:
        dedup.load_index(path, settings.fineweb)
    if save_index and not Path(save_index).parent.is_dir():
        raise FileNotFoundError(f"{save_index}: its folder {Path(save_index).parent} is not there; make it, or name another file")
    docs = Path(run_dir) / "docs"
    new = docs / ".new"
    with runs.locked(docs, "data.py"):
        runs.settle(new / "shards", docs)
        made_of = identity(files, dump, settings)
        if not resumable(new, made_of):
            shutil.rmtree(new, ignore_errors=True)
            (new / "units").mkdir(parents=True)
            disk.write_text(new / "identity.json", json.dumps(made_of))     # ASCII: names of files need not be UTF-8
        try:
            with worker_processes(workers, settings) as each:
                first(new, files, Path(run_dir), dump, each)
                report = second(new, files, settings, each, index, save_index)
        finally:
            if not any((new / "units").glob("*.jsonl")):    # nothing to go on from
                shutil.rmtree(new, ignore_errors=True)
        if save_index:                                      # perhaps on another disk, where it may fail: before the old goes
            with open(new / "index.npy", "rb") as made, disk.whole_file(save_index) as out:
                shutil.copyfileobj(made, out)
        with cores.uninterrupted():
            old = [path.name for path in docs.glob("*.jsonl.gz") if not (new / "shards" / path.name).exists()]
            runs.publish(new / "shards", docs, "report.json", old)
        shutil.rmtree(new, ignore_errors=True)
    return report


def write_json(path, value):
    disk.write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def resumable(new, made_of):
    try:
        return json.loads((new / "identity.json").read_text(encoding="utf-8")) == made_of
    except (OSError, ValueError):
        return False


def first(new, files, run_dir, dump, each):
    """The first pass: units/NNNNNN.jsonl with the documents of a unit, beside it their names and band keys (web/dedup.py)."""
    units, rows, counts = new / "units", [], Counter()
    n_done = len(list(units.glob("*.jsonl")))
    if n_done:
        runs.add_earlier(float((new / "spent_s").read_text(encoding="utf-8")))
    if (new / "first.json").exists():
        return
    found = documents(files, run_dir, dump, counts, rows)
    if n_done:
        print(f"{new}: going on behind {n_done * UNIT:,} documents", file=sys.stderr)
        next(itertools.islice(found, n_done * UNIT - 1, None), None)    # read again, but not worked on again
    made = iter(progress(each(first_pass, found), "pass 1", n_done * UNIT, rows, len(files)))
    for number in itertools.count(n_done):
        unit = list(itertools.islice(made, UNIT))
        if not unit:
            break
        kept = [doc for doc in unit if not doc["reason"]]
        disk.write_text(new / "spent_s", f"{runs.seconds_spent():.1f}\n")
        signatures = np.array([doc.pop("signature") for doc in kept], np.uint64).reshape(-1, dedup.BANDS * dedup.ROWS)
        dedup.save_keys(units, f"{number:06}", signatures, map(dedup.name_of, kept))
        with disk.whole_file(units / f"{number:06}.jsonl") as out:
            for doc in unit:
                if doc["reason"]:
                    doc = {k: doc[k] for k in ("url", "trail", "reason", "text", "page_cut") if k in doc}
                out.write(json.dumps(doc, ensure_ascii=False).encode() + b"\n")
    write_json(new / "first.json", counts)


def second(new, files, settings, each, index, save_index):
    """Duplicates, the second pass, shards and report, all in .new/shards; begun anew when it was interrupted. -> Report"""
    shards = new / "shards"
    shutil.rmtree(shards, ignore_errors=True)
    shards.mkdir()
    with gzip_text(shards / "dropped.tsv.gz") as dropped:
        dropped.write("url\tstage\treason\n")
        report = Report(dropped, settings)
        report.reader.update(json.loads((new / "first.json").read_text(encoding="utf-8")))
        paths = sorted((new / "units").glob("*.jsonl"))
        if not paths:
            names = ", ".join(map(str, files))
            raise ValueError(f"{names}: no response records, so no documents")
        start = time.process_time()
        dedup.match(new / "units", index, new / "index.npy" if save_index else None, settings.fineweb)
        report.stages["minhash"]["seconds"] += time.process_time() - start
        for doc, duplicate in after_first(paths):           # before the second pass, so that rows come in the same order always
            report.add(doc)
            report.reader["page_cut"] += doc.get("page_cut", 0)
            if duplicate:
                report.stages["minhash"]["bytes_out"] -= len(doc["text"].encode())
                report.drop(doc, "minhash", "duplicate")
        left = (doc for doc, duplicate in after_first(paths) if not (doc["reason"] or duplicate))
        write_shards(progress(each(second_pass, left), "pass 2"), shards, report)
    write_json(shards / "report.json", report.as_dict())
    return report


def after_first(paths):
    """(document as the first pass left it, whether it is a near-duplicate that goes), of all units in order."""
    for path in paths:
        drop = iter(np.load(path.with_suffix(".drop.npy")).tolist())
        with open(path, encoding="utf-8") as lines:
            for doc in map(json.loads, lines):
                yield doc, not doc["reason"] and next(drop)


def write_shards(docs, folder, report):
    shard, n = None, 0
    for doc in docs:
        report.add(doc)
        if doc["reason"]:
            continue
        if n % SHARD_DOCUMENTS == 0:
            if shard:
                shard.close()
            shard = gzip_text(folder / f"{n // SHARD_DOCUMENTS:06}.jsonl.gz")
        shard.write(json.dumps({c: doc[c] for c in COLUMNS}, ensure_ascii=False) + "\n")
        n += 1
    if shard:
        shard.close()


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="data.py", description="a raw web crawl -> clean documents, FineWeb's way")
    parser.add_argument("paths", nargs="*", metavar="WARC_OR_DIR",
                        help="WARC, WET or ARC files, folders of them, or their http(s) addresses (default: RUN/crawl)")
    parser.add_argument("--crawl", metavar="NAME", help="a crawl of Common Crawl, such as CC-MAIN-2024-51, in place of paths")
    parser.add_argument("--files", type=int, metavar="N", help="of --crawl, its first N files (default: 1, about a gigabyte)")
    parser.add_argument("--run", default="out/demo", metavar="DIR",
                        help="run folder, documents go to DIR/docs (default: out/demo)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N",
                        help="processes (default: one per CPU)")
    parser.add_argument("--dump", metavar="NAME",
                        help="the dump column (default: CC-MAIN-... if in the path, else local)")
    group = parser.add_argument_group("filters")
    group.add_argument("--blocklist", nargs="+", default=[], metavar="PATH",
                       help="UT1 folders, or files with a domain on each line (default: none)")
    for name in ("hard", "soft"):
        group.add_argument(f"--{name}-words", metavar="FILE", help=f"{name} words of URLs, one on each line (default: a short list)")
    group.add_argument("--subwords", metavar="FILE", help="parts of URLs, one on each line (default: a short list)")
    group.add_argument("--public-suffixes", metavar="FILE", help="public_suffix_list.dat (default: a rule of thumb)")
    group.add_argument("--language", nargs="+", default=["en"], metavar="CODE",
                       help="languages to keep (default: en)")
    group.add_argument("--language-model", metavar="FILE",
                       help="fastText model, .bin or .ftz (default: web/language.py's own)")
    group.add_argument("--index", nargs="+", default=[], metavar="FILE", help="band keys of earlier crawls: their near-duplicates go too")
    group.add_argument("--save-index", metavar="FILE", help="write the band keys of this one")
    group.add_argument("--pii", nargs="*", default=["email", "ip"], choices=("email", "ip", "ssn", "phone"),
                       help="what is replaced (default: email ip; ssn and phone are those of the United States)")
    group.add_argument("--tokenizer", metavar="FILE",
                       help="count tokens with this tokenizer (default: token_count is null)")
    group = parser.add_argument_group("which FineWeb")
    group.add_argument("--fineweb", choices=filters.VERSIONS, default="0.10",
                       help="rules of datatrove 0.10, or those of FineWeb v1 (default: 0.10)")
    group.add_argument("--order", choices=ORDERS, default="paper",
                       help="minhash before c4 and fineweb as in the paper, or behind them as in the script (default: paper)")
    group.add_argument("--no-rights", dest="rights", action="store_false",
                       help="do not ask pages for their rights, and note no licences")
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers {args.workers}: at least 1")
    if args.files is not None and args.crawl is None:
        parser.error(f"--files {args.files}: how many of a --crawl, and none is named")
    if args.files is not None and args.files < 1:
        parser.error(f"--files {args.files}: at least 1")
    if args.crawl == "":
        parser.error("--crawl: the name is empty; give one, such as CC-MAIN-2024-51")
    if args.crawl and args.paths:
        parser.error(f"--crawl {args.crawl} and {args.paths[0]}: one or the other")
    return args


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    runs.start_clock()
    if argv[:1] == ["crawl"]:
        crawl.main(argv[1:])
        return
    args = parse_args(argv)
    try:
        paths = remote.common_crawl(args.crawl, args.files or 1) if args.crawl else args.paths
        settings = Settings(tuple(args.blocklist), args.hard_words, args.soft_words, args.subwords, args.public_suffixes,
                            tuple(args.language), args.language_model, args.tokenizer, tuple(args.pii),
                            args.fineweb, args.order, args.rights)
        report = run(paths, args.run, settings, args.workers, args.dump, args.index, args.save_index)
    except BrokenPipeError:                                 # of standard error
        raise
    except (ValueError, OSError) as error:
        print("data.py: error:", command.message(error), file=sys.stderr)
        sys.exit(2)
    print(report.table())
    first, last = report.stages["url"], report.stages["pii"]
    read = f"{first['documents_in']:,} pages, {first['bytes_in'] / 1e6:.1f} MB"
    made = f"{last['documents_out']:,} documents, {last['bytes_out'] / 1e6:.1f} MB of text"
    print(f"{'data':8} {read:32} {made:36} {runs.seconds_spent():5.0f} s   "
          f"{last['documents_out'] / first['documents_in']:.1%} of the pages kept")


if __name__ == "__main__":
    command.run(main, error_status=2)
