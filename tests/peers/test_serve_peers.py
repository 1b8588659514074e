"""chat/serve.py asked by OpenAI's own Python client, unchanged, and by curl."""

import json
import subprocess

import openai
import pytest

from serving import TOK, run, running  # noqa: F401

WHO = [{"role": "user", "content": "Who?"}]
SFT = {"model": "sft", "messages": WHO}
CHAT = "v1/chat/completions"
EOT = TOK.eot_token


@pytest.fixture(scope="module")
def address(run):
    with running(run, key="sesame") as server:
        yield f"http://{server.address}"


def client_with(address, key):
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def client(address):
    return client_with(address, "sesame")


@pytest.fixture(scope="module")
def chat(client):
    return client.chat.completions.create


@pytest.fixture(scope="module")
def complete(client):
    return client.completions.create


def content(answer):
    return answer.choices[0].message.content


def test_models(client):
    assert [m.id for m in client.models.list()] == ["base", "sft"]


def test_chat(chat):
    how = {"model": "sft", "seed": 1, "n": 3, "top_p": 0.9}
    lamp = [{"role": "developer", "content": "lamp"}, *WHO]
    answer = chat(**how, messages=lamp, max_completion_tokens=10, temperature=1.0)
    again = chat(**how, messages=[{"role": "system", "content": "lamp"}, *WHO], max_tokens=10)
    texts = [c.message.content for c in answer.choices]
    assert texts == [c.message.content for c in again.choices] and len(set(texts)) == 3
    usage, last = answer.usage, answer.choices[2]
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert last.index == 2 and last.message.role == "assistant"
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "o?"}]
    cut = chat(model="sft", messages=[{"role": "user", "content": parts}], seed=1, max_tokens=9)
    assert content(cut) == content(chat(**SFT, seed=1, max_tokens=9))


def test_streams(chat, complete):
    how = {**SFT, "seed": 2, "max_tokens": 20}
    whole = chat(**how)
    events = list(chat(**how, stream=True, stream_options={"include_usage": True}))
    text = "".join(e.choices[0].delta.content or "" for e in events if e.choices)
    assert text == content(whole) and events[-1].usage == whole.usage and not events[-1].choices
    assert events[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    how = {"model": "base", "prompt": "the lamp", "seed": 2, "max_tokens": 20}
    (whole,), events = complete(**how).choices, list(complete(**how, stream=True))
    assert "".join(e.choices[0].text for e in events) == whole.text
    assert whole.finish_reason == events[-1].choices[0].finish_reason == "length"


def test_a_stream_left_early(chat):
    with chat(**SFT, max_tokens=40, stream=True) as stream:
        next(iter(stream))
    assert chat(**SFT, max_tokens=3).choices


def test_stop_and_logprobs(chat, complete):
    how = {**SFT, "temperature": 0, "max_tokens": 20}
    free = chat(**how, logprobs=True, top_logprobs=2)
    text, entries = content(free), free.choices[0].logprobs.content
    assert all(e.logprob == pytest.approx(e.top_logprobs[0].logprob) for e in entries)
    said = bytes(b for e in entries for b in e.bytes or [])
    assert said.decode("utf-8", "replace") == text
    cut = chat(**how, stop=[text[2:4]])
    assert content(cut) == text[:text.index(text[2:4])] and cut.choices[0].finish_reason == "stop"
    how = {"model": "base", "prompt": "the lamp", "max_tokens": 4, "seed": 1}
    (old,) = complete(**how, logprobs=2, echo=True).choices
    assert old.text.startswith("the lamp") and old.logprobs.tokens[:2] == ["the", " lamp"]
    assert 2 < len(old.logprobs.tokens) <= 6


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
NO_EFFECT = {
    "tools": [TOOL],
    "audio": {"voice": "alloy", "format": "mp3"},
    "web_search_options": {},
    "response_format": {"type": "json_object"},
    "modalities": ["text", "audio"],
}
HARMLESS = {
    "store": True,
    "metadata": {"a": "b"},
    "user": "u",
    "service_tier": "auto",
    "parallel_tool_calls": True,
    "reasoning_effort": "low",
    "verbosity": "low",
    "modalities": ["text"],
    "tool_choice": "none",
    "tools": [TOOL],
    "logit_bias": {},
    "response_format": {"type": "text"},
}


def test_errors(client, address, chat, complete):
    with pytest.raises(openai.BadRequestError, match="temperature is 9") as e:
        chat(**SFT, temperature=9)
    assert e.value.param == "temperature" and e.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="do not fit") as e:
        chat(model="sft", messages=[{"role": "user", "content": "goat " * 90}])
    assert e.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        client_with(address, "wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="sft", input="x")
    for ask in (
        lambda: chat(model="gpt-4o", messages=WHO),
        lambda: client.models.retrieve("gpt-4o"),
        lambda: complete(model="gpt-4o", prompt="x", stream=True),
    ):
        with pytest.raises(openai.NotFoundError, match="does not exist") as e:
            ask()
        assert e.value.code == "model_not_found"
    for name, value in NO_EFFECT.items():
        with pytest.raises(openai.BadRequestError, match=name) as e:
            chat(**SFT, **{name: value})
        assert e.value.param == name and e.value.code == "unsupported_parameter"
    with pytest.raises(openai.BadRequestError, match="best_of"):
        complete(model="base", prompt="x", best_of=3)
    assert chat(**SFT, max_tokens=2, **HARMLESS).choices


def test_logprobs_of_every_token(chat, complete):
    """As the client's types have them: of a prompt alone, of special tokens, in streams."""
    ids = [EOT, *TOK.encode_ordinary("the lamp"), EOT, *TOK.encode_ordinary(" ä")]
    how = {"model": "base", "prompt": ids, "echo": True, "logprobs": 1}
    scored = complete(**how, max_tokens=0)
    found = scored.choices[0].logprobs
    assert len(found.tokens) == len(ids) == len(found.text_offset)
    assert found.token_logprobs[0] is None and scored.usage.completion_tokens == 0
    (more,) = complete(**how, max_tokens=5, seed=1, logit_bias={str(EOT): 100}).choices
    assert more.logprobs.tokens == [*found.tokens, "<|endoftext|>"]
    assert more.finish_reason == "stop"
    for name, tops in list(zip(more.logprobs.tokens, more.logprobs.top_logprobs))[1:]:
        assert name in tops and len(tops) <= 2
    how = {**SFT, "max_tokens": 9, "seed": 4, "logprobs": True, "top_logprobs": 3}
    whole = chat(**how)
    entries = whole.choices[0].logprobs.content
    assert len(entries) == whole.usage.completion_tokens
    pieces = [event.choices[0].logprobs for event in chat(**how, stream=True)]
    assert [entry for piece in pieces if piece for entry in piece.content] == entries


def test_bodies_in_chunks_and_texts_of_any_letters(address):
    """requests and httpx as people use them: an iterator as the body, lines of a stream as text."""
    requests, httpx = pytest.importorskip("requests"), pytest.importorskip("httpx")
    key, url = {"Authorization": "bearer sesame"}, f"{address}/v1/completions"
    letter = TOK.encode_ordinary("ä")
    bias = {str(i): -100 for i in range(TOK.n_vocab) if i not in letter}
    body = {"prompt": "ä", "max_tokens": 6, "temperature": 0, "logit_bias": bias}
    body |= {"stream": True, "echo": True}
    with requests.post(url, json=body, headers=key, stream=True) as answer:
        lines = answer.iter_lines(decode_unicode=True)
        first = next(line for line in lines if line.startswith("data: {"))
        assert answer.encoding == "utf-8" and json.loads(first[6:])["choices"][0]["text"] == "ä"
    data = json.dumps({"prompt": "the lamp", "max_tokens": 3, "seed": 1}).encode()
    parts = [data[i:i + 7] for i in range(0, len(data), 7)]
    answers = [
        requests.post(url, data=iter(parts), headers=key),
        httpx.post(url, content=iter(parts), headers=key),
        requests.post(url, data=data, headers=key),
    ]
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1


def curl(*args, key=("-H", "Authorization: Bearer sesame")):
    words = ["curl", "-sS", *key, *args]
    return subprocess.run(words, capture_output=True, text=True, timeout=60).stdout


def test_curl(address):
    url, body = f"{address}/{CHAT}", {"messages": WHO, "max_tokens": 5, "seed": 1}
    asked, streamed = ("-d", json.dumps(body)), ("-d", json.dumps({**body, "stream": True}))
    answer = json.loads(curl(url, *asked))
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    assert curl("-N", url, *streamed).endswith("data: [DONE]\n\n")
    assert json.loads(curl(f"{address}/health"))["status"] == "ok"
    chunked = curl(url, "-H", "Transfer-Encoding: chunked", *asked)
    assert json.loads(chunked)["choices"] == answer["choices"]
    old = curl("--http1.0", "-i", url, *streamed)
    assert "chunked" not in old and old.endswith("data: [DONE]\n\n")
    kept = ("--http1.0", "-v", "--keepalive-time", "5", "-H", "Connection: keep-alive")
    assert curl(*kept, *[f"{address}/health"] * 2).count('"ok"') == 2
    assert curl(f"{address}/health", key=()) == '{"status": "ok"}'
    ids = json.loads(curl(f"{address}/tokenize", "-d", '{"content": "the lamp"}'))["tokens"]
    text = json.loads(curl(f"{address}/detokenize", "-d", json.dumps({"tokens": ids})))["content"]
    assert text == "the lamp" == TOK.decode(ids)
