"""What web/crawl.py and web/toyweb.py write, read by warcio.

It is standard WARC with right digests, and warcio reads the bodies that we read; also through
remote.open_url.
"""

import pytest

from web import crawl, remote, toyweb, warc
from web_server import (  # noqa: F401  fixtures, bodies
    BODIES, clock, file_page, hang_up, links, out, raw, servers, web)

pytest.importorskip("warcio")
from warcio.archiveiterator import ArchiveIterator  # noqa: E402


def read(file, all_digests=True):
    """{URL: (status, body)} and the types of all records; an error if a digest is wrong.

    all_digests: whether every record must have a digest of its block, and a response of its body.
    """
    found, types = {}, []
    for record in ArchiveIterator(file, check_digests="raise"):
        types.append(record.rec_type)
        get, body = record.rec_headers.get_header, record.content_stream().read()
        assert record.digest_checker.passed is not False
        if all_digests:
            assert record.digest_checker.passed and get("WARC-Block-Digest")
            assert bool(get("WARC-Payload-Digest")) == (record.rec_type == "response")
        if record.rec_type == "response":
            found[get("WARC-Target-URI")] = record.http_headers.get_statuscode(), body
    assert types[0] == "warcinfo"
    return found, types[1:]


def read_by_us(path):
    records = warc.read_warc(path)
    return {r.url: (str(r.status), r.body) for r in records if r.type == "response"}


def test_warcio_reads_our_crawl_and_our_connections(web, out, monkeypatch):  # noqa: F811
    monkeypatch.setattr(crawl, "MAX_BODY", 20_000)
    n_pages = 0
    for name, (start, body, _, cut) in BODIES.items():
        if name not in ("Chunked", "trailers"):             # warcio does not undo these
            web.pages[f"/{n_pages}"] = raw(start, body, then=None if cut == "length" else hang_up)
            n_pages += 1
    web.pages["/"] = links(*web.pages, "/moved")
    web.pages["/moved"] = (301, {"Location": "/"}, b"there")
    crawl.crawl([web.url], out)
    ours = read_by_us(out)
    with open(out, "rb") as file:
        theirs, types = read(file)
    assert types == ["request", "response", "metadata"] * len(theirs)
    assert ours == theirs and len(ours) == n_pages + 3      # and /, /moved, /robots.txt
    web.pages["/crawl.warc.gz"] = file_page(out.read_bytes(), breaks=[5000, 1])
    with remote.open_url(web.url + "/crawl.warc.gz") as file:
        assert read(file) == (ours, types)


def test_warcio_reads_the_toy_web(tmp_path):
    truth = toyweb.write(tmp_path, 300, seed=3)
    ours, theirs, n_types = {}, {}, dict.fromkeys(("request", "response", "metadata"), 0)
    for path in sorted((tmp_path / "crawl").glob("*.warc.gz")):
        ours |= read_by_us(path)
        with open(path, "rb") as file:
            found, types = read(file, all_digests=False)
        theirs |= found
        for kind in types:
            n_types[kind] += 1
    assert {*n_types.values()} == {len(truth)}
    assert ours == theirs and set(ours) == set(truth)
    assert {status for status, _ in ours.values()} == {"200"}
