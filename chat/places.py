"""places.py: where a stage of align.py computes: on the cores, or with --device cuda on a GPU.

A GPU has weights of its own. engine is the room that computes there: model/fast.py, or
model/device.py, which offers the same functions for weights on the GPU.
"""

import functools

from model import device, fast          # before numpy
from model import device_tuning, lora, parallel, zero


@functools.lru_cache(maxsize=None)
def place(on, dtype):
    """The Place of a recipe's device and dtype."""
    return Place(on, dtype)


def of(recipe):
    """The Place where a recipe's stage computes."""
    return place(recipe.device, recipe.dtype)


class Place:
    """Where a stage computes. gpu: what device.connect() gave, or None."""

    def __init__(self, on=None, dtype=None):
        self.gpu, self.engine = None, fast
        if on == "cuda":
            self.gpu, self.engine = device.connect(dtype), device

    @property
    def name(self):
        """The GPU and its dtype, as in train.py's identity; None for the cores."""
        return f"{self.gpu.name}, {'bf16' if self.gpu.bf16 else 'float32'}" if self.gpu else None

    def put(self, params, cfg):
        """The weights to compute with: on the CPU those given, else a copy that is there."""
        return device.upload(params, cfg, self.gpu.bf16) if self.gpu else params

    def model(self, model):
        """(params, cfg, tokenizer) with the weights put there."""
        params, cfg, tokenizer = model
        return self.put(params, cfg), cfg, tokenizer

    def judge(self, judge):
        """A reward model (judges.Judge) that judges there. Its head stays on the host."""
        if not self.gpu or not judge:
            return judge
        params = {**self.put(judge.params, judge.cfg), lora.HEAD: judge.params[lora.HEAD]}
        return judge._replace(params=params, engine=self.engine)

    def gradients(self, params, optimizer, cfg, parts=zero.EVERYTHING):
        """What computes the gradients of a stage, and holds the weights that learn.

        parts: which rows of what learns each rank updates. On GPUs, each rank has one of its own.
        """
        if self.gpu:
            return device_tuning.Tuning(
                params, optimizer, cfg, self.gpu.bf16, parts, self.gpu.cards)
        return parallel.Gradients(params, cfg, here=parts.here)


CORES = Place()
