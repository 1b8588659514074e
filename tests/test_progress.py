"""run/progress.py: lines that are written over, the time that is left, durations."""

import gzip
import random

import numpy as np
import pytest
from conftest import ROOT, at_a_terminal
from run import progress


@pytest.fixture
def clock(monkeypatch):
    """The seconds that progress sees, in a list of one."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "_written", {})
    return now


def test_a_line_covers_the_last_one_and_fits(capsys, monkeypatch):
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    progress.show("a line that is much too long")
    progress.show("short")
    assert capsys.readouterr().err == "\ra line that is much\rshort" + 14 * " "
    progress.end()
    progress.end()
    assert capsys.readouterr().err == "\n"


def test_a_file_gets_whole_lines_now_and_then(capsys, clock):
    for second in range(0, 75, 3):
        clock[0] = 100.0 + second
        progress.show(f"step {second}")
    progress.end()
    assert capsys.readouterr().err == "step 0\nstep 30\nstep 60\n"


def test_the_time_that_is_left(capsys, monkeypatch, clock):
    """Nothing for short work; then what is done, and the rest at the speed so far."""
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    work = progress.Work("answers", 40)
    for n in range(1, 5):
        clock[0] += 0.5
        work.at(n)
    said = capsys.readouterr().err
    assert said.strip() == "answers: 4 of 40, 18 s left"
    work.at(5)                                          # no time has passed since
    assert capsys.readouterr().err == ""
    clock[0] += 8
    work.at(10, before=10, more=", 3 right")
    assert capsys.readouterr().err.strip() == "answers: 20 of 40, 3 right, 10 s left"
    work.end()
    assert capsys.readouterr().err == "\r" + 59 * " " + "\r"


def test_items_come_as_they_are_and_short_work_says_nothing(capsys, clock):
    assert list(progress.each("abc", "letters")) == ["a", "b", "c"]
    assert list(progress.each(iter("ab"), "letters", 2)) == ["a", "b"]
    assert capsys.readouterr().err == ""
    slow = progress.each(range(3), "numbers")
    for _ in slow:
        clock[0] += 31
    assert capsys.readouterr().err == (
        "numbers: 1 of 3, 62 s left\nnumbers: 2 of 3, 31 s left\n")


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_how_much_of_some_files_has_been_read(name, tmp_path):
    """By their bytes on the disk, packed or not; a file that is closed has been read."""
    opener = gzip.open if name.endswith("gz") else open
    paths = [tmp_path / f"{i}{name}" for i in range(3)]
    rng = random.Random(0)
    for path in paths:
        with opener(path, "wt") as file:
            file.writelines(f"{rng.random()}\n" for _ in range(20_000))
    reading, seen = progress.Reading(paths), []
    assert reading.share() == 0.0
    for path in paths:
        with opener(path, "rb") as file:
            reading.opened(file)
            for n, line in enumerate(file):
                if n % 5000 == 0:
                    seen.append(reading.share())
    assert seen == sorted(seen) and reading.share() == 1.0
    np.testing.assert_allclose(seen, np.arange(12) / 12, atol=0.1)


PROGRAM = """
import sys; sys.path.insert(0, {root!r})
from run import command, progress
command.guard()
progress.show("a line of progress")
print(command.has_colours(sys.stdout))
"""


@pytest.mark.parametrize("more, colours, begins", [
    ({"TERM": "xterm-256color"}, "True", "\ra line"),
    ({"TERM": "dumb"}, "False", "a line"),
    ({"TERM": "xterm", "NO_COLOR": "1"}, "False", "\ra line"),
])
def test_on_a_real_terminal(more, colours, begins, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.format(root=str(ROOT)))
    said = at_a_terminal([path], columns=30, **more)
    assert said.startswith(begins) and said.rstrip().endswith(colours), said


@pytest.mark.parametrize("seconds, words", [
    (-0.2, "0 s"), (7.6, "8 s"), (119, "119 s"), (130, "2 min"), (3700, "62 min"),
    (2 * 3600, "2 h 00 min"), (1e6, "277 h 47 min"), (1e8, "27,777 h 47 min"),
])
def test_durations(seconds, words):
    assert progress.duration(seconds) == words
