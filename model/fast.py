"""fast.py: gpt.py's model for NumPy at full speed.

The functions have the names and the meanings of gpt.py's, which are their definitions. Here a
step allocates nothing of size, and the operations are those of model/operations.py.
model/device.py offers the same functions for a GPU.

A step is the work of one core. Losses, rewards and decoding give each core some rows, in threads;
training gives each core some rows in a process of its own (model/parallel.py).

    from model import fast      before numpy: it sets up the BLAS
"""

import contextlib
import copy
import functools
import threading

from model import cores                     # before numpy, whose BLAS it sets up
from model.cores import Arena, in_parallel
from model import decoding, families, lora, operations, walk
from model.checks import (
    check_grads, check_learned, check_params, check_positive, check_shape, check_targets,
    check_texts, check_tokens, learned_names, new_positions, token_weights,
)
import gpt
import numpy as np

# Letters as in gpt.py, and N = B * T rows. A part is a function: part(n) is the slice of n things
# that one thread works on (cores.Share).

SMALL_MODEL = 8 << 20   # parameters; below, a model's weights stay in cache while it writes
PART = 64 << 20         # parameters times tokens; with less to do, a thread does not pay in decode
LOGIT_FLOATS = 1 << 24  # of the rows of logits that exist at once: 64 MB in float32


# ----------------------------------------------------------------------------------------- memory


def step_shapes(cfg, B, T, want_grads=True, recompute=False, at_once=1):
    """Everything that one step divides its arena into: {name: shape}.

    at_once: how many threads take such steps at once, and share the memory of logits.
    """
    shapes = walk.trunk_shapes(cfg, B, T, want_grads, recompute)
    rows = min(B * T, max(1, LOGIT_FLOATS // at_once // cfg.vocab_size))
    shapes["logits"] = (rows, cfg.vocab_size)
    shapes["y_rows"] = (rows, cfg.n_embd)       # the rows of y that these logits are made of
    return shapes


def memory_plan(cfg, B, T, recompute=False, itemsize=4):
    """{what: bytes} of training with B sequences of T tokens at once, known before any of it is
    taken."""
    n = cfg.n_params * itemsize
    plan = {"parameters": n, "gradients": n, "AdamW": 2 * n, "activations": 0, "logits": 0}
    for name, shape in step_shapes(cfg, B, T, True, recompute).items():
        what = "logits" if name in ("logits", "y_rows") else "activations"
        plan[what] += cores.padded(shape, itemsize)
    return plan


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


# ----------------------------------------------------------------------------------------- a step


class _Step:
    """The arrays of one step and the way through the model, forward and back.

    What has no place among the gradients is frozen: all but its adapter, where a model has one.
    """

    def __init__(
        self, params, cfg, tokens, arena, want_grads=True, recompute=False,
        positions=None, segments=None, at_once=1, counted=None,
    ):
        B, T = tokens.shape
        dtype = params["wte.weight"].dtype
        self.params, self.cfg, self.tokens = params, cfg, tokens
        self.positions = np.broadcast_to(np.arange(T), (B, T)) if positions is None else positions
        hidden = None if segments is None else operations.segments_hidden(segments, dtype)
        self.a = arena.divide(step_shapes(cfg, B, T, want_grads, recompute, at_once), dtype)
        rows = None if counted is None or len(counted) == B * T else counted
        table = walk.way_of(cfg).rotary_table(cfg, T, dtype)
        self.trunk = walk.Trunk(operations, params, cfg, self.a, hidden, rows, table)
        self.head = families.head_name(cfg)
        self.is_frozen = lora.SCALE in params       # and only its adapter learns

    def forward(self):
        """Fill y, (N,C) after the last norm; where some rows are counted, its first rows."""
        self.trunk.forward(self.tokens, self.positions)

    def heads(self, targets, weights=None, temperature=1.0):
        """(rows, their nll) for as many of the n counted rows at a time as there are logits for.

        targets (n,) of these rows, and rows: a slice of the n. With weights (n,), dy takes the
        place of y, and the logits their own gradient.
        """
        a, w_head = self.a, self.params[self.head][: self.cfg.vocab_size]
        n_blocks = -(-len(targets) // len(a["logits"]))
        for i in range(n_blocks):
            rows = cores.Share(i, n_blocks)(len(targets))
            n = rows.stop - rows.start
            y, z = a["y_rows"][:n], a["logits"][:n]
            np.divide(a["y"][rows], temperature, out=y)     # softmax(y w_head^T / temperature)
            operations.product(y, w_head.T, z)
            nll, cache = operations.cross_entropy_forward(z, targets[rows])
            if weights is not None:
                # forward was: logits = (y / temperature) w_head^T
                dz = operations.cross_entropy_backward(weights[rows], cache)
                a["y"][rows] = dz @ w_head / temperature
            yield rows, nll

    def clear(self, grads, n_counted):
        """Set to 0 what no product will write to where gradients are not added."""
        if self.is_frozen:
            return
        if self.head != "wte.weight":
            grads["wte.weight"][...] = 0.0
        grads[self.head][self.cfg.vocab_size if n_counted else 0 :] = 0.0

    def head_weight_backward(self, n, grads, add):
        """The gradient of the head's matrix, or what is added to it, of the rows of heads()' last
        part, of which there are n."""
        if self.is_frozen:
            return
        dz, y = self.a["logits"][:n].T, self.a["y_rows"][:n]
        dw = grads[self.head][: self.cfg.vocab_size]
        if not add:
            np.matmul(dz, y, out=dw)
            return
        for r in operations.row_blocks(dw):             # a small temporary
            dw[r] += dz[r] @ y

    def backward(self, grads, add):
        """From dy in y to the gradients of all parameters; wte's is added to what is there."""
        self.trunk.backward(grads, add)
        if self.is_frozen:
            return
        dx = self.a["x"]
        operations.embedding_backward(dx, self.tokens.ravel(), grads["wte.weight"])
        if "wpe.weight" not in families.shapes(self.cfg):
            return
        if not add:
            grads["wpe.weight"][...] = 0.0
        operations.embedding_backward(dx, self.positions.ravel(), grads["wpe.weight"])


# ------------------------------------------------------------------------------------- the engine


def forward(params, cfg, tokens):
    """gpt.forward; in place of its cache, all that was computed, under the names of step_shapes."""
    check_tokens(cfg, tokens)
    check_params(params, cfg)
    step = _Step(params, cfg, tokens, Arena())
    step.forward()
    logits = step.a["y"] @ params[step.head][: cfg.vocab_size].T
    return logits.reshape(*tokens.shape, -1), step.a


def token_losses(params, cfg, tokens, targets, arena=None, temperature=1.0):
    """gpt.token_losses, with logits for some of the counted tokens at a time."""
    check_tokens(cfg, tokens)
    check_targets(cfg, tokens, targets)
    check_params(params, cfg)
    check_positive("temperature", temperature)

    def of_rows(part):
        rows = part(len(tokens))
        mine = arena.of_thread(part.index)
        of_step = targets[rows].ravel()
        counted = np.flatnonzero(of_step != -1)
        step = _Step(
            params, cfg, tokens[rows], mine, False, at_once=part.parts, counted=counted
        )
        step.forward()
        nll = np.zeros(of_step.size, params["wte.weight"].dtype)
        for some, found in step.heads(of_step[counted], None, temperature):
            nll[counted[some]] = found
        return nll

    with _only_user(arena or Arena()) as arena:
        nll = np.concatenate(in_parallel(of_rows, min(cores.N_THREADS, len(tokens))))
    return nll.reshape(tokens.shape)


def loss_and_grads(
    params, cfg, tokens, targets, weights=None, want_grads=True, grads=None, add=False, arena=None,
    recompute=False, temperature=1.0, positions=None, segments=None,
):
    """gpt.loss_and_grads. Without want_grads, the dict of gradients is empty.

    Where params have an adapter, the gradients are those of the adapter alone (model/lora.py).
    grads: arrays for the gradients, which with add are added to what is there, for batches that
    come in several parts. A wrong argument is an error before they are written to.
    arena: an Arena to work in; with both given, a step allocates nothing of size.
    recompute: keep little, and compute it again in the backward (walk.trunk_shapes).
    positions, segments (B,T) int: for rows of several texts, where each token stands in its own
    text, and which text that is (operations.segments_hidden).
    """
    check_tokens(cfg, tokens)
    check_targets(cfg, tokens, targets)
    check_params(params, cfg)
    check_positive("temperature", temperature)
    check_texts(cfg, tokens, positions, segments)
    weights = token_weights(targets, weights, params["wte.weight"].dtype)
    if not want_grads:
        if positions is not None or segments is not None:
            raise ValueError("positions and segments are for gradients")
        nll = token_losses(params, cfg, tokens, targets, arena, temperature)
        return float(weights @ nll.ravel()), {}
    grads = _places(params, cfg, grads, add)
    with _only_user(arena or Arena()) as arena:
        counted = np.flatnonzero(weights)               # a row of weight 0 needs no logits
        step = _Step(
            params, cfg, tokens, arena, True, recompute, positions, segments, counted=counted
        )
        step.forward()
        weights = weights[counted]
        if not add:
            step.clear(grads, len(counted))
        loss, begun = 0.0, add
        for rows, nll in step.heads(targets.ravel()[counted], weights, temperature):
            loss += float(weights[rows] @ nll)
            step.head_weight_backward(len(nll), grads, begun)
            begun = True
        step.backward(grads, add)
    return loss, grads


def _places(params, cfg, grads, add):
    """Places for the gradients: those given, once they are checked, or fresh ones.

    Tensors beside the model's, such as another head's, are the caller's affair: given arrays are
    left as they are, and fresh ones are zeros.
    """
    if grads is not None:
        check_grads(params, cfg, grads)
        return grads
    if add:
        raise ValueError("add needs grads, the arrays that hold what is added to")
    names, fresh = learned_names(params, cfg), {}
    check_learned(params, names)
    for name, p in lora.learned(params).items():
        fresh[name] = np.empty_like(p) if name in names else np.zeros_like(p)
    return fresh


def hidden_and_grads(
    params, cfg, tokens, head, want_grads=True, grads=None, add=False, arena=None
):
    """loss_and_grads under another head than the tied one, such as a reward's.

    head(y) -> (loss, dy, dwte or None). y: the last hidden states, (B,T,C) after the final norm.
    dy: the gradient there. dwte: what the head adds to the gradient of wte.weight. Threads divide
    the rows, and each but the first has gradients of its own for the time of the call. Beside an
    adapter the model is frozen: then dwte must be None.
    """
    check_tokens(cfg, tokens)
    check_params(params, cfg)
    if want_grads:
        grads = _places(params, cfg, grads, add)

    def forward_rows(part):
        rows = tokens[part(len(tokens))]
        mine = arena.of_thread(part.index)
        step = _Step(params, cfg, rows, mine, want_grads, at_once=part.parts)
        step.forward()
        return step

    def backward_rows(part):
        step, mine = steps[part.index], grads
        step.a["y"][...] = dy[part(len(tokens))].reshape(step.a["y"].shape)
        if part.index > 0:
            mine = {name: np.zeros_like(params[name]) for name in learned_names(params, cfg)}
        step.backward(mine, add and part.index == 0)
        return mine

    with _only_user(arena or Arena()) as arena:
        steps = in_parallel(forward_rows, min(cores.N_THREADS, len(tokens)))
        y = np.concatenate([step.a["y"] for step in steps])
        loss, dy, dwte = head(y.reshape(*tokens.shape, -1))
        if not want_grads:
            return loss, {}
        check_shape("head: dy", dy, (*tokens.shape, cfg.n_embd))
        if dwte is not None and lora.SCALE in params:
            raise ValueError("head: dwte is given, but an adapter leaves wte.weight as it is")
        if dwte is not None:
            check_shape("head: dwte", dwte, grads["wte.weight"].shape)
            if np.shares_memory(dwte, grads["wte.weight"]):
                raise ValueError("head: dwte shares memory with the gradient; give another array")
        if not add and lora.SCALE not in params:
            for name in {"wte.weight", families.head_name(cfg)}:
                grads[name][...] = 0.0
        if dwte is not None:
            grads["wte.weight"] += dwte
        _, *others = in_parallel(backward_rows, len(steps))
        for other in others:
            for name, of_rows in other.items():
                grads[name] += of_rows
    return loss, grads


def last_hidden(params, cfg, tokens, last):
    """The hidden states (B,C) behind the last norm at one position of each row: (B,T), (B,)"""
    found = []

    def head(y):                                        # (B,T,C)
        found.append(y[np.arange(len(tokens)), last])
        return 0.0, None, None

    hidden_and_grads(params, cfg, tokens, head, want_grads=False)
    return found[0]


# ---------------------------------------------------------------------------------------- writing


class Cache(gpt.Cache):
    """The definition's Cache, of which some rows can be had.

    joined: what decoding keeps of the weights beside it, for all of its rows.
    """

    def __init__(self, cfg, batch, n_positions=None, like=None):
        fresh = families.of(cfg).Cache(cfg, batch, n_positions, like)
        self.k, self.v, self.length = fresh.k, fresh.v, fresh.length
        self.joined = {}

    def rows(self, part):
        """A cache of the rows of a slice, in the same memory."""
        if not isinstance(part, slice):
            raise ValueError(f"rows of a cache: {part!r}, expected a slice")
        some = copy.copy(self)
        some.k, some.v, some.length = self.k[:, part], self.v[:, part], self.length[part]
        return some

    def take(self, row, source, n):
        """Give a row the first n keys and values of another, beyond those that it has.

        Returns how many it has then.
        """
        new = slice(self.length[row], n)
        for a in (self.k, self.v):
            a[:, row, :, new] = a[:, source, :, new]
        self.length[row] = n
        return n

    def cut(self, row, n):
        """Keep the first n positions of a row."""
        self.length[row] = n

    def swap(self, a, b):
        """Exchange two rows with all that they hold."""
        n_a, n_b = self.length[[a, b]]
        for x in (self.k, self.v):
            of_b = x[:, [b], :, :n_b]           # a copy, as b is a list
            x[:, b, :, :n_a] = x[:, a, :, :n_a]
            x[:, [a], :, :n_b] = of_b
        self.length[[a, b]] = self.length[[b, a]]

    def lacks(self, n_new):
        """How many pages of memory n_new (B,) more tokens a row would lack: here every row has all
        that it can need."""
        return 0


def decode(params, cfg, tokens, cache, n_new=None, only_last=False):
    """gpt.decode of rows that may differ in length.

    tokens (B,T) int, padded behind where rows differ; n_new (B,): how many of each row count, at
    least 1, by default T. Returns (B,T,V), or with only_last (B,V): the logits after the last
    token that counts in each row, which is all that writing needs.

    The rows of a small model are divided among threads. The time of a large one goes into reading
    its weights: there each product is divided, and each weight is read once for all rows.
    """
    n_new = new_positions(cfg, params, tokens, cache, n_new)
    B, n_params = len(tokens), sum(p.size for p in params.values())
    if n_params >= SMALL_MODEL:
        n_threads = cores.N_THREADS
        logits = decoding.of(params, cfg, tokens, cache, n_new, n_threads).run(only_last)
    else:

        def of_rows(part):
            at = part(B)
            some = cache.rows(at)
            return decoding.of(params, cfg, tokens[at], some, n_new[at], 1).run(only_last)

        n_parts = min(cores.N_THREADS, B, n_params * tokens.size // PART)
        logits = np.concatenate(in_parallel(of_rows, max(1, n_parts)))
    cache.length += n_new
    return logits
