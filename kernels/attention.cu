/* attention.cu: o_i = sum_{j<=i} p_ij v_j, p_i = softmax_j(s_ij), s_ij = q_i . k_j / sqrt(HS)
   spec: gpt.attention_forward
   qkv (B,T,NH+2NKV,HS) real, as the products before leave it: queries, keys, values; o, do
   (B,T,NH,HS) real; lse, D (B,NH,T) float. Any T >= 1.
   GROUP = NH / NKV query heads, neighbours, share a head of keys and values. It is known when this
   is compiled: with 1, which is GPT-2, nothing of it is left in the machine code.
   Forward 2 T^2 C multiply-adds a sequence (causal), backward 3.5 times that: the scores are never
   stored, so it is bound by arithmetic; floor = flops / tensor-core peak.
   v1 one warp per query (or key, in the backward), any HS up to MOST_HS (kernels/launching.py), any
   dtype.
   v2 for bfloat16 and HS 32, 64 or 128: 128 queries against tiles of 64 keys through tensor cores,
   a warp for every 32 queries, so that what it reads of a tile serves two products; the next tile
   is on its way while one is worked on.
   No atomics: the gradients of keys and of queries are two kernels that each make the probabilities
   again. A block of keys goes through the queries of one head of its group after the other. */

#ifndef GROUP
#define GROUP 1
#endif

/* Rows of several texts, with -DTEXTS=1: a query sees the earlier keys of its own text, and those
   of the beginning that all texts of the row share. Row b of texts (B,1+2T) int holds how many
   positions are shared, then for each position where its text begins, then where that ends:

       position    0 1 2 3 4 5 6 7         query 4 sees the keys        0 1 2 3 4
       text        s s s a a b b -         query 6 sees the keys        0 1 2     5 6
       begin       0 0 0 3 3 5 5 7         key 1 is seen by queries       1 2 3 4 5 6 7
       end         8 8 8 5 5 7 7 8         key 3 is seen by queries           3 4

   So query i sees the keys j <= i with j < shared or j >= begin[i], and key j is seen by the
   queries i >= j with i < end[j]. Without TEXTS a row is one text: shared and begin are 0, end is
   T, and nothing of this is left in the machine code. */
#ifndef TEXTS
#define TEXTS 0
#endif
struct Texts { const int *begin, *end; int shared, T; };
__device__ __forceinline__ Texts texts_at(const int *texts, int b, int T) {
    if (!TEXTS) return {nullptr, nullptr, 0, T};
    const int *row = texts + (size_t)b * (1 + 2 * T);
    return {row + 1, row + 1 + T, row[0], T};
}
/* Of a position; one behind the row is of the last text. */
__device__ __forceinline__ int begin_of(const Texts &texts, int i) {
        return TEXTS ? texts.begin[min(i, texts.T - 1)] : 0; }
__device__ __forceinline__ int end_of(const Texts &texts, int j) {
        return TEXTS ? texts.end[min(j, texts.T - 1)] : texts.T; }
/* The first key from `key` on that a query may see whose text begins at `begin`, or later. */
__device__ __forceinline__ int next_seen(const Texts &texts, int key, int begin) {
        return TEXTS && key >= texts.shared ? max(key, begin) : key; }

/* ------------------------------------------------------------------------------- v1, plain */

struct Heads {    /* where query head h of sequence b and its keys lie; rows are `row` apart */
    size_t q, k, v, o, stat;
    int row, out_row;
};
__device__ __forceinline__ Heads heads_at(int b, int h, int T, int NH, int HS) {
    int C = NH * HS, of_keys = C / GROUP, row = C + 2 * of_keys;
    size_t begin = (size_t)b * T * row, q = begin + h * HS, k = begin + C + h / GROUP * HS;
    return {q, k, k + of_keys, (size_t)b * T * C + h * HS, ((size_t)b * NH + h) * T, row, C};
}
/* From a query head to the next one that has the same keys. */
__device__ __forceinline__ void next_of_group(Heads &at, int T, int HS) {
    at.q += HS, at.o += HS, at.stat += T;
}
__device__ __forceinline__ float dot_row(const real *x, const real *y, int HS) {
    float sum = 0.0f;
    for (int d = 0; d < HS; d++) sum += to_float(x[d]) * to_float(y[d]);
    return sum;
}

/* One warp, one query: 32 keys at a time, a lane each; then a lane has every 32nd number of o. Grid
   (T / warps, NH, B). */
extern "C" __global__ void attention_forward_v1(const real *qkv, real *o, float *lse,
        const int *texts, int T, int NH,
        int HS, float scale) {
    int lane = threadIdx.x % 32, i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (i >= T) return;
    Heads at = heads_at(blockIdx.z, blockIdx.y, T, NH, HS);
    Texts of = texts_at(texts, blockIdx.z, T);
    int begin = begin_of(of, i);
    float top = -INFINITY, total = 0.0f, acc[MOST_HS / 32] = {};
    for (int j0 = next_seen(of, 0, begin); j0 <= i; j0 = next_seen(of, j0 + 32, begin)) {
        int j = j0 + lane;
        float s = -INFINITY;
        if (j <= i && (j < of.shared || j >= begin))
            s = scale * dot_row(qkv + at.q + (size_t)i * at.row,
                qkv + at.k + (size_t)j * at.row, HS);
        float new_top = fmaxf(top, warp_max(s)), p = expf(s - new_top),
            shrink = expf(top - new_top);
        top = new_top;
        total = total * shrink + warp_sum(p);
        for (int c = 0; c * 32 < HS; c++) acc[c] *= shrink;
        for (int n = 0; n < 32 && j0 + n <= i; n++) {
            float pn = __shfl_sync(ALL_LANES, p, n);
            for (int c = 0; c * 32 + lane < HS; c++)
                acc[c] += pn * to_float(qkv[at.v + (size_t)(j0 + n) * at.row + c * 32 + lane]);
        }
    }
    for (int c = 0; c * 32 + lane < HS; c++)
        from_float(acc[c] / total, &o[at.o + (size_t)i * at.out_row + c * 32 + lane]);
    if (lane == 0) lse[at.stat + i] = top + logf(total);
}

/* D_i = do_i . o_i, which is sum_j p_ij dp_ij. As many lanes share a row as it has 16 bytes. Serves
   v1 and v2. */
extern "C" __global__ void attention_backward_rows(const real *o, const real *d_o, float *D, int T,
        int NH, int HS) {
    int lanes = lanes_of(HS), i = blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes,
        mine = threadIdx.x % lanes;
    Heads at = heads_at(blockIdx.z, blockIdx.y, T, NH, HS);
    size_t row = at.o + (size_t)i * at.out_row;
    float sum = 0.0f, x[WIDTH], y[WIDTH];
    for (int d = mine * WIDTH; i < T && d < HS; d += lanes * WIDTH) {
        load_pack(x, o + row + d, HS - d, HS % WIDTH == 0);
        load_pack(y, d_o + row + d, HS - d, HS % WIDTH == 0);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) sum += x[k] * y[k];
    }
    for (int l = lanes / 2; l; l >>= 1) sum += __shfl_xor_sync(ALL_LANES, sum, l);
    if (i < T && mine == 0) D[at.stat + i] = sum;
}

/* One warp, one query: dq_i = scale sum_j ds_ij k_j with ds = p (dp - D), dp_ij = do_i . v_j. */
extern "C" __global__ void attention_backward_q_v1(const real *qkv, const real *d_o,
        const float *lse, const float *D, real *dqkv, const int *texts, int T, int NH, int HS,
        float scale) {
    int lane = threadIdx.x % 32, i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (i >= T) return;
    Heads at = heads_at(blockIdx.z, blockIdx.y, T, NH, HS);
    const real *q = qkv + at.q + (size_t)i * at.row, *g = d_o + at.o + (size_t)i * at.out_row;
    Texts of = texts_at(texts, blockIdx.z, T);
    int begin = begin_of(of, i);
    float acc[MOST_HS / 32] = {};
    for (int j0 = next_seen(of, 0, begin); j0 <= i; j0 = next_seen(of, j0 + 32, begin)) {
        int j = j0 + lane;
        float ds = 0.0f;
        if (j <= i && (j < of.shared || j >= begin)) {
            float p = expf(scale * dot_row(q, qkv + at.k + (size_t)j * at.row, HS)
                - lse[at.stat + i]);
            ds = p * (dot_row(g, qkv + at.v + (size_t)j * at.row, HS) - D[at.stat + i]);
        }
        for (int n = 0; n < 32 && j0 + n <= i; n++) {
            float one = __shfl_sync(ALL_LANES, ds, n);
            for (int c = 0; c * 32 + lane < HS; c++)
                acc[c] += one * to_float(qkv[at.k + (size_t)(j0 + n) * at.row + c * 32 + lane]);
        }
    }
    for (int c = 0; c * 32 + lane < HS; c++)
        from_float(scale * acc[c], &dqkv[at.q + (size_t)i * at.row + c * 32 + lane]);
}

/* One warp, one key: dv_j = sum_i p_ij do_i, dk_j = scale sum_i ds_ij q_i over the queries from j
   on, of all heads of its group. Grid (T / warps, NKV, B). */
extern "C" __global__ void attention_backward_kv_v1(const real *qkv, const real *d_o,
        const float *lse, const float *D, real *dqkv, const int *texts, int T, int NH, int HS,
        float scale) {
    int lane = threadIdx.x % 32, j = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (j >= T) return;
    Heads at = heads_at(blockIdx.z, blockIdx.y * GROUP, T, NH, HS);
    const real *k = qkv + at.k + (size_t)j * at.row, *v = qkv + at.v + (size_t)j * at.row;
    int end = end_of(texts_at(texts, blockIdx.z, T), j);
    float dk[MOST_HS / 32] = {}, dv[MOST_HS / 32] = {};
#pragma unroll 1
    for (int h = 0; h < GROUP; h++, next_of_group(at, T, HS))
        for (int i0 = j; i0 < end; i0 += 32) {
            int i = i0 + lane;
            float p = 0.0f, ds = 0.0f;
            if (i < end) {
                const real *q = qkv + at.q + (size_t)i * at.row;
                p = expf(scale * dot_row(k, q, HS) - lse[at.stat + i]);
                ds = p * (dot_row(v, d_o + at.o + (size_t)i * at.out_row, HS) - D[at.stat + i]);
            }
            for (int n = 0; n < 32 && i0 + n < end; n++) {
                float pn = __shfl_sync(ALL_LANES, p, n), dsn = __shfl_sync(ALL_LANES, ds, n);
                const real *q = qkv + at.q + (size_t)(i0 + n) * at.row,
                    *g = d_o + at.o + (size_t)(i0 + n) * at.out_row;
                for (int c = 0; c * 32 + lane < HS; c++) {
                    dv[c] += pn * to_float(g[c * 32 + lane]);
                    dk[c] += dsn * to_float(q[c * 32 + lane]);
                }
            }
        }
    for (int c = 0; c * 32 + lane < HS; c++) {
        from_float(scale * dk[c], &dqkv[at.k + (size_t)j * at.row + c * 32 + lane]);
        from_float(dv[c], &dqkv[at.v + (size_t)j * at.row + c * 32 + lane]);
    }
}

/* ------------------------------------------------------------------------ v2, tensor cores */
#ifdef BF16

/* TILE rows are a tile: kernels/launching.py says how many. One is worked on while the next
   comes. */
/* four warps, each with M times 16 rows of the block's own */
#define TILE_THREADS 128
/* rows of a tile that the backward takes at once: registers */
#define STEP 32

/* A tile has its rows one behind the other, and 16 bytes number c of row r stand at c ^ turn(r), so
   that the same columns of eight rows are spread over all banks: neither copies nor ldmatrix wait
   for one another. All steps from row to row here are multiples of 8, which turn() does not see: a
   lane works out one place, and others differ from it by ^ 16 k (columns) and + HS r (rows). */
template <int HS> __device__ __forceinline__ int turn(int row) { return HS == 32 ? row / 2 % 4
        : row % 8; }

/* Rows first .. first+ROWS-1 of a head into a tile, by all threads; rows from T on become 0. */
template <int HS, int ROWS> __device__ __forceinline__ void load_tile(bf16 *tile, const bf16 *head,
        int row_length, int first, int T) {
    const int AT_ONCE = TILE_THREADS / (HS / 8);
    int row = threadIdx.x / (HS / 8), chunk = threadIdx.x % (HS / 8), left = T - first - row;
    const bf16 *from = head + (size_t)(first + row) * row_length + chunk * 8;
    tile += row * HS + (chunk ^ turn<HS>(row)) * 8;
#pragma unroll
    for (int i = 0; i < ROWS; i += AT_ONCE)
        cp_async_16(tile + i * HS, from + (size_t)i * row_length, i < left ? 16 : 0);
}

/* The tiles of keys and values from `first` on, into the first or the second place for them. */
template <int HS> __device__ __forceinline__ void send_keys(bf16 *K, bf16 *V, int place,
        const bf16 *qkv, const Heads &at, int first, int T) {
    load_tile<HS, TILE>(K + place * TILE * HS, qkv + at.k, at.row, first, T);
    load_tile<HS, TILE>(V + place * TILE * HS, qkv + at.v, at.row, first, T);
}

/* Waits for this round's keys and values, and sends for the next, in the other place, if they begin
   before `end`. */
template <int HS> __device__ __forceinline__ void next_keys(bf16 *K, bf16 *V, int other,
        const bf16 *qkv, const Heads &at, int next, int end, int T) {
    cp_async_wait<0>();
    __syncthreads();    /* this round's tiles are there, and nobody reads the others any more */
    if (next < end) send_keys<HS>(K, V, other, qkv, at, next, T);
    cp_async_commit();
}

/* The place in a tile that the lane names for ldmatrix: for the a of 16 rows and 16 columns, also
   for the b of their transpose (_trans);
   and for the b of 16 rows taken as columns. */
template <int HS> __device__ __forceinline__ int place_a() {
    int lane = threadIdx.x % 32, row = lane % 16;
    return row * HS + (lane / 16 ^ turn<HS>(row)) * 8;
}
template <int HS> __device__ __forceinline__ int place_b() {
    int lane = threadIdx.x % 32, row = lane % 8 + lane / 16 * 8;
    return row * HS + (lane / 8 % 2 ^ turn<HS>(row)) * 8;
}

/* acc (M times 16, N) = x y^T, x being M times 16 rows and y N rows of tiles. acc[m][n] is the c of
   x's rows 16m .. and y's rows 8n .. */
template <int HS, int M, int N> __device__ __forceinline__ void product_transposed(
        float (*acc)[N / 8][4], const bf16 *x, const bf16 *y) {
    unsigned a[M][4], b[4];
    int at_x = place_a<HS>(), at_y = place_b<HS>();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) acc[m][n][i] = 0.0f;
#pragma unroll
    for (int k = 0; k < HS; k += 16) {
#pragma unroll
        for (int m = 0; m < M; m++) ldmatrix_x4(a[m], x + (at_x ^ k) + 16 * m * HS);
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            ldmatrix_x4(b, y + (at_y ^ k) + 16 * n * HS);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(acc[m][2 * n], a[m], b);
                mma_bf16(acc[m][2 * n + 1], a[m], b + 2);
            }
        }
    }
}

/* acc (M times 16, HS) += p y, p (M times 16, N) in registers as product_transposed leaves it, y
   being N rows of a tile. */
template <int HS, int M, int N> __device__ __forceinline__ void product(float (*acc)[HS / 8][4],
        float (*p)[N / 8][4], const bf16 *y) {
    unsigned a[M][4], b[4];
    int at_y = place_a<HS>();
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[m][i] = pack_bf16(p[m][2 * k + i / 2][i % 2 * 2],
                    p[m][2 * k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int n = 0; n < HS / 16; n++) {
            ldmatrix_x4_trans(b, y + (at_y ^ 16 * n) + 16 * k * HS);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(acc[m][2 * n], a[m], b);
                mma_bf16(acc[m][2 * n + 1], a[m], b + 2);
            }
        }
    }
}

/* Scores of keys that come after the query become -inf. Rows are queries, or keys; ahead: position
   of the first row less that of the first column. */
template <int M, int N, bool QUERIES> __device__ __forceinline__ void mask(float (*s)[N / 8][4],
        int ahead) {
    ahead += threadIdx.x % 32 / 4 - threadIdx.x % 4 * 2;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int column_less_row = 8 * n + i % 2 - 16 * m - i / 2 * 8;
                if (QUERIES ? column_less_row > ahead : column_less_row < ahead)
                    s[m][n][i] = -INFINITY;
            }
}

/* Where the texts of M times 16 rows begin, or with ENDS where they end: of the lane's rows g and
   g + 8 of each 16. */
template <int M, bool ENDS> __device__ __forceinline__ void bounds_of_rows(int (*bounds)[2],
        const Texts &texts, int row0) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = row0 + 16 * m + threadIdx.x % 32 / 4 + 8 * half;
            bounds[m][half] = ENDS ? end_of(texts, row) : begin_of(texts, row);
        }
}

/* Scores of other texts become -inf. Rows are queries, with begins as bounds, and columns the keys
   from column0 on; or rows are keys, with ends as bounds, and columns queries. */
template <int M, int N, bool QUERIES> __device__ __forceinline__ void mask_texts(
        float (*s)[N / 8][4], const int (*bounds)[2], int shared, int column0) {
    column0 += threadIdx.x % 4 * 2;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int column = column0 + 8 * n + i % 2, bound = bounds[m][i / 2];
                if (QUERIES ? column >= shared && column < bound : column >= bound)
                    s[m][n][i] = -INFINITY;
            }
}

/* The keys that a warp's M times 16 queries from row0 on see, in a block of queries from q0 on. */
template <int M> struct SeenKeys {
    Texts of;
    int block_begin, begin, last_begin;    /* of the texts of the first query and of the last */
    int begins[M][2];

    __device__ __forceinline__ SeenKeys(const int *texts, int b, int T, int q0, int row0)
            : of(texts_at(texts, b, T)), block_begin(begin_of(of, q0)), begin(begin_of(of, row0)),
              last_begin(begin_of(of, row0 + 16 * M - 1)) {
        bounds_of_rows<M, false>(begins, of, row0);
    }
    /* the first key from here on that the block sees */
    __device__ __forceinline__ int next(int key) const { return next_seen(of, key, block_begin); }
    /* whether the warp sees none of n keys */
    __device__ __forceinline__ bool none(int key, int n) const {
            return TEXTS && key >= of.shared && key + n <= begin; }
    template <int N> __device__ __forceinline__ void mask_others(float (*s)[N / 8][4],
            int key) const {
        if (TEXTS && key < last_begin && key + N > of.shared)
            mask_texts<M, N, true>(s, begins, of.shared, key);
    }
};

/* acc (16, HS), the first 8 rows times by0 and the others by1, to rows row0 .. of a head, those
   below T. Two neighbours swap halves of two columns of tiles, so that each has 8 bytes and a row's
   four lanes the 32 that memory moves at once. */
template <int HS> __device__ __forceinline__ void store_rows(bf16 *head, int row_length,
        float (*acc)[4], int row0, int T, float by0, float by1) {
    int t = threadIdx.x % 4, odd = t % 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = row0 + threadIdx.x % 32 / 4 + 8 * half;
        float by = half ? by1 : by0;
        bf16 *to = head + (size_t)row * row_length + 8 * odd + 2 * (t - odd);
#pragma unroll
        for (int n = 0; n < HS / 8; n += 2) {
            unsigned left = pack_bf16(acc[n][2 * half] * by, acc[n][2 * half + 1] * by);
            unsigned right = pack_bf16(acc[n + 1][2 * half] * by, acc[n + 1][2 * half + 1] * by);
            unsigned other = __shfl_xor_sync(ALL_LANES, odd ? left : right, 1);
            if (row < T)
                *(uint2 *)(to + 8 * n) = odd ? make_uint2(other, right) : make_uint2(left, other);
        }
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

/* The maximum of no scores yet: finite, as -inf less -inf would be no number. */
#define LOWEST -1e30f

/* A block has 64 M queries, a warp 16 M of them; the late queries, which see most keys, start
   first. Grid (T / 64 M, NH, B). */
template <int HS, int M> __device__ __forceinline__ void attention_forward_tiles(const bf16 *qkv,
        bf16 *o, float *lse, const int *texts, int T, int NH, float scale) {
    DYNAMIC_SHARED(bf16, shared);                       /* Q, then twice K and V */
    bf16 *Q = shared, *K = Q + M * TILE * HS, *V = K + 2 * TILE * HS;
    int q0 = (gridDim.x - 1 - blockIdx.x) * M * TILE, warp = threadIdx.x / 32,
        g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, row0 = q0 + 16 * M * warp;
    Heads at = heads_at(blockIdx.z, blockIdx.y, T, NH, HS);
    float acc[M][HS / 8][4] = {}, top[M][2], total[M][2], unit = scale * LOG2E;
#pragma unroll
    for (int m = 0; m < M; m++) top[m][0] = top[m][1] = LOWEST, total[m][0] = total[m][1] = 0.0f;
    const SeenKeys<M> seen(texts, blockIdx.z, T, q0, row0);
    int first = seen.next(0);

    load_tile<HS, M * TILE>(Q, qkv + at.q, at.row, q0, T);
    send_keys<HS>(K, V, 0, qkv, at, first, T);
    cp_async_commit();
    int end = min(q0 + M * TILE, T);
    for (int k0 = first, now = 0, next; k0 < end; k0 = next, now ^= 1) {
        next = seen.next(k0 + TILE);
        next_keys<HS>(K, V, now ^ 1, qkv, at, next, end, T);
        /* all keys come after all queries of the warp, or belong to earlier texts */
        if (k0 >= row0 + 16 * M || seen.none(k0, TILE)) continue;
        float s[M][TILE / 8][4];
        product_transposed<HS, M, TILE>(s, Q + 16 * M * warp * HS, K + now * TILE * HS);
        if (k0 + TILE > row0 + 1) mask<M, TILE, true>(s, row0 - k0);
        seen.template mask_others<TILE>(s, k0);
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {      /* row g, then row g + 8 */
                float most = top[m][half];
#pragma unroll
                for (int n = 0; n < TILE / 8; n++)
                    most = fmaxf(most, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
                most = quad_max(most);    /* finite, also where a query sees no key of the tile */
                float shrink = exp2f((top[m][half] - most) * unit), shift = most * unit;
                top[m][half] = most;
                total[m][half] *= shrink;
#pragma unroll
                for (int n = 0; n < TILE / 8; n++)
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; i++) {
                        s[m][n][i] = exp2f(s[m][n][i] * unit - shift);
                        /* each lane its own part; the quad adds up at the end */
                        total[m][half] += s[m][n][i];
                    }
#pragma unroll
                for (int n = 0; n < HS / 8; n++)
                    acc[m][n][2 * half] *= shrink, acc[m][n][2 * half + 1] *= shrink;
            }
        product<HS, M, TILE>(acc, s, V + now * TILE * HS);
    }
#pragma unroll
    for (int m = 0; m < M; m++) {
        int row = row0 + 16 * m;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            total[m][half] = quad_sum(total[m][half]);
            if (t == 0 && row + g + 8 * half < T)
                lse[at.stat + row + g + 8 * half] = top[m][half] * scale + logf(total[m][half]);
        }
        store_rows<HS>(o + at.o, at.out_row, acc[m], row, T, 1.0f / total[m][0],
            1.0f / total[m][1]);
    }
}

/* dq of 64 M queries: as the forward, with the probabilities from lse. */
template <int HS, int M> __device__ __forceinline__ void attention_backward_q_tiles(const bf16 *qkv,
        const bf16 *d_o, const float *lse, const float *D, bf16 *dqkv, const int *texts,
        int T, int NH, float scale) {
    DYNAMIC_SHARED(bf16, shared);                       /* Q, dO, then twice K and V */
    bf16 *Q = shared, *dO = Q + M * TILE * HS, *K = dO + M * TILE * HS, *V = K + 2 * TILE * HS;
    int q0 = (gridDim.x - 1 - blockIdx.x) * M * TILE, warp = threadIdx.x / 32,
        g = threadIdx.x % 32 / 4, row0 = q0 + 16 * M * warp;
    Heads at = heads_at(blockIdx.z, blockIdx.y, T, NH, HS);
    float acc[M][HS / 8][4] = {}, of_lse[M][2], of_D[M][2], unit = scale * LOG2E;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int i = row0 + 16 * m + g + 8 * half;
            of_lse[m][half] = i < T ? lse[at.stat + i] * LOG2E : 0.0f;
            of_D[m][half] = i < T ? D[at.stat + i] : 0.0f;
        }
    const SeenKeys<M> seen(texts, blockIdx.z, T, q0, row0);
    int first = seen.next(0);
    load_tile<HS, M * TILE>(Q, qkv + at.q, at.row, q0, T);
    load_tile<HS, M * TILE>(dO, d_o + at.o, at.out_row, q0, T);
    send_keys<HS>(K, V, 0, qkv, at, first, T);
    cp_async_commit();
    int end = min(q0 + M * TILE, T);
    for (int k0 = first, now = 0, next; k0 < end; k0 = next, now ^= 1) {
        next = seen.next(k0 + TILE);
        next_keys<HS>(K, V, now ^ 1, qkv, at, next, end, T);
        /* until all keys come after the warp's queries */
        for (int step = 0; step < TILE && k0 + step < row0 + 16 * M; step += STEP) {
            const bf16 *keys = K + (now * TILE + step) * HS, *values = V + (now * TILE + step) * HS;
            if (seen.none(k0 + step, STEP)) continue;
            float s[M][STEP / 8][4], dp[M][STEP / 8][4];
            product_transposed<HS, M, STEP>(s, Q + 16 * M * warp * HS, keys);
            product_transposed<HS, M, STEP>(dp, dO + 16 * M * warp * HS, values);
            if (k0 + step + STEP > row0 + 1) mask<M, STEP, true>(s, row0 - k0 - step);
            seen.template mask_others<STEP>(s, k0 + step);
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int n = 0; n < STEP / 8; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        s[m][n][i] = exp2f(s[m][n][i] * unit - of_lse[m][i / 2])
                            * (dp[m][n][i] - of_D[m][i / 2]);
            product<HS, M, STEP>(acc, s, keys);
        }
    }
#pragma unroll
    for (int m = 0; m < M; m++)
        store_rows<HS>(dqkv + at.q, at.row, acc[m], row0 + 16 * m, T, scale, scale);
}

/* dk and dv of 64 M keys: scores stand with keys as rows, so that p and ds come out of one product
   as the a of the next. The early keys, which most queries see, start first. A query from T on has
   zeros for q, do, lse and D, and so adds nothing. The first tile of the group's next head follows
   upon the last of this one without a pause. Grid (T / 64 M, NKV, B). */
template <int HS, int M> __device__ __forceinline__ void attention_backward_kv_tiles(
        const bf16 *qkv, const bf16 *d_o, const float *lse, const float *D, bf16 *dqkv,
        const int *texts, int T, int NH, float scale) {
    DYNAMIC_SHARED(bf16, shared);    /* K, V, then twice Q and dO, then twice lse and D */
    bf16 *K = shared, *V = K + M * TILE * HS, *Q = V + M * TILE * HS, *dO = Q + 2 * TILE * HS;
    float *lses = (float *)(dO + 2 * TILE * HS), *Ds = lses + 2 * TILE;
    int k0 = blockIdx.x * M * TILE, warp = threadIdx.x / 32, t = threadIdx.x % 4,
        row0 = k0 + 16 * M * warp;
    Heads at = heads_at(blockIdx.z, blockIdx.y * GROUP, T, NH, HS);
    float dk[M][HS / 8][4] = {}, dv[M][HS / 8][4] = {}, unit = scale * LOG2E;
    Texts of = texts_at(texts, blockIdx.z, T);
    /* no query from there on sees a key of the block: the shared ones come first and end last */
    int end = max(end_of(of, k0), end_of(of, k0 + M * TILE - 1));
    int ends[M][2], warp_end = max(end_of(of, row0), end_of(of, row0 + 16 * M - 1));
    bounds_of_rows<M, true>(ends, of, row0);
    auto send = [&](int q0, int place) {
        load_tile<HS, TILE>(Q + place * TILE * HS, qkv + at.q, at.row, q0, T);
        load_tile<HS, TILE>(dO + place * TILE * HS, d_o + at.o, at.out_row, q0, T);
        int i = threadIdx.x % TILE;    /* half of the threads send lse, the others D */
        cp_async_4((threadIdx.x < TILE ? lses : Ds) + place * TILE + i,
            (threadIdx.x < TILE ? lse : D) + at.stat + q0 + i, q0 + i < T ? 4 : 0);
    };
    load_tile<HS, M * TILE>(K, qkv + at.k, at.row, k0, T);
    load_tile<HS, M * TILE>(V, qkv + at.v, at.row, k0, T);
    send(k0, 0);
    cp_async_commit();
#pragma unroll 1
    for (int h = 0, now = 0; h < GROUP; h++)
        for (int q0 = k0; q0 < end; q0 += TILE, now ^= 1) {
            cp_async_wait<0>();
            __syncthreads();                                /* as in next_keys */
            if (q0 + TILE < end) send(q0 + TILE, now ^ 1);
            else if (h + 1 < GROUP) next_of_group(at, T, HS), send(k0, now ^ 1);
            cp_async_commit();
            for (int step = 0; step < TILE; step += STEP) {
                /* all queries come before the warp's keys */
                if (q0 + step + STEP <= row0) continue;
                if (TEXTS && q0 + step >= warp_end) continue;   /* all belong to later texts */
                const bf16 *queries = Q + (now * TILE + step) * HS,
                    *slopes = dO + (now * TILE + step) * HS;
                float p[M][STEP / 8][4], ds[M][STEP / 8][4];
                product_transposed<HS, M, STEP>(p, K + 16 * M * warp * HS, queries);
                product_transposed<HS, M, STEP>(ds, V + 16 * M * warp * HS, slopes);
                if (q0 + step < row0 + 16 * M) mask<M, STEP, false>(p, row0 - q0 - step);
                if (TEXTS) mask_texts<M, STEP, false>(p, ends, 0, q0 + step);
#pragma unroll
                for (int n = 0; n < STEP / 8; n++) {
                    float2 of_lse = *(float2 *)(lses + now * TILE + step + 8 * n + 2 * t),
                        of_D = *(float2 *)(Ds + now * TILE + step + 8 * n + 2 * t);
                    of_lse.x *= LOG2E, of_lse.y *= LOG2E;
#pragma unroll
                    for (int m = 0; m < M; m++)
#pragma unroll
                        for (int i = 0; i < 4; i++) {
                            p[m][n][i] = exp2f(p[m][n][i] * unit - (i % 2 ? of_lse.y : of_lse.x));
                            ds[m][n][i] = p[m][n][i] * (ds[m][n][i] - (i % 2 ? of_D.y : of_D.x));
                        }
                }
                product<HS, M, STEP>(dv, p, slopes);
                product<HS, M, STEP>(dk, ds, queries);
            }
        }
#pragma unroll
    for (int m = 0; m < M; m++) {
        store_rows<HS>(dqkv + at.k, at.row, dk[m], row0 + 16 * m, T, scale, scale);
        store_rows<HS>(dqkv + at.v, at.row, dv[m], row0 + 16 * m, T, 1.0f, 1.0f);
    }
}

#define KERNEL(name, BLOCKS) extern "C" __global__ void __launch_bounds__(TILE_THREADS, BLOCKS) name
#define FORWARD(HS, M, BLOCKS)                                                                  \
    KERNEL(attention_forward_##HS, BLOCKS)(                                                       \
            const real *qkv, real *o, float *lse, const int *texts, int T, int NH, float scale) { \
        attention_forward_tiles<HS, M>(qkv, o, lse, texts, T, NH, scale);                       \
    }
#define BACKWARD_NAMED(name, which, HS, M, BLOCKS)                                              \
    KERNEL(name, BLOCKS)(                                                                         \
            const real *qkv, const real *d_o, const float *lse, const float *D, real *dqkv,        \
            const int *texts, int T, int NH, float scale) {                                       \
        attention_backward_##which##_tiles<HS, M>(qkv, d_o, lse, D, dqkv, texts, T, NH, scale); \
    }
#define BACKWARD(which, HS, M, BLOCKS) \
    BACKWARD_NAMED(attention_backward_##which##_##HS, which, HS, M, BLOCKS)
/* M (kernels/__init__.py has it too, as TILES) and the blocks that are to fit a multiprocessor at
   once: as many as registers allow; docs/gpu.md has how little spills. */
FORWARD(32, 2, 4)
FORWARD(64, 2, 3)
FORWARD(128, 2, 2)
BACKWARD(q, 32, 2, 4)
BACKWARD(q, 64, 2, 3)
BACKWARD(q, 128, 2, 2)
/* 96 KB of shared memory, where the one above takes 128 */
BACKWARD_NAMED(attention_backward_q_128_small, q, 128, 1, 1)
BACKWARD(kv, 32, 2, 3)
BACKWARD(kv, 64, 2, 2)
BACKWARD(kv, 128, 1, 2)

#endif
