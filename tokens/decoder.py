"""decoder.py: the fast twin of bpe.decode, for long arrays of ids.

A list of ids is decoded by a dict and one join. For an array of 32,768 ids or more, arrays are
three times as fast. Each token is written as one word of 8 bytes, from the left, and the next one over
what was too much:

    tokens              " the" " cat"
    first written       20 74 68 65 00 00 00 00
    then                20 74 68 65 20 63 61 74 00 00 00 00
"""

from functools import cached_property

import numpy as np

from tokens.hashtable import SURE, words_of

MANY = 2**15            # ids from which arrays pay


class Decoder:
    """Ids to bytes. token_bytes[id] is the bytes of each id, b"" for an id that means nothing."""

    def __init__(self, bytes_of, token_bytes):
        self.bytes_of, self.token_bytes = bytes_of, token_bytes     # bytes_of: {id: bytes}

    def decode(self, ids):
        """Ids to bytes; KeyError, worded as tiktoken's, for an id that means nothing."""
        ids = ids if hasattr(ids, "__len__") else list(ids)
        try:
            if len(ids) >= MANY:
                array = np.asarray(ids)
                n_vocab = len(self.token_bytes)
                if array.ndim == 1 and array.dtype.kind in "iu" and array.max() < n_vocab:
                    parts = np.array_split(array.astype(np.int64), len(array) // MANY)
                    return b"".join(map(self.write, parts))
            ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
            return b"".join(map(self.bytes_of.__getitem__, ids))
        except KeyError as error:
            raise KeyError(f"Invalid token for decoding: {error.args[0]}") from None

    @cached_property
    def words(self):
        """(n_vocab,) each: the first 8 bytes of every token, the next 7, and how many it has."""
        length = np.array(list(map(len, self.token_bytes)), np.int64)
        data = np.frombuffer(b"".join(self.token_bytes) + bytes(SURE + 1), np.uint8)
        low, high = words_of(data, np.cumsum(length) - length, np.minimum(length, SURE))
        return low, high & np.uint64(2**56 - 1), length

    def write(self, ids):
        """Ids (n,) int64 -> (m,) uint8, as drawn above.

        The second words of long tokens come first: they begin behind their first words, and would
        write over the next token. The few tokens of more than 15 bytes come last.
        """
        low, high, length = self.words
        n = length.take(ids, mode="clip")
        if ids.min() < 0 or ids.max() >= len(length) or not n.all():
            raise KeyError(next(i for i in ids.tolist() if i not in self.bytes_of))
        ends = np.cumsum(n)
        begin, out = ends - n, np.empty(ends[-1] + 16, np.uint8)
        word_at = np.ndarray(len(out) - 7, "<u8", out, 0, (1,))         # the word at each byte
        long = np.flatnonzero(n > 8)
        word_at[begin[long] + 8] = high.take(ids[long])
        word_at[begin] = low.take(ids)
        for i in np.flatnonzero(n > SURE).tolist():
            out[begin[i]:ends[i]] = np.frombuffer(self.token_bytes[ids[i]], np.uint8)
        return out[:ends[-1]]
