"""page.py: the page (the files in page/), and what it shows of a run, as JSON.

Each function answers one route of serve.py. It takes the serve.Handler of the connection and the
body of the request, and returns an api.Answer or a function that makes one.
"""

import base64
import bisect
import contextlib
import functools
import json
import re
import urllib.parse
from pathlib import Path

import bpe
from chat import api, chain, fields, inside, models
from chat.fields import field
from chat.request import Answer, Refused
from chat.served import ASSISTANTS, BASES
from model import folders
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
    def with_file(tag):
        return lambda match: (
            f"<{tag}>\n{(FOLDER / match[1]).read_text(encoding='utf-8')}</{tag}>")

    text = re.sub(r'<link rel="stylesheet" href="page/([\w.]+)">', with_file("style"), text)
    return re.sub(r'<script src="page/([\w.]+)"></script>', with_file("script"), text)


@functools.lru_cache
def vocabulary(name, ranks):
    """A published tokenizer that is on this machine; ValueError or OSError if there is none."""
    return bpe.Tokenizer.load(vocabularies.find(name, ranks))


def about(handler, _):
    """What there is to see of the run now. The page asks again and again.

    contexts     {model: how many tokens it reads at once}
    documents    models that have read documents and no conversations
    trained      names of stages that train a model; each has its colour
    report       changes with the report of data.py; arena with that of battles
    examples     [label, question] of each
    read         sentences about what the models have read
    system       whether a conversation that they learned from has a message of the system; None if
                 unknown
    """
    served = handler.server.models
    run, folders_there = served.run, served.folders
    there = chain.in_order(folders_there)
    logs = chain.logs_of(run) if run else {}
    found = {
        "models": there,
        "contexts": {name: context_of(served, name, folders_there[name]) for name in there},
        "documents": [name for name in there if name in BASES and name in logs],
        "assistant": served.name_of(None, ASSISTANTS + BASES) if there else None,
        "base": served.name_of(None, BASES + ASSISTANTS) if there else None,
        "vocabularies": published_here(served.ranks),
        "stages": chain.stages(run) if run else [],
        "trained": chain.TRAINED,
        "report": chain.changed(run / "docs/report.json") if run else None,
        "arena": chain.changed(run / "arena.json") if run else None,
        "examples": [],
        "read": [],
        "system": None,
    }
    folder = run or served.only.parent
    with contextlib.suppress(ValueError, KeyError, OSError):    # a file that is being written
        changes = tuple(map(chain.changed, sorted((folder / "tasks").glob("*_test.jsonl"))))
        found["examples"] = list(examples_of(folder, changes).items())
    with contextlib.suppress(ValueError, KeyError, OSError, IndexError):
        found["read"] = chain.what_was_read(folder, there)
        _, found["system"] = chain.conversations(folder)
    return Answer(found)


def context_of(served, name, folder):
    """How many tokens a model reads at once; None while its folder is being written."""
    writer = served.writers.get(name)
    if writer:                          # it may be served with less than it could read
        return writer.cfg.n_positions
    try:
        return folders.load_config(folder).n_positions
    except (ValueError, OSError):
        return None


@functools.lru_cache(8)
def examples_of(folder, _):
    """models.examples, kept until the files of tasks change (the second argument says so)."""
    return models.examples(folder)


def published_here(ranks):
    """The names of the published vocabularies that are on this machine."""
    there = []
    for name in vocabularies.PUBLISHED:
        with contextlib.suppress(ValueError, OSError):
            vocabularies.find(name, ranks)
            there.append(name)
    return there


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
    logs = chain.logs_of(run) if run else {}
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
    rows = [row_of(line) for line in kept]
    return Answer({
        "stage": stage,
        "next": after + len(data),
        "lines": len(lines),
        "columns": columns_of(rows),
        "dreams": dreams_of(rows),
    })


def row_of(line):
    """The object in a line of JSON; an empty one for a broken line, which has no numbers."""
    try:
        row = json.loads(line, parse_constant=lambda _: None)   # NaN is none of JSON's
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def columns_of(rows):
    """{key: [its number in each row, or None]}"""
    columns = {}
    for n, row in enumerate(rows):
        for key, value in row.items():
            if value is None or type(value) in (int, float):
                columns.setdefault(key, [None] * len(rows))[n] = value
    return columns


def dreams_of(rows):
    """[step, text] for each row with a text that the model wrote by itself (train.py)."""
    dreams = []
    for row in rows:
        if isinstance(row.get("dream"), str):
            dreams.append([row.get("step"), row["dream"]])
    return dreams


def ids_to_look_at(body, writer):
    """The tokens of a conversation, of a text, or as they were given."""
    cfg, tokenizer = writer.cfg, writer.tokenizer
    ids = field(body, "tokens", None, list)
    if ids is None and body.get("messages") is not None:
        ids = fields.prompt_of(body, cfg, writer.format)
    elif ids is None:
        text = field(body, "text", "", str)
        fields.refuse_long(len(text), cfg, tokenizer, "text")
        ids = inside.ids_of(tokenizer, text, field(body, "special", False, bool))
    if len(ids) > cfg.n_positions:
        raise fields.too_long(f"{len(ids)} tokens", cfg, "text")
    if not fields.are_tokens(ids, tokenizer):
        raise Refused(400, "tokens must be numbers of tokens, and at least one", "tokens")
    return ids


def refuse_many(numbers, what):
    """Refused for more numbers inside a model than are looked at at a time."""
    if numbers > LOOKED_AT:
        message = f"{what} are {numbers:,} numbers inside this model"
        raise Refused(400, f"{message}, at most {LOOKED_AT:,} are looked at; shorten the text",
                      "text", "context_length_exceeded")


def special_places(ids, tokenizer):
    """The places of special tokens among some ids."""
    special = tokenizer.special_tokens.values()
    return [place for place, token in enumerate(ids) if token in special]


def look(handler, body):
    """What goes on inside a model (inside.describe); with layer and head, the attention there."""
    name, writer = handler.model_of(body, BASES + ASSISTANTS)
    cfg, tokenizer = writer.cfg, writer.tokenizer
    ids = ids_to_look_at(body, writer)
    logits = (cfg.n_layer + 1) * cfg.vocab_size
    refuse_many(len(ids) * (logits + cfg.n_layer * cfg.n_head * len(ids)), f"{len(ids)} tokens")
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
        return Answer({"model": name, "special": special_places(ids, tokenizer), **found})

    return description if layer is None or head is None else attention


def fit(handler, body):
    """What of a conversation the model reads, so that there is room for a reply.

    The oldest turns are forgotten, each a question with what was said until the next, until `room`
    tokens of the context are free, or half of it where that is less. The last question is kept.
    """
    _, writer = handler.model_of(body, ASSISTANTS + BASES)
    context = writer.cfg.n_positions
    messages = field(body, "messages", [], list)
    room = min(field(body, "room", 1, int, 1, fields.MANY), context // 2)
    asked = [i for i, m in enumerate(messages) if isinstance(m, dict) and m.get("role") == "user"]
    if not asked:
        raise Refused(400, "messages: nobody asks anything in them", "messages")
    first = messages[:asked[0]]         # of the system

    def kept(forgotten):
        """The messages without the oldest turns."""
        return [*first, *messages[asked[forgotten]:]]

    def fits(forgotten):
        """Whether they leave enough room."""
        try:
            ids = fields.prompt_of({"messages": kept(forgotten)}, writer.cfg, writer.format)
        except Refused as e:            # it is refused before it is cut into tokens
            if e.value["error"]["code"] != "context_length_exceeded":
                raise
            return False
        return len(ids) <= context - room

    forgotten = bisect.bisect_left(range(len(asked) - 1), True, key=fits)
    return Answer({"messages": kept(forgotten), "forgotten": forgotten, "context": context})


def pieces(handler, body):
    """Tokens, each as text, with those that are special and those that a model would learn.

    The tokens are those of messages, or of a text, or given as numbers. turns: the number of each
    token's message in our chat format, None outside of one.
    """
    _, writer = handler.model_of(body, ASSISTANTS + BASES)
    tokenizer, ids = writer.tokenizer, ids_to_look_at(body, writer)
    turns, written = roles_in(ids, tokenizer)
    return Answer({
        "ids": ids,
        "pieces": [api.spelled(tokenizer, i) for i in ids],
        "special": special_places(ids, tokenizer),
        "turns": turns,
        "written": written,
    })


def roles_in(ids, tokenizer):
    """(the number of the message that each token is in, places of what the assistant wrote)

    In our chat format a message is <|im_start|> role <|im_sep|> content <|im_end|>. Where a tool
    has answered, between <|output_start|> and <|output_end|>, the assistant wrote nothing.
    """
    names = {token: name for name, token in tokenizer.special_tokens.items()}
    turns, written = [], []
    number, role, sampled, output = -1, None, False, False
    for place, token in enumerate(ids):
        name = names.get(token)
        if name == "<|im_start|>":
            number, role = number + 1, []
        elif name == "<|output_start|>":
            output = True
        turns.append(None if role is None else number)
        if sampled and not output:
            written.append(place)
        if name == "<|im_sep|>" and role is not None:
            sampled = tokenizer.decode(role) == "assistant"
        elif name == "<|im_end|>":
            role, sampled = None, False
        elif name == "<|output_end|>":
            output = False
        elif role is not None and not sampled and name is None:
            role.append(token)
    return turns, written


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
