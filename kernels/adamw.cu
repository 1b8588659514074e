/* adamw.cu: the global norm of the gradients, the scale that clips it, and AdamW for all parameters    spec: train.AdamW
       m <- m + (1 - b1)(g - m)    v <- v + (1 - b2)(g^2 - v)    p <- p - lr (m / c1 / (sqrt(v / c2) + eps) + decay p)
       with g = scale * gradient, scale = min(1, clip / norm), c1 = 1 - b1^t, c2 = 1 - b2^t
   All parameters lie behind each other: grads (n,) real, master, m, v (n,) float, params (n,) real. The first n_decayed
   are decayed. Moves 2 n numbers for the norm and 8 n for the update: memory bound, floor = bytes / bandwidth.
   The norm never visits the host: state (3,) float is the norm, the scale (0 where the norm is not finite: nothing changes
   then) and the number of steps skipped for it. Sums are in double over blocks in order: same bits every time. */

/* A grid-stride sum of squares for each block; partial (gridDim.x,). */
extern "C" __global__ void norm_partials(const real *grads, float *partial, long long n) {
    __shared__ float sums[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    float sum = 0.0f, v[WIDTH];
    for (long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * WIDTH; i < n; i += (long long)gridDim.x * blockDim.x * WIDTH) {
        int left = (int)min(n - i, (long long)WIDTH);
        load_pack(v, grads + i, left, left == WIDTH);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) sum += v[k] * v[k];
    }
    sum = warp_sum(sum);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();                                    /* the sums of all warps are there */
    if (threadIdx.x) return;
    for (int i = 1; i < warps; i++) sum += sums[i];
    partial[blockIdx.x] = sum;
}

/* One warp adds up the blocks: lane l every 32nd, then the lanes. */
extern "C" __global__ void norm_and_scale(const float *partial, float *state, int blocks, float clip) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < blocks; i += 32) sum += partial[i];
    for (int lanes = 16; lanes; lanes >>= 1) sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
    if (threadIdx.x) return;
    float norm = (float)sqrt(sum);
    bool finite = norm < INFINITY;                      /* false for a NaN too */
    state[0] = norm;
    state[1] = finite ? (norm > clip ? clip / norm : 1.0f) : 0.0f;
    state[2] += finite ? 0.0f : 1.0f;
}

/* One thread updates WIDTH parameters. rates (3,) float: lr, 1 / c1, 1 / c2, which change with every step. */
extern "C" __global__ void adamw(const real *grads, float *master, float *m, float *v, real *params, const float *state, const float *rates,
                                 long long n, long long n_decayed, float b1, float b2, float eps, float decay) {
    long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * WIDTH;
    if (i >= n || state[1] == 0.0f) return;
    int left = (int)min(n - i, (long long)WIDTH);
    float g[WIDTH], new_p[WIDTH], lr = rates[0];
    load_pack(g, grads + i, left, left == WIDTH);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) {
        new_p[k] = 0.0f;
        if (k >= left) continue;
        float gk = g[k] * state[1], mk = m[i + k], vk = v[i + k], p = master[i + k];
        mk += (1.0f - b1) * (gk - mk);
        vk += (1.0f - b2) * (gk * gk - vk);
        p -= lr * (mk * rates[1] / (sqrtf(vk * rates[2]) + eps) + (i + k < n_decayed ? decay * p : 0.0f));
        m[i + k] = mk, v[i + k] = vk, master[i + k] = p;
        new_p[k] = p;
    }
    store_pack(params + i, new_p, left, left == WIDTH);
}
