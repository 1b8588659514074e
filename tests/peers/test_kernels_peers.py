"""kernels/ beside NVIDIA's compiler and beside transformers.

What the compiler makes of the kernels, run on a CPU (tests/cuda/ptx_cpu.py), passes the tests that
their source passes. transformers, which looks for a package named kernels, can be imported.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpt
from model import llama

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "cuda"))
import cupy_cpu as cp  # noqa: E402
import ptx_cpu  # noqa: E402

needs_nvrtc = pytest.mark.skipif(cp.MISSING is not None or not ptx_cpu.nvrtc(),
                                 reason=f"needs NVRTC and {cp.MISSING or 'g++'}")
COMMON = (ROOT / "kernels" / "common.cuh").read_text()

# All that common.cuh has in assembly, in one kernel of one warp: y = x w and z = x w^T of (16,16)
# matrices in bfloat16, and one number as a bfloat16.
ASSEMBLY = r"""
extern "C" __global__ void products(const bf16 *x, const bf16 *w, const float *one,
                                    float *y, float *z, unsigned *rounded) {
    __shared__ __align__(16) bf16 xs[16 * 16], ws[16 * 16];
    __shared__ float ones[32];
    int lane = threadIdx.x, row = lane % 16 * 16 + lane / 16 * 8;
    cp_async_16(xs + 8 * lane, x + 8 * lane, 16);
    cp_async_16(ws + 8 * lane, w + 8 * lane, 16);
    cp_async_commit();
    cp_async_4(ones + lane, one + lane, lane < 16 ? 4 : 0);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    unsigned a[4], b[4];
    ldmatrix_x4(a, xs + row);
    ldmatrix_x4_trans(b, ws + row);
    float left[4] = {}, right[4] = {};
    mma_bf16(left, a, b), mma_bf16(right, a, b + 2);
    for (int i = 0; i < 4; i++) {
        int at = (lane / 4 + i / 2 * 8) * 16 + lane % 4 * 2 + i % 2;
        y[at] = left[i], y[at + 8] = right[i], left[i] = right[i] = 0.0f;
    }
    ldmatrix_x4(b, ws + (lane % 8 + lane / 16 * 8) * 16 + lane / 8 % 2 * 8);
    mma_bf16(left, a, b), mma_bf16(right, a, b + 2);
    for (int i = 0; i < 4; i++) {
        int at = (lane / 4 + i / 2 * 8) * 16 + lane % 4 * 2 + i % 2;
        z[at] = left[i], z[at + 8] = right[i];
    }
    bf16 r;
    from_float(ones[lane], &r);
    rounded[lane] = pack_bf16(ones[lane], 1.0f) + r.bits;
}
"""


@pytest.fixture
def the_compilers_output(monkeypatch):
    monkeypatch.setenv("LONGHAND_PTX", "1")


def products(common):
    """Whether that kernel gives the right products and the right roundings."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 16, 16)).astype(np.float32).view(np.uint32) & 0xFFFF0000
    x, w = values.view(np.float32).astype(np.float64)
    one = rng.standard_normal(32).astype(np.float32)
    y, z, rounded = cp.zeros((16, 16)), cp.zeros((16, 16)), cp.zeros((32,), np.uint32)
    module = cp.RawModule(code=common + ASSEMBLY, options=("-DBF16",))
    given = [cp.asarray((v >> 16).astype(np.uint16)) for v in values]
    module.get_function("products")((1,), (32,), (*given, cp.asarray(one), y, z, rounded))
    bits = np.where(np.arange(32) < 16, one, 0.0).astype(np.float32).view(np.uint32)
    bits = bits.astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    right = np.allclose(y.get(), x @ w, atol=1e-5) and np.allclose(z.get(), x @ w.T, atol=1e-5)
    want = (bits + (0x3F80 << 16) + bits) & 0xFFFFFFFF
    return right and np.array_equal(rounded.get(), want)


@needs_nvrtc
def test_assembly_does_what_its_twins_do(monkeypatch):
    assert products(COMMON)
    monkeypatch.setenv("LONGHAND_PTX", "1")
    assert products(COMMON)


@needs_nvrtc
@pytest.mark.parametrize("right, wrong", [
    ('"=r"(r) : "f"(high), "f"(low)', '"=r"(r) : "f"(low), "f"(high)'),
    ('"r"(b[0]), "r"(b[1]))', '"r"(b[1]), "r"(b[0]))'),
    ('"r"(a[0]), "r"(a[1])', '"r"(a[1]), "r"(a[0])'),
    ("m8n8.x4.trans.shared", "m8n8.x4.shared"),
    ("{%0,%1,%2,%3}, [%4]", "{%0,%2,%1,%3}, [%4]"),
    ("[%1], 4, %2;", "[%1], 4, 4;"),
    ("cp.async.wait_group %0;", ""),
    ("cvt.rn.bf16.f32 %0", "cvt.rz.bf16.f32 %0"),
])
def test_mistakes_in_assembly_are_found(right, wrong, the_compilers_output):
    assert right in COMMON
    try:
        assert not products(COMMON.replace(right, wrong))
    except (RuntimeError, NotImplementedError):     # the compiler, a trap, an unknown instruction
        pass


# Beside what all are compiled with. The third and fourth have 768 columns, the fifth four query
# heads for a head of keys and 4096 columns, the last rows of several texts, and pages.
VARIANTS = [
    (),
    ("-DBF16",),
    ("-DPACKED=1", "-DPACKS=6"),
    ("-DBF16", "-DPACKED=1", "-DPACKS=3"),
    ("-DBF16", "-DGROUP=4", "-DHEADS=4", "-DLANES=128", "-DPACKS=4"),
    ("-DBF16", "-DTEXTS=1", "-DPAGE=64"),
]


def compiled_files(options):
    """(the .cu files that are compiled with such options, all options). Attention, which takes
    longest, never has PACKED."""
    sys.path.insert(0, str(ROOT / "tests"))
    import test_kernels     # noqa: F401    it puts the stand-in in CuPy's place
    from kernels import launching
    paths = [p for p in sorted((ROOT / "kernels").glob("*.cu"))
             if p.name != "attention.cu" or "-DPACKED=1" not in options]
    return paths, launching.SHARED_NAMES + options


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
@pytest.mark.parametrize("options, capability", [((), 75), (("-DBF16",), 80)])
def test_the_kernels_compile_for_the_oldest_gpus(tmp_path, options, capability):
    """Turing computes in float32 alone."""
    paths, options = compiled_files(options)
    source = tmp_path / "all.cu"
    source.write_text(COMMON + "".join(p.read_text() for p in paths))
    arch = f"-gencode=arch=compute_{capability},code=sm_{capability}"
    done = subprocess.run(["nvcc", "--fatbin", "--std=c++17", "--threads", "2", arch, *options,
                           "-o", tmp_path / "all.fatbin", source],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr


@needs_nvrtc
@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
def test_the_kernels_compile_as_cupy_compiles_them(arch, options):
    paths, options = compiled_files(options)
    for path in paths:
        _, said = ptx_cpu.compiled(COMMON + path.read_text(), options, arch)
        assert not said, f"{path.name}: {said}"


def run(*words, **environment):
    """The output of a Python process in the checkout, which must end well."""
    env = {name: value for name, value in os.environ.items() if name != "LONGHAND_GPU"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT,
                          env={**env, **environment})
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@needs_nvrtc
@pytest.mark.parametrize("file", [
    "test_kernels.py", "test_kernels_llama.py", "test_attention.py", "test_draw.py",
    "test_device.py", "test_device_training.py", "test_device_tuning.py",
])
def test_the_compilers_output_passes(file, the_compilers_output):
    """Not on a GPU: CuPy cannot be imported."""
    program = ("import sys; sys.modules['cupy'] = None; import pytest; "
               "sys.exit(pytest.main(['-q', '-x', sys.argv[1]]))")
    printed = run("-c", program, ROOT / "tests" / file)
    assert " passed" in printed, printed[-4000:]
    print(f"\n{file}, from PTX: {printed.strip().splitlines()[-1]}")


@needs_nvrtc
def test_memory_is_used_well():
    """No bank conflicts where tiles are worked on, and whole sectors of memory."""
    printed = run(ROOT / "tests" / "peers" / "kernel_counts.py")
    print("\n" + printed)
    table = {line.split()[0]: line for line in printed.splitlines()[1:]}
    for kind in ("forward", "backward_q", "backward_kv"):
        for size in (32, 64, 128):
            for group in ("", "/3", "/texts"):
                line = table[f"attention_{kind}_{size}{group}"]
                assert re.search(r"% +([\d.]+) ", line)[1] == "1.00", line
    # Two read an index for every row, one 32 bytes of a table for each lane, in two parts.
    for name, line in table.items():
        if name not in ("embedding_backward_v2", "take_rows", "rotary"):
            assert float(re.search(r"([\d.]+)%", line)[1]) > 95, line


FAMILIES = {
    "GPT-2": lambda n_vocab: gpt.Config(n_vocab, 40, 16, 1, 2),
    "Llama": lambda n_vocab: llama.Config(n_vocab, 40, 16, 1, 2, 1, 8, 24, qk_norm=True),
}
TWENTY_STEPS = {
    "sft": "sft --steps 20 --batch 3 --replay 1",
    "reward": "reward --start base --steps 20 --batch 2",
    "dpo": "dpo --start base --steps 20 --batch 2 --lr 0.001",
    "rl": "rl --start base --reward random --steps 20 --prompts 2 --group 3 --max-tokens 5 "
          "--batch 2 --leash 0.1 --lr 0.001",
}


@pytest.mark.skipif(cp.MISSING is not None, reason=f"needs {cp.MISSING}")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stage", TWENTY_STEPS)
def test_twenty_steps_of_a_stage(family, stage, tmp_path, monkeypatch):
    """In float32 a GPU's losses are the CPU's to 1e-4, and its replies have the same tokens. In
    bfloat16 they are printed side by side."""
    sys.path.insert(0, str(ROOT / "tests"))
    import test_places as t

    found, roll_out = [], t.align.roll_out

    def roll_out_and_keep(*args):
        rollout = roll_out(*args)
        found.append([reply.ids for reply in rollout.replies])
        return rollout

    monkeypatch.setattr(t.align, "roll_out", roll_out_and_keep)
    t.write_run(tmp_path, FAMILIES[family](t.TOK.n_vocab))
    words = TWENTY_STEPS[stage]
    ours = t.learn(tmp_path, words, "cpu")
    theirs = t.learn(tmp_path, words, "gpu", *t.ON_A_GPU)
    t.check_same(ours, theirs)
    assert len(ours) == 20 and found[:20] == found[20:]
    narrow = t.learn(tmp_path, words, "bf16", "--device", "cuda")
    print(f"\n{family} {stage}, losses of the CPU, of float32 and of bfloat16 on a GPU:")
    for rows in zip(ours, theirs, narrow):
        print("  ".join(f"{row['loss_nats']:9.5f}" for row in rows))


# A package named kernels that has every name transformers could ask for.
PACKAGE = """
import sys
def __getattr__(name):
    if name.startswith("_"):
        raise AttributeError(name)
    methods = {"__init__": lambda self, *args: None, "__call__": lambda self, decorated: decorated}
    return type(name, (), methods)
"""


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs torch")
@pytest.mark.parametrize("installed", ["none", "of no use", "of use"])
def test_transformers_is_imported_in_the_checkout(installed, tmp_path):
    """With no package named kernels installed, with one that is too old, and with one it takes."""
    program = """
from transformers import GPT2LMHeadModel
from transformers.utils import import_utils
import kernels
print(import_utils.is_kernels_available(), kernels.__file__, kernels.MOST_HEAD_SIZE)
"""
    if installed != "none":
        from transformers.utils import import_utils
        version = import_utils.KERNELS_MIN_VERSION if installed == "of use" else "0.0.1"
        package, metadata = tmp_path / "kernels", tmp_path / f"kernels-{version}.dist-info"
        package.mkdir()
        metadata.mkdir()
        (package / "__init__.py").write_text(PACKAGE)
        about = f"Metadata-Version: 2.1\nName: kernels\nVersion: {version}\n"
        (metadata / "METADATA").write_text(about)
    printed = run("-c", program, PYTHONPATH=str(tmp_path))
    assert printed == f"{installed == 'of use'} {ROOT / 'kernels' / '__init__.py'} 256\n"
