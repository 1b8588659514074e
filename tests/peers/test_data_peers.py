"""data.py beside datatrove and spaCy: the same words, decisions and signatures of the same texts.

The rules of v1 are compared with the code of that time, if LONGHAND_DATATROVE_02 names the folder
of: pip install --no-deps --target FOLDER datatrove==0.2.0
"""

import json
import multiprocessing
import os
import random
import re
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

import data
from conftest import ROOT
from web import dedup, extract, pii, quality, warc, words

pytest.importorskip("datatrove", exc_type=ImportError)


def blocks(text, n_lines):
    lines = text.split("\n")
    return ["\n".join(lines[i:i + n_lines]) for i in range(0, len(lines), n_lines)]


@pytest.fixture(scope="module")
def texts(shared):
    """Main texts of the development crawl, articles first, English prose, and borderline cases."""
    found = [extract.main_text(r.body, r.url, r.charset)
             for r in warc.read_warc(shared("crawl-dev.warc.gz")) if r.type == "response"]
    pieces = blocks(shared("english.txt").read_text(encoding="utf-8"), 40)[:100]
    found += pieces
    for i, piece in enumerate(pieces[:60]):
        lines = piece.split("\n")
        found += ["\n".join(lines[:i]), "...\n".join(lines[:i]), " # ".join(lines[:3 * i]),
                  "\n- ".join(lines[:9])]
    return [text for text in found if text.strip()]


def table_text(rng):
    """Numbers with units, in cells."""
    text = ""
    for _ in range(80):
        number = rng.choice([f"{rng.randint(0, 9999)}", f"{rng.uniform(0, 99):.2f}",
                             f"${rng.randint(1, 99)}"])
        unit = rng.choice(["", "kg", " km", "MB", "%", "th", "x9"])
        text += number + unit + rng.choice(["|", " | ", "\t", "\n"])
    return text


SLANG = """lol im ive dont doesnt wont cant youre theyre its gonna wanna id ill wed thats whats
    couldve yall 8pm 5min 30mins 10/10 :) xD :-P <3 24/7 100% $20 20$ 2x 90s w/o ok...""".split()
ADDRESSES = ["http://a.com/b-c?d=e", "(www.x.co.uk:80/y),", "jo.doe@a.org.", "192.168.0.1/a",
             "file.tar.gz", "Site.Com/x"]


def chat_text(rng, text):
    """The text as people type it."""
    found = []
    for word in text.split():
        mark = rng.choice(["", "", "", "!!", "...", " " + rng.choice(SLANG), "\U0001f602"])
        found.append(word.replace("'", "").lower() + mark)
    return " ".join(found)


def text_with_addresses(rng, text):
    found = [word if rng.random() > 0.1 else rng.choice(ADDRESSES) for word in text.split()]
    return " ".join(found)


@pytest.fixture(scope="module")
def kinds(shared, texts):
    """{kind: English texts}: prose, verse, problems, code, tables, chat, addresses."""
    rng, prose, code = random.Random(0), texts[240:340], []
    with open(shared("gsm8k_train.jsonl"), encoding="utf-8") as file:
        problems = [json.loads(line) for line in file]
    gold = json.loads(shared("readability/gold.json").read_text(encoding="utf-8"))
    for path in sorted(ROOT.glob("web/*.py")):
        code += blocks(path.read_text(encoding="utf-8"), 80)
    return {
        "articles": texts[:90],
        "prose": prose,
        "verse": blocks(shared("tinyshakespeare.txt").read_text(encoding="utf-8"), 100)[:200],
        "questions": [p["question"] for p in problems[:300]],
        "answers": [f"{p['answer']}\n{q['answer']}" for p, q in zip(problems, problems[300:600])],
        "readability": [page["text"] for page in gold.values()],
        "code": code,
        "tables": [table_text(rng) for _ in range(60)],
        "chat": [chat_text(rng, text) for text in prose],
        "addresses": [text_with_addresses(rng, text) for text in prose],
        "upper case": [text.upper() for text in prose[:40]],
    }


@pytest.fixture(scope="module")
def spacy_tokenizer():
    return pytest.importorskip("spacy", exc_type=ImportError).blank("en").tokenizer


def speed(n_bytes, ours_s, theirs_s):
    """Two speeds and their ratio, for a line of output."""
    return (f"ours {n_bytes / ours_s / 1e6:.2f} MB/s, datatrove {n_bytes / theirs_s / 1e6:.3f} "
            f"MB/s, ratio {theirs_s / ours_s:.1f}")


# ------------------------------------------------------------------------------------- the filters


@pytest.fixture(scope="module")
def checks():
    """[(filter of datatrove, our rule)]"""
    from datatrove.pipeline.filters import (
        C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter)

    return [(GopherRepetitionFilter(), data.gopher_repetition),
            (GopherQualityFilter(), data.gopher_quality),
            (C4QualityFilter(filter_no_terminal_punct=False), data.c4_quality),
            (FineWebQualityFilter(), data.fineweb_quality)]


def four_filters(texts):
    """What a run asks of each text, whatever a filter says."""
    for text in texts:
        data.gopher_repetition(text, quality.words_of, quality.parts_of)
        data.gopher_quality(text, quality.words_of)
        data.fineweb_quality(data.c4_quality(text)[0] or text, quality.words_of)


def forget_words():
    """As in a process that has just begun."""
    quality.vocabulary = quality.Vocabulary()
    words.words_in.clear()
    dedup.words_in.clear()


def their_verdict(theirs, text):
    """(kept text or None, reason) of datatrove."""
    from datatrove.data import Document

    doc = Document(text=text, id="")
    result = theirs.filter(doc)
    keep, reason = (result, None) if isinstance(result, bool) else result
    return doc.text if keep else None, reason


def test_with_our_words_every_decision_is_datatroves(texts, checks, monkeypatch):
    def one_word_a_sentence(text, language):
        return ["s"] * words.count_sentences(text)

    for theirs, ours in checks:
        module = sys.modules[type(theirs).__module__]
        monkeypatch.setattr(module, "split_into_words", lambda text, language: words.words(text),
                            raising=False)
        monkeypatch.setattr(module, "split_into_sentences", one_word_a_sentence, raising=False)
        reasons = set()
        for text in texts:
            verdict = ours(text)
            assert verdict == their_verdict(theirs, text), (theirs.name, text[:300])
            reasons.add(verdict[1])
        print(f"{theirs.name}: {len(texts)} texts decided alike, reasons met: "
              f"{', '.join(sorted(filter(None, reasons)))}")
        assert len(reasons) > 2                 # the texts put the rules to the test


def test_every_decision_is_datatroves(kinds, checks, spacy_tokenizer):
    """With datatrove's own words: the same texts are kept, as the same text, and dropped for the
    same reason.
    """
    for kind, some in kinds.items():
        for theirs, ours in checks:
            for text in some:
                want = their_verdict(theirs, text)
                assert ours(text) == want, (kind, theirs.name, text[:300])


def test_texts_in_other_languages_are_kept_alike(texts, checks, spacy_tokenizer):
    """With datatrove's own words; the reason may be another one there."""
    for theirs, ours in checks:
        for text in texts:
            assert ours(text)[0] == their_verdict(theirs, text)[0], (theirs.name, text[:300])


def test_speed_of_the_filters(texts, checks, spacy_tokenizer):
    """In turns, ours with a vocabulary that starts empty."""
    sample, times = texts[:60] + texts[240:340], []
    n_bytes = sum(len(text.encode()) for text in sample)
    for _ in range(3):
        forget_words()
        start = time.process_time()
        four_filters(sample)
        middle = time.process_time()
        for text in sample:
            for theirs, _ in checks:
                their_verdict(theirs, text)
        times.append((middle - start, time.process_time() - middle))
    mine, other = (sorted(t)[1] for t in zip(*times))
    print(f"four filters: {speed(n_bytes, mine, other)}")
    start = time.process_time()
    four_filters(sample)
    print(f"with these words known: {speed(n_bytes, time.process_time() - start, other)}")


def call(i):
    return WORK(i)


def test_the_whole_pipeline_beside_trafilatura_and_datatrove(tmp_path, shared, checks,
                                                             spacy_tokenizer):
    """Pages per second of the development crawl on the same cores: ours, and trafilatura with
    datatrove's filters in a pool of as many processes.

    Only English pages reach the filters on either side; ours also judges languages and signs.
    """
    trafilatura = pytest.importorskip("trafilatura", exc_type=ImportError)
    path, n = shared("crawl-dev.warc.gz"), len(os.sched_getaffinity(0))
    pages = [r.body for r in warc.read_warc(path) if r.type == "response"]

    def work(i):
        text = trafilatura.extract(pages[i], include_comments=False, favor_precision=True)
        if text and i < 91:                     # the others are in other languages
            for theirs, _ in checks:
                their_verdict(theirs, text)

    global WORK                                 # a forked pool finds it by name
    WORK, rates = work, []
    for k in range(2):
        start = time.perf_counter()
        with multiprocessing.get_context("fork").Pool(n) as pool:
            pool.map(call, range(len(pages)), chunksize=4)
        middle = time.perf_counter()
        data.run([path], tmp_path / str(k), workers=n)
        end = time.perf_counter()
        rates.append((len(pages) / (end - middle), len(pages) / (middle - start)))
    ours, theirs = (max(rate) for rate in zip(*rates))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"whole pipeline, {n} processes: ours {ours:.1f} pages a second, trafilatura + "
          f"datatrove's filters {theirs:.1f}, ratio {ours / theirs:.1f}; largest process "
          f"{peak:.0f} MB")


# ------------------------------------------------------------------------------------------- words


def spacy_words(tokenizer, text):
    return [token.text for token in tokenizer(text) if token.text.strip()]


def test_words_are_spacys(kinds, texts, spacy_tokenizer):
    from datatrove.utils.text import split_into_words

    for some in [texts, *kinds.values()]:
        for text in some:
            assert words.words(text) == split_into_words(text, "eng"), text[:300]
    for piece in spacy_tokenizer.rules:
        assert words.words(piece) == spacy_words(spacy_tokenizer, piece), piece


def test_character_classes_are_spacys():
    classes = pytest.importorskip("spacy.lang.char_classes", exc_type=ImportError)
    for ours, theirs in ((words.LETTERS, classes.ALPHA), (words.LOWER, classes.ALPHA_LOWER),
                         (words.UPPER, classes.ALPHA_UPPER), (words.ICONS, classes.ICONS)):
        ours, theirs = re.compile(f"[{ours}]"), re.compile(f"[{theirs}]")
        for c in map(chr, range(0x110000)):
            is_none = c == "\u03a2"             # there is no such character
            assert is_none or bool(ours.match(c)) == bool(theirs.match(c)), hex(ord(c))
    assert set(words.UNITS) == set(classes.LIST_UNITS)


ATOMS = [*"abcdefgABCxyzIVM0123456789.,:;!?()[]{}<>_#*&'\"-+/=^~%$@\u00b0\\|`\u2019\u2018\u201c",
         *"\u201d\u2026\u2014\u2013\u00ab\u20ac\u00a3\u2600\u00df\u00e9\u00c9\u4e2d\u3002\u00b5",
         *"\u00b2\u0301\U0001f642"]
ATOMS += """http:// www. .com @ ... US$ kg km/h MB don't dont I'm id 's 'll cannot p.m. am 8am e.g.
    Mr. U.S. and/or :) <3 8) o.O 10.5 127.0.0.1 8.8.8.8 :80 /path -- ---""".split()


def test_words_of_pieces_made_at_random_are_spacys(spacy_tokenizer):
    """LONGHAND_FUZZ_PIECES pieces of letters, marks, and what the rules look for."""
    rng = random.Random(int(os.environ.get("LONGHAND_FUZZ_PIECES_SEED", 0)))
    rules = [rule for rule in spacy_tokenizer.rules if rule.strip()]
    for _ in range(int(os.environ.get("LONGHAND_FUZZ_PIECES", 20_000))):
        piece = ""
        for _ in range(rng.randint(1, 7)):
            piece += rng.choice(ATOMS if rng.random() < 0.85 else rules)
        assert words.words(piece) == spacy_words(spacy_tokenizer, piece), piece


# -------------------------------------------------------------------------- near-duplicates and PII


@pytest.fixture(scope="module")
def signer(spacy_tokenizer):
    """datatrove's step that signs, with its own words."""
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8,
                           hash_config=HashConfig(hash_fc="sha1", precision=64))
    step = MinhashDedupSignature(output_folder="/nowhere", config=config)
    step.word_tokenizer = load_word_tokenizer("eng")
    return step


def test_signatures_are_datatroves(kinds, texts, signer):
    """On English of every kind; other languages also have the words of its English tokenizer."""
    from datatrove.utils.text import TextNormConfig, simplify_text

    for kind, some in {**kinds, "all pages": texts[:240]}.items():
        for text in some:
            assert dedup.normalize(text) == simplify_text(text, TextNormConfig())
            shingles, want = signer.get_shingles(text), np.full(112, dedup.NO_SIGNATURE)
            if len(shingles):
                want = np.array(signer.get_signature(shingles), np.uint64).reshape(-1)
            assert (dedup.minhash([text])[0] == want).all(), (kind, text[:300])


def test_speed_of_signatures(texts, signer):
    """datatrove knows its words already; our vocabulary is empty."""
    sample, times = texts[:60] + texts[240:340], []
    n_bytes = sum(len(text.encode()) for text in sample)
    for _ in range(4):
        forget_words()
        start = time.process_time()
        dedup.minhash(sample)
        middle = time.process_time()
        for text in sample:
            signer.get_signature(signer.get_shingles(text))
        times.append((middle - start, time.process_time() - middle))
    print(f"signatures: {speed(n_bytes, *(sorted(t)[1] for t in zip(*times[1:])))}")


def their_redaction(text):
    """datatrove's of a first document: it gives later ones other addresses."""
    from datatrove.pipeline.formatters import PIIFormatter

    return PIIFormatter().format(text)


PARTS = [*"abZ91.@-_+'!\u00e9 \n[]:%(<>/0,;"]
PARTS += """8.8.8.8 10.0.0.1 1.2.3.4 255.255.255.255 256.1.1.1 01.2.3.4 .. .com x@y.z mailto: 1.1.1
    @@ [1.2.3. a:""".split() + ["a" * 70]


def test_redaction_of_hostile_texts_is_datatroves():
    rng = random.Random(0)
    for _ in range(10_000):
        text = "".join(rng.choice(PARTS) for _ in range(rng.randint(1, 12)))
        assert pii.redact(text) == data.redact(text) == their_redaction(text), text


@pytest.mark.parametrize("text", [
    "jo@site.com", "NAME@MYSITE.COM and a.b+c@x.co.uk", "email@example@example.com",
    '"email"@example.com', "email@example", "a@[8.8.8.8]", "8.8.8.8", ".3.3.3.0", "108.0.0.01",
    "0.1.2.3", "999.999.999.999", "10.0.0.1", "8.1.2.3456",
    "see 1.2.3.4, 9.9.9.9 and b@c.de or d@e.fg"])
def test_redaction_of_addresses_is_datatroves(text):
    assert pii.redact(text) == data.redact(text) == their_redaction(text)


# --------------------------------------------------------------------------------- the rules of v1

OLD = """
import sys, types, json, hashlib
import numpy as np
from model import cores
import data
from web import dedup, pii, quality, words
nltk = types.ModuleType("nltk")                  # our words and sentences in place of NLTK's
nltk.tokenize = types.ModuleType("nltk.tokenize")
nltk.ngrams = lambda words, n: zip(*(words[i:] for i in range(n)))
for module in (nltk, nltk.tokenize):
    module.word_tokenize = lambda text, language="english": words.words(text)
    module.sent_tokenize = lambda text, language="english": ["s"] * words.count_sentences(text)
sys.modules.update({"nltk": nltk, "nltk.tokenize": nltk.tokenize})
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
PipelineStep.__new__ = lambda cls, *args, **kwargs: object.__new__(cls)     # or it asks for NLTK
from datatrove.pipeline.filters.c4_quality_filter import C4QualityFilter
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.pipeline.formatters.pii import PIIFormatter
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.text import simplify_text
of_v1 = quality.words_of_v1, quality.parts_of_v1
checks = [(GopherRepetitionFilter(), lambda text: data.gopher_repetition(text, *of_v1)),
          (GopherQualityFilter(), lambda text: data.gopher_quality(text, of_v1[0])),
          (C4QualityFilter(filter_no_terminal_punct=False), data.c4_quality),
          (FineWebQualityFilter(None), quality.fineweb_quality_v1)]
step = MinhashDedupSignature("/nowhere", MinhashConfig(use_64bit_hashes=True))
reasons = {theirs.name: set() for theirs, _ in checks}
for text in json.load(sys.stdin):
    for theirs, ours in checks:
        doc = Document(text=text, id="")
        result = theirs.filter(doc)
        keep, reason = (result, None) if isinstance(result, bool) else result
        got, want = ours(text), (doc.text if keep else None, reason)
        assert got == want, (theirs.name, reason, got[1], text[:300])
        reasons[theirs.name].add(reason)
    assert pii.redact(text, version="v1") == PIIFormatter().format(text), text[:300]
    normal = dedup.normalize(text, "v1")
    assert normal == simplify_text(text), text[:300]
    nltk.word_tokenize = lambda text, language="english": dedup.split_v1(text).split()
    shingles = step.get_shingles(text)
    if len(shingles):
        signature = np.array(step.get_signature(shingles), np.uint64).reshape(-1)
        assert (signature == dedup.minhash([text], "v1")[0]).all()
    nltk.word_tokenize = nltk.tokenize.word_tokenize
print({name: len(found) for name, found in reasons.items()})
assert all(len(found) > 2 for found in reasons.values())
"""


def test_the_rules_of_v1_are_those_of_datatrove_0_2(kinds, texts):
    folder = os.environ.get("LONGHAND_DATATROVE_02")
    if not folder:
        pytest.skip("LONGHAND_DATATROVE_02 names no folder with datatrove 0.2.0")
    some = [*texts, "Write to JO@A.COM or jo@a.com, at 8.8.8.8. " * 3]
    for kind in kinds.values():
        some += kind[:60]
    some += [text.replace(".", '."').replace("\n", "\n\n") for text in texts[240:300]]
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", OLD], input=json.dumps(some), text=True, cwd=ROOT,
                          capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
