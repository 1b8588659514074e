/* embedding.cu: x[i] = wte[token[i]] + wpe[position[i]], of which the latter may be missing (null)
   and backward table[v] += the sum of dx over the rows where v was looked up
   spec: gpt.embedding_forward, gpt.embedding_backward
   tokens, positions (N,) int; wte (V,C), wpe (P,C), dx, x (N,C) real; the gradients of the tables
   float. Any N, C >= 1.
   Forward moves 3 N C numbers, backward about N C: memory bound, floor = bytes / bandwidth.
   Forward: one thread per 16 bytes. Backward v1: one thread per number of the table, reading all
   indices. v2: the rows come sorted by index; a block sums the rows of one index, its warps taking
   turns, and adds up the warps in order. */

/* One thread, WIDTH columns of one row. */
extern "C" __global__ void embedding_forward(const int *tokens, const int *positions,
        const real *wte, const real *wpe, real *x, int N, int C) {
    int packs = (C + WIDTH - 1) / WIDTH;
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)N * packs) return;
    int row = (int)(i / packs), c = (int)(i % packs) * WIDTH;
    float v[WIDTH], more[WIDTH];
    load_pack(v, wte + (size_t)tokens[row] * C + c, C - c, PACKED);
    if (wpe) {
        load_pack(more, wpe + (size_t)positions[row] * C + c, C - c, PACKED);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) v[k] += more[k];
    }
    store_pack(x + (size_t)row * C + c, v, C - c, PACKED);
}

/* One thread, one number of the table. */
extern "C" __global__ void embedding_backward_v1(const real *dx, const int *indices, float *table,
        int N, int V, int C) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)V * C) return;
    int v = (int)(i / C), c = (int)(i % C);
    float sum = 0.0f;
    for (int row = 0; row < N; row++)
        if (indices[row] == v) sum += to_float(dx[(size_t)row * C + c]);
    table[i] += sum;
}

/* Block (j, g): the rows order[starts[j]] .. order[starts[j+1]-1], all looked up at values[j]; lane
   l sums WIDTH columns of the g-th 32*WIDTH. Warps take every warps-th row. There are as many
   blocks as rows; the first without rows of its own has starts[j] = N, and the values behind it do
   not matter: so one recorded launch serves every batch. */
extern "C" __global__ void embedding_backward_v2(const real *dx, const int *order,
        const int *starts, const int *values, float *table, int N, int C) {
    DYNAMIC_SHARED(float, sums);                        /* (warps, STRIP) */
    int lane = threadIdx.x % 32, warps = blockDim.x / 32, c = (blockIdx.y * 32 + lane) * WIDTH;
    int first = starts[blockIdx.x] + threadIdx.x / 32,
        rows = count(first, starts[blockIdx.x + 1], warps);
    float sum[WIDTH] = {}, v[WIDTH];
    if (starts[blockIdx.x] == N) return;                /* the whole block */
    if (c < C)
#pragma unroll 4
        for (int i = 0; i < rows; i++) {
            load_pack(v, dx + (size_t)order[first + i * warps] * C + c, C - c, PACKED);
#pragma unroll
            for (int k = 0; k < WIDTH; k++) sum[k] += v[k];
        }
    leave_sums(sums, sum);
    __syncthreads();                                    /* all warps have left their sums */
    for (int i = threadIdx.x; i < 32 * WIDTH; i += blockDim.x) {
        int column = blockIdx.y * 32 * WIDTH + i;
        float *to = table + (size_t)values[blockIdx.x] * C + column;
        if (column < C) *to = add_sums(*to, sums, i);
    }
}

/* dwpe[t] = the sum of dx[b, t] over the batch, 0 from t = T on; add: to what dwpe holds. One
   thread, one number. */
extern "C" __global__ void position_backward(const real *dx, float *dwpe, int B, int T, int P,
        int C, int add) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)P * C) return;
    float sum = add ? dwpe[i] : 0.0f;
    if (i < (long long)T * C)
#pragma unroll 8
        for (int b = 0; b < B; b++) sum += to_float(dx[(long long)b * T * C + i]);
    dwpe[i] = sum;
}
