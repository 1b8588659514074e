"""HTTP messages as crawlers store them: headers, and the body as the server meant it.

A body may have come in chunks and compressed. Headers may be wrong: a body that is not what its
header says stays as it is.

Left out: Brotli and zstd, which the standard library cannot undo; bodies in them are undecodable.

Sources: RFC 9110 and 9112 (HTTP, chunked bodies); the Fetch Standard (repeated Content-Type).
"""
import functools
import re
import zlib

from web import charset

MAX_BLOCK = 6 << 20               # bytes kept of a record, and of an inflated body. Common Crawl
                                  # stores 5 MiB of a page, and its head
MAX_HEAD = 1 << 20                # bytes of the headers of a record, and of HTTP
MAX_CODINGS = 5                   # compressions of one body
MAX_MEMBERS = 10_000              # gzip members of one body
SMALL_STEP = 64                   # bytes; a damaged body is inflated in such steps

# --------------------------------------------------------------------- headers, of HTTP and of WARC

FOLD = re.compile(rb"(?<![\r\n])[\r\n]+[ \t]+")             # tried once for each run of line ends
HEAD_END = re.compile(rb"\r?\n\r?\n")
NOT_ASCII = re.compile(rb"[\x80-\xff]")
TYPE = re.compile(r"[^\s/]+/[^\s/]+")
ONE_VALUE = re.compile(                                     # headers that can have only one value
    "warc-(?!concurrent-to|protocol).*|age|authorization"
    "|content-(?:disposition|length|location|range)|date|etag|expires|from|host|last-modified"
    "|location|referer|retry-after|server|set-cookie|user-agent")


def decode_line(line):
    """A header line in UTF-8 or Latin-1 -> str. In an address, other bytes become escapes."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        if line[:9].lower() == b"location:":
            line = NOT_ASCII.sub(lambda byte: b"%%%02X" % byte[0][0], line)
        return line.decode("latin-1")


class Headers(dict):
    """{lower-case name: value}. `lines` has the values of a repeated header one by one.

    The values of a repeated header are joined with commas, as HTTP allows (RFC 9110, 5.3). Headers
    that can have only one value keep the first. Content-Type keeps the last that is a type, as in
    browsers.
    """
    lines = {}


def last_type(old, new):
    """The last of two Content-Types that is one. It inherits the charset if it has none."""
    kind = new.partition(";")[0].strip().lower()
    if not TYPE.fullmatch(kind) or kind == "*/*":
        return old
    label = charset.label_in(old)
    same = kind == old.partition(";")[0].strip().lower()
    if same and label and not charset.label_in(new):
        return f"{new}; charset={label}"
    return new


def parse_headers(head):
    """Header lines -> Headers. A line that begins with a blank continues the one before."""
    headers, repeated = Headers(), {}
    if b"\n " in head or b"\n\t" in head:
        head = FOLD.sub(b" ", head)
    lines = head.splitlines()
    try:
        lines = b"\n".join(lines).decode("utf-8").split("\n")       # at once, which is faster
    except UnicodeDecodeError:
        lines = map(decode_line, lines)
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        if colon and name in headers:
            repeated.setdefault(name, [headers[name]]).append(value)
        elif colon:
            headers[name] = value
    for name, values in repeated.items():
        headers.lines = repeated
        if name == "content-type":
            headers[name] = functools.reduce(last_type, values)
        elif not ONE_VALUE.fullmatch(name):
            headers[name] = ", ".join(values)
    return headers


# ------------------------------------------------------------------------------------------- bodies

HTTP_START = re.compile(rb"HTTP[/ ]|ICY ", re.I)
CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]{0,256})?\r\n")
PRINTABLE = re.compile(rb"[\t\n\r -~]{64}|[\t\n\r -~]*\Z")
GZIP_MARK = b"\x1f\x8b"
SEALED = ("br", "zstd", "compress", "x-compress", "dcb", "dcz")     # cannot be undone here
ZLIB, RAW_DEFLATE, GZIP = 15, -15, 31                       # values of zlib's argument wbits


def dechunk(body):
    """Undo Transfer-Encoding: chunked: (body, whether it ends early or breaks off).

    From the first place where no proper chunk begins, the rest stays as it is. Often that is the
    whole body.
    """
    at, out = 0, bytearray()
    while at < len(body):
        size = CHUNK_SIZE.match(body, at)
        if not size:
            if at and len(body) - at < 10 and b"\n" not in body[at:]:
                return bytes(out), True                     # the end is in the line of a size
            break
        n, start = int(size[1], 16), size.end()
        if n == 0 and (at or not body[start:].strip()):
            return bytes(out), False
        end = start + n
        if n == 0 or end < len(body) and body[end:end + 2] not in (b"\r\n", b"\r"):
            break
        out += body[start:end]
        at = end + 2
    return (bytes(out + body[at:]), True) if at else (body, False)


def inflate(body, wbits, step=4096):
    """(what zlib makes of a body, why that is incomplete or None); (None, None) if it fails.

    All members of a gzip are read, but not what follows them. MAX_BLOCK bytes are kept.
    """
    member, out, at, n_members = zlib.decompressobj(wbits), bytearray(), 0, 1
    while at < len(body):
        piece = body[at:at + step]
        try:
            out += member.decompress(piece, MAX_BLOCK - len(out) + 1)
        except zlib.error:
            if step > SMALL_STEP and wbits > 0:             # again, up to the damage
                return inflate(body, wbits, SMALL_STEP)
            return (bytes(out), "compressed_cut") if out else (None, None)
        at += len(piece) - len(member.unused_data)
        if len(out) > MAX_BLOCK:
            return bytes(out[:MAX_BLOCK]), "inflated_too_long"
        if member.eof:
            if wbits != GZIP or body[at:at + 2] != GZIP_MARK:
                return bytes(out), None
            member, n_members = zlib.decompressobj(wbits), n_members + 1
            if n_members > MAX_MEMBERS:
                return bytes(out), "inflated_too_long"
    return bytes(out), "compressed_cut" if body else None


def decode_body(body, http_headers):
    """De-chunk, then decompress: (body, an encoding that is unknown, why the body is incomplete).

    The last two may be None. The reasons are "chunked_cut", "compressed_cut" (or damaged) and
    "inflated_too_long". Common Crawl has decoded its bodies and renamed the headers to X-Crawler-*,
    which are not read. Its old crawls kept the headers, which are then wrong.
    """
    cut = None
    if "chunked" in http_headers.get("transfer-encoding", "").lower():
        body, early = dechunk(body)
        cut = "chunked_cut" if early else None
    named = ",".join(http_headers.get(f"{kind}-encoding", "") for kind in ("content", "transfer"))
    names = [name for name in re.split(r"[,\s]+", named.lower())       # as they were applied
             if name not in ("", "chunked", "identity")]
    if len(names) > MAX_CODINGS:
        return body, f"{len(names)} encodings", cut
    for name in reversed(names):
        plain = why = None
        if name in ("gzip", "x-gzip"):
            plain, why = inflate(body, GZIP)
            if plain is None and body.startswith(GZIP_MARK):
                return body, name, cut
        elif name == "deflate":
            plain, why = inflate(body, ZLIB)
            if plain is None and not PRINTABLE.match(body):         # raw deflate has no mark
                plain, why = inflate(body, RAW_DEFLATE)
        elif name in SEALED and body:
            start = body[:2000]
            if b"\0" in start or start.lstrip()[:1] != b"<":        # else it is a page after all
                return body, name, cut
        if plain is not None:
            body = plain
        cut = cut or why
    return body, None, cut


def parse_http(block):
    """An HTTP message -> (status, headers, body). A head without an end has no body."""
    end = HEAD_END.search(block, 0, MAX_HEAD)
    head, body = (block[:end.start()], block[end.end():]) if end else (block[:MAX_HEAD], b"")
    first, _, lines = bytes(head).partition(b"\n")
    status = re.match(rb"\S+\s+(\d{1,3})(?!\S)", first)
    return int(status[1]) if status else 0, parse_headers(lines), bytes(body)
