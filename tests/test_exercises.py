"""tests/exercises.py: the files that it writes, and what its checks say of right and wrong work."""

import ast
import importlib.util
import re
import sys

import numpy as np
import pytest

import exercise_checks
import exercises
from conftest import ROOT, run_script

BY_NAME = {exercise.name: exercise for exercise in exercises.EXERCISES}
CHAPTERS = {name: (ROOT / f"{name}.py").read_text(encoding="utf-8") for name in exercises.CHAPTERS}

# Work on an exercise: its name, a change of the chapter's text, and what the check must say of it.
WRONG = [
    ("gelu_backward", "return dy * dy_dx", "return -dy * dy_dx", "entries are wrong: the sign"),
    ("gelu_backward", "return dy * dy_dx", "dy * dy_dx", "the result is None (is a return missing"),
    ("gelu_backward", "return dy * dy_dx", "return (dy * dy_dx).astype(np.float32)",
     "the result has the type float32, expected float64"),
    ("linear_backward", "dw = rows.T @ drows", "dw = drows.T @ rows",
     "dw has the shape (8, 32), which is transposed, expected (32, 8)"),
    ("linear_backward", "db = drows.sum(0)", "db = drows.mean(0)",
     "all are 0.0555556 times what they should be"),
    ("layernorm_backward", "- n * along_n)", ")", "dx[0, 0, 0] is "),
    ("embedding_backward", "np.add.at(dwte, tokens, dx) ", "dwte[tokens] += dx ", "dwte["),
    ("attention_backward", "dk = scale * (ds.swapaxes(-1, -2) @ q)", "dk = scale * (ds @ q)",
     "dk["),
    ("attention_forward", "s - largest", "s - larges", "NameError: name 'larges' is not defined"),
    ("block_backward", "dx = dx + dnorm\n    # forward was: x = x + att",
     "dx = dnorm\n    # forward was: x = x + att", "dx[0, 0, 0] is "),
    ("merge", "range(len(parts) - 1)", "range(len(parts) - 2)",
     "parts is [b'ab', b'c', b'd'], expected [b'ab', b'cd']"),
    ("merge", "parts[i:i + 2] = [parts[i] + parts[i + 1]]", "pass",
     ", in merge: one call computed for more than 1 s"),
    ("train", "(-pairs[pair], pair))", "(-pairs[pair], -pair[0]))", "tokens[257] is b'aaa'"),
    ("replace_pair", "i += 1", "i += 2", "after the call, ids is "),
    ("decode", 'errors="replace"', 'errors="ignore"', "the result is 'AB', expected"),
    ("repeats", "seen.add(part)", "print(part, file=sys.stdout)", "in that call it printed"),
    ("minhash", "np.minimum", "np.maximum", "entries are wrong"),
    ("clusters", "in enumerate(signatures)", "in enumerate(signatures[1:])", "leader["),
    ("Words.top_ngram_chars", "len(self) - n + 1", "len(self) - n", "the result is "),
    ("draw", "ends <= u", "ends < u", "the result is 0, expected 1"),
    ("probabilities", "before >= top_p", "before > top_p", "p[0] is 0.666666667, expected 1"),
    ("AdamW.step", "self.beta1 ** self.t)", "self.beta1 ** (self.t - 1))",
     "after the call, self.params['w'][0, 0] is -inf, expected 1.8"),
    ("AdamW.step", "if p.ndim >= 2 else 0.0", "if p.ndim >= 1 else 0.0",
     "after the call, self.params['b'][0] is "),
    ("learning_rate", "(step + 1) / recipe.warmup", "step / recipe.warmup", "the result is 0, ex"),
    ("advantages", "r - r.mean(1", "r.mean(1", "the result has the shape (2,), expected (8,)"),
    ("sft_weights", "mask / max(mask.sum(), 1.0)", "mask / mask.sum()", "the result[0, 0] is nan"),
    ("pad_rows", "targets[r, :n] = ids[1:]", "targets[r, :n] = ids[:-1]", "targets[0, 0] is 5"),
    ("clip_scale", "return 1.0", "import os; os._exit(3)",
     "it ended the whole process, with the status 3"),
    ("clip_scale", "def clip_scale(", "LIMIT = 1 / 0\n\n\ndef clip_scale(",
     "ZeroDivisionError: division by zero"),
]
# Other ways that are right.
RIGHT = [
    ("gelu_backward", "def gelu_backward(", "from math import pi\n\n\ndef slope(x, t):\n    "
     "return (1 - t * t) * (2 / pi) ** 0.5 * (1 + 3 * GELU_C * x ** 2)\n\n\ndef gelu_backward("),
    ("draw", "int((ends <= u * ends[-1]).sum())",
     'np.searchsorted(ends, u * ends[-1], side="right")'),
    ("cross_entropy_backward", "np.put_along_axis(dz, targets[..., None], target_p - 1.0, -1)",
     "dz = dz - np.eye(dz.shape[-1])[targets]"),
]


def changed(exercise, old, new, folder):
    """An exercise file that is the chapter with one change in the exercise; (exercise, path)."""
    text = CHAPTERS[exercise.chapter]
    node = exercises.find(ast.parse(text), exercise.name)
    lines = text.splitlines(keepends=True)
    begin, end = node.lineno - 1, node.end_lineno
    own = "".join(lines[begin:end])
    assert own.count(old) == 1, (exercise.name, old)
    folder.mkdir()
    path = folder / f"{exercise.chapter}.py"
    path.write_text("".join([*lines[:begin], own.replace(old, new), *lines[end:]]))
    return exercise, path


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Verdicts on the chapters themselves, on WRONG and on RIGHT, all by the same process."""
    folder = tmp_path_factory.mktemp("work")
    for name, text in CHAPTERS.items():
        (folder / f"{name}.py").write_text(text)
    jobs = [(exercise, folder / f"{exercise.chapter}.py") for exercise in exercises.EXERCISES]
    for i, (name, old, new, *_) in enumerate([*RIGHT, *WRONG]):
        jobs.append(changed(BY_NAME[name], old, new, folder / str(i)))
    found = list(exercises.verdicts(jobs, limit=1))
    assert len(found) == len(jobs)
    return found


# ------------------------------------------------------------------------------------- the verdicts


def test_what_the_chapters_have_is_right(said):
    for exercise, verdict in zip(exercises.EXERCISES, said):
        assert verdict["state"] == "right", (exercise.name, verdict)
    for (name, *_), verdict in zip(RIGHT, said[len(exercises.EXERCISES):]):
        assert verdict["state"] == "right", (name, verdict)


def test_the_first_wrong_entry_is_named(said):
    missed = []
    for (name, _, new, part), verdict in zip(WRONG, said[-len(WRONG):]):
        if verdict["state"] != "wrong" or part not in "\n".join(verdict["why"]):
            missed.append((name, new, verdict))
    assert not missed


def test_an_error_names_the_line_of_the_exercise(said):
    i = next(i for i, case in enumerate(WRONG) if case[2] == "s - larges")
    where, line, *_ = said[-len(WRONG):][i]["why"]
    path, number = re.match(r"(.+?):(\d+), in attention_forward: NameError", where).groups()
    with open(path) as file:
        assert file.readlines()[int(number) - 1].strip() == line.strip()
    assert line.strip() == "total = np.exp(s - larges).sum(-1, keepdims=True)"


@pytest.mark.parametrize("got, want, said", [
    ([1, [2.0, 3.0]], (1, [2.0, 3.0]), None),
    ([1, [2.0, 3.5]], (1, [2.0, 3.0]), "x[1][1] is 3.5, expected 3"),
    ([[1], [1, 2]], 1.0, "x is [[1], [1, 2]], expected 1.0"),
    ({"a": None}, {"a": 1}, "x['a'] is None (is a return missing?), expected 1"),
    ("a", 1.0, "x is 'a', expected 1.0"),
    (None, None, None),
    (None, 1.0, "x is None (is a return missing?), expected 1.0"),
    (2, None, "x is 2, expected None"),
    (b"a", "a", "x is b'a', expected 'a'"),
    (np.float64(2), 2, None),
    (float("nan"), float("nan"), None),
    (np.array([1.0, np.inf]), np.array([1.0 + 1e-12, np.inf]), None),
    (np.array([1e-6, 0.0]), np.array([2e-6, 0.0]), "x[0] is 1e-06, expected 2e-06; 1 of 2 entries "
     "are wrong: all are 0.5 times what they should be"),
    (np.array([1, 2]), np.array([1.0, 2.0]), "x has the type int64, expected float64"),
    (np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(3, 2),
     "x has the shape (2, 3), which is transposed, expected (3, 2)"),
    ([1.0], np.ones(1), "x is [1.0], expected an array of (1,)"),
])
def test_differences(got, want, said):
    found = exercise_checks.first_difference(got, want, "x")
    assert found == said, found


# ---------------------------------------------------------------------------------------- the tasks


@pytest.mark.parametrize("exercise", exercises.EXERCISES, ids=lambda e: e.name)
def test_a_docstring_is_enough_as_a_task(exercise):
    """It shows what goes in and comes out, or an example, or it names every argument."""
    node = exercises.find(ast.parse(CHAPTERS[exercise.chapter]), exercise.name)
    task = ast.get_docstring(node) or ""
    assert len(task) >= 70, task
    arguments = [a.arg for a in node.args.args if a.arg != "self"]
    unnamed = [a for a in arguments if not re.search(rf"\b{a}\b", task)]
    assert "->" in task or ">>>" in task or not unnamed, f"{task!r} does not tell {unnamed}"
    for test in exercise.tests.split():
        path, _, name = test.partition("::")
        function = name.partition("[")[0]
        assert f"\ndef {function}(" in (ROOT / "tests" / path).read_text(encoding="utf-8"), test


@pytest.mark.parametrize("chapter", exercises.CHAPTERS)
def test_a_file_is_its_chapter_without_some_bodies(chapter, tmp_path):
    exercises.write(chapter, tmp_path)
    path = tmp_path / f"{chapter}.py"
    spec = importlib.util.spec_from_file_location(f"exercise_{chapter}", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)       # dataclasses look for it there
        spec.loader.exec_module(module)
    ours, full = (ast.parse(text) for text in (path.read_text(), CHAPTERS[chapter]))
    names = [e.name for e in exercises.EXERCISES if e.chapter == chapter]
    for name in names:
        empty, whole = exercises.find(ours, name), exercises.find(full, name)
        assert ast.get_docstring(empty) == ast.get_docstring(whole)
        assert not exercises.is_begun(empty) and exercises.is_begun(whole)
        empty.body = whole.body
    assert ast.dump(ours) == ast.dump(full)
    with pytest.raises(NotImplementedError, match=names[0]):
        function = module
        for part in names[0].split("."):
            function = getattr(function, part)
        function(*[None] * function.__code__.co_argcount)


def test_the_order_is_that_of_difficulty():
    for chapter in exercises.CHAPTERS:
        levels = [e.level for e in exercises.EXERCISES if e.chapter == chapter]
        assert levels == sorted(levels)


def test_the_page_leads_through_all_of_them():
    page = (ROOT / "docs/exercises.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\*\*`([\w.]+)`\*\* (\*+|★+)", page, re.M)
    assert [(name, len(stars)) for name, stars in shown] == [
        (e.name, e.level) for e in exercises.EXERCISES]


# ------------------------------------------------------------------------------------- the commands


def test_work_is_never_written_over(tmp_path, capsys):
    path = tmp_path / "bpe.py"
    exercises.main(["bpe", "--folder", str(tmp_path)])
    fresh = path.read_text()
    exercises.main(["bpe", "--folder", str(tmp_path)])          # nothing is lost: written again
    assert path.read_text() == fresh
    older = fresh.replace("Byte-level BPE: text", "BPE: text")
    path.write_text(older)
    with pytest.raises(ValueError, match="you have worked on it.* begin anew: mv "):
        exercises.main(["bpe", "--folder", str(tmp_path)])
    assert path.read_text() == older
    path.write_text(fresh.partition("\n")[2])                   # the header is gone
    with pytest.raises(ValueError, match="you have worked on it"):
        exercises.write("bpe", tmp_path)


def test_an_older_file_that_nobody_touched_is_written_again(tmp_path, monkeypatch):
    now = exercises.emptied("bpe")
    monkeypatch.setattr(exercises, "emptied", lambda chapter: "# an older chapter\n")
    exercises.write("bpe", tmp_path)
    monkeypatch.undo()
    exercises.write("bpe", tmp_path)
    assert (tmp_path / "bpe.py").read_text().endswith(now)


def test_the_report(tmp_path, capsys):
    """Right, wrong, missing and not begun; what stands in other files is left alone."""
    exercises.write("bpe", tmp_path)
    text = (tmp_path / "bpe.py").read_text()
    own = ('    raise NotImplementedError("the exercise decode")\n',
           '    return b"".join(map(token_bytes.__getitem__, ids)).decode("utf-8", "replace")\n')
    wrong = ('    raise NotImplementedError("the exercise merge")\n', "    return [piece]\n")
    for old, new in (own, wrong, ("def train(piece", "def learn(piece")):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "bpe.py").write_text(text)
    assert exercises.main(["check", "bpe", "--folder", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    states = dict(re.findall(r"^(right|wrong|missing|not begun) +bpe.py +(\w+)", out, re.M))
    assert states == {"right": "decode", "not begun": "replace_pair", "wrong": "merge",
                      "missing": "train"}
    assert "           parts is [b'abcd'], expected [b'ab', b'cd']\n" in out
    assert "test_bpe.py::test_published_examples fails" in out and "\x1b" not in out
    assert out.endswith("\n1 right, 1 wrong, 1 missing, 1 not begun.\n")
    assert exercises.main(["check", "decode", "--folder", str(tmp_path)]) == 0
    assert "1 right.\n" in capsys.readouterr().out


def test_a_file_that_is_no_python(tmp_path):
    (tmp_path / "gpt.py").write_text("def gelu_backward(dy, cache):\n    return dy *\n")
    done = run_script("tests/exercises.py", "check", "gpt", "--folder", tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{tmp_path}/gpt.py:2: invalid syntax\n    return dy *" in done.stderr


def test_nothing_begun(tmp_path, capsys):
    assert exercises.main(["check", "--folder", str(tmp_path / "none")]) == 0
    assert "Write " in capsys.readouterr().out
    exercises.write("train", tmp_path)
    assert exercises.main(["check", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("31 not begun. The next: repeats in "
                                            f"{tmp_path}/data.py\n")


@pytest.mark.parametrize("words, message", [
    (["grammar"], "'grammar': there is no such chapter"),
    (["gelu_backward"], "there is no such chapter"),
    (["check", "gelu"], "'gelu': there is no such exercise"),
    (["check", "--limit", "0"], "--limit 0: expected more than 0"),
])
def test_words_that_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        exercises.main(words)
    assert message in capsys.readouterr().err


def test_train_is_a_chapter_and_bpe_train_an_exercise():
    assert "train" not in exercises.names_of(BY_NAME["train"])
    assert "bpe.train" in exercises.names_of(BY_NAME["train"])
