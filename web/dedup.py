"""Near-duplicates, found by MinHash: data.minhash and data.clusters for many documents.

data.py says what a signature is, and why 14 bands of 8 link texts that share 85 % of their shingles
and not those that share half. Here are the same functions, faster. web/matching.py applies them to
files of documents, band by band: same_keys finds the pairs of a band, and join unites the clusters
of each pair.

    python -m web.dedup sign ...        the commands on files, see web/dedup_steps.py

Words, formula, seeds and constants are datatrove 0.10's, so that signatures are equal bit for bit;
with version="v1" they are those of datatrove 0.2, which made FineWeb v1 (with NLTK's words, few of
whose rules act on text without punctuation). Of a band only a 64-bit key is kept: among a billion
documents 0.38 pairs are linked by mistake (14 bands, 5e17 pairs, 2^64 keys).

Sources: Broder 1997 (MinHash); Penedo et al. 2024 (FineWeb: 5-grams, 14 bands of 8); datatrove's
minhash.py.
"""

import functools
import hashlib
import re
import unicodedata

from model import cores  # noqa: F401   unused: its import, before NumPy's, sets BLAS threads
import numpy as np
import regex

from web import encoding
from web.words import PUNCTUATION, SPECIAL, UNITS, Memory, split_piece

SHINGLE, BANDS, ROWS = 5, 14, 8
MERSENNE = np.uint64((1 << 61) - 1)
NO_SIGNATURE = np.uint64(0xFFFFFFFFFFFFFFFF)                # minima are below 2^61
NUMBER = regex.compile(r"\p{Nd}+(?:[.,،٫⎖⎗⎘]\p{Nd}+)?")
# What is split of a normalized text in ASCII: doesnt -> does nt, 0km -> 0 km.
SPLIT = frozenset(piece for piece, words in SPECIAL.items() if len(words) > 1)
SPLIT_NUMBER = regex.compile(f"0(?:{'|'.join(UNITS)})(?![a-z0])")
MARK = re.compile(f"[{re.escape(''.join(sorted(PUNCTUATION)))}]")
DIGITS = re.compile(r"\d+")
OLD_MARKS = re.compile("[‘‒―`;]")                           # the last two come of Greek letters
OLD_WORDS = re.compile(
    r"\b(can(?=not\b)|gim(?=me\b)|gon(?=na\b)|got(?=ta\b)|lem(?=me\b)|wan(?=na(?:\s|\Z)))"
    r"(not|me|na|ta)")
DIGEST = np.dtype([("first", "<u8"), ("rest", "V12")])      # a SHA-1
AT_ONCE = 1 << 16               # documents whose paths are followed at once
BLOCK = 256                     # shingles times 112 numbers of 8 bytes: fits a core's cache

# -------------------------------------------------------------------------------------- signatures


@functools.cache
def permutations():
    """datatrove's multipliers and offsets, (112,) uint64 each: NumPy's old generator, seed 1."""
    rng, n = np.random.RandomState(1), BANDS * ROWS
    return rng.randint(1, MERSENNE, n, np.uint64), rng.randint(0, MERSENNE, n, np.uint64)


def normalize(text, version="0.10"):
    """The form in which documents are compared: lower case, numbers 0, no punctuation, no accents.

    "v1" deletes punctuation, which joins what stood at its sides: don't -> dont, 3.14 -> 0.
    """
    text = text.lower()
    if version == "v1":
        text = MARK.sub("", " ".join(text.split()))
    else:
        text = " ".join(MARK.sub(" ", NUMBER.sub("0", text)).split())
    if not text.isascii():
        text = unicodedata.normalize("NFD", encoding.stream_safe(text))
        marks = {ord(c): None for c in set(text) if unicodedata.category(c) == "Mn"}
        text = (text.translate(marks) if marks else text).strip()
    return DIGITS.sub("0", text).strip() if version == "v1" else text


words_in = Memory(lambda piece: " ".join(split_piece(piece)))


def split_v1(text):
    """The words of FineWeb v1, joined by spaces: NLTK's rules that act without punctuation."""
    text = OLD_MARKS.sub(r" \g<0> ", text)
    return " ".join(OLD_WORDS.sub(r" \g<1> \g<2> ", text).split())


def split(text):
    """The words of a normalized text, joined by spaces. In ASCII nearly no piece is split."""
    pieces = text.split()
    if text.isascii() and SPLIT.isdisjoint(pieces) and not SPLIT_NUMBER.search(text):
        return " ".join(pieces)
    return " ".join(map(words_in.__getitem__, pieces))


def shingle_hashes(text, version="0.10"):
    """The first 8 bytes of each shingle's SHA-1: a normalized text of T words -> (T-4,) uint64.

    Cuts all shingles out of one string, at its spaces, instead of joining five words for each.
    The bare SHA-1 takes half of the time.
    """
    text = split_v1(text) if version == "v1" else split(text)
    joined, sha1 = text.encode("utf-8", "surrogatepass"), hashlib.sha1
    spaces = np.flatnonzero(np.frombuffer(joined, np.uint8) == ord(" "))
    begins = [0, *(spaces + 1).tolist()]
    ends = [*spaces.tolist(), len(joined)][SHINGLE - 1:]
    digests = [sha1(joined[begin:end]).digest() for begin, end in zip(begins, ends)]
    return np.frombuffer(b"".join(digests), DIGEST)["first"]


def minhash(texts, version="0.10"):
    """data.minhash: n texts -> (n, 112) uint64, in a third of the time.

    Takes the shingles in blocks that stay in a core's cache, and the remainder modulo 2^61-1
    without a division: the low 61 bits plus the others, once less the modulus where that is not
    negative.
    """
    (a, b), n = permutations(), BANDS * ROWS
    signatures = np.full((len(texts), n), NO_SIGNATURE, np.uint64)
    x, y = np.empty((2, BLOCK, n), np.uint64)
    for row, text in zip(signatures, texts):
        hashes = shingle_hashes(normalize(text, version), version)
        for at in range(0, len(hashes), BLOCK):
            h = hashes[at:at + BLOCK, None]
            u, v = x[:len(h)], y[:len(h)]
            np.multiply(h, a, out=u)
            u += b
            np.right_shift(u, np.uint64(61), out=v)
            u &= MERSENNE
            u += v
            np.subtract(u, MERSENNE, out=v)                 # wraps to a huge number below zero
            np.minimum(u, v, out=u)
            np.minimum(row, u.min(0), out=row)
    return signatures


def band_keys(signatures):
    """A band's 8 minima as one number: (n, 112) uint64 -> (n, 14) uint64.

    A document without a signature has NO_SIGNATURE for each.
    """
    bands = signatures.reshape(-1, BANDS, ROWS)
    keys = np.zeros((len(signatures), BANDS), np.uint64)
    for j in range(ROWS):
        keys = (keys ^ bands[:, :, j]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    keys[signatures[:, 0] == NO_SIGNATURE] = NO_SIGNATURE
    return keys


# ---------------------------------------------------------------------------------------- clusters


def same_keys(keys):
    """Pairs of documents with the same key, (n,) -> two (m,) int64. k equal keys make k-1 pairs.

    Equal keys stand side by side in sorted order.
    """
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    same = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1])
    return order[same], order[same + 1]


def join(root, left, right):
    """Unite the clusters of the documents left[i] and right[i], for every i. Changes root in place.

    root (n,): of each document the earliest known one of its cluster.
    """
    while len(left):
        low = np.minimum(root[left], root[right])
        high = np.maximum(root[left], root[right])
        differ = low < high
        root[high[differ]] = low[differ]                    # hang later roots under earlier ones
        flatten(root)
        left, right = left[differ], right[differ]


def flatten(root):
    """Let every document point at the end of its path, in place. Paths lead to earlier documents.

    In blocks: those before a block are done, so only paths inside it need another round.
    """
    for start in range(0, len(root), AT_ONCE):
        block = root[start:start + AT_ONCE]
        while (root[block] != block).any():
            block[...] = root[block]


def clusters(keys):
    """data.clusters from band keys: (n, 14) uint64 -> (n,) int64, for millions of documents."""
    root = np.arange(len(keys))
    real = np.flatnonzero(keys[:, 0] != NO_SIGNATURE)
    for k in range(BANDS):
        left, right = same_keys(keys[real, k])
        join(root, real[left], real[right])
    return root


def in_index(keys, sorted_keys):
    """Which keys of a band stand in the sorted ones of earlier crawls: (n,), (m,) -> (n,) bool."""
    if not len(sorted_keys):
        return np.zeros(len(keys), bool)
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return (sorted_keys[at] == keys) & (keys != NO_SIGNATURE)


if __name__ == "__main__":
    from run import command
    from web import dedup_steps

    command.run(dedup_steps.main)
