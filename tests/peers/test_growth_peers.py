"""growth.py's fit, and its drawings: they are read by an XML parser and by nobody's eyes."""

import json
import math
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

import growth
import growth_plot

HERE = Path(__file__).resolve().parent
SIZES = growth.numbers(10, 10_000)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("value, want", [
    (lambda n: 3e-4 * n, 1), (lambda n: 1e-6 * n * n, 2), (lambda n: 0.5, 0),
    (lambda n: n * math.log(n), 1.11),
    (lambda n: n + 1e-2 * n * n, 1.98)])
def test_the_exponent_of_the_last_decade(value, want):
    assert growth.exponent([(n, value(n)) for n in SIZES]) == pytest.approx(want, abs=0.02)


def test_every_stage_has_its_works():
    works = pytest.importorskip("growth_works")
    for name, stage in growth.STAGES.items():
        sides = growth.SIDES if stage.theirs else ["ours"]
        assert all(callable(getattr(works, f"{name}_{side}")) for side in sides)


def test_a_point_is_measured_in_a_fork():
    """Of a fresh process: this one may have had more memory than the point needs."""
    code = """import growth, json
print(json.dumps(growth.point(lambda n: lambda: bytearray(n), 30 << 20, repeat=False)))"""
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True)
    point = json.loads(done.stdout)
    assert point["seconds"] > 0 and 25 < point["mb"] - point["before_mb"] < 40


@pytest.mark.parametrize("peer", [{}, {"R & D": [(1, 2e-5), (300, 7)]}])
def test_a_drawing_is_xml(peer):
    curves = {"Longhand": [(n, 1e-3 * n) for n in SIZES], **peer}
    flat = {"Longhand": [(n, 50) for n in SIZES]}
    panels = [growth_plot.Panel("seconds <&>", curves), growth_plot.Panel("MB", flat)]
    text = growth_plot.drawing("A & B", "pages", panels)
    root = xml.etree.ElementTree.fromstring(text)
    assert len(root.findall(f"{SVG}circle")) == 2 * len(SIZES) + 2 * len(peer)
    assert {"seconds <&>", "MB", "A & B"} <= {element.text for element in root.iter(f"{SVG}text")}
    for element in root.findall(f"{SVG}circle"):        # inside the panels
        assert growth_plot.TOP < float(element.get("cy")) < growth_plot.HEIGHT


def test_the_page_of_made_up_points(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "PAGE", tmp_path / "growth.md")
    monkeypatch.setattr(growth, "PLOTS", tmp_path / "growth")
    points = {}
    for side in growth.SIDES:
        for n in growth.sizes("forward", side):
            mb = 50 + (n * n / 1e5 if side == "ours" else n / 100)
            points[f"forward {side} {n}"] = {"seconds": 1e-9 * n**2, "before_mb": 50, "mb": mb}
    growth.write_page(points)
    page = (tmp_path / "growth.md").read_text(encoding="utf-8")
    assert "| 2.00 | 2.00 | **1.98** | 0.94 | 215 k | 10 k |" in page
    assert "**Worse than n^2.** The reason is not known." in page.replace("\n", " ")
    assert [path.name for path in (tmp_path / "growth").iterdir()] == ["forward.svg"]
