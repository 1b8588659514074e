"""The same training in NumPy and through the kernels: the losses of 200 steps from one seed.

    python tests/peers/same_losses.py tinyshakespeare.txt       nanoGPT's setting for a CPU

Without a GPU, the CPU plays one, which takes a while.
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
RUNS = {
    "NumPy, float32": [],
    "kernels, float32": ["--device", "cuda", "--dtype", "float32"],
    "kernels, bfloat16": ["--device", "cuda"],
}


def losses(text, steps, options):
    """[loss of each step] and the last validation loss, in nats a character."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--preset", "shakespeare", "--data", text, "--run", folder, "--micro-batch", "12",
                 "--steps", str(steps), "--eval-every", str(steps), *options]
        with contextlib.redirect_stdout(io.StringIO()):
            train.main(words)
        log = (Path(folder) / "base" / "log.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in log.splitlines()]
    return [row["loss_nats"] for row in rows], rows[-1]["val_loss_nats"]


def table(text, steps=200):
    """The lines of the table, each as soon as it is known."""
    shown = [step for step in SHOWN if step <= steps]
    yield f"{'step':20}" + "".join(f"{step:9}" for step in shown) + "    validation"
    first = None
    for name, options in RUNS.items():
        seen, validation = losses(text, steps, options)
        first = first or seen
        off = max(abs(a - b) for a, b in zip(seen, first))
        numbers = "".join(f"{seen[step - 1]:9.4f}" for step in shown)
        yield f"{name:20}{numbers}{validation:14.4f}   over all steps off by at most {off:.5f}"


def main():
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("text", help="a text file")
    p.add_argument("--steps", type=int, default=200, help="default: %(default)s")
    args = p.parse_args()
    for line in table(args.text, args.steps):
        print(line, flush=True)


if __name__ == "__main__":
    main()
