"""parallel.py: the gradients of a batch, by one process for each core.

A cluster trains by data parallelism: every machine holds the same weights and takes its own rows of
the batch, and the gradients of all are added up. The cores of one machine can do the same. Threads
would do too, but Python runs only one of them at a time: where NumPy's calls are short, as in a
small model, they would wait for each other during a sixth of the time.

Weights and gradients lie in memory that the processes share: a step sends only tokens and losses.
A large model stays with the threads of model/fast.py, which need no gradients of their own.
"""

import contextlib
import mmap
import sys

from model import cores                     # before numpy
from model import fast
from model import operations
import numpy as np
from run import command

PROCESS_FLOATS = 1 << 27        # the most floats in the gradients of all processes: 512 MB


def n_processes(cfg):
    """How many processes share a batch: one for each core, if there is room for their gradients."""
    fits = cfg.n_params * cores.N_THREADS <= PROCESS_FLOATS
    return cores.N_THREADS if fits and sys.platform == "linux" else 1


def shared_like(arrays):
    """({name: array}, all of them as one vector) in memory that forked processes share.

    The arrays have the shapes of the given ones and hold zeros.
    """
    dtype = next(iter(arrays.values())).dtype
    size = sum(a.size for a in arrays.values())
    flat = np.frombuffer(mmap.mmap(-1, size * dtype.itemsize), dtype)
    views, start = {}, 0
    for name, a in arrays.items():
        views[name] = flat[start:start + a.size].reshape(a.shape)
        start += a.size
    return views, flat


def share_of_rows(batch, share):
    """The rows of each array of the batch that belong to one share; None stays None."""
    part = []
    for a in batch:
        part.append(None if a is None else a[share(len(a))])
    return part


class Gradients:
    """The summed gradients of a step's micro-batches, in arrays that are made once.

    sum is {name: array}. added tells whether add() has been called since clear(). The arrays of
    params move into shared memory when other processes work too.
    """

    def __init__(self, params, cfg, recompute=False):
        self.params, self.cfg, self.recompute = params, cfg, recompute
        self.arena, self.added = cores.Arena(), False
        self.n_processes = n_processes(cfg)
        self.pool = contextlib.ExitStack()
        if self.n_processes == 1:
            self.threads = None             # as many as there are cores
            self.sum = {name: np.empty_like(p) for name, p in params.items()}
            return
        self.threads = 1
        self.sum, self.flat = shared_like(params)
        shared_params, _ = shared_like(params)
        for name, p in shared_params.items():
            p[...] = params[name]
            params[name] = p
        of_others = [shared_like(params) for _ in range(1, self.n_processes)]
        self.flat_of_others = [flat for _, flat in of_others]
        work = worker(params, cfg, recompute, [grads for grads, _ in of_others])
        self.in_order = self.pool.enter_context(cores.processes(len(of_others), work))

    def clear(self):
        """Forget the sum: the next add() begins a new one."""
        self.added = False

    def add(self, tokens, targets, weights, positions=None, segments=None):     # (B,T) each
        """Add the gradients of a batch to the sum. Returns the loss of the batch."""
        batch = tokens, targets, weights, positions, segments
        n = min(self.n_processes, len(tokens))
        shares = [share_of_rows(batch, cores.Share(i, n)) for i in range(n)]
        own = []

        def for_others():
            yield from enumerate(shares[1:])
            own.append(self._add_own(shares[0]))    # asked for a next item, while the others work

        losses = self._answers(for_others()) if n > 1 else list(for_others())
        for loss in [*own, *losses]:
            if isinstance(loss, Exception):
                raise loss
        if n > 1:
            self._add_up(self.flat_of_others[:n - 1])
        self.added = True
        return sum(losses, start=own[0])

    def _add_own(self, share):
        """The loss of this process's rows, or the error: the others are heard all the same."""
        tokens, targets, weights, positions, segments = share
        try:
            loss, _ = fast.loss_and_grads(
                self.params, self.cfg, tokens, targets, weights,
                grads=self.sum, add=self.added, arena=self.arena, recompute=self.recompute,
                threads=self.threads, positions=positions, segments=segments,
            )
        except Exception as error:
            return error
        return loss

    def _answers(self, items):
        """The losses, or errors, of the other processes, in the order of the items."""
        try:
            return list(self.in_order(items))
        except ChildProcessError as error:
            raise ChildProcessError(
                f"{error}: -9 is what a process gets when memory runs out. "
                "The same command goes on from the last checkpoint"
            ) from None

    def _add_up(self, others):
        """Add the others' gradients, in their order, block by block while it lies in the cache."""

        def add_part(part):
            all_of_part = part(self.flat.size)
            for start in range(all_of_part.start, all_of_part.stop, operations.BLOCK_FLOATS):
                block = slice(start, min(start + operations.BLOCK_FLOATS, all_of_part.stop))
                for flat in others:
                    self.flat[block] += flat[block]

        cores.in_parallel(add_part)

    def close(self):
        """End the other processes. Losing the last reference to this object ends them as well."""
        self.pool.close()


def worker(params, cfg, recompute, gradients):
    """The work of another process: (number, rows) -> loss, with the gradients in gradients[number].

    An error is returned and not raised, so that every process is heard before the step fails.
    """
    arena = cores.Arena()

    def work(item):
        number, (tokens, targets, weights, positions, segments) = item
        try:
            loss, _ = fast.loss_and_grads(
                params, cfg, tokens, targets, weights, grads=gradients[number], arena=arena,
                recompute=recompute, threads=1, positions=positions, segments=segments,
            )
        except Exception as error:
            return error
        return loss

    return work


if __name__ == "__main__":
    command.only_imported(__doc__)
