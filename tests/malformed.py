"""malformed.py: thousands of requests that no client should send, at a running server.

    python tests/malformed.py [RUN] [N]     N requests (default: 10,000) at a server for the run

Each must be answered with a proper error (or an answer, where it makes sense after all), or be
closed. None may hang, fail inside or show a file. Afterwards the server must say to a good request
what it said before.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import http.client
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUTES = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/api/look",
          "/api/cut", "/api/fit", "/api/pieces"]
GOOD = {
    "messages": [{"role": "user", "content": "Who are you?"}],
    "prompt": "The goat",
    "max_tokens": 2,
    "max_completion_tokens": 2,
    "temperature": 1,
    "temperatures": 1,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "logit_bias": {"5": 1},
    "n": 1,
    "seed": 1,
    "stop": "x",
    "logprobs": None,
    "top_logprobs": None,
    "return_token_ids": False,
    "stream": False,
    "stream_options": {},
    "echo": False,
    "suffix": None,
    "response_format": {"type": "text"},
    "show_calls": False,
    "model": "sft",
    "vocabulary": "sft",
    "content": "goat",
    "text": "goat",
    "tokens": [1, 2],
    "layer": 0,
    "head": 0,
    "lens": 1,
}
NUMBERS = [-1, 0, 1, 2**31, 2**63, 2**64, -2**70, 10**300, 0.5, -0.1, 1e308, 5e-324,
           float("nan"), float("inf"), -float("inf")]
TEXTS = ["\ud800", "\x00", "<|im_end|>", "😀" * 3, "../../etc/passwd", "\u202e",
         "\r\n\r\nHTTP/1.1 200 OK"]
KEYS = ["role", "content", "type", "5", "\ud800", ""]
JUNK = [b"[" * 50, b"}" * 9, b'"', b"\\", b"\\ud800", b"NaN", b"9" * 5000, b"\xef\xbb\xbf", b"\x00",
        b"1e999"]
LENGTHS = ["1048577", "99999999999", "9" * 5000, "-1", "0x10", "1e3", "", " ", "1, 1", "+5", "\xb2"]
METHODS = ["PUT", "DELETE", "TRACE", "CONNECT", "get", "G~T", "PRI"]
HOSTS = ["evil.example", "", "[", "localhost@evil", "xn--" * 50]
LOCAL = "Host: localhost\r\nConnection: close\r\n"
OUTSIDE = [                             # paths that would lead out of what is served
    "/../../../../../../etc/passwd", "/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd",
    "/..%2f..%2fetc%2fpasswd", "/....//....//etc/passwd", "/v1/models/..%2f..%2fetc%2fpasswd",
    "/v1/../../etc/passwd", "/%5c..%5c..%5cetc%5cpasswd", "/page.html/../serve.py",
    "/\x2e\x2e/runs.py", "/serve.py", "/.git/config", "/base/model.safetensors",
    "/base/config.json", "/api/log?stage=../../../../etc", "/api/log?stage=%2e%2e%2f%2e%2e",
    "/api/log?stage=/etc", "file:///etc/passwd",
]
PATHS = [
    *OUTSIDE, "/~root", "/%00", "/\x00", "/page.html", "http://evil.example/", "*",
    "/api/log?stage=../../etc/passwd&after=x", "/api/log?stage=base&after=-1",
    "/api/log?stage=base&after=" + "9" * 5000, "/api/log?" + "&" * 5000, "/api/log?stage=%ff%fe",
    "/api/arena?x[]=y", "/?" + "a=b;" * 1000, "/api/look", "/v1/chat/completions",
]
STATUSES = (400, 403, 404, 405, 411, 413, 414, 429, 431, 501, 505)


def anything(rng, depth=0):
    """A value of JSON, of any type."""
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind == 6:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 7:
        return {rng.choice(KEYS): anything(rng, depth + 1) for _ in range(3)}
    if kind == 0:
        return rng.choice([None, True, False])
    if kind in (1, 2):
        return rng.choice(NUMBERS)
    if kind == 3:
        return "x" * rng.randrange(40)
    if kind == 4:
        return rng.choice(TEXTS)
    return rng.choice([[], {}, ""])


def http_of(method, path, body):
    """The bytes of a request that is well formed as far as HTTP goes."""
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join(head).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body


def random_bytes(rng, n):
    """n bytes drawn at random."""
    return bytes(rng.randrange(256) for _ in range(n))


# ------------------------------------------------------------------------------ kinds of requests


def wrong_types(rng):
    """A good body, with some fields of any type."""
    body = dict(GOOD)
    for key in rng.sample(list(body), rng.randint(1, 3)):
        body[key] = anything(rng)
    if rng.random() < 0.3:
        body["messages"] = []
        for _ in range(rng.randrange(4)):
            message = {"role": anything(rng), "content": anything(rng)}
            body["messages"].append(message if rng.random() < 0.7 else anything(rng))
    return http_of("POST", rng.choice(ROUTES), json.dumps(body).encode())


def bad_json(rng):
    """A good body, cut and with bytes put in and taken out."""
    text = bytearray(json.dumps(GOOD).encode())
    for _ in range(rng.randint(1, 9)):
        how, i = rng.randrange(4), rng.randrange(max(1, len(text)))
        if how == 0:
            text = text[:i]
        elif how == 1:
            text[i:i] = random_bytes(rng, rng.randint(1, 5))
        elif how == 2:
            del text[i:i + rng.randint(1, 5)]
        else:
            text[i:i] = rng.choice(JUNK)
    return http_of("POST", rng.choice(ROUTES), bytes(text))


def deep(rng):
    """A body of many thousand brackets in one another."""
    n = rng.choice([100, 1000, 100_000, 400_000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'{"messages":[', b"]}")])
    n //= len(opening)
    return http_of("POST", rng.choice(ROUTES), opening * n + b"1" + closing * n * rng.randrange(2))


def huge(rng):
    """A body of more bytes than allowed, or with a length that is no number."""
    path, n = rng.choice(ROUTES), rng.choice(LENGTHS)
    rest = b"{}" if rng.random() < 0.5 else b" " * rng.choice([100, 1 << 20, (1 << 20) + 1])
    head = f"POST {path} HTTP/1.1\r\n{LOCAL}Content-Length: {n}\r\n\r\n"
    return head.encode("latin-1") + rest


def bad_http(rng):
    """Bytes that are no HTTP, or HTTP that a server must refuse."""
    path = rng.choice([*ROUTES, "/", "/health"])
    get, post = f"GET {path} HTTP/1.1\r\n", f"POST {path} HTTP/1.1\r\n"
    many_fields = "".join(f"X-{i}: y\r\n" for i in range(300))
    twice = "Content-Length: 5\r\nContent-Length: 900\r\n"
    requests = [
        f"GET {path}\r\n\r\n",
        f"GET {path} HTTP/9.9\r\n\r\n",
        f"GET {path} HTTP/x\r\n\r\n",
        f"GET {path} HTTP/1.1 more\r\n\r\n",
        f"{rng.choice(METHODS)} {path} HTTP/1.1\r\n{LOCAL}\r\n",
        f"{get}{many_fields}\r\n",
        f"{get}X: {'y' * 70_000}\r\n\r\n",
        f"GET /{'y' * 70_000} HTTP/1.1\r\n\r\n",
        f"{get}no colon\r\n: empty\r\n{LOCAL}\r\n",
        f"{get}Host: {rng.choice(HOSTS)}\r\nConnection: close\r\n\r\n",
        f"{post}Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
        f"{post}{twice}{LOCAL}\r\n{{}}   ",
        f"{post}Expect: 100-continue\r\nContent-Length: 2\r\n{LOCAL}\r\n{{}}",
        "\r\n" * rng.randint(2, 51),
        "",
    ]
    noise = [
        random_bytes(rng, rng.randint(1, 300)) + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random_bytes(rng, 200),      # TLS's hello
    ]
    return rng.choice([*noise, *(text.encode() for text in requests)])


def paths(rng):
    """A path that would lead out of the served files, or a query that is no query."""
    return http_of("GET", rng.choice(PATHS).replace("\x00", "%00"), b"")


KINDS = [wrong_types, bad_json, deep, huge, bad_http, paths]

# ------------------------------------------------------------------------------------------ attack


def send(port, data, how):
    """(status or None for closed, body) of the answer.

    how: "whole", in "pieces", or "gone", where the client leaves without reading.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=20) as s:
        try:
            if how == "pieces" and len(data) < 3000:
                size = max(1, len(data) // 5)
                for i in range(0, len(data), size):
                    s.sendall(data[i:i + size])
                    time.sleep(0.001)
            else:
                s.sendall(data)
            if how == "gone":
                return "gone", b""
            s.shutdown(socket.SHUT_WR)
        except OSError:         # refused before all of it was sent: there may be an answer
            pass
        answer = http.client.HTTPResponse(s)
        try:
            answer.begin()
            return answer.status, answer.read()
        except (http.client.BadStatusLine, ConnectionError):
            return None, b""


def attack(port, n, seed=0, workers=8):
    """Send n requests. Returns {(kind, status): how often}; AssertionError for a wrong answer."""
    lock, found = threading.Lock(), collections.Counter()

    def one(i):
        rng = random.Random(f"{seed} {i}")
        kind = KINDS[i % len(KINDS)]
        data = kind(rng)
        status, body = send(port, data, rng.choice(["whole", "whole", "pieces", "gone"]))
        where = f"{kind.__name__} {i}: {data[:300]!r} -> {status} {body[:300]!r}"
        assert b"root:x:" not in body, where
        if isinstance(status, int) and status >= 400:
            assert status in STATUSES, where
            error = json.loads(body)["error"]
            assert set(error) == {"message", "type", "param", "code"}, where
        else:
            assert status in (None, "gone", 200, 204), where
        with lock:
            found[kind.__name__, status or "closed"] += 1

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(one, range(n)):
            pass
    return found


@contextlib.contextmanager
def served(*options, **pipes):
    """Run `sample.py serve` with these options on a free port. Yields (process, port)."""
    words = [sys.executable, "-u", str(ROOT / "sample.py"), "serve", "--port", "0"]
    process = subprocess.Popen([*words, *map(str, options)], text=True, stdout=subprocess.PIPE,
                               **pipes)
    try:
        line = process.stdout.readline()
        found = re.search(r"at http://127\.0\.0\.1:(\d+)", line)
        if not found:
            said = process.stderr.read()[-300:] if process.stderr else ""
            raise ValueError(f"the server does not begin: {line} {said}")
        yield process, int(found[1])
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        if process.stderr:
            process.stderr.close()


def family(process):
    """The numbers of a process and of those that its threads have started."""
    found = [process.pid]
    for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
        found += map(int, path.read_text().split())
    return found


def ask(port):
    """The answer to a good request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = {**GOOD, "max_tokens": 20, "stop": None}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    answer = connection.getresponse()
    body = json.loads(answer.read())
    assert answer.status == 200, body
    return body["choices"]


def parse_args(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(description="Send malformed requests to a server of its own.")
    p.add_argument("run", nargs="?", type=Path, default=ROOT / "out" / "demo",
                   help="run folder (default: out/demo)")
    p.add_argument("n", nargs="?", type=int, default=10_000,
                   help="number of requests (default: %(default)s)")
    return p.parse_args(argv)


def main():
    """Attack a server, print the table of answers, and return 0 if all of them were right."""
    args = parse_args()
    with served("--run", args.run, stderr=subprocess.PIPE) as (process, port):
        before, beginning = ask(port), time.perf_counter()
        dawdlers = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        request = f"POST /v1/chat/completions HTTP/1.1\r\n{LOCAL}Content-Length: 400\r\n\r\n{{"
        for i, s in enumerate(dawdlers):        # they never come to the end of a request
            s.sendall(request[:20 + i].encode())
        found, took_s = attack(port, args.n), time.perf_counter() - beginning
        assert ask(port) == before, "the server says something else than before"
        process.terminate()
        errors, status = process.stderr.read().strip(), process.wait()
    for (kind, answer), times in sorted(found.items(), key=str):
        print(f"{kind:12} {answer:>7} {times:7,}")
    print(f"{args.n:,} requests in {took_s:.0f} s; the server ended with {status}, "
          f"its own errors: {errors or 'none'}")
    return status or bool(errors)


if __name__ == "__main__":
    sys.exit(main())
