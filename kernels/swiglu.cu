/* swiglu.cu: u = a s up with s = 1 / (1 + exp(-a)), and from du: d_up = du a s,
   d_a = du up s (1 + a (1 - s))
   spec: llama.swiglu_forward, llama.swiglu_backward; nothing is kept but h: arithmetic is cheaper
   than memory here.
   h, dh (N,2F) real: a | up; u, du (N,F) real. Any N, F >= 1. dh may be h.
   Forward moves 3 N F numbers, backward 5 N F: memory bound, floor = bytes / bandwidth.
   v1 one thread per number of u. v2 one thread per 16 bytes of it. */

/* As gelu_gate: 0 where exp is infinite. */
__device__ __forceinline__ float sigmoid(float x) {
    return __fdividef(1.0f, 1.0f + exp2f(-LOG2E * x));
}

/* One thread, one number. */
extern "C" __global__ void swiglu_forward_v1(const real *h, real *u, int N, int F) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)N * F) return;
    const real *gate = h + i + i / F * F;               /* a row of h is as long as two of u */
    float a = to_float(gate[0]);
    from_float(a * sigmoid(a) * to_float(gate[F]), &u[i]);
}

/* One thread, WIDTH numbers that lie together. */
extern "C" __global__ void swiglu_forward_v2(const real *h, real *u, int N, int F) {
    int packs = (F + WIDTH - 1) / WIDTH;
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)N * packs) return;
    int row = (int)(i / packs), c = (int)(i % packs) * WIDTH;
    const real *gate = h + (size_t)row * 2 * F + c;
    float a[WIDTH], up[WIDTH];
    load_pack(a, gate, F - c, PACKED), load_pack(up, gate + F, F - c, PACKED);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) a[k] *= sigmoid(a[k]) * up[k];
    store_pack(u + (size_t)row * F + c, a, F - c, PACKED);
}

/* One thread, WIDTH numbers of du, and their two derivatives. */
extern "C" __global__ void swiglu_backward(const real *du, const real *h, real *dh, int N, int F) {
    int packs = (F + WIDTH - 1) / WIDTH;
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)N * packs) return;
    int row = (int)(i / packs), c = (int)(i % packs) * WIDTH;
    size_t at = (size_t)row * 2 * F + c;
    float g[WIDTH], a[WIDTH], up[WIDTH];
    load_pack(g, du + (size_t)row * F + c, F - c, PACKED);
    load_pack(a, h + at, F - c, PACKED), load_pack(up, h + at + F, F - c, PACKED);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) {
        float s = sigmoid(a[k]), of_up = g[k] * a[k] * s;
        a[k] = g[k] * up[k] * s * (1.0f + a[k] * (1.0f - s));
        up[k] = of_up;
    }
    store_pack(dh + at, a, F - c, PACKED), store_pack(dh + at + F, up, F - c, PACKED);
}
