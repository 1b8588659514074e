"""exercise_checks.py: runs the project's tests with functions of exercise files in their places.

tests/exercises.py starts it. The argument is a list of jobs in JSON:

    {"chapter", "name", "path": the exercise file, "tests": pytest's words, "limit": seconds a call}

For each, the function is compiled in the namespace of the chapter and put in the place of the
chapter's. Then pytest runs the tests, and one line of JSON tells the verdict on standard output:

    {"state": "right" or "wrong", "why": [lines]}

While the tests run, each call also goes to the chapter's own function, with copies of the
arguments. So the first wrong entry can be named. The tests decide, but an exercise that passes them
is wrong too if it once gave another result.
"""

import ast
import contextlib
import copy
import dataclasses
import functools
import importlib
import inspect
import io
import json
import linecache
import os
import signal
import sys
import traceback

import exercises
import numpy as np
import pytest

NO_NUMBER = (str, bytes, type(None))
SINGLE = (bool, int, float, np.generic, *NO_NUMBER)
MOST_COMPARED = 2000            # calls of a test that also go to the chapter's function
MOST_SHOWN = 120                # characters of a value
MOST_PRINTED = 10               # lines of what an exercise printed that are shown
OPTIONS = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:unraisableexception"]     # of pytest
DULL = {"", "AssertionError:", "comparison failed", "Use -v to get more diff"}     # of pytest
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}      # relative to the largest entry


class TooLong(BaseException):
    """A call takes longer than the limit. No `except Exception` of an exercise can catch it."""


# ---------------------------------------------------------------------------- the first wrong entry


def first_difference(got, want, where, names=None):
    """What is wrong in a result, in one sentence that begins with its place; None if all is right.

    names: the syntax tree of what the chapter returns, which has names for the parts of a result.
    """
    where = getattr(names, "id", where)
    if isinstance(want, np.ndarray):
        return difference_of_arrays(got, want, where)
    if isinstance(want, (tuple, list)):
        if not isinstance(got, (tuple, list)) or len(got) != len(want):
            return f"{where} is {brief_result(got)}, expected {brief(want)}"
        parts = names.elts if isinstance(names, ast.Tuple) else [None] * len(want)
        for i, pair in enumerate(zip(got, want)):
            found = first_difference(*pair, f"{where}[{i}]", parts[i])
            if found:
                return found
        return None
    if isinstance(want, dict):
        if not isinstance(got, dict) or set(got) != set(want):
            return f"{where} is {brief_result(got)}, expected {brief(want)}"
        for key in want:
            found = first_difference(got[key], want[key], f"{where}[{key!r}]")
            if found:
                return found
        return None
    if not isinstance(want, SINGLE):
        return None                                 # a function, a tokenizer: nothing to compare
    single = isinstance(got, SINGLE) or isinstance(got, np.ndarray) and got.ndim == 0
    if isinstance(want, (float, np.floating)) and single and not isinstance(got, NO_NUMBER):
        return difference_of_arrays(np.asarray(got, np.float64), np.asarray(want), where)
    if single and got == want:
        return None
    return f"{where} is {brief_result(got)}, expected {brief(want)}"


def difference_of_arrays(got, want, where):
    """The first wrong entry of an array, and what all wrong ones have in common."""
    if not isinstance(got, (np.ndarray, np.generic)):
        return f"{where} is {brief_result(got)}, expected an array of {want.shape}"
    if got.shape != want.shape:
        hint = ", which is transposed" * (got.ndim == 2 and got.shape == want.shape[::-1])
        return f"{where} has the shape {got.shape}{hint}, expected {want.shape}"
    if got.dtype != want.dtype and (want.dtype.kind == "f" and want.ndim
                                    or got.dtype.kind != want.dtype.kind):
        return f"{where} has the type {got.dtype}, expected {want.dtype}"
    if want.dtype.kind == "f":
        scale = np.abs(want[np.isfinite(want)]).max(initial=1e-3)
        most = TOLERANCE.get(str(want.dtype), 1e-4) * scale
        with np.errstate(invalid="ignore"):
            same = (got == want) | (np.abs(got - want) <= most) | (np.isnan(got) & np.isnan(want))
    else:
        same = got == want
    if same.all():
        return None
    place = tuple(int(i) for i in np.argwhere(~same)[0]) if want.ndim else ()
    index = f"[{', '.join(map(str, place))}]" if place else ""
    said = f"{where}{index} is {number(got[place])}, expected {number(want[place])}"
    if want.size > 1:
        said += f"; {int((~same).sum()):,} of {want.size:,} entries are wrong"
    return said + in_common(got, want)


def in_common(got, want):
    """What explains all wrong entries of an array at once; "" if nothing simple does."""
    if want.dtype.kind != "f" or not want.any() or not np.isfinite(got).all():
        return ""
    if np.allclose(got, -want, rtol=1e-6):
        return ": the sign"
    if want.ndim == 2 and got.shape == got.shape[::-1] and np.allclose(got, want.T, rtol=1e-6):
        return ": it is transposed"
    largest = np.abs(want).argmax()
    factor = got.flat[largest] / want.flat[largest]
    if want.size > 1 and np.allclose(got, factor * want, rtol=1e-6):
        return f": all are {factor:.6g} times what they should be"
    return ""


def number(x):
    """An entry, with as many digits as tell it from another."""
    return f"{x:.9g}" if x.dtype.kind == "f" else str(x)


def many(n, thing):
    """A number of things in words."""
    return f"{n:,} {thing}{'s' * (n != 1)}"


def brief_result(value):
    """The same of what an exercise returned."""
    return "None (is a return missing?)" if value is None else brief(value)


def brief(value):
    """A value in one line."""
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"array of {value.shape}"
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        shown = f"({', '.join(map(brief, value))})"
    elif dataclasses.is_dataclass(value):       # the fields that have another value than usual
        fields = [(f.name, getattr(value, f.name), f.default) for f in dataclasses.fields(value)]
        given = [f"{name}={brief(own)}" for name, own, usual in fields if own != usual]
        shown = f"{type(value).__name__}({', '.join(given)})"
    else:
        shown = " ".join(repr(value).split())
    return shown if len(shown) <= MOST_SHOWN else shown[:MOST_SHOWN - 3] + "..."


# ------------------------------------------------------------------------------- a watched function


class Watch:
    """Stands in the place of a chapter's function: calls the exercise and, beside it, the original.

    calls       how many calls the exercise had
    of_test     how many of them in the test that runs; the first MOST_COMPARED are compared
    wrong       what was wrong in the first call that was, as lines; None if nothing was
    """

    def __init__(self, theirs, original, path, limit):
        self.theirs, self.original = theirs, original
        self.path, self.limit = path, limit
        self.calls, self.of_test, self.wrong = 0, 0, None
        self.inside = None                  # which of the two is running: it may call itself
        node = ast.parse(inspect.cleandoc("\n" + inspect.getsource(original)))
        self.names = None                   # of what the last return of the original returns
        for statement in ast.walk(node):
            if isinstance(statement, ast.Return):
                self.names = statement.value

    def function(self):
        """The function that stands in the chapter's place."""
        @functools.wraps(self.original)
        def watched(*args, **kwargs):
            if self.inside:
                return self.inside(*args, **kwargs)
            self.calls += 1
            self.of_test += 1
            return self.call(args, kwargs)

        return watched

    def call(self, args, kwargs):
        """One call of both. Returns what the exercise returns, or raises what it raises."""
        if self.of_test > MOST_COMPARED:
            return self.theirs(*args, **kwargs)
        copies, given = copy.deepcopy((args, kwargs)), self.shown(args, kwargs)
        want, refused = None, None
        self.inside = self.original
        try:
            want = self.original(*copies[0], **copies[1])
        except Exception as error:          # the tests ask for this one
            refused = error
        self.inside, printed = self.theirs, io.StringIO()
        try:
            with limited(self.limit), contextlib.redirect_stdout(printed):
                got = self.theirs(*args, **kwargs)
        except (Exception, TooLong) as error:
            if type(error) is not type(refused):
                self.note(self.lines_of(error), printed)
            if isinstance(error, TooLong):      # its own traceback may lack the number of a line
                raise TooLong from None
            raise
        finally:
            self.inside = None
        if refused:
            self.note([f"no error, expected {type(refused).__name__}: {refused}"], printed)
            return got
        found = self.differences(got, want) or self.changed(args, kwargs, copies)
        if found:
            self.note([*found, given], printed)
        return got

    def differences(self, got, want):
        """What is wrong in a result, a line for each part of it that is."""
        parts = self.names.elts if isinstance(self.names, ast.Tuple) else None
        if not parts or not isinstance(got, tuple) or not len(got) == len(want) == len(parts):
            parts, got, want = [self.names], [got], [want]
        lines = []
        for i, name in enumerate(parts):
            where = f"result {i + 1}" if len(parts) > 1 else "the result"
            lines.append(first_difference(got[i], want[i], where, name))
        return list(filter(None, lines))

    def shown(self, args, kwargs):
        """A call in one line."""
        given = inspect.signature(self.original).bind(*args, **kwargs).arguments
        parts = [f"{name}={brief(value)}" for name, value in given.items() if name != "self"]
        return f"    in {self.original.__name__}({', '.join(parts)})"

    def changed(self, args, kwargs, copies):
        """What is wrong in the arguments after the call, which a function may change in place."""
        signature = inspect.signature(self.original)
        ours = signature.bind(*args, **kwargs).arguments
        theirs = signature.bind(*copies[0], **copies[1]).arguments
        for name, value in ours.items():
            want = theirs[name]
            pairs = [(name, value, want)]
            if name == "self":
                pairs = [(f"self.{key}", vars(value)[key], vars(want)[key]) for key in vars(want)]
            for where, value, want in pairs:
                found = first_difference(value, want, where)
                if found:
                    return [f"after the call, {found}"]
        return []

    def note(self, lines, printed):
        """Keep what was wrong in this call, if it is the first."""
        if self.wrong is not None:
            return
        self.wrong = list(lines)
        said = printed.getvalue().splitlines()
        if said:
            self.wrong.append("in that call it printed, at last:")
            self.wrong += [f"    {line}" for line in said[-MOST_PRINTED:]]

    def lines_of(self, error):
        """An exception, with the line of the exercise file that it comes from."""
        here, step = [], error.__traceback__
        while step:
            if step.tb_frame.f_code.co_filename == self.path:
                here.append((step.tb_frame.f_code.co_name, line_of(step)))
            step = step.tb_next
        what = f"{type(error).__name__}: {error}"
        if isinstance(error, TooLong):
            what = f"one call computed for more than {self.limit:g} s"
        if not here:
            return [what]
        name, line = here[-1]
        return [f"{self.path}:{line}, in {name}: {what}",
                f"    {linecache.getline(self.path, line).strip()}"]


def line_of(step):
    """The line of a step of a traceback. A signal may come at an instruction that has none: then
    that of the last instruction before it."""
    found = step.tb_frame.f_code.co_firstlineno
    for begin, _, line in step.tb_frame.f_code.co_lines():
        if begin > step.tb_lasti:
            break
        found = line or found
    return step.tb_lineno or found


@contextlib.contextmanager
def limited(seconds):
    """Raise TooLong in what runs inside after so many seconds of computing."""
    def stop(*_):
        raise TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# ---------------------------------------------------------------------------------- in its place


def compiled(tree, name, path, module):
    """The function of an exercise file in the namespace of the chapter, and {name: value} of what
    the file has besides the chapter: imports, constants, functions of other names."""
    namespace = vars(module)
    imports = {ast.dump(node) for node in ast.parse(inspect.getsource(module)).body}
    added = []
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            if ast.dump(node) not in imports:
                added.append(node)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Assign)):
            targets = getattr(node, "targets", [node])
            named = [getattr(target, "id", getattr(target, "name", None)) for target in targets]
            if all(word and word not in namespace for word in named):
                added.append(node)
    found = {}
    for node in [*added, exercises.find(tree, name)]:
        code = compile(ast.Module([node], []), path, "exec")
        exec(code, namespace, found)
        if node in added:
            namespace.update(found)
    last = name.rpartition(".")[2]
    return found[last], {word: value for word, value in found.items() if word != last}


def replace(old, new):
    """Put a function in the place of another one wherever a module has it under a name."""
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is old:
                setattr(module, name, new)


@contextlib.contextmanager
def in_place(tree, job):
    """Put the exercise of a job in the place of the chapter's function; yields its Watch."""
    module = importlib.import_module(job["chapter"])
    theirs, added = compiled(tree, job["name"], job["path"], module)
    owner, _, last = job["name"].rpartition(".")
    holder = getattr(module, owner) if owner else module
    original = vars(holder)[last]
    watch = Watch(theirs, original, job["path"], job["limit"])
    function = watch.function()
    setattr(holder, last, function)
    replace(original, function)
    try:
        yield watch
    finally:
        setattr(holder, last, original)
        replace(function, original)
        for name in added:
            vars(module).pop(name, None)


class Reports:
    """A plugin of pytest: how many tests passed, and the first that failed."""

    def __init__(self, watch, tests):
        self.watch = watch
        self.files = {test.partition("::")[0] for test in tests}
        self.passed, self.failed = 0, None

    def pytest_ignore_collect(self, collection_path):
        """Called by pytest for each file of tests/: True if it need not be looked at."""
        ours = collection_path.name in self.files or collection_path.is_dir()
        return None if ours else True

    def pytest_runtest_setup(self):
        """Called by pytest before each test."""
        self.watch.of_test = 0

    def pytest_runtest_logreport(self, report):
        """Called by pytest for each phase of each test."""
        if report.failed and not self.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = crash.message if crash else str(report.longrepr)
            lines = [line for line in message.splitlines() if line.strip() not in DULL]
            self.failed = [f"tests/{report.nodeid.removeprefix('tests/')} fails",
                           *(f"    {line.strip()}" for line in lines[:2])]
        self.passed += report.passed and report.when == "call"


def checked(job):
    """The verdict of a job."""
    with open(job["path"], encoding="utf-8") as file:
        tree = ast.parse(file.read(), job["path"])
    try:
        with in_place(tree, job) as watch:
            reports = Reports(watch, job["tests"])
            words = [f"tests/{test}" for test in job["tests"]]
            status = pytest.main([*OPTIONS, *words], [reports])
    except Exception as error:              # of a line outside of functions
        where = [frame for frame in traceback.extract_tb(error.__traceback__)
                 if frame.filename == job["path"]]
        if not where:
            raise
        said = f"{job['path']}:{where[-1].lineno}: {type(error).__name__}: {error}"
        return {"state": "wrong", "why": [said]}
    if status not in (0, 1) or not watch.calls:
        raise RuntimeError(f"{job['name']}: pytest ended with {status} after {watch.calls} calls")
    if watch.wrong or reports.failed:
        test = reports.failed or ["all of its tests pass nevertheless"]
        return {"state": "wrong", "why": [*watch.wrong, test[0]] if watch.wrong else test}
    why = f"{many(reports.passed, 'test')}, {many(watch.calls, 'call')}"
    return {"state": "right", "why": [why]}


def main():
    """Check the jobs of the command line, one after the other."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)                        # pytest's own output says nothing to the user
    for job in json.loads(sys.argv[1]):
        print(json.dumps(checked(job)), file=answers, flush=True)


if __name__ == "__main__":
    main()
