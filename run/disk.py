"""disk.py: reads text files, and writes files whole.

    read_json, read_jsonl, read_lines       a damaged file is an error that names it
    whole_file, write_text                  a file gets its name when all of it is on the disk;
                                            until then, the previous file stays

os.replace gives a file its name, and no kill can cut that in half. A power loss could: the name may
reach the disk before the bytes do. So the file is flushed before it is renamed, and its folder
afterwards.
"""

import contextlib
import gzip
import io
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
    """A JSON object from its (key, value) pairs; ValueError if a key occurs twice.

    Only one of the two values could be meant.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        shown = repr(key[:60]) + "..." * (len(key) > 60)
        raise ValueError(f"the key {shown} stands twice in one object")
    return found


def read_json(path):
    """The object in a JSON file; ValueError naming the file if it holds none."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:       # not UTF-8, not JSON, too deep, a huge number
        raise ValueError(f"{path}: not JSON ({str(e)[:100]})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, found {str(found)[:40]!r}")
    return found


def read_jsonl(path):
    """[(line number, object)] of a file with one JSON object a line.

    ValueError naming the file and the line that holds none.
    """
    rows = []
    with open(path, "rb") as f:
        for n, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                rows.append((n, json.loads(line.decode("utf-8"))))
            except (ValueError, RecursionError) as e:       # as in read_json
                raise ValueError(f"{path}:{n}: not JSON ({str(e)[:100]})") from None
    if not rows:
        raise ValueError(f"{path}: empty, there is nothing to learn from")
    return rows


def read_lines(path, errors="strict"):
    """The lines of a text file, gzipped or not; ValueError naming the file if it is damaged.

    errors: what to do with bytes that are not UTF-8, as for open().
    """
    open_text = gzip.open if str(path).endswith(".gz") else open
    try:
        with open_text(path, "rt", encoding="utf-8", errors=errors) as f:
            yield from f
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise ValueError(f"{path}: damaged gzip ({e}); fetch or make it again") from None
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: not UTF-8 text ({e.reason} at byte {e.start})") from None


# ---------------------------------------------------------------------------------------- writing


def sync(path):
    """Bring a file's bytes to the disk, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(old, new):
    """Rename a finished file, over any file of the new name, also on the disk.

    Both names are on one file system.
    """
    os.replace(old, new)
    sync(Path(new).parent)


@contextlib.contextmanager
def whole_file(path):
    """A binary file to write to. It gets its name only when it is complete and on the disk.

    After any failure the previous file is still there. The temporary name belongs to this writer
    alone: PATH.PROCESS-RANDOM.tmp.
    """
    tmp = Path(f"{path}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with naming(path):
            with open(tmp, "xb") as f:
                yield f
            sync(tmp)
            replace(tmp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise


@contextlib.contextmanager
def naming(path):
    """Add the path to a system error that names no file, such as that of a full disk."""
    try:
        yield
    except OSError as e:
        if e.errno and e.filename is None:
            raise OSError(e.errno, e.strerror, str(path)) from None
        raise


@contextlib.contextmanager
def gzip_text(file):
    """Text that is gzipped into a file, which is closed at the end of the block.

    The bytes depend on the text only: they hold no name and no time.
    """
    with file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packer:
        with io.TextIOWrapper(packer, encoding="utf-8", newline="\n") as text:
            yield text


def write_text(path, text):
    """Write a text file, UTF-8, whole."""
    with whole_file(path) as f:
        f.write(text.encode("utf-8"))


def remove_temporaries(folder, names=None):
    """Remove temporary files of whole_file that killed processes left in a folder.

    names: only those of the files of these names.
    """
    for path in Path(folder).iterdir():
        found = TEMPORARY.fullmatch(path.name)
        if found and (names is None or found[1] in names) and not is_alive(int(found[2])):
            path.unlink(missing_ok=True)


def is_alive(process):
    """Whether a process with this number runs. If so, it is still writing its temporary file."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:                 # another user's process
        return True
    try:                                    # a zombie is still listed: it has ended, unnoticed
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        state = status.rpartition(")")[2].split()[0]
        return state not in ("Z", "X")
    except (OSError, IndexError):           # this system has no such files
        return True
