"""ranks.py: what a vocabulary is, whether it can be one, and the .tiktoken file of its ranks.

    NAME.tiktoken       a line a token: base64 of its bytes, a space, its rank. The file holds no
                        pattern and no special tokens

Source: tiktoken (load.py).
"""

import base64
import hashlib
import itertools
import json
import numbers
from typing import NamedTuple

import numpy as np

from tokens.added import Flags, check_normalize, normalized
from tokens.patterns import BYTE_TO_CHARACTER, CHARACTER_TO_BYTE, check_cut

ID_LIMIT = 2**22        # ids are below this: a wrong one would make lists of gigabytes
LONGEST_NAME = 1000     # characters of an added token's name


class Vocabulary(NamedTuple):
    """What a file says of a tokenizer: the arguments of bpe.Tokenizer, described there."""
    ranks: dict
    pattern: str | tuple = None
    special_tokens: dict = {}
    normalize: str | tuple = None
    words: dict = {}
    flags: dict = {}


def shown(token):
    """A token for an error message: those of strangers may have a megabyte."""
    return repr(token[:60]) + "..." * (len(token) > 60)


# ---- tokens as characters ------------------------------------------------------------------------

def to_characters(token):
    """Bytes in GPT-2's alphabet: b" caf\\xc3\\xa9" -> "ĠcafÃ©"."""
    return token.decode("latin-1").translate(BYTE_TO_CHARACTER)


def to_bytes(word):
    """The bytes that a word in GPT-2's alphabet spells; ValueError if it has other characters."""
    try:
        return word.translate(CHARACTER_TO_BYTE).encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"token {shown(word)} is not byte-level") from None


# ---- checks --------------------------------------------------------------------------------------

def check_ids(ids):
    """ValueError if an id is no whole number in the range of ids."""
    for i in ids:
        whole = isinstance(i, numbers.Integral) and not isinstance(i, bool)
        if not whole or not 0 <= i < ID_LIMIT:
            raise ValueError(f"id {repr(i)[:60]} is no whole number from 0 to {ID_LIMIT - 1}")


def check(vocabulary):
    """{id: bytes} of a Vocabulary or Tokenizer; ValueError if it cannot be one.

    The bytes of an added token are its name.
    """
    ranks, added = vocabulary.ranks, vocabulary.special_tokens | vocabulary.words
    check_cut(vocabulary.pattern)
    check_normalize(vocabulary.normalize)
    if not ranks or "" in added or b"" in ranks:
        raise ValueError("a tokenizer needs at least one token, none of them empty, "
                         "and no special one named ''")
    check_names(added, vocabulary)
    check_ids(itertools.chain(ranks.values(), added.values()))
    bytes_of = {i: name.encode("utf-8") for name, i in added.items()}
    bytes_of |= {i: token for token, i in ranks.items()}
    n_tokens = len(ranks) + len(vocabulary.special_tokens) + len(vocabulary.words)
    for name, i in added.items():
        token = bytes_of[i]
        if ranks.get(token) == i and is_made(name, {token}):    # merges make it too: it counts once
            n_tokens -= 1
    if len(bytes_of) < n_tokens:
        raise ValueError(f"{n_tokens} tokens have only {len(bytes_of)} different ids")
    return bytes_of


def check_names(added, vocabulary):
    """ValueError if a name is too long, or if two cannot be told apart in a normalised text."""
    normal = []
    for name in added:
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            raise ValueError(f"special token {str(name)[:60]!r}: expected a text of up to "
                             f"{LONGEST_NAME} characters")
        if vocabulary.flags.get(name, Flags()).normalized:
            normal.append(normalized(vocabulary.normalize, name))
    if "" in normal or len(set(normal)) < len(normal):
        raise ValueError("of the added tokens to be found in normalised text, one is empty when "
                         "it is normalised, or two are equal")


def is_made(name, made):
    """Whether a name spells a single byte or one of `made`, the tokens that merges make."""
    try:
        token = to_bytes(name)
    except ValueError:
        return False
    return len(token) == 1 or token in made


def holes(tokenizer):
    """The ids below n_vocab that mean nothing, (n,) int64, ascending; mostly n = 0."""
    missing = [i for i in range(tokenizer.n_vocab) if i not in tokenizer.bytes_of]
    return np.array(missing, np.int64)


def fingerprint(tokenizer):
    """16 hexadecimal digits: 8 bytes of SHA-256 over ranks, pattern and added tokens."""
    rest = [tokenizer.pattern, sorted(tokenizer.special_tokens.items())]
    if tokenizer.normalize or tokenizer.words or tokenizer.flags:
        rest.append(tokenizer.normalize)
    if tokenizer.words or tokenizer.flags:
        rest += [sorted(tokenizer.words.items()), sorted(tokenizer.flags.items())]
    data = ranks_file(tokenizer.ranks) + json.dumps(rest).encode("utf-8")
    return hashlib.sha256(data).hexdigest()[:16]


# ---- .tiktoken -----------------------------------------------------------------------------------

def read_ranks(path):
    """.tiktoken -> {bytes: rank}; ValueError with file and line for a broken or doubled one."""
    ranks, line_of = {}, {}
    for n, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            token = base64.b64decode(token, validate=True)
            if not token or not rank.removeprefix(b"-").isdigit():
                raise ValueError
        except ValueError:
            raise ValueError(f"{path}:{n}: not base64 and a rank: {line[:60]!r}") from None
        number = int(rank) if len(rank) < 12 else -1
        if not 0 <= number < ID_LIMIT:
            raise ValueError(f"{path}:{n}: rank {rank[:20].decode()} is not 0 to {ID_LIMIT - 1}")
        if token in ranks or number in line_of:
            first = line_of[ranks.get(token, number)]
            raise ValueError(f"{path}:{n}: token {shown(token)} or rank {number} "
                             f"is on line {first} too")
        ranks[token], line_of[number] = number, n
    if not ranks:
        raise ValueError(f"{path}: no ranks in it")
    return ranks


def ranks_file(ranks):
    """{bytes: rank} -> the contents of a .tiktoken file, in the order of the ranks."""
    in_order = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(b"%s %d\n" % (base64.b64encode(token), i) for token, i in in_order)
