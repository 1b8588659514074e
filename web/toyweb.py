"""A miniature web about which the truth is known: about 3,000 pages on 150 hosts, as a real crawl.

The pages are about an invented shore, the Lantern Coast. The good ones are stories, entries about
made-up animals, towns and people, guest books, and rounds of a counting game. The bad ones give
every filter of data.py something to do. Each page has a label that says which stage must drop it,
so the pipeline can be scored. Each fact stands on a known number of pages, so a model's knowledge
can be measured against how often it has read a fact.

The crawl is written as WARC with one gzip member a record, and a request, a response and a metadata
record for each page; charsets, chunks and compression are as mixed as in a real one. The same seed
also writes conversations, comparisons and tasks for align.py.

    toywords      the words: slots, sentences, facts, foreign texts
    toyworld      what is true: entities, their facts, the counting game
    toypages      the pages
    toylessons    the conversations, comparisons and tasks
    toyweb        the crawl and the files; the census and the score

    python -m web.toyweb                   write out/demo and print a census
    python -m web.toyweb --score           compare what data.py kept and dropped with the truth

The same seed gives the same bytes in every version of Python.
"""
import argparse
import gzip
import hashlib
import io
import json
import re
import shutil
import textwrap
import uuid
import zlib
from collections import Counter
from pathlib import Path

from run import command, disk
from run import runs
from web import warc
from web.toylessons import conversations, pairs, probes, tasks
from web.toypages import BLOCKED_HOSTS, LABELS, pages
from web.toywords import KINDS
from web.toyworld import entities, stream


# --------------------------------------------------------------------------------------------------
# The crawl.

def body_of(rng, page):
    """(media type, Content-Type, body, why it is cut or None) of the response for a page."""
    if page.html is None:
        noise = bytes(rng.randrange(256) for _ in range(900))
        return "image/png", "image/png", b"\x89PNG\r\n\x1a\n" + noise, None
    content_type = "text/html"
    if page.charset:
        content_type += f"; charset={page.charset}"
    body = page.html.encode(page.charset or "utf-8", "xmlcharrefreplace")
    if page.label == "good" and rng.random() < 0.01:        # in the footer, by a crawler's limit
        return "text/html", content_type, body[:-rng.randint(20, 60)], "length"
    return "text/html", content_type, body, None


def response_of(rng, content_type, body):
    """(the HTTP response, its payload): the body as it is, compressed, in chunks, or decoded."""
    headers, payload, how = {"Content-Type": content_type}, body, rng.random()
    if how < 0.15:              # as Common Crawl stores it: decoded, and the old headers renamed
        headers["X-Crawler-Content-Encoding"] = "gzip"
        headers["X-Crawler-Transfer-Encoding"] = "chunked"
        headers["Content-Length"] = len(body)
    elif how < 0.30:            # as other crawlers store it: what came over the wire
        payload = warc.gzip_member(body, 9)
        headers["Content-Encoding"] = "gzip"
        headers["Content-Length"] = len(payload)
    elif how < 0.45:
        step = rng.randint(500, 3000)
        payload = b""
        for at in range(0, len(body), step):
            chunk = body[at:at + step]
            payload += b"%x\r\n%s\r\n" % (len(chunk), chunk)
        payload += b"0\r\n\r\n"
        headers["Transfer-Encoding"] = "chunked"
    else:
        headers["Content-Length"] = len(body)
    return b"HTTP/1.1 200 OK\r\n" + warc.header_lines(headers) + b"\r\n" + payload, payload


def record_id(name):
    """An id of a WARC record that depends on a name only."""
    number = uuid.UUID(bytes=hashlib.sha256(name.encode()).digest()[:16], version=4)
    return f"<urn:uuid:{number}>"


def capture(page, i, seed, rng):
    """The request, response and metadata records of page number i."""
    ids = [record_id(f"{seed}/{page.url}/{k}") for k in range(3)]
    date = f"2026-03-{1 + i // 1440 % 28:02}T{i // 60 % 24:02}:{i % 60:02}:00Z"
    host, path = page.url.split("/", 3)[2:]
    request = (f"GET /{path} HTTP/1.1\r\nHost: {host}\r\n"
               "User-Agent: lantern-crawler/1.0 (a toy)\r\nAccept-Encoding: gzip\r\n\r\n")
    media_type, content_type, body, cut = body_of(rng, page)
    response, payload = response_of(rng, content_type, body)
    notes = f"fetchTimeMs: {rng.randint(20, 900)}\r\n"
    return b"".join([
        warc.record_bytes({
            "WARC-Type": "request",
            "WARC-Record-ID": ids[0],
            "WARC-Date": date,
            "WARC-Target-URI": page.url,
            "WARC-Concurrent-To": ids[1],
            "Content-Type": "application/http; msgtype=request",
        }, request.encode()),
        warc.record_bytes({
            "WARC-Type": "response",
            "WARC-Record-ID": ids[1],
            "WARC-Date": date,
            "WARC-Target-URI": page.url,
            "WARC-Payload-Digest": warc.digest(payload),
            "WARC-Block-Digest": warc.digest(response),
            "WARC-Truncated": cut,
            "WARC-Identified-Payload-Type": media_type,
            "Content-Type": "application/http; msgtype=response",
        }, response),
        warc.record_bytes({
            "WARC-Type": "metadata",
            "WARC-Record-ID": ids[2],
            "WARC-Date": date,
            "WARC-Target-URI": page.url,
            "WARC-Concurrent-To": ids[1],
            "Content-Type": "application/warc-fields",
        }, notes.encode()),
    ])


SOFTWARE = "toyweb.py"                                      # as the first record of a file names it


def warc_file(name, found, start, seed, rng):
    """The bytes of a WARC file: a warcinfo record, and the captures of pages from number start."""
    info = {
        "software": SOFTWARE,
        "format": "WARC File Format 1.0",
        "description": "the Lantern Coast",
    }
    records = [warc.record_bytes({
        "WARC-Type": "warcinfo",
        "WARC-Record-ID": f"<urn:uuid:{uuid.UUID(int=start, version=4)}>",
        "WARC-Date": "2026-03-01T00:00:00Z",
        "WARC-Filename": name,
        "Content-Type": "application/warc-fields",
    }, warc.header_lines(info))]
    records += [capture(page, i, seed, rng) for i, page in enumerate(found, start)]
    return b"".join(records)


# --------------------------------------------------------------------------------------------------
# Writing the world.

UNFINISHED = ".toyweb"          # in the run folder: a world that is not complete
FIRST_WARC = "crawl/000000.warc.gz"
PAGES_A_FILE = 1000


def write_file(path, data):
    """Write bytes to a file, whose folder may not exist yet."""
    with disk.naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_jsonl(path, rows):
    """Write rows to a file, one JSON object a line."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_file(path, "".join(lines).encode("utf-8"))


def write(run_dir, n_pages=3000, seed=0):
    """Write the whole world under run_dir; returns the truth, {url: label}.

    The files are made in RUN/.toyweb and moved when they are complete. Then those of an earlier
    world are removed: WARC files of two worlds side by side would be read as one crawl.
    """
    run = Path(run_dir)
    new = run / UNFINISHED
    with runs.locked(run, "toyweb.py"):
        runs.settle(new, run)
        shutil.rmtree(new, ignore_errors=True)
        try:
            truth = write_world(new, n_pages, seed)
            old = []
            for path in (run / "crawl").glob("*.warc.gz"):
                name = path.relative_to(run).as_posix()
                if is_ours(path) and not (new / name).exists():
                    old.append(name)
            runs.publish(new, run, FIRST_WARC, old)
        except BaseException:
            if not (new / runs.MOVES).exists():
                shutil.rmtree(new, ignore_errors=True)
            raise
    return truth


def is_ours(path):
    """Whether a WARC file holds a miniature web. Its first record says which software wrote it."""
    try:
        with gzip.open(path) as file:
            _, info = next(warc.read_records(io.BytesIO(file.read(2000))))
    except (OSError, EOFError, zlib.error, ValueError, StopIteration):
        return False
    return f"software: {SOFTWARE}\r\n".encode() in info


def write_world(folder, n_pages, seed):
    """Write all files of the world into a folder; returns the truth, {url: label}."""
    rng, web = stream(seed, "crawl"), pages(seed, n_pages)
    write_jsonl(folder / "chat/train.jsonl", conversations(seed, n_pages))
    comparisons = pairs(seed, n_pages)
    n_train = len(comparisons) * 9 // 10
    write_jsonl(folder / "pairs/train.jsonl", comparisons[:n_train])
    write_jsonl(folder / "pairs/test.jsonl", comparisons[n_train:])
    for name, rows in {**tasks(seed, n_pages), **probes(seed, n_pages)}.items():
        write_jsonl(folder / f"tasks/{name}.jsonl", rows)
    blocked = "".join(f"{host}\n" for host in BLOCKED_HOSTS)
    write_file(folder / "blocklist/gambling/domains", blocked.encode())
    for start in range(0, len(web), PAGES_A_FILE):
        name = f"{start // PAGES_A_FILE:06}.warc.gz"
        file = warc_file(name, web[start:start + PAGES_A_FILE], start, seed, rng)
        write_file(folder / "crawl" / name, file)
    return {page.url: page.label for page in web}


# --------------------------------------------------------------------------------------------------
# What was made, and what data.py made of it.

def show(text, indent=""):
    """Print a text in lines of at most 80 columns."""
    print(textwrap.fill(text, 80, initial_indent=indent, subsequent_indent=indent + "  "))


def show_entity(entity):
    """Print what is true of an entity."""
    facts = ", ".join(f"{name} {value}" for name, value in entity["facts"].items())
    n = entity["exposure"]
    show(f"{entity['name']} ({entity['kind']}, {n} page{'s' * (n > 1)}): {facts}", "  ")


def census(truth, seed, n_pages):
    """Print what was made, with one example of each kind of page."""
    web = {page.url: page for page in pages(seed, n_pages)}
    names = {url.split("/")[2].removeprefix("www.") for url in truth}
    print(f"{len(truth):,} pages on {len(names)} hosts\n")
    examples = {}
    for url, label in truth.items():
        examples.setdefault(label, url)
    print(f"{'pages':>6}  {'label':13} {'dropped by':17} an example begins")
    for label, n in Counter(truth.values()).most_common():
        body = re.findall(r"<p>(.*?)(?:</p>|\n)", web[examples[label]].html or "")
        text = body[0] if body else "(no text)"
        print(f"{n:6,}  {label:13} {LABELS[label] or '-':17} {text[:39]}")

    world = entities(seed, n_pages)
    counts = sorted(Counter(entity["exposure"] for entity in world).items())
    print()
    show("how many entities stand on how many pages: "
         + ", ".join(f"{count} on {exposure}" for exposure, count in counts))
    print("Well known, so ask the model about them:")
    for kind in KINDS:
        asked = [entity for entity in world if entity["kind"] == kind and entity["asked"]]
        show_entity(max(asked, key=lambda entity: entity["exposure"]))
    print("Hardly known:")
    show_entity(min(world, key=lambda entity: entity["exposure"]))

    talks = conversations(seed, n_pages)
    kinds = Counter(talk["kind"] for talk in talks).most_common()
    files = {**tasks(seed, n_pages), **probes(seed, n_pages)}
    print()
    show(f"{len(talks):,} conversations: " + ", ".join(f"{kind} {n:,}" for kind, n in kinds))
    show("tasks: " + ", ".join(f"{name} {len(rows):,}" for name, rows in files.items()))


def outcomes(run):
    """{url: where a page of the run's crawl ended}: "kept", or the stage that dropped it / why."""
    found = {}
    dropped = run / "docs" / "dropped.tsv.gz"
    files = sorted((run / "docs").glob("*.jsonl.gz"))
    if files and dropped.exists():
        with gzip.open(dropped, "rt", encoding="utf-8") as file:
            for line in file:
                url, *where = line.rstrip("\n").split("\t")
                found[url] = "/".join(where)
        for path in files:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                found.update((json.loads(line)["url"], "kept") for line in file)
    if "kept" not in found.values():
        raise FileNotFoundError(f"{run}/docs: no documents to score; "
                                f"make them with: python data.py --run {run}")
    return found


def score(run_dir, seed, n_pages):
    """Print, label by label, the share of pages that data.py kept or dropped as it should.

    Returns False if a share is under 95 %, or if there are documents of other pages.
    """
    ended = outcomes(Path(run_dir))
    right, total, wrong = Counter(), Counter(), {}
    web = pages(seed, n_pages)
    for page in web:
        where = ended.get(page.url, "lost")
        ok = where.partition("/")[0] == (LABELS[page.label] or "kept")
        total[page.label] += 1
        right[page.label] += ok
        if not ok:
            wrong.setdefault(page.label, Counter())[where] += 1
    print(f"{'page':13} {'should end at':17} {'pages':>6} {'right':>7}   wrongly ended at")
    for label, stage in LABELS.items():
        share = right[label] / total[label]
        row = f"{label:13} {stage or 'kept':17} {total[label]:6,} {share:7.1%}"
        for where, n in wrong.get(label, Counter()).most_common(4):
            row += f"   {n} {where}\n{'':46}"
        print(row.rstrip())
    ours = {page.url for page in web}
    foreign = sum(where == "kept" and url not in ours for url, where in ended.items())
    if foreign:
        print(f"{foreign:,} documents are of no page of this world: of another --seed or --pages, "
              "or of another crawl")
    return not foreign and all(right[label] >= 0.95 * n for label, n in total.items())


# --------------------------------------------------------------------------------------------------
# Command line.

def parse_args(argv=None):
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m web.toyweb",
        description="Write a miniature web, or score a run of data.py on it.")
    parser.add_argument("--run", default="out/demo", metavar="DIR",
                        help="run folder (default: %(default)s)")
    parser.add_argument("--pages", type=int, default=3000, metavar="N",
                        help="about how many pages the web has (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N",
                        help="seed of all draws: the same seed gives the same bytes "
                             "(default: %(default)s)")
    parser.add_argument("--score", action="store_true",
                        help="compare DIR/docs with the truth instead of writing")
    return parser.parse_args(argv)


def main(argv=None):
    """Write a world and print what it holds, or score a run."""
    args = parse_args(argv)
    runs.start_clock()
    if args.pages < 100:
        raise ValueError(f"--pages {args.pages}: the web needs at least 100 pages "
                         "to hold one of each kind")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: must be 0 or more")
    if args.score:
        if not score(args.run, args.seed, args.pages):
            raise ValueError(f"{args.run}/docs: data.py did not treat the pages of this world as "
                             "their labels say; see the table")
        return
    truth = write(args.run, args.pages, args.seed)
    census(truth, args.seed, args.pages)
    size = sum(path.stat().st_size for path in (Path(args.run) / "crawl").glob("*.warc.gz"))
    made = f"{len(truth):,} pages, {size / 1e6:.1f} MB of WARC"
    print(runs.row("toyweb", f"seed {args.seed}", made))


if __name__ == "__main__":
    command.run(main)
