"""Shared by all tests: scripts on the path, real inputs if they are there, the gradient checker."""

import contextlib
import fcntl
import importlib
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model import fast  # noqa: E402
import numpy as np  # noqa: E402

from run import command, progress  # noqa: E402

SHARED = Path(os.environ.get("LONGHAND_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def nothing_is_shown_yet():
    """A test's first line of progress is shown, whatever the test before it has just shown."""
    progress._written.clear()


@pytest.fixture(scope="session")
def shared():
    """A function from a file name to its path among the real inputs; skips the test without it."""
    def find(name):
        if not (SHARED / name).exists():
            pytest.skip(f"real input {name} is not here; set LONGHAND_DATA to its folder")
        return SHARED / name
    return find


def check_grad(loss, pairs, tol=1e-7, n=20, h=1e-5, seed=0):
    """Compare gradients written by hand with finite differences in float64.

    loss: () -> float, reading the arrays of pairs; pairs: {name: (x, dx)}. Looks at n entries of
    each array, one by one, then calls check_directions, which sees all entries. The error of an
    entry is relative to the largest gradient of its array: zeros have no relative error.

    The tolerance leaves room for both errors of the centred difference. A loss of size 1 is rounded
    to a few 1e-16, which the division by 2h turns into 1e-11. The third derivative adds h^2 / 6 of
    itself, again 1e-11. If the largest gradient is a thousandth of the loss, that is 1e-8 of it.
    """
    rng = np.random.default_rng(seed)
    for name, (x, dx) in pairs.items():
        assert x.dtype == np.float64 and dx.shape == x.shape, name
        flat, scale = x.reshape(-1), np.abs(dx).max() + 1e-12
        for i in rng.choice(flat.size, min(n, flat.size), replace=False):
            old = flat[i]
            flat[i] = old + h
            up = loss()
            flat[i] = old - h
            down = loss()
            flat[i] = old
            numeric, by_hand = (up - down) / (2 * h), dx.reshape(-1)[i]
            error = abs(numeric - by_hand) / scale
            assert error < tol, (f"{name}[{i}]: by hand {by_hand}, "
                                 f"by finite differences {numeric}, error {error:.1e}")
    check_directions(loss, pairs, tol, seed=seed)


def check_directions(loss, pairs, tol=1e-7, h=1e-4, seed=0):
    """Compare derivatives along random directions: one for each array of pairs, one for all.

    Every entry moves by a normal number times h. The derivative is the sum of dx times these
    numbers, so a wrong entry anywhere changes it. It is about as large as the norm of dx, to which
    the error is relative.

    Thousands of entries that move together go far: the centred difference's error of order h^2
    would be too large. Steps of two lengths cancel it. The rest is of order h^4, so h may be large,
    which keeps the rounding of the loss small. The largest error measured on GPT-2s of up to 10,000
    parameters is 3e-9.
    """
    rng = np.random.default_rng([seed, 1])      # not the stream from which a test drew x itself
    directions = {name: rng.standard_normal(x.shape) for name, (x, _) in pairs.items()}
    groups = [[name] for name in pairs]
    if len(pairs) > 1:
        groups.append(list(pairs))
    for names in groups:
        before = {name: pairs[name][0].copy() for name in names}
        losses = []
        for step in (h, -h, 2 * h, -2 * h):
            for name in names:
                pairs[name][0][...] = before[name] + step * directions[name]
            losses.append(loss())
        for name in names:
            pairs[name][0][...] = before[name]
        numeric = (8 * (losses[0] - losses[1]) - (losses[2] - losses[3])) / (12 * h)
        by_hand = sum((pairs[name][1] * directions[name]).sum() for name in names)
        norm = sum((pairs[name][1] ** 2).sum() for name in names) ** 0.5 + 1e-12
        error = abs(numeric - by_hand) / norm
        what = names[0] if len(names) == 1 else f"all of {', '.join(names)}"
        assert error < tol, (f"{what}, along a random direction: by hand {by_hand}, "
                             f"by finite differences {numeric}, error {error:.1e}")


def script(name):
    """The words behind `python`: a path for a chapter or a test, -m and a name for a room.

    A room needs the checkout as the current folder.
    """
    if name.startswith("tests/") or "/" not in name:
        return [str(ROOT / name)]
    return ["-m", name.removesuffix(".py").replace("/", ".")]


def run_script(name, *args, **kwargs):
    """Run one of the scripts as a user does. Returns the finished process, output as text."""
    words = [sys.executable, *script(name), *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, **kwargs)


def at_a_terminal(words, columns=80, keys=(), **environment):
    """What a Python program shows on a terminal of so many columns, its line ends as "\\n".

    words: those behind `python`. keys: [(text, keys)], the keys that are pressed once the text has
    been shown. environment: variables beside our own; NO_COLOR and COLUMNS are not inherited.
    """
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, *map(str, words)], stdin=there, stdout=there, stderr=there, cwd=ROOT,
        env={**kept, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment})
    os.close(there)
    said, keys, seen = b"", list(keys), 0
    while True:
        try:
            piece = os.read(here, 1 << 16)
        except OSError:                 # so ends a terminal on Linux
            break
        if not piece:
            break
        said += piece
        while keys and keys[0][0].encode() in said[seen:]:
            text, pressed = keys.pop(0)
            seen = said.index(text.encode(), seen) + len(text.encode())
            os.write(here, pressed.encode())
    os.close(here)
    process.wait()
    return said.decode("utf-8", "replace").replace("\r\n", "\n")


def run_main(script, *args):
    """A command in this process, to save the start of Python: its exit status and its error text.

    Errors that command.run() does not know pass through: there they would be a traceback.
    """
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            status = module.main([str(a) for a in args]) or 0
        except (ValueError, OSError, MemoryError) as error:
            status = 1
            print(f"{Path(script).name}: error: {command.message(error)}", file=said)
        except SystemExit as end:
            status = end.code
    return SimpleNamespace(returncode=status, stderr=said.getvalue())


def kill_and_rerun(name, args, rng, most=3, slowest=1.5):
    """Start a script, SIGKILL it at a random moment, several times over; then let it finish."""
    for _ in range(most):
        words = [sys.executable, *script(name), *map(str, args)]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   cwd=ROOT)
        time.sleep(rng.uniform(0.2, slowest))
        process.kill()
        process.wait()
    done = run_script(name, *args)
    assert done.returncode == 0, done.stderr
    return done
