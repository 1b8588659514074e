"""chat/api.py: what OpenAI's clients send and expect."""

import json

import numpy as np
import pytest

import gpt
import sample
from chat import api, batching, fields, generate
from model import fast
from serving import (  # noqa: F401
    ASK, CFG, PARAMS, TOK, names, post, run, send, server, started,
)


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
    tokens = sample.render_prompt(fields.messages_of({"messages": back}, CFG, TOK), TOK)
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


