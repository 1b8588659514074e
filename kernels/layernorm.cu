/* layernorm.cu: x <- x + plus;  n = (x - mean(x)) * rstd, rstd = 1 / sqrt(var(x) + eps);  y = n * w + b    spec: gpt.layernorm_forward
   x, plus, y, n (N,C) real, row-major, N = B*T; w, b (C,) real; rstd (N,) float. Any N, C >= 1. plus may be null.
   Forward moves 5 N C numbers (reads x, plus; writes x, y, n), backward 4 (reads dy, n, plus; writes dx): memory bound,
   floor = bytes / bandwidth.
   v1 one thread per row. v2 one warp per row, a lane for every 16 bytes, sums by shuffles; the row waits in shared memory. */

/* One thread normalises one row. */
extern "C" __global__ void layernorm_forward_v1(real *x, const real *plus, const real *w, const real *b, real *y, real *n, float *rstd,
                                                int N, int C, float eps) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= N) return;
    x += (size_t)row * C, y += (size_t)row * C, n += (size_t)row * C;
    float mean = 0.0f, variance = 0.0f;
    for (int c = 0; c < C; c++) {
        if (plus) from_float(to_float(x[c]) + to_float(plus[(size_t)row * C + c]), &x[c]);
        mean += to_float(x[c]);
    }
    mean /= C;
    for (int c = 0; c < C; c++) {
        float d = to_float(x[c]) - mean;
        variance += d * d;
    }
    float r = 1.0f / sqrtf(variance / C + eps);
    for (int c = 0; c < C; c++) {
        float v = (to_float(x[c]) - mean) * r;
        from_float(v, &n[c]);
        from_float(v * to_float(w[c]) + to_float(b[c]), &y[c]);
    }
    rstd[row] = r;
}

/* One warp normalises one row; lane l has the numbers l*WIDTH .. l*WIDTH+WIDTH-1 of every 32*WIDTH. */
extern "C" __global__ void layernorm_forward_v2(real *x, const real *plus, const real *w, const real *b, real *y, real *n, float *rstd,
                                                int N, int C, float eps) {
    DYNAMIC_SHARED(float, rows);                        /* (warps of the block, C rounded up to packs) */
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x * (blockDim.x / 32) + warp;
    if (row >= N) return;                               /* the whole warp; nothing below waits for the block */
    bool packed = C % WIDTH == 0;
    float *kept = rows + warp * ((C + WIDTH - 1) / WIDTH * WIDTH), v[WIDTH], more[WIDTH];
    x += (size_t)row * C, y += (size_t)row * C, n += (size_t)row * C;

    float sum = 0.0f;
    for (int c = lane * WIDTH; c < C; c += 32 * WIDTH) {
        load_pack(v, x + c, C - c, packed);
        if (plus) {
            load_pack(more, plus + (size_t)row * C + c, C - c, packed);
#pragma unroll
            for (int k = 0; k < WIDTH; k++) v[k] += more[k];
            store_pack(x + c, v, C - c, packed);
        }
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            kept[c + k] = v[k];                         /* each lane reads back only what it wrote itself: no barrier */
            sum += v[k];
        }
    }
    float mean = warp_sum(sum) / C, squares = 0.0f;
    for (int c = lane * WIDTH; c < C; c += 32 * WIDTH)
#pragma unroll
        for (int k = 0; k < WIDTH; k++)
            if (c + k < C) squares += (kept[c + k] - mean) * (kept[c + k] - mean);
    float r = rsqrtf(warp_sum(squares) / C + eps);
    for (int c = lane * WIDTH; c < C; c += 32 * WIDTH) {
        float scale[WIDTH], shift[WIDTH];
        load_pack(scale, w + c, C - c, packed);
        load_pack(shift, b + c, C - c, packed);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            v[k] = (kept[c + k] - mean) * r;
            more[k] = v[k] * scale[k] + shift[k];
        }
        store_pack(n + c, v, C - c, packed);
        store_pack(y + c, more, C - c, packed);
    }
    if (lane == 0) rstd[row] = r;
}

/* With dn = dy * w:  dx = rstd * (dn - mean(dn) - n * mean(dn * n)) + plus;  dw = sum of dy * n, db = sum of dy over all rows.
   A block sums dw and db over its rows; layernorm_backward_sums adds up the blocks, in order: same bits every time. */

/* One thread per row for dx, with plus (N,C) or null. */
extern "C" __global__ void layernorm_backward_v1(const real *dy, const real *n, const float *rstd, const real *w, const real *plus, real *dx,
                                                 int N, int C) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= N) return;
    size_t at = (size_t)row * C;
    float mean = 0.0f, along = 0.0f;
    for (int c = 0; c < C; c++) {
        float dn = to_float(dy[at + c]) * to_float(w[c]);
        mean += dn;
        along += dn * to_float(n[at + c]);
    }
    mean /= C, along /= C;
    for (int c = 0; c < C; c++) {
        float dn = to_float(dy[at + c]) * to_float(w[c]);
        float d = rstd[row] * (dn - mean - to_float(n[at + c]) * along);
        from_float(plus ? d + to_float(plus[at + c]) : d, &dx[at + c]);
    }
}

__device__ __forceinline__ void add_four(float *to, const float *x) {      /* at once: 16 bytes of shared memory each way */
    float4 v = *(float4 *)to;
    v.x += x[0], v.y += x[1], v.z += x[2], v.w += x[3];
    *(float4 *)to = v;
}

/* One warp per row, row after row; each warp keeps sums of dw and db in shared memory. partial (gridDim.x, 2, C). */
extern "C" __global__ void layernorm_backward_v2(const real *dy, const real *n, const float *rstd, const real *w, const real *plus, real *dx,
                                                 float *partial, int N, int C) {
    DYNAMIC_SHARED(float, sums);                        /* (warps, 2, C rounded up to packs) */
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, Cp = (C + WIDTH - 1) / WIDTH * WIDTH;
    bool packed = C % WIDTH == 0;
    float *dw = sums + warp * 2 * Cp, *db = dw + Cp, g[WIDTH], v[WIDTH], scale[WIDTH];
    for (int c = lane * WIDTH; c < C; c += 32 * WIDTH)
        for (int k = 0; k < WIDTH; k++) dw[c + k] = db[c + k] = 0.0f;
    for (int row = blockIdx.x * warps + warp; row < N; row += gridDim.x * warps) {
        size_t at = (size_t)row * C;
        float mean = 0.0f, along = 0.0f;
        for (int c = lane * WIDTH; c < C; c += 32 * WIDTH) {
            load_pack(g, dy + at + c, C - c, packed);
            load_pack(v, n + at + c, C - c, packed);
            load_pack(scale, w + c, C - c, packed);
#pragma unroll
            for (int k = 0; k < WIDTH; k++) {
                mean += g[k] * scale[k];
                along += g[k] * scale[k] * v[k];
                v[k] *= g[k];
            }
#pragma unroll
            for (int k = 0; k < WIDTH; k += 4) {
                add_four(dw + c + k, v + k);
                add_four(db + c + k, g + k);
            }
        }
        mean = warp_sum(mean) / C, along = warp_sum(along) / C;
        for (int c = lane * WIDTH; c < C; c += 32 * WIDTH) {        /* dy and n come from the cache this time */
            float more[WIDTH];
            load_pack(g, dy + at + c, C - c, packed);
            load_pack(v, n + at + c, C - c, packed);
            load_pack(scale, w + c, C - c, packed);
            if (plus) load_pack(more, plus + at + c, C - c, packed);
#pragma unroll
            for (int k = 0; k < WIDTH; k++) {
                g[k] = rstd[row] * (g[k] * scale[k] - mean - v[k] * along);
                if (plus) g[k] += more[k];
            }
            store_pack(dx + at + c, g, C - c, packed);
        }
    }
    __syncthreads();                                    /* the sums of all warps are complete */
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float w_sum = 0.0f, b_sum = 0.0f;
        for (int i = 0; i < warps; i++) {
            w_sum += sums[i * 2 * Cp + c];
            b_sum += sums[i * 2 * Cp + Cp + c];
        }
        partial[(size_t)blockIdx.x * 2 * C + c] = w_sum;
        partial[(size_t)blockIdx.x * 2 * C + C + c] = b_sum;
    }
}

/* One thread adds up one column of the blocks' sums; add: to what dw and db hold. */
extern "C" __global__ void layernorm_backward_sums(const float *partial, float *dw, float *db, int blocks, int C, int add) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= 2 * C) return;
    float *to = c < C ? dw + c : db + c - C, sum = add ? *to : 0.0f;
    for (int i = 0; i < blocks; i++) sum += partial[(size_t)i * 2 * C + c];
    *to = sum;
}
