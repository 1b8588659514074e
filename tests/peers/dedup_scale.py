"""dedup_scale.py: how time and memory of web/dedup.py grow with the number of documents.

    python tests/peers/dedup_scale.py 100000 1000000

Documents have 80 words and stand in files of 50,000; every tenth is a near-duplicate. The three
steps are those of the command line, in as many processes as there are cores. Memory is that of the
largest process.
"""

import argparse
import gzip
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PER_FILE, WORDS = 50_000, 80
LETTERS = "abcdefghijklmnoprstuvw"


def documents(n):
    """The words of each document. Of ten, the first is kept, and the last changes a kept one."""
    rng, kept = random.Random(0), []
    vocabulary = ["".join(random.Random(i).choices(LETTERS, k=3 + i % 7)) for i in range(20_000)]
    for i in range(n):
        if i % 10 == 9:
            words = list(rng.choice(kept))
            words[rng.randrange(WORDS)] = "changed"
        else:
            words = rng.choices(vocabulary, k=WORDS)
        if i % 10 == 0:
            kept.append(words)
        yield words


def write(folder, n):
    """Write the documents. -> their files"""
    words, files = documents(n), []
    for first in range(0, n, PER_FILE):
        files.append(folder / f"{first // PER_FILE:06}.jsonl.gz")
        with gzip.open(files[-1], "wt", compresslevel=1, encoding="utf-8") as file:
            for i in range(first, min(first + PER_FILE, n)):
                row = {"text": " ".join(next(words)), "id": str(i), "url": f"http://a.com/{i}",
                       "date": "2024-01-01"}
                file.write(json.dumps(row) + "\n")
    return files


def dedup(folder, *words):
    """Run a step. -> (seconds, what it printed)"""
    start = time.perf_counter()
    words = [sys.executable, "-m", "web.dedup", *map(str, words), "--work", str(folder / "work")]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT)
    return time.perf_counter() - start, done.stdout.strip()


def main():
    """Print a line for each number of documents."""
    p = argparse.ArgumentParser(description="Time near-duplicates of many documents.")
    p.add_argument("numbers", nargs="*", type=int, default=[100_000, 1_000_000],
                   help="of documents (default: 100000 1000000)")
    for n in p.parse_args().numbers:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            files = write(folder, n)
            sign_s, _ = dedup(folder, "sign", *files)
            match_s, said = dedup(folder, "match")
            drop_s, _ = dedup(folder, "drop", *files, "--to", folder / "out")
        each_us = 1e6 * (sign_s + match_s + drop_s) / n
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"{n:,} documents: sign {sign_s:.1f} s, match {match_s:.1f} s, drop {drop_s:.1f} s "
              f"= {each_us:.0f} us each on {len(os.sched_getaffinity(0))} cores; largest process "
              f"{peak:,.0f} MB; {said} (made: {n // 10:,})", flush=True)


if __name__ == "__main__":
    main()
