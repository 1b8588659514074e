"""chat/request.py: heads and chunks that are read, and those that are refused."""

import http.client
import io
import json
import pickle
import random
import re

import pytest

from chat import request
from serving import ASK, GET, IN_CHUNKS, POST, raw, run, server  # noqa: F401


@pytest.mark.parametrize(
    "data, status",
    [
        # the request line
        (b"GET /health\r\n\r\n", 400),
        (b"GET  /health HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET\t/health HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
        (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/01.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xe4 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET health HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
        (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n", 414),
        # who is asked
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (GET + b"Host: localhost\r\n\r\n", 400),
        (GET + b"host: evil.example\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://localhost/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET http://a@localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        # lines and fields
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
        (b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
        (GET + b"A: b\rC: d\r\n\r\n", 400),
        (GET + b"A : b\r\n\r\n", 400),
        (GET + b"A\t: b\r\n\r\n", 400),
        (GET + b" A: b\r\n\r\n", 400),
        (GET + b"A: b\r\n c\r\n\r\n", 400),
        (GET + b"A: b\r\n\tc\r\n\r\n", 400),
        (GET + b": b\r\n\r\n", 400),
        (GET + b"abc\r\n\r\n", 400),
        (GET + b"A\x00: b\r\n\r\n", 400),
        (GET + b"A: b\x00\r\n\r\n", 400),
        (GET + b"A: \x1b[2J\r\n\r\n", 400),
        (GET + b"A: b\x7f\r\n\r\n", 400),
        (GET + b"\xe4: b\r\n\r\n", 400),
        (GET + b"A(: b\r\n\r\n", 400),
        (GET, 400),
        (GET + b"A: b", 400),
        (GET + b"A: b\r\n" * 101 + b"\r\n", 431),
        (GET + b"A: " + b"b" * 9000 + b"\r\n\r\n", 431),
        (GET + b"".join(b"A%d: " % i + b"b" * 8000 + b"\r\n" for i in range(5)) + b"\r\n", 431),
        (GET + b"Origin: a\r\nOrigin: b\r\n\r\n", 400),
        (GET + b"Authorization: a\r\nAuthorization: b\r\n\r\n", 400),
        # where the body ends
        (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
        (POST + b"Content-Length: 2, 2\r\n\r\n{}", 400),
        (POST + b"Content-Length: +2\r\n\r\n{}", 400),
        (POST + b"Content-Length: -2\r\n\r\n", 400),
        (POST + b"Content-Length: 0x2\r\n\r\n{}", 400),
        (POST + b"Content-Length: 1_0\r\n\r\n", 400),
        (POST + b"Content-Length: 2 2\r\n\r\n", 400),
        (POST + b"Content-Length: \xb2\r\n\r\n", 400),
        (POST + "Content-Length: \u0662\r\n\r\n".encode(), 400),
        (POST + b"Content-Length: 2.0\r\n\r\n", 400),
        (POST + b"Content-Length:\r\n\r\n", 400),
        (POST + b"Content-Length: 1048577\r\n\r\n", 413),
        (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", 400),
        (POST + b"Content-Length: 2\r\nTransfer-Encoding: identity\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: xchunked\r\n\r\n", 400),
        (POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n", 400),
        (POST + b"Transfer-Encoding:\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (POST + b"Expect: tea\r\nContent-Length: 2\r\n\r\n", 417),
    ],
)
def test_heads_that_are_refused(server, data, status):
    """One answer, whatever stands behind it, and the end of the connection."""
    with pytest.raises(request.Refused) as e:
        request.Head().read(io.BytesIO(data))
    assert e.value.status == status
    answers = raw(server, data + GET + b"\r\n")
    assert re.findall(rb"HTTP/1\.1 (\d\d\d) ", answers) == [b"%d" % status]
    assert answers.startswith(b"HTTP/1.1 ") and b"\r\nConnection: close\r\n" in answers


@pytest.mark.parametrize(
    "data, want",
    [
        (GET + b"\r\n", {"method": "GET", "target": "/health", "minor": 1, "close": False}),
        (GET + b"\r\n", {"host": "localhost", "length": None, "chunked": False}),
        (b"\r\n" + GET + b"\r\n", {"method": "GET"}),
        (b"GET / HTTP/1.7\r\nHost: a\r\n\r\n", {"minor": 1, "close": False}),
        (b"GET / HTTP/1.0\r\n\r\n", {"minor": 0, "host": "", "close": True}),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", {"minor": 0, "close": False}),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive, close\r\n\r\n", {"close": True}),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", {"chunked": True, "length": None}),
        (GET + b"Transfer-Encoding: CHUNKED\r\n\r\n", {"chunked": True}),
        (
            POST + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
            {"chunked": True, "expects": True},
        ),
        (GET + b"Connection: Keep-Alive, CLOSE\r\n\r\n", {"close": True}),
        (
            GET + b"A:b\r\nA: \t c d\t \r\nB:\r\n\r\n",
            {"fields": {"host": "localhost", "a": "b, c d", "b": ""}},
        ),
        (
            b"GET http://LocalHost:80/a?b HTTP/1.1\r\nHost: localhost:80\r\n\r\n",
            {"target": "/a?b", "host": "localhost:80"},
        ),
        (b"GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n", {"target": "/?b"}),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", {"target": "*"}),
        (POST + b"Content-Length: 0002\r\n\r\n", {"length": 2}),
        (POST + b"Content-Length: 1048576\r\n\r\n", {"length": 1 << 20}),
        (POST + b"Expect: 100-Continue\r\nContent-Length: 2\r\n\r\n", {"expects": True}),
        (POST + b"Expect: 100-continue\r\nContent-Length: 0\r\n\r\n", {"expects": False}),
        (b"GET / HTTP/1.1\r\nHost: [::1]:8000\r\nUser-Agent: \xe4\r\n\r\n", {"host": "[::1]:8000"}),
        (b"GET /" + b"a" * 8178 + b" HTTP/1.1\r\nHost: a\r\n\r\n", {"method": "GET"}),
    ],
)
def test_heads_that_are_read(data, want):
    head = request.Head()
    assert head.read(io.BytesIO(data + b"rest"))
    assert {name: getattr(head, name) for name in want} == want


def test_mutated_heads():
    """What is read means one thing: fields are printable and complete, single ones are single."""
    rng, read, refused = random.Random(5), 0, 0
    good = [
        GET,
        POST + b"Content-Length: 12\r\n",
        b"GET http://localhost/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nA: b\r\n",
    ]
    parts = [bytes([c]) for c in b"\r\n \t\x00:,1A\xe4\x1b"]
    parts += [b"\r\n", b"Host: b\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"]
    for _ in range(5000):
        data = bytearray(rng.choice(good) + b"\r\n")
        for _ in range(rng.randint(1, 3)):
            i = rng.randrange(len(data))
            data[i : i + rng.randrange(2)] = rng.choice(parts)
        head, file = request.Head(), io.BytesIO(bytes(data) + b"body")
        try:
            head.read(file)
        except request.Refused as e:
            refused += 1
            assert 400 <= e.status < 600
            continue
        read += 1
        lines = bytes(data[: file.tell()]).removeprefix(b"\r\n").split(b"\r\n")
        assert lines[-2:] == [b"", b""] and not set(b"\r\n\x00\x1b") & set(b"".join(lines))
        names = [line.partition(b":")[0].decode("latin-1").lower() for line in lines[1:-2]]
        assert set(names) == set(head.fields) and names.count("host") == 1
        assert all(re.fullmatch("[!-9;-~]+", name) for name in names)
        lengths, codings = names.count("content-length"), names.count("transfer-encoding")
        assert lengths + codings < 2 and head.chunked == (codings == 1)
        assert head.length == (int(head.fields["content-length"]) if lengths else None)
    assert read > 200 and refused > 2000


def test_one_request_one_answer(server):
    """A body that is of no use is read and thrown away; what stands in it is no request."""
    inner = POST + b'Content-Length: 17\r\n\r\n{"content":"abc"}'
    for line in (b"GET /health", b"HEAD /health", b"OPTIONS /", b"GET /none"):
        head = b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(inner)
        assert raw(server, line + head + inner).count(b"HTTP/1.1 ") == 1
    good = POST + b'Content-Length: 15\r\n\r\n{"content":"a"}'
    answers = raw(server, good + good.replace(b'"a"', b"'a'") + good)
    # A body that is no JSON was read to its end.
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"400", b"200"]
    none = b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert raw(server, none + GET + b"\r\n").count(b"HTTP/1.1 ") == 2


def test_a_body_is_sent_when_it_is_asked_for(server):
    head = POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n"
    answers = raw(server, head % 15 + b'{"content":"a"}')
    assert answers.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert raw(server, head % (request.LARGEST_BODY + 1)).startswith(b"HTTP/1.1 413 ")


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data, want",
    [
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"1\r\na\r\n00002\r\nbc\r\n000\r\n\r\n", b"abc"),
        (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2),
        (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
        (b'1;a\r\na\r\n1 ; b = "c;\\"d" ;e=f\r\nb\r\n0;g\r\n\r\n', b"ab"),
        (
            b"1\r\na\r\n0\r\nContent-Length: 5\r\nHost: evil.example\r\n"
            b"Transfer-Encoding: x\r\n\r\n",
            b"a",
        ),
    ],
)
def test_chunks(data, want):
    """What is behind the last chunk is left to the next request."""
    file = io.BytesIO(data + b"GET")
    assert request.chunks_of(file) == want and file.read() == b"GET"


@pytest.mark.parametrize(
    "data, status",
    [
        (b"", 400),
        (b"\r\n", 400),
        (b"g\r\n", 400),
        (b"0x1\r\na\r\n0\r\n\r\n", 400),
        (b"-1\r\n", 400),
        (b"+1\r\na\r\n", 400),
        (b"1_0\r\n", 400),
        (b" 1\r\na\r\n", 400),
        (b"1 \r\na\r\n", 400),
        (b"1,1\r\na\r\n", 400),
        ("\u0661\r\na\r\n".encode(), 400),
        (b"\xb9\r\na\r\n", 400),
        (b"1.0\r\na\r\n", 400),
        (b"1;\r\na\r\n", 400),
        (b"1;a b\r\na\r\n", 400),
        (b'1;a="b\r\na\r\n', 400),
        (b"1;a=\rb\r\na\r\n", 400),
        (b"1;a\x00\r\na\r\n", 400),
        # ends of lines, where two readers would differ
        (b"1\na\n0\n\n", 400),
        (b"1\ra\r0\r\r", 400),
        (b"1;\n\r\na\r\n", 400),
        (b"1\r\na\n0\r\n\r\n", 400),
        (b"1\r\nab\r\n0\r\n\r\n", 400),
        (b"2\r\na\r\n0\r\n\r\n", 400),
        (b"1\r\na0\r\n\r\n", 400),
        (b"0\r\n\n", 400),
        # ends too early
        (b"5\r\nab", 400),
        (b"1\r\na\r\n", 400),
        (b"1\r\na\r\n0\r\n", 400),
        (b"1\r\na\r\n0\r\nA: b\r\n", 400),
        # trailers
        (b"0\r\nA : b\r\n\r\n", 400),
        (b"0\r\nA: b\r\n c\r\n\r\n", 400),
        (b"0\r\nA: b\x00\r\n\r\n", 400),
        (b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (b"0\r\nA: " + b"b" * 9000 + b"\r\n\r\n", 431),
        # too much
        (b"100001\r\n", 413),
        (b"f" * 16 + b"\r\n", 413),
        (b"f" * 200 + b"\r\n", 413),
        (b"0" * 300 + b"\r\n", 400),
        (b"1;" + b"a" * 300 + b"\r\na\r\n", 400),
        (b"80000\r\n" + b"a" * 0x80000 + b"\r\n80001\r\n", 413),
        (b"1\r\na\r\n" * 65537, 413),
    ],
)
def test_chunks_that_are_refused(server, data, status):
    """One answer, whatever stands behind it, and the end of the connection."""
    with pytest.raises(request.Refused) as e:
        request.chunks_of(io.BytesIO(data))
    assert e.value.status == status
    if len(data) < 100_000:
        answers = raw(server, CHUNKED + data)
        assert answers.startswith(b"HTTP/1.1 %d " % status) and answers.count(b"HTTP/1.1 ") == 1
        assert b"\r\nConnection: close\r\n" in answers


def test_mutated_chunks():
    """What is read is what Python's own client, which is more lenient, reads; and as far."""

    class Kept(io.BytesIO):
        def makefile(self, _):
            return self

        def close(self):                                    # http.client does at the end of a body
            pass

    rng, read, refused = random.Random(7), 0, 0
    parts = [b"\r\n", *(bytes([c]) for c in b'\r\n \t;=01aFx\x00":\xb9')]
    for _ in range(4000):
        chunks = [b"%x;a=b\r\n%s\r\n" % (n, b"y" * n) for n in rng.sample(range(1, 20), 3)]
        data = bytearray(b"".join(chunks))
        data += rng.choice([b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n"]) + b"GET"
        for _ in range(rng.randint(1, 2)):
            i = rng.randrange(len(data))
            data[i : i + rng.randrange(2)] = rng.choice(parts)
        file = io.BytesIO(bytes(data))
        try:
            body = request.chunks_of(file)
        except request.Refused:
            refused += 1
            continue
        read += 1
        answer = Kept(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
        response = http.client.HTTPResponse(answer)
        response.begin()
        assert response.read() == body and answer.read() == file.read(), bytes(data)
    assert read > 300 and refused > 1000


def test_a_body_in_chunks(server):
    """It is one request, whatever stands in it and behind it, also if it is of no use."""
    again = GET + b"\r\n"
    answers = raw(server, CHUNKED + IN_CHUNKS + again)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"200"]
    inner = b"%x\r\n%s\r\n0\r\n\r\n" % (len(again), again)
    for method in (b"GET", b"HEAD", b"OPTIONS"):
        head = GET.replace(b"GET", method) + b"Transfer-Encoding: chunked\r\n\r\n"
        assert raw(server, head + inner).count(b"HTTP/1.1 ") == 1
        assert raw(server, head + inner + again).count(b"HTTP/1.1 ") == 2
    expecting = POST + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    continued = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"
    assert raw(server, expecting + IN_CHUNKS).startswith(continued)
    assert raw(server, POST + b"\r\n").startswith(b"HTTP/1.1 411 ")
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    for _ in range(2):  # as a client that streams its body, twice on a connection
        data = json.dumps(ASK).encode()
        parts = iter([data[:9], data[9:]])
        connection.request("POST", "/v1/chat/completions", parts, encode_chunked=True)
        answer = connection.getresponse()
        assert answer.status == 200 and json.loads(answer.read())["choices"]
    connection.close()


def test_a_refusal_goes_to_another_process_whole():
    refused = request.Refused(405, "GET only", "path", "wrong", {"Allow": "GET"})
    again = pickle.loads(pickle.dumps(refused))
    assert str(again) == "GET only" and vars(again) == vars(refused)
