"""web/extract.py beside trafilatura on the pages of two benchmarks: precision, recall, F1 and time, in one run.

Two more sets of pages are there for the end: nobody looks into them while working on the rules.

    git clone https://github.com/scrapinghub/article-extraction-benchmark
    git clone https://github.com/adbar/trafilatura
    LONGHAND_UNSEEN=$PWD pytest -s tests/peers/test_extract_peers.py

They are the other half of the article extraction benchmark and the 990 pages of trafilatura's own evaluation, mostly German,
which says of each page what has to be in the text and what must not be.
"""
import gzip
import importlib.util
import json
import os
import re
import statistics
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from web import extract

# The pages and the scorer are those of the test of the same name one folder up.
spec = importlib.util.spec_from_file_location("extract_scorer", Path(__file__).parent.parent / "test_extract.py")
scorer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scorer)

trafilatura = pytest.importorskip("trafilatura", exc_type=ImportError, reason="needs trafilatura and lxml_html_clean")

ROUNDS = 3
SYSTEMS = {"extract.py": extract.main_text} | {
    f"trafilatura {trafilatura.__version__} {' '.join(kwargs)}":
        lambda page, kwargs=kwargs: trafilatura.extract(page, include_comments=False, **kwargs) or ""
    for kwargs in ({"fast": True}, {}, {"favor_precision": True}, {"favor_recall": True})}


def seconds(function, pages):
    start = time.process_time()
    for page, gold in pages:
        function(page)
    return time.process_time() - start


def test_better_than_trafilatura_at_a_third_of_its_time():
    """Times are medians of rounds in which all systems take turns; a ratio is the median of the rounds' ratios."""
    for benchmark in scorer.BENCHMARKS:
        work, held_out = scorer.benchmark(benchmark)
        pages = [*work.values(), *held_out.values()]
        rounds = [{name: seconds(function, pages) for name, function in SYSTEMS.items()} for _ in range(ROUNDS)]
        scores, ratios = {}, {}
        print(f"\n{benchmark}: {len(work)} pages to work with, {len(held_out)} held out")
        print(f"{'F1, precision, recall':34} {'to work with':22}{'held out':22}ms a page, share of it that web/extract.py takes")
        for name, function in SYSTEMS.items():
            rows = [scorer.compare(gold, function(page)) for page, gold in pages]
            scores[name] = scorer.f1(rows)[0]
            ratios[name] = statistics.median(r["extract.py"] / r[name] for r in rounds)
            parts = [" %.4f %.3f %.3f   " % scorer.f1(part) for part in (rows[:len(work)], rows[len(work):])]
            ms = statistics.median(r[name] for r in rounds) / len(pages) * 1e3
            print(f"{name:34}{''.join(parts)} {ms:7.2f} {ratios[name]:.2f}")
        theirs = [name for name in SYSTEMS if name != "extract.py"]
        assert scores["extract.py"] > max(scores[name] for name in theirs), benchmark
        assert all(ratios[name] < 1 / 3 for name in theirs), benchmark


# ------------------------------------------------------------------------------------------------------
# Pages that nobody has looked into.

def unseen(name):
    folder = Path(os.environ.get("LONGHAND_UNSEEN") or ".", name)
    if "LONGHAND_UNSEEN" not in os.environ or not folder.exists():
        pytest.skip(f"no clone of {name}; LONGHAND_UNSEEN names the folder that holds it")
    return folder


def test_other_half_of_the_article_extraction_benchmark():
    folder = unseen("article-extraction-benchmark")
    gold = json.loads((folder / "ground-truth.json").read_text(encoding="utf-8"))
    work, held_out = scorer.benchmark("extraction")
    pages = {key: (gzip.decompress((folder / f"html/{key}.html.gz").read_bytes()), gold[key]["articleBody"])
             for key in gold.keys() - work.keys() - held_out.keys()}
    print(f"\n{len(pages)} pages of articles: F1, precision, recall")
    scores = {}
    for name, function in SYSTEMS.items():
        scores[name] = scorer.f1([scorer.compare(text, function(page)) for page, text in pages.values()])
        print("%-34s %.4f %.3f %.3f" % (name, *scores[name]))
    assert scores["extract.py"][0] >= 0.960


def counts(text, item):
    """(what is there and has to be, what is there and must not be, what is missing) of one page."""
    def in_one_line(text):
        return re.sub(r"\s+", " ", text).strip()
    text = in_one_line(text)
    right = sum(in_one_line(wanted) in text for wanted in item["with"])
    return right, sum(in_one_line(unwanted) in text for unwanted in item["without"]), len(item["with"]) - right


def test_pages_of_the_evaluation_of_trafilatura():
    folder = unseen("trafilatura") / "tests"
    items = json.loads((folder / "evaldata.json").read_text(encoding="utf-8")).values()
    paths = [next(path for path in (folder / "cache" / item["file"], folder / "eval" / item["file"]) if path.exists())
             for item in items]
    print(f"\n{len(paths)} pages, mostly German: F, precision, recall")
    scores = {}
    for name, function in SYSTEMS.items():
        rows = [counts(function(path.read_bytes()), item) for path, item in zip(paths, items)]
        right, wrong, missing = map(sum, zip(*rows))
        scores[name] = 2 * right / (2 * right + wrong + missing)
        print("%-34s %.4f %.3f %.3f" % (name, scores[name], right / (right + wrong), right / (right + missing)))
    assert scores["extract.py"] >= 0.925
