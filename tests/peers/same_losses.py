"""The same training in NumPy and through the kernels: losses of 200 steps of nanoGPT's CPU setting from one seed.

    python tests/peers/same_losses.py tinyshakespeare.txt

On a GPU where there is one, else on the CPU that plays one, for which it takes a while.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "cuda")]

import train  # noqa: E402  before numpy

try:
    import cupy
    cupy.cuda.runtime.getDeviceCount()
except Exception:               # no CuPy, no driver, no device
    import cupy_cpu
    sys.modules["cupy"] = cupy_cpu

SHOWN = (1, 25, 50, 100, 150, 200)
RUNS = {"NumPy, float32": [], "kernels, float32": ["--device", "cuda", "--dtype", "float32"], "kernels, bfloat16": ["--device", "cuda"]}


def losses(text, steps, options):
    """[loss of each step] and the last validation loss, in nats a character."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            train.main(["--preset", "shakespeare", "--data", text, "--run", folder, "--steps", str(steps), "--eval-every", str(steps),
                        "--micro-batch", "12", *options])
        rows = [json.loads(line) for line in (Path(folder) / "base" / "log.jsonl").read_text().splitlines()]
    return [row["loss_nats"] for row in rows], rows[-1]["val_loss_nats"]


def table(text, steps=200):
    """Its lines, as they become known."""
    shown, ours = [i for i in SHOWN if i <= steps], None
    yield f"{'step':20}" + "".join(f"{i:9}" for i in shown) + "    validation"
    for name, options in RUNS.items():
        seen, validation = losses(text, steps, options)
        ours = ours or seen
        yield (f"{name:20}" + "".join(f"{seen[i - 1]:9.4f}" for i in shown) + f"{validation:14.4f}"
               f"   over all steps off by at most {max(abs(a - b) for a, b in zip(seen, ours)):.5f}")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("text")
    p.add_argument("--steps", type=int, default=200)
    args = p.parse_args()
    for line in table(args.text, args.steps):
        print(line, flush=True)


if __name__ == "__main__":
    main()
