"""encoder.py: byte-level BPE for many pieces at once, in arrays.

bpe.py's merge takes a piece and joins the two neighbours of the lowest rank until none are left. Here a column of an array is a
piece: every step finds the lowest rank of each column, joins there, and looks up the ranks of the two new pairs. The table of pairs
says what merge asks of joint bytes, as every two tokens whose joint bytes are a token stand in it.

    tokens/pieces.py       text -> numbers of pieces
    Encoder         numbers -> ids, remembered; of pieces that are new, merged together

The ids are those of merge (tests/test_bpe.py, tests/test_vocabularies.py) and of tiktoken (tests/peers/test_bpe_peers.py).
"""

import copy
import threading
from functools import cached_property

import numpy as np

from model import cores
from tokens.pieces import SURE, Pieces, batches_of, blocks_of, cut, finder, spelled

REMEMBERED = 2**20      # pieces that are no tokens; with more the memory of them begins anew
TOGETHER = 2**22        # characters whose new pieces are merged together
SHORT, CACHE_PIECES = 4000, 2**17       # characters up to which arrays do not pay; pieces kept for that
# Pieces of up to so many bytes are merged together, if there are not too few, so many at a time; longer ones one by one.
WIDTHS, FEW, MANY = (6, 9, SURE, 24, 36, 64, 128, 256), 24, 2**14

BITS = 21                       # of an id in the table of pairs: two of a pair and its rank make an int64
NEVER = np.int32(2**BITS - 1)   # the rank of a pair that is no token


class Pairs:
    """The rank of every two tokens whose joint bytes are a token."""

    def __init__(self, ranks, tokens, by_byte):             # tokens: Pieces that holds those of ranks, numbered in this order
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
        # Longer tokens come up only in pieces that are merged alone.
        for token in (token for token in ranks if SURE < len(token) <= WIDTHS[-1]):
            halves = [(token[:n], token[n:]) for n in range(1, len(token)) if token[:n] in ranks and token[n:] in ranks]
            left.append([ranks[a] for a, _ in halves])
            right.append([ranks[b] for _, b in halves])
            rank.append([ranks[token]] * len(halves))
        left, right, rank = (np.concatenate(x).astype(np.int64) for x in (left, right, rank))
        self.size = 1 << (4 * len(rank)).bit_length()       # so sparse that most pairs that are not there are seen at once
        self.entry = np.full(self.size, -1, np.int64)       # a hash table like pieces.Table, a word each: left, right, rank
        entry = (left << BITS | right) << BITS | rank
        place, todo = self.home(entry >> BITS), np.arange(len(entry))
        while len(todo):
            free = todo[self.entry[place[todo]] < 0]
            self.entry[place[free]] = entry[free]           # of several at one place the last stays
            todo = todo[self.entry[place[todo]] != entry[todo]]
            place[todo] = (place[todo] + 1) & (self.size - 1)
        self.by_byte, self.of_bytes = by_byte, self(np.repeat(by_byte, 256), np.tile(by_byte, 256))

    def home(self, pair):
        h = pair.view(np.uint64) * np.uint64(0xD6E8FEB86659FD93)
        h >>= np.uint64(65 - self.size.bit_length())
        return h.view(np.int64)

    def __call__(self, left, right):                        # (n,), (n,) ids, -1 for none -> (n,) int32 ranks or NEVER
        pair = left.astype(np.int64)
        pair <<= BITS
        pair |= right
        place = self.home(pair)
        entry = self.entry.take(place)
        rank = (entry & NEVER).astype(np.int32)
        other = (entry >> BITS) != pair
        rank[other] = NEVER
        rest = np.flatnonzero(other & (entry >= 0))
        while len(rest):                                    # another pair stands there
            place[rest] = (place[rest] + 1) & (self.size - 1)
            entry = self.entry.take(place[rest])
            same = (entry >> BITS) == pair[rest]
            rank[rest[same]] = entry[same] & NEVER
            rest = rest[~same & (entry >= 0)]
        return rank


def merge_all(raw, length, pairs):                          # (n, w) uint8, (n,) -> (m,) int32 ids of all, (n,) how many of each
    """What merge does, for n pieces of up to w bytes a step each at a time: in every piece the pair of the lowest rank, the leftmost
    of equals.

    The arrays are (w + 2, n), a piece a column, and a word of `lowest` holds rank and place: one minimum finds the pairs of all
    pieces. The first and the last row are borders that hold no id; `after` and `before` link what is left of a piece.
    """
    n, w = raw.shape
    inside = np.arange(w)[:, None] < length
    ids = np.full((w + 2, n), -1, np.int32)
    ids[1:-1] = np.where(inside, pairs.by_byte[raw.T], -1)
    lowest = np.full((w + 2, n), NEVER << 9)                # of the pair that begins here
    two = raw.T[:-1].astype(np.int32) << 8 | raw.T[1:]
    lowest[1:-2] = np.where(inside[1:], pairs.of_bytes[two], NEVER) << 9 | np.arange(1, w, dtype=np.int32)[:, None]
    after, before = (np.repeat(np.arange(w + 2, dtype=np.int32)[:, None] + np.int32(step), n, 1).ravel() for step in (1, -1))
    flat_ids, flat_lowest = ids.ravel(), lowest.ravel()
    while True:
        best = lowest.min(0)
        column = np.flatnonzero(best < NEVER << 9)
        if not len(column):
            alive = ids.T >= 0
            return ids.T[alive], alive.sum(1)
        best, at = best[column] >> 9, best[column] & 511
        here = at * n + column                              # places in the arrays as if they had one dimension
        eaten = after.take(here) * n + column
        next_at, previous_at = after.take(eaten), before.take(here)
        following, previous = next_at * n + column, previous_at * n + column
        flat_ids[here], flat_ids[eaten], flat_lowest[eaten] = best, -1, NEVER << 9
        after[here], before[following] = next_at, at
        new = pairs(np.concatenate([best, flat_ids.take(previous)]), np.concatenate([flat_ids.take(following), best])) << 9
        flat_lowest[here], flat_lowest[previous] = new[:len(column)] | at, new[len(column):] | previous_at


class PieceCache(dict):
    """piece (str) -> its ids (uint32, as bytes), working out what is missing. Holds up to CACHE_PIECES of up to 64 characters;
    when full it starts again from nothing."""

    def __init__(self, encode_piece, pattern):
        self.encode_piece, self.pattern = encode_piece, pattern

    def __missing__(self, piece):
        ids = np.array(self.encode_piece(spelled(piece, self.pattern)), np.uint32).tobytes()
        if len(piece) <= 64:
            if len(self) >= CACHE_PIECES:
                self.clear()
            self[piece] = ids
        return ids


def in_threads(function, items, n):                         # -> [function(item)]
    items = list(items)
    each = cores.in_parallel(lambda share: list(map(function, items[share(len(items))])), n)
    return [result for some in each for result in some]


class Encoder:
    """The ids of pieces: of tokens from the start, of others once they are met. What is new in some millions of characters is merged
    together; so nearly all of encoding is a look-up, and an array does that for all pieces of a block at once. For a short text
    arrays do not pay, and the pattern itself and a dict serve."""

    def __init__(self, ranks, pattern, merge):              # merge: bpe.py's, for pieces that come alone
        self.ranks, self.pattern, self.merge = ranks, pattern, merge
        self.lock = threading.Lock()                        # what is remembered grows
        self.by_byte = np.array([ranks.get(bytes([b]), -1) for b in range(256)])
        self.together = self.by_byte.min() >= 0 and max(ranks.values()) < NEVER         # what Pairs asks for
        self.pieces, self.n, self.pool = None, 0, ()        # made when a text is long
        self.find, self.short = finder(pattern), PieceCache(self.one, pattern)

    @cached_property
    def tokens(self):                                       # Pieces of nothing but tokens
        tokens, length = Pieces(), np.array(list(map(len, self.ranks)), np.int64)
        tokens.find([tokens.look(np.frombuffer(b"".join(self.ranks) + bytes(SURE), np.uint8), np.cumsum(length) - length, length)])
        return tokens

    def forget(self):
        self.pieces, self.n = copy.deepcopy(self.tokens), len(self.ranks)
        self.pool = np.array(list(self.ranks.values()), np.uint32)      # of all pieces, one behind the other
        self.begin, self.count = np.arange(self.n), np.ones(self.n, np.int64)       # of each piece, in the pool

    @cached_property
    def pairs(self):
        return Pairs(self.ranks, self.tokens, self.by_byte)

    def prepare(self):                                      # before a fork: once, and not in each process
        if self.together:
            self.pairs                                      # and with it the tokens

    def encode(self, texts, n_threads=1):                   # [str] -> [(n,) uint32]
        with self.lock:
            if sum(map(len, texts)) <= SHORT:
                return [np.frombuffer(b"".join(map(self.short.__getitem__, self.find(text))), np.uint32) for text in texts]
            if self.pieces is None:
                self.forget()
            found = [[] for _ in texts]
            for blocks in batches_of(blocks_of(texts, self.pattern), lambda block: sum(len(part) for _, part in block), TOGETHER):
                looked, ends = zip(*in_threads(self.look, blocks, n_threads))
                numbers = self.pieces.find(looked)
                try:
                    self.learn(n_threads)
                except ValueError:                          # a piece has no ids, and must not stay
                    self.forget()
                    raise
                for block, ids in zip(blocks, in_threads(self.ids_of, zip(numbers, ends), n_threads)):
                    for (i, _), part in zip(block, ids):
                        found[i].append(part)
                if self.n > len(self.ranks) + REMEMBERED or len(self.pool) > len(self.ranks) + 8 * REMEMBERED:
                    self.forget()
        return [np.concatenate(ids) for ids in found]

    def look(self, block):
        *pieces, ends = cut([part for _, part in block], self.pattern)
        return self.pieces.look(*pieces), ends

    def ids_of(self, found):                                # (n,) numbers of pieces, where each part of them ends -> [(m,) uint32]
        numbers, ends = found
        count, begin = self.count[numbers], self.begin[numbers]
        behind = np.cumsum(count)
        if len(count) and behind[-1] > len(count):
            begin = np.repeat(begin - (behind - count), count) + np.arange(behind[-1])
        return np.split(self.pool[begin], np.concatenate([[0], behind])[ends[:-1]])

    def learn(self, n_threads):
        """Merge the pieces that are new."""
        if self.n == self.pieces.n:
            return
        short, long = self.pieces.short_from(self.n), self.pieces.long_from(self.n)
        wide = {i: piece for i, piece in long.items() if len(piece) <= WIDTHS[-1]}
        alone = {i: piece for i, piece in long.items() if i not in wide}        # number -> piece
        rows = np.frombuffer(b"".join([piece.ljust(WIDTHS[-1], b"\0") for piece in wide.values()]), np.uint8).reshape(-1, WIDTHS[-1])
        wide = np.array(list(wide), np.int64), rows, np.array(list(map(len, wide.values())), np.int64)
        numbers_of, rows_of = [], []
        for numbers, raw, length in (short, wide):
            for low, high in zip((0, *WIDTHS), WIDTHS):
                some = np.flatnonzero((length > low) & (length <= high))
                if len(some) < FEW or not self.together:
                    alone |= {int(numbers[i]): raw[i, :length[i]].tobytes() for i in some.tolist()}
                    continue
                for at in range(0, len(some), MANY):
                    which = some[at:at + MANY]
                    numbers_of.append(numbers[which])
                    rows_of.append((raw[which, :high], length[which]))
        merged = in_threads(lambda rows: merge_all(*rows, self.pairs), rows_of, n_threads)
        merged += [(ids, [len(ids)]) for ids in map(self.one, alone.values())]
        numbers, (ids, count) = np.concatenate([*numbers_of, np.array(list(alone), np.int64)]), map(np.concatenate, zip(*merged))
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
