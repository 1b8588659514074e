"""model/bench.py: its line of JSON."""

import json

import gpt
import pytest
from model import bench, planning


def test_it_prints_a_line_of_json(capsys, monkeypatch):
    cfg, measure = gpt.Config(20, 8, 16, 1, 2), bench.bench
    monkeypatch.setitem(bench.SETTINGS, "char", (cfg, 3))
    monkeypatch.setattr(bench, "bench", lambda setting: measure(setting, seconds=0.1))
    bench.main(["char"])
    line = json.loads(capsys.readouterr().out)
    assert line["bench"] == "char"
    assert min(line[name] for name in ("tokens_per_s", "peak_rss_mb", "steps")) > 0
    flops = line["tokens_per_s"] * planning.flops_per_token(cfg, 8)
    assert line["gflop_per_s"] == pytest.approx(flops / 1e9, abs=0.06)      # rounded to 0.1
