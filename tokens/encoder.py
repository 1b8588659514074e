"""encoder.py: the fast twins of bpe.merge, and the Encoder that remembers what they found.

    merge           one piece, its pairs on a heap: for pieces that come alone
    merge_long      pieces of thousands of bytes, in windows, a million letters in 0.2 s and not 6
    merge_all       thousands of pieces at once in arrays, one merge of each piece at a time. To
                    encode 6 MB of English takes 0.16 s with it and 0.5 s without; 150 languages
                    0.4 s and 3.0 s

Most pieces of a text have been merged before. The Encoder numbers the pieces and keeps the ids of
each number in a pool:

    pieces      "the"  " cat"  " the"  " qux"  ...      hashtable.Pieces: bytes -> number
    begin         0      1       2       3              number -> its place in the pool
    count         1      1       1       2              number -> how many ids it has
    pool        [the] [ cat]  [ the]  [ qu][x] ...

Nearly all of encoding is then to look up the pieces of a block and to copy from the pool. With a
dict of pieces in place of the arrays it would take 4 times as long (150 languages: 15 times).
"""

import copy
import heapq
import itertools
import math
import re
import threading
from functools import cached_property
from typing import NamedTuple

import numpy as np

from model import cores
from tokens.hashtable import MULTIPLIERS, SURE, Pieces, laid_out
from tokens.patterns import bytes_of, finder
from tokens.pieces import RULES, batches_of, blocks_of, cut

REMEMBERED = 2**20      # pieces that are no tokens; when there are more, the Encoder forgets them
TOGETHER = 2**22        # characters whose new pieces are merged together
SHORT_TEXT = 8000       # characters up to which dicts are faster than arrays
CACHE_PIECES = 2**17    # pieces or words in that dict
CACHE_LENGTH = 64       # characters of the longest
SPACE = re.compile(r"(?<=\S) ")             # the patterns of RULES cut before it
TWO_SPACES = re.compile(r"\s ")             # in other texts str.split finds the same places
# Pieces of one width are merged together: of up to 6 bytes, up to 9 and so on. All in one width of
# 256 would take 1.5 times as long for many languages.
WIDTHS = (6, 9, SURE, 24, 36, 64, 128, 256)
FEW = 24                # fewer pieces are merged one by one: texts of 8,000 characters gain a third
MANY = 2**14            # pieces in one array: it bounds the memory, and threads take an array each

BITS = 21                       # of an id: the two ids of a pair are one number
NEVER = np.int32(2**BITS - 1)   # the rank of a pair that is no token
PLACE_BITS = 9                  # of a place in a piece

# A long piece is merged in windows of so many bytes. Each begins so many bytes behind the one
# before, so a byte is in two of them at most.
WINDOW, STRIDE = 256, 192
MANY_WINDOWS = 2**11    # in one array
LONG = 2**13            # bytes of long pieces from which that is faster than the heap


# ---- one piece -----------------------------------------------------------------------------------

def merge(ranks, piece, limit=math.inf):
    """bpe.merge in O(n log n), by the ranks below `limit`.

    A part is known by the place where it starts; `after` and `before` link the starts. The heap
    holds (rank, start) of the pairs. A merge changes the ranks of the pairs around it; their old
    entries stay on the heap and are dropped when they come up. For 2,000 letters the plain way
    takes 340 ms and this one 4 ms; words take 19 % longer the plain way.
    """
    n = len(piece)
    after, before = list(range(1, n + 1)), list(range(-1, n - 1))
    rank_at = [ranks.get(piece[i:i + 2]) for i in range(n - 1)] + [None]    # of the part + the next
    heap = [(rank, i) for i, rank in enumerate(rank_at) if rank is not None]
    heapq.heapify(heap)
    while heap:
        rank, i = heapq.heappop(heap)
        if rank >= limit:
            break
        if rank_at[i] != rank:          # an old entry
            continue
        eaten = after[i]                # the part at i takes in the part at eaten
        rank_at[eaten] = None
        after[i] = after[eaten]
        if after[i] < n:
            before[after[i]] = i
        for start in (before[i], i):
            if start >= 0:
                middle = after[start]
                rank_at[start] = ranks.get(piece[start:after[middle]]) if middle < n else None
                if rank_at[start] is not None:
                    heapq.heappush(heap, (rank_at[start], start))
    parts, i = [], 0
    while i < n:
        parts.append(piece[i:after[i]])
        i = after[i]
    return parts


# ---- many pieces ---------------------------------------------------------------------------------

class Pairs:
    """The rank of every two ids whose joint bytes are a token, for many pairs at once.

    A pair has one slot in each of some tables. It stands in the first where no other has its slot:

        table   slots       pairs           of o200k
        0       2,097,152   401,710         a fifth full: a search nearly always ends here
        1         262,144    40,758         those whose slot in table 0 another pair has
        2          16,384     3,352
        ...                                 the last table has none, so that a search ends

    Left id, right id and rank are one number of 63 bits (-1: free). To go on from slot to slot as
    hashtable.Table does takes 1.5 times as long.
    """

    def __init__(self, ranks, tokens, by_byte):
        """tokens: Pieces that holds the tokens of ranks and nothing else, in their order."""
        left, right, rank = map(np.concatenate, zip(*all_splits(ranks, tokens)))
        rest = (left << BITS | right) << BITS | rank
        self.tables = []
        while True:
            table = np.full(1 << (3 * len(rest) + 1).bit_length(), -1)
            self.tables.append(table)
            if not len(rest):
                break
            slot = self.slots(rest >> BITS, len(self.tables) - 1)
            table[slot] = rest                              # of several for one slot, one stays
            rest = rest[table[slot] != rest]
        self.by_byte = by_byte                                          # (256,) the id of a byte
        self.n_bytes = np.zeros(max(ranks.values()) + 1, np.int64)      # of each id
        self.n_bytes[list(ranks.values())] = list(map(len, ranks))
        # (65,536,) the rank of two bytes: merge_all begins with it and saves 5 %.
        self.of_bytes = self(np.repeat(by_byte, 256), np.tile(by_byte, 256))

    def slots(self, pair, i):
        """The slots of pairs in table i, (n,) int64. The upper bits of a product depend on all."""
        factor = pow(int(MULTIPLIERS[1]), i + 1, 1 << 64)       # of each table another
        h = pair.view(np.uint64) * np.uint64(factor)
        h >>= np.uint64(65 - len(self.tables[i]).bit_length())
        return h.view(np.int64)

    def __call__(self, left, right):
        """Ids (n,), (n,), -1 for none -> (n,) int32 ranks, or NEVER."""
        pair = left.astype(np.int64)
        pair <<= BITS
        pair |= right
        return self.look_up(pair, 0)

    def look_up(self, pair, i):
        """The ranks of pairs that are in table i or behind it."""
        entry = self.tables[i].take(self.slots(pair, i))
        rank = entry - (pair << BITS)                       # if this pair stands there
        rank = np.minimum(rank.view(np.uint64), np.uint64(NEVER)).astype(np.int32)
        rest = np.flatnonzero((rank == NEVER) & (entry >= 0))
        if len(rest):                                       # another pair stands there
            rank[rest] = self.look_up(pair[rest], i + 1)
        return rank


def all_splits(ranks, tokens):
    """Yields (left ids, right ids, ranks), arrays: all ways to cut a token into two tokens."""
    ids = np.array(list(ranks.values()), np.int64)
    data, begin, length = laid_out(ranks)
    for n in range(1, SURE):                                            # bytes of the left one
        at = np.flatnonzero((length > n) & (length <= SURE))
        left = tokens.known(data, begin[at], np.full(len(at), n))
        right = tokens.known(data, begin[at] + n, length[at] - n)
        both = (left >= 0) & (right >= 0)
        yield ids[left[both]], ids[right[both]], ids[at[both]]
    splits = []
    for token, rank in ranks.items():
        if SURE < len(token) <= WIDTHS[-1]:             # longer ones only come up in longer pieces
            for n in range(1, len(token)):
                first, second = token[:n], token[n:]
                if first in ranks and second in ranks:
                    splits.append((ranks[first], ranks[second], rank))
    yield np.array(splits, np.int64).reshape(-1, 3).T


def merge_all(raw, length, pairs):
    """bpe.merge of n pieces at once, each of up to w bytes.

    raw (n, w) uint8, length (n,) -> (m,) int32 ids of all pieces, (n,) how many ids each has

    Each column of the arrays, (w + 2, n), is a piece. Here are the columns of "low", padded to four
    bytes, at the beginning and after the merge of l and o:

        row     ids  after  before  lowest          ids  after  before  lowest
        0       -1     1      -      NEVER          -1     1      -     NEVER           border
        1        l     2      0    rank(l,o), 1     lo     3      0     rank(lo,w), 1
        2        o     3      1    rank(o,w), 2     -1     3      1     NEVER
        3        w     4      2      NEVER           w     4      1     NEVER
        4       -1     5      3      NEVER          -1     5      3     NEVER
        5       -1     6      4      NEVER          -1     6      4     NEVER           border

    `lowest` has rank and row in one number, so one minimum along a column finds the pair of the
    lowest rank, and of equals the leftmost.
    """
    n, w = raw.shape
    never = NEVER << PLACE_BITS
    inside = np.arange(w)[:, None] < length
    ids = np.full((w + 2, n), -1, np.int32)
    ids[1:-1] = np.where(inside, pairs.by_byte[raw.T], -1)
    lowest = np.full((w + 2, n), never)
    two_bytes = raw.T[:-1].astype(np.int32) << 8 | raw.T[1:]
    rank = np.where(inside[1:], pairs.of_bytes[two_bytes], NEVER)
    lowest[1:-2] = rank << PLACE_BITS | np.arange(1, w, dtype=np.int32)[:, None]
    rows = np.arange(w + 2, dtype=np.int32)
    after = np.repeat(rows + np.int32(1), n)
    before = np.repeat(rows - np.int32(1), n)
    flat_ids, flat_lowest = ids.ravel(), lowest.ravel()     # an entry is at row * n + column
    while True:
        best = lowest.min(0)
        column = np.flatnonzero(best < never)               # the pieces that still change
        if not len(column):
            alive = ids.T >= 0
            return ids.T[alive], alive.sum(1)
        best = best[column]
        new, row = best >> PLACE_BITS, best & ((1 << PLACE_BITS) - 1)
        here = row * n + column
        eaten = after.take(here) * n + column
        next_row, previous_row = after.take(eaten), before.take(here)
        following, previous = next_row * n + column, previous_row * n + column
        flat_ids[here], flat_ids[eaten], flat_lowest[eaten] = new, -1, never
        after[here], before[following] = next_row, row
        left = np.concatenate([new, flat_ids.take(previous)])
        right = np.concatenate([flat_ids.take(following), new])
        rank = pairs(left, right) << PLACE_BITS
        flat_lowest[here] = rank[:len(column)] | row
        flat_lowest[previous] = rank[len(column):] | previous_row


class Group(NamedTuple):
    """Pieces that are merged together."""
    numbers: np.ndarray     # (n,)
    raw: np.ndarray         # (n, w) their bytes
    length: np.ndarray      # (n,)

    def part(self, rows, width):
        """Some of them, with so many bytes each."""
        return Group(self.numbers[rows], self.raw[rows, :width], self.length[rows])


def padded(pieces):
    """{number: piece} -> Group with rows of WIDTHS[-1] bytes."""
    rows = b"".join(piece.ljust(WIDTHS[-1], b"\0") for piece in pieces.values())
    raw = np.frombuffer(rows, np.uint8).reshape(-1, WIDTHS[-1])
    length = np.array(list(map(len, pieces.values())), np.int64)
    return Group(np.array(list(pieces), np.int64), raw, length)


# ---- long pieces ---------------------------------------------------------------------------------

class Windows(NamedTuple):
    """Parts of some pieces, and their tokens. A window overlaps the one before in its piece."""
    starts: np.ndarray      # (n,) the places in the joined pieces where they begin and end
    ends: np.ndarray
    piece: np.ndarray       # (n,) which piece it is a part of
    ids: np.ndarray         # (m,) the tokens of all windows
    count: np.ndarray       # (n,) how many tokens each has


def merge_long(pieces, ranks, pairs):
    """bpe.merge of pieces of any length -> [(m,) int32 ids].

    All windows are merged together by merge_all. Where two of them have a token in common, the
    tokens before it are taken from the first, those from there on from the second:

        window 0    | st | raw | berry | st | raw | be |
        window 1              | rry | st | raw | berry | st |
        together    | st | raw | berry | st | raw | berry | st |

    This is exact, whatever the ranks are. Say the whole piece had a merge across the left border of
    the common token, of x and y, and it was the first across any of its borders. Up to there, both
    sides of the border went through the same merges, in the same order, in window 0. So x and y met
    in window 0 and were merged there. But there the border stands to the end. In the same way the
    right border stands in window 1. A million letters take 0.2 s, and 6 s by the heap.
    """
    joined = b"".join(pieces)
    w = merged_windows(joined, pieces, ranks, pairs)
    first_try = True
    while True:
        window = np.repeat(np.arange(len(w.count)), w.count)    # of each token
        place = token_places(w, window, pairs)
        meets_next, border = common_tokens(place, w.ids, window)
        begins = np.append(True, w.piece[1:] != w.piece[:-1])
        if first_try:
            begins[meets_next + 1] = True
        if begins.all():
            break
        w = united(w, begins, joined, ranks)
        first_try = False
    left, right = w.starts.copy(), w.ends.copy()
    right[meets_next] = border
    left[meets_next + 1] = border
    stays = (left[window] <= place) & (place < right[window])
    n_ids = np.bincount(w.piece[window[stays]], minlength=len(pieces))
    return np.split(w.ids[stays], np.cumsum(n_ids)[:-1])


def merged_windows(joined, pieces, ranks, pairs):
    """-> the Windows of some pieces, merged."""
    begin, starts, ends = 0, [], []
    for piece in pieces:
        step, n = stride(piece, ranks), len(piece)
        places = np.arange(0, max(n - WINDOW, 0) + step, step)
        starts.append(begin + places)
        ends.append(begin + np.minimum(places + WINDOW, n))
        begin += n
    number = np.repeat(np.arange(len(pieces)), list(map(len, starts)))
    starts, ends = np.concatenate(starts), np.concatenate(ends)
    data = np.frombuffer(joined + bytes(WINDOW), np.uint8)
    raw = np.lib.stride_tricks.sliding_window_view(data, WINDOW)
    merged = []
    for i in range(0, len(starts), MANY_WINDOWS):
        some = slice(i, i + MANY_WINDOWS)
        length = ends[some] - starts[some]
        merged.append(merge_all(raw[starts[some]], length, pairs))
    ids, count = map(np.concatenate, zip(*merged))
    return Windows(starts, ends, number, ids, count)


def token_places(w, window, pairs):
    """Where each token begins, (m,). window (m,): the number of its window."""
    size = pairs.n_bytes.take(w.ids)
    place = np.cumsum(size) - size
    first = np.cumsum(w.count) - w.count
    shift = w.starts - place[first]
    return place + shift[window]


def stride(piece, ranks):
    """How many bytes after one another the windows of a piece begin.

    It is STRIDE or a little less, so that the second begins where a token of the first ends. In a
    run of one unit, such as " " or "ab", the tokens of all windows then have the same borders.
    """
    if len(piece) < LONG:
        return STRIDE
    end, best = 0, STRIDE
    for part in merge(ranks, piece[:WINDOW]):
        end += len(part)
        if WINDOW // 2 <= end <= STRIDE:
            best = end
    return best


def common_tokens(place, ids, window):
    """Place, id and window of each token -> the windows that share one with the next, and where."""
    token = place << BITS | ids
    order = np.argsort(token, kind="stable")
    same = np.flatnonzero(token[order[1:]] == token[order[:-1]])
    first = order[same]                                         # the other one is in window + 1
    windows, at = np.unique(window[first], return_index=True)
    border = place[first[at]]
    return windows, border


def united(w, begins, joined, ranks):
    """Windows, those that do not begin anew united with the one before and merged by the heap."""
    heads = np.flatnonzero(begins)
    tails = np.append(heads[1:], len(begins)) - 1
    each = np.split(w.ids, np.cumsum(w.count)[:-1])
    found = []
    for head, tail in zip(heads.tolist(), tails.tolist()):
        if head < tail:
            parts = merge(ranks, joined[w.starts[head]:w.ends[tail]])
            each[head] = np.array([ranks[part] for part in parts], np.int32)
        found.append(each[head])
    count = np.array(list(map(len, found)))
    return Windows(w.starts[heads], w.ends[tails], w.piece[heads], np.concatenate(found), count)


# ---- the encoder ---------------------------------------------------------------------------------

class Cache(dict):
    """str -> its ids as bytes of uint32; works out what is missing. Full, it is cleared."""

    def __init__(self, ids_of):
        self.ids_of = ids_of

    def __missing__(self, text):
        ids = self.ids_of(text)
        if len(text) <= CACHE_LENGTH:
            if len(self) >= CACHE_PIECES:
                self.clear()
            self[text] = ids
        return ids


def in_threads(function, items, n):
    """[function(item)] for all items, worked out by n threads."""
    items = list(items)
    each = cores.in_parallel(lambda share: list(map(function, items[share(len(items))])), n)
    return list(itertools.chain.from_iterable(each))


class Encoder:
    """Texts to ids. The text has no special tokens any more, and is normalised.

    For a short text dicts are faster than arrays: 28 times for 110 characters, twice for 3,000. The
    patterns of RULES cut before every space that has another character before it. So the words
    between such spaces are looked up, and only a new word is cut by the pattern: a text takes half
    the time.
    """

    def __init__(self, ranks, pattern):
        self.ranks, self.pattern = ranks, pattern
        self.lock = threading.Lock()                        # what is remembered grows
        self.by_byte = np.array([ranks.get(bytes([b]), -1) for b in range(256)])
        self.together = self.by_byte.min() >= 0 and max(ranks.values()) < NEVER     # Pairs needs it
        self.pieces, self.n, self.pool = None, 0, ()        # made for the first long text
        self.find = finder(pattern)
        self.by_words = pattern in RULES
        self.cache = Cache(self.bytes_of_piece)             # of pieces
        self.first = Cache(self.cut_and_encode)             # of the first word of a text
        self.words = Cache(lambda word: self.cut_and_encode(" " + word))    # of the others

    @cached_property
    def tokens(self):
        """Pieces that holds the tokens and nothing else."""
        tokens = Pieces()
        tokens.find([tokens.look(*laid_out(self.ranks))])
        return tokens

    @cached_property
    def pairs(self):
        """The Pairs of this vocabulary, None if it has no ids for them."""
        return Pairs(self.ranks, self.tokens, self.by_byte) if self.together else None

    def forget(self):
        """Remember the tokens and nothing else."""
        self.pieces, self.n = copy.deepcopy(self.tokens), len(self.ranks)
        self.pool = np.array(list(self.ranks.values()), np.uint32)
        self.begin = np.arange(self.n)
        self.count = np.ones(self.n, np.int64)

    def encode(self, texts, n_threads=1):
        """[str] -> [(n,) uint32]. n_threads: None for as many as there are cores."""
        with self.lock:
            if sum(map(len, texts)) <= SHORT_TEXT:
                return [np.frombuffer(self.encode_short(text), np.uint32) for text in texts]
            n_threads = n_threads or cores.N_THREADS
            if self.pieces is None:
                self.forget()
            found = [[] for _ in texts]
            blocks = blocks_of(texts, self.pattern)
            for some in batches_of(blocks, lambda block: sum(len(x) for _, x in block), TOGETHER):
                for block, each in zip(some, self.encode_blocks(some, n_threads)):
                    for (i, _), ids in zip(block, each):
                        found[i].append(ids)
        return [np.concatenate(ids) for ids in found]

    def encode_short(self, text):
        """str -> its ids as bytes of uint32."""
        if not self.by_words:
            return self.cut_and_encode(text)
        first, *words = SPACE.split(text) if TWO_SPACES.search(text) else text.split(" ")
        return self.first[first] + b"".join(map(self.words.__getitem__, words))

    def cut_and_encode(self, text):
        """The same, by the pattern itself."""
        return b"".join(map(self.cache.__getitem__, self.find(text)))

    def bytes_of_piece(self, piece):
        """The same for one piece (str)."""
        return np.array(self.encode_piece(bytes_of(piece, self.pattern)), np.uint32).tobytes()

    def encode_blocks(self, blocks, n_threads):
        """[[(number of a text, part)]] -> for each block the ids of each part."""
        looked, ends = zip(*in_threads(self.look, blocks, n_threads))
        numbers = self.pieces.find(looked)
        try:
            self.learn(n_threads)
        except ValueError:                                  # a piece has no ids: it must not stay
            self.forget()
            raise
        found = in_threads(self.ids_of, zip(numbers, ends), n_threads)
        n_tokens = len(self.ranks)
        if self.n > n_tokens + REMEMBERED or len(self.pool) > n_tokens + 8 * REMEMBERED:
            self.forget()
        return found

    def look(self, block):
        """The pieces of a block, looked up, and where each part ends among them."""
        *pieces, ends = cut([part for _, part in block], self.pattern)
        return self.pieces.look(*pieces), ends

    def ids_of(self, found):
        """((n,) numbers of pieces, where each part ends among them) -> [(m,) uint32]."""
        numbers, ends = found
        count, begin = self.count[numbers], self.begin[numbers]
        behind = np.cumsum(count)
        if len(count) and behind[-1] > len(count):          # some have several ids
            begin = np.repeat(begin - (behind - count), count) + np.arange(behind[-1])
        ids = self.pool[begin]
        return np.split(ids, np.concatenate([[0], behind])[ends[:-1]])

    def learn(self, n_threads):
        """Merge the pieces that are new."""
        if self.n == self.pieces.n:
            return
        groups, alone = self.groups_of_new()
        if groups:
            self.pairs                                      # made here and not in a thread
        merged = in_threads(lambda group: merge_all(group.raw, group.length, self.pairs),
                            groups, n_threads)
        for ids in self.encode_alone(list(alone.values())):
            merged.append((ids, [len(ids)]))
        numbers = np.concatenate([*(group.numbers for group in groups), [*alone]]).astype(np.int64)
        ids, count = map(np.concatenate, zip(*merged))
        grown = np.zeros((2, self.pieces.n), np.int64)
        grown[:, :self.n] = self.begin, self.count
        grown[:, numbers] = len(self.pool) + np.cumsum(count) - count, count
        self.begin, self.count = grown
        self.pool = np.concatenate([self.pool, ids.astype(np.uint32)])
        self.n = self.pieces.n

    def groups_of_new(self):
        """The new pieces: [Group] of those merged together, {number: piece} of the others."""
        alone, wide, groups = {}, {}, []
        for i, piece in self.pieces.long_from(self.n).items():
            (wide if len(piece) <= WIDTHS[-1] else alone)[i] = piece
        for group in (*itertools.starmap(Group, self.pieces.short_from(self.n)), padded(wide)):
            for low, high in zip((0, *WIDTHS), WIDTHS):
                rows = np.flatnonzero((group.length > low) & (group.length <= high))
                if len(rows) < FEW or not self.together:
                    for number, raw, n in zip(*group.part(rows, high)):
                        alone[int(number)] = raw[:n].tobytes()
                else:
                    for begin in range(0, len(rows), MANY):
                        groups.append(group.part(rows[begin:begin + MANY], high))
        return groups, alone

    def encode_alone(self, pieces):
        """The ids of each of some pieces (bytes), which are few or long."""
        if self.together and sum(map(len, pieces)) >= LONG:
            return merge_long(pieces, self.ranks, self.pairs)
        return list(map(self.encode_piece, pieces))

    def encode_piece(self, piece):
        """The ids of one piece (bytes); ValueError if a character has no token."""
        if piece in self.ranks:
            return [self.ranks[piece]]
        if self.together and len(piece) >= LONG:
            return merge_long([piece], self.ranks, self.pairs)[0].tolist()
        try:
            return [self.ranks[part] for part in merge(self.ranks, piece)]
        except KeyError as error:                           # a vocabulary without all single bytes
            offset = piece.index(error.args[0])
            n_before = len(piece[:offset].decode("utf-8", errors="ignore"))
            character = piece.decode("utf-8", "replace")[n_before]
            raise ValueError(f"the vocabulary has no token for the character {character!r} "
                             f"(U+{ord(character):04X})") from None
