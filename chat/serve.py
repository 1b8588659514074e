"""serve.py: the models of a run over HTTP, for clients of OpenAI's API and for the page.

A thread for each connection reads requests (request.py), makes a job of each (api.py, page.py), and
passes on what batching.py writes for it.

    python sample.py serve          http://127.0.0.1:8000 the page, http://127.0.0.1:8000/v1 the API
    curl http://127.0.0.1:8000/v1/chat/completions \\
        -d '{"messages": [{"role": "user", "content": "Who are you?"}]}'

GET  /v1/models, /health
POST /v1/chat/completions, /v1/completions, /tokenize, /detokenize

/health needs no key; /v1/health and /ping are the same. ROUTES has all routes, with the page's.
The model is the name of a stage of the run. If a request names none, the best assistant answers,
and for completions the base model. A name that is not there is 404.

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
    requests that are parsed at a time   4 chats; 1 of BULK            the others wait
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
    numbers inside, /api/look            134,217,728                   400

After a refusal the connection is closed, unless all of the request has been read.

Sources: OpenAI's API reference; RFC 9110 and 9112 (HTTP).
"""

import argparse
import collections
import contextlib
import errno
import functools
import hmac
import http.server
import itertools
import json
import queue
import re
import select
import signal
import socket
import sys
import threading
import time
import urllib.parse
import uuid
from pathlib import Path
from typing import Callable, NamedTuple

from model import cores                 # noqa: F401  before numpy
from chat import api, batching, models, page, request
from chat.api import Answer, field
from chat.request import Refused, address_of, client_of
from chat.served import ASSISTANTS, BASES, Models, signature
from model import device
from run import command

# The bounds of the table above that are not in request.py, api.py or page.py.
CONNECTIONS, FROM_ONE_ADDRESS = 256, 128
UNREAD = 64 << 20                       # bytes of all answers that are not read
SLOWEST = 32768                         # bytes a second that a client must read
AT_ONCE = 4                             # chats and completions that are parsed at a time
LONGEST_NAME = 256
LARGEST_TEXT = 1 << 20                  # bytes from /detokenize
GONE = 0.25                             # seconds between two looks whether a client is still there


class Unloaded(Exception):
    """A request asks for a model that must be loaded first, or loaded anew."""

    def __init__(self, name):
        super().__init__(name)
        self.name = name


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection. `server` is a Server.

    since    when the request that is being read may have begun; None while it is answered
    unread   bytes of an answer that the client has not taken yet
    blocked  since when
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
        self.client, self.since = client_of(self.client_address), time.monotonic()
        self.unread, self.blocked, self.ended = 0, 0.0, False
        self.server.handlers.add(self)

    def finish(self):
        """Close the connection, but read for a moment more.

        A client that is still sending would not hear the answer otherwise.
        """
        self.since = time.monotonic()
        until = self.since + 2
        try:
            super().finish()
            self.connection.settimeout(1)
            self.connection.shutdown(socket.SHUT_WR)
            while self.connection.recv(1 << 16) and time.monotonic() < until:
                pass
        except OSError:
            pass
        self.server.handlers.discard(self)

    def end(self, how=socket.SHUT_RDWR):
        """Cut the connection off, from another thread."""
        self.ended = self.ended or how == socket.SHUT_RDWR
        try:
            self.connection.shutdown(how)
        except OSError:                 # it has ended
            pass

    def handle_one_request(self):
        """Read a request and answer it. A refusal before its end closes the connection."""
        self.head, self.command, self.since = request.Head(), None, time.monotonic()
        self.close_connection, self.streaming = True, False
        try:
            if not self.rfile.peek(1):
                return
            self.since = time.monotonic()
            try:
                if self.head.read(self.rfile):
                    self.answer()
            except Refused as e:
                self.send({"error": e.error}, e.status, headers=e.headers)
            if self.server.closing:
                self.close_connection = True
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as e:
            what = f"{type(e).__name__}: {e}"
            print(f"serve.py: {self.command} {self.path[:100]}: {what}", file=sys.stderr)
            self.close_connection = True
            if not self.streaming:
                self.send({"error": Refused(500, what).error}, 500)

    # ---- answers

    def send(self, value, status=200, kind=api.JSON, headers=()):
        """Send an answer: bytes, or a value as JSON."""
        data = value if isinstance(value, bytes) else api.json_bytes(value)
        self.command = self.head.method
        self.send_response(status)
        self.headers_for(kind)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.write(data)

    def end_headers(self):
        if self.close_connection:
            self.send_header("Connection", "close")
        elif self.head.minor == 0:      # HTTP/1.0 would expect an end otherwise
            self.send_header("Connection", "keep-alive")
        super().end_headers()

    def write(self, data):
        """Send bytes. TimeoutError if the client does not read them."""
        self.connection.settimeout(self.timeout + len(data) / SLOWEST)
        self.unread, self.blocked = len(data), time.monotonic()
        self.wfile.write(data)
        self.unread = 0
        self.connection.settimeout(self.timeout)

    def headers_for(self, kind):
        """The headers of every answer with a body."""
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.share()

    def share(self):
        """The headers by which a browser shows an answer to a page that --origin names (CORS)."""
        if self.server.origin == "*":
            self.send_header("Access-Control-Allow-Origin", "*")
        elif self.server.origin:
            self.send_header("Vary", "Origin")
            if self.is_named():
                self.send_header("Access-Control-Allow-Origin", self.head.fields["origin"])
                self.send_header("Access-Control-Allow-Credentials", "true")

    def is_named(self):
        """Whether --origin names the page that asks."""
        origin = self.head.fields.get("origin")
        return origin is not None and self.server.origin in ("*", origin.lower())

    def preflight(self):
        """Answer OPTIONS: a browser asks what a page may send. Any header is harmless."""
        fields = self.head.fields
        self.send_response(204)
        self.share()
        self.send_header("Allow", ", ".join(request.METHODS))
        if self.is_named():
            asked = fields.get("access-control-request-headers", "Authorization, Content-Type")
            names = [name.strip(" \t") for name in asked.split(",")]
            names = [name for name in names if request.NAME.fullmatch(name)]
            self.send_header("Vary", "Access-Control-Request-Headers")
            self.send_header("Access-Control-Allow-Methods", ", ".join(request.METHODS))
            self.send_header("Access-Control-Allow-Headers", ", ".join(names))
            self.send_header("Access-Control-Max-Age", "7200")
            # Chrome asks this before a page of the internet may reach a private network.
            if fields.get("access-control-request-private-network") == "true":
                self.send_header("Access-Control-Allow-Private-Network", "true")
        self.end_headers()

    def send_events(self, values, last=False):
        """Send server-sent events: values as JSON, or texts as they are."""
        data = b""
        for value in values:
            text = value.encode() if isinstance(value, str) else api.json_bytes(value)
            data += b"data: " + text + b"\n\n"
        assert data, "a chunk of no bytes would end the stream"
        if self.head.minor == 1:
            data = b"%x\r\n%s\r\n" % (len(data), data) + b"0\r\n\r\n" * last
        self.write(data)

    # ---- requests

    def answer(self):
        """Answer the request whose head has been read."""
        self.command, self.path = self.head.method, self.head.target
        if not self.head.has_body:      # all of it has been read
            self.close_connection = self.head.close
        path = self.path.split("?")[0].rstrip("/") or "/"
        self.check_access(path)
        if self.command == "OPTIONS":
            self.body()
            self.preflight()
            return
        route = self.route_of(path)
        data = self.body()
        self.since = None               # it was read in time
        answer, self.loaded = None, {}
        while answer is None:
            try:
                with self.server.turn_of(route):
                    body = api.object_of(data) if route.method == "POST" else None
                    answer = route.answer(self, body)
            except Unloaded as e:       # a model is loaded outside its turn, as others wait for it
                wanted = e.name
            body = None                 # it does not stay in memory while a reply is written
            if answer is None:
                self.load(wanted)
        data = None
        if not isinstance(answer, Answer):      # a function that does what takes time
            answer = answer()
        if answer:
            self.send(answer.data, answer.status, answer.kind)

    def route_of(self, path):
        """The Route of the request; Refused if it does not fit one."""
        route = ROUTES.get(path)
        if route is None and path.startswith("/v1/models/"):
            route = Route("GET", Handler.model)
        if route is None:
            raise Refused(404, f"{path[:100]}: no such route; there are {', '.join(ROUTES)}")
        if route.method != ("GET" if self.command == "HEAD" else self.command):
            allow = "GET, HEAD, OPTIONS" if route.method == "GET" else "POST, OPTIONS"
            raise Refused(405, f"{path}: {route.method} only", headers={"Allow": allow})
        if route.method == "POST" and self.head.length is None and not self.head.chunked:
            self.close_connection = True
            raise Refused(411, "give the length of the body in Content-Length, or send chunks")
        coding = self.head.fields.get("content-encoding", "")
        if coding.lower() not in ("", "identity"):
            raise Refused(415, f"Content-Encoding: {coding[:60]}: no compressed body is read here",
                          headers={"Accept-Encoding": "identity"})
        return route

    def body(self):
        """The bytes of the request's body."""
        if self.head.expects:
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.head.chunked:
            data = request.chunks_of(self.rfile)
        else:
            data = self.rfile.read(self.head.length or 0)
        if len(data) < (self.head.length or 0):
            raise Refused(400, f"the body ended after {len(data):,} of {self.head.length} bytes")
        self.close_connection = self.head.close
        return data

    def check_access(self, path):
        """Refused for a wrong name of this server, a page of another site, or a wrong key.

        OPTIONS, which browsers send without the key, and the routes in OPEN need no key.
        """
        host, origin = self.head.host, self.head.fields.get("origin")
        here = address_of(self.connection.getsockname()[0])
        # Browsers always send Host. Without it, a probe asks, or a tool that speaks HTTP/1.0.
        if host and not self.server.is_called(request.HOST.fullmatch(host)[1], here):
            raise Refused(
                403,
                f"this server is asked as {self.server.address}, not as {host[:60]!r}; "
                "its other names are given with --allow-host",
            )
        own = f"{origin}".lower() in (f"http://{host}", f"https://{host}")
        if origin and self.command in ("POST", "OPTIONS") and not own and not self.is_named():
            raise Refused(403, f"pages of {origin[:60]!r} may not ask; name them with --origin")
        if not self.has_key() and path not in OPEN and self.command != "OPTIONS":
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

    def health(self, _):
        """Whether the server is up; to clients with the key also what its models are doing."""
        writers = dict(self.server.models.writers)
        failed = [name for name, writer in writers.items() if writer.failed]
        code = 500 if failed else 200
        if not self.has_key():
            return Answer({"status": "failed" if failed else "ok"}, code)
        doing = {}
        for name, writer in writers.items():
            doing[name] = {"writing": len(writer.batch), "waiting": len(writer.waiting)}
        status = f"failed: {', '.join(failed)}" if failed else "ok"
        return Answer({"status": status, "models": doing}, code)

    # ---- models and tokens

    def models(self, _):
        """GET /v1/models"""
        folders = self.server.models.folders
        return Answer({"object": "list", "data": [self.card(*item) for item in folders.items()]})

    def model(self, _):
        """GET /v1/models/NAME"""
        name = self.path.split("?")[0].rstrip("/").removeprefix("/v1/models/")
        name, folders = urllib.parse.unquote(name), self.server.models.folders
        if name not in folders:
            raise self.no_model(name)
        return Answer(self.card(name, folders[name]))

    def no_model(self, name):
        """The refusal of a model that is not there."""
        there = ", ".join(self.server.models.folders)
        return Refused(404, f"the model {name[:60]!r} does not exist; there are {there}",
                       "model", "model_not_found")

    def card(self, name, folder):
        """What OpenAI's API says of a model."""
        made = max((time_ns for *_, time_ns in signature(folder)), default=0)
        return {"id": name, "object": "model", "created": made // 10**9, "owned_by": "longhand"}

    def model_of(self, body, preferred):
        """(name, writer) of the model that a request asks for. Unloaded if it must be loaded."""
        asked = field(body, "model", "", str)
        if len(asked) > LONGEST_NAME:
            most = f"at most {LONGEST_NAME}"
            raise Refused(400, f"model has {len(asked):,} characters, {most}", "model")
        try:
            name = self.server.models.name_of(asked, preferred)
        except KeyError:
            raise self.no_model(asked) from None
        except ValueError as e:
            raise Refused(503, str(e), "model") from None
        writer = self.loaded.get(name) or self.server.models.ready(name)
        if writer is None:
            raise Unloaded(name)
        return name, writer

    def load(self, name):
        """Load a model, or wait until another thread has loaded it."""
        try:
            self.loaded[name] = self.server.models.writer(name)
        except (ValueError, OSError) as e:
            raise Refused(503, str(e), "model") from None

    def tokenize(self, body):
        """POST /tokenize: a text -> its tokens."""
        text = field(body, "content", field(body, "prompt", None, str), str)
        _, writer = self.model_of(body, ASSISTANTS + BASES)
        if text is None:
            raise Refused(400, "content is missing: the text to cut into tokens", "content")
        api.refuse_large(text, "content")
        ids = writer.tokenizer.encode_ordinary(text)
        pieces = [writer.tokenizer.decode([i]) for i in ids]
        return Answer({"tokens": ids, "count": len(ids), "pieces": pieces})

    def detokenize(self, body):
        """POST /detokenize: tokens -> their text."""
        ids = field(body, "tokens", None, list)
        _, writer = self.model_of(body, ASSISTANTS + BASES)
        tokenizer = writer.tokenizer
        if ids is not None and len(ids) > api.LONGEST_TEXT:
            most = f"at most {api.LONGEST_TEXT:,} are read"
            raise Refused(413, f"{len(ids):,} tokens, {most}", "tokens")
        if ids != [] and not api.are_tokens(ids, tokenizer):
            expected = f"a list of numbers below {tokenizer.n_vocab}"
            raise Refused(400, f"tokens is {json.dumps(ids)[:60]}, expected {expected}", "tokens")
        size = sum(len(tokenizer.token_bytes[i]) for i in ids)
        if size > LARGEST_TEXT:
            most = f"at most {LARGEST_TEXT:,} are written"
            raise Refused(413, f"{size:,} bytes of text, {most}", "tokens")
        text = tokenizer.decode(ids)
        return Answer({"content": text, "prompt": text})

    # ---- replies

    def chat(self, body):
        """POST /v1/chat/completions"""
        return self.asked(body, api.Chat, ASSISTANTS + BASES)

    def complete(self, body):
        """POST /v1/completions"""
        return self.asked(body, api.Completion, BASES + ASSISTANTS)

    def asked(self, body, kind, preferred):
        """A function that answers a request for text. It does not keep the body in memory."""
        name, writer = self.model_of(body, preferred)
        asked = kind(body, writer.cfg, writer.tokenizer)
        asked.job.client = self.client
        options = field(body, "stream_options", {}, dict)
        with_usage = options.get("include_usage") is True
        with_ids = field(body, "return_token_ids", False, bool)
        base = {
            "id": f"{kind.prefix}-{uuid.uuid4().hex}",
            "object": kind.part if asked.job.stream else kind.whole,
            "created": int(time.time()),
            "model": name,
            "system_fingerprint": name,
        }
        return functools.partial(self.reply, writer, asked, base, with_usage, with_ids)

    def reply(self, writer, asked, base, with_usage, with_ids):
        """Let a request be written. Returns the Answer, or None if it was sent as a stream.

        asked: an api.Chat or api.Completion; base: the fields that each of its answers has.
        """
        if isinstance(asked, api.Completion):
            asked.read(writer.params, writer.cfg, self.server.looking)
        try:
            if asked.writes:
                writer.submit(asked.job)
            else:
                asked.job.write_nothing()
            if not asked.job.stream:
                return Answer(self.whole(asked, base, with_ids))
            self.stream(asked, base, with_usage, with_ids)
            return None
        except batching.Declined as e:
            status = {"full": 429, "closing": 503, "failed": 500}[e.reason]
            code = "queue_full" if e.reason == "full" else None
            raise Refused(status, str(e), code=code) from None
        finally:
            asked.job.gone = True

    def client_has_gone(self):
        """Whether the client has closed the connection."""
        if hasattr(select, "POLLRDHUP"):        # Linux says so even if there are bytes to read
            poll = select.poll()
            poll.register(self.connection, select.POLLRDHUP)
            return bool(poll.poll(0))
        readable = select.select([self.connection], [], [], 0)[0]
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def events(self, job):
        """What the writer hands over, until every row has ended. ConnectionError if unread."""
        while job.left:
            try:
                event = job.events.get(timeout=GONE)
            except queue.Empty:
                if self.client_has_gone():
                    raise ConnectionResetError("the client has gone") from None
                continue
            if event is None:
                raise job.declined or Refused(500, batching.FAILED)
            job.left -= sum(finish is not None for *_, finish in event.values())
            yield event

    def usage(self, job):
        """How many tokens were read, each prompt once, and written."""
        prompts = {id(prompt): prompt for prompt in job.prompts}
        n_read = sum(map(len, prompts.values()))
        return {
            "prompt_tokens": n_read,
            "completion_tokens": job.tokens,
            "total_tokens": n_read + job.tokens,
        }

    def ids(self, job, i, wanted):
        """The tokens of row i, under the names that vLLM gave them, if they are wanted."""
        if not wanted:
            return {}
        written = job.rows[i].ids if job.rows else []
        return {"prompt_token_ids": job.prompts[i], "token_ids": written}

    def whole(self, asked, base, with_ids):
        """The answer to a request, when all of it is written."""
        n = len(asked.job.prompts)
        texts, entries, finishes = [""] * n, [[] for _ in range(n)], [None] * n
        for event in self.events(asked.job):
            for i, (text, more, finish) in event.items():
                texts[i] += text
                entries[i] += more
                finishes[i] = finish
        choices = []
        for i in range(n):
            choice = asked.choice(i, texts[i], entries[i], finishes[i])
            choices.append(choice | self.ids(asked.job, i, with_ids))
        return {**base, "choices": choices, "usage": self.usage(asked.job)}

    def stream(self, asked, base, with_usage, with_ids):
        """Send the answer to a request as it is written."""
        def event_of(choices, usage=None):
            return {**base, "choices": choices, **({"usage": usage} if with_usage else {})}

        events = self.events(asked.job)
        first = next(events)            # a refusal up to here is still an answer of its own
        self.streaming = True
        self.send_response(200)
        self.headers_for("text/event-stream; charset=utf-8")
        if self.head.minor == 1:
            self.send_header("Transfer-Encoding", "chunked")
        else:                           # without chunks, the end of the connection is its end
            self.close_connection = True
        self.end_headers()
        begun = [asked.begin(i) for i in range(len(asked.job.prompts))]
        values = [event_of([choice]) for choice in begun if choice]
        try:
            for event in itertools.chain([first], events):
                for i, (text, entries, finish) in event.items():
                    grown = asked.chunk(i, text, entries, None)
                    if grown:
                        values.append(event_of([grown]))
                    if finish:
                        last = asked.chunk(i, "", [], finish)
                        values.append(event_of([last | self.ids(asked.job, i, with_ids)]))
                if asked.job.left and values:   # the last events go out together with the end
                    self.send_events(values)
                    values = []
            if with_usage:
                values.append(event_of([], self.usage(asked.job)))
            self.send_events([*values, "[DONE]"], last=True)
        except Refused as e:
            self.send_events([{"error": e.error}], last=True)


class Route(NamedTuple):
    """How a path is answered: its method, and a function of the handler and the body.

    bulk: whether it has much to do. Of these, one runs at a time, and none delays a chat.
    """

    method: str
    answer: Callable
    bulk: bool = False


ROUTES = {
    "/health": Route("GET", Handler.health),
    "/v1/health": Route("GET", Handler.health),
    "/ping": Route("GET", Handler.health),
    "/v1/models": Route("GET", Handler.models),
    "/v1/chat/completions": Route("POST", Handler.chat),
    "/v1/completions": Route("POST", Handler.complete),
    "/tokenize": Route("POST", Handler.tokenize, bulk=True),
    "/detokenize": Route("POST", Handler.detokenize, bulk=True),
    "/": Route("GET", page.page),
    "/api/about": Route("GET", page.about),
    "/api/report": Route("GET", page.report, bulk=True),
    "/api/arena": Route("GET", page.ranking, bulk=True),
    "/api/log": Route("GET", page.log_of, bulk=True),
    "/api/look": Route("POST", page.look, bulk=True),
    "/api/cut": Route("POST", page.cut, bulk=True),
}
# Open without a key: the page, which then asks for one, and the routes of probes.
OPEN = {"/", "/health", "/v1/health", "/ping"}
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")


class Server(http.server.ThreadingHTTPServer):
    """The server of some Models.

    handlers  one for each connection
    keys      what a client may send: the key, in each encoding that clients use
    writing, bulk, looking   locks: of chats that are parsed, of routes with much to do, and of
              work that holds all logits of a text
    """

    daemon_threads = False              # a reply that was begun is finished before the server ends
    request_queue_size = 128

    def __init__(self, models, host="127.0.0.1", port=8000, key=None, origin=None, allow_host=()):
        self.keys = keys_of(key)
        self.models, self.origin = models, checked_origin(origin)
        self.closing, self.handlers = False, set()
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
            raise ValueError(
                f"port {port} of {host} is taken by another program; "
                "choose another with --port, or any free one with --port 0"
            ) from None
        self.address = f"{'[' + host + ']' if ':' in host else host}:{self.server_address[1]}"

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
        client = client_of(client_address)
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
        try:
            end = b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            request.sendall(b"HTTP/1.1 " + status + end)
        except OSError:                 # it has gone already
            pass
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
        self.server_close()             # waits for the threads of the connections
        self.models.close()


def keys_of(key):
    """The bytes that a client may send for --key; [] for None. ValueError if none can be sent."""
    if key is None:
        return []
    if not key.strip() or key != key.strip() or not key.isprintable():
        raise ValueError(
            "--key is empty, or has blanks around it or control characters, which no client can "
            "send; leave it out, or give a key, such as: "
            '--key "$(openssl rand -hex 16)"'
        )
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
        raise ValueError(
            f"--origin {origin!r}: expected * or the origin of a page, "
            "such as http://localhost:3000"
        )
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
    args = p.parse_args(argv)
    models.check_options(args)
    return args


def main(argv=None):
    """Serve until SIGINT or SIGTERM; then finish what was begun."""
    args = parse_args(argv)
    if not 0 <= args.port <= 65535:
        raise ValueError(f"--port {args.port}: ports are 0 to 65535")
    if args.model is None and not Path(args.run).is_dir():
        raise FileNotFoundError(f"{args.run}: no such run folder; make the demo's with: make")
    gpu, upload = device.chosen(args), None
    if gpu:
        upload = functools.partial(device.upload, bf16=gpu.bf16)
    served = Models(args.run, args.model, args.ranks, upload)
    server = Server(served, args.host, args.port, args.key, args.origin, args.allow_host)
    served.writer(served.name_of(None, ASSISTANTS + BASES))
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    loop = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
    )
    loop.start()
    print(
        f"serving {', '.join(served.folders)} at http://{server.address}; "
        f"for clients http://{server.address}/v1; Ctrl-C ends it",
        flush=True,
    )
    ended.wait()
    print("finishing what was begun", flush=True)
    server.close()


if __name__ == "__main__":
    command.run(main)
