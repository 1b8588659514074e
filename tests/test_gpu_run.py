"""tests/peers/gpu_run.py: parts that fail, crash, hang or flood, and what is known afterwards."""

import json
import sys
import time

from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "peers"))
import gpu_run
from gpu_run import Part

ROW = "print('said'); print('{\"row\": \"gelu\", \"ours_us\": 1.5}', flush=True); "
HANG = "import time; time.sleep(60)"
# A child that ignores the end of its parent, and keeps its output open.
CHILD = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {HANG!r}]); "


def python(name, limit_s, *programs):
    """A part of programs that run side by side."""
    return Part(name, limit_s, {f"{name} {i}": ("-c", text) for i, text in enumerate(programs)})


def run(out, *parts, **more):
    """(names of parts that did not end well, OUT.json, OUT.txt, seconds)"""
    began = time.monotonic()
    bad = gpu_run.run(parts, out / "gpu", {}, **more)
    seconds = time.monotonic() - began
    found = json.loads((out / "gpu.json").read_text())
    return bad, found["parts"], (out / "gpu.txt").read_text(), seconds


def test_the_limits_are_less_than_six_minutes():
    assert sum(part.limit_s for part in gpu_run.parts_of()) <= gpu_run.END_S < 6 * 60
    there = {path.name for path in (ROOT / "tests").glob("test_*.py")}
    assert {words[0] for words in gpu_run.TESTS.values()} <= there


def test_whatever_a_part_does_the_others_go_on(tmp_path):
    bad, parts, said, seconds = run(
        tmp_path,
        python("well", 30, ROW),
        python("fails", 30, ROW + "raise ValueError('no such card')"),
        python("crashes", 30, ROW + "import os; os.abort()"),
        python("hangs", 1.5, ROW + "print('so far', end='', flush=True); " + HANG, ROW),
        python("leaves a child", 30, CHILD + ROW),
        python("floods", 1.5, "while True: print('again')"),
        python("well too", 30, ROW, ROW),
    )
    assert bad == ["fails", "crashes", "hangs", "floods"] and seconds < 30
    endings = [list(part["ended"].values()) for part in parts]
    assert endings == [["done"], ["failed, exit status 1"], ["failed, exit status -6"],
                       ["stopped at the limit", "done"], ["done"], ["stopped at the limit"],
                       ["done", "done"]]
    rows = [len(part["rows"]) for part in parts]
    assert rows == [1, 1, 1, 2, 1, 0, 2] and parts[0]["rows"] == [{"row": "gelu", "ours_us": 1.5}]
    assert "ValueError: no such card" in said and "hangs 0: so far" in said
    assert "not well: fails, crashes, hangs, floods" in said


def test_no_part_begins_after_the_end(tmp_path):
    """The limit of a part is what is left of the whole, and what was measured is in the file."""
    bad, parts, _, seconds = run(tmp_path, python("hangs", 60, ROW + HANG), python("late", 60, ROW),
                                 end_s=1.5)
    assert bad == ["hangs", "late"] and seconds < 15
    assert [part["name"] for part in parts] == ["hangs"] and len(parts[0]["rows"]) == 1
