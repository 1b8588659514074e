/* gelu.cu: y = x s with s = (1 + tanh(k (x + c x^3))) / 2,
   and dx = dy (s + x s (1 - s) 2k (1 + 3 c x^2))
   spec: gpt.gelu_forward, gpt.gelu_backward; what is kept is x, for here arithmetic is cheaper than
   writing dy/dx and reading it again.
   x, y, dy, dx (n,) real, any n. Forward moves 2 n numbers, backward 3 n (reads dy, x; writes dx),
   for some twenty operations each: memory bound, floor = bytes / bandwidth.
   v1 one thread per number. v2 one thread per 16 bytes. */

#define GELU_K 0.7978845608028654f                      /* sqrt(2 / pi) */
#define GELU_C 0.044715f

/* (1 + tanh(z)) / 2 = 1 / (1 + exp(-2z)), which is 0 where exp is infinite. The division to 2 ulp,
   2^x: an instruction each. */
__device__ __forceinline__ float gelu_gate(float x) {
    return __fdividef(1.0f, 1.0f + exp2f(-2.0f * GELU_K * LOG2E * x * (1.0f + GELU_C * x * x)));
}

__device__ __forceinline__ float gelu_slope(float x) {
    float s = gelu_gate(x);
    return s + x * s * (1.0f - s) * 2.0f * GELU_K * (1.0f + 3.0f * GELU_C * x * x);
}

/* One thread, one number. */
extern "C" __global__ void gelu_forward_v1(const real *x, real *y, long long n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) from_float(to_float(x[i]) * gelu_gate(to_float(x[i])), &y[i]);
}

/* One thread, WIDTH numbers that lie together. */
extern "C" __global__ void gelu_forward_v2(const real *x, real *y, long long n) {
    long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * WIDTH;
    if (i >= n) return;
    int left = (int)min(n - i, (long long)WIDTH);
    float v[WIDTH];
    load_pack(v, x + i, left, left == WIDTH);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) v[k] *= gelu_gate(v[k]);
    store_pack(y + i, v, left, left == WIDTH);
}

/* dx may be dy or x. One thread, WIDTH numbers. */
extern "C" __global__ void gelu_backward(const real *dy, const real *x, real *dx, long long n) {
    long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * WIDTH;
    if (i >= n) return;
    int left = (int)min(n - i, (long long)WIDTH);
    float g[WIDTH], v[WIDTH];
    load_pack(g, dy + i, left, left == WIDTH);
    load_pack(v, x + i, left, left == WIDTH);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) g[k] *= gelu_slope(v[k]);
    store_pack(dx + i, g, left, left == WIDTH);
}
