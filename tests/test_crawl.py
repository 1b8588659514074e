"""web/crawl.py against servers on loopback that behave as the web does, with a clock of our own."""
import gzip
import itertools
import os
import re
import resource
import shutil
import socket
import ssl
import subprocess
import time
import zlib
from collections import Counter

import pytest

from run import runs
from web import crawl
from web import connection
from web import remote
from web import warc
from conftest import run_script
from web.addresses import normalise
from web.encoding import CODECS
from web.remote import open_url
from web_server import (  # noqa: F401
    BODIES, TEXT, TREE, clock, hang_up, head, links, out, path_of, raw, records, responses,
    servers, web)


def test_robots_are_obeyed_and_their_refusals_counted(web, out, capsys):
    web.pages = {"/": links("/a", "/private/b", "/c"), "/a": b"<p>a", "/private/b": b"<p>b",
        "/c": b"<p>c",
                 "/robots.txt": (200, {}, b"\xef\xbb\xbfUser-agent: *\nDisallow: /private")}
    counts = crawl.crawl([web.url], out)
    assert web.visits[0][0] == "/robots.txt" and web.paths() == ["/", "/a", "/c"]
    assert counts == {"fetched": 3, "status_200": 3, "robots_disallow": 1}
    assert f"robots_disallow  {web.url}/private/b\n" in capsys.readouterr().err
    assert all(headers["User-Agent"] == "longhand/1.0" for *_, headers in web.visits)


@pytest.mark.parametrize("robots, want", [
    ((404, {}, b"User-agent: *\nDisallow: /"), None), ((401, {}, b""), None),
    ((500, {}, b""), "robots_unreachable"), ((503, {}, b""), "robots_unreachable"),
    ((429, {}, b""), "robots_unreachable"), (raw(then=hang_up), "robots_unreachable"),
    ((301, {"Location": "/r2"}, b""), "robots_disallow"),
    ((301, {"Location": "mailto:x"}, b""), None), ((302, {"Location": "/robots.txt"}, b""), None),
    ((200, {}, b"\xff\xfe\0"), None),
    ((200, {"Content-Encoding": "gzip"}, gzip.compress(b"User-agent: longhand\nDisallow: /")),
        "robots_disallow"),
    ((200, {}, b"User-agent: *\nCrawl-delay: 86400"), "crawl_delay_too_long")])
def test_robots_of_every_status(web, out, robots, want):
    web.pages = {"/": b"<p>x", "/robots.txt": robots, "/r2": (200, {},
        b"User-agent: *\nDisallow: /")}
    if want:
        with pytest.raises(ValueError,
            match=f"{web.url}/: nothing could be fetched: ..{want}': 1}}$"):
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


# ------------------------------------------------------------------------------ the order of things

def test_breadth_first_each_once_and_not_too_deep(web, out):
    web.pages = {"/": links("/a", "/b", "/#x"), "/a": links("/a1", "/b", "/"), "/b": links("/b1"),
        "/a1": links("/a2"), "/b1": links("/b2", "/a2"), "/a2": b"x"}
    counts = crawl.crawl([web.url, web.url + "/"], out, max_depth=2)
    assert web.paths() == ["/", "/a", "/b", "/a1", "/b1"]
    assert counts == {"fetched": 5, "status_200": 5, "beyond_max_depth": 2}
    assert [path_of(r) for r in responses(out)] == web.paths()
    notes = {path_of(r): r.body.decode() for r in records(out) if r.type == "metadata"}
    assert f"hopsFromSeed: LL\r\nvia: {web.url}/b\r\n" in notes["/b1"] and "via" not in notes["/"]
    assert "hopsFromSeed: P" in notes["/robots.txt"]


def test_page_limit(web, out):
    web.pages = {"/": links(*(f"/{i}" for i in range(9))), **{f"/{i}": b"<p>x" for i in range(9)}}
    assert crawl.crawl([web.url], out, max_pages=4) == {"fetched": 4, "status_200": 4,
        "beyond_max_pages": 6}
    assert web.paths() == ["/", "/0", "/1", "/2"]


def test_other_sites_only_if_asked_for_and_by_their_own_robots(servers, out):
    here, there = servers(), servers()
    here.pages = {"/": links(f"{there.url}/x", f"{there.url}/y", f"{there.url}/x#2", "/z"),
        "/z": b"<p>z"}
    there.pages = {"/x": links("/y"), "/y": b"<p>y", "/robots.txt": (200, {},
        b"User-agent: *\nDisallow: /y")}
    assert crawl.crawl([here.url], out) == {"fetched": 2, "status_200": 2, "other_site": 2}
    assert not there.visits
    out.unlink()
    assert crawl.crawl([here.url], out, other_sites=True) == {"fetched": 3, "status_200": 3,
        "robots_disallow": 1}
    assert [path for path, *_ in there.visits] == ["/robots.txt", "/x"]


def test_visits_to_a_host_are_a_delay_apart_whatever_they_are(servers, out, clock):
    web, other = servers(), servers()
    web.pages = {"/": links("/a", "/r", "/gone", f"{other.url}/"), "/a": b"<p>a",
        "/r": (302, {"Location": "/b"}, b""), "/b": b"<p>b", "/hang": raw(then=hang_up)}
    other.pages = {"/": b"<p>", "/robots.txt": (200, {}, b"User-agent: *\nCrawl-delay: 7.5")}
    crawl.crawl([web.url], out, delay_s=2, other_sites=True)
    times = [at for _, at, _ in web.visits]
    assert len(times) == 6 and [b - a for a, b in itertools.pairwise(times)] == [2.0] * 5
    # nobody waits for another
    assert other.visits[1][1] - other.visits[0][1] == 7.5 and other.visits[0][1] == times[-1]


def test_the_delay_counts_from_the_end_of_a_slow_visit(web, out, clock):
    def slow(handler):
        clock.now += 10
        handler.wfile.write(head(200, {"Content-Length": 0}))
    web.pages = {"/": links("/slow", "/a"), "/slow": slow, "/a": b"<p>a"}
    crawl.crawl([web.url], out)
    assert [at for _, at, _ in web.visits] == [1000, 1001, 1002, 1013]


# -------------------------------------------------------------------------------------------- links

@pytest.mark.parametrize("html, want", [
    (b'<A HREF=/a>x</A><a class="x" href=\'/b\'>', ["/a", "/b"]),
    (b'<a href="/a?x=1&amp;y=2">', ["/a?x=1&y=2"]), (b'<a title="a > b" href="/a">', ["/a"]),
    (b'<!-- <a href="/a"> --><a href="/b">', ["/b"]),
    (b'<script>"<a href=/a>"</script><style><a href=/b></style><textarea><a href=/c></textarea>',
        []),
    # character references need their semicolon before = and letters
    (b'<a href="v?id=5&section=2&copy=3&para&reg1=4&amp;x=&lt;&#47;&#x2F">',
        ["v?id=5&section=2&copy=3%B6&reg1=4&x=%3C//"]), (b"<a href=a?b&copy>", ["a?b%A9"]),
    (b"<a href='/a\nb'\tREL=external><a/href=/c>", ["/a\nb", "/c"]),
    (b'<a href="/a"title=x><a href=/b/><a href= >', ["/a", "/b/", ""]),
    (b"<template><a href=/a></template><noscript><a href=/b></noscript>", ["/b"]),
    (b'<p title="<a href=/a>"><title><a href=/b></title><a href=/c>', ["/c"]),
    (b"<meta name=robots content='otherbot: nofollow'><a href=/a>", ["/a"]),
    (b"<meta name=robots content='longhand: nofollow'><a href=/a>", []),
    (b"<meta name=robots content='unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT, nofollow'>"
     b"<a href=/a>", []),
    (b"<script>'<meta name=robots content=nofollow>'</script><a href=/a>", ["/a"]),
    (b'<!-- <a href="/a">', []), (b'<script><a href="/a">', []), (b"<!--><a href=/a>", ["/a"]),
    (b'<a name="x"><a href><a>', [""]), (b"<abbr href=/a><a\nhref=/b>", ["/b"]),
    (b'<map><area href="/a"></map></a href="/b">', ["/a"]),
    (b'<a rel="noopener,NoFollow" href="/z"><a rel="noopener NoFollow" href="/a">'
     b'<a rel="noopener" href="/b">', ["/b"]),
    (b'<a href="/a"><meta name="Robots" content="noindex, NOFOLLOW">', []),
    (b'<meta name=longhand content=none><a href=/a><meta name=robots content=index>', []),
    (b'<meta name="robots" content="noindex"><meta name="otherbot" content="nofollow">'
     b'<meta name="robots" content="max-image-preview:none"><a href="/a">', ["/a"]),
    ("<a href='/ä'>".encode("utf-16"), ["/ä"]), (b"<a href=/a<a href=/b>", ["/a<a"])])
def test_links(html, want):
    assert crawl.links_of(warc.Record(url="http://a.org/d/", body=html), Counter()) == (want,
        "http://a.org/d/")


@pytest.mark.parametrize("encoding, want", [
    ("windows-1252", "/%C3%A4?q=%E4&%26%2329190%3B"), ("utf-8", "/%C3%A4?q=%C3%A4&%E7%88%86"),
    ("gbk", "/%C3%A4?q=%26%23228%3B&%B1%AC"), ("shift_jis", "/%C3%A4?q=%26%23228%3B&%94%9A"),
    ("gb18030", "/%C3%A4?q=%810%8A1&%B1%AC"), ("utf-16le", "/%C3%A4?q=%C3%A4&%E7%88%86"),
    ("iso-2022-jp", "/%C3%A4?q=%26%23228%3B&%1B$BGz%1B(B"),
    ("big5", "/%C3%A4?q=%26%23228%3B&%C3z")])
def test_the_query_of_a_link_is_in_the_encoding_of_its_page(encoding, want):
    """Values as Chromium has them (tests/peers/test_charset_peers.py asks it)."""
    for html in ("<a href='/\u00e4?q=\u00e4&\u7206#\u00e4'>",
        "<a href='/&#228;?q=&auml;&&#x7206;#&auml;'>",
        "<a href=' \n/\u00e4?q\t=\u00e4\n&\u7206 \n'>"):
        data = html.encode("utf-16-le" if encoding == "utf-16le" else CODECS.get(encoding,
            encoding), "xmlcharrefreplace")
        links, base = crawl.links_of(warc.Record(url="http://a.org/", body=data, charset=encoding),
            Counter())
        assert normalise(links[0], base) == normalise("http://a.org" + want)


@pytest.mark.parametrize("base, want", [("HTTP://A.org", "http://a.org/z"),
    ("http://a.org?x/y", "http://a.org/z"), ("http://a.org/b/c#/d/e", "http://a.org/b/z"),
    ("http://a.org:80/x y/ä", "http://a.org/x%20y/z")])
def test_what_others_wrote_is_a_base(base, want):
    assert normalise("z", base) == want


@pytest.mark.parametrize("href, want", [("/e/", "http://a.org/e/"),
    ("http://b.org", "http://b.org/"), ("mailto:x", "http://a.org/d/"), ("", "http://a.org/d/"),
    ("//[", "http://a.org/d/")])
def test_base(href, want):
    page = warc.Record(url="http://a.org/d/",
        body=f'<base target=x><base href="{href}"><base href="/second/"><a href=x>'.encode())
    assert crawl.links_of(page, Counter()) == (["x"], want)


def test_links_take_linear_time():
    start = time.process_time()
    for piece in (b"<a href=x ", b"<!--", b"<a href='", b"<script>", b"<a ='\">", b"<"):
        crawl.links_of(warc.Record(url="http://a.org/", body=piece * (500_000 // len(piece))),
            Counter())
    assert time.process_time() - start < 3


def test_what_is_not_followed_is_counted(web, out):
    web.pages = {"/": links("mailto:x", "javascript:y", "mailto:x", "/a", "/b", "/c")
        + b'<a rel=nofollow href=/n>', "/a": b"<meta name=robots content=nofollow>" + links("/n"),
                 "/b": (200, {"Content-Type": "text/html", "X-Robots-Tag": "noindex, nofollow"},
                     links("/n")), "/c": (200, {"Content-Type": "application/json"},
                     b"see " + links("/n"))}
    assert crawl.crawl([web.url], out) == {"fetched": 4, "status_200": 4, "not_http": 2,
        "nofollow_link": 1, "nofollow_page": 2, "no_html": 1}
    assert responses(out)[-1].body == b"see " + links("/n")


# ------------------------------------------------------------------ redirects, and hosts in trouble

def test_redirects_are_records_and_loops_end(web, out):
    web.pages = {"/": links("/a", "/b", "/nowhere", "/away"),
        "/a": (301, {"Location": "b"}, b"moved"), "/b": (307, {"Location": "/a"}, b""),
                 "/nowhere": (302, {}, b""), "/away": (302, {"Location": "ftp://x.org/"}, b"")}
    assert crawl.crawl([web.url], out) == {"fetched": 5, "status_200": 1, "status_301": 1,
        "status_307": 1, "status_302": 2, "redirect_to_known": 3, "not_http": 1}
    assert [(path_of(r), r.status) for r in responses(out)] == [("/", 200), ("/a", 301),
        ("/b", 307), ("/nowhere", 302), ("/away", 302)]
    assert responses(out)[1].body == b"moved"


def test_chains_of_redirects_end_and_count_as_no_depth(web, out):
    web.pages = {f"/{i}": (303, {"Location": f"/{i + 1}"}, b"")
        for i in range(30)} | {"/": links("/r"), "/r": (302, {"Location": "/s"}, b""),
        "/s": links("/0")}
    counts = crawl.crawl([web.url], out, max_depth=2)
    assert web.paths() == ["/", "/r", "/s", *(f"/{i}" for i in range(crawl.MAX_REDIRECTS + 1))]
    assert counts["too_many_redirects"] == 1


def test_where_a_seed_redirects_to_is_its_site_and_where_a_link_does_is_not(servers, out):
    bare, www, far = servers(), servers(), servers()
    bare.pages = {"/": (301, {"Location": f"{www.url}/"}, b"")}
    www.pages = {"/": links("/a", "/b"), "/a": b"<p>a", "/b": (302, {"Location": f"{far.url}/"},
        b"")}
    assert crawl.crawl([bare.url], out)["other_site"] == 1
    assert www.paths() == ["/", "/a", "/b"] and not far.visits


def test_a_busy_host_is_left_alone_as_long_as_it_asks(web, out, clock):
    answers = iter([(429, {"Retry-After": "40"}), (503, {}), (200, {"Content-Type": "text/html"})])
    web.pages["/"] = lambda handler: handler.wfile.write(head(*next(answers)))
    assert crawl.crawl([web.url], out) == {"fetched": 3, "status_429": 1, "status_503": 1,
        "status_200": 1}
    assert [round(wait) for wait in clock.waits] == [1, 40, crawl.BUSY_S]
    web.pages = {"/": links("/a"), "/a": (503, {"Retry-After": str(connection.MAX_WAIT_S + 1)},
        b"")}
    out.unlink()
    assert crawl.crawl([web.url], out)["host_busy"] == 1 and max(clock.waits) == 40


def test_failures_are_counted_and_a_dead_host_is_given_up(web, out):
    bad = [raw(then=hang_up), raw(b"SSH-2.0-OpenSSH\r\n", then=hang_up),
        raw(b"HTTP/1.1 200 OK\r\nX: y", then=hang_up), raw(b"HTTP/1.1 abc OK\r\n\r\n",
            then=hang_up)]
    web.pages = {"/": links(*range(4), "ok", *range(5, 12)), "/ok": b"<p>fine",
        **{f"/{i}": bad[i % 4] for i in range(12)}}
    counts = crawl.crawl([web.url], out)
    assert sum(n for name,
        n in counts.items() if name.startswith("failed_")) == 4 + crawl.MAX_FAILURES
    assert counts["status_200"] == 2 and counts["host_fails"] == 2 and len(responses(out)) == 2


def test_nothing_there_at_all(out):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
        with pytest.raises(ValueError,
            match=f"^{url}: nothing could be fetched: {{'robots_unreachable': 1}}"):
            crawl.crawl([url], out)
    assert not list(out.parent.iterdir())


def test_certificates_are_verified(servers, out, tmp_path, monkeypatch):
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate, and is not here")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
        "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x", "-addext",
                    "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert, "-days", "9"],
                    check=True, capture_output=True)
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
    assert crawl.crawl([web.url], out) == {"fetched": 1, "status_200": 1}
    assert responses(out)[0].body == b"<p>secret"
    assert open_url(web.url + "/f").read() == b"file"


@pytest.mark.parametrize("name", BODIES)
def test_bodies_are_stored_as_they_came(web, out, monkeypatch, name):
    monkeypatch.setattr(crawl, "MAX_BODY", 20_000)
    start, body, decoded, cut = BODIES[name]
    web.pages["/"] = raw(start, body, then=None if cut == "length" else hang_up)
    counts = crawl.crawl([web.url], out)
    [page] = responses(out)
    assert page.truncated == cut and counts["truncated_disconnect"] == (cut == "disconnect")
    assert counts["truncated_length"] == (cut == "length")
    assert page.body == decoded if decoded is not None else page.body and TEXT.startswith(page.body)
    members = []
    for raw_member in gzip_members(out.read_bytes()):
        fields, block = raw_member.split(b"\r\n\r\n", 1)
        members.append((fields, block.removesuffix(b"\r\n\r\n")))
    block = next(block for fields, block in members if b"WARC-Type: response" in fields
        and f"{web.url}/\r".encode() in fields)
    assert block == start + (body[:20_000] if cut == "length" else body)


def gzip_members(data):
    while data:
        member = zlib.decompressobj(31)
        yield member.decompress(data)
        assert member.eof
        data = member.unused_data


def test_links_and_what_is_remembered_have_limits(web, out, monkeypatch):
    monkeypatch.setattr(crawl, "MAX_LINKS", 20)
    web.pages = {"/": links(*(f"/{i}" for i in range(30))), **{f"/{i}": b"<p>x" for i in range(30)}}
    assert crawl.crawl([web.url], out) == {"fetched": 21, "status_200": 21, "beyond_max_links": 10}
    out.unlink()
    monkeypatch.setattr(crawl, "MAX_MET", 2000)
    counts = crawl.crawl([web.url], out)
    assert 5 < counts["fetched"] < 12 and counts["fetched"] + counts["beyond_max_met"] == 21
    for link in ("/" + "x" * 3000, "/" + "\u00e9" * 400, "http://" + "a." * 2000 + "org/",
        "/" + "\u0301" * 40):
        with pytest.raises(ValueError):
            normalise(link, "http://a.org/")


def test_a_host_that_is_always_busy_is_given_up(web, out, clock):
    web.pages = {"/": links(*(f"/{i}" for i in range(9))),
        **{f"/{i}": (503, {"Retry-After": 300}, b"") for i in range(9)}}
    counts = crawl.crawl([web.url], out)
    assert counts["status_503"] == crawl.MAX_FAILURES and counts["host_busy"] == 8
    assert sum(clock.waits) < 2000


def test_the_file_is_a_proper_warc(web, out):
    web.pages = {"/": links("/a"), "/a": b"<p>a"}
    crawl.crawl([web.url], out, contact="crawler@example.org")
    found = records(out)
    assert [r.type for r in found] == ["warcinfo"] + ["request", "response", "metadata"] * 3
    assert not list(out.parent.glob("*.tmp"))
    assert len(list(gzip_members(out.read_bytes()))) == len(found) == len({r.id for r in found})
    assert found[0].headers["warc-filename"] == "x.warc.gz" and b"robots: obey\r\n" in found[0].body
    assert web.url.encode() in found[0].body
    for request, response, metadata in zip(found[1::3], found[2::3], found[3::3]):
        assert request.headers["warc-concurrent-to"] == metadata.headers[
            "warc-concurrent-to"] == response.id
        assert {r.headers["warc-warcinfo-id"] for r in (request, response,
            metadata)} == {found[0].id}
        assert request.url == response.url == metadata.url
        assert request.headers["warc-ip-address"] == response.headers[
            "warc-ip-address"] == "127.0.0.1"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", response.date)
        assert re.fullmatch("<urn:uuid:[0-9a-f-]{36}>", response.id)
        assert request.body.startswith(
            f"GET {path_of(request)} HTTP/1.1\r\nHost: {web.host}\r\n"
            f"User-Agent: longhand/1.0 (+crawler@example.org)\r\n".encode())
        assert response.headers["warc-payload-digest"] == warc.digest(
            response.body)       # neither chunked nor compressed
    assert warc.digest(b"") == "sha1:3I42H3S6NNFQ2MSVX7XZKYAYSCX5QBYJ"


def test_a_killed_crawl_goes_on_where_it_was(web, out, tmp_path, monkeypatch):
    web.pages = TREE
    crawl.crawl([web.url], tmp_path / "whole.warc.gz")
    want = [(r.url, r.status, r.body) for r in responses(tmp_path / "whole.warc.gz")]
    for cut in (0, 1, 300, 700):
        web.visits.clear()
        with monkeypatch.context() as patch:
            visits = itertools.count()
            exchange = connection.exchange
            patch.setattr(connection, "exchange",
                lambda *args: exchange(*args) if next(visits) < 4 else (_
                    for _ in ()).throw(KeyboardInterrupt()))
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
        assert [r.type for r in records(out)].count("warcinfo") == 1
        assert len({r.headers.get("warc-warcinfo-id") for r in records(out)[1:]}) == 1
        out.unlink()


def test_what_a_killed_crawl_had_outlives_a_dead_network(web, out, monkeypatch):
    web.pages = TREE
    with monkeypatch.context() as patch:
        patch.setattr(crawl.Crawl, "run", lambda self, seeds,
            *args: (self.fetch(seeds[0], 100), 1 / 0))
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
    web.pages = {"/": links("/spy"), "/spy": lambda handler: seen.extend(r.url
        for r in warc.read_warc(f"{out}.tmp") if r.type == "metadata")}
    crawl.crawl([web.url], out)
    assert seen == [f"{web.url}/robots.txt", f"{web.url}/"]


def test_a_full_disk_ends_the_crawl(web, out, monkeypatch):
    web.pages = TREE
    monkeypatch.setattr(crawl, "capture", lambda *args: (_
        for _ in ()).throw(OSError(28, "No space left on device")))
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
    assert counts["fetched"] == 6 and counts["taken_over"] >= 1 and len(responses(out)) == 6
    assert len(web.visits) < seen + 7


def test_the_file_is_on_the_disk_before_it_has_its_name(web, out, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync",
        lambda handle: (done.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle)))
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
    """The other one gives its file the final name between our start and our lock."""
    web.pages = TREE
    out.parent.mkdir()
    locked = runs.locked

    def after_the_other(*args):
        out.write_bytes(b"dear")
        return locked(*args)

    monkeypatch.setattr(runs, "locked", after_the_other)
    with pytest.raises(FileExistsError, match=f"{out}.*delete it"):
        crawl.crawl([web.url], out)
    assert out.read_bytes() == b"dear" and [*out.parent.iterdir()] == [out] and not web.visits


@pytest.mark.parametrize("left", [b"", b"\x1f\x8b", b"not a WARC"])
def test_a_crawl_killed_at_once_starts_over(web, out, left):
    web.pages = TREE
    out.parent.mkdir()
    out.with_name(out.name + ".tmp").write_bytes(left)
    assert crawl.crawl([web.url], out)["fetched"] == 6 and records(out)[0].type == "warcinfo"


def test_a_file_that_is_there_or_being_written_is_left_alone(web, out):
    web.pages = TREE
    with runs.locked(out.parent, f"crawl of {out.name}"):
        with pytest.raises(ValueError, match=f"{out.parent}: another crawl of x.warc.gz"):
            crawl.crawl([web.url], out)
        assert not web.visits
        assert crawl.crawl([web.url], out.with_name("y.warc.gz"))["fetched"] == 6
    web.visits.clear()
    out.write_bytes(b"dear")
    with pytest.raises(FileExistsError, match=f"{out}.*delete it"):
        crawl.crawl([web.url], out)
    assert out.read_bytes() == b"dear" and not web.visits


@pytest.mark.parametrize("wrong", [dict(seeds=[]), dict(seeds=["example.org"]), dict(max_pages=0),
    dict(max_depth=-1), dict(delay_s=-1), dict(delay_s=float("nan")),
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
    assert done.stdout.startswith(
        "fetched 4, status_200 4, beyond_max_pages 1\ncrawl    4 addresses, ")
    assert str(path) in done.stdout
    assert f"200        42 B  {web.url}/" in done.stderr and len(responses(path)) == 4
    again = run_script("web/crawl.py", *args)
    assert again.returncode == 2
    assert again.stderr.startswith(f"crawl.py: error: {path}: is there already")
    assert run_script("web/crawl.py", "example.org").returncode == 2
