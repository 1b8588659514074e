"""chat/serve.py asked by OpenAI's own Python client, unchanged, and by curl."""

import json
import subprocess

import openai
import pytest

from serving import TOK, run, running  # noqa: F401  a fixture

WHO = [{"role": "user", "content": "Who?"}]


@pytest.fixture(scope="module")
def address(run):  # noqa: F811
    with running(run, key="sesame") as server:
        yield f"http://{server.address}"


@pytest.fixture(scope="module")
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="sesame", max_retries=0)


@pytest.fixture(scope="module")
def chat(client):
    """A function that asks sft, "Who?" unless it is told otherwise."""
    def ask(**settings):
        settings = {"model": "sft", "messages": WHO, **settings}
        return client.chat.completions.create(**settings)
    return ask


@pytest.fixture(scope="module")
def complete(client):
    """A function that lets base go on from a text."""
    def ask(prompt="the lamp", **settings):
        settings = {"model": "base", "prompt": prompt, **settings}
        return client.completions.create(**settings)
    return ask


def text_of(answer):
    return answer.choices[0].message.content


def test_models(client):
    assert [m.id for m in client.models.list()] == ["base", "sft"]


def test_chat(chat):
    settings = {"seed": 1, "n": 3, "top_p": 0.9}
    lamp = {"role": "developer", "content": "lamp"}
    answer = chat(messages=[lamp, *WHO], max_completion_tokens=10, temperature=1.0, **settings)
    again = chat(messages=[{**lamp, "role": "system"}, *WHO], max_tokens=10, **settings)
    texts = [c.message.content for c in answer.choices]
    assert texts == [c.message.content for c in again.choices]
    assert len(set(texts)) == 3 and answer.choices[2].index == 2
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert answer.choices[0].message.role == "assistant"
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "o?"}]
    parted = chat(messages=[{"role": "user", "content": parts}], seed=1, max_tokens=9)
    assert text_of(parted) == text_of(chat(seed=1, max_tokens=9))


def test_streams(chat, complete):
    settings = {"seed": 2, "max_tokens": 20}
    whole = chat(**settings)
    *events, last, usage = chat(**settings, stream=True, stream_options={"include_usage": True})
    written = "".join(e.choices[0].delta.content or "" for e in [*events, last])
    assert written == text_of(whole)
    assert usage.usage == whole.usage and not usage.choices
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    whole = complete(**settings).choices[0]
    events = list(complete(**settings, stream=True))
    assert "".join(e.choices[0].text for e in events) == whole.text
    assert whole.finish_reason == events[-1].choices[0].finish_reason == "length"


def test_a_stream_left_early(chat):
    with chat(max_tokens=40, stream=True) as stream:
        next(iter(stream))
    assert chat(max_tokens=3).choices


def test_stop_and_logprobs(chat, complete):
    settings = {"temperature": 0, "max_tokens": 20}
    free = chat(**settings, logprobs=True, top_logprobs=2)
    text, content = text_of(free), free.choices[0].logprobs.content
    assert all(e.logprob == pytest.approx(e.top_logprobs[0].logprob) for e in content)
    assert bytes(b for e in content for b in e.bytes or []).decode("utf-8", "replace") == text
    cut = chat(**settings, stop=[text[2:4]])
    assert text_of(cut) == text[:text.index(text[2:4])]
    assert cut.choices[0].finish_reason == "stop"
    old = complete(max_tokens=4, logprobs=2, echo=True, seed=1).choices[0]
    assert old.text.startswith("the lamp") and old.logprobs.tokens[:2] == ["the", " lamp"]
    assert 2 < len(old.logprobs.tokens) <= 6


def test_errors(client, address, chat, complete):
    with pytest.raises(openai.BadRequestError, match="temperature is 9") as e:
        chat(temperature=9)
    assert e.value.param == "temperature" and e.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="do not fit") as e:
        chat(messages=[{"role": "user", "content": "goat " * 90}])
    assert e.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="sft", input="x")
    for ask in (lambda: chat(model="gpt-4o"), lambda: client.models.retrieve("gpt-4o"),
                lambda: complete(model="gpt-4o", stream=True)):
        with pytest.raises(openai.NotFoundError, match="does not exist") as e:
            ask()
        assert e.value.code == "model_not_found"


def test_what_it_does_not_do(chat, complete):
    """Settings that change an answer are refused by name; those that do not are taken."""
    parameters = {"type": "object", "properties": {}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    refused = {
        "tools": [tool],
        "audio": {"voice": "alloy", "format": "mp3"},
        "web_search_options": {},
        "response_format": {"type": "json_object"},
        "modalities": ["text", "audio"],
    }
    for name, value in refused.items():
        with pytest.raises(openai.BadRequestError, match=name) as e:
            chat(**{name: value})
        assert e.value.param == name and e.value.code == "unsupported_parameter"
    with pytest.raises(openai.BadRequestError, match="best_of"):
        complete(best_of=3)
    harmless = {
        "store": True, "metadata": {"a": "b"}, "user": "u", "service_tier": "auto",
        "parallel_tool_calls": True, "reasoning_effort": "low", "verbosity": "low",
        "modalities": ["text"], "tool_choice": "none", "tools": [tool], "logit_bias": {},
        "response_format": {"type": "text"},
    }
    assert chat(max_tokens=2, **harmless).choices


def test_logprobs_of_every_token(chat, complete):
    """As the client's types have them: of a prompt alone, of special tokens, in streams."""
    eot = TOK.special_tokens["<|endoftext|>"]
    ids = [eot, *TOK.encode_ordinary("the lamp"), eot, *TOK.encode_ordinary(" ä")]
    settings = {"prompt": ids, "echo": True, "logprobs": 1}
    scored = complete(**settings, max_tokens=0)
    found = scored.choices[0].logprobs
    assert len(found.tokens) == len(ids) == len(found.text_offset)
    assert found.token_logprobs[0] is None and scored.usage.completion_tokens == 0
    more = complete(**settings, max_tokens=5, seed=1, logit_bias={str(eot): 100}).choices[0]
    assert more.logprobs.tokens == [*found.tokens, "<|endoftext|>"]
    assert more.finish_reason == "stop"
    for name, tops in list(zip(more.logprobs.tokens, more.logprobs.top_logprobs))[1:]:
        assert name in tops and len(tops) <= 2
    settings = {"max_tokens": 9, "seed": 4, "logprobs": True, "top_logprobs": 3}
    whole = chat(**settings)
    content = whole.choices[0].logprobs.content
    assert len(content) == whole.usage.completion_tokens
    streamed = []
    for event in chat(**settings, stream=True):
        if event.choices[0].logprobs:
            streamed += event.choices[0].logprobs.content
    assert streamed == content


def test_bodies_in_chunks_and_texts_of_any_letters(address):
    """requests and httpx as people use them: an iterator as the body, lines of a stream as text."""
    requests, httpx = pytest.importorskip("requests"), pytest.importorskip("httpx")
    key, url = {"Authorization": "bearer sesame"}, f"{address}/v1/completions"
    letter = TOK.encode_ordinary("ä")
    bias = {str(i): -100 for i in range(TOK.n_vocab) if i not in letter}
    body = {"prompt": "ä", "max_tokens": 6, "stream": True, "logit_bias": bias, "temperature": 0,
            "presence_penalty": 0, "echo": True}
    with requests.post(url, json=body, headers=key, stream=True) as answer:
        lines = list(answer.iter_lines(decode_unicode=True))
        first = next(line for line in lines if line.startswith("data: {"))
        assert answer.encoding == "utf-8" and json.loads(first[6:])["choices"][0]["text"] == "ä"
    data = json.dumps({"prompt": "the lamp", "max_tokens": 3, "seed": 1}).encode()
    parts = [data[i:i + 7] for i in range(0, len(data), 7)]
    answers = [requests.post(url, data=iter(parts), headers=key),
               httpx.post(url, content=iter(parts), headers=key),
               requests.post(url, data=data, headers=key)]
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1


def test_curl(address):
    def curl(*args, key=("-H", "Authorization: Bearer sesame")):
        words = ["curl", "-sS", *key, *args]
        return subprocess.run(words, capture_output=True, text=True, timeout=60).stdout

    chat, health = f"{address}/v1/chat/completions", f"{address}/health"
    body = {"messages": WHO, "max_tokens": 5, "seed": 1}
    once, stream = json.dumps(body), json.dumps({**body, "stream": True})
    answer = json.loads(curl(chat, "-d", once))["choices"]
    assert answer[0]["finish_reason"] in ("stop", "length")
    chunked = curl(chat, "-H", "Transfer-Encoding: chunked", "-d", once)
    assert json.loads(chunked)["choices"] == answer
    assert curl("-N", chat, "-d", stream).endswith("data: [DONE]\n\n")
    old = curl("--http1.0", "-i", chat, "-d", stream)
    assert "chunked" not in old and old.endswith("data: [DONE]\n\n")
    assert json.loads(curl(health))["status"] == "ok"
    assert curl(health, key=()) == '{"status": "ok"}'
    keep = ("--http1.0", "-v", "--keepalive-time", "5", "-H", "Connection: keep-alive")
    assert curl(*keep, health, health).count('"ok"') == 2
    ids = json.loads(curl(f"{address}/tokenize", "-d", '{"content": "the lamp"}'))["tokens"]
    said = json.loads(curl(f"{address}/detokenize", "-d", json.dumps({"tokens": ids})))
    assert said["content"] == "the lamp" == TOK.decode(ids)
