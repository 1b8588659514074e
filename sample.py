"""sample.py: make the model talk. Completion, chat, and the calculator it may use.

Three things live here because training, evaluation and talking must agree on them to the token: how a
conversation becomes ids (and which of them are learned from), how the next token is drawn, and what
happens when the model calls a tool.

Left out: an HTTP server, penalties, more tools than one.

    python sample.py "Once, on a foggy evening,"         the base model dreams on
    python sample.py chat                                talk to the assistant; --ask TEXT for one question

Sources: OpenAI's ChatML; Holtzman et al. 2020 (top-p); Cobbe et al. 2021 (a calculator inside the answer).
"""

import argparse
import ast
import codecs
import math
import operator
import os
import sys
import time
from collections import namedtuple
from pathlib import Path

import gpt                      # before numpy
import bpe
import device
import numpy as np

# ------------------------------------------------------------------------------------------ the chat format
#
# <|im_start|>user<|im_sep|>What is 3*7?<|im_end|><|im_start|>assistant<|im_sep|>
#     <|tool_start|>3*7<|tool_end|><|output_start|>21<|output_end|>It is 21.<|im_end|>
#
# Learned from: what the assistant writes, its tool calls and its <|im_end|>. Not: what users and tools write.

ROLES = ("system", "user", "assistant")
PART_TOKENS = {"tool": ("<|tool_start|>", "<|tool_end|>"), "output": ("<|output_start|>", "<|output_end|>")}


def check_messages(messages, where="conversation"):
    """ValueError unless messages is [system,] user, assistant, user, assistant ... with content in each."""
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{where}: expected a list of messages, got {str(messages)[:60]!r}")
    turn = 0
    for i, m in enumerate(messages):
        if not isinstance(m, dict) or m.get("role") not in ROLES:
            role = m.get("role") if isinstance(m, dict) else m
            raise ValueError(f"{where}: message {i} has role {role!r}, expected one of {', '.join(ROLES)}")
        content = m.get("content")
        if not (isinstance(content, str) or isinstance(content, list) and all(isinstance(p, dict) for p in content)):
            raise ValueError(f"{where}: message {i} of the {m['role']} has the content {repr(content)[:40]}, expected a text or a list of parts")
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
    content is a string, or a list of parts {"type": "text" | "tool" | "output", "text": ...}.
    """
    check_messages(messages, where)
    ids, mask = [], []

    def add(tokens, learned):
        ids.extend(tokens)
        mask.extend([int(learned)] * len(tokens))

    for m in messages:
        ours = m["role"] == "assistant"
        add([special(tokenizer, "<|im_start|>"), *tokenizer.encode_ordinary(m["role"]), special(tokenizer, "<|im_sep|>")], False)
        parts = [{"type": "text", "text": m["content"]}] if isinstance(m["content"], str) else m["content"]
        for part in parts:
            if part.get("type") not in ("text", "tool", "output") or not isinstance(part.get("text"), str):
                raise ValueError(f"{where}: unknown part {str(part)[:60]!r} in a message of the {m['role']}")
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
        x = value(ast.parse(expression.replace(",", "").strip(), mode="eval"))
    except (ValueError, SyntaxError, ArithmeticError, MemoryError, RecursionError):
        return None
    if isinstance(x, float):
        if not math.isfinite(x):
            return None
        return str(int(x)) if x.is_integer() and abs(x) < 1e15 else f"{x:.12g}"
    return str(x)


# ------------------------------------------------------------------------------------------------- sampling


def probabilities(logits, temperature=1.0, top_k=0, top_p=1.0):
    """(B,V) -> (B,V) float64: softmax(logits / temperature), then the k likeliest, then the smallest set
    that holds a share p of what is left. temperature 0 is all on the likeliest token, the lowest id of equals."""
    z = logits.astype(np.float64)
    if temperature == 0:
        return np.eye(z.shape[1])[z.argmax(-1)]
    z = z / temperature
    if 0 < top_k < z.shape[1]:
        z[z < np.partition(z, -top_k, axis=-1)[:, -top_k, None]] = -np.inf
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    if top_p < 1.0:
        order = np.argsort(-p, axis=-1, kind="stable")
        ranked = np.take_along_axis(p, order, -1)
        ranked[np.cumsum(ranked, -1) - ranked >= top_p] = 0.0       # reached p before this token
        np.put_along_axis(p, order, ranked, -1)
        p /= p.sum(-1, keepdims=True)
    return p


def draw(p, u):
    """(B,V) probabilities and (B,) uniform numbers in [0,1) -> (B,) token ids."""
    c = np.cumsum(p, -1)
    return (c <= u[:, None] * c[:, -1:]).sum(-1)


# sampled: 1 where the model chose the token, 0 where a tool wrote it; logp: log of the chance it had when it was drawn, 0 a tool's
Reply = namedtuple("Reply", "ids sampled finish logp", defaults=((),))


def steps(params, cfg, tokenizer, prompts, max_new_tokens=256, temperature=1.0, top_k=0, top_p=1.0, seed=0, stop=(),
          tools=True):
    """Generate for a batch of prompts (lists of ids); yields [(row, token, sampled, log probability)] once a position.

    A row ends with the first of its stop tokens, which is yielded too, with max_new_tokens, or at the end of
    the model's context. Row r draws from its own stream (seed, r), whatever else is in the batch. When a row writes <|tool_end|>, the calculator's answer is put into its mouth.
    """
    if not all(prompts):
        raise ValueError("an empty prompt: the model needs at least one token to go on from")
    longest = max(map(len, prompts))
    if longest >= cfg.n_positions:
        raise ValueError(f"a prompt of {longest} tokens does not fit the model's context of {cfg.n_positions} "
                         "with room for a reply; shorten it")
    if not (0 <= temperature < math.inf and top_k >= 0 and 0 < top_p <= 1 and max_new_tokens >= 1):
        raise ValueError(f"temperature {temperature}, top-k {top_k}, top-p {top_p}, max tokens {max_new_tokens}: "
                         "expected >= 0, >= 0, within (0, 1] and >= 1")
    tool_start, tool_end, output_start, output_end = (tokenizer.special_tokens.get(t) for t in ("<|tool_start|>", "<|tool_end|>", "<|output_start|>", "<|output_end|>"))
    rows = np.arange(len(prompts))                      # which prompt each row of the batch belongs to
    lengths = np.array([len(p) for p in prompts])
    room = np.minimum(max_new_tokens, cfg.n_positions - lengths)
    uniform = np.array([np.random.default_rng((seed, r)).random(int(room.max())) for r in rows])
    forced, call = [[] for _ in rows], [None for _ in rows]     # tokens to come from a tool; a call being written

    different = list(dict.fromkeys(map(tuple, prompts)))        # a prompt that comes many times is read once
    tokens, of_prompt = np.zeros((len(different), longest), np.int64), np.array([len(p) for p in different])
    for r, p in enumerate(different):
        tokens[r, :len(p)] = p
    cache = gpt.Cache(cfg, len(different), min(cfg.n_positions, longest + int(room.max())), like=params["wte.weight"])
    logits = gpt.decode(params, cfg, tokens, cache, n_new=of_prompt, only_last=True)
    if len(different) < len(prompts):
        number = {p: r for r, p in enumerate(different)}
        copies = np.array([number[tuple(p)] for p in prompts])
        cache, logits = cache.rows(copies), logits[copies]
    done = np.zeros(len(rows), bool)
    for t in range(int(room.max())):
        logits[:, tokenizer.holes] = -np.inf            # ids that no token has
        p = probabilities(logits[:, :tokenizer.n_vocab], temperature, top_k, top_p)
        chosen = draw(p, uniform[rows, t])
        logp = np.log(p[np.arange(len(p)), chosen]).tolist()
        events = []
        for i, r in enumerate(rows):
            if done[i]:
                continue
            sampled = not forced[r]
            token = int(chosen[i]) if sampled else forced[r].pop(0)
            chosen[i] = token
            events.append((int(r), token, sampled, logp[i] if sampled else 0.0))
            if tools and sampled and token == tool_start:
                call[r] = []
            elif tools and sampled and token == tool_end and call[r] is not None:
                result = calculator(tokenizer.decode(call[r]))
                if result is not None:
                    forced[r] = [output_start, *tokenizer.encode_ordinary(result), output_end]
                call[r] = None
            elif call[r] is not None:
                call[r].append(token)
            done[i] = token in stop or t + 1 >= room[r]
        yield events
        if done.all():
            return
        # Finished rows are dropped, which copies the others, once they are an eighth of all, or when the context has no place for them.
        if 8 * done.sum() >= len(done) or done.any() and (cache.length[done] + 2 > cfg.n_positions).any():
            left = ~done
            cache, rows, chosen, done = cache.rows(np.flatnonzero(left)), rows[left], chosen[left], done[left]
        logits = gpt.decode(params, cfg, chosen[:, None], cache, only_last=True)


def generate(params, cfg, tokenizer, prompts, stop=(), **settings):
    """[Reply] for a list of prompts; settings as for steps(). finish is "stop" or "length"."""
    replies = [Reply([], [], "length", []) for _ in prompts]
    for events in steps(params, cfg, tokenizer, prompts, stop=stop, **settings):
        for r, token, sampled, logp in events:
            replies[r].ids.append(token)
            replies[r].sampled.append(int(sampled))
            replies[r].logp.append(logp)
    return [reply._replace(finish="stop") if reply.ids and reply.ids[-1] in stop else reply for reply in replies]


def reply_text(ids, tokenizer):
    """What the assistant says to the user: tool calls and their outputs are left out, special tokens too."""
    out, hidden = [], False
    names = {v: k for k, v in tokenizer.special_tokens.items()}
    for i in ids:
        name = names.get(i)
        if name in ("<|tool_start|>", "<|output_start|>"):
            hidden = True
        elif name in ("<|tool_end|>", "<|output_end|>"):
            hidden = False
        elif name is None and not hidden:
            out.append(i)
    return tokenizer.decode(out)


# ------------------------------------------------------------------------------------------------- terminal


class Printer:
    """Prints tokens as they come: whole characters only, tool calls in brackets, no special tokens."""

    SHOWN = {"<|tool_start|>": "[", "<|tool_end|>": "", "<|output_start|>": " = ", "<|output_end|>": "] "}

    def __init__(self, tokenizer, write):
        self.tokenizer, self.write = tokenizer, write
        self.names = {v: k for k, v in tokenizer.special_tokens.items()}
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def put(self, token):
        if token in self.names:
            self.write(self.decoder.decode(b"", True) + self.SHOWN.get(self.names[token], ""))
        else:
            self.write(self.decoder.decode(self.tokenizer.token_bytes[token]))

    def end(self):
        self.write(self.decoder.decode(b"", True))


def load_model(folder):
    """(params, cfg, tokenizer) of a model folder."""
    params, cfg = gpt.load(folder)
    path = Path(folder) / "tokenizer.json"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no tokenizer beside the model; copy the one it was trained with")
    tokenizer = bpe.Tokenizer.load(path)
    if tokenizer.n_vocab > cfg.vocab_size:
        raise ValueError(f"{path}: {tokenizer.n_vocab} tokens, the model beside it knows {cfg.vocab_size}")
    return params, cfg, tokenizer


def say(model, prompt, args, seed, stop):
    """Stream one reply to the terminal; returns (ids, seconds). Ctrl-C ends the reply where it is."""
    params, cfg, tokenizer = model

    def write(text):
        print(text, end="", flush=True)

    printer, ids, started = Printer(tokenizer, write), [], time.perf_counter()
    try:
        for ((_, token, *_),) in steps(params, cfg, tokenizer, [prompt], args.max_tokens, args.temperature, args.top_k,
                                      args.top_p, seed, stop):
            ids.append(token)
            printer.put(token)
    except KeyboardInterrupt:
        pass
    printer.end()
    return ids, time.perf_counter() - started


def complete(model, args):
    tokenizer = model[2]
    # Documents are told apart by this token: it stands before each, so it begins a text and ends it.
    between = [tokenizer.special_tokens[t] for t in ("<|endoftext|>",) if t in tokenizer.special_tokens]
    for i in range(args.n):
        print(args.prompt, end="")
        ids, seconds = say(model, [*between, *tokenizer.encode_ordinary(args.prompt)], args, args.seed + i, set(between))
        print()
        print(f"[{len(ids)} tokens, {len(ids) / seconds:,.0f} a second]", file=sys.stderr)


def chat(model, args):
    """Questions from --ask, or from the terminal until it ends. The conversation is kept as ids; when it
    outgrows the context the oldest turns are forgotten, and that is said."""
    cfg, tokenizer = model[1:]
    end = special(tokenizer, "<|im_end|>")
    turns, asked = [], iter(args.ask or ())
    if args.system:
        turns.append(render([{"role": "system", "content": args.system}], tokenizer)[0])
    keep = len(turns)
    at_terminal = not args.ask and sys.stdin is not None and sys.stdin.isatty()
    if not args.ask and sys.stdin is None:
        raise ValueError("standard input is closed; ask with --ask TEXT")
    for n in range(sys.maxsize):
        try:
            question = next(asked) if args.ask else input("you> " if at_terminal else "").strip()
        except (StopIteration, EOFError, KeyboardInterrupt):
            break
        if not question:
            continue
        if not at_terminal:
            print(f"you> {question}")
        turn = render_prompt([{"role": "user", "content": question}], tokenizer)
        if sum(map(len, turns[:keep])) + len(turn) >= cfg.n_positions:
            system = f" after a system message of {len(turns[0])}" if keep else ""
            problem = f"a question of {len(turn)} tokens{system} does not fit the model's context of {cfg.n_positions} with room for a reply; ask something shorter"
            if args.ask:
                raise ValueError(problem)
            print(f"[{problem}]", file=sys.stderr)
            continue
        turns.append(turn)
        while sum(map(len, turns)) + 32 > cfg.n_positions and len(turns) > keep + 1:
            turns.pop(keep)
            print(f"[the context of {cfg.n_positions} tokens is full: the oldest turn is forgotten]", file=sys.stderr)
        print("longhand> ", end="")
        ids, seconds = say(model, sum(turns, []), args, args.seed + n, {end})
        print()
        turns[-1] = turns[-1] + ids + ([] if ids and ids[-1] == end else [end])
        if at_terminal:
            print(f"[{len(ids)} tokens, {len(ids) / seconds:,.0f} a second]", file=sys.stderr)


def parse_args(argv=None):
    p = argparse.ArgumentParser(description="Complete a text, or chat.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("prompt", nargs="?", default="", help='the beginning of a text; the word "chat" begins a conversation')
    where = p.add_argument_group("which model")
    where.add_argument("--run", default="out/demo", help="run folder: its base for completion, the best assistant in it for chat")
    where.add_argument("--model", help="a model folder, in place of the run's")
    how = p.add_argument_group("how it draws tokens, in this order")
    how.add_argument("--temperature", type=float, help="0 takes the likeliest token always (default: 1, in chat 0)")
    how.add_argument("--top-k", type=int, default=0, help="only the k likeliest tokens; 0 is all")
    how.add_argument("--top-p", type=float, default=1.0, help="only the likeliest tokens that make up this share")
    how.add_argument("--seed", type=int, default=0, help="same seed, same text")
    how.add_argument("--max-tokens", type=int, default=200, help="length limit of a reply")
    how.add_argument("-n", type=int, default=1, help="completions to write")
    talk = p.add_argument_group("chat")
    talk.add_argument("--ask", action="append", help="ask this and do not wait for input; may be repeated")
    talk.add_argument("--system", help="a system message to begin with")
    device.add_arguments(p)
    return p.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    talking = args.prompt == "chat"
    if (args.ask or args.system) and not talking:
        raise ValueError(f'--ask and --system belong to a conversation; write: python sample.py chat, not {args.prompt!r}')
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: must be 0 or more")
    if args.n < 1:
        raise ValueError(f"-n {args.n}: must be at least 1")
    if args.temperature is None:
        args.temperature = 0.0 if talking else 1.0
    folder = Path(args.model) if args.model else None
    if folder is None:
        run = Path(args.run)
        if not run.is_dir():
            raise FileNotFoundError(f"{run}: no such run folder; make the demo's with: make")
        found = [run / s for s in (("rl", "sft") if talking else ("base",)) if (run / s / "model.safetensors").exists()]
        if not found:
            raise FileNotFoundError(f"{run}: no {'assistant' if talking else 'base model'} in it yet; make one with: "
                                    f"python {'align.py sft' if talking else 'train.py'} --run {run}")
        folder = found[0]
    gpu, model = device.chosen(args), load_model(folder)
    if gpu:
        model = device.upload(*model[:2], gpu.bf16), *model[1:]
    print(f"[{folder}: {model[1].n_params:,} parameters]", file=sys.stderr)
    (chat if talking else complete)(model, args)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:                             # whoever read our output has gone, as head does
        os._exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, MemoryError) as e:
        sys.exit(f"sample.py: error: {e}")
