"""bench.py: how fast this machine trains.

    python -m model.bench char      a line of JSON: tokens a second of full steps on random tokens

A full step has forward, backward, clipping and AdamW. tests/peers/torch_gpt.py times PyTorch on the
same settings.
"""

import argparse
import json
import resource
import time
from dataclasses import replace

from model import cores                     # before numpy
from model import adamw
from model import families
from model import llama
from model import parallel
from model import planning
import gpt
import numpy as np
from run import command
import train

SETTINGS = {  # model, rows a step
    "char": (gpt.PRESETS["shakespeare"], 12),
    "small": (gpt.Config(512, 128, 128, 4, 4), 16),
    "baby": (gpt.PRESETS["baby"], 16),
    "gpt2": (gpt.Config(50304, 512, 768, 12, 12), 2),
    "smollm2": (replace(llama.PRESETS["smollm2-135m"], n_positions=512), 2),
}
WARMING_UP = 2          # first steps that do not count


def bench(setting, seconds=10.0):
    """Take full training steps for so many seconds. Returns {name: value} of the median step."""
    cfg, batch = SETTINGS[setting]
    T = cfg.n_positions
    planning.print_plan(planning.memory_plan(cfg, batch))
    recipe = replace(train.PRESETS["gpt2"], model=cfg, batch=batch)
    params = families.of(cfg).init(cfg, 0)
    optimizer, work = adamw.AdamW(params), parallel.Gradients(params, cfg)
    rows = np.random.default_rng(0).integers(0, cfg.vocab_size, (batch, T + 1))
    times, beginning = [], time.perf_counter()
    while len(times) < WARMING_UP + 3 or time.perf_counter() - beginning < seconds:
        step_beginning = time.perf_counter()
        loss = train.add_gradients(work, rows, micro_batch=batch)
        train.update(optimizer, work.sum, loss, len(times), recipe)
        times.append(time.perf_counter() - step_beginning)
    n_others = len(work.workers) - 1
    work.close()
    times = sorted(times[WARMING_UP:])
    median = times[len(times) // 2]
    tokens_per_s = batch * T / median
    flops = tokens_per_s * planning.flops_per_token(cfg, T)
    return {
        "bench": setting,
        "tokens_per_s": round(tokens_per_s, 1),
        "gflop_per_s": round(flops / 1e9, 1),
        "ms_per_step": round(1e3 * median, 2),
        "steps": len(times),
        "cores": cores.N_THREADS,
        "peak_rss_mb": round(peak_kilobytes(n_others) / 1024),
    }


def peak_kilobytes(n_others):
    """The most memory of this process and of n_others that have ended.

    Each counts as the largest of them, and memory that all share counts each time.
    """
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return own + n_others * largest


def parse_args(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m model.bench", description="Time training steps.")
    p.add_argument("setting", choices=SETTINGS, help="model and batch")
    return p.parse_args(argv)


def main(argv=None):
    """Print the figures of one setting."""
    args = parse_args(argv)
    print(json.dumps(bench(args.setting)))


if __name__ == "__main__":
    command.run(main)
