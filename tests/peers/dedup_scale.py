"""dedup_scale.py: how time and memory of web/dedup.py grow with the number of documents.

    python tests/peers/dedup_scale.py 100000 1000000

Documents have 80 words and stand in files of 50,000; every tenth is a near-duplicate. The three steps
are those of the command line, in as many processes as there are cores. Memory is that of the largest
process.
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


def write(folder, n):
    """The truth comes back: how many are near-duplicates of an earlier one."""
    rng, vocabulary, old, twins = (random.Random(0),
                                   ["".join(random.Random(i).choices(
                                                "abcdefghijklmnoprstuvw", k=3 + i % 7))
                                    for i in range(20_000)],
                                   [], 0)
    for first in range(0, n, PER_FILE):
        with gzip.open(folder / f"{first // PER_FILE:06}.jsonl.gz", "wt", compresslevel=1,
                       encoding="utf-8") as f:
            for i in range(first, min(first + PER_FILE, n)):
                if i % 10 == 9:
                    words = list(rng.choice(old))
                    words[rng.randrange(WORDS)] = "changed"
                    twins += 1
                else:
                    words = rng.choices(vocabulary, k=WORDS)
                    if i % 10 == 0:
                        old.append(words)
                f.write(json.dumps({"text": " ".join(words), "id": str(i),
                                    "url": f"http://a.com/{i}", "date": "2024-01-01"})
                        + "\n")
    return twins


def main():
    p = argparse.ArgumentParser(description="Time near-duplicates of many documents.")
    p.add_argument("numbers", nargs="*", type=int, default=[100_000, 1_000_000],
                   help="of documents (default: 100000 1000000)")
    for n in p.parse_args().numbers:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            twins, seconds = write(folder, n), []
            files = [str(p) for p in sorted(folder.glob("*.jsonl.gz"))]
            for argv in (["sign", *files], ["match"],
                         ["drop", *files, "--to", str(folder / "out")]):
                start = time.perf_counter()
                done = subprocess.run([sys.executable, "-m", "web.dedup", *argv, "--work",
                                       str(folder / "work")],
                                      check=True, capture_output=True, text=True, cwd=ROOT)
                seconds.append(time.perf_counter() - start)
                if argv[0] == "match":
                    said = done.stdout.strip()
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(
                f"{n:,} documents: sign {seconds[0]:.1f} s, match {seconds[1]:.1f} s, drop {seconds[2]:.1f} s = {1e6 * sum(seconds) / n:.0f} us each on "
                f"{len(os.sched_getaffinity(0))} cores; largest process {peak:,.0f} MB; {said} (made: {twins:,})",
                flush=True,
            )


if __name__ == "__main__":
    main()
