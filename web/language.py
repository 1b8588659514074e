"""The language classifier: reads and trains fastText models; language.ftz is its small default.

A fastText classifier is two matrices. A text is cut at ASCII white space. Each token stands for one
row of the first matrix if the vocabulary knows it, and for one row per character n-gram of
"<token>", found by hashing; the mean of all those rows times the second matrix gives one score a
label. Nothing is lower-cased and no punctuation is split off. Reads any supervised .bin or .ftz,
lid.176 among them; writes dense ones that fastText opens. Left out: word vectors, and training
with any loss but softmax.

    python -m web.language predict "The ferry leaves at noon." "Die Fähre fährt um zwölf ab."
    python -m web.language train --input udhr/ en=english.txt --out web/language.ftz

language.ftz was trained by the second command on the Universal Declaration of Human Rights in 355
languages and 12 MB of English. `test` on the fifth held out: 98 % of English sentences score over
0.65, 0.1 % of the others do. Foreign text of other kinds, one short line at a time: about 1 %; its
language is then right half the time. For languages other than English use lid.176.

Sources: Joulin et al. 2016, arXiv 1607.01759 (the model) and 1612.03651 (compressed models), and
the file format of fastText. Shapes: N texts, K tokens of all texts in a row, U distinct tokens,
M features, R rows, D hidden size, L labels, B texts of a minibatch.
"""
import argparse
import itertools
import os
import re
import struct
import sys
import zlib
from collections import defaultdict
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from run import command, disk

MAGIC, VERSIONS = 793712314, (11, 12)
HS, NS, SOFTMAX, OVA = 1, 2, 3, 4           # losses, as the file numbers them
SUPERVISED = 3                              # the model kind; 1 and 2 are word vectors
EOS, PREFIX = b"</s>", b"__label__"
FNV_OFFSET, FNV_PRIME = 2166136261, 16777619
NGRAM_STEP = 116049371                      # multiplier of fastText's word n-gram hash
NO_COUNT = 10 ** 15                         # fastText's infinity, of inner nodes still to be made
FLOOR = np.float32(1e-5)                    # fastText takes log(p + 1e-5) and reports p + 1e-5
CHUNK_CHARS, CHUNK_TEXTS = 1 << 14, 256     # scored together: each distinct token is hashed once
BLOCK_BYTES, GATHERED = 1 << 15, 1 << 20    # of tokens, and floats, in memory at a time
LONG_TOKEN = 1 << 18                        # bytes; from here on a token's n-grams are taken in pieces

# ISO 639-3 -> the two-letter codes that lid.176 has. Individual languages stand for their group.
ISO_639_1 = dict(pair.split(":") for pair in """
abk:ab afr:af aka:ak als:sq amh:am arb:ar ayr:ay azj:az bam:bm bel:be ben:bn bis:bi bod:bo bos:bs
bre:br bul:bg cat:ca ces:cs cha:ch cmn:zh cos:co cym:cy dan:da deu:de div:dv dzo:dz ell:el eng:en
epo:eo est:et eus:eu ewe:ee fao:fo fij:fj fin:fi fra:fr fri:fy fuc:ff gla:gd gle:ga glg:gl gug:gn
guj:gu hat:ht hau:ha heb:he hin:hi hrv:hr hun:hu hye:hy ibo:ig ido:io iii:ii ike:iu ina:ia ind:id
isl:is ita:it jav:jv jpn:ja kal:kl kan:kn kat:ka kaz:kk khk:mn khm:km kin:rw kir:ky kor:ko lao:lo
lat:la lav:lv lin:ln lit:lt ltz:lb lug:lg mah:mh mal:ml mar:mr mkd:mk mlt:mt mri:mi mya:my nav:nv
nbl:nr ndo:ng nep:ne nld:nl nno:nn nob:no nya:ny ojb:oj oss:os pan:pa pes:fa plt:mg pol:pl por:pt
quz:qu roh:rm ron:ro run:rn rus:ru sag:sg san:sa slk:sk slv:sl sme:se smo:sm sna:sn som:so sot:st
spa:es src:sc srp:sr ssw:ss sun:su swe:sv swh:sw tah:ty tam:ta tat:tt tgk:tg tgl:tl tha:th tir:ti
ton:to tsn:tn tso:ts tuk:tk tur:tr uig:ug ukr:uk urd:ur uzn:uz ven:ve vie:vi wln:wa wol:wo xho:xh
ydd:yi yor:yo zul:zu""".split())


@dataclass
class Args:
    """The header of a model file: twelve int32 and a float64, in file order."""
    dim: int = 32
    ws: int = 5                             # ws, neg, lr_update_rate, t: of no effect on prediction
    epoch: int = 5
    min_count: int = 1
    neg: int = 5
    word_ngrams: int = 1
    loss: int = SOFTMAX
    model: int = SUPERVISED
    bucket: int = 7000
    minn: int = 1
    maxn: int = 4
    lr_update_rate: int = 100
    t: float = 1e-4


# ---- features -----------------------------------------------------------------------------------

def fnv_hash(token):
    """32-bit FNV-1a, but each byte is sign-extended before the xor. b"the" -> 3020861980."""
    h = FNV_OFFSET
    for byte in token:
        h = (h ^ (byte - 256 if byte > 127 else byte)) * FNV_PRIME & 0xFFFFFFFF
    return h


def ngram_hashes(tokens, minn, maxn, whole=True):           # U bytes -> (M,) uint32, (U,) int64
    """The fnv_hash of each n-gram of minn..maxn characters of each "<token>"; how many a token has.

    Of what is not whole, but pieces (see pieces_of), just the n-grams in it. By token, then start, then length: b"the", 2..4 -> <t <th <the th the the> he he> e>. The marks
    "<" and ">" alone are no n-grams. The tokens lie in one array and every start grows in step.
    """
    if not tokens:
        return np.zeros(0, np.uint32), np.zeros(0, np.int64)
    data = np.frombuffer(b"".join([b"<" + t + b">" for t in tokens] if whole else tokens), np.uint8)
    signed = data.view(np.int8).astype(np.int32).view(np.uint32)      # 0xE9 -> 0xFFFFFFE9
    first = np.flatnonzero((data & 0xC0) != 0x80)           # (C,) first byte of each character
    width = np.diff(first, append=len(data))                # (C,) bytes
    bounds = 2 * whole * np.arange(len(tokens) + 1)         # (U+1,) in bytes,
    bounds[1:] += np.cumsum(list(map(len, tokens)))
    bounds = np.searchsorted(first, bounds)                 # now in characters
    size = np.diff(bounds)                                  # (U,)
    left = np.repeat(bounds[1:], size) - np.arange(len(first))        # (C,) characters to the token's end
    minn, maxn = max(minn, 1), min(maxn, int(size.max()))
    lengths = np.arange(minn, maxn + 1)
    inside = left[:, None] >= lengths
    hashes = np.empty(inside.shape, np.uint32)
    signed = [signed[np.minimum(first + i, len(data) - 1)] for i in range(width.max())]
    wider = [width > i for i in range(width.max())]
    h = np.full(len(first), FNV_OFFSET, np.uint32)
    for n in range(1, maxn + 1):                            # h: of the n-gram at each character
        h = h[:len(first) - n + 1]
        for byte, has in zip(signed, wider):
            grown = (h ^ byte[n - 1:]) * np.uint32(FNV_PRIME)
            h = grown if byte is signed[0] else np.where(has[n - 1:], grown, h)
        if n >= minn:
            hashes[:len(h), n - minn] = h
    n_grams = np.maximum(size[:, None] - lengths + 1, 0).sum(1)
    if whole and minn == 1 <= maxn:
        inside[bounds[:-1], 0] = inside[bounds[1:] - 1, 0] = False
        n_grams -= 2
    return hashes[inside], n_grams


def pieces_of(token, maxn):
    """(piece, sign)s of a token too long for memory: their n-grams, counted with the sign, are those of "<token>".

    Neighbours share maxn - 1 characters, so that no n-gram is lost; those within what is shared come twice, and go once.
    """
    text, step = f"<{token.decode()}>", BLOCK_BYTES // 4
    yield b"<", -1                                          # the marks alone are no n-grams
    yield b">", -1
    for at in range(0, len(text), step):
        yield text[at:at + step + maxn - 1].encode(), 1
        if at and maxn > 1:
            yield text[at:at + maxn - 1].encode(), -1


def segment_sum(x, lengths):                                # (M,...), (n,) -> (n,...)
    """Sums of consecutive runs of rows; an empty run sums to zero."""
    total = np.zeros((len(lengths),) + x.shape[1:], x.dtype)
    full = lengths > 0
    if full.any():
        total[full] = np.add.reduceat(x, (np.cumsum(lengths) - lengths)[full])
    return total


def gather_sum(x, rows, lengths):                           # (R,D), (M,), (n,) -> (n,D)
    """segment_sum(x[rows], lengths), as few columns at a time as keep what is gathered small."""
    total = np.empty((len(lengths), x.shape[1]), x.dtype)
    step = max(GATHERED // max(len(rows), 1), 1)
    for d in range(0, x.shape[1], step):
        total[:, d:d + step] = segment_sum(np.take(x[:, d:d + step], rows, axis=0), lengths)
    return total


def tree_paths(counts):                                     # L counts -> (L-1,L), (L-1,L) float32
    """Hierarchical softmax's Huffman tree: which inner nodes lead left, and right, to which label.

    Labels come by falling count, so the two rarest are found by two pointers: one walks down the
    leaves, one up the inner nodes; a leaf is taken only if strictly rarer. First left, then right.
    """
    n_labels = len(counts)
    count = [int(c) for c in counts] + [NO_COUNT] * (n_labels - 1)
    parent, right_child = [0] * len(count), [0] * len(count)
    leaf, node = n_labels - 1, n_labels
    for i in range(n_labels, len(count)):
        total = 0
        for side in (0, 1):
            if leaf >= 0 and count[leaf] < count[node]:
                child, leaf = leaf, leaf - 1
            else:
                child, node = node, node + 1
            total += count[child]
            parent[child], right_child[child] = i, side
        count[i] = total
    paths = np.zeros((2, n_labels - 1, n_labels), np.float32)
    for label in range(n_labels):
        i = label
        while i != len(count) - 1:                          # the last node is the root
            paths[right_child[i], parent[i] - n_labels, label] = 1
            i = parent[i]
    return paths


class Classifier:
    """A fastText model: .predict(texts), .predict_proba(texts), .labels without "__label__".

    A newline in a text counts as a space (fastText refuses it); a lone surrogate becomes "?".
    """

    def __init__(self, args, words, labels, label_counts, emb, w, prune=None):
        """words, labels: bytes in file order. emb (R,D); w (D,L); prune (2,P): bucket ids, rows."""
        self.args, self.words, self.emb, self.w, self.prune = args, words, emb, w, prune
        self.raw_labels, self.label_counts = labels, label_counts
        self.labels = [name.removeprefix(PREFIX).decode("utf-8", "replace") for name in labels]
        self.odd_labels = not all(name.startswith(PREFIX) for name in labels)
        self.label_names, self.word_row = set(labels), {t: i for i, t in enumerate(words)}
        if args.loss == HS:
            self.left, self.right = tree_paths(label_counts)

    def is_label(self, token):
        return token.startswith(PREFIX) or token in self.label_names

    def tokenize(self, texts):                              # N -> U bytes, (K,) ids, (N,) lengths
        """Distinct tokens, and the texts as ids of them. A text ends in </s>, has no labels."""
        index, ids, lengths = defaultdict(), [], []
        index.default_factory = index.__len__               # a new token gets the next id
        index[EOS]
        for text in texts:
            raw = text.encode("utf-8", "replace").replace(b"\0", b" ")
            tokens = raw.split()
            if EOS in raw and EOS in tokens:                # to fastText the line ends here
                tokens = tokens[:tokens.index(EOS)]
            if self.odd_labels or PREFIX in raw:
                tokens = [t for t in tokens if not self.is_label(t)]
            tokens.append(EOS)
            ids += map(index.__getitem__, tokens)
            lengths.append(len(tokens))
        return list(index), np.array(ids, np.int64), np.array(lengths, np.int64)

    def bucket_rows(self, hashes):                          # (M,) -> (M,) int64, -1 if pruned away
        ids = (hashes % hashes.dtype.type(max(self.args.bucket, 1))).astype(np.int64)
        if self.prune is None:
            ids += len(self.words)
            return ids
        old, new = self.prune
        if not len(old):
            return np.full(len(ids), -1)
        at = np.minimum(np.searchsorted(old, ids), len(old) - 1)
        return np.where(old[at] == ids, len(self.words) + new[at], -1)

    def token_rows(self, tokens, whole=True):               # U bytes -> (M,), (U,) int64
        """The rows each token stands for: its word's if known, then its n-grams'; how many.

        </s> has no n-grams; it can only be the first. Pieces of tokens, which are not whole, are no words.
        """
        has_eos = int(whole and tokens[0] == EOS)
        hashes, n = ngram_hashes(tokens[has_eos:], self.args.minn, self.args.maxn, whole)
        n = np.append(np.zeros(has_eos, np.int64), n)
        rows = self.bucket_rows(hashes)
        if self.prune is not None:
            kept = rows >= 0
            rows, n = rows[kept], segment_sum(kept.astype(np.int64), n)
        if not whole:
            return rows, n
        word_rows = np.array(list(map(self.word_row.get, tokens, itertools.repeat(-1))), np.int64)
        known = word_rows >= 0
        return np.insert(rows, (np.cumsum(n) - n)[known], word_rows[known]), n + known

    def add_word_ngrams(self, tokens, ids, text, total, n):
        """Adds the rows of runs of 2..word_ngrams tokens to total (N,D), their numbers to n (N,). text: (K,) of each id."""
        each = np.array([fnv_hash(t) for t in tokens], np.uint32).view(np.int32)
        each = each.astype(np.int64).view(np.uint64)[ids]   # (K,) sign-extended; sums mod 2^64
        run = each
        for more in range(1, min(self.args.word_ngrams, len(ids))):
            run = run[:-1] * np.uint64(NGRAM_STEP) + each[more:]
            rows = self.bucket_rows(run)
            at = np.flatnonzero((text[:-more] == text[more:]) & (rows >= 0))
            found = np.bincount(text[at], minlength=len(n))
            total += gather_sum(self.emb, rows[at], found)
            n += found

    def blocks(self, tokens, times):                        # U bytes, (N,U) -> [(V bytes, (N,V), bool)]
        """Tokens, or pieces of one that is long, and how often each text has them; and whether they are whole."""
        block = np.cumsum(list(map(len, tokens))) // BLOCK_BYTES
        starts = np.flatnonzero(np.diff(block, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(tokens)]):
            if len(tokens[start]) > LONG_TOKEN and self.args.maxn < BLOCK_BYTES // 8 and tokens[start] not in self.word_row:
                for piece, sign in pieces_of(tokens[start], self.args.maxn):
                    yield [piece], sign * times[:, start:start + 1], False
                start += 1
            if start < stop:
                yield tokens[start:stop], times[:, start:stop], True

    def hidden(self, texts):                                # -> (N,D) float32, (N,) int features
        """The mean of the rows each text stands for. Every distinct token is hashed once, a block of them at a time, for memory.

        There are two ways to the same sum. A short text has few rows: they are fetched and added up. A long one comes
        to most rows again and again: how often to which is counted, and the counts multiply the whole matrix.
        """
        tokens, ids, lengths = self.tokenize(texts)
        text = np.repeat(np.arange(len(texts)), lengths)    # (K,)
        times = np.bincount(text * len(tokens) + ids, minlength=len(texts) * len(tokens)).reshape(len(texts), -1)   # (N,U)
        total, n = np.zeros((len(texts), self.args.dim), np.float32), np.zeros(len(texts), np.int64)
        for some, of_each, whole in self.blocks(tokens, times):
            rows, n_rows = self.token_rows(some, whole)
            n += of_each @ n_rows
            if len(rows) > len(texts) * len(self.emb):
                counts = [np.bincount(rows, np.repeat(t, n_rows), len(self.emb)) for t in of_each]
                total += np.array(counts, np.float32) @ self.emb
            else:
                total += of_each.astype(np.float32) @ gather_sum(self.emb, rows, n_rows)
        if self.args.word_ngrams > 1:
            self.add_word_ngrams(tokens, ids, text, total, n)
        return total / np.maximum(n, 1).astype(np.float32)[:, None], n

    def scores(self, texts):                                # -> (N,L) float32
        hidden, n = self.hidden(texts)
        logits = hidden @ self.w
        if self.args.loss == SOFTMAX:
            p = np.exp(logits - logits.max(1, keepdims=True))
            p = p / p.sum(1, keepdims=True) + FLOOR
        elif self.args.loss == HS:                          # column i: inner node i; one is unused
            f = 1 / (1 + np.exp(-np.clip(logits[:, :-1], -80, 80)))
            p = np.exp(np.log(1 - f + FLOOR) @ self.left + np.log(f + FLOOR) @ self.right)
        else:                                               # fastText's table: 512 steps on [-8, 8]
            step = np.floor((np.clip(logits, -8, 8) + 8) * 32) / 32 - 8
            p = np.where(abs(logits) > 8, logits > 0, 1 / (1 + np.exp(-step))) + FLOOR
        return np.where(n[:, None] > 0, p, 0).astype(np.float32)

    def predict_proba(self, texts):
        """(N,L) float32, p + 1e-5 as fastText reports it; zeros for a text with no features.

        Only softmax's rows sum to about 1. Where fastText leaves labels under 1e-5 out, these stay.
        """
        if isinstance(texts, (str, bytes)):
            raise ValueError("predict takes a list of texts; for one text write predict([text])")
        chunks, size = [[]], 0
        for text in texts:
            if size + len(text) > CHUNK_CHARS or len(chunks[-1]) == CHUNK_TEXTS:
                chunks, size = chunks + [[]], 0
            chunks[-1].append(text)
            size += len(text)
        parts = [np.zeros((0, len(self.labels)), np.float32)]
        return np.concatenate(parts + [self.scores(chunk) for chunk in chunks if chunk])

    def predict(self, texts):
        """The best labels and scores: [str], (N,) float32; ("", 0.0) if there is no feature."""
        p = self.predict_proba(texts)
        best, top = p.argmax(1), p.max(1)
        return [self.labels[i] if score > 0 else "" for i, score in zip(best, top)], top


# ---- model files --------------------------------------------------------------------------------

class Reader:
    """The bytes of a model file. Whatever does not fit is one ValueError that names the file."""

    def __init__(self, path):
        self.path, self.data, self.at = path, Path(path).read_bytes(), 0

    def check(self, true, problem):
        if not true:
            raise ValueError(f"{self.path}: {problem}; fetch it again or run python -m web.language train")

    def take(self, n, what):
        left = len(self.data) - self.at
        self.check(0 <= n <= left, f"{what} takes {n} bytes at {self.at}, {left} are left")
        self.at += n
        return self.data[self.at - n:self.at]

    def unpack(self, fmt, what):
        return struct.unpack("<" + fmt, self.take(struct.calcsize("<" + fmt), what))

    def array(self, dtype, n, what):
        return np.frombuffer(self.take(n * np.dtype(dtype).itemsize, what), dtype)

    def entry(self):                                        # -> bytes, count, 0 word or 1 label
        name = self.take(self.data.find(b"\0", self.at) - self.at, "a dictionary entry")
        return (name,) + self.unpack("xqb", "a dictionary entry")

    def decode(self, codes, n_rows, n_cols, what):          # (n_rows * nsubq,) uint8 -> float32
        """Product quantisation: every run of dsub columns is one of 256 centroids."""
        dim, nsubq, dsub, last = self.unpack("4i", what)
        self.check(dim == n_cols == (nsubq - 1) * dsub + last and 0 < last <= dsub
                   and len(codes) == n_rows * nsubq,
                   f"{what}: {len(codes)} codes do not make {n_rows} x {n_cols}")
        centroids, codes = self.array("<f4", 256 * dim, what), codes.reshape(n_rows, nsubq)
        parts = np.split(centroids, 256 * dsub * np.arange(1, nsubq))     # the last may be narrower
        return np.hstack([part.reshape(256, -1)[codes[:, q]] for q, part in enumerate(parts)])

    def matrix(self, n_rows, n_cols, quantised, what):      # -> (n_rows, n_cols) float32
        has_norms = quantised and self.unpack("?", what)[0]
        shape = self.unpack("2q", what)
        self.check(shape == (n_rows, n_cols), f"{what} is {shape}, not {(n_rows, n_cols)}")
        if quantised:
            codes = self.array("u1", self.unpack("i", what)[0], what)
            x = self.decode(codes, n_rows, n_cols, what)
            if has_norms:
                x = x * self.decode(self.array("u1", n_rows, what), n_rows, 1, what)
        else:
            x = self.array("<f4", n_rows * n_cols, what).reshape(shape)
        self.check(np.isfinite(x).all(), f"{what} holds NaN or infinity")
        return x


def load(path=None):
    """Reads a supervised fastText model, .bin or .ftz; default: language.ftz beside this file."""
    r = Reader(Path(__file__).with_name("language.ftz") if path is None else path)
    r.check(r.data[:4] == struct.pack("<i", MAGIC), f"no fastText model: starts {r.data[:4]!r}")
    _, version, *values = r.unpack("14id", "the header")
    args = Args(*values)
    r.check(version in VERSIONS, f"format version {version}, known are {VERSIONS}")
    r.check(args.model == SUPERVISED, f"model kind {args.model} has no labels, {SUPERVISED} does")
    if version == 11:
        args.maxn = 0                                       # before 12, classifiers had no n-grams
    r.check(args.dim > 0 and args.loss in (HS, NS, SOFTMAX, OVA)
            and args.bucket >= (args.maxn > 0 or args.word_ngrams > 1), f"impossible: {args}")
    size, n_words, n_labels, _, n_pruned = r.unpack("3i2q", "the dictionary header")
    r.check(n_words >= 0 < n_labels and n_words + n_labels == size and n_pruned >= -1,
            f"{n_words} words and {n_labels} labels in {size} entries, {n_pruned} n-grams kept")
    entries = [r.entry() for _ in range(size)]
    r.check([e[2] for e in entries] == [0] * n_words + [1] * n_labels, "labels amid words")
    prune = None
    if n_pruned >= 0:
        prune = r.array("<i4", 2 * n_pruned, "the prune table").reshape(-1, 2).astype(np.int64)
        prune = prune[prune[:, 0].argsort()].T
        r.check(((prune[1] >= 0) & (prune[1] < n_pruned)).all(), "prune table: no such row")
    n_rows = n_words + (args.bucket if prune is None else n_pruned)
    quantised = r.unpack("?", "the input matrix")[0]
    emb = r.matrix(n_rows, args.dim, quantised, "the input matrix")
    quantised &= r.unpack("?", "the output matrix")[0]
    w = r.matrix(n_labels, args.dim, quantised, "the output matrix").T
    r.check(r.at == len(r.data), f"{len(r.data) - r.at} bytes too many")
    names, counts, _ = zip(*entries)
    r.check(args.loss != HS or max(counts[n_words:]) < NO_COUNT,
            f"a label count of {max(counts[n_words:])}, which no Huffman tree of fastText's holds")
    return Classifier(args, names[:n_words], names[n_words:], counts[n_words:], emb, w, prune)


def save(path, model):
    """Writes a dense model that fastText opens, whole or not at all."""
    entries = [(name, 1, 0) for name in model.words]
    entries += [(name, count, 1) for name, count in zip(model.raw_labels, model.label_counts)]
    n_tokens = sum(count for _, count, _ in entries)
    with disk.whole_file(path) as f:
        f.write(struct.pack("<14id", MAGIC, VERSIONS[-1], *astuple(model.args)))
        f.write(struct.pack("<3i2q", len(entries), len(model.words), len(model.labels), n_tokens, -1))
        for name, count, kind in entries:
            f.write(name + struct.pack("<xqb", count, kind))
        for x in (model.emb, model.w.T):                    # the file has one row a label
            f.write(struct.pack("<x2q", *x.shape) + np.ascontiguousarray(x, "<f4").tobytes())


# ---- training -----------------------------------------------------------------------------------

SENTENCE_END = re.compile(r"(?<=[.!?;:…؟۔।])\s+|(?<=[。！？；])|\n+")


def read_texts(inputs):
    """{label: [sentence, ...]} of inputs that are each one of

    "__label__xx a text"; a file of such lines; LABEL=FILE; a file, or a directory of files, named
    by ISO 639-3 code up to the first "_" or "." ("deu_1901.txt" -> "de"; "007.txt" -> "und").
    """
    texts, lines = {}, []
    for item in map(str, inputs):
        if item.startswith("__label__"):
            lines.append(item)
            continue
        label, path = ("", item) if os.path.exists(item) else item.rpartition("=")[::2]
        if not os.path.exists(path):
            raise FileNotFoundError(f"{item}: no such file; --input takes DIR, FILE or LABEL=FILE")
        for file in sorted(Path(path).iterdir()) if os.path.isdir(path) else [Path(path)]:
            text = file.read_text(encoding="utf-8", errors="replace")
            if text.startswith("__label__") and not label:
                lines += filter(None, text.split("\n"))
                continue
            code = re.split("[_.]", file.name)[0]
            code = label or (ISO_639_1.get(code, code) if code.isalpha() else "und")
            found = (s.strip() for s in SENTENCE_END.split(text))
            texts.setdefault(code, []).extend(s for s in found if s)
    for line in lines:
        label, _, text = line.removeprefix("__label__").partition(" ")
        if not label or not line.startswith("__label__"):
            raise ValueError(f"{line[:60]!r} among __label__ lines; write __label__xx TEXT")
        texts.setdefault(label, []).append(text.strip())
    return texts


def held_out(sentence):
    """One sentence in five is for `test` only. Its own bytes decide which, so every run agrees."""
    return zlib.crc32(sentence.encode("utf-8", "replace")) % 5 == 0


def pseudo_words(sentences, n, rng):
    """n words that no one wrote: each character is drawn from those seen after the two before it.

    Ten kilobytes of one treaty hold few words of a language; these show what others are like.
    """
    after = {}
    for word in " ".join(sentences[:3000]).split():
        word = "\0\0" + word + "\n"
        for i in range(2, len(word)):
            after.setdefault(word[i - 2:i], []).append(word[i])
    words = []
    for _ in range(n):
        word = "\0\0"
        while word[-1] != "\n" and len(word) < 20:
            word += after[word[-2:]][rng.integers(len(after[word[-2:]]))]
        words.append(word[2:].rstrip("\n"))
    return words


def draw_text(sentences, own, foreign, rng, min_chars=12, max_chars=400):
    """A training text: a run of sentences cut to a log-uniform length, restyled, strangers added.

    All languages get the same styles: case, spaced punctuation, digits and names shall say nothing.
    """
    n_chars = int(np.exp(rng.uniform(np.log(min_chars), np.log(max_chars))))
    i, text = int(rng.integers(len(sentences))), ""
    while len(text) < n_chars and i < len(sentences):
        text, i = text + sentences[i] + " ", i + 1
    if len(text) > n_chars:                                 # at a space; without spaces anywhere
        text = text[:max(text.rfind(" ", 0, n_chars), 0) or n_chars]
    case, punctuation, strangers = rng.random(3)
    if case < 0.35:
        text = text.lower() if case < 0.15 else text.upper() if case < 0.3 else text.title()
    elif case < 0.6:
        text = text[:1].upper() + text[1:]
    if punctuation < 0.15:
        text = re.sub(r"([.,;:!?()\"'])", r" \1 ", text)    # as some corpora have it
    elif punctuation < 0.5:
        text = re.sub(r"(?<! ) +([.,;:!?)'])", r"\1", text)           # and back
    elif punctuation < 0.6:
        text = re.sub(r"[.,;:!?()\"]", "", text)
    if strangers < 0.75:
        words = text.split(" ")
        for kind in rng.random(int(len(words) * rng.random())):
            if kind < 0.03:
                word = str(int(10 ** rng.uniform(0, 5)))
            elif kind < 0.85:
                word = own[rng.integers(len(own))]
            else:
                word = foreign[rng.integers(len(foreign))].title()
            words.insert(int(rng.integers(len(words) + 1)), word)
        text = " ".join(words)
    return text


def loss_and_grads(emb, w, x, y):
    """Mean cross-entropy, in nats, of softmax(x @ emb @ w), and its gradients by emb and w.

    x (B,U): each feature's share of the text, rows sum to 1; emb (U,D); w (D,L); y (B,) int.
    """
    h = x @ emb                                             # (B,D) the mean of the features' rows
    logits = h @ w
    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    at = np.arange(len(y)), y
    dlogits = np.exp(log_p)                                 # loss was: -log_p[at].mean()
    dlogits[at] -= 1
    dlogits /= len(y)
    dw = h.T @ dlogits                                      # logits were: h @ w
    demb = x.T @ (dlogits @ w.T)                            # h was: x @ emb
    return -log_p[at].mean(), demb, dw


def train(inputs, out, *, dim=32, bucket=7000, minn=1, maxn=4, epochs=8, n_texts=20000, batch=32,
          lr=1.5, smoothing=0.3, seed=0, log=None):
    """Trains on read_texts(inputs) less the held-out fifth; writes the model to out, returns it.

    An epoch is n_texts fresh draws, a label drawn in proportion to (its characters) ** smoothing.
    Softmax by plain SGD; lr, which is for one text as fastText's is, falls to 0 in a straight line.
    The vocabulary is </s> alone. On foreign text unlike the training text, 1,500 words, 80,000
    buckets or the 60,000 commonest n-grams did no better than 1 MB of buckets; more epochs did
    worse. The same seed gives the same file on one machine with OPENBLAS_NUM_THREADS=1.
    """
    most = 2 ** 31 - 1                                      # the file's integers have 32 bits
    for option, value, low, high in (
            ("dim", dim, 1, most), ("bucket", bucket, 1, most), ("minn", minn, 1, most),
            ("maxn", maxn, 1, most), ("epochs", epochs, 1, most), ("n-texts", n_texts, 1, most),
            ("batch", batch, 1, most), ("smoothing", smoothing, 0, 10), ("seed", seed, 0, 2 ** 63)):
        if not low <= value <= high:
            raise ValueError(f"--{option} {value} must be {low} to {high}")
    if minn > maxn:
        raise ValueError(f"--minn {minn} must be at most --maxn {maxn}")
    if batch > n_texts:
        raise ValueError(f"--n-texts {n_texts} must be at least --batch {batch}")
    if not 0 < lr < np.inf:
        raise ValueError(f"--lr {lr} must be a number above 0")
    if not Path(out).parent.is_dir() or Path(out).is_dir():
        raise FileNotFoundError(f"--out {out} must be a file in a folder that exists")
    rng = np.random.default_rng(seed)
    texts = {l: [s for s in ss if not held_out(s)] for l, ss in read_texts(inputs).items()}
    size = {label: sum(map(len, ss)) for label, ss in texts.items()}
    labels = sorted(filter(size.get, texts), key=lambda l: (-size[l], l))     # by falling count
    if len(labels) < 2:
        raise ValueError(f"training needs text of two labels, has {labels}; add to --input")
    share = np.array([size[label] for label in labels], float) ** smoothing
    own = [pseudo_words(texts[label], 1000, rng) for label in labels]
    foreign = [word for words in own for word in words[:100]]
    emb = rng.uniform(-1 / dim, 1 / dim, (1 + bucket, dim)).astype(np.float32)
    w = np.zeros((dim, len(labels)), np.float32)
    model = Classifier(Args(dim=dim, bucket=bucket, minn=minn, maxn=maxn, epoch=epochs), [EOS],
                       [PREFIX + l.encode() for l in labels], [size[l] for l in labels], emb, w)
    if log:
        print(f"{len(labels)} labels, {sum(size.values())} characters, {model.args}", file=log)
    n_steps = n_texts // batch
    for epoch in range(epochs):
        y = rng.choice(len(labels), n_texts, p=share / share.sum())
        drawn = [draw_text(texts[labels[i]], own[i], foreign, rng) for i in y]
        tokens, ids, lengths = model.tokenize(drawn)
        rows, n = model.token_rows(tokens)
        starts, bounds, total = np.cumsum(n) - n, np.cumsum(np.append(0, lengths)), 0.0
        for step in range(n_steps):
            b = slice(step * batch, (step + 1) * batch)
            token = ids[bounds[b.start]:bounds[b.stop]]
            k = n[token]                                    # each token's rows lie in a run:
            row = rows[np.repeat(starts[token] - np.cumsum(k) + k, k) + np.arange(k.sum())]
            text = np.repeat(np.repeat(np.arange(batch), lengths[b]), k)
            used = np.flatnonzero(np.bincount(row))         # only these rows can move
            column = np.zeros(len(emb), np.int64)
            column[used] = np.arange(len(used))
            x = np.bincount(text * len(used) + column[row], minlength=batch * len(used))
            x = x.reshape(batch, -1).astype(np.float32)     # (B,U) counts, then shares
            loss, demb, dw = loss_and_grads(emb[used], w, x / x.sum(1, keepdims=True), y[b])
            rate = np.float32(lr * batch * (1 - (epoch + step / n_steps) / epochs))
            emb[used] -= rate * demb
            w -= rate * dw
            total += float(loss)
            if not np.isfinite(total):
                raise ValueError(f"epoch {epoch + 1}: the loss is {loss}; halve --lr {lr}")
        if log:
            loss = total / n_steps
            print(f"epoch {epoch + 1}/{epochs}  loss {loss:.4f} nats", file=log, flush=True)
    save(out, model)
    return model


def evaluate(model, inputs, focus="en", threshold=0.65):
    """How well one label, scored above threshold, is told from the rest: on held-out sentences."""
    texts = read_texts(inputs)
    pairs = [(l, s) for l, ss in texts.items() for s in ss if held_out(s) and len(s) >= 20]
    truth = np.array([label for label, _ in pairs])
    guess, scores = model.predict([s for _, s in pairs])
    right, taken = truth == focus, (np.array(guess) == focus) & (scores > threshold)
    if not right.any() or right.all():
        raise ValueError(f"{right.sum()} of {len(right)} held-out sentences are {focus!r}; "
                         "--input needs that label and another")
    mistaken, times = np.unique(truth[taken & ~right], return_counts=True)
    worst = sorted(zip(-times, mistaken))[:8]
    return {"held-out sentences": len(pairs), f"of them {focus}": int(right.sum()),
            "recall": float(taken[right].mean()), "precision": float(right[taken].mean()),
            "others taken for it": float(taken[~right].mean()),
            "mostly": ", ".join(f"{label} {-n}" for n, label in worst),
            "others named right": float((truth == guess)[~right].mean())}


# ---- command line -------------------------------------------------------------------------------

def parse_args(argv=None):
    parser = argparse.ArgumentParser(prog="python -m web.language", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("predict", help="print label and score of each text")
    p.add_argument("texts", nargs="+", metavar="TEXT", help="a text, or - for stdin's lines")
    t = commands.add_parser("train", help="train on all but a held-out fifth of the sentences")
    t.add_argument("--out", default="web/language.ftz", help="file to write (default %(default)s)")
    for name, what in {"dim": "size of the hidden layer", "bucket": "rows for hashed n-grams",
                       "minn": "shortest n-gram, characters", "maxn": "longest n-gram, characters",
                       "epochs": "rounds", "n_texts": "texts drawn in a round",
                       "batch": "texts in a step", "lr": "first learning rate, for one text",
                       "smoothing": "exponent of a label's share", "seed": "of all draws"}.items():
        default = train.__kwdefaults__[name]
        t.add_argument("--" + name.replace("_", "-"), type=type(default), default=default,
                       help=what + " (default %(default)s)")
    e = commands.add_parser("test", help="recall and false alarms on the held-out fifth")
    e.add_argument("--label", default="en", help="the label in question (default %(default)s)")
    e.add_argument("--threshold", type=float, default=0.65, help="to exceed (default %(default)s)")
    for sub in (t, e):
        sub.add_argument("--input", nargs="+", required=True, metavar="PATH",
                         help="DIR of files like deu.txt; LABEL=FILE; FILE of __label__ lines")
    for sub in (p, e):
        sub.add_argument("--model", help="a fastText model (default: web/language.ftz, supplied)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    if sys.stdout is None:
        raise ValueError("stdout is closed, and the results go there")
    if args.command == "train":
        options = {name: getattr(args, name) for name in train.__kwdefaults__ if name != "log"}
        model = train(args.input, args.out, log=sys.stderr, **options)
        print(f"{args.out}: {len(model.labels)} labels, {os.path.getsize(args.out)} bytes")
    elif args.command == "test":
        results = evaluate(load(args.model), args.input, args.label, args.threshold)
        for name, value in results.items():
            print(f"{name:22}", f"{value:.4f}" if isinstance(value, float) else value)
    else:
        if args.texts == ["-"] and sys.stdin is None:
            raise ValueError("stdin is closed; give the texts as arguments")
        texts = [line.rstrip("\n") for line in sys.stdin] if args.texts == ["-"] else args.texts
        for label, score in zip(*load(args.model).predict(texts)):
            print(f"{label}\t{score:.4f}")


if __name__ == "__main__":
    command.run(main, error_status=2, data=True)
