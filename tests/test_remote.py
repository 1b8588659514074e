"""web/remote.py: files over a network that breaks, and the lists of Common Crawl."""
import contextlib
import gzip
import itertools
import socket
import time
import tracemalloc
import urllib.error
import urllib.request
import zlib

import pytest

from web import crawl
from web import connection
from web import remote
from web import warc
from web.remote import common_crawl, open_url
from web_server import (  # noqa: F401
    CHANCE, FILE, TREE, chunked, clock, endless, file_page, hang_up, head, out, raw, records,
    servers, web)


def ranges_asked(web):
    return [int(headers["Range"][6:-1]) for *_, headers in web.visits if "Range" in headers]


def read_all(url, n=100_000):
    with open_url(url) as file:
        return b"".join(iter(lambda: file.read(n), b""))


@pytest.mark.parametrize("breaks", [(), (0,), (1,), (1_000_000, 700_000), (299_999, 0, 0, 5),
    (3_000_000,)])
@pytest.mark.parametrize("kind", [{}, {"etag": None}, {"ranges": False}, {"length": False},
    {"ranges": False, "length": False, "etag": None}], ids=str)
def test_a_broken_connection_is_taken_up_where_it_broke(web, breaks, kind):
    web.pages["/f"] = file_page(breaks=[*breaks], **kind)
    with open_url(web.url + "/f") as file:
        assert file.name == web.url + "/f"
        got = file.read(10) + file.read(0) + file.readline() + file.read()
        assert file.read() == b""
    assert zlib.crc32(got) == zlib.crc32(FILE) and got == FILE
    if kind.get("ranges", True) and breaks and breaks[0] > 1 and kind.get("length", True):
        asked = ranges_asked(web)
        assert len(asked) == len(breaks) - (breaks[0] == 3_000_000) and asked == sorted(asked)
        assert all(0 < at <= breaks[0] if i == 0 else at > 0 for i, at in enumerate(asked))


def test_the_range_begins_at_the_byte_that_was_reached_and_tags_hold(web):
    web.pages["/f"] = file_page(breaks=[524_288, 262_144], etag='"a"')
    assert read_all(web.url + "/f") == FILE
    assert ranges_asked(web) == [524_288, 786_432]
    assert [headers.get("If-Range") for *_, headers in web.visits] == [None, '"a"', '"a"']
    assert {headers["Accept-Encoding"] for *_,
        headers in web.visits} == {"identity"}       # the file, not one made for us
    web.visits.clear()
    web.pages["/f"] = file_page(breaks=[524_288], etag='W/"a"')
    assert read_all(web.url + "/f") == FILE and web.visits[1][2].get("If-Range") is None


def test_an_end_without_a_last_chunk_is_found_by_asking(web):
    whole = FILE[:1 << 19]
    web.pages["/f"] = file_page(whole, breaks=[len(chunked(whole)) - len("0\r\n\r\n")],
        length=False)
    assert read_all(web.url + "/f") == whole and ranges_asked(web) == [len(whole)]


@pytest.mark.parametrize("total", ["3000000", "*"])
def test_a_size_that_shows_late_and_ranges_in_pieces(web, total):
    def part(start, end, sent=None):
        fields = {"Content-Range": f"bytes {start}-{end - 1}/{total}",
            "Content-Length": end - start}
        return raw(head(206, fields), FILE[start:end][:sent], then=hang_up)
    first = raw(head(200, {"Transfer-Encoding": "chunked"}), chunked(FILE)[:300_000],
        then=hang_up)         # 262,144 bytes arrive whole
    pieces = [first, part(262_144, len(FILE), sent=1 << 18)] + ([part(1 << 19, 1 << 20),
        part(1 << 20, len(FILE))] if total != "*" else [part(1 << 19, len(FILE))])
    web.pages["/f"] = lambda handler, pieces=iter(pieces): next(pieces)(handler)
    assert read_all(web.url + "/f") == FILE


def test_a_network_that_goes_away_comes_back(web, monkeypatch, clock):
    web.pages["/f"], urlopen = file_page(breaks=[524_288]), connection.urlopen
    gone = iter([urlopen,
        *[lambda *args, **kwargs: (_ for _ in ()).throw(urllib.error.URLError(socket.gaierror(-2,
            "Name not known")))] * 2, urlopen])
    monkeypatch.setattr(remote, "urlopen", lambda *args, **kwargs: next(gone)(*args, **kwargs))
    assert read_all(web.url + "/f") == FILE and clock.waits == [1, 2, 4]


def test_a_file_that_changes_is_not_glued_together(web):
    other = FILE[:400_000] + CHANCE.randbytes(len(FILE) - 400_000)
    for kind in ({}, {"ranges": False, "etag": None}):
        first, then = file_page(breaks=[524_288], **kind), file_page(other,
            **(kind or {"etag": '"2"'}))
        web.pages["/f"] = lambda handler, answers=iter([first, then]): next(answers)(handler)
        with pytest.raises(remote.RemoteError,
            match=f"{web.url}/f: .*not the same file.*byte 524,288"):
            read_all(web.url + "/f")
    for tag, wrong in (('"1"', "bytes 524287-2999999/3000000"),
        ('"1"', "bytes 524288-2999999/2999999"), ('"2"', "bytes 524288-2999999/3000000"),
        ('"1"', "nonsense")):
        part = raw(head(206, {"Content-Range": wrong, "ETag": tag, "Content-Length": 10}),
            b"x" * 10, then=hang_up)
        web.pages["/f"] = lambda handler, answers=iter([file_page(breaks=[524_288]),
            part]): next(answers)(handler)
        with pytest.raises(remote.RemoteError, match="not the same file"):
            read_all(web.url + "/f")
    longer, shorter = file_page(FILE + b"more", etag='"2"'), file_page(FILE[:100],
        etag='"1"')        # it has grown: the new one, whole
    web.pages["/f"] = lambda handler, answers=iter([file_page(breaks=[524_288]),
        longer]): next(answers)(handler)
    assert read_all(web.url + "/f") == FILE + b"more"
    web.pages["/f"] = lambda handler, answers=iter([file_page(breaks=[524_288]),
        shorter]): next(answers)(handler)
    with pytest.raises(remote.RemoteError, match="416"):
        read_all(web.url + "/f")


def test_tries_end_and_pauses_grow(web, clock, capsys):
    web.pages["/f"] = file_page(breaks=[300_000, *[0] * 99])
    with pytest.raises(remote.RemoteError,
        match=f"{web.url}/f: gave up at byte 300,000 after 6 tries"):
        read_all(web.url + "/f")
    assert clock.waits == [1, 2, 4, 8, 16] and len(web.visits) == 6
    assert f"1 s for {web.url}/f at byte 300,000" in capsys.readouterr().err
    clock.waits.clear()
    web.pages["/f"] = file_page(FILE * 5,
        breaks=[1_500_000] * 10)          # each goes on a megabyte: no reason to give up
    assert read_all(web.url + "/f") == FILE * 5 and clock.waits == [1] * 9


@pytest.mark.parametrize("status, headers, waits", [(503, {"Retry-After": "17"}, [17]),
    (429, {"Retry-After": "100000"}, [300]), (500, {}, [1]), (502, {}, [1]),
                                                    (503, {"Retry-After": "0"}, [1]),
                                                    (429, {"Retry-After": "never"}, [1])])
def test_a_busy_server_is_asked_again_when_it_says(web, clock, status, headers, waits):
    web.pages["/f"] = lambda handler, answers=iter([(raw(head(status,
        {"Content-Length": 0, **headers}), then=hang_up)), file_page()]): next(answers)(handler)
    assert read_all(web.url + "/f") == FILE and clock.waits == waits


@pytest.mark.parametrize("status, waits", [(403, [1, 4]), (503, [1, 4]), (429, [1, 4]),
    (500, [1, 2])])
def test_what_limits_our_rate_inside_a_file_is_waited_out(web, clock, status, waits):
    """Common Crawl's CDN says 403 to who asks too fast, S3 says 503."""
    busy = raw(head(status, {"Content-Length": 0}), then=hang_up)
    web.pages["/f"] = lambda handler, answers=iter([file_page(breaks=[1 << 20]),
        *[busy] * (len(waits) - 1), file_page()]): next(answers)(handler)
    assert read_all(web.url + "/f") == FILE and clock.waits == waits
    assert ranges_asked(web) == [1 << 20] * 2


def test_a_403_at_the_start_is_waited_out_from_a_host_that_has_given_before(web, clock, capsys):
    web.pages = {"/a": file_page(FILE[:1000]), "/c": (403, {}, b"")}
    web.pages["/b"] = lambda handler, answers=iter([raw(head(403,
        {"Content-Length": 0, "Retry-After": "9"}), then=hang_up)] * 2
        + [file_page()]): next(answers)(handler)
    assert len(read_all(web.url + "/a")) == 1000 and read_all(web.url + "/b") == FILE
    assert clock.waits == [9, 9]
    clock.waits.clear()
    with pytest.raises(remote.RemoteError, match="gave up at byte 0 after 4 tries.*403"):
        open_url(web.url + "/c")
    assert clock.waits == [1, 4, 16] and f"1 s for {web.url}/c at byte 0" in capsys.readouterr().err


def test_a_403_that_stays_inside_a_file_ends(web, clock):
    busy = raw(head(403, {"Content-Length": 0}), then=hang_up)
    web.pages["/f"] = lambda handler, answers=itertools.chain([file_page(breaks=[524_288])],
        itertools.repeat(busy)): next(answers)(handler)
    with pytest.raises(remote.RemoteError, match="gave up at byte 524,288 after 6 tries.*403"):
        read_all(web.url + "/f")
    assert clock.waits == [1, 4, 16, 64, 256]


def test_a_first_403_says_what_it_may_be(web, clock):
    web.pages["/f"] = (403, {}, b"")
    with pytest.raises(remote.RemoteError,
        match="403 x; look at the address; or wait: Common Crawl.*too fast"):
        open_url(web.url + "/f")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_what_is_not_there_is_said_at_once(web, clock, status):
    web.pages["/f"] = (status, {}, b"")
    with pytest.raises(remote.RemoteError,
        match=f"{web.url}/f: the server says {status} x; ") as error:
        open_url(web.url + "/f")
    assert error.value.status == status and not clock.waits and isinstance(error.value, OSError)


def test_no_server_and_no_address(clock):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(remote.RemoteError, match="gave up at byte 0 after 1 tries.*refused"):
            open_url(f"http://127.0.0.1:{sock.getsockname()[1]}/f")
    with pytest.raises(ValueError, match="file:///etc/passwd"):
        open_url("file:///etc/passwd")
    assert not clock.waits


def test_redirects_and_endless_ones(web):
    web.pages = {"/f": (302, {"Location": "/g"}, b""), "/g": file_page(breaks=[524_288]),
        "/loop": (302, {"Location": "/loop"}, b"")}
    assert read_all(web.url + "/f") == FILE and ranges_asked(web) == [524_288] * 2
    with pytest.raises(remote.RemoteError, match="/loop.*302"):
        open_url(web.url + "/loop")


@pytest.mark.parametrize("page", [endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    endless(head(302, {"Location": "/g"}), b"y" * 9000), endless(head(404, {}), b"y" * 9000),
                                  endless(b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 60_000 + b"\r\n"),
                                  (302, {"Location": "ftp://127.0.0.1/f"}, b""),
                                  (206, {"Content-Range": "bytes 0-" + "9" * 9000 + "/1"}, b"y")])
def test_answers_without_end_are_not_kept_in_memory(web, page, clock):
    web.pages = {"/f": page, "/g": (404, {}, b"")}
    tracemalloc.start()
    with pytest.raises(remote.RemoteError):
        read_all(web.url + "/f")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_a_file_that_hardly_comes_is_given_up(web, clock):
    def drip(handler):
        handler.wfile.write(head(200, {"Content-Length": 10 ** 9}))
        with contextlib.suppress(OSError):
            for _ in range(200):
                clock.now += 50
                handler.wfile.write(b"y")
                time.sleep(0.001)
    web.pages["/f"] = drip
    with pytest.raises(remote.RemoteError, match="gave up"):
        read_all(web.url + "/f")


def test_a_proxy_of_the_environment_is_used(web, monkeypatch):
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", web.url)
    web.pages["http://far.example/f"] = (200, {}, b"through the proxy")
    assert open_url("http://far.example/f").read() == b"through the proxy"


def test_memory_does_not_grow_with_the_file(web):
    block, ends = FILE[:1 << 20], iter([9, 24])
    def page(handler):
        handler.wfile.write(head(200, {"Content-Length": 24 * len(block)}))
        for _ in range(next(ends)):
            handler.wfile.write(block)
        hang_up(handler)
    web.pages["/f"] = page
    with open_url(web.url + "/f") as file:
        tracemalloc.start()
        assert sum(map(len, iter(lambda: file.read(1 << 16), b""))) == 24 << 20
        assert len(web.visits) == 2
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
        tracemalloc.stop()


def test_a_crawl_is_read_over_the_network_as_from_the_disk(web, out):
    web.pages = TREE
    crawl.crawl([web.url], out)
    data = out.read_bytes()
    web.pages = {"/x.warc.gz": file_page(data, breaks=[len(data) // 2]),
        "/bad.gz": (200, {"Content-Encoding": "gzip"}, data)}
    for name in ("/x.warc.gz",
        "/bad.gz"):     # some servers call a .gz gzip-encoded: it is the file all the same
        with open_url(web.url + name) as file:
            assert [(r.id, r.body, r.offset) for r in warc.read_warc(file)] == [(r.id, r.body,
                r.offset) for r in records(out)]


# ------------------------------------------------------------------------------------- Common Crawl

NAME = "CC-MAIN-2024-51"
LINES = [
    f"crawl-data/{NAME}/segments/1733066{i}.56/warc/CC-MAIN-20241201162023-0000{i}.warc.gz"
    for i in range(5)]


def test_common_crawl(web):
    listing = (200, {}, gzip.compress("".join(line + "\n" for line in LINES).encode()))
    web.pages[f"/crawl-data/{NAME}/warc.paths.gz"] = web.pages[
        f"/mirror/crawl-data/{NAME}/warc.paths.gz"] = listing
    assert common_crawl(NAME, 3, web.url) == common_crawl(NAME, 3,
        web.url + "/") == [f"{web.url}/{line}" for line in LINES[:3]]
    assert common_crawl(NAME, base=f"{web.url}/mirror/") == [f"{web.url}/mirror/{LINES[0]}"]
    with pytest.raises(ValueError, match="5 lines, but 6"):
        common_crawl(NAME, 6, web.url)


@pytest.mark.parametrize("name", ["", "CC-MAIN-2024", "2024-51", "CC-MAIN-2024-51/",
    "cc-main-2024-51", "CC-MAIN-2024-51\n", "../CC-MAIN-2024-51", "CC-NEWS-2024-51",
    "CC-MAIN-٢٠٢٤-51"])
def test_names_that_no_crawl_has(web, name):
    with pytest.raises(ValueError, match="CC-MAIN-YEAR-WEEK"):
        common_crawl(name, 1, web.url)
    assert not web.visits


@pytest.mark.parametrize("answer, what", [((404, {}, b""),
    "says 404.*no such crawl.*index.commoncrawl.org"), ((403, {}, b""),
    "says 403.*too fast.*no such crawl"), ((200, {}, b"<html>"), "not a gzip list"),
                                          ((200, {}, gzip.compress(b"x" * 999)[:-9]),
                                              "not a gzip list|1 lines"),
                                              ((200, {}, gzip.compress(b"a/b.warc.gz\n")),
                                                  "1 paths"),
                                          ((200, {}, gzip.compress("ä\n".encode())),
                                              "not a gzip list"),
                                              ((200, {}, gzip.compress(b"")), "0 lines")])
def test_listings_that_are_none(web, answer, what):
    web.pages[f"/crawl-data/{NAME}/warc.paths.gz"] = answer
    with pytest.raises(ValueError, match=f"{web.url}/crawl-data/{NAME}/warc.paths.gz: .*({what})"):
        common_crawl(NAME, 1, web.url)
    with pytest.raises(ValueError):
        common_crawl(NAME, 0, web.url)
