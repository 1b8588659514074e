"""device.py: gpt.py's model on a GPU.

The walk through a block is gpt.py's own; given CuPy arrays its operations are the raw kernels of kernels/. Here stands what a GPU
adds: the check that there is one, parameters, gradients and moments each behind each other in one array, one arena for all the
rest, planned before it is taken, and the step as recorded CUDA graphs, in which nothing is allocated and nobody waits for the host.

Weights and activations are bfloat16 (as uint16, which is all that anyone but the kernels sees of them), and what is summed
over many rows or many steps is float32: gradients of parameters, AdamW's moments, and the master copy of the weights. Or
everything is float32. Same seed, same bits: no kernel adds in an order that may change.

    python train.py --device cuda --preset gpt2 ...

Sources: Micikevicius et al. 2018 (master weights); karpathy/llm.c (the plan of memory, gradients in place of activations).
"""

import functools
import math
import sys
from types import SimpleNamespace

from model import cores                    # before numpy
from model import checks, fast, walk
import gpt
import numpy as np

LOGIT_NUMBERS = 1 << 31         # of the rows of logits that exist at once: 4 GB in bfloat16
ROW_TOKENS = 1 << 16            # tokens at once that keep a GPU busy

cp = kernels = None             # CuPy and the kernels, once there is a GPU to use them on


def connect(dtype=None):
    """The GPU, with name, bf16 (whether to compute in it) and free_bytes; ValueError that says what is missing where there is none.

    dtype: "bf16", "float32", or None for the first where the GPU has it.
    """
    global cp, kernels
    try:
        import cupy
    except ImportError as e:
        raise ValueError(f"no CuPy, through which a GPU is reached ({e}). Install the one for the CUDA version that nvidia-smi shows, "
                         "with: pip install \"cupy-cuda12x[ctk]\" or \"cupy-cuda13x[ctk]\"; or leave out --device cuda") from None
    try:
        if not cupy.cuda.runtime.getDeviceCount():
            raise ValueError("no GPU here that CUDA can use; leave out --device cuda")
        found = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        cupy.empty((1,), np.float32)
    except RuntimeError as e:
        old = "InsufficientDriver" in str(e)
        raise ValueError(f"no GPU that answers ({e}). " + ("There is no NVIDIA driver, or it is older than this CuPy needs: update it, or install "
                         "the CuPy of the CUDA version that nvidia-smi shows" if old else "See whether nvidia-smi shows one") +
                         "; or leave out --device cuda") from None
    cp = cupy
    import kernels as launchers
    kernels = launchers
    kernels.checks.limits()     # ValueError for a GPU that the kernels are not written for
    name, capability = found["name"].decode() if isinstance(found["name"], bytes) else found["name"], found["major"]
    if capability < 8 and dtype != "float32":           # its tensor cores came with compute capability 8.0
        print(f"{name}: no bfloat16 (compute capability {capability}.{found['minor']}, 8.0 has it); computing in float32", file=sys.stderr)
    return SimpleNamespace(name=name, bf16=capability >= 8 and dtype != "float32", free_bytes=cp.cuda.runtime.memGetInfo()[0])


def add_arguments(parser):
    where = parser.add_argument_group("on what")
    where.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="cuda: the GPU, through CuPy")
    where.add_argument("--dtype", choices=("bf16", "float32"), help="of weights and activations on the GPU (default: bf16 where it can)")


def chosen(args):
    """The GPU that add_arguments' options ask for, or None for the CPU."""
    if args.dtype and args.device == "cpu":
        raise ValueError(f"--dtype {args.dtype}: the CPU computes in float32; the choice is for --device cuda")
    return connect(args.dtype) if args.device == "cuda" else None


# ----------------------------------------------------------------------------------------------------- parameters


class Layout:
    """Where each parameter lies in one array of all, the ones that weight decay is for first. Each begins at a multiple of 256 bytes.

    The vocabulary is padded with rows of zeros to a size that suits the matrix products.
    """

    def __init__(self, cfg):
        multiple = 128 if cfg.vocab_size > 1024 else 8
        self.given = gpt.param_shapes(cfg)
        self.shapes = {**self.given, "wte.weight": (-(-cfg.vocab_size // multiple) * multiple, cfg.n_embd)}
        self.at, self.size, self.n_decayed = {}, 0, 0
        for k in sorted(self.shapes, key=lambda k: len(self.shapes[k]) < 2):
            self.at[k] = self.size
            self.size += -(-math.prod(self.shapes[k]) // 128) * 128
            self.n_decayed = self.size if len(self.shapes[k]) == 2 else self.n_decayed

    def views(self, flat):                              # (size,) -> {name: array}
        return {k: flat[at:at + math.prod(self.shapes[k])].reshape(self.shapes[k]) for k, at in self.at.items()}

    def gather(self, arrays):                           # {name: NumPy array} -> (size,) float32
        flat = np.zeros(self.size, np.float32)
        for k, a in self.views(flat).items():
            if arrays[k].shape != self.given[k]:
                raise ValueError(f"{k}: {arrays[k].shape}, the config says {self.given[k]}")
            a[:len(arrays[k])] = arrays[k]
        return flat

    def scatter(self, flat, arrays):                    # (size,) on the GPU -> into {name: NumPy array}
        for k, a in self.views(kernels.on_host(flat)).items():
            arrays[k][...] = a[:len(arrays[k])]


def upload(params, cfg, bf16=True):
    """{name: CuPy array} of the parameters: gpt's functions compute with them on the GPU, in bfloat16 or float32."""
    layout = Layout(cfg)
    flat = cp.asarray(layout.gather(params))
    return layout.views(kernels.to_bf16(flat) if bf16 else flat)


# -------------------------------------------------------------------------------------------------- loss, gradients


class Inbox:
    """Whole numbers on their way to the GPU. Two buffers take turns, so that the next batch is made ready while the GPU is
    still at work on the last."""

    def __init__(self, there):                          # (n,) int32 on the GPU
        self.there, self.turn, self.sent = there, 0, [None, None]
        self.here = [np.frombuffer(cp.cuda.alloc_pinned_memory(there.nbytes), np.int32, there.size) for _ in self.sent]

    def send(self, *parts):                             # arrays of int32 or float32, which fill it in this order
        self.turn ^= 1
        here, at, size = self.here[self.turn], 0, sum(part.size for part in parts)
        if size != here.size:
            raise ValueError(f"{size} numbers for the GPU, {here.size} are expected there")
        if self.sent[self.turn]:
            self.sent[self.turn].synchronize()
        for part in parts:
            here[at:at + part.size] = part.view(np.int32).ravel()
            at += part.size
        self.there.set(here, cp.cuda.get_current_stream())
        self.sent[self.turn] = cp.cuda.Event(disable_timing=True)
        self.sent[self.turn].record()


def cut(flat, **sizes):
    """{name: view} of one array, behind each other."""
    ends = np.cumsum(list(sizes.values())).tolist()
    return {k: flat[end - n:end] for (k, n), end in zip(sizes.items(), ends)}


def step_shapes(cfg, B, T, want_grads=True, recompute=False):
    """What a step divides its arena into: fast.step_shapes, but for what only threads need, and what only a GPU does."""
    return _step_shapes(cfg, B, T, want_grads, recompute, LOGIT_NUMBERS)


@functools.lru_cache(maxsize=16)
def _step_shapes(cfg, B, T, want_grads, recompute, logit_numbers):
    N, C, V = B * T, cfg.n_embd, Layout(cfg).shapes["wte.weight"][0]
    shapes = {k: s for k, s in fast.step_shapes(cfg, B, T, 1, want_grads, recompute).items() if not k.startswith(("grad.", "logits", "y_rows"))}
    shapes.update({"logits": (min(N, max(1, logit_numbers // V)), V), "nll": (N,), "state": (3,), "inbox": (7 * N + 1,)})
    return {**shapes, "dqkv": (N, 3 * C)} if want_grads else shapes


def other_kinds(shapes):
    """{name: dtype} of the arrays that are not what the weights are."""
    kinds = {k: np.float32 for k in shapes if k.rpartition(".")[2].startswith(("rstd", "lse", "nll", "state"))}
    return {**kinds, "inbox": np.int32}


class Step:
    """Forward and backward of B sequences of T tokens, in arrays that stay where they are: run() may be recorded."""

    def __init__(self, params, cfg, B, T, arena, want_grads=True, recompute=False):
        shapes = step_shapes(cfg, B, T, want_grads, recompute)
        self.params, self.cfg, self.B, self.T, self.recompute = params, cfg, B, T, recompute and want_grads
        self.a = arena.divide(shapes, params["wte.weight"].dtype, other_kinds(shapes), cp)
        self.layers = [walk.layer_params(params, i) for i in range(cfg.n_layer)]
        self.kept = [i if f"h.{i}.a" in self.a else 0 for i in range(cfg.n_layer)]      # which arrays block i uses
        self.inbox, N = Inbox(self.a["inbox"]), B * T
        self.i = cut(self.a["inbox"], tokens=N, positions=N, targets=N, weights=N, order=N, starts=N + 1, values=N)
        self.weights = self.i["weights"].view(np.float32)

    def put(self, tokens, targets, weights):            # (B,T) each on the host, weights also (B*T,)
        """Sends a batch. Missing sequences count nothing, and neither does a target of -1."""
        checks.check_tokens(self.cfg, tokens)
        if tokens.shape[1] != self.T or len(tokens) > self.B:
            raise ValueError(f"tokens: {tokens.shape}, expected 1 to {self.B} rows of {self.T}")
        checks.check_targets(self.cfg, tokens, targets)
        if weights.shape not in (tokens.shape, (tokens.size,)):
            raise ValueError(f"weights have shape {weights.shape}, targets {targets.shape}")
        counted = targets != -1
        targets = np.where(counted, targets, 0)
        weights = np.where(counted, weights.reshape(tokens.shape), 0.0)
        more = (0, self.B - len(tokens)), (0, 0)
        tokens, targets = (np.pad(a.astype(np.int32), more) for a in (tokens, targets))
        weights = np.pad(weights.astype(np.float32), more)
        positions = np.broadcast_to(np.arange(self.T, dtype=np.int32), tokens.shape)
        self.inbox.send(tokens, np.ascontiguousarray(positions), targets, weights, *kernels.look_ups(tokens.ravel()))

    def block(self, i):
        arrays = {k: self.a[f"h.{self.kept[i]}.{k}"] for k in walk.block_shapes(self.cfg, 1, 1)}
        return SimpleNamespace(**arrays, t=self.a["t"], hidden=None, **({"dqkv": self.a["dqkv"]} if "dqkv" in self.a else {}))

    def run(self, grads=None, add=False):
        """Losses into nll and their weighted sum into state[0]; with grads, {name: float32 array}, the gradients into those. With
        add both are added to what is there."""
        a, p, cfg = self.a, self.params, self.cfg
        kernels.embedding_forward(self.i["tokens"], self.i["positions"], p["wte.weight"], p["wpe.weight"], out=a["x"])
        blocks = [self.block(i) for i in range(cfg.n_layer)]
        keep = [a[f"x.{i}"] for i in range(cfg.n_layer)] if self.recompute else None
        walk.trunk_forward(kernels, a["x"], p, self.layers, blocks, cfg.n_head, (a["y"], a["n_f"], a["rstd_f"]), keep)

        N, rows = len(a["y"]), len(a["logits"])
        for begin in range(0, N, rows):                 # logits become their own gradient in place
            at = slice(begin, min(begin + rows, N))
            y, z = a["y"][at], a["logits"][:at.stop - begin]
            kernels.matmul(y, p["wte.weight"], z, w_t=True)
            kernels.cross_entropy(z, self.i["targets"][at], self.weights[at] if grads else None, cfg.vocab_size, out=a["nll"][at])
            if grads:                                   # forward was: logits = y wte^T
                kernels.matmul(z, y, grads["wte.weight"], x_t=True, add=add or begin > 0)
                kernels.matmul(z, p["wte.weight"], y)
        kernels.loss_sum(a["nll"], self.weights, a["state"], add)
        if not grads:
            return

        dx = a["x"]
        kernels.layernorm_backward(a["y"], (a["n_f"], a["rstd_f"], p["ln_f.weight"]), None, (dx, grads["ln_f.weight"], grads["ln_f.bias"]), add)
        for i in reversed(range(cfg.n_layer)):
            if self.recompute:
                walk.block_forward(kernels, a[f"x.{i}"], None, self.layers[i], blocks[i], cfg.n_head)
            walk.block_backward(kernels, dx, self.layers[i], blocks[i], cfg.n_head, {k: grads[f"h.{i}.{k}"] for k in walk.LAYER}, add)
        kernels.embedding_backward(dx, tuple(self.i[k] for k in ("order", "starts", "values")), grads["wte.weight"])
        kernels.position_backward(dx, self.B, grads["wpe.weight"], add)


def check_call(params, cfg, tokens, targets, temperature):
    """What loss_and_grads and token_losses are given."""
    checks.check_tokens(cfg, tokens)
    checks.check_targets(cfg, tokens, targets)
    checks.check_params(params, cfg, kernels.checks.check_on_gpu)
    if temperature != 1.0:
        raise ValueError(f"temperature {temperature}: losses of a model on a GPU are those at temperature 1")


def loss_and_grads(params, cfg, tokens, targets, weights=None, want_grads=True, grads=None, add=False, arena=None,
                   recompute=False, temperature=1.0):
    """fast.loss_and_grads of parameters on the GPU, where the gradients are then, in float32."""
    check_call(params, cfg, tokens, targets, temperature)
    weights = checks.token_weights(targets, weights, np.float32)
    if not want_grads:
        return float(weights @ token_losses(params, cfg, tokens, targets, arena).ravel()), {}
    if grads is None:
        grads = {k: (cp.zeros if add else cp.empty)(p.shape, np.float32) for k, p in params.items()}
    step = Step(params, cfg, *tokens.shape, arena or cores.Arena(), True, recompute)
    step.put(tokens, targets, weights)
    step.run(grads, add)
    return float(cp.asnumpy(step.a["state"])[0]), grads


def token_losses(params, cfg, tokens, targets, arena=None, temperature=1.0):
    """fast.token_losses of parameters on the GPU; the losses are on the host."""
    check_call(params, cfg, tokens, targets, temperature)
    step = Step(params, cfg, *tokens.shape, arena or cores.Arena(), False)
    step.put(tokens, targets, np.zeros(tokens.shape))
    step.run()
    return np.where(targets == -1, 0.0, cp.asnumpy(step.a["nll"]).reshape(targets.shape))


# ------------------------------------------------------------------------------------------------------- training


def memory_plan(cfg, B, recompute=False, bf16=True):
    """{what: bytes} of training with B sequences at once, known before any of it is taken."""
    n, shapes, T, C = Layout(cfg).size, step_shapes(cfg, B, cfg.n_positions, True, recompute), cfg.n_positions, cfg.n_embd
    real, kinds = 2 if bf16 else 4, other_kinds(shapes)
    plan = {"parameters": 4 * n + 2 * n * bf16, "gradients": 4 * n, "AdamW": 8 * n, "activations": 0, "logits": 0,
            "scratch": 4 * max(B * T * cfg.n_head, 2 * 264 * C, 4 * 264 * 256 + 4 * C) + (32 << 20)}       # and cublasLt's own
    for k, shape in shapes.items():
        plan["logits" if k == "logits" else "activations"] += cores.padded(shape, 4 if k in kinds else real)
    return plan


class Training:
    """A model and AdamW on the GPU: add() batches, then update().

    params and optimizer (a train.AdamW) are the host's, for checkpoints: download() brings them up to date.
    """

    def __init__(self, params, optimizer, cfg, rows, recompute=False, bf16=True):
        self.host, self.optimizer, self.layout, self.begun = params, optimizer, Layout(cfg), False
        self.master, self.m, self.v = (cp.asarray(self.layout.gather(a)) for a in (params, optimizer.m, optimizer.v))
        self.copy = kernels.to_bf16(self.master) if bf16 else None
        self.params = self.layout.views(self.copy if bf16 else self.master)
        self.flat = cp.zeros((self.layout.size,), np.float32)           # what pads it stays 0
        self.grads, self.rates = self.layout.views(self.flat), cp.zeros((3,), np.float32)
        self.arena = cores.Arena()
        self.step = Step(self.params, cfg, rows, cfg.n_positions, self.arena, True, recompute)
        self.state, self.clip = self.step.a["state"], None
        self.first, self.more, self.finish = kernels.Recording(), kernels.Recording(), kernels.Recording()

    def clear(self):
        self.begun = False

    def add(self, tokens, targets, weights):            # (B,T) each
        """Returns while the GPU is at work: 0.0, for the loss is not known before update()."""
        self.step.put(tokens, targets, weights)
        (self.more if self.begun else self.first)(functools.partial(self.step.run, self.grads, self.begun))
        self.begun = True
        return 0.0

    def _finish(self):
        o = self.optimizer
        kernels.grad_norm(self.flat, self.clip, self.state)
        kernels.adamw(self.flat, self.master, self.m, self.v, self.copy, self.state, self.rates, self.layout.n_decayed,
                      o.beta1, o.beta2, o.eps, o.weight_decay)

    def update(self, lr, clip):
        """(loss, gradient norm) of the step, which is taken, unless one of them is not finite."""
        t, o = self.optimizer.t + 1, self.optimizer
        if self.clip not in (None, clip):
            raise ValueError(f"clip {clip}: the step was recorded with {self.clip}")
        self.clip = clip
        self.rates.set(np.array([lr, 1.0 / (1.0 - o.beta1 ** t), 1.0 / (1.0 - o.beta2 ** t)], np.float32))
        self.finish(self._finish)
        loss, norm, scale = cp.asnumpy(self.state).tolist()
        o.t += scale != 0.0
        return loss, norm

    def close(self):
        self.download()

    def download(self):
        for flat, arrays in ((self.master, self.host), (self.m, self.optimizer.m), (self.v, self.optimizer.v)):
            self.layout.scatter(flat, arrays)


# ------------------------------------------------------------------------------------------------------- decoding


class Cache(fast.Cache):
    """fast.Cache on the GPU, and beside it the step that decodes into it."""

    def __init__(self, cfg, batch, n_positions=None, like=None):
        super().__init__(cfg, batch, n_positions, like)
        self.k, self.v, self.step = cp.zeros(self.k.shape, self.k.dtype), cp.zeros(self.v.shape, self.v.dtype), None

    def rows(self, part):
        """As of fast.Cache; decoding of these rows is another step."""
        some = super().rows(part)
        some.step = None
        return some


class DecodeStep:
    """T new positions of each row of a cache. The case of generation, T = 1, is made over and over: it is recorded."""

    def __init__(self, params, cfg, cache, T, only_last):
        self.params, self.cfg, self.only_last, B = params, cfg, only_last, len(cache.length)
        N, V = B * T, len(params["wte.weight"])
        shapes = {**walk.block_shapes(cfg, B, T), "x": (N, cfg.n_embd), "t": (N, cfg.n_embd), "y": (B, cfg.n_embd),
                  "logits": (B if only_last else N, V), "inbox": (2 * N + 3 * B,)}
        self.a = cores.Arena().divide(shapes, params["wte.weight"].dtype, other_kinds(shapes), cp)
        self.inbox, self.i = Inbox(self.a["inbox"]), cut(self.a["inbox"], tokens=N, positions=N, length=B, n_new=B, last=B)
        self.s, self.layers = SimpleNamespace(**self.a), [walk.layer_params(params, i) for i in range(cfg.n_layer)]
        self.recording = kernels.Recording() if T == 1 else None

    def run(self, cache):
        s, p, cfg = self.s, self.params, self.cfg
        kernels.embedding_forward(self.i["tokens"], self.i["positions"], p["wte.weight"], p["wpe.weight"], out=s.x)

        def attend(i, qkv, o):
            kernels.decode_attention(qkv, cache.k[i], cache.v[i], self.i["length"], self.i["n_new"], out=o)

        last = s.a, s.n_1, s.rstd_1
        walk.trunk_forward(kernels, s.x, p, self.layers, [s] * cfg.n_layer, cfg.n_head, last, attend=attend)
        y = kernels.take_rows(s.a, self.i["last"], s.y) if self.only_last else s.a
        kernels.matmul(y, p["wte.weight"], s.logits, w_t=True)


def decode(params, cfg, tokens, cache, n_new=None, only_last=False):
    """fast.decode with parameters and cache on the GPU; the logits are on the host."""
    n_new = checks.new_positions(cfg, params, tokens, cache, n_new)
    (B, T), S = tokens.shape, cache.k.shape[3]
    key = T, only_last, id(params)
    if not cache.step or cache.step[0] != key:
        cache.step = key, DecodeStep(params, cfg, cache, T, only_last)
    step = cache.step[1]
    positions = np.minimum(cache.length[:, None] + np.arange(T), S - 1)
    step.inbox.send(*(np.ascontiguousarray(a, np.int32) for a in (tokens, positions, cache.length, n_new, np.arange(B) * T + n_new - 1)))
    if step.recording:
        step.recording(functools.partial(step.run, cache))
    else:
        step.run(cache)
    cache.length += n_new
    logits = kernels.on_host(step.s.logits)[:, :cfg.vocab_size]
    return logits if only_last else logits.reshape(B, T, -1)
