/* common.cuh: what the kernels share: number types, 16 bytes at a time, sums over a warp.

   kernels/__init__.py puts this file in front of each .cu, because CuPy's compile cache does not see the contents of included
   files. It compiles each twice: real is float, or with -DBF16 bfloat16, of which only the bits are needed here.
   Arithmetic and sums are float32 either way. */

typedef unsigned short u16;

struct bf16 { u16 bits; };                              /* the upper half of a float32 */

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

/* To the nearest, ties to even; a NaN stays one. */
__device__ __forceinline__ void from_float(float x, float *to) { *to = x; }
__device__ __forceinline__ void from_float(float x, bf16 *to) {
    unsigned u = __float_as_uint(x);
    to->bits = (u & 0x7fffffffu) > 0x7f800000u ? (u16)(u >> 16 | 64) : (u16)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

#ifdef BF16
typedef bf16 real;
#else
typedef float real;
#endif

#define WIDTH ((int)(16 / sizeof(real)))                /* numbers in 16 bytes, the most a thread loads at once */
#define ALL_LANES 0xffffffffu

/* WIDTH numbers from p as float32, of which only the first n exist; the rest are 0. packed: p is a multiple of 16 bytes and
   all exist, which is so for every pack of an array whose last axis is a multiple of WIDTH. */
__device__ __forceinline__ void load_pack(float *v, const real *p, int n, bool packed) {
    if (packed) {
        uint4 raw = *(const uint4 *)p;
        const real *each = (const real *)&raw;
#pragma unroll
        for (int k = 0; k < WIDTH; k++) v[k] = to_float(each[k]);
    } else {
#pragma unroll
        for (int k = 0; k < WIDTH; k++) v[k] = k < n ? to_float(p[k]) : 0.0f;
    }
}

__device__ __forceinline__ void store_pack(real *p, const float *v, int n, bool packed) {
    if (packed) {
        uint4 raw;
        real *each = (real *)&raw;
#pragma unroll
        for (int k = 0; k < WIDTH; k++) from_float(v[k], &each[k]);
        *(uint4 *)p = raw;
    } else {
#pragma unroll
        for (int k = 0; k < WIDTH; k++)
            if (k < n) from_float(v[k], &p[k]);
    }
}

__device__ __forceinline__ float warp_sum(float x) {    /* every lane gets it, added in the same order */
#pragma unroll
    for (int lanes = 16; lanes; lanes >>= 1) x += __shfl_xor_sync(ALL_LANES, x, lanes);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int lanes = 16; lanes; lanes >>= 1) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, lanes));
    return x;
}

/* The dynamic shared memory of a block. */
#ifdef CUDA_CPU
#define DYNAMIC_SHARED(type, name) type *name = (type *)cuda_cpu::m.dynamic
#else
#define DYNAMIC_SHARED(type, name)                      \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    type *name = (type *)dynamic_shared
#endif
