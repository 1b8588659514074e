"""web/charset.py and web/crawl.py beside Chromium: TextDecoder, URL and the HTML parser.

Needs Chromium and the playwright package.
"""

import itertools
import random
import re
from collections import Counter
from urllib.parse import unquote_to_bytes

import pytest

from chromium import browser  # noqa: F401  a fixture
from web import addresses, charset, crawl, encoding, markup, warc

NAMES = sorted(set(encoding.LABELS.values()) - {"replacement"})
# Where Chromium 156 is not what the standard says: U+3000 and what follows a broken code of three
# bytes in EUC-JP, the codes of Big5 that stand for two characters, a control in ISO-2022-JP.
CHROMIUM_DIFFERS = {
    "euc-jp": rb"\xa1\xa1|\x8f[\xa1-\xfe][^\xa1-\xfe]",
    "big5": rb"\x88[\x62\x64\xa3\xa5]",
    "iso-2022-jp": rb"\x1c",
}


@pytest.fixture(scope="module")
def page(browser):  # noqa: F811
    """A page of a site whose pages say that they are in page.encoding."""
    page = browser.new_page()
    page.encoding = "utf-8"

    def answer(route):
        kind = f"text/html; charset={page.encoding}"
        route.fulfill(status=200, headers={"Content-Type": kind}, body=b"<p>x")

    page.route("**/*", answer)
    yield page
    page.close()


def assert_alike(inputs, ours, theirs):
    differ = [found for found in zip(inputs, ours, theirs) if found[1] != found[2]]
    assert not differ, (len(differ), differ[:5])


# -------------------------------------------------------------------------------------- encodings


def test_every_label(page):
    labels = sorted(encoding.LABELS)
    theirs = page.evaluate("""labels => labels.map(label => {
        try { return new TextDecoder(label).encoding } catch (e) { return null } })""", labels)
    for label, name in zip(labels, theirs):
        known = label == "latin-1" or encoding.LABELS[label] == "replacement"
        assert name == encoding.LABELS[label] or known, label


PIECES_OF_BYTES = [
    b"\x1b$B", b"\x1b(B", b"\x1b(J", b"\x1b(I", b"\x1b", b"\x8f", b"\x8e", b"\x81", b"\x30",
    b"\xa1", b"\xfe", b"\xd8", b"\xdc", b"\0", b"a", b"\n", b"\xff", b"\xe3\x81", b"\x80"]
TAILS = {"utf-16le": b".\0.\0.\0", "utf-16be": b"\0.\0.\0.", "iso-2022-jp": b"\x1b(B.."}


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_decoded_alike(page, name):
    """All pairs of bytes of multi-byte encodings, and random bytes.

    Each has a tail, which shows what a wrong byte takes with it.
    """
    rng, inputs = random.Random(0), [bytes([b]) for b in range(256)]
    if name in encoding.PARTS:
        inputs = [bytes(pair) for pair in itertools.product(range(0x80, 256), range(256))]
    for _ in range(3000):
        parts = []
        for _ in range(rng.randrange(8)):
            drawn = rng.random() < 0.5
            parts.append(rng.choice(PIECES_OF_BYTES) if drawn else bytes([rng.randrange(256)]))
        inputs.append(b"".join(parts))
    differs = re.compile(CHROMIUM_DIFFERS.get(name, b"(?!)"))
    inputs = [data + TAILS.get(name, b"....") for data in inputs
              if not differs.search(data) and not data.startswith((b"\xff\xfe", b"\xfe\xff",
                                                                   b"\xef\xbb\xbf"))]
    if name.startswith("utf-16"):
        inputs = [data for data in inputs if len(data) % 2 == 0]
    theirs = page.evaluate("""([name, inputs]) => inputs.map(text => new TextDecoder(name).decode(
        Uint8Array.from(text, c => c.charCodeAt(0))))""",
                           [name, [data.decode("latin-1") for data in inputs]])
    assert_alike(inputs, [encoding.text_of(data, name) for data in inputs], theirs)


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith(("utf-16", "x-user"))])
def test_queries_are_encoded_alike(page, name):
    """Characters of the BMP but the private ones, of which GB 18030 has new places for 24."""
    page.encoding = name
    page.goto(f"http://h.org/{name}")
    # Two of ISO-2022-JP need a shift to Roman, which we do not write.
    unwritten = "\u00a5\u203e" if name == "iso-2022-jp" else ""
    chars = [chr(c) for c in range(0x80, 0x10000) if not 0xd800 <= c < 0xf900]
    chars = [c for c in chars[::1 if name in encoding.MULTI_BYTE else 5] if c not in unwritten]
    theirs = page.evaluate("""chars => {
        const a = document.createElement('a');
        return chars.map(c => { a.href = 'http://h/?q' + c; return a.href.slice(11) }) }""", chars)
    ours = [encoding.bytes_of(char, name) for char in chars]
    assert_alike(chars, ours, [unquote_to_bytes(query) for query in theirs])
    for link in ("/\u00e4?q=\u00e4&\u7206", " \n/\u00e4?q\t=\u00e4 \r\n&\u7206\t\n",
                 "?\u00e4%20%E4%&'\\|#\u00e4"):
        theirs = page.evaluate("""link => {
            const a = document.createElement('a');
            a.href = link; a.hash = ''; return a.href }""", link)
        ours = addresses.normalise(addresses.in_encoding(link, name), page.url)
        assert ours.replace("'", "%27") == addresses.normalise(theirs)


@pytest.mark.parametrize("head", [
    "<meta charset=windows-1251>",
    "<?xml version='1.0' encoding='windows-1251'?>",
    "<!-- " + "x" * 3000 + " --><meta charset=windows-1251>",
    "<meta http-equiv=content-type content='text/html; charset=windows-1251'>",
    "<title><meta charset=koi8-r></title><meta charset=windows-1251>",
])
def test_pages_declare_their_encoding_alike(browser, head):  # noqa: F811
    data = head.encode() + "<p>\u041f\u0430\u0440\u043e\u043c".encode("cp1251")
    page = browser.new_page()
    page.route("**/*", lambda route: route.fulfill(
        status=200, headers={"Content-Type": "text/html"}, body=data))
    page.goto("http://h.org/x")
    theirs = page.evaluate("document.characterSet").lower()
    page.close()
    assert theirs == charset.read(data)[1] == "windows-1251"
    record = warc.Record(url="http://h.org/x", body=data)
    assert crawl.links_of(record, Counter()) == ([], "http://h.org/x")


# ------------------------------------------------------------------------------------------- links

PIECES = [
    "http:", "https:", "HTTP:", "//", "/", "///", "\\", "\\\\", "a.org", "B.org", "b\u00fccher.de",
    "fa\u00df.de", "0x7f.1", "1.2.3", "256.1", "[::1]", "%41.org", "a%2eb", ":80", ":443", ":8080",
    ":", "..", ".", "%2e", "%2E%2e", "a", "b//c", "?q", "?\u00e4=\u00df", "#f", "\t", "\n", " ",
    "%", "%zz", "%7e", "%C3%A4", "\u00e4", "&x=1", "'", '"', "<", "|", "x:", "mailto:", "\0",
    "\u3002", "\u65e5\u672c", ";p", "~", "+", "[", "]", "?", "a b", "..%2f", ".%2e/", "/.", "/..",
    "www.", "xn--bcher-kva"]
BASES = ["http://a.org/d/e?q", "https://b.org", "http://a.org/x//y/../z/", "http://a.org:8080/?a"]
HOSTS = [
    "b\u00fccher.de", "fa\u00df.de", "BU\u0308CHER.de", "\uff27\uff2f\u3002org",
    "\u03b2\u03cc\u03bb\u03bf\u03c2.com", "a\xadb.org", "\u65e5\u672c.jp", "\u0130.com",
    "stra\u00dfe.B\u00dcCHER.de"]


def is_public(address):
    """Whether DNS can have the host of an address: others we refuse."""
    host = address.split("/")[2]
    if ":" in host and host[-1:].isdigit():                 # a port, unless it is [::1]
        host = host.rpartition(":")[0]
    return bool(addresses.HOST.fullmatch(host)) and "xn--" not in host


def our_address(link, base):
    try:
        return addresses.normalise(link, base).replace("%27", "'")
    except ValueError:
        return None


def test_links_mean_the_same_address(page):
    """Two things differ on purpose: hosts that no DNS has and user names are refused, and there is
    one spelling for characters that need no %.
    """
    rng, links = random.Random(0), []
    for _ in range(10_000):
        parts = [rng.choice(PIECES) for _ in range(rng.randrange(1, 7))]
        links.append(("".join(parts), rng.choice(BASES)))
    found = page.evaluate("""links => links.map(([link, base]) => {
        try { const u = new URL(link, base); u.hash = ''; return u.href }
        catch (e) { return null } })""", links)
    both = [(link, want) for link, want in zip(links, found)
            if want and want.startswith("http") and is_public(want)]
    assert len(both) > 7000
    links, theirs = zip(*both)
    theirs = [addresses.normalise(want).replace("%27", "'") for want in theirs]
    assert_alike(links, [our_address(*link) for link in links], theirs)
    for host in HOSTS:
        want = page.evaluate("a => new URL(a).href", f"http://{host}/")
        assert addresses.normalise(f"http://{host}/") == want, host


# -------------------------------------------------------------------------------------------- tags

MARKUP = [
    "<a href=x>", "<a HREF='?a=1&copy=2&amp;b&lt'>", '<meta name="robots" content="noai">',
    "<meta name=a/content=b>", "<p title='", '<p title="', "'", '"', ">", "<!--", "-->", "--!>",
    "<!-->", "<script>", "</script>", "<style>", "</style >", "<title>", "</title>", "<textarea>",
    "</textarea>", "<p>", "</p>", "<br/>", "text", "&amp;", "<",
    "<a href=&#65;&#x42;&notit;&not=1&not>", "<a\thref\n=\f'y'z>", "<a href=a\"b>", "<a href = >",
    "<a =x href=w>", "</a href=v>", "<?x ", "<![CDATA["]
CLOSING = """<p>'><p>"><p>--><p></script></style></title></textarea><p>"""     # else we read more


def test_tags_and_attributes_are_read_alike(page):
    """Links and metas of random markup, as the HTML parser of a browser without scripts finds them.

    Not how many: a browser repeats links in paragraphs.
    """
    rng, sources = random.Random(1), []
    for _ in range(10_000):
        parts = [rng.choice(MARKUP) for _ in range(rng.randrange(1, 9))]
        sources.append("<!doctype html><body>" + "".join(parts) + CLOSING)
    found = page.evaluate("""sources => sources.map(source =>
        [...new DOMParser().parseFromString(source, 'text/html').querySelectorAll('a, meta')]
        .map(e => [e.localName,
                   Object.fromEntries([...e.attributes].map(a => [a.name, a.value]))]))""", sources)
    theirs = [{str(tag) for tag in tags} for tags in found]
    ours = []
    for source in sources:
        tags = [[name, markup.attributes(inside)] for _, name, inside in markup.tags(source)
                if name in ("a", "meta")]
        ours.append({str(tag) for tag in tags})
    assert_alike(sources, ours, theirs)
