"""Web archives: the WARC files in which crawlers keep what they fetched, read record by record.

A WARC is a concatenation of records, each with its own headers and a block. The block of a "response"
is an HTTP message as it came over the wire; what a reader wants is its body, de-chunked and decompressed.
Files from real crawls are cut short, carry wrong lengths and say gzip where there is none: damage costs
the record that it hits and no other, and is counted.

Left out: ARC (the format before 2009), Brotli and zstd, which the standard library cannot undo; bodies in
them are counted as undecodable.

    python warc.py FILE.warc.gz            one line a record, and what was damaged

Sources: ISO 28500:2017 (WARC 1.1); RFC 9112 (HTTP, chunked bodies); warcio, for what real files contain.
"""
import argparse
import os
import re
import sys
import zlib
from collections import Counter, deque
from dataclasses import dataclass, field

# --------------------------------------------------------------------------------------------------
# WARC: records one after the other, each of header lines, an empty line, a block of Content-Length
# bytes, and two CRLF. In a .gz every record is a gzip member of its own, or should be.

MAX_BLOCK = 32 << 20              # bytes kept of one record; Common Crawl stores 5 MiB of a page
MAX_HEAD = 1 << 20                # of the headers of a record, and of HTTP
FIRST_BITE, REREAD = 1 << 12, 1 << 15       # of a gzip member: read at first; and again if it fails
VERSION = re.compile(rb"WARC/[01]\.\d+\r?\n")
RECORD_START = re.compile(rb"\r?\n\r?\n(?=" + VERSION.pattern + rb")")
AFTER_BLOCK = re.compile(rb"\r?\n\r?\n|WARC/[01]\.\d")
SLOPPY_END = re.compile(rb"[\r\n]*(?:WARC/[01]\.\d|\Z)")          # too few line ends
HEAD_END = re.compile(rb"\r?\n\r?\n")
CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]{0,256})?\r\n")
CHARSET = re.compile(r"""charset\s*=\s*["']?([^\s;"',]+)""", re.I)


@dataclass
class Record:
    """One WARC record. Header names are lower case; of repeated headers the first counts.

    body: of a response the HTTP payload, de-chunked and decompressed, of other types the block.
    truncated: why the body is incomplete, as the crawler says ("length", "time", ...) or as was
    found here (see decode_body), or None. undecodable: an encoding that nobody here can undo, or
    None. offset: where the record, or its gzip member, begins.
    """
    url: str = ""
    date: str = ""
    id: str = ""
    type: str = ""
    headers: dict = field(default_factory=dict)
    http_headers: dict = field(default_factory=dict)
    status: int = 0
    body: bytes = b""
    charset: str = None
    truncated: str = None
    undecodable: str = None
    offset: int = 0


class Stream:
    """The bytes of a WARC, plain or gzip, read forward: buf[at:] is unread and grows on demand."""

    def __init__(self, file, counts):
        self.file, self.counts = file, counts
        self.buf, self.at, self.base = bytearray(), 0, 0    # base: position of buf[0] in the stream
        self.members, self.cut = deque(), False             # (position in stream, in file) of each
        first = file.read(1 << 16)
        if len(first) == 1:
            first += file.read(1 << 16)
        self.gzip = first[:2] == b"\x1f\x8b"
        self.pieces = self.gunzip(first) if self.gzip else self.plain(first)

    def plain(self, piece):
        while piece:
            yield piece
            piece = self.file.read(1 << 20)

    def gunzip(self, raw):
        """Gzip members one after the other, whether a record each or the whole file in one.

        What of a member that fails was read last is looked through again for the start of another.
        """
        raw, at, base = bytearray(raw), 0, 0                # raw[at:] is unread; raw[0] is at base
        member, garbage, start, step = None, False, 0, 0    # start: of the member, in raw
        made = begun = 0                                    # bytes until now, and until the member
        while True:
            need = 1 if member else FIRST_BITE
            while len(raw) - at < need and (more := self.file.read(1 << 18)):
                old = max(start, at - REREAD, 0) if member else at
                del raw[:old]
                base, at, start = base + old, at - old, start - old
                raw += more
            if at == len(raw):
                self.cut = self.cut or member is not None
                if not member or made > begun:
                    return
                member, garbage, at = None, True, start + 1             # it had but a header
            elif not member:
                found = raw.find(b"\x1f\x8b\x08", at)
                self.counts["gzip_garbage"] += found != at and not garbage
                garbage = found < 0
                if garbage:                                 # the last two may begin a member
                    at = len(raw) - 2 if len(raw) - at > 2 else len(raw)
                    continue
                member, step, begun = zlib.decompressobj(31), FIRST_BITE, made
                start = at = found
                self.members.append((made, base + at))
            else:
                piece = raw[at:at + step]
                try:
                    out = member.decompress(piece, 1 << 20)
                    at += len(piece) - len(member.unused_data if member.eof
                                           else member.unconsumed_tail)
                    if not out and made == begun and not member.eof and at - start >= FIRST_BITE:
                        raise zlib.error("a header without end")
                    step = min(2 * step, 1 << 18)
                    if member.eof:
                        member, self.cut = None, False
                except zlib.error:                          # end the record, go on after its start
                    self.counts["gzip_damaged"] += 1
                    member, out, at = None, b"\r\n\r\n", max(start + 1, 0)
                made += len(out)
                if out:
                    yield out

    def fill(self, n):
        """Have n unread bytes in buf if the stream still holds as many; False if not."""
        while len(self.buf) - self.at < n:
            piece = next(self.pieces, None)
            if piece is None:
                return False
            if self.at > 1 << 20:
                del self.buf[:self.at]
                self.base, self.at = self.base + self.at, 0
            self.buf += piece
        return True

    def take(self, n):
        block = bytes(self.buf[self.at:self.at + n])
        self.at += len(block)
        return block

    def find(self, pattern, limit):
        """Distance from here to the first match that begins within limit bytes, or -1."""
        want, searched = 1 << 12, 0
        while True:
            more = self.fill(min(want, limit + 32))
            found = pattern.search(self.buf, self.at + max(0, searched - 32))
            if found and found.start() - self.at <= limit:
                return found.start() - self.at
            if not more or want >= limit + 32:
                return -1
            searched, want = len(self.buf) - self.at, want * 2

    def to_next_record(self):
        """Pass over what is no record; False if there is no other."""
        while (n := self.find(RECORD_START, MAX_BLOCK)) < 0 and self.fill(1):
            self.take(MAX_BLOCK)
        self.take(max(n, 0))
        return n >= 0

    def skip_blank(self):
        while self.fill(1) and self.buf[self.at] in b"\r\n":
            self.at += 1

    def offset(self):
        if not self.gzip:
            return self.base + self.at
        while len(self.members) > 1 and self.members[1][0] <= self.base + self.at:
            self.members.popleft()
        return self.members[0][1]


def parse_headers(lines):
    """Header lines -> {lower-case name: first value}; a line that begins with a blank goes on."""
    headers, last = {}, None                                # name -> pieces of its value
    for line in lines:
        try:
            line = line.decode("utf-8")
        except UnicodeDecodeError:
            line = line.decode("latin-1")
        if line[:1] in (" ", "\t") and last:
            headers[last].append(line.strip())
            continue
        name, colon, value = line.partition(":")
        last = name.strip().lower() if colon else None
        if last in headers:
            last = None
        elif last:
            headers[last] = [value.strip()]
    return {name: " ".join(pieces) for name, pieces in headers.items()}


def read_block(stream, declared):
    """(the record's block or None if the file ends inside it, whether the declared length held).

    The declared length is believed if a record ends there. If not, the block ends where the next
    record begins, the only other thing in a WARC that can be recognised.
    """
    if declared is not None and declared <= MAX_BLOCK and stream.fill(declared):
        stream.fill(declared + 16)
        end = stream.at + declared
        after, in_line_end = stream.buf[end:end + 16], declared and stream.buf[end - 1] in b"\r\n"
        if AFTER_BLOCK.match(after) or SLOPPY_END.match(after) and not in_line_end:
            return stream.take(declared), True
    stream.fill(16)
    if VERSION.match(stream.buf, stream.at):                # headers that were cut short
        return b"", False
    n = stream.find(RECORD_START, MAX_BLOCK)
    if n >= 0:
        return stream.take(n), False
    block = stream.take(MAX_BLOCK)
    if stream.fill(1):                                      # too long to keep: pass over the rest,
        left = (declared or 0) - len(block)                 # but over no other record
        while left > 0 and stream.fill(1):
            n = stream.find(RECORD_START, min(left, 1 << 20))
            if n >= 0:
                stream.take(n)
                return block, False
            left -= len(stream.take(min(left, 1 << 20)))
        return (block, False) if left <= 0 else (None, False)
    if block.endswith(b"\r\n\r\n"):                        # a good end: the length is wrong
        return block[:-4], False
    right = len(block) == declared
    return (block if right or declared is None and not stream.cut else None), right


def dechunk(body):
    """Undo Transfer-Encoding: chunked: (body, whether it ends early). What is not chunked stays."""
    at, parts = 0, []
    while at < len(body):
        size = CHUNK_SIZE.match(body, at)
        if not size:
            cut = parts and len(body) - at < 10 and b"\n" not in body[at:]
            return (b"".join(parts), True) if cut else (body, False)
        n, at = int(size[1], 16), size.end()
        if n == 0:
            return b"".join(parts), False
        parts.append(body[at:at + n])
        at += n
        if at < len(body) and body[at:at + 2] not in (b"\r\n", b"\r"):
            return body, False
        at += 2
    return b"".join(parts), at > 0


def inflate(body, wbits):
    """(what zlib makes of body, why that is not all or None); (None, None) if it makes nothing.

    All members of a gzip are read, but not what is behind them; MAX_BLOCK bytes are kept.
    """
    member, out, size, at = zlib.decompressobj(wbits), [], 0, 0
    while at < len(body):
        piece = body[at:at + 4096]
        try:
            out.append(member.decompress(piece, MAX_BLOCK - size + 1))
        except zlib.error:
            return (b"".join(out), "compressed_cut") if size else (None, None)
        size, at = size + len(out[-1]), at + len(piece) - len(member.unused_data)
        if size > MAX_BLOCK:
            return b"".join(out)[:MAX_BLOCK], "inflated_too_long"
        if member.eof:
            if wbits < 31 or body[at:at + 2] != b"\x1f\x8b":
                return b"".join(out), None
            member = zlib.decompressobj(wbits)
    return b"".join(out), "compressed_cut" if body else None


def decode_body(body, http_headers):
    """De-chunk, then decompress: (body, an encoding that could not be undone, why it is not all).

    The last two may be None; the last is "chunked_cut", "compressed_cut" (or damaged), or
    "inflated_too_long". Common Crawl has done both and renamed the headers to X-Crawler-*, which
    are not looked at. A body that is not what its header says passes unchanged: old crawls kept
    headers that lie.
    """
    cut = None
    if "chunked" in http_headers.get("transfer-encoding", "").lower():
        body, early = dechunk(body)
        cut = "chunked_cut" if early else None
    codings = http_headers.get("content-encoding", "").lower().replace(" ", "").split(",")
    for coding in reversed(codings):
        plain = why = None
        if coding in ("gzip", "x-gzip"):
            plain, why = inflate(body, 31)
        elif coding == "deflate":
            plain, why = inflate(body, 15)
            plain, why = inflate(body, -15) if plain is None else (plain, why)
        elif coding in ("br", "zstd", "compress"):
            if b"\0" in body[:2000] or body.lstrip()[:1] != b"<":
                return body, coding, cut
        body, cut = body if plain is None else plain, cut or why
    return body, None, cut


def parse_http(block):
    """An HTTP message -> (status, headers, body); a head without end has no body."""
    end = HEAD_END.search(block, 0, MAX_HEAD)
    head, body = (block[:end.start()], block[end.end():]) if end else (block[:MAX_HEAD], b"")
    first, *lines = head.splitlines() or [b""]
    status = (first.split(None, 2) + [b"", b""])[1]
    return int(status) if re.fullmatch(rb"\d{1,3}", status) else 0, parse_headers(lines), body


def parse_record(headers, block, offset):
    """(Record, what was found to be missing in its body: see decode_body; or None)."""
    record = Record(headers=headers, type=headers.get("warc-type", ""), body=block, offset=offset,
                    id=headers.get("warc-record-id", ""), date=headers.get("warc-date", ""),
                    truncated=headers.get("warc-truncated"))
    record.url, cut = "%20".join(headers.get("warc-target-uri", "").strip("<> ").split()), None
    if record.type == "response" and block.startswith(b"HTTP"):
        record.status, record.http_headers, body = parse_http(block)
        found = CHARSET.search(record.http_headers.get("content-type", ""))
        record.charset = found[1] if found else None
        record.body, record.undecodable, cut = decode_body(body, record.http_headers)
        if not body and len(block) > MAX_HEAD:
            cut = "http_head_too_long"
        record.truncated = record.truncated or cut
    return record, cut


def read_warc(path_or_file, counts=None):
    """Yield the Records of a WARC, plain or gzip (by record or whole), in bounded memory.

    counts, a Counter, is told what was met: records by type, "wrong_length", "resync", "cut_off",
    "truncated", "undecodable", "gzip_garbage", "gzip_damaged", and what parse_record found missing.
    Damage costs the record that it hits and no other. ValueError if the file is no WARC.
    """
    if not hasattr(path_or_file, "read"):
        with open(path_or_file, "rb") as file:
            yield from read_warc(file, counts)
        return
    counts = Counter() if counts is None else counts
    stream, seen = Stream(path_or_file, counts), False

    def check(found, what):
        if not found and not seen:
            name = getattr(path_or_file, "name", "stream")
            raise ValueError(f"{name}: not a WARC file: {what}")
        return found

    while True:
        stream.skip_blank()
        if not check(stream.fill(1), "it is cut off" if stream.cut else "it is empty"):
            counts["cut_off"] += stream.cut
            return
        stream.fill(12)
        start = bytes(stream.buf[stream.at:stream.at + 12])
        good = check(start[:5] == b"WARC/", f"it begins with {start!r}, not with b'WARC/'")
        n = stream.find(HEAD_END, MAX_HEAD) if good else -1
        check(n >= 0, "its first record has no end of headers")
        if good and n < 0 and not stream.fill(MAX_HEAD):
            counts["cut_off"] += 1
            return
        if n < 0:
            counts["resync"] += 1
            if not stream.to_next_record():
                return
            continue
        again = stream.buf.rfind(b"\nWARC/", stream.at, stream.at + n) + 1
        if again and VERSION.match(stream.buf, again):      # cut short, and another right behind
            counts["resync"] += 1
            stream.at = again
            continue
        seen, offset = True, stream.offset()
        headers = parse_headers(stream.take(n).splitlines()[1:])
        stream.take(HEAD_END.match(stream.buf, stream.at).end() - stream.at)
        length = headers.get("content-length")
        if length is not None:                              # one that is no number is a wrong one
            length = int(length) if re.fullmatch("[0-9]{1,18}", length) else 0
        block, right = read_block(stream, length)
        if block is None:
            counts["cut_off"] += 1
            return
        record, cut = parse_record(headers, block, offset)
        if not right and length is not None and length > len(block):
            record.truncated = record.truncated or "unspecified"
        counts[record.type or "no_type"] += 1
        counts["wrong_length"] += not right
        counts["truncated"] += record.truncated is not None
        counts["undecodable"] += record.undecodable is not None
        if cut:
            counts[cut] += 1
        yield record


HTML_TYPES = ("text/html", "application/xhtml+xml")
UNSURE_TYPES = ("", "text/plain", "application/octet-stream", "unknown/unknown")
HTML_START = re.compile(rb"<(?:!doctype\s+html|html|head|body|title|meta|script|style|div|p|table"
                        rb"|h1|a|br|!--)\b", re.I)
OTHER_START = re.compile(rb"%PDF|\x89PNG|GIF8|\xff\xd8\xff|PK\x03\x04|\x1f\x8b|RIFF|Rar!|\x7fELF"
                         rb"|\x00\x00\x01\x00|OggS|ID3|<rss\b|<feed\b|\{[\"}\s]", re.I)


def is_html(record):
    """Whether a response is a web page: the crawler's verdict if it left one, as in FineWeb; else
    what the HTTP header says, unless the first bytes show that it is wrong."""
    identified = record.headers.get("warc-identified-payload-type")
    if identified:
        return identified.lower() in HTML_TYPES
    declared = record.http_headers.get("content-type", "").partition(";")[0].strip().lower()
    start = record.body[:2048].lstrip(b"\xef\xbb\xbf \t\r\n")
    xml = start.startswith(b"<?xml") and not re.search(rb"<html\b", start, re.I)
    if OTHER_START.match(start) or xml:
        return False
    return declared in HTML_TYPES or declared in UNSURE_TYPES and bool(HTML_START.search(start))


def parse_args(argv=None):
    parser = argparse.ArgumentParser(prog="warc.py", description="list the records of a WARC")
    parser.add_argument("file", help="a WARC, plain or gzip")
    return parser.parse_args(argv)


def main(argv=None):
    args, counts = parse_args(argv), Counter()
    for r in read_warc(args.file, counts):
        print(f"{r.offset:12} {r.type:10} {r.status or '':4} {len(r.body):9} {r.date:20} {r.url}")
    print(", ".join(f"{name} {n}" for name, n in counts.items() if n), file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:                                 # the reader has gone, as of | head
        os._exit(141)
    except KeyboardInterrupt:
        print("warc.py: interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        sys.exit(f"warc.py: error: {error}")
