"""api.py: OpenAI's API: what a request may ask for, and how its answer looks.

A body of JSON becomes a batching.Job here, and what the writer wrote becomes JSON again. Chat and
Completion are the two kinds of requests that write text.

A field that would change the answer and has no effect here is refused by its name (NO_EFFECT), such
as tools or response_format. These fields change nothing here and are ignored: user, metadata,
store, service_tier, safety_identifier, prompt_cache_key, prediction, parallel_tool_calls,
reasoning_effort, verbosity, cache_prompt, chat_template_kwargs, the name in a message, and any
field that is not known here.

logprobs has one entry for each token of the reply, as many as completion_tokens says. Special
tokens have theirs too, and so have the token that ends the reply, the tokens of a call of the
calculator, and parts of characters. They are the model's own log-probabilities: at temperature 1,
before penalties and logit_bias.

Source: OpenAI's API reference.
"""

import codecs
import functools
import json
import re
import uuid

from model import fast                  # before numpy
import numpy as np
import sample
from chat import batching, generate, template
from chat.request import Refused
from chat.stream import Parts, gathered
from run import command

# The bounds that serve.py lists.
DEEPEST = 32                            # lists and objects inside each other
MOST_STOPS = 4
LONGEST_STOP = 256                      # characters
LOG_PROBABILITIES = 1 << 16             # in one answer
LONGEST_TEXT = 100_000                  # bytes, or tokens, of /tokenize and its like

NUMBER = (int, float)
MANY = 1 << 31                          # more than any context
OFF = (False, 0, "", [], {})            # values by which a field asks for nothing
# Fields that would change the answer and have no effect here, with the values that change nothing.
NO_EFFECT = {
    # tools, and answers that are no text
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("auto", "none"),
    "function_call": ("auto", "none"),
    "audio": (),
    "modalities": ([], ["text"]),
    "web_search_options": (),
    # answers of a given form
    "grammar": OFF,
    "json_schema": OFF,
    "guided_json": OFF,
    "guided_regex": OFF,
    "guided_choice": OFF,
    "guided_grammar": OFF,
    "structured_outputs": OFF,
    # the prompt
    "suffix": OFF,
    "chat_template": OFF,
    "documents": OFF,
    "add_generation_prompt": (True,),
    "continue_final_message": OFF,
    "truncate_prompt_tokens": OFF,
    # how tokens are chosen, and when the text ends
    "use_beam_search": OFF,
    "num_beams": (1,),
    "ignore_eos": OFF,
    "min_tokens": OFF,
    "stop_token_ids": OFF,
    "allowed_token_ids": OFF,
    "bad_words": OFF,
    "logits_processors": OFF,
    "typical_p": (1, 0),
    "tfs_z": (1, 0),
    "top_a": OFF,
    "top_n_sigma": (-1, 0),
    "mirostat": OFF,
    "dry_multiplier": OFF,
    "xtc_probability": OFF,
    "dynatemp_range": OFF,
    "smoothing_factor": OFF,
    "no_repeat_ngram_size": OFF,
    "guidance_scale": (1,),
    # what is given back
    "include_stop_str_in_output": OFF,
    "skip_special_tokens": (True,),
    "prompt_logprobs": (),
    "n_probs": OFF,
}


# ---------------------------------------------------------------------------------------- JSON

JSON = "application/json; charset=utf-8"        # without the charset, some clients read Latin-1
# Ends of lines in Unicode's sense, escaped. A client that cuts a stream into lines as Python's
# splitlines does would cut an event there.
LINE_ENDS = str.maketrans({c: f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"})


def json_bytes(value):
    """JSON on one line. Half of a surrogate pair, which is no character, becomes a "?"."""
    text = json.dumps(value, ensure_ascii=False)
    if not text.isascii():
        text = text.translate(LINE_ENDS)
    return text.encode("utf-8", "replace")


class Answer:
    """The answer of a route: bytes of some kind of text, or a value that becomes JSON."""

    def __init__(self, value, status=200, kind=JSON):
        self.data = value if isinstance(value, bytes) else json_bytes(value)
        self.status, self.kind = status, kind


def no_number(name):
    """Refuses NaN and Infinity, which Python's reader of JSON would accept."""
    raise ValueError(f"{name} is none of JSON's numbers")


def object_of(data):
    """The JSON object in the body of a request."""
    try:
        body = json.loads(data, parse_constant=no_number)
    except (ValueError, RecursionError) as e:
        raise Refused(400, f"the body is not JSON: {str(e)[:100]}") from None
    if not isinstance(body, dict):
        raise Refused(400, "the body is no JSON object")
    level, depth = [body], 0
    while level:                                # go one level deeper, until there is none
        depth += 1
        if depth > DEEPEST:
            raise Refused(
                400, f"lists and objects within each other, more than {DEEPEST} deep"
            )
        deeper = []
        for value in level:
            values = value.values() if isinstance(value, dict) else value
            deeper += [each for each in values if isinstance(each, (dict, list))]
        level = deeper
    return body


def field(body, name, default, kinds, low=None, high=None):
    """A field of a request, or the default if it is absent or null.

    Refused unless it is of the kinds and, if low is given, from low to high.
    """
    value = body.get(name)
    if value is None:
        return default
    if kinds is int and type(value) is float and value.is_integer():    # some languages send 5.0
        value = int(value)
    fine = isinstance(value, kinds) and not (isinstance(value, bool) and kinds is not bool)
    if fine and low is not None:
        fine = low <= value <= high
    if not fine:
        names = {
            bool: "true or false",
            int: "a whole number",
            str: "a text",
            dict: "an object",
            list: "a list",
        }
        expected = names.get(kinds, "a number")
        if low is not None:
            expected += f" from {low} to {high}"
        raise Refused(400, f"{name} is {json.dumps(value)[:60]}, expected {expected}", name)
    return value


# ------------------------------------------------------------------------------------ settings

def unsupported(param, message):
    """The refusal of something that OpenAI's API has and this server has not."""
    return Refused(400, message, param, "unsupported_parameter")


def refuse_without_effect(body, harmless=()):
    """Refused for a field that would change the answer and has no effect here."""
    for name, neutral in NO_EFFECT.items():
        value = body.get(name)
        if value is not None and value not in neutral and name not in harmless:
            shown = json.dumps(value)[:60]
            raise unsupported(name, f"{name} is {shown}: it has no effect here; leave it out")


def length_of(body, least):
    """The most tokens that a request wants, or None if it does not say.

    -1 stands for as many as there is room for, as in llama.cpp and LM Studio.
    """
    for name in ("max_completion_tokens", "max_tokens", "n_predict"):
        if body.get(name) == -1:
            return MANY
        if body.get(name) is not None:
            return field(body, name, None, int, least, MANY)
    return None


def texts_of(body):
    """How many texts a request wants for each prompt; Refused if it wants more to choose from."""
    n = field(body, "n", 1, int, 1, batching.PLACES)
    if field(body, "best_of", n, int, 0, MANY) not in (0, n):
        raise unsupported(
            "best_of",
            f"best_of is {body['best_of']} with n = {n}: "
            "no more texts are written here than are given back",
        )
    return n


def stop_of(body):
    """The stop strings of a request."""
    stop = body.get("stop")
    stop = [stop] if isinstance(stop, str) else field(body, "stop", [], list)
    fine = [isinstance(s, str) and 0 < len(s) <= LONGEST_STOP for s in stop]
    if len(stop) > MOST_STOPS or not all(fine):
        expected = f"a text or up to four, of at most {LONGEST_STOP} characters"
        raise Refused(400, f"stop is {json.dumps(stop)[:60]}, expected {expected}", "stop")
    return stop


def bias_of(body, tokenizer):
    """logit_bias as Settings has it: ((token, what is added to its logit), ...)."""
    bias = {}
    for token, value in field(body, "logit_bias", {}, dict).items():
        digits = re.fullmatch("0*([0-9]{1,9})", token)
        number = int(digits[1]) if digits else tokenizer.n_vocab
        fine = isinstance(value, NUMBER) and -100 <= value <= 100
        if not fine or number >= tokenizer.n_vocab:
            raise Refused(
                400,
                f"logit_bias has {token[:20]!r}: {json.dumps(value)[:20]}, "
                "expected the number of a token and a number from -100 to 100",
                "logit_bias",
            )
        # 100 means that nothing else is said, and -100 that it is never said.
        bias[number] = 1e9 * value if abs(value) == 100 else float(value)
    return tuple(bias.items())


def settings_of(body, tokenizer, most, alternatives, stop_tokens):
    """The Settings of a request for at most so many tokens."""
    form = field(body, "response_format", {"type": "text"}, dict)
    if form.get("type") != "text":
        shown = json.dumps(form)[:60]
        raise unsupported(
            "response_format", f"response_format {shown}: only text is written here"
        )
    penalty = field(body, "repeat_penalty", 1.0, NUMBER, 0, 10)
    penalty = field(body, "repetition_penalty", penalty, NUMBER, 0, 10)
    if penalty != 1 and body.get("repeat_last_n") not in (None, -1):
        raise unsupported("repeat_last_n", "repeat_last_n: all tokens so far are penalised here")
    seed = field(body, "seed", -1, int, -(1 << 63), (1 << 64) - 1)
    if seed < 0:                                # any seed, as in llama.cpp and vLLM
        seed = uuid.uuid4().int >> 65
    return sample.Settings(
        max_new_tokens=most,
        temperature=field(body, "temperature", 1.0, NUMBER, 0, 2),
        top_p=max(1e-9, field(body, "top_p", 1.0, NUMBER, 0, 1)),
        top_k=max(0, field(body, "top_k", 0, int, -1, MANY)),
        min_p=field(body, "min_p", 0.0, NUMBER, 0, 1),
        repetition_penalty=max(1e-3, penalty),
        presence_penalty=field(body, "presence_penalty", 0.0, NUMBER, -2, 2),
        frequency_penalty=field(body, "frequency_penalty", 0.0, NUMBER, -2, 2),
        logit_bias=bias_of(body, tokenizer),
        seed=seed,
        alternatives=alternatives,
        stop=frozenset(stop_tokens),
    )


# -------------------------------------------------------------------------------------- bounds

def too_long(what, cfg, param):
    """The refusal of a prompt that leaves no room for a reply."""
    return Refused(
        400,
        f"{what} and a reply do not fit the model's context of {cfg.n_positions}; "
        "shorten the conversation",
        param,
        "context_length_exceeded",
    )


def longest_text(cfg, tokenizer):
    """The most characters that can fit the context: every token is as long as the longest one.

    A normal form can make one byte out of four.
    """
    return cfg.n_positions * longest_token(tokenizer) * (4 if tokenizer.normalize else 1)


@functools.lru_cache(16)
def longest_token(tokenizer):
    """The bytes of the longest token."""
    return max(map(len, tokenizer.token_bytes))


def refuse_long(length, cfg, tokenizer, param):
    """Refused for a text that cannot fit, before any time is spent on encoding it."""
    if length > longest_text(cfg, tokenizer):
        raise too_long(f"{length:,} characters", cfg, param)


def refuse_large(text, param):
    """Refused for a text of more bytes than /tokenize and its like read."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > LONGEST_TEXT:
        raise Refused(413, f"a text of {size:,} bytes, at most {LONGEST_TEXT:,} are read", param)


def refuse_many(tokens, settings):
    """Refused for more log-probabilities than one answer holds."""
    values = tokens * (1 + settings.alternatives)
    if values > LOG_PROBABILITIES:
        raise Refused(
            400,
            f"{tokens:,} tokens with {settings.alternatives} alternatives: "
            f"at most {LOG_PROBABILITIES:,} log probabilities are in one answer",
            "max_tokens",
        )


def room_for(prompt, cfg, param, least=1):
    """How many tokens fit the context behind a prompt; Refused for fewer than `least`."""
    room = cfg.n_positions - len(prompt)
    if room < least:
        raise too_long(f"{len(prompt)} tokens", cfg, param)
    return room


# ------------------------------------------------------------------------------------ messages

def messages_of(body, cfg, tokenizer):
    """The messages of a chat request, as sample.render reads them.

    Every order that OpenAI's API accepts is accepted (template.in_turns). Fields beside role and
    content, such as name, have no place in our chat format and are ignored.
    """
    messages = field(body, "messages", None, list)
    if not messages:
        raise Refused(400, "messages is missing or empty", "messages")
    n_parts = len(messages)
    for m in messages:
        if isinstance(m, dict) and isinstance(m.get("content"), list):
            n_parts += len(m["content"])
    if n_parts > cfg.n_positions:               # each message is more than one token
        raise too_long(f"{n_parts:,} messages and parts", cfg, "messages")
    read, length = [], 0
    for i, m in enumerate(messages):
        if not isinstance(m, dict):
            shown = json.dumps(m)[:40]
            raise Refused(400, f"messages[{i}] is {shown}, expected an object", "messages")
        if m.get("role") in ("tool", "function") or m.get("tool_calls") or m.get("function_call"):
            raise Refused(
                400,
                f"messages[{i}]: the model has a calculator of its own "
                "and calls no tools of clients",
                "messages",
            )
        content = m.get("content")
        if isinstance(content, list):
            content = [part_of(part, i, m.get("role")) for part in content]
            length += sum(len(part["text"]) for part in content)
        elif isinstance(content, str):
            length += len(content)
        read.append({"role": m.get("role"), "content": content, "refusal": m.get("refusal")})
    refuse_long(length, cfg, tokenizer, "messages")
    try:
        in_order, _ = template.in_turns(read)
    except ValueError as e:
        raise Refused(400, str(e), "messages") from None
    if not in_order:
        raise Refused(400, "messages: no text of the system or of a user is in them", "messages")
    return in_order


def part_of(part, i, role):
    """A part of message i as sample.render knows it: a text, or a call of the calculator."""
    if isinstance(part, str):                   # LangChain puts texts into lists too
        return {"type": "text", "text": part}
    kind, text = part, None
    if isinstance(part, dict):
        kind = part.get("type")
        text = part.get("refusal" if kind == "refusal" else "text")
    if isinstance(text, str) and isinstance(kind, str):
        if kind in ("text", "input_text", "output_text", "refusal"):    # of both APIs of OpenAI
            return {"type": "text", "text": text}
        if role == "assistant" and kind in sample.PART_TOKENS:
            return {"type": kind, "text": text}
    shown = json.dumps(kind)[:40]
    raise Refused(
        400,
        f"messages[{i}] has a part that is no text, {shown}; this model reads text alone",
        "messages",
    )


def prompt_of(body, cfg, tokenizer):
    """The ids of the prompt of a chat request."""
    try:
        return sample.render_prompt(messages_of(body, cfg, tokenizer), tokenizer)
    except ValueError as e:
        raise Refused(400, str(e), "messages") from None


# -------------------------------------------------------------------------------------- tokens

def are_tokens(ids, tokenizer):
    """Whether this is a list of tokens, and not empty."""
    if not isinstance(ids, list) or not ids:
        return False
    return all(type(i) is int and 0 <= i < tokenizer.n_vocab for i in ids)


def spelled(tokenizer, i, mark=""):
    """The text of a token. A token that is no whole character is spelled in bytes, behind a mark.

    So two different tokens never look the same.
    """
    try:
        return tokenizer.token_bytes[i].decode("utf-8")
    except UnicodeDecodeError:
        return mark + "".join(f"\\x{b:02x}" for b in tokenizer.token_bytes[i])


def text_and_offsets(tokenizer, ids):
    """(the text of tokens, where in it each of them begins). Special tokens have no text."""
    special, text, offsets = set(tokenizer.special_tokens.values()), "", []
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in ids:
        offsets.append(len(text))
        ended = token in special
        text += decoder.decode(b"" if ended else tokenizer.token_bytes[token], ended)
    return text + decoder.decode(b"", True), offsets


def finite(logp):
    """A log-probability as JSON can hold it: -9999 for a token that cannot come, as OpenAI does."""
    return logp if logp is None else max(logp, -9999.0)


# ------------------------------------------------------------------------------------ requests

class Chat:
    """A request to /v1/chat/completions.

    show_calls, a field of our own for the page, asks for the reply also in parts (stream.Parts), so
    that a call of the calculator is told from a text that looks like one.
    """

    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"
    writes = True                       # whether it wants any token

    def __init__(self, body, cfg, tokenizer):
        self.tokenizer = tokenizer
        no_tools = body.get("tool_choice") == "none" or body.get("function_call") == "none"
        refuse_without_effect(body, ("tools", "functions") if no_tools else ())
        if body.get("echo"):
            raise unsupported("echo", "echo: only /v1/completions repeats its prompt")
        self.logprobs = field(body, "logprobs", False, bool)
        top = field(body, "top_logprobs", 0, int, 0, 20)
        if top and not self.logprobs:
            raise Refused(400, "top_logprobs needs logprobs to be true", "top_logprobs")
        prompt = prompt_of(body, cfg, tokenizer)
        most = min(room_for(prompt, cfg, "messages"), length_of(body, 1) or MANY)
        end = sample.special(tokenizer, "<|im_end|>")
        stop = stop_of(body)
        settings = settings_of(body, tokenizer, most, top if self.logprobs else -1, [end])
        n = texts_of(body)
        refuse_many(n * most, settings)
        show_calls = field(body, "show_calls", False, bool)
        stream = field(body, "stream", False, bool)
        self.job = batching.Job([prompt] * n, settings, stop, stream, show_calls)
        self.parts = [Parts(tokenizer) for _ in range(n)] if show_calls else None
        self.n_in_parts = [0] * n       # how many tokens of each reply its Parts has taken

    def entry(self, entry):
        """One token in logprobs.content.

        bytes is what the token adds to the content: nothing for a special token or for a part of a
        call. The bytes of all tokens together are the content.
        """
        token, _, shown, logp, best = entry

        def one(i, x, shown):
            text = self.tokenizer.token_bytes[i] if shown else b""
            return {"token": self.tokenizer.decode([i]), "logprob": finite(x), "bytes": list(text)}

        special = self.tokenizer.special_tokens.values()
        return {
            **one(token, logp, shown),
            "top_logprobs": [one(i, x, i not in special) for i, x in best],
        }

    def entries(self, entries):
        """logprobs of a choice."""
        if not self.logprobs:
            return None
        return {"content": [self.entry(entry) for entry in entries], "refusal": None}

    def new_parts(self, i, finish):
        """What reply i has grown by, part by part: [{"index", "type", "text"}]."""
        if self.parts is None:
            return []
        ids, begin = self.job.rows[i].ids, self.n_in_parts[i]
        self.n_in_parts[i] = len(ids)
        grown = [self.parts[i].put(token) for token in ids[begin:len(ids)]]
        grown += [self.parts[i].end()] if finish else []
        return gathered(grown)

    def choice(self, i, text, entries, finish):
        """Reply i, whole."""
        message = {"role": "assistant", "content": text, "refusal": None}
        if self.parts:
            message["parts"] = self.new_parts(i, finish)
        return {
            "index": i,
            "message": message,
            "logprobs": self.entries(entries),
            "finish_reason": finish,
        }

    def begin(self, i):
        """The beginning of reply i in a stream."""
        delta = {"role": "assistant", "content": ""}
        return {"index": i, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, i, text, entries, finish):
        """What reply i has grown by, for a stream; None for nothing."""
        parts, delta = self.new_parts(i, finish), {}
        if not (text or entries or parts or finish):
            return None
        if text or entries:
            delta["content"] = text
        if parts:
            delta["parts"] = parts
        logprobs = self.entries(entries) if entries else None
        return {"index": i, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


class Completion:
    """A request to /v1/completions.

    The text of each prompt stands behind <|endoftext|>, like the beginning of any document. With
    echo, the answer repeats the prompts.

    n_ours   for each row, how many tokens were put in front of its prompt
    prompts  for each row, its prompt as it is echoed
    echoed   for each row, an entry of logprobs for each token of its prompt
    """

    prefix = "cmpl"
    whole = part = "text_completion"

    def __init__(self, body, cfg, tokenizer):
        self.tokenizer = tokenizer
        refuse_without_effect(body)
        self.logprobs = None
        if body.get("logprobs") is not False:   # as in a chat, false asks for none
            self.logprobs = field(body, "logprobs", None, int, 0, 5)
        prompt = "" if body.get("prompt") is None else body["prompt"]
        many = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
        prompts = prompt if many else [prompt]
        n = texts_of(body)
        if n * len(prompts) > batching.PLACES:
            raise Refused(
                400,
                f"{len(prompts):,} prompts with n = {n}: "
                f"at most {batching.PLACES} texts are written for a request",
                "n",
            )
        most = length_of(body, 0)
        most = 16 if most is None else most     # OpenAI's default
        prompts, ours = self.read_prompts(prompts, cfg)
        for ids in prompts:
            most = min(most, room_for(ids, cfg, "prompt", min(most, 1)))
        alternatives = -1 if self.logprobs is None else self.logprobs
        stop = stop_of(body)
        end = generate.document_begin(tokenizer)
        settings = settings_of(body, tokenizer, max(most, 1), alternatives, end)
        self.echo = field(body, "echo", False, bool)
        n_entries = sum(len(ids) * self.echo + most for ids in prompts)
        refuse_many(n * n_entries, settings)
        stream = field(body, "stream", False, bool)
        rows = [ids for ids in prompts for _ in range(n)]
        self.job = batching.Job(rows, settings, stop, stream)
        self.writes = most > 0
        self.n_ours = [number for number in ours for _ in range(n)]
        self.prompts = [""] * len(rows)
        self.echoed = [[] for _ in rows]

    def read_prompts(self, prompts, cfg):
        """([ids of each prompt], [how many tokens were put in front of it])."""
        begin, read, ours = generate.document_begin(self.tokenizer), [], []
        for prompt in prompts:
            if isinstance(prompt, (str, list)):
                refuse_long(len(prompt), cfg, self.tokenizer, "prompt")
            ours.append(len(begin) if isinstance(prompt, str) else 0)
            if isinstance(prompt, str):
                prompt = [*begin, *self.tokenizer.encode_ordinary(prompt)]
            elif not are_tokens(prompt, self.tokenizer):
                raise Refused(
                    400,
                    f"prompt is {json.dumps(prompt)[:60]}, "
                    "expected a text, a list of tokens, or a list of these",
                    "prompt",
                )
            if not prompt:
                raise Refused(
                    400,
                    "prompt is empty, and this vocabulary has no token "
                    "with which a document begins",
                    "prompt",
                )
            read.append(prompt)
        return read, ours

    def read(self, params, cfg, lock):
        """With echo: the texts of the prompts, and with logprobs an entry for each of their tokens.

        The first token of a prompt that was given as tokens has null: nothing stands before it. A
        text stands behind <|endoftext|>, so its first token has a probability; that <|endoftext|>
        is ours and has no entry.
        lock: taken for one prompt at a time, as all logits of a prompt are in memory.
        """
        if not self.echo:
            return
        for i, prompt in enumerate(self.job.prompts):
            if i and prompt is self.job.prompts[i - 1]:     # n texts of one prompt are neighbours
                self.prompts[i], self.echoed[i] = self.prompts[i - 1], self.echoed[i - 1]
                continue
            ours = self.n_ours[i]
            self.prompts[i], offsets = text_and_offsets(self.tokenizer, prompt[ours:])
            if self.logprobs is None:
                continue
            with lock:
                logits = fast.forward(params, cfg, np.array([prompt]))[0][0]
                logits[:, self.tokenizer.holes] = -np.inf
                logits = logits[:, :self.tokenizer.n_vocab]
                for t, at in enumerate(offsets, ours):
                    found = None, None
                    if t:
                        found = generate.likeliest(logits[t - 1], prompt[t], self.logprobs)
                    self.echoed[i].append((prompt[t], at, True, *found))

    def name(self, token):
        """A token as logprobs spells it."""
        return spelled(self.tokenizer, token, "bytes:")

    def entries(self, i, prompt, entries):
        """logprobs of a choice: an entry for each token of the prompt, if echoed, and of the reply.

        top_logprobs has the token itself too, even if others are likelier.
        """
        if self.logprobs is None:
            return None
        behind = len(self.prompts[i])
        shifted = [(token, behind + at, *rest) for token, at, *rest in entries]
        out = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, at, _, logp, best in prompt + shifted:
            tops = None
            if best is not None:
                tops = {self.name(j): finite(x) for j, x in [*best, (token, logp)]}
            out["tokens"].append(self.name(token))
            out["token_logprobs"].append(finite(logp))
            out["top_logprobs"].append(tops)
            out["text_offset"].append(at)
        return out

    def choice(self, i, text, entries, finish):
        """Text i, whole."""
        return {
            "index": i,
            "text": self.prompts[i] + text,
            "logprobs": self.entries(i, self.echoed[i], entries),
            "finish_reason": finish,
        }

    def begin(self, i):
        """The beginning of text i in a stream: the prompt, if it is echoed."""
        return self.choice(i, "", [], None) if self.echo else None

    def chunk(self, i, text, entries, finish):
        """What text i has grown by, for a stream; None for nothing."""
        if not (text or entries or finish):
            return None
        logprobs = self.entries(i, [], entries) if entries else None
        return {"index": i, "text": text, "logprobs": logprobs, "finish_reason": finish}


if __name__ == "__main__":
    command.only_imported(__doc__)
