"""device_tuning.py: training on a GPU on batches of any shape, for align.py.

Pre-training has rows of one length. The batches of fine-tuning differ from step to step, and a row
may hold several texts (chat/packing.py): each has positions of its own, and attention keeps them
apart (kernels/attention.cu). So there is a step for each shape of batch that comes. All of them
work in one arena, one after the other, and each is recorded when it comes for the second time.
"""

import functools

from model import device, device_training   # before numpy
from model import checks, cores, families, lora, nccl_ranks, zero
from model.layout import Layout
import numpy as np

MULTIPLE = 64           # rows are padded to a multiple of so many tokens: fewer shapes
MOST_STEPS = 16         # shapes that are kept ready


def stage_plan(
    cfg, rows, T, bf16=True, rank=None, has_head=False, n_others=0, has_texts=True, recompute=False,
):
    """{what: bytes} of a stage of align.py that learns from rows of T tokens at once.

    rank: of an adapter that learns in the place of the model. has_head: whether a reward's head
    learns. n_others: models beside it that only read, such as a reference or a judge.
    """
    itemsize = 2 if bf16 else 4
    a_model = itemsize * Layout(cfg).size
    n = Layout(cfg, given=planned_shapes(cfg, rank, has_head)).size
    plan = {
        "parameters": 4 * n + 2 * n if bf16 else 4 * n,
        "gradients": 4 * n,
        "AdamW": 8 * n,
        "frozen model": 0 if rank is None else a_model,
        "other models": n_others * a_model,
        "activations": 0,
        "logits": 0,
        "scratch": device_training.scratch_bytes(cfg, rows, T),
    }
    if rank is not None:
        plan["scratch"] += 2 * 4 * rows * T * rank              # low and dlow of lora_backward
    shapes = device.step_shapes(cfg, rows, T, True, recompute)
    shapes.update(device.table_shapes(cfg, cfg.n_positions))    # which all steps share
    if has_texts:
        n_sent, = shapes["inbox"]
        shapes["inbox"] = (n_sent + 3 * rows * T + 1 + rows * (1 + 2 * T),)     # TextsStep's
    for name, n_bytes in device.arena_bytes(shapes, bf16).items():
        plan["logits" if name == "logits" else "activations"] += n_bytes
    return plan


def planned_shapes(cfg, rank=None, has_head=False):
    """{name: shape} of what learns: the model or an adapter of this rank, and a reward's head."""
    shapes = dict(families.shapes(cfg))
    if rank is not None:
        shapes = {}
        for name, (n_in, n_out) in lora.layers(cfg).items():
            shapes[f"{name}.lora_A"] = n_in, rank
            shapes[f"{name}.lora_B"] = rank, n_out
    if has_head:
        shapes[lora.HEAD] = (cfg.n_embd,)
    return shapes


class TextsStep(device.Step):
    """A Step whose rows hold several texts each."""

    def inbox_sizes(self):
        """As Step's, and how positions are sorted, and kernels.texts_of()."""
        N, n_bounds = self.B * self.T, self.B * (1 + 2 * self.T)
        sizes = super().inbox_sizes()
        sizes.update(at_order=N, at_starts=N + 1, at_values=N, texts=n_bounds)
        return sizes

    def texts(self):
        """Where each text begins and ends."""
        return self.sent["texts"].reshape(self.B, 1 + 2 * self.T)

    def put(self, tokens, targets, weights, positions, segments):
        """Send a batch: (B,T) each on the host. Missing sequences count nothing."""
        checks.check_texts(self.cfg, tokens, positions, segments)
        missing = (0, self.B - len(tokens)), (0, 0)
        positions = np.pad(positions.astype(np.int32), missing)
        segments = np.pad(segments, missing, constant_values=-1)
        texts = device.kernels.texts_of(segments)
        tokens, targets, weights = self._padded(tokens, targets, weights)
        by_token = device.kernels.look_ups(tokens.ravel())
        by_position = device.kernels.look_ups(positions.ravel())
        self.inbox.send(tokens, positions, targets, weights, *by_token, *by_position, texts)

    def _positions_backward(self, grads, add):
        """The gradient of wpe, whose rows are looked up like those of wte."""
        if not add:
            grads["wpe.weight"][...] = 0.0
        names = "at_order", "at_starts", "at_values"
        by_position = tuple(self.sent[name] for name in names)
        device.kernels.embedding_backward(self.a["x"], by_position, grads["wpe.weight"])


def memory_plan(params, cfg, bf16=True, n_ranks=1):
    """{what: bytes} that a stage takes beside its batches, known before any of it is taken.

    n_ranks: how many GPUs have a part each of the master copy and of AdamW's means.
    """
    given = device_training.learned_shapes(params, cfg)
    n = Layout(cfg, False, n_ranks, given).size
    n_own = n // n_ranks
    weights = 2 * n + 4 * n_own if bf16 else 4 * n
    plan = {"weights": weights, "gradients": 4 * n, "AdamW": 8 * n_own}
    if lora.SCALE in params:
        plan["the model beside the adapter"] = Layout(cfg).size * (2 if bf16 else 4)
    return plan


def check_memory(params, cfg, bf16=True, n_ranks=1):
    """ValueError where a stage needs more memory than is free."""
    plan = memory_plan(params, cfg, bf16, n_ranks)
    parts = ", ".join(f"{what} {n_bytes / 1e9:.2f}" for what, n_bytes in plan.items())
    advice = "take a smaller model"
    if lora.SCALE not in params:
        advice = f"learn an adapter (--lora-rank 8), or {advice}"
    device.check_room(f"learning ({parts}) takes", sum(plan.values()), device.available_bytes(),
                      advice)


class Tuning(device_training.Training):
    """parallel.Gradients and what follows from them, on a GPU: add() batches, then update().

    A reward's head is applied on the host (add_last), because few hidden states need it. parts and
    cards: as of Training, where there are ranks.
    """

    def __init__(
        self, params, optimizer, cfg, bf16=True, parts=zero.EVERYTHING, cards=nccl_ranks.ONE_CARD,
    ):
        check_memory(params, cfg, bf16, cards.size)
        super().__init__(params, optimizer, cfg, None, bf16=bf16, parts=parts, cards=cards)

    @property
    def added(self):
        """Whether something has been added to the gradients."""
        return self.begun

    def _prepare_steps(self, rows):
        """The steps come with their batches. rows is not known before."""
        cp = device.cp
        self.state = cp.zeros((3,), np.float32)
        self.kept = {"state": self.state}
        for name, shape in device.table_shapes(self.cfg, self.cfg.n_positions).items():
            self.kept[name] = cp.empty(shape, np.float32)
            device.fill_table(self.kept[name], self.cfg)
        self.budget = device.SHARE * device.available_bytes()
        self.steps, self.loss = {}, 0.0

    def clear(self):
        """Begin a new step."""
        super().clear()
        self.loss = 0.0

    def add(self, tokens, targets, weights, positions=None, segments=None):     # (B,T) each
        """Add the gradients of a batch to the sum. Returns the loss of the batch.

        A batch without rows adds nothing: where there are ranks, this one may have none of it.
        """
        if len(tokens) == 0:
            if not self.begun:
                self.flat[...] = 0.0
                self.state[...] = 0.0
            self.begun = True
            return 0.0
        batch = [tokens, targets, weights]
        if segments is not None:
            batch += [positions, segments]
        for rows, T in self._parts(tokens, segments):
            step, first, more = self._step_for(rows, T, segments is not None)
            wide = []
            for a, fill in zip(batch, (0, -1, 0, 0, -1)):
                wide.append(wider(a[rows], T, fill))
            step.put(*wide)
            recording = more if self.begun else first
            recording(functools.partial(step.run, self.grads, self.begun))
            self.begun = True
        before = self.loss
        self.loss = float(device.cp.asnumpy(self.state)[0])
        return self.loss - before

    def add_last(self, tokens, last, head):
        """As parallel.Gradients.add_last. Where the rows do not fit into memory together, their
        forward pass runs twice."""
        parts, found = self._parts(tokens, None), []
        for rows, T in parts:
            step = self._forward(tokens, rows, T)
            h = step.hidden_at(last[rows])
            found.append(device.kernels.on_host(h))
        h = np.concatenate(found)
        loss, dh, dvector = head(h, self._head_vector())
        self._add_to_head(dvector)
        for rows, T in parts:
            if len(parts) > 1:
                step = self._forward(tokens, rows, T)
            if not self.begun and not step.is_frozen:
                for name in {"wte.weight", step.head}:
                    self.grads[name][...] = 0.0
            step.put_slopes(last[rows], dh[rows])
            step.backward(self.grads, self.begun)
            self.begun = True
        self.loss += loss
        self.state.set(np.array([self.loss, 0.0, 0.0], np.float32))
        return loss

    def _forward(self, tokens, rows, T):
        """The step that has been through the model with some rows."""
        step, _, _ = self._step_for(rows, T, False)
        ids = wider(tokens[rows], T, 0)
        step.put(ids, np.full(ids.shape, -1), np.zeros(ids.shape))
        step.forward()
        return step

    def _head_vector(self):
        """A reward's head (C,) in float32, on the host.

        One card has its master copy. Of several, each has the weights that it computes with.
        """
        if self.cards.size > 1:
            return device.kernels.on_host(self.params[lora.HEAD])
        region = self.layout.of_adamw
        return device.cp.asnumpy(self.layout.views(self.masters[0], region)[lora.HEAD])

    def _add_to_head(self, dvector):
        """Add to the gradient of a reward's head."""
        there = self.grads[lora.HEAD]
        so_far = device.cp.asnumpy(there) if self.begun else 0.0
        there.set((so_far + dvector).astype(np.float32))

    def _parts(self, tokens, segments):
        """(slice of the rows, their length when padded) of a batch, as many rows as memory has."""
        B, T = tokens.shape
        T = min(self.cfg.n_positions, -(-T // MULTIPLE) * MULTIPLE)
        n = -(-B // self._rows_at_once(T))
        return [(cores.Share(i, n)(B), T) for i in range(n)]

    def _step_for(self, rows, T, has_texts):
        """(step, its recordings: the first of an update and later ones) for some rows."""
        key = rows.stop - rows.start, T, has_texts
        if key not in self.steps:
            if len(self.steps) == MOST_STEPS:
                del self.steps[next(iter(self.steps))]
            kind = TextsStep if has_texts else device.Step
            before = self.arena.memory
            step = kind(
                self.params, self.cfg, *key[:2], self.arena, True, self.recompute, kept=self.kept)
            if self.arena.memory is not before:         # it has grown: the others lie in the old
                self.steps.clear()
            first = device.launching.Recording()
            more = device.launching.Recording()
            self.steps[key] = step, first, more
        return self.steps[key]

    def _rows_at_once(self, T):
        """How many rows of T tokens fit. ValueError if not even one does."""
        bf16 = self.weights.dtype == np.uint16
        a_row = device.row_bytes(self.cfg, T, bf16, True, self.recompute)
        if a_row > self.budget and not self.recompute:
            self.recompute = True
            return self._rows_at_once(T)
        if a_row > self.budget:                 # which is a part of what is free
            raise ValueError(
                f"a row of {T:,} tokens takes {a_row / 1e9:.2f} GB of this GPU's memory, "
                f"{self.budget / 1e9:.2f} GB may be used; learn from shorter texts")
        busy = max(1, device.ROW_TOKENS // T)
        return min(busy, int(self.budget // a_row))


def wider(a, T, fill):
    """A batch (B,n) with rows of T: what is missing is `fill`."""
    return np.pad(a, ((0, 0), (0, T - a.shape[1])), constant_values=fill)
