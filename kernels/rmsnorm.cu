/* rmsnorm.cu: x <- x + plus;  n = x * rstd, rstd = 1 / sqrt(mean(x^2) + eps);  y = n * w
   spec: llama.rmsnorm_forward
   x (N/heads,x_heads,C), y (N/heads,y_heads,C) real, of which the first `heads` of each row are
   meant: so the queries of qkv are normed where they lie. With one head of one x is (N,C). plus, n
   (N,C), w (C,) real; rstd (N,) float. Any N, C >= 1. plus may be null. y may be x.
   Forward moves 5 N C numbers (reads x, plus; writes x, y, n), backward 4 (reads dy, n, plus;
   writes dx): memory bound, floor = bytes / bandwidth.
   v1 one thread per row. v2 LANES threads per row, 16 bytes each, PACKS times; both are known when
   it is compiled. A short row is that of few lanes of a warp, a long one that of several warps: it
   waits in registers, and all of it is asked for before any is used. */

#ifndef LANES
#define LANES 32
#endif
#ifndef PACKS
#define PACKS 1
#endif

__device__ __forceinline__ size_t place(int row, int C, int heads, int of_row) {
    return (size_t)(row / heads * of_row + row % heads) * C;
}

/* One thread normalises one row. */
extern "C" __global__ void rmsnorm_forward_v1(real *x, const real *plus, const real *w, real *y,
        real *n, float *rstd, int N, int C, int heads, int x_heads, int y_heads, float eps) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= N) return;
    x += place(row, C, heads, x_heads), y += place(row, C, heads, y_heads), n += (size_t)row * C;
    float squares = 0.0f;
    for (int c = 0; c < C; c++) {
        if (plus) from_float(to_float(x[c]) + to_float(plus[(size_t)row * C + c]), &x[c]);
        squares += to_float(x[c]) * to_float(x[c]);
    }
    float r = 1.0f / sqrtf(squares / C + eps);
    for (int c = 0; c < C; c++) {
        float v = to_float(x[c]) * r;
        from_float(v, &n[c]);
        from_float(v * to_float(w[c]), &y[c]);
    }
    rstd[row] = r;
}

/* A row of C numbers, none where C is 0; its lane l has the numbers l*WIDTH .. l*WIDTH+WIDTH-1 of
   every LANES*WIDTH. */
__device__ __forceinline__ int column(int i) { return (i * LANES + threadIdx.x % LANES) * WIDTH; }
__device__ __forceinline__ void load_part(uint4 *raw, const real *row, int C) {
#pragma unroll
    for (int i = 0; i < PACKS; i++) raw[i] = load_raw(row + column(i), C - column(i), PACKED);
}
__device__ __forceinline__ void store_part(real *row, float (*v)[WIDTH], int C) {
#pragma unroll
    for (int i = 0; i < PACKS; i++)
        if (column(i) < C) store_pack(row + column(i), v[i], C - column(i), PACKED);
}

/* The sum over the lanes of a row: each gets it, added in the same order. All threads of the block
   must call it. */
__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
    for (int lanes = min(LANES, 32) / 2; lanes; lanes >>= 1)
        x += __shfl_xor_sync(ALL_LANES, x, lanes);
#if LANES > 32
    __shared__ float of_warp[32];
    int first = threadIdx.x / LANES * (LANES / 32);
    __syncthreads();                                    /* nobody reads the last sums any more */
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();                                    /* all warps have left theirs */
    x = 0.0f;
#pragma unroll
    for (int i = 0; i < LANES / 32; i++) x += of_warp[first + i];
#endif
    return x;
}

/* LANES threads normalise one row. */
extern "C" __global__ void rmsnorm_forward_v2(real *x, const real *plus, const real *w, real *y,
        real *n, float *rstd, int N, int C, int heads, int x_heads, int y_heads, float eps) {
    int row = blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES, own = row < N ? C : 0;
    size_t at = (size_t)row * C, here = place(row, C, heads, x_heads);
    uint4 raw[PACKS], more[PACKS];
    float v[PACKS][WIDTH], u[PACKS][WIDTH], squares = 0.0f;
    load_part(raw, x + here, own);
    if (plus) load_part(more, plus + at, own);
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        unpack(v[i], raw[i]);
        if (plus) {
            unpack(u[i], more[i]);
#pragma unroll
            for (int k = 0; k < WIDTH; k++) v[i][k] += u[i][k];
        }
#pragma unroll
        for (int k = 0; k < WIDTH; k++) squares += v[i][k] * v[i][k];
    }
    if (plus) store_part(x + here, v, own);
    load_part(raw, w, C);                                /* on its way while the sum is made */
    float r = rsqrtf(row_sum(squares) / C + eps);
#pragma unroll
    for (int i = 0; i < PACKS; i++)
#pragma unroll
        for (int k = 0; k < WIDTH; k++) v[i][k] *= r;
    store_part(n + at, v, own);
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        unpack(u[i], raw[i]);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) u[i][k] *= v[i][k];
    }
    store_part(y + place(row, C, heads, y_heads), u, own);
    if (row < N && threadIdx.x % LANES == 0) rstd[row] = r;
}

/* With dn = dy * w:  dx = rstd * (dn - n * mean(dn * n)) + plus;  dw = sum of dy * n over all rows.
   dy and dx lie as x and y do. dx may be dy.
   A block sums dw over its rows; bias.cu's column_sums adds up the blocks, in order: same bits
   every time. */

/* One thread per row for dx, with plus (N,C) or null. */
extern "C" __global__ void rmsnorm_backward_v1(const real *dy, const real *n, const float *rstd,
        const real *w, const real *plus, real *dx, int N, int C, int heads, int dy_heads,
        int dx_heads) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= N) return;
    size_t at = (size_t)row * C, here = place(row, C, heads, dy_heads);
    dx += place(row, C, heads, dx_heads);
    float along = 0.0f;
    for (int c = 0; c < C; c++)
        along += to_float(dy[here + c]) * to_float(w[c]) * to_float(n[at + c]);
    along /= C;
    for (int c = 0; c < C; c++) {
        float dn = to_float(dy[here + c]) * to_float(w[c]);
        float d = rstd[row] * (dn - to_float(n[at + c]) * along);
        from_float(plus ? d + to_float(plus[at + c]) : d, &dx[c]);
    }
}

/* LANES threads per row, row after row; each keeps the sums of dw of its columns. partial
   (gridDim.x, C). */
extern "C" __global__ void __launch_bounds__(256, PACKS <= 3 ? 2 : 1)
    rmsnorm_backward_v2(const real *dy, const real *n, const float *rstd, const real *w,
        const real *plus, real *dx, float *partial, int N, int C, int heads, int dy_heads,
        int dx_heads) {
    /* (rows, C with an empty place after every WIDTH: other banks for other lanes) */
    DYNAMIC_SHARED(float, sums);
    int mine = threadIdx.x / LANES, rows = blockDim.x / LANES, Cp = C + C / WIDTH + 1;
    float dw[PACKS][WIDTH] = {}, g[PACKS][WIDTH], v[WIDTH], scale[WIDTH];
    uint4 of_dy[PACKS], of_n[PACKS], of_plus[PACKS];
    /* as often for every thread: they meet in row_sum */
    for (int row0 = blockIdx.x * rows; row0 < N; row0 += gridDim.x * rows) {
        int row = row0 + mine, own = row < N ? C : 0;
        size_t at = (size_t)row * C;
        float along = 0.0f, r = row < N ? rstd[row] : 0.0f;
        load_part(of_dy, dy + place(row, C, heads, dy_heads), own), load_part(of_n, n + at, own);
        if (plus) load_part(of_plus, plus + at, own);
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            unpack(g[i], of_dy[i]), unpack(v, of_n[i]);
            load_pack(scale, w + column(i), C - column(i), PACKED);
#pragma unroll
            for (int k = 0; k < WIDTH; k++) {
                dw[i][k] += g[i][k] * v[k];
                g[i][k] *= scale[k];
                along += g[i][k] * v[k];
            }
        }
        along = row_sum(along) / C;
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            unpack(v, of_n[i]);
#pragma unroll
            for (int k = 0; k < WIDTH; k++) g[i][k] = r * (g[i][k] - v[k] * along);
            if (plus) {
                unpack(v, of_plus[i]);
#pragma unroll
                for (int k = 0; k < WIDTH; k++) g[i][k] += v[k];
            }
        }
        store_part(dx + place(row, C, heads, dx_heads), g, own);
    }
#pragma unroll
    for (int i = 0; i < PACKS; i++)
#pragma unroll
        for (int k = 0; k < WIDTH; k++)
            if (column(i) + k < C) sums[mine * Cp + column(i) + k + column(i) / WIDTH] = dw[i][k];
    __syncthreads();                                    /* the sums of all rows are complete */
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float sum = 0.0f;
        for (int i = 0; i < rows; i++) sum += sums[i * Cp + c + c / WIDTH];
        partial[(size_t)blockIdx.x * C + c] = sum;
    }
}
