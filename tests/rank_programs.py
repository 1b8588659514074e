"""Programs for tests of ranks: python tests/rank_programs.py NAME [--ranks N], or under mpirun.

Rank 0 prints what the test looks at.
"""

import argparse
import errno
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model import adamw, checkpoint, cores, joining, ranks, zero  # noqa: E402
import gpt  # noqa: E402
import numpy as np  # noqa: E402
import train  # noqa: E402
from run import command  # noqa: E402

SHAPES = [(7, 3), (1, 5), (4,), (6, 2, 2), (0, 3), (13,)]


def arrays_of(rank, dtype=np.float32):
    """Arrays whose sums depend on the order of adding."""
    rng = np.random.default_rng(rank)
    found = []
    for shape in SHAPES:
        numbers = rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4, shape)
        found.append(numbers.astype(dtype))
    return found


def parts_of(here):
    """Rows of each array for each rank: even shares, and one array whole to the last rank."""
    parts = [here.slices(len(a)) for a in arrays_of(0)]
    parts[0] = [slice(0, 0)] * (here.size - 1) + [slice(0, 7)]
    return parts


def sums(here, dtype=np.float32):
    """What every sum must be, bit for bit."""
    totals = arrays_of(0, dtype)
    for r in range(1, here.size):
        for total, a in zip(totals, arrays_of(r, dtype)):
            total += a
    return totals


def in_memory(here, arrays):
    """Copies of arrays in memory that the other ranks may see. This rank is later than the last."""
    found = zero.InARow(dict(enumerate(arrays)), here.memory)
    time.sleep(0.05 * here.rank)
    for i, a in enumerate(arrays):
        found[i][...] = a
    return list(found.values())


def gradients_and_weights(here, own):
    """Sums of arrays_of(rank), which `own` has, and each rank's rows of them for all the others."""
    parts, n_bytes = parts_of(here), sum(a.nbytes for a in own)
    sent_before = sum(here.all_objects(here.sent))
    here.reduce_scatter(own, parts)
    for a, before, total, of_ranks in zip(own, arrays_of(here.rank), sums(here), parts):
        expected = before
        expected[of_ranks[here.rank]] = total[of_ranks[here.rank]]
        assert a.tobytes() == expected.tobytes()
    sent = sum(here.all_objects(here.sent)) - sent_before
    assert sent == (here.size - 1) * n_bytes, (sent, n_bytes)
    time.sleep(0.05 * here.rank)
    for a, total, of_ranks in zip(own, sums(here), parts):
        rows = of_ranks[here.rank]
        a[rows] = 2 * total[rows]                       # as a step changes weights
    here.all_gather(own, parts)
    assert [a.tobytes() for a in own] == [(2 * a).tobytes() for a in sums(here)]
    sent = sum(here.all_objects(here.sent)) - sent_before
    assert sent == 2 * (here.size - 1) * n_bytes, (sent, n_bytes)


def collectives(here, _):
    """Every collective beside NumPy, and what it sent beside the formula."""
    gradients_and_weights(here, arrays_of(here.rank))
    own = in_memory(here, arrays_of(here.rank))
    gradients_and_weights(here, own)
    for dtype in (np.float64, np.float32):
        for place in (list, functools.partial(in_memory, here)):
            whole = place(arrays_of(here.rank, dtype))
            here.sum_in_order(whole)
            assert [a.tobytes() for a in whole] == [a.tobytes() for a in sums(here, dtype)]
    root = here.size - 1
    given = [*arrays_of(here.rank), np.arange(3) + here.rank]
    if here.rank == root:
        for a in given:
            a.flags.writeable = False
    here.broadcast(given, root)
    expected = [*arrays_of(root), np.arange(3) + root]
    assert [a.tobytes() for a in given] == [a.tobytes() for a in expected]
    assert here.all_objects({"r": here.rank}) == [{"r": r} for r in range(here.size)]
    assert here.sum_of(0.1, here.rank) == [sum([0.1] * here.size, 0.0), root * (root + 1) / 2]
    rows = np.arange(10.0).reshape(5, 2)
    assert (here.by_rows(lambda a, b: a + b[:, :1], rows, rows) == rows + rows[:, :1]).all()
    one = here.by_rows(lambda a: a * 2, rows[:1])       # fewer rows than ranks
    assert (one == 2 * rows[:1]).all()
    here.barrier()
    if here.rank == 0:
        digest = hashlib.sha256(b"".join(a.tobytes() for a in own)).hexdigest()
        print(json.dumps({"size": here.size, "sums": digest, "threads": cores.N_THREADS}))


def kill_at(here, where):
    """The last rank is killed in a collective, or the first one: `where` is "NAME RANK"."""
    name, rank = where.split()
    dies_in = "say" if name == "say" or "in_memory" in name else "exchange"
    if dies_in == "say":
        def dying(*_):
            os.kill(os.getpid(), signal.SIGKILL)
    else:
        exchange, n_before = here.exchange, 1

        def dying(*arguments):                  # in the middle: some have met, some have not
            nonlocal n_before
            n_before -= 1
            if n_before < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return exchange(*arguments)

    arrays, parts = arrays_of(here.rank), parts_of(here)
    placed = in_memory(here, arrays)
    calls = {
        "reduce_scatter_in_memory": lambda: here.reduce_scatter(placed, parts),
        "all_gather_in_memory": lambda: here.all_gather(placed, parts),
        "reduce_scatter": lambda: here.reduce_scatter(arrays, parts),
        "all_gather": lambda: here.all_gather(arrays, parts),
        "broadcast": lambda: here.broadcast(arrays),
        "sum_in_order": lambda: here.sum_in_order(arrays),
        "say": here.barrier,
    }
    if here.rank == 0:                          # before they meet: a death ends this process too
        print(time.monotonic(), flush=True)
    here.barrier()
    if here.rank == int(rank):
        setattr(here, dies_in, dying)
    calls[name]()
    time.sleep(60)


def computing(here, _):
    """Rank 1 dies, with a process of its own left, while the others compute and do not listen."""
    if here.rank == 1:
        subprocess.Popen(["sleep", "30"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if os.fork() == 0:                      # as parallel.Gradients has them
            os.close(1)
            os.close(2)
            time.sleep(20)
            os._exit(0)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        sum(range(10**6))


def failing(here, what):
    """One rank raises an error while the others wait for it."""
    if here.rank == int(what):
        raise ValueError("this rank has no luck")
    here.barrier()


def foreseen_by_none(here, _):
    """An error that is no user's mistake."""
    if here.rank == 1:
        [].pop()
    here.barrier()


def apart(here, _):
    """The ranks are at different collectives."""
    a = [np.zeros(4 + here.rank % 2)]
    here.sum_in_order(a)


def waiting(here, seconds):
    """Do nothing for a while."""
    if here.rank == 0:
        print("all have come", flush=True)
    time.sleep(float(seconds))
    here.barrier()


CFG = gpt.Config(30, 8, 16, 2, 2)


def training(here, argument):
    """Train a tiny model as train() does. argument: JSON, with what a test wants otherwise."""
    wanted = {"muon": 0.0, "divided": True, "steps": 6, "batch": 5, "die": None, "seed": 0,
              "full": False}
    wanted.update(json.loads(argument))
    zero.DIVIDED = wanted["divided"]
    cores.N_THREADS = 1
    recipe = train.Recipe(
        CFG, steps=6, batch=wanted["batch"], lr=1e-2, min_lr=1e-3, warmup=2, save_every=3,
        eval_every=4, muon=wanted["muon"])
    shards = [np.random.default_rng(seed).integers(0, 30, 400) for seed in (0, 1)]
    step_of_optimizer = adamw.AdamW.step

    def step(optimizer, *others):
        if wanted["die"] == [here.rank, optimizer.t]:
            os.kill(os.getpid(), signal.SIGKILL)
        means.append(sum(m.nbytes for m in [*optimizer.m.values(), *optimizer.v.values()]))
        step_of_optimizer(optimizer, *others)

    def full_disk(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    if wanted["full"]:
        checkpoint.save_safetensors = full_disk         # rank 0 alone comes there
    means = []
    adamw.AdamW.step = step
    seed = wanted["seed"] * here.rank
    train.train(recipe, None, shards[:1], shards[1:], wanted["folder"], seed)
    print(json.dumps({"means": here.all_objects(means[-1] if means else 0)}))


PROGRAMS = {f.__name__: f for f in
            (collectives, kill_at, computing, failing, foreseen_by_none, apart, waiting,
             training)}


def main():
    """Run a program on the ranks that the command line or the environment says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("argument", nargs="?", default="")
    parser.add_argument("--chunk", type=int, default=64)
    joining.add_argument(parser)
    args = parser.parse_args()
    ranks.CHUNK_BYTES = args.chunk
    with joining.joined(args.ranks) as here:
        PROGRAMS[args.program](here, args.argument)
    return 0


if __name__ == "__main__":
    command.run(main)
