"""Web archives: the WARC and ARC files in which crawlers keep what they fetched, record by record.

A WARC is a concatenation of records, each with its own headers and a block. The block of a
"response" is an HTTP message as it came over the wire; what a reader wants is its body, de-chunked
and decompressed. ARC, the format before 2009, has a line of headers; they get the names of WARC's.
Files from real crawls are cut short, carry wrong lengths and say gzip where there is none: damage
costs the record that it hits and no other, and is counted.

Left out: Brotli and zstd, which the standard library cannot undo; bodies in them are counted as
undecodable. Digests are not verified; the segments of a record are not put together.

    python -m web.warc FILE.warc.gz        one line a record, and what was damaged
    curl URL | python -m web.warc -

Sources: ISO 28500:2017 (WARC 1.1); Burner and Kahle 1996 (ARC); RFC 9112 (HTTP, chunked bodies);
warcio, for what real files contain.
"""
import argparse
import base64
import functools
import hashlib
import re
import sys
import uuid
import zlib
from collections import Counter, deque, namedtuple
from dataclasses import dataclass, field

from web import charset
from run import command

MAX_BLOCK = 6 << 20               # bytes kept of a record, and of a body when it is inflated:
                                  # the 5 MiB that Common Crawl stores of a page, and its head
MAX_HEAD = 1 << 20                # of the headers of a record, and of HTTP
MAX_START = 1 << 28               # of something else in front of the first record
FIRST_BITE, REREAD = 1 << 13, 1 << 15       # of a gzip member: read at first; and again if it fails
MAX_PLACES = 1 << 16              # gzip members, or damages, whose place is remembered
MAX_CODINGS, MAX_MEMBERS = 5, 10_000        # of one body: compressions; gzip members
SMALL_STEP = 64                   # bytes by which a damaged body is inflated up to the damage

TYPES = ("warcinfo", "request", "response", "resource", "metadata", "revisit", "conversion",
         "continuation")


@dataclass
class Record:
    """One record. Header names are lower case; for repeated headers see Headers.

    body: of a response the HTTP payload, de-chunked and decompressed, of other types the block.
    truncated: why the body is incomplete, as the crawler says ("length", "time", ...) or as was
    found here ("length": over MAX_BLOCK; "unspecified": over the end; "segment"; see decode_body),
    or None. undecodable: an encoding that nobody here can undo, or None. offset: where the record,
    or its gzip member, begins.
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
        """What HTTP, or if it does not the record, says that the body is: text/html; charset=..."""
        declared = self.http_headers.get("content-type") or self.headers.get("content-type", "")
        return "" if declared.lower().startswith("application/http") else declared


# --------------------------------------------------------------------------------------------------
# Writing: each record is a gzip member of its own, so that a reader can begin at any of them.

def gzip_member(data, level=6):
    """One gzip member without a time. gzip.compress writes another header in some Pythons."""
    packer = zlib.compressobj(level, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def header_lines(headers):
    """{name: value} as lines of headers; a value None is left out."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return "".join(lines).encode("utf-8")


def record_bytes(headers, block):
    """A WARC/1.0 record as a gzip member. Content-Length is added to the headers."""
    head = header_lines({**headers, "Content-Length": len(block)})
    return gzip_member(b"WARC/1.0\r\n" + head + b"\r\n" + block + b"\r\n\r\n")


def digest(data):
    """The value of WARC-Block-Digest and WARC-Payload-Digest."""
    return "sha1:" + base64.b32encode(hashlib.sha1(data).digest()).decode()


# --------------------------------------------------------------------------------------------------
# The file as a stream of bytes. In a .gz every record is a gzip member of its own, or should be.

GZIP = b"\x1f\x8b\x08"
BLANK = re.compile(rb"[\r\n]*")


class Stream:
    """The bytes of a file, plain or gzip, read forward: buf[at:] is unread and grows on demand.

    Of the file only read(n) is used, so that it may be a pipe or a connection.
    """

    def __init__(self, file, counts):
        self.file, self.counts = file, counts
        self.buf, self.at, self.base = b"", 0, 0            # base: position of buf[0] in the stream
        self.members, self.cut = deque(), False             # (position in stream, in file) of each
        self.breaks = deque()                               # positions where a member was damaged
        first = b""
        while len(first) < FIRST_BITE and (more := file.read(1 << 16)):
            first += more
        self.gzip = first[:2] == GZIP[:2] or GZIP in first and not FIRST.search(b"\n\n" + first)
        self.pieces = self.gunzip(first) if self.gzip else self.plain(first)

    def plain(self, piece):
        while piece:
            yield piece
            piece = self.file.read(1 << 20)

    def gunzip(self, raw):
        """Gzip members one after the other, whether a record each or the whole file in one.

        What of a member that fails was read last is looked through again for the start of another,
        unless that has been done so often that somebody must have meant it.
        """
        raw, at, base = bytearray(raw), 0, 0                # raw[at:] is unread; raw[0] is at base
        member, start, step, garbage = None, 0, 0, False    # start: of the member, in raw
        made = begun = 0                                    # bytes until now, and until the member
        again, last = 0, b"\n"                              # bytes read once more; last byte made
        while True:
            while len(raw) - at < FIRST_BITE and (more := self.file.read(1 << 18)):
                old = max(start, at - REREAD, 0) if member else at
                del raw[:old]
                base, at, start = base + old, at - old, start - old
                raw += more
            if not member:
                found = raw.find(GZIP, at)
                self.counts["gzip_garbage"] += found != at < len(raw) and not garbage
                garbage = found < 0
                if garbage:
                    if len(raw) - at < FIRST_BITE:          # nothing else is left
                        return
                    at = len(raw) - 2                       # these two may begin a member
                    continue
                self.counts["gzip_damaged"] += self.cut     # it was not the end that was missing
                member, step, begun, self.cut = zlib.decompressobj(31), FIRST_BITE, made, False
                start = at = found
                if self.members and self.members[-1][0] == made:
                    self.members.pop()                      # of an empty member
                if len(self.members) < MAX_PLACES:          # beyond, an earlier place must do
                    self.members.append((made, base + at))
            piece, failed = raw[at:at + step], False
            saved = member.copy() if at > start else None
            try:
                out = member.decompress(piece, 1 << 20)
            except zlib.error:
                if step > SMALL_STEP:                       # once more, up to the damage
                    member, step = saved or zlib.decompressobj(31), SMALL_STEP
                    continue
                self.counts["gzip_damaged"] += 1
                failed, out = True, b"\r\n\r\n"             # end the record
            else:
                at += len(piece) - len(member.unused_data if member.eof else member.unconsumed_tail)
                step = min(4 * step, 1 << 18)
                if member.eof:
                    member = None
                else:                                       # or is it a header without end?
                    self.cut = not piece
                    failed = self.cut or not out and made == begun and at - start >= FIRST_BITE
            if failed:
                again += at - start if made > begun else 0
                at = max(start + 1, 0 if again <= 2 * (base + at) + REREAD else at)
                member, garbage, last = None, self.cut, b""             # until a record begins
                if len(self.breaks) < MAX_PLACES:
                    self.breaks.append(made)
            if out:
                if made == begun and last != b"\n" and RECORD.match(out):
                    out, last = b"\r\n\r\n" + out, b"\n"             # so that it is seen as one
                made, last = made + len(out), last and out[-1:]
                yield out

    def fill(self, n):
        """Have n unread bytes in buf if the stream still holds as many; False if not."""
        have = len(self.buf) - self.at
        if have >= n:
            return True
        pieces, before = [self.buf[self.at:]] if have else [], have
        while have < n and (piece := next(self.pieces, b"")):
            pieces.append(piece)
            have += len(piece)
            if len(pieces) > 1 << 16:                       # small ones take more than they hold
                pieces = [b"".join(pieces)]
        if have > before:
            self.base, self.at, self.buf = self.base + self.at, 0, b"".join(pieces)
            self.offset()                                   # forgets members that are read
        return have >= n

    def take(self, n):                                      # a view: nothing is copied
        block = memoryview(self.buf)[self.at:self.at + n]
        self.at += len(block)
        return block

    def find(self, pattern, limit, look=32, mark=b""):
        """Distance from here to the first match that begins within limit bytes, or -1.

        look: how many bytes a match may need; mark: what it must hold, to pass over the rest fast.
        """
        want, searched = 1 << 12, 0
        while True:
            more = self.fill(min(want, limit + look))
            start = self.at + max(0, searched - look)
            held = self.buf.find(mark, start)
            found = held >= 0 and pattern.search(self.buf, max(start, held - look))
            if found and found.start() - self.at <= limit:
                return found.start() - self.at
            if not more or want >= limit + look:
                return -1
            searched, want = len(self.buf) - self.at, want * 2

    def skip_blank(self):
        """Pass over ends of lines; False if nothing else is left."""
        while self.fill(1):
            self.at = BLANK.match(self.buf, self.at).end()
            if self.at < len(self.buf):
                return True
        return False

    def to_next_record(self, form, limit=1 << 62):
        """Pass over what is no record; False if there is no other, or none within limit."""
        while (n := self.find_next(form, 1 << 20)) < 0 and limit > 0 and self.fill(1):
            limit -= len(self.take(1 << 20))
        self.take(max(n, 0))
        return n >= 0

    def find_next(self, form, limit):
        return self.find(form.next, limit, form.look, form.mark)

    def is_broken(self, n):
        """Whether damage to the gzip lies within the next n bytes."""
        here = self.base + self.at
        while self.breaks and self.breaks[0] < here:
            self.breaks.popleft()
        return bool(self.breaks) and self.breaks[0] < here + n

    def offset(self):
        if not self.gzip:
            return self.base + self.at
        while len(self.members) > 1 and self.members[1][0] <= self.base + self.at:
            self.members.popleft()
        return self.members[0][1]


# --------------------------------------------------------------------------------------------------
# The two formats. A WARC record is "WARC/1.0", lines of headers, an empty line, a block as long as
# they say, and two line ends. An ARC record is a line of fields, a block, and one line end.

FOLD = re.compile(rb"(?<![\r\n])[\r\n]+[ \t]+")           # tried once for each run of line ends
HEAD_END = re.compile(rb"\r?\n\r?\n")
WARC_LINE = rb"WARC/\d{1,3}\.\d{1,3}[ \t]*\r?\n"
VERSION = re.compile(WARC_LINE)
# URL IP date type length; version 2 has five more before the length. URLs may hold spaces. The
# first three are found once and for all (no lookahead is tried again), so that time is linear.
ARC_LINE = (rb"(?<![\w+.-])(?=(?P<place>([A-Za-z][\w+.-]{0,31}:[^\r\n]{0,16000}?)"
            rb" ([0-9A-Fa-f.:]{1,45}|-) (\d{8,17}) ))(?P=place)([^\r\n]{1,16000})\r?\n")
ARC_V2 = ("result-code", "checksum", "location", "offset", "filename")
LENGTH = re.compile("[0-9]{1,18}")
ONE_VALUE = re.compile("warc-(?!concurrent-to|protocol).*|age|authorization|content-(?:disposition"
                       "|length|location|range)|date|etag|expires|from|host|last-modified|location"
                       "|referer|retry-after|server|set-cookie|user-agent")
DATE14 = re.compile("([0-9]{4})" + "([0-9]{2})" * 5 + "[0-9]{0,3}")
CONTROL = re.compile(r"[\0-\x20\x7f\x85\u2028\u2029]")


def decode_line(line):
    """A header line in UTF-8 or Latin-1 -> str; in an address each other byte keeps its value."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        if line[:9].lower() == b"location:":
            line = re.sub(rb"[\x80-\xff]", lambda byte: b"%%%02X" % byte[0][0], line)
        return line.decode("latin-1")


class Headers(dict):
    """{lower-case name: value}. Of a repeated header `lines` has the values one by one.

    Lists are joined with commas, as HTTP allows (RFC 9110, 5.3). Headers that can have only one
    value have the first, and Content-Type the last that is a type, as in browsers (Fetch Standard).
    """
    lines = {}

    def repeated(self, lines):
        self.lines = lines
        for name, values in lines.items():
            if name == "content-type":
                self[name] = functools.reduce(last_type, values)
            elif not ONE_VALUE.fullmatch(name):
                self[name] = ", ".join(values)


def last_type(old, new):
    """Of two Content-Types the last that is one; the charset of the first stays if it has none."""
    kind = new.partition(";")[0].strip().lower()
    if not re.fullmatch(r"[^\s/]+/[^\s/]+", kind) or kind == "*/*":
        return old
    label = charset.label_in(old)
    same = kind == old.partition(";")[0].strip().lower()
    return f"{new}; charset={label}" if same and label and not charset.label_in(new) else new


def parse_headers(head):
    """Header lines -> Headers; a line that begins with a blank goes on."""
    if b"\n " in head or b"\n\t" in head:
        head = FOLD.sub(b" ", head)
    lines = head.splitlines()
    try:
        lines = b"\n".join(lines).decode("utf-8").split("\n")
    except UnicodeDecodeError:
        lines = map(decode_line, lines)
    headers, repeated = Headers(), {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            name, value = name.strip().lower(), value.strip()
            if name in headers:
                repeated.setdefault(name, [headers[name]]).append(value)
            else:
                headers[name] = value
    if repeated:
        headers.repeated(repeated)
    return headers


def parse_arc_line(head):
    """The line of an ARC record -> its fields under WARC's names, with an id made from the line."""
    url, ip, date, rest = map(decode_line, re.match(ARC_LINE, head + b"\n").groups()[1:])
    *kind, length = rest.rstrip().split(" ")
    headers = {"warc-type": "warcinfo" if url.startswith("filedesc:") else "response",
               "warc-target-uri": url, "warc-ip-address": ip, "warc-date": date,
               "warc-record-id": f"<{uuid.uuid5(uuid.NAMESPACE_URL, decode_line(head)).urn}>"}
    if len(kind) > len(ARC_V2) and re.fullmatch("[0-9]{3}|-", kind[-len(ARC_V2)]):
        headers.update(zip(ARC_V2, kind[-len(ARC_V2):]))
        del kind[-len(ARC_V2):]
    return headers | {"content-type": " ".join(kind), "content-length": length}


# start: how a record begins; first: how a file does. parse: makes headers of what ends at head_end.
# next: how another record follows; ends: what shows that a block has ended, though line ends may be
# damaged; gap: what looks like it. look: bytes that these need; mark: what every head holds.
Format = namedtuple("Format", "start first head_end parse next ends gap look mark")
WARC = Format(
    start=re.compile(rb"WARC/"), first=VERSION, head_end=HEAD_END,
    parse=parse_headers, next=re.compile(rb"\r?\n\r?\n(?=%s)" % WARC_LINE),
    ends=re.compile(rb"(?:\r?\n\r?\n[\r\n]*|[\s\S]{1,4}(?<!\n\n)(?<!\n\r\n)|)(?=%s)"
                    rb"|(?:\r?\n\r?\n|(?<![\r\n]))[\r\n]*\Z" % WARC_LINE),
    gap=re.compile(rb"\r?\n\r?\n"), look=32, mark=b"WARC/")
ARC = Format(
    start=re.compile(ARC_LINE), first=re.compile(rb"filedesc://|%s(?=HTTP/)" % ARC_LINE),
    head_end=re.compile(rb"\n"), parse=parse_arc_line, next=re.compile(rb"\n(?=%s)" % ARC_LINE),
    ends=re.compile(rb"(?:[\r\n]*|[^\r\n])(?=%s)|[\r\n]*\Z" % ARC_LINE),
    gap=re.compile(rb"\r?\n"), look=1 << 15, mark=b":")
FIRST = re.compile(rb"%s|\n(?=%s)" % (WARC.next.pattern, ARC.first.pattern))
ANY = ARC._replace(next=FIRST, mark=b"\n")
RECORD = re.compile(rb"%s|%s" % (WARC_LINE, ARC_LINE))


def format_here(stream):
    """The Format of the record that begins here, or None."""
    stream.fill(ARC.look)
    return next((form for form in (WARC, ARC) if form.first.match(stream.buf, stream.at)), None)


def first_format(stream, not_a_warc):
    """The Format of a file, though its first record be damaged. ValueError if there is none."""
    damaged = stream.counts["gzip_damaged"]                 # in the file before
    if not stream.skip_blank():
        why = "it is cut off" if stream.cut else "it is empty"
        if stream.counts["gzip_damaged"] > damaged:
            why = "its gzip is damaged"
        raise ValueError(not_a_warc + why)
    if form := format_here(stream):
        return form
    start = stream.buf[stream.at:stream.at + 12]
    if not stream.to_next_record(ANY, MAX_START):
        raise ValueError(f"{not_a_warc}it begins with {start!r}, not with b'WARC/'")
    stream.counts["resync"] += 1
    stream.skip_blank()
    return format_here(stream)


def read_block(stream, form, declared):
    """(the record's block or None if the file ends inside it, whether the declared length held).

    The declared length is believed if a record ends there and gzip was sound up to there. If not,
    the block ends where the next record begins, the only other thing that can be recognised.
    """
    if (declared is not None and declared <= MAX_BLOCK and stream.fill(declared)
            and not stream.is_broken(declared)):
        stream.fill(declared + form.look)
        end = stream.at + declared
        if after := form.ends.match(stream.buf, end, end + form.look):
            block, stream.at = stream.take(declared), after.end()
            return block, True
        if form.gap.match(stream.buf, end):                 # before something damaged, or by chance
            n = stream.find_next(form, declared)
            return stream.take(declared if n < 0 else n), n < 0
    stream.fill(form.look)
    here = BLANK.match(stream.buf, stream.at, stream.at + 4).end()
    if form is WARC and VERSION.match(stream.buf, here) or declared == 0 and not stream.buf[here:]:
        return b"", declared == 0                           # no block, or headers cut short
    n = stream.find_next(form, MAX_BLOCK)
    if n >= 0:
        return stream.take(n), False
    block = stream.take(MAX_BLOCK)
    if stream.fill(1):                                      # too long to keep: pass over the rest,
        left = (declared or 0) - len(block)                 # but over no other record
        while left > 0 and stream.fill(1):
            n = stream.find_next(form, min(left, 1 << 20))
            if n >= 0:
                stream.take(n)
                return block, n == left
            left -= len(stream.take(min(left, 1 << 20)))
        return (block, declared is not None) if left <= 0 else (None, False)
    if form is WARC and block[-4:] == b"\r\n\r\n":        # a good end: the length is wrong
        return block[:-4], False
    right = len(block) == declared
    return (block if right or declared is None and not stream.cut else None), right


# --------------------------------------------------------------------------------------------------
# HTTP: the payload of a response as the server meant it.

HTTP_START = re.compile(rb"HTTP[/ ]|ICY ", re.I)
CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]{0,256})?\r\n")
PRINTABLE = re.compile(rb"[\t\n\r -~]{64}|[\t\n\r -~]*\Z")
SEALED = ("br", "zstd", "compress", "x-compress", "dcb", "dcz")


def dechunk(body):
    """Undo Transfer-Encoding: chunked: (body, whether it ends early or breaks off).

    From where no chunk begins that ends as it should, bytes stay as they are: often all of them.
    """
    at, out = 0, bytearray()
    while at < len(body):
        size = CHUNK_SIZE.match(body, at)
        if not size:
            if at and len(body) - at < 10 and b"\n" not in body[at:]:
                return bytes(out), True
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
    """(what zlib makes of body, why that is not all or None); (None, None) if it makes nothing.

    All members of a gzip are read, but not what is behind them; MAX_BLOCK bytes are kept.
    """
    member, out, at, n_members = zlib.decompressobj(wbits), bytearray(), 0, 1
    while at < len(body):
        piece = body[at:at + step]
        try:
            out += member.decompress(piece, MAX_BLOCK - len(out) + 1)
        except zlib.error:
            if step > SMALL_STEP and wbits > 0:             # up to the damage, but no further
                return inflate(body, wbits, SMALL_STEP)
            return (bytes(out), "compressed_cut") if out else (None, None)
        at += len(piece) - len(member.unused_data)
        if len(out) > MAX_BLOCK:
            return bytes(out[:MAX_BLOCK]), "inflated_too_long"
        if member.eof:
            if wbits < 31 or body[at:at + 2] != b"\x1f\x8b":
                return bytes(out), None
            member, n_members = zlib.decompressobj(wbits), n_members + 1
            if n_members > MAX_MEMBERS:
                return bytes(out), "inflated_too_long"
    return bytes(out), "compressed_cut" if body else None


def decode_body(body, http_headers):
    """De-chunk, then decompress: (body, an encoding that could not be undone, why it is not all).

    The last two may be None; the last is "chunked_cut", "compressed_cut" (or damaged), or
    "inflated_too_long". Common Crawl has done both and renamed the headers to X-Crawler-*, which
    are not looked at. A body that is not what its header says passes unchanged: old crawls kept
    headers that lie.
    """
    cut, transfer = None, http_headers.get("transfer-encoding", "").lower()
    if "chunked" in transfer:
        body, early = dechunk(body)
        cut = "chunked_cut" if early else None
    codings = http_headers.get("content-encoding", "").lower() + "," + transfer
    codings = [c for c in re.split(r"[,\s]+", codings) if c not in ("", "chunked", "identity")]
    if len(codings) > MAX_CODINGS:
        return body, f"{len(codings)} encodings", cut
    for coding in reversed(codings):
        plain = why = None
        if coding in ("gzip", "x-gzip"):
            plain, why = inflate(body, 31)
            if plain is None and body.startswith(b"\x1f\x8b"):
                return body, coding, cut
        elif coding == "deflate":
            plain, why = inflate(body, 15)
            if plain is None and not PRINTABLE.match(body):             # raw, it has no mark
                plain, why = inflate(body, -15)
        elif coding in SEALED and body:
            if b"\0" in body[:2000] or body[:2000].lstrip()[:1] != b"<":
                return body, coding, cut
        body, cut = body if plain is None else plain, cut or why
    return body, None, cut


def parse_http(block):
    """An HTTP message -> (status, headers, body); a head without end has no body."""
    end = HEAD_END.search(block, 0, MAX_HEAD)
    head, body = (block[:end.start()], block[end.end():]) if end else (block[:MAX_HEAD], b"")
    first, _, lines = bytes(head).partition(b"\n")
    status = (first.split(None, 2) + [b"", b""])[1]
    status = int(status) if re.fullmatch(rb"\d{1,3}", status) else 0
    return status, parse_headers(lines), bytes(body)


# --------------------------------------------------------------------------------------------------
# Records.

def parse_record(headers, block, offset):
    """(Record, what was found to be missing in its body: see decode_body; or None)."""
    record = Record(headers=headers, type=headers.get("warc-type", "").lower(),
                    id=headers.get("warc-record-id", ""), date=headers.get("warc-date", ""),
                    truncated=headers.get("warc-truncated"), offset=offset)
    if "warc-segment-number" in headers:
        record.truncated = record.truncated or "segment"
    if digits := DATE14.fullmatch(record.date):
        record.date = "{}-{}-{}T{}:{}:{}Z".format(*digits.groups())
    url, cut = headers.get("warc-target-uri", ""), None
    if url.startswith("<") and url.endswith(">"):
        url = url[1:-1].strip()
    record.url = CONTROL.sub(lambda c: "".join(f"%{b:02X}" for b in c[0].encode()), url)
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

    counts, a Counter, is told what was met: records by type ("other_type": none of TYPES),
    "wrong_length", "resync" (something that is no record), "cut_off", "truncated", "undecodable",
    "gzip_garbage", "gzip_damaged", and what parse_record found missing. Damage costs the record
    that it hits and no other. ValueError if there is no record, at the start or soon after.
    """
    if not hasattr(path_or_file, "read"):
        with open(path_or_file, "rb") as file:
            yield from read_warc(file, counts)
        return
    counts = Counter() if counts is None else counts
    stream, seen, cut = Stream(path_or_file, counts), False, False
    not_a_warc = f"{getattr(path_or_file, 'name', 'stream')}: not a WARC file: "
    form = first_format(stream, not_a_warc)
    while stream.skip_blank():
        stream.fill(form.look)
        if not (begun := form.start.match(stream.buf, stream.at)):
            form = format_here(stream) or form              # some files hold both
            begun = form.start.match(stream.buf, stream.at)
        n = stream.find(form.head_end, MAX_HEAD) if begun else -1
        if n < 0:
            if not stream.to_next_record(form):
                cut = bool(begun)
                counts["resync"] += not begun
                break
            counts["resync"] += 1
            continue
        again = stream.buf.rfind(b"\nWARC/", stream.at, stream.at + n) + 1
        if again and VERSION.match(stream.buf, again):      # cut short, and another right behind
            counts["resync"] += 1
            stream.at = again
            continue
        seen, offset = True, stream.offset()
        headers = form.parse(bytes(stream.take(n)))
        stream.take(form.head_end.match(stream.buf, stream.at).end() - stream.at)
        length = headers.get("content-length")
        if length is not None:                              # one that is no number is a wrong one
            length = int(length) if LENGTH.fullmatch(length) else 0
        block, right = read_block(stream, form, length)
        if block is None:
            cut = True
            break
        record, missing = parse_record(headers, block, offset)
        if length is not None and length > len(block):
            record.truncated = record.truncated or ("length" if right else "unspecified")
        counts[record.type if record.type in TYPES else "other_type"] += 1
        counts["wrong_length"] += not right
        counts["truncated"] += record.truncated is not None
        counts["undecodable"] += record.undecodable is not None
        if missing:
            counts[missing] += 1
        yield record
    counts["cut_off"] += cut or stream.cut
    if not seen:
        raise ValueError(not_a_warc + "its first record has no end of headers")


# --------------------------------------------------------------------------------------------------
# Documents.

FILE_ENDS = (".warc", ".warc.gz", ".warc.wet", ".warc.wet.gz", ".arc", ".arc.gz")
DOCUMENT_TYPES = ("response", "resource", "conversion")
NOT_HTTP = ("dns:", "whois:", "ntp:")
HTML_TYPES = ("text/html", "application/xhtml+xml")
UNSURE_TYPES = ("", "text/plain", "application/octet-stream", "unknown/unknown", "unknown",
                "no-type")
HTML_START = re.compile(rb"<(?:!doctype\s+html|html|head|body|title|meta|script|style|div|p|table"
                        rb"|h1|a|br|!--)\b", re.I)
OTHER_START = re.compile(
    rb"%PDF|%!PS|\x89PNG|GIF8|\xff\xd8\xff|PK\x03\x04|\x1f\x8b|RIFF|Rar!|\x7fELF|\0\0\x01\0|OggS|ID3|BZh"
    rb"|7z\xbc\xaf|\xfd7zXZ|\x28\xb5\x2f\xfd|wOF[F2]|\xd0\xcf\x11\xe0|\{\\rtf|II\*\0|MM\0\*|\0asm"
    rb"|....ftyp|<rss\b|<feed\b|\{[\"}\s]|\[\{\"", re.I | re.S)


def media_type(declared):
    return declared.partition(";")[0].strip().lower()


def is_html(record):
    """Whether a body is a web page: the crawler's verdict if it left one, as in FineWeb; else what
    the header says, unless the first bytes show that it is wrong."""
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

    Web pages are responses, whatever their status, and resources, which hold a page without HTTP
    (warcio writes them for files). Text is what others have made of pages: the conversions of a WET
    file. FineWeb's reader (datatrove) takes responses and conversions and no resources; Common
    Crawl has none. Records of other types (the reason is then the type) are no documents.
    """
    if record.type not in DOCUMENT_TYPES:
        return None, record.type or "no_type"
    if record.url.lower().startswith(NOT_HTTP):
        return None, "not_http"
    if record.undecodable:
        return None, "undecodable"
    if record.type == "conversion":
        kind = (media_type(record.headers.get("warc-identified-payload-type", ""))
                or media_type(record.content_type) or "text/plain")
        return ("text", None) if kind == "text/plain" else (None, "not_text")
    return ("html", None) if is_html(record) else (None, "not_html")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(prog="python -m web.warc", description="list the records of a WARC")
    parser.add_argument("file", help="a WARC or ARC, plain or gzip; - is standard input")
    return parser.parse_args(argv)


def main(argv=None):
    args, counts = parse_args(argv), Counter()
    for r in read_warc(sys.stdin.buffer if args.file == "-" else args.file, counts):
        kind, _ = document_kind(r)
        print(f"{r.offset:12} {r.type:10} {kind or '':4} {r.status or '':4} {len(r.body):9} "
              f"{r.date:20} {r.url}")
    print(", ".join(f"{name} {n}" for name, n in counts.items() if n), file=sys.stderr)


if __name__ == "__main__":
    command.run(main)
