"""inside_page.py: what the page's views Inside and Playground ask for, as JSON.

As in page.py, each function answers one route of serve.py. What a text of the request is, `text`
with or without `special`, or `tokens`, is said by page.ids_to_look_at.
"""

import random

import numpy as np

from chat import api, beginnings as begin, fields, induction, inside, page, patching
from chat.fields import field
from chat.request import Answer, Refused
from chat.served import ASSISTANTS, BASES

ROWS, LENGTH = 32, 10                   # random texts, and how many tokens each says twice
MOST_PARTS = 4096                       # that a change may name


def names_of(body, name):
    """A list of texts in a request, () if it is absent."""
    found = field(body, name, [], list)
    if len(found) > MOST_PARTS or not all(isinstance(each, str) for each in found):
        raise Refused(400, f"{name} is {fields.shown(found)}, expected a list of texts", name)
    return found


# ------------------------------------------------------------------------------ a text and its ids


def ids(handler, body):
    """The tokens of a text, or those that are given, and their text. They may be any number."""
    name, writer = handler.model_of(body, BASES + ASSISTANTS)
    tokenizer = writer.tokenizer
    text, found = field(body, "text", "", str), field(body, "tokens", None, list)
    fields.refuse_large(len(found or text.encode("utf-8", "surrogatepass")), "bytes or tokens",
                        "text")
    if found is None:
        found = inside.ids_of(tokenizer, text, field(body, "special", False, bool))
    elif not fields.are_tokens(found, tokenizer):
        raise Refused(400, "tokens must be numbers of tokens, and at least one", "tokens")
    return Answer({
        "model": name,
        "ids": found,
        "pieces": [api.spelled(tokenizer, i) for i in found],
        "text": inside.text_of(tokenizer, found),
        "context": writer.cfg.n_positions,
    })


# -------------------------------------------------------------------- one text, two ways to read it


def contrast(handler, body):
    """Two predictions for one text (inside.side_by_side): before and after something is changed.

    off, patch  names of parts (patching.py); other, or other_tokens: the text of the patches
    places      positions that are patched; all if it is absent
    against     another model of the run, in place of all this
    """
    name, writer = handler.model_of(body, BASES + ASSISTANTS)
    ids = page.ids_to_look_at(body, writer)
    settings = fields.settings_of(body, writer.tokenizer, 1, -1, ())
    settings = settings.temperature, settings.top_k, settings.top_p, settings.min_p
    n = field(body, "n", 12, int, 1, 50)
    cfg = writer.cfg
    page.refuse_many(len(ids) * (2 * cfg.vocab_size + cfg.n_layer * 8 * cfg.n_embd),
                     f"{len(ids)} tokens, read twice,")
    if body.get("against") is not None:
        return against(handler, body, writer, ids, settings, n)
    return with_change(handler, body, writer, ids, settings, n)


def against(handler, body, writer, ids, settings, n):
    """contrast() of two models."""
    other_name, other = handler.model_of({"model": field(body, "against", "", str)}, ())
    if other.tokenizer.fingerprint != writer.tokenizer.fingerprint:
        message = "cuts text into other tokens, so their predictions cannot be set side by side"
        raise Refused(400, f"{other_name} {message}", "against")
    if len(ids) > other.cfg.n_positions:
        raise fields.too_long(f"{len(ids)} tokens", other.cfg, "text")

    def answer():
        """Both models read the text, one after the other."""
        found = []
        with handler.server.looking:
            for each in (writer, other):
                logits = patching.changed(each.params, each.cfg, ids, patching.Change())
                found.append(inside.predictions(each.tokenizer, logits, *settings))
        return Answer(inside.side_by_side(writer.tokenizer, *found, ids, n))

    return answer


def with_change(handler, body, writer, ids, settings, n):
    """contrast() of a model and itself with parts that are off, or patched."""
    cfg, tokenizer = writer.cfg, writer.tokenizer
    places, other = field(body, "places", None, list), None
    if places is not None and not all(type(t) is int and 0 <= t < len(ids) for t in places):
        expected = f"a list of places from 0 to {len(ids) - 1}"
        raise Refused(400, f"places is {fields.shown(places)}, expected {expected}", "places")
    if body.get("other") is not None or body.get("other_tokens") is not None:
        asked = {"text": body.get("other"), "tokens": body.get("other_tokens")}
        other = page.ids_to_look_at(asked | {"special": body.get("special")}, writer)
    try:
        change = patching.change_of(cfg, names_of(body, "off"), names_of(body, "patch"), places)
        patching.check_lengths(change, ids, other)
    except ValueError as e:
        raise Refused(400, str(e), "other") from None

    def answer():
        """The model reads the text as it is, and then with the change."""
        with handler.server.looking:
            plain = patching.changed(writer.params, cfg, ids, patching.Change())
            logits = patching.changed(writer.params, cfg, ids, change, other)
        pair = [inside.predictions(tokenizer, z, *settings) for z in (plain, logits)]
        return Answer(inside.side_by_side(tokenizer, *pair, ids, n))

    return answer


def trace(handler, body):
    """Where the model has what makes it say what another text makes it say.

    token is the likeliest one behind the other text. shares[l][t]: its probability behind the text
    if all behind layer l + 1 is patched at place t alone; before, after: behind the two texts.
    """
    _, writer = handler.model_of(body, BASES + ASSISTANTS)
    cfg, tokenizer = writer.cfg, writer.tokenizer
    ids = page.ids_to_look_at(body, writer)
    other = page.ids_to_look_at({"tokens": body.get("other_tokens")}, writer)
    try:
        patching.check_lengths(patching.change_of(cfg, patch=["layer1"]), ids, other)
    except ValueError as e:
        raise Refused(400, str(e), "other_tokens") from None
    page.refuse_many(len(ids) ** 2 * (cfg.vocab_size + 8 * cfg.n_embd),
                     f"{len(ids)} tokens, read once for each place,")

    def answer():
        """Let the model read the text once for each layer and place."""
        plain = patching.Change()
        with handler.server.looking:
            texts = [patching.changed(writer.params, cfg, each, plain) for each in (ids, other)]
            before, after = [inside.predictions(tokenizer, z[-1:])[0] for z in texts]
            token = int(after.argmax())
            shares = []
            for layer in range(cfg.n_layer):
                logits = patching.last_logits(writer.params, cfg, ids, other, layer)
                shares.append(inside.predictions(tokenizer, logits)[:, token].round(5).tolist())
        return Answer({
            "token": [token, api.spelled(tokenizer, token)],
            "before": round(float(before[token]), 5),
            "after": round(float(after[token]), 5),
            "shares": shares,
        })

    return answer


# --------------------------------------------------------------------------------- induction heads


def heads_that_copy(handler, body):
    """How much each head looks back for what comes next (induction.py), and an example to look at.

    chance is what a head would score that looks at all places alike.
    """
    name, writer = handler.model_of(body, BASES + ASSISTANTS)
    cfg, tokenizer = writer.cfg, writer.tokenizer
    rng = random.Random(field(body, "seed", 0, int, 0, fields.MANY))
    tokens = induction.ordinary_tokens(tokenizer)
    length = min(LENGTH, (cfg.n_positions - 1) // 2, len(tokens))
    if length < 2:
        raise Refused(400, f"{name}: its context of {cfg.n_positions} holds no text twice")
    rows = induction.rows_of(tokenizer, rng, tokens, ROWS, length)
    page.refuse_many(rows.size * (cfg.vocab_size + cfg.n_layer * cfg.n_head * rows.shape[1]),
                     f"{len(rows)} random texts")

    def answer():
        """Let the model read random texts that say everything twice."""
        with handler.server.looking:
            by_head = induction.scores(writer.params, cfg, rows)
            losses = induction.losses(writer.params, cfg, rows)
        reading = np.arange(rows.shape[1] - length, rows.shape[1] - 1)
        return Answer({
            "model": name,
            "scores": np.round(by_head.astype(float), 4).tolist(),
            "chance": round(float((1 / (reading + 1)).mean()), 4),
            "first": round(float(losses[:-length].mean()), 3),
            "second": round(float(losses[1 - length:].mean()), 3),
            "length": length,
            "rows": len(rows),
            "ids": rows[0].tolist(),
        })

    return answer


# ------------------------------------------------------------------- pages for the model to go on


def beginnings(handler, _):
    """Beginnings of pages to try on a base model (beginnings.py); none where no run is served.

    Refused if a file of the run is damaged.
    """
    run = handler.server.models.run
    try:
        return Answer({"beginnings": begin.of_run(run) if run else []})
    except (ValueError, OSError) as e:
        raise Refused(500, str(e)) from None
