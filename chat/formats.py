"""formats.py: how the messages of a chat become the tokens that a model reads, and what ends them.

    Own         of models made here: sample.render, and <|im_end|>
    Template    of models of others, by the chat template that lies beside the model

A chat template is a program in Jinja, which chat/jinja.py renders with the package jinja2. Two
templates are so common that they are written out below, in Python, and need no jinja2: ChatML, of
SmolLM 2, Qwen 2 and many others, and Llama 3's.

    [{"role": "user", "content": "Hi"}]   in ChatML:    <|im_start|>user
                                                        Hi<|im_end|>
                                                        <|im_start|>assistant

The names of special tokens in the text become these tokens, wherever they stand. So a user can type
one, as in transformers; in the format of models made here he cannot. The text has all special
tokens that the model is to see, and nothing is put in front of it: the first token of a text,
<|begin_of_text|>, twice is a common mistake.

align.py learns conversations in the format of their model. What a template writes between a prompt
and the end of the reply to it is what the model learns to write.

Sources: transformers 5 (tokenization_utils_base.py); OpenAI's ChatML; Meta's Llama 3.
"""

import functools
import hashlib
import json
import re
from pathlib import Path

import sample
from chat import generate, jinja, thinking
from chat.template import Unusable, check_messages, is_empty
from run import disk
from tokens import huggingface


class Own:
    """The format of models made here (sample.render).

    ValueError, where it is used, if the vocabulary lacks a token that chats need.
    """

    has_calls = True            # a reply may call the tools of sample.py
    is_known = True             # how conversations are written
    digest = None               # of the template; there is none

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    @property
    def ends(self):
        """The tokens that end a reply."""
        return frozenset([sample.special(self.tokenizer, "<|im_end|>")])

    @property
    def document_ends(self):
        """The tokens that end a text which is no reply: where the next document begins."""
        return frozenset(generate.document_begin(self.tokenizer))

    def prompt(self, messages, options=None):
        """The ids of a conversation up to the place where the next reply begins.

        A reply that has "ids" stands in it as the very tokens that were written: its text, encoded
        anew, could give others. The options of templates change nothing here.
        """
        if not any("ids" in m for m in messages):
            return sample.render_prompt(messages, self.tokenizer)
        ids, begin = [], sample.head_of("assistant", self.tokenizer)
        for m in messages:
            written = m.get("ids")
            ids += begin + written if written else sample.render([m], self.tokenizer)[0]
        return ids + begin

    def conversation(self, messages, where="conversation"):
        """A conversation as [(ids, mask)], here one. The mask is 1 where the model samples."""
        return [sample.render(messages, self.tokenizer, where)]

    def answer(self, prompt, ids):
        """What a user reads of the reply to a prompt: its text, without calls."""
        return sample.reply_text(ids, self.tokenizer)

    def content(self, prompt, ids):
        """What a message of the assistant has for the tokens of a reply: "content" and "ids".

        A reply without a text has a space, since every message of ours has some content. One that
        was cut off is ended.
        """
        end = [] if ids[-1] in self.ends else list(self.ends)
        return {"content": sample.reply_parts(ids, self.tokenizer) or " ", "ids": ids + end}

    def thinking(self, prompt):
        """A thinking.Thinking for the reply to a prompt; None, since no thoughts are marked."""
        return None

    def write(self, folder):
        """Nothing: what this format needs beside a model, model/resume.py writes."""


class Template:
    """The format of a model that brings a chat template.

    path        the file it stands in
    templates   {name: template}: "default", and "tool_use" for conversations with tools
    special     the tokens that a template may name, such as {"bos_token": "<|begin_of_text|>"}
    ends        the tokens that end a reply; document_ends, those that end any other text
    folder      of the model, with the files of its tokenizer
    """

    has_calls = False           # calls of tools are texts, which each template writes otherwise

    def __init__(self, path, templates, special, tokenizer, ends, folder=None):
        self.path, self.templates, self.special = path, templates, special
        self.tokenizer, self.ends, self.folder = tokenizer, frozenset(ends), folder
        self.document_ends = self.ends.union(generate.document_begin(tokenizer))

    def text(self, messages, tools=None, add_generation_prompt=True, options=None):
        """What transformers' apply_chat_template(tokenize=False) returns; ValueError if it fails.

        options: further variables of the template, such as enable_thinking of Qwen 3's.
        """
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            raise ValueError(f"expected a list of messages, got {str(messages)[:60]!r}")
        if not messages:
            raise ValueError("a conversation without any message")
        if not self.templates:
            raise ValueError(f"{self.path}: has no chat template, so this is no assistant. A base "
                             f"model goes on from a text: python sample.py TEXT --model "
                             f"{self.folder}; it becomes an assistant by: python align.py sft "
                             f"--chat-format {', '.join(WRITTEN_OUT)} or a folder with a template")
        name = "default" if tools is None or "tool_use" not in self.templates else "tool_use"
        if name not in self.templates:
            raise ValueError(f"{self.path}: has the chat templates {', '.join(self.templates)}, "
                             f"and none of them is named default")
        template = self.templates[name]
        variables = {**self.special, **(options or {}), "tools": tools, "documents": None,
                     "add_generation_prompt": add_generation_prompt}
        try:
            plain = plain_writer(template)
            if plain:
                return plain(prepared(messages), variables)
            return rendered(template, messages, variables)
        except ValueError as e:
            raise ValueError(f"{self.path}: the chat template {e}") from None

    def prompt(self, messages, tools=None, options=None):
        """The ids of a conversation up to the place where the next reply begins."""
        if messages and messages[-1].get("role") == "assistant":
            raise ValueError("the last message is the assistant's: there is nothing to reply to")
        text = self.text(messages, tools, options=options)
        return self.tokenizer.encode(text, allowed_special="all")

    def conversation(self, messages, where="conversation"):
        """A conversation as [(ids, mask)], ending with its last reply that is learned.

        The mask is 1 on the replies, each to the token that ends it. Calls of tools are left out of
        them. There is one pair if the template leaves earlier turns as they are. Qwen 3's takes the
        thoughts out of them: then there is a pair for each reply, as the model is to write it.
        Unusable for a reply that is nothing but calls; ValueError if the template fails.
        """
        check_messages(messages, where)
        said = [without_calls(m) for m in messages]
        learned = [m["role"] == "assistant" and m.get("weight", 1) != 0 for m in messages]
        try:
            turns = [self.turn(said[:i + 1]) for i, is_learned in enumerate(learned) if is_learned]
        except Unusable:
            raise
        except ValueError as e:
            raise ValueError(f"{where}: {e}") from None
        whole = "".join(turns[-1]) if turns else ""
        if all(whole.startswith(prompt + reply) for prompt, reply in turns):
            return [self.row(turns)]
        return [self.row([turn]) for turn in turns]

    def turn(self, messages):
        """Messages that end with a reply -> (the text in front of the reply, its text to its end).

        ValueError if the template does not write the reply where it asks for it, or without end.
        """
        prompt = self.text(messages[:-1])
        text = self.text(messages, add_generation_prompt=False)
        if not text.startswith(prompt):
            text = thinking.behind_begin(prompt, text, thoughts_in(messages[-1]))
        if text is None:
            raise ValueError(f"{self.path}: the chat template asks for a reply behind "
                             f"{prompt[-40:]!r}, and writes it behind another text, so this reply "
                             "cannot be learned; choose another with --chat-format")
        tokens = self.tokenizer.bytes_of
        ends = [self.tokenizer.decode([i]) for i in self.ends if i in tokens]
        end = max((text.rfind(name) + len(name) for name in ends if name in text), default=0)
        if end <= len(prompt):
            raise ValueError(f"{self.path}: the chat template ends a reply with {text[-20:]!r}, "
                             f"and known ends are {', '.join(sorted(ends)) or 'none'}; name its "
                             f"end as eos_token_id in {self.folder}/generation_config.json")
        return prompt, text[len(prompt):end]

    def row(self, turns):
        """(ids, mask) of a text that has all turns (prompt, reply) in it, one behind the other.

        Prompts and replies are encoded apart, as the model meets them.
        """
        ids, mask, end = [], [], 0
        for prompt, reply in turns:
            for text, learned in ((prompt[end:], 0), (reply, 1)):
                tokens = self.tokenizer.encode(text, "all")
                ids += tokens
                mask += [learned] * len(tokens)
            end = len(prompt) + len(reply)
        return ids, mask

    def answer(self, prompt, ids):
        """What a user reads of the reply to a prompt: its text, without thoughts."""
        return self.content(prompt, ids)["content"]

    def content(self, prompt, ids):
        """What a message of the assistant has for the tokens of a reply.

        "content", and if there are thoughts also "reasoning_content", which templates read.
        """
        text = sample.reply_text(ids, self.tokenizer)
        thoughts, answer = self.thinking(prompt).put(text, ended=True)
        return {"content": answer, **({"reasoning_content": thoughts} if thoughts else {})}

    def thinking(self, prompt):
        """A thinking.Thinking for the reply to a prompt. The prompt may end with <think>."""
        end = self.tokenizer.decode(prompt[-8:])
        return thinking.Thinking(begun=end.rstrip().endswith(thinking.BEGIN))

    @property
    def is_known(self):
        """Whether there is a template."""
        return bool(self.templates)

    @property
    def digest(self):
        """A short name for the templates."""
        return hashlib.sha256(json.dumps(self.templates).encode()).hexdigest()[:16]

    def write(self, folder):
        """Write what chats need beside a model of the same tokenizer, as transformers reads it.

        The tokenizer's own files are copied. The template also stands in a file of its own, which
        comes before what an older folder may have there.
        """
        folder = Path(folder)
        for name in TOKENIZER_FILES:
            if (self.folder / name).exists():
                with disk.whole_file(folder / name) as f:
                    f.write((self.folder / name).read_bytes())
        for name, text in self.templates.items():
            path = folder / "chat_template.jinja"
            if name != "default":
                path = folder / "additional_chat_templates" / f"{name}.jinja"
                path.parent.mkdir(exist_ok=True)
            disk.write_text(path, text)
        changes = {
            "tokenizer_config.json": {**self.special, "chat_template": self.templates["default"]},
            "generation_config.json": {"eos_token_id": sorted(self.ends)},
        }
        for name, changed in changes.items():
            content = json_beside(self.folder, name) | changed
            disk.write_text(folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


class Calling(Template):
    """The Template of one request that offers tools, or tells of earlier calls and their results.

    tools   as OpenAI's API writes them, or None
    beside  for each message what the template gets beside, or in place of, its role and text
    """

    def __init__(self, template, tools, beside):
        vars(self).update(vars(template))
        self.tools, self.beside = tools, beside

    def prompt(self, messages, tools=None, options=None):
        """Template.prompt. ValueError for tools or calls that no template has a place for."""
        given = {"tools": self.tools, "tool_calls": any("tool_calls" in m for m in self.beside)}
        for name, is_given in given.items():
            if is_given and not any(name in text for text in self.templates.values()):
                raise ValueError(f"{self.path}: the chat template has no place for {name}; leave "
                                 "them out")
        whole = [{**m, **more} for m, more in zip(messages, self.beside)]
        return super().prompt(whole, self.tools, options)


# ---------------------------------------------------------------------------------------- messages

REASONING = ("reasoning_content", "thinking", "reasoning")      # names for the thoughts of a reply


def thoughts_in(message):
    """The thoughts in a message of the assistant, by any name or in its text; "" if it has none."""
    for name in REASONING:
        if message.get(name) is not None:
            return message[name]
    return thinking.Thinking().put(message["content"], ended=True)[0]


def prepared(messages, kept=False):
    """The messages as transformers 5 hands them to a template.

    null is as good as nothing, unless it is kept. Thoughts are there by the name reasoning_content,
    and thinking, whichever name they came by. "ids" are ours.
    """
    found = []
    for m in messages:
        m = {key: value for key, value in m.items() if key != "ids" and (kept or value is not None)}
        thoughts = [m[name] for name in REASONING if m.get(name) is not None]
        if thoughts:
            m = {"thinking": thoughts[0], **m, "reasoning_content": thoughts[0]}
        found.append(m)
    return found


def without_calls(message):
    """A message as a template takes it: its role, its text without calls of tools, its thoughts.

    Unusable if it has nothing else.
    """
    content = message["content"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
        if is_empty(content):
            raise Unusable("a reply that is nothing but calls of a tool")
    thoughts = {name: message[name] for name in REASONING if message.get(name) is not None}
    return {"role": message["role"], "content": content, **thoughts}


def with_texts(messages):
    """Messages whose calls have their arguments as JSON texts, as OpenAI's API writes them."""
    found = []
    for m in messages:
        calls = []
        for call in m.get("tool_calls") or []:
            function = call.get("function", {})
            if isinstance(function.get("arguments"), dict):
                arguments = json.dumps(function["arguments"], ensure_ascii=False)
                call = {**call, "function": {**function, "arguments": arguments}}
            calls.append(call)
        found.append({**m, "tool_calls": calls} if calls else m)
    return found


def rendered(template, messages, variables):
    """The text of a template in Jinja; ValueError if it fails.

    DeepSeek V3's, written for transformers 4, asks whether the content of a call is null. In
    transformers 5 null is as good as nothing, and the template fails. So where it fails by a
    missing value, the nulls are handed over. Nor does it know arguments of calls that are objects,
    as Llama 3.1's demands them: where it fails by a type, they are handed over as texts.
    """
    kept = False
    while True:
        given = prepared(messages, kept)
        try:
            return jinja.run_template(template, {**variables, "messages": given})
        except jinja.Failed as e:
            if e.kind == "UndefinedError" and given != prepared(messages, kept=True):
                kept = True
            elif e.kind == "TypeError" and messages != with_texts(messages):
                messages = with_texts(messages)
            else:
                raise


# ---------------------------------------------------------------------------- written out in Python
#
# A template is known if its tags are those of one of these. White space that is not rendered makes
# no difference, nor do the kind of quotation marks, and message.role for message['role']. Nothing
# but such white space may stand between the tags.

ASKED = "{% if add_generation_prompt %}"
CHATML = (
    "{% for message in messages %}SYSTEM"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}" + ASKED + "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# What a conversation without a message of the system begins with, in some. Its text may be any.
CHATML_SYSTEM = (
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n<|im_end|>\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}" + ASKED + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# What --chat-format may name, with the special tokens of the format.
WRITTEN_OUT = {
    "chatml": (CHATML.replace("SYSTEM", ""), {"eos_token": "<|im_end|>"}),
    "llama3": (LLAMA3, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}),
}
# Without effect here: the variable is always defined.
DEFINED = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
    "{% endif %}"
)
NAME = re.compile(r"<\|\w+\|>")          # of a special token
LONGEST_KNOWN = 2000            # characters; a long text of "{%" would take long to read
TAG = re.compile(r"(\{%.*?%\}|\{\{.*?\}\})", re.S)
TOKEN = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^\s'"]+|['"]""", re.S)    # no space
SYSTEM = re.compile(r"(?<='<\|im_start\|>system\\n)(?:[^'\\]|\\n)*(?=<\|im_end\|>\\n'\}\})")


def is_unseen(text, before, behind):
    """Whether nothing is rendered of a text between two tags.

    White space beside a - is not, nor are a line feed behind a block and the spaces before one.
    """
    if not text or text.isspace() and (before[-3:-2] == "-" or behind[2:3] == "-"):
        return True
    ends = before.endswith("%}") and (behind.startswith("{%") or not behind)
    return bool(ends and re.fullmatch(r"\n[ \t]*", text))


def spelled(tag):
    """A tag in one spelling: {{- "a" + message.role }} as {{'a'+message['role']}}."""
    tag = re.sub(r"^(\{.)-|-(.\})$", r"\1\2", tag)
    found = []
    for token in TOKEN.findall(tag):
        if token[0] not in "'\"":
            token = re.sub(r"\.(role|content)\b", r"['\1']", token)
        elif "'" not in token[1:-1]:
            token = "'" + token[1:-1].replace("\n", "\\n") + "'"
        found.append(token)
    return "".join(found)


def canonical(template):
    """The tags of a template in one spelling; "" if anything is rendered between them."""
    texts, tags = TAG.split(template)[::2], TAG.split(template)[1::2]
    for text, before, behind in zip(texts, ["", *tags], [*tags, ""]):
        if not is_unseen(text, before, behind):
            return ""
    return "".join(map(spelled, tags))


@functools.lru_cache(16)
def plain_writer(template):
    """The function that writes what a template does, from messages and variables, or None."""
    if len(template) > LONGEST_KNOWN:
        return None
    tags = canonical(template).removeprefix(canonical(DEFINED))
    if tags == canonical(LLAMA3):
        return llama3
    system = SYSTEM.search(tags)
    if tags == canonical(CHATML.replace("SYSTEM", "")):
        return chatml
    if SYSTEM.sub("", tags) == canonical(CHATML.replace("SYSTEM", CHATML_SYSTEM)):
        return functools.partial(chatml, system=system[0].replace("\\n", "\n"))
    return None


def text_in(message, key, default=None):
    """A text in a message; ValueError if it has none."""
    text = message.get(key, default)
    if not isinstance(text, str):
        raise ValueError(f"needs a text as the {key} of a message, got {str(message)[:60]!r}")
    return text


def chatml(messages, variables, system=None):
    """A conversation in ChatML. system: what it begins with if it has no message of the system."""
    parts = []
    if system is not None and messages[0].get("role") != "system":
        parts.append(f"<|im_start|>system\n{system}<|im_end|>\n")
    for m in messages:
        parts.append(f"<|im_start|>{text_in(m, 'role')}\n{text_in(m, 'content')}<|im_end|>\n")
    if variables["add_generation_prompt"]:
        parts.append("<|im_start|>assistant\n")
    return "".join(parts)


def llama3(messages, variables):
    """A conversation in Llama 3's format. A message without content counts as an empty one."""
    parts = [text_in(variables, "bos_token")]
    for m in messages:
        text = text_in(m, "content", "").strip()
        parts.append(f"<|start_header_id|>{text_in(m, 'role')}<|end_header_id|>\n\n")
        parts.append(f"{text}<|eot_id|>")
    if variables["add_generation_prompt"]:
        parts.append("<|start_header_id|>assistant<|end_header_id|>\n\n")
    return "".join(parts)


# ----------------------------------------------------------------------------------------- folders

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def json_beside(folder, name):
    """The object in a JSON file of a folder; {} without that file."""
    path = Path(folder) / name
    return disk.read_json(path) if path.exists() else {}


def templates_of(folder):
    """(the file, {name: template}) of a folder.

    Files of their own come before what stands in tokenizer_config.json: a template, or a list of
    named ones.
    """
    folder = Path(folder)
    path, found = folder / "chat_template.jinja", {}
    if path.exists():
        found["default"] = "".join(disk.read_lines(path))
    for more in sorted(folder.glob("additional_chat_templates/*.jinja")):
        found[more.stem] = "".join(disk.read_lines(more))
    if found:
        return path, found
    path = folder / "tokenizer_config.json"
    given = json_beside(folder, path.name).get("chat_template")
    if not given:
        return path, {}
    if isinstance(given, str):
        return path, {"default": given}
    try:
        found = {str(one["name"]): one["template"] for one in given}
    except (TypeError, KeyError):
        found = {"default": None}
    if not all(isinstance(template, str) for template in found.values()):
        raise ValueError(f"{path}: chat_template is {str(given)[:60]!r}, expected a text or a list "
                         f"of named ones")
    return path, found


def special_names(folder):
    """{"bos_token": its name, ...}: the special tokens that a template may name."""
    config = json_beside(folder, "tokenizer_config.json")
    if "added_tokens_decoder" not in config:        # as older folders are
        config = config | json_beside(folder, "special_tokens_map.json")
    found = {}
    for key in NAMED:
        token = config.get(key)
        name = token.get("content") if isinstance(token, dict) else token
        if isinstance(name, str):
            found[key] = name
    return found


def end_tokens(folder, tokenizer):
    """The tokens that end a text or a reply: all that any file of the folder names.

    eos_token_id is a number or a list. Llama 3.1's is [128001, 128008, 128009], the ends of a text,
    of a call and of a message.
    """
    found = {tokenizer.special_tokens.get(special_names(folder).get("eos_token"))} - {None}
    for name in ("generation_config.json", "config.json"):
        given = json_beside(folder, name).get("eos_token_id")
        several = given if isinstance(given, list) else [given]
        if not all(type(i) is int or i is None for i in several):
            raise ValueError(f"{Path(folder) / name}: eos_token_id is {str(given)[:60]!r}, "
                             f"expected the number of a token or a list of such")
        found |= {i for i in several if i is not None}
    return found


def load(folder, tokenizer, chosen=None):
    """The format of the chats of a model: Own or Template.

    It is ours if the vocabulary has all tokens of our chats, whatever template lies beside it.
    chosen: "chatml", "llama3", or the folder of a model of the same tokenizer, for the template of
    that. ValueError for a file that is not as expected.
    """
    if huggingface.is_for_chats(tokenizer.special_tokens):
        if chosen:
            raise ValueError(f"--chat-format {chosen}: {folder} has the tokens of our own format")
        return Own(tokenizer)
    folder = Path(folder)
    names, ends = special_names(folder), end_tokens(folder, tokenizer)
    if not chosen:
        path, templates = templates_of(folder)
        return Template(path, templates, names, tokenizer, ends, folder)
    path, templates, others, needed = chosen_template(chosen)
    for name in needed:
        if name not in tokenizer.special_tokens:
            raise ValueError(f"--chat-format {chosen}: the tokenizer of {folder} has no token "
                             f"{name}, which this format needs")
    ends.add(tokenizer.special_tokens[others["eos_token"]])
    return Template(path, templates, names | others, tokenizer, ends, folder)


def chosen_template(chosen):
    """What --chat-format names: (file, {name: template}, special_names, tokens that it needs)."""
    if chosen in WRITTEN_OUT:
        template, names = WRITTEN_OUT[chosen]
        needed = {*NAME.findall(template), *names.values()}
        return f"--chat-format {chosen}", {"default": template}, names, sorted(needed)
    path, templates = templates_of(chosen)
    names = special_names(chosen)
    if "default" not in templates or "eos_token" not in names:
        raise ValueError(f"--chat-format {chosen}: no folder with a chat template and an eos_token;"
                         f" name one, or {' or '.join(WRITTEN_OUT)}")
    return path, templates, names, [names["eos_token"]]


def open_model(folder, writable=False, dtype="float32", chosen=None):
    """sample.load_model, with the format of the model's chats at its tokenizer, for of()."""
    params, cfg, tokenizer = sample.load_model(folder, writable, dtype)
    tokenizer.chats = load(folder, tokenizer, chosen)
    return params, cfg, tokenizer


def of(tokenizer):
    """The format of the chats of a model, by its tokenizer: ours unless open_model says otherwise.
    """
    return tokenizer.chats or Own(tokenizer)
