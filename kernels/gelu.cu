/* gelu.cu: y = x s with s = (1 + tanh(k (x + c x^3))) / 2, and dy/dx in the place of x    spec: gpt.gelu_forward
       dy/dx = s + x s (1 - s) 2k (1 + 3 c x^2)
   x, y, dy (n,) real, any n. Forward moves 3 n numbers (reads x; writes y, slope), backward 3 (reads dy, slope; writes dx) for
   some twenty operations each: memory bound, floor = bytes / bandwidth.
   v1 one thread per number. v2 one thread per 16 bytes. */

#define GELU_K 0.7978845608028654f                      /* sqrt(2 / pi) */
#define GELU_C 0.044715f

__device__ __forceinline__ float gelu(float x, float *slope) {
    float s = 0.5f + 0.5f * tanhf(GELU_K * (x + GELU_C * x * x * x));
    *slope = s + x * s * (1.0f - s) * 2.0f * GELU_K * (1.0f + 3.0f * GELU_C * x * x);
    return x * s;
}

/* One thread, one number. */
extern "C" __global__ void gelu_forward_v1(real *x, real *y, long long n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float slope;
    from_float(gelu(to_float(x[i]), &slope), &y[i]);
    from_float(slope, &x[i]);
}

/* One thread, WIDTH numbers that lie together. */
extern "C" __global__ void gelu_forward_v2(real *x, real *y, long long n) {
    long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * WIDTH;
    if (i >= n) return;
    int left = (int)min(n - i, (long long)WIDTH);
    float v[WIDTH], slope[WIDTH];
    load_pack(v, x + i, left, left == WIDTH);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) v[k] = gelu(v[k], &slope[k]);
    store_pack(y + i, v, left, left == WIDTH);
    store_pack(x + i, slope, left, left == WIDTH);
}

/* dx = dy * slope; dx may be dy. One thread, WIDTH numbers. */
extern "C" __global__ void gelu_backward(const real *dy, const real *slope, real *dx, long long n) {
    long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * WIDTH;
    if (i >= n) return;
    int left = (int)min(n - i, (long long)WIDTH);
    float g[WIDTH], v[WIDTH];
    load_pack(g, dy + i, left, left == WIDTH);
    load_pack(v, slope + i, left, left == WIDTH);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) g[k] *= v[k];
    store_pack(dx + i, g, left, left == WIDTH);
}
