"""web_server.py: servers on loopback that behave as the web does; only waiting moves the clock."""
import gzip
import http.server
import random
import re
import socket
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from web import crawl
from web import connection
from web import remote
from web import warc

CHANCE = random.Random(0)


class Server:
    """pages: {path: HTML, (status, headers, body), or a function of the handler that writes}."""

    def __init__(self, tls=None):
        self.pages, self.visits = {}, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.visits.append((self.path, crawl.time.monotonic(), dict(self.headers)))
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                page = outer.pages.get(self.path, (404, {}, b"not here"))
                if callable(page):
                    return page(self)
                status, headers, body = page if isinstance(page, tuple) else (200,
                    {"Content-Type": "text/html"}, page)
                self.wfile.write(head(status, {"Content-Length": len(body), **headers}) + body)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True)
        self.http.handle_error = lambda *args: None
        self.host = f"127.0.0.1:{self.http.server_port}"
        self.url = f"http{'s' if tls else ''}://{self.host}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01},
            daemon=True).start()

    def paths(self):
        return [path for path, *_ in self.visits if path != "/robots.txt"]


def head(status, headers):
    return "\r\n".join([f"HTTP/1.1 {status} x", *(f"{k}: {v}" for k, v in headers.items()), "",
        ""]).encode()


def raw(*pieces, then=None):
    """A page that is these bytes on the wire, and nothing of ours."""
    def page(handler):
        for piece in pieces:
            handler.wfile.write(piece)
        handler.wfile.flush()
        if then:
            then(handler)
    return page


def hang_up(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)


def links(*targets):
    return "".join(f'<p><a href="{target}">x</a>' for target in targets).encode()


@pytest.fixture
def servers():
    started = []

    def start(**kwargs):
        started.append(Server(**kwargs))
        return started[-1]
    yield start
    for server in started:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture
def web(servers):
    return servers()


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time as web/crawl.py sees it: only time.sleep moves it. clock.waits: how long, each."""
    fake = SimpleNamespace(waits=[], now=1000.0, time=time.time, strftime=time.strftime,
        gmtime=time.gmtime, perf_counter=time.perf_counter)

    def sleep(seconds):
        fake.now += seconds
        fake.waits += [seconds] if seconds else []
    fake.sleep, fake.monotonic = sleep, lambda: fake.now
    for module in (crawl, connection, remote):
        monkeypatch.setattr(module, "time", fake)
    monkeypatch.setenv("no_proxy", "*")
    return fake


@pytest.fixture
def out(tmp_path):
    return tmp_path / "crawl" / "x.warc.gz"


def records(path):
    counts = Counter()
    found = list(warc.read_warc(path, counts))
    assert not {"wrong_length", "resync", "cut_off", "gzip_damaged", "gzip_garbage"} & set(+counts)
    return found


def responses(path):
    return [r for r in records(path) if r.type == "response" and not r.url.endswith("/robots.txt")]


def path_of(record):
    return "/" + record.url.split("/", 3)[3]


# ------------------------------------------------------------------------------------------- bodies

TEXT = b"<p>" + b"what came over the wire, " * 400
CHUNKED = b"".join(b"%X;ext=1\r\n%s\r\n" % (len(TEXT[i:i + 999]), TEXT[i:i + 999])
    for i in range(0, len(TEXT), 999)) + b"0\r\n\r\n"
ZIPPED = gzip.compress(TEXT, mtime=0)
BODIES = {
    "length": (head(200, {"Content-Type": "text/html", "Content-Length": len(TEXT)}), TEXT, TEXT,
        None),
    "until close": (head(200, {"Content-Type": "text/html"}), TEXT, TEXT, None),
    "chunked": (head(200, {"Transfer-Encoding": "chunked"}), CHUNKED, TEXT, None),
    "Chunked": (head(200, {"Transfer-Encoding": "Chunked"}), CHUNKED, TEXT, None),
    "trailers": (head(200, {"Transfer-Encoding": "chunked"}), CHUNKED[:-2] + b"X-Sum: 1\r\n\r\n",
        TEXT, None),
    "gzip": (head(200, {"Content-Encoding": "gzip", "Content-Length": len(ZIPPED)}), ZIPPED, TEXT,
        None),
    "both": (head(200, {"Transfer-Encoding": "chunked", "Content-Encoding": "gzip"}),
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(ZIPPED), ZIPPED), TEXT, None),
    "odd head": (b"HTTP/1.0 200 OK\r\nx-A:  b\r\nX-a: c\r\nContent-type:text/html\r\n\r\n", TEXT,
        TEXT, None),
    "bare line feeds": (b"HTTP/1.0 200 OK\nContent-type: text/html\n\n", TEXT, TEXT, None),
    "empty": (head(200, {"Content-Length": 0}), b"", b"", None),
    "no content": (head(204, {}), b"", b"", None),
    "hangs up": (head(200, {"Content-Length": len(TEXT) + 9}), TEXT, TEXT, "disconnect"),
    "hangs up in a chunk": (head(200, {"Transfer-Encoding": "chunked"}), CHUNKED[:5000], None,
        "disconnect"),
    "hangs up between chunks": (head(200, {"Transfer-Encoding": "chunked"}), CHUNKED[:-5], TEXT,
        "disconnect"),
    "exactly the limit": (head(200, {}), b"y" * 20_000, b"y" * 20_000, None),
    "too long": (head(200, {}), b"y" * 90_000, b"y" * 20_000, "length"),
    "too long and says so": (head(200, {"Content-Length": 10 ** 12}), b"y" * 90_000, b"y" * 20_000,
        "length"),
    "too long in chunks": (head(200, {"Transfer-Encoding": "chunked"}),
        b"15f90\r\n" + b"y" * 90_000, b"y" * 19_993, "length"),
}


def endless(start, piece, most=24_000_000):
    """A page that goes on for ever, or until nobody can overlook it."""
    def page(handler):
        try:
            handler.wfile.write(start)
            for _ in range(most // len(piece)):
                handler.wfile.write(piece)
        except OSError:
            pass
    return page


# ------------------------------------------------------------------------------- killed and resumed

TREE = {"/": links("/a", "/b"), "/a": links("/a1", "/r"), "/b": links("/a1"), "/a1": b"<p>end",
    "/r": (302, {"Location": "/s"}, b""), "/s": b"<p>there"}
# --------------------------------------------------------------------------- files over the network

FILE = CHANCE.randbytes(3_000_000)


def chunked(body):
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece)
        for piece in (body[i:i + 70_000] for i in range(0, len(body), 70_000))) + b"0\r\n\r\n"


def file_page(data=FILE, breaks=(), ranges=True, etag='"1"', length=True):
    """A file whose n-th response ends after breaks[n] bytes of its body."""
    breaks = iter(breaks)

    def page(handler):
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
        current = etag() if callable(etag) else etag
        start = int(asked[1]) if asked and ranges and handler.headers["If-Range"] in (None,
            current) else 0
        if start and start >= len(data):
            return handler.wfile.write(head(416, {"Content-Range": f"bytes */{len(data)}",
                "Content-Length": 0}))
        body = data[start:]
        headers = {"Content-Length": len(body)} if length else {"Transfer-Encoding": "chunked"}
        headers |= {"ETag": current} if current else {}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if not length:
            body = chunked(body)
        handler.wfile.write(head(206 if start else 200, headers) + body[:next(breaks, None)])
        hang_up(handler)
    return page
