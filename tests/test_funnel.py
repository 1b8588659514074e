"""web/funnel.py: the table. What it counts in a run: test_pipeline.py."""

import doctest
import json

import data
from web import funnel
from web import options


def test_examples_of_the_docstrings():
    found = doctest.testmod(funnel)
    assert found.attempted and not found.failed


def test_the_table_fits_80_columns():
    """Also with long reasons and millions of pages; a reason that is too long is cut."""
    full = funnel.Funnel(data.STAGES, options.Settings(), {})
    counts = {"documents_in": 12_345_678, "documents_out": 9_345_678, "bytes_in": 10 ** 12,
              "bytes_out": 10 ** 11, "seconds": 10_000}
    for stage in data.STAGES:
        full.counts[stage].update(counts)
        full.reasons[stage].update(gopher_above_avg_threshold=2_345_678, few=2)
    lines = full.table().split("\n")
    assert len(lines) == 1 + len(data.STAGES) and "above_avg_threshold" in lines[5]
    assert max(map(len, lines)) <= 80


def test_merged_parts_are_the_whole():
    """Also where reasons are as frequent, and examples too many: the first ones stay."""
    whole = funnel.Funnel(data.STAGES, options.Settings(), {})
    parts = [funnel.Funnel(data.STAGES, options.Settings(), {}) for _ in range(3)]
    for i in range(24):
        reason = ["domain", "subdomain", None, "url"][i * i % 7 % 4]
        doc = {"trail": [("url", 10, 0 if reason else 10, 0.5)], "reason": reason,
               "url": f"http://a.com/{i}"}
        for each in (whole, parts[i // 9]):
            each.add(doc)
            each.reader.update(response=1, page_cut=0)
    merged = funnel.Funnel(data.STAGES, options.Settings(), {})
    for part in parts:
        merged.merge(json.loads(json.dumps(part.counted())))
    assert json.dumps(merged.report()) == json.dumps(whole.report())
    assert merged.table() == whole.table()
