"""What web/crawl.py writes, read by warcio: standard WARC, digests right, the same bodies; and read through open_url."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from web import crawl  # noqa: E402
from web import remote  # noqa: E402
from web import warc  # noqa: E402
from web_server import (  # noqa: E402,F401  fixtures, bodies
    BODIES, clock, file_page, hang_up, links, out, raw, servers, web)

pytest.importorskip("warcio")
from warcio.archiveiterator import ArchiveIterator  # noqa: E402


def read(file):
    """{URL: body} of the responses; an error if a digest is missing or wrong."""
    bodies, types = {}, []
    for record in ArchiveIterator(file, check_digests="raise"):
        types.append(record.rec_type)
        get, body = record.rec_headers.get_header, record.content_stream().read()
        assert record.digest_checker.passed and get("WARC-Block-Digest") and bool(get("WARC-Payload-Digest")) == (record.rec_type == "response")
        if record.rec_type == "response":
            bodies[get("WARC-Target-URI")] = body
    assert types == ["warcinfo"] + ["request", "response", "metadata"] * len(bodies)
    return bodies


def test_warcio_reads_our_crawl_and_our_connections(web, out, monkeypatch):  # noqa: F811
    monkeypatch.setattr(crawl, "MAX_BODY", 20_000)
    kinds = [kind for name, kind in BODIES.items() if name not in ("Chunked", "trailers")]       # warcio does not undo these
    web.pages = {f"/{i}": raw(start, body, then=None if cut == "length" else hang_up) for i, (start, body, _, cut) in enumerate(kinds)}
    web.pages["/"] = links(*web.pages, "/moved")
    web.pages["/moved"] = (301, {"Location": "/"}, b"there")
    crawl.crawl([web.url], out)
    ours = {r.url: r.body for r in warc.read_warc(out) if r.type == "response"}
    with open(out, "rb") as file:
        theirs = read(file)
    assert ours == theirs and len(ours) == len(kinds) + 3                # and /, /moved, /robots.txt
    web.pages["/crawl.warc.gz"] = file_page(out.read_bytes(), breaks=[5000, 1])
    with remote.open_url(web.url + "/crawl.warc.gz") as file:
        assert read(file) == ours
