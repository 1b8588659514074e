/* bias.cu: y <- y + b for every row, and db = the column sums of dy
   spec: gpt.linear_forward, gpt.linear_backward
   y, dy (N,F) real, rows `stride` apart; b (F,) real; db (F,) float. Any N, F >= 1.
   Forward moves 2 N F numbers, backward N F: memory bound.
   Backward v1: one thread per column. v2: a block sums a strip of 32*WIDTH columns over its share
   of the rows, warps taking turns; column_sums adds up the shares, in order: same bits every
   time. */

/* One thread, WIDTH columns of one row. */
extern "C" __global__ void bias_forward(real *y, const real *b, int N, int F,
        int stride) {
    int packs = (F + WIDTH - 1) / WIDTH;
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)N * packs) return;
    int row = (int)(i / packs), c = (int)(i % packs) * WIDTH;
    float v[WIDTH], more[WIDTH];
    y += (size_t)row * stride + c;
    load_pack(v, y, F - c, PACKED);
    load_pack(more, b + c, F - c, PACKED);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) v[k] += more[k];
    store_pack(y, v, F - c, PACKED);
}

/* One thread, one column. */
extern "C" __global__ void bias_backward_v1(const real *dy, float *db, int N, int F) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= F) return;
    float sum = 0.0f;
    for (int row = 0; row < N; row++) sum += to_float(dy[(size_t)row * F + c]);
    db[c] = sum;
}

/* Block (strip, share): lane l has WIDTH columns; the warps of all shares take turns at the rows.
   partial (gridDim.y, F). */
extern "C" __global__ void bias_backward_v2(const real *dy, float *partial, int N, int F,
        int stride) {
    DYNAMIC_SHARED(float, sums);                        /* (warps, STRIP) */
    int lane = threadIdx.x % 32, c = (blockIdx.x * 32 + lane) * WIDTH;
    int first = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32,
        apart = gridDim.y * (blockDim.x / 32), rows = count(first, N, apart);
    float sum[WIDTH] = {}, v[WIDTH];
    if (c < F)
#pragma unroll 4
        for (int i = 0; i < rows; i++) {
            load_pack(v, dy + ((size_t)first + (size_t)i * apart) * stride + c, F - c, PACKED);
#pragma unroll
            for (int k = 0; k < WIDTH; k++) sum[k] += v[k];
        }
    leave_sums(sums, sum);
    __syncthreads();                                    /* all warps have left their sums */
    for (int i = threadIdx.x; i < 32 * WIDTH; i += blockDim.x) {
        int column = blockIdx.x * 32 * WIDTH + i;
        if (column < F) partial[(size_t)blockIdx.y * F + column] = add_sums(0.0f, sums, i);
    }
}

/* A block adds up 32 columns of partial (shares, F), a warp every 8th share; those before `split`
   go to sums, the others to rest.
   add: to what they hold. */
extern "C" __global__ void column_sums(const float *partial, float *sums, float *rest, int shares,
        int F, int split, int add) {
    __shared__ float of_warp[8][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (c < F)
#pragma unroll 8
        for (int i = warp; i < shares; i += 8) sum += partial[(size_t)i * F + c];
    of_warp[warp][lane] = sum;
    __syncthreads();                                    /* all warps have left their sums */
    if (warp || c >= F) return;
    float *to = c < split ? sums + c : rest + c - split, total = add ? *to : 0.0f;
    for (int i = 0; i < 8; i++) total += of_warp[i][lane];
    *to = total;
}
