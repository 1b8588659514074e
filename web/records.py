"""Where the records of a WARC or ARC begin and end, in files as they are.

Files from real crawls are cut short, have wrong lengths, hold garbage between records, and claim to
be gzip when they are not. Damage costs only the record that it hits, and is counted. From a sound
file, `read_records` yields the same as the plain function of that name in web/warc.py.

ARC is the format before 2009; its records get the names of WARC's headers. Some files hold records
of both formats.

Sources: ISO 28500:2017 (WARC 1.1); Burner and Kahle 1996 (ARC); warcio, for what real files hold.
"""
import re
import uuid
import zlib
from collections import deque
from itertools import chain
from typing import Callable, NamedTuple

from web import message
from web.message import HEAD_END, MAX_HEAD, SMALL_STEP, decode_line, parse_headers

MAX_START = 1 << 28               # bytes that are skipped in front of the first record
FIRST_BITE = 1 << 13              # bytes that are inflated first of a gzip member
REREAD = 1 << 15                  # bytes of a broken member that are searched for another
MAX_PLACES = 1 << 16              # gzip members, and places of damage, that are remembered

# ----------------------------------------------------------------------- the gzip members of a file
# In a .gz every record should be a member of its own.

GZIP = b"\x1f\x8b\x08"


class Members:
    """The contents of the gzip members of a file, piece by piece.

    When a member fails, the bytes that were read last are searched for the start of another member.
    There is a limit to this, for a hostile file could have every byte read many times. raw holds
    the bytes of the file from the place `base` on; raw[at:] is unread.
    """

    def __init__(self, stream, first):
        self.stream, self.counts = stream, stream.counts
        self.raw, self.at, self.base = bytearray(first), 0, 0
        self.member = None              # the decompressor of the open member
        self.start = self.step = 0      # where it begins in raw; bytes to inflate next
        self.garbage = False            # whether bytes outside of all members are being skipped
        self.made = self.begun = 0      # bytes inflated until now, and until the member began
        self.again = 0                  # bytes that were searched after a member failed
        self.last = b"\n"               # the last byte inflated; empty after a failure

    def __iter__(self):
        while True:
            self.refill()
            if not self.member and not self.begin():
                if len(self.raw) - self.at < FIRST_BITE:    # nothing else is left
                    return
                self.at = len(self.raw) - 2                 # these two may begin a member
                continue
            out, failed = self.inflate()
            if failed:
                self.give_up()
            if out:
                if self.made == self.begun and self.last != b"\n" and RECORD.match(out):
                    out = b"\r\n\r\n" + out                # lets the reader see this record
                    self.last = b"\n"
                self.made += len(out)
                self.last = self.last and out[-1:]
                yield out

    def refill(self):
        """Read more of the file, and forget what is no longer needed."""
        while len(self.raw) - self.at < FIRST_BITE:
            more = self.stream.file.read(1 << 18)
            if not more:
                return
            old = max(self.start, self.at - REREAD, 0) if self.member else self.at
            del self.raw[:old]
            self.base, self.at, self.start = self.base + old, self.at - old, self.start - old
            self.raw += more

    def begin(self):
        """Begin the next member; False if raw holds no start of one."""
        found = self.raw.find(GZIP, self.at)
        self.counts["gzip_garbage"] += found != self.at < len(self.raw) and not self.garbage
        self.garbage = found < 0
        if self.garbage:
            return False
        self.counts["gzip_damaged"] += self.stream.cut      # the last one did not end the file
        self.stream.cut = False
        self.member, self.step, self.begun = zlib.decompressobj(31), FIRST_BITE, self.made
        self.start = self.at = found
        places = self.stream.members
        if places and places[-1][0] == self.made:
            places.pop()                                    # the member before was empty
        if len(places) < MAX_PLACES:                        # else an earlier place must serve
            places.append((self.made, self.base + self.at))
        return True

    def inflate(self):
        """(the next piece of what the member holds, whether the member has failed)."""
        piece = self.raw[self.at:self.at + self.step]
        saved = self.member.copy() if self.at > self.start else None
        try:
            out = self.member.decompress(piece, 1 << 20)
        except zlib.error:
            if self.step > SMALL_STEP:                      # try again in steps, up to the damage
                self.member, self.step = saved or zlib.decompressobj(31), SMALL_STEP
                return b"", False
            self.counts["gzip_damaged"] += 1
            return b"\r\n\r\n", True                        # this ends the record
        ended = self.member.eof
        unread = self.member.unused_data if ended else self.member.unconsumed_tail
        self.at += len(piece) - len(unread)
        self.step = min(4 * self.step, 1 << 18)
        if ended:
            self.member = None
            return out, False
        self.stream.cut = not piece
        endless = not out and self.made == self.begun and self.at - self.start >= FIRST_BITE
        return out, self.stream.cut or endless              # endless: a header without an end

    def give_up(self):
        """Leave the member, and go back to search for another one inside it."""
        if self.made > self.begun:
            self.again += self.at - self.start
        often = self.again > 2 * (self.base + self.at) + REREAD
        self.at = max(self.start + 1, self.at if often else 0)
        self.member, self.garbage, self.last = None, self.stream.cut, b""
        if len(self.stream.breaks) < MAX_PLACES:
            self.stream.breaks.append(self.made)


# -------------------------------------------------------------------- the file as a stream of bytes

BLANK = re.compile(rb"[\r\n]*")


class Stream:
    """The bytes of a file, plain or gzip, read forward: buf[at:] is unread and grows on demand.

    Of the file only read(n) is used, so that it may be a pipe or a connection.
    """

    def __init__(self, file, counts):
        self.file, self.counts = file, counts
        self.buf, self.at, self.base = b"", 0, 0            # base: place of buf[0] in the stream
        self.members = deque()              # (place in the stream, place in the file) of each
        self.breaks = deque()               # places in the stream where a member was damaged
        self.cut = False                    # whether the file ends inside a member
        first = b""
        while len(first) < FIRST_BITE and (more := file.read(1 << 16)):
            first += more
        self.gzip = first[:2] == GZIP[:2] or GZIP in first and not FIRST.search(b"\n\n" + first)
        plain = chain([first], iter(lambda: file.read(1 << 20), b""))
        self.pieces = iter(Members(self, first) if self.gzip else plain)

    def fill(self, n):
        """Have n unread bytes in buf if the stream still holds as many; False if not."""
        have = len(self.buf) - self.at
        if have >= n:
            return True
        pieces, before = [self.buf[self.at:]] if have else [], have
        while have < n and (piece := next(self.pieces, b"")):
            pieces.append(piece)
            have += len(piece)
            if len(pieces) > 1 << 16:               # many small pieces take too much memory
                pieces = [b"".join(pieces)]
        if have > before:
            self.base, self.at, self.buf = self.base + self.at, 0, b"".join(pieces)
            self.offset()                           # this forgets the members before
        return have >= n

    def take(self, n):
        """The next n bytes, or all that are left, as a view: nothing is copied."""
        block = memoryview(self.buf)[self.at:self.at + n]
        self.at += len(block)
        return block

    def find(self, pattern, limit, look=32, mark=b""):
        """Distance from here to the first match that begins within limit bytes, or -1.

        look: how many bytes a match may need. mark: bytes that every match contains; finding them
        first is fast.
        """
        want, searched = 1 << 12, 0
        while True:
            more = self.fill(min(want, limit + look))
            start = self.at + max(0, searched - look)
            place = self.buf.find(mark, start)
            found = place >= 0 and pattern.search(self.buf, max(start, place - look))
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

    def find_next(self, form, limit):
        """Distance to the next record of a format, or -1."""
        return self.find(form.next, limit, form.look, form.mark)

    def to_next_record(self, form, limit):
        """Skip to the next record, over at most limit bytes: (how many were skipped, if found)."""
        skipped = 0
        while skipped < limit and self.fill(1):
            step = min(limit - skipped, 1 << 20)
            n = self.find_next(form, step)
            skipped += len(self.take(step if n < 0 else n))
            if n >= 0:
                return skipped, True
        return skipped, False

    def is_broken(self, n):
        """Whether damage to the gzip lies within the next n bytes."""
        here = self.base + self.at
        while self.breaks and self.breaks[0] < here:
            self.breaks.popleft()
        return bool(self.breaks) and self.breaks[0] < here + n

    def offset(self):
        """The place in the file where the record, or its gzip member, begins."""
        here = self.base + self.at
        while len(self.members) > 1 and self.members[1][0] <= here:
            self.members.popleft()
        return self.members[0][1] if self.gzip else here


# ---------------------------------------------------------------------------------- the two formats
# A WARC record is "WARC/1.0", lines of headers, an empty line, a block as long as they say, and two
# line ends. An ARC record is a line of fields, a block, and one line end.

WARC_LINE = rb"WARC/\d{1,3}\.\d{1,3}[ \t]*\r?\n"
VERSION = re.compile(WARC_LINE)
# URL IP date type length; version 2 has five more before the length. URLs may hold spaces. The
# first three are found in a lookahead, which is never tried twice, so that the time is linear.
ARC_LINE = (rb"(?<![\w+.-])(?=(?P<place>([A-Za-z][\w+.-]{0,31}:[^\r\n]{0,16000}?)"
            rb" ([0-9A-Fa-f.:]{1,45}|-) (\d{8,17}) ))(?P=place)([^\r\n]{1,16000})\r?\n")
ARC_V2 = ("result-code", "checksum", "location", "offset", "filename")
LENGTH = re.compile("[0-9]{1,18}")


def parse_arc_line(head):
    """The line of an ARC record -> its fields under WARC's names, with an id made from the line."""
    _, url, ip, date, rest = re.match(ARC_LINE, head + b"\n").groups()
    *kind, length = decode_line(rest).rstrip().split(" ")
    url = decode_line(url)
    more = {}
    if len(kind) > len(ARC_V2) and re.fullmatch("[0-9]{3}|-", kind[-len(ARC_V2)]):
        more = zip(ARC_V2, kind[-len(ARC_V2):])
        kind = kind[:-len(ARC_V2)]
    return {
        "warc-type": "warcinfo" if url.startswith("filedesc:") else "response",
        "warc-target-uri": url,
        "warc-ip-address": decode_line(ip),
        "warc-date": decode_line(date),
        "warc-record-id": f"<{uuid.uuid5(uuid.NAMESPACE_URL, decode_line(head)).urn}>",
        **dict(more),
        "content-type": " ".join(kind),
        "content-length": length,
    }


class Format(NamedTuple):
    """How the records of a format are recognised."""
    start: re.Pattern           # the start of a record
    first: re.Pattern           # the start of a file
    head_end: re.Pattern        # the end of the headers
    parse: Callable             # bytes of the headers -> {name: value}
    next: re.Pattern            # the end of a record in front of another
    ends: re.Pattern            # the end of a block; its line ends may be damaged
    gap: re.Pattern             # the line ends behind a block
    look: int                   # bytes that these patterns may need
    mark: bytes                 # bytes that the start of every record contains


WARC = Format(
    start=re.compile(rb"WARC/"),
    first=VERSION,
    head_end=HEAD_END,
    parse=parse_headers,
    next=re.compile(rb"\r?\n\r?\n(?=%s)" % WARC_LINE),
    ends=re.compile(rb"(?:\r?\n\r?\n[\r\n]*|[\s\S]{1,4}(?<!\n\n)(?<!\n\r\n)|)(?=%s)"
                    rb"|(?:\r?\n\r?\n|(?<![\r\n]))[\r\n]*\Z" % WARC_LINE),
    gap=re.compile(rb"\r?\n\r?\n"),
    look=32,
    mark=b"WARC/")
ARC = Format(
    start=re.compile(ARC_LINE),
    first=re.compile(rb"filedesc://|%s(?=HTTP/)" % ARC_LINE),
    head_end=re.compile(rb"\n"),
    parse=parse_arc_line,
    next=re.compile(rb"\n(?=%s)" % ARC_LINE),
    ends=re.compile(rb"(?:[\r\n]*|[^\r\n])(?=%s)|[\r\n]*\Z" % ARC_LINE),
    gap=re.compile(rb"\r?\n"),
    look=1 << 15,
    mark=b":")
FIRST = re.compile(rb"%s|\n(?=%s)" % (WARC.next.pattern, ARC.first.pattern))
ANY = ARC._replace(next=FIRST, mark=b"\n")
RECORD = re.compile(rb"%s|%s" % (WARC_LINE, ARC_LINE))


def format_here(stream):
    """The Format of the record that begins here, or None."""
    stream.fill(ARC.look)
    return next((f for f in (WARC, ARC) if f.first.match(stream.buf, stream.at)), None)


def first_format(stream, not_a_warc):
    """The Format of a file, whose first record may be damaged. ValueError if it has no record."""
    damaged = stream.counts["gzip_damaged"]                 # in the file before
    if not stream.skip_blank():
        why = "it is cut off" if stream.cut else "it is empty"
        if stream.counts["gzip_damaged"] > damaged:
            why = "its gzip is damaged"
        raise ValueError(not_a_warc + why)
    if form := format_here(stream):
        return form
    start = stream.buf[stream.at:stream.at + 12]
    if not stream.to_next_record(ANY, MAX_START)[1]:
        raise ValueError(f"{not_a_warc}it begins with {start!r}, not with b'WARC/'")
    stream.counts["resync"] += 1
    stream.skip_blank()
    return format_here(stream)


# ------------------------------------------------------------------------------------------ records

def read_block(stream, form, declared):
    """(the record's block or None if the file ends inside it, whether the declared length held).

    The declared length is believed if a record ends there and gzip was sound up to there. If not,
    the block ends where the next record begins, the only other thing that can be recognised.
    """
    if (declared is not None and declared <= message.MAX_BLOCK and stream.fill(declared)
            and not stream.is_broken(declared)):
        stream.fill(declared + form.look)
        end = stream.at + declared
        if after := form.ends.match(stream.buf, end, end + form.look):
            block, stream.at = stream.take(declared), after.end()
            return block, True
        if form.gap.match(stream.buf, end):                 # what follows may be damaged
            n = stream.find_next(form, declared)
            return stream.take(declared if n < 0 else n), n < 0
    stream.fill(form.look)
    here = BLANK.match(stream.buf, stream.at, stream.at + 4).end()
    if form is WARC and VERSION.match(stream.buf, here) or declared == 0 and not stream.buf[here:]:
        return b"", declared == 0                           # no block, or the headers are cut short
    n = stream.find_next(form, message.MAX_BLOCK)
    if n >= 0:
        return stream.take(n), False
    block = stream.take(message.MAX_BLOCK)
    if stream.fill(1):                                      # too long to keep: pass over its rest
        left = (declared or 0) - len(block)
        skipped, found = stream.to_next_record(form, left)
        if found:                                           # no other record is passed over
            return block, skipped == left
        return (block, declared is not None) if skipped >= left else (None, False)
    if form is WARC and block[-4:] == b"\r\n\r\n":          # the end is sound, the length is wrong
        return block[:-4], False
    right = len(block) == declared
    whole = right or declared is None and not stream.cut
    return (block if whole else None), right


def read_records(file, counts):
    """Yield (headers, block, offset, why the block is incomplete or None) of each record of a file.

    offset: where the record, or its gzip member, begins. The reasons are "length" for a block that
    is too long to keep, and "unspecified" if another record or the end of the file comes too soon.
    counts: a Counter for "wrong_length", "resync" (something that is no record), "cut_off",
    "gzip_garbage" and "gzip_damaged". ValueError if there is no record at the start or soon after.
    """
    stream, seen, cut = Stream(file, counts), False, False
    not_a_warc = f"{getattr(file, 'name', 'stream')}: not a WARC file: "
    form = first_format(stream, not_a_warc)
    while stream.skip_blank():
        stream.fill(form.look)
        begun = form.start.match(stream.buf, stream.at)
        if not begun:
            form = format_here(stream) or form              # some files hold both formats
            begun = form.start.match(stream.buf, stream.at)
        n = stream.find(form.head_end, MAX_HEAD) if begun else -1
        if n < 0:
            if not stream.to_next_record(form, 1 << 62)[1]:
                cut = bool(begun)
                counts["resync"] += not begun
                break
            counts["resync"] += 1
            continue
        again = stream.buf.rfind(b"\nWARC/", stream.at, stream.at + n) + 1
        if again and VERSION.match(stream.buf, again):      # this record ends in its headers
            counts["resync"] += 1
            stream.at = again
            continue
        seen, offset = True, stream.offset()
        headers = form.parse(bytes(stream.take(n)))
        stream.take(form.head_end.match(stream.buf, stream.at).end() - stream.at)
        length = headers.get("content-length")
        if length is not None:
            length = int(length) if LENGTH.fullmatch(length) else 0     # no number: it is wrong
        block, right = read_block(stream, form, length)
        if block is None:
            cut = True
            break
        missing = None
        if length is not None and length > len(block):
            missing = "length" if right else "unspecified"
        counts["wrong_length"] += not right
        yield headers, block, offset, missing
    counts["cut_off"] += cut or stream.cut
    if not seen:
        raise ValueError(not_a_warc + "its first record has no end of headers")
