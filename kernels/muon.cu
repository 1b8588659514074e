/* muon.cu: what Muon does to a matrix besides the matrix products of kernels/muon.py
   spec: train.Muon
       mean <- mean + (1 - momentum)(g - mean)    ahead = (1 - momentum) g + momentum mean
       x = ahead / (|ahead| + 1e-7), then five times x <- (a + b S + c S^2) x with S = x x^T
       p <- p - rate (decay p + length x)
       with g = scale * gradient, rate = ratio * lr, length = sqrt(max(1, out / in))
   A part of a matrix is `columns` of it from `first` on: the queries, keys or values of c_attn, or
   all. grads, mean, master (rows, stride) float hold the whole matrix, and so does params, the copy
   of master in bfloat16, or null; x (rows, columns) real holds the part. ahead takes the place of
   the gradient. state and rates are those of adamw.cu: where state[2] is 0, nothing that outlives
   the step changes, and x holds nothing of use.
   A block has a strip of columns, one for each thread, and takes every gridDim.y-th row of it.
   Moves 16 bytes a number for the mean, 4 and x's for the start, 8, x's and 2 for the update:
   memory bound, floor = bytes / bandwidth. Sums over blocks are in double and in order: same bits
   every time. */

/* One thread moves one column of the mean and puts ahead in the place of the gradient. partial
   (gridDim.y, gridDim.x): each block's sum of the squares of ahead. */
extern "C" __global__ void muon_mean(float *grads, float *mean, const float *state, float *partial,
        int rows, int columns, int first, int stride, float momentum) {
    __shared__ float sums[32];
    int column = blockIdx.x * blockDim.x + threadIdx.x, warps = blockDim.x / 32;
    float scale = state[2], sum = 0.0f;
    if (scale == 0.0f) return;
    for (int row = blockIdx.y; row < rows && column < columns; row += gridDim.y) {
        long long i = (long long)row * stride + first + column;
        float g = grads[i] * scale, moved = mean[i];
        moved += (1.0f - momentum) * (g - moved);
        float ahead = (1.0f - momentum) * g + momentum * moved;
        mean[i] = moved, grads[i] = ahead;
        sum += ahead * ahead;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();                                    /* the sums of all warps are there */
    if (threadIdx.x) return;
    for (int i = 1; i < warps; i++) sum += sums[i];
    partial[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

/* One thread divides one column of ahead by the norm, for which the first warp of every block adds
   up the blocks: lane l every 32nd, then the lanes. */
extern "C" __global__ void muon_start(const float *ahead, const float *partial, real *x, int blocks,
        int rows, int columns, int first, int stride) {
    __shared__ float norms[32];
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (threadIdx.x < 32) {
        double sum = 0.0;
        for (int i = threadIdx.x; i < blocks; i += 32) sum += partial[i];
        for (int lanes = 16; lanes; lanes >>= 1) sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
        norms[threadIdx.x] = (float)sqrt(sum) + 1e-7f;
    }
    __syncthreads();                                    /* the norm is there, 32 times */
    float norm = norms[threadIdx.x % 32];
    for (int row = blockIdx.y; row < rows && column < columns; row += gridDim.y) {
        float whole = ahead[(long long)row * stride + first + column];
        from_float(whole / norm, &x[(long long)row * columns + column]);
    }
}

/* factor = a + b S + c S^2 of a square matrix S (n,n): one thread, one column. factor holds S^2
   before; a stands on the diagonal. */
extern "C" __global__ void muon_factor(const real *squared, real *factor, int n, float a, float b,
        float c) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    for (int row = blockIdx.y; row < n && column < n; row += gridDim.y) {
        long long i = (long long)row * n + column;
        float sum = b * to_float(squared[i]) + c * to_float(factor[i]);
        from_float(row == column ? sum + a : sum, &factor[i]);
    }
}

/* One thread updates one column. */
extern "C" __global__ void muon_update(float *master, real *params, const real *x,
        const float *state, const float *rates, int rows, int columns, int first, int stride,
        float ratio, float length, float decay) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    float rate = ratio * rates[0];
    if (state[2] == 0.0f) return;
    for (int row = blockIdx.y; row < rows && column < columns; row += gridDim.y) {
        long long i = (long long)row * stride + first + column;
        float p = master[i];
        p -= rate * (decay * p + length * to_float(x[(long long)row * columns + column]));
        master[i] = p;
        if (params) from_float(p, &params[i]);
    }
}
