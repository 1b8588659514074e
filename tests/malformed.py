"""Requests that no client should send, thousands of them, at a running server: each must be answered with a proper error (or, where it was
meant well after all, with an answer), or be closed; none may hang, none may fail inside, none may show a file; and what the server says to
a good request afterwards is what it said before.

    python tests/malformed.py [RUN] [N]         ten thousand, at a server of its own for the run (default: out/demo)
"""

import collections
import concurrent.futures
import http.client
import json
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUTES = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/api/look", "/api/cut"]
GOOD = {"messages": [{"role": "user", "content": "Who are you?"}], "prompt": "The goat", "max_tokens": 2, "temperature": 1, "top_p": 0.9, "n": 1, "seed": 1, "stop": "x", "logprobs": None,
        "top_logprobs": None, "logit_bias": {"5": 1}, "stream": False, "stream_options": {}, "model": "sft", "content": "goat", "tokens": [1, 2], "text": "goat", "layer": 0, "head": 0,
        "top_k": 5, "min_p": 0.1, "presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1, "echo": False, "vocabulary": "sft", "response_format": {"type": "text"},
        "max_completion_tokens": 2, "return_token_ids": False, "show_calls": False, "suffix": None, "temperatures": 1, "lens": 1}


def anything(rng, depth=0):
    """A value of JSON, of any type."""
    kind = rng.randrange(12 if depth < 3 else 10)
    if kind == 10:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 11:
        return {rng.choice(["role", "content", "type", "5", "\ud800", ""]): anything(rng, depth + 1) for _ in range(3)}
    return [None, True, False, rng.choice([-1, 0, 1, 2**31, 2**63, 2**64, -2**70, 10**300]), rng.choice([0.5, -0.1, 1e308, 5e-324, float("nan"), float("inf"), -float("inf")]), "",
            "x" * rng.randrange(40), rng.choice(["\ud800", "\x00", "<|im_end|>", "😀" * 3, "../../etc/passwd", "\u202e", "\r\n\r\nHTTP/1.1 200 OK"]), [], {}][kind]


def http_of(method, path, body, headers=()):
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join(head).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body


def wrong_types(rng):
    body = dict(GOOD)
    for key in rng.sample(list(body), rng.randint(1, 3)):
        body[key] = anything(rng)
    if rng.random() < 0.3:
        body["messages"] = [{"role": anything(rng), "content": anything(rng)} if rng.random() < 0.7 else anything(rng) for _ in range(rng.randrange(4))]
    return http_of("POST", rng.choice(ROUTES), json.dumps(body).encode())


def bad_json(rng):
    text = bytearray(json.dumps(GOOD).encode())
    for _ in range(rng.randint(1, 9)):
        how, i = rng.randrange(4), rng.randrange(max(1, len(text)))
        if how == 0:
            text = text[:i]
        elif how == 1:
            text[i:i] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 5)))
        elif how == 2:
            del text[i:i + rng.randint(1, 5)]
        else:
            text[i:i] = rng.choice([b"[" * 50, b"}" * 9, b'"', b"\\", b"\\ud800", b"NaN", b"9" * 5000, b"\xef\xbb\xbf", b"\x00", b"1e999"])
    return http_of("POST", rng.choice(ROUTES), bytes(text))


def deep(rng):
    n = rng.choice([100, 1000, 100_000, 400_000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'{"messages":[', b"]}")])
    n //= len(opening)
    return http_of("POST", rng.choice(ROUTES), opening * n + b"1" + closing * n * rng.randrange(2))


def huge(rng):
    path, n = rng.choice(ROUTES), rng.choice(["1048577", "99999999999", "9" * 5000, "-1", "0x10", "1e3", "", " ", "1, 1", "+5", "\xb2"])
    rest = b"{}" if rng.random() < 0.5 else b" " * rng.choice([100, 1 << 20, (1 << 20) + 1])
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n".encode("latin-1") + rest


def bad_http(rng):
    path = rng.choice([*ROUTES, "/", "/health"])
    return rng.choice([
        lambda: bytes(rng.randrange(256) for _ in range(rng.randint(1, 300))) + b"\r\n\r\n",
        lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(rng.randrange(256) for _ in range(200)),       # a TLS hello
        lambda: f"GET {path}\r\n\r\n".encode(), lambda: f"GET {path} HTTP/9.9\r\n\r\n".encode(), lambda: f"GET {path} HTTP/x\r\n\r\n".encode(), lambda: f"GET {path} HTTP/1.1 more\r\n\r\n".encode(),
        lambda: f"{rng.choice(['PUT', 'DELETE', 'TRACE', 'CONNECT', 'get', 'G~T', 'PRI'])} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode(),
        lambda: f"GET {path} HTTP/1.1\r\n".encode() + b"".join(b"X-%d: y\r\n" % i for i in range(300)) + b"\r\n",
        lambda: f"GET {path} HTTP/1.1\r\nX: {'y' * 70_000}\r\n\r\n".encode(), lambda: f"GET /{'y' * 70_000} HTTP/1.1\r\n\r\n".encode(),
        lambda: f"GET {path} HTTP/1.1\r\nno colon\r\n: empty\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode(),
        lambda: f"GET {path} HTTP/1.1\r\nHost: {rng.choice(['evil.example', '', '[', 'localhost@evil', 'xn--' * 50])}\r\nConnection: close\r\n\r\n".encode(),
        lambda: f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n".encode(),
        lambda: f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 900\r\nConnection: close\r\n\r\n{{}}   ".encode(),
        lambda: f"POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode(),
        lambda: b"\r\n" * rng.randint(1, 50) + b"\r\n", lambda: b"",
    ])()


def paths(rng):
    path = rng.choice(["/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/....//....//etc/passwd", "/v1/../../etc/passwd", "/%00", "/\x00", "/page.html", "/serve.py",
                       "/base/model.safetensors", "/.git/config", "/~root", "file:///etc/passwd", "http://evil.example/", "*", "/api/log?stage=../../etc/passwd&after=x", "/api/log?stage=base&after=-1",
                       "/api/log?stage=base&after=" + "9" * 5000, "/api/log?" + "&" * 5000, "/api/log?stage=%ff%fe", "/api/arena?x[]=y", "/?" + "a=b;" * 1000, "/api/look", "/v1/chat/completions"])
    return http_of("GET", path.replace("\x00", "%00"), b"")


KINDS = wrong_types, bad_json, deep, huge, bad_http, paths


def send(port, data, how):
    """(status or None for closed, body). how: at once, in pieces, or gone: the client leaves without reading."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as s:
        try:
            if how == "pieces" and len(data) < 3000:
                for i in range(0, len(data), max(1, len(data) // 5)):
                    s.sendall(data[i:i + max(1, len(data) // 5)])
                    time.sleep(0.001)
            else:
                s.sendall(data)
            if how == "gone":
                return "gone", b""
            s.shutdown(socket.SHUT_WR)
        except (ConnectionError, OSError):                  # refused before it was sent whole: there may be an answer
            pass
        answer = http.client.HTTPResponse(s)
        try:
            answer.begin()
            return answer.status, answer.read()
        except (http.client.BadStatusLine, ConnectionError):
            return None, b""


def attack(port, n, seed=0, workers=8):
    """Send n of them. Returns how often each answer came to each kind; AssertionError where one is not what it should be."""
    lock, found = threading.Lock(), collections.Counter()

    def one(i):
        rng = random.Random(f"{seed} {i}")
        kind = KINDS[i % len(KINDS)]
        data = kind(rng)
        status, body = send(port, data, rng.choice(["whole", "whole", "pieces", "gone"]))
        where = f"{kind.__name__} {i}: {data[:300]!r} -> {status} {body[:300]!r}"
        assert b"root:x:" not in body, where
        if isinstance(status, int) and status >= 400:
            assert status in (400, 403, 404, 405, 411, 413, 414, 429, 431, 501, 505), where
            assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}, where
        else:
            assert status in (None, "gone", 200, 204), where
        with lock:
            found[kind.__name__, status or "closed"] += 1

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(one, range(n)):
            pass
    return found


def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps({**GOOD, "max_tokens": 20, "stop": None}))
    answer = connection.getresponse()
    body = json.loads(answer.read())
    assert answer.status == 200, body
    return body["choices"]


def main():
    run, n = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "out" / "demo", int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    process = subprocess.Popen([sys.executable, "-u", str(ROOT / "sample.py"), "serve", "--run", str(run), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    port = int(process.stdout.readline().split("at http://127.0.0.1:")[1].split(";")[0])
    before, began = ask(port), time.perf_counter()
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]       # and fifty that never come to the end of a request
    for i, s in enumerate(slow):
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400\r\n\r\n{"[:20 + i])
    found, took = attack(port, n), time.perf_counter() - began
    assert ask(port) == before, "the server says something else than before"
    process.terminate()
    failed = process.stderr.read()
    for (kind, status), times in sorted(found.items(), key=str):
        print(f"{kind:12} {status:>7} {times:7,}")
    print(f"{n:,} requests in {took:.0f} s; the server ended with {process.wait()}, its own errors: {failed.strip() or 'none'}")
    return process.returncode or bool(failed.strip())


if __name__ == "__main__":
    sys.exit(main())
