"""zero.py: the optimizer divided over ranks (ZeRO, stage 1).

Every rank computes with all weights, and its backward pass gives it gradients of all of them. But
AdamW's means, two numbers for each weight, are only needed where that weight is updated. So each
rank updates some rows, and keeps the means of these rows alone:

    add_up      reduce_scatter: each rank gets the summed gradients of its own rows
    step        AdamW or Muon on the own rows
    spread      all_gather: each rank gets the rows that the others have updated

For n weights in float32 a rank of N then holds 4 n bytes of weights, 4 n of gradients and 8 n / N
of means. In a step it sends 2 (N - 1) / N times 4 n bytes, as much as it takes to sum the gradients
on every rank. The result has the same bits as a step that every rank takes with all weights.

Muon makes a whole matrix orthogonal, so its matrices are not cut: each goes to one rank.

Source: Rajbhandari et al. 2020 (ZeRO), sections 5 and 7.
"""

from model import cores                     # before numpy
from model import muon
from model import ranks
import numpy as np

DIVIDED = True          # False: every rank updates all weights. Tests compare the two.


def owners(sizes, n_ranks):
    """{name: rank} of arrays of such sizes: the largest first, each to who has least by then."""
    loads, found = [0] * n_ranks, {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        found[name] = loads.index(min(loads))
        loads[found[name]] += sizes[name]
    return found


class InARow(dict):
    """{name: array} of arrays that lie one behind another: all of them are one vector, `flat`.

    like: {name: array}, which says names, shapes and dtype. memory: a function, n -> n bytes.
    """

    def __init__(self, like, memory):
        dtype = next(iter(like.values())).dtype
        self.flat = memory(sum(a.size for a in like.values()) * dtype.itemsize).view(dtype)
        start = 0
        for name, a in like.items():
            self[name] = self.flat[start:start + a.size].reshape(a.shape)
            start += a.size


def in_a_row(params, n_ranks):
    """{name: [the rows of rank r, for each r]}, as if all arrays lay one behind another.

    Each rank gets as many numbers as the others, but for a row. So most arrays belong to one rank,
    and only that one spends time on them: in a small model, arrays are many and short.

    >>> in_a_row({"a": np.zeros((3, 4)), "b": np.zeros(4)}, 2)
    {'a': [slice(0, 2, None), slice(2, 3, None)], 'b': [slice(0, 0, None), slice(0, 4, None)]}
    """
    n, before, slices = sum(p.size for p in params.values()), 0, {}
    for name, p in params.items():
        cuts = [0]
        for r in range(1, n_ranks):
            rows = round((n * r / n_ranks - before) * len(p) / p.size)
            cuts.append(min(max(rows, 0), len(p)))
        cuts.append(len(p))
        slices[name] = [slice(a, b) for a, b in zip(cuts, cuts[1:])]
        before += p.size
    return slices


def one_owner_each(params, n_ranks):
    """The same, where each array belongs to one rank as a whole."""
    sizes, slices = {name: p.size for name, p in params.items()}, {}
    for name, owner in owners(sizes, n_ranks).items():
        n = len(params[name])
        before, after = [slice(0, 0)] * owner, [slice(n, n)] * (n_ranks - 1 - owner)
        slices[name] = [*before, slice(0, n), *after]
    return slices


class Parts:
    """Which rows of each array of params this rank updates.

    params: {name: array} of all that learns; whole_matrices: whether those of the blocks stay in
    one piece. slices: {name: [the rows of rank r, for each r]}.
    """

    def __init__(self, params, here=ranks.ALONE, whole_matrices=False):
        self.params, self.here = params, here
        self.is_divided = DIVIDED and here.size > 1
        whole, others = {}, {}
        for name, p in params.items():
            is_whole = whole_matrices and muon.is_block_matrix(name, p.shape)
            (whole if is_whole else others)[name] = p
        self.slices = {**in_a_row(others, here.size), **one_owner_each(whole, here.size)}
        self.of_flat = None if whole else self._of_flat()   # the same, where they are one vector

    def _of_flat(self):
        """Which part of all numbers, in a row, belongs to each rank."""
        found, end = [], 0
        for r in range(self.here.size):
            begin = end
            end += sum(p[self.slices[name][r]].size for name, p in self.params.items())
            found.append(slice(begin, end))
        return found

    def own(self, arrays):
        """{name: the rows of the array that belong to this rank}, as views."""
        if self.here.size == 1:
            return arrays
        return {name: a[self.slices[name][self.here.rank]] for name, a in arrays.items()}

    def updated(self, arrays):
        """{name: the rows that this rank's optimizer updates}, as views."""
        return self.own(arrays) if self.is_divided else arrays

    def add_up(self, grads):
        """Sum gradients over the ranks, in place: those that updated() and own() give."""
        if self.is_divided:
            self.here.reduce_scatter(*self.with_slices(grads))
        else:
            self.here.sum_in_order(list(grads.values()))

    def spread(self):
        """Give every rank the weights that the others have updated."""
        if self.is_divided:
            self.here.all_gather(*self.with_slices(self.params))

    def with_slices(self, arrays):
        """Arrays as one vector if they are one, else as a list; and what of each a rank owns."""
        if self.of_flat and isinstance(arrays, InARow):
            return [arrays.flat], [self.of_flat]
        return list(arrays.values()), [self.slices[name] for name in arrays]

    def kept(self, name):
        """The rows of a mean of an array that this rank's optimizer has."""
        return self.slices[name][self.here.rank] if self.is_divided else slice(None)

    def gathered(self, name, mean):
        """A mean of the array of that name with the rows of all ranks, for a checkpoint."""
        return Gathered(self, name, mean) if self.is_divided else mean


class Gathered:
    """An array whose rows lie on all ranks. np.asarray(), on all of them, brings it together."""

    def __init__(self, parts, name, own):
        self.parts, self.name, self.own = parts, name, own
        self.shape, self.dtype = parts.params[name].shape, own.dtype
        self.nbytes = parts.params[name].size * own.itemsize

    def __array__(self, dtype=None, copy=None):
        parts = self.parts
        whole = np.empty(self.shape, self.dtype)
        whole[parts.kept(self.name)] = self.own
        parts.here.all_gather([whole], [parts.slices[self.name]])
        return whole


EVERYTHING = Parts({})      # of a run of one rank
