"""launching.py: how a kernel gets from its .cu file to the GPU.

A .cu file is compiled when one of its kernels is first launched, for float32 or for bfloat16, and
CuPy keeps the result on disk. Launches that are made again and again can be recorded once, as a
CUDA graph, and replayed.
"""

import functools
import math
import sys
from pathlib import Path

import numpy as np

from kernels.checks import check_launch, cp, int32, limits, width

FOLDER = Path(__file__).resolve().parent

# What the launchers and the .cu files must both know. The compiler is told (-DTILE=64).
MOST_HEAD_SIZE = 256    # channels of an attention head
TILE = 64               # rows of a tile in the tensor-core kernels of attention.cu
SHARED_NAMES = (f"-DMOST_HS={MOST_HEAD_SIZE}", f"-DTILE={TILE}")

# Blocks of kernels that sum over rows: two for each multiprocessor of an H100. Other GPUs take the
# same number: it decides the order of the sums, and so their last bits.
BACKWARD_BLOCKS = 264


@functools.lru_cache(maxsize=None)
def kernel(file, name, bf16, defines=()):
    """A kernel of one .cu file, compiled for bfloat16 or float32."""
    if bf16 and limits().capability < (8, 0):
        ours = ".".join(map(str, limits().capability))
        raise ValueError(
            f"{name}: bfloat16 needs a GPU of compute capability 8.0, this one has {ours}; "
            "use float32")
    return _module(file, bf16, defines).get_function(name)


@functools.lru_cache(maxsize=None)
def _module(file, bf16, defines):
    # common.cuh stands in front of the text and is not included: CuPy's cache of compiled kernels
    # does not look into what is included.
    code = (FOLDER / "common.cuh").read_text() + (FOLDER / file).read_text()
    number_type = ("-DBF16",) if bf16 else ()
    return cp.RawModule(code=code, options=SHARED_NAMES + number_type + defines)


def launch(file, name, dtype, blocks, threads, *args, shared=0, defines=()):
    """Launch a kernel on blocks, a number or a grid (x, y, z), of so many threads.

    dtype: of the arrays whose numbers are bfloat16 (uint16) or float32. shared: bytes of shared
    memory a block. A number of Python is passed with 32 bits, where CuPy would pass 64.
    """
    blocks = (blocks,) if isinstance(blocks, int) else blocks
    check_launch(name, blocks, threads, shared)
    f = kernel(file, name, dtype == np.uint16, defines)
    if shared > 48 << 10:               # what CUDA grants unasked
        f.max_dynamic_shared_size_bytes = shared
    f(blocks, (threads,), tuple(map(_as_32_bits, args)), shared_mem=shared)


def _as_32_bits(a):
    if isinstance(a, int):
        return int32(a)
    return np.float32(a) if isinstance(a, float) else a


def column_sums(partial, sums, rest=None, *, add):
    """The sums of the columns (shares,F) -> (F,), or the first to one array and others to rest."""
    shares, F = partial.shape
    launch(
        "bias.cu", "column_sums", np.float32, ceil_div(F, 32), 256,
        partial, sums, rest, shares, F, sums.size, add,
    )


def or_empty(out, shape, dtype):
    """The array for a result: the given one, or a fresh one where that is None."""
    return cp.empty(shape, dtype) if out is None else out


_memory = {"scratch": None}


def scratch(shape, name="scratch"):
    """A float32 array for what one launch leaves to the next.

    All of a name share one memory, which grows to the largest need: launches run one after the
    other.
    """
    n = math.prod(shape)
    if _memory.get(name) is None or _memory[name].size < n:
        _memory[name] = None                            # free the old one first
        _memory[name] = cp.empty((n,), np.float32)
    return _memory[name][:n].reshape(shape)


class Recording:
    """Launches that are made again and again with the same arguments, as one CUDA graph.

    The first call runs work() as it is, which compiles kernels and takes memory. The second call
    records it, and that and every later one replays the record. What changes from call to call
    must lie in arrays. A product that cublasLt cannot do cannot be recorded: then every call runs
    work() again.
    """

    def __init__(self):
        self.calls, self.graph, self.kept = 0, None, None

    def __call__(self, work):
        """work is not kept: the object whose method it is could not be freed otherwise."""
        self.calls += 1
        if self.calls == 2:
            self._record(work)
        if self.graph:
            self.graph.launch()
        else:
            work()

    def forget(self):
        """Destroy the graph."""
        self.graph = None

    def _record(self, work):
        stream = cp.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                work()
            except NotImplementedError as e:            # CuPy's gemmEx, before it does anything
                stream.end_capture()
                print(f"kernels: not recorded as a CUDA graph ({e})", file=sys.stderr)
                return
            self.graph = stream.end_capture()
            self.kept = dict(_memory)                   # the graph knows their addresses


@functools.lru_cache(maxsize=None)
def say_once(line):
    """Tell the user something that is true of every later call as well."""
    print(line, file=sys.stderr)


# ------------------------------------------------------------------------------ sizes of a launch


def ceil_div(a, b):
    """a / b, rounded up."""
    return -(-a // b)


def packs(n, dtype):
    """How many threads n numbers take where each has 16 bytes of them."""
    return ceil_div(n, width(dtype))


def packed(columns, dtype, *strides):
    """The define that says that rows of so many columns fall into whole packs; () otherwise.

    strides: of rows that may be longer.
    """
    is_whole = all(n % width(dtype) == 0 for n in (columns, *strides))
    return ("-DPACKED=1",) if is_whole else ()


def strip_bytes(dtype, warps=8):
    """Shared memory in which each warp sums 32 packs of columns, spread over the banks."""
    return 4 * warps * 32 * (width(dtype) + 1)


def lanes_of(HS, dtype):
    """How many lanes of a warp share a row of a head: a power of two, a pack each if they can."""
    return min(32, 1 << (packs(HS, dtype) - 1).bit_length())


def rows_that_fit(floats_a_row, most):
    """How many warps a block can have, each with so many floats in shared memory."""
    fit = limits().shared_bytes // (4 * floats_a_row)
    if fit < 1:
        raise ValueError(
            f"a row of {floats_a_row} numbers does not fit the {limits().shared_bytes} bytes "
            "of this GPU's shared memory")
    return min(most, fit)
