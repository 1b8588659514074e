"""api.py: the routes of OpenAI's API, and how its answers look.

Each function answers one route of serve.py. It takes the serve.Handler of the connection and the
body of the request, and returns a request.Answer or a function that makes one. So do Chat and
Completion, the two kinds of requests that write text.

logprobs has one entry for each token of the reply, as many as completion_tokens says. Special
tokens have theirs too, and so have the token that ends the reply, the tokens of a call of the
calculator, and parts of characters. They are the model's own log-probabilities: at temperature 1,
before penalties and logit_bias.

Source: OpenAI's API reference.
"""

import codecs
import functools
import json
import queue
import time
import urllib.parse
import uuid

from model import fast                  # before numpy
import numpy as np
import sample
from chat import fields, formats, generate, thinking
from chat.batching import Grown
from chat.fields import field, shown
from chat.request import Answer, Refused
from chat.served import ASSISTANTS, BASES, signature
from chat.stream import gathered

LARGEST_TEXT = 1 << 20                  # bytes from /detokenize
GONE = 0.25                             # seconds between two looks whether a client is still there


# ------------------------------------------------------------------------------ models and tokens

def health(handler, _):
    """Whether the server is up; to clients with the key also what its models are doing."""
    writers = dict(handler.server.models.writers)
    failed = [name for name, writer in writers.items() if writer.failed]
    status = 500 if failed else 200
    if not handler.has_key():
        return Answer({"status": "failed" if failed else "ok"}, status)
    doing = {}
    for name, writer in writers.items():
        doing[name] = writer.counts
    said = f"failed: {', '.join(failed)}" if failed else "ok"
    return Answer({"status": said, "models": doing}, status)


def models(handler, _):
    """GET /v1/models, and GET /v1/models/NAME.

    max_model_len, vLLM's name, is the context that a model is served with, once it is loaded.
    """
    cards, writers = {}, handler.server.models.writers
    for name, folder in handler.server.models.folders.items():
        made = max((time_ns for *_, time_ns in signature(folder)), default=0) // 10**9
        cards[name] = {"id": name, "object": "model", "created": made, "owned_by": "longhand"}
        if name in writers:
            cards[name]["max_model_len"] = writers[name].cfg.n_positions
    asked = urllib.parse.unquote(handler.path.removeprefix("/v1/models").removeprefix("/"))
    if not asked:
        return Answer({"object": "list", "data": list(cards.values())})
    if asked not in cards:
        raise handler.server.models.unknown(asked)
    return Answer(cards[asked])


def tokenize(handler, body):
    """POST /tokenize: a text -> its tokens."""
    text = field(body, "content", field(body, "prompt", None, str), str)
    _, writer = handler.model_of(body, ASSISTANTS + BASES)
    if text is None:
        raise Refused(400, "content is missing: the text to cut into tokens", "content")
    fields.refuse_large(len(text.encode("utf-8", "surrogatepass")), "bytes", "content")
    ids = writer.tokenizer.encode_ordinary(text)
    pieces = [writer.tokenizer.decode([i]) for i in ids]
    return Answer({"tokens": ids, "count": len(ids), "pieces": pieces})


def detokenize(handler, body):
    """POST /detokenize: tokens -> their text."""
    ids = field(body, "tokens", None, list)
    _, writer = handler.model_of(body, ASSISTANTS + BASES)
    tokenizer = writer.tokenizer
    fields.refuse_large(len(ids or []), "tokens", "tokens")
    if ids != [] and not fields.are_tokens(ids, tokenizer):
        expected = f"a list of numbers below {tokenizer.n_vocab}"
        raise Refused(400, f"tokens is {fields.shown(ids)}, expected {expected}", "tokens")
    size = sum(len(tokenizer.token_bytes[i]) for i in ids)
    fields.refuse_large(size, "bytes of text", "tokens", LARGEST_TEXT)
    text = tokenizer.decode(ids)
    return Answer({"content": text, "prompt": text})


def spelled(tokenizer, i, mark=""):
    """The text of a token. A token that is no whole character is spelled in bytes, behind a mark.

    So two different tokens never look the same.
    """
    try:
        return tokenizer.token_bytes[i].decode("utf-8")
    except UnicodeDecodeError:
        return mark + "".join(f"\\x{b:02x}" for b in tokenizer.token_bytes[i])


def finite(logp):
    """A log-probability as JSON can hold it: -9999 for a token that cannot come, as OpenAI does."""
    return logp if logp is None else max(logp, -9999.0)


# ---------------------------------------------------------------------------------- calls of tools

def tools_of(body):
    """[tool] that a model may call, as OpenAI's API writes them; [] with tool_choice none."""
    tools = field(body, "tools", [], list)
    for i, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            expected = '{"type": "function", "function": {"name", ...}}'
            raise Refused(400, f"tools[{i}] is {shown(tool)}, expected {expected}", "tools")
    return [] if body.get("tool_choice") == "none" else tools


def earlier_call(call, i):
    """A call in message i as templates expect it: its arguments are an object and no text."""
    function = call.get("function") if isinstance(call, dict) else None
    try:
        arguments = function["arguments"]
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        fine = isinstance(function["name"], str) and isinstance(arguments, dict)
    except (TypeError, KeyError, ValueError, RecursionError):
        fine = False
    if not fine:
        expected = '{"function": {"name", "arguments": the JSON of an object}}'
        message = f"messages[{i}]: the call {shown(call)}, expected {expected}"
        raise Refused(400, message, "messages")
    return {**call, "function": {**function, "arguments": arguments}}


def with_tools(body, format, cfg):
    """(body, format, names) of a chat request, where a template reads tools and earlier calls.

    fields.prompt_of reads what any message has, its role and its text, from a body without calls;
    the format hands the template the rest. names: of the tools that the model may call.
    """
    tools, messages, beside = tools_of(body), [], []
    for i, m in enumerate(field(body, "messages", [], list)):
        messages.append(m)
        beside.append({})
        if not isinstance(m, dict):
            continue
        calls = field(m, "tool_calls", [], list)
        if calls and m.get("role") == "assistant":
            beside[i]["tool_calls"] = [earlier_call(call, i) for call in calls]
            messages[i] = {**m, "tool_calls": None}
        if m.get("role") == "tool":
            kept = ("role", "name", "tool_call_id")
            beside[i] = {key: m[key] for key in kept if isinstance(m.get(key), str)}
            messages[i] = {**m, "role": "user"}
    fields.refuse_long(len(json.dumps([tools, beside])), cfg, format.tokenizer, "tools")
    format = formats.Calling(format, tools or None, beside)
    names = [tool["function"]["name"] for tool in tools]
    return {**body, "messages": messages}, format, names


# ---------------------------------------------------------------------------------------- replies

class Request:
    """A request for text.

    job     the batching.Job that its kind makes of the body
    texts   for each row, what there is of it: with echo its prompt, and then its reply. Of a reply
            that is sent as a stream only the tokens are kept
    base    the fields that each of its answers has
    """

    def __init__(self, handler, body):
        self.handler = handler
        self.name, self.writer = handler.model_of(body, self.preferred)
        self.cfg, self.tokenizer = self.writer.cfg, self.writer.tokenizer
        self.refuse_without_effect(body)
        self.job = self.read(body)
        self.job.client = handler.client
        self.texts = [Grown() for _ in self.job.prompts]
        self.with_usage = field(body, "stream_options", {}, dict).get("include_usage") is True
        self.with_ids = field(body, "return_token_ids", False, bool)
        self.n_told = [None] * len(self.texts)      # tokens of each row that a stream has told
        self.base = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "object": self.part if self.job.stream else self.whole,
            "created": int(time.time()),
            "model": self.name,
            "system_fingerprint": self.name,
        }

    def refuse_without_effect(self, body):
        """Refused for a field that would change the answer and has no effect here."""
        fields.refuse_without_effect(body)

    def __call__(self):
        """Let it be written. Returns the Answer, or None if it was sent as a stream."""
        try:
            self.begin()
            if self.job.stream:
                self.handler.send_stream(self.stream())
                return None
            for event in self.events():
                for i, grown in event.items():
                    self.texts[i].add(grown)
            choices = [self.choice(i, text) | self.ids(i) for i, text in enumerate(self.texts)]
            return Answer({**self.base, "choices": choices, "usage": self.usage()})
        finally:
            self.writer.leave(self.job)

    def begin(self):
        """Hand the job to the writer."""
        self.writer.submit(self.job)

    def events(self):
        """What the writer hands over, until every row has ended. ConnectionError if unread."""
        while self.job.left:
            try:
                event = self.job.events.get(timeout=GONE)
            except queue.Empty:
                if self.handler.client_has_gone():
                    raise ConnectionResetError("the client has gone") from None
                continue
            if isinstance(event, Refused):
                raise event
            self.job.left -= sum(grown.finish is not None for grown in event.values())
            yield event

    def stream(self):
        """Lists of values that are sent together, as the answer is written."""
        def value_of(*choices, usage=None):
            more = {"usage": usage} if self.with_usage else {}
            return {**self.base, "choices": choices, **more}

        values = None
        for event in self.events():
            if values is None:
                values = [value_of(choice) for choice in self.first()]
            for i, grown in event.items():
                self.texts[i].ids += grown.ids
                finish, grown.finish = grown.finish, None
                if grown.text or grown.entries or any(grown.parts):
                    values.append(value_of(self.chunk(i, grown) | self.new_ids(i)))
                if finish:
                    values.append(value_of(self.chunk(i, Grown(finish=finish)) | self.new_ids(i)))
            if self.job.left and values:        # the last values go out together with the end
                yield values
                values = []
        if self.with_usage:
            values.append(value_of(usage=self.usage()))
        yield [*values, "[DONE]"]

    def usage(self):
        """How many tokens were read, each prompt once, and written."""
        prompts = {id(prompt): prompt for prompt in self.job.prompts}
        n_read = sum(map(len, prompts.values()))
        n_written = sum(len(text.ids) for text in self.texts)
        return {
            "prompt_tokens": n_read,
            "completion_tokens": n_written,
            "total_tokens": n_read + n_written,
        }

    def ids(self, i):
        """The tokens of row i, under the names that vLLM gave them, if they are wanted."""
        if not self.with_ids:
            return {}
        return {"prompt_token_ids": self.job.prompts[i], "token_ids": self.texts[i].ids}

    def new_ids(self, i):
        """Those of them that a stream has not told yet. The prompt comes first, and once."""
        told = self.ids(i)
        if told and self.n_told[i] is not None:
            told = {"token_ids": told["token_ids"][self.n_told[i]:]}
        self.n_told[i] = len(self.texts[i].ids)
        return told

    def about(self, i, grown, **said):
        """A choice: what is said in row i, and what all choices have."""
        logprobs = self.logprobs_of(i, grown.entries)
        return {"index": i, **said, "logprobs": logprobs, "finish_reason": grown.finish}


class Chat(Request):
    """A request to /v1/chat/completions.

    show_calls, a field of our own for the page, asks for the reply also in parts (stream.Parts), so
    that a call of the calculator is told from a text that looks like one.

    Thoughts of a model with a chat template come as reasoning_content, vLLM's and DeepSeek's name,
    and are no part of the content.

    A model with a chat template may be offered tools. Its calls of them come as tool_calls.

    thinking    for each row what tells thoughts from the answer, or None
    calling     for each row what tells calls of tools from the answer, or None without tools
    n_calls     for each row how many calls it has made
    """

    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"
    preferred = ASSISTANTS + BASES

    def refuse_without_effect(self, body):
        """As for any request. The models made here have a tool of their own, and take no others."""
        if isinstance(self.writer.format, formats.Template):
            body = {name: value for name, value in body.items() if name != "tools"}
        fields.refuse_without_effect(body)

    def read(self, body):
        """The Job."""
        if body.get("echo"):
            raise fields.unsupported("echo", "is for /v1/completions alone, which repeats a prompt")
        logprobs = field(body, "logprobs", False, bool)
        top = field(body, "top_logprobs", 0, int, 0, 20)
        if top and not logprobs:
            raise Refused(400, "top_logprobs needs logprobs to be true", "top_logprobs")
        format, names = self.writer.format, []
        if isinstance(format, formats.Template):
            body, format, names = with_tools(body, format, self.cfg)
        prompt = fields.prompt_of(body, self.cfg, format)
        room = fields.room_for(prompt, self.cfg, "messages")
        most = min(room, fields.length_of(body, 1) or fields.MANY)
        alternatives = top if logprobs else -1
        job = fields.job_of(body, self.tokenizer, [prompt], most, alternatives, format.ends)
        job.calls = field(body, "show_calls", False, bool)
        self.thinking = [format.thinking(prompt) for _ in job.prompts]
        self.calling = [thinking.Calls(names) if names else None for _ in job.prompts]
        self.n_calls = [0] * len(job.prompts)
        return job

    def told(self, i, grown, ended):
        """{field of a message: value} of what reply i has grown by; fields with nothing are absent.
        """
        if not self.thinking[i]:
            found = {"content": grown.text, "parts": gathered(grown.parts)}
        else:
            thoughts, text = self.thinking[i].put(grown.text, ended)
            found = {"reasoning_content": thoughts, "content": text}
            if self.calling[i]:
                found["content"], calls = self.calling[i].put(text, ended)
                found["tool_calls"] = self.numbered(i, calls)
            if self.job.calls and found["content"]:
                found["parts"] = [{"index": 0, "type": "text", "text": found["content"]}]
        return {name: value for name, value in found.items() if value}

    def numbered(self, i, calls):
        """Calls of reply i, [(name, arguments)], as the parts of a stream have them."""
        found = []
        for name, arguments in calls:
            function = {"name": name, "arguments": arguments}
            found.append({"index": self.n_calls[i], "id": f"call_{uuid.uuid4().hex[:24]}",
                          "type": "function", "function": function})
            self.n_calls[i] += 1
        return found

    def about(self, i, grown, **said):
        """As for any request. A reply that ends with calls of tools ends for their sake."""
        choice = super().about(i, grown, **said)
        if choice["finish_reason"] == "stop" and self.n_calls[i]:
            choice["finish_reason"] = "tool_calls"
        return choice

    def logprobs_of(self, _, entries):
        """logprobs of a choice.

        bytes is what a token adds to the content: nothing for a special token or for a part of a
        call. The bytes of all tokens together are the content.
        """
        special = self.tokenizer.special_tokens.values()

        def one(i, logp, shown):
            text = self.tokenizer.token_bytes[i] if shown else b""
            name = self.tokenizer.decode([i])
            return {"token": name, "logprob": finite(logp), "bytes": list(text)}

        content = []
        for token, _, shown, logp, best in entries:
            tops = [one(i, x, i not in special) for i, x in best]
            content.append(one(token, logp, shown) | {"top_logprobs": tops})
        return {"content": content, "refusal": None} if content else None

    def choice(self, i, grown):
        """Reply i, whole. Its content is null where it is nothing but calls."""
        message = {"role": "assistant", "content": "", "refusal": None}
        if self.job.calls:
            message["parts"] = []
        told = self.told(i, grown, True)
        if "tool_calls" in told:
            message["content"] = None
            for call in told["tool_calls"]:
                del call["index"]           # which only streams have
        return self.about(i, grown, message=message | told)

    def first(self):
        """The beginning of each reply in a stream."""
        delta = {"role": "assistant", "content": ""}
        return [self.about(i, grown, delta=delta) for i, grown in enumerate(self.texts)]

    def chunk(self, i, grown):
        """What reply i has grown by, for a stream."""
        delta = self.told(i, grown, grown.finish is not None)
        if grown.entries:
            delta.setdefault("content", "")
        return self.about(i, grown, delta=delta)


class Completion(Request):
    """A request to /v1/completions.

    The text of each prompt stands behind <|endoftext|>, like the beginning of any document. With
    echo, the answer repeats the prompts.
    """

    prefix, whole, part = "cmpl", "text_completion", "text_completion"
    preferred = BASES + ASSISTANTS

    def read(self, body):
        """The Job."""
        self.logprobs = None
        if body.get("logprobs") is not False:   # as in a chat, false asks for none
            self.logprobs = field(body, "logprobs", None, int, 0, 5)
        self.echo = field(body, "echo", False, bool)
        begin, end = generate.document_begin(self.tokenizer), self.writer.format.document_ends
        prompts, n_begin = fields.prompts_of(body, self.cfg, self.tokenizer, begin)
        most = fields.length_of(body, 0)
        most = 16 if most is None else most     # OpenAI's default
        for ids in prompts:
            most = min(most, fields.room_for(ids, self.cfg, "prompt", min(most, 1)))
        self.n_tokens = most
        alternatives = -1 if self.logprobs is None else self.logprobs
        n_echoed = sum(map(len, prompts)) if self.echo else 0
        job = fields.job_of(body, self.tokenizer, prompts, most, alternatives, end, n_echoed)
        n = len(job.prompts) // len(prompts)
        self.n_begin = [number for number in n_begin for _ in range(n)]
        return job

    def begin(self):
        """Read the prompts that are echoed; then hand the job to the writer, if it wants tokens."""
        echo = functools.lru_cache(1)(self.echo_of)     # n texts of one prompt are neighbours
        if self.echo:
            for i, prompt in enumerate(self.job.prompts):
                text, entries = echo(tuple(prompt), self.n_begin[i])
                self.texts[i] = Grown(text, entries=list(entries))
        self.behind = [len(grown.text) for grown in self.texts]
        if self.n_tokens:
            super().begin()
        else:
            rows = range(len(self.job.prompts))
            self.job.events.put({i: Grown(finish="length") for i in rows})

    def echo_of(self, prompt, n_begin):
        """(the text of a prompt, with logprobs an entry for each of its tokens).

        The first token of a prompt that was given as tokens has null: nothing stands before it. A
        text stands behind <|endoftext|>, so its first token has a probability; that <|endoftext|>
        is ours and has no entry. Special tokens have no text.
        """
        special = set(self.tokenizer.special_tokens.values())
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text, offsets, entries = "", [], []
        for token in prompt[n_begin:]:
            offsets.append(len(text))
            ended = token in special
            text += decoder.decode(b"" if ended else self.tokenizer.token_bytes[token], ended)
        text += decoder.decode(b"", True)
        if self.logprobs is None:
            return text, entries
        with self.handler.server.looking:       # all logits of a prompt are in memory
            logits = fast.forward(self.writer.params, self.cfg, np.array([prompt]))[0][0]
            logits[:, self.tokenizer.holes] = -np.inf
            logits = logits[:, :self.tokenizer.n_vocab]
            for t, offset in enumerate(offsets, n_begin):
                found = None, None
                if t:
                    found = generate.likeliest(logits[t - 1], prompt[t], self.logprobs)
                entries.append((prompt[t], offset - len(text), True, *found))
        return text, entries

    def logprobs_of(self, i, entries):
        """logprobs of a choice. top_logprobs has the token itself too, even if others are likelier.

        The offset of an entry counts from where the reply begins.
        """
        def name(token):
            return spelled(self.tokenizer, token, "bytes:")

        if self.logprobs is None or self.job.stream and not entries:
            return None
        out = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, offset, _, logp, best in entries:
            tops = None
            if best is not None:
                tops = {name(j): finite(x) for j, x in [*best, (token, logp)]}
            out["tokens"].append(name(token))
            out["token_logprobs"].append(finite(logp))
            out["top_logprobs"].append(tops)
            out["text_offset"].append(self.behind[i] + offset)
        return out

    def chunk(self, i, grown):
        """What text i has grown by, for a stream."""
        return self.about(i, grown, text=grown.text)

    choice = chunk                      # a whole text has the same form

    def first(self):
        """The beginning of each text in a stream: the prompt, if it is echoed."""
        return [self.chunk(i, grown) for i, grown in enumerate(self.texts)] if self.echo else []
