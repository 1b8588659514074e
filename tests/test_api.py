"""chat/api.py: what OpenAI's clients are told."""

import json

import numpy as np
import pytest

import gpt
import sample
from chat import api, batching, fields, formats, generate, jinja
from model import fast
from conversations import TOOLS
from serving import (  # noqa: F401
    ASK, CFG, CHAT, PARAMS, TEXTS, TOK, choices, names, post, run, running, send, server, started,
    texts,
)
from test_formats import CHATML, HELLO, OTHER, folder_of

N_HELLO = len(OTHER.encode("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
                           allowed_special="all"))
END, EOT = TOK.special_tokens["<|im_end|>"], TOK.eot_token


def chunks(server, path, body):
    """The events of a stream, without the last, which is [DONE]."""
    status, headers, data = send(server, "POST", path, {**body, "stream": True})
    assert status == 200 and headers["Content-Type"] == "text/event-stream; charset=utf-8", data
    events = data.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""] and all(e.startswith("data: ") for e in events[:-1])
    return [json.loads(e[6:]) for e in events[:-2]]


def written(prompt, **settings):
    """What generate.py writes behind a prompt."""
    (reply,) = generate.generate(PARAMS, CFG, TOK, [prompt], **settings)
    return reply


def said(**settings):
    """What sample.py says to ASK."""
    prompt = sample.render_prompt(ASK["messages"], TOK)
    settings = {"max_new_tokens": 12, "seed": 3, "stop": frozenset([END]), **settings}
    reply = written(prompt, **settings)
    return sample.reply_text(reply.ids, TOK), reply


def content(choice):
    return choice["message"]["content"]


def log_softmax(ids):
    """The model's own log-probabilities behind each of these tokens."""
    logits = fast.forward(PARAMS, CFG, np.array([ids]))[0][0, :, :TOK.n_vocab].astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_a_chat_says_what_sample_says(server):
    answer = post(server, CHAT, {**ASK, "model": "sft", "unknown": 1, "user": None})
    text, reply = said()
    (choice,) = answer["choices"]
    assert content(choice) == text and choice["finish_reason"] == reply.finish
    assert answer["model"] == "sft" and answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-") and choice["logprobs"] is None
    n_read, n_written = len(sample.render_prompt(ASK["messages"], TOK)), len(reply.ids)
    assert answer["usage"] == {
        "prompt_tokens": n_read,
        "completion_tokens": n_written,
        "total_tokens": n_read + n_written,
    }


def test_a_stream_is_the_same_in_pieces(server):
    body = {**ASK, "n": 2, "stream_options": {"include_usage": True}}
    *events, last = chunks(server, CHAT, body)
    assert len({e["id"] for e in events}) == 1
    assert {e["object"] for e in events} == {"chat.completion.chunk"}
    whole = post(server, CHAT, {**ASK, "n": 2})
    begun = [e["choices"][0]["delta"] for e in events[:2]]
    assert begun == [{"role": "assistant", "content": ""}] * 2
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert all(e["usage"] is None for e in events)
    for i, choice in enumerate(whole["choices"]):
        mine = [e["choices"][0] for e in events if e["choices"][0]["index"] == i]
        assert "".join(c["delta"].get("content", "") for c in mine) == content(choice)
        ends = [c["finish_reason"] for c in mine if c["finish_reason"]]
        assert ends == [choice["finish_reason"]]
    first, second = map(content, whole["choices"])
    assert first == said()[0] != second


def test_tokens_of_a_conversation_with_a_call(server):
    """The page sends calls of the calculator back as what they were, and is told the tokens."""
    call = [
        {"type": "tool", "text": "1+2"},
        {"type": "output", "text": "3"},
        {"type": "text", "text": "3."},
    ]
    begun = [{"role": "user", "content": "1 2"}, {"role": "assistant", "content": call}]
    who = [{"type": "text", "text": "Who"}, {"type": "text", "text": "?"}]
    body = {**ASK, "messages": [*begun, {"role": "user", "content": who}]}
    told = []
    for value in chunks(server, CHAT, {**body, "return_token_ids": True}):
        told += value["choices"]
    told = [choice for choice in told if "token_ids" in choice]
    prompt = sample.render_prompt([*begun, ASK["messages"][0]], TOK)
    prompts = [choice.get("prompt_token_ids") for choice in told]
    assert prompts == [prompt] + [None] * (len(told) - 1)
    assert TOK.special_tokens["<|output_start|>"] in prompt
    want = written(prompt, stop=frozenset([END]), max_new_tokens=12, seed=3)
    assert len(told) > 2 and told[-1]["finish_reason"]
    assert sum((choice["token_ids"] for choice in told), []) == want.ids
    post(server, CHAT, {"messages": [{"role": "user", "content": call}]}, 400)


def test_the_context_of_a_model_that_is_loaded(server):
    post(server, CHAT, ASK)
    card = json.loads(send(server, "GET", "/v1/models/sft")[2])
    assert card["max_model_len"] == CFG.n_positions and card["id"] == "sft"


def test_completions(server):
    """Of texts and of tokens, several at once, with echo; the base model's by default."""
    lamp, goat = TOK.encode_ordinary("the lamp"), TOK.encode_ordinary("goat")
    for prompt, ids in (("the lamp", [EOT, *lamp]), (goat, goat)):
        want = written(ids, max_new_tokens=16, seed=5, stop=frozenset([EOT]))
        answer = post(server, TEXTS, {"prompt": prompt, "seed": 5, "return_token_ids": True})
        (choice,) = answer["choices"]
        assert choice["text"] == sample.reply_text(want.ids, TOK)
        assert choice["token_ids"] == want.ids
        assert answer["system_fingerprint"] == "base" and answer["object"] == "text_completion"
    body = {"prompt": ["the lamp", "goat"], "n": 2, "seed": 5, "echo": True, "max_tokens": 3}
    both = texts(server, **body)
    assert [c["index"] for c in both] == [0, 1, 2, 3]
    assert [c["text"][:4] for c in both] == ["the ", "the ", "goat", "goat"]
    pieces = [e["choices"][0] for e in chunks(server, TEXTS, body)]
    for i, choice in enumerate(both):
        assert "".join(c["text"] for c in pieces if c["index"] == i) == choice["text"]


def test_log_probabilities(server):
    how = {"logprobs": True, "top_logprobs": 3, "temperature": 0.2}
    (choice,) = choices(server, **how)
    found = choice["logprobs"]["content"]
    assert b"".join(bytes(e["bytes"]) for e in found).decode("utf-8", "replace") == content(choice)
    for e in found:
        tops = [t["logprob"] for t in e["top_logprobs"]]
        assert len(tops) == 3 and tops == sorted(tops, reverse=True)
        assert e["logprob"] <= tops[0] <= 0
    pieces = [c["logprobs"] for e in chunks(server, CHAT, {**ASK, **how}) for c in e["choices"]]
    assert [t for piece in pieces if piece for t in piece["content"]] == found
    old = texts(server, prompt="the lamp", seed=5, logprobs=2)[0]["logprobs"]
    assert len({len(old[key]) for key in old}) == 1 and old["text_offset"][0] == 0
    assert set(old) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}


def test_stop_strings_and_settings(server):
    def one(**how):
        (choice,) = choices(server, **{"temperature": 0, **how})
        return content(choice), choice["finish_reason"]

    text, _ = said(temperature=0.0)
    assert one()[0] == text
    assert one(stop=[text[3:5], "never said"]) == (text[:text.index(text[3:5])], "stop")
    first, g = TOK.encode_ordinary(text)[0], TOK.encode_ordinary("g")[0]
    assert one(logit_bias={str(first): -100})[0] != text
    assert one(logit_bias={str(g): 100}, max_tokens=5) == ("ggggg", "length")
    penalties = {"presence_penalty": 2.0, "frequency_penalty": 2.0}
    want, _ = said(temperature=0.0, **penalties)
    assert one(**penalties, top_k=5, min_p=0.1, top_p=0.9)[0] == want
    free = {one(temperature=1, seed=None) for _ in range(3)}
    assert len(free) > 1                # without a seed it is another reply every time


def test_log_probabilities_of_parts_of_characters(server):
    """Bytes that are no character each have a name, and offsets are those of the text."""
    some = TOK.encode_ordinary("\u0115") + TOK.encode_ordinary("\u00e4")
    bias = {str(i): -100 for i in range(TOK.n_vocab) if i not in some}
    how = {"prompt": "the lamp", "logit_bias": bias, "max_tokens": 8, "logprobs": 2, "seed": 1}
    (choice,) = texts(server, **how)
    found = choice["logprobs"]
    assert all(t.startswith("bytes:") or len(t) == 1 for t in found["tokens"])
    assert any(t.startswith("bytes:") for t in found["tokens"]) and len(set(some)) > 2
    for token, tops in zip(found["tokens"], found["top_logprobs"]):
        assert token in tops and len(tops) in (2, 3)    # the two likeliest, and the one drawn
    assert found["text_offset"][0] == 0 and max(found["text_offset"]) <= len(choice["text"])


def test_log_probabilities_of_the_prompt(server):
    """What evaluation harnesses ask for: echo, and how likely each token of the prompt was."""
    text = "the lamp is lit"
    ids = [EOT, *TOK.encode_ordinary(text)]
    logp, n = log_softmax(ids), len(ids) - 1
    want = [float(logp[t, token]) for t, token in enumerate(ids[1:])]
    body = {"prompt": text, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
    for prompt in (text, ids[1:]):
        (choice,) = texts(server, **{**body, "prompt": prompt})
        found = choice["logprobs"]
        assert "".join(found["tokens"][:n]) == text and choice["text"].startswith(text)
        assert len(found["tokens"]) == n + 1 and found["text_offset"][n] == len(text)
        if prompt == text:
            np.testing.assert_allclose(found["token_logprobs"][:n], want, atol=1e-4)
        else:
            assert found["token_logprobs"][0] is None
    begun = chunks(server, TEXTS, body)[0]["choices"][0]
    assert begun["text"] == text and len(begun["logprobs"]["tokens"]) == n


def test_a_stop_string_at_the_last_token(server):
    how = {"prompt": "the lamp", "max_tokens": 6, "seed": 2}
    text = texts(server, **how)[0]["text"]
    (found,) = texts(server, **how, stop=text[-1:])
    assert found["finish_reason"] == "stop" and found["text"] == text[:text.index(text[-1])]


def test_what_odd_clients_send(server):
    for stream in (False, True):
        assert send(server, "POST", CHAT, {**ASK, "model": "\ud800", "stream": stream})[0] == 404
    silent = [ASK["messages"][0], {"role": "assistant", "content": ""}, ASK["messages"][0]]
    for odd in ({"model": None}, {"model": ""}, {"messages": silent, "max_tokens": 2}):
        assert choices(server, **odd)
    usage = post(server, TEXTS, {"prompt": None, "max_tokens": None, "seed": 1})["usage"]
    assert usage["completion_tokens"] <= 16
    assert json.loads(send(server, "GET", "/v1/models/sft")[2])["id"] == "sft"
    assert send(server, "GET", "/v1/models/none")[0] == 404


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


CALL = ("<|tool_start|>", "1+1", "<|tool_end|>", "<|output_start|>", "2", "<|output_end|>")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A server whose sft calls the calculator, and writes half a character and text like a call."""
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
    whole = post(server, CHAT, body)
    choice = whole["choices"][1]
    found = choice["logprobs"]["content"]
    assert content(choice) == "so2 [1+1 = 3] \u0115\ufffd" and choice["finish_reason"] == "stop"
    assert len(found) == len(reply) and whole["usage"]["completion_tokens"] == 2 * len(reply)
    spelled = [TOK.token_bytes[i].decode("utf-8", "replace") for i in reply]
    assert [e["token"] for e in found] == spelled
    said = b"".join(bytes(e["bytes"]) for e in found)
    assert said.decode("utf-8", "replace") == content(choice)
    for e in found:
        assert len(e["top_logprobs"]) == 2 and e["logprob"] <= e["top_logprobs"][0]["logprob"]
    pieces = [c for event in chunks(server, CHAT, body) for c in event["choices"]]
    for i in range(2):
        mine = [c["logprobs"]["content"] for c in pieces if c["index"] == i and c["logprobs"]]
        assert sum(mine, []) == found


@pytest.mark.parametrize("n_tops", [0, 1, 5])
@pytest.mark.parametrize("stream", [False, True])
def test_one_entry_for_each_token_of_a_completion(script, stream, n_tops):
    """Names and offsets, also of special tokens; the token drawn is among the likeliest."""
    server, _ = script
    prompt = names("<|endoftext|>", "goat", "<|im_start|>", "the", "<|endoftext|>")
    prompt += names("a") * (9 - len(prompt))
    assert len(prompt) == 9
    body = {"prompt": prompt, "echo": True, "logprobs": n_tops, "temperature": 0, "max_tokens": 9}
    events = chunks(server, TEXTS, body) if stream else [post(server, TEXTS, body)]
    text, found = "", {}
    for (choice,) in (event["choices"] for event in events):
        text += choice["text"]
        for key, values in (choice["logprobs"] or {}).items():
            found.setdefault(key, []).extend(values)
    ids = [*prompt, TOK.encode_ordinary("\u0115")[0], *names("a", "<|endoftext|>")]
    assert found["tokens"] == [api.spelled(TOK, i, "bytes:") for i in ids]
    assert text.endswith("\ufffda") and "<|" not in text
    for name, at in zip(found["tokens"], found["text_offset"]):
        if name != "a" and not name.startswith(("<|", "bytes:")):
            assert text[at:at + len(name)] == name
    assert found["text_offset"][0] == 0 and found["text_offset"][-1] == len(text)
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    for i, tops in enumerate(found["top_logprobs"][1:], 1):
        assert tops[found["tokens"][i]] == found["token_logprobs"][i]
        assert n_tops <= len(tops) <= n_tops + 1


def test_a_harness_slices_the_log_probabilities(server):
    """lm-evaluation-harness sums [tokens of the context : -1] of a prompt and one token more."""
    a, b = TOK.encode_ordinary("the lamp"), TOK.encode_ordinary(" is lit")
    half = [TOK.encode_ordinary("\u0115")[0]]
    pairs = [
        (a, b),
        ([EOT], b),
        ([EOT, *a], b),
        (a + [EOT], b),
        (a, [EOT, *b]),
        (a, b + [EOT]),
        (a + half, b),
        (names("<|im_start|>", "user", "<|im_sep|>", "Who?"), names("<|im_end|>")),
    ]
    body = {"temperature": 0, "logprobs": 1, "seed": 1234, "echo": True, "max_tokens": 1}
    # The likeliest next token is the end of a document in one of two cases.
    for bias in ({}, {"logit_bias": {str(EOT): 100}}):
        found = texts(server, **body, **bias, prompt=[x + y for x, y in pairs])
        for (context, rest), choice in zip(pairs, found, strict=True):
            ids, logprobs, n = context + rest, choice["logprobs"], len(context)
            logp = log_softmax(ids)
            want = [logp[i - 1, ids[i]] for i in range(n, len(ids))]
            assert len(logprobs["tokens"]) == len(ids) + 1
            got, tops = logprobs["token_logprobs"][n:-1], logprobs["top_logprobs"][n:-1]
            np.testing.assert_allclose(got, want, atol=1e-4)
            greedy = [max(top.values()) == x for x, top in zip(got, tops)]
            assert greedy == [logp[i - 1].argmax() == ids[i] for i in range(n, len(ids))]


def test_nothing_is_written(server):
    """max_tokens 0: the prompt and its log-probabilities, also of one that fills the context."""
    full = {"prompt": [5] * CFG.n_positions, "echo": True, "logprobs": 1, "max_tokens": 0}
    for prompt, text in (
        ("the lamp", "the lamp"),
        (["goat", "the"], "goat"),
        (full["prompt"], "\x05" * 64),
    ):
        body = {**full, "prompt": prompt}
        answer = post(server, TEXTS, {**body, "return_token_ids": True})
        choice, usage = answer["choices"][0], answer["usage"]
        assert choice["text"] == text and choice["finish_reason"] == "length"
        assert choice["token_ids"] == [] and usage["completion_tokens"] == 0
        assert "".join(choice["logprobs"]["tokens"]) == text
        events = chunks(server, TEXTS, {**body, "stream_options": {"include_usage": True}})
        assert events[0]["choices"][0]["logprobs"] == choice["logprobs"]
        assert events[-1]["usage"] == usage
    (silent,) = texts(server, prompt="goat", max_tokens=0)
    assert silent["text"] == "" and silent["logprobs"] is None
    (silent,) = texts(server, prompt="goat", max_tokens=0, logprobs=1)
    assert silent["logprobs"]["tokens"] == []
    error = post(server, TEXTS, {**full, "max_tokens": 1}, 400)["error"]
    assert "do not fit" in error["message"]
    assert post(server, TEXTS, {**full, "prompt": [5] * 65}, 400)["error"]["param"] == "prompt"
    all_there_is = {"prompt": [5], "max_tokens": -1, "logit_bias": {"5": 100}}
    usage = post(server, TEXTS, all_there_is)["usage"]
    assert usage["completion_tokens"] == CFG.n_positions - 1


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
    whole = post(server, CHAT, body)["choices"][0]["message"]
    deltas = [event["choices"][0]["delta"] for event in chunks(server, CHAT, body)]
    grown = [part for delta in deltas for part in delta.get("parts", [])]
    for parts in (whole["parts"], grown):
        found = {}
        for part in parts:
            mine = found.setdefault(part["index"], {"type": part["type"], "text": ""})
            mine["text"] += part["text"]
        assert list(found.values()) == want
    assert whole["content"] == "so2 [1+1 = 3] \u0115\ufffd"
    back = [*ASK["messages"], {"role": "assistant", "content": want}, *ASK["messages"]]
    again = fields.messages_of({"messages": back}, CFG, formats.Own(TOK))
    tokens = sample.render_prompt(again, TOK)
    assert tokens.count(TOK.special_tokens["<|tool_start|>"]) == 1
    assert "parts" not in choices(server)[0]["message"]


def test_texts_are_utf_8_and_say_so(server):
    for path, body, kind in (
        (CHAT, ASK, "application/json"),
        ("/v1/chat/nothing", {}, "application/json"),
        ("/tokenize", {"content": "\u00e4"}, "application/json"),
        (CHAT, {**ASK, "stream": True}, "text/event-stream"),
        (TEXTS, {"prompt": "goat", "stream": True}, "text/event-stream"),
    ):
        headers = send(server, "POST", path, body)[1]
        assert headers["Content-Type"] == f"{kind}; charset=utf-8"


def test_an_event_is_one_line_for_everybody(tmp_path):
    """Python's splitlines, which requests and httpx use, ends a line at more than CR and LF."""
    said = "a\x85b\u2028c\u2029d\x0be\x1cf\u00e4"
    scripted(tmp_path / "base", names(said, "<|endoftext|>"), 1 + len(names("goat")))
    server = started(tmp_path)
    try:
        body = {"prompt": "goat", "temperature": 0, "max_tokens": 40}
        _, _, data = send(server, "POST", TEXTS, {**body, "stream": True})
        lines = [line for line in data.decode().splitlines() if line]
        assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
        assert "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines[:-1]) == said
        assert texts(server, **body)[0]["text"] == said
    finally:
        server.close()


# ------------------------------------------------------------------- models with a chat template

@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """A server of a model with the chat template of ChatML. It writes THOUGHT behind any prompt."""
    run = tmp_path_factory.mktemp("run")
    gpt.save(run / "sft", *writes(THOUGHT, gpt.Config(300, 256, 64, 1, 1)))
    folder_of(run / "sft", OTHER, chat_template=CHATML, eos_token="<|im_end|>")
    with running(run) as server:
        yield server


THOUGHT = OTHER.encode("<think>\nSo!\n</think>\n\nHi.<|im_end|>", allowed_special="all")
ANSWER = {"reasoning_content": "So!", "content": "Hi."}


def writes(reply, cfg):
    """Parameters of a model that writes a reply behind every prompt that ends at HELLO's length."""
    params, rng = gpt.init(cfg, 0), np.random.default_rng(0)
    for name in params:
        if name.startswith("h.") and "ln" not in name:
            params[name][...] = 0
    embedding = rng.standard_normal((cfg.vocab_size, cfg.n_embd)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    positions = np.zeros((cfg.n_positions, cfg.n_embd), np.float32)
    positions[N_HELLO - 1:N_HELLO - 1 + len(reply)] = 30 * embedding[reply]
    params["wte.weight"], params["wpe.weight"], params["ln_f.weight"][...] = embedding, positions, 9
    return params, cfg


def test_thoughts_are_reasoning_content(thinker):
    answer = post(thinker, CHAT, {"messages": HELLO, "temperature": 0, "n": 2})
    for choice in answer["choices"]:
        assert choice["message"] == {"role": "assistant", "refusal": None, **ANSWER}
        assert choice["finish_reason"] == "stop"
    answer = post(thinker, CHAT, {"messages": HELLO, "temperature": 0, "show_calls": True})
    message = answer["choices"][0]["message"]
    assert message["parts"] == [{"index": 0, "type": "text", "text": "Hi."}]
    answer = post(thinker, CHAT, {"messages": HELLO, "temperature": 0, "max_tokens": 9})
    assert answer["choices"][0]["message"]["content"] == ""         # it was still thinking


@pytest.mark.parametrize("more", [{}, {"logprobs": True}, {"show_calls": True}, {"stop": "."}])
def test_thoughts_in_a_stream(thinker, more):
    """Nothing of the marks; all of the thoughts before any of the answer."""
    found, kinds = {"reasoning_content": "", "content": ""}, []
    for chunk in chunks(thinker, CHAT, {"messages": HELLO, "temperature": 0, **more}):
        delta = chunk["choices"][0]["delta"]
        for kind in found:
            found[kind] += delta.get(kind, "")
            kinds += [kind] * bool(delta.get(kind))
        if more.get("show_calls") and delta.get("content"):
            assert delta["parts"] == [{"index": 0, "type": "text", "text": delta["content"]}]
    assert found == {**ANSWER, "content": "Hi" if "stop" in more else "Hi."}
    assert kinds == sorted(kinds, reverse=True) and set(kinds) == set(found)


def test_what_a_template_gets_of_a_request(thinker, monkeypatch):
    given = []

    def text(self, messages, tools, options):
        given.append((messages, options))
        return "x"

    monkeypatch.setattr(formats.Template, "text", text)
    reply = {"role": "assistant", "content": ["a", {"type": "text", "text": "b"}],
             "reasoning_content": "so", "thinking": 3, "name": "x"}
    messages = [{"role": "developer", "content": "S"}, *HELLO, reply, *HELLO, *HELLO]
    post(thinker, CHAT, {"messages": messages, "max_tokens": 1, "chat_template_kwargs": {
        "enable_thinking": False, "self": 1}})
    (read, options), = given
    assert options == {"enable_thinking": False, "self": 1} and read == [
        {"role": "system", "content": "S"}, *HELLO,
        {"role": "assistant", "content": "ab", "reasoning_content": "so"}, *HELLO, *HELLO]


def called_f(arguments):
    """A message of the assistant that calls f."""
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.mark.parametrize("wrong, said", [
    ({"chat_template_kwargs": 3}, "chat_template_kwargs is 3, expected an object"),
    ({"chat_template_kwargs": {"messages": []}}, "messages is no option of a chat template"),
    ({"messages": [{"role": "user"}]}, "the chat template needs a text as the content"),
    ({"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, "nothing to reply to"),
    ({"messages": [{"role": "function", "content": "x"}]}, "call no tools of clients"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "call no tools of"),
    ({"tools": 3}, "tools is 3, expected a list"),
    ({"tools": ["f"]}, 'tools[0] is "f", expected {"type": "function", "function": {"name", ...'),
    ({"tools": [{"function": {"name": 1}}]}, "tools[0] is"),
    ({"tools": TOOLS}, "the chat template has no place for tools; leave them out"),
    ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice is"),
    ({"messages": [called_f("{}"), *HELLO]}, "the chat template has no place for tool_calls"),
    ({"messages": [called_f("[]"), *HELLO]}, "messages[0]: the call {"),
    ({"messages": [called_f("{"), *HELLO]}, "messages[0]: the call {"),
    ({"messages": [called_f(None), *HELLO]}, "messages[0]: the call {"),
    ({"tools": [{"function": {"name": "x" * 9999}}]}, "do not fit the model's context"),
    ({"messages": HELLO * 999}, "do not fit the model's context"),
])
def test_chats_that_a_template_refuses(thinker, wrong, said):
    answer = post(thinker, CHAT, {"messages": HELLO, **wrong}, status=400)
    assert said in answer["error"]["message"]


def test_a_text_ends_where_a_reply_would(thinker):
    """And where the next document begins."""
    prompt = OTHER.encode("<|im_start|>" * N_HELLO, allowed_special="all")
    answer = post(thinker, TEXTS, {"prompt": prompt, "max_tokens": 99, "temperature": 0})
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == "<think>\nSo!\n</think>\n\nHi."
    ends = formats.Template("here", {}, {}, OTHER, {1}).document_ends
    assert ends == {1, OTHER.special_tokens["<|endoftext|>"]}


def test_a_conversation_is_looked_at_as_the_template_writes_it(thinker):
    found = post(thinker, "/api/look", {"messages": HELLO, "n": 1})
    assert "".join(found["pieces"]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_that_is_none_is_told_when_the_model_is_asked_for(tmp_path):
    gpt.save(tmp_path / "sft", gpt.init(CFG, 0), CFG)
    folder_of(tmp_path / "sft", OTHER, chat_template=3)
    with running(tmp_path) as server:
        answer = post(server, CHAT, {"messages": HELLO}, status=503)
        assert "chat_template is '3', expected a text" in answer["error"]["message"]


# ---------------------------------------------------------------------------------- calls of tools

CALLS = {                               # {model: what it writes}, both calling get_weather
    "sft": '<think>So</think>Look.\n<tool_call>\n{"name": "get_weather", "arguments": '
           '{"place": "\u00fc"}}\n</tool_call>\n<tool_call>{"name": "zeit", "arguments": {}}'
           "</tool_call><|im_end|>",
    "rl": '{"name": "get_weather", "parameters": {"place": "\u00fc"}}<|im_end|>',
}
WEATHER = {"name": "get_weather", "arguments": '{"place": "\u00fc"}'}
ZEIT = {"name": "zeit", "arguments": "{}"}


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    """A server of models that write what CALLS says."""
    run = tmp_path_factory.mktemp("run")
    for name, reply in CALLS.items():
        ids = OTHER.encode(reply, allowed_special="all")
        gpt.save(run / name, *writes(ids, gpt.Config(300, 256, 64, 1, 1)))
        folder_of(run / name, OTHER, chat_template="tools, tool_calls", eos_token="<|im_end|>")
    with running(run) as server:
        yield server


@pytest.fixture
def given(monkeypatch):
    """The variables that templates are given. All prompts are HELLO's."""
    found = []

    def render(template, variables):
        found.append(variables)
        return "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

    monkeypatch.setattr(jinja, "run_template", render)
    return found


@pytest.mark.parametrize("model, content, functions", [
    ("sft", "Look.", [WEATHER, ZEIT]), ("rl", None, [WEATHER])])
def test_calls_of_tools(caller, given, model, content, functions):
    body = {"model": model, "messages": HELLO, "temperature": 0, "tools": TOOLS}
    for choice in post(caller, CHAT, {**body, "n": 2})["choices"]:
        message, calls = choice["message"], choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls" and message["content"] == content
        assert [call["function"] for call in calls] == functions
        assert all(call.keys() == {"id", "type", "function"} for call in calls)
        assert len({call["id"] for call in calls}) == len(calls)
    assert all(variables["tools"] == TOOLS for variables in given)

    found, texts, ends = [[], []], ["", ""], ["", ""]
    for chunk in chunks(caller, CHAT, {**body, "n": 2}):
        (choice,) = chunk["choices"]
        i, delta = choice["index"], choice["delta"]
        texts[i] += delta.get("content", "")
        found[i] += delta.get("tool_calls", [])
        ends[i] += choice["finish_reason"] or ""
    assert ends == ["tool_calls"] * 2 and texts == [content or ""] * 2
    for calls in found:
        assert [call["index"] for call in calls] == list(range(len(functions)))
        assert [call["function"] for call in calls] == functions

    cut_off = post(caller, CHAT, {**body, "max_tokens": 40})["choices"][0]
    assert cut_off["finish_reason"] == "length" and "tool_calls" not in cut_off["message"]


@pytest.mark.parametrize("more", [{}, {"tools": TOOLS, "tool_choice": "none"}, {"tools": []}])
def test_without_tools_a_call_is_text(caller, given, more):
    (choice,) = post(caller, CHAT, {
        "model": "rl", "messages": HELLO, "temperature": 0, **more})["choices"]
    assert choice["message"]["content"] == CALLS["rl"].removesuffix("<|im_end|>")
    assert choice["finish_reason"] == "stop" and given[0]["tools"] is None


def test_earlier_calls_and_their_results_are_in_the_prompt(caller, given):
    """Arguments come as objects: of Llama 3.1's template, a text would have quotation marks."""
    result = {"role": "tool", "content": [{"type": "text", "text": "2"}], "tool_call_id": "call_1"}
    message = {"model": "sft", "max_tokens": 1, "messages": [
        *HELLO, called_f('{"x": 1}') | {"reasoning_content": "so"}, result | {"name": "f"}]}
    post(caller, CHAT, message)
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    assert given[0]["messages"] == [
        *HELLO,
        {"role": "assistant", "thinking": "so", "reasoning_content": "so", "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "call_1", "name": "f"},
    ]


def test_models_made_here_take_no_tools(server):
    answer = post(server, CHAT, {**ASK, "tools": TOOLS}, 400)
    assert "tools is [" in answer["error"]["message"]
    assert "has no effect here; leave it out" in answer["error"]["message"]
