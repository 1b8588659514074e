"""runs.py: how the files of a run come to be: together, by one process, and make knows when they are done.

    publish(new, folder)        several files that belong together, such as a model and its tokenizer, appear at once
    locked(folder, name)        two processes of one stage never work in one folder
    seconds_spent()             of this process and of the killed ones that it goes on from
    python -m run.runs ...      how make runs a stage: not if it is finished, which contents decide and not times

A finished stage has a sign, RUN/log/NAME.json, written when all else is on the disk: the command, what the stage was
made of, and what it made, with the SHA-256 of every file. While command and contents are the same and every product is
there, the stage is finished, wherever the run was copied to and whatever times its files bear.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from run import command, disk

MOVES = "moves.json"                                    # in a folder of new files: it is complete, they may move

# ------------------------------------------------------------------------------------- several files that belong together


def publish(new, folder, sign, remove=()):
    """Move the finished files of the folder `new` into `folder`, over those that have their names; then `new` is gone.

    sign: the name of the file by which readers tell that the others are there. It goes first and comes last.
    remove: names of old files without a successor. Should the process be killed in between, settle() does the rest.
    """
    new, files = Path(new), []
    for path in sorted(new.rglob("*")):
        name = path.relative_to(new).as_posix()
        if path.is_file() and not disk.TEMPORARY.fullmatch(path.name):
            disk.sync_file(path)
            files.append(name)
    files.sort(key=lambda name: name == sign)
    disk.write_text(new / MOVES, json.dumps({"remove": [sign, *remove], "files": files}))
    settle(new, folder)


def settle(new, folder):
    """Finish the moves from `new` into `folder` that a killed publish() began; nothing to do if there was none."""
    new, folder = Path(new), Path(folder)
    try:
        moves = json.loads((new / MOVES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    if all((new / name).exists() for name in moves["files"]):           # none has moved yet
        for name in moves["remove"]:
            (folder / name).unlink(missing_ok=True)
    for name in moves["files"]:
        if (new / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            disk.replace(new / name, folder / name)
    shutil.rmtree(new)


def check_settled(new, again):
    """ValueError while files of `new` are on their way, or stopped halfway by a kill: readers would see old beside new.

    again: the command that finishes it.
    """
    if (Path(new) / MOVES).exists():
        raise ValueError(f"{Path(new).parent}: its files were being replaced when that was killed; finish it with: {again}")


# ------------------------------------------------------------------------------------------------------------ locks

_held = set()                                           # lock files of this process


@contextlib.contextmanager
def locked(folder, name):
    """Keep a second `name` ("data.py", "training") out of the folder: ValueError for that one. Makes the folder.

    The lock is not the file but the system's, held by this process without its children: a dead process holds none,
    whatever it left behind.
    """
    import fcntl                                        # not on Windows, where gpt.py still is to load

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / f".{name}.lock"
    refusal = ValueError(f"{folder}: another {name} is writing there; wait for its end, or use another folder")
    if path in _held:                                   # the system's lock would not hold against ourselves
        raise refusal
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise refusal from None
        if not os.fstat(file.fileno()).st_nlink:        # the other one has ended just now, and took the file with it
            raise refusal
        _held.add(path)
        try:
            disk.remove_temporaries(folder)
            yield
        finally:
            _held.discard(path)
            path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------- time

_started, _earlier = time.perf_counter(), 0.0


def start_clock():
    """The command begins now, and goes on from nobody yet."""
    global _started, _earlier
    _started, _earlier = time.perf_counter(), 0.0


def add_earlier(seconds):
    """Count the time of the killed processes whose work this one goes on from."""
    global _earlier
    _earlier += seconds


def seconds_spent():
    """Seconds since start_clock(), and those of add_earlier()."""
    return _earlier + time.perf_counter() - _started


# ----------------------------------------------------------------------------------------------- a stage, as make runs it


def files_of(run, patterns):
    """The files that glob patterns name in the run folder, as sorted names relative to it."""
    return sorted({p.relative_to(run).as_posix() for pattern in patterns for p in run.glob(pattern) if p.is_file()})


def sha256_of(path):
    """The SHA-256 of a file's contents, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def contents(run, names, known):
    """{name: {"size", "mtime_ns", "sha256"}} of files of the run.

    known: the same from an earlier look. A file whose size and time are as they were is not read again.
    """
    found = {}
    for name in names:
        status = (run / name).stat()
        entry = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        before = known.get(name, {})
        same = all(before.get(k) == v for k, v in entry.items())
        found[name] = before if same and "sha256" in before else {**entry, "sha256": sha256_of(run / name)}
    return found


def read_sign(path):
    """The sign of a finished stage, or an empty one: {"command", "made_of", "makes"}."""
    nothing = {"command": None, "made_of": {}, "makes": {}}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        entries = [*found["made_of"].values(), *found["makes"].values()]
        whole = all(isinstance(entry, dict) for entry in entries)
        return found if whole else nothing
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return nothing


def digests(entries):
    return {name: entry.get("sha256") for name, entry in entries.items()}


def stage(run, name, made_of, makes, words, output=None):
    """Run one stage of a run unless it is finished; returns the exit status of its command.

    made_of, makes: glob patterns in the run folder of what it reads and writes. words: the command, its script first;
    {run} in them stands for the folder, so that a run may move. output: the file that keeps what the command
    prints (default RUN/log/NAME.txt), the last line of which is the stage's row in the final table.
    """
    sign_path = run / "log" / f"{name}.json"
    output = run / (output or f"log/{name}.txt")
    with locked(run / "log", f"make of {name}"):
        sign = read_sign(sign_path)
        inputs = contents(run, files_of(run, made_of), sign["made_of"])
        same = sign["command"] == words and digests(sign["made_of"]) == digests(inputs)
        if same and output.exists() and sign["makes"] and all((run / k).exists() for k in sign["makes"]):
            if inputs != sign["made_of"]:               # other times, the same contents: do not read them again
                disk.write_text(sign_path, json.dumps({**sign, "made_of": inputs}, indent=1) + "\n")
            print(f"{name}: finished before, from the same files")
            return 0
        sign_path.unlink(missing_ok=True)
        place = os.path.join(".", run) if str(run).startswith("-") else str(run)        # else it looks like an option
        words_here = [w.replace("{run}", place) for w in words]
        print(f"{name}: {shlex.join(words_here)}", file=sys.stderr, flush=True)
        status = run_command(words_here, output)
        if status:
            return status
        made = files_of(run, makes)
        missing = [pattern for pattern in makes if not any(run.glob(pattern))]
        if missing:
            raise ValueError(f"{run}: {words[words[0] == '-m']} has ended well and not made {', '.join(missing)}")
        sign = {"command": words, "made_of": inputs, "makes": contents(run, made, {})}
        disk.write_text(sign_path, json.dumps(sign, indent=1) + "\n")
    return 0


def run_command(words, output):
    """Run a command, show what it prints and keep that in the file `output` once the command has ended well."""
    if words[0].endswith(".py") or words[0] == "-m":
        words = [sys.executable, *words]
    child = subprocess.Popen(words, stdout=subprocess.PIPE)
    forward = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        with disk.whole_file(output) as kept:
            while piece := child.stdout.read1(1 << 16):
                kept.write(piece)
                sys.stdout.buffer.write(piece)
                sys.stdout.flush()
            status = child.wait()
            if status:
                raise ChildProcessError
    except ChildProcessError:                           # what was printed before stays
        return 128 - status if status < 0 else status
    except KeyboardInterrupt:                           # of the terminal: the child was told as well
        child.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, forward)
        child.stdout.close()
    return 0


def parse_args(argv=None):
    p = argparse.ArgumentParser(prog="python -m run.runs", description="Run a stage of a run, unless it is finished. Everything behind -- is its command.")
    p.add_argument("--run", type=Path, required=True, metavar="DIR", help="run folder; {run} in the command stands for it")
    p.add_argument("--name", required=True, help="of the stage: what it prints goes to RUN/log/NAME.txt")
    p.add_argument("--made-of", nargs="*", default=[], metavar="GLOB", help="what it reads, relative to the run folder")
    p.add_argument("--makes", nargs="+", required=True, metavar="GLOB", help="what it writes, likewise")
    p.add_argument("--output", metavar="FILE", help="keep what it prints here, likewise, and not in log/NAME.txt")
    p.add_argument("command", nargs="+", help="a script of this project and its arguments, or a program")
    return p.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    return stage(args.run, args.name, args.made_of, args.makes, args.command, args.output)


if __name__ == "__main__":
    command.run(main)
