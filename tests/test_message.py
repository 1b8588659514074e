"""web/message.py: headers and bodies of HTTP."""
import pickle
import random
import zlib
from collections import Counter

import pytest

from web import message
from warc_files import chunked, damage, http, read, record, zipped


def test_lines_that_go_on_belong_to_the_header_that_they_follow():
    raw = (b"WARC/1.0\r\nWARC-Type: response\r\nA: one\r\n\ttwo: 2\r\nA: again\r\n"
           b" Content-Length: 5\r\nContent-Length: 5\r\n\r\n<p>xy\r\n\r\n")
    [r] = read(raw)
    assert r.headers == {
        "warc-type": "response", "a": "one two: 2, again Content-Length: 5", "content-length": "5"}
    assert r.body == b"<p>xy"


GBK, CHUNKED = "text/html; charset=gbk", "Transfer-Encoding: chunked"


@pytest.mark.parametrize("name, values, want", [
    # lists are joined
    ("X-Robots-Tag", ["noarchive", "noai"], "noarchive, noai"),
    ("Transfer-Encoding", ["gzip", "chunked"], "gzip, chunked"),
    ("A", ["1", "3", ""], "1, 3, "),
    ("Link", ["</a>; rel=next", "</b>; rel=license"], "</a>; rel=next, </b>; rel=license"),
    ("TDM-Reservation", ["0", "1"], "0, 1"),
    ("WARC-Protocol", ["h2", "tls/1.3"], "h2, tls/1.3"),
    # a header that can have only one value keeps the first
    ("Set-Cookie", ["a=1; Expires=Wed, 3 Dec", "b=2"], "a=1; Expires=Wed, 3 Dec"),
    ("Content-Length", ["5", "6"], "5"),
    ("Location", ["/a", "/b"], "/a"),
    ("Date", ["Wed, 03 Dec 2025 13:09:53 GMT"] * 2, "Wed, 03 Dec 2025 13:09:53 GMT"),
    ("Retry-After", ["5", "7"], "5"),
    ("WARC-Target-URI", ["http://a/", "http://b/"], "http://a/"),
    # Content-Type keeps the last that is one (Fetch Standard: extract a MIME type)
    ("Content-Type", ["text/plain", "text/html"], "text/html"),
    ("Content-Type", ["text/html", ""], "text/html"),
    ("Content-Type", [GBK, "text/html"], GBK),
    ("Content-Type", [GBK, "text/html; charset=big5"], "text/html; charset=big5"),
    ("Content-Type", [GBK, "text/plain"], "text/plain"),
    ("Content-Type", [GBK, "*/*"], GBK),
    ("Content-Type", [GBK, "nonsense", "Text/HTML"], "Text/HTML; charset=gbk")])
def test_repeated_headers(name, values, want):
    for later in (name, name.lower()):
        names = [name] + [later] * (len(values) - 1)
        lines = [f"{n}: {value}" for n, value in zip(names, values)]
        headers = message.parse_headers("\r\n".join([lines[0], "B: 2", *lines[1:]]).encode())
        assert list(headers.items()) == [(name.lower(), want), ("b", "2")]
        assert headers.lines == {name.lower(): values}


@pytest.mark.parametrize("head, want", [
    (b"Location: /\xe4?\xfc\r\nX: \xe4", "/%E4?%FC"), ("Location: /ä\r\nX: ä".encode(), "/ä"),
    (b"location:/\xe4", "/%E4"), ("Location: /ä".encode() + b"\r\nX: \xe4", "/ä")])
def test_bytes_of_an_address_keep_their_value(head, want):
    """As in Chromium, bytes that are not UTF-8 are requested as they came."""
    assert message.parse_headers(head)["location"] == want


def test_headers_without_repetition_share_nothing():
    first = message.parse_headers(b"A: 1\r\nA: 2")
    second = message.parse_headers(b"A: 1")
    assert first.lines == {"a": ["1", "2"]} and second.lines == {} == message.Headers.lines
    assert pickle.loads(pickle.dumps(first)).lines == first.lines


@pytest.mark.parametrize("head, status, headers, body", [
    (b"HTTP/2 200\nA:b\nbroken\n\n", 200, {"a": "b"}, b"<p>"),
    (b"HTTP/1.1 404\r\n\r\n", 404, {}, b"<p>"),
    (b"ICY 200 OK\r\nA: b\r\n\r\n", 200, {"a": "b"}, b"<p>"),
    (b"http/1.0 200 ok\r\n\r\n", 200, {}, b"<p>"),
    (b"HTTP/1.1 200 OK\r\nA: b\r\n", 200, {"a": "b", "<p>": ""}, b""),
    (b"<p>HTTP/1.1", 0, {}, b"<p>HTTP/1.1<p>")])
def test_http_heads(head, status, headers, body):
    block = head + (b"<p>:" if b"<p>" in headers else b"<p>")
    [r] = read(record(block + (b":" if "<p>" in headers else b"")))
    assert (r.status, r.http_headers, r.body) == (status, headers, body)


RAW = zlib.compressobj(wbits=-15)
RAW = RAW.compress(b"<p>raw" * 9) + RAW.flush()
LONG = zipped(" ".join(map(str, range(9000))).encode())


@pytest.mark.parametrize("body, header, want, why", [
    (chunked(b"abc", b"def") + b" and then more", CHUNKED, b"abcdef and then more", "chunked_cut"),
    (chunked(b"abc") + b"3\r\nabcdef", CHUNKED, b"abc3\r\nabcdef", "chunked_cut"),
    (b"0\r\nnot chunked at all", CHUNKED, b"0\r\nnot chunked at all", None),
    (b"0\r\n\r\n", CHUNKED, b"", None),
    (chunked(b"abc") + b"0\r\nTrailer: x\r\n\r\n", "Transfer-Encoding: Chunked", b"abc", None),
    (chunked(zipped(b"<p>x")) + b"0\r\n\r\n", "Transfer-Encoding: gzip, chunked", b"<p>x", None),
    (zipped(zlib.compress(b"<p>x")), "Content-Encoding: deflate, gzip", b"<p>x", None),
    (RAW, "Content-Encoding: deflate", b"<p>raw" * 9, None),
    (RAW[:-3], "Content-Encoding: deflate", None, "compressed_cut"),
    (LONG[:9000] + b"\xff" * 99 + LONG[9099:], "Content-Encoding: gzip", None, "compressed_cut"),
    (LONG[:-8] + b"\0" * 8, "Content-Encoding: gzip", None, "compressed_cut"),
    (zipped(b"a") * (message.MAX_MEMBERS + 5), "Content-Encoding: gzip", b"a" * message.MAX_MEMBERS,
     "inflated_too_long")])
def test_bodies(body, header, want, why):
    counts = Counter()
    [r] = read(record(http(body, header)), counts)
    assert (want is None or r.body == want) and r.truncated == why
    assert damage(counts) == ({why: 1, "truncated": 1} if why else {})


@pytest.mark.parametrize("at", [300, 3000, 9000, len(LONG) - 8])    # the last: only the checksum
def test_a_damaged_body_is_kept_up_to_the_damage(at):
    damaged = LONG[:at] + bytes(b ^ 255 for b in LONG[at:at + 8]) + LONG[at + 8:]
    [r] = read(record(http(damaged, "Content-Encoding: gzip")))
    before = zlib.decompressobj(31).decompress(LONG[:at - message.SMALL_STEP])
    assert r.body.startswith(before) and r.truncated == "compressed_cut" and len(before) > 200


def test_text_that_says_deflate_passes():
    """Raw deflate has no mark; some text can be inflated by chance, so printable bytes are text."""
    rng = random.Random(5)
    letters = b"\n <>/abcdefghijklmnopqrstuvwxyz="
    for start in (b"<!DOCTYPE html>", b"\n<html>", b"[1, 2]", b"{}", b"Kind words",
                  b"\xef\xbb\xbf<p>", b"", b"S"):
        for _ in range(40):
            body = start + bytes(rng.choices(letters, k=rng.randrange(200)))
            [r] = read(record(http(body, "Content-Encoding: deflate")))
            assert r.body == body and r.truncated is None
