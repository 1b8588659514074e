"""walking.py: gpt.py's own numbers, line by line, and the page's for the same text, from node.

traced() runs loss_and_grads and keeps what each line of each call made. walked() runs the page's
scripts under node and returns every grid that they make.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpt
from chat import page, walk
from model import families, llama

SCRIPTS = ["arithmetic.js", "steps.js", "heads.js", "blocks.js", "passes.js", "words.js"]
DRIVER = Path(__file__).with_name("walking.js")
MODULES = {gpt.__file__: "gpt", llama.__file__: "llama"}


def node():
    """The path of node; the test is skipped without it."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("node is not installed; it runs the page's arithmetic")
    return path


# ----------------------------------------------------------------------------- gpt.py, line by line


class Tracer:
    """What each line of a run made: made[function, call, key], such as "gpt.mlp_forward", 0, "u".

    extra: {(function, key): {name: expression}}: what else is evaluated where a line is done.
    """

    def __init__(self, functions, extra):
        self.extra, self.made, self.calls = extra, {}, {}
        self.functions = functions
        self.statements = {}        # {(function, line in file): (its statement's lines, [keys])}
        for name, found in functions.items():
            for key, span in found["keys"].items():
                for line in range(span[0], span[1] + 1):
                    place = name, found["first"] + line - 1
                    self.statements.setdefault(place, (span, []))[1].append(key)

    def __call__(self, frame, event, _):
        """For sys.settrace: a function is called."""
        module = MODULES.get(frame.f_code.co_filename)
        name = f"{module}.{frame.f_code.co_name}"
        if name not in self.functions:
            return None
        call = self.calls[name] = self.calls.get(name, -1) + 1
        running = None              # the statement that runs: its lines and its keys

        def step(frame, event, result):
            nonlocal running
            there = self.statements.get((name, frame.f_lineno))
            if event == "return":
                there = None
            elif event != "line":
                return step
            if running is not None and running != there:
                self.keep(name, call, running[1], frame, result)
            running = there
            return step

        return step

    def keep(self, name, call, keys, frame, result):
        """Keep what a statement has made. result: what the function returns, if it ends here."""
        for key in keys:
            target = key.partition("#")[0]
            if target == "return":
                value = result
            else:
                value = eval(target, frame.f_globals, frame.f_locals)
            if isinstance(value, tuple):
                value = value[0]
            if isinstance(value, (np.ndarray, float, np.floating)):
                self.made[name, call, key] = np.array(value, float)
            for more, expression in self.extra.get((name, key), {}).items():
                value = eval(expression, frame.f_globals, frame.f_locals)
                self.made[name, call, f"{key}:{more}"] = np.array(value, float)


# Numbers that a line makes on its way, and that the page shows as grids of their own.
ON_THE_WAY = {
    ("gpt.layernorm_forward", "d"): {"mean": "x.mean(-1)"},
    ("gpt.attention_backward", "ds"): {"do_o": "(do * o).sum(-1)"},
    ("gpt.cross_entropy_forward", "z"): {"largest": "logits.max(-1)"},
    ("gpt.loss_and_grads", "nll"): {"onehot": "np.eye(cfg.vocab_size)[targets]"},
    ("llama.loss_and_grads", "nll"): {"onehot": "np.eye(cfg.vocab_size)[targets]"},
    ("llama.rotary_tables", "return"): {"sin": "np.sin(angles)", "cos": "np.cos(angles)"},
}


def traced(params, cfg, ids, targets, weights):
    """({(function, call, key): array}, gradients) of gpt.py or model/llama.py in float64."""
    family = families.of(cfg)
    exact = {name: np.asarray(p, np.float32).astype(np.float64) for name, p in params.items()}
    tracer = Tracer(walk.lines_of(family), ON_THE_WAY)
    rows = np.array([ids]), np.array([targets]), np.array([weights])
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        _, grads = family.loss_and_grads(exact, cfg, *rows)
    finally:
        sys.settrace(before)
    return tracer.made, grads


def expected(grid, made, grads, params):
    """What gpt.py has for a grid of the page, as float64; None where it has nothing like it."""
    if grid["kind"] == "parameter":
        return np.asarray(params[grid["id"]], float)
    if not grid["lines"]:
        return None
    line = grid["lines"][-1]
    place = line["name"], line["call"]
    on_the_way = (*place, f"{line['key']}:{grid['name']}")
    return made.get(on_the_way, made.get((*place, line["key"])))


# --------------------------------------------------------------------------- the page's own numbers


def walked(cases, folder, formulas=0):
    """[[grid]] of texts: what the page's scripts make of each. A grid is a dict of its description,
    with its values as a float64 array.

    cases: [(model, ids, targets, weights)]. formulas: of how many numbers of each grid the formula
    is written out, in "formulas": [(index, formula, formula of all parts)].
    """
    data, rows = b"", []
    for model, ids, targets, weights in cases:
        about, numbers = walk.describe(model, ids)
        rows.append({"about": about, "offset": len(data), "targets": targets, "weights": weights})
        data += numbers.tobytes()
    (folder / "weights").write_bytes(data)
    (folder / "cases.json").write_text(json.dumps({"formulas": formulas, "cases": rows}))
    paths = [str(page.FOLDER / name) for name in SCRIPTS]
    done = subprocess.run([node(), DRIVER, folder, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values = np.fromfile(folder / "values", "<f8")
    found = json.loads((folder / "grids.json").read_text())
    for grids in found:
        for grid in grids:
            size = int(np.prod(grid["shape"]))
            grid["values"] = values[grid["offset"]:grid["offset"] + size].reshape(grid["shape"])
    return found
