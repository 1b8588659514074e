"""run/command.py: exit codes, and what of somebody else's text may reach a terminal."""

import functools
import io
import os
import subprocess
import sys

import pytest

from run import command
from conftest import ROOT

HARMFUL = ["\x1b]0;owned\x07", "\x1b[2J", "\x9b2J", "\x08\x08", "\x7f", "\x00", "\u202e", "\u2066",
           "\u2028", "a\rb", "\x85"]


@pytest.mark.parametrize("text", HARMFUL)
def test_control_characters_are_spelled_out(text):
    shown = command.printable(text)
    assert all(0x20 <= ord(c) < 0x7f for c in shown)
    assert shown.encode().decode("unicode_escape") == text


def test_other_text_is_left_as_it_is():
    text = "tab\t, lines\nof\r\nevery kind, naïve 漢字 🙂 עברית é\u0301\u200d"
    assert command.printable(text) == text


@pytest.mark.parametrize("width", [1, 7, 12, 200])
def test_a_folded_text_is_broken_between_words_only(width):
    """However it is cut while it comes; a word that is longer than a line comes in parts."""
    text = "the lamp  is lit,\nsaid 漢字漢字 the goat: internationally. "
    for size in (1, 3, 100):
        fold = command.Fold(width)
        pieces = [text[i:i + size] for i in range(0, len(text), size)]
        folded = "".join(fold.put(piece) for piece in pieces) + fold.flush()
        if width >= 16:
            assert folded.split() == text.split()
        assert "".join(folded.split()) == "".join(text.split())
        if width > 1:                           # of two columns is the widest letter
            assert max(command.cells(line.rstrip()) for line in folded.split("\n")) <= width
    assert command.Fold(9, 4).put("abc defgh ") == "abc\ndefgh"


def test_lines_are_folded_on_a_terminal_only(monkeypatch):
    line = "    name  " + "word " * 20
    assert command.folded(line, "  ") == line
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    lines = command.folded(line, "  ").splitlines()
    assert lines[0].startswith("    name  word") and lines[1].startswith("  word")
    assert max(map(len, lines)) <= 39


def test_a_line_of_progress_may_begin_anew_and_only_on_standard_error():
    for progress, want in ((True, "\r10 %\\rforged"), (False, "\\r10 %\\rforged")):
        raw = io.StringIO()
        command.Terminal(raw, progress).write("\r10 %\rforged")
        assert raw.getvalue() == want


PROGRAM = """import sys
from run import command
sys.argv = ["x.py"]
def main():
    CODE
command.run(main, **OPTIONS)
"""


def words(code, options=()):
    """The words of a process that runs the code through command.run."""
    program = PROGRAM.replace("CODE", code).replace("OPTIONS", repr(dict(options)))
    return [sys.executable, "-c", program]


def run(code, options=(), **kwargs):
    """The finished process of the code."""
    return subprocess.run(words(code, options), cwd=ROOT, capture_output=True, text=True,
                          encoding="utf-8", **kwargs)


@pytest.mark.parametrize("code, status, err", [
    ("pass", 0, ""), ("return 3", 3, ""),
    ("raise ValueError('file: bad')", 1, "x.py: error: file: bad\n"),
    ("open('/none/at/all')", 1, "x.py: error: /none/at/all: No such file or directory\n"),
    ("raise MemoryError", 1, "x.py: error: not enough memory\n"),
    ("raise KeyboardInterrupt", 130, "x.py: interrupted\n"),
    ("raise ValueError('\\x1b[2J')", 1, "x.py: error: \\x1b[2J\n"),
    ("import os; os.write(os.open('/dev/full', os.O_WRONLY), b'x')", 1,
     "x.py: error: No space left on device\n"),
])
def test_how_a_command_ends(code, status, err):
    done = run(code)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.replace("[Errno 28] ", "") == err


def test_another_status_for_errors():
    assert run("raise ValueError('x')", options={"error_status": 2}).returncode == 2


def test_a_full_standard_output_is_an_error_of_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(words("print('x' * 100)"), cwd=ROOT, stdout=full,
                              stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_nobody_reads_the_output():
    code = "for _ in range(1000): print('x' * 1000)"
    process = subprocess.Popen(words(code), cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_cannot_show_a_letter_gets_its_escape(encoding):
    done = subprocess.run(words("print('naïve 漢 \\ufffd')"), cwd=ROOT, capture_output=True,
                          env={"PYTHONIOENCODING": encoding, "PATH": "/usr/bin"})
    assert done.returncode == 0 and b"\\u6f22 \\ufffd" in done.stdout


def test_data_goes_to_a_file_as_it_is():
    assert run("print('a\\x1b[2J')", options={"data": True}).stdout == "a\x1b[2J\n"
    assert run("print('a\\x1b[2J')").stdout == "a\\x1b[2J\n"


def test_closed_streams():
    """Progress must not end up among the results when standard error is closed."""
    for handle in (1, 2):
        code = "print('progress', file=sys.stderr); print('result') if sys.stdout else None"
        done = run(code, preexec_fn=functools.partial(os.close, handle))
        assert done.returncode == 0 and done.stdout == ("" if handle == 1 else "result\n"), handle
