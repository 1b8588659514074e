"""What each trick of model/operations.py and model/fast.py saves, measured by leaving it out.

    python tests/peers/fast_tricks.py [char small baby gpt2 decode]         (default: all)

A training step on one thread with the trick and without it, in turns and in one process. Printed is
the ratio of the two times, the median of all rounds, with the smallest and the largest. A ratio of
1.10 means that a step takes 10 % longer without the trick. The time is the processor's, because
others may use the machine as well. Steps of baby and gpt2 have fewer blocks and rows.
"""

import argparse
import contextlib
import functools
import sys
import time
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from model import cores, decoding, fast, operations  # noqa: E402
import gpt  # noqa: E402
import numpy as np  # noqa: E402

SHAPES = {          # vocabulary, context, width, blocks, heads; then rows of a step
    "char": (gpt.Config(65, 64, 128, 4, 4), 12),
    "small": (gpt.Config(512, 128, 128, 4, 4), 16),
    "baby": (gpt.Config(65, 256, 384, 2, 6), 4),
    "gpt2": (gpt.Config(4096, 512, 768, 1, 12), 1),
}


@contextlib.contextmanager
def other_lines(*pairs):
    """operations.py with other lines in place of some."""
    path = Path(operations.__file__)
    text = path.read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    changed, kept = {"__name__": operations.__name__}, dict(vars(operations))
    exec(compile(text, str(path), "exec"), changed)
    vars(operations).update(changed)
    try:
        yield
    finally:
        vars(operations).update(kept)


PLAIN_SUMS = (
    ("ones @ t", "t.sum(0)"),
    ("db += ones @ dy", "db += dy.sum(0)"),
    ("np.matmul(ones, dy, out=db)", "np.sum(dy, 0, out=db)"),
    ('np.einsum("bhqk->bhq", p)[..., None]', "p.sum(-1, keepdims=True)"),
    ('np.einsum("bhtd,bhtd->bht", do, o)[..., None]', "(do * o).sum(-1, keepdims=True)"),
    ('np.einsum("nv->n", e)', "e.sum(-1)"),
    ("x @ mean_of,", "x.mean(-1, keepdims=True),"),
    ("y @ mean_of +", "y.mean(-1, keepdims=True) +"),
)
PLAIN_GELU = (
    (
        "    for r in row_blocks(x):\n        x_r",
        "    t = np.tanh(GELU_K * (x + GELU_C * x * x * x))\n"
        "    np.multiply(0.5 * x, 1.0 + t, out=y)\n"
        "    dt_dx = (1.0 - t * t) * GELU_K * (1.0 + 3.0 * GELU_C * x * x)\n"
        "    slope[...] = 0.5 * (1.0 + t) + 0.5 * x * dt_dx\n"
        "    for r in []:\n        x_r",
    ),
)
ROW_BY_ROW = (
    (
        "    dtable[in_order[begins]] += np.add.reduceat(dx[order], begins, axis=0)\n",
        "    np.add.at(dtable, indices, dx)\n",
    ),
)
TRICKS = {
    "arena and places for gradients": None,
    "blocks of queries": lambda: mock.patch.object(operations, "QUERY_BLOCK", 1 << 30),
    "few sequences at a time": lambda: other_lines(
        ("range(0, B, step)]", "range(0, B, B)]"), ("min(i + step, B)", "B")
    ),
    "GELU in blocks of rows": lambda: mock.patch.object(operations, "BLOCK_FLOATS", 1 << 40),
    "GELU in place": lambda: other_lines(*PLAIN_GELU),
    "embeddings' gradients by sorted rows": lambda: other_lines(*ROW_BY_ROW),
    "sums as products and einsum": lambda: other_lines(*PLAIN_SUMS),
    "nothing (what the noise is)": contextlib.nullcontext,
}


def shortest(work, n):
    """The shortest of n times of the processor."""
    times = []
    for _ in range(n):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def compare(name, with_it, without_it, rounds, n, left_out=contextlib.nullcontext):
    """Print the ratio of the two times, which are measured in turns.

    without_it runs inside left_out(), which is not part of its time.
    """

    def time_without():
        with left_out():
            return shortest(without_it, n)

    ratios = []
    for i in range(rounds):
        if i % 2:
            kept, without = shortest(with_it, n), time_without()
        else:
            without, kept = time_without(), shortest(with_it, n)
        ratios.append(without / kept)
    ratios.sort()
    middle = ratios[len(ratios) // 2]
    print(f"  {name:36} {middle:6.2f}   ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)


def training(shape, rounds):
    """A line for each trick of a training step."""
    cfg, B = SHAPES[shape]
    params, arena = gpt.init(cfg, 0), cores.Arena()
    grads = {name: np.empty_like(p) for name, p in params.items()}
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, cfg.vocab_size, (2, B, cfg.n_positions))

    def step(arena=arena, grads=grads):
        fast.loss_and_grads(params, cfg, tokens, targets, arena=arena, grads=grads)

    step()
    seconds = shortest(step, 3)
    n = max(1, int(0.3 / seconds))
    print(f"{shape}: a step takes {1e3 * seconds:.0f} ms", flush=True)
    for name, left_out in TRICKS.items():
        if left_out is None:
            compare(name, step, functools.partial(step, None, None), rounds, n)
        else:
            compare(name, step, step, rounds, n, left_out)


def decoding(rounds):
    """GPT-2's width in four blocks: a token for each of so many rows."""
    cfg = gpt.Config(50257, 128, 768, 4, 12)
    params = gpt.init(cfg, 0)
    for rows in (1, 16):
        cache = fast.Cache(cfg, rows)
        tokens = np.zeros((rows, 1), np.int64)

        def token(cache=cache, tokens=tokens):
            cache.length[:] = 32
            fast.decode(params, cfg, tokens, cache, only_last=True)

        print(f"decode, {rows} rows: a token takes {1e3 * shortest(token, 3):.0f} ms", flush=True)
        by_us = functools.partial(mock.patch.object, cores, "_set_blas_threads", None)
        compare("products that the BLAS divides", token, token, rounds, 3, by_us)


def main():
    """Print a table for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="char, small, baby, gpt2, decode (default: all)")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    args = parser.parse_args()
    for what in args.what or [*SHAPES, "decode"]:
        if what == "decode":
            decoding(args.rounds)
        else:
            training(what, args.rounds)


if __name__ == "__main__":
    main()
