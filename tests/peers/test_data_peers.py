"""data.py beside datatrove and warcio: the same decisions, signatures and records on the same input.

With our words put in for datatrove's, thresholds and counts must agree on every text. With datatrove's own
words (spaCy) the share of equal decisions is printed, and English articles must be decided alike.
"""
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
import data
import dedup
import extract
import filters

DATA = Path(os.environ.get("LONGHAND_DATA") or Path(__file__).parent.parent.parent.parent / "shared" / "data")


def need(name):
    if not (DATA / name).exists():
        pytest.skip(f"no {DATA / name}; LONGHAND_DATA names another folder")
    return DATA / name


@pytest.fixture(scope="module")
def texts():
    """Main texts of the development crawl, articles first, pieces of English prose, and made-up borderline cases."""
    pages = [extract.main_text(r.body, r.url, r.charset) for r in data.read_warc(need("crawl-dev.warc.gz")) if r.type == "response"]
    lines = need("english.txt").read_text(encoding="utf-8").split("\n")
    pieces = ["\n".join(lines[i:i + 40]) for i in range(0, 40 * 100, 40)]
    edges = [mark.join(piece.split("\n")[:n]) for i, piece in enumerate(pieces[:60]) for n, mark in ((i, "\n"), (i, "...\n"), (3 * i, " # "), (9, "\n- "))]
    return [t for t in pages + pieces + edges if t.strip()]


@pytest.fixture(scope="module")
def checks():
    pytest.importorskip("datatrove", exc_type=ImportError)
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    return [(GopherRepetitionFilter(), data.gopher_repetition), (GopherQualityFilter(), data.gopher_quality),
            (C4QualityFilter(filter_no_terminal_punct=False), data.c4_quality), (FineWebQualityFilter(), data.fineweb_quality)]


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
        monkeypatch.setattr(module, "split_into_words", lambda text, language: filters.words(text), raising=False)
        monkeypatch.setattr(module, "split_into_sentences", lambda text, language: ["s"] * filters.count_sentences(text), raising=False)
        reasons = set()
        for text in texts:
            a, b = verdicts(theirs, ours, text)
            assert a == b, (theirs.name, text[:300])
            reasons.add(b[1])
        print(f"{theirs.name}: {len(texts)} texts decided alike, reasons met: {', '.join(sorted(filter(None, reasons)))}")
        assert len(reasons) > 2                                  # the texts put the rules to the test


def test_with_their_words_english_is_decided_alike(texts, checks):
    pytest.importorskip("spacy", exc_type=ImportError)
    n_articles, different = 90, 0
    for theirs, ours in checks:
        unequal = [i for i, text in enumerate(texts[:340]) if len({bool(v[0]) for v in verdicts(theirs, ours, text)}) > 1]
        print(f"{theirs.name}: kept or dropped alike {340 - len(unequal)} of 340, English articles {n_articles - sum(i < n_articles for i in unequal)} of {n_articles}")
        different += sum(i < n_articles for i in unequal)
    assert different <= 2


def test_decisions_and_speed_beside_datatrove(texts, checks):
    """With datatrove's own words, on all texts: at least 99 % alike; both sides timed in turns, ours with a vocabulary that starts empty."""
    pytest.importorskip("spacy", exc_type=ImportError)
    for theirs, ours in checks:
        ours_and_theirs = [verdicts(theirs, ours, text) for text in texts]
        alike = [(a[0] is None) == (b[0] is None) for a, b in ours_and_theirs]
        rewritten = [a[0] == b[0] for a, b in ours_and_theirs if a[0] is not None and b[0] is not None]
        print(f"{theirs.name}: {sum(alike)} of {len(texts)} kept or dropped alike ({sum(alike) / len(texts):.2%}); kept texts identical {np.mean(rewritten):.2%}")
        for i in np.flatnonzero(~np.array(alike)).tolist():
            print(f"    {'ours drops' if ours_and_theirs[i][1][0] is None else 'theirs drops'}: {ours_and_theirs[i][0][1] or ours_and_theirs[i][1][1]}: {texts[i][:60]!r}")
        assert np.mean(alike) >= 0.99 and np.mean(rewritten) >= 0.99
    sample, n, times = texts[:60] + texts[240:340], 0, {"ours": [], "datatrove": []}
    n = sum(len(t.encode()) for t in sample)
    for _ in range(3):
        filters.vocabulary = filters.Vocabulary()
        start = time.process_time()
        for text in sample:
            filters.gopher_repetition(text)
            filters.gopher_quality(text)
            filters.fineweb_quality(filters.c4_quality(text)[0] or text)
        middle = time.process_time()
        for text in sample:
            for theirs, _ in checks:
                verdicts(theirs, lambda text: None, text)
        times["ours"].append(middle - start)
        times["datatrove"].append(time.process_time() - middle)
    mine, other = (sorted(t)[1] for t in times.values())
    print(f"four filters: ours {n / mine / 1e6:.2f} MB/s, datatrove {n / other / 1e6:.3f} MB/s, ratio {other / mine:.1f}")
    start = time.process_time()
    for text in sample:
        filters.gopher_repetition(text)
        filters.gopher_quality(text)
        filters.fineweb_quality(filters.c4_quality(text)[0] or text)
    print(f"ours with these words known: {n / (time.process_time() - start) / 1e6:.2f} MB/s, ratio {other / (time.process_time() - start):.1f}")


def test_signature_speed_beside_datatrove(texts):
    """datatrove as it runs, with its own words, known to it already; ours with an empty vocabulary."""
    pytest.importorskip("spacy", exc_type=ImportError)
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.word_tokenizers import load_word_tokenizer
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(hash_fc="sha1", precision=64))
    step = MinhashDedupSignature(output_folder="/nowhere", config=config)
    step.word_tokenizer, times = load_word_tokenizer("eng"), []
    sample = texts[:60] + texts[240:340]
    n = sum(len(t.encode()) for t in sample)
    for _ in range(4):
        filters.vocabulary = filters.Vocabulary()
        start = time.process_time()
        data.minhash(sample)
        middle = time.process_time()
        for text in sample:
            step.get_signature(step.get_shingles(text))
        times.append((middle - start, time.process_time() - middle))
    mine, other = (sorted(t)[1] for t in zip(*times[1:]))
    print(f"signatures: ours {n / mine / 1e6:.2f} MB/s, datatrove {n / other / 1e6:.3f} MB/s, ratio {other / mine:.1f}")


def test_the_whole_pipeline_beside_trafilatura_and_datatrove(tmp_path, checks):
    """Pages per second of the development crawl on the same cores: ours, and trafilatura with datatrove's filters in a pool of
    as many processes. Only the English pages reach the filters on either side; ours also judges languages and signs."""
    trafilatura = pytest.importorskip("trafilatura", exc_type=ImportError)
    pytest.importorskip("spacy", exc_type=ImportError)
    import multiprocessing
    import resource
    path, n = need("crawl-dev.warc.gz"), len(os.sched_getaffinity(0))
    records = [(r.body, r.url) for r in data.read_warc(path) if r.type == "response"]

    def work(i):
        body, _ = records[i]
        text = trafilatura.extract(body, include_comments=False, favor_precision=True)
        if text and i < 91:                                      # the others are in other languages
            for theirs, _ in checks:
                verdicts(theirs, lambda text: None, text)
        return i
    global WORK                                                  # a forked pool finds it by name
    WORK, rates = work, []
    for k in range(2):
        start = time.perf_counter()
        with multiprocessing.get_context("fork").Pool(n) as pool:
            pool.map(call, range(len(records)), chunksize=4)
        middle = time.perf_counter()
        data.run([path], tmp_path / str(k), workers=n)
        rates.append((len(records) / (time.perf_counter() - middle), len(records) / (middle - start)))
    ours, theirs = (max(r) for r in zip(*rates))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"whole pipeline, {n} processes: ours {ours:.1f} pages a second, trafilatura + datatrove's filters {theirs:.1f}, ratio {ours / theirs:.1f}; largest process {peak:.0f} MB")


def call(i):
    return WORK(i)


def test_share_of_equal_tokens(texts):
    pytest.importorskip("spacy", exc_type=ImportError)
    from collections import Counter
    from datatrove.utils.text import split_into_words
    equal = total = 0
    for text in texts[:90]:
        ours, theirs = Counter(filters.words(text)), Counter(split_into_words(text, "eng"))
        equal, total = equal + (ours & theirs).total(), total + max(ours.total(), theirs.total())
    print(f"{equal / total:.2%} of the tokens of 90 news pages are spaCy's")
    assert equal / total > 0.97


def test_signatures_are_datatroves(texts):
    pytest.importorskip("datatrove", exc_type=ImportError)
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.text import TextNormConfig, simplify_text
    for text in texts:
        assert dedup.normalize(text) == simplify_text(text, TextNormConfig())
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(hash_fc="sha1", precision=64))
    step = MinhashDedupSignature(output_folder="/nowhere", config=config)
    step.word_tokenizer = SimpleNamespace(word_tokenize=filters.words)
    start = time.process_time()
    ours = data.minhash(texts[:150])
    middle = time.process_time()
    theirs = [step.get_signature(step.get_shingles(text)) if len(filters.words(dedup.normalize(text))) > 4 else None for text in texts[:150]]
    end = time.process_time()
    print(f"150 signatures: ours {middle - start:.2f} s, datatrove {end - middle:.2f} s")
    for mine, other in zip(ours, theirs):
        if other is None:
            assert (mine == dedup.NO_SIGNATURE).all()
        else:
            assert (mine == np.array(other, np.uint64).reshape(-1)).all()


@pytest.mark.parametrize("text", [
    "jo@site.com", "NAME@MYSITE.COM and a.b+c@x.co.uk", "email@example@example.com", '"email"@example.com', "email@example", "a@[8.8.8.8]", "8.8.8.8", ".3.3.3.0",
    "108.0.0.01", "0.1.2.3", "999.999.999.999", "10.0.0.1", "8.1.2.3456", "see 1.2.3.4, 9.9.9.9 and b@c.de or d@e.fg"])
def test_redaction_of_a_first_document_is_datatroves(text):
    pytest.importorskip("datatrove", exc_type=ImportError)
    from datatrove.pipeline.formatters import PIIFormatter
    assert data.redact(text) == PIIFormatter().format(text)


def test_records_are_warcios():
    pytest.importorskip("warcio", exc_type=ImportError)
    from warcio.archiveiterator import ArchiveIterator
    path = need("crawl-dev.warc.gz")
    start = time.process_time()
    ours = list(data.read_warc(path))
    middle = time.process_time()
    with open(path, "rb") as file:
        reader, theirs = ArchiveIterator(file), []
        for r in reader:
            body = r.content_stream().read()                     # before the offset: that skips to the next record
            url = r.rec_headers.get_header("WARC-Target-URI") or ""
            status = r.http_headers.get_statuscode() if r.rec_type == "response" else None
            theirs.append((r.rec_type, r.rec_headers.get_header("WARC-Record-ID"), url, reader.get_record_offset(),
                           r.rec_headers.get_header("WARC-Date"), status, body))
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
                    headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
                    writer.write_record(writer.create_warc_record(f"http://a.com/{i}", "response", payload=io.BytesIO(b"<p>%d" % i), http_headers=headers))
            out = list(data.read_warc(tmp_path / "x.warc"))
            assert [(r.type, r.url, r.body) for r in out[1:]] == [("response", f"http://a.com/{i}", b"<p>%d" % i) for i in range(5)]
            assert all(re.match(r"\d{4}-\d\d-\d\dT", r.date) for r in out)
