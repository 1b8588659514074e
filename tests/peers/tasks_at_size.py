"""tasks_at_size.py: do two tasks, one of them killed twice, write the same bytes as one task?

    python tests/peers/tasks_at_size.py pages ../shared/data/crawl-dev.warc.gz out/demo/crawl
        data.py over the files cut into six: one task, then two tasks of which one is killed twice
    python tests/peers/tasks_at_size.py texts 100000
        the same over so many generated texts, as a WET crawl of eight files
    python tests/peers/tasks_at_size.py dedup 1000000
        sign, match and drop by one task and by two: seconds of processor time and memory of each
    python tests/peers/tasks_at_size.py match 1000000
        match alone, over band keys that are drawn and not computed: a minute

Prints a line for each; exit code 1 if any two results differ. Kills come at random moments, from
--seed.
"""

import argparse
import gzip
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(ROOT))
import dedup_scale  # noqa: E402
from model import cores  # noqa: E402, F401     before numpy
import numpy as np  # noqa: E402
from web import dedup, matching  # noqa: E402

# ----------------------------------------------------------------------------------------- inputs


def members(path):
    """The gzip members of a WARC file: a record each."""
    raw = path.read_bytes()
    at = 0
    while at < len(raw):
        unpacker = zlib.decompressobj(31)
        unpacker.decompress(raw[at:])
        end = len(raw) - len(unpacker.unused_data)
        yield raw[at:end]
        at = end


def cut(paths, folder, n=6):
    """Write the records of WARC files anew, into n files."""
    records = [record for path in paths for record in members(path)]
    folder.mkdir(parents=True)
    for k in range(n):
        part = records[len(records) * k // n:len(records) * (k + 1) // n]
        (folder / f"{k:06}.warc.gz").write_bytes(b"".join(part))


def write_texts(folder, n, n_files=8):
    """Write a WET crawl of n texts of a hundred words each; every tenth changes an earlier one."""
    rng, kept = random.Random(0), []
    folder.mkdir(parents=True)
    sentences = english_sentences()
    for k in range(n_files):
        with gzip.open(folder / f"{k:06}.warc.wet.gz", "wb", compresslevel=1) as out:
            for i in range(n * k // n_files, n * (k + 1) // n_files):
                lines = rng.sample(sentences, 8)
                if i % 10 == 9:
                    lines = [*rng.choice(kept)[:-1], lines[0]]
                if i % 10 == 0:
                    kept.append(lines)
                body = "\n".join(lines).encode()
                head = (f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Record-ID: <urn:uuid:{i}>\r\n"
                        f"WARC-Target-URI: http://site{i % 997}.com/{i}\r\n"
                        f"WARC-Date: 2024-01-01T00:00:00Z\r\nContent-Type: text/plain\r\n"
                        f"Content-Length: {len(body)}\r\n\r\n")
                out.write(head.encode() + body + b"\r\n\r\n")


def english_sentences():
    """Some thousand sentences of English words, which are those of this project's documents."""
    rng, found = random.Random(1), set()
    for path in sorted((ROOT / "docs").glob("*.md")):
        found.update(re.findall(r"\b[a-z]{3,9}\b", path.read_text(encoding="utf-8")))
    vocabulary, sentences = sorted(found), []
    for _ in range(20_000):
        chosen = rng.sample(vocabulary, 9)
        for small in ("the", "of", "and"):
            chosen.insert(rng.randrange(len(chosen)), small)
        sentences.append(" ".join(chosen).capitalize() + ".")
    return sentences


# ------------------------------------------------------------------------------------------- runs


def start(words, task=None):
    """Start a command as a task."""
    more = ["--task", task] if task else []
    said = tempfile.TemporaryFile()
    process = subprocess.Popen([sys.executable, *map(str, words), *more], cwd=ROOT, stdout=said,
                               stderr=said, start_new_session=True)
    process.said = said
    return process


def finish(processes):
    """Wait for commands; of each the processor time and the most memory that it had, in MB.

    Memory is looked up while they run: what wait4 tells begins with that of their parent.
    """
    used, memory = {}, {}
    while len(used) < len(processes):
        for process in processes:
            if process in used:
                continue
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            if "VmHWM:" in status:                          # not when it has just ended
                memory[process] = int(status.partition("VmHWM:")[2].split()[0]) / 1024
            found, status, usage = os.wait4(process.pid, os.WNOHANG)
            if found and status:
                process.said.seek(0)
                raise RuntimeError(process.said.read()[-500:].decode("utf-8", "replace"))
            if found:
                used[process] = usage.ru_utime + usage.ru_stime, memory[process]
        time.sleep(0.02)
    return [used[process] for process in processes]


def digest(docs):
    """{name: SHA-256} of a folder of results; of the report without seconds."""
    found = {}
    for path in sorted(docs.glob("*.*")):
        if path.is_file():
            raw = path.read_bytes()
            if path.name == "report.json":
                report = json.loads(raw)
                for stage in report["stages"].values():
                    del stage["seconds"]
                raw = json.dumps(report).encode()
            found[path.name] = hashlib.sha256(raw).hexdigest()
    return found


def killed_twice(words, seconds, rng):
    """Run a command as two tasks; the second is killed at two random moments. -> kills that hit"""
    first, hits = start(words, "0/2"), 0
    for _ in range(2):
        second = start(words, "1/2")
        time.sleep(rng.uniform(0.1, 0.6) * seconds)
        hits += second.poll() is None
        os.killpg(second.pid, signal.SIGKILL)
        second.wait()
    finish([first, start(words, "1/2")])
    return hits


def compare(name, crawl, folder, seed):
    """One task and two killed ones over a crawl; prints a line. -> whether they agree"""
    rng = random.Random(seed)
    words = ["data.py", crawl, "--workers", 1, "--run"]
    begun = time.monotonic()
    [(cpu_s, _)] = finish([start([*words, folder / "one"])])
    seconds = time.monotonic() - begun
    want = digest(folder / "one" / "docs")
    hits = killed_twice([*words, folder / "two"], seconds / 2, rng)
    same = digest(folder / "two" / "docs") == want
    print(f"{name}: {len(want) - 2} shards by one task ({cpu_s:.0f} s of processor time), by two "
          f"of which one was killed {hits} times: {'the same' if same else 'NOT THE SAME'}",
          flush=True)
    return same


def compare_dedup(n, folder):
    """The three steps by one task and by two; prints a line for each step. -> whether they agree"""
    files = dedup_scale.write(folder, n)
    results = []
    for n_tasks in (1, 2):
        work, out = folder / f"work{n_tasks}", folder / f"out{n_tasks}"
        steps = {"sign": [*files, "--workers", 1], "match": [],
                 "drop": [*files, "--workers", 1, "--to", out]}
        for step, more in steps.items():
            take_step(n, step, n_tasks, *more, "--work", work)
        results.append({path.name: path.read_bytes() for path in sorted(out.glob("*.gz"))})
    return are_same(n, *results)


def take_step(n, step, n_tasks, *more):
    """One step of web.dedup on n documents, by some tasks; prints a line."""
    started = [start(["-m", "web.dedup", step, *more], f"{i}/{n_tasks}") for i in range(n_tasks)]
    each = ", ".join(f"{cpu_s:.1f} s {mb:.0f} MB" for cpu_s, mb in finish(started))
    print(f"{n:,} documents, {step} by {n_tasks}: {each}", flush=True)


def are_same(n, by_one, by_two):
    """Whether two results {name: bytes} agree; prints a line."""
    same = by_one == by_two
    print(f"{n:,} documents, {len(by_one)} files: {'the same' if same else 'NOT THE SAME'}")
    return same


def write_keys(work, n):
    """Write band keys of n documents. Every tenth has each key of an earlier one with p = 0.35.

    So has a text of 80 words with one of them changed: 71 of 81 shingles are in both, to the 8th.
    """
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**64 - 1, (n, dedup.BANDS), np.uint64)
    changed = np.arange(9, n, 10)
    kept = 10 * (rng.random(len(changed)) * (changed // 10)).astype(int)
    same = rng.random((len(changed), dedup.BANDS)) < 0.35
    keys[changed] = np.where(same, keys[kept], keys[changed])
    work.mkdir()
    for first in range(0, n, dedup_scale.PER_FILE):
        end = min(first + dedup_scale.PER_FILE, n)
        names = [f"2024-01-01\thttp://a.com/{i}\t{i}" for i in range(first, end)]
        matching.save_keys(work, f"{first // dedup_scale.PER_FILE:06}", keys[first:end], names)


def compare_match(n, folder):
    """match by one task and by two; prints a line for each. -> whether they agree"""
    work, results = folder / "work", []
    write_keys(work, n)
    for n_tasks in (1, 2):
        take_step(n, "match", n_tasks, "--work", work)
        results.append({path.name: path.read_bytes() for path in sorted(work.glob("*.drop.npy"))})
    return are_same(n, *results)


def main():
    """Run what the command line asks for. -> exit code"""
    p = argparse.ArgumentParser(description="Compare the results of one task and of several.")
    p.add_argument("what", choices=["pages", "texts", "dedup", "match"])
    p.add_argument("of", nargs="+", help="WARC files or folders of them, or a number")
    p.add_argument("--seed", type=int, default=0, help="of the kills (default: 0)")
    args = p.parse_args()
    same = True
    with tempfile.TemporaryDirectory(dir=ROOT / "out" if (ROOT / "out").exists() else None) as tmp:
        for number, of in enumerate(args.of):
            folder = Path(tmp) / str(number)
            if args.what == "pages":
                found = sorted(Path(of).glob("*.warc.gz")) if Path(of).is_dir() else [Path(of)]
                cut(found, folder / "crawl")
                same &= compare(of, folder / "crawl", folder, args.seed)
            elif args.what == "texts":
                write_texts(folder / "crawl", int(of))
                same &= compare(f"{int(of):,} texts", folder / "crawl", folder, args.seed)
            else:
                folder.mkdir()
                compare_steps = compare_dedup if args.what == "dedup" else compare_match
                same &= compare_steps(int(of), folder)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
