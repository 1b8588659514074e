"""README.md and docs/: short, their commands are accepted, and the files they name are there."""

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import house
from conftest import ROOT
from talk import results
from test_options import check_accepted

PATHS = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in PATHS}
README = PAGES["README.md"]
MOST_WORDS = 1500
PLACEHOLDERS = ("NAME", "FOLDER", "FILE", "TEXT", "ROOM")       # words of no real command


def commands(text):
    """The shell commands of a page: indented lines, cells and words in backticks."""
    joined = text.replace("\\\n", " ")
    lines = re.findall(r"^    ((?:python|make)\b.*)$", joined, re.M)
    lines += re.findall(r"`((?:python|make)\b[^`]*)`", joined)
    found = [" ".join(line.split(" #")[0].split()) for line in lines]
    return [line for line in found if not any(word in line for word in PLACEHOLDERS)]


WRITTEN = "\n".join(text for name, text in PAGES.items() if name != "house.md")
COMMANDS = sorted(set(commands(WRITTEN)))


def test_the_readme_is_short():
    n_words = len(README.split())
    assert n_words <= MOST_WORDS, f"README.md has {n_words} words; move some to docs/"


def test_there_are_commands():
    assert len(COMMANDS) >= 40
    assert {"make", "make test", "python data.py --blocklist out/demo/blocklist"} <= set(COMMANDS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python")])
def test_the_script_accepts_the_command(command, monkeypatch):
    name, *args = shlex.split(command.replace("python -m ", "python "))[1:]
    folder, _, room = name.partition(".")
    if folder == "talk":                                # all experiments have the same options
        name, args = "talk.__main__", [*([room] if room else []), *args]
    if name == "pytest":
        assert all((ROOT / a).exists() for a in args if a[0] != "-")
        return
    monkeypatch.chdir(ROOT)
    if "/" in name:                                     # a script of the tests
        assert (ROOT / name).exists()
        if name.startswith("tests/peers/"):             # needs the peers' environment
            return
        monkeypatch.syspath_prepend(ROOT / Path(name).parent)
        name = Path(name).name
    text = Path(importlib.import_module(name.removesuffix(".py")).__file__).read_text()
    if "parse_args(" in text:
        check_accepted(name, args, monkeypatch)
    else:
        assert args == [], f"{command}: takes no arguments"


def test_the_experiments_exist():
    named = set()
    for command in COMMANDS:
        named |= set(re.findall(r"^python -m talk[. ](\w+)", command))
    assert named and named <= set(results.names()), named - set(results.names())


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_knows_the_target(command):
    if "claims" in command or "peers" in command or "gpu" in command:
        assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.M)
        return
    words = ["make", "-n", *shlex.split(command)[1:], "RUN=out/none"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_chat_is_the_one_that_make_shows():
    asked = re.findall(r'--ask "([^"]+)"', (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert asked == re.findall(r"^    you> (.+)$", README, re.M)


def test_the_chapters_stand_in_their_order():
    listed = re.findall(r"^\| `([a-z]+)\.py` \|", README, re.M)
    assert listed == house.CHAPTERS


@pytest.mark.parametrize("name", PAGES)
def test_the_files_that_are_named_exist(name):
    for path in re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|cu|md|html))`", PAGES[name]):
        assert (ROOT / path).exists(), f"{name} names {path}"
    for folder in re.findall(r"`([a-z]+/(?:[a-z]+/)?)`", PAGES[name]):
        assert (ROOT / folder).is_dir(), f"{name} names {folder}"
    for link in re.findall(r"\]\(([^):]+)\)", PAGES[name]):
        path, _, heading = link.partition("#")
        if path.endswith(".svg"):
            folder = ROOT if name == "README.md" else ROOT / "docs"
            assert (folder / path).exists(), f"{name} shows {link}"
            continue
        target = PAGES[Path(path).name] if path else PAGES[name]
        titles = [re.sub(r"[^a-z0-9 -]", "", t.lower()).replace(" ", "-")
                  for t in re.findall(r"^#+ (.+)$", target, re.M)]
        assert not heading or heading in titles, f"{name} links to {link}"
