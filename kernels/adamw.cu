/* adamw.cu: the global norm of the gradients, the scale that clips it, and AdamW for all parameters
   spec: train.AdamW
       m <- m + (1 - b1)(g - m)    v <- v + (1 - b2)(g^2 - v)
       p <- p - lr (m / c1 / (sqrt(v / c2) + eps) + decay p)
       with g = scale * gradient, scale = min(1, clip / norm), c1 = 1 - b1^t, c2 = 1 - b2^t
   All parameters lie behind each other: grads, master, m, v (n,) float; params (n,) real, the copy
   of master that the model computes with, or null where it computes with master itself. The first
   n_decayed are decayed. Moves 4 n bytes for the norm and 28 n, or 30 n with params in bfloat16,
   for the update: memory bound, floor = bytes / bandwidth.
   The norm never visits the host: state (3,) float is the step's loss, the norm, and the scale,
   which is 0 where loss or norm is not finite: then nothing changes. Sums over blocks are in double
   and in order: same bits every time. */

/* A grid-stride sum of squares for each block; partial (gridDim.x,). */
extern "C" __global__ void norm_partials(const float *grads, float *partial, long long n) {
    __shared__ float sums[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    float sum = 0.0f;
    for (long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 4; i < n;
        i += (long long)gridDim.x * blockDim.x * 4) {
        float4 g = load_four(grads + i, n - i);
        sum += g.x * g.x + g.y * g.y + g.z * g.z + g.w * g.w;
    }
    sum = warp_sum(sum);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();                                    /* the sums of all warps are there */
    if (threadIdx.x) return;
    for (int i = 1; i < warps; i++) sum += sums[i];
    partial[blockIdx.x] = sum;
}

/* One warp adds up the blocks: lane l every 32nd, then the lanes. */
extern "C" __global__ void norm_and_scale(const float *partial, float *state, int blocks,
        float clip) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < blocks; i += 32) sum += partial[i];
    for (int lanes = 16; lanes; lanes >>= 1) sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
    if (threadIdx.x) return;
    float norm = (float)sqrt(sum);
    state[1] = norm;    /* the comparison below is false for a NaN too */
    state[2] = norm < INFINITY && fabsf(state[0]) < INFINITY ? (norm > clip ? clip / norm : 1.0f)
        : 0.0f;
}

/* One thread updates four parameters. rates (3,) float: lr, 1 / c1, 1 / c2, which change with every
   step. */
extern "C" __global__ void adamw(const float *grads, float *master, float *m, float *v,
        real *params, const float *state, const float *rates, long long n, long long n_decayed,
        float b1, float b2, float eps, float decay) {
    long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i >= n || state[2] == 0.0f) return;
    float4 g = load_four(grads + i, n - i), mi = load_four(m + i, n - i),
        vi = load_four(v + i, n - i), pi = load_four(master + i, n - i);
    float *gs = &g.x, *ms = &mi.x, *vs = &vi.x, *ps = &pi.x, lr = rates[0];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        float gk = gs[k] * state[2];
        ms[k] += (1.0f - b1) * (gk - ms[k]);
        vs[k] += (1.0f - b2) * (gk * gk - vs[k]);
        ps[k] -= lr * (ms[k] * rates[1] / (sqrtf(vs[k] * rates[2]) + eps)
            + (i + k < n_decayed ? decay * ps[k] : 0.0f));
    }
    store_four(m + i, mi, n - i), store_four(v + i, vi, n - i), store_four(master + i, pi, n - i);
    if (params) store_four(params + i, pi, n - i);
}
