"""web/warc.py: what becomes a document, hostile files, and a fuzz with a fixed seed.

test_warc_records.py has sound WARCs and the first oddities; here, all formats are made by hand.
"""
import io
import os
import random
import re
import runpy
import subprocess
import sys
import time
import zlib
from collections import Counter
from dataclasses import asdict

import pytest

from run import command
import data
from web import crawl
from web import addresses
from web import connection
from web import robots
from web import extract
from web import message
from web import records
from web import pii
from web import rights
from web import warc
from conftest import ROOT
from web.warc import document_kind, read_warc
from warc_files import (  # noqa: F401
    NAMES, PAGES, Pipe, arc, arc_start, chunked, damage, http, read, record, urls, zipped)


# -------------------------------------------------------------------------- what becomes a document

HTML, NOT_HTML = ("html", None), (None, "not_html")
TEXT, NOT_TEXT = ("text", None), (None, "not_text")
IDENTIFIED = "WARC_Identified_Payload_Type"
NOT_PAGES = [b"%PDF-1.4", b"PK\x03\x04", b"\x1f\x8b\x08", b"GIF89a", b"BZh9", b"\xd0\xcf\x11\xe0",
             b"\0\0\0 ftyp", b"wOF2", b'[{"a"']
KINDS = [
    (dict(type="response"), "text/html", b"<p>x", HTML),
    (dict(type="RESPONSE"), "text/html", b"<p>x", HTML),
    ({IDENTIFIED: "text/html"}, "image/png", b"<p>x", HTML),
    ({IDENTIFIED: "application/xhtml+xml"}, "text/plain", b"x", HTML),
    ({IDENTIFIED: "text/plain"}, "text/html", b"<html>", NOT_HTML),
    ({IDENTIFIED: "application/pdf"}, "text/html", b"<html>", NOT_HTML),
    ({}, "application/xhtml+xml", b"<html>", HTML),
    ({}, "text/plain", b"<!doctype html>", HTML),
    ({}, "", b"<html>", HTML),
    ({}, "text/plain", b"words", NOT_HTML),
    ({}, "application/json", b"<p>", NOT_HTML),
    *[({}, "text/html", start + b"\0" * 9, NOT_HTML) for start in NOT_PAGES],
    (dict(url="dns:a.com"), None, b"20080102\na.com. 5 IN A 1.2.3.4", (None, "not_http")),
    (dict(url="WHOIS:a.com"), None, b"<html>", (None, "not_http")),
    ({}, None, b"<html><p>no header of HTTP", HTML),
    ({}, None, b"no markup either", NOT_HTML)]


@pytest.mark.parametrize("fields, declared, body, want", KINDS)
def test_which_responses_are_documents(fields, declared, body, want):
    block = body if declared is None else http(body, f"Content-Type: {declared}")
    [r] = read(record(block, **fields))
    assert document_kind(r) == want


@pytest.mark.parametrize("type, declared, body, want", [
    ("resource", "text/html; charset=koi8-r", b"<p>x", HTML),
    ("resource", "application/xhtml+xml", b"<p>x", HTML),
    ("resource", "text/plain", b"log of a crawler", NOT_HTML),
    ("resource", "image/png", b"<html>", NOT_HTML),
    ("resource", "", b"<html>", HTML),
    ("conversion", "text/plain; charset=utf-8", b"words", TEXT),
    ("conversion", "text/plain", b"<html> in words", TEXT),
    ("conversion", "", b"words", TEXT),
    ("conversion", "image/jpeg", b"\xff\xd8\xff", NOT_TEXT),
    ("conversion", "text/html", b"<p>", NOT_TEXT),
    *[(type, "text/html", b"<p>x", (None, type)) for type in
      ("warcinfo", "request", "metadata", "revisit", "continuation", "unheard-of")],
    ("", "text/html", b"<p>x", (None, "no_type"))])
def test_which_other_records_are_documents(type, declared, body, want):
    [r] = read(record(body, type=type, Content_Type=declared))
    assert (document_kind(r), r.body, r.status, r.http_headers) == (want, body, 0, {})
    assert r.charset == (declared.partition("charset=")[2] or None) and r.content_type == declared


def test_a_wet_file():
    """As Common Crawl's: warcinfo, then a conversion for each page, in UTF-8, with languages."""
    text = "Grüße\nund noch eine Zeile\n".encode()
    wet = [
        record(b"Software-Info: ia-web-commons\r\n", "warcinfo", url="",
               Content_Type="application/warc-fields", WARC_Filename="CC-MAIN-x.warc.wet.gz"),
        record(text, "conversion", "https://a.de/", WARC_Refers_To="<urn:uuid:2>",
               WARC_Identified_Content_Language="deu", Content_Type="text/plain")]
    info, r = read(b"".join(map(zipped, wet)))
    assert document_kind(r) == TEXT and r.body == text and r.url == "https://a.de/"
    assert document_kind(info) == (None, "warcinfo") and info.url == ""
    assert "CC-MAIN-x.warc.wet.gz".endswith(warc.FILE_ENDS)


def test_a_revisit_and_a_segment():
    revisit = record(
        http(b""), "revisit", WARC_Refers_To_Target_URI="http://a.com/",
        WARC_Profile="http://netpreserve.org/warc/1.1/revisit/identical-payload-digest")
    first = record(http(b"<p>first"), WARC_Segment_Number="1")
    second = record(b" second", "continuation", WARC_Segment_Number="2")
    counts = Counter()
    out = read(revisit + record(b"", "revisit") + first + second, counts)
    assert [document_kind(r) for r in out] == [
        (None, "revisit"), (None, "revisit"), HTML, (None, "continuation")]
    assert out[2].truncated == "segment" and out[2].body == b"<p>first"
    assert counts["revisit"] == 2 and damage(counts) == {"truncated": 2}


@pytest.mark.parametrize("coding, body", [
    ("br", b"\x8b\0\0"), ("zstd", b"\x28\xb5\x2f\xfd"), ("gzip, br", b"\x8b\0"), ("dcb", b"\xff"),
    ("gzip", b"\x1f\x8b\x08damaged from here"), ("gzip," * 6, b"<p>x")])
def test_undecodable_comes_before_what_the_body_is(coding, body):
    headers = ["Content-Type: text/html", f"Content-Encoding: {coding}"]
    counts = Counter()
    [r] = read(record(http(body, *headers)), counts)
    assert document_kind(r) == (None, "undecodable") and r.undecodable and r.body == body
    assert damage(counts) == {"undecodable": 1}


def test_an_empty_body_is_decodable():
    [r] = read(record(http(b"", "Content-Type: text/html", "Content-Encoding: br")))
    assert r.undecodable is None


# ------------------------------------------------------------------------------------------ headers

@pytest.mark.parametrize("uri, url", [
    ("<http://a.com/a b>", "http://a.com/a%20b"),
    ("http://a.com/?q=<b>", "http://a.com/?q=<b>"),
    ("http://a.com/a  b\tc", "http://a.com/a%20%20b%09c"),
    ("http://a.com/\u00e9\u00a0x", "http://a.com/\u00e9\u00a0x"),
    ("http://a.com/\u2028x\0", "http://a.com/%E2%80%A8x%00"),
    ("< >", "")])
def test_uris(uri, url):
    assert urls(record(b"", url=uri)) == [url]


@pytest.mark.parametrize("date, want", [
    ("20240102030405", "2024-01-02T03:04:05Z"),
    ("2024-01-02T03:04:05.123456Z", "2024-01-02T03:04:05.123456Z"),
    ("2024", "2024"), ("\u0662" * 14, "\u0662" * 14)])
def test_dates(date, want):
    assert read(record(b"", WARC_Date=date))[0].date == want


def test_two_transfer_encodings_are_undone():
    page = zipped(b"<p>x")
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(page), page)
    [r] = read(record(http(body, "Transfer-Encoding: gzip", "Transfer-Encoding: chunked")))
    assert r.body == b"<p>x" and r.truncated is None


@pytest.mark.parametrize(
    "line", ["WARC/0.17", "WARC/0.18", "WARC/1.0", "WARC/1.1", "WARC/1.1 ", "WARC/2.0"])
def test_version_lines(line):
    """One length is wrong, so that the next record has to be found by its first line."""
    rs = [r.replace(b"WARC/1.0", line.encode()) for r in PAGES]
    rs[1] = rs[1].replace(b"Content-Length: ", b"Content-Length: 9")
    assert urls(b"".join(rs)) == NAMES


@pytest.mark.parametrize("declared, charset", [
    ("text/html; charset=UTF-8", "UTF-8"), ('text/html;charset="big5"; x=y', "big5"),
    ("text/html; x-charset=a", None), ("charset = koi8-r", "koi8-r"), ("text/html", None)])
def test_charset_of_a_response(declared, charset):
    assert read(record(http(b"<p>", f"Content-Type: {declared}")))[0].charset == charset


def test_what_a_crawl_keeps_of_a_page_is_read_whole():
    """What one module writes, the next does not cut, or it counts it (see inflated_too_long)."""
    assert crawl.MAX_BODY + connection.MAX_HEAD <= message.MAX_BLOCK <= extract.MAX_CHARS
    assert connection.MAX_HEAD <= message.MAX_HEAD


# ------------------------------------------------------------------- small files, damaged at random

# LONGHAND_FUZZ="10000 50000" takes other seeds than the fixed ones.
SEEDS = range(*map(int, os.environ.get("LONGHAND_FUZZ", "0 4000").split()))
HOW = ["plain", "members", "one member"]                # how a file may be packed
FLIP, CUT, DELETE, INSERT, SPLICE, REPEAT, OVERWRITE, ZEROS_IN, TOKEN, BOMB, LENGTH = range(11)
WORDS = ("the of and a to in is you that it\n he was <p> for on \n\n are </p>\r\n as with his they "
         "I at be").split(" ")


def some_page(rng, i):
    words = rng.choices(WORDS, k=rng.randint(5, 300))
    return f"<html>page {i} {' '.join(words)}".encode()


def some_warc(rng):
    """A few records of many kinds, each as its bytes."""
    records = [record(b"software: x\r\n", "warcinfo", id="info")]
    for i in range(rng.randint(1, 6)):
        body, headers = some_page(rng, i), ["Content-Type: text/html"]
        how = rng.random()
        if how < 0.2:
            body = zipped(body)
            headers.append("Content-Encoding: gzip")
        elif how < 0.4:
            body = chunked(*(body[j:j + 99] for j in range(0, len(body), 99))) + b"0\r\n\r\n"
            headers.append("Transfer-Encoding: chunked")
        elif how < 0.5:
            body = zlib.compress(body)
            headers.append("Content-Encoding: deflate")
        kind = rng.choice(["response"] * 5 + ["revisit", "resource", "conversion", "metadata"])
        block = http(body, *headers) if kind == "response" else body
        records.append(record(block, kind, f"http://a.com/{i}", i))
    return records


def some_arc(rng):
    pages = [http(some_page(rng, i), "Content-Type: text/html") for i in range(rng.randint(1, 6))]
    return [arc_start(), *(arc(page, f"http://a.com/{i}") for i, page in enumerate(pages))]


TOKENS = [
    b"\r\n\r\nWARC/1.0\r\n", b"\x1f\x8b\x08", arc(b"<p>x\n"), b"\r\n\r\n",
    b"WARC/1.0\r\nContent-Length: 10\r\n\r\n", zipped(bytes(30_000)), zipped(b"\r\n" * 50_000),
    b"Content-Length: 99999999\r\n", zipped(PAGES[0])[:9], b"\0\xff\xff\0\0"]
SMALL_BOMB = record(http(zipped(bytes(1 << 20)), "Content-Encoding: gzip"), id="bomb")


def mutated(rng, packed):
    """(the file with one kind of damage, that kind, where it begins)."""
    raw, kind = bytearray(b"".join(packed)), rng.randrange(11)
    at = rng.randrange(len(raw))
    if kind == FLIP:
        for place in (at, *(rng.randrange(at, len(raw)) for _ in range(rng.randrange(4)))):
            raw[place] ^= 1 << rng.randrange(8)
    elif kind == CUT:
        del raw[at:]
    elif kind == DELETE:
        del raw[at:at + rng.randint(1, 2000)]
    elif kind == INSERT:
        raw[at:at] = rng.randbytes(rng.randint(1, 3000))
    elif kind == SPLICE:
        other = rng.randrange(len(raw))
        raw[at:at] = raw[other:other + rng.randint(1, 5000)]
    elif kind == REPEAT:
        i = rng.randrange(len(packed))
        at = sum(map(len, packed[:i + 1]))
        raw[at:at] = packed[i] * rng.randint(1, 3)
    elif kind == OVERWRITE:
        n = rng.randint(1, 300)
        raw[at:at + n] = rng.randbytes(n)
    elif kind == ZEROS_IN:
        n = rng.randint(1, 3000)
        raw[at:at + n] = bytes(n)
    elif kind == TOKEN:
        raw[at:at] = rng.choice(TOKENS)
    elif kind == BOMB:
        raw[at:at] = rng.choice([SMALL_BOMB, zipped(SMALL_BOMB)])
    elif kind == LENGTH:
        lengths = re.finditer(rb"(?:Content-Length: |text/html )([0-9]+)\r?\n", raw)
        places = [m.span(1) for m in lengths]
        if places:                      # none can be seen in a gzip
            at, end = rng.choice(places)
            near = int(raw[at:end]) + rng.randint(-5, 5)
            any_length = b"%d" % rng.randrange(5000)
            raw[at:end] = rng.choice([
                b"0", b"-1", b"9" * 12, b"", b"x", any_length, b"%d" % near, b"9" * 200])
    return bytes(raw), kind, at


def one_case(seed):
    """Damage one file, read it, assert all that must hold, and return what happened."""
    rng = random.Random(seed)
    is_arc = rng.random() < 0.3
    records = some_arc(rng) if is_arc else some_warc(rng)
    how = rng.choice(HOW)
    packed = {"plain": records, "members": list(map(zipped, records)),
              "one member": [zipped(b"".join(records))]}[how]
    sound = [asdict(r) | {"offset": 0} for r in read(b"".join(packed))]
    assert len(sound) == len(records)
    raw, kind, at = mutated(rng, packed)
    file = io.BytesIO(raw)
    if rng.random() < 0.3:
        file = Pipe(raw, rng.choice([1, 7, 100, 5000, 1 << 20]))
    out, counts, why = [], Counter(), None
    began = time.process_time()
    try:
        out = [asdict(r) | {"offset": 0} for r in read_warc(file, counts)]
    except ValueError as error:
        why = str(error)
        assert why.startswith("stream: not a WARC file: ")
    assert time.process_time() - began < 2, "slow"

    assert all(len(r["body"]) <= message.MAX_BLOCK for r in out)
    inflated = sum(len(r["body"]) for r in out if "content-encoding" in r["http_headers"])
    if how == "plain":
        assert sum(len(r["body"]) for r in out) - inflated <= len(raw)
    else:
        assert inflated <= len(out) * message.MAX_BLOCK
    assert sum(counts[name] for name in (*warc.TYPES, "other_type")) == len(out)
    for name, key in (("truncated", "truncated"), ("undecodable", "undecodable")):
        assert counts[name] == sum(r[key] is not None for r in out)
    for r in read(raw) if out else []:
        document_kind(r)

    ends = [sum(map(len, packed[:i + 1])) for i in range(len(packed))]
    if how != "one member" and at:      # at 0 another format may have been put in front
        before = sum(end <= at for end in ends)
        assert out[:before] == sound[:before], "a record before the damage has changed"
        assert not (why and any(p in raw for p in packed)), "a whole record is in what is no WARC"
    if how == "members" and at:
        kept = [r for p, r in zip(packed, sound) if p in raw]
        assert all(r in out for r in kept), "a record that is whole in its gzip member is lost"
    silent = len(out) < len(sound) and not why and not damage(counts)
    # A wrong length may end where a later record does.
    if how == "members" and kind not in (CUT, DELETE) or kind in (FLIP, INSERT, REPEAT, BOMB):
        assert not silent, "a record is lost, and no count tells"
    return kind, how, why, tuple(sorted(damage(counts)))


def test_random_damage(monkeypatch):
    monkeypatch.setattr(message, "MAX_BLOCK", 1 << 19)
    monkeypatch.setattr(message, "MAX_HEAD", 1 << 12)
    seen, failures = Counter(), []
    for seed in SEEDS:
        try:
            kind, how, why, counts = one_case(seed)
            seen.update([(kind, how), why and why[:40], *counts])
        except Exception as error:
            failures.append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")
    assert not failures, "\n".join(failures[:20])
    if len(SEEDS) >= 4000:              # enough to put everything to the test
        assert all(seen[kind, how] > 50 for kind in range(11) for how in HOW)
        assert all(seen[name] > 20 for name in (
            "wrong_length", "resync", "cut_off", "truncated", "gzip_garbage", "gzip_damaged",
            "chunked_cut", "compressed_cut", "inflated_too_long"))
        refused = sum(n for why, n in seen.items() if str(why).startswith("stream"))
        assert 50 < refused < len(SEEDS) / 4


def test_the_fuzz_sees_a_reader_that_loses_records(monkeypatch):
    """It believes a length whatever follows, so the next record is lost; the fuzz must say so."""

    def read_block(stream, form, declared):
        n = declared or 0
        return (stream.take(n), True) if stream.fill(n) else (None, False)
    monkeypatch.setattr(sys.modules[__name__], "SEEDS", range(500))
    monkeypatch.setattr(records, "read_block", read_block)
    with pytest.raises(AssertionError, match="seed"):
        test_random_damage(monkeypatch)


ODD = [
    b"\0", b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xed\xb0\x80",
    b"\xc2\x9b", b"\x1b[2J", b"\xf4\x90\x80\x80", b"\xc3", b"\x1b$B", b"+ADw-", b"\x85",
    b"&#xD800;", b"&#0;", b"&#x110000;", b"&#99999999999;", b"\\ud800", b"\xe2\x80\xae",
    b"\xe2\x80\xa8", b"\r", b"\n", b"\r\n", b"<", b">", b'"', b"'", b"=", b"%", b"%00", b"[", b"]",
    b"//", b":", b";", b",", b"9" * 5000, b"-1"]
CHARSETS = (
    "utf-8 utf-16 utf-7 utf-32 idna punycode rot13 zlib_codec base64 hex unicode_escape "
    "raw_unicode_escape mbcs undefined iso-2022-jp hz gb18030 big5 euc-kr cp437 x-user-defined "
    "none ../x \0 koi8-r").split(" ")
VALUES = [
    b"text/html; charset=%s", b"gzip", b"chunked", b"deflate, gzip", b"noindex", b"1",
    b"<http://a.com/>", b"http://[::1/", b"http://\xc3\xbc.de/", b"20240102030405", b"10", b"200",
    b"nofollow", b""]
NAMES_OF_HEADERS = [
    b"WARC-Type", b"WARC-Target-URI", b"WARC-Date", b"WARC-Identified-Payload-Type",
    b"Content-Length", b"WARC-Truncated", b"Content-Type", b"Content-Encoding",
    b"Transfer-Encoding", b"X-Robots-Tag", b"tdm-reservation", b"Location", b"Retry-After", b"\xff",
    b""]
MARKUP = [
    b"<html>", b"<p>", b"</p>", b"<a href=", b"<a rel=license href=", b"<meta charset=",
    b"<meta name=robots content=", b"<base href=", b"<script>", b"<!--", b"-->",
    b"<div class=share>", b"<table><td>", b'{"articleBody":"', b"words of a page ",
    b"The ferry leaves at noon. ", b"a@b.com ", b"8.8.8.8 ", b"<pre>", b"\xe6\xbc\xa2",
    b"e\xcc\x81" * 40]


def anything(rng, pieces, most):
    return b"".join(rng.choice(pieces if rng.random() < 0.7 else ODD)
                    for _ in range(rng.randrange(most)))


def head_of(rng, names):
    charset = rng.choice(CHARSETS).encode()
    values = [v % charset if b"%s" in v else v for v in VALUES]
    ends = [b"\r\n", b"\r\n", b"\n", b"\r\n ", b"\r"]
    return b"".join(rng.choice(names) + b": " + anything(rng, values, 4) + rng.choice(ends)
                    for _ in range(rng.randrange(8)))


@pytest.mark.parametrize("seed", range(4))
def test_odd_characters_anywhere_are_no_error(seed, n=120):
    """Unknown charsets, NUL, half surrogates, control characters and huge numbers are no error.

    They are in headers, addresses and pages. Only where nothing looks like a WARC, there may be a
    ValueError, which says so.
    """
    rng, read_some = random.Random(seed), 0
    for _ in range(n):
        body = anything(rng, MARKUP, 40)
        utf_16 = body.decode("latin-1").encode("utf-16")
        body = rng.choice([body, body, zipped(body), zipped(body)[:-5], utf_16])
        status = b"HTTP/1.1 " + rng.choice([b"200 OK", b"\xff", b"999999", b"\0"])
        block = status + b"\r\n" + head_of(rng, NAMES_OF_HEADERS) + b"\r\n" + body
        address = anything(rng, [b"a.com", b"/", b"?q="], 6).translate(None, b"\r\n")
        head = (b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://%s\r\n"
                b"Content-Length: %d\r\n" % (address, len(block)))
        head += head_of(rng, NAMES_OF_HEADERS)
        try:
            out = read(head + b"\r\n" + block + b"\r\n\r\n" + PAGES[0])
        except ValueError as error:
            assert "not a WARC file" in str(error)
            continue
        for r in out:
            read_some += 1
            document_kind(r)
            data.url_filter(r.url)
            said, licence = rights.rights(r.http_headers, r.body)
            text = extract.main_text(r.body, r.url, r.charset)
            (text + (licence or "")).encode()                   # no half surrogates
            pii.redact(text, ("email", "ip", "ssn", "phone"))
            links, base = crawl.links_of(r, Counter())
            for link in (*links, r.http_headers.get("location", "")):
                try:
                    assert addresses.normalise(link, base).isascii()
                except ValueError:                              # no address
                    pass
            connection.retry_after(r.http_headers)
            lines = r.body.decode("utf-8-sig", "replace").splitlines()
            robots.allowed(robots.parse_robots(lines)[0], "http://a.com/x")
    assert read_some > n


# ------------------------------------------------------------------------------ on the command line

@pytest.mark.parametrize("script", ["warc", "extract", "crawl", "language"])
def test_no_control_sequence_reaches_the_terminal(script, tmp_path, monkeypatch, capsys):
    """Each script is run as a whole program in this process, with a terminal for its output."""
    escape = "\x1b]0;owned\x07\x9b2J\u202e"
    hostile = record(http(b"<p>x"), "resp\x1b[2Jonse", f"http://h/{escape}", WARC_Date=escape)
    (tmp_path / "x.warc").write_bytes(hostile)
    (tmp_path / "x.html").write_text(f"<p>x&#27;[2J{escape}", encoding="utf-8")
    (tmp_path / f"{escape}.ftz").write_bytes(b"\x1b[2J")
    there = tmp_path / escape / "crawl" / "a.org.warc.gz"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"")
    args = {
        "warc": [tmp_path / "x.warc"],
        "extract": [tmp_path / "x.html"],
        "crawl": ["http://a.org/", "--run", tmp_path / escape],
        "language": ["predict", "--model", tmp_path / f"{escape}.ftz", "x"]}[script]
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, args)])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", sys.stdout)              # put back what guard() puts there
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / f"web/{script}.py"), run_name="__main__")
    out, err = capsys.readouterr()
    printed = out + err
    assert printed and not command.CONTROL.search(printed.replace("\r", "").replace("\n", ""))


def list_records(path, given=None):
    """Run web.warc on a file, or on the bytes given."""
    return subprocess.run([sys.executable, "-m", "web.warc", str(path)], capture_output=True,
                          input=given, timeout=60, cwd=ROOT)


def test_a_line_for_each_record(tmp_path):
    path = tmp_path / "x.warc"
    text = record(b"words", "conversion", Content_Type="text/plain")
    path.write_bytes(b"".join(PAGES) + text + b"garbage")
    for done in (list_records(path), list_records("-", path.read_bytes())):
        lines = done.stdout.decode().splitlines()
        assert done.returncode == 0 and len(lines) == 4
        assert b"response 3" in done.stderr and b"resync 1" in done.stderr
        assert lines[1].split() == [
            str(len(PAGES[0])), "response", "html", "200", "4", "2024-01-02T03:04:05Z", NAMES[1]]
        assert lines[3].split()[1:3] == ["conversion", "text"]
    done = list_records("-", b"<html>")
    assert done.returncode == 1 and done.stderr.decode().splitlines() == [
        "warc.py: error: <stdin>: not a WARC file: it begins with b'<html>', not with b'WARC/'"]
