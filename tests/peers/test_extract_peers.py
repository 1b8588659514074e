"""web/extract.py beside trafilatura on the pages of two benchmarks: quality and time, in one run.

Two more sets of pages are there for the end: nobody looks into them while working on the rules.

    git clone https://github.com/scrapinghub/article-extraction-benchmark
    git clone https://github.com/adbar/trafilatura
    LONGHAND_UNSEEN=$PWD pytest -s tests/peers/test_extract_peers.py

They are the other half of the article extraction benchmark, and the 990 pages of trafilatura's own
evaluation. Those are mostly German, and it says of each what the text must have and must not have.
"""

import gzip
import importlib.util
import json
import os
import re
import statistics
import time
from pathlib import Path

import pytest

from web import extract

# The pages and the scorer are those of the test of the same name one folder up.
path = Path(__file__).parents[1] / "test_extract.py"
spec = importlib.util.spec_from_file_location("extract_scorer", path)
scorer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scorer)

trafilatura = pytest.importorskip("trafilatura", exc_type=ImportError,
                                  reason="needs trafilatura and lxml_html_clean")

ROUNDS = 3
OURS = "extract.py"


def trafilatura_with(**settings):
    """A function from a page to its main text."""
    return lambda page: trafilatura.extract(page, include_comments=False, **settings) or ""


PEERS = {
    "trafilatura fast": trafilatura_with(fast=True),
    "trafilatura": trafilatura_with(),
    "trafilatura favor_precision": trafilatura_with(favor_precision=True),
    "trafilatura favor_recall": trafilatura_with(favor_recall=True),
}
SYSTEMS = {OURS: extract.main_text, **PEERS}


def seconds(function, pages):
    start = time.process_time()
    for page, _ in pages:
        function(page)
    return time.process_time() - start


@pytest.mark.parametrize("benchmark", scorer.BENCHMARKS)
def test_better_than_trafilatura_at_a_third_of_its_time(benchmark):
    """All systems take turns. A time is the median of the rounds, a ratio that of their ratios."""
    work, held_out = scorer.benchmark(benchmark)
    pages = [*work.values(), *held_out.values()]
    rounds = []
    for _ in range(ROUNDS):
        rounds.append({name: seconds(function, pages) for name, function in SYSTEMS.items()})
    scores, ratios = {}, {}
    print(f"\n{benchmark}: {len(work)} pages to work with, {len(held_out)} held out; "
          f"trafilatura {trafilatura.__version__}")
    print(f"{'F1, precision, recall':28} {'to work with':22}{'held out':22}"
          "ms a page, our share of it")
    for name, function in SYSTEMS.items():
        rows = [scorer.compare(gold, function(page)) for page, gold in pages]
        scores[name] = scorer.f1(rows)[0]
        ratios[name] = statistics.median(r[OURS] / r[name] for r in rounds)
        ms = statistics.median(r[name] for r in rounds) / len(pages) * 1e3
        parts = [scorer.f1(rows[:len(work)]), scorer.f1(rows[len(work):])]
        shown = "".join(" %.4f %.3f %.3f   " % part for part in parts)
        print(f"{name:28}{shown} {ms:7.2f} {ratios[name]:.2f}")
    assert scores[OURS] > max(scores[name] for name in PEERS)
    assert all(ratios[name] < 1 / 3 for name in PEERS)


# ---------------------------------------------------------------- pages that nobody has looked into


def unseen(name):
    folder = Path(os.environ.get("LONGHAND_UNSEEN") or ".", name)
    if "LONGHAND_UNSEEN" not in os.environ or not folder.exists():
        pytest.skip(f"no clone of {name}; LONGHAND_UNSEEN names the folder that holds it")
    return folder


def test_other_half_of_the_article_extraction_benchmark():
    folder = unseen("article-extraction-benchmark")
    gold = json.loads((folder / "ground-truth.json").read_text(encoding="utf-8"))
    work, held_out = scorer.benchmark("extraction")
    pages = []
    for key in gold.keys() - work.keys() - held_out.keys():
        page = gzip.decompress((folder / f"html/{key}.html.gz").read_bytes())
        pages.append((page, gold[key]["articleBody"]))
    print(f"\n{len(pages)} pages of articles: F1, precision, recall")
    scores = {}
    for name, function in SYSTEMS.items():
        scores[name] = scorer.f1([scorer.compare(text, function(page)) for page, text in pages])
        print("%-28s %.4f %.3f %.3f" % (name, *scores[name]))
    assert scores[OURS][0] >= 0.960


def in_one_line(text):
    return re.sub(r"\s+", " ", text).strip()


def counts(text, item):
    """(what is there and has to be, what is there and must not be, what is missing) of one page."""
    text = in_one_line(text)
    right = sum(in_one_line(wanted) in text for wanted in item["with"])
    wrong = sum(in_one_line(unwanted) in text for unwanted in item["without"])
    return right, wrong, len(item["with"]) - right


def test_pages_of_the_evaluation_of_trafilatura():
    folder = unseen("trafilatura") / "tests"
    items = json.loads((folder / "evaldata.json").read_text(encoding="utf-8")).values()
    pages = []
    for item in items:
        path = folder / "cache" / item["file"]
        pages.append((path if path.exists() else folder / "eval" / item["file"]).read_bytes())
    print(f"\n{len(pages)} pages, mostly German: F, precision, recall")
    scores = {}
    for name, function in SYSTEMS.items():
        rows = [counts(function(page), item) for page, item in zip(pages, items)]
        right, wrong, missing = map(sum, zip(*rows))
        scores[name] = 2 * right / (2 * right + wrong + missing)
        precision, recall = right / (right + wrong), right / (right + missing)
        print("%-28s %.4f %.3f %.3f" % (name, scores[name], precision, recall))
    assert scores[OURS] >= 0.925
