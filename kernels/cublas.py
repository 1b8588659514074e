"""cublas.py: matrix products on a GPU by NVIDIA's libraries.

cublasLt adds the bias in the same pass, and its calls can be recorded into a CUDA graph, which
CuPy's own cannot. CuPy does not wrap it but has loaded it, so it is called by ctypes. Where it
cannot be used, CuPy's gemmEx does the product, and the bias is added by a kernel of bias.cu.

    out (M,N) = scale op(x) op(w) + bias, or added to what out holds
                                                    op: as it is, or transposed

Each matrix may be some columns of one with longer rows, as queries are of qkv.

The library stores by columns what we store by rows. So it is asked for the transpose:
out^T = op(w)^T op(x)^T, and out^T stored by columns is out stored by rows.
"""

import ctypes
import functools
import sys
from typing import NamedTuple

import numpy as np

from kernels.checks import apart, check, check_columns, cp, real, row_length

WORKSPACE_BYTES = 32 << 20      # what NVIDIA recommends for Hopper

# NVIDIA's numbers, each under the name of its type.
REAL_32F, REAL_16BF = 0, 14                         # cudaDataType
COMPUTE_32F = 68                                    # cublasComputeType_t
DEFAULT, WITH_BIAS = 1, 4                           # cublasLtEpilogue_t
TRANS_A, TRANS_B, EPILOGUE, BIAS_POINTER = 3, 4, 7, 8       # cublasLtMatmulDescAttributes_t
MAX_WORKSPACE, MIN_ALIGNMENT_A = 1, 5       # cublasLtMatmulPreferenceAttributes_t; B, C, D follow A



@functools.lru_cache(maxsize=64)
def factor(value):
    """A factor of a product, which the library reads from the host."""
    return np.full(1, value, np.float32)


class Product(NamedTuple):
    """What decides how a product is computed, in the library's terms, where all is transposed:
    out (m,n) = op(w) (m,k) op(x) (k,n), stored by columns."""

    w_t: bool
    x_t: bool
    m: int
    n: int
    k: int
    kind: int                   # of x and w
    out_kind: int
    with_bias: bool
    leading: tuple              # the distance from one column to the next of w, x and out
    alignment: tuple            # of w, x, out and the bias, if any; in bytes, 256 at most

    @property
    def sizes(self):
        """Rows and columns of w, x and out as they are stored."""
        w = (self.k, self.m) if self.w_t else (self.m, self.k)
        x = (self.n, self.k) if self.x_t else (self.k, self.n)
        return w, x, (self.m, self.n)


def product(x, w, out, x_t, w_t, bias):
    """The Product of these arrays; ValueError where they do not fit each other."""
    for what, a in (("x", x), ("w", w), ("out", out)):
        real(what, a)
        if a.ndim != 2:
            raise ValueError(f"{what}: {a.shape}, expected a matrix")
        check_columns(what, a, a.shape, a.dtype)
    k, n = x.shape if x_t else x.shape[::-1]
    m = w.shape[0] if w_t else w.shape[1]
    fits = out.shape == (n, m) and w.shape == ((m, k) if w_t else (k, m))
    if not fits or x.dtype != w.dtype or out.dtype not in (x.dtype, np.float32):
        raise ValueError(
            f"a product of {x.dtype} {x.shape}{' transposed' * x_t} and "
            f"{w.dtype} {w.shape}{' transposed' * w_t} into {out.dtype} {out.shape}")
    if bias is not None:
        check("bias", bias, (m,), out.dtype)
    apart({"out": out}, {"x": x, "w": w, "bias": bias})
    kind, out_kind = (REAL_16BF if a.dtype == np.uint16 else REAL_32F for a in (x, out))
    leading = tuple(row_length(a) for a in (w, x, out))
    pointers = [a.data.ptr for a in (w, x, out, bias) if a is not None]
    alignment = tuple(min(256, pointer & -pointer) for pointer in pointers)
    return Product(w_t, x_t, m, n, k, kind, out_kind, bias is not None, leading, alignment)


def multiply(x, w, out, x_t=False, w_t=False, bias=None, add=False, scale=1.0):
    """Compute the product. Returns whether the bias, where there is one, has been added."""
    p, lt = product(x, w, out, x_t, w_t, bias), cublaslt()
    if lt and lt.multiply(p, w, x, out, bias, add, scale):
        return True
    of_product, of_out = factor(scale), factor(float(add))
    cp.cuda.cublas.gemmEx(
        cp.cuda.device.get_cublas_handle(), int(w_t), int(x_t), p.m, p.n, p.k,
        of_product.ctypes.data, w.data.ptr, p.kind, p.leading[0],
        x.data.ptr, p.kind, p.leading[1],
        of_out.ctypes.data, out.data.ptr, p.out_kind, p.leading[2], COMPUTE_32F, -1,
    )
    return bias is None


@functools.lru_cache(maxsize=None)
def cublaslt():
    """The library, or None where it cannot be used, which is said once."""
    try:
        cp.cuda.device.get_cublas_handle()              # loads cuBLAS, which loads cublasLt
        return CublasLt(_loaded_library())
    except (ImportError, OSError, AttributeError, RuntimeError) as e:
        print(
            "kernels: matrix products go through cuBLAS, without CUDA graphs: "
            f"cublasLt cannot be used ({e})",
            file=sys.stderr,
        )
        return None


def _loaded_library():
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as f:
        paths = {line.split(maxsplit=5)[5].strip() for line in f if "/libcublasLt" in line}
    return ctypes.CDLL(min(paths) if paths else "libcublasLt.so")


class CublasLt:
    """cublasLt with one plan for each kind of product: the library's first choice, which is the
    same in every run."""

    def __init__(self, library):
        self.library, self.handle, self.plans = library, ctypes.c_void_p(), {}
        self.call("cublasLtCreate", ctypes.byref(self.handle))
        self.workspace = cp.empty((WORKSPACE_BYTES,), np.uint8)

    def call(self, name, *args):
        """Call a function of the library; RuntimeError with its status if that is not 0."""
        status = getattr(self.library, name)(*args)
        if status:
            raise RuntimeError(f"{name} answers {status}")

    def make(self, name, *args):
        """What a function of the library creates."""
        made = ctypes.c_void_p()
        self.call(name, ctypes.byref(made), *args)
        return made

    def set(self, name, of, attribute, value):
        """Set an attribute of what the library has created."""
        size = ctypes.c_size_t(ctypes.sizeof(value))
        self.call(name, of, attribute, ctypes.byref(value), size)

    def new_plan(self, p, bias):
        """(description, layouts of w, x and out, algorithm), or None where the library has none."""
        description = self.make("cublasLtMatmulDescCreate", COMPUTE_32F, REAL_32F)
        epilogue = WITH_BIAS if p.with_bias else DEFAULT
        for attribute, value in ((TRANS_A, p.w_t), (TRANS_B, p.x_t), (EPILOGUE, epilogue)):
            value = ctypes.c_int32(value)
            self.set("cublasLtMatmulDescSetAttribute", description, attribute, value)
        self._point(description, bias)                  # the library looks how it is aligned
        layouts = []
        kinds = p.kind, p.kind, p.out_kind
        for (rows, columns), leading, kind in zip(p.sizes, p.leading, kinds):
            sizes = ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(leading)
            layouts.append(self.make("cublasLtMatrixLayoutCreate", kind, *sizes))
        algorithm = self._best_algorithm(p, description, layouts)
        if algorithm is None:
            print(f"kernels: cublasLt has nothing for {p}; it goes another way", file=sys.stderr)
            return None
        return description, layouts, algorithm

    def _best_algorithm(self, p, description, layouts):
        name = "cublasLtMatmulPreferenceSetAttribute"
        wish = self.make("cublasLtMatmulPreferenceCreate")
        self.set(name, wish, MAX_WORKSPACE, ctypes.c_uint64(WORKSPACE_BYTES))
        w, x, out = p.alignment[:3]
        for i, alignment in enumerate((w, x, out, out)):    # out is added to, and is the result
            self.set(name, wish, MIN_ALIGNMENT_A + i, ctypes.c_uint32(alignment))
        # Its answer: the algorithm (64 bytes), workspace, status, waves, 16 bytes reserved.
        found, n = (ctypes.c_uint64 * 12)(), ctypes.c_int()
        status = self.library.cublasLtMatmulAlgoGetHeuristic(
            self.handle, description, *layouts, layouts[2], wish, 1,
            ctypes.byref(found), ctypes.byref(n),
        )
        self.call("cublasLtMatmulPreferenceDestroy", wish)
        failed = found[9] & 0xFFFFFFFF
        return None if status or n.value == 0 or failed else found

    def _point(self, description, bias):
        if bias is not None:
            pointer = ctypes.c_void_p(bias.data.ptr)
            self.set("cublasLtMatmulDescSetAttribute", description, BIAS_POINTER, pointer)

    def multiply(self, p, w, x, out, bias, add, scale):
        """Compute the product. Returns False where the library cannot."""
        if p not in self.plans:
            self.plans[p] = self.new_plan(p, bias)
        if self.plans[p] is None:
            return False
        description, layouts, algorithm = self.plans[p]
        self._point(description, bias)
        w_at, x_at, out_at, workspace = (
            ctypes.c_void_p(a.data.ptr) for a in (w, x, out, self.workspace)
        )
        status = self.library.cublasLtMatmul(
            self.handle, description, factor(scale).ctypes, w_at, layouts[0], x_at, layouts[1],
            factor(float(add)).ctypes, out_at, layouts[2], out_at, layouts[2],
            ctypes.byref(algorithm), workspace, ctypes.c_size_t(WORKSPACE_BYTES),
            ctypes.c_void_p(cp.cuda.get_current_stream().ptr),
        )
        if status:
            print(
                f"kernels: cublasLt answers {status} to {p}; it goes another way", file=sys.stderr)
            self.plans[p] = None
        return not status
