"""chat/serve.py: many clients, clients that go away, keys and origins, an orderly end."""

import concurrent.futures
import contextlib
import gc
import gzip
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref

import pytest

import malformed
import sample
from chat import api, fields, generate, request, serve, served
from conftest import ROOT
from serving import (  # noqa: F401
    ASK, GET, IN_CHUNKS, POST, TOK, listed, post, raw, run, send, server, started, wait_for,
)


def test_the_rest(server, run):
    status, _, data = send(server, "GET", "/v1/models")
    assert status == 200 and [m["id"] for m in json.loads(data)["data"]] == ["base", "sft"]
    assert json.loads(send(server, "GET", "/health")[2])["status"] == "ok"
    looked = post(server, "/api/look", {"messages": ASK["messages"]})
    where = [i for i, token in enumerate(looked["ids"]) if token in TOK.special_tokens.values()]
    assert looked["special"] == where and len(where) == 5
    cut = post(server, "/tokenize", {"content": "the lamp <|im_end|>"})
    assert cut["tokens"] == TOK.encode_ordinary("the lamp <|im_end|>") and "".join(cut["pieces"]) == "the lamp <|im_end|>" and cut["count"] == len(cut["tokens"])
    assert post(server, "/detokenize", {"tokens": cut["tokens"]})["content"] == "the lamp <|im_end|>"
    status, headers, data = send(server, "HEAD", "/health")
    assert status == 200 and data == b"" and int(headers["Content-Length"]) > 0


@pytest.mark.parametrize("path", ["/secret.txt", "/../secret.txt", "/base/model.safetensors", "/%2e%2e/etc/passwd", "/v1", "//etc/passwd"])
def test_no_file_is_served(server, path):
    status, _, data = send(server, "GET", path)
    assert status == 404 and b"secret" not in data.replace(path.encode(), b"") and json.loads(data)["error"]["type"] == "invalid_request_error"


def test_malformed_requests(server, capfd):
    """Six hundred of them; python tests/malformed.py sends ten thousand."""
    before = post(server, "/v1/chat/completions", ASK)["choices"]
    answers = malformed.attack(server.server_address[1], 600)
    assert {status for _, status in answers} >= {400, 404, 405, 413, 501, "closed"}
    assert post(server, "/v1/chat/completions", ASK)["choices"] == before and capfd.readouterr().err == ""


def test_who_dawdles_is_cut_off(run, monkeypatch):
    """One sends a byte now and then, one half a body and then nothing; a good request beside them is answered."""
    monkeypatch.setattr(serve.Handler, "timeout", 0.5)
    server = started(run)
    with socket.create_connection(server.server_address) as drips, socket.create_connection(server.server_address) as stops:
        stops.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
        began = time.time()
        with pytest.raises(ConnectionError):
            for byte in b"GET /health HTTP/1.1\r\nX-Header: " + b"x" * 1000:
                drips.sendall(bytes([byte]))
                time.sleep(0.02)
        assert 0.4 < time.time() - began < 10 and send(server, "GET", "/health")[0] == 200
        stops.settimeout(10)
        while stops.recv(1000):                             # an answer or none, but an end
            pass
    server.close()


@pytest.mark.parametrize("bound, status", [("CONNECTIONS", 503), ("FROM_ONE_ADDRESS", 429)])
def test_so_many_connections_and_no_more(run, monkeypatch, bound, status):
    """Who has waited longest for a request gives way; where all are being answered a new one is refused."""
    monkeypatch.setattr(serve, bound, 2)
    server, busy, begun = started(run), threading.Event(), []

    def models(self, _):
        begun.append(self)
        busy.wait(20)
        return request.Answer({})

    monkeypatch.setitem(serve.ROUTES, "/v1/models", serve.Route("GET", models))
    to = server.server_address
    with socket.create_connection(to) as first, contextlib.ExitStack() as stack:
        wait_for(lambda: len(server.handlers) == 1)
        second = stack.enter_context(socket.create_connection(to))
        wait_for(lambda: len(server.handlers) == 2)
        assert send(server, "GET", "/health")[0] == 200
        first.settimeout(20)
        assert first.recv(10) == b""                        # it gave way
        second.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: len(begun) == 1)
        with socket.create_connection(server.server_address) as third:
            third.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_for(lambda: len(begun) == 2)
            with socket.create_connection(server.server_address, timeout=20) as fourth:
                assert fourth.recv(100).startswith(b"HTTP/1.1 %d " % status)
            busy.set()
            for answered in (second, third):
                assert answered.recv(100).startswith(b"HTTP/1.1 200")
    wait_for(lambda: not server.handlers)
    assert send(server, "GET", "/health")[0] == 200
    server.close()


def test_a_get_where_a_post_belongs(server):
    assert send(server, "GET", "/v1/chat/completions")[0] == 405


def test_a_key(run):
    server = started(run, key="sesame", origin="*")
    try:
        assert send(server, "POST", "/v1/chat/completions", ASK)[0] == 401 and send(server, "GET", "/v1/models", headers={"Authorization": "Bearer wrong"})[0] == 401
        status, headers, _ = send(server, "POST", "/v1/chat/completions", ASK, {"Authorization": "Bearer sesame"})
        assert status == 200 and headers["Access-Control-Allow-Origin"] == "*" and send(server, "OPTIONS", "/v1/chat/completions")[0] == 204
        assert send(server, "GET", "/v1/models", headers={"Authorization": "Bearer sesame", "Host": "evil.example"})[0] == 403
    finally:
        server.close()


def test_many_at_once_are_each_as_alone(server):
    """Sixty requests of all kinds together, some of whose clients go away: nothing is lost, nothing mixed."""
    rng = random.Random(4)
    asked = [{"messages": [{"role": "user", "content": rng.choice(["Who?", "the lamp", "said the goat"])}], "seed": rng.randrange(9), "max_tokens": rng.randint(1, 30),
              "temperature": rng.choice([0, 1]), "n": rng.randint(1, 3)} for _ in range(60)]

    def one(body):
        if body["seed"] == 0:                               # goes away
            with socket.create_connection(server.server_address) as s:
                data = json.dumps({**body, "stream": True, "max_tokens": 40}).encode()
                s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
                s.recv(10)
            return None
        return [c["message"]["content"] for c in post(server, "/v1/chat/completions", body)["choices"]]

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        together = list(pool.map(one, asked))
    for body, texts in zip(asked, together):
        if texts is not None:
            assert texts == [c["message"]["content"] for c in post(server, "/v1/chat/completions", body)["choices"]]
    deadline = time.time() + 10
    writer = server.models.writers["sft"]
    while (len(writer.batch) or writer.texts) and time.time() < deadline:
        time.sleep(0.05)
    assert not len(writer.batch) and not writer.texts and not writer.waiting


def test_a_full_queue_and_a_closing_server(run):
    server = started(run)
    try:
        writer = server.models.writer("sft")
        writer.most_waiting = 0
        assert post(server, "/v1/chat/completions", ASK, 429)["error"]["code"] == "queue_full"
        writer.close()
        assert "shutting down" in post(server, "/v1/chat/completions", ASK, 503)["error"]["message"]
    finally:
        server.close()


@pytest.mark.parametrize("where", ["add", "step"])
def test_a_writer_that_fails_leaves_nobody_waiting(run, monkeypatch, where):
    server = started(run)
    try:
        monkeypatch.setattr(generate.Batch, where, lambda self, *_: 1 / 0)
        monkeypatch.setattr(threading, "excepthook", lambda args: None)
        assert "failed" in post(server, "/v1/chat/completions", ASK, 500)["error"]["message"]
        assert "failed" in post(server, "/v1/chat/completions", ASK, 500)["error"]["message"] and send(server, "GET", "/health")[0] == 500
    finally:
        server.close()


def test_a_reply_begun_is_finished_at_the_end(run):
    """SIGTERM in the middle of a stream: the stream goes on to its end, then the server is gone."""
    process = subprocess.Popen([sys.executable, "-u", str(ROOT / "sample.py"), "serve", "--run", str(run), "--port", "0"], stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    port = int(line.split("at http://127.0.0.1:")[1].split(";")[0])
    whole = None
    for end in (False, True):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps({**ASK, "max_tokens": 45, "stream": True, "logit_bias": {str(TOK.special_tokens["<|im_end|>"]): -100}}))
        answer = connection.getresponse()
        data = answer.read1(10)
        if end:
            process.send_signal(signal.SIGTERM)
        data += answer.read()
        assert data.endswith(b"data: [DONE]\n\n")
        text = "".join(c["delta"].get("content", "") for e in data.decode().split("\n\n")[:-2] for c in json.loads(e[6:])["choices"])
        assert whole in (None, text)
        whole = text
    assert process.wait(timeout=20) == 0
    assert "finishing what was begun" in process.stdout.read()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_stream_to_an_old_client(server):
    """HTTP/1.0 knows no chunks, and the end of the connection is the end."""
    body = json.dumps({**ASK, "stream": True}).encode()
    head, _, events = raw_until_end(
        server,
        b"POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        % len(body)
        + body,
    ).partition(b"\r\n\r\n")
    assert (
        b"Transfer-Encoding" not in head
        and b"Connection: close" in head
        and events.startswith(b"data: {")
        and events.endswith(b"\n\ndata: [DONE]\n\n")
    )


def raw_until_end(server, data):
    with socket.create_connection(server.server_address[:2], timeout=20) as s:
        s.sendall(data)
        return b"".join(iter(lambda: s.recv(1 << 16), b""))


@pytest.mark.parametrize("key", ["", " ", "\t", "a ", "\na", "a\nb", "\x1b", "\u200b"])
def test_a_key_that_is_none_is_refused_at_the_start(run, key):
    with pytest.raises(ValueError, match="--key"):
        serve.Server(served.Models(run), port=0, key=key)
    with pytest.raises(ValueError, match="--key"):
        sample.main(["serve", "--run", str(run), "--port", "0", "--key", key])


@pytest.mark.parametrize("key", ["sesame", "schl\u00fcssel", "\u9375 1"])
def test_a_key_of_any_letters(run, key):
    server = started(run, key=key)
    try:
        sent = {
            key.encode(),
            key.encode("latin-1", "ignore") if max(key) <= "\xff" else key.encode(),
        }
        for given, status in (
            *((b"Bearer " + each, 200) for each in sent),
            *((b"bearer " + each, 200) for each in sent),
            (key.encode(), 401),
            (b"Bearer " + key.encode() + b"x", 401),
            (b"Bearer " + key.encode()[:-1], 401),
            (b"Bearer ", 401),
            (b"Bearer", 401),
            (b"Basic " + key.encode(), 401),
            (b"", 401),
            (b"Bearer \xe9\xff", 401),
        ):
            assert raw(
                server,
                b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + given + b"\r\n\r\n",
            ).startswith(b"HTTP/1.1 %d " % status), given
        before_the_body = raw(server, POST + b"Content-Length: 1000000\r\n\r\n")
        assert before_the_body.startswith(b"HTTP/1.1 401 ")
    finally:
        server.close()


@pytest.mark.parametrize(
    "host, allow, called, not_called",
    [
        (
            "127.0.0.1",
            (),
            ["localhost", "LOCALHOST.", "127.0.0.1", "127.0.0.1:1", "[::1]:9"],
            [
                "evil.example",
                "127.0.0.1.evil.example",
                "localhost.evil.example",
                "127.1",
                "0x7f.1",
                "0.0.0.0",
                "10.0.0.1",
                "127.0.0.1..",
            ],
        ),
        (
            "127.0.0.2",
            (),
            ["127.0.0.2:80", "localhost"],
            ["evil.example", "evil.example.", "EVIL.example:80", "10.0.0.1"],
        ),
        (
            "127.0.0.3",
            ("Lamp.example.", "goat"),
            ["lamp.example", "LAMP.EXAMPLE.:80", "goat"],
            ["evil.example", "lamp.example.evil", "alamp.example"],
        ),
        ("0.0.0.0", (), ["127.0.0.1", "0.0.0.0:8000", "localhost"], ["evil.example", "10.9.8.7"]),
        (
            "::1",
            (),
            ["[::1]:80", "localhost", "[0:0:0:0:0:0:0:1]"],
            ["evil.example", "[::2]", "[2001:db8::1]"],
        ),
        ("::", (), ["[::1]", "[::]:8000"], ["evil.example", "[2001:db8::1]"]),
    ],
)
def test_names_of_the_server(run, host, allow, called, not_called):
    """A page of evil.example, whose name leads here (DNS rebinding), gets nothing from any address."""
    try:
        server = started(run, host=host, allow_host=allow)
    except OSError as e:
        pytest.skip(f"no address {host} on this machine: {e}")
    to = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        for name in called + not_called:
            with socket.create_connection((to, server.server_address[1]), timeout=20) as s:
                s.sendall(
                    b"GET /v1/models HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
                    % name.encode()
                )
                assert s.recv(100).startswith(
                    b"HTTP/1.1 %d " % (200 if name in called else 403)
                ), name
    finally:
        server.close()


def test_pages_of_others(server):
    for origin, status in (
        ("https://localhost:1", 200),
        ("HTTP://LOCALHOST:1", 200),
        ("http://localhost:2", 403),
        ("http://localhost", 403),
        ("chrome-extension://localhost:1", 403),
        ("file://localhost:1", 403),
        ("localhost:1", 403),
    ):
        assert (
            send(
                server,
                "POST",
                "/tokenize",
                {"content": "x"},
                {"Host": "localhost:1", "Origin": origin},
            )[0]
            == status
        ), origin


def test_a_body_does_not_stay_while_a_reply_is_written(server, monkeypatch):
    class Body(dict):
        pass

    left, read, events = [], fields.object_of, api.Request.events

    def remembered(data):
        body = Body(read(data))
        left.append(weakref.ref(body))
        return body

    monkeypatch.setattr(fields, "object_of", remembered)
    monkeypatch.setattr(
        api.Request,
        "events",
        lambda self: left.append(left[0]() is None) or events(self),
    )
    for stream in (False, True):
        left.clear()
        assert (
            send(server, "POST", "/v1/chat/completions", {**ASK, "stream": stream})[0] == 200
            and left[1] is True
        )


def waiting(server):
    """The addresses of the clients that have not read all of their answers."""
    return [h.client_address for h in list(server.handlers) if h.unread > 0]


def test_clients_that_do_not_read(run, monkeypatch):
    """Their answers wait up to a bound in all; beyond it the longest waiting is closed."""
    monkeypatch.setattr(serve, "UNREAD", 5 << 20)
    big = serve.Route("GET", lambda handler, _: request.Answer(b" " * (2 << 20)))
    monkeypatch.setitem(serve.ROUTES, "/v1/models", big)
    server, clients = started(run), []
    try:
        for n in range(4):
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.settimeout(20)
            s.connect(server.server_address)
            s.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            clients.append(s)
            ours = s.getsockname()
            wait_for(lambda: waiting(server).count(ours) == 1 and len(waiting(server)) == min(n + 1, 2))
        lengths = []
        for s in clients:
            with contextlib.suppress(ConnectionError):
                lengths.append(sum(map(len, iter(lambda: s.recv(1 << 16), b""))))
        assert sum(length > 2 << 20 for length in lengths) == 2 and lengths[-1] > 2 << 20
    finally:
        server.close()
        for s in clients:
            s.close()


def test_a_client_that_reads_nothing_at_all_is_left(run, monkeypatch):
    monkeypatch.setattr(serve.Handler, "timeout", 0.3)
    monkeypatch.setattr(serve, "SLOWEST", 1 << 30)
    big = serve.Route("GET", lambda handler, _: request.Answer(b" " * (8 << 20)))
    monkeypatch.setitem(serve.ROUTES, "/v1/models", big)
    server = started(run)
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(server.server_address)
        s.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: any(h.unread for h in list(server.handlers)))
        wait_for(lambda: not server.handlers)
    server.close()


@pytest.mark.parametrize("behind", [b"", GET + b"\r\n", b"GET /" + b"a" * 20_000])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_has_gone_frees_its_rows(server, monkeypatch, stream, behind):
    """Also where another request stands behind its own, read or unread."""
    assert api.GONE <= 0.25
    read, go = generate.Batch.read, threading.Event()
    monkeypatch.setattr(generate.Batch, "read", lambda self: (go.wait(0.05), read(self))[1])
    body = json.dumps(
        {
            **ASK,
            "n": 3,
            "stream": stream,
            "max_tokens": 60,
            "logit_bias": {str(TOK.special_tokens["<|im_end|>"]): -100},
        }
    ).encode()
    writer = server.models.writer("sft")
    with socket.create_connection(server.server_address) as s:
        s.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            % len(body)
            + body
            + behind
        )
        wait_for(lambda: len(writer.batch) == 3)
        rows = [row for row in writer.batch.rows if not row.finish]
    wait_for(lambda: not len(writer.batch) and not writer.texts)
    assert all(len(row.ids) < 40 for row in rows)
    go.set()


def test_memory_levels_off(server):
    """The same requests again take no more memory; python tests/malformed.py does it at length."""

    def some(n):
        for i in range(n):
            post(
                server,
                "/v1/chat/completions",
                {**ASK, "max_tokens": 2, "seed": i % 7, "logprobs": True},
            )
            post(server, "/tokenize", {"content": f"goat {i % 7}"})
            raw(server, b"GET / HTTP/1.1\r\n\r\n")

    some(10)
    tracemalloc.start()
    try:
        some(10)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        some(30)
        gc.collect()
        # A kilobyte for each request would be seen.
        assert tracemalloc.get_traced_memory()[0] - before < 30_000
    finally:
        tracemalloc.stop()


def test_much_work_is_not_in_the_way_of_chats(server, monkeypatch):
    """While others cut long texts and look inside, one by one, chats are answered."""
    with server.bulk, concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = [
            pool.submit(send, server, "POST", "/tokenize", {"content": "goat"}),
            pool.submit(send, server, "POST", "/api/look", {"text": "goat"}),
            pool.submit(send, server, "GET", "/api/log?stage=base"),
        ]
        wait_for(lambda: sum(h.since is None for h in list(server.handlers)) >= 3)
        post(server, "/v1/chat/completions", ASK)
        assert listed(server) == ["base", "sft"] and not any(one.done() for one in waiting)
        server.bulk.release()
        assert [one.result(20)[0] for one in waiting] == [200, 200, 404]
        server.bulk.acquire()


@pytest.mark.parametrize(
    "args, message",
    [
        (["--host", ""], "--host"),
        (["--port", "70000"], "--port 70000"),
        (["--port", "-1"], "--port -1"),
        (["--origin", " "], "--origin"),
        (["--allow-host", ""], "--allow-host"),
        (["--ranks", ""], "--ranks"),
    ],
)
def test_options_that_do_not_serve(args, message):
    with pytest.raises(ValueError, match=message):
        sample.main(["serve", "--run", "none", *args])


def test_a_port_that_is_taken(run):
    """The message names the port and the option that takes another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 is taken .* --port"):
            sample.main(["serve", "--run", str(run), "--port", str(port)])


ASKS = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, x-stainless-os,x-a",
}
SHARED = {
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Headers",
    "Access-Control-Allow-Methods",
    "Access-Control-Max-Age",
    "Access-Control-Allow-Credentials",
    "Access-Control-Allow-Private-Network",
}


@pytest.mark.parametrize(
    "named, origin, may",
    [
        ("*", "http://localhost:3000", True),
        ("*", "null", True),
        ("http://localhost:3000", "http://localhost:3000", True),
        ("HTTP://localhost:3000/", "http://LOCALHOST:3000", True),
        ("null", "null", True),
        ("http://localhost:3000", "http://localhost:3001", False),
        ("http://localhost:3000", "null", False),
        (None, "http://localhost:3000", False),
    ],
)
def test_pages_that_may_ask(run, named, origin, may):
    """A browser shows them every answer, refusals too, and lets them send any header. Others get nothing."""
    server = started(run, origin=named, key="sesame")
    try:
        for path in ("/v1/chat/completions", "/v1/models", "/health"):
            status, headers, data = send(
                server,
                "OPTIONS",
                path,
                headers={
                    "Origin": origin,
                    **ASKS,
                    "Access-Control-Request-Private-Network": "true",
                },
            )
            if not may:
                assert status == 403 and not SHARED & set(headers.keys())
                continue
            assert (
                status == 204
                and data == b""
                and headers["Access-Control-Allow-Origin"] in ("*", origin)
            )
            assert headers["Access-Control-Allow-Headers"] == "authorization, x-stainless-os, x-a"
            assert (
                "POST" in headers["Access-Control-Allow-Methods"]
                and int(headers["Access-Control-Max-Age"]) > 0
            )
            assert headers["Access-Control-Allow-Private-Network"] == "true"
            assert "Access-Control-Request-Headers" in headers.get_all("Vary")
        sent = {"Origin": origin, "Authorization": "Bearer sesame"}
        for body, status in ((ASK, 200), ({**ASK, "stream": True}, 200), ({**ASK, "n": 99}, 400)):
            got, headers, _ = send(server, "POST", "/v1/chat/completions", body, sent)
            assert got == (status if may else 403)
            assert headers["Access-Control-Allow-Origin"] == (
                (named if named == "*" else origin) if may else None
            )
            assert (named in (None, "*")) or "Origin" in headers.get_all("Vary")
        assert send(server, "POST", "/v1/chat/completions", ASK, {"Origin": origin})[0] == (
            401 if may else 403
        )
        headers = send(server, "GET", "/v1/models", headers=sent)[1]
        assert bool(headers["Access-Control-Allow-Origin"]) == may
    finally:
        server.close()


def test_a_preflight_cannot_write_headers_of_its_own(run):
    server = started(run, origin="*")
    try:
        asked = {**ASKS, "Access-Control-Request-Headers": "x-a, b c,, d:e, \xe4, x-f"}
        headers = send(server, "OPTIONS", "/v1/models", headers={"Origin": "http://a", **asked})[1]
        assert headers["Access-Control-Allow-Headers"] == "x-a, x-f"
        assert send(server, "OPTIONS", "/v1/models")[0] == 204
    finally:
        server.close()


@pytest.mark.parametrize(
    "origin", ["localhost:3000", "http://", "http://a/b", "http://a http://b", "a"]
)
def test_an_origin_that_is_none(run, origin):
    with pytest.raises(ValueError, match="--origin"):
        serve.Server(served.Models(run), port=0, origin=origin)


def test_an_old_client_keeps_its_connection(server):
    """HTTP/1.0 with keep-alive; a stream has no end there but that of the connection."""
    kept = b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    answers = raw(
        server, kept + kept.replace(b"GET", b"HEAD") + b"GET /health HTTP/1.0\r\n\r\n" + kept
    )
    heads = [part.partition(b"\r\n\r\n")[0] for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert len(heads) == 3 and all(
        head.startswith(b"200 ") and b"chunked" not in head for head in heads
    )
    assert [b"Connection: keep-alive" in head for head in heads] == [True, True, False]
    body = json.dumps({**ASK, "stream": True}).encode()
    asked = (
        b"POST /v1/chat/completions HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    )
    head, _, events = raw_until_end(server, asked + body + kept).partition(b"\r\n\r\n")
    assert b"chunked" not in head and b"Connection: close" in head
    assert events.startswith(b"data: {") and events.endswith(b"data: [DONE]\n\n")
    sent = (
        b"POST /tokenize HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        + IN_CHUNKS
    )
    assert raw(server, sent).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "coding, status",
    [("gzip", 415), ("br", 415), ("gzip, br", 415), ("identity", 200), ("Identity", 200), ("", 200)],
)
def test_a_body_that_is_compressed_is_refused_by_name(server, coding, status):
    body = b'{"content": "goat"}'
    body = gzip.compress(body) if status == 415 else body
    fields = f"Content-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
    out = raw(server, POST + fields.encode() + body)
    assert out.startswith(b"HTTP/1.1 %d " % status)
    if status == 415:
        assert b"Accept-Encoding: identity" in out and f"Content-Encoding: {coding}".encode() in out


def test_probes_have_no_key(run):
    """They hear that it is up and no more; what the models are doing is for who has the key."""
    server = started(run, key="sesame")
    try:
        for path in ("/health", "/health/", "/health?a=b", "/v1/health", "/ping"):
            for method in ("GET", "HEAD"):
                status, _, data = send(server, method, path)
                assert status == 200 and data == (b"" if method == "HEAD" else b'{"status": "ok"}')
            assert "models" in json.loads(
                send(server, "GET", path, headers={"Authorization": "BEARER sesame"})[2]
            )
        assert raw(server, b"OPTIONS /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 204 ")
        for path in ("/v1/models", "/v1/models/sft", "/api/about", "/healthy", "/v1", "/health/x"):
            status, headers, data = send(server, "GET", path)
            assert status == 401 and headers["WWW-Authenticate"] == "Bearer", path
            assert json.loads(data)["error"]["code"] == "invalid_api_key"
        assert (
            send(server, "POST", "/v1/chat/completions", ASK, {"Authorization": "bEARER  sesame"})[
                0
            ]
            == 200
        )
    finally:
        server.close()
