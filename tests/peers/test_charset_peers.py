"""web/charset.py and web/crawl.py beside Chromium: TextDecoder, the query of links, URL and the HTML parser. Needs Chromium and the playwright package."""
import itertools
import random
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent.parent.parent)]
from web import charset  # noqa: E402
from web import encoding  # noqa: E402
from web import markup  # noqa: E402
from web import crawl  # noqa: E402
from web import addresses  # noqa: E402
from web import warc  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
NAMES = sorted(set(encoding.LABELS.values()) - {"replacement"})
# Where Chromium 156 is not what the standard says: U+3000 and what follows a broken code of three bytes in EUC-JP, the codes of
# Big5 that stand for two characters, a control in ISO-2022-JP.
CHROMIUM_DIFFERS = {"euc-jp": rb"\xa1\xa1|\x8f[\xa1-\xfe][^\xa1-\xfe]", "big5": rb"\x88[\x62\x64\xa3\xa5]", "iso-2022-jp": rb"\x1c"}


@pytest.fixture(scope="module")
def page():
    with pytest.importorskip("playwright.sync_api").sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.encoding = "utf-8"
        page.route("**/*", lambda route: route.fulfill(status=200, headers={"Content-Type": f"text/html; charset={page.encoding}"}, body=b"<p>x"))
        yield page
        browser.close()


def test_every_label(page):
    theirs = page.evaluate("labels => labels.map(l => { try { return new TextDecoder(l).encoding } catch (e) { return null } })", sorted(encoding.LABELS))
    for label, name in zip(sorted(encoding.LABELS), theirs):
        assert name == encoding.LABELS[label] or label == "latin-1" or encoding.LABELS[label] == "replacement", label


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_decoded_alike(page, name):
    """All pairs of bytes of multi-byte encodings, and at random; each with a tail, so that it is seen what a wrong byte takes with it."""
    rng, pieces = random.Random(0), [b"\x1b$B", b"\x1b(B", b"\x1b(J", b"\x1b(I", b"\x1b", b"\x8f", b"\x8e", b"\x81", b"\x30", b"\xa1", b"\xfe", b"\xd8", b"\xdc", b"\0", b"a", b"\n", b"\xff", b"\xe3\x81", b"\x80"]
    inputs = [bytes(pair) for pair in itertools.product(range(0x80, 256), range(256))] if name in encoding.PARTS else [bytes([b]) for b in range(256)]
    inputs += [b"".join(rng.choice(pieces) if rng.random() < .5 else bytes([rng.randrange(256)]) for _ in range(rng.randrange(8))) for _ in range(3000)]
    tail = {"utf-16le": b".\0.\0.\0", "utf-16be": b"\0.\0.\0.", "iso-2022-jp": b"\x1b(B.."}.get(name, b"....")
    inputs = [data + tail for data in inputs if not re.search(CHROMIUM_DIFFERS.get(name, b"(?!)"), data)
              and not (name.startswith("utf-16") and len(data) % 2) and not data.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf"))]
    theirs = page.evaluate("([name, inputs]) => inputs.map(s => new TextDecoder(name).decode(Uint8Array.from(s, c => c.charCodeAt(0))))", [name, [data.decode("latin-1") for data in inputs]])
    differ = [(data, text, encoding.text_of(data, name)) for data, text in zip(inputs, theirs) if encoding.text_of(data, name) != text]
    assert not differ, (len(differ), differ[:5])


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("utf-16", "x-user"))])
def test_queries_are_encoded_alike(page, name):
    """Characters of the BMP but the private ones, of which GB 18030 has new places for 24."""
    page.encoding = name
    page.goto(f"http://h.org/{name}")
    chars = [chr(c) for c in range(0x80, 0x10000) if not 0xd800 <= c < 0xf900][::1 if name in encoding.MULTI_BYTE else 5]
    theirs = page.evaluate("chars => { const a = document.createElement('a'); return chars.map(c => { a.href = 'http://h/?q' + c; return a.href.slice(11) }) }", chars)
    unwritten = "\u00a5\u203e" if name == "iso-2022-jp" else ""              # only with a shift to Roman, which we do not write
    differ = [(char, query) for char, query in zip(chars, theirs)
              if unquote_to_bytes(query) != encoding.bytes_of(char, name) and char not in unwritten]
    assert not differ, (len(differ), differ[:5])
    for link in ("/\u00e4?q=\u00e4&\u7206", " \n/\u00e4?q\t=\u00e4 \r\n&\u7206\t\n", "?\u00e4%20%E4%&'\\|#\u00e4"):
        theirs = page.evaluate("link => { const a = document.createElement('a'); a.href = link; a.hash = ''; return a.href }", link)
        assert addresses.normalise(addresses.in_encoding(link, name), page.url).replace("'", "%27") == addresses.normalise(theirs)


PIECES = ["http:", "https:", "HTTP:", "//", "/", "///", "\\", "\\\\", "a.org", "B.org", "b\u00fccher.de", "fa\u00df.de", "0x7f.1", "1.2.3", "256.1", "[::1]", "%41.org", "a%2eb", ":80", ":443", ":8080", ":", "..", ".", "%2e",
          "%2E%2e", "a", "b//c", "?q", "?\u00e4=\u00df", "#f", "\t", "\n", " ", "%", "%zz", "%7e", "%C3%A4", "\u00e4", "&x=1", "'", '"', "<", "|", "x:", "mailto:", "\0", "\u3002", "\u65e5\u672c", ";p", "~", "+", "[", "]",
          "?", "a b", "..%2f", ".%2e/", "/.", "/..", "www.", "xn--bcher-kva"]
BASES = ["http://a.org/d/e?q", "https://b.org", "http://a.org/x//y/../z/", "http://a.org:8080/?a"]


def test_links_mean_the_same_address(page):
    """What differs on purpose: hosts that no DNS has and user names are refused; one spelling for characters that need no %."""
    rng, differ, n = random.Random(0), [], 0
    links = [("".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 7))), rng.choice(BASES)) for _ in range(10_000)]
    theirs = page.evaluate("links => links.map(([link, base]) => { try { const u = new URL(link, base); u.hash = ''; return u.href } catch (e) { return null } })", links)
    for (link, base), want in zip(links, theirs):
        host = want and want.startswith("http") and want.split("/")[2]
        if not host or not addresses.HOST.fullmatch(host.rpartition(":")[0] if host[-1:].isdigit() and ":" in host and "]" != host[-1] else host) or "xn--" in host:
            continue
        n += 1
        try:
            ours = addresses.normalise(link, base)
        except ValueError:
            ours = None
        if ours is None or ours.replace("%27", "'") != addresses.normalise(want).replace("%27", "'"):
            differ.append((link, base, want, ours))
    assert n > 7000 and not differ, (len(differ), differ[:5])
    for name in ("b\u00fccher.de", "fa\u00df.de", "BU\u0308CHER.de", "\uff27\uff2f\u3002org", "\u03b2\u03cc\u03bb\u03bf\u03c2.com", "a\xadb.org", "\u65e5\u672c.jp", "\u0130.com", "stra\u00dfe.B\u00dcCHER.de"):
        assert addresses.normalise(f"http://{name}/") == page.evaluate("a => new URL(a).href", f"http://{name}/"), name


def test_tags_and_attributes_are_read_alike(page):
    """Links and metas of random markup, as the HTML parser of a browser without scripts finds them."""
    pieces = ["<a href=x>", "<a HREF='?a=1&copy=2&amp;b&lt'>", '<meta name="robots" content="noai">', "<meta name=a/content=b>", "<p title='", '<p title="', "'", '"', ">", "<!--", "-->", "--!>", "<!-->", "<script>", "</script>", "<style>", "</style >",
              "<title>", "</title>", "<textarea>", "</textarea>", "<p>", "</p>", "<br/>", "text", "&amp;", "<", "<a href=&#65;&#x42;&notit;&not=1&not>", "<a\thref\n=\f'y'z>", "<a href=a\"b>", "<a href = >", "<a =x href=w>", "</a href=v>", "<?x ", "<![CDATA["]
    rng, differ, closing = random.Random(1), [], """<p>'><p>"><p>--><p></script></style></title></textarea><p>"""        # of what is left open we read more
    sources = ["<!doctype html><body>" + "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 9))) + closing for _ in range(10_000)]
    theirs = page.evaluate("""sources => sources.map(s => [...new DOMParser().parseFromString(s, 'text/html').querySelectorAll('a, meta')]
        .map(e => [e.localName, Object.fromEntries([...e.attributes].map(a => [a.name, a.value]))]))""", sources)
    for source, want in zip(sources, theirs):
        ours = [[name, markup.attributes(inside)] for _, name, inside in markup.tags(source) if name in ("a", "meta")]
        if {str(tag) for tag in ours} != {str(tag) for tag in want}:        # not how many: a browser repeats links in paragraphs
            differ.append((source, want, ours))
    assert not differ, (len(differ), differ[:5])



@pytest.mark.parametrize("head", ["<meta charset=windows-1251>", "<?xml version='1.0' encoding='windows-1251'?>", "<!-- " + "x" * 3000 + " --><meta charset=windows-1251>",
                                  "<meta http-equiv=content-type content='text/html; charset=windows-1251'>", "<title><meta charset=koi8-r></title><meta charset=windows-1251>"])
def test_pages_declare_their_encoding_alike(page, head):
    data = head.encode() + "<p>\u041f\u0430\u0440\u043e\u043c".encode("cp1251")
    page.unroute("**/*")
    page.route("**/*", lambda route: route.fulfill(status=200, headers={"Content-Type": "text/html"}, body=data))
    page.goto("http://h.org/x")
    assert page.evaluate("document.characterSet").lower() == charset.read(data)[1] == "windows-1251"
    record = warc.Record(url="http://h.org/x", body=data)
    assert crawl.links_of(record, Counter()) == ([], "http://h.org/x")
