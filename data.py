"""A raw web crawl in, clean documents out: FineWeb's recipe, stage by stage, on one machine.

    url                 hosts and words that need no reading
    extract             HTML -> main text                           (extract.py)
    language            English, and sure of it                     (language.py)
    gopher_repetition   text that repeats itself
    gopher_quality      text that is not sentences
    minhash             near-duplicates of an earlier document
    c4                  lines, then documents, that are code, notices or stubs
    fineweb             lists, menus, lines said twice
    pii                 e-mail and public IP addresses are replaced

The order is that of the FineWeb paper (section 3.7): near-duplicates go before the C4 rules rewrite
the text. Thresholds and counts are those of datatrove 0.10, the code that FineWeb runs. Different
from it: words come from one regular expression and not from spaCy (tests/peers/test_data_peers.py has the
effect), replaced addresses do not depend on earlier documents, and the lists of words in URLs are
short.

    python data.py --run out/demo                        reads out/demo/crawl/*.warc.gz
    python data.py CC-MAIN-x.warc.gz --run out/cc --blocklist ut1/adult --language-model lid.176.ftz

Sources: Penedo et al. 2024 (FineWeb, arXiv 2406.17557); Rae et al. 2021 (Gopher, table A1); Raffel
et al. 2020 (C4); Broder 1997 (MinHash); ISO 28500 (WARC).
"""
import argparse
import contextlib
import fcntl
import functools
import gzip
import hashlib
import io
import ipaddress
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import regex

import extract
from warc import Record, is_html, read_warc  # noqa: F401  data.read_warc is how others call it

STAGES = ("url", "extract", "language", "gopher_repetition", "gopher_quality", "minhash",
          "c4", "fineweb", "pii")
COLUMNS = ("text", "id", "dump", "url", "date", "file_path", "language", "language_score",
           "token_count")
LANGUAGE_THRESHOLD = 0.65
SHARD_DOCUMENTS = 10_000

# --------------------------------------------------------------------------------------------------
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


@dataclass
class Blocklist:
    """What url_filter refuses. Words are lower case without punctuation, as FineWeb's become."""
    domains: set = field(default_factory=set)
    urls: set = field(default_factory=set)
    hard: frozenset = frozenset(HARD_WORDS)
    soft: frozenset = frozenset(SOFT_WORDS)
    subwords: tuple = tuple(SUBWORDS)


def load_blocklist(paths):
    """A Blocklist from UT1 folders (category/domains, category/urls) or plain files of domains."""
    blocklist = Blocklist()
    for path in map(Path, paths):
        if path.is_dir():                                   # big lists are split: domains.0 ...
            lists = [(p, p.name.split(".")[0]) for p in sorted(path.rglob("*")) if p.is_file()]
            lists = [(p, kind) for p, kind in lists if kind in ("domains", "urls")]
        else:
            lists = [(path, "domains")] if path.exists() else []
        if not lists:
            raise FileNotFoundError(
                f"{path}: no block list; --blocklist takes a UT1 folder with files named domains "
                f"and urls, or a text file with a domain on each line")
        for p, kind in lists:
            lines = map(str.strip, p.read_text(encoding="utf-8", errors="replace").splitlines())
            entries = (line for line in lines if line and line[0] != "#")
            fold = str.lower if kind == "domains" else str
            getattr(blocklist, kind).update(map(fold, entries))
    return blocklist


def host_of(url):
    """Host of a URL in lower case, without user, port or final dot; "" if there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def registered_domain(host):
    """What somebody registered: news.bbc.co.uk -> bbc.co.uk, a.b.com -> b.com; an IP is itself.

    Stands in for the public suffix list: two labels, or three under a registry such as co.uk.
    """
    labels = host.split(".")
    if IPV4.fullmatch(host) or len(labels) < 3:
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
    if registered_domain(host) in blocklist.domains:
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


# --------------------------------------------------------------------------------------------------
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

# Alternatives in the order they are tried; abbreviations, of spaCy's list, keep their stop so that
# it ends no sentence. Possessive (++), and the e-mail bounded, so that no text costs more than its
# length. 99 % of the tokens of 90 news pages are spaCy's (tests/peers/test_data_peers.py).
WORD = regex.compile(r"""(?x)
    (?:https?://|www\.)[^\s<>"']*[\w/]                      # a URL
  | [\w.+-]{1,64}+@[\w-]+(?:\.[\w-]+)+                      # an e-mail address
  | (?:\p{L}\.){2,}+ | \b\p{L}\.(?!\S)                      # U.S.  e.g.  J. Smith
  | \b(?:Mrs?|Ms|Dr|Prof|St|Jr|Messrs|Bros|Inc|Ltd|Co|Corp|Gen|Gov|Sen|Rep|Rev|Adm|Mt|vs|Jan|Feb|Mar
        |Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Ark|Calif|Fla|Ga|Ill|Ind|Ky|Mass|Mich|Minn|Neb|Va|Wash
        |Wis)\.
  | \d++(?:[.,:/]\d++)*+\p{L}*+                             # 3.14  1,000  10:30  20th
  | [Cc]an(?=not\b)
  | (?:(?!n['’]t\b)[\p{L}\p{M}\p{N}])++                     # a word, up to the n't of don't
    (?:['’](?!(?:s|m|d|ll|re|ve)\b)[\p{L}\p{M}]++           # ... and on: O'Neill
      |\.\p{Ll}[\p{L}\p{M}\p{N}]*+)*+                       # ... node.js
  | n['’]t\b | ['’](?:s|m|d|ll|re|ve)\b
  | \.{2,}+ | -{2,}+
  | \S
""")


def words(text):
    """Tokens of a text: words, numbers, clitics, single marks. None holds white space.

    >>> words("Mr. Li's 3.14 isn't well-known.")
    ['Mr.', 'Li', "'s", '3.14', 'is', "n't", 'well', '-', 'known', '.']
    """
    return WORD.findall(text)


def count_sentences(text):
    """After an end mark, the next token that is no punctuation begins a sentence; "" is one."""
    n, ended = 1, False
    for token in words(text):
        if token in END_MARKS:
            ended = True
        elif ended and not all(unicodedata.category(c)[0] == "P" for c in token):
            n, ended = n + 1, False
    return n


# --------------------------------------------------------------------------------------------------
# Quality filters: (kept text, None) or (None, reason as in FineWeb). Comparisons are strict.

TOP_NGRAMS = ((2, 0.20), (3, 0.18), (4, 0.16))
DUPLICATE_NGRAMS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
STOP_WORDS = frozenset("the be to of and that have with".split())


def repeats(parts):
    """How many parts have come before, and how many characters they hold: (n, chars)."""
    seen, n, chars = set(), 0, 0
    for part in parts:
        if part in seen:
            n, chars = n + 1, chars + len(part)
        seen.add(part)
    return n, chars


def top_ngram_chars(tokens, n):
    """Length of the most frequent n-gram, spaces included, times its count; of equals the first."""
    counts = Counter(map(" ".join, zip(*(tokens[i:] for i in range(n)))))
    ngram, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
    return len(ngram) * count


def duplicate_ngram_chars(tokens, n):
    """Characters in n-grams seen before, scanning from the left and jumping over each one found."""
    seen, chars, i = set(), 0, 0
    while i <= len(tokens) - n:
        ngram = "".join(tokens[i:i + n])
        if ngram in seen:
            chars += len(ngram)
            i += n
        else:
            seen.add(ngram)
            i += 1
    return chars


def gopher_repetition(text, tokens=None):
    """Drops text that repeats paragraphs, lines or runs of words, as shares of its characters.

    Lines count when they come again, n-grams as the constants above say. Pass tokens to save time.
    """
    size = max(len(text), 1)
    paragraphs, lines = re.split(r"\n{2,}", text.strip()), re.split(r"\n+", text)
    for what, parts in (("para", paragraphs), ("line", lines)):
        n, chars = repeats(parts)
        if n / len(parts) > 0.3:
            return None, f"dup_{what}_frac"
        if chars / size > 0.2:
            return None, f"dup_{what}_char_frac"
    tokens = words(text) if tokens is None else tokens
    for n, limit in TOP_NGRAMS:
        if top_ngram_chars(tokens, n) / size > limit:
            return None, f"top_{n}_gram"
    for n, limit in DUPLICATE_NGRAMS:
        if duplicate_ngram_chars(tokens, n) / size > limit:
            return None, f"duplicated_{n}_n_grams"
    return text, None


def gopher_quality(text, tokens=None):
    """Drops text that is no prose: its length, its words, hashes, ellipses, bullets, stop words."""
    tokens = words(text) if tokens is None else tokens
    real = [t for t in tokens if not SYMBOLS.issuperset(t)]
    if len(real) < 50:
        return None, "gopher_short_doc"
    if len(real) > 100_000:
        return None, "gopher_long_doc"
    mean = sum(map(len, real)) / len(real)
    if mean < 3:
        return None, "gopher_below_avg_threshold"
    if mean > 10:
        return None, "gopher_above_avg_threshold"
    if text.count("#") / len(tokens) > 0.1:
        return None, "gopher_too_many_hashes"
    if (text.count("...") + text.count("…")) / len(tokens) > 0.1:
        return None, "gopher_too_many_ellipsis"
    lines = text.splitlines()
    if sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines) > 0.9:
        return None, "gopher_too_many_bullets"
    if sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines) > 0.3:
        return None, "gopher_too_many_end_ellipsis"
    if sum(any(map(str.isalpha, t)) for t in tokens) / len(tokens) < 0.8:
        return None, "gopher_below_alpha_threshold"
    if len(STOP_WORDS.intersection(tokens)) < 2:            # in lower case: The does not count
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
    kept, sentences = [], 0
    for line in text.splitlines():
        line = line.strip()
        pieces = line.split()
        if len(pieces) < 3 or max(map(len, pieces)) > 1000:
            continue
        line = CITATION.sub("", line)
        lower = line.lower()
        if "lorem ipsum" in lower:
            return None, "lorem_ipsum"
        if "javascript" in lower:
            continue
        if "{" in line:
            return None, "curly_bracket"
        if any(notice in lower for notice in POLICY):
            continue
        sentences += count_sentences(line)
        kept.append(line)
    if sentences < 5:
        return None, "too_few_sentences"
    return "\n".join(kept).strip(), None


def fineweb_quality(text):
    """Drops what looks like a list or a menu: FineWeb's three rules, and one only in its code."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return None, "empty"
    if sum(line[-1] in END_MARKS for line in lines) / len(lines) < 0.12:
        return None, "line_punct_ratio"
    if sum(len(line) <= 30 for line in lines) / len(lines) > 0.67:
        return None, "short_line_ratio"
    if repeats(lines)[1] / len(text.replace("\n", "")) > 0.01:
        return None, "char_dup_ratio"
    if text.count("\n") / len(words(text)) > 0.3:
        return None, "list_ratio"
    return text, None


# --------------------------------------------------------------------------------------------------
# MinHash: 112 minima over the hashed 5-grams of words. Two documents that share s of their 5-grams
# agree in each with probability s, and in one of 14 bands of 8 with 1 - (1 - s^8)^14.

SHINGLE, BANDS, ROWS = 5, 14, 8
MERSENNE = np.uint64((1 << 61) - 1)
NO_SIGNATURE = np.uint64(0xFFFFFFFFFFFFFFFF)                # minima are below 2^61
NUMBER = regex.compile(r"\p{Nd}+(?:[.,،٫⎖⎗⎘]\p{Nd}+)?")
TO_SPACE = {ord(c): " " for c in PUNCTUATION}


@functools.cache
def permutations():                                         # -> a, b (112,) uint64
    """datatrove's multipliers and offsets: what NumPy's old generator draws after seed 1."""
    rng, n = np.random.RandomState(1), BANDS * ROWS
    return rng.randint(1, MERSENNE, n, np.uint64), rng.randint(0, MERSENNE, n, np.uint64)


def normalize(text):
    """By what documents are compared: lower case, numbers 0, no punctuation or accents."""
    text = NUMBER.sub("0", text.lower()).translate(TO_SPACE)
    text = unicodedata.normalize("NFD", extract.stream_safe(" ".join(text.split())))
    if not text.isascii():
        text = "".join(c for c in text if unicodedata.category(c) != "Mn")
    return text.strip()


def shingle_hashes(tokens):                                 # T tokens -> (T-4,) uint64
    grams = map(" ".join, zip(*(tokens[i:] for i in range(SHINGLE))))
    return np.frombuffer(b"".join(hashlib.sha1(g.encode()).digest()[:8] for g in grams), "<u8")


def minhash(texts):                                         # n texts -> (n, 112) uint64
    """Signatures, bit for bit datatrove's: min over shingles h of (h*a + b mod 2^64) mod (2^61-1).

    The product wraps at 64 bits before the modulus, so this is no permutation by the book. A text
    of fewer than 5 words has no shingle: its row is all ones, and it is nobody's duplicate.
    """
    a, b = permutations()
    signatures = np.full((len(texts), BANDS * ROWS), NO_SIGNATURE, np.uint64)
    for row, text in zip(signatures, texts):
        hashes = shingle_hashes(words(normalize(text)))
        for at in range(0, len(hashes), 4096):              # 100,000 words need no 90 MB
            permuted = (hashes[at:at + 4096, None] * a + b) % MERSENNE      # (4096, 112)
            np.minimum(row, permuted.min(0), out=row)
    return signatures


def keep_first(signatures):                                 # (n, 112) uint64 -> (n,) bool
    """True for the earliest document of each cluster, of all that equal bands link in any steps."""
    n = len(signatures)
    root = np.arange(n)                                     # the earliest known of the cluster
    real = np.flatnonzero(signatures[:, 0] != NO_SIGNATURE)
    left, right = [], []
    for k in range(BANDS):
        band = signatures[real, k * ROWS:(k + 1) * ROWS]    # (n, 8)
        key = np.zeros(len(real), np.uint64)                # the 8 as one; brings equals together
        for j in range(ROWS):
            key = (key ^ band[:, j]) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        order = np.argsort(key, kind="stable")
        same = (band[order[1:]] == band[order[:-1]]).all(1)
        left.append(real[order[:-1][same]])                 # m equals make a chain of m-1 pairs
        right.append(real[order[1:][same]])
    left, right = np.concatenate(left), np.concatenate(right)
    while len(left):
        low, high = np.minimum(root[left], root[right]), np.maximum(root[left], root[right])
        differ = low < high
        root[high[differ]] = low[differ]                    # hang later roots under earlier ones
        while (root[root] != root).any():
            root = root[root]                               # halve every path
        left, right = left[differ], right[differ]
    return root == np.arange(n)


def deduplicate(texts):                                     # n texts -> (n,) bool
    """True for documents to keep: the earliest of each cluster, and those without duplicates."""
    return keep_first(minhash(texts))


# --------------------------------------------------------------------------------------------------
# Personal data: e-mail addresses and public IPv4 addresses give way to reserved or dead ones.

ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
OCTET = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
LOCAL = re.compile(rf"\b{ATOM}+(?:\.{ATOM}+)*@")
DOMAIN = re.compile(rf"(?:{LABEL}\.)+{LABEL}"
                    rf"|\[(?:{OCTET}\.){{3}}(?:{OCTET}|[A-Za-z0-9-]*[A-Za-z0-9]:)\]")
IP = re.compile(rf"(?:{OCTET}\.){{3}}{OCTET}")
EMAILS = ("email@example.com", "firstname.lastname@example.org")
IPS = ("22.214.171.124", "126.96.36.199", "188.8.131.52", "184.108.40.206", "220.127.116.11",
       "18.104.22.168")
MAX_LOCAL = 256                   # characters looked at before an @: keeps hostile text linear


def redact_emails(text):
    """As if LOCAL DOMAIN were one pattern, but begun at each @: long runs cost nothing."""
    out, done, before, at = [], 0, 0, text.find("@")
    while at >= 0:
        local = LOCAL.search(text, max(before, at - MAX_LOCAL), at + 1)
        domain = local and DOMAIN.match(text, at + 1)
        if domain:
            out += text[done:local.start()], EMAILS[len(out) // 2 % len(EMAILS)]
            done = domain.end()
        before = max(done, at + 1)
        at = text.find("@", before)
    return "".join(out) + text[done:]


def redact(text):
    """The text with e-mail and public IPv4 addresses replaced by the above, in turn.

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
    return IP.sub(replace, redact_emails(text))


# --------------------------------------------------------------------------------------------------
# The pipeline. A document is a dict that collects FineWeb's columns. Duplicates are known only when
# all documents are, hence two passes; in each, workers take documents through their stages.

class Stages:
    """One method a stage: document -> (kept text, None) or (None, reason). One in every worker."""

    def __init__(self, blocklist, languages, model, tokenizer):
        import language                                     # here, so that reading WARCs needs none
        self.blocklist, self.languages = blocklist, frozenset(languages)
        self.classifier, self.tokenizer = language.load(model), None
        if tokenizer:
            import bpe
            self.tokenizer = bpe.Tokenizer.load(tokenizer)

    def url(self, doc):
        return url_filter(doc["url"], self.blocklist)

    def extract(self, doc):
        record = doc.pop("record")
        if record.undecodable:
            return None, "undecodable"
        if not is_html(record):
            return None, "not_html"
        text = extract.main_text(record.body, record.url, record.charset)
        return (text, None) if text else (None, "empty")

    def language(self, doc):
        [label], [score] = self.classifier.predict([doc["text"].replace("\n", " ")])
        doc["language"], doc["language_score"] = str(label), float(score)
        if label not in self.languages:
            return None, "language"
        return (doc["text"], None) if score > LANGUAGE_THRESHOLD else (None, "low_score")

    def gopher_repetition(self, doc):
        doc["words"] = words(doc["text"])
        return gopher_repetition(doc["text"], doc["words"])

    def gopher_quality(self, doc):
        return gopher_quality(doc["text"], doc.pop("words"))

    def minhash(self, doc):
        doc["signature"] = minhash([doc["text"]])[0]
        return doc["text"], None

    def c4(self, doc):
        return c4_quality(doc["text"])

    def fineweb(self, doc):
        return fineweb_quality(doc["text"])

    def pii(self, doc):
        text = redact(doc["text"])
        doc["token_count"] = len(self.tokenizer.encode_ordinary(text)) if self.tokenizer else None
        return text, None


WORKER = None                                               # the Stages of this process


def start_worker(*settings):
    global WORKER
    WORKER = Stages(*settings)


def through(doc, stages):
    """Take a document through stages until one drops it, noting in doc["trail"] what each cost.

    A stage that fails on a document drops it under the error's name: one page must not end a crawl.
    """
    doc["trail"], doc["reason"] = [], None
    size = len(doc["record"].body) if "record" in doc else len(doc["text"].encode())
    for stage in stages:
        start = time.process_time()
        try:
            text, doc["reason"] = getattr(WORKER, stage)(doc)
            n_out = 0 if text is None else size if stage == "url" else len(text.encode())
        except Exception as error:
            text, n_out, doc["reason"] = None, 0, f"error_{type(error).__name__}"
        n_in, size = size, n_out
        doc["trail"].append((stage, n_in, size, time.process_time() - start))
        if text is None:
            doc.pop("record", None)
            break
        if stage != "url":
            doc["text"] = text
    return doc


first_pass = functools.partial(through, stages=STAGES[:6])
second_pass = functools.partial(through, stages=STAGES[6:])


def work(pipe, far_end, settings):
    """A worker process: answers lists of documents until the process at the far end is gone."""
    far_end.close()                                         # a copy would keep the pipe alive
    if WORKER is None:                                      # a forked one has its parent's
        start_worker(*settings)
    try:
        while True:
            each, docs = pipe.recv()
            pipe.send([each(doc) for doc in docs])
    except (EOFError, OSError):
        pass


@contextlib.contextmanager
def alive(process):
    try:
        yield
    except (EOFError, OSError):                             # of its pipe
        process.join(1)
        raise ChildProcessError(
            f"worker process {process.pid} has died (exit code {process.exitcode}), so nothing was "
            f"written; if it was for want of memory, use fewer --workers") from None


def in_order(workers, each, docs):
    """map(each, docs), done by workers, {pipe: process}, a few documents at a time.

    ChildProcessError if one of them dies.
    """
    lists = enumerate(iter(lambda docs=iter(docs): list(itertools.islice(docs, 8)), []))
    idle, busy, done, turn = list(workers), {}, {}, 0       # busy: pipe -> number of its list
    todo = next(lists, None)
    while todo or busy or done:
        while todo and idle and todo[0] < turn + 4 * len(workers):
            pipe = idle.pop()
            with alive(workers[pipe]):
                pipe.send((each, todo[1]))
            busy[pipe] = todo[0]
            todo = next(lists, None)                        # is read while they work
        while turn in done:
            yield from done.pop(turn)
            turn += 1
        for pipe in wait(busy) if busy else ():
            with alive(workers[pipe]):
                done[busy.pop(pipe)] = pipe.recv()
            idle.append(pipe)


@contextlib.contextmanager
def uninterrupted():
    """Ctrl-C does nothing in the block, and never anything to processes that are started in it."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def worker_processes(n, settings):
    """A function like map that has n processes do the work. They end with the block."""
    if n == 1:
        yield map
        return
    workers = {}
    try:
        with uninterrupted():
            for _ in range(n):
                pipe, end = multiprocessing.Pipe()
                process = multiprocessing.Process(target=work, args=(end, pipe, settings),
                                                  daemon=True)
                process.start()
                end.close()
                workers[pipe] = process
        yield functools.partial(in_order, workers)
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join()


class Report:
    """Counts of every stage, and the list of what was dropped, as the documents come by."""

    def __init__(self, dropped):
        self.dropped, self.reader = dropped, Counter()
        self.stages = {stage: Counter() for stage in STAGES}
        self.reasons = {stage: Counter() for stage in STAGES}
        self.examples = {stage: defaultdict(list) for stage in STAGES}

    def add(self, doc):
        for stage, n_in, n_out, seconds in doc["trail"]:
            self.stages[stage].update(documents_in=1, documents_out=1, bytes_in=n_in,
                                      bytes_out=n_out, seconds=seconds)
        if doc["reason"]:
            self.drop(doc, stage, doc["reason"])

    def drop(self, doc, stage, reason):
        self.stages[stage]["documents_out"] -= 1
        self.reasons[stage][reason] += 1
        if len(self.examples[stage][reason]) < 3:
            example = {"url": doc["url"], "text": doc.get("text", "")[:300]}
            self.examples[stage][reason].append(example)
        self.dropped.write(f"{doc['url']}\t{stage}\t{reason}\n")

    def as_dict(self):
        stages = {}
        for stage, row in self.stages.items():
            counts = {k: row[k] for k in ("documents_in", "documents_out", "bytes_in", "bytes_out")}
            stages[stage] = counts | {"seconds": round(row["seconds"], 3),
                                      "reasons": dict(self.reasons[stage].most_common()),
                                      "examples": self.examples[stage]}
        return {"stages": stages, "reader": dict(sorted(self.reader.items())),
                "note": "seconds are CPU seconds of the stage, summed over workers"}

    def table(self):
        lines = [f"{'stage':<18}{'in':>9}{'out':>9}{'dropped':>9}{'MB in':>10}{'MB out':>10}"
                 f"{'CPU s':>9}  main reasons"]
        for stage, row in self.stages.items():
            n, kept = row["documents_in"], row["documents_out"]
            reasons = ", ".join(f"{why} {k}" for why, k in self.reasons[stage].most_common(3))
            lines.append(f"{stage:<18}{n:>9}{kept:>9}{1 - kept / max(n, 1):>9.1%}"
                         f"{row['bytes_in'] / 1e6:>10.2f}{row['bytes_out'] / 1e6:>10.2f}"
                         f"{row['seconds']:>9.2f}  {reasons}".rstrip())
        return "\n".join(lines)


class GzipText(io.TextIOWrapper):
    """Text that is gzipped into a file; the bytes depend on the text only: no name, no time."""

    def __init__(self, file):
        packer = gzip.GzipFile("", "wb", 6, file, mtime=0)
        super().__init__(packer, encoding="utf-8", newline="\n")
        self.file = file

    def close(self):
        try:
            super().close()
        finally:
            self.file.close()                               # GzipFile leaves it and its last bytes


def gzip_text(path):
    return GzipText(open(path, "wb"))


@contextlib.contextmanager
def locked(folder):
    """Keeps a second data.py out of the folder: ValueError for that one.

    The lock is not the file but the system's, for this process without its workers: a dead process
    holds none, whatever it left.
    """
    path = folder / ".lock"
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.fstat(file.fileno()).st_nlink > 0     # else the other one has just ended
        except (BlockingIOError, PermissionError):
            free = False
        if not free:
            raise ValueError(f"{folder}: another data.py is writing there; wait for its end, or "
                             f"name another folder with --run")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def find_warcs(paths, run_dir):
    """The WARC files that paths name, folders listed in order; without paths those of RUN/crawl."""
    files = []
    for path in [Path(p) for p in paths] or [Path(run_dir) / "crawl"]:
        here = [path]
        if path.is_dir():
            here = sorted(p for p in path.iterdir() if p.name.endswith((".warc", ".warc.gz")))
        if not paths and not (path.is_dir() and here):
            raise FileNotFoundError(f"{path}: no WARC files; make the embedded crawl with: "
                                    f"python toyweb.py --run {run_dir}")
        if not here:
            raise FileNotFoundError(f"{path}: no *.warc or *.warc.gz files in it")
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        files += here
    return files


def documents(files, run_dir, dump, counts):
    """A document for every response in the files, in order."""
    for path in files:
        name = path.relative_to(run_dir) if path.is_relative_to(run_dir) else path
        crawl = re.search(r"CC-MAIN-\d{4}-\d{2}", str(path))
        for record in read_warc(path, counts):
            if record.type == "response":
                yield {"url": record.url, "id": record.id, "date": record.date,
                       "dump": dump or (crawl[0] if crawl else "local"),
                       "file_path": name.as_posix(), "record": record}


def progress(items, what):
    start = time.perf_counter()
    for n, item in enumerate(items, 1):
        if n % 500 == 0:
            speed = n / (time.perf_counter() - start)
            print(f"{what}: {n} documents, {speed:.0f} a second", file=sys.stderr, flush=True)
        yield item


def run(paths, run_dir, blocklist=(), languages=("en",), workers=None, dump=None,
        language_model=None, tokenizer=None):
    """Read WARCs, write RUN/docs: shards of documents, dropped.tsv.gz, report.json. -> Report

    Workers get single documents and answer in input order, so their number changes nothing that is
    written. All is made in RUN/docs/.new and moved when complete, report.json last.
    """
    files, workers = find_warcs(paths, run_dir), workers or os.cpu_count()
    settings = (load_blocklist(blocklist), languages, language_model, tokenizer)
    start_worker(*settings)                                 # before all else: mistakes show at once
    docs = Path(run_dir) / "docs"
    docs.mkdir(parents=True, exist_ok=True)
    new = docs / ".new"
    with locked(docs):
        shutil.rmtree(new, ignore_errors=True)              # of a run that was killed
        new.mkdir()
        try:
            with worker_processes(workers, settings) as each:
                report = make(new, files, Path(run_dir), dump, each)
            with uninterrupted():
                (docs / "report.json").unlink(missing_ok=True)          # none until the last move
                for old in docs.glob("*.jsonl.gz"):
                    old.unlink()
                for path in sorted(new.iterdir(), key=lambda p: (p.name == "report.json", p.name)):
                    path.replace(docs / path.name)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return report


def make(folder, files, run_dir, dump, each):
    """Write all that run() promises into an empty folder; each is like map. -> Report"""
    with gzip_text(folder / "dropped.tsv.gz") as dropped:
        dropped.write("url\tstage\treason\n")
        report = Report(dropped)
        found = documents(files, run_dir, dump, report.reader)
        spool, signatures = folder / "spool.jsonl", []
        with open(spool, "w", encoding="utf-8") as out:
            for doc in progress(each(first_pass, found), "pass 1"):
                report.add(doc)
                if not doc["reason"]:
                    signatures.append(doc.pop("signature"))
                    out.write(json.dumps(doc, ensure_ascii=False) + "\n")
        if not report.reader["response"]:
            names = ", ".join(map(str, files))
            raise ValueError(f"{names}: no response records, so no documents")
        unique = first_of_each(spool, signatures, report)
        write_shards(progress(each(second_pass, unique), "pass 2"), folder, report)
    spool.unlink()
    with open(folder / "report.json", "w", encoding="utf-8") as out:
        out.write(json.dumps(report.as_dict(), ensure_ascii=False, indent=1) + "\n")
    return report


def first_of_each(spool, signatures, report):
    """Drop the duplicates among the spooled documents; returns an iterator over the others."""
    start = time.process_time()
    keep = keep_first(np.array(signatures, np.uint64).reshape(-1, BANDS * ROWS))
    report.stages["minhash"]["seconds"] += time.process_time() - start

    def spooled(wanted):
        with open(spool, encoding="utf-8") as lines:
            yield from (json.loads(line) for line, kept in zip(lines, keep) if kept == wanted)

    for doc in spooled(False):
        report.stages["minhash"]["bytes_out"] -= len(doc["text"].encode())
        report.drop(doc, "minhash", "duplicate")
    return spooled(True)


def write_shards(docs, folder, report):
    shard, n = None, 0
    for doc in docs:
        report.add(doc)
        if doc["reason"]:
            continue
        if n % SHARD_DOCUMENTS == 0:
            if shard:
                shard.close()
            shard = gzip_text(folder / f"{n // SHARD_DOCUMENTS:06}.jsonl.gz")
        shard.write(json.dumps({c: doc[c] for c in COLUMNS}, ensure_ascii=False) + "\n")
        n += 1
    if shard:
        shard.close()


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="data.py", description="a raw web crawl -> clean documents, FineWeb's way")
    parser.add_argument("paths", nargs="*", metavar="WARC_OR_DIR",
                        help="WARC files or folders of them (default: RUN/crawl)")
    parser.add_argument("--run", default="out/demo", metavar="DIR",
                        help="run folder, documents go to DIR/docs (default: out/demo)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N",
                        help="processes (default: one per CPU)")
    parser.add_argument("--dump", metavar="NAME",
                        help="the dump column (default: CC-MAIN-... if in the path, else local)")
    group = parser.add_argument_group("filters")
    group.add_argument("--blocklist", nargs="+", default=[], metavar="PATH",
                       help="UT1 folders, or files with a domain on each line (default: none)")
    group.add_argument("--language", nargs="+", default=["en"], metavar="CODE",
                       help="languages to keep (default: en)")
    group.add_argument("--language-model", metavar="FILE",
                       help="fastText model, .bin or .ftz (default: language.py's own)")
    group.add_argument("--tokenizer", metavar="FILE",
                       help="count tokens with this tokenizer (default: token_count is null)")
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers {args.workers}: at least 1")
    return args


def main(argv=None):
    args, started = parse_args(argv), time.perf_counter()
    try:
        report = run(args.paths, args.run, args.blocklist, args.language, args.workers, args.dump,
                     args.language_model, args.tokenizer)
    except BrokenPipeError:                                 # of standard error
        raise
    except (ValueError, OSError) as error:
        named = isinstance(error, OSError) and error.filename
        print("data.py: error:", f"{error.filename}: {error.strerror}" if named else error,
              file=sys.stderr)
        sys.exit(2)
    print(report.table())
    first, last = report.stages["url"], report.stages["pii"]
    read = f"{first['documents_in']:,} pages, {first['bytes_in'] / 1e6:.1f} MB"
    made = f"{last['documents_out']:,} documents, {last['bytes_out'] / 1e6:.1f} MB of text"
    print(f"{'data':8} {read:32} {made:36} {time.perf_counter() - started:5.0f} s   "
          f"{last['documents_out'] / first['documents_in']:.1%} of the pages kept")


if __name__ == "__main__":
    try:
        main()
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:                                 # the reader has gone, as of | head
        os._exit(141)
    except KeyboardInterrupt:
        print("data.py: interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:                                # standard output is full
        print(f"data.py: error: {error.strerror}", file=sys.stderr)
        os._exit(2)
