"""first_token.py: how long it takes from the command to the first token.

    python tests/peers/first_token.py [RUN [r50k_base.tiktoken]]

Measures the run's chat and completion, and completion by an untrained model of GPT-2's smallest
size. With GPT-2's vocabulary the last one takes longer to begin.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import bpe
import gpt

TEXT = "Once upon a time"


def show(what, after, *options):
    """Print the median time, of five, from the command to the first byte behind `after`."""
    words, times = [sys.executable, "-u", str(ROOT / "sample.py"), *map(str, options)], []
    for _ in range(5):
        beginning, said = time.perf_counter(), b""
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        while after not in said[:-1]:
            byte = process.stdout.read(1)
            if not byte:
                raise RuntimeError(f"{' '.join(words[2:])} ended: {said[-200:]!r}")
            said += byte
        times.append(time.perf_counter() - beginning)
        process.kill()
        process.wait()
    print(f"{what}: {sorted(times)[2]:.2f} s ({min(times):.2f} to {max(times):.2f})", flush=True)


def main():
    """Print the three times."""
    p = argparse.ArgumentParser(description="Time the first token of chat and completion.")
    p.add_argument("run", nargs="?", type=Path, default=ROOT / "out" / "demo",
                   help="run folder (default: out/demo)")
    p.add_argument("vocabulary", nargs="?", help="for the large model (default: the run's)")
    args = p.parse_args()
    show("chat", b"longhand> ", "chat", "--run", args.run, "--ask", "Who are you?")
    show("completion", TEXT.encode(), "--run", args.run, TEXT)
    with tempfile.TemporaryDirectory() as folder:
        cfg = gpt.PRESETS["gpt2"]
        gpt.save(folder, gpt.init(cfg, 0), cfg)
        tokenizer = bpe.Tokenizer.load(args.vocabulary or args.run / "tokenizer.json")
        tokenizer.save(Path(folder) / "tokenizer.json")
        show("completion, the 124M shape", TEXT.encode(), "--model", folder, TEXT)


if __name__ == "__main__":
    main()
