"""jinja.py: the chat templates of other models, rendered as Hugging Face's transformers does.

A chat template is a program that turns a conversation into text. It is written in the language
Jinja and comes with the model, so it is the program of a stranger. It runs in jinja2's sandbox, and
that in a process of its own, whose time and memory are limited:

    run_template    --- {"template": ..., "variables": ..., "seconds": ...} -->    python -m
                    <-- {"text": ...}, or {"kind": ..., "error": ...} ---------    chat.jinja

Each is a line of JSON. The process starts with the first conversation and answers the later ones
too, until this process ends. A template that loops for ever ends it earlier.

jinja2 is the one package that this room needs beyond those of requirements.txt. It is imported in
the other process, when there is a template to render.

Source: Hugging Face's transformers 5 (utils/chat_template_utils.py), for what a template may use.
"""

import argparse
import contextlib
import datetime
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 10                    # for one conversation; usual ones take a thousandth of a second
MEMORY = 1 << 30                # bytes that the other process may use
LONGEST = 1 << 24               # characters of a rendered conversation
OLDEST = (3, 1, 6)              # of jinja2: known ways lead out of the sandbox of older ones
INSTALL = 'pip install "jinja2>=3.1.6"'
TURN = threading.Lock()          # of the threads that want to render


class Failed(ValueError):
    """A template that could not be rendered. kind: the name of the exception in the sandbox."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


# ------------------------------------------------------------------------------- in this process

@functools.lru_cache(1)
def renderer(_):
    """The other process. A fork of this one must not share it, so the argument is our own id."""
    return subprocess.Popen(
        [sys.executable, "-m", "chat.jinja"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        start_new_session=True,         # Ctrl-C in the terminal ends a reply and not this process
        text=True,
    )


def asked(request):
    """The line with which the other process answers a request; "" if that has ended it."""
    process = renderer(os.getpid())
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:             # somebody else has ended it
        line = ""
    if not line:
        renderer.cache_clear()
        process.kill()
        process.communicate()
    return line


def run_template(template, variables):
    """The text that a template makes of its variables, which JSON can hold.

    Failed, with a message of one line, if it raises an error, does not parse, takes too long or too
    much memory, or reaches for what the sandbox forbids; or if jinja2 is missing.
    """
    with TURN:
        line = asked({"template": template, "variables": variables, "seconds": SECONDS})
    if not line:
        raise Failed("Ended", f"takes more than {SECONDS:g} s, or has ended its process")
    answer = json.loads(line)
    if "text" in answer:
        return answer["text"]
    kind, error = answer["kind"], " ".join(answer["error"].split())[:300]
    raise Failed(kind, FAILURES.get(kind, f"fails: {kind}: {{}}").format(error))


# What is said of an exception, by its name.
FAILURES = {
    "TemplateError": "refuses the conversation: {}",        # the template's own raise_exception
    "TemplateSyntaxError": "does not parse: {}",
    "TemplateAssertionError": "does not parse: {}",
    "SecurityError": "reaches for what it must not: {}",
    "MemoryError": f"takes more than {MEMORY >> 20} MiB of memory",
    "ModuleNotFoundError": f"{{}}; install it with: {INSTALL}",
}


# ---------------------------------------------------------------------------- in the other process

def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """The filter tojson. jinja2's own writes < and & as escapes, for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def strftime_now(form):
    """The time of now, such as "26 Jul 2024" for "%d %b %Y"."""
    return datetime.datetime.now().strftime(form)


def installed():
    """The module jinja2; ModuleNotFoundError if it is missing or too old."""
    try:
        import jinja2
        import jinja2.ext
        import jinja2.sandbox
    except ImportError:
        raise ModuleNotFoundError("is a program in Jinja, and jinja2 is not here") from None
    version = tuple(int(part) for part in jinja2.__version__.split(".")[:3] if part.isdigit())
    if version < OLDEST:
        raise ModuleNotFoundError(f"needs a newer jinja2 than {jinja2.__version__}")
    return jinja2


@functools.lru_cache(1)
def environment():
    """jinja2's sandbox with the settings, functions and tags that transformers gives a template."""
    jinja2 = installed()

    class Generation(jinja2.ext.Extension):
        """{% generation %} ... {% endgeneration %} around what a model writes: changes nothing.

        In transformers the block is a call with a body, so that what is set inside is not set
        behind it.
        """

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            call = self.call_method("unchanged")
            return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

        def unchanged(self, caller):
            return caller()

    class Namespace(jinja2.utils.Namespace):
        """namespace(a=1): variables that a loop may set. Their names do not begin with _."""

        def __init__(*args, **values):          # a variable may be called self
            self, *given = args
            values = dict(*given, **values)
            for name in values:
                Namespace.check(name)
            jinja2.utils.Namespace.__init__(self, values)

        def __setitem__(self, name, value):
            Namespace.check(name)
            super().__setitem__(name, value)

        @staticmethod
        def check(name):
            if str(name).startswith("_"):
                raise jinja2.exceptions.SecurityError(f"a namespace with the name {name}")

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def new_dict(*args, **values):              # dict itself would lead on to its subclasses
        return dict(*args, **values)

    found = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    found.filters["tojson"] = to_json
    found.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "namespace": Namespace,
        "dict": new_dict,
    }
    return found


@functools.lru_cache(16)
def compiled(template):
    """A template, ready to be rendered."""
    return environment().from_string(template)


def answer_to(request):
    """A request to the other process -> its answer.

    When the time is over, the signal ends the process: even where it is within one long operation,
    and already while a template is compiled, which works out constants such as 9 ** (9 ** 9).
    """
    try:
        environment()
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        text = compiled(request["template"]).render(request["variables"])
        if len(text) > LONGEST:
            raise MemoryError
        return {"text": text}
    except Exception as e:
        line = f"line {e.lineno}: " if hasattr(e, "lineno") else ""
        return {"kind": type(e).__name__, "error": f"{line}{e}"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main(argv=None):
    """Answer requests, a line of JSON each, until there are no more."""
    argparse.ArgumentParser(
        prog="python -m chat.jinja",
        description="Render chat templates: a request on standard input, its answer on output.",
    ).parse_args(argv)
    with contextlib.suppress(ValueError, OSError):      # macOS refuses such a limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        print(json.dumps(answer_to(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
