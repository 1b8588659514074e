"""python -m web.dedup: removes near-duplicates from files of documents, in three steps.

    python -m web.dedup sign docs/*.jsonl.gz --work W
        writes each file's band keys, W/NAME.keys.npy, and names, W/NAME.names.tsv
    python -m web.dedup match --work W --index 2024.npy
        writes which documents go, W/NAME.drop.npy; the index is of an earlier crawl
    python -m web.dedup drop docs/*.jsonl.gz --work W --to out
        writes the files without them

data.py takes the same steps within its run; web/matching.py says what they leave in W. A step that
was killed does not begin anew. Several tasks share a step, on one machine or many (run/tasks.py):
`--task 0/2` and `--task 1/2` take every second file each, and of `match` every second band. All
tasks must have ended before the next step begins.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import sys
from pathlib import Path

from model import cores
from run import command, disk, progress, runs, tasks
from web import matching
from web.matching import stem_of

SIGNED = ".names.tsv", ".keys.npy", ".signed.json"     # what sign writes for each file
STEPS = {
    "sign": "write band keys and names of every file",
    "match": "decide which documents go",
    "drop": "write the files without them",
}


def phases_of(step):
    """The phases of a step. `sign` and `drop` have one, in which every file has its own record."""
    if step == "match":
        return {"pairs": tasks.ALL, "clusters": tasks.FIRST}
    return {step: tasks.ALL}


def parse_args(argv=None):
    """The options of a step."""
    parser = argparse.ArgumentParser(
        prog="python -m web.dedup",
        description="Remove near-duplicates from files of documents, in three steps.")
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for step, purpose in STEPS.items():
        p = steps.add_parser(step, help=purpose, description=f"Step of three: {purpose}.")
        if step != "match":
            p.add_argument("files", nargs="+", type=Path, metavar="FILE",
                           help=".jsonl, .jsonl.gz or .parquet; a document has text, date, url, id")
            p.add_argument("--workers", type=int, default=tasks.workers_here(), metavar="N",
                           help="processes, over files (default: one per CPU, here %(default)s)")
        p.add_argument("--work", type=Path, required=True, metavar="DIR",
                       help="folder in which the steps leave their files (required)")
        if step == "match":
            p.add_argument("--index", type=Path, nargs="+", default=(), metavar="FILE",
                           help="band keys of earlier crawls, whose near-duplicates go too "
                                "(default: none)")
            p.add_argument("--save-index", type=Path, metavar="FILE",
                           help="write the band keys of what stays (default: none)")
        if step == "drop":
            p.add_argument("--to", type=Path, required=True, metavar="DIR",
                           help="folder for the files without duplicates (required)")
        tasks.add_options(p, phases_of(step))
    args = parser.parse_args(argv)
    tasks.check_options(steps.choices[args.step], args, phases_of(args.step))
    if args.step != "match":
        if args.workers < 1:
            parser.error(f"--workers {args.workers}: at least 1")
        if len(set(map(stem_of, args.files))) < len(args.files):
            parser.error("two of the files have the same name; rename them, or give each folder a "
                         "--work and a --to of its own")
    return args


def each_file(step, function, files, args):
    """Yields function(path) in the order of the files, and says how many of them are done."""
    n = min(args.workers, len(files))
    alone = contextlib.nullcontext(functools.partial(map, function))
    with cores.processes(n, function) if n > 1 else alone as in_order:
        yield from progress.each(in_order(files), f"{step}: files", len(files))


def remove_leftovers(folder, files, ends):
    """Remove what killed processes of this task left in a folder: no other task writes its files.

    files: the task's. ends: how the files that it writes for one of them end.
    """
    disk.remove_temporaries(folder, {stem_of(path) + end for path in files for end in ends})


def sign_command(args, task):
    """Sign a task's files."""
    remove_leftovers(args.work, task.own(args.files), SIGNED)
    sign = functools.partial(matching.sign, work=args.work)
    n = sum(each_file("sign", sign, task.own(args.files), args))
    print(f"{n:,} documents signed")


def match_command(args, task):
    """Decide which documents go. All tasks look for pairs, and task 0 makes clusters of them."""
    documents = matching.Documents(args.work)
    if args.save_index and not args.save_index.parent.is_dir():
        raise FileNotFoundError(f"{args.save_index.parent}: No such file or directory, for "
                                f"--save-index {args.save_index}")
    signed = {stem: matching.record_without_place(args.work, stem) for stem in documents.stems}
    made_of = {
        "signed": hashlib.sha256(json.dumps(signed).encode()).hexdigest(),
        "index": [[str(path), runs.sha256_of(path)] for path in args.index],
        "save_index": str(args.save_index),
    }
    phases = tasks.Phases(args.work / ".match", task, phases_of("match"), made_of, args.phase)
    phases.run("pairs", lambda: matching.find_pairs(args.work, phases.folder, task, args.index))
    decided = []
    phases.run("clusters", lambda: decided.extend(
        matching.join_pairs(args.work, phases.folder, args.save_index)))
    if decided:
        n, dropped, old = decided
        of_index = f", {old:,} of them of earlier crawls" if args.index else ""
        n_files = len(documents.stems)
        print(f"{n:,} documents of {n_files:,} files, {dropped:,} near-duplicates{of_index}")
    phases.check_products([args.work / "matched.json"])
    if phases.is_complete():
        phases.finish()
    if not decided:
        print(f"task {task}: its part of the match is done")


def drop_command(args, task):
    """Check that everything belongs together, then write a task's files without duplicates."""
    matched = matching.load_match(args.work)
    taken = [args.work, *(path.parent for path in args.files)]
    if os.path.realpath(args.to) in map(os.path.realpath, taken):
        raise ValueError(f"--to {args.to}: the results need a folder of their own, "
                         "not that of the files or of --work")
    files, counts = task.own(args.files), []
    with tasks.locked(args.to, "dedup.py", task):
        remove_leftovers(args.to, files, [".jsonl.gz"])
        matching.claim(args.to, args.work)
        check = functools.partial(matching.check_matched, work=args.work, matched=matched)
        write = functools.partial(matching.drop_lines, work=args.work, to=args.to, matched=matched)
        list(each_file("check", check, files, args))        # all, before the first is written
        counts = list(each_file("drop", write, files, args))
    kept, dropped = sum(n for n, _ in counts), sum(n for _, n in counts)
    print(f"{kept:,} documents kept, {dropped:,} dropped")
    if task.index == 0:
        say_what_is_missing(args, matched)


def say_what_is_missing(args, matched):
    """Name files that were matched and not dropped from, and results of files no longer matched."""
    missing = set(matched["signed"]) - set(map(stem_of, args.files))
    if missing:
        print(f"dedup.py: {len(missing)} files that were matched are not among these, "
              f"such as {min(missing)}", file=sys.stderr)
    left = set(map(stem_of, args.to.glob("*.jsonl.gz"))) - set(matched["signed"])
    if left:
        print(f"dedup.py: {args.to} holds {len(left)} files from before, which are no longer "
              f"matched, such as {min(left)}.jsonl.gz", file=sys.stderr)


def main(argv=None):
    """Run a step. One process at a time does a task's work in a work folder."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if args.slurm:
        words = [sys.executable, "-m", "web.dedup", *tasks.without_slurm(argv)]
        log = args.work / "log"
        print(tasks.slurm_script(words, args.slurm, phases_of(args.step), log), end="")
        return
    step = {"sign": sign_command, "match": match_command, "drop": drop_command}[args.step]
    task = tasks.chosen(args.task)
    with tasks.locked(args.work, "dedup.py", task):
        step(args, task)


if __name__ == "__main__":
    command.run(main)
