"""fast.py: gpt.py's model for NumPy at full speed: every core, no memory taken anew, blocks that stay in cache.

The functions have the names and the meanings of gpt.py's, which are their specification.
"""

import contextlib
import copy
import functools
import threading
from types import MappingProxyType, SimpleNamespace

from model import cores                                            # before numpy, whose BLAS it sets up
from model.cores import Arena, in_parallel, padded
from model import operations, walk
from model.checks import (
    check_grads, check_out, check_params, check_positive, check_shape, check_targets, check_texts,
    check_tokens, new_positions, token_weights,
)
from model.walk import LAYER, block_shapes, layer_params
from gpt import param_shapes
import gpt
import numpy as np

# B batch   T query positions   S key positions   N = B*T rows   V vocabulary   F width of a linear layer's output
# L layers  NH heads            HS head size      C = NH*HS channels

SMALL_MODEL = 8 << 20   # parameters; below, a model's weights stay in cache while it writes
PART = 64 << 20         # parameters x tokens; with less to do, a thread of decode waits for its turn at the interpreter more than it works
LOGIT_FLOATS = 1 << 24  # rows of logits that exist at once: 64 MB in float32
HEAD_COLUMNS = 512      # of a decoder's logits at a time: the BLAS's copy of weights stays in cache


# -------------------------------------------------------------------------------------------------- memory


def _full(k, i):
    """A parameter's name in the model, from its name in block i; the last norm belongs to no block."""
    return k if k.startswith("ln_f") else f"h.{i}.{k}"


def step_shapes(cfg, B, T, threads, want_grads=True, recompute=False):
    """Everything one call of loss_and_grads divides its arena into: {name: shape}, read-only.

    With recompute only the input of each block is kept, and the backward runs the block's forward again:
    a third more work for a fraction of the memory.
    """
    return _step_shapes(cfg, B, T, threads, want_grads, recompute, LOGIT_FLOATS)


@functools.lru_cache(maxsize=16)
def _step_shapes(cfg, B, T, threads, want_grads, recompute, logit_floats):
    N, C, L = B * T, cfg.n_embd, cfg.n_layer
    kept = L if want_grads and not recompute else 1
    shapes = {f"h.{i}.{k}": shape for i in range(kept) for k, shape in block_shapes(cfg, B, T).items()}
    rows = min(N, max(threads, logit_floats // cfg.vocab_size))
    shapes.update({"x": (N, C), "t": (N, C), "y": (N, C), "n_f": (N, C), "rstd_f": (N, 1), "logits": (rows, cfg.vocab_size), "y_rows": (rows, C)})
    if want_grads:
        if recompute:
            shapes.update({f"x.{i}": (N, C) for i in range(L)})
        ours = {k.removeprefix("h.0."): shape for k, shape in param_shapes(cfg).items() if k.startswith(("h.0.", "ln_f."))}
        shapes.update({f"grad.{i}.{k}": shape for i in range(min(threads, B)) for k, shape in ours.items()})
    return MappingProxyType(shapes)                     # every caller gets the same one


def _thread_count(threads):
    """How many threads a caller wants: None for one on each core."""
    if threads is None:
        return cores.N_THREADS
    if not (isinstance(threads, int) and threads >= 1):
        raise ValueError(f"threads: {threads!r}, expected an integer of at least 1, "
                         "or None for one on each core")
    return threads


def memory_plan(cfg, B, T, recompute=False, threads=None, itemsize=4):
    """{what: bytes} of training with B sequences of T tokens at once, known before any of it is taken."""
    shapes = step_shapes(cfg, B, T, _thread_count(threads), True, recompute)
    n = cfg.n_params * itemsize
    plan = {"parameters": n, "gradients": n, "AdamW": 2 * n, "activations": 0, "logits": 0}
    for k, shape in shapes.items():
        kind = "gradients" if k.startswith("grad.") else "logits" if k in ("logits", "y_rows") else "activations"
        plan[kind] += padded(shape, itemsize)
    return plan


# --------------------------------------------------------------------------------------------- the whole model


@contextlib.contextmanager
def _only_user(arena):
    """Two calls that work in one arena at a time would overwrite each other's arrays."""
    lock = vars(arena).setdefault("in_use", threading.Lock())
    if not lock.acquire(blocking=False):
        raise ValueError("arena: in use by another call; give each thread an Arena of its own")
    try:
        yield arena
    finally:
        lock.release()


class _Step:
    """The arrays of one step and the walks through the model, each for a part of the batch.

    The sequences are divided among threads, and each takes its own through the whole trunk and back without waiting
    for others. The gradients of parameters are sums over all rows: each thread sums those of its rows in arrays of its
    own, which are then added up.
    """

    def __init__(self, params, cfg, tokens, arena, threads, want_grads=True, recompute=False, positions=None, segments=None):
        self.params, self.cfg, self.tokens, self.recompute, self.positions = params, cfg, tokens, recompute and want_grads, positions
        self.hidden = None if segments is None else operations.segments_hidden(segments, params["wte.weight"].dtype)
        self.B, self.T = tokens.shape
        self.a = arena.divide(step_shapes(cfg, self.B, self.T, threads, want_grads, recompute), params["wte.weight"].dtype)
        self.layers = [layer_params(params, i) for i in range(cfg.n_layer)]
        self.kept = [i if f"h.{i}.a" in self.a else 0 for i in range(cfg.n_layer)]      # which arrays block i uses

    def rows(self, part, *names):
        """The rows of arrays that belong to a part of the batch."""
        s, out = part(self.B), []
        for name in names:
            each = len(self.a[name]) // self.B          # rows of this array that a sequence has
            out.append(self.a[name][s.start * each:s.stop * each])
        return out if len(out) > 1 else out[0]

    def block(self, i, part):
        names = {**{k: f"h.{self.kept[i]}.{k}" for k in block_shapes(self.cfg, 1, 1)}, "t": "t"}
        hidden = None if self.hidden is None else self.hidden[part(self.B)]
        return SimpleNamespace(**dict(zip(names, self.rows(part, *names.values()))), hidden=hidden)

    def trunk_forward(self, part):                      # fills y, (N,C) after the last norm
        p, tokens = self.params, self.tokens[part(self.B)]
        x, y, n_f, rstd_f = self.rows(part, "x", "y", "n_f", "rstd_f")
        positions = np.broadcast_to(np.arange(self.T), tokens.shape) if self.positions is None else self.positions[part(self.B)]
        operations.embedding_forward(tokens, positions, p["wte.weight"], p["wpe.weight"], out=x)
        blocks = [self.block(i, part) for i in range(self.cfg.n_layer)]
        keep = [self.rows(part, f"x.{i}") for i in range(self.cfg.n_layer)] if self.recompute else None
        walk.trunk_forward(operations, x, p, self.layers, blocks, self.cfg.n_head, (y, n_f, rstd_f), keep)

    def head(self, part, rows, targets, weights=None, temperature=1.0):       # (n,) int -> nll of this part's share of the rows
        """The losses under the tied head of some rows of the batch; with weights also their dy, in the place of y.

        Logits are the largest array of the model. They exist for some rows at a time, and become their own
        gradient in place.
        """
        at, wte = part(len(rows)), self.params["wte.weight"][:self.cfg.vocab_size]
        rows, y, z = rows[at], self.a["y_rows"][at], self.a["logits"][at]
        np.take(self.a["y"], rows, axis=0, out=y, mode="clip")
        if temperature != 1.0:                          # softmax(y wte^T / temperature)
            y /= temperature
        np.matmul(y, wte.T, out=z)
        nll, cache = operations.cross_entropy_forward(z, targets[rows])
        if weights is not None:
            dy = operations.cross_entropy_backward(weights[rows], cache) @ wte     # forward was: logits = y wte^T
            self.a["y"][rows] = dy if temperature == 1.0 else dy / temperature
        return nll

    def head_weight_backward(self, part, n, dwte, add):         # of the n rows that head was given last
        v = part(self.cfg.vocab_size)
        dz, y, dw = self.a["logits"][:n].T[v], self.a["y_rows"][:n], dwte[v]
        if not add:
            np.matmul(dz, y, out=dw)
            return
        for r in operations.row_blocks(dw):                       # a temporary that stays in cache
            dw[r] += dz[r] @ y

    def own_gradients(self, part, i, grads, add):
        """{name: array} in which a thread sums the gradients of block i over its rows: those of grads where it may."""
        names = [*LAYER, "ln_f.weight", "ln_f.bias"] if i == self.cfg.n_layer - 1 else LAYER
        if part == 0 and not add:
            return {k: grads[_full(k, i)] for k in names}
        return {k: self.a[f"grad.{part}.{k}"] for k in names}

    def block_backward(self, part, i, own):             # from dy in y, or dx in x, to dx in x
        dx, s = self.rows(part, "x"), self.block(i, part)
        if i == self.cfg.n_layer - 1:
            dy, n_f, rstd_f = self.rows(part, "y", "n_f", "rstd_f")
            operations.layernorm_backward(dy, (n_f, rstd_f, self.params["ln_f.weight"]), out=(dx, own["ln_f.weight"], own["ln_f.bias"]))
        if self.recompute:
            walk.block_forward(operations, self.rows(part, f"x.{i}"), None, self.layers[i], s, self.cfg.n_head)
        walk.block_backward(operations, dx, self.layers[i], s, self.cfg.n_head, own)

    def trunk_backward(self, n_parts, threads, grads, add):
        for i in reversed(range(self.cfg.n_layer)):
            own = [self.own_gradients(part, i, grads, add) for part in range(n_parts)]
            in_parallel(lambda part, i=i, own=own: self.block_backward(part, i, own[part.index]), n_parts)
            in_parallel(lambda part, i=i, own=own: self.add_up(part, i, own, grads), threads)

    def add_up(self, part, i, own, grads):              # own: what own_gradients gave to each thread
        """Part of the rows of the gradients of block i; after the first block, part of the columns of the embeddings."""
        for k in own[0]:
            total = grads[_full(k, i)]
            rows = part(len(total))
            for of_thread in own:
                if of_thread[k] is not total:
                    total[rows] += of_thread[k][rows]
        if i > 0:
            return
        columns = part(self.cfg.n_embd)
        dx = self.a["x"][:, columns]
        operations.embedding_backward(dx, self.tokens.ravel(), grads["wte.weight"][:, columns])
        if self.positions is None:
            grads["wpe.weight"][:self.T, columns] += dx.reshape(self.B, self.T, -1).sum(0)
        else:
            operations.embedding_backward(dx, self.positions.ravel(), grads["wpe.weight"][:, columns])


def _even_blocks(rows, most):
    """rows in as few blocks as possible of at most that many, all about as long."""
    return np.array_split(rows, -(-len(rows) // most)) if len(rows) else []


def forward(params, cfg, tokens):
    """gpt.forward; in place of its cache, all that was computed, under the names of step_shapes."""
    check_tokens(cfg, tokens)
    check_params(params, cfg)
    step = _Step(params, cfg, tokens, Arena(), cores.N_THREADS)
    in_parallel(step.trunk_forward, min(cores.N_THREADS, len(tokens)))
    logits = step.a["y"] @ params["wte.weight"][: cfg.vocab_size].T
    return logits.reshape(*tokens.shape, -1), step.a


def token_losses(params, cfg, tokens, targets, arena=None, temperature=1.0):
    """gpt.token_losses, with logits for some of the counted tokens at a time."""
    check_tokens(cfg, tokens)
    check_targets(cfg, tokens, targets)
    check_params(params, cfg)
    check_positive("temperature", temperature)
    targets, nll = targets.ravel(), np.zeros(targets.size, params["wte.weight"].dtype)
    with _only_user(arena or Arena()) as arena:
        step = _Step(params, cfg, tokens, arena, cores.N_THREADS, want_grads=False)
        in_parallel(step.trunk_forward, min(cores.N_THREADS, len(tokens)))
        for rows in _even_blocks(np.flatnonzero(targets != -1), len(step.a["logits"])):
            head = functools.partial(step.head, rows=rows, targets=targets, temperature=temperature)
            nll[rows] = np.concatenate(in_parallel(head, cores.N_THREADS))
    return nll.reshape(tokens.shape)


def loss_and_grads(params, cfg, tokens, targets, weights=None, want_grads=True, grads=None, add=False, arena=None,
                   recompute=False, threads=None, temperature=1.0, positions=None, segments=None):
    """gpt.loss_and_grads. The dict of gradients is empty without want_grads.

    grads: arrays to write the gradients to, or with add to add them to, for batches that come in several parts.
    A wrong argument is an error before they are written to.
    arena: an Arena to work in; with both given, a step allocates nothing of size. recompute: see step_shapes.
    threads: how many, by default one for each core.
    positions, segments (B,T) int: for rows of several texts, where each token stands in its own, and which it belongs to
    (segments_hidden).
    """
    check_tokens(cfg, tokens)
    check_targets(cfg, tokens, targets)
    check_params(params, cfg)
    check_positive("temperature", temperature)
    check_texts(cfg, tokens, positions, segments)
    threads = _thread_count(threads)
    weights = token_weights(targets, weights, params["wte.weight"].dtype)
    if not want_grads:
        if positions is not None or segments is not None:
            raise ValueError("positions and segments are for gradients")
        return float(weights @ token_losses(params, cfg, tokens, targets, arena, temperature).ravel()), {}
    grads = _gradients(params, cfg, grads, add)
    with _only_user(arena or Arena()) as arena:
        step = _Step(params, cfg, tokens, arena, threads, True, recompute, positions, segments)
        return _loss_and_grads(step, targets, weights, grads, add, threads, temperature)


def _loss_and_grads(step, targets, weights, grads, add, threads, temperature):
    tokens, cfg = step.tokens, step.cfg
    targets, n_parts = targets.ravel(), min(threads, len(tokens))
    in_parallel(step.trunk_forward, n_parts)
    counted, n, loss = np.flatnonzero(weights), len(step.a["logits"]), 0.0      # a row of weight 0 needs no logits
    if len(counted) < len(weights):
        step.a["y"][weights == 0.0] = 0.0
    if not add:                                         # where no product below will write
        grads["wpe.weight"][...] = 0.0
        grads["wte.weight"][cfg.vocab_size if len(counted) else 0:] = 0.0
    for j, rows in enumerate(_even_blocks(counted, n)):
        nll = in_parallel(lambda part, rows=rows: step.head(part, rows, targets, weights, temperature), threads)
        loss += float(weights[rows] @ np.concatenate(nll))
        in_parallel(lambda part, rows=rows, j=j: step.head_weight_backward(part, len(rows), grads["wte.weight"], add or j > 0), threads)
    step.trunk_backward(n_parts, threads, grads, add)
    return loss, grads


def _gradients(params, cfg, grads, add):
    """Places for the gradients: those given, once they are checked, or fresh ones.

    Tensors beside the model's, such as another head's, are the caller's affair: given arrays are left
    as they are, and fresh ones are zeros.
    """
    if grads is not None:
        check_grads(params, cfg, grads)
        return grads
    if add:
        raise ValueError("add needs grads, the arrays that hold what is added to")
    names = param_shapes(cfg)
    return {k: np.empty_like(p) if k in names else np.zeros_like(p) for k, p in params.items()}


def hidden_and_grads(params, cfg, tokens, head, want_grads=True, grads=None, add=False, arena=None):
    """loss_and_grads under another head than the tied one, such as a reward's.

    head(y) -> (loss, dy, dwte or None) of the last hidden states y, (B,T,C) after the final norm; dy is the gradient there, dwte
    what the head has to add to that of wte.weight. y lies in the arena: a head copies what it wants to keep.
    """
    check_tokens(cfg, tokens)
    check_params(params, cfg)
    if want_grads:
        grads = _gradients(params, cfg, grads, add)
    with _only_user(arena or Arena()) as arena:
        step = _Step(params, cfg, tokens, arena, cores.N_THREADS, want_grads)
        return _hidden_and_grads(step, head, want_grads, grads, add, cores.N_THREADS)


def _hidden_and_grads(step, head, want_grads, grads, add, threads):
    n_parts, y = min(threads, step.B), step.a["y"]
    in_parallel(step.trunk_forward, n_parts)
    loss, dy, dwte = head(y.reshape(step.B, step.T, -1))
    if not want_grads:
        return loss, {}
    check_shape("head: dy", dy, (step.B, step.T, step.cfg.n_embd))
    if dwte is not None:
        check_shape("head: dwte", dwte, grads["wte.weight"].shape)
        check_out("head: dwte", grads["wte.weight"], apart=(dwte,))
    y[...] = dy.reshape(y.shape)
    if not add:
        grads["wpe.weight"][...], grads["wte.weight"][...] = 0.0, 0.0
    if dwte is not None:
        grads["wte.weight"] += dwte
    step.trunk_backward(n_parts, threads, grads, add)
    return loss, grads


# -------------------------------------------------------------------------------------- cached generation


class Cache(gpt.Cache):
    """gpt.Cache, of which some rows can be had."""

    def rows(self, part):
        """A cache of the rows of a slice, in the same memory."""
        if not isinstance(part, slice):
            raise ValueError(f"rows of a cache: {part!r}, expected a slice")
        some = copy.copy(self)
        some.k, some.v, some.length = self.k[:, part], self.v[:, part], self.length[part]
        return some


def decode(params, cfg, tokens, cache, n_new=None, only_last=False):
    """gpt.decode of rows that may differ in length.

    tokens (B,T) int, right-padded when rows differ; n_new (B,) says how many of each row count (default T), at least 1.
    Returns (B,T,V), or (B,V) for the last counted position of each row with only_last, the case of
    generation.

    A small model's rows are divided among threads. A large model's time goes into reading its weights, so the weights
    are divided, and each is read once for all rows.
    """
    n_new = new_positions(cfg, params, tokens, cache, n_new)
    B = len(tokens)
    if cfg.n_params >= SMALL_MODEL:
        logits = _decode_rows(params, cfg, tokens, cache, n_new, only_last, min(cores.N_THREADS, cfg.n_head))
    else:
        parts = in_parallel(lambda part: _decode_rows(params, cfg, tokens[part(B)], cache.rows(part(B)), n_new[part(B)], only_last, 1),
                            max(1, min(cores.N_THREADS, B, cfg.n_params * tokens.size // PART)))
        logits = np.concatenate(parts)
    cache.length += n_new
    return logits


def _decode_rows(params, cfg, tokens, cache, n_new, only_last, n_parts):
    """n_parts threads divide each block by its heads and by the hidden units of its MLP: both end in a sum over them,
    the second projection, so a thread gets by with its own until then, and the sums of all are added."""
    (B, T), C, HS = tokens.shape, cfg.n_embd, cfg.n_embd // cfg.n_head
    scale = float(HS ** -0.5)
    S = min(int(cache.length.max()) + T, cache.k.shape[3])
    at = np.minimum(cache.length[:, None] + np.arange(T), S - 1)        # (B,T) places in the cache
    row, col = np.nonzero(np.arange(T) < n_new[:, None])                # the tokens that are no padding, (n,) each
    slot = at[row, col]
    later = np.arange(S) > at[:, None, :, None]         # (B,1,T,S): keys that come after the query
    mask = np.where(later, -np.inf, 0.0).astype(cache.k.dtype) if later.any() else None

    def qkv_of(part, a, p, qkv):                        # (N,C) -> (N,share of 3C)
        c = part(3 * C)
        operations.linear_forward(a, p["attn.c_attn.weight"][:, c], p["attn.c_attn.bias"][c], out=qkv[:, c])

    def attention(part, qkv, p, k_cache, v_cache):      # (N,3C) -> (N,C), what some heads contribute
        heads = part(cfg.n_head)
        q, k, v = operations.heads(qkv.reshape(B, T, -1), cfg.n_head)[:, :, heads]        # (B,heads,T,HS)
        k_cache[row, heads, slot] = k[row, :, col]      # (n,heads,HS)
        v_cache[row, heads, slot] = v[row, :, col]
        s = (q * scale) @ k_cache[:, heads, :S].swapaxes(-1, -2)        # (B,heads,T,S)
        if mask is not None:
            s += mask
        s -= s.max(-1, keepdims=True)
        np.exp(s, out=s)
        s /= s.sum(-1, keepdims=True)
        o = np.empty((B, T, heads.stop - heads.start, HS), x.dtype)
        np.matmul(s, v_cache[:, heads, :S], out=o.swapaxes(1, 2))
        return o.reshape(B * T, -1) @ p["attn.c_proj.weight"][heads.start * HS:heads.stop * HS]

    def mlp(part, m, p):                                # (N,C) -> (N,C), what some hidden units contribute
        f = part(4 * C)
        u, _ = operations.gelu_forward(operations.linear_forward(m, p["mlp.c_fc.weight"][:, f], p["mlp.c_fc.bias"][f]))
        return u @ p["mlp.c_proj.weight"][f]

    def head(part):                                     # (N,C) -> (N,share of V)
        v = part(cfg.vocab_size)
        for i in range(v.start, v.stop, HEAD_COLUMNS):
            j = min(i + HEAD_COLUMNS, v.stop)
            np.matmul(x, params["wte.weight"][i:j].T, out=logits[:, i:j])

    x = operations.embedding_forward(tokens, at, params["wte.weight"], params["wpe.weight"])
    qkv = np.empty((B * T, 3 * C), x.dtype)
    for i in range(cfg.n_layer):
        p = layer_params(params, i)
        a, _ = operations.layernorm_forward(x, p["ln_1.weight"], p["ln_1.bias"])
        in_parallel(lambda part, a=a, p=p: qkv_of(part, a, p, qkv), n_parts)
        x += sum(in_parallel(lambda part, p=p, i=i: attention(part, qkv, p, cache.k[i], cache.v[i]), n_parts))
        x += p["attn.c_proj.bias"]
        m, _ = operations.layernorm_forward(x, p["ln_2.weight"], p["ln_2.bias"])
        x += sum(in_parallel(lambda part, m=m, p=p: mlp(part, m, p), n_parts))
        x += p["mlp.c_proj.bias"]
    if only_last:
        x = x.reshape(B, T, C)[np.arange(B), n_new - 1]
    x, _ = operations.layernorm_forward(x, params["ln_f.weight"], params["ln_f.bias"])
    logits = np.empty((len(x), cfg.vocab_size), x.dtype)
    in_parallel(head, n_parts)
    return logits if only_last else logits.reshape(B, T, -1)
