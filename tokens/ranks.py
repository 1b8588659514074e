"""ranks.py: what a vocabulary is, whether it can be one, and the .tiktoken file of its ranks.

    NAME.tiktoken       a line a token: base64 of its bytes, a space, its rank. The file holds no
                        pattern and no special tokens

Source: tiktoken (load.py).
"""

import base64
import hashlib
import json
import numbers
from typing import NamedTuple

import numpy as np

from tokens.added import normalized
from tokens.patterns import shown, to_bytes

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


# ---- checks --------------------------------------------------------------------------------------

def check_ids(ids):
    """ValueError if an id is no whole number in the range of ids."""
    for i in ids:
        whole = type(i) is int or isinstance(i, numbers.Integral) and not isinstance(i, bool)
        if not whole or not 0 <= i < ID_LIMIT:
            raise ValueError(f"id {repr(i)[:60]} is no whole number from 0 to {ID_LIMIT - 1}")


def check(vocabulary):
    """{id: bytes} of a Vocabulary or Tokenizer; ValueError if it cannot be one.

    The bytes of an added token are its name.
    """
    ranks, normalize = vocabulary.ranks, vocabulary.normalize
    added = vocabulary.special_tokens | vocabulary.words
    if not ranks or "" in added or b"" in ranks:
        raise ValueError("a tokenizer needs at least one token, none of them empty, "
                         "and no special one named ''")
    check_ids([*ranks.values(), *added.values()])
    for name in added:
        if len(name) > LONGEST_NAME:
            raise ValueError(f"special token {shown(name)}: more than {LONGEST_NAME} characters")
    flags = vocabulary.flags.items()
    normal = [normalized(normalize, name) for name, flag in flags if flag.normalized]
    normalized(normalize, "\ufffd")                # a trial: it may fail or grow beyond use
    if "" in normal or len(set(normal)) < len(normal):
        raise ValueError("of the added tokens to be found in normalised text, one is empty when "
                         "it is normalised, or two are equal")
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
            number = int(rank) if rank.isdigit() else -1
            if not token or not 0 <= number < ID_LIMIT:
                raise ValueError
        except ValueError:
            raise ValueError(f"{path}:{n}: not base64 and a rank from 0 to {ID_LIMIT - 1}: "
                             f"{line[:60]!r}") from None
        if token in ranks or number in line_of:
            raise ValueError(f"{path}:{n}: token {shown(token)} or rank {number} "
                             f"is on line {line_of[ranks.get(token, number)]} too")
        ranks[token], line_of[number] = number, n
    if not ranks:
        raise ValueError(f"{path}: no ranks in it")
    return ranks


def ranks_file(ranks):
    """{bytes: rank} -> the contents of a .tiktoken file, in the order of the ranks."""
    in_order = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(b"%s %d\n" % (base64.b64encode(token), i) for token, i in in_order)
