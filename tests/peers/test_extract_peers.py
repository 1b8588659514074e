"""extract.py beside trafilatura on the pages of two benchmarks: precision, recall, F1 and time, in one run."""
import importlib.util
import statistics
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
import extract

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
        print(f"{'F1, precision, recall':34} {'to work with':22}{'held out':22}ms a page, share of it that extract.py takes")
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
