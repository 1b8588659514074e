"""trainer.py: the fast twin of bpe.train, and the counting of pieces before it.

Every different piece stands once in one long array, with its count beside it. A token stands there
as its id at its first byte and at its last one. What is between them is not read again.

    text        "low low lower", pieces "low" once, " low" once and " lower" once
    place        0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16
    ids         -1  l  o  w -1  ␣  l  o  w -1  ␣  l  o  w  e  r -1
    (l,o) to X  -1  X  X  w -1  ␣  X  X  w -1  ␣  X  X  w  e  r -1      at places 1, 6 and 11
    (X,w) to Y  -1  Y  .  Y -1  ␣  Y  .  Y -1  ␣  Y  .  Y  e  r -1      at places 1, 6 and 11

We keep for each pair its count, and the places where it stood when it was new. A merge changes only
the pairs around its places. Each new pair takes its places from an old one:

    p a b c  ->  p X c          (p,X) takes places from (p,a), and (X,c) takes places from (b,c)

So nothing is ever counted again. But most of the time goes into calling NumPy, not into the work in
its arrays. So one step merges many pairs. It takes the best pairs, the best first, until one of
them begins with a token with which another one ends. The result is the same as that of one merge
after the other, for two reasons:

    1. Two pairs of a step never overlap. They would share a token, the end of the one and the
       beginning of the other. So no merge takes a place from another pair of the step.
    2. No new pair comes before a pair of the step. Take (p,X). Its count is at most that of (p,a),
       and of equals the older one comes first. And (p,a) does not come before a pair of the step,
       or else it would have ended the step: it ends with a, with which (a,b) begins.

Two kinds of pairs are the last of their step, because the second reason does not hold for them. The
new pairs of (a,a) take places from (a,a) itself. And an old pair that the rule about tokens has
refused no longer waits, but its places can still pass to a new pair, which may come first.

For 32,768 tokens of 12 MB of English 800 steps do 32,512 merges. Counting takes 0.25 s and merging
0.5 s; rustbpe takes 1.0 s for both. For 2,048 tokens of 300 kB bpe.train takes 26 s, we take 0.1 s.
"""

import functools
import heapq
import itertools
import sys
from collections import Counter

import numpy as np

import bpe
from model import cores
from run import progress
from tokens.added import well_formed
from tokens.hashtable import Pieces
from tokens.patterns import GPT2_BYTES
from tokens.pieces import batches_of, blocks_of, cut, parts_of, place_in_run

BATCH_CHARACTERS = 2**22            # counted together by one process
FEWEST_BATCHES = 4                  # for processes: 3 take 0.43 s of two cores, 0.29 s of one alone
HALF = 32                           # bits of an id in the key of a pair
LOW_HALF = 2**HALF - 1
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
    count = functools.partial(count_batch, pattern)
    for found in in_processes(count, batches, workers, FEWEST_BATCHES):
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


def in_processes(function, items, workers, fewest=2):
    """Yields function(item) for each item in order, worked out by processes, a few at a time.

    For less than `fewest` items it starts no processes.
    """
    items = iter(items)
    first = list(itertools.islice(items, fewest))
    items = itertools.chain(first, items)
    if workers < 2 or len(first) < fewest:
        yield from map(function, items)
    else:
        with cores.processes(workers, function) as in_order:
            yield from in_order(items)


def learn(texts, pattern, vocab_size, n_special, ties="rustbpe", min_frequency=1, workers=1):
    """Texts -> [token (bytes)], as many as leave room for the special tokens.

    texts: an iterable of str, or what count_pieces has made of it. ValueError for an empty corpus,
    or a vocab_size without room for the single bytes.
    """
    if isinstance(texts, str) or ties not in TIES:
        raise ValueError(f"texts: an iterable of documents, such as [text]; ties {ties!r}: one of "
                         f"{', '.join(TIES)}")
    n_tokens = vocab_size - n_special
    if n_tokens < 256:
        raise ValueError(f"vocab_size {vocab_size}: vocabulary smaller than 256 bytes and "
                         f"{n_special} special tokens")
    counts = texts if isinstance(texts, dict) else count_pieces(texts, pattern, workers)
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

    ties: see bpe.train.
    """
    single_bytes = GPT2_BYTES if ties == "huggingface" else bytes(range(256))
    tokens = [bytes([b]) for b in single_bytes]
    corpus = Corpus(piece_counts, single_bytes, n_tokens)
    queue = Queue(corpus, max(min_frequency, 1), first_place_wins=ties == "minbpe")
    queue.add(*corpus.pairs_of_bytes())
    work = progress.Work("merges", n_tokens - 256)
    while len(tokens) < n_tokens:
        work.at(len(tokens) - 256)
        step = queue.next_step(tokens, n_tokens - len(tokens))
        if not step:
            break
        queue.add(*corpus.merge(step, len(tokens)))
        for pair in step:
            left, right = corpus.halves(pair)
            tokens.append(tokens[left] + tokens[right])
    work.end()
    return tokens


class Corpus:
    """All different pieces in one array of N places, and all pairs; see the drawing above.

    Each pair has a number, in the order in which they are found.
    """

    def __init__(self, piece_counts, single_bytes, n_tokens):
        joined = b"\0" + b"\0".join(piece_counts) + b"\0"
        lengths = np.array([len(piece) + 1 for piece in piece_counts])
        id_of_byte = np.empty(256, np.int32)
        id_of_byte[list(single_bytes)] = np.arange(256)
        self.ids = id_of_byte[np.frombuffer(joined, np.uint8)]              # (N,)
        self.ids[np.concatenate([[0], np.cumsum(lengths)])] = -1
        counts = list(piece_counts.values())
        self.weight = np.concatenate([[0], np.repeat(counts, lengths)])     # (N,)
        self.pair_at = np.full(len(joined), -1, np.int32)   # (N,) the pair that begins here
        self.length = np.ones(n_tokens, np.int64)           # of each token, in bytes
        self.keys, self.counts, self.places = [], [], []    # of each pair

    def halves(self, pair):
        """The ids of the two tokens of a pair."""
        return self.keys[pair] >> HALF, self.keys[pair] & LOW_HALF

    def pairs_of_bytes(self):
        """Enter the pairs of the beginning."""
        left, right = self.ids[:-1], self.ids[1:]
        places = np.flatnonzero((left >= 0) & (right >= 0))
        left, right = left.take(places), right.take(places)
        order = (left << 8 | right).astype(np.uint16).argsort(kind="stable")    # fast: 16 bits
        return self.enter(key_of(left, right).take(order), places.take(order))

    def enter(self, keys, places, old_pairs=None):
        """Number and count new pairs.

        keys, places, old_pairs: (m,) the key of the new pair at each place, and the number of the
        old pair from which it takes the place. Returns the numbers of the new pairs, their counts,
        keys and first places, (n,) each.
        """
        order = keys.argsort(kind="stable")                 # stable: the places stay in order
        keys, places = keys.take(order), places.take(order)
        changes = np.flatnonzero(keys[1:] != keys[:-1])
        begins = np.concatenate([[0], changes + 1])[:len(keys)]
        ends = np.append(begins[1:], len(keys))
        keys = keys.take(begins)
        counts = np.add.reduceat(self.weight.take(places), begins)
        if old_pairs is not None:                           # each new pair has one old pair
            old_pairs = old_pairs.take(order.take(begins)).tolist()
            for pair, count in zip(old_pairs, counts.tolist()):
                self.counts[pair] -= count
        numbers = np.arange(len(self.keys), len(self.keys) + len(keys))
        self.pair_at[places] = np.repeat(numbers, ends - begins)
        self.keys += keys.tolist()
        self.counts += counts.tolist()
        self.places += [places[i:j] for i, j in zip(begins.tolist(), ends.tolist())]
        return numbers, counts, keys, places.take(begins)

    def standing(self, step):
        """Where the pairs of a step still stand -> (m,) which of them it is, (m,) the place."""
        each = [self.places[pair] for pair in step]
        which = np.repeat(np.arange(len(step)), list(map(len, each)))
        place = np.concatenate(each)
        still = np.flatnonzero(self.pair_at.take(place) == np.array(step).take(which))
        return which.take(still), place.take(still)

    def token_before(self, place):
        """The tokens that end before some places -> their ids, and where they begin."""
        ids = self.ids.take(place - 1)
        return ids, place - self.length.take(ids)

    def merge(self, step, new):
        """Merge the pairs of a step into the ids new, new + 1 and so on. Enters the new pairs.

            tokens          p   a           b           c
            begin at            place       middle      end         (m,) each, in all of the corpus
        """
        keys = np.array([self.keys[pair] for pair in step])
        left, right = keys >> HALF, keys & LOW_HALF
        left_length, right_length = self.length.take(left), self.length.take(right)
        self.length[new:new + len(step)] = left_length + right_length

        which, place = self.standing(step)
        middle = place + left_length.take(which)
        if left[-1] == right[-1]:                           # only the last pair can be (a,a)
            stays = every_second(place, middle)
            which, place, middle = which[stays], place[stays], middle[stays]
        end = middle + right_length.take(which)
        ids = new + which

        # (p,X) takes the place of (p,a). In this step p may become a part of a new token, too.
        inner = np.flatnonzero(self.ids.take(place - 1) >= 0)
        begin = place.take(inner)
        _, old_before = self.token_before(begin)
        self.ids[place] = self.ids[end - 1] = ids
        before, place_before = self.token_before(begin)
        keys_before = key_of(before, ids.take(inner))

        # (X,c) takes the place of (b,c). If c is part of a new token, that one has found the pair.
        after = self.ids.take(end)
        inner = np.flatnonzero((after >= 0) & (after < new))
        keys_after = key_of(ids.take(inner), after.take(inner))

        keys = np.concatenate([keys_before, keys_after])
        places = np.concatenate([place_before, place.take(inner)])
        old_places = np.concatenate([old_before, middle.take(inner)])
        old_pairs = self.pair_at.take(old_places)
        self.pair_at[middle] = -1
        return self.enter(keys, places, old_pairs)


def key_of(left, right):
    """Two ids -> one number, by which pairs are sorted like (left, right)."""
    return left.astype(np.int64) << HALF | right


def every_second(place, middle):
    """In a run such as aaaa the pair aa stands at 0, 1 and 2. It is merged at 0 and 2.

    Returns which places these are, (n,) bool.
    """
    begins_run = np.concatenate([[True], middle[:-1] != place[1:]])
    return place_in_run(begins_run) % 2 == 0


class Queue:
    """All pairs, the best first. It is a heap on which only the best pair of each step waits.

    An entry is (-count, tie, pair, the other pairs of its step, sorted). Counts only ever fall. So
    the count of an entry is an upper bound, for its pair and for the others.
    """

    def __init__(self, corpus, min_frequency, first_place_wins):
        self.corpus = corpus
        self.min_frequency = min_frequency
        self.first_place_wins = first_place_wins
        self.heap = []
        self.refused_lefts, self.refused_rights = set(), set()

    def add(self, numbers, counts, keys, first_places):
        """Add the new pairs of a step."""
        ties = first_places if self.first_place_wins else keys
        order = np.lexsort((ties, -counts))
        order = order[:np.count_nonzero(counts >= self.min_frequency)]
        columns = [column.take(order).tolist() for column in (-counts, ties, numbers)]
        self.push_next(zip(*columns))

    def push_next(self, pairs):
        """Push the next of some sorted pairs, and those behind it until a count is up to date."""
        for bound, tie, pair in pairs:
            if self.corpus.counts[pair] == -bound:
                heapq.heappush(self.heap, (bound, tie, pair, pairs))
                return
            self.push(tie, pair)

    def push(self, tie, pair):
        """Push a pair alone, with its count of now."""
        count = self.corpus.counts[pair]
        if count < self.min_frequency:
            return
        if self.first_place_wins:
            _, places = self.corpus.standing([pair])
            tie = int(places[0])
        heapq.heappush(self.heap, (-count, tie, pair, iter(())))

    def pop(self):
        """Take the best pair from the heap -> tie, pair; None: no pair is left."""
        while self.heap:
            bound, tie, pair, others = heapq.heappop(self.heap)
            self.push_next(others)
            if self.corpus.counts[pair] == -bound:
                return tie, pair
            self.push(tie, pair)
        return None

    def next_step(self, tokens, most):
        """Take the best pairs that can be merged in one step, see above -> their numbers."""
        step, lefts, rights = [], set(), set()
        while len(step) < most and (best := self.pop()):
            tie, pair = best
            left, right = self.corpus.halves(pair)
            if left in rights or right in lefts:
                self.push(tie, pair)
                break
            if not bpe.may_be_token(tokens[left] + tokens[right]):
                self.refused_lefts.add(left)
                self.refused_rights.add(right)
                continue
            step.append(pair)
            lefts.add(left)
            rights.add(right)
            if left == right or left in self.refused_rights or right in self.refused_lefts:
                break
        return step
