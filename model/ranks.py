"""ranks.py: several processes train one model, and this is what they tell each other.

A rank is one of `size` processes that run the same script on the same data. All of them hold the
same weights. Each computes the gradients of its own rows of a batch, and then they must exchange
what they found:

    reduce_scatter      sums of arrays that every rank has; each rank gets some rows of the sums
    all_gather          the opposite: each rank has some rows, and all get all of them
    sum_in_order        sums of arrays, on every rank
    broadcast           arrays of one rank, on every rank
    all_objects         small Python values: everybody gets those of all

For three ranks and one array of six rows, of which each rank owns two:

    rank 0   a a a a a a   reduce_scatter   S S . . . .   all_gather   S S S S S S
    rank 1   b b b b b b   ------------->   . . S S . .   --------->   S S S S S S
    rank 2   c c c c c c   S = (a + b) + c  . . . . S S                S S S S S S

The owner of a row adds up rank 0's, rank 1's, and so on, in the arrays' own dtype. So a sum has the
same bits for the same number of ranks, whatever carries the data.

A transport carries it: shared memory (model/shared_ranks.py) or MPI (model/mpi_ranks.py). It
defines `say`, `outbox`, `exchange`, `fail` and `close` of Ranks, and perhaps `memory` and `of_all`,
by which ranks read each other's arrays where they lie. model/joining.py chooses a transport.
Where each rank has a GPU, model/nccl_ranks.py carries what is large from card to card.
"""

import mmap

from model import cores                     # before numpy
import numpy as np

CHUNK_BYTES = 4 << 20       # the most that a rank sends at once: what lies in a cache


class Ranks:
    """The ranks of a run, seen from one of them. As it stands, it is that of a run of one.

    rank, size: this one's number, from 0, and how many there are. local_rank, local_size: the same
    among those on this machine. sent: bytes of arrays that others have had from this rank, sent to
    them or read in its memory.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    sent = 0
    cards = None            # nccl_ranks.Cards, where each has a GPU; None before it is known

    # What a transport defines. Only they are called where size is above 1.

    def say(self, value):
        """[value of rank 0, value of rank 1, ...] on every rank. Values are what JSON can hold.

        It is also a barrier: it returns when all ranks have called it.
        """
        return [value]

    def outbox(self):
        """CHUNK_BYTES of memory, uint8, to be filled with what the next exchange sends."""
        raise NotImplementedError("a run of one rank sends nothing")

    def exchange(self, what, mine, theirs):
        """[bytes from rank 0, bytes from rank 1, ...], each a uint8 array.

        what: the name of the collective, for meet(), with which every exchange begins. mine[r]: the
        slice of this outbox that rank r gets. theirs[r]: the slice of rank r's outbox that this
        rank gets. The arrays are this rank's own until the exchange after the next.
        """
        raise NotImplementedError("a run of one rank sends nothing")

    def memory(self, n_bytes):
        """Memory of zeros that forked processes share: (n_bytes,) uint8. All ranks call it.

        Ranks of one machine see the others' too. Where arrays lie there, reduce_scatter and
        all_gather read those of the others and copy nothing before. So after them a rank must not
        change these arrays before all have met again: the others may still be reading.
        """
        return np.frombuffer(mmap.mmap(-1, max(1, n_bytes)), np.uint8, n_bytes)

    def of_all(self, a):
        """The arrays of all ranks that lie in their memory() where a lies here: (size, *a.shape).

        None where the others' cannot be seen, or a does not lie there.
        """
        return None

    def fail(self, why):
        """Tell the others that this rank ends, so that they end too. why: one line."""

    def close(self):
        """Leave the others, when all is done."""

    # What every rank has.

    def own_slice(self, n):
        """The slice of n things that this rank gets."""
        return cores.Share(self.rank, self.size)(n)

    def slices(self, n):
        """[the slice of n things that rank r gets, for each r]"""
        return [cores.Share(r, self.size)(n) for r in range(self.size)]

    def meet(self, what, value=None):
        """say(value), where every rank must say it about the same thing.

        ValueError, with both names, where one rank is at another collective than this one.
        """
        found = []
        for r, (their_what, their_value) in enumerate(self.say([what, value])):
            if their_what != what:
                raise ValueError(
                    f"rank {self.rank} is at {what}, rank {r} at {their_what}: the ranks do not "
                    "run the same program with the same data")
            found.append(their_value)
        return found

    def barrier(self):
        """Return when all ranks have called it."""
        self.meet("barrier")

    def all_objects(self, value):
        """[value of rank 0, value of rank 1, ...] on every rank. Values are what JSON can hold."""
        return self.meet("all_objects", value)

    def sum_of(self, *numbers):
        """The sum of each number over the ranks, added in their order: a list of floats."""
        totals = [0.0] * len(numbers)
        for of_rank in self.all_objects([float(x) for x in numbers]):
            for i, x in enumerate(of_rank):
                totals[i] += x
        return totals

    def by_rows(self, function, *arrays):
        """function(*arrays) where each rank computes its share of the rows, and all get all rows.

        function: arrays (n, ...) -> array (n, ...), each row by itself.
        """
        if self.size == 1:
            return function(*arrays)
        n = len(arrays[0])
        own = self.own_slice(n)
        found = function(*(a[own] for a in arrays)) if own.stop > own.start else None
        kinds = self.all_objects(None if found is None else [found.dtype.str, found.shape[1:]])
        dtype, shape = next(kind for kind in kinds if kind)
        whole = np.empty((n, *shape), dtype)
        if found is not None:
            whole[own] = found
        self.all_gather([whole], [self.slices(n)])
        return whole

    def reduce_scatter(self, arrays, parts):
        """Sum arrays over the ranks, in place. Each rank gets the rows that are its own.

        arrays: the same shapes and one dtype on every rank, contiguous. parts[i][r]: the slice of
        axis 0 of arrays[i] that rank r owns. All other rows keep what this rank had in them.
        """
        if self.size == 1 or not arrays:
            return
        what, seen = described("reduce_scatter", arrays), self._seen(arrays)
        if seen:
            self.meet(f"{what} where they lie")
            self._add_where_they_lie(seen, parts)
        else:
            self._add_what_is_sent(what, arrays, parts)

    def _seen(self, arrays):
        """[of_all(a) for each array], or None if one of them cannot be seen."""
        found = [self.of_all(a) for a in arrays]
        return None if any(of_all is None for of_all in found) else found

    def _add_where_they_lie(self, seen, parts):
        """Add up the own rows of all ranks' arrays, in the order of ranks, block by block."""
        for of_all, of_ranks in zip(seen, parts):
            own = of_all[:, of_ranks[self.rank]].reshape(self.size, -1)
            self.sent += of_all[0].nbytes - own[0].nbytes
            at_once = CHUNK_BYTES // (self.size * own.itemsize)
            for start in range(0, own.shape[1], at_once):
                block = own[:, start:start + at_once]
                total = block[0]
                for r in range(1, self.size - 1):
                    total = total + block[r]
                np.add(total, block[-1], out=block[self.rank])

    def _add_what_is_sent(self, what, arrays, parts):
        """The same by exchange(), so many numbers at once as an outbox holds."""
        dtype = arrays[0].dtype
        at_once = CHUNK_BYTES // (self.size * dtype.itemsize)
        rows_of = [self._row(arrays, parts, r) for r in range(self.size)]
        for start in range(0, max(row.size for row in rows_of), at_once):
            layout = []                         # of every rank's outbox: what each rank gets
            end = 0
            outbox = self.outbox().view(dtype)
            for r, row in enumerate(rows_of):
                n = row.length(start, start + at_once)
                layout.append(slice(end, end + n))
                if r != self.rank:
                    row.read(start, outbox[end:end + n])
                end += n
            received = self._exchange(what, layout, [layout[self.rank]] * self.size, dtype)
            self._add_in_order(rows_of[self.rank], start, received)

    def _add_in_order(self, own, start, received):
        """Add what has come to the own numbers from start: ((rank 0's + rank 1's) + rank 2's) ...

        Those of lower ranks are added up where they have come, and a + b is b + a: no copy is made.
        """
        lower, higher = received[:self.rank], received[self.rank + 1:]
        for piece in lower[1:]:
            lower[0] += piece
        for piece in [*lower[:1], *higher]:
            own.add(start, piece)

    def all_gather(self, arrays, parts):
        """Give every rank the rows that the others own, in place. arrays, parts: as above."""
        if self.size == 1 or not arrays:
            return
        what, seen = described("all_gather", arrays), self._seen(arrays)
        if seen:
            self.meet(f"{what} where they lie")
            self._copy_from_where_they_lie(seen, parts)
        else:
            self._spread(what, [self._row(arrays, parts, r) for r in range(self.size)])

    def _copy_from_where_they_lie(self, seen, parts):
        """Copy from each other rank's arrays the rows that it owns."""
        for of_all, of_ranks in zip(seen, parts):
            mine = of_all[self.rank]
            self.sent += (self.size - 1) * mine[of_ranks[self.rank]].nbytes
            for r, rows in enumerate(of_ranks):
                if r != self.rank:
                    mine[rows] = of_all[r, rows]

    def broadcast(self, arrays, root=0):
        """Give every rank the arrays of one rank, in place. Those of the root may be read-only."""
        if self.size == 1 or not arrays:
            return
        what = described(f"broadcast of rank {root}", arrays)
        parts = []
        for a in arrays:
            nothing = [slice(0, 0)] * self.size
            nothing[root] = slice(0, len(a))
            parts.append(nothing)
        self._spread(what, [self._row(arrays, parts, r) for r in range(self.size)])

    def sum_in_order(self, arrays):
        """Sum arrays over the ranks, in place and on every rank. The dtype is one and the same."""
        flat = [_flat(a) for a in arrays]
        parts = [self.slices(a.size) for a in flat]
        self.reduce_scatter(flat, parts)
        self.all_gather(flat, parts)

    def _row(self, arrays, parts, r):
        """The rows that rank r owns, as one."""
        return _Row([_flat(a[of_ranks[r]]) for a, of_ranks in zip(arrays, parts)])

    def _spread(self, what, rows_of):
        """Give every rank what lies in the row of each."""
        at_once = CHUNK_BYTES // self.size       # so that all of them together fit as well
        rows_of = [row.as_bytes() for row in rows_of]
        for start in range(0, max(row.size for row in rows_of), at_once):
            theirs = [slice(0, row.length(start, start + at_once)) for row in rows_of]
            mine = theirs[self.rank]
            rows_of[self.rank].read(start, self.outbox()[mine])
            received = self._exchange(what, [mine] * self.size, theirs, np.dtype(np.uint8))
            for r, piece in enumerate(received):
                if r != self.rank:
                    rows_of[r].write(start, piece)

    def _exchange(self, what, mine, theirs, dtype):
        """exchange() with slices that count numbers of a dtype. What is a rank's own stays."""
        def in_bytes(slices):
            found = [slice(s.start * dtype.itemsize, s.stop * dtype.itemsize) for s in slices]
            found[self.rank] = slice(0, 0)
            return found

        mine = in_bytes(mine)
        self.sent += sum(s.stop - s.start for s in mine)
        return [a.view(dtype) for a in self.exchange(what, mine, in_bytes(theirs))]


class _Row:
    """Arrays of one dimension, as if they lay one behind another."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.ends = np.cumsum([a.size for a in arrays])
        self.size = int(self.ends[-1])

    def as_bytes(self):
        """The same memory as uint8."""
        return _Row([a.view(np.uint8) for a in self.arrays])

    def length(self, start, stop):
        """How many numbers there are from start to stop."""
        return max(0, min(stop, self.size) - start)

    def _views(self, start, n):
        """(the part of each array that lies in the n numbers from start, its place among them)"""
        i = int(np.searchsorted(self.ends, start, "right"))
        done = 0
        while done < n:
            a = self.arrays[i]
            begin = start + done - (int(self.ends[i]) - a.size)
            view = a[begin:begin + n - done]
            yield view, slice(done, done + view.size)
            done += view.size
            i += 1

    def read(self, start, out):
        """Copy the numbers from start into out."""
        for view, place in self._views(start, out.size):
            out[place] = view

    def write(self, start, numbers):
        """Copy numbers to the places from start."""
        for view, place in self._views(start, numbers.size):
            view[...] = numbers[place]

    def add(self, start, numbers):
        """Add numbers to those from start."""
        for view, place in self._views(start, numbers.size):
            view += numbers[place]


def _flat(a):
    """An array as one of one dimension, without a copy."""
    if not a.flags.c_contiguous:
        raise ValueError(f"an array of {a.shape} is not contiguous: ranks exchange whole rows")
    return a.reshape(-1)


def described(what, arrays):
    """The name of a collective with its size: ranks compare it, so that none waits in vain."""
    dtypes = sorted(dtype.name for dtype in {a.dtype for a in arrays})
    if len(dtypes) > 1 and what == "reduce_scatter":
        raise ValueError(f"{what} of {' and '.join(dtypes)}: arrays of one dtype are expected")
    n_bytes = sum(a.nbytes for a in arrays)
    return f"{what} of {len(arrays)} arrays, {n_bytes:,} bytes of {' and '.join(dtypes)}"


ALONE = Ranks()
_here = ALONE


def here():
    """The ranks of this process: ALONE, unless model/joining.py has joined it to others."""
    return _here


def enter(found):
    """From now on, here() gives what was found."""
    global _here
    _here = found
