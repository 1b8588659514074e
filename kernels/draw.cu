/* draw.cu: one token for each row of logits z (B,stride), of which the first V are tokens
   spec: chat/generate.py, probabilities and draw
       weight of a token     e_v = exp((z_v - max z) / temperature), and 0 where it is left out:
         top_k    of z_v below the k-th largest; equal ones all stay
         top_p    of those behind the likeliest that have the share top_p together, in the order of
                  falling z_v and, of equal ones, of rising v
         min_p    of e_v below min_p, since the largest is 1
       token                 the first v whose e_0 + ... + e_v is above u (e_0 + ... + e_V-1)
       logp                  log(e_token / sum of e)
   With temperature 0 it is the first of the largest. settings (5,B) double: temperature, top_k (0:
   all), top_p, min_p, and u in [0,1); hidden (V,) float is added to z, or null; tokens (B,) int,
   logp (B,) float.
   A block has a row, a warp a span of neighbours, so that sums over spans are in the order of v:

       v       0 ................ V-1
       warp    0 0 0 1 1 1 2 2 2 3 3       lane l of a warp takes each 32nd number of its span

   Sums are in double, as on the CPU; e is in float. A threshold is found bit by bit: as many rounds
   over the row as a number has bits, and no atomics. The row lies in the cache, so the time is that
   of the arithmetic. */

#define MOST_WARPS 32
#ifdef BF16
#define RANK_BITS 16            /* the rest is the same for all numbers of a sign */
#else
#define RANK_BITS 32
#endif

/* A float as a number that is ordered alike: larger floats have larger numbers. */
__device__ __forceinline__ unsigned rank_of(float x) {
    unsigned bits = __float_as_uint(x);
    return (bits >> 31 ? ~bits : bits | 0x80000000u) >> (32 - RANK_BITS);
}

/* The spans of a row that the warps have, and a place for what each found. */
struct Spans {
    int begin, end, warps;
    double *of_warps;
};

/* The sum of weight(v) over the row, which every thread gets. */
template <class Weight> __device__ __forceinline__ double row_sum(const Spans &s, Weight weight) {
    double sum = 0.0;
    for (int v = s.begin + threadIdx.x % 32; v < s.end; v += 32) sum += weight(v);
    for (int lanes = 16; lanes; lanes >>= 1) sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
    __syncthreads();                                /* nobody reads the sums of the last call */
    if (threadIdx.x % 32 == 0) s.of_warps[threadIdx.x / 32] = sum;
    __syncthreads();                                /* the sums of all warps are there */
    sum = 0.0;
    for (int w = 0; w < s.warps; w++) sum += s.of_warps[w];
    return sum;
}

/* The smallest number t for which weight(v), summed over all v with rank(v) > t, is below limit. */
template <class Rank, class Weight> __device__ __forceinline__ unsigned threshold(const Spans &s,
        double limit, Rank rank, Weight weight) {
    unsigned t = 0xffffffffu >> (32 - RANK_BITS);   /* nothing is above it */
    for (unsigned bit = 1u << (RANK_BITS - 1); bit; bit >>= 1) {
        unsigned lower = t & ~bit;
        double above = row_sum(s, [&](int v) { return rank(v) > lower ? weight(v) : 0.0; });
        if (above < limit) t = lower;
    }
    return t;
}

/* The first v whose weights up to it have a sum above target; where rounding leaves none, the last
   one with a weight. */
template <class Weight> __device__ __forceinline__ int first_past(const Spans &s, int V,
        double target, int *found, Weight weight) {
    row_sum(s, weight);                             /* leaves what each warp has in of_warps */
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    double before = 0.0;
    for (int w = 0; w < warp; w++) before += s.of_warps[w];
    int first = V, last = -1;                       /* that the warp finds */
    for (int v0 = s.begin; v0 < s.end && first == V; v0 += 32) {
        int v = v0 + lane;
        double mine = v < s.end ? weight(v) : 0.0, upto = mine;
        for (int lanes = 1; lanes < 32; lanes *= 2) {       /* sums of the lanes up to this one */
            double left = __shfl_sync(ALL_LANES, upto, max(lane - lanes, 0));
            if (lane >= lanes) upto += left;
        }
        first = mine > 0.0 && before + upto > target ? v : V;
        int with_weight = mine > 0.0 ? v : -1;
        for (int lanes = 16; lanes; lanes >>= 1) {
            first = min(first, __shfl_xor_sync(ALL_LANES, first, lanes));
            with_weight = max(with_weight, __shfl_xor_sync(ALL_LANES, with_weight, lanes));
        }
        last = max(last, with_weight);
        before += __shfl_sync(ALL_LANES, upto, 31);
    }
    if (lane == 0) found[warp] = first, found[MOST_WARPS + warp] = last;
    __syncthreads();                                /* what all warps found is there */
    for (int w = 0; w < s.warps; w++)
        first = min(first, found[w]), last = max(last, found[MOST_WARPS + w]);
    __syncthreads();                                /* and everybody has read it */
    return first < V ? first : last;
}

extern "C" __global__ void draw(const real *z, const double *settings, const float *hidden,
        int *tokens, float *logp, int B, int V, int stride) {
    __shared__ double of_warps[MOST_WARPS];
    __shared__ float tops[MOST_WARPS];
    __shared__ int found[2 * MOST_WARPS];
    int row = blockIdx.x, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    int span = (V + 32 * warps - 1) / (32 * warps) * 32;
    Spans s = {min(warp * span, V), min((warp + 1) * span, V), warps, of_warps};
    double temperature = settings[row], top_k = settings[B + row], top_p = settings[2 * B + row],
        min_p = settings[3 * B + row], u = settings[4 * B + row];
    z += (size_t)row * stride;
    auto logit = [&](int v) { return to_float(z[v]) + (hidden ? hidden[v] : 0.0f); };

    float top = -INFINITY;
    for (int v = s.begin + threadIdx.x % 32; v < s.end; v += 32) top = fmaxf(top, logit(v));
    top = warp_max(top);
    if (threadIdx.x % 32 == 0) tops[warp] = top;
    __syncthreads();                                /* the maxima of all warps are there */
    for (int w = 0; w < warps; w++) top = fmaxf(top, tops[w]);

    bool greedy = temperature == 0.0;
    float by = greedy ? 1.0f : (float)(1.0 / temperature);
    auto e = [&](int v) { return (double)expf((logit(v) - top) * by); };
    auto rank = [&](int v) { return rank_of(logit(v)); };
    unsigned least = 0;                             /* tokens of a lower rank are left out, */
    int last_tie = V;                               /* and of this rank those behind last_tie */
    if (greedy) least = rank_of(top);
    if (!greedy && top_k > 0.0 && top_k < V)
        least = threshold(s, top_k, rank, [&](int) { return 1.0; });
    if (!greedy && top_p < 1.0) {
        auto kept = [&](int v) { return rank(v) >= least ? e(v) : 0.0; };
        double limit = top_p * row_sum(s, kept);
        least = threshold(s, limit, rank, kept);    /* no lower than before: kept is 0 below */
        double above = row_sum(s, [&](int v) { return rank(v) > least ? e(v) : 0.0; });
        auto is_tie = [&](int v) { return rank(v) == least ? 1.0 : 0.0; };
        auto of_ties = [&](int v) { return rank(v) == least ? e(v) : 0.0; };
        double ties = row_sum(s, is_tie), of_each = row_sum(s, of_ties) / fmax(ties, 1.0);
        /* tie number i stays while above + i of_each < limit */
        double stay = fmin(ties, ceil((limit - above) / of_each));
        last_tie = first_past(s, V, stay - 0.5, found, is_tie);
    }
    auto weight = [&](int v) {
        unsigned r = rank(v);
        if (r < least || (r == least && v > last_tie)) return 0.0;
        if (greedy) return 1.0;
        double x = e(v);
        return x < min_p ? 0.0 : x;
    };
    double total = row_sum(s, weight);
    int token = first_past(s, V, greedy ? 0.0 : u * total, found, weight);
    if (threadIdx.x == 0) {
        tokens[row] = token;
        logp[row] = greedy ? 0.0f : (float)log(e(token) / total);
    }
}
