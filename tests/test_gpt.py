"""gpt.py: its derivatives against finite differences, its own check, and model/fast.py against it.

PAIRS lists each definition of gpt.py beside its fast twin. A test holds every pair equal, with the
constants of fast.py as they are and forced small, on one thread and on several.
"""

import itertools
import shutil
import subprocess
import sys

import numpy as np
import pytest

from model import checks, fast, operations, walk
import gpt
from conftest import ROOT, check_directions, check_grad
from test_fast import BLOCKS, pool, set_blocks, set_threads  # noqa: F401  pool is a fixture

CFG = gpt.Config(vocab_size=13, n_positions=9, n_embd=12, n_layer=2, n_head=3)
PAIRS = [
    (gpt.layernorm_forward, operations.layernorm_forward),
    (gpt.layernorm_backward, operations.layernorm_backward),
    (gpt.linear_forward, operations.linear_forward),
    (gpt.linear_backward, operations.linear_backward),
    (gpt.gelu_forward, operations.gelu_forward),
    (gpt.gelu_backward, operations.gelu_backward),
    (gpt.embedding_forward, operations.embedding_forward),
    (gpt.embedding_backward, operations.embedding_backward),
    (gpt.attention_forward, operations.attention_forward),
    (gpt.attention_backward, operations.attention_backward),
    (gpt.cross_entropy_forward, operations.cross_entropy_forward),
    (gpt.cross_entropy_backward, operations.cross_entropy_backward),
    (gpt.block_forward, walk.block_forward),
    (gpt.block_backward, walk.block_backward),
    (gpt.forward, fast.forward),
    (gpt.token_losses, fast.token_losses),
    (gpt.loss_and_grads, fast.loss_and_grads),
    (gpt.decode, fast.decode),
    (gpt.Cache, fast.Cache),
    (gpt.check_tokens, checks.check_tokens),
    (gpt.block_params, walk.layer_params),
]


def model(dtype=np.float64):
    """Parameters of CFG away from their start, where many gradients are 0."""
    rng = np.random.default_rng(1)
    params = gpt.init(CFG, 0, dtype)
    for p in params.values():
        p += (0.1 * rng.standard_normal(p.shape)).astype(dtype)
    return params


def batch(B=4, T=7):
    """tokens, targets of which some are ignored, weights of either sign"""
    rng = np.random.default_rng(2)
    tokens, targets = rng.integers(0, CFG.vocab_size, (2, B, T))
    targets[0, :3] = -1
    return tokens, targets, rng.standard_normal((B, T))


def close(got, want, name=""):
    """Equal but for rounding: sums of some hundred products in another order."""
    most = 1e-12 * max(1.0, np.abs(want).max())
    np.testing.assert_allclose(got, want, rtol=0, atol=most, err_msg=name)


# ------------------------------------------------------------------------------- gpt.py by itself


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_gradients(weighted, temperature):
    """Single entries and a random direction of every tensor."""
    params, (tokens, targets, weights) = model(), batch()

    def step():
        return gpt.loss_and_grads(
            params, CFG, tokens, targets, weights if weighted else None, temperature
        )

    _, grads = step()
    assert list(grads) != [] and set(grads) == set(params)
    pairs = {name: (params[name], grads[name]) for name in params}
    check_grad(lambda: step()[0], pairs, tol=1e-7)
    check_directions(lambda: step()[0], pairs)


def test_attention_with_fewer_queries_than_keys():
    rng = np.random.default_rng(0)
    q, do = rng.standard_normal((2, 2, 3, 4, 5))
    k, v = rng.standard_normal((2, 2, 3, 7, 5))
    visible = np.arange(7) <= np.arange(3, 7)[:, None]
    o, cache = gpt.attention_forward(q, k, v, visible)
    for b, h, i in np.ndindex(2, 3, 4):  # a loop over queries, as the docstring has it
        s = np.array([q[b, h, i] @ k[b, h, j] for j in range(i + 4)]) / 5**0.5
        p = np.exp(s) / np.exp(s).sum()
        close(o[b, h, i], p @ v[b, h, : i + 4])
    dq, dk, dv = gpt.attention_backward(do, cache)
    loss = lambda: (gpt.attention_forward(q, k, v, visible)[0] * do).sum()  # noqa: E731
    check_grad(loss, {"q": (q, dq), "k": (k, dk), "v": (v, dv)}, tol=1e-7)


def test_a_gradient_of_an_ignored_target_is_zero_and_later_tokens_change_nothing_earlier():
    params, (tokens, targets, _) = model(), batch()
    targets[...] = -1
    targets[1, 2] = 5
    _, grads = gpt.loss_and_grads(params, CFG, tokens, targets)
    assert not grads["wpe.weight"][3:].any()  # positions behind the only target
    with pytest.raises(ValueError, match="every target is ignored"):
        gpt.loss_and_grads(params, CFG, tokens, np.full_like(targets, -1))
    before, _ = gpt.forward(params, CFG, tokens)
    tokens[:, 4] = (tokens[:, 4] + 1) % CFG.vocab_size
    after, _ = gpt.forward(params, CFG, tokens)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(-1).all()


def test_wrong_arguments_are_refused():
    params, (tokens, targets, _) = model(), batch()
    for bad, words in (
        (tokens[0], "shape"),
        (tokens[:, :0], "shape"),
        (np.zeros((1, 10), int), "1 to 9 positions"),
        (tokens - 1, "the vocabulary has 0 to 12"),
        (tokens + 13, "the vocabulary has 0 to 12"),
    ):
        with pytest.raises(ValueError, match=words):
            gpt.forward(params, CFG, bad)
    with pytest.raises(ValueError, match="targets: shape"):
        gpt.loss_and_grads(params, CFG, tokens, targets[:, 1:])
    with pytest.raises(ValueError, match="the model's context is 9"):
        gpt.Cache(CFG, 1, 10)
    cache = gpt.Cache(CFG, 1, 3)
    with pytest.raises(ValueError, match="4 positions do not fit the cache of 3"):
        gpt.decode(params, CFG, tokens[:1, :4], cache)


def test_gpt_alone_checks_itself_and_finds_a_fault(tmp_path):
    """The file copied out, without a room beside it; then with one factor wrong in each
    backward."""
    shutil.copy(ROOT / "gpt.py", tmp_path)
    done = subprocess.run([sys.executable, "gpt.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "All derivatives agree" in done.stdout
    assert done.stdout.endswith(f"writes: {gpt.SENTENCE}\n")


def test_the_check_of_the_chapter():
    """The same in this process, where an exercise may stand in the place of a function."""
    assert gpt.check_gradients() == []


@pytest.mark.parametrize(
    "wrong, named",
    [
        ("embedding_backward", "wte.weight, wpe.weight"),
        ("layernorm_backward", "ln_1.weight"),
        ("linear_backward", "mlp.c_fc.weight"),
        ("gelu_backward", "mlp.c_fc.bias"),
        ("attention_backward", "attn.c_attn.weight"),
        ("cross_entropy_backward", "ln_f.bias"),
    ],
)
def test_the_check_names_what_a_wrong_backward_spoils(monkeypatch, capsys, wrong, named):
    right = getattr(gpt, wrong)

    def slightly_wrong(*args):
        out = right(*args)
        return tuple(d * 0.9999 for d in out) if isinstance(out, tuple) else out * 0.9999

    monkeypatch.setattr(gpt, wrong, slightly_wrong)
    assert gpt.main([]) == 1
    assert named in capsys.readouterr().out.splitlines()[-1]


def test_the_check_holds_decode_to_forward(monkeypatch, capsys):
    right = gpt.decode
    monkeypatch.setattr(gpt, "decode", lambda *args: right(*args) * 1.001)
    assert gpt.main([]) == 1
    assert capsys.readouterr().out.endswith("WRONG: decode, which differs from forward\n")


# ----------------------------------------------------------------------------------- plain = fast


def test_every_function_of_both_is_a_pair():
    """A name that gpt.py shares with a room, and that is not the same object, is held equal
    here."""
    shared = set()
    for name, room in itertools.product(vars(gpt), (fast, operations, walk, checks)):
        plain, twin = getattr(gpt, name), getattr(room, name, None)
        if callable(plain) and callable(twin) and plain is not twin:
            shared.add((plain, twin))
    assert shared | {(gpt.block_params, walk.layer_params)} == set(PAIRS)


def test_the_parameters_of_a_block_are_the_plain_ones():
    params = {**model(), "h.0.another": np.zeros(3)}
    for i in range(CFG.n_layer):
        mine, plain = walk.layer_params(params, CFG, i), gpt.block_params(params, i)
        assert tuple(mine) == walk.layer_names(CFG)
        assert all(mine[name] is plain[name] for name in mine)
        assert plain.keys() - mine.keys() <= {"another"}


@pytest.fixture(
    params=[(name, n) for name in BLOCKS for n in (1, 3)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def every_block_size(request, monkeypatch, pool):  # noqa: F811
    set_blocks(monkeypatch, request.param[0])
    set_threads(monkeypatch, request.param[1], pool)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_fast_losses_and_gradients_are_the_plain_ones(every_block_size, weighted, temperature):
    params, (tokens, targets, weights) = model(), batch()
    weights = weights if weighted else None
    want, want_grads = gpt.loss_and_grads(params, CFG, tokens, targets, weights, temperature)
    for recompute in (False, True):
        got, grads = fast.loss_and_grads(
            params, CFG, tokens, targets, weights, temperature=temperature, recompute=recompute
        )
        assert got == pytest.approx(want, rel=1e-12)
        for name, grad in want_grads.items():
            close(grads[name], grad, name)
    close(
        fast.token_losses(params, CFG, tokens, targets, temperature=temperature),
        gpt.token_losses(params, CFG, tokens, targets, temperature),
    )


def test_fast_logits_and_decode_are_the_plain_ones(every_block_size):
    params, (tokens, _, _) = model(), batch()
    want, _ = gpt.forward(params, CFG, tokens)
    close(fast.forward(params, CFG, tokens)[0], want)
    for small in (0, 8 << 20):  # a small model divides rows, a large one weights
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fast, "SMALL_MODEL", small)
            plain = gpt.Cache(CFG, 4, 8, params["wte.weight"])
            quick = fast.Cache(CFG, 4, 8, params["wte.weight"])
            for part in (tokens[:, :3], tokens[:, 3:4], tokens[:, 4:]):
                logits = gpt.decode(params, CFG, part, plain)
                close(fast.decode(params, CFG, part, quick), logits)
                np.testing.assert_array_equal(quick.length, plain.length)
            used = plain.length[0]
            close(quick.k[:, :, :, :used], plain.k[:, :, :, :used])
            close(quick.v[:, :, :, :used], plain.v[:, :, :, :used])


def test_fast_operations_are_the_plain_ones(every_block_size):
    """Forward and backward of each operation, through the layouts of both: (B,T,C) and rows."""
    rng = np.random.default_rng(3)
    B, T, C, F = 4, 7, 12, 20
    x, dy = rng.standard_normal((2, B, T, C))
    dh = rng.standard_normal((B, T, F))
    w, b = rng.standard_normal((2, C))
    matrix, bias = rng.standard_normal((C, F)), rng.standard_normal(F)

    def flat(a):
        return a.reshape(B * T, -1)

    y, cache = gpt.layernorm_forward(x, w, b)
    fast_y, fast_cache = operations.layernorm_forward(flat(x).copy(), w, b)
    close(fast_y, flat(y))
    for got, want in zip(
        operations.layernorm_backward(flat(dy), fast_cache), gpt.layernorm_backward(dy, cache)
    ):
        close(got.reshape(want.shape), want)
    y, cache = gpt.linear_forward(x, matrix, bias)
    close(operations.linear_forward(flat(x), matrix, bias), flat(y))
    got = operations.linear_backward(flat(dh), flat(x), matrix)
    for mine, want in zip(got, gpt.linear_backward(dh, cache)):
        close(mine.reshape(want.shape), want)
    y, cache = gpt.gelu_forward(x)
    fast_y, slope = operations.gelu_forward(flat(x))
    close(fast_y, flat(y))
    close(operations.gelu_backward(flat(dy), slope), flat(gpt.gelu_backward(dy, cache)))

    tokens = rng.integers(0, 9, (B, T))
    positions = np.broadcast_to(np.arange(T), (B, T))
    wte, wpe = rng.standard_normal((2, 9, C))
    x = gpt.embedding_forward(tokens, positions, wte, wpe)
    close(operations.embedding_forward(tokens, positions, wte, wpe), flat(x))
    for want, index in zip(
        gpt.embedding_backward(dy, tokens, positions, wte, wpe), (tokens, positions)
    ):
        table = np.zeros_like(wte)
        operations.embedding_backward(flat(dy), index.ravel(), table)
        close(table, want)

    qkv, do = rng.standard_normal((B, T, 3 * C)), rng.standard_normal((B, T, C))
    q, k, v = np.split(gpt.split_heads(qkv, 9), 3, axis=1)
    o, cache = gpt.attention_forward(q, k, v, np.tri(T, dtype=bool))
    fast_o, fast_cache = operations.attention_forward(qkv, 3)
    close(fast_o, gpt.join_heads(o))
    dqkv = gpt.join_heads(np.concatenate(gpt.attention_backward(gpt.split_heads(do, 3), cache), 1))
    close(operations.attention_backward(do, fast_cache, 3), dqkv)

    logits, targets = rng.standard_normal((B, T, F)), rng.integers(0, F, (B, T))
    weights = rng.standard_normal((B, T))
    nll, cache = gpt.cross_entropy_forward(logits, targets)
    fast_nll, fast_cache = operations.cross_entropy_forward(flat(logits).copy(), targets.ravel())
    close(fast_nll, nll.ravel())
    close(
        operations.cross_entropy_backward(weights.ravel(), fast_cache),
        flat(gpt.cross_entropy_backward(weights, cache)),
    )


def test_both_refuse_the_same_tokens():
    for bad in (
        np.zeros((1, 0), int),
        np.zeros(3, int),
        np.zeros((1, 10), int),
        np.full((1, 2), 13),
    ):
        for check in (gpt.check_tokens, checks.check_tokens):
            with pytest.raises(ValueError, match="tokens: "):
                check(CFG, bad)
