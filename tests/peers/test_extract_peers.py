"""extract.py beside trafilatura on the pages of the article extraction benchmark: F1 and time, in one run."""
import importlib.util
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


def measure(name, function, pages):
    start = time.process_time()
    rows = [scorer.compare(gold, function(page)) for page, gold in pages]
    ms = (time.process_time() - start) / len(pages) * 1e3
    print(f"{name:<28} F1 {scorer.f1(rows)[0]:.4f} precision {scorer.f1(rows)[1]:.4f} recall {scorer.f1(rows)[2]:.4f} {ms:6.1f} ms a page")
    return scorer.f1(rows)[0], ms


def test_as_good_as_trafilatura_and_faster():
    pages = scorer.benchmark()
    ours, our_ms = measure("extract.py", extract.main_text, pages)
    theirs = [measure(f"trafilatura {trafilatura.__version__} {kwargs or ''}", lambda page: trafilatura.extract(
        page, include_comments=False, **kwargs) or "", pages) for kwargs in ({}, {"favor_precision": True})]
    assert ours > max(f1 for f1, ms in theirs) - 0.005
    assert our_ms < min(ms for f1, ms in theirs)
