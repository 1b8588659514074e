"""data.py: WARC oddities, every threshold from both sides, MinHash vectors, PII, and the pipeline end to end."""
import contextlib
import functools
import gzip
import hashlib
import http.server as http_server
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import regex

sys.path.insert(0, str(Path(__file__).parent.parent))
import bpe
from tokens import shards
import data
from web import dedup
from web import filters
from run import disk
from web import message
from web import warc
from conftest import run_script, script
from data import c4_quality, fineweb_quality, gopher_quality, gopher_repetition, redact, url_filter
from web.filters import Blocklist, Words, words

DATA = Path(os.environ.get("LONGHAND_DATA") or Path(__file__).parent.parent.parent / "shared" / "data")

# ------------------------------------------------------------------------------------------------------
# WARC, built by hand in bytes.


def record(block, type="response", version="1.0", length=None, **fields):
    """One WARC record; keyword url= and others become headers (_ for -); length overrides Content-Length."""
    fields = {"WARC-Record-ID": "<urn:uuid:1>", "WARC-Date": "2024-01-02T03:04:05Z", **fields}
    fields = {("WARC-Target-URI" if k == "url" else k.replace("_", "-")): v for k, v in fields.items()}
    head = f"WARC/{version}\r\nWARC-Type: {type}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items())
    if length is not False:
        head += f"Content-Length: {len(block) if length is None else length}\r\n"
    return head.encode() + b"\r\n" + block + b"\r\n\r\n"


def http(body, *headers, status="HTTP/1.1 200 OK"):
    return "\r\n".join((status, *headers, "", "")).encode() + body


def page(body=b"<p>x", url="http://a.com/", **fields):
    return record(http(body, "Content-Type: text/html"), url=url, **fields)


def read(raw, counts=None):
    return list(data.read_warc(io.BytesIO(raw), counts))


def urls(raw, counts=None):
    return [r.url for r in read(raw, counts)]


THREE = [page(b"<p>%d" % i, f"http://a.com/{i}") for i in range(3)]
NAMES = [f"http://a.com/{i}" for i in range(3)]


def test_record_fields():
    raw = record(http(b"<p>hi", "Content-Type: text/html; charset=koi8-r", "X-A: 1", "x-a: 2"), url="http://a.com/", WARC_IP_Address="1.2.3.4")
    [r] = read(raw)
    assert (r.url, r.date, r.id, r.type) == ("http://a.com/", "2024-01-02T03:04:05Z", "<urn:uuid:1>", "response")
    assert (r.status, r.body, r.charset, r.truncated, r.offset, r.undecodable) == (200, b"<p>hi", "koi8-r", None, 0, None)
    assert r.headers["warc-ip-address"] == "1.2.3.4" and r.http_headers["x-a"] == "1, 2"


@pytest.mark.parametrize("pack", [
    b"".join, lambda rs: b"".join(map(gzip.compress, rs)), lambda rs: gzip.compress(b"".join(rs)),
    lambda rs: gzip.compress(rs[0] + rs[1][:50]) + gzip.compress(rs[1][50:] + rs[2])], ids=["plain", "members", "one member", "odd members"])
def test_plain_and_gzip_of_every_kind(pack, tmp_path):
    raw = pack(THREE)
    assert urls(raw) == NAMES
    path = tmp_path / "misnamed.gz"
    path.write_bytes(raw)
    assert [r.url for r in data.read_warc(path)] == [r.url for r in data.read_warc(str(path))] == NAMES


def test_offset_is_where_the_record_can_be_read_again():
    for raw in (b"".join(THREE), b"".join(map(gzip.compress, THREE))):
        for r in read(raw):
            assert read(raw[r.offset:])[0].url == r.url
    assert [r.offset for r in read(gzip.compress(b"".join(THREE)))] == [0, 0, 0]


@pytest.mark.parametrize("version", ["0.17", "0.18", "1.0", "1.1"])
def test_versions(version):
    assert urls(page(version=version, WARC_Date="2024-01-02T03:04:05.123456Z")) == ["http://a.com/"]


def test_types_are_counted_and_only_responses_are_taken_apart():
    kinds = ["warcinfo", "request", "response", "metadata", "revisit", "resource", "conversion"]
    counts = Counter()
    out = read(b"".join(record(http(b"x"), type=k, url="http://a.com/") for k in kinds), counts)
    assert [counts[k] for k in kinds] == [1] * 7
    assert [r.body == b"x" for r in out] == [k == "response" for k in kinds]


@pytest.mark.parametrize("cut", [1, 5, 30, 100])
@pytest.mark.parametrize("zipped", [False, True])
def test_cut_off_in_the_last_record(cut, zipped):
    counts = Counter()
    raw = b"".join(map(gzip.compress, THREE)) if zipped else b"".join(THREE)
    assert urls(raw[:-cut], counts)[:2] == NAMES[:2]
    assert counts["cut_off"] == (zipped or cut > 4)
    if cut > 4:
        assert len(urls(raw[:-cut])) in ((2, 3) if zipped else (2,))


@pytest.mark.parametrize("wrong", [-3, +3, +20, +200, +10 ** 6, +10 ** 15, "nonsense", "-5", False])
@pytest.mark.parametrize("zipped", [False, True])
def test_wrong_content_length_costs_nothing(wrong, zipped):
    body = http(b"<p>the second page", "Content-Type: text/html")
    length = len(body) + wrong if isinstance(wrong, int) and wrong is not False else wrong
    rs = [THREE[0], record(body, url=NAMES[1], length=length), THREE[2]]
    counts = Counter()
    out = read(b"".join(map(gzip.compress, rs)) if zipped else b"".join(rs), counts)
    assert [r.url for r in out] == NAMES and out[1].body == b"<p>the second page"
    assert counts["wrong_length"] == 1
    assert out[1].truncated == ("unspecified" if isinstance(wrong, int) and wrong > 0 else None)


@pytest.mark.parametrize("wrong", [-3, +3, +20, +10 ** 15])
def test_wrong_content_length_of_the_last_record(wrong):
    body = http(b"<p>the last page", "Content-Type: text/html")
    last = record(body, url=NAMES[1], length=len(body) + wrong)
    for raw in (THREE[0] + last, gzip.compress(THREE[0]) + gzip.compress(last)):
        assert [r.body for r in read(raw)] == [b"<p>0", b"<p>the last page"]
    counts = Counter()                                           # not if the end of the gzip is missing
    assert urls(gzip.compress(THREE[0]) + gzip.compress(last)[:-8], counts)[:1] == NAMES[:1]
    assert counts["cut_off"] == 1


def test_last_record_without_length_or_without_line_ends():
    unsized = record(http(b"<p>a long enough page to be cut", "Content-Type: text/html"), url=NAMES[1], length=False)
    assert urls(gzip.compress(THREE[0]) + gzip.compress(unsized)) == NAMES[:2]
    assert urls(gzip.compress(THREE[0]) + gzip.compress(unsized)[:-14]) == NAMES[:1]       # who knows what is missing
    counts = Counter()
    assert read(page(b"<p>x\n")[:-4], counts)[0].body == b"<p>x\n" and not counts["wrong_length"]


@pytest.mark.parametrize("pack", [b"".join, lambda rs: b"".join(map(gzip.compress, rs))], ids=["plain", "members"])
def test_records_without_line_ends_between_them(pack):
    counts = Counter()
    assert [r.body for r in read(pack([page(b"<p>%d\n" % i)[:-4] for i in range(3)]), counts)] == [b"<p>0\n", b"<p>1\n", b"<p>2\n"]
    assert not counts["wrong_length"]
    assert [r.url for r in read(pack([record(b"", type="metadata", url="m")[:-4], *THREE]), counts)] == ["m", *NAMES] and not counts["wrong_length"]


def test_headers_cut_short_cost_their_record_only():
    for cut in (b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://cut.com/\r\n", b"WARC/1.0\r\nWARC-Type: res\r\n\r\n"):
        for raw in (THREE[0] + cut + THREE[1] + THREE[2], b"".join(map(gzip.compress, [THREE[0], cut, *THREE[1:]]))):
            out = [r for r in read(raw) if r.type == "response"]
            assert [(r.url, r.body) for r in out] == [(name, b"<p>%d" % i) for i, name in enumerate(NAMES)]


def test_headers_or_body_too_long_with_a_wrong_length_cost_one_record(monkeypatch):
    monkeypatch.setattr(message, "MAX_BLOCK", 1000)
    monkeypatch.setattr(message, "MAX_HEAD", 500)
    for bad in (page(X="x" * 5000), page(b"y" * 5000, length=10 ** 12), page(b"y" * 5000, length=3000), page(b"y" * 5000, length=7)):
        for raw in (THREE[0] + bad + THREE[1] + THREE[2], b"".join(map(gzip.compress, [THREE[0], bad, *THREE[1:]]))):
            assert [url for url in urls(raw) if url != "http://a.com/"] == NAMES
    counts = Counter()
    assert urls(THREE[0] + b"WARC/1.0\r\nX: " + b"x" * 100, counts) == NAMES[:1] and counts["cut_off"] == 1


@pytest.mark.parametrize("length", ["²745", "9" * 5000, "", "+7", "0x9"])
def test_content_length_that_is_no_number(length):
    assert [r.body for r in read(THREE[0] + page(b"<p>1", length=length) + THREE[2])] == [b"<p>0", b"<p>1", b"<p>2"]


@pytest.mark.parametrize("status, want", [("200", 200), ("9" * 5000, 0), ("²00", 0), ("2000", 0), ("-20", 0), ("", 0), ("abc", 0)])
def test_http_status(status, want):
    assert read(record(http(b"<p>x", status=f"HTTP/1.1 {status} OK"), url="u"))[0].status == want


def test_headers_in_linear_time_and_of_bounded_size():
    start, lines, counts = time.process_time(), b" x\n" * (message.MAX_HEAD // 3 - 100), Counter()
    [r, cut, last] = read(record(b"HTTP/1.1 200 OK\r\nX: y\r\n" + lines + b"\r\n<p>", X="y\r\n" + lines.decode()[:-1])
                          + record(b"HTTP/1.1 200 OK\r\n" + lines * 2 + b"\r\n<p>") + THREE[0], counts)
    assert r.body == b"<p>" and r.http_headers["x"] == r.headers["x"] == "y" + " x" * (len(lines) // 3)
    assert cut.body == b"" and cut.truncated == "http_head_too_long" and counts["http_head_too_long"] == 1 and last.url == NAMES[0]
    assert time.process_time() - start < 2


def test_body_that_holds_a_warc_is_one_record():
    inner = http(b"<p>" + b"".join(THREE), "Content-Type: text/html")
    assert [r.body for r in read(record(inner, url="u") + THREE[0])][0] == b"<p>" + b"".join(THREE)


def test_empty_block_blank_lines_and_no_final_newlines():
    assert len(read(b"\r\n\r\n" + record(b"", type="warcinfo") + b"\r\n\r\n\r\n" + THREE[0].rstrip(b"\r\n"))) == 2


def test_garbage_between_and_after():
    counts = Counter()
    assert urls(THREE[0] + b"garbage\r\n\r\n" + THREE[1] + b"garbage", counts) == NAMES[:2] and counts["resync"] == 2
    zipped = list(map(gzip.compress, THREE))
    counts = Counter()
    assert urls(zipped[0] + b"\0\0garbage" + zipped[1] + b"more", counts) == NAMES[:2] and counts["gzip_garbage"] == 2


def test_damaged_gzip_member_costs_one_record():
    big = [page(bytes(random.Random(i).randbytes(5000)), NAMES[i]) for i in range(3)]
    zipped = list(map(gzip.compress, big))
    zipped[1] = zipped[1][:2000] + b"\xff" * 500 + zipped[1][2500:]
    counts = Counter()
    out = [r for r in read(b"".join(zipped), counts) if not r.truncated]
    assert [r.url for r in out] == [NAMES[0], NAMES[2]] and counts["gzip_damaged"] == 1


@pytest.mark.parametrize("n", [1000, 5000, 1 << 20])
def test_gzip_member_cut_short_costs_one_record(n):
    class Dribble(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, n))
    r = random.Random(0)
    big = [gzip.compress(page("".join(r.choices("abcdefgh ", k=20_000)).encode(), name)) for name in NAMES]
    for cut in (5, 15, 300, 3000, 5500, len(big[1]) - 3):
        out = [x.url for x in warc.read_warc(Dribble(big[0] + big[1][:cut] + big[2]))]
        assert out[0] == NAMES[0] and out[-1] == NAMES[2]


@pytest.mark.parametrize("start", [b"\x1f\x8b\x08", b"\x1f\x8b\x08\x08\1\1\1\1\2\3", b"\x1f\x8b\x08\0\1\1\1\1\2\3", gzip.compress(b"")])
def test_starts_of_gzip_members_in_linear_time(start):
    began = time.process_time()
    first, *rest = map(gzip.compress, THREE)
    assert urls(first + start * (200_000 // len(start)) + b"".join(rest)) == NAMES
    assert time.process_time() - began < 3


def test_header_oddities():
    raw = (b"WARC/1.0\r\nwarc-type:response\r\nWARC-Target-URI: <http://a.com/a b>\r\nX: one\r\n two\r\nno colon\r\nY: caf\xe9\r\n"
           b"WARC-Protocol: h2\r\nWARC-Protocol: tls/1.3\r\nContent-Length: 51\r\n\r\n"
           b"HTTP/2 200\nContent-Type:text/html\nbroken\nA: \xff\n\n<p>hi\r\n\r\n")
    raw = raw.replace(b"51", b"%d" % len(b"HTTP/2 200\nContent-Type:text/html\nbroken\nA: \xff\n\n<p>hi"))
    [r] = read(raw)
    assert (r.url, r.headers["x"], r.headers["y"], r.headers["warc-protocol"]) == ("http://a.com/a%20b", "one two", "café", "h2, tls/1.3")
    assert (r.status, r.http_headers, r.body) == (200, {"content-type": "text/html", "a": "ÿ"}, b"<p>hi")


@pytest.mark.parametrize("n", [1, 2, 3, 7, 500])
def test_reads_of_any_size_find_every_gzip_member(n):
    class Dribble(io.BytesIO):                              # a read may end anywhere, in a magic number too
        def read(self, size=-1):
            return super().read(min(size, n))
    names = [f"http://a.com/{i}" for i in range(40)]
    raw = b"".join(gzip.compress(record(http(b"<p>%d" % i), url=name)) for i, name in enumerate(names))
    counts = Counter()
    assert [r.url for r in warc.read_warc(Dribble(raw), counts)] == names and not counts["gzip_garbage"]


def test_dns_response_has_no_http_header():
    assert read(record(b"20240101\na.com. 5 IN A 1.2.3.4", url="dns:a.com"))[0].body.startswith(b"2024")


def test_memory_is_bounded_and_a_huge_record_is_cut(monkeypatch):
    monkeypatch.setattr(message, "MAX_BLOCK", 1000)
    counts = Counter()
    out = read(record(http(b"x" * 100_000), url="u") + THREE[0], counts)
    assert len(out[0].body) < 1000 and out[0].truncated and out[1].url == NAMES[0]


@pytest.mark.parametrize("raw, says", [
    (b"", "empty"), (b"\n\n", "empty"), (b"<html>", "begins with b'<html>'"), (gzip.compress(b"hello hello"), "begins with b'hello hello'"),
    (b"PK\x03\x04", "begins"), (gzip.compress(b"WARC/1.0")[:5], "cut off"), (b"WARC/1.0\r\nWARC-Type: x\r\n", "no end of headers"),
    (b"http://a.com/ 1.2.3.4 20080101000000 text/html 100\n", "begins")])
def test_not_a_warc(raw, says, tmp_path):
    (tmp_path / "file.warc").write_bytes(raw)
    with pytest.raises(ValueError, match=rf"file\.warc: not a WARC file: .*{re.escape(says)}"):
        list(data.read_warc(tmp_path / "file.warc"))


GZ = gzip.compress(b"<p>" + b"zipped " * 2000)
RAW_DEFLATE = zlib.compressobj(wbits=-15)
RAW_DEFLATE = RAW_DEFLATE.compress(b"<p>raw") + RAW_DEFLATE.flush()


@pytest.mark.parametrize("body, headers, want", [
    (b"3\r\nabc\r\n0A;ext=1\r\n0123456789\r\n0\r\n\r\n", ["Transfer-Encoding: chunked"], b"abc0123456789"),
    (b"3\r\nabc\r\n5\r\n12", ["Transfer-Encoding: chunked"], b"abc12"),                        # ends inside a chunk
    (b"3\r\nabc\r\n", ["Transfer-Encoding: chunked"], b"abc"),                                 # no last chunk
    (b"3\r\nabc", ["Transfer-Encoding: chunked"], b"abc"),
    (b"<p>not chunked", ["Transfer-Encoding: chunked"], b"<p>not chunked"),
    (b"1\r\nxyz123!@#", ["Transfer-Encoding: chunked"], b"1\r\nxyz123!@#"),                    # untouched
    (b"", ["Transfer-Encoding: chunked"], b""),
    (GZ, ["Content-Encoding: gzip"], gzip.decompress(GZ)), (GZ, ["Content-Encoding: X-GZIP"], gzip.decompress(GZ)),
    (b"%X\r\n%s\r\n0\r\n\r\n" % (len(GZ), GZ), ["Content-Encoding: gzip", "Transfer-Encoding: chunked"], gzip.decompress(GZ)),
    (b"<p>plain", ["Content-Encoding: gzip"], b"<p>plain"), (b"<p>plain", ["Content-Encoding: br"], b"<p>plain"),
    (GZ, ["X-Crawler-Content-Encoding: gzip"], GZ), (b"<p>x", ["X-Crawler-Transfer-Encoding: chunked"], b"<p>x"),
    (zlib.compress(b"<p>z"), ["Content-Encoding: deflate"], b"<p>z"), (RAW_DEFLATE, ["Content-Encoding: deflate"], b"<p>raw"),
    (b"<p>x", ["Content-Encoding: utf-8"], b"<p>x"), (b"<p>x", ["Content-Encoding: identity"], b"<p>x")])
def test_body_decoding(body, headers, want):
    [r] = read(record(http(body, *headers), url="u"))
    assert r.body == want and r.undecodable is None


def test_body_cut_in_gzip_keeps_what_came_before():
    long = bytes(random.Random(0).randbytes(50_000))
    [r] = read(record(http(gzip.compress(long)[:30_000], "Content-Encoding: gzip"), url="u"))
    assert 20_000 < len(r.body) < 30_001 and long.startswith(r.body)


CUT = gzip.compress(bytes(random.Random(0).randbytes(9000)))[:5000]


@pytest.mark.parametrize("body, headers, size, why", [
    (gzip.compress(b"<p>one") + gzip.compress(b" and two"), ["Content-Encoding: gzip"], 14, None),
    (gzip.compress(b"x" * 4000) * 300, ["Content-Encoding: gzip"], 1_200_000, None), (gzip.compress(b"<p>one") + b"\0\0more", ["Content-Encoding: gzip"], 6, None),
    (gzip.compress(b"<p>one") + gzip.compress(b" two")[:-3], ["Content-Encoding: gzip"], 10, "compressed_cut"), (CUT, ["Content-Encoding: gzip"], None, "compressed_cut"),
    (zlib.compress(b"<p>one")[:-2], ["Content-Encoding: deflate"], 6, "compressed_cut"), (b"", ["Content-Encoding: gzip"], 0, None),
    (b"ff\r\nabc", ["Transfer-Encoding: chunked"], 3, "chunked_cut"), (b"3\r\nabc\r\n", ["Transfer-Encoding: chunked"], 3, "chunked_cut"),
    (b"3\r\nabc\r\n0\r\n", ["Transfer-Encoding: chunked"], 3, None), (b"plain", ["Transfer-Encoding: chunked"], 5, None),
    (b"FFFF\r\n" + CUT, ["Transfer-Encoding: chunked", "Content-Encoding: gzip"], None, "chunked_cut"),
    (gzip.compress(bytes(100_001)), ["Content-Encoding: gzip"], 100_000, "inflated_too_long"), (gzip.compress(bytes(100_000)), ["Content-Encoding: gzip"], 100_000, None)])
def test_bodies_that_are_not_all_there_are_counted(body, headers, size, why, monkeypatch):
    monkeypatch.setattr(message, "MAX_BLOCK", 100_000 if why == "inflated_too_long" or size == 100_000 else message.MAX_BLOCK)
    counts = Counter()
    [r] = read(record(http(body, *headers), url="u"), counts)
    assert size in (None, len(r.body)) and r.truncated == why
    assert {k: n for k, n in counts.items() if n} == {"response": 1, **({why: 1, "truncated": 1} if why else {})}
    [r] = read(record(http(body, *headers), url="u", WARC_Truncated="time"))
    assert r.truncated == "time"


def test_bomb_and_brotli():
    bomb = gzip.compress(bytes(message.MAX_BLOCK * 2))
    counts = Counter()
    out = read(record(http(bomb, "Content-Encoding: gzip"), url="u") + record(http(b"\x8b\0\0", "Content-Encoding: br"), url="u"), counts)
    assert len(out[0].body) == message.MAX_BLOCK and out[1].undecodable == "br" and counts["undecodable"] == 1


@pytest.mark.parametrize("identified, declared, body, want", [
    ("text/html", "image/png", b"x", True), ("application/xhtml+xml", None, b"x", True), ("application/pdf", "text/html", b"<p>", False),
    ("text/plain", "text/html", b"<html>", False), (None, "text/html; charset=x", b"hello", True), (None, "TEXT/HTML", b"", True),
    (None, "text/html", b"%PDF-1.4", False), (None, "text/html", b"\x89PNG", False), (None, "text/html", b"\x1f\x8b\x08", False),
    (None, "text/html", b' {"a": 1}', False), (None, "text/html", b"<?xml version='1.0'?><rss>", False),
    (None, "text/html", b"<?xml version='1.0'?><!DOCTYPE html><html>", True), (None, "text/html", b"\xef\xbb\xbf<rss >", False),
    (None, "text/plain", b"<!DOCTYPE html><p>", True), (None, "text/plain", b"plain words", False), (None, None, b"<html>", True),
    (None, None, b"words", False), (None, "application/json", b"<html>", False), (None, "image/png", b"<html>", False)])
def test_which_responses_are_pages(identified, declared, body, want):
    fields = {"WARC_Identified_Payload_Type": identified} if identified else {}
    headers = [f"Content-Type: {declared}"] if declared else []
    assert warc.is_html(read(record(http(body, *headers), url="u", **fields))[0]) is want


# ------------------------------------------------------------------------------------------------------
# URLs.

BLOCK = Blocklist(domains={"bad.com", "bad.nice.com", "evil.co.uk", "6.6.6.6"}, urls={"http://x.com/bad", "y.com/worse"},
                  hard=frozenset({"poker"}), soft=frozenset({"hot", "cam"}), subwords=("bigblack",))


@pytest.mark.parametrize("url, reason", [
    ("http://bad.com/", "domain"), ("http://www.bad.com/x", "domain"), ("https://user:pw@A.B.BAD.COM.:80/", "domain"),
    ("http://bad.nice.com/", "subdomain"), ("http://deep.bad.nice.com/", None), ("http://nice.com/", None), ("http://notbad.com/", None),
    ("http://news.evil.co.uk/", "domain"), ("http://co.uk/", None), ("http://6.6.6.6/x", "domain"), ("http://6.6.6.7/x", None),
    ("http://x.com/bad", "url"), ("http://x.com/bad2", None), ("https://y.com/worse", "url"),
    ("http://a.com/poker", "hard_blacklisted"), ("http://a.com/Poker", None), ("http://a.com/pokers", None), ("http://poker.com/", "hard_blacklisted"),
    ("http://a.com/a%20poker-b", None), ("http://a.com/a-poker-b", "hard_blacklisted"),
    ("http://a.com/hot-cam", "soft_blacklisted"), ("http://a.com/hot-hot", None), ("http://a.com/hot", None),
    ("http://a.com/x-Big-BLACK-y", "blacklisted_subword"), ("http://a.com/big/black", "blacklisted_subword"),
    ("http://bad.com/poker", "domain"), ("http://a.com/poker-hot-cam-bigblack", "hard_blacklisted"), ("http://a.com/hot-cam-bigblack", "soft_blacklisted"),
    ("", "no_host"), ("a.com/x", "no_host"), ("http://[bad/", "no_host"), ("http:///x", "no_host"), ("http://a.com/" + "x" * 8000, None),
    ("http://a%20b.BAD.com/", "domain"), ("http://bad.com:80x[::1]/", "domain"), ("http://[::1]:80/", None),
    ("http://localhost/", None), ("http://xn--bcher-kva.de/", None), ("http://bücher.de/ä", None)])
def test_url_filter(url, reason):
    assert url_filter(url, BLOCK) == ((None, reason) if reason else (url, None))


def test_default_words_and_ordinary_urls():
    assert url_filter("http://a.com/viagra")[1] == "hard_blacklisted"
    for url in ("https://en.wikipedia.org/wiki/Sex_education", "http://www.essex.ac.uk/", "https://a.org/scunthorpe"):
        assert url_filter(url) == (url, None)


@pytest.mark.parametrize("host, domain", [
    ("a.b.com", "b.com"), ("b.com", "b.com"), ("news.bbc.co.uk", "bbc.co.uk"), ("x.blogspot.com", "blogspot.com"), ("t.co", "t.co"),
    ("a.gov.br", "a.gov.br"), ("1.2.3.4", "1.2.3.4"), ("localhost", "localhost"), ("", "")])
def test_registered_domain(host, domain):
    assert filters.registered_domain(host) == domain


def test_load_blocklist(tmp_path):
    for name, text in (("adult/domains", "Bad.com\n\n# comment\n"), ("adult/domains.1", "worse.com"), ("adult/urls", "x.com/Y\n"), ("adult/usage", "no.com"),
                       ("adult/expressions", "(a|b)"), ("mine.txt", "mine.com\r\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    got = filters.load_blocklist([tmp_path, tmp_path / "mine.txt"])
    (tmp_path / "adult" / "urls.1.gz").write_bytes(gzip.compress(b"y.com/Z\n"))
    got = filters.load_blocklist([tmp_path, tmp_path / "mine.txt"])
    assert all(name in got.domains for name in ("bad.com", "worse.com", "mine.com")) and len(got.domains.hashes) == 3
    assert all(name in got.urls for name in ("x.com/Y", "y.com/Z")) and "x.com/y" not in got.urls and "" not in got.domains
    (tmp_path / "words").write_text("Big-Word\n\n# no\n")
    got = filters.load_blocklist([], hard=tmp_path / "words", soft=tmp_path / "words", subwords=tmp_path / "words")
    assert (got.hard, got.soft, got.subwords) == ({"bigword"}, {"bigword"}, ("bigword",))
    (tmp_path / "adult" / "urls.1.gz").write_bytes(gzip.compress(b"y.com/Z\n")[:-9])
    with pytest.raises(ValueError, match="urls.1.gz: damaged gzip"):
        filters.load_blocklist([tmp_path])
    for missing in (tmp_path / "none", tmp_path / "adult" / "usage" / "x"):
        with pytest.raises(FileNotFoundError, match="--blocklist takes"):
            filters.load_blocklist([missing])


def test_public_suffixes(tmp_path):
    """The rules of the list's own description, and its examples."""
    path = tmp_path / "list.dat"
    path.write_text("// ===BEGIN ICANN DOMAINS===\ncom\nuk\nco.uk\n*.ck\n!www.ck\njp\n*.kobe.jp\n!city.kobe.jp\n公司.cn\n"
                    "// ===BEGIN PRIVATE DOMAINS===\nblogspot.com\n", encoding="utf-8")
    rules = filters.load_suffixes(path)
    for host, want in (("a.b.example.com", "example.com"), ("x.bbc.co.uk", "bbc.co.uk"), ("co.uk", "co.uk"), ("a.b.c.ck", "b.c.ck"), ("www.ck", "www.ck"),
                       ("x.www.ck", "www.ck"), ("a.city.kobe.jp", "city.kobe.jp"), ("a.b.c.kobe.jp", "b.c.kobe.jp"), ("x.y.blogspot.com", "blogspot.com"),
                       ("a.b.unheard", "b.unheard"), ("8.8.8.8", "8.8.8.8"), ("localhost", "localhost"), ("a.xn--55qx5d.cn", "a.xn--55qx5d.cn")):
        assert filters.registered_domain(host, rules) == want, host
    assert url_filter("http://x.bad.c.ck/", Blocklist(domains={"bad.c.ck"}, suffixes=rules)) == (None, "domain")
    path.write_text("// nothing\n")
    with pytest.raises(ValueError, match="no rules"):
        filters.load_suffixes(path)


# ------------------------------------------------------------------------------------------------------
# Rights.

@pytest.mark.parametrize("headers, html, said", [
    ({}, b'<meta name="robots" content="index, follow">', None), ({}, b'<META CONTENT="NoAI, noimageai" NAME=Robots>', "noai"),
    ({}, b"<meta name='robots' content='noindex'/>", "noindex"), ({}, b'<meta name="robots" content="none">', "none"),
    ({}, b'<!-- <meta name="robots" content="noindex"> -->', None), ({}, b'<meta name="googlebot" content="noindex">', None),
    ({}, b'<meta name="tdm-reservation" content="1">', "tdm_reservation"), ({}, b'<meta name="tdm-reservation" content="0">', None),
    ({"x-robots-tag": "noarchive, noai"}, b"", "noai"), ({"x-robots-tag": "googlebot: noindex, nofollow"}, b"", None),
    ({"x-robots-tag": "unavailable_after: 25 Jun 2010, noindex"}, b"", "noindex"), ({"tdm-reservation": "1"}, b"", "tdm_reservation"),
    ({"tdm-reservation": "0"}, b"", None), ({}, b"<p>robots say noindex", None), ({}, b'<metal name="robots" content="noindex">', None)])
def test_rights(headers, html, said):
    assert filters.rights(headers, html) == (said, None)


# What owners of pages write. A line is a form.
FORBIDS = r"""
<meta name="robots" content="noai">
<META NAME="ROBOTS" CONTENT="NOAI">
<meta content='noai' name='robots'>
<meta name=robots content=noai>
<meta name="robots" content="noai" />
<meta name='robots'content='noindex,follow'/>
<meta/name="robots"/content="noai">
<meta name = "robots" content = "noai">
<meta id=a name=" robots " content=" noai ">
<meta data-a='>' name="robots" content="noai">
<meta name="robots" content="index, noai">
<meta name="robots" content="noarchive,noai,max-snippet:-1">
<meta name="robots" content="no&#97;i">
<meta name="&#x72;obots" content="noai">
<meta name="robots" content="index&comma;noai">
<meta name="robots" content="noindex nofollow">
<meta name="robots" content="none">
<meta name="robots" content="noarchive,&#10;noai">
<meta name="longhand" content="noindex">
<meta name="Longhand" content="noai">
<meta http-equiv="X-Robots-Tag" content="noai">
<meta name="tdm-reservation" content="1">
<meta content=1 name=TDM-Reservation>
<meta property="tdm-reservation" content=" 1 ">
<meta http-equiv="TDM-Reservation" content="'1'">
<meta name="googlebot, robots" content="noai">
<meta name="robots" content="max-image-preview:large, noai">
<meta name=robots content="longhand: noai">
<meta name="robots" content="otherbot: index, *: noai">
<meta name="robots" content="unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT">
<meta name="robots" content="noai" name="description">
<meta name="robots" content="index"><meta name="robots" content="noai">
<noscript><meta name="robots" content="noai"></noscript>
<script src=a.js /><meta name="robots" content="noai">
<script>"<!--"</script><meta name="robots" content="noai">
<script>'<body>'</script><meta name="robots" content="noai">
<script>if (a < b) c = "<meta "</script><meta name=robots content=noai>
<!-- a --><meta name="robots" content="noai"><!-- b -->
<!--[if IE]><p><![endif]--><meta name="robots" content="noai">
<!--><meta name="robots" content="noai">
<style>a > b {}</style><meta name="robots" content="noai">
<link title="<!--"><meta name="robots" content="noai">
<body class=a><p>A page without a head<meta name="robots" content="noai">
"""
ALLOWS = r"""
<meta name="robots" content="index, follow">
<meta name="robots" content="">
<meta name="robots">
<meta name="description" content="noai">
<meta name="googlebot" content="noai">
<meta name="robots" content="googlebot: noai">
<meta name="robots" data-content="noai">
<meta data-name="robots" content="noai">
<meta content="noai">
<meta name="robots" content="max-image-preview:none">
<meta name="robots" content="index" content="noai">
<meta name="author" name="robots" content="noai">
<metadata name="robots" content="noai">
<meta name="robots" content="noimageai">
<meta name="robotsx" content="noai">
<meta name="robots" content="unavailable_after: Thu, 03 Dec 2099 13:09:53 GMT">
<meta name="tdm-reservation" content="0">
<meta name="tdm-policy" content="1">
<p title='<meta name="robots" content="noai">'>
<img alt="a > b" title='<meta name=robots content=noai>'>
<p name="robots" content="noai">
&lt;meta name="robots" content="noai">
<!-- <meta name="robots" content="noai"> -->
<!-- <meta name="robots" content="noai"> --!>
<!--><!--<meta name=robots content=noai>-->
<script>'<meta name="robots" content="noai">'</script>
<script type="text/x"><!-- <meta name=robots content=noai> --></script>
<style><meta name="robots" content="noai"></style>
<title><meta name="robots" content="noai"></title>
<textarea><meta name=robots content=noai></textarea>
<template><p><meta name=robots content=noai></template>
<iframe><meta name=robots content=noai></iframe>
<xmp><meta name=robots content=noai></xmp>
</meta name=robots content=noai>
< meta name=robots content=noai>
"""
FORBIDS, ALLOWS = FORBIDS.strip().split("\n"), ALLOWS.strip().split("\n")
CRAWLED = "2026-06-01T00:00:00Z"


@pytest.mark.parametrize("form", FORBIDS)
def test_forms_of_no(form):
    for page in (form, f"<!doctype html><html><head><title>x</title>{form}</head><body><p>Text.", f"<html><p>Text.</p>{form}", f"{form[:-1]}"):
        assert filters.rights({}, page.encode(), CRAWLED)[0], page
    assert filters.rights({}, f"<html>{form}</html>".encode("utf-16"), CRAWLED)[0] and filters.rights({"content-type": "text/html; charset=utf-16le"}, form.encode("utf-16-le"), CRAWLED)[0]


@pytest.mark.parametrize("form", ALLOWS)
def test_forms_that_are_no_no(form):
    for page in (form, f"<!doctype html><html><head><title>x</title>{form}</head><body><p>Text.", f"<html><p>Text.</p>{form}"):
        assert filters.rights({}, page.encode(), CRAWLED) == (None, None), page


def test_forms_in_any_company():
    """A form says what it says, whatever complete markup stands around it; one no among many is enough."""
    rng, whole = random.Random(0), [form for form in FORBIDS if not form.startswith(("<script src", "<!-->"))]
    others = [*ALLOWS, *(f"<script>{form}</script>" for form in whole if "script" not in form), *(f"<!-- {form} -->" for form in whole if "--" not in form), "<p>Text", "</p>", "&amp;", "<br/>", "1 < 2", "<b title='a>b'>", "é", "\0",
              "<a href=license>", '<a rel="license" href="/l">', "<svg><path d='M0'/></svg>", "<body>", "</head>", "<![CDATA[x]]>", "<?php x ?>", "<p title=it's>"]
    for _ in range(3000):
        pieces = [rng.choice(others) for _ in range(rng.randrange(12))]
        no = rng.random() < 0.5
        if no:
            pieces.insert(rng.randrange(len(pieces) + 1), rng.choice(whole))
        assert bool(filters.rights({}, "\n".join(pieces).encode(), CRAWLED)[0]) is no, pieces


@pytest.mark.parametrize("headers, said", [
    ("X-Robots-Tag: noarchive\r\nX-Robots-Tag: noai", "noai"), ("X-Robots-Tag: otherbot: noindex\r\nX-Robots-Tag: noai", "noai"), ("X-Robots-Tag: otherbot: noindex\r\nX-Robots-Tag: googlebot: noai", None),
    ("X-Robots-Tag: unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT, noai", "noai"), ("X-Robots-Tag: unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT", "unavailable_after"),
    ("X-Robots-Tag: unavailable_after: Thu, 03 Dec 2026 13:09:53 GMT", None), ("TDM-Reservation: 1", "tdm_reservation"), ("TDM-Reservation: 0\r\ntdm-reservation: 1", "tdm_reservation"), ("tdm-reservation: 10", None), ('tdm-reservation: "1"', "tdm_reservation"), ('tdm-reservation: "0"', None),
    ("X-Robots-Tag: max-snippet:-1, max-image-preview:large\r\nX-Robots-Tag: max-video-preview:-1", None)])
def test_rights_in_headers(headers, said):
    for date in (CRAWLED, ""):
        head = headers if date else headers + "\r\nDate: Mon, 01 Jun 2026 00:00:00 GMT"
        assert filters.rights(message.parse_headers(head.encode()), b"<p>x", date) == (said, None)


@pytest.mark.parametrize("html, licence", [
    (b'<a rel="license" href="https://creativecommons.org/licenses/by/4.0/">CC</a>', "https://creativecommons.org/licenses/by/4.0/"),
    (b"<LINK HREF=/terms REL='nofollow License'>", "/terms"), (b'<a rel="licenses" href="x">', None), (b'<a href="license">', None), (b'<a rel="license">', None),
    (b'<a rel=license href="/l?a=1&amp;b&copy=2">', "/l?a=1&b&copy=2"), (b'<!-- <a rel=license href=/a> --><a rel=license href=/b>', "/b"), (b'<script>"<a rel=license href=/a>"</script>', None), ('<a rel=license href="/\u00e9&eacute;">'.encode(), "/\u00e9\u00e9"),
    (b'<p title="<a rel=license href=/a>"><link rel=license href=/b><a rel=license href=/c>', "/b")])
def test_a_licence_is_kept(html, licence):
    assert filters.rights({}, html) == (None, licence)


@pytest.mark.parametrize("html", [b"<meta " * 100_000 + b"robots", b"<a rel=license " * 60_000, b"<!--" * 200_000 + b"robots", b"<meta a=" + b'"' * 400_000 + b"robots>"])
def test_rights_in_linear_time(html):
    start = time.process_time()
    filters.rights({}, html)
    assert time.process_time() - start < 3


# ------------------------------------------------------------------------------------------------------
# Words and sentences.

@pytest.mark.parametrize("text, tokens", [
    ("Mr. Li's 3.14 isn't well-known.", "Mr.|Li|'s|3.14|is|n't|well|-|known|."),
    ("We’re at 1,000, aren’t we?", "We|’re|at|1,000|,|are|n’t|we|?"),
    ("The U.S. and e.g. J. Smith...", "The|U.S.|and|e.g.|J.|Smith|..."),
    ("See http://a.com/b?c=d, or a@b.com.", "See|http://a.com/b?c=d|,|or|a@b.com|."),
    ("$5 50% 20th 10:30 1990s", "$|5|50|%|20th|10:30|1990s"), ("O'Donnell cannot", "O'Donnell|can|not"),
    ("example.com End.Next", "example.com|End|.|Next"), ("a--b…", "a|--|b|…"), ("", ""), (" \n\t\u00a0", ""), ("\u4e2d\u6587\u3002", "中文|。"),
    ("「東京」は、日本の首都です。 好（一）《书》", "「|東京」は、日本の首都です|。|好（一）《书|》")])
def test_words(text, tokens):
    assert words(text) == tokens.split("|") * bool(tokens)


def test_words_as_numbers_are_the_words():
    """Of every white space and many odd pieces, in contexts that the pattern looks at."""
    pieces = ["can", "cannot", "Cannot", "cannots", "don't", "n't", "U.S.", "e.g.", "3.14abc4", "0a0", "Mr.", "x@y.z.", "http://a.b/c?", "'s", "é", "\u0301", "中文。",
              "a\u00adb", "...", "--", "(", "a" * 300, "1,000", "O'Neill's", "\ud800"]
    spaces = [chr(c) for c in range(0x3001) if chr(c).isspace() or regex.match(r"\s", chr(c))]
    r = random.Random(0)
    for _ in range(3000):
        text = "".join(r.choice(pieces) + r.choice(spaces) * r.randint(0, 2) for _ in range(r.randint(0, 8)))
        found, names = Words(text), {i: w for w, i in filters.vocabulary.words.items()}
        assert [names[i] for i in found.ids.tolist()] == words(text), repr(text)
        assert found.length.tolist() == list(map(len, words(text)))
    known = len(filters.vocabulary.pieces)
    filters.vocabulary.MOST = known - 1                          # it begins anew
    assert len(Words("a new beginning")) == 3 and len(filters.vocabulary.pieces) == 3


def test_words_remembered_are_bounded_in_characters(monkeypatch):
    """A million pieces may be remembered, but not a million long ones."""
    monkeypatch.setattr(filters.Vocabulary, "MOST_CHARS", 100_000)
    monkeypatch.setattr(filters, "vocabulary", filters.Vocabulary())
    for i in range(100):
        text = f"{i} " + " ".join(f"{i}x{j}" * 300 for j in range(10))
        assert filters.Words(text).length.tolist() == list(map(len, words(text)))
        assert sum(map(len, filters.vocabulary.pieces)) <= 100_000 + len(text)


@pytest.mark.parametrize("text, n", [
    ("One. Two! Three?", 3), ("One. (Two) three", 2), ("No end", 1), ("", 1), ("...", 1), ("One...two", 1), ("Mr. Smith of the U.S. came.", 1),
    ('He said "no." Then he left.', 2), ("3.14 is pi. Yes.", 2), ("一。二。三", 1), ("一。 二。 三", 3), ("One.", 1), ("a.b.c", 1),
    ("end. */", 1), ("end.  */", 2), ("end.\u00a0*/", 2), ("end.  Next", 2), ("so  on. The\tend?  ! ?", 3), ("one\u17d4 two\u0964 three", 2)])
def test_count_sentences(text, n):
    assert filters.count_sentences(text) == n


def test_character_sets():
    assert len(filters.PUNCTUATION) == 129 and len(filters.END_MARKS) == 159
    assert {c for c in filters.END_MARKS if c < "\u0250"} == set(".!?")
    assert "•" not in filters.SYMBOLS and "１" in filters.SYMBOLS and "\t" not in filters.SYMBOLS


# ------------------------------------------------------------------------------------------------------
# Filters: each threshold from both sides.

rng = random.Random(0)
VOCABULARY = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 8))) for _ in range(5000)]


def prose(n, seed=0):
    """n different words in sentences of ten, a line for each."""
    chosen = random.Random(seed).sample(VOCABULARY, n)
    return "\n".join("the " + " ".join(chosen[i:i + 10]) + " of it." for i in range(0, n, 10))


def reason(result):
    kept, why = result
    assert (kept is None) != (why is None)
    return why


def test_prose_passes_everything():
    text = prose(300)
    for check in (gopher_repetition, gopher_quality, c4_quality, fineweb_quality):
        assert check(text) == (text, None)


@pytest.mark.parametrize("check", [gopher_repetition, gopher_quality, c4_quality, fineweb_quality, redact, lambda t: data.minhash([t])])
@pytest.mark.parametrize("text", ["", " ", "\n", "\n\n\n", ".", "a", "a b", "...", "\u2028", "\x0c", "-", "#", "•\n•", "é", "\ufffd", "_" * 10, "🏳️‍🌈" * 5])
def test_no_division_by_zero(check, text):
    check(text)


@pytest.mark.parametrize("n_lines, n_repeated, want", [(10, 3, None), (10, 4, "dup_line_frac")])
def test_dup_line_frac(n_lines, n_repeated, want):
    lines = prose(200).split("\n")[:n_lines - n_repeated] + ["go on"] * (n_repeated + 1)
    assert reason(gopher_repetition("\n".join(lines[:n_lines - n_repeated - 1] + ["go"] * (n_repeated + 1)))) == want


@pytest.mark.parametrize("blanks, want", [("\n\n", None), ("\n\n\n\n", None)])
def test_blank_lines_are_no_duplicate_lines(blanks, want):
    assert reason(gopher_repetition(prose(100).replace("\n", blanks))) == want


def test_dup_para_frac_and_chars():
    paragraphs = prose(200).split("\n")
    assert reason(gopher_repetition("\n\n".join(paragraphs[:7] + ["x y"] * 3))) is None                       # 2 of 10
    assert reason(gopher_repetition("\n\n".join(paragraphs[:6] + ["x y"] * 4))) is None                       # 3 of 10 is not over 0.3
    assert reason(gopher_repetition("\n\n".join(paragraphs[:5] + ["x y"] * 5))) == "dup_para_frac"
    assert reason(gopher_repetition("\n\n".join(paragraphs[:8] + ["".join(paragraphs[10:12])] * 2))) != "dup_para_char_frac"
    assert reason(gopher_repetition("\n\n".join(paragraphs[:8] + ["".join(paragraphs[10:14])] * 2))) == "dup_para_char_frac"


def test_dup_line_char_frac():
    lines = prose(200).split("\n")
    assert reason(gopher_repetition("\n".join(lines[:8] + ["".join(lines[10:14])] * 2))) == "dup_line_char_frac"


@pytest.mark.parametrize("n, limit", filters.TOP_NGRAMS)
def test_top_ngram(n, limit):
    ngram = ["aaaa", "bbbb", "cccc", "dddd"][:n]
    def text(share):                              # 20 times the n-gram between different words, padded to the share
        one = len(" ".join(ngram)) * 20
        words_ = [w for w in VOCABULARY[:20]]
        parts = [" ".join(ngram) + " " + w for w in words_]
        out = " ".join(parts)
        size = int(one / share)
        filler = VOCABULARY[100:]
        while len(out) < size:
            out += " " + filler[0]
            filler = filler[1:]
        return out
    below, above = text(limit - 0.01), text(limit + 0.02)
    assert reason(gopher_repetition(below)) in (None, "duplicated_5_n_grams")
    assert f"top_{n}_gram" not in (reason(gopher_repetition(below)) or "")
    if n == 2:
        assert reason(gopher_repetition(above)) == "top_2_gram"


def test_top_ngram_counts_even_once_and_takes_the_first_of_equals():
    assert filters.top_ngram_chars(Words("aa b c d"), 2) == 4          # "aa b", not the later ones
    assert filters.top_ngram_chars(Words("a b a b a"), 2) == 6         # overlaps counted, first of equals
    assert filters.top_ngram_chars(Words("a"), 2) == 0
    assert reason(gopher_repetition("only three words")) == "top_2_gram"


def repeated(text, n):
    return filters.duplicate_ngram_chars(filters.WithoutSpaces(Words(text)), n)


def test_duplicate_ngrams_scan():
    assert repeated("a b c d e a b c d e", 5) == 5
    assert repeated("a a a a a a a a a a a", 5) == 10   # seen at 0; dup at 1, jump; dup at 6, jump
    assert repeated("a b c d", 5) == 0


@pytest.mark.parametrize("n, limit", filters.DUPLICATE_NGRAMS)
def test_duplicate_ngram_thresholds(n, limit, monkeypatch):
    monkeypatch.setattr(filters, "TOP_NGRAMS", ())                  # they would see these texts first
    base = VOCABULARY[:n]
    chars = len("".join(base))
    def text(share):
        out = " ".join(base)
        size, filler = int(chars / share), iter(VOCABULARY[50:])
        middle = ""
        while len(out) * 2 + len(middle) + 2 < size:
            middle += " " + next(filler)
        return out + middle + " " + out
    assert reason(gopher_repetition(text(limit + 0.02))) == next(f"duplicated_{m}_n_grams" for m, at in filters.DUPLICATE_NGRAMS
                                                               if repeated(text(limit + 0.02), m) / len(text(limit + 0.02)) > at)
    assert reason(gopher_repetition(text(limit - 0.02))) != f"duplicated_{n}_n_grams"


def test_gopher_counts():
    fifty = ["the", "of"] + VOCABULARY[:48]
    assert reason(gopher_quality(" ".join(fifty))) is None
    assert reason(gopher_quality(" ".join(fifty[:49] + ["."]))) == "gopher_short_doc"            # a symbol is no word
    assert reason(gopher_quality("the of " + "word " * 99_998)) is None
    assert reason(gopher_quality("the of " + "word " * 99_999)) == "gopher_long_doc"


def test_gopher_mean_word_length():
    assert reason(gopher_quality("the of " + "abc " * 40 + "abcd " * 8)) is None
    assert reason(gopher_quality("the " * 50 + "of the")) == "gopher_below_avg_threshold"         # 2.98
    assert reason(gopher_quality("the that " + "x" * 23 + " abcdefghij" * 50)) is None              # 10 exactly
    assert reason(gopher_quality("the that " + "x" * 24 + " abcdefghij" * 50)) == "gopher_above_avg_threshold"
    assert reason(gopher_quality("the that " + "abcdefghijk " * 100)) == "gopher_above_avg_threshold"


def with_symbols(symbol, n, words_=90):
    return " ".join([symbol] * n + ["the", "of"] + VOCABULARY[:words_ - 2])


def test_gopher_symbol_ratios():
    assert reason(gopher_quality(with_symbols("#", 10))) is None                                   # 10 of 100
    assert reason(gopher_quality(with_symbols("#", 11))) == "gopher_too_many_hashes"
    assert reason(gopher_quality(with_symbols("…", 10))) is None
    assert reason(gopher_quality(with_symbols("…", 11))) == "gopher_too_many_ellipsis"
    assert reason(gopher_quality(with_symbols("...", 11))) == "gopher_too_many_ellipsis"


def test_gopher_lines():
    lines = prose(200).split("\n")[:10]
    bullets = lambda mark, n: "\n".join((mark if i < n else "") + line for i, line in enumerate(lines))
    assert reason(gopher_quality(bullets("- ", 9))) is None
    assert reason(gopher_quality(bullets("  • ", 10))) == "gopher_too_many_bullets"
    ends = lambda mark, n: "\n".join(line + (mark if i < n else "") for i, line in enumerate(lines))
    assert reason(gopher_quality(ends("…", 3))) is None
    assert reason(gopher_quality(ends("... ", 4))) == "gopher_too_many_end_ellipsis"


def test_gopher_alphabetic_and_stop_words():
    assert reason(gopher_quality(with_symbols("7", 22))) is None                                   # 90 of 112
    assert reason(gopher_quality(with_symbols("7", 23))) == "gopher_below_alpha_threshold"         # 90 of 113
    text = " ".join(VOCABULARY[:100])
    assert reason(gopher_quality("the of " + text)) is None
    assert reason(gopher_quality("the the " + text)) == "gopher_enough_stop_words"
    assert reason(gopher_quality("the The Of " + text)) == "gopher_enough_stop_words"              # case-sensitive


FIVE = "\n".join(f"Here is line number {w}." for w in ("one", "two", "three", "four", "five"))


@pytest.mark.parametrize("line, kept", [
    ("two words", None), ("three words here", "three words here"), ("x" * 1000 + " a b", "x" * 1000 + " a b"), ("x" * 1001 + " a b", None),
    ("Please enable Javascript to see this.", None), ("Read our Privacy Policy here.", None), ("This site uses cookies and more.", None),
    ("Terms of use are below.", None), ("We like cookies very much.", "We like cookies very much."),
    ("It is so[1][23] said [citation needed] here[edit].", "It is so said  here."), ("a [1] [2]", "a  "), ("[1] [2] [3]", "  "),
    ("  padded line here  ", "padded line here"), ("javascript { is fine }", None), ("{ two", None), ("no punctuation at end", "no punctuation at end")])
def test_c4_lines(line, kept):
    text, why = c4_quality(FIVE + "\n" + line + "\nThe end is here.")
    assert why is None and text == FIVE + ("" if kept is None else "\n" + kept) + "\nThe end is here."


def test_c4_documents():
    assert c4_quality(FIVE) == (FIVE, None)
    assert reason(c4_quality(FIVE.rpartition("\n")[0])) == "too_few_sentences"
    assert reason(c4_quality(FIVE + "\nThis is LOREM ipsum text.")) == "lorem_ipsum"
    assert reason(c4_quality(FIVE + "\nif (a) { b }")) == "curly_bracket"
    assert reason(c4_quality(FIVE + "\nlorem ipsum javascript {")) == "lorem_ipsum"                # before the others
    assert c4_quality("One. Two. Three. Four. Five.") == ("One. Two. Three. Four. Five.", None)
    assert c4_quality(FIVE.replace("\n", "\u2028")) == (FIVE, None)                                # splitlines
    assert c4_quality("\n" + FIVE + "\n")[0] == FIVE


def lines_of(n_end, n, size=60, end="."):
    return "\n".join((VOCABULARY[i] + " " + prose(20, i).replace("\n", " "))[:size - 1] + (end if i < n_end else "x") for i in range(n))


def test_fineweb_line_punctuation():
    assert reason(fineweb_quality(lines_of(3, 25))) is None                                        # 0.12 is enough
    assert reason(fineweb_quality(lines_of(2, 25))) == "line_punct_ratio"
    assert reason(fineweb_quality(lines_of(25, 25, end='"'))) == "line_punct_ratio"                # quotes do not count
    assert reason(fineweb_quality(lines_of(25, 25, end=". "))) == "line_punct_ratio"
    assert reason(fineweb_quality(lines_of(25, 25, end="。"))) is None
    assert reason(fineweb_quality(" \n\t\n")) == "empty"


def test_fineweb_short_lines():
    long = lines_of(33, 33)
    short = lambda n, size: "\n".join((f"{i} " + "word other thing next again " * 3)[:size - 1] + "." for i in range(n))
    assert reason(fineweb_quality(long + "\n" + short(67, 30))) is None                            # 0.67 is allowed
    assert reason(fineweb_quality(long + "\n" + short(68, 30))) == "short_line_ratio"
    assert reason(fineweb_quality(long + "\n" + short(68, 31))) is None
    assert reason(fineweb_quality(long + "\n\n\n" + short(67, 30) + "\n" * 40)) is None            # blank lines do not count


def test_fineweb_duplicate_characters():
    text = lines_of(50, 50, size=100)                                                              # 50 x 100 characters
    assert reason(fineweb_quality(text + "\n" + "a" * 49 + ".\n" + "a" * 49 + ".")) is None        # 50 of 5100
    assert reason(fineweb_quality(text + "\n" + "a" * 50 + ".\n" + "a" * 50 + ".")) is None        # 51 of 5102
    assert reason(fineweb_quality(text + "\n" + "a" * 51 + ".\n" + "a" * 51 + ".")) == "char_dup_ratio"


def test_fineweb_list_ratio():
    line = lambda i: VOCABULARY[i] + "x" * 30 + f" {VOCABULARY[i + 500]}."                         # three tokens
    assert reason(fineweb_quality("\n".join(line(i) for i in range(100)))) == "list_ratio"         # 99 of 300
    assert reason(fineweb_quality("\n".join("and " + line(i) for i in range(100)))) is None        # 99 of 400


def test_line_ends_of_v1():
    """A quotation mark ends a line, a blank line counts, and what is at a threshold goes."""
    v1 = lambda text: reason(fineweb_quality(text, "v1"))
    quoted = lines_of(25, 25, end='."')
    assert v1(quoted) is None and reason(fineweb_quality(quoted)) == "line_punct_ratio"
    assert v1(lines_of(25, 25, end="'")) is None and v1(lines_of(25, 25, end="\u3002")) == "line_punct_ratio"
    assert v1(lines_of(3, 25)) == "line_punct_ratio" and v1(lines_of(4, 25)) is None                # 0.12 is too little
    assert v1(lines_of(4, 25) + "\n" * 9) == "line_punct_ratio"                                     # 4 of 34
    long, short = lines_of(33, 33), lambda n: "\n".join((f"{i} " + "word other thing next again " * 3)[:29] + "." for i in range(n))
    assert v1(long + "\n" + short(67)) == "short_line_ratio" and v1(long + "\n" + short(66)) is None
    assert v1(long + "\n" + short(30) + "\n" * 40) == "short_line_ratio"
    text = lines_of(50, 50, size=100)
    twice = lambda n: text + "\n" + "a" * n + ".\n" + "a" * n + "."
    at = next(n for n in range(40, 60) if (n + 1) / (5000 + 2 * (n + 1)) >= 0.01)
    assert v1(twice(at - 1)) is None and v1(twice(at)) == "char_dup_ratio"
    assert v1("\n \n") == "line_punct_ratio"


def test_blank_lines_and_stop_words_of_v1():
    assert reason(gopher_repetition(prose(100).replace("\n", "\n\n"), "v1")) == "dup_line_frac"
    assert reason(gopher_repetition(prose(100), "v1")) is None
    text = " ".join(VOCABULARY[:100])
    assert reason(gopher_quality("the the " + text, "v1")) is None
    assert reason(gopher_quality("the " + text, "v1")) == "gopher_enough_stop_words"
    marks = " \u203d" * 9                                     # symbols in 0.10 only
    short = "the of " + " ".join(VOCABULARY[:40]) + marks
    assert reason(gopher_quality(short, "v1")) is None and reason(gopher_quality(short)) == "gopher_short_doc"


def test_an_empty_text_goes():
    assert reason(gopher_repetition("")) == reason(fineweb_quality("")) == "empty"


def test_c4_counts_a_sentence_after_wide_white_space():
    lines = "\n".join(f"Here is line number {w}." for w in ("one", "two", "three"))
    assert c4_quality(lines + "\nAnd the end.  ***") == (lines + "\nAnd the end.  ***", None)
    assert reason(c4_quality(lines + "\nAnd the end. ***")) == "too_few_sentences"
    assert c4_quality(lines + "\nAnd the end. [1] ***")[0] == lines + "\nAnd the end.  ***"


# ------------------------------------------------------------------------------------------------------
# MinHash.

def test_minhash_conformance():
    a, b = dedup.permutations()
    assert a[:4].tolist() == [775169054918279404, 1758426461858698313, 2109959069025162, 965365488286768774] and a[111] == 223865076026037746
    assert b[:4].tolist() == [1062448801025099917, 1324811268927594100, 1217488311597731462, 100775521383383736] and b[111] == 1097409548522419201
    assert dedup.shingle_hashes("a b c d e").tolist() == [1214900226509477255]
    signature = data.minhash(["a b c d e"])
    assert signature.shape == (1, 112) and signature.dtype == np.uint64
    assert signature[0, :4].tolist() == [1579576027991400705, 4472124569112051, 889064944675421779, 305477644026747238]   # wraps at 64 bits


@pytest.mark.parametrize("text, normal", [
    ("|$17.56||1|\n|$15.37||2599|", "0 0 0 0"), ("Don't  PANIC — naïve\tcafé", "don t panic naive cafe"), ("1.5.2, ٣٫١٤!", "0 0 0"), ("?!", ""), ("", "")])
def test_normalize(text, normal):
    assert dedup.normalize(text) == normal


@pytest.mark.parametrize("text, normal", [
    ("|$17.56||1|\n|$15.37||2599|", "01 01"), ("Don't  PANIC — naïve\tcafé", "dont panic  naive cafe"), ("1.5.2, ٣ 4x", "0 0 0x"), ("?!", "")])
def test_normalize_of_v1(text, normal):
    """Punctuation is deleted before digits are looked at, and joins what stood beside it."""
    want = normal.replace("01", "0")
    assert dedup.normalize(text, "v1") == want


@pytest.mark.parametrize("text, split", [
    ("you cannot gonna gotta gimme lemme wanna", "you can not gon na got ta gim me lem me wan na"), ("doesnt 0km wannabe cannots", "doesnt 0km wannabe cannots"),
    ("a ‘b x―y cannot‘", "a ‘ b x ― y can not ‘"), ("gimme😀 wanna😀", "gim me 😀 wanna😀"), ("", "")])
def test_words_of_v1(text, split):
    assert dedup.split_v1(text) == split


def test_words_without_apostrophes_are_split_before_they_are_hashed():
    for text, split in (("it doesnt cost 0mb a day", "it does nt cost 0 mb a day"), ("a b c dé id x", "a b c dé i d x")):
        words_ = split.split()
        shingles = [" ".join(words_[i:i + 5]) for i in range(len(words_) - 4)]
        want = [int.from_bytes(hashlib.sha1(x.encode()).digest()[:8], "little") for x in shingles]
        assert dedup.shingle_hashes(text).tolist() == want


def test_signature_is_the_minimum_over_shingles_in_any_blocks():
    text = " ".join(VOCABULARY[:5000])
    a, b = dedup.permutations()
    hashes = dedup.shingle_hashes(text)
    slow = [min((int(h) * int(a[j]) + int(b[j])) % 2 ** 64 % (2 ** 61 - 1) for h in hashes) for j in (0, 57, 111)]
    assert data.minhash([text])[0, [0, 57, 111]].tolist() == slow


def test_fewer_than_five_words_have_no_signature_and_no_duplicate():
    short = ["one two three four", "", "!!!", "one two three four"]
    assert (data.minhash(short) == dedup.NO_SIGNATURE).all()
    assert data.deduplicate(short).all()
    assert data.deduplicate(["one two three four five"] * 2).tolist() == [True, False]
    assert data.deduplicate([]).shape == (0,) and data.minhash([]).shape == (0, 112)


def test_numbers_case_accents_and_punctuation_do_not_matter():
    assert data.deduplicate(["It cost $3.50 in 1999, Zoë said!", "it COST 7 in 2024 — zoe: said", "it cost a lot in 2024, zoe said"]).tolist() == [True, False, True]


def test_the_earliest_of_a_cluster_is_kept_and_chains_are_one_cluster():
    base = VOCABULARY[:1000]
    changed = lambda seed: [w if i // 100 != seed else f"new{seed}x" for i, w in enumerate(base)]
    a, b, c = changed(0), base, changed(9)                       # a~b and b~c are nearer than a~c
    texts = [" ".join(t) for t in (a, VOCABULARY[2000:3000], c, b)]
    assert data.deduplicate(texts).tolist() == [True, True, False, False]


def test_chain_whose_ends_share_no_band():
    signatures = np.arange(4 * 112, dtype=np.uint64).reshape(4, 112)
    signatures[3, :8] = signatures[0, :8]                        # 0 ~ 3 in the first band, 3 ~ 1 in the last
    signatures[1, -8:] = signatures[3, -8:]
    assert dedup.keep_first(signatures).tolist() == [True, False, True, False]


def test_union_in_any_order_agrees_with_a_plain_search():
    r = np.random.default_rng(0)
    signatures = r.integers(0, 3, (300, 112)).astype(np.uint64) * 10 ** 6 + r.integers(0, 10 ** 5, (300, 112)).astype(np.uint64)
    for _ in range(250):                                         # equal bands between random documents
        i, j, k = r.integers(0, 300, 2).tolist() + [int(r.integers(0, 14))]
        signatures[i, 8 * k:8 * k + 8] = signatures[j, 8 * k:8 * k + 8]
    cluster = list(range(300))
    for i in range(300):
        for j in range(i):
            if any((signatures[i, 8 * k:8 * k + 8] == signatures[j, 8 * k:8 * k + 8]).all() for k in range(14)):
                old, new = max(cluster[i], cluster[j]), min(cluster[i], cluster[j])
                cluster = [new if c == old else c for c in cluster]
    assert dedup.keep_first(signatures).tolist() == [c == i for i, c in enumerate(cluster)]
    assert 20 < sum(c != i for i, c in enumerate(cluster)) < 280


def test_ten_thousand_identical_pages():
    start = time.process_time()
    assert dedup.keep_first(np.repeat(data.minhash([prose(100)]), 10_000, 0)).tolist() == [True] + [False] * 9_999
    assert time.process_time() - start < 5


def test_match_rate_follows_the_curve():
    """Pairs of known Jaccard similarity match as often as 1 - (1 - s^8)^14 says, within 3 standard deviations."""
    r, pairs = np.random.default_rng(1), 400
    a, b = dedup.permutations()
    for s, expected in ((.60, .2111), (.72, .6499), (.80, .9236)):
        assert abs(dedup.p_linked(s) - expected) < 1e-4
        n = 300
        shared = int(round(2 * n * s / (1 + s)))                 # |A & B| / |A u B| = s for |A| = |B| = n
        hit = 0
        for _ in range(pairs):
            h = r.integers(0, 2 ** 64, 2 * n - shared, np.uint64)
            both = np.stack([(part[:, None] * a + b).__mod__(dedup.MERSENNE).min(0) for part in (h[:n], h[n - shared:])])
            hit += not dedup.keep_first(both)[1]
        assert abs(hit / pairs - expected) < 3 * (expected * (1 - expected) / pairs) ** .5 + .01, (s, hit / pairs)


# ------------------------------------------------------------------------------------------------------
# Personal data.

MAIL, IP = filters.EMAILS[0], filters.IPS[0]


@pytest.mark.parametrize("text, want", [
    ("write to jo.doe+x@mail.site.co.uk, please", f"write to {MAIL}, please"), ("NAME@MYSITE.COM", MAIL),
    ("email@example@example.com", "email@" + MAIL), ('"email"@example.com', '"email"@example.com'), ("email@example", "email@example"),
    ("a@[8.8.8.8]", MAIL), (".a..b@x.com", ".a.." + MAIL), ("a.@x.com", "a.@x.com"), ("@x.com", "@x.com"), ("éa@x.com", "éa@x.com"),
    ("<a@b.com>", f"<{MAIL}>"), ("a@b.com@c.com", MAIL + "@c.com"), ("x" * 300 + "@b.com", MAIL), ("." + "x.y" * 200 + "@b.com", "." + MAIL), ("é.a@x.com", f"é.{MAIL}"), ("(a@-b.com)", "(a@-b.com)"),
    ("1@a.b 2@a.b 3@a.b", f"{MAIL} {filters.EMAILS[1]} {MAIL}"),
    (".3.3.3.0", "." + IP), ("108.0.0.01", "108.0.0.01"), ("0.1.2.3", "0.1.2.3"), ("999.999.999.999", "999.999.999.999"),
    ("8.1.2.3", IP), ("8.1.2.3456", IP + "56"), ("127.0.0.1 10.0.0.1 192.168.1.1 169.254.1.1 203.0.113.5 224.0.0", "127.0.0.1 10.0.0.1 192.168.1.1 169.254.1.1 203.0.113.5 224.0.0"),
    ("8.8.8.8 10.0.0.1 9.9.9.9", f"{IP} 10.0.0.1 {filters.IPS[1]}"), ("", ""), ("no data here", "no data here")])
def test_redact(text, want):
    assert redact(text) == want


def test_redact_equals_the_one_pattern_it_stands_for():
    pattern = re.compile(rf"\b{filters.EMAIL_SOURCES.user}@(?:{filters.EMAIL_SOURCES.domain})")
    r = random.Random(0)
    for _ in range(20_000):
        text = "".join(r.choices("ab1.@- é!_[]8", weights=[4, 4, 2, 4, 4, 1, 1, 1, 1, 1, 1, 1, 1], k=r.randint(3, 25)))
        count = iter(range(100))
        assert filters.redact_emails(text) == pattern.sub(lambda m: filters.EMAILS[next(count) % 2], text), text


@pytest.mark.parametrize("text, want", [
    ("123-45-6789", "000-00-0000"), ("000-12-3456 666-12-3456 912-34-5678 123-00-4567 123-45-0000 1123-45-6789", None),
    ("call (212) 555-2368 or 415.555.2671, +1 415 555 2671", "call 555-0100 or 555-0100, 555-0100"), ("a@b.com 8.8.8.8", None),
    ("order 12345-415-555-2671 of 1415-555-26710", None)])
def test_numbers_of_persons_when_asked(text, want):
    assert redact(text, ("ssn", "phone")) == (want or text) and redact(text, ()) == text


def test_v1_replaces_addresses_in_lower_case_only():
    text = "NAME@MYSITE.COM, jo@site.com, Jo@site.com, jo@Site.com, .b@[8.8.8.8]"
    assert redact(text, version="v1") == f"NAME@MYSITE.COM, {MAIL}, Jo@site.com, jo@Site.com, .{filters.EMAILS[1]}"


def test_redact_does_not_depend_on_what_came_before():
    assert [redact("a@b.com 8.8.8.8") for _ in range(3)] == [f"{MAIL} {IP}"] * 3


@pytest.mark.parametrize("text", ["a" * 300_000 + "@", "a." * 200_000 + "@", "!" * 300_000 + "@x", "@" * 300_000, "a@" * 150_000, "a@" + "b" * 300_000,
                                  "a@" + "b." * 150_000, "x@" + "a-" * 150_000, "1." * 200_000, "a!" * 200_000, "a@a." * 50_000])
def test_redact_in_linear_time(text):
    start = time.process_time()
    redact(text)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("text", ["x" * 1_000_000, "a " * 100_000, "ab" * 200_000 + ".", "1." * 100_000, "A." * 100_000, "http://" * 50_000, "a@" * 100_000,
                                  "n't" * 100_000, "'" * 200_000, "." * 300_000, "\u0300" * 200_000, "a.b" * 100_000, "a-" * 100_000,
                                  "a" + "\u0315\u0300" * 50_000])
def test_filters_in_linear_time(text):
    start = time.process_time()
    for check in (gopher_repetition, gopher_quality, c4_quality, fineweb_quality, lambda t: data.minhash([t])):
        check(text)
    assert time.process_time() - start < 6


# ------------------------------------------------------------------------------------------------------
# The pipeline, with a language model that knows one word.

@pytest.fixture
def stub_language(monkeypatch):
    def predict(texts):
        assert not any("\n" in t for t in texts)
        return [("en" if " the " in f" {t} " else "de") for t in texts], [0.5 if "unsure" in t else 0.9 for t in texts]
    module = types.ModuleType("web.language")
    module.load = lambda path=None: types.SimpleNamespace(predict=predict)
    monkeypatch.setitem(sys.modules, "web.language", module)
    monkeypatch.setattr("web.language", module, raising=False)


GOOD = prose(300)


def html_of(text):
    return ("<html><body><nav><a href=/>Home</a></nav><main>" + "".join(f"<p>{line}</p>" for line in text.split("\n")) + "</main></body></html>").encode()


PAGES = [                                                        # url, record, stage that drops it, reason
    ("http://a.com/good", html_of(GOOD), None, None),
    ("http://a.com/mail", html_of(prose(300, 1) + "\nwrite to the jo@site.com or 8.8.8.8 of it."), None, None),
    ("http://a.com/casino", html_of(prose(300, 2)), "url", "hard_blacklisted"),
    ("http://bad.com/", html_of(prose(300, 3)), "url", "domain"),
    ("http://a.com/empty", b"<html><body></body></html>", "extract", "empty"),
    ("http://a.com/pdf", b"%PDF-1.4", "extract", "not_html"),
    ("http://a.com/german", html_of(prose(300, 4).replace("the ", "das ")), "language", "language"),
    ("http://a.com/unsure", html_of("unsure of the " + prose(300, 5)), "language", "low_score"),
    ("http://a.com/repeats", html_of("\n".join(["the same line of it."] * 60)), "gopher_repetition", "dup_line_frac"),
    ("http://a.com/short", html_of(prose(30, 6)), "gopher_quality", "gopher_short_doc"),
    ("http://a.com/copy", html_of(GOOD), "minhash", "duplicate"),
    ("http://a.com/code", html_of(prose(300, 7) + "\nfunction the of { it }"), "c4", "curly_bracket"),
    ("http://a.com/lines", html_of(prose(300, 8).replace(".\n", " ")), "c4", "too_few_sentences"),
    ("http://a.com/menu", html_of(prose(300, 9).replace(".", "") + "\nthe end. One of it. Two. Three. Four. Five. Six."), "fineweb", "line_punct_ratio"),
]


@pytest.fixture
def crawl(tmp_path, stub_language):
    """A run folder with PAGES in two WARCs, and other records between them."""
    folder = tmp_path / "run" / "crawl"
    folder.mkdir(parents=True)
    rs = [record(b"software: x\r\n", type="warcinfo")]
    for i, (url, body, *_) in enumerate(PAGES):
        rs += [record(b"GET / HTTP/1.1\r\n\r\n", type="request", url=url), page(body, url, WARC_Record_ID=f"<urn:uuid:{i}>", WARC_Date=f"2024-01-02T03:04:{5 + i:02}Z"), record(b"", type="metadata", url=url)]
    half = len(rs) // 2
    (folder / "000000.warc.gz").write_bytes(b"".join(map(gzip.compress, rs[:half])))
    (folder / "000001.warc").write_bytes(b"".join(rs[half:]))
    (tmp_path / "block.txt").write_text("bad.com\n", encoding="utf-8")
    return tmp_path / "run"


def run(crawl, *more):
    data.main(["--run", str(crawl), "--workers", "1", "--blocklist", str(crawl.parent / "block.txt"), *more])


def documents(crawl):
    return [json.loads(line) for path in sorted((crawl / "docs").glob("*.jsonl.gz")) for line in gzip.open(path, "rt", encoding="utf-8")]


def dropped(crawl):
    with gzip.open(crawl / "docs" / "dropped.tsv.gz", "rt", encoding="utf-8") as lines:
        return [tuple(line.rstrip("\n").split("\t")) for line in lines]


def test_pipeline_end_to_end(crawl, capsys):
    run(crawl)
    docs, report = documents(crawl), json.loads((crawl / "docs" / "report.json").read_text(encoding="utf-8"))
    assert sorted(p.name for p in (crawl / "docs").iterdir()) == ["000000.jsonl.gz", "dropped.tsv.gz", "report.json"]
    assert [d["url"] for d in docs] == ["http://a.com/good", "http://a.com/mail"]
    assert tuple(docs[0]) == data.COLUMNS
    assert docs[0] | {"text": 0} == {"text": 0, "id": "<urn:uuid:0>", "dump": "local", "url": "http://a.com/good", "date": "2024-01-02T03:04:05Z",
                                     "file_path": "crawl/000000.warc.gz", "language": "en", "language_score": 0.9, "token_count": None, "license": None}
    assert docs[0]["text"] == GOOD
    assert docs[1]["text"].endswith(f"write to the {MAIL} or {IP} of it.")
    assert dropped(crawl)[0] == ("url", "stage", "reason")
    assert sorted(dropped(crawl)[1:]) == sorted((url, stage, why) for url, _, stage, why in PAGES if stage)
    assert tuple(report["stages"]) == data.STAGES
    n = len(PAGES)
    for stage, row in report["stages"].items():
        assert row["documents_in"] == n and row["documents_in"] - row["documents_out"] == sum(row["reasons"].values())
        assert set(row["examples"]) == set(row["reasons"]) and row["seconds"] >= 0
        n = row["documents_out"]
    assert n == 2
    stages = list(report["stages"].values())
    assert all(a["bytes_out"] == b["bytes_in"] for a, b in zip(stages, stages[1:]))
    assert stages[-1]["bytes_out"] == sum(len(d["text"].encode()) for d in docs)
    assert report["stages"]["c4"]["examples"]["curly_bracket"][0]["text"] == prose(300, 7)[:300]
    assert report["reader"]["response"] == len(PAGES) and report["reader"]["request"] == len(PAGES)
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out] == ["stage", *data.STAGES, "data"] and "hard_blacklisted 1" in out[1]


def files_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_an_interrupted_run_leaves_what_was_there_and_goes_on(crawl, monkeypatch, capsys):
    monkeypatch.setattr(data, "UNIT", 4)
    run(crawl)
    before, main_text = files_of(crawl / "docs"), data.extract.main_text

    def interrupted(*args):
        raise KeyboardInterrupt
    monkeypatch.setattr(data.extract, "main_text", interrupted)
    with pytest.raises(KeyboardInterrupt):                       # in the first pass, in the first unit: nothing to go on from
        run(crawl, "--dump", "x")
    assert files_of(crawl / "docs") == before and not (crawl / "docs" / ".new").exists()
    monkeypatch.setattr(data.extract, "main_text", main_text)
    with monkeypatch.context() as m:
        m.setattr(data, "redact", interrupted)
        with pytest.raises(KeyboardInterrupt):                   # in the second
            run(crawl)
    assert files_of(crawl / "docs") == before and len(list((crawl / "docs" / ".new" / "units").glob("*.jsonl"))) == 4
    monkeypatch.setattr(data.extract, "main_text", lambda *args: pytest.fail("a page is worked on again"))
    run(crawl)
    assert {k: v for k, v in files_of(crawl / "docs").items() if k != "report.json"} == {k: v for k, v in before.items() if k != "report.json"}
    assert not (crawl / "docs" / ".new").exists()


def test_bytes_do_not_depend_on_time_workers_place_or_a_killed_run(crawl, tmp_path, monkeypatch):
    run(crawl)
    keep = {p.name: p.read_bytes() for p in (crawl / "docs").iterdir() if p.name != "report.json"}
    (crawl / "docs" / "000007.jsonl.gz").write_bytes(b"of an earlier, larger run")
    (crawl / "docs" / ".new").mkdir()                            # what a run leaves that is shot
    (crawl / "docs" / ".new" / "000003.jsonl.gz").write_bytes(b"half")
    crawl.rename(tmp_path / "elsewhere")
    monkeypatch.setattr(time, "time", lambda: 1e9)
    run(tmp_path / "elsewhere", "--workers", "2")
    assert {p.name: p.read_bytes() for p in (tmp_path / "elsewhere" / "docs").iterdir() if p.name != "report.json"} == keep


def test_a_page_that_breaks_a_stage_is_dropped_and_counted(crawl, monkeypatch):
    def broken(page, url, charset, counts):
        if url.endswith("/good"):
            raise RecursionError
        return main_text(page, url, charset, counts)
    main_text = data.extract.main_text
    monkeypatch.setattr(data.extract, "main_text", broken)
    run(crawl)
    assert ("http://a.com/good", "extract", "error_RecursionError") in dropped(crawl)
    assert [d["url"] for d in documents(crawl)] == ["http://a.com/mail", "http://a.com/copy"]


def test_text_that_is_no_utf8_is_dropped_and_counted(crawl, monkeypatch):
    main_text = data.extract.main_text
    monkeypatch.setattr(data.extract, "main_text", lambda page, url, charset, counts: main_text(page, url, charset, counts) + "\ud800" * url.endswith("/good"))
    run(crawl)
    assert ("http://a.com/good", "extract", "error_UnicodeEncodeError") in dropped(crawl)


def test_a_worker_that_is_killed_ends_the_run(crawl, monkeypatch, capsys):
    run(crawl)
    before = files_of(crawl / "docs")
    monkeypatch.setattr(data, "redact", lambda *args: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(SystemExit) as stop:
        run(crawl, "--workers", "2")
    assert stop.value.code == 2
    assert re.fullmatch(r"data\.py: error: worker process \d+ has died \(exit code -9\); the same command goes on from the last unit.*\n", capsys.readouterr().err)
    assert files_of(crawl / "docs") == before


def slow_echo(i):
    time.sleep(0.01 * (i % 50 == 0))
    return i, os.getpid()


def test_workers_answer_in_order(stub_language):
    with data.worker_processes(3, data.Settings()) as each:
        for n in (0, 1, 500):
            out = list(each(slow_echo, range(n)))
            assert [i for i, _ in out] == list(range(n)) and (n < 500 or len({pid for _, pid in out}) > 1)


def test_a_second_run_on_the_same_folder_ends_at_once(crawl, capsys):
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    (crawl / "docs").mkdir()
    other = subprocess.Popen([sys.executable, "-c", code, crawl / "docs" / ".data.py.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(SystemExit) as stop:
        run(crawl)
    assert stop.value.code == 2
    assert re.fullmatch(r"data\.py: error: .*/run/docs: another data\.py is writing there; .*\n", capsys.readouterr().err)
    other.kill()
    other.communicate()
    assert (crawl / "docs" / ".data.py.lock").exists()                   # of a dead process: holds nobody up
    run(crawl)
    assert sorted(p.name for p in (crawl / "docs").iterdir()) == ["000000.jsonl.gz", "dropped.tsv.gz", "report.json"]


def test_an_index_that_cannot_be_saved_costs_no_documents(crawl, tmp_path, monkeypatch, capsys):
    run(crawl)
    before = files_of(crawl / "docs")
    monkeypatch.setattr(data, "UNIT", 2)                         # else it would be the same run again
    with pytest.raises(SystemExit):
        run(crawl, "--save-index", str(tmp_path / "none" / "index.npy"))
    assert "its folder" in capsys.readouterr().err and files_of(crawl / "docs") == before
    elsewhere = tmp_path / "index.npy"

    def other_disk(path, whole_file=disk.whole_file):
        if Path(path) == elsewhere:
            raise OSError(28, "No space left on device", str(path))
        return whole_file(path)

    with monkeypatch.context() as m, pytest.raises(SystemExit):
        m.setattr(disk, "whole_file", other_disk)
        run(crawl, "--save-index", str(elsewhere))
    assert files_of(crawl / "docs") == before and not elsewhere.exists()
    run(crawl, "--save-index", str(elsewhere))
    assert data.dedup.load_index(elsewhere).shape[1] > 0
    monkeypatch.setattr(data, "UNIT", 3)
    with pytest.raises(SystemExit):                              # what is no index is seen before an hour of work
        run(crawl, "--index", str(crawl / "docs/report.json"))


def test_pages_whose_end_is_not_read_are_counted_once(crawl, monkeypatch):
    monkeypatch.setattr(data.extract, "MAX_CHARS", len(html_of(GOOD)) - 20)
    run(crawl)
    whole = [body for _, body, stage, _ in PAGES if stage not in ("url",) and len(body) > data.extract.MAX_CHARS and not body.startswith(b"%PDF")]
    report = json.loads((crawl / "docs/report.json").read_text(encoding="utf-8"))
    assert report["reader"]["page_cut"] == len(whole) > 0


def test_contents_decide_whether_a_killed_run_goes_on(crawl, tmp_path, monkeypatch):
    """A list that is edited to equal size, a WARC file that is written anew under equal times: another run. Times alone: the same."""
    block, warc = crawl.parent / "block.txt", crawl / "crawl/000000.warc.gz"
    settings = data.Settings(blocklist=(str(block),))
    block.write_text("spam.com\n")
    before = data.identity([warc], None, settings)
    for path in (block, warc):
        os.utime(path, (5, 5))
        assert data.identity([warc], None, settings) == before
    block.write_text("spam.org\n")
    os.utime(block, (5, 5))
    assert data.identity([warc], None, settings) != before
    block.write_text("spam.com\n")
    assert data.identity([warc], None, settings) == before
    bytes_of_warc = bytearray(warc.read_bytes())
    bytes_of_warc[-5] ^= 1
    warc.write_bytes(bytes_of_warc)
    os.utime(warc, (5, 5))
    assert data.identity([warc], None, settings) != before


def test_a_run_folder_whose_name_is_no_text(tmp_path, capsys):
    run_dir = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        run_dir.mkdir()
    except OSError:
        pytest.skip("this file system takes only names that are UTF-8")
    scripts = ("web/toyweb.py", "--pages", "150"), ("data.py", "--workers", "1"), ("bpe.py", "train"), ("bpe.py", "encode")
    for name, *args in scripts:
        done = run_script(name, *args, "--run", run_dir)
        assert done.returncode == 0, done.stderr
    assert documents(run_dir) and (run_dir / "tokens/train_000000.bin").exists()
    outside = tmp_path / "other"
    data.main([str(run_dir / "crawl"), "--run", str(outside), "--workers", "1"])
    assert documents(outside)[0]["file_path"].endswith("caf\\xe9/crawl/000000.warc.gz")


def test_documents_on_their_way_when_it_was_killed_are_refused_by_readers(crawl, monkeypatch, capsys):
    run(crawl)
    replace, moved = os.replace, []

    def killed(old, new):
        if "/shards/" in str(old) and not str(old).endswith(".tmp"):
            moved.append(new)
            if len(moved) == 2:
                raise MemoryError("as if killed")
        return replace(old, new)

    monkeypatch.setattr(data, "UNIT", 2)
    with monkeypatch.context() as m, pytest.raises(MemoryError):
        m.setattr(os, "replace", killed)
        run(crawl)
    assert not (crawl / "docs/report.json").exists()
    with pytest.raises(ValueError, match="its files were being replaced.*python data.py --run"):
        shards.input_files(crawl)
    run(crawl)
    assert sorted(p.name for p in (crawl / "docs").iterdir()) == ["000000.jsonl.gz", "dropped.tsv.gz", "report.json"]


def test_a_disk_that_is_full_at_the_last_byte_is_seen():
    class Disk(io.RawIOBase):
        def __init__(self, space):
            self.space, self.held = space, b""

        def writable(self):
            return True

        def write(self, some):
            if len(self.held) + len(some) > self.space:
                raise OSError(28, "No space left on device")
            self.held += some
            return len(some)

    def save(disk):
        with data.GzipText(io.BufferedWriter(disk)) as out:
            out.write("some words\n" * 100)
        return bytes(disk.held)
    whole = save(Disk(10 ** 6))
    assert gzip.decompress(whole) == b"some words\n" * 100 and save(Disk(len(whole))) == whole
    with pytest.raises(OSError, match="No space left"):
        save(Disk(len(whole) - 1))


SCRIPTS = Path(data.__file__).parent


@pytest.fixture
def interruptible():
    """Ctrl-C arrives, here and in what is started here, also where whoever started the tests ignores it, as nohup's scripts do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupt_is_one_line_and_leaves_nothing(tmp_path, interruptible):
    os.mkfifo(tmp_path / "endless.warc")                         # data.py waits in it for a first record
    process = subprocess.Popen([sys.executable, str(SCRIPTS / "data.py"), tmp_path / "endless.warc", "--run", tmp_path, "--workers", "2"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    with open(tmp_path / "endless.warc", "wb", buffering=0):     # opens when data.py has
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"data.py: interrupted\n")
    assert not list((tmp_path / "docs").iterdir())


def test_no_interrupt_while_files_are_moved(crawl, monkeypatch, interruptible):
    def replace(old, new, replace=os.replace):
        if Path(new).parent.name == "docs":
            os.kill(os.getpid(), signal.SIGINT)
        return replace(old, new)
    monkeypatch.setattr(os, "replace", replace)
    run(crawl)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert sorted(p.name for p in (crawl / "docs").iterdir()) == ["000000.jsonl.gz", "dropped.tsv.gz", "report.json"]


@pytest.mark.parametrize("argv", [["web/warc.py", "{}/a.warc"], ["data.py", "{}/a.warc", "--run", "{}", "--workers", "1"], ["web/extract.py", "{}/a.warc"]])
def test_a_closed_pipe_ends_silently(argv, tmp_path):
    (tmp_path / "a.warc").write_bytes(b"".join(THREE))
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([sys.executable, *script(argv[0]), *(a.format(tmp_path) for a in argv[1:])], stdout=write_end, stderr=subprocess.PIPE, cwd=SCRIPTS)
    os.close(write_end)
    assert done.returncode == 141 and b"rror" not in done.stderr


def test_shards(crawl, monkeypatch):
    monkeypatch.setattr(data, "SHARD_DOCUMENTS", 1)
    run(crawl)
    assert [p.name for p in sorted((crawl / "docs").glob("*.jsonl.gz"))] == ["000000.jsonl.gz", "000001.jsonl.gz"]
    assert len(documents(crawl)) == 2


def test_dump_tokenizer_and_paths(crawl, tmp_path, monkeypatch):
    bpe = types.ModuleType("bpe")
    bpe.Tokenizer = types.SimpleNamespace(load=lambda path: types.SimpleNamespace(encode_ordinary=str.split))
    monkeypatch.setitem(sys.modules, "bpe", bpe)
    named = tmp_path / "CC-MAIN-2024-10-x.warc.gz"
    named.write_bytes((crawl / "crawl" / "000000.warc.gz").read_bytes())
    data.main([str(named), "--run", str(tmp_path / "other"), "--workers", "1", "--tokenizer", "t"])
    first, *_ = documents(tmp_path / "other")
    assert first["dump"] == "CC-MAIN-2024-10" and first["file_path"] == named.as_posix() and first["token_count"] == len(GOOD.split())
    data.main([str(crawl / "crawl"), "--run", str(tmp_path / "other"), "--workers", "1", "--dump", "mine"])
    assert {d["dump"] for d in documents(tmp_path / "other")} == {"mine"}


def test_other_languages(crawl):
    run(crawl, "--language", "de", "fr")
    assert "http://a.com/german" not in [row[0] for row in dropped(crawl) if row[1] == "language"]


def test_nothing_kept_is_a_result_and_not_an_error(crawl, capsys):
    run(crawl, "--language", "xx")
    assert documents(crawl) == [] and "0 documents" in capsys.readouterr().out


@pytest.mark.parametrize("setup, argv, says", [
    (None, ["--run", "{}/none"], r".*none/crawl: no WARC files; make the embedded crawl with: python -m web\.toyweb --run .*none"),
    (lambda d: (d / "r" / "crawl").mkdir(parents=True), ["--run", "{}/r"], r".*r/crawl: no WARC files; make .*"),
    (lambda d: (d / "e").mkdir(), ["{}/e"], r".*/e: no \*\.warc or \*\.warc\.gz files in it"),
    (None, ["{}/missing.warc"], r".*missing\.warc: no such file"),
    (lambda d: (d / "a.warc").write_bytes(b"<html>"), ["{}/a.warc"], r".*a\.warc: not a WARC file: it begins with b'<html>', not with b'WARC/'"),
    (lambda d: (d / "a.warc").write_bytes(b""), ["{}/a.warc"], r".*a\.warc: not a WARC file: it is empty"),
    (lambda d: (d / "a.warc").write_bytes(record(b"", type="warcinfo")), ["{}/a.warc"], r".*a\.warc: no response records, so no documents"),
    (lambda d: (d / "run").write_bytes(b"a file"), ["{}/missing.warc", "--run", "{}/other"], r".*missing\.warc: no such file"),
    (lambda d: (d / "a.warc").write_bytes(THREE[0]), ["{}/a.warc", "--blocklist", "{}/none"], r".*/none: no block list; --blocklist takes .*"),
])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_user_mistakes(setup, argv, says, workers, tmp_path, stub_language, capsys):
    if setup:
        setup(tmp_path)
    argv = [a.format(tmp_path) for a in argv]
    argv += [] if "--run" in argv else ["--run", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        data.main(argv + ["--workers", workers])
    assert stop.value.code == 2
    assert re.fullmatch(r"data\.py: error: " + says + "\n", capsys.readouterr().err)
    docs = Path(argv[argv.index("--run") + 1]) / "docs"
    assert not docs.exists() or not list(docs.iterdir())


def test_bad_flags(capsys):
    for argv in (["--workers", "0"], ["--workers", "two"], ["--nonsense"]):
        with pytest.raises(SystemExit) as stop:
            data.parse_args(argv)
        assert stop.value.code == 2 and "data.py: error: " in capsys.readouterr().err


def test_real_crawl_keeps_english_articles(tmp_path, capsys):
    """90 news pages and 150 declarations of human rights: articles stay, of the declarations at most the English one."""
    warc, model = DATA / "crawl-dev.warc.gz", DATA / "lid.176.ftz"
    if not warc.exists() or not model.exists():
        pytest.skip(f"no {warc} or {model}; LONGHAND_DATA names another folder")
    pytest.importorskip("web.language")
    data.main([str(warc), "--run", str(tmp_path), "--language-model", str(model)])
    kept = [d["url"] for d in documents(tmp_path)]
    assert 64 <= len(kept) <= 72 and sum("udhr" in url for url in kept) <= 1


# ------------------------------------------------------------------------------------------------------
# Sources, and a run that is killed.

def test_wet_and_resources_become_documents(tmp_path, stub_language):
    wet = record(GOOD.encode(), type="conversion", url="http://a.com/wet", Content_Type="text/plain", WARC_Record_ID="<urn:uuid:w>")
    res = record(html_of(prose(300, 1)), type="resource", url="http://a.com/res", Content_Type="text/html", WARC_Record_ID="<urn:uuid:r>")
    (tmp_path / "x.warc.wet.gz").write_bytes(gzip.compress(wet) + gzip.compress(res))
    data.main([str(tmp_path), "--run", str(tmp_path / "run"), "--workers", "1"])
    assert [(d["url"], d["text"]) for d in documents(tmp_path / "run")] == [("http://a.com/wet", GOOD), ("http://a.com/res", prose(300, 1))]


def test_a_page_that_reserves_itself_and_one_with_a_licence(tmp_path, stub_language):
    head = b'<html><head><meta name="robots" content="noai"></head>'
    licensed = html_of(prose(300, 1)).replace(b"</main>", b'</main><a rel="license" href="https://a.com/by">CC</a>')
    (tmp_path / "a.warc").write_bytes(page(head + html_of(GOOD), "http://a.com/1") + page(licensed, "http://a.com/2"))
    data.main([str(tmp_path / "a.warc"), "--run", str(tmp_path / "run"), "--workers", "1"])
    assert [(d["url"], d["license"]) for d in documents(tmp_path / "run")] == [("http://a.com/2", "https://a.com/by")]
    assert dropped(tmp_path / "run")[1:] == [("http://a.com/1", "rights", "noai")]


def test_a_text_that_quotes_an_opt_out_is_none(tmp_path, stub_language):
    """A WET file holds texts, and a text has no tags."""
    text = GOOD.replace("\n", '\nPut <meta name="robots" content="noai"> into the head of the page.\n', 1)
    assert text != GOOD
    wet = record(text.encode(), type="conversion", url="http://a.com/wet", Content_Type="text/plain")
    (tmp_path / "x.warc.wet").write_bytes(wet)
    data.main([str(tmp_path), "--run", str(tmp_path / "run"), "--workers", "1"])
    assert [d["url"] for d in documents(tmp_path / "run")] == ["http://a.com/wet"]


def test_a_page_is_reserved_from_the_day_it_names(tmp_path, stub_language):
    """The day of the fetch decides, which is the record's date: responses without a Date header have no other."""
    head = b'<meta name="robots" content="unavailable_after: 2024-06-30">'
    records = [page(head + html_of(prose(300, n)), f"http://a.com/{n}", WARC_Date=day + "T00:00:00Z")
               for n, day in enumerate(("2024-06-29", "2024-07-01"))]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    data.main([str(tmp_path / "a.warc"), "--run", str(tmp_path / "run"), "--workers", "1"])
    assert [d["url"] for d in documents(tmp_path / "run")] == ["http://a.com/0"]
    assert dropped(tmp_path / "run")[1:] == [("http://a.com/1", "rights", "unavailable_after")]


def test_no_rights_asks_no_page(tmp_path, stub_language):
    head = b'<html><head><meta name="robots" content="noai"></head>'
    licensed = html_of(prose(300, 1)).replace(b"</main>", b'</main><a rel="license" href="https://a.com/by">CC</a>')
    (tmp_path / "a.warc").write_bytes(page(head + html_of(GOOD), "http://a.com/1") + page(licensed, "http://a.com/2"))
    data.main([str(tmp_path / "a.warc"), "--run", str(tmp_path / "run"), "--workers", "1", "--no-rights"])
    assert [(d["url"], d["license"]) for d in documents(tmp_path / "run")] == [("http://a.com/1", None), ("http://a.com/2", None)]
    report = json.loads((tmp_path / "run/docs/report.json").read_text(encoding="utf-8"))
    assert "rights" not in report["stages"] and report["settings"]["rights"] is False


def test_the_order_of_the_script_lets_a_page_stay_whose_earlier_copy_is_code(tmp_path, stub_language, capsys):
    """minhash before c4: the copy goes for the code page, and that for its bracket. c4 before minhash: only the code page goes."""
    code = html_of(GOOD + "\nfunction the of { it }")
    (tmp_path / "a.warc").write_bytes(page(code, "http://a.com/code", WARC_Date="2024-01-01T00:00:00Z") + page(html_of(GOOD), "http://a.com/text"))
    for order, kept, gone in (("paper", [], [("http://a.com/text", "minhash", "duplicate"), ("http://a.com/code", "c4", "curly_bracket")]),
                              ("script", ["http://a.com/text"], [("http://a.com/code", "c4", "curly_bracket")])):
        data.main([str(tmp_path / "a.warc"), "--run", str(tmp_path / order), "--workers", "1", "--order", order])
        assert [d["url"] for d in documents(tmp_path / order)] == kept and dropped(tmp_path / order)[1:] == gone
        report = json.loads((tmp_path / order / "docs/report.json").read_text(encoding="utf-8"))
        assert tuple(report["stages"]) == data.ORDERS[order] and report["settings"]["order"] == order
        n = 2
        for stage, row in report["stages"].items():
            assert row["documents_in"] == n and row["documents_in"] - row["documents_out"] == sum(row["reasons"].values())
            n = row["documents_out"]
        stages = list(report["stages"].values())
        assert all(a["bytes_out"] == b["bytes_in"] for a, b in zip(stages, stages[1:])) and n == len(kept)
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["stage", *data.ORDERS[order], "data"]


def test_the_orders_are_of_the_same_stages():
    assert data.ORDERS["paper"] == data.STAGES and sorted(data.ORDERS["script"]) == sorted(data.STAGES)
    first, second = data.Settings(order="script", rights=False).passes
    assert first[-3:] == ("c4", "fineweb", "minhash") and second == ("pii",) and "rights" not in first


def test_v1_reaches_every_stage(tmp_path, stub_language):
    quoted = prose(300, 1).replace(" of it.", ' of it."')         # no line ends in a full stop
    pages = {"quoted": quoted, "mail": prose(300, 2) + "\nwrite to the JO@SITE.COM now."}
    (tmp_path / "a.warc").write_bytes(b"".join(page(html_of(text), f"http://a.com/{name}") for name, text in pages.items()))
    got = {}
    for version in ("0.10", "v1"):
        data.main([str(tmp_path / "a.warc"), "--run", str(tmp_path / version), "--workers", "1", "--fineweb", version])
        got[version] = {d["url"].rpartition("/")[2]: d["text"] for d in documents(tmp_path / version)}
        assert json.loads((tmp_path / version / "docs/report.json").read_text(encoding="utf-8"))["settings"]["fineweb"] == version
    assert "quoted" in got["v1"] and "quoted" not in got["0.10"]
    assert "JO@SITE.COM" in got["v1"]["mail"] and MAIL in got["0.10"]["mail"]


@pytest.mark.parametrize("more", [["--order", "script"], ["--fineweb", "v1"], ["--no-rights"], ["--pii"]])
def test_a_killed_run_of_other_options_is_not_gone_on_with(crawl, monkeypatch, more, capsys):
    run(crawl, *more)
    want = {k: v for k, v in files_of(crawl / "docs").items() if k != "report.json"}
    shutil.rmtree(crawl / "docs")
    monkeypatch.setattr(data, "UNIT", 4)
    with monkeypatch.context() as m:
        m.setattr(data, "redact", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(crawl)
    assert list((crawl / "docs/.new/units").glob("*.jsonl"))
    run(crawl, *more)
    assert "going on behind" not in capsys.readouterr().err
    assert {k: v for k, v in files_of(crawl / "docs").items() if k != "report.json"} == want


def test_a_list_edited_to_equal_size_begins_anew(crawl, monkeypatch):
    monkeypatch.setattr(data, "UNIT", 4)
    block = crawl.parent / "block.txt"
    with monkeypatch.context() as m:
        m.setattr(data, "redact", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(crawl)
    before = block.stat()
    block.write_text("  a.com\n", encoding="utf-8")
    os.utime(block, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert block.stat().st_size == before.st_size
    run(crawl)
    assert [d["url"] for d in documents(crawl)] == ["http://bad.com/"] and ("http://a.com/good", "url", "domain") in dropped(crawl)


def test_a_killed_run_of_another_program_is_not_gone_on_with(crawl, monkeypatch, tmp_path):
    warc, settings = crawl / "crawl/000000.warc.gz", data.Settings()
    before = data.identity([warc], None, settings)
    assert data.identity([warc], None, settings) == before and {"web/words.py", "web/language.ftz"} <= {name for name, _ in before["program"]}
    monkeypatch.setattr(data, "digest_of", lambda path, digest=data.digest_of: "other" if Path(path).name == "words.py" else digest(path))
    assert data.identity([warc], None, settings) != before


def test_an_address_as_source(crawl, tmp_path):
    class Quiet(http_server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass
    server = http_server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=crawl / "crawl"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/000000.warc.gz"
    data.main([address, "--run", str(tmp_path / "net"), "--workers", "1"])
    data.main([str(crawl / "crawl" / "000000.warc.gz"), "--run", str(tmp_path / "disk"), "--workers", "1"])
    server.shutdown()
    net, disk = documents(tmp_path / "net"), documents(tmp_path / "disk")
    assert [{**d, "file_path": 0} for d in net] == [{**d, "file_path": 0} for d in disk] and {d["file_path"] for d in net} == {address}


def test_an_index_of_an_earlier_crawl(crawl, tmp_path):
    run(crawl, "--save-index", str(tmp_path / "index.npy"))
    assert [d["url"] for d in documents(crawl)] == ["http://a.com/good", "http://a.com/mail"]
    run(crawl, "--index", str(tmp_path / "index.npy"))
    assert documents(crawl) == [] and ("http://a.com/good", "minhash", "duplicate") in dropped(crawl)
    (tmp_path / "index.npy").write_bytes(b"not an array")
    with pytest.raises(SystemExit):
        run(crawl, "--index", str(tmp_path / "index.npy"))


def test_an_index_of_other_rules_is_refused_both_ways(crawl, tmp_path, capsys):
    """Their signatures differ, so that no document would ever be found in it."""
    for made, asked in (("v1", "0.10"), ("0.10", "v1")):
        run(crawl, "--fineweb", made, "--save-index", str(tmp_path / "index.npy"))
        assert len(documents(crawl)) == 2
        with pytest.raises(SystemExit):
            run(crawl, "--fineweb", asked, "--index", str(tmp_path / "index.npy"))
        assert f"index.npy: signed by the rules of FineWeb {made}, and these documents by those of {asked};" in capsys.readouterr().err
        run(crawl, "--fineweb", made, "--index", str(tmp_path / "index.npy"))
        assert documents(crawl) == []


def test_a_run_killed_at_random_moments_ends_the_same(tmp_path):
    """With the real language model, in small units, two workers, killed with all that belongs to it LONGHAND_KILLS times."""
    subprocess.run([sys.executable, "-m", "web.toyweb", "--run", str(tmp_path), "--pages", "150"], cwd=SCRIPTS, check=True, capture_output=True)
    command = [sys.executable, "-c", "import sys, data; data.UNIT = 8; data.main(sys.argv[1:])", "--run", str(tmp_path), "--workers", "2"]
    subprocess.run(command, cwd=SCRIPTS, check=True, capture_output=True)
    want = {k: v for k, v in files_of(tmp_path / "docs").items() if k != "report.json"}
    shutil.rmtree(tmp_path / "docs")
    r, went_on, units = random.Random(0), 0, tmp_path / "docs" / ".new" / "units"

    def done():
        """How many units there are; none when the folder is not there yet, or was renamed while we looked."""
        try:
            return sum(name.endswith(".jsonl") for name in os.listdir(units))
        except FileNotFoundError:
            return 0

    for _ in range(int(os.environ.get("LONGHAND_KILLS", 6))):
        wanted = done() + r.randint(0, 20)                       # of 62 units; behind the last one it begins anew
        process = subprocess.Popen(command, cwd=SCRIPTS, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and not (units.exists() and done() >= wanted):
            time.sleep(0.005)
        time.sleep(r.uniform(0, 0.2))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        went_on += b"going on behind" in process.communicate()[1]
    subprocess.run(command, cwd=SCRIPTS, check=True, capture_output=True)
    assert {k: v for k, v in files_of(tmp_path / "docs").items() if k != "report.json"} == want
    assert went_on                                               # it was killed in the middle at least once


# ------------------------------------------------------------------------------------------------------
# Whatever comes: LONGHAND_FUZZ_PAGES pages are damaged, and files of them.

def damaged(raw, r):
    """Some bytes after bits were flipped, pieces cut, doubled, swapped in or repeated."""
    raw = bytearray(raw)
    for _ in range(r.randint(1, 6)):
        a, b = sorted(r.randrange(len(raw) + 1) for _ in "ab")
        how = r.randrange(7)
        if how == 0:
            for _ in range(r.randint(1, 50)):
                raw[r.randrange(len(raw))] ^= 1 << r.randrange(8)
        elif how == 1:
            del raw[a:min(b, a + len(raw) // 2)]
        elif how == 2:
            raw[a:a] = raw[a:b][:5000]
        elif how == 3:
            raw[a:a] = r.choice([b"<table><tr><td>", b"<div>", b"<!--", b"<script>", b"&#x110000;", b"<a href='", b"\xff\xfe", b"\0", b"]]>", b"</p>", b"<plaintext>",
                                 b"<td colspan=9007199254740991>", "\u0301".encode(), b"a@b.", b"1.2.3.", b"{", "é".encode("utf-16-le")]) * r.choice([1, 2, 50, 3000])
        elif how == 4:
            del raw[r.randrange(len(raw)) + 1:]
        elif how == 5:
            raw[a:b] = bytes(r.randrange(256) for _ in range(min(b - a, 300)))
        else:
            raw = raw.replace(r.choice([b"<p>", b" ", b"</", b"\n", b">"]), r.choice([b"", b"<", b"\n\n", b"\xa0", b"<br>"]))
        raw = raw or bytearray(b"x")
    return bytes(raw[:2_000_000])


def test_damaged_pages_and_files_are_all_accounted_for(tmp_path, stub_language):
    r, n = random.Random(int(os.environ.get("LONGHAND_FUZZ_PAGES_SEED", 0))), int(os.environ.get("LONGHAND_FUZZ_PAGES", 300))
    real = [x.body for x in data.read_warc(DATA / "crawl-dev.warc.gz") if x.type == "response"][:40] if (DATA / "crawl-dev.warc.gz").exists() else []
    whole = [body for _, body, *_ in PAGES] + real
    hostile = [b"<div>" * 100_000 + b"the end of it", b"<table>" + b"<tr><td>a" * 300_000, b"<p>" + b"the word of it " * 60_000, b"<p>" + b"x" * 900_000, b"", b"\0" * 10_000]
    bodies = hostile + [damaged(r.choice(whole), r) for _ in range(n)]
    records = [page(body, f"http://a.com/{i}", WARC_Record_ID=f"<urn:uuid:{i}>") for i, body in enumerate(bodies)]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(gzip.compress(x, 1) for x in records))
    few = b"".join(gzip.compress(x, 1) for x in r.sample(records, 5))
    for i in range(n // 20):
        (tmp_path / f"b{i}.warc.gz").write_bytes(THREE_ZIPPED + damaged(few, r))
    start = time.process_time()
    data.main([str(tmp_path), "--run", str(tmp_path / "run"), "--workers", "2"])
    report = json.loads((tmp_path / "run" / "docs" / "report.json").read_text(encoding="utf-8"))
    count = lambda row: sum(row["reasons"].values())
    n_in = sum(report["reader"].get(kind, 0) for kind in ("response", "resource", "conversion"))
    for stage, row in report["stages"].items():
        assert row["documents_in"] == n_in and row["documents_out"] == n_in - count(row)
        assert not [why for why in row["reasons"] if why.startswith("error_")], (stage, row["reasons"])
        n_in = row["documents_out"]
    assert n_in == len(documents(tmp_path / "run")) and len(dropped(tmp_path / "run")) - 1 == sum(map(count, report["stages"].values()))
    urls_seen = [row[0] for row in dropped(tmp_path / "run")[1:]] + [d["url"] for d in documents(tmp_path / "run")]
    assert {f"http://a.com/{i}" for i in range(len(bodies))} <= set(urls_seen)      # of the whole file, every page
    assert time.process_time() - start < 60 + n / 5


THREE_ZIPPED = b"".join(map(gzip.compress, THREE))
