"""Large files read over the network as they come, such as those of Common Crawl.

A file of a gigabyte takes minutes, and its connection breaks now and then. Then it is taken up at
the byte that was reached, so that a reader sees one file without a gap.

    with open_url("https://data.commoncrawl.org/crawl-data/...") as file:
        for record in warc.read_warc(file): ...

Source: RFC 9110 (Range, If-Range, Retry-After).
"""
import gzip
import io
import itertools
import re
import socket
import ssl
import sys
import time
import urllib.request
import zlib
from urllib.error import HTTPError

from web.addresses import MAX_ADDRESS, host_and_port, normalise
from web.connection import MAX_WAIT_S, NETWORK_ERRORS, retry_after, urlopen
from web.robots import AGENT

MAX_TRIES = 6                   # in a row, without a megabyte of progress
MAX_TRIES_FORBIDDEN = 4         # if not even the first byte came and the server says 403
PROGRESS = 1 << 20              # bytes that end a row of tries
TRY_AGAIN = (408, 429, 500, 502, 503, 504)
TOO_FAST = (403, 429, 503)      # for clients that ask too fast; Common Crawl's CloudFront says 403
HOPELESS = (socket.gaierror, ConnectionRefusedError, ssl.SSLCertVerificationError)
CONTENT_RANGE = re.compile("bytes ([0-9]{1,18})-[0-9]{1,18}/(?:([0-9]{1,18})|[*])")
WORKING_HOSTS = set()           # have given us bytes: if they forbid more, they will allow it again


class RemoteError(OSError):
    """A file that cannot be had, and asking again would not help."""
    status = None               # of the HTTP response that says so


class Remote(io.RawIOBase):
    """The bytes of a file at an address, from first to last, over as many connections as needed."""

    def __init__(self, address):
        self.name, self.response = address, None
        self.size = self.version = None                 # of the file, as its server says
        self.at = self.crc = 0                          # bytes delivered, and their checksum
        self.tries = self.tried_at = 0                  # tries in a row, and where the last was
        self.readinto(bytearray())                      # connects: a mistake shows at once

    def readable(self):
        """As io.RawIOBase wants it."""
        return True

    def close(self):
        """Close the connection."""
        self.disconnect()
        super().close()

    def disconnect(self):
        """Drop the connection. The next read makes another."""
        if self.response:
            self.response.close()
        self.response = None

    def readinto(self, buffer):
        """Read into a buffer, connecting again where the connection breaks."""
        while True:
            try:
                if not self.response:
                    self.response = self.ask()
                if not buffer:
                    return 0
                n = self.response.readinto(buffer)
                missing = self.size and self.at != self.size or getattr(self.response, "length", 0)
                if n == 0 and missing:
                    raise ConnectionError("it ends early")
                self.at += n
                self.crc = zlib.crc32(memoryview(buffer)[:n], self.crc)
                if n:
                    WORKING_HOSTS.add(host_and_port(self.name))
                return n
            except RemoteError:
                raise
            except NETWORK_ERRORS as error:
                self.pause(error)

    def pause(self, error):
        """Wait before the next try, longer each time, or as Retry-After says; then give up.

        Six tries take half a minute in all, or six minutes if the server says that we are too fast:
        Common Crawl's limit counts over about five. A 403 means that if the host gave bytes before.
        """
        code = getattr(error, "code", None)
        self.tries = 1 if self.at - self.tried_at > PROGRESS else self.tries + 1
        self.tried_at = self.at
        most = MAX_TRIES_FORBIDDEN if not self.at and code == 403 else MAX_TRIES
        hopeless = not self.at and isinstance(getattr(error, "reason", None), HOPELESS)
        if self.tries >= most or hopeless:
            raise RemoteError(
                f"{self.name}: gave up at byte {self.at:,} after {self.tries} tries ({error!r}); "
                "look at the address and the network, then run it again") from None
        grows = 4 if code in TOO_FAST else 2
        asked_s = retry_after(getattr(error, "headers", {})) or 0
        wait_s = min(max(grows ** (self.tries - 1), asked_s), MAX_WAIT_S)
        print(f"{'waiting':>12}  {wait_s:.0f} s for {self.name} at byte {self.at:,} ({error!r})",
              file=sys.stderr, flush=True)
        self.disconnect()
        time.sleep(wait_s)

    def ask(self):
        """The response whose next byte is the one at self.at. RemoteError if it cannot be had."""
        headers = {"User-Agent": f"{AGENT}/1.0", "Accept-Encoding": "identity"}
        if self.at:
            headers["Range"] = f"bytes={self.at}-"
            if self.version:
                headers["If-Range"] = self.version
        try:
            response = urlopen(urllib.request.Request(self.name, headers=headers))
            response.tap.flow()
        except HTTPError as error:
            error.close()
            if error.code == 416 and self.size is None:
                return io.BytesIO()                     # it broke just behind the last byte
            working = self.at or host_and_port(self.name) in WORKING_HOSTS
            if error.code in TRY_AGAIN or error.code == 403 and working:
                raise
            said = f"the server says {error.code} {error.reason[:200]}; look at the address"
            if error.code == 403:
                said += "; or wait: Common Crawl says this if asked too fast"
            refused = RemoteError(f"{self.name}: {said}")
            refused.status = error.code
            raise refused from None
        tag = response.headers.get("ETag", "")          # a weak one, W/..., says nothing of bytes
        version = tag if tag.startswith('"') else response.headers.get("Last-Modified")
        go_on = self.is_the_rest if response.status == 206 else self.skip_to_the_rest
        if not go_on(response, version):
            raise RemoteError(f"{self.name}: is not the same file any more that it was until byte "
                              f"{self.at:,}; start over")
        return response

    def is_the_rest(self, response, version):
        """Whether a partial response goes on at self.at in the same file."""
        part = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not part or int(part[1]) != self.at:
            return False
        size = int(part[2]) if part[2] else self.size
        same_size = self.size in (None, size)
        self.size = size
        return same_size and (self.version == version or None in (self.version, version))

    def skip_to_the_rest(self, response, version):
        """Skip the bytes that we have in a response with the whole file; whether they are equal."""
        crc, n, self.size, self.version = 0, self.at, response.length, version
        while n:
            piece = response.read(min(n, 1 << 18))
            if not piece:
                raise ConnectionError("it ends early")
            crc, n = zlib.crc32(piece, crc), n - len(piece)
        return crc == self.crc


def open_url(address):
    """A file at an http(s) address, to read forward as if it were here: .read(n), .name, with, for.

    A connection that breaks is taken up again where it broke, by a Range request. From a server
    that knows no ranges the file is read again, and what came before is passed over if it is the
    same. Raises RemoteError, an OSError, if the file is not there, changes while it is read, or
    MAX_TRIES tries in a row bring nothing.
    """
    return io.BufferedReader(Remote(normalise(address)), 1 << 18)


def common_crawl(name, n_files=1, base="https://data.commoncrawl.org/"):
    """The addresses of the first n_files WARC files, of 1 GB each, of a crawl as CC-MAIN-2024-51.

    ValueError if no crawl has that name or if it has fewer files.
    """
    known = "the names of crawls, as CC-MAIN-2024-51, are listed at https://index.commoncrawl.org/"
    if not re.fullmatch(r"CC-MAIN-[0-9]{4}-[0-9]{2}", name) or n_files < 1:
        raise ValueError(f"{n_files} files of {name!r}: at least 1 file, of a crawl named "
                         f"CC-MAIN-YEAR-WEEK; {known}")
    address = f"{base.rstrip('/')}/crawl-data/{name}/warc.paths.gz"
    try:
        with open_url(address) as packed, gzip.open(packed, "rt", encoding="ascii") as file:
            lines = iter(lambda: file.readline(MAX_ADDRESS), "")
            paths = [line.strip() for line in itertools.islice(lines, n_files)]
    except RemoteError as error:
        if error.status not in (403, 404):      # a server that forbids listing says 403 for 404
            raise
        raise ValueError(f"{error}; perhaps there is no such crawl: {known}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{address}: not a gzip list of paths ({error}); "
                         "try again, or look at it") from None
    form = re.compile(rf"crawl-data/{name}/\S+\.warc\.gz")
    if len(paths) < n_files or not all(map(form.fullmatch, paths)):
        raise ValueError(f"{address}: {len(paths)} lines, but {n_files} paths of WARC files were "
                         f"asked for; the first line is {paths[:1]}")
    return [f"{base.rstrip('/')}/{path}" for path in paths]
