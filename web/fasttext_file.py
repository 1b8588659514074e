"""The file format of fastText's supervised models: read whole and checked, written dense.

    int32       magic, version, and the twelve options of Args; float64 t
    dictionary  int32 entries, words, labels; int64 tokens, kept n-grams; then each entry:
                its name, a zero, int64 count, int8 kind (0 word, 1 label)
    pruning     pairs of int32: number of an n-gram's bucket, its row
    matrices    bool quantised; int64 rows, columns; float32 values, or codes and centroids

A .ftz is quantised: every run of some columns is one of 256 centroids, named by a byte.

Source: Joulin et al. 2016, arXiv 1612.03651 (compressed models).
"""
import struct
from dataclasses import astuple
from pathlib import Path

import numpy as np

from run import disk
from web.classifier import HS, NO_COUNT, NS, OVA, SOFTMAX, SUPERVISED, Args, Classifier

MAGIC, VERSIONS = 793712314, (11, 12)


class Reader:
    """The bytes of a model file. Whatever does not fit is one ValueError that names the file."""

    def __init__(self, path):
        self.path, self.data, self.at = path, Path(path).read_bytes(), 0

    def check(self, true, problem):
        """ValueError if something is not true."""
        if not true:
            raise ValueError(f"{self.path}: {problem}; "
                             "fetch it again or run python -m web.language train")

    def take(self, n, what):
        """The next n bytes."""
        left = len(self.data) - self.at
        self.check(0 <= n <= left, f"{what} takes {n} bytes at {self.at}, {left} are left")
        self.at += n
        return self.data[self.at - n:self.at]

    def unpack(self, fmt, what):
        """The next values, in the notation of struct."""
        return struct.unpack("<" + fmt, self.take(struct.calcsize("<" + fmt), what))

    def value(self, fmt, what):
        """The next value."""
        return self.unpack(fmt, what)[0]

    def array(self, dtype, n, what):
        """The next n numbers."""
        return np.frombuffer(self.take(n * np.dtype(dtype).itemsize, what), dtype)

    def entry(self):
        """(name, count, 0 for a word or 1 for a label)."""
        end = self.data.find(b"\0", self.at)
        name = self.take(end - self.at, "a dictionary entry")
        count, kind = self.unpack("xqb", "a dictionary entry")
        return name, count, kind

    def decode(self, codes, n_rows, n_cols, what):          # (n_rows * nsubq,) uint8 -> float32
        """Undo product quantisation: every run of dsub columns is one of 256 centroids."""
        dim, nsubq, dsub, last = self.unpack("4i", what)    # last: columns of the last run
        fits = dim == n_cols == (nsubq - 1) * dsub + last and 0 < last <= dsub
        self.check(fits and len(codes) == n_rows * nsubq,
                   f"{what}: {len(codes)} codes do not make {n_rows} x {n_cols}")
        centroids = self.array("<f4", 256 * dim, what)
        codes = codes.reshape(n_rows, nsubq)
        columns = []
        for q in range(nsubq):
            run = centroids[256 * dsub * q:256 * dsub * (q + 1)]
            columns.append(run.reshape(256, -1)[codes[:, q]])
        return np.hstack(columns)

    def matrix(self, n_rows, n_cols, quantised, what):      # -> (n_rows, n_cols) float32
        """A matrix, whose rows may be quantised as directions and norms."""
        has_norms = quantised and self.value("?", what)
        shape = self.unpack("2q", what)
        self.check(shape == (n_rows, n_cols), f"{what} is {shape}, not {(n_rows, n_cols)}")
        if quantised:
            n_codes = self.value("i", what)
            codes = self.array("u1", n_codes, what)
            x = self.decode(codes, n_rows, n_cols, what)
        else:
            x = self.array("<f4", n_rows * n_cols, what).reshape(shape)
        if has_norms:
            codes = self.array("u1", n_rows, what)
            x = x * self.decode(codes, n_rows, 1, what)
        self.check(np.isfinite(x).all(), f"{what} holds NaN or infinity")
        return x


def read_args(r):
    """The Args in the header of a file."""
    r.check(r.data[:4] == struct.pack("<i", MAGIC), f"no fastText model: starts {r.data[:4]!r}")
    _, version, *values = r.unpack("14id", "the header")
    args = Args(*values)
    r.check(version in VERSIONS, f"format version {version}, known are {VERSIONS}")
    r.check(args.model == SUPERVISED, f"model kind {args.model} has no labels, {SUPERVISED} does")
    if version == 11:
        args.maxn = 0                                       # before 12, classifiers had no n-grams
    has_ngrams = args.maxn > 0 or args.word_ngrams > 1
    r.check(args.dim > 0 and args.loss in (HS, NS, SOFTMAX, OVA) and args.bucket >= has_ngrams,
            f"impossible: {args}")
    return args


def read_prune(r, n_pruned):                                # -> (2,P) int64
    """The table of kept n-grams: numbers of buckets in rising order, and their rows."""
    table = r.array("<i4", 2 * n_pruned, "the prune table")
    pairs = table.reshape(-1, 2).astype(np.int64)
    buckets, rows = pairs[pairs[:, 0].argsort()].T
    r.check((rows >= 0).all() and (rows < n_pruned).all(), "prune table: no such row")
    return buckets, rows


def read(path):
    """The Classifier in a file."""
    r = Reader(path)
    args = read_args(r)
    size, n_words, n_labels, _, n_pruned = r.unpack("3i2q", "the dictionary header")
    possible = n_words >= 0 < n_labels and n_words + n_labels == size and n_pruned >= -1
    r.check(possible, f"{n_words} words and {n_labels} labels in {size} entries, "
                      f"{n_pruned} n-grams kept")
    names, counts, kinds = map(list, zip(*[r.entry() for _ in range(size)]))
    r.check(kinds == [0] * n_words + [1] * n_labels, "labels amid words")
    prune, n_ngrams = None, args.bucket
    if n_pruned >= 0:
        prune, n_ngrams = read_prune(r, n_pruned), n_pruned
    quantised = r.value("?", "the input matrix")
    emb = r.matrix(n_words + n_ngrams, args.dim, quantised, "the input matrix")
    quantised &= r.value("?", "the output matrix")
    w = r.matrix(n_labels, args.dim, quantised, "the output matrix").T
    r.check(r.at == len(r.data), f"{len(r.data) - r.at} bytes too many")
    most = max(counts[n_words:])
    r.check(args.loss != HS or most < NO_COUNT,
            f"a label count of {most}, which no Huffman tree of fastText's holds")
    return Classifier(args, names[:n_words], names[n_words:], counts[n_words:], emb, w, prune)


def write(path, model):
    """Write a dense model that fastText opens, whole or not at all."""
    entries = [(name, 1, 0) for name in model.words]
    entries += [(name, count, 1) for name, count in zip(model.raw_labels, model.label_counts)]
    n_tokens = sum(count for _, count, _ in entries)
    sizes = len(entries), len(model.words), len(model.labels)
    not_pruned = -1
    with disk.whole_file(path) as f:
        f.write(struct.pack("<14id", MAGIC, VERSIONS[-1], *astuple(model.args)))
        f.write(struct.pack("<3i2q", *sizes, n_tokens, not_pruned))
        for name, count, kind in entries:
            f.write(name + struct.pack("<xqb", count, kind))
        for x in (model.emb, model.w.T):                    # the file has one row a label
            f.write(struct.pack("<x2q", *x.shape))
            f.write(np.ascontiguousarray(x, "<f4").tobytes())
