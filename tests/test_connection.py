"""web/connection.py: a response as it came, within limits of time and size."""
import contextlib
import re
import socket
import threading
import time
import tracemalloc
from email.utils import formatdate

import pytest

from web import crawl
from web import connection
from web_server import (  # noqa: F401
    clock, endless, head, links, out, raw, responses, servers, web)


def test_retry_after():
    assert connection.retry_after({"retry-after": "7"}) == 7 and connection.retry_after({}) is None
    assert connection.retry_after({"retry-after": "soon"}) is None
    assert 55 < connection.retry_after({"retry-after": formatdate(time.time() + 60,
        usegmt=True)}) <= 60
    assert connection.retry_after({"retry-after": formatdate(0, usegmt=True)}) == 0


def test_a_server_that_falls_silent_is_cut_by_time_and_one_that_drips_too(web, out, monkeypatch):
    monkeypatch.setattr(connection, "TIMEOUT_S", 0.15)
    done = threading.Event()

    def drip(handler):
        crawl.time.now += 0.05          # the clock is ours: three drops and the time is over
        for _ in range(100):
            handler.wfile.write(b"y")
            crawl.time.now += 0.05
            if done.wait(0.01):
                return
    web.pages = {"/": links("/silent", "/drip", "/mute"),
        "/silent": raw(head(200, {"Content-Length": 99}), b"only this",
            then=lambda handler: done.wait(5)),
                 "/drip": raw(head(200, {"Content-Length": 999}), then=drip),
                 "/mute": raw(then=lambda handler: done.wait(5))}
    start = time.perf_counter()
    counts = crawl.crawl([web.url], out)
    done.set()
    assert counts == {"fetched": 4, "status_200": 3, "truncated_time": 2, "no_html": 2,
        "failed_TimeoutError": 1}
    assert time.perf_counter() - start < 2
    _, silent, drip = responses(out)
    assert silent.body == b"only this" and silent.truncated == drip.truncated == "time"
    assert 1 <= len(drip.body) < 20


CHUNKS = head(200, {"Content-Type": "text/html", "Transfer-Encoding": "chunked"})
ENDLESS = {
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "hints": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100),
    "a status line": (b"HTTP/1.1 200 ", b"x" * 9000), "a header": (b"HTTP/1.1 200 OK\r\nX: ",
        b"y" * 9000), "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100),
    "headers of an interim response": (b"HTTP/1.1 100 Continue\r\n", b"X: y\r\n" * 100),
    "long headers": (b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 60_000 + b"\r\n"),
    "no HTTP": (b"", b"\0" * 9000), "empty lines": (b"", b"\r\n" * 4000),
    "a body": (head(200, {"Content-Type": "text/html"}), b"y" * 9000),
    "a body longer than it says": (head(200, {"Content-Length": 99, "Content-Type": "text/html"}),
        b"y" * 9000), "a body of 10^18 bytes": (head(200, {"Content-Length": 10 ** 18}),
        b"y" * 9000),
    "chunks of a byte": (CHUNKS, b"1\r\na\r\n" * 1000), "chunk extensions": (CHUNKS,
        b"1;" + b"x" * 60_000 + b"\r\na\r\n"), "a chunk extension": (CHUNKS + b"1;", b"x" * 9000),
    "a chunk": (CHUNKS + b"7fffffff\r\n", b"y" * 9000), "trailers": (CHUNKS + b"0\r\n",
        b"X: y\r\n" * 1000), "a trailer": (CHUNKS + b"0\r\nX: ", b"y" * 9000)}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_cut_and_not_kept(web, out, monkeypatch, name):
    monkeypatch.setattr(crawl, "MAX_BODY", 50_000)
    web.pages["/"] = endless(*ENDLESS[name])
    tracemalloc.start()
    try:
        counts = crawl.crawl([web.url], out)
        assert counts["truncated_length"] == 1 or name == "a body longer than it says"
    except ValueError as error:
        assert re.search("'fetched': 1, 'failed_[A-Za-z]+': 1}$", str(error))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


@pytest.mark.parametrize("first", [b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
    b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 C\r\nA: b\r\n\r\n"])
def test_interim_responses_are_passed_over(web, out, first):
    web.pages["/"] = raw(first + head(200, {"Content-Type": "text/html", "Content-Length": 5}),
        b"<p>hi")
    assert crawl.crawl([web.url], out) == {"fetched": 1, "status_200": 1}
    assert [(r.status, r.body, r.http_headers) for r in responses(out)] == [(200, b"<p>hi",
        {"content-type": "text/html", "content-length": "5"})]


@pytest.mark.parametrize("start, piece, want", [(b"", b"HTTP/1.1 100 Continue\r\n\r\n",
    "failed_TimeoutError"), (b"HTTP/1.1 200 OK\r\n", b"H", "failed_TimeoutError"),
                                                (head(200, {}), b"y", "truncated_time"),
                                                (CHUNKS, b"1\r\na\r\n", "truncated_time"),
                                                (CHUNKS + b"0\r\n", b"X: y\r\n", "truncated_time")])
def test_the_time_is_for_all_of_a_fetch(web, out, start, piece, want):
    """However much comes: the clock is ours, and each piece takes ten seconds of it."""
    def drip(handler):
        with contextlib.suppress(OSError):
            handler.wfile.write(start)
            for _ in range(200):
                crawl.time.now += 10
                handler.wfile.write(piece)
                time.sleep(0.001)
    web.pages = {"/": links("/drip"), "/drip": drip}
    before = crawl.time.now
    counts = crawl.crawl([web.url], out)
    assert counts[want] == 1 and counts["fetched"] == 2 and crawl.time.now - before < 1500


def test_connecting_counts_too(monkeypatch):
    """All addresses of a host, none of which answers, have the time of one fetch together."""
    tried = []

    def create(place, timeout):
        tried.append(timeout)
        crawl.time.now += timeout / 2
        raise TimeoutError
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args,
        **more: [(0, 0, 0, "", (f"192.0.2.{i}", 80)) for i in range(100)])
    monkeypatch.setattr(socket, "create_connection", create)
    with pytest.raises(TimeoutError):
        connection.exchange("http://a.example/", "x", 1)
    assert tried[:3] == [60, 30, 15] and sum(tried) <= 120
