"""chat/serve.py: many clients, clients that go away, keys and origins, an orderly end."""

import concurrent.futures
import contextlib
import functools
import gc
import gzip
import http.client
import json
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import types
import weakref

import pytest

import malformed
import sample
from chat import api, fields, generate, request, serve, served
from conftest import ROOT
from model import device
from serving import (  # noqa: F401
    ASK, CHAT, GET, IN_CHUNKS, POST, TOK, choices, listed, post, post_bytes, raw, run,
    running, send, server, started, wait_for,
)

NEVER_ENDS = {"logit_bias": {str(TOK.special_tokens["<|im_end|>"]): -100}}
SESAME = {"Authorization": "Bearer sesame"}


def contents(found):
    return [choice["message"]["content"] for choice in found]


def raw_until_end(server, data):
    with socket.create_connection(server.server_address[:2], timeout=20) as s:
        s.sendall(data)
        return b"".join(iter(lambda: s.recv(1 << 16), b""))


def test_the_rest(server):
    assert listed(server) == ["base", "sft"]
    assert json.loads(send(server, "GET", "/health")[2])["status"] == "ok"
    looked = post(server, "/api/look", {"messages": ASK["messages"]})
    where = [i for i, token in enumerate(looked["ids"]) if token in TOK.special_tokens.values()]
    assert looked["special"] == where and len(where) == 5
    text = "the lamp <|im_end|>"
    cut = post(server, "/tokenize", {"content": text})
    assert cut["tokens"] == TOK.encode_ordinary(text) and cut["count"] == len(cut["tokens"])
    assert "".join(cut["pieces"]) == text
    assert post(server, "/detokenize", {"tokens": cut["tokens"]})["content"] == text
    status, headers, data = send(server, "HEAD", "/health")
    assert status == 200 and data == b"" and int(headers["Content-Length"]) > 0
    assert send(server, "GET", CHAT)[0] == 405


def test_what_was_not_read_again_is_counted(run):
    """A second request that begins with the same tokens, and says the same."""
    with running(run) as server:
        first, again = choices(server, model="sft"), choices(server, model="sft")
        counted = json.loads(send(server, "GET", "/health")[2])["models"]["sft"]
        n_prompt = len(sample.render_prompt(ASK["messages"], TOK))
        assert first == again and counted["prompt_tokens"] == 2 * n_prompt
        assert counted["cached_tokens"] == n_prompt - 1     # the last token is read anew


@pytest.mark.parametrize("path", [
    "/secret.txt", "/../secret.txt", "/base/model.safetensors", "/%2e%2e/etc/passwd", "/v1",
    "//etc/passwd",
])
def test_no_file_is_served(server, path):
    status, _, data = send(server, "GET", path)
    assert status == 404 and b"secret" not in data.replace(path.encode(), b"")
    assert json.loads(data)["error"]["type"] == "invalid_request_error"


def test_malformed_requests(server, capfd):
    """Six hundred of them; python tests/malformed.py sends ten thousand."""
    before = choices(server)
    answers = malformed.attack(server.server_address[1], 600)
    assert {status for _, status in answers} >= {400, 404, 405, 413, 501, "closed"}
    assert choices(server) == before and capfd.readouterr().err == ""


def test_who_dawdles_is_cut_off(run, monkeypatch):
    """One sends a byte now and then, one half a body; a good request beside them is answered."""
    monkeypatch.setattr(serve.Handler, "timeout", 0.5)
    with running(run) as server, contextlib.ExitStack() as stack:
        to = server.server_address
        drips, stops = (stack.enter_context(socket.create_connection(to)) for _ in range(2))
        stops.sendall(POST + b"Content-Length: 50\r\n\r\n{")
        began = time.time()
        with pytest.raises(ConnectionError):
            for byte in b"GET /health HTTP/1.1\r\nX-Header: " + b"x" * 1000:
                drips.sendall(bytes([byte]))
                time.sleep(0.02)
        assert 0.4 < time.time() - began < 10 and send(server, "GET", "/health")[0] == 200
        stops.settimeout(10)
        while stops.recv(1000):         # an answer or none, but an end
            pass


MODELS = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("bound, status", [("CONNECTIONS", 503), ("FROM_ONE_ADDRESS", 429)])
def test_so_many_connections_and_no_more(run, monkeypatch, bound, status):
    """Who has waited longest gives way; where all are being answered a new one is refused."""
    monkeypatch.setattr(serve, bound, 2)
    server, busy, begun = started(run), threading.Event(), []

    def models(handler, _):
        begun.append(handler)
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
        assert first.recv(10) == b""    # it gave way
        second.sendall(MODELS)
        wait_for(lambda: len(begun) == 1)
        with socket.create_connection(to) as third:
            third.sendall(MODELS)
            wait_for(lambda: len(begun) == 2)
            with socket.create_connection(to, timeout=20) as fourth:
                assert fourth.recv(100).startswith(b"HTTP/1.1 %d " % status)
            busy.set()
            for answered in (second, third):
                assert answered.recv(100).startswith(b"HTTP/1.1 200")
    wait_for(lambda: not server.handlers)
    assert send(server, "GET", "/health")[0] == 200
    server.close()


def test_a_key(run):
    with running(run, key="sesame", origin="*") as server:
        assert send(server, "POST", CHAT, ASK)[0] == 401
        assert send(server, "GET", "/v1/models", None, {"Authorization": "Bearer wrong"})[0] == 401
        status, headers, _ = send(server, "POST", CHAT, ASK, SESAME)
        assert status == 200 and headers["Access-Control-Allow-Origin"] == "*"
        assert send(server, "OPTIONS", CHAT)[0] == 204
        stranger = {**SESAME, "Host": "evil.example"}
        assert send(server, "GET", "/v1/models", None, stranger)[0] == 403


def test_many_at_once_are_each_as_alone(server):
    """Sixty requests, some of whose clients go away: nothing is lost, nothing mixed."""
    rng, asked = random.Random(4), []
    for _ in range(60):
        text = rng.choice(["Who?", "the lamp", "said the goat"])
        asked.append({
            "messages": [{"role": "user", "content": text}],
            "seed": rng.randrange(9),
            "max_tokens": rng.randint(1, 30),
            "temperature": rng.choice([0, 1]),
            "n": rng.randint(1, 3),
        })

    def one(body):
        if body["seed"]:
            return contents(post(server, CHAT, body)["choices"])
        with socket.create_connection(server.server_address) as s:      # goes away
            s.sendall(post_bytes(CHAT, {**body, "stream": True, "max_tokens": 40}))
            s.recv(10)
        return None

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        together = list(pool.map(one, asked))
    for body, found in zip(asked, together):
        assert found is None or found == contents(post(server, CHAT, body)["choices"])
    writer = server.models.writers["sft"]
    wait_for(lambda: not len(writer.batch) and not writer.texts)
    assert not writer.waiting


def test_a_full_queue_and_a_closing_server(run):
    with running(run) as server:
        writer = server.models.writer("sft")
        writer.most_waiting = 0
        assert post(server, CHAT, ASK, 429)["error"]["code"] == "queue_full"
        writer.close()
        assert "shutting down" in post(server, CHAT, ASK, 503)["error"]["message"]


@pytest.mark.parametrize("where", ["add", "step"])
def test_a_writer_that_fails_leaves_nobody_waiting(run, monkeypatch, where):
    with running(run) as server:
        monkeypatch.setattr(generate.Batch, where, lambda self, *_: 1 / 0)
        monkeypatch.setattr(threading, "excepthook", lambda args: None)
        for _ in range(2):
            assert "failed" in post(server, CHAT, ASK, 500)["error"]["message"]
        assert send(server, "GET", "/health")[0] == 500


def kill_its_last_thread(pid, number):
    """Linux gives a signal to the thread that is named, where it else prefers the main one."""
    os.kill(max(map(int, os.listdir(f"/proc/{pid}/task"))), number)


LINUX = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="Linux names threads so")


@pytest.mark.parametrize("number, to", [
    (signal.SIGTERM, os.kill),          # kill
    pytest.param(signal.SIGTERM, kill_its_last_thread, marks=LINUX),    # as kill does, rarely
    (signal.SIGTERM, os.killpg),        # systemd sends it to the writer's process, too
    (signal.SIGINT, os.killpg),         # and so does a terminal on Ctrl-C
])
def test_a_reply_begun_is_finished_at_the_end(run, number, to):
    """A signal in the middle of a stream: it goes on to its end, then the server is gone."""
    words = [sys.executable, "-u", str(ROOT / "sample.py"), "serve", "--run", str(run)]
    process = subprocess.Popen([*words, "--port", "0"], stdout=subprocess.PIPE, text=True,
                               start_new_session=True)
    line = process.stdout.readline()
    port = int(line.split("at http://127.0.0.1:")[1].split(";")[0])
    whole = []
    for end in (False, True):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = {**ASK, **NEVER_ENDS, "max_tokens": 45, "stream": True}
        connection.request("POST", CHAT, json.dumps(body))
        answer = connection.getresponse()
        data = answer.read1(10)
        if end:
            to(process.pid, number)
        *events, last, rest = (data + answer.read()).decode().split("\n\n")
        assert last == "data: [DONE]" and rest == ""
        deltas = [c["delta"] for event in events for c in json.loads(event[6:])["choices"]]
        whole.append("".join(delta.get("content", "") for delta in deltas))
    try:
        wait_for(lambda: process.poll() is not None)
    finally:
        process.kill()
    assert whole[0] == whole[1] and process.returncode == 0
    assert "finishing what was begun" in process.stdout.read()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_connection_that_waits_again_while_the_server_ends(run, monkeypatch):
    """Its handler is not waiting yet when close() looks, so it must see for itself."""
    server, heads, head = started(run), [], request.Head
    ending = threading.Thread(target=server.close)

    def late():
        """The head of the connection's second request, of which nothing comes."""
        heads.append(head())
        if len(heads) == 2:
            ending.start()
            wait_for(lambda: server.fileno() == -1)     # close() has looked
        return heads[-1]

    monkeypatch.setattr(request, "Head", late)
    with socket.create_connection(server.server_address) as s:
        s.sendall(GET + b"\r\n")
        wait_for(lambda: server.fileno() == -1)
        ending.join(timeout=10)
        assert not ending.is_alive()


def test_a_stream_to_an_old_client(server):
    """HTTP/1.0 knows no chunks, and the end of the connection is the end."""
    answer = raw_until_end(server, post_bytes(CHAT, {**ASK, "stream": True}, "1.0"))
    head, _, events = answer.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head and b"Connection: close" in head
    assert events.startswith(b"data: {") and events.endswith(b"\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize("key", ["", " ", "\t", "a ", "\na", "a\nb", "\x1b", "\u200b"])
def test_a_key_that_is_none_is_refused_at_the_start(run, key):
    with pytest.raises(ValueError, match="--key"):
        serve.Server(served.Models(run), port=0, key=key)
    with pytest.raises(ValueError, match="--key"):
        sample.main(["serve", "--run", str(run), "--port", "0", "--key", key])


@pytest.mark.parametrize("key", ["sesame", "schl\u00fcssel", "\u9375 1"])
def test_a_key_of_any_letters(run, key):
    right = {key.encode()}
    if max(key) <= "\xff":
        right.add(key.encode("latin-1"))
    wrong = [b"", b"Bearer", b"Bearer ", b"Bearer \xe9\xff", key.encode(), b"Basic " + key.encode()]
    wrong += [b"Bearer " + key.encode() + b"x", b"Bearer " + key.encode()[:-1]]
    cases = [(name + each, 200) for name in (b"Bearer ", b"bearer ") for each in right]
    with running(run, key=key) as server:
        for given, status in cases + [(each, 401) for each in wrong]:
            head = MODELS[:-2] + b"Authorization: " + given + b"\r\n\r\n"
            assert raw(server, head).startswith(b"HTTP/1.1 %d " % status), given
        before_the_body = raw(server, POST + b"Content-Length: 1000000\r\n\r\n")
        assert before_the_body.startswith(b"HTTP/1.1 401 ")


NAMES = [                               # host, --allow-host, its names, and names that are not
    (
        "127.0.0.1",
        (),
        "localhost LOCALHOST. 127.0.0.1 127.0.0.1:1 [::1]:9",
        "evil.example 127.0.0.1.evil.example localhost.evil.example 127.1 0x7f.1 0.0.0.0 10.0.0.1 "
        "127.0.0.1..",
    ),
    (
        "127.0.0.2",
        (),
        "127.0.0.2:80 localhost",
        "evil.example evil.example. EVIL.example:80 10.0.0.1",
    ),
    (
        "127.0.0.3",
        ("Lamp.example.", "goat"),
        "lamp.example LAMP.EXAMPLE.:80 goat",
        "evil.example lamp.example.evil alamp.example",
    ),
    ("0.0.0.0", (), "127.0.0.1 0.0.0.0:8000 localhost", "evil.example 10.9.8.7"),
    ("::1", (), "[::1]:80 localhost [0:0:0:0:0:0:0:1]", "evil.example [::2] [2001:db8::1]"),
    ("::", (), "[::1] [::]:8000", "evil.example [2001:db8::1]"),
]


@pytest.mark.parametrize("host, allow, called, not_called", NAMES)
def test_names_of_the_server(run, host, allow, called, not_called):
    """A page of evil.example, whose name leads here (DNS rebinding), gets nothing."""
    try:
        server = started(run, host=host, allow_host=allow)
    except OSError as e:
        pytest.skip(f"no address {host} on this machine: {e}")
    to = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), server.server_address[1]
    cases = [(name, 200) for name in called.split()] + [(n, 403) for n in not_called.split()]
    try:
        for name, status in cases:
            with socket.create_connection(to, timeout=20) as s:
                s.sendall(b"GET /v1/models HTTP/1.1\r\nHost: %s\r\n\r\n" % name.encode())
                assert s.recv(100).startswith(b"HTTP/1.1 %d " % status), name
    finally:
        server.close()


@pytest.mark.parametrize("origin, status", [
    ("https://localhost:1", 200),
    ("HTTP://LOCALHOST:1", 200),
    ("http://localhost:2", 403),
    ("http://localhost", 403),
    ("http://evil.example", 403),
    ("null", 403),
    ("chrome-extension://localhost:1", 403),
    ("file://localhost:1", 403),
    ("localhost:1", 403),
])
def test_pages_of_others(server, origin, status):
    headers = {"Host": "localhost:1", "Origin": origin}
    assert send(server, "POST", "/tokenize", {"content": "x"}, headers)[0] == status


def test_a_body_does_not_stay_while_a_reply_is_written(server, monkeypatch):
    class Body(dict):
        pass

    left, read, events = [], fields.object_of, api.Request.events

    def remembered(data):
        body = Body(read(data))
        left.append(weakref.ref(body))
        return body

    def looked(self):
        left.append(left[0]() is None)
        return events(self)

    monkeypatch.setattr(fields, "object_of", remembered)
    monkeypatch.setattr(api.Request, "events", looked)
    for stream in (False, True):
        left.clear()
        assert send(server, "POST", CHAT, {**ASK, "stream": stream})[0] == 200
        assert left[1] is True


def big(n):
    """A Route whose answer has n bytes."""
    return serve.Route("GET", lambda handler, _: request.Answer(b" " * n))


def asking(server):
    """A socket on which the models are asked for, and nothing is read."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.settimeout(20)
    s.connect(server.server_address)
    s.sendall(MODELS[:-2] + b"Connection: close\r\n\r\n")
    return s


def unread(server):
    """The addresses of the clients that have not read all of their answers."""
    return [h.client_address for h in list(server.handlers) if h.unread > 0]


def test_clients_that_do_not_read(run, monkeypatch):
    """Their answers wait up to a bound in all; beyond it the longest waiting is closed."""
    monkeypatch.setattr(serve, "UNREAD", 5 << 20)
    monkeypatch.setitem(serve.ROUTES, "/v1/models", big(2 << 20))
    clients, lengths = [], []
    with running(run) as server:
        for n in (1, 2, 2, 2):
            clients.append(asking(server))
            ours = clients[-1].getsockname()
            wait_for(lambda: unread(server).count(ours) == 1 and len(unread(server)) == n)
        for s in clients:
            with s, contextlib.suppress(ConnectionError):
                lengths.append(sum(map(len, iter(lambda: s.recv(1 << 16), b""))))
        assert sum(length > 2 << 20 for length in lengths) == 2 and lengths[-1] > 2 << 20


def test_a_client_that_reads_nothing_at_all_is_left(run, monkeypatch):
    monkeypatch.setattr(serve.Handler, "timeout", 0.3)
    monkeypatch.setattr(serve, "SLOWEST", 1 << 30)
    monkeypatch.setitem(serve.ROUTES, "/v1/models", big(8 << 20))
    with running(run) as server, asking(server):
        wait_for(lambda: unread(server))
        wait_for(lambda: not server.handlers)


@pytest.mark.parametrize("behind", [b"", GET + b"\r\n", b"GET /" + b"a" * 20_000])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_has_gone_frees_its_rows(server, monkeypatch, stream, behind):
    """Also where another request stands behind its own, read or unread."""
    assert api.GONE <= 0.25
    step, go = generate.Batch.step, threading.Event()
    monkeypatch.setattr(generate.Batch, "step", lambda self: (go.wait(0.05), step(self))[1])
    body = {**ASK, **NEVER_ENDS, "n": 3, "stream": stream, "max_tokens": 60}
    writer = server.models.writer("sft")
    with socket.create_connection(server.server_address) as s:
        s.sendall(post_bytes(CHAT, body) + behind)
        wait_for(lambda: len(writer.batch) == 3)
        rows = [row for row in writer.batch.rows if not row.finish]
    wait_for(lambda: not len(writer.batch) and not writer.texts)
    assert all(len(row.ids) < 40 for row in rows)
    go.set()


def test_memory_levels_off(server):
    """The same requests again take no more memory; python tests/malformed.py does it at length."""

    def some(n):
        for i in range(n):
            choices(server, max_tokens=2, seed=i % 7, logprobs=True)
            post(server, "/tokenize", {"content": f"goat {i % 7}"})
            raw(server, b"GET / HTTP/1.1\r\n\r\n")
        wait_for(lambda: not server.handlers)   # one that ends has a buffer of 64 KiB
        gc.collect()

    some(10)
    tracemalloc.start()
    try:
        some(10)
        before = tracemalloc.get_traced_memory()[0]
        some(30)
        # A kilobyte for each request would be seen.
        assert tracemalloc.get_traced_memory()[0] - before < 30_000
    finally:
        tracemalloc.stop()


def test_much_work_is_not_in_the_way_of_chats(server):
    """While others cut long texts and look inside, one by one, chats are answered."""
    with server.bulk, concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = [
            pool.submit(send, server, "POST", "/tokenize", {"content": "goat"}),
            pool.submit(send, server, "POST", "/api/look", {"text": "goat"}),
            pool.submit(send, server, "GET", "/api/log?stage=base"),
        ]
        wait_for(lambda: sum(h.since is None for h in list(server.handlers)) >= 3)
        choices(server)
        assert listed(server) == ["base", "sft"] and not any(one.done() for one in waiting)
        server.bulk.release()
        assert [one.result(20)[0] for one in waiting] == [200, 200, 404]
        server.bulk.acquire()


def test_a_process_connects_to_the_gpu_before_it_uploads(monkeypatch):
    called = []
    gpu = types.SimpleNamespace(bf16=True)
    monkeypatch.setattr(device, "connect", lambda dtype: called.append(dtype) or gpu)
    monkeypatch.setattr(device, "upload", lambda *model, bf16: called.append((model, bf16)))
    sent = pickle.loads(pickle.dumps(functools.partial(serve.uploaded, "bf16")))
    sent("params", "cfg")
    assert called == ["bf16", (("params", "cfg"), True)]


@pytest.mark.parametrize("args, message", [
    (["--host", ""], "--host"),
    (["--port", "70000"], "--port 70000"),
    (["--port", "-1"], "--port -1"),
    (["--origin", " "], "--origin"),
    (["--allow-host", ""], "--allow-host"),
    (["--ranks", ""], "--ranks"),
])
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
    "Access-Control-Request-Private-Network": "true",
}


@pytest.mark.parametrize("named, origin, may", [
    ("*", "http://localhost:3000", True),
    ("*", "null", True),
    ("http://localhost:3000", "http://localhost:3000", True),
    ("HTTP://localhost:3000/", "http://LOCALHOST:3000", True),
    ("null", "null", True),
    ("http://localhost:3000", "http://localhost:3001", False),
    ("http://localhost:3000", "null", False),
    (None, "http://localhost:3000", False),
])
def test_pages_that_may_ask(run, named, origin, may):
    """A browser shows them every answer, refusals too, and lets them send any header."""
    with running(run, origin=named, key="sesame") as server:
        for path in (CHAT, "/v1/models", "/health"):
            status, headers, data = send(server, "OPTIONS", path, None, {"Origin": origin, **ASKS})
            found = {name.removeprefix("Access-Control-"): value for name, value in headers.items()
                     if name.startswith("Access-Control-")}
            assert (status, data if may else b"") == (204 if may else 403, b"")
            if not may:
                assert not found
                continue
            assert found["Allow-Origin"] in ("*", origin) and "POST" in found["Allow-Methods"]
            assert found["Allow-Headers"] == "authorization, x-stainless-os, x-a"
            assert int(found["Max-Age"]) > 0 and found["Allow-Private-Network"] == "true"
            assert "Access-Control-Request-Headers" in headers.get_all("Vary")
        sent = {"Origin": origin, **SESAME}
        for body, status in ((ASK, 200), ({**ASK, "stream": True}, 200), ({**ASK, "n": 99}, 400)):
            got, headers, _ = send(server, "POST", CHAT, body, sent)
            assert got == (status if may else 403)
            shown = "*" if named == "*" else origin
            assert headers["Access-Control-Allow-Origin"] == (shown if may else None)
            assert named in (None, "*") or "Origin" in headers.get_all("Vary")
        without_key = send(server, "POST", CHAT, ASK, {"Origin": origin})[0]
        assert without_key == (401 if may else 403)
        headers = send(server, "GET", "/v1/models", headers=sent)[1]
        assert bool(headers["Access-Control-Allow-Origin"]) == may


def test_a_preflight_cannot_write_headers_of_its_own(run):
    with running(run, origin="*") as server:
        asked = {**ASKS, "Access-Control-Request-Headers": "x-a, b c,, d:e, \xe4, x-f"}
        headers = send(server, "OPTIONS", "/v1/models", None, {"Origin": "http://a", **asked})[1]
        assert headers["Access-Control-Allow-Headers"] == "x-a, x-f"
        assert send(server, "OPTIONS", "/v1/models")[0] == 204


@pytest.mark.parametrize(
    "origin", ["localhost:3000", "http://", "http://a/b", "http://a http://b", "a"]
)
def test_an_origin_that_is_none(run, origin):
    with pytest.raises(ValueError, match="--origin"):
        serve.Server(served.Models(run), port=0, origin=origin)


def test_an_old_client_keeps_its_connection(server):
    """HTTP/1.0 with keep-alive; a stream has no end there but that of the connection."""
    keep, plain = b"Connection: keep-alive\r\n", b"GET /health HTTP/1.0\r\n\r\n"
    kept = plain[:-2] + keep + b"\r\n"
    answers = raw(server, kept + kept.replace(b"GET", b"HEAD") + plain + kept)
    heads = [part.partition(b"\r\n\r\n")[0] for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert len(heads) == 3 and all(head.startswith(b"200 ") for head in heads)
    assert not any(b"chunked" in head for head in heads)
    assert [b"Connection: keep-alive" in head for head in heads] == [True, True, False]
    asked = post_bytes(CHAT, {**ASK, "stream": True}, "1.0", keep)
    head, _, events = raw_until_end(server, asked + kept).partition(b"\r\n\r\n")
    assert b"chunked" not in head and b"Connection: close" in head
    assert events.startswith(b"data: {") and events.endswith(b"data: [DONE]\n\n")
    head = POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n"
    assert raw(server, head + IN_CHUNKS).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("coding, status", [
    ("gzip", 415),
    ("br", 415),
    ("gzip, br", 415),
    ("identity", 200),
    ("Identity", 200),
    ("", 200),
])
def test_a_body_that_is_compressed_is_refused_by_name(server, coding, status):
    body = b'{"content": "goat"}'
    body = gzip.compress(body) if status == 415 else body
    sent = f"Content-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
    out = raw(server, POST + sent.encode() + body)
    assert out.startswith(b"HTTP/1.1 %d " % status)
    if status == 415:
        assert b"Accept-Encoding: identity" in out and f"Content-Encoding: {coding}".encode() in out


def test_probes_have_no_key(run):
    """They hear that it is up and no more; what the models are doing is for who has the key."""
    with running(run, key="sesame") as server:
        for path in ("/health", "/health/", "/health?a=b", "/v1/health", "/ping"):
            for method, said in (("GET", b'{"status": "ok"}'), ("HEAD", b"")):
                status, _, data = send(server, method, path)
                assert (status, data) == (200, said)
            found = send(server, "GET", path, None, {"Authorization": "BEARER sesame"})[2]
            assert "models" in json.loads(found)
        assert raw(server, b"OPTIONS /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 204 ")
        for path in ("/v1/models", "/v1/models/sft", "/api/about", "/healthy", "/v1", "/health/x"):
            status, headers, data = send(server, "GET", path)
            assert status == 401 and headers["WWW-Authenticate"] == "Bearer", path
            assert json.loads(data)["error"]["code"] == "invalid_api_key"
        assert send(server, "POST", CHAT, ASK, {"Authorization": "bEARER  sesame"})[0] == 200
