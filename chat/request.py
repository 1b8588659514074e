"""request.py: one HTTP request, read as strictly as RFC 9112 says, and the body of its answer.

A proxy in front of the server must never see two requests where the server sees one. So lines end
in CRLF, no blank stands before a colon, no field goes over two lines, and no length is given twice.
A body has a length or comes in chunks; a request with both is refused. Whatever is ambiguous is
refused as well, and the connection is closed: nobody knows where the next request would begin.

Sources: RFC 9110 and 9112 (HTTP); RFC 3986 (hosts).
"""

import functools
import ipaddress
import json
import re
from dataclasses import dataclass, field


# The bounds that serve.py lists, in bytes unless their names say otherwise.
LONGEST_LINE = 8192
LARGEST_HEAD = 32768
MOST_FIELDS = 100
LARGEST_BODY = 1 << 20
MOST_CHUNKS = 1 << 16
LONGEST_CHUNK_LINE = 256

METHODS = ("GET", "HEAD", "POST", "OPTIONS")
# A request with two of these is a mistake, or an attack.
SINGLE = ("host", "content-length", "authorization", "origin", "expect")

TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rf"({TOKEN}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
NAME = re.compile(TOKEN)
FIELD = re.compile(rf"({TOKEN}):([\t\x20-\x7e\x80-\xff]*)")
HOST = re.compile(r"([A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
ABSOLUTE = re.compile(r"https?://([^/?#]*)(/[^?#]*)?(.*)", re.I)
QUOTED = r'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
EXTENSION = rf"[ \t]*;[ \t]*{TOKEN}(?:[ \t]*=[ \t]*(?:{TOKEN}|{QUOTED}))?"
CHUNK = re.compile(rf"([0-9A-Fa-f]+)(?:{EXTENSION})*")

JSON = "application/json; charset=utf-8"        # without the charset, some clients read Latin-1
# Ends of lines in Unicode's sense, escaped. A client that cuts a stream into lines as Python's
# splitlines does would cut an event there.
LINE_ENDS = str.maketrans({c: f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"})
# The types of errors that a status has a name for.
KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def json_bytes(value):
    """JSON on one line. Half of a surrogate pair, which is no character, becomes a "?"."""
    text = json.dumps(value, ensure_ascii=False)
    if not text.isascii():
        text = text.translate(LINE_ENDS)
    return text.encode("utf-8", "replace")


class Answer:
    """An answer: bytes of some kind of text, or a value that becomes JSON."""

    def __init__(self, value, status=200, kind=JSON, headers=()):
        self.data = value if isinstance(value, bytes) else json_bytes(value)
        self.status, self.kind, self.headers = status, kind, dict(headers)


class Refused(Answer, Exception):
    """The answer to what is refused: OpenAI's error object."""

    def __init__(self, status, message, param=None, code=None, headers=()):
        Exception.__init__(self, message)
        kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.value = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        Answer.__init__(self, self.value, status, headers=headers)

    def __reduce__(self):               # for another process
        error = self.value["error"]
        return Refused, (self.status, error["message"], error["param"], error["code"], self.headers)


def line_of(file, most, status):
    """The next line of a head or of a chunked body, without CRLF; None at the end of the file.

    Refused with `status` if it is longer than `most` bytes.
    """
    line = file.readline(most + 2)
    if line.endswith(b"\r\n"):
        return line[:-2].decode("latin-1")
    if len(line) > most + 1:
        raise Refused(status, f"a line of more than {most:,} bytes")
    if line:
        raise Refused(400, "a line of a head that does not end in CRLF")
    return None


def fields_of(file):
    """(name in lower case, value) of each field, up to the empty line behind the last one."""
    n_fields, size = 0, 0
    while line := line_of(file, LONGEST_LINE, 431):
        n_fields, size = n_fields + 1, size + len(line)
        if n_fields > MOST_FIELDS or size > LARGEST_HEAD:
            raise Refused(431, f"a head of over {MOST_FIELDS} fields or {LARGEST_HEAD:,} bytes")
        # A field over two lines and a blank before the colon are no fields: a name has no blank.
        found = FIELD.fullmatch(line)
        if not found:
            raise Refused(400, f"not a header field: {line[:60]!r}")
        yield found[1].lower(), found[2].strip(" \t")
    if line is None:
        raise Refused(400, "the request ended inside its head")


def items_of(value):
    """The items of a field that is a list: "a, b" -> ["a", "b"]"""
    return [item.strip(" \t") for item in value.split(",")]


def chunks_of(file):
    """The body of a request that comes in chunks (RFC 9112, 7.1).

    In front of the bytes of each chunk stands their number, in hexadecimal:

        5 CRLF "Hello" CRLF 1;a=b CRLF "!" CRLF 0 CRLF Checksum: 1 CRLF CRLF   ->   Hello!

    Extensions, behind a size, and trailers, behind the last chunk, are read strictly and ignored.
    """
    body, n_chunks = bytearray(), 0     # a list of small chunks would take more memory
    while True:
        line = line_of(file, LONGEST_CHUNK_LINE, 400)
        found = CHUNK.fullmatch(line or "")
        if not found:
            raise Refused(400, f"not the size of a chunk: {(line or '')[:60]!r}")
        size, n_chunks = int(found[1], 16), n_chunks + 1
        if len(body) + size > LARGEST_BODY or n_chunks > MOST_CHUNKS:
            raise Refused(413, f"a body of over {LARGEST_BODY:,} bytes or {MOST_CHUNKS:,} chunks")
        if size == 0:
            break
        data = file.read(size + 2)
        if len(data) < size + 2 or not data.endswith(b"\r\n"):
            raise Refused(400, f"a chunk that does not end behind its {size:,} bytes")
        body += data[:-2]
    for _ in fields_of(file):
        pass
    return bytes(body)


@dataclass
class Head:
    """The head of a request."""

    method: str = None
    target: str = None          # without the host, if it names one
    minor: int = 1              # of the version: HTTP/1.minor
    fields: dict = field(default_factory=dict)      # {name in lower case: value}
    host: str = ""              # whom the client means, in lower case, with the port if it has one
    length: int = None          # bytes of the body
    chunked: bool = False       # whether the body comes in chunks
    expects: bool = False       # whether the client waits for 100 Continue to send the body
    close: bool = True          # whether the client wants the connection closed after the answer

    def read(self, file):
        """Read the head from a binary file; False if the client has ended. Refused if wrong."""
        line = line_of(file, LONGEST_LINE, 414)
        if line == "":                  # one empty line in front is ignored (RFC 9112, 2.2)
            line = line_of(file, LONGEST_LINE, 414)
        if line is None:
            return False
        found = REQUEST_LINE.fullmatch(line)
        if not found:
            raise Refused(400, f"not a request line: {line[:60]!r}")
        self.method, self.target, major, minor = found.groups()
        if major != "1":
            raise Refused(505, f"HTTP/{major}.{minor}: this server speaks HTTP/1.1")
        self.minor = min(int(minor), 1)
        for name, value in fields_of(file):
            if name in self.fields and name in SINGLE:
                raise Refused(400, f"two fields {name}")
            earlier = f"{self.fields[name]}, " if name in self.fields else ""
            self.fields[name] = earlier + value
        if self.method not in METHODS:
            raise Refused(501, f"{self.method[:60]!r}: the methods here are {', '.join(METHODS)}")
        self._find_host()
        self._find_length()
        self._find_connection()
        return True

    def _find_host(self):
        """The host of the field Host; an absolute target must name the same (RFC 9112, 3.2)."""
        self.host = self.fields.get("host", "").lower()
        needed = self.minor == 1 or "host" in self.fields
        if needed and not HOST.fullmatch(self.host):
            raise Refused(400, "Host is missing or no name of a host")
        absolute = ABSOLUTE.fullmatch(self.target)
        if absolute:
            host, path, query = absolute.groups("")
            self.target = (path or "/") + query
            self.host = self.host or host.lower()
            if host.lower() != self.host or not HOST.fullmatch(host):
                raise Refused(400, "the target names another host than Host")
        everything = self.target == "*" and self.method == "OPTIONS"
        if "#" in self.target or not (self.target.startswith("/") or everything):
            raise Refused(400, f"not a target of a request: {self.target[:60]!r}")

    def _find_length(self):
        """Where the body ends (RFC 9112, 6.3)."""
        coding, length = self.fields.get("transfer-encoding"), self.fields.get("content-length")
        if coding is not None:
            codings = items_of(coding.lower())
            if length is not None or self.minor == 0:
                raise Refused(400, "Transfer-Encoding with a length, or in HTTP/1.0")
            if codings[-1] != "chunked" or codings.count("chunked") > 1:
                raise Refused(400, "Transfer-Encoding: only chunked, once and last, has an end")
            if len(codings) > 1:
                raise Refused(501, f"Transfer-Encoding: {coding[:60]}: not spoken here")
            self.chunked = True
        elif length is not None:
            found = re.fullmatch("0*([0-9]+)", length)
            if not found:
                raise Refused(400, f"Content-Length: {length[:20]!r} is no length")
            if len(found[1]) > 9 or int(found[1]) > LARGEST_BODY:
                raise Refused(413, f"a body of {found[1][:20]} bytes, at most {LARGEST_BODY:,}")
            self.length = int(found[1])

    def _find_connection(self):
        """Whether the connection stays open, and whether the client waits for 100 Continue."""
        wanted = items_of(self.fields.get("connection", "").lower())
        kept = self.minor == 1 or "keep-alive" in wanted    # HTTP/1.0 closes unless asked not to
        self.close = "close" in wanted or not kept
        if "expect" in self.fields and self.minor == 1:
            if self.fields["expect"].lower() != "100-continue":
                raise Refused(417, f"Expect: {self.fields['expect'][:60]!r}: only 100-continue")
            self.expects = self.has_body

    @property
    def has_body(self):
        """Whether anything stands behind the head."""
        return self.chunked or bool(self.length)

    def body(self, file):
        """The bytes of the body."""
        if self.chunked:
            return chunks_of(file)
        data = file.read(self.length or 0)
        if len(data) < (self.length or 0):
            raise Refused(400, f"the body ended after {len(data):,} of {self.length} bytes")
        return data


@functools.lru_cache
def address_of(text):
    """The IP address that a text spells, or None for a name. IPv4 wrapped in IPv6 becomes IPv4."""
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@functools.lru_cache
def client_of(host):
    """A name for the client at an address. IPv6: its /64, which belongs to one customer."""
    address = address_of(host)
    bits = 64 if address.version == 6 else 32
    return str(ipaddress.ip_network((address, bits), strict=False))
