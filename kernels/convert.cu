/* convert.cu: float32 to real, for weights that come from a file.
   y <- x, to the nearest, ties to even
   Moves 6 bytes a number in bfloat16: memory bound. */

/* One thread, one number. */
extern "C" __global__ void to_real(const float *x, real *y, long long n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) from_float(x[i], &y[i]);
}
