"""data.py beside datatrove, spaCy and warcio: the same words, decisions, signatures and records on the same input.

The rules of v1 are compared with the code of that time, if LONGHAND_DATATROVE_02 names the folder of:

    pip install --no-deps --target FOLDER datatrove==0.2.0
"""

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
import data
from web import dedup
from web import extract
from web import pii
from web import quality
from web import warc
from web import words

DATA = Path(os.environ.get("LONGHAND_DATA")
            or Path(__file__).parent.parent.parent.parent / "shared" / "data")


def need(name):
    if not (DATA / name).exists():
        pytest.skip(f"no {DATA / name}; LONGHAND_DATA names another folder")
    return DATA / name


def blocks(text, n_lines):
    lines = text.split("\n")
    return ["\n".join(lines[i : i + n_lines]) for i in range(0, len(lines), n_lines)]


@pytest.fixture(scope="module")
def texts():
    """Main texts of the development crawl, articles first, pieces of English prose, and made-up borderline cases."""
    pages = [extract.main_text(r.body, r.url, r.charset)
             for r in warc.read_warc(need("crawl-dev.warc.gz")) if r.type == "response"]
    pieces = blocks(need("english.txt").read_text(encoding="utf-8"), 40)[:100]
    edges = [mark.join(piece.split("\n")[:n]) for i, piece in enumerate(pieces[:60]) for n,
             mark in ((i, "\n"), (i, "...\n"), (3 * i, " # "), (9, "\n- "))]
    return [t for t in pages + pieces + edges if t.strip()]


SLANG = "lol im ive dont doesnt wont cant youre theyre its gonna wanna id ill wed thats whats couldve yall 8pm 5min 30mins 10/10 :) xD :-P <3 24/7 100% $20 20$ 2x 90s w/o ok..."


@pytest.fixture(scope="module")
def kinds(texts):
    """{kind: English texts}: prose, verse, problems, code, tables, chat, addresses."""
    rng = random.Random(0)
    problems = [json.loads(line) for line in open(need("gsm8k_train.jsonl"), encoding="utf-8")]
    prose = texts[240:340]
    tables = []
    for _ in range(60):
        cells = [rng.choice([
                                f"{rng.randint(0, 9999)}", f"{rng.uniform(0, 99):.2f}",
                                f"${rng.randint(1, 99)}"
                            ]) + rng.choice(["", "kg", " km", "MB", "%", "th", "x9"])
                 for _ in range(80)]
        tables.append("".join(cell + rng.choice(["|", " | ", "\t", "\n"]) for cell in cells))
    chat = [" ".join(word.replace("'", "").lower() + rng.choice(
                         ["", "", "", "!!", "...", " " + rng.choice(SLANG.split()), "\U0001f602"])
                     for word in text.split())
            for text in prose]
    addresses = [" ".join(word
                          if rng.random() > 0.1 else rng.choice(
                              ["http://a.com/b-c?d=e", "(www.x.co.uk:80/y),", "jo.doe@a.org.",
                               "192.168.0.1/a", "file.tar.gz", "Site.Com/x"]
                          )
                          for word in text.split())
                 for text in prose]
    return {"articles": texts[:90], "prose": prose,
            "verse": blocks(need("tinyshakespeare.txt").read_text(encoding="utf-8"), 100)[:200],
            "questions": [p["question"] for p in problems[:300]],
            "answers": [p["answer"] + "\n" + q["answer"] for p,
                        q in zip(problems[:300], problems[300:])],
            "readability": [page["text"]
                            for page in json.loads(need("readability/gold.json").read_text(
                                                       encoding="utf-8")).values()],
            "code": [piece for path in sorted(Path(data.__file__).parent.glob("web/*.py"))
                     for piece in blocks(path.read_text(encoding="utf-8"), 80)],
            "tables": tables, "chat": chat, "addresses": addresses,
            "upper case": [text.upper() for text in prose[:40]]}


@pytest.fixture(scope="module")
def checks():
    pytest.importorskip("datatrove", exc_type=ImportError)
    from datatrove.pipeline.filters import (C4QualityFilter, FineWebQualityFilter,
                                            GopherQualityFilter, GopherRepetitionFilter)

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


def verdicts(theirs, ours, text):
    """((kept text or None, reason) of datatrove, the same of ours)."""
    from datatrove.data import Document

    doc = Document(text=text, id="")
    result = theirs.filter(doc)
    keep, reason = (result, None) if isinstance(result, bool) else result
    return (doc.text if keep else None, reason), ours(text)


def test_with_our_words_every_decision_is_datatroves(texts, checks, monkeypatch):
    for theirs, ours in checks:
        module = sys.modules[type(theirs).__module__]
        monkeypatch.setattr(module, "split_into_words", lambda text, language: words.words(text),
                            raising=False)
        monkeypatch.setattr(module, "split_into_sentences",
                            lambda text, language: ["s"] * words.count_sentences(text),
                            raising=False)
        reasons = set()
        for text in texts:
            a, b = verdicts(theirs, ours, text)
            assert a == b, (theirs.name, text[:300])
            reasons.add(b[1])
        print(
            f"{theirs.name}: {len(texts)} texts decided alike, reasons met: {', '.join(sorted(filter(None, reasons)))}"
        )
        assert len(reasons) > 2  # the texts put the rules to the test


def test_every_decision_is_datatroves(kinds, checks):
    """With datatrove's own words: the same texts are kept, as the same text, and dropped for the same reason."""
    pytest.importorskip("spacy", exc_type=ImportError)
    for kind, some in kinds.items():
        for theirs, ours in checks:
            for text in some:
                a, b = verdicts(theirs, ours, text)
                assert a == b, (kind, theirs.name, text[:300])


def test_decisions_and_speed_beside_datatrove(texts, checks):
    """With datatrove's own words, also in other languages: all alike; both sides timed in turns, ours with a vocabulary that starts empty."""
    pytest.importorskip("spacy", exc_type=ImportError)
    for theirs, ours in checks:
        ours_and_theirs = [verdicts(theirs, ours, text) for text in texts]
        alike = [(a[0] is None) == (b[0] is None) for a, b in ours_and_theirs]
        rewritten = [a[0] == b[0] for a,
                     b in ours_and_theirs if a[0] is not None and b[0] is not None]
        print(
            f"{theirs.name}: {sum(alike)} of {len(texts)} kept or dropped alike ({sum(alike) / len(texts):.2%}); kept texts identical {np.mean(rewritten):.2%}"
        )
        for i in np.flatnonzero(~np.array(alike)).tolist():
            print(
                f"    {'ours drops' if ours_and_theirs[i][1][0] is None else 'theirs drops'}: {ours_and_theirs[i][0][1] or ours_and_theirs[i][1][1]}: {texts[i][:60]!r}"
            )
        assert all(alike) and all(rewritten)
    sample, n, times = texts[:60] + texts[240:340], 0, {"ours": [], "datatrove": []}
    n = sum(len(t.encode()) for t in sample)
    for _ in range(3):
        forget_words()
        start = time.process_time()
        four_filters(sample)
        middle = time.process_time()
        for text in sample:
            for theirs, _ in checks:
                verdicts(theirs, lambda text: None, text)
        times["ours"].append(middle - start)
        times["datatrove"].append(time.process_time() - middle)
    mine, other = (sorted(t)[1] for t in times.values())
    print(
        f"four filters: ours {n / mine / 1e6:.2f} MB/s, datatrove {n / other / 1e6:.3f} MB/s, ratio {other / mine:.1f}"
    )
    start = time.process_time()
    four_filters(sample)
    print(
        f"ours with these words known: {n / (time.process_time() - start) / 1e6:.2f} MB/s, ratio {other / (time.process_time() - start):.1f}"
    )


def test_signature_speed_beside_datatrove(texts):
    """datatrove as it runs, with its own words, known to it already; ours with an empty vocabulary."""
    pytest.importorskip("spacy", exc_type=ImportError)
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8,
                           hash_config=HashConfig(hash_fc="sha1", precision=64))
    step = MinhashDedupSignature(output_folder="/nowhere", config=config)
    step.word_tokenizer, times = load_word_tokenizer("eng"), []
    sample = texts[:60] + texts[240:340]
    n = sum(len(t.encode()) for t in sample)
    for _ in range(4):
        forget_words()
        start = time.process_time()
        dedup.minhash(sample)
        middle = time.process_time()
        for text in sample:
            step.get_signature(step.get_shingles(text))
        times.append((middle - start, time.process_time() - middle))
    mine, other = (sorted(t)[1] for t in zip(*times[1:]))
    print(
        f"signatures: ours {n / mine / 1e6:.2f} MB/s, datatrove {n / other / 1e6:.3f} MB/s, ratio {other / mine:.1f}"
    )


def test_the_whole_pipeline_beside_trafilatura_and_datatrove(tmp_path, checks):
    """Pages per second of the development crawl on the same cores: ours, and trafilatura with datatrove's filters in a pool of
    as many processes. Only the English pages reach the filters on either side; ours also judges languages and signs."""
    trafilatura = pytest.importorskip("trafilatura", exc_type=ImportError)
    pytest.importorskip("spacy", exc_type=ImportError)
    import multiprocessing
    import resource

    path, n = need("crawl-dev.warc.gz"), len(os.sched_getaffinity(0))
    records = [(r.body, r.url) for r in warc.read_warc(path) if r.type == "response"]

    def work(i):
        body, _ = records[i]
        text = trafilatura.extract(body, include_comments=False, favor_precision=True)
        if text and i < 91:  # the others are in other languages
            for theirs, _ in checks:
                verdicts(theirs, lambda text: None, text)
        return i

    global WORK  # a forked pool finds it by name
    WORK, rates = work, []
    for k in range(2):
        start = time.perf_counter()
        with multiprocessing.get_context("fork").Pool(n) as pool:
            pool.map(call, range(len(records)), chunksize=4)
        middle = time.perf_counter()
        data.run([path], tmp_path / str(k), workers=n)
        rates.append((len(records) / (time.perf_counter() - middle),
                      len(records) / (middle - start)))
    ours, theirs = (max(r) for r in zip(*rates))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"whole pipeline, {n} processes: ours {ours:.1f} pages a second, trafilatura + datatrove's filters {theirs:.1f}, ratio {ours / theirs:.1f}; largest process {peak:.0f} MB"
    )


def call(i):
    return WORK(i)


@pytest.fixture(scope="module")
def spacy_tokenizer():
    return pytest.importorskip("spacy", exc_type=ImportError).blank("en").tokenizer


def spacy_words(tokenizer, text):
    return [token.text for token in tokenizer(text) if token.text.strip()]


def test_words_are_spacys(kinds, texts, spacy_tokenizer):
    from datatrove.utils.text import split_into_words

    for text in [*texts, *(text for some in kinds.values() for text in some)]:
        assert words.words(text) == split_into_words(text, "eng"), text[:300]
    for piece in spacy_tokenizer.rules:
        assert words.words(piece) == spacy_words(spacy_tokenizer, piece), piece


def test_character_classes_are_spacys():
    classes = pytest.importorskip("spacy.lang.char_classes", exc_type=ImportError)
    for ours, theirs in ((words.LETTERS, classes.ALPHA), (words.LOWER, classes.ALPHA_LOWER),
                         (words.UPPER, classes.ALPHA_UPPER), (words.ICONS, classes.ICONS)):
        ours, theirs = re.compile(f"[{ours}]"), re.compile(f"[{theirs}]")
        for c in map(chr, range(0x110000)):
            assert bool(ours.match(c)) == bool(theirs.match(c)) or c == "\u03a2", hex(
                ord(c)
            )  # which is no character
    assert set(words.UNITS) == set(classes.LIST_UNITS)


def test_words_of_pieces_made_at_random_are_spacys(spacy_tokenizer):
    """LONGHAND_FUZZ_PIECES pieces of letters, marks, and what the rules look for."""
    r = random.Random(int(os.environ.get("LONGHAND_FUZZ_PIECES_SEED", 0)))
    atoms = [
        *"abcdefgABCxyzIVM0123456789.,:;!?()[]{}<>_#*&'\"-+/=^~%$@\u00b0\\|`\u2019\u2018\u201c\u201d\u2026\u2014\u2013\u00ab\u20ac\u00a3\u2600\u00df\u00e9\u00c9\u4e2d\u3002\u00b5\u00b2\u0301\U0001f642"
    ]
    atoms += "http:// www. .com @ ... US$ kg km/h MB don't dont I'm id 's 'll cannot p.m. am 8am e.g. Mr. U.S. and/or :) <3 8) o.O 10.5 127.0.0.1 8.8.8.8 :80 /path -- ---".split()
    rules = [rule for rule in spacy_tokenizer.rules if rule.strip()]
    for _ in range(int(os.environ.get("LONGHAND_FUZZ_PIECES", 20_000))):
        piece = "".join(r.choice(atoms if r.random() < 0.85 else rules)
                        for _ in range(r.randint(1, 7)))
        assert words.words(piece) == spacy_words(spacy_tokenizer, piece), piece


def test_signatures_are_datatroves(kinds, texts):
    """With datatrove's own words, on English of every kind; other languages also have the words of its English tokenizer."""
    pytest.importorskip("datatrove", exc_type=ImportError)
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.text import TextNormConfig, simplify_text
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8,
                           hash_config=HashConfig(hash_fc="sha1", precision=64))
    step = MinhashDedupSignature(output_folder="/nowhere", config=config)
    step.word_tokenizer = load_word_tokenizer("eng")
    n = n_equal = 0
    for kind, some in {**kinds, "all pages": texts[:240]}.items():
        equal = 0
        for text in some:
            assert dedup.normalize(text) == simplify_text(text, TextNormConfig())
            shingles = step.get_shingles(text)
            mine = dedup.minhash([text])[0]
            theirs = (np.array(step.get_signature(shingles), np.uint64).reshape(-1)
                      if len(shingles) else np.full(112, dedup.NO_SIGNATURE))
            equal += (mine == theirs).all()
        print(f"{kind}: {equal} of {len(some)} signatures are datatrove's")
        n, n_equal = n + len(some), n_equal + equal
    assert n_equal == n


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
PipelineStep.__new__ = lambda cls, *args, **kwargs: object.__new__(cls)             # it asks whether NLTK is installed
from datatrove.pipeline.filters.c4_quality_filter import C4QualityFilter
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.pipeline.formatters.pii import PIIFormatter
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.text import simplify_text
checks = [(GopherRepetitionFilter(), lambda text: data.gopher_repetition(text, quality.words_of_v1, quality.parts_of_v1)),
          (GopherQualityFilter(), lambda text: data.gopher_quality(text, quality.words_of_v1)),
          (C4QualityFilter(filter_no_terminal_punct=False), data.c4_quality),
          (FineWebQualityFilter(None), quality.fineweb_quality_v1)]
step = MinhashDedupSignature("/nowhere", MinhashConfig(use_64bit_hashes=True))
reasons = {theirs.name: set() for theirs, _ in checks}
for text in json.load(sys.stdin):
    for theirs, ours in checks:
        doc = Document(text=text, id="")
        result = theirs.filter(doc)
        keep, reason = (result, None) if isinstance(result, bool) else result
        got = ours(text)
        assert got == (doc.text if keep else None, reason), (theirs.name, reason, got[1], text[:300])
        reasons[theirs.name].add(reason)
    assert pii.redact(text, version="v1") == PIIFormatter().format(text), text[:300]
    normal = dedup.normalize(text, "v1")
    assert normal == simplify_text(text), text[:300]
    nltk.word_tokenize = lambda text, language="english": dedup.split_v1(text).split()
    shingles = step.get_shingles(text)
    if len(shingles):
        assert (np.array(step.get_signature(shingles), np.uint64).reshape(-1) == dedup.minhash([text], "v1")[0]).all()
    nltk.word_tokenize = nltk.tokenize.word_tokenize
print({name: len(found) for name, found in reasons.items()})
assert all(len(found) > 2 for found in reasons.values())
"""


def test_the_rules_of_v1_are_those_of_datatrove_0_2(kinds, texts):
    folder = os.environ.get("LONGHAND_DATATROVE_02")
    if not folder:
        pytest.skip("LONGHAND_DATATROVE_02 names no folder with datatrove 0.2.0")
    some = texts + [text for kind in kinds.values() for text in kind[:60]]
    some += [text.replace(".", '."').replace("\n", "\n\n") for text in texts[240:300]] + [
        "Write to JO@A.COM or jo@a.com, at 8.8.8.8. " * 3]
    home = Path(data.__file__).parent
    done = subprocess.run([sys.executable, "-c", OLD], input=json.dumps(some), capture_output=True,
                          text=True, cwd=home,
                          env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{home}"})
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)


def test_redaction_of_hostile_texts_is_datatroves():
    pytest.importorskip("datatrove", exc_type=ImportError)
    from datatrove.pipeline.formatters import PIIFormatter

    r = random.Random(0)
    atoms = (
        [*"abZ91.@-_+'!\u00e9 \n[]:%(<>/0,;"]
        + "8.8.8.8 10.0.0.1 1.2.3.4 255.255.255.255 256.1.1.1 01.2.3.4 .. .com x@y.z mailto: 1.1.1 @@ [1.2.3. a:".split()
        + ["a" * 70]
    )
    for _ in range(10_000):
        text = "".join(r.choice(atoms) for _ in range(r.randint(1, 12)))
        assert pii.redact(text) == data.redact(text) == PIIFormatter().format(text), text


@pytest.mark.parametrize("text",
                         ["jo@site.com", "NAME@MYSITE.COM and a.b+c@x.co.uk",
                          "email@example@example.com", '"email"@example.com', "email@example",
                          "a@[8.8.8.8]", "8.8.8.8", ".3.3.3.0", "108.0.0.01", "0.1.2.3",
                          "999.999.999.999", "10.0.0.1", "8.1.2.3456",
                          "see 1.2.3.4, 9.9.9.9 and b@c.de or d@e.fg"])
def test_redaction_of_a_first_document_is_datatroves(text):
    pytest.importorskip("datatrove", exc_type=ImportError)
    from datatrove.pipeline.formatters import PIIFormatter

    assert pii.redact(text) == data.redact(text) == PIIFormatter().format(text)


def test_records_are_warcios():
    pytest.importorskip("warcio", exc_type=ImportError)
    from warcio.archiveiterator import ArchiveIterator

    path = need("crawl-dev.warc.gz")
    start = time.process_time()
    ours = list(warc.read_warc(path))
    middle = time.process_time()
    with open(path, "rb") as file:
        reader, theirs = ArchiveIterator(file), []
        for r in reader:
            body = r.content_stream().read()  # before the offset: that skips to the next record
            url = r.rec_headers.get_header("WARC-Target-URI") or ""
            status = r.http_headers.get_statuscode() if r.rec_type == "response" else None
            theirs.append((r.rec_type, r.rec_headers.get_header("WARC-Record-ID"), url,
                           reader.get_record_offset(), r.rec_headers.get_header("WARC-Date"),
                           status, body))
    end = time.process_time()
    print(f"{len(ours)} records: ours {middle - start:.2f} s, warcio {end - middle:.2f} s")
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert (a.type, a.id, a.url, a.offset, a.date) == b[:5]
        if a.type == "response":
            assert (str(a.status), a.body) == b[5:]


def test_warcio_writes_and_we_read(tmp_path):
    pytest.importorskip("warcio", exc_type=ImportError)
    import io
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    for version in ("1.0", "1.1"):
        for zipped in (True, False):
            with open(tmp_path / "x.warc", "wb") as file:
                writer = WARCWriter(file, gzip=zipped, warc_version=version)
                writer.write_record(writer.create_warcinfo_record("x.warc", {"software": "warcio"}))
                for i in range(5):
                    headers = StatusAndHeaders("200 OK",
                                               [("Content-Type", "text/html; charset=utf-8")],
                                               protocol="HTTP/1.1")
                    writer.write_record(writer.create_warc_record(
                                            f"http://a.com/{i}", "response",
                                            payload=io.BytesIO(b"<p>%d" % i), http_headers=headers))
            out = list(warc.read_warc(tmp_path / "x.warc"))
            assert [(r.type, r.url, r.body) for r in out[1:]] == [
                ("response", f"http://a.com/{i}", b"<p>%d" % i) for i in range(5)]
            assert all(re.match(r"\d{4}-\d\d-\d\dT", r.date) for r in out)
