"""results.py: runs the experiments of the talk side by side, and keeps what they found.

    RUN/talk/NAME-SEED.json     what an experiment found: numbers by label, and what it printed
    RUN/talk/NAME.svg           the drawing of it

A result has a key: the source of the experiment, the files of the run that it reads, and the seed.
While the key is the same, the experiment is not run again. Each one runs in a process of its own on
one core: most models here are too small for more, and so results do not depend on how many cores
there are. The process writes its result when it is finished, so a kill loses only what was running.
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import importlib
import inspect
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from talk import experiment, plots      # before numpy
import numpy as np

from model import folders
from run import disk, progress

RUN = Path("out/demo")
WORLD = ["tokenizer.json", "tokens/*.bin", "docs/*.jsonl.gz", "chat/*.jsonl", "tasks/*.jsonl",
         "pairs/*.jsonl"]               # what any experiment may read, beside its STAGES
TOOLS = {"experiment", "results", "plots", "__main__"}      # rooms of talk/ that are no experiments


class Job(NamedTuple):
    """One experiment, to be run once."""

    name: str
    run: Path
    seed: int

    @property
    def path(self):
        """The file of its result."""
        return self.run / "talk" / f"{self.name}-{self.seed}.json"


def names():
    """The experiments, in the order of the talk."""
    doc = importlib.import_module("talk").__doc__
    listed = re.findall(r"^    (\w+)  +\S", doc, re.M)
    return [name for name in listed if name not in TOOLS]


def module_of(name):
    """The module of an experiment."""
    return importlib.import_module(f"talk.{name}")


def claim_of(name):
    """The sentence that an experiment puts to the test."""
    first = " ".join(module_of(name).__doc__.partition("\n\n")[0].split())
    return first.partition(": ")[2]


# ------------------------------------------------------------------------------ what a result is of


def sources(module):
    """The sources of an experiment, of experiment.py, and of what it imports of web/ and talk/."""
    found = {experiment, module}
    for value in vars(module).values():
        name = getattr(value, "__module__", None)               # of a function
        if isinstance(value, ModuleType):
            name = value.__name__
        if str(name).startswith(("web.", "talk.")) and name not in ("talk.plots", "talk.results"):
            found.add(sys.modules.get(name, module))
    texts = {each.__name__: inspect.getsource(each) for each in found}
    return [texts[name] for name in sorted(texts)]


def files(module, run):
    """The files of a run that an experiment may read."""
    patterns = [*WORLD, *getattr(module, "READS", [])]
    for stage in module.STAGES:
        patterns += [f"{stage}/config.json", f"{stage}/model.safetensors"]
    found = set()
    for pattern in patterns:
        found |= set(run.glob(pattern))
    return sorted(found)


def key_of(job):
    """What a result depends on, as a short name."""
    module = module_of(job.name)
    digest = hashlib.sha256()
    for source in sources(module):
        digest.update(hashlib.sha256(source.encode()).digest())
    for path in files(module, job.run):
        digest.update(path.relative_to(job.run).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    digest.update(str(job.seed).encode())
    return digest.hexdigest()[:16]


def kept(job):
    """The result of a job that was run before with the same key, or None."""
    try:
        result = disk.read_json(job.path)
    except (FileNotFoundError, ValueError):     # a damaged one is made again
        return None
    return result if result.get("key") == key_of(job) else None


def check_run(run, chosen):
    """FileNotFoundError, with the command that mends it, if a run lacks a model that is needed."""
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such run folder; make it with: make RUN={run}")
    for name in chosen:
        for stage in module_of(name).STAGES:
            if not folders.is_finished(run / stage):
                raise FileNotFoundError(f"{run / stage}: no finished model, and {name} reads it; "
                                        f"make it with: make RUN={run}")


# -------------------------------------------------------------------------------- running


def make(job):
    """Run an experiment in this process, and keep its result. Returns it."""
    started, key = time.process_time(), key_of(job)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        found = module_of(job.name).experiment(job.run, job.seed)
    result = {
        "key": key,
        "name": job.name,
        "seed": job.seed,
        "seconds": round(time.process_time() - started, 1),
        "said": said.getvalue(),
        "found": found,
    }
    job.path.parent.mkdir(exist_ok=True)
    disk.write_text(job.path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return result


def alone(pipe, job):
    """Run an experiment in this process. Sends the result through the pipe, or the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)            # Ctrl-C is for the process that waits
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        try:
            result = make(job)
        except Exception as e:
            result = ValueError(f"{job.name} of {job.run}: {type(e).__name__}: {e}")
    pipe.send(result)


def in_a_process(job):
    """The result of a job, which runs in a process of its own; an error is returned, not raised."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(False)
    process = context.Process(target=alone, args=(there, job), daemon=True)
    try:
        process.start()
        there.close()
        return here.recv()
    except EOFError:
        process.join()
        return ValueError(f"{job.name} of {job.run}: its process ended with {process.exitcode}")
    except OSError as e:
        return ValueError(f"{job.name} of {job.run}: {e}")


def jobs_before(job):
    """The jobs that must end before one begins."""
    return [job._replace(name=name) for name in getattr(module_of(job.name), "AFTER", ())]


def longest_first(jobs):
    """The jobs. What takes longest is first, together with those that come AFTER it."""
    def seconds(job):
        after = [each for each in jobs if job in jobs_before(each)]
        return sum(module_of(each.name).SECONDS for each in [job, *after])

    return sorted(jobs, key=seconds, reverse=True)


def wait_for(job, futures, n_cores):
    """Wait until a job is done. A line tells how many are, and about how long the others take."""
    while not futures[job].done():
        concurrent.futures.wait([futures[job]], timeout=1)
        left = [each for each in futures if not futures[each].done()]
        seconds = sum(module_of(each.name).SECONDS for each in left) / n_cores
        if left:
            progress.show(f"experiments: {len(futures) - len(left)} of {len(futures)}, about "
                          f"{progress.duration(seconds)} left")
    progress.end()


def spread(jobs):
    """Yields the result of each job, in their order; an error in the place of one that failed.

    One job runs on each core. A core that has finished one takes the longest that may begin.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else [None]
    futures = {job: concurrent.futures.Future() for job in longest_first(jobs)}
    waiting, changed = list(futures), threading.Condition()

    def may_begin(job):
        return all(futures[each].done() for each in jobs_before(job) if each in futures)

    def take():
        """The next job; None if all have begun."""
        with changed:
            changed.wait_for(lambda: not waiting or any(map(may_begin, waiting)))
            job = next(filter(may_begin, waiting), None)
            if job:
                waiting.remove(job)
            return job

    def work(core):
        if core is not None:
            os.sched_setaffinity(0, {core})                 # what a thread starts inherits its core
        while job := take():
            futures[job].set_result(in_a_process(job))
            with changed:
                changed.notify_all()

    for core in reversed(cores):
        threading.Thread(target=work, args=(core,), daemon=True).start()
    try:
        for job in jobs:
            wait_for(job, futures, len(cores))
            yield futures[job].result()
    finally:
        with changed:
            waiting.clear()
            changed.notify_all()
        for process in multiprocessing.active_children():
            process.terminate()


# ------------------------------------------------------------------------------ what is shown


def show(name, results, runs):
    """Print what an experiment said in all its runs, and draw what it found."""
    for result in results:
        print(result["said"], end="")
    print(f"   {sum(result['seconds'] for result in results):.0f} s on one core")
    path = plots.save(module_of(name), [result["found"] for result in results], runs)
    if path:
        print(f"   drawn in {path}")
    print(end="", flush=True)


def summary(found):
    """The lines of a table of all numbers, with mean and spread. found: {name: [numbers]}."""
    lines = []
    for name, of_name in found.items():
        lines += ["", name]
        for label, first in of_name[0].items():
            if isinstance(first, list):         # a curve: its drawing shows it
                continue
            values = [numbers[label] for numbers in of_name]
            apart = f" +- {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            lines.append(f"   {np.mean(values):9.3f}{apart}  {label}")
    return lines


def jobs_of(chosen, runs, seeds):
    """The jobs of some experiments. Each run has seeds of its own: two runs have 0 2 and 1 3."""
    found = []
    for name in chosen:
        for i, run in enumerate(runs):
            for seed in range(i, seeds * len(runs), len(runs)):
                found.append(Job(name, run, seed))
    return found


def list_all(chosen, runs, seeds):
    """Print a line for each experiment: what it claims, its seconds, and whether results are kept.

    The seconds are those of one run with one seed on one core.
    """
    print(f"{'experiment':22} {'seconds':>7}  {'kept':>5}")
    for name in chosen:
        jobs = jobs_of([name], runs, seeds)
        n_kept = sum(kept(job) is not None for job in jobs)
        print(f"{name:22} {module_of(name).SECONDS:7}  {n_kept:2}/{len(jobs):<2}  "
              f"{textwrap.shorten(claim_of(name), 200)}")


def run_all(chosen, runs, seeds):
    """Run experiments where no result is kept, and print what they found.

    ValueError at the end if one of them failed.
    """
    for run in runs:
        check_run(run, chosen)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # so that the processes end as well
    jobs = jobs_of(chosen, runs, seeds)
    results = {job: kept(job) for job in jobs}
    missing = [job for job in jobs if results[job] is None]
    found, failed = {}, []
    with contextlib.closing(spread(missing)) as made:
        for name in chosen:
            print(f"\n{textwrap.fill(f'{name}: {claim_of(name)}', 80)}\n", flush=True)
            of_name = []
            for job in jobs:
                if job.name == name:
                    of_name.append(results[job] or next(made))
            try:
                show(name, checked_results(of_name), runs)
                found[name] = [result["found"] for result in of_name]
            except Exception as e:              # also one of its plot()
                print(textwrap.fill(f"failed: {e}", 77, initial_indent="   "), flush=True)
                failed.append(name)
    if len(jobs) > 1:
        print("\n".join(summary(found)))
    if not plots.matplotlib_here():
        print(f"\nnothing is drawn without matplotlib; install it with: {plots.INSTALL}")
    if failed:
        raise ValueError(f"failed: {', '.join(failed)}; the results of the others are kept")


def checked_results(results):
    """The results of an experiment; raises the error of one that failed."""
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def add_options(parser):
    """--run and --seeds."""
    parser.add_argument("--run", type=Path, nargs="+", default=[RUN], metavar="DIR",
                        help=f"finished run folders (default: {RUN})")
    parser.add_argument("--seeds", type=int, default=1, metavar="N",
                        help="repetitions, each with another seed (default: %(default)s)")


def checked(args):
    """The args; ValueError if a number is out of range."""
    if args.seeds < 1:
        raise ValueError(f"--seeds {args.seeds}: expected at least one")
    return args


def main(argv=None):
    """Run the experiment whose file Python was started with."""
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(prog=f"python -m talk.{name}", description=claim_of(name))
    add_options(parser)
    args = checked(parser.parse_args(argv))
    run_all([name], args.run, args.seeds)
