"""pieces.py: text to pieces, and pieces to numbers, with arrays in place of a regular expression.

Byte-level BPE first cuts text into pieces by a regular expression: words with the space before them, digits, punctuation, white
space. PATTERNS has those in use, and they are the definition. Here is a second way to the same cuts, some ten times as
fast: every character gets its kind from a table, and where a piece begins follows from the kinds of its neighbours, for a
block of characters at a time. Others' patterns are translated from Oniguruma's language, and may be several steps; the regular
expressions themselves do these.

    kinds       letters, digits, white space (newlines among it), others
    rule 1      a piece begins where the kind changes, and at the last white space before something else
    rule 2      but not behind what the pattern takes along: a space, or one mark in front of a word
    rule 3      newlines end a piece, digits come in threes, 's 'll and the like stand alone, o200k cuts fooBar

What hangs on more than that (a combining mark behind punctuation, for instance) is rare: the words around it are left to the
regular expression. A Pieces numbers the pieces in the order they are met, all of a block at once: up to 15 bytes of a piece are
two 64-bit words in a hash table made of arrays.

Sources: the patterns are those of GPT-2, tiktoken, rustbpe and Qwen; tests/test_pieces.py compares with `regex` over all of Unicode.
"""

import bisect
import itertools
import math
import os
import re
import time
import unicodedata
from functools import cache, lru_cache, partial
from typing import NamedTuple

import numpy as np
import regex

# How text is cut before any merge; no token ever crosses a cut. gpt2 and cl100k stand as they were first published: tiktoken
# has since rewritten both for speed, with equal ids, using `{1,3}+` and `$`, which Oniguruma, the engine of Hugging
# Face's tokenizers, reads differently. gpt4 is what rustbpe and minbpe train with. Every pattern here matches every
# character, so nothing is lost.
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
              r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
             r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
             r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
             r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
             r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt4": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    # gpt4 with every digit on its own: a small model then sees arithmetic column by column.
    "digits": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
              r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "nanochat": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
                r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
             r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "characters": r"[\s\S]",        # not (?s:.), which Oniguruma cannot read
}


# GPT-2's printable alphabet, in which the .json files spell tokens: a byte whose Latin-1 character
# is printable and no space keeps that character; the other 68 become U+0100, U+0101 ... in order.
_kept = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
_moved = [b for b in range(256) if b not in _kept]
BYTE_TO_CHARACTER = {b: chr(b) for b in _kept} | {b: chr(256 + i) for i, b in enumerate(_moved)}
CHARACTER_TO_BYTE = {b: "\uffff" for b in _moved} | {ord(c): chr(b) for b, c in BYTE_TO_CHARACTER.items()}
GPT2_BYTES = bytes(_kept + _moved)      # the order of the single bytes in OpenAI's and Hugging Face's vocabularies


class Rules(NamedTuple):
    """What a pattern does, in the words of `starts`."""
    modern: bool = True             # since cl100k: any one mark goes with a word, newlines end a piece, 'S is like 's
    digits: int = 3                 # at most so many together; 0: any number
    cases: bool = False             # o200k: fooBar is two pieces, don't is one, combining marks are letters


RULES = {PATTERNS[name]: rules for name, rules in {
    "gpt2": Rules(modern=False, digits=0), "cl100k": Rules(), "gpt4": Rules(), "o200k": Rules(cases=True),
    "nanochat": Rules(digits=2), "digits": Rules(digits=1), "qwen2": Rules(digits=1)}.items()}
BLOCK = 1 << 17                     # characters worked on at a time: their arrays stay in the cache
SAFE_CUT = regex.compile(r"\p{L}(?=[ \n])")         # no pattern of RULES looks across
SURE = 15                           # bytes of a piece that a Pieces finds by its arrays


# ---- patterns of somebody's own ------------------------------------------------------------------

LONGEST_PATTERN = 10_000            # characters
MOST_REPEATS = 100_000              # of {m,n} in one another: regex writes x{1000} out to compile it
# CPU time in which a text must be cut. A useful pattern is 100 times as fast.
SECONDS, SECONDS_PER_CHARACTER = 10, 5e-5
UNKNOWN_ELSEWHERE = ((r"\(\?[A-Za-z0-9]*x", "the flag x"), (r"\(\?(?:R|[+-]?\d)", "recursion"))


class SlowPattern(ValueError):
    """A pattern needs more time or memory for a text than any text deserves."""


def check_pattern(pattern):
    """-> regex.compile(pattern). ValueError for what is no pattern, or needs unbounded memory."""
    def refuse(why):
        raise ValueError(f"pattern {str(pattern)[:80]!r}: {why}")

    if not isinstance(pattern, str):
        refuse("expected a text")
    if len(pattern) > LONGEST_PATTERN:
        refuse(f"has {len(pattern):,} characters, more than {LONGEST_PATTERN:,}")
    for construct, what in UNKNOWN_ELSEWHERE:
        if re.search(construct, pattern):
            refuse(f"has {what}, which is not supported")
    counts = re.findall(r"\{([0-9]+)", pattern)
    if any(len(n) > 9 for n in counts) or math.prod(max(1, int(n)) for n in counts) > MOST_REPEATS:
        refuse(f"its repeats multiply to more than {MOST_REPEATS:,}")
    try:
        found = regex.compile(pattern)
    except RecursionError:
        refuse("is nested too deep")
    except (regex.error, ValueError, LookupError, TypeError, AttributeError) as error:
        refuse(error)                               # regex's parser has many ways to stumble
    if found.groups:
        refuse("has a capturing group; write (?:...)")
    if found.flags & regex.REVERSE:
        refuse("searches backwards")
    return found


@lru_cache(256)
def check_compiled(pattern):
    return check_pattern(pattern)


@lru_cache(64)
def finder(pattern):
    """A function from a text to its pieces, by the pattern itself. A tuple of steps is a pattern too (see Split); pieces of one with
    SPELLED in it are spelled.

    What the pattern does not match is dropped, as in tiktoken. PATTERNS take time in proportion to
    the text. Others may take exponential time; the function then raises SlowPattern.
    """
    if isinstance(pattern, tuple):
        findall = partial(in_steps, pattern)
    else:
        findall = check_pattern(pattern).findall
    if pattern in PATTERNS.values():
        return findall

    return lambda text: in_time(pattern, findall, text)


def in_time(pattern, work, text):
    """work(text, timeout=seconds) with a pattern of somebody's own; SlowPattern where that needs too much."""
    limit_s = SECONDS + SECONDS_PER_CHARACTER * len(text)
    try:
        return work(text, timeout=limit_s)
    except TimeoutError:
        why = f"takes more than {limit_s:.0f} s"
    except MemoryError:
        why = "takes more memory than there is"
    if isinstance(pattern, tuple):
        pattern = " then ".join(step.pattern for step in pattern if isinstance(step, Split))
    raise SlowPattern(f"pattern {pattern[:80]!r}: {why} to cut a text of {len(text):,} characters")


# ---- patterns of Oniguruma -------------------------------------------------------------------------------------------

# What a backslash and a letter mean to both engines; and to Oniguruma alone, in words that mean the same to both.
ESCAPES = set("sSdDrntfAR")
IN_CLASS = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}"              # its \w between brackets, and without them
WORD = rf"[{IN_CLASS}\u00b2\u00b3\u00b9\u00bc-\u00be]"
TRANSLATED = {"w": WORD, "W": f"[^{WORD[1:]}", "z": r"(?![\s\S])", "Z": r"(?=\n?(?![\s\S]))",
              "b": f"(?:(?<={WORD})(?!{WORD})|(?<!{WORD})(?={WORD}))", "B": f"(?:(?<={WORD})(?={WORD})|(?<!{WORD})(?!{WORD}))",
              "^": r"(?:(?<![^\n])(?=[\s\S]))", "$": r"(?![^\n])"}                 # of each line, in Oniguruma
GROUPS = ("(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:")
PART = regex.compile(r"""\\[pP]\{\^?(?!In)[A-Za-z_ ]+\} | \\u[0-9A-Fa-f]{4} | \\x[0-7][0-9A-Fa-f] | \\[\s\S] | \(\?(?:<[=!]|-?i[:)]|[\s\S])?
                         | \{[0-9,]+\}[?+]? | \[\^?\]? | [\s\S]""", regex.X)
PART_OF_CLASS = regex.compile(r"""\\[pP]\{\^?(?!In)[A-Za-z_ ]+\} | \\u[0-9A-Fa-f]{4} | \\x[0-7][0-9A-Fa-f] | \\[\s\S]
                                  | \[:\^?(?:alpha|space|cntrl|digit|xdigit):\] | && | [\s\S]""", regex.X)
FOLDED = regex.compile(r"[iI\u0080-\U0010ffff]|[sSfF][sS]|[sS][tT]|[fF][fFlL]|-")         # what (?i:...) takes for more in one engine


def without_inner_classes(pattern):
    """[a[b]] is [ab] in Oniguruma. A pattern with an inner class that says more, as [^b], comes back as it is."""
    out, depth, at = [], 0, 0
    while at < len(pattern):
        part = (PART_OF_CLASS if depth else PART).match(pattern, at)[0]
        at += len(part)
        if depth and part == "[":
            if pattern.startswith(("^", "]", ":"), at) or out[-1] == "-":
                return pattern
            depth += 1
        elif depth > 1 and part == "]":
            if pattern.startswith("-", at):
                return pattern
            depth -= 1
        else:
            depth += -1 if depth and part == "]" else not depth and part.startswith("[")
            out.append(part)
    return "".join(out)


def from_oniguruma(pattern):
    """A pattern that means to `regex` and to Oniguruma what this one means to Oniguruma, which runs those of tokenizer.json.

    ValueError naming what cannot be said in both. "^a$" is a line there: (?:(?<![^\\n])(?=[\\s\\S]))a(?![^\\n])
    """
    def refuse(what):
        raise ValueError(f"pattern {pattern[:80]!r} has {what}, which means something else in tokenizer.json")

    def escape(part, inside):
        if len(part) > 2 or part[1] in ESCAPES and not (inside and part[1] in "AR") or not part[1].isalnum() and part[1].isascii():
            return part
        if part[1] == "w" and inside:
            return IN_CLASS
        if part[1] in TRANSLATED and not inside:
            return TRANSLATED[part[1]]
        refuse(f"the escape {part}" + " in a class" * inside)

    if isinstance(pattern, str):
        pattern = without_inner_classes(pattern)
    check_pattern(pattern)
    out, groups, at = [], [pattern.startswith("(?i)")], 4 * pattern.startswith("(?i)")
    out.append(pattern[:at])
    folded = [""]                                           # runs of characters within (?i:...)
    while at < len(pattern):
        part = PART.match(pattern, at)[0]
        at += len(part)
        if part.startswith("\\"):
            out.append(escape(part, False))
        elif part.startswith("["):
            out.append(part)
            while True:
                inner = PART_OF_CLASS.match(pattern, at)[0]
                at += len(inner)
                if inner == "]":
                    break
                if inner in ("[", "&&"):
                    refuse(f"{inner} in a class")
                out.append(escape(inner, True) if inner.startswith("\\") else inner)
                folded[-1] += inner * groups[-1] if len(inner) == 1 else ""
                folded.append("") if inner != "-" else None
            out.append("]")
        elif part.startswith("(?"):
            if part not in GROUPS:
                refuse(f"the group {pattern[at - len(part):at + 3]}")
            groups.append(part == "(?i:" or groups[-1] and part != "(?-i:")
            out.append(part)
        elif part == ")":
            groups.pop()
            out.append(part)
        elif len(part) > 2 and part.startswith("{") and part[-1] in "?+":
            refuse("a possessive {m,n}+" if part[-1] == "+" else f"a lazy {part}")
        else:
            groups += [groups[-1]] * (part == "(")
            out.append(TRANSLATED.get(part, part) if part in "^$" else part)
            folded[-1] += part * groups[-1]
        if part in "|)" or len(part) > 1:
            folded.append("")
    for characters in folded:
        found = FOLDED.search(characters)
        if found:
            refuse(f"{found[0]!r} in (?i:...)")
    return "".join(out)


# ---- cuts in several steps -------------------------------------------------------------------------------------------

# Hugging Face's tokenizers can cut a text again and again: every step cuts each piece that the step before has left.
# Such a pattern is a tuple of steps here. A step is a Split or one of the two below.
SPACED = "space"        # a piece that does not begin with a space gets one
SPELLED = "bytes"       # a piece becomes its bytes, a character of BYTE_TO_CHARACTER each; later steps see these


class Split(NamedTuple):
    """What the pattern matches, and what lies between, become pieces: in the words of tokenizers' SplitDelimiterBehavior.
    Inverted, the two change places."""
    pattern: str
    behavior: str = "Isolated"
    invert: bool = False


# DeepSeek V3's cut: digits in threes, then runs of Chinese and Japanese, then words with their marks, punctuation and white space.
DEEPSEEK_V3 = (Split(r"\p{N}{1,3}"), Split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
               Split(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^""" + "\r\n" + r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[" + "\r\n]*"
                     + r"|\s*[" + "\r\n" + r"]+|\s+(?!\S)|\s+"))
# They take time in proportion to the text. With an eye on the clock `regex` takes nearly three times as long.
IN_PROPORTION = {r"\p{N}", r"\p{N}+", r"\s", *PATTERNS.values(), *(step.pattern for step in DEEPSEEK_V3)}
BEHAVIORS = ("Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext")


def normal_steps(normalize):
    """The steps of normalising as a tuple: of None, one or a tuple of them."""
    if type(normalize) is tuple:                            # a step such as Replace is one as well
        return normalize
    return (normalize,) if normalize else ()


def check_normalize(steps):
    """ValueError for a step of normalising that is not known, or would make any text very long."""
    for step in normal_steps(steps):
        if isinstance(step, Replace):
            check_pattern(step.pattern)
        if isinstance(step, (Replace, Prepend)) and not (isinstance(step.content, str) and len(step.content) <= LONGEST_CONTENT):
            raise ValueError(f"{str(step.content)[:60]!r} as the content of a {type(step).__name__}: expected a text of up to {LONGEST_CONTENT} characters")
        if not isinstance(step, (Replace, Prepend, Strip)) and step not in (*UNICODE_FORMS, LOWERCASE):
            raise ValueError(f"{str(step)[:60]!r} is no step of normalising")


def check_cut(pattern):
    """check_pattern of a pattern, or of those in its steps."""
    if not isinstance(pattern, tuple):
        check_pattern(pattern)
        return
    for step in pattern:
        if isinstance(step, Split):
            check_pattern(step.pattern)
        elif step not in (SPACED, SPELLED):
            raise ValueError(f"{str(step)[:60]!r} is no step of a cut")


def places(find, text, limit_s):
    """[(begin, end)] of what a compiled pattern matches, as Oniguruma goes on: an empty match counts, unless the one before ends there."""
    found = [match.span() for match in find.finditer(text, timeout=limit_s)]
    if all(begin < end for begin, end in found):
        return found
    found, at, last = [], 0, -1
    while at <= len(text) and (match := find.search(text, at, timeout=limit_s)):
        begin, end = match.span()
        if begin == end == last:
            at += 1
            continue
        found.append((begin, end))
        at = last = end
    return found


def joined(spans, behavior):
    """[(begin, end, whether matched)], all of a text in order -> [(begin, end)] of its pieces.

    the-final--countdown at "-": MergedWithPrevious the- final- - countdown, MergedWithNext the -final - -countdown,
    Contiguous the - final -- countdown.
    """
    if behavior in ("Isolated", "Removed"):
        return [(begin, end) for begin, end, matched in spans if behavior == "Isolated" or not matched]
    backwards, found, before = behavior == "MergedWithNext", [], False
    for begin, end, matched in reversed(spans) if backwards else spans:
        joins = matched == before if behavior == "Contiguous" else matched and not before
        if joins and found:
            found[-1] = (begin, found[-1][1]) if backwards else (found[-1][0], end)
        else:
            found.append((begin, end))
        before = matched
    return found[::-1] if backwards else found


def split(step, text, limit_s):
    """The pieces of a text after one Split, none of them empty."""
    compiled, limit_s = check_compiled(step.pattern), None if step.pattern in IN_PROPORTION else limit_s
    if step.behavior == "Isolated":
        found = compiled.findall(text, timeout=limit_s)
        if sum(map(len, found)) == len(text) and "" not in found:       # nothing lies between
            return found
    spans, at = [], 0
    for begin, end in places(compiled, text, limit_s):
        if at < begin:
            spans.append((at, begin, step.invert))
        spans.append((begin, end, not step.invert))
        at = end
    if at < len(text):
        spans.append((at, len(text), step.invert))
    return [text[begin:end] for begin, end in joined(spans, step.behavior) if begin < end]


def spelled(piece, pattern):                # -> bytes; SPELLED pieces are the characters of theirs
    return piece.translate(CHARACTER_TO_BYTE).encode("latin-1") if isinstance(pattern, tuple) and SPELLED in pattern else piece.encode("utf-8")


def in_steps(steps, text, timeout):         # -> the pieces of a text; TimeoutError behind so many seconds
    pieces, end = [text] if text else [], time.monotonic() + timeout
    for step in steps:
        if step == SPACED:
            pieces = [piece if piece[0] == " " else " " + piece for piece in pieces]
        elif step == SPELLED:
            pieces = [piece.encode().decode("latin-1").translate(BYTE_TO_CHARACTER) for piece in pieces]
        else:
            pieces = [part for piece in pieces for part in split(step, piece, max(end - time.monotonic(), 1e-3))]
    return pieces


# ---- kinds ----------------------------------------------------------------------------------------------------------

LETTER, DIGIT, SPACE, NEWLINE, BLANK, QUOTE, UPPER, LOWER = (1 << i for i in range(8))
KIND = LETTER | DIGIT | SPACE       # none of them: other
CASE = UPPER | LOWER                # both: a letter without case, for o200k also a combining mark
EDGE = KIND | NEWLINE               # what stands before the text: of no kind


def mark(table, bits, characters, ranges=((0, 0x40000), (0xE0000, 0xE1000))):
    """Set the bits where the table's index is one of these characters, by `regex`; outside the ranges Unicode has none."""
    for low, high in ranges:
        everything = np.arange(low, min(high, len(table)), dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
        for run in regex.finditer(rf"{characters}+", everything):
            table[low + run.start():low + run.end()] |= bits


@cache
def kinds(cases, n=0x110000):                               # -> (n,) uint8, a sum of the above for each of the first n characters
    table = np.zeros(n, np.uint8)
    for bits, characters in ((LETTER, r"\p{L}"), (DIGIT, r"\p{N}"), (SPACE, r"\s"), (NEWLINE, r"[\r\n]"), (BLANK, " "), (QUOTE, "'"),
                             (UPPER, r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"), (LOWER, r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]")):
        mark(table, bits, characters)
    if cases:
        table[(table & CASE) > 0] |= LETTER
    return table


@cache
def ascii_kinds(cases):
    return bytes(kinds(cases, 256))


@cache
def marks():                                                # -> (0x110000,) bool: combining marks
    table = np.zeros(0x110000, bool)
    mark(table, True, r"\p{M}")
    return table


# ---- where pieces begin ---------------------------------------------------------------------------------------------

NOWHERE = np.zeros(0, np.int64)


def starts(text, rules, borders=NOWHERE):                   # str of n characters -> (n,) bool, and (n,) their code points
    """Where the pattern's pieces begin. A text is whole, or cut at SAFE_CUT: what is around it is not known here. At borders, the
    places of characters that count for nothing, one text ends and the next begins."""
    n = len(text)
    if text.isascii():
        raw = text.encode()
        code, kind = np.frombuffer(raw, np.uint8), np.frombuffer(raw.translate(ascii_kinds(rules.cases)), np.uint8)
    else:
        code = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        kind = kinds(rules.cases)[code]
    padded = np.full(n + 4, SPACE, np.uint8)                # behind the text as if white space went on
    padded[:2], padded[2:-2] = EDGE, kind
    padded[2:-2][borders] = EDGE
    before2, before, kind, after = padded[:-4], padded[1:-3], padded[2:-2], padded[3:-1]
    is_kind = kind & KIND
    start = is_kind != (before & KIND)                                  # rule 1
    last = (is_kind == SPACE) & ((after & SPACE) == 0)                  # of a run of white space
    if rules.modern:
        start |= last & ((kind & NEWLINE) == 0)
        word = is_kind == LETTER                                        # rule 2
        start &= ~(word & ((before & (SPACE | NEWLINE)) == SPACE))
        start &= ~(((kind & KIND) == 0) & ((before & BLANK) > 0))
        single = ((before & KIND) == 0) & ((before2 & KIND) > 0) & ((before2 & BLANK) == 0)
        start &= ~(word & single)
    else:
        start |= last
        start &= ((before & BLANK) == 0) | (is_kind == SPACE)
    odd = [NOWHERE]                                         # where to ask the pattern
    if rules.modern:                                                    # rule 3
        newlines(start, kind, before, last, code, rules, borders, odd)
    if rules.digits:
        digits(start, is_kind, rules.digits)
    if rules.cases:
        cases(start, kind, before)
        behind_marks = np.flatnonzero(word & ((before & KIND) == 0) & ~single & ((kind & CASE) == CASE))
        odd.append(behind_marks[marks()[code[behind_marks]]])           # a combining mark that may be punctuation
    contractions(start, kind, before, code, rules, odd)
    odd = np.concatenate(odd)
    if len(odd):
        ask_pattern(start, text, np.unique(odd), code, before, rules, borders)
    start[borders] = True
    return start, code


def newlines(start, kind, before, last, code, rules, borders, odd):
    """They belong to the punctuation in front of them, else to the white space; a piece ends behind the last of either."""
    at = np.flatnonzero((kind & EDGE) == SPACE | NEWLINE)
    if not len(at):
        return
    first = np.concatenate([[True], at[1:] != at[:-1] + 1])             # of newlines in a row
    begin, end = at[first], at[np.concatenate([first[1:], [True]])] + 1
    with_mark = (before[begin] & KIND) == 0
    start[begin[with_mark]] = False
    inside = end < len(start)
    if rules.cases:                                                     # [\r\n/]*
        odd.append(end[inside & with_mark][code[end[inside & with_mark]] == ord("/")])
    inside[inside] = (kind[end[inside]] & KIND) == SPACE                # more white space follows
    if inside.any():
        runs_end = np.concatenate([np.flatnonzero(last) + 1, borders, [len(start)]])
        if len(borders):
            runs_end.sort(kind="stable")                    # two rows that are sorted
        end_of_run = runs_end[np.searchsorted(runs_end, end[inside], "right")]
        next_newline = np.concatenate([begin[1:], [len(start)]])[inside]
        final = (next_newline >= end_of_run)
        start[end[inside][final | with_mark[inside]]] = True


def contractions(start, kind, before, code, rules, odd):
    """'s 't 're 've 'm 'll 'd: a piece, o200k: the end of one."""
    at = np.flatnonzero(kind & QUOTE)
    at = at[at + 1 < len(start)]
    p = before[at]
    at = at[(p & KIND) == LETTER] if rules.cases else at[((p & KIND) > 0) & ((p & BLANK) == 0)]
    if not len(at):
        return
    one, two = code[at + 1].astype(np.uint32), code[np.minimum(at + 2, len(code) - 1)].astype(np.uint32)
    two[at + 2 >= len(code)] = 0
    if rules.modern:
        one, two = (np.where((c >= ord("A")) & (c <= ord("Z")), c + 32, c) for c in (one, two))
        one = np.where(one == 0x17F, ord("s"), one)                     # ſ is an s to (?i:)
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
    """Runs of digits begin a new piece with every `most`-th."""
    if most == 1:
        start |= is_kind == DIGIT
        return
    at = np.flatnonzero(is_kind == DIGIT)
    if not len(at):
        return
    index = np.arange(len(at))
    run_start = np.maximum.accumulate(np.where(np.concatenate([[True], at[1:] != at[:-1] + 1]), index, 0))
    start[at] = (index - run_start) % most == 0


def cases(start, kind, before):
    """A capital behind a small letter begins a piece. Letters without case belong to what is in front of them: to small letters,
    or to capitals that small letters follow; capitals at the end of a word stand alone behind them."""
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
    """Cut the words around odd places by the pattern itself."""
    find = regex.compile(next(pattern for pattern, r in RULES.items() if r == rules)).finditer
    cased = ((before & CASE) == UPPER) | ((before & CASE) == LOWER)     # surely a letter and no mark
    safe = np.flatnonzero(cased & ((code == 32) | (code == 10)))
    safe = np.unique(np.concatenate([[0], safe, borders, borders + 1, [len(text)]]))
    begins, done = safe[np.searchsorted(safe, odd, "right") - 1], 0
    ends = safe[np.searchsorted(safe, odd, "right")]
    for begin, end in zip(begins.tolist(), ends.tolist()):
        if begin >= done:
            start[begin:end] = False
            start[[begin + m.start() for m in find(text[begin:end])]] = True
            done = end


# ---- numbers for pieces ---------------------------------------------------------------------------------------------

class Table:
    """A hash table of arrays: numbers 0, 1, 2 ... for keys of two 64-bit words, looked up many at a time. Open addressing: a key
    stands at its home or behind it, where the first place was free. The salt changes no number, but nobody can write a text whose
    pieces all have the same home."""

    SALT = np.uint64(int.from_bytes(os.urandom(8), "little"))

    def __init__(self):
        self.n, self.keys = 0, np.zeros((1 << 12, 2), np.uint64)        # of each number
        self.build(1 << 14)

    def build(self, size):
        self.size, self.number = size, np.full(size, -1, np.int32)
        self.low, self.high = np.zeros((2, size), np.uint64)
        keys, self.n = self.keys[:self.n], 0
        self.add(keys[:, 0], keys[:, 1])

    def home(self, low, high):
        h = (low ^ self.SALT ^ (high * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xD6E8FEB86659FD93)
        h ^= h >> np.uint64(32)
        h *= np.uint64(0xD6E8FEB86659FD93)
        return (h >> np.uint64(65 - self.size.bit_length())).view(np.int64)

    def find(self, low, high):                              # (n,), (n,) uint64 -> (n,) int32, -1: unknown
        place = self.home(low, high)
        number = self.number.take(place)
        other = (self.low.take(place) != low) | (self.high.take(place) != high)
        rest = np.flatnonzero(other & (number >= 0))
        number[other] = -1
        place = place[rest]
        while len(rest):                                    # somebody else's key stands there
            place = (place + 1) & (self.size - 1)
            found = self.number.take(place)
            same = (self.low.take(place) == low.take(rest)) & (self.high.take(place) == high.take(rest))
            number[rest[same]] = found[same]
            on = ~same & (found >= 0)
            rest, place = rest[on], place[on]
        return number

    def add(self, low, high):                               # (n,), (n,) uint64, none of them known -> (n,) int32, (m,) the firsts of equals
        """Give them the next numbers; equal ones get one, all in the order they are met."""
        n = self.n + len(low)
        if 4 * n > self.size:                               # fuller, and searches for what is not there get long
            self.build(1 << (6 * n).bit_length())
        first, todo, place = np.empty(len(low), np.int32), np.arange(len(low)), self.home(low, high)
        while len(todo):
            free = todo[self.number[place[todo]] < 0][::-1]
            self.number[place[free]] = free                 # of several at one place the last stays, the first one met
            stays = free[self.number[place[free]] == free]
            self.low[place[stays]], self.high[place[stays]] = low[stays], high[stays]
            same = (self.low[place[todo]] == low[todo]) & (self.high[place[todo]] == high[todo])
            first[todo[same]] = self.number[place[todo[same]]]
            todo = todo[~same]                              # somebody else's key stands there
            place[todo] = (place[todo] + 1) & (self.size - 1)
        firsts = np.flatnonzero(first == np.arange(len(low)))
        number = np.empty(len(low), np.int32)
        number[firsts] = np.arange(self.n, self.n + len(firsts))
        self.number[place[firsts]] = number[firsts]
        if len(self.keys) < self.n + len(firsts):
            self.keys = np.concatenate([self.keys[:self.n], np.zeros((n, 2), np.uint64)])
        self.keys[self.n:self.n + len(firsts)] = np.stack([low[firsts], high[firsts]], 1)
        self.n += len(firsts)
        return number[first], firsts


# A piece of n <= SURE bytes as two words: its bytes, zeros behind them, and n as the last byte.
BYTES_OF = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(SURE + 1)], np.uint64), np.array([(1 << 8 * max(n - 8, 0)) - 1 for n in range(SURE + 1)], np.uint64)
LENGTH_OF = np.array([n << 56 for n in range(SURE + 1)], np.uint64)


def words_of(data, begin, length):
    """Keys of the pieces data[begin:begin + length], of up to SURE bytes each. data (uint8) goes on for 15 bytes behind them."""
    every = np.ndarray(len(data) - 7, "<u8", data, 0, (1,))             # the word from each byte on
    low, high = every.take(begin), every.take(begin + 8)
    low &= BYTES_OF[0].take(length)
    high &= BYTES_OF[1].take(length)
    high |= LENGTH_OF.take(length)
    return low, high


class Pieces:
    """Numbers for pieces (byte strings), in the order they were met first."""

    def __init__(self):
        self.table, self.number_in_table = Table(), np.array([-1], np.int32)        # the last is for what is not there
        self.long, self.n = {}, 0                           # pieces beyond SURE bytes -> number

    def look(self, data, begin, length):                    # -> what find wants to know; changes nothing, so threads may look
        low, high = words_of(data, begin, np.minimum(length, SURE))
        row = self.table.find(low, high)
        long = np.flatnonzero(length > SURE)
        row[long] = 0
        return low, high, row, {i: data[begin[i]:begin[i] + length[i]].tobytes() for i in long.tolist()}

    def find(self, looked):                                 # [of look] -> [(n,) int32]; new ones get the next numbers
        new = [np.flatnonzero(row < 0) for _, _, row, _ in looked]
        time = np.cumsum([0] + [len(row) for _, _, row, _ in looked])
        new_long = {}                                       # piece -> when it was met first
        for (*_, long), then in zip(looked, time.tolist()):
            for i, piece in long.items():
                if piece not in self.long:
                    new_long.setdefault(piece, then + i)
        if new_long or any(map(len, new)):
            low, high, met = (np.concatenate(x) for x in zip(*[(low[at], high[at], then + at) for (low, high, *_), at, then in zip(looked, new, time)]))
            rows, firsts = self.table.add(low, high)
            for (_, _, row, _), at, part in zip(looked, new, np.split(rows, np.cumsum(list(map(len, new)))[:-1])):
                row[at] = part
            met = np.concatenate([met[firsts], np.array(list(new_long.values()), np.int64)])
            number = np.empty(len(met), np.int32)
            number[np.argsort(met)] = np.arange(self.n, self.n + len(met))
            self.number_in_table = np.concatenate([self.number_in_table[:-1], number[:len(firsts)], np.array([-1], np.int32)])
            self.long |= zip(new_long, number[len(firsts):].tolist())
            self.n += len(met)
        numbers = [self.number_in_table.take(row) for _, _, row, _ in looked]
        for number, (*_, long) in zip(numbers, looked):
            for i, piece in long.items():
                number[i] = self.long[piece]
        return numbers

    def known(self, data, begin, length):                   # all of at most SURE bytes -> (n,) int32, -1: unknown
        return self.number_in_table.take(self.table.find(*words_of(data, begin, length)))

    def short_from(self, first):                            # -> (n,) numbers from first on, (n, 16) uint8 bytes, (n,) lengths
        at = np.searchsorted(self.number_in_table[:-1], first)
        raw = self.table.keys[at:self.table.n].view(np.uint8).reshape(-1, 16)
        return self.number_in_table[at:-1].astype(np.int64), raw, raw[:, 15].astype(np.int64)

    def long_from(self, first):                             # -> {number: piece}
        return {i: piece for piece, i in self.long.items() if i >= first}

    def all(self):                                          # -> every piece, in order
        numbers, raw, length = self.short_from(0)
        pieces, joined = self.long_from(0), raw.tobytes()
        pieces |= {i: joined[16 * k:16 * k + n] for k, (i, n) in enumerate(zip(numbers.tolist(), length.tolist()))}
        return [pieces[i] for i in range(self.n)]


# ---- text to numbers ------------------------------------------------------------------------------------------------

def parts_of(text, pattern, size=BLOCK):
    """The text in parts of about `size` characters, cut where no pattern of RULES looks across; by any other pattern whole."""
    at = 0
    while len(text) - at > size and pattern in RULES:
        cut = SAFE_CUT.search(text, at + size)
        if cut is None:
            break
        yield text[at:cut.end()]
        at = cut.end()
    yield text[at:]


def batches_of(items, size_of, size):
    """Lists of items that come to about that size."""
    batch, have = [], 0
    for item in items:
        batch.append(item)
        have += size_of(item)
        if have >= size:
            yield batch
            batch, have = [], 0
    if batch:
        yield batch


def blocks_of(texts, pattern):
    """Lists of (number of a text, a part of it), a block each: long texts are cut, short ones come together."""
    parts = ((i, part) for i, text in enumerate(texts) for part in parts_of(text, pattern))
    return batches_of(parts, lambda part: len(part[1]), BLOCK)


def cut(parts, pattern):
    """The pieces of all parts, each cut by itself: (data, begin, length, ends). Piece i is data[begin[i]:begin[i] + length[i]], 15
    bytes are behind the last, and the pieces of part k end before ends[k]."""
    rules = RULES.get(pattern)
    if rules is None:
        return cut_by_pattern(parts, pattern)
    text, borders = "\n".join(parts), np.cumsum([len(part) + 1 for part in parts]) - 1
    start, code = starts(text, rules, borders[:-1])
    begin = np.flatnonzero(start)
    ends = np.searchsorted(begin, borders)
    data = np.frombuffer(text.encode() + bytes(15), np.uint8)
    if len(data) - 15 != len(text):                         # characters of several bytes
        begin = byte_places(code)[begin]
    length = np.diff(begin, append=len(data) - 15)
    begin, length = (np.delete(x, ends[:-1]) if len(parts) > 1 else x for x in (begin, length))     # without the borders
    return data, begin, length, ends - np.arange(len(parts))


def byte_places(code):                                      # (n,) code points -> (n + 1,) where each begins in UTF-8, and the end
    width = np.ones(len(code) + 1, np.uint8)
    for limit in (0x80, 0x800, 0x10000):
        width[1:] += code >= limit
    width[0] = 0
    return np.cumsum(width, dtype=np.int64)


def cut_by_pattern(parts, pattern):
    """What cut does, for a pattern of somebody's own."""
    steps = pattern if isinstance(pattern, tuple) else ()
    last = steps[-1] if steps else None
    by_rules = isinstance(last, Split) and last == Split(last.pattern) and last.pattern in RULES and SPELLED not in steps
    find = finder(steps[:-1] if by_rules else pattern)
    each = list(map(find, parts))
    found, ends = list(itertools.chain.from_iterable(each)), np.cumsum(list(map(len, each)))
    if by_rules and found:                                  # arrays do the last step
        data, begin, length, last_ends = cut(found, last.pattern)
        return data, begin, length, np.concatenate([[0], last_ends])[ends]
    text, length = "".join(found), np.fromiter(map(len, found), np.int64, len(found))
    begin, raw = np.cumsum(length) - length, spelled(text, pattern)
    if len(raw) != len(text):
        at = byte_places(np.frombuffer(text.encode("utf-32-le"), np.uint32))
        begin, length = at[begin], at[begin + length] - at[begin]
    return np.frombuffer(raw + bytes(15), np.uint8), begin, length, ends


# ---- names in a text -----------------------------------------------------------------------------

class Names:
    """Finds names, such as those of special tokens, in a text.

    A regular expression would try each name at each place. Here the names are sorted. Take the last
    name that does not sort behind the text from a place on: the longest name that begins there is
    this one, or one of those that it begins with, as <|im_end|> begins with <|im.
    """

    def __init__(self, names):
        self.names, stack = sorted(names), []
        self.shorter = []                       # number of the longest name that each begins with
        for i, name in enumerate(self.names):
            while stack and not name.startswith(self.names[stack[-1]]):
                stack.pop()
            self.shorter.append(stack[-1] if stack else -1)
            stack.append(i)
        self.longest = max(map(len, self.names), default=0)
        # Two characters are looked for and not one: names of two spaces and more would be tried behind every word.
        beginnings = sorted({name[:2] for name in self.names})
        if len(beginnings) > 64:
            beginnings = sorted({name[:1] for name in self.names})
        self.first = re.compile("|".join(map(re.escape, beginnings)) or "(?!)")

    def find(self, text):
        """Yields (place, name) from the left; of the names that begin at one place the longest."""
        found = self.first.search(text)
        while found:
            at = found.start()
            i = bisect.bisect_right(self.names, text[at:at + self.longest]) - 1
            while i >= 0 and not text.startswith(self.names[i], at):
                i = self.shorter[i]
            if i >= 0:
                yield at, self.names[i]
            found = self.first.search(text, at + (len(self.names[i]) if i >= 0 else 1))


@lru_cache(16)
def names_of(names):                                        # a frozenset
    return Names(names)


# ---- normal forms --------------------------------------------------------------------------------

MANY_MARKS = regex.compile(r"\p{M}{32,}")


class Replace(NamedTuple):
    """A step of normalising: everything that the pattern matches becomes the content."""
    pattern: str
    content: str


class Prepend(NamedTuple):
    """A step of normalising: what stands before every text that is not empty."""
    content: str


class Strip(NamedTuple):
    """A step of normalising: white space goes from the beginning and from the end."""
    left: bool = True
    right: bool = True


LONGEST_CONTENT, MOST_GROWTH = 100, 20      # characters of a Replace or Prepend; no character has more than 18 in NFKD
UNICODE_FORMS, LOWERCASE = ("NFC", "NFD", "NFKC", "NFKD"), "Lowercase"
WHITE = "".join(c for c in map(chr, range(0x3001)) if regex.match(r"\s", c))       # Unicode's White_Space


def normalized(steps, text):
    """A text after steps: None, one or a tuple of them; each a form of UNICODE_FORMS, LOWERCASE, a Replace, a Prepend or a Strip.

    SlowPattern if the text grows beyond all use."""
    limit = MOST_GROWTH * (len(text) + 100)
    for step in normal_steps(steps):
        if isinstance(step, Replace):
            found = in_time(step.pattern, lambda text, timeout: places(check_compiled(step.pattern), text, timeout), text)
            ends = [0, *(end for _, end in found)]
            text = step.content.join([text[a:b] for a, b in zip(ends, [*(begin for begin, _ in found), len(text)])])
        elif isinstance(step, Prepend):
            text = step.content + text if text else text
        elif isinstance(step, Strip):
            text = text.lstrip(WHITE) if step.left else text
            text = text.rstrip(WHITE) if step.right else text
        elif step == LOWERCASE:
            text = text.replace("\u03a3", "\u03c3").lower()         # Python alone would know where words end
        else:
            text = normal_form(step, text)
        if len(text) > limit:
            raise SlowPattern(f"normalised, a text is more than {MOST_GROWTH} times as long")
    return text


def normal_form(form, text):
    """unicodedata.normalize, in time in proportion to the text.

    Python sorts the marks behind a letter by insertion, in quadratic time. Here long rows of marks
    are decomposed first, and sorted by class between the marks of class 0.
    """
    def in_order(found):
        marks = [part for mark in found[0] for part in unicodedata.normalize("NFD", mark)]
        ordered = []
        for _, run in itertools.groupby(marks, lambda mark: unicodedata.combining(mark) > 0):
            ordered += sorted(run, key=unicodedata.combining)
        return "".join(ordered)

    return unicodedata.normalize(form, MANY_MARKS.sub(in_order, text))
