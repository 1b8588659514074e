"""model/fast.py against finite differences, naive loops, and itself."""

import gc
import math
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from model import cores
from model import decoding, fast, operations
import gpt
from conftest import check_directions, check_grad

RNG = np.random.default_rng(0)

# fast.py works in blocks, and the arrays of a test would fit into one. With the constants forced
# small every loop runs
# several times: blocks of several rows, the last one shorter; other sizes, which divide other
# things; single rows.
BLOCKS = {
    "real": {},
    "small": {
        "BLOCK_FLOATS": 40,
        "QUERY_BLOCK": 3,
        "LOGIT_FLOATS": 200,
        "LARGE": 1,
        "HEAD_COLUMNS": 4,
        "PART": 1,
    },
    "uneven": {
        "BLOCK_FLOATS": 150,
        "QUERY_BLOCK": 4,
        "LOGIT_FLOATS": 4000,
        "LARGE": 2,
        "HEAD_COLUMNS": 5,
        "PART": 1,
    },
    "single": {
        "BLOCK_FLOATS": 1,
        "QUERY_BLOCK": 1,
        "LOGIT_FLOATS": 1,
        "LARGE": 1,
        "HEAD_COLUMNS": 1,
        "PART": 1,
    },
}


@pytest.fixture(autouse=True)
def same_numbers():
    """Every test draws the same numbers, whichever tests ran before it."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def set_blocks(monkeypatch, name):
    for constant, value in BLOCKS[name].items():
        room, = (room for room in (operations, decoding, fast) if hasattr(room, constant))
        assert isinstance(getattr(room, constant), int)
        monkeypatch.setattr(room, constant, value)


def set_threads(monkeypatch, n, pool):
    monkeypatch.setattr(cores, "_pool", pool)  # the machine's may have fewer workers
    monkeypatch.setattr(cores, "N_THREADS", n)


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as workers:  # and the thread that calls: three
        yield workers


@pytest.fixture(params=BLOCKS)
def blocks(request, monkeypatch):
    """Constants of fast.py, for operations on one thread."""
    set_blocks(monkeypatch, request.param)


@pytest.fixture(
    params=[(name, n) for name in BLOCKS for n in (1, 2, 3)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def blocks_and_threads(request, monkeypatch, pool):
    """Constants of fast.py and as many threads, whatever the machine has."""
    set_blocks(monkeypatch, request.param[0])
    set_threads(monkeypatch, request.param[1], pool)


@pytest.fixture(
    params=[("real", 2), ("small", 3), ("uneven", 2), ("single", 1)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def some_blocks_and_threads(request, monkeypatch, pool):
    """A few of blocks_and_threads, for finite differences of the whole model. That the others give
    the same gradients
    is the subject of test_blocks_and_threads_change_nothing_but_rounding."""
    set_blocks(monkeypatch, request.param[0])
    set_threads(monkeypatch, request.param[1], pool)


in_blocks = pytest.mark.usefixtures("blocks")
in_blocks_and_threads = pytest.mark.usefixtures("blocks_and_threads")
in_some_blocks_and_threads = pytest.mark.usefixtures("some_blocks_and_threads")


def randn(*shape):
    return RNG.standard_normal(shape)


def tiny(vocab=13, n_positions=9, width=12, layers=2, heads=3):
    cfg = gpt.Config(vocab, n_positions, width, layers, heads)
    params = gpt.init(cfg, 1, np.float64)
    for (
        name,
        p,
    ) in params.items():  # away from the symmetric start, so that no gradient is 0 by accident
        p += 0.1 * randn(*p.shape)
    return cfg, params


def batch(cfg, B, T):
    return RNG.integers(0, cfg.vocab_size, (2, B, T))


# ---------------------------------------------------------------------------------------- gradients


# --------------------------------------------------------------------- gradients of the whole model

SEGMENTS = np.array(
    [[0, 0, 1, 1, 1, 2, -1], [1, 1, 1, 2, 2, 3, 4], [0, 0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 4, 4, 4]]
)
POSITIONS = np.array(
    [[0, 1, 2, 3, 4, 2, 3], [0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 4, 5, 6], [8, 0, 4, 0, 1, 2, 3]]
)

SETTINGS = {  # of loss_and_grads
    "mean": {},
    "weights, temperature": {"weights": True, "temperature": 1.7},
    "recompute, arena": {"recompute": True, "arena": True},
    "several texts, recompute": {
        "positions": POSITIONS,
        "segments": SEGMENTS,
        "weights": True,
        "recompute": True,
    },
    "add, weights, arena": {"weights": True, "add": True, "arena": True},
    "add, several texts, temperature": {
        "positions": POSITIONS,
        "segments": SEGMENTS,
        "add": True,
        "temperature": 0.6,
    },
}


def question(setting, vocab=13, B=4, layers=2):
    """(params, grads_of, loss_of) of a small model: loss and gradients under a setting, and the
    loss alone."""
    setting = dict(SETTINGS[setting])
    cfg, params = tiny(vocab, layers=layers)
    tokens, targets = batch(cfg, B, 7)
    targets[0, :3] = -1
    if setting.pop("weights", False):  # of either sign, some of them 0
        setting["weights"] = randn(B, 7) * (RNG.random((B, 7)) < 0.8)
    for name in ("positions", "segments"):
        if name in setting:
            setting[name] = setting[name][:B]
    arena, add = cores.Arena() if setting.pop("arena", False) else None, setting.pop("add", False)

    def grads_of():
        if not add:
            return fast.loss_and_grads(params, cfg, tokens, targets, arena=arena, **setting)
        begun = {k: randn(*p.shape) for k, p in params.items()}
        grads = {k: g.copy() for k, g in begun.items()}
        loss, _ = fast.loss_and_grads(
            params, cfg, tokens, targets, grads=grads, add=True, arena=arena, **setting
        )
        return loss, {k: grads[k] - begun[k] for k in grads}

    def loss_of():
        if "positions" in setting:  # known together with the gradients only
            return fast.loss_and_grads(params, cfg, tokens, targets, **setting)[0]
        forward = {k: v for k, v in setting.items() if k != "recompute"}
        return fast.loss_and_grads(params, cfg, tokens, targets, want_grads=False, **forward)[0]

    return params, grads_of, loss_of


def check_model(params, grads_of, loss_of, n=1):
    loss, grads = grads_of()
    assert set(grads) == set(params) and loss_of() == pytest.approx(loss, rel=1e-12)
    check_grad(loss_of, {k: (params[k], grads[k]) for k in params}, n=n)


@in_some_blocks_and_threads
@pytest.mark.parametrize("setting", SETTINGS)
def test_model_grad(setting):
    check_model(*question(setting))


@in_some_blocks_and_threads
@pytest.mark.parametrize("setting", ["mean", "add, weights, arena"])
def test_model_grad_of_a_vocabulary_above_512(setting):
    check_model(*question(setting, vocab=600, B=2, layers=1))


def test_single_entries_of_the_model_grad():
    check_model(*question("weights, temperature"), n=12)


@in_some_blocks_and_threads
@pytest.mark.parametrize("add", [False, True])
def test_hidden_grad(add):
    """A head that reads the hidden states and, as the tied head does, wte."""
    cfg, params = tiny()
    tokens, (c, begun) = (
        batch(cfg, 4, 7)[0],
        (randn(4, 7, cfg.n_embd), {k: randn(*p.shape) for k, p in params.items()}),
    )

    def head(y):  # loss = sum(c y^2) + sum(wte^2)
        return (
            (c * y * y).sum() + (params["wte.weight"] ** 2).sum(),
            2 * c * y,
            2 * params["wte.weight"],
        )

    grads = {k: g.copy() for k, g in begun.items()}
    loss, _ = fast.hidden_and_grads(params, cfg, tokens, head, grads=grads, add=add)
    if add:
        grads = {k: g - begun[k] for k, g in grads.items()}

    def loss_of():
        return fast.hidden_and_grads(params, cfg, tokens, head, want_grads=False)[0]

    assert loss_of() == pytest.approx(loss, rel=1e-12)
    check_grad(loss_of, {k: (params[k], grads[k]) for k in params}, n=1)


@pytest.mark.parametrize("setting", SETTINGS)
def test_blocks_and_threads_change_nothing_but_rounding(setting, monkeypatch, pool):
    """A gradient sums some hundred products: another order of them changes it by 1e-14 of the
    largest."""
    params, grads_of, loss_of = question(setting, B=4)
    want_loss, want = grads_of()
    for name in BLOCKS:
        for n in (1, 2, 3):
            with monkeypatch.context() as patch:
                set_blocks(patch, name)
                set_threads(patch, n, pool)
                loss, grads = grads_of()
                alone = loss_of()
            assert loss == pytest.approx(want_loss, rel=1e-12), (name, n)
            assert alone == pytest.approx(want_loss, rel=1e-12), (name, n)
            for k in want:
                most = 1e-12 * np.abs(want[k]).max()
                np.testing.assert_allclose(
                    grads[k], want[k], rtol=0, atol=most, err_msg=f"{k} {name} {n}"
                )


def test_the_checker_fails_when_a_backward_is_wrong(monkeypatch):
    x, w, b, dy = randn(4, 6), randn(6), randn(6), randn(4, 6)
    dx, dw, db = operations.layernorm_backward(dy, operations.layernorm_forward(x, w, b)[1])
    loss = lambda: (operations.layernorm_forward(x, w, b)[0] * dy).sum()  # noqa: E731
    for wrong in (dx * 1.001, dx[::-1].copy(), dx + 1e-5, np.zeros_like(dx)):
        for check in (check_grad, check_directions):
            with pytest.raises(AssertionError, match="by finite differences"):
                check(loss, {"x": (x, wrong)})
    right = operations.gelu_backward
    monkeypatch.setattr(
        operations, "gelu_backward", lambda dy, slope, out=None: right(dy, 0.999 * slope, out)
    )
    with pytest.raises(AssertionError, match="by finite differences"):
        test_model_grad("mean")


def test_a_direction_sees_the_entry_that_no_single_entry_looked_at():
    x, c = randn(200), randn(200)
    loss = lambda: (c * x * x).sum()  # noqa: E731
    for i in range(0, 200, 9):
        wrong = 2 * c * x
        wrong[i] += 1e-3
        before = x.copy()
        with pytest.raises(AssertionError, match="along a random direction"):
            check_directions(loss, {"x": (x, wrong)})
        np.testing.assert_array_equal(x, before)  # put back, to the bit
    y, wrong = x.copy(), 2 * c * x
    with pytest.raises(AssertionError, match="x, along a random direction"):
        check_directions(lambda: (c * x * y).sum(), {"x": (x, wrong), "y": (y, c * x)})


# ------------------------------------------------------------------------------ values, naive loops


@in_blocks_and_threads
@pytest.mark.parametrize("V", [13, 600])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_losses_are_those_of_the_logits(V, temperature):
    cfg, params = tiny(V)
    tokens, targets = batch(cfg, 4, 7)
    targets[1, 2:5] = -1
    z = fast.forward(params, cfg, tokens)[0] / temperature
    want = np.zeros((4, 7))
    for b, t in np.argwhere(targets >= 0):
        want[b, t] = np.log(np.exp(z[b, t]).sum()) - z[b, t, targets[b, t]]
    nll = fast.token_losses(params, cfg, tokens, targets, temperature=temperature)
    np.testing.assert_allclose(nll, want, rtol=1e-10, atol=1e-12)
    weights = randn(4, 7)
    loss, _ = fast.loss_and_grads(params, cfg, tokens, targets, weights, temperature=temperature)
    assert loss == pytest.approx((weights * want).sum(), rel=1e-10)
    loss, _ = fast.loss_and_grads(params, cfg, tokens, targets, temperature=temperature)
    assert loss == pytest.approx(want.sum() / 25, rel=1e-10)


def test_the_first_loss_is_that_of_guessing():
    cfg = gpt.Config(512, 32, 64, 3, 4)
    tokens, targets = batch(cfg, 4, 32)
    loss, _ = fast.loss_and_grads(gpt.init(cfg, 0), cfg, tokens, targets)
    assert loss == pytest.approx(math.log(512), abs=0.1)


def test_published_parameter_counts():
    counts = {
        "gpt2": 124_439_808,
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
    }
    for name, n in counts.items():
        cfg = gpt.PRESETS[name]
        assert cfg.n_params == n == sum(math.prod(s) for s in gpt.param_shapes(cfg).values())


# --------------------------------------------------------------------------------------- invariants


def test_float32_stays_float32():
    cfg = gpt.Config(17, 8, 16, 2, 2)
    params = gpt.init(cfg, 0)
    tokens, targets = batch(cfg, 2, 8)
    _, grads = fast.loss_and_grads(params, cfg, tokens, targets, RNG.standard_normal((2, 8)))
    assert {g.dtype for g in grads.values()} == {np.dtype(np.float32)}
    assert fast.forward(params, cfg, tokens)[0].dtype == np.float32
    cache = fast.Cache(cfg, 2)
    assert fast.decode(params, cfg, tokens, cache).dtype == np.float32


@in_blocks
def test_two_unequal_parts_add_up_to_the_whole_batch():
    cfg, params = tiny()
    tokens, targets = batch(cfg, 5, 7)
    targets[1, 2:] = -1
    weights = np.where(targets >= 0, 1.0 / (targets >= 0).sum(), 0.0)
    loss, grads = fast.loss_and_grads(params, cfg, tokens, targets)
    parts = [
        fast.loss_and_grads(params, cfg, tokens[r], targets[r], weights[r])
        for r in (slice(0, 2), slice(2, 5))
    ]
    assert sum(p[0] for p in parts) == pytest.approx(loss, rel=1e-12)
    for k in grads:
        np.testing.assert_allclose(parts[0][1][k] + parts[1][1][k], grads[k], rtol=1e-9, atol=1e-12)


@in_blocks
def test_recomputing_activations_changes_no_bit():
    cfg = gpt.Config(50, 20, 32, 3, 2)
    params = gpt.init(cfg, 0)
    tokens, targets = batch(cfg, 5, 20)
    kept, again = (
        fast.loss_and_grads(params, cfg, tokens, targets, recompute=r) for r in (False, True)
    )
    assert kept[0] == again[0]
    for k in params:
        np.testing.assert_array_equal(kept[1][k], again[1][k])


def test_memory_comes_back_with_the_last_reference(monkeypatch):
    """Not with some later round of the garbage collector: the next model may need it first."""
    monkeypatch.setattr(cores, "N_THREADS", 1)  # a thread of the pool lets go a moment later
    cfg, params = tiny()
    tokens, targets = batch(cfg, 3, 7)
    gc.collect()
    gc.disable()
    try:
        for work in (fast.loss_and_grads, fast.token_losses):
            arena = cores.Arena()
            work(params, cfg, tokens, targets, arena=arena)
            memory = weakref.ref(arena.memory)
            del arena
            assert memory() is None, work.__name__
    finally:
        gc.enable()


@in_blocks
@pytest.mark.parametrize("recompute", [False, True])
def test_what_grads_and_arena_held_before_does_not_matter(recompute):
    cfg, params = tiny()
    tokens, targets = batch(cfg, 4, 7)
    targets[1, 2:] = -1
    weights = randn(4, 7)
    loss, want = fast.loss_and_grads(params, cfg, tokens, targets, weights)
    grads, arena = {k: randn(*p.shape) for k, p in params.items()}, cores.Arena()
    for i in range(2):  # what the arrays held before does not matter; the second time it is added
        again, same = fast.loss_and_grads(
            params,
            cfg,
            tokens,
            targets,
            weights,
            grads=grads,
            add=i == 1,
            arena=arena,
            recompute=recompute,
        )
        assert same is grads and again == pytest.approx(loss, rel=1e-12)
        for k in grads:
            np.testing.assert_allclose(grads[k], (i + 1) * want[k], rtol=1e-9, atol=1e-12)


@in_blocks
def test_the_arena_is_as_large_as_planned_and_serves_other_shapes():
    cfg = gpt.Config(50, 20, 32, 3, 2)
    params, arena = gpt.init(cfg, 0), cores.Arena()
    for recompute in (True, False):
        for B, T in ((2, 20), (5, 20), (3, 7)):
            tokens, targets = batch(cfg, B, T)
            want = fast.loss_and_grads(params, cfg, tokens, targets, recompute=recompute)
            got = fast.loss_and_grads(
                params, cfg, tokens, targets, arena=arena, recompute=recompute
            )
            assert got[0] == want[0] and all(np.array_equal(got[1][k], want[1][k]) for k in params)
            if (B, T) == (5, 20):
                plan = fast.memory_plan(cfg, B, T, recompute)
                assert arena.memory.nbytes == plan["activations"] + plan["logits"]
    assert (
        fast.memory_plan(cfg, 5, 20, True)["activations"]
        < 0.6 * fast.memory_plan(cfg, 5, 20, False)["activations"]
    )


@in_blocks_and_threads
def test_rows_that_pad_the_vocabulary_change_nothing():
    cfg, params = tiny()
    tokens, targets = batch(cfg, 3, 7)
    loss, want = fast.loss_and_grads(params, cfg, tokens, targets)
    padded = {**params, "wte.weight": np.concatenate([params["wte.weight"], randn(3, cfg.n_embd)])}
    again, grads = fast.loss_and_grads(padded, cfg, tokens, targets)
    assert again == loss and not grads["wte.weight"][cfg.vocab_size :].any()
    np.testing.assert_array_equal(grads["wte.weight"][: cfg.vocab_size], want["wte.weight"])
    np.testing.assert_array_equal(
        fast.forward(padded, cfg, tokens)[0], fast.forward(params, cfg, tokens)[0]
    )
    one = [
        fast.decode(p, cfg, tokens, fast.Cache(cfg, 3, like=params["wte.weight"]))
        for p in (params, padded)
    ]
    np.testing.assert_array_equal(*one)


@in_blocks
def test_same_input_same_bits():
    cfg = gpt.Config(50, 40, 32, 2, 2)
    params = gpt.init(cfg, 0)
    tokens, targets = batch(cfg, 6, 40)
    first, again = (fast.loss_and_grads(params, cfg, tokens, targets) for _ in range(2))
    assert first[0] == again[0] and all(np.array_equal(first[1][k], again[1][k]) for k in params)


def test_one_batch_is_learned_by_heart():
    cfg = gpt.Config(23, 12, 32, 2, 4)
    params = gpt.init(cfg, 0)
    tokens, targets = batch(cfg, 4, 12)
    tokens[:, 0] = range(4)  # rows that begin alike could not be told apart
    m, v = ({k: np.zeros_like(p) for k, p in params.items()} for _ in range(2))
    for t in range(1, 201):
        loss, grads = fast.loss_and_grads(params, cfg, tokens, targets)
        for k, g in grads.items():
            m[k] += 0.1 * (g - m[k])
            v[k] += 0.01 * (g * g - v[k])
            params[k] -= 0.01 * (m[k] / (1 - 0.9**t)) / (np.sqrt(v[k] / (1 - 0.99**t)) + 1e-8)
    assert loss < 0.01


@in_blocks_and_threads
def test_no_position_sees_what_comes_after_it():
    cfg, params = tiny(n_positions=70, width=6)
    tokens, _ = batch(cfg, 1, 70)
    before, _ = fast.forward(params, cfg, tokens)
    for t in (1, 63, 64, 69):
        changed = tokens.copy()
        changed[0, t] = (changed[0, t] + 1) % cfg.vocab_size
        after, _ = fast.forward(params, cfg, changed)
        np.testing.assert_array_equal(after[0, :t], before[0, :t])
        assert not np.allclose(after[0, t], before[0, t])


@in_blocks_and_threads
def test_an_ignored_target_moves_no_gradient():
    cfg, params = tiny()
    tokens, targets = batch(cfg, 2, 7)
    targets[1] = -1
    _, grads = fast.loss_and_grads(params, cfg, tokens, targets)
    _, alone = fast.loss_and_grads(params, cfg, tokens[:1], targets[:1])
    for k in grads:
        np.testing.assert_allclose(grads[k], alone[k], rtol=1e-9, atol=1e-13)
    loss, grads = fast.loss_and_grads(params, cfg, tokens, targets, np.zeros((2, 7)))
    assert loss == 0.0 and not any(g.any() for g in grads.values())
    with pytest.raises(ValueError, match="every target is ignored"):
        fast.loss_and_grads(params, cfg, tokens, np.full((2, 7), -1))
    with pytest.raises(ValueError, match="targets: id -2 is outside"):
        fast.loss_and_grads(params, cfg, tokens, np.full((2, 7), -2))


@in_blocks_and_threads
@pytest.mark.parametrize("vocab", [13, 600])
@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("many", [1, 32])
def test_cached_decoding_equals_the_full_forward(monkeypatch, many, small, vocab):
    """Of a small model the rows are divided among threads, of a large one the weights. Of many rows
    the free places are read too."""
    monkeypatch.setattr(fast, "SMALL_MODEL", 8 << 20 if small else 0)
    monkeypatch.setattr(decoding, "MANY", many)
    cfg, params = tiny(vocab, n_positions=12)
    tokens, _ = batch(cfg, 3, 12)
    want, _ = fast.forward(params, cfg, tokens)
    cache, lengths = (
        fast.Cache(cfg, 3, like=params["wte.weight"]),
        np.array([5, 1, 3]),
    )  # rows of unequal length
    first = fast.decode(params, cfg, tokens[:, :5], cache, n_new=lengths)
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(first[b, :n], want[b, :n], rtol=1e-9, atol=1e-12)
    for _ in range(7):
        one = tokens[np.arange(3), cache.length][:, None]
        at = cache.length.copy()
        logits = fast.decode(params, cfg, one, cache, only_last=True)
        np.testing.assert_allclose(logits, want[np.arange(3), at], rtol=1e-9, atol=1e-12)
    cache.length -= [2, 1, 3]
    part, at = cache.rows(slice(1, 3)), cache.length.copy()
    one = tokens[[1, 2], at[1:]][:, None]
    logits = fast.decode(params, cfg, one, part)[:, 0]
    np.testing.assert_allclose(logits, want[[1, 2], at[1:]], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(cache.length, at + [0, 1, 1])  # its rows are the cache's own


@in_blocks_and_threads
def test_padding_never_lands_on_a_token_of_the_cache():
    cfg, params = tiny(n_positions=5)
    tokens, _ = batch(cfg, 2, 5)
    want, _ = fast.forward(params, cfg, tokens)
    cache = fast.Cache(cfg, 2, like=params["wte.weight"])
    fast.decode(params, cfg, tokens[:, :3], cache, n_new=np.array([3, 1]))
    new = np.stack(
        [np.r_[tokens[0, 3:], 0, 0], tokens[1, 1:]]
    )  # row 0 is full after two of the four
    logits = fast.decode(params, cfg, new, cache, n_new=np.array([2, 4]), only_last=True)
    np.testing.assert_allclose(logits, want[:, 4], rtol=1e-9, atol=1e-12)


def test_what_does_not_fit_is_refused():
    cfg, params = tiny()
    with pytest.raises(ValueError, match="10 positions, the model's context is 9"):
        fast.forward(params, cfg, np.zeros((1, 10), int))
    with pytest.raises(ValueError, match="id 13 is outside the model's vocabulary of 13"):
        fast.forward(params, cfg, np.array([[0, 13]]))
    cache = fast.Cache(cfg, 1, 4, params["wte.weight"])
    with pytest.raises(ValueError, match=r"n_new = \[0\]: expected 1 to 4"):
        fast.decode(params, cfg, np.zeros((1, 4), int), cache, n_new=np.array([0]))
    with pytest.raises(ValueError, match="a float32 cache for float64 parameters"):
        fast.decode(params, cfg, np.zeros((1, 4), int), fast.Cache(cfg, 1, 4))
    fast.decode(params, cfg, np.zeros((1, 4), int), cache)
    with pytest.raises(ValueError, match="5 positions do not fit the cache of 4"):
        fast.decode(params, cfg, np.zeros((1, 1), int), cache)
    with pytest.raises(ValueError, match="n_embd 10 is no multiple of n_head 3"):
        gpt.Config(5, 5, 10, 1, 3)


# ------------------------------------------------------------------------ what callers may do wrong


def everything(params, cfg):
    """A call that is right, for tests that make one argument wrong."""
    tokens, targets = batch(cfg, 3, 7)
    return {"params": params, "cfg": cfg, "tokens": tokens, "targets": targets}


def quadratic(y):  # a head
    return (y * y).sum(), 2 * y, None


def test_adding_to_nothing_is_refused():
    """Fresh arrays hold whatever was in memory."""
    cfg, params = tiny()
    call = everything(params, cfg)
    with pytest.raises(ValueError, match="add needs grads"):
        fast.loss_and_grads(**call, add=True)
    with pytest.raises(ValueError, match="add needs grads"):
        fast.hidden_and_grads(params, cfg, call["tokens"], quadratic, add=True)


def test_tensors_beside_the_models_get_no_garbage():
    """A reward model has a head of its own among its parameters."""
    cfg, params = tiny()
    both = {**params, "score.weight": randn(12)}
    call = everything(both, cfg)
    for _ in range(3):
        np.full(12, 7.0)  # leaves 7s where the next array of this size may lie
        assert not fast.loss_and_grads(**call)[1]["score.weight"].any()
        assert not fast.hidden_and_grads(both, cfg, call["tokens"], quadratic)[1][
            "score.weight"
        ].any()
    grads = {k: np.full_like(p, 3.0) for k, p in both.items()}
    fast.loss_and_grads(**call, grads=grads)
    assert (grads["score.weight"] == 3.0).all()  # the caller's affair


@pytest.mark.parametrize(
    "name",
    [
        "attention_forward",
        "attention_backward",
        "layernorm_forward",
        "layernorm_backward",
        "linear_forward",
        "linear_backward",
        "gelu_forward",
        "gelu_backward",
    ],
)
def test_a_patched_operation_is_the_one_that_runs_everywhere(name, monkeypatch):
    """With recompute, block_forward ran attention by another route than the first forward."""
    cfg, params = tiny()
    call, right, calls = everything(params, cfg), getattr(operations, name), []
    monkeypatch.setattr(
        operations, name, lambda *args, **kwargs: calls.append(name) or right(*args, **kwargs)
    )
    monkeypatch.setattr(cores, "N_THREADS", 1)
    fast.loss_and_grads(**call)
    once = len(calls)
    fast.loss_and_grads(**call, recompute=True)
    again = (
        cfg.n_layer if name.endswith("forward") else 0
    )  # recompute runs each block's forward once more
    times = {"layernorm_forward": 2, "linear_forward": 4}.get(name, 1)
    assert once and len(calls) - once == once + again * times


def test_a_patched_attention_gives_the_same_gradients_with_recompute(monkeypatch):
    cfg, params = tiny()
    call, right = everything(params, cfg), operations.attention_forward

    def twice_as_much(*args, **how):
        o, cache = right(*args, **how)
        o *= 2.0
        return o, cache

    monkeypatch.setattr(operations, "attention_forward", twice_as_much)
    kept, again = (fast.loss_and_grads(**call, recompute=r)[1] for r in (False, True))
    for k in params:
        np.testing.assert_array_equal(kept[k], again[k])


@pytest.mark.parametrize(
    "head, message",
    [
        (
            lambda y, grads, p: (0.0, y.swapaxes(0, 1), None),
            r"head: dy: shape \(7, 3, 12\), expected \(3, 7, 12\)",
        ),
        (lambda y, grads, p: (0.0, y[:1], None), "head: dy: shape"),
        (
            lambda y, grads, p: (0.0, y, np.ones(12)),
            r"head: dwte: shape \(12,\), expected \(13, 12\)",
        ),
        (lambda y, grads, p: (0.0, y, grads["wte.weight"]), "head: dwte shares memory"),
    ],
)
def test_what_a_head_returns_is_checked(head, message):
    """Its dwte in the place of the gradient itself was zeroed before it was added."""
    cfg, params = tiny()
    grads = {k: np.ones_like(p) for k, p in params.items()}
    with pytest.raises(ValueError, match=message):
        fast.hidden_and_grads(
            params, cfg, batch(cfg, 3, 7)[0], lambda y: head(y, grads, params), grads=grads
        )
    assert all((g == 1.0).all() for g in grads.values())


def test_an_arena_has_one_user_at_a_time():
    """A head that used its own call's arena got the hidden states of the inner call."""
    cfg, params = tiny()
    call, arena = everything(params, cfg), cores.Arena()
    inside = (
        lambda: fast.loss_and_grads(**call, arena=arena),
        lambda: fast.token_losses(**call, arena=arena),
        lambda: fast.hidden_and_grads(params, cfg, call["tokens"], quadratic, arena=arena),
    )
    for f in inside:
        for want_grads in (True, False):
            with pytest.raises(ValueError, match="arena: in use by another call"):
                fast.hidden_and_grads(
                    params,
                    cfg,
                    call["tokens"],
                    lambda y, f=f: f() and quadratic(y),
                    want_grads,
                    arena=arena,
                )
    with ThreadPoolExecutor(1) as other:  # another thread, likewise
        with pytest.raises(ValueError, match="arena: in use by another call"):
            fast.hidden_and_grads(
                params, cfg, call["tokens"], lambda y: other.submit(inside[0]).result(), arena=arena
            )
    assert (
        fast.loss_and_grads(**call, arena=arena)[0] == fast.loss_and_grads(**call)[0]
    )  # free again after the errors


def test_the_mask_cannot_be_written_to_and_logits_follow_the_constant(monkeypatch):
    cfg, _ = tiny()
    shapes = fast.step_shapes(cfg, 3, 7)
    with pytest.raises(ValueError, match="read-only"):
        operations.causal_mask(4, np.dtype(np.float64))[0, 0] = 1.0
    assert shapes["logits"] == (21, 13)
    monkeypatch.setattr(fast, "LOGIT_FLOATS", 5 * 13)
    assert fast.step_shapes(cfg, 3, 7)["logits"] == (5, 13)
