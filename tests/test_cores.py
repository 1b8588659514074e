"""model/cores.py: one BLAS thread whoever loads NumPy first, work on threads, work on processes."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

from model import bfloat16, cores
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def python(program, timeout=60, **variables):
    """Run a program in a new Python, with only those variables for the BLAS that are given."""
    env = {
        k: v for k, v in os.environ.items() if "NUM_THREADS" not in k and k != "OPENBLAS_CORETYPE"
    }
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=timeout,
        env={**env, **variables},
    )


# --------------------------------------------------------------------------------------------- BLAS

# Asks OpenBLAS itself. It finds the library in another way than model/cores.py does.
THREADS = """
import ctypes
path = next(line.split()[-1] for line in open("/proc/self/maps") if "openblas" in line)
library = ctypes.CDLL(path)
names = (
    "scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_", "openblas_get_num_threads"
)
for name in names:
    if hasattr(library, name):
        print(getattr(library, name)())
        break
"""


@pytest.mark.skipif(
    cores.N_THREADS < 2 or sys.platform != "linux",
    reason="needs Linux and two cores: OpenBLAS starts one thread a core",
)
@pytest.mark.skipif(
    "OPENBLAS" not in (cores.blas_functions(cores.numpy_library()) or "")[-1],
    reason="NumPy's BLAS here is not OpenBLAS",
)
@pytest.mark.parametrize(
    "imports, variables, threads, said",
    [
        ("from model import cores; import numpy", {}, 1, None),
        ("import numpy; from model import cores", {}, 1, None),
        ("import numpy; from model import fast", {}, 1, None),
        (
            "import numpy; from model import cores",
            {"OPENBLAS_NUM_THREADS": "2"},
            2,
            "calls a BLAS with 2 threads of its own, which is slow; set OPENBLAS_NUM_THREADS=1",
        ),
        (
            "from model import cores; import numpy",
            {"OPENBLAS_NUM_THREADS": "2"},
            2,
            "calls a BLAS with 2 threads of its own, which is slow; set OPENBLAS_NUM_THREADS=1",
        ),
        (
            "import numpy; from model import cores",
            {"OMP_NUM_THREADS": "2"},
            1,
            "OMP_NUM_THREADS=2 is not followed",
        ),
        (
            "from model import cores; import numpy",
            {"OMP_NUM_THREADS": "2"},
            1,
            "OMP_NUM_THREADS=2 is not followed",
        ),
    ],
)
def test_threads_of_the_blas(imports, variables, threads, said):
    done = python(imports + "\n" + THREADS, **variables)
    assert done.stdout == f"{threads}\n", done.stderr
    lines = [
        line for line in done.stderr.splitlines() if "uses its kernels for" not in line
    ]  # another matter, of the CPU
    assert [said in line for line in lines] == [True] if said else not lines, done.stderr


class Library:
    """A BLAS of which only the functions for its threads are there."""

    def __init__(self, names, obeys=True):
        self.threads = 8
        if names:
            setattr(self, names[0], lambda n: setattr(self, "threads", n.value if obeys else 8))
            setattr(self, names[1], lambda: self.threads)


def test_other_libraries_than_openblas():
    for names in cores.BLAS_FUNCTIONS:
        library = Library(names)
        assert cores.limit_blas(library, True, {}) == [] and library.threads == 1
        library = Library(names)
        (line,) = cores.limit_blas(library, True, {names[2]: "8"})
        assert library.threads == 8 and f"set {names[2]}=1 (it is 8)" in line
        for nonsense in ("0", "", "many"):
            assert cores.limit_blas(Library(names), True, {names[2]: nonsense}) == []
    (line,) = cores.limit_blas(Library(cores.BLAS_FUNCTIONS[4], obeys=False), True, {})
    assert (
        "a BLAS with 8 threads of its own, which is slow; "
        "set MKL_NUM_THREADS=1 and import model.cores (or model.fast) before numpy" in line
    )
    (line,) = cores.limit_blas(Library(None), True, {})
    assert "import model.cores (or model.fast) before numpy" in line
    assert cores.limit_blas(Library(None), False, {}) == []


def test_kernels_of_the_blas_that_was_loaded_first(monkeypatch):
    library = Library(cores.BLAS_FUNCTIONS[3])
    library.openblas_get_corename = type(
        "F", (), {"restype": None, "__call__": lambda self: b"Haswell"}
    )()
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Zen")
    (line,) = cores.limit_blas(library, True, {})
    assert (
        "uses its kernels for Haswell where those for Zen suit" in line
        and "set OPENBLAS_CORETYPE=Zen" in line
    )
    assert cores.limit_blas(library, False, {}) == []
    monkeypatch.setenv("OPENBLAS_CORETYPE", "HASWELL")
    assert cores.limit_blas(library, True, {}) == []


# ------------------------------------------------------------------------------------------ threads


@pytest.fixture(params=[1, 2, 4])
def n_threads(request, monkeypatch):
    """So many threads, whatever the machine has."""
    monkeypatch.setattr(cores, "N_THREADS", request.param)
    monkeypatch.setattr(
        cores, "_pool", None
    )  # which the next line replaces, and monkeypatch restores
    cores._new_pool()
    yield request.param
    cores._pool.shutdown()


def test_results_are_in_order(n_threads):
    for n_parts in (None, 1, 2, 3, 50):
        n = n_parts or n_threads
        assert cores.in_parallel(lambda part: (part.index, part.parts), n_parts) == [
            (i, n) for i in range(n)
        ]
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    sums = {
        sum(cores.in_parallel(lambda part: values[part(1000)].sum(), 7)).tobytes()
        for _ in range(20)
    }
    assert len(sums) == 1


def blas_threads():
    """How many threads the BLAS has, or 1 where it is not known."""
    library = cores.numpy_library()
    names = cores.blas_functions(library)
    return getattr(library, names[1])() if names else 1


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("kind", ["rows", "columns", "bfloat16"])
def test_product_on_all_cores(kind, is_known, n_threads, monkeypatch):
    """By the threads of the BLAS and by ours: the product, also in a place of its own."""
    monkeypatch.setattr(cores, "N_THREADS", n_threads)
    if not is_known:
        monkeypatch.setattr(cores, "_set_blas_threads", None)
    rng = np.random.default_rng(0)
    for n, n_in, n_out in ((1, 700, 900), (33, 40, 50), (2, 3, 1)):
        x = rng.standard_normal((n, n_in), np.float32)
        w = rng.standard_normal((n_in, n_out), np.float32)
        if kind == "bfloat16":
            w = bfloat16.narrow(w)
        elif kind == "columns":
            w = w.T.copy().T
        want = x.astype(np.float64) @ np.asarray(w)
        np.testing.assert_allclose(cores.product(x, w), want, atol=1e-4)
        place = np.full((n, 2 * n_out), np.nan, np.float32)
        cores.product(x, w, out=place[:, n_out:])
        np.testing.assert_allclose(place[:, n_out:], want, atol=1e-4)
        assert np.isnan(place[:, :n_out]).all()


def test_a_product_gives_the_threads_back(monkeypatch):
    """To those that divide their work themselves, after a mistake too."""
    monkeypatch.setattr(cores, "N_THREADS", 2)
    before = blas_threads()
    x = np.ones((4, 5))
    cores.product(x, np.ones((5, 6)))
    assert blas_threads() == before
    with pytest.raises(ValueError):
        cores.product(x, np.ones((6, 5)))
    assert blas_threads() == before


@pytest.mark.parametrize("n_parts", [0, -1])
def test_no_parts_are_a_mistake(n_parts):
    with pytest.raises(ValueError, match=f"in_parallel: {n_parts} parts, expected 1 at least"):
        cores.in_parallel(lambda part: None, n_parts)


def test_parts_may_divide_their_work_again():
    """Three deep, and from several threads at once; in a new process, because a fault would
    hang."""
    program = """
import threading
from model import cores
def deep(depth):
    def work(part):
        return part.index if depth == 0 else sum(cores.in_parallel(deep(depth - 1), 3))
    return work
results = []
def call():
    for _ in range(20):
        results.append(cores.in_parallel(deep(2), 4))
for n in (1, 2, 3):
    cores.N_THREADS = n
    cores._new_pool()
    threads = [threading.Thread(target=call) for _ in range(5)]
    for t in threads: t.start()
    for t in threads: t.join()
assert results == [[9] * 4] * 300, results
"""
    done = python(program)
    assert done.returncode == 0, done.stderr


def test_an_error_waits_for_the_parts_that_run(n_threads):
    if n_threads == 1:
        pytest.skip("with one thread no other part can be running")
    for failing in range(2):
        begun, ended = threading.Barrier(2), []

        def work(part):
            begun.wait(20)  # both run
            if part.index == failing:
                raise KeyError(part.index)
            time.sleep(0.05)
            ended.append(part.index)

        with pytest.raises(KeyError, match=str(failing)):
            cores.in_parallel(work, 2)
        assert ended == [1 - failing]


def test_the_first_error_is_raised_and_the_rest_is_left_out(n_threads):
    tried = []

    def work(part):
        tried.append(part.index)
        if part.index >= 3:
            raise KeyError(part.index)

    for _ in range(20):
        tried.clear()
        with pytest.raises(KeyError, match="3"):
            cores.in_parallel(work, 1000)
        assert set(range(4)) <= set(tried) and len(tried) <= 3 + n_threads


def test_an_interrupt_waits_for_the_parts_that_run(n_threads):
    if n_threads == 1:
        pytest.skip("with one thread no other part can be running")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ended, begun = [], threading.Barrier(2)

        def work(part):
            begun.wait(20)
            if part.index == 0:
                return
            for _ in range(3):  # impatient
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.03)
            ended.append(part.index)

        with pytest.raises(KeyboardInterrupt):
            cores.in_parallel(work, 2)
        assert ended == [1]
    finally:
        signal.signal(signal.SIGINT, before)
    assert cores.in_parallel(lambda part: part.index, 3) == [0, 1, 2]


def test_where_no_thread_can_be_had(n_threads, monkeypatch, capsys):
    monkeypatch.setattr(cores, "_few_threads", False)

    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(2):
            assert cores.in_parallel(lambda part: part.index, 5) == list(range(5))
    said = capsys.readouterr().err
    assert said == (
        f"cores: can't start new thread: 1 of {n_threads} threads do the work\n"
        if n_threads > 1
        else ""
    )
    done = []  # what could not be begun then must not be done twice now
    cores.in_parallel(lambda part: done.append(part.index), 20)
    assert sorted(done) == list(range(20))


def test_an_error_keeps_nothing(n_threads):
    class Array:
        pass

    def fails():
        big = Array()

        def work(part):
            if part.index == part.parts - 1:
                raise KeyError(id(big))

        with pytest.raises(KeyError):
            cores.in_parallel(work, 4)
        return weakref.ref(big)

    gc.collect()
    gc.disable()
    try:
        kept = fails()
        cores.in_parallel(lambda part: None)  # the pool's threads have dropped what they did before
        time.sleep(0.05)
        assert kept() is None
    finally:
        gc.enable()


# ---------------------------------------------------------------------------------------- processes


class Unreadable:
    """Can be sent, but not received."""

    def __reduce__(self):
        return _explode, ()


def _explode():
    raise OverflowError("cannot be put together again")


class NeedsTwo(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def answer(item):
    if item == "unsendable":
        return lambda: None
    if item == "unreadable":
        return Unreadable()
    if item == "error":
        raise NeedsTwo(1, 2)
    if item == "unsendable error":
        error = ValueError("with a lock")
        error.lock = threading.Lock()
        raise error
    if item == "dies":
        os._exit(3)
    return 2 * item


@pytest.mark.parametrize(
    "item, kind, what",
    [
        ("unsendable", Exception, "(?i)pickle|local object"),
        ("unreadable", OverflowError, "put together"),
        (Unreadable(), OverflowError, "put together"),
        (lambda: None, Exception, "(?i)pickle|local object"),
        ("error", RuntimeError, "NeedsTwo: 1 and 2"),
        ("unsendable error", RuntimeError, "ValueError: with a lock"),
        ("dies", ChildProcessError, r"worker process \d+ has died \(exit code 3\)"),
    ],
)
def test_what_cannot_be_sent_is_an_error(item, kind, what):
    with cores.processes(2, answer) as in_order:
        with pytest.raises(kind, match=what):
            list(in_order([1, 2, item, 4, 5]))
        if item != "dies":
            assert list(in_order([1, 2, 3])) == [2, 4, 6]  # the others are none the worse


def slow_first(item):
    time.sleep(0.05 if item < 2 else 0)
    return 10 * item


def test_a_map_that_nobody_reads_to_its_end():
    with cores.processes(2, slow_first) as in_order:
        abandoned = in_order(range(100))
        assert next(abandoned) == 0
        assert list(in_order(range(200, 210))) == [10 * i for i in range(200, 210)]
        both = list(zip(in_order(range(30)), in_order(range(50, 80))))
        assert both == [(10 * i, 10 * (50 + i)) for i in range(30)]
        assert next(abandoned) == 10


def test_a_killed_parent_leaves_nothing_behind():
    """No lines on the terminal, and no process: standard error ends when nobody holds it open."""
    program = """
import sys, time
from model import cores
def work(item):
    time.sleep(0.001)
    return bytes(200_000)
with cores.processes(3, work) as in_order:
    for i, _ in enumerate(in_order(range(10 ** 6))):
        if i == 5: print("working", flush=True)
"""
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout.readline() == "working\n"
        process.kill()
        assert process.communicate(timeout=30)[1] == ""
