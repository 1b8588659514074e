"""tests/peers/gpu_run.py on the CPU that plays a GPU, at tiny sizes: all parts, and two in trouble.

tests/test_gpu_run.py has parts of other kinds that fail and hang.
"""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "cuda"), str(ROOT / "tests" / "peers")]
import cupy_cpu
import gpu_run

pytestmark = pytest.mark.skipif(cupy_cpu.MISSING is not None, reason=f"needs {cupy_cpu.MISSING}")

# gpu_speed.py with a kernel that is not to be had, or that does not end.
IN_TROUBLE = """
import sys
sys.path.insert(0, {folder!r})
import gpu_speed, kernels
def trouble(*_, **__):
    {what}
kernels.{kernel} = trouble
sys.argv = ["gpu_speed.py", {part!r}, "--tiny"]
gpu_speed.command.run(gpu_speed.main)
"""


def in_trouble(part, limit_s, kernel, what):
    program = IN_TROUBLE.format(
        folder=str(ROOT / "tests" / "peers"), what=what, kernel=kernel, part=part)
    return gpu_run.Part(part, limit_s, {part: ("-c", program)})


def test_all_parts_and_two_in_trouble(tmp_path):
    """Each part has a limit as on a GPU, twice as long, for the CPU is slow and does other things.
    """
    parts = [part._replace(limit_s=2 * part.limit_s)
             for part in gpu_run.parts_of("--tiny", tests={"drawing": ("test_draw.py",)})]
    names = [part.name for part in parts]
    parts[names.index("decode")] = in_trouble("decode", 20, "draw", "while True: pass")
    parts[names.index("llama")] = in_trouble("llama", 60, "decode_attention", "raise MemoryError")
    bad = gpu_run.run(parts, tmp_path / "gpu", {}, end_s=700)
    assert bad == ["decode", "llama"]
    entries = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    found = {part["name"]: part for part in entries}
    assert list(found) == names
    assert found["decode"]["ended"] == {"decode": "stopped at the limit"}
    assert found["llama"]["ended"] == {"llama": "failed, exit status 1"}
    rows = {name: {row["row"]: row for row in part["rows"]} for name, part in found.items()}
    assert rows["step"]["ours, 2 rows"]["tokens_s"] > 0
    assert rows["llama"]["ours, 2 rows"]["loss"] > 0                # measured before the trouble
    assert {"SFT", "RL"} <= rows["tuning"].keys()
    table = rows["kernels"].values()
    assert len(table) > 30 and not any("failed" in row for row in table)
    said = (tmp_path / "gpu.txt").read_text()
    assert "41 passed" in said and "not well: decode, llama" in said
