"""chat/serve.py: what OpenAI's clients send and expect, clients that go away, requests that are wrong, an orderly end."""

import concurrent.futures
import contextlib
import gc
import gzip
import http.client
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref

import numpy as np
import pytest

from chat import api, batching, generate, page, request, served, serve
import bpe
from model import fast
import gpt
import malformed
import sample
from conftest import ROOT

TOK = bpe.Tokenizer.train(["the lamp is lit, said the goat. user assistant system 0 1 2 3 4 5 6 7 8 9 Who are you? äöü"] * 4, 330)
CFG = gpt.Config(TOK.n_vocab, 64, 16, 2, 2)
PARAMS = gpt.init(CFG, 0)
for _p in PARAMS.values():
    _p += np.random.default_rng(5).standard_normal(_p.shape).astype(np.float32) * 0.1
ASK = {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 12, "seed": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    for stage in ("base", "sft"):
        gpt.save(run / stage, PARAMS, CFG)
        TOK.save(run / stage / "tokenizer.json")
    (run / "secret.txt").write_text("secret")
    return run


def started(run, **how):
    server = serve.Server(served.Models(run), port=0, **how)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def server(run):
    server = started(run)
    yield server
    server.close()


def send(server, method, path, body=None, headers=()):
    """(status, headers, bytes) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.request(method, path, body if body is None or isinstance(body, (bytes, str)) else json.dumps(body), dict(headers))
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def post(server, path, body, status=200):
    got, _, data = send(server, "POST", path, body)
    assert got == status, data
    return json.loads(data)


def chunks(server, path, body):
    """The events of a stream, without the last, which is [DONE]."""
    status, headers, data = send(server, "POST", path, {**body, "stream": True})
    assert status == 200 and headers["Content-Type"] == "text/event-stream; charset=utf-8", data
    events = data.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""] and all(e.startswith("data: ") for e in events[:-1])
    return [json.loads(e[6:]) for e in events[:-2]]


def said(**settings):
    """What sample.py says to ASK."""
    prompt = sample.render_prompt(ASK["messages"], TOK)
    (reply,) = generate.generate(PARAMS, CFG, TOK, [prompt], stop=frozenset([TOK.special_tokens["<|im_end|>"]]), **{"max_new_tokens": 12, "seed": 3, **settings})
    return sample.reply_text(reply.ids, TOK), reply


def test_a_chat_says_what_sample_says(server):
    answer = post(server, "/v1/chat/completions", {**ASK, "model": "sft", "unknown": 1, "user": None})
    text, reply = said()
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == text and choice["finish_reason"] == reply.finish and answer["model"] == "sft"
    assert answer["object"] == "chat.completion" and answer["id"].startswith("chatcmpl-") and choice["logprobs"] is None
    prompt = len(sample.render_prompt(ASK["messages"], TOK))
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": len(reply.ids), "total_tokens": prompt + len(reply.ids)}


def test_a_stream_is_the_same_in_pieces(server):
    events = chunks(server, "/v1/chat/completions", {**ASK, "n": 2, "stream_options": {"include_usage": True}})
    assert len({e["id"] for e in events}) == 1 and {e["object"] for e in events} == {"chat.completion.chunk"}
    whole = post(server, "/v1/chat/completions", {**ASK, "n": 2})
    assert [e["choices"][0]["delta"] for e in events[:2]] == [{"role": "assistant", "content": ""}] * 2
    assert events[-1]["choices"] == [] and events[-1]["usage"] == whole["usage"] and all(e["usage"] is None for e in events[:-1])
    for i in range(2):
        mine = [e["choices"][0] for e in events[:-1] if e["choices"][0]["index"] == i]
        assert "".join(c["delta"].get("content", "") for c in mine) == whole["choices"][i]["message"]["content"]
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == [whole["choices"][i]["finish_reason"]]
    assert whole["choices"][0]["message"]["content"] == said()[0] != whole["choices"][1]["message"]["content"]


def test_tokens_of_a_conversation_with_a_call(server):
    """The page sends calls of the calculator back as what they were, and is told the tokens."""
    call = [{"type": "tool", "text": "1+2"}, {"type": "output", "text": "3"}, {"type": "text", "text": "3."}]
    messages = [{"role": "user", "content": "1 2"}, {"role": "assistant", "content": call}, {"role": "user", "content": [{"type": "text", "text": "Who"}, {"type": "text", "text": "?"}]}]
    last = chunks(server, "/v1/chat/completions", {**ASK, "messages": messages, "return_token_ids": True})[-1]["choices"][0]
    prompt = sample.render_prompt([*messages[:2], ASK["messages"][0]], TOK)
    assert last["prompt_token_ids"] == prompt and TOK.special_tokens["<|output_start|>"] in prompt
    assert last["token_ids"] == generate.generate(PARAMS, CFG, TOK, [prompt], stop=frozenset([TOK.special_tokens["<|im_end|>"]]), max_new_tokens=12, seed=3)[0].ids
    post(server, "/v1/chat/completions", {"messages": [{"role": "user", "content": call}]}, 400)


def test_completions(server):
    """Of texts and of tokens, several at once, with echo; the base model's by default."""
    between = TOK.special_tokens["<|endoftext|>"]
    for prompt, ids in (("the lamp", [between, *TOK.encode_ordinary("the lamp")]), (TOK.encode_ordinary("goat"), TOK.encode_ordinary("goat"))):
        (want,) = generate.generate(PARAMS, CFG, TOK, [ids], max_new_tokens=16, seed=5, stop=frozenset([between]))
        answer = post(server, "/v1/completions", {"prompt": prompt, "seed": 5})
        assert answer["choices"][0]["text"] == sample.reply_text(want.ids, TOK) and answer["system_fingerprint"] == "base" and answer["object"] == "text_completion"
    assert post(server, "/v1/completions", {"prompt": prompt, "seed": 5, "return_token_ids": True})["choices"][0]["token_ids"] == want.ids
    both = post(server, "/v1/completions", {"prompt": ["the lamp", "goat"], "n": 2, "seed": 5, "echo": True, "max_tokens": 3})
    assert [c["index"] for c in both["choices"]] == [0, 1, 2, 3] and [c["text"][:4] for c in both["choices"]] == ["the ", "the ", "goat", "goat"]
    events = chunks(server, "/v1/completions", {"prompt": ["the lamp", "goat"], "n": 2, "seed": 5, "echo": True, "max_tokens": 3})
    for i in range(4):
        assert "".join(e["choices"][0]["text"] for e in events if e["choices"][0]["index"] == i) == both["choices"][i]["text"]


def test_log_probabilities(server):
    answer = post(server, "/v1/chat/completions", {**ASK, "logprobs": True, "top_logprobs": 3, "temperature": 0.2})
    content = answer["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(e["bytes"]) for e in content).decode("utf-8", "replace") == answer["choices"][0]["message"]["content"]
    for e in content:
        tops = [t["logprob"] for t in e["top_logprobs"]]
        assert len(tops) == 3 and tops == sorted(tops, reverse=True) and e["logprob"] <= tops[0] <= 0
    events = chunks(server, "/v1/chat/completions", {**ASK, "logprobs": True, "top_logprobs": 3, "temperature": 0.2})
    assert [t for e in events for c in e["choices"] if c["logprobs"] for t in c["logprobs"]["content"]] == content
    old = post(server, "/v1/completions", {"prompt": "the lamp", "seed": 5, "logprobs": 2})["choices"][0]["logprobs"]
    assert len(old["tokens"]) == len(old["token_logprobs"]) == len(old["top_logprobs"]) == len(old["text_offset"]) and old["text_offset"][0] == 0


def test_stop_strings_and_settings(server):
    text, _ = said(temperature=0.0)
    assert post(server, "/v1/chat/completions", {**ASK, "temperature": 0})["choices"][0]["message"]["content"] == text
    cut = post(server, "/v1/chat/completions", {**ASK, "temperature": 0, "stop": [text[3:5], "never said"]})["choices"][0]
    assert cut["message"]["content"] == text[:text.index(text[3:5])] and cut["finish_reason"] == "stop"
    banned = TOK.encode_ordinary(text)[0]
    assert post(server, "/v1/chat/completions", {**ASK, "temperature": 0, "logit_bias": {str(banned): -100}})["choices"][0]["message"]["content"] != text
    forced = post(server, "/v1/chat/completions", {**ASK, "logit_bias": {str(TOK.encode_ordinary("g")[0]): 100}, "max_tokens": 5})["choices"][0]
    assert forced["message"]["content"] == "ggggg" and forced["finish_reason"] == "length"
    penalised = post(server, "/v1/chat/completions", {**ASK, "temperature": 0, "presence_penalty": 2, "frequency_penalty": 2, "top_k": 5, "min_p": 0.1, "top_p": 0.9})
    assert penalised["choices"][0]["message"]["content"] == said(temperature=0.0, presence_penalty=2.0, frequency_penalty=2.0)[0]
    free = {post(server, "/v1/chat/completions", {**ASK, "seed": None})["choices"][0]["message"]["content"] for _ in range(3)}
    assert len(free) > 1                                    # without a seed it is another reply every time


def test_log_probabilities_of_parts_of_characters(server):
    """Bytes that are no character each have a name, and offsets are those of the text."""
    cut = {str(i): -100 for i in range(TOK.n_vocab) if i not in (b := [TOK.encode_ordinary(c)[0] for c in "ä"] + TOK.encode_ordinary("ä"))}
    found = post(server, "/v1/completions", {"prompt": "the lamp", "logit_bias": cut, "max_tokens": 8, "logprobs": 2, "seed": 1})["choices"][0]
    assert all(t.startswith("bytes:") or len(t) == 1 for t in found["logprobs"]["tokens"]) and len(set(b)) == 2
    for token, tops in zip(found["logprobs"]["tokens"], found["logprobs"]["top_logprobs"]):
        assert token in tops and len(tops) in (2, 3)        # the two likeliest, and the one that was drawn
    assert found["logprobs"]["text_offset"][0] == 0 and max(found["logprobs"]["text_offset"]) <= len(found["text"])


def test_log_probabilities_of_the_prompt(server):
    """What evaluation harnesses ask for: echo, and how likely each token of the prompt was."""
    text = "the lamp is lit"
    ids = [TOK.eot_token, *TOK.encode_ordinary(text)]
    logits = fast.forward(PARAMS, CFG, np.array([ids]))[0][0, :, :TOK.n_vocab].astype(np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = [float(logp[t, token]) for t, token in enumerate(ids[1:])]
    body = {"prompt": text, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
    for prompt, first in ((text, want[0]), (ids[1:], None)):
        found = post(server, "/v1/completions", {**body, "prompt": prompt})["choices"][0]
        n = len(ids) - 1
        assert "".join(found["logprobs"]["tokens"][:n]) == text and found["text"].startswith(text) and len(found["logprobs"]["tokens"]) == n + 1
        if first is None:
            assert found["logprobs"]["token_logprobs"][0] is None
        else:
            np.testing.assert_allclose(found["logprobs"]["token_logprobs"][:n], want, atol=1e-4)
        assert found["logprobs"]["text_offset"][n] == len(text)
    begun = chunks(server, "/v1/completions", body)[0]["choices"][0]
    assert begun["text"] == text and len(begun["logprobs"]["tokens"]) == n


def test_a_stop_string_at_the_last_token(server):
    text = post(server, "/v1/completions", {"prompt": "the lamp", "max_tokens": 6, "seed": 2})["choices"][0]["text"]
    found = post(server, "/v1/completions", {"prompt": "the lamp", "max_tokens": 6, "seed": 2, "stop": text[-1:]})["choices"][0]
    assert found["finish_reason"] == "stop" and found["text"] == text[:text.index(text[-1])]


def test_what_odd_clients_send(server):
    for stream in (False, True):
        assert send(server, "POST", "/v1/chat/completions", {**ASK, "model": "\ud800", "stream": stream})[0] == 404
    for body in ({**ASK, "model": None}, {**ASK, "model": ""}, {"messages": [ASK["messages"][0], {"role": "assistant", "content": ""}, ASK["messages"][0]], "max_tokens": 2}):
        assert send(server, "POST", "/v1/chat/completions", body)[0] == 200
    assert post(server, "/v1/completions", {"prompt": None, "max_tokens": None, "seed": 1})["usage"]["completion_tokens"] <= 16
    assert json.loads(send(server, "GET", "/v1/models/sft")[2])["id"] == "sft" and send(server, "GET", "/v1/models/none")[0] == 404
    for host, origin, status in (("LOCALHOST:1", None, 200), ("[::1]", None, 200), ("localhost.", None, 200), ("evil.example", None, 403), ("localhost:1", "http://localhost:1", 200),
                                 ("localhost:1", "http://evil.example", 403), ("localhost:1", "null", 403)):
        assert send(server, "POST", "/tokenize", {"content": "x"}, {"Host": host, **({"Origin": origin} if origin else {})})[0] == status, (host, origin)


def test_a_log_that_is_broken_or_begun_anew(server, run):
    log = run / "base" / "log.jsonl"
    log.write_text('{"step": 1, "loss_nats": 2.5}\nbroken\n[1]\n{"step": 2, "loss_nats": NaN}\n{"step": 3')
    get = lambda after: json.loads(send(server, "GET", f"/api/log?stage=base&after={after}")[2])  # noqa: E731
    whole = get(0)
    assert whole["columns"] == {"step": [1, None, None, 2], "loss_nats": [2.5, None, None, None]}
    assert get(7) == get("9" * 5000) == get(10**9) == whole and get(whole["next"])["columns"] == {}
    log.unlink()


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


@pytest.mark.parametrize("path, body, status, message", [
    ("/v1/chat/completions", "{broken", 400, "not JSON"), ("/v1/chat/completions", "[]", 400, "no JSON object"), ("/v1/chat/completions", {}, 400, "messages is missing"),
    ("/v1/chat/completions", {"messages": []}, 400, "messages is missing"), ("/v1/chat/completions", {"messages": ["x"]}, 400, "messages[0]"),
    ("/v1/chat/completions", {"messages": [{"role": "robot", "content": "x"}]}, 400, "role 'robot'"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "no text"),
    ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, 400, "calculator of its own"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "goat " * 80}]}, 400, "do not fit the model's context of 64"),
    ("/v1/chat/completions", {**ASK, "temperature": 3}, 400, "temperature is 3, expected a number from 0 to 2"), ("/v1/chat/completions", {**ASK, "temperature": "hot"}, 400, "temperature"),
    ("/v1/chat/completions", {**ASK, "temperature": True}, 400, "temperature"), ("/v1/chat/completions", {**ASK, "n": 99}, 400, "n is 99"), ("/v1/chat/completions", {**ASK, "n": 0}, 400, "n is 0"),
    ("/v1/chat/completions", {**ASK, "max_tokens": 0}, 400, "max_tokens"), ("/v1/chat/completions", {**ASK, "stop": ["a"] * 5}, 400, "up to four"), ("/v1/chat/completions", {**ASK, "stop": [""]}, 400, "stop"),
    ("/v1/chat/completions", {**ASK, "logit_bias": {"x": 1}}, 400, "logit_bias"), ("/v1/chat/completions", {**ASK, "logit_bias": {"99999": 1}}, 400, "logit_bias"),
    ("/v1/chat/completions", {**ASK, "top_logprobs": 3}, 400, "needs logprobs"), ("/v1/chat/completions", {**ASK, "response_format": {"type": "json_object"}}, 400, "only text"),
    ("/v1/completions", {"prompt": [[99999]]}, 400, "prompt"), ("/v1/completions", {"prompt": {"a": 1}}, 400, "prompt"), ("/v1/completions", {"prompt": ["a"] * 40}, 400, "at most 32"),
    ("/v1/completions", {"prompt": "goat " * 99}, 400, "do not fit"), ("/tokenize", {}, 400, "content is missing"), ("/detokenize", {"tokens": [99999]}, 400, "below"),
    ("/v1/chat/nothing", {}, 404, "no such route"), ("/health", {}, 405, "GET only"), ("/v1/chat/completions", " " * (request.LARGEST_BODY + 1), 413, "at most"),
])
def test_bad_requests(server, path, body, status, message):
    answer = post(server, path, body, status)
    assert message in answer["error"]["message"] and set(answer["error"]) == {"message", "type", "param", "code"}


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


def wait_for(condition):
    deadline = time.time() + 20
    while not condition() and time.time() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("bound, status", [("CONNECTIONS", 503), ("FROM_ONE_ADDRESS", 429)])
def test_so_many_connections_and_no_more(run, monkeypatch, bound, status):
    """Who has waited longest for a request gives way; where all are being answered a new one is refused."""
    monkeypatch.setattr(serve, bound, 2)
    server, busy, begun = started(run), threading.Event(), []

    def models(self, _):
        begun.append(self)
        busy.wait(20)
        return api.Answer({})

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


# ---------------------------------------------------------------------- heads, as RFC 9112 has them

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n"


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
    assert (
        len(re.findall(rb"HTTP/1\.1 \d\d\d ", answers)) == 1
        and answers.startswith(b"HTTP/1.1 %d " % status)
        and b"\r\nConnection: close\r\n" in answers
    )


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


@pytest.mark.parametrize(
    "data, want",
    [
        (
            GET + b"\r\n",
            {
                "method": "GET",
                "target": "/health",
                "minor": 1,
                "host": "localhost",
                "length": None,
                "close": False,
            },
        ),
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
    assert (
        head.read(io.BytesIO(data + b"rest"))
        and {name: getattr(head, name) for name in want} == want
    )


def test_mutated_heads():
    """What is read means one thing only: fields are printable and complete, single ones are single."""
    rng, read, refused = random.Random(5), 0, 0
    good = [
        GET,
        POST + b"Content-Length: 12\r\n",
        b"GET http://localhost/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nA: b\r\n",
    ]
    parts = [
        b"\r",
        b"\n",
        b"\r\n",
        b" ",
        b"\t",
        b"\x00",
        b":",
        b",",
        b"Host: b\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"\xe4",
        b"1",
        b"A",
        b"\x1b",
    ]
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
        assert lines[-2:] == [b"", b""] and not any(
            c in b"".join(lines) for c in (b"\r", b"\n", b"\x00", b"\x1b")
        )
        names = [line.partition(b":")[0].decode("latin-1").lower() for line in lines[1:-2]]
        assert (
            set(names) == set(head.fields)
            and all(re.fullmatch("[!-9;-~]+", name) for name in names)
            and names.count("host") == 1
        )
        assert (
            names.count("content-length") < 2
            and names.count("transfer-encoding") < 2
            and head.chunked == ("transfer-encoding" in names)
            and not (head.chunked and "content-length" in names)
            and head.length
            == (int(head.fields["content-length"]) if "content-length" in names else None)
        )
    assert read > 200 and refused > 2000


def test_one_request_one_answer(server):
    """A body that a request has no use for is read and thrown away; what stands in it is no request."""
    inner = POST + b'Content-Length: 17\r\n\r\n{"content":"abc"}'
    for line in (b"GET /health", b"HEAD /health", b"OPTIONS /", b"GET /none"):
        data = (
            line
            + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(inner)
            + inner
        )
        assert raw(server, data).count(b"HTTP/1.1 ") == 1
    good = POST + b'Content-Length: 15\r\n\r\n{"content":"a"}'
    answers = raw(server, good + good.replace(b'"a"', b"'a'") + good)
    # A body that is no JSON was read to its end.
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"400", b"200"]
    assert (
        raw(server, b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET + b"\r\n").count(
            b"HTTP/1.1 "
        )
        == 2
    )


def test_a_body_is_sent_when_it_is_asked_for(server):
    head = POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n"
    answers = raw(server, head % 15 + b'{"content":"a"}')
    assert answers.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert raw(server, head % (request.LARGEST_BODY + 1)).startswith(b"HTTP/1.1 413 ")


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


# -------------------------------------------------------------------------------------- who may ask


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


# ------------------------------------------------------------------------- what one client can hold


def nested(n):
    value = 1
    for _ in range(n):
        value = [value]
    return value


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("/v1/chat/completions", {**ASK, "x": nested(31)}, 200),
        ("/v1/chat/completions", {**ASK, "x": nested(32)}, 400),
        ("/v1/chat/completions", {**ASK, "temperature": nested(900)}, 400),
        ("/v1/chat/completions", '{"temperature": NaN}', 400),
        ("/v1/chat/completions", '{"x": -Infinity}', 400),
        ("/v1/chat/completions", {**ASK, "seed": 10**4200}, 400),
        ("/v1/chat/completions", {**ASK, "stop": "a" * 256}, 200),
        ("/v1/chat/completions", {**ASK, "stop": "a" * 257}, 400),
        ("/v1/chat/completions", {**ASK, "stop": ["a", "b", "c", "d" * 300]}, 400),
        ("/v1/chat/completions", {**ASK, "model": "x" * 256}, 404),
        ("/v1/chat/completions", {**ASK, "model": "x" * 257}, 400),
        ("/v1/chat/completions", {**ASK, "logit_bias": {"0" * 5000 + "1": 0}}, 200),
        ("/v1/chat/completions", {**ASK, "logit_bias": {"9" * 5000: 0}}, 400),
        ("/v1/chat/completions", {**ASK, "logit_bias": {"\u0661": 0}}, 400),
        ("/v1/chat/completions", {**ASK, "logit_bias": {" 1": 0}}, 400),
        ("/v1/chat/completions", {**ASK, "logit_bias": {"-1": 0}}, 400),
        (
            "/v1/chat/completions",
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "a"},
                ]
                * 40
            },
            400,
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 70}]},
            400,
        ),
        ("/v1/completions", {"prompt": ["a"] * 10_000}, 400),
        ("/v1/completions", {"prompt": [1] * 10_000}, 400),
        ("/v1/completions", {"prompt": [[1] * 10_000]}, 400),
        ("/v1/completions", {"prompt": ["a", "b" * 100_000]}, 400),
        ("/tokenize", {"content": "a" * 100_000}, 200),
        ("/tokenize", {"content": "a" * 100_001}, 413),
        ("/tokenize", {"content": "\u00e4" * 50_001}, 413),
        ("/api/cut", {"vocabulary": "sft", "text": "a" * 100_001}, 413),
        ("/detokenize", {"tokens": [1] * 100_001}, 413),
        (
            "/detokenize",
            {"tokens": [max(range(TOK.n_vocab), key=lambda i: len(TOK.token_bytes[i]))] * 100_000},
            413,
        ),
        ("/detokenize", {"tokens": [97] * 100_000}, 200),
        ("/api/look", {"text": "a" * 100_000}, 400),
        ("/api/look", {"tokens": [1] * 65}, 400),
        ("/api/look", {"tokens": []}, 400),
    ],
)
def test_bounds(server, path, body, status):
    assert (post(server, path, body, status).get("error") is None) == (status == 200)


def test_text_that_cannot_fit_is_not_cut_into_tokens(server, monkeypatch):
    """However long it is, it costs no time; what can fit is still counted in tokens."""
    cut = []
    encode = bpe.Tokenizer.encode_ordinary
    monkeypatch.setattr(
        bpe.Tokenizer,
        "encode_ordinary",
        lambda self, text: cut.append(len(text)) or encode(self, text),
    )
    most = api.longest_text(CFG, TOK)
    for length in (most, most + 1, 100_000):
        for path, body in (
            (
                "/v1/chat/completions",
                {
                    "messages": [
                        {"role": "user", "content": "a" * (length // 2)},
                        {"role": "assistant", "content": "b"},
                        {"role": "user", "content": "a" * (length - length // 2 - 1)},
                    ]
                },
            ),
            ("/v1/completions", {"prompt": "a" * length}),
            ("/api/look", {"messages": [{"role": "user", "content": "a" * length}]}),
            ("/api/look", {"text": "a" * length}),
        ):
            cut.clear()
            assert post(server, path, body, 400)["error"]["code"] == "context_length_exceeded" and (
                max(cut, default=0) >= length // 2
            ) == (length == most), (path, length)


def test_log_probabilities_of_one_answer_are_bounded(server, monkeypatch):
    monkeypatch.setattr(api, "LOG_PROBABILITIES", 100)
    chat, text = {**ASK, "logprobs": True}, {"prompt": [1, 2, 3, 4], "echo": True, "max_tokens": 16}
    for path, body, status in (
        ("/v1/chat/completions", {**chat, "n": 8}, 200),
        ("/v1/chat/completions", {**chat, "n": 9}, 400),
        ("/v1/chat/completions", {**chat, "top_logprobs": 7}, 200),
        ("/v1/chat/completions", {**chat, "top_logprobs": 8}, 400),
        ("/v1/completions", {**text, "logprobs": 4}, 200),
        ("/v1/completions", {**text, "logprobs": 5}, 400),
    ):
        post(server, path, body, status)


def test_of_two_spellings_of_a_token_the_last_counts(server):
    g = TOK.encode_ordinary("g")[0]
    free, both = ({"logit_bias": bias} for bias in ({}, {str(g): 100, f"000{g}": 0}))
    assert [
        post(server, "/v1/chat/completions", {**ASK, **how})["choices"] for how in (free, both)
    ][0] == post(server, "/v1/chat/completions", {**ASK, **both})["choices"]
    forced = post(
        server,
        "/v1/chat/completions",
        {**ASK, "logit_bias": {"0" * 9 + str(g): 0, f"0{g}": 100}, "max_tokens": 3},
    )
    assert forced["choices"][0]["message"]["content"] == "ggg"


def test_a_body_does_not_stay_while_a_reply_is_written(server, monkeypatch):
    class Body(dict):
        pass

    left, read, events = [], api.object_of, serve.Handler.events

    def remembered(data):
        body = Body(read(data))
        left.append(weakref.ref(body))
        return body

    monkeypatch.setattr(api, "object_of", remembered)
    monkeypatch.setattr(
        serve.Handler,
        "events",
        lambda self, job: left.append(left[0]() is None) or events(self, job),
    )
    for stream in (False, True):
        left.clear()
        assert (
            send(server, "POST", "/v1/chat/completions", {**ASK, "stream": stream})[0] == 200
            and left[1] is True
        )


def test_clients_that_do_not_read(run, monkeypatch):
    """Their answers wait up to a bound in all; beyond it the longest waiting is closed."""
    monkeypatch.setattr(serve, "UNREAD", 5 << 20)
    big = serve.Route("GET", lambda handler, _: api.Answer(b" " * (2 << 20)))
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
            wait_for(lambda: sum(h.unread > 0 for h in list(server.handlers)) == min(n + 1, 2))
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
    big = serve.Route("GET", lambda handler, _: api.Answer(b" " * (8 << 20)))
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
    assert serve.GONE <= 0.25
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


def test_no_user_text_becomes_a_control_token():
    """Names of control tokens in every place of a conversation: they stay text."""
    rng, names, read = random.Random(6), sorted(TOK.special_tokens), 0
    roomy = gpt.Config(CFG.vocab_size, 4096, 16, 2, 2)
    pieces = [*names, "<|", "|>", "im_end", "user", "\n", "goat", "\u00e4", "\ud800", "", "1"]

    def text():
        return "".join(rng.choice(pieces) for _ in range(rng.randrange(5)))

    for _ in range(1500):
        messages = [
            {"role": ("user", "assistant")[i % 2], "content": text(), "name": text()}
            for i in range(rng.choice([1, 1, 3, 5]))
        ]
        for m in messages:
            if rng.random() < 0.3:
                kind = rng.choice(["text", "tool", "output", text()])
                m["content"] = [
                    {"type": "text", "text": text()},
                    {"type": kind, "text": text(), text(): text()},
                ]
            if rng.random() < 0.1:
                m["role"] = rng.choice(["system", "developer", "tool", text()])
        try:
            checked = api.messages_of({"messages": messages}, roomy, TOK)
            ids = sample.render_prompt(checked, TOK)
        except (ValueError, request.Refused):
            continue
        read += 1
        want = []
        for m in checked:
            want += ["<|im_start|>", "<|im_sep|>"]
            for part in m["content"] if isinstance(m["content"], list) else []:
                want += sample.PART_TOKENS.get(part["type"], ())
            want.append("<|im_end|>")
        by_id = {i: name for name, i in TOK.special_tokens.items()}
        assert [by_id[i] for i in ids if i in by_id] == [
            *want,
            "<|im_start|>",
            "<|im_sep|>",
        ], messages
    assert read > 400


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


def test_a_look_at_more_numbers_than_memory_should_hold(server, monkeypatch):
    monkeypatch.setattr(page, "LOOKED_AT", 10 * (3 * CFG.vocab_size + 4 * 10))
    assert send(server, "POST", "/api/look", {"tokens": [1] * 10})[0] == 200
    assert "at most" in post(server, "/api/look", {"tokens": [1] * 11}, 400)["error"]["message"]


# ------------------------------------------------------------------ a run that is trained meanwhile


def listed(server):
    return [m["id"] for m in json.loads(send(server, "GET", "/v1/models")[2])["data"]]


def save_model(folder, params):
    gpt.save(folder, params, CFG)
    TOK.save(folder / "tokenizer.json")


def test_folders_without_a_whole_model_are_left_out(tmp_path):
    """Whatever is wrong with one, the others are served, and it is back when it is whole."""
    for stage in ("base", "rl", "sft"):
        save_model(tmp_path / stage, PARAMS)
    server = started(tmp_path)
    weights, config, tokenizer = (
        tmp_path / "rl/model.safetensors",
        tmp_path / "rl/config.json",
        tmp_path / "rl/tokenizer.json",
    )
    try:
        assert listed(server) == ["base", "rl", "sft"]
        for path, damage in (
            (weights, None),
            (weights, lambda data: data[:-10]),
            (weights, lambda data: b""),
            (config, None),
            (config, lambda data: b"{"),
            (config, lambda data: b"{}"),
            (tokenizer, None),
        ):
            data = path.read_bytes()
            path.unlink()
            if damage:
                path.write_bytes(damage(data))
            assert listed(server) == ["base", "sft"] and json.loads(
                send(server, "GET", "/api/about")[2]
            )["models"] == ["base", "sft"]
            assert (
                send(server, "GET", "/v1/models/rl")[0] == 404
                and send(server, "GET", "/v1/models/base")[0] == 200
            )
            assert post(server, "/v1/chat/completions", ASK)["system_fingerprint"] == "sft"
            if path.exists() or path != config:
                assert (
                    "rl"
                    in post(server, "/v1/chat/completions", {**ASK, "model": "rl"}, 503)["error"][
                        "message"
                    ]
                )
            path.unlink(missing_ok=True)
            path.write_bytes(data)
            assert listed(server) == ["base", "rl", "sft"]
        assert post(server, "/v1/chat/completions", ASK)["system_fingerprint"] == "rl"
    finally:
        server.close()


def test_a_model_that_is_replaced(tmp_path):
    """A reply ends on the model that began it. The old model answers until the new one is whole."""
    other = {
        k: p
        + np.float32(0.3) * np.random.default_rng(1).standard_normal(p.shape).astype(np.float32)
        for k, p in PARAMS.items()
    }
    for stage, params in (("sft", PARAMS), ("new", other)):
        save_model(tmp_path / stage, params)
    server, read, go = started(tmp_path), generate.Batch.read, threading.Event()
    ask = {
        **ASK,
        "model": "sft",
        "max_tokens": 30,
        "logit_bias": {str(TOK.special_tokens["<|im_end|>"]): -100},
    }
    try:
        old, new = (
            post(server, "/v1/chat/completions", {**ask, "model": name})["choices"]
            for name in ("sft", "new")
        )
        assert old != new
        writer = server.models.writers["sft"]
        writer.batch.read = lambda: (go.wait(20), read(writer.batch))[1]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            begun = pool.submit(post, server, "/v1/chat/completions", ask)
            wait_for(lambda: len(writer.batch) == 1)
            weights = (tmp_path / "sft/model.safetensors").read_bytes()
            (tmp_path / "sft/model.safetensors").unlink()
            assert listed(server) == ["new"] and server.models.writer("sft") is writer
            (tmp_path / "sft/.new").write_bytes(weights[:1000])
            (tmp_path / "sft/.new").replace(tmp_path / "sft/model.safetensors")
            assert server.models.writer("sft") is writer
            gpt.save(tmp_path / "sft", other, CFG)
            assert (
                post(server, "/v1/chat/completions", ask)["choices"] == new
                and server.models.writers["sft"] is not writer
            )
            go.set()
            assert begun.result(20)["choices"] == old
    finally:
        go.set()
        server.close()
        assert not writer.is_alive()


def test_nothing_waits_for_a_model_that_is_loaded(tmp_path, monkeypatch):
    for stage in ("base", "sft"):
        save_model(tmp_path / stage, PARAMS)
    server, load, go = started(tmp_path), sample.load_model, threading.Event()
    try:
        post(server, "/v1/chat/completions", ASK)
        monkeypatch.setattr(sample, "load_model", lambda folder: go.wait(20) and load(folder))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            slow = pool.submit(post, server, "/v1/completions", {"prompt": "goat", "max_tokens": 2})
            wait_for(lambda: "base" in server.models.loading)
            assert (
                post(server, "/v1/chat/completions", ASK)["system_fingerprint"] == "sft"
                and send(server, "GET", "/health")[0] == 200
                and not slow.done()
            )
            go.set()
            assert slow.result(20)["system_fingerprint"] == "base"
    finally:
        go.set()
        server.close()


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


# ------------------------------------------------------------- what clients of OpenAI's API rely on


def scripted(folder, reply, length):
    """A model that writes the tokens of reply, greedily, behind any prompt of so many tokens."""
    cfg = gpt.Config(TOK.n_vocab, 64, 96, 1, 4)
    params, rng = gpt.init(cfg, 0), np.random.default_rng(0)
    for name in params:
        if name.startswith("h.") and "ln" not in name:
            params[name][...] = 0
    embedding = rng.standard_normal((TOK.n_vocab, 96)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    positions = np.zeros((64, 96), np.float32)
    for i, token in enumerate(reply):
        positions[length - 1 + i] = 30 * embedding[token]
    params["wte.weight"], params["wpe.weight"] = embedding, positions
    params["ln_f.weight"][...] = 4
    gpt.save(folder, params, cfg)
    TOK.save(folder / "tokenizer.json")


def names(*pieces):
    """Token ids of texts and of special tokens' names."""
    ids = []
    for piece in pieces:
        special = TOK.special_tokens.get(piece)
        ids += TOK.encode_ordinary(piece) if special is None else [special]
    return ids


CALL = ("<|tool_start|>", "1+1", "<|tool_end|>", "<|output_start|>", "2", "<|output_end|>")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A server whose sft calls the calculator, says 2, \u00e4 in its bytes, half of one and a text like a call."""
    folder = tmp_path_factory.mktemp("scripted")
    halves = [TOK.encode_ordinary("\u0115")[0]]  # a byte that begins a character
    reply = [*names("so", *CALL, "2 [1+1 = 3] \u0115"), *halves, *names("<|im_end|>")]
    scripted(folder / "sft", reply, len(sample.render_prompt(ASK["messages"], TOK)))
    scripted(folder / "base", [*halves, *names("a", "<|endoftext|>")], 9)
    server = started(folder)
    yield server, reply
    server.close()


def test_one_entry_for_each_token_of_a_chat(script):
    """Special ones, those of a call that is not shown and parts of characters have theirs."""
    server, reply = script
    body = {**ASK, "max_tokens": 40, "temperature": 0, "logprobs": True, "top_logprobs": 2, "n": 2}
    whole = post(server, "/v1/chat/completions", body)
    choice = whole["choices"][1]
    content = choice["logprobs"]["content"]
    assert (
        choice["message"]["content"] == "so2 [1+1 = 3] \u0115\ufffd"
        and choice["finish_reason"] == "stop"
    )
    assert len(content) == len(reply) and whole["usage"]["completion_tokens"] == 2 * len(reply)
    assert [e["token"] for e in content] == [
        TOK.token_bytes[i].decode("utf-8", "replace") for i in reply
    ]
    said = b"".join(bytes(e["bytes"]) for e in content)
    assert said.decode("utf-8", "replace") == choice["message"]["content"]
    for e in content:
        assert len(e["top_logprobs"]) == 2 and e["logprob"] <= e["top_logprobs"][0]["logprob"]
    events = chunks(server, "/v1/chat/completions", body)
    for i in range(2):
        mine = [
            c for event in events for c in event["choices"] if c["index"] == i and c["logprobs"]
        ]
        assert [e for c in mine for e in c["logprobs"]["content"]] == content


def test_one_entry_for_each_token_of_a_completion(script):
    """Names and offsets of a prompt with special tokens and of a reply; the token drawn is among the likeliest."""
    server, _ = script
    prompt = names("<|endoftext|>", "goat", "<|im_start|>", "the", "<|endoftext|>")
    prompt += names("a") * (9 - len(prompt))
    assert len(prompt) == 9
    for stream in (False, True):
        for n_tops in (0, 1, 5):
            body = {
                "prompt": prompt,
                "echo": True,
                "logprobs": n_tops,
                "temperature": 0,
                "max_tokens": 9,
            }
            events = (
                chunks(server, "/v1/completions", body)
                if stream
                else [post(server, "/v1/completions", body)]
            )
            text, found = (
                "",
                {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []},
            )
            for (choice,) in (event["choices"] for event in events):
                text += choice["text"]
                for key, values in (choice["logprobs"] or {}).items():
                    found[key] += values
            ids = [*prompt, TOK.encode_ordinary("\u0115")[0], *names("a", "<|endoftext|>")]
            assert found["tokens"] == [api.spelled(TOK, i, "bytes:") for i in ids]
            assert text.endswith("\ufffda") and "<|" not in text
            for name, at in zip(found["tokens"], found["text_offset"]):
                if name != "a" and not name.startswith(("<|", "bytes:")):
                    assert text[at : at + len(name)] == name
            assert found["text_offset"][0] == 0 and found["text_offset"][-1] == len(text)
            assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
            for i, tops in enumerate(found["top_logprobs"][1:], 1):
                assert (
                    tops[found["tokens"][i]] == found["token_logprobs"][i]
                    and n_tops <= len(tops) <= n_tops + 1
                )


def test_a_harness_slices_the_log_probabilities(server):
    """lm-evaluation-harness sums [tokens of the context : -1] of a prompt and one token more, whatever they are."""
    eot = TOK.eot_token
    a, b = TOK.encode_ordinary("the lamp"), TOK.encode_ordinary(" is lit")
    half = [TOK.encode_ordinary("\u0115")[0]]
    pairs = [
        (a, b),
        ([eot], b),
        ([eot, *a], b),
        (a + [eot], b),
        (a, [eot, *b]),
        (a, b + [eot]),
        (a + half, b),
    ]
    pairs += [(names("<|im_start|>", "user", "<|im_sep|>", "Who?"), names("<|im_end|>"))]
    body = {"temperature": 0, "logprobs": 1, "seed": 1234, "echo": True, "max_tokens": 1}
    # The likeliest next token is the end of a document in one of two cases.
    for bias in ({}, {"logit_bias": {str(eot): 100}}):
        found = post(
            server, "/v1/completions", {**body, **bias, "prompt": [x + y for x, y in pairs]}
        )
        for (context, rest), choice in zip(pairs, found["choices"], strict=True):
            ids, logprobs = context + rest, choice["logprobs"]
            logits = fast.forward(PARAMS, CFG, np.array([ids]))[0][0, :, : TOK.n_vocab].astype(
                np.float64
            )
            logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            want = [logp[i - 1, ids[i]] for i in range(len(context), len(ids))]
            assert len(logprobs["tokens"]) == len(ids) + 1
            np.testing.assert_allclose(
                logprobs["token_logprobs"][len(context) : -1], want, atol=1e-4
            )
            greedy = [
                max(tops.values()) == x
                for x, tops in zip(
                    logprobs["token_logprobs"][len(context) : -1],
                    logprobs["top_logprobs"][len(context) : -1],
                )
            ]
            assert greedy == [logp[i - 1].argmax() == ids[i] for i in range(len(context), len(ids))]


def test_nothing_is_written(server):
    """max_tokens 0: the prompt and its log probabilities alone, also of one that fills the context."""
    full = {"prompt": [5] * CFG.n_positions, "echo": True, "logprobs": 1, "max_tokens": 0}
    for prompt, text in (
        ("the lamp", "the lamp"),
        (["goat", "the"], "goat"),
        (full["prompt"], "\x05" * 64),
    ):
        body = {**full, "prompt": prompt}
        answer = post(server, "/v1/completions", {**body, "return_token_ids": True})
        choice, usage = answer["choices"][0], answer["usage"]
        assert (
            choice["text"] == text
            and choice["finish_reason"] == "length"
            and choice["token_ids"] == []
        )
        assert usage["completion_tokens"] == 0 and "".join(choice["logprobs"]["tokens"]) == text
        events = chunks(
            server, "/v1/completions", {**body, "stream_options": {"include_usage": True}}
        )
        assert (
            events[0]["choices"][0]["logprobs"] == choice["logprobs"]
            and events[-1]["usage"] == usage
        )
    silent = post(server, "/v1/completions", {"prompt": "goat", "max_tokens": 0})["choices"][0]
    assert silent["text"] == "" and silent["logprobs"] is None
    assert (
        "do not fit"
        in post(server, "/v1/completions", {**full, "max_tokens": 1}, 400)["error"]["message"]
    )
    assert (
        post(server, "/v1/completions", {**full, "prompt": [5] * 65}, 400)["error"]["param"]
        == "prompt"
    )
    all_there_is = post(
        server, "/v1/completions", {"prompt": [5], "max_tokens": -1, "logit_bias": {"5": 100}}
    )
    assert all_there_is["usage"]["completion_tokens"] == CFG.n_positions - 1


@pytest.mark.parametrize("pace", [0.0, 60.0])
def test_a_reply_in_parts(script, monkeypatch, pace):
    """A call of the calculator is told from text that looks like one, and goes back as it came.

    pace: with an event for each token, or one for all.
    """
    server, reply = script
    monkeypatch.setattr(batching, "PACE", pace)
    body = {**ASK, "max_tokens": 40, "temperature": 0, "show_calls": True}
    want = sample.reply_parts(reply, TOK)
    assert [part["type"] for part in want] == ["text", "tool", "output", "text"]
    whole = post(server, "/v1/chat/completions", body)["choices"][0]["message"]
    grown = [
        part
        for event in chunks(server, "/v1/chat/completions", body)
        for part in event["choices"][0]["delta"].get("parts", [])
    ]
    for parts in (whole["parts"], grown):
        found = {}
        for part in parts:
            found.setdefault(part["index"], {"type": part["type"], "text": ""})["text"] += part[
                "text"
            ]
        assert list(found.values()) == want
    assert whole["content"] == "so2 [1+1 = 3] \u0115\ufffd"
    back = [*ASK["messages"], {"role": "assistant", "content": want}, *ASK["messages"]]
    tokens = sample.render_prompt(api.messages_of({"messages": back}, CFG, TOK), TOK)
    marks = [i for i in tokens if i in TOK.special_tokens.values()]
    assert marks.count(TOK.special_tokens["<|tool_start|>"]) == 1
    assert "parts" not in post(server, "/v1/chat/completions", ASK)["choices"][0]["message"]


def test_texts_are_utf_8_and_say_so(server):
    assert post(server, "/v1/chat/completions", ASK)
    for path, body in (
        ("/v1/chat/completions", ASK),
        ("/v1/chat/nothing", {}),
        ("/tokenize", {"content": "\u00e4"}),
    ):
        assert (
            send(server, "POST", path, body)[1]["Content-Type"] == "application/json; charset=utf-8"
        )
    for path in ("/v1/chat/completions", "/v1/completions"):
        body = {**ASK, "prompt": "goat", "stream": True}
        assert (
            send(server, "POST", path, body)[1]["Content-Type"]
            == "text/event-stream; charset=utf-8"
        )


def test_an_event_is_one_line_for_everybody(tmp_path):
    """Python's splitlines, which requests and httpx use, ends a line at more characters than CR and LF."""
    said = "a\x85b\u2028c\u2029d\x0be\x1cf\u00e4"
    scripted(tmp_path / "base", names(said, "<|endoftext|>"), 1 + len(names("goat")))
    server = started(tmp_path)
    try:
        body = {"prompt": "goat", "temperature": 0, "max_tokens": 40}
        _, _, data = send(server, "POST", "/v1/completions", {**body, "stream": True})
        lines = [line for line in data.decode().splitlines() if line]
        assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
        assert "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines[:-1]) == said
        assert post(server, "/v1/completions", body)["choices"][0]["text"] == said
    finally:
        server.close()


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


# ------------------------------------------------------------------- bodies in chunks, and HTTP/1.0

CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
IN_CHUNKS = b'7\r\n{"conte\r\n8;a=b\r\nnt":"a"}\r\n0\r\n\r\n'


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
            b"1\r\na\r\n0\r\nContent-Length: 5\r\nHost: evil.example\r\nTransfer-Encoding: x\r\n\r\n",
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
        assert (
            answers.startswith(b"HTTP/1.1 %d " % status) and b"\r\nConnection: close\r\n" in answers
        )
        assert answers.count(b"HTTP/1.1 ") == 1


def test_mutated_chunks():
    """What is read is what Python's own client, which is more lenient, reads; and as far."""

    class Kept(io.BytesIO):
        def makefile(self, _):
            return self

        def close(self):                                    # http.client does at the end of a body
            pass

    rng, read, refused = random.Random(7), 0, 0
    parts = [b"\r", b"\n", b"\r\n", b" ", b"\t", b";", b"=", b"0", b"1", b"a", b"F", b"x", b"\x00", b'"', b":", b"\xb9"]
    for _ in range(4000):
        data = bytearray(b"".join(b"%x;a=b\r\n%s\r\n" % (n, b"y" * n) for n in rng.sample(range(1, 20), 3)))
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
    """It is one request, whatever stands in it and behind it; a method that has no use for it reads it too."""
    again = GET + b"\r\n"
    assert re.findall(rb"HTTP/1.1 (\d+)", raw(server, CHUNKED + IN_CHUNKS + again)) == [
        b"200",
        b"200",
    ]
    inner = b"%x\r\n%s\r\n0\r\n\r\n" % (len(again), again)
    for method in (b"GET", b"HEAD", b"OPTIONS"):
        head = (
            method + b" /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert raw(server, head + inner).count(b"HTTP/1.1 ") == 1
        assert raw(server, head + inner + again).count(b"HTTP/1.1 ") == 2
    expecting = POST + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    assert raw(server, expecting + IN_CHUNKS).startswith(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"
    )
    assert raw(server, POST + b"\r\n").startswith(b"HTTP/1.1 411 ")
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    for _ in range(2):  # as a client that streams its body, twice on a connection
        data = json.dumps(ASK).encode()
        connection.request(
            "POST", "/v1/chat/completions", iter([data[:9], data[9:]]), encode_chunked=True
        )
        answer = connection.getresponse()
        assert answer.status == 200 and json.loads(answer.read())["choices"]
    connection.close()


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


# --------------------------------------------------------------------- what a request may say


def test_seeds(server):
    """None, null and those below 0 are any; of others each has its text."""

    def texts(*seeds):
        bodies = [
            {"prompt": "goat", "max_tokens": 12} | ({} if seed == "none" else {"seed": seed})
            for seed in seeds
        ]
        return [post(server, "/v1/completions", body)["choices"][0]["text"] for body in bodies]

    for any_seed in ("none", None, -1, -2, -(1 << 63), -1.0):
        assert len(set(texts(*[any_seed] * 4))) > 1, any_seed
    for seed in (0, 7, 7.0, (1 << 63) + 1, (1 << 64) - 1):
        assert len(set(texts(seed, seed))) == 1
    assert len(set(texts(0, 7, (1 << 63) + 1, (1 << 64) - 1))) == 4
    for seed in (1 << 64, -(1 << 63) - 1, 1.5, "1", True, [1]):
        assert (
            post(server, "/v1/completions", {"prompt": "goat", "seed": seed}, 400)["error"]["param"]
            == "seed"
        )


@pytest.mark.parametrize(
    "messages, same",
    [
        (
            [("system", "a"), ("system", "b"), ("user", "Who?")],
            [("system", "a\n\nb"), ("user", "Who?")],
        ),
        (
            [("system", "a"), ("developer", "b"), ("user", "Who?")],
            [("system", "a\n\nb"), ("user", "Who?")],
        ),
        (
            [("user", "a"), ("assistant", "b"), ("system", "c"), ("user", "d")],
            [("system", "c"), ("user", "a"), ("assistant", "b"), ("user", "d")],
        ),
        ([("user", "a"), ("user", "b")], [("user", "a\n\nb")]),
        ([("assistant", "Welcome!"), ("user", "Who?")], [("user", "Who?")]),
        ([("user", "a"), ("assistant", None), ("user", "b")], [("user", "a\n\nb")]),
        ([("user", ["Wh", {"type": "input_text", "text": "o?"}])], [("user", "Who?")]),
        (
            [("user", "a"), ("assistant", [{"type": "output_text", "text": "b"}]), ("user", "c")],
            [("user", "a"), ("assistant", "b"), ("user", "c")],
        ),
        (
            [("user", "a"), ("assistant", [{"type": "refusal", "refusal": "b"}]), ("user", "c")],
            [("user", "a"), ("assistant", "b"), ("user", "c")],
        ),
        (
            [("user", [{"type": "text", "text": "Who?", "cache_control": {"type": "ephemeral"}}])],
            [("user", "Who?")],
        ),
    ],
)
def test_messages_in_any_order(server, messages, same):
    """What OpenAI's API takes is taken, and is what the same conversation in order is."""
    answers = []
    for each in (messages, same):
        body = {
            "messages": [{"role": r, "content": c, "name": "x"} for r, c in each],
            "return_token_ids": True,
        }
        answers.append(
            post(server, "/v1/chat/completions", {**body, "max_tokens": 3, "seed": 1})["choices"]
        )
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "message, says",
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
            "'image_url'",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_image"}]},
            "'input_image'",
        ),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
            "'input_audio'",
        ),
        ({"role": "user", "content": [{"type": "file"}]}, "'file'"),
        ({"role": "user", "content": [{"type": "tool", "text": "1+1"}]}, "'tool'"),
        ({"role": "user", "content": [{"type": "text"}]}, "'text'"),
        ({"role": "user", "content": [{"text": "a"}]}, "part"),
        ({"role": "user", "content": [7]}, "part"),
        ({"role": "assistant", "content": [{"type": ["text"], "text": "a"}]}, "part"),
        ({"role": ["user"], "content": "a"}, "role"),
        ({"role": "user", "content": 7}, "content"),
        ({"role": "user", "content": " "}, "no text of the system or of a user"),
        ({"role": "user"}, "no text of the system or of a user"),
        ({"role": "assistant", "content": "Welcome!"}, "no text of the system or of a user"),
        ({"role": "function", "name": "f", "content": "x"}, "calculator of its own"),
        (
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            "calculator of its own",
        ),
        ({"role": "critic", "content": "x"}, "role 'critic'"),
        ({"content": "x"}, "role None"),
    ],
)
def test_messages_that_are_none(server, message, says):
    error = post(server, "/v1/chat/completions", {"messages": [message]}, 400)["error"]
    assert (
        says.replace("'", '"') in error["message"].replace("'", '"')
        and error["param"] == "messages"
    )


def test_models_that_are_not_there(server):
    """404 with OpenAI's code wherever a model is named; without a name the default answers."""
    for name in ("stf", "gpt-4o", "SFT", "base/", "../base", "sft.txt", "\u00e4", " sft"):
        for path, body in (
            ("/v1/chat/completions", ASK),
            ("/v1/completions", {"prompt": "goat"}),
            ("/tokenize", {"content": "a"}),
            ("/detokenize", {"tokens": [1]}),
            ("/api/look", {"text": "a"}),
        ):
            error = post(server, path, {**body, "model": name}, 404)["error"]
            assert (
                error["code"] == "model_not_found"
                and error["param"] == "model"
                and "base, sft" in error["message"]
            )
    for name in ("stf", "gpt-4o", "%2e%2e%2fbase"):
        status, _, data = send(server, "GET", f"/v1/models/{name}")
        assert status == 404 and json.loads(data)["error"]["code"] == "model_not_found"
    for absent in ({}, {"model": None}, {"model": ""}):
        assert post(server, "/v1/chat/completions", {**ASK, **absent})["model"] == "sft"
        assert (
            post(server, "/v1/completions", {"prompt": "goat", "max_tokens": 1, **absent})["model"]
            == "base"
        )


def test_the_only_model_has_the_name_of_its_folder(run, monkeypatch):
    monkeypatch.chdir(run / "sft")
    for folder in (run / "sft", ".", "../sft/"):
        assert list(served.Models(folder=folder).folders) == ["sft"]


TOOL = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"tools": TOOL}, "tools"),
        ({"tools": TOOL, "tool_choice": "auto"}, "tools"),
        ({"tools": TOOL, "tool_choice": "required"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tools": TOOL, "tool_choice": "none"}, None),
        ({"best_of": 3}, "best_of"),
        ({"best_of": 2, "n": 1}, "best_of"),
        ({"best_of": 1}, None),
        ({"best_of": None}, None),
        ({"num_beams": 4}, "num_beams"),
        ({"top_n_sigma": 1.0}, "top_n_sigma"),
        ({"top_n_sigma": -1}, None),
        ({"tools": []}, None),
        ({"tool_choice": "auto"}, None),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"functions": [{"name": "f"}], "function_call": "none"}, None),
        ({"parallel_tool_calls": False}, None),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"modalities": ["text"]}, None),
        ({"audio": {"voice": "a", "format": "mp3"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"guided_choice": ["a"]}, "guided_choice"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"stop_token_ids": [1]}, "stop_token_ids"),
        ({"typical_p": 0.9}, "typical_p"),
        ({"typical_p": 1.0, "mirostat": 0, "tfs_z": 1, "min_tokens": 0}, None),
        ({"mirostat": 2}, "mirostat"),
        ({"dry_multiplier": 0.8}, "dry_multiplier"),
        ({"echo": True}, "echo"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"repeat_last_n": 64, "repeat_penalty": 1.1}, "repeat_last_n"),
        ({"repeat_last_n": 64, "repeat_penalty": 1}, None),
        ({"skip_special_tokens": False}, "skip_special_tokens"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        (
            {
                "store": True,
                "metadata": {"a": "b"},
                "user": "u",
                "service_tier": "auto",
                "prediction": None,
                "reasoning_effort": "low",
                "verbosity": "low",
                "prompt_cache_key": "k",
                "safety_identifier": "s",
                "stream_options": {"include_usage": True, "include_obfuscation": False},
                "cache_prompt": True,
                "chat_template_kwargs": {"enable_thinking": False},
                "unknown": [1],
            },
            None,
        ),
        (
            dict.fromkeys(
                [
                    "tools",
                    "tool_choice",
                    "functions",
                    "audio",
                    "modalities",
                    "web_search_options",
                    "n",
                    "stop",
                    "seed",
                    "response_format",
                    "logit_bias",
                    "max_tokens",
                    "temperature",
                    "logprobs",
                    "stream",
                    "grammar",
                ]
            ),
            None,
        ),
    ],
)
def test_fields_of_a_chat_that_have_no_effect(server, fields, param):
    """What would change the answer is refused by name; what asks for nothing, or changes nothing, is ignored."""
    body = {**ASK, **fields}
    if param is None:
        body["seed"] = 3
        assert (
            post(server, "/v1/chat/completions", body)["choices"][0]["message"]["content"][:3]
            == said()[0][:3]
        )
    else:
        error = post(server, "/v1/chat/completions", body, 400)["error"]
        assert (
            error["param"] == param
            and param in error["message"]
            and error["code"] == "unsupported_parameter"
        )
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"best_of": 3}, "best_of"),
        ({"best_of": 1}, None),
        ({"best_of": 2, "n": 2}, None),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"suffix": ""}, None),
        ({"tools": TOOL}, "tools"),
        ({"logprobs": False}, None),
        ({"use_beam_search": True, "best_of": 1}, "use_beam_search"),
        ({"num_beams": 4}, "num_beams"),
        ({"num_beams": 1}, None),
        ({"truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
        ({"max_tokens": None, "n_predict": 2}, None),
        ({"max_tokens": 2.0}, None),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_fields_of_a_completion_that_have_no_effect(server, fields, param):
    body = {"prompt": "goat", "max_tokens": 2, **fields}
    if param is None:
        assert post(server, "/v1/completions", body)["usage"]["completion_tokens"] <= 2 * body.get(
            "n", 1
        )
    else:
        error = post(server, "/v1/completions", body, 400)["error"]
        assert error["param"] == param and error["code"] == "unsupported_parameter"


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


# ------------------------------------------------------------------- models that are being loaded


@pytest.fixture
def loads(run, monkeypatch):
    """(server, names of the models that were loaded, an Event that lets all but sft be loaded)."""
    loaded, load, go = [], sample.load_model, threading.Event()

    def slowly(folder):
        loaded.append(folder.name)
        if folder.name != "sft":
            assert go.wait(20)
        return load(folder)

    monkeypatch.setattr(sample, "load_model", slowly)
    server = started(run)
    post(server, "/v1/chat/completions", ASK)
    yield server, loaded, go
    go.set()
    server.close()


def test_who_waits_for_a_model_is_in_nobodys_way(loads):
    """However many wait for base, in whatever route: sft answers; and base is loaded once."""
    server, loaded, go = loads
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        waiting = [
            pool.submit(
                post,
                server,
                "/v1/completions",
                {"prompt": "goat", "max_tokens": 2, "stream": False},
            )
            for _ in range(8)
        ]
        for path, body in (
            ("/tokenize", {"content": "a"}),
            ("/api/look", {"text": "a"}),
            ("/detokenize", {"tokens": [1]}),
        ):
            waiting.append(pool.submit(post, server, path, {**body, "model": "base"}))
        waiting.append(pool.submit(post, server, "/api/cut", {"vocabulary": "base", "text": "a"}))
        wait_for(lambda: sum(h.since is None for h in list(server.handlers)) >= len(waiting))
        for _ in range(3):
            post(server, "/v1/chat/completions", ASK)
            post(server, "/tokenize", {"content": "goat", "model": "sft"})
            post(server, "/api/cut", {"vocabulary": "sft", "text": "goat"})
        assert not any(one.done() for one in waiting)
        go.set()
        for one in waiting:
            assert "error" not in one.result(20)
    assert loaded == ["sft", "base"]


def test_a_model_that_cannot_be_loaded_answers_all_who_wait(loads, monkeypatch):
    """One attempt for all of them. Who asks later tries again."""
    server, loaded, go = loads
    slowly = sample.load_model

    def broken(folder):
        slowly(folder)
        raise ValueError("half a model")

    waits, result = [], concurrent.futures.Future.result

    def waited(future, timeout=None):
        waits.append(future)
        return result(future, timeout)

    monkeypatch.setattr(sample, "load_model", broken)
    monkeypatch.setattr(concurrent.futures.Future, "result", waited)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [
            pool.submit(post, server, "/v1/completions", {"prompt": "goat"}, 503) for _ in range(6)
        ]
        wait_for(lambda: len(waits) == 5)                   # all but the one that loads
        go.set()
        for one in waiting:
            assert one.result(20)["error"]["message"] == "half a model"
    assert loaded == ["sft", "base"]
    monkeypatch.setattr(sample, "load_model", slowly)
    assert post(server, "/v1/completions", {"prompt": "goat", "max_tokens": 1})["choices"]


def test_a_model_that_changes_all_the_time_still_answers(run, monkeypatch):
    """It is loaded at most once for a request, however often its files are written meanwhile."""
    server = started(run)
    try:
        post(server, "/v1/chat/completions", ASK)
        times, loaded, load = iter(range(10**6)), [], sample.load_model
        monkeypatch.setattr(
            served, "signature", lambda folder: (("tokenizer.json", 0, 0, next(times)),)
        )
        monkeypatch.setattr(
            sample, "load_model", lambda folder: loaded.append(folder) or load(folder)
        )
        assert post(server, "/v1/chat/completions", ASK)["choices"] and len(loaded) == 1
    finally:
        server.close()
