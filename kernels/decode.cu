/* decode.cu: attention of T new positions of each row to all before them, which are in the cache
   spec: gpt.decode
       k_cache[b,:,n+t] <- k_bt, v_cache[b,:,n+t] <- v_bt with n = length[b], for t < n_new[b]
       o_bt = softmax(q_bt . k_j / sqrt(HS), j <= n + t) v
   qkv (B,T,3,NH,HS), o (B,T,NH,HS), k_cache and v_cache (B,NH,S,HS) real; length, n_new (B,) int
   with length + n_new <= S: the rows may differ. Any sizes, HS up to MOST_HS
   (kernels/launching.py). With T = 1 it reads each key and value once, 2 B NH n HS numbers: memory
   bound, floor = bytes / bandwidth. Longer prompts read them again for each position.
   One version: as many lanes share a key as it has 16 bytes, groups of lanes take turns at the keys
   with a running maximum, and the groups of a block are merged in order. */

/* of a key, a lane has at most this many 16 bytes */
#define MOST_PACKS ((MOST_HS + 32 * WIDTH - 1) / (32 * WIDTH))

/* One thread, one number of a new key and of its value. Row b, position t; padding stays out of the
   cache. */
extern "C" __global__ void cache_append(const real *qkv, real *k_cache, real *v_cache,
        const int *length, const int *n_new, int B, int T, int NH, int S, int HS) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    int C = NH * HS, c = (int)(i % C), t = (int)(i / C % T);
    long long b = i / C / T;
    if (b >= B || t >= n_new[b]) return;
    const real *k = qkv + (b * T + t) * 3 * C + C;
    size_t to = ((b * NH + c / HS) * S + length[b] + t) * HS + c % HS;
    k_cache[to] = k[c];
    v_cache[to] = k[C + c];
}

/* Block (h, t, b). The new keys are in the cache already. */
extern "C" __global__ void decode_attention(const real *qkv, const real *k_cache,
        const real *v_cache, const int *length, const int *n_new, real *o, int T, int NH, int S,
        int HS, float scale) {
    /* (groups, HS + 2): the sum of p v, the maximum, the sum of p */
    DYNAMIC_SHARED(float, merged);
    int h = blockIdx.x, t = blockIdx.y, b = blockIdx.z, C = NH * HS, lanes = lanes_of(HS);
    int group = threadIdx.x / lanes, groups = blockDim.x / lanes,
        mine = threadIdx.x % lanes * WIDTH;
    size_t at = ((size_t)b * T + t) * C + h * HS, head = ((size_t)b * NH + h) * S * HS;
    if (t >= n_new[b]) {    /* padding: any number will do, if it is one */
        for (int d = threadIdx.x; d < HS; d += blockDim.x) from_float(0.0f, &o[at + d]);
        return;
    }
    const real *q = qkv + ((size_t)b * T + t) * 3 * C + h * HS;
    int n = length[b] + t;                              /* the last key it sees */
    float query[MOST_PACKS][WIDTH], acc[MOST_PACKS][WIDTH] = {}, v[WIDTH], top = -INFINITY,
        total = 0.0f;
    for (int i = 0; i < MOST_PACKS; i++)
        load_pack(query[i], q + min(mine + i * lanes * WIDTH, HS), HS - mine - i * lanes * WIDTH,
            PACKED && mine + i * lanes * WIDTH < HS);
    /* as often for every lane: they meet in the shuffles */
    for (int j0 = 0; j0 <= n; j0 += groups) {
        int j = j0 + group;
        size_t key = head + (size_t)min(j, n) * HS;
        float s = 0.0f;
        for (int i = 0, d = mine; i < MOST_PACKS && d < HS; i++, d += lanes * WIDTH) {
            load_pack(v, k_cache + key + d, HS - d, PACKED);
#pragma unroll
            for (int w = 0; w < WIDTH; w++) s += query[i][w] * v[w];
        }
        for (int l = lanes / 2; l; l >>= 1) s += __shfl_xor_sync(ALL_LANES, s, l);
        if (j > n) continue;    /* nothing to do for this group in the last round */
        s *= scale;
        float new_top = fmaxf(top, s), p = __expf(s - new_top), shrink = __expf(top - new_top);
        top = new_top, total = total * shrink + p;
        for (int i = 0, d = mine; i < MOST_PACKS && d < HS; i++, d += lanes * WIDTH) {
            load_pack(v, v_cache + key + d, HS - d, PACKED);
#pragma unroll
            for (int w = 0; w < WIDTH; w++) acc[i][w] = acc[i][w] * shrink + p * v[w];
        }
    }
    float *to = merged + (size_t)group * (HS + 2);
    for (int i = 0, d = mine; i < MOST_PACKS && d < HS; i++, d += lanes * WIDTH)
        for (int w = 0; w < WIDTH && d + w < HS; w++) to[d + w] = acc[i][w];
    if (mine == 0) to[HS] = top, to[HS + 1] = total;
    __syncthreads();                                    /* every group has left its part */
    for (int d = threadIdx.x; d < HS; d += blockDim.x) {
        float most = -INFINITY, sum = 0.0f, all = 0.0f;
        for (int i = 0; i < groups; i++) most = fmaxf(most, merged[i * (HS + 2) + HS]);
        /* a group without keys has maximum -inf, and counts 0 */
        for (int i = 0; i < groups; i++) {
            float by = __expf(merged[i * (HS + 2) + HS] - most);
            sum += by * merged[i * (HS + 2) + d];
            all += by * merged[i * (HS + 2) + HS + 1];
        }
        from_float(sum / all, &o[at + d]);
    }
}

/* y[i] = x[rows[i]]: the last position of each row of the batch, the only one whose logits
   generation needs. */
extern "C" __global__ void take_rows(const real *x, const int *rows, real *y, int n, int C) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < (long long)n * C) y[i] = x[(size_t)rows[i / C] * C + i % C];
}
