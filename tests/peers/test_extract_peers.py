"""extract.py beside trafilatura on the pages of the article extraction benchmark: F1 and time, in one run."""
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

ROUNDS = 5
SYSTEMS = {"extract.py": extract.main_text} | {
    f"trafilatura {trafilatura.__version__} {' '.join(kwargs)}":
        lambda page, kwargs=kwargs: trafilatura.extract(page, include_comments=False, **kwargs) or ""
    for kwargs in ({"fast": True}, {}, {"favor_precision": True})}


def seconds(function, pages):
    start = time.process_time()
    for page, gold in pages:
        function(page)
    return time.process_time() - start


def test_better_than_trafilatura_and_twice_as_fast():
    """Times are medians of rounds in which all systems take turns; a ratio is the median of the rounds' ratios."""
    work, held_out = scorer.benchmark()
    pages = [*work.values(), *held_out.values()]
    rounds = [{name: seconds(function, pages) for name, function in SYSTEMS.items()} for _ in range(ROUNDS)]
    scores, ratios = {}, {}
    for name, function in SYSTEMS.items():
        rows = [scorer.compare(gold, function(page)) for page, gold in pages]
        scores[name] = scorer.f1(rows)[0]
        ratios[name] = statistics.median(r["extract.py"] / r[name] for r in rounds)
        ms = statistics.median(r[name] for r in rounds) / len(pages) * 1e3
        print("%-34s F1 %.4f precision %.4f recall %.4f" % (name, *scorer.f1(rows)), end="   ")
        print("to work with %.4f, held out %.4f" % (scorer.f1(rows[:len(work)])[0], scorer.f1(rows[len(work):])[0]), end="")
        print(f" {ms:7.2f} ms a page, extract.py takes {ratios[name]:.2f} of that")
    theirs = [name for name in SYSTEMS if name != "extract.py"]
    assert scores["extract.py"] > max(scores[name] for name in theirs)
    assert all(ratios[name] < 0.5 for name in theirs)
