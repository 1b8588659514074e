"""progress.py: a line of progress on standard error that the next one replaces.

    show(line)              the line, cut at the terminal's width: a longer one would stay
    end()                   leave the last line; what is printed next stands below it
    Work(what, total)       how much of some work is done, and how long the rest will take
    each(items, what)       the items one after another, with such a line
    Reading(paths)          how much of some files has been read
    duration(seconds)       "40 s", "12 min", "3 h 05 min"

A file or a pipe, and a terminal that cannot go back in a line (TERM=dumb), get whole lines instead,
of each first word one in half a minute at most.
"""

import os
import shutil
import sys
import time

SHORT_S = 2.0           # work that takes no longer shows nothing
OFTEN_S = 0.1           # between two lines of the same work on a terminal
SELDOM_S = 30.0         # between two lines in a file

_line = {"open": False}                         # whether a line stands there that may be replaced
_written = {}                                   # in a file: {first word: when it was last there}


def on_terminal():
    """Whether a line on standard error can be written over."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def show(line):
    """Write the line over the last one."""
    if not on_terminal():
        now, word = time.monotonic(), line.partition(" ")[0]
        if now - _written.get(word, float("-inf")) >= SELDOM_S:
            _written[word] = now
            print(line, file=sys.stderr, flush=True)
        return
    width = shutil.get_terminal_size().columns - 1      # the last column would begin a new line
    print("\r" + line[:width].ljust(width), end="", file=sys.stderr, flush=True)
    _line["open"] = True


def end():
    """Leave the last line, if it can still be written over."""
    if _line["open"] and on_terminal():
        print(file=sys.stderr)
    _line["open"] = False


class Work:
    """Some work of which it is known how much there is.

    what: "answers"; total: how many. at(n) says that n are done: "answers: 12 of 300, 8 s left".
    """

    def __init__(self, what, total):
        self.what, self.total = what, total
        self.started = self.shown = time.monotonic()

    def at(self, done, before=0, more=""):
        """Tell how much is done: `done`, and what was done before that. more: what else to show."""
        done, now = done + before, time.monotonic()
        if now - self.started < SHORT_S or now - self.shown < OFTEN_S or done <= 0:
            return
        self.shown = now
        left = (now - self.started) * (self.total - done) / done
        show(f"{self.what}: {done:,} of {self.total:,}{more}, {duration(left)} left")

    def end(self):
        """The work is done: its line is wiped out, if it had one."""
        if self.shown > self.started and on_terminal():
            show("")
            print("\r", end="", file=sys.stderr, flush=True)
            _line["open"] = False


def each(items, what, total=None):
    """Yield the items, and show how many have been taken. total: how many, if len() cannot tell."""
    work = Work(what, len(items) if total is None else total)
    try:
        for n, item in enumerate(items):
            work.at(n)
            yield item
    finally:
        work.end()


class Reading:
    """How much of some files has been read, by where readers are in them as they lie on the disk.

    opened(file) says that the next of the files is being read; gzip's files may be given too.
    """

    def __init__(self, paths):
        self.total = sum(os.path.getsize(path) for path in paths)
        self.before, self.size, self.file = 0, 0, None

    def opened(self, file):
        """A file of the paths is read from now on, and the one before it has been read."""
        self.before += self.size
        self.file = getattr(file, "fileobj", file)
        self.size = os.fstat(self.file.fileno()).st_size

    def share(self):
        """The part of all files that was read, 0 to 1."""
        if self.file is None or not self.total:
            return 0.0
        at = self.size if self.file.closed else self.file.tell()
        return min(1.0, (self.before + at) / self.total)


def duration(seconds):
    """Seconds in words, as exact as an estimate deserves."""
    seconds = max(0, round(seconds))
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60:,} h {minutes % 60:02} min"
