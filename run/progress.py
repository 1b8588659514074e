"""progress.py: a line of progress on standard error that the next one replaces.

    show(line)              the line, cut at the terminal's width: a longer one would stay
    duration(seconds)       "40 s", "12 min", "3 h 05 min"
"""

import shutil
import sys


def show(line):
    """Write the line over the last one."""
    width = shutil.get_terminal_size().columns - 1      # the last column would begin a new line
    print("\r" + line[:width].ljust(width), end="", file=sys.stderr, flush=True)


def duration(seconds):
    """Seconds in words, as exact as an estimate deserves."""
    seconds = max(0, round(seconds))
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60:,} h {minutes % 60:02} min"
