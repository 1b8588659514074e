"""serve.py: the models of a run over HTTP, for the clients that speak OpenAI's language, and the page that looks inside.

A thread for each connection reads requests, makes a job of each and passes on what chat/batching.py writes for it.

    python sample.py serve                           http://127.0.0.1:8000, the page; http://127.0.0.1:8000/v1 for clients
    curl http://127.0.0.1:8000/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Who are you?"}]}'

GET /v1/models, /health; POST /v1/chat/completions, /v1/completions, /tokenize, /detokenize. /health
needs no key, and is /v1/health and /ping too. The page (chat/page.html) asks for more: /api/about, report,
arena, log, look and cut.

model is the name of a stage of the run. Without one the best assistant answers, or for completions the
base model. A name that is not there is 404.

A field that would change the answer and has no effect here is refused by its name (UNHEEDED), as tools
or response_format. These change nothing here and are ignored: user, metadata, store, service_tier,
safety_identifier, prompt_cache_key, prediction, parallel_tool_calls, reasoning_effort, verbosity,
cache_prompt, chat_template_kwargs, the name in a message, and any field that is not known here.

logprobs has one entry for each token of the reply, so as many as completion_tokens says: special tokens,
the one that ends the reply, those of a call of the calculator and parts of characters have theirs.
They are log probabilities at temperature 1, before penalties and logit_bias.

One client can hold so much and no more:

    what                                  at most                            and beyond that
    ------------------------------------------------------------------------------------------------
    line of a head                        8,192 bytes                        414 the first, 431 another
    head                                  100 fields, 32,768 bytes           431
    body                                  1,048,576 bytes, 65,536 chunks     413
    size of a chunk, with extensions      256 bytes                          400
    time for a request to arrive          30 s                               closed
    silence between requests              30 s                               closed
    connections                           256; 128 from one address          the longest waiting is closed;
                                                                             503, 429 where all are busy
    answer that nobody reads              30 s, 1 s more for 32,768 bytes    closed
    all such answers together             64 MiB                             the longest waiting is closed
    requests that wait for a place        64 for each model (chat/batching.py)    429; who has most gives way
    requests being parsed at a time       4 chats; 1 that cuts or shows much the others wait
    JSON within JSON                      32 levels                          400
    characters in prompt or messages      context * longest token            400, before they are encoded
    messages and parts                    context                            400
    prompts * n                           32                                 400
    max_tokens                            context                            less is written
    stop                                  4 strings of 256 characters        400
    logit_bias                            each token once                    the last of two counts
    log probabilities of an answer        65,536                             400
    model                                 256 characters                     400
    /tokenize, /detokenize, /api/cut      100,000 bytes or tokens            413
    text from /detokenize                 1,048,576 bytes                    413
    numbers inside, /api/look             134,217,728                        400

After a refusal the connection is closed, unless all of the request has been read. Requests are
read as RFC 9112 says and no more leniently, so that a proxy in front never sees two where we see
one: lines end in CRLF, there is no blank before a colon, no folded line, no second length. A body
has a length or comes in chunks. Both together are refused.

Sources: OpenAI's API reference; RFC 9110 and 9112 (HTTP); RFC 3986 (hosts).
"""

import base64
import codecs
import collections
import concurrent.futures
import contextlib
import functools
import hmac
import http.server
import ipaddress
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
from chat import batching
import bpe
from model import checkpoint
from model import device
from model import fast
from model import folders
from chat import inside
import numpy as np
from tokens import vocabularies

# The bounds of the table above.
LONGEST_LINE, LARGEST_HEAD, LARGEST_BODY = 8192, 32768, 1 << 20         # bytes
MOST_FIELDS = 100
CHUNKS, LONGEST_CHUNK_LINE = 1 << 16, 256
CONNECTIONS, FROM_ONE_ADDRESS = 256, 128
UNREAD = 64 << 20                       # bytes of answers that nobody reads, in all
SLOWEST = 32768                         # bytes a second that a client must read
AT_ONCE = 4                             # chats and completions whose bodies are objects in memory
DEEPEST = 32
STOPS, LONGEST_STOP = 4, 256
LOG_PROBABILITIES = 1 << 16
LONGEST_NAME = 256
LONGEST_TEXT, LARGEST_TEXT = 100_000, 1 << 20       # bytes in, or tokens; bytes out
LOOKED_AT = 1 << 27
GONE = 0.25                             # seconds between two looks whether a client is still there
# Routes with much to do: one at a time, and not in the way of chats.
BULK = {"tokenize", "detokenize", "cut", "look", "log_of", "report", "ranking"}
ASSISTANTS, BASES = ("rl", "sft"), ("base",)


class Refused(Exception):
    """What a client is told: an HTTP status, OpenAI's error object, headers that belong to the status."""

    def __init__(self, status, message, param=None, code=None, headers=()):
        super().__init__(message)
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.status, self.headers = status, dict(headers)
        self.error = {"message": message, "type": kind, "param": param, "code": code}


class Unloaded(Exception):
    """A request asks for a model that must be loaded first, or loaded anew."""

    def __init__(self, name):
        super().__init__(name)
        self.name = name


# --------------------------------------------------------------------------- the head of a request

TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rf"({TOKEN}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
NAME, VALUE = re.compile(TOKEN), re.compile("[\t\x20-\x7e\x80-\xff]*")
HOST = re.compile(r"([A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
ABSOLUTE = re.compile(r"https?://([^/?#]*)([/?].*)?", re.I)
METHODS = ("GET", "HEAD", "POST", "OPTIONS")
QUOTED = r'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
EXTENSION = rf"[ \t]*;[ \t]*{TOKEN}(?:[ \t]*=[ \t]*(?:{TOKEN}|{QUOTED}))?"
CHUNK = re.compile(rf"([0-9A-Fa-f]+)(?:{EXTENSION})*")
# Two of these in one request are a mistake, or an attack.
SINGLE = ("host", "content-length", "authorization", "origin", "expect")


def line_of(file, most, status):
    """The next line of a head or of a body in chunks, without CRLF. None where the client has ended."""
    line = file.readline(most + 2)
    if not line:
        return None
    if len(line) > most + 1 and not line.endswith(b"\r\n"):
        raise Refused(status, f"a line of more than {most:,} bytes")
    if not line.endswith(b"\r\n"):
        raise Refused(400, "a line of a head that does not end in CRLF")
    return line[:-2].decode("latin-1")


def fields_of(file):
    """(name in lower case, value) of each field, up to the empty line that ends a head or chunks."""
    n_fields, size = 0, 0
    while line := line_of(file, LONGEST_LINE, 431):
        n_fields, size = n_fields + 1, size + len(line)
        if n_fields > MOST_FIELDS or size > LARGEST_HEAD:
            raise Refused(431, f"a head of over {MOST_FIELDS} fields or {LARGEST_HEAD:,} bytes")
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        # A folded line and a blank before the colon are none either: a name has no blanks.
        if not colon or not NAME.fullmatch(name) or not VALUE.fullmatch(value):
            raise Refused(400, f"not a header field: {line[:60]!r}")
        yield name.lower(), value
    if line is None:
        raise Refused(400, "the request ended inside its head")


def chunks_of(file):
    """The body of a request that comes in chunks (RFC 9112, 7.1).

    In front of the bytes of each stands how many they are, in hexadecimal:

        5 CRLF "Hello" CRLF 1;a=b CRLF "!" CRLF 0 CRLF Checksum: 1 CRLF CRLF   ->   Hello!

    What stands behind a size (an extension) and behind the last chunk (trailers) is read as strictly
    as a head, and has no effect: a trailer never becomes a field of the head.
    """
    body, n_chunks = bytearray(), 0     # no list: an object takes more than a small chunk
    while True:
        line = line_of(file, LONGEST_CHUNK_LINE, 400)
        found = CHUNK.fullmatch(line or "")
        if not found:
            raise Refused(400, f"not the size of a chunk: {(line or '')[:60]!r}")
        digits = found[1].lstrip("0") or "0"
        size = int(digits, 16) if len(digits) < 9 else LARGEST_BODY + 1
        n_chunks += 1
        if len(body) + size > LARGEST_BODY or n_chunks > CHUNKS:
            raise Refused(413, f"a body of over {LARGEST_BODY:,} bytes or {CHUNKS:,} chunks")
        if size == 0:
            break
        data = file.read(size + 2)
        if len(data) < size + 2 or not data.endswith(b"\r\n"):
            raise Refused(400, f"a chunk that does not end behind its {size:,} bytes")
        body += data[:-2]
    for _ in fields_of(file):
        pass
    return bytes(body)


class Head:
    """The head of a request.

    method, target  as they are sent; the target without the host where it names one
    minor           of the version, HTTP/1.minor
    fields          {name in lower case: value}
    host            whom the request is for, in lower case, with a port if one was given
    length          bytes of the body, or None
    chunked         whether the body comes in chunks instead, which say where it ends
    expects         whether the client waits for 100 Continue before it sends the body
    close           whether the client wants the connection closed after the answer

    Whatever is ambiguous raises Refused. The connection must be closed then: nobody knows where
    the next request would begin.
    """

    def __init__(self):
        self.method = self.target = self.length = None
        self.minor, self.fields, self.host, self.expects, self.close = 1, {}, "", False, True
        self.chunked = False

    def read(self, file):
        """Read it from a binary file. False where there is none, as the client has ended."""
        line = line_of(file, LONGEST_LINE, 414)
        if line == "":                                      # one in front is overlooked (RFC 9112, 2.2)
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
            self.fields[name] = f"{self.fields[name]}, {value}" if name in self.fields else value
        if self.method not in METHODS:
            there = ", ".join(METHODS)
            raise Refused(501, f"{self.method[:60]!r}: no method of this server; there are {there}")
        self._authority()
        self._framing()
        self._connection()
        return True

    def _authority(self):
        """Whom the request is for: Host, and a target in absolute form says the same (RFC 9112, 3.2)."""
        self.host = self.fields.get("host", "").lower()
        needed = self.minor == 1 or "host" in self.fields
        if needed and not HOST.fullmatch(self.host):
            raise Refused(400, "Host is missing or no name of a host")
        absolute = ABSOLUTE.fullmatch(self.target)
        if absolute:
            host, self.target = absolute[1].lower(), absolute[2] or "/"
            self.target = "/" * self.target.startswith("?") + self.target
            if self.host and host != self.host or not HOST.fullmatch(host):
                raise Refused(400, "the target names another host than Host")
            self.host = host
        everything = self.target == "*" and self.method == "OPTIONS"
        if "#" in self.target or not (self.target.startswith("/") or everything):
            raise Refused(400, f"not a target of a request: {self.target[:60]!r}")

    def _framing(self):
        """Where the body ends (RFC 9112, 6.3)."""
        coding, length = self.fields.get("transfer-encoding"), self.fields.get("content-length")
        if coding is not None:
            codings = [each.strip(" \t").lower() for each in coding.split(",")]
            if length is not None or self.minor == 0:
                raise Refused(400, "Transfer-Encoding with a length, or in HTTP/1.0")
            if codings[-1] != "chunked" or codings.count("chunked") > 1:
                raise Refused(400, "Transfer-Encoding: only chunked, once and last, has an end")
            if len(codings) > 1:
                raise Refused(501, f"Transfer-Encoding: {coding[:60]}: not spoken here")
            self.chunked = True
        if length is not None:
            if not re.fullmatch("[0-9]+", length):
                raise Refused(400, f"Content-Length: {length[:20]!r} is no length")
            digits = length.lstrip("0") or "0"
            if len(digits) > 9 or int(digits) > LARGEST_BODY:
                raise Refused(413, f"{digits[:20]} bytes of body, at most {LARGEST_BODY:,} are read")
            self.length = int(digits)

    def _connection(self):
        options = self.fields.get("connection", "").split(",")
        wanted = [option.strip(" \t").lower() for option in options]
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


def address_of(text):
    """The IP address that a text spells, an IPv4 one also where IPv6 wraps it; None for a name."""
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def client_of(address):
    """Who asks, by a socket's address: the IPv4 address, or in IPv6 the /64 network, one customer's."""
    address = address_of(address[0])
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


# --------------------------------------------------------------------------------------- requests and answers


def field(body, name, default, kinds, low=None, high=None):
    """A field of a request, the default where it is absent or null; Refused where it is not what it must be."""
    value = body.get(name)
    if value is None:
        return default
    if kinds is int and type(value) is float and value.is_integer():    # 5.0: 5 in some languages
        value = int(value)
    ok = isinstance(value, kinds) and not (isinstance(value, bool) and kinds is not bool)
    if not ok or low is not None and not low <= value <= high:
        expected = {bool: "true or false", int: "a whole number", str: "a text", dict: "an object", list: "a list"}.get(kinds, "a number")
        raise Refused(400, f"{name} is {json.dumps(value)[:60]}, expected {expected}" + (f" from {low} to {high}" if low is not None else ""), name)
    return value


NUMBER = (int, float)
MANY = 1 << 31                                  # more than any context
OFF = (False, 0, "", [], {})                    # values by which a field asks for nothing
# Fields that would change the answer and have no effect here, with the values that change nothing.
UNHEEDED = {
    # tools, and answers that are no text
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("auto", "none"),
    "function_call": ("auto", "none"),
    "audio": (),
    "modalities": ([], ["text"]),
    "web_search_options": (),
    # answers of a given form
    "grammar": OFF,
    "json_schema": OFF,
    "guided_json": OFF,
    "guided_regex": OFF,
    "guided_choice": OFF,
    "guided_grammar": OFF,
    "structured_outputs": OFF,
    # the prompt
    "suffix": OFF,
    "chat_template": OFF,
    "documents": OFF,
    "add_generation_prompt": (True,),
    "continue_final_message": OFF,
    "truncate_prompt_tokens": OFF,
    # how tokens are chosen, and when it ends
    "use_beam_search": OFF,
    "num_beams": (1,),
    "ignore_eos": OFF,
    "min_tokens": OFF,
    "stop_token_ids": OFF,
    "allowed_token_ids": OFF,
    "bad_words": OFF,
    "logits_processors": OFF,
    "typical_p": (1, 0),
    "tfs_z": (1, 0),
    "top_a": OFF,
    "top_n_sigma": (-1, 0),
    "mirostat": OFF,
    "dry_multiplier": OFF,
    "xtc_probability": OFF,
    "dynatemp_range": OFF,
    "smoothing_factor": OFF,
    "no_repeat_ngram_size": OFF,
    "guidance_scale": (1,),
    # what is given back
    "include_stop_str_in_output": OFF,
    "skip_special_tokens": (True,),
    "prompt_logprobs": (),
    "n_probs": OFF,
}
JSON = "application/json; charset=utf-8"        # without it some clients read Latin-1


# Line ends in Unicode's sense. A client that cuts a stream into lines as Python's splitlines does
# would cut an event there.
LINE_ENDS = str.maketrans({c: f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"})


def json_bytes(value):
    """JSON on one line. Text that is no Unicode, as half a surrogate pair, becomes question marks."""
    text = json.dumps(value, ensure_ascii=False)
    if not text.isascii():
        text = text.translate(LINE_ENDS)
    return text.encode("utf-8", "replace")


def no_number(name):
    raise ValueError(f"{name} is none of JSON's numbers")


def object_of(data):
    """The JSON object in the body of a request."""
    try:
        body = json.loads(data, parse_constant=no_number)
    except (ValueError, RecursionError) as e:
        raise Refused(400, f"the body is not JSON: {str(e)[:100]}") from None
    if not isinstance(body, dict):
        raise Refused(400, "the body is no JSON object")
    level, depth = [body], 0
    while level:                                            # one level deeper, until there is none
        depth += 1
        if depth > DEEPEST:
            raise Refused(400, f"lists and objects within each other, more than {DEEPEST} deep")
        inside_them = []
        for value in level:
            values = value.values() if isinstance(value, dict) else value
            inside_them += [each for each in values if isinstance(each, (dict, list))]
        level = inside_them
    return body


def length_of(body, least):
    """How many tokens a request wants at most, None where it does not say.

    -1 is as many as there is room for.
    """
    for name in ("max_completion_tokens", "max_tokens", "n_predict"):
        if body.get(name) == -1:                            # as llama.cpp and LM Studio have it
            return MANY
        if body.get(name) is not None:
            return field(body, name, None, int, least, MANY)
    return None


def refuse_unheeded(body, harmless=()):
    """Refused for a field that would change the answer and has no effect here."""
    for name, neutral in UNHEEDED.items():
        value = body.get(name)
        if value is not None and value not in neutral and name not in harmless:
            shown = json.dumps(value)[:60]
            raise unsupported(name, f"{name} is {shown}: it has no effect here; leave it out")


def texts_of(body):
    """How many texts a request wants for each prompt. Refused for more to choose from (best_of)."""
    n = field(body, "n", 1, int, 1, batching.PLACES)
    if field(body, "best_of", n, int, 0, MANY) not in (0, n):
        raise unsupported("best_of", f"best_of is {body['best_of']} with n = {n}: no more texts are "
                                     "written here than are given back")
    return n


def unsupported(param, message):
    return Refused(400, message, param, "unsupported_parameter")


def settings_of(body, tokenizer, most, alternatives, stop_tokens):
    """(Settings, stop strings) of a request for at most so many tokens."""
    stop = body.get("stop")
    stop = [stop] if isinstance(stop, str) else field(body, "stop", [], list)
    fine = [isinstance(s, str) and 0 < len(s) <= LONGEST_STOP for s in stop]
    if len(stop) > STOPS or not all(fine):
        raise Refused(400, f"stop is {json.dumps(stop)[:60]}, expected a text or up to four, "
                           f"of at most {LONGEST_STOP} characters", "stop")
    form = field(body, "response_format", {"type": "text"}, dict)
    if form.get("type") != "text":
        shown = json.dumps(form)[:60]
        raise unsupported("response_format", f"response_format {shown}: only text is written here")
    penalty = field(body, "repeat_penalty", 1.0, NUMBER, 0, 10)
    penalty = field(body, "repetition_penalty", penalty, NUMBER, 0, 10)
    if penalty != 1 and body.get("repeat_last_n") not in (None, -1):
        raise unsupported("repeat_last_n", "repeat_last_n: all tokens so far are penalised here")
    seed = field(body, "seed", -1, int, -(1 << 63), (1 << 64) - 1)
    return sample.Settings(
        max_new_tokens=most,
        temperature=field(body, "temperature", 1.0, NUMBER, 0, 2),
        top_p=max(1e-9, field(body, "top_p", 1.0, NUMBER, 0, 1)),
        top_k=max(0, field(body, "top_k", 0, int, -1, MANY)),
        min_p=field(body, "min_p", 0.0, NUMBER, 0, 1),
        repetition_penalty=max(1e-3, penalty),
        presence_penalty=field(body, "presence_penalty", 0.0, NUMBER, -2, 2),
        frequency_penalty=field(body, "frequency_penalty", 0.0, NUMBER, -2, 2),
        logit_bias=bias_of(body, tokenizer),
        seed=uuid.uuid4().int >> 65 if seed < 0 else seed,  # below 0: any, as in llama.cpp and vLLM
        alternatives=alternatives,
        stop=frozenset(stop_tokens),
    ), stop


def bias_of(body, tokenizer):
    """logit_bias as Settings has it: ((token, what is added to its logit), ...)."""
    bias = {}
    for token, value in field(body, "logit_bias", {}, dict).items():
        digits = re.fullmatch("0*([0-9]{1,9})", token)
        number = int(digits[1]) if digits else tokenizer.n_vocab
        if not (number < tokenizer.n_vocab and isinstance(value, NUMBER) and -100 <= value <= 100):
            raise Refused(400, f"logit_bias has {token[:20]!r}: {json.dumps(value)[:20]}, expected the "
                               "number of a token and one from -100 to 100", "logit_bias")
        # 100 and -100 mean that nothing else is said, or never this.
        bias[number] = 1e9 * value if abs(value) == 100 else float(value)
    return tuple(bias.items())


def longest_text(cfg, tokenizer):
    """Characters of a text that can fit the context: as many tokens, each as long as the longest.

    A normal form can make one byte of four."""
    return cfg.n_positions * longest_token(tokenizer) * (4 if tokenizer.normalize else 1)


@functools.lru_cache(16)
def longest_token(tokenizer):
    return max(map(len, tokenizer.token_bytes))


def refuse_long(length, cfg, tokenizer, param):
    """Refused for a text that cannot fit, before time is spent on cutting it into tokens."""
    if length > longest_text(cfg, tokenizer):
        raise too_long(f"{length:,} characters", cfg, param)


def too_long(what, cfg, param):
    return Refused(400, f"{what} and a reply do not fit the model's context of {cfg.n_positions}; "
                        "shorten the conversation", param, "context_length_exceeded")


def messages_of(body, cfg, tokenizer):
    """The messages of a chat request as sample.render reads them.

    Any order that OpenAI's API takes is taken, see sample.in_turns. Fields beside role and content,
    such as name, have no place in our chat format and are ignored.
    """
    messages = field(body, "messages", None, list)
    if not messages:
        raise Refused(400, "messages is missing or empty", "messages")
    n_parts = len(messages)
    for m in messages:
        if isinstance(m, dict) and isinstance(m.get("content"), list):
            n_parts += len(m["content"])
    if n_parts > cfg.n_positions:                           # each message is more than one token
        raise too_long(f"{n_parts:,} messages and parts", cfg, "messages")
    out, length = [], 0
    for i, m in enumerate(messages):
        if not isinstance(m, dict):
            raise Refused(400, f"messages[{i}] is {json.dumps(m)[:40]}, expected an object", "messages")
        if m.get("role") in ("tool", "function") or m.get("tool_calls") or m.get("function_call"):
            raise Refused(400, f"messages[{i}]: the model has a calculator of its own and calls no tools "
                               "of clients", "messages")
        content = m.get("content")
        if isinstance(content, list):
            content = [part_of(part, i, m.get("role")) for part in content]
            length += sum(len(part["text"]) for part in content)
        elif isinstance(content, str):
            length += len(content)
        out.append({"role": m.get("role"), "content": content, "refusal": m.get("refusal")})
    refuse_long(length, cfg, tokenizer, "messages")
    try:
        found, _ = sample.in_turns(out)
    except ValueError as e:
        raise Refused(400, str(e), "messages") from None
    if not found:
        raise Refused(400, "messages: there is no text of the system or of a user in them", "messages")
    return found


def part_of(part, i, role):
    """A part of message i as sample.render knows it: a text, or a call of the assistant's calculator."""
    if isinstance(part, str):                               # LangChain has texts in lists too
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, dict) else part
    text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, dict) else None
    if isinstance(text, str) and isinstance(kind, str):
        if kind in ("text", "input_text", "output_text", "refusal"):    # of either API of OpenAI
            return {"type": "text", "text": text}
        if role == "assistant" and kind in sample.PART_TOKENS:
            return {"type": kind, "text": text}
    raise Refused(400, f"messages[{i}] has a part that is no text, {json.dumps(kind)[:40]}; "
                       "this model reads text alone", "messages")


def are_tokens(ids, tokenizer):
    return isinstance(ids, list) and bool(ids) and all(type(i) is int and 0 <= i < tokenizer.n_vocab for i in ids)


def spelled(tokenizer, i, mark=""):
    """A token's text; of one that is no whole character its bytes, behind a mark, so that different ones look different."""
    try:
        return tokenizer.token_bytes[i].decode("utf-8")
    except UnicodeDecodeError:
        return mark + "".join(f"\\x{b:02x}" for b in tokenizer.token_bytes[i])


def finite(logp):
    """A log probability as JSON can have it: -9999, as OpenAI has it, for a token that cannot come."""
    return logp if logp is None else max(logp, -9999.0)


def chat_entry(tokenizer, entry):
    """One token of logprobs.content.

    bytes: what the token adds to the content: nothing where it is a special one, or part of a call of
    the calculator. Those of all tokens together are the content.
    """
    token, _, said, logp, best = entry

    def one(i, x, said):
        text = tokenizer.token_bytes[i] if said else b""
        return {"token": inside.piece(tokenizer, i), "logprob": finite(x), "bytes": list(text)}

    special = tokenizer.special_tokens.values()
    tops = [one(i, x, i not in special) for i, x in best]
    return {**one(token, logp, said), "top_logprobs": tops}


class Chat:
    """POST /v1/chat/completions.

    show_calls  ours, for the page: the reply also in parts (sample.Parts), in which a call of the
                calculator is told from text that only looks like one. They come back as content.
    """

    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"
    writes = True                                           # whether it wants any token

    def __init__(self, body, cfg, tokenizer):
        self.tokenizer = tokenizer
        no_tools = body.get("tool_choice") == "none" or body.get("function_call") == "none"
        refuse_unheeded(body, ("tools", "functions") if no_tools else ())
        if body.get("echo"):
            raise unsupported("echo", "echo: only /v1/completions repeats its prompt")
        self.logprobs = field(body, "logprobs", False, bool)
        top = field(body, "top_logprobs", 0, int, 0, 20)
        if top and not self.logprobs:
            raise Refused(400, "top_logprobs needs logprobs to be true", "top_logprobs")
        try:
            prompt = sample.render_prompt(messages_of(body, cfg, tokenizer), tokenizer)
        except ValueError as e:
            raise Refused(400, str(e), "messages") from None
        most = min(room_for(prompt, cfg, "messages"), length_of(body, 1) or MANY)
        end = sample.special(tokenizer, "<|im_end|>")
        settings, stop = settings_of(body, tokenizer, most, top if self.logprobs else -1, [end])
        n = texts_of(body)
        refuse_many(n * most, settings)
        show_calls, stream = field(body, "show_calls", False, bool), field(body, "stream", False, bool)
        self.job = batching.Job([prompt] * n, settings, stop, stream, show_calls)
        self.parts, self.given = None, [0] * n              # of each reply; how many tokens they hold
        if show_calls:
            self.parts = [sample.Parts(tokenizer) for _ in range(n)]

    def entries(self, entries):
        if not self.logprobs:
            return None
        return {"content": [chat_entry(self.tokenizer, e) for e in entries], "refusal": None}

    def new_parts(self, i, finish):
        """What reply i has grown by, as sample.Parts has it, for each part: [{"index", "type", "text"}]."""
        if self.parts is None:
            return []
        ids, begin = self.job.rows[i].ids, self.given[i]
        self.given[i] = len(ids)
        grown = [self.parts[i].put(token) for token in ids[begin:self.given[i]]]
        grown += [self.parts[i].end()] if finish else []
        return sample.gathered(grown)

    def choice(self, i, text, entries, finish):
        message = {"role": "assistant", "content": text, "refusal": None}
        if self.parts:
            message["parts"] = self.new_parts(i, finish)
        return {"index": i, "message": message, "logprobs": self.entries(entries),
                "finish_reason": finish}

    def begin(self, i):
        return {"index": i, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def chunk(self, i, text, entries, finish):
        """What a stream says of reply i now; None for nothing."""
        parts, delta = self.new_parts(i, finish), {}
        if not (text or entries or parts or finish):
            return None
        if text or entries:
            delta["content"] = text
        if parts:
            delta["parts"] = parts
        logprobs = self.entries(entries) if entries else None
        return {"index": i, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


class Completion:
    """POST /v1/completions."""

    prefix = "cmpl"
    whole = part = "text_completion"

    def __init__(self, body, cfg, tokenizer):
        self.tokenizer, prompt = tokenizer, "" if body.get("prompt") is None else body["prompt"]
        refuse_unheeded(body)
        self.logprobs = None                                # false is as in a chat
        if body.get("logprobs") is not False:
            self.logprobs = field(body, "logprobs", None, int, 0, 5)
        many = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
        n = texts_of(body)
        if n * len(many) > batching.PLACES:
            raise Refused(400, f"{len(many):,} prompts with n = {n}: "
                               f"at most {batching.PLACES} texts are written for a request", "n")
        between = sample.document_begin(tokenizer)
        most = length_of(body, 0)
        most = 16 if most is None else most                 # as OpenAI's API has it
        ids, self.ours = [], []                             # prompts; how many tokens we put in front
        for p in many:
            if isinstance(p, (str, list)):
                refuse_long(len(p), cfg, tokenizer, "prompt")
            self.ours.append(len(between) if isinstance(p, str) else 0)
            if isinstance(p, str):                          # behind what ends the document before
                p = [*between, *tokenizer.encode_ordinary(p)]
            elif not are_tokens(p, tokenizer):
                raise Refused(400, f"prompt is {json.dumps(p)[:60]}, expected a text, a list of tokens, "
                                   "or a list of these", "prompt")
            if not p:
                raise Refused(400, "prompt is empty, and this vocabulary has no token with which a "
                                   "document begins", "prompt")
            ids.append(p)
            most = min(most, room_for(p, cfg, "prompt", min(most, 1)))
        alternatives = -1 if self.logprobs is None else self.logprobs
        settings, stop = settings_of(body, tokenizer, max(most, 1), alternatives, between)
        self.echo = field(body, "echo", False, bool)
        refuse_many(n * sum(len(p) * self.echo + most for p in ids), settings)
        stream = field(body, "stream", False, bool)
        self.job = batching.Job([p for p in ids for _ in range(n)], settings, stop, stream)
        self.writes = most > 0
        self.ours = [ours for ours in self.ours for _ in range(n)]
        self.prompts = [""] * len(self.ours)                # as they are echoed
        self.echoed = [[] for _ in self.ours]               # an entry for each token of them

    def read(self, params, cfg, lock):
        """With echo the reply repeats the prompt, and with logprobs an entry for each of its tokens.

        A prompt of tokens begins with null: nothing stands before its first. A text is read behind
        <|endoftext|>, so its first token has a probability. That <|endoftext|> is ours and has no entry.

        lock: held for each prompt by itself, as all logits of one are in memory.
        """
        if not self.echo:
            return
        for i, prompt in enumerate(self.job.prompts):
            if i and prompt is self.job.prompts[i - 1]:     # n texts of one prompt stand beside each other
                self.prompts[i], self.echoed[i] = self.prompts[i - 1], self.echoed[i - 1]
                continue
            ours = self.ours[i]
            self.prompts[i], offsets = shown(self.tokenizer, prompt[ours:])
            if self.logprobs is None:
                continue
            with lock:
                logits = fast.forward(params, cfg, np.array([prompt]))[0][0]
                logits[:, self.tokenizer.holes] = -np.inf
                logits = logits[:, :self.tokenizer.n_vocab]
                for t, at in enumerate(offsets, ours):
                    found = None, None
                    if t:
                        found = sample.likely(logits[t - 1], prompt[t], self.logprobs)
                    self.echoed[i].append((prompt[t], at, True, *found))

    def name(self, token):
        return spelled(self.tokenizer, token, "bytes:")

    def entries(self, i, prompt, entries):
        """logprobs of a choice: one entry for each token of the prompt, if it is echoed, and of the reply.

        top_logprobs has the token itself too, also where it is none of the likeliest.
        """
        if self.logprobs is None:
            return None
        behind = len(self.prompts[i])
        out = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        shifted = [(token, behind + at, said, *found) for token, at, said, *found in entries]
        for token, at, _, logp, best in prompt + shifted:
            tops = None
            if best is not None:
                tops = {self.name(j): finite(x) for j, x in [*best, (token, logp)]}
            out["tokens"].append(self.name(token))
            out["token_logprobs"].append(finite(logp))
            out["top_logprobs"].append(tops)
            out["text_offset"].append(at)
        return out

    def choice(self, i, text, entries, finish):
        logprobs = self.entries(i, self.echoed[i], entries)
        return {"index": i, "text": self.prompts[i] + text, "logprobs": logprobs, "finish_reason": finish}

    def begin(self, i):
        if not self.echo:
            return None
        return self.choice(i, "", [], None)

    def chunk(self, i, text, entries, finish):
        if not (text or entries or finish):
            return None
        logprobs = self.entries(i, [], entries) if entries else None
        return {"index": i, "text": text, "logprobs": logprobs, "finish_reason": finish}


def shown(tokenizer, ids):
    """(the text of tokens, where in it each begins). Special ones have no text."""
    special, text, offsets = set(tokenizer.special_tokens.values()), "", []
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in ids:
        offsets.append(len(text))
        ended = token in special
        text += decoder.decode(b"" if ended else tokenizer.token_bytes[token], ended)
    return text + decoder.decode(b"", True), offsets


def refuse_many(tokens, settings):
    """Refused for more log probabilities than one answer holds."""
    values = tokens * (1 + settings.alternatives)
    if values > LOG_PROBABILITIES:
        raise Refused(400, f"{tokens:,} tokens with {settings.alternatives} alternatives: at most "
                           f"{LOG_PROBABILITIES:,} log probabilities are in one answer", "max_tokens")


def refuse_large(text, param):
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > LONGEST_TEXT:
        raise Refused(413, f"a text of {size:,} bytes, at most {LONGEST_TEXT:,} are read", param)


def room_for(prompt, cfg, param, least=1):
    """How many tokens fit the context behind a prompt; Refused for fewer than least."""
    room = cfg.n_positions - len(prompt)
    if room < least:
        raise too_long(f"{len(prompt)} tokens", cfg, param)
    return room


# ------------------------------------------------------------------------------------------------ the models


FILES = (
    "config.json", "model.safetensors", "model.safetensors.index.json",
    "tokenizer.json", "vocab.json", "merges.txt",
)


def time_of(path):
    """When a file was written last, 0 where it has just gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0


def signature(folder):
    """What changes with the files of a model folder: ((name, inode, size, time), ...) of each."""
    found = []
    for name in FILES:
        try:
            status = (Path(folder) / name).stat()
        except OSError:
            continue
        found.append((name, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


class Models:
    """The models of a run, or one folder. Each is loaded when it is first asked for, and has a writer.

    The run may be trained meanwhile. A folder without a whole model is left out. A model whose files
    have changed is loaded anew; replies that were begun end on the old one.
    """

    def __init__(self, run=None, folder=None, ranks=None, upload=None):
        self.only = Path(folder).absolute() if folder else None         # its name is the model's
        self.run = Path(run) if run and not folder else None
        self.ranks, self.upload, self.vocabularies = ranks, upload, {}
        self.writers, self.signatures, self.retired = {}, {}, []        # by name; the writers of old
        self.whole = {}                                     # folder: (signature, whether it is whole)
        self.lock = threading.Lock()                        # of these, not held while a model is loaded
        self.loading = {}                                   # by name: the Future of what is being loaded
        if not self.folders:
            raise FileNotFoundError(f"{run}: no model in it yet; make the demo's with: make")

    @property
    def folders(self):
        """{name: folder} of the models there are now."""
        if self.only:
            return {self.only.name: self.only}
        there = [path.parent for path in sorted(self.run.glob("*/model.safetensors"))]
        return {folder.name: folder for folder in there if self.is_whole(folder)}

    def is_whole(self, folder):
        """Whether a folder holds a language model that can be loaded."""
        now = signature(folder)
        if self.whole.get(folder, (None,))[0] != now:
            try:
                folders.load_config(folder)
                checkpoint.load_safetensors(folder / "model.safetensors")
                names = {name for name, *_ in now}
                whole = bool(names & {"tokenizer.json", "vocab.json"}) and not sample.is_judge(folder)
            except (ValueError, OSError):
                whole = False
            self.whole[folder] = now, whole
        return self.whole[folder][1]

    def name_of(self, asked, preferred):
        """The name of the model that answers: the one asked for, or the first of those preferred.

        KeyError where there is none of that name, ValueError where it cannot answer now.
        """
        there = self.folders
        if not asked:
            names = [name for name in preferred if name in there] + list(there)
            names += [name for name in preferred if name in self.writers]
            if not names:
                raise ValueError("the run has no whole model now; try again when one is trained")
            return names[0]
        if asked in there or asked in self.writers:
            return asked
        if self.run and asked in {path.parent.name for path in self.run.glob("*/config.json")}:
            raise ValueError(f"{asked}: no whole language model in that folder now; it may be in training")
        raise KeyError(asked)

    def folder(self, name):
        return self.only or self.run / name

    def ready(self, name):
        """The writer of a model where nobody has to load anything for it, else None."""
        with self.lock:
            old, signed = self.writers.get(name), self.signatures.get(name)
            loading = name in self.loading
        if old is None or loading:                          # the old one answers until then
            return old
        folder = self.folder(name)
        unchanged = signature(folder) == signed or self.run and not self.is_whole(folder)
        return old if unchanged else None

    def writer(self, name):
        """The writer of a model, which is loaded where it must be.

        Many may ask at once: one of them loads, and the others wait for what comes of it, also for
        an error. ValueError or OSError where it cannot be loaded and never was.
        """
        return self.ready(name) or self.once(name, functools.partial(self.load, name))

    def once(self, name, make):
        """What make() returns or raises. Who asks for the same name meanwhile gets the same."""
        with self.lock:
            shared = self.loading.get(name)
            if shared is None:
                mine = self.loading[name] = concurrent.futures.Future()
        if shared:
            return shared.result()
        try:
            mine.set_result(make())
        except BaseException as e:
            mine.set_exception(e)
        with self.lock:
            del self.loading[name]
        return mine.result()

    def load(self, name):
        """Load a model and start its writer. The old one, if there is one, where that fails."""
        old, now = self.writers.get(name), signature(self.folder(name))
        if old and now == self.signatures[name]:            # another has just done it
            return old
        try:
            model = sample.load_model(self.folder(name))
        except (ValueError, OSError):
            if not old:
                raise
            self.signatures[name] = now                     # not again before it changes again
            return old
        if old and signature(self.folder(name)) != now:     # written while it was read: next time
            return old
        writer = batching.Writer(model, upload=self.upload)
        writer.start()
        with self.lock:
            self.writers[name], self.signatures[name] = writer, now
            self.retired = [other for other in self.retired if other.is_alive()]
            self.retired += [old] if old else []
        if old:                                             # who was given it just now hands in a job yet
            later = threading.Timer(10, old.close)
            later.daemon = True
            later.start()
        return writer

    def has_vocabulary(self, name):
        try:
            return bool(vocabularies.find(name, self.ranks))
        except OSError:
            return False

    def vocabulary(self, name):
        """A published tokenizer. Only one is asked for at a time (BULK)."""
        if name not in self.vocabularies:
            self.vocabularies[name] = bpe.Tokenizer.load(vocabularies.find(name, self.ranks))
        return self.vocabularies[name]

    def close(self):
        writers = [*self.writers.values(), *self.retired]
        for writer in writers:
            writer.close()
        for writer in writers:
            writer.join()


class Answer:
    """What a route has to say: bytes, as text or as the JSON of a value."""

    def __init__(self, value, status=200, kind=JSON):
        self.data = value if isinstance(value, bytes) else json_bytes(value)
        self.status, self.kind = status, kind


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection. server is a Server.

    since    when the request that is read or waited for may have begun; None while it is answered
    unread   bytes of an answer that the client has not taken yet
    blocked  since when
    """

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "Longhand", ""
    timeout = 30                                            # seconds of silence after which a connection is closed
    requestline, request_version, path = "", "HTTP/1.1", ""

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)    # of the system's memory
        self.client, self.since = client_of(self.client_address), time.monotonic()
        self.unread, self.blocked, self.ended = 0, 0.0, False
        self.server.handlers.add(self)

    def finish(self):
        """A client that is still sending hears no answer once the connection is closed; so what it sends is read for a moment more."""
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
        self.ended = self.ended or how == socket.SHUT_RDWR
        try:
            self.connection.shutdown(how)
        except OSError:                                     # it has ended
            pass

    def handle_one_request(self):
        """Read a request and answer it. A refusal before it has been read whole closes the connection."""
        self.head, self.command, self.since = Head(), None, time.monotonic()
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
            print(f"serve.py: {self.command} {self.path[:100]}: {type(e).__name__}: {e}", file=sys.stderr)
            self.close_connection = True
            if not self.streaming:
                self.send({"error": Refused(500, f"{type(e).__name__}: {e}").error}, 500)

    # ---- answers

    def send(self, value, status=200, kind=JSON, headers=()):
        data = value if isinstance(value, bytes) else json_bytes(value)
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
        elif self.head.minor == 0:                          # it would expect an end otherwise
            self.send_header("Connection", "keep-alive")
        super().end_headers()

    def write(self, data):
        """Send bytes. TimeoutError where the client does not read them."""
        self.connection.settimeout(self.timeout + len(data) / SLOWEST)
        self.unread, self.blocked = len(data), time.monotonic()
        self.wfile.write(data)
        self.unread = 0
        self.connection.settimeout(self.timeout)

    def headers_for(self, kind):
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
        """Answer OPTIONS, by which a browser asks what a page may send: any header, as none does harm."""
        fields = self.head.fields
        self.send_response(204)
        self.share()
        self.send_header("Allow", ", ".join(METHODS))
        if self.is_named():
            asked = fields.get("access-control-request-headers", "Authorization, Content-Type")
            names = [name.strip(" \t") for name in asked.split(",")]
            names = [name for name in names if NAME.fullmatch(name)]
            self.send_header("Vary", "Access-Control-Request-Headers")
            self.send_header("Access-Control-Allow-Methods", ", ".join(METHODS))
            self.send_header("Access-Control-Allow-Headers", ", ".join(names))
            self.send_header("Access-Control-Max-Age", "7200")
            # A page of the internet that asks a machine of a private network (Chrome).
            if fields.get("access-control-request-private-network") == "true":
                self.send_header("Access-Control-Allow-Private-Network", "true")
        self.end_headers()

    def send_events(self, values, last=False):
        texts = [value.encode() if isinstance(value, str) else json_bytes(value) for value in values]
        data = b"".join([b"data: " + text + b"\n\n" for text in texts])
        assert data, "a chunk of no bytes would end the stream"
        if self.head.minor == 1:
            data = b"%x\r\n%s\r\n" % (len(data), data) + b"0\r\n\r\n" * last
        self.write(data)

    # ---- requests

    def answer(self):
        self.command, self.path = self.head.method, self.head.target
        if not self.head.has_body:                          # all of it has been read
            self.close_connection = self.head.close
        path = self.path.split("?")[0].rstrip("/") or "/"
        self.allowed(path)
        if self.command == "OPTIONS":
            self.body()
            self.preflight()
            return
        found = ROUTES.get(path) or ("GET", "model") * path.startswith("/v1/models/")
        if not found:
            raise Refused(404, f"{path[:100]}: no such route; there are {', '.join(ROUTES)}")
        method, name = found
        if method != ("GET" if self.command == "HEAD" else self.command):
            allow = "GET, HEAD, OPTIONS" if method == "GET" else "POST, OPTIONS"
            raise Refused(405, f"{path}: {method} only", headers={"Allow": allow})
        if method == "POST" and self.head.length is None and not self.head.chunked:
            self.close_connection = True
            raise Refused(411, "give the length of the body in Content-Length, or send chunks")
        coding = self.head.fields.get("content-encoding", "")
        if coding.lower() not in ("", "identity"):
            raise Refused(415, f"Content-Encoding: {coding[:60]}: no compressed body is read here",
                          headers={"Accept-Encoding": "identity"})
        data = self.body()
        self.since = None                                   # it was read in time
        answer, self.loaded = None, {}
        while answer is None:
            try:
                with self.server.turn_of(name, method):
                    body = object_of(data) if method == "POST" else None
                    answer = getattr(self, name)(body)
            except Unloaded as e:                           # not in its turn, for which others wait
                wanted = e.name
            body = None                                     # it does not stay while a reply is written
            if answer is None:
                self.load(wanted)
        data = None
        if not isinstance(answer, Answer):                  # a function that does what takes time
            answer = answer()
        if answer:
            self.send(answer.data, answer.status, answer.kind)

    def body(self):
        """The bytes of a request's body."""
        if self.head.expects:
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.head.chunked:
            data = chunks_of(self.rfile)
        else:
            data = self.rfile.read(self.head.length or 0)
        if len(data) < (self.head.length or 0):
            raise Refused(400, f"the body ended after {len(data):,} of {self.head.length} bytes")
        self.close_connection = self.head.close
        return data

    def allowed(self, path):
        """Refused for a name of ours that is another site's (DNS rebinding), another site's page, a wrong key.

        OPTIONS, which browsers send without the key, and what is OPEN need none.
        """
        host, origin = self.head.host, self.head.fields.get("origin")
        ours = address_of(self.connection.getsockname()[0])
        # Without a Host it is a probe or a tool that speaks HTTP/1.0: browsers always send one.
        if host and not self.server.is_called(HOST.fullmatch(host)[1], ours):
            raise Refused(403, f"this server is asked as {self.server.address}, not as {host[:60]!r}; "
                               "its other names are given with --allow-host")
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
        writers = dict(self.server.models.writers)
        failed = [name for name, w in writers.items() if w.failed]
        models = {}
        for name, w in writers.items():
            models[name] = {"writing": len(w.batch), "waiting": len(w.waiting)}
        status = f"failed: {', '.join(failed)}" if failed else "ok"
        if not self.has_key():                              # whether it is up, and no more
            return Answer({"status": "failed" if failed else "ok"}, 500 if failed else 200)
        return Answer({"status": status, "models": models}, 500 if failed else 200)

    def models(self, _):
        folders = self.server.models.folders
        return Answer({"object": "list", "data": [self.card(*item) for item in folders.items()]})

    def model(self, _):
        name = self.path.split("?")[0].rstrip("/").removeprefix("/v1/models/")
        name, folders = urllib.parse.unquote(name), self.server.models.folders
        if name not in folders:
            raise self.no_model(name)
        return Answer(self.card(name, folders[name]))

    def no_model(self, name):
        there = ", ".join(self.server.models.folders)
        return Refused(404, f"the model {name[:60]!r} does not exist; there are {there}",
                       "model", "model_not_found")

    def card(self, name, folder):
        made = max((time_ns for *_, time_ns in signature(folder)), default=0)
        return {"id": name, "object": "model", "created": made // 10**9, "owned_by": "longhand"}

    def model_of(self, body, preferred):
        """(the name of the model that a request asks for, its writer). Unloaded where it must be loaded."""
        asked = field(body, "model", "", str)
        if len(asked) > LONGEST_NAME:
            raise Refused(400, f"model has {len(asked):,} characters, at most {LONGEST_NAME}", "model")
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
        """Have a model loaded, or wait until it is."""
        try:
            self.loaded[name] = self.server.models.writer(name)
        except (ValueError, OSError) as e:
            raise Refused(503, str(e), "model") from None

    def tokenize(self, body):
        text, tokenizer = field(body, "content", field(body, "prompt", None, str), str), self.model_of(body, ASSISTANTS + BASES)[1].tokenizer
        if text is None:
            raise Refused(400, "content is missing: the text to cut into tokens", "content")
        refuse_large(text, "content")
        ids = tokenizer.encode_ordinary(text)
        pieces = [inside.piece(tokenizer, i) for i in ids]
        return Answer({"tokens": ids, "count": len(ids), "pieces": pieces})

    def detokenize(self, body):
        ids, tokenizer = field(body, "tokens", None, list), self.model_of(body, ASSISTANTS + BASES)[1].tokenizer
        if ids is not None and len(ids) > LONGEST_TEXT:
            raise Refused(413, f"{len(ids):,} tokens, at most {LONGEST_TEXT:,} are read", "tokens")
        if ids != [] and not are_tokens(ids, tokenizer):
            raise Refused(400, f"tokens is {json.dumps(ids)[:60]}, expected a list of numbers below {tokenizer.n_vocab}", "tokens")
        size = sum(len(tokenizer.token_bytes[i]) for i in ids)
        if size > LARGEST_TEXT:
            raise Refused(413, f"{size:,} bytes of text, at most {LARGEST_TEXT:,} are written", "tokens")
        text = tokenizer.decode(ids)
        return Answer({"content": text, "prompt": text})

    # ---- what the page shows

    def page(self, _):
        page = Path(__file__).with_name("page.html")
        return Answer(page.read_bytes(), kind="text/html; charset=utf-8")

    def query(self):
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))

    def about(self, _):
        """What there is to see of the run."""
        models = self.server.models
        run = models.run
        logs = [p.parent.name for p in sorted(run.glob("*/log.jsonl"), key=time_of)] if run else []
        known = [name for name in vocabularies.PUBLISHED if models.has_vocabulary(name)]
        there = list(models.folders)
        return Answer({
            "models": there,
            "assistant": models.name_of(None, ASSISTANTS + BASES) if there else None,
            "base": models.name_of(None, BASES + ASSISTANTS) if there else None,
            "logs": logs,
            "report": bool(run and (run / "docs" / "report.json").exists()),
            "arena": bool(run and (run / "arena.json").exists()),
            "vocabularies": known,
        })

    def run_file(self, *parts):
        run = self.server.models.run
        if not run or not run.joinpath(*parts).exists():
            raise Refused(404, f"{'/'.join(parts)}: the run has none yet")
        return run.joinpath(*parts)

    def report(self, _):
        return Answer(self.run_file("docs", "report.json").read_bytes())

    def ranking(self, _):
        return Answer(self.run_file("arena.json").read_bytes())

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
        return Answer({"stage": query["stage"], "next": after + len(data), "lines": len(lines),
                       "columns": columns})

    def look(self, body):
        """inside.describe of a text, of tokens, or of a conversation; with layer and head their attention as bytes of 255ths."""
        name, writer = self.model_of(body, BASES + ASSISTANTS)
        cfg, tokenizer = writer.cfg, writer.tokenizer
        ids = field(body, "tokens", None, list)
        if ids is None and body.get("messages") is not None:
            try:
                ids = sample.render_prompt(messages_of(body, cfg, tokenizer), tokenizer)
            except ValueError as e:
                raise Refused(400, str(e), "messages") from None
        elif ids is None:
            text = field(body, "text", "", str)
            refuse_long(len(text), cfg, tokenizer, "text")
            ids = [*sample.document_begin(tokenizer), *tokenizer.encode_ordinary(text)]
        if len(ids) > cfg.n_positions:
            raise Refused(400, f"{len(ids)} tokens, the model's context is {cfg.n_positions}",
                          "text", "context_length_exceeded")
        if not are_tokens(ids, tokenizer):
            raise Refused(400, "tokens must be numbers of tokens, and at least one", "tokens")
        logits, attention = (cfg.n_layer + 1) * cfg.vocab_size, cfg.n_layer * cfg.n_head * len(ids)
        numbers = len(ids) * (logits + attention)
        if numbers > LOOKED_AT:
            raise Refused(400, f"{len(ids)} tokens are {numbers:,} numbers inside this model, at most "
                               f"{LOOKED_AT:,} are looked at; shorten the text",
                          "text", "context_length_exceeded")
        layer = field(body, "layer", None, int, 0, cfg.n_layer - 1)
        head = field(body, "head", None, int, 0, cfg.n_head - 1)
        settings, _ = settings_of(body, tokenizer, 1, -1, ())
        n = field(body, "n", 12, int, 1, 50)
        return functools.partial(self.seen, name, writer, ids, layer, head, settings, n)

    def seen(self, name, writer, ids, layer, head, settings, n):
        with self.server.looking:                           # all logits of all layers, so one at a time
            if layer is not None and head is not None:
                seen, _ = inside.look(writer.params, writer.cfg, ids)
                attention = np.round(seen[layer, head] * 255).astype(np.uint8).tobytes()
                return Answer({"size": len(ids), "attention": base64.b64encode(attention).decode()})
            model, s = (writer.params, writer.cfg, writer.tokenizer), settings
            found = inside.describe(model, ids, n, s.temperature, s.top_k, s.top_p, s.min_p)
            names = writer.tokenizer.special_tokens.values()
            special = [i for i, token in enumerate(ids) if token in names]
            return Answer({"model": name, "special": special, **found})

    def cut(self, body):
        """A text in the pieces of a vocabulary: {"ids", "pieces"}; a piece that is no whole character shows its bytes."""
        name, text = field(body, "vocabulary", "", str), field(body, "text", "", str)
        refuse_large(text, "text")
        if name in self.server.models.folders:
            tokenizer = self.model_of({"model": name}, ())[1].tokenizer
        elif name in vocabularies.PUBLISHED:
            try:
                tokenizer = self.server.models.vocabulary(name)
            except (ValueError, OSError) as e:
                raise Refused(404, f"{name}: {e}", "vocabulary") from None
        else:
            raise Refused(404, f"{name[:40]!r}: no vocabulary of that name", "vocabulary")
        ids = tokenizer.encode_ordinary(text)
        pieces = [spelled(tokenizer, i) for i in ids]
        return Answer({"vocabulary": name, "size": tokenizer.n_vocab, "ids": ids, "pieces": pieces})

    def chat(self, body):
        return self.asked(body, Chat, ASSISTANTS + BASES)

    def complete(self, body):
        return self.asked(body, Completion, BASES + ASSISTANTS)

    def asked(self, body, kind, preferred):
        name, writer = self.model_of(body, preferred)
        request = kind(body, writer.cfg, writer.tokenizer)
        request.job.client = self.client
        options, with_ids = field(body, "stream_options", {}, dict), field(body, "return_token_ids", False, bool)
        base = {"id": f"{kind.prefix}-{uuid.uuid4().hex}", "object": kind.part if request.job.stream else kind.whole, "created": int(time.time()),
                "model": name, "system_fingerprint": name}
        with_usage = options.get("include_usage") is True
        return functools.partial(self.reply, writer, request, base, with_usage, with_ids)

    def reply(self, writer, request, base, include_usage, with_ids):
        """Have a request written. The Answer, or None where it was sent as a stream."""
        if isinstance(request, Completion):
            request.read(writer.params, writer.cfg, self.server.looking)
        try:
            if request.writes:
                writer.submit(request.job)
            else:
                request.job.write_nothing()
            if not request.job.stream:
                return Answer(self.whole(request, base, with_ids))
            self.stream(request, base, include_usage, with_ids)
            return None
        except batching.Declined as e:
            raise Refused({"full": 429, "closing": 503, "failed": 500}[e.reason], str(e), code="queue_full" if e.reason == "full" else None) from None
        finally:
            request.job.gone = True

    def client_has_gone(self):
        if hasattr(select, "POLLRDHUP"):                    # Linux knows, also where bytes are unread
            poll = select.poll()
            poll.register(self.connection, select.POLLRDHUP)
            return bool(poll.poll(0))
        readable = select.select([self.connection], [], [], 0)[0]
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def events(self, job):
        """What the writer hands over, until every row has ended. ConnectionError when the client has gone."""
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
        prompt = sum(len(p) for p in {id(p): p for p in job.prompts}.values())
        return {"prompt_tokens": prompt, "completion_tokens": job.tokens, "total_tokens": prompt + job.tokens}

    def ids(self, job, i, wanted):                          # names that vLLM gave them
        if not wanted:
            return {}
        written = job.rows[i].ids if job.rows else []
        return {"prompt_token_ids": job.prompts[i], "token_ids": written}

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
        self.headers_for("text/event-stream; charset=utf-8")
        if self.head.minor == 1:
            self.send_header("Transfer-Encoding", "chunked")
        else:                                               # no chunks: the connection's end is its end
            self.close_connection = True
        self.end_headers()
        values = [event_of([begun]) for i in range(len(request.job.prompts)) if (begun := request.begin(i))]
        try:
            for event in itertools.chain([first], events):
                for i, (text, entries, finish) in event.items():
                    grown = request.chunk(i, text, entries, None)
                    if grown:
                        values.append(event_of([grown]))
                    if finish:
                        values.append(event_of([request.chunk(i, "", [], finish) | self.ids(request.job, i, with_ids)]))
                if request.job.left and values:             # the last go out with what ends the stream
                    self.send_events(values)
                    values = []
            usage = [event_of([], self.usage(request.job))] if include_usage else []
            self.send_events([*values, *usage, "[DONE]"], last=True)
        except Refused as e:
            self.send_events([{"error": e.error}], last=True)


ROUTES = {
    "/health": ("GET", "health"),
    "/v1/health": ("GET", "health"),
    "/ping": ("GET", "health"),
    "/v1/models": ("GET", "models"),
    "/v1/chat/completions": ("POST", "chat"),
    "/v1/completions": ("POST", "complete"),
    "/tokenize": ("POST", "tokenize"),
    "/detokenize": ("POST", "detokenize"),
    "/": ("GET", "page"),
    "/api/about": ("GET", "about"),
    "/api/report": ("GET", "report"),
    "/api/arena": ("GET", "ranking"),
    "/api/log": ("GET", "log_of"),
    "/api/look": ("POST", "look"),
    "/api/cut": ("POST", "cut"),
}
# Open to who has no key: the page, which asks for one, and what probes ask.
OPEN = {"/", "/health", "/v1/health", "/ping"}
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False                                  # a reply begun is finished before the server is gone
    request_queue_size = 128

    def __init__(self, models, host="127.0.0.1", port=8000, key=None, origin=None, allow_host=()):
        if key is not None and (not key.strip() or key != key.strip() or not key.isprintable()):
            raise ValueError("--key is empty, or has blanks around it or control characters, which no "
                             "client can send; leave it out, or give a key, such as: "
                             '--key "$(openssl rand -hex 16)"')
        self.keys = [key.encode("utf-8", "surrogateescape")] if key else []
        if key and max(key) <= "\xff":                      # some clients send headers in Latin-1
            self.keys.append(key.encode("latin-1"))
        if origin and origin not in ("*", "null"):
            origin = origin.lower().removesuffix("/")
            if not ORIGIN.fullmatch(origin):
                raise ValueError(f"--origin {origin!r}: expected * or the origin of a page, "
                                 "such as http://localhost:3000")
        self.models, self.origin, self.closing, self.handlers = models, origin, False, set()
        self.writing, self.bulk = threading.BoundedSemaphore(AT_ONCE), threading.Lock()
        self.looking = threading.Lock()                     # whoever looks inside holds all logits
        self.names = {name.strip("[]").lower().removesuffix(".") for name in (host, *allow_host)}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)
        self.address = f"{'[' + host + ']' if ':' in host else host}:{self.server_address[1]}"

    def turn_of(self, name, method):
        """What to hold while the request of a route is read and its answer, or its job, is made."""
        if name in BULK:
            return self.bulk
        return self.writing if method == "POST" else contextlib.nullcontext()

    def is_called(self, name, address):
        """Whether this server may be called by a name, over a connection to that address of ours.

        name: that of Host, without the port. An address is ours if the connection came there. A name
        is ours if it was given to us. Any other name can be another site's that leads here, and its
        pages would be asking (DNS rebinding).
        """
        name = name.strip("[]").lower().removesuffix(".")
        called = address_of(name)
        if name in self.names or called == address:
            return True
        if address.is_loopback:
            return name == "localhost" or called is not None and called.is_loopback
        return name == socket.gethostname().lower()

    def handle_error(self, request, client_address):        # a client that went away at a bad moment is no error of ours
        kind, e, _ = sys.exc_info()
        if not issubclass(kind, (ConnectionError, TimeoutError)):
            print(f"serve.py: {kind.__name__}: {e}", file=sys.stderr)

    def verify_request(self, request, client_address):
        """Whether a new connection is taken. Of too many, those give way that have waited longest."""
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
            min(waiting, key=lambda pair: pair[0])[1].end()
        status = b"429 Too Many Requests" if len(there) < CONNECTIONS else b"503 Service Unavailable"
        try:
            end = b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            request.sendall(b"HTTP/1.1 " + status + end)
        except OSError:                                     # it has gone already
            pass
        return False

    def service_actions(self):
        """Every now and then: cut off who is too slow to send, however busily, or to read."""
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
    if not 0 <= args.port <= 65535:
        raise ValueError(f"--port {args.port}: ports are 0 to 65535")
    if args.model is None and not Path(args.run).is_dir():
        raise FileNotFoundError(f"{args.run}: no such run folder; make the demo's with: make")
    gpu = device.chosen(args)
    models = Models(args.run, args.model, args.ranks, functools.partial(device.upload, bf16=gpu.bf16) if gpu else None)
    server = Server(models, args.host, args.port, args.key, args.origin, args.allow_host)
    models.writer(models.name_of(None, ASSISTANTS + BASES))
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    print(f"serving {', '.join(models.folders)} at http://{server.address}; for clients http://{server.address}/v1; Ctrl-C ends it", flush=True)
    ended.wait()
    print("finishing what was begun", flush=True)
    server.close()
