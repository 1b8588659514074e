"""A miniature web about which the truth is known: about 3,000 pages on 150 hosts, as a real crawl.

The pages are about an invented shore, the Lantern Coast. The good ones are stories, entries about
made-up animals, towns and people, guest books, and rounds of a counting game. The bad ones give
every filter of data.py something to do. Each page has a label that says which stage must drop it,
so the pipeline can be scored. Each fact stands on a known number of pages, so a model's knowledge
can be measured against how often it has read a fact. Charsets, chunks and compression are as mixed
as in a real crawl. The rooms toywords, toyworld, toypages and toylessons make what is written here.

    python -m web.toyweb                   write out/demo and print a census
    python -m web.toyweb --score           compare what data.py kept and dropped with the truth

The same seed gives the same bytes in every version of Python.
"""
import argparse
import gzip
import hashlib
import json
import re
import shutil
import textwrap
import uuid
import zlib
from collections import Counter
from pathlib import Path

from run import command, disk, progress, runs
from web import warc
from web.toylessons import conversations, pairs, probes, tasks, tool_conversations
from web.toypages import BLOCKED_HOSTS, LABELS, pages
from web.toywords import KINDS
from web.toyworld import entities, stream


# ---------------------------------------------------------------------------------------- the crawl

def body_of(rng, page):
    """(Content-Type, body, why it is cut or None) of the response for a page."""
    if page.html is None:
        noise = bytes(rng.randrange(256) for _ in range(900))
        return "image/png", b"\x89PNG\r\n\x1a\n" + noise, None
    content_type = "text/html" + (f"; charset={page.charset}" if page.charset else "")
    body, cut = page.html.encode(page.charset or "utf-8", "xmlcharrefreplace"), None
    if page.label == "good" and rng.random() < 0.01:        # in the footer, by a crawler's limit
        body, cut = body[:-rng.randint(20, 60)], "length"
    return content_type, body, cut


def response_of(rng, content_type, body):
    """(the HTTP response, its payload): the body as it is, compressed, in chunks, or decoded."""
    headers, payload, how = {"Content-Type": content_type}, body, rng.random()
    if how < 0.15:              # as Common Crawl stores it: decoded, and the old headers renamed
        headers["X-Crawler-Content-Encoding"] = "gzip"
        headers["X-Crawler-Transfer-Encoding"] = "chunked"
    elif how < 0.30:            # as other crawlers store it: what came over the wire
        headers["Content-Encoding"] = "gzip"
        payload = warc.gzip_member(body, 9)
    elif how < 0.45:
        headers["Transfer-Encoding"] = "chunked"
        step, payload = rng.randint(500, 3000), b""
        for at in range(0, len(body), step):
            chunk = body[at:at + step]
            payload += b"%x\r\n%s\r\n" % (len(chunk), chunk)
        payload += b"0\r\n\r\n"
    if "Transfer-Encoding" not in headers:
        headers["Content-Length"] = len(payload)
    return b"HTTP/1.1 200 OK\r\n" + warc.header_lines(headers) + b"\r\n" + payload, payload


def urn(name):
    """An id for a WARC record. It depends on a name only."""
    digest = hashlib.sha256(name.encode()).digest()
    return f"<{uuid.UUID(bytes=digest[:16], version=4).urn}>"


def capture(page, i, seed, rng):
    """The request, response and metadata records of page number i."""
    request_id, response_id, notes_id = [urn(f"{seed}/{page.url}/{k}") for k in range(3)]
    date = f"2026-03-{1 + i // 1440 % 28:02}T{i // 60 % 24:02}:{i % 60:02}:00Z"
    host, path = page.url.split("/", 3)[2:]
    request = (f"GET /{path} HTTP/1.1\r\nHost: {host}\r\n"
               "User-Agent: lantern-crawler/1.0 (a toy)\r\nAccept-Encoding: gzip\r\n\r\n")
    content_type, body, cut = body_of(rng, page)
    response, payload = response_of(rng, content_type, body)
    notes = f"fetchTimeMs: {rng.randint(20, 900)}\r\n"
    common = {"WARC-Date": date, "WARC-Target-URI": page.url}
    beside = {**common, "WARC-Concurrent-To": response_id}
    answered = {
        **common,
        "WARC-Payload-Digest": warc.digest(payload),
        "WARC-Block-Digest": warc.digest(response),
        "WARC-Truncated": cut,
        "WARC-Identified-Payload-Type": content_type.partition(";")[0],
    }
    http, fields = "application/http; msgtype=", "application/warc-fields"
    record = warc.record_bytes
    return (record("request", request_id, beside, http + "request", request.encode())
            + record("response", response_id, answered, http + "response", response)
            + record("metadata", notes_id, beside, fields, notes.encode()))


SOFTWARE = "software: toyweb.py\r\n"                        # in the first record of our files


def warc_file(name, found, start, seed, rng):
    """The bytes of a WARC file: a warcinfo record, and the captures of pages from number start."""
    headers = {"WARC-Date": "2026-03-01T00:00:00Z", "WARC-Filename": name}
    info = f"{SOFTWARE}format: WARC File Format 1.0\r\ndescription: the Lantern Coast\r\n"
    info_id = f"<{uuid.UUID(int=start, version=4).urn}>"
    records = [warc.record_bytes("warcinfo", info_id, headers, "application/warc-fields",
                                 info.encode())]
    records += [capture(page, i, seed, rng) for i, page in enumerate(found, start)]
    return b"".join(records)


# -------------------------------------------------------------------------------- writing the world

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
    run, new = Path(run_dir), Path(run_dir) / UNFINISHED
    with runs.locked(run, "toyweb.py"):
        runs.settle(new, run)
        shutil.rmtree(new, ignore_errors=True)
        try:
            truth = write_world(new, n_pages, seed)
            names = [f"crawl/{path.name}" for path in (run / "crawl").glob("*.warc.gz")]
            old = [name for name in names if is_ours(run / name) and not (new / name).exists()]
            runs.publish(new, run, FIRST_WARC, old)
        finally:
            if not (new / runs.MOVES).exists():
                shutil.rmtree(new, ignore_errors=True)
    return truth


def is_ours(path):
    """Whether a WARC file holds a miniature web. Its first record says which software wrote it."""
    try:
        with gzip.open(path) as file:
            return SOFTWARE.encode() in file.read(500)
    except (OSError, EOFError, zlib.error):
        return False


def write_world(folder, n_pages, seed):
    """Write all files of the world into a folder; returns the truth, {url: label}."""
    rng, web = stream(seed, "crawl"), pages(seed, n_pages)
    write_jsonl(folder / "chat/train.jsonl", conversations(seed, n_pages))
    for name, rows in tool_conversations(seed, n_pages).items():
        write_jsonl(folder / f"chat/{name}.jsonl", rows)
    comparisons = pairs(seed, n_pages)
    n_train = len(comparisons) * 9 // 10
    write_jsonl(folder / "pairs/train.jsonl", comparisons[:n_train])
    write_jsonl(folder / "pairs/test.jsonl", comparisons[n_train:])
    for name, rows in {**tasks(seed, n_pages), **probes(seed, n_pages)}.items():
        write_jsonl(folder / f"tasks/{name}.jsonl", rows)
    blocked = "".join(f"{host}\n" for host in BLOCKED_HOSTS)
    write_file(folder / "blocklist/gambling/domains", blocked.encode())
    for start in progress.each(range(0, len(web), PAGES_A_FILE), "files of pages"):
        name = f"{start // PAGES_A_FILE:06}.warc.gz"
        file = warc_file(name, web[start:start + PAGES_A_FILE], start, seed, rng)
        write_file(folder / "crawl" / name, file)
    return {page.url: page.label for page in web}


# ------------------------------------------------------- what was made, and what data.py made of it

def show(text, indent=""):
    """Print a text in lines of at most 80 columns."""
    print(textwrap.fill(text, 80, initial_indent=indent, subsequent_indent=indent + "  "))


def show_entity(entity):
    """Print what is true of an entity."""
    facts = ", ".join(f"{name} {value}" for name, value in entity["facts"].items())
    n = entity["exposure"]
    show(f"{entity['name']} ({entity['kind']}, {n} page{'s' * (n > 1)}): {facts}", "  ")


def census(seed, n_pages):
    """Print what was made, with one example of each kind of page."""
    web = pages(seed, n_pages)
    names = {page.url.split("/")[2].removeprefix("www.") for page in web}
    print(f"{len(web):,} pages on {len(names)} hosts\n")
    examples = {page.label: page for page in reversed(web)}             # the first of each
    print(f"{'pages':>6}  {'label':13} {'dropped by':17} an example begins")
    for label, n in Counter(page.label for page in web).most_common():
        body = re.findall(r"<p>(.*?)(?:</p>|\n)", examples[label].html or "")
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

    files = {**tasks(seed, n_pages), **probes(seed, n_pages)}
    print()
    chats = {"train": conversations(seed, n_pages), **tool_conversations(seed, n_pages)}
    for name, rows in chats.items():
        kinds = Counter(talk["kind"] for talk in rows)
        show(f"{kinds.total():,} conversations in chat/{name}.jsonl: "
             + ", ".join(f"{kind} {n:,}" for kind, n in kinds.most_common()))
    show("tasks: " + ", ".join(f"{name} {len(rows):,}" for name, rows in files.items()))


def outcomes(run):
    """{url: where a page of the run's crawl ended}: "kept", or the stage that dropped it / why."""
    found = {}
    dropped = run / "docs" / "dropped.tsv.gz"
    files = sorted((run / "docs").glob("*.jsonl.gz"))
    if files and dropped.exists():
        for line in disk.read_lines(dropped):
            url, *where = line.rstrip("\n").split("\t")
            found[url] = "/".join(where)
        for path in files:
            found.update((json.loads(line)["url"], "kept") for line in disk.read_lines(path))
    if "kept" not in found.values():
        raise FileNotFoundError(f"{run}/docs: no documents to score; "
                                f"make them with: python data.py --run {run}")
    return found


def score(run_dir, seed, n_pages):
    """Print, label by label, the share of pages that data.py kept or dropped as it should.

    Returns False if a share is under 95 %, or if there are documents of other pages.
    """
    ended = outcomes(Path(run_dir))
    total, wrong = Counter(), {label: Counter() for label in LABELS}
    for page in pages(seed, n_pages):
        where = ended.pop(page.url, "lost")
        total[page.label] += 1
        if where.partition("/")[0] != (LABELS[page.label] or "kept"):
            wrong[page.label][where] += 1
    print(f"{'page':13} {'should end at':17} {'pages':>6} {'right':>7}   wrongly ended at")
    for label, stage in LABELS.items():
        share = 1 - wrong[label].total() / total[label]
        row = f"{label:13} {stage or 'kept':17} {total[label]:6,} {share:7.1%}"
        for where, n in wrong[label].most_common(4):
            row += f"   {n} {where}\n{'':46}"
        print(row.rstrip())
    foreign = list(ended.values()).count("kept")
    if foreign:
        print(f"{foreign:,} documents are of no page of this world: of another --seed or --pages, "
              "or of another crawl")
    return not foreign and all(20 * wrong[label].total() <= n for label, n in total.items())


# ------------------------------------------------------------------------------------- command line

def parse_args(argv=None):
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m web.toyweb",
        description="Write a miniature web, or score a run of data.py on it.")
    option = parser.add_argument
    option("--run", default="out/demo", metavar="DIR", help="run folder (default: %(default)s)")
    option("--pages", type=int, default=3000, metavar="N",
           help="about how many pages the web has (default: %(default)s)")
    option("--seed", type=int, default=0, metavar="N",
           help="seed: the same one gives the same bytes (default: %(default)s)")
    option("--score", action="store_true",
           help="compare DIR/docs with the truth instead of writing")
    return parser.parse_args(argv)


def main(argv=None):
    """Write a world and print what it holds, or score a run."""
    args = parse_args(argv)
    runs.start_clock()
    if args.pages < 100 or args.seed < 0:
        raise ValueError(f"--pages {args.pages} --seed {args.seed}: must be at least 100, "
                         "for a page of each kind, and 0")
    if args.score and not score(args.run, args.seed, args.pages):
        raise ValueError(f"{args.run}/docs: data.py did not treat the pages of this world as "
                         "their labels say; see the table")
    if args.score:
        return
    truth = write(args.run, args.pages, args.seed)
    census(args.seed, args.pages)
    size = sum(path.stat().st_size for path in (Path(args.run) / "crawl").glob("*.warc.gz"))
    made = f"{len(truth):,} pages, {size / 1e6:.1f} MB of WARC"
    print(runs.row("toyweb", f"seed {args.seed}", made))


if __name__ == "__main__":
    command.run(main)
