"""walk.py: one pass through a model, forward and back, to walk through in a browser.

The browser computes every number itself from the weights (page/passes.js), so it can say of each
what it was made of. It gets three things from here: the weights, the text in tokens, and the lines
of gpt.py and model/llama.py that make the same numbers.

    python -m chat.walk "The glulblow eats"     writes walk.html, one file to send to someone
    python sample.py serve                      the page has the same as a view

walk.html needs no server and no network. Its weights are the model's float32, bit for bit.
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
from chat import api, generate, models, page
from chat.request import Answer, Refused
from chat.served import ASSISTANTS, BASES
from model import families, llama
from run import command, disk
import numpy as np

MOST_TOKENS = 32
MOST_PARAMETERS = 8_000_000     # a browser makes as many gradients, in float64
SHOWN = re.compile(r"\w+_(forward|backward)|attention_scores|split_heads|join_heads|"
                   r"rotary_tables|turns_of|loss_and_grads")

# ------------------------------------------------------------------------ lines of the definition


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


# ----------------------------------------------------------------------------- what a browser gets


def check_size(cfg, ids):
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
    check_size(cfg, ids)
    family = families.of(cfg)
    parameters, weights = [], []
    for name in families.shapes(cfg):
        parameter = used(name, params[name], len(ids))
        parameters.append({"name": name, "shape": parameter.shape})
        weights.append(parameter.ravel())
    frequencies = []
    if family is llama:
        frequencies = llama.rotary_frequencies(cfg).astype(float).tolist()
    about = {
        "family": "llama" if family is llama else "gpt",
        "config": vars(cfg) | {"rope_scaling": None, "n_params": cfg.n_params},
        "ids": list(map(int, ids)),
        "pieces": [spelled(tokenizer, i) for i in range(cfg.vocab_size)],
        "frequencies": frequencies,
        "parameters": parameters,
        "lines": lines_of(family),
    }
    return about, np.concatenate(weights).astype("<f4", copy=False)


def walked(handler, body):
    """The route of serve.py: describe(), with the weights in base64."""
    _, writer = handler.model_of(body, BASES + ASSISTANTS)
    ids = page.ids_to_look_at(body, writer)
    try:
        found, weights = describe((writer.params, writer.cfg, writer.tokenizer), ids)
    except ValueError as e:
        raise Refused(400, str(e), "text") from None
    return Answer({**found, "weights": base64.b64encode(weights.tobytes()).decode()})


# ------------------------------------------------------------------------------ the file to send

SCRIPTS = ["common.js", "arithmetic.js", "steps.js", "heads.js", "blocks.js", "passes.js",
           "sheet.js", "unpack.js", "words.js", "walk_panel.js", "walk.js"]
STYLES = ["style.css", "walk.css"]
COMMENT = re.compile(r"^/\*(?s:.*?)\*/\n|^ *//.*\n", re.M)          # the page itself has them
UNSAFE = [0, 10, 13, 60]        # NUL, line ends and "<" do not come through HTML as they are


def planes(weights):
    """The bytes of float32 in four groups: exponents, signs with the next 7 bits, and the rest.

    Exponents are much alike and pack well. All other bits are as good as random.
    """
    bits = weights.view("<u4")
    exponents = bits >> 23 & 0xff
    signs = bits >> 31 << 7 | bits >> 16 & 0x7f
    groups = [exponents, signs, bits >> 8 & 0xff, bits & 0xff]
    return np.concatenate(groups).astype(np.uint8).tobytes()


def compressed(data, strategy=zlib.Z_DEFAULT_STRATEGY):
    """Bytes in zlib's format."""
    packer = zlib.compressobj(9, strategy=strategy)
    return packer.compress(data) + packer.flush()


def as_text(data):
    """Bytes as text that takes 8/7 of their size in UTF-8; base64 would take 8/6.

    A letter of ASCII stands for 7 bits. Where it would be one of UNSAFE, a letter of two bytes
    stands for it and for the 7 bits after it.
    """
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    bits = np.concatenate([bits, np.zeros(-len(bits) % 7 + 7, np.uint8)])   # one letter to spare
    values = bits.reshape(-1, 7) @ (1 << np.arange(6, -1, -1))
    doubled = []                        # where a letter of two bytes stands
    for i in np.flatnonzero(np.isin(values[:-1], UNSAFE)).tolist():
        if not doubled or i != doubled[-1] + 1:         # else it is in the letter before
            doubled.append(i)
    following = np.array(doubled, int) + 1
    which = np.searchsorted(UNSAFE, values[doubled])
    letters = values.astype("<u4")
    letters[doubled] = 0x100 + 128 * which + values[following]
    left_out = [*following, len(letters) - 1]
    return np.delete(letters, left_out).tobytes().decode("utf-32-le")


def page_of(about, weights):
    """The text of walk.html."""
    text = (page.FOLDER / "index.html").read_text(encoding="utf-8")
    text = re.sub(r'<section id="view_(?!walk)\w+">.*?</section>\n', "", text, flags=re.S)
    text = re.sub(r'<form id="walk_form">.*?</form>\n', "", text, flags=re.S)
    text = text.replace('<section id="view_walk">', '<section id="view_walk" class="on">')
    text = re.sub(r'<(?:script|link).*"page/([\w.]+)".*>\n', kept, text)
    text = COMMENT.sub("", page.inlined(text))
    # In weights there are no repeated bytes, and looking for them costs 3 %.
    packed_weights = compressed(planes(weights), zlib.Z_HUFFMAN_ONLY)
    packed_about = compressed(json.dumps(about).encode())
    blocks = block("walk_about", packed_about) + block("walk_weights", packed_weights)
    return text.replace("<script>", blocks + "<script>", 1)


def kept(match):
    """The line that names a script or a style of the page, if walk.html needs it."""
    return match[0] if match[1] in SCRIPTS + STYLES else ""


def block(name, packed):
    """An element that holds bytes, which page/unpack.js reads."""
    return (f'<script type="text/plain" id="{name}" data-size="{len(packed)}">'
            f"{as_text(packed)}</script>\n")


def main(argv=None):
    """Write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m chat.walk",
        description="Write one pass through a model, every number of it, as one HTML file.",
    )
    parser.add_argument("text", help=f"at most {MOST_TOKENS} tokens; special ones may be in it")
    parser.add_argument("--out", default="walk.html", metavar="FILE",
                        help="the file to write (default: %(default)s)")
    models.add_options(parser)
    args = models.check_options(parser.parse_args(argv))
    folder = models.chosen(args, ("base", "sft"), "base model", "train.py")
    model = sample.load_model(folder)
    tokenizer = model[2]
    ids = tokenizer.encode(args.text, allowed_special="all")
    ids = [*generate.document_begin(tokenizer), *ids]
    text = page_of(*describe(model, ids))
    disk.write_text(args.out, text)
    size = len(text.encode("utf-8"))
    print(f"{args.out}: {len(ids)} tokens, {model[1].n_params:,} parameters, {size:,} bytes; "
          "open it in a browser")


if __name__ == "__main__":
    command.run(main)
