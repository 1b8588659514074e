"""web/warc.py: sound records of every kind, wrong lengths, damaged gzip, bodies, which are pages.

ARC, hostile files and the fuzz are in test_warc.py.
"""

import gzip
import io
import random
import re
import time
import zlib
from collections import Counter

import pytest

from pages import http, page, record
from web import message
from web import warc


def read(raw, counts=None):
    return list(warc.read_warc(io.BytesIO(raw), counts))


def urls(raw, counts=None):
    return [r.url for r in read(raw, counts)]


THREE = [page(b"<p>%d" % i, f"http://a.com/{i}") for i in range(3)]
NAMES = [f"http://a.com/{i}" for i in range(3)]


def test_record_fields():
    raw = record(
        http(b"<p>hi", "Content-Type: text/html; charset=koi8-r", "X-A: 1", "x-a: 2"),
        url="http://a.com/",
        WARC_IP_Address="1.2.3.4",
    )
    [r] = read(raw)
    assert (r.url, r.date, r.id, r.type) == (
        "http://a.com/",
        "2024-01-02T03:04:05Z",
        "<urn:uuid:1>",
        "response",
    )
    assert (r.status, r.body, r.charset, r.truncated, r.offset, r.undecodable) == (
        200,
        b"<p>hi",
        "koi8-r",
        None,
        0,
        None,
    )
    assert r.headers["warc-ip-address"] == "1.2.3.4" and r.http_headers["x-a"] == "1, 2"


@pytest.mark.parametrize(
    "pack",
    [
        b"".join,
        lambda rs: b"".join(map(gzip.compress, rs)),
        lambda rs: gzip.compress(b"".join(rs)),
        lambda rs: gzip.compress(rs[0] + rs[1][:50]) + gzip.compress(rs[1][50:] + rs[2]),
    ],
    ids=["plain", "members", "one member", "odd members"],
)
def test_plain_and_gzip_of_every_kind(pack, tmp_path):
    raw = pack(THREE)
    assert urls(raw) == NAMES
    path = tmp_path / "misnamed.gz"
    path.write_bytes(raw)
    assert (
        [r.url for r in warc.read_warc(path)] == [r.url for r in warc.read_warc(str(path))] == NAMES
    )


def test_offset_is_where_the_record_can_be_read_again():
    for raw in (b"".join(THREE), b"".join(map(gzip.compress, THREE))):
        for r in read(raw):
            assert read(raw[r.offset :])[0].url == r.url
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


@pytest.mark.parametrize("wrong", [-3, +3, +20, +200, +(10**6), +(10**15), "nonsense", "-5", False])
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


@pytest.mark.parametrize("wrong", [-3, +3, +20, +(10**15)])
def test_wrong_content_length_of_the_last_record(wrong):
    body = http(b"<p>the last page", "Content-Type: text/html")
    last = record(body, url=NAMES[1], length=len(body) + wrong)
    for raw in (THREE[0] + last, gzip.compress(THREE[0]) + gzip.compress(last)):
        assert [r.body for r in read(raw)] == [b"<p>0", b"<p>the last page"]
    counts = Counter()  # not if the end of the gzip is missing
    assert urls(gzip.compress(THREE[0]) + gzip.compress(last)[:-8], counts)[:1] == NAMES[:1]
    assert counts["cut_off"] == 1


def test_last_record_without_length_or_without_line_ends():
    unsized = record(
        http(b"<p>a long enough page to be cut", "Content-Type: text/html"),
        url=NAMES[1],
        length=False,
    )
    assert urls(gzip.compress(THREE[0]) + gzip.compress(unsized)) == NAMES[:2]
    assert (
        urls(gzip.compress(THREE[0]) + gzip.compress(unsized)[:-14]) == NAMES[:1]
    )  # who knows what is missing
    counts = Counter()
    assert read(page(b"<p>x\n")[:-4], counts)[0].body == b"<p>x\n" and not counts["wrong_length"]


@pytest.mark.parametrize(
    "pack", [b"".join, lambda rs: b"".join(map(gzip.compress, rs))], ids=["plain", "members"]
)
def test_records_without_line_ends_between_them(pack):
    counts = Counter()
    assert [r.body for r in read(pack([page(b"<p>%d\n" % i)[:-4] for i in range(3)]), counts)] == [
        b"<p>0\n",
        b"<p>1\n",
        b"<p>2\n",
    ]
    assert not counts["wrong_length"]
    assert [
        r.url for r in read(pack([record(b"", type="metadata", url="m")[:-4], *THREE]), counts)
    ] == ["m", *NAMES] and not counts["wrong_length"]


def test_headers_cut_short_cost_their_record_only():
    for cut in (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://cut.com/\r\n",
        b"WARC/1.0\r\nWARC-Type: res\r\n\r\n",
    ):
        for raw in (
            THREE[0] + cut + THREE[1] + THREE[2],
            b"".join(map(gzip.compress, [THREE[0], cut, *THREE[1:]])),
        ):
            out = [r for r in read(raw) if r.type == "response"]
            assert [(r.url, r.body) for r in out] == [
                (name, b"<p>%d" % i) for i, name in enumerate(NAMES)
            ]


def test_headers_or_body_too_long_with_a_wrong_length_cost_one_record(monkeypatch):
    monkeypatch.setattr(message, "MAX_BLOCK", 1000)
    monkeypatch.setattr(message, "MAX_HEAD", 500)
    for bad in (
        page(X="x" * 5000),
        page(b"y" * 5000, length=10**12),
        page(b"y" * 5000, length=3000),
        page(b"y" * 5000, length=7),
    ):
        for raw in (
            THREE[0] + bad + THREE[1] + THREE[2],
            b"".join(map(gzip.compress, [THREE[0], bad, *THREE[1:]])),
        ):
            assert [url for url in urls(raw) if url != "http://a.com/"] == NAMES
    counts = Counter()
    assert (
        urls(THREE[0] + b"WARC/1.0\r\nX: " + b"x" * 100, counts) == NAMES[:1]
        and counts["cut_off"] == 1
    )


@pytest.mark.parametrize("length", ["²745", "9" * 5000, "", "+7", "0x9"])
def test_content_length_that_is_no_number(length):
    assert [r.body for r in read(THREE[0] + page(b"<p>1", length=length) + THREE[2])] == [
        b"<p>0",
        b"<p>1",
        b"<p>2",
    ]


@pytest.mark.parametrize(
    "status, want",
    [("200", 200), ("9" * 5000, 0), ("²00", 0), ("2000", 0), ("-20", 0), ("", 0), ("abc", 0)],
)
def test_http_status(status, want):
    assert read(record(http(b"<p>x", status=f"HTTP/1.1 {status} OK"), url="u"))[0].status == want


def test_headers_in_linear_time_and_of_bounded_size():
    start, lines, counts = time.process_time(), b" x\n" * (message.MAX_HEAD // 3 - 100), Counter()
    [r, cut, last] = read(
        record(b"HTTP/1.1 200 OK\r\nX: y\r\n" + lines + b"\r\n<p>", X="y\r\n" + lines.decode()[:-1])
        + record(b"HTTP/1.1 200 OK\r\n" + lines * 2 + b"\r\n<p>")
        + THREE[0],
        counts,
    )
    assert r.body == b"<p>" and r.http_headers["x"] == r.headers["x"] == "y" + " x" * (
        len(lines) // 3
    )
    assert (
        cut.body == b""
        and cut.truncated == "http_head_too_long"
        and counts["http_head_too_long"] == 1
        and last.url == NAMES[0]
    )
    assert time.process_time() - start < 2


def test_body_that_holds_a_warc_is_one_record():
    inner = http(b"<p>" + b"".join(THREE), "Content-Type: text/html")
    assert [r.body for r in read(record(inner, url="u") + THREE[0])][0] == b"<p>" + b"".join(THREE)


def test_empty_block_blank_lines_and_no_final_newlines():
    assert (
        len(
            read(
                b"\r\n\r\n"
                + record(b"", type="warcinfo")
                + b"\r\n\r\n\r\n"
                + THREE[0].rstrip(b"\r\n")
            )
        )
        == 2
    )


def test_garbage_between_and_after():
    counts = Counter()
    assert (
        urls(THREE[0] + b"garbage\r\n\r\n" + THREE[1] + b"garbage", counts) == NAMES[:2]
        and counts["resync"] == 2
    )
    zipped = list(map(gzip.compress, THREE))
    counts = Counter()
    assert (
        urls(zipped[0] + b"\0\0garbage" + zipped[1] + b"more", counts) == NAMES[:2]
        and counts["gzip_garbage"] == 2
    )


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
    big = [
        gzip.compress(page("".join(r.choices("abcdefgh ", k=20_000)).encode(), name))
        for name in NAMES
    ]
    for cut in (5, 15, 300, 3000, 5500, len(big[1]) - 3):
        out = [x.url for x in warc.read_warc(Dribble(big[0] + big[1][:cut] + big[2]))]
        assert out[0] == NAMES[0] and out[-1] == NAMES[2]


@pytest.mark.parametrize(
    "start",
    [
        b"\x1f\x8b\x08",
        b"\x1f\x8b\x08\x08\1\1\1\1\2\3",
        b"\x1f\x8b\x08\0\1\1\1\1\2\3",
        gzip.compress(b""),
    ],
)
def test_starts_of_gzip_members_in_linear_time(start):
    began = time.process_time()
    first, *rest = map(gzip.compress, THREE)
    assert urls(first + start * (200_000 // len(start)) + b"".join(rest)) == NAMES
    assert time.process_time() - began < 3


def test_header_oddities():
    raw = (
        b"WARC/1.0\r\nwarc-type:response\r\nWARC-Target-URI: <http://a.com/a b>\r\n"
        b"X: one\r\n two\r\nno colon\r\nY: caf\xe9\r\n"
        b"WARC-Protocol: h2\r\nWARC-Protocol: tls/1.3\r\nContent-Length: 51\r\n\r\n"
        b"HTTP/2 200\nContent-Type:text/html\nbroken\nA: \xff\n\n<p>hi\r\n\r\n"
    )
    raw = raw.replace(
        b"51", b"%d" % len(b"HTTP/2 200\nContent-Type:text/html\nbroken\nA: \xff\n\n<p>hi")
    )
    [r] = read(raw)
    assert (r.url, r.headers["x"], r.headers["y"], r.headers["warc-protocol"]) == (
        "http://a.com/a%20b",
        "one two",
        "café",
        "h2, tls/1.3",
    )
    assert (r.status, r.http_headers, r.body) == (
        200,
        {"content-type": "text/html", "a": "ÿ"},
        b"<p>hi",
    )


@pytest.mark.parametrize("n", [1, 2, 3, 7, 500])
def test_reads_of_any_size_find_every_gzip_member(n):
    class Dribble(io.BytesIO):  # a read may end anywhere, in a magic number too
        def read(self, size=-1):
            return super().read(min(size, n))

    names = [f"http://a.com/{i}" for i in range(40)]
    raw = b"".join(
        gzip.compress(record(http(b"<p>%d" % i), url=name)) for i, name in enumerate(names)
    )
    counts = Counter()
    assert [r.url for r in warc.read_warc(Dribble(raw), counts)] == names and not counts[
        "gzip_garbage"
    ]


def test_dns_response_has_no_http_header():
    assert read(record(b"20240101\na.com. 5 IN A 1.2.3.4", url="dns:a.com"))[0].body.startswith(
        b"2024"
    )


def test_memory_is_bounded_and_a_huge_record_is_cut(monkeypatch):
    monkeypatch.setattr(message, "MAX_BLOCK", 1000)
    counts = Counter()
    out = read(record(http(b"x" * 100_000), url="u") + THREE[0], counts)
    assert len(out[0].body) < 1000 and out[0].truncated and out[1].url == NAMES[0]


@pytest.mark.parametrize(
    "raw, says",
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"<html>", "begins with b'<html>'"),
        (gzip.compress(b"hello hello"), "begins with b'hello hello'"),
        (b"PK\x03\x04", "begins"),
        (gzip.compress(b"WARC/1.0")[:5], "cut off"),
        (b"WARC/1.0\r\nWARC-Type: x\r\n", "no end of headers"),
        (b"http://a.com/ 1.2.3.4 20080101000000 text/html 100\n", "begins"),
    ],
)
def test_not_a_warc(raw, says, tmp_path):
    (tmp_path / "file.warc").write_bytes(raw)
    with pytest.raises(ValueError, match=rf"file\.warc: not a WARC file: .*{re.escape(says)}"):
        list(warc.read_warc(tmp_path / "file.warc"))


GZ = gzip.compress(b"<p>" + b"zipped " * 2000)
RAW_DEFLATE = zlib.compressobj(wbits=-15)
RAW_DEFLATE = RAW_DEFLATE.compress(b"<p>raw") + RAW_DEFLATE.flush()


@pytest.mark.parametrize(
    "body, headers, want",
    [
        (
            b"3\r\nabc\r\n0A;ext=1\r\n0123456789\r\n0\r\n\r\n",
            ["Transfer-Encoding: chunked"],
            b"abc0123456789",
        ),
        (b"3\r\nabc\r\n5\r\n12", ["Transfer-Encoding: chunked"], b"abc12"),  # ends inside a chunk
        (b"3\r\nabc\r\n", ["Transfer-Encoding: chunked"], b"abc"),  # no last chunk
        (b"3\r\nabc", ["Transfer-Encoding: chunked"], b"abc"),
        (b"<p>not chunked", ["Transfer-Encoding: chunked"], b"<p>not chunked"),
        (b"1\r\nxyz123!@#", ["Transfer-Encoding: chunked"], b"1\r\nxyz123!@#"),  # untouched
        (b"", ["Transfer-Encoding: chunked"], b""),
        (GZ, ["Content-Encoding: gzip"], gzip.decompress(GZ)),
        (GZ, ["Content-Encoding: X-GZIP"], gzip.decompress(GZ)),
        (
            b"%X\r\n%s\r\n0\r\n\r\n" % (len(GZ), GZ),
            ["Content-Encoding: gzip", "Transfer-Encoding: chunked"],
            gzip.decompress(GZ),
        ),
        (b"<p>plain", ["Content-Encoding: gzip"], b"<p>plain"),
        (b"<p>plain", ["Content-Encoding: br"], b"<p>plain"),
        (GZ, ["X-Crawler-Content-Encoding: gzip"], GZ),
        (b"<p>x", ["X-Crawler-Transfer-Encoding: chunked"], b"<p>x"),
        (zlib.compress(b"<p>z"), ["Content-Encoding: deflate"], b"<p>z"),
        (RAW_DEFLATE, ["Content-Encoding: deflate"], b"<p>raw"),
        (b"<p>x", ["Content-Encoding: utf-8"], b"<p>x"),
        (b"<p>x", ["Content-Encoding: identity"], b"<p>x"),
    ],
)
def test_body_decoding(body, headers, want):
    [r] = read(record(http(body, *headers), url="u"))
    assert r.body == want and r.undecodable is None


def test_body_cut_in_gzip_keeps_what_came_before():
    long = bytes(random.Random(0).randbytes(50_000))
    [r] = read(record(http(gzip.compress(long)[:30_000], "Content-Encoding: gzip"), url="u"))
    assert 20_000 < len(r.body) < 30_001 and long.startswith(r.body)


CUT = gzip.compress(bytes(random.Random(0).randbytes(9000)))[:5000]


@pytest.mark.parametrize(
    "body, headers, size, why",
    [
        (
            gzip.compress(b"<p>one") + gzip.compress(b" and two"),
            ["Content-Encoding: gzip"],
            14,
            None,
        ),
        (gzip.compress(b"x" * 4000) * 300, ["Content-Encoding: gzip"], 1_200_000, None),
        (gzip.compress(b"<p>one") + b"\0\0more", ["Content-Encoding: gzip"], 6, None),
        (
            gzip.compress(b"<p>one") + gzip.compress(b" two")[:-3],
            ["Content-Encoding: gzip"],
            10,
            "compressed_cut",
        ),
        (CUT, ["Content-Encoding: gzip"], None, "compressed_cut"),
        (zlib.compress(b"<p>one")[:-2], ["Content-Encoding: deflate"], 6, "compressed_cut"),
        (b"", ["Content-Encoding: gzip"], 0, None),
        (b"ff\r\nabc", ["Transfer-Encoding: chunked"], 3, "chunked_cut"),
        (b"3\r\nabc\r\n", ["Transfer-Encoding: chunked"], 3, "chunked_cut"),
        (b"3\r\nabc\r\n0\r\n", ["Transfer-Encoding: chunked"], 3, None),
        (b"plain", ["Transfer-Encoding: chunked"], 5, None),
        (
            b"FFFF\r\n" + CUT,
            ["Transfer-Encoding: chunked", "Content-Encoding: gzip"],
            None,
            "chunked_cut",
        ),
        (gzip.compress(bytes(100_001)), ["Content-Encoding: gzip"], 100_000, "inflated_too_long"),
        (gzip.compress(bytes(100_000)), ["Content-Encoding: gzip"], 100_000, None),
    ],
)
def test_bodies_that_are_not_all_there_are_counted(body, headers, size, why, monkeypatch):
    monkeypatch.setattr(
        message,
        "MAX_BLOCK",
        100_000 if why == "inflated_too_long" or size == 100_000 else message.MAX_BLOCK,
    )
    counts = Counter()
    [r] = read(record(http(body, *headers), url="u"), counts)
    assert size in (None, len(r.body)) and r.truncated == why
    assert {k: n for k, n in counts.items() if n} == {
        "response": 1,
        **({why: 1, "truncated": 1} if why else {}),
    }
    [r] = read(record(http(body, *headers), url="u", WARC_Truncated="time"))
    assert r.truncated == "time"


def test_bomb_and_brotli():
    bomb = gzip.compress(bytes(message.MAX_BLOCK * 2))
    counts = Counter()
    out = read(
        record(http(bomb, "Content-Encoding: gzip"), url="u")
        + record(http(b"\x8b\0\0", "Content-Encoding: br"), url="u"),
        counts,
    )
    assert (
        len(out[0].body) == message.MAX_BLOCK
        and out[1].undecodable == "br"
        and counts["undecodable"] == 1
    )


@pytest.mark.parametrize(
    "identified, declared, body, want",
    [
        ("text/html", "image/png", b"x", True),
        ("application/xhtml+xml", None, b"x", True),
        ("application/pdf", "text/html", b"<p>", False),
        ("text/plain", "text/html", b"<html>", False),
        (None, "text/html; charset=x", b"hello", True),
        (None, "TEXT/HTML", b"", True),
        (None, "text/html", b"%PDF-1.4", False),
        (None, "text/html", b"\x89PNG", False),
        (None, "text/html", b"\x1f\x8b\x08", False),
        (None, "text/html", b' {"a": 1}', False),
        (None, "text/html", b"<?xml version='1.0'?><rss>", False),
        (None, "text/html", b"<?xml version='1.0'?><!DOCTYPE html><html>", True),
        (None, "text/html", b"\xef\xbb\xbf<rss >", False),
        (None, "text/plain", b"<!DOCTYPE html><p>", True),
        (None, "text/plain", b"plain words", False),
        (None, None, b"<html>", True),
        (None, None, b"words", False),
        (None, "application/json", b"<html>", False),
        (None, "image/png", b"<html>", False),
    ],
)
def test_which_responses_are_pages(identified, declared, body, want):
    fields = {"WARC_Identified_Payload_Type": identified} if identified else {}
    headers = [f"Content-Type: {declared}"] if declared else []
    assert warc.is_html(read(record(http(body, *headers), url="u", **fields))[0]) is want
