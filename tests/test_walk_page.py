"""chat/walk.py and the walk in the page: every number is gpt.py's, and its formula gives it.

tests/test_walk.py is for model/walk.py. The scripts run under node; tests/peers/test_walk_peers.py
has the view in a browser, and the demo's model.
"""

import ast
import base64
import dataclasses
import json
import math
import re
import subprocess
import textwrap
import zlib

import numpy as np
import pytest

import gpt
import walking
from chat import generate, page, walk
from conftest import ROOT, run_script
from model import families, llama
from serving import CFG, PARAMS, TOK, post, run, server  # noqa: F401  fixtures

NAMES = {name: getattr(math, name) for name in ("exp", "log", "sqrt", "tanh", "cos", "sin", "inf")}
NAMES["max"] = max
BEGIN = generate.document_begin(TOK)


def random_config(rng, family):
    """A small model of a family, with any of its options."""
    V, T, L, NH = rng.integers([7, 1, 1, 1], [40, 9, 4, 4]).tolist()
    if family == "gpt":
        return gpt.Config(V, T, NH * int(rng.integers(2, 6)), L, NH)
    n_kv = NH if NH % 2 else NH // 2
    options = dict(zip(("qkv_bias", "o_bias", "qk_norm", "tied"), rng.random(4) < 0.5))
    C, HS, F = int(rng.integers(3, 12)), 2 * int(rng.integers(1, 4)), int(rng.integers(3, 20))
    return llama.Config(V, T, C, L, NH, n_kv, HS, F, **{k: bool(v) for k, v in options.items()})


def random_case(rng, cfg):
    """(model, ids, targets, weights) of a random model, away from the start of training."""
    params = families.of(cfg).init(cfg, int(rng.integers(1000)))
    for p in params.values():
        p += (0.3 * rng.standard_normal(p.shape)).astype(np.float32)
    T = int(rng.integers(1, cfg.n_positions + 1))
    ids, targets = rng.integers(0, cfg.vocab_size, (2, T)).tolist()
    return (params, cfg, TOK), ids, targets, rng.standard_normal(T).tolist()


def compare(case, grids):
    """AssertionError unless every grid of the page is gpt.py's, to 1e-6, and every formula true."""
    (params, _, _), ids, targets, weights = case
    made, grads = walking.traced(*case[0][:2], ids, targets, weights)
    assert grids
    for grid in grids:
        what, got = grid["id"], grid["values"]
        if what == "ids":
            assert got.tolist() == ids
            continue
        want = walking.expected(grid, made, grads, params)
        assert want is not None, f"{what}: gpt.py makes no such number"
        want = want.reshape(-1)[:got.size].reshape(got.shape)   # of positions, those of the text
        check_close(got, want, what)
        for index, *formulas in grid["formulas"]:
            value = got.reshape(-1)[index]
            for formula in formulas:
                check_close(eval(formula, dict(NAMES)), value, f"{what}: {formula[:200]}")
        assert grid["words"] != "a part of a gradient", f"{what}: not in WORDS"
    check_gradients(grids, grads, len(ids))


def check_close(got, want, what):
    """AssertionError unless numbers agree to 1e-6; infinities must be the same."""
    got, want = np.asarray(got, float), np.asarray(want, float)
    with np.errstate(invalid="ignore"):
        error = np.where(got == want, 0.0, np.abs(got - want))
    assert (error <= 1e-6).all(), f"{what}: {error.max():.1e}"


def check_gradients(grids, grads, n):
    """Every parameter has a gradient, which is the one of loss_and_grads."""
    by_id = {grid["id"]: grid for grid in grids}
    parameters = [grid for grid in grids if grid["kind"] == "parameter"]
    assert {grid["id"] for grid in parameters} == set(grads)
    for grid in parameters:
        want = grads[grid["id"]]
        if grid["id"] == "wpe.weight":
            assert not want[n:].any()
            want = want[:n]
        check_close(by_id[grid["gradient"]]["values"], want, f"the gradient of {grid['id']}")


@pytest.mark.parametrize("family", ["gpt", "llama"])
def test_every_number_is_gpts(tmp_path, family):
    """20 random texts, each for a random model: all grids, forward and back, and their formulas."""
    rng = np.random.default_rng(len(family))
    cases = [random_case(rng, random_config(rng, family)) for _ in range(20)]
    if family == "llama":               # with rotations that are scaled, and both kinds of norms
        cases += [random_case(rng, cfg) for cfg in llama.EXAMPLES.values()]
    found = walking.walked(cases, tmp_path, formulas=2)
    assert len(found) == len(cases)
    for case, grids in zip(cases, found):
        compare(case, grids)


def test_a_wrong_number_is_found(tmp_path):
    """The comparison fails for a number that is off by 1e-5, and for a formula that is."""
    case = random_case(np.random.default_rng(3), gpt.Config(9, 5, 4, 1, 2))
    grids, = walking.walked([case], tmp_path, formulas=1)
    compare(case, grids)
    ds = next(grid for grid in grids if grid["id"] == "d.h.0.attn.ds")
    ds["values"][-1, -1, 0] += 1e-5
    with pytest.raises(AssertionError, match="d.h.0.attn.ds"):
        compare(case, grids)
    ds["values"][-1, -1, 0] -= 1e-5
    ds["formulas"][0][1] += " + 0.00001"
    with pytest.raises(AssertionError, match="0.00001"):
        compare(case, grids)


# ------------------------------------------------------------------------ lines of the definition


def test_what_statements_make():
    text = """
        def f(x, grads):
            x = x + 1
            a, grads["b"] = x
            for i in a:
                x += i
            np.add.at(dw, i, x)
            print(x)
            return x, a
        """
    tree = ast.parse(textwrap.dedent(text))
    lines = {key: node.lineno - 1 for key, node in walk.statements(tree.body[0]).items()}
    assert lines == {"x": 2, "a": 3, "grads['b']": 3, "x#2": 5, "dw": 6, "x#3": 7, "return": 8}


@pytest.mark.parametrize("family, path", [(gpt, "gpt.py"), (llama, "model/llama.py")])
def test_lines_are_those_of_the_files(family, path):
    found = walk.lines_of(family)
    assert any(lines["file"] == path for lines in found.values())
    for name, lines in found.items():
        text = (ROOT / lines["file"]).read_text(encoding="utf-8")
        of_file = text.splitlines(keepends=True)[lines["first"] - 1:]
        assert "".join(of_file).startswith(lines["text"]), name
    first, last = found["gpt.layernorm_backward"]["keys"]["dx"]
    line = found["gpt.layernorm_backward"]["text"].splitlines()[first - 1]
    assert first == last and line.strip().startswith("dx = rstd * (dn - along_ones")


# ------------------------------------------------------------------------------- what is too large


def test_a_text_that_is_too_long():
    model = PARAMS, CFG, TOK
    assert len(walk.describe(model, [1] * 32)[0]["ids"]) == 32
    for ids in ([], [1] * 33):
        with pytest.raises(ValueError, match=f"the text has {len(ids)} tokens, a walk has 1 to 32"):
            walk.describe(model, ids)
    short = dataclasses.replace(CFG, n_positions=8)
    with pytest.raises(ValueError, match="9 tokens, the model reads 8"):
        walk.describe((PARAMS, short, TOK), [1] * 9)


def test_a_model_that_is_too_large():
    with pytest.raises(ValueError, match="124,439,808 parameters, .* at most 8,000,000"):
        walk.describe((None, gpt.PRESETS["gpt2"], None), [1, 2])


# ---------------------------------------------------------------------------- what the browser gets


def test_the_route(server):  # noqa: F811
    found = post(server, "/api/walk", {"text": "the lamp", "model": "base"})
    assert found["ids"] == [*BEGIN, *TOK.encode_ordinary("the lamp")] and found["family"] == "gpt"
    weights = np.frombuffer(base64.b64decode(found["weights"]), "<f4")
    want = [walk.used(name, PARAMS[name], len(found["ids"])).ravel() for name in PARAMS]
    np.testing.assert_array_equal(weights, np.concatenate(want))
    message = post(server, "/api/walk", {"tokens": [1] * 33}, 400)["error"]["message"]
    assert "33 tokens" in message


UNPACK = """
const fs = require("fs"), vm = require("vm");
vm.runInThisContext(fs.readFileSync(process.argv[2], "utf8"));
const [textContent, size] = JSON.parse(fs.readFileSync(0, "utf8"));
unpacked({ textContent, dataset: { size } }).then(bytes => {
  const weights = process.argv[3] === "weights" ? joinPlanes(bytes) : bytes;
  process.stdout.write(Buffer.from(weights.buffer));
});
"""


def unpacked(tmp_path, text, size, what):
    """What page/unpack.js makes of the text of a block: its bytes, or the weights in it."""
    script = tmp_path / "unpack.js"
    script.write_text(UNPACK)
    command = [walking.node(), script, page.FOLDER / "unpack.js", what]
    done = subprocess.run(command, check=True, input=json.dumps([text, size]).encode(),
                          capture_output=True)
    return done.stdout


def test_packed_weights_come_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(5001).astype("<f4")
    weights[:5] = [0.0, -0.0, 1e-42, -3e38, np.inf]
    packed = walk.compressed(walk.planes(weights), zlib.Z_HUFFMAN_ONLY)
    text = walk.as_text(packed)
    assert not set(map(chr, walk.UNSAFE)) & set(text)
    assert len(text.encode("utf-8")) <= 8 / 7 * len(packed) + 2
    assert unpacked(tmp_path, text, len(packed), "weights") == weights.tobytes()


def test_the_file(tmp_path):
    """It names nothing outside of it, and has the text, the lines and all scripts in it."""
    gpt.save(tmp_path, PARAMS, CFG)
    TOK.save(tmp_path / "tokenizer.json")
    out = tmp_path / "walk.html"
    done = run_script("chat/walk.py", "the lamp <", "--model", tmp_path, "--out", out)
    assert done.returncode == 0, done.stderr
    text = out.read_text(encoding="utf-8")
    assert f"{len(text.encode()):,} bytes" in done.stdout
    assert not re.search(r'(?:src|href)="(?!data:,)|url\(|@import|https?://', text)
    found = re.search(r'id="walk_about" data-size="(\d+)">(.*?)</script>', text, re.S)
    about = json.loads(unpacked(tmp_path, found[2], int(found[1]), "bytes"))
    assert about["ids"] == [*BEGIN, *TOK.encode("the lamp <")]
    assert "gpt.mlp_forward" in about["lines"]
    for name in walk.SCRIPTS:           # without comments that have lines of their own
        lines = (page.FOLDER / name).read_text(encoding="utf-8").splitlines()
        code = {line for line in lines if not re.match(r" *//|/\*|(  )+ \S", line)}
        assert len(code) > 20 and code <= set(text.splitlines()), name
    assert "\n/* " not in text and ".duel" not in text
    assert re.findall(r'<section id="(\w+)"', text) == ["view_walk"]
    assert 'id="walk_form"' not in text
    done = run_script("chat/walk.py", "lamp " * 50, "--model", tmp_path, "--out", out)
    assert done.returncode == 1 and "a walk has 1 to 32" in done.stderr


def test_scripts_of_the_page_share_no_names():
    """They share one scope: a second function of a name would stand in the place of the first."""
    pattern = r"^(?:async )?(?:function|class|const|let) +(\w+|\[[^\]]*\]|\{[^}]*\})"
    seen = {}
    for path in sorted(page.FOLDER.glob("*.js")):
        for names in re.findall(pattern, path.read_text(encoding="utf-8"), re.M):
            for name in re.findall(r"\w+", names):
                assert name not in seen, f"{name} stands in {seen.get(name)} and {path.name}"
                seen[name] = path.name
    assert len(seen) > 100
