"""run/progress.py: lines that are written over, and durations."""

import pytest
from run import progress


def test_a_line_covers_the_last_one_and_fits(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    progress.show("a line that is much too long")
    progress.show("short")
    assert capsys.readouterr().err == "\ra line that is much\rshort" + 14 * " "


@pytest.mark.parametrize("seconds, words", [
    (-0.2, "0 s"), (7.6, "8 s"), (119, "119 s"), (130, "2 min"), (3700, "62 min"),
    (2 * 3600, "2 h 00 min"), (1e6, "277 h 47 min"), (1e8, "27,777 h 47 min"),
])
def test_durations(seconds, words):
    assert progress.duration(seconds) == words
