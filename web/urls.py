"""Addresses of pages: their hosts, and the lists of hosts and words that data.py refuses.

    host_of                http://user@News.BBC.co.uk:80/x  ->  news.bbc.co.uk
    registered_domain      news.bbc.co.uk  ->  bbc.co.uk
    Blocklist              what data.url_filter refuses; the words below unless files replace them
    load_blocklist         a Blocklist from the lists of UT1 and from plain files
    load_suffixes          the public suffix list (publicsuffix.org)

Sources: datatrove 0.10 (filters/url_filter.py); olbat/ut1-blacklists; publicsuffix.org/list.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from run import disk
from web import encoding

# FineWeb's lists hold 203 hard words, 88 soft words and 134 subwords; these are a taste.
HARD_WORDS = """
    porn porno xxx sex nude nudes hentai milf camgirl webcamsex viagra cialis escorts casino
    poker""".split()
SOFT_WORDS = """
    adult dating cam cams girls hot naked teen teens bet betting slots jackpot roulette pills hookup
    sexy""".split()
SUBWORDS = """
    pornhub freeporn xxxvideo sexcam livesex onlinecasino casinobonus pokeronline buyviagra
    cheapviagra cialisonline escortservice""".split()
# Under a country's domain these second labels are registries and not sites: co.uk, com.au.
REGISTRIES = set("""
    ac co com edu gen go gob gov gouv gv id info ltd me mil ne net nic nom or org plc sch
    web""".split())
BETWEEN_PIECES = re.compile(r"[^A-Za-z0-9]+")
IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
MAX_HOST = 253                                              # characters of a name in DNS


def host_of(url):
    """The host of a URL in lower case, without user, port and final dot.

    "" if the URL has none, or one that is too long for DNS. It only lower-cases, as FineWeb does;
    web/addresses.py brings the hosts that we fetch from into one spelling.
    """
    try:                                                    # urlsplit normalises beyond ASCII
        host = urlsplit(encoding.stream_safe(url)).netloc.rpartition("@")[2]
    except ValueError:
        return ""
    if host.startswith("["):                                # an IPv6 address
        host = host[1:].partition("]")[0]
    else:
        host = host.partition(":")[0]
    host = host.lower().rstrip(".")
    return host if len(host) <= MAX_HOST else ""


def registered_domain(host, suffixes=None):
    """The part of a host that somebody registered: news.bbc.co.uk -> bbc.co.uk, a.b.com -> b.com.

    An IP address is itself. suffixes: the rules of load_suffixes. Without them the domain has two
    labels, or three under a registry such as co.uk.
    """
    labels = host.split(".")
    if IPV4.fullmatch(host) or len(labels) < 2:
        return host
    if not suffixes and len(labels[-1]) == 2 and labels[-2] in REGISTRIES:
        return ".".join(labels[-3:])
    for i in range(len(labels) if suffixes else 0):         # the longest rule counts
        name = ".".join(labels[i:])
        if suffixes.get(name) == "!":                       # an exception: it is itself a domain
            return name
        if name in suffixes or ".".join(["*", *labels[i + 1:]]) in suffixes:
            return ".".join(labels[max(i - 1, 0):])
    return ".".join(labels[-2:])                            # no rule: the last label is the suffix




class Names:
    """A set of strings as sorted hashes: 8 bytes each instead of a hundred. UT1 has 4.6 million."""

    def __init__(self, names=()):
        self.hashes = np.sort(np.fromiter(map(self.hash, names), np.uint64))

    @staticmethod
    def hash(name):
        """The first 8 bytes of a string's BLAKE2b as a number."""
        name = name.encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")

    def __contains__(self, name):
        wanted = np.uint64(self.hash(name))
        i = np.searchsorted(self.hashes, wanted)
        return bool(i < len(self.hashes) and self.hashes[i] == wanted)


@dataclass
class Blocklist:
    """What data.url_filter refuses. Words are in lower case without punctuation, as FineWeb's."""
    domains: Names | set = field(default_factory=set)
    urls: Names | set = field(default_factory=set)
    hard: frozenset = frozenset(HARD_WORDS)
    soft: frozenset = frozenset(SOFT_WORDS)
    subwords: tuple = tuple(SUBWORDS)
    suffixes: dict | None = None                            # of load_suffixes


def read_list(path):
    """The lines of a list, gzipped or not, without blank lines and comments."""
    for line in map(str.strip, disk.read_lines(path, "replace")):
        if line and not line.startswith("#"):
            yield line


def read_words(path):
    """The words of a list as Blocklist wants them, sorted."""
    found = {BETWEEN_PIECES.sub("", line).lower() for line in read_list(path)}
    return sorted(found - {""})


def lists_in(path, kind):
    """The files of one kind, "domains" or "urls", in a UT1 folder; a plain file has domains."""
    path = Path(path)
    if path.is_file():
        return [path] if kind == "domains" else []
    files = sorted(p for p in path.rglob("*") if p.is_file())       # category/domains
    found = {name: [p for p in files if p.name.split(".")[0] == name]       # also domains.0.gz
             for name in ("domains", "urls")}
    if not found["domains"] + found["urls"]:
        raise FileNotFoundError(
            f"{path}: no block list; --blocklist takes a UT1 folder with files named domains "
            f"and urls, or a text file with a domain on each line")
    return found[kind]


def load_blocklist(paths, hard=None, soft=None, subwords=None, suffixes=None):
    """A Blocklist from UT1 folders (see lists_in) and plain files of domains.

    hard, soft, subwords: files that replace the words above. suffixes: a public suffix list.
    """
    def names(kind):
        for path in paths:
            for file in lists_in(path, kind):
                yield from read_list(file)

    blocklist = Blocklist(Names(map(str.lower, names("domains"))), Names(names("urls")))
    if hard:
        blocklist.hard = frozenset(read_words(hard))
    if soft:
        blocklist.soft = frozenset(read_words(soft))
    if subwords:
        blocklist.subwords = tuple(read_words(subwords))
    if suffixes:
        blocklist.suffixes = load_suffixes(suffixes)
    return blocklist


def load_suffixes(path):
    """The rules of a public suffix list without its private part.

    Each has its kind: {"co.uk": "", "*.ck": "*", "www.ck": "!"}.
    """
    rules = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if "===BEGIN PRIVATE DOMAINS===" in line:
                break
            rule = line.split("//")[0].strip()
            if not rule:
                continue
            name = rule.lstrip("!")
            if not name.isascii():
                name = name.encode("idna").decode()
            rules[name] = rule[0] if rule[0] in "*!" else ""
    if not rules:
        raise ValueError(f"{path}: it holds no rules; "
                         f"fetch https://publicsuffix.org/list/public_suffix_list.dat")
    return rules
