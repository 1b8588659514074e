"""hashtable.py: numbers for keys, looked up many at a time in arrays.

A dict is asked for one key after the other, and a piece must become a Python object first. Here
NumPy looks up a whole block of keys in a few passes. The keys are pieces of text (Pieces, below);
encoder.Pairs, which never grows, looks up pairs of ids in a quicker way.

    slot        0    1    2    3    4    5    6    7        size: a power of two, a quarter full
    number     -1    2   -1    0    1   -1   -1   -1        -1: free
    words      --   key  --   key  key  --   --   --        one array for each 64-bit word of a key

A key stands in its home slot, which its hash names, or in the first slot behind it that was free
(open addressing). So a search ends at the key or at a free slot.
"""

import os
from typing import NamedTuple

import numpy as np


SURE, WIDE = 15, 31                 # bytes of a piece that fit into a key of two words, of four
MULTIPLIERS = np.uint64(0xD6E8FEB86659FD93), np.uint64(0x9E3779B97F4A7C15)


class Table:
    """Numbers 0, 1, 2 ... for keys of some 64-bit words, in the order they are added.

    The salt is random. It changes no number, but without it somebody could write a text whose
    pieces all have the same home.
    """

    SALT = np.uint64(int.from_bytes(os.urandom(8), "little"))

    def __init__(self, n_words, n_keys=2**12):
        self.n = 0
        self.keys = np.zeros((n_keys, n_words), np.uint64)      # by their number
        self.build(1 << (4 * n_keys - 1).bit_length())

    def build(self, size):
        """Make the slots anew and put all keys into them."""
        self.size = size
        self.number = np.full(size, -1, np.int32)
        self.words = [np.zeros(size, np.uint64) for _ in self.keys.T]
        keys, self.n = self.keys[:self.n], 0
        self.add(*keys.T)

    def home(self, *key):
        """The home slots of keys, (n,) int64. The upper half of a product depends on all bits."""
        h = key[0] ^ self.SALT
        for word in key[1:]:
            h ^= word * MULTIPLIERS[1]
        h *= MULTIPLIERS[0]
        h ^= h >> np.uint64(32)
        h *= MULTIPLIERS[0]
        h >>= np.uint64(65 - self.size.bit_length())
        return h.view(np.int64)

    def differ(self, slot, key):
        """Whether another key than this one stands in each slot."""
        other = self.words[0].take(slot) != key[0]
        for words, word in zip(self.words[1:], key[1:]):
            stands = words.take(slot)
            other |= stands != word
        return other

    def find(self, *key):
        """The numbers of keys, given as one (n,) uint64 a word -> (n,) int32, -1: unknown."""
        slot = self.home(*key)
        number = self.number.take(slot)
        other = self.differ(slot, key)
        rest = np.flatnonzero(other & (number >= 0))
        number[other] = -1
        slot = slot[rest]
        while len(rest):                                    # another key stands there: go on
            slot = (slot + 1) & (self.size - 1)
            found = self.number.take(slot)
            other = self.differ(slot, [word.take(rest) for word in key])
            number[rest[~other]] = found[~other]
            other &= found >= 0
            rest, slot = rest[other], slot[other]
        return number

    def add(self, *key):
        """Give keys, none of them known, the next numbers, in order; equal keys get one number.

        -> (n,) int32 numbers; (m,) the places of the m different keys, where each comes first.

        All keys go to their slots at once. Where several want one free slot, NumPy's assignment
        lets the last one stay. We assign them backwards, so it is the one that comes first. A key
        that finds another key in its slot tries the next slot.
        """
        n = self.n + len(key[0])
        if 4 * n > self.size:                   # with fuller tables, searches in vain get long
            size = 1 << (6 * n).bit_length()
            self.build(size)
        slot = self.home(*key)
        todo = np.arange(len(slot))
        first = np.empty(len(slot), np.int32)               # the place of the first equal key
        while len(todo):
            free = todo[self.number[slot[todo]] < 0][::-1]
            self.number[slot[free]] = free                  # not yet a number: a place in `key`
            stays = free[self.number[slot[free]] == free]
            for words, word in zip(self.words, key):
                words[slot[stays]] = word[stays]
            other = self.differ(slot[todo], [word[todo] for word in key])
            done, todo = todo[~other], todo[other]
            first[done] = self.number[slot[done]]
            slot[todo] = (slot[todo] + 1) & (self.size - 1)
        firsts = np.flatnonzero(first == np.arange(len(first)))
        number = np.empty(len(first), np.int32)
        number[firsts] = np.arange(self.n, self.n + len(firsts))
        self.number[slot[firsts]] = number[firsts]
        if len(self.keys) < self.n + len(firsts):
            more = np.zeros((n, len(key)), np.uint64)
            self.keys = np.concatenate([self.keys[:self.n], more])
        for column, word in zip(self.keys.T, key):
            column[self.n:self.n + len(firsts)] = word[firsts]
        self.n += len(firsts)
        return number[first], firsts


# ---- pieces --------------------------------------------------------------------------------------

# A piece of n < 8 * k bytes as a key of k words: its bytes, then zeros, and n as the last byte.
#
#     " hello"  ->  word 0: 20 68 65 6c 6c 6f 00 00    word 1: 00 00 00 00 00 00 00 06
#
# For each n: the bits of each word that the piece fills, and the byte of its length.
LENGTHS = range(WIDE + 1)
FILLED = np.clip([np.array(LENGTHS) - 8 * k for k in range(4)], 0, 8)       # bytes, (4, WIDE + 1)
BITS = np.array([256**n - 1 for n in range(9)], np.uint64)                  # of n bytes
BITS_OF_WORD = BITS[FILLED]
LENGTH_BYTE = np.array([n << 56 for n in LENGTHS], np.uint64)


def laid_out(pieces):
    """Byte strings -> (data, begin, length), as look() and words_of() take them.

    data (uint8) has all bytes, one piece behind the other, and some more.
    """
    length = np.array([len(piece) for piece in pieces], np.int64)
    data = b"".join(pieces) + bytes(WIDE + 1)
    data = np.frombuffer(data, np.uint8)
    return data, np.cumsum(length) - length, length


def words_of(data, begin, length, n_words=2):
    """The keys of the pieces data[begin:begin + length], each of up to 8 * n_words - 1 bytes.

    data (uint8) goes on for 8 * n_words - 1 bytes behind the last piece. Returns arrays (n,) of
    uint64, one for each word.
    """
    words, key = words_at(data), []
    for k in range(n_words):
        word = words.take(begin + 8 * k)
        word &= BITS_OF_WORD[k].take(length)
        key.append(word)
    key[-1] |= LENGTH_BYTE.take(length)
    return key


def words_at(data):
    """The word that begins at each byte of data (n,) uint8: a view, (n - 7,) uint64."""
    return np.ndarray(len(data) - 7, "<u8", data, strides=(1,))


class LookedUp(NamedTuple):
    """What Pieces.look has found of a block of n pieces.

    There are two of each tuple: one for the pieces of up to SURE bytes, and one for those of up to
    WIDE bytes.
    """
    n: int
    place: tuple            # which of the block they are; of the first, all: others are known there
    key: tuple              # the words of their keys
    row: tuple              # (m,) their rows in the table, -1 for the unknown
    long: dict              # {place: piece} of those that are too long for a key


class Pieces:
    """Numbers for pieces (byte strings), in the order they are met first.

    Pieces of up to SURE bytes are in one Table, those of up to WIDE bytes in another, the few
    longer ones in a dict. Each of the three has an order of its own, so the row in a table is not
    yet the number. Without the second table 355 languages take 9 % longer.
    """

    def __init__(self):
        self.tables = Table(2), Table(4)
        self.long, self.n = {}, 0
        # Of each table; the last one is for what is not there.
        self.number_of_row = [np.array([-1], np.int32) for _ in self.tables]

    def look(self, data, begin, length):
        """Look up the pieces data[begin:begin + length], for find().

        This changes nothing, so several threads may look at the same time.
        """
        key = words_of(data, begin, np.minimum(length, SURE))
        row = self.tables[0].find(*key)
        longer = np.flatnonzero(length > SURE)
        row[longer] = 0                                     # not new in the first table
        is_wide = length[longer] <= WIDE
        wide = longer[is_wide]
        wide_key = words_of(data, begin[wide], length[wide], 4)
        wide_row = self.tables[1].find(*wide_key)
        long = {}
        for i in longer[~is_wide].tolist():
            end = begin[i] + length[i]
            long[i] = data[begin[i]:end].tobytes()
        places = slice(None), wide
        return LookedUp(len(row), places, (key, wide_key), (row, wide_row), long)

    def find(self, blocks):
        """[LookedUp] -> [(n,) int32 numbers]. New pieces get the next numbers."""
        self.add(blocks)
        found = []
        for block in blocks:
            numbers, wide = map(np.take, self.number_of_row, block.row)
            numbers[block.place[1]] = wide
            for i, piece in block.long.items():
                numbers[i] = self.long[piece]
            found.append(numbers)
        return found

    def add(self, blocks):
        """Number the pieces that are new, and write their rows into the blocks."""
        new_long, begin = {}, 0                             # piece -> where it was met first
        for block in blocks:
            for i, piece in block.long.items():
                if piece not in self.long:
                    new_long.setdefault(piece, begin + i)
            begin += block.n
        short = self.add_to(0, blocks)
        wide = self.add_to(1, blocks)
        long = np.array(list(new_long.values()), np.int64)
        met = np.concatenate([short, wide, long])
        if not len(met):
            return
        number = np.empty(len(met), np.int32)
        order = np.argsort(met)
        number[order] = np.arange(self.n, self.n + len(met))
        n_short, n_wide = len(short), len(wide)
        short, wide, long = np.split(number, [n_short, n_short + n_wide])
        for which, numbers in enumerate((short, wide)):
            known, unknown = np.split(self.number_of_row[which], [-1])
            self.number_of_row[which] = np.concatenate([known, numbers, unknown])
        self.long |= zip(new_long, long.tolist())
        self.n += len(met)

    def add_to(self, which, blocks):
        """Add what is new to one table -> (m,) where each new piece was met first."""
        key, met, begin = [], [], 0
        new = [np.flatnonzero(block.row[which] < 0) for block in blocks]
        for block, at in zip(blocks, new):
            key.append([word[at] for word in block.key[which]])
            every = np.arange(begin, begin + block.n)
            place = every[block.place[which]]
            met.append(place[at])
            begin += block.n
        if not any(map(len, new)):
            return np.zeros(0, np.int64)
        key = map(np.concatenate, zip(*key))
        rows, firsts = self.tables[which].add(*key)
        done = 0
        for block, at in zip(blocks, new):
            block.row[which][at] = rows[done:done + len(at)]
            done += len(at)
        return np.concatenate(met)[firsts]

    def known(self, data, begin, length):
        """The numbers of pieces, each of at most SURE bytes -> (n,) int32, -1: unknown."""
        row = self.tables[0].find(*words_of(data, begin, length))
        return self.number_of_row[0].take(row)

    def short_from(self, first):
        """Yields the pieces of each table whose number is `first` or more.

        (n,) numbers, (n, 16) or (n, 32) uint8 the bytes, (n,) lengths
        """
        for table, number in zip(self.tables, self.number_of_row):
            row = np.searchsorted(number[:-1], first)
            keys = table.keys[row:table.n]
            raw = keys.view(np.uint8)
            number, length = number[row:-1], raw[:, -1]
            yield number.astype(np.int64), raw, length.astype(np.int64)

    def long_from(self, first):
        """{number: piece} of the long pieces whose number is `first` or more."""
        return {i: piece for piece, i in self.long.items() if i >= first}

    def all(self):
        """Every piece, in the order of the numbers."""
        pieces = self.long_from(0)
        for numbers, raw, lengths in self.short_from(0):
            joined, width = raw.tobytes(), raw.shape[1]
            begins = range(0, len(joined), width)
            for i, begin, n in zip(numbers.tolist(), begins, lengths.tolist()):
                pieces[i] = joined[begin:begin + n]
        return [pieces[i] for i in range(self.n)]
