"""sample.py: how a trained model writes, and how it holds a conversation.

A model reads tokens and returns logits: a number for each token that could come next. This file
turns logits into text, in this order:

    drawing       from logits to one token: penalties, temperature, top-k, top-p, min-p
    chat format   from a conversation to the tokens that the model reads
    tools         what happens when a reply calls the calculator, or looks something up
    writing       the loop that draws one token after the other until the reply ends
    check         all of this at work, with a model that has learned one reply by heart
    commands      complete, chat, serve, export

Training uses the same definitions (align.py), so that a model meets in a conversation exactly the
tokens that it has learned from. The rooms in chat/ make them fast and bring them to people:
chat/generate.py writes many replies side by side, chat/terminal.py talks, chat/serve.py answers
over HTTP.

    python sample.py "Once, on a foggy evening,"     the base model goes on from a text
    python sample.py chat                            talk to the assistant
    python sample.py check                           see this file at work, without a trained model

Sources: OpenAI's ChatML; Holtzman et al. 2020 (top-p); Keskar et al. 2019 (repetition penalty);
Nguyen et al. 2024 (min-p); Cobbe et al. 2021 (a calculator inside the answer).
"""

import argparse
import difflib
import functools
import itertools
import math
import operator
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from model import cores     # noqa: F401  before numpy: it sets up the matrix products
from model import families
from run import command
from chat import template, tools
import bpe
import gpt
import numpy as np

# ---------------------------------------------------------------------------------------- drawing
#
# From the logits z (V,) of the next token to the token, step by step:
#
#   1. penalties     z is lowered for tokens that stand in the text already; biases are added
#   2. temperature   z / T: below 1 the likely tokens gain, above 1 the unlikely ones
#   3. top-k         the k likeliest tokens are kept, and any that are as likely as the k-th
#   4. top-p         of these, the likeliest ones that together have the probability p
#   5. min-p         of these, the ones at least min_p times as likely as the likeliest
#   6. draw          one token, each with its probability
#
# After each of the steps 3 to 5 the probabilities of the tokens kept are divided by their sum.
# Does the order matter?
#
#   penalties, temperature   Yes. A presence penalty of 1 takes 1 from z, and so 1/T from z / T. If
#                            the division came first, the penalty would take 1 from z / T: more than
#                            now if T is above 1, and less if T is below 1.
#   temperature, top-k       No. A temperature changes no ranks, so the same k tokens are kept.
#   temperature, top-p       Yes. A high temperature spreads the probabilities, and then more tokens
#                            are needed to make up p. The same goes for min-p.
#   top-k, top-p             Yes. After top-k, p is a share of the k tokens and not of all tokens.
#   top-p, min-p             Yes. If min-p came first, p would be a share of fewer tokens, and top-p
#                            would keep fewer. Only top-p is changed by the order: min-p compares a
#                            token with the likeliest one, which top-p always keeps.


@dataclass(frozen=True)
class Settings:
    """How a reply is written. With the defaults, the model's own probabilities are left alone."""

    max_new_tokens: int = 256           # that the model chooses; what tools write is not counted
    temperature: float = 1.0            # 0: always the likeliest token
    top_k: int = 0                      # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0     # for tokens of the prompt or the reply, see penalise
    presence_penalty: float = 0.0       # for tokens of the reply
    frequency_penalty: float = 0.0      # for tokens of the reply, times how often they occur
    logit_bias: tuple = ()              # ((token, what is added to its logit), ...)
    seed: int = 0
    stop: frozenset = frozenset()       # tokens that end the reply
    tools: bool = True                  # whether calls are answered
    alternatives: int = -1              # how many likely tokens chat/generate.py reports; -1: none

    @functools.cached_property
    def bias(self):
        """logit_bias as arrays: tokens (n,), each once, and the sum of what is added to each."""
        total = {}
        for token, bias in self.logit_bias:
            total[token] = total.get(token, 0.0) + bias
        return np.array(list(total), np.int64), np.array(list(total.values()), np.float64)

    def check(self):
        """Returns the settings themselves; ValueError that names each value out of its range."""
        finite = math.isfinite
        ranges = [
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0"),
            ("presence_penalty", finite(self.presence_penalty), "a number"),
            ("frequency_penalty", finite(self.frequency_penalty), "a number"),
            ("logit_bias", all(finite(bias) for _, bias in self.logit_bias), "numbers"),
            ("seed", self.seed >= 0, "0 or more"),
        ]
        wrong = []
        for name, fine, expected in ranges:
            if not fine:
                wrong.append(f"{name} {getattr(self, name)}, expected {expected}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


def penalise(z, prompt, reply, settings):
    """Step 1, the penalties and biases of Settings: logits (V,) behind lists of ids -> (V,).

    A repetition penalty above 1 divides a logit above 0 and multiplies one below: it gets smaller.
    How much smaller depends on where 0 lies. So a constant added to all logits, which changes no
    probability without this penalty, does change them with it.
    """
    written = np.bincount(np.array(reply, np.int64), minlength=len(z))      # how often each is
    seen = written > 0
    seen[prompt] = True
    repetition = settings.repetition_penalty
    smaller = np.where(z > 0, z / repetition, z * repetition)
    z = np.where(seen, smaller, z)
    z = z - settings.presence_penalty * (written > 0)
    z = z - settings.frequency_penalty * written
    tokens, bias = settings.bias
    z[tokens] += bias
    return z


def probabilities(z, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Steps 2 to 5: logits (V,) -> the probabilities (V,) float64 that a token is drawn from.

    Temperature 0 gives 1 to the likeliest token, of equals to the first. top_k = 0 keeps all.
    """
    z = z.astype(np.float64)
    if temperature == 0:
        p = np.zeros(len(z))
        p[z.argmax()] = 1.0                     # of equal logits, the token with the lowest number
        return p
    with np.errstate(over="ignore"):            # none is above 0, so it can overflow to -inf only
        z = (z - z.max()) / temperature
    if 0 < top_k < len(z):
        smallest = np.sort(z)[-top_k]
        z[z < smallest] = -np.inf
    p = np.exp(z)
    p /= p.sum()
    if top_p < 1:
        order = np.argsort(-p, kind="stable")   # the likeliest first; equals by their number
        before = np.cumsum(p[order]) - p[order]     # what the tokens in front of it add up to
        p[order[before >= top_p]] = 0.0     # there the tokens in front have the share already
        p /= p.sum()
    if min_p > 0:
        p[p < min_p * p.max()] = 0.0
        p /= p.sum()
    return p


def draw(p, u):
    """Step 6: a token with the probabilities p (V,), chosen by a random number u in [0,1).

    The tokens lie side by side on a line, each as long as it is likely. The one at the place u is
    drawn. Its id is the number of tokens that end at u or before it.
    """
    ends = np.cumsum(p)
    return int((ends <= u * ends[-1]).sum())


def penalised_probabilities(z, prompt, reply, settings):
    """Steps 1 to 5: logits (V,) behind a prompt and the reply so far -> probabilities (V,)."""
    z = penalise(z, prompt, reply, settings)
    return probabilities(z, settings.temperature, settings.top_k, settings.top_p, settings.min_p)


def next_token(logits, u, prompt, reply, tokenizer, settings):
    """All six steps: logits (V,) and a random number u -> (token, log of its probability).

    A model may have more logits than there are tokens, and some ids below n_vocab may belong to no
    token (tokenizer.holes). None of these is ever drawn.
    """
    z = logits.astype(np.float64)
    z[tokenizer.holes] = -np.inf
    z = z[:tokenizer.n_vocab]
    p = penalised_probabilities(z, prompt, reply, settings)
    token = draw(p, u)
    return token, float(np.log(p[token]))


def log_probabilities(z, token, prompt, reply, settings):
    """Three numbers that are called the log-probability of a token, from the model's logits z (V,).

    They are equal with the default settings, and so reinforcement learning writes with these.
    """
    ways = {
        # what a loss adds up, and what chat/serve.py reports as logprobs
        "the model's own": probabilities(z),
        # what reinforcement learning differentiates (gpt.token_losses with a temperature)
        "at the temperature": probabilities(z, settings.temperature),
        # the chance that the token had when it was drawn, penalties included: Reply.logp
        "as it was drawn": penalised_probabilities(z, prompt, reply, settings),
    }
    return {name: float(np.log(p[token])) for name, p in ways.items()}


# ------------------------------------------------------------------------------------ chat format
#
# What the model sees of a conversation, token by token. A space here separates two tokens; ␣ is a
# space that belongs to a token:
#
#     <|im_start|> user <|im_sep|> What ␣is ␣ 3 * 7 ? <|im_end|>
#     <|im_start|> assistant <|im_sep|>
#   * <|tool_start|> 3 * 7 <|tool_end|>
#     <|output_start|> 2 1 <|output_end|>
#   * 3 ␣times ␣ 7 ␣is ␣ 2 1 . <|im_end|>
#
# The lines with * are sampled: the model chooses these tokens when it writes, and learns these and
# no others when it is fine-tuned. The first two lines are the prompt. The line of the output is
# the one part of a reply that is not sampled: the calculator writes it, and the model reads it.
#
# The prompt of the next turn is all of this, the next question, and again <|im_start|> assistant
# <|im_sep|>. The reply stays in it as the very tokens that were written: its text, encoded anew,
# could give other tokens. If a conversation becomes longer than the context, its oldest turns are
# left out (chat/terminal.py).

PART_TOKENS = {
    "tool": ("<|tool_start|>", "<|tool_end|>"),
    "output": ("<|output_start|>", "<|output_end|>"),
}


def special(tokenizer, name):
    """The number of a special token, which no text is ever encoded to."""
    if name not in tokenizer.special_tokens:
        raise ValueError(
            f"the tokenizer has no token {name}, which conversations need; "
            "train one that has it with: python bpe.py train"
        )
    return tokenizer.special_tokens[name]


def head_of(role, tokenizer):
    """The tokens in front of every message of a role."""
    name = tokenizer.encode_ordinary(role)
    return [special(tokenizer, "<|im_start|>"), *name, special(tokenizer, "<|im_sep|>")]


def render(messages, tokenizer, where="conversation"):
    """A conversation -> (ids, mask), lists of one length. The mask is 1 where the model samples.

    A message is {"role": "system" | "user" | "assistant", "content": ...}. The assistant's content
    is a text or a list of parts {"type": "text" | "tool" | "output", "text": ...}. A reply with the
    "weight" 0 is read and not learned, so its mask is 0.
    Text is encoded without special tokens: nobody can end a message by typing <|im_end|>.
    """
    template.check_messages(messages, where)
    ids, mask = [], []

    def add(tokens, sampled):
        ids.extend(tokens)
        mask.extend([int(sampled)] * len(tokens))

    for m in messages:
        own = m["role"] == "assistant" and m.get("weight", 1) != 0
        parts = m["content"]
        if isinstance(parts, str):
            parts = [{"type": "text", "text": parts}]
        add(head_of(m["role"], tokenizer), False)
        for part in parts:
            tokens = tokenizer.encode_ordinary(part["text"])
            if part["type"] in PART_TOKENS:
                begin, end = PART_TOKENS[part["type"]]
                tokens = [special(tokenizer, begin), *tokens, special(tokenizer, end)]
            add(tokens, own and part["type"] != "output")
        add([special(tokenizer, "<|im_end|>")], own)
    return ids, mask


def render_prompt(messages, tokenizer):
    """The ids of a conversation up to the place where the assistant's next reply begins."""
    if messages and messages[-1].get("role") == "assistant":
        raise ValueError("the last message is the assistant's: there is nothing to reply to")
    ids, _ = render(messages, tokenizer)
    return ids + head_of("assistant", tokenizer)


def reply_parts(ids, tokenizer):
    """The reverse of render for a reply: a text, or a list of parts if a tool was called."""
    names = tokenizer.special_tokens
    type_behind = {}                    # {special token: the type of the part behind it}
    for kind, (begin, end) in PART_TOKENS.items():
        type_behind[names.get(begin)] = kind    # None if it is missing, which no token equals
        type_behind[names.get(end)] = "text"    # behind a call or an output, text goes on
    others = set(names.values()) - set(type_behind)
    parts = [("text", [])]
    for token in ids:
        if token in type_behind:
            parts.append((type_behind[token], []))
        elif token not in others:       # <|im_end|> ends a reply and is no part of it
            parts[-1][1].append(token)
    found = []
    for kind, tokens in parts:
        if tokens:
            found.append({"type": kind, "text": tokenizer.decode(tokens)})
    if all(part["type"] == "text" for part in found):
        return "".join(part["text"] for part in found)
    return found


def reply_text(ids, tokenizer):
    """What a user reads of a reply: its text, without calls and their outputs."""
    parts = reply_parts(ids, tokenizer)
    if isinstance(parts, str):
        return parts
    return "".join(part["text"] for part in parts if part["type"] == "text")


# ------------------------------------------------------------------------------------------ tools
#
# Why a calculator? A model writes a number digit by digit, each as what probably comes next. It may
# know 37*48 by heart, but a small model gets most products wrong that it has not seen. A calculator
# is always right, and the model has only to learn when to call it. In the same way it can look up
# what it does not know: a model in a run folder can search the documents of the run.
#
# A tool is a function from a text to the text of its answer, or to None if it cannot answer. A call
# names it: "spell: bat" gives "bat" to the tool spell. A call without a name is the calculator's.
# When a reply samples <|tool_end|>, the text since <|tool_start|> is the call. The answer is
# written into the reply, and the model goes on behind it. Without an answer it goes on at once.
#
# A model calls a tool because it has learned to: `python -m web.toyweb` writes conversations with
#     {"type": "tool", "text": "37*48"}, {"type": "output", "text": "1776"}
# into chat/train.jsonl of the run, and `python align.py sft` learns from them. So a new tool takes
# two things: a function in TOOLS, and conversations that call it. To try the function alone, let a
# model that has learned one call by heart write it:
#     python sample.py check --call "37*48"

TOOLS = {"calculator": tools.calculator, "count": tools.count, "spell": tools.spell}


def answer(call, more=None):
    """The answer to a call, or None. more: {name: tool} of tools besides those in TOOLS."""
    name, colon, text = call.partition(": ")
    if not colon:
        name, text = "calculator", call
    tool = {**TOOLS, **(more or {})}.get(name)
    return tool(text) if tool else None


def tool_output(reply, tokenizer):
    """The tokens that a tool writes behind a reply; [] unless the reply ends with a call.

    A call is what stands between the last <|tool_start|> and a <|tool_end|>. Calls do not nest.
    """
    begin, end = (tokenizer.special_tokens.get(name) for name in PART_TOKENS["tool"])
    if reply[-1] != end or begin not in reply:
        return []
    start = max(i for i, token in enumerate(reply) if token == begin)
    call = reply[start + 1:-1]
    if end in call:                     # an earlier <|tool_end|> has ended this call already
        return []
    text = answer(tokenizer.decode(call), tokenizer.tools)
    if text is None:
        return []
    begin, end = (special(tokenizer, name) for name in PART_TOKENS["output"])
    return [begin, *tokenizer.encode_ordinary(text), end]


# ---------------------------------------------------------------------------------------- writing

class Reply(NamedTuple):
    """What a model wrote behind a prompt."""

    ids: list           # the tokens of the reply, with the one that ended it
    sampled: list       # 1 for each token that the model chose, 0 for each that a tool wrote
    finish: str         # "stop": a stop token ended it; "length": max_new_tokens or the context did
    logp: list = ()     # the log-probability of each token as it was drawn; 0 if a tool wrote it
    prompt: list = ()   # the tokens in front of the reply


def check_prompt(prompt, cfg):
    """ValueError unless a prompt has a token and leaves room for one more."""
    if not prompt:
        raise ValueError("an empty prompt: the model needs at least one token to go on from")
    if len(prompt) >= cfg.n_positions:
        raise ValueError(
            f"a prompt of {len(prompt)} tokens does not fit the model's context of "
            f"{cfg.n_positions} with room for a reply; shorten it"
        )


def longest_reply(prompt, settings, n_positions):
    """How many tokens a reply can have at most, with what tools write into it."""
    of_tools = tools.ROOM if settings.tools else 0
    return min(settings.max_new_tokens + of_tools, n_positions - len(prompt))


def write_reply(params, cfg, tokenizer, prompt, settings, stream=0):
    """The Reply to a prompt, a list of ids.

    The same seed and stream give the same random numbers, and so the same reply.
    """
    check_prompt(prompt, cfg)
    room = longest_reply(prompt, settings, cfg.n_positions)
    uniform = np.random.default_rng((settings.seed, stream)).random(room)
    definition = families.of(cfg)       # gpt.py or model/llama.py
    cache = definition.Cache(cfg, 1, len(prompt) + room, like=params["wte.weight"])
    ids, sampled, logp = [], [], []
    unread, output = prompt, []         # what the model has not read yet; what a tool still writes
    while True:
        logits = definition.decode(params, cfg, np.array([unread]), cache)[0, -1]
        if output:
            token, log_p = output.pop(0), 0.0
            sampled.append(0)
        else:
            u = uniform[sum(sampled)]
            token, log_p = next_token(logits, u, prompt, ids, tokenizer, settings)
            sampled.append(1)
        ids.append(token)
        logp.append(log_p)
        if settings.tools and sampled[-1]:
            output = tool_output(ids, tokenizer)
        if token in settings.stop:
            return Reply(ids, sampled, "stop", logp, prompt)
        if sum(sampled) == settings.max_new_tokens or len(ids) == room:
            return Reply(ids, sampled, "length", logp, prompt)
        unread = [token]


def generate(params, cfg, tokenizer, prompts, **settings):
    """[Reply] to several prompts, one after the other. settings: the fields of Settings.

    chat/generate.py has the same function, which writes all replies side by side, as one batch.
    With the same seed and stream, a reply is the same alone and in a batch: it has random numbers
    of its own, and no step of the model mixes the rows of a batch. The stream is the place of the
    prompt in the list. So generate(..., [A, B])[1] is write_reply(..., B, settings, stream=1) and
    not generate(..., [B])[0], which has the stream 0.

    The logits of a row can differ in the last bits: a matrix product with more rows may add its
    terms in another order, which rounds differently. So a token can differ, seldom: where the
    random number lies on the border of two tokens up to these bits. Logits are the same to the last
    bit only if all products have the same shapes: as many replies side by side, and threads.
    """
    settings = Settings(**settings).check()
    replies = []
    for stream, prompt in enumerate(prompts):
        replies.append(write_reply(params, cfg, tokenizer, prompt, settings, stream))
    return replies


# ------------------------------------------------------------------------------------------ check

def by_heart(text, n_vocab):
    """(params, cfg) of a model that has learned one text, a list of ids, by heart.

    After t tokens it gives the token text[t] the largest logit, whatever those tokens were: its
    blocks add nothing, and each position alone says which token comes next.
    """
    cfg = gpt.Config(n_vocab, len(text), n_vocab, 1, 1)
    params = gpt.init(cfg, 0)
    for name, p in params.items():
        if name.startswith("h."):
            p[...] = 0.0
    params["wte.weight"][...] = np.eye(n_vocab)
    params["wpe.weight"][...] = 0.0
    for t, token in enumerate(text[1:]):
        params["wpe.weight"][t, token] = 9.0
    return params, cfg


def check(call):
    """Show a chat in which the model calls a tool, and the three log-probabilities of a token.

    Returns 1 if no tool answers, or if this is another conversation than the model has learned.
    """
    question = [{"role": "user", "content": "Use a tool."}]
    tokenizer = bpe.Tokenizer.train(["user assistant Use a tool. It says so."] * 4, 280)
    prompt = render_prompt(question, tokenizer)
    result = answer(call)
    content = [{"type": "tool", "text": call}, {"type": "text", "text": "It says so."}]
    if result is not None:
        content.insert(1, {"type": "output", "text": result})
    wanted, mask = render([*question, {"role": "assistant", "content": content}], tokenizer)

    end = special(tokenizer, "<|im_end|>")
    model = by_heart(wanted, tokenizer.n_vocab)
    (reply,) = generate(*model, tokenizer, [prompt], temperature=0.0, stop={end})
    written = prompt + reply.ids
    marks = [0] * len(prompt) + reply.sampled
    print("The conversation as the model sees it. It has sampled the lines with *.")
    for sampled, pairs in itertools.groupby(zip(marks, written), key=operator.itemgetter(0)):
        text = tokenizer.decode([token for _, token in pairs])
        print("*" if sampled else " ", text)

    z, settings = np.array([3.0, 2.0, 1.0, 0.0]), Settings(temperature=0.5, top_k=2)
    print("\nThe log-probability of token 1 with the logits 3 2 1 0, temperature 0.5 and top-k 2:")
    for name, log_p in log_probabilities(z, 1, [], [], settings).items():
        print(f"  {name:20} {log_p:7.3f}")
    if result is None:
        print(f"\nNo tool answers {call!r}.")
        return 1
    if written != wanted or marks != mask:
        print("\nWRONG: this is another conversation than the model has learned.")
        return 1
    print(f"\nThe tool answers {call!r} with {result!r}.")
    return 0


# --------------------------------------------------------------------------------------- commands

def load_model(folder, writable=False, dtype="float32"):
    """(params, cfg, tokenizer) of a model folder, made here or by others.

    writable: to train it on. dtype: of its matrices, as for folders.load.
    """
    params, cfg = gpt.load(folder, writable, dtype)
    paths = [Path(folder) / "tokenizer.json", Path(folder) / "vocab.json"]
    found = [path for path in paths if path.exists()]
    if not found:
        raise FileNotFoundError(
            f"{paths[0]}: no tokenizer beside the model; copy the one it was trained with"
        )
    tokenizer = bpe.Tokenizer.load(found[0])
    if tokenizer.n_vocab > cfg.vocab_size:
        raise ValueError(
            f"{found[0]}: {tokenizer.n_vocab} tokens, but the model beside it has {cfg.vocab_size}"
        )
    tokenizer.tools = tools.beside(folder)
    return params, cfg, tokenizer


COMMANDS = {
    "complete": "go on from a text; the word complete may be left out",
    "chat": "talk to the assistant",
    "serve": "answer over HTTP: a page to look inside, and OpenAI's API",
    "export": "write a GGUF file for llama.cpp and LM Studio",
    "check": "show this file at work, without a trained model",
}


def refuse_near_miss(argv):
    """ValueError if the first word, or one behind the options, looks like a command."""
    words = argv[:1]
    if len(argv) > 2 and not argv[-2].startswith("-"):
        words.append(argv[-1])
    for word in words:
        for name in difflib.get_close_matches(word.lower(), COMMANDS, 1, cutoff=0.8):
            raise ValueError(
                f"{word!r}: for the command {name} write: python sample.py {name} ...; "
                f"to go on from this word as a text: python sample.py complete {word}"
            )


def split_command(argv):
    """(command, its options) of a command line. A first word that is no command begins a text."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in ("-h", "--help"):
        return "help", argv
    if argv and argv[0] in COMMANDS:
        return argv[0], argv[1:]
    if argv:
        refuse_near_miss(argv)
    return "complete", argv


def main(argv=None):
    """Run a command; returns the exit status. Only the room of this command is imported."""
    name, options = split_command(argv)
    if name in ("complete", "chat"):
        from chat import terminal
        return terminal.main([name, *options])
    if name == "serve":
        from chat import serve
        return serve.main(options)
    if name == "export":
        from chat import export
        return export.main(options)
    lines = ["commands (python sample.py COMMAND --help lists their options):"]
    lines += [f"  {name:10} {text}" for name, text in COMMANDS.items()]
    p = argparse.ArgumentParser(
        usage="%(prog)s [TEXT | COMMAND] [options]",
        description="Write text with a trained model.",
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--call", default="37*48", metavar="TEXT",
                   help="for check: the call that the model writes (default: %(default)s)")
    return check(p.parse_args(options).call)


if __name__ == "__main__":
    command.run(main, data=True)
