"""serve.py: the models of a run over HTTP, for clients of OpenAI's API and for the page.

A thread for each connection reads requests (request.py), makes a job of each (api.py, page.py), and
passes on what a process for each model writes for it (writer_process.py, batching.py).

    python sample.py serve          http://127.0.0.1:8000 the page, http://127.0.0.1:8000/v1 the API
    curl http://127.0.0.1:8000/v1/chat/completions \\
        -d '{"messages": [{"role": "user", "content": "Who are you?"}]}'

ROUTES has all routes. The model is the name of a stage of the run. If a request names none, the
best assistant answers, and for completions the base model. A name that is not there is 404.

No client can take more than this:

    what                                 at most                       beyond that
    ------------------------------------------------------------------------------------------------
    line of a head                       8,192 bytes                   414 the first, 431 another
    head                                 100 fields, 32,768 bytes      431
    body                                 1,048,576 bytes,              413
                                         65,536 chunks
    size of a chunk, with extensions     256 bytes                     400
    time for a request to arrive         30 s                          closed
    silence between requests             30 s                          closed
    connections                          256; 128 from one address     the longest waiting ends;
                                                                       503, 429 where all are busy
    an answer that is not read           30 s, 1 s more for            closed
                                         32,768 bytes
    all such answers together            64 MiB                        the longest waiting ends
    requests that wait for a place       64 for each model             429; the client with most
                                                                       of them gives way
    requests that are parsed at a time   4 chats; 1 of a bulk route    the others wait
    JSON within JSON                     32 levels                     400
    characters in prompt or messages     context * longest token       400, before they are encoded
    messages and parts                   context                       400
    prompts * n                          32                            400
    max_tokens                           context                       less is written
    stop                                 4 strings of 256 characters   400
    logit_bias                           each token once               the last of two counts
    log probabilities of an answer       65,536                        400
    model                                256 characters                400
    /tokenize, /detokenize, /api/cut     100,000 bytes or tokens       413
    text from /detokenize                1,048,576 bytes               413
    numbers inside, /api/look and alike  134,217,728                   400
    battles that wait for a vote         256                           the oldest gives way

After a refusal the connection is closed, unless all of the request has been read.

Sources: OpenAI's API reference; RFC 9110 and 9112 (HTTP).
"""

import argparse
import collections
import concurrent.futures
import contextlib
import errno
import functools
import hmac
import http.server
import itertools
import re
import select
import signal
import socket
import sys
import threading
import time
from typing import Callable, NamedTuple

from chat import api, fields, inside_page, models, page, request, votes, walk
from chat.request import Answer, Refused, address_of, client_of
from chat.served import ASSISTANTS, BASES, Models, Unloaded
from model import device
from run import command

# The bounds of the table above that are not in request.py, fields.py, served.py, api.py or page.py.
CONNECTIONS, FROM_ONE_ADDRESS = 256, 128
UNREAD = 64 << 20                       # bytes of all answers that are not read
SLOWEST = 32768                         # bytes a second that a client must read
AT_ONCE = 4                             # chats and completions that are parsed at a time


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection. `server` is a Server.

    head     of the request that is being answered
    since    when the request that is being read may have begun; None while it is answered
    unread   bytes of an answer that the client has not taken yet; blocked: since when
    loaded   {name: writer} of the models that were loaded for this request
    """

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "Longhand", ""
    timeout = 30                        # seconds of silence after which a connection is closed
    requestline, request_version, path = "", "HTTP/1.1", ""

    def log_message(self, *_):
        """Requests are not logged."""

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # the memory that the system may use for what is not read
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        self.client, self.since = client_of(self.client_address[0]), time.monotonic()
        self.unread, self.blocked, self.ended = 0, 0.0, False
        self._headers_buffer = []       # BaseHTTPRequestHandler's
        self.server.handlers.add(self)

    def finish(self):
        """Close the connection, but read on, or a client that still sends hears no answer."""
        self.since = time.monotonic()
        until = self.since + 2
        with contextlib.suppress(OSError):
            super().finish()
            self.connection.settimeout(1)
            self.connection.shutdown(socket.SHUT_WR)
            while self.connection.recv(1 << 16) and time.monotonic() < until:
                pass
        self.server.handlers.discard(self)

    def end(self, how=socket.SHUT_RDWR):
        """Cut the connection off, from another thread."""
        self.ended = self.ended or how == socket.SHUT_RDWR
        with contextlib.suppress(OSError):      # it has ended
            self.connection.shutdown(how)

    def client_has_gone(self):
        """Whether the client has closed the connection."""
        if hasattr(select, "POLLRDHUP"):        # Linux says so even if there are bytes to read
            poll = select.poll()
            poll.register(self.connection, select.POLLRDHUP)
            return bool(poll.poll(0))
        readable = select.select([self.connection], [], [], 0)[0]
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def handle_one_request(self):
        """Read a request and answer it. A refusal before its end closes the connection."""
        self.head, self.since, self.loaded = request.Head(), time.monotonic(), {}
        self.close_connection, self.streaming = True, False
        if self.server.closing:         # close() may have looked for waiting handlers before
            self.end(socket.SHUT_RD)
        try:
            if not self.rfile.peek(1):
                return
            self.since = time.monotonic()
            try:
                if self.head.read(self.rfile):
                    self.answer()
            except Refused as e:
                self.send(e)
            if self.server.closing:
                self.close_connection = True
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as e:
            what = f"{type(e).__name__}: {e}"
            print(f"serve.py: {self.head.method} {self.path[:100]}: {what}", file=sys.stderr)
            self.close_connection = True
            if not self.streaming:
                self.send(Refused(500, what))

    # ---- answers

    def begin(self, status, headers, kind=None):
        """Make the head of an answer: status and headers (name, value). kind: of the body.

        It goes out with what is written next, which saves a packet.
        """
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in [*headers, *self.shared()]:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        elif self.head.minor == 0:      # HTTP/1.0 would expect an end otherwise
            self.send_header("Connection", "keep-alive")
        self.end_headers()

    def send(self, answer):
        """Send an Answer."""
        length = ("Content-Length", str(len(answer.data)))
        self.begin(answer.status, [*answer.headers.items(), length], answer.kind)
        self.write(b"" if self.head.method == "HEAD" else answer.data)

    def flush_headers(self):
        """The head waits for write."""

    def write(self, data):
        """Send the head, if there is one, and bytes. TimeoutError if the client reads no more."""
        data = b"".join(self._headers_buffer) + data
        self._headers_buffer = []
        longer = len(data) // SLOWEST   # mostly 0, which saves two calls of the system
        if longer:
            self.connection.settimeout(self.timeout + longer)
        self.unread, self.blocked = len(data), time.monotonic()
        self.wfile.write(data)
        self.unread = 0
        if longer:
            self.connection.settimeout(self.timeout)

    def send_stream(self, events):
        """Send lists of values as they come, as server-sent events."""
        first = next(events)            # a refusal up to here is still an answer of its own
        self.streaming, headers = True, [("Transfer-Encoding", "chunked")]
        if self.head.minor == 0:        # without chunks, the end of the connection is its end
            self.close_connection, headers = True, []
        self.begin(200, headers, "text/event-stream; charset=utf-8")
        try:
            for values in itertools.chain([first], events):
                self.send_events(values, last=values[-1] == "[DONE]")
        except Refused as e:
            self.send_events([e.value], last=True)

    def send_events(self, values, last):
        """Send server-sent events: values as JSON, or texts as they are."""
        data = b""
        for value in values:
            text = value.encode() if isinstance(value, str) else request.json_bytes(value)
            data += b"data: " + text + b"\n\n"
        if self.head.minor == 1:
            data = b"%x\r\n%s\r\n" % (len(data), data) + b"0\r\n\r\n" * last
        self.write(data)

    def shared(self):
        """The headers by which a browser shows an answer to a page that --origin names (CORS)."""
        if self.server.origin == "*":
            return [("Access-Control-Allow-Origin", "*")]
        headers = [("Vary", "Origin")] if self.server.origin else []
        if self.is_named():
            headers.append(("Access-Control-Allow-Origin", self.head.fields["origin"]))
            headers.append(("Access-Control-Allow-Credentials", "true"))
        return headers

    def is_named(self):
        """Whether --origin names the page that asks."""
        origin = self.head.fields.get("origin")
        return origin is not None and self.server.origin in ("*", origin.lower())

    def preflight(self):
        """Answer OPTIONS: a browser asks what a page may send. Any header is harmless."""
        sent, methods = self.head.fields, ", ".join(request.METHODS)
        headers = [("Allow", methods)]
        if self.is_named():
            asked = sent.get("access-control-request-headers", "Authorization, Content-Type")
            names = filter(request.NAME.fullmatch, request.items_of(asked))
            headers += [
                ("Vary", "Access-Control-Request-Headers"),
                ("Access-Control-Allow-Methods", methods),
                ("Access-Control-Allow-Headers", ", ".join(names)),
                ("Access-Control-Max-Age", "7200"),
            ]
            # Chrome asks this before a page of the internet may reach a private network.
            if sent.get("access-control-request-private-network") == "true":
                headers.append(("Access-Control-Allow-Private-Network", "true"))
        self.begin(204, headers)
        self.write(b"")

    # ---- requests

    def answer(self):
        """Answer the request whose head has been read."""
        if not self.head.has_body:      # all of it has been read
            self.close_connection = self.head.close
        self.path = self.head.target.split("?")[0].rstrip("/") or "/"
        self.check_access()
        if self.head.method == "OPTIONS":
            self.body()
            self.preflight()
            return
        answer = self.parsed(self.route(), self.body())
        if not isinstance(answer, Answer):      # a function that does what takes time
            answer = answer()
        if answer:                      # it was not sent as a stream
            self.send(answer)

    def route(self):
        """The Route of the request; Refused if it does not fit one."""
        path, head = self.path, self.head
        route = ROUTES.get(path)
        if path.startswith("/v1/models/"):
            route = ROUTES["/v1/models"]
        if route is None:
            raise Refused(404, f"{path[:100]}: no such route; there are {', '.join(ROUTES)}")
        if route.method != ("GET" if head.method == "HEAD" else head.method):
            allow = "GET, HEAD, OPTIONS" if route.method == "GET" else "POST, OPTIONS"
            raise Refused(405, f"{path}: {route.method} only", headers={"Allow": allow})
        if route.method == "POST" and head.length is None and not head.chunked:
            self.close_connection = True
            raise Refused(411, "give the length of the body in Content-Length, or send chunks")
        coding = head.fields.get("content-encoding", "")
        if coding.lower() not in ("", "identity"):
            raise Refused(415, f"Content-Encoding: {coding[:60]}: no compressed body is read here",
                          headers={"Accept-Encoding": "identity"})
        return route

    def body(self):
        """The bytes of the request's body."""
        if self.head.expects:
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = self.head.body(self.rfile)
        self.close_connection, self.since = self.head.close, None       # it was read in time
        return data

    def parsed(self, route, data):
        """What the route's function makes of the body. Only there it is in memory as an object."""
        while True:
            try:
                with self.server.turn_of(route):
                    body = fields.object_of(data) if route.method == "POST" else None
                    return route.answer(self, body)
            except Unloaded as e:
                name = e.args[0]
            body = None
            try:                        # outside its turn, as others wait for that
                self.loaded[name] = self.server.models.writer(name)
            except (ValueError, OSError) as e:
                raise Refused(503, str(e), "model") from None

    def model_of(self, body, preferred):
        """(name, writer) of the model that a request asks for. Unloaded if it must be loaded."""
        name = self.server.models.name_of(fields.field(body, "model", "", str), preferred)
        writer = self.loaded.get(name) or self.server.models.ready(name)
        if writer is None:
            raise Unloaded(name)
        return name, writer

    def check_access(self):
        """Refused for a wrong name of this server, a page of another site, or a wrong key.

        OPTIONS, which browsers send without the key, and the routes in OPEN need no key.
        """
        host, origin = self.head.host, self.head.fields.get("origin")
        here = address_of(self.connection.getsockname()[0])
        # Browsers always send Host. Without it, a probe asks, or a tool that speaks HTTP/1.0.
        if host and not self.server.is_called(request.HOST.fullmatch(host)[1], here):
            message = f"this server is {self.server.address}, not {host[:60]!r}"
            raise Refused(403, f"{message}; its other names are given with --allow-host")
        own = f"{origin}".lower() in (f"http://{host}", f"https://{host}")
        changes = self.head.method in ("POST", "OPTIONS")
        if origin and changes and not own and not self.is_named():
            raise Refused(403, f"pages of {origin[:60]!r} may not ask; name them with --origin")
        if not self.has_key() and self.path not in OPEN and self.head.method != "OPTIONS":
            raise Refused(401, "the key is missing or wrong; send it as Authorization: Bearer KEY",
                          code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    def has_key(self):
        """Whether the request has the server's key, or needs none."""
        if not self.server.keys:
            return True
        scheme, _, given = self.head.fields.get("authorization", "").partition(" ")
        given = given.strip(" ").encode("latin-1")
        equal = [hmac.compare_digest(given, key) for key in self.server.keys]
        return scheme.lower() == "bearer" and any(equal)


class Route(NamedTuple):
    """How a path is answered."""

    method: str
    answer: Callable            # of the handler and the body
    bulk: bool = False          # it has much to do: one of these runs at a time, and delays no chat


ROUTES = {
    "/health": Route("GET", api.health),
    "/v1/health": Route("GET", api.health),
    "/ping": Route("GET", api.health),
    "/v1/models": Route("GET", api.models),
    "/v1/chat/completions": Route("POST", api.Chat),
    "/v1/completions": Route("POST", api.Completion),
    "/tokenize": Route("POST", api.tokenize, bulk=True),
    "/detokenize": Route("POST", api.detokenize, bulk=True),
    "/": Route("GET", functools.partial(page.page, "index.html")),
    "/api/about": Route("GET", page.about),
    "/api/report": Route("GET", page.report, bulk=True),
    "/api/arena": Route("GET", page.ranking, bulk=True),
    "/api/log": Route("GET", page.log_of, bulk=True),
    "/api/look": Route("POST", page.look, bulk=True),
    "/api/walk": Route("POST", walk.walked, bulk=True),
    "/api/cut": Route("POST", page.cut, bulk=True),
    "/api/ids": Route("POST", inside_page.ids, bulk=True),
    "/api/contrast": Route("POST", inside_page.contrast, bulk=True),
    "/api/trace": Route("POST", inside_page.trace, bulk=True),
    "/api/induction": Route("POST", inside_page.heads_that_copy, bulk=True),
    "/api/beginnings": Route("GET", inside_page.beginnings, bulk=True),
    "/api/battle": Route("POST", votes.battle),
    "/api/vote": Route("POST", votes.vote),
    "/api/votes": Route("GET", votes.table, bulk=True),
    "/api/fit": Route("POST", page.fit, bulk=True),
    "/api/pieces": Route("POST", page.pieces, bulk=True),
}
PAGE = {f"/page/{name}": Route("GET", functools.partial(page.page, name)) for name in page.FILES}
ROUTES |= PAGE
# Open without a key: the page, which then asks for one, and the routes of probes.
OPEN = {"/", *PAGE, "/health", "/v1/health", "/ping"}
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")


class Server(http.server.ThreadingHTTPServer):
    """The server of some Models.

    handlers  one for each connection
    keys      what a client may send: the key, in each encoding that clients use
    battles   {number: votes.Battle} that wait for a vote, the oldest first
    writing, bulk, looking   locks: of chats that are parsed, of routes with much to do, and of
              work that holds all logits of a text
    """

    request_queue_size = 128

    def __init__(self, models, host="127.0.0.1", port=8000, key=None, origin=None, allow_host=()):
        self.keys = keys_of(key)
        self.models, self.origin = models, checked_origin(origin)
        self.closing, self.handlers = False, set()
        self.battles = collections.OrderedDict()
        self.threads = concurrent.futures.ThreadPoolExecutor(CONNECTIONS)
        self.writing, self.bulk = threading.BoundedSemaphore(AT_ONCE), threading.Lock()
        self.looking = threading.Lock()
        self.names = set()
        for name in (host, *allow_host):
            self.names.add(name.strip("[]").lower().removesuffix("."))
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except OSError as e:
            if e.errno != errno.EADDRINUSE:
                raise
            message = "is taken by another program; choose another with --port, or 0 for a free one"
            raise ValueError(f"port {port} of {host} {message}") from None
        self.address = f"{'[' + host + ']' if ':' in host else host}:{self.server_address[1]}"

    def process_request(self, request, client_address):
        """Have a thread answer on a new connection: one that is free, which costs less than new."""
        self.threads.submit(self.process_request_thread, request, client_address)

    def turn_of(self, route):
        """The lock under which a request is parsed, and its answer or its job is made."""
        if route.bulk:
            return self.bulk
        return self.writing if route.method == "POST" else contextlib.nullcontext()

    def is_called(self, name, address):
        """Whether a client may call this server by a name, over a connection to that address.

        name is what stands in Host, without the port. An address is ours if the connection came
        there, and a name if it was given to us. Any other name may belong to another site that
        leads here, and then that site's pages are asking (DNS rebinding).
        """
        name = name.strip("[]").lower().removesuffix(".")
        called = address_of(name)
        if name in self.names or called == address:
            return True
        if address.is_loopback:
            return name == "localhost" or called is not None and called.is_loopback
        return name == socket.gethostname().lower()

    def handle_error(self, request, client_address):
        """A client that went away at a bad moment is no error of ours; all others are printed."""
        kind, e, _ = sys.exc_info()
        if not issubclass(kind, (ConnectionError, TimeoutError)):
            print(f"serve.py: {kind.__name__}: {e}", file=sys.stderr)

    def verify_request(self, request, client_address):
        """Whether a new connection is accepted. If there are too many, the longest waiting ends."""
        client = client_of(client_address[0])
        while True:
            there = [h for h in list(self.handlers) if not h.ended]
            own = [h for h in there if h.client == client]
            if len(own) < FROM_ONE_ADDRESS and len(there) < CONNECTIONS:
                return True
            if len(own) < FROM_ONE_ADDRESS:
                most = collections.Counter(h.client for h in there).most_common(1)[0][0]
                own = [h for h in there if h.client == most]
            waiting = [(since, h) for h in own if (since := h.since) is not None]
            if not waiting:
                break
            _, longest = min(waiting, key=lambda pair: pair[0])
            longest.end()
        full = len(there) >= CONNECTIONS
        status = b"503 Service Unavailable" if full else b"429 Too Many Requests"
        with contextlib.suppress(OSError):      # it has gone already
            end = b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            request.sendall(b"HTTP/1.1 " + status + end)
        return False

    def service_actions(self):
        """Now and then: cut off clients that send a request too slowly, or read too slowly."""
        handlers, now = list(self.handlers), time.monotonic()
        for handler in handlers:
            since = handler.since
            if since is not None and now - since > Handler.timeout:
                handler.end()
        unread = [handler for handler in handlers if handler.unread]
        unread.sort(key=lambda handler: handler.blocked)
        total = sum(handler.unread for handler in unread)
        for handler in unread:
            if total <= UNREAD:
                break
            total -= handler.unread
            handler.end()

    def close(self):
        """Finish what was begun, and end. Call it while serve_forever runs in another thread."""
        self.closing = True
        self.shutdown()
        for handler in list(self.handlers):
            if handler.since is not None:
                handler.end(socket.SHUT_RD)
        self.server_close()
        self.threads.shutdown()         # waits until what was begun is answered
        self.models.close()


def keys_of(key):
    """The bytes that a client may send for --key; [] for None. ValueError if none can be sent."""
    if key is None:
        return []
    if not key.strip() or key != key.strip() or not key.isprintable():
        raise ValueError("--key is empty, or has blanks around it or control characters; leave it "
                         'out, or give a key, such as: --key "$(openssl rand -hex 16)"')
    keys = [key.encode("utf-8", "surrogateescape")]
    if max(key) <= "\xff":              # some clients send headers in Latin-1
        keys.append(key.encode("latin-1"))
    return keys


def checked_origin(origin):
    """--origin in the form in which browsers send it."""
    if not origin or origin in ("*", "null"):
        return origin
    origin = origin.lower().removesuffix("/")
    if not ORIGIN.fullmatch(origin):
        raise ValueError(f"--origin {origin!r}: expected * or one such as http://localhost:3000")
    return origin


def parse_args(argv=None):
    """The options of `sample.py serve`."""
    p = argparse.ArgumentParser(
        prog="sample.py serve",
        description="Answer over HTTP: a page to look inside the models, and OpenAI's API.",
    )
    models.add_options(p)
    where = p.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1",
                       help="address to listen on; 0.0.0.0 stands for all addresses of this "
                            "machine (default: %(default)s)")
    where.add_argument("--port", type=int, default=8000,
                       help="port; 0 takes a free one (default: %(default)s)")
    who = p.add_argument_group("who may ask")
    who.add_argument("--key", help="what clients must send as Authorization: Bearer KEY")
    who.add_argument("--origin", metavar="URL",
                     help="the origin of web pages that may ask from a browser, such as "
                          "http://localhost:3000; * for all")
    who.add_argument("--allow-host", action="append", default=[], metavar="NAME",
                     help="another name by which clients may call this server; may be repeated")
    p.add_argument("--ranks", metavar="DIR",
                   help="folder of tiktoken's vocabularies, which the page shows beside the run's")
    device.add_arguments(p)
    return models.check_options(p.parse_args(argv))


def uploaded(dtype, params, cfg):
    """The parameters on the GPU, to which each process must connect."""
    gpu = device.connect(dtype)
    return device.upload(params, cfg, bf16=gpu.bf16)


def main(argv=None):
    """Serve until SIGINT or SIGTERM; then finish what was begun."""
    args = parse_args(argv)
    if not 0 <= args.port <= 65535:
        raise ValueError(f"--port {args.port}: ports are 0 to 65535")
    gpu = device.chosen(args, is_for_writing=True)
    upload = functools.partial(uploaded, args.dtype) if gpu else None
    dtype = device.kept_on_cpu(args)
    served = Models(args.run, args.model, args.ranks, upload, apart=True, dtype=dtype)
    server = Server(served, args.host, args.port, args.key, args.origin, args.allow_host)
    if served.folders:
        served.writer(served.name_of(None, ASSISTANTS + BASES))
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    address = f"http://{server.address}; for clients http://{server.address}/v1"
    names = ", ".join(served.folders) or f"{args.run}, which has no finished model yet,"
    print(f"serving {names} at {address}; Ctrl-C ends it", flush=True)
    # The system may give the signal to another thread. Python's handler waits for this one then.
    while not ended.wait(0.5):
        pass
    print("finishing what was begun", flush=True)
    server.close()


if __name__ == "__main__":
    command.run(main)
