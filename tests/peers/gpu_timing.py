"""gpu_timing.py: how gpu_table.py and gpu_speed.py measure, and at which sizes.

A floor is what the operation would take at the copy bandwidth, or, for products, at the rate of
matrix products; both are measured. Every time is the median over rounds of back-to-back launches
between two events. Where PyTorch is not installed, our side is measured alone.
"""

import gc
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("", "tests", "tests/peers", "tests/cuda")]

from model import llama  # noqa: E402  before numpy
import gpt  # noqa: E402
import numpy as np  # noqa: E402

try:
    import cupy as cp
    cp.cuda.runtime.getDeviceCount()
    ON_GPU = True
except Exception:       # no CuPy, no driver, no device: --tiny runs on the CPU that plays one
    import cupy_cpu as cp
    sys.modules["cupy"] = cp
    ON_GPU = False

import kernels  # noqa: E402

torch = F = None
if ON_GPU:
    try:
        import torch
        import torch.nn.functional as F
        torch = torch if torch.cuda.is_available() else None
    except ImportError:
        pass


class Sizes(NamedTuple):
    """What is measured."""

    cfg: gpt.Config                     # of the kernel table and of training
    llama: llama.Config
    batch: int                          # rows of the kernel table
    batches: tuple                      # micro-batches tried for the training step
    copied: int                         # bytes
    product: int                        # rows of the square matrices of a product
    rounds: int
    steps: int                          # of training, of which the first third warms up
    new_tokens: int                     # of decoding


GPT2 = gpt.Config(50257, 1024, 768, 12, 12)
SMOLLM2 = replace(llama.PRESETS["smollm2-135m"], n_positions=1024)
REAL = Sizes(GPT2, SMOLLM2, 32, (64, 32, 16, 128), 1 << 29, 8192, 7, 12, 100)
# 64 channels, so that attention takes its tensor cores.
TINY = Sizes(gpt.Config(50, 16, 64, 1, 2), llama.Config(50, 16, 64, 1, 2, 1, 32, 64),
             2, (2,), 1 << 12, 16, 1, 3, 3)
WHERE = "cuda"
sizes = REAL
peak = {"bandwidth": 0.0, "matrix": 0.0}        # bytes and operations a second, measured


def say(text="", **measured):
    """A line to read, and what it holds as a line of JSON."""
    print(text, flush=True)
    if measured:
        print(json.dumps(measured), flush=True)


def time_of(work, times=10):
    """Seconds of one call, on the GPU's own clock, whichever library it belongs to."""
    times = times if ON_GPU else 1
    for _ in range(3 if ON_GPU else 1):
        work()
    found = []
    for _ in range(sizes.rounds):
        begin, end = cp.cuda.Event(), cp.cuda.Event()
        begin.record()
        for _ in range(times):
            work()
        end.record()
        end.synchronize()
        found.append(cp.cuda.get_elapsed_time(begin, end) / 1e3 / times)
    return statistics.median(found)


def median_s(step, n, warming_up=None):
    """Seconds of a step that waits for the GPU: the median of n, without the first ones."""
    times = []
    for _ in range(n):
        beginning = time.perf_counter()
        step()
        times.append(time.perf_counter() - beginning)
    return statistics.median(times[n // 3 if warming_up is None else warming_up :])


def forget():
    """Give the memory of both libraries back."""
    gc.collect()
    if ON_GPU:
        cp.get_default_memory_pool().free_all_blocks()
    if torch:
        torch.cuda.empty_cache()


def as_cupy(t):
    """A PyTorch tensor as a CuPy array; bfloat16 as its bits."""
    if t.dtype == torch.bfloat16:
        return cp.asarray(t.view(torch.int16)).view(np.uint16)
    return cp.asarray(t)


def both(*shape):
    """(CuPy array, PyTorch tensor or None) of the same random bfloat16 numbers in the same
    memory."""
    if torch:
        t = torch.randn(*shape, device=WHERE, dtype=torch.bfloat16)
        return as_cupy(t), t
    some = np.random.default_rng(0).standard_normal(1 << 12).astype(np.float32)
    bits = (some.view(np.uint32) >> 16).astype(np.uint16)
    return cp.asarray(np.resize(bits, shape)), None


def floats(*shape):
    """A CuPy array of zeros in float32."""
    return cp.zeros(shape, np.float32)


def integers(below, n):
    """(CuPy array, PyTorch tensor or None) of n random whole numbers."""
    found = np.random.default_rng(0).integers(0, below, n)
    return cp.asarray(found.astype(np.int32)), torch and torch.as_tensor(found, device=WHERE)


def measure_peaks():
    """The rates that floors are reckoned with."""
    a, b = (cp.empty((sizes.copied,), np.uint8) for _ in "ab")
    work = (lambda: cp.copyto(b, a)) if ON_GPU else (lambda: b.set(a.get()))
    peak["bandwidth"] = 2 * a.nbytes / time_of(work)
    n = sizes.product
    (x, tx), (w, tw), (y, _) = both(n, n), both(n, n), both(n, n)
    rates = {"ours": 2 * n**3 / time_of(lambda: kernels.matmul(x, w, y))}
    if torch:
        rates["PyTorch"] = 2 * n**3 / time_of(lambda: tx @ tw)
    peak["matrix"] = max(rates.values())
    shown = ", ".join(f"{rate / 1e12:.0f} ({who})" for who, rate in rates.items())
    say(f"copy {peak['bandwidth'] / 1e12:.2f} TB/s; bf16 products of {n}: {shown} TFLOP/s",
        row="peaks", copy_bytes_s=peak["bandwidth"], product_flops=rates)
