"""added.py: what happens to a text before it is cut: added tokens are found, the rest normalised.

An added token has a name and stands outside of all merging. Special ones, such as <|endoftext|>,
are found only where the caller allows it; words are found in every text. The order is that of
Hugging Face's tokenizers: first the names that are looked for in the text as it is, then, in the
normalised rest, the others. Most vocabularies normalise nothing and have no words.
"""

import itertools
import re
import unicodedata
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import regex

from tokens.patterns import (SlowPattern, bytes_of, check_pattern, finder, in_time,
                             match_spans)


class Flags(NamedTuple):
    """How an added token is found in a text.

    normalized: it is looked for in the normalised text, by its normalised name. lstrip, rstrip: the
    white space before it, or behind it, becomes part of it. single_word: it is found only where no
    word continues before or behind it.
    """
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


def well_formed(text):
    """A str that UTF-8 can hold: surrogate pairs become their character, lone ones U+FFFD."""
    if not isinstance(text, str):
        raise TypeError(f"a text is encoded, not a {type(text).__name__}: {repr(text)[:60]}")
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# ---- names in a text -----------------------------------------------------------------------------

class Names:
    """Finds names, such as those of special tokens, in a text.

    A regular expression would try each of 1,000 names at each place. Here a text is searched for
    their first two characters, by which " " alone is not tried behind every word. Where they stand,
    the texts of each length that a name has are looked up in a set.
    """

    def __init__(self, names):
        self.names = set(names)
        self.lengths = sorted({len(name) for name in names}, reverse=True)
        beginnings = sorted({name[:2] for name in names})
        if len(beginnings) > 64:
            beginnings = sorted({name[:1] for name in names})
        self.first = re.compile("|".join(map(re.escape, beginnings)) or "(?!)")

    def find(self, text):
        """Yields (place, name) from the left; of names that begin at one place the longest."""
        end = 0
        while found := self.first.search(text, end):
            at = found.start()
            end = at + 1
            for length in self.lengths:
                if text[at:at + length] in self.names:
                    end = at + length
                    yield at, text[at:end]
                    break


names_of = lru_cache(64)(Names)                         # of a frozenset, remembered
NO_TOKEN, NO_FLAGS = np.zeros(0, np.uint32), Flags()


class Added:
    """The added tokens of a vocabulary."""

    def __init__(self, special_tokens, words, flags, normalize):
        self.special_tokens, self.words = frozenset(special_tokens), words
        self.flags, self.normalize = flags, normalize
        self.left_out = b"".join(step.data.encode("latin-1") for step in steps_of(normalize)
                                 if isinstance(step, LeaveOut))
        # {name: its id, (1,) uint32}; None, at the end of a text, has no id.
        self.token_of = {None: NO_TOKEN}
        for name, i in (special_tokens | words).items():
            self.token_of[name] = np.array([i], np.uint32)
        self.names_to_find = lru_cache(64)(self.names_to_find)

    def allowed(self, texts, allowed_special, disallowed_special):
        """The names that are allowed; ValueError if a text has one that is disallowed."""
        for value in (allowed_special, disallowed_special):
            if isinstance(value, str) and value != "all":
                raise ValueError(f'special tokens {value!r}: pass a set of names, or "all"')
        every = self.special_tokens
        allowed = every if allowed_special == "all" else every & set(allowed_special)
        disallowed = every - allowed if disallowed_special == "all" else disallowed_special
        disallowed = frozenset(disallowed)
        if "" in disallowed:
            raise ValueError("disallowed_special: the empty text is in every text")
        for text in texts if disallowed else ():
            for _, name in names_of(disallowed).find(text):
                raise ValueError(f"text contains the special token {name!r}: for that token pass "
                                 f"allowed_special={{{name!r}}}, for ordinary text pass "
                                 f"disallowed_special=() or use encode_ordinary")
        return allowed

    def encode(self, tokenizer, texts, n_threads, allowed_special, disallowed_special):
        """[str] -> [(n,) uint32]: the text between added tokens is all encoded together."""
        allowed = self.allowed(texts, allowed_special, disallowed_special)
        try:
            if not allowed and not self.words:
                texts = [normalized(self.normalize, well_formed(text)) for text in texts]
                return self.encode_ordinary(tokenizer, texts, n_threads)
            each = [list(self.between(text, allowed)) for text in texts]
            ordinary = [text for parts in each for text, _ in parts]
            ordinary = iter(self.encode_ordinary(tokenizer, ordinary, n_threads))
        except SlowPattern as error:
            raise ValueError(f"{tokenizer.name}: {error}" if tokenizer.name else error) from None
        found = []
        for parts in each:
            ids = []
            for _, token in parts:
                ids += [next(ordinary), token]
            found.append(np.concatenate(ids))
        return found

    def encode_ordinary(self, tokenizer, texts, n_threads):
        """[normalised str] -> [(n,) uint32], without the bytes that have no token (LeaveOut)."""
        odd = {i for i, text in enumerate(texts) if self.left_out and self.bare(text.encode())[1]}
        usual = ["" if i in odd else text for i, text in enumerate(texts)]
        found = tokenizer.encoder.encode(usual, n_threads)
        for i in odd:
            ids = []
            for piece in finder(tokenizer.pattern)(texts[i]):
                data, _ = self.bare(bytes_of(piece, tokenizer.pattern))
                ids += tokenizer.encoder.encode_piece(data) if data else []
            found[i] = np.array(ids, np.uint32)
        return found

    def bare(self, data):
        """(bytes without those that have no token, how many these were)."""
        left = data.translate(None, self.left_out)
        return left, len(data) - len(left)

    def names_to_find(self, allowed):
        """(Names to find in a text as it is, {normalised name: name} to find in the rest)."""
        names, normal = allowed.union(self.words), {}
        for name in names:
            if self.flags.get(name, NO_FLAGS).normalized:
                normal[normalized(self.normalize, name)] = name
        return names_of(names - set(normal.values())), normal

    def between(self, text, allowed):
        """Yields (ordinary text, id behind it as an array) from the left; the last has no id.

        Words and allowed special tokens are found. The ordinary text is normalised.
        """
        names, normal = self.names_to_find(allowed)
        for part, name in self.split(well_formed(text), names):
            part = normalized(self.normalize, part)
            if normal:
                *inside, (part, _) = self.split(part, names_of(frozenset(normal)), normal)
                for ordinary, other in inside:
                    yield ordinary, self.token_of[other]
            yield part, self.token_of[name]

    def split(self, text, names, named=None):
        """Yields (text, name behind it) from the left, at last (the rest, None).

        named: {what is found: name}, if they differ.
        """
        start = 0
        for at, name in names.find(text):
            end, name = at + len(name), named[name] if named else name
            flags = self.flags.get(name, NO_FLAGS)
            if flags.single_word and is_inside_word(text, at, end):
                continue
            before = text[start:at]
            if flags.lstrip:
                before = before.rstrip(WHITE)
                at = max(at, start)             # the name before may have taken this place
            while flags.rstrip and end < len(text) and text[end] in WHITE:
                end += 1
            yield before, name if at < end else None
            start = end
        yield text[start:], None


def is_inside_word(text, begin, end):
    """Whether a word goes on before or behind text[begin:end]."""
    before, behind = text[max(0, begin - 1):begin], text[end:end + 1]
    return bool(regex.match(r"\w", before) or regex.match(r"\w", behind))


# ---- normal forms --------------------------------------------------------------------------------

# The steps of normalising: one of UNICODE_FORMS, LOWERCASE, or one of these four.


class Replace(NamedTuple):
    """Everything that the pattern matches becomes the content."""
    pattern: str
    content: str


class Prepend(NamedTuple):
    """A text comes before every text that is not empty."""
    prepend: str


class Strip(NamedTuple):
    """White space goes from the beginning and from the end."""
    strip_left: bool
    strip_right: bool


class LeaveOut(NamedTuple):
    """Bytes that have no token in a byte-level vocabulary are left out of each piece.

    In SmolLM 2's these are 4, 6, 19, 20, 22, 29, 241 and 242. It changes no text: texts are cut
    with these bytes. Each is given as the character of its number.
    """
    data: str


UNICODE_FORMS, LOWERCASE = ("NFC", "NFD", "NFKC", "NFKD"), "Lowercase"
MOST_GROWTH = 20            # times the length of a text; a character has at most 18 in NFKD
# Unicode's White_Space, which is what \s matches.
WHITE = "".join(filter(regex.compile(r"\s").match, map(chr, range(0x3001))))
MANY_MARKS = regex.compile(r"\p{M}{32,}")


def steps_of(normalize):
    """A tuple of the steps in None, one step or a tuple of steps."""
    if type(normalize) is tuple:                            # a step such as Replace is a tuple too
        return normalize
    return (normalize,) if normalize else ()


def normalized(steps, text):
    """The text after all steps; SlowPattern if it grows beyond all use.

    steps: None, one step or a tuple of steps.
    """
    limit = MOST_GROWTH * (len(text) + 100)
    for step in steps_of(steps):
        text = after_step(step, text)
        if len(text) > limit:
            raise SlowPattern(f"normalised, a text is more than {MOST_GROWTH} times as long")
    return text


def after_step(step, text):
    """The text after one step of normalising."""
    if isinstance(step, Replace):
        find = partial(match_spans, check_pattern(step.pattern))
        found = in_time(step.pattern, find, text)
        begins, ends = [begin for begin, _ in found], [end for _, end in found]
        kept = [text[a:b] for a, b in zip([0, *ends], [*begins, len(text)])]
        return step.content.join(kept)
    if isinstance(step, Prepend):
        return step.prepend + text if text else text
    if isinstance(step, Strip):
        text = text.lstrip(WHITE) if step.strip_left else text
        return text.rstrip(WHITE) if step.strip_right else text
    if isinstance(step, LeaveOut):
        return text
    if step == LOWERCASE:           # Python makes a final sigma of a sigma at the end of a word
        return text.replace("\u03a3", "\u03c3").lower()
    return normal_form(step, text)


def normal_form(form, text):
    """unicodedata.normalize, in time in proportion to the text.

    Python sorts the marks behind a letter by insertion, in quadratic time. Here long runs of marks
    are decomposed first, and sorted by their class between the marks of class 0.
    """
    return unicodedata.normalize(form, MANY_MARKS.sub(marks_in_order, text))


def marks_in_order(found):
    """A match of many marks -> the marks decomposed and in canonical order."""
    marks = [part for mark in found[0] for part in unicodedata.normalize("NFD", mark)]
    ordered = []
    for _, run in itertools.groupby(marks, lambda mark: unicodedata.combining(mark) > 0):
        ordered += sorted(run, key=unicodedata.combining)
    return "".join(ordered)
