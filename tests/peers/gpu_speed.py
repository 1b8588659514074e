"""gpu_speed.py: kernels/ and model/device.py on a GPU beside PyTorch on the same GPU, in one run.
make gpu prints this last.

    python tests/peers/gpu_speed.py --out out/gpu.txt

A floor is what the operation would take at the copy bandwidth, or for products at the matrix rate, both measured here.
Every time is the median over rounds of back-to-back launches between two events. A part that fails says so and the others go on.
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
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from model import cores  # noqa: F401, E402        before numpy
import cupy as cp  # noqa: E402
from model import device  # noqa: E402
from model import planning  # noqa: E402
import gpt  # noqa: E402
import kernels  # noqa: E402
import numpy as np  # noqa: E402
import same_losses  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from gpt_speed import TINY  # noqa: E402
import torch_gpt  # noqa: E402
import train  # noqa: E402

B, T, CFG = 32, 1024, gpt.Config(50257, 1024, 768, 12, 12)  # sizes of the kernel table: 124M
BATCHES = (16, 32, 64, 128)  # micro-batches tried for the training step
WHERE = "cuda"
lines = []


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


def forget():
    gc.collect()
    cp.get_default_memory_pool().free_all_blocks()
    torch.cuda.empty_cache()


def here(*shape, dtype=torch.bfloat16):
    """(CuPy array, PyTorch tensor) of the same random numbers in the same memory."""
    t = torch.randn(*shape, device=WHERE, dtype=dtype)
    return as_cupy(t), t


def as_cupy(t):
    return (cp.asarray(t.view(torch.int16)).view(np.uint16)
            if t.dtype == torch.bfloat16 else cp.asarray(t))


def peaks():
    a = torch.empty(1 << 29, dtype=torch.uint8, device=WHERE)
    b = torch.empty_like(a)
    bandwidth = 2 * a.numel() / time_of(lambda: b.copy_(a))
    (x, tx), (w, tw), (y, _) = here(8192, 8192), here(8192, 8192), here(8192, 8192)
    ours, theirs = (2 * 8192**3 / time_of(f)
                    for f in (lambda: kernels.matmul(x, w, y), lambda: tx @ tw))
    say(
        f"copy {bandwidth / 1e12:.2f} TB/s; bf16 products of 8192: {ours / 1e12:.0f} TFLOP/s through kernels.matmul, {theirs / 1e12:.0f} through PyTorch"
    )
    return bandwidth, max(ours, theirs)


def kernel_table(bandwidth, matrix):
    """Each operation at the sizes of a 124M step of B x T tokens, in bfloat16."""
    N, C, V, NH = B * T, CFG.n_embd, device.Layout(CFG).shapes["wte.weight"][0], CFG.n_head
    HS, M = C // NH, 2 * B * T * C  # M: bytes of one (N,C) array
    (x, tx), (plus, tplus), (w, tw), (bias, tb), (y, ty), (n, _) = (
        here(*s) for s in ((N, C), (N, C), (C,), (C,), (N, C), (N, C)))
    rstd, dw, db = (cp.empty((N, 1), np.float32), cp.empty((C,), np.float32),
                    cp.empty((C,), np.float32))
    fused_norm = torch.compile(lambda a, p: (a + p, F.layer_norm(a + p, (C,), tw, tb)))

    def row(name, ours, theirs, bytes_=0, flops=0):
        floor = bytes_ / bandwidth + flops / matrix
        try:
            mine, other = time_of(ours), time_of(theirs) if theirs else float("nan")
            say(
                f"{name:28} {1e6 * mine:9.1f} {1e6 * floor:9.1f} {floor / mine:7.0%} {1e6 * other:9.1f} {other / mine:7.2f}"
            )
        except Exception as e:
            say(f"{name:28} failed: {e}")

    say(
        f"\n{f'B {B}, T {T}, C {C}, bf16; us':28} {'ours':>9} {'floor':>9} {'of it':>7} {'PyTorch':>9} {'ratio':>7}"
    )
    row("layernorm + residual",
        lambda: kernels.layernorm_forward(x, w, bias, out=(y, n, rstd), plus=plus),
        lambda: fused_norm(tx, tplus), 5 * M)
    leaf = tx.detach().clone().requires_grad_()
    params = [tw.detach().clone().requires_grad_(), tb.detach().clone().requires_grad_()]
    out = F.layer_norm(leaf, (C,), *params)
    row("layernorm backward",
        lambda: kernels.layernorm_backward(y, (n, rstd, w), plus, (x, dw, db)),
        lambda: torch.autograd.grad(out, [leaf, *params], ty, retain_graph=True), 4 * M)
    del leaf, params, out
    (h, th), (u, tu) = here(N, 4 * C), here(N, 4 * C)
    row("gelu", lambda: kernels.gelu_forward(h, (u, h)), lambda: F.gelu(th, approximate="tanh"),
        8 * M)
    row("gelu backward", lambda: kernels.gelu_backward(u, h, h),
        lambda: torch.ops.aten.gelu_backward(tu, th, approximate="tanh"), 12 * M)
    row("bias of 4C", lambda: kernels.bias_forward(h, as_cupy(tu[0])), lambda: th.add_(tu[0]),
        8 * M)
    big = cp.empty((4 * C,), np.float32)
    row("bias backward of 4C", lambda: kernels.bias_backward(h, big), lambda: th.sum(0), 4 * M)

    wte, twte = here(V, C)
    wpe, twpe = here(T, C)
    tokens = np.random.default_rng(0).zipf(1.2, N) % CFG.vocab_size
    t_tokens, positions = torch.as_tensor(tokens, device=WHERE), torch.arange(N, device=WHERE) % T
    c_tokens, c_positions = (cp.asarray(tokens.astype(np.int32)),
                             cp.asarray((np.arange(N) % T).astype(np.int32)))
    row("embedding", lambda: kernels.embedding_forward(c_tokens, c_positions, wte, wpe, out=x),
        lambda: twte[t_tokens] + twpe[positions], 2 * M)
    look_ups, dwte, dwpe = (tuple(map(cp.asarray, kernels.look_ups(tokens))),
                            cp.zeros((V, C), np.float32), cp.zeros((T, C), np.float32))
    row("embedding backward", lambda: kernels.embedding_backward(x, look_ups, dwte),
        lambda: torch.ops.aten.embedding_dense_backward(tx, t_tokens, V, -1, False), M)
    row("position backward", lambda: kernels.position_backward(x, B, dwpe),
        lambda: tx.view(B, T, C).sum(0), M)
    del wte, twte, dwte, h, th, u, tu
    forget()

    rows = 8192
    z, tz = here(rows, V)
    targets = torch.randint(CFG.vocab_size, (rows,), device=WHERE)
    c_targets, weights, nll = (cp.asarray(targets.int()), cp.full((rows,), 1 / rows, np.float32),
                               cp.empty((rows,), np.float32))
    tz2 = tz.detach().clone().requires_grad_()

    def torch_cross():
        return torch.autograd.grad(F.cross_entropy(tz2.float(), targets), tz2)[0]

    row(f"cross-entropy, {rows} rows",
        lambda: kernels.cross_entropy(z, c_targets, weights, CFG.vocab_size, nll), torch_cross,
        2 * 2 * rows * V)
    del z, tz, tz2
    forget()

    for heads, size in ((NH, HS), (NH // 2, 2 * HS), (2 * NH, HS // 2)):
        qkv, tqkv = here(B, T, 3 * heads * size)
        do, tdo = here(B, T, heads * size)
        o, lse, dqkv = (cp.empty((B, T, heads * size), np.uint16),
                        cp.empty((B, heads, T, 1), np.float32), cp.empty(qkv.shape, np.uint16))
        q, k, v = (a.view(B, T, heads, size).transpose(1, 2).detach().requires_grad_()
                   for a in tqkv.split(heads * size, 2))
        best = {}
        for backend in (torch.nn.attention.SDPBackend.FLASH_ATTENTION,
                        torch.nn.attention.SDPBackend.CUDNN_ATTENTION):
            try:
                with torch.nn.attention.sdpa_kernel(backend):
                    to = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                    grad = tdo.view(B, T, heads, size).transpose(1, 2)
                    best[backend.name] = (time_of(lambda: F.scaled_dot_product_attention(
                                                      q, k, v, is_causal=True)),
                                          time_of(lambda: torch.autograd.grad(
                                                      to, (q, k, v), grad, retain_graph=True)))
            except RuntimeError as e:
                say(f"{backend.name}: {str(e)[:80]}")
        flops = 2 * B * T * T * heads * size
        for i, (name, work, n_flops) in enumerate(
            (("forward", lambda: kernels.attention_forward(qkv, heads, (o, lse)), flops),
             ("backward", lambda: kernels.attention_backward(do, (qkv, o, lse), heads, dqkv),
              2.5 * flops))
        ):
            mine = time_of(work)
            say(
                f"{f'attention {name}, heads of {size}':28} {1e6 * mine:9.1f} {1e6 * n_flops / matrix:9.1f} {n_flops / matrix / mine:7.0%} "
                + "  ".join(f"{k} {1e6 * t[i]:.1f} ({t[i] / mine:.2f})" for k, t in best.items())
            )
    forget()

    for name, K, width in (("qkv", C, 3 * C), ("projection", C, C), ("up", C, 4 * C),
                           ("down", 4 * C, C)):
        (a, ta), (m, tm), (r, _), (bb, tbb) = (here(N, K), here(K, width), here(N, width),
                                               here(width))
        dm, tdy = (cp.empty((K, width), np.float32),
                   torch.randn(N, width, device=WHERE, dtype=torch.bfloat16))
        dy = as_cupy(tdy)
        row(f"{name} {K}x{width}", lambda: kernels.linear_forward(a, m, bb, r),
            lambda: torch.addmm(tbb, ta, tm), flops=2 * N * K * width)
        row(f"{name}: dx", lambda: kernels.matmul(dy, m, a, w_t=True), lambda: tdy @ tm.T,
            flops=2 * N * K * width)
        row(f"{name}: dw, float32", lambda: kernels.matmul(a, dy, dm, x_t=True, add=True),
            lambda: ta.T @ tdy, flops=2 * N * K * width)
    forget()
    forget()

    n_params = device.Layout(CFG).size
    g, master, m, v = (cp.zeros((n_params,), np.float32) for _ in range(4))
    copy, state, rates = (cp.zeros((n_params,), np.uint16), cp.asarray(np.ones(3, np.float32)),
                          cp.asarray(np.full(3, 1e-4, np.float32)))
    p = torch.zeros(n_params, device=WHERE, requires_grad=True)
    p.grad = torch.zeros_like(p)
    fused = torch.optim.AdamW([p], lr=1e-4, fused=True)
    row("AdamW",
        lambda: kernels.adamw(g, master, m, v, copy, state, rates, n_params, 0.9, 0.95, 1e-8, 0.1),
        fused.step, 30 * n_params)
    row("norm", lambda: kernels.grad_norm(g, 1.0, state), lambda: torch.linalg.vector_norm(p.grad),
        4 * n_params)
    forget()


def beside_autograd():
    """One step of a small model: PyTorch's loss and gradients in float32 from the same weights."""
    cfg = gpt.Config(1000, 200, 256, 3, 4)
    params = {k: p + 0.05 * np.random.default_rng(1).standard_normal(p.shape).astype(
                  np.float32) for k,
              p in gpt.init(cfg, 0).items()}
    tokens, targets = np.random.default_rng(0).integers(0, cfg.vocab_size, (2, 5, 133))
    model = torch_gpt.GPT(cfg.vocab_size, cfg.n_positions, cfg.n_embd, cfg.n_layer, cfg.n_head).to(
        WHERE)
    names = {"wte": "wte", "wpe": "wpe", "ln_f": "ln_f", "attn.c_attn": "c_attn",
             "attn.c_proj": "c_proj", "mlp.c_fc": "fc", "mlp.c_proj": "fc_proj", "ln_1": "ln_1",
             "ln_2": "ln_2"}
    theirs = dict(model.named_parameters())

    def of(k):  # our name -> theirs
        if k.startswith("h."):
            _, i, rest = k.split(".", 2)
            layer, kind = rest.rsplit(".", 1)
            return f"blocks.{i}.{names[layer]}.{kind}"
        return k

    with torch.no_grad():
        for k, p in params.items():
            t = torch.as_tensor(p, device=WHERE)
            theirs[of(k)].copy_(t.T if t.ndim == 2 and k.startswith("h.") else t)
    loss = model(torch.as_tensor(tokens, device=WHERE), torch.as_tensor(targets, device=WHERE))
    loss.backward()
    for bf16 in (False, True):
        got, grads = device.loss_and_grads(device.upload(params, cfg, bf16), cfg, tokens, targets)
        worst = 0.0
        for k, g in grads.items():
            want = theirs[of(k)].grad.cpu().numpy()
            want = want.T if want.ndim == 2 and k.startswith("h.") else want
            worst = max(worst,
                        float(np.linalg.norm(cp.asnumpy(g)[: len(want)] - want) / np.linalg.norm(
                                  want)))
        say(
            f"a step beside PyTorch's in float32, ours in {'bf16' if bf16 else 'float32'}: loss {got:.6f} and {loss.item():.6f}, gradients differ by at most {worst:.1e}"
        )
        assert worst < (0.1 if bf16 else 1e-3) and abs(got - loss.item()) < (0.05 if bf16 else 1e-4)


def ours_training(batch, steps=12):
    params = gpt.init(CFG, 0)
    work = device.Training(params, train.AdamW(params), CFG, batch)
    tokens, targets = np.random.default_rng(0).integers(0, CFG.vocab_size, (2, batch, T))
    weights, times = np.full((batch, T), 1.0 / (batch * T)), []
    for _ in range(steps):
        t0 = time.perf_counter()
        work.clear()
        work.add(tokens, targets, weights)
        loss, _ = work.update(6e-4, 1.0)  # waits for the GPU
        times.append(time.perf_counter() - t0)
    del work
    return batch * T / statistics.median(times[4:]), loss


def torch_training(batch, steps=12):
    torch.manual_seed(0)
    torch._dynamo.reset()  # or it takes the next batch size for one that changes, and compiles for any
    torch.set_float32_matmul_precision("high")
    model = torch_gpt.GPT(device.Layout(CFG).shapes["wte.weight"][0], T, CFG.n_embd, CFG.n_layer,
                          CFG.n_head).to(WHERE)
    optimizer, compiled = (torch_gpt.adamw(model, 6e-4, (0.9, 0.95), 0.1),
                           torch.compile(model, dynamic=False))
    tokens, targets = torch.randint(CFG.vocab_size, (2, batch, T), device=WHERE)
    times = []
    for _ in range(steps):
        t0 = time.perf_counter()
        with torch.autocast(WHERE, torch.bfloat16):
            loss = compiled(tokens, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss = loss.item()
        times.append(time.perf_counter() - t0)
    return batch * T / statistics.median(times[4:]), loss


def training_table(matrix):
    """A step of both for several micro-batches; then ours at its best one with what a product can
    take along."""
    flops = planning.flops_per_token(CFG, T)
    say(
        f"\n{'124M, T 1024, bf16: step':28} {'tokens/s':>10} {'MFU of the peak measured here':>30} {'loss':>8}"
    )

    def measured(name, work, batch):
        forget()
        try:
            rate, loss = work(batch)
        except Exception as e:  # memory, most likely
            say(f"{name:28} failed: {str(e)[:100]}")
            return 0.0
        say(f"{name:28} {rate:10,.0f} {rate * flops / matrix:30.1%} {loss:8.4f}")
        return rate

    def best_of(name, work):
        """(tokens a second, rows) of the fastest; where one does not fit, larger ones will not
        either."""
        best = 0.0, 0
        for batch in BATCHES:
            rate = measured(f"{name}, {batch} rows", work, batch)
            if not rate:
                break
            best = max(best, (rate, batch))
        return best

    ours, _ = best_of("ours", ours_training)
    theirs, _ = best_of("PyTorch", torch_training)
    if ours and theirs:
        say(f"{'ratio of the best':28} {ours / theirs:10.2f}")


def losses_table():
    say("\n200 steps of nanoGPT's CPU setting, nats a character")
    if not TINY.exists():
        say(f"no {TINY}; LONGHAND_DATA names the folder that holds it")
        return
    for line in same_losses.table(str(TINY)):
        say(line)


def decode_table(bandwidth, new=200):
    params = gpt.init(CFG, 0)
    there = device.upload(params, CFG)
    cache, token = device.Cache(CFG, 1, like=there["wte.weight"]), np.zeros((1, 1), np.int64)
    device.decode(there, CFG, np.zeros((1, 100), np.int64), cache, only_last=True)
    times = []
    for _ in range(new):
        t0 = time.perf_counter()
        token[0, 0] = device.decode(there, CFG, token, cache, only_last=True)[0].argmax()
        times.append(time.perf_counter() - t0)
    ours = 1 / statistics.median(times[5:])
    say(
        f"\n124M decode, one row: ours {ours:,.0f} tokens/s, {2 * CFG.n_params * ours / bandwidth:.0%} of what reading the weights allows"
    )
    try:
        import transformers

        model = (transformers.GPT2LMHeadModel(transformers.GPT2Config()).to(
                     WHERE, torch.bfloat16).eval())
    except ImportError:
        say("no transformers here to compare with")
        return
    with torch.no_grad():
        out, times = model(torch.zeros(1, 100, dtype=torch.long, device=WHERE), use_cache=True), []
        for _ in range(new):
            t0 = time.perf_counter()
            token = out.logits[:, -1:].argmax(-1)
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
            token.item()
            times.append(time.perf_counter() - t0)
    theirs = 1 / statistics.median(times[5:])
    say(f"transformers, eager, with its cache: {theirs:,.0f} tokens/s; ratio {ours / theirs:.2f}")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", type=Path, default=ROOT / "out/gpu.txt", help="file for the tables")
    args = p.parse_args()
    gpu = device.connect()
    say(
        f"{gpu.name}; {time.strftime('%Y-%m-%d')}; CuPy {cp.__version__}, PyTorch {torch.__version__}, cublasLt {'in use' if kernels.cublas.cublaslt() else 'not to be had'}"
    )
    bandwidth, matrix = peaks()
    # PyTorch compiles anew for each number of rows, which takes minutes: last, for what is done is
    # in the file
    for part in (beside_autograd, lambda: kernel_table(bandwidth, matrix),
                 lambda: decode_table(bandwidth), losses_table, lambda: training_table(matrix)):
        try:
            part()
        except Exception:
            say(f"failed: {traceback.format_exc(limit=3)}")
        forget()
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps({"out": str(args.out)}))


if __name__ == "__main__":
    main()
