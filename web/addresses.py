"""Addresses of pages: one spelling for each, so that a crawl fetches no page twice.

A link is resolved against the address of its page as browsers do it: relative paths, dots, escapes,
international host names, and the many ways to write an IPv4 address. A host that is no host is an
error; the filter of addresses (web/urls.py) has a host_of of its own, which takes anything.

    normalise("HTTP://Example.org:80/a/../%7euser#top")  ->  "http://example.org/~user"

Source: the URL Standard (WHATWG).
"""
import ipaddress
import re
import unicodedata
from urllib.parse import quote, unquote

from web.encoding import bytes_of, stream_safe

MAX_ADDRESS = 2083                # characters of an address; Heritrix has the same limit
HOST = re.compile(r"(?=.{1,253}\Z)(?:(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}"
                  r"|\[(?=[0-9a-f.]*:)[0-9a-f:.]+\])")
SCHEME = re.compile("([a-zA-Z][a-zA-Z0-9+.-]*):")
ADDRESS = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?", re.I | re.S)
AUTHORITY = re.compile(r"(\[[^\]@]*\]|[^:@\[\]]*)(?::([0-9]*))?")
NUMBER = re.compile("0x[0-9a-f]*|[0-9]+")
ESCAPED = re.compile("%[0-9a-fA-F]{2}")
UNRESERVED = re.compile("[A-Za-z0-9._~-]")
TRIMMED = "".join(map(chr, range(0x21)))                    # controls and the space
LINE_ENDS = str.maketrans("", "", "\t\r\n")
DEVIANT = "\u00df\u03c2\u200c\u200d"    # IDNA 2003 replaced these by others; today they stay
FULL_STOPS = dict.fromkeys((0x3002, 0xff0e, 0xff61), ".")
IGNORED = dict.fromkeys((0xad, 0x200b, 0x2060, 0xfeff, *range(0xfe00, 0xfe10)))
USUAL_PORTS = {"http": 80, "https": 443}


def escape(text):
    """Part of an address in which whatever needs a % has one, and nothing else."""
    def plain(escaped):
        char = unquote(escaped[0])
        return char if UNRESERVED.match(char) else escaped[0].upper()

    return quote(ESCAPED.sub(plain, text), safe="%/:@!$&'()*+,;=~?[]")


def in_encoding(link, encoding):
    """A link whose query is in the encoding of its page; a path is always in UTF-8.

    ("/ä?ä", "windows-1252") -> "/ä?%E4". Characters that the encoding lacks become &#number;.
    """
    before, mark, query = link.partition("?")
    if encoding == "utf-8" or query.isascii() or "#" in before:
        return link
    query = query.rstrip(TRIMMED).translate(LINE_ENDS).partition("#")[0]
    query = bytes_of(query, encoding, "%26%23{}%3B")
    return before + mark + quote(query, safe="!$%&'()*+,-./:;=?@[\\]^_`{|}~")


def normal_host(host):
    """The name of a host as DNS has it: lower-case ASCII, xn-- for all others.

    An IP address comes in its usual spelling. ValueError if there is no such address.
    """
    if host.startswith("["):
        return f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
    host = unquote(host)
    if not host.isascii():
        host = in_ascii(host)
    host = host.lower().removesuffix(".")
    return ipv4(host) if NUMBER.fullmatch(host.rpartition(".")[2]) else host


def in_ascii(host):
    """The ASCII form of an international name: "Bücher.example" -> "xn--bcher-kva.example"."""
    folded = ""
    for char in host.translate(FULL_STOPS | IGNORED):
        folded += char if char in DEVIANT else unicodedata.normalize("NFKC", char.casefold())
    labels = []
    for label in unicodedata.normalize("NFC", folded).split("."):
        if not label.isascii():
            label = "xn--" + label.encode("punycode").decode()
        labels.append(label)
    return ".".join(labels)


def ipv4(host):
    """An IPv4 address in its usual spelling: 0x7f.1 -> 127.0.0.1. ValueError if it is none.

    A number may be decimal, octal (0...) or hexadecimal (0x...). The last number stands for all
    bytes that are missing.
    """
    numbers = []
    for part in host.split("."):
        if not NUMBER.fullmatch(part) or len(part) > 20:
            raise ValueError(f"{host}: no IPv4 address")
        base = 10
        if part.startswith("0"):
            base = 16 if part[1:2] == "x" else 8
        numbers.append(int(part.removeprefix("0x") or "0", base))
    *first, last = numbers
    n_missing = 4 - len(first)
    if n_missing < 1 or any(number > 255 for number in first) or last >= 256 ** n_missing:
        raise ValueError(f"{host}: no IPv4 address")
    return ".".join(map(str, [*first, *last.to_bytes(n_missing, "big")]))


def without_dots(path):
    """A path without /./ and /../. Empty segments stay: /a//../b is /a/b."""
    kept, segments = [], path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments and segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def resolve(link, base):
    """(scheme, authority, path, query) of a link, relative to base, by the URL Standard."""
    scheme, address = SCHEME.match(link), ADDRESS.match(base)
    rest = link[scheme.end():] if scheme else link
    scheme = (scheme or address or [link, ""])[1].lower()
    rest, mark, query = rest.partition("#")[0].partition("?")
    rest = rest.replace("\\", "/")
    if rest.startswith("//") or not address or scheme != address[1].lower():
        authority, _, path = rest.lstrip("/").partition("/")
        return scheme, authority, f"/{path}", query
    _, authority, path, base_query = address.groups("")
    if not rest:
        return scheme, authority, path, query if mark else base_query[1:]
    if rest[0] != "/":
        rest = path.rpartition("/")[0] + "/" + rest
    return scheme, authority, rest, query


def check_length(address):
    """ValueError if an address is too long."""
    if len(address) > MAX_ADDRESS:
        raise ValueError(f"{address[:200]!r}...: an address of {len(address):,} characters; "
                         f"the limit is {MAX_ADDRESS:,}")


def normalise(link, base=""):
    """A link, relative to base -> its address, as browsers ask for it and in one spelling.

    ValueError if it is not http or https, or has more than MAX_ADDRESS characters.
    """
    link = link.strip(TRIMMED).translate(LINE_ENDS)
    check_length(link)
    if link != stream_safe(link):                       # normalising it would take quadratic time
        raise ValueError(f"{link[:200]!r}: too many marks on a letter for an address")
    scheme, authority, path, query = resolve(link, base)
    found = AUTHORITY.fullmatch(authority) if scheme in USUAL_PORTS else None
    host = normal_host(found[1]) if found else ""
    port = int(found[2] or 0) if found else 0
    if not HOST.fullmatch(host) or port > 65535:
        raise ValueError(f"{link[:200]!r}: "
                         "not an address of the form http://host/... or https://host/...")
    if port and port != USUAL_PORTS[scheme]:
        host += f":{port}"
    address = f"{scheme}://{host}{without_dots(escape(path))}"
    if query:
        address += f"?{escape(query)}"
    check_length(address)
    return address


def host_and_port(address):
    """The host of an address that is normalised, with its port if that is not the usual one."""
    return address.split("/", 3)[2]
