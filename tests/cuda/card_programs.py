"""Programs for tests of ranks that have a GPU each. The CPU plays the GPUs, nccl_cpu.py plays NCCL.

    python tests/cuda/card_programs.py NAME ARGUMENT --ranks N

Rank 0 prints what the test looks at. With LONGHAND_GPU the cards and NCCL are real.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]

from model import cores  # noqa: E402       before numpy
if os.environ.get("LONGHAND_GPU"):
    import cupy as cp
    CALLS = []
else:
    import cupy_cpu as cp
    import nccl_cpu
    CALLS = nccl_cpu.CALLS
    cp.cuda.nccl = nccl_cpu
    sys.modules.update({"cupy": cp, "cupy.cuda": cp.cuda})

from model import device, device_training, joining, nccl_ranks  # noqa: E402
import gpt  # noqa: E402
import numpy as np  # noqa: E402
import train  # noqa: E402
from kernels import launching  # noqa: E402
from run import command  # noqa: E402

CFG = gpt.Config(30, 8, 16, 2, 2)
SHARDS = [np.random.default_rng(seed).integers(0, 30, 400) for seed in (0, 1)]


def collectives(here, _):
    """Sums in the order of ranks and their way back, recorded and replayed, in small pieces."""
    nccl_ranks.ROOM_BYTES = 32 * (here.size - 1)            # eight numbers of each
    cards = device.connect("float32").cards
    tables = []
    for r in range(here.size):
        rng = np.random.default_rng(r)
        tables.append((rng.standard_normal((here.size, 20)) * 1e3).astype(np.float32))
    expected = tables[0].copy()
    for other in tables[1:]:
        expected += other
    table = cp.zeros((here.size, 20), np.float32)
    small = cp.zeros((here.size, 3), np.uint16)
    room = cp.empty(nccl_ranks.room_shape(20, here.size), np.float32)
    recording = here.recording = launching.Recording()      # which lives as long as the ranks do

    def work():
        cards.reduce_scatter(table, room)
        cards.all_gather(small, table)

    before = here.sent
    for _ in range(3):
        table.set(tables[here.rank])
        own = np.zeros(small.shape, np.uint16)
        own[here.rank] = here.rank + 1
        small.set(own)
        cards.run(recording, work)
        assert table.get().tobytes() == expected.tobytes(), "the order of ranks"
        assert (small.get() == np.arange(1, here.size + 1)[:, None]).all()
    sent = (here.sent - before) / 3
    assert sent == (here.size - 1) * (80 + 80 + 6), sent
    return here.all_objects(CALLS)


def training(here, argument):
    """Train a tiny model as train() does. argument: JSON, with what a test wants otherwise."""
    wanted = {"device": "cuda", "dtype": "float32", "muon": 0.0, "batch": 5, "steps": 6,
              "die": None, "fail": None}
    wanted.update(json.loads(argument))
    cores.N_THREADS = 1
    recipe = train.Recipe(
        CFG, steps=wanted["steps"], batch=wanted["batch"], lr=1e-2, min_lr=1e-3, warmup=2,
        save_every=3, eval_every=4, muon=wanted["muon"])
    gpu = device.connect(wanted["dtype"]) if wanted["device"] == "cuda" else None
    update = device_training.Training.update

    def counted(work, *arguments):
        if wanted["die"] == [here.rank, work.optimizer.t]:
            os.kill(os.getpid(), signal.SIGKILL)
        if wanted["fail"] == [here.rank, work.optimizer.t]:
            raise ValueError("this rank has no luck")
        n = len(CALLS)
        try:
            return update(work, *arguments)
        finally:
            steps.append(CALLS[n:])

    steps = []
    device_training.Training.update = counted
    train.train(recipe, None, SHARDS[:1], SHARDS[1:], wanted["folder"], gpu=gpu, micro_batch=2)
    return here.all_objects(steps)


def main():
    """Run a program on the ranks that the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("program", choices=("collectives", "training"))
    parser.add_argument("argument", nargs="?", default="")
    joining.add_argument(parser)
    args = parser.parse_args()
    with joining.joined(args.ranks) as here:
        print(json.dumps(globals()[args.program](here, args.argument)))
    return 0


if __name__ == "__main__":
    command.run(main)
