"""encoder.py: byte-level BPE for many pieces at once, in arrays.

bpe.py's merge takes a piece and joins the two neighbours of the lowest rank until none are left. Here a row of an array is a piece:
every step finds the lowest rank of each row, joins there, and looks up the ranks of the two new pairs. The table of pairs says
what merge asks of joint bytes, as every two tokens whose joint bytes are a token stand in it.

    pieces.py       text -> numbers of pieces
    Encoder         numbers -> ids, remembered; of pieces that are new, merged together

The ids are those of merge (tests/test_bpe.py, tests/test_vocabularies.py) and of tiktoken (tests/peers/test_bpe_peers.py).
"""

import copy
import threading
from functools import cached_property

import numpy as np
import regex

from pieces import SURE, Pieces, Table, cut, parts_of

REMEMBERED = 2**20      # pieces that are no tokens; with more the memory of them begins anew
TOGETHER = 2**22        # characters whose new pieces are merged together
SHORT, CACHE_PIECES = 2000, 2**17       # characters up to which arrays do not pay; pieces kept for that
# Pieces of up to so many bytes are merged together, in rows of that width, if there are not too few; longer ones one at a time.
WIDTHS, FEW, ROWS = (6, 9, SURE, 24, 36, 64, 128, 256), 24, 2**13

NEVER = np.int32(2**31 - 1)     # the rank of a pair that is no token


class Pairs:
    """The rank of every two tokens whose joint bytes are a token."""

    def __init__(self, ranks, tokens):                      # tokens: Pieces that holds those of ranks, numbered in this order
        ids = np.array(list(ranks.values()), np.int64)
        length = np.array(list(map(len, ranks)), np.int64)
        data, begin = np.frombuffer(b"".join(ranks) + bytes(32), np.uint8), np.cumsum(length) - length
        left, right, rank = [], [], []
        for n in range(1, SURE):                            # bytes of the left one
            at = np.flatnonzero((length > n) & (length <= SURE))
            a, b = (tokens.known(data, begin[at] + skip, size) for skip, size in ((0, np.full(len(at), n)), (n, length[at] - n)))
            both = (a >= 0) & (b >= 0)
            left.append(ids[a[both]])
            right.append(ids[b[both]])
            rank.append(ids[at[both]])
        for token in (token for token in ranks if len(token) > SURE):
            halves = [(token[:n], token[n:]) for n in range(1, len(token)) if token[:n] in ranks and token[n:] in ranks]
            left.append([ranks[a] for a, _ in halves])
            right.append([ranks[b] for _, b in halves])
            rank.append([ranks[token]] * len(halves))
        left, right, rank = (np.concatenate(x).astype(np.int64) for x in (left, right, rank))
        self.table = Table(max(len(rank), 1))
        self.table.add(np.stack([(left << 32 | right).view(np.uint64), np.ones(len(left), np.uint64)], 1))
        self.rank = np.concatenate([rank, [NEVER]]).astype(np.int32)    # -1, what is not found, is the last

    def __call__(self, left, right):                        # (n,), (n,) ids, -1 for none -> (n,) int32 ranks or NEVER
        key = left.astype(np.int64) << 32 | right
        found = self.table.find(key.view(np.uint64), np.ones(len(key), np.uint64))
        return self.rank[found]


def merge_all(ids, pairs):                                  # (n, w) int32, -1 behind each end -> the same, -1 where eaten
    """What merge does, for n pieces a step each at a time: in every row the pair of the lowest rank, the leftmost of equals.

    Column 0 and the last are borders that hold no id; `after` and `before` link what is left of a row.
    """
    n, w = len(ids), ids.shape[1] + 2
    row, out = np.arange(n), np.full_like(ids, -1)
    padded = np.full((n, w), -1, np.int32)
    padded[:, 1:-1] = ids
    ids = padded
    after, before = (np.tile(np.arange(w, dtype=np.int16) + step, (n, 1)) for step in (1, -1))
    rank = np.full((n, w), NEVER)
    rank[:, 1:-2] = pairs(ids[:, 1:-2].ravel(), ids[:, 2:-1].ravel()).reshape(n, w - 3)
    while True:
        at = rank.argmin(1)
        best = rank.ravel().take(at + np.arange(0, rank.size, w))
        done = best == NEVER
        if done.any():
            out[row[done]] = ids[done, 1:-1]
            row, ids, after, before, rank, at, best = (x[~done] for x in (row, ids, after, before, rank, at, best))
        if not len(ids):
            return out
        # Places in the arrays as if they had one dimension.
        flat_ids, flat_after, flat_before, flat_rank, line = ids.ravel(), after.ravel(), before.ravel(), rank.ravel(), np.arange(0, ids.size, w)
        eaten = line + flat_after.take(line + at)
        following, previous, here = line + flat_after.take(eaten), line + flat_before.take(line + at), line + at
        flat_ids[here], flat_ids[eaten], flat_rank[eaten] = best, -1, NEVER
        flat_after[here], flat_before[following] = following - line, at
        new = pairs(np.concatenate([best, flat_ids.take(previous)]), np.concatenate([flat_ids.take(following), best]))
        flat_rank[here], flat_rank[previous] = np.split(new, 2)


class PieceCache(dict):
    """piece (str) -> its ids (uint32, as bytes), working out what is missing. Holds up to CACHE_PIECES of up to 64 characters;
    when full it starts again from nothing."""

    def __init__(self, encode_piece):
        self.encode_piece = encode_piece

    def __missing__(self, piece):
        ids = np.array(self.encode_piece(piece.encode("utf-8")), np.uint32).tobytes()
        if len(piece) <= 64:
            if len(self) >= CACHE_PIECES:
                self.clear()
            self[piece] = ids
        return ids


class Encoder:
    """The ids of pieces: of tokens from the start, of others once they are met. What is new in some millions of characters is merged
    together; so nearly all of encoding is a look-up, and an array does that for all pieces of a block at once. For a short text
    arrays do not pay, and the pattern itself and a dict serve."""

    def __init__(self, ranks, pattern, merge):              # merge: bpe.py's, for pieces that come alone
        self.ranks, self.pattern, self.merge = ranks, pattern, merge
        self.lock = threading.Lock()                        # what is remembered grows
        self.by_byte = np.array([ranks.get(bytes([b]), -1) for b in range(256)], np.int32)
        self.pieces, self.n, self.pool = None, 0, ()        # made when a text is long
        self.find, self.short = regex.compile(pattern).findall, PieceCache(self.one)

    @cached_property
    def tokens(self):                                       # Pieces of nothing but tokens
        tokens, length = Pieces(), np.array(list(map(len, self.ranks)), np.int64)
        tokens.find(np.frombuffer(b"".join(self.ranks) + bytes(SURE), np.uint8), np.cumsum(length) - length, length)
        return tokens

    def forget(self):
        self.pieces, self.n = copy.deepcopy(self.tokens), len(self.ranks)
        self.pool = np.array(list(self.ranks.values()), np.uint32)      # of all pieces, one behind the other
        self.begin, self.count = np.arange(self.n), np.ones(self.n, np.int64)       # of each piece, in the pool

    @cached_property
    def pairs(self):
        return Pairs(self.ranks, self.tokens)

    def encode(self, texts):                                # [str] -> [(n,) uint32]
        with self.lock:
            found, waiting, size = [[] for _ in texts], [], 0
            for ids, text in zip(found, texts):
                if len(text) <= SHORT:
                    ids.append(np.frombuffer(b"".join(map(self.short.__getitem__, self.find(text))), np.uint32))
                    continue
                if self.pieces is None:
                    self.forget()
                for part in parts_of(text, self.pattern, TOGETHER):
                    waiting += [(ids, self.pieces.find(*block)) for block in cut(part, self.pattern)]
                    size += len(part)
                    if size >= TOGETHER:
                        self.flush(waiting)
                        size = 0
            self.flush(waiting)
        return [np.concatenate(ids) for ids in found]

    def flush(self, waiting):
        """Merge what is new in [(list of ids, numbers of pieces)], and put the ids into the lists."""
        try:
            self.learn()
        except ValueError:                                  # a piece has no ids, and must not stay
            self.forget()
            raise
        for ids, numbers in waiting:
            ids.append(self.ids_of(numbers))
        waiting.clear()
        if self.pieces and self.n > len(self.ranks) + REMEMBERED or len(self.pool) > len(self.ranks) + 8 * REMEMBERED:
            self.forget()

    def ids_of(self, numbers):                              # (n,) of pieces -> (m,) uint32
        count = self.count[numbers]
        ends = np.cumsum(count)
        if not len(ends) or ends[-1] == len(ends):
            return self.pool[self.begin[numbers]]
        return self.pool[np.repeat(self.begin[numbers] - (ends - count), count) + np.arange(ends[-1])]

    def learn(self):
        """Merge the pieces that are new."""
        if self.pieces is None or self.n == self.pieces.n:
            return
        short, long = self.pieces.short_from(self.n), self.pieces.long_from(self.n)
        wide = {i: piece for i, piece in long.items() if len(piece) <= WIDTHS[-1]}
        alone = {i: piece for i, piece in long.items() if i not in wide}        # number -> piece
        rows = np.frombuffer(b"".join([piece.ljust(WIDTHS[-1], b"\0") for piece in wide.values()]), np.uint8).reshape(-1, WIDTHS[-1])
        wide = np.array(list(wide), np.int64), rows, np.array(list(map(len, wide.values())), np.int64)
        found = []                                          # [(numbers, ids of all of them in a row, how many of each)]
        for numbers, raw, length in (short, wide):
            for low, high in zip((0, *WIDTHS), WIDTHS):
                some = np.flatnonzero((length > low) & (length <= high))
                if len(some) < FEW or self.by_byte.min() < 0:           # or a vocabulary without all single bytes
                    alone |= {int(numbers[i]): raw[i, :length[i]].tobytes() for i in some.tolist()}
                    continue
                for at in range(0, len(some), ROWS):
                    which = some[at:at + ROWS]
                    ids = np.where(np.arange(high) < length[which, None], self.by_byte[raw[which, :high]], -1)
                    ids = merge_all(ids, self.pairs)
                    alive = ids >= 0
                    found.append((numbers[which], ids[alive], alive.sum(1)))
        for i, piece in alone.items():
            ids = self.one(piece)
            found.append(([i], ids, [len(ids)]))
        numbers, ids, count = (np.concatenate(x) for x in zip(*found))
        grown = np.zeros((2, self.pieces.n), np.int64)
        grown[:, :self.n] = self.begin, self.count
        grown[:, numbers] = len(self.pool) + np.cumsum(count) - count, count
        self.begin, self.count = grown
        self.pool, self.n = np.concatenate([self.pool, ids.astype(np.uint32)]), self.pieces.n

    def one(self, piece):
        if piece in self.ranks:
            return [self.ranks[piece]]
        try:
            return [self.ranks[part] for part in self.merge(self.ranks, piece)]
        except KeyError as error:                           # a vocabulary without all single bytes
            offset = piece.index(error.args[0])
            character = piece.decode("utf-8", "replace")[len(piece[:offset].decode("utf-8", errors="ignore"))]
            raise ValueError(f"the vocabulary has no token for the character {character!r} "
                             f"(U+{ord(character):04X})") from None
