"""bpe_tasks.py: bpe.py train and encode by two tasks, one of them killed twice, beside one task.

    python tests/peers/bpe_tasks.py 100000              so many generated documents
    python tests/peers/bpe_tasks.py docs/*.jsonl.gz     documents of yours

First one task does each phase, in one process: its processor time, its speed without the time of
the start, and its memory at the most. Then two tasks do the same work. One of them is killed at two
random moments and started again. All files of the two runs must have the same bytes; the exit code
tells.
"""

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dedup_scale import documents

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from run import runs  # noqa: E402
from tokens import shards  # noqa: E402
from tokens.by_tasks import PHASES  # noqa: E402

N_FILES = 10
WORDS = {"train": ["--vocab-size", "32768"], "encode": ["--shard-tokens", "1000000"]}


def generate(n, folder):
    """Write n documents of 80 words into files."""
    files = [folder / f"{i:06d}.jsonl.gz" for i in range(N_FILES)]
    texts = documents(n)
    for path in files:
        with gzip.open(path, "wt", compresslevel=1) as file:
            for _ in range(n // N_FILES):
                file.write(json.dumps({"text": " ".join(next(texts))}) + "\n")
    return files


def command(run, files, name, *more):
    """The command line of a stage."""
    return [sys.executable, str(ROOT / "bpe.py"), name, "--run", str(run), "--input",
            *map(str, files), *WORDS[name], "--workers", "1", *more]


def start(words):
    """Start a command that says nothing unless it fails."""
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finished(process):
    """Wait for a command -> (seconds of processor time, MB at the most); exit if it has failed."""
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(said.decode())
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def with_kills(words, seconds):
    """Run a command that is killed twice, each time at a random moment of so many seconds."""
    for _ in range(2):
        process = start(words)
        time.sleep(random.uniform(0, seconds))
        process.kill()
        process.communicate()
    return start(words)


def contents(run):
    """{name: SHA-256} of the files of a run, the work of tasks apart."""
    found = {}
    for path in [*run.glob("*.*"), *run.glob("tokens/*.bin")]:
        if path.is_file():
            found[path.name] = runs.sha256_of(path)
    return found


def main():
    p = argparse.ArgumentParser(description="bpe.py by two tasks beside one.")
    p.add_argument("sources", nargs="+", metavar="N|FILE")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if args.sources[0].isdecimal():
            files = generate(int(args.sources[0]), folder)
        else:
            files = [Path(path).resolve() for path in args.sources]
        mb = sum(len(text.encode()) for path in files
                 for _, text in shards.read_documents(path)) / 1e6
        print(f"{len(files)} files, {mb:.1f} MB of text")
        start_s, memory = finished(start(command(folder, files, "encode", "--slurm", "1")))
        print(f"{'phase':10}{'CPU s':>8}{'MB/s':>8}{'MB':>8}")
        print(f"{'start':10}{start_s:8.2f}{'':8}{memory:8.0f}")
        seconds = {}
        for name, phases in PHASES.items():
            for phase in phases:
                words = command(folder / "one", files, name, "--phase", phase)
                cpu_s, memory = finished(start(words))
                seconds[name] = seconds.get(name, 0) + cpu_s
                speed = mb / max(cpu_s - start_s, 0.01)
                print(f"{phase:10}{cpu_s:8.2f}{speed:8.1f}{memory:8.0f}", flush=True)
        print("two tasks, each in all its phases")
        for name in PHASES:
            other = start(command(folder / "two", files, name, "--task", "1/2"))
            killed = with_kills(command(folder / "two", files, name, "--task", "0/2"),
                                seconds[name])
            for process in (killed, other):
                cpu_s, memory = finished(process)
                print(f"{name:10}{cpu_s:8.2f}{'':8}{memory:8.0f}", flush=True)
        one, two = contents(folder / "one"), contents(folder / "two")
        print(f"{len(one)} files, " + ("all the same" if one == two else "NOT THE SAME"))
        return one != two


if __name__ == "__main__":
    sys.exit(main())
