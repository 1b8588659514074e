"""How fast gpt.py trains and writes, beside PyTorch and transformers, in one run on the same cores.

    python tests/peers/gpt_speed.py [char small baby gpt2] [decode] [shakespeare]   (default: all)

Both sides run in processes of their own, in turns, because machines are noisy, and the medians are
compared. PyTorch is the better of eager and compiled. Ratios above 1 mean that we are faster.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HERE, THREADS = Path(__file__).resolve().parent, len(os.sched_getaffinity(0))
DATA = Path(os.environ.get("LONGHAND_DATA", ROOT.parent / "shared" / "data"))
TINY = DATA / "tinyshakespeare.txt"
SHAPES = {
    "char": "char   V 65,     B 12, T 64,  C 128, L 4",
    "small": "small  V 512,    B 16, T 128, C 128, L 4",
    "baby": "baby   V 65,     B 16, T 256, C 384, L 6",
    "gpt2": "gpt2   V 50,304, B 2,  T 512, C 768, L 12",
}
PROMPT, NEW = 64, 96                                    # tokens, of decode


def run(*command):
    """The object on the last line that a script prints; None if it fails."""
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def middle(rows, key="tokens_per_s"):
    """The median of one value of the rows; NaN without a row."""
    values = sorted(row[key] for row in rows if row)
    return values[len(values) // 2] if values else float("nan")


def is_hopeless(seen, ours):
    """Whether a mode failed or is far slower than ours, as where bfloat16 is emulated."""
    if not seen:
        return False
    return seen[0] is None or 8 * seen[0]["tokens_per_s"] < ours[0]["tokens_per_s"]


def training(settings, rounds, seconds):
    """Print a line for each setting: tokens a second, ratios, peak memory."""
    print(f"\ntraining steps, tokens a second, {THREADS} threads      longhand   eager  compiled   "
          "bf16  | float32 ratio  bf16 ratio | peak MB longhand, PyTorch")
    for setting in settings:
        ours, theirs = [], {"eager": [], "compile": [], "bf16": []}
        for _ in range(rounds):
            ours.append(run("-m", "model.bench", setting))
            for mode, seen in theirs.items():
                if not is_hopeless(seen, ours):
                    seen.append(run(HERE / "torch_gpt.py", setting, "--mode", mode,
                                    "--seconds", seconds))
        speed = {mode: middle(rows) for mode, rows in theirs.items()}
        best = max(speed[mode] for mode in ("eager", "compile") if speed[mode] == speed[mode])
        shown = [
            f"  {SHAPES[setting]:44} {middle(ours):10,.0f}",
            f"{speed['eager']:8,.0f} {speed['compile']:8,.0f} {speed['bf16']:8,.0f}  |",
            f"{middle(ours) / best:8.2f} {middle(ours) / speed['bf16']:12.2f}      |",
            f"{middle(ours, 'peak_rss_mb'):,} {middle(theirs['eager'], 'peak_rss_mb'):,}",
        ]
        print(" ".join(shown), flush=True)


def bandwidth():
    """Bytes a second that all threads together read, from sums over more memory than any cache."""
    sys.path.insert(0, str(ROOT))
    from model import cores
    import numpy as np
    x = np.ones(1 << 27, np.float32)
    best = 0.0
    for _ in range(5):
        t0 = time.perf_counter()
        cores.in_parallel(lambda part: x[part(len(x))].reshape(64, -1).max(-1))
        best = max(best, x.nbytes / (time.perf_counter() - t0))
    return best


def write_here(definition, cfg, rows, n_new=NEW):
    """Print tokens a second of greedy writing by a random model. definition: gpt or model.llama."""
    from model import fast
    import numpy as np
    params = definition.init(cfg, 0)
    cache = fast.Cache(cfg, rows, PROMPT + n_new)
    tokens = np.random.default_rng(0).integers(0, cfg.vocab_size, (rows, PROMPT))
    logits, times = fast.decode(params, cfg, tokens, cache, only_last=True), []
    for _ in range(n_new - 1):
        t0 = time.perf_counter()
        logits = fast.decode(params, cfg, logits.argmax(-1)[:, None], cache, only_last=True)
        times.append(time.perf_counter() - t0)
    print(json.dumps({"tokens_per_s": rows / sorted(times)[len(times) // 2]}))


def write_there(model, rows, n_new=NEW):
    """The same by a model of transformers, without the overhead of its generate()."""
    import torch
    with torch.no_grad():
        tokens = torch.randint(model.config.vocab_size, (rows, PROMPT))
        out, times = model(tokens, use_cache=True), []
        for _ in range(n_new - 1):
            t0 = time.perf_counter()
            latest = out.logits[:, -1:].argmax(-1)
            out = model(latest, past_key_values=out.past_key_values, use_cache=True)
            times.append(time.perf_counter() - t0)
    print(json.dumps({"tokens_per_s": rows / sorted(times)[len(times) // 2]}))


def decode_ours(rows):
    sys.path.insert(0, str(ROOT))
    from model import cores     # noqa: F401  before numpy
    import gpt
    write_here(gpt, gpt.PRESETS["gpt2"], rows)


def decode_theirs(rows):
    import torch
    import transformers
    torch.set_num_threads(THREADS)
    write_there(transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval(), rows)


def decoding(rounds):
    limit = bandwidth() / (4 * 124_439_808)
    print("\nwriting with the cache, the 124M shape, tokens a second, "
          f"prompts of {PROMPT}, {NEW} new      longhand   transformers   ratio")
    for rows in (1, 32):
        found = {side: [] for side in ("ours", "theirs")}
        for _ in range(rounds):
            for side, seen in found.items():
                seen.append(run(__file__, "--decode", side, rows)["tokens_per_s"])
        ours, theirs = (sorted(seen)[len(seen) // 2] for seen in found.values())
        line = f"  {rows:2} row{'s' * (rows > 1):82} {ours:8.1f} {theirs:12.1f}"
        line += f" {ours / theirs:10.2f}"
        if rows == 1:
            line += f"   {ours / limit:.0%} of {limit:.0f}, reading all weights once a token"
        print(line, flush=True)


def our_shakespeare(target):
    """What torch_gpt.shakespeare returns, of train.py's preset: out of its log."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--preset", "shakespeare", "--data", str(TINY), "--run", folder,
                 "--eval-every", "50"]
        subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, check=True,
                       capture_output=True)
        log = (Path(folder) / "base" / "log.jsonl").read_text(encoding="utf-8")
    seconds, reached = 0.0, None
    for line in log.splitlines():
        entry = json.loads(line)
        seconds += entry["dt_s"]
        if entry.get("val_loss_nats", math.inf) <= target and not reached:
            reached = {"step": entry["step"], "seconds": seconds}
    return {"seconds": seconds, "steps": entry["step"], "val_loss_nats": entry["val_loss_nats"],
            "reached": reached}


def shakespeare(rounds, target=1.88):
    """nanoGPT's CPU run on both sides: seconds of the steps to a loss, and the loss at the end.

    The loss is that of the whole last tenth of the text, in nats a character.
    """
    if not TINY.exists():
        print(f"\nshakespeare: no {TINY}")
        return
    print(f"\nnanoGPT's run on tinyshakespeare: seconds of all steps until {target} nats")
    ratios = []
    for _ in range(rounds):
        runs = {"longhand": our_shakespeare(target)}
        runs["PyTorch"] = run(HERE / "torch_gpt.py", "shakespeare", "--text", TINY)
        until = []
        for side, found in runs.items():
            reached = found["reached"] or {"step": "never", "seconds": found["seconds"]}
            until.append(reached["seconds"])
            print(f"  {side:10} {reached['seconds']:6.1f} s (step {reached['step']}), "
                  f"{found['val_loss_nats']:.4f} after {found['steps']:,} steps in "
                  f"{found['seconds']:.1f} s", flush=True)
        ratios.append(until[0] / until[1])
    print(f"  {sorted(ratios)[len(ratios) // 2]:.2f} of PyTorch's time, median of {rounds}")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("what", nargs="*",
                   help="char, small, baby, gpt2, decode, shakespeare (default: all)")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=10.0)
    p.add_argument("--decode", nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.decode:
        (decode_ours if args.decode[0] == "ours" else decode_theirs)(int(args.decode[1]))
        return
    what = args.what or ["char", "small", "baby", "gpt2", "decode", "shakespeare"]
    settings = [w for w in what if w not in ("decode", "shakespeare")]
    if settings:
        training(settings, args.rounds, args.seconds)
    if "decode" in what:
        decoding(args.rounds)
    if "shakespeare" in what:
        shakespeare(args.rounds)


if __name__ == "__main__":
    main()
