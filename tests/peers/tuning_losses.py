"""Fine-tuning and RL on the cores and through the kernels: twenty steps of the demo's models.

    python tests/peers/tuning_losses.py out/demo            prints the tables of docs/gpu.md

Without a GPU, the CPU plays one, which takes a while. RL pays replies that think step by step, so
that a few replies show what it learns.
"""

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

from same_losses import RUNS            # before numpy; it also has the CPU play a missing GPU
import align
import numpy as np
from chat import arena

if "cupy_cpu" in sys.modules:
    sys.modules["cupy_cpu"].ORDERS = sys.modules["cupy_cpu"].ORDERS[:1]     # tests look for races

SHOWN = (1, 2, 5, 10, 15, 20)
STAGES = {
    "sft": "sft --batch 4 --replay 0 --lr 0.001",
    "rl": "rl --reward stepwise --prompts 2 --group 4 --max-tokens 24 --batch 2 --lr 0.0003",
}
COLUMNS = {
    "sft": {"loss": "loss_nats"},
    "rl": {"loss": "loss_nats", "conversations": "chat_loss_nats", "reward": "reward"},
}


def stepwise(rollout):
    """1 for a reply that thinks step by step."""
    return np.array([text.startswith(arena.STEPWISE) for text in rollout.texts], float)


def log_of(run, stage, steps, options):
    """[{name: number}] of a stage's steps, in a copy of the run."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("base", "sft", "tasks", "tokens"):
            shutil.copytree(run / name, Path(folder) / name)
        chats = (run / "chat/train.jsonl").read_text(encoding="utf-8").splitlines()[:400]
        (Path(folder) / "chat").mkdir()
        (Path(folder) / "chat/train.jsonl").write_text("\n".join(chats), encoding="utf-8")
        words = [*STAGES[stage].split(), "--run", folder, "--out", "made", "--steps", str(steps)]
        if stage == "rl":
            held_out = Path(folder) / "held_out.jsonl"
            questions = (run / "tasks/wheel_test.jsonl").read_text(encoding="utf-8").splitlines()
            held_out.write_text(questions[0] + "\n", encoding="utf-8")
            words += ["--held-out", str(held_out)]
        else:
            shutil.rmtree(Path(folder) / "tasks")       # nothing to be examined
        with contextlib.redirect_stdout(io.StringIO()):
            align.main([*words, *options])
        log = (Path(folder) / "made" / "log.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in log.splitlines()]


def table(run, stage, steps):
    """The lines of a stage's table, each as soon as it is known."""
    shown = [step for step in SHOWN if step <= steps]
    yield f"{stage + ', step':34}" + "".join(f"{step:10}" for step in shown)
    first = None
    for name, options in RUNS.items():
        log = log_of(run, stage, steps, options)
        first = first or log
        for what, key in COLUMNS[stage].items():
            off = max(abs(row[key] - other[key]) for row, other in zip(log, first))
            numbers = "".join(f"{log[step - 1][key]:10.5f}" for step in shown)
            yield f"{name:20}{what:14}{numbers}   off by at most {off:.5f}"


def main():
    """Print the tables."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("run", type=Path, help="a finished run folder")
    p.add_argument("--steps", type=int, default=20, help="default: %(default)s")
    p.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES),
                   help="some of them (default: all)")
    args = p.parse_args()
    align.REWARDS["stepwise"] = stepwise
    for stage in args.stages:
        for line in table(args.run, stage, args.steps):
            print(line, flush=True)


if __name__ == "__main__":
    main()
