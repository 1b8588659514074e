/* common.cuh: what the kernels share: number types, 16 bytes at a time, sums over a warp.

   kernels/__init__.py puts this file in front of each .cu, because CuPy's compile cache does not
   see the contents of included files. It compiles each twice: real is float, or with -DBF16
   bfloat16, of which only the bits are needed here.
   Arithmetic and sums are float32 either way. */

#ifndef INFINITY                                        /* CuPy's compiler knows no <math.h> */
#define INFINITY __uint_as_float(0x7f800000u)
#endif

typedef unsigned short u16;

struct bf16 { u16 bits; };                              /* the upper half of a float32 */

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16);
        }

/* To the nearest, ties to even; a NaN stays one. */
__device__ __forceinline__ void from_float(float x, float *to) { *to = x; }
__device__ __forceinline__ void from_float(float x, bf16 *to) {
#ifdef CUDA_CPU
    unsigned u = __float_as_uint(x);
    to->bits = (u & 0x7fffffffu) > 0x7f800000u ? (u16)(u >> 16 | 64)
        : (u16)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
#else
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to->bits) : "f"(x));
#endif
}

/* Two float32 as a pair of bfloat16, the first in the lower half. */
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
#ifdef CUDA_CPU
    bf16 l, h;
    from_float(low, &l);
    from_float(high, &h);
    return l.bits | (unsigned)h.bits << 16;
#else
    unsigned r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
#endif
}

#ifdef BF16
typedef bf16 real;
#else
typedef float real;
#endif

/* numbers in 16 bytes, the most a thread loads at once */
#define WIDTH ((int)(16 / sizeof(real)))
#define ALL_LANES 0xffffffffu
/* exp(x) = 2^(x log2 e), and 2^x is one instruction */
#define LOG2E 1.4426950408889634f

/* 1 where the last axis of all arrays is a multiple of WIDTH: known when it is compiled, */
#ifndef PACKED
/* or a branch between two loads would keep the second waiting for the first */
#define PACKED 0
#endif

/* WIDTH numbers from p, of which only the first n exist; the rest are 0. packed: p is a multiple of
   16 bytes and all exist or none. */
__device__ __forceinline__ uint4 load_raw(const real *p, int n, bool packed) {
    if (packed && n > 0) return *(const uint4 *)p;
    uint4 raw = make_uint4(0, 0, 0, 0);
    real *each = (real *)&raw;
#pragma unroll
    for (int k = 0; k < WIDTH; k++)
        if (k < n) each[k] = p[k];
    return raw;
}

__device__ __forceinline__ void unpack(float *v, uint4 raw) {
    const real *each = (const real *)&raw;
#pragma unroll
    for (int k = 0; k < WIDTH; k++) v[k] = to_float(each[k]);
}

/* The same, as float32. */
__device__ __forceinline__ void load_pack(float *v, const real *p, int n, bool packed) {
        unpack(v, load_raw(p, n, packed)); }

__device__ __forceinline__ void store_pack(real *p, const float *v, int n, bool packed) {
    if (packed) {
#ifdef BF16
        uint4 raw;
        raw.x = pack_bf16(v[0], v[1]), raw.y = pack_bf16(v[2], v[3]), raw.z = pack_bf16(v[4], v[5]),
            raw.w = pack_bf16(v[6], v[7]);
        *(uint4 *)p = raw;
#else
        *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
#endif
    } else {
#pragma unroll
        for (int k = 0; k < WIDTH; k++)
            if (k < n) from_float(v[k], &p[k]);
    }
}

/* Four float32 from p, or to it, of which only the first n exist; p is a multiple of the bytes of
   four. */
__device__ __forceinline__ float4 load_four(const float *p, long long n) {
    if (n >= 4) return *(const float4 *)p;
    float4 v;
    v.x = p[0], v.y = n > 1 ? p[1] : 0.0f, v.z = n > 2 ? p[2] : 0.0f, v.w = 0.0f;
    return v;
}

__device__ __forceinline__ void store_four(float *p, float4 v, long long n) {
    if (n >= 4) *(float4 *)p = v;
    else p[0] = v.x;
    if (n == 2 || n == 3) p[1] = v.y;
    if (n == 3) p[2] = v.z;
}
__device__ __forceinline__ void store_four(bf16 *p, float4 v, long long n) {
    if (n >= 4) *(uint2 *)p = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
    else from_float(v.x, p);
    if (n == 2 || n == 3) from_float(v.y, p + 1);
    if (n == 3) from_float(v.z, p + 2);
}

/* every lane gets it, added in the same order */
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lanes = 16; lanes; lanes >>= 1) x += __shfl_xor_sync(ALL_LANES, x, lanes);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int lanes = 16; lanes; lanes >>= 1) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, lanes));
    return x;
}

/* How many lanes share a row of HS numbers: as it has packs, rounded up to a power of two, at most
   a warp. */
__device__ __forceinline__ int lanes_of(int HS) {
    int lanes = 1;
    while (lanes * WIDTH < HS && lanes < 32) lanes *= 2;
    return lanes;
}

/* How many of first, first + apart, ... lie before end. A loop over a count has several loads on
   their way, where one up to a bound waits. */
__device__ __forceinline__ int count(int first, int end, int apart) { return first < end
        ? (end - 1 - first) / apart + 1 : 0; }

/* The sums that each warp of a block has of the same 32*WIDTH columns, a lane of WIDTH of them:
   left in shared memory, STRIP floats a warp, and added up for a column, in order. One place in
   every WIDTH + 1 is empty, so that the lanes' numbers lie in different banks. */
#define STRIP (32 * (WIDTH + 1))
__device__ __forceinline__ void leave_sums(float *sums, const float *mine) {
#pragma unroll
    for (int k = 0; k < WIDTH; k++)
        sums[threadIdx.x / 32 * STRIP + threadIdx.x % 32 * (WIDTH + 1) + k] = mine[k];
}
__device__ __forceinline__ float add_sums(float total, const float *sums, int column) {
    for (int i = 0; i < blockDim.x / 32; i++) total += sums[i * STRIP + column + column / WIDTH];
    return total;
}

/* Tensor cores, as thin as they come; tests/cuda has their twins for a CPU.
   Lane l has g = l / 4 and t = l % 4. Of c (16,8) it holds (g, 2t), (g, 2t+1), (g+8, 2t), (g+8,
   2t+1); of a (16,16) the pairs at (g, 2t), (g+8, 2t), (g, 2t+8), (g+8, 2t+8); of b (16,8) the
   pairs of rows 2t and 2t+8 in column g. So the c of two tiles side by side, rounded and packed, is
   the a of the next product. */
#ifndef CUDA_CPU

/* c += a b */
__device__ __forceinline__ void mma_bf16(float *c, const unsigned *a, const unsigned *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ unsigned shared_address(const void *p) {
        return (unsigned)__cvta_generic_to_shared(p); }

/* Four 8x8 matrices: lane l names row l % 8 of matrix l / 8, and gets (l / 4, 2 (l % 4)) and its
   right neighbour of each; with _trans of their transposes. */
__device__ __forceinline__ void ldmatrix_x4(unsigned *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]),
                     "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]),
                     "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

/* 16 bytes, or 4, to shared memory in the background: the first n from src, the rest 0. */
__device__ __forceinline__ void cp_async_16(void *to, const void *src, int n) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(shared_address(to)),
        "l"(src), "r"(n) : "memory");
}
__device__ __forceinline__ void cp_async_4(void *to, const void *src, int n) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" :: "r"(shared_address(to)),
        "l"(src), "r"(n) : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
        asm volatile("cp.async.commit_group;" ::: "memory"); }
/* for all but the latest groups */
template <int LATEST> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(LATEST) : "memory");
}

#endif

/* The dynamic shared memory of a block. */
#ifdef CUDA_CPU
#define DYNAMIC_SHARED(type, name) type *name = (type *)cuda_cpu::m.dynamic
#else
extern __shared__ __align__(16) unsigned char dynamic_shared[];
#define DYNAMIC_SHARED(type, name) type *name = (type *)dynamic_shared
#endif
