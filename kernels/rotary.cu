/* rotary.cu: a <- a cos - b sin,  b <- b cos + a sin  for the pairs a = x_i, b = x_{i + HS/2} of a
   head, by the angle of its row's position
   spec: llama.rotary_forward, and llama.rotary_backward with the sine's sign turned
   x (N,stride) real, in place, of which the first `turned` heads of HS columns are turned;
   positions (N,) int; table (P,HS) float: the cosines, then the sines. Any N >= 1, HS even.
   Moves 2 N turned HS numbers, and reads the table from a cache: memory bound, floor = bytes /
   bandwidth.
   One version: a thread has WIDTH pairs, 16 bytes of either half. PACKED is for HS/2 here. */

__device__ __forceinline__ void load_floats(float *v, const float *p, int n) {
#pragma unroll
    for (int k = 0; k < WIDTH; k += 4) {
        if (PACKED) *(float4 *)&v[k] = *(const float4 *)&p[k];
        else
            for (int i = k; i < k + 4; i++) v[i] = i < n ? p[i] : 0.0f;
    }
}

extern "C" __global__ void rotary(real *x, const int *positions, const float *table, int N,
        int turned, int stride, int HS, float sign) {
    int half = HS / 2, packs = (half + WIDTH - 1) / WIDTH;
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)N * turned * packs) return;
    int c = (int)(i % packs) * WIDTH, head = (int)(i / packs % turned);
    int row = (int)(i / packs / turned), left = half - c;
    real *at = x + (size_t)row * stride + head * HS + c;
    const float *angle = table + (size_t)positions[row] * HS + c;
    float a[WIDTH], b[WIDTH], u[WIDTH], v[WIDTH];
    __align__(16) float cosine[WIDTH];
    __align__(16) float sine[WIDTH];
    load_pack(a, at, left, PACKED), load_pack(b, at + half, left, PACKED);
    load_floats(cosine, angle, left), load_floats(sine, angle + half, left);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) {
        float s = sign * sine[k];
        u[k] = a[k] * cosine[k] - b[k] * s;
        v[k] = b[k] * cosine[k] + a[k] * s;
    }
    store_pack(at, u, left, PACKED), store_pack(at + half, v, left, PACKED);
}
