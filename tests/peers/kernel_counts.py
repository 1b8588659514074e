"""kernel_counts.py: what the kernels ask of a GPU, counted without one.

    python tests/peers/kernel_counts.py

The output of NVIDIA's compiler for the H100 family runs on a CPU (tests/cuda/ptx_cpu.py). For each
kernel in bfloat16, at 124M's widths and with few rows, a line has:

    instructions/byte   for each byte that the kernel has to move; an H200 issues about 7 while its
                        memory moves one
    asked for           bytes asked of memory or its caches, over the bytes that it has to move
    wanted              share of the touched 32-byte sectors that it needs
    turns               of shared memory, over the turns without bank conflicts
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "cuda")]
os.environ["LONGHAND_PTX"] = "counts"

import cupy_cpu as cp  # noqa: E402

sys.modules["cupy"] = cp
import kernels  # noqa: E402

N, C, V, VOCABULARY = 132, 768, 50304, 50257


def rows():
    """(kernel, its five counts, the bytes it has to move)."""
    rng = np.random.default_rng(0)

    def real(*shape):
        return cp.asarray((rng.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16))

    def ints(*shape, below):
        return cp.asarray(rng.integers(0, below, shape).astype(np.int32))

    def counted(work, bytes_):
        cp.COUNTS.clear()
        work()
        yield from ((name, counts, bytes_) for name, counts in cp.COUNTS.items() if name not in ("column_sums", "norm_and_scale"))

    M = 2 * N * C                                       # bytes of one (N,C) array
    x, y, n, plus, w, b = (real(*s) for s in ((N, C), (N, C), (N, C), (N, C), (C,), (C,)))
    rstd, dw, db = cp.zeros((N, 1)), cp.zeros((C,)), cp.zeros((C,))
    yield from counted(lambda: kernels.layernorm_forward(x, w, b, out=(y, n, rstd), plus=plus), 5 * M)
    kernels.BACKWARD_BLOCKS = 1                         # so that a block has about as many rows as on a GPU
    yield from counted(lambda: kernels.layernorm_backward(y, (n, rstd, w), plus, (x, dw, db)), 4 * M)
    h, u, wide, dwide = real(N, 4 * C), real(N, 4 * C), real(4 * C), cp.zeros((4 * C,))
    yield from counted(lambda: kernels.gelu_forward(h, (u, h)), 8 * M)
    yield from counted(lambda: kernels.gelu_backward(u, h, h), 12 * M)
    yield from counted(lambda: kernels.bias_forward(h, wide), 8 * M)
    kernels.BACKWARD_BLOCKS = 3                         # four times as many are shared by 12 strips of columns
    yield from counted(lambda: kernels.bias_backward(h, dwide), 4 * M)
    wte, wpe, tokens, positions = real(N, C), real(N, C), ints(N, below=N), ints(N, below=N)
    yield from counted(lambda: kernels.embedding_forward(tokens, positions, wte, wpe, out=x), 3 * M)
    few = rng.integers(0, 4, N)                         # as a common token occurs often
    look_ups, dwte = tuple(map(cp.asarray, kernels.look_ups(few))), cp.zeros((4, C))
    yield from counted(lambda: kernels.embedding_backward(x, look_ups, dwte), M + 2 * 4 * 4 * C)
    yield from counted(lambda: kernels.position_backward(x, 4, cp.zeros((N // 4, C))), M + 2 * M // 4 * 2)
    z, targets, weights, nll = real(8, V), ints(8, below=VOCABULARY), cp.asarray(np.full(8, 0.1, np.float32)), cp.zeros((8,))
    yield from counted(lambda: kernels.cross_entropy(z, targets, weights, VOCABULARY, nll), 4 * 8 * V)
    n_params = 1 << 16
    g, master, m, v = (cp.zeros((n_params,)) for _ in range(4))
    state, rates = cp.asarray(np.ones(3, np.float32)), cp.asarray(np.full(3, 1e-4, np.float32))
    yield from counted(lambda: kernels.adamw(g, master, m, v, real(n_params), state, rates, n_params, 0.9, 0.95, 1e-8, 0.1), 30 * n_params)
    for size in (32, 64, 128):
        qkv, do, o, lse, dqkv = real(1, 256, 3 * size), real(1, 256, size), real(1, 256, size), cp.zeros((1, 1, 256, 1)), real(1, 256, 3 * size)
        yield from counted(lambda: kernels.attention_forward(qkv, 1, (o, lse)), 0)
        yield from counted(lambda: kernels.attention_backward(do, (qkv, o, lse), 1, dqkv), 0)


def main():
    argparse.ArgumentParser(description="Count what the kernels ask of a GPU.").parse_args()
    print(f"{'':28}{'instructions/byte':>18}{'asked for':>12}{'wanted':>10}{'turns':>8}")
    for name, (instructions, moved, wanted, taken, needed), bytes_ in rows():
        print(f"{name:28}{f'{instructions / bytes_:.2f}' if bytes_ else '':>18}{f'{moved / bytes_:.2f}' if bytes_ else '':>12}"
              f"{wanted / moved:10.1%}{f'{taken / needed:.2f}' if needed else '':>8}")


if __name__ == "__main__":
    main()
