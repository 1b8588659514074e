"""serve.py: what OpenAI's clients send and expect, clients that go away, requests that are wrong, an orderly end."""

import concurrent.futures
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import bpe
import gpt
import malformed
import sample
import serve
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
    server = serve.Server(serve.Models(run), port=0, **how)
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
    assert status == 200 and headers["Content-Type"] == "text/event-stream", data
    events = data.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""] and all(e.startswith("data: ") for e in events[:-1])
    return [json.loads(e[6:]) for e in events[:-2]]


def said(**settings):
    """What sample.py says to ASK."""
    prompt = sample.render_prompt(ASK["messages"], TOK)
    (reply,) = sample.generate(PARAMS, CFG, TOK, [prompt], stop=frozenset([TOK.special_tokens["<|im_end|>"]]), **{"max_new_tokens": 12, "seed": 3, **settings})
    return sample.reply_text(reply.ids, TOK), reply


def test_a_chat_says_what_sample_says(server):
    answer = post(server, "/v1/chat/completions", {**ASK, "model": "gpt-4o", "unknown": 1, "user": None})
    text, reply = said()
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == text and choice["finish_reason"] == reply.finish and answer["model"] == "gpt-4o"
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
    assert last["token_ids"] == sample.generate(PARAMS, CFG, TOK, [prompt], stop=frozenset([TOK.special_tokens["<|im_end|>"]]), max_new_tokens=12, seed=3)[0].ids
    post(server, "/v1/chat/completions", {"messages": [{"role": "user", "content": call}]}, 400)


def test_completions(server):
    """Of texts and of tokens, several at once, with echo; the base model's by default."""
    between = TOK.special_tokens["<|endoftext|>"]
    for prompt, ids in (("the lamp", [between, *TOK.encode_ordinary("the lamp")]), (TOK.encode_ordinary("goat"), TOK.encode_ordinary("goat"))):
        (want,) = sample.generate(PARAMS, CFG, TOK, [ids], max_new_tokens=16, seed=5, stop=frozenset([between]))
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
    assert all(t.startswith("bytes:") or len(t) == 1 for t in found["logprobs"]["tokens"]) and len(set(map(str, found["logprobs"]["top_logprobs"][0]))) == min(2, len(set(b)))
    assert found["logprobs"]["text_offset"][0] == 0 and max(found["logprobs"]["text_offset"]) <= len(found["text"])


def test_log_probabilities_of_the_prompt(server):
    """What evaluation harnesses ask for: echo, and how likely each token of the prompt was."""
    text = "the lamp is lit"
    ids = [TOK.eot_token, *TOK.encode_ordinary(text)]
    logits = gpt.forward(PARAMS, CFG, np.array([ids]))[0][0, :, :TOK.n_vocab].astype(np.float64)
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
    for body in ({**ASK, "model": "\ud800"}, {**ASK, "model": "\ud800", "stream": True}, {"messages": [ASK["messages"][0], {"role": "assistant", "content": ""}, ASK["messages"][0]], "max_tokens": 2}):
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
    ("/v1/chat/nothing", {}, 404, "no such route"), ("/health", {}, 405, "GET only"), ("/v1/chat/completions", " " * (serve.LARGEST_BODY + 1), 413, "at most"),
])
def test_bad_requests(server, path, body, status, message):
    answer = post(server, path, body, status)
    assert message in answer["error"]["message"] and set(answer["error"]) == {"message", "type", "param", "code"}


def test_malformed_requests(server, capfd):
    """Six hundred of them; python tests/malformed.py sends ten thousand."""
    before = post(server, "/v1/chat/completions", ASK)["choices"]
    answers = malformed.attack(server.server_address[1], 600)
    assert {status for _, status in answers} >= {400, 404, 405, 411, 413, 501, "closed"}
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
    """Those that wait for a request give way, the longest waiting first; where all are being answered a new one is refused."""
    monkeypatch.setattr(serve, bound, 2)
    server, busy = started(run), threading.Event()
    monkeypatch.setattr(serve.Handler, "models", lambda self, _: busy.wait(20) and serve.Answer({}))
    with socket.create_connection(server.server_address) as first, socket.create_connection(server.server_address) as second:
        wait_for(lambda: len(server.handlers) == 2)
        assert send(server, "GET", "/health")[0] == 200
        first.settimeout(20)
        assert first.recv(10) == b""                        # it gave way
        second.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with socket.create_connection(server.server_address) as third:
            third.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_for(lambda: sum(h.since is None for h in server.handlers) == 2)
            with socket.create_connection(server.server_address, timeout=20) as fourth:
                assert fourth.recv(100).startswith(b"HTTP/1.1 %d " % status)
            busy.set()
            assert second.recv(100).startswith(b"HTTP/1.1 200") and third.recv(100).startswith(b"HTTP/1.1 200")
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
        monkeypatch.setattr(sample.Batch, where, lambda self, *_: 1 / 0)
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
