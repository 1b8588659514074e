"""sample.py: make the model talk. Completion, chat, and the calculator it may use.

Three things live here because training, evaluation and talking must agree on them to the token: how a
conversation becomes ids (and which of them are learned from), how the next token is drawn, and what
happens when the model calls a tool.

Left out: more tools than one.

    python sample.py "Once, on a foggy evening,"         the base model dreams on
    python sample.py chat                                talk to the assistant; --ask TEXT for one question, /help for commands
    python sample.py serve                               over HTTP (chat/serve.py)
    python sample.py export --gguf longhand.gguf         for llama.cpp and LM Studio (chat/export.py)

Sources: OpenAI's ChatML; Holtzman et al. 2020 (top-p); Cobbe et al. 2021 (a calculator inside the answer).
"""

import argparse
import ast
import codecs
import decimal
import functools
import itertools
import json
import math
import operator
import re
import sys
import time
from collections import namedtuple
from dataclasses import dataclass, replace
from pathlib import Path

from model import fast  # before numpy
import gpt
import bpe
from run import command, disk
from model import device
import numpy as np

# ------------------------------------------------------------------------------------------ the chat format
#
# <|im_start|>user<|im_sep|>What is 3*7?<|im_end|><|im_start|>assistant<|im_sep|>
#     <|tool_start|>3*7<|tool_end|><|output_start|>21<|output_end|>It is 21.<|im_end|>
#
# Learned from: what the assistant writes, its tool calls and its <|im_end|>. Not: what users and tools write.

ROLES = ("system", "user", "assistant")
PART_TOKENS = {"tool": ("<|tool_start|>", "<|tool_end|>"), "output": ("<|output_start|>", "<|output_end|>")}
PARTS = ("text", *PART_TOKENS)

# What in_turns changes, by the names under which it is counted.
EMPTY = "empty message"
GREETING = "reply before any question"
JOINED = "messages joined to the one before of the same role"
MOVED = "system message moved to the beginning"
PARTLY = "a reply of which only a part is to be learned"        # why it does not mend some


class Unusable(ValueError):
    """Messages that cannot be used. `reason` is a short name to count; the text has the value."""

    def __init__(self, reason, detail=""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def checked_content(i, role, content):
    """The content of message i: a text, or parts where a tool was called. None is the empty text.

    Unusable: what the chat format has no place for, as an image.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    whose = f"message {i} of the {role}"
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        detail = f"{whose} has the content {repr(content)[:40]}, expected a text or a list of parts"
        raise Unusable("content that is no text", detail)
    for part in content:
        if part.get("type") not in PARTS or not isinstance(part.get("text"), str):
            types = ", ".join(PARTS)
            detail = f"{repr(part)[:60]} in {whose}, expected the type {types} and a text"
            raise Unusable(f"unknown part {repr(part.get('type'))[:30]}", detail)
    if all(part["type"] == "text" for part in content):
        return "".join(part["text"] for part in content)
    if role != "assistant":
        detail = f"{whose} has parts of a tool, which only the assistant can call"
        raise Unusable(f"a call of the {role}", detail)
    return content


def is_empty(content):
    """Whether a message says nothing: no text, or nothing but white space."""
    if isinstance(content, str):
        return not content.strip()
    return not any(part["text"].strip() for part in content)


def joined(contents):
    """Contents of one role as one content, a blank line between each two."""
    if all(isinstance(content, str) for content in contents):
        return "\n\n".join(contents)
    parts = []
    for content in contents:
        parts += [{"type": "text", "text": "\n\n"}] if parts else []
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    out = []
    for kind, same in itertools.groupby(parts, key=operator.itemgetter("type")):
        if kind == "text":                      # one text, or its tokens differ
            out.append({"type": "text", "text": "".join(part["text"] for part in same)})
        else:
            out += same
    return out


def in_turns(messages):
    """Any list of messages, in the order that check_messages demands -> (messages, mended).

    - What the system and the developer say comes first, as one message, wherever it stood.
    - Neighbours of one role become one message, with a blank line between them.
    - A message without a text goes; null is the empty text.
    - What the assistant says before anybody asked, a greeting, goes: no model learns to read it.

    A message of the assistant may have a "weight", 0 for one that is not to be learned.
    mended: the name of each change, EMPTY, GREETING, JOINED or MOVED, as often as it was made.
    The result is [] where nobody says anything. Unusable: a role or a content that the format has
    no place for.
    """
    if not isinstance(messages, list):
        detail = f"expected a list of messages, got {repr(messages)[:60]}"
        raise Unusable("no list of messages", detail)
    system, turns, mended = [], [], []          # texts; (role, weight, contents)
    for i, m in enumerate(messages):
        role = m.get("role") if isinstance(m, dict) else m
        role = "system" if role == "developer" else role
        if not isinstance(role, str) or role not in ROLES:
            detail = f"message {i} has role {repr(role)[:60]}, expected one of {', '.join(ROLES)}"
            raise Unusable(f"unknown role {repr(role)[:30]}", detail)
        content = m.get("content")
        if content is None:                     # OpenAI's API puts a refusal in a field of its own
            content = m.get("refusal")
        if not isinstance(content, str):
            content = checked_content(i, role, content)
        weight = m.get("weight", 1) if role == "assistant" else 1
        if is_empty(content):
            mended.append(EMPTY)
        elif role == "system":
            if turns or system:
                mended.append(MOVED if turns else JOINED)
            system.append(content)
        elif not turns and role == "assistant":
            mended.append(GREETING)
        elif turns and turns[-1][0] == role:
            if turns[-1][1] != weight:
                raise Unusable(PARTLY, f"message {i}")
            mended.append(JOINED)
            turns[-1][2].append(content)
        else:
            turns.append((role, weight, [content]))
    out = [{"role": "system", "content": joined(system)}] if system else []
    for role, weight, contents in turns:
        content = contents[0] if len(contents) == 1 else joined(contents)
        out.append({"role": role, "content": content})
        if weight != 1:
            out[-1]["weight"] = weight
    return out, mended


def check_messages(messages, where="conversation"):
    """ValueError unless messages is [system,] user, assistant, user, assistant ... with content in each."""
    if not isinstance(messages, list) or not messages:
        got = str(messages)[:60]
        raise ValueError(f"{where}: expected a list of messages with a text, got {got!r}")
    turn = 0
    for i, m in enumerate(messages):
        if not isinstance(m, dict) or not isinstance(m.get("role"), str) or m["role"] not in ROLES:
            role = m.get("role") if isinstance(m, dict) else m
            raise ValueError(f"{where}: message {i} has role {repr(role)[:60]}, expected one of {', '.join(ROLES)}")
        content = m.get("content")
        if content is None:
            raise ValueError(f"{where}: message {i} of the {m['role']} has the content None, "
                             "expected a text or a list of parts")
        if not isinstance(content, str):
            try:
                checked_content(i, m["role"], content)
            except Unusable as e:
                raise ValueError(f"{where}: {e}") from None
        if m["role"] == "system" and i == 0:
            continue
        if m["role"] != ("user", "assistant")[turn % 2]:
            raise ValueError(f"{where}: message {i} is the {m['role']}'s, expected the {('user', 'assistant')[turn % 2]}'s")
        turn += 1
        if not content:
            raise ValueError(f"{where}: message {i} of the {m['role']} is empty")


def special(tokenizer, name):
    if name not in tokenizer.special_tokens:
        raise ValueError(f"the tokenizer has no token {name}, which conversations need; "
                         "train one that has it with: python bpe.py train")
    return tokenizer.special_tokens[name]


def render(messages, tokenizer, where="conversation"):
    """Conversation -> (ids, mask), lists of equal length; mask 1 on the tokens the assistant is to learn.

    Text is encoded without special tokens, so nobody can forge one by typing its name. An assistant's
    content is a string, or a list of parts {"type": "text" | "tool" | "output", "text": ...}. A
    reply of "weight" 0 is read and not learned.
    """
    check_messages(messages, where)
    ids, mask = [], []

    def add(tokens, learned):
        ids.extend(tokens)
        mask.extend([int(learned)] * len(tokens))

    for m in messages:
        ours = m["role"] == "assistant" and m.get("weight", 1) != 0
        add([special(tokenizer, "<|im_start|>"), *tokenizer.encode_ordinary(m["role"]), special(tokenizer, "<|im_sep|>")], False)
        parts = [{"type": "text", "text": m["content"]}] if isinstance(m["content"], str) else m["content"]
        for part in parts:
            begin, end = PART_TOKENS.get(part["type"], (None, None))
            learned = ours and part["type"] != "output"
            add([special(tokenizer, begin)] if begin else [], learned)
            add(tokenizer.encode_ordinary(part["text"]), learned)
            add([special(tokenizer, end)] if end else [], learned)
        add([special(tokenizer, "<|im_end|>")], ours)
    return ids, mask


def render_prompt(messages, tokenizer):
    """Ids of a conversation up to where the assistant begins to speak; the last message must not be its own."""
    if messages and messages[-1].get("role") == "assistant":
        raise ValueError("the last message is the assistant's already: there is nothing to reply to")
    ids, _ = render(messages, tokenizer)
    return ids + [special(tokenizer, "<|im_start|>"), *tokenizer.encode_ordinary("assistant"), special(tokenizer, "<|im_sep|>")]


# ------------------------------------------------------------------------------------------- the calculator

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
             ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.USub: operator.neg, ast.UAdd: operator.pos}


def calculator(expression):
    """'37*48' -> '1776'; None for anything that is not arithmetic of numbers. Nothing is ever executed:
    the expression's syntax tree is walked and only numbers and + - * / // % ( ) are known."""
    def value(node):
        if isinstance(node, ast.Expression):
            return value(node.body)
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.operand))
        raise ValueError("not arithmetic")

    if len(expression) > 100 or not set(expression) <= set("0123456789.,+-*/%() "):     # 100 also bounds any number's size
        return None
    try:
        x = value(ast.parse(re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", expression).strip(), mode="eval"))       # 1,000: no other comma
    except (ValueError, SyntaxError, ArithmeticError, MemoryError, RecursionError):
        return None
    if isinstance(x, float):
        if not math.isfinite(x):
            return None
        said = str(int(x)) if x.is_integer() and abs(x) < 1e15 else f"{decimal.Decimal(f'{x:.12g}'):f}"      # no exponent: it could not be read again
        return said if len(said) <= 100 else None
    return str(x)


# ------------------------------------------------------------------------------------------------- sampling
#
# From logits to a token, in this order: penalties, bias, temperature, the k likeliest, of these the likeliest that hold a share p, of
# these the ones at least min_p times as likely as the likeliest, and a draw.


@dataclass(frozen=True)
class Settings:
    """How a reply is written. Those of reinforcement learning are the defaults: nothing is cut off and nothing discouraged."""

    max_new_tokens: int = 256
    temperature: float = 1.0            # 0: the likeliest token always, the lowest id of equals
    top_k: int = 0                      # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0     # logits of tokens in prompt or reply: divided if above 0, times it if below
    presence_penalty: float = 0.0       # off the logits of tokens in the reply
    frequency_penalty: float = 0.0      # the same for every time they are in it
    logit_bias: tuple = ()              # ((token, what is added to its logit), ...); twice: the sum
    seed: int = 0
    stop: frozenset = frozenset()       # tokens that end the reply
    tools: bool = True                  # whether the calculator answers
    alternatives: int = -1              # how many to report for each token; -1 reports none, nor the token's own log probability

    @functools.cached_property
    def bias(self):                     # -> (n,) tokens, each once, and (n,) what is added
        total = {}
        for token, bias in self.logit_bias:
            total[token] = total.get(token, 0.0) + bias
        return np.array(list(total), np.int64), np.array(list(total.values()), np.float64)

    def check(self):
        bad = [f"{name} {getattr(self, name)}, expected {what}" for name, ok, what in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"), ("temperature", 0 <= self.temperature < math.inf, "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"), ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"), ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0"),
            ("presence_penalty", math.isfinite(self.presence_penalty), "a number"), ("frequency_penalty", math.isfinite(self.frequency_penalty), "a number"),
            ("logit_bias", all(math.isfinite(b) for _, b in self.logit_bias), "numbers"), ("seed", self.seed >= 0, "0 or more")) if not ok]
        if bad:
            raise ValueError("; ".join(bad))
        return self


def penalise(z, seen, written, settings):
    """(V,) logits -> (V,). seen (V,) bool: the tokens of prompt and reply; written (V,): how often each is in the reply."""
    z = np.where(seen, np.where(z > 0, z / settings.repetition_penalty, z * settings.repetition_penalty), z)
    z -= settings.presence_penalty * (written > 0) + settings.frequency_penalty * written
    tokens, bias = settings.bias
    z[tokens] += bias
    return z


def probabilities(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """(B,V) -> (B,V) float64, what a token is drawn from. Each setting is one for all rows or (B,)."""
    z = logits.astype(np.float64)
    temperature, top_k, top_p, min_p = (np.broadcast_to(np.asarray(x), len(z)) for x in (temperature, top_k, top_p, min_p))
    cold = np.flatnonzero(temperature == 0)
    best = z[cold].argmax(-1)
    z -= z.max(-1, keepdims=True)                           # before the division: a tiny temperature overflows to the right side
    with np.errstate(over="ignore"):
        z /= np.where(temperature == 0, 1.0, temperature)[:, None]
    for k in np.unique(top_k[(top_k > 0) & (top_k < z.shape[1])]):
        rows = np.flatnonzero(top_k == k)
        z[rows] = np.where(z[rows] < np.partition(z[rows], -k, axis=-1)[:, -k, None], -np.inf, z[rows])
    p = np.exp(z, out=z)
    p /= p.sum(-1, keepdims=True)
    rows = np.flatnonzero(top_p < 1.0)
    if len(rows):
        order = np.argsort(-p[rows], axis=-1, kind="stable")
        ranked = np.take_along_axis(p[rows], order, -1)
        ranked[np.cumsum(ranked, -1) - ranked >= top_p[rows, None]] = 0.0           # reached p before this token
        np.put_along_axis(some := p[rows], order, ranked, -1)
        p[rows] = some / some.sum(-1, keepdims=True)
    if (min_p > 0).any():
        p[p < min_p[:, None] * p.max(-1, keepdims=True)] = 0.0
        p /= p.sum(-1, keepdims=True)
    p[cold] = 0.0
    p[cold, best] = 1.0
    return p


def draw(p, u):
    """(B,V) probabilities and (B,) uniform numbers in [0,1) -> (B,) token ids."""
    c = np.cumsum(p, -1)
    return (c <= u[:, None] * c[:, -1:]).sum(-1)


class Row:
    """A reply being written, and what it came to. sampled: 1 where the model chose the token, 0 where a tool wrote it; logp: log of the
    chance it had when it was drawn, 0 a tool's; likely: with alternatives, (log probability, [(token, log probability)]) at temperature 1."""

    def __init__(self, prompt, settings, stream, n_positions):
        self.prompt, self.settings, self.finish = prompt, settings, None        # finish: None, "stop" or "length"
        self.ids, self.sampled, self.logp, self.likely = [], [], [], []
        self.room = min(settings.max_new_tokens, n_positions - len(prompt))
        self.uniform = np.random.default_rng((settings.seed, stream)).random(self.room)
        self.forced, self.call = [], None           # tokens to come from a tool; a call being written
        self.penalised = settings.repetition_penalty != 1 or settings.presence_penalty != 0 or settings.frequency_penalty != 0 or bool(settings.logit_bias)


class Batch:
    """Rows that are written side by side. They come and go one by one, each with settings and random numbers of its own.

    A matrix product of more rows rounds its sums otherwise, so the last bits of a row's probabilities depend on the rows
    beside it; two tokens that are as likely to the last bits can change places. The cache has a place for each of most
    rows. A place keeps what it held when its row has gone, and a prompt that begins with that (the next turn of a
    conversation) is only read from where it goes on.
    """

    def __init__(self, params, cfg, tokenizer, most, n_positions=None, engine=fast):
        self.engine, self.params, self.cfg, self.tokenizer, self.most = engine, params, cfg, tokenizer, most
        self.cache = engine.Cache(cfg, most, n_positions or cfg.n_positions, like=params["wte.weight"])
        self.held = [[] for _ in range(most)]       # the tokens whose keys and values are in each place
        self.rows, self.done = [], []               # the rows in the first places, and which of them are finished
        self.logits, self.chosen, self.active, self.how = None, np.zeros(0, np.int64), None, None
        self.tool_start, self.tool_end, self.output_start, self.output_end = (
            tokenizer.special_tokens.get(t) for t in ("<|tool_start|>", "<|tool_end|>", "<|output_start|>", "<|output_end|>"))

    def __len__(self):
        return len(self.rows) - sum(self.done)

    def add(self, prompts, settings, streams=None):
        """Begin a row for each prompt, a list of ids; settings are one for all or one for each. streams: which stream of its seed each
        draws from (default: their numbers here). Returns the rows."""
        if not all(prompts):
            raise ValueError("an empty prompt: the model needs at least one token to go on from")
        longest = max(map(len, prompts))
        if longest >= self.cfg.n_positions:
            raise ValueError(f"a prompt of {longest} tokens does not fit the model's context of {self.cfg.n_positions} with room for a reply; shorten it")
        settings = [settings] * len(prompts) if isinstance(settings, Settings) else list(settings)
        for each in {id(s): s for s in settings}.values():  # rows of one request share theirs
            each.check()
        self._leave()
        if len(self.rows) + len(prompts) > self.most:
            raise ValueError(f"{len(prompts)} more rows, and {self.most - len(self.rows)} of {self.most} places are free")
        rows = [Row(p, s, r, self.cfg.n_positions) for p, s, r in zip(prompts, settings, streams or range(len(prompts)))]
        # A prompt that comes many times is read once.
        number, first = {}, []
        for row in rows:
            number.setdefault(tuple(row.prompt), len(number))
            if len(number) > len(first):
                first.append(row)
        at = len(self.rows)
        new, common = range(at, at + len(first)), []
        for place, row in zip(new, first):
            self._swap(place, max(range(place, self.most), key=lambda i: _common(self.held[i], row.prompt)))
            common.append(min(_common(self.held[place], row.prompt), len(row.prompt) - 1))
        rest = [row.prompt[n:] for row, n in zip(first, common)]
        tokens, n_new = np.zeros((len(first), max(map(len, rest))), np.int64), np.array([len(r) for r in rest])
        for r, ids in enumerate(rest):
            tokens[r, :len(ids)] = ids
        for place, n in zip(new, common):                   # what comes behind is overwritten
            self.held[place] = self.held[place][:n]
        part = self.cache.rows(slice(at, at + len(first)))
        part.length[:] = common
        logits = self.engine.decode(self.params, self.cfg, tokens, part, n_new, only_last=True)
        read = {id(row) for row in first}
        copied = [row for row in rows if id(row) not in read]
        if copied:
            to, source = np.arange(new.stop, new.stop + len(copied)), np.array([number[tuple(row.prompt)] for row in copied])
            used = int(part.length.max())
            for a in (self.cache.k, self.cache.v):
                a[:, new.stop:new.stop + len(copied), :, :used] = a[:, (at + source).tolist(), :, :used]
            self.cache.length[to] = self.cache.length[at + source]
            logits = np.concatenate([logits, logits[source]])
        for place, row in enumerate([*first, *copied], at):
            self.held[place] = list(row.prompt)
        self.logits = logits if not self.rows else np.concatenate([self.logits, logits])
        self.chosen = np.concatenate([self.chosen[:at], np.zeros(len(rows), np.int64)])
        self.rows, self.done = self.rows + first + copied, self.done + [False] * len(rows)
        self._changed()
        return rows

    def _swap(self, a, b):
        if a != b:
            used = int(self.cache.length[[a, b]].max())
            for x in (self.cache.k, self.cache.v):
                x[:, [a, b], :, :used] = x[:, [b, a], :, :used]
            self.cache.length[[a, b]] = self.cache.length[[b, a]]
            self.held[a], self.held[b] = self.held[b], self.held[a]

    def _changed(self):
        self.active = self.cache.rows(slice(0, len(self.rows)))
        self.how = [np.array([getattr(row.settings, name) for row in self.rows]) for name in ("temperature", "top_k", "top_p", "min_p")]

    def drop(self, row):
        """End a row before its time."""
        self.done[next(i for i, other in enumerate(self.rows) if other is row)] = True

    def _leave(self):
        """Finished rows give up their places to the last ones."""
        if not any(self.done):
            return
        kept = np.arange(len(self.rows))
        for i in np.flatnonzero(self.done)[::-1]:
            row, last = self.rows[i], len(self.rows) - 1
            self.held[i] = (row.prompt + row.ids)[:-1]              # the last token was never read
            self._swap(int(i), last)
            self.rows[i], kept[i], kept = self.rows[last], kept[last], kept[:last]
            self.rows.pop()
        self.logits, self.chosen, self.done = self.logits[kept], self.chosen[kept], [False] * len(kept)
        self._changed()

    def step(self):
        """Write one token of every row. Returns [(row, token, sampled, log probability)]; what a row is now is in it. Then read()."""
        z = self.logits
        z[:, self.tokenizer.holes] = -np.inf            # ids that no token has
        z = z[:, :self.tokenizer.n_vocab]
        plain = z
        for i, row in enumerate(self.rows):
            if row.penalised and not self.done[i]:
                plain = z.copy() if plain is z else plain
                seen, written = np.zeros(z.shape[1], bool), np.bincount(np.array(row.ids, np.int64), minlength=z.shape[1])
                seen[row.prompt] = True
                plain[i] = penalise(z[i].astype(np.float64), seen | (written > 0), written, row.settings)
        p = probabilities(plain, *self.how)
        u = np.array([row.uniform[min(len(row.ids), row.room - 1)] for row in self.rows])
        self.chosen = draw(p, u)
        logp, events = np.log(p[np.arange(len(p)), self.chosen]).tolist(), []
        for i, row in enumerate(self.rows):
            if self.done[i]:
                continue
            sampled = not row.forced
            token = int(self.chosen[i]) if sampled else row.forced.pop(0)
            self.chosen[i] = token
            if row.settings.alternatives >= 0:
                row.likely.append(likely(z[i], token, row.settings.alternatives))
            row.ids.append(token)
            row.sampled.append(int(sampled))
            row.logp.append(logp[i] if sampled else 0.0)
            if row.settings.tools and sampled:
                self._call(row, token)
            elif row.call is not None:
                row.call.append(token)
            row.finish = "stop" if token in row.settings.stop else "length" if len(row.ids) == row.room else None
            self.done[i] = row.finish is not None
            events.append((row, token, sampled, row.logp[-1]))
        return events

    def _call(self, row, token):
        """When a row writes <|tool_end|>, the calculator's answer is put into its mouth."""
        if token == self.tool_start:
            row.call = []
        elif token == self.tool_end and row.call is not None:
            result = calculator(self.tokenizer.decode(row.call))
            if result is not None:
                row.forced = [self.output_start, *self.tokenizer.encode_ordinary(result), self.output_end]
            row.call = None
        elif row.call is not None:
            row.call.append(token)

    def read(self):
        """Give the model the tokens that step wrote. Finished rows leave once they are an eighth of all, or have no place in the cache."""
        if 8 * sum(self.done) >= len(self.rows) or any(done and n + 2 > self.cache.k.shape[3] for done, n in zip(self.done, self.active.length)):
            self._leave()
        if self.rows:
            self.logits = self.engine.decode(self.params, self.cfg, self.chosen[:, None], self.active, only_last=True)


def _common(a, b):
    """How many tokens two lists begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def likely(z, token, n):
    """(log probability of the token, [(token, log probability)] of the n likeliest) at temperature 1, from its logits (V,)."""
    z = z.astype(np.float64)
    logp = z - z.max()
    logp -= np.log(np.exp(logp).sum())
    best = np.argsort(-logp, kind="stable")[:n]
    return float(logp[token]), [(int(i), float(logp[i])) for i in best]


Reply = namedtuple("Reply", "ids sampled finish logp prompt", defaults=((), ()))     # as in Row


def generate(params, cfg, tokenizer, prompts, engine=fast, **settings):
    """[Reply] for a list of prompts, with settings as in Settings."""
    settings = Settings(**settings)
    batch = Batch(params, cfg, tokenizer, len(prompts), min(cfg.n_positions, max(map(len, prompts), default=0) + settings.max_new_tokens), engine)
    rows = batch.add(prompts, settings)
    while True:
        batch.step()
        if not len(batch):
            return [Reply(row.ids, row.sampled, row.finish, row.logp, row.prompt) for row in rows]
        batch.read()


class Parts:
    """A reply in the parts that render takes back, as its tokens come.

    Parts are texts, calls of the calculator and its answers. put and end return what the reply has
    grown by: {"index": number of the part, "type", "text": what to append to it}, or None.
    """

    def __init__(self, tokenizer):
        self.tokenizer, self.index, self.kind = tokenizer, 0, "text"
        self.begun = {}                                     # by the name of a token: which part it begins
        for kind, (begin, end) in PART_TOKENS.items():
            self.begun |= {begin: kind, end: "text"}
        self.names = {v: k for k, v in tokenizer.special_tokens.items()}
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def put(self, token):
        name = self.names.get(token)
        if name is None:
            return self._grown(self.decoder.decode(self.tokenizer.token_bytes[token]))
        if name not in self.begun:
            return None
        grown = self.end()
        self.index, self.kind = self.index + 1, self.begun[name]
        return grown

    def end(self):
        return self._grown(self.decoder.decode(b"", True))

    def _grown(self, text):
        return {"index": self.index, "type": self.kind, "text": text} if text else None


def gathered(pieces):
    """What Parts has grown by, piece by piece -> one for each part, with all of its text."""
    parts = {}
    for piece in filter(None, pieces):
        part = parts.setdefault(piece["index"], {**piece, "text": ""})
        part["text"] += piece["text"]
    return list(parts.values())


def reply_parts(ids, tokenizer):
    """A reply as render takes it back: a text, or parts where a tool was called."""
    growing = Parts(tokenizer)
    pieces = gathered([*map(growing.put, ids), growing.end()])
    parts = [{"type": piece["type"], "text": piece["text"]} for piece in pieces]
    return parts if any(part["type"] != "text" for part in parts) else "".join(part["text"] for part in parts)


def reply_text(ids, tokenizer):
    """What the assistant says to the user: tool calls and their outputs are left out, special tokens too."""
    parts = reply_parts(ids, tokenizer)
    return parts if isinstance(parts, str) else "".join(part["text"] for part in parts if part["type"] == "text")


# ------------------------------------------------------------------------------------------------- terminal


def borders(text):
    """For each prefix of a text, the length of its longest border, a shorter beginning that is also its end.

    borders("abab") -> [0, 0, 1, 2]. Source: Knuth, Morris and Pratt 1977.
    """
    lengths, k = [0], 0
    for c in text[1:]:
        while k and text[k] != c:
            k = lengths[k - 1]
        k += text[k] == c
        lengths.append(k)
    return lengths


class Text:
    """The tokens of a reply as text to show, as they come: whole characters only, no special tokens, and none of a stop string, where
    it ends, however tokens cut it. Calls of the calculator are left out, or with calls shown in brackets.

    Stop strings are found by Knuth, Morris and Pratt: time is proportional to the text, however long
    they are."""

    SHOWN = {"<|tool_start|>": "[", "<|tool_end|>": "", "<|output_start|>": " = ", "<|output_end|>": "] "}

    def __init__(self, tokenizer, stop=(), calls=False):
        self.tokenizer, self.calls = tokenizer, calls
        self.stopped, self.hidden, self.held = False, False, ""
        self.length = 0                                     # characters so far, held ones too
        self.stop = [(t, borders(t)) for t in stop if t]
        self.matched = [0] * len(self.stop)                 # characters of each that the text ends with
        self.names = {v: k for k, v in tokenizer.special_tokens.items()}
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def put(self, token):
        """The text that is sure to be shown now."""
        name = self.names.get(token)
        if name is None:
            return self._show("" if self.hidden else self.decoder.decode(self.tokenizer.token_bytes[token]))
        self.hidden = not self.calls and (name in ("<|tool_start|>", "<|output_start|>") or self.hidden and name not in ("<|tool_end|>", "<|output_end|>"))
        return self._show(self.decoder.decode(b"", True) + self.SHOWN.get(name, "") * self.calls)

    def end(self):
        """What was held back."""
        return "" if self.stopped else self._show(self.decoder.decode(b"", True)) + ("" if self.stopped else self.held)

    def _show(self, text):
        self.length += len(text)
        if self.stopped:
            return ""
        if not self.stop:
            return text
        for n, c in enumerate(text, 1):
            complete = self._match(c)
            if complete:                                    # of two that end here, the one that began first
                self.stopped, shown, self.held = True, self.held + text[:n], ""
                return shown[:len(shown) - complete]
        self.held += text
        sure = len(self.held) - max(self.matched)           # a stop string could begin behind that
        text, self.held = self.held[:sure], self.held[sure:]
        return text

    def _match(self, c):
        """Take one more character; returns the length of the longest stop string that ends here, or 0."""
        complete = 0
        for i, (stop, border) in enumerate(self.stop):
            k = self.matched[i]
            while k and stop[k] != c:
                k = border[k - 1]
            self.matched[i] = k = k + (stop[k] == c)
            if k == len(stop):
                complete = max(complete, k)
        return complete


def load_model(folder, writable=False):
    """(params, cfg, tokenizer) of a model folder, of our runs or GPT-2's own; to be trained further only if writable."""
    params, cfg = gpt.load(folder, writable)
    found = [path for path in (Path(folder) / "tokenizer.json", Path(folder) / "vocab.json") if path.exists()]
    if not found:
        raise FileNotFoundError(f"{Path(folder) / 'tokenizer.json'}: no tokenizer beside the model; copy the one it was trained with")
    tokenizer = bpe.Tokenizer.load(found[0])
    if tokenizer.n_vocab > cfg.vocab_size:
        raise ValueError(f"{found[0]}: {tokenizer.n_vocab} tokens, the model beside it knows {cfg.vocab_size}")
    return params, cfg, tokenizer


def document_begin(tokenizer):
    """[the token that stands before each document, and so begins a text and ends it], or [] where the vocabulary has none."""
    return [tokenizer.special_tokens[t] for t in ("<|endoftext|>",) if t in tokenizer.special_tokens]


def models_in(run):
    """The folders of a run's language models, by name; a reward model is none.

    ValueError for a config.json that is broken."""
    return [p.parent for p in sorted(Path(run).glob("*/model.safetensors")) if not is_judge(p.parent)]


def is_judge(folder):
    path = Path(folder) / "config.json"
    return path.exists() and "GPT2ForSequenceClassification" in disk.read_json(path).get("architectures", ())


def settings_of(args, stop):
    return Settings(args.max_tokens, args.temperature, args.top_k, args.top_p, args.min_p, args.repetition_penalty, args.presence_penalty,
                    args.frequency_penalty, seed=args.seed, stop=frozenset(stop)).check()


def say(batch, prompt, settings, stop):
    """Stream one reply to the terminal; returns its ids. Ctrl-C ends the reply where it is."""
    text, started = Text(batch.tokenizer, stop, calls=True), time.perf_counter()
    row = None
    try:
        (row,) = batch.add([prompt], settings)
        while not row.finish and not text.stopped:
            for _, token, *_ in batch.step():
                print(text.put(token), end="", flush=True)
            if not row.finish:
                batch.read()
    except KeyboardInterrupt:
        if row is None:                                     # the prompt was being read
            print(flush=True)
            return []
    if not row.finish:
        batch.drop(row)
    print(text.end(), flush=True)
    if sys.stderr.isatty():
        print(f"[{len(row.ids)} tokens, {len(row.ids) / (time.perf_counter() - started):,.0f} a second]", file=sys.stderr)
    return row.ids


def complete(model, args):
    tokenizer = model[2]
    between = document_begin(tokenizer)
    batch, settings = Batch(*model, 1, engine=device if args.device == "cuda" else fast), settings_of(args, between)
    for i in range(args.n):
        print(args.prompt, end="")
        say(batch, [*between, *tokenizer.encode_ordinary(args.prompt)], replace(settings, seed=args.seed + i), args.stop)


COMMANDS = {"/system": "TEXT  begin anew, with a system message", "/temperature": "X  0 is without chance", "/retry": "another reply to the last question",
            "/save": "FILE  add the conversation to a file of chats, as align.py learns from", "/help": "this list"}


class Conversation:
    """Turns kept as ids, so that the cache need only read what is new. When they outgrow the context the oldest are forgotten, and that is
    said."""

    def __init__(self, model, args):
        engine = device if args.device == "cuda" else fast
        self.batch, self.cfg, self.tokenizer, self.args = Batch(*model, 1, engine=engine), *model[1:], args
        self.end, self.asked = special(self.tokenizer, "<|im_end|>"), 0
        self.settings = settings_of(args, [self.end])
        self.begin(args.system)

    def begin(self, system):
        self.messages, self.turns = [{"role": "system", "content": system}] if system else [], []
        self.head = render(self.messages, self.tokenizer)[0] if system else []

    def ask(self, question):
        """Print the reply to a question; ValueError where it does not fit."""
        turn = render_prompt([{"role": "user", "content": question}], self.tokenizer)
        if len(self.head) + len(turn) >= self.cfg.n_positions:
            system = f" after a system message of {len(self.head)}" if self.head else ""
            raise ValueError(f"a question of {len(turn)} tokens{system} does not fit the model's context of {self.cfg.n_positions} with room for a reply; ask something shorter")
        self.turns.append(turn)
        while len(self.head) + sum(map(len, self.turns)) + 32 > self.cfg.n_positions and len(self.turns) > 1:
            self.turns.pop(0)
            print(f"[the context of {self.cfg.n_positions} tokens is full: the oldest turn is forgotten]", file=sys.stderr)
        print("longhand> ", end="", flush=True)
        ids = say(self.batch, self.head + sum(self.turns, []), replace(self.settings, seed=self.args.seed + self.asked), self.args.stop)
        self.asked += 1
        if not ids:                                         # it was stopped before it began
            self.turns.pop()
            return
        self.turns[-1] = turn + ids + ([] if ids[-1] == self.end else [self.end])
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply_parts(ids, self.tokenizer) or " "}]

    def command(self, line):
        name, _, value = line.partition(" ")
        if name == "/system":
            self.begin(value.strip())
        elif name == "/temperature":
            try:
                self.settings = replace(self.settings, temperature=float(value)).check()
            except ValueError:
                raise ValueError(f"/temperature {value}: expected a number, 0 or more") from None
        elif name == "/retry":
            if not self.turns:
                raise ValueError("/retry: nothing has been asked yet")
            self.turns.pop()
            (question, _), self.messages = self.messages[-2:], self.messages[:-2]
            self.ask(question["content"])
        elif name == "/save":
            if not value.strip() or not self.turns:
                raise ValueError("/save FILE: a file to add to, and a conversation to save")
            with open(value.strip(), "a", encoding="utf-8") as f:
                f.write(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
        else:
            print("\n".join(f"{name} {what}" for name, what in COMMANDS.items()), file=sys.stderr)


def chat(model, args):
    """Questions from --ask, or from the terminal until it ends."""
    talk, asked = Conversation(model, args), iter(args.ask or ())
    at_terminal = not args.ask and sys.stdin is not None and sys.stdin.isatty()
    if not args.ask and sys.stdin is None:
        raise ValueError("standard input is closed; ask with --ask TEXT")
    if not args.ask and hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="backslashreplace")    # a byte that is no text becomes \xff
    while True:
        try:
            line = next(asked) if args.ask else input("you> " if at_terminal else "").strip()
        except (StopIteration, EOFError, KeyboardInterrupt):
            return
        if line and not at_terminal:
            print(f"you> {line}")
        try:
            if line.startswith("/") and not args.ask:
                talk.command(line)
            elif line:
                talk.ask(line)
        except (ValueError, OSError) as e:
            if args.ask or isinstance(e, BrokenPipeError):
                raise
            print(f"[{e}]", file=sys.stderr)


# Options that only some commands have; the others refuse them.
DRAWING = (
    "temperature", "top_k", "top_p", "seed", "max_tokens", "min_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "stop",
)
OPTIONS = {
    "completion": ("n", *DRAWING, "device", "dtype"),
    "chat": ("ask", "system", *DRAWING, "device", "dtype"),
    "serve": ("host", "port", "key", "origin", "allow_host", "ranks", "device", "dtype"),
    "export": ("gguf", "type"),
}


COMMAND_LINES = {
    "completion": "TEXT", "chat": "chat", "serve": "serve", "export": "export --gguf FILE",
}


def check_options(mode, given):
    """ValueError for an option that this mode would ignore, or one that an unset variable left empty.

    given: {name: value}, None for an option that was not given.
    """
    given = {name: value for name, value in given.items() if name != "prompt" and value is not None}
    for name, value in given.items():
        option = "-n" if name == "n" else f"--{name.replace('_', '-')}"
        owners = [other for other, names in OPTIONS.items() if name in names]
        if owners and mode not in owners:
            lines = " and ".join(f"python sample.py {COMMAND_LINES[other]}" for other in owners)
            raise ValueError(f"{option}: no option of {mode}; it belongs to {lines}")
        texts = value if isinstance(value, list) else [value]
        for text in texts:
            if isinstance(text, str) and not (text if name == "stop" else text.strip()):
                raise ValueError(f"{option} is empty; leave it out, or give it a value")
    if "run" in given and "model" in given:
        raise ValueError(f"--run {given['run']}: --model {given['model']} stands in place of the run's; "
                         "give one of them")


def parse_args(argv=None):
    p = argparse.ArgumentParser(description="Complete a text, or chat.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("prompt", nargs="?", default="", help='the beginning of a text; the word "chat" begins a conversation, "serve" serves the models over HTTP')
    where = p.add_argument_group("which model")
    where.add_argument("--run", default="out/demo", help="run folder: its base for completion, the best assistant in it for chat")
    where.add_argument("--model", help="a model folder, in place of the run's")
    how = p.add_argument_group("how it draws tokens, in this order (completion and chat)")
    how.add_argument("--temperature", type=float, help="0 takes the likeliest token always (default: 1, in chat 0)")
    how.add_argument("--top-k", type=int, default=0, help="only the k likeliest tokens; 0 is all")
    how.add_argument("--top-p", type=float, default=1.0, help="only the likeliest tokens that make up this share")
    how.add_argument("--seed", type=int, default=0, help="same seed, same text")
    how.add_argument("--max-tokens", type=int, default=200, help="length limit of a reply")
    how.add_argument("-n", type=int, default=1, help="completions to write")
    how.add_argument("--min-p", type=float, default=0.0, help="only tokens at least this times as likely as the likeliest")
    how.add_argument("--repetition-penalty", type=float, default=1.0, help="divides logits above 0 of tokens in prompt or reply, multiplies those below")
    how.add_argument("--presence-penalty", type=float, default=0.0, help="off the logits of tokens in the reply")
    how.add_argument("--frequency-penalty", type=float, default=0.0, help="the same for every time they are in it")
    how.add_argument("--stop", action="append", default=[], help="a text that ends a reply; may be repeated")
    talk = p.add_argument_group("chat")
    talk.add_argument("--ask", action="append", help="ask this and do not wait for input; may be repeated")
    talk.add_argument("--system", help="a system message to begin with")
    serve = p.add_argument_group("serve")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is every one of this machine")
    serve.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one")
    serve.add_argument("--key", help="what clients must send as Authorization: Bearer KEY")
    serve.add_argument("--origin", help="the origin of the web pages that may ask from a browser, such as http://localhost:3000; * for all")
    serve.add_argument("--allow-host", action="append", default=[],
                       help="another name that clients may call this server by; may be repeated")
    serve.add_argument("--ranks", help="the folder of tiktoken's vocabularies, for the page to show beside the run's")
    out = p.add_argument_group("export")
    out.add_argument("--gguf", help="the file to write, for llama.cpp and LM Studio")
    out.add_argument("--type", default="f32", choices=("f32", "q8_0"), help="of the matrices in it")
    device.add_arguments(p)
    defaults = vars(p.parse_args([]))
    none = argparse.Namespace(**dict.fromkeys(defaults))
    given = vars(p.parse_args(argv, none))                  # what stays None was not given
    check_options(given["prompt"] if given["prompt"] in OPTIONS else "completion", given)
    for name, value in given.items():
        if value is None:
            given[name] = defaults[name]
    return argparse.Namespace(**given)


def main(argv=None):
    args = parse_args(argv)
    talking, exporting = args.prompt == "chat", args.prompt == "export"
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: must be 0 or more")
    if args.n < 1:
        raise ValueError(f"-n {args.n}: must be at least 1")
    if args.prompt == "serve":
        from chat import serve                                        # which imports this file
        return serve.run(args)
    if exporting and not args.gguf:
        raise ValueError("a model is exported with: python sample.py export --gguf FILE")
    if args.temperature is None:
        args.temperature = 0.0 if talking else 1.0
    folder = Path(args.model) if args.model else None
    if folder is None:
        run = Path(args.run)
        if not run.is_dir():
            raise FileNotFoundError(f"{run}: no such run folder; make the demo's with: make")
        found = [run / s for s in (("rl", "sft") if talking else ("rl", "sft", "base") if exporting else ("base",)) if (run / s / "model.safetensors").exists()]
        if not found:
            raise FileNotFoundError(f"{run}: no {'assistant' if talking else 'base model'} in it yet; make one with: "
                                    f"python {'align.py sft' if talking else 'train.py'} --run {run}")
        folder = found[0]
    if exporting:
        from chat import export
        export.save(args.gguf, *load_model(folder), args.type, folder.name)
        print(f"{args.gguf}: {folder} as {args.type}, {Path(args.gguf).stat().st_size / 1e6:,.1f} MB")
        return
    if talking:
        command.guard()                                     # a transcript; a completion is data in a pipe
    gpu, model = device.chosen(args), load_model(folder)
    if gpu:
        model = device.upload(*model[:2], gpu.bf16), *model[1:]
    print(f"[{folder}: {model[1].n_params:,} parameters]", file=sys.stderr)
    (chat if talking else complete)(model, args)


if __name__ == "__main__":
    command.run(main, data=True)
