"""web/records.py: the definition of the format, ARC, damage, and files that come as streams."""
import io
import random
import re
import time
import tracemalloc
import zlib
from collections import Counter
from dataclasses import asdict

import pytest

from web import message
from web import records
from web import warc
from web.warc import document_kind, read_warc
from warc_files import (  # noqa: F401
    ARC_PAGES, NAMES, PACKS, PAGES, Pipe, arc, arc_start, chunked, damage, http, read, record,
    urls, zipped)


# ------------------------------- the plain definition of the format beside the reader of real files

class Few(io.BytesIO):
    """A file that comes a few bytes at a time, as over a network."""

    def read(self, n=-1):
        return super().read(min(n, 7))


@PACKS
@pytest.mark.parametrize("file", [io.BytesIO, Few])
def test_a_sound_file_is_read_as_the_definition_says(pack, file):
    """Whatever the sizes of the pieces in which the file comes."""
    rng = random.Random(1)
    blocks = [rng.randbytes(rng.choice([0, 1, 7, 300, 9000, 40_000])) for _ in range(30)]
    made = [record(block, type=rng.choice(warc.TYPES), id=str(i)) for i, block in enumerate(blocks)]
    raw = pack(made + PAGES)
    plain = list(warc.read_records(io.BytesIO(b"".join(made + PAGES))))
    counts = Counter()
    found = list(records.read_records(file(raw), counts))
    assert [(headers, bytes(block)) for headers, block, *_ in found] == plain
    assert [block for _, block in plain[:30]] == blocks
    assert not +counts and {missing for *_, missing in found} == {None}


def test_the_definition_refuses_what_is_no_record():
    with pytest.raises(ValueError, match="begins with b'<html>.*', not with b'WARC/'"):
        list(warc.read_records(io.BytesIO(b"<html>\n")))


# ---------------------------------------------------------------------------------------------- ARC

@PACKS
@pytest.mark.parametrize("start", [
    arc_start(), arc_start() + b"\n",
    arc_start(version="1 1 InternetArchive",
              more=b'<?xml version="1.0"?>\n<arcmetadata>\n\n</arcmetadata>\n')])
def test_arc(pack, start):
    counts = Counter()
    first, *pages = read(pack([start, *ARC_PAGES]), counts)
    assert (first.type, first.url) == ("warcinfo", "filedesc://IA-001102.arc")
    assert first.date == "1996-09-23T14:21:03Z"
    assert first.body.startswith(b"1 ") and document_kind(first) == (None, "warcinfo")
    for i, r in enumerate(pages):
        assert (r.type, r.url, r.date) == ("response", NAMES[i], "2008-01-02T03:04:05Z")
        assert (r.status, r.body, r.charset) == (200, b"<p>%d" % i, "koi8-r")
        assert r.headers["warc-ip-address"] == "1.2.3.4" and document_kind(r) == ("html", None)
        assert re.fullmatch(r"<urn:uuid:[0-9a-f-]{36}>", r.id) and r.truncated is None
    assert len({r.id for r in pages}) == len(pages) == 3 and not damage(counts)
    again = read(b"".join(ARC_PAGES))
    assert [r.id for r in again] == [r.id for r in pages]       # made from each record's own line


def test_arc_of_version_2_has_five_fields_more():
    names = ("URL IP-address Archive-date Content-type Result-code Checksum Location Offset "
             "Filename Archive-length")
    url = "http://www.dryswamp.edu:80/index.html"       # this and the line are the specification's
    line = ("127.10.100.2 19961104142103 text/html "
            "200 fac069150613fe55599cc7fa88aa089d - 209 IA-001102.arc")
    shorter = arc(b"x", "http://b.com/", "1.2.3.4 20080102030405 text/html; a=b c")
    start = arc_start(names, "2 0 Alexa Internet")
    _, r, last = read(start + arc(http(b"<p>x"), url, line) + shorter)
    assert (r.url, r.date) == (url, "1996-11-04T14:21:03Z")
    assert (r.content_type, r.body) == ("text/html", b"<p>x")
    assert [r.headers[name] for name in records.ARC_V2] == line.split()[3:]
    assert last.content_type == "text/html; a=b c" and "checksum" not in last.headers


@pytest.mark.parametrize("line, url, kind, date", [
    ("http://a.com/a b?c=d e 1.2.3.4 20080102030405 text/html",
     "http://a.com/a%20b?c=d%20e", "text/html", "2008-01-02T03:04:05Z"),
    ("http://a.com/ 2001:db8::1 20080102030405 no-type",
     "http://a.com/", "no-type", "2008-01-02T03:04:05Z"),
    ("http://a.com/ - 20080102030405123 text/html",
     "http://a.com/", "text/html", "2008-01-02T03:04:05Z"),
    ("http://a.com/ 1.2.3.4 20080102030405 ", "http://a.com/", "", "2008-01-02T03:04:05Z"),
    ("http://a.com/ 1.2.3.4 200801020304 text/html", "http://a.com/", "text/html", "200801020304"),
    ("http://a.com/1.2.3.4 20080102 1.2.3.4 20080102030405 text/html",
     "http://a.com/1.2.3.4%2020080102", "text/html", "2008-01-02T03:04:05Z"),
    ("http://a.com/caf\u00e9?" + "x" * 8000 + " 1.2.3.4 20080102030405 text/html",
     "http://a.com/caf\u00e9?" + "x" * 8000, "text/html", "2008-01-02T03:04:05Z")])
def test_arc_lines(line, url, kind, date):
    raw = arc_start() + f"{line} 8\n".encode() + b"<p>whole\n" + ARC_PAGES[1]
    _, r, after = read(raw)
    assert (r.url, r.content_type, r.date) == (url, kind, date)
    assert r.body == b"<p>whole" and after.url == NAMES[1]
    assert document_kind(r) == ("html", None)           # a page of HTTP/0.9, without headers


@pytest.mark.parametrize(
    "wrong", [-9, -3, -1, 1, 2, 3, 7, 20, 60, 10 ** 4, 10 ** 15, "-5", "-", "12x"])
@PACKS
def test_wrong_length_in_an_arc_costs_nothing(pack, wrong):
    block = http(b"<p>the second page", "Content-Type: text/html")
    length = len(block) + wrong if isinstance(wrong, int) else wrong
    rs = [arc_start(), ARC_PAGES[0], arc(block, NAMES[1], length=length), ARC_PAGES[2]]
    counts = Counter()
    out = read(pack(rs), counts)[1:]
    assert [r.url for r in out] == NAMES and out[1].body.rstrip(b"\n") == b"<p>the second page"
    assert counts["wrong_length"] == (wrong != 1)       # only the line end is between records


def test_arc_that_is_cut_off_or_begins_in_the_middle():
    raw, counts = arc_start() + b"".join(ARC_PAGES), Counter()
    assert urls(raw[:-5], counts)[1:] == NAMES[:2] and counts["cut_off"] == 1
    for r in read(raw)[1:]:                             # as from an index of offsets
        assert urls(raw[r.offset:])[0] == r.url
    assert urls(b"lost\n" + b"".join(ARC_PAGES), counts := Counter()) == NAMES
    assert counts["resync"] == 1
    broken = raw.replace(b"http://a.com/1 1.2.3.4", b"http://a.com/1_1.2.3.4")
    assert urls(broken, counts := Counter())[1:] == [NAMES[0], NAMES[2]]
    assert counts["resync"] == 1


@PACKS
def test_warc_and_arc_in_one_file(pack):
    counts = Counter()
    raw = pack([*PAGES, arc_start(), *ARC_PAGES, *PAGES])
    assert urls(raw, counts) == NAMES + ["filedesc://IA-001102.arc"] + NAMES * 2
    assert not damage(counts)


def test_a_list_of_urls_is_no_arc():
    line = b"http://a.com/ 1.2.3.4 20080102030405 text/html "
    for text in ((line + b"100\n") * 20, b"see filedesc://x\n" + line + b"5\n<p>x\n"):
        with pytest.raises(ValueError, match="not a WARC file"):
            read(text)


# ------------------------------------------------ damage costs the record that it hits and no other

PLAIN_OR_MEMBERS = pytest.mark.parametrize(
    "pack", [b"".join, lambda rs: b"".join(map(zipped, rs))], ids=["plain", "members"])
WARC_OR_ARC = pytest.mark.parametrize(
    "records", [PAGES, [arc_start(), *ARC_PAGES]], ids=["WARC", "ARC"])


@pytest.mark.parametrize("between", [
    b"\r\nX\n", b"X\n\r\n", b"\r\n\r\0", b"\0\0\0\0", b"\r\n", b"\n", b"", b"\r\n\r\n\r\n\r\n\n"])
@PLAIN_OR_MEMBERS
def test_line_ends_between_records_that_are_damaged_or_missing(between, pack):
    out = read(pack([PAGES[0], PAGES[1][:-4] + between, PAGES[2]]))
    assert [r.url for r in out] == NAMES and out[1].body.startswith(b"<p>1")
    assert (out[0].body, out[2].body) == (b"<p>0", b"<p>2")


@PACKS
@WARC_OR_ARC
@pytest.mark.parametrize("start", [b"lost", b"\x1f", b"\0" * 5000, b"a\r\n\r\nb: c\r\n"])
def test_something_else_in_front(pack, records, start):
    counts = Counter()
    out = [asdict(r) | {"offset": 0} for r in read(start + pack(records), counts)]
    sound = [asdict(r) | {"offset": 0} for r in read(pack(records))]
    assert out[-2:] == sound[-2:] and len(out) >= len(sound) - 1 and damage(counts)


@PLAIN_OR_MEMBERS
@WARC_OR_ARC
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_damaged_first_byte_costs_one_record(pack, records, at):
    raw = bytearray(pack(records))
    raw[at] ^= 4
    assert urls(bytes(raw))[-len(records) + 1:] == urls(pack(records))[1:]


def test_one_gzip_member_for_all_is_read_up_to_the_damage():
    rng = random.Random(1)
    bodies = [" ".join(rng.choices("abcdefgh", k=3000)).encode() for _ in range(200)]
    records = [record(http(body), id=i, url=f"http://a.com/{i}") for i, body in enumerate(bodies)]
    raw, whole = bytearray(zipped(b"".join(records))), read(b"".join(records))
    for share in (0.02, 0.3, 0.77):
        at = int(share * len(raw))
        counts = Counter()
        out = read(bytes(raw[:at] + b"\xff" * 20 + raw[at + 20:]), counts)
        n = int(share * 200) - 1
        assert [r.body for r in out[:n]] == [r.body for r in whole[:n]] and len(out) <= n + 4
        assert counts["gzip_damaged"] == 1


def test_a_member_that_never_ends_does_not_hide_the_next():
    block = b"\0\xff\xff\0\0"           # a block of 65535 bytes: what follows is data to it
    stored = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + block + PAGES[1]
    counts = Counter()
    out = urls(zipped(PAGES[0]) + stored + zipped(PAGES[2]), counts)
    assert out[0] == NAMES[0] and out[-1] == NAMES[2] and counts["gzip_damaged"]


def test_a_length_that_ends_at_a_blank_line_of_a_later_record():
    last = record(http(b"<p>x\r\n\r\nand more"), url="http://a.com/3")
    block = http(b"<p>0", "Content-Type: text/html")
    later = PAGES[1] + PAGES[2] + last[:last.index(b"\r\n\r\nand more")]
    length = len(block + b"\r\n\r\n" + later)
    counts = Counter()
    raw = record(block, url=NAMES[0], length=length) + PAGES[1] + PAGES[2] + last
    assert urls(raw, counts) == [*NAMES, "http://a.com/3"] and counts["wrong_length"] == 1


@PACKS
@pytest.mark.parametrize("most", [1, 2, 13, 1000, 1 << 20])
def test_a_file_that_can_only_read(pack, most):
    for records in (PAGES, [arc_start(), *ARC_PAGES]):
        raw = pack(records)
        assert list(read_warc(Pipe(raw, most))) == read(raw) and len(read(raw)) == len(records)


def test_records_come_before_the_end_of_the_stream():
    class Endless:
        def __init__(self):
            self.n = 0

        def read(self, n):
            self.n += 1
            return b"".join(PAGES) * 3000
    file = Endless()
    reader = read_warc(file)
    assert [next(reader).url for _ in range(6)] == NAMES * 2 and file.n < 3


def gzip_of(*pieces):
    """A gzip of all pieces, made piece by piece."""
    member = zlib.compressobj(9, wbits=31)
    return b"".join(map(member.compress, pieces)) + member.flush()


HEAD = zipped(PAGES[0])
ZEROS = gzip_of(bytes(1 << 26))                             # 64 MB of them, in 64 kB
BOMBS = {
    "a body": zipped(record(http(ZEROS, "Content-Encoding: gzip"))) * 3,
    "a body in a body": zipped(record(http(zipped(ZEROS), "Content-Encoding: gzip, gzip"))),
    "the file": ZEROS,
    "empty lines": gzip_of(b"\r\n" * (1 << 25)),
    "a record": gzip_of(record(b"", length=1 << 26)[:-4], bytes(1 << 26) + b"\r\n\r\n"),
    "its declared length": record(b"", length=10 ** 17),
    "members": zipped(b"") * 50_000,
    "members of a byte": zipped(b"x") * 30_000,
    "members of a body": zipped(
        record(http(zipped(b"") * 500_000, "Content-Encoding: gzip"))),
    "chunks": zipped(record(http(chunked(b"ab") * 150_000, "Transfer-Encoding: chunked"))),
    "headers": zipped(record(http(b"", *["a: b"] * 200_000))),
    "record heads": zipped(b"WARC/1.0\r\n" * 1_000_000),
    "half heads": zipped(b"\r\n\r\nWARC/1.0 x" * 500_000),
    "starts of members in a member": b"\x1f\x8b\x08\0\0\0\0\0\0\xff\0\xff\x7f\0\x80" * 30_000}
NEXT_IS_LOST = "its declared length", "record heads", "starts of members in a member"


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_cost_bounded_time_memory_and_output(bomb, monkeypatch):
    monkeypatch.setattr(message, "MAX_BLOCK", 4 << 20)
    began, size, n = time.process_time(), 0, 0
    raw = HEAD + BOMBS[bomb] + (HEAD if bomb != "its declared length" else b"")
    tracemalloc.start()
    try:
        for r in read_warc(Pipe(raw)):
            size, n = size + len(r.body), n + 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert r.url == NAMES[0] and r.body == b"<p>0" or bomb in NEXT_IS_LOST
    assert size <= n * message.MAX_BLOCK and n <= 6 and peak < 40 << 20
    assert time.process_time() - began < 10


def test_memory_does_not_grow_with_the_file():
    """Twenty times the records, sound and damaged: the same memory."""
    rng, peaks = random.Random(2), []
    body = bytes(rng.choices(b"abcdefgh \n", k=20_000))
    sound = b"".join(zipped(record(http(body), id=i, WARC_Type="response")) for i in range(20))
    broken = zipped(record(http(body), length=5)) + zipped(PAGES[1])[:-20] + b"garbage" * 99
    broken += zipped(b"")
    for n in (5, 100):
        file = Pipe((sound + broken) * n)
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_warc(file)) > 20 * n
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + (1 << 20)


FIELDS = b" 1.2.3.4 20040101000000"


@pytest.mark.parametrize("line", [
    b"http://a:" * 1_000_000,
    (b"http://a " * 1700 + b"\n") * 200,
    (b"http://a" + FIELDS * 600 + b"\n") * 200,
    b"a:b\n" * 500_000,
    (b"http://a" + FIELDS * 600) * 50])
def test_lines_of_an_arc_are_matched_in_linear_time(line):
    began = time.process_time()
    assert urls(arc_start() + line + b"\n" + ARC_PAGES[0])[-1] == NAMES[0]
    assert time.process_time() - began < 3
