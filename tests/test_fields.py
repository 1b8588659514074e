"""chat/fields.py: what a request may ask for, and what is refused."""

import random

import pytest

import bpe
import gpt
import sample
from chat import fields, formats, request
from serving import (  # noqa: F401
    ASK, CFG, CHAT, TEXTS, TOK, choices, post, run, server, texts,
)

LONGEST = max(range(TOK.n_vocab), key=lambda i: len(TOK.token_bytes[i]))


def nested(n):
    value = 1
    for _ in range(n):
        value = [value]
    return value


def user(content):
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize("path, body, status, message", [
    (CHAT, "{broken", 400, "not JSON"),
    (CHAT, "[]", 400, "no JSON object"),
    (CHAT, {}, 400, "messages is missing"),
    (CHAT, {"messages": []}, 400, "messages is missing"),
    (CHAT, {"messages": ["x"]}, 400, "messages[0]"),
    (CHAT, user("goat " * 80), 400, "do not fit the model's context of 64"),
    (CHAT, {**ASK, "temperature": 3}, 400, "temperature is 3, expected a number from 0 to 2"),
    (CHAT, {**ASK, "temperature": "hot"}, 400, "temperature"),
    (CHAT, {**ASK, "temperature": True}, 400, "temperature"),
    (CHAT, {**ASK, "n": 99}, 400, "n is 99"),
    (CHAT, {**ASK, "n": 0}, 400, "n is 0"),
    (CHAT, {**ASK, "max_tokens": 0}, 400, "max_tokens"),
    (CHAT, {**ASK, "stop": ["a"] * 5}, 400, "up to four"),
    (CHAT, {**ASK, "stop": [""]}, 400, "stop"),
    (CHAT, {**ASK, "logit_bias": {"x": 1}}, 400, "logit_bias"),
    (CHAT, {**ASK, "logit_bias": {"99999": 1}}, 400, "logit_bias"),
    (CHAT, {**ASK, "top_logprobs": 3}, 400, "needs logprobs"),
    (TEXTS, {"prompt": [[99999]]}, 400, "prompt"),
    (TEXTS, {"prompt": {"a": 1}}, 400, "prompt"),
    (TEXTS, {"prompt": ["a"] * 40}, 400, "at most 32"),
    (TEXTS, {"prompt": "goat " * 99}, 400, "do not fit"),
    ("/tokenize", {}, 400, "content is missing"),
    ("/detokenize", {"tokens": [99999]}, 400, "below"),
    ("/v1/chat/nothing", {}, 404, "no such route"),
    ("/health", {}, 405, "GET only"),
    (CHAT, " " * (request.LARGEST_BODY + 1), 413, "at most"),
])
def test_bad_requests(server, path, body, status, message):
    error = post(server, path, body, status)["error"]
    assert message in error["message"] and set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path, body, status", [
    (CHAT, {**ASK, "x": nested(31)}, 200),
    (CHAT, {**ASK, "x": nested(32)}, 400),
    (CHAT, {**ASK, "temperature": nested(900)}, 400),
    (CHAT, '{"temperature": NaN}', 400),
    (CHAT, '{"x": -Infinity}', 400),
    (CHAT, {**ASK, "seed": 10**4200}, 400),
    (CHAT, {**ASK, "stop": "a" * 256}, 200),
    (CHAT, {**ASK, "stop": "a" * 257}, 400),
    (CHAT, {**ASK, "stop": ["a", "b", "c", "d" * 300]}, 400),
    (CHAT, {**ASK, "model": "x" * 256}, 404),
    (CHAT, {**ASK, "model": "x" * 257}, 400),
    (CHAT, {**ASK, "logit_bias": {"0" * 5000 + "1": 0}}, 200),
    (CHAT, {**ASK, "logit_bias": {"9" * 5000: 0}}, 400),
    (CHAT, {**ASK, "logit_bias": {"\u0661": 0}}, 400),
    (CHAT, {**ASK, "logit_bias": {" 1": 0}}, 400),
    (CHAT, {**ASK, "logit_bias": {"-1": 0}}, 400),
    (CHAT, {"messages": [*ASK["messages"], {"role": "assistant", "content": "a"}] * 40}, 400),
    (CHAT, user([{"type": "text", "text": ""}] * 70), 400),
    (TEXTS, {"prompt": ["a"] * 10_000}, 400),
    (TEXTS, {"prompt": [1] * 10_000}, 400),
    (TEXTS, {"prompt": [[1] * 10_000]}, 400),
    (TEXTS, {"prompt": ["a", "b" * 100_000]}, 400),
    ("/tokenize", {"content": "a" * 100_000}, 200),
    ("/tokenize", {"content": "a" * 100_001}, 413),
    ("/tokenize", {"content": "\u00e4" * 50_001}, 413),
    ("/api/cut", {"vocabulary": "sft", "text": "a" * 100_001}, 413),
    ("/detokenize", {"tokens": [1] * 100_001}, 413),
    ("/detokenize", {"tokens": [LONGEST] * 100_000}, 413),
    ("/detokenize", {"tokens": [97] * 100_000}, 200),
    ("/api/look", {"text": "a" * 100_000}, 400),
    ("/api/look", {"tokens": [1] * 65}, 400),
    ("/api/look", {"tokens": []}, 400),
])
def test_bounds(server, path, body, status):
    assert (post(server, path, body, status).get("error") is None) == (status == 200)


def test_text_that_cannot_fit_is_not_cut_into_tokens(server, monkeypatch):
    """However long it is, it costs no time; what can fit is still counted in tokens."""
    cut, encode = [], bpe.Tokenizer.encode_ordinary

    def noted(self, text):
        cut.append(len(text))
        return encode(self, text)

    monkeypatch.setattr(bpe.Tokenizer, "encode_ordinary", noted)
    most = fields.longest_text(CFG, TOK)
    for length in (most, most + 1, 100_000):
        halves = ["a" * (length // 2), "b", "a" * (length - length // 2 - 1)]
        turns = [{"role": role, "content": content}
                 for role, content in zip(("user", "assistant", "user"), halves)]
        for path, body in (
            (CHAT, {"messages": turns}),
            (TEXTS, {"prompt": "a" * length}),
            ("/api/look", user("a" * length)),
            ("/api/look", {"text": "a" * length}),
        ):
            cut.clear()
            assert post(server, path, body, 400)["error"]["code"] == "context_length_exceeded"
            was_cut = max(cut, default=0) >= length // 2
            assert was_cut == (length == most), (path, length)


def test_log_probabilities_of_one_answer_are_bounded(server, monkeypatch):
    monkeypatch.setattr(fields, "LOG_PROBABILITIES", 100)
    chat, text = {**ASK, "logprobs": True}, {"prompt": [1, 2, 3, 4], "echo": True, "max_tokens": 16}
    for path, body, status in (
        (CHAT, {**chat, "n": 8}, 200),
        (CHAT, {**chat, "n": 9}, 400),
        (CHAT, {**chat, "top_logprobs": 7}, 200),
        (CHAT, {**chat, "top_logprobs": 8}, 400),
        (TEXTS, {**text, "logprobs": 4}, 200),
        (TEXTS, {**text, "logprobs": 5}, 400),
    ):
        post(server, path, body, status)


def test_of_two_spellings_of_a_token_the_last_counts(server):
    g = TOK.encode_ordinary("g")[0]
    assert choices(server) == choices(server, logit_bias={str(g): 100, f"000{g}": 0})
    (forced,) = choices(server, logit_bias={"0" * 9 + str(g): 0, f"0{g}": 100}, max_tokens=3)
    assert forced["message"]["content"] == "ggg"


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
            checked = fields.messages_of({"messages": messages}, roomy, formats.Own(TOK))
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


def test_seeds(server):
    """None, null and those below 0 are any; of others each has its text."""

    def written(*seeds):
        bodies = [{} if seed == "none" else {"seed": seed} for seed in seeds]
        return [texts(server, prompt="goat", max_tokens=12, **body)[0]["text"] for body in bodies]

    for any_seed in ("none", None, -1, -2, -(1 << 63), -1.0):
        assert len(set(written(*[any_seed] * 4))) > 1, any_seed
    for seed in (0, 7, 7.0, (1 << 63) + 1, (1 << 64) - 1):
        assert len(set(written(seed, seed))) == 1
    assert len(set(written(0, 7, (1 << 63) + 1, (1 << 64) - 1))) == 4
    for seed in (1 << 64, -(1 << 63) - 1, 1.5, "1", True, [1]):
        error = post(server, TEXTS, {"prompt": "goat", "seed": seed}, 400)["error"]
        assert error["param"] == "seed"


def part(kind, **more):
    return [{"type": kind, **more}]


WHO, SAID = ("user", "Who?"), ("assistant", "b")


@pytest.mark.parametrize("messages, same", [
    ([("system", "a"), ("system", "b"), WHO], [("system", "a\n\nb"), WHO]),
    ([("system", "a"), ("developer", "b"), WHO], [("system", "a\n\nb"), WHO]),
    ([WHO, SAID, ("system", "c"), WHO], [("system", "c"), WHO, SAID, WHO]),
    ([("user", "a"), ("user", "b")], [("user", "a\n\nb")]),
    ([("assistant", "Welcome!"), WHO], [WHO]),
    ([("user", "a"), ("assistant", None), ("user", "b")], [("user", "a\n\nb")]),
    ([("user", ["Wh", *part("input_text", text="o?")])], [WHO]),
    ([WHO, ("assistant", part("output_text", text="b")), WHO], [WHO, SAID, WHO]),
    ([WHO, ("assistant", part("refusal", refusal="b")), WHO], [WHO, SAID, WHO]),
    ([("user", part("text", text="Who?", cache_control={"type": "ephemeral"}))], [WHO]),
])
def test_messages_in_any_order(server, messages, same):
    """What OpenAI's API takes is taken, and is what the same conversation in order is."""
    answers = []
    for each in (messages, same):
        turns = [{"role": role, "content": content, "name": "x"} for role, content in each]
        answers.append(choices(server, messages=turns, return_token_ids=True, max_tokens=3))
    assert answers[0] == answers[1]


NO_TEXT = "no text of the system or of a user"


@pytest.mark.parametrize("message, says", [
    (("user", part("image_url", image_url={"url": "data:"})), '"image_url"'),
    (("user", part("text", text="a") + part("input_image")), '"input_image"'),
    (("user", part("input_audio", input_audio={})), '"input_audio"'),
    (("user", part("file")), '"file"'),
    (("user", part("tool", text="1+1")), '"tool"'),
    (("user", part("text")), '"text"'),
    (("user", [{"text": "a"}]), "part"),
    (("user", [7]), "part"),
    (("assistant", part(["text"], text="a")), "part"),
    ((["user"], "a"), "role"),
    (("user", 7), "content"),
    (("user", " "), NO_TEXT),
    (("user", None), NO_TEXT),
    (("assistant", "Welcome!"), NO_TEXT),
    (("tool", "x"), "call no tools of clients"),
    (("function", "x"), "call no tools of clients"),
    (("critic", "x"), "role 'critic'"),
    ((None, "x"), "role None"),
])
def test_messages_that_are_none(server, message, says):
    role, content = message
    body = {"messages": [{"role": role, "content": content}]}
    error = post(server, CHAT, body, 400)["error"]
    assert says in error["message"] and error["param"] == "messages"


def test_messages_with_something_missing(server):
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    for message, says in (
        (call, "call no tools of clients"),
        ({"role": "user"}, NO_TEXT),
        ({"content": "x"}, "role None"),
    ):
        assert says in post(server, CHAT, {"messages": [message]}, 400)["error"]["message"]


TOOL = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
IGNORED = {
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
}
KNOWN = """tools tool_choice functions audio modalities web_search_options n stop seed
    response_format logit_bias max_tokens temperature logprobs stream grammar"""


@pytest.mark.parametrize("given, param", [
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
    (IGNORED, None),
    (dict.fromkeys(KNOWN.split()), None),
])
def test_fields_of_a_chat_that_have_no_effect(server, given, param):
    """What would change the answer is refused by name; all else that is unknown is ignored."""
    if param is None:
        said = choices(server, **given | {"seed": 3})[0]["message"]["content"]
        assert said[:3] == choices(server)[0]["message"]["content"][:3]
    else:
        error = post(server, CHAT, {**ASK, **given}, 400)["error"]
        assert error["param"] == param and param in error["message"]
        assert error["code"] == "unsupported_parameter"
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("given, param", [
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
])
def test_fields_of_a_completion_that_have_no_effect(server, given, param):
    body = {"prompt": "goat", "max_tokens": 2, **given}
    if param is None:
        usage = post(server, TEXTS, body)["usage"]
        assert usage["completion_tokens"] <= 2 * body.get("n", 1)
    else:
        error = post(server, TEXTS, body, 400)["error"]
        assert error["param"] == param and error["code"] == "unsupported_parameter"
