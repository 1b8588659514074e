"""page.py: the page (the files in page/), and what it shows of a run, as JSON.

Each function answers one route of serve.py. It takes the serve.Handler of the connection and the
body of the request, and returns an api.Answer or a function that makes one.
"""

import base64
import contextlib
import functools
import json
import re
import urllib.parse
from pathlib import Path

import bpe
from chat import api, fields, generate, inside, models
from chat.fields import field
from chat.request import Answer, Refused
from chat.served import ASSISTANTS, BASES
from tokens import vocabularies
import numpy as np

LOOKED_AT = 1 << 27                             # numbers inside a model in one /api/look
MOST_LINES = 4000                               # of a log in one answer


FOLDER = Path(__file__).with_name("page")
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix in KINDS)


def page(name, handler=None, _=None):
    """A file of the page."""
    path = FOLDER / name
    return Answer(path.read_bytes(), kind=f"{KINDS[path.suffix]}; charset=utf-8")


def inlined(text):
    """A page in one file, to send to someone: its style and its scripts stand in it."""
    def style(match):
        return f"<style>\n{(FOLDER / match[1]).read_text(encoding='utf-8')}</style>"

    def script(match):
        return f"<script>\n{(FOLDER / match[1]).read_text(encoding='utf-8')}</script>"

    text = re.sub(r'<link rel="stylesheet" href="page/([\w.]+)">', style, text)
    return re.sub(r'<script src="page/([\w.]+)"></script>', script, text)


def logs_of(run):
    """{stage: its log} of a run, the one last written at the end."""
    def time_of(path):
        try:
            return path.stat().st_mtime
        except OSError:                         # it has just gone
            return 0

    return {path.parent.name: path for path in sorted(run.glob("*/log.jsonl"), key=time_of)}


@functools.lru_cache
def vocabulary(name, ranks):
    """A published tokenizer that is on this machine; ValueError or OSError if there is none."""
    return bpe.Tokenizer.load(vocabularies.find(name, ranks))


def about(handler, _):
    """What there is to see of the run."""
    served, questions = handler.server.models, []
    run, there = served.run, list(served.folders)
    with contextlib.suppress(ValueError, KeyError, OSError):    # a file that is being written
        questions = models.examples(run or served.only.parent)
    published = []
    for name in vocabularies.PUBLISHED:
        with contextlib.suppress(ValueError, OSError):          # it is not on this machine
            vocabularies.find(name, served.ranks)
            published.append(name)
    logs = list(logs_of(run)) if run else []
    return Answer({
        "models": there,
        "assistant": served.name_of(None, ASSISTANTS + BASES) if there else None,
        "base": served.name_of(None, BASES + ASSISTANTS) if there else None,
        "examples": questions,
        "logs": logs,
        "arena": bool(run and (run / "arena.json").exists()),
        "vocabularies": published,
    })


def run_file(name, handler, _):
    """A file of the run, as it is; 404 if there is none."""
    run = handler.server.models.run
    if not run or not (run / name).exists():
        raise Refused(404, f"{name}: the run has none yet")
    return Answer((run / name).read_bytes())


report = functools.partial(run_file, "docs/report.json")        # of data.py
ranking = functools.partial(run_file, "arena.json")             # of `align.py arena`


def log_of(handler, _):
    """The lines of a stage's log behind a byte, as columns; of very many lines only some."""
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(handler.head.target).query))
    stage, after = query.get("stage"), query.get("after", "")
    run = handler.server.models.run
    logs = logs_of(run) if run else {}
    if stage not in logs:
        raise Refused(404, f"{(stage or '')[:40]!r}: no stage of the run with a log", "stage")
    after = int(after) if after.isdecimal() and len(after) < 16 else 0
    with open(logs[stage], "rb") as f:
        f.seek(max(after - 1, 0))
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
            continue
        for key, value in row.items() if isinstance(row, dict) else ():
            if value is None or type(value) in (int, float):
                columns.setdefault(key, [None] * len(lines))[n] = value
    return columns


def ids_to_look_at(body, writer):
    """The tokens of a conversation, of a text, or as they were given."""
    cfg, tokenizer = writer.cfg, writer.tokenizer
    ids = field(body, "tokens", None, list)
    if ids is None and body.get("messages") is not None:
        ids = fields.prompt_of(body, cfg, writer.format)
    elif ids is None:
        text = field(body, "text", "", str)
        fields.refuse_long(len(text), cfg, tokenizer, "text")
        ids = [*generate.document_begin(tokenizer), *tokenizer.encode_ordinary(text)]
    if len(ids) > cfg.n_positions:
        raise fields.too_long(f"{len(ids)} tokens", cfg, "text")
    if not fields.are_tokens(ids, tokenizer):
        raise Refused(400, "tokens must be numbers of tokens, and at least one", "tokens")
    return ids


def look(handler, body):
    """What goes on inside a model (inside.describe); with layer and head, the attention there."""
    name, writer = handler.model_of(body, BASES + ASSISTANTS)
    cfg, tokenizer = writer.cfg, writer.tokenizer
    ids = ids_to_look_at(body, writer)
    logits = (cfg.n_layer + 1) * cfg.vocab_size
    numbers = len(ids) * (logits + cfg.n_layer * cfg.n_head * len(ids))
    if numbers > LOOKED_AT:
        message = f"{len(ids)} tokens are {numbers:,} numbers inside this model"
        raise Refused(400, f"{message}, at most {LOOKED_AT:,} are looked at; shorten the text",
                      "text", "context_length_exceeded")
    layer = field(body, "layer", None, int, 0, cfg.n_layer - 1)
    head = field(body, "head", None, int, 0, cfg.n_head - 1)
    s = fields.settings_of(body, tokenizer, 1, -1, ())
    n = field(body, "n", 12, int, 1, 50)

    def attention():
        """How much each token looks at each other, as bytes: 255 is all of it."""
        with handler.server.looking:    # it holds the logits of all layers: one at a time
            seen, _ = inside.look(writer.params, cfg, ids)
        data = np.round(seen[layer, head] * 255).astype(np.uint8).tobytes()
        return Answer({"size": len(ids), "attention": base64.b64encode(data).decode()})

    def description():
        """What is likely behind each token, and which of the tokens are special."""
        model = writer.params, cfg, tokenizer
        with handler.server.looking:
            found = inside.describe(model, ids, n, s.temperature, s.top_k, s.top_p, s.min_p)
        names = tokenizer.special_tokens.values()
        special = [i for i, token in enumerate(ids) if token in names]
        return Answer({"model": name, "special": special, **found})

    return description if layer is None or head is None else attention


def cut(handler, body):
    """A text in the tokens of a vocabulary. A token that is no whole character shows its bytes."""
    name = field(body, "vocabulary", "", str)
    text = field(body, "text", "", str)
    fields.refuse_large(len(text.encode("utf-8", "surrogatepass")), "bytes", "text")
    served = handler.server.models
    if name in served.folders:
        tokenizer = handler.model_of({"model": name}, ())[1].tokenizer
    elif name in vocabularies.PUBLISHED:
        try:
            tokenizer = vocabulary(name, served.ranks)
        except (ValueError, OSError) as e:
            raise Refused(404, f"{name}: {e}", "vocabulary") from None
    else:
        raise Refused(404, f"{name[:40]!r}: no vocabulary of that name", "vocabulary")
    ids = tokenizer.encode_ordinary(text)
    pieces = [api.spelled(tokenizer, i) for i in ids]
    return Answer({"vocabulary": name, "size": tokenizer.n_vocab, "ids": ids, "pieces": pieces})
