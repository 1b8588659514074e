"""gpu_speed.py: kernels/ and model/device.py on a GPU beside PyTorch on the same GPU, in one run.

    python tests/peers/gpu_speed.py --out out/gpu.txt       `make gpu` runs this last

A floor is what the operation would take at the copy bandwidth, or, for products, at the rate of
matrix products; both are measured here. Every time is the median over rounds of back-to-back
launches between two events. A part that fails says so, and the others go on.
"""

import argparse
import gc
import json
import statistics
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "peers")]

from model import device, device_training, planning  # noqa: E402  before numpy
import golden  # noqa: E402
import gpt  # noqa: E402
import kernels  # noqa: E402
import numpy as np  # noqa: E402
from run import command  # noqa: E402
import train  # noqa: E402

try:
    import cupy as cp
    import same_losses
    import torch
    import torch.nn.functional as F
    import torch_gpt
    from gpt_speed import TINY
    MISSING = None
except ImportError as error:        # --help needs none of them
    MISSING = error.name

B, T, CFG = 32, 1024, gpt.Config(50257, 1024, 768, 12, 12)      # of the kernel table: GPT-2, 124M
BATCHES = (16, 32, 64, 128)         # micro-batches tried for the training step
WHERE = "cuda"
lines = []                          # all that was said, for the file
peak = {"bandwidth": 0.0, "matrix": 0.0}        # bytes and operations a second, measured


def say(text=""):
    print(text, flush=True)
    lines.append(text)


def time_of(work, rounds=7, times=10):
    """Seconds of one call, on the GPU's own clock, whichever library it belongs to."""
    for _ in range(3):
        work()
    found = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(times):
            work()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / 1e3 / times)
    return statistics.median(found)


def median_s(step, n, warming_up):
    """Seconds of a step that waits for the GPU: the median of n, without the first ones."""
    times = []
    for _ in range(n):
        beginning = time.perf_counter()
        step()
        times.append(time.perf_counter() - beginning)
    return statistics.median(times[warming_up:])


def forget():
    """Give the memory of both libraries back."""
    gc.collect()
    cp.get_default_memory_pool().free_all_blocks()
    torch.cuda.empty_cache()


def as_cupy(t):
    """A PyTorch tensor as a CuPy array; bfloat16 as its bits."""
    if t.dtype == torch.bfloat16:
        return cp.asarray(t.view(torch.int16)).view(np.uint16)
    return cp.asarray(t)


def both(*shape):
    """(CuPy array, PyTorch tensor) of the same random bfloat16 numbers in the same memory."""
    t = torch.randn(*shape, device=WHERE, dtype=torch.bfloat16)
    return as_cupy(t), t


def floats(*shape):
    """A CuPy array of zeros in float32."""
    return cp.zeros(shape, np.float32)


def measure_peaks():
    """The rates that floors are reckoned with."""
    a = torch.empty(1 << 29, dtype=torch.uint8, device=WHERE)
    b = torch.empty_like(a)
    peak["bandwidth"] = 2 * a.numel() / time_of(lambda: b.copy_(a))
    (x, tx), (w, tw), (y, _) = both(8192, 8192), both(8192, 8192), both(8192, 8192)
    ours = 2 * 8192**3 / time_of(lambda: kernels.matmul(x, w, y))
    theirs = 2 * 8192**3 / time_of(lambda: tx @ tw)
    peak["matrix"] = max(ours, theirs)
    say(f"copy {peak['bandwidth'] / 1e12:.2f} TB/s; bf16 products of 8192: {ours / 1e12:.0f} "
        f"TFLOP/s through kernels.matmul, {theirs / 1e12:.0f} through PyTorch")


# --------------------------------------------------------------------------------- the kernel table


def row(name, ours, theirs, bytes_=0, flops=0):
    """Print a line of the table. theirs: several, by name, if PyTorch has several ways."""
    floor = bytes_ / peak["bandwidth"] + flops / peak["matrix"]
    theirs = theirs if isinstance(theirs, dict) else {"": theirs}
    try:
        mine, shown = time_of(ours), []
        for way, work in theirs.items():
            other = time_of(work)
            shown.append(f"{1e6 * other:9.1f} {other / mine:7.2f} {way}".rstrip())
        say(f"{name:28} {1e6 * mine:9.1f} {1e6 * floor:9.1f} {floor / mine:7.0%} "
            f"{'  '.join(shown)}")
    except Exception as error:
        say(f"{name:28} failed: {error}")


def norms():
    """LayerNorm, with the sum that goes into it."""
    N, C = B * T, CFG.n_embd
    M = 2 * N * C                                           # bytes of one (N,C) array
    (x, tx), (plus, tplus), (y, ty), (n, _) = both(N, C), both(N, C), both(N, C), both(N, C)
    (w, tw), (bias, tb) = both(C), both(C)
    rstd, dw, db = floats(N, 1), floats(C), floats(C)
    fused = torch.compile(lambda a, p: (a + p, F.layer_norm(a + p, (C,), tw, tb)))
    row("layernorm + residual",
        lambda: kernels.layernorm_forward(x, w, bias, out=(y, n, rstd), plus=plus),
        lambda: fused(tx, tplus), 5 * M)
    leaves = [t.detach().clone().requires_grad_() for t in (tx, tw, tb)]
    out = F.layer_norm(leaves[0], (C,), *leaves[1:])
    row("layernorm backward",
        lambda: kernels.layernorm_backward(y, (n, rstd, w), plus, (x, dw, db)),
        lambda: torch.autograd.grad(out, leaves, ty, retain_graph=True), 4 * M)


def mlp():
    """GELU and the bias, four times as wide."""
    N, C = B * T, CFG.n_embd
    M = 2 * N * C
    (h, th), (u, tu), db = both(N, 4 * C), both(N, 4 * C), floats(4 * C)
    row("gelu", lambda: kernels.gelu_forward(h, (u, h)),
        lambda: F.gelu(th, approximate="tanh"), 8 * M)
    row("gelu backward", lambda: kernels.gelu_backward(u, h, h),
        lambda: torch.ops.aten.gelu_backward(tu, th, approximate="tanh"), 12 * M)
    row("bias of 4C", lambda: kernels.bias_forward(h, as_cupy(tu[0])),
        lambda: th.add_(tu[0]), 8 * M)
    row("bias backward of 4C", lambda: kernels.bias_backward(h, db), lambda: th.sum(0), 4 * M)


def embeddings():
    """Tokens and positions, in both directions."""
    N, C, V = B * T, CFG.n_embd, device.Layout(CFG).shapes["wte.weight"][0]
    M = 2 * N * C
    (x, tx), (wte, twte), (wpe, twpe) = both(N, C), both(V, C), both(T, C)
    tokens = np.random.default_rng(0).zipf(1.2, N) % CFG.vocab_size
    t_tokens, t_positions = torch.as_tensor(tokens, device=WHERE), torch.arange(N, device=WHERE) % T
    c_tokens = cp.asarray(tokens.astype(np.int32))
    c_positions = cp.asarray((np.arange(N) % T).astype(np.int32))
    look_ups = tuple(map(cp.asarray, kernels.look_ups(tokens)))
    dwte, dwpe = floats(V, C), floats(T, C)
    row("embedding",
        lambda: kernels.embedding_forward(c_tokens, c_positions, wte, wpe, out=x),
        lambda: twte[t_tokens] + twpe[t_positions], 2 * M)
    row("embedding backward", lambda: kernels.embedding_backward(x, look_ups, dwte),
        lambda: torch.ops.aten.embedding_dense_backward(tx, t_tokens, V, -1, False), M)
    row("position backward", lambda: kernels.position_backward(x, B, dwpe),
        lambda: tx.view(B, T, C).sum(0), M)


def cross_entropy(rows=8192):
    """The loss of some rows and its gradient."""
    V = device.Layout(CFG).shapes["wte.weight"][0]
    (z, tz), nll = both(rows, V), floats(rows)
    targets = torch.randint(CFG.vocab_size, (rows,), device=WHERE)
    c_targets, weights = cp.asarray(targets.int()), cp.full((rows,), 1 / rows, np.float32)
    leaf = tz.detach().clone().requires_grad_()
    row(f"cross-entropy, {rows} rows",
        lambda: kernels.cross_entropy(z, c_targets, weights, CFG.vocab_size, nll),
        lambda: torch.autograd.grad(F.cross_entropy(leaf.float(), targets), leaf),
        2 * 2 * rows * V)


def attention(heads, size):
    """Attention with heads of a size, beside both backends that PyTorch has."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    C = heads * size
    (qkv, tqkv), (do, tdo) = both(B, T, 3 * C), both(B, T, C)
    o, lse = cp.empty((B, T, C), np.uint16), floats(B, heads, T, 1)
    dqkv = cp.empty(qkv.shape, np.uint16)
    in_heads = [a.view(B, T, heads, size).transpose(1, 2) for a in (*tqkv.split(C, 2), tdo)]
    q, k, v = (a.detach().requires_grad_() for a in in_heads[:3])
    forward, backward = {}, {}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):

        def attend(backend=backend):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        def differentiate(out, backend=backend):
            with sdpa_kernel(backend):
                torch.autograd.grad(out, (q, k, v), in_heads[3], retain_graph=True)

        try:
            out = attend()
            differentiate(out)
        except RuntimeError as error:
            say(f"{backend.name}: {str(error)[:80]}")
            continue
        forward[backend.name] = attend
        backward[backend.name] = lambda out=out, of=differentiate: of(out)
    flops = 2 * B * T * T * C
    row(f"attention forward, heads of {size}",
        lambda: kernels.attention_forward(qkv, heads, (o, lse)), forward, flops=flops)
    row(f"attention backward, heads of {size}",
        lambda: kernels.attention_backward(do, (qkv, o, lse), heads, dqkv), backward,
        flops=2.5 * flops)


def products(name, K, width):
    """A linear layer, and both of its products backward."""
    N = B * T
    (a, ta), (m, tm), (bias, tbias) = both(N, K), both(K, width), both(width)
    (y, _), (dy, tdy), dm = both(N, width), both(N, width), floats(K, width)
    flops = 2 * N * K * width
    row(f"{name} {K}x{width}", lambda: kernels.linear_forward(a, m, bias, y),
        lambda: torch.addmm(tbias, ta, tm), flops=flops)
    row(f"{name}: dx", lambda: kernels.matmul(dy, m, a, w_t=True), lambda: tdy @ tm.T, flops=flops)
    row(f"{name}: dw, float32", lambda: kernels.matmul(a, dy, dm, x_t=True, add=True),
        lambda: ta.T @ tdy, flops=flops)


def optimizer():
    """AdamW and the norm of all gradients."""
    n = device.Layout(CFG).size
    grads, master, m, v = (floats(n) for _ in range(4))
    copy, state = cp.zeros((n,), np.uint16), cp.asarray(np.ones(3, np.float32))
    rates = cp.asarray(np.full(3, 1e-4, np.float32))
    p = torch.zeros(n, device=WHERE, requires_grad=True)
    p.grad = torch.zeros_like(p)
    fused = torch.optim.AdamW([p], lr=1e-4, fused=True)
    row("AdamW",
        lambda: kernels.adamw(grads, master, m, v, copy, state, rates, n, 0.9, 0.95, 1e-8, 0.1),
        fused.step, 30 * n)
    row("norm", lambda: kernels.grad_norm(grads, 1.0, state),
        lambda: torch.linalg.vector_norm(p.grad), 4 * n)


def muon():
    """Muon for the matrices of all blocks, ours as a recorded graph; PyTorch has q, k and v as
    matrices of their own, stored (out, in)."""
    C, F = CFG.n_embd, 4 * CFG.n_embd
    matrices = CFG.n_layer * [(C, 3 * C, 3), (C, C, 1), (C, F, 1), (F, C, 1)]
    ones = cp.asarray(np.ones(3, np.float32))
    memory = {name: cp.empty(shape, np.uint16)
              for name, shape in kernels.muon.memory_shapes((C, F)).items()}
    ours, theirs, flops, n = [], [], 0, 0
    for n_in, width, n_parts in matrices:
        gradient = torch.randn(n_in, width, device=WHERE)
        mean, master = floats(n_in, width), floats(n_in, width)
        ours.append((as_cupy(gradient.clone()), mean, master, cp.zeros((n_in, width), np.uint16),
                     n_parts))
        for part in gradient.split(width // n_parts, 1):
            p = torch.zeros(part.T.shape, device=WHERE, requires_grad=True)
            p.grad = part.T.contiguous()
            theirs.append(p)
            small, large = sorted(part.shape)
            flops += 5 * 2 * small * small * (2 * large + small)
        n += n_in * width

    def step():
        for grads, mean, master, copy, n_parts in ours:
            kernels.muon.step(
                grads, mean, master, copy, ones, ones, memory, n_parts, 0.02, 0.95, 0.1)

    recording = kernels.launching.Recording()
    eager = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95)
    row("Muon, all blocks", lambda: recording(step), eager.step, 34 * n, flops)


def kernel_table():
    """Each operation at the sizes of a 124M step of B x T tokens, in bfloat16."""
    C, NH = CFG.n_embd, CFG.n_head
    HS = C // NH
    size = f"B {B}, T {T}, C {C}, bf16; us"
    say(f"\n{size:28} {'ours':>9} {'floor':>9} {'of it':>7} {'PyTorch':>9} {'ratio':>7}")
    parts = [(norms,), (mlp,), (embeddings,), (cross_entropy,)]
    parts += [(attention, NH, HS), (attention, NH // 2, 2 * HS), (attention, 2 * NH, HS // 2)]
    parts += [(products, "qkv", C, 3 * C), (products, "projection", C, C)]
    parts += [(products, "up", C, 4 * C), (products, "down", 4 * C, C), (optimizer,), (muon,)]
    for part, *sizes in parts:
        part(*sizes)
        forget()


# --------------------------------------------------------------------------------- the whole model


def beside_autograd():
    """One step of a small model: PyTorch's loss and gradients in float32 from the same weights."""
    cfg = gpt.Config(1000, 200, 256, 3, 4)
    params = gpt.init(cfg, 0)
    for p in params.values():
        p += 0.05 * np.random.default_rng(1).standard_normal(p.shape).astype(np.float32)
    tokens, targets = np.random.default_rng(0).integers(0, cfg.vocab_size, (2, 5, 133))
    model = torch_gpt.GPT(cfg.vocab_size, cfg.n_positions, cfg.n_embd, cfg.n_layer, cfg.n_head)
    model = model.to(WHERE)
    theirs = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in params.items():
            array = np.ascontiguousarray(golden.ours(name, torch.as_tensor(p)))
            theirs[golden.theirs(name)].copy_(torch.as_tensor(array))
    loss = model(torch.as_tensor(tokens, device=WHERE), torch.as_tensor(targets, device=WHERE))
    loss.backward()
    for bf16 in (False, True):
        got, grads = device.loss_and_grads(device.upload(params, cfg, bf16), cfg, tokens, targets)
        worst = 0.0
        for name, g in grads.items():
            want = golden.ours(name, theirs[golden.theirs(name)].grad.cpu())
            error = np.linalg.norm(cp.asnumpy(g)[:len(want)] - want) / np.linalg.norm(want)
            worst = max(worst, float(error))
        say(f"a step beside PyTorch's in float32, ours in {'bf16' if bf16 else 'float32'}: loss "
            f"{got:.6f} and {loss.item():.6f}, gradients differ by at most {worst:.1e}")
        assert worst < (0.1 if bf16 else 1e-3) and abs(got - loss.item()) < (0.05 if bf16 else 1e-4)


def ours_training(batch, steps=12):
    """(tokens a second, loss) of our training step."""
    params = gpt.init(CFG, 0)
    work = device_training.Training(params, train.AdamW(params), CFG, batch)
    tokens, targets = np.random.default_rng(0).integers(0, CFG.vocab_size, (2, batch, T))
    weights, losses = np.full((batch, T), 1.0 / (batch * T)), []

    def step():
        work.clear()
        work.add(tokens, targets, weights)
        losses.append(work.update(6e-4, 1.0)[0])            # waits for the GPU

    return batch * T / median_s(step, steps, 4), losses[-1]


def torch_training(batch, steps=12):
    """(tokens a second, loss) of PyTorch's, compiled."""
    torch.manual_seed(0)
    torch._dynamo.reset()           # or it compiles the next batch size for sizes of every kind
    torch.set_float32_matmul_precision("high")
    V = device.Layout(CFG).shapes["wte.weight"][0]
    model = torch_gpt.GPT(V, T, CFG.n_embd, CFG.n_layer, CFG.n_head).to(WHERE)
    optimizer = torch_gpt.adamw(model, 6e-4, (0.9, 0.95), 0.1)
    compiled = torch.compile(model, dynamic=False)
    tokens, targets = torch.randint(CFG.vocab_size, (2, batch, T), device=WHERE)
    losses = []

    def step():
        with torch.autocast(WHERE, torch.bfloat16):
            loss = compiled(tokens, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())

    return batch * T / median_s(step, steps, 4), losses[-1]


def training_table():
    """A step of both for several micro-batches, and the ratio of the best ones."""
    flops = planning.flops_per_token(CFG, T)
    say(f"\n{'124M, T 1024, bf16: step':28} {'tokens/s':>10} {'MFU of the peak measured here':>30} "
        f"{'loss':>8}")
    best = {}
    for name, work in (("ours", ours_training), ("PyTorch", torch_training)):
        best[name] = 0.0
        for batch in BATCHES:
            forget()
            title = f"{name}, {batch} rows"
            try:
                rate, loss = work(batch)
            except Exception as error:      # memory, most likely: more rows will not fit either
                say(f"{title:28} failed: {str(error)[:100]}")
                break
            say(f"{title:28} {rate:10,.0f} {rate * flops / peak['matrix']:30.1%} {loss:8.4f}")
            best[name] = max(best[name], rate)
    if all(best.values()):
        say(f"{'ratio of the best':28} {best['ours'] / best['PyTorch']:10.2f}")


def losses_table():
    """The same training in NumPy and through the kernels."""
    say("\n200 steps of nanoGPT's CPU setting, nats a character")
    if not TINY.exists():
        say(f"no {TINY}; LONGHAND_DATA names the folder that holds it")
        return
    for line in same_losses.table(str(TINY)):
        say(line)


def decode_table(new=200):
    """Tokens a second of one row, ours and that of transformers."""
    params = device.upload(gpt.init(CFG, 0), CFG)
    cache, token = device.Cache(CFG, 1, like=params["wte.weight"]), np.zeros((1, 1), np.int64)
    device.decode(params, CFG, np.zeros((1, 100), np.int64), cache, only_last=True)

    def our_token():
        token[0, 0] = device.decode(params, CFG, token, cache, only_last=True)[0].argmax()

    ours = 1 / median_s(our_token, new, 5)
    say(f"\n124M decode, one row: ours {ours:,.0f} tokens/s, "
        f"{2 * CFG.n_params * ours / peak['bandwidth']:.0%} of what reading the weights allows")
    try:
        import transformers
    except ImportError:
        say("no transformers here to compare with")
        return
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).to(WHERE, torch.bfloat16)
    model.eval()
    with torch.no_grad():
        out = model(torch.zeros(1, 100, dtype=torch.long, device=WHERE), use_cache=True)

        def their_token():
            nonlocal out
            token = out.logits[:, -1:].argmax(-1)
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
            token.item()

        theirs = 1 / median_s(their_token, new, 5)
    say(f"transformers, eager, with its cache: {theirs:,.0f} tokens/s; ratio {ours / theirs:.2f}")


def main():
    """Print the tables, and write them to a file after each part."""
    p = argparse.ArgumentParser(description="Time the kernels and the model beside PyTorch.")
    p.add_argument("--out", type=Path, default=ROOT / "out/gpu.txt",
                   help="file for the tables (default: out/gpu.txt)")
    args = p.parse_args()
    gpu = device.connect()
    if MISSING:
        raise ValueError(f"{MISSING} is not installed here; `make gpu` installs it")
    cublaslt = "in use" if kernels.cublas.cublaslt() else "not to be had"
    say(f"{gpu.name}; {time.strftime('%Y-%m-%d')}; CuPy {cp.__version__}, "
        f"PyTorch {torch.__version__}, cublasLt {cublaslt}")
    measure_peaks()
    # The last part takes minutes, for PyTorch compiles anew for each number of rows.
    for part in (beside_autograd, kernel_table, decode_table, losses_table, training_table):
        try:
            part()
        except Exception:
            say(f"failed: {traceback.format_exc(limit=3)}")
        forget()
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps({"out": str(args.out)}))


if __name__ == "__main__":
    command.run(main)
