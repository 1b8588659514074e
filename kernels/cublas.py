"""cublas.py: matrix products on a GPU, by NVIDIA's library: through cublasLt where it can be had, else through CuPy's gemmEx.

cublasLt adds the bias in the same pass, can take the GELU and sums of columns along, and its calls can be recorded into a CUDA
graph, which CuPy's own cannot. It is called by ctypes: CuPy does not wrap it, but has loaded it.

    out (M,N) = op(x) op(w) + bias, or added to what out holds       op: as it is, or transposed

The library stores by columns what we store by rows, so it is asked for the transpose: out^T = op(w)^T op(x)^T, and out^T stored by
columns is out stored by rows.
"""

import ctypes
import functools
import sys
from typing import NamedTuple

import numpy as np

from kernels.checks import apart, check, cp, real

WORKSPACE_BYTES = 32 << 20      # what NVIDIA recommends for Hopper
REAL_32F, REAL_16BF, COMPUTE_32F = 0, 14, 68                    # cudaDataType, cublasComputeType_t
DEFAULT, WITH_BIAS = 1, 4                                       # cublasLtEpilogue_t, as are the next three:
GELU = 164                      # out = gelu(op(x) op(w) + bias), aux = what the GELU was taken of
GELU_BACKWARD = 192             # out = op(x) op(w) * the derivative of the GELU at aux
BIAS_GRADIENT = 256             # bias = the sums of w's columns, w as it is: with w = dy what linear_backward calls db
TRANS_A, TRANS_B, EPILOGUE, BIAS_POINTER, AUX_POINTER, AUX_LEADING = 3, 4, 7, 8, 11, 12         # cublasLtMatmulDescAttributes_t
MAX_WORKSPACE, MIN_ALIGNMENT_A = 1, 5                           # cublasLtMatmulPreferenceAttributes_t; B, C, D follow A

# Those of the three that matmul_and() does. Each saves passes over memory and makes the product slower: which wins is a matter of
# the GPU, so tests/peers/gpu_speed.py times both ways. On an H100 llm.c gained under 1 % from the GELU, on older GPUs it lost.
TAKEN_ALONG = frozenset()

ONE, ZERO = np.ones(1, np.float32), np.zeros(1, np.float32)     # the library reads its factors from the host


class Product(NamedTuple):
    """What decides how a product is computed, in the library's terms: out^T (m,n) = op(w) (m,k) op(x) (k,n), stored by columns."""

    w_t: bool
    x_t: bool
    m: int
    n: int
    k: int
    kind: int                   # of x and w
    out_kind: int
    epilogue: int
    alignment: tuple            # in bytes, 256 at most, of w, x, out, and where there are bias and aux of those

    @property
    def leading(self):          # numbers from one column to the next, of w, x and out
        return self.k if self.w_t else self.m, self.n if self.x_t else self.k, self.m


def kind_of(a):
    return REAL_16BF if a.dtype == np.uint16 else REAL_32F


def product(x, w, out, x_t, w_t, bias, epilogue, aux=None):
    for what, a in (("x", x), ("w", w), ("out", out), *([("aux", aux)] if aux is not None else [])):
        real(what, a)
        check(what, a, a.shape, a.dtype)
        if a.ndim != 2:
            raise ValueError(f"{what}: {a.shape}, expected a matrix")
    k, n = x.shape if x_t else x.shape[::-1]
    m = w.shape[0] if w_t else w.shape[1]
    fits = out.shape == (n, m) and w.shape == ((m, k) if w_t else (k, m))
    if not fits or x.dtype != w.dtype or out.dtype not in (x.dtype, np.float32):
        raise ValueError(f"a product of {x.dtype} {x.shape}{' transposed' * x_t} and {w.dtype} {w.shape}{' transposed' * w_t} "
                         f"into {out.dtype} {out.shape}")
    if bias is not None:
        check("bias", bias, (m,), out.dtype)
    if aux is not None:
        check("aux", aux, out.shape, out.dtype)
    written = {"out": out}
    if epilogue == GELU:
        written["aux"] = aux
    if epilogue == BIAS_GRADIENT:
        written["bias"] = bias
    apart(written, {"x": x, "w": w, "bias": bias, "aux": aux})
    aligned = tuple(min(256, a.data.ptr & -a.data.ptr) for a in (w, x, out, bias, aux) if a is not None)
    return Product(w_t, x_t, m, n, k, kind_of(x), kind_of(out), epilogue, aligned)


def matmul(x, w, out, x_t=False, w_t=False, bias=None, add=False):
    """out = op(x) op(w) + bias; with add, added to out. Sums are in float32. bias only where add is false."""
    p, lt = product(x, w, out, x_t, w_t, bias, DEFAULT if bias is None else WITH_BIAS), cublaslt()
    if lt and lt.multiply(p, w, x, out, bias, add):
        return out
    cp.cuda.cublas.gemmEx(cp.cuda.device.get_cublas_handle(), int(w_t), int(x_t), p.m, p.n, p.k, ONE.ctypes.data,
                          w.data.ptr, p.kind, p.leading[0], x.data.ptr, p.kind, p.leading[1], (ONE if add else ZERO).ctypes.data,
                          out.data.ptr, p.out_kind, p.leading[2], COMPUTE_32F, -1)
    if bias is not None:
        from kernels import bias_forward
        bias_forward(out, bias)
    return out


def matmul_and(what, x, w, out, x_t=False, w_t=False, bias=None, aux=None, add=False):
    """A product and what goes along with it, in one pass: GELU, GELU_BACKWARD or BIAS_GRADIENT. Whether it was done: False where it
    is not chosen or the library cannot."""
    lt = cublaslt() if what in TAKEN_ALONG else None
    return bool(lt) and lt.multiply(product(x, w, out, x_t, w_t, bias, what, aux), w, x, out, bias, add, aux)


@functools.lru_cache(maxsize=None)
def cublaslt():
    """The library, or None where it cannot be used, which is said once."""
    try:
        cp.cuda.device.get_cublas_handle()              # loads cuBLAS, which loads cublasLt
        return CublasLt(_loaded_library())
    except (ImportError, OSError, AttributeError, RuntimeError) as e:
        print(f"kernels: matrix products go through cuBLAS, without CUDA graphs: cublasLt cannot be used ({e})", file=sys.stderr)
        return None


def _loaded_library():
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as f:
        paths = {line.split(maxsplit=5)[5].strip() for line in f if "/libcublasLt" in line}
    return ctypes.CDLL(min(paths) if paths else "libcublasLt.so")


class CublasLt:
    def __init__(self, library):
        self.library, self.handle, self.plans = library, ctypes.c_void_p(), {}
        self.call("cublasLtCreate", ctypes.byref(self.handle))
        self.workspace = cp.empty((WORKSPACE_BYTES,), np.uint8)

    def call(self, name, *args):
        status = getattr(self.library, name)(*args)
        if status:
            raise RuntimeError(f"{name} answers {status}")

    def make(self, name, *args):
        made = ctypes.c_void_p()
        self.call(name, ctypes.byref(made), *args)
        return made

    def set(self, name, of, attribute, value):
        self.call(name, of, attribute, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value)))

    def plan(self, p, bias, aux):
        """(description, layouts of w, x and out, algorithm): the library's first choice, the same in every run. None where it has none."""
        if p in self.plans:
            return self.plans[p]
        description = self.make("cublasLtMatmulDescCreate", COMPUTE_32F, REAL_32F)
        for attribute, value in ((TRANS_A, p.w_t), (TRANS_B, p.x_t), (EPILOGUE, p.epilogue)):
            self.set("cublasLtMatmulDescSetAttribute", description, attribute, ctypes.c_int32(value))
        self.point(description, bias, aux)              # it looks how far they are aligned
        sizes = ((p.k, p.m) if p.w_t else (p.m, p.k)), ((p.n, p.k) if p.x_t else (p.k, p.n)), (p.m, p.n)
        layouts = [self.make("cublasLtMatrixLayoutCreate", kind, ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(leading))
                   for (rows, columns), leading, kind in zip(sizes, p.leading, (p.kind, p.kind, p.out_kind))]
        wish = self.make("cublasLtMatmulPreferenceCreate")
        self.set("cublasLtMatmulPreferenceSetAttribute", wish, MAX_WORKSPACE, ctypes.c_uint64(WORKSPACE_BYTES))
        for i, alignment in enumerate((*p.alignment[:3], p.alignment[2])):          # out twice: what is added to, and the result
            self.set("cublasLtMatmulPreferenceSetAttribute", wish, MIN_ALIGNMENT_A + i, ctypes.c_uint32(alignment))
        found, n = (ctypes.c_uint64 * 12)(), ctypes.c_int()     # the algorithm (64 bytes), workspace, status, waves, 16 bytes reserved
        status = self.library.cublasLtMatmulAlgoGetHeuristic(self.handle, description, *layouts, layouts[2], wish, 1, ctypes.byref(found), ctypes.byref(n))
        self.call("cublasLtMatmulPreferenceDestroy", wish)
        if status or n.value == 0 or found[9] & 0xFFFFFFFF:
            print(f"kernels: cublasLt has nothing for {p}; it goes another way", file=sys.stderr)
            self.plans[p] = None
        else:
            self.plans[p] = description, layouts, found
        return self.plans[p]

    def point(self, description, bias, aux):
        if bias is not None:
            self.set("cublasLtMatmulDescSetAttribute", description, BIAS_POINTER, ctypes.c_void_p(bias.data.ptr))
        if aux is not None:
            self.set("cublasLtMatmulDescSetAttribute", description, AUX_POINTER, ctypes.c_void_p(aux.data.ptr))
            self.set("cublasLtMatmulDescSetAttribute", description, AUX_LEADING, ctypes.c_int64(aux.shape[1]))

    def multiply(self, p, w, x, out, bias, add, aux=None):
        """Whether it could."""
        plan = self.plan(p, bias, aux)
        if plan is None:
            return False
        description, layouts, algorithm = plan
        self.point(description, bias, aux)
        status = self.library.cublasLtMatmul(
            self.handle, description, ONE.ctypes, ctypes.c_void_p(w.data.ptr), layouts[0], ctypes.c_void_p(x.data.ptr), layouts[1],
            (ONE if add else ZERO).ctypes, ctypes.c_void_p(out.data.ptr), layouts[2], ctypes.c_void_p(out.data.ptr), layouts[2],
            ctypes.byref(algorithm), ctypes.c_void_p(self.workspace.data.ptr), ctypes.c_size_t(WORKSPACE_BYTES), ctypes.c_void_p(cp.cuda.get_current_stream().ptr))
        if status:
            print(f"kernels: cublasLt answers {status} to {p}; it goes another way", file=sys.stderr)
            self.plans[p] = None
        return not status
