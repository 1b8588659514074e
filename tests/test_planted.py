"""planted.py: its runner on code of two lines, its table beside the code, a handful of faults."""

import re

import planted
import pytest
from conftest import ROOT, run_script

CODE = "def double(x):\n    return x + x\n"
TESTS = """
import pytest
import code_to_break

def test_two(): assert code_to_break.double(1) == 2
def test_wrong(): assert code_to_break.double(1) == 3
def test_skipped(): pytest.skip("not here")
def test_refused():
    with pytest.raises(TypeError): code_to_break.double(None)
"""


def fault(name, old, new, test):
    return planted.Fault(name, "code_to_break.py", old, new, f"test_code.py::{test}")


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "code_to_break.py").write_text(CODE)
    (tmp_path / "test_code.py").write_text(TESTS)
    return tmp_path


def test_what_is_found_and_what_is_not(tree):
    faults = [
        fault("a wrong value", "x + x", "x + 2 * x", "test_two"),
        fault("no error", "x + x", "x and x + x", "test_refused"),
        fault("no change", "x + x", "x + x", "test_two"),
        fault("a crash", "x + x", "y + y", "test_two"),
        fault("no Python", "x + x", "x + + ) x", "test_two"),
        fault("a test that fails anyway", "x + x", "x + 2 * x", "test_wrong"),
        fault("a test that is skipped", "x + x", "x + 2 * x", "test_skipped"),
    ]
    lines = []
    missed = planted.run(faults, jobs=2, say=lines.append, tree=tree)
    assert missed == [f.name for f in faults[2:]]
    found = [line.partition(" s  ")[2].rpartition("  ")[0] for line in lines]
    assert found[:3] == ["found", "found", "NOT FOUND: passed"]
    assert "NameError" in found[3] and "SyntaxError" in found[4]
    assert found[5] == "NOT FOUND: without the fault too, failed" and "1 skipped" in found[6]
    assert (tree / "code_to_break.py").read_text() == CODE


def test_a_place_that_is_not_there_once_is_an_error(tree):
    with pytest.raises(ValueError, match="gone: its place occurs 0 times in code_to_break.py"):
        planted.run([fault("gone", "x - x", "x + x", "test_two")], tree=tree)
    with pytest.raises(ValueError, match="twice: its place occurs 3 times"):
        planted.run([fault("twice", "x", "y", "test_two")], tree=tree)
    done = run_script("tests/planted.py", "--only", "no-such-fault")
    assert done.returncode == 2 and "no fault is called no-such-fault; expected" in done.stderr


def test_every_fault_has_its_place_and_its_test():
    """The table keeps up with the code. `python tests/planted.py` shows that each is found."""
    names = [f.name for f in planted.FAULTS]
    assert len(set(names)) == len(names) >= 40
    for f in planted.FAULTS:
        planted.broken_text(ROOT, f)
        path, _, rest = f.test.partition("::")
        path, _, expression = path.partition(" -k ")
        function = rest or re.search(r"test_\w+", expression)[0]
        tests = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^def {function}\(", tests, re.M), f"{f.name}: {f.test}"


def test_a_handful_of_faults_is_found():
    few = {
        "attention-forward-lse-to-first-sequences",
        "layernorm-backward-rstd-of-first-row",
        "adamw-decays-biases-and-norms",
        "head-weight-backward-without-temperature",
        "cross-entropy-backward-target-without-weight",
    }
    faults = [f for f in planted.FAULTS if f.name in few]
    lines = []
    assert len(faults) == 5 and planted.run(faults, say=lines.append) == [], "\n".join(lines)
