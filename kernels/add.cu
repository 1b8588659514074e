/* add.cu: x <- x + more, of two ways that a gradient comes down
   spec: operations.add_to
   x, more (n,) real, any n. Moves 3 n numbers: memory bound, floor = bytes / bandwidth. */

/* One thread, WIDTH numbers that lie together. */
extern "C" __global__ void add_to(real *x, const real *more, long long n) {
    long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * WIDTH;
    if (i >= n) return;
    int left = (int)min(n - i, (long long)WIDTH);
    float v[WIDTH], u[WIDTH];
    load_pack(v, x + i, left, left == WIDTH), load_pack(u, more + i, left, left == WIDTH);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) v[k] += u[k];
    store_pack(x + i, v, left, left == WIDTH);
}
