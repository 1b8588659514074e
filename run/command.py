"""command.py: how every command of this project ends, and what of its output a terminal may see.

    if __name__ == "__main__":
        command.run(main)

Text that somebody else wrote (a page, a header, a chat, a model's reply) can hold control
sequences. A terminal that is sent "ESC ] 0 ; ..." changes its title; other sequences clear the
screen or overwrite earlier lines. So control characters are printed as Python spells them, \\x1b
for ESC. A letter that the terminal cannot show is printed as its escape too; without this, Python
would end the program.

Exit codes: 0 done, 1 (or error_status) a mistake that the message names, 130 interrupted, 141
nobody reads the output.
"""

import argparse
import os
import re
import shutil
import sys
import textwrap
import unicodedata

if sys.version_info < (3, 10):
    sys.exit(f"Python {sys.version.split()[0]} is too old: 3.10 or newer is needed")

CONTROL = re.compile(
    "["
    "\x00-\x08\x0b\x0c\x0e-\x1f"            # C0 without tab, line feed and carriage return
    "\x7f-\x9f"                             # DEL, and C1, where one character means ESC [
    "\u2028\u2029"                          # separators of lines and paragraphs
    "\u202a-\u202e\u2066-\u2069"            # marks that turn the direction of text
    "]|\r(?!\n)"                            # a carriage return that no line feed follows
)

# ------------------------------------------------------------------------------------------ output


def printable(text):
    """The text with every control character spelled out: "a\\x1b[2J" for a, ESC, [2J."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def columns():
    """How many columns the terminal has; 80 where there is none."""
    return shutil.get_terminal_size().columns


def cells(text):
    """How many columns a text takes: a Chinese letter two, an accent that combines none."""
    n = 0
    for letter in text:
        wide = unicodedata.east_asian_width(letter) in "WF"
        n += 0 if unicodedata.combining(letter) else 1 + wide
    return n


def folded(line, indent=""):
    """A line of words as lines that the terminal can show; unchanged where the output is a file.

    indent: in front of the second line and those behind it.
    """
    if sys.stdout is None or not sys.stdout.isatty():
        return line
    return textwrap.fill(line, max(columns() - 1, 24), subsequent_indent=indent,
                         break_on_hyphens=False)


class Fold:
    """Breaks a text between words, where the terminal's line ends, while the text is written.

    width: columns of a line. column: where the first line begins. What is put comes back at once,
    but for the last word: it may go on.
    """

    def __init__(self, width, column=0):
        self.width, self.column = max(width, 1), column
        self.space, self.word = "", ""          # what is held back: the last word, and before it

    def put(self, text):
        """Take more of the text; returns what is certain."""
        done = ""
        for letter in text:
            if letter == "\n":
                done += self.flush() + letter
                self.column = 0
            elif letter.isspace():
                done += self.flush()
                self.space += letter
            else:
                if cells(self.word + letter) > self.width:      # longer than any line
                    done += self.flush()
                self.word += letter
        return done

    def flush(self):
        """What was held back. The next word begins a line, if this one did not fit."""
        space, word, self.space, self.word = self.space, self.word, "", ""
        after = self.column + cells(space + word)
        if word and after > self.width and self.column:
            self.column = cells(word)
            return "\n" + word
        self.column = after
        return space + word


class Terminal:
    """A text stream that spells out control characters.

    progress: a text may begin with a carriage return, as lines of progress on standard error do to
    overwrite the previous one.
    """

    def __init__(self, raw, progress=False):
        self.raw = raw
        self.progress = progress

    def write(self, text):
        """Write the text; returns its length, as every text stream does."""
        begins = self.progress and text.startswith("\r")
        self.raw.write("\r" * begins + printable(text[begins:]))
        return len(text)

    def writelines(self, lines):
        """Write the lines one after another."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name):            # flush, isatty, encoding, buffer, ...
        return getattr(self.raw, name)


def uncensored(stream):
    """The stream behind a guarded one, for control sequences of our own, such as colours."""
    return stream.raw if isinstance(stream, Terminal) else stream


def has_colours(stream):
    """Whether a stream is a terminal that shows colours, and NO_COLOR does not forbid them."""
    if stream is None or not stream.isatty():
        return False
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def guard(data=False):
    """From now on, standard output and standard error spell out control characters.

    data: standard output is data, such as a text. It is guarded only on a terminal; a file or a
    pipe gets it unchanged.
    """
    if sys.stderr is None:                  # closed: print() would write to standard output instead
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, Terminal):      # None: closed
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        if name == "stderr" or not data or stream.isatty():
            setattr(sys, name, Terminal(stream, progress=name == "stderr"))


# ----------------------------------------------------------------------------------------- options


def refuse(parser, argv, taken, why):
    """End with an error if the command line has an option that would have no effect.

    taken: destinations of the options that have one. An option counts as given even if its value
    is the default.
    """
    unset = object()
    names = vars(parser.parse_args([]))
    marks = argparse.Namespace(**dict.fromkeys(names, unset))
    for name, value in vars(parser.parse_args(argv, marks)).items():
        if value is not unset and name not in taken:
            parser.error(f"--{name.replace('_', '-')}: would have no effect; {why}")


# --------------------------------------------------------------------------------- start and end


def run(main, error_status=1, data=False):
    """Call main() as the whole program, and end the process as this file's docstring says.

    data: see guard.
    """
    guard(data)
    program = os.path.basename(sys.argv[0])
    try:
        status = main()
        print(end="", flush=True)           # does nothing where standard output is closed
    except BrokenPipeError:                 # the reader of our output has gone, as `head` does
        os._exit(141)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, MemoryError) as error:
        print(f"{program}: error: {message(error)}", file=sys.stderr)
        try:
            print(end="", flush=True)
        except OSError:                     # a full disk: Python's own exit would fail on it again
            os._exit(error_status)
        sys.exit(error_status)
    sys.exit(status)


def message(error):
    """What went wrong, in one line. If the system names a file, the line begins with it."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, MemoryError):
        return str(error) or "not enough memory"
    return str(error)
