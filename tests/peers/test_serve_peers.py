"""chat/serve.py asked by OpenAI's own Python client, unchanged, and by curl."""

import json
import subprocess
import threading

import numpy as np
import openai
import pytest

import bpe
import gpt
import sample
from chat import served, serve

TOK = bpe.Tokenizer.train(["the lamp is lit, said the goat. user assistant system 0 1 2 3 4 5 6 7 8 9 Who are you? äöü"] * 4, 330)
CFG = gpt.Config(TOK.n_vocab, 64, 16, 2, 2)
WHO = [{"role": "user", "content": "Who?"}]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    run, params = tmp_path_factory.mktemp("run"), gpt.init(CFG, 0)
    for p in params.values():
        p += np.random.default_rng(5).standard_normal(p.shape).astype(np.float32) * 0.1
    for stage in ("base", "sft"):
        gpt.save(run / stage, params, CFG)
        TOK.save(run / stage / "tokenizer.json")
    server = serve.Server(served.Models(run), port=0, key="sesame")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{server.address}"
    server.close()


@pytest.fixture(scope="module")
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="sesame", max_retries=0)


def test_models(client):
    assert [m.id for m in client.models.list()] == ["base", "sft"]


def test_chat(client):
    answer = client.chat.completions.create(model="sft", messages=[{"role": "developer", "content": "lamp"}, *WHO], max_completion_tokens=10, seed=1, n=3, temperature=1.0, top_p=0.9)
    again = client.chat.completions.create(model="sft", messages=[{"role": "system", "content": "lamp"}, *WHO], max_tokens=10, seed=1, n=3, top_p=0.9)
    texts = [c.message.content for c in answer.choices]
    assert texts == [c.message.content for c in again.choices] and len(set(texts)) == 3 and answer.choices[2].index == 2
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens and answer.choices[0].message.role == "assistant"
    parts = client.chat.completions.create(model="sft", messages=[{"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "o?"}]}], seed=1, max_tokens=9)
    assert parts.choices[0].message.content == client.chat.completions.create(model="sft", messages=WHO, seed=1, max_tokens=9).choices[0].message.content


def test_streams(client):
    whole = client.chat.completions.create(model="sft", messages=WHO, seed=2, max_tokens=20)
    events = list(client.chat.completions.create(model="sft", messages=WHO, seed=2, max_tokens=20, stream=True, stream_options={"include_usage": True}))
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == whole.choices[0].message.content
    assert events[-1].usage == whole.usage and events[-2].choices[0].finish_reason == whole.choices[0].finish_reason and not events[-1].choices
    text = client.completions.create(model="base", prompt="the lamp", seed=2, max_tokens=20)
    events = list(client.completions.create(model="base", prompt="the lamp", seed=2, max_tokens=20, stream=True))
    assert "".join(e.choices[0].text for e in events) == text.choices[0].text and text.choices[0].finish_reason == events[-1].choices[0].finish_reason == "length"


def test_a_stream_left_early(client):
    with client.chat.completions.create(model="sft", messages=WHO, max_tokens=40, stream=True) as stream:
        next(iter(stream))
    assert client.chat.completions.create(model="sft", messages=WHO, max_tokens=3).choices


def test_stop_and_logprobs(client):
    free = client.chat.completions.create(model="sft", messages=WHO, temperature=0, max_tokens=20, logprobs=True, top_logprobs=2)
    text = free.choices[0].message.content
    content = free.choices[0].logprobs.content
    assert all(e.logprob == pytest.approx(e.top_logprobs[0].logprob) for e in content) and bytes(b for e in content for b in e.bytes or []).decode("utf-8", "replace") == text
    cut = client.chat.completions.create(model="sft", messages=WHO, temperature=0, max_tokens=20, stop=[text[2:4]])
    assert cut.choices[0].message.content == text[:text.index(text[2:4])] and cut.choices[0].finish_reason == "stop"
    old = client.completions.create(model="base", prompt="the lamp", max_tokens=4, logprobs=2, echo=True, seed=1)
    assert old.choices[0].text.startswith("the lamp") and old.choices[0].logprobs.tokens[:2] == ["the", " lamp"] and 2 < len(old.choices[0].logprobs.tokens) <= 6


def test_errors(client, address):
    with pytest.raises(openai.BadRequestError, match="temperature is 9") as e:
        client.chat.completions.create(model="sft", messages=WHO, temperature=9)
    assert e.value.param == "temperature" and e.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="do not fit") as e:
        client.chat.completions.create(model="sft", messages=[{"role": "user", "content": "goat " * 90}])
    assert e.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="sft", input="x")
    for ask in (lambda: client.chat.completions.create(model="gpt-4o", messages=WHO), lambda: client.models.retrieve("gpt-4o"),
                lambda: client.completions.create(model="gpt-4o", prompt="x", stream=True)):
        with pytest.raises(openai.NotFoundError, match="does not exist") as e:
            ask()
        assert e.value.code == "model_not_found"
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    for name, value in (("tools", [tool]), ("audio", {"voice": "alloy", "format": "mp3"}), ("web_search_options", {}),
                        ("response_format", {"type": "json_object"}), ("modalities", ["text", "audio"])):
        with pytest.raises(openai.BadRequestError, match=name) as e:
            client.chat.completions.create(model="sft", messages=WHO, **{name: value})
        assert e.value.param == name and e.value.code == "unsupported_parameter"
    with pytest.raises(openai.BadRequestError, match="best_of"):
        client.completions.create(model="base", prompt="x", best_of=3)
    harmless = dict(store=True, metadata={"a": "b"}, user="u", service_tier="auto", parallel_tool_calls=True, reasoning_effort="low",
                    verbosity="low", modalities=["text"], tool_choice="none", tools=[tool], logit_bias={}, response_format={"type": "text"})
    assert client.chat.completions.create(model="sft", messages=WHO, max_tokens=2, **harmless).choices


def test_logprobs_of_every_token(client):
    """As the client's types have them: of a prompt alone, of special tokens, in streams."""
    eot = TOK.special_tokens["<|endoftext|>"]
    ids = [eot, *TOK.encode_ordinary("the lamp"), eot, *TOK.encode_ordinary(" ä")]
    scored = client.completions.create(model="base", prompt=ids, max_tokens=0, echo=True, logprobs=1)
    found = scored.choices[0].logprobs
    assert len(found.tokens) == len(ids) == len(found.text_offset) and found.token_logprobs[0] is None and scored.usage.completion_tokens == 0
    more = client.completions.create(model="base", prompt=ids, max_tokens=5, echo=True, logprobs=1, seed=1, logit_bias={str(eot): 100}).choices[0]
    assert more.logprobs.tokens[:len(ids)] == found.tokens and more.logprobs.tokens[len(ids):] == ["<|endoftext|>"] and more.finish_reason == "stop"
    for name, tops in list(zip(more.logprobs.tokens, more.logprobs.top_logprobs))[1:]:
        assert name in tops and len(tops) <= 2
    body = dict(model="sft", messages=WHO, max_tokens=9, seed=4, logprobs=True, top_logprobs=3)
    whole = client.chat.completions.create(**body)
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
    events = list(client.chat.completions.create(**body, stream=True))
    assert [t for e in events if e.choices[0].logprobs for t in e.choices[0].logprobs.content] == whole.choices[0].logprobs.content


def test_bodies_in_chunks_and_texts_of_any_letters(address):
    """requests and httpx as people use them: an iterator as the body, lines of a stream as text."""
    requests, httpx = pytest.importorskip("requests"), pytest.importorskip("httpx")
    key, url = {"Authorization": "bearer sesame"}, f"{address}/v1/completions"
    letter = TOK.encode_ordinary("ä")
    bias = {str(i): -100 for i in range(TOK.n_vocab) if i not in letter}
    body = {"prompt": "ä", "max_tokens": 6, "stream": True, "logit_bias": bias, "temperature": 0, "presence_penalty": 0, "echo": True}
    with requests.post(url, json=body, headers=key, stream=True) as answer:
        lines = [line for line in answer.iter_lines(decode_unicode=True) if line.startswith("data: {")]
        assert answer.encoding == "utf-8" and json.loads(lines[0][6:])["choices"][0]["text"] == "ä"
    data = json.dumps({"prompt": "the lamp", "max_tokens": 3, "seed": 1}).encode()
    parts = [data[i:i + 7] for i in range(0, len(data), 7)]
    texts = {requests.post(url, data=iter(parts), headers=key).json()["choices"][0]["text"],
             httpx.post(url, content=iter(parts), headers=key).json()["choices"][0]["text"], requests.post(url, data=data, headers=key).json()["choices"][0]["text"]}
    assert len(texts) == 1


def test_curl(address):
    def curl(*args):
        return subprocess.run(["curl", "-sS", "-H", "Authorization: Bearer sesame", *args], capture_output=True, text=True, timeout=60).stdout

    answer = json.loads(curl(f"{address}/v1/chat/completions", "-d", json.dumps({"messages": WHO, "max_tokens": 5, "seed": 1})))
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    assert curl("-N", f"{address}/v1/chat/completions", "-d", json.dumps({"messages": WHO, "max_tokens": 5, "stream": True})).endswith("data: [DONE]\n\n")
    assert json.loads(curl(f"{address}/health"))["status"] == "ok"
    chunked = ("-H", "Transfer-Encoding: chunked", "-d", json.dumps({"messages": WHO, "max_tokens": 5, "seed": 1}))
    assert json.loads(curl(f"{address}/v1/chat/completions", *chunked))["choices"] == answer["choices"]
    old = curl("--http1.0", "-i", f"{address}/v1/chat/completions", "-d", json.dumps({"messages": WHO, "max_tokens": 5, "stream": True}))
    assert "chunked" not in old and old.endswith("data: [DONE]\n\n")
    twice = curl("--http1.0", "-v", "--keepalive-time", "5", "-H", "Connection: keep-alive", f"{address}/health", f"{address}/health")
    assert twice.count('"ok"') == 2
    assert subprocess.run(["curl", "-sS", f"{address}/health"], capture_output=True, text=True, timeout=60).stdout == '{"status": "ok"}'
    ids = json.loads(curl(f"{address}/tokenize", "-d", '{"content": "the lamp"}'))["tokens"]
    assert json.loads(curl(f"{address}/detokenize", "-d", json.dumps({"tokens": ids})))["content"] == "the lamp" == TOK.decode(ids)
    assert sample.render_prompt(WHO, TOK)
