"""trainer.py: the fast twin of bpe.train, and the counting of pieces before it.

Every different piece stands once in one long array, with its count beside it, and each pair knows
the places where it stands:

    text        "low low lower", pieces "low" once, " low" once and " lower" once
    ids         -1  l  o  w -1  ␣  l  o  w -1  ␣  l  o  w  e  r -1
    place        0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16
    weight       0  1  1  1  1  1  1  1  1  1  1  1  1  1  1  1  1
    pair (l,o)  count 3, places 1, 6, 11

To merge (l,o) is to write the new id at 1, 6 and 11 and -1 at 2, 7 and 12. `after` and `before`
link each place to its neighbours, over the -1 that are left inside of a piece. Only the pairs
around the three places have changed. So a merge costs as much as the places it touches.

Most of that cost is to call NumPy, not the work in its arrays. So the next merges are done
together, as long as none of them changes what a later one finds: see Corpus.merge. For 32,768
tokens of 12 MB of English that makes 835 steps of 32,512 merges, and takes 0.58 of the time.

Measured on 300 kB of English: 2,048 tokens take 0.1 s, and 26 s with bpe.train.
"""

import bisect
import functools
import heapq
import itertools
import sys
from collections import Counter

import numpy as np

import bpe
from model import cores
from tokens.added import well_formed
from tokens.hashtable import Pieces
from tokens.patterns import GPT2_BYTES
from tokens.pieces import batches_of, blocks_of, cut, parts_of, place_in_run

BATCH_CHARACTERS = 2**22                                    # counted together by one process
TOGETHER = 256                                              # pairs tried in one step of merging
TIES = ("rustbpe", "huggingface", "minbpe")


# ---- texts to counts -----------------------------------------------------------------------------

def count_pieces(texts, pattern, workers=1):
    """{piece (bytes): how often it occurs in all texts}, in the order they are met first.

    These counts are all that is kept of the corpus.
    """
    parts = (part for text in texts
             for part in parts_of(well_formed(text), pattern, BATCH_CHARACTERS))
    batches = batches_of(parts, len, BATCH_CHARACTERS)
    counts = Counter()
    for found in in_processes(functools.partial(count_batch, pattern), batches, workers):
        counts.update(found)                # new pieces come behind the known ones: in order
    return counts


def count_batch(pattern, batch):
    """count_pieces of a few texts."""
    pieces = Pieces()
    numbers = []
    for block in blocks_of(batch, pattern):
        data, begin, length, _ = cut([part for _, part in block], pattern)
        numbers += pieces.find([pieces.look(data, begin, length)])
    return dict(zip(pieces.all(), np.bincount(np.concatenate(numbers)).tolist()))


def in_processes(function, items, workers):
    """Yields function(item) for each item in order, worked out by processes, a few at a time."""
    items = iter(items)
    first = list(itertools.islice(items, 2))
    items = itertools.chain(first, items)
    if workers < 2 or len(first) < 2:
        yield from map(function, items)
    else:
        with cores.processes(workers, function) as in_order:
            yield from in_order(items)


def learn(texts, pattern, vocab_size, n_special, ties="rustbpe", min_frequency=1, workers=1):
    """Texts -> [token (bytes)], as many as leave room for the special tokens.

    ValueError for an empty corpus, or a vocab_size without room for the single bytes.
    """
    if isinstance(texts, str) or ties not in TIES:
        raise ValueError(f"texts: an iterable of documents, such as [text]; ties {ties!r}: one of "
                         f"{', '.join(TIES)}")
    n_tokens = vocab_size - n_special
    if n_tokens < 256:
        raise ValueError(f"vocab_size {vocab_size}: vocabulary smaller than 256 bytes and "
                         f"{n_special} special tokens")
    counts = count_pieces(texts, pattern, workers)
    if not counts:
        raise ValueError("cannot train on an empty corpus")
    tokens = train(counts, n_tokens, ties, min_frequency)
    if len(tokens) < n_tokens:
        often = f" that comes {min_frequency} times" * (min_frequency > 1)
        print(f"bpe.py: no pair is left{often} after {len(tokens) - 256:,} of {n_tokens - 256:,} "
              f"merges; the vocabulary is smaller than {vocab_size:,}", file=sys.stderr)
    return tokens


# ---- counts to tokens ----------------------------------------------------------------------------

def train(piece_counts, n_tokens, ties="rustbpe", min_frequency=1):
    """bpe.train in arrays; also with the ties of others, and down to a minimum count of a pair.

    Ids only ever grow, so a pair never comes back to a place that it has left. Two things follow.
    Each pair with the new id in it is new, and all its places are found at once. And the count of
    a pair can only fall, so the count on the heap is an upper bound: see next_pairs. Nothing is
    ever counted again from the corpus.

    ties: see bpe.train.
    """
    single_bytes = GPT2_BYTES if ties == "huggingface" else bytes(range(256))
    tokens = [bytes([b]) for b in single_bytes]
    corpus = Corpus(piece_counts, single_bytes, ties)
    heap = corpus.pairs_of_bytes()
    heapq.heapify(heap)
    n_tried = 1
    while heap and len(tokens) < n_tokens:
        n_tried = min(n_tried, n_tokens - len(tokens))
        pairs = []
        for pair in next_pairs(heap, corpus, n_tried, max(min_frequency, 1)):
            _, _, left, right, _ = pair
            if bpe.may_be_token(tokens[left] + tokens[right]):
                pairs.append(pair)
        if not pairs:
            continue
        n_merged, new_pairs = corpus.merge(pairs, len(tokens))
        for _, _, left, right, _ in pairs[:n_merged]:
            tokens.append(tokens[left] + tokens[right])
        for pair in pairs[n_merged:] + new_pairs:
            heapq.heappush(heap, pair)
        n_tried = min(3 * n_merged + 2, TOGETHER)
    return tokens


def next_pairs(heap, corpus, n, min_frequency):
    """Takes up to n pairs from the heap -> those that are certainly the best, the best first.

    Other merges may have taken some of a pair's places. So the n pairs are counted again, and
    sorted. A pair that now comes behind the first one left on the heap goes back.
    """
    some = [heapq.heappop(heap) for _ in range(min(n, len(heap)))]
    found = sorted(pair for pair in corpus.counted(some) if -pair[0] >= min_frequency)
    n_best = bisect.bisect(found, heap[0]) if heap else len(found)
    for pair in found[n_best:]:
        heapq.heappush(heap, pair)
    return found[:n_best]


class Corpus:
    """All different pieces in one array of ids; see the drawing above. N places."""

    def __init__(self, piece_counts, single_bytes, ties):
        number = np.empty(256, np.int32)
        number[list(single_bytes)] = np.arange(256)
        joined = b"\0" + b"\0".join(piece_counts) + b"\0"
        lengths = np.array([len(piece) + 1 for piece in piece_counts])
        counts = list(piece_counts.values())
        self.ids = number[np.frombuffer(joined, np.uint8)]                  # (N,)
        self.ids[np.concatenate([[0], np.cumsum(lengths)])] = -1
        self.weight = np.concatenate([[0], np.repeat(counts, lengths)])     # (N,)
        self.after = np.arange(1, len(joined) + 1)                          # (N,)
        self.before = np.arange(-1, len(joined) - 1)                        # (N,)
        self.merging = np.full(len(joined), -1)         # (N,) the pair in work that begins here
        self.first_place_wins = ties == "minbpe"

    def pair(self, count, left, right, places):
        """The entry on the heap: the smallest is merged first, of equal counts by `tie`.

        (left, right) is unique, so places are never compared.
        """
        tie = int(places[0]) if self.first_place_wins and count else left
        return -count, tie, left, right, places

    def pairs_of_bytes(self):
        """All pairs at the beginning."""
        left, right = self.ids[:-1], self.ids[1:]
        places = np.flatnonzero((left >= 0) & (right >= 0))
        found = self.grouped(left[places], right[places], places)
        return [self.pair(count, left, right, at) for left, right, count, at in found]

    def counted(self, pairs):
        """The same pairs, with the places where they still stand."""
        _, _, left, right, places = zip(*pairs)
        number, places = numbers_of(places), np.concatenate(places)
        still = self.ids.take(places) == np.array(left).take(number)
        still &= self.ids.take(self.after.take(places)) == np.array(right).take(number)
        places, number = places[still], number[still]
        counts = np.bincount(number, self.weight.take(places), len(pairs))  # exact up to 2^53
        ends = np.bincount(number, minlength=len(pairs)).cumsum().tolist()
        each = [places[i:j] for i, j in zip([0, *ends], ends)]
        return map(self.pair, counts.astype(np.int64).tolist(), left, right, each)

    def every_second(self, places):
        """In a run such as aaaa the pair aa stands at 0, 1 and 2. It is merged at 0 and 2."""
        in_run = np.concatenate([[False], self.after[places[:-1]] == places[1:]])
        return places[place_in_run(~in_run) % 2 == 0]

    def merge(self, pairs, new):
        """Merge the first pairs, at most all, into the ids new, new + 1 and so on.

        Returns how many it merged and the new pairs around them. It stops before a pair that
        touches or overlaps a place of one before it, and before a pair that is no longer the best,
        because a new one is better. So the result is the same as that of one merge at a time.
        """
        each = [self.every_second(at) if left == right else at for _, _, left, right, at in pairs]
        number, places = numbers_of(each), np.concatenate(each)
        eaten = self.after.take(places)
        previous, following = self.before.take(places), self.after.take(eaten)
        self.merging[places] = number
        overlapping, touching = self.merging.take(eaten), self.merging.take(following)
        new_on_left = self.merging.take(self.before.take(previous)) == number    # abab becomes two
        new_on_right = touching == number                               # new ids side by side
        self.merging[places] = -1
        n = len(pairs)
        for other, disturbs in (
            (overlapping, overlapping >= 0),
            (touching, (touching >= 0) & ~new_on_right),
        ):
            n = min(n, np.maximum(other, number)[disturbs].min(initial=n))

        left_id = self.ids.take(previous)
        right_id = self.ids.take(following)
        right_id = np.where(new_on_right, new + number, right_id)
        # A pair (new, new) is found from the left one of the two only.
        has_left = (left_id >= 0) & ~new_on_left & (number < n)
        has_right = (right_id >= 0) & (number < n)
        befores = self.grouped(number[has_left], left_id[has_left], previous[has_left])
        afters = self.grouped(number[has_right], right_id[has_right], places[has_right])
        around = [[] for _ in range(n)]
        for k, other, count, at in befores:
            around[k].append(self.pair(count, other, new + k, at))
        for k, other, count, at in afters:
            around[k].append(self.pair(count, new + k, other, at))
        n, new_pairs = while_best(pairs, around)

        m = np.searchsorted(number, n)
        places, following = places[:m], following[:m]
        self.ids[places] = new + number[:m]
        self.ids[eaten[:m]] = -1
        self.after[places] = following
        self.before[following] = places
        return n, new_pairs

    def grouped(self, first, second, places):
        """Keys (n,), (n,) and their places (n,) -> [(first, second, count, places)], a key each."""
        if len(places) == 0:
            return []
        keys = first.astype(np.int64) << 32 | second
        order = keys.argsort(kind="stable")             # stable: the places stay in order
        keys, places = keys.take(order), places.take(order)
        starts = np.concatenate([[0], (keys[1:] != keys[:-1]).nonzero()[0] + 1])
        counts = np.add.reduceat(self.weight.take(places), starts)
        keys = keys.take(starts)
        bounds = [*starts.tolist(), len(places)]
        each = [places[i:j] for i, j in zip(bounds, bounds[1:])]
        return zip((keys >> 32).tolist(), (keys & 2**32 - 1).tolist(), counts.tolist(), each)


def while_best(pairs, around):
    """How many pairs are merged before a new one is better, and the new ones until then.

    around[k]: the new pairs that the merge of pairs[k] makes.
    """
    new_pairs = []
    best = pairs[-1]                        # a new one behind it does not matter
    for n, found in enumerate(around):
        if best < pairs[n]:
            return n, new_pairs
        new_pairs += found
        best = min([best, *found])
    return len(around), new_pairs


def numbers_of(arrays):
    """Arrays of n0, n1, ... items -> n0 times 0, n1 times 1 and so on."""
    lengths = list(map(len, arrays))
    return np.repeat(np.arange(len(lengths)), lengths)
