"""cupy_cpu.py: the few names of CuPy that kernels/ uses, on a machine without a GPU.

Arrays lie in ordinary memory, and each ends at a page that traps. RawModule compiles the .cu text
with g++ behind cuda_cpu.h. A launch runs the kernel several times, and its threads and blocks take
turns in a different order each time: what it writes must be the same to the bit, or there is a
race. Once launches of a kind have been checked like this, the rest of them run once.

    import cupy_cpu; sys.modules["cupy"] = cupy_cpu
"""

import ctypes
import fcntl
import functools
import hashlib
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import ptx_cpu

HEADER = Path(__file__).resolve().parent / "cuda_cpu.h"
BUILD = Path(os.environ.get("LONGHAND_CUDA_BUILD",
                            Path(tempfile.gettempdir()) / f"longhand-cuda-{os.getuid()}"))
MISSING = None                          # or what it does not run without
if sys.platform != "linux":
    MISSING = "Linux"
elif not shutil.which("g++"):
    MISSING = "g++"
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fno-strict-aliasing", "-w"]
# Looking through the symbols of the C++ library takes longer than a small kernel: once is enough.
LIBRARIES, LINKING = ("libstdc++.so.6", "libm.so.6"), ["-shared", "-nodefaultlibs"]
ORDERS = (0, 1, 2)  # of threads and blocks: ascending, descending, at random
# So many launches with arguments of one kind run in all orders, later ones in one order, in turn.
CHECKED_LAUNCHES = 2

# The device's attributes under CuPy's names, an H100's. Launches keep to them; tests set others.
ATTRIBUTES = {
    "MaxSharedMemoryPerBlock": 48 << 10,
    "MaxSharedMemoryPerBlockOptin": 227 << 10,
    "MaxThreadsPerBlock": 1024,
    "WarpSize": 32,
    "MaxGridDimX": (1 << 31) - 1,
    "MaxGridDimY": 65535,
    "MaxGridDimZ": 65535,
    "ComputeCapabilityMajor": 9,
    "ComputeCapabilityMinor": 0,
}

POOL = {"free_bytes": 0}        # that CuPy keeps of what was given back
MEMORY = {"bytes": 8 << 30, "taken": 0}         # of the device; tests set how much it has

# With LONGHAND_PTX=counts: what each kernel's last launch did (ptx_counts in ptx_cpu.h), and what
# it takes of a multiprocessor: threads of a block, registers of a thread, bytes of shared memory of
# a block, bytes of registers that did not fit.
COUNTS, TAKEN = {}, {}

libc = ctypes.CDLL(None, use_errno=True)


class ndarray:
    """An array "on the device".

    As with CuPy's, NumPy does not get at its numbers by accident, only through get() and set().
    """

    def __init__(self, a, gap):
        self.a, self.gap = a, gap  # the gap: the bytes between the end of its memory and the trap
        self.shape, self.dtype, self.size, self.nbytes, self.ndim, self.flags = (
            a.shape, a.dtype, a.size, a.nbytes, a.ndim, a.flags)
        self.strides = a.strides

    @property
    def data(self):
        return SimpleNamespace(ptr=self.a.ctypes.data)

    def __len__(self):
        return len(self.a)

    def __array__(self, *_):
        raise TypeError("implicit conversion to a NumPy array is not allowed; use get()")

    def __getitem__(self, key):
        found = self.a[_on_host(key)]
        is_view = np.shares_memory(found, self.a) or not found.size
        return ndarray(found, self.gap) if is_view else asarray(found)

    def __setitem__(self, key, value):
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("a NumPy array cannot be put into a CuPy array this way; use set()")
        if _tape is not None:
            _tape.append(lambda: self.__setitem__(key, value))
            return
        self.a[_on_host(key)] = _on_host(value)

    def reshape(self, *shape):
        return ndarray(self.a.reshape(*shape), self.gap)

    def ravel(self):
        return ndarray(self.a.ravel(), self.gap)

    def view(self, dtype):
        return ndarray(self.a.view(dtype), self.gap)

    def get(self):
        return self.a.copy()

    def set(self, values, stream=None):
        if values.shape != self.shape or values.dtype != self.dtype:
            raise ValueError(f"set: {values.dtype} {values.shape} into {self.dtype} {self.shape}")
        self.a[...] = values


def _on_host(key):
    if isinstance(key, tuple):
        return tuple(map(_on_host, key))
    return key.a if isinstance(key, ndarray) else key


class OutOfMemoryError(MemoryError):
    pass


def give_back(size):
    MEMORY["taken"] -= size


def empty(shape, dtype=np.float32):
    """An array with every bit set, which is NaN in every float format.

    It begins at a multiple of 16 bytes, as the kernels may expect, and ends before a page that
    traps: at it, or less than 16 bytes earlier.
    """
    dtype, n = np.dtype(dtype), int(np.prod(shape, dtype=np.int64))
    size = max(n * dtype.itemsize, 1)
    if MEMORY["taken"] + size > MEMORY["bytes"]:
        raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated so far: "
                               f"{MEMORY['taken']:,} bytes).")
    padded, pages = -(-size // 16) * 16, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
    MEMORY["taken"] += size
    weakref.finalize(memory, give_back, size)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if libc.mprotect(ctypes.c_void_p(start + pages), mmap.PAGESIZE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    bytes_ = np.frombuffer(memory, np.uint8, padded, pages - padded)
    bytes_[...] = 0xFF
    return ndarray(bytes_[: n * dtype.itemsize].view(dtype).reshape(shape), bytes_[size:])


def zeros(shape, dtype=np.float32):
    made = empty(shape, dtype)
    made.a[...] = 0
    return made


def asarray(values, dtype=None):
    values = np.asarray(values, dtype)
    made = empty(values.shape, values.dtype)
    made.a[...] = values
    return made


array = asarray


def asnumpy(a):
    return a.get()


def is_available():
    return True


def get_default_memory_pool():
    return SimpleNamespace(free_bytes=lambda: POOL["free_bytes"])


def built(kind, made_of, build):
    """The path of what build(folder, path) makes of these texts, made once by whoever comes first.

    Others wait, in this process and in others. What is there is whole: it is moved to its place.
    """
    key = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:24]
    path = BUILD / f"{key}.{kind}"
    if path.exists():
        return path
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / f"{key}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=BUILD) as folder:
                build(Path(folder), Path(folder) / "made")
                (Path(folder) / "made").rename(path)
    return path


@functools.lru_cache(maxsize=None)
def prepared_header():
    """A copy of cuda_cpu.h with what g++ makes of it beside it: half of a small kernel's time."""
    def build(folder, made):
        made.mkdir()
        shutil.copy(HEADER, made)
        header = made / HEADER.name
        words = ["g++", *FLAGS, "-x", "c++-header", header, "-o", f"{header}.gch"]
        subprocess.run(words, check=True)

    return built("header", [HEADER.read_text(), *FLAGS], build) / HEADER.name


class RawModule:
    """The kernels of a .cu text."""

    def __init__(self, code, options=(), backend="nvrtc"):
        defines, self.resources = [o for o in options if o.startswith("-D")], {}
        if os.environ.get("LONGHAND_PTX"):  # what a GPU is given, instead of the source
            counts = os.environ["LONGHAND_PTX"] == "counts"
            ptx, said = ptx_cpu.compiled(code, [*defines, *["-Xptxas=-v"] * counts])
            self.resources = ptx_cpu.resources(said)
            code, names = ptx_cpu.translate(ptx)
            defines += ["-DPTX_COUNTS"] * counts
        else:
            seen = subprocess.run(["g++", "-E", "-P", "-x", "c++", "-DCUDA_CPU", *defines, "-"],
                                  input=code, capture_output=True, text=True).stdout
            names = re.findall(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(",
                               seen)
        exports = "".join(f"CUDA_CPU_KERNEL({name})\n" for name in names)
        source = f'#include "{prepared_header()}"\n{code}\n{exports}'

        def build(folder, so):
            cu = folder / "kernels.cpp"
            cu.write_text(source)
            words = ["g++", *FLAGS, *LINKING, *defines, "-o", so, cu]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"the kernels do not compile as C++:\n{done.stderr[:4000]}")

        path = built("so", [source, *FLAGS, *LINKING, *defines], build)
        for library in LIBRARIES:
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        self.library, self.names = ctypes.CDLL(str(path)), names

    def get_function(self, name):
        if name not in self.names:
            raise RuntimeError(f"no kernel {name} among {', '.join(self.names)}")
        return Function(self.library, name, self.resources.get(name))


class Function:
    """A kernel to launch with (grid, block, args), as CuPy's.

    Arguments are arrays, NumPy scalars, or None for no array.
    """

    def __init__(self, library, name, resources=None):
        self.resources = resources
        self.name, self.run, self.n_args = name, library[f"{name}_run"], library[f"{name}_n_args"]()
        self.run.restype, self.asked_for = ctypes.c_char_p, ATTRIBUTES["MaxSharedMemoryPerBlock"]
        self.counts = getattr(library, "ptx_counts", None)
        self.launches = {}              # of each kind

    @property
    def max_dynamic_shared_size_bytes(self):
        return self.asked_for

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, n):
        most = ATTRIBUTES["MaxSharedMemoryPerBlockOptin"]
        if n > most:
            raise RuntimeError(f"{self.name}: CUDA_ERROR_INVALID_VALUE: {n} bytes of shared "
                               f"memory, {most} are there")
        self.asked_for = n

    def __call__(self, grid, block, args, shared_mem=0, stream=None):
        self.check(grid, block, shared_mem)
        if _tape is not None:
            _tape.append(lambda: self(grid, block, args, shared_mem))
            return
        if len(args) != self.n_args:
            raise TypeError(f"{self.name} takes {self.n_args} arguments, {len(args)} were given")
        boxes, arrays = [], []
        for a in args:
            if a is None:
                boxes.append(ctypes.c_void_p(None))
            elif isinstance(a, ndarray):
                boxes.append(ctypes.c_void_p(a.data.ptr))
                arrays.append(a)
            elif isinstance(a, np.generic):
                boxes.append((ctypes.c_char * a.nbytes).from_buffer_copy(a.tobytes()))
            else:
                raise TypeError(f"{self.name}: argument {a!r} is a {type(a).__name__}; CuPy would "
                                "pass a Python number as 64 bits")
        pointers = (ctypes.c_void_p * len(boxes))(*(ctypes.addressof(b) for b in boxes))
        sizes = [(ctypes.c_uint * 3)(*(tuple(s) + (1, 1, 1))[:3]) for s in (grid, block)]
        before, first = [bytes_of(a).copy() for a in arrays], None
        for order in ORDERS[:1] if self.counts else self.orders((grid, block, shared_mem), args):
            for a, was in zip(arrays, before):
                bytes_of(a)[...] = was
            error = self.run(pointers, *sizes, ctypes.c_uint(shared_mem), ctypes.c_int(order))
            if error:
                raise RuntimeError(f"{self.name}: {error.decode()}")
            if self.counts:
                found = (ctypes.c_double * 6)()
                self.counts(found)
                COUNTS[self.name] = tuple(found)
                if self.resources:
                    registers, fixed, spilled = self.resources
                    TAKEN[self.name] = int(np.prod(block)), registers, fixed + shared_mem, spilled
            if any((a.gap != 0xFF).any() for a in arrays):
                raise RuntimeError(
                    f"{self.name}: access outside an array: it wrote right behind its end")
            after = [bytes_of(a).copy() for a in arrays]
            if first and any(not np.array_equal(x, y) for x, y in zip(first, after)):
                raise RuntimeError(f"{self.name}: a race: what it writes depends on the order in "
                                   "which its threads run")
            first = after

    def orders(self, sizes, args):
        """Those in which a launch runs. Its kind: sizes, shapes, numbers, which arrays overlap."""
        kind, ends = [sizes], []
        for a in args:
            if isinstance(a, ndarray):
                begin = a.data.ptr
                kind.append((a.shape, a.strides, a.dtype.str, [begin < end for end in ends]))
                ends += [begin, begin + bytes_of(a).size]
            else:
                kind.append(a)
        n = self.launches[repr(kind)] = self.launches.get(repr(kind), 0) + 1
        return ORDERS if n <= CHECKED_LAUNCHES else (ORDERS[n % len(ORDERS)],)

    def check(self, grid, block, shared_mem):
        """RuntimeError where the device would not launch this."""
        if shared_mem > min(self.asked_for, ATTRIBUTES["MaxSharedMemoryPerBlockOptin"]):
            raise RuntimeError(
                f"{self.name}: CUDA_ERROR_INVALID_VALUE: {shared_mem} bytes of shared memory, "
                f"{self.asked_for} were asked for")
        most = [ATTRIBUTES[f"MaxGridDim{axis}"] for axis in "XYZ"]
        threads, fits = int(np.prod(block)), all(0 < n <= limit for n, limit in zip(grid, most))
        if not fits or threads > ATTRIBUTES["MaxThreadsPerBlock"]:
            raise RuntimeError(f"{self.name}: CUDA_ERROR_INVALID_VALUE: cannot launch blocks of "
                               f"{threads} threads on a grid of {grid}")


def bytes_of(a):
    """All bytes from an array's first to its last; between its rows may lie others."""
    n = a.nbytes and a.dtype.itemsize + sum((n - 1) * step for n, step in zip(a.shape, a.strides))
    return np.ctypeslib.as_array(ctypes.cast(a.data.ptr, ctypes.POINTER(ctypes.c_uint8)), (n,))


# -------------------------------------------------------------------------- matrix products, graphs

_tape = None  # while a stream is captured: what it was asked to do


class Stream:
    ptr = 0

    def __init__(self, non_blocking=False):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def synchronize(self):
        pass

    def begin_capture(self):
        global _tape
        _tape = []

    def end_capture(self):
        global _tape
        graph, _tape = Graph(_tape), None
        return graph


class Graph:
    def __init__(self, tape):
        self.tape = tape

    def launch(self, stream=None):
        for launch in self.tape:
            launch()


def gemmEx(handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype,
           ldc, compute, algo):
    if _tape is not None:
        raise NotImplementedError(
            "calling cuBLAS API during stream capture is currently unsupported")
    number = lambda p: ctypes.c_float.from_address(p)  # noqa: E731
    cublaslt().cublaslt_cpu_gemm(transa, transb, *map(ctypes.c_longlong, (m, n, k)), number(alpha),
                                 ctypes.c_void_p(A), Atype, ctypes.c_longlong(lda),
                                 ctypes.c_void_p(B), Btype, ctypes.c_longlong(ldb), number(beta),
                                 ctypes.c_void_p(C), Ctype, ctypes.c_longlong(ldc))


@functools.lru_cache(maxsize=None)
def cublaslt():
    """A libcublasLt.so with the few functions that kernels/cublas.py calls.

    It is built from cublaslt_cpu.cpp. Once loaded, it is found where the real one would be.
    """
    source = HEADER.parent / "cublaslt_cpu.cpp"

    def build(folder, made):
        made.mkdir()
        flags = ["-std=c++17", "-O2", "-fPIC", "-shared"]
        subprocess.run(["g++", *flags, "-o", made / "libcublasLt.so", source], check=True)

    return ctypes.CDLL(str(built("cublaslt", [source.read_text()], build) / "libcublasLt.so"))


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
def _take(call):  # the library asks before each product: is it to be recorded, under this number?
    if _tape is None:
        return 0
    _tape.append(lambda: cublaslt().cublaslt_cpu_replay(call))
    return 1


def _cublas_handle():
    cublaslt().cublaslt_cpu_recorder(_take)
    return 1


class Device:
    """A card of this machine, which has LONGHAND_CARDS of them."""

    current = 0

    def __init__(self, device=None):
        self.id = Device.current if device is None else device
        self.attributes = dict(ATTRIBUTES)
        self.pci_bus_id = f"0000:0{self.id}:00.0"

    def use(self):
        Device.current = self.id


class Event:
    done = True

    def __init__(self, disable_timing=False):
        self.at_s = 0.0

    def record(self, stream=None):
        self.at_s = time.perf_counter()

    def synchronize(self):
        pass


class CUDARuntimeError(RuntimeError):
    pass


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=lambda: int(os.environ.get("LONGHAND_CARDS", 1)),
    memGetInfo=lambda: (MEMORY["bytes"] - MEMORY["taken"], MEMORY["bytes"]),
    getDeviceProperties=lambda i: {
        "name": b"a CPU that plays GPU", "major": ATTRIBUTES["ComputeCapabilityMajor"],
        "minor": ATTRIBUTES["ComputeCapabilityMinor"], "totalGlobalMem": MEMORY["bytes"]})
cuda = SimpleNamespace(
    Device=Device, Event=Event,
    get_elapsed_time=lambda begin, end: 1e3 * (end.at_s - begin.at_s),
    runtime=runtime, alloc_pinned_memory=bytearray, Stream=Stream, get_current_stream=Stream,
    cublas=SimpleNamespace(gemmEx=gemmEx), device=SimpleNamespace(get_cublas_handle=_cublas_handle))
