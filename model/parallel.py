"""parallel.py: the gradients of a batch, by one worker for each core.

Data parallelism: every worker takes its own rows of the batch, and the gradients of all are added
up. Ranks (model/ranks.py) do the same, each with weights of its own; the workers of a rank share
its weights. A worker is a process where it can be forked: Python runs only one thread at a time, so
where NumPy's calls are short, as in a small model, threads would wait for each other during a sixth
of the time.

Weights and gradients lie in memory that the processes share: a step sends only tokens and losses.
"""

import contextlib
import sys

from model import cores                     # before numpy
from model import device_training
from model import fast
from model import lora, operations
from model import ranks
from model import zero
import numpy as np

TOKENS = 2048       # in a part of a large batch whose rows differ in length


def share_of_rows(batch, share):
    """The rows of each array of the batch that belong to one share; None stays None."""
    return [None if a is None else a[share(len(a))] for a in batch]


def trimmed(batch):
    """Yield a batch; a large one in parts of rows of about the same length, without their padding.

    What stands behind the last weight of a row changes neither loss nor gradient. Where each
    conversation of the demo has a page in it, a step takes 7 % less time.
    """
    _, _, weights, _, _ = batch
    B, T = weights.shape
    padding = (weights[:, ::-1] != 0).argmax(1)         # of a row without a weight: 0
    lengths = T - padding
    n_parts = min(B, -(-lengths.sum() // TOKENS))       # rounded up
    if n_parts == 1 or not padding.any():
        yield batch
        return
    order = np.argsort(lengths, kind="stable")
    for i in range(n_parts):
        rows = order[cores.Share(i, n_parts)(B)]
        longest = lengths[rows[-1]]
        yield [None if a is None else a[rows, :longest] for a in batch]


def worker(params, cfg, recompute, grads, arena):
    """The work of one: (rows of a batch, whether to add) -> loss, with the gradients in grads.

    An error is returned and not raised, so that every worker is heard before the step fails.
    """
    def work(rows, add):
        total = 0.0
        try:
            for part in trimmed(rows):
                tokens, targets, weights, positions, segments = part
                loss, _ = fast.loss_and_grads(
                    params, cfg, tokens, targets, weights, grads=grads, add=add, arena=arena,
                    recompute=recompute, positions=positions, segments=segments,
                )
                total += loss
                add = True
        except Exception as error:
            return error
        return total

    return work


def for_training(params, optimizer, parts, cfg, micro_batch, recompute, gpu):
    """What computes a step's gradients: Training on a GPU, else Gradients on all cores."""
    if gpu:
        return device_training.Training(
            params, optimizer, cfg, micro_batch, recompute, gpu.bf16, parts, gpu.cards)
    work = Gradients(params, cfg, recompute, parts.here)
    parts.params = work.weights                     # they have moved, see Gradients
    optimizer.params = parts.updated(work.weights)
    cores.give_back_freed_memory()
    return work


class Gradients:
    """The summed gradients of a step's micro-batches, in arrays that are made once.

    sum is {name: array} of all that learns (lora.learned), one behind another. added tells whether
    add() has been called since clear(). Where other processes work too, of this rank or as ranks,
    what learns moves into memory that they share: weights has it then. The rest of params does not
    change, and forked processes share it anyway.
    """

    def __init__(self, params, cfg, recompute=False, here=ranks.ALONE):
        self.params, self.cfg, self.arena, self.added = params, cfg, cores.Arena(), False
        self.pool = contextlib.ExitStack()
        learned = lora.learned(params)
        self.sum = zero.InARow(learned, here.memory)
        workers = [worker(params, cfg, recompute, self.sum, self.arena)]
        self.workers, self.flat_of_others, self.in_order = workers, [], None
        for _ in range(1, cores.N_THREADS):
            grads = zero.InARow(learned, ranks.ALONE.memory)
            self.flat_of_others.append(grads.flat)
            workers.append(worker(params, cfg, recompute, grads, cores.Arena()))
        self.weights = learned
        # A BLAS of another system may not be forked.
        forks = len(workers) > 1 and sys.platform == "linux"
        if forks or here.size > 1:
            self.weights = zero.InARow(learned, here.memory)
            for name, p in self.weights.items():
                p[...] = params[name]
                params[name] = p
        if forks:

            def work(item):
                number, rows = item
                return workers[number](rows, False)

            processes = cores.processes(len(workers) - 1, work)
            self.in_order = self.pool.enter_context(processes)

    def clear(self):
        """Forget the sum: the next add() begins a new one."""
        self.added = False

    def add(self, tokens, targets, weights, positions=None, segments=None):     # (B,T) each
        """Add the gradients of a batch to the sum. Returns the loss of the batch.

        A batch without rows adds nothing: where there are ranks, this one may have none of it.
        """
        if len(tokens) == 0:
            if not self.added:
                self.sum.flat[...] = 0.0
            self.added = True
            return 0.0
        batch = tokens, targets, weights, positions, segments
        n = min(len(self.workers), len(tokens))
        shares = [share_of_rows(batch, cores.Share(i, n)) for i in range(n)]

        def by_thread(part):
            i = part.index
            return self.workers[i](shares[i], self.added and i == 0)

        losses = self._by_processes(shares) if self.in_order else cores.in_parallel(by_thread, n)
        for loss in losses:
            if isinstance(loss, Exception):
                raise loss
        self._add_up(self.flat_of_others[:n - 1])
        self.added = True
        return sum(losses)

    def add_last(self, tokens, last, head):
        """Add the gradients of a loss of the hidden states (B,C) at one position a row: last (B,)

        head(h, vector) -> (loss, dh, dvector), of all rows; vector is a reward's head (lora.HEAD).
        Returns the loss.
        """
        at = np.arange(len(tokens)), last

        def of_all(y):                          # (B,T,C)
            loss, dh, dvector = head(y[at], self.params[lora.HEAD])
            dy = np.zeros_like(y)
            dy[at] = dh
            total = self.sum[lora.HEAD]
            total[...] = total + dvector if self.added else dvector
            return loss, dy, None

        loss, _ = fast.hidden_and_grads(
            self.params, self.cfg, tokens, of_all, True, self.sum, self.added, self.arena)
        self.added = True
        return loss

    def _by_processes(self, shares):
        """The loss, or the error, of each worker. The first is this process."""
        own = []

        def for_others():
            yield from enumerate(shares[1:], 1)
            own.append(self.workers[0](shares[0], self.added))    # while the others are at work

        try:
            others = list(self.in_order(for_others()))
        except ChildProcessError as error:
            raise ChildProcessError(
                f"{error}: -9 is what a process gets when memory runs out. "
                "The same command goes on from the last checkpoint") from None
        return own + others

    def _add_up(self, others):
        """Add the others' gradients, in their order, block by block while it lies in the cache."""

        def add_part(part):
            sums = self.sum.flat
            mine = part(sums.size)
            for start in range(mine.start, mine.stop, operations.BLOCK_FLOATS):
                block = slice(start, min(start + operations.BLOCK_FLOATS, mine.stop))
                for flat in others:
                    sums[block] += flat[block]

        if others:
            cores.in_parallel(add_part)

    def close(self):
        """End the other processes and free what a step needs; the sum stays.

        Losing the last reference to this object does the same.
        """
        self.pool.close()
        self.workers, self.flat_of_others, self.arena = [], [], cores.Arena()
