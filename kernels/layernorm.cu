/* layernorm.cu: x <- x + plus;  n = (x - mean(x)) * rstd, rstd = 1 / sqrt(var(x) + eps);
   y = n * w + b
   spec: gpt.layernorm_forward
   x, plus, y, n (N,C) real, row-major, N = B*T; w, b (C,) real; rstd (N,) float. Any N, C >= 1.
   plus may be null.
   Forward moves 5 N C numbers (reads x, plus; writes x, y, n), backward 4 (reads dy, n, plus;
   writes dx): memory bound, floor = bytes / bandwidth.
   v1 one thread per row. v2 one warp per row, a lane for every 16 bytes, sums by shuffles. The row
   waits in registers, PACKS times 16 bytes of each lane, and all of it is asked for before any is
   used: PACKS = C / (32 WIDTH), rounded up, is known when v2 is compiled.
   Any C works; beyond 1,800 columns in bfloat16, or 900 in float32, the backward keeps some of it
   in memory after all. */

#ifndef PACKS
#define PACKS 1
#endif

/* One thread normalises one row. */
extern "C" __global__ void layernorm_forward_v1(real *x, const real *plus, const real *w,
        const real *b, real *y, real *n, float *rstd, int N, int C, float eps) {
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

/* A row of C numbers; lane l has the numbers l*WIDTH .. l*WIDTH+WIDTH-1 of every 32*WIDTH. */
__device__ __forceinline__ void load_row(uint4 *raw, const real *row, int C) {
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        int c = (i * 32 + threadIdx.x % 32) * WIDTH;
        raw[i] = load_raw(row + c, C - c, PACKED);
    }
}

__device__ __forceinline__ void store_row(real *row, float (*v)[WIDTH], int C) {
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        int c = (i * 32 + threadIdx.x % 32) * WIDTH;
        if (c < C) store_pack(row + c, v[i], C - c, PACKED);
    }
}

/* One warp normalises one row. */
extern "C" __global__ void layernorm_forward_v2(real *x, const real *plus, const real *w,
        const real *b, real *y, real *n, float *rstd, int N, int C, float eps) {
    int lane = threadIdx.x % 32, row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= N) return;    /* the whole warp; nothing below waits for the block */
    size_t at = (size_t)row * C;
    uint4 raw[PACKS], more[PACKS];
    float v[PACKS][WIDTH], u[PACKS][WIDTH], sum = 0.0f, squares = 0.0f;
    load_row(raw, x + at, C);
    if (plus) load_row(more, plus + at, C);
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        unpack(v[i], raw[i]);
        if (plus) {
            unpack(u[i], more[i]);
#pragma unroll
            for (int k = 0; k < WIDTH; k++) v[i][k] += u[i][k];
        }
#pragma unroll
        for (int k = 0; k < WIDTH; k++) sum += v[i][k];
    }
    if (plus) store_row(x + at, v, C);
    load_row(raw, w, C), load_row(more, b, C);          /* on their way while the sums are made */
    float mean = warp_sum(sum) / C;
#pragma unroll
    for (int i = 0; i < PACKS; i++)
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            v[i][k] -= mean;
            if ((i * 32 + lane) * WIDTH + k < C) squares += v[i][k] * v[i][k];
        }
    float r = rsqrtf(warp_sum(squares) / C + eps);
#pragma unroll
    for (int i = 0; i < PACKS; i++)
#pragma unroll
        for (int k = 0; k < WIDTH; k++) v[i][k] *= r;
    store_row(n + at, v, C);
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        float scale[WIDTH], shift[WIDTH];
        unpack(scale, raw[i]), unpack(shift, more[i]);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) u[i][k] = v[i][k] * scale[k] + shift[k];
    }
    store_row(y + at, u, C);
    if (lane == 0) rstd[row] = r;
}

/* With dn = dy * w:  dx = rstd * (dn - mean(dn) - n * mean(dn * n)) + plus;  dw = sum of dy * n, db
   = sum of dy over all rows.
   A block sums dw and db over its rows; bias.cu's column_sums adds up the blocks, in order: same
   bits every time. */

/* One thread per row for dx, with plus (N,C) or null. */
extern "C" __global__ void layernorm_backward_v1(const real *dy, const real *n, const float *rstd,
        const real *w, const real *plus, real *dx, int N, int C) {
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

/* One warp per row, row after row; each lane keeps the sums of dw and db of its columns. partial
   (gridDim.x, 2, C). */
extern "C" __global__ void __launch_bounds__(256, PACKS <= 3 ? 2 : 1)
    layernorm_backward_v2(const real *dy, const real *n, const float *rstd, const real *w,
        const real *plus, real *dx, float *partial, int N, int C) {
    /* (warps, C with an empty place after every WIDTH: other banks for other lanes) */
    DYNAMIC_SHARED(float2, sums);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32,
        Cp = C + C / WIDTH + 1;
    float dw[PACKS][WIDTH] = {}, db[PACKS][WIDTH] = {}, g[PACKS][WIDTH], v[WIDTH], scale[WIDTH];
    uint4 of_dy[PACKS], of_n[PACKS], of_plus[PACKS];
    for (int row = blockIdx.x * warps + warp; row < N; row += gridDim.x * warps) {
        size_t at = (size_t)row * C;
        float mean = 0.0f, along = 0.0f, r = rstd[row];
        load_row(of_dy, dy + at, C), load_row(of_n, n + at, C);
        if (plus) load_row(of_plus, plus + at, C);
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            unpack(g[i], of_dy[i]), unpack(v, of_n[i]);
            load_pack(scale, w + (i * 32 + lane) * WIDTH, C - (i * 32 + lane) * WIDTH, PACKED);
#pragma unroll
            for (int k = 0; k < WIDTH; k++) {
                dw[i][k] += g[i][k] * v[k];
                db[i][k] += g[i][k];
                g[i][k] *= scale[k];
                mean += g[i][k];
                along += g[i][k] * v[k];
            }
        }
        mean = warp_sum(mean) / C, along = warp_sum(along) / C;
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            unpack(v, of_n[i]);
#pragma unroll
            for (int k = 0; k < WIDTH; k++) g[i][k] = r * (g[i][k] - mean - v[k] * along);
            if (plus) {
                unpack(v, of_plus[i]);
#pragma unroll
                for (int k = 0; k < WIDTH; k++) g[i][k] += v[k];
            }
        }
        store_row(dx + at, g, C);
    }
#pragma unroll
    for (int i = 0; i < PACKS; i++)
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            int c = (i * 32 + lane) * WIDTH + k;
            if (c < C) sums[warp * Cp + c + c / WIDTH] = make_float2(dw[i][k], db[i][k]);
        }
    __syncthreads();                                    /* the sums of all warps are complete */
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float w_sum = 0.0f, b_sum = 0.0f;
        for (int i = 0; i < warps; i++) {
            float2 of_warp = sums[i * Cp + c + c / WIDTH];
            w_sum += of_warp.x, b_sum += of_warp.y;
        }
        partial[(size_t)blockIdx.x * 2 * C + c] = w_sum;
        partial[(size_t)blockIdx.x * 2 * C + C + c] = b_sum;
    }
}
