"""web/warc.py beside warcio: the same records of ARC files and of awkward WARCs, and the time."""

import gzip
import io
import re
import statistics
import time

import pytest

from web import warc

pytest.importorskip("warcio", exc_type=ImportError)
from warcio.archiveiterator import ArchiveIterator  # noqa: E402
from warcio.statusandheaders import StatusAndHeaders  # noqa: E402
from warcio.warcwriter import WARCWriter  # noqa: E402


def theirs(raw):
    """(url, date, status, body) of each response as warcio reads it, an ARC in WARC's terms."""
    found = []
    for record in ArchiveIterator(io.BytesIO(raw), arc2warc=True):
        if record.rec_type == "response":
            get = record.rec_headers.get_header
            status = record.http_headers.get_statuscode() if record.http_headers else "0"
            body = record.content_stream().read()
            found.append((get("WARC-Target-URI"), get("WARC-Date"), status, body))
    return found


def ours(raw):
    records = warc.read_warc(io.BytesIO(raw))
    return [(r.url, r.date, str(r.status), r.body) for r in records if r.type == "response"]


def arc(url, block, kind="text/html"):
    return f"{url} 1.2.3.4 20080102030405 {kind} {len(block)}\n".encode() + block + b"\n"


def http(body, *headers, status="HTTP/1.1 200 OK"):
    return "\r\n".join((status, "Content-Type: text/html", *headers, "", "")).encode() + body


COLUMNS = b"1 1 InternetArchive\nURL IP-address Archive-date Content-type Archive-length\n"
START = b"filedesc://x.arc 0.0.0.0 20080102030405 text/plain %d\n" % len(COLUMNS) + COLUMNS + b"\n"
BODIES = [
    http(b"<p>plain"),
    http(gzip.compress(b"<p>zipped"), "Content-Encoding: gzip"),
    http(b"8\r\n<p>chunk\r\n2\r\ned\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    http(b"<p>says gzip", "Content-Encoding: gzip"),
    http(b"", status="HTTP/1.0 304 Not Modified"),
    http(b"<p>no reason", status="HTTP/2 200"),
    http(b"<p>\n\nlines\n\n"),
]


def in_members(records):
    return b"".join(map(gzip.compress, records))


packed = pytest.mark.parametrize("pack", [b"".join, in_members], ids=["plain", "members"])


@packed
def test_arcs_are_read_alike(pack):
    records = [START, *(arc(f"http://a.com/{i}", body) for i, body in enumerate(BODIES))]
    records += [arc("http://a.com/a b c?d=e f", BODIES[0]),
                arc("dns:a.com", b"20080102\na.com. 5 IN A 1.2.3.4", "text/dns")]
    raw = pack(records)
    assert ours(raw) == theirs(raw) and len(ours(raw)) == len(records) - 1


@packed
def test_bodies_of_warcs_are_read_alike(pack):
    records = []
    for i, body in enumerate(BODIES):
        head = ["WARC/1.0", "WARC-Type: response", f"WARC-Target-URI: http://a.com/{i}",
                "WARC-Date: 2024-01-02T03:04:05Z", f"Content-Length: {len(body)}", "", ""]
        records.append("\r\n".join(head).encode() + body + b"\r\n\r\n")
    raw = pack(records)
    assert ours(raw) == theirs(raw) and len(ours(raw)) == len(records)


def test_records_are_warcios(shared):
    path = shared("crawl-dev.warc.gz")
    mine = list(warc.read_warc(path))
    with open(path, "rb") as file:
        reader, n = ArchiveIterator(file), 0
        for a, b in zip(mine, reader):
            get, body = b.rec_headers.get_header, b.content_stream().read()
            n += 1              # the offset comes last: it skips to the next record
            want = (b.rec_type, get("WARC-Record-ID"), get("WARC-Target-URI") or "",
                    get("WARC-Date"), reader.get_record_offset())
            assert (a.type, a.id, a.url, a.date, a.offset) == want
            if a.type == "response":
                assert (str(a.status), a.body) == (b.http_headers.get_statuscode(), body)
        assert n == len(mine) and next(reader, None) is None


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("zipped", [True, False])
def test_warcio_writes_and_we_read(tmp_path, version, zipped):
    headers = [("Content-Type", "text/html; charset=utf-8")]
    with open(tmp_path / "x.warc", "wb") as file:
        writer = WARCWriter(file, gzip=zipped, warc_version=version)
        writer.write_record(writer.create_warcinfo_record("x.warc", {"software": "warcio"}))
        for i in range(5):
            record = writer.create_warc_record(
                f"http://a.com/{i}", "response", payload=io.BytesIO(b"<p>%d" % i),
                http_headers=StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1"))
            writer.write_record(record)
    records = list(warc.read_warc(tmp_path / "x.warc"))
    found = [(r.type, r.url, r.body) for r in records[1:]]
    assert found == [("response", f"http://a.com/{i}", b"<p>%d" % i) for i in range(5)]
    assert all(re.match(r"\d{4}-\d\d-\d\dT", r.date) for r in records)


def test_speed(shared):
    """In turns, so that what else the machine does falls on both; the median of the ratios."""
    path = shared("crawl-dev.warc.gz")

    def read_ours():
        return sum(len(r.body) for r in warc.read_warc(path) if r.type == "response")

    def read_theirs():
        with open(path, "rb") as file:
            records = (r for r in ArchiveIterator(file) if r.rec_type == "response")
            return sum(len(r.content_stream().read()) for r in records)

    assert read_ours() == read_theirs()
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
    print(f"{size / 1e6:.1f} MB of pages, median of {len(rounds)} rounds: ours "
          f"{mine * 1e3:.0f} ms, warcio {other * 1e3:.0f} ms, so {ratio:.2f} times its speed")
    assert ratio > 0.5
