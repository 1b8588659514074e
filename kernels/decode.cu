/* decode.cu: attention of T new positions of each row to all before them, which are in the cache
   spec: gpt.decode
       k_cache[b,:,n+t] <- k_bt, v_cache[b,:,n+t] <- v_bt with n = length[b], for t < n_new[b]
       o_bt = softmax(q_bt . k_j / sqrt(HS), j <= n + t) v
   qkv (B,T,NH+2NKV,HS), o (B,T,NH,HS), k_cache and v_cache (B,NKV,S,HS) real; length, n_new (B,)
   int with length + n_new <= S: the rows may differ. With -DPAGE=n a cache is pages of n positions,
   (pages,NKV,PAGE,HS), and pages (B,most) int says which ones a row has, in the order of its text.
   So rows take as much memory as they have text, and may share the pages that they begin with:

       pages    row 0: 4 1 7        page 4 is the prompt of both, full
                row 1: 4 0          page 0 is the last of row 1, and has room

   Any sizes, HS up to MOST_HS
   (kernels/launching.py). With T = 1 it reads each key and value once, 2 B NKV n HS numbers: memory
   bound, floor = bytes / bandwidth. Longer prompts read them again for each position.
   One version: as many lanes share a key as it has 16 bytes, teams of lanes take turns at the keys
   with a running maximum, and the teams of a block are merged in order.
   GROUP = NH / NKV query heads have the same keys; a block has HEADS of them, which divides GROUP,
   so that a key is read once for all. Both are known when this is compiled. */

#ifndef GROUP
#define GROUP 1
#endif
#ifndef HEADS
#define HEADS 1
#endif

/* Where key j of head h of row b begins; most: how many pages a row can have. */
#ifdef PAGE
__device__ __forceinline__ size_t place_of(const int *pages, int b, int most, int NKV, int h, int S,
        int HS, int j) {
    return (((size_t)pages[(size_t)b * most + j / PAGE] * NKV + h) * PAGE + j % PAGE) * HS;
}
#else
__device__ __forceinline__ size_t place_of(const int *pages, int b, int most, int NKV, int h, int S,
        int HS, int j) {
    return (((size_t)b * NKV + h) * S + j) * HS;
}
#endif

/* of a key, a lane has at most this many 16 bytes */
#define MOST_PACKS ((MOST_HS + 32 * WIDTH - 1) / (32 * WIDTH))

/* One thread, one number of a new key and of its value. Row b, position t; padding stays out of the
   cache. C: of the keys. */
extern "C" __global__ void cache_append(const real *qkv, real *k_cache, real *v_cache,
        const int *length, const int *n_new, const int *pages, int most, int B, int T, int NKV,
        int S, int HS) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    int C = NKV * HS, c = (int)(i % C), t = (int)(i / C % T);
    long long b = i / C / T;
    if (b >= B || t >= n_new[b]) return;
    const real *k = qkv + (b * T + t) * (GROUP + 2) * C + GROUP * C;
    size_t to = place_of(pages, (int)b, most, NKV, c / HS, S, HS, length[b] + t) + c % HS;
    k_cache[to] = k[c];
    v_cache[to] = k[C + c];
}

/* Block (h / HEADS, t, b). The new keys are in the cache already. */
extern "C" __global__ void decode_attention(const real *qkv, const real *k_cache,
        const real *v_cache, const int *length, const int *n_new, const int *pages, int most,
        real *o, int T, int NH, int S, int HS, float scale) {
    /* (HEADS, teams, HS + 2): the sum of p v, the maximum, the sum of p */
    DYNAMIC_SHARED(float, merged);
    int h0 = blockIdx.x * HEADS, t = blockIdx.y, b = blockIdx.z, C = NH * HS, NKV = NH / GROUP,
        lanes = lanes_of(HS);
    int team = threadIdx.x / lanes, teams = blockDim.x / lanes, mine = threadIdx.x % lanes * WIDTH;
    size_t at = ((size_t)b * T + t) * C + h0 * HS;
    if (t >= n_new[b]) {    /* padding: any number will do, if it is one */
        for (int d = threadIdx.x; d < HEADS * HS; d += blockDim.x) from_float(0.0f, &o[at + d]);
        return;
    }
    const real *q = qkv + ((size_t)b * T + t) * (GROUP + 2) * NKV * HS + h0 * HS;
    int n = length[b] + t;                              /* the last key it sees */
    float query[HEADS][MOST_PACKS][WIDTH], acc[HEADS][MOST_PACKS][WIDTH] = {}, v[WIDTH],
        top[HEADS], total[HEADS], p[HEADS], shrink[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        top[h] = -INFINITY, total[h] = 0.0f;
        for (int i = 0; i < MOST_PACKS; i++)
            load_pack(query[h][i], q + h * HS + min(mine + i * lanes * WIDTH, HS),
                HS - mine - i * lanes * WIDTH, PACKED && mine + i * lanes * WIDTH < HS);
    }
    /* as often for every lane: they meet in the shuffles */
    for (int j0 = 0; j0 <= n; j0 += teams) {
        int j = j0 + team;
        size_t key = place_of(pages, b, most, NKV, h0 / GROUP, S, HS, min(j, n));
        float s[HEADS] = {};
        for (int i = 0, d = mine; i < MOST_PACKS && d < HS; i++, d += lanes * WIDTH) {
            load_pack(v, k_cache + key + d, HS - d, PACKED);
#pragma unroll
            for (int h = 0; h < HEADS; h++)
#pragma unroll
                for (int w = 0; w < WIDTH; w++) s[h] += query[h][i][w] * v[w];
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++)
            for (int l = lanes / 2; l; l >>= 1) s[h] += __shfl_xor_sync(ALL_LANES, s[h], l);
        if (j > n) continue;    /* nothing to do for this team in the last round */
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            s[h] *= scale;
            float new_top = fmaxf(top[h], s[h]);
            p[h] = __expf(s[h] - new_top), shrink[h] = __expf(top[h] - new_top);
            top[h] = new_top, total[h] = total[h] * shrink[h] + p[h];
        }
        for (int i = 0, d = mine; i < MOST_PACKS && d < HS; i++, d += lanes * WIDTH) {
            load_pack(v, v_cache + key + d, HS - d, PACKED);
#pragma unroll
            for (int h = 0; h < HEADS; h++)
#pragma unroll
                for (int w = 0; w < WIDTH; w++)
                    acc[h][i][w] = acc[h][i][w] * shrink[h] + p[h] * v[w];
        }
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float *to = merged + (size_t)(h * teams + team) * (HS + 2);
        for (int i = 0, d = mine; i < MOST_PACKS && d < HS; i++, d += lanes * WIDTH)
            for (int w = 0; w < WIDTH && d + w < HS; w++) to[d + w] = acc[h][i][w];
        if (mine == 0) to[HS] = top[h], to[HS + 1] = total[h];
    }
    __syncthreads();                                    /* every team has left its part */
    for (int c = threadIdx.x; c < HEADS * HS; c += blockDim.x) {
        int h = HEADS == 1 ? 0 : c / HS, d = c - h * HS;
        const float *of_head = merged + h * teams * (HS + 2);
        float most = -INFINITY, sum = 0.0f, all = 0.0f;
        for (int i = 0; i < teams; i++) most = fmaxf(most, of_head[i * (HS + 2) + HS]);
        /* a team without keys has maximum -inf, and counts 0 */
        for (int i = 0; i < teams; i++) {
            float by = __expf(of_head[i * (HS + 2) + HS] - most);
            sum += by * of_head[i * (HS + 2) + d];
            all += by * of_head[i * (HS + 2) + HS + 1];
        }
        from_float(sum / all, &o[at + c]);
    }
}

/* y[i] = x[rows[i]]: the last position of each row of the batch, the only one whose logits
   generation needs. */
extern "C" __global__ void take_rows(const real *x, const int *rows, real *y, int n, int C) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < (long long)n * C) y[i] = x[(size_t)rows[i / C] * C + i % C];
}
