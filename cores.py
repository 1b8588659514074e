"""cores.py: what this machine has, and how work is divided over it.

NumPy computes on one core and takes fresh memory for each result. This file finds the fastest matrix products the CPU has,
keeps memory instead of giving it back, and spreads work over threads: NumPy lets other threads run while it
computes. What holds the interpreter goes to processes (data.py, bpe.py; train.py has its own). Import it before NumPy; gpt.py
does.
"""

import os


def _blas_kernels():
    """Which of OpenBLAS's kernels suit this CPU best; None where it finds out itself."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            cpu = dict(line.rstrip().partition(":")[::2] for line in f.read().split("\n\n")[0].splitlines())
    except OSError:
        return None
    cpu = {k.strip(): v.split() for k, v in cpu.items()}
    if cpu.get("vendor_id") != ["AuthenticAMD"] or not {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= set(cpu.get("flags", [])):
        return None
    # Zen 4 (family 25) does AVX-512 in two halves, and AVX2 is a little faster. Zen 5 does it in one, twice as fast,
    # but the OpenBLAS in NumPy's wheels does not know it yet.
    return "Zen" if cpu.get("cpu family") == ["25"] else "SkylakeX"


# These must be in the environment before NumPy loads. One BLAS thread, because we split the work over Python threads or
# processes ourselves: that also parallelises everything that is not a matrix product.
if _blas_kernels():
    os.environ.setdefault("OPENBLAS_CORETYPE", _blas_kernels())
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import contextlib  # noqa: E402
import ctypes  # noqa: E402
import math  # noqa: E402
import multiprocessing  # noqa: E402
import signal  # noqa: E402
import threading  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from multiprocessing.connection import wait  # noqa: E402
from typing import NamedTuple  # noqa: E402

import numpy as np  # noqa: E402

N_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_freed_memory():
    """Tell glibc to keep freed blocks instead of giving them back to the kernel.

    Scratch of a few hundred kilobytes comes and goes within each operation. By default it would be mapped anew
    each time and its pages zeroed one fault at a time, which costs more than the arithmetic.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return                                          # not glibc: slower, not different
    mallopt(-3, 32 << 20)                               # M_MMAP_THRESHOLD, at its documented maximum
    mallopt(-1, 1 << 30)                                # M_TRIM_THRESHOLD
    mallopt(-8, 1)                                      # M_ARENA_MAX: what one thread frees, all may use


_keep_freed_memory()


class Arena:
    """One block of memory, divided anew at each step.

    A training step uses the same few dozen arrays every time. Taken fresh from the system, each page of them
    would fault and be zeroed, step after step, which costs more than the arithmetic.
    """

    def __init__(self):
        self.memory, self.last = None, (None, None, {})

    def divide(self, shapes, dtype, others=None, xp=np):
        """{name: array} for {name: shape}, back to back; what they held before is lost. others: {name: dtype} of those of
        another one. xp: cupy for memory on a GPU."""
        if self.last[:2] == (shapes, dtype):
            return self.last[2]
        kinds = {k: np.dtype((others or {}).get(k, dtype)) for k in shapes}
        need = sum(padded(shape, kinds[k].itemsize) for k, shape in shapes.items())
        if self.memory is None or need > self.memory.size:
            self.memory, self.last = None, (None, None, {})             # free the old one first
            self.memory = xp.empty((need,), np.uint8)
        arrays, at = {}, 0
        for k, shape in shapes.items():
            arrays[k] = self.memory[at:at + math.prod(shape) * kinds[k].itemsize].view(kinds[k]).reshape(shape)
            at += padded(shape, kinds[k].itemsize)
        self.last = shapes, dtype, arrays
        return arrays


def padded(shape, itemsize):
    """Bytes of an array in an arena, where each begins on cache lines of its own, two on a GPU."""
    return -(-math.prod(shape) * itemsize // 256) * 256


def _new_pool():
    global _pool
    _pool = ThreadPoolExecutor(max(1, N_THREADS - 1))   # the calling thread works too


_new_pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_pool)       # where its threads are not


class Share(NamedTuple):
    """One of so many parts of the work: share(n) is the slice of n things that this part gets."""

    index: int
    parts: int

    def __call__(self, n):
        return slice(n * self.index // self.parts, n * (self.index + 1) // self.parts)


def in_parallel(work, n_parts=None):
    """[work(share) for each part], each on its own thread; the results in order, so that sums of them are exact."""
    n_parts = n_parts or N_THREADS
    others = [_pool.submit(work, Share(i, n_parts)) for i in range(1, n_parts)]
    return [work(Share(0, n_parts)), *(f.result() for f in others)]


# --------------------------------------------------------------------------------------------------
# Processes, for work that holds the interpreter.


def _work(pipe, far_end, function):
    """A worker process: answers (result, error) until the process at the far end is gone."""
    far_end.close()                                         # a copy would keep the pipe alive
    with contextlib.suppress(EOFError, OSError):            # of the pipe
        while True:
            item = pipe.recv()
            try:
                answer = function(item), None
            except Exception as error:
                answer = None, error
            pipe.send(answer)


@contextlib.contextmanager
def _alive(process):
    try:
        yield
    except (EOFError, OSError):                             # of its pipe
        process.join(1)
        raise ChildProcessError(f"worker process {process.pid} has died (exit code {process.exitcode})") from None


@contextlib.contextmanager
def uninterrupted():
    """Ctrl-C does nothing in the block, and never anything to processes that are started in it."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def processes(n, function):
    """Gives in_order(items), a map of function that n processes do, a few items at a time. They end with the block. What function
    brings along is forked and not sent. Results come in the order of items; an error of function is raised here, ChildProcessError
    if a process dies."""
    fork = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    workers = {}

    def in_order(items):
        items, idle, busy, done, turn = enumerate(items), list(workers), {}, {}, 0      # busy: pipe -> number of its item
        todo = next(items, None)
        while todo or busy or done:
            while todo and idle and todo[0] < turn + 4 * n:
                pipe = idle.pop()
                with _alive(workers[pipe]):
                    pipe.send(todo[1])
                busy[pipe] = todo[0]
                todo = next(items, None)                    # is read while they work
            while turn in done:
                result, error = done.pop(turn)
                if error:
                    raise error
                yield result
                turn += 1
            for pipe in wait(busy) if busy else ():
                with _alive(workers[pipe]):
                    done[busy.pop(pipe)] = pipe.recv()
                idle.append(pipe)

    try:
        with uninterrupted() if threading.current_thread() is threading.main_thread() else contextlib.nullcontext():
            for _ in range(n):
                pipe, end = fork.Pipe()
                process = fork.Process(target=_work, args=(end, pipe, function), daemon=True)
                process.start()
                end.close()
                workers[pipe] = process
        yield in_order
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join()
