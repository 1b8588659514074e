"""first_token.py: how long it takes from the command to the first token.

    python tests/peers/first_token.py [RUN [r50k_base.tiktoken]]

Measures the run's chat and completion, and completion by an untrained model of GPT-2's smallest size.
With GPT-2's vocabulary the last one takes longer to begin.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import bpe
import gpt

TEXT = "Once upon a time"


def seconds(args, after):
    """From the command to the first byte behind after."""
    times = []
    for _ in range(5):
        began, said = time.perf_counter(), b""
        process = subprocess.Popen([sys.executable, "-u", str(ROOT / "sample.py"), *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        while after not in said[:-1]:
            byte = process.stdout.read(1)
            if not byte:
                raise RuntimeError(f"sample.py {' '.join(args)} ended: {said[-200:]!r}")
            said += byte
        times.append(time.perf_counter() - began)
        process.kill()
        process.wait()
    return f"{sorted(times)[2]:.2f} s ({min(times):.2f} to {max(times):.2f})"


def main():
    p = argparse.ArgumentParser(description="Time the first token of chat and completion.")
    p.add_argument("run", nargs="?", default=str(ROOT / "out" / "demo"),
                   help="run folder (default: out/demo)")
    p.add_argument("vocabulary", nargs="?", help="for the large model (default: the run's)")
    args = p.parse_args()
    run = args.run
    print("chat:", seconds(["chat", "--run", run, "--ask", "Who are you?"], b"longhand> "))
    print("completion:", seconds(["--run", run, TEXT], TEXT.encode()))
    with tempfile.TemporaryDirectory() as folder:
        cfg = gpt.Config(50257, 1024, 768, 12, 12)
        gpt.save(folder, gpt.init(cfg, 0), cfg)
        bpe.Tokenizer.load(args.vocabulary or Path(run) / "tokenizer.json").save(Path(folder) / "tokenizer.json")
        print("completion, the 124M shape:", seconds(["--model", folder, TEXT], TEXT.encode()))


if __name__ == "__main__":
    main()
