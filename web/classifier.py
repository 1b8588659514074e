"""A fastText classifier at full speed: many texts at once, and every kind of supervised model.

It predicts what `language.predict` does, in a seventh of the time. It also has what is left out
there: n-grams of words, n-grams that were pruned, and the other losses. What makes it fast:

- Texts are scored in chunks, and each distinct token of a chunk is hashed once.
- The n-grams of all tokens are hashed together, one character a step.
- Rows are fetched and added in blocks, or counted and multiplied. Both bound the memory.

Shapes: N texts, K tokens of all texts in a row, U distinct tokens, M features, R rows, D hidden
size, L labels, P n-grams that are kept.

Sources: Joulin et al. 2016, arXiv 1607.01759 (the model) and 1612.03651 (pruning).
"""
from collections import Counter
from dataclasses import dataclass
from itertools import chain, count, repeat

import numpy as np


HS, NS, SOFTMAX, OVA = 1, 2, 3, 4           # losses, as the file numbers them
SUPERVISED = 3                              # the model kind; 1 and 2 are word vectors
EOS, PREFIX = b"</s>", b"__label__"
FNV_OFFSET, FNV_PRIME = 2166136261, 16777619
NGRAM_STEP = 116049371                      # multiplier of fastText's word n-gram hash
NO_COUNT = 10 ** 15                         # fastText's infinity, for inner nodes without a count
FLOOR = np.float32(1e-5)                    # fastText takes log(p + 1e-5) and reports p + 1e-5
CHUNK_CHARS, CHUNK_TEXTS = 1 << 14, 256     # limits of the texts that are scored together
BLOCK_BYTES = 1 << 15                       # bytes of tokens that are hashed together
GATHERED = 1 << 20                          # floats of rows that are fetched together
LONG_TOKEN = 1 << 18                        # bytes; a longer token is taken in pieces


@dataclass
class Args:
    """The header of a model file: twelve int32 and a float64, in file order."""
    dim: int = 32
    ws: int = 5                             # ws, neg, lr_update_rate and t: only for training
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


# --------------------------------------------------------------------------------------------------
# The hashes of n-grams.

def fnv_hash(token):
    """32-bit FNV-1a, but each byte is sign-extended before the xor. b"the" -> 3020861980."""
    h = FNV_OFFSET
    for byte in token:
        h = (h ^ (byte - 256 if byte > 127 else byte)) * FNV_PRIME & 0xFFFFFFFF
    return h


def ngram_hashes(tokens, minn, maxn, whole=True):           # U bytes -> (lengths,C), same, (U,)
    """The n-grams of minn..maxn characters of all "<token>": hashes, which there are, sizes.

    All tokens lie in one array of C characters. hashes[k, i] is the fnv_hash of the minn + k
    characters from i on; inside[k, i] says whether they are an n-gram of one token. size: the
    characters of each token. whole=False: the tokens are pieces (see pieces_of), without marks.
    """
    before, behind = (b"<", b">") if whole else (b"", b"")
    joined = before + (behind + before).join(tokens) + behind if tokens else b""
    data = np.frombuffer(joined, np.uint8)
    first = np.flatnonzero((data & 0xC0) != 0x80)           # (C,) first byte of each character
    n_bytes = np.array(list(map(len, tokens)), np.int64) + len(before + behind)
    ends = np.searchsorted(first, np.cumsum(n_bytes))       # (U,) in characters
    size = np.diff(ends, prepend=0)
    left = np.repeat(ends, size) - np.arange(len(first))    # (C,) characters to the token's end
    minn, maxn = max(minn, 1), min(maxn, int(size.max(initial=0)))
    hashes = hash_all_starts(data, first, minn, maxn)
    inside = left >= np.arange(minn, maxn + 1)[:, None]
    if whole and minn == 1 <= maxn:                         # the marks alone are no n-grams
        inside[0, ends - size] = inside[0, ends - 1] = False
    return hashes, inside, size


def hash_all_starts(data, first, minn, maxn):               # (bytes,), (C,) -> (lengths,C) uint32
    """The hash of the n-gram of each length at each character, even if it crosses tokens."""
    hashes = np.zeros((max(maxn - minn + 1, 0), len(first)), np.uint32)
    width = np.diff(first, append=len(data))                # (C,) bytes of each character
    signed = data.view(np.int8).astype(np.int32).view(np.uint32)        # 0xE9 -> 0xFFFFFFE9
    first_byte, later = signed[first], []   # later: the i-th byte of each character, and its factor
    for i in range(1, width.max(initial=0)):
        byte = signed[np.minimum(first + i, len(data) - 1)]
        has_byte = width > i                # else the step must change nothing
        later.append((byte * has_byte, np.where(has_byte, np.uint32(FNV_PRIME), np.uint32(1))))
    h = np.full(len(first), FNV_OFFSET, np.uint32)
    for n in range(1, maxn + 1):                            # h: of the n characters from each on
        h = h[:len(first) - n + 1]
        h ^= first_byte[n - 1:]
        h *= np.uint32(FNV_PRIME)
        for byte, factor in later:
            h ^= byte[n - 1:]
            h *= factor[n - 1:]
        if n >= minn:
            hashes[n - minn, :len(h)] = h
    return hashes


def pieces_of(token, maxn):
    """Yield (piece, sign) of a token that is too long for memory.

    The n-grams of the pieces, counted with the sign, are those of "<token>". Neighbours share
    maxn - 1 characters, so that no n-gram is lost. The n-grams inside the shared characters come
    twice, and are subtracted once.
    """
    text, step = f"<{token.decode()}>", BLOCK_BYTES // 4
    yield b"<", -1                                          # the marks alone are no n-grams
    yield b">", -1
    for at in range(0, len(text), step):
        yield text[at:at + step + maxn - 1].encode(), 1
        if at and maxn > 1:
            yield text[at:at + maxn - 1].encode(), -1


# --------------------------------------------------------------------------------------------------
# Sums of rows.

def numbered(lists):                                        # N lists -> {U bytes: id}
    """Ids of the distinct tokens of all texts, 0 for </s>."""
    distinct = dict.fromkeys([EOS])
    for tokens in lists:
        distinct.update(dict.fromkeys(tokens))
    return dict(zip(distinct, count()))


def count_tokens(lists):                                    # N lists -> U bytes, (N,U)
    """The distinct tokens of all texts, </s> first, and how often each text has them."""
    if len(lists) == 1:                                     # the usual case, in half of the time
        counter = Counter({EOS: 0})
        counter.update(lists[0])
        return list(counter), np.array([list(counter.values())])
    ids = numbered(lists)
    times = np.zeros((len(lists), len(ids)), np.int64)
    for row, tokens in zip(times, lists):
        row += np.bincount([ids[token] for token in tokens], minlength=len(row))
    return list(ids), times


def segment_sum(x, lengths):                                # (M,...), (n,) -> (n,...)
    """Sums of consecutive runs of rows; an empty run sums to zero."""
    total = np.zeros((len(lengths),) + x.shape[1:], x.dtype)
    starts = np.cumsum(lengths) - lengths
    full = lengths > 0
    if full.any():
        total[full] = np.add.reduceat(x, starts[full])
    return total


def gather_sum(x, rows, lengths):                           # (R,D), (M,), (n,) -> (n,D)
    """segment_sum(x[rows], lengths), of as many columns at a time as the memory allows."""
    total = np.empty((len(lengths), x.shape[1]), x.dtype)
    step = max(GATHERED // max(len(rows), 1), 1)
    for d in range(0, x.shape[1], step):
        total[:, d:d + step] = segment_sum(np.take(x[:, d:d + step], rows, axis=0), lengths)
    return total


def by_token(rows, size):                                   # of find_rows -> (M,), (U,) int64
    """(the rows of one token after the other, the number of rows of each token).

    Of a token first comes its word, then its n-grams in the order of language.ngrams.
    """
    n = segment_sum((rows >= 0).sum(0), size)
    return rows.T[rows.T >= 0], n


# --------------------------------------------------------------------------------------------------
# Losses: scores of labels -> probabilities, + 1e-5 as fastText reports them.

def softmax(logits):                                        # (N,L) -> (N,L)
    """Probabilities that sum to 1."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True) + FLOOR


def sigmoid_table(logits):                                  # (N,L) -> (N,L)
    """A probability for each label, from fastText's table of the sigmoid: 512 steps on [-8, 8]."""
    step = np.floor((np.clip(logits, -8, 8) + 8) * 32) / 32 - 8
    p = 1 / (1 + np.exp(-step))
    beyond = abs(logits) > 8
    return np.where(beyond, logits > 0, p) + FLOOR


def hierarchical(logits, left, right):                      # (N,L), (L-1,L), (L-1,L) -> (N,L)
    """The product of the decisions on the way to each label. Column i is inner node i's score."""
    f = 1 / (1 + np.exp(-np.clip(logits[:, :-1], -80, 80)))         # one column is unused
    return np.exp(np.log(1 - f + FLOOR) @ left + np.log(f + FLOOR) @ right)


def tree_paths(counts):                                     # L counts -> (L-1,L), (L-1,L) float32
    """The Huffman tree of hierarchical softmax: (inner node, label) pairs with a step left, right.

    Labels are sorted by falling count, so two pointers find the two rarest nodes: one walks back
    over the leaves, one forward over the inner nodes. A leaf is taken only if it is strictly rarer.
    The first of the two becomes the left child.
    """
    n_labels = len(counts)
    count = list(map(int, counts)) + [NO_COUNT] * (n_labels - 1)
    labels = [[label] for label in range(n_labels)]         # below each node
    paths = np.zeros((2, n_labels - 1, n_labels), np.float32)
    leaf, node = n_labels - 1, n_labels
    for new in range(n_labels, len(count)):
        children = []
        for side in (0, 1):
            if leaf >= 0 and count[leaf] < count[node]:
                child = leaf
                leaf -= 1
            else:
                child = node
                node += 1
            paths[side, new - n_labels, labels[child]] = 1
            children.append(child)
        left, right = children
        count[new] = count[left] + count[right]
        labels.append(labels[left] + labels[right])
    return paths


# --------------------------------------------------------------------------------------------------

class Classifier:
    """A fastText model: .predict(texts), .predict_proba(texts), .labels without "__label__".

    A newline in a text counts as a space (fastText refuses it); a lone surrogate becomes "?".
    """

    def __init__(self, args, words, labels, label_counts, emb, w, prune=None):
        """words, labels: bytes in file order. emb (R,D); w (D,L); prune (2,P): bucket ids, rows."""
        self.args = args
        self.words = words
        self.emb = emb
        self.w = w
        self.prune = prune
        self.raw_labels = labels
        self.label_names = set(labels)
        self.label_counts = label_counts
        self.labels = [name.removeprefix(PREFIX).decode("utf-8", "replace") for name in labels]
        self.odd_labels = not all(name.startswith(PREFIX) for name in labels)
        self.word_row = {word: row for row, word in enumerate(words)}
        if args.loss == HS:
            self.left, self.right = tree_paths(label_counts)

    def tokenize(self, texts):                              # N -> N lists of bytes
        """The tokens of each text. A text ends in </s> and has no labels."""
        lists = []
        for text in texts:
            raw = text.encode("utf-8", "replace").replace(b"\0", b" ")
            tokens = raw.split()
            if EOS in raw and EOS in tokens:                # to fastText the line ends here
                tokens = tokens[:tokens.index(EOS)]
            if self.odd_labels or PREFIX in raw:
                tokens = [token for token in tokens
                          if not token.startswith(PREFIX) and token not in self.label_names]
            lists.append([*tokens, EOS])
        return lists

    def bucket_rows(self, hashes):                          # any shape -> the same, int64
        """The row of each n-gram, -1 if it was pruned away."""
        bucket = hashes.dtype.type(max(self.args.bucket, 1))
        ids = (hashes - hashes // bucket * bucket).astype(np.int32)     # % takes twice as long
        if self.prune is None:
            ids += len(self.words)
            return ids
        old, new = self.prune
        if not len(old):
            return np.full(ids.shape, -1)
        at = np.minimum(np.searchsorted(old, ids), len(old) - 1)
        return np.where(old[at] == ids, len(self.words) + new[at], -1)

    def find_rows(self, tokens, whole=True):                # U bytes -> (1+lengths,C) int64, (U,)
        """The rows of all tokens, as ngram_hashes has their n-grams; the characters of each token.

        Where a token begins, the first line has the row of its word. -1: no row. </s> has no
        n-grams, and can only be the first token. whole=False: pieces of a token are no words.
        """
        hashes, inside, size = ngram_hashes(tokens, self.args.minn, self.args.maxn, whole)
        if whole and tokens[0] == EOS:
            inside[:, :size[0]] = False
        rows = np.full((1 + len(hashes), size.sum()), -1, np.int32)
        np.copyto(rows[1:], self.bucket_rows(hashes), where=inside)
        if whole:
            known = map(self.word_row.get, tokens, repeat(-1))
            rows[0, np.cumsum(size) - size] = np.fromiter(known, np.int32, len(tokens))
        return rows, size

    def count_rows(self, rows, size, times):                # of find_rows, (N,U) -> (N,R)
        """How often each text has each row. times: how often it has each token."""
        counts = np.zeros((len(times), 1 + len(self.emb)))  # the first column is that of -1
        for count, times_of in zip(counts, times):
            weights = np.repeat(times_of.astype(np.float64), size)
            for line in rows:
                count += np.bincount(line + 1, weights, len(count))
        return counts[:, 1:]

    def add_word_ngrams(self, lists, total, n):
        """Add the rows of runs of 2..word_ngrams tokens to total (N,D), their numbers to n (N,).

        lists: the tokens of each text.
        """
        ids = numbered(lists)
        text = np.repeat(np.arange(len(lists)), list(map(len, lists)))      # (K,)
        hashes = np.array(list(map(fnv_hash, ids)), np.uint32)
        extended = hashes.view(np.int32).astype(np.int64)   # by the sign
        of_each = list(map(ids.__getitem__, chain.from_iterable(lists)))
        each = extended.view(np.uint64)[of_each]            # (K,); sums are modulo 2^64
        run = each
        for more in range(1, min(self.args.word_ngrams, len(each))):
            run = run[:-1] * np.uint64(NGRAM_STEP) + each[more:]
            rows = self.bucket_rows(run)
            at = np.flatnonzero((text[:-more] == text[more:]) & (rows >= 0))
            found = np.bincount(text[at], minlength=len(n))
            total += gather_sum(self.emb, rows[at], found)
            n += found

    def blocks(self, tokens, times):                        # U bytes, (N,U) -> V bytes, (N,V), bool
        """Yield tokens, how often each text has them, and whether they are whole.

        They come in blocks of BLOCK_BYTES. Tokens that are not whole are pieces of a long one.
        """
        if len(b"".join(tokens)) < BLOCK_BYTES:
            yield tokens, times, True
            return
        block = np.cumsum(list(map(len, tokens))) // BLOCK_BYTES
        starts = np.flatnonzero(np.diff(block, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(tokens)]):
            token = tokens[start]
            if (len(token) > LONG_TOKEN and self.args.maxn < BLOCK_BYTES // 8
                    and token not in self.word_row):
                for piece, sign in pieces_of(token, self.args.maxn):
                    yield [piece], sign * times[:, start:start + 1], False
                start += 1
            if start < stop:
                yield tokens[start:stop], times[:, start:stop], True

    def hidden(self, texts):                                # -> (N,D) float32, (N,) int features
        """The mean of the rows each text stands for, and their number.

        There are two ways to the same sum. A short text has few rows: they are fetched and added. A
        long text has most rows many times: they are counted, and the counts multiply the matrix.
        """
        lists, n_texts = self.tokenize(texts), len(texts)
        tokens, times = count_tokens(lists)
        total = np.zeros((n_texts, self.args.dim), np.float32)
        n = np.zeros(n_texts, np.int64)
        for some, of_each, whole in self.blocks(tokens, times):
            rows, size = self.find_rows(some, whole)
            if np.count_nonzero(rows >= 0) > n_texts * len(self.emb):
                counts = self.count_rows(rows, size, of_each)
                n += counts.sum(1).astype(np.int64)
                total += counts.astype(np.float32) @ self.emb
            else:
                rows, n_rows = by_token(rows, size)
                n += of_each @ n_rows
                total += of_each.astype(np.float32) @ gather_sum(self.emb, rows, n_rows)
        if self.args.word_ngrams > 1:
            self.add_word_ngrams(lists, total, n)
        return total / np.maximum(n, 1).astype(np.float32)[:, None], n

    def scores(self, texts):                                # -> (N,L) float32
        """The probability of each label for each text; zeros for a text with no features."""
        hidden, n = self.hidden(texts)
        logits = hidden @ self.w
        if self.args.loss == SOFTMAX:
            p = softmax(logits)
        elif self.args.loss == HS:
            p = hierarchical(logits, self.left, self.right)
        else:
            p = sigmoid_table(logits)
        return np.where(n[:, None] > 0, p, 0).astype(np.float32)

    def predict_proba(self, texts):
        """(N,L) float32, p + 1e-5 as fastText reports it; zeros for a text with no features.

        Only softmax's rows sum to about 1. fastText leaves out labels under 1e-5; here they stay.
        """
        if isinstance(texts, (str, bytes)):
            raise ValueError("predict takes a list of texts; for one text write predict([text])")
        chunks, size = [[]], 0
        for text in texts:
            if size + len(text) > CHUNK_CHARS or len(chunks[-1]) == CHUNK_TEXTS:
                chunks.append([])
                size = 0
            chunks[-1].append(text)
            size += len(text)
        parts = [np.zeros((0, len(self.labels)), np.float32)]
        return np.concatenate(parts + [self.scores(chunk) for chunk in chunks if chunk])

    def predict(self, texts):
        """The best labels and scores: [str], (N,) float32; ("", 0.0) if there is no feature."""
        p = self.predict_proba(texts)
        best, top = p.argmax(1), p.max(1)
        return [self.labels[i] if score > 0 else "" for i, score in zip(best, top)], top
