"""tiktoken.py: the rest of tiktoken's methods, for programs that are written for it.

    from tokens.tiktoken import Encoding
    encoding = Encoding.load("cl100k_base", folder=...)

Names, arguments and results are those of tiktoken.Encoding. What train.py, sample.py and align.py
need is in bpe.Tokenizer itself.
"""

import bisect
import itertools
from functools import cached_property

import bpe
from tokens.added import WHITE
from tokens.patterns import PATTERNS, bytes_of


class Encoding(bpe.Tokenizer):
    """bpe.Tokenizer with all methods of tiktoken's Encoding."""

    # Single tokens.

    @property
    def max_token_value(self):
        """The largest id."""
        return self.n_vocab - 1

    @property
    def special_tokens_set(self):
        """The names of the special tokens."""
        return set(self.special_tokens)

    def is_special_token(self, token):
        """Whether an id is a special token's."""
        return token in self.special_tokens.values()

    @cached_property
    def sorted_tokens(self):
        """The bytes of all tokens that are not special, sorted."""
        return sorted(self.ranks)

    def token_byte_values(self):
        """A new list of them."""
        return list(self.sorted_tokens)

    def encode_single_token(self, token):
        """The id of one whole token, str or bytes, special or not; KeyError if there is none."""
        data = token.encode("utf-8") if isinstance(token, str) else bytes(token)
        if data in self.ranks:
            return self.ranks[data]
        return (self.special_tokens | self.words)[data.decode("utf-8", "backslashreplace")]

    def decode_single_token_bytes(self, token):
        """The bytes of one id."""
        return self.bytes_of[token]

    def decode_tokens_bytes(self, ids):
        """The bytes of each id."""
        return [self.bytes_of[i] for i in ids]

    # Many texts at once. num_threads: None for as many as there are cores.

    def encode_batch(self, text, *, num_threads=None, allowed_special=frozenset(),
                     disallowed_special="all"):
        """encode of each text of a list."""
        each = self.added.encode(self, text, num_threads, allowed_special, disallowed_special)
        return [ids.tolist() for ids in each]

    def encode_ordinary_batch(self, text, *, num_threads=None):
        """encode_ordinary of each text."""
        return [ids.tolist() for ids in self.encode_many(text, num_threads=num_threads)]

    def decode_batch(self, batch, errors="replace", *, num_threads=1):
        """decode of each list of ids. More threads would not make it faster."""
        return [self.decode(ids, errors) for ids in batch]

    def decode_bytes_batch(self, batch, *, num_threads=1):
        """decode_bytes of each list of ids."""
        return list(map(self.decode_bytes, batch))

    def decode_with_offsets(self, ids):
        """The text, and for each id the place of the character that it begins in."""
        tokens, offsets, n = self.decode_tokens_bytes(ids), [], 0
        for token in tokens:
            begins_inside = 0x80 <= token[0] < 0xC0             # of a character
            offsets.append(max(0, n - begins_inside))
            n += sum(not 0x80 <= b < 0xC0 for b in token)
        return b"".join(tokens).decode("utf-8"), offsets

    # Texts that may go on.

    def unstable(self, text, allowed):
        """(ids of the text, how many at its end may change when the text goes on).

        They are counted as in tiktoken: those of the last piece, and if that begins with white
        space, those of the white space before it. Behind a special token there are none.
        """
        *_, (rest, _) = self.added.between(text, allowed)
        ids = self.added.encode(self, [text], 1, allowed, ())[0].tolist()
        pieces, tail = self.encoder.find(rest), 1
        if self.pattern in (PATTERNS["gpt2"], PATTERNS["cl100k"]):
            # tiktoken's form of these takes white space at the end as one piece.
            while tail < len(pieces) and not (pieces[-tail] + pieces[-tail - 1]).strip(WHITE):
                tail += 1
        last = [bytes_of(piece, self.pattern) for piece in pieces[-tail:]]
        n = sum(len(self.encoder.encode_piece(piece)) for piece in last)
        while 0 < n < len(ids) and not self.decode_bytes(ids[-n - 1:][:2]).strip(b" \n\t"):
            n += 1
        return ids, n

    def encode_bytes(self, data):
        """Any bytes to ids that decode to them; tiktoken's _encode_bytes.

        Where UTF-8 ends, the rest is merged as one piece with the ids before it that may change.
        """
        try:
            return self.encode_ordinary(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            ids, n = self.unstable(data[:error.start].decode("utf-8"), frozenset())
            stays = len(ids) - n
            rest = self.decode_bytes(ids[stays:]) + data[error.start:]
            return ids[:stays] + self.encoder.encode_piece(rest)

    def encode_with_unstable(self, text, *, allowed_special=frozenset(), disallowed_special="all"):
        """(ids that stay, whatever follows the text; [ids of what may come behind them]).

        The unstable bytes, the rest of the text, are the beginning of each of these: of a token
        that begins so; of tokens for a part of the rest and one that begins with the other part,
        encoded anew; and, where the rest ends in white space, of the two parts cut before that.
        """
        allowed = self.added.allowed([text], allowed_special, disallowed_special)
        ids, n = self.unstable(text, allowed)
        stays = len(ids) - n
        stable, rest = ids[:stays], self.decode_bytes(ids[stays:])
        if not rest:
            return ids, []
        found = {(self.ranks[token],) for token in self.beginning_with(rest)}
        possible, texts = [], []
        for i in range(1, len(rest)):
            for token in self.beginning_with(rest[i:]):
                try:
                    texts.append((rest[:i] + token).decode("utf-8"))
                except UnicodeDecodeError:
                    possible.append(self.encoder.encode_piece(rest[:i] + token))
        possible += [ids.tolist() for ids in self.encode_many(texts, num_threads=1)]
        for ids in possible:                    # as many as it takes for the bytes of the rest
            ends = itertools.accumulate(len(self.bytes_of[i]) for i in ids)
            n_before = sum(end < len(rest) for end in ends)
            found.add(tuple(ids[:1 + n_before]))
        last = rest.decode("utf-8", "ignore")[-1:]
        end = last.encode("utf-8")
        if last.isspace() and rest.endswith(end) and len(rest) > len(end):
            before = rest[:-len(end)]
            found.add((*self.encoder.encode_piece(before), *self.encoder.encode_piece(end)))
        return stable, sorted(map(list, found))

    def beginning_with(self, data):
        """The tokens that begin with these bytes, without special ones, sorted."""
        tokens = self.sorted_tokens
        first = bisect.bisect_left(tokens, data)
        behind = bisect.bisect_left(tokens, True, first, key=lambda t: not t.startswith(data))
        return tokens[first:behind]
