/* cross_entropy.cu: nll_i = log sum_v exp(z_iv) - z_i,target,
   and z <- weight_i (softmax(z_i) - onehot(target_i))
   spec: gpt.cross_entropy_forward, gpt.cross_entropy_backward
   z (N,stride) real, of which the first V columns are logits and the rest padding, which becomes 0;
   targets (N,) int; weights (N,) float, or null where only the losses are wanted and z stays;
   nll (N,) float. Any N, V >= 1.
   Moves 3 N V numbers (reads twice, the second time from the cache where a row fits; writes once):
   memory bound.
   v1 one thread per row, three passes. v2 one block per row: the running maximum and the sum
   belonging to it in one pass, merged over lanes and warps; then the gradient. */

/* One thread, one row. */
extern "C" __global__ void cross_entropy_v1(real *z, const int *targets, const float *weights,
        float *nll, int N, int V, int stride) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= N) return;
    z += (size_t)row * stride;
    float top = -INFINITY, sum = 0.0f;
    for (int v = 0; v < V; v++) top = fmaxf(top, to_float(z[v]));
    for (int v = 0; v < V; v++) sum += expf(to_float(z[v]) - top);
    nll[row] = logf(sum) + top - to_float(z[targets[row]]);
    if (!weights) return;
    for (int v = 0; v < stride; v++)
        from_float(v < V ? weights[row] * (expf(to_float(z[v]) - top) / sum - (v == targets[row]))
            : 0.0f, &z[v]);
}

/* The pairs (maximum, sum of exp(z - maximum)) of the lanes of a warp become the pair of all of
   them. */
__device__ __forceinline__ void merge_lanes(float *top, float *sum) {
    for (int lanes = 16; lanes; lanes >>= 1) {
        float other_top = __shfl_xor_sync(ALL_LANES, *top, lanes),
            other_sum = __shfl_xor_sync(ALL_LANES, *sum, lanes), t = fmaxf(*top, other_top);
        if (t > -INFINITY) *sum = *sum * __expf(*top - t) + other_sum * __expf(other_top - t);
        *top = t;
    }
}

/* One block, one row; the last rows first, because the product that wrote z left them in the
   cache. */
extern "C" __global__ void cross_entropy_v2(real *z, const int *targets, const float *weights,
        float *nll, int N, int V, int stride) {
    __shared__ float tops[32], sums[32];
    int row = N - 1 - (int)blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32,
        warps = blockDim.x / 32, target = targets[row];
    z += (size_t)row * stride;
    float top = -INFINITY, sum = 0.0f, v[WIDTH], at_target = to_float(z[target]);
    for (int c = threadIdx.x * WIDTH; c < V; c += blockDim.x * WIDTH) {
        load_pack(v, z + c, stride - c, PACKED);
        if (c + WIDTH > V) {                            /* the last pack with logits */
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                if (c + k >= V) v[k] = -INFINITY;
        }
        float most = top;
#pragma unroll
        for (int k = 0; k < WIDTH; k++) most = fmaxf(most, v[k]);
        sum *= __expf(top - most);                      /* exp(-inf) = 0 the first time: sum is 0 */
        top = most;
#pragma unroll
        for (int k = 0; k < WIDTH; k++) sum += __expf(v[k] - top);
    }
    merge_lanes(&top, &sum);
    if (lane == 0) tops[warp] = top, sums[warp] = sum;
    __syncthreads();    /* the pairs of all warps are there, and everyone has read the target */
    top = lane < warps ? tops[lane] : -INFINITY, sum = lane < warps ? sums[lane] : 0.0f;
    merge_lanes(&top, &sum);
    if (threadIdx.x == 0) nll[row] = logf(sum) + top - at_target;
    if (!weights) return;
    float weight = weights[row], scale = weight / sum;
    for (int c = threadIdx.x * WIDTH; c < stride; c += blockDim.x * WIDTH) {
        load_pack(v, z + c, stride - c, PACKED);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) v[k] = __expf(v[k] - top) * scale;
        /* few packs have something more to do */
        if (c + WIDTH > V || (c <= target && target < c + WIDTH)) {
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                v[k] = c + k >= V ? 0.0f : c + k == target ? v[k] - weight : v[k];
        }
        store_pack(z + c, v, stride - c, PACKED);
    }
}

/* One block adds up weights * nll over the rows, in order: state[0] becomes the sum, or with add
   grows by it. */
extern "C" __global__ void loss_sum(const float *nll, const float *weights, float *state, int N,
        int add) {
    __shared__ double sums[1024];
    double sum = 0.0;
    for (int i = threadIdx.x; i < N; i += blockDim.x)
        if (weights[i] != 0.0f) sum += (double)weights[i] * nll[i];
    sums[threadIdx.x] = sum;
    __syncthreads();                                    /* the sums of all threads are there */
    if (threadIdx.x) return;
    for (int i = 1; i < blockDim.x; i++) sum += sums[i];
    state[0] = (float)(add ? state[0] + sum : sum);
}
