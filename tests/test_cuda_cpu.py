"""tests/cuda: does the CPU that plays GPU find the faults that are planted in kernels?"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "cuda"))
import cupy_cpu as cp
import ptx_cpu
import test_kernels  # noqa: F401   it puts the stand-in in CuPy's place, before kernels is imported

pytestmark = pytest.mark.skipif(cp.MISSING is not None,
                                reason=f"the CPU that plays GPU needs {cp.MISSING}")

FAULTS = r"""
extern "C" __global__ void reverse(const float *x, float *y, int barrier) {
    __shared__ float kept[64];
    kept[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
    if (barrier) __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = kept[63 - threadIdx.x];
}
extern "C" __global__ void write_at(float *y, int i) { if (threadIdx.x == 0) y[i] = 1.0f; }
extern "C" __global__ void read_at(const float *x, float *y, int i) {
    if (threadIdx.x == 0) y[0] = x[i];
}
extern "C" __global__ void last_one_wins(float *y) { y[0] = threadIdx.x; }
extern "C" __global__ void blocks_add(float *y) {
    if (threadIdx.x == 0) y[0] = y[0] * 2.0f + blockIdx.x;
}
extern "C" __global__ void some_wait(float *y) {
    if (threadIdx.x < 40) __syncthreads();
    y[threadIdx.x] = 1.0f;
}
extern "C" __global__ void half_a_warp(float *y) {
    if (threadIdx.x < 16) y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}
extern "C" __global__ void half_a_mask(float *y) {
    y[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, 1.0f, 1);
}
extern "C" __global__ void unwritten(float *y) {
    __shared__ float s[32];
    if (threadIdx.x) s[threadIdx.x] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void dynamic(float *y, int n) {
    float *s = (float *)cuda_cpu::m.dynamic;
    s[n] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = s[0];
}
extern "C" __global__ void where(int *y) {
    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int i = (block * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    y[i] = i * 32 + __shfl_sync(0xffffffffu, (int)threadIdx.x, 5);
}
extern "C" __global__ void votes(unsigned *y) {
    y[threadIdx.x] = __ballot_sync(0xffffffffu, threadIdx.x % 3 == 0);
}
"""


@pytest.fixture(scope="module")
def run():
    module = cp.RawModule(code=FAULTS)

    def launch(name, *args, grid=(1,), block=(64,), shared=0):
        module.get_function(name)(grid, block, args, shared_mem=shared)

    return launch


def test_a_right_kernel_runs(run):
    x, y = cp.asarray(np.arange(128, dtype=np.float32)), cp.empty((128,))
    run("reverse", x, y, np.int32(1), grid=(2,))
    np.testing.assert_array_equal(y.get(), np.arange(128).reshape(2, 64)[:, ::-1].ravel())
    z = cp.empty((2 * 3 * 2 * 64,), np.int32)
    run("where", z, grid=(2, 3, 2), block=(32, 2))
    np.testing.assert_array_equal(z.get(), np.arange(768) * 32 + 5)
    v = cp.empty((64,), np.uint32)
    run("votes", v)
    v = v.get()
    assert set(v[:32].tolist()) == {sum(1 << i for i in range(0, 32, 3))}
    assert v[32] == sum(1 << i for i in range(1, 32, 3))        # 33, 36, ... divide by three


def test_a_missing_barrier_is_a_race(run):
    with pytest.raises(RuntimeError, match="reverse: a race"):
        run("reverse", cp.asarray(np.arange(64, dtype=np.float32)), cp.empty((64,)), np.int32(0))


def test_races_between_threads_and_between_blocks(run):
    with pytest.raises(RuntimeError, match="last_one_wins: a race"):
        run("last_one_wins", cp.empty((1,)))
    with pytest.raises(RuntimeError, match="blocks_add: a race"):
        run("blocks_add", cp.zeros((1,)), grid=(4,))


@pytest.mark.parametrize("n", [4, 4096, 5000])
def test_an_access_outside_an_array(run, n):
    x, y = cp.zeros((n,)), cp.zeros((1,))
    run("write_at", x, np.int32(n - 1))
    assert x.get()[-1] == 1.0
    with pytest.raises(
        RuntimeError, match=r"write_at: block \(0,0,0\) thread \(0,0,0\): access outside an array"
    ):
        run("write_at", x, np.int32(n))
    with pytest.raises(RuntimeError, match="read_at: .*access outside an array"):
        run("read_at", x, y, np.int32(n))
    run("read_at", x, y, np.int32(0))  # and the next launch is none the worse
    run("dynamic", cp.empty((64,)), np.int32(0), shared=256)
    with pytest.raises(RuntimeError, match="dynamic: .*access outside an array"):
        run("dynamic", cp.empty((64,)), np.int32(64), shared=256)


def test_an_access_right_behind_an_array_of_odd_size(run):
    x, y = cp.zeros((31,)), cp.zeros((4,))
    run("read_at", x, y, np.int32(31))
    assert np.isnan(y.get()[0])  # what lies there is nobody's, and shows in the result
    with pytest.raises(RuntimeError,
                       match="write_at: access outside an array: it wrote right behind its end"):
        run("write_at", x, np.int32(31))


def test_threads_that_wait_for_ever(run):
    with pytest.raises(
        RuntimeError,
        match="40 threads of the block are at __syncthreads, 0 at a warp-wide operation, "
        "24 have ended",
    ):
        run("some_wait", cp.empty((64,)))
    with pytest.raises(
        RuntimeError,
        match="0 threads of the block are at __syncthreads, 16 at a warp-wide operation, "
        "48 have ended",
    ):
        run("half_a_warp", cp.empty((64,)))
    with pytest.raises(RuntimeError, match="a warp-wide operation without all 32 lanes"):
        run("half_a_mask", cp.empty((64,)))


def test_shared_memory_starts_as_nan(run):
    y = cp.zeros((32,))
    run("unwritten", y, block=(32,))
    assert np.isnan(y.get()[0]) and (y.get()[1:] == 1.0).all()


def test_what_a_launch_refuses(run):
    x = cp.zeros((4,))
    with pytest.raises(TypeError,
                       match="argument 3 is a int; CuPy would pass a Python number as 64 bits"):
        run("write_at", x, 3)
    with pytest.raises(TypeError, match="takes 2 arguments, 1 were given"):
        run("write_at", x)
    with pytest.raises(RuntimeError, match="cannot launch blocks of 2048 threads"):
        run("write_at", x, np.int32(0), block=(2048,))
    with pytest.raises(RuntimeError, match="100000 bytes of shared memory, 49152 were asked for"):
        run("dynamic", x, np.int32(0), shared=100000)
    with pytest.raises(RuntimeError, match=r"blocks of 64 threads on a grid of \(1, 65536\)"):
        run("write_at", x, np.int32(0), grid=(1, 65536))
    with pytest.raises(RuntimeError, match=r"blocks of 64 threads on a grid of \(0,\)"):
        run("write_at", x, np.int32(0), grid=(0,))


@pytest.mark.parametrize("kilobytes", [48, 64, 99, 163, 227])
def test_a_device_with_so_much_shared_memory(kilobytes, monkeypatch):
    monkeypatch.setitem(cp.ATTRIBUTES, "MaxSharedMemoryPerBlockOptin", kilobytes << 10)
    assert cp.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"] == kilobytes << 10
    kernel, x = cp.RawModule(code=FAULTS).get_function("dynamic"), cp.empty((64,))
    most = kilobytes << 10
    with pytest.raises(RuntimeError, match=f"{most + 1} bytes of shared memory, {most} are there"):
        kernel.max_dynamic_shared_size_bytes = most + 1
    kernel.max_dynamic_shared_size_bytes = most
    kernel((1,), (64,), (x, np.int32(0)), shared_mem=most)
    monkeypatch.setitem(cp.ATTRIBUTES, "MaxSharedMemoryPerBlockOptin", 48 << 10)
    if kilobytes > 48:
        with pytest.raises(RuntimeError, match="bytes of shared memory"):
            kernel((1,), (64,), (x, np.int32(0)), shared_mem=most)


def test_without_a_compiler_the_tests_of_kernels_skip(tmp_path):
    files = [HERE / "test_kernels.py", HERE / "test_device.py"]
    program = ("import sys; sys.modules['cupy'] = None; import pytest; "
               "sys.exit(pytest.main(['-q', '-rs', '-p', 'no:cacheprovider', *sys.argv[1:]]))")
    env = {k: v for k, v in os.environ.items() if k != "LONGHAND_GPU"}
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True,
                          cwd=HERE.parent, env={**env, "PATH": str(tmp_path)})
    assert "2 skipped" in done.stdout and "needs g++" in done.stdout, done.stdout + done.stderr
    assert "failed" not in done.stdout and "error" not in done.stdout


PTX = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry halve(
    .param .u64 halve_param_0,
    .param .u32 halve_param_1
)
{
    .reg .pred %p<2>;
    .reg .f32 %f<4>;
    .reg .f64 %fd<3>;
    .reg .b32 %r<7>;
    .reg .b64 %rd<5>;
    .shared .align 4 .b8 kept[4096];
    ld.param.u64 %rd1, [halve_param_0];
    ld.param.u32 %r2, [halve_param_1];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 8;  // every second number
    add.s64 %rd4, %rd2, %rd3;
    ld.global.f32 %f1, [%rd4+4];
    shl.b32 %r3, %r1, 7;        // a column of a table of 32 by 32: one bank
    mov.u32 %r4, kept;
    add.s32 %r5, %r4, %r3;
    st.shared.f32 [%r5], %f1;
    bar.sync 0;
    ld.shared.f32 %f2, [%r5];
    cvt.f64.f32 %fd1, %f2;      // there and back: two in double precision
    mov.f64 %fd2, %fd1;
    cvt.rn.f32.f64 %f2, %fd2;
    setp.ge.s32 %p1, %r1, %r2;
    @%p1 bra $L__BB0_2;
    mul.ftz.f32 %f3, %f2, 0f3F000000;
    st.global.f32 [%rd4+4], %f3;
$L__BB0_2:
    ret;
}
"""


def test_ptx_runs_and_is_counted(monkeypatch):
    monkeypatch.setenv("LONGHAND_PTX", "counts")
    monkeypatch.setattr(ptx_cpu, "compiled", lambda *_: (PTX, ""))
    x = cp.asarray(np.arange(64, dtype=np.float32))
    cp.RawModule(code="").get_function("halve")((1,), (32,), (x, np.int32(16)))
    np.testing.assert_array_equal(x.get(),
                                  np.where(np.arange(64) % 2 * (np.arange(64) < 32),
                                           np.arange(64) / 2, np.arange(64)))
    instructions, moved, wanted, taken, needed, doubles = cp.COUNTS["halve"]
    assert instructions == 32 * 19 + 16 * 2  # the halves skip two
    assert doubles == 32 * 2
    assert (moved, wanted) == (8 * 32 + 4 * 32, 32 * 4 + 16 * 4)
    assert (taken, needed) == (2 * 32, 2)


ROUNDINGS = """
    cvt.rni.f32.f32 %f3, %f2;
    cvt.rzi.f32.f32 %f4, %f2;
    fma.rn.f32 %f3, %f3, 0f41200000, %f4;   // times ten, and the next
    cvt.rmi.f32.f32 %f4, %f2;
    fma.rn.f32 %f3, %f3, 0f41200000, %f4;
    cvt.rpi.f32.f32 %f4, %f2;
    fma.rn.f32 %f3, %f3, 0f41200000, %f4;
"""


def test_ptx_rounds_to_whole_numbers(monkeypatch):
    """To the nearest and to even, towards zero, down, up: the four digits of what is written."""
    ptx = PTX.replace("    mul.ftz.f32 %f3, %f2, 0f3F000000;\n", ROUNDINGS)
    ptx = ptx.replace("%f<4>", "%f<5>")
    monkeypatch.setenv("LONGHAND_PTX", "1")
    monkeypatch.setattr(ptx_cpu, "compiled", lambda *_: (ptx, ""))
    given = np.array([-2.7, -2.5, -1.5, -0.5, 0.5, 1.5, 2.0, 2.2], np.float32)
    x = cp.asarray(np.repeat(given, 8))         # every second number is taken
    cp.RawModule(code="").get_function("halve")((1,), (32,), (x, np.int32(32)))
    digits = [np.rint(given), np.trunc(given), np.floor(given), np.ceil(given)]
    want = sum(10 ** (3 - i) * digit for i, digit in enumerate(digits))
    np.testing.assert_array_equal(x.get()[1::8], want)


@pytest.mark.parametrize("line",
                         ["mul.rz.f32 %f3, %f2, %f2;", "tanh.approx.f32 %f3, %f2;",
                          "cvt.rzi.s32.f32 %r3, %f2;", "setp.eq.and.s32 %p1, %r1, %r2, %p1;",
                          "atom.global.add.f32 %f3, [%rd4], %f2;"])
def test_ptx_that_nobody_knows_is_refused(line):
    with pytest.raises(NotImplementedError, match=re.escape(line.split()[0])):
        ptx_cpu.translate(PTX.replace("bar.sync 0;", line))
