"""serving.py: a server of a small run, and requests to it, for tests of chat/serve.py's rooms."""

import contextlib
import http.client
import json
import socket
import threading
import time

import numpy as np
import pytest

import bpe
import gpt
from chat import serve, served

TEXT = "the lamp is lit, said the goat. user assistant system 0 1 2 3 4 5 6 7 8 9 Who are you? äöü"
TOK = bpe.Tokenizer.train([TEXT] * 4, 330)
CFG = gpt.Config(TOK.n_vocab, 64, 16, 2, 2)
PARAMS = gpt.init(CFG, 0)
for _p in PARAMS.values():
    _p += np.random.default_rng(5).standard_normal(_p.shape).astype(np.float32) * 0.1
ASK = {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 12, "seed": 3}
CHAT, TEXTS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    for stage in ("base", "sft"):
        gpt.save(run / stage, PARAMS, CFG)
        TOK.save(run / stage / "tokenizer.json")
    (run / "secret.txt").write_text("secret")
    return run


def started(run, apart=False, **how):
    server = serve.Server(served.Models(run, apart=apart), port=0, **how)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


@contextlib.contextmanager
def running(run, **how):
    """A server that is closed in the end."""
    server = started(run, **how)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def server(run):
    with running(run) as server:
        yield server


def send(server, method, path, body=None, headers=()):
    """(status, headers, bytes) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    if not isinstance(body, (bytes, str, type(None))):
        body = json.dumps(body)
    connection.request(method, path, body, dict(headers))
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def post(server, path, body, status=200):
    got, _, data = send(server, "POST", path, body)
    assert got == status, data
    return json.loads(data)


def choices(server, **fields):
    """The choices of the answer to ASK with these fields."""
    return post(server, CHAT, {**ASK, **fields})["choices"]


def texts(server, **fields):
    """The choices of a completion of these fields."""
    return post(server, TEXTS, fields)["choices"]


def wait_for(condition):
    deadline = time.time() + 20
    while not condition() and time.time() < deadline:
        time.sleep(0.01)
    assert condition()


GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n"


def raw(server, data):
    """All that comes back for these bytes, until the connection ends or is silent."""
    with socket.create_connection(server.server_address[:2], timeout=20) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        out = b""
        with contextlib.suppress(ConnectionError):
            while part := s.recv(1 << 16):
                out += part
        return out


def post_bytes(path, body, version="1.1", more=b""):
    """The bytes of a POST request."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/{version}\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    return head.encode() + more + b"\r\n" + data


def listed(server):
    return [m["id"] for m in json.loads(send(server, "GET", "/v1/models")[2])["data"]]


def names(*pieces):
    """Token ids of texts and of special tokens' names."""
    ids = []
    for piece in pieces:
        special = TOK.special_tokens.get(piece)
        ids += TOK.encode_ordinary(piece) if special is None else [special]
    return ids


IN_CHUNKS = b'7\r\n{"conte\r\n8;a=b\r\nnt":"a"}\r\n0\r\n\r\n'
