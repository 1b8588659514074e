"""layout.py: all parameters of a model in one array, for GPUs, and which rank updates which part.

model/device.py keeps the weights in one such array, the gradients in another, and so on: then one
launch updates them all, and one call exchanges them all between ranks. There are two regions, and
each is padded so that every rank has an equal part of it. AdamW's parts may end within a parameter.
Muon needs whole matrices: they lie in the order of their ranks, and each rank has as much space as
the one with the most. For three ranks:

    of_adamw                                of_muon
    wte . . | . . . wpe | ln_1, bias, pad   c_attn, c_fc | c_fc, pad    | c_attn, c_fc
    rank 0  | rank 1    | rank 2            rank 0       | rank 1       | rank 2
"""

import math

from model import cores                     # before numpy
from model import families
from model import muon
from model import zero
import numpy as np


class Layout:
    """Where each parameter lies in one array of all.

    AdamW's come first, and of them those that weight decay is for. With Muon the matrices of the
    blocks come last, and are Muon's. of_adamw and of_muon are the two slices.
    Each parameter begins at a multiple of 512 bytes. The vocabulary is padded with rows of zeros to
    a size that suits the matrix products.
    """

    def __init__(self, cfg, has_muon=False, n_ranks=1, given=None):
        """given: {name: shape} of what learns, where that is not the model itself."""
        self.n_ranks = n_ranks
        multiple = 128 if cfg.vocab_size > 1024 else 8
        padded_vocabulary = -(-cfg.vocab_size // multiple) * multiple
        self.given = families.shapes(cfg) if given is None else given
        self.shapes = dict(self.given)
        for name in {"wte.weight", families.head_name(cfg)} & self.given.keys():
            self.shapes[name] = padded_vocabulary, cfg.n_embd
        decayed, vectors, matrices = [], [], []
        for name, shape in self.shapes.items():
            if len(shape) == 1:
                vectors.append(name)
            elif has_muon and muon.is_block_matrix(name, shape):
                matrices.append(name)
            else:
                decayed.append(name)
        self.at, self.size = {}, 0
        self.n_decayed = self._place(decayed)
        n_adamw = self._place(vectors)
        n_adamw = self.size = -(-n_adamw // (128 * n_ranks)) * 128 * n_ranks
        self._place_by_rank(matrices)
        self.of_adamw, self.of_muon = slice(0, n_adamw), slice(n_adamw, self.size)

    def _padded(self, name):
        return -(-math.prod(self.shapes[name]) // 128) * 128

    def _place(self, names):
        """Place parameters behind those that have a place. Returns where they end."""
        for name in names:
            self.at[name] = self.size
            self.size += self._padded(name)
        return self.size

    def _place_by_rank(self, matrices):
        """Place each rank's matrices, in as much space as the rank with the most needs."""
        owners = zero.owners({name: self._padded(name) for name in matrices}, self.n_ranks)
        names_of = [[] for _ in range(self.n_ranks)]
        for name in matrices:
            names_of[owners[name]].append(name)
        most = max(sum(map(self._padded, names)) for names in names_of)
        begin = self.size
        for rank, names in enumerate(names_of):
            self.size = begin + rank * most
            self._place(names)
        self.size = begin + self.n_ranks * most

    def own(self, part, rank):
        """The slice of a part of all, of_adamw or of_muon, that belongs to a rank."""
        n = (part.stop - part.start) // self.n_ranks
        return slice(part.start + rank * n, part.start + (rank + 1) * n)

    def views(self, flat, part=slice(None)):
        """{name: array} of the parameters in a part of all, from an array of that part alone."""
        begin, end, _ = part.indices(self.size)
        views = {}
        for name, at in self.at.items():
            if begin <= at < end:
                shape = self.shapes[name]
                views[name] = flat[at - begin : at - begin + math.prod(shape)].reshape(shape)
        return views

    def gather(self, arrays, part=slice(None)):
        """{name: NumPy array} of the parameters in a part -> one array of that part, float32"""
        begin, end, _ = part.indices(self.size)
        flat = np.zeros(end - begin, np.float32)
        for name, view in self.views(flat, part).items():
            if arrays[name].shape != self.given[name]:
                raise ValueError(f"{name}: {arrays[name].shape}, expected {self.given[name]}")
            view[: len(arrays[name])] = arrays[name]
        return flat

    def scatter(self, flat, arrays, part, kept=lambda name: slice(None)):
        """One array of a part, on the host -> into {name: NumPy array}, the kept rows of each"""
        for name, view in self.views(flat, part).items():
            arrays[name][...] = view[: self.given[name][0]][kept(name)]
