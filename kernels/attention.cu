/* attention.cu: o_i = sum_{j<=i} p_ij v_j, p_i = softmax_j(s_ij), s_ij = q_i . k_j / sqrt(HS)    spec: gpt.attention_forward
   qkv (B,T,3,NH,HS) real, as the product before leaves it; o, do (B,T,NH,HS) real; lse, D (B,NH,T) float. Any T >= 1.
   Forward 2 T^2 C multiply-adds a sequence (causal), backward 3.5 times that: the scores are never stored, so it is bound by
   arithmetic; floor = flops / tensor-core peak.
   v1 one warp per query (or key, in the backward), any HS up to 256, any dtype. v2 for bfloat16 and HS 64 or 128: tiles of 64
   queries and 64 keys through tensor cores, a warp for every 16 rows, the next tile on its way while one is worked on.
   No atomics: the gradients of keys and of queries are two kernels that each make the probabilities again. */

#define MOST_HS 256
#define LOG2E 1.4426950408889634f

/* ------------------------------------------------------------------------------------------------------ v1, plain */

struct Heads {                                          /* where head h of sequence b lies; rows are `row` numbers apart */
    size_t q, k, v, o, stat;
    int row, out_row;
};
__device__ __forceinline__ Heads heads_at(int b, int h, int T, int NH, int HS) {
    int C = NH * HS;
    size_t q = (size_t)b * T * 3 * C + h * HS;
    return {q, q + C, q + 2 * C, (size_t)b * T * C + h * HS, ((size_t)b * NH + h) * T, 3 * C, C};
}
__device__ __forceinline__ float dot_row(const real *x, const real *y, int HS) {
    float sum = 0.0f;
    for (int d = 0; d < HS; d++) sum += to_float(x[d]) * to_float(y[d]);
    return sum;
}

/* One warp, one query: 32 keys at a time, a lane each; then a lane has every 32nd number of o. Grid (T / warps, NH, B). */
extern "C" __global__ void attention_forward_v1(const real *qkv, real *o, float *lse, int T, int NH, int HS, float scale) {
    int lane = threadIdx.x % 32, i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (i >= T) return;
    Heads at = heads_at(blockIdx.z, blockIdx.y, T, NH, HS);
    float top = -INFINITY, total = 0.0f, acc[MOST_HS / 32] = {};
    for (int j0 = 0; j0 <= i; j0 += 32) {
        int j = j0 + lane;
        float s = j <= i ? scale * dot_row(qkv + at.q + (size_t)i * at.row, qkv + at.k + (size_t)j * at.row, HS) : -INFINITY;
        float new_top = fmaxf(top, warp_max(s)), p = expf(s - new_top), shrink = expf(top - new_top);
        top = new_top;
        total = total * shrink + warp_sum(p);
        for (int c = 0; c * 32 < HS; c++) acc[c] *= shrink;
        for (int n = 0; n < 32 && j0 + n <= i; n++) {
            float pn = __shfl_sync(ALL_LANES, p, n);
            for (int c = 0; c * 32 + lane < HS; c++) acc[c] += pn * to_float(qkv[at.v + (size_t)(j0 + n) * at.row + c * 32 + lane]);
        }
    }
    for (int c = 0; c * 32 + lane < HS; c++) from_float(acc[c] / total, &o[at.o + (size_t)i * at.out_row + c * 32 + lane]);
    if (lane == 0) lse[at.stat + i] = top + logf(total);
}

/* D_i = do_i . o_i, which is sum_j p_ij dp_ij. One warp, one row. Serves v1 and v2. */
extern "C" __global__ void attention_backward_rows(const real *o, const real *d_o, float *D, int T, int NH, int HS) {
    int lane = threadIdx.x % 32, i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (i >= T) return;
    Heads at = heads_at(blockIdx.z, blockIdx.y, T, NH, HS);
    size_t row = at.o + (size_t)i * at.out_row;
    float sum = 0.0f;
    for (int d = lane; d < HS; d += 32) sum += to_float(o[row + d]) * to_float(d_o[row + d]);
    sum = warp_sum(sum);
    if (lane == 0) D[at.stat + i] = sum;
}

/* One warp, one query: dq_i = scale sum_j ds_ij k_j with ds = p (dp - D), dp_ij = do_i . v_j. */
extern "C" __global__ void attention_backward_q_v1(const real *qkv, const real *d_o, const float *lse, const float *D, real *dqkv, int T, int NH, int HS,
                                                   float scale) {
    int lane = threadIdx.x % 32, i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (i >= T) return;
    Heads at = heads_at(blockIdx.z, blockIdx.y, T, NH, HS);
    const real *q = qkv + at.q + (size_t)i * at.row, *g = d_o + at.o + (size_t)i * at.out_row;
    float acc[MOST_HS / 32] = {};
    for (int j0 = 0; j0 <= i; j0 += 32) {
        int j = j0 + lane;
        float ds = 0.0f;
        if (j <= i) {
            float p = expf(scale * dot_row(q, qkv + at.k + (size_t)j * at.row, HS) - lse[at.stat + i]);
            ds = p * (dot_row(g, qkv + at.v + (size_t)j * at.row, HS) - D[at.stat + i]);
        }
        for (int n = 0; n < 32 && j0 + n <= i; n++) {
            float one = __shfl_sync(ALL_LANES, ds, n);
            for (int c = 0; c * 32 + lane < HS; c++) acc[c] += one * to_float(qkv[at.k + (size_t)(j0 + n) * at.row + c * 32 + lane]);
        }
    }
    for (int c = 0; c * 32 + lane < HS; c++) from_float(scale * acc[c], &dqkv[at.q + (size_t)i * at.row + c * 32 + lane]);
}

/* One warp, one key: dv_j = sum_i p_ij do_i, dk_j = scale sum_i ds_ij q_i over the queries from j on. */
extern "C" __global__ void attention_backward_kv_v1(const real *qkv, const real *d_o, const float *lse, const float *D, real *dqkv, int T, int NH, int HS,
                                                    float scale) {
    int lane = threadIdx.x % 32, j = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (j >= T) return;
    Heads at = heads_at(blockIdx.z, blockIdx.y, T, NH, HS);
    const real *k = qkv + at.k + (size_t)j * at.row, *v = qkv + at.v + (size_t)j * at.row;
    float dk[MOST_HS / 32] = {}, dv[MOST_HS / 32] = {};
    for (int i0 = j; i0 < T; i0 += 32) {
        int i = i0 + lane;
        float p = 0.0f, ds = 0.0f;
        if (i < T) {
            p = expf(scale * dot_row(k, qkv + at.q + (size_t)i * at.row, HS) - lse[at.stat + i]);
            ds = p * (dot_row(v, d_o + at.o + (size_t)i * at.out_row, HS) - D[at.stat + i]);
        }
        for (int n = 0; n < 32 && i0 + n < T; n++) {
            float pn = __shfl_sync(ALL_LANES, p, n), dsn = __shfl_sync(ALL_LANES, ds, n);
            for (int c = 0; c * 32 + lane < HS; c++) {
                dv[c] += pn * to_float(d_o[at.o + (size_t)(i0 + n) * at.out_row + c * 32 + lane]);
                dk[c] += dsn * to_float(qkv[at.q + (size_t)(i0 + n) * at.row + c * 32 + lane]);
            }
        }
    }
    for (int c = 0; c * 32 + lane < HS; c++) {
        from_float(scale * dk[c], &dqkv[at.k + (size_t)j * at.row + c * 32 + lane]);
        from_float(dv[c], &dqkv[at.v + (size_t)j * at.row + c * 32 + lane]);
    }
}

/* ----------------------------------------------------------------------------------------------- v2, tensor cores */
#ifdef BF16

#define TILE 64                                         /* queries, and keys, of a tile */
#define TILE_THREADS 128                                /* four warps of 16 rows each */

/* Where 16 bytes number `chunk` of a row lie in a tile of HS columns. The exclusive or spreads the same chunk of eight rows
   over all banks, so that neither copies nor ldmatrix wait for one another. */
template <int HS> __device__ __forceinline__ bf16 *tile_at(bf16 *tile, int row, int column) {
    return tile + row * HS + ((column / 8 ^ row % 8) * 8 + column % 8);
}

/* Rows first .. first+63 of a head into a tile, by all threads; rows from T on become 0. */
template <int HS> __device__ __forceinline__ void load_tile(bf16 *tile, const bf16 *head, int row_length, int first, int T) {
    for (int i = threadIdx.x; i < TILE * HS / 8; i += TILE_THREADS) {
        int row = i / (HS / 8), column = i % (HS / 8) * 8;
        bool there = first + row < T;
        cp_async_16(tile_at<HS>(tile, row, column), head + (size_t)(there ? first + row : 0) * row_length + column, there ? 16 : 0);
    }
}

/* Two tiles a round, each with room for two: waits for those of this round, and sends for the next, in the other place, if they begin
   before `end`. */
template <int HS> __device__ __forceinline__ void turn_tiles(bf16 *a, const bf16 *head_a, int row_a, bf16 *b, const bf16 *head_b, int row_b,
                                                             int other, int next, int end, int T) {
    cp_async_wait<0>();
    __syncthreads();                                    /* this round's are there, and nobody reads the others any more */
    if (next < end) {
        load_tile<HS>(a + other * TILE * HS, head_a, row_a, next, T);
        load_tile<HS>(b + other * TILE * HS, head_b, row_b, next, T);
    }
    cp_async_commit();
}

/* The a of rows row0 .. row0+15, columns column .. column+15. */
template <int HS> __device__ __forceinline__ void load_a(unsigned *a, bf16 *tile, int row0, int column) {
    int lane = threadIdx.x % 32;
    ldmatrix_x4(a, tile_at<HS>(tile, row0 + lane % 16, column + lane / 16 * 8));
}

/* acc (16, 64 rows of y) += x y^T, x being rows row0 .. row0+15 of a tile. acc[n] is the c of y's rows 8n .. 8n+7. */
template <int HS> __device__ __forceinline__ void product_transposed(float (*acc)[4], bf16 *x, int row0, bf16 *y) {
    int lane = threadIdx.x % 32;
    for (int k = 0; k < HS; k += 16) {
        unsigned a[4], b[4];
        load_a<HS>(a, x, row0, k);
#pragma unroll
        for (int n = 0; n < TILE / 16; n++) {
            ldmatrix_x4(b, tile_at<HS>(y, 16 * n + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8));
            mma_bf16(acc[2 * n], a, b);
            mma_bf16(acc[2 * n + 1], a, b + 2);
        }
    }
}

/* acc (16, HS) += p y, p (16, 64) in registers as product_transposed leaves it. */
template <int HS> __device__ __forceinline__ void product(float (*acc)[4], float (*p)[4], bf16 *y) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < TILE / 16; k++) {
        unsigned b[4], a[4] = {pack_bf16(p[2 * k][0], p[2 * k][1]), pack_bf16(p[2 * k][2], p[2 * k][3]),
                               pack_bf16(p[2 * k + 1][0], p[2 * k + 1][1]), pack_bf16(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < HS / 16; n++) {
            ldmatrix_x4_trans(b, tile_at<HS>(y, 16 * k + lane % 16, 16 * n + lane / 16 * 8));
            mma_bf16(acc[2 * n], a, b);
            mma_bf16(acc[2 * n + 1], a, b + 2);
        }
    }
}

/* acc (16, HS) times `by` to rows row0 .. of a head, those below T. */
template <int HS> __device__ __forceinline__ void store_rows(bf16 *head, int row_length, float (*acc)[4], int row0, int T, float by0, float by1) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < HS / 8; n++) {
        if (row0 + g < T) *(unsigned *)(head + (size_t)(row0 + g) * row_length + 8 * n + 2 * t) = pack_bf16(acc[n][0] * by0, acc[n][1] * by0);
        if (row0 + g + 8 < T) *(unsigned *)(head + (size_t)(row0 + g + 8) * row_length + 8 * n + 2 * t) = pack_bf16(acc[n][2] * by1, acc[n][3] * by1);
    }
}

/* The four lanes that share a row. */
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

/* A block has 64 queries, a warp 16 of them; the late queries, which see most keys, start first. Grid (T / 64, NH, B). */
template <int HS> __device__ __forceinline__ void attention_forward_tiles(const bf16 *qkv, bf16 *o, float *lse, int T, int NH, float scale) {
    DYNAMIC_SHARED(bf16, shared);                       /* Q, then twice K and V */
    bf16 *Q = shared, *K = Q + TILE * HS, *V = K + 2 * TILE * HS;
    int q0 = (gridDim.x - 1 - blockIdx.x) * TILE, warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, row0 = q0 + 16 * warp;
    Heads at = heads_at(blockIdx.z, blockIdx.y, T, NH, HS);
    float acc[HS / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {}, unit = scale * LOG2E;

    load_tile<HS>(Q, qkv + at.q, at.row, q0, T);
    load_tile<HS>(K, qkv + at.k, at.row, 0, T);
    load_tile<HS>(V, qkv + at.v, at.row, 0, T);
    cp_async_commit();
    for (int k0 = 0, now = 0; k0 <= q0; k0 += TILE, now ^= 1) {
        turn_tiles<HS>(K, qkv + at.k, at.row, V, qkv + at.v, at.row, now ^ 1, k0 + TILE, q0 + 1, T);
        float s[TILE / 8][4] = {};
        product_transposed<HS>(s, Q, 16 * warp, K + now * TILE * HS);
        if (k0 == q0) {                                 /* the diagonal: keys after the query do not count */
#pragma unroll
            for (int n = 0; n < TILE / 8; n++)
                for (int i = 0; i < 4; i++)
                    if (k0 + 8 * n + 2 * t + i % 2 > row0 + g + i / 2 * 8) s[n][i] = -INFINITY;
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {          /* row g, then row g + 8 */
            float most = top[half];
            for (int n = 0; n < TILE / 8; n++) most = fmaxf(most, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
            most = quad_max(most);                      /* finite: every query sees a key of its first tile */
            float shrink = exp2f((top[half] - most) * unit), shift = most * unit;
            top[half] = most;
            total[half] *= shrink;
            for (int n = 0; n < TILE / 8; n++)
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    s[n][i] = exp2f(s[n][i] * unit - shift);
                    total[half] += s[n][i];             /* each lane its own part; the quad adds up at the end */
                }
            for (int n = 0; n < HS / 8; n++) acc[n][2 * half] *= shrink, acc[n][2 * half + 1] *= shrink;
        }
        product<HS>(acc, s, V + now * TILE * HS);
    }
    total[0] = quad_sum(total[0]), total[1] = quad_sum(total[1]);
    store_rows<HS>(o + at.o, at.out_row, acc, row0, T, 1.0f / total[0], 1.0f / total[1]);
    for (int half = 0; half < 2; half++)
        if (t == 0 && row0 + g + 8 * half < T) lse[at.stat + row0 + g + 8 * half] = top[half] * scale + logf(total[half]);
}

/* dq of 64 queries: as the forward, with the probabilities from lse. */
template <int HS> __device__ __forceinline__ void attention_backward_q_tiles(const bf16 *qkv, const bf16 *d_o, const float *lse, const float *D, bf16 *dqkv,
                                                                             int T, int NH, float scale) {
    DYNAMIC_SHARED(bf16, shared);                       /* Q, dO, then twice K and V */
    bf16 *Q = shared, *dO = Q + TILE * HS, *K = dO + TILE * HS, *V = K + 2 * TILE * HS;
    int q0 = (gridDim.x - 1 - blockIdx.x) * TILE, warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, row0 = q0 + 16 * warp;
    Heads at = heads_at(blockIdx.z, blockIdx.y, T, NH, HS);
    float acc[HS / 8][4] = {}, of_lse[2], of_D[2], unit = scale * LOG2E;
    for (int half = 0; half < 2; half++) {
        int i = row0 + g + 8 * half;
        of_lse[half] = i < T ? lse[at.stat + i] * LOG2E : 0.0f;
        of_D[half] = i < T ? D[at.stat + i] : 0.0f;
    }
    load_tile<HS>(Q, qkv + at.q, at.row, q0, T);
    load_tile<HS>(dO, d_o + at.o, at.out_row, q0, T);
    load_tile<HS>(K, qkv + at.k, at.row, 0, T);
    load_tile<HS>(V, qkv + at.v, at.row, 0, T);
    cp_async_commit();
    for (int k0 = 0, now = 0; k0 <= q0; k0 += TILE, now ^= 1) {
        turn_tiles<HS>(K, qkv + at.k, at.row, V, qkv + at.v, at.row, now ^ 1, k0 + TILE, q0 + 1, T);
        float s[TILE / 8][4] = {}, dp[TILE / 8][4] = {};
        product_transposed<HS>(s, Q, 16 * warp, K + now * TILE * HS);
        product_transposed<HS>(dp, dO, 16 * warp, V + now * TILE * HS);
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                bool seen = k0 + 8 * n + 2 * t + i % 2 <= row0 + g + i / 2 * 8;
                float p = seen ? exp2f(s[n][i] * unit - of_lse[i / 2]) : 0.0f;
                s[n][i] = p * (dp[n][i] - of_D[i / 2]);
            }
        product<HS>(acc, s, K + now * TILE * HS);
    }
    store_rows<HS>(dqkv + at.q, at.row, acc, row0, T, scale, scale);
}

/* dk and dv of 64 keys: scores stand with keys as rows, so that p and ds come out of one product as the a of the next. The
   early keys, which most queries see, start first. */
template <int HS> __device__ __forceinline__ void attention_backward_kv_tiles(const bf16 *qkv, const bf16 *d_o, const float *lse, const float *D, bf16 *dqkv,
                                                                              int T, int NH, float scale) {
    DYNAMIC_SHARED(bf16, shared);                       /* K, V, then twice Q and dO, then twice lse and D */
    bf16 *K = shared, *V = K + TILE * HS, *Q = V + TILE * HS, *dO = Q + 2 * TILE * HS;
    float *lses = (float *)(dO + 2 * TILE * HS), *Ds = lses + 2 * TILE;
    int k0 = blockIdx.x * TILE, warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, row0 = k0 + 16 * warp;
    Heads at = heads_at(blockIdx.z, blockIdx.y, T, NH, HS);
    float dk[HS / 8][4] = {}, dv[HS / 8][4] = {};
    load_tile<HS>(K, qkv + at.k, at.row, k0, T);
    load_tile<HS>(V, qkv + at.v, at.row, k0, T);
    load_tile<HS>(Q, qkv + at.q, at.row, k0, T);
    load_tile<HS>(dO, d_o + at.o, at.out_row, k0, T);
    cp_async_commit();
    for (int q0 = k0, now = 0; q0 < T; q0 += TILE, now ^= 1) {
        if (threadIdx.x < TILE) {                       /* the place was read two tiles ago: a barrier lies between */
            int i = q0 + threadIdx.x;
            lses[now * TILE + threadIdx.x] = i < T ? lse[at.stat + i] * LOG2E : 0.0f;
            Ds[now * TILE + threadIdx.x] = i < T ? D[at.stat + i] : 0.0f;
        }
        turn_tiles<HS>(Q, qkv + at.q, at.row, dO, d_o + at.o, at.out_row, now ^ 1, q0 + TILE, T, T);
        float p[TILE / 8][4] = {}, ds[TILE / 8][4] = {};
        product_transposed<HS>(p, K, 16 * warp, Q + now * TILE * HS);
        product_transposed<HS>(ds, V, 16 * warp, dO + now * TILE * HS);
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int column = 8 * n + 2 * t + i % 2;     /* the query */
                bool seen = row0 + g + i / 2 * 8 <= q0 + column && q0 + column < T;
                p[n][i] = seen ? exp2f(p[n][i] * scale * LOG2E - lses[now * TILE + column]) : 0.0f;
                ds[n][i] = p[n][i] * (ds[n][i] - Ds[now * TILE + column]);
            }
        product<HS>(dv, p, dO + now * TILE * HS);
        product<HS>(dk, ds, Q + now * TILE * HS);
    }
    store_rows<HS>(dqkv + at.k, at.row, dk, row0, T, scale, scale);
    store_rows<HS>(dqkv + at.v, at.row, dv, row0, T, 1.0f, 1.0f);
}

extern "C" __global__ void __launch_bounds__(TILE_THREADS) attention_forward_64(const real *qkv, real *o, float *lse, int T, int NH, float scale) {
    attention_forward_tiles<64>(qkv, o, lse, T, NH, scale);
}
extern "C" __global__ void __launch_bounds__(TILE_THREADS) attention_forward_128(const real *qkv, real *o, float *lse, int T, int NH, float scale) {
    attention_forward_tiles<128>(qkv, o, lse, T, NH, scale);
}
extern "C" __global__ void __launch_bounds__(TILE_THREADS) attention_backward_q_64(const real *qkv, const real *d_o, const float *lse, const float *D, real *dqkv,
                                                                                   int T, int NH, float scale) {
    attention_backward_q_tiles<64>(qkv, d_o, lse, D, dqkv, T, NH, scale);
}
extern "C" __global__ void __launch_bounds__(TILE_THREADS) attention_backward_q_128(const real *qkv, const real *d_o, const float *lse, const float *D, real *dqkv,
                                                                                    int T, int NH, float scale) {
    attention_backward_q_tiles<128>(qkv, d_o, lse, D, dqkv, T, NH, scale);
}
extern "C" __global__ void __launch_bounds__(TILE_THREADS) attention_backward_kv_64(const real *qkv, const real *d_o, const float *lse, const float *D, real *dqkv,
                                                                                    int T, int NH, float scale) {
    attention_backward_kv_tiles<64>(qkv, d_o, lse, D, dqkv, T, NH, scale);
}
extern "C" __global__ void __launch_bounds__(TILE_THREADS) attention_backward_kv_128(const real *qkv, const real *d_o, const float *lse, const float *D, real *dqkv,
                                                                                     int T, int NH, float scale) {
    attention_backward_kv_tiles<128>(qkv, d_o, lse, D, dqkv, T, NH, scale);
}

#endif
