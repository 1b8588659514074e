"""terminal.py: completions and conversations in a terminal, shown while they are written.

    python sample.py "Once, on a foggy evening,"      or: python -m chat.terminal complete TEXT
    python sample.py chat --ask "Who are you?"        or: python -m chat.terminal chat
"""

import argparse
import itertools
import json
import sys
import time
from dataclasses import replace

import sample
from chat import batching, formats, generate, models
from chat.stream import Text
from model import device, fast
from run import command

NAME = "longhand> "     # in front of a reply
ROOM = 4                # a reply has this part of the context free: a quarter, if it may be as long

COMMANDS = {
    "/new": "forget the conversation and begin anew",
    "/system": "TEXT  begin anew, with a system message",
    "/temperature": "X  how much chance there is in a reply; 0 is none",
    "/retry": "another reply to the last question",
    "/save": "FILE  add the conversation to a file that align.py can learn from",
    "/help": "this list",
}


# --------------------------------------------------------------------------- options

# The options of sample.Settings, in the order in which they act: (what stands for a value, help).
DRAWING = {
    "repetition_penalty": ("X", "divide positive logits of tokens in prompt or reply by X, and "
                                "multiply negative ones"),
    "presence_penalty": ("X", "subtract X from logits of tokens in the reply"),
    "frequency_penalty": ("X", "subtract X for each time that the token is in the reply"),
    "temperature": ("X", "0 always takes the likeliest token"),
    "top_k": ("K", "keep only the K likeliest tokens; 0 keeps all"),
    "top_p": ("P", "keep only the likeliest tokens that together have the probability P"),
    "min_p": ("P", "keep only tokens at least P times as likely as the likeliest"),
    "seed": (None, "the same seed gives the same text"),
}


def add_drawing(parser, temperature):
    """The options that say how a reply is written. temperature: its default."""
    how = parser.add_argument_group("how tokens are drawn, in this order")
    for name, (metavar, what) in DRAWING.items():
        default = temperature if name == "temperature" else getattr(sample.Settings, name)
        how.add_argument("--" + name.replace("_", "-"), type=type(default), default=default,
                         metavar=metavar, help=what + " (default: %(default)s)")
    ends = parser.add_argument_group("when a reply ends")
    ends.add_argument("--max-tokens", type=int, default=200, metavar="N",
                      help="at the latest after N tokens (default: %(default)s)")
    ends.add_argument("--stop", action="append", default=[], metavar="TEXT",
                      help="in front of this text; may be repeated")


def settings_of(args):
    """The Settings that add_drawing's options ask for; ValueError for one out of its range."""
    drawing = {name: getattr(args, name) for name in DRAWING}
    return sample.Settings(max_new_tokens=args.max_tokens, **drawing).check()


def parse_args(argv=None):
    """The command, complete or chat, with its options."""
    p = argparse.ArgumentParser(prog="sample.py", description="Write in a terminal.")
    commands = p.add_subparsers(dest="command", required=True)
    completion = commands.add_parser("complete", description="Go on from a text.")
    completion.add_argument("text", nargs="?", default="", help="the beginning of the text")
    completion.add_argument("-n", type=int, default=1, help="texts to write (default: %(default)s)")
    talk = commands.add_parser("chat", description="Talk to the assistant. /help lists what one "
                               "can type besides questions.")
    talk.add_argument("--ask", action="append", metavar="TEXT",
                      help="ask this and do not wait for input; may be repeated")
    talk.add_argument("--system", metavar="TEXT", help="a system message to begin with")
    talk.add_argument("--no-thinking", action="store_true",
                      help="ask the model to answer at once, as Qwen 3 can (enable_thinking)")
    for parser, temperature in ((completion, 1.0), (talk, 0.0)):
        models.add_options(parser)
        add_drawing(parser, temperature)
        device.add_arguments(parser)
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in commands.choices:    # so that an error shows the usage of this command
        args = commands.choices[argv[0]].parse_args(argv[1:], argparse.Namespace(command=argv[0]))
    else:
        args = p.parse_args(argv)
    models.check_options(args)
    if args.command == "complete" and args.n < 1:
        raise ValueError(f"-n {args.n}: must be at least 1")
    return args


def load(folder, args):
    """A generate.Batch for one reply at a time, on the GPU if --device asks for it."""
    gpu, engine = device.chosen(args, is_for_writing=True), fast
    model = sample.load_model(folder, dtype=device.kept_on_cpu(args))
    params, cfg, tokenizer = batching.fitted(model, folder)
    if gpu:
        params, engine = device.upload(params, cfg, gpu.bf16), device
    print(f"[{folder}: {cfg.n_params:,} parameters]", file=sys.stderr)
    return generate.Batch(params, cfg, tokenizer, 1, engine=engine)


# --------------------------------------------------------------------------- writing

class Voice:
    """What a terminal shows of a reply: its thoughts, if it has any, and then its answer.

        longhand> (thinks) The user greets me.
        longhand> Hello!

    thinking    a thinking.Thinking, or None for a text that marks no thoughts
    """

    def __init__(self, thinking=None):
        self.thinking = thinking
        self.thought, self.answered = False, False

    def put(self, text, ended=False):
        """Take more of the reply, or with `ended` the rest; returns what to show."""
        if not self.thinking:
            return text
        thoughts, answer = self.thinking.put(text, ended)
        if thoughts and not self.thought:
            self.thought, thoughts = True, f"(thinks) {thoughts}"
        if answer and self.thought and not self.answered:
            self.answered, answer = True, f"\n{NAME}{answer}"
        return thoughts + answer


class Raw:
    """A text as it is, in the place of command.Fold."""

    def put(self, text):
        """The text."""
        return text

    def flush(self):
        """Nothing: nothing is held back."""
        return ""


def cut_off(row, prompt, settings, n_positions):
    """Why a reply ended before its end, in one line; "" if it did not."""
    used = len(prompt) + len(row.ids)
    if row.finish != "length":
        return ""
    if used >= n_positions:
        return (f"[cut off: the context is full, {used:,} of {n_positions:,} tokens, of which this "
                f"reply has {len(row.ids):,}]")
    return f"[cut off after {settings.max_new_tokens:,} tokens; --max-tokens allows more]"


def say(batch, prompt, settings, stop, thinking=None, fold=None):
    """Show one reply while it is written; returns its ids. Ctrl-C ends the reply where it is.

    fold: what breaks its lines, a command.Fold; None leaves them as they are.
    """
    text, voice, fold = Text(batch.tokenizer, stop, calls=True), Voice(thinking), fold or Raw()
    row, began = None, time.perf_counter()
    try:
        (row,) = batch.add([prompt], settings)
        while not row.finish and not text.stopped:
            for _, token in batch.step():
                print(fold.put(voice.put(text.put(token))), end="", flush=True)
    except KeyboardInterrupt:
        pass
    if row and not row.finish:
        batch.drop(row)
    if not row or not row.ids:                  # the prompt was being read
        print(flush=True)
        return []
    print(fold.put(voice.put(text.end(), ended=True)) + fold.flush(), flush=True)
    n_positions = batch.cfg.n_positions
    if sys.stderr.isatty():
        speed = len(row.ids) / (time.perf_counter() - began)
        print(f"[{len(row.ids)} tokens, {speed:,.0f} a second; {len(prompt) + len(row.ids):,} of "
              f"{n_positions:,} in the context]", file=sys.stderr)
    cut = cut_off(row, prompt, settings, n_positions)
    if cut and not text.stopped:
        print(cut, file=sys.stderr)
    return row.ids


def complete(args):
    """Write texts that begin with the given one."""
    settings = settings_of(args)
    folder = models.chosen(args, ["base"], "base model", "train.py")
    batch = load(folder, args)
    tokenizer = batch.tokenizer
    settings = replace(settings, stop=formats.load(folder, tokenizer).document_ends)
    prompt = [*generate.document_begin(tokenizer), *tokenizer.encode_ordinary(args.text)]
    for i in range(args.n):
        print(args.text, end="")
        say(batch, prompt, replace(settings, seed=args.seed + i), args.stop)


class Conversation:
    """A conversation with a model.

    The cache of the batch still holds what the last prompt and the new one begin with alike, so
    that only the rest is read. When the turns outgrow the context, the oldest ones are forgotten,
    and the user is told so.

    format      of the model's chats, from chat/formats.py
    messages    all so far: perhaps one of the system, and then turns of a question and a reply
    forgotten   how many of the turns are forgotten
    """

    def __init__(self, batch, args, format=None):
        self.batch, self.cfg, self.args = batch, batch.cfg, args
        self.format = format or formats.Own(batch.tokenizer)
        self.settings = replace(settings_of(args), stop=self.format.ends)
        self.options = {"enable_thinking": False} if args.no_thinking else {}
        self.asked = 0
        self.begin(args.system)

    def begin(self, system):
        """Forget everything; begin with a system message, or with none."""
        self.messages = [{"role": "system", "content": system}] if system else []
        self.first = list(self.messages)
        self.forgotten = 0

    @property
    def turns(self):
        """The turns that the model still reads: [(question, reply)]."""
        begin = len(self.first) + 2 * self.forgotten
        return list(zip(self.messages[begin::2], self.messages[begin + 1::2]))

    def prompt_of(self, asking):
        """The prompt for the reply to a question; the oldest turns are forgotten to make room.

        ValueError if the question alone does not fit the context.
        """
        context = self.cfg.n_positions
        room = min(self.settings.max_new_tokens, context // ROOM)
        n_least = len(self.format.prompt([*self.first, asking], options=self.options))
        if n_least >= context:
            system = " after the system message" if self.first else ""
            raise ValueError(f"a question of {n_least} tokens{system} does not fit the model's "
                             f"context of {context} with room for a reply; ask something shorter")
        while True:
            messages = [*self.first, *itertools.chain(*self.turns), asking]
            prompt = self.format.prompt(messages, options=self.options)
            if not self.turns or len(prompt) + room <= context:
                return prompt
            self.forgotten += 1
            print(f"[{len(prompt):,} of {context:,} tokens leave too little room: the oldest turn "
                  "is forgotten]", file=sys.stderr)

    def ask(self, question):
        """Show the reply to a question. ValueError if the question does not fit the context."""
        asking = {"role": "user", "content": question}
        prompt = self.prompt_of(asking)
        print(NAME, end="", flush=True)
        settings = replace(self.settings, seed=self.args.seed + self.asked)
        thinking = self.format.thinking(prompt)
        fold = None
        if sys.stdout.isatty():
            fold = command.Fold(command.columns() - 1, len(NAME))
        ids = say(self.batch, prompt, settings, self.args.stop, thinking, fold)
        self.asked += 1
        if ids:                                 # else it was stopped before it began
            reply = {"role": "assistant", **self.format.content(prompt, ids)}
            self.messages += [asking, reply]

    def command(self, line):
        """Do what a line that begins with / says."""
        name, _, value = line.partition(" ")
        value = value.strip()
        if name == "/system":
            self.begin(value)
        elif name == "/new":
            self.begin(self.first[0]["content"] if self.first else None)
        elif name == "/temperature":
            try:
                self.settings = replace(self.settings, temperature=float(value)).check()
            except ValueError:
                raise ValueError(f"/temperature {value}: expected a number, 0 or more") from None
        elif name == "/retry":
            if not self.turns:
                raise ValueError("/retry: nothing has been asked yet")
            question, _ = self.turns[-1]
            del self.messages[-2:]
            self.ask(question["content"])
        elif name == "/save":
            if not value or not self.turns:
                raise ValueError("/save FILE: a file to add to, and a conversation to save")
            said = [{key: m[key] for key in m if key != "ids"} for m in self.messages]
            with open(value, "a", encoding="utf-8") as f:
                f.write(json.dumps({"messages": said}, ensure_ascii=False) + "\n")
        else:
            for word, what in COMMANDS.items():
                print(word, what, file=sys.stderr)


def questions(args, at_terminal):
    """The lines that are asked: those of --ask, or those of standard input until it ends."""
    if args.ask:
        yield from args.ask
        return
    while True:
        try:
            line = input("you> " if at_terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            yield line


def chat(args):
    """Answer the questions from --ask, or from the terminal until it ends."""
    settings_of(args)                           # a mistake is told before a model is loaded
    folder = models.chosen(args, ["rl", "sft"], "assistant", "align.py sft")
    command.guard()                             # a chat is no data, not even in a pipe
    batch = load(folder, args)
    talk = Conversation(batch, args, formats.load(folder, batch.tokenizer))
    if not args.ask and sys.stdin is None:
        raise ValueError("standard input is closed; ask with --ask TEXT")
    at_terminal = not args.ask and sys.stdin.isatty()
    if not args.ask and hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="backslashreplace")    # a byte that is no text becomes \xff
    if at_terminal:
        examples = models.examples(folder.parent)
        if examples:
            shown = [f"{question}  ({label})" for label, question in examples.items()]
            print("\n  ".join(["Ask, for example:", *shown]), file=sys.stderr)
        print("/help lists what else you can type. Ctrl-D ends the conversation.", file=sys.stderr)
    for line in questions(args, at_terminal):
        if not at_terminal:
            print(f"you> {line}")
        try:
            if line.startswith("/") and not args.ask:
                talk.command(line)
            else:
                talk.ask(line)
        except (ValueError, OSError) as e:
            if args.ask or isinstance(e, BrokenPipeError):
                raise
            print(f"[{e}]", file=sys.stderr)


def main(argv=None):
    """sample.py complete, and sample.py chat."""
    args = parse_args(argv)
    if args.command == "chat":
        chat(args)
    else:
        complete(args)


if __name__ == "__main__":
    command.run(main, data=True)
