"""cores.py: what this machine has, and how work is divided over it.

NumPy computes on one core and takes fresh memory for each result. This file finds the fastest
matrix products that the CPU has, keeps memory instead of giving it back, and spreads work over
threads: NumPy lets other threads run while it computes. Work that holds the interpreter goes to
processes. Import it before NumPy.
"""

import os
import sys

NUMPY_WAS_FIRST = "numpy" in sys.modules    # then its BLAS has read the environment already


def _blas_kernels():
    """Which of OpenBLAS's kernels suit this CPU best; None where it finds out itself."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            first_core = f.read().split("\n\n")[0]
    except OSError:
        return None
    cpu = {}
    for line in first_core.splitlines():
        key, _, value = line.partition(":")
        cpu[key.strip()] = value.split()
    needed = {"avx512f", "avx512dq", "avx512bw", "avx512vl"}
    if cpu.get("vendor_id") != ["AuthenticAMD"] or not needed <= set(cpu.get("flags", [])):
        return None
    # Zen 4 (family 25) does AVX-512 in two halves, and AVX2 is a little faster. Zen 5 does it in
    # one, twice as fast, but the OpenBLAS in NumPy's wheels does not know it yet.
    return "Zen" if cpu.get("cpu family") == ["25"] else "SkylakeX"


# These must be in the environment before NumPy loads. One BLAS thread, because we split the work
# over Python threads or processes ourselves, and with it all that is not a product.
BLAS_VARIABLES = [
    "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"]
ASKED_FOR = dict(os.environ)
for _name in BLAS_VARIABLES:
    os.environ.setdefault(_name, "1")
if _blas_kernels():
    os.environ.setdefault("OPENBLAS_CORETYPE", _blas_kernels())
# Where product() gives it more, they wait awake for the next one: 2^21 cycles, less than 1 ms, and
# not 2^26.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "21")

import collections  # noqa: E402
import contextlib  # noqa: E402
import ctypes  # noqa: E402
import math  # noqa: E402
import multiprocessing  # noqa: E402
import pickle  # noqa: E402
import queue  # noqa: E402
import signal  # noqa: E402
import threading  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from multiprocessing.connection import wait  # noqa: E402
from multiprocessing.reduction import ForkingPickler  # noqa: E402
from typing import NamedTuple  # noqa: E402

import numpy as np  # noqa: E402

N_THREADS = (
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
)

# For each BLAS: its functions that set and tell the number of threads, and its variable.
OPENBLAS = "OPENBLAS_NUM_THREADS"
BLAS_FUNCTIONS = [
    # OpenBLAS in NumPy's wheels, then as distributions have it
    ("scipy_openblas_set_num_threads64_", "scipy_openblas_get_num_threads64_", OPENBLAS),
    ("scipy_openblas_set_num_threads", "scipy_openblas_get_num_threads", OPENBLAS),
    ("openblas_set_num_threads64_", "openblas_get_num_threads64_", OPENBLAS),
    ("openblas_set_num_threads", "openblas_get_num_threads", OPENBLAS),
    ("MKL_Set_Num_Threads", "MKL_Get_Max_Threads", "MKL_NUM_THREADS"),
    ("bli_thread_set_num_threads", "bli_thread_get_num_threads", "BLIS_NUM_THREADS"),
]


def numpy_library():
    """NumPy's C part. A function is looked up in it and in what it is linked to, as its BLAS."""
    numpy_2 = sys.modules.get("numpy._core._multiarray_umath")
    return ctypes.CDLL((numpy_2 or sys.modules["numpy.core._multiarray_umath"]).__file__)


def blas_functions(library):
    """The line of BLAS_FUNCTIONS that is true of a library, or None."""
    for names in BLAS_FUNCTIONS:
        if hasattr(library, names[0]) and hasattr(library, names[1]):
            return names
    return None


def limit_blas(library, numpy_was_first, asked_for):
    """Give the BLAS one thread, unless the user set its own variable. Returns lines for the user.

    asked_for: {variable: value} that the user has set.
    """
    import_order = "import model.cores (or model.fast) before numpy"
    names, lines = blas_functions(library), []
    if not names:
        if numpy_was_first:
            lines.append(
                "NumPy was imported first, and its BLAS has no function known here that sets its "
                f"threads: they may run under ours, which is slow; {import_order}, "
                "or set OMP_NUM_THREADS=1")
        return lines
    set_threads, threads = getattr(library, names[0]), getattr(library, names[1])
    variable, own_choice = names[2], asked_for.get(names[2], "")
    wanted = int(own_choice) if own_choice.isdecimal() else 1
    if wanted <= 1:
        set_threads(ctypes.c_long(1))
    if threads() != 1:
        advice = f" (it is {wanted})" if wanted > 1 else f" and {import_order}"
        lines.append(
            f"each of our {N_THREADS} threads calls a BLAS with {threads()} threads of its own, "
            f"which is slow; set {variable}=1{advice}")
    elif asked_for.get("OMP_NUM_THREADS", "1") != "1" and not own_choice:
        lines.append(
            f"OMP_NUM_THREADS={asked_for['OMP_NUM_THREADS']} is not followed: the work is divided "
            f"over {N_THREADS} threads here, each with a BLAS of one thread; {variable} would be "
            "followed, and taskset limits ours")
    kernels = os.environ.get("OPENBLAS_CORETYPE")
    tell = getattr(library, names[0].replace("set_num_threads", "get_corename"), None)
    if numpy_was_first and kernels and variable == OPENBLAS and tell:
        tell.restype = ctypes.c_char_p
        theirs = tell().decode()
        if theirs.lower() != kernels.lower():
            lines.append(
                f"NumPy was imported first, and its BLAS uses its kernels for {theirs} "
                f"where those for {kernels} suit this CPU better: speed and last bits differ; "
                f"{import_order}, or set OPENBLAS_CORETYPE={kernels}")
    return lines


for _line in limit_blas(numpy_library(), NUMPY_WAS_FIRST, ASKED_FOR):
    print(f"cores: {_line}", file=sys.stderr)


def _blas_setter():
    """The BLAS's function that sets how many threads it has; None where that is the user's choice,
    or the function is not known."""
    library = numpy_library()
    names = blas_functions(library)
    if not names or getattr(library, names[1])() != 1:
        return None
    return getattr(library, names[0])


def _keep_freed_memory():
    """Tell glibc to keep freed blocks instead of giving them back to the kernel.

    Scratch of a few hundred kilobytes comes and goes within each operation. By default it would be
    mapped anew each time and its pages zeroed one fault at a time, which costs more than the
    arithmetic.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return                      # not glibc: slower, not different
    mallopt(-3, 32 << 20)           # M_MMAP_THRESHOLD, at its documented maximum
    mallopt(-1, 1 << 30)            # M_TRIM_THRESHOLD
    mallopt(-8, 1)                  # M_ARENA_MAX: what one thread frees, all may use


_keep_freed_memory()


def give_back_freed_memory():
    """Give it back after all: for when a whole model has been freed, and not a block of scratch."""
    with contextlib.suppress(OSError, AttributeError, TypeError):       # not glibc
        ctypes.CDLL(None).malloc_trim(0)


class Arena:
    """One block of memory, divided anew at each step.

    A training step uses the same few dozen arrays every time. Taken fresh from the system, each
    page of them would fault and be zeroed, step after step.
    """

    def __init__(self):
        self.memory, self.last, self.others = None, (None, None, {}), {}

    def of_thread(self, i):
        """The arena for thread i of a call: this one for the first, others for the rest."""
        return self.others.setdefault(i, Arena()) if i else self

    def divide(self, shapes, dtype, others=None, xp=np):
        """{name: array} for {name: shape}, back to back. What they held before is lost.

        others: {name: dtype} of those of another one. xp: cupy for memory on a GPU.
        """
        if self.last[:2] == (shapes, dtype):
            return self.last[2]
        kinds = {name: np.dtype((others or {}).get(name, dtype)) for name in shapes}
        need = sum(padded(shape, kinds[name].itemsize) for name, shape in shapes.items())
        if self.memory is None or need > self.memory.size:
            self.memory, self.last = None, (None, None, {})             # free the old one first
            self.memory = xp.empty((need,), np.uint8)
        arrays, at = {}, 0
        for name, shape in shapes.items():
            size = math.prod(shape) * kinds[name].itemsize
            arrays[name] = self.memory[at : at + size].view(kinds[name]).reshape(shape)
            at += padded(shape, kinds[name].itemsize)
        self.last = shapes, dtype, arrays
        return arrays


def padded(shape, itemsize):
    """Bytes of an array in an arena. Each begins on a cache line of its own, two on a GPU."""
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
    """[work(share) for each part], by default one part for each core.

    The results are in order, so that sums of them have the same bits every time.
    The calling thread takes the first part, and then parts that no thread of the pool has begun.
    So it waits only for parts that run, and a part may call in_parallel itself.
    When this returns or raises, no part is running any more.
    The error of the first part that failed is raised; parts that had not begun are left out.
    ValueError for less than one part.
    """
    n_parts = N_THREADS if n_parts is None else n_parts
    if n_parts < 1:
        raise ValueError(f"in_parallel: {n_parts} parts, expected 1 at least")
    if n_parts == 1:
        return [work(Share(0, 1))]
    job = _Job(work, n_parts)
    try:
        first = job.take()
        _ask_for_help(job.help_out, min(n_parts, N_THREADS) - 1)
        job.run(first)
        while part := job.take():
            job.run(part)
    finally:
        job.wait_for_others()
    if not job.errors:
        return job.results
    try:
        raise job.errors[min(job.errors)]
    finally:
        job.errors.clear()      # they hold this frame, and it them


_set_blas_threads = _blas_setter()
_one_product = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_product._at_fork_reinit)


def product(x, w, out=None):
    """x @ w on all cores: (N,C), (C,F) -> (N,F), in out where it is given.

    For one thread that takes product after product. The BLAS divides each over threads of its own,
    which wait awake for the next: that costs 10 us, and in_parallel 60, as the interpreter goes
    from thread to thread. How many threads the BLAS has is said for the whole process, so such
    products take turns.
    Where no such BLAS is known, or w is kept in bfloat16, in_parallel divides the columns.
    """
    if N_THREADS == 1 and isinstance(w, np.ndarray):
        return np.matmul(x, w, out=out)
    if _set_blas_threads and isinstance(w, np.ndarray):
        with _one_product:
            try:
                _set_blas_threads(N_THREADS)
                return np.matmul(x, w, out=out)
            finally:
                _set_blas_threads(1)
    y = np.empty((len(x), w.shape[1]), x.dtype) if out is None else out

    def columns(part):
        at = part(y.shape[1])
        y[:, at] = x @ w[:, at]

    in_parallel(columns)
    return y


class _Job:
    """The parts of one in_parallel, which its thread and those of the pool take one by one."""

    def __init__(self, work, n_parts):
        self.work, self.results, self.errors = work, [None] * n_parts, {}
        self.waiting = collections.deque(Share(i, n_parts) for i in range(n_parts))
        self.begun = 0          # by threads of the pool
        self.lock, self.ended = threading.Lock(), queue.SimpleQueue()

    def take(self, by_pool=False):
        """The next part, or None when all are taken."""
        with self.lock:
            if not self.waiting:
                return None
            self.begun += by_pool
            return self.waiting.popleft()

    def run(self, part):
        """Do a part. An error is kept, and leaves out the parts that nobody has begun."""
        try:
            self.results[part.index] = self.work(part)
        except BaseException as error:
            self.errors[part.index] = error
            with self.lock:
                self.waiting.clear()

    def help_out(self):
        """What a thread of the pool does."""
        while part := self.take(by_pool=True):
            self.run(part)
            self.ended.put(part.index)

    def wait_for_others(self):
        """Wait for the parts that the pool has begun. An interrupt waits as well: they write to
        arrays of the caller."""
        with self.lock:
            self.waiting.clear()
            left = self.begun
        while left:
            try:
                self.ended.get()
                left -= 1
            except KeyboardInterrupt as interrupt:
                self.errors[-1] = interrupt


def _ask_for_help(help_out, n_threads):
    """Have so many threads of the pool call help_out, or as many as the system has left."""
    global _few_threads
    for i in range(n_threads):
        try:
            _pool.submit(help_out)
        except RuntimeError as error:  # can't start new thread; or the interpreter is shutting down
            if not _few_threads:
                print(
                    f"cores: {error}: {i + 1} of {n_threads + 1} threads do the work",
                    file=sys.stderr,
                )
            _few_threads = True
            return


_few_threads = False  # has it been said?


# --------------------------------------------------------------------------------------------------
# Processes, for work that holds the interpreter.


def _work(pipe, far_end, function):
    """A worker process: answers (result, error) until the process at the far end is gone."""
    far_end.close()                                         # a copy would keep the pipe alive
    with contextlib.suppress(EOFError, OSError):            # of the pipe
        while True:
            item = pipe.recv_bytes()
            try:
                answer = ForkingPickler.dumps((function(pickle.loads(item)), None))
            except Exception as error:
                answer = ForkingPickler.dumps((None, _sendable(error)))
            pipe.send_bytes(answer)


def _sendable(error):
    """The error, or a RuntimeError with its text if it does not survive pickling."""
    try:
        pickle.loads(ForkingPickler.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _alive(process):
    try:
        yield
    except (EOFError, OSError):                             # of its pipe
        process.join(1)
        raise ChildProcessError(
            f"worker process {process.pid} has died (exit code {process.exitcode})") from None


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
    """Gives in_order(items), a map of function that n processes do, a few items at a time.

    The processes end with the block. What function brings along is forked and not sent.
    Results come in the order of items. Errors of function are raised here, and so is an item or
    a result that cannot be pickled; ChildProcessError if a process dies.
    """
    fork = multiprocessing.get_context("fork" if hasattr(os, "fork") else None)
    workers, idle = {}, []
    busy = {}                                               # pipe -> (answers of who asked, number)

    def in_order(items):
        items, answers, turn, sent = enumerate(items), {}, 0, 0
        todo = next(items, None)
        while todo or turn < sent:
            while todo and idle and todo[0] < turn + 4 * n:
                pipe, item = idle[-1], ForkingPickler.dumps(todo[1])
                with _alive(workers[pipe]):
                    pipe.send_bytes(item)
                busy[idle.pop()] = answers, todo[0]
                sent += 1
                todo = next(items, None)                    # is read while they work
            while turn in answers:
                result, error = pickle.loads(answers.pop(turn))
                if error:
                    raise error
                yield result
                turn += 1
            for pipe in wait(busy) if busy else ():
                with _alive(workers[pipe]):
                    answer = pipe.recv_bytes()
                asked, number = busy.pop(pipe)              # perhaps for a map nobody reads now
                asked[number] = answer
                idle.append(pipe)

    try:
        in_main_thread = threading.current_thread() is threading.main_thread()
        with uninterrupted() if in_main_thread else contextlib.nullcontext():
            for _ in range(n):
                pipe, end = fork.Pipe()
                process = fork.Process(target=_work, args=(end, pipe, function), daemon=True)
                process.start()
                end.close()
                workers[pipe] = process
                idle.append(pipe)
        yield in_order
    finally:
        for process in workers.values():
            process.kill()          # SIGTERM may be ignored, by us and so by them
        for process in workers.values():
            process.join()
