"""Web archives: the files in which crawlers keep what they fetched, record by record.

A WARC is a concatenation of records, each with its own headers and a block. The block of a
"response" is an HTTP message as it came over the wire; what a reader wants is its body, de-chunked
and decompressed. `read_records` is the format in a few lines, for a sound file. `read_warc` reads
the files of real crawls, ARC among them, which may be damaged.

Left out: digests are not verified; the segments of a record are not put together.

    python -m web.warc FILE.warc.gz         one line a record, and what was damaged
    curl URL | python -m web.warc -

Source: ISO 28500:2017 (WARC 1.1).
"""
import argparse
import base64
import hashlib
import re
import sys
import zlib
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import quote

from run import command
from web import charset, records
from web.message import HTTP_START, MAX_HEAD, decode_body, parse_http

TYPES = ("warcinfo", "request", "response", "resource", "metadata", "revisit", "conversion",
         "continuation")


# --------------------------------------------------------------------------------------- the format

def read_records(file):
    """Yield (headers, block) of each record of a sound WARC: the definition of the format.

    file: a binary file, without gzip (gzip.open undoes it). A record is a version, lines of
    headers, an empty line, as many bytes as Content-Length says, and two line ends.
    """
    while version := file.readline():
        if not version.startswith(b"WARC/"):
            raise ValueError(f"a record begins with {version[:12]!r}, not with b'WARC/'")
        headers = {}
        while line := file.readline().strip():
            name, _, value = line.decode("utf-8").partition(":")
            headers[name.strip().lower()] = value.strip()
        yield headers, file.read(int(headers.get("content-length", 0)))
        file.read(len("\r\n\r\n"))

# ------ writing: each record is a gzip member of its own, so that a reader can begin at any of them

def gzip_member(data, level=6):
    """One gzip member without a time. gzip.compress writes another header in some Pythons."""
    packer = zlib.compressobj(level, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def header_lines(headers):
    """{name: value} as lines of headers; a value None is left out."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return "".join(lines).encode("utf-8")


def record_bytes(kind, record_id, headers, content_type, block):
    """A WARC/1.0 record as a gzip member. headers: those that not all kinds have."""
    first = {"WARC-Type": kind, "WARC-Record-ID": record_id}
    last = {"Content-Type": content_type, "Content-Length": len(block)}
    head = header_lines({**first, **headers, **last})
    return gzip_member(b"WARC/1.0\r\n" + head + b"\r\n" + block + b"\r\n\r\n")


def digest(data):
    """The value of WARC-Block-Digest and WARC-Payload-Digest."""
    return "sha1:" + base64.b32encode(hashlib.sha1(data).digest()).decode()


# ------------------------------------------------------------------------------------------ reading

DATE14 = re.compile("([0-9]{4})" + "([0-9]{2})" * 5 + "[0-9]{0,3}")
CONTROL = re.compile(r"[\0-\x20\x7f\x85\u2028\u2029]")


@dataclass
class Record:
    """One record. Header names are lower case; for repeated headers see message.Headers.

    body: the HTTP payload of a response, de-chunked and decompressed; of other types the block.
    truncated: why the body is incomplete, or None. The crawler says "length", "time" and so on.
    Reading adds "length" (more than MAX_BLOCK bytes), "unspecified" (the file or the record ends
    too soon), "segment", and the reasons of decode_body. undecodable: an encoding that is unknown
    here, or None. offset: where the record, or its gzip member, begins.
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

    @property
    def content_type(self):
        """The type of the body as HTTP declares it, or else the record: text/html; charset=..."""
        declared = self.http_headers.get("content-type") or self.headers.get("content-type", "")
        return "" if declared.lower().startswith("application/http") else declared


def parse_record(headers, block, offset):
    """(Record, what was found missing in its body or None: see decode_body)."""
    record = Record(
        type=headers.get("warc-type", "").lower(),
        id=headers.get("warc-record-id", ""),
        date=headers.get("warc-date", ""),
        truncated=headers.get("warc-truncated"),
        headers=headers,
        offset=offset)
    if "warc-segment-number" in headers:
        record.truncated = record.truncated or "segment"
    if digits := DATE14.fullmatch(record.date):
        record.date = "{}-{}-{}T{}:{}:{}Z".format(*digits.groups())
    url, cut = headers.get("warc-target-uri", ""), None
    if url.startswith("<") and url.endswith(">"):
        url = url[1:-1].strip()
    record.url = CONTROL.sub(lambda char: quote(char[0]), url)
    if record.type == "response" and HTTP_START.match(block):
        record.status, record.http_headers, body = parse_http(block)
        record.body, record.undecodable, cut = decode_body(body, record.http_headers)
        if not body and len(block) > MAX_HEAD:
            cut = "http_head_too_long"
        record.truncated = record.truncated or cut
    else:
        record.body = bytes(block)
    record.charset = charset.label_in(record.content_type)
    return record, cut


def read_warc(path_or_file, counts=None):
    """Yield the Records of a WARC or ARC, plain or gzip (by record or whole), in bounded memory.

    Damage costs only the record that it hits. counts: a Counter for records by type ("other_type"
    for those not in TYPES), "truncated", "undecodable", what parse_record found missing, and the
    damage that records.read_records counts. ValueError if there is no record at the start or soon
    after.
    """
    if not hasattr(path_or_file, "read"):
        with open(path_or_file, "rb") as file:
            yield from read_warc(file, counts)
        return
    counts = Counter() if counts is None else counts
    for headers, block, offset, missing in records.read_records(path_or_file, counts):
        record, found = parse_record(headers, block, offset)
        record.truncated = record.truncated or missing
        counts[record.type if record.type in TYPES else "other_type"] += 1
        counts["truncated"] += record.truncated is not None
        counts["undecodable"] += record.undecodable is not None
        if found:
            counts[found] += 1
        yield record


# ---------------------------------------------------------------------------------------- documents

FILE_ENDS = (".warc", ".warc.gz", ".warc.wet", ".warc.wet.gz", ".arc", ".arc.gz")
DOCUMENT_TYPES = ("response", "resource", "conversion")
NOT_HTTP = ("dns:", "whois:", "ntp:")
HTML_TYPES = ("text/html", "application/xhtml+xml")
UNSURE_TYPES = ("", "text/plain", "application/octet-stream", "unknown/unknown", "unknown",
                "no-type")
HTML_START = re.compile(rb"<(?:!doctype\s+html|html|head|body|title|meta|script|style|div|p|table"
                        rb"|h1|a|br|!--)\b", re.I)
OTHER_START = re.compile(                                   # the starts of other kinds of files
    rb"%PDF|%!PS|\x89PNG|GIF8|\xff\xd8\xff|PK\x03\x04|\x1f\x8b|RIFF|Rar!|\x7fELF|\0\0\x01\0"
    rb"|OggS|ID3|BZh|7z\xbc\xaf|\xfd7zXZ|\x28\xb5\x2f\xfd|wOF[F2]|\xd0\xcf\x11\xe0|\{\\rtf"
    rb"|II\*\0|MM\0\*|\0asm|....ftyp|<rss\b|<feed\b|\{[\"}\s]|\[\{\"", re.I | re.S)


def media_type(declared):
    """The type in a Content-Type, without its parameters."""
    return declared.partition(";")[0].strip().lower()


def is_html(record):
    """Whether a body is a web page.

    The crawler's verdict decides if it left one, as in FineWeb. Otherwise the header decides,
    unless the first bytes show that it is wrong.
    """
    identified = media_type(record.headers.get("warc-identified-payload-type", ""))
    if identified:
        return identified in HTML_TYPES
    declared = media_type(record.content_type)
    start = record.body[:2048].lstrip(b"\xef\xbb\xbf \t\r\n")
    xml = start.startswith(b"<?xml") and not re.search(rb"<html\b", start, re.I)
    if OTHER_START.match(start) or xml:
        return False
    return declared in HTML_TYPES or declared in UNSURE_TYPES and bool(HTML_START.search(start))


def document_kind(record):
    """("html", None), ("text", None), or (None, why this record is no document).

    Web pages are responses with any status, and resources, which hold a page without HTTP (warcio
    writes them for files). Texts are the conversions of a WET file, which somebody else extracted.
    FineWeb's reader (datatrove) takes responses and conversions but no resources; Common Crawl has
    none. A record of another type is no document, and its type is the reason.
    """
    if record.type not in DOCUMENT_TYPES:
        return None, record.type or "no_type"
    if record.url.lower().startswith(NOT_HTTP):
        return None, "not_http"
    if record.undecodable:
        return None, "undecodable"
    if record.type == "conversion":
        kind = media_type(record.headers.get("warc-identified-payload-type", "")
                          or record.content_type)
        return ("text", None) if kind in ("", "text/plain") else (None, "not_text")
    return ("html", None) if is_html(record) else (None, "not_html")


# ------------------------------------------------------------------------------------- command line

def main(argv=None):
    """Print one line a record, and on standard error what was damaged."""
    parser = argparse.ArgumentParser(
        prog="python -m web.warc",
        description="List the records of a WARC, one a line: offset, type, kind of document, "
                    "HTTP status, bytes, date, address.")
    parser.add_argument("file", metavar="FILE",
                        help="a WARC or ARC, plain or gzip; - for standard input")
    args, counts = parser.parse_args(argv), Counter()
    for r in read_warc(sys.stdin.buffer if args.file == "-" else args.file, counts):
        kind, _ = document_kind(r)
        print(f"{r.offset:12} {r.type:10} {kind or '':4} {r.status or '':4} {len(r.body):9} "
              f"{r.date:20} {r.url}")
    print(", ".join(f"{name} {n}" for name, n in counts.items() if n), file=sys.stderr)


if __name__ == "__main__":
    command.run(main)
