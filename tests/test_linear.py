"""Foreign bytes cost time in proportion to their number, in every expression and every entry.

A time says nothing on a busy machine. So each text is made at a length and at four times the
length, and the times are compared: linear work takes four times as long, quadratic work sixteen
times.
"""
import ast
import io
import itertools
import random
import re
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

MODULES = (
    warc, records, message, crawl, addresses, connection, remote, charset, encoding, markup, robots,
    boilerplate, elements, extract, urls, rights, pii, language_training, words, data)
METHODS = {"match", "fullmatch", "search", "sub", "split", "findall", "finditer"}
AT_ONE_PLACE = {"match", "fullmatch"}
BOUNDED = {
    "words.SUFFIX",             # sees a kilobyte at most, as the entries show
    "data.EMAIL"}               # belongs to a definition whose twin runs
PROBES = " \t\r\n\x0ba0Z_<>=\"'/;:,.-[]@!#&%\\\u00e9\u0301\u6f22\u3002"
ENDS = "", "\0", "x", "\n", "=", ">"


def latin(text):
    return text.encode("latin-1", "replace")


def filled(n, piece):
    """A text of about n characters: a piece again and again."""
    return piece * (n // len(piece))


def seconds(work, text):
    start = time.process_time()
    work(text)
    return time.process_time() - start


def growth(work, make, n):
    """How much longer work takes on four times the text."""
    once = min(seconds(work, make(n)) for _ in range(4))
    return min(seconds(work, make(4 * n)) for _ in range(2)) / once


def is_linear(work, make, n, cheap_s):
    """False if the time grows like the square of n. It cannot if n takes less than cheap_s."""
    if seconds(work, make(n)) < cheap_s:
        return True
    return growth(work, make, n) < 9 or growth(work, make, n) < 9


# ------------------------------------ every regular expression, with texts made from its own source


def uses(module):
    """({name: methods called on it}, [(line, library, method, source) of a nameless pattern])."""
    methods, nameless = {}, []
    tree = ast.parse(open(module.__file__, encoding="utf-8").read())
    call = re.compile("(re|regex)[.](%s)" % "|".join(METHODS))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr not in METHODS:
            continue
        owner = node.value                              # of NAME.match, or of form.name.match
        name = getattr(owner, "id", None) or "." + getattr(owner, "attr", "")
        methods.setdefault(name, set()).add(node.attr)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and call.fullmatch(ast.unparse(node.func)):
            source = ast.unparse(node.args[0])
            source = eval(re.sub(r"\{\w+\}", "x", source), vars(module))    # x for {name}
            nameless.append((node.lineno, node.func.value.id, node.func.attr, source))
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
            pattern = {"re": re, "regex": regex}[library].compile(source)
            found[f"{short}:{line}"] = pattern, method in AT_ONE_PLACE
    return found


EXPRESSIONS = expressions()


def accepted(op, value):
    """Characters that a set accepts: its own, or else some of PROBES."""
    if op == "ANY":
        return "a \n"
    if op == "NOT_LITERAL":
        return [c for c in PROBES if ord(c) != value]
    parts = [(str(kind), what) for kind, what in value]
    own = [chr(what if kind == "LITERAL" else what[0])
           for kind, what in parts if kind in ("LITERAL", "RANGE")]

    def holds(kind, what, char):
        if kind == "LITERAL":
            return ord(char) == what
        if kind == "RANGE":
            return what[0] <= ord(char) <= what[1]
        classes = {"SPACE": r"\s", "DIGIT": r"\d", "WORD": r"\w"}
        classes |= {f"NOT_{name}": source.upper() for name, source in classes.items()}
        name = str(what).removeprefix("CATEGORY_")
        return kind == "CATEGORY" and bool(re.match(classes[name], char))
    negated = parts[0][0] == "NEGATE"
    return [c for c in dict.fromkeys([*own, *PROBES])
            if any(holds(kind, what, c) for kind, what in parts) != negated]


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
    """Functions n -> a text of n characters that an expression may read again and again."""
    source = pattern.pattern
    source = source if isinstance(source, str) else source.decode("latin-1")
    pairs = {("", c) for c in PROBES} | set(repeats(sre_parser.parse(source, pattern.flags)))
    for before, piece in sorted(pairs):
        for end in ENDS:
            yield lambda n, before=before, piece=piece, end=end: before + filled(n, piece) + end
        if before:
            for one in (before + piece, before + piece * 30):
                yield lambda n, one=one: filled(n, one) + "\0"
            yield lambda n, before=before, piece=piece: (
                filled(n // 2, before) + filled(n // 2, piece) + "\0")


def slow_text(pattern, at_one_place, n=2000):
    """The first adversary of a pattern, shown short, that takes more than linear time, or None."""
    cheap_s = 1e-3                                      # a square of n steps takes longer

    def work(text):
        text = text if isinstance(pattern.pattern, str) else latin(text)
        return pattern.match(text) if at_one_place else sum(1 for _ in pattern.finditer(text))
    slow = (make for make in adversaries(pattern) if not is_linear(work, make, n, cheap_s))
    return next((make(60) for make in slow), None)


@pytest.mark.parametrize("name", sorted(EXPRESSIONS.keys() - BOUNDED))
def test_every_expression_is_linear(name):
    assert slow_text(*EXPRESSIONS[name]) is None


@pytest.mark.parametrize("source, once, n", [
    (rb"[\r\n]+[ \t]+", False, 1000), (rb"([^\s=]+)=", False, 1000), ("<!--.*?-->", False, 2000),
    (r"[0-9a-f:.]*:[0-9a-f:.]*$", True, 1000), (r"a[^b]*b", False, 2000)])
def test_a_quadratic_expression_is_seen(source, once, n):
    assert slow_text(re.compile(source), once, n)


def test_nothing_is_overlooked():
    for name in ("records.RECORD", "markup.EDGES['nav']", "words.INFIX", "rights.LINK",
                 "markup.TAG", "robots.PART", "language_training.SENTENCE_END"):
        assert name in EXPRESSIONS
    at_one_place = {"message.FOLD": False, "addresses.HOST": True,
                    "records.WARC.ends": True, "records.WARC.next": False}
    assert {name: EXPRESSIONS[name][1] for name in at_one_place} == at_one_place
    assert len(EXPRESSIONS) > 80
    assert {re.split("[:.]", name)[0] for name in EXPRESSIONS} == {
        module.__name__.rpartition(".")[2] for module in MODULES}


# ------------------------------- the entries, with texts made of pieces that mean something to them


def http(head, body=""):
    """A WARC with one response that has these lines in its head."""
    block = b"HTTP/1.1 200 OK\r\n" + latin(head) + b"\r\n\r\n" + latin(body)
    start = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: %d\r\n\r\n" % len(block)
    return start + block + b"\r\n\r\n"


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


def filters(text):
    data.gopher_repetition(text, quality.words_of, quality.parts_of)
    data.gopher_quality(text, quality.words_of)
    data.c4_quality(text)
    data.fineweb_quality(text, quality.words_of)
    pii.redact(text, ("email", "ip", "ssn", "phone"))


ARC_START = b"filedesc://x 0.0.0.0 20040101000000 text/plain 3\n1 0\n"
MOMENT = robots.moment("2026-01-01")
BLOCKLIST = urls.Blocklist(suffixes={"co.uk": "", "*.ck": "*"})
LANGUAGE = language.load()
HTML = [
    "<meta ", "<a ", "<a href=x>", "<!--", "-->", "<div>", "</div>", '="', "='", "=", " ", ">", "&",
    "&#", "&amp;", "<span class=share>", "</span>", "<nav>", "</nav>", "license", "<a license",
    "<table>", "<tr><td>", "<p>x", "<script>", "</script>", '"articleBody":"', "\\", '"', "<br>",
    "\u6f22", "\u0301\u0315", "\n", "<ul><li>", "<base href=/a/>", "../", "%2e", "<pre>",
    "content=noindex", "<h1>x", "<link rel=license ", ",", "<svg>", "<body"]
ENTRIES = {                     # what reads a text, and the pieces of the text's language
    "the head of a record": (lambda text: read(b"WARC/1.0\r\n" + latin(text) + b"\r\n\r\n"), [
        "\r", "\n", "\r\n", "\r\n ", "\t", " ", ":", "a: b\r\n", "WARC/1.0", "WARC/1.0\r\n",
        "Content-Length: 5\r\n", "\0", "\u00e9", "a"]),
    "the head of HTTP": (lambda text: read(http(text)), [
        "\r", "\n", "\r\n", "\r\n ", "\t", " ", ":", "a: b\r\n",
        "Content-Type: text/html; charset=", "Content-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked", ",", ";", "charset", "="]),
    "what stands between records": (lambda text: read(http("A: b") + latin(text) + http("A: b")), [
        "\r", "\n", "\r\n", "\r\n\r\n", "WARC/1.0\r\n", "WARC/1", "\n\nWARC/", "\x1f\x8b\x08",
        "http://a 1.2.3.4 20040101000000 t 5\n", "\nhttp://a ", " 1.2.3.4 20040101000000", "\0",
        ":", "a"]),
    "chunks": (lambda text: read(http("Transfer-Encoding: chunked", text)), [
        "1\r\na\r\n", "1;", "a", ";", " ", "\r\n", "0\r\n", "0", "f", "\t", "1 \r\n"]),
    "ARC": (lambda text: read(ARC_START + latin(text)), [
        "http://a ", "http://a", " 1.2.3.4", " 20040101000000", " 1.2.3.4 20040101000000 ",
        "\n", "\r", " ", ":", "1", "-", "a:b\n"]),
    "extract": (extract.main_text, HTML),
    "charset of a page": (lambda text: charset.decode(text.encode() + b"\xff"), [
        "<meta ", "charset=", "http-equiv=content-type ", ">", " ", "=", "\u00e9", '"', "content=",
        "<!--", "-->", "<title>", "<script>", "</", "&#", "&a", "<?xml ", "encoding=",
        "charset=gbk>", "charset=koi8-r>", "\x1b$B", "\x1b(B", "\0"]),
    "directives": (lambda text: robots.reservation(text, MOMENT), [
        "noai", "a", ":", ",", ";", " ", "otherbot:", "unavailable_after:",
        "unavailable_after: 1, 2", "max-snippet:", "1", "=", '"', ".", "*:"]),
    "rights": (lambda text: rights.rights({"x-robots-tag": text}, text.encode()), HTML),
    "links": (follow, HTML),
    "addresses": (address, [
        "http://", "https:", "//", "a.", "/", "../", "./", "%41", "%", ":", "[", "]", "@", "?",
        "#", "\u00fc", "\u0301\u0315", "a", " ", "&", "xn--", "0:"]),
    "robots.txt": (obey, [
        "User-agent: *\n", "User-agent: longhand\n", "User-agent: a\n", "Disallow: /a\n", "Allow: ",
        "*", "$", "*a", "/", "a", "#", ":", "\n", "%41", "Crawl-delay: 1\n", "\u00e9", " "]),
    "Retry-After": (lambda text: connection.retry_after({"retry-after": text}), [
        "(", ")", "1", " ", ",", ":", "Mon", "-", "+", ".", "GMT", "Jan"]),
    "addresses to filter": (lambda text: data.url_filter(text, BLOCKLIST), [
        "http://", "//", "a.", "/", "%41", ":", "[", "]", "@", "?", "#", "\u00fc", "\u0301\u0315",
        "a", " ", "co.uk", "porn"]),
    "filters": (filters, [
        "a ", "a", "@", "a@", ".", "a.", "http://", "www.", "n't", "'", "-", "1,", "1.", "[", "[1",
        "\n", "\n\n", "\u3002", "\u6f22", "\u0301\u0315", "{", "x y z ", "U.S.", "(212) ", "123-",
        "#", "The end of it. ", "\x1c", "a!"]),
    "language": (lambda text: LANGUAGE.predict([text]), [
        "a", "a ", "\u00e9", "\u6f22", "</s> ", "__label__", " ", ".", "\0", "\ud800"])}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_is_linear(name, n_pairs=40):
    """What it reads is one piece many times, before, behind or between another, drawn at random."""
    work, pieces = ENTRIES[name]
    n = 2000 if name == "addresses" else 6000
    rng = random.Random(name)
    pairs = list(itertools.product(pieces, repeat=2))
    for a, b in rng.sample(pairs, min(n_pairs, len(pairs))):
        for make in (lambda n: a + filled(n, b), lambda n: filled(n, a + b),
                     lambda n: filled(n // 2, a) + filled(n // 2, b)):
            assert is_linear(work, make, n, 0.02), (name, make(50))


def different(n):
    """n different words."""
    combinations = itertools.product("abcdefghij", repeat=6)
    return ["".join(letters) for letters in itertools.islice(combinations, n)]


def names(n):
    """n different words that speak against an element."""
    return " ".join(f"{word}menu" for word in different(n))


def groups(n):
    """n lines of robots.txt, each for another robot."""
    return "".join(f"User-agent: {word}\n" for word in different(n))


def sentences(n):
    return filled(n, "<div>" + "x sentence " * 22 + "</div>")


@pytest.mark.parametrize("name, make, n", [
    ("the head of HTTP", lambda n: "A: b\r\n c\r\nB: " + "\r" * n + "x", 6000),
    ("rights", lambda n: "<meta " + "a" * min(n, 4000) + ">", 1000),
    ("rights", lambda n: filled(n, "<meta ") + "a" * 3000 + ">", 10_000),
    ("rights", lambda n: "<a license" + "a" * min(n, 4000) + ">", 1000),
    ("rights", lambda n: filled(n, "<a license" + "a" * 300 + ">"), 10_000),
    ("robots.txt", lambda n: groups(n) + "Allow: /\n" * n, 500),
    ("links", lambda n: f"<base href='/{'b' * n}/'>" + filled(n, "<a href=x>"), 8000),
    ("links", lambda n: filled(n, "<a href='/" + "\u0301\u0315" * 900 + "'>"), 20_000),
    ("addresses to filter", lambda n: "http://" + "a." * n + "com/", 1000),
    ("addresses to filter", lambda n: "http://a" + "\u0301\u0315" * n, 2000),
    ("addresses", lambda n: "http://a" + "\u0301\u0315" * n, 2000),
    ("extract", lambda n: f'<p>One.<div><span class="{names(n // 11)}">' + sentences(n), 20_000)])
def test_two_lists_are_not_multiplied(name, make, n):
    assert is_linear(ENTRIES[name][0], make, n, 0.002)
