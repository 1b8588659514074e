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
    "digits": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
              r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "nanochat": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
                r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
             r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
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


# ---- patterns of strangers -----------------------------------------------------------------------

LONGEST_PATTERN = 10_000            # characters
MOST_REPEATS = 100_000              # product of all {m,n}: regex compiles x{1000} by writing it out
# The time for cutting a text. A useful pattern is 100 times as fast.
SECONDS, SECONDS_PER_CHARACTER = 10, 5e-5
UNKNOWN_ELSEWHERE = ((r"\(\?[A-Za-z0-9]*x", "the flag x"), (r"\(\?(?:R|[+-]?\d)", "recursion"))


class SlowPattern(ValueError):
    """A pattern needs more time or memory for a text than any text deserves."""


def check_pattern(pattern):
    """-> regex.compile(pattern). ValueError if it is no pattern or may need unbounded memory."""
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
        refuse(error)                               # the parser of regex raises all of these
    if found.groups:
        refuse("has a capturing group; write (?:...)")
    if found.flags & regex.REVERSE:
        refuse("searches backwards")
    return found


@lru_cache(256)
def check_compiled(pattern):
    """check_pattern, remembered."""
    return check_pattern(pattern)


@lru_cache(64)
def finder(pattern):
    """A function from a text to the list of its pieces, by the pattern itself.

    pattern: a regular expression, or a tuple of steps (see Split). With the step SPELLED the pieces
    are spelled in BYTE_TO_CHARACTER. Text that a pattern does not match is dropped, as in tiktoken.
    PATTERNS take time in proportion to the text. With any other pattern, the function raises
    SlowPattern when it takes too long.
    """
    if isinstance(pattern, tuple):
        findall = partial(in_steps, pattern)
    else:
        findall = check_pattern(pattern).findall
    if pattern in PATTERNS.values():
        return findall
    return lambda text: in_time(pattern, findall, text)


def in_time(pattern, work, text):
    """work(text, timeout=seconds); SlowPattern if the pattern needs more time or memory."""
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


def without_inner_classes(pattern):
    """[a[b]] -> [ab], as Oniguruma reads it. An inner class like [^b] stays."""
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
            if depth and part == "]":
                depth = 0
            elif not depth and part.startswith("["):
                depth = 1
            out.append(part)
    return "".join(out)


def from_oniguruma(pattern):
    """A pattern of Oniguruma's -> one that means the same to Oniguruma and to `regex`.

    ValueError names what cannot be said in words that both engines agree on. "^a$" is about a line
    in Oniguruma: it becomes (?:(?<![^\\n])(?=[\\s\\S]))a(?![^\\n])
    """
    if isinstance(pattern, str):
        pattern = without_inner_classes(pattern)
    check_pattern(pattern)
    return Translation(pattern).translate()


class Translation:
    """The work of from_oniguruma on one pattern, part by part from the left."""

    def __init__(self, pattern):
        self.pattern, self.at, self.out = pattern, 0, []
        self.ignores_case = [False]         # for every open group
        self.folded = [""]                  # runs of characters inside (?i:...)

    def refuse(self, what):
        """ValueError that names what cannot be translated."""
        raise ValueError(f"pattern {self.pattern[:80]!r} has {what}, "
                         f"which means something else in tokenizer.json")

    def next_part(self, kind):
        """The next part of the pattern, by PART or PART_OF_CLASS."""
        part = kind.match(self.pattern, self.at)[0]
        self.at += len(part)
        return part

    def translate(self):
        """The whole pattern."""
        if self.pattern.startswith("(?i)"):
            self.out.append("(?i)")
            self.ignores_case, self.at = [True], 4
        while self.at < len(self.pattern):
            part = self.next_part(PART)
            if part.startswith("\\"):
                self.out.append(self.escape(part, in_class=False))
            elif part.startswith("["):
                self.character_class(part)
            else:
                self.other(part)
            if part in "|)" or len(part) > 1:
                self.folded.append("")
        for characters in self.folded:
            found = FOLDED.search(characters)
            if found:
                self.refuse(f"{found[0]!r} in (?i:...)")
        return "".join(self.out)

    def escape(self, part, in_class):
        """A backslash and what follows it."""
        letter = part[1]
        if len(part) > 2 or not letter.isalnum() and letter.isascii():
            return part
        if letter in ESCAPES and not (in_class and letter in "AR"):
            return part
        if letter == "w" and in_class:
            return IN_CLASS
        if letter in TRANSLATED and not in_class:
            return TRANSLATED[letter]
        self.refuse(f"the escape {part}" + " in a class" * in_class)

    def character_class(self, opening):
        """[...], whose opening has been read."""
        self.out.append(opening)
        while (part := self.next_part(PART_OF_CLASS)) != "]":
            if part in ("[", "&&"):
                self.refuse(f"{part} in a class")
            self.out.append(self.escape(part, in_class=True) if part.startswith("\\") else part)
            if len(part) == 1 and self.ignores_case[-1]:
                self.folded[-1] += part
            if part != "-":
                self.folded.append("")
        self.out.append("]")

    def other(self, part):
        """A group, a repeat or a character."""
        if part.startswith("(?"):
            if part not in GROUPS:
                self.refuse(f"the group {self.pattern[self.at - len(part):self.at + 3]}")
            outside = self.ignores_case[-1] and part != "(?-i:"
            self.ignores_case.append(part == "(?i:" or outside)
        elif part == "(":
            self.ignores_case.append(self.ignores_case[-1])
        elif part == ")":
            self.ignores_case.pop()
        elif len(part) > 2 and part.startswith("{") and part[-1] in "?+":
            self.refuse("a possessive {m,n}+" if part[-1] == "+" else f"a lazy {part}")
        if not part.startswith("(?") and part != ")" and self.ignores_case[-1]:
            self.folded[-1] += part
        self.out.append(TRANSLATED.get(part, part) if part in "^$" else part)


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


def check_cut(pattern):
    """check_pattern of a pattern, or of every pattern in its steps."""
    if not isinstance(pattern, tuple):
        check_pattern(pattern)
        return
    for step in pattern:
        if isinstance(step, Split):
            check_pattern(step.pattern)
        elif step not in (SPACED, SPELLED):
            raise ValueError(f"{str(step)[:60]!r} is no step of a cut")


def match_spans(find, text, limit_s):
    """[(begin, end)] of all matches of a compiled pattern, in the way of Oniguruma.

    An empty match counts, unless the match before it ends at the same place.
    """
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


def pieces_of_spans(spans, behavior):
    """[(begin, end, whether matched)], a whole text in order -> [(begin, end)] of its pieces.

    "the-final--countdown" split at "-" becomes
        MergedWithPrevious   the- final- - countdown
        MergedWithNext       the -final - -countdown
        Contiguous           the - final -- countdown
    """
    if behavior == "Isolated":
        return [(begin, end) for begin, end, _ in spans]
    if behavior == "Removed":
        return [(begin, end) for begin, end, matched in spans if not matched]
    backwards, found, before = behavior == "MergedWithNext", [], False
    for begin, end, matched in reversed(spans) if backwards else spans:
        if behavior == "Contiguous":
            joins = matched == before
        else:
            joins = matched and not before
        if not joins or not found:
            found.append((begin, end))
        elif backwards:
            found[-1] = (begin, found[-1][1])
        else:
            found[-1] = (found[-1][0], end)
        before = matched
    return found[::-1] if backwards else found


def split(step, text, limit_s):
    """The pieces of a text after one Split, none of them empty."""
    compiled = check_compiled(step.pattern)
    if step.pattern in IN_PROPORTION:
        limit_s = None
    if step.behavior == "Isolated":
        found = compiled.findall(text, timeout=limit_s)
        if sum(map(len, found)) == len(text) and "" not in found:       # nothing lies between
            return found
    spans, at = [], 0
    for begin, end in match_spans(compiled, text, limit_s):
        if at < begin:
            spans.append((at, begin, step.invert))
        spans.append((begin, end, not step.invert))
        at = end
    if at < len(text):
        spans.append((at, len(text), step.invert))
    pieces = pieces_of_spans(spans, step.behavior)
    return [text[begin:end] for begin, end in pieces if begin < end]


def in_steps(steps, text, timeout):
    """The pieces of a text after all steps; TimeoutError after so many seconds."""
    pieces, end = [text] if text else [], time.monotonic() + timeout
    for step in steps:
        if step == SPACED:
            pieces = [piece if piece[0] == " " else " " + piece for piece in pieces]
        elif step == SPELLED:
            pieces = [spell(piece) for piece in pieces]
        else:
            before, pieces = pieces, []
            for piece in before:
                pieces += split(step, piece, max(end - time.monotonic(), 1e-3))
    return pieces


def spell(piece):
    """A piece in GPT-2's alphabet: " café" -> "ĠcafÃ©"."""
    return piece.encode().decode("latin-1").translate(BYTE_TO_CHARACTER)


def bytes_of(piece, pattern):
    """The bytes of a piece that finder(pattern) has found; after SPELLED it is spelled."""
    if isinstance(pattern, tuple) and SPELLED in pattern:
        return piece.translate(CHARACTER_TO_BYTE).encode("latin-1")
    return piece.encode("utf-8")
