"""patterns.py: the regular expressions that cut text into pieces, and those that strangers bring.

No token ever crosses a cut, so the pattern is as much a part of a tokenizer as its ranks. PATTERNS
has those in use. A tokenizer.json may bring others, in three ways:

    any pattern         is checked, and runs with a limit of time: some take exponential time
    Oniguruma's words   Hugging Face's tokenizers runs this engine, in which some of the same
                        characters mean something else; from_oniguruma translates them for `regex`
    several steps       each step cuts the pieces of the step before (Split)

Sources: the patterns are those of GPT-2, tiktoken, rustbpe, nanochat and Qwen.
"""

import math
import re
import time
from functools import lru_cache, partial
from typing import NamedTuple

import regex


# gpt2 and cl100k stand as they were first published. tiktoken has since rewritten both for speed,
# with equal ids, using {1,3}+ and $, which Oniguruma reads differently. gpt4 is what rustbpe and
# minbpe train with; bpe.py explains its form with single digits, which is the default here. Each
# pattern matches every character, so no text is lost.
GPT4 = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": CL100K,
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
             r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
             r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
             r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
             r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt4": GPT4,
    "digits": GPT4.replace("{1,3}", ""),
    "nanochat": GPT4.replace("{1,3}", "{1,2}"),
    "qwen2": CL100K.replace("{1,3}", ""),
    "characters": r"[\s\S]",        # not (?s:.), which Oniguruma cannot read
}

# GPT-2's printable alphabet, in which the .json files spell tokens. A byte whose Latin-1 character
# is printable and no space is spelled as that character. The other 68 bytes become U+0100, U+0101
# and so on, in order.
_kept = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
_moved = [b for b in range(256) if b not in _kept]
BYTE_TO_CHARACTER = {b: chr(b) for b in _kept} | {b: chr(256 + i) for i, b in enumerate(_moved)}
CHARACTER_TO_BYTE = {b: "\uffff" for b in _moved}               # translate() keeps what is not here
CHARACTER_TO_BYTE |= {ord(c): chr(b) for b, c in BYTE_TO_CHARACTER.items()}
GPT2_BYTES = bytes(_kept + _moved)      # the order of the single bytes in OpenAI's and Hugging
                                        # Face's vocabularies


def to_characters(token):
    """Bytes in GPT-2's alphabet: b" caf\\xc3\\xa9" -> "ĠcafÃ©"."""
    return token.decode("latin-1").translate(BYTE_TO_CHARACTER)


def to_bytes(word):
    """The bytes that a word in GPT-2's alphabet spells; ValueError if it has other characters."""
    try:
        return word.translate(CHARACTER_TO_BYTE).encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"token {shown(word)} is not byte-level") from None


def shown(token):
    """A token for an error message: those of strangers may have a megabyte."""
    return repr(token[:60]) + "..." * (len(token) > 60)


# ---- patterns of strangers -----------------------------------------------------------------------

LONGEST_PATTERN = 10_000            # characters
MOST_REPEATS = 100_000              # product of all {m,n}: regex compiles x{1000} by writing it out
# The time for cutting a text. A useful pattern is 100 times as fast.
SECONDS, SECONDS_PER_CHARACTER = 10, 5e-5


class SlowPattern(ValueError):
    """A pattern needs more time or memory for a text than any text deserves."""


@lru_cache(256)
def check_pattern(pattern):
    """-> regex.compile(pattern). ValueError if it is no pattern or may need unbounded memory."""
    def refuse(why):
        raise ValueError(f"pattern {str(pattern)[:80]!r}: {why}")

    if len(pattern) > LONGEST_PATTERN:
        refuse(f"has {len(pattern):,} characters, more than {LONGEST_PATTERN:,}")
    counts = re.findall(r"\{([0-9]+)", pattern)
    if any(len(n) > 9 for n in counts) or math.prod(max(1, int(n)) for n in counts) > MOST_REPEATS:
        refuse(f"its repeats multiply to more than {MOST_REPEATS:,}")
    try:
        found = regex.compile(pattern)
    except RecursionError:
        refuse("is nested too deep")
    except (regex.error, ValueError, LookupError, TypeError, AttributeError) as error:
        refuse(error)                               # the parser of regex raises all of these
    if found.groups:
        refuse("has a capturing group; write (?:...)")
    return found


@lru_cache(64)
def finder(pattern):
    """A function from a text to the list of its pieces, by the pattern itself.

    pattern: a regular expression, or a tuple of steps (see Split). With the step SPELLED the pieces
    are spelled in BYTE_TO_CHARACTER. Text that a pattern does not match is dropped, as in tiktoken.
    PATTERNS take time in proportion to the text. With any other pattern, the function raises
    SlowPattern when it takes too long.
    """
    if isinstance(pattern, tuple):
        for step in pattern:
            if isinstance(step, Split):
                check_pattern(step.pattern)
        return partial(in_time, pattern, partial(in_steps, pattern))
    findall = check_pattern(pattern).findall
    return findall if pattern in PATTERNS.values() else partial(in_time, pattern, findall)


def in_time(pattern, work, text):
    """work(text, timeout=seconds); SlowPattern if the pattern needs more time or memory."""
    limit_s = SECONDS + SECONDS_PER_CHARACTER * len(text)
    try:
        return work(text, timeout=limit_s)
    except (TimeoutError, MemoryError):
        if isinstance(pattern, tuple):
            pattern = " then ".join(step.pattern for step in pattern if isinstance(step, Split))
        raise SlowPattern(f"pattern {pattern[:80]!r}: takes more than {limit_s:.0f} s, or all "
                          f"memory, to cut a text of {len(text):,} characters") from None


# ---- Oniguruma's words ---------------------------------------------------------------------------

# Letters that mean the same behind a backslash in both engines.
ESCAPES = set("sSdDrntfAR")
# Oniguruma's \w inside a class, and outside.
IN_CLASS = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}"
WORD = rf"[{IN_CLASS}\u00b2\u00b3\u00b9\u00bc-\u00be]"
# What means something else in Oniguruma -> the same in words that both engines agree on.
TRANSLATED = {
    "w": WORD,
    "W": f"[^{WORD[1:]}",
    "z": r"(?![\s\S])",
    "Z": r"(?=\n?(?![\s\S]))",
    "b": f"(?:(?<={WORD})(?!{WORD})|(?<!{WORD})(?={WORD}))",
    "B": f"(?:(?<={WORD})(?={WORD})|(?<!{WORD})(?!{WORD}))",
    "^": r"(?:(?<![^\n])(?=[\s\S]))",               # of each line there
    "$": r"(?![^\n])",
}
GROUPS = ("(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:")
# The parts of a pattern outside a class, and inside.
PART = regex.compile(
    r"""\\[pP]\{\^?(?!In)[A-Za-z_ ]+\} | \\u[0-9A-Fa-f]{4} | \\x[0-7][0-9A-Fa-f] | \\[\s\S]
        | \(\?(?:<[=!]|-?i[:)]|[\s\S])? | \{[0-9,]+\}[?+]? | \[\^?\]? | [\s\S]""", regex.X)
PART_OF_CLASS = regex.compile(
    r"""\\[pP]\{\^?(?!In)[A-Za-z_ ]+\} | \\u[0-9A-Fa-f]{4} | \\x[0-7][0-9A-Fa-f] | \\[\s\S]
        | \[:\^?(?:alpha|space|cntrl|digit|xdigit):\] | && | [\s\S]""", regex.X)
# In (?i:...) one of the engines takes these for more than the other does.
FOLDED = regex.compile(r"[iI\u0080-\U0010ffff]|[sSfF][sS]|[sS][tT]|[fF][fFlL]|-")


def from_oniguruma(pattern):
    """A pattern of Oniguruma's -> one that means the same to Oniguruma and to `regex`.

    ValueError names what cannot be said in words that both engines agree on. "^a$" is about a line
    in Oniguruma: it becomes (?:(?<![^\\n])(?=[\\s\\S]))a(?![^\\n]). [a[b]] becomes [ab].
    """
    def refuse(what):
        raise ValueError(f"pattern {pattern[:80]!r} has {what}, "
                         f"which means something else in tokenizer.json")

    out, at, before = [], 0, ""
    depth = 0                                   # of classes in classes
    folds = [pattern.startswith("(?i)")]        # whether the open groups ignore case
    if folds[0]:
        out, at = ["(?i)"], 4
    while at < len(pattern):
        part = (PART_OF_CLASS if depth else PART).match(pattern, at)[0]
        at += len(part)
        if folds[-1] and len(part) == 1 and (found := FOLDED.search(before + part)):
            refuse(f"{found[0]!r} in (?i:...)")
        before = part if len(part) == 1 and part not in "|()" and not depth else ""
        if part.startswith("\\"):
            meaning = escape(part, depth)
            if meaning is None:
                refuse(f"the escape {part}" + " in a class" * (depth > 0))
            part = meaning
        elif depth:
            odd = part == "[" and (out[-1] == "-" or pattern.startswith(("^", "]", ":"), at))
            odd |= part == "]" and depth > 1 and pattern.startswith("-", at)
            if odd or part == "&&":
                refuse(f"{part} in a class")
            if part == "[":                             # an inner class
                depth, part = depth + 1, ""
            elif part == "]":
                depth, part = depth - 1, "]" if depth == 1 else ""
        elif part.startswith("["):
            depth = 1
        elif part.startswith("("):
            if part.startswith("(?") and part not in GROUPS:
                refuse(f"the group {pattern[at - len(part):at + 3]}")
            folds.append(part == "(?i:" or folds[-1] and part != "(?-i:")
        elif part == ")":
            folds = folds[:-1] or folds
        elif len(part) > 2 and part[-1] in "?+":
            refuse("a possessive {m,n}+" if part[-1] == "+" else f"a lazy {part}")
        elif part in "^$":
            part = TRANSLATED[part]
        out.append(part)
    check_pattern("".join(out))
    return "".join(out)


def escape(part, in_class):
    """What a backslash and the characters behind it mean; None if the engines differ."""
    letter = part[1:]
    if len(part) > 2 or not letter.isalnum() and letter.isascii():
        return part
    if in_class:
        return IN_CLASS if letter == "w" else part if letter in ESCAPES - {"A", "R"} else None
    return part if letter in ESCAPES else TRANSLATED.get(letter)


# ---- cuts in several steps -----------------------------------------------------------------------

# A pattern in several steps is a tuple. A step is a Split or one of these two:
SPACED = "space"        # a piece that does not begin with a space gets one
SPELLED = "bytes"       # a piece becomes its bytes, each a character of BYTE_TO_CHARACTER


class Split(NamedTuple):
    """Both what the pattern matches and what lies between the matches become pieces.

    behavior: one of BEHAVIORS, in the words of tokenizers' SplitDelimiterBehavior. invert: what
    matches and what lies between change places.
    """
    pattern: str
    behavior: str = "Isolated"
    invert: bool = False


BEHAVIORS = ("Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext")
# DeepSeek V3: digits in threes; runs of Chinese and Japanese; words with their marks, punctuation
# and white space.
DEEPSEEK_V3 = (
    Split(r"\p{N}{1,3}"),
    Split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
    Split(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
          r"|[^" "\r\n" r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
          r"| ?[\p{P}\p{S}]+[" "\r\n" r"]*"
          r"|\s*[" "\r\n" r"]+|\s+(?!\S)|\s+"),
)
# These take time in proportion to the text. With a limit of time `regex` takes three times as long.
IN_PROPORTION = {r"\p{N}", r"\p{N}+", r"\s", *PATTERNS.values()}
IN_PROPORTION |= {step.pattern for step in DEEPSEEK_V3}


def match_spans(find, text, timeout):
    """[(begin, end)] of all matches of a compiled pattern, in the way of Oniguruma.

    An empty match counts, unless the match before it ends at the same place.
    """
    found = [match.span() for match in find.finditer(text, timeout=timeout)]
    if all(begin < end for begin, end in found):
        return found
    found, at, last = [], 0, -1
    while at <= len(text) and (match := find.search(text, at, timeout=timeout)):
        begin, end = match.span()
        if begin == end == last:
            at += 1
            continue
        found.append((begin, end))
        at = last = end
    return found


def joins(behavior, before, matched):
    """Whether a part of a text belongs to the part before it. Both say whether they matched.

    "the-final--countdown" split at "-" becomes
        MergedWithPrevious   the- final- - countdown
        MergedWithNext       the -final - -countdown
        Contiguous           the - final -- countdown
    """
    if behavior == "Contiguous":
        return matched == before
    if behavior == "MergedWithPrevious":
        return matched and not before
    return behavior == "MergedWithNext" and before and not matched


def split(step, text, limit_s):
    """The pieces of a text after one Split, none of them empty."""
    compiled = check_pattern(step.pattern)
    if step.pattern in IN_PROPORTION:
        limit_s = None
    if step.behavior == "Isolated":
        found = compiled.findall(text, timeout=limit_s)
        if sum(map(len, found)) == len(text) and "" not in found:       # nothing lies between
            return found
    parts, at = [], 0                           # (begin, end, whether it matched)
    for begin, end in [*match_spans(compiled, text, limit_s), (len(text), len(text))]:
        if at < begin:
            parts.append((at, begin, step.invert))
        parts.append((begin, end, not step.invert))
        at = end
    if step.behavior == "Removed":
        return [text[begin:end] for begin, end, matched in parts if begin < end and not matched]
    begins, before = [], None
    for begin, _, matched in parts:
        if before is None or not joins(step.behavior, before, matched):
            begins.append(begin)
        before = matched
    return [text[begin:end] for begin, end in zip(begins, [*begins[1:], len(text)]) if begin < end]


def in_steps(steps, text, timeout):
    """The pieces of a text after all steps; TimeoutError after so many seconds."""
    pieces, end = [text] if text else [], time.monotonic() + timeout
    for step in steps:
        if step == SPACED:
            pieces = [piece if piece[0] == " " else " " + piece for piece in pieces]
        elif step == SPELLED:
            pieces = [to_characters(piece.encode()) for piece in pieces]
        else:
            before, pieces = pieces, []
            for piece in before:
                pieces += split(step, piece, max(end - time.monotonic(), 1e-3))
    return pieces


def bytes_of(piece, pattern):
    """The bytes of a piece that finder(pattern) has found; after SPELLED it is spelled."""
    if isinstance(pattern, tuple) and SPELLED in pattern:
        return to_bytes(piece)
    return piece.encode("utf-8")
