"""warc_files.py: records of WARC and ARC, made by hand."""
import gzip
import io

import pytest

from web import warc
from web.warc import read_warc


def zipped(data):
    return gzip.compress(data, mtime=0)


def record(block, type="response", url="http://a.com/", id="1", length=None, **fields):
    """One WARC record; other headers as keywords, _ for -."""
    fields = {name.replace("_", "-"): value for name, value in fields.items()}
    fields = {
        "WARC-Type": type, "WARC-Record-ID": f"<urn:uuid:{id}>", "WARC-Target-URI": url,
        "WARC-Date": "2024-01-02T03:04:05Z", **fields,
        "Content-Length": len(block) if length is None else length}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value != "")
    return f"WARC/1.0\r\n{head}\r\n".encode() + block + b"\r\n\r\n"


def http(body, *headers, status="HTTP/1.1 200 OK"):
    return "\r\n".join((status, *headers, "", "")).encode() + body


def page(i, **fields):
    return record(http(b"<p>%d" % i, "Content-Type: text/html"), url=f"http://a.com/{i}", **fields)


def arc(block, url="http://a.com/", fields="1.2.3.4 20080102030405 text/html", length=None):
    """One ARC record: URL IP date type length, the block, a line end."""
    return f"{url} {fields} {len(block) if length is None else length}\n".encode() + block + b"\n"


def arc_page(i, **fields):
    body = http(b"<p>%d" % i, "Content-Type: text/html; charset=koi8-r")
    return arc(body, url=f"http://a.com/{i}", **fields)


def arc_start(names="URL IP-address Archive-date Content-type Archive-length",
              version="1 0 Alexa Internet", more=b""):
    block = f"{version}\n{names}\n".encode() + more
    return arc(block, "filedesc://IA-001102.arc", "0.0.0.0 19960923142103 text/plain")


def read(raw, counts=None):
    return list(read_warc(io.BytesIO(raw), counts))


def urls(raw, counts=None):
    return [r.url for r in read(raw, counts)]


def damage(counts):
    return {name: n for name, n in counts.items() if n and name not in (*warc.TYPES, "other_type")}


PAGES = [page(i) for i in range(3)]
ARC_PAGES = [arc_page(i) for i in range(3)]
NAMES = [f"http://a.com/{i}" for i in range(3)]
PACKS = pytest.mark.parametrize(
    "pack", [b"".join, lambda rs: b"".join(map(zipped, rs)), lambda rs: zipped(b"".join(rs))],
    ids=["plain", "members", "one member"])


# ------------------------------------------------------------------------------------------- bodies

def chunked(*chunks):
    return b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks)


# ------------------------------------------------------------------------------------------ streams

class Pipe:
    """A file with no method but read(n), which gives `most` bytes at most; it may never end."""

    def __init__(self, raw, most=1 << 30):
        self.raw, self.most, self.at = raw, most, 0

    def read(self, n):
        piece = self.raw[self.at:self.at + min(n, self.most)]
        self.at += len(piece)
        return piece
