"""filters.py: what a page must be like to be kept, judged one document at a time.

    url_filter          hosts and words that need no reading
    rights              pages that are not to be used, by their own word
    gopher_repetition   text that repeats itself
    gopher_quality      text that is not sentences
    c4_quality          lines, then documents, that are code, notices or stubs
    fineweb_quality     lists, menus, lines said twice
    redact              e-mail and public IP addresses are replaced

Each takes a text and returns (kept text, None) or (None, reason as in FineWeb). Thresholds, counts and words are those of
datatrove 0.10 (2026). FineWeb v1 was made with datatrove 0.2 (April 2024), whose rules version="v1" brings back:

                        0.10, the default                       v1
    gopher_repetition   blank lines are no lines                blank lines repeat each other
    gopher_quality      two different stop words                two stop words, also the same twice
                        152 more marks are symbols
    fineweb_quality     blank lines do not count                they count
                        a line ends in . ! ? or another mark    in . ! ? ' or "
                        drops < 0.12, > 0.67, > 0.01            <= 0.12, >= 0.67, >= 0.01
    redact              e-mail addresses                        those in lower case

The default is 0.10: it mends faults of v1, and later FineWebs run with it. datatrove 0.3 has v1's fineweb_quality and
stop words, 0.4 only its stop words. v1's words were NLTK's, and its c4_quality counted the sentences of NLTK's
Punkt, a trained model; here words and sentences are spaCy's in both. On 1,140 texts of 19 kinds, v1 then keeps or drops
98.1 % like datatrove 0.2 with NLTK 3.10 (measured once), and all if datatrove is given these words (tests/peers/test_data_peers.py).

Different from datatrove: replaced addresses do not depend on earlier documents, and the lists of words in URLs are short.
All of this is for English, as FineWeb is: in other languages datatrove has other words.

All filters look at the same words. A Words has a text's words as numbers in an array, and each different piece between
white space is split only once (web/words.py): texts repeat themselves a lot.

Sources: Penedo et al. 2024 (FineWeb, arXiv 2406.17557); Rae et al. 2021 (Gopher, table A1); Raffel et al. 2020 (C4).
"""

import array
import collections
import functools
import hashlib
import ipaddress
import itertools
import operator
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from run import disk
from web import charset
from web import encoding
from web import markup
import numpy as np
from web import robots
from web.words import split_piece, words  # noqa: F401   words: for others

# ---------------------------------------------------------------------------------------------------------------------
# URLs. FineWeb's lists hold 203 hard words, 88 soft words and 134 subwords; these are a taste.

HARD_WORDS = ("porn porno xxx sex nude nudes hentai milf camgirl webcamsex viagra cialis escorts "
              "casino poker").split()
SOFT_WORDS = ("adult dating cam cams girls hot naked teen teens bet betting slots jackpot roulette "
              "pills hookup sexy").split()
SUBWORDS = ("pornhub freeporn xxxvideo sexcam livesex onlinecasino casinobonus pokeronline "
            "buyviagra cheapviagra cialisonline escortservice").split()
# Under a country's domain these second labels are registries and not sites: co.uk, com.au.
REGISTRIES = set("ac co com edu gen go gob gov gouv gv id info ltd me mil ne net nic nom or org "
                 "plc sch web".split())
URL_PIECES = re.compile(r"[^A-Za-z0-9]+")
IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
MAX_HOST = 253                                              # characters of a name in DNS


class Names:
    """A set of strings as sorted hashes: 8 bytes each, where Python's sets take a hundred. UT1 lists 4.6 million hosts."""

    def __init__(self, names=()):
        self.hashes = np.unique(np.fromiter(map(self.hash, names), np.uint64))

    @staticmethod
    def hash(name):
        return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")

    def __contains__(self, name):
        wanted = np.uint64(self.hash(name))
        at = np.searchsorted(self.hashes, wanted)
        return bool(at < len(self.hashes) and self.hashes[at] == wanted)


@dataclass
class Blocklist:
    """What url_filter refuses. Words are lower case without punctuation, as FineWeb's become."""
    domains: Names | set = field(default_factory=set)
    urls: Names | set = field(default_factory=set)
    hard: frozenset = frozenset(HARD_WORDS)
    soft: frozenset = frozenset(SOFT_WORDS)
    subwords: tuple = tuple(SUBWORDS)
    suffixes: dict | None = None                            # of load_suffixes


def read_list(path):
    """The lines of a list, gzipped or not, without blank ones and comments."""
    return (line for line in map(str.strip, disk.read_lines(path, "replace")) if line and line[0] != "#")


def load_blocklist(paths, hard=None, soft=None, subwords=None, suffixes=None):
    """A Blocklist from UT1 folders (category/domains, category/urls, also split and gzipped: domains.0, urls.gz) or plain files
    of domains. The others are files that replace the lists of words above, and a public suffix list."""
    found = {"domains": [], "urls": []}
    for path in map(Path, paths):
        lists = [(path, "domains")] if path.is_file() else []
        if path.is_dir():
            lists = [(p, p.name.split(".")[0]) for p in sorted(path.rglob("*")) if p.is_file()]
            lists = [(p, kind) for p, kind in lists if kind in found]
        if not lists:
            raise FileNotFoundError(
                f"{path}: no block list; --blocklist takes a UT1 folder with files named domains "
                f"and urls, or a text file with a domain on each line")
        for p, kind in lists:
            found[kind].append(map(str.lower, read_list(p)) if kind == "domains" else read_list(p))
    blocklist = Blocklist(*(Names(itertools.chain.from_iterable(found[kind])) for kind in found))
    for kind, path in (("hard", hard), ("soft", soft), ("subwords", subwords)):
        if path:
            entries = sorted({URL_PIECES.sub("", line).lower() for line in read_list(path)} - {""})
            setattr(blocklist, kind, tuple(entries) if kind == "subwords" else frozenset(entries))
    blocklist.suffixes = load_suffixes(suffixes) if suffixes else None
    return blocklist


def load_suffixes(path):
    """The rules of a public suffix list (publicsuffix.org) up to its private part: {"co.uk": "", "*.ck": "*", "www.ck": "!"}."""
    rules = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            if "===BEGIN PRIVATE DOMAINS===" in line:
                break
            rule = line.split("//")[0].strip()
            if rule:
                name = rule.lstrip("!")
                rules[name if name.isascii() else name.encode("idna").decode()] = rule[0] if rule[0] in "*!" else ""
    if not rules:
        raise ValueError(f"{path}: no rules in it; fetch https://publicsuffix.org/list/public_suffix_list.dat")
    return rules


def host_of(url):
    """Host of a URL in lower case, without user, port or final dot; "" if there is none, or one that DNS could not hold."""
    try:
        host = urlsplit(encoding.stream_safe(url)).netloc.rpartition("@")[2]     # urlsplit normalises what is not ASCII
    except ValueError:
        return ""
    if host.startswith("["):                                # an IPv6 address
        host = host[1:].partition("]")[0]
    else:
        host = host.partition(":")[0]
    host = host.lower().rstrip(".")
    return host if len(host) <= MAX_HOST else ""


def registered_domain(host, suffixes=None):
    """What somebody registered: news.bbc.co.uk -> bbc.co.uk, a.b.com -> b.com; an IP is itself.

    By the rules of load_suffixes, of which the longest counts; without them two labels, or three under a registry such as co.uk.
    """
    labels = host.split(".")
    if IPV4.fullmatch(host) or len(labels) < 2:
        return host
    if suffixes:
        for i in range(len(labels)):                        # from the longest
            name = ".".join(labels[i:])
            if suffixes.get(name) == "!":                   # an exception: the suffix is one label shorter
                return name
            if name in suffixes or ".".join(["*", *labels[i + 1:]]) in suffixes:
                return ".".join(labels[max(i - 1, 0):])
        return ".".join(labels[-2:])                        # no rule: the last label is the suffix
    if len(labels) < 3:
        return host
    return ".".join(labels[-3 if len(labels[-1]) == 2 and labels[-2] in REGISTRIES else -2:])


def url_filter(url, blocklist=Blocklist()):
    """(url, None) or (None, reason). Of the host, only its registered domain and all of it count.

    FineWeb's ways are kept: words are whole pieces of the URL in the case that they have there.
    Two are mended: UT1's `urls` carry no scheme, so the URL is looked up without its scheme too;
    and hosts that are IP addresses are looked up.
    """
    host = host_of(url)
    if not host:
        return None, "no_host"
    if registered_domain(host, blocklist.suffixes) in blocklist.domains:
        return None, "domain"
    if host in blocklist.domains:
        return None, "subdomain"
    if url in blocklist.urls or url.partition("://")[2] in blocklist.urls:
        return None, "url"
    pieces = set(URL_PIECES.split(url))
    if not pieces.isdisjoint(blocklist.hard):
        return None, "hard_blacklisted"
    if len(pieces & blocklist.soft) >= 2:
        return None, "soft_blacklisted"
    squeezed = URL_PIECES.sub("", url).lower()
    if any(word in squeezed for word in blocklist.subwords):
        return None, "blacklisted_subword"
    return url, None


# ---------------------------------------------------------------------------------------------------------------------
# Rights. A page can say that it is not to be used: robots directives, and the TDM Reservation Protocol (W3C community group).
# Of the latter the header and the <meta> are read, not the file of a site (/.well-known/tdmrep.json): no page holds it.

MAX_TAG = 4096                                              # bytes in which a tag names a licence
LINK = re.compile(r"<(?:a|link)[ \t\r\n\f/]", re.I)


def rights(headers, html, date=""):
    """(why a page may not be used or None, the address of its licence or None), from the HTTP headers and the bytes of the page.

    date: when it was fetched (WARC-Date; else the header's Date), for pages that are available until then. A <meta> counts
    wherever it stands in the page, a licence wherever it is linked; neither does in a comment, script, title or template.
    """
    now = robots.moment(date) or robots.moment(headers.get("date", ""))
    for line in robots.lines(headers):
        if said := robots.reservation(line, now):
            return said, None
    if "1" in re.split(r"[,;\s\"']+", headers.get("tdm-reservation", "")):
        return "tdm_reservation", None
    if b"\0" in html[:1000] or b"\x1b$" in html:            # tags in UTF-16 are not ASCII, nor are those in ISO-2022-JP
        html = charset.decode(html, charset.label_in(headers.get("content-type", ""))).encode("utf-8", "replace")
    lower, source = html.lower(), html.decode("latin-1")    # as long as each other
    last_meta, licences = lower.rfind(b"<meta"), licence_links(source, lower)
    last, licence = max(last_meta, *licences, -1), None
    for at, name, inside in markup.tags(source):
        if at > last:
            break
        if name == "meta" and (said := said_by_meta(markup.attributes(inside), now)):
            return said, None
        licence = licence or licences.get(at)
    return None, licence


def said_by_meta(tag, now):
    """Why the <meta> with these attributes forbids the use of its page, or None."""
    if "tdm-reservation" in robots.names_of(tag) and tag.get("content", "").strip(" \t\r\n\"'") == "1":
        return "tdm_reservation"
    return robots.reservation(robots.of_meta(tag), now)


def licence_links(source, lower):
    """{where in the page a tag seems to begin that links its licence: the address}; most pages have none."""
    found, at = {}, lower.find(b"license")
    while at >= 0:
        begin, end = lower.rfind(b"<", max(0, at - MAX_TAG), at), lower.find(b">", at, at + MAX_TAG)
        link = begin >= 0 and end >= 0 and LINK.match(source, begin)
        if link:
            tag = markup.attributes(source[link.end():end].encode("latin-1").decode("utf-8", "replace"))
            if "license" in tag.get("rel", "").lower().split() and tag.get("href", "").strip():
                found[begin] = tag["href"].strip()
        at = lower.find(b"license", max(at + 1, end))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Words and sentences, shared by every filter.

def characters(ranges):                                     # "21 61d-61f" -> {"!", "؝", "؞", "؟"}
    spans = [r.split("-") for r in ranges.split()]
    return frozenset(chr(c) for s in spans for c in range(int(s[0], 16), int(s[-1], 16) + 1))


# datatrove's 129 punctuation marks, and its 159 marks that end a sentence in some script.
PUNCTUATION = characters("""
    0-8 b-1f 21-2f 3a-40 5b-60 7b-9f ab b4 bb 2013-2014 2019 201c-201e 2026 2236 2501 25ba 3001-3002
    3008-300d 3010-3011 ff01 ff05 ff08-ff09 ff0c ff0e ff11 ff1a-ff1b ff1f ff5e""")
END_MARKS = characters("""
    21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e
    1735-1736 17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e
    1c3b-1c3c 1c7e-1c7f 203c-203d 2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff a60e-a60f a6f3 a6f7
    a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 fe56-fe57 ff01 ff0e ff1f ff61
    10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6 111cd
    111de-111df 11238-11239 1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642
    1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f
    16af5 16b37-16b38 16b44 16e98 1bc9f 1da88""")
SYMBOLS = PUNCTUATION | END_MARKS
# spaCy's sentencizer knows 128 of the end marks.
SENTENCE_ENDS = END_MARKS - characters("""
    61d-61e 837 839 83d-83e 17d4-17d6 17d9-17da 1b7d-1b7e 2e53-2e54 10f55-10f59 10f86-10f89
    11944 11946 11ef7-11ef8 11f43-11f44 16e98""")

SYMBOL, ALPHABETIC, STOP, END, MARKS, OLD_SYMBOL = 1, 2, 4, 8, 16, 32   # what a word is, in bits
STOP_WORDS = frozenset("the be to of and that have with".split())


class Vocabulary:
    """Every different piece between white space that was met, and the words in it, as numbers. What the filters ask of a word
    stands in arrays. Only a memory of what words() says: how much of it there is changes no result."""

    MOST, MOST_CHARS = 1 << 20, 1 << 25                     # pieces, and characters of them; with more it begins anew

    def __init__(self):
        self.n_chars = 0
        self.pieces, self.words = {}, {}                    # piece -> its number; word -> its number
        self.first, self.count = array.array("i"), array.array("i")        # of piece i: in_pieces[first:first + count]
        self.in_pieces, self.length, self.kind = array.array("i"), array.array("i"), array.array("B")

    def learn(self, pieces):
        """Give numbers to those of the pieces that have none, and to their words."""
        new = list(itertools.filterfalse(self.pieces.__contains__, dict.fromkeys(pieces)))
        found = list(map(split_piece, new))
        in_pieces = list(itertools.chain.from_iterable(found))
        unknown = list(itertools.filterfalse(self.words.__contains__, dict.fromkeys(in_pieces)))
        self.words.update(zip(unknown, itertools.count(len(self.words))))
        self.length.extend(map(len, unknown))
        self.kind.extend([KIND_OF_PLAIN.get(w, ALPHABETIC) if w.isalpha() and w.isascii() else kind_of(w) for w in unknown])
        count = list(map(len, found))
        self.first.extend(itertools.accumulate(count[:-1], initial=len(self.in_pieces)))
        self.count.extend(count)
        self.in_pieces.extend(map(self.words.__getitem__, in_pieces))
        self.pieces.update(zip(new, itertools.count(len(self.pieces))))
        self.n_chars += sum(map(len, new))


def kind_of(word):
    return (SYMBOL * SYMBOLS.issuperset(word)
            | OLD_SYMBOL * PUNCTUATION.issuperset(word)
            | ALPHABETIC * any(map(str.isalpha, word))
            | END * (word in SENTENCE_ENDS)
            | MARKS * all(unicodedata.category(c)[0] == "P" for c in word))


KIND_OF_PLAIN = dict.fromkeys(STOP_WORDS, ALPHABETIC | STOP)
vocabulary = Vocabulary()


class Words:
    """words(text) as numbers: equal words have equal ones. ids, length, kind (n,); per_piece (pieces,): how many words each has."""

    def __init__(self, text):
        global vocabulary
        if len(vocabulary.pieces) > vocabulary.MOST or vocabulary.n_chars > vocabulary.MOST_CHARS:
            vocabulary = Vocabulary()
        v, self.pieces = vocabulary, text.split()
        try:
            numbers = np.fromiter(map(v.pieces.__getitem__, self.pieces), np.int32, len(self.pieces))
        except KeyError:                                    # some are new
            v.learn(self.pieces)
            numbers = np.fromiter(map(v.pieces.__getitem__, self.pieces), np.int32, len(self.pieces))
        # Views of arrays that grow must not be kept: what is taken by number is a copy.
        first, self.per_piece = (np.frombuffer(a, np.int32)[numbers] for a in (v.first, v.count))
        at = np.repeat(first - (np.cumsum(self.per_piece) - self.per_piece), self.per_piece)
        self.ids = np.frombuffer(v.in_pieces, np.int32)[at + np.arange(len(at))]
        self.length, self.kind = (np.frombuffer(a, a.typecode)[self.ids] for a in (v.length, v.kind))

    def __len__(self):
        return len(self.ids)


words_of = functools.lru_cache(maxsize=2)(Words)            # one filter after the other asks for those of the same text


def sentence_starts(kind, line):                            # (n,) of words, (n,) the line of each -> (m,) lines: one entry for each start
    """After an end mark, the next word that is no punctuation begins a sentence, in the same line."""
    end = (kind & END) > 0
    counts = end | ((kind & MARKS) == 0)
    end, line = end[counts], line[counts]
    return line[1:][end[:-1] & ~end[1:] & (line[1:] == line[:-1])]


def count_sentences(line):
    """1 and one more for each start of a sentence in a line: "" is one.

    White space other than one space is a word to spaCy, and begins a sentence like any other.
    """
    found = Words(line)
    kind = found.kind
    if " ".join(found.pieces) != line:
        gaps = np.array([gap != " " for gap in re.findall(r"\s+", line.strip())], bool)
        kind = np.insert(kind, np.cumsum(found.per_piece)[:-1][gaps], 0)
    return 1 + len(sentence_starts(kind, np.zeros(len(kind), np.int32)))


# ---------------------------------------------------------------------------------------------------------------------
# Quality filters: (kept text, None) or (None, reason as in FineWeb). Comparisons are strict, but for those of v1.

VERSIONS = ("0.10", "v1")                                   # of the rules, see above
TOP_NGRAMS = ((2, 0.20), (3, 0.18), (4, 0.16))
FACTOR = 0x9E3779B97F4A7C15                                 # odd: has an inverse modulo 2^64
DUPLICATE_NGRAMS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))


def repeats(parts):
    """How many parts have come before, and how many characters they hold: (n, chars)."""
    seen, n, chars = set(), 0, 0
    for part in parts:
        if part in seen:
            n, chars = n + 1, chars + len(part)
        seen.add(part)
    return n, chars


def top_ngram_chars(found, n):
    """Length of the most frequent n-gram, spaces included, times its count; of equals the first."""
    if len(found) < n:
        return 0
    ids, N = found.ids.astype(np.uint64), len(found) - n + 1
    numbers = ids[:N].copy()                                # equal for equal n-grams, and for no others but by a miracle
    for k in range(1, n):
        numbers *= np.uint64(FACTOR)
        numbers += ids[k:N + k]
    inorder = np.sort(numbers)
    bounds = np.concatenate([[0], np.flatnonzero(inorder[1:] != inorder[:-1]) + 1, [N]])
    counts = bounds[1:] - bounds[:-1]
    count = int(counts.max())
    most = inorder[bounds[:-1][counts == count]]
    first = int((most[np.minimum(np.searchsorted(most, numbers), len(most) - 1)] == numbers).argmax()) if count > 1 else 0
    return (int(found.length[first:first + n].sum()) + n - 1) * count


@functools.lru_cache(maxsize=8)
def powers(n):                                              # -> FACTOR^i and FACTOR^-i modulo 2^64, (n,) uint64 each
    return tuple(np.cumprod(np.array([1] + [f] * (n - 1), np.uint64)) for f in (FACTOR, pow(FACTOR, -1, 1 << 64)))


def come_again(numbers):                                    # (n,) -> (n,) bool: those that are there more than once
    order, again = np.argsort(numbers, kind="stable"), np.zeros(len(numbers), bool)
    same = numbers[order[1:]] == numbers[order[:-1]]
    again[order[1:][same]] = again[order[:-1][same]] = True
    return again


class WithoutSpaces:
    """A text's words behind each other, and a number for each piece of it, equal for equal pieces: the characters as digits
    to the base FACTOR, from sums over all characters up to a place."""

    def __init__(self, found, least=DUPLICATE_NGRAMS[0][0]):
        self.text = "".join(found.pieces)
        self.at = at = np.concatenate([[0], np.cumsum(found.length)])   # where each word begins
        digits = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        up, self.down = powers(1 << max(12, (len(digits) + 1).bit_length()))
        self.sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((digits + np.uint64(1)) * up[:len(digits)])])
        # What comes again also does so in its first characters. `likely` are the words where as many characters as `least`
        # words have at least begin, and come again: nearly none, so that the search for longer ones is short.
        shortest = (at[least:] - at[:-least]).min(initial=len(digits))
        begin = at[:np.searchsorted(at, len(digits) - shortest, "right")]
        self.likely = np.flatnonzero(come_again(self.numbers(begin, begin + shortest)))

    def numbers(self, begin, end):                          # of the characters [begin, end)
        return (self.sums[end] - self.sums[begin]) * self.down[begin]


def duplicate_ngram_chars(joined, n):
    """Characters in n-grams seen before, scanning from the left and jumping over each one found. As in datatrove n-grams are
    told apart by their characters without the spaces."""
    at, text = joined.at, joined.text
    i = joined.likely[joined.likely + n < len(at)]
    i = i[come_again(joined.numbers(at[i], at[i + n]))]     # what occurs once neither counts nor is found
    seen, chars, free = set(), 0, 0
    for i, begin, end in zip(i.tolist(), at[i].tolist(), at[i + n].tolist()):
        if i >= free:
            ngram = text[begin:end]
            if ngram in seen:
                chars, free = chars + len(ngram), i + n
            seen.add(ngram)
    return chars


def gopher_repetition(text, version="0.10"):
    """Drops text that repeats paragraphs, lines or runs of words, as shares of its characters.

    Lines count when they come again, n-grams as the constants above say.
    """
    if not text:
        return None, "empty"
    size = len(text)
    paragraphs, lines = [text], text.split("\n")
    if "\n\n" in text:
        paragraphs = [part.lstrip("\n") for part in text.strip().split("\n\n") if part.strip("\n")] or [""]
        lines = [line for line in lines if line] + [""] * (text.startswith("\n") + text.endswith("\n"))
    if version == "v1":
        lines = text.splitlines()                           # with the blank ones
    for what, parts in (("para", paragraphs), ("line", lines)):
        n, chars = repeats(parts)
        if n / len(parts) > 0.3:
            return None, f"dup_{what}_frac"
        if chars / size > 0.2:
            return None, f"dup_{what}_char_frac"
    found = words_of(text)
    for n, limit in TOP_NGRAMS:
        if top_ngram_chars(found, n) / size > limit:
            return None, f"top_{n}_gram"
    joined = WithoutSpaces(found)
    for n, limit in DUPLICATE_NGRAMS:
        if duplicate_ngram_chars(joined, n) / size > limit:
            return None, f"duplicated_{n}_n_grams"
    return text, None


def gopher_quality(text, version="0.10"):
    """Drops text that is no prose: its length, its words, hashes, ellipses, bullets, stop words."""
    found = words_of(text)
    real = (found.kind & (OLD_SYMBOL if version == "v1" else SYMBOL)) == 0
    n_real, n_words = int(real.sum()), len(found)
    if n_real < 50:
        return None, "gopher_short_doc"
    if n_real > 100_000:
        return None, "gopher_long_doc"
    mean = int(found.length[real].sum()) / n_real
    if mean < 3:
        return None, "gopher_below_avg_threshold"
    if mean > 10:
        return None, "gopher_above_avg_threshold"
    if text.count("#") / n_words > 0.1:
        return None, "gopher_too_many_hashes"
    if (text.count("...") + text.count("…")) / n_words > 0.1:
        return None, "gopher_too_many_ellipsis"
    lines = text.splitlines()
    if sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines) > 0.9:
        return None, "gopher_too_many_bullets"
    if sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines) > 0.3:
        return None, "gopher_too_many_end_ellipsis"
    if int(((found.kind & ALPHABETIC) > 0).sum()) / n_words < 0.8:
        return None, "gopher_below_alpha_threshold"
    stop_words = found.ids[(found.kind & STOP) > 0]         # in lower case: The does not count
    if version != "v1":                                     # which counts the same one twice
        stop_words = np.unique(stop_words)
    if len(stop_words) < 2:
        return None, "gopher_enough_stop_words"
    return text, None


CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
          "use cookies")


def c4_quality(text):
    """Drops lines that are scripts, notices or stubs, and documents of code. Rewrites the text.

    As FineWeb runs it: no line needs to end in a full stop, and two numbers of the C4 paper are
    swapped, so that a line needs 3 words and a document 5 sentences.
    """
    lower = text.lower()
    suspects = "[", "{", "lorem ipsum", "javascript", "policy", "cookies", "terms"
    suspect = any(word in lower for word in suspects)
    kept, n_sentences = [], 0
    n_pieces, keep = [], []         # of every line: pieces between white space, and whether the text's words in it count
    for line in text.splitlines():
        line = line.strip()
        pieces = line.split()
        n_pieces.append(len(pieces))
        keep.append(False)
        if len(pieces) < 3 or len(line) > 1000 and max(map(len, pieces)) > 1000:
            continue
        as_it_was = " ".join(pieces) == line
        if suspect:
            if CITATION.search(line):
                line, as_it_was = CITATION.sub("", line), False
            lower = line.lower()
            if "lorem ipsum" in lower:
                return None, "lorem_ipsum"
            if "javascript" in lower:
                continue
            if "{" in line:
                return None, "curly_bracket"
            if any(notice in lower for notice in POLICY):
                continue
        kept.append(line)
        if as_it_was:
            keep[-1] = True
        else:
            n_sentences += count_sentences(line)
    found = words_of(text)
    line = np.repeat(np.repeat(np.arange(len(keep)), n_pieces), found.per_piece)
    stays = np.array(keep, bool)[line]
    n_sentences += sum(keep) + len(sentence_starts(found.kind[stays], line[stays]))     # every line begins one
    if n_sentences < 5:
        return None, "too_few_sentences"
    return "\n".join(kept).strip(), None


OLD_ENDS = (".", "'", '"', "!", "?")


def fineweb_quality(text, version="0.10"):
    """Drops what looks like a list or a menu: FineWeb's three rules, and one only in its code."""
    v1 = version == "v1"
    lines = text.split("\n")
    filled = [line for line in lines if line.strip()]
    if not filled:
        return None, "line_punct_ratio" if v1 else "empty"
    if not v1:
        lines = filled
    above = operator.ge if v1 else operator.gt
    ended = sum(line.endswith(OLD_ENDS) if v1 else line[-1] in END_MARKS for line in lines)
    if above(0.12, ended / len(lines)):
        return None, "line_punct_ratio"
    if above(sum(len(line) <= 30 for line in lines) / len(lines), 0.67):
        return None, "short_line_ratio"
    if above(repeats(filled)[1] / len(text.replace("\n", "")), 0.01):
        return None, "char_dup_ratio"
    n_breaks = text.count("\n")                             # the pieces between white space are no more than the words, and cheap
    if n_breaks / len(text.split()) > 0.3 and n_breaks / len(words_of(text)) > 0.3:
        return None, "list_ratio"
    return text, None

# ---------------------------------------------------------------------------------------------------------------------
# Personal data: e-mail addresses and public IPv4 addresses give way to reserved or dead ones.

ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
OCTET = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
Email = collections.namedtuple("Email", "begin user domain")
EMAIL_SOURCES = Email(
    rf"\b{ATOM}",
    rf"{ATOM}+(?:\.{ATOM}+)*",                               # the same backwards
    rf"(?:{LABEL}\.)+{LABEL}|\[(?:{OCTET}\.){{3}}(?:{OCTET}|[A-Za-z0-9-]*[A-Za-z0-9]:)\]")
EMAIL = {"0.10": Email(*map(re.compile, EMAIL_SOURCES)),
         "v1": Email(*(re.compile(pattern.replace("A-Z", "")) for pattern in EMAIL_SOURCES))}
IP = re.compile(rf"(?:{OCTET}\.){{3}}{OCTET}")
EMAILS = ("email@example.com", "firstname.lastname@example.org")
IPS = ("22.214.171.124", "126.96.36.199", "188.8.131.52", "184.108.40.206", "220.127.116.11",
       "18.104.22.168")
# US social security numbers as they are given out, and North American telephone numbers; and numbers that belong to nobody.
SSN = re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
PHONE = re.compile(r"(?<![\w.+-])(?:\+?1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}(?![\w-])")
NOBODYS_SSN, NOBODYS_PHONE = "000-00-0000", "555-0100"


def redact_emails(text, version="0.10"):
    """As if \\b USER @ DOMAIN were one pattern, but looked for around each @: that takes linear time."""
    email = EMAIL[version]
    out, done, before, at = [], 0, 0, text.find("@")
    while at >= 0:
        found = email.user.match(text[before:at][::-1])
        start = found and email.begin.search(text, at - found.end(), at)
        domain = start and email.domain.match(text, at + 1)
        if domain:
            out += text[done:start.start()], EMAILS[len(out) // 2 % len(EMAILS)]
            done = domain.end()
        before = max(done, at + 1)
        at = text.find("@", before)
    return "".join(out) + text[done:]


def redact(text, kinds=("email", "ip"), version="0.10"):
    """The text with e-mail and public IPv4 addresses replaced by the above, in turn; of kinds also "ssn" and "phone".

    datatrove goes on through the replacements from document to document; here each begins anew.
    """
    n = 0

    def replace(found):
        nonlocal n
        try:
            if not ipaddress.ip_address(found[0]).is_global:
                return found[0]
        except ValueError:                                  # octets with leading zeros
            return found[0]
        n += 1
        return IPS[(n - 1) % len(IPS)]
    if "email" in kinds:
        text = redact_emails(text, version)
    if "ip" in kinds:
        text = IP.sub(replace, text)
    if "ssn" in kinds:
        text = SSN.sub(NOBODYS_SSN, text)
    return PHONE.sub(NOBODYS_PHONE, text) if "phone" in kinds else text
