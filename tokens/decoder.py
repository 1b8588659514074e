"""decoder.py: the fast twin of bpe.decode.

A few ids are decoded by a list of tokens and one join, twice as fast as by a dict. For many ids,
arrays are two to four times as fast as that. Each token is written as one word of 8 bytes, from the
left, and the next one over what was too much:

    tokens              " the" " cat"
    first written       20 74 68 65 00 00 00 00
    then                20 74 68 65 20 63 61 74 00 00 00 00
"""

from array import array
from functools import cached_property

import numpy as np

from tokens.hashtable import SURE, laid_out, words_at, words_of

MANY = 2**10            # ids from which arrays pay
TOGETHER = 2**15        # ids that are written together


def whole_numbers(ids):
    """ids as an array (n,) of integers; None if that would change one of them.

    array("I", ids) reads a list four times as fast as np.array, which looks at each id twice.
    """
    if isinstance(ids, list):
        try:
            return np.frombuffer(array("I", ids), np.uintc)
        except (TypeError, OverflowError):
            return None
    ids = np.asarray(ids)
    return ids if ids.ndim == 1 and ids.dtype.kind in "iu" and ids.max() < 2**63 else None


class Decoder:
    """Ids to bytes. token_bytes[id] is the bytes of each id, b"" for an id that means nothing."""

    def __init__(self, bytes_of, token_bytes):
        self.bytes_of, self.token_bytes = bytes_of, token_bytes     # bytes_of: {id: bytes}
        self.rows = bytes_of
        if len(token_bytes) < 2 * len(bytes_of):        # a list holds every id up to the largest
            # None for what is no id. A negative index counts from the end, where there is None too.
            self.rows = [token or None for token in token_bytes] + [None] * len(token_bytes)

    def decode(self, ids):
        """Ids to bytes; KeyError, worded as tiktoken's, for an id that means nothing."""
        if not hasattr(ids, "__len__"):
            ids = list(ids)
        try:
            if len(ids) >= MANY and (numbers := whole_numbers(ids)) is not None:
                parts = np.array_split(numbers, len(ids) // TOGETHER + 1)
                return b"".join(map(self.write, parts))
            if isinstance(ids, np.ndarray):
                ids = ids.tolist()
            try:
                return b"".join([self.rows[i] for i in ids])
            except (TypeError, IndexError):                 # an id is wrong: the dict finds it
                return b"".join([self.bytes_of[i] for i in ids])
        except KeyError as error:
            raise KeyError(f"Invalid token for decoding: {error.args[0]}") from None

    @cached_property
    def words(self):
        """(n_vocab,) each: the first 8 bytes of every token, the next 7, and how many it has."""
        data, begin, length = laid_out(self.token_bytes)
        low, high = words_of(data, begin, np.minimum(length, SURE))
        high &= np.uint64(2**56 - 1)                        # without the byte of the length
        return low, high, length

    def write(self, ids):
        """Ids (n,), of any integer type -> (m,) uint8, as drawn above.

        The second words of long tokens come first: they begin behind their first words, and would
        write over the next token. The few tokens of more than 15 bytes come last.
        """
        low, high, length = self.words
        ids = ids.astype(np.int64)
        n = length.take(ids, mode="clip")
        if ids.min() < 0 or ids.max() >= len(length) or not n.all():
            wrong = (i for i in ids.tolist() if i not in self.bytes_of)
            raise KeyError(next(wrong))
        ends = np.cumsum(n)
        begin = ends - n
        out = np.empty(ends[-1] + 16, np.uint8)
        words = words_at(out)
        long = np.flatnonzero(n > 8)
        words[begin[long] + 8] = high.take(ids[long])
        words[begin] = low.take(ids)
        for i in np.flatnonzero(n > SURE).tolist():
            token = self.token_bytes[ids[i]]
            out[begin[i]:ends[i]] = np.frombuffer(token, np.uint8)
        return out[:ends[-1]]
