"""checks.py: what a launcher checks before it launches: arrays, numbers, the limits of the GPU.

A kernel checks nothing. This folder can be imported without CuPy, because other programs look for
a package of its name; then cp is None, and the first check says that CuPy is missing.
"""

import functools
from typing import NamedTuple

import numpy as np

try:
    import cupy as cp
except ImportError:
    cp = None


# ------------------------------------------------------------------------------------------ arrays


def width(dtype):
    """How many numbers a thread loads at once: 16 bytes of them."""
    return 16 // np.dtype(dtype).itemsize


def real(what, a):
    """The dtype of an array that sets it for the others: float32, or uint16 for bfloat16."""
    check_on_gpu(what, a)
    if a.dtype not in (np.float32, np.uint16):
        raise ValueError(f"{what}: {a.dtype}, expected float32, or uint16 that holds bfloat16")
    return a.dtype


def check(what, a, shape, dtype, packed=False):
    """ValueError unless it is a CuPy array of that shape and dtype, its rows back to back.

    packed: it must also begin at a multiple of 16 bytes, which a thread loads at once.
    """
    check_on_gpu(what, a)
    check_kind(what, a, shape, dtype)
    if not a.flags.c_contiguous:
        raise ValueError(f"{what}: its rows do not lie one behind the other in memory; pass a copy")
    check_begin(what, a, packed)


def check_columns(what, a, shape, dtype, packed=False):
    """check() of a matrix that may be some columns of one with longer rows.

    packed: it must also begin at a multiple of 16 bytes.
    """
    check_on_gpu(what, a)
    check_kind(what, a, shape, dtype)
    row, number = a.strides
    if (a.shape[1] > 1 and number != a.dtype.itemsize) or row < a.shape[1] * a.dtype.itemsize:
        raise ValueError(
            f"{what}: the numbers of a row do not lie one behind the other; pass a copy")
    check_begin(what, a, packed)


def check_kind(what, a, shape, dtype):
    """ValueError unless it has that shape and dtype."""
    if a.shape != tuple(shape) or a.dtype != dtype:
        raise ValueError(f"{what}: {a.dtype} {a.shape}, expected {np.dtype(dtype)} {tuple(shape)}")


def check_begin(what, a, packed):
    """ValueError where an array must begin at a multiple of 16 bytes and does not."""
    if packed and a.size and a.data.ptr % 16:
        raise ValueError(f"{what}: it does not begin at a multiple of 16 bytes; pass a copy")


def row_length(a):
    """The distance from one row of a matrix to the next, in numbers."""
    return a.strides[0] // a.dtype.itemsize


def check_each(arrays, shape, dtype, packed=False):
    """check() for several arrays of one shape and dtype: {name: array, or None for none}."""
    for what, a in arrays.items():
        if a is not None:
            check(what, a, shape, dtype, packed)


def check_on_gpu(what, a):
    """ModuleNotFoundError without CuPy, TypeError where a is not one of its arrays."""
    if cp is None:
        raise ModuleNotFoundError(f"{what}: the kernels need CuPy, which is not here")
    if not isinstance(a, cp.ndarray):
        raise TypeError(f"{what}: a {type(a).__name__}, expected a CuPy array")


def apart(outputs, inputs, in_place=()):
    """ValueError where an output shares memory with another array: blocks write while others read.

    outputs, inputs: {name: array or None}. in_place: names of inputs that an output may replace,
    if it takes exactly their place.
    """
    there = {what: a for what, a in (*inputs.items(), *outputs.items()) if a is not None}
    for what, a in there.items():
        check_on_gpu(what, a)
    places = {what: _place(a) for what, a in there.items()}
    for out in outputs.keys() & places.keys():
        begin, end = places[out]
        for what, place in places.items():
            if what == out or place[0] >= end or begin >= place[1]:
                continue
            if not (what in in_place and what not in outputs and place == (begin, end)):
                raise ValueError(
                    f"{out} and {what} share memory, and one is written while the other is "
                    f"still needed; pass another array for {out}")


def _place(a):
    """The first byte of an array, and the one behind its last; between its rows may lie others."""
    begin = a.data.ptr
    if not a.size:
        return begin, begin
    last = sum((n - 1) * stride for n, stride in zip(a.shape, a.strides))
    return begin, begin + last + a.dtype.itemsize


# -------------------------------------------------------------------------------- numbers, limits


def int32(n):
    """A whole number as the kernels take it."""
    if not -1 << 31 <= n < 1 << 31:
        raise ValueError(
            f"{n} is more than the kernels can count: sizes of arrays have 32 bits there; "
            "take fewer rows at once")
    return np.int32(n)


class Limits(NamedTuple):
    """What a GPU can do.

    shared_bytes: the most shared memory that a block can ask for: 227 KB on an H100, 163 KB on an
    A100, 99 KB on 30-, 40- and 50-series cards, 64 KB on Turing.
    threads: of a block. grid: blocks along x, y and z.
    capability: the compute capability; bfloat16 begins with (8, 0).
    """

    shared_bytes: int
    threads: int
    grid: tuple
    capability: tuple


def limits():
    """Those of the GPU in use."""
    return _limits_of(cp.cuda.Device().id)


@functools.lru_cache(maxsize=None)
def _limits_of(device_id):
    found = cp.cuda.Device(device_id).attributes
    if found["WarpSize"] != 32:
        raise ValueError(
            f"this GPU's warps have {found['WarpSize']} threads; the kernels are written for 32, "
            "which NVIDIA's have")
    shared = max(found["MaxSharedMemoryPerBlock"], found.get("MaxSharedMemoryPerBlockOptin", 0))
    return Limits(
        shared,
        found["MaxThreadsPerBlock"],
        tuple(found[f"MaxGridDim{axis}"] for axis in "XYZ"),
        (found["ComputeCapabilityMajor"], found["ComputeCapabilityMinor"]),
    )


def check_launch(name, blocks, threads, shared):
    """ValueError that names the limit that a launch exceeds; CUDA says only "invalid value"."""
    most = limits()
    if 0 in blocks:
        raise ValueError(f"{name}: nothing to do, for an array is empty")
    if any(n > limit for n, limit in zip(blocks, most.grid)):
        raise ValueError(
            f"{name}: a grid of {blocks} blocks, this GPU has {most.grid} at most; "
            "take fewer rows at once")
    if threads > most.threads:
        raise ValueError(
            f"{name}: blocks of {threads} threads, this GPU has {most.threads} at most")
    if shared > most.shared_bytes:
        raise ValueError(
            f"{name}: {shared} bytes of shared memory a block, this GPU has {most.shared_bytes}")
