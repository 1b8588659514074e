"""pieces.py: text to pieces, with arrays in place of a regular expression.

Encoding takes a fifth of the time of the patterns for English, a third for 150 languages. A table
gives every character its kind. The kinds of its neighbours tell whether a piece begins there, for a
block of characters at a time.

    kinds       letters, digits, white space (newlines among it), others
    rule 1      a piece begins where the kind changes, and at the last white space of a run
    rule 2      but not behind what the pattern takes along: a space, or one mark before a word
    rule 3      newlines end a piece; digits come in threes or alone; 's 'll and the like are
                pieces; o200k cuts fooBar

    text        I t ' s   a l l   4 2 .         by the pattern "digits"
    rule 1      | . | | | | . . | | . |         | a piece begins here
    rule 2      | . | . | . . . | | . |
    rule 3      | . | . | . . . | | | |         It, 's, " all", " ", 4, 2 and the full stop

A few places depend on more than that, such as a combining mark behind punctuation. The words around
them are cut by the regular expression. So are all texts when the pattern is not in RULES.
"""

import itertools
from functools import cache
from typing import NamedTuple

import numpy as np
import regex

from tokens.patterns import PATTERNS, SPELLED, Split, bytes_of, finder


class Rules(NamedTuple):
    """What a pattern does, for starts()."""
    modern: bool = True         # since cl100k: any mark goes with a word, newlines end a piece,
                                # and 'S is like 's
    digits: int = 3             # at most so many together; 0: any number
    cases: bool = False         # o200k: fooBar is two pieces, don't is one, marks are letters


RULES = {
    PATTERNS["gpt2"]: Rules(modern=False, digits=0),
    PATTERNS["cl100k"]: Rules(),
    PATTERNS["gpt4"]: Rules(),
    PATTERNS["o200k"]: Rules(cases=True),
    PATTERNS["nanochat"]: Rules(digits=2),
    PATTERNS["digits"]: Rules(digits=1),
    PATTERNS["qwen2"]: Rules(digits=1),
}
BLOCK = 1 << 17                     # characters worked on at a time; threads take a block each
PADDING = 31                        # bytes behind the last piece, for hashtable.words_of
SAFE_CUT = regex.compile(r"\p{L}(?=[ \n])")         # no pattern of RULES looks across


# ---- kinds ---------------------------------------------------------------------------------------

LETTER, DIGIT, SPACE, NEWLINE, BLANK, QUOTE, UPPER, LOWER = (1 << i for i in range(8))
KIND = LETTER | DIGIT | SPACE       # a character with none of these is an "other"
CASE = UPPER | LOWER                # both: a letter without case, for o200k also a combining mark
EDGE = KIND | NEWLINE               # stands before the text, and between texts: of no kind
CHARACTERS_OF = {
    LETTER: r"\p{L}",
    DIGIT: r"\p{N}",
    SPACE: r"\s",
    NEWLINE: r"[\r\n]",
    BLANK: " ",
    QUOTE: "'",
    UPPER: r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
    LOWER: r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
}
N_CHARACTERS = 0x110000
ASSIGNED = (0, 0x40000), (0xE0000, 0xE1000)         # Unicode has no letters or marks elsewhere


@cache
def kinds(cases, n=N_CHARACTERS):
    """(n,) uint8: for each of the first n characters the sum of its bits; bytes for n = 256."""
    table = np.zeros(n, np.uint8)
    for low, high in ASSIGNED:
        every = np.arange(low, min(high, n), dtype="<u4").tobytes()
        every = every.decode("utf-32-le", "surrogatepass")
        for bits, characters in CHARACTERS_OF.items():
            for run in regex.finditer(rf"{characters}+", every):
                table[low + run.start():low + run.end()] |= bits
    if cases:
        table[(table & CASE) > 0] |= LETTER
    return bytes(table) if n == 256 else table


# ---- where pieces begin --------------------------------------------------------------------------

NOWHERE = np.zeros(0, np.int64)


def starts(text, rules, borders=NOWHERE):
    """Where the pattern's pieces begin in a text of n characters -> (n,) bool, (n,) code points.

    The text is whole, or it was cut at SAFE_CUT, so what was around it does not matter.
    borders: the places of characters that stand between two texts and belong to neither.
    """
    n = len(text)
    if text.isascii():
        raw = text.encode()
        code = np.frombuffer(raw, np.uint8)
        kind = np.frombuffer(raw.translate(kinds(rules.cases, 256)), np.uint8)
    else:
        code = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        kind = kinds(rules.cases)[code]
    padded = np.full(n + 4, SPACE, np.uint8)                # as if white space followed
    padded[:2], padded[2:-2] = EDGE, kind
    padded[2:-2][borders] = EDGE
    before2, before, kind, after = padded[:-4], padded[1:-3], padded[2:-2], padded[3:-1]
    is_kind = kind & KIND
    start = is_kind != (before & KIND)                                  # rule 1
    last = (is_kind == SPACE) & ((after & SPACE) == 0)                  # of a run of white space
    odd = [NOWHERE]                                         # where the pattern itself must cut
    if rules.modern:
        start |= last & ((kind & NEWLINE) == 0)
        word = is_kind == LETTER                                        # rule 2
        start &= ~(word & ((before & (SPACE | NEWLINE)) == SPACE))
        start &= ~(((kind & KIND) == 0) & ((before & BLANK) > 0))
        single = ((before & KIND) == 0) & ((before2 & KIND) > 0) & ((before2 & BLANK) == 0)
        start &= ~(word & single)
        newlines(start, kind, before, last, code, rules, borders, odd)  # rule 3
    else:
        start |= last
        start &= ((before & BLANK) == 0) | (is_kind == SPACE)           # rule 2
    if rules.digits:
        digits(start, is_kind, rules.digits)
    if rules.cases:
        cases(start, kind, before)
        behind_mark = word & ((before & KIND) == 0) & ~single & ((kind & CASE) == CASE)
        behind_mark = np.flatnonzero(behind_mark)
        before_it = map(regex.compile(r"\p{M}").match, map(chr, code[behind_mark].tolist()))
        odd.append(behind_mark[np.array(list(before_it), bool)])    # is a mark a letter or a sign?
    contractions(start, kind, before, code, rules, odd)
    odd = np.concatenate(odd)
    if len(odd):
        ask_pattern(start, text, np.unique(odd), code, before, rules, borders)
    start[borders] = True
    return start, code


def newlines(start, kind, before, last, code, rules, borders, odd):
    """Newlines belong to the punctuation before them, else to the white space.

    A piece ends behind the last newline of either.
    """
    at = np.flatnonzero((kind & EDGE) == SPACE | NEWLINE)
    if not len(at):
        return
    first = np.concatenate([[True], at[1:] != at[:-1] + 1])             # of newlines in a row
    begin, end = at[first], at[np.concatenate([first[1:], [True]])] + 1
    with_mark = (before[begin] & KIND) == 0
    start[begin[with_mark]] = False
    inside = end < len(start)
    if rules.cases:                                                     # [\r\n/]*
        behind = end[inside & with_mark]
        odd.append(behind[code[behind] == ord("/")])
    inside[inside] = (kind[end[inside]] & KIND) == SPACE                # more white space follows
    if inside.any():
        run_ends = np.concatenate([np.flatnonzero(last) + 1, borders, [len(start)]])
        if len(borders):
            run_ends.sort(kind="stable")                    # two rows that are sorted
        end_of_run = run_ends[np.searchsorted(run_ends, end[inside], "right")]
        next_newline = np.concatenate([begin[1:], [len(start)]])[inside]
        final = next_newline >= end_of_run
        start[end[inside][final | with_mark[inside]]] = True


def contractions(start, kind, before, code, rules, odd):
    """'s 't 're 've 'm 'll 'd are pieces; in o200k they are the end of one."""
    at = np.flatnonzero((kind[:-1] & QUOTE) > 0)            # 10 times as fast as of numbers
    p = before[at]
    at = at[(p & KIND) == LETTER if rules.cases else ((p & KIND) > 0) & ((p & BLANK) == 0)]
    if not len(at):
        return
    one = code[at + 1].astype(np.uint32)
    two = code[np.minimum(at + 2, len(code) - 1)].astype(np.uint32)
    two[at + 2 >= len(code)] = 0
    if rules.modern:
        one[one == 0x17F] = ord("s")                                    # ſ is an s to (?i:)
        one, two = one | 32, two | 32                                   # an S becomes an s
    length = np.zeros(len(at), np.int64)
    for letter in "stmd":
        length[one == ord(letter)] = 2
    for a, b in ("re", "ve", "ll"):
        length[(one == ord(a)) & (two == ord(b))] = 3
    at, length = at[length > 0], length[length > 0]
    start[at] = not rules.cases
    start[at + 1] = False
    start[at + length - 1] = False
    end = at + length
    end = end[end < len(start)]
    start[end] = True
    if rules.cases:
        odd.append(end[((kind[end] & CASE) == CASE) | ((kind[end] & QUOTE) > 0)])


def digits(start, is_kind, most):
    """In a run of digits a piece begins with every `most`-th."""
    if most == 1:
        start |= is_kind == DIGIT
        return
    at = np.flatnonzero(is_kind == DIGIT)
    if not len(at):
        return
    first = np.concatenate([[True], at[1:] != at[:-1] + 1])             # of a run
    start[at] = place_in_run(first) % most == 0


def place_in_run(first):
    """Whether each of n items is the first of a run -> its place in the run, (n,)."""
    index = np.arange(len(first))
    return index - np.maximum.accumulate(np.where(first, index, 0))


def cases(start, kind, before):
    """A capital behind a small letter begins a piece.

    Letters without case belong to what is before them: to small letters, or to capitals that small
    letters follow. Behind capitals that end a word they are a piece of their own.
    """
    case, case_before = kind & CASE, before & CASE
    start |= (case == UPPER) & (case_before == LOWER)
    at = np.flatnonzero((case == UPPER) & (case_before == CASE))
    if len(at):
        index = np.arange(len(kind))
        cased = np.maximum.accumulate(np.where(case == CASE, 0, index))[at - 1]
        others = np.concatenate([np.flatnonzero(case != UPPER), [len(kind)]])
        end = others[np.searchsorted(others, at)]                       # of the capitals
        at_end = np.concatenate([kind & KIND, [0]])[end] != LETTER
        start[at[(case[cased] == LOWER) | at_end]] = True


def ask_pattern(start, text, odd, code, before, rules, borders):
    """Cut the words around the odd places by the pattern itself."""
    pattern = next(pattern for pattern, r in RULES.items() if r == rules)
    find = regex.compile(pattern).finditer
    cased = ((before & CASE) == UPPER) | ((before & CASE) == LOWER)     # a letter and no mark
    safe = np.ones(len(text) + 1, bool)                     # the beginning and the end are
    safe[1:-1] = (cased & ((code == ord(" ")) | (code == ord("\n"))))[1:]
    safe[borders] = safe[borders + 1] = True
    safe = np.flatnonzero(safe)
    number = np.searchsorted(safe, odd, "right")
    done = 0
    for begin, end in zip(safe[number - 1].tolist(), safe[number].tolist()):
        if begin >= done:
            start[begin:end] = False
            start[[begin + m.start() for m in find(text[begin:end])]] = True
            done = end


# ---- texts to blocks, blocks to pieces -----------------------------------------------------------

def parts_of(text, pattern, size):
    """Yields the text in parts of about `size` characters, cut at SAFE_CUT.

    By a pattern that is not in RULES it comes whole.
    """
    at = 0
    while pattern in RULES and (found := SAFE_CUT.search(text, at + size)):
        yield text[at:found.end()]
        at = found.end()
    yield text[at:]


def batches_of(items, size_of, size):
    """Yields lists of items whose sizes add up to about `size`."""
    batch, total = [], 0
    for item in items:
        batch.append(item)
        total += size_of(item)
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def blocks_of(texts, pattern):
    """Yields lists of (number of a text, a part of it), a block each.

    Long texts are cut into several parts, short ones share a block.
    """
    parts = ((i, part) for i, text in enumerate(texts) for part in parts_of(text, pattern, BLOCK))
    return batches_of(parts, lambda part: len(part[1]), BLOCK)


def cut(parts, pattern):
    """The pieces of texts, each cut by itself -> (data, begin, length, ends).

    Piece i is data[begin[i]:begin[i] + length[i]]. The pieces of text k end before number ends[k].
    data (uint8) has PADDING bytes more.
    """
    rules = RULES.get(pattern)
    if rules is None:
        return cut_by_pattern(parts, pattern)
    text = "\n".join(parts)
    borders = np.cumsum([len(part) + 1 for part in parts]) - 1
    start, code = starts(text, rules, borders[:-1])
    begin = np.flatnonzero(start)
    ends = np.searchsorted(begin, borders)
    data = np.frombuffer(text.encode() + bytes(PADDING), np.uint8)
    n_bytes = len(data) - PADDING
    if n_bytes != len(text):                                # characters of several bytes
        begin = byte_places(code)[begin]
    length = np.diff(begin, append=n_bytes)
    if len(parts) > 1:                                      # the borders are no pieces
        begin, length = np.delete(begin, ends[:-1]), np.delete(length, ends[:-1])
    return data, begin, length, ends - np.arange(len(parts))


def byte_places(code):
    """(n,) code points -> (n + 1,) the byte in UTF-8 where each begins, and the end."""
    width = np.ones(len(code) + 1, np.uint8)
    for limit in (0x80, 0x800, 0x10000):
        width[1:] += code >= limit
    width[0] = 0
    return np.cumsum(width, dtype=np.int64)


def cut_by_pattern(parts, pattern):
    """cut() for a pattern that is not in RULES. If its last step is, arrays do that step."""
    steps = pattern if isinstance(pattern, tuple) else ()
    last = steps[-1] if steps else None
    by_rules = (isinstance(last, Split) and last == Split(last.pattern)
                and last.pattern in RULES and SPELLED not in steps)
    find = finder(steps[:-1] if by_rules else pattern)
    each = list(map(find, parts))
    found = list(itertools.chain.from_iterable(each))
    ends = np.cumsum(list(map(len, each)))
    if by_rules and found:
        data, begin, length, last_ends = cut(found, last.pattern)
        return data, begin, length, np.concatenate([[0], last_ends])[ends]
    text = "".join(found)
    length = np.fromiter(map(len, found), np.int64, len(found))
    begin, raw = np.cumsum(length) - length, bytes_of(text, pattern)
    if len(raw) != len(text):
        place = byte_places(np.frombuffer(text.encode("utf-32-le"), np.uint32))
        begin, length = place[begin], place[begin + length] - place[begin]
    return np.frombuffer(raw + bytes(PADDING), np.uint8), begin, length, ends
