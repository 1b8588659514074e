"""model/device_tuning.py: batches of any shape on a GPU, or on the CPU that plays one, against
parallel.Gradients and model/fast.py.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_device import MODELS, close, model      # skips where neither a GPU nor g++ is there

from chat import packing
from kernels import launching
from model import adamw, cores, device, device_tuning, families, fast, lora, parallel
from model.layout import Layout
import kernels

RNG = np.random.default_rng(0)
NAMES = ["GPT-2", "Qwen 3"]


def texts(cfg, *lengths):
    """[(tokens, targets, weights)], weights of either sign."""
    found = []
    for n in lengths:
        tokens, targets = RNG.integers(0, cfg.vocab_size, (2, n))
        found.append((tokens, targets, RNG.standard_normal(n) / 20))
    return found


def batches(cfg):
    """Three batches of one step: packed rows, replies to a shared prompt, and plain rows."""
    T = cfg.n_positions
    prompt = RNG.integers(0, cfg.vocab_size, 4)
    plain = [a[None] for a in texts(cfg, T - 3)[0]]
    return [
        packing.stack(packing.fill(texts(cfg, 3, 7, 9, 5, 12, 2), T)),
        packing.stack(packing.fill(texts(cfg, 8, 3, 6, 9), T, tuple(prompt))),
        plain,
    ]


def with_adapter(params, cfg):
    """The same with an adapter that is not zero any more."""
    adapter = lora.init(params, cfg, 2, 3.0, 0)
    for name, p in adapter.items():
        if name != lora.SCALE:
            p += (0.1 * RNG.standard_normal(p.shape)).astype(np.float32)
    return {**params, **adapter}


@pytest.fixture
def one_row_at_a_time(monkeypatch):
    """A GPU on which one row of a batch fits, so that a batch takes several turns."""
    monkeypatch.setattr(device, "ROW_TOKENS", 1)


@pytest.mark.parametrize("has_adapter", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_packed_rows(name, has_adapter, one_row_at_a_time):
    """Three times the same step: as it is, then recorded, then replayed."""
    cfg = MODELS[name]
    params = with_adapter(model(cfg), cfg) if has_adapter else model(cfg)
    step = batches(cfg)
    want, losses = None, []
    for batch in step:
        tokens, targets, weights, positions, segments = (*batch, None, None)[:5]
        loss, want = fast.loss_and_grads(
            params, cfg, tokens, targets, weights, grads=want, add=want is not None,
            positions=positions, segments=segments)
        losses.append(loss)
    gpu = device_tuning.Tuning(params, adamw.AdamW(lora.learned(params)), cfg, bf16=False)
    for _ in range(3):
        gpu.clear()
        assert not gpu.added
        np.testing.assert_allclose([gpu.add(*batch) for batch in step], losses, atol=1e-5)
        assert gpu.added
        for key, grad in want.items():
            close(gpu.grads[key], grad, 1e-4, key)


def test_bfloat16_and_heads_for_tensor_cores():
    """Packed rows of a model in bfloat16, recomputed in the backward."""
    cfg = MODELS["Qwen 2"]
    params = model(cfg, bf16=True)
    batch = batches(cfg)[1]
    _, want = fast.loss_and_grads(params, cfg, *batch[:3], positions=batch[3], segments=batch[4])
    gpu = device_tuning.Tuning(params, adamw.AdamW(params), cfg)
    gpu.recompute = True
    gpu.add(*batch)
    for key, grad in want.items():
        close(gpu.grads[key], grad, 0.06, key)


@pytest.mark.parametrize("name, has_adapter", [("GPT-2", False), ("Qwen 3", True)])
def test_a_head_on_the_last_hidden_states(name, has_adapter, one_row_at_a_time, monkeypatch):
    """As parallel.Gradients.add_last, after another batch of the step. Also fast.last_hidden."""
    monkeypatch.setattr(cores, "N_THREADS", 1)
    cfg = MODELS[name]
    params = with_adapter(model(cfg), cfg) if has_adapter else model(cfg)
    params[lora.HEAD] = RNG.standard_normal(cfg.n_embd).astype(np.float32)
    tokens, last = RNG.integers(0, cfg.vocab_size, (3, 9)), np.array([8, 2, 5])

    def head(h, vector):
        np.testing.assert_array_equal(vector, params[lora.HEAD])
        rewards = h @ vector
        slope = (2 * rewards).astype(h.dtype)
        return float(rewards @ rewards), slope[:, None] * vector, slope @ h

    cpu = parallel.Gradients(params, cfg)
    gpu = device_tuning.Tuning(params, adamw.AdamW(lora.learned(params)), cfg, bf16=False)
    for work in (cpu, gpu):
        for more in (0, 1):
            loss = work.add_last(tokens, last[::-1] if more else last, head)
        assert loss == pytest.approx(fast_loss(params, cfg, tokens, last[::-1]), rel=1e-4)
    for key, grad in cpu.sum.items():
        close(gpu.grads[key], grad, 1e-4, key)


def fast_loss(params, cfg, tokens, last):
    """The squares of the rewards, by fast.last_hidden and by the same of a GPU."""
    h = fast.last_hidden(params, cfg, tokens, last)
    there = device.upload(params, cfg, bf16=False)
    close(device.last_hidden(there, cfg, tokens, last), h, 1e-4, "hidden")
    rewards = h @ params[lora.HEAD]
    return float(rewards @ rewards)


def test_a_temperature_and_an_adapter():
    """Of losses and gradients, also of an adapter beside the model."""
    cfg = MODELS["GPT-2"]
    params = with_adapter(model(cfg), cfg)
    tokens, targets, weights = (a[None] for a in texts(cfg, 9)[0])
    there = device.upload(params, cfg, bf16=False)
    want, want_grads = fast.loss_and_grads(params, cfg, tokens, targets, weights, temperature=0.6)
    loss, grads = device.loss_and_grads(there, cfg, tokens, targets, weights, temperature=0.6)
    assert loss == pytest.approx(want, abs=1e-5) and grads.keys() == want_grads.keys()
    for key, grad in want_grads.items():
        close(grads[key], grad, 1e-4, key)
    close(device.token_losses(there, cfg, tokens, targets, temperature=0.6),
          fast.token_losses(params, cfg, tokens, targets, temperature=0.6), 1e-4)


def test_a_row_that_no_memory_has_is_refused():
    cfg = MODELS["GPT-2"]
    params = model(cfg)
    gpu = device_tuning.Tuning(params, adamw.AdamW(params), cfg, bf16=False)
    gpu.budget = 1000
    with pytest.raises(ValueError, match="a row of 20 tokens takes 0.00 GB of this GPU's memory"):
        gpu.add(*batches(cfg)[2])
    assert gpu.recompute


@pytest.mark.parametrize("name, rank, has_head, has_texts", [
    ("GPT-2", None, False, False),
    ("Qwen 2", None, True, True),
    ("Qwen 2", 2, False, True),
    ("Qwen 2", 2, True, False),
])
def test_the_plan_is_what_is_taken(name, rank, has_head, has_texts):
    """Of what learns, of the frozen model, and of the arena of one step."""
    cfg = replace(MODELS[name], vocab_size=300)
    params = families.of(cfg).init(cfg, 0)
    if rank:
        params.update(lora.init(params, cfg, rank, 3.0, 0))
    if has_head:
        params[lora.HEAD] = np.zeros(cfg.n_embd, np.float32)
    gpu = device_tuning.Tuning(params, adamw.AdamW(lora.learned(params)), cfg)
    tokens, targets, weights = (np.stack(3 * [a]) for a in texts(cfg, 20)[0])
    of_texts = [np.stack(3 * [np.arange(20)]), np.ones((3, 20), int)] if has_texts else []
    launching._memory.update(scratch=None, low=None, dlow=None)
    gpu.add(tokens, targets, weights, *of_texts)
    plan = device_tuning.stage_plan(cfg, 3, 20, True, rank, has_head, has_texts=has_texts)
    learning = [gpu.weights, *gpu.masters, gpu.flat, gpu.m, gpu.v]
    assert sum(a.nbytes for a in learning) == sum(
        plan[what] for what in ("parameters", "gradients", "AdamW"))
    of_steps = [gpu.arena.memory, *gpu.kept.values()]
    of_steps = sum(a.nbytes for a in of_steps)
    assert 0 <= plan["activations"] + plan["logits"] - of_steps < 512      # of their padding
    frozen = device.upload(lora.without(params), cfg) if rank else {}
    assert plan["frozen model"] == sum(cores.padded(p.shape, 2) for p in frozen.values())
    others = device_tuning.stage_plan(cfg, 3, 20, rank=rank, n_others=2)["other models"]
    assert others == 2 * 2 * Layout(cfg).size
    scratch = [a.nbytes for a in launching._memory.values() if a is not None]
    assert sum(scratch) <= plan["scratch"] - kernels.cublas.WORKSPACE_BYTES


def test_few_shapes_are_kept(monkeypatch):
    monkeypatch.setattr(device_tuning, "MOST_STEPS", 2)
    monkeypatch.setattr(device_tuning, "MULTIPLE", 4)
    cfg = MODELS["GPT-2"]
    params = model(cfg)
    gpu = device_tuning.Tuning(params, adamw.AdamW(params), cfg, bf16=False)
    for n in (9, 5, 13, 9):
        tokens, targets, weights = (a[None] for a in texts(cfg, n)[0])
        gpu.clear()
        loss = gpu.add(tokens, targets, weights)
        want, grads = fast.loss_and_grads(params, cfg, tokens, targets, weights)
        assert loss == pytest.approx(want, abs=1e-5) and len(gpu.steps) <= 2
        begin, n_bytes = gpu.arena.memory.data.ptr, gpu.arena.memory.nbytes
        for step, _, _ in gpu.steps.values():       # none keeps the memory that was too small
            assert 0 <= step.a["x"].data.ptr - begin < n_bytes
        close(gpu.grads["wpe.weight"], grads["wpe.weight"], 1e-4)
    assert kernels.ceil_div(9, 4) * 4 == next(reversed(gpu.steps))[1]
