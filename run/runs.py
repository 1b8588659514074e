"""runs.py: files of a run that belong together, locks, and the stages that make runs.

    publish(new, folder, sign)  files that belong together, such as a model and its tokenizer,
                                appear at once
    locked(folder, name)        two processes of one stage never work in one folder
    is_locked(folder, name)     whether a process works there now
    seconds_spent()             time of this process and of the killed ones that it continues
    row(stage, source, result)  the line with which a stage ends, for make's table
    python -m run.runs ...      how make runs a stage, unless the stage is finished

A finished stage has a sign, RUN/log/NAME.json. It is written when everything else is on the disk,
and holds the command, the files that the stage read and the files that it made, each with its
SHA-256. The stage counts as finished while command and contents are the same and every product is
there. Times of files do not matter, so a run may be copied to another folder or machine.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

from run import command, disk

MOVES = "moves.json"        # its presence says: the new files of this folder are complete

# ----------------------------------------------------------------------- files that belong together


def publish(new, folder, sign, remove=()):
    """Move the finished files of the folder `new` into `folder`, then remove `new`.

    They replace files of the same names. sign: the file by which readers know that the others are
    there; its old version goes first, its new version comes last. remove: names of old files that
    have no successor. If the process is killed in between, settle() finishes the moves.
    """
    prepare(new, sign, remove)
    settle(new, folder)


def prepare(new, sign, remove=()):
    """The first half of publish(): from now on, settle() moves the files."""
    new = Path(new)
    (new / MOVES).unlink(missing_ok=True)               # of a process that was killed here
    files = []
    for path in sorted(new.rglob("*")):
        if path.is_file() and not disk.TEMPORARY.fullmatch(path.name):
            disk.sync(path)
            files.append(path.relative_to(new).as_posix())
    files.sort(key=lambda name: name == sign)
    disk.write_text(new / MOVES, json.dumps({"remove": [sign, *remove], "files": files}))


def settle(new, folder):
    """Finish the moves that a killed publish() began; does nothing if there are none."""
    new, folder = Path(new), Path(folder)
    try:
        moves = json.loads((new / MOVES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    none_moved = all((new / name).exists() for name in moves["files"])
    if none_moved:
        for name in moves["remove"]:
            (folder / name).unlink(missing_ok=True)
    for name in moves["files"]:
        if (new / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            disk.replace(new / name, folder / name)
    shutil.rmtree(new)


def check_settled(new, again):
    """ValueError if a killed publish() left its moves half done: old files would lie beside new.

    again: the command that finishes the moves.
    """
    if (Path(new) / MOVES).exists():
        raise ValueError(
            f"{Path(new).parent}: its files were being replaced when that was killed; "
            f"finish it with: {again}")


# ------------------------------------------------------------------------------------------- locks

_locked_here = set()        # paths of the lock files that this process holds
# C's struct flock: type, whence, start, length, process; macOS has the first two at the end
FLOCK = ("qqihh", 3) if sys.platform == "darwin" else ("hhqqi", 0)      # and where its type is


def lock_of(folder, name):
    """The file of a lock. It is there while the lock is held, and after its holder was killed."""
    return Path(folder).resolve() / f".{name}.lock"


def is_locked(folder, name):
    """Whether a process, this one or another, holds the lock. To ask takes no lock."""
    path = lock_of(folder, name)
    if path in _locked_here:                # to open and close the file would free it
        return True
    try:
        import fcntl                        # missing on Windows
        with open(path, "rb") as file:
            layout, type_at = FLOCK
            question = [0] * 5              # of the whole file
            question[type_at] = fcntl.F_WRLCK
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *question))
    except FileNotFoundError:
        return False
    return struct.unpack(layout, answer)[type_at] != fcntl.F_UNLCK


@contextlib.contextmanager
def locked(folder, name):
    """Keep a second `name` ("data.py", "training") out of the folder, which is made if missing.

    The second one gets a ValueError. The operating system holds the lock for this process, not for
    its children, and frees it when the process dies, whatever files it leaves behind.
    """
    import fcntl            # missing on Windows, where gpt.py must load nevertheless

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = lock_of(folder, name)
    refusal = ValueError(
        f"{folder}: another {name} is writing there; wait for its end, or use another folder"
    )
    if path in _locked_here:                # the system's lock does not stop its own holder
        raise refusal
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise refusal from None
        if not os.fstat(file.fileno()).st_nlink:        # its holder has just removed the file
            raise refusal
        _locked_here.add(path)
        try:
            disk.remove_temporaries(folder)
            yield
        finally:
            _locked_here.discard(path)
            path.unlink(missing_ok=True)


# -------------------------------------------------------------------------------------------- time

_started = time.perf_counter()
_earlier = 0.0              # seconds of killed processes whose work this one continues


def start_clock():
    """Begin to count the seconds of a command."""
    global _started, _earlier
    _started = time.perf_counter()
    _earlier = 0.0


def add_earlier(seconds):
    """Count the seconds of killed processes whose work this one continues."""
    global _earlier
    _earlier += seconds


def seconds_spent():
    """Seconds since start_clock(), and those of add_earlier()."""
    return _earlier + time.perf_counter() - _started


def row(stage, source, result):
    """A stage's row of make's table: what it read, what it made, and its seconds; 78 columns.

    It is the last line that the command of a stage prints.
    """
    return f"{stage:9} {source:23} {result:36} {seconds_spent():5.0f} s"


# ------------------------------------------------------------------------------- the stages of make


def files_of(run, patterns):
    """The files that match glob patterns in the run folder: sorted names relative to it."""
    names = set()
    for pattern in patterns:
        names.update(p.relative_to(run).as_posix() for p in run.glob(pattern) if p.is_file())
    return sorted(names)


def sha256_of(path):
    """The SHA-256 of a file's contents, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def contents(run, names, known):
    """{name: {"size", "mtime_ns", "sha256"}} of files of the run.

    known: the same table from an earlier call. A file whose size and time are unchanged is not
    read again.
    """
    found = {}
    for name in names:
        status = (run / name).stat()
        entry = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        before = known.get(name, {})
        if {**before, **entry} == before and "sha256" in before:
            found[name] = before
        else:
            found[name] = {**entry, "sha256": sha256_of(run / name)}
    return found


def read_sign(path):
    """The sign of a finished stage, {"command", "made_of", "makes"}; an empty one otherwise."""
    nothing = {"command": None, "made_of": {}, "makes": {}}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        entries = [*found["made_of"].values(), *found["makes"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return nothing
    return found if all(isinstance(entry, dict) for entry in entries) else nothing


def digests(entries):
    """{name: SHA-256} of a table of contents()."""
    return {name: entry.get("sha256") for name, entry in entries.items()}


def is_finished(run, sign, inputs, words, output):
    """Whether a stage would be made from the same files by the same command, and all is there."""
    if sign["command"] != words or digests(sign["made_of"]) != digests(inputs):
        return False
    products = [run / name for name in sign["makes"]]
    return products and all(path.exists() for path in (output, *products))


def stage(run, name, made_of, makes, words, output=None, about=None):
    """Run one stage of a run, unless it is finished; returns the exit status of its command.

    made_of, makes: glob patterns, in the run folder, of the files that it reads and writes.
    words: the command, its script first; {run} in them stands for the folder, so that a run may
    move. output: the file that keeps what the command prints (default RUN/log/NAME.txt); its last
    line is the stage's row in the final table. about: what the stage does, for the user.
    """
    sign_path = run / "log" / f"{name}.json"
    output = run / (output or f"log/{name}.txt")
    with locked(run / "log", f"make of {name}"):
        sign = read_sign(sign_path)
        inputs = contents(run, files_of(run, made_of), sign["made_of"])
        if is_finished(run, sign, inputs, words, output):
            if inputs != sign["made_of"]:   # new times, the same contents: do not read them again
                sign["made_of"] = inputs
                disk.write_text(sign_path, json.dumps(sign, indent=1) + "\n")
            print(f"{name}: finished before, from the same files")
            return 0
        sign_path.unlink(missing_ok=True)
        place = str(run)
        if place.startswith("-"):           # else it looks like an option
            place = f"./{place}"
        words_here = [word.replace("{run}", place) for word in words]
        said = shlex.join(words_here)
        if about:                           # its options only fill the line
            said = f"{about} ({said.partition(' --')[0]})"
        print(f"{name}: {said}", file=sys.stderr, flush=True)
        status = run_command(words_here, output)
        if status:
            return status
        missing = [pattern for pattern in makes if not any(run.glob(pattern))]
        if missing:
            script = words[1] if words[0] == "-m" else words[0]
            raise ValueError(f"{run}: {script} ended well but did not make {', '.join(missing)}")
        products = contents(run, files_of(run, makes), {})
        sign = {"command": words, "made_of": inputs, "makes": products}
        disk.write_text(sign_path, json.dumps(sign, indent=1) + "\n")
    return 0


def run_command(words, output):
    """Run a command, show its output, and keep it in the file `output` if the command succeeds.

    Returns the exit status, as a shell counts it: 128 + the signal that killed the command.
    """
    if words[0].endswith(".py") or words[0] == "-m":
        words = [sys.executable, *words]
    child = subprocess.Popen(words, stdout=subprocess.PIPE)
    old_handler = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        with disk.whole_file(output) as kept:
            while piece := child.stdout.read1(1 << 16):
                kept.write(piece)
                sys.stdout.buffer.write(piece)
                sys.stdout.flush()
            status = child.wait()
            if status:
                raise ChildProcessError     # whole_file then leaves the earlier output there
    except ChildProcessError:
        return 128 - status if status < 0 else status
    except KeyboardInterrupt:               # the terminal has interrupted the child as well
        child.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, old_handler)
        child.stdout.close()
    return 0


def parse_args(argv=None):
    """The options of `python -m run.runs`."""
    p = argparse.ArgumentParser(
        prog="python -m run.runs",
        description="Run a stage of a run, unless it is finished. Its command follows after --.",
    )
    p.add_argument("--run", type=Path, required=True, metavar="DIR",
                   help="run folder; {run} in the command stands for it")
    p.add_argument("--name", required=True,
                   help="name of the stage; RUN/log/NAME.txt keeps what it prints")
    p.add_argument("--made-of", nargs="*", default=[], metavar="GLOB",
                   help="files that it reads, relative to the run folder")
    p.add_argument("--makes", nargs="+", required=True, metavar="GLOB",
                   help="files that it writes, relative to the run folder")
    p.add_argument("--output", metavar="FILE",
                   help="keep what it prints in this file of the run folder instead")
    p.add_argument("--about", metavar="TEXT", help="say this before the command runs")
    p.add_argument("command", nargs="+",
                   help="a script of this project and its arguments, or a program")
    return p.parse_args(argv)


def main(argv=None):
    """Run the stage that the command line describes."""
    args = parse_args(argv)
    return stage(args.run, args.name, args.made_of, args.makes, args.command, args.output,
                 args.about)


if __name__ == "__main__":
    command.run(main)
