"""page.py: what the page (page.html) shows of a run, as JSON.

Each function answers one route of serve.py. It takes the serve.Handler of the connection and the
body of the request, and returns an api.Answer or a function that makes one.
"""

import base64
import functools
import json
import urllib.parse
from pathlib import Path

from model import cores                 # noqa: F401  before numpy
import numpy as np
from chat import api, fields, generate, inside, models
from chat.fields import field
from chat.request import Answer, Refused
from chat.served import ASSISTANTS, BASES
from run import command
from tokens import vocabularies

LOOKED_AT = 1 << 27                             # numbers inside a model in one /api/look
MOST_LINES = 4000                               # of a log in one answer


def page(handler, _):
    """The page itself."""
    path = Path(__file__).with_name("page.html")
    return Answer(path.read_bytes(), kind="text/html; charset=utf-8")


def time_of(path):
    """When a file was last written; 0 if it has just gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0


def about(handler, _):
    """What there is to see of the run."""
    served = handler.server.models
    run, there = served.run, list(served.folders)
    logs, questions = [], []
    if run:
        logs = [p.parent.name for p in sorted(run.glob("*/log.jsonl"), key=time_of)]
    try:
        questions = models.examples(run or served.only.parent)
    except (ValueError, KeyError, OSError):     # a file that is being written, or is no such file
        pass
    assistant = base = None
    if there:
        assistant = served.name_of(None, ASSISTANTS + BASES)
        base = served.name_of(None, BASES + ASSISTANTS)
    return Answer({
        "models": there,
        "assistant": assistant,
        "base": base,
        "examples": questions,
        "logs": logs,
        "report": bool(run and (run / "docs" / "report.json").exists()),
        "arena": bool(run and (run / "arena.json").exists()),
        "vocabularies": [name for name in vocabularies.PUBLISHED if served.has_vocabulary(name)],
    })


def run_file(handler, *parts):
    """The path of a file of the run; 404 if there is none."""
    run = handler.server.models.run
    if not run or not run.joinpath(*parts).exists():
        raise Refused(404, f"{'/'.join(parts)}: the run has none yet")
    return run.joinpath(*parts)


def report(handler, _):
    """The report of data.py."""
    return Answer(run_file(handler, "docs", "report.json").read_bytes())


def ranking(handler, _):
    """The ratings of `align.py arena`."""
    return Answer(run_file(handler, "arena.json").read_bytes())


def log_of(handler, _):
    """The lines of a stage's log behind a byte, as columns; of very many lines only some."""
    query = urllib.parse.urlsplit(handler.head.target).query
    query = dict(urllib.parse.parse_qsl(query))
    stage, after = query.get("stage"), query.get("after", "")
    run = handler.server.models.run
    if not run or stage not in [path.parent.name for path in run.glob("*/log.jsonl")]:
        shown = (stage or "")[:40]
        raise Refused(404, f"{shown!r}: no stage of the run with a log", "stage")
    after = int(after) if after.isdecimal() and len(after) < 16 else 0
    with open(run_file(handler, stage, "log.jsonl"), "rb") as f:
        size = f.seek(0, 2)
        f.seek(min(max(after - 1, 0), size))
        if after and f.read(1) != b"\n":        # the log was begun anew
            after = f.seek(0)
        data = f.read()
    data = data[:data.rfind(b"\n") + 1]         # an unfinished line comes next time
    lines = data.splitlines()
    every, last, kept = -(-len(lines) // MOST_LINES), len(lines) - 1, []
    for i, line in enumerate(lines):
        if i % every == 0 or i == last or b'"val_' in line:     # evaluations are few
            kept.append(line)
    return Answer({
        "stage": stage,
        "next": after + len(data),
        "lines": len(lines),
        "columns": columns_of(kept),
    })


def columns_of(lines):
    """{key: [its number in each line, or None]} of lines of JSON. A broken line has no numbers."""
    columns = {}
    for n, line in enumerate(lines):
        try:
            row = json.loads(line, parse_constant=lambda _: None)       # NaN is none of JSON's
        except ValueError:
            row = {}
        for key, value in row.items() if isinstance(row, dict) else ():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number or value is None:
                columns.setdefault(key, [None] * n).append(value)
        for column in columns.values():
            column += [None] * (n + 1 - len(column))
    return columns


def ids_to_look_at(body, cfg, tokenizer):
    """The tokens of a conversation, of a text, or as they were given."""
    ids = field(body, "tokens", None, list)
    if ids is None and body.get("messages") is not None:
        ids = fields.prompt_of(body, cfg, tokenizer)
    elif ids is None:
        text = field(body, "text", "", str)
        fields.refuse_long(len(text), cfg, tokenizer, "text")
        ids = [*generate.document_begin(tokenizer), *tokenizer.encode_ordinary(text)]
    if len(ids) > cfg.n_positions:
        raise Refused(400, f"{len(ids)} tokens, the model's context is {cfg.n_positions}",
                      "text", "context_length_exceeded")
    if not fields.are_tokens(ids, tokenizer):
        raise Refused(400, "tokens must be numbers of tokens, and at least one", "tokens")
    return ids


def look(handler, body):
    """What goes on inside a model (inside.describe); with layer and head, the attention there."""
    name, writer = handler.model_of(body, BASES + ASSISTANTS)
    cfg, tokenizer = writer.cfg, writer.tokenizer
    ids = ids_to_look_at(body, cfg, tokenizer)
    logits = (cfg.n_layer + 1) * cfg.vocab_size
    attention = cfg.n_layer * cfg.n_head * len(ids)
    numbers = len(ids) * (logits + attention)
    if numbers > LOOKED_AT:
        raise Refused(
            400,
            f"{len(ids)} tokens are {numbers:,} numbers inside this model, "
            f"at most {LOOKED_AT:,} are looked at; shorten the text",
            "text",
            "context_length_exceeded",
        )
    layer = field(body, "layer", None, int, 0, cfg.n_layer - 1)
    head = field(body, "head", None, int, 0, cfg.n_head - 1)
    settings = fields.settings_of(body, tokenizer, 1, -1, ())
    n = field(body, "n", 12, int, 1, 50)
    lock = handler.server.looking               # it holds the logits of all layers: one at a time
    if layer is not None and head is not None:
        return functools.partial(attention_of, lock, writer, ids, layer, head)
    return functools.partial(described, lock, name, writer, ids, settings, n)


def attention_of(lock, writer, ids, layer, head):
    """How much each token looks at each other, as bytes: 255 is all of it."""
    with lock:
        attention, _ = inside.look(writer.params, writer.cfg, ids)
    data = np.round(attention[layer, head] * 255).astype(np.uint8).tobytes()
    return Answer({"size": len(ids), "attention": base64.b64encode(data).decode()})


def described(lock, name, writer, ids, s, n):
    """inside.describe under the settings s, and which of the tokens are special."""
    model = writer.params, writer.cfg, writer.tokenizer
    with lock:
        found = inside.describe(model, ids, n, s.temperature, s.top_k, s.top_p, s.min_p)
    names = writer.tokenizer.special_tokens.values()
    special = [i for i, token in enumerate(ids) if token in names]
    return Answer({"model": name, "special": special, **found})


def cut(handler, body):
    """A text in the tokens of a vocabulary. A token that is no whole character shows its bytes."""
    name = field(body, "vocabulary", "", str)
    text = field(body, "text", "", str)
    fields.refuse_large(len(text.encode("utf-8", "surrogatepass")), "bytes", "text")
    served = handler.server.models
    if name in served.folders:
        _, writer = handler.model_of({"model": name}, ())
        tokenizer = writer.tokenizer
    elif name in vocabularies.PUBLISHED:
        try:
            tokenizer = served.vocabulary(name)
        except (ValueError, OSError) as e:
            raise Refused(404, f"{name}: {e}", "vocabulary") from None
    else:
        raise Refused(404, f"{name[:40]!r}: no vocabulary of that name", "vocabulary")
    ids = tokenizer.encode_ordinary(text)
    pieces = [api.spelled(tokenizer, i) for i in ids]
    return Answer({
        "vocabulary": name, "size": tokenizer.n_vocab, "ids": ids, "pieces": pieces,
    })


if __name__ == "__main__":
    command.only_imported(__doc__)
