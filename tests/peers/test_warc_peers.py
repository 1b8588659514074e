"""web/warc.py beside warcio: the same records from ARC files and from awkward WARCs, and the time that reading takes."""
import gzip
import io
import os
import statistics
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from web import warc

pytest.importorskip("warcio", exc_type=ImportError)
from warcio.archiveiterator import ArchiveIterator  # noqa: E402

DATA = Path(os.environ.get("LONGHAND_DATA") or Path(__file__).parent.parent.parent.parent / "shared" / "data")


def theirs(raw):
    """(url, date, status, body) of each response as warcio reads it, an ARC in WARC's terms."""
    return [(r.rec_headers.get_header("WARC-Target-URI"), r.rec_headers.get_header("WARC-Date"), r.http_headers.get_statuscode() if r.http_headers else "0", r.content_stream().read())
            for r in ArchiveIterator(io.BytesIO(raw), arc2warc=True) if r.rec_type == "response"]


def ours(raw):
    return [(r.url, r.date, str(r.status), r.body) for r in warc.read_warc(io.BytesIO(raw)) if r.type == "response"]


def arc(url, block, kind="text/html"):
    return f"{url} 1.2.3.4 20080102030405 {kind} {len(block)}\n".encode() + block + b"\n"


def http(body, *headers, status="HTTP/1.1 200 OK"):
    return "\r\n".join((status, "Content-Type: text/html", *headers, "", "")).encode() + body


START = b"1 1 InternetArchive\nURL IP-address Archive-date Content-type Archive-length\n"
START = b"filedesc://x.arc 0.0.0.0 20080102030405 text/plain %d\n%s\n" % (len(START), START)
BODIES = [http(b"<p>plain"), http(gzip.compress(b"<p>zipped"), "Content-Encoding: gzip"), http(b"8\r\n<p>chunk\r\n2\r\ned\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
          http(b"<p>says gzip", "Content-Encoding: gzip"), http(b"", status="HTTP/1.0 304 Not Modified"), http(b"<p>no reason", status="HTTP/2 200"), http(b"<p>\n\nlines\n\n")]


@pytest.mark.parametrize("pack", [b"".join, lambda rs: b"".join(map(gzip.compress, rs))], ids=["plain", "members"])
def test_arcs_are_read_alike(pack):
    records = [START, *(arc(f"http://a.com/{i}", body) for i, body in enumerate(BODIES)), arc("http://a.com/a b c?d=e f", BODIES[0]), arc("dns:a.com", b"20080102\na.com. 5 IN A 1.2.3.4", "text/dns")]
    raw = pack(records)
    assert ours(raw) == theirs(raw) and len(ours(raw)) == len(records) - 1


@pytest.mark.parametrize("pack", [b"".join, lambda rs: b"".join(map(gzip.compress, rs))], ids=["plain", "members"])
def test_bodies_of_warcs_are_read_alike(pack):
    records = [f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.com/{i}\r\nWARC-Date: 2024-01-02T03:04:05Z\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"
               for i, body in enumerate(BODIES)]
    raw = pack(records)
    assert ours(raw) == theirs(raw) and len(ours(raw)) == len(records)


def test_speed():
    """In turns, so that what else the machine does falls on both; the median of the ratios."""
    path = DATA / "crawl-dev.warc.gz"
    if not path.exists():
        pytest.skip(f"no {path}; LONGHAND_DATA names another folder")

    def read_ours():
        return sum(len(r.body) for r in warc.read_warc(path) if r.type == "response")

    def read_theirs():
        with open(path, "rb") as file:
            return sum(len(r.content_stream().read()) for r in ArchiveIterator(file) if r.rec_type == "response")

    rounds = []
    for _ in range(15):
        seconds = []
        for read in (read_ours, read_theirs):
            start = time.process_time()
            size = read()
            seconds.append(time.process_time() - start)
        rounds.append(seconds)
    mine, other = (statistics.median(column) for column in zip(*rounds))
    ratio = statistics.median(b / a for a, b in rounds)
    print(f"{size / 1e6:.1f} MB of pages, median of {len(rounds)} rounds: ours {mine * 1e3:.0f} ms, warcio {other * 1e3:.0f} ms, so {ratio:.2f} times its speed")
    assert read_ours() == read_theirs() and ratio > 0.5
