"""The web itself: a small polite crawler that writes WARC, and large files read over the network as they come.

Common Crawl comes to be like this: take an address from a queue, ask its host's robots.txt whether and how often one may
come, fetch the page, keep what came over the wire, put the page's links at the end of the queue. The first half of this
file does that, one page at a time. The second half reads what Common Crawl has made: files of a gigabyte, whose connection
breaks now and then and is taken up again at the byte that was reached.

    python -m web.crawl https://example.org/ --run out/web       writes out/web/crawl/example.org.warc.gz

Left out: scripts are not run, cookies not kept, sitemaps, frames and <meta http-equiv=refresh> not followed; HTTP/2; and
proxies, for the crawler. A response is stored as it was received, chunks and gzip and all, and not decoded with its headers
renamed as Common Crawl does: so nothing in the file is our invention, the digests are of what the server sent (the payload
is the body as stored, as for warcio and wget), and every reader of WARC can undo both.

Sources: RFC 9309 (robots.txt), 9110 and 9112 (HTTP); the URL Standard (addresses); ISO 28500 (WARC); Heritrix (hopsFromSeed).
"""
import argparse
import base64
import contextlib
import email.utils
import fcntl
import gzip
import hashlib
import http.client
import io
import ipaddress
import itertools
import os
import re
import socket
import ssl
import sys
import time
import unicodedata
import urllib.request
import uuid
import zlib
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from web import charset
from run import command, disk
from web import robots
from web.extract import stream_safe
from web.robots import AGENT
from web.warc import HEAD_END, is_html, parse_record, read_warc

MAX_BODY = 5 << 20                                      # bytes kept of a page, as in Common Crawl since March 2025
MAX_HEAD = 256 << 10                                    # bytes read of a response before its body begins, interim responses too
MAX_ADDRESS = 2083                                      # characters of an address; Heritrix has the same limit
MAX_LINKS = 6000                                        # taken from a page; as Heritrix does
MAX_MET = 256 << 20                                     # characters of all the addresses that one crawl remembers
MAX_ROBOTS = 500 << 10                                  # bytes read of a robots.txt; RFC 9309 asks for no less
MAX_REDIRECTS, MAX_FAILURES, MAX_TRIES = 5, 5, 6        # in a row: of a page; fetches from a host; of a large file
TIMEOUT_S, MAX_WAIT_S, BUSY_S = 60, 300, 30             # for a fetch; the longest a server may ask us to wait; if it does not say
REDIRECTS, BUSY, AGAIN = (301, 302, 303, 307, 308), (429, 503), (408, 429, 500, 502, 503, 504)
TOO_FAST, FORBIDDEN_TRIES = (403, 429, 503), 4          # said to who asks too fast; CloudFront, before Common Crawl, says 403
NETWORK_ERRORS = (OSError, http.client.HTTPException)


def report(what, more):
    print(f"{what:>12}  {more}", file=sys.stderr, flush=True)


def retry_after(headers):
    """Seconds that a server asks us to stay away, by Retry-After, a number or a date; None if it does not say."""
    value = (headers.get("retry-after") or "")[:100]
    if re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


# --------------------------------------------------------------------------------------------------
# Addresses: one spelling for each, so that no page is fetched twice.

HOST = re.compile(r"(?=.{1,253}\Z)(?:(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}|\[(?=[0-9a-f.]*:)[0-9a-f:.]+\])")
SCHEME = re.compile("([a-zA-Z][a-zA-Z0-9+.-]*):")
ADDRESS = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?", re.I | re.S)
AUTHORITY = re.compile(r"(\[[^\]@]*\]|[^:@\[\]]*)(?::([0-9]*))?")
NUMBER = re.compile("0x[0-9a-f]*|[0-9]+")
UNRESERVED = re.compile("[A-Za-z0-9._~-]")
TRIMMED = "".join(map(chr, range(0x21)))                # controls and the space
LINE_ENDS = str.maketrans("", "", "\t\r\n")
DEVIANT = "\u00df\u03c2\u200c\u200d"                    # IDNA 2003 replaced these, so that names were others'
FOLDED = {0x3002: ".", 0xff0e: ".", 0xff61: "."} | dict.fromkeys([0xad, 0x200b, 0x2060, 0xfeff, *range(0xfe00, 0xfe10)])


def escape(text):
    """Part of an address with a % for whatever needs one and for nothing else."""
    text = re.sub("%[0-9a-fA-F]{2}", lambda found: char if UNRESERVED.match(char := unquote(found[0])) else found[0].upper(), text)
    return quote(text, safe="%/:@!$&'()*+,;=~?[]")


def in_encoding(link, encoding):
    """A link whose query is in the encoding of its page. Characters that it does not have become &#number;.

    ("/ä?ä", "windows-1252") -> "/ä?%E4": paths are in UTF-8 always (URL Standard).
    """
    before, mark, query = link.partition("?")
    if encoding == "utf-8" or query.isascii() or "#" in before:
        return link
    query = query.rstrip(TRIMMED).translate(LINE_ENDS).partition("#")[0]        # normalise would find them escaped
    query = charset.bytes_of(query, encoding, "%26%23{}%3B")
    return before + mark + quote(query, safe="!$%&'()*+,-./:;=?@[\\]^_`{|}~")


def normal_host(host):
    """A host's name as DNS has it: small ASCII letters, xn-- for all others. An IP address in its usual spelling."""
    if host.startswith("["):
        return f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
    host = unquote(host)
    if not host.isascii():
        host = "".join(c if c in DEVIANT else unicodedata.normalize("NFKC", c.casefold()) for c in host.translate(FOLDED))
        labels = unicodedata.normalize("NFC", host).split(".")
        host = ".".join(label if label.isascii() else "xn--" + label.encode("punycode").decode() for label in labels)
    host = host.lower().removesuffix(".")
    return ipv4(host) if NUMBER.fullmatch(host.rpartition(".")[2]) else host


def ipv4(host):
    """0x7f.1 -> 127.0.0.1: a number may be octal or hexadecimal; the last stands for the missing ones. Or ValueError."""
    numbers = []
    for part in host.split("."):
        if not NUMBER.fullmatch(part) or len(part) > 20:
            raise ValueError(f"{host}: no IPv4 address")
        base = 16 if part[:2] == "0x" else 8 if part[0] == "0" else 10
        numbers.append(int(part.removeprefix("0x") or "0", base))
    *first, last = numbers
    if len(first) > 3 or any(number > 255 for number in first) or last >= 256 ** (4 - len(first)):
        raise ValueError(f"{host}: no IPv4 address")
    return ".".join(map(str, [*first, *last.to_bytes(4 - len(first), "big")]))


def without_dots(path):
    """A path without /./ and /../; empty segments stay: /a//../b is /a/b."""
    kept, segments = [], path.split("/")[1:]
    for i, segment in enumerate(segments):
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
        if segment in (".", "..") and i == len(segments) - 1:
            kept.append("")
    return "/" + "/".join(kept)


def parts_of(link, base):
    """(scheme, authority, path, query) of a link, relative to base, as the URL Standard parts them."""
    scheme, address = SCHEME.match(link), ADDRESS.match(base)
    rest = link[scheme.end():] if scheme else link
    scheme = (scheme or address or [link, ""])[1].lower()
    if scheme not in ("http", "https"):
        raise ValueError(f"{link[:200]!r}: not an address of the form http://host/... or https://host/...")
    rest, mark, query = rest.partition("#")[0].partition("?")
    rest = rest.replace("\\", "/")
    if rest.startswith("//") or not address or scheme != address[1].lower():
        authority, _, path = rest.lstrip("/").partition("/")
        return scheme, authority, f"/{path}", query
    _, authority, path, base_query = address.groups("")
    if not rest:
        return scheme, authority, path, query if mark else base_query[1:]
    return scheme, authority, rest if rest[0] == "/" else path.rpartition("/")[0] + "/" + rest, query


def normalise(link, base=""):
    """A link, relative to base -> its address, as browsers ask for it and in one spelling.

    ValueError if that is not http or https, or has more than MAX_ADDRESS characters.
    "HTTP://Example.org:80/a/../%7euser#top" -> "http://example.org/~user"
    """
    link = link.strip(TRIMMED).translate(LINE_ENDS)
    if len(link) > MAX_ADDRESS:
        raise ValueError(f"{link[:200]!r}...: an address of {len(link):,} characters")
    if link != stream_safe(link):                       # to normalise it would take quadratic time
        raise ValueError(f"{link[:200]!r}: no address has so many marks on a letter")
    scheme, authority, path, query = parts_of(link, base)
    found = AUTHORITY.fullmatch(authority)
    host = normal_host(found[1]) if found else ""
    port = int(found[2] or 0) if found else 0
    if not HOST.fullmatch(host) or port > 65535:
        raise ValueError(f"{link[:200]!r}: not an address of the form http://host/... or https://host/...")
    if port and port != (80 if scheme == "http" else 443):
        host += f":{port}"
    address = f"{scheme}://{host}{without_dots(escape(path))}" + (f"?{escape(query)}" if query else "")
    if len(address) > MAX_ADDRESS:
        raise ValueError(f"{address[:200]!r}...: an address of {len(address):,} characters")
    return address


def host_of(address):
    return address.split("/", 3)[2]                     # with its port, if that is not the usual one


# --------------------------------------------------------------------------------------------------
# robots.txt: what a host asks of visitors who are not people.


def parse_robots(lines):
    """([(allowed, pattern)], seconds between visits or None): what robots.txt says to us, or if nothing, to everyone.

    Groups for the same name are one; lines that are neither name nor rule, as Sitemap, end no group (RFC 9309).
    """
    groups, names, naming = {}, [], False               # only those that may be ours
    for line in lines:
        key, _, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if key == "user-agent":
            names = names if naming else []
            naming = True
            name = re.match("[a-z_-]*", value.lower())[0] or value              # Longhand/1.0 is longhand
            if name in (AGENT, "*") and name not in names:
                names.append(name)
                groups.setdefault(name, [])
        elif key in ("allow", "disallow", "crawl-delay"):
            naming = False
            for name in names:
                groups[name].append((key, value))
    rules = [(key, value) for key, value in groups.get(AGENT, groups.get("*", [])) if value]
    delays = [float(value) for key, value in rules if key == "crawl-delay" and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value)]
    return ([(key == "allow", escape(value if value[0] in "/*" else f"/{value}"))
             for key, value in rules if key != "crawl-delay"], max(delays, default=None))


def matches(pattern, path):
    """Whether a path begins as a pattern says, where * is any characters and a final $ the end; in linear time."""
    if pattern.endswith("$"):
        pattern = pattern[:-1] + "\n"                   # which is in no path, so a piece that ends in it is found at the end
    first, *others = pattern.split("*")
    path, at = path + "\n", len(first)
    if not path.startswith(first):
        return False
    for piece in others:
        at = path.find(piece, at) + len(piece)
        if at < len(piece):
            return False
    return True


def allowed(rules, address):
    """Of the rules that match, the longest decides; of equally long ones, the one that allows."""
    path = "/" + address.split("/", 3)[3]
    return max(((len(pattern), allow) for allow, pattern in rules if matches(pattern, path)), default=(0, True))[1]


# --------------------------------------------------------------------------------------------------
# One request and its response, and the records made of them.


def left(deadline):
    """Seconds until a deadline, of time.monotonic. TimeoutError if there are none."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the time for it is over")
    return seconds


class Tap(io.RawIOBase):
    """What comes from a server, up to a deadline, of time.monotonic, and up to a number of bytes, where it seems to end.

    copy holds all that has come, until flow() is called.
    """

    def __init__(self, sock, raw, deadline):
        self.sock, self.raw, self.deadline, self.limit = sock, raw, deadline, MAX_HEAD
        self.copy, self.flowing = bytearray(), 0

    def readable(self):
        return True

    def flow(self):
        """From here on there is no end, as long as each megabyte comes within MAX_WAIT_S."""
        self.copy, self.deadline = None, time.monotonic() + MAX_WAIT_S

    def readinto(self, buffer):
        if self.copy is not None and len(self.copy) > self.limit:
            return 0
        self.sock.settimeout(min(TIMEOUT_S, left(self.deadline)))
        n = self.raw.readinto(buffer)
        if self.copy is not None:
            self.copy += buffer[:n]
            return n
        self.flowing += n
        if self.flowing >= 1 << 20:
            self.flowing, self.deadline = 0, time.monotonic() + MAX_WAIT_S
        return n

    def close(self):
        self.raw.close()
        super().close()


INTERIM = re.compile(rb"HTTP/1\.\d +1(?!01)\d\d\b")


class Response(http.client.HTTPResponse):
    """A response that is read through a Tap, its attribute `tap`. The head, with the interim responses that may come before,
    has MAX_HEAD bytes at most, and must be there by the deadline (in TIMEOUT_S seconds). It is tap.copy[head_at:body_at]."""

    def __init__(self, sock, *args, deadline=None, **more):
        super().__init__(sock, *args, **more)
        self.tap = Tap(sock, self.fp.detach(), deadline or time.monotonic() + TIMEOUT_S)
        self.fp = io.BufferedReader(self.tap)           # so http.client finds the end, and the copy is as it came

    def begin(self):
        super().begin()                                 # passes over 100 Continue
        while 101 < self.status < 200:                  # and this over hints and the like
            self.headers = self.msg = None
            super().begin()
        self.head_at, head = 0, HEAD_END.search(self.tap.copy)
        while head and INTERIM.match(self.tap.copy, self.head_at):
            self.head_at = head.end()
            head = HEAD_END.search(self.tap.copy, self.head_at)
        if not head:                                    # http.client takes the end of a connection for that of a head
            raise ConnectionError(f"the response ends in its head, or has no end of it in {MAX_HEAD:,} bytes")
        self.body_at = head.end()


def connect(parts, deadline):
    """A socket connected to the host of an address that was split; with https, its certificate is verified."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    failed = None
    for *_, place in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM):
        try:
            sock = socket.create_connection(place[:2], timeout=left(deadline))
            break
        except OSError as error:
            failed = error
    else:
        raise failed
    if parts.scheme == "http":
        return sock
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context.wrap_socket(sock, server_hostname=parts.hostname)       # its timeout is for the whole handshake


def exchange(address, user_agent, max_body, timeout_s):
    """Ask for an address once: (request and response as they went and came, None or why the body is cut, IP address).

    Each time on a connection of its own: visits to a host are a second apart anyway. timeout_s is for all of it, from the
    connection on; only the system's search for the host's address has a limit of its own. Interim responses are left out.
    The reasons are those of WARC-Truncated. One of NETWORK_ERRORS if there is not even a head.
    """
    parts, deadline = urlsplit(address), time.monotonic() + timeout_s
    request = (f"GET {urlunsplit(('', '', parts.path, parts.query, ''))} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
               f"User-Agent: {user_agent}\r\nAccept: text/html,application/xhtml+xml,text/*;q=0.9,*/*;q=0.1\r\n"
               "Accept-Encoding: gzip\r\nConnection: close\r\n\r\n").encode("ascii")
    with contextlib.closing(connect(parts, deadline)) as sock:
        ip = sock.getpeername()[0]
        sock.settimeout(left(deadline))
        sock.sendall(request)
        response = Response(sock, deadline=deadline)
        response.begin()
        tap = response.tap
        tap.limit = end = response.body_at + max_body
        try:
            while len(tap.copy) <= end and response.read(1 << 16):
                pass
            cut = "disconnect" if response.length else None
        except NETWORK_ERRORS as error:                 # IncompleteRead among them
            cut = "time" if isinstance(error, TimeoutError) else "disconnect"
        cut = "length" if len(tap.copy) > end else cut
        return request, bytes(tap.copy[response.head_at:end]), cut, ip


def digest(data):
    return "sha1:" + base64.b32encode(hashlib.sha1(data).digest()).decode()


def utc_now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def fields(values):
    """{name: value} as lines of headers; what is None is left out."""
    return "".join(f"{name}: {value}\r\n" for name, value in values.items() if value is not None).encode("utf-8")


def warc_record(kind, record_id, block, content_type, **more):
    """One WARC/1.0 record as a gzip member of its own; _ in names is -."""
    head = {"WARC-Type": kind, "WARC-Record-ID": record_id, **{name.replace("_", "-"): value for name, value in more.items()},
            "WARC-Block-Digest": digest(block), "Content-Type": content_type, "Content-Length": len(block)}
    return gzip.compress(b"WARC/1.0\r\n" + fields(head) + b"\r\n" + block + b"\r\n\r\n", compresslevel=6, mtime=0)


def capture(info_id, address, date, request, response, cut, ip, notes):
    """The request, response and metadata records of one fetch."""
    ids, payload = [f"<urn:uuid:{uuid.uuid4()}>" for _ in range(3)], response[HEAD_END.search(response).end():]
    common = dict(WARC_Date=date, WARC_Target_URI=address, WARC_Warcinfo_ID=info_id)
    return (warc_record("request", ids[0], request, "application/http; msgtype=request", **common, WARC_IP_Address=ip,
                        WARC_Concurrent_To=ids[1])
            + warc_record("response", ids[1], response, "application/http; msgtype=response", **common, WARC_IP_Address=ip,
                          WARC_Truncated=cut, WARC_Payload_Digest=digest(payload))
            + warc_record("metadata", ids[2], fields(notes), "application/warc-fields", **common, WARC_Concurrent_To=ids[1]))


def take_over(file, info):
    """(id of the warcinfo record, {address: offsets of its responses}) of a file open for reading and appending.

    Captures are flushed whole, so a crawl that is killed leaves them all and perhaps a part of one, which is cut off here.
    In a file with nothing, info becomes the warcinfo record.
    """
    counts, found, offsets = Counter(), [], defaultdict(deque)
    with contextlib.suppress(ValueError):               # less than a record
        found = [(r.type, r.offset, r.url, r.id) for r in read_warc(file, counts)]
    if not found or counts["cut_off"] or found[-1][0] not in ("warcinfo", "metadata"):
        last = max((n for n, record in enumerate(found) if record[0] == "request"), default=0)
        file.truncate(found[last][1] if last else 0)
        del found[last:]
    for kind, offset, address, _ in found:
        if kind == "response" and not address.endswith("/robots.txt"):          # which may say something else by now
            offsets[address].append(offset)
    info_id = found[0][3] if found else f"<urn:uuid:{uuid.uuid4()}>"
    if not found:
        file.write(warc_record("warcinfo", info_id, info, "application/warc-fields", WARC_Date=utc_now(),
                               WARC_Filename=Path(file.name).stem))
    return info_id, offsets


# --------------------------------------------------------------------------------------------------
# The crawl.

def links_of(page, counts):
    """(the links that stand in a page, the address they are relative to). counts is told of those that it asks not to follow."""
    source, encoding = charset.read(page.body, page.charset)
    stay = any(map(robots.forbids_links, robots.lines(page.http_headers)))
    base, links = None, []
    for _, name, inside in charset.tags(source):
        if name in ("a", "area") and len(links) == MAX_LINKS:
            counts["beyond_max_links"] += 1
        elif name in ("a", "area", "base", "meta"):
            tag = charset.attributes(inside)
            if name == "meta":
                stay = stay or robots.forbids_links(robots.of_meta(tag))
            elif name == "base":
                base = tag.get("href") if base is None else base
            elif "href" in tag and "nofollow" in re.split(r"[\s,]+", tag.get("rel", "").lower()):
                counts["nofollow_link"] += 1
            elif "href" in tag:
                links.append(in_encoding(tag["href"], encoding))
    counts["nofollow_page"] += stay
    try:
        return [] if stay else links, normalise(base or "", page.url)
    except ValueError:
        return [] if stay else links, page.url


class NoAnswer(Exception):
    """A host cannot be reached, or what it sends is no response; the cause says how."""


@dataclass
class Site:
    """What a crawl knows about a host."""
    delay_s: float                                      # between two visits
    turn: float = 0.0                                   # when the next may be, of time.monotonic
    failures: int = 0                                   # visits in a row without an answer, or with one that it is busy
    refused: str = None                                 # why it is left alone
    robots: dict = field(default_factory=dict)          # http or https -> (rules, None or why nothing is allowed)


class Crawl:
    """Fetches: not before a host's turn, not against its robots.txt, and not without a record of it in the file."""

    def __init__(self, file, info, user_agent, delay_s):
        self.file, self.user_agent, self.counts = file, user_agent, Counter()
        self.info_id, self.offsets = take_over(file, info)
        self.sites = defaultdict(lambda: Site(delay_s))

    def fetch(self, address, max_body, **notes):
        """The Record of what the server answers now, or has answered to the crawl that was killed. Or NoAnswer."""
        if self.offsets.get(address):
            self.counts["taken_over"] += 1
            self.file.seek(self.offsets[address].popleft())
            return next(read_warc(self.file))
        site = self.sites[host_of(address)]
        time.sleep(max(0, site.turn - time.monotonic()))
        date, start = utc_now(), time.monotonic()
        try:
            request, response, cut, ip = exchange(address, self.user_agent, max_body, TIMEOUT_S)
        except NETWORK_ERRORS as error:
            site.failures += 1
            site.refused = "host_fails" if site.failures == MAX_FAILURES else site.refused
            raise NoAnswer(repr(error)[:300]) from error
        finally:
            end = time.monotonic()
            site.turn = end + site.delay_s
        notes = {"fetchTimeMs": round((end - start) * 1000), **notes}
        self.file.write(capture(self.info_id, address, date, request, response, cut, ip, notes))
        self.file.flush()
        record, _ = parse_record({"warc-type": "response", "warc-target-uri": address, "warc-truncated": cut}, response, 0)
        if record.status in BUSY:
            wait = retry_after(record.http_headers) or BUSY_S
            site.turn = max(site.turn, end + wait)
            site.failures += 1
            site.refused = "host_busy" if wait > MAX_WAIT_S or site.failures == MAX_FAILURES else site.refused
        else:
            site.failures = 0
        return record

    def read_robots(self, address):
        """(the rules in robots.txt, None or why nothing at all is allowed). Its host's delay becomes what it asks for."""
        site = self.sites[host_of(address)]
        for _ in range(MAX_REDIRECTS + 1):
            record = self.fetch(address, MAX_ROBOTS, hopsFromSeed="P")
            if record.status not in REDIRECTS:
                break
            try:
                address = normalise(record.http_headers.get("location", ""), address)
            except ValueError:
                return [], None
        if record.status >= 500 or record.status in BUSY:
            return [], "robots_unreachable"
        if not 200 <= record.status < 300:              # there is none, so everything is allowed
            return [], None
        lines = record.body[:MAX_ROBOTS].decode("utf-8-sig", "replace").splitlines()
        rules, delay_s = parse_robots(lines[:-1] if record.truncated or len(record.body) > MAX_ROBOTS else lines)
        if delay_s and delay_s > MAX_WAIT_S:
            return [], "crawl_delay_too_long"
        site.delay_s = max(site.delay_s, delay_s or 0)
        site.turn = max(site.turn, time.monotonic() + site.delay_s)
        return rules, None

    def refusal(self, address):
        """Why an address may not be fetched, or None. Asks its host for robots.txt first."""
        site, scheme = self.sites[host_of(address)], address.partition(":")[0]
        if scheme not in site.robots and not site.refused:
            try:
                site.robots[scheme] = self.read_robots(f"{scheme}://{host_of(address)}/robots.txt")
            except NoAnswer as error:
                site.robots[scheme] = [], "robots_unreachable"
                report("robots.txt", f"{scheme}://{host_of(address)}: {error}")
        rules, nothing = site.robots.get(scheme, ([], None))
        return site.refused or nothing or (None if allowed(rules, address) else "robots_disallow")

    def run(self, seeds, max_pages, max_depth, other_sites):
        """Visit the seeds, then their links, then theirs: breadth first, in the order of the pages. -> Counter"""
        queue = deque((seed, "", None) for seed in seeds)       # address; way to it, of L(inks) and R(edirects); from where
        met, left, hosts, tries, counts = set(seeds), set(), set(map(host_of, seeds)), Counter(), self.counts
        size = sum(map(len, seeds))                     # of what is remembered, about

        def meet(link, base, way, via):
            nonlocal size
            if size > MAX_MET:
                counts["beyond_max_met"] += 1
                return
            why = None
            try:
                address = normalise(link, base)
            except ValueError:
                address, why = link, "not_http"
            else:
                if "L" not in way:                      # example.org redirects to www.example.org: that is the same site
                    hosts.add(host_of(address))
                if not other_sites and host_of(address) not in hosts:
                    why = "other_site"
                elif way.count("L") > max_depth:
                    why = "beyond_max_depth"
                elif way.endswith("R" * (MAX_REDIRECTS + 1)):
                    why = "too_many_redirects"
            if why:
                counts[why] += hash(address) not in left            # each address once
                left.add(hash(address))
                size += 100
            elif address in met:
                counts["redirect_to_known"] += way.endswith("R")
            else:
                met.add(address)
                size += len(address) + 200
                (queue.appendleft if way.endswith("R") else queue.append)((address, way, via))

        while queue and counts["fetched"] < max_pages:
            address, way, via = queue.popleft()
            why = self.refusal(address)
            if why:
                counts[why] += 1
                report(why, address)
                continue
            counts["fetched"] += 1
            try:
                page = self.fetch(address, MAX_BODY, hopsFromSeed=way or None, via=via)
            except NoAnswer as error:
                counts[f"failed_{type(error.__cause__).__name__}"] += 1
                report("failed", f"{address}: {error}")
                continue
            counts.update({f"status_{page.status}": 1, f"truncated_{page.truncated}": page.truncated is not None})
            report(f"{counts['fetched']} of {len(met)}", f"{page.status} {len(page.body):>9,} B  {address}")
            if page.status in BUSY and tries[address] < 2:
                tries[address] += 1
                queue.appendleft((address, way, via))   # its host's turn is when it asked us to come back
            elif page.status in REDIRECTS:
                meet(page.http_headers.get("location", ""), address, way + "R", address)
            elif 200 <= page.status < 300 and (page.undecodable or not is_html(page)):
                counts["no_html"] += 1
            elif 200 <= page.status < 300:
                links, base = links_of(page, counts)
                for link in links:
                    meet(link, base, way + "L", address)
        counts["beyond_max_pages"] += len(queue)
        return +counts                                  # without zeros


def crawl(seeds, path, max_pages=100, max_depth=3, delay_s=1.0, other_sites=False, contact=None):
    """Fetch pages from the addresses in seeds on; write all that came, robots.txt and redirects too, to path, a .warc.gz.

    max_pages: requests at most, those for robots.txt apart. max_depth: links from a seed. other_sites: follow links to other
    hosts than the seeds'. contact: who answers for it, for the User-Agent. delay_s lies at least between two visits to a host,
    more if its robots.txt says Crawl-delay. The file is path.tmp until complete; a crawl that was killed goes on from there.
    Returns a Counter: fetched, taken_over from there, status_N, failed_X, truncated_X, and what was skipped and why.
    ValueError or OSError if an argument is impossible, path exists, or nothing could be fetched.
    """
    path, seeds = Path(path), list(dict.fromkeys(map(normalise, seeds)))
    if not seeds or max_pages < 1 or max_depth < 0 or not 0 <= delay_s <= MAX_WAIT_S or not re.fullmatch("[ -~]*", contact or ""):
        raise ValueError(f"{len(seeds)} seeds, max_pages {max_pages}, max_depth {max_depth}, delay_s {delay_s}, contact {contact}: "
                         f"at least 1 seed, 1 page, depth 0; 0 to {MAX_WAIT_S} s; contact in ASCII")
    if path.exists():
        raise FileExistsError(f"{path}: is there already; delete it to crawl again, or choose another folder with --run")
    user_agent = f"{AGENT}/1.0" + (f" (+{contact})" if contact else "")
    info = fields({"software": "longhand crawl.py", "format": "WARC File Format 1.0", "robots": "obey", "operator": contact,
                   "http-header-user-agent": user_agent, "description": f"from {' '.join(seeds)}, {max_pages} pages at most"})
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with own_file(path) as file:
            job = Crawl(file, info, user_agent, delay_s)
            had, counts = bool(job.offsets), job.run(seeds, max_pages, max_depth, other_sites)
            if not any(name.startswith("status_") for name in counts):
                if not had:                             # else the network may be to blame, and the next try goes on with them
                    os.unlink(file.name)
                raise ValueError(f"{' '.join(seeds)}: nothing could be fetched: {dict(counts)}")
            file.flush()
            os.fsync(file.fileno())
            disk.replace(file.name, path)
    except OSError as error:
        if error.errno and error.filename is None:      # a full disk does not say where it is
            raise OSError(error.errno, error.strerror, f"{path}.tmp") from None
        raise
    return counts


@contextlib.contextmanager
def own_file(path):
    """path.tmp, open for reading and appending, by this crawl and no other: ValueError for that one."""
    with open(f"{path}.tmp", "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)) and not path.exists()
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:                                    # it is locked, or has been finished and renamed just now
            remove_if_empty(file)
            raise ValueError(f"{file.name}: another crawl writes it; wait for its end, or choose another folder with --run")
        file.seek(0)
        yield file


def remove_if_empty(file):
    """Remove a file that opening it made, unless another crawl has begun in it."""
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)) and not os.fstat(file.fileno()).st_size:
            os.unlink(file.name)


# --------------------------------------------------------------------------------------------------
# What others have crawled, read over the network.


class Connection(http.client.HTTPConnection):
    response_class = Response


class SecureConnection(http.client.HTTPSConnection):
    response_class = Response


class Handler(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(Connection, request)


class SecureHandler(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(SecureConnection, request)


def urlopen(request):
    """As urllib does it, but for http and https only, and the Response has a Tap."""
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler, Handler, SecureHandler, urllib.request.UnknownHandler, urllib.request.HTTPRedirectHandler,
                    urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor):
        opener.add_handler(handler())
    return opener.open(request, timeout=TIMEOUT_S)


GENEROUS = set()                                        # hosts that have given us bytes: what they forbid later, they allow again


class RemoteError(OSError):
    """A file that cannot be had, and asking again would not help."""
    status = None                                       # of the HTTP response that says so


class Remote(io.RawIOBase):
    """The bytes of a file at an address, from the first to the last, over as many connections as it takes."""

    def __init__(self, address):
        self.name, self.response, self.size, self.version = address, None, None, None
        self.at = self.crc = self.tries = self.tried_at = 0     # bytes delivered, their checksum; tries in a row, where
        self.readinto(bytearray())                      # connects: what is wrong shows at once

    def readable(self):
        return True

    def close(self):
        self.response = self.response and self.response.close()
        super().close()

    def readinto(self, buffer):
        while True:
            try:
                self.response = self.response or self.ask()
                n = self.response.readinto(buffer) if len(buffer) else 0
                if n == 0 and len(buffer) and (self.at != (self.size or self.at) or getattr(self.response, "length", None)):
                    raise ConnectionError("it ends early")
                self.at, self.crc = self.at + n, zlib.crc32(memoryview(buffer)[:n], self.crc)
                if n:
                    GENEROUS.add(host_of(self.name))
                return n
            except RemoteError:
                raise
            except NETWORK_ERRORS as error:
                self.pause(error)

    def pause(self, error):
        """Wait before the next try, longer each time; RemoteError if there were enough without a megabyte of progress."""
        hopeless = (socket.gaierror, ConnectionRefusedError, ssl.SSLCertVerificationError)
        self.tries, self.tried_at = 1 if self.at - self.tried_at > 1 << 20 else self.tries + 1, self.at
        tries = FORBIDDEN_TRIES if not self.at and getattr(error, "code", None) == 403 else MAX_TRIES
        if self.tries >= tries or not self.at and isinstance(getattr(error, "reason", None), hopeless):
            raise RemoteError(f"{self.name}: gave up at byte {self.at:,} after {self.tries} tries ({error!r}); "
                              "look at the address and the network, then run it again") from None
        grows = 4 if getattr(error, "code", None) in TOO_FAST else 2        # six minutes in all, a limit counts about five
        wait_s = min(max(grows ** (self.tries - 1), retry_after(getattr(error, "headers", {})) or 0), MAX_WAIT_S)
        report("waiting", f"{wait_s:.0f} s for {self.name} at byte {self.at:,} ({error!r})")
        self.response = self.response and self.response.close()
        time.sleep(wait_s)

    def ask(self):
        """The response whose next byte is the one at self.at. RemoteError if the file is not there or not the same any more."""
        headers = {"User-Agent": f"{AGENT}/1.0", "Accept-Encoding": "identity"}
        if self.at:
            headers.update({"Range": f"bytes={self.at}-"}, **({"If-Range": self.version} if self.version else {}))
        try:
            response = urlopen(urllib.request.Request(self.name, headers=headers))
            response.tap.flow()
        except HTTPError as error:
            error.close()
            if error.code == 416 and self.size is None:
                return io.BytesIO()                     # the connection broke just behind the last byte
            if error.code in AGAIN or error.code == 403 and (self.at or host_of(self.name) in GENEROUS):
                raise
            refused = RemoteError(f"{self.name}: the server says {error.code} {error.reason[:200]}; look at the address"
                                  + (", or wait: some say this to who asks too fast, Common Crawl among them" if error.code == 403 else ""))
            refused.status = error.code
            raise refused from None
        tag = response.headers.get("ETag", "")          # a weak one, W/..., says nothing about bytes
        version = tag if tag.startswith('"') else response.headers.get("Last-Modified")
        if response.status == 206:
            part = re.fullmatch("bytes ([0-9]{1,18})-[0-9]{1,18}/(?:([0-9]{1,18})|[*])", response.headers.get("Content-Range", ""))
            size = int(part[2]) if part and part[2] else self.size
            same = (part and int(part[1]) == self.at and self.size in (None, size)
                    and (self.version == version or None in (self.version, version)))
            self.size = size
        else:                                           # all of it again: pass over what we have, if it is what we have
            crc, left, self.size, self.version = 0, self.at, response.length, version
            while left:
                piece = response.read(min(left, 1 << 18))
                if not piece:
                    raise ConnectionError("it ends early")
                crc, left = zlib.crc32(piece, crc), left - len(piece)
            same = crc == self.crc
        if not same:
            raise RemoteError(f"{self.name}: is not the same file any more that it was until byte {self.at:,}; start over")
        return response


def open_url(address):
    """A file at an http(s) address, to read forward as if it were here: .read(n), .name, with, for line in.

    A connection that breaks is taken up again where it broke, by a Range request; from a server that has none, by reading
    from the start and passing over what came before, if it is still the same. Broken connections are tried again after pauses
    of 1, 2, 4 ... seconds, busy servers after 1, 4, 16 ... or the Retry-After, which stderr is told. A 403 means busy if the
    host has given bytes before: Common Crawl's rate limit says that. Memory does not grow with the file.
    RemoteError, an OSError, if it is not there, changes while it is read, or MAX_TRIES tries in a row bring nothing.
    """
    return io.BufferedReader(Remote(normalise(address)), 1 << 18)


def common_crawl(name, n_files=1, base="https://data.commoncrawl.org/"):
    """The addresses of the first n_files WARC files, about 1 GB each, of a crawl such as CC-MAIN-2024-51.

    ValueError if no crawl has that name, or if it has fewer files; RemoteError if its list cannot be had.
    """
    known = "the names of crawls, as CC-MAIN-2024-51, are listed at https://index.commoncrawl.org/"
    if not re.fullmatch(r"CC-MAIN-[0-9]{4}-[0-9]{2}", name) or n_files < 1:
        raise ValueError(f"{n_files} files of {name!r}: at least 1 file, of a crawl named CC-MAIN-YEAR-WEEK; {known}")
    address = f"{base.rstrip('/')}/crawl-data/{name}/warc.paths.gz"
    try:
        with open_url(address) as packed, gzip.open(packed, "rt", encoding="ascii") as lines:
            paths = [line.strip() for line in itertools.islice(iter(lambda: lines.readline(MAX_ADDRESS), ""), n_files)]
    except RemoteError as error:
        if error.status not in (403, 404):              # where listing is forbidden, what is not there is forbidden
            raise
        too_fast = "; or we ask too fast, then wait some minutes" if error.status == 403 else ""
        raise ValueError(f"{address}: no such crawl (status {error.status}); {known}{too_fast}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{address}: not a gzip list of paths ({error}); try again, or look at it") from None
    if len(paths) < n_files or not all(re.fullmatch(rf"crawl-data/{name}/\S+\.warc\.gz", path) for path in paths):
        raise ValueError(f"{address}: {len(paths)} lines, but {n_files} paths of WARC files were asked for; the first is {paths[:1]}")
    return [f"{base.rstrip('/')}/{path}" for path in paths]


def parse_args(argv=None):
    parser = argparse.ArgumentParser(prog="python -m web.crawl", description="fetch web pages, politely, into a WARC")
    parser.add_argument("seeds", nargs="+", metavar="URL", help="addresses to begin at")
    parser.add_argument("--run", default="out/web", metavar="DIR", help="run folder, pages go to DIR/crawl (default: out/web)")
    parser.add_argument("--pages", type=int, default=100, metavar="N", help="fetch at most N addresses (default: 100)")
    parser.add_argument("--depth", type=int, default=3, metavar="N", help="follow links N deep (default: 3)")
    parser.add_argument("--delay", type=float, default=1.0, metavar="S",
                        help="seconds between two visits to a host, at least (default: 1; more if its robots.txt says so)")
    parser.add_argument("--other-sites", action="store_true", help="also follow links to hosts that no URL is on")
    parser.add_argument("--contact", metavar="TEXT", help="your address, for the User-Agent: hosts may want to write to you")
    return parser.parse_args(argv)


def main(argv=None):
    args, start = parse_args(argv), time.perf_counter()
    try:
        path = Path(args.run) / "crawl" / f"{host_of(normalise(args.seeds[0])).replace(':', '_')}.warc.gz"
        counts = crawl(args.seeds, path, args.pages, args.depth, args.delay, args.other_sites, args.contact)
    except KeyboardInterrupt:
        report("interrupted", "the same command goes on from here")
        raise
    print(", ".join(f"{name} {n:,}" for name, n in counts.items()))
    made = f"{path}, {path.stat().st_size / 1e6:.1f} MB"
    print(f"{'crawl':8} {counts['fetched']:,} addresses, {made}   {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    command.run(main, error_status=2)
