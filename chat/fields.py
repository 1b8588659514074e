"""fields.py: what a request to OpenAI's API may ask for.

A field that would change the answer and has no effect here is refused by its name (NO_EFFECT), such
as tools or response_format. All other fields that are not known here, such as user, metadata,
store or reasoning_effort, change nothing and are ignored.

Source: OpenAI's API reference.
"""

import functools
import json
import re
import uuid

import sample
from chat import batching, formats, template
from chat.request import Refused

# The bounds that serve.py lists.
DEEPEST = 32                            # lists and objects inside each other
MOST_TEXTS = 32                         # written for a request
MOST_STOPS = 4
LONGEST_STOP = 256                      # characters
LOG_PROBABILITIES = 1 << 16             # in one answer
LONGEST_TEXT = 100_000                  # bytes, or tokens, of /tokenize and its like

NUMBER = (int, float)
MANY = 1 << 31                          # more than any context
EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    NUMBER: "a number",
    str: "a text",
    dict: "an object",
    list: "a list",
}
OFF = (False, 0, "", [], {})            # values by which a field asks for nothing
UNUSED = """
    tools functions grammar json_schema guided_json guided_regex guided_choice guided_grammar
    structured_outputs suffix chat_template documents continue_final_message truncate_prompt_tokens
    use_beam_search ignore_eos min_tokens stop_token_ids allowed_token_ids bad_words
    logits_processors top_a mirostat dry_multiplier xtc_probability dynatemp_range
    smoothing_factor no_repeat_ngram_size include_stop_str_in_output n_probs
"""
# Fields that would change the answer and have no effect here, with the values that change nothing.
NO_EFFECT = dict.fromkeys(UNUSED.split(), OFF) | {
    "tool_choice": ("auto", "none"),
    "function_call": ("auto", "none"),
    "audio": (),
    "modalities": ([], ["text"]),
    "web_search_options": (),
    "response_format": ({"type": "text"},),
    "add_generation_prompt": (True,),
    "num_beams": (1,),
    "typical_p": (1, 0),
    "tfs_z": (1, 0),
    "top_n_sigma": (-1, 0),
    "guidance_scale": (1,),
    "skip_special_tokens": (True,),
    "prompt_logprobs": (),
}


# ---------------------------------------------------------------------------------------- JSON

def no_number(name):
    """Refuses NaN and Infinity, which Python's reader of JSON would accept."""
    raise ValueError(f"{name} is none of JSON's numbers")


def within(value):
    """The lists and objects directly within a list or an object."""
    values = value.values() if isinstance(value, dict) else value
    return [each for each in values if isinstance(each, (dict, list))]


def object_of(data):
    """The JSON object in the body of a request."""
    try:
        body = json.loads(data, parse_constant=no_number)
    except (ValueError, RecursionError) as e:
        raise Refused(400, f"the body is not JSON: {str(e)[:100]}") from None
    if not isinstance(body, dict):
        raise Refused(400, "the body is no JSON object")
    level = [body]
    for _ in range(DEEPEST):
        level = [inner for value in level for inner in within(value)]
    if level:
        raise Refused(400, f"lists and objects within each other, more than {DEEPEST} deep")
    return body


def shown(value):
    """The beginning of a value, for an error message."""
    return json.dumps(value)[:60]


def field(body, name, default, kinds, low=None, high=None):
    """A field of a request, or the default if it is absent or null.

    Refused unless it is of the kinds and, if low is given, from low to high.
    """
    value = body.get(name)
    if value is None:
        return default
    if kinds is int and type(value) is float and value.is_integer():    # some languages send 5.0
        value = int(value)
    fine = isinstance(value, kinds) and (kinds is bool or not isinstance(value, bool))
    if not fine or low is not None and not low <= value <= high:
        bounds = "" if low is None else f" from {low} to {high}"
        message = f"{name} is {shown(value)}, expected {EXPECTED[kinds]}{bounds}"
        raise Refused(400, message, name)
    return value


# ------------------------------------------------------------------------------------ settings

def unsupported(param, message):
    """The refusal of something that OpenAI's API has and this server has not."""
    return Refused(400, f"{param} {message}", param, "unsupported_parameter")


def refuse_without_effect(body):
    """Refused for a field that would change the answer and has no effect here."""
    no_tools = "none" in (body.get("tool_choice"), body.get("function_call"))
    for name, neutral in NO_EFFECT.items():
        value = body.get(name)
        if value is None or value in neutral or no_tools and name in ("tools", "functions"):
            continue
        raise unsupported(name, f"is {shown(value)}: it has no effect here; leave it out")
    if body.get("repeat_last_n") not in (None, -1) and repetition_penalty_of(body) != 1:
        raise unsupported("repeat_last_n", "has no effect here: all tokens so far are penalised")


def repetition_penalty_of(body):
    """The repetition penalty, under the name that vLLM or the one that llama.cpp gave it."""
    penalty = field(body, "repeat_penalty", 1.0, NUMBER, 0, 10)
    return field(body, "repetition_penalty", penalty, NUMBER, 0, 10)


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
    n = field(body, "n", 1, int, 1, MOST_TEXTS)
    best_of = field(body, "best_of", n, int, 0, MANY)
    if best_of not in (0, n):
        why = "no more texts are written here than are given back"
        raise unsupported("best_of", f"is {best_of} with n = {n}: {why}")
    return n


def stop_of(body):
    """The stop strings of a request."""
    stop = body.get("stop")
    stop = [stop] if isinstance(stop, str) else field(body, "stop", [], list)
    fine = [isinstance(s, str) and 0 < len(s) <= LONGEST_STOP for s in stop]
    if len(stop) > MOST_STOPS or not all(fine):
        expected = f"a text or up to four, of at most {LONGEST_STOP} characters"
        raise Refused(400, f"stop is {shown(stop)}, expected {expected}", "stop")
    return stop


def bias_of(body, tokenizer):
    """logit_bias as Settings has it: ((token, what is added to its logit), ...)."""
    bias = {}
    for token, value in field(body, "logit_bias", {}, dict).items():
        digits = re.fullmatch("0*([0-9]{1,9})", token)
        number = int(digits[1]) if digits else tokenizer.n_vocab
        fine = isinstance(value, NUMBER) and -100 <= value <= 100
        if not fine or number >= tokenizer.n_vocab:
            expected = "the number of a token and a number from -100 to 100"
            message = f"logit_bias has {token[:20]!r}: {shown(value)}, expected {expected}"
            raise Refused(400, message, "logit_bias")
        # 100 means that nothing else is said, and -100 that it is never said.
        bias[number] = 1e9 * value if abs(value) == 100 else float(value)
    return tuple(bias.items())


def settings_of(body, tokenizer, most, alternatives, stop_tokens):
    """The Settings of a request for at most so many tokens."""
    seed = field(body, "seed", -1, int, -(1 << 63), (1 << 64) - 1)
    return sample.Settings(
        max_new_tokens=most,
        temperature=field(body, "temperature", 1.0, NUMBER, 0, 2),
        top_p=max(1e-9, field(body, "top_p", 1.0, NUMBER, 0, 1)),
        top_k=max(0, field(body, "top_k", 0, int, -1, MANY)),
        min_p=field(body, "min_p", 0.0, NUMBER, 0, 1),
        repetition_penalty=max(1e-3, repetition_penalty_of(body)),
        presence_penalty=field(body, "presence_penalty", 0.0, NUMBER, -2, 2),
        frequency_penalty=field(body, "frequency_penalty", 0.0, NUMBER, -2, 2),
        logit_bias=bias_of(body, tokenizer),
        seed=seed if seed >= 0 else uuid.uuid4().int >> 65,     # below 0: any, as in llama.cpp
        alternatives=alternatives,
        stop=frozenset(stop_tokens),
    )


# -------------------------------------------------------------------------------------- bounds

def too_long(what, cfg, param):
    """The refusal of a prompt that leaves no room for a reply."""
    message = f"{what} and a reply do not fit the model's context of {cfg.n_positions}"
    return Refused(400, f"{message}; shorten the text", param, "context_length_exceeded")


@functools.lru_cache(16)
def longest_text(cfg, tokenizer):
    """The most characters that can fit the context: every token is as long as the longest one.

    A normal form can make one byte out of four.
    """
    longest = max(map(len, tokenizer.token_bytes))
    return cfg.n_positions * longest * (4 if tokenizer.normalize else 1)


def refuse_long(length, cfg, tokenizer, param):
    """Refused for a text that cannot fit, before any time is spent on encoding it."""
    if length > longest_text(cfg, tokenizer):
        raise too_long(f"{length:,} characters", cfg, param)


def refuse_large(size, unit, param, most=LONGEST_TEXT):
    """Refused for more bytes or tokens than /tokenize and its like read or write."""
    if size > most:
        raise Refused(413, f"{size:,} {unit}, at most {most:,} are allowed", param)


def room_for(prompt, cfg, param, least=1):
    """How many tokens fit the context behind a prompt; Refused for fewer than `least`."""
    room = cfg.n_positions - len(prompt)
    if room < least:
        raise too_long(f"{len(prompt)} tokens", cfg, param)
    return room


def job_of(body, tokenizer, prompts, most, alternatives, end, n_echoed=0):
    """The Job of a request for at most so many tokens behind each of its prompts.

    end: the tokens that end a text; n_echoed: tokens of the prompts that are given back.
    """
    n, stop = texts_of(body), stop_of(body)
    settings = settings_of(body, tokenizer, max(most, 1), alternatives, end)
    values = n * (len(prompts) * most + n_echoed) * (1 + alternatives)
    if values > LOG_PROBABILITIES:
        message = f"{values:,} log probabilities, at most {LOG_PROBABILITIES:,} are in one answer"
        raise Refused(400, message, "max_tokens")
    rows = [ids for ids in prompts for _ in range(n)]
    return batching.Job(rows, settings, stop, field(body, "stream", False, bool))


# ------------------------------------------------------------------------------------- prompts

def messages_of(body, cfg, format):
    """The messages of a chat request, as the model's format reads them.

    Ours: every order that OpenAI's API accepts is accepted (template.in_turns). Fields beside role
    and content, such as name, have no place in our chat format and are ignored. A chat template
    decides itself what it accepts; it gets the thoughts of earlier replies too.
    """
    messages = field(body, "messages", None, list)
    if not messages:
        raise Refused(400, "messages is missing or empty", "messages")
    n_parts, length, read = len(messages), 0, []
    for i, m in enumerate(messages):
        if not isinstance(m, dict):
            raise Refused(400, f"messages[{i}] is {shown(m)}, expected an object", "messages")
        role, content = m.get("role"), m.get("content")
        if role in ("tool", "function") or m.get("tool_calls") or m.get("function_call"):
            message = "the models here call no tools of clients"
            raise Refused(400, f"messages[{i}]: {message}", "messages")
        if isinstance(content, list):
            n_parts += len(content)
            content = [part_of(part, i, role) for part in content]
            length += sum(len(part["text"]) for part in content)
        elif isinstance(content, str):
            length += len(content)
        thoughts = {name: m[name] for name in formats.REASONING if isinstance(m.get(name), str)}
        length += sum(map(len, thoughts.values()))
        read.append({"role": role, "content": content, "refusal": m.get("refusal"), **thoughts})
    if n_parts > cfg.n_positions:               # each message is more than one token
        raise too_long(f"{n_parts:,} messages and parts", cfg, "messages")
    refuse_long(length, cfg, format.tokenizer, "messages")
    if isinstance(format, formats.Template):
        return [as_text(m) for m in read]
    in_order, _ = template.in_turns(read)
    if not in_order:
        raise Refused(400, "messages: no text of the system or of a user is in them", "messages")
    return in_order


def as_text(message):
    """A message as chat templates expect it: its content is one text, and no calls are in it."""
    content, refusal = message["content"], message.pop("refusal")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    role = message["role"]
    if isinstance(role, str):
        role = template.OTHER_NAMES.get(role, role)
    return {**message, "role": role, "content": refusal if content is None else content}


def part_of(part, i, role):
    """A part of message i as sample.render knows it: a text, or a call of the calculator."""
    if isinstance(part, str):                   # LangChain puts texts into lists too
        part = {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, dict) else part
    if isinstance(part, dict) and isinstance(kind, str):
        text = part.get("refusal" if kind == "refusal" else "text")
        if kind in ("input_text", "output_text", "refusal"):    # of both APIs of OpenAI
            kind = "text"
        known = kind == "text" or role == "assistant" and kind in sample.PART_TOKENS
        if known and isinstance(text, str):
            return {"type": kind, "text": text}
    message = f"a part that is no text, {shown(kind)}; this model reads text alone"
    raise Refused(400, f"messages[{i}] has {message}", "messages")


def prompt_of(body, cfg, format):
    """The ids of the prompt of a chat request, in a format of formats.py.

    chat_template_kwargs, a field of vLLM's, are variables of the chat template, such as
    {"enable_thinking": false} for Qwen 3's.
    """
    options = field(body, "chat_template_kwargs", {}, dict)
    for name in ("messages", "tools", "documents", "add_generation_prompt"):
        if name in options:
            message = f"{name} is no option of a chat template; the request itself says it"
            raise Refused(400, f"chat_template_kwargs: {message}", "chat_template_kwargs")
    try:
        return format.prompt(messages_of(body, cfg, format), options=options)
    except ValueError as e:
        raise Refused(400, str(e), "messages") from None


def are_tokens(ids, tokenizer):
    """Whether this is a list of tokens, and not empty."""
    if not isinstance(ids, list) or not ids:
        return False
    return all(type(i) is int and 0 <= i < tokenizer.n_vocab for i in ids)


def prompts_of(body, cfg, tokenizer, begin):
    """([ids of each prompt], [how many of them are `begin`, put in front]) of a completion."""
    prompt = "" if body.get("prompt") is None else body["prompt"]
    many = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    prompts, n = prompt if many else [prompt], texts_of(body)
    if n * len(prompts) > MOST_TEXTS:
        message = f"at most {MOST_TEXTS} texts are written for a request"
        raise Refused(400, f"{len(prompts):,} prompts with n = {n}: {message}", "n")
    read, n_begin = [], []
    for prompt in prompts:
        n_begin.append(len(begin) if isinstance(prompt, str) else 0)
        if isinstance(prompt, (str, list)):
            refuse_long(len(prompt), cfg, tokenizer, "prompt")
        if isinstance(prompt, str):
            prompt = [*begin, *tokenizer.encode_ordinary(prompt)]
        if not are_tokens(prompt, tokenizer):
            expected = "a text, a list of tokens, or a list of these; and not an empty one"
            raise Refused(400, f"prompt is {shown(prompt)}, expected {expected}", "prompt")
        read.append(prompt)
    return read, n_begin
