"""nccl_ranks.py: what ranks exchange where each trains on a GPU of its own, by NVIDIA's NCCL.

The ranks of model/ranks.py stay: they carry small values, checkpoints, and the number of 128 bytes
by which the cards find each other. Gradients and weights go from card to card, without the host. A
table is an array on the card whose row r belongs to rank r. For three ranks:

    rank 0   a a a   reduce_scatter   S . .   S = (a + b) + c,     all_gather   S T U
    rank 1   b b b   ------------->   . T .   T and U likewise     --------->   S T U
    rank 2   c c c                    . . U                                     S T U

NCCL carries bytes, and the sums are made here. Its own ncclReduceScatter adds in an order of its
own, which depends on the machines, the links between the cards and its version. Here the owner of a
row adds rank 0's, rank 1's, and so on. So a sum has the same bits for the same number of ranks, on
whatever cards, as it has with model/ranks.py.

In a step a rank of N sends (N - 1) / N times 4 bytes a weight for the sums, and for the updated
weights 2, or 4 where everything is float32. NCCL's own sum would send as much within a machine, but
less between machines: its ring leaves a machine at one card, so of two machines with 8 cards, each
would send 4 bytes a weight to the other, in the place of 16.

The exchange waits for the end of the backward pass; it is in one recorded graph with the update. By
data sheets, GPT-2 124M on 8 H100 in one machine needs 2 ms a step for it (at 300 GB/s), and 130 ms
for the products of 512 rows (at 40 % of the peak). So to exchange while the backward pass still
runs would save less than 2 % there. Over a slow network it would save more.

All calls can be recorded in a CUDA graph (NCCL 2.9). All ranks must record the same calls, or none.

This has run on a stand-in alone (tests/cuda/nccl_cpu.py), never on two real cards.

Needs CuPy 14 and NCCL: pip install nvidia-nccl-cu12, or -cu13.
"""

import os
import sys
import threading
import time
import weakref

from model import cores                     # before numpy
from model import shared_ranks
import numpy as np

ROOM_BYTES = 128 << 20      # the most that a rank receives from all others at once
POLL_S = 1e-4               # between two looks whether a step is done
ABORT_S = 3.0               # for NCCL to give up; then the process ends without it


class OneCard:
    """What a run of one rank has in the place of Cards."""

    rank, size = 0, 1

    def run(self, recording, work):
        """As of Cards."""
        recording(work)


ONE_CARD = OneCard()


def choose_card(here, cp):
    """Make this rank's GPU the one that CuPy uses. here: the Ranks; cp: CuPy.

    ValueError where two ranks would share a card.
    """
    n = cp.cuda.runtime.getDeviceCount()
    card = cp.cuda.Device(here.local_rank % n)      # a scheduler may show each rank one card only
    card.use()
    host, owners = os.uname().nodename, {}
    for rank, (their_host, their_card) in enumerate(here.all_objects([host, card.pci_bus_id])):
        other = owners.setdefault((their_host, their_card), rank)
        if other != rank:
            raise ValueError(
                f"ranks {other} and {rank} would share the GPU {their_card} of {their_host}, where "
                f"{n} can be seen; each rank needs one of its own. Start as many ranks as there "
                "are GPUs, look at CUDA_VISIBLE_DEVICES, or leave out --device cuda")


def connect(here, cp):
    """The Cards of all ranks, seen from this one, whose GPU has been chosen. All must call it."""
    import kernels
    try:
        from cupy.cuda import nccl
    except ImportError as error:
        nccl, why = None, f" ({error})"
    else:
        why = "" if nccl.available else " (this CuPy is built without it)"
    if why:
        raise ValueError(
            f"no NCCL, through which GPUs reach each other{why}. Install the one for the CUDA "
            "version that nvidia-smi shows: pip install nvidia-nccl-cu12, or nvidia-nccl-cu13; "
            "or train on one GPU, without --ranks")
    number = list(nccl.get_unique_id()) if here.rank == 0 else None
    number = here.all_objects(number)[0]
    here.cards = Cards(here, cp, nccl, tuple(number), kernels)
    return here.cards


def room_shape(row_size, n_ranks):
    """The shape of what reduce_scatter receives at once, for rows of so many float32."""
    others = n_ranks - 1
    at_once = ROOM_BYTES // (4 * others) // 4 * 4           # whole packs of 16 bytes
    return others, min(row_size, at_once)


class Cards:
    """The GPUs of all ranks, seen from the one of this rank."""

    def __init__(self, here, cp, nccl, number, kernels):
        self.here, self.rank, self.size = here, here.rank, here.size
        self.cp, self.nccl, self.kernels = cp, nccl, kernels
        self.communicator = nccl.NcclCommunicator(here.size, number, here.rank)
        self.sent = 0                                       # by the calls of the current run()
        self.bytes_of = weakref.WeakKeyDictionary()         # {recording: what each run sends}

    def run(self, recording, work):
        """Run work, or replay its record, and wait for it. It may call the methods below.

        recording: a launching.Recording. It runs once as it is, when NCCL connects the cards.
        ConnectionError where NCCL reports that another card cannot be reached.
        """
        self.sent = 0
        recording(work)
        # A replay counts nothing: it sends what the first run has sent.
        self.here.sent += self.bytes_of.setdefault(recording, self.sent)
        done = self.cp.cuda.Event(disable_timing=True)
        done.record()
        while not done.done:
            self._check()
            time.sleep(POLL_S)

    def _check(self):
        try:
            self.communicator.check_async_error()
        except RuntimeError as error:
            raise ConnectionError(
                f"the GPU of rank {self.rank} no longer reaches the others ({error}); with "
                f"NCCL_DEBUG=WARN it says more. {shared_ranks.GO_ON}") from None

    def reduce_scatter(self, table, room):
        """Put the sum of all ranks' tables into the own row: (N,n) float32. Other rows stay.

        room: an array of room_shape(n, N), in which the others' rows arrive.
        """
        n, at_once = table.shape[1], room.shape[1]
        for start in range(0, n, at_once):
            end = min(start + at_once, n)
            received = {r: room[i, :end - start] for i, r in enumerate(self._others())}
            self._exchange({r: table[r, start:end] for r in received}, received)
            self._add_in_order(table[self.rank, start:end], list(received.values()))

    def _add_in_order(self, own, received):
        """own becomes ((rank 0's + rank 1's) + rank 2's) ... as in Ranks: a + b is b + a."""
        lower, higher = received[:self.rank], received[self.rank:]
        for piece in lower[1:]:
            self.kernels.add_to(lower[0], piece)
        for piece in [*lower[:1], *higher]:
            self.kernels.add_to(own, piece)

    def _others(self):
        return [r for r in range(self.size) if r != self.rank]

    def _exchange(self, to_send, to_receive):
        """Send each other rank an array and receive one from it, all at the same time."""
        stream = self._stream()
        self.nccl.groupStart()          # without it each would wait until the other receives
        for r in self._others():
            mine, theirs = to_send[r], to_receive[r]
            self.communicator.send(mine.data.ptr, mine.nbytes, self.nccl.NCCL_UINT8, r, stream)
            self.communicator.recv(theirs.data.ptr, theirs.nbytes, self.nccl.NCCL_UINT8, r, stream)
            self.sent += mine.nbytes
        self.nccl.groupEnd()

    def all_gather(self, *tables):
        """Give every rank the rows of all others, in place: (N,...) each, of any dtype."""
        stream = self._stream()
        self.nccl.groupStart()
        for table in tables:
            own = table[self.rank]
            self.communicator.allGather(
                own.data.ptr, table.data.ptr, own.nbytes, self.nccl.NCCL_UINT8, stream)
            self.sent += (self.size - 1) * own.nbytes
        self.nccl.groupEnd()

    def _stream(self):
        return self.cp.cuda.get_current_stream().ptr

    def _forget_graphs(self):
        """Destroy the recorded graphs: a communicator that is in one cannot come to its end."""
        for recording in list(self.bytes_of):
            recording.forget()

    def close(self):
        """Leave the others, when all is done. All ranks must call it."""
        self._forget_graphs()
        self.cp.cuda.get_current_stream().synchronize()
        self.communicator.destroy()

    def abort(self):
        """Leave the others at once. One of them may be dead, and destroy() would wait for it.

        Even NCCL's abort can wait for ever, so it is made in a thread that need not end.
        """
        self._forget_graphs()
        thread = threading.Thread(target=self.communicator.abort, daemon=True)
        thread.start()
        thread.join(ABORT_S)
        if thread.is_alive():
            print("NCCL does not give up; the process ends without it", file=sys.stderr)


class Sums:
    """The gradients of all ranks added up, and their loss and norm; with the memory for that.

    tables: the gradients, (N,n) float32 each. state (3,): that of kernels.grad_norm.
    """

    def __init__(self, cards, tables, state):
        cp, N = cards.cp, cards.size
        self.cards, self.tables, self.state = cards, tables, state
        longest = max(table.shape[1] for table in tables)
        self.room = cp.empty(room_shape(longest, N), np.float32)
        n_blocks = [cards.kernels.norm_blocks(table.shape[1]) for table in tables]
        self.squares = cp.zeros((N, sum(n_blocks)), np.float32)
        self.places = []                    # in a row of squares: those of each table
        for n, end in zip(n_blocks, np.cumsum(n_blocks)):
            self.places.append(slice(end - n, end))
        self.losses = cp.zeros((N, 1), np.float32)
        self.ones = cp.asarray(np.ones(N, np.float32))

    def add_up(self, clip):
        """Put the sums of gradients into the own row of each table, and the loss of all ranks, the
        norm of all gradients and the scale that clips it into state, the same on every rank."""
        cards, kernels = self.cards, self.cards.kernels
        for table, place in zip(self.tables, self.places):
            cards.reduce_scatter(table, self.room)
            kernels.norm_partials(table[cards.rank], self.squares[cards.rank, place])
        self.losses[cards.rank] = self.state[:1]
        cards.all_gather(self.losses, self.squares)
        kernels.loss_sum(self.losses.ravel(), self.ones, self.state)
        kernels.norm_and_scale(self.squares.ravel(), clip, self.state)
