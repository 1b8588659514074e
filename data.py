"""A raw web crawl in, clean documents out: the eight stages of FineWeb, on one machine or many.

    stage                    a page that it drops                              the reason
    1 url                    http://a.com/casino-poker-bonus                   hard_blacklisted
      rights                 <meta name="robots" content="noai">               noai
    2 extract                a picture; a page of nothing but menus            not_html, empty
    3 language               a page in Italian                                 language
    4 gopher_repetition      a poem whose every line is the same               dup_line_frac
      gopher_quality         "Under construction" and forty words more         gopher_short_doc
    5 minhash                a copy of an article on another site              duplicate
    6 c4                     an article with "function f() {" in it            curly_bracket
    7 fineweb                captions, of which none ends in a full stop       line_punct_ratio
    8 pii                    none: e-mail and IP addresses are replaced

Two of the ten rows have no number of their own: `rights` is ours (FineWeb asks no page), and the
two sets of rules of stage 4 are from one paper.

This file holds the rules plainly, in the order of the table. STAGES, near the end, is what a run
does to each page. Where a plain definition is slow, its stage uses a fast twin, a function of the
same name in the folder web/. Change both: --check compares them. All else runs as it stands here.

    python data.py --run out/demo                        reads out/demo/crawl/*.warc.gz
    python data.py CC-MAIN-x.warc.gz --run out/cc --blocklist ut1/adult --language-model lid.176.ftz
    python data.py --crawl CC-MAIN-2024-51 --files 3 --run out/cc     three files of a crawl
    python data.py --run out/cc --task 0/2      one half; --task 1/2 is the other (run/tasks.py)
    python data.py crawl https://example.com --run out/mine           fetch pages (web/crawl.py)
    python data.py --check     doctests of this file, and a page for each stage (web/examples.py)

The stages stand in the order of FineWeb's paper (section 3.7). Their rules are those of release
0.10 of datatrove, FineWeb's program, but web/extract.py is not trafilatura, and of near-duplicates
the one that was fetched first stays. `--order script --fineweb v1 --no-rights` comes nearest to the
first FineWeb, whose rules were others (web/quality.py).

Sources: Penedo et al. 2024 (FineWeb, arXiv 2406.17557); Rae et al. 2021 (Gopher, table A1);
Raffel et al. 2020 (C4); Broder 1997 (MinHash); datatrove 0.10, which names the reasons so.
"""

import hashlib
import itertools
import math
import re
import sys
from collections import Counter
from pathlib import Path

from model import cores  # noqa: F401   unused: its import, before NumPy's, sets BLAS threads
import numpy as np

from run import command, runs, tasks
from web import charset, crawl, dedup, examples, extract, language, options, pii, pipeline
from web import quality, remote, urls
from web.dedup import NO_SIGNATURE, normalize, permutations
from web.funnel import Funnel
from web.rights import rights
from web.warc import document_kind
from web.words import END_MARKS, SYMBOLS, count_sentences, words

# A document is a dict with FineWeb's columns (url, id, date, language ...). It starts with the
# `record` of a WARC file; stage 2 makes that a `text`. A *stage* takes a document and the Tools
# (lists and models, see below). It returns None if the document stays, or the reason why it goes.
# A *rule* takes a text, or in stage 1 an address, and returns (what stays, None) or (None, reason).

# ------------------------------------------------------------------------------------------ 1. url
# The address alone tells something: its host may be on a list, and its words may be on others.

def url_filter(url, blocklist=urls.Blocklist()):
    """(url, None) or (None, reason). blocklist: lists of hosts, addresses and words.

    As in FineWeb, the whole host and its registered domain are looked up, but nothing in between;
    words are whole pieces of the URL, in the case that they have there. Two faults of FineWeb are
    mended: UT1 lists addresses without a scheme, so they are looked up without it too; and hosts
    that are IP addresses are looked up.

    >>> url_filter("http://a.com/casino-poker-bonus")
    (None, 'hard_blacklisted')
    """
    host = urls.host_of(url)
    if not host:
        return None, "no_host"
    if urls.registered_domain(host, blocklist.suffixes) in blocklist.domains:
        return None, "domain"
    if host in blocklist.domains:
        return None, "subdomain"
    if url in blocklist.urls or url.partition("://")[2] in blocklist.urls:
        return None, "url"
    pieces = set(urls.BETWEEN_PIECES.split(url))
    if pieces & blocklist.hard:                             # one of these is enough
        return None, "hard_blacklisted"
    if len(pieces & blocklist.soft) >= 2:
        return None, "soft_blacklisted"
    squeezed = urls.BETWEEN_PIECES.sub("", url).lower()
    if any(subword in squeezed for subword in blocklist.subwords):
        return None, "blacklisted_subword"
    return url, None


def stage_url(doc, tools):
    """Drops http://a.com/casino-poker-bonus without reading the page."""
    return url_filter(doc["url"], tools.blocklist)[1]


def stage_rights(doc, tools):
    """Drops a page that forbids its use, and notes the licence of one that names it."""
    record = doc["record"]
    html = b"" if record.type == "conversion" else record.body      # extracted text has no tags
    reason, doc["license"] = rights(record.http_headers, html, record.date)
    return reason


# -------------------------------------------------------------------------------------- 2. extract

def stage_extract(doc, tools):
    """Drops a picture ("not_html"), and a page without a main text ("empty").

    web/charset.py turns bytes into text, and takes the declared charset only as a hint. Valid UTF-8
    is read as UTF-8, whatever the header and <meta> say. Else a declaration counts if in it at most
    1 % of what is not ASCII is broken; else the page is read as windows-1252. (Exceptions are in
    charset.read.) So a page that lies about its charset is read all the same. If its text still is
    garbage, stages 3 or 4 drop it; no count tells of a lie.
    """
    record = doc.pop("record")
    if record.status and not 200 <= record.status < 300:    # Common Crawl keeps those elsewhere
        return "http_status"
    kind, reason = document_kind(record)
    if kind is None:
        return reason
    if kind == "text":                                      # of a WET file: extracted already
        doc["text"] = charset.decode(record.body, record.charset or "utf-8")
    else:
        counts = Counter()
        doc["text"] = extract.main_text(record.body, record.url, record.charset, counts)
        doc["page_cut"] = counts["page_cut"]                # 1 if the page is too long to read all
    return None if doc["text"] else "empty"


# ------------------------------------------------------------------------------------- 3. language
# A fastText model gives each language that it knows a probability, from the letters of the text.
# The score is that of the likeliest one. With web/language.ftz 98 % of held-out English sentences
# score over 0.65 as English, and 0.1 % of the sentences in other languages do.

LANGUAGE_THRESHOLD = 0.65                                   # FineWeb's


def stage_language(doc, tools):
    """Drops a page in Italian ("language"), and one that may be English ("low_score")."""
    space = "" if tools.settings.fineweb == "v1" else " "   # v1 joined words over the ends of lines
    [label], [score] = tools.classifier.predict([doc["text"].replace("\n", space)])
    doc["language"], doc["language_score"] = str(label), float(score)
    if label not in tools.settings.languages:
        return "language"
    return None if score > LANGUAGE_THRESHOLD else "low_score"


# --------------------------------------------------------------------------------------- 4. Gopher
# These rules measure a text: how long are its words, which share of its lines repeats an earlier
# one? A table has the least and the most that each measure may be. To add a rule here or in stage
# 7, yield its name and value among the measures, and give it a line in the table. --check then
# tells which of its pages that drops.


def judge(text, limits, measures):
    """(text, None), or (None, name) for the first measure (name, value) outside its limits."""
    for name, value in measures:
        least, most = limits[name]
        if not least <= value <= most:
            return None, name
    return text, None


GOPHER_REPETITION = {                       # least, most
    "dup_para_frac": (0, 0.30),             # paragraphs that repeat an earlier one, of all
    "dup_para_char_frac": (0, 0.20),        # their characters, of all characters of the text
    "dup_line_frac": (0, 0.30),             # lines that repeat an earlier one, of all
    "dup_line_char_frac": (0, 0.20),
    "top_2_gram": (0, 0.20),                # characters of the most frequent pair of words, of all
    "top_3_gram": (0, 0.18),
    "top_4_gram": (0, 0.16),
    "duplicated_5_n_grams": (0, 0.15),      # characters of five words that stood before, of all
    "duplicated_6_n_grams": (0, 0.14),
    "duplicated_7_n_grams": (0, 0.13),
    "duplicated_8_n_grams": (0, 0.12),
    "duplicated_9_n_grams": (0, 0.11),
    "duplicated_10_n_grams": (0, 0.10),
}
GOPHER_QUALITY = {
    "gopher_short_doc": (50, math.inf),             # words that are no symbols
    "gopher_long_doc": (0, 100_000),                # the same
    "gopher_below_avg_threshold": (3, math.inf),    # mean length of words that are no symbols
    "gopher_above_avg_threshold": (0, 10),          # the same
    "gopher_too_many_hashes": (0, 0.1),             # signs # of all words
    "gopher_too_many_ellipsis": (0, 0.1),           # ellipses of all words
    "gopher_too_many_bullets": (0, 0.9),            # lines that begin with a bullet, of all lines
    "gopher_too_many_end_ellipsis": (0, 0.3),       # lines that end in an ellipsis, of all lines
    "gopher_below_alpha_threshold": (0.8, 1),       # words with a letter, of all words
    "gopher_enough_stop_words": (2, math.inf),      # different stop words
}
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}


class Words:
    """What the rules count in the words of a text. A run uses the twin, quality.Words."""

    def __init__(self, text):
        self.all = words(text)                              # spaCy's: "It's 5km." -> It 's 5 km .
        self.real = [word for word in self.all if not SYMBOLS.issuperset(word)]
        self.n_real = len(self.real)
        self.mean_length = len("".join(self.real)) / max(1, self.n_real)
        self.n_alphabetic = sum(any(map(str.isalpha, word)) for word in self.all)
        self.n_stop_words = len(STOP_WORDS.intersection(self.all))      # "The" is not counted

    def __len__(self):
        return len(self.all)

    def top_ngram_chars(self, n):
        """Length of the first most frequent n-gram, spaces included, times its count."""
        starts = range(len(self) - n + 1)
        n_grams = Counter(" ".join(self.all[i:i + n]) for i in starts)
        top, count = max(n_grams.items(), key=lambda item: item[1], default=("", 0))
        return len(top) * count                             # max takes the first of equals

    def duplicate_ngram_chars(self, n):
        """Characters in repeated n-grams (no spaces). From the left, jumps over each repeat."""
        seen, chars, i = set(), 0, 0
        while i + n <= len(self):
            n_gram = "".join(self.all[i:i + n])             # without spaces, as in datatrove
            if n_gram in seen:
                chars += len(n_gram)
                i += n
            else:
                seen.add(n_gram)
                i += 1
        return chars


def parts_of(text):
    """The paragraphs of a text, and its lines without blank ones. The twin is in quality.py."""
    return re.split("\n{2,}", text.strip()), re.split("\n+", text)


def repeats(parts):
    """How many of the parts repeat an earlier one, and the characters of those.

    >>> repeats(["one", "two", "one", "one"])
    (2, 6)
    """
    seen, n, chars = set(), 0, 0
    for part in parts:
        if part in seen:
            n, chars = n + 1, chars + len(part)
        seen.add(part)
    return n, chars


def repetition_measures(text, words_of, parts_of):
    """Yields Gopher's measures of repetition, each as (name, value), cheap ones first."""
    for part, parts in zip(("para", "line"), parts_of(text)):
        n, chars = repeats(parts)
        yield f"dup_{part}_frac", n / len(parts)
        yield f"dup_{part}_char_frac", chars / len(text)
    found = words_of(text)
    for n in (2, 3, 4):
        yield f"top_{n}_gram", found.top_ngram_chars(n) / len(text)
    for n in (5, 6, 7, 8, 9, 10):
        yield f"duplicated_{n}_n_grams", found.duplicate_ngram_chars(n) / len(text)


def gopher_repetition(text, words_of=Words, parts_of=parts_of):
    """Drops a text that repeats paragraphs, lines or runs of words. A run gives it the fast twins.

    >>> gopher_repetition("Please read this.\\n" * 18)
    (None, 'dup_line_frac')
    """
    if not text:
        return None, "empty"
    return judge(text, GOPHER_REPETITION, repetition_measures(text, words_of, parts_of))


def stage_gopher_repetition(doc, tools):
    """Drops a poem whose every line is the same."""
    return gopher_repetition(doc["text"], tools.words_of, tools.parts_of)[1]


def prose_measures(text, words_of):
    """Yields Gopher's measures of prose, each as (name, value)."""
    found = words_of(text)
    mean_length = found.mean_length
    yield "gopher_short_doc", found.n_real
    yield "gopher_long_doc", found.n_real
    yield "gopher_below_avg_threshold", mean_length
    yield "gopher_above_avg_threshold", mean_length
    # judge has stopped at short_doc if there is no word, so nothing below divides by zero.
    yield "gopher_too_many_hashes", text.count("#") / len(found)
    yield "gopher_too_many_ellipsis", (text.count("...") + text.count("…")) / len(found)
    lines = text.splitlines()
    bullets = [line for line in lines if line.lstrip().startswith(("•", "-"))]
    yield "gopher_too_many_bullets", len(bullets) / len(lines)
    open_ends = [line for line in lines if line.rstrip().endswith(("...", "…"))]
    yield "gopher_too_many_end_ellipsis", len(open_ends) / len(lines)
    yield "gopher_below_alpha_threshold", found.n_alphabetic / len(found)
    yield "gopher_enough_stop_words", found.n_stop_words


def gopher_quality(text, words_of=Words):
    """Drops a text that is not prose."""
    return judge(text, GOPHER_QUALITY, prose_measures(text, words_of))


def stage_gopher_quality(doc, tools):
    """Drops "Under construction" and forty words more."""
    return gopher_quality(doc["text"], tools.words_of)[1]


# -------------------------------------------------------------------------------------- 5. MinHash
# Two texts are near-duplicates if they share most of their shingles, the runs of five words in
# them. Nobody can compare all pairs of a million texts, so each text gets a signature. A hash
# function puts all shingles of the world into a random order. One shingle of the text comes first
# in it, that with the least hash, and the signature holds this hash. Take all shingles that A or B
# has. Each of them is equally likely to come first, so if a part s of them is in A and in B, the
# hashes of A and B are the same with probability s.
#
# 112 hash functions give 112 numbers, cut into 14 bands of 8. Two texts are linked if in any band
# all 8 numbers are equal:
#
#     shared part s     one band: s^8     at least one of 14: 1 - (1 - s^8)^14
#     0.85              0.272             0.988     almost surely linked: 85 of 86
#     0.72              0.072             0.650     2 of 3
#     0.50              0.004             0.053     seldom: 1 of 19
#
# 8 numbers at once make a band hard to share for unlike texts; 14 bands give like texts 14 chances.
# Links make clusters: if A is linked to B, and B to C, only one of the three stays. So two texts
# that share half can still meet in a cluster, through a third text that is like both.

SHINGLE, BANDS, ROWS = 5, 14, 8
MERSENNE = np.uint64(2 ** 61 - 1)


def p_linked(s):
    """The probability that two texts which share a part s of their shingles are linked.

    >>> [round(p_linked(s), 3) for s in (0.5, 0.72, 0.85)]
    [0.053, 0.65, 0.988]
    """
    return 1 - (1 - s ** ROWS) ** BANDS


def shingles(text):
    """The runs of five words of a text, normalized: lower case, no marks, every number 0.

    >>> shingles("It cost $3.50, Zoë said!")
    ['it cost 0 zoe said']
    """
    found = words(normalize(text))
    starts = range(len(found) - SHINGLE + 1)
    return [" ".join(found[i:i + SHINGLE]) for i in starts]


def minhash(texts):
    """n texts -> (n, 112) uint64: of each the least (h a + b) % MERSENNE of all its shingles.

    h is the first 8 bytes ("<u8") of a shingle's SHA-1; permutations() are a and b. A text of fewer
    than five words has no shingle. Its row is all NO_SIGNATURE. A run uses the twin, dedup.minhash.
    """
    a, b = permutations()                       # 112 random numbers each, always the same
    signatures = np.full((len(texts), BANDS * ROWS), NO_SIGNATURE)
    for i, text in enumerate(texts):
        for shingle in shingles(text):
            digest = hashlib.sha1(shingle.encode("utf-8", "surrogatepass")).digest()
            h = np.frombuffer(digest, "<u8", 1)             # the first 8 of its 20 bytes
            hashes = (h * a + b) % MERSENNE                 # h a + b is cut to 64 bits first
            signatures[i] = np.minimum(signatures[i], hashes)
    return signatures


def clusters(signatures):
    """(n, 112) -> (n,) int: the first text of each one's cluster. The twin is dedup.clusters."""
    leader = np.arange(len(signatures))
    first = {}                                  # (band, its 8 numbers): the first text with them
    for i, signature in enumerate(signatures):
        if signature[0] == NO_SIGNATURE:                    # too short to be anybody's duplicate
            continue
        for band, numbers in enumerate(signature.reshape(BANDS, ROWS)):
            j = first.setdefault((band, numbers.tobytes()), i)      # i, if it is the first of these
            low, high = sorted((leader[i], leader[j]))
            leader[leader == high] = low        # all texts of the later cluster join the earlier
    return leader


def deduplicate(texts):
    """Which texts stay: those that are the first of their cluster, n texts -> (n,) bool."""
    return clusters(minhash(texts)) == np.arange(len(texts))


def stage_minhash(doc, tools):
    """Signs the text. The run drops the copies when it has signed all texts (web/pipeline.py)."""
    doc["signature"] = dedup.minhash([doc["text"]], tools.settings.fineweb)[0]


# ------------------------------------------------------------------------------------------- 6. C4

CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
            "use cookies")


def c4_quality(text):
    """Removes marks of citations, and lines that are notices, scripts or stubs; drops code.

    FineWeb differs from the paper: no line needs to end in a full stop, and two numbers are
    swapped, so a line needs 3 words and a text 5 sentences. Sentences are only counted, by
    count_sentences of web/words.py: count_sentences("One. Two!") is 2. No rule needs them apart.
    """
    kept, n_sentences = [], 0
    for line in text.splitlines():
        pieces = line.split()
        if len(pieces) < 3 or (len(line) > 1000 and max(map(len, pieces)) > 1000):
            continue                                        # too few words, or a huge one
        line = line.strip()
        if "[" in line:
            line = CITATION.sub("", line)
        lower = line.lower()
        if "lorem ipsum" in lower:
            return None, "lorem_ipsum"
        if "javascript" in lower:                           # "Please enable JavaScript"
            continue
        if "{" in line:                                     # code
            return None, "curly_bracket"
        if any(policy in lower for policy in POLICIES):
            continue
        kept.append(line)
        if n_sentences < 5:                                 # more need not be counted
            n_sentences += count_sentences(line)
    if n_sentences < 5:
        return None, "too_few_sentences"
    return "\n".join(kept).strip(), None


def stage_c4(doc, tools):
    """Drops an article with "function f() {" in it."""
    text, reason = c4_quality(doc["text"])
    if reason is None:
        doc["text"] = text
    return reason


# -------------------------------------------------------------------------------------- 7. FineWeb
# Measures of the layout, judged as Gopher's are. `--fineweb v1` has others, in web/quality.py.

FINEWEB = {                                 # least, most
    "line_punct_ratio": (0.12, 1),          # lines that end in . ! ? or such a mark of any script
    "short_line_ratio": (0, 0.67),          # lines of at most 30 characters
    "char_dup_ratio": (0, 0.01),            # characters of lines that repeat an earlier one, of all
    "list_ratio": (0, 0.3),                 # line ends per word; in FineWeb's code, not its paper
}


def layout_measures(text, lines, words_of):
    """Yields FineWeb's measures, each as (name, value)."""
    ended = [line for line in lines if line[-1] in END_MARKS]
    yield "line_punct_ratio", len(ended) / len(lines)
    short = [line for line in lines if len(line) <= 30]
    yield "short_line_ratio", len(short) / len(lines)
    _, chars = repeats(lines)
    yield "char_dup_ratio", chars / len(text.replace("\n", ""))
    n_breaks = text.count("\n")
    # These pieces are found faster than words and never more of them. So most texts need no words.
    if n_breaks / len(text.split()) > 0.3:
        yield "list_ratio", n_breaks / len(words_of(text))


def fineweb_quality(text, words_of=Words):
    """Drops a text that looks like a list or a menu."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return None, "empty"
    return judge(text, FINEWEB, layout_measures(text, lines, words_of))


def stage_fineweb(doc, tools):
    """Drops captions, of which none ends in a full stop."""
    return tools.fineweb_quality(doc["text"], tools.words_of)[1]


# ------------------------------------------------------------------------------------------ 8. pii

EMAIL = re.compile(rf"\b{pii.USER}@(?:{pii.DOMAIN})")


def redact(text):
    """Replaces e-mail and public IPv4 addresses by others, in turn. The twin is pii.redact.

    >>> redact("Ask jo@site.com at 8.8.8.8 or 10.0.0.1.")
    'Ask email@example.com at 22.214.171.124 or 10.0.0.1.'
    """
    emails, ips = itertools.cycle(pii.EMAILS), itertools.cycle(pii.IPS)
    text = EMAIL.sub(lambda found: next(emails), text)
    return pii.IP.sub(lambda found: next(ips) if pii.is_public(found[0]) else found[0], text)


def stage_pii(doc, tools):
    """Drops nothing: replaces addresses, and counts tokens if a tokenizer was given."""
    doc["text"] = pii.redact(doc["text"], tools.settings.pii, tools.settings.fineweb)
    doc["token_count"] = None
    if tools.tokenizer:
        doc["token_count"] = len(tools.tokenizer.encode_ordinary(doc["text"]))


# --------------------------------------------------------------------------------- all the stages
# There are two orders. The paper found its rules in the first: those of C4 and FineWeb were chosen
# on texts without near-duplicates. datatrove's script first takes all steps that look at one page
# alone, so that minhash, which has to see all texts before it can drop one, sees fewer.

STAGES = {                      # name in the funnel: function, in the order of the paper
    "url": stage_url,
    "rights": stage_rights,
    "extract": stage_extract,
    "language": stage_language,
    "gopher_repetition": stage_gopher_repetition,
    "gopher_quality": stage_gopher_quality,
    "minhash": stage_minhash,
    "c4": stage_c4,
    "fineweb": stage_fineweb,
    "pii": stage_pii,
}
ORDERS = {"paper": list(STAGES), "script": list(STAGES)}
ORDERS["script"].remove("minhash")
ORDERS["script"].insert(-1, "minhash")          # second to last: pii comes after it


class Tools:
    """What stages need beside the document: lists, models, and what differs in FineWeb v1."""

    def __init__(self, settings):
        s = self.settings = settings
        self.blocklist = urls.load_blocklist(s.blocklist, s.hard_words, s.soft_words, s.subwords,
                                             s.suffixes)
        self.classifier = language.load(s.language_model)
        self.tokenizer = None
        if s.tokenizer:
            import bpe                                      # only if it is asked for
            self.tokenizer = bpe.Tokenizer.load(s.tokenizer)
        self.words_of, self.parts_of = quality.words_of, quality.parts_of       # the fast twins
        self.fineweb_quality = fineweb_quality
        if s.fineweb == "v1":
            self.words_of, self.parts_of = quality.words_of_v1, quality.parts_of_v1
            self.fineweb_quality = quality.fineweb_quality_v1


# ----------------------------------------------------------------------------------------- the run
# web/pipeline.py takes documents through the stages in worker processes, and goes on where a killed
# run stopped. If a stage fails on a document, it is dropped, with the error as the reason.
#
# RUN/docs/report.json is the funnel (web/funnel.py): for each stage documents and bytes in and out,
# CPU seconds, how many documents were dropped for which reason, and for each reason three examples
# (address, first 300 characters). The printed table has room only for the most frequent reasons,
# and leaves out `gopher_`. dropped.tsv.gz has address, stage and reason of every dropped page.


def run(paths, run_dir, settings=options.Settings(), workers=None, dump=None, index=(),
        save_index=None, task=tasks.ALONE, phase=None):
    """Read WARCs, write RUN/docs: shards of documents, dropped.tsv.gz, report.json. -> Funnel

    index: files of band keys of earlier crawls, whose near-duplicates go too; save_index: a file
    for those of this one. task, phase: the part to do (run/tasks.py). None if others do the last.
    """
    names = [name for name in ORDERS[settings.order] if settings.rights or name != "rights"]
    linked = {f"{s:.2f}": round(p_linked(s), 3) for s in (0.5, 0.72, 0.85)}
    job = pipeline.Job(
        files=pipeline.find_warcs(paths, run_dir),
        run_dir=Path(run_dir), dump=dump,
        settings=settings,
        stages={name: STAGES[name] for name in names},
        tools=Tools(settings),
        new_funnel=lambda: Funnel(names, settings, linked),
        n_workers=workers or tasks.workers_here(),
        index=index, save_index=save_index,
        task=task, phase=phase,
    )
    return pipeline.run_job(job)


def main(argv=None):
    """The command: `crawl` fetches pages, --check checks this file, all else is a run."""
    argv = sys.argv[1:] if argv is None else argv
    runs.start_clock()
    if argv[:1] == ["crawl"]:
        return crawl.main(argv[1:])
    args = options.parse_args(argv)
    if args.check:
        return examples.check(sys.modules[__name__])
    if args.slurm:
        return print(options.slurm_script(args, argv), end="")
    task = tasks.chosen(args.task)
    paths = remote.common_crawl(args.crawl, args.files or 1) if args.crawl else args.paths
    funnel = run(paths, args.run, options.settings_of(args), args.workers, args.dump, args.index,
                 args.save_index, task, args.phase)
    print(f"{funnel.table()}\n{funnel.summary()}" if funnel else f"task {task}: its part is done")


if __name__ == "__main__":
    command.run(main, error_status=2)
