"""Foreign bytes cost time in proportion to their number: every regular expression of the modules that meet them, and every entry.

A time says nothing on a busy machine. So each text is made at a length and at four times the length, and the times are compared:
linear work takes four times as long, quadratic work sixteen times.
"""
import ast
import io
import itertools
import random
import re
import sys
import time
from collections import Counter

import pytest
import regex

import data
from web import charset
from web import elements
from web import encoding
from web import crawl
from web import addresses
from web import boilerplate
from web import connection
from web import extract
from web import pii
from web import quality
from web import rights
from web import urls
from web import language
from web import language_training
from web import markup
from web import remote
from web import robots
from web import message
from web import records
from web import warc
from web import words

try:
    from re import _parser as sre_parser
except ImportError:                                     # Python 3.10
    import sre_parse as sre_parser

MODULES = (warc, records, message, crawl, addresses, connection, remote, charset, encoding, markup, robots,
           boilerplate, elements, extract, urls, rights, pii, language_training, words, data)
METHODS = {"match", "fullmatch", "search", "sub", "split", "findall", "finditer"}
AT_ONE_PLACE = {"match", "fullmatch"}
BOUNDED = {"words.SUFFIX", "data.EMAIL"}            # sees a kilobyte at most, as the entries show; a definition whose twin runs
PROBES = " \t\r\n\x0ba0Z_<>=\"'/;:,.-[]@!#&%\\\u00e9\u0301\u6f22\u3002"
ENDS = "", "\0", "x", "\n", "=", ">"


def seconds(work, text):
    start = time.process_time()
    work(text)
    return time.process_time() - start


def growth(work, make, n):
    """How much longer work takes on four times the text."""
    return min(seconds(work, make(4 * n)) for _ in range(2)) / min(seconds(work, make(n)) for _ in range(4))


def is_linear(work, make, n, cheap_s):
    """False if the time grows like the square of the length. With less than cheap_s for n characters it cannot."""
    return seconds(work, make(n)) < cheap_s or growth(work, make, n) < 9 or growth(work, make, n) < 9


# ------------------------------------------------------------------------------------------------------
# Every regular expression, with texts made from its own source.


def uses(module):
    """({name: the methods of patterns that are called on it}, [(line, library, method, source of the pattern)] without a name)."""
    methods, nameless = {}, []
    for node in ast.walk(ast.parse(open(module.__file__, encoding="utf-8").read())):
        if not isinstance(node, ast.Attribute) or node.attr not in METHODS:
            continue
        owner = node.value
        name = getattr(owner, "id", None) or "." + getattr(owner, "attr", "")            # NAME.match, form.name.match
        methods.setdefault(name, set()).add(node.attr)
    for node in ast.walk(ast.parse(open(module.__file__, encoding="utf-8").read())):
        if isinstance(node, ast.Call) and re.fullmatch("(re|regex)[.](%s)" % "|".join(METHODS), ast.unparse(node.func)):
            source = re.sub(r"\{\w+\}", "x", ast.unparse(node.args[0]))                   # of an f-string, something in it
            nameless.append((node.lineno, node.func.value.id, node.func.attr, eval(source, vars(module))))
    return methods, nameless


def expressions():
    """{name: (pattern, whether it is tried at one place only)} of all modules."""
    found = {}
    for module in MODULES:
        methods, nameless = uses(module)
        short = module.__name__.rpartition(".")[2]

        def look(name, value, key):
            if isinstance(value, (re.Pattern, regex.Pattern)):
                found[name] = value, key in methods and methods[key] <= AT_ONE_PLACE
            elif isinstance(value, dict):
                for which, each in value.items():
                    look(f"{name}[{which!r}]", each, key)
            elif isinstance(value, tuple):
                for which, each in zip(getattr(value, "_fields", itertools.count()), value):
                    look(f"{name}.{which}", each, f".{which}")
        for name, value in vars(module).items():
            look(f"{short}.{name}", value, name)
        for line, library, method, source in nameless:
            found[f"{short}:{line}"] = vars(sys.modules[__name__])[library].compile(source), method in AT_ONE_PLACE
    return found


EXPRESSIONS = expressions()


def accepted(op, value):
    """Characters that a set accepts: its own, or else some of PROBES."""
    if op == "ANY":
        return "a \n"
    if op == "NOT_LITERAL":
        return [c for c in PROBES if ord(c) != value]
    own = [chr(what if str(kind) == "LITERAL" else what[0]) for kind, what in value if str(kind) in ("LITERAL", "RANGE")]

    def holds(kind, what, char):
        if kind == "LITERAL":
            return ord(char) == what
        if kind == "RANGE":
            return what[0] <= ord(char) <= what[1]
        categories = {"SPACE": r"\s", "NOT_SPACE": r"\S", "DIGIT": r"\d", "NOT_DIGIT": r"\D", "WORD": r"\w", "NOT_WORD": r"\W"}
        return kind == "CATEGORY" and bool(re.match(categories[str(what).removeprefix("CATEGORY_")], char))
    negated = str(value[0][0]) == "NEGATE"
    return [c for c in dict.fromkeys([*own, *PROBES]) if any(holds(str(kind), what, c) for kind, what in value) != negated]


def children(op, value):
    """The parts of a node of a parsed pattern, each a sequence of nodes."""
    if op == "BRANCH":
        return value[1]
    if op.endswith("_REPEAT"):
        return [value[2]]
    if op == "SUBPATTERN":
        return [value[3]]
    if op in ("ASSERT", "ASSERT_NOT"):
        return [value[1]]
    return [value] if op == "ATOMIC_GROUP" else []


def example(nodes):
    """A text that a parsed pattern would match, if nothing looked around."""
    out = ""
    for op, value in nodes:
        op = str(op)
        if op == "LITERAL":
            out += chr(value)
        elif op in ("IN", "NOT_LITERAL", "ANY"):
            out += accepted(op, value)[0]
        elif op.endswith("_REPEAT"):
            out += example(value[2]) * max(value[0], 1)
        elif op not in ("ASSERT", "ASSERT_NOT") and children(op, value):
            out += example(children(op, value)[0])
    return out


def repeats(nodes, before=""):
    """(what comes before it, what is repeated) of each repeat in a parsed pattern."""
    for op, value in nodes:
        op = str(op)
        if op.endswith("_REPEAT") and value[1] > 16:
            inner = value[2][0] if len(value[2]) == 1 else ("", None)
            if str(inner[0]) in ("IN", "NOT_LITERAL", "ANY"):
                yield from ((before, c) for c in accepted(str(inner[0]), inner[1])[:12])
            else:
                yield before, example(value[2])
        for part in children(op, value):
            yield from repeats(part, before)
        before += example([(op, value)])


def adversaries(pattern):
    """Functions n -> a text of n characters in which an expression may look at the same ones again and again."""
    source = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    pairs = {("", c) for c in PROBES} | set(repeats(sre_parser.parse(source, pattern.flags)))
    for before, piece in sorted(pairs):
        for end in ENDS:
            yield lambda n, before=before, piece=piece, end=end: before + piece * (n // len(piece)) + end
        if before:
            for one in (before + piece, before + piece * 30):
                yield lambda n, one=one: one * (n // len(one)) + "\0"
            yield lambda n, before=before, piece=piece: before * (n // 2 // len(before)) + piece * (n // 2 // len(piece)) + "\0"


def slow_text(pattern, at_one_place, n=2000):
    """The first adversary of a pattern that it does not look at in linear time, shown short, or None."""
    cheap_s = 1e-3                                      # a square of n steps takes longer

    def work(text):
        text = text if isinstance(pattern.pattern, str) else text.encode("latin-1", "replace")
        return pattern.match(text) if at_one_place else sum(1 for _ in pattern.finditer(text))
    return next((make(60) for make in adversaries(pattern) if not is_linear(work, make, n, cheap_s)), None)


@pytest.mark.parametrize("name", sorted(EXPRESSIONS.keys() - BOUNDED))
def test_every_expression_is_linear(name):
    assert slow_text(*EXPRESSIONS[name]) is None


@pytest.mark.parametrize("source, once, n", [(rb"[\r\n]+[ \t]+", False, 1000), (rb"([^\s=]+)=", False, 1000), ("<!--.*?-->", False, 2000),
                                             (r"[0-9a-f:.]*:[0-9a-f:.]*$", True, 1000), (r"a[^b]*b", False, 2000)])
def test_a_quadratic_expression_is_seen(source, once, n):
    assert slow_text(re.compile(source), once, n)


def test_nothing_is_overlooked():
    for name in ("message.FOLD", "records.WARC.ends", "records.RECORD", "addresses.HOST", "markup.EDGES['nav']", "words.INFIX", "rights.LINK", "markup.TAG", "robots.PART", "language_training.SENTENCE_END"):
        assert name in EXPRESSIONS
    assert not EXPRESSIONS["message.FOLD"][1] and EXPRESSIONS["addresses.HOST"][1] and EXPRESSIONS["records.WARC.ends"][1] and not EXPRESSIONS["records.WARC.next"][1]
    assert len(EXPRESSIONS) > 80 and {name.split(":")[0].split(".")[0] for name in EXPRESSIONS} == {module.__name__.rpartition(".")[2] for module in MODULES}


# ------------------------------------------------------------------------------------------------------
# The entries, with texts made of pieces that mean something to them.


def http(head, body=""):
    """A WARC with one response that has these lines in its head."""
    block = b"HTTP/1.1 200 OK\r\n" + head.encode("latin-1", "replace") + b"\r\n\r\n" + body.encode("latin-1", "replace")
    return b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: %d\r\n\r\n" % len(block) + block + b"\r\n\r\n"


def read(raw):
    try:
        return list(warc.read_warc(io.BytesIO(raw)))
    except ValueError:                                  # no WARC
        return []


def follow(html):
    """All that a crawl does with a page but to fetch."""
    page = warc.Record(url="http://a.org/d/", body=html.encode())
    links, base = crawl.links_of(page, Counter())
    for link in links:
        address(link, base)


def address(link, base="http://a.org/d/e?q"):
    try:
        return addresses.normalise(link, base)
    except ValueError:
        return None


def obey(text):
    rules, _ = robots.parse_robots(text.splitlines())
    robots.allowed(rules, "http://a.org/" + "a/b" * 300)


HTML = ["<meta ", "<a ", "<a href=x>", "<!--", "-->", "<div>", "</div>", '="', "='", "=", " ", ">", "&", "&#", "&amp;", "<span class=share>", "</span>", "<nav>", "</nav>",
        "license", "<a license", "<table>", "<tr><td>", "<p>x", "<script>", "</script>", '"articleBody":"', "\\", '"', "<br>", "\u6f22", "\u0301\u0315", "\n", "<ul><li>",
        "<base href=/a/>", "../", "%2e", "<pre>", "content=noindex", "<h1>x", "<link rel=license ", ",", "<svg>", "<body"]
ENTRIES = {                                             # what reads it, the pieces of its language, how long a text is tried first
    "the head of a record": (lambda text: read(b"WARC/1.0\r\n" + text.encode("latin-1", "replace") + b"\r\n\r\n"), ["\r", "\n", "\r\n", "\r\n ", "\t", " ", ":", "a: b\r\n", "WARC/1.0", "WARC/1.0\r\n", "Content-Length: 5\r\n", "\0", "\u00e9", "a"], 6000),
    "the head of HTTP": (lambda text: read(http(text)), ["\r", "\n", "\r\n", "\r\n ", "\t", " ", ":", "a: b\r\n", "Content-Type: text/html; charset=", "Content-Encoding: gzip\r\n", "Transfer-Encoding: chunked", ",", ";", "charset", "="], 6000),
    "what stands between records": (lambda text: read(http("A: b") + text.encode("latin-1", "replace") + http("A: b")), ["\r", "\n", "\r\n", "\r\n\r\n", "WARC/1.0\r\n", "WARC/1", "\n\nWARC/", "\x1f\x8b\x08", "http://a 1.2.3.4 20040101000000 t 5\n", "\nhttp://a ", " 1.2.3.4 20040101000000", "\0", ":", "a"], 6000),
    "chunks": (lambda text: read(http("Transfer-Encoding: chunked", text)), ["1\r\na\r\n", "1;", "a", ";", " ", "\r\n", "0\r\n", "0", "f", "\t", "1 \r\n"], 6000),
    "ARC": (lambda text: read(b"filedesc://x 0.0.0.0 20040101000000 text/plain 3\n1 0\n" + text.encode("latin-1", "replace")), ["http://a ", "http://a", " 1.2.3.4", " 20040101000000", " 1.2.3.4 20040101000000 ", "\n", "\r", " ", ":", "1", "-", "a:b\n"], 6000),
    "extract": (extract.main_text, HTML, 6000),
    "charset of a page": (lambda text: charset.decode(text.encode() + b"\xff"), ["<meta ", "charset=", "http-equiv=content-type ", ">", " ", "=", "\u00e9", '"', "content=", "<!--", "-->", "<title>", "<script>",
                                                                                    "</", "&#", "&a", "<?xml ", "encoding=", "charset=gbk>", "charset=koi8-r>", "\x1b$B", "\x1b(B", "\0"], 6000),
    "directives": (lambda text: robots.reservation(text, robots.moment("2026-01-01")), ["noai", "a", ":", ",", ";", " ", "otherbot:", "unavailable_after:", "unavailable_after: 1, 2", "max-snippet:", "1", "=", '"', ".", "*:"], 6000),
    "rights": (lambda text: rights.rights({"x-robots-tag": text}, text.encode()), HTML, 6000),
    "links": (follow, HTML, 6000),
    "addresses": (address, ["http://", "https:", "//", "a.", "/", "../", "./", "%41", "%", ":", "[", "]", "@", "?", "#", "\u00fc", "\u0301\u0315", "a", " ", "&", "xn--", "0:"], 2000),
    "robots.txt": (obey, ["User-agent: *\n", "User-agent: longhand\n", "User-agent: a\n", "Disallow: /a\n", "Allow: ", "*", "$", "*a", "/", "a", "#", ":", "\n", "%41", "Crawl-delay: 1\n", "\u00e9", " "], 6000),
    "Retry-After": (lambda text: connection.retry_after({"retry-after": text}), ["(", ")", "1", " ", ",", ":", "Mon", "-", "+", ".", "GMT", "Jan"], 6000),
    "addresses to filter": (lambda text: data.url_filter(text, urls.Blocklist(suffixes={"co.uk": "", "*.ck": "*"})), ["http://", "//", "a.", "/", "%41", ":", "[", "]", "@", "?", "#", "\u00fc", "\u0301\u0315", "a", " ", "co.uk", "porn"], 6000),
    "filters": (lambda text: [check(text) for check in (lambda t: data.gopher_repetition(t, quality.words_of, quality.parts_of), lambda t: data.gopher_quality(t, quality.words_of), data.c4_quality,
                                              lambda t: data.fineweb_quality(t, quality.words_of), lambda t: pii.redact(t, ("email", "ip", "ssn", "phone")))],
                ["a ", "a", "@", "a@", ".", "a.", "http://", "www.", "n't", "'", "-", "1,", "1.", "[", "[1", "\n", "\n\n", "\u3002", "\u6f22", "\u0301\u0315", "{", "x y z ", "U.S.", "(212) ", "123-", "#", "The end of it. ", "\x1c", "a!"], 6000),
    "language": (lambda text: LANGUAGE.predict([text]), ["a", "a ", "\u00e9", "\u6f22", "</s> ", "__label__", " ", ".", "\0", "\ud800"], 6000)}
LANGUAGE = language.load()


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_is_linear(name, n_pairs=40):
    """What it reads is one piece many times, before, behind or between another; which, a fixed chance decides."""
    work, pieces, n = ENTRIES[name]
    rng = random.Random(name)
    pairs = list(itertools.product(pieces, repeat=2))
    for a, b in rng.sample(pairs, min(n_pairs, len(pairs))):
        for make in (lambda n: a + b * (n // len(b)), lambda n: (a + b) * (n // len(a + b)), lambda n: a * (n // 2 // len(a)) + b * (n // 2 // len(b))):
            assert is_linear(work, make, n, 0.02), (name, make(50))


def names(n):
    """n different words that speak against an element."""
    return " ".join("".join(letters) + "menu" for letters in itertools.islice(itertools.product("abcdefghij", repeat=6), n))


@pytest.mark.parametrize("name, make, n", [
    ("the head of HTTP", lambda n: "A: b\r\n c\r\nB: " + "\r" * n + "x", 6000),
    ("rights", lambda n: "<meta " + "a" * min(n, 4000) + ">", 1000), ("rights", lambda n: "<meta " * (n // 6) + "a" * 3000 + ">", 10_000),
    ("rights", lambda n: "<a license" + "a" * min(n, 4000) + ">", 1000), ("rights", lambda n: ("<a license" + "a" * 300 + ">") * (n // 311), 10_000),
    ("robots.txt", lambda n: "".join(f"User-agent: a{'abcdefghij'[i % 10]}{'abcdefghij'[i // 10 % 10]}{'abcdefghij'[i // 100 % 10]}\n" for i in range(n)) + "Allow: /\n" * n, 500),
    ("links", lambda n: f"<base href='/{'b' * n}/'>" + "<a href=x>" * (n // 10), 8000), ("links", lambda n: ("<a href='/" + "\u0301\u0315" * 900 + "'>") * (n // 1800), 20_000),
    ("addresses to filter", lambda n: "http://" + "a." * n + "com/", 1000), ("addresses to filter", lambda n: "http://a" + "\u0301\u0315" * n, 2000),
    ("addresses", lambda n: "http://a" + "\u0301\u0315" * n, 2000),
    ("extract", lambda n: f'<p>One.<div><span class="{names(n // 11)}">' + ("<div>" + "x sentence " * 22 + "</div>") * (n // 250), 20_000)])
def test_two_lists_are_not_multiplied(name, make, n):
    assert is_linear(ENTRIES[name][0], make, n, 0.002)
