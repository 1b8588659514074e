"""bfloat16.py: weights in half of the memory: kept as they are in a file, widened in each product.

A bfloat16 is the upper half of a float32: a sign, all 8 bits of the exponent, 7 of the mantissa.
NumPy has no such type. An Array here is the file's own uint16, mapped: it takes no memory. A
product widens BLOCK weights at a time and multiplies by them while they lie in the cache.

Measured on one core of a Zen 4 at 2048 x 8192, in weights a second beside float32 in memory: 0.75
of it with one row, as many with 32 rows.
"""

from model import cores                 # before numpy
import numpy as np

BLOCK = 1 << 19         # weights that are widened at a time: 2 MB


def widen(bits):
    """bfloat16 as uint16 -> float32, in the same order of memory. The lower half is zeros."""
    wide = bits.astype("<u4")
    wide <<= 16
    return wide.view("<f4")


def narrow(x):
    """The Array of the bfloat16 nearest to each float32; of two as near, the even one."""
    bits = np.asarray(x, "<f4").view("<u4")
    odd = bits >> 16 & 1
    return Array(((bits + 0x7fff + odd) >> 16).astype("<u2"))


def are_equal(a, b):
    """Whether two arrays hold the same numbers. Where both are in bfloat16 none is widened."""
    if isinstance(a, Array) and isinstance(b, Array):
        a, b = a.bits, b.bits
    return np.array_equal(a, b)


class Array:
    """An array in bfloat16, which can be sliced, transposed, looked up, and multiplied by: x @ a.

    bits: its uint16, which may be a view of a file. It takes part in everything as float32:
    np.asarray(a) is all of it, widened.
    """

    __array_ufunc__ = None          # so that ndarray @ Array comes to __rmatmul__
    dtype = np.dtype(np.float32)

    def __init__(self, bits):
        self.bits = bits
        self.shape, self.ndim, self.size = bits.shape, bits.ndim, bits.size
        self.nbytes = bits.nbytes

    def __len__(self):
        return len(self.bits)

    @property
    def T(self):
        """The transpose, a view."""
        return Array(self.bits.T)

    def __getitem__(self, index):
        """With slices an Array, which is a view; with numbers of rows a float32 array."""
        found = self.bits[index]
        parts = index if isinstance(index, tuple) else (index,)
        if all(isinstance(part, slice) for part in parts):
            return Array(found)
        return widen(found)

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("an array in bfloat16 is widened, which takes a copy")
        return widen(self.bits).astype(dtype or np.float32, copy=False)

    @property
    def is_turned(self):
        """Whether its columns lie together in memory, and not its rows."""
        return self.ndim > 1 and self.bits.strides[0] < self.bits.strides[-1]

    def blocks(self):
        """(slice, float32 array) of some rows at a time; where is_turned, of some columns.

        Then each line of the array is a column.
        """
        lines = self.bits.T if self.is_turned else self.bits
        step = max(1, BLOCK * len(lines) // max(1, self.size))
        for begin in range(0, len(lines), step):
            at = slice(begin, begin + step)
            yield at, widen(lines[at])

    def __rmatmul__(self, x):
        """x @ self: (...,in) @ (in,out) -> (...,out), in the type of x."""
        rows = x.reshape(-1, self.shape[0])
        y = np.zeros((len(rows), self.shape[1]), x.dtype)
        for at, block in self.blocks():
            if self.is_turned:
                np.matmul(rows, block.T, out=y[:, at])
            else:
                y += rows[:, at] @ block
        return y.reshape(*x.shape[:-1], -1)
