"""tests/peers/gpu_plan.py: what it counts is what a step launches on the CPU that plays a GPU."""

import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "peers")]
from test_kernels import ON_GPU         # skips where neither a GPU nor g++ is there
from test_device import MODELS, cp, model
from test_device_tuning import texts, with_adapter

import gpt
import gpu_plan
from kernels import cublas
from model import adamw, device, device_tuning, lora, planning

pytestmark = pytest.mark.skipif(ON_GPU, reason="launches are counted on the stand-in")
FORMULA = {"products", "attention"}


@pytest.fixture
def launched(monkeypatch):
    """{"launches": names of kernels, "flops": of each matrix product} since the test began."""
    found = {"launches": [], "flops": []}
    call, multiply = cp.Function.__call__, cublas.multiply

    def counted_call(self, *args, **how):
        found["launches"].append(self.name)
        return call(self, *args, **how)

    def counted_product(x, w, out, x_t=False, *args, **how):
        found["flops"].append(2 * out.size * (len(x) if x_t else x.shape[1]))
        return multiply(x, w, out, x_t, *args, **how)

    monkeypatch.setattr(cp.Function, "__call__", counted_call)
    monkeypatch.setattr(cublas, "multiply", counted_product)
    return found


def compare(counted, launched):
    """Equal numbers of launches, and the same matrix products in the same order."""
    products = [kernel.flops for kernel in counted if kernel.kind == "products"]
    assert products == launched["flops"]
    others = [kernel.name for kernel in counted if kernel.kind != "products"]
    n_fills = others.count("copy")          # what CuPy does by itself
    assert len(others) - n_fills == len(launched["launches"]), (others, launched["launches"])


@pytest.mark.parametrize("name, rank", [
    ("GPT-2", None), ("Llama", None), ("Qwen 3", None), ("GPT-2", 2), ("Qwen 3", 2),
])
def test_a_training_step_launches_what_is_counted(name, rank, launched):
    """Two batches and the update. Of Qwen 3 the head has a matrix of its own."""
    cfg = MODELS[name]
    params = with_adapter(model(cfg), cfg) if rank else model(cfg)
    gpu = device_tuning.Tuning(params, adamw.AdamW(lora.learned(params)), cfg, bf16=False)
    batch = [a[None] for a in texts(cfg, 9)[0]]
    for found in launched.values():
        found.clear()
    gpu.add(*batch)
    gpu.add(*batch)
    gpu.update(1e-3, 1.0)
    counted = gpu_plan.training_step(cfg, 1, cfg.n_positions, 2, rank)
    compare(counted, launched)


@pytest.mark.parametrize("name", MODELS)
def test_a_new_token_launches_what_is_counted(name, launched):
    cfg = MODELS[name]
    there = device.upload(model(cfg), cfg, False)
    cache = device.Cache(cfg, 3, like=there["wte.weight"])
    for found in launched.values():
        found.clear()
    settings = np.array([[1.0] * 3, [0] * 3, [1.0] * 3, [0.0] * 3, [0.5] * 3])
    device.decode_and_draw(there, cfg, np.array([[1], [2], [3]]), cache, settings, cfg.vocab_size)
    compare(gpu_plan.decoding_step(cfg, 3, 1), launched)


def test_operations_are_those_of_the_formula():
    """llm.c's count: 6 for each number of a matrix and a token, and causal attention; this has one
    product of attention more than twice three, for what its backward computes again."""
    cfg, T, rows = gpt.PRESETS["gpt2"], 1024, 2
    counted = gpu_plan.training_step(cfg, rows, T)
    flops = {kind: 0 for kind in FORMULA}
    for kernel in counted:
        if kernel.kind in FORMULA:
            flops[kernel.kind] += kernel.flops
    matrices = 12 * cfg.n_layer * cfg.n_embd**2 + 50_304 * cfg.n_embd
    assert flops["products"] == 6 * matrices * rows * T
    of_formula = planning.flops_per_token(cfg, T) - 6 * cfg.n_params
    assert flops["attention"] == 9 / 6 * of_formula * rows * T


def test_a_token_reads_all_weights_and_all_keys():
    """At the data sheet's bandwidth; what is planned takes longer, launches and all."""
    cfg, S, card = gpt.PRESETS["gpt2"], 512, gpu_plan.CARDS[0]
    plan = gpu_plan.decoding(cfg, 1, S, card)
    matrices = 12 * cfg.n_layer * cfg.n_embd**2 + 50_304 * cfg.n_embd
    keys_and_values = 2 * cfg.n_layer * S * cfg.n_embd
    limit = 2 * (matrices + keys_and_values) / card.bandwidth
    assert limit < plan.seconds(card, is_limit=True) < 1.02 * limit
    assert plan.seconds(card) > len(plan.kernels) * gpu_plan.LAUNCH_S
    assert sum(plan.shares(card).values()) == pytest.approx(1)


def test_a_row_is_drawn_from_by_one_processor():
    """So 64 rows take as long as one. An RTX 4090 waits for double precision."""
    hopper, small = gpu_plan.CARDS[0], gpu_plan.CARDS[2]
    for drawing, (instructions, doubles) in gpu_plan.DRAWING.items():
        for rows in (1, 64):
            step = gpu_plan.decoding_step(gpu_plan.GPT2, rows, 512, drawing)
            draw = next(kernel for kernel in step if kernel.name == "draw")
            assert draw.seconds(hopper) == pytest.approx(50_304 * instructions / 128 / 1.83e9)
            assert draw.seconds(small) == pytest.approx(50_304 * doubles / 2 / 2.52e9)


def test_what_does_not_fit_is_said():
    """8 billion parameters learn nowhere here; an adapter of them does, also in 24 GB."""
    small = gpu_plan.CARDS[2]
    assert gpu_plan.pre_training(gpu_plan.LLAMA, 1024, 524_288, small) is None
    plan = gpu_plan.fine_tuning(gpu_plan.LLAMA, 1024, 16, small, gpu_plan.RANK)
    assert plan.memory < small.memory and plan.recompute
    assert gpu_plan.decoding(gpu_plan.LLAMA, 1, 512, small._replace(memory=12e9)) is None
    assert cublas.WORKSPACE_BYTES < plan.memory
