"""patching.py: what becomes of the next token if a part of the model writes something else.

Each head and each MLP adds a vector to the residual stream. What a part is there for shows when it
writes something else while all others work on:

    off     it adds nothing
    patch   it adds what it added, at the same place, while the model read another text

A part has a name. Layers and heads count from 1:

    1.3     head 3 of layer 1
    mlp2    the MLP of layer 2
    layer2  all that the stream holds behind layer 2; it can be patched alone

Whoever patches layer2 at every place has the rest of the model read the other text, so its
prediction is the other text's to the last digit. Patched at one place, it shows where in the text
the model has what it needs by then.

Sources: Vig et al. 2020 (patching); Meng et al. 2022 (one place at a time); Michel et al. 2019
(heads that are off).
"""

import functools
import re
from typing import Callable, NamedTuple

import gpt
from model import families, llama
import numpy as np

NUMBER = "[0-9]{1,9}"
NAME = re.compile(rf"(?P<head_layer>{NUMBER})\.(?P<head>{NUMBER})|"
                  rf"(?P<kind>mlp|layer)(?P<layer>{NUMBER})")


class Part(NamedTuple):
    """A part of a model. layer and head count from 0; head is None where it is no head."""

    kind: str                   # head, mlp or layer
    layer: int
    head: int | None = None

    @property
    def name(self):
        """As people write it."""
        if self.kind == "head":
            return f"{self.layer + 1}.{self.head + 1}"
        return f"{self.kind}{self.layer + 1}"


def part_of(name, cfg):
    """The Part of a name; ValueError if the model has none of that name."""
    found = NAME.fullmatch(name)
    if found and found["head"]:
        part = Part("head", int(found["head_layer"]) - 1, int(found["head"]) - 1)
    elif found:
        part = Part(found["kind"], int(found["layer"]) - 1)
    if found and 0 <= part.layer < cfg.n_layer and 0 <= (part.head or 0) < cfg.n_head:
        return part
    L, NH = cfg.n_layer, cfg.n_head
    there = f"heads 1.1 to {L}.{NH}, mlp1 to mlp{L}, and layer1 to layer{L} to patch"
    raise ValueError(f"{name[:40]!r} is no part of this model, which has {there}")


# ------------------------------------------------------------------------------- the plain forward


class Family(NamedTuple):
    """What a family does otherwise than the other one. All arrays are (B,T,C)."""

    embed: Callable             # tokens (B,T) -> x
    norm: Callable              # (x, its weight, its bias or None) -> x, normed
    attention: Callable         # (x, parameters of the block, attend) -> what attention adds
    mlp: Callable               # (x, parameters of the block) -> what the MLP adds
    n_group: int                # query heads that share keys


def gpt2(params, cfg, T):
    """The Family of gpt.py."""
    def embed(tokens):
        positions = np.broadcast_to(np.arange(T), tokens.shape)
        tables = params["wte.weight"], params["wpe.weight"]
        return gpt.embedding_forward(tokens, positions, *tables)

    def norm(x, w, b):
        return gpt.layernorm_forward(x, w, b)[0]

    def attention(x, p, attend):
        return gpt.self_attention_forward(x, p, cfg.n_head, attend)[0]

    def mlp(x, p):
        return gpt.mlp_forward(x, p)[0]

    return Family(embed, norm, attention, mlp, 1)


def llama_like(params, cfg, T):
    """The Family of model/llama.py."""
    turn = llama.turns_of(cfg, np.arange(T)[None], params["wte.weight"].dtype)

    def embed(tokens):
        return params["wte.weight"][tokens]

    def norm(x, w, _):
        return llama.rmsnorm_forward(x, w, cfg.norm_eps)[0]

    def attention(x, p, attend):
        return llama.self_attention_forward(x, p, cfg, turn, attend)[0]

    def mlp(x, p):
        return llama.mlp_forward(x, p)[0]

    return Family(embed, norm, attention, mlp, cfg.n_head // cfg.n_kv_head)


def forward(params, cfg, tokens, edit):
    """The definition's forward, where `edit` may change what a part writes: (B,T) -> (B,T,V)

    edit(part, written) returns what is written in its place. written is for a head the mean of the
    values that it looked at (B,T,HS), whose product with the head's rows of the output matrix is
    added to the stream; for an MLP what is added (B,T,C); for a layer the stream behind it (B,T,C).
    """
    gpt.check_tokens(cfg, tokens)
    T = tokens.shape[1]
    family = (gpt2 if families.of(cfg) is gpt else llama_like)(params, cfg, T)
    visible = np.tri(T, dtype=bool)

    def attend(layer, q, k, v):
        k = llama.grouped_forward(k, family.n_group)
        v = llama.grouped_forward(v, family.n_group)
        o, cache = gpt.attention_forward(q, k, v, visible)      # (B,NH,T,HS)
        written = [edit(Part("head", layer, head), o[:, head]) for head in range(cfg.n_head)]
        return np.stack(written, 1), cache

    x = family.embed(tokens)
    for layer in range(cfg.n_layer):
        p = gpt.block_params(params, layer)
        n = family.norm(x, p["ln_1.weight"], p.get("ln_1.bias"))
        x = x + family.attention(n, p, functools.partial(attend, layer))
        n = family.norm(x, p["ln_2.weight"], p.get("ln_2.bias"))
        x = x + edit(Part("mlp", layer), family.mlp(n, p))
        x = edit(Part("layer", layer), x)
    y = family.norm(x, params["ln_f.weight"], params.get("ln_f.bias"))
    return y @ params[families.head_name(cfg)].T


# ----------------------------------------------------------------------------------------- changes


class Change(NamedTuple):
    """What is to be changed. `places` are the positions that are patched, or None for all."""

    off: tuple = ()             # Parts
    patch: tuple = ()           # Parts
    places: tuple | None = None


def change_of(cfg, off=(), patch=(), places=None):
    """The Change of some names of parts; ValueError for one that is no part, or cannot be."""
    off = tuple(part_of(name, cfg) for name in off)
    patch = tuple(part_of(name, cfg) for name in patch)
    for part in off:
        if part.kind == "layer":
            raise ValueError(f"{part.name} holds all that was read so far: it can be patched, and "
                             "not switched off")
        if part in patch:
            raise ValueError(f"{part.name} is to be off and to be patched; choose one")
    return Change(off, patch, None if places is None else tuple(places))


def check_lengths(change, ids, other):
    """ValueError unless the text of the patches has as many tokens as the text itself."""
    if change.patch and (other is None or len(other) != len(ids)):
        theirs = "none" if other is None else len(other)
        raise ValueError(f"the text has {len(ids)} tokens and the other one {theirs}: what a part "
                         "wrote is put at the same place, so both must have as many")


def written_by(params, cfg, ids, parts):
    """{part: what it writes (T, channels)} while the model reads a text."""
    found = {}

    def record(part, written):
        if part in parts:
            found[part] = written[0]
        return written

    forward(params, cfg, np.asarray(ids)[None], record)
    return found


def changed(params, cfg, ids, change, other=None):
    """The logits (T,V) of a text with a Change. other: the ids of the text that patches are of.

    ValueError unless both texts have as many tokens: patches go from place to place.
    """
    check_lengths(change, ids, other)
    patches = written_by(params, cfg, other, change.patch) if change.patch else {}
    places = slice(None) if change.places is None else list(change.places)

    def edit(part, written):
        if part in change.off:
            return np.zeros_like(written)
        if part in patches:
            written = written.copy()
            written[:, places] = patches[part][places]
        return written

    return forward(params, cfg, np.asarray(ids)[None], edit)[0]


def last_logits(params, cfg, ids, other, layer):
    """The logits (T,V) behind the last token, with the stream behind a layer patched at each place.

    Row t is patched at place t alone. All rows are read side by side. layer counts from 0.
    """
    part = Part("layer", layer)
    check_lengths(Change(patch=(part,)), ids, other)
    there = written_by(params, cfg, other, [part])[part]                # (T,C)
    places = np.arange(len(ids))

    def edit(which, written):
        if which == part:
            written = written.copy()
            written[places, places] = there
        return written

    rows = np.repeat(np.asarray(ids)[None], len(ids), axis=0)           # (T,T)
    return forward(params, cfg, rows, edit)[:, -1]
