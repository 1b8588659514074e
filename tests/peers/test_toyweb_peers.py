"""web/toyweb.py's crawl read by warcio: standard WARC, digests right, what we read is what it reads."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from web import toyweb  # noqa: E402
from web import warc  # noqa: E402

pytest.importorskip("warcio")
from warcio.archiveiterator import ArchiveIterator  # noqa: E402


def test_warcio_reads_our_crawl(tmp_path):
    truth = toyweb.write(tmp_path, 300, seed=3)
    theirs, types = {}, []
    for path in sorted((tmp_path / "crawl").glob("*.warc.gz")):
        with open(path, "rb") as f:
            for record in ArchiveIterator(f, check_digests="raise"):
                types.append(record.rec_type)
                body = record.content_stream().read()
                assert record.digest_checker.passed in (True, None)
                if record.rec_type == "response":
                    assert record.http_headers.get_statuscode() == "200"
                    theirs[record.rec_headers.get_header("WARC-Target-URI")] = body
    assert types.count("response") == types.count("request") == types.count("metadata") == len(truth) and types[0] == "warcinfo"
    ours = {r.url: r.body for path in (tmp_path / "crawl").glob("*.warc.gz") for r in warc.read_warc(path) if r.type == "response"}
    assert ours == theirs and set(ours) == set(truth)
