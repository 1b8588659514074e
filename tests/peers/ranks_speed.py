"""ranks_speed.py: what ranks cost and what they save, beside the formulas.

    python tests/peers/ranks_speed.py speed [SETTING ...]     settings of model/bench.py
    python tests/peers/ranks_speed.py memory [--tokens T]     GPT-2 124M on 1, 2 and 4 ranks
    python tests/peers/ranks_speed.py exchange --ranks 2      or: mpirun -n 2 python ... exchange

speed: two ranks with a core each against one process with both cores (model/parallel.py), on the
same rows. They take steps in turns, within one run, so what else the machine does hits both alike.
Efficiency is the time of the one over that of the other. Processor seconds are those of both
processes: they leave out waiting, which the seconds on the clock have.

memory: what a rank holds after a step beside what model/zero.py says that it must, 4 n bytes of
weights, 4 n of gradients and 8 n / N of means; and what it has sent in the step beside
2 (N - 1) / N times 4 n bytes. What a rank reads in another's memory counts as sent. A page that two
processes see counts half for each.

exchange: how long ranks take to sum gradients and to give weights back, and nothing else. (They
sum the same array again and again; it is 0, so it does not overflow.)
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from model import cores                     # before numpy
from model import bench, families, joining, muon, parallel, planning, ranks, zero
import gpt
import numpy as np
import train

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def cpu_s(pids):
    """Seconds of processor time that processes have taken, in ticks of 10 ms."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks * TICK_S


def children():
    """The processes that this one has forked."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


class Steps:
    """Training steps of a setting: on the ranks `here`, each with so many cores."""

    def __init__(self, cfg, batch, here, n_threads):
        self.here, self.n_threads, self.batch = here, n_threads, batch
        cores.N_THREADS = n_threads
        self.recipe = replace(train.PRESETS["gpt2"], model=cfg, batch=batch)
        params = families.of(cfg).init(cfg, 0)
        self.parts = zero.Parts(params, here)
        self.optimizer = muon.optimizer(self.parts.updated(params), self.recipe)
        self.work = parallel.for_training(
            params, self.optimizer, self.parts, cfg, batch, False, None)
        rng = np.random.default_rng(0)
        self.rows = rng.integers(0, cfg.vocab_size, (batch, cfg.n_positions + 1))

    def take(self, n=1):
        """Take n steps. Returns the seconds that they took on the clock."""
        cores.N_THREADS = self.n_threads
        started = time.perf_counter()
        for _ in range(n):
            loss = train.add_gradients(self.work, self.rows, self.batch, self.here)
            train.update(self.optimizer, self.work.sum, loss, self.optimizer.t, self.recipe,
                         self.parts)
        return time.perf_counter() - started


def compare(here, setting, seconds):
    """Let the ranks and one process take steps in turns. Rank 0 prints the efficiency."""
    cfg, batch = bench.SETTINGS[setting]
    before = set(children())
    alone = Steps(cfg, batch, ranks.ALONE, here.size) if here.rank == 0 else None
    forked = set(children()) - before
    together = Steps(cfg, batch, here, 1)
    pids = here.all_objects(os.getpid())
    own = here.all_objects(together.take(2))        # warming up
    n = max(1, round(0.3 / own[0]))                 # steps of a turn
    times, cpu, until = [], np.zeros(2), time.monotonic() + seconds
    while True:
        here.barrier()
        begun = cpu_s(pids) if here.rank == 0 else 0.0
        of_ranks = together.take(n)
        here.barrier()
        if here.rank == 0:
            cpu[0] += cpu_s(pids) - begun
            begun = cpu_s([pids[0], *forked])
            of_one = alone.take(n)
            cpu[1] += cpu_s([pids[0], *forked]) - begun
            times.append((of_ranks, of_one))
        enough = time.monotonic() > until and len(times) >= 5
        if here.all_objects(enough)[0]:
            break
    if here.rank == 0:
        times = times[1:]                           # the first turn of one process warms it up
        best = [1e3 * min(column) / n for column in zip(*times)]
        median = statistics.median(one / of_ranks for of_ranks, one in times)
        shown = [f"{setting:8}", f"{len(times):5}", f"{best[0]:12.1f}", f"{best[1]:12.1f}"]
        shown += [f"{best[1] / best[0]:17.3f}", f"{median:13.3f}", f"{cpu[1] / cpu[0]:12.3f}"]
        print(" ".join(shown), flush=True)


def speed(args):
    """Print the efficiency of two ranks for each setting."""
    with joining.joined(2) as here:
        if here.rank == 0:
            print("setting  turns   ranks, ms  process, ms  efficiency: best  median turn  "
                  "processor s")
        for setting in args.settings:
            compare(here, setting, args.seconds)


def resident():
    """Bytes of this process in memory. Of a page that n processes have, an n-th is this one's."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    raise ValueError("/proc/self/smaps_rollup has no line Pss")


def memory_of_one(args):
    """A few steps of a rank; rank 0 prints what each has in memory and has sent."""
    with joining.joined(args.ranks) as here:
        base = resident()
        cfg = replace(gpt.PRESETS["gpt2"], n_positions=args.tokens)
        steps = Steps(cfg, 4, here, 1)
        steps.take(1)
        sent = here.sent
        steps.take(1)
        sent = here.sent - sent
        own_rows = -(-4 // here.size)
        plan = planning.memory_plan(cfg, own_rows, False, here.size)
        arrays = sum(plan[name] for name in ("parameters", "gradients", "AdamW"))
        of_step = sum(plan.values()) - arrays
        found = here.all_objects([resident() - base - of_step, sent])
        n, N = cfg.n_params, here.size
        wanted = 4 * n + 4 * n + 8 * n / N, 2 * (N - 1) / N * 4 * n
        for rank, (n_bytes, n_sent) in enumerate(found):
            print(json.dumps({
                "ranks": N, "rank": rank, "activations_mb": round(of_step / 1e6),
                "memory_mb": round(n_bytes / 1e6), "formula_mb": round(wanted[0] / 1e6),
                "sent_mb": round(n_sent / 1e6, 1), "formula_sent_mb": round(wanted[1] / 1e6, 1),
            }))


def memory(args):
    """Print the memory and the bytes sent of each rank, for 1, 2 and 4 ranks."""
    for n in (1, 2, 4):
        words = [__file__, "memory", "--of-one", "--tokens", str(args.tokens)]
        subprocess.run([sys.executable, *words, "--ranks", str(n)], check=True)


def exchange(args):
    """Print the time of reduce_scatter and all_gather together, for models of three sizes."""
    with joining.joined(args.ranks) as here:
        kind = type(here).__name__
        print(f"{kind} {here.size}  million floats  best, ms  median, ms  processor s  best GB/s")
        for n in (802_560, 10_646_784, 124_439_808):
            arrays = [here.memory(4 * n).view(np.float32)]
            parts, times, started = [here.slices(n)], [], time.process_time()
            n_turns = max(5, min(50, round(2e8 / n)))
            before = here.sent
            for _ in range(n_turns):
                here.barrier()
                begun = time.perf_counter()
                here.reduce_scatter(arrays, parts)
                here.all_gather(arrays, parts)
                times.append(time.perf_counter() - begun)
            cpu = (time.process_time() - started) / n_turns
            rate = (here.sent - before) / n_turns / min(times) / 1e9
            print(f"{'':14} {n / 1e6:10.1f} {1e3 * min(times):9.1f} "
                  f"{1e3 * statistics.median(times):11.1f} {cpu:12.4f} {rate:12.2f}")


def main():
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("speed", "memory", "exchange"))
    parser.add_argument("settings", nargs="*", default=["char", "baby", "gpt2"])
    parser.add_argument("--seconds", type=float, default=30.0, help="a setting")
    parser.add_argument("--tokens", type=int, default=64, help="of a row, for memory")
    parser.add_argument("--ranks", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--of-one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "speed":
        speed(args)
    elif args.what == "exchange":
        exchange(args)
    elif args.of_one:
        memory_of_one(args)
    else:
        memory(args)


if __name__ == "__main__":
    main()
