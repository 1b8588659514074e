"""command.py: how every command of this project ends, and what of its output may reach a terminal.

    if __name__ == "__main__":
        command.run(main)

Text that somebody else wrote (a page, a header, a chat, a model's reply) can hold control sequences: a terminal that is
sent "ESC ] 0 ; ..." changes its title, others clear the screen or rewrite lines that stand there. So control
characters are printed as they are spelled in Python, \\x1b for ESC. A terminal that cannot show a letter gets its
escape as well, where Python would end the program.

Exit codes: 0 done, 1 (or error_status) a mistake that the message names, 130 interrupted, 141 nobody reads the output.
"""

import argparse
import os
import re
import sys

if sys.version_info < (3, 10):
    sys.exit(f"Python {sys.version.split()[0]} is too old: 3.10 or newer is needed")

# C0 but for tab and line feed, and a carriage return before one; DEL; C1, where ESC [ is one character; line and
# paragraph separators and the marks that turn the direction of text around.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]|\r(?!\n)")


def printable(text):
    """The text with every control character spelled out: "a\\x1b[2J" for a, ESC, [2J."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class Terminal:
    """A text stream that lets through what is printable.

    progress: on standard error, lines of progress begin with a carriage return, which writes over the last one.
    """

    def __init__(self, raw, progress=False):
        self.raw, self.progress = raw, progress

    def write(self, text):
        begins = self.progress and text.startswith("\r")
        self.raw.write("\r" * begins + printable(text[begins:]))
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def __getattr__(self, name):                        # flush, isatty, encoding, buffer, ...
        return getattr(self.raw, name)


def uncensored(stream):
    """The stream behind a guarded one, for control sequences of our own, such as colours."""
    return stream.raw if isinstance(stream, Terminal) else stream


def guard(data=False):
    """From here on, standard output and standard error show control characters instead of obeying them.

    data: what this command writes to standard output is data, such as a text. It is left as it is where it goes
    to a file or a pipe, and guarded only on a terminal.
    """
    if sys.stderr is None:                              # closed: print() would write to standard output instead
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, Terminal):      # None: closed
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        if name == "stderr" or not data or stream.isatty():
            setattr(sys, name, Terminal(stream, progress=name == "stderr"))


def refuse(parser, argv, taken, why):
    """End with an error that names an option of the command line which would have no effect.

    taken: the destinations of those that have one. An option counts as given also when its value is the default.
    """
    unset = object()
    marks = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args([])), unset))
    for name, value in vars(parser.parse_args(argv, marks)).items():
        if value is not unset and name not in taken:
            parser.error(f"--{name.replace('_', '-')}: would have no effect; {why}")


def run(main, error_status=1, data=False):
    """Call main() as the whole of a program, and end the process as the module's docstring says. data: see guard."""
    guard(data)
    program = os.path.basename(sys.argv[0])
    try:
        status = main()
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:                             # whoever read our output has gone, as `head` does
        os._exit(141)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, MemoryError) as error:
        print(f"{program}: error: {message(error)}", file=sys.stderr)
        if sys.stdout and not flushed(sys.stdout):      # full: what is left cannot be written at the exit either
            os._exit(error_status)
        sys.exit(error_status)
    sys.exit(status)


def message(error):
    """What went wrong in one line: the file first, where the system names one."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, MemoryError):
        return str(error) or "not enough memory"
    return str(error)


def flushed(stream):
    try:
        stream.flush()
    except OSError:
        return False
    return True
