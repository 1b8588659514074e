"""model/device.py: training and decoding on a GPU against model/fast.py, of either family; on the
CPU that plays GPU where there is none."""

import gc
import json
import sys
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_kernels import bits_of, cp, value_of  # skips where neither a GPU nor g++ is there

import bpe
from model import cores
from model import device, device_training
from model import families
from model import fast
from model import llama
from model import planning
from model import resume
import gpt
import kernels
from kernels import launching
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


RECIPE = train.Recipe(CFG, steps=5, batch=5, lr=1e-2, warmup=2, clip=0.5)
OPTIMIZERS = {"AdamW": train.AdamW, "Muon": partial(train.Muon, ratio=2.0)}


def pair_of(kind, params):
    """(parameters, optimizer) twice, of equal copies: one for NumPy, one for the GPU."""
    for _ in range(2):
        copy = {k: p.copy() for k, p in params.items()}
        more = {"beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1}
        yield copy, OPTIMIZERS[kind](copy, **more)


def step_on_cpu(params, optimizer, step, rows, cfg=CFG):
    """(loss, norm) of a step in NumPy. rows: tokens, targets, weights."""
    loss, grads = fast.loss_and_grads(params, cfg, *rows)
    norm, _, _ = train.update(optimizer, grads, loss, step, RECIPE)
    return loss, norm


def step_on_gpu(training, step, rows):
    """The same on the GPU, in micro-batches of three rows and two."""
    training.clear()
    for some in (slice(0, 3), slice(3, 5)):
        training.add(*(a[some] for a in rows))
    return training.update(train.learning_rate(step, RECIPE), RECIPE.clip)


def arrays_of(params, optimizer):
    """{name: copy} of all that training changes. A bias of the keys is left out: it moves all
    scores of a query alike, so its gradient is rounding, and AdamW's step its sign."""
    arrays = {}
    for name, a in resume.checkpoint_arrays(params, optimizer).items():
        keys = slice(CFG.n_embd, 2 * CFG.n_embd) if name.endswith("c_attn.bias") else slice(0)
        if "attn.k.bias" not in name:
            arrays[name] = np.delete(a, keys, axis=0)
    return arrays


def five_rows(factor=1.0):
    """A batch with so many times the weights of a mean."""
    tokens, targets, _ = batch(5, CFG.n_positions)
    return tokens, targets, np.where(targets < 0, 0.0, factor / targets.size)


TRAINED = [(name, kind, bf16) for name in ("GPT-2", "Qwen 3") for kind in OPTIMIZERS
           for bf16 in (False, True)]
TRAINED += [("Llama", "AdamW", False), ("Llama", "Muon", True), ("Qwen 2", "AdamW", True)]


@pytest.mark.parametrize("name, kind, bf16", TRAINED)
def test_training_equals_numpy(name, kind, bf16):
    """Five steps of unequal micro-batches, the last three from the recorded graph. The second is
    not clipped, and before the last there is one that must be skipped. What each parameter moved by
    is compared, not what it is."""
    cfg, tolerance = MODELS[name], 0.3 if bf16 else 1e-3
    start = model(cfg, bf16)
    (params, ours), (there, theirs) = pair_of(kind, start)
    gpu = device_training.Training(there, theirs, cfg, rows=3, bf16=bf16)
    begin = arrays_of(there, theirs)
    for step in range(RECIPE.steps):
        if step == 4:
            gpu.download()
            before = arrays_of(there, theirs)
            _, norm = step_on_gpu(gpu, step, five_rows(np.inf))
            gpu.download()
            after = arrays_of(there, theirs)
            assert not np.isfinite(norm) and theirs.t == 4
            assert all(np.array_equal(after[name], a) for name, a in before.items())
        rows = five_rows(0.05 if step == 1 else 1.0)
        loss, norm = step_on_cpu(params, ours, step, rows, cfg)
        got = step_on_gpu(gpu, step, rows)
        np.testing.assert_allclose(got, (loss, norm), rtol=3e-2 if bf16 else 1e-4)
        assert (norm < RECIPE.clip) == (step == 1)
    gpu.download()
    assert theirs.t == 5
    got = arrays_of(there, theirs)
    for name, want in arrays_of(params, ours).items():
        error = np.linalg.norm(got[name] - want) / np.linalg.norm(want - begin[name])
        assert error < tolerance, f"{name}: off by {error:.1e} of what it moved"


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_on_another_device(kind):
    """Two steps on a GPU, one in NumPy, and one on a GPU again equal four in NumPy."""
    (params, ours), (there, theirs) = pair_of(kind, model())
    begin = arrays_of(there, theirs)
    for step in range(4):
        rows = five_rows()
        step_on_cpu(params, ours, step, rows)
        if step == 2:
            gpu.download()
            step_on_cpu(there, theirs, step, rows)
            continue
        if step in (0, 3):
            gpu = device_training.Training(there, theirs, CFG, rows=3, bf16=False)
        step_on_gpu(gpu, step, rows)
    gpu.close()
    got = arrays_of(there, theirs)
    for name, want in arrays_of(params, ours).items():
        error = np.linalg.norm(got[name] - want) / np.linalg.norm(want - begin[name])
        assert error < 1e-3, f"{name}: off by {error:.1e} of what it moved"


def test_what_is_computed_again_is_the_same_to_the_bit(cfg):
    """Also when it is replayed from a recorded graph."""
    moved, rows = [], five_rows()
    for recompute in (False, True):
        params = families.of(cfg).init(cfg, 0)
        training = device_training.Training(params, train.AdamW(params), cfg, 2, recompute, False)
        for _ in range(3):
            training.clear()
            training.add(*(a[:2] for a in rows))
            training.update(1e-2, 1.0)
        training.close()
        moved.append(params)
    for name, p in moved[0].items():
        np.testing.assert_array_equal(p, moved[1][name], err_msg=name)


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


def run(tmp_path, name, gpu, steps=4, save_every=250, muon=0.0, cfg=CFG):
    text = np.random.default_rng(2).integers(0, cfg.vocab_size, 4000).astype(np.uint16)
    recipe = train.Recipe(
        cfg,
        steps=steps,
        batch=4,
        lr=1e-2,
        min_lr=1e-3,
        warmup=2,
        muon=muon,
        eval_every=2,
        save_every=save_every,
    )
    train.train(
        recipe, None, [text[:3000]], [text[3000:3100]], tmp_path / name, micro_batch=2, gpu=gpu
    )
    return [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("of, muon", [("GPT-2", 0.0), ("GPT-2", 5.0), ("Qwen 3", 5.0)])
def test_train_on_a_gpu(tmp_path, of, muon, capsys):
    gpu, cfg = device.connect("float32"), MODELS[of]
    ours = run(tmp_path, "cpu", None, muon=muon, cfg=cfg)
    theirs = run(tmp_path, "gpu", gpu, muon=muon, cfg=cfg)
    assert (", Muon " in capsys.readouterr().err) == bool(muon)         # in the plan of memory
    for a, b in zip(ours, theirs):
        for what in {"loss_nats", "grad_norm", "val_loss_nats"} & a.keys():
            assert a[what] == pytest.approx(b[what], rel=1e-4), (a["step"], what)
    kept = resume.kept_settings(tmp_path / "gpu", {}, ("device",))
    assert kept == {"device": f"{gpu.name}, float32"}
    params = gpt.load(tmp_path / "gpu")[0]
    for name in ("wte.weight", families.head_name(cfg)):        # without what pads them
        assert params[name].shape == (cfg.vocab_size, cfg.n_embd)
    with pytest.raises(ValueError, match="device: checkpoint .*float32.*now .*bf16"):
        run(tmp_path, "gpu", device.connect(), muon=muon, cfg=cfg)


@pytest.mark.parametrize("muon", [0.0, 5.0])
def test_a_run_on_a_gpu_resumes_to_the_same_bits(tmp_path, monkeypatch, muon):
    gpu, save = device.connect(), resume.Stage.save_checkpoint
    run(tmp_path, "whole", gpu, muon=muon)

    def save_and_die(*args):
        save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(resume.Stage, "save_checkpoint", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "killed", gpu, save_every=3, muon=muon)
    monkeypatch.undo()
    run(tmp_path, "killed", gpu, save_every=3, muon=muon)
    whole, resumed = (gpt.load(tmp_path / name)[0] for name in ("whole", "killed"))
    assert all(np.array_equal(whole[k], resumed[k]) for k in whole)


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


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_plan_is_what_is_taken(cfg, kind):
    cfg = replace(cfg, vocab_size=300)
    plan = device_training.memory_plan(cfg, 3, bf16=True, has_muon=kind == "Muon")
    params = families.of(cfg).init(cfg, 0)
    gpu = device_training.Training(params, OPTIMIZERS[kind](params), cfg, 3)
    of_adamw = [*gpu.masters, gpu.m, gpu.v, gpu.weights, gpu.flat, gpu.arena.memory]
    of_muon = 0
    if kind == "Muon":
        of_muon = gpu.mean.nbytes
        for a in gpu.in_rounds.values():
            of_muon += cores.padded(a.shape, a.dtype.itemsize)
    taken = sum(a.nbytes for a in of_adamw) + of_muon
    assert taken == sum(plan.values()) - plan["scratch"]
    assert of_muon == plan.get("Muon", 0)
    launching._memory["scratch"] = None
    gpu.add(*RNG.integers(0, 300, (2, 3, cfg.n_positions)), np.full((3, cfg.n_positions), 1e-2))
    gpu.update(1e-3, 1.0)
    assert launching._memory["scratch"].nbytes <= plan["scratch"] - (32 << 20)


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
        device_training.Training(params, train.AdamW(params), replace(CFG, vocab_size=36), 3, bf16=False)


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
