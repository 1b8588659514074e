"""README.md: its commands are ones the scripts accept, its file table is the tree."""

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.split(" #")[0].strip() for line in README.splitlines() if re.match(r"    (python|make)\b", line)]


def test_there_are_commands():
    assert len(COMMANDS) >= 15 and "make" in COMMANDS and "make test" in COMMANDS


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python")])
def test_the_script_accepts_the_command(command, monkeypatch):
    name, *args = shlex.split(command.replace("python -m ", "python "))[1:]
    monkeypatch.chdir(ROOT)
    if "/" in name:                                     # a script of the tests
        monkeypatch.syspath_prepend(ROOT / Path(name).parent)
        name = Path(name).name
    importlib.import_module(name.removesuffix(".py")).parse_args(args)       # a mistake ends in SystemExit


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_knows_the_target(command):
    done = subprocess.run(["make", "-n", *shlex.split(command)[1:], "RUN=out/none"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_file_table_is_the_tree():
    listed = set(re.findall(r"^\| `([a-z/]+\.py)` \|", README, re.M))
    rooms = [p.parent for p in ROOT.glob("*/__init__.py") if p.parent.name != "kernels"]        # one line for all of kernels/
    files = [*ROOT.glob("*.py"), *(p for room in rooms for p in room.glob("*.py") if p.name != "__init__.py")]
    assert listed == {str(p.relative_to(ROOT)) for p in files}
