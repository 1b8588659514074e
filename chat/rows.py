"""rows.py: the rows of a file of JSON lines or of one JSON list, and what becomes of a bad row.

A row is read, or left out and counted under a short reason (`read_rows`). A file that is no JSON,
or in which nothing can be used, is a ValueError that names file and line.
"""

import contextlib
import itertools
import json
from collections import Counter
from pathlib import Path

from chat.template import Unusable
from run import disk


@contextlib.contextmanager
def named(where):
    """Turn any error inside into an Unusable that names the place, and has a reason to count."""
    try:
        yield
        return
    except Unusable as e:
        reason, what = e.reason, str(e)
    except ValueError as e:
        reason, what = "malformed", str(e)
    except RecursionError:
        reason = what = "nested too deep"
    except (TypeError, LookupError, AttributeError, ArithmeticError) as e:
        reason = f"malformed ({type(e).__name__})"
        what = f"malformed ({type(e).__name__}: {str(e)[:100]})"
    error = Unusable(f"{where}: {what[:500]}")
    error.reason = reason
    raise error from None


def read_rows(path, found, notes, read):
    """Yield (where, result) for each result of read(where, row), for all rows found in a file.

    found: pairs (where, row). If anything is wrong with a row, it is left out, and the reason is
    counted in notes. ValueError if nothing is left of the file, with all reasons and the first row.
    """
    before, first, used = Counter(notes), "", False
    for where, row in found:
        try:
            with named(where):
                results = read(where, row)
        except Unusable as e:
            first = first or f"; the first is {e}"
            notes[e.reason] += 1
            continue
        for each in results:
            used = True
            yield where, each
    if not used:
        raise ValueError(f"{path}: nothing in it can be used: {report(notes - before)}{first}")


def parse(text):
    """The value of a JSON text, read with the error handler surrogateescape."""
    try:
        text = text.encode("utf-8", "surrogateescape").decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=disk.distinct)
    except (ValueError, RecursionError) as e:   # not UTF-8, not JSON, too deep, a number too long
        raise ValueError(f"not JSON ({str(e)[:100]})") from e


def rows(path):
    """Yield (where, row) of a file of JSON lines or of one JSON list."""
    if not Path(path).exists():
        mend = "make the demo's with: python -m web.toyweb"
        raise FileNotFoundError(f"{path}: no such file; {mend}")
    lines = enumerate(disk.read_lines(path, "surrogateescape"), 1)
    lines = ((n, line) for n, line in lines if line.strip())
    first = next(lines, None)
    if first is None:
        raise ValueError(f"{path}: empty, there is nothing to learn from")
    lines = itertools.chain([first], lines)
    if first[1].lstrip().startswith("["):
        lines = list(lines)
        if is_one_list(lines):
            try:
                whole = parse("".join(line for _, line in lines))
            except ValueError as e:
                at = getattr(e.__cause__, "lineno", 1) - 1
                n, _ = lines[min(at, len(lines) - 1)]
                raise ValueError(f"{path}:{n}: {e}") from None
            for i, row in enumerate(whole, 1):
                yield f"{path}: row {i}", row
            return
    for n, line in lines:
        with named(f"{path}:{n}"):
            row = parse(line)
        yield f"{path}:{n}", row


def is_one_list(lines):
    """Whether lines (number, text) are one list of rows, and not each a list of messages."""
    try:
        found = parse(lines[0][1])
    except ValueError:                          # the list goes on in the next lines
        return True
    return len(lines) == 1 and bool(found) and not is_message(found[0])


def is_message(row):
    """Whether a value looks like a message, so that a list of them is one conversation."""
    return isinstance(row, dict) and ("role" in row or "from" in row)


def shown(value):
    """The beginning of a value as Python spells it, for an error message: 5 is no '5'."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def text_of(value, what):
    """The value, which must be a text. what: its name in the error."""
    if not isinstance(value, str):
        raise Unusable(f"{what} is no text", shown(value))
    return value


def list_of(value, what):
    """The value, which must be a list."""
    if not isinstance(value, list):
        raise Unusable(f"{what} is no list", shown(value))
    return value


def number_of(value, what):
    """The value, which must be a number that float32 can hold; true and false are none."""
    if type(value) not in (int, float) or not abs(value) < 1e30:
        raise Unusable(f"{what} is no number", shown(value))
    return value


def read_json(text, what):
    """The value of a JSON text; a value that is no text is returned as it is."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text, object_pairs_hook=disk.distinct)
    except ValueError:
        raise Unusable(f"{what} are no JSON", shown(text)) from None


def report(notes):
    """The counted reasons as text, at most the twenty most frequent."""
    found = [f"{n:,} x {why}" for why, n in notes.most_common() if n]
    if len(found) > 20:
        found[20:] = [f"{len(found) - 20:,} other reasons"]
    return "; ".join(found)
