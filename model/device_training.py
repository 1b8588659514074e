"""device_training.py: training on a GPU, by steps of AdamW or Muon.

Parameters, gradients and moments lie in one array each (model/layout.py). What is summed over many
steps is float32: the optimizer's means, and the master copy of weights in bfloat16.

Several ranks have a GPU each (model/nccl_ranks.py). The array of all parameters is cut into as many
parts of equal size. A rank sums up the gradients of its part over all ranks, updates it, and gives
it to the others. Only it keeps the moments of that part and, beside bfloat16, the master copy.

    python train.py --device cuda --preset gpt2 ...
    python train.py --device cuda --preset gpt2 --ranks 8 ...

Sources: Micikevicius et al. 2018 (master weights); karpathy/llm.c (the plan of memory, gradients in
place of activations).
"""

import functools
import math

from model import cores                    # before numpy
from model import device, families, lora, muon, nccl_ranks, zero
from model.layout import Layout
import numpy as np


def learned_shapes(params, cfg):
    """{name: shape} of what learns: the model, or the adapter beside it, and a reward's head."""
    found = {} if lora.SCALE in params else dict(families.shapes(cfg))
    for name, p in lora.learned(params).items():
        found.setdefault(name, p.shape)
    return found


def muon_shapes(cfg):
    """What a step of Muon works in: enough for the largest part of any matrix of a block."""
    largest = {}
    for name, shape in families.shapes(cfg).items():
        if not muon.is_block_matrix(name, shape):
            continue
        n_in, n_out = shape
        part = n_in, n_out // muon.n_parts(name)
        for what, needed in device.kernels.muon.memory_shapes(part).items():
            largest[what] = max(largest.get(what, needed), needed, key=math.prod)
    return largest


def scratch_bytes(cfg, B, T):
    """What launches leave to each other, and the workspace of matrix products."""
    widest = max(shape[-1] for shape in Layout(cfg).shapes.values())
    blocks = device.launching.BACKWARD_BLOCKS
    most = max(
        B * T * cfg.n_head,                                         # attention_backward
        2 * blocks * cfg.n_embd,                                    # layernorm_backward
        4 * blocks * 256 + widest,                                  # bias_backward
    )
    return 4 * most + device.kernels.cublas.WORKSPACE_BYTES


def memory_plan(cfg, B, recompute=False, bf16=True, has_muon=False, n_ranks=1):
    """{what: bytes} of training with B sequences at once, known before any of it is taken.

    has_muon: whether Muon has the matrices of the blocks. n_ranks: how many GPUs have a part each
    of what the optimizer keeps.
    """
    layout, T = Layout(cfg, has_muon, n_ranks), cfg.n_positions
    n, n_own, n_adamw = layout.size, layout.size // n_ranks, layout.of_adamw.stop // n_ranks
    plan = {
        "parameters": 4 * n_own + 2 * n if bf16 else 4 * n,
        "gradients": 4 * n,
        "AdamW": 8 * n_adamw,
        "activations": 0,
        "logits": 0,
        "scratch": scratch_bytes(cfg, B, T),
    }
    shapes = device.step_shapes(cfg, B, T, True, recompute)
    for name, n_bytes in device.arena_bytes(shapes, bf16).items():
        plan["logits" if name == "logits" else "activations"] += n_bytes
    if has_muon:
        in_rounds = [cores.padded(shape, 2 if bf16 else 4) for shape in muon_shapes(cfg).values()]
        plan["Muon"] = 4 * (n_own - n_adamw) + sum(in_rounds)
    if n_ranks > 1:
        longest = max(n_adamw, n_own - n_adamw)
        plan["exchange"] = 4 * math.prod(nccl_ranks.room_shape(longest, n_ranks))
    return plan


class Training:
    """A model and its optimizer on the GPU: add() batches, then update().

    params and optimizer (a train.AdamW or train.Muon) are the host's, for checkpoints: download()
    brings them up to date. Where there are ranks, each has a Training, the optimizer on the host
    has the rows of parts (zero.Parts), and cards (nccl_ranks.Cards) are the GPUs of all.
    """

    def __init__(
        self, params, optimizer, cfg, rows, recompute=False, bf16=True, parts=zero.EVERYTHING,
        cards=nccl_ranks.ONE_CARD,
    ):
        self.cfg, self.recompute = cfg, recompute
        self.optimizer, self.parts, self.cards = optimizer, parts, cards
        self.host = lora.learned(params)
        self.has_muon = hasattr(optimizer, "mean")
        given = learned_shapes(params, cfg)
        layout = Layout(cfg, self.has_muon, cards.size, given)
        self.layout, cp = layout, device.cp
        self.regions = [layout.of_adamw, layout.of_muon][: 1 + self.has_muon]
        self.own = [layout.own(region, cards.rank) for region in self.regions]
        self._upload_weights(bf16)
        if lora.SCALE in params:
            frozen = device.upload(lora.without(params), cfg, bf16)
            self.params = {**frozen, **self.params, lora.SCALE: params[lora.SCALE]}
        self.m, self.v = (
            self._upload_means(means, layout.of_adamw) for means in (optimizer.m, optimizer.v)
        )
        self.flat = cp.zeros((layout.size,), np.float32)            # its padding stays 0
        if self.has_muon:
            self.mean = self._upload_means(optimizer.mean, layout.of_muon)
            dtype = np.uint16 if bf16 else np.float32
            self.in_rounds = cores.Arena().divide(muon_shapes(cfg), dtype, None, cp)
        self.grads = layout.views(self.flat)
        self.rates = cp.zeros((3,), np.float32)
        self.arena = cores.Arena()
        self.clip = None
        self.begun = False
        self.finish = device.launching.Recording()
        self._prepare_steps(rows)
        if cards.size > 1:
            self.sums = nccl_ranks.Sums(cards, self._tables(self.flat), self.state)

    def _prepare_steps(self, rows):
        """Make what add() needs, and state: the loss, the norm, the scale that clips it."""
        T = self.cfg.n_positions
        self.step = device.Step(self.params, self.cfg, rows, T, self.arena, True, self.recompute)
        self.state = self.step.state
        self.first = device.launching.Recording()
        self.more = device.launching.Recording()

    def _upload_weights(self, bf16):
        """The weights to compute with, and the master copy of this rank's part of each region."""
        flat = self.layout.gather(self.host)
        self.weights = device.cp.asarray(flat)
        self.masters = [self.weights[own] for own in self.own]
        if bf16:
            self.masters = [device.cp.asarray(flat[own]) for own in self.own]
            self.weights = device.kernels.to_bf16(self.weights)
        self.copies = [self.weights[own] if bf16 else None for own in self.own]
        self.params = self.layout.views(self.weights)

    def _upload_means(self, means, region):
        """This rank's part of a region of means, of which the host has the rows of parts."""
        whole = {name: np.asarray(self.parts.gathered(name, a)) for name, a in means.items()}
        flat = self.layout.gather(whole, region)
        return device.cp.asarray(flat.reshape(self.cards.size, -1)[self.cards.rank])

    def clear(self):
        """Begin a new step."""
        self.begun = False

    def add(self, tokens, targets, weights):
        """Add a batch, (B,T) each, to the step. Returns 0.0 while the GPU is at work: the loss is
        known after update()."""
        if len(tokens) == 0 and self.cards.size > 1:    # fewer rows than ranks
            if not self.begun:
                self.flat[...] = 0.0
                self.state[...] = 0.0
        else:
            self.step.put(tokens, targets, weights)
            recording = self.more if self.begun else self.first
            recording(functools.partial(self.step.run, self.grads, self.begun))
        self.begun = True
        return 0.0

    def _finish(self):
        o, own = self.optimizer, self.own[0]
        if self.cards.size == 1:
            device.kernels.grad_norm(self.flat, self.clip, self.state)
        else:
            self.sums.add_up(self.clip)
        n_decayed = min(max(0, self.layout.n_decayed - own.start), own.stop - own.start)
        device.kernels.adamw(
            self.flat[own], self.masters[0], self.m, self.v, self.copies[0], self.state, self.rates,
            n_decayed, o.beta1, o.beta2, o.eps, o.weight_decay,
        )
        if self.has_muon:
            self._finish_matrices()
        if self.cards.size > 1:
            self.cards.all_gather(*self._tables(self.weights))

    def _finish_matrices(self):
        """Muon's step. The gradients of its matrices are used up."""
        o, layout, own = self.optimizer, self.layout, self.own[1]
        grads, masters = layout.views(self.flat[own], own), layout.views(self.masters[1], own)
        copies = {} if self.copies[1] is None else layout.views(self.copies[1], own)
        for name, mean in layout.views(self.mean, own).items():
            device.kernels.muon.step(
                grads[name], mean, masters[name], copies.get(name), self.state, self.rates,
                self.in_rounds, muon.n_parts(name), o.ratio, o.momentum, o.weight_decay,
            )

    def _tables(self, flat):
        """Each region of an array of all parameters as a table: a row for each rank."""
        return [flat[region].reshape(self.cards.size, -1) for region in self.regions]

    def update(self, lr, clip):
        """(loss, gradient norm) of the step, which is taken unless one of them is not finite."""
        t, o = self.optimizer.t + 1, self.optimizer
        if self.clip not in (None, clip):
            raise ValueError(f"clip {clip}: the step was recorded with {self.clip}")
        self.clip = clip
        rates = lr, 1.0 / (1.0 - o.beta1**t), 1.0 / (1.0 - o.beta2**t)
        self.rates.set(np.array(rates, np.float32))
        self.cards.run(self.finish, self._finish)
        loss, norm, scale = device.cp.asnumpy(self.state).tolist()
        o.t += scale != 0.0
        return loss, norm

    def download(self):
        """Bring params and optimizer on the host up to date. All ranks must call it."""
        layout, o, kept = self.layout, self.optimizer, self.parts.kept
        for master, region in zip(self.masters, self.regions):
            layout.scatter(self._on_host(master, region), self.host, region)
        for mine, means in ((self.m, o.m), (self.v, o.v)):
            whole = self._on_host(mine, layout.of_adamw)
            layout.scatter(whole, means, layout.of_adamw, kept)
        if self.has_muon:
            whole = self._on_host(self.mean, layout.of_muon)
            layout.scatter(whole, o.mean, layout.of_muon, kept)

    def _on_host(self, own, region):
        """An array of a region on the host, of which each rank's GPU has its part."""
        flat = device.kernels.on_host(own)
        rank = self.cards.rank
        if self.cards.size == 1:
            return flat
        table = np.empty((self.cards.size, len(flat)), flat.dtype)
        table[rank] = flat
        rows = [slice(r, r + 1) for r in range(self.cards.size)]
        self.parts.here.all_gather([table], [rows])
        return table.ravel()

    close = download
