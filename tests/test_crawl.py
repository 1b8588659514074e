"""web/crawl.py against servers on loopback that behave as the web does, with a clock that only waiting moves."""
import contextlib
import fcntl
import gzip
import http.server
import itertools
import os
import random
import re
import resource
import shutil
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
import urllib.error
import urllib.request
import zlib
from collections import Counter
from email.utils import formatdate
from types import SimpleNamespace

import pytest

from web import crawl
from web import addresses
from web import connection
from web import remote
from web import warc
from conftest import run_script
from web.addresses import normalise
from web.encoding import CODECS
from web.remote import common_crawl, open_url
from web.robots import allowed, matches, parse_robots

CHANCE = random.Random(0)


class Server:
    """pages: {path: HTML, or (status, headers, body), or a function of the handler that writes to the wire itself}."""

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
                status, headers, body = page if isinstance(page, tuple) else (200, {"Content-Type": "text/html"}, page)
                self.wfile.write(head(status, {"Content-Length": len(body), **headers}) + body)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True)
        self.http.handle_error = lambda *args: None
        self.host = f"127.0.0.1:{self.http.server_port}"
        self.url = f"http{'s' if tls else ''}://{self.host}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def paths(self):
        return [path for path, *_ in self.visits if path != "/robots.txt"]


def head(status, headers):
    return "\r\n".join([f"HTTP/1.1 {status} x", *(f"{k}: {v}" for k, v in headers.items()), "", ""]).encode()


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
    """Time as web/crawl.py sees it: begins at 1000 s, and only time.sleep moves it. clock.waits: how long, each."""
    fake = SimpleNamespace(waits=[], now=1000.0, time=time.time, strftime=time.strftime, gmtime=time.gmtime, perf_counter=time.perf_counter)

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


# ------------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize("link, want", [
    ("HTTP://Example.org:80/a/../%7euser#top", "http://example.org/~user"), ("https://example.org:443", "https://example.org/"),
    ("https://example.org:80", "https://example.org:80/"), ("//b.org/x", "http://b.org/x"), ("", "http://a.org/d/e?q"), ("#x", "http://a.org/d/e?q"),
    ("f", "http://a.org/d/f"), ("../../..", "http://a.org/"), ("/a/b/..", "http://a.org/a/"), ("./", "http://a.org/d/"), ("?r=1&s", "http://a.org/d/e?r=1&s"),
    (" \n/x y\t", "http://a.org/x%20y"), ("/%e4%2f%41", "http://a.org/%E4%2FA"), ("/ä?ß=\"<", "http://a.org/%C3%A4?%C3%9F=%22%3C"),
    ("/%zz%", "http://a.org/%zz%"), ("http://bücher.example/", "http://xn--bcher-kva.example/"), ("http://a.org./", "http://a.org/"),
    ("http://[::1]:8000/x", "http://[::1]:8000/x"), ("http://a.org//b//c", "http://a.org//b//c"), ("/a;b=c/d:e@f", "http://a.org/a;b=c/d:e@f"),
    ("http://a.org?x", "http://a.org/?x"), ("/%2e%2e/x", "http://a.org/x"), ("/x?", "http://a.org/x"), ("/ä\ud800"[:2], "http://a.org/%C3%A4"),
    # empty segments are segments
    ("/a//b", "http://a.org/a//b"), ("/a//../b", "http://a.org/a/b"), ("//b.org//", "http://b.org//"), ("http://b.org//../x", "http://b.org/x"), ("..//x", "http://a.org//x"), ("x//", "http://a.org/d/x//"),
    ("/a/./b/../../c/.", "http://a.org/c/"), ("/a/%2E%2e/b%2fc/.%2e/", "http://a.org/"), ("/a;p/..;x", "http://a.org/a;p/..;x"),
    # what browsers do to links that people type
    ("\\\\b.org\\x\\..\\y?a\\b", "http://b.org/y?a%5Cb"), ("\\x", "http://a.org/x"), ("http:\\\\b.org", "http://b.org/"), ("http:///b.org/x", "http://b.org/x"), ("////b.org", "http://b.org/"),
    ("https:b.org", "https://b.org/"), ("http:f", "http://a.org/d/f"), ("http:/f", "http://a.org/f"), ("https:/b.org", "https://b.org/"), ("http:?r", "http://a.org/d/e?r"),
    ("ht\ntp://b.o\trg/a\r\nb", "http://b.org/ab"), ("\0 \x1f/x\x0c ", "http://a.org/x"), ("/x\xa0", "http://a.org/x%C2%A0"), ("http://a.org\\@b/", "http://a.org/@b/"), ("/a?b#c?d", "http://a.org/a?b"),
    ("#a?b", "http://a.org/d/e?q"), ("?", "http://a.org/d/e"), ("/%", "http://a.org/%"), (":80/x", "http://a.org/d/:80/x"), ("1:2", "http://a.org/d/1:2"), ("./a:b", "http://a.org/d/a:b"),
    # one host has one name
    ("http://B%C3%BCcher.example/", "http://xn--bcher-kva.example/"), ("http://faß.de/", "http://xn--fa-hia.de/"), ("http://ＧＯ。org/", "http://go.org/"), ("http://a\xadb.org/", "http://ab.org/"),
    ("http://BU\u0308CHER.example/", "http://xn--bcher-kva.example/"), ("http://0x7f.1/", "http://127.0.0.1/"), ("http://017.0.0.010/", "http://15.0.0.8/"), ("http://16909060/", "http://1.2.3.4/"),
    ("http://a.org:080/", "http://a.org/"), ("http://a.org:/", "http://a.org/"), ("https://a.org:443/?", "https://a.org/"), ("http://[::1]:80/", "http://[::1]/"), ("http://[0:0::0:1]/", "http://[::1]/"), ("http://[2001:DB8:0:0:1::]/", "http://[2001:db8:0:0:1::]/")])
def test_an_address_has_one_spelling(link, want):
    assert normalise(link, "http://a.org/d/e?q") == want
    assert normalise(want) == want


@pytest.mark.parametrize("link", ["mailto:x@y.org", "javascript:void(0)", "data:text/html,x", "ftp://a.org/", "file:///etc/passwd", "http://",
                                  "http://me:secret@a.org/", "http://[::::]/", "http://[1:2]/", "http://[12345::]/", "http://[]/", "http://a.org:99999/", "http://a.org:x/", "http://[::1", "http://a b/", "http://a..b/",
                                  "http://" + "a" * 64 + ".org/", "http://" + "ü" * 70 + ".org/", "http://a.org/\ud800", "tel:123", "http://a.org:80:80/", "http://1.2.3.4.5/", "http://256.1.1.1/", "http://1.2.3.08/", "?", "/x", "http:", "https:?x"])
def test_what_is_no_address_is_said(link):
    with pytest.raises(ValueError):
        normalise(link)


# ------------------------------------------------------------------------------------------------ robots.txt


@pytest.mark.parametrize("text, want", [
    ("User-agent: *\nDisallow: /a", [(False, "/a")]),
    ("User-agent: other\nDisallow: /\n", []),
    ("User-agent: *\nDisallow: /\n\nUser-agent: LongHand/2.0 (x)\nAllow: /b # yes\n", [(True, "/b")]),
    ("User-agent: longhand-images\nDisallow: /", []),
    ("User-agent: *\nDisallow: /\nUser-agent: longhand\nDisallow:", []),
    ("User-agent: a\nUser-agent: longhand\nDisallow: /x\n\nUser-agent: b\nDisallow: /y\nUser-agent: longhand\nDisallow: /z", [(False, "/x"), (False, "/z")]),
    ("User-agent: longhand\nSitemap: http://a/\n\nUser-agent: b\nDisallow: /x", [(False, "/x")]),
    ("user-AGENT : *\r\nDISALLOW :/x\r\n", [(False, "/x")]), ("User-agent: *\rDisallow: /x\r", [(False, "/x")]),
    ("Disallow: /before\nnonsense\nUser-agent: *\nDisallow: cgi", [(False, "/cgi")]),
    ("User-agent: *\nDisallow: /%7ea ä", [(False, "/~a%20%C3%A4")]), ("<html><p>User-agent: soft 404", []), ("", [])])
def test_robots_groups(text, want):
    assert parse_robots(text.splitlines()) == (want, None)


@pytest.mark.parametrize("value, want", [("2", 2.0), ("0.5", 0.5), ("x", None), ("-1", None), ("inf", None), ("", None), ("1e3", None), ("2\nCrawl-delay: 7", 7.0)])
def test_crawl_delay(value, want):
    assert parse_robots(f"User-agent: *\nCrawl-delay: {value}\nDisallow: /a".splitlines()) == ([(False, "/a")], want)
    assert parse_robots(f"User-agent: *\nCrawl-delay: {value}\nUser-agent: longhand\nDisallow:".splitlines()) == ([], None)


@pytest.mark.parametrize("pattern, path, want", [
    ("/fish", "/fish", 1), ("/fish", "/fishheads/x?y", 1), ("/fish", "/Fish", 0), ("/fish", "/cat/fish", 0), ("/fish/", "/fish", 0), ("/*.php", "/a/b.php?c", 1),
    ("/*.php", "/", 0), ("/*.php$", "/a.php", 1), ("/*.php$", "/a.php?b", 0), ("/*.php$", "/a.php.php", 1), ("/fish*.php", "/fishy.php", 1),
    ("/fish*.php", "/x/fish.php", 0), ("/a$", "/a", 1), ("/a$", "/ab", 0), ("*", "/", 1), ("/*", "/", 1), ("/$", "/", 1), ("/$", "/x", 0), ("/a*$", "/a", 1),
    ("/a*b*$", "/a-b-", 1), ("/a*bc$", "/abcbc", 1), ("/a*ab$", "/ab", 0), ("/a$b", "/a$b", 1), ("/a**b", "/axb", 1), ("*x", "/ax", 1)])
def test_patterns(pattern, path, want):
    assert matches(pattern, path) == want


def test_of_the_rules_that_match_the_longest_decides():
    def verdict(path, **rules):
        return allowed([(key[0] == "a", value) for key, value in rules.items()], f"http://a.org{path}")
    assert verdict("/page", a="/p", d="/") and not verdict("/page", a="/", d="/p") and verdict("/page", d="/p", a="/p")
    assert not verdict("/page.htm", a="/page", d="/*.htm") and verdict("/", a="/$", d="/") and not verdict("/page", a="/$", d="/")
    assert verdict("/x") and not verdict("/x?print=1", d="/*?")


def test_hostile_patterns_take_no_time():
    start = time.process_time()
    assert not matches("/" + "*a" * 500 + "b", "/" + "a" * 2000)
    assert time.process_time() - start < 0.1


def test_robots_are_obeyed_and_their_refusals_counted(web, out, capsys):
    web.pages = {"/": links("/a", "/private/b", "/c"), "/a": b"<p>a", "/private/b": b"<p>b", "/c": b"<p>c",
                 "/robots.txt": (200, {}, b"\xef\xbb\xbfUser-agent: *\nDisallow: /private")}
    counts = crawl.crawl([web.url], out)
    assert web.visits[0][0] == "/robots.txt" and web.paths() == ["/", "/a", "/c"]
    assert counts == {"fetched": 3, "status_200": 3, "robots_disallow": 1}
    assert f"robots_disallow  {web.url}/private/b\n" in capsys.readouterr().err
    assert all(headers["User-Agent"] == "longhand/1.0" for *_, headers in web.visits)


@pytest.mark.parametrize("robots, want", [
    ((404, {}, b"User-agent: *\nDisallow: /"), None), ((401, {}, b""), None), ((500, {}, b""), "robots_unreachable"), ((503, {}, b""), "robots_unreachable"),
    ((429, {}, b""), "robots_unreachable"), (raw(then=hang_up), "robots_unreachable"), ((301, {"Location": "/r2"}, b""), "robots_disallow"),
    ((301, {"Location": "mailto:x"}, b""), None), ((302, {"Location": "/robots.txt"}, b""), None), ((200, {}, b"\xff\xfe\0"), None),
    ((200, {"Content-Encoding": "gzip"}, gzip.compress(b"User-agent: longhand\nDisallow: /")), "robots_disallow"),
    ((200, {}, b"User-agent: *\nCrawl-delay: 86400"), "crawl_delay_too_long")])
def test_robots_of_every_status(web, out, robots, want):
    web.pages = {"/": b"<p>x", "/robots.txt": robots, "/r2": (200, {}, b"User-agent: *\nDisallow: /")}
    if want:
        with pytest.raises(ValueError, match=f"{web.url}/: nothing could be fetched: ..{want}': 1}}$"):
            crawl.crawl([web.url], out)
        assert "/" not in web.paths() and not list(out.parent.iterdir())
    else:
        assert crawl.crawl([web.url], out) == {"fetched": 1, "status_200": 1}


def test_a_huge_robots_file_is_read_to_its_limit(web, out, monkeypatch):
    monkeypatch.setattr(crawl, "MAX_ROBOTS", 1000)
    rules = b"User-agent: *\nDisallow: /a\n" + b"#" * 961 + b"\nDisallow: /bc\nDisallow: /"
    web.pages = {"/": links("/a", "/b"), "/b": b"", "/robots.txt": (200, {}, rules)}
    assert rules[:1000].endswith(b"\nDisallow: /")                # cut to what would forbid all
    assert crawl.crawl([web.url], out) == {"fetched": 2, "status_200": 2, "robots_disallow": 1}
    robots = [r for r in records(out) if r.type == "response"][0]
    assert robots.truncated == "length" and robots.body == rules[:1000]


# ------------------------------------------------------------------------------------------------ the order of things


def test_breadth_first_each_once_and_not_too_deep(web, out):
    web.pages = {"/": links("/a", "/b", "/#x"), "/a": links("/a1", "/b", "/"), "/b": links("/b1"), "/a1": links("/a2"), "/b1": links("/b2", "/a2"), "/a2": b"x"}
    counts = crawl.crawl([web.url, web.url + "/"], out, max_depth=2)
    assert web.paths() == ["/", "/a", "/b", "/a1", "/b1"]
    assert counts == {"fetched": 5, "status_200": 5, "beyond_max_depth": 2}
    assert [path_of(r) for r in responses(out)] == web.paths()
    notes = {path_of(r): r.body.decode() for r in records(out) if r.type == "metadata"}
    assert f"hopsFromSeed: LL\r\nvia: {web.url}/b\r\n" in notes["/b1"] and "via" not in notes["/"] and "hopsFromSeed: P" in notes["/robots.txt"]


def test_page_limit(web, out):
    web.pages = {"/": links(*(f"/{i}" for i in range(9))), **{f"/{i}": b"<p>x" for i in range(9)}}
    assert crawl.crawl([web.url], out, max_pages=4) == {"fetched": 4, "status_200": 4, "beyond_max_pages": 6}
    assert web.paths() == ["/", "/0", "/1", "/2"]


def test_other_sites_only_if_asked_for_and_by_their_own_robots(servers, out):
    here, there = servers(), servers()
    here.pages = {"/": links(f"{there.url}/x", f"{there.url}/y", f"{there.url}/x#2", "/z"), "/z": b"<p>z"}
    there.pages = {"/x": links("/y"), "/y": b"<p>y", "/robots.txt": (200, {}, b"User-agent: *\nDisallow: /y")}
    assert crawl.crawl([here.url], out) == {"fetched": 2, "status_200": 2, "other_site": 2} and not there.visits
    out.unlink()
    assert crawl.crawl([here.url], out, other_sites=True) == {"fetched": 3, "status_200": 3, "robots_disallow": 1}
    assert [path for path, *_ in there.visits] == ["/robots.txt", "/x"]


def test_visits_to_a_host_are_a_delay_apart_whatever_they_are(servers, out, clock):
    web, other = servers(), servers()
    web.pages = {"/": links("/a", "/r", "/gone", f"{other.url}/"), "/a": b"<p>a", "/r": (302, {"Location": "/b"}, b""), "/b": b"<p>b", "/hang": raw(then=hang_up)}
    other.pages = {"/": b"<p>", "/robots.txt": (200, {}, b"User-agent: *\nCrawl-delay: 7.5")}
    crawl.crawl([web.url], out, delay_s=2, other_sites=True)
    times = [at for _, at, _ in web.visits]
    assert len(times) == 6 and [b - a for a, b in itertools.pairwise(times)] == [2.0] * 5
    assert other.visits[1][1] - other.visits[0][1] == 7.5 and other.visits[0][1] == times[-1]     # nobody waits for another


def test_the_delay_counts_from_the_end_of_a_slow_visit(web, out, clock):
    def slow(handler):
        clock.now += 10
        handler.wfile.write(head(200, {"Content-Length": 0}))
    web.pages = {"/": links("/slow", "/a"), "/slow": slow, "/a": b"<p>a"}
    crawl.crawl([web.url], out)
    assert [at for _, at, _ in web.visits] == [1000, 1001, 1002, 1013]


# ------------------------------------------------------------------------------------------------ links


@pytest.mark.parametrize("html, want", [
    (b'<A HREF=/a>x</A><a class="x" href=\'/b\'>', ["/a", "/b"]), (b'<a href="/a?x=1&amp;y=2">', ["/a?x=1&y=2"]), (b'<a title="a > b" href="/a">', ["/a"]),
    (b'<!-- <a href="/a"> --><a href="/b">', ["/b"]), (b'<script>"<a href=/a>"</script><style><a href=/b></style><textarea><a href=/c></textarea>', []),
    # character references need their semicolon before = and letters, and names in a page are as its owner wrote them
    (b'<a href="v?id=5&section=2&copy=3&para&reg1=4&amp;x=&lt;&#47;&#x2F">', ["v?id=5&section=2&copy=3%B6&reg1=4&x=%3C//"]), (b"<a href=a?b&copy>", ["a?b%A9"]),
    (b"<a href='/a\nb'\tREL=external><a/href=/c>", ["/a\nb", "/c"]), (b'<a href="/a"title=x><a href=/b/><a href= >', ["/a", "/b/", ""]), (b"<template><a href=/a></template><noscript><a href=/b></noscript>", ["/b"]),
    (b'<p title="<a href=/a>"><title><a href=/b></title><a href=/c>', ["/c"]), (b"<meta name=robots content='otherbot: nofollow'><a href=/a>", ["/a"]), (b"<meta name=robots content='longhand: nofollow'><a href=/a>", []),
    (b"<meta name=robots content='unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT, nofollow'><a href=/a>", []), (b"<script>'<meta name=robots content=nofollow>'</script><a href=/a>", ["/a"]),
    (b'<!-- <a href="/a">', []), (b'<script><a href="/a">', []), (b"<!--><a href=/a>", ["/a"]), (b'<a name="x"><a href><a>', [""]), (b"<abbr href=/a><a\nhref=/b>", ["/b"]),
    (b'<map><area href="/a"></map></a href="/b">', ["/a"]), (b'<a rel="noopener,NoFollow" href="/z"><a rel="noopener NoFollow" href="/a"><a rel="noopener" href="/b">', ["/b"]),
    (b'<a href="/a"><meta name="Robots" content="noindex, NOFOLLOW">', []), (b'<meta name=longhand content=none><a href=/a><meta name=robots content=index>', []),
    (b'<meta name="robots" content="noindex"><meta name="otherbot" content="nofollow"><meta name="robots" content="max-image-preview:none"><a href="/a">', ["/a"]),
    ("<a href='/ä'>".encode("utf-16"), ["/ä"]), (b"<a href=/a<a href=/b>", ["/a<a"])])
def test_links(html, want):
    assert crawl.links_of(warc.Record(url="http://a.org/d/", body=html), Counter()) == (want, "http://a.org/d/")


@pytest.mark.parametrize("encoding, want", [
    ("windows-1252", "/%C3%A4?q=%E4&%26%2329190%3B"), ("utf-8", "/%C3%A4?q=%C3%A4&%E7%88%86"), ("gbk", "/%C3%A4?q=%26%23228%3B&%B1%AC"), ("shift_jis", "/%C3%A4?q=%26%23228%3B&%94%9A"),
    ("gb18030", "/%C3%A4?q=%810%8A1&%B1%AC"), ("utf-16le", "/%C3%A4?q=%C3%A4&%E7%88%86"), ("iso-2022-jp", "/%C3%A4?q=%26%23228%3B&%1B$BGz%1B(B"), ("big5", "/%C3%A4?q=%26%23228%3B&%C3z")])
def test_the_query_of_a_link_is_in_the_encoding_of_its_page(encoding, want):
    """Values as Chromium has them (tests/peers/test_charset_peers.py asks it)."""
    for html in ("<a href='/\u00e4?q=\u00e4&\u7206#\u00e4'>", "<a href='/&#228;?q=&auml;&&#x7206;#&auml;'>", "<a href=' \n/\u00e4?q\t=\u00e4\n&\u7206 \n'>"):
        data = html.encode("utf-16-le" if encoding == "utf-16le" else CODECS.get(encoding, encoding), "xmlcharrefreplace")
        links, base = crawl.links_of(warc.Record(url="http://a.org/", body=data, charset=encoding), Counter())
        assert normalise(links[0], base) == normalise("http://a.org" + want)


@pytest.mark.parametrize("base, want", [("HTTP://A.org", "http://a.org/z"), ("http://a.org?x/y", "http://a.org/z"), ("http://a.org/b/c#/d/e", "http://a.org/b/z"), ("http://a.org:80/x y/ä", "http://a.org/x%20y/z")])
def test_what_others_wrote_is_a_base(base, want):
    assert normalise("z", base) == want


def test_links_without_a_query_or_to_other_things_stay_as_they_are():
    for link in ("/\u00e4", "#\u00e4?\u00e4", "mailto:x", ""):
        assert addresses.in_encoding(link, "koi8-r") == link


@pytest.mark.parametrize("href, want", [("/e/", "http://a.org/e/"), ("http://b.org", "http://b.org/"), ("mailto:x", "http://a.org/d/"), ("", "http://a.org/d/"), ("//[", "http://a.org/d/")])
def test_base(href, want):
    page = warc.Record(url="http://a.org/d/", body=f'<base target=x><base href="{href}"><base href="/second/"><a href=x>'.encode())
    assert crawl.links_of(page, Counter()) == (["x"], want)


def test_links_take_linear_time():
    start = time.process_time()
    for piece in (b"<a href=x ", b"<!--", b"<a href='", b"<script>", b"<a ='\">", b"<"):
        crawl.links_of(warc.Record(url="http://a.org/", body=piece * (500_000 // len(piece))), Counter())
    assert time.process_time() - start < 3


def test_what_is_not_followed_is_counted(web, out):
    web.pages = {"/": links("mailto:x", "javascript:y", "mailto:x", "/a", "/b", "/c") + b'<a rel=nofollow href=/n>', "/a": b"<meta name=robots content=nofollow>" + links("/n"),
                 "/b": (200, {"Content-Type": "text/html", "X-Robots-Tag": "noindex, nofollow"}, links("/n")), "/c": (200, {"Content-Type": "application/json"}, b"see " + links("/n"))}
    assert crawl.crawl([web.url], out) == {"fetched": 4, "status_200": 4, "not_http": 2, "nofollow_link": 1, "nofollow_page": 2, "no_html": 1}
    assert responses(out)[-1].body == b"see " + links("/n")


# ------------------------------------------------------------------------------------------------ redirects, and hosts in trouble


def test_redirects_are_records_and_loops_end(web, out):
    web.pages = {"/": links("/a", "/b", "/nowhere", "/away"), "/a": (301, {"Location": "b"}, b"moved"), "/b": (307, {"Location": "/a"}, b""),
                 "/nowhere": (302, {}, b""), "/away": (302, {"Location": "ftp://x.org/"}, b"")}
    assert crawl.crawl([web.url], out) == {"fetched": 5, "status_200": 1, "status_301": 1, "status_307": 1, "status_302": 2, "redirect_to_known": 3, "not_http": 1}
    assert [(path_of(r), r.status) for r in responses(out)] == [("/", 200), ("/a", 301), ("/b", 307), ("/nowhere", 302), ("/away", 302)]
    assert responses(out)[1].body == b"moved"


def test_chains_of_redirects_end_and_count_as_no_depth(web, out):
    web.pages = {f"/{i}": (303, {"Location": f"/{i + 1}"}, b"") for i in range(30)} | {"/": links("/r"), "/r": (302, {"Location": "/s"}, b""), "/s": links("/0")}
    counts = crawl.crawl([web.url], out, max_depth=2)
    assert web.paths() == ["/", "/r", "/s", *(f"/{i}" for i in range(crawl.MAX_REDIRECTS + 1))] and counts["too_many_redirects"] == 1


def test_where_a_seed_redirects_to_is_its_site_and_where_a_link_does_is_not(servers, out):
    bare, www, far = servers(), servers(), servers()
    bare.pages = {"/": (301, {"Location": f"{www.url}/"}, b"")}
    www.pages = {"/": links("/a", "/b"), "/a": b"<p>a", "/b": (302, {"Location": f"{far.url}/"}, b"")}
    assert crawl.crawl([bare.url], out)["other_site"] == 1
    assert www.paths() == ["/", "/a", "/b"] and not far.visits


def test_a_busy_host_is_left_alone_as_long_as_it_asks(web, out, clock):
    answers = iter([(429, {"Retry-After": "40"}), (503, {}), (200, {"Content-Type": "text/html"})])
    web.pages["/"] = lambda handler: handler.wfile.write(head(*next(answers)))
    assert crawl.crawl([web.url], out) == {"fetched": 3, "status_429": 1, "status_503": 1, "status_200": 1}
    assert [round(wait) for wait in clock.waits] == [1, 40, crawl.BUSY_S]
    web.pages = {"/": links("/a"), "/a": (503, {"Retry-After": str(connection.MAX_WAIT_S + 1)}, b"")}
    out.unlink()
    assert crawl.crawl([web.url], out)["host_busy"] == 1 and max(clock.waits) == 40


def test_retry_after():
    assert connection.retry_after({"retry-after": "7"}) == 7 and connection.retry_after({}) is None and connection.retry_after({"retry-after": "soon"}) is None
    assert 55 < connection.retry_after({"retry-after": formatdate(time.time() + 60, usegmt=True)}) <= 60
    assert connection.retry_after({"retry-after": formatdate(0, usegmt=True)}) == 0


def test_failures_are_counted_and_a_dead_host_is_given_up(web, out):
    bad = [raw(then=hang_up), raw(b"SSH-2.0-OpenSSH\r\n", then=hang_up), raw(b"HTTP/1.1 200 OK\r\nX: y", then=hang_up), raw(b"HTTP/1.1 abc OK\r\n\r\n", then=hang_up)]
    web.pages = {"/": links(*range(4), "ok", *range(5, 12)), "/ok": b"<p>fine", **{f"/{i}": bad[i % 4] for i in range(12)}}
    counts = crawl.crawl([web.url], out)
    assert sum(n for name, n in counts.items() if name.startswith("failed_")) == 4 + crawl.MAX_FAILURES
    assert counts["status_200"] == 2 and counts["host_fails"] == 2 and len(responses(out)) == 2


def test_nothing_there_at_all(out):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
        with pytest.raises(ValueError, match=f"^{url}: nothing could be fetched: {{'robots_unreachable': 1}}"):
            crawl.crawl([url], out)
    assert not list(out.parent.iterdir())


def test_certificates_are_verified(servers, out, tmp_path, monkeypatch):
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate, and is not here")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x", "-addext",
                    "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert, "-days", "9"], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    web = servers(tls=tls)
    web.pages = {"/": b"<p>secret", "/f": (200, {}, b"file")}
    with pytest.raises(ValueError, match="robots_unreachable"):
        crawl.crawl([web.url], out)
    with pytest.raises(remote.RemoteError, match="CERTIFICATE_VERIFY_FAILED"):
        open_url(web.url + "/f")
    assert not web.visits
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    assert crawl.crawl([web.url], out) == {"fetched": 1, "status_200": 1} and responses(out)[0].body == b"<p>secret"
    assert open_url(web.url + "/f").read() == b"file"


# ------------------------------------------------------------------------------------------------ bodies

TEXT = b"<p>" + b"what came over the wire, " * 400
CHUNKED = b"".join(b"%X;ext=1\r\n%s\r\n" % (len(TEXT[i:i + 999]), TEXT[i:i + 999]) for i in range(0, len(TEXT), 999)) + b"0\r\n\r\n"
ZIPPED = gzip.compress(TEXT, mtime=0)
BODIES = {
    "length": (head(200, {"Content-Type": "text/html", "Content-Length": len(TEXT)}), TEXT, TEXT, None),
    "until close": (head(200, {"Content-Type": "text/html"}), TEXT, TEXT, None),
    "chunked": (head(200, {"Transfer-Encoding": "chunked"}), CHUNKED, TEXT, None),
    "Chunked": (head(200, {"Transfer-Encoding": "Chunked"}), CHUNKED, TEXT, None),
    "trailers": (head(200, {"Transfer-Encoding": "chunked"}), CHUNKED[:-2] + b"X-Sum: 1\r\n\r\n", TEXT, None),
    "gzip": (head(200, {"Content-Encoding": "gzip", "Content-Length": len(ZIPPED)}), ZIPPED, TEXT, None),
    "both": (head(200, {"Transfer-Encoding": "chunked", "Content-Encoding": "gzip"}), b"%x\r\n%s\r\n0\r\n\r\n" % (len(ZIPPED), ZIPPED), TEXT, None),
    "odd head": (b"HTTP/1.0 200 OK\r\nx-A:  b\r\nX-a: c\r\nContent-type:text/html\r\n\r\n", TEXT, TEXT, None),
    "bare line feeds": (b"HTTP/1.0 200 OK\nContent-type: text/html\n\n", TEXT, TEXT, None),
    "empty": (head(200, {"Content-Length": 0}), b"", b"", None), "no content": (head(204, {}), b"", b"", None),
    "hangs up": (head(200, {"Content-Length": len(TEXT) + 9}), TEXT, TEXT, "disconnect"),
    "hangs up in a chunk": (head(200, {"Transfer-Encoding": "chunked"}), CHUNKED[:5000], None, "disconnect"),
    "hangs up between chunks": (head(200, {"Transfer-Encoding": "chunked"}), CHUNKED[:-5], TEXT, "disconnect"),
    "exactly the limit": (head(200, {}), b"y" * 20_000, b"y" * 20_000, None),
    "too long": (head(200, {}), b"y" * 90_000, b"y" * 20_000, "length"),
    "too long and says so": (head(200, {"Content-Length": 10 ** 12}), b"y" * 90_000, b"y" * 20_000, "length"),
    "too long in chunks": (head(200, {"Transfer-Encoding": "chunked"}), b"15f90\r\n" + b"y" * 90_000, b"y" * 19_993, "length"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_are_stored_as_they_came(web, out, monkeypatch, name):
    monkeypatch.setattr(crawl, "MAX_BODY", 20_000)
    start, body, decoded, cut = BODIES[name]
    web.pages["/"] = raw(start, body, then=None if cut == "length" else hang_up)
    counts = crawl.crawl([web.url], out)
    [page] = responses(out)
    assert page.truncated == cut and counts["truncated_disconnect"] == (cut == "disconnect") and counts["truncated_length"] == (cut == "length")
    assert page.body == decoded if decoded is not None else page.body and TEXT.startswith(page.body)
    members = []
    for raw_member in gzip_members(out.read_bytes()):
        fields, block = raw_member.split(b"\r\n\r\n", 1)
        members.append((fields, block.removesuffix(b"\r\n\r\n")))
    block = next(block for fields, block in members if b"WARC-Type: response" in fields and f"{web.url}/\r".encode() in fields)
    assert block == start + (body[:20_000] if cut == "length" else body)


def gzip_members(data):
    while data:
        member = zlib.decompressobj(31)
        yield member.decompress(data)
        assert member.eof
        data = member.unused_data


def test_a_server_that_falls_silent_is_cut_by_time_and_one_that_drips_too(web, out, monkeypatch):
    monkeypatch.setattr(connection, "TIMEOUT_S", 0.15)
    done = threading.Event()

    def drip(handler):
        crawl.time.now += 0.05                          # the clock is ours: three drops and the time is over
        for _ in range(100):
            handler.wfile.write(b"y")
            crawl.time.now += 0.05
            if done.wait(0.01):
                return
    web.pages = {"/": links("/silent", "/drip", "/mute"), "/silent": raw(head(200, {"Content-Length": 99}), b"only this", then=lambda handler: done.wait(5)),
                 "/drip": raw(head(200, {"Content-Length": 999}), then=drip), "/mute": raw(then=lambda handler: done.wait(5))}
    start = time.perf_counter()
    counts = crawl.crawl([web.url], out)
    done.set()
    assert counts == {"fetched": 4, "status_200": 3, "truncated_time": 2, "no_html": 2, "failed_TimeoutError": 1} and time.perf_counter() - start < 2
    _, silent, drip = responses(out)
    assert silent.body == b"only this" and silent.truncated == drip.truncated == "time" and 1 <= len(drip.body) < 20


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


CHUNKS = head(200, {"Content-Type": "text/html", "Transfer-Encoding": "chunked"})
ENDLESS = {
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), "hints": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100),
    "a status line": (b"HTTP/1.1 200 ", b"x" * 9000), "a header": (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 9000), "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100),
    "headers of an interim response": (b"HTTP/1.1 100 Continue\r\n", b"X: y\r\n" * 100), "long headers": (b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 60_000 + b"\r\n"),
    "no HTTP": (b"", b"\0" * 9000), "empty lines": (b"", b"\r\n" * 4000), "a body": (head(200, {"Content-Type": "text/html"}), b"y" * 9000),
    "a body longer than it says": (head(200, {"Content-Length": 99, "Content-Type": "text/html"}), b"y" * 9000), "a body of 10^18 bytes": (head(200, {"Content-Length": 10 ** 18}), b"y" * 9000),
    "chunks of a byte": (CHUNKS, b"1\r\na\r\n" * 1000), "chunk extensions": (CHUNKS, b"1;" + b"x" * 60_000 + b"\r\na\r\n"), "a chunk extension": (CHUNKS + b"1;", b"x" * 9000),
    "a chunk": (CHUNKS + b"7fffffff\r\n", b"y" * 9000), "trailers": (CHUNKS + b"0\r\n", b"X: y\r\n" * 1000), "a trailer": (CHUNKS + b"0\r\nX: ", b"y" * 9000)}


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


@pytest.mark.parametrize("first", [b"HTTP/1.1 100 Continue\r\n\r\n" * 3, b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 C\r\nA: b\r\n\r\n"])
def test_interim_responses_are_passed_over(web, out, first):
    web.pages["/"] = raw(first + head(200, {"Content-Type": "text/html", "Content-Length": 5}), b"<p>hi")
    assert crawl.crawl([web.url], out) == {"fetched": 1, "status_200": 1}
    assert [(r.status, r.body, r.http_headers) for r in responses(out)] == [(200, b"<p>hi", {"content-type": "text/html", "content-length": "5"})]


@pytest.mark.parametrize("start, piece, want", [(b"", b"HTTP/1.1 100 Continue\r\n\r\n", "failed_TimeoutError"), (b"HTTP/1.1 200 OK\r\n", b"H", "failed_TimeoutError"),
                                                (head(200, {}), b"y", "truncated_time"), (CHUNKS, b"1\r\na\r\n", "truncated_time"), (CHUNKS + b"0\r\n", b"X: y\r\n", "truncated_time")])
def test_the_time_is_for_all_of_a_fetch(web, out, start, piece, want):
    """However much comes all the time: the clock is ours, and each piece takes ten seconds of it."""
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
    """A host with many addresses, none of which answers: together they have the time of one fetch."""
    tried = []

    def create(place, timeout):
        tried.append(timeout)
        crawl.time.now += timeout / 2
        raise TimeoutError
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: [(0, 0, 0, "", (f"192.0.2.{i}", 80)) for i in range(100)])
    monkeypatch.setattr(socket, "create_connection", create)
    with pytest.raises(TimeoutError):
        connection.exchange("http://a.example/", "x", 1, 60)
    assert tried[:3] == [60, 30, 15] and sum(tried) <= 120


def test_links_and_what_is_remembered_have_limits(web, out, monkeypatch):
    monkeypatch.setattr(crawl, "MAX_LINKS", 20)
    web.pages = {"/": links(*(f"/{i}" for i in range(30))), **{f"/{i}": b"<p>x" for i in range(30)}}
    assert crawl.crawl([web.url], out) == {"fetched": 21, "status_200": 21, "beyond_max_links": 10}
    out.unlink()
    monkeypatch.setattr(crawl, "MAX_MET", 2000)
    counts = crawl.crawl([web.url], out)
    assert 5 < counts["fetched"] < 12 and counts["fetched"] + counts["beyond_max_met"] == 21
    for link in ("/" + "x" * 3000, "/" + "\u00e9" * 400, "http://" + "a." * 2000 + "org/", "/" + "\u0301" * 40):
        with pytest.raises(ValueError):
            normalise(link, "http://a.org/")


def test_a_host_that_is_always_busy_is_given_up(web, out, clock):
    web.pages = {"/": links(*(f"/{i}" for i in range(9))), **{f"/{i}": (503, {"Retry-After": 300}, b"") for i in range(9)}}
    counts = crawl.crawl([web.url], out)
    assert counts["status_503"] == crawl.MAX_FAILURES and counts["host_busy"] == 8 and sum(clock.waits) < 2000


def test_the_file_is_a_proper_warc(web, out):
    web.pages = {"/": links("/a"), "/a": b"<p>a"}
    crawl.crawl([web.url], out, contact="crawler@example.org")
    found = records(out)
    assert [r.type for r in found] == ["warcinfo"] + ["request", "response", "metadata"] * 3 and not list(out.parent.glob("*.tmp"))
    assert len(list(gzip_members(out.read_bytes()))) == len(found) == len({r.id for r in found})
    assert found[0].headers["warc-filename"] == "x.warc.gz" and b"robots: obey\r\n" in found[0].body and web.url.encode() in found[0].body
    for request, response, metadata in zip(found[1::3], found[2::3], found[3::3]):
        assert request.headers["warc-concurrent-to"] == metadata.headers["warc-concurrent-to"] == response.id
        assert {r.headers["warc-warcinfo-id"] for r in (request, response, metadata)} == {found[0].id} and request.url == response.url == metadata.url
        assert request.headers["warc-ip-address"] == response.headers["warc-ip-address"] == "127.0.0.1"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", response.date) and re.fullmatch("<urn:uuid:[0-9a-f-]{36}>", response.id)
        assert request.body.startswith(f"GET {path_of(request)} HTTP/1.1\r\nHost: {web.host}\r\nUser-Agent: longhand/1.0 (+crawler@example.org)\r\n".encode())
        assert response.headers["warc-payload-digest"] == warc.digest(response.body)       # neither chunked nor compressed
    assert warc.digest(b"") == "sha1:3I42H3S6NNFQ2MSVX7XZKYAYSCX5QBYJ"


# ------------------------------------------------------------------------------------------------ killed and resumed

TREE = {"/": links("/a", "/b"), "/a": links("/a1", "/r"), "/b": links("/a1"), "/a1": b"<p>end", "/r": (302, {"Location": "/s"}, b""), "/s": b"<p>there"}


def test_a_killed_crawl_goes_on_where_it_was(web, out, tmp_path, monkeypatch):
    web.pages = TREE
    crawl.crawl([web.url], tmp_path / "whole.warc.gz")
    want = [(r.url, r.status, r.body) for r in responses(tmp_path / "whole.warc.gz")]
    for cut in (0, 1, 300, 700):
        web.visits.clear()
        with monkeypatch.context() as patch:
            visits = itertools.count()
            exchange = connection.exchange
            patch.setattr(connection, "exchange", lambda *args: exchange(*args) if next(visits) < 4 else (_ for _ in ()).throw(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                crawl.crawl([web.url], out)
        tmp = out.with_name(out.name + ".tmp")
        left = [path_of(r) for r in warc.read_warc(tmp) if r.type == "response"]
        assert left == ["/robots.txt", "/", "/a", "/b"] and not out.exists()
        tmp.write_bytes(tmp.read_bytes()[:-cut or None])
        counts = crawl.crawl([web.url], out)
        assert [(r.url, r.status, r.body) for r in responses(out)] == want
        assert counts["taken_over"] == (2 if cut else 3) and counts["fetched"] == 6
        assert Counter(web.paths()) == Counter([*TREE]) + Counter(["/b"] if cut else [])
        assert [r.type for r in records(out)].count("warcinfo") == 1 and len({r.headers.get("warc-warcinfo-id") for r in records(out)[1:]}) == 1
        out.unlink()


def test_what_a_killed_crawl_had_outlives_a_dead_network(web, out, monkeypatch):
    web.pages = TREE
    with monkeypatch.context() as patch:
        patch.setattr(crawl.Crawl, "run", lambda self, seeds, *args: (self.fetch(seeds[0], 100), 1 / 0))
        with pytest.raises(ZeroDivisionError):
            crawl.crawl([web.url], out)
    tmp = out.with_name(out.name + ".tmp")
    left = tmp.read_bytes()
    web.pages = {**TREE, "/robots.txt": raw(then=hang_up)}
    with pytest.raises(ValueError, match="robots_unreachable"):
        crawl.crawl([web.url], out)
    assert left and tmp.read_bytes() == left


def test_what_is_fetched_is_in_the_file_at_once(web, out):
    seen = []
    web.pages = {"/": links("/spy"), "/spy": lambda handler: seen.extend(r.url for r in warc.read_warc(f"{out}.tmp") if r.type == "metadata")}
    crawl.crawl([web.url], out)
    assert seen == [f"{web.url}/robots.txt", f"{web.url}/"]


def test_a_full_disk_ends_the_crawl(web, out, monkeypatch):
    web.pages = TREE
    monkeypatch.setattr(crawl, "capture", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        crawl.crawl([web.url], out)
    assert len(web.visits) == 1


def test_a_disk_that_is_full_says_where_and_loses_nothing(web, out):
    """The disk is full at 4,500 bytes; when there is room again, the same command goes on."""
    web.pages = TREE
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4500, was[1]))
    try:
        with pytest.raises(OSError) as full:
            crawl.crawl([web.url], out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)
    assert full.value.filename == f"{out}.tmp" and not out.exists() and len(web.visits) < 6
    seen = len(web.visits)
    counts = crawl.crawl([web.url], out)
    assert counts["fetched"] == 6 and counts["taken_over"] >= 1 and len(responses(out)) == 6 and len(web.visits) < seen + 7


def test_the_file_is_on_the_disk_before_it_has_its_name(web, out, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("rename"), replace(old, new)))
    web.pages = TREE
    crawl.crawl([web.url], out)
    assert done == [f"{out}.tmp", "rename", str(out.parent)]


def test_a_place_where_nothing_can_be_written_is_said_before_a_fetch(web, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "x.warc.gz.tmp").mkdir()
    for path in (tmp_path / "file" / "x.warc.gz", tmp_path / "x.warc.gz", tmp_path / ("x" * 300)):
        with pytest.raises(OSError) as error:
            crawl.crawl([web.url], path)
        assert error.value.filename and not web.visits


def test_a_crawl_that_ends_just_now_is_not_written_to(web, out, monkeypatch):
    """The other one renames its file between our opening it and our lock."""
    web.pages = TREE
    out.parent.mkdir()
    lock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda file, how: (os.replace(f"{out}.tmp", out), lock(file, how)))
    with pytest.raises(ValueError, match="another crawl"):
        crawl.crawl([web.url], out)
    assert out.read_bytes() == b"" and not web.visits
    out.unlink()
    monkeypatch.setattr(fcntl, "flock", lambda file, how: (lock(file, how), out.write_bytes(b"dear")))       # or before we opened it
    with pytest.raises(ValueError, match="another crawl"):
        crawl.crawl([web.url], out)
    assert out.read_bytes() == b"dear" and not web.visits


@pytest.mark.parametrize("left", [b"", b"\x1f\x8b", b"not a WARC"])
def test_a_crawl_killed_at_once_starts_over(web, out, left):
    web.pages = TREE
    out.parent.mkdir()
    out.with_name(out.name + ".tmp").write_bytes(left)
    assert crawl.crawl([web.url], out)["fetched"] == 6 and records(out)[0].type == "warcinfo"


def test_a_file_that_is_there_or_being_written_is_left_alone(web, out):
    web.pages = TREE
    out.parent.mkdir()
    with open(f"{out}.tmp", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another crawl"):
            crawl.crawl([web.url], out)
    out.write_bytes(b"dear")
    with pytest.raises(FileExistsError, match=f"{out}.*delete it"):
        crawl.crawl([web.url], out)
    assert out.read_bytes() == b"dear" and not web.visits


@pytest.mark.parametrize("wrong", [dict(seeds=[]), dict(seeds=["example.org"]), dict(max_pages=0), dict(max_depth=-1), dict(delay_s=-1), dict(delay_s=float("nan")),
                                   dict(contact="a\r\nX: y"), dict(contact="ä")])
def test_impossible_arguments(out, wrong):
    with pytest.raises(ValueError):
        crawl.crawl(**{"seeds": ["http://127.0.0.1:1/"], "path": out, **wrong})
    assert not out.parent.exists()


def test_the_command(web, tmp_path):
    web.pages = TREE
    args = (web.url + "/", "--run", tmp_path, "--delay", 0, "--pages", 4, "--depth", 2)
    done = run_script("web/crawl.py", *args)
    path = tmp_path / "crawl" / f"{web.host.replace(':', '_')}.warc.gz"
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fetched 4, status_200 4, beyond_max_pages 1\ncrawl    4 addresses, ") and str(path) in done.stdout
    assert f"200        42 B  {web.url}/" in done.stderr and len(responses(path)) == 4
    again = run_script("web/crawl.py", *args)
    assert again.returncode == 2 and again.stderr.startswith(f"crawl.py: error: {path}: is there already")
    assert run_script("web/crawl.py", "example.org").returncode == 2


# ------------------------------------------------------------------------------------------------ files over the network

FILE = CHANCE.randbytes(3_000_000)


def chunked(body):
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[i:i + 70_000] for i in range(0, len(body), 70_000))) + b"0\r\n\r\n"


def file_page(data=FILE, breaks=(), ranges=True, etag='"1"', length=True):
    """A file whose n-th response ends after breaks[n] bytes of its body."""
    breaks = iter(breaks)

    def page(handler):
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
        current = etag() if callable(etag) else etag
        start = int(asked[1]) if asked and ranges and handler.headers["If-Range"] in (None, current) else 0
        if start and start >= len(data):
            return handler.wfile.write(head(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": 0}))
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


def ranges_asked(web):
    return [int(headers["Range"][6:-1]) for *_, headers in web.visits if "Range" in headers]


def read_all(url, n=100_000):
    with open_url(url) as file:
        return b"".join(iter(lambda: file.read(n), b""))


@pytest.mark.parametrize("breaks", [(), (0,), (1,), (1_000_000, 700_000), (299_999, 0, 0, 5), (3_000_000,)])
@pytest.mark.parametrize("kind", [{}, {"etag": None}, {"ranges": False}, {"length": False}, {"ranges": False, "length": False, "etag": None}], ids=str)
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
    assert ranges_asked(web) == [524_288, 786_432] and [headers.get("If-Range") for *_, headers in web.visits] == [None, '"a"', '"a"']
    assert {headers["Accept-Encoding"] for *_, headers in web.visits} == {"identity"}       # the file, not one made for us
    web.visits.clear()
    web.pages["/f"] = file_page(breaks=[524_288], etag='W/"a"')
    assert read_all(web.url + "/f") == FILE and web.visits[1][2].get("If-Range") is None


def test_an_end_without_a_last_chunk_is_found_by_asking(web):
    whole = FILE[:1 << 19]
    web.pages["/f"] = file_page(whole, breaks=[len(chunked(whole)) - len("0\r\n\r\n")], length=False)
    assert read_all(web.url + "/f") == whole and ranges_asked(web) == [len(whole)]


@pytest.mark.parametrize("total", ["3000000", "*"])
def test_a_size_that_shows_late_and_ranges_in_pieces(web, total):
    def part(start, end, sent=None):
        fields = {"Content-Range": f"bytes {start}-{end - 1}/{total}", "Content-Length": end - start}
        return raw(head(206, fields), FILE[start:end][:sent], then=hang_up)
    first = raw(head(200, {"Transfer-Encoding": "chunked"}), chunked(FILE)[:300_000], then=hang_up)         # 262,144 bytes arrive whole
    pieces = [first, part(262_144, len(FILE), sent=1 << 18)] + ([part(1 << 19, 1 << 20), part(1 << 20, len(FILE))] if total != "*" else [part(1 << 19, len(FILE))])
    web.pages["/f"] = lambda handler, pieces=iter(pieces): next(pieces)(handler)
    assert read_all(web.url + "/f") == FILE


def test_a_network_that_goes_away_comes_back(web, monkeypatch, clock):
    web.pages["/f"], urlopen = file_page(breaks=[524_288]), connection.urlopen
    gone = iter([urlopen, *[lambda *args, **kwargs: (_ for _ in ()).throw(urllib.error.URLError(socket.gaierror(-2, "Name not known")))] * 2, urlopen])
    monkeypatch.setattr(remote, "urlopen", lambda *args, **kwargs: next(gone)(*args, **kwargs))
    assert read_all(web.url + "/f") == FILE and clock.waits == [1, 2, 4]


def test_a_file_that_changes_is_not_glued_together(web):
    other = FILE[:400_000] + CHANCE.randbytes(len(FILE) - 400_000)
    for kind in ({}, {"ranges": False, "etag": None}):
        first, then = file_page(breaks=[524_288], **kind), file_page(other, **(kind or {"etag": '"2"'}))
        web.pages["/f"] = lambda handler, answers=iter([first, then]): next(answers)(handler)
        with pytest.raises(remote.RemoteError, match=f"{web.url}/f: .*not the same file.*byte 524,288"):
            read_all(web.url + "/f")
    for tag, wrong in (('"1"', "bytes 524287-2999999/3000000"), ('"1"', "bytes 524288-2999999/2999999"), ('"2"', "bytes 524288-2999999/3000000"), ('"1"', "nonsense")):
        part = raw(head(206, {"Content-Range": wrong, "ETag": tag, "Content-Length": 10}), b"x" * 10, then=hang_up)
        web.pages["/f"] = lambda handler, answers=iter([file_page(breaks=[524_288]), part]): next(answers)(handler)
        with pytest.raises(remote.RemoteError, match="not the same file"):
            read_all(web.url + "/f")
    longer, shorter = file_page(FILE + b"more", etag='"2"'), file_page(FILE[:100], etag='"1"')        # it has grown: the new one, whole
    web.pages["/f"] = lambda handler, answers=iter([file_page(breaks=[524_288]), longer]): next(answers)(handler)
    assert read_all(web.url + "/f") == FILE + b"more"
    web.pages["/f"] = lambda handler, answers=iter([file_page(breaks=[524_288]), shorter]): next(answers)(handler)
    with pytest.raises(remote.RemoteError, match="416"):
        read_all(web.url + "/f")


def test_tries_end_and_pauses_grow(web, clock, capsys):
    web.pages["/f"] = file_page(breaks=[300_000, *[0] * 99])
    with pytest.raises(remote.RemoteError, match=f"{web.url}/f: gave up at byte 300,000 after 6 tries"):
        read_all(web.url + "/f")
    assert clock.waits == [1, 2, 4, 8, 16] and len(web.visits) == 6
    assert f"1 s for {web.url}/f at byte 300,000" in capsys.readouterr().err
    clock.waits.clear()
    web.pages["/f"] = file_page(FILE * 5, breaks=[1_500_000] * 10)          # each goes on a megabyte: no reason to give up
    assert read_all(web.url + "/f") == FILE * 5 and clock.waits == [1] * 9


@pytest.mark.parametrize("status, headers, waits", [(503, {"Retry-After": "17"}, [17]), (429, {"Retry-After": "100000"}, [300]), (500, {}, [1]), (502, {}, [1]),
                                                    (503, {"Retry-After": "0"}, [1]), (429, {"Retry-After": "never"}, [1])])
def test_a_busy_server_is_asked_again_when_it_says(web, clock, status, headers, waits):
    web.pages["/f"] = lambda handler, answers=iter([(raw(head(status, {"Content-Length": 0, **headers}), then=hang_up)), file_page()]): next(answers)(handler)
    assert read_all(web.url + "/f") == FILE and clock.waits == waits


@pytest.mark.parametrize("status, waits", [(403, [1, 4]), (503, [1, 4]), (429, [1, 4]), (500, [1, 2])])
def test_what_limits_our_rate_inside_a_file_is_waited_out(web, clock, status, waits):
    """Common Crawl's CDN says 403 to who asks too fast, S3 says 503."""
    busy = raw(head(status, {"Content-Length": 0}), then=hang_up)
    web.pages["/f"] = lambda handler, answers=iter([file_page(breaks=[1 << 20]), *[busy] * (len(waits) - 1), file_page()]): next(answers)(handler)
    assert read_all(web.url + "/f") == FILE and clock.waits == waits and ranges_asked(web) == [1 << 20] * 2


def test_a_403_at_the_start_is_waited_out_from_a_host_that_has_given_before(web, clock, capsys):
    web.pages = {"/a": file_page(FILE[:1000]), "/c": (403, {}, b"")}
    web.pages["/b"] = lambda handler, answers=iter([raw(head(403, {"Content-Length": 0, "Retry-After": "9"}), then=hang_up)] * 2 + [file_page()]): next(answers)(handler)
    assert len(read_all(web.url + "/a")) == 1000 and read_all(web.url + "/b") == FILE and clock.waits == [9, 9]
    clock.waits.clear()
    with pytest.raises(remote.RemoteError, match="gave up at byte 0 after 4 tries.*403"):
        open_url(web.url + "/c")
    assert clock.waits == [1, 4, 16] and f"1 s for {web.url}/c at byte 0" in capsys.readouterr().err


def test_a_403_that_stays_inside_a_file_ends(web, clock):
    busy = raw(head(403, {"Content-Length": 0}), then=hang_up)
    web.pages["/f"] = lambda handler, answers=itertools.chain([file_page(breaks=[524_288])], itertools.repeat(busy)): next(answers)(handler)
    with pytest.raises(remote.RemoteError, match="gave up at byte 524,288 after 6 tries.*403"):
        read_all(web.url + "/f")
    assert clock.waits == [1, 4, 16, 64, 256]


def test_a_first_403_says_what_it_may_be(web, clock):
    web.pages["/f"] = (403, {}, b"")
    with pytest.raises(remote.RemoteError, match="403 x; look at the address, or wait.*too fast.*Common Crawl"):
        open_url(web.url + "/f")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_what_is_not_there_is_said_at_once(web, clock, status):
    web.pages["/f"] = (status, {}, b"")
    with pytest.raises(remote.RemoteError, match=f"{web.url}/f: the server says {status} x; ") as error:
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
    web.pages = {"/f": (302, {"Location": "/g"}, b""), "/g": file_page(breaks=[524_288]), "/loop": (302, {"Location": "/loop"}, b"")}
    assert read_all(web.url + "/f") == FILE and ranges_asked(web) == [524_288] * 2
    with pytest.raises(remote.RemoteError, match="/loop.*302"):
        open_url(web.url + "/loop")


@pytest.mark.parametrize("page", [endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), endless(head(302, {"Location": "/g"}), b"y" * 9000), endless(head(404, {}), b"y" * 9000),
                                  endless(b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 60_000 + b"\r\n"), (302, {"Location": "ftp://127.0.0.1/f"}, b""), (206, {"Content-Range": "bytes 0-" + "9" * 9000 + "/1"}, b"y")])
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
        assert sum(map(len, iter(lambda: file.read(1 << 16), b""))) == 24 << 20 and len(web.visits) == 2
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
        tracemalloc.stop()


def test_a_crawl_is_read_over_the_network_as_from_the_disk(web, out):
    web.pages = TREE
    crawl.crawl([web.url], out)
    data = out.read_bytes()
    web.pages = {"/x.warc.gz": file_page(data, breaks=[len(data) // 2]), "/bad.gz": (200, {"Content-Encoding": "gzip"}, data)}
    for name in ("/x.warc.gz", "/bad.gz"):                      # some servers call a .gz gzip-encoded: it is the file all the same
        with open_url(web.url + name) as file:
            assert [(r.id, r.body, r.offset) for r in warc.read_warc(file)] == [(r.id, r.body, r.offset) for r in records(out)]


# ------------------------------------------------------------------------------------------------ Common Crawl

NAME = "CC-MAIN-2024-51"
LINES = [f"crawl-data/{NAME}/segments/1733066{i}.56/warc/CC-MAIN-20241201162023-20241201192023-0000{i}.warc.gz" for i in range(5)]


def test_common_crawl(web):
    listing = (200, {}, gzip.compress("".join(line + "\n" for line in LINES).encode()))
    web.pages[f"/crawl-data/{NAME}/warc.paths.gz"] = web.pages[f"/mirror/crawl-data/{NAME}/warc.paths.gz"] = listing
    assert common_crawl(NAME, 3, web.url) == common_crawl(NAME, 3, web.url + "/") == [f"{web.url}/{line}" for line in LINES[:3]]
    assert common_crawl(NAME, base=f"{web.url}/mirror/") == [f"{web.url}/mirror/{LINES[0]}"]
    with pytest.raises(ValueError, match="5 lines, but 6"):
        common_crawl(NAME, 6, web.url)


@pytest.mark.parametrize("name", ["", "CC-MAIN-2024", "2024-51", "CC-MAIN-2024-51/", "cc-main-2024-51", "CC-MAIN-2024-51\n", "../CC-MAIN-2024-51", "CC-NEWS-2024-51", "CC-MAIN-٢٠٢٤-51"])
def test_names_that_no_crawl_has(web, name):
    with pytest.raises(ValueError, match="CC-MAIN-YEAR-WEEK"):
        common_crawl(name, 1, web.url)
    assert not web.visits


@pytest.mark.parametrize("answer, what", [((404, {}, b""), "no such crawl .status 404.*index.commoncrawl.org"), ((403, {}, b""), "no such crawl"), ((200, {}, b"<html>"), "not a gzip list"),
                                          ((200, {}, gzip.compress(b"x" * 999)[:-9]), "not a gzip list|1 lines"), ((200, {}, gzip.compress(b"a/b.warc.gz\n")), "1 paths"),
                                          ((200, {}, gzip.compress("ä\n".encode())), "not a gzip list"), ((200, {}, gzip.compress(b"")), "0 lines")])
def test_listings_that_are_none(web, answer, what):
    web.pages[f"/crawl-data/{NAME}/warc.paths.gz"] = answer
    with pytest.raises(ValueError, match=f"{web.url}/crawl-data/{NAME}/warc.paths.gz: .*({what})"):
        common_crawl(NAME, 1, web.url)
    with pytest.raises(ValueError):
        common_crawl(NAME, 0, web.url)
