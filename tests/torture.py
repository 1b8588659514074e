"""torture.py: kills, full disks, two processes at once, odd surroundings, hostile files, clients.

Each section tries what should not happen to a program, again and again with other random numbers,
and looks whether what must hold still holds. Everything is real: the scripts run as processes of
their own, on a small run that is made for it.

    kills     each stage, killed at any moment and run again: the undisturbed bytes, nothing else
    disks     each stage on a disk that is full at some moment: one clear line, nothing lost,
              and with more room the same bytes
    two       two processes of a stage on one run: one works, the other is told so
    odd       read-only folders, strange names and encodings, closed streams, no HOME, one core ...
    files     damaged and crafted WARCs, pages, models and tokenizers: read or refused, in bounded
              time and memory
    texts     expressions for the calculator, conversations that name control tokens
    server    malformed and ordinary requests, clients that leave or do nothing

    python tests/torture.py                           all, in ten minutes; exit code 1 if it broke
    python tests/torture.py --only kills disks        some sections
    python tests/torture.py --seconds 3600 --seed 7   longer, with other random numbers
    python tests/torture.py --only kills --number 12  one trial again; a break says how

A trial's random numbers depend on seed, section and number only. A kill by the clock cannot be
repeated exactly; one at a file operation can. A section ends when its share of the time is over,
but not before it has done its minimum.
"""

import argparse
import contextlib
import hashlib
import http.server
import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from model import checkpoint, fast  # noqa: E402  before numpy
import bpe  # noqa: E402
from chat import chats, tools  # noqa: E402
import data as rules  # noqa: E402
import gpt  # noqa: E402
import malformed  # noqa: E402
import numpy as np  # noqa: E402
import sample  # noqa: E402
import test_chats  # noqa: E402
from tokens.shards import check_ids, open_shard  # noqa: E402
from web import dedup, extract, language, pii, quality, rights, warc  # noqa: E402

RUN = "$RUN"                    # stands for the run folder in a command
WAIT_S = 120                    # for one process; the slowest takes some seconds of CPU
PAGES = 100
MAY_MOUNT = True                # False: limit the size of files instead of mounting a small disk

# ------------------------------------------------------------------------------------------ results


class Outcome(NamedTuple):
    """What a trial found.

    faults: sentences, which begin with `where`. counts: added up over all trials. worst: of these
    the largest is kept.
    """

    faults: list
    counts: dict = {}
    worst: dict = {}
    where: str = ""


class Result:
    """A section's trials together."""

    def __init__(self, name):
        self.name, self.tried, self.breaks, self.notes = name, 0, [], []
        self.counts, self.worst, self.seconds = Counter(), {}, 0.0

    def add(self, outcome, repeat):
        self.tried += 1
        self.counts.update(outcome.counts)
        for key, value in outcome.worst.items():
            self.worst[key] = max(value, self.worst.get(key, value))
        for fault in outcome.faults:
            self.breaks.append(f"{outcome.where}{fault}\n    again with: {repeat}")

    def figures(self):
        counted = [f"{n:,} {what}" for what, n in self.counts.items()]
        return ", ".join(counted + [f"{what} {value:.3g}" for what, value in self.worst.items()])


def repeated(name, trial, minimum, seconds, seed=0, number=None, stop_at=20):
    """Run trial(rng, number) for 0, 1, ... until the time is over, or only `number`; -> Result

    minimum: so many trials at least.
    """
    result, started, at = Result(name), time.monotonic(), number or 0
    while True:
        repeat = f"python tests/torture.py --only {name} --seed {seed} --number {at}"
        try:
            outcome = trial(random.Random(f"{seed} {name} {at}"), at)
        except Exception as error:                      # the trial itself is at fault
            outcome = Outcome([f"the trial failed: {type(error).__name__}: {error}"])
        result.add(outcome, repeat)
        at += 1
        result.seconds = time.monotonic() - started
        if number is not None or len(result.breaks) >= stop_at:
            return result
        if result.tried >= minimum and result.seconds > seconds:
            return result


# --------------------------------------------------------------------------------- what a run holds

TIMES = ("dt_s", "tokens_per_s", "mfu", "spent_s", "mtime_ns", "seconds")


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    if isinstance(value, list):
        return [without_times(v) for v in value]
    return value


def normal(name, data):
    """A file's bytes without what differs between runs: times, a crawl's dates and record ids."""
    if name.endswith("log.jsonl"):
        return json.dumps([without_times(json.loads(line)) for line in data.splitlines()]).encode()
    if name.endswith("docs/report.json"):
        return json.dumps(without_times(json.loads(data))).encode()
    if "log/" in name and name.endswith(".json"):
        sign = without_times(json.loads(data))
        for files in (sign["made_of"], sign["makes"]):
            files.pop("docs/report.json", None)         # it holds times, so its digest differs
        return json.dumps(sign).encode()
    if "log/" in name and name.endswith(".txt"):
        return re.sub(rb" +[0-9]+\.[0-9]+\b| +[0-9]+ s\b", b" ?", data)    # 0.25 may be seconds
    if re.search(r"127\.0\.0\.1_\d+\.warc\.gz$", name):
        pages = []
        for record in warc.read_warc(io.BytesIO(data)):
            if not record.url.endswith("/robots.txt"):          # every process asks for it anew
                body = re.sub(rb"fetchTimeMs: \d+", b"", record.body)
                pages.append((record.type, record.url, body))
        return repr(pages).encode()
    return data


def digest(name, data):
    """The digest of a file's normal form; "damaged" if it has none."""
    try:
        return hashlib.sha256(normal(name, data)).hexdigest()
    except (ValueError, KeyError, EOFError, zlib.error):
        return "damaged"


def snapshot(run):
    """{name: digest} of every file in a folder, hidden ones too."""
    found = {}
    for path in sorted(Path(run).rglob("*")):
        if path.is_file():
            name = path.relative_to(run).as_posix()
            found[name] = digest(name, path.read_bytes())
    return found


def difference(found, want):
    """The first differences of two snapshots in words; empty if there are none."""
    said = [f"{name}: missing" for name in want if name not in found]
    said += [f"{name}: left over" for name in found if name not in want]
    said += [f"{name}: other bytes" for name in want if name in found and found[name] != want[name]]
    return ", ".join(said[:4])


def copy_files(source, target, patterns):
    for pattern in patterns:
        for path in source.glob(pattern):
            if path.is_file():
                to = target / path.relative_to(source)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, to)


# ------------------------------------------------------------------------------------------- stages


class Stage(NamedTuple):
    """A command of the project on a run.

    words: the script and its arguments. other: the same with other settings, to make the older
    products that the stage replaces; empty if it replaces none. reads: glob patterns of its inputs.
    """

    name: str
    words: list
    other: list
    reads: list


def stages_of(address, tiny):
    """Every stage, with settings that take seconds.

    address: of a web server. tiny: the folder of a model to begin with.
    """
    run = f"--run {RUN}"
    again = f"{run} --on-mismatch restart"
    toyweb = f"web/toyweb.py {run}"
    train = f"train.py {again} --init {tiny} --steps 12 --save-every 3 --eval-every 6 --batch 4"
    sft = f"align.py sft {again} --steps 8 --batch 2 --replay 1"
    rl = f"align.py rl {again} --steps 5 --prompts 2 --group 2 --max-tokens 6"
    export = f"sample.py export --model {RUN}/base --gguf {RUN}/model.gguf"
    made = (f"run/runs.py {run} --name 3-bpe --made-of docs/*.jsonl.gz "
            "--makes tokenizer.json tokenizer.tiktoken -- bpe.py train --run {run}")
    make = f"make -o .venv/ready PY={sys.executable} RUN={RUN} shards"

    docs, tokens = "docs/*.jsonl.gz", "tokenizer.json tokens/*.bin"
    of_sft = f"base/* chat/*.jsonl {tokens}"
    of_rl = f"sft/* chat/*.jsonl tasks/wheel_*.jsonl {tokens}"
    table = [                   # name, command, with other settings, inputs
        ("toyweb", f"{toyweb} --pages {PAGES}", f"{toyweb} --pages 130 --seed 1", ""),
        ("data", f"data.py {run}", f"data.py {run} --dump OTHER", "crawl/* blocklist/*/*"),
        ("bpe-train", f"bpe.py train {run}", f"bpe.py train {run} --vocab-size 400", docs),
        ("bpe-encode", f"bpe.py encode {run} --shard-tokens 20000", f"bpe.py encode {run}",
         f"{docs} tokenizer.*"),
        ("train", train, f"{train} --seed 5", tokens),
        ("sft", sft, f"{sft} --seed 5", of_sft),
        ("rl", rl, f"{rl} --seed 5", of_rl),
        ("export", export, f"{export} --type q8_0", "base/*"),
        ("crawl", f"web/crawl.py {address} {run} --delay 0 --pages 30", "", ""),
        ("runs", made, f"{made} --vocab-size 400", docs),
        ("make", f"{make} PAGES={PAGES}", f"{make} PAGES=130", ""),
    ]
    return [Stage(name, words.split(), other.split(), reads.split())
            for name, words, other, reads in table]


class Web(http.server.BaseHTTPRequestHandler):
    """A small site that answers the same each time: a crawl of it has one right result."""

    def do_GET(self):
        here = int(self.path[1:]) if self.path[1:].isdigit() else 0
        links = "".join(f"<a href=/{2 * here + i}>a</a>" for i in (1, 2))
        body = f"<p>Page {here}.</p>{links}".encode()
        time.sleep(0.003)
        self.send_response(404 if self.path == "/robots.txt" else 200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        with contextlib.suppress(ConnectionError):      # the crawler has been killed
            self.end_headers()
            self.wfile.write(body)

    def date_time_string(self, timestamp=None):
        return "Thu, 01 Jan 2026 00:00:00 GMT"

    def log_message(self, *args):
        pass


# Runs a script as `python SCRIPT ARGUMENTS` does, and counts what it does to files of the run.
# Before operation NUMBER it sends itself the signal WHICH; with a delay it goes on for so many
# seconds, and then dies without a chance to clean up, as by SIGKILL.
BOOT = r"""
import atexit, os, runpy, signal, sys
number, which, delay = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
count, run = sys.argv[4:6]
sys.argv = sys.argv[6:]
sys.path[0] = os.path.dirname(sys.argv[0])
me, seen = os.getpid(), 0
changes = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}

def changes_a_file(event, args):
    if event == "open":
        if isinstance(args[0], int) or not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return False
    elif event not in changes:
        return False
    by_folder = event in ("os.remove", "os.rmdir")      # of rmtree: relative to an open folder
    return by_folder or os.path.abspath(os.fsdecode(args[0])).startswith(run)

def hook(event, args):
    global seen
    if os.getpid() != me or not changes_a_file(event, args):
        return
    seen += 1
    if seen == number and delay:
        signal.setitimer(signal.ITIMER_REAL, delay)
    elif seen == number:
        os.kill(me, which)

sys.addaudithook(hook)
@atexit.register
def write():
    with open(count, "w") as f:
        f.write(str(seen))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Process:
    """A command that runs in a process group of its own, with what it prints kept in files."""

    def __init__(self, words, folder, shell="", env=None, **kwargs):
        """shell: sh commands that prepare its surroundings, such as "ulimit -n 9; "."""
        self.out, self.err = (tempfile.TemporaryFile(dir=folder) for _ in range(2))
        if shell:
            words = ["sh", "-c", shell + ' exec "$@"', "sh", *words]
        kwargs = {"stdin": subprocess.DEVNULL, "stdout": self.out, **kwargs}
        self.started = time.monotonic()
        kwargs["env"] = {**os.environ, **(env or {})}
        self.child = subprocess.Popen(words, stderr=self.err, start_new_session=True, **kwargs)
        self.group = self.child.pid

    def wait(self, limit_s=WAIT_S):
        """(exit status, what it said on standard error); "hangs" for one killed after limit_s."""
        try:
            status = self.child.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL, True)
            self.child.wait()
            status = "hangs"
        self.seconds = time.monotonic() - self.started
        self.err.seek(0)
        return status, self.err.read().decode("utf-8", "replace")

    def signal(self, number, group):
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.group, number)

    def relatives(self):
        """Processes of the group that still run."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[2]) == self.group and fields[0] not in "ZX":
                found.append(int(path.parent.name))
        return found

    def relatives_end(self, limit_s):
        deadline = time.monotonic() + limit_s
        while self.relatives():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


class World:
    """A folder with what the trials need: inputs and undisturbed products of each stage.

    code: the folder of the scripts. names: only these stages are tried; what they need is made.
    stages: others than the project's.
    """

    def __init__(self, code=ROOT, names=None, stages=None):
        self.folder = Path(tempfile.mkdtemp(prefix="torture-")).resolve()
        self.finished = self.folder / "main"            # the run that the server gets
        self.code = Path(code).resolve()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.interrupts = signal.getsignal(signal.SIGINT)
        if self.interrupts is signal.SIG_IGN:           # under nohup; children would inherit it
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.stages, self.inputs, self.new, self.old = [], {}, {}, {}
        self.operations, self.seconds, self.n_trials = {}, {}, 0
        try:
            self.make(names, stages)
        except BaseException:
            self.close()
            raise

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        if self.interrupts is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def make(self, names, stages):
        """Each stage once undisturbed, and once with its other settings."""
        main, tiny, self.here = self.folder / "main", self.folder / "tiny", self.folder / "here"
        main.mkdir()
        self.here.mkdir()
        stages = stages or stages_of(f"http://127.0.0.1:{self.server.server_port}/", str(tiny))
        chain = [s.name for s in stages if s.name not in ("crawl", "make")]
        last = max([chain.index(n) for n in names or chain if n in chain], default=0)
        for stage in stages:
            wanted = not names or stage.name in names
            if not wanted and (stage.name not in chain[:last] or stage.name in ("export", "runs")):
                continue
            if stage.name == "make" and not shutil.which("make"):
                continue
            if stage.name == "train":
                cfg = gpt.Config(bpe.Tokenizer.load(main / "tokenizer.json").n_vocab, 256, 16, 2, 2)
                gpt.save(tiny, gpt.init(cfg, 0), cfg)
            fresh, done = self.folder / "fresh" / stage.name, self.folder / "done" / stage.name
            fresh.mkdir(parents=True)
            copy_files(main, fresh, stage.reads)
            shutil.copytree(fresh, done)
            self.seconds[stage.name] = self.must(stage, done, count=True)
            copy_files(done, main, ["**/*"])
            if stage.name == "toyweb":                  # a few of its conversations are enough
                chats = (main / "chat/train.jsonl").read_bytes().splitlines(keepends=True)
                (main / "chat/train.jsonl").write_bytes(b"".join(chats[:60]))
            if not wanted:
                continue
            self.stages.append(stage)
            self.inputs[stage.name], self.new[stage.name] = snapshot(fresh), snapshot(done)
            if stage.other:
                before = self.folder / "before" / stage.name
                shutil.copytree(fresh, before)
                self.must(stage, before, other=True)
                self.old[stage.name] = snapshot(before)

    def must(self, stage, run, **kwargs):
        process = self.start(stage, run, **kwargs)
        status, said = process.wait()
        if status:
            raise ValueError(f"{stage.name} fails undisturbed, with {status}: {said[-500:]}")
        if kwargs.get("count") and stage.words[0] != "make":
            self.operations[stage.name] = int((self.folder / "count").read_text())
        return process.seconds

    def start(self, stage, run, other=False, kill=None, count=False, **kwargs):
        """Start a stage on a run. kill: (number of a file operation, signal, delay), see BOOT."""
        words = stage.other if other else stage.words
        words = [word.replace(RUN, os.fsdecode(run)) for word in words]
        kwargs = {"cwd": self.code if words[0] in ("make", "run/runs.py") else self.here, **kwargs}
        # Rooms are found from other folders too.
        kwargs["env"] = {"PYTHONPATH": str(self.code), **(kwargs.get("env") or {})}
        if words[0] == "make":
            return Process(words, self.folder, **kwargs)
        words[0] = str(self.code / words[0])
        if kill or count:
            number, which, delay = kill or (0, 0, 0)
            settings = number, int(which), delay, self.folder / "count", os.fsdecode(run)
            boot = [sys.executable, "-c", BOOT, *map(str, settings)]
            return Process(boot + words, self.folder, **kwargs)
        return Process([sys.executable, *words], self.folder, **kwargs)

    def place(self, stage, again=False, parent=None, name="run"):
        """A new run folder for a trial, with the stage's inputs; again: and with older products."""
        self.n_trials += 1
        run = (parent or self.folder / f"trial{self.n_trials}") / name
        shutil.copytree(self.folder / ("before" if again else "fresh") / stage.name, run)
        return run

    def finish(self, stage, run):
        """Run a stage to its end, once no earlier process works on the run. -> (status, said)"""
        deadline = time.monotonic() + WAIT_S
        while True:
            status, said = self.start(stage, run).wait()
            if stage.name == "crawl" and "is there already" in said:    # killed after its work
                return 0, said
            if not status or not refused(said) or time.monotonic() > deadline:
                return status, said
            time.sleep(0.2)

    def products(self, stage):
        """The names of a stage's products, the older ones included."""
        names = {*self.new[stage.name], *self.old.get(stage.name, {})}
        return sorted(name for name in names if name not in self.inputs[stage.name])

    def torn(self, stage, name, data, again):
        """Whether these are bytes that may never stand under a product's final name."""
        if not again and name.endswith("log.jsonl"):    # it grows line by line
            return False
        if not again and name.endswith("trainer.safetensors"):
            return not whole_safetensors(data)          # it may be of any step
        if not again and stage.name == "make" and "log/" in name:
            return False
        allowed = [self.new[stage.name].get(name)]
        if again:
            allowed.append(self.old[stage.name].get(name))
        return digest(name, data) not in allowed

    def damage(self, stage, run, again):
        """What is wrong with a run between two processes, as a list of sentences.

        Under a final name stands the older product or the new one. An older product may be missing
        only when all new ones are there whole, under their own names or on their way.
        """
        said, missing = [], []
        for name in self.products(stage):
            try:
                data = (run / name).read_bytes()
            except OSError:
                missing.append(name)
                continue
            if self.torn(stage, name, data, again):
                size = f"{len(data):,} bytes"
                said.append(f"{name}, {size}, is neither the older product nor the new one")
        found = snapshot(run)
        for name, before in self.inputs[stage.name].items():
            if found.get(name) != before:
                said.append(f"{name}, an input, has changed")
        old, new = self.old[stage.name] if again else {}, self.new[stage.name]
        several = stage.name in ("make", "runs")        # each of their steps first removes its sign
        for name in missing:
            needed = {new[name]} if several and name in new else {*new.values()}
            if name in old and not needed <= {*found.values()} and not (several and "log/" in name):
                said.append(f"{name} is gone before the new products are whole")
        return said


def whole_safetensors(data):
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        try:
            checkpoint.load_safetensors(file.name)
        except ValueError:
            return False
    return True


def refused(said):
    """Whether a process said that another one works on its run."""
    return bool(re.search(r"error: .*another [^\n]* (is writing there|writes it)", said))


def tracebacks(said):
    """How many tracebacks a process printed, without one from an interrupt during imports."""
    found = said.count("Traceback (most recent call last)")
    imports = "KeyboardInterrupt" in said and not re.search(r"command\.run\(|main\(", said)
    return 0 if imports else found


class Watch:
    """A thread that reads the products of a run whenever they change.

    faults: products that were torn. looks: how often it read one.
    """

    def __init__(self, world, stage, run, again):
        self.world, self.stage, self.run, self.again = world, stage, run, again
        self.faults, self.looks, self.seen, self.over = [], 0, {}, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self):
        names = self.world.products(self.stage)
        while not self.over.is_set() and len(self.faults) < 3:
            for name in names:
                self.look(name)
            time.sleep(0.002)

    def look(self, name):
        try:
            with open(self.run / name, "rb") as file:
                status = os.fstat(file.fileno())
                seen = status.st_ino, status.st_size, status.st_mtime_ns
                if self.seen.get(name) == seen:
                    return
                data = file.read()
        except OSError:
            return
        self.looks += 1
        self.seen[name] = seen
        if self.world.torn(self.stage, name, data, self.again):
            self.faults.append(f"a reader found {name} torn ({len(data):,} bytes)")

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


# -------------------------------------------------------------------------------------------- kills


def kill_once(world, stage, run, rng, faults):
    """Start a stage and kill it; returns the signal's name, or None if it had ended before."""
    alone = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    number, group = rng.choice(alone), rng.random() < 0.5
    n = world.operations.get(stage.name)
    if n and rng.random() < 0.7:                        # at a file operation, or a little later
        delay = rng.choice([0, rng.uniform(0.0001, 0.02)])
        if number != signal.SIGKILL:
            delay = 0
        process = world.start(stage, run, kill=(rng.randint(1, n), number, delay))
        status, said = process.wait()
        group = False
    else:                                               # at any time
        process = world.start(stage, run)
        deadline = time.monotonic() + rng.uniform(0.05, 1.1) * world.seconds[stage.name]
        while process.child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.signal(number, group)
        status, said = process.wait()
    what = f"{stage.name} {'and its group ' * group}killed by {number.name}"
    if status == "hangs":
        faults.append(f"{what}: it does not end")
    if tracebacks(said):
        faults.append(f"{what}: traceback: {said[-300:]!r}")
    passes_on = stage.name in ("make", "runs") and not group    # its stage goes on to the end
    if not process.relatives_end(WAIT_S if passes_on else 20):
        faults.append(f"{what}: processes {process.relatives()} live on")
        process.signal(signal.SIGKILL, True)
    return number.name if status not in (0, "hangs") else None


def wrong_end(world, stage, run, status, said, when):
    """What is wrong with a run whose stage has come to its end, as a list of sentences."""
    if status:
        return [f"{when} it ends with {status}: {said[-300:]!r}"]
    differs = difference(snapshot(run), world.new[stage.name])
    return [f"{when} it made something else: {differs}"] if differs else []


def kill_trial(world, rng, number):
    stage = world.stages[number % len(world.stages)]
    again = bool(stage.other) and rng.random() < 0.5
    run, faults, counts = world.place(stage, again), [], Counter()
    with Watch(world, stage, run, again) as watch:
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            name = kill_once(world, stage, run, rng, faults)
            counts[name or "ended before"] += 1
            faults += world.damage(stage, run, again)
        status, said = world.finish(stage, run)
    faults += watch.faults
    faults += wrong_end(world, stage, run, status, said, "run again")
    shutil.rmtree(run.parent, ignore_errors=True)
    where = f"{stage.name}{', over older products' * again}: "
    return Outcome(faults, counts, where=where)


# -------------------------------------------------------------------------------------------- disks


class Disk:
    """A file system of its own in memory, if we may mount one; else a limit to the size of a file.

    how: "tmpfs" or "RLIMIT_FSIZE".
    """

    def __init__(self, folder, bytes_=64 << 20):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.how = "RLIMIT_FSIZE"
        if os.geteuid() == 0 and MAY_MOUNT and shutil.which("mount"):
            words = ["mount", "-t", "tmpfs", "-o", f"size={bytes_}", "tmpfs", str(folder)]
            if not subprocess.run(words, capture_output=True).returncode:
                self.how = "tmpfs"

    def used(self):
        status = os.statvfs(self.folder)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    def remount(self, options):
        words = ["mount", "-o", f"remount,{options}", str(self.folder)]
        subprocess.run(words, check=True, capture_output=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.how == "tmpfs":
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True)


def clear_error(said, names):
    """Whether a process said what went wrong in one line, which names a file or folder."""
    lines = [line for line in re.split("[\r\n]", said) if re.search(r"\w\.py: error: ", line)]
    return len(lines) == 1 and not tracebacks(said) and any(name in lines[0] for name in names)


def disk_trial(world, rng, number):
    stage = world.stages[number % len(world.stages)]
    again, faults, counts = bool(stage.other) and rng.random() < 0.6, [], Counter()
    parent = world.folder / f"disk{world.n_trials}"
    with Disk(parent) as disk:
        run = world.place(stage, again, parent)
        made = [name for name in world.new[stage.name] if name not in world.inputs[stage.name]]
        sizes = [(world.folder / "done" / stage.name / name).stat().st_size for name in made]
        if disk.how == "tmpfs":
            most = 1.4 if stage.name == "make" else 1.1
            room = int(rng.uniform(0, most) * (sum(sizes) + 4096 * len(sizes)))
            disk.remount(f"size={disk.used() + room}")
            process = world.start(stage, run)
        else:
            room = int(rng.uniform(0, 1.1) * max(sizes))
            process = world.start(stage, run, shell=f"ulimit -f {room // 512 + 1};")
        with Watch(world, stage, run, again) as watch:
            status, said = process.wait()
        counts["full " + disk.how if status else "had room"] += 1
        if status and not clear_error(said, [str(run)]):
            faults.append(f"no single clear line with a file (status {status}): {said[-400:]!r}")
        if status == "hangs" or isinstance(status, int) and status < 0:
            faults.append(f"it ended with {status}")
        faults += watch.faults
        faults += world.damage(stage, run, again) if status else []
        if disk.how == "tmpfs":
            disk.remount("size=64m")
        if status:
            status, said = world.finish(stage, run)
        faults += wrong_end(world, stage, run, status, said, "with more room")
    shutil.rmtree(parent, ignore_errors=True)
    where = f"{stage.name}{', over older products' * again}, {room:,} bytes left: "
    return Outcome(faults, counts, where=where)


# -------------------------------------------------------------------------------------- two at once

BESIDE = [("toyweb", "train"), ("data", "sft"), ("bpe-train", "rl"), ("bpe-encode", "crawl"),
          ("export", "toyweb")]


def two_trial(world, rng, number):
    """Two processes of a stage. One is often held at a file operation until the other has ended."""
    stages = world.stages
    pairs = [pair for pair in BESIDE if {*pair} <= {s.name for s in stages}]
    if pairs and number % (len(stages) + 1) == len(stages):
        return beside_trial(world, rng, rng.choice(pairs))
    stage = stages[number % (len(stages) + 1) % len(stages)]
    again, faults = bool(stage.other) and rng.random() < 0.5, []
    run, n = world.place(stage, again), world.operations.get(stage.name)
    others = again and rng.random() < 0.5               # whether the second has other settings
    with Watch(world, stage, run, again) as watch:
        if n and rng.random() < 0.7:
            first = world.start(stage, run, kill=(rng.randint(2, n), signal.SIGSTOP, 0))
            while first.child.poll() is None and not stopped(first.group):
                time.sleep(0.005)
            second = world.start(stage, run, other=others)
            ended = [second.wait()]
            first.signal(signal.SIGCONT, False)
            ended.insert(0, first.wait())
        else:
            both = [world.start(stage, run), world.start(stage, run, other=others)]
            ended = [process.wait() for process in both]
    works = [status == 0 for status, _ in ended]
    for status, said in ended:
        if status and not (refused(said) and clear_error(said, [str(run)])):
            faults.append(f"one ends with {status}: {said[-300:]!r}")
    if not any(works):
        faults.append("both were refused")
    if stage.name == "make" and others:                 # their steps may have taken turns
        world.finish(stage, run)
    found, wants = snapshot(run), [world.new[stage.name]]
    if others:
        wants.append(world.old[stage.name])
    differs = [difference(found, want) for want in wants]
    if any(works) and all(differs):
        faults.append(f"together they made something else: {differs[0]}")
    faults += watch.faults
    shutil.rmtree(run.parent, ignore_errors=True)
    where = f"two of {stage.name}{', over older products' * again}: "
    how = "one after the other" if all(works) else "one refused"
    return Outcome(faults, {how: 1, "reads": watch.looks}, where=where)


def stopped(process):
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
    return False


def beside_trial(world, rng, names):
    """Two stages that do not need each other, at once on one run: both end well."""
    stages = [next(s for s in world.stages if s.name == name) for name in names]
    run, faults = world.place(stages[0]), []
    copy_files(world.folder / "fresh" / stages[1].name, run, ["**/*"])
    want = {**world.new[stages[1].name], **world.new[stages[0].name]}
    ended = [process.wait() for process in [world.start(stage, run) for stage in stages]]
    for stage, (status, said) in zip(stages, ended):
        if status:
            faults.append(f"{stage.name} ends with {status}: {said[-300:]!r}")
    found = snapshot(run)
    for name in ("tokenizer.json", "tokenizer.tiktoken"):     # made by one, read by the other
        found.pop(name, None), want.pop(name, None)
    if not faults and (differs := difference(found, want)):
        faults.append(f"they made something else: {differs}")
    shutil.rmtree(run.parent, ignore_errors=True)
    where = f"{names[0]} beside {names[1]}: "
    return Outcome(faults, {"two stages beside each other": 1}, where=where)


# --------------------------------------------------------------------------------- odd surroundings


class Odd(NamedTuple):
    """Surroundings of a process.

    shell: sh commands before it. env: variables. folder: the name of the run.
    fails: it is to end with a clear error and leave the run as it was.
    alike: it is to make the undisturbed bytes, not only the same files.
    loses_output: what it prints goes nowhere. It may say so, in the end or instead of beginning.
    """

    name: str
    shell: str = ""
    env: dict = {}
    folder: bytes = b"run"
    fails: bool = False
    alike: bool = True
    loses_output: bool = False


ODD = [
    Odd("a folder of letters, spaces and a llama", folder="l\u00e4uf 1 \U0001f999 \u6771".encode()),
    Odd("a folder that is not UTF-8", folder=b"run \xff\xfe"),
    Odd("a folder with quotes, glob and shell characters", folder=b"r'u\"n *[a]{b}$x;"),
    Odd("a folder that begins with a minus", folder=b"-run"),
    Odd("no HOME", shell="unset HOME;"),
    Odd("HOME that is not there", env={"HOME": "/nowhere/at/all"}),
    Odd("TMPDIR that is not there", env={"TMPDIR": "/nowhere/at/all"}),
    Odd("a full TMPDIR", env={"TMPDIR": "FULL"}),
    Odd("an empty environment", shell='exec env -i PATH="$PATH" PYTHONPATH="$PYTHONPATH" "$@";'),
    Odd("one core", shell="taskset -pc 0 $$ > /dev/null;", alike=False),
    Odd("closed standard input", shell="exec <&-;"),
    Odd("closed standard output", shell="exec >&-;", loses_output=True),
    Odd("closed standard error", shell="exec 2>&-;"),
    Odd("all three closed", shell="exec <&- >&- 2>&-;", loses_output=True),
    Odd("a full standard output", shell="exec > /dev/full;", loses_output=True),
    Odd("nobody reads standard output", loses_output=True),
    Odd("LANG=C, LC_ALL=C", env={"LANG": "C", "LC_ALL": "C"}),
    Odd("LC_ALL=C, and no UTF-8 mode",
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    Odd("output in latin-1", env={"PYTHONIOENCODING": "latin-1"}),
    Odd("output in ASCII, strictly", env={"PYTHONIOENCODING": "ascii:strict"}),
    Odd("SIGINT and SIGTERM ignored", shell="trap '' INT TERM;"),
    Odd("few open files", shell="ulimit -n 64;"),
    Odd("umask 077", shell="umask 077;"),
    Odd("warnings are errors", env={"PYTHONWARNINGS": "error"}),
    Odd("a read-only run", fails=True),
]


def odd_trial(world, rng, number):
    """One stage in one of the surroundings; within len(ODD) trials each comes once."""
    odd = ODD[number % len(ODD)]
    stages = world.stages
    if odd.folder != b"run":                            # make refuses strange names
        stages = [stage for stage in stages if stage.name != "make"]
    if odd.folder.startswith(b"-"):                     # runs.py is started in the scripts' folder
        stages = [stage for stage in stages if stage.name != "runs"]
    stage = stages[(number // len(ODD) + number) % len(stages)]
    parent, env, kwargs = world.folder / f"odd{world.n_trials}", dict(odd.env), {}
    with contextlib.ExitStack() as stack:
        parent.mkdir()
        if odd.fails:
            disk = stack.enter_context(Disk(parent / "disk"))
            if disk.how != "tmpfs" and os.geteuid() == 0:       # root ignores modes
                return Outcome([], {f"not tried without mount ({odd.name})": 1})
        if env.get("TMPDIR") == "FULL":
            full = stack.enter_context(Disk(parent / "tmp", 4096))
            if full.how != "tmpfs":
                return Outcome([], {f"not tried without mount ({odd.name})": 1})
            (full.folder / "x").write_bytes(bytes(4096))
            env["TMPDIR"] = str(full.folder)
        if odd.name.startswith("nobody reads"):
            end, kwargs["stdout"] = os.pipe()
            os.close(end)
        run = world.place(stage, False, parent / "disk", os.fsdecode(odd.folder))
        if odd.folder.startswith(b"-"):                 # its name is relative to its own folder
            words = [word.replace(RUN, "./" + odd.folder.decode()) for word in stage.words]
            stage = stage._replace(words=words)
            kwargs["cwd"] = run.parent
        if odd.fails:
            read_only(disk, run, True)
        process = world.start(stage, run, shell=odd.shell, env=env, **kwargs)
        if "stdout" in kwargs:
            os.close(kwargs["stdout"])
        status, said = process.wait()
        if odd.fails:
            read_only(disk, run, False)
        faults = odd_faults(world, stage, odd, run, status, said)
    shutil.rmtree(parent, ignore_errors=True)
    where = f"{stage.name}, {odd.name}: "
    return Outcome(faults, {"in odd surroundings": 1}, where=where)


def read_only(disk, run, on):
    if disk.how == "tmpfs":
        disk.remount("ro" if on else "rw")
        return
    for folder in [run, *(path for path in run.rglob("*") if path.is_dir())]:
        folder.chmod(0o555 if on else 0o755)


def odd_faults(world, stage, odd, run, status, said):
    """What is wrong with the end of a process in odd surroundings, and with the run it left."""
    before, want = world.inputs[stage.name], world.new[stage.name]
    found, faults = snapshot(run), []
    if litter := os.listdir(world.here):
        faults.append(f"it left {litter} in the folder where it was started")
    if tracebacks(said):
        faults.append(f"traceback: {said[-400:]!r}")
    if odd.fails:
        if status in (0, "hangs") or not clear_error(said, [str(run)]):
            faults.append(f"no single clear line with a file (status {status}): {said[-300:]!r}")
        if differs := difference(found, before):
            faults.append(f"the run has changed: {differs}")
        return faults
    allowed = (0, 1, 2, 141, -signal.SIGPIPE) if odd.loses_output else (0,)
    if status not in allowed:
        return [*faults, f"it ends with {status}: {said[-300:]!r}"]
    if status and (stage.name in ("make", "runs") or not difference(found, before)):
        return faults                                   # it stopped at a step, or did not begin
    if not odd.alike:
        found, want = dict.fromkeys(found), dict.fromkeys(want)
    if odd.env:                                         # log/ keeps the output, in its encoding
        found = {name: found[name] for name in found if not re.match(r"log/.*\.txt", name)}
        want = {name: want[name] for name in want if not re.match(r"log/.*\.txt", name)}
    if differs := difference(found, want):
        faults.append(f"it made something else: {differs}")
    return faults


# ------------------------------------------------------------------------------------ hostile files


def isolated(function, *args, memory_mb=1500, cpu_s=60):
    """Call a function in a process of its own with bounds on memory and time.

    -> (what it returned or None, fault or None, CPU seconds, MB that it took beyond ours)
    """
    def body(pipe):
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        before = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_AS, (size + (memory_mb << 20),) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
        value = fault = None
        try:
            value = function(*args)
        except BaseException as error:
            fault = f"{type(error).__name__}: {str(error)[:300]}"
        after = resource.getrusage(resource.RUSAGE_SELF)
        taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        pipe.send((value, fault, taken, (after.ru_maxrss - before.ru_maxrss) / 1024))
        pipe.close()

    context = multiprocessing.get_context("fork")
    mine, its = context.Pipe()
    process = context.Process(target=body, args=(its,))
    process.start()
    its.close()
    try:
        answer = mine.recv() if mine.poll(20 * cpu_s) else None
    except EOFError:
        answer = None
    process.join(0 if answer is None else 20)
    if process.is_alive():
        process.kill()
        process.join()
    died = f"died (status {process.exitcode}) within {cpu_s} s of CPU"
    return answer or (None, died, float(cpu_s), 0.0)


PROSE = ("<p>The ferry leaves the harbour of the town every morning "
         "and it carries goats and cheese to the islands. ")
SHAPES = {                      # (in front, behind): what is repeated in between, up to the size
    ("", PROSE): [
        "<div>", "<b><i>", "<table><tr><td>", "<ul><li>", "<a href=x>", "<pre>\n", "<svg>",
        "<a b='\">", "<!--", "<!-- x -->", "<", "<?xml ?", "<script><!--<script>",
        "<style><!--</style>", "<textarea>", "<title>", "<select><option>",
        "<meta name=robots content=all>", "<meta ", "<meta " + "a" * 200 + ">", "<a rel=license "],
    ("", ""): [
        "<nav>" + PROSE, "<!", "</", "<a", '"articleBody":"', "<p>a", "a<br>", "<h1>a</h1>",
        "<td>a", "<li><a href=x>a link of twenty letters</a> t</li>", "<dt>a<dd>b", PROSE],
    ("<div ", ">" + PROSE): ["a=b ", "a ", "a=\"'\" b='\"' ", "="],
    ("<p>", ""): [
        "&amp;", "&amp;amp;", "&#x41;", "&", "&notin", "\u1112\u1161\u11ab", "\u200b\u2060",
        "\u6771\n", "\u202e", "\0", "a", "a ", "a.", "www.", "http://", "a@", "a@b.", "n't'", "1",
        "1,1:1/", "1.1.1.1.", "123-45-", "(212) 555-", "[1", "U.S.", "-", ".", "\x1c\u2028"],
    ("<p>a", "b"): [" ", "\r"],
    ("<p>a", ""): ["\u0301\u0323"],
    ("<p>a@", ""): ["b-", "b."],
    ("<p>", "@c.d"): ["a.b."],
    ("<p>&#", ";"): ["9"],
    ("<div", ">" + PROSE): ["/"],
    ('<div class="', '">' + PROSE): ["x"],
    ('<div class="', ""): ["x y="],
    ("<!--", PROSE): ["-", " --!"],
    (PROSE, PROSE): ["</div></p></a>"],
    (PROSE, ""): ["<script>"],
    ("<script>", PROSE): ["</scrip"],
    ('<meta name=robots content="', '">' + PROSE): ["a,", " "],
    ('<script type="application/ld+json">{"articleBody":"', ""): ["\\a"],
}
SOUP = [
    "<div>", "</div>", "<p>", "</p>", "<a href='", '<b class="', "'", '"', ">", "<", "<!--", "-->",
    "<script>", "</script>", "text. ", "<td>", "</table>", "<li>", "&amp;", "=", " ", "<meta ",
    "<pre>", "</", "<nav>", "</nav>", "]]>", "<![CDATA[",
]


def page_of(rng, number, size):
    """(name, page) of `size` letters: one shape after the other, then random tags ("soup")."""
    shapes = []
    for around, middles in SHAPES.items():
        shapes += [(*around, middle) for middle in middles]
    number %= len(shapes) + 1
    if number == len(shapes):
        few = rng.sample(SOUP, rng.randint(2, 9))
        return "soup", "".join(rng.choices(few, k=size // 4))[:size]
    front, behind, middle = shapes[number]
    page = front + middle * ((size - len(front) - len(behind)) // len(middle)) + behind
    return f"{front[:40]} {middle[:40]} ...", page


def through_the_filters(page):
    """{step: CPU seconds} of all that data.py may do to a page, whatever the step before says."""
    data, found = page.encode("utf-8", "surrogatepass"), {}
    model = language.load()

    def timed(step, function, *args):
        started = time.process_time()
        value = function(*args)
        found[step] = max(found.get(step, 0), time.process_time() - started)
        return value

    timed("rights", rights.rights, {"x-robots-tag": "a," * 500}, data)
    text = timed("extract", extract.main_text, data) or ""
    for text in {text, page.replace("<", "(")}:
        timed("language", model.predict, [text.replace("\n", " ")])
        timed("repetition", rules.gopher_repetition, text, quality.words_of, quality.parts_of)
        timed("quality", rules.gopher_quality, text, quality.words_of)
        timed("c4", rules.c4_quality, text)
        timed("fineweb", rules.fineweb_quality, text, quality.words_of)
        timed("minhash", dedup.minhash, [text])
        timed("redact", pii.redact, text, ("email", "ip", "ssn", "phone"))
    return found


def page_trial(rng, number, size):
    shape, page = page_of(rng, number, size)
    limit = 12 * size / 1e6 + 1                         # a step of a megabyte took 4.5 s at most
    found, fault, _, mb = isolated(through_the_filters, page, cpu_s=int(10 * limit) + 5)
    step, seconds = max((found or {"": 0.0}).items(), key=lambda item: item[1])
    if seconds > limit:
        fault = f"{step} takes {seconds:.1f} s of CPU"
    return Outcome([f"page of {shape!r}, {size:,} letters: {fault}"] * bool(fault), {"pages": 1},
                   {f"CPU s a step for {size:,} letters": seconds, "MB a page": mb})


def damaged(rng, data):
    """Bytes with one to four kinds of damage."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, n = rng.randrange(len(data) + 1), rng.choice([1, 1, 4, 8, 300])
        if rng.random() < 0.4:
            at = rng.randrange(min(len(data), 400) + 1)     # headers stand in front
        kind = rng.randrange(8)
        if kind <= 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at:at + n]
        elif kind == 4:
            data[at:at] = rng.randbytes(n)
        elif kind == 5:
            data[at:at + n] = rng.choice([b"\0", b"\xff", b"\x7f", b"9", b"["]) * n
        elif kind == 6:
            value = rng.choice([0, 1, -1, 2**31, 2**32 - 1, 2**62, -2**63])
            data[at:at + 8] = value.to_bytes(8, "little", signed=True)
        elif kind == 7:
            other = rng.randrange(len(data) + 1)
            data[at:at] = data[other:other + n * 10]
    return bytes(data)


def lying_header(rng, data):
    """A safetensors file whose header is well formed and wrong."""
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + n])
    names = [name for name in header if name != "__metadata__"]
    entry = header[rng.choice(names)]
    odd = [0, -1, 1, 2**31, 2**40, 2**63, 10**30, 1.5, "1", None, True, [], {}, [[1]], float("nan")]
    kind = rng.randrange(9)
    if kind == 0:
        entry["shape"] = [rng.choice(odd) for _ in range(rng.randrange(4))]
    elif kind == 1:
        entry["shape"] = [2**21] * 3 + [0] * rng.randrange(2)
    elif kind == 2:
        entry["data_offsets"][rng.randrange(2)] = rng.choice(odd)
    elif kind == 3:
        backward = entry["data_offsets"][::-1]
        entry["data_offsets"] = rng.choice([backward, [0, 0], [], [1, 2, 3], None, {}])
    elif kind == 4:
        entry["dtype"] = rng.choice(["F64", "F16", "BF16", "I8", "F8_E4M3", "", None, 3, ["F32"]])
    elif kind == 5:
        header[rng.choice(names)] = rng.choice([None, [], {}, 3, "x", {"dtype": "F32"}])
    elif kind == 6:
        header["__metadata__"] = rng.choice([None, 3, [], {"a": 1}, {"identity": "["},
                                             {"identity": "{}"}, {"step": "9" * 5000}])
    elif kind == 7:
        name = rng.choice(["extra", "h.0.ln_1.weight", "", "\ud800"])
        header[name] = header.pop(rng.choice(names))
    text = json.dumps(header).encode()
    if kind == 8:
        name = json.dumps(rng.choice(names)).encode()
        twice = text.replace(b"{", b"{" + name + b":{},", 1)
        deep, long = rng.choice([b"[", b'{"a":']) * 10**5, b"9" * 10**5
        text = rng.choice([twice, deep, long, text[:-1], text + b"}"])
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + n:]


def crafted_json(rng, data):
    value = json.loads(data)
    for _ in range(200):
        found = test_chats.mutated(rng, value)
        if found != value and found:
            value = found
            break
    if rng.random() < 0.3 and isinstance(value, dict) and value:        # one value far too large
        key = rng.choice(list(value))
        value[key] = rng.choice([2**40, -1, 0, 10**400, 1e300, "x" * 10**5, [], {}, None, True, 7])
    text = json.dumps(value).encode()
    strange = [b"[" * 10**6, text + text, text.replace(b":", b":[", 1), b"\xef\xbb\xbf" + text]
    return rng.choice([text] * 6 + strange)


def model_files(world):
    """{name: bytes} of the files of models and tokenizers, all from a real run."""
    main, found = world.folder / "done" / "train", {}
    for path in sorted((main / "base").iterdir()):
        if path.name not in ("log.jsonl", "generation_config.json"):
            found[path.name] = path.read_bytes()
    found["val_000000.bin"] = (main / "tokens/val_000000.bin").read_bytes()
    tokenizer = bpe.Tokenizer.load(main / "tokenizer.json")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / "tokenizer.tiktoken")
        gpt2s = bpe.Tokenizer.train([PROSE], 300, "gpt2", special_tokens=["<|endoftext|>"])
        gpt2s.save(Path(folder) / "vocab.json")
        for path in sorted(Path(folder).iterdir()):
            found[path.name] = path.read_bytes()
    V, T, C = 64, 8, 8
    words = np.zeros(256, "<i4")
    words[:8] = checkpoint.LLMC_MAGIC, 3, T, V, 1, 2, C, V
    sizes = sum(int(np.prod(shape)) for _, shape in checkpoint._llmc_layout(V, T, 1, C))
    found["llmc.bin"] = words.tobytes() + np.zeros(sizes, "<f4").tobytes()
    found["language.ftz"] = (ROOT / "web/language.ftz").read_bytes()
    return found


def read_model_file(folder, name):
    """Read a file as the programs do, and use it. -> "read", or "refused" with a proper error"""
    path = folder / name
    text = "The goat 12345 is here. " * 20 + "\u00e4\U0001f999"
    try:
        if name in ("model.safetensors", "config.json", "tokenizer.json"):
            params, cfg, tokenizer = sample.load_model(folder)
            ids = tokenizer.encode_ordinary(text)
            tokenizer.decode(ids)
            fast.forward(params, cfg, [ids[:4]]) if hasattr(ids, "shape") else None
        elif name == "trainer.safetensors":
            checkpoint.load_safetensors(path)
        elif name == "val_000000.bin":
            check_ids(open_shard(path), 1024, path)
        elif name == "llmc.bin":
            gpt.load(path)
        elif name == "language.ftz":
            language.load(path).predict([text])
        elif name in ("tokenizer.tiktoken", "vocab.json", "merges.txt", "tokenizer_config.json"):
            beside = name in ("merges.txt", "tokenizer_config.json")
            tokenizer = bpe.Tokenizer.load(folder / "vocab.json" if beside else path)
            tokenizer.decode(tokenizer.encode_ordinary(text))
    except (ValueError, OSError):
        return "refused"
    return "read"


def model_trial(world, rng, number):
    if not hasattr(world, "model_files"):
        world.model_files = model_files(world)
    names = sorted(world.model_files)
    name = names[number % len(names)]
    data = world.model_files[name]
    if name.endswith(".safetensors") and rng.random() < 0.7:
        data = lying_header(rng, data)
    elif name.endswith(".json") and rng.random() < 0.8:
        data = crafted_json(rng, data)
    else:
        data = damaged(rng, data)
    with tempfile.TemporaryDirectory(dir=world.folder) as folder:
        for other, whole in world.model_files.items():
            (Path(folder) / other).write_bytes(whole)
        (Path(folder) / name).write_bytes(data)
        what, fault, cpu, mb = isolated(read_model_file, Path(folder), name, cpu_s=20)
    if not fault and cpu > 10:
        fault = f"it takes {cpu:.1f} s of CPU"
    faults = [f"{name}, {len(data):,} bytes: {fault}"] if fault else []
    worst = {"CPU s a model file": cpu, "MB a model file": mb}
    return Outcome(faults, {f"model files {what}": 1}, worst)


def some_warcs(first, n):
    import test_warc

    for seed in range(first, first + n):
        test_warc.one_case(seed)


def file_trial(world, rng, number, size=1_000_000):
    """Of eight trials, one reads damaged WARCs, one a page, and six a file of a model each."""
    turn, kind = divmod(number, 8)
    if kind == 0:
        first, n = 100_000 + rng.randrange(10**9), 10
        _, fault, _, mb = isolated(some_warcs, first, n)
        faults = [f"test_warc.one_case({first} to {first + n - 1}): {fault}"] if fault else []
        return Outcome(faults, {"WARCs": n}, {"MB for WARCs": mb})
    if kind == 1:
        return page_trial(rng, turn, size)
    return model_trial(world, rng, 6 * turn + kind - 2)


# -------------------------------------------------------------------------------------------- texts


def expression(rng, depth=0):
    """An expression by the grammar of arithmetic."""
    kind = rng.randrange(7 if depth < 5 else 2)
    if kind <= 1:
        return rng.choice([
            str(rng.randrange(10)),
            str(rng.randrange(10**rng.randint(1, 30))),
            f"{rng.random():.{rng.randint(1, 9)}f}",
            f"{rng.randrange(1000)},{rng.randrange(1000):03}",
            "." + "0" * rng.randrange(20) + "1",
            "007"])
    if kind == 2:
        return f"({expression(rng, depth + 1)})"
    if kind == 3:
        return f"{rng.choice('+-')}{expression(rng, depth + 1)}"
    operator = rng.choice(["+", "-", "*", "/", "//", "%", "**", " + ", " / "])
    return expression(rng, depth + 1) + operator + expression(rng, depth + 1)


def mutated_text(rng, text, alphabet):
    text = list(text)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(text) + 1)
        text[at:at + rng.randrange(3)] = rng.choices(alphabet, k=rng.randrange(4))
    return "".join(text)


LARGE = ["9" * 49 + "*" + "9" * 50, "(" * 49 + "1" + ")" * 49, "-" * 99 + "1", "1" + "+1" * 49,
         "9**9**9", "1e9", "1_0", "\u0663+1"]


def calculator_trial(rng, n=500):
    worst, answered, faults = 0.0, 0, []
    for _ in range(n):
        asked = mutated_text(rng, expression(rng), "0123456789.,+-*/%() ")
        asked = asked[:rng.choice([100, 100, 101, 5000])]
        if rng.random() < 0.05:
            asked = rng.choice(LARGE)
        try:
            said, took = timed_calculator(asked)
        except Exception as error:
            faults.append(f"calculator({asked!r}): {type(error).__name__}: {error}")
            continue
        if took > 0.01:                                 # is it slow, or was the machine busy?
            took = min(timed_calculator(asked)[1] for _ in range(5))
        worst = max(worst, took)
        answered += said is not None
        if took > 0.1:
            faults.append(f"calculator({asked!r}) takes {1e3 * took:.0f} ms")
        if said is not None and not re.fullmatch(r"-?[0-9]{1,100}(\.[0-9]+)?", said):
            faults.append(f"calculator({asked!r}) says {said[:200]!r}")
    counts = {"expressions": n, "answers": answered}
    return Outcome(faults[:3], counts, {"ms an expression": 1e3 * worst})


def timed_calculator(asked):
    """(what the calculator says, seconds)."""
    started = time.perf_counter()
    said = tools.calculator(asked)
    return said, time.perf_counter() - started


def with_names(rng, value, names):
    """A chat row with names of control tokens, or pieces of them, in its texts."""
    if isinstance(value, str):
        if rng.random() < 0.4:
            name = rng.choice(names)
            cut = rng.randrange(len(name) + 1)
            at = rng.randrange(len(value) + 1)
            odd = [name, name[:cut], name * 3, name + "system", f"\n\nAssistant: {name}"]
            return value[:at] + rng.choice(odd) + value[at:]
        return value
    if isinstance(value, list):
        return [with_names(rng, part, names) for part in value]
    if isinstance(value, dict):
        return {key: with_names(rng, part, names) for key, part in value.items()}
    return value


def chat_trial(world, rng, n=40):
    """Mutated rows of every schema: control tokens stand only where the format puts them."""
    tokenizer = bpe.Tokenizer.load(world.folder / "main" / "tokenizer.json")
    names = sorted(tokenizer.special_tokens)
    by_id = {i: name for name, i in tokenizer.special_tokens.items()}
    faults, read, path = [], 0, world.folder / "chat.jsonl"
    for _ in range(n):
        rows = [rng.choice(test_chats.VALID) for _ in range(rng.choice([1, 2]))]
        rows = [with_names(rng, row, names) for row in rows]
        if rng.random() < 0.6:
            rows = [test_chats.mutated(rng, row) for row in rows]
        path.unlink(missing_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        try:
            for where, messages, _ in chats.conversations(path, Counter()):
                ids, mask = sample.render(messages, tokenizer, where)
                read += 1
                want = [token for m in messages for token in control_tokens(m)]
                if [by_id[i] for i in ids if i in by_id] != want or len(mask) != len(ids):
                    faults.append(f"a forged control token: {json.dumps(messages)[:300]}")
        except ValueError:
            pass
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            faults.append(f"chats.conversations of {json.dumps(rows)[:300]}: {why}")
    return Outcome(faults[:3], {"rows of chats": n, "conversations rendered": read})


def control_tokens(message):
    yield from ("<|im_start|>", "<|im_sep|>")
    for part in message["content"] if isinstance(message["content"], list) else []:
        yield from sample.PART_TOKENS.get(part["type"], ())
    yield "<|im_end|>"


def text_trial(world, rng, number):
    return chat_trial(world, rng) if number % 2 else calculator_trial(rng)


# ------------------------------------------------------------------------------------------- server


class Served:
    """A server as its clients see it. process: the server. port: where it listens."""

    def __init__(self, process, port):
        self.process, self.port = process, port

    def connect(self, timeout=30):
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def raw(self, data, timeout=30, ends=True):
        """All that comes back for some bytes, until the server closes or is silent for too long.

        ends: tell it that no more will come. A client that has gone looks the same to it.
        """
        with self.connect(timeout) as s:
            said = b""
            with contextlib.suppress(OSError):          # refused early, perhaps with an answer
                s.sendall(data)
                if ends:
                    s.shutdown(1)
            with contextlib.suppress(OSError):
                while piece := s.recv(1 << 16):
                    said += piece
        return said

    def ask(self, method="GET", path="/health", body=None, headers=()):
        """(status, headers in small letters, body)"""
        data = b"" if body is None else json.dumps(body).encode()
        fields = {"Host": "localhost", "Connection": "close", **dict(headers)}
        if data:
            fields["Content-Length"] = len(data)
        head = f"{method} {path} HTTP/1.1\r\n"
        for name, value in fields.items():
            head += f"{name}: {value}\r\n"
        said = self.raw(head.encode() + b"\r\n" + data, ends=False)
        head, _, rest = said.partition(b"\r\n\r\n")
        return status_of(said), head.lower(), rest

    def rss_mb(self):
        """Megabytes of memory of the server's processes."""
        sizes = []
        for pid in malformed.family(self.process):
            status = Path(f"/proc/{pid}/status").read_text()
            sizes.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]))
        return sum(sizes) / 1024

    def rows(self):
        """Replies that are being written or wait."""
        models = json.loads(self.ask()[2])["models"]
        return sum(model["writing"] + model["waiting"] for model in models.values())


def status_of(said):
    found = re.match(rb"HTTP/1\.1 (\d\d\d) ", said)
    return int(found[1]) if found else None


ASK = {"messages": [{"role": "user", "content": "Who are you?"}],
       "max_tokens": 4, "temperature": 1, "seed": 1}
GREEDY = {**ASK, "temperature": 0, "max_tokens": 20}
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
HEADS = [
    b"POST /v1/chat/completions HTTP/1.1", b"Host: localhost", b"Content-Type: application/json",
    b"User-Agent: torture", b"Accept: */*",
]
HEAD_PARTS = [
    b"\r\n", b"\r", b"\n", b"\r\n\r\n", b" ", b"\t", b":", b"\0", b"\xff", b"\x80", b"chunked",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n",
    b"Host: evil.example\r\n", b"HTTP/1.1", b"HTTP/2.0", b"9" * 5000, b"x" * 70_000,
    b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\n",
    b"Range: bytes=0-\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"%00", b"/../", b"?",
    b"#", b"http://evil.example/",
]


def mutated_head(rng):
    body = json.dumps(ASK).encode()
    lines = [*HEADS, b"Content-Length: %d" % len(body)]
    if rng.random() < 0.3:
        path = rng.choice([b"/", b"/health", b"/v1/models", b"/api/log?stage=base"])
        lines = [b"GET %s HTTP/1.1" % path, lines[1]]
        body = b""
    if rng.random() < 0.3:
        rng.shuffle(lines)
    if rng.random() < 0.3:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    data = bytearray(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    head = len(data) - len(body)
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(head), rng.randrange(5)
        if kind == 0:
            data[at:at] = rng.choice(HEAD_PARTS)
        elif kind == 1:
            del data[at:at + rng.choice([1, 1, 5, 40])]
        elif kind == 2:
            data[at:at + 1] = bytes([rng.randrange(256)])
        elif kind == 3:
            data[at:at] = data[at:at + rng.randrange(60)]
        else:
            del data[at + rng.randrange(1, 200):]
        head = max(1, min(head, len(data)))
    return bytes(data)


def malformed_heads(server, rng, n, faults):
    """Send mutated requests, eight at a time: each gets a proper answer or none."""
    cases, found = [mutated_head(rng) for _ in range(n)], Counter()
    with ThreadPoolExecutor(8) as pool:
        for data, said in zip(cases, pool.map(server.raw, cases)):
            for status in re.findall(rb"^HTTP/1\.1 (\d\d\d) |\nHTTP/1\.1 (\d\d\d) ", said):
                number = int(status[0] or status[1])
                found[number] += 1
                if number >= 500 and number not in (501, 505):
                    faults.append(f"{number} for {data[:300]!r}")
            if said and not said.startswith(b"HTTP/1.1 "):
                faults.append(f"an answer that is none: {said[:100]!r} for {data[:300]!r}")
            found["closed"] += not said
    return found


FOREIGN = [                     # headers of a request that must not be answered with 200
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost@evil.example"},
    {"Host": "0.0.0.0"},
    {"Host": "2130706433"},
    {"Host": "[::1].evil.example"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "file://"},
    {"Origin": "http://localhost.evil.example"},
]
FORMS = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
INJECTIONS = ["/%0d%0aSet-Cookie:%20a=b", "/\r\nSet-Cookie: a=b",
              "/v1/models/%0d%0aX-Injected:%201", "/api/log?stage=%0d%0aSet-Cookie:%20a=b"]


def what_is_refused(server, faults):
    """Send what must be refused: foreign names and pages, paths out of the run, more headers."""
    chat = "/v1/chat/completions"
    requests = [("POST", path, body, headers) for headers in FOREIGN
                for path, body in (("/tokenize", {"content": "x"}), (chat, ASK))]
    for kind in FORMS:                                  # a page may send these without asking first
        headers = {"Content-Type": kind, "Origin": "http://evil.example"}
        requests.append(("POST", chat, ASK, headers))
    for request in requests:
        status = server.ask(*request)[0]
        if status is None or not 400 <= status < 500:
            faults.append(f"{request[:2]} with {request[3]}: {status}")
    for path in malformed.OUTSIDE:
        status, _, body = server.ask("GET", path)
        if status == 200 or b"root:" in body or b"import " in body:
            faults.append(f"GET {path}: {status} {body[:80]!r}")
    for path in INJECTIONS:
        _, head, _ = server.ask("GET", path)
        if b"\r\nset-cookie:" in head or b"\r\nx-injected:" in head:
            faults.append(f"GET {path!r} puts a header into the answer")
    return len(requests) + len(malformed.OUTSIDE) + len(INJECTIONS)


def memory_levels_off(server, n, faults):
    """n ordinary requests in six parts. -> MB after the second and the last part"""
    sizes = []

    def one(i):
        if i % 3:
            return server.ask("POST", "/tokenize", {"content": f"goat {i % 50}"})[0]
        body = {**ASK, "seed": i % 50, "n": 1 + i % 4, "stream": bool(i % 2)}
        return server.ask("POST", "/v1/chat/completions", body)[0]

    with ThreadPoolExecutor(4) as pool:
        for part in range(6):
            statuses = Counter(pool.map(one, range(part * n // 6, (part + 1) * n // 6)))
            sizes.append(server.rss_mb())
            if set(statuses) - {200, 429, 503}:
                faults.append(f"ordinary requests were answered {dict(statuses)}")
    if sizes[-1] > 1.1 * sizes[1] + 5:
        faults.append(f"memory does not level off: {', '.join(f'{size:.0f}' for size in sizes)} MB")
    return sizes[1], sizes[-1]


def gone_client(server, rng, faults):
    """Seconds until the rows of a client that goes away in the middle of its replies are free."""
    asked = {**ASK, "max_tokens": 100_000, "n": 4, "stream": rng.random() < 0.5, "temperature": 2}
    body = json.dumps(asked).encode()
    with server.connect() as s:
        s.sendall(POST % len(body) + body)
        deadline = time.monotonic() + 20
        while not (busy := server.rows()) and time.monotonic() < deadline:
            time.sleep(0.002)
    left = time.monotonic()
    while server.rows():
        if time.monotonic() - left > 20:
            faults.append("the rows of a client that has gone are not free after 20 s")
            break
        time.sleep(0.01)
    return time.monotonic() - left if busy else 0.0


def crowd(server, rng, faults):
    """Whether others are served beside clients that read nothing, or send half a request or none.

    Returns their longest wait in seconds.
    """
    held, longest = [], 0.0
    asked = {**ASK, "max_tokens": 200, "n": 8, "stream": True, "logprobs": True, "top_logprobs": 20}
    long = json.dumps(asked).encode()
    try:
        for i in range(120):
            s = server.connect()
            with contextlib.suppress(OSError):
                if i % 3 == 0:
                    s.sendall((POST % 400 + b"{")[:20 + i % 60])
                elif i % 10 == 1:
                    s.sendall(POST % len(long) + long)
            held.append(s)
        for _ in range(5):
            began = time.monotonic()
            status = server.ask()[0]
            longest = max(longest, time.monotonic() - began)
            if status != 200 or longest > 20:
                faults.append(f"in a crowd, /health answers {status} after {longest:.1f} s")
    finally:
        for s in held:
            s.close()
    return longest


def server_trial(world, rng, number, size=1.0):
    """All attacks on one server. size: 1 for a few thousand requests."""
    faults, worst = [], {}
    with malformed.served("--run", world.finished, stderr=subprocess.PIPE) as found:
        server = Served(*found)
        before = server.ask("POST", "/v1/chat/completions", GREEDY)[2]
        heads = malformed_heads(server, rng, int(1500 * size), faults)
        try:
            bodies = malformed.attack(server.port, int(1500 * size), rng.randrange(10**9))
        except AssertionError as error:
            bodies = {}
            faults.append(f"malformed.attack: {error}")
        tried = what_is_refused(server, faults)
        first, last = memory_levels_off(server, int(2400 * size), faults)
        gone = [gone_client(server, rng, faults) for _ in range(3)]
        worst["s until a gone client's rows are free"] = max(gone)
        worst["s for others in a crowd"] = crowd(server, rng, faults)
        worst["MB in the end"] = last
        worst["MB grown"] = max(0.0, last - first)
        deadline = time.monotonic() + 30
        while server.rows() and time.monotonic() < deadline:
            time.sleep(0.05)
        after = server.ask("POST", "/v1/chat/completions", GREEDY)[2]
        if not before or json.loads(before)["choices"] != json.loads(after or b"{}").get("choices"):
            faults.append(f"it says something else than before: {before!r}, {after!r}")
        if server.process.poll() is not None:
            faults.append(f"the server has ended with {server.process.poll()}")
        server.process.terminate()
        said = server.process.stderr.read()
        if tracebacks(said):
            faults.append(f"the server's own errors: {said[-500:]!r}")
    malformed_ones = sum(heads.values()) + sum(bodies.values())
    counts = {"malformed": malformed_ones, "to be refused": tried, "ordinary": int(2400 * size)}
    return Outcome(faults, counts, worst)


# --------------------------------------------------------------------------------------------- main

# name: share of the time, trials at least (as a function of the world), trial(world, rng, number)
SECTIONS = {
    "kills": (0.34, lambda world: len(world.stages), kill_trial),
    "disks": (0.14, lambda world: len(world.stages), disk_trial),
    "two": (0.12, lambda world: len(world.stages) + 1, two_trial),
    "odd": (0.14, lambda world: len(ODD), odd_trial),
    "files": (0.12, lambda world: 80, file_trial),
    "texts": (0.04, lambda world: 10, text_trial),
    "server": (0.10, lambda world: 1, server_trial),
}


def section(world, name, seconds, seed=0, number=None, minimum=None):
    """Run one section for some seconds; -> Result"""
    _, least, trial = SECTIONS[name]
    minimum = least(world) if minimum is None else minimum
    return repeated(name, lambda rng, at: trial(world, rng, at), minimum, seconds, seed, number)


def print_table(results):
    print(f"{'section':8} {'trials':>6} {'time':>7}  {'':8} figures")
    for result in results:
        verdict = "BROKEN" if result.breaks else "held"
        row = f"{result.name:8} {result.tried:6,} {result.seconds:5.0f} s  {verdict:8}"
        print(row, result.figures())


def parse_args(argv=None):
    p = argparse.ArgumentParser(description="Kills, full disks, hostile files, hostile clients.")
    p.add_argument("--seconds", type=float, default=600,
                   help="for all sections together, about (default: %(default)s)")
    p.add_argument("--only", nargs="+", choices=list(SECTIONS), metavar="NAME",
                   help=f"of {', '.join(SECTIONS)} (default: all)")
    p.add_argument("--seed", type=int, default=0, help="of all random numbers (default: 0)")
    p.add_argument("--number", type=int, metavar="N", help="only this trial of each section")
    p.add_argument("--run", type=Path, metavar="DIR",
                   help="a finished run for the server, only read (default: one made here)")
    return p.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    names = args.only or list(SECTIONS)
    shares = sum(SECTIONS[name][0] for name in names)
    results, started = [], time.monotonic()
    if args.run and not (args.run / "base" / "model.safetensors").exists():
        raise ValueError(f"{args.run}: no finished run; make one with: make RUN={args.run}")
    needed = None if {*names} & {"kills", "disks", "two", "odd"} else ["rl"]
    with World(names=needed) as world:
        world.finished = args.run or world.finished
        took = time.monotonic() - started
        print(f"every stage undisturbed, and with other settings: {took:.0f} s", file=sys.stderr)
        for name in names:
            seconds = args.seconds * SECTIONS[name][0] / shares
            result = section(world, name, seconds, args.seed, args.number)
            results.append(result)
            said = f"{result.tried} trials in {result.seconds:.0f} s, {len(result.breaks)} broken"
            print(f"{name}: {said}", file=sys.stderr)
            for fault in result.breaks:
                print(f"BROKEN {fault}", flush=True)
    print_table(results)
    return int(any(result.breaks for result in results))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except ValueError as error:
        print(f"torture.py: error: {error}", file=sys.stderr)
        sys.exit(1)
