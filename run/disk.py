"""disk.py: text files in, whole files out.

    read_json(path), read_jsonl(path), read_lines(path)     a damaged file is an error that names it
    whole_file(path), write_text(path, text)                a file gets its name when all of it is on the disk;
                                                            until then, what was there stays

Files get their names by os.replace, which a kill cannot cut in half. A power loss could: a name may reach
the disk before the bytes do. So a file is flushed before it is renamed, and its folder after that.
"""

import contextlib
import gzip
import json
import os
import re
import secrets
import zlib
from collections import Counter
from pathlib import Path

TEMPORARY = re.compile(r"(.+)\.(\d+)-[0-9a-f]{8}\.tmp")     # name, process, eight random digits

# ---------------------------------------------------------------------------------------- reading


def distinct(pairs):
    """A JSON object; ValueError if a key stands in it twice, as only one value could be meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {key[:60]!r}{'...' * (len(key) > 60)} stands twice in one object")
    return found


def read_json(path):
    """The object in a JSON file; ValueError naming the file if it is not one."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:           # ValueError: not UTF-8, not JSON, a number too long
        raise ValueError(f"{path}: not JSON ({str(e)[:100]})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, found {str(found)[:40]!r}")
    return found


def read_jsonl(path):
    """[(line number, object)] of a file with one JSON object a line; ValueError naming the line that is none."""
    rows = []
    with open(path, "rb") as f:
        for n, line in enumerate(f, 1):
            if line.strip():
                try:
                    rows.append((n, json.loads(line.decode("utf-8"))))
                except (ValueError, RecursionError) as e:       # not UTF-8, not JSON, too deep, a number too long
                    raise ValueError(f"{path}:{n}: not JSON ({str(e)[:100]})") from None
    if not rows:
        raise ValueError(f"{path}: empty, there is nothing to learn from")
    return rows


def read_lines(path, errors="strict"):
    """The lines of a text file, gzipped or not; ValueError naming the file if it is damaged. errors: of UTF-8, as for open."""
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rt", encoding="utf-8", errors=errors) as f:
            yield from f
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise ValueError(f"{path}: damaged gzip ({e}); fetch or make it again") from None
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: not UTF-8 text ({e.reason} at byte {e.start})") from None


# ---------------------------------------------------------------------------------------- writing


def sync_folder(folder):
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path):
    """Bring a file's bytes to the disk."""
    with open(path, "rb") as f:
        os.fsync(f.fileno())


def replace(old, new):
    """Rename a finished file over whatever file has the new name, also on the disk. Both lie on one file system."""
    os.replace(old, new)
    sync_folder(Path(new).parent)


@contextlib.contextmanager
def whole_file(path):
    """A binary file to write to that gets its name only when it is complete and on the disk.

    On any failure what was there stays. The temporary name is this writer's own: PATH.PROCESS-RANDOM.tmp.
    """
    tmp = Path(f"{path}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with naming(path):
            with open(tmp, "xb") as f:
                yield f
                f.flush()
                os.fsync(f.fileno())
            replace(tmp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise


@contextlib.contextmanager
def naming(path):
    """An error of the system that names no file, as of a full disk, names this one."""
    try:
        yield
    except OSError as e:
        if e.errno and e.filename is None:
            raise OSError(e.errno, e.strerror, str(path)) from None
        raise


def write_text(path, text):
    """Write a text file, UTF-8, whole."""
    with whole_file(path) as f:
        f.write(text.encode("utf-8"))


def remove_temporaries(folder, name=None):
    """Remove what killed processes left of whole_file in a folder, or only what was to be the file `name`."""
    for path in Path(folder).iterdir():
        found = TEMPORARY.fullmatch(path.name)
        if found and name in (None, found[1]) and not is_alive(int(found[2])):
            path.unlink(missing_ok=True)


def is_alive(process):
    """Whether a process of this number is there: then its temporary file is still being written."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:                             # somebody else's
        return True
    try:                                                # one that has ended and that nobody asked about is still listed
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
        return state not in ("Z", "X")
    except (OSError, IndexError):                       # no such files on this system
        return True
