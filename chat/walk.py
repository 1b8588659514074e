"""walk.py: one pass through a model, forward and back, that one can walk through in a browser.

The browser computes every number itself from the weights (page/arithmetic.js, steps.js, attention.js,
blocks.js, passes.js), so it can say of each what it was made of. This file gives it the weights, the
text in tokens, and the lines of gpt.py and model/llama.py that make the same numbers here.

    python -m chat.walk "The glulblow eats"             writes walk.html, one file to send to someone
    python sample.py serve                              the page has the same as a view

walk.html needs nothing else: no server and no network. Its weights are float32, as in the model.
"""

import argparse
import ast
import base64
import functools
import inspect
import json
import re
import zlib

import sample                   # before numpy
import gpt
from chat import api, generate, models
from model import families, llama
from run import command, disk
import numpy as np

MOST_TOKENS = 32
MOST_PARAMETERS = 8_000_000     # a browser makes as many gradients, in float64
SHOWN = re.compile(r"\w+_(forward|backward)|attention_scores|split_heads|join_heads|"
                   r"rotary_tables|turns_of|loss_and_grads")

# ----------------------------------------------------------------------- the lines of the definition


def assigned(statement):
    """What a statement makes, as text: ["q", "k", "v"]; ["return"] of a return; [] of any other.

    np.add.at(dwte, ...) and its like make their first argument.
    """
    if isinstance(statement, ast.Return):
        return ["return"]
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        targets = statement.value.args[:1]
    elif isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
        targets = [statement.target]
    else:
        return []
    found = []
    for target in targets:
        found += target.elts if isinstance(target, ast.Tuple) else [target]
    return [ast.unparse(target) for target in found]


def statements(tree):
    """{key: statement} of a function: "x" is the first that makes x, "x#2" the second."""
    found, counts = {}, {}
    for node in sorted(ast.walk(tree), key=lambda node: getattr(node, "lineno", 0)):
        if not isinstance(node, ast.stmt):
            continue
        for name in assigned(node):
            counts[name] = n = counts.get(name, 0) + 1
            found[name if n == 1 else f"{name}#{n}"] = node
    return found


@functools.lru_cache(maxsize=2)
def lines_of(family):
    """{"gpt.mlp_forward": its file, first line, text, and lines of each key} of a pass.

    family: the module of the model. Of both, gpt.py's functions are there, as llama.py uses them.
    """
    found = {}
    for module, path in ((gpt, "gpt.py"), (llama, "model/llama.py")):
        if module is not gpt and module is not family:
            continue
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ != module.__name__ or not SHOWN.fullmatch(name):
                continue
            lines, first = inspect.getsourcelines(function)
            text = "".join(lines)
            keys = {}
            for key, node in statements(ast.parse(text)).items():
                keys[key] = [node.lineno, node.end_lineno]
            short = module.__name__.rpartition(".")[2]
            found[f"{short}.{name}"] = {"file": path, "first": first, "text": text, "keys": keys}
    return found


# ------------------------------------------------------------------------------ what the browser gets


def check(cfg, ids):
    """ValueError unless a text and its model are small enough for a browser."""
    if not 1 <= len(ids) <= MOST_TOKENS:
        raise ValueError(f"the text has {len(ids)} tokens, a walk has 1 to {MOST_TOKENS}; "
                         "give a shorter text")
    if len(ids) > cfg.n_positions:
        raise ValueError(f"the text has {len(ids)} tokens, the model reads {cfg.n_positions}")
    if cfg.n_params > MOST_PARAMETERS:
        raise ValueError(f"the model has {cfg.n_params:,} parameters, a walk shows every one of at "
                         f"most {MOST_PARAMETERS:,}; take a smaller model, such as the demo")


def spelled(tokenizer, i):
    """The text of a token; "" of an id that no token has."""
    if i >= tokenizer.n_vocab or i in tokenizer.holes:
        return ""
    return api.spelled(tokenizer, i)


def used(name, parameter, n):
    """The part of a parameter that a text of n tokens uses: of positions, the first n rows."""
    rows = parameter[:n] if name == "wpe.weight" else parameter
    return np.asarray(rows, np.float32)


def describe(model, ids):
    """(what a browser must know of a pass, as JSON; the weights, float32 one behind the other).

    ValueError for a text or a model that is too large.
    """
    params, cfg, tokenizer = model
    check(cfg, ids)
    family = families.of(cfg)
    parameters, weights = [], []
    for name in families.shapes(cfg):
        parameter = used(name, params[name], len(ids))
        parameters.append({"name": name, "shape": parameter.shape})
        weights.append(parameter.ravel())
    angles = []
    if family is llama:
        positions = np.arange(len(ids), dtype=np.float32)[:, None]
        angles = (positions * llama.rotary_frequencies(cfg)).astype(float).ravel().tolist()
    about = {
        "family": "llama" if family is llama else "gpt",
        "config": vars(cfg) | {"rope_scaling": None, "n_params": cfg.n_params},
        "ids": list(map(int, ids)),
        "pieces": [spelled(tokenizer, i) for i in range(cfg.vocab_size)],
        "angles": angles,
        "parameters": parameters,
        "lines": lines_of(family),
    }
    return about, np.concatenate(weights).astype("<f4", copy=False)
