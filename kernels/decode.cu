/* decode.cu: attention of one new position to itself and all before it, which are in the cache    spec: gpt.decode
       k_cache[b,:,n] <- k_b, v_cache[b,:,n] <- v_b with n = length[b];   o_b = softmax(q_b . k_j / sqrt(HS), j <= n) v
   qkv (B,3,NH,HS), o (B,NH,HS), k_cache and v_cache (B,NH,S,HS) real; length (B,) int, below S: the rows may differ. Any sizes,
   HS up to 256. Reads each key and value once, 2 B NH n HS numbers: memory bound, floor = bytes / bandwidth.
   One version: as many lanes share a key as it has 16 bytes, groups of lanes take turns at the keys with a running maximum,
   and the groups of a block are merged in order. */

#define MOST_PACKS 2                                    /* of a key, a lane has at most this many 16 bytes */

/* Block (h, b). */
extern "C" __global__ void decode_attention(const real *qkv, real *k_cache, real *v_cache, const int *length, real *o, int NH, int S, int HS, float scale) {
    DYNAMIC_SHARED(float, merged);                      /* (groups, HS + 2): the sum of p v, the maximum, the sum of p */
    int h = blockIdx.x, b = blockIdx.y, C = NH * HS, n = length[b], lanes = 1;
    while (lanes * WIDTH < HS && lanes < 32) lanes *= 2;
    int group = threadIdx.x / lanes, groups = blockDim.x / lanes, mine = threadIdx.x % lanes * WIDTH;
    bool packed = HS % WIDTH == 0;
    const real *q = qkv + (size_t)b * 3 * C + h * HS, *k_new = q + C, *v_new = q + 2 * C;
    size_t head = ((size_t)b * NH + h) * S * HS;
    for (int d = threadIdx.x; d < HS; d += blockDim.x) {        /* for later calls; this one takes them from qkv */
        k_cache[head + (size_t)n * HS + d] = k_new[d];
        v_cache[head + (size_t)n * HS + d] = v_new[d];
    }
    float query[MOST_PACKS][WIDTH], acc[MOST_PACKS][WIDTH] = {}, v[WIDTH], top = -INFINITY, total = 0.0f;
    for (int i = 0; i < MOST_PACKS; i++) load_pack(query[i], q + min(mine + i * lanes * WIDTH, HS), HS - mine - i * lanes * WIDTH, packed && mine + i * lanes * WIDTH < HS);
    for (int j0 = 0; j0 <= n; j0 += groups) {           /* as often for every lane: they meet in the shuffles */
        int j = j0 + group;
        const real *key = j < n ? k_cache + head + (size_t)j * HS : k_new, *value = j < n ? v_cache + head + (size_t)j * HS : v_new;
        float s = 0.0f;
        for (int i = 0, d = mine; i < MOST_PACKS && d < HS; i++, d += lanes * WIDTH) {
            load_pack(v, key + d, HS - d, packed);
#pragma unroll
            for (int w = 0; w < WIDTH; w++) s += query[i][w] * v[w];
        }
        for (int l = lanes / 2; l; l >>= 1) s += __shfl_xor_sync(ALL_LANES, s, l);
        if (j > n) continue;                            /* nothing to do for this group in the last round */
        s *= scale;
        float new_top = fmaxf(top, s), p = __expf(s - new_top), shrink = __expf(top - new_top);
        top = new_top, total = total * shrink + p;
        for (int i = 0, d = mine; i < MOST_PACKS && d < HS; i++, d += lanes * WIDTH) {
            load_pack(v, value + d, HS - d, packed);
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
        for (int i = 0; i < groups; i++) {              /* a group without keys has maximum -inf, and counts 0 */
            float by = __expf(merged[i * (HS + 2) + HS] - most);
            sum += by * merged[i * (HS + 2) + d];
            all += by * merged[i * (HS + 2) + HS + 1];
        }
        from_float(sum / all, &o[(size_t)b * C + h * HS + d]);
    }
}
