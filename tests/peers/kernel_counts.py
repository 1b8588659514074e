"""kernel_counts.py: what the kernels ask of a GPU, counted without one.

    python tests/peers/kernel_counts.py

The output of NVIDIA's compiler for the H100 family runs on a CPU (tests/cuda/ptx_cpu.py). For each
kernel in bfloat16, at 124M's widths and with few rows, a line has:

    instructions/byte   for each byte that the kernel has to move; an H200 issues about 7 while its
                        memory moves one
    doubles/byte        those of them that compute in double precision
    asked for           bytes asked of memory or its caches, over the bytes that it has to move
    wanted              share of the touched 32-byte sectors that it needs
    turns               of shared memory, over the turns without bank conflicts
    registers           of a thread
    warps               that a multiprocessor of an H200 holds at once, of 64
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
M = 2 * N * C                           # bytes of one (N,C) array
RNG = np.random.default_rng(0)


def real(*shape):
    """Random numbers in bfloat16, as their bits."""
    bits = RNG.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16
    return cp.asarray(bits.astype(np.uint16))


def floats(*shape):
    return cp.zeros(shape)


def ints(*shape, below):
    return cp.asarray(RNG.integers(0, below, shape).astype(np.int32))


def counted(launch, bytes_):
    """(kernel, its counts and what it takes, the bytes it has to move) of each one launched."""
    cp.COUNTS.clear()
    launch()
    for name, counts in cp.COUNTS.items():
        if name not in ("column_sums", "norm_and_scale"):
            yield name, (*counts, *cp.TAKEN[name]), bytes_


def warps_at_once(threads, registers, shared):
    """How many warps of such blocks a multiprocessor of compute capability 9.0 holds.

    Of its four parts each has 16,384 registers and room for 16 warps. A warp gets registers by 256,
    a block shared memory by 128 bytes and 1 KB on top, of 228 KB.
    """
    of_block = -(-threads // 32)
    of_a_part = min(16, 16384 // (-(-registers * 32 // 256) * 256))
    blocks = min(32, 4 * of_a_part // of_block, (228 << 10) // (-(-shared // 128) * 128 + 1024))
    return blocks * of_block


def muon(n):
    """The counts of Muon's kernels for the keys of n channels."""
    grads, mean, master = (floats(n, 3 * n) for _ in range(3))
    copy, x, spare, squared, factor = real(n, 3 * n), *(real(n, n) for _ in range(4))
    ones = cp.asarray(np.ones(3, np.float32))
    kernels.muon.MOST_BLOCKS = 28       # nine rows for a block, as of 124M's widest matrix
    bytes_of = {"muon_mean": 16, "muon_start": 6}
    for name, counts, _ in counted(
        lambda: kernels.muon.look_ahead(grads, mean, x, ones, 0.95, n), 0
    ):
        yield name, counts, bytes_of[name] * n * n
    yield from counted(lambda: kernels.muon.newton_schulz(x, spare, squared, factor), 6 * n * n)
    yield from counted(
        lambda: kernels.muon.update(master, copy, x, ones, ones, 1.0, 0.1, n), 12 * n * n)


def of_llama():
    """The counts of the Llama family's kernels: rows of 768 columns and of 2048, heads of 64, 12
    of queries and 4 of keys."""
    NH, NKV, HS = 12, 4, 64
    for columns, of in ((C, ""), (2048, "/2048")):
        size = 2 * N * columns
        x, y, n, plus = (real(N, columns) for _ in range(4))
        w, rstd, dw = real(columns), floats(N, 1), floats(columns)
        kernels.llama.BACKWARD_BLOCKS = 1
        for name, counts, bytes_ in (
            *counted(lambda: kernels.rmsnorm_forward(x, w, 1e-5, (y, n, rstd), plus), 5 * size),
            *counted(lambda: kernels.rmsnorm_backward(y, (n, rstd, w), plus, (x, dw)), 4 * size),
        ):
            yield name + of, counts, bytes_
    qkv = real(N, (NH + 2 * NKV) * HS)
    q, n, w, rstd, dw = qkv[:, :C], real(N, C), real(HS), floats(N, NH), floats(HS)
    for name, counts, bytes_ in (
        *counted(lambda: kernels.rmsnorm_forward(q, w, 1e-5, (q, n, rstd)), 3 * M),
        *counted(lambda: kernels.rmsnorm_backward(q, (n, rstd, w), out=(q, dw)), 3 * M),
    ):
        yield f"{name}/heads", counts, bytes_
    positions, table = ints(N, below=N), floats(N, HS)
    turned = 2 * N * (NH + NKV) * HS
    yield from counted(
        lambda: kernels.rotary_forward(qkv, positions, table, NH + NKV), 2 * turned)
    h, u = real(N, 8 * C), real(N, 4 * C)
    yield from counted(lambda: kernels.swiglu_forward(h, u), 12 * M)
    yield from counted(lambda: kernels.swiglu_backward(u, h, h), 20 * M)
    yield from counted(lambda: kernels.add_to(n, real(N, C)), 3 * M)
    for size in (32, 64, 128):
        qkv, dqkv = real(1, 256, 5 * size), real(1, 256, 5 * size)
        do, o, lse = real(1, 256, 3 * size), real(1, 256, 3 * size), floats(1, 3, 256, 1)
        for name, counts, _ in (
            *counted(lambda: kernels.attention_forward(qkv, 3, (o, lse), n_kv_head=1), 0),
            *counted(lambda: kernels.attention_backward(
                do, (qkv, o, lse), 3, dqkv, n_kv_head=1), 0),
        ):
            yield f"{name}/3", counts, 0
    S = 512
    lengths = [cp.asarray(np.array([n], np.int32)) for n in (S - 1, 1)]
    for heads, of in ((1, ""), (3, "/3")):
        k, v, qkv = real(1, 1, S, HS), real(1, 1, S, HS), real(1, 1, (heads + 2) * HS)
        for name, counts, _ in counted(lambda: kernels.decode_attention(qkv, k, v, *lengths), 0):
            if name == "decode_attention":
                yield name + of, counts, 2 * 2 * S * HS


def of_tuning():
    """The counts of what post-training adds: rows of several texts, drawing, pages."""
    T, S, HS, page = 256, 512, 64, 64
    lengths = (40, 100, 7, 60, 49)
    segments = np.repeat(np.arange(1, 6), lengths)[None]
    texts = cp.asarray(kernels.texts_of(segments))
    for size, NH in ((32, 1), (64, 1), (128, 1), (64, 3)):
        qkv, dqkv = real(1, T, (NH + 2) * size), real(1, T, (NH + 2) * size)
        do, o, lse = real(1, T, NH * size), real(1, T, NH * size), floats(1, NH, T, 1)
        for name, counts, _ in (
            *counted(lambda: kernels.attention_forward(
                qkv, NH, (o, lse), texts, n_kv_head=1), 0),
            *counted(lambda: kernels.attention_backward(
                do, (qkv, o, lse), NH, dqkv, texts, n_kv_head=1), 0),
        ):
            if name != "attention_backward_rows":
                yield f"{name}{'' if NH == 1 else f'/{NH}'}/texts", counts, 0
    z, tokens, logp = real(2, V), cp.empty((2,), np.int32), floats(2)
    drawing = ("", 1, 0, 1), ("/greedy", 0, 0, 1), ("/top-k", 1, 50, 1), ("/top-p", 1, 0, 0.9)
    for what, temperature, top_k, top_p in drawing:
        each = np.array([temperature, top_k, top_p, 0, 0.5])    # and no min-p, and u
        settings = cp.asarray(np.repeat(each[:, None], 2, 1))
        for name, counts, bytes_ in counted(
            lambda: kernels.draw(z, settings, tokens, logp, VOCABULARY), 2 * 2 * V
        ):
            yield name + what, counts, bytes_
    last = [cp.asarray(np.array([n], np.int32)) for n in (S - 1, 1)]
    table = cp.asarray(RNG.permutation(S // page).astype(np.int32)[None])
    k, v = real(S // page, 1, page, HS), real(S // page, 1, page, HS)
    for heads, of in ((1, "/pages"), (3, "/3/pages")):
        qkv = real(1, 1, (heads + 2) * HS)
        for name, counts, _ in counted(
            lambda: kernels.decode_attention(qkv, k, v, *last, pages=table), 0
        ):
            if name == "decode_attention":
                yield name + of, counts, 2 * 2 * S * HS
    x, rows, out = real(N, C), ints(N, below=N), real(N, C)
    yield from counted(lambda: kernels.take_rows(x, rows, out), 2 * M)


def rows():
    """The counts of all kernels."""
    x, y, n, plus, w, b = (real(*s) for s in ((N, C), (N, C), (N, C), (N, C), (C,), (C,)))
    rstd, dw, db = floats(N, 1), floats(C), floats(C)
    yield from counted(
        lambda: kernels.layernorm_forward(x, w, b, out=(y, n, rstd), plus=plus), 5 * M)
    kernels.BACKWARD_BLOCKS = 1         # so that a block has about as many rows as on a GPU
    yield from counted(
        lambda: kernels.layernorm_backward(y, (n, rstd, w), plus, (x, dw, db)), 4 * M)
    h, u, wide, dwide = real(N, 4 * C), real(N, 4 * C), real(4 * C), floats(4 * C)
    yield from counted(lambda: kernels.gelu_forward(h, (u, h)), 8 * M)
    yield from counted(lambda: kernels.gelu_backward(u, h, h), 12 * M)
    yield from counted(lambda: kernels.bias_forward(h, wide), 8 * M)
    kernels.BACKWARD_BLOCKS = 3         # 12 strips of columns share four times as many
    yield from counted(lambda: kernels.bias_backward(h, dwide), 4 * M)
    wte, wpe, tokens, positions = real(N, C), real(N, C), ints(N, below=N), ints(N, below=N)
    yield from counted(
        lambda: kernels.embedding_forward(tokens, positions, wte, wpe, out=x), 3 * M)
    few = RNG.integers(0, 4, N)         # as a common token occurs often
    look_ups = tuple(map(cp.asarray, kernels.look_ups(few)))
    dwte, dwpe = floats(4, C), floats(N // 4, C)
    yield from counted(
        lambda: kernels.embedding_backward(x, look_ups, dwte), M + 2 * 4 * 4 * C)
    yield from counted(lambda: kernels.position_backward(x, 4, dwpe), M + 2 * M // 4 * 2)
    z, targets, nll = real(8, V), ints(8, below=VOCABULARY), floats(8)
    weights = cp.asarray(np.full(8, 0.1, np.float32))
    yield from counted(
        lambda: kernels.cross_entropy(z, targets, weights, VOCABULARY, nll), 4 * 8 * V)
    for name, counts, bytes_ in counted(
        lambda: kernels.cross_entropy(z, targets, None, VOCABULARY, nll), 2 * 8 * V
    ):
        yield f"{name}/loss alone", counts, bytes_
    size = 1 << 16
    g, master, m, v = (floats(size) for _ in range(4))
    state, rates = (cp.asarray(np.full(3, value, np.float32)) for value in (1, 1e-4))
    copy = real(size)
    yield from counted(
        lambda: kernels.adamw(g, master, m, v, copy, state, rates, size, 0.9, 0.95, 1e-8, 0.1),
        30 * size)
    yield from muon(256)
    for size in (32, 64, 128):
        qkv, dqkv = real(1, 256, 3 * size), real(1, 256, 3 * size)
        do, o, lse = real(1, 256, size), real(1, 256, size), floats(1, 1, 256, 1)
        yield from counted(lambda: kernels.attention_forward(qkv, 1, (o, lse)), 0)
        yield from counted(lambda: kernels.attention_backward(do, (qkv, o, lse), 1, dqkv), 0)
    yield from of_llama()
    yield from of_tuning()


def ratio(part, whole):
    """A quotient with two places, or nothing where there is no whole."""
    return f"{part / whole:.2f}" if whole else ""


def main():
    """Print the table."""
    argparse.ArgumentParser(description="Count what the kernels ask of a GPU.").parse_args()
    print(f"{'':34}{'instructions/byte':>18}{'doubles/byte':>13}{'asked for':>11}{'wanted':>8}"
          f"{'turns':>7}{'registers':>11}{'warps':>7}")
    for name, counts, bytes_ in rows():
        instructions, moved, wanted, taken, needed, doubles, *of_block, spilled = counts
        threads, registers, shared = of_block
        print(f"{name:34}{ratio(instructions, bytes_):>18}"
              f"{ratio(doubles, bytes_) if doubles else '':>13}{ratio(moved, bytes_):>11}"
              f"{wanted / moved:8.1%}{ratio(taken, needed):>7}{registers:11}"
              f"{warps_at_once(threads, registers, shared):7}"
              f"{f'  spills {spilled} bytes' if spilled else ''}")


if __name__ == "__main__":
    main()
