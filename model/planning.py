"""planning.py: how many rows of a batch fit in memory at once, and how much work a token is.

A plan is known before any memory is taken, so a run that cannot fit ends at once and not after an
hour.

    python -m model.planning        the memory that each preset takes, to write and to train
"""

import argparse
import os
import sys
from dataclasses import replace

from model import cores                     # before numpy
from model import device, device_training
from model import families
from model import llama
from model import fast
from model import ranks
from model import resume
import gpt
from run import command

AT_ONCE = 8192          # tokens at once that keep a CPU busy; more only take memory

# Dense bfloat16 matrix products in 1e12 operations a second, as NVIDIA's data sheets have them.
PEAK_TFLOPS = {"A100": 312.0, "H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "RTX 4090": 165.2}


def flops_per_token(cfg, T):
    """Operations of a training step for one token: 6 for each parameter, and 6 L NH HS T for causal
    attention. llm.c counts like this."""
    _, head_size = families.kv_heads(cfg)
    return 6 * cfg.n_params + 6 * cfg.n_layer * cfg.n_head * head_size * T


def utilisation(cfg, tokens_per_s, gpu):
    """The share of a GPU's peak that training uses, called MFU, in steps of 1/10,000.

    None without a GPU, and where its peak is unknown.
    """
    known = [name for name in PEAK_TFLOPS if gpu and gpu.bf16 and name in gpu.name]
    if not known:
        return None
    peak = 1e12 * PEAK_TFLOPS[max(known, key=len)]
    return round(tokens_per_s * flops_per_token(cfg, cfg.n_positions) / peak, 4)


def available_bytes():
    """Memory that can be had without swapping."""
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            for line in f:
                if line.startswith("MemAvailable"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def memory_plan(cfg, rows, recompute=False, n_ranks=1):
    """{what: bytes} of training with so many rows at once, in all processes of a rank together.

    n_ranks: how many ranks divide AdamW's means (model/zero.py).
    """
    n, total = min(cores.N_THREADS, rows), {}
    for i in range(n):
        share = cores.Share(i, n)(rows)
        plan = fast.memory_plan(cfg, share.stop - share.start, cfg.n_positions, recompute)
        for what, n_bytes in plan.items():
            if i == 0 or what not in ("parameters", "AdamW"):       # which all share
                total[what] = total.get(what, 0) + n_bytes
    total["AdamW"] //= n_ranks
    return total


def fit_batch(
    cfg, batch, budget, micro_batch=None, recompute=False, gpu=None, muon=False, n_ranks=1,
):
    """(rows at once, recompute, {what: bytes}) for a step of batch rows within budget bytes.

    As many rows as keep the machine busy and fit. Fewer rows at once never change what a step
    computes, but for the last bits of its sums. Activations are recomputed when nothing else fits.
    muon: whether Muon has the matrices, which takes less memory on a GPU. n_ranks: how many ranks
    divide AdamW's means; the batch is that of one of them.
    """
    T = cfg.n_positions
    busy = device.ROW_TOKENS // T if gpu else max(cores.N_THREADS, AT_ONCE // T)
    most = micro_batch or max(1, min(batch, busy))
    least = micro_batch or 1
    for again in sorted({recompute, True}):
        for rows in range(most, least - 1, -1):
            if gpu:
                plan = device_training.memory_plan(cfg, rows, again, gpu.bf16, muon, n_ranks)
            else:
                plan = memory_plan(cfg, rows, again, n_ranks)
            needed = sum(plan.values())
            if needed <= budget:
                return rows, again, plan
    raise ValueError(
        f"{cfg.n_params:,} parameters with {rows} row{'s' if rows > 1 else ''} of {T} tokens at "
        f"once need {needed / 1e9:.2f} GB, {budget / 1e9:.2f} GB may be used; train a smaller "
        "--preset, or raise --memory-gb")


def plan_run(
    recipe, folder, identity, micro_batch, recompute, budget, gpu, here=ranks.ALONE,
):
    """(rows at once, recompute) of a run, printed with the memory it needs.

    Adds the micro-batch and the numbers of threads and ranks to the run's identity. A run that goes
    on keeps those it began with, because they decide the order of sums; but the number of ranks may
    change. here: the ranks of the run. All of them have the same rows at once, as rank 0 plans.
    """
    if here.size > 1:
        identity["ranks"] = here.size
    kept = resume.kept_settings(folder, identity, ("micro_batch", "threads"), here)
    if not gpu:
        identity["threads"] = resume.keep_threads(kept)
    if not budget:
        budget = 0.9 * gpu.free_bytes if gpu else 0.8 * available_bytes() / here.local_size
    of_a_rank = -(-recipe.batch // here.size)
    rows, recompute, plan = fit_batch(
        recipe.model, of_a_rank, budget, micro_batch or kept.get("micro_batch"), recompute, gpu,
        bool(recipe.muon), here.size,
    )
    print_plan(plan, " a rank" if here.size > 1 else "")
    rows, recompute = here.all_objects([rows, recompute])[0]
    identity["micro_batch"] = rows
    return rows, recompute


def print_plan(plan, of_what=""):
    """One line with the plan in megabytes."""
    parts = [f"{what} {n_bytes / 1e6:,.1f}" for what, n_bytes in plan.items()]
    total = sum(plan.values()) / 1e6
    print(f"memory{of_what}: {', '.join(parts)} = {total:,.1f} MB", file=sys.stderr)


def add_arguments(parser):
    """The options --micro-batch, --recompute and --memory-gb."""
    fit = parser.add_argument_group("memory; only the last bits of sums depend on it")
    fit.add_argument("--micro-batch", type=int, metavar="N",
                     help="rows in memory at once (default: what fits)")
    fit.add_argument("--recompute", action="store_true",
                     help="keep no activations but the blocks' inputs (default: if it must)")
    fit.add_argument("--memory-gb", type=float, metavar="GB",
                     help="memory to plan for (default: 80 %% of what is free, 90 %% on a GPU)")


def table(presets, T):
    """A line for each preset: gigabytes to write with, and to train on a row of T tokens a core."""
    yield f"{'':29} weights, GB      cache, MB:     training, GB:"
    yield f"preset            parameters float32   bf16  1,000 tokens  a row of {T:,} a core"
    for name, cfg in presets.items():
        n_heads, head_size = families.kv_heads(cfg)
        cache = 1000 * 4 * 2 * cfg.n_layer * n_heads * head_size
        short = replace(cfg, n_positions=min(T, cfg.n_positions))
        training = sum(memory_plan(short, cores.N_THREADS, recompute=True).values())
        yield (f"{name:13} {cfg.n_params:14,} {4 * cfg.n_params / 1e9:7.2f} "
               f"{2 * cfg.n_params / 1e9:6.2f} {cache / 1e6:13.1f} {training / 1e9:14.1f}")


def main(argv=None):
    """Print the table of all presets."""
    parser = argparse.ArgumentParser(
        prog="python -m model.planning", description="The memory that each preset takes.")
    parser.add_argument("--tokens", type=int, default=512, metavar="T",
                        help="of a row in training (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.tokens < 1:
        raise ValueError(f"--tokens {args.tokens}: must be at least 1")
    for line in table({**gpt.PRESETS, **llama.PRESETS}, args.tokens):
        print(line)


if __name__ == "__main__":
    command.run(main)
