"""HTTP as it goes over the wire: a request, and its response within limits of time and size.

A server may drip, fall silent, or send without end. So every response is read through a Tap, which
keeps the bytes as they came, ends them at a limit, and knows a deadline. http.client finds where
the response ends.

Sources: RFC 9110 and 9112 (HTTP).
"""
import contextlib
import email.utils
import http.client
import io
import re
import socket
import ssl
import time
from urllib.parse import urlsplit, urlunsplit
from urllib.request import (
    HTTPDefaultErrorHandler, HTTPErrorProcessor, HTTPHandler, HTTPRedirectHandler, HTTPSHandler,
    OpenerDirector, ProxyHandler, UnknownHandler)

from web.message import HEAD_END

MAX_HEAD = 256 << 10        # bytes read of a response before its body, with interim responses
TIMEOUT_S = 60              # for a fetch
MAX_WAIT_S = 300            # for a megabyte of a large file; the longest wait a server may ask for
NETWORK_ERRORS = (OSError, http.client.HTTPException)
INTERIM = re.compile(rb"HTTP/1\.\d +1(?!01)\d\d\b")


def retry_after(headers):
    """Seconds that a server asks us to wait by Retry-After, a number or a date; None if neither."""
    value = (headers.get("retry-after") or "")[:100]
    if re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def left(deadline):
    """Seconds until a deadline of time.monotonic. TimeoutError if it is over."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the time for it is over")
    return seconds


class Tap(io.RawIOBase):
    """The bytes that come from a server. They seem to end at a limit; the deadline is an error.

    copy holds all that has come since the start, or since the last flow().
    """

    def __init__(self, sock, raw, deadline):
        self.sock, self.raw, self.deadline, self.limit = sock, raw, deadline, MAX_HEAD
        self.copy = bytearray()

    def readable(self):
        """As io.RawIOBase wants it."""
        return True

    def flow(self):
        """End nowhere from here on, if each megabyte comes within MAX_WAIT_S."""
        self.copy, self.limit, self.deadline = bytearray(), None, time.monotonic() + MAX_WAIT_S

    def readinto(self, buffer):
        """Read into a buffer; the number of bytes read, 0 at the limit."""
        if self.limit is None and len(self.copy) >= 1 << 20:
            self.flow()
        elif self.limit is not None and len(self.copy) > self.limit:
            return 0
        self.sock.settimeout(min(TIMEOUT_S, left(self.deadline)))
        n = self.raw.readinto(buffer)
        self.copy += buffer[:n]
        return n

    def close(self):
        """Close the connection's file, too."""
        self.raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """A response that is read through a Tap, its attribute `tap`.

    Its head is tap.copy[head_at:body_at]; interim responses stand before it. All of that has
    MAX_HEAD bytes at most, and must have come by the deadline (in TIMEOUT_S seconds).
    """

    def __init__(self, sock, *args, deadline=None, **more):
        super().__init__(sock, *args, **more)
        self.tap = Tap(sock, self.fp.detach(), deadline or time.monotonic() + TIMEOUT_S)
        self.fp = io.BufferedReader(self.tap)

    def begin(self):
        """Read the head."""
        super().begin()                                 # passes over 100 Continue,
        while 101 < self.status < 200:                  # and this over hints and the like
            self.headers = self.msg = None
            super().begin()
        self.head_at, head = 0, HEAD_END.search(self.tap.copy)
        while head and INTERIM.match(self.tap.copy, self.head_at):
            self.head_at = head.end()
            head = HEAD_END.search(self.tap.copy, self.head_at)
        if not head:            # http.client takes the end of the connection for the end of a head
            raise ConnectionError("the response ends in its head, "
                                  f"or has no end of it in {MAX_HEAD:,} bytes")
        self.body_at = head.end()


# ----------------------------------------- one exchange on a connection of its own, for the crawler

def connect(parts, deadline):
    """A socket to the host of an address that was split. With https, it has a valid certificate."""
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
    # The socket's timeout is for the whole handshake.
    return context.wrap_socket(sock, server_hostname=parts.hostname)


def exchange(address, user_agent, max_body):
    """Ask for an address once: (request, response, why the body is cut or None, IP address).

    Request and response are the bytes as they went over the wire, without interim responses. The
    reasons for a cut are those of WARC-Truncated. All but the search for the host's address must be
    done in TIMEOUT_S. Raises one of NETWORK_ERRORS if there is not even a head.
    """
    parts, deadline = urlsplit(address), time.monotonic() + TIMEOUT_S
    path = urlunsplit(("", "", parts.path, parts.query, ""))
    request = (f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: {user_agent}\r\n"
               "Accept: text/html,application/xhtml+xml,text/*;q=0.9,*/*;q=0.1\r\n"
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
        if len(tap.copy) > end:
            cut = "length"
        return request, bytes(tap.copy[response.head_at:end]), cut, ip


# ------------------------------------------------------------------------- urlopen, for large files

class Handler(HTTPHandler, HTTPSHandler):
    """urllib's way to open addresses, and the responses have a Tap."""

    def do_open(self, http_class, request, **options):
        """Send a request over a connection of a class of http.client; returns the response."""
        tapped = type("Tapped", (http_class,), {"response_class": Response})
        return super().do_open(tapped, request, **options)


def urlopen(request):
    """As urllib.request.urlopen, but for http and https only, and the response has a Tap."""
    opener = OpenerDirector()
    for handler in (ProxyHandler, Handler, UnknownHandler, HTTPRedirectHandler,
                    HTTPDefaultErrorHandler, HTTPErrorProcessor):
        opener.add_handler(handler())
    return opener.open(request, timeout=TIMEOUT_S)
