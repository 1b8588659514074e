"""device.py: the models of gpt.py and model/llama.py on a GPU.

It offers the functions of model/fast.py, walks through the blocks with the same model/walk.py, and
computes with the kernels of kernels/. What a GPU adds: one arena for all that a step needs, planned
before it is taken, and steps recorded as CUDA graphs, in which nothing is allocated and nobody
waits for the host.

Weights and activations are bfloat16, kept as uint16. What is summed over many rows or many steps is
float32, such as gradients. Or everything is float32. Same seed, same bits: no kernel adds in an
order that may change. model/device_training.py trains with it.

Sources: Micikevicius et al. 2018 (master weights); karpathy/llm.c (the plan of memory, gradients in
place of activations).
"""

import functools
import sys
from types import SimpleNamespace

from model import cores                    # before numpy
from model import checks, families, llama, lora, nccl_ranks, pages, ranks, walk
from model.layout import Layout
import numpy as np

LOGIT_NUMBERS = 1 << 31         # of the rows of logits that exist at once: 4 GB in bfloat16
ROW_TOKENS = 1 << 16            # tokens at once that keep a GPU busy
SHARE = 0.5                     # of the free memory, for activations; the rest is for rollouts

cp = kernels = launching = None     # CuPy and the kernels, once there is a GPU to use them on


def connect(dtype=None):
    """The GPU: its name, bf16 (whether to compute in it), free_bytes, and cards.

    Where there are ranks, each has a GPU of its own, and cards is how it reaches the others.

    dtype: "bf16", "float32", or None for the first where the GPU has it. ValueError says what is
    missing where there is no GPU that can be used.
    """
    global cp, kernels, launching
    try:
        import cupy
    except ImportError as e:
        raise ValueError(
            f"no CuPy, through which a GPU is reached ({e}). Install the one for the CUDA version "
            'that nvidia-smi shows, with: pip install "cupy-cuda12x[ctk]" or "cupy-cuda13x[ctk]"; '
            "or leave out --device cuda") from None
    try:
        if not cupy.cuda.runtime.getDeviceCount():
            raise ValueError("no GPU here that CUDA can use; leave out --device cuda")
        here = ranks.here()
        if here.size > 1:
            nccl_ranks.choose_card(here, cupy)
        found = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        cupy.empty((1,), np.float32)
    except RuntimeError as e:
        advice = "See whether nvidia-smi shows one"
        if "InsufficientDriver" in str(e):
            advice = (
                "There is no NVIDIA driver, or it is older than this CuPy needs: update it, or "
                "install the CuPy of the CUDA version that nvidia-smi shows"
            )
        raise ValueError(
            f"no GPU that answers ({e}). {advice}; or leave out --device cuda") from None
    cp = cupy
    import kernels as operations
    from kernels import launching as of_kernels
    kernels, launching = operations, of_kernels
    kernels.checks.limits()     # ValueError for a GPU that the kernels are not written for
    name = found["name"].decode() if isinstance(found["name"], bytes) else found["name"]
    has_bf16 = found["major"] >= 8          # the tensor cores for it came with 8.0
    if not has_bf16 and dtype != "float32":
        print(f"{name}: no bfloat16 (compute capability {found['major']}.{found['minor']}, 8.0 has "
              "it); computing in float32", file=sys.stderr)
    cards = nccl_ranks.ONE_CARD
    if here.size > 1:
        cards = here.cards or nccl_ranks.connect(here, cp)
    free_bytes, _ = cp.cuda.runtime.memGetInfo()
    is_bf16 = has_bf16 and dtype != "float32"
    return SimpleNamespace(name=name, bf16=is_bf16, free_bytes=free_bytes, cards=cards)


def available_bytes():
    """Memory of the GPU that nobody has, and what CuPy keeps of what was given back."""
    free_bytes, _ = cp.cuda.runtime.memGetInfo()
    return free_bytes + cp.get_default_memory_pool().free_bytes()


def check_room(taking, needed, there, advice):
    """ValueError where something takes more bytes of the GPU's memory than there are."""
    if needed > there:
        raise ValueError(f"{taking} {needed / 1e9:.2f} GB of this GPU's memory, {there / 1e9:.2f} "
                         f"GB are free; {advice}")


def add_arguments(parser):
    """The options --device and --dtype."""
    where = parser.add_argument_group("on what")
    where.add_argument("--device", default="cpu", choices=("cpu", "cuda"),
                       help="cuda: the GPU, through CuPy")
    where.add_argument("--dtype", choices=("bf16", "float32"),
                       help="of weights and activations on the GPU (default: bf16 where it can); "
                       "to write on the CPU, bf16 keeps weights as the file has them, in half of "
                       "the memory, and is slower")


def kept_on_cpu(args):
    """The dtype of folders.load that add_arguments' options ask for."""
    keeps = args.device == "cpu" and args.dtype == "bf16"
    return "bfloat16" if keeps else "float32"


def check_dtype(args):
    """ValueError for a --dtype on the CPU, which computes in float32."""
    if args.dtype and args.device == "cpu":
        raise ValueError(
            f"--dtype {args.dtype}: the CPU computes in float32; the choice is for --device cuda")


def chosen(args, is_for_writing=False):
    """The GPU that add_arguments' options ask for, or None for the CPU.

    is_for_writing: whether a model on the CPU may keep its matrices in bfloat16 (kept_on_cpu).
    """
    if not is_for_writing:
        check_dtype(args)
    return connect(args.dtype) if args.device == "cuda" else None


# ------------------------------------------------------------------------------------- parameters


def upload(params, cfg, bf16=True):
    """{name: CuPy array} of the parameters in bfloat16 or float32, to compute with here.

    An adapter comes with them. They go one by one, so that the host needs no copy of all.
    """
    adapter = lora.of_params(params)
    scale = adapter.pop(lora.SCALE, None)
    layout = Layout(cfg, given={**families.shapes(cfg), **shapes_of(adapter)})
    needed = layout.size * (2 if bf16 else 4)
    check_room("weights take", needed, available_bytes(), "take a smaller model")
    flat = cp.zeros((layout.size,), np.uint16 if bf16 else np.float32)
    there = layout.views(flat)
    for name, view in there.items():
        p = params[name]
        if p.shape != layout.given[name]:
            raise ValueError(f"{name}: {p.shape}, expected {layout.given[name]}")
        values = cp.asarray(np.ascontiguousarray(p, np.float32))
        if bf16:
            kernels.to_bf16(values, view[: len(p)])
        else:
            view[: len(p)] = values
    return there if scale is None else {**there, lora.SCALE: scale}


def shapes_of(arrays):
    """{name: its shape} of {name: array}"""
    return {name: a.shape for name, a in arrays.items()}


# -------------------------------------------------------------------------------- loss, gradients


class Inbox:
    """Whole numbers on their way to the GPU.

    Two buffers take turns, so that the next batch is made ready while the GPU is still at work on
    the last one.
    """

    def __init__(self, there):          # (n,) int32 on the GPU
        self.there, self.turn, self.sent = there, 0, [None, None]
        self.here = []
        for _ in self.sent:
            pinned = cp.cuda.alloc_pinned_memory(there.nbytes)
            self.here.append(np.frombuffer(pinned, np.int32, there.size))

    def send(self, *parts):
        """Send arrays of int32 or float32, which fill it in this order."""
        self.turn ^= 1
        here, size = self.here[self.turn], sum(part.size for part in parts)
        if size != here.size:
            raise ValueError(f"{size} numbers for the GPU, {here.size} are expected there")
        if self.sent[self.turn]:
            self.sent[self.turn].synchronize()
        at = 0
        for part in parts:
            here[at : at + part.size] = part.view(np.int32).ravel()
            at += part.size
        self.there.set(here, cp.cuda.get_current_stream())
        self.sent[self.turn] = cp.cuda.Event(disable_timing=True)
        self.sent[self.turn].record()


def cut(flat, **sizes):
    """{name: view} of one array, behind each other."""
    views, at = {}, 0
    for name, size in sizes.items():
        views[name] = flat[at : at + size]
        at += size
    return views


def step_shapes(cfg, B, T, want_grads=True, recompute=False):
    """What a step divides its arena into; as fast.step_shapes, with what only a GPU needs."""
    N, V = B * T, Layout(cfg).shapes["wte.weight"][0]
    shapes = walk.trunk_shapes(cfg, B, T, want_grads, recompute)
    shapes["logits"] = (min(N, max(1, LOGIT_NUMBERS // V)), V)
    shapes["nll"] = (N,)
    shapes["state"] = (3,)          # the loss, the norm of the gradients, the scale that clips it
    shapes["inbox"] = (7 * N + 1,)
    shapes.update(table_shapes(cfg, T))
    if want_grads:
        shapes["dqkv"] = shapes["h.0.qkv"]
    return shapes


def table_shapes(cfg, n_positions):
    """{name: shape} of the rotary positions, where the model has them."""
    is_llama = families.of(cfg) is llama
    return {"table": (n_positions, cfg.head_size)} if is_llama else {}


def trunk_of(params, cfg, arrays, is_new=True, texts=None):
    """The way through the model in such arrays, of which it fills the table of positions.

    is_new: whether the table is to be filled. texts: as for kernels.attention_forward.
    """
    table = arrays.get("table")
    if table is not None and is_new:
        fill_table(table, cfg)
    return walk.Trunk(kernels, params, cfg, arrays, texts, table=table)


def fill_table(table, cfg):
    """Fill a table of rotary positions (P,HS)."""
    n = len(table)
    table.set(walk.way_of(cfg).rotary_table(cfg, n, np.float32)[:n])


def other_kinds(shapes):
    """{name: dtype} of the arrays that are not what the weights are."""
    kinds = {}
    for name in shapes:
        if name.rpartition(".")[2].startswith(("rstd", "lse", "nll", "state", "table")):
            kinds[name] = np.float32
        elif name in ("inbox", "drawn"):
            kinds[name] = np.int32
        elif name == "settings":
            kinds[name] = np.float64
    return kinds


def row_bytes(cfg, T, bf16, *more):
    """What one more row of T tokens takes of a step's arena. more: as of step_shapes."""
    return sum(arena_bytes(step_shapes(cfg, 1, T, *more), bf16).values())


def arena_bytes(shapes, bf16):
    """{name: bytes} of what a step divides its arena into."""
    kinds = other_kinds(shapes)
    found = {}
    for name, shape in shapes.items():
        itemsize = 2 if bf16 and name not in kinds else 4
        found[name] = cores.padded(shape, itemsize)
    return found


class Step:
    """Forward and backward of B sequences of T tokens, in arrays that stay where they are: run()
    may be recorded.

    temperature: what the logits are divided by. kept: {name: array} of those of step_shapes that
    outlive the step: the loss goes into "state", and "table" is filled.
    """

    def __init__(
        self, params, cfg, B, T, arena, want_grads=True, recompute=False, temperature=1.0, kept=None
    ):
        self.params, self.cfg, self.B, self.T = params, cfg, B, T
        self.head = families.head_name(cfg)
        self.by = 1.0 / temperature
        self.is_frozen = lora.SCALE in params           # and only its adapter learns
        kept = kept or {}
        shapes = step_shapes(cfg, B, T, want_grads, recompute)
        sizes = self.inbox_sizes()
        shapes["inbox"] = (sum(sizes.values()),)
        for name in kept:
            shapes.pop(name, None)
        made = arena.divide(shapes, params["wte.weight"].dtype, other_kinds(shapes), cp)
        self.a = {**made, **kept}
        self.state, self.inbox = self.a["state"], Inbox(self.a["inbox"])
        self.sent = cut(self.a["inbox"], **sizes)
        self.weights = self.sent["weights"].view(np.float32)
        self.trunk = trunk_of(params, cfg, self.a, "table" in made, self.texts())

    def inbox_sizes(self):
        """{name: how many numbers} of what put() sends, in order."""
        N = self.B * self.T
        return dict(tokens=N, positions=N, targets=N, weights=N, order=N, starts=N + 1, values=N)

    def texts(self):
        """What tells the texts of a row apart; None where it has one."""
        return None

    def put(self, tokens, targets, weights):
        """Send a batch: (B,T) each on the host, weights also (B*T,).

        Missing sequences count nothing, and neither does a target of -1.
        """
        tokens, targets, weights = self._padded(tokens, targets, weights)
        positions = np.tile(np.arange(self.T, dtype=np.int32), self.B)
        sorted_rows = kernels.look_ups(tokens.ravel())
        self.inbox.send(tokens, positions, targets, weights, *sorted_rows)

    def _padded(self, tokens, targets, weights):
        """A batch, checked, as (B,T) int32, int32 and float32 of the step."""
        checks.check_tokens(self.cfg, tokens)
        if tokens.shape[1] != self.T or len(tokens) > self.B:
            raise ValueError(f"tokens: {tokens.shape}, expected 1 to {self.B} rows of {self.T}")
        checks.check_targets(self.cfg, tokens, targets)
        if weights.shape not in (tokens.shape, (tokens.size,)):
            raise ValueError(f"weights have shape {weights.shape}, targets {targets.shape}")
        counted = targets != -1
        weights = np.where(counted, weights.reshape(tokens.shape), 0.0)
        targets = np.where(counted, targets, 0)
        missing = (0, self.B - len(tokens)), (0, 0)
        tokens, targets = (np.pad(a.astype(np.int32), missing) for a in (tokens, targets))
        return tokens, targets, np.pad(weights.astype(np.float32), missing)

    def run(self, grads=None, add=False):
        """Put the losses into nll and their weighted sum into state[0]; with grads, {name: float32
        array}, the gradients into those. With add, both are added to what is there."""
        self.forward()
        self._head(grads, add)
        if grads:
            self.backward(grads, add)

    def forward(self):
        """Fill y (N,C), the hidden states behind the last norm."""
        self.trunk.forward(self.sent["tokens"], self.sent["positions"])

    def backward(self, grads, add):
        """From dy in y to the gradients of all that learns; the head's own are there."""
        self.trunk.backward(grads, add)
        if not self.is_frozen:
            self._embeddings_backward(grads, add)

    def hidden_at(self, last):
        """The hidden states (n,C) of rows at one position each: (n,) int on the host"""
        at = np.arange(len(last)) * self.T + last
        rows = cp.empty((len(last), self.cfg.n_embd), self.a["y"].dtype)
        return kernels.take_rows(self.a["y"], cp.asarray(at.astype(np.int32)), rows)

    def put_slopes(self, last, dh):
        """Let dy in y be dh (n,C), of the host, at one position of each row, and 0 elsewhere."""
        at = np.arange(len(last)) * self.T + last
        values, y = cp.asarray(np.ascontiguousarray(dh, np.float32)), self.a["y"]
        y[...] = 0
        y[cp.asarray(at)] = values if y.dtype == np.float32 else kernels.to_bf16(values)

    def _embeddings_backward(self, grads, add):
        """The gradient of wte, to which the head has given its share, and of wpe."""
        if self.head != "wte.weight" and not add:
            grads["wte.weight"][...] = 0.0
        sorted_rows = tuple(self.sent[name] for name in ("order", "starts", "values"))
        kernels.embedding_backward(self.a["x"], sorted_rows, grads["wte.weight"])
        if "wpe.weight" in grads:
            self._positions_backward(grads, add)

    def _positions_backward(self, grads, add):
        """The gradient of wpe."""
        kernels.position_backward(self.a["x"], self.B, grads["wpe.weight"], add)

    def _head(self, grads, add):
        """Losses and, with grads, the derivative by y in the place of y. Logits become their own
        gradient in place, some rows at a time."""
        a, w_head = self.a, self.params[self.head]
        N, rows = len(a["y"]), len(a["logits"])
        for begin in range(0, N, rows):
            at = slice(begin, min(begin + rows, N))
            y, z = a["y"][at], a["logits"][: at.stop - begin]
            kernels.matmul(y, w_head, z, w_t=True, scale=self.by)
            weights = self.weights[at] if grads else None
            targets, nll = self.sent["targets"][at], a["nll"][at]
            kernels.cross_entropy(z, targets, weights, self.cfg.vocab_size, out=nll)
            if not grads:
                continue
            # forward was: logits = y w_head^T / temperature
            if not self.is_frozen:
                more = add or begin > 0
                kernels.matmul(z, y, grads[self.head], x_t=True, add=more, scale=self.by)
            kernels.matmul(z, w_head, y, scale=self.by)
        kernels.loss_sum(a["nll"], self.weights, self.state, add)


def check_call(params, cfg, tokens, targets, temperature):
    """What loss_and_grads and token_losses are given."""
    checks.check_tokens(cfg, tokens)
    checks.check_targets(cfg, tokens, targets)
    checks.check_params(params, cfg, kernels.checks.check_on_gpu)
    checks.check_positive("temperature", temperature)


def loss_and_grads(
    params, cfg, tokens, targets, weights=None, want_grads=True, grads=None, add=False, arena=None,
    recompute=False, temperature=1.0,
):
    """fast.loss_and_grads of parameters on the GPU, where the gradients are then, in float32."""
    check_call(params, cfg, tokens, targets, temperature)
    weights = checks.token_weights(targets, weights, np.float32)
    if not want_grads:
        losses = token_losses(params, cfg, tokens, targets, arena, temperature)
        return float(weights @ losses.ravel()), {}
    if grads is None:
        fresh = cp.zeros if add else cp.empty
        learned = lora.learned(params)
        grads = {name: fresh(p.shape, np.float32) for name, p in learned.items()}
    arena = arena or cores.Arena()
    step = Step(params, cfg, *tokens.shape, arena, True, recompute, temperature)
    step.put(tokens, targets, weights)
    step.run(grads, add)
    return float(cp.asnumpy(step.state)[0]), grads


def token_losses(params, cfg, tokens, targets, arena=None, temperature=1.0):
    """fast.token_losses of parameters on the GPU; the losses are on the host.

    So many rows at a time as keep it busy.
    """
    check_call(params, cfg, tokens, targets, temperature)
    nll = np.empty(targets.shape, np.float32)
    for rows, step in forward_steps(params, cfg, tokens, arena, temperature):
        step.put(tokens[rows], targets[rows], np.zeros(targets[rows].shape))
        step.run()
        found = cp.asnumpy(step.a["nll"]).reshape(step.B, -1)
        nll[rows] = found[: rows.stop - rows.start]
    return np.where(targets == -1, 0.0, nll)


def forward_steps(params, cfg, tokens, arena, temperature=1.0):
    """(slice of the rows of tokens, a Step for them), for all rows."""
    B, T = tokens.shape
    bf16 = params["wte.weight"].dtype == np.uint16
    a_row = row_bytes(cfg, T, bf16, False)
    there = available_bytes() + (arena.memory.nbytes if arena and arena.memory is not None else 0)
    check_room(
        f"a text of {T:,} tokens takes", a_row, there, "take shorter texts or a smaller model")
    at_once = min(B, max(1, ROW_TOKENS // T), max(1, int(SHARE * there // a_row)))
    step = Step(params, cfg, at_once, T, arena or cores.Arena(), False, temperature=temperature)
    for begin in range(0, B, at_once):
        yield slice(begin, min(begin + at_once, B)), step


def last_hidden(params, cfg, tokens, last, arena=None):
    """fast.last_hidden of parameters on the GPU; what is found is on the host."""
    checks.check_tokens(cfg, tokens)
    found = np.empty((len(tokens), cfg.n_embd), np.float32)
    for rows, step in forward_steps(params, cfg, tokens, arena):
        nothing = np.full(tokens[rows].shape, -1)
        step.put(tokens[rows], nothing, np.zeros(nothing.shape))
        step.forward()
        found[rows] = kernels.on_host(step.hidden_at(last[rows]))
    return found


# --------------------------------------------------------------------------------------- decoding


class Cache(pages.PagedCache):
    """fast.Cache on the GPU, in pages, and beside it the step that decodes into it.

    budget: bytes for keys and values, by default half of what is free.
    """

    def __init__(self, cfg, batch, n_positions=None, like=None, budget=None):
        if budget is None:
            there = available_bytes()
            dtype = np.float32 if like is None else like.dtype
            longest = n_positions or cfg.n_positions
            needed = -(-longest // pages.PAGE) * pages.bytes_a_page(cfg, dtype)
            check_room(f"keys and values of a text of {longest:,} tokens take", needed, there,
                       "write a shorter text")
            budget = there // 2
        super().__init__(cp, cfg, batch, n_positions, like, budget)
        self.step = None

    def rows(self, part):
        """As of fast.Cache. Decoding into these rows is another step."""
        some = super().rows(part)
        some.step = None
        return some


class DecodeStep:
    """T new positions of each row of a cache.

    Generation, T = 1, does the same again and again: it is recorded. n_vocab: how many ids there
    are, where tokens are drawn on the GPU; hidden as for kernels.draw.
    """

    def __init__(self, params, cfg, cache, T, only_last, n_vocab=None, hidden=None):
        self.params, self.cfg, self.only_last = params, cfg, only_last
        self.n_vocab, self.hidden = n_vocab, hidden
        V = len(params["wte.weight"])
        B, self.most = cache.table.shape
        N = B * T
        shapes = walk.trunk_shapes(cfg, B, T, want_grads=False)
        shapes.update(table_shapes(cfg, cache.room))
        shapes["y_last"] = (B, cfg.n_embd)
        shapes["logits"] = (B if only_last else N, V)
        shapes["inbox"] = (2 * N + 3 * B + B * self.most,)
        if n_vocab:
            shapes["drawn"], shapes["settings"] = (2 * B,), (5, B)
        dtype = params["wte.weight"].dtype
        self.a = cores.Arena().divide(shapes, dtype, other_kinds(shapes), cp)
        self.trunk = trunk_of(params, cfg, self.a)
        self.inbox = Inbox(self.a["inbox"])
        self.sent = cut(
            self.a["inbox"], tokens=N, positions=N, length=B, n_new=B, last=B, pages=B * self.most)
        self.recording = launching.Recording() if T == 1 else None

    def run(self, cache):
        """Put the logits of what was sent into a["logits"], and the new positions into cache."""
        a, sent = self.a, self.sent

        def attend(i, qkv, o):
            k, v, length, n_new = cache.k[i], cache.v[i], sent["length"], sent["n_new"]
            table = sent["pages"].reshape(-1, self.most)
            kernels.decode_attention(qkv, k, v, length, n_new, o, table)

        self.trunk.forward(sent["tokens"], sent["positions"], attend)
        y = kernels.take_rows(a["y"], sent["last"], a["y_last"]) if self.only_last else a["y"]
        kernels.matmul(y, self.params[families.head_name(self.cfg)], a["logits"], w_t=True)
        if self.n_vocab:
            tokens, logp = a["drawn"].reshape(2, -1)
            logits, settings = a["logits"], a["settings"]
            kernels.draw(
                logits, settings, tokens, logp.view(np.float32), self.n_vocab, self.hidden)


def decode(params, cfg, tokens, cache, n_new=None, only_last=False):
    """fast.decode with parameters and cache on the GPU; the logits are on the host."""
    step = run_decode(params, cfg, tokens, cache, n_new, only_last)
    logits = kernels.on_host(step.a["logits"])[:, : cfg.vocab_size]
    return logits if only_last else logits.reshape(*tokens.shape, -1)


def hidden_ids(tokenizer):
    """What kernels.draw adds to logits, on the GPU: -inf where an id is no token's; or None."""
    if not len(tokenizer.holes):
        return None
    hidden = np.zeros(tokenizer.n_vocab, np.float32)
    hidden[tokenizer.holes] = -np.inf
    return cp.asarray(hidden)


def decode_and_draw(params, cfg, tokens, cache, settings, n_vocab, hidden=None):
    """Read the last token (B,1) of each row, and draw the next -> tokens (B,), logp (B,)

    settings (5,B) float64: as for kernels.draw, and so are n_vocab and hidden. What goes over to
    the host is two numbers a row, where logits would be thousands.
    """
    step = run_decode(params, cfg, tokens, cache, None, True, settings, n_vocab, hidden)
    drawn, logp = cp.asnumpy(step.a["drawn"]).reshape(2, -1)
    return drawn, logp.view(np.float32)


def run_decode(params, cfg, tokens, cache, n_new, only_last, settings=None, n_vocab=None,
               hidden=None):
    """The DecodeStep that has read new tokens: see decode and decode_and_draw."""
    n_new = checks.new_positions(cfg, params, tokens, cache, n_new)
    (B, T), S = tokens.shape, cache.room
    cache.extend(n_new)
    key = T, only_last, n_vocab, id(params)
    if not cache.step or cache.step[0] != key:
        made = DecodeStep(params, cfg, cache, T, only_last, n_vocab, hidden)
        cache.step = key, made
    step = cache.step[1]
    if n_vocab:
        step.a["settings"].set(np.ascontiguousarray(settings))
    positions = np.minimum(cache.length[:, None] + np.arange(T), S - 1)
    last = np.arange(B) * T + n_new - 1
    numbers = tokens, positions, cache.length, n_new, last, cache.table
    step.inbox.send(*(np.ascontiguousarray(a, np.int32) for a in numbers))
    if step.recording:
        step.recording(functools.partial(step.run, cache))
    else:
        step.run(cache)
    cache.length += n_new
    return step
