"""planted.py: do the tests find what they are there to find? The code with faults planted in it, each of which a test must catch.

A fault is a plausible mistake in one place: the first rows in place of one's own, a statistic of the block before, a factor
that is missing. For each one the tree is copied to a temporary folder, the fault is written into the copy, and the one
test named beside it runs there. It must fail, and by a check of its own: a test that dies of a NameError, or cannot be
collected, has checked nothing. On the copy without a fault the same test must pass. The checkout itself is only read.

    python tests/planted.py                         all of them, two at a time: a table; exit code 1 if one is not found
    python tests/planted.py --only NAME [NAME ...]  some of them
    python tests/planted.py --jobs 4                so many at a time

tests/cuda and tests/test_cuda_cpu.py do the same for the kernels.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "out", "__pycache__", ".pytest_cache", "*.tmp")
LIMIT_S = 300                   # for one test; the slowest takes 10 s


class Fault(NamedTuple):
    name: str
    file: str
    old: str                    # occurs exactly once in the file
    new: str
    test: str                   # what pytest is to run: a node id, or a file and -k EXPRESSION


FAULTS = [
    # ---------------------------------------------------------------------------------------- blocks of rows
    Fault("layernorm-backward-first-block-of-dw", "gpt.py",
          "        dw += ones @ t  ",
          "        if r.start == 0: dw += ones @ t  ",
          "tests/test_gpt.py::test_layernorm_grad"),
    Fault("layernorm-backward-first-rstd", "gpt.py",
          "        d *= rstd[r]\n",
          "        d *= rstd[:len(d)]\n",
          "tests/test_gpt.py::test_layernorm_grad"),
    Fault("layernorm-forward-plus-in-first-block", "gpt.py",
          "        if plus is not None:\n            x[r]",
          "        if plus is not None and r.start == 0:\n            x[r]",
          "tests/test_gpt.py::test_what_plus_and_add_add"),
    Fault("layernorm-forward-rstd-to-first-rows", "gpt.py",
          "        rstd[r] = 1.0 / np.sqrt(yr @ mean_of + eps)     # variance of the whole row, no Bessel correction\n"
          "        nr *= rstd[r]\n",
          "        rstd[:len(nr)] = 1.0 / np.sqrt(yr @ mean_of + eps)\n"
          "        nr *= rstd[:len(nr)]\n",
          "tests/test_gpt.py::test_layernorm_grad"),
    Fault("attention-forward-o-to-first-sequences", "gpt.py",
          "        o_heads = o[b].reshape(",
          "        o_heads = o[:len(q)].reshape(",
          "tests/test_gpt.py::test_attention_grad"),
    Fault("attention-forward-lse-to-first-sequences", "gpt.py",
          "out=lse[b, :, t0:t1])\n",
          "out=lse[:len(s), :, t0:t1])\n",
          "tests/test_gpt.py::test_attention_grad"),
    Fault("attention-backward-D-of-first-sequences", "gpt.py",
          'do_heads, o[b].reshape(',
          'do_heads, o[:len(q)].reshape(',
          "tests/test_gpt.py::test_attention_grad"),
    Fault("cross-entropy-forward-total-to-first-rows", "gpt.py",
          '        total[r] = np.einsum("nv->n", e)',
          '        total[:len(e)] = np.einsum("nv->n", e)',
          "tests/test_gpt.py::test_cross_entropy_grad"),
    Fault("cross-entropy-backward-scale-of-first-rows", "gpt.py",
          "        d *= scale[r]\n",
          "        d *= scale[:len(d)]\n",
          "tests/test_gpt.py::test_cross_entropy_grad"),
    Fault("head-weight-backward-adds-one-block", "gpt.py",
          "        for r in _row_blocks(dw):  ",
          "        for r in _row_blocks(dw)[:1]:  ",
          "tests/test_gpt.py::test_logits_in_blocks_and_sums_over_batches"),
    Fault("decode-row-parts-all-begin-at-row-0", "gpt.py",
          "cache.rows(part(B)), n_new",
          "cache.rows(slice(0, part(B).stop - part(B).start)), n_new",
          "tests/test_gpt.py::test_cached_decoding_equals_the_full_forward"),
    Fault("decode-head-second-block-of-columns", "gpt.py",
          "out=logits[:, i:j])",
          "out=logits[:, v.start:v.start + j - i])",
          "tests/test_gpt.py::test_cached_decoding_equals_the_full_forward"),
]


class Outcome(NamedTuple):
    verdict: str                # passed, failed (by a check), or what else became of the test
    seconds: float


# What pytest says of a test that failed by a check of its own, and not of an error on its way there.
CHECKED = re.compile(r"^FAILED \S.*? - (assert|AssertionError|Failed: )", re.M)


def copy_tree(to, tree=ROOT):
    shutil.copytree(tree, to, ignore=LEFT_OUT)


def run_test(folder, test):
    """Run a test in a copy of the tree. -> Outcome"""
    begun = time.monotonic()
    # COLUMNS: the summary is cut to the terminal's width. The data that some tests ask for lie beside the checkout.
    env = {**os.environ, "COLUMNS": "1000", "LONGHAND_DATA": os.environ.get("LONGHAND_DATA", str(ROOT.parent / "shared" / "data"))}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rf", "--tb=short", "-p", "no:cacheprovider", *shlex.split(test)]
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return Outcome(f"not done after {LIMIT_S} s", time.monotonic() - begun)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:] or "no output"]
    if done.returncode == 0 and re.search(r"\b[1-9]\d* passed", lines[-1]):
        verdict = "passed"
    elif done.returncode == 1 and CHECKED.search(done.stdout):
        verdict = "failed"
    else:                                               # an error before a check, nothing collected, all skipped
        said = [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))]
        verdict = f"exit code {done.returncode}: {(said or lines)[-1]}"
    return Outcome(verdict, time.monotonic() - begun)


def broken_text(folder, fault):
    """The text of the fault's file with the fault in it. ValueError when the place is not there exactly once."""
    text = (folder / fault.file).read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.name}: its place occurs {text.count(fault.old)} times in {fault.file}, expected once: {fault.old!r}")
    return text.replace(fault.old, fault.new)


def try_fault(whole, fault):
    """Plant a fault in a copy of a tree and run its test there. -> Outcome"""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        broken = Path(folder) / "tree"
        shutil.copytree(whole, broken)
        path = broken / fault.file
        path.write_text(broken_text(broken, fault), encoding="utf-8")
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):     # Python knows it by the second and size of its source
            compiled.unlink()
        return run_test(broken, fault.test)


def run(faults, jobs=2, say=print, tree=ROOT):
    """Plant each fault and print a line for it. Returns the names of those that no test found, or whose test fails anyway."""
    missed = []
    tests = list(dict.fromkeys(fault.test for fault in faults))
    with tempfile.TemporaryDirectory(prefix="planted-") as folder, ThreadPoolExecutor(jobs) as pool:
        whole = Path(folder) / "tree"
        copy_tree(whole, tree)
        for fault in faults:                            # a place that is not there is said at once
            broken_text(whole, fault)
        without = dict(zip(tests, pool.map(lambda test: run_test(whole, test), tests)))
        width = max(len(fault.name) for fault in faults)
        for fault, outcome in zip(faults, pool.map(lambda fault: try_fault(whole, fault), faults)):
            verdict = "found" if outcome.verdict == "failed" else f"NOT FOUND: {outcome.verdict}"
            if without[fault.test].verdict != "passed":
                verdict = f"NOT FOUND: without the fault too, {without[fault.test].verdict}"
            if verdict != "found":
                missed.append(fault.name)
            say(f"{fault.name:{width}}  {fault.file:13} {outcome.seconds:5.1f} s  {verdict}  {fault.test.removeprefix('tests/')}")
    return missed


def parse_args(argv=None):
    p = argparse.ArgumentParser(description="Plant faults in a copy of the code; a test must find each.")
    p.add_argument("--only", nargs="+", metavar="NAME", help="faults to plant (default: all)")
    p.add_argument("--jobs", type=int, default=2, help="tests at a time (default: 2)")
    return p.parse_args(argv)


def main(argv=None):
    args, begun = parse_args(argv), time.monotonic()
    unknown = set(args.only or ()) - {fault.name for fault in FAULTS}
    if unknown:
        raise ValueError(f"no fault is called {', '.join(sorted(unknown))}; expected some of {', '.join(fault.name for fault in FAULTS)}")
    if args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: must be at least 1")
    faults = [fault for fault in FAULTS if not args.only or fault.name in args.only]
    missed = run(faults, args.jobs, lambda line: print(line, flush=True))
    print(f"{len(faults) - len(missed)} of {len(faults)} faults found in {time.monotonic() - begun:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    import command

    command.run(main, error_status=2)
