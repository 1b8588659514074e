"""report.py: what a training run says while it runs and when it ends.

Progress goes to standard error, the result to standard output.
"""

import re
import resource
import sys
from pathlib import Path

from model import evaluate                  # before numpy
from model import ranks
from run import progress, runs


def recipe_table(recipes):
    """The values of {name: recipe} in lines, for --help. eval and save: steps between them."""
    lines = ["preset         parameters    steps  batch  context       lr  eval  save"]
    for name, recipe in recipes.items():
        cfg = recipe.model
        sizes = f"{cfg.n_params:13,} {recipe.steps:8,} {recipe.batch:6,} {cfg.n_positions:8,}"
        often = f"{recipe.lr:8g} {recipe.eval_every:5} {recipe.save_every:5}"
        lines.append(f"{name:11} {sizes} {often}")
    return "\n".join(lines)


def print_beginning(recipe, windows, folder, done, micro_batch, recompute):
    """What is about to be done, in lines that fit a terminal. folder: where checkpoints go."""
    here = ranks.here()
    each = f" on each of {here.size} ranks" if here.size > 1 else ""
    T, lr = recipe.model.n_positions, recipe.lr
    passes = recipe.steps * recipe.batch / windows.per_epoch
    lines = [
        f"{folder}: {recipe.model.n_params:,} parameters",
        f"  {recipe.steps:,} steps of {recipe.batch * T:,} tokens",
        f"  {micro_batch} of {recipe.batch} rows at once{each}"
        f"{', activations recomputed' * recompute}",
        f"  {passes:.1f} passes over {windows.per_epoch * T:,} tokens",
        f"  learning rate {lr:g} after {recipe.warmup:,} steps, {recipe.min_lr:g} at the end",
    ]
    if recipe.save_every < recipe.steps:
        lines += [
            f"  after {recipe.save_every:,} steps it can be tried in another terminal:",
            f"    python sample.py --model {folder}",
        ]
    if done:
        lines.append(f"  resuming after step {done:,}")
    print("\n".join(lines), file=sys.stderr)


def print_validation(entry, params, cfg, tokenizer, seed, engine):
    """The loss on unseen text, and a few lines that the model writes, which join the entry."""
    bits = f"{entry['val_bits_per_byte']:.4f}" if tokenizer else "unknown"
    print(f"\nstep {entry['step']:,}: validation {entry['val_loss_nats']:.4f} nats a token, "
          f"{bits} bits a byte", file=sys.stderr)
    if tokenizer:
        entry["dream"] = evaluate.dream(params, cfg, tokenizer, seed, engine=engine)
        print(f"It dreams: {entry['dream']!r}", file=sys.stderr)


def print_progress(entry, recipe, seconds_left):
    """One line, which the next one replaces."""
    shown = [f"step {entry['step']:,}/{recipe.steps:,}", f"{progress.duration(seconds_left)} left"]
    if "skipped" not in entry:
        shown.append(f"loss {entry['loss_nats']:.4f}")
    shown.append(f"{entry['tokens_per_s']:,} tokens/s")
    if entry["mfu"]:
        shown.append(f"mfu {entry['mfu']:.1%}")
    if "skipped" not in entry:
        shown.append(f"norm {entry['grad_norm']:.2f}")
    shown.append(f"lr {entry['lr']:.2e}")
    progress.show("  ".join(shown))


def peak_bytes():
    """The most memory that this process has had."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:                                 # getrusage counts in bytes on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10


def print_ranks():
    """What each rank had in memory at most, and what it sent. Every rank must call it."""
    here = ranks.here()
    if here.size == 1:
        return
    print("rank   memory at most, MB   sent, MB", file=sys.stderr)
    for rank, (n_bytes, sent) in enumerate(here.all_objects([peak_bytes(), here.sent])):
        print(f"{rank:4} {n_bytes / 1e6:20,.1f} {sent / 1e6:10,.1f}", file=sys.stderr)


def print_result(last, recipe, tokenizer, train_shards, val_shards):
    """The validation loss beside that of n-gram models; last the row for make's table."""
    ngrams = evaluate.ngram_losses(tokenizer, train_shards, val_shards, recipe.model)
    lines = [("model", last["val_loss_nats"], last["val_bits_per_byte"])]
    for n, (nats, bits) in ngrams.items():
        lines.append((f"{n}-gram", nats, bits))
    for name, nats, bits in lines:
        shown = "unknown" if bits is None else f"{bits:.4f}"
        print(f"validation  {name:8} {nats:.4f} nats a token  {shown} bits a byte")
    made = f"{recipe.model.n_params / 1e6:,.1f}M parameters"
    if tokenizer:
        made += f", {last['val_bits_per_byte']:.3f} bits a byte"
    print(runs.row("base", f"{last['tokens']:,} tokens", made))
