"""Cards with less than an H100: without bfloat16, with 99 KB of shared memory, with little memory.

What the stand-in of a GPU is asked for beyond its limits it refuses, so a limit that is ignored
shows here. tests/test_kernels.py and test_kernels_llama.py have each kernel on such cards.
"""

import contextlib
import dataclasses
import gc
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_kernels import ON_GPU, a_gpu_with, cp     # noqa: F401    skips without a GPU or g++
from test_device import MODELS, close, model
from test_device_tuning import batches, with_adapter
import test_places as stages
from test_resume import log_of

import gpt
import kernels
from kernels import launching
from model import (
    adamw, device, device_training, device_tuning, fast, llama, lora, planning, resume,
)
import train

pytestmark = pytest.mark.skipif(ON_GPU, reason="a GPU has the limits that it has")
CFG = MODELS["GPT-2"]
TURING = {"ComputeCapabilityMajor": 7, "ComputeCapabilityMinor": 5,
          "MaxSharedMemoryPerBlockOptin": 64 << 10}
AMPERE = {"ComputeCapabilityMajor": 8, "ComputeCapabilityMinor": 6,
          "MaxSharedMemoryPerBlockOptin": 99 << 10}


@contextlib.contextmanager
def limits_are_kept():
    """The test fails where the device is asked for what it does not have."""
    try:
        yield
    except (MemoryError, ValueError) as error:
        pytest.fail(f"a limit is ignored: {error}")


@pytest.fixture
def memory(monkeypatch):
    """Gives the device so many free bytes, beside the 32 MB that cublasLt works in."""
    device.connect()
    kernels.cublas.cublaslt()

    def limit(n_bytes):
        gc.collect()
        monkeypatch.setitem(cp.MEMORY, "bytes", cp.MEMORY["taken"] + int(n_bytes))
    return limit


def test_the_stand_in_has_no_more_memory_than_it_says(memory):
    memory(3000)
    a = cp.empty((500,), np.float32)
    with pytest.raises(MemoryError, match="Out of memory allocating 1,004 bytes"):
        cp.empty((251,), np.float32)
    part = a[:3]
    del a
    with pytest.raises(MemoryError):
        cp.empty((500,), np.float32)
    del part
    gc.collect()
    assert cp.empty((700,), np.float32).size == 700


# ----------------------------------------------------------------- without bfloat16: Turing, Volta


def test_a_stage_without_bfloat16_computes_in_float32(
    tmp_path, a_gpu_with, capsys,       # noqa: F811
):
    """And says so. A kernel that is asked for bfloat16 there is refused (test_kernels.py)."""
    stages.write_run(tmp_path)
    a_gpu_with(**TURING)
    stages.places.place.cache_clear()
    ours = stages.learn(tmp_path, stages.STAGES["sft"], "cpu")
    theirs = stages.learn(tmp_path, stages.STAGES["sft"], "gpu", "--device", "cuda")
    stages.places.place.cache_clear()
    stages.check_same(ours, theirs)
    said = capsys.readouterr().err
    assert "no bfloat16 (compute capability 7.5, 8.0 has it); computing in float32" in said


# ------------------------------------------------------------------------- 99 KB of shared memory


def test_wide_heads_and_several_texts_with_99_kb(a_gpu_with, monkeypatch):   # noqa: F811
    """The kernel that needs 128 KB gives way to one with smaller tiles, and not to a plain one."""
    cfg = dataclasses.replace(MODELS["Qwen 2"], head_size=128)
    params = model(cfg, bf16=True)
    batch = batches(cfg)[0]
    _, want = fast.loss_and_grads(params, cfg, *batch[:3], positions=batch[3], segments=batch[4])
    a_gpu_with(**AMPERE)
    launched, kernel = set(), launching.kernel
    monkeypatch.setattr(launching, "kernel", lambda file, name, *more: (
        launched.add(name) or kernel(file, name, *more)))
    gpu = device_tuning.Tuning(params, adamw.AdamW(params), cfg)
    with limits_are_kept():
        gpu.add(*batch)
    for key, grad in want.items():
        close(gpu.grads[key], grad, 0.06, key)
    assert "attention_backward_q_128_small" in launched
    assert not any(name.startswith("attention") and name.endswith("_v1") for name in launched)


# ---------------------------------------------------------------------------------- little memory


def test_training_with_the_memory_for_a_few_rows(tmp_path, memory):
    """The plan takes fewer rows at once. What is learned is the same to some last bits."""
    rows = 24
    gpu = device.connect("float32")
    plans = [device_training.memory_plan(CFG, n, bf16=False) for n in (4, rows)]
    few, all_rows = (sum(plan.values()) for plan in plans)
    launching._memory["scratch"] = None
    memory(few / 0.9 + 1000)
    assert all_rows > few + 100_000
    text = np.random.default_rng(2).integers(0, CFG.vocab_size, 4000).astype(np.uint16)
    recipe = train.Recipe(CFG, steps=2, batch=rows, lr=1e-2, warmup=2, eval_every=2)
    losses = {}
    for name, on in (("cpu", None), ("gpu", device.connect("float32"))):
        with limits_are_kept():
            train.train(recipe, None, [text[:3000]], [text[3000:]], tmp_path / name, gpu=on)
        losses[name] = [row["loss_nats"] for row in log_of(tmp_path / name) if "loss_nats" in row]
    np.testing.assert_allclose(losses["gpu"], losses["cpu"], rtol=1e-4)
    kept = resume.kept_settings(tmp_path / "gpu", {}, ("micro_batch",))
    assert 1 <= kept["micro_batch"] <= 4
    with pytest.raises(ValueError, match=r"rows? of 20 tokens at once need .* GB, 0.00 GB may"):
        planning.fit_batch(CFG, rows, 1000, gpu=gpu)


@pytest.mark.parametrize("has_adapter", [False, True])
def test_the_plan_of_a_stage_is_what_it_takes(has_adapter, memory):
    params = with_adapter(model(CFG), CFG) if has_adapter else model(CFG)
    for bf16 in (False, True):
        gpu = device_tuning.Tuning(params, adamw.AdamW(lora.learned(params)), CFG, bf16)
        plan = device_tuning.memory_plan(params, CFG, bf16)
        taken = {"weights": gpu.weights.nbytes + bf16 * gpu.masters[0].nbytes,
                 "gradients": gpu.flat.nbytes, "AdamW": gpu.m.nbytes + gpu.v.nbytes}
        assert taken == {what: plan[what] for what in taken}
        if has_adapter:
            frozen = device.upload(lora.without(params), CFG, bf16)
            n_bytes = sum(p.nbytes for p in frozen.values())
            assert plan["the model beside the adapter"] == pytest.approx(n_bytes, rel=0.1)
        needed = sum(plan.values())
        del gpu
        memory(needed - 1)
        advice = "take a smaller" if has_adapter else r"learn an adapter \(--lora-rank 8\), or take"
        refused = pytest.raises(
            ValueError, match=f"learning .*AdamW.* takes 0.00 GB .*are free; {advice}")
        with limits_are_kept(), refused:
            device_tuning.Tuning(params, adamw.AdamW(lora.learned(params)), CFG, bf16)
        memory(1 << 30)


def test_a_stage_takes_as_many_rows_as_fit(memory):
    """Gradients are those of all rows at once."""
    params, rng = model(CFG), np.random.default_rng(0)
    tokens, targets = rng.integers(0, CFG.vocab_size, (2, 9, 20))
    weights = rng.standard_normal((9, 20)) / 100
    shapes = device.step_shapes(CFG, 1, 20)
    a_row = sum(device.arena_bytes(shapes, False).values())
    needed = sum(device_tuning.memory_plan(params, CFG, False).values())
    memory(needed + 5 * a_row)          # half of it is for activations
    gpu = device_tuning.Tuning(params, adamw.AdamW(params), CFG, bf16=False)
    _, want = fast.loss_and_grads(params, CFG, tokens, targets, weights)
    launching._memory["scratch"] = None
    with limits_are_kept():
        gpu.add(tokens, targets, weights)
    assert {key[0] for key in gpu.steps} <= {1, 2}
    for key, grad in want.items():
        close(gpu.grads[key], grad, 1e-4, key)


def test_losses_of_many_texts_with_little_memory(memory):
    """As of a reference: so many at once as fit; a text that does not fit alone is refused."""
    params, rng = model(CFG), np.random.default_rng(0)
    tokens, targets = rng.integers(0, CFG.vocab_size, (2, 40, 20))
    there = device.upload(params, CFG, bf16=False)
    want = fast.token_losses(params, CFG, tokens, targets)
    device.token_losses(there, CFG, tokens[:1], targets[:1])    # what the library keeps
    a_row = sum(device.arena_bytes(device.step_shapes(CFG, 1, 20, False), False).values())
    memory(8 * a_row)
    with limits_are_kept():
        got = device.token_losses(there, CFG, tokens, targets)
    close(got, want, 1e-4)
    close(device.last_hidden(there, CFG, tokens, np.full(40, 7)),
          fast.last_hidden(params, CFG, tokens, np.full(40, 7)), 1e-4)
    memory(a_row // 2)
    with pytest.raises(ValueError, match="a text of 20 tokens takes .* are free; take shorter"):
        device.token_losses(there, CFG, tokens, targets)


def test_weights_and_texts_that_do_not_fit_are_refused(memory):
    params = model(CFG)
    there = device.upload(params, CFG, bf16=False)
    memory(1000)
    with pytest.raises(ValueError, match="weights take 0.00 GB .* are free; take a smaller model"):
        device.upload(params, CFG, bf16=False)
    with pytest.raises(ValueError, match="keys and values of a text of 20 tokens take 0.00 GB"):
        device.Cache(CFG, 3, 20, there["wte.weight"])


def test_what_fits_8_gb():
    """The models in use that train.py can train on a card with 7.5 GB free, and rows at once."""
    free, gpu, found = 7.5e9, device.connect(), {}
    for name, cfg in {**gpt.PRESETS, **llama.PRESETS}.items():
        if "demo" in name or cfg.n_params < 1e8:
            continue
        cfg = dataclasses.replace(cfg, n_positions=1024)
        try:
            rows, recompute, _ = planning.fit_batch(cfg, 64, 0.9 * free, gpu=gpu)
        except ValueError:
            rows, recompute = 0, False
        found[name] = rows, recompute
    assert found == {
        "gpt2": (10, False), "gpt2-medium": (1, True), "gpt2-large": (0, False),
        "gpt2-xl": (0, False), "smollm2-135m": (6, False), "qwen3-0.6b": (0, False),
        "llama-3.2-1b": (0, False), "llama-3.1-8b": (0, False)}
