"""serve.py: the models of a run over HTTP, for the clients that speak OpenAI's language, and the page that looks inside.

A thread for each connection reads requests, makes a job of each and passes on what batching.py writes for it.

    python sample.py serve                           http://127.0.0.1:8000, the page; http://127.0.0.1:8000/v1 for clients
    curl http://127.0.0.1:8000/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Who are you?"}]}'

GET /v1/models, /health; POST /v1/chat/completions, /v1/completions, /tokenize, /detokenize. The page (chat.html) asks for more:
/api/about, report, arena, log, look and cut. The name of a stage of the run as model picks it; any other name is the best assistant,
or for completions the base model. Fields that are not known are ignored, as clients expect.

Source: OpenAI's API reference.
"""

import base64
import codecs
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

import sample                   # before numpy
import batching
import bpe
import device
import gpt
import inside
import numpy as np
import vocabularies

LARGEST_BODY = 1 << 20          # bytes
CONNECTIONS = 256
ASSISTANTS, BASES = ("rl", "sft"), ("base",)


class Refused(Exception):
    """What a client is told: an HTTP status and OpenAI's error object."""

    def __init__(self, status, message, param=None, code=None):
        super().__init__(message)
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.status, self.error = status, {"message": message, "type": kind, "param": param, "code": code}


# --------------------------------------------------------------------------------------- requests and answers


def field(body, name, default, kinds, low=None, high=None):
    """A field of a request, the default where it is absent or null; Refused where it is not what it must be."""
    value = body.get(name)
    if value is None:
        return default
    ok = isinstance(value, kinds) and not (isinstance(value, bool) and kinds is not bool)
    if not ok or low is not None and not low <= value <= high:
        expected = {bool: "true or false", int: "a whole number", str: "a text", dict: "an object", list: "a list"}.get(kinds, "a number")
        raise Refused(400, f"{name} is {json.dumps(value)[:60]}, expected {expected}" + (f" from {low} to {high}" if low is not None else ""), name)
    return value


NUMBER = (int, float)


def as_json(value):
    """Text that is no Unicode (half a surrogate pair, from a request) is shown as question marks."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()


def settings_of(body, cfg, tokenizer, room, alternatives, stop_tokens):
    """(Settings, stop strings) of a request."""
    most = field(body, "max_completion_tokens", field(body, "max_tokens", None, int, 1, 1 << 31), int, 1, 1 << 31)
    stop = body.get("stop")
    stop = [stop] if isinstance(stop, str) else field(body, "stop", [], list)
    if len(stop) > 4 or not all(isinstance(s, str) and s for s in stop):
        raise Refused(400, f"stop is {json.dumps(stop)[:60]}, expected a text or up to four", "stop")
    bias = []
    for token, value in field(body, "logit_bias", {}, dict).items():
        if not (token.isdecimal() and int(token) < tokenizer.n_vocab and isinstance(value, NUMBER) and -100 <= value <= 100):
            raise Refused(400, f"logit_bias has {token[:20]!r}: {json.dumps(value)[:20]}, expected the number of a token and one from -100 to 100", "logit_bias")
        bias.append((int(token), 1e9 * value if abs(value) == 100 else float(value)))       # so it is banned, or nothing else is said
    format = field(body, "response_format", {"type": "text"}, dict)
    if format.get("type") != "text":
        raise Refused(400, f"response_format {json.dumps(format)[:60]}: only text is written here", "response_format")
    seed = field(body, "seed", None, int, -(1 << 63), (1 << 64) - 1)
    return sample.Settings(
        max_new_tokens=min(room, most or room), temperature=field(body, "temperature", 1.0, NUMBER, 0, 2), top_p=max(1e-9, field(body, "top_p", 1.0, NUMBER, 0, 1)),
        top_k=max(0, field(body, "top_k", 0, int, -1, 1 << 31)), min_p=field(body, "min_p", 0.0, NUMBER, 0, 1),
        repetition_penalty=max(1e-3, field(body, "repetition_penalty", field(body, "repeat_penalty", 1.0, NUMBER, 0, 10), NUMBER, 0, 10)),
        presence_penalty=field(body, "presence_penalty", 0.0, NUMBER, -2, 2), frequency_penalty=field(body, "frequency_penalty", 0.0, NUMBER, -2, 2),
        logit_bias=tuple(bias), seed=uuid.uuid4().int >> 65 if seed is None else seed % (1 << 64), alternatives=alternatives, stop=frozenset(stop_tokens)), stop


def messages_of(body):
    """The messages of a chat request as sample.render reads them."""
    messages = field(body, "messages", None, list)
    if not messages:
        raise Refused(400, "messages is missing or empty", "messages")
    out = []
    for i, m in enumerate(messages):
        if not isinstance(m, dict):
            raise Refused(400, f"messages[{i}] is {json.dumps(m)[:40]}, expected an object", "messages")
        content = m.get("content")
        if isinstance(content, list):                       # what the calculator was asked and said may come back as parts of its own
            known = ("text", "tool", "output") if m.get("role") == "assistant" else ("text",)
            if not all(isinstance(p, dict) and p.get("type") in known and isinstance(p.get("text"), str) for p in content):
                raise Refused(400, f"messages[{i}] has a part that is no text; this model reads text alone", "messages")
            if all(p["type"] == "text" for p in content):
                content = "".join(p["text"] for p in content)
        if m.get("role") == "tool" or m.get("tool_calls"):
            raise Refused(400, f"messages[{i}]: the model has a calculator of its own and calls no tools of clients", "messages")
        if content == "" and m.get("role") == "assistant":
            content = [{"type": "text", "text": ""}]        # it may have said nothing
        out.append({"role": "system" if m.get("role") == "developer" else m.get("role"), "content": content})
    return out


def are_tokens(ids, tokenizer):
    return isinstance(ids, list) and bool(ids) and all(type(i) is int and 0 <= i < tokenizer.n_vocab for i in ids)


def spelled(tokenizer, i, mark=""):
    """A token's text; of one that is no whole character its bytes, behind a mark, so that different ones look different."""
    try:
        return tokenizer.token_bytes[i].decode("utf-8")
    except UnicodeDecodeError:
        return mark + "".join(f"\\x{b:02x}" for b in tokenizer.token_bytes[i])


def chat_entry(tokenizer, entry):
    """One token of logprobs.content."""
    token, logp, best = entry
    def one(i, x):
        return {"token": inside.piece(tokenizer, i), "logprob": max(x, -9999.0), "bytes": list(tokenizer.token_bytes[i])}
    return {**one(token, logp), "top_logprobs": [one(i, x) for i, x in best]}


class Chat:
    """POST /v1/chat/completions."""

    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, body, cfg, tokenizer):
        self.tokenizer = tokenizer
        self.logprobs = field(body, "logprobs", False, bool)
        top = field(body, "top_logprobs", 0, int, 0, 20)
        if top and not self.logprobs:
            raise Refused(400, "top_logprobs needs logprobs to be true", "top_logprobs")
        try:
            prompt = sample.render_prompt(messages_of(body), tokenizer)
        except ValueError as e:
            raise Refused(400, str(e), "messages") from None
        room = room_for(prompt, cfg)
        settings, stop = settings_of(body, cfg, tokenizer, room, top if self.logprobs else -1, [sample.special(tokenizer, "<|im_end|>")])
        self.job = batching.Job([prompt] * field(body, "n", 1, int, 1, batching.PLACES), settings, stop, field(body, "show_calls", False, bool),
                                field(body, "stream", False, bool))

    def choice(self, i, text, entries, finish):
        content = [chat_entry(self.tokenizer, e) for e in entries]
        return {"index": i, "message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": {"content": content, "refusal": None} if self.logprobs else None,
                "finish_reason": finish}

    def begin(self, i):
        return {"index": i, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def chunk(self, i, text, entries, finish):
        logprobs = {"content": [chat_entry(self.tokenizer, e) for e in entries], "refusal": None} if entries else None
        return {"index": i, "delta": {"content": text} if text or entries else {}, "logprobs": logprobs, "finish_reason": finish}


class Completion:
    """POST /v1/completions."""

    prefix = "cmpl"
    whole = part = "text_completion"

    def __init__(self, body, cfg, tokenizer):
        self.tokenizer, prompt = tokenizer, "" if body.get("prompt") is None else body["prompt"]
        self.logprobs = field(body, "logprobs", None, int, 0, 5)
        many = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
        ids, between = [], sample.document_begin(tokenizer)
        for p in many:
            if isinstance(p, str):                          # a document begins behind the token that ends the one before
                p = [*between, *tokenizer.encode_ordinary(p)]
            elif not are_tokens(p, tokenizer):
                raise Refused(400, f"prompt is {json.dumps(p)[:60]}, expected a text, a list of tokens, or a list of these", "prompt")
            if not p:
                raise Refused(400, "prompt is empty, and this vocabulary has no token with which a document begins", "prompt")
            ids.append(p)
        n = field(body, "n", 1, int, 1, batching.PLACES)
        if n * len(ids) > batching.PLACES:
            raise Refused(400, f"{len(ids)} prompts with n = {n}: at most {batching.PLACES} texts are written for a request", "n")
        if body.get("suffix"):
            raise Refused(400, "suffix: this model only goes on from where a text ends", "suffix")
        room = min(room_for(p, cfg) for p in ids)
        settings, stop = settings_of({**body, "max_tokens": 16 if body.get("max_tokens") is None else body["max_tokens"]}, cfg, tokenizer, room, -1 if self.logprobs is None else self.logprobs, between)
        self.job = batching.Job([p for p in ids for _ in range(n)], settings, stop, stream=field(body, "stream", False, bool))
        self.echo = [tokenizer.decode([i for i in p if i not in between]) if field(body, "echo", False, bool) else "" for p in self.job.prompts]
        self.begun, self.at, self.decoders = between, [0] * len(self.echo), [codecs.getincrementaldecoder("utf-8")("replace") for _ in self.echo]
        self.echoed = [[] for _ in self.echo]               # an entry for each token of a prompt, where they are asked for

    def read(self, params, cfg):
        """With echo and logprobs the prompt's tokens have theirs too; the first has none, unless something stood before it."""
        if self.logprobs is None or not any(self.echo):
            return
        for i, prompt in enumerate(self.job.prompts):
            if i and prompt is self.job.prompts[i - 1]:     # n texts of one prompt stand beside each other
                self.echoed[i] = self.echoed[i - 1]
                continue
            logits = gpt.forward(params, cfg, np.array([prompt]))[0][0]
            logits[:, self.tokenizer.holes] = -np.inf
            logits = logits[:, :self.tokenizer.n_vocab]
            self.echoed[i] = [(token, *(sample.likely(logits[t - 1], token, self.logprobs) if t else (None, [])))
                              for t, token in enumerate(prompt) if token not in self.begun]

    def entries(self, i, entries):
        if self.logprobs is None:
            return None
        out = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, logp, best in entries:
            name, others = spelled(self.tokenizer, token, "bytes:"), {spelled(self.tokenizer, j, "bytes:"): x for j, x in best}
            for key, value in zip(out, (name, logp if logp is None else max(logp, -9999.0), others, self.at[i])):
                out[key].append(value)
            self.at[i] += len(self.decoders[i].decode(self.tokenizer.token_bytes[token]))
        return out

    def choice(self, i, text, entries, finish):
        return {"index": i, "text": self.echo[i] + text, "logprobs": self.entries(i, self.echoed[i] + entries), "finish_reason": finish}

    def begin(self, i):
        return {"index": i, "text": self.echo[i], "logprobs": self.entries(i, self.echoed[i]), "finish_reason": None} if self.echo[i] else None

    def chunk(self, i, text, entries, finish):
        return {"index": i, "text": text, "logprobs": self.entries(i, entries), "finish_reason": finish}


def room_for(prompt, cfg):
    room = cfg.n_positions - len(prompt)
    if room < 1:
        raise Refused(400, f"{len(prompt)} tokens and a reply do not fit the model's context of {cfg.n_positions}; shorten the conversation", "messages", "context_length_exceeded")
    return room


# ------------------------------------------------------------------------------------------------ the models


class Models:
    """The models of a run, or one folder: each is loaded when it is first asked for, and has a writer of its own."""

    def __init__(self, run=None, folder=None, ranks=None, upload=None):
        self.run, self.ranks, self.vocabularies, self.upload = Path(run) if run and not folder else None, ranks, {}, upload
        self.folders = {p.name: p for p in ([Path(folder)] if folder else sample.models_in(run))}
        if not self.folders:
            raise FileNotFoundError(f"{run}: no model in it yet; make the demo's with: make")
        self.writers, self.lock = {}, threading.Lock()

    def name_of(self, asked, preferred):
        if asked in self.folders:
            return asked
        return next((name for name in preferred if name in self.folders), next(iter(self.folders)))

    def writer(self, name):
        with self.lock:
            if name not in self.writers:
                writer = batching.Writer(sample.load_model(self.folders[name]), upload=self.upload)
                writer.start()
                self.writers[name] = writer
            return self.writers[name]

    def has_vocabulary(self, name):
        try:
            return bool(vocabularies.find(name, self.ranks))
        except OSError:
            return False

    def vocabulary(self, name):
        """The tokenizer of a model, or a published one."""
        if name in self.folders:
            return self.writer(name).tokenizer
        if name not in self.vocabularies:
            self.vocabularies[name] = bpe.Tokenizer.load(vocabularies.find(name, self.ranks))
        return self.vocabularies[name]

    def close(self):
        for writer in self.writers.values():
            writer.close()
        for writer in self.writers.values():
            writer.join()


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection. server has models, key, origin and closing."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "Longhand", ""
    timeout = 30                                            # seconds of silence after which a connection is closed

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.since = time.monotonic()                       # when the request that is being read, or waited for, may have begun
        self.server.handlers.add(self)

    def finish(self):
        """A client that is still sending hears no answer once the connection is closed; so what it sends is read for a moment more."""
        until = time.monotonic() + 2
        try:
            super().finish()
            self.connection.settimeout(1)
            self.connection.shutdown(socket.SHUT_WR)
            while self.connection.recv(1 << 16) and time.monotonic() < until:
                pass
        except OSError:
            pass
        self.server.handlers.discard(self)

    def end(self, how):
        try:
            self.connection.shutdown(how)
        except OSError:                                     # it has ended
            pass

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        self.since = time.monotonic()
        if self.server.closing:
            self.close_connection = True

    def parse_request(self):
        self.since = time.monotonic()
        return super().parse_request()

    # ---- answers

    def send_error(self, status, message=None, explain=None):
        """What the standard library finds wrong with a request, said as everything here is."""
        self.close_connection, self.request_version = True, self.protocol_version      # also where it could not be made out
        self.send(status, {"error": Refused(int(status), message or "the request is not HTTP as it is spoken here").error})

    def send(self, status, body, kind="application/json"):
        data = body if isinstance(body, bytes) else as_json(body).encode()
        self.send_response(status)
        self.headers_for(kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def headers_for(self, kind):
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.server.origin:
            self.send_header("Access-Control-Allow-Origin", self.server.origin)
            self.send_header("Access-Control-Allow-Headers", "Authorization, Content-Type")

    def send_events(self, values, last=b""):
        data = "".join(f"data: {v if isinstance(v, str) else as_json(v)}\n\n" for v in values).encode()
        self.wfile.write(b"%x\r\n%s\r\n%s" % (len(data), data, last))

    # ---- requests

    def do_OPTIONS(self):
        self.send_response(204)
        self.headers_for("text/plain")
        self.send_header("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        self.answer("GET")

    do_HEAD = do_GET

    def do_POST(self):
        self.answer("POST")

    def answer(self, method):
        self.streaming = False
        try:
            body = self.body() if method == "POST" else {}
            self.since = None                               # it was read in time
            path = self.path.split("?")[0].rstrip("/") or "/"
            found = ROUTES.get(path) or ("GET", "model") * path.startswith("/v1/models/")
            if not found:
                raise Refused(404, f"{path[:100]}: no such route; there are {', '.join(ROUTES)}")
            if found[0] != method:
                raise Refused(405, f"{path}: {found[0]} only")
            self.allowed(path)
            getattr(self, found[1])(body)
        except Refused as e:
            self.send(e.status, {"error": e.error})
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as e:
            print(f"serve.py: {method} {self.path[:100]}: {type(e).__name__}: {e}", file=sys.stderr)
            self.close_connection = True
            if not self.streaming:
                self.send(500, {"error": Refused(500, f"{type(e).__name__}: {e}").error})

    def body(self):
        """The JSON object of a request; whatever is wrong with it, its bytes are read or the connection is closed."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not length.isdecimal():
            self.close_connection = True
            raise Refused(411, "give the length of the body in Content-Length")
        if len(length) > 9 or int(length) > LARGEST_BODY:
            self.close_connection = True
            raise Refused(413, f"a body of {length[:20]} bytes, at most {LARGEST_BODY:,} are read")
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise Refused(400, f"the body ended after {len(data):,} of {length} bytes")
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as e:
            raise Refused(400, f"the body is not JSON: {str(e)[:100]}") from None
        if not isinstance(body, dict):
            raise Refused(400, "the body is no JSON object")
        return body

    def allowed(self, path):
        host, origin = self.headers.get("Host", "").lower(), self.headers.get("Origin")
        if self.server.loopback and not re.fullmatch(r"(127\.0\.0\.1|localhost\.?|\[::1\])(:\d+)?", host):      # another site's name for this machine
            raise Refused(403, f"this server is asked as {self.server.address}, not as {host[:60]!r}")
        if origin and self.command == "POST" and self.server.origin not in ("*", origin) and origin.lower().partition("://")[2] != host:
            raise Refused(403, f"pages of {origin[:60]!r} may not ask; name them with --origin")
        if self.server.key and path != "/":                 # the page asks for the key and sends it
            given = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.server.key.encode()):
                raise Refused(401, "the key is missing or wrong; send it as Authorization: Bearer KEY", code="invalid_api_key")

    def health(self, _):
        failed = [name for name, w in self.server.models.writers.items() if w.failed]
        self.send(500 if failed else 200, {"status": f"failed: {', '.join(failed)}" if failed else "ok", "models": {name: {"writing": len(w.batch), "waiting": len(w.waiting)} for name, w in self.server.models.writers.items()}})

    def models(self, _):
        self.send(200, {"object": "list", "data": [self.card(name) for name in self.server.models.folders]})

    def model(self, _):
        name = urllib.parse.unquote(self.path.split("?")[0].rstrip("/").removeprefix("/v1/models/"))
        if name not in self.server.models.folders:
            raise Refused(404, f"{name[:60]!r}: no such model; there are {', '.join(self.server.models.folders)}", "model", "model_not_found")
        self.send(200, self.card(name))

    def card(self, name):
        return {"id": name, "object": "model", "created": int((self.server.models.folders[name] / "model.safetensors").stat().st_mtime), "owned_by": "longhand"}

    def model_of(self, body, preferred):
        """(the name of the model that a request asks for, its writer)."""
        models = self.server.models
        name = models.name_of(field(body, "model", "", str), preferred)
        return name, models.writer(name)

    def tokenize(self, body):
        text, tokenizer = field(body, "content", field(body, "prompt", None, str), str), self.model_of(body, ASSISTANTS + BASES)[1].tokenizer
        if text is None:
            raise Refused(400, "content is missing: the text to cut into tokens", "content")
        ids = tokenizer.encode_ordinary(text)
        self.send(200, {"tokens": ids, "count": len(ids), "pieces": [inside.piece(tokenizer, i) for i in ids]})

    def detokenize(self, body):
        ids, tokenizer = field(body, "tokens", None, list), self.model_of(body, ASSISTANTS + BASES)[1].tokenizer
        if ids != [] and not are_tokens(ids, tokenizer):
            raise Refused(400, f"tokens is {json.dumps(ids)[:60]}, expected a list of numbers below {tokenizer.n_vocab}", "tokens")
        text = tokenizer.decode(ids)
        self.send(200, {"content": text, "prompt": text})

    # ---- what the page shows

    def page(self, _):
        self.send(200, (Path(__file__).parent / "chat.html").read_bytes(), "text/html; charset=utf-8")

    def query(self):
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))

    def about(self, _):
        """What there is to see of the run."""
        models = self.server.models
        run = models.run
        logs = [p.parent.name for p in sorted(run.glob("*/log.jsonl"), key=lambda p: p.stat().st_mtime)] if run else []
        known = [name for name in vocabularies.PUBLISHED if models.has_vocabulary(name)]
        self.send(200, {"models": list(models.folders), "assistant": models.name_of(None, ASSISTANTS + BASES), "base": models.name_of(None, BASES + ASSISTANTS), "logs": logs,
                        "report": bool(run and (run / "docs" / "report.json").exists()), "arena": bool(run and (run / "arena.json").exists()), "vocabularies": known})

    def run_file(self, *parts):
        run = self.server.models.run
        if not run or not run.joinpath(*parts).exists():
            raise Refused(404, f"{'/'.join(parts)}: the run has none yet")
        return run.joinpath(*parts)

    def report(self, _):
        self.send(200, self.run_file("docs", "report.json").read_bytes())

    def ranking(self, _):
        self.send(200, self.run_file("arena.json").read_bytes())

    def log_of(self, _):
        """The lines of a stage's log from a byte on, as columns; of very many only every so manieth."""
        query = self.query()
        run = self.server.models.run
        if not run or query.get("stage") not in [p.parent.name for p in run.glob("*/log.jsonl")]:
            raise Refused(404, f"{query.get('stage', '')[:40]!r}: no stage of the run with a log", "stage")
        path, after = self.run_file(query["stage"], "log.jsonl"), int(query["after"]) if query.get("after", "").isdecimal() and len(query["after"]) < 16 else 0
        with open(path, "rb") as f:
            size = f.seek(0, 2)
            f.seek(min(max(after - 1, 0), size))
            if after and f.read(1) != b"\n":                # begun anew
                after = f.seek(0)
            data = f.read()
        data = data[:data.rfind(b"\n") + 1]                 # what is not written to its end comes next time
        lines = data.splitlines()
        every = -(-len(lines) // 4000)
        columns = {}
        shown = [line for i, line in enumerate(lines) if i % every == 0 or i + 1 == len(lines) or b'"val_' in line]      # evaluations are few
        for n, line in enumerate(shown):
            try:
                row = json.loads(line, parse_constant=lambda _: None)       # NaN is none of JSON's
                row = row if isinstance(row, dict) else {}
            except ValueError:
                row = {}
            for key, value in row.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool) or value is None:
                    columns.setdefault(key, [None] * n).append(value)
            for column in columns.values():
                column += [None] * (n + 1 - len(column))
        self.send(200, {"stage": query["stage"], "next": after + len(data), "lines": len(lines), "columns": columns})

    def look(self, body):
        """inside.describe of a text, of tokens, or of a conversation; with layer and head their attention as bytes of 255ths."""
        name, writer = self.model_of(body, BASES + ASSISTANTS)
        model = writer.params, writer.cfg, writer.tokenizer
        ids = field(body, "tokens", None, list)
        if ids is None and body.get("messages") is not None:
            try:
                ids = sample.render_prompt(messages_of(body), writer.tokenizer)
            except ValueError as e:
                raise Refused(400, str(e), "messages") from None
        elif ids is None:
            ids = [*sample.document_begin(writer.tokenizer), *writer.tokenizer.encode_ordinary(field(body, "text", "", str))]
        if not are_tokens(ids, writer.tokenizer):
            raise Refused(400, "tokens must be numbers of tokens, and at least one", "tokens")
        if len(ids) > writer.cfg.n_positions:
            raise Refused(400, f"{len(ids)} tokens, the model's context is {writer.cfg.n_positions}", "text", "context_length_exceeded")
        layer, head = (field(body, key, None, int, 0, most - 1) for key, most in (("layer", writer.cfg.n_layer), ("head", writer.cfg.n_head)))
        if layer is not None and head is not None:
            with self.server.looking:
                seen, _ = inside.look(*model[:2], ids)
            self.send(200, {"size": len(ids), "attention": base64.b64encode(np.round(seen[layer, head] * 255).astype(np.uint8).tobytes()).decode()})
            return
        settings, _ = settings_of(body, writer.cfg, writer.tokenizer, 1, -1, ())
        with self.server.looking:                           # all logits of all layers, so one at a time
            found = inside.describe(model, ids, field(body, "n", 12, int, 1, 50), settings.temperature, settings.top_k, settings.top_p, settings.min_p)
        self.send(200, {"model": name, **found})

    def cut(self, body):
        """A text in the pieces of a vocabulary: {"ids", "pieces"}; a piece that is no whole character shows its bytes."""
        name, text = field(body, "vocabulary", "", str), field(body, "text", "", str)
        models = self.server.models
        if name not in models.folders and name not in vocabularies.PUBLISHED:
            raise Refused(404, f"{name[:40]!r}: no vocabulary of that name", "vocabulary")
        try:
            tokenizer = models.vocabulary(name)
        except OSError as e:
            raise Refused(404, f"{name}: {e}", "vocabulary") from None
        ids = tokenizer.encode_ordinary(text)
        self.send(200, {"vocabulary": name, "size": tokenizer.n_vocab, "ids": ids, "pieces": [spelled(tokenizer, i) for i in ids]})

    def chat(self, body):
        return self.write(body, Chat, ASSISTANTS + BASES)

    def complete(self, body):
        return self.write(body, Completion, BASES + ASSISTANTS)

    def write(self, body, kind, preferred):
        name, writer = self.model_of(body, preferred)
        request = kind(body, writer.cfg, writer.tokenizer)
        options, with_ids = field(body, "stream_options", {}, dict), field(body, "return_token_ids", False, bool)
        base = {"id": f"{kind.prefix}-{uuid.uuid4().hex}", "object": kind.part if request.job.stream else kind.whole, "created": int(time.time()),
                "model": body.get("model") or name, "system_fingerprint": name}
        if kind is Completion:
            with self.server.looking:
                request.read(writer.params, writer.cfg)
        try:
            writer.submit(request.job)
        except batching.Declined as e:
            raise Refused({"full": 429, "closing": 503, "failed": 500}[e.reason], str(e), code="queue_full" if e.reason == "full" else None) from None
        try:
            if request.job.stream:
                self.stream(request, base, options.get("include_usage") is True, with_ids)
            else:
                self.send(200, self.whole(request, base, with_ids))
        finally:
            request.job.gone = True

    def events(self, job):
        """What the writer hands over, until every row has ended. ConnectionError when the client has gone."""
        while job.left:
            try:
                event = job.events.get(timeout=0.5)
            except queue.Empty:
                if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                    raise ConnectionResetError("the client has gone") from None
                continue
            if event is None:
                raise Refused(500, batching.FAILED)
            job.left -= sum(finish is not None for *_, finish in event.values())
            yield event

    def usage(self, job):
        prompt = sum(len(p) for p in {id(p): p for p in job.prompts}.values())
        return {"prompt_tokens": prompt, "completion_tokens": job.tokens, "total_tokens": prompt + job.tokens}

    def ids(self, job, i, wanted):                          # names that vLLM gave them
        return {"prompt_token_ids": job.prompts[i], "token_ids": job.rows[i].ids} if wanted else {}

    def whole(self, request, base, with_ids):
        texts, entries, ends = [[] for _ in request.job.prompts], [[] for _ in request.job.prompts], {}
        for event in self.events(request.job):
            for i, (text, more, finish) in event.items():
                texts[i].append(text)
                entries[i] += more
                ends[i] = finish
        choices = [request.choice(i, "".join(texts[i]), entries[i], ends[i]) for i in range(len(texts))]
        return {**base, "choices": [choice | self.ids(request.job, i, with_ids) for i, choice in enumerate(choices)], "usage": self.usage(request.job)}

    def stream(self, request, base, include_usage, with_ids):
        def event_of(choices, usage=None):
            return {**base, "choices": choices, **({"usage": usage} if include_usage else {})}

        events = self.events(request.job)
        first = next(events)                                # what is refused now is still an answer of its own
        self.streaming = True
        self.send_response(200)
        self.headers_for("text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        values = [event_of([begun]) for i in range(len(request.job.prompts)) if (begun := request.begin(i))]
        try:
            for event in itertools.chain([first], events):
                for i, (text, entries, finish) in event.items():
                    if text or entries:
                        values.append(event_of([request.chunk(i, text, entries, None)]))
                    if finish:
                        values.append(event_of([request.chunk(i, "", [], finish) | self.ids(request.job, i, with_ids)]))
                if request.job.left:                        # the last of them goes out with what ends the stream
                    self.send_events(values)
                    values = []
            usage = [event_of([], self.usage(request.job))] if include_usage else []
            self.send_events([*values, *usage, "[DONE]"], b"0\r\n\r\n")
        except Refused as e:
            self.send_events([{"error": e.error}], b"0\r\n\r\n")


ROUTES = {"/health": ("GET", "health"), "/v1/models": ("GET", "models"), "/v1/chat/completions": ("POST", "chat"), "/v1/completions": ("POST", "complete"),
          "/tokenize": ("POST", "tokenize"), "/detokenize": ("POST", "detokenize"),
          "/": ("GET", "page"), "/api/about": ("GET", "about"), "/api/report": ("GET", "report"), "/api/arena": ("GET", "ranking"), "/api/log": ("GET", "log_of"),
          "/api/look": ("POST", "look"), "/api/cut": ("POST", "cut")}


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False                                  # a reply begun is finished before the server is gone
    request_queue_size = 128

    def __init__(self, models, host="127.0.0.1", port=8000, key=None, origin=None):
        self.models, self.key, self.origin, self.closing, self.handlers, self.looking = models, key, origin, False, set(), threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)
        self.loopback = host in ("127.0.0.1", "localhost", "::1")
        self.address = f"{'[' + host + ']' if ':' in host else host}:{self.server_address[1]}"

    def handle_error(self, request, client_address):        # a client that went away at a bad moment is no error of ours
        kind, e, _ = sys.exc_info()
        if not issubclass(kind, (ConnectionError, TimeoutError)):
            print(f"serve.py: {kind.__name__}: {e}", file=sys.stderr)

    def verify_request(self, request, client_address):
        if len(self.handlers) < CONNECTIONS:
            return True
        request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return False

    def service_actions(self):
        """Every now and then: who has not sent the whole of a request in time, however busily, is cut off."""
        for handler in list(self.handlers):
            if handler.since is not None and time.monotonic() - handler.since > Handler.timeout:
                handler.end(socket.SHUT_RDWR)

    def close(self):
        """Finish what was begun, and be gone. To be called while serve_forever runs, in another thread."""
        self.closing = True
        self.shutdown()
        for handler in list(self.handlers):
            if handler.since is not None:
                handler.end(socket.SHUT_RD)
        self.server_close()                                 # waits for the connections' threads
        self.models.close()


def run(args):
    """sample.py serve: until SIGINT or SIGTERM; then what was begun is finished."""
    if args.model is None and not Path(args.run).is_dir():
        raise FileNotFoundError(f"{args.run}: no such run folder; make the demo's with: make")
    gpu = device.chosen(args)
    models = Models(args.run, args.model, args.ranks, functools.partial(device.upload, bf16=gpu.bf16) if gpu else None)
    server = Server(models, args.host, args.port, args.key, args.origin)
    models.writer(models.name_of(None, ASSISTANTS + BASES))
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    print(f"serving {', '.join(models.folders)} at http://{server.address}; for clients http://{server.address}/v1; Ctrl-C ends it", flush=True)
    ended.wait()
    print("finishing what was begun", flush=True)
    server.close()
