"""Makefile: names of run folders, what clean may delete, and the Python it needs."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT

NO_RUN = ["", " ", "out/my run", "/", "//", ".", "./", "..", "../x", "a/../b", "-x", "-rf", "a/-b",
          "a;b", "a$b", "a$(b)", "a`b`", "a'b", 'a"b', "a#b", "a:b", "a%b", "a,b", "a=b", "a\\b",
          "a|b", "a&b", "a>b", "a*", "a?", "[a]", "{a}", "~", "~/x", "@x", "!x", "a\tb", "a\nb"]
SETTINGS = {"RUN", "PAGES", "SEED", "PYTHON"}
OLD_PYTHON = """import sys
sys.version_info, sys.version = (3, 9, 18, "final", 0), "3.9.18 (main)"
exec(sys.argv[2])
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with the Makefile, bystanders, and no virtual environment: clean needs none."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("out/demo/log", "out/my run/log", "out/my", "run", "tests", "x"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "precious").write_text("")
    return tmp_path


def make(checkout, *words):
    kept = [k for k in os.environ if not k.startswith("MAKE") and k not in SETTINGS]
    own = {k: os.environ[k] for k in kept}
    return subprocess.run(["make", *words], cwd=checkout, capture_output=True, text=True, env=own)


def files(folder):
    return sorted(str(p) for p in folder.rglob("*"))


@pytest.mark.parametrize("name", NO_RUN)
def test_what_is_no_name_of_a_run_is_refused_before_anything_is_deleted(checkout, name):
    before = files(checkout)
    for target in ("clean", "all"):
        done = make(checkout, target, f"RUN={name}")
        assert done.returncode == 2 and "RUN is " in done.stderr and done.stdout == "", done
    assert files(checkout) == before


def test_the_environment_is_looked_at_as_well(checkout):
    done = subprocess.run(["make", "clean"], cwd=checkout, capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", "RUN": "out/my run"})
    assert done.returncode == 2 and 'RUN is "out/my run"' in done.stderr


def test_clean_deletes_a_run_and_no_other_folder(checkout):
    for name in ("out", "tests", "run", "."):
        before = files(checkout)
        assert make(checkout, "clean", f"RUN={name}").returncode != 0 and files(checkout) == before
    (checkout / "out/dämo/log").mkdir(parents=True)
    for name in ("out/demo", "out/dämo", str(checkout / "out/demo"), "out/gone"):
        assert make(checkout, "clean", f"RUN={name}").returncode == 0
        assert not (checkout / name).exists()
    assert (checkout / "out/my run/log/precious").exists()
    assert (checkout / "out/my/precious").exists()


def test_a_python_that_is_too_old_is_named_and_leaves_nothing(checkout):
    """The old Python is this one, which says of itself that it is 3.9."""
    (checkout / "requirements.txt").write_text("")
    (checkout / "old.py").write_text(OLD_PYTHON)
    done = make(checkout, ".venv/ready", f"PYTHON={sys.executable} old.py")
    assert done.returncode == 2
    assert "Python 3.9.18 is too old: 3.10 or newer is needed" in done.stderr
    assert not (checkout / ".venv").exists()


def test_each_stage_says_in_one_line_what_it_is_about(checkout):
    (checkout / "requirements.txt").write_text("")
    done = make(checkout, "-n")
    said = re.findall(r'--name (\S+) --about "(.*?)" .*?-- +(.*?) --', done.stdout, re.S)
    assert [name for name, *_ in said] == [
        "1-toyweb", "2-data", "score", "3-bpe", "4-tokens", "5-base", "6-sft", "7-rl",
        "8-control", "9-summary"]
    for name, about, command in said:
        assert 20 < len(about) and len(f"{name}: {about} ({command})") < 80, name


@pytest.mark.parametrize("run, more", [("out/demo", ""), ("out/x", " --run out/x")])
def test_it_ends_with_what_to_try_next(checkout, run, more):
    """Without its stages: they are said to be made."""
    done = make(checkout, "-o", "summary", f"RUN={run}")
    assert f"The run is in {run}. What to try next:" in done.stdout
    for script in ("chat", "serve"):
        assert f"    .venv/bin/python sample.py {script}{more}\n" in done.stdout
    assert "http://127.0.0.1:8000" in done.stdout and "    make exercises\n" in done.stdout
    assert f"    make claims{' RUN=out/x' * bool(more)}\n" in done.stdout


def test_dry_runs_make_nothing(checkout):
    before = files(checkout)
    (checkout / "requirements.txt").write_text("")
    assert make(checkout, "-n").returncode == 0
    (checkout / "requirements.txt").unlink()
    assert files(checkout) == before
