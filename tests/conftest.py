"""Shared by all tests: the scripts on the path, the real inputs if they are there, and the gradient checker."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import gpt  # noqa: E402,F401  before numpy: it tells NumPy's BLAS which CPU this is
import numpy as np  # noqa: E402

SHARED = Path(os.environ.get("LONGHAND_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def shared():
    """A function from a file name to its path among the real inputs; the test is skipped when it is absent."""
    def find(name):
        if not (SHARED / name).exists():
            pytest.skip(f"real input {name} is not here; set LONGHAND_DATA to the folder that holds it")
        return SHARED / name
    return find


def check_grad(loss, pairs, tol=1e-7, n=20, h=1e-5, seed=0):
    """Compare gradients written by hand with centred finite differences in float64.

    loss: () -> float, reading the arrays of pairs; pairs: {name: (x, dx)}. Looks at n places of each array.
    The error is relative to the largest gradient of the array: single zeros have no relative error of their own.
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
            assert error < tol, f"{name}[{i}]: by hand {by_hand}, by finite differences {numeric}, error {error:.1e}"


def run_script(name, *args, **kwargs):
    """Run one of the scripts as a user does. Returns the finished process, output as text."""
    return subprocess.run([sys.executable, str(ROOT / name), *map(str, args)], capture_output=True, text=True, cwd=ROOT, **kwargs)


def kill_and_rerun(name, args, rng, most=6, slowest=1.5):
    """Start a script, SIGKILL it at a random moment, several times over; then let it finish."""
    for _ in range(most):
        process = subprocess.Popen([sys.executable, str(ROOT / name), *map(str, args)], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, cwd=ROOT)
        time.sleep(rng.uniform(0.2, slowest))
        process.kill()
        process.wait()
    done = run_script(name, *args)
    assert done.returncode == 0, done.stderr
    return done
