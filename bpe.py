"""Byte-level BPE: bytes to tokens and back, with tiktoken's ids.

A tokenizer here is three things. A *pattern* cuts text into pieces (words with their leading space,
digit groups, punctuation, white space); *ranks* give each known byte string a number; *special
tokens* such as <|endoftext|> are names with a number and stand outside the text. To encode a piece,
start from its single bytes and keep joining the two neighbours whose joint bytes have the lowest
rank. To train, start from the 256 bytes and keep joining the most frequent pair of neighbours in
the corpus: each join is the next rank. `merge` and `learn_tokens` are that; the rest makes it fast, and useful.

    python bpe.py train --run out/demo      docs/*.jsonl.gz -> tokenizer.tiktoken, tokenizer.json
    python bpe.py encode --run out/demo     docs/*.jsonl.gz -> tokens/{train,val}_*.bin
    python bpe.py show "hello world" --vocab cl100k_base o200k_base --steps

What makes it fast is to do everything for many pieces at once, in arrays: tokens/pieces.py cuts text and numbers the pieces, and
tokens/encoder.py merges those that are new, one step of each at a time. tokens/vocabularies.py has the files of others. Also here: the
token shards (llm.c's format) that train.py reads. Left out: every tokenizer that is not byte-level BPE;
`load` refuses those by name. Of byte-level BPE it reads added words and the steps of normalising and
cutting that published vocabularies have; others, such as StripAccents, it refuses by name, too.

Sources: Sennrich et al. 2016 (arXiv 1508.07909); GPT-2 (Radford et al. 2019) for bytes and pattern;
tiktoken for the meaning of every method; minbpe, rustbpe and Hugging Face tokenizers for the order of
merges; llm.c for the shards. tests/peers/test_bpe_peers.py compares with all but llm.c.
"""

import argparse
import bisect
import codecs
import functools
import gzip
import hashlib
import heapq
import itertools
import json
import math
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections import Counter, namedtuple
from functools import cached_property
from pathlib import Path

from model import cores                    # before NumPy
import numpy as np
import regex

from run import command, disk
from run import runs
from tokens import vocabularies
from tokens.encoder import TOGETHER, Encoder
from tokens.pieces import (PATTERNS, SURE, WHITE, Names, Pieces, SlowPattern, batches_of, blocks_of, check_cut, check_normalize,
                           cut, finder, names_of, normalized, parts_of, spelled, words_of)
from run.disk import whole_file
from tokens.vocabularies import GPT2_BYTES, PUBLISHED, Flags

# What a vocabulary trained here gets, in this order, with the ids right after the ranks.
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>",
                  "<|tool_start|>", "<|tool_end|>", "<|output_start|>", "<|output_end|>")

MANY = 2**15            # ids from which decoding is worth arrays
LONGEST_NAME = 1000     # characters of a special token's name


# ---- merging: one piece into parts ---------------------------------------------------------------

def merge(ranks, piece, limit=math.inf):
    """bytes -> the list of byte strings that BPE ends with, by the ranks below `limit`.

    Again and again, join the two neighbours whose joint bytes have the lowest rank, the leftmost
    first: {b"ab": 256, b"abc": 257}, b"xabcab" -> [b"x", b"abc", b"ab"].

    A part is known by where it starts; `after` and `before` link the starts. The heap holds (rank,
    start of the left part); an entry whose rank is no longer that of its start is stale and dropped
    as it comes up. O(n log n), so 100,000 times "a" is nothing special, and on words as fast as the
    plain scan for the minimum that it stands for (which is in tests/test_bpe.py).
    """
    n = len(piece)
    after, before = list(range(1, n + 1)), list(range(-1, n - 1))
    rank_at = [ranks.get(piece[i:i + 2]) for i in range(n - 1)] + [None]    # of a part + the next
    heap = [(rank, i) for i, rank in enumerate(rank_at) if rank is not None]
    heapq.heapify(heap)
    while heap:
        rank, i = heapq.heappop(heap)
        if rank >= limit:
            break
        if rank_at[i] != rank:          # stale
            continue
        eaten = after[i]                # the part at i swallows the one at eaten
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


# ---- training: a corpus into merges --------------------------------------------------------------

def count_batch(pattern, batch):
    """{piece (bytes): how often it is there}, in the order of their first time."""
    pieces = Pieces()
    numbers = []
    for block in blocks_of(batch, pattern):
        data, begin, length, _ = cut([part for _, part in block], pattern)
        numbers += pieces.find([pieces.look(data, begin, length)])
    return dict(zip(pieces.all(), np.bincount(np.concatenate(numbers)).tolist()))


def count_pieces(texts, pattern, workers=1):
    """count_batch of all texts; the counts are the only thing kept of the corpus."""
    parts = (part for text in texts for part in parts_of(well_formed(text), pattern, TOGETHER))
    counts = Counter()
    for found in in_processes(functools.partial(count_batch, pattern), batches_of(parts, len, TOGETHER), workers):
        counts.update(found)                            # new ones behind those that are known, so in order
    return counts


def in_processes(function, items, workers):
    """function(item) of each, in order, by processes; a few items at a time, so that memory does not grow with their number."""
    items = iter(items)
    first = list(itertools.islice(items, 2))
    items = itertools.chain(first, items)
    if workers < 2 or len(first) < 2:
        yield from map(function, items)
        return
    with cores.processes(workers, function) as in_order:
        yield from in_order(items)


TIES = ("rustbpe", "huggingface", "minbpe")


def learn_tokens(piece_counts, n_tokens, ties="rustbpe", min_frequency=1):
    """{piece (bytes): count} -> [token (bytes), ...], the 256 bytes and then one token a merge.

    Each merge joins the pair of neighbours with the highest count. Of equals rustbpe takes the smallest (left id, right id);
    so does Hugging Face, whose single bytes are numbered in another order; minbpe the one that is met first in the
    corpus. `aaa` counts as two pairs and is joined once. Fewer than n_tokens when no pair comes min_frequency times.

    All different pieces lie in one array of ids with -1 between them. A merge overwrites the left
    id, blanks the right one and relinks. Ids only ever grow, so a pair never returns to a place it
    has left, and two things follow. Every pair with the new id in it is new, and is found once,
    whole. And a count can only fall, so the one on the heap is an upper bound: a popped pair that
    has lost places to other merges goes back with what it has left, and the first one popped with
    its true count is the best of all. Nothing is ever counted again from the corpus.
    """
    joined = b"\0" + b"\0".join(piece_counts) + b"\0"                     # N bytes
    lengths = np.array([len(piece) + 1 for piece in piece_counts])
    single = GPT2_BYTES if ties == "huggingface" else bytes(range(256))
    number = np.empty(256, np.int32)
    number[list(single)] = np.arange(256)
    ids = number[np.frombuffer(joined, np.uint8)]                         # (N,)
    ids[np.concatenate([[0], np.cumsum(lengths)])] = -1
    weight = np.concatenate([[0], np.repeat(list(piece_counts.values()), lengths)])     # (N,)
    after, before = np.arange(1, len(ids) + 1), np.arange(-1, len(ids) - 1)             # (N,), (N,)

    first = np.flatnonzero((ids[:-1] >= 0) & (ids[1:] >= 0))
    by_place = ties == "minbpe"

    def entry(count, left, right, places):              # no two have the same left and right, so places are never compared
        return -count, int(places[0]) if by_place else 0, left, right, places

    heap = [entry(count, key >> 8, key & 255, places)
            for key, count, places in _grouped(ids[first] << 8 | ids[first + 1], first, weight)]
    heapq.heapify(heap)
    tokens = [bytes([b]) for b in single]
    while heap and len(tokens) < n_tokens:
        bound, _, left, right, at = heapq.heappop(heap)
        at = at[(ids.take(at) == left) & (ids.take(after.take(at)) == right)]       # where the pair still stands
        count = int(weight.take(at).sum())
        if count < -bound:
            if count:
                heapq.heappush(heap, entry(count, left, right, at))
            continue
        if count < min_frequency:
            break
        new = len(tokens)
        tokens.append(tokens[left] + tokens[right])
        if left == right:
            at = _every_second(at, after)
        eaten = after.take(at)                                      # (n,), as at
        ids[at], ids[eaten] = new, -1
        after[at] = after.take(eaten)   # which may be the next of these places: abab becomes
        before[after.take(at)] = at     # two new ids side by side
        # The new neighbours, to the left and to the right of each new id. A (new, new) pair is seen
        # from both; it is entered from its left end.
        previous = before.take(at)
        left_id, right_id = ids.take(previous), ids.take(after.take(at))
        has_left, has_right = (left_id >= 0) & (left_id != new), right_id >= 0
        for key, count, places in _grouped(left_id[has_left], previous[has_left], weight):
            heapq.heappush(heap, entry(count, key, new, places))
        for key, count, places in _grouped(right_id[has_right], at[has_right], weight):
            heapq.heappush(heap, entry(count, new, key, places))
    return tokens


def _grouped(keys, places, weight):     # (n,), (n,), (N,) -> [(key, summed weight, its places)]
    if len(keys) == 0:
        return []
    order = keys.argsort(kind="stable")             # stable: places stay in ascending order
    keys, places = keys.take(order), places.take(order)
    starts = np.concatenate([[0], (keys[1:] != keys[:-1]).nonzero()[0] + 1])     # of each group
    counts = np.add.reduceat(weight.take(places), starts)
    bounds = [*starts.tolist(), len(keys)]
    return zip(keys.take(starts).tolist(), counts.tolist(), [places[i:j] for i, j in zip(bounds, bounds[1:])])


def _every_second(at, after):           # (n,) -> (<=n,)
    """In a run such as aaaa the pair aa stands at 0, 1 and 2, and is joined at 0 and 2."""
    index = np.arange(len(at))
    in_run = np.concatenate([[False], after[at[:-1]] == at[1:]])
    run_start = np.maximum.accumulate(np.where(in_run, 0, index))
    return at[(index - run_start) % 2 == 0]


# ---- the tokenizer -------------------------------------------------------------------------------

class Tokenizer:
    """Ranks, pattern and special tokens, with tiktoken's methods and tiktoken's ids.

    ranks {bytes: id}, ids in order of merging; pattern a key of PATTERNS, a regular expression or steps of a cut (pieces.Split);
    special_tokens {name: id}. Ids may have holes. `token_bytes[id]` is the bytes of each id: for a
    special token its name in UTF-8, for a hole b"". `n_vocab` is the largest id plus one; `holes`
    are the ids below it that mean nothing, so that a sampler can rule them out. normalize: what text
    is brought to first: None, a Unicode normal form ("NFC" for Qwen) or steps of pieces.normalized.
    words {name: id}: added tokens that are not special, so they are text like any other, found in it before it is cut.
    flags {name: Flags}: how added tokens are found, where that is not in the text as it is.
    """

    name = None         # the encoding's, or the file it came from

    def __init__(self, ranks, pattern, special_tokens, normalize=None, words=(), flags=()):
        self.ranks, self.special_tokens, self.normalize = dict(ranks), dict(special_tokens), normalize
        self.words, self.flags = dict(words), dict(flags)
        self.pattern = PATTERNS.get(pattern, pattern) if isinstance(pattern, str) else pattern
        check_cut(self.pattern)
        check_normalize(self.normalize)
        added = self.special_tokens | self.words
        if not self.ranks or "" in added or b"" in self.ranks:
            raise ValueError("a tokenizer needs at least one token, none of them empty, "
                             "and no special one named ''")
        for name in added:
            if not isinstance(name, str) or len(name) > LONGEST_NAME:
                raise ValueError(f"special token {str(name)[:60]!r}: expected a text of up to "
                                 f"{LONGEST_NAME} characters")
        normal = [self._normal(name) for name in added if self.flags.get(name, Flags()).normalized]
        if "" in normal or len(set(normal)) < len(normal):
            raise ValueError("of the added tokens to be found in normalised text, one is empty when it is normalised, or two are equal")
        vocabularies.check_ids(itertools.chain(self.ranks.values(), added.values()))
        self._bytes_of = {i: name.encode("utf-8") for name, i in added.items()}
        self._bytes_of |= {i: token for token, i in self.ranks.items()}
        twice = [name for name, i in added.items() if i in self._bytes_of and vocabularies.is_made(name, {self._bytes_of[i]})
                 and self.ranks.get(self._bytes_of[i]) == i]        # a token that merges make too
        n_tokens = len(self.ranks) + len(self.special_tokens) + len(self.words) - len(twice)
        if len(self._bytes_of) < n_tokens:
            raise ValueError(f"{n_tokens} tokens have only {len(self._bytes_of)} different ids")
        self.n_vocab = max(self._bytes_of) + 1
        self.token_bytes = [self._bytes_of.get(i, b"") for i in range(self.n_vocab)]

    def __repr__(self):
        return f"<Tokenizer {self.name!r}, {self.n_vocab:,} tokens>"

    @property
    def eot_token(self):
        return self.special_tokens["<|endoftext|>"]

    @cached_property
    def holes(self):                    # -> (n,) int64, ascending; mostly n = 0
        return np.array([i for i in range(self.n_vocab) if i not in self._bytes_of], np.int64)

    @cached_property
    def fingerprint(self):
        """16 hex digits, the first 8 bytes of SHA-256 over ranks, pattern and added tokens."""
        more = [self.normalize, sorted(self.words.items()), sorted(self.flags.items())]
        more = more if self.words or self.flags else more[:1] if self.normalize else []
        rest = json.dumps([self.pattern, sorted(self.special_tokens.items()), *more])
        return hashlib.sha256(vocabularies.ranks_file(self.ranks) + rest.encode("utf-8")).hexdigest()[:16]

    def encode(self, text, allowed_special=frozenset(), disallowed_special="all"):
        """Text to a list of ids, special tokens only where allowed.

        allowed_special: a set of names, or "all". disallowed_special: a collection of strings, or
        "all" (the special tokens that are not allowed); text with one in it is a ValueError, so
        that what a user typed never turns into control tokens unseen. A special token that is
        neither is ordinary text. Where one name begins with another, the longer is taken.
        """
        return self.encode_to_numpy(text, allowed_special=allowed_special, disallowed_special=disallowed_special).tolist()

    def encode_to_numpy(self, text, *, allowed_special=frozenset(), disallowed_special="all"):      # -> (n,) uint32
        return self._encode([text], self._allowed([text], allowed_special, disallowed_special), 1)[0]

    def encode_batch(self, text, *, num_threads=cores.N_THREADS, allowed_special=frozenset(), disallowed_special="all"):
        """encode of each; the text between special tokens is all encoded together."""
        allowed = self._allowed(text, allowed_special, disallowed_special)
        return [ids.tolist() for ids in self._encode(text, allowed, num_threads)]

    def _allowed(self, texts, allowed_special, disallowed_special):     # -> the names that are allowed; ValueError for a text with others
        for value in (allowed_special, disallowed_special):
            if isinstance(value, str) and value != "all":
                raise ValueError(f'special tokens {value!r}: pass a set of names, or "all"')
        every = self.special_tokens.keys()
        allowed = every if allowed_special == "all" else every & set(allowed_special)
        disallowed = every - allowed if disallowed_special == "all" else set(disallowed_special)
        if "" in disallowed:
            raise ValueError("disallowed_special: the empty text is in every text")
        for text in texts if disallowed else ():
            for _, name in self._names(disallowed).find(text):
                raise ValueError(f"text contains the special token {name!r}: for that token pass "
                                 f"allowed_special={{{name!r}}}, for ordinary text pass "
                                 f"disallowed_special=() or use encode_ordinary")
        return allowed

    def _names(self, names):
        return self._every_name if len(names) == len(self.special_tokens) and names == self.special_tokens.keys() else names_of(frozenset(names))

    @cached_property
    def _every_name(self):
        return Names(self.special_tokens)

    def _sought(self, allowed):         # -> Names to find in a text as it is, {normalised name: name} to find in the normalised rest
        key = "all" if len(allowed) == len(self.special_tokens) else frozenset(allowed)
        if key not in self._sought_before:
            if len(self._sought_before) > 64:
                self._sought_before.clear()
            names = {*allowed, *self.words}
            others = {self._normal(name): name for name in names if self.flags.get(name, Flags()).normalized}
            self._sought_before[key] = self._names(names - {*others.values()}), others
        return self._sought_before[key]

    @cached_property
    def _sought_before(self):
        return {}

    @cached_property
    def _tokens(self):                  # {name: its id, (1,) uint32}; None: (0,)
        return {None: np.zeros(0, np.uint32)} | {name: np.array([i], np.uint32) for name, i in (self.special_tokens | self.words).items()}

    def _encode(self, texts, allowed, num_threads):     # -> [(n,) uint32], words and allowed special tokens found
        try:
            if not allowed and not self.words:
                return self._encoder.encode([self._normal(well_formed(text)) for text in texts], num_threads)
            each = [list(self._between(text, allowed)) for text in texts]
            ordinary = iter(self._encoder.encode([text for parts in each for text, _ in parts], num_threads))
        except SlowPattern as error:
            raise ValueError(f"{self.name}: {error}" if self.name else str(error)) from None
        return [np.concatenate([ids for _, token in parts for ids in (next(ordinary), token)]) for parts in each]

    def _between(self, text, allowed):
        """Yields the text between added tokens, normalised, and the token behind it, (1,) or at the end (0,).

        As in tokenizers: first those that are looked for in the text as it is, then, in the normalised rest, the others, by their
        normalised names.
        """
        names, others = self._sought(allowed)
        for part, name in self._split(well_formed(text), names):
            part, token = self._normal(part), self._tokens[name]
            if others:
                *inside, (part, _) = self._split(part, names_of(frozenset(others)), others)
                yield from ((text, self._tokens[other]) for text, other in inside)
            yield part, token

    def _split(self, text, names, named=None):
        """Yields the text between names and the name behind it, at last the rest and None. named: {what is found: name}."""
        start = 0
        for at, name in names.find(text):
            end, name = at + len(name), named[name] if named else name
            flags = self.flags.get(name)
            if flags and flags.single_word and (regex.match(r"\w", text[max(0, at - 1):at]) or regex.match(r"\w", text[end:end + 1])):
                continue
            if flags and flags.lstrip:
                while at > start and text[at - 1] in WHITE:
                    at -= 1
                at = max(at, start)             # the name before may have taken it
            while flags and flags.rstrip and end < len(text) and text[end] in WHITE:
                end += 1
            yield text[start:at], name if at < end else None
            start = end
        yield text[start:], None

    def _normal(self, text):
        return normalized(self.normalize, text) if self.normalize else text

    def encode_ordinary(self, text):
        """Text to a list of ids; the names of special tokens are text like any other.

        Lone surrogates, which UTF-8 cannot hold, become U+FFFD. ValueError if the vocabulary lacks
        a character. What the pattern does not match is dropped, as in tiktoken.
        """
        return self._encode([text], (), 1)[0].tolist()

    def encode_many(self, texts, *, num_threads=cores.N_THREADS):          # [str] -> [(n,) uint32], of encode_ordinary
        return self._encode(list(texts), (), num_threads)

    @cached_property
    def _encoder(self):
        return Encoder(self.ranks, self.pattern, merge)

    def __reduce__(self):               # to pickle it: without what encoding remembers
        arguments = self.ranks, self.pattern, self.special_tokens, self.normalize, self.words, self.flags
        return Tokenizer, arguments, {"name": self.name}

    def encode_single_token(self, token):
        """The id of one whole token, str or bytes, special or not; KeyError if there is none."""
        data, added = token.encode("utf-8") if isinstance(token, str) else bytes(token), self.special_tokens | self.words
        if data in self.ranks:
            return self.ranks[data]
        return {name.encode("utf-8"): i for name, i in added.items()}[data]

    def decode(self, ids, errors="replace"):
        """Ids to text; `errors` as in bytes.decode, since a token may end inside a character."""
        return self.decode_bytes(ids).decode("utf-8", errors=errors)

    def decode_bytes(self, ids):
        """Ids to the exact bytes; KeyError, worded as tiktoken's, for an id that means nothing."""
        ids = ids if hasattr(ids, "__len__") else list(ids)
        try:
            if len(ids) >= MANY:
                array = np.asarray(ids)
                if array.ndim == 1 and array.dtype.kind in "iu" and array.max() < self.n_vocab:
                    parts = np.array_split(array.astype(np.int64), len(array) // MANY)
                    return b"".join(map(self._spell, parts))
            ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
            return b"".join(map(self._bytes_of.__getitem__, ids))
        except KeyError as error:
            raise KeyError(f"Invalid token for decoding: {error.args[0]}") from None

    @cached_property
    def _spelling(self):                # (n_vocab,) each: the first 8 bytes of every token, the next 7, how many it has; 0: a hole
        length = np.array(list(map(len, self.token_bytes)), np.int64)
        data = np.frombuffer(b"".join(self.token_bytes) + bytes(SURE + 1), np.uint8)
        low, high = words_of(data, np.cumsum(length) - length, np.minimum(length, SURE))
        return low, high & np.uint64(2**56 - 1), length

    def _spell(self, ids):              # (n,) int64 -> (m,) uint8
        """Every token is written 8 bytes long, and the next one over what was too much. The second 8 bytes of long ones come
        before, as they begin behind all of that; the few beyond 15 bytes come last."""
        low, high, length = self._spelling
        n = length.take(ids, mode="clip")
        if ids.min() < 0 or ids.max() >= self.n_vocab or not n.all():
            raise KeyError(next(i for i in ids.tolist() if i not in self._bytes_of))
        ends = np.cumsum(n)
        begin, out = ends - n, np.empty(ends[-1] + 16, np.uint8)
        words = np.ndarray(len(out) - 7, "<u8", out, 0, (1,))           # the one at each byte
        long = np.flatnonzero(n > 8)
        words[begin[long] + 8] = high.take(ids[long])
        words[begin] = low.take(ids)
        for i in np.flatnonzero(n > SURE).tolist():
            out[begin[i]:ends[i]] = np.frombuffer(self.token_bytes[ids[i]], np.uint8)
        return out[:ends[-1]]

    def decode_single_token_bytes(self, token):
        return self._bytes_of[token]

    def decode_tokens_bytes(self, ids):
        return [self._bytes_of[i] for i in ids]

    def decode_batch(self, batch, errors="replace", *, num_threads=1):
        """decode of each. num_threads is tiktoken's, and changes nothing: one thread decodes faster than Python shares out lists."""
        return [self.decode(ids, errors) for ids in batch]

    def decode_bytes_batch(self, batch, *, num_threads=1):
        return list(map(self.decode_bytes, batch))

    def decode_with_offsets(self, ids):
        """The text, and for each id the character it begins in. A token that begins inside of a character counts to that."""
        tokens, offsets, n = self.decode_tokens_bytes(ids), [], 0
        for token in tokens:
            offsets.append(max(0, n - (0x80 <= token[0] < 0xC0)))
            n += sum(not 0x80 <= b < 0xC0 for b in token)
        return b"".join(tokens).decode("utf-8"), offsets

    def encode_ordinary_batch(self, text, *, num_threads=cores.N_THREADS):
        return [ids.tolist() for ids in self.encode_many(text, num_threads=num_threads)]

    def _unstable(self, text, allowed):
        """(ids of the text, how many at its end hang on what may follow), as tiktoken counts: those of the last piece, and if that begins
        with white space, of the white space before it. Behind a special token there are none."""
        *parts, (rest, _) = self._between(text, allowed) if allowed or self.words else [(self._normal(well_formed(text)), None)]
        ids, pieces = self._encode([text], allowed, 1)[0].tolist(), self._encoder.find(rest)
        tail = 1
        if self.pattern in (PATTERNS["gpt2"], PATTERNS["cl100k"]):      # tiktoken's form of these takes white space at the end as one piece
            while tail < len(pieces) and not (pieces[-tail] + pieces[-tail - 1]).strip(WHITE):
                tail += 1
        n = sum(len(self._encoder.short[piece]) // 4 for piece in pieces[-tail:])
        while 0 < n < len(ids) and not (self._bytes_of[ids[-n]] + self._bytes_of[ids[-n - 1]]).strip(b" \n\t"):
            n += 1
        return ids, n

    def encode_bytes(self, data):
        """Any bytes to ids that decode to them. Where UTF-8 ends, the rest is merged as one piece with what may change in the ids before:
        tiktoken's _encode_bytes."""
        try:
            return self.encode_ordinary(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            ids, n = self._unstable(data[:error.start].decode("utf-8"), ())
            kept = len(ids) - n
            return ids[:kept] + self._encoder.one(self.decode_bytes(ids[kept:]) + data[error.start:])

    def encode_with_unstable(self, text, *, allowed_special=frozenset(), disallowed_special="all"):
        """(ids that stay, whatever follows the text; [ids of what may come behind them]), as in tiktoken.

        The rest of the text, the unstable bytes, is the beginning of each of those: of a token that begins so; of tokens for a part of it
        and one that begins with the other part, encoded anew; and, where it ends in white space, of the two cut in front of that.
        """
        ids, n = self._unstable(text, self._allowed([text], allowed_special, disallowed_special))
        stable, rest = ids[:len(ids) - n], self.decode_bytes(ids[len(ids) - n:])
        if not rest:
            return ids, []
        found, possible, texts = {(self.ranks[token],) for token in self._beginning_with(rest)}, [], []
        for i in range(1, len(rest)):
            for token in self._beginning_with(rest[i:]):
                try:
                    texts.append((rest[:i] + token).decode("utf-8"))
                except UnicodeDecodeError:
                    possible.append(self._encoder.one(rest[:i] + token))
        possible += map(np.ndarray.tolist, self.encode_many(texts, num_threads=1))
        for some in possible:
            ends = itertools.accumulate(len(self._bytes_of[i]) for i in some)
            found.add(tuple(some[:1 + sum(1 for _ in itertools.takewhile(lambda end: end < len(rest), ends))]))
        last = rest.decode("utf-8", "ignore")[-1:]
        if last.isspace() and rest.endswith(last.encode("utf-8")) and len(rest) > len(last.encode("utf-8")):
            cut = len(rest) - len(last.encode("utf-8"))
            found.add((*self._encoder.one(rest[:cut]), *self._encoder.one(rest[cut:])))
        return stable, sorted(map(list, found))

    def _beginning_with(self, data):                    # -> the tokens, without special ones, in order of their bytes
        tokens = self._sorted_tokens
        first = bisect.bisect_left(tokens, data)
        return tokens[first:bisect.bisect_left(tokens, True, first, key=lambda token: not token.startswith(data))]

    @cached_property
    def _sorted_tokens(self):
        return sorted(self.ranks)

    @property
    def max_token_value(self):
        return self.n_vocab - 1

    @property
    def special_tokens_set(self):
        return set(self.special_tokens)

    def is_special_token(self, token):
        return token in self.special_tokens.values()

    def token_byte_values(self):
        return list(self._sorted_tokens)

    @classmethod
    def train(cls, texts, vocab_size, pattern="digits", special_tokens=SPECIAL_TOKENS, ties="rustbpe", min_frequency=1, workers=1):
        """Learn a vocabulary of vocab_size ids in all: 256 bytes, merges, then the special tokens.

        texts: an iterable of str, each cut into pieces by itself and then forgotten; memory grows
        with the number of different pieces. ties, min_frequency: see learn_tokens. If pairs run out the vocabulary is
        smaller, and stderr says so. ValueError for an empty corpus or a vocab_size without room for the bytes.
        """
        if isinstance(texts, str):
            raise ValueError("texts: pass an iterable of documents, such as [text]")
        if ties not in TIES:
            raise ValueError(f"ties {ties!r}: one of {', '.join(TIES)}")
        n_tokens = vocab_size - len(special_tokens)
        if n_tokens < 256:
            raise ValueError(f"vocab_size {vocab_size}: vocabulary smaller than 256 bytes and "
                             f"{len(special_tokens)} special tokens")
        untrained = cls({bytes([b]): b for b in range(256)}, pattern, {})   # checks the pattern
        counts = count_pieces(texts, untrained.pattern, workers)
        if not counts:
            raise ValueError("cannot train on an empty corpus")
        tokens = learn_tokens(counts, n_tokens, ties, min_frequency)
        if len(tokens) < n_tokens:
            print(f"bpe.py: no pair{f' that comes {min_frequency} times' * (min_frequency > 1)} is left after {len(tokens) - 256:,} of {n_tokens - 256:,} "
                  f"merges; the vocabulary is smaller than {vocab_size:,}", file=sys.stderr)
        return cls({token: i for i, token in enumerate(tokens)}, pattern,
                   {name: len(tokens) + i for i, name in enumerate(special_tokens)})

    @classmethod
    def characters(cls, text):
        """One token a character, in code-point order, no specials: nanoGPT's shakespeare_char."""
        found = sorted(set(well_formed(text)))
        return cls({c.encode("utf-8"): i for i, c in enumerate(found)}, "characters", {})

    def save(self, path, end=None):
        """Write `NAME.tiktoken` (the ranks), `vocab.json` (GPT-2's files, merges.txt beside it) or another
        `NAME.json` (all, as Hugging Face's tokenizers reads it). Beside `tokenizer.json` and `vocab.json` comes a tokenizer_config.json, for
        transformers: end is the token behind which a model has no more to say (see vocabularies.roles)."""
        path = Path(path)
        if path.suffix not in (".tiktoken", ".json"):
            raise ValueError(f"{path}: a tokenizer's name ends in .tiktoken or .json")
        if path.suffix == ".tiktoken":
            vocabularies.write(path, vocabularies.ranks_file(self.ranks))
        elif path.name == "vocab.json":
            vocabularies.write_gpt2(path, self, merge, end)
        else:
            content = vocabularies.json_file(self, path)
            if path.name == "tokenizer.json":
                vocabularies.write(path.with_name("tokenizer_config.json"), vocabularies.config_file(self, end))
            vocabularies.write(path, content)

    @classmethod
    def load(cls, path, pattern=None, special_tokens=None, folder=None):
        """Read a tokenizer.json; a vocab.json with its merges.txt; a .tiktoken file together with what that does not hold; or
        a published encoding by its name, such as cl100k_base, from `folder` or where tiktoken keeps what it has fetched.

        For .tiktoken, pattern and special tokens are the arguments if given; else those of the
        .json of the same stem beside it, which must have the same ranks; else those that OpenAI
        publishes for a file of that name. ValueError if there is no pattern by then.
        """
        tokenizer = cls._read(path, pattern, special_tokens, folder)
        tokenizer.name = Path(path).stem if Path(path).stem in PUBLISHED else str(path)
        return tokenizer

    @classmethod
    def _read(cls, path, pattern, special_tokens, folder):
        path = Path(path)
        if str(path) in PUBLISHED and not path.is_file():
            published = PUBLISHED[str(path)]
            ranks = vocabularies.read_ranks(vocabularies.find(str(path), folder))
            return cls(ranks, pattern or published.pattern, published.special_tokens if special_tokens is None else special_tokens)
        if path.is_dir():
            names = [name for name in ("tokenizer.json", "vocab.json", "tokenizer.tiktoken") if (path / name).is_file()]
            path = path / (names or ["tokenizer.tiktoken"])[0]
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no tokenizer; make it with: "
                                    f"python bpe.py train --run {path.parent}")
        if path.suffix == ".json":
            if pattern is not None or special_tokens is not None:
                raise ValueError(f"{path}: brings its own pattern and special tokens; pass neither")
            read = vocabularies.read_gpt2 if path.name in ("vocab.json", "encoder.json") else vocabularies.read_json
            vocabulary = read(path, merge)
            try:
                return cls(*vocabulary)
            except ValueError as error:
                raise vocabularies.cannot_be_read(path, error) from None
        ranks, beside = vocabularies.read_ranks(path), path.with_suffix(".json")
        known = PUBLISHED.get(path.stem)
        known_pattern, known_specials, *rest = (known.pattern, known.special_tokens) if known else (None, {})
        if None in (pattern, special_tokens) and beside.is_file():
            other = vocabularies.read_json(beside, merge)
            if other.ranks != ranks:
                raise ValueError(f"{path}: has other ranks than {beside.name} beside it; make both "
                                 f"again with: python bpe.py train --run {path.parent}")
            known_pattern, known_specials, *rest = other[1:]
        pattern = known_pattern if pattern is None else pattern
        if pattern is None:
            raise ValueError(f"{path}: holds no pattern, and there is no {beside.name} beside it; "
                             f"pass pattern= (any regular expression, or {', '.join(PATTERNS)}) "
                             f"and special_tokens={{name: id}}")
        return cls(ranks, pattern, known_specials if special_tokens is None else special_tokens, *rest)


def well_formed(text):
    """A str that UTF-8 can hold: surrogate pairs become their character, lone ones U+FFFD."""
    if not isinstance(text, str):
        raise TypeError(f"a text is encoded, not a {type(text).__name__}: {repr(text)[:60]}")
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# ---- token shards --------------------------------------------------------------------------------

# llm.c's files: 256 int32, then the ids. Words 0..2 are magic, version and number of ids. We use
# three of the words that llm.c leaves unread: 3 is n_vocab, 4 and 5 the tokenizer's fingerprint.
SHARD_HEADER_BYTES = 1024
SHARD_KINDS = {(20240520, 1): np.dtype("<u2"), (20240801, 7): np.dtype("<u4")}

ShardInfo = namedtuple("ShardInfo", "n_tokens dtype n_vocab fingerprint")


def write_shard(path, ids, tokenizer=None):
    """ids (n,) of any integer type -> one shard, uint16 if the vocabulary fits, else uint32.

    Without a tokenizer the largest id decides, and n_vocab and fingerprint are written as zero.
    """
    ids, n_vocab, mark = np.asarray(ids), 0, "0" * 16
    if tokenizer is not None:
        n_vocab, mark = tokenizer.n_vocab, tokenizer.fingerprint
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not 0 < len(ids) < 2**31:
        raise ValueError(f"{path}: ids are {ids.dtype} {ids.shape}, a shard takes 1 to {2**31 - 1} "
                         f"integers")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= (n_vocab or 2**32):
        raise ValueError(f"{path}: ids {low} to {high} are not all in a vocabulary of {n_vocab}")
    kind, dtype = list(SHARD_KINDS.items())[(n_vocab or high + 1) > 2**16]
    header = np.zeros(SHARD_HEADER_BYTES // 4, "<i4")
    header[:4] = *kind, len(ids), n_vocab                   # kind is (magic, version)
    header[4:6] = np.frombuffer(bytes.fromhex(mark), "<i4")
    with whole_file(Path(path)) as file:
        file.write(header)
        file.write(ids.astype(dtype, copy=False))


def shard_info(path):
    """What a shard's header says, after checking that it fits the file; ValueError if not.

    n_vocab is 0 and fingerprint "0000000000000000" in shards that other programs wrote.
    """
    path = Path(path)
    remedy = f"make it with: python bpe.py encode --run {path.parent.parent}"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such shard; {remedy}")
    with open(path, "rb") as file:
        header = file.read(SHARD_HEADER_BYTES).ljust(SHARD_HEADER_BYTES, b"\0")
    magic, version, n_tokens, n_vocab = np.frombuffer(header, "<i4")[:4].tolist()
    if (magic, version) not in SHARD_KINDS:
        kinds = " or ".join(f"{magic} version {version}" for magic, version in SHARD_KINDS)
        raise ValueError(f"{path}: magic {magic} version {version} is no token shard's, which are "
                         f"{kinds}; {remedy}. Bare uint16 tokens, as nanoGPT writes them, are read by: python train.py --raw")
    if n_tokens < 1:
        raise ValueError(f"{path}: its header says {n_tokens} tokens; {remedy}")
    dtype, n_bytes = SHARD_KINDS[magic, version], path.stat().st_size
    expected = SHARD_HEADER_BYTES + n_tokens * dtype.itemsize
    if n_bytes != expected:
        raise ValueError(f"{path}: has {n_bytes} bytes, but its header's {n_tokens} tokens make "
                         f"{expected}; {remedy}")
    return ShardInfo(n_tokens, dtype, n_vocab, header[16:24].hex())


def open_shard(path, tokenizer=None):
    """The ids of a checked shard, a read-only memory map (n,), uint16 or uint32. tokenizer: the one it must have been made by, where
    its header says."""
    info = shard_info(path)
    if tokenizer and info.n_vocab and info.fingerprint != tokenizer.fingerprint:
        raise ValueError(f"{path}: made by another tokenizer ({info.fingerprint}) than this one ({tokenizer.fingerprint}); "
                         f"remake it with: python bpe.py encode --run {Path(path).parent.parent}")
    return np.memmap(path, info.dtype, "r", offset=SHARD_HEADER_BYTES, shape=(info.n_tokens,))


def check_ids(ids, n_vocab, path=None):
    """ValueError if one is beyond the vocabulary. path: where ids come from, if they are no memory map, which knows."""
    most = int(ids.max())
    if most >= n_vocab:
        raise ValueError(f"{getattr(ids, 'filename', path)}: token {most} is beyond the vocabulary of {n_vocab}")


# ---- documents and commands ----------------------------------------------------------------------

def input_files(args):
    docs = args.run / "docs"
    if not args.input:
        runs.check_settled(docs / ".new" / "shards", f"python data.py --run {args.run}")
    files = args.input or sorted(docs.glob("*.jsonl")) + sorted(docs.glob("*.jsonl.gz"))
    if not files:
        raise FileNotFoundError(f"{docs}: no documents; make them with: "
                                f"python data.py --run {args.run}")
    return files


def read_documents(path, val_percent=0):
    """Yield ("train" or "val", text) from a .txt, .jsonl or .jsonl.gz file.

    A line of jsonl is a document. It is val when SHA-256 of its id (of its text if it has none)
    says so, hence on the same side whatever stands around it. A .txt file is one document; the last
    val_percent of it, from the start of a line, is a second one, for val.
    """
    print(f"bpe.py: reading {path}", file=sys.stderr)
    n = 0
    try:
        if path.suffix == ".txt":
            text = path.read_bytes().decode("utf-8")
            cut = len(text) * (100 - val_percent) // 100
            if val_percent:
                cut = text.rfind("\n", 0, cut) + 1 or cut
            parts = ("train", text[:cut]), ("val", text[cut:])
            yield from (part for part in parts if part[1])
            return
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for n, line in enumerate(file, 1):
                if line.isspace():
                    continue
                document = json.loads(line)
                if not isinstance(document, dict) or not isinstance(document.get("text"), str):
                    raise ValueError(f'expected {{"text": "..."}}, found {line[:60]!r}')
                text = well_formed(document["text"])
                key = well_formed(str(document.get("id", text))).encode("utf-8")
                bucket = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") % 100
                yield "val" if bucket < val_percent else "train", text
    except (ValueError, RecursionError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}:{n}: cannot be read: {error}") from None


def train_command(args):
    files = input_files(args)
    texts = (text for path in files for _, text in read_documents(path))
    tokenizer = Tokenizer.train(texts, args.vocab_size, args.pattern, ties=args.ties, min_frequency=args.min_frequency, workers=args.workers)
    with runs.locked(args.run, "bpe.py train"):
        tokenizer.save(args.run / "tokenizer.tiktoken")
        tokenizer.save(args.run / "tokenizer.json")
    read, made = f"{len(files)} file(s) of documents", f"{tokenizer.n_vocab:,} tokens"
    longest = sorted(tokenizer.ranks, key=len)[-1].decode("utf-8", errors="replace")
    longest = longest[:40] + "..." * (len(longest) > 40)
    print(f"{'bpe':8} {read:32} {made:36} {runs.seconds_spent():5.0f} s   the longest {longest!r}")


def _encode_documents(tokenizer, eot, dtype, documents):
    each = tokenizer.encode_many([text for _, text in documents], num_threads=1)
    return [(split, np.concatenate([np.array(eot, dtype), ids.astype(dtype)]), len(text.encode("utf-8")))
            for (split, text), ids in zip(documents, each)]


def vocabulary_of(args, name=None):
    """The tokenizer that --vocab names, by default the run's."""
    name = name or args.vocab
    return Tokenizer.load(name, folder=args.ranks) if name else Tokenizer.load(args.run / "tokenizer.tiktoken")


def encode_command(args):
    """Each document begins with <|endoftext|>, if there is one, and may go on in the next shard.

    The ids of a split first gather in a nameless temporary file, so that memory holds one document
    or one shard. The shards are made in RUN/tokens/.new, and the old ones stay until all are there.
    Then they go, all of them before the first new one comes: shards of two ways to split would have
    the same documents in train and in val.
    """
    if not 0 <= args.val_percent < 100 or not 0 < args.shard_tokens < 2**31:
        raise ValueError(f"--val-percent {args.val_percent} must be 0 to 99, --shard-tokens "
                         f"{args.shard_tokens} 1 to {2**31 - 1}")
    files, tokenizer = input_files(args), vocabulary_of(args)
    dtype = np.dtype(np.uint16 if tokenizer.n_vocab <= 2**16 else np.uint32)
    eot = [tokenizer.eot_token] if "<|endoftext|>" in tokenizer.special_tokens else []
    folder, found, start = args.run / "tokens", Counter(), time.perf_counter()
    new = folder / ".new"
    with (runs.locked(folder, "bpe.py encode"), disk.naming(folder),
          tempfile.TemporaryFile(dir=folder) as train, tempfile.TemporaryFile(dir=folder) as val):
        runs.settle(new, folder)
        raw = {"val": val, "train": train}
        documents = (document for path in files for document in read_documents(path, args.val_percent))
        batches = batches_of(documents, lambda document: len(document[1]), 2**20)
        tokenizer._encoder.prepare()
        for batch in in_processes(functools.partial(_encode_documents, tokenizer, eot, dtype), batches, args.workers):
            for split, ids, n_bytes in batch:
                raw[split].write(ids)
                found[f"{split} documents"] += 1
                found[f"{split} tokens"] += len(ids)
                found["bytes"] += n_bytes
            seconds = time.perf_counter() - start
            if seconds > 2:
                print(f"\rencode: {found['train documents'] + found['val documents']:,} documents, {found['bytes'] / 1e6:,.0f} MB, "
                      f"{found['bytes'] / 1e6 / seconds:.1f} MB/s ", end="", file=sys.stderr, flush=True)
        if time.perf_counter() - start > 2:
            print(file=sys.stderr)
        if not found["bytes"]:
            raise ValueError(f"{files[0]}: no text in the input")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            for split, file in raw.items():
                n_shards = -(-found[f"{split} tokens"] // args.shard_tokens)
                for k in range(n_shards):
                    file.seek(k * args.shard_tokens * dtype.itemsize)
                    ids = np.fromfile(file, dtype, args.shard_tokens)
                    write_shard(new / f"{split}_{k:06d}.bin", ids, tokenizer)
                if not n_shards:
                    print(f"bpe.py: no {split} documents, so no {split} shard", file=sys.stderr)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        old = [path.name for path in folder.iterdir() if regex.fullmatch(r"(train|val)_\d{6,}\.bin", path.name)]
        runs.publish(new, folder, "train_000000.bin", old)
    seconds, n_tokens = time.perf_counter() - start, found["train tokens"] + found["val tokens"]
    read = f"{found['train documents'] + found['val documents']:,} documents, {found['bytes'] / 1e6:.1f} MB"
    made = f"{found['train tokens']:,} + {found['val tokens']:,} tokens"
    print(f"{'tokens':8} {read:32} {made:36} {seconds:5.0f} s   {found['bytes'] / n_tokens:.3f} bytes a token, "
          f"{found['bytes'] / 1e6 / seconds:.1f} MB/s")


def decode_command(args):
    if not args.ids and sys.stdin is None:
        raise ValueError("stdin is closed; give the ids as arguments")
    path = args.vocab or args.run / "tokenizer.tiktoken"
    tokenizer, ids = vocabulary_of(args), args.ids or sys.stdin.read().split()
    for word in ids:
        if not word.isdecimal():
            raise ValueError(f"{word[:60]!r} is no token id; ids are whole numbers")
    try:
        print(tokenizer.decode(map(int, ids)))
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]}") from None


EXAMPLES = (
    (" hello  world", "a space belongs to the word behind it; of two, the first stands alone"),
    ("hello world helloworld HELLO WORLD", "a word is another token with a space before it, without one, in capitals"),
    ("1 12 123 1234 12345.67", "digits come in groups from the left, so the same digit is sometimes one of three, sometimes alone"),
    ("for i in range(3):\n        print(i)", "how many tokens the spaces of a program cost"),
    ("Egg. I have an Egg. egg. EGG.", "four ways to write a word"),
    ("안녕하세요 naïve", "other scripts take more tokens for the same"),
    ("🙂 👩\u200d🚀", "an emoji is several tokens, none of them a character"))


def segments(tokenizer, ids):
    """[(text, ids)]: tokens, and where characters are spread over several those together."""
    found, part, text, decoder = [], [], "", codecs.getincrementaldecoder("utf-8")()
    for n, i in enumerate(ids):
        part.append(i)
        try:
            text += decoder.decode(tokenizer.decode_bytes([i]))
        except UnicodeDecodeError:                      # no UTF-8, whatever follows
            return found + [(tokenizer.decode(part + ids[n + 1:]), part + ids[n + 1:])]
        if not decoder.getstate()[0]:                   # no character is unfinished
            found.append((text, part))
            part, text = [], ""
    return found + [(tokenizer.decode(part), part)] * bool(part)


def merge_steps(ranks, piece):
    """Yield the parts of a piece (bytes): single bytes at first, then after every merge; and the rank of what was merged."""
    parts = [piece[i:i + 1] for i in range(len(piece))]
    yield parts, None
    while True:
        found = [(ranks[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in ranks]
        if not found:
            return
        rank, i = min(found)
        parts = [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2:]]
        yield parts, rank


def show_text(tokenizer, text, colour, steps):
    ids = tokenizer.encode(text, allowed_special="all")
    found, shown = segments(tokenizer, ids), []
    for k, (part, _) in enumerate(found):
        part = command.printable(part.replace("\n", "\\n\n"))
        if colour:
            part = f"\x1b[30;48;5;{(153, 223, 194, 217, 189, 229)[k % 6]}m{part}\x1b[0m"
        shown.append(part)
    print(("" if colour else "|").join(shown), file=command.uncensored(sys.stdout))
    print(" ".join("+".join(map(str, some)) for _, some in found))
    if steps:
        for piece in finder(tokenizer.pattern)(text):
            print(f"  {piece!r}")
            for parts, rank in merge_steps(tokenizer.ranks, spelled(piece, tokenizer.pattern)):
                shown = " ".join(part.decode("utf-8", "backslashreplace").replace(" ", "␣").replace("\n", "\\n") for part in parts)
                print(f"    {'bytes' if rank is None else f'rank {rank}':>12}  {shown}")
    return ids


def show_command(args):
    """A text's tokens; without a text, some that explain what tokens are."""
    tokenizers = {name or str(args.run / "tokenizer.tiktoken"): vocabulary_of(args, name) for name in args.vocab or [None]}
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for text, why in EXAMPLES if args.text is None else [(args.text, None)]:
        if why:
            print(f"{why}:")
        rows = []
        for name, tokenizer in tokenizers.items():
            if len(tokenizers) > 1:
                print(f"{name}:")
            ids = show_text(tokenizer, text, colour, args.steps)
            n_bytes = len(well_formed(text).encode("utf-8"))
            rows.append(f"{name:32}{len(text):12,}{n_bytes:9,}{len(ids):9,}{n_bytes / max(len(ids), 1):18.2f}")
        if len(tokenizers) > 1 or not why:
            print(f"{'':32}{'characters':>12}{'bytes':>9}{'tokens':>9}{'bytes a token':>18}", *rows, sep="\n")
        if why:
            print()


def parse_args(argv=None):
    parser = argparse.ArgumentParser(prog="bpe.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def subcommand(function, text):
        sub = commands.add_parser(function.__name__.split("_")[0], help=text, description=text)
        sub.add_argument("--run", type=Path, metavar="DIR", help="folder of the run (default: out/demo)")
        sub.set_defaults(function=function)
        return sub

    train = subcommand(train_command, "learn a vocabulary from documents")
    encode = subcommand(encode_command, "turn documents into token shards")
    for sub in (train, encode):
        sub.add_argument("--input", type=Path, nargs="+", metavar="FILE",
                         help=".txt, .jsonl or .jsonl.gz files (default: those in RUN/docs)")
        sub.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (default: one per CPU)")
    train.add_argument("--ties", choices=TIES, default="rustbpe", help="which of the most frequent pairs is merged: as these do (default: %(default)s)")
    train.add_argument("--min-frequency", type=int, default=1, metavar="N", help="a pair must come so often (default: %(default)s)")
    train.add_argument("--vocab-size", type=int, default=1024, metavar="N",
                       help="number of ids, special tokens included (default: %(default)s)")
    train.add_argument("--pattern", choices=PATTERNS, default="digits",
                       help="how text is cut before merging (default: %(default)s)")
    encode.add_argument("--shard-tokens", type=int, default=100_000_000, metavar="N",
                        help="tokens in a full shard (default: %(default)s)")
    encode.add_argument("--val-percent", type=int, default=5, metavar="P",
                        help="per cent of documents for validation, chosen by a hash of the id; of "
                             "a .txt file, its last lines (default: %(default)s)")
    decode = subcommand(decode_command, "turn ids back into text")
    decode.add_argument("ids", nargs="*", metavar="ID", help="token ids (default: from stdin)")
    show = subcommand(show_command, "print the tokens of a text, special tokens recognised; without one, some examples")
    show.add_argument("text", nargs="?", metavar="TEXT")
    show.add_argument("--steps", action="store_true", help="the merges that made them, one at a time")
    for sub in (encode, decode, show):
        sub.add_argument("--vocab", metavar="NAME", **({"nargs": "+"} if sub is show else {}),
                         help=f"a tokenizer.json, vocab.json or .tiktoken, or {', '.join(PUBLISHED)} (default: the run's tokenizer)")
        sub.add_argument("--ranks", type=Path, metavar="DIR", help="folder of the published .tiktoken files (default: tiktoken's cache)")
    args = parser.parse_args(argv)
    vocab = getattr(args, "vocab", None) or []
    names = [vocab] if isinstance(vocab, str) else vocab
    if args.run is not None and names and args.function in (decode_command, show_command):
        parser.error(f"--run {args.run}: would have no effect, --vocab names the tokenizer")
    if getattr(args, "ranks", None) is not None and not any(name in PUBLISHED for name in names):
        parser.error(f"--ranks {args.ranks}: would have no effect without a --vocab of {', '.join(PUBLISHED)}")
    if args.run is None:
        args.run = Path("out/demo")
    for option in ("workers", "min_frequency"):
        if getattr(args, option, 1) < 1:
            parser.error(f"--{option.replace('_', '-')} {getattr(args, option)}: at least 1")
    return args


def main(argv=None):
    args = parse_args(argv)
    runs.start_clock()
    try:
        if sys.stdout is None:
            raise ValueError("stdout is closed, and the results go there")
        args.function(args)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"bpe.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    command.run(main, error_status=2, data=True)
