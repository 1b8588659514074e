"""The words of a text as numbers, for data.py's rules, and the rules of FineWeb v1.

    Words, parts_of         data.Words and data.parts_of, faster
    WordsOfV1, parts_of_v1  the same as FineWeb v1 counted them
    fineweb_quality_v1      data.fineweb_quality as FineWeb v1 had it

Every different piece between white space is split once, then remembered with its words. A text
becomes an array with a number for each word, equal for equal words. What the rules ask of a word
stands in arrays, so that a rule is a few sums. On the documents of the demo, Gopher's rules take
0.35 of the time that they take with data.Words and data.parts_of.

FineWeb v1 was made with datatrove 0.2 (April 2024). What differed, and --fineweb v1 brings back:

                        datatrove 0.10, the default             v1
    gopher_repetition   blank lines are no lines                blank lines repeat each other
    gopher_quality      two different stop words                two stop words, also the same twice
                        152 more marks are symbols
    fineweb_quality     blank lines do not count                they count
                        a line ends in . ! ? or another mark    in . ! ? ' or "
                        drops < 0.12, > 0.67, > 0.01            <= 0.12, >= 0.67, >= 0.01
    redact (pii.py)     e-mail addresses                        those in lower case
    minhash (dedup.py)  punctuation becomes a space             it is deleted

datatrove 0.3 has v1's fineweb_quality and stop words, 0.4 only its stop words. v1's words and
sentences were NLTK's; here they are spaCy's in both. With them, 98.1 % of 1,140 texts of 19 kinds
are kept or dropped as by datatrove 0.2 with NLTK 3.10 (measured once), and all of them as by
datatrove 0.2 with our words (tests/peers/test_data_peers.py).
"""

import array
import itertools
from functools import cached_property, lru_cache

import numpy as np

from web.words import PUNCTUATION, SYMBOLS, split_piece

# What a word is, in bits. OLD_SYMBOL: a symbol to FineWeb v1.
SYMBOL, OLD_SYMBOL, ALPHABETIC, STOP = 1, 2, 4, 8
STOP_WORDS = frozenset("the be to of and that have with".split())
FACTOR = 0x9E3779B97F4A7C15                         # odd, so that it has an inverse modulo 2^64
FEW = 50                                            # n-grams that are looked at one by one
SHORTEST = 5                                        # words of the shortest n-grams that are scanned


def kind_of(word):
    """The bits of a word."""
    if word.isascii() and word.isalpha():           # nearly every word
        return ALPHABETIC | STOP if word in STOP_WORDS else ALPHABETIC
    kind = ALPHABETIC if any(map(str.isalpha, word)) else 0
    if SYMBOLS.issuperset(word):
        kind |= SYMBOL
    if PUNCTUATION.issuperset(word):
        kind |= OLD_SYMBOL
    return kind


class Vocabulary:
    """The pieces between white space met so far, and their words, as numbers.

    piece 7 has the words in_pieces[first[7]:first[7] + count[7]]; word 9 has length[9] characters
    and the bits kind[9]. A vocabulary that grew too large is begun anew: no result depends on it.
    """

    MOST, MOST_CHARS = 1 << 20, 1 << 25             # pieces, and characters of them

    def __init__(self):
        self.n_chars = 0
        self.pieces, self.words = {}, {}            # piece -> its number; word -> its number
        self.first, self.count = array.array("i"), array.array("i")
        self.in_pieces = array.array("i")
        self.length, self.kind = array.array("i"), array.array("B")

    def numbers(self, pieces):
        """The number of each piece, (pieces,) int32."""
        try:
            return np.fromiter(map(self.pieces.__getitem__, pieces), np.int32, len(pieces))
        except KeyError:                            # some are new
            self.learn(pieces)
        return np.fromiter(map(self.pieces.__getitem__, pieces), np.int32, len(pieces))

    def learn(self, pieces):
        """Give numbers to those of the pieces that have none, and to their words."""
        new = [piece for piece in dict.fromkeys(pieces) if piece not in self.pieces]
        split = list(map(split_piece, new))
        words = list(itertools.chain.from_iterable(split))
        unknown = [word for word in dict.fromkeys(words) if word not in self.words]
        self.words.update(zip(unknown, itertools.count(len(self.words))))
        self.length.extend(map(len, unknown))
        self.kind.extend(map(kind_of, unknown))

        counts = list(map(len, split))
        starts = itertools.accumulate(counts[:-1], initial=len(self.in_pieces))
        self.pieces.update(zip(new, itertools.count(len(self.pieces))))
        self.first.extend(starts)
        self.count.extend(counts)
        self.in_pieces.extend(map(self.words.__getitem__, words))
        self.n_chars += sum(map(len, new))


vocabulary = Vocabulary()


class Words:
    """data.Words as arrays. ids: equal numbers for equal words; length, kind of each: (n,)."""

    SYMBOL = SYMBOL

    def __init__(self, text):
        global vocabulary
        if (len(vocabulary.pieces) > vocabulary.MOST
                or vocabulary.n_chars > vocabulary.MOST_CHARS):
            vocabulary = Vocabulary()
        v, self.pieces = vocabulary, text.split()
        numbers = v.numbers(self.pieces)
        # Arrays that grow must not be viewed for long: indexing by an array copies.
        first = np.frombuffer(v.first, np.int32)[numbers]
        count = np.frombuffer(v.count, np.int32)[numbers]
        before = np.cumsum(count) - count           # words in the pieces before each
        where = np.repeat(first - before, count) + np.arange(count.sum())
        self.ids = np.frombuffer(v.in_pieces, np.int32)[where]
        self.length = np.frombuffer(v.length, np.int32)[self.ids]
        self.kind = np.frombuffer(v.kind, np.uint8)[self.ids]
        self.joined = None

    def __len__(self):
        return len(self.ids)

    @cached_property
    def real(self):
        """Lengths of the words that are no symbols, (n_real,)."""
        return self.length[(self.kind & self.SYMBOL) == 0]

    @property
    def n_real(self):
        """Words that are no symbols."""
        return len(self.real)

    @property
    def mean_length(self):
        """Characters of an average word that is no symbol."""
        return int(self.real.sum()) / max(1, self.n_real)

    @property
    def n_alphabetic(self):
        """Words with a letter in them."""
        return int(np.count_nonzero(self.kind & ALPHABETIC))

    @property
    def n_stop_words(self):
        """Different stop words."""
        return len(set(self.ids[(self.kind & STOP) > 0].tolist()))

    def top_ngram_chars(self, n):
        """The length of the most frequent n-gram times its count."""
        n_grams = len(self) - n + 1
        if n_grams < 1:
            return 0
        ids = self.ids.astype(np.uint64)
        numbers = ids[:n_grams].copy()              # of n-grams, equal for equal ones
        for k in range(1, n):
            numbers *= np.uint64(FACTOR)
            numbers += ids[k:n_grams + k]
        inorder = np.sort(numbers)
        first = np.flatnonzero(inorder[1:] != inorder[:-1]) + 1     # of each run of equal numbers
        first = np.concatenate([[0], first, [n_grams]])
        counts = first[1:] - first[:-1]
        count, i = int(counts.max()), 0
        if count > 1:                               # of equally frequent ones the first in the text
            most = inorder[first[:-1][counts == count]]
            nearest = most[np.minimum(np.searchsorted(most, numbers), len(most) - 1)]
            i = int((nearest == numbers).argmax())
        return (int(self.length[i:i + n].sum()) + n - 1) * count

    def duplicate_ngram_chars(self, n):
        """Characters in n-grams seen before. Scans only n-grams that come again, nearly none."""
        if self.joined is None:
            self.joined = Joined(self.pieces, self.length)
        seen, chars, free = set(), 0, 0
        for i, begin, end in self.joined.repeated(n):
            if i >= free:
                n_gram = self.joined.text[begin:end]
                if n_gram in seen:
                    chars, free = chars + len(n_gram), i + n
                seen.add(n_gram)
        return chars


class WordsOfV1(Words):
    """Words as FineWeb v1 counted them: fewer symbols; the same stop word counts twice."""

    SYMBOL = OLD_SYMBOL

    @property
    def n_stop_words(self):
        """Stop words, each time that they come."""
        return int(np.count_nonzero(self.kind & STOP))


words_of = lru_cache(maxsize=2)(Words)              # one rule after the other asks of the same text
words_of_v1 = lru_cache(maxsize=2)(WordsOfV1)


@lru_cache(maxsize=8)
def powers(n):
    """FACTOR^i and FACTOR^-i modulo 2^64 for i < n, (n,) uint64 each."""
    found = []
    for base in (FACTOR, pow(FACTOR, -1, 1 << 64)):
        found.append(np.cumprod(np.array([1] + [base] * (n - 1), np.uint64)))
    return found


def come_again(numbers):
    """Which numbers are there more than once: (n,) uint64 -> (n,) bool."""
    again = np.zeros(len(numbers), bool)
    order = np.argsort(numbers, kind="stable")
    inorder = numbers[order]
    same = np.flatnonzero(inorder[1:] == inorder[:-1])
    again[order[same]] = again[order[same + 1]] = True
    return again


class Joined:
    """A text's words without spaces, where equal stretches have equal numbers.

    Characters c0 c1 c2 ... are digits: sums[k] is c0 + c1 F + ... + c(k-1) F^(k-1) modulo 2^64, so
    that the stretch from i to j has the number (sums[j] - sums[i]) / F^i, wherever it stands.
    """

    def __init__(self, pieces, length):
        self.text = "".join(pieces)
        self.starts = starts = np.zeros(len(length) + 1, np.int64)      # of words, and the end
        np.cumsum(length, out=starts[1:])
        codes = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), np.uint32)
        up, down = powers(1 << max(12, (len(codes) + 1).bit_length()))
        sums = np.zeros(len(codes) + 1, np.uint64)
        np.cumsum(codes * up[:len(codes)], out=sums[1:])
        self.sums, self.down = sums[starts], down[starts]
        # An n-gram that comes again also comes again in its first characters, as many as the
        # shortest one has. `likely` are the words where such a stretch begins: nearly none.
        shortest = (starts[SHORTEST:] - starts[:-SHORTEST]).min(initial=len(codes))
        n = np.searchsorted(starts, len(codes) - shortest, "right")
        numbers = (sums[starts[:n] + shortest] - self.sums[:n]) * self.down[:n]
        self.likely = np.flatnonzero(come_again(numbers))

    def repeated(self, n):
        """(first word, begin, end) of all n-grams that come more than once, in order.

        If few are likely, there may be others among them: looking at these costs less.
        """
        i = self.likely[self.likely < len(self.starts) - n]
        if len(i) > FEW:
            i = i[come_again((self.sums[i + n] - self.sums[i]) * self.down[i])]
        return zip(i.tolist(), self.starts[i].tolist(), self.starts[i + n].tolist())


def parts_of(text):
    """data.parts_of without expressions, in a sixth of the time."""
    paragraphs, lines = [text.strip()], text.split("\n")
    if "\n\n" in text:
        found = [part.lstrip("\n") for part in paragraphs[0].split("\n\n")]
        paragraphs = [part for part in found if part] or [""]
        lines = [line for line in lines if line]
        lines += [""] * (text.startswith("\n") + text.endswith("\n"))
    return paragraphs, lines


# ------------------------------------------------------------------------------- the rules of v1


def parts_of_v1(text):
    """data.parts_of in v1, where blank lines are lines."""
    return parts_of(text)[0], text.splitlines()

ENDS = (".", "'", '"', "!", "?")


def fineweb_quality_v1(text, words_of=words_of_v1):
    """FineWeb's rules in v1: blank lines count, and a value at its limit drops the text."""
    lines = text.split("\n")
    filled = [line for line in lines if line.strip()]
    if not filled:
        return None, "line_punct_ratio"
    if sum(line.endswith(ENDS) for line in lines) / len(lines) <= 0.12:
        return None, "line_punct_ratio"
    if sum(len(line) <= 30 for line in lines) / len(lines) >= 0.67:
        return None, "short_line_ratio"
    repeated = len("".join(filled)) - len("".join(dict.fromkeys(filled)))
    if repeated / len(text.replace("\n", "")) >= 0.01:
        return None, "char_dup_ratio"
    if text.count("\n") / len(words_of(text)) > 0.3:
        return None, "list_ratio"
    return text, None
