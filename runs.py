"""runs.py: how the files of a run come to be. They appear whole, and two processes never write in one folder.

    whole_file(path)        a file gets its name when all of it is on the disk; until then what was there stays
    locked(folder, name)    two processes of one stage never work in one folder

Files get their names by os.replace, which a kill cannot cut in half. A power loss could: a name may reach the disk
before the bytes do. So the file is flushed before it is renamed, and the folder after it.
"""

import contextlib
import os
import re
import secrets
from pathlib import Path

TEMPORARY = re.compile(r".+\.\d+-[0-9a-f]{8}\.tmp")     # name, process, eight random digits
_held = set()                                           # lock files of this process


def sync_folder(folder):
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(old, new):
    """Rename a finished file or folder, also on the disk, over whatever file had the new name. Both lie on one file system."""
    os.replace(old, new)
    sync_folder(Path(new).parent)


@contextlib.contextmanager
def whole_file(path):
    """A binary file to write to that gets its name only when it is complete and on the disk.

    On any failure what was there stays. The temporary name is this writer's own: PATH.PROCESS-RANDOM.tmp.
    """
    tmp = Path(f"{path}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(tmp, "xb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        replace(tmp, path)
    except BaseException as e:
        with contextlib.suppress(OSError):
            tmp.unlink()
        if isinstance(e, OSError) and e.errno and e.filename is None:       # a failed write does not say where
            raise OSError(e.errno, e.strerror, str(path)) from None
        raise


def remove_temporaries(folder):
    """Remove what killed processes left of whole_file. Only under the folder's lock: nobody else is writing there."""
    for path in Path(folder).iterdir():
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder, name):
    """Keep a second `name` (a command, "train.py") out of the folder: ValueError for that one. Makes the folder.

    The lock is not the file but the system's, held by this process without its children: a dead process holds none,
    whatever it left behind.
    """
    import fcntl                                        # not on Windows, where gpt.py still is to load

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / ".lock"
    refusal = ValueError(f"{folder}: another {name} is writing there; wait for its end, or name another folder with --run")
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
            remove_temporaries(folder)
            yield
        finally:
            _held.discard(path)
            path.unlink(missing_ok=True)
