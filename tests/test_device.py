"""model/device.py: training and decoding on a GPU against model/fast.py, of either family; on the
CPU that plays GPU where there is none."""

import gc
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_kernels import bits_of, cp, value_of  # skips where neither a GPU nor g++ is there

import bpe
from model import device, device_training
from model import families
from model import fast
from model import llama
from model import planning
import gpt
import kernels
from chat import generate
import train

device.connect()
CFG = gpt.Config(vocab_size=37, n_positions=20, n_embd=32, n_layer=2, n_head=2)
# Every option of the Llama family is in one of them, and heads that go through tensor cores.
MODELS = {
    "GPT-2": CFG,
    "Llama": llama.Config(37, 20, 32, 2, 4, 2, 16, 24,
                          rope_scaling=llama.RopeScaling(8.0, 1.0, 4.0, 8)),
    "Qwen 2": llama.Config(37, 20, 32, 2, 2, 1, 32, 40, qkv_bias=True, o_bias=True),
    "Qwen 3": llama.Config(37, 20, 32, 2, 3, 3, 6, 20, qk_norm=True, tied=False),
}
RNG = np.random.default_rng(1)


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def cfg(request):
    return request.param


def batch(B, T, cfg=CFG):
    tokens, targets = RNG.integers(0, cfg.vocab_size, (2, B, T))
    targets[0, 1] = -1
    return tokens, targets, RNG.standard_normal((B, T)) / (B * T)


def model(cfg=CFG, bf16=False):
    """The same weights for both: of bfloat16 those that it can hold."""
    params = {
        k: p + 0.1 * RNG.standard_normal(p.shape).astype(np.float32)
        for k, p in families.of(cfg).init(cfg, 0).items()
    }
    return {k: value_of(bits_of(p)) for k, p in params.items()} if bf16 else params


def close(got, want, tolerance, what=""):
    got, most = (
        kernels.on_host(got) if isinstance(got, cp.ndarray) else got,
        max(np.abs(want).max(), 1e-4),
    )
    error = np.abs(got[: len(want)] - want).max()
    assert error <= tolerance * most, f"{what}: off by {error:.2e}, the largest is {most:.2e}"


@pytest.mark.parametrize("bf16, tolerance", [(False, 1e-4), (True, 0.04)])
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients(cfg, bf16, tolerance, recompute, monkeypatch):
    monkeypatch.setattr(device, "LOGIT_NUMBERS", 16 * 40)  # logits in several pieces
    params, (tokens, targets, weights) = model(cfg, bf16), batch(2, 13)
    there = device.upload(params, cfg, bf16)
    want, want_grads = fast.loss_and_grads(
        {k: p.astype(np.float64) for k, p in params.items()}, cfg, tokens, targets, weights
    )
    loss, grads = device.loss_and_grads(there, cfg, tokens, targets, weights, recompute=recompute)
    assert abs(loss - want) < (0.02 if bf16 else 1e-5)
    if bf16 and getattr(cfg, "qk_norm", False):
        tolerance *= 1.5        # norms of six numbers divide roundings by the short ones among them
    for k, g in want_grads.items():
        close(grads[k], g, tolerance, k)
    for name in {"wte.weight", families.head_name(cfg)}:        # what pads the vocabulary
        assert not kernels.on_host(grads[name])[cfg.vocab_size :].any()
    twice = device.loss_and_grads(
        there, cfg, tokens, targets, weights, grads=grads, add=True, recompute=recompute
    )[1]
    for k, g in want_grads.items():
        close(twice[k], 2 * g, tolerance, f"{k} twice")
    nats = device.token_losses(there, cfg, tokens, targets)
    close(nats, fast.token_losses(params, cfg, tokens, targets), tolerance, "nats")
    assert nats[0, 1] == 0.0


@pytest.mark.parametrize(
    "bf16, tolerance, backend",
    [(False, 1e-4, "cublasLt"), (True, 0.04, "cublasLt"), (False, 1e-4, "gemmEx")],
)
def test_decode(cfg, bf16, tolerance, backend, monkeypatch, capsys):
    if backend == "gemmEx":
        monkeypatch.setattr(kernels.cublas, "cublaslt", lambda: None)
    params, tokens, lengths = (
        model(cfg, bf16),
        RNG.integers(0, cfg.vocab_size, (3, 4)),
        np.array([4, 1, 2]),
    )
    there = device.upload(params, cfg, bf16)
    engines = (fast, params), (device, there)
    caches = [engine.Cache(cfg, 3, 16, p["wte.weight"]) for engine, p in engines]

    def each(tokens, **how):
        return [
            engine.decode(p, cfg, tokens, cache, **how)
            for (engine, p), cache in zip(engines, caches)
        ]

    both = each(tokens, n_new=lengths, only_last=True)
    close(both[1], both[0], tolerance, "prompt")
    for i in range(4):  # recorded, then replayed
        both = each(tokens[:, i : i + 1], only_last=True)
        close(both[1], both[0], tolerance, f"token {i}")
    caches = [c.rows(slice(1, 3)) for c in caches]
    both = each(tokens[1:, :2])
    assert both[1].shape == (2, 2, cfg.vocab_size)
    close(both[1], both[0], tolerance, "two more, all logits")
    np.testing.assert_array_equal(caches[0].length, caches[1].length)
    assert ("not recorded as a CUDA graph" in capsys.readouterr().err) == (backend == "gemmEx")


def test_what_is_missing_is_said(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(
        ValueError,
        match="no CuPy.*pip install .cupy-cuda12x.ctk.. or .cupy-cuda13x.ctk..; "
        "or leave out --device cuda",
    ):
        device.connect()
    runtime = SimpleNamespace(**vars(cp.cuda.runtime))
    fake = SimpleNamespace(
        cuda=SimpleNamespace(runtime=runtime, Device=lambda: SimpleNamespace(id=0)), empty=cp.empty
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)

    def fails(with_what):
        def get():
            raise RuntimeError(with_what)

        return get

    runtime.getDeviceCount = fails(
        "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
    )
    with pytest.raises(
        ValueError, match="InsufficientDriver.*older than this CuPy needs: update it"
    ):
        device.connect()
    runtime.getDeviceCount = fails("cudaErrorNoDevice: no CUDA-capable device is detected")
    with pytest.raises(
        ValueError, match="NoDevice.*See whether nvidia-smi shows one; or leave out --device cuda"
    ):
        device.connect()
    runtime.getDeviceCount, runtime.getDeviceProperties = (
        (lambda: 1),
        (lambda i: {"name": b"Old One", "major": 7, "minor": 5}),
    )
    monkeypatch.setattr(device, "cp", cp)  # connect() changes both
    monkeypatch.setattr(device, "kernels", kernels)
    assert not device.connect().bf16
    assert (
        "Old One: no bfloat16 (compute capability 7.5, 8.0 has it); computing in float32"
        in capsys.readouterr().err
    )
    with pytest.MonkeyPatch.context() as patch:
        kernels.checks._limits_of.cache_clear()
        patch.setattr(
            kernels.checks.cp.cuda,
            "Device",
            lambda *_: SimpleNamespace(id=7, attributes={"WarpSize": 64}),
        )
        with pytest.raises(
            ValueError, match="warps have 64 threads; the kernels are written for 32"
        ):
            device.connect()
    kernels.checks._limits_of.cache_clear()
    with pytest.raises(ValueError, match="need .* GB, .* GB may be used"):
        planning.fit_batch(gpt.PRESETS["gpt2"], 8, 1e9, gpu=SimpleNamespace(bf16=True))
    with pytest.raises(ValueError, match="--dtype bf16: the CPU computes in float32"):
        train.main(["--dtype", "bf16"])


def test_memory_comes_back_with_the_last_reference():
    """Not with some later round of the garbage collector: the next model may need it first."""
    params, tokens = model(), RNG.integers(0, CFG.vocab_size, (1, 3))
    gc.collect()
    gc.disable()
    try:
        training = device_training.Training(params, train.AdamW(params), CFG, 1)
        training.add(*batch(1, CFG.n_positions))
        training.update(1e-3, 1.0)
        there = device.upload(params, CFG, False)
        cache = device.Cache(CFG, 1, 8, there["wte.weight"])
        for i in range(3):
            device.decode(there, CFG, tokens[:, i : i + 1], cache)
        kept = [
            weakref.ref(training),
            weakref.ref(training.arena),
            weakref.ref(cache),
            weakref.ref(cache.step[1]),
        ]
        del training, cache
        assert [ref() for ref in kept] == [None] * 4
    finally:
        gc.enable()


def test_sampling_on_a_gpu_says_what_the_cpu_says(cfg):
    tokenizer = bpe.Tokenizer.characters("abcdefghijklmnopqrstuvwxyz ABCDEFGHIJ")
    params = model(cfg)
    prompts, n = [[3, 5, 7], [2], [9, 9, 1, 4]], 8
    there = device.upload(params, cfg, False)
    said = [
        generate.generate(p, cfg, tokenizer, prompts, engine, max_new_tokens=n, seed=1)
        for engine, p in ((fast, params), (device, there))
    ]
    assert [r.ids for r in said[0]] == [r.ids for r in said[1]]


def test_the_size_of_the_pieces_may_change(monkeypatch):
    whole = device.step_shapes(CFG, 2, 13)
    monkeypatch.setattr(device, "LOGIT_NUMBERS", 16 * 40)
    assert whole["logits"] == (26, 40) and device.step_shapes(CFG, 2, 13)["logits"] == (16, 40)


def wrong_batches():
    """(what is wrong, tokens, targets, weights of shape (3,20), for CFG)."""
    tokens, targets = np.random.default_rng(0).integers(0, CFG.vocab_size, (2, 3, CFG.n_positions))
    weights = np.full(tokens.shape, 0.01)

    def put(a, value, dtype=np.int64):
        a = a.astype(dtype)
        a[1, 4] = value
        return a

    for kind, value in (
        (np.int64, 37),
        (np.int64, -1),
        (np.int64, 39),
        (np.int64, 1 << 32),
        (np.uint32, (1 << 32) - 1),
        (np.uint16, 65535),
        (np.int8, -128),
    ):
        yield "tokens: id", put(tokens, value, kind), targets, weights
    for kind, value in ((np.int64, 37), (np.int64, -2), (np.int64, 1 << 32), (np.uint16, 65535)):
        yield "targets: id", tokens, put(targets, value, kind), weights
    yield (
        "tokens: float64 numbers, expected integers",
        tokens.astype(float),
        targets,
        weights,
    )
    yield (
        "targets: float64 numbers, expected integers",
        tokens,
        targets.astype(float),
        weights,
    )
    yield "tokens: bool numbers, expected integers", tokens > 5, targets, weights
    yield "tokens: a builtins.list, expected a NumPy array", tokens.tolist(), targets, weights
    yield r"tokens: shape \(60,\)", tokens.ravel(), targets.ravel(), weights.ravel()
    yield r"targets: shape \(3, 19\)", tokens, targets[:, :-1], weights
    yield r"targets: shape \(20, 3\)", tokens, targets.T, weights
    yield r"weights have shape \(3, 19\)", tokens, targets, weights[:, :-1]
    yield r"weights have shape \(20, 3\)", tokens, targets, weights.T


@pytest.mark.parametrize("what, tokens, targets, weights", list(wrong_batches()))
def test_what_a_gpu_would_not_notice_is_refused(what, tokens, targets, weights):
    params = gpt.init(CFG, 0)
    training = device_training.Training(
        {k: p.copy() for k, p in params.items()}, train.AdamW(params), CFG, 3, bf16=False
    )
    there = device.upload(params, CFG, False)
    with pytest.raises((ValueError, TypeError), match=what):
        training.add(tokens, targets, weights)
    if isinstance(tokens, np.ndarray) and tokens.ndim == 2:
        with pytest.raises((ValueError, TypeError), match=what):
            device.loss_and_grads(there, CFG, tokens, targets, weights)
        if not what.startswith("weights"):
            with pytest.raises((ValueError, TypeError), match=what):
                device.token_losses(there, CFG, tokens, targets)
    if what.startswith("tokens"):
        cache = device.Cache(CFG, 3, 20, there["wte.weight"])
        with pytest.raises((ValueError, TypeError), match=what):
            device.decode(there, CFG, tokens, cache, np.full(3, 20), True)


def test_rows_that_do_not_fit_are_refused():
    params, batches = gpt.init(CFG, 0), [batch(*shape) for shape in ((4, 20), (3, 19), (3, 20))]
    training = device_training.Training(params, train.AdamW(params), CFG, 3, bf16=False)
    for tokens, targets, weights in batches[:2]:
        with pytest.raises(ValueError, match=r"tokens: \(\d, \d+\), expected 1 to 3 rows of 20"):
            training.add(tokens, targets, weights)
    with pytest.raises(
        ValueError,
        match=r"tokens: shape \(0, 20\), expected \(batch, positions\), one of each at least",
    ):
        training.add(*(a[:0] for a in batches[2]))
    with pytest.raises(ValueError, match=r"wpe.weight: \(20, 32\), expected \(19, 32\)"):
        device.upload(params, replace(CFG, n_positions=19), False)
    with pytest.raises(ValueError, match=r"wte.weight: \(37, 32\), expected \(36, 32\)"):
        other = replace(CFG, vocab_size=36)
        device_training.Training(params, train.AdamW(params), other, 3, bf16=False)


def test_decoding_keeps_to_its_cache():
    there, tokens = (
        device.upload(gpt.init(CFG, 0), CFG, False),
        RNG.integers(0, CFG.vocab_size, (3, 4)),
    )
    for n_new, length in (
        ([4, 4], 0),
        ([0, 1, 1], 0),
        ([1, 5, 1], 0),
        ([1, 1, 4], 13),
        ([1, 1, 1], -1),
    ):
        cache = device.Cache(CFG, 3, 16, there["wte.weight"])
        cache.length[:] = length
        with pytest.raises(ValueError, match="n_new|do not fit the cache of 16"):
            device.decode(there, CFG, tokens, cache, np.array(n_new), True)
    cache = device.Cache(CFG, 2, 16, there["wte.weight"])
    with pytest.raises(ValueError, match="a cache of 2 rows"):
        device.decode(there, CFG, tokens, cache, np.array([1, 1, 1]), True)
    with pytest.raises(ValueError, match="4 numbers for the GPU, 3 are expected there"):
        device.Inbox(cp.zeros((3,), np.int32)).send(np.zeros(4, np.int32))


def test_a_target_that_is_ignored_has_no_weight():
    """Whatever the weights say, as in fast.loss_and_grads."""
    params, (tokens, targets, weights) = model(), batch(2, CFG.n_positions)
    assert targets[0, 1] == -1
    want, grads = fast.loss_and_grads(params, CFG, tokens, targets, weights)
    training = device_training.Training(
        {k: p.copy() for k, p in params.items()}, train.AdamW(params), CFG, 2, bf16=False
    )
    training.add(tokens, targets, weights)
    close(training.grads["wte.weight"], grads["wte.weight"], 1e-4, "wte.weight")
    assert abs(training.update(1e-3, 1.0)[0] - want) < 1e-5
    again = device.loss_and_grads(
        device.upload(params, CFG, False), CFG, tokens, targets, weights, add=True
    )[1]
    close(again["wte.weight"], grads["wte.weight"], 1e-4, "added to nothing")
