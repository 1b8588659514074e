"""gpu_table.py: each kernel's time beside its floor and beside PyTorch, at the sizes of a training
step in bfloat16. gpu_speed.py prints it.
"""

import gpu_timing as timing
from gpu_timing import F, WHERE, as_cupy, both, cp, floats, integers, say, time_of, torch  # first
from kernels import launching, muon as muon_kernels
import kernels
from model import device
import numpy as np


def row(name, ours, theirs, bytes_=0, flops=0):
    """A line of the table. theirs: a call, or several by name if PyTorch has several ways."""
    peak = timing.peak
    floor = bytes_ / peak["bandwidth"] + flops / peak["matrix"]
    theirs = theirs if isinstance(theirs, dict) else {"": theirs}
    try:
        mine, shown, others = time_of(ours), [], {}
        for way, work in theirs.items() if torch else ():
            other = others[way] = time_of(work)
            shown.append(f"{1e6 * other:9.1f} {other / mine:7.2f} {way}".rstrip())
        say(f"{name:30} {1e6 * mine:9.1f} {1e6 * floor:9.1f} {floor / mine:7.0%} "
            f"{'  '.join(shown)}".rstrip(),
            row=name, ours_s=mine, floor_s=floor, theirs_s=others)
    except Exception as error:
        say(f"{name:30} failed: {error}", row=name, failed=str(error))


def norms(N, C):
    """LayerNorm and RMSNorm, with the sum that goes into them."""
    M = 2 * N * C                                           # bytes of one (N,C) array
    (x, tx), (plus, tplus), (y, ty), (n, _) = both(N, C), both(N, C), both(N, C), both(N, C)
    (w, tw), (bias, tb) = both(C), both(C)
    rstd, dw, db = floats(N, 1), floats(C), floats(C)
    theirs = {}
    if torch:
        of_layer = torch.compile(lambda a, p: (a + p, F.layer_norm(a + p, (C,), tw, tb)))
        of_root = torch.compile(lambda a, p: (a + p, F.rms_norm(a + p, (C,), tw)))
        leaves = [t.detach().clone().requires_grad_() for t in (tx, tw, tb)]
        for name, out, of in (("layer", F.layer_norm(leaves[0], (C,), *leaves[1:]), leaves),
                              ("root", F.rms_norm(leaves[0], (C,), leaves[1]), leaves[:2])):
            theirs[name] = torch_gradient(out, of, ty)
    row("layernorm + residual",
        lambda: kernels.layernorm_forward(x, w, bias, out=(y, n, rstd), plus=plus),
        lambda: of_layer(tx, tplus), 5 * M)
    row("layernorm backward",
        lambda: kernels.layernorm_backward(y, (n, rstd, w), plus, (x, dw, db)),
        theirs.get("layer"), 4 * M)
    row("rmsnorm + residual",
        lambda: kernels.rmsnorm_forward(x, w, 1e-5, (y, n, rstd), plus),
        lambda: of_root(tx, tplus), 5 * M)
    row("rmsnorm backward", lambda: kernels.rmsnorm_backward(y, (n, rstd, w), plus, (x, dw)),
        theirs.get("root"), 4 * M)


def torch_gradient(out, leaves, slope):
    """A call that differentiates what PyTorch computed."""
    return lambda: torch.autograd.grad(out, leaves, slope, retain_graph=True)


def mlp(N, C):
    """GELU and the bias, four times as wide, and SwiGLU."""
    M = 2 * N * C
    (h, th), (u, tu), db = both(N, 4 * C), both(N, 4 * C), floats(4 * C)
    (wide, twide), dwide = both(N, 8 * C), both(N, 8 * C)[0]
    (b, tb) = both(4 * C)
    row("gelu", lambda: kernels.gelu_forward(h, (u, h)),
        lambda: F.gelu(th, approximate="tanh"), 8 * M)
    row("gelu backward", lambda: kernels.gelu_backward(u, h, h),
        lambda: torch.ops.aten.gelu_backward(tu, th, approximate="tanh"), 12 * M)
    row("bias of 4C", lambda: kernels.bias_forward(h, b), lambda: th.add_(tb), 8 * M)
    row("bias backward of 4C", lambda: kernels.bias_backward(h, db), lambda: th.sum(0), 4 * M)
    fused = torch and torch.compile(lambda a: F.silu(a[:, : 4 * C]) * a[:, 4 * C :])
    row("swiglu", lambda: kernels.swiglu_forward(wide, u), lambda: fused(twide), 12 * M)
    row("swiglu backward", lambda: kernels.swiglu_backward(u, wide, dwide), {}, 20 * M)


def rotary(N, heads, size):
    """Queries and keys turned by their positions."""
    (qkv, _), table = both(N, 3 * heads * size), floats(N, size)
    positions = cp.asarray(np.arange(N, dtype=np.int32))
    row("rotary", lambda: kernels.rotary_forward(qkv, positions, table, 2 * heads), {},
        2 * 2 * N * 2 * heads * size)


def embeddings(B, T, cfg):
    """Tokens and positions, in both directions."""
    N, C, V = B * T, cfg.n_embd, device.Layout(cfg).shapes["wte.weight"][0]
    M = 2 * N * C
    (x, tx), (wte, twte), (wpe, twpe) = both(N, C), both(V, C), both(T, C)
    tokens = np.random.default_rng(0).zipf(1.2, N) % cfg.vocab_size
    if torch:
        t_tokens = torch.as_tensor(tokens, device=WHERE)
        t_positions = torch.arange(N, device=WHERE) % T
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


def cross_entropy(rows, cfg):
    """The loss of some rows and its gradient, and a token drawn for each of fewer."""
    V = device.Layout(cfg).shapes["wte.weight"][0]
    (z, tz), nll = both(rows, V), floats(rows)
    c_targets, targets = integers(cfg.vocab_size, rows)
    weights = cp.asarray(np.full(rows, 1 / rows, np.float32))
    leaf = torch and tz.detach().clone().requires_grad_()
    row(f"cross-entropy, {rows} rows",
        lambda: kernels.cross_entropy(z, c_targets, weights, cfg.vocab_size, nll),
        lambda: torch.autograd.grad(F.cross_entropy(leaf.float(), targets), leaf),
        2 * 2 * rows * V)
    few = min(256, rows)
    z, _ = both(few, V)
    tz = torch and torch.randn(few, V, device=WHERE)
    tokens, logp = cp.empty((few,), np.int32), floats(few)
    for what, top_k, top_p in (("", 0, 1), (", top-k 50", 50, 1), (", top-p 0.9", 0, 0.9)):
        each = np.array([1, top_k, top_p, 0, 0.5])          # temperature and u too
        settings = cp.asarray(np.repeat(each[:, None], few, 1))
        theirs = {} if what else lambda: torch.multinomial(torch.softmax(tz, -1), 1)
        row(f"draw, {few} rows{what}",
            lambda: kernels.draw(z, settings, tokens, logp, cfg.vocab_size), theirs, 2 * few * V)


def attention(B, T, heads, size):
    """Attention with heads of a size, beside both backends that PyTorch has."""
    C = heads * size
    (qkv, tqkv), (do, tdo) = both(B, T, 3 * C), both(B, T, C)
    o, lse = cp.empty((B, T, C), np.uint16), floats(B, heads, T, 1)
    dqkv = cp.empty(qkv.shape, np.uint16)
    forward, backward = torch_attention(tqkv, tdo, heads) if torch else ({}, {})
    flops = 2 * B * T * T * C
    row(f"attention forward, heads of {size}",
        lambda: kernels.attention_forward(qkv, heads, (o, lse)), forward, flops=flops)
    row(f"attention backward, heads of {size}",
        lambda: kernels.attention_backward(do, (qkv, o, lse), heads, dqkv), backward,
        flops=2.5 * flops)
    # Eight texts of equal length in a row: an eighth of the scores.
    texts = np.tile(1 + np.arange(T) * 8 // T, (B, 1))
    texts = cp.asarray(kernels.texts_of(texts))
    row("  eight texts a row, forward",
        lambda: kernels.attention_forward(qkv, heads, (o, lse), texts), {}, flops=flops / 8)
    row("  eight texts a row, backward",
        lambda: kernels.attention_backward(do, (qkv, o, lse), heads, dqkv, texts), {},
        flops=2.5 * flops / 8)


def torch_attention(tqkv, tdo, heads):
    """{backend: call} of PyTorch's attention, forward and backward."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    B, T, C = tdo.shape
    in_heads = [a.view(B, T, heads, C // heads).transpose(1, 2)
                for a in (*tqkv.split(C, 2), tdo)]
    q, k, v = (a.detach().requires_grad_() for a in in_heads[:3])
    forward, backward = {}, {}

    def attend(backend):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def differentiate(out, backend):
        with sdpa_kernel(backend):
            torch.autograd.grad(out, (q, k, v), in_heads[3], retain_graph=True)

    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        try:
            out = attend(backend)
            differentiate(out, backend)
        except RuntimeError as error:
            say(f"{backend.name}: {str(error)[:80]}")
            continue
        forward[backend.name] = lambda backend=backend: attend(backend)
        backward[backend.name] = lambda out=out, backend=backend: differentiate(out, backend)
    return forward, backward


def decoding(B, S, heads, size):
    """Attention of one new position of each row to S before it, in pages."""
    page = 64 if S % 64 == 0 else S
    n_pages = B * S // page
    (qkv, _), (k, _), (v, _) = (both(*s) for s in (
        (B, 1, 3 * heads * size), (n_pages, heads, page, size), (n_pages, heads, page, size)))
    length = cp.asarray(np.full(B, S - 1, np.int32))
    one = cp.asarray(np.ones(B, np.int32))
    table = cp.asarray(np.arange(n_pages, dtype=np.int32).reshape(B, -1))
    row(f"decode attention, {B} x {S}",
        lambda: kernels.decode_attention(qkv, k, v, length, one, pages=table), {},
        2 * 2 * B * S * heads * size)


def products(N, name, K, width):
    """A linear layer, and both of its products backward."""
    (a, ta), (m, tm), (bias, tbias) = both(N, K), both(K, width), both(width)
    (y, _), (dy, tdy), dm = both(N, width), both(N, width), floats(K, width)
    flops = 2 * N * K * width
    row(f"{name} {K}x{width}", lambda: kernels.linear_forward(a, m, bias, y),
        lambda: torch.addmm(tbias, ta, tm), flops=flops)
    row("  without the library's bias",
        lambda: kernels.bias_forward(kernels.matmul(a, m, y), bias),
        lambda: (ta @ tm).add_(tbias), flops=flops)
    row(f"{name}: dx", lambda: kernels.matmul(dy, m, a, w_t=True), lambda: tdy @ tm.T, flops=flops)
    row(f"{name}: dw, float32", lambda: kernels.matmul(a, dy, dm, x_t=True, add=True),
        lambda: ta.T @ tdy, flops=flops)


def optimizer(cfg):
    """AdamW and the norm of all gradients."""
    n = device.Layout(cfg).size
    grads, master, m, v = (floats(n) for _ in range(4))
    copy, state = cp.zeros((n,), np.uint16), cp.asarray(np.ones(3, np.float32))
    rates = cp.asarray(np.full(3, 1e-4, np.float32))
    if torch:
        p = torch.zeros(n, device=WHERE, requires_grad=True)
        p.grad = torch.zeros_like(p)
        fused = torch.optim.AdamW([p], lr=1e-4, fused=True)
    row("AdamW",
        lambda: kernels.adamw(grads, master, m, v, copy, state, rates, n, 0.9, 0.95, 1e-8, 0.1),
        lambda: fused.step(), 30 * n)
    row("norm", lambda: kernels.grad_norm(grads, 1.0, state),
        lambda: torch.linalg.vector_norm(p.grad), 4 * n)


def muon(cfg):
    """Muon for the matrices of all blocks, ours as a recorded graph; PyTorch has q, k and v as
    matrices of their own, stored (out, in)."""
    C, wide = cfg.n_embd, 4 * cfg.n_embd
    matrices = cfg.n_layer * [(C, 3 * C, 3), (C, C, 1), (C, wide, 1), (wide, C, 1)]
    ones = cp.asarray(np.ones(3, np.float32))
    memory = {name: cp.empty(shape, np.uint16)
              for name, shape in muon_kernels.memory_shapes((C, wide)).items()}
    ours, theirs, flops, n = [], [], 0, 0
    for n_in, width, n_parts in matrices:
        gradient = cp.asarray(np.resize(np.linspace(-1, 1, 4099, dtype=np.float32), (n_in, width)))
        ours.append((gradient, floats(n_in, width), floats(n_in, width),
                     cp.zeros((n_in, width), np.uint16), n_parts))
        small, large = sorted((n_in, width // n_parts))
        flops += n_parts * 5 * 2 * small * small * (2 * large + small)
        n += n_in * width
        for _ in range(n_parts) if torch else ():
            p = torch.zeros(width // n_parts, n_in, device=WHERE, requires_grad=True)
            p.grad = torch.randn_like(p)
            theirs.append(p)

    def step():
        for grads, mean, master, copy, n_parts in ours:
            muon_kernels.step(
                grads, mean, master, copy, ones, ones, memory, n_parts, 0.02, 0.95, 0.1)

    recording = launching.Recording()
    if torch:
        eager = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95)
    row("Muon, all blocks", lambda: recording(step), lambda: eager.step(), 34 * n, flops)


def table():
    """Each operation at the sizes of a training step, in bfloat16."""
    timing.measure_peaks()
    cfg, B = timing.sizes.cfg, timing.sizes.batch
    T, C, NH = cfg.n_positions, cfg.n_embd, cfg.n_head
    N, HS = B * T, C // NH
    size = f"B {B}, T {T}, C {C}, bf16; us"
    say(f"\n{size:30} {'ours':>9} {'floor':>9} {'of it':>7} {'PyTorch':>9} {'ratio':>7}")
    parts = [
        (attention, B, T, NH, HS),
        (products, N, "qkv", C, 3 * C), (products, N, "up", C, 4 * C),
        (products, N, "down", 4 * C, C), (products, N, "projection", C, C),
        (norms, N, C), (mlp, N, C), (cross_entropy, min(8192, 4 * N), cfg), (optimizer, cfg),
        (embeddings, B, T, cfg), (decoding, 64, T, NH, HS), (decoding, 1, T, NH, HS),
        (rotary, N, NH, HS), (muon, cfg),
    ]
    if timing.ON_GPU:                   # the CPU that plays one takes long for the other tiles
        parts += [(attention, B, T, NH // 2, 2 * HS), (attention, B, T, 2 * NH, HS // 2)]
    for part, *numbers in parts:
        try:
            part(*numbers)
        except Exception as error:      # memory, or a PyTorch that lacks something
            say(f"{part.__name__} failed: {error}", row=part.__name__, failed=str(error))
        timing.forget()
