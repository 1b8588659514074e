/* convert.cu: float32 to real and back, for weights that come from a file and results that go to one.
   to_real: y <- x, to the nearest, ties to even. to_float32: exact. Moves 6 bytes a number in bfloat16: memory bound. */

/* One thread, one number. */
extern "C" __global__ void to_real(const float *x, real *y, long long n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) from_float(x[i], &y[i]);
}

extern "C" __global__ void to_float32(const real *x, float *y, long long n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = to_float(x[i]);
}
