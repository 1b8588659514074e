"""talk/: the form of every experiment, what results depend on, and what they are made of.

The experiments themselves take `make claims`.
"""

import ast
import importlib.util
import inspect
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import align
import numpy as np
import pytest
from chat import options
from talk import (experiment, hallucination, knowledge_of_self, plots, price_of_a_search, results,
                  tokens_to_think, tools)
from web import toylessons, toyweb
from conftest import ROOT
from test_probe import TASKS, run  # noqa: F401  a fixture: a small model that knows two answers

NAMES = results.names()

# ------------------------------------------------------------------------------- form


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_has_the_same_form(name):
    module = results.module_of(name)
    text = inspect.getsource(module)
    doc = module.__doc__
    assert doc.startswith(f"{name}.py: ") and results.claim_of(name).endswith(".")
    assert "\nRefuted " in doc and f"    python -m talk.{name}" in doc
    assert len(text.splitlines()) < 150
    assert set(module.STAGES) <= {"base", "sft", "rl", "rl_random"} and module.SECONDS > 0
    assert list(inspect.signature(module.experiment).parameters) == ["run", "seed"]
    assert list(inspect.signature(module.plot).parameters) == ["figure", "found"]
    assert text.endswith('if __name__ == "__main__":\n    command.run(results.main)\n')
    assert set(getattr(module, "AFTER", ())) <= set(NAMES[:NAMES.index(name)])


def test_all_experiments_are_listed_and_run():
    there = {path.stem for path in (ROOT / "talk").glob("*.py")}
    assert there == {*NAMES, *results.TOOLS, "__init__"} and len(NAMES) >= 14


def test_a_control_has_no_steps_of_its_own():
    """Steps are named once: two teach() in one function have the same."""
    for name in NAMES:
        for function in ast.walk(ast.parse(inspect.getsource(results.module_of(name)))):
            steps = set()
            for node in ast.walk(function) if isinstance(function, ast.FunctionDef) else ():
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "teach":
                    start = [ast.unparse(a) for a in node.args[5:6]]
                    steps.add((ast.unparse(node.args[3]), *start))
            assert len(steps) <= 1 or name == "past_the_teacher", f"{name}: {steps}"


# ------------------------------------------------------------------------------- results


def finished(folder, first=5):
    """A run with logs of reinforcement whose replies begin with so many tokens."""
    for stage, gain in (("rl", 30), ("rl_random", 0)):
        rows = []
        for i in range(2):
            rows.append({"step": i, "reward": 0.5, "accuracy": 0.2 + i * gain / 100,
                         "length": first + i * gain, "stepwise": 0.2})
        toyweb.write_jsonl(folder / stage / "log.jsonl", rows)
        (folder / stage / "config.json").write_text("{}")
        (folder / stage / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def here(monkeypatch):
    """Experiments run in this process and are not drawn, to save time."""
    monkeypatch.setattr(results, "in_a_process", results.make)
    monkeypatch.setattr(plots, "save", lambda *_: None)


@pytest.fixture
def made(here, monkeypatch):
    """The jobs that are run from now on."""
    jobs, spread = [], results.spread

    def noted(some):
        jobs.extend(some)
        return spread(some)

    monkeypatch.setattr(results, "spread", noted)
    return jobs


def run_once(folder, seeds=1):
    results.run_all(["longer_replies"], [folder], seeds)


def test_a_result_is_kept_until_something_it_depends_on_changes(
        tmp_path, made, monkeypatch, capsys):
    folder = finished(tmp_path / "run")
    run_once(folder)
    assert [job.seed for job in made] == [0] and results.kept(made[0])["found"]["rl length"] == 30
    said = capsys.readouterr().out
    run_once(folder)
    assert len(made) == 1, "made twice"
    assert capsys.readouterr().out == said
    run_once(folder, seeds=2)
    assert [job.seed for job in made] == [0, 1], "another seed"
    run_once(folder, seeds=2)
    assert len(made) == 2
    (folder / "rl" / "model.safetensors").write_bytes(b"other weights")
    run_once(folder)
    assert len(made) == 3, "another model"
    toyweb.write_jsonl(folder / "tasks/wheel_test.jsonl", [{"question": "Is it?"}])
    run_once(folder)
    assert len(made) == 4, "another world"
    (folder / "talk/longer_replies-0.json").write_text('{"key": ')
    run_once(folder)
    assert len(made) == 5, "a damaged result"
    real = results.sources
    monkeypatch.setattr(results, "sources", lambda module: [*real(module), "x = 1\n"])
    assert results.kept(made[0]) is None, "another source"


def test_what_a_key_depends_on(tmp_path):
    """All that key_of() reads, one by one; a copied folder has the same keys."""
    folder, other = finished(tmp_path / "run"), finished(tmp_path / "copy")
    keys = {results.key_of(results.Job("longer_replies", folder, seed)) for seed in range(3)}
    assert len(keys) == 3
    assert results.key_of(results.Job("longer_replies", other, 0)) in keys
    for path in ("rl/log.jsonl", "rl/config.json", "rl_random/model.safetensors", "tokenizer.json",
                 "tokens/val_000000.bin", "chat/train.jsonl"):
        (other / path).parent.mkdir(exist_ok=True)
        (other / path).write_bytes(b"changed\n")
        keys.add(results.key_of(results.Job("longer_replies", other, 0)))
    assert len(keys) == 9


def test_the_sources_of_an_experiment(tmp_path):
    """Its own, that of experiment.py, and the rooms of web/ and talk/ that it imports."""
    path = tmp_path / "wheels.py"
    path.write_text("from web import toyworld\nfrom talk import plots, results\n"
                    "from talk.tools import without_calls\n\ndef f():\n    'x'\n")
    spec = importlib.util.spec_from_file_location("talk.wheels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = results.sources(module)
    assert len(before) == 4 and inspect.getsource(experiment) in before
    assert inspect.getsource(tools) in before and inspect.getsource(results) not in before
    path.write_text(path.read_text() + "STEPS = 25\n")
    assert results.sources(module) != before


def test_each_job_has_a_core_of_its_own_and_its_place(tmp_path):
    runs = [finished(tmp_path / str(n), n) for n in (5, 7)]
    cores = getattr(os, "sched_getaffinity", abs)(0)
    jobs = results.jobs_of(["longer_replies"], runs, 2)
    assert [(job.run.name, job.seed) for job in jobs] == [("5", 0), ("5", 2), ("7", 1), ("7", 3)]
    every = list(results.spread(jobs))
    assert getattr(os, "sched_getaffinity", abs)(0) == cores
    for found, job in zip(every, jobs):
        numbers = {k: v for k, v in found["found"].items() if not isinstance(v, list)}
        assert numbers == pytest.approx({"rl length": 30, "rl accuracy": 0.3,
                                         "rl_random length": 0, "rl_random accuracy": 0})
        first = int(job.run.name)
        assert f"{first}.0" in found["said"] and f"{first + 30}.0" in found["said"]
        assert found["seed"] == job.seed and json.loads(job.path.read_text()) == found
    lines = results.summary({"longer_replies": [found["found"] for found in every]})
    assert lines[:2] == ["", "longer_replies"] and "      30.000 +- 0.000  rl length" in lines


@pytest.mark.parametrize("seconds", [360, 3000])
def test_the_longest_begin_and_no_core_waits(tmp_path, monkeypatch, seconds):
    """On two cores. What needs another begins once that has ended, and not after all others.

    seconds: of the longest, which may take as long as all others together.
    """
    monkeypatch.setattr(results.module_of("searching"), "SECONDS", seconds)
    events = []

    def play(job):
        events.append(("begins", job.name))
        time.sleep(results.module_of(job.name).SECONDS / 2000)
        events.append(("ends", job.name))
        return job.name

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    monkeypatch.setattr(results, "in_a_process", play)
    assert list(results.spread(results.jobs_of(NAMES, [tmp_path], 1))) == NAMES
    begun = [name for what, name in events if what == "begins"]
    assert sorted(begun) == sorted(NAMES) and set(begun[:2]) == {"searching", "in_context"}
    for name in NAMES:
        for before in getattr(results.module_of(name), "AFTER", ()):
            assert events.index(("ends", before)) < events.index(("begins", name))
    module = {name: results.module_of(name) for name in NAMES}
    takes = {name: sum(each.SECONDS for each in module.values()     # with what waits for it
                       if each is module[name] or name in getattr(each, "AFTER", ()))
             for name in NAMES}
    shorter = [name for name in NAMES if takes[name] < takes["price_of_a_search"]]
    assert seconds == 3000 or begun.index("price_of_a_search") < min(map(begun.index, shorter))


def test_one_that_fails_is_named_and_stops_no_other(tmp_path):
    whole, broken = finished(tmp_path / "whole"), finished(tmp_path / "broken")
    (broken / "rl/log.jsonl").unlink()
    words = [sys.executable, "-m", "talk", "longer_replies", "--run", broken, whole]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "failed: longer_replies; the results of" in done.stderr
    shown = " ".join(done.stdout.split())       # lines end where a terminal ends
    assert "longer_replies of " in shown and "FileNotFoundError" in shown
    assert not (broken / "talk/longer_replies-0.json").exists()
    found = json.loads((whole / "talk/longer_replies-1.json").read_text())["found"]
    assert found["rl length"] == 30


def test_the_command_names_what_failed(tmp_path, here, monkeypatch, capsys):
    """Also an experiment whose drawing fails; its result is kept, and the others are shown."""
    def fail(*_):
        raise RuntimeError("no ink")

    folder = finished(tmp_path / "run")
    monkeypatch.setattr(plots, "save", fail)
    with pytest.raises(ValueError, match="failed: longer_replies; the results of the others"):
        run_once(folder)
    assert "failed: no ink" in capsys.readouterr().out
    assert results.kept(results.Job("longer_replies", folder, 0))


def test_errors_name_what_mends_them(tmp_path):
    done = subprocess.run([sys.executable, "-m", "talk", "moon_landing"], capture_output=True,
                          text=True, cwd=ROOT)
    assert done.returncode == 1 and "moon_landing: expected some of dreams, " in done.stderr
    with pytest.raises(FileNotFoundError, match="no such run folder; make it with: make RUN="):
        results.check_run(tmp_path / "none", NAMES)
    with pytest.raises(FileNotFoundError, match="no finished model, and dreams reads it"):
        results.check_run(tmp_path, ["dreams"])
    args = importlib.import_module("talk.__main__").parse_args
    with pytest.raises(ValueError, match="--seeds 0: expected at least one"):
        args(["--seeds", "0"])
    assert args([]).names == NAMES and args(["tools", "dreams"]).names == ["dreams", "tools"]


def test_the_list(tmp_path, here, capsys):
    folder = finished(tmp_path / "run")
    run_once(folder)
    capsys.readouterr()
    results.list_all(["longer_replies", "ranking"], [folder], 1)
    head, kept, missing = capsys.readouterr().out.splitlines()
    assert re.match(r"longer_replies +1 +1/1 +rewards for right answers make", kept)
    assert re.match(r"ranking +\d+ +0/1 +battles", missing) and head.startswith("experiment")


# ------------------------------------------------------------------------------- drawings


class Made(dict):
    """Numbers of an experiment that was not run: every label is there."""

    def __missing__(self, label):
        return [0.5] * 3


PLOTTED = ["dreams", "few_shot", "regurgitation", "assistant", "hallucination", "tools",
           "reaching_for_the_tool", "knowledge_of_self", "tokens_to_think", "spelling",
           "longer_replies", "past_the_teacher", "gamed", "ranking"]


@pytest.mark.parametrize("name", PLOTTED)
def test_every_drawing_has_a_title_units_and_its_command(name, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")

    def values(found, label):
        if isinstance(label, list):
            return np.full((len(found), len(label)), 0.5)
        return np.full(len(found), 0.5)

    def curve(axes, found, label, x, *rest):
        assert isinstance(label, (str, list))
        return real(axes, [{"": [0.5] * len(x)}] * len(found), "", x, *rest)

    module, real = results.module_of(name), plots.curve
    (tmp_path / "demo/talk").mkdir(parents=True)
    drawn = []
    monkeypatch.setattr(plots, "curve", curve)
    monkeypatch.setattr(plots, "values", lambda found, label: np.array(
        [numbers[label] for numbers in found]) if label == "" else values(found, label))
    monkeypatch.setattr(module, "plot", lambda figure, found, plot=module.plot: (
        drawn.append(figure), plot(figure, found)))
    for found in ([Made()], [Made()] * 3):
        path = plots.save(module, found, [tmp_path / "demo"])
        assert path.read_text().startswith("<?xml")
    for figure in drawn:
        assert len(figure.get_suptitle()) > 20
        assert f"python -m talk.{name} --run" in figure.get_supxlabel()
        assert "world: demo" in figure.get_supxlabel()
        for axes in figure.axes:
            assert axes.get_ylabel() or axes.get_xlabel()
            for line in axes.lines:
                if line.get_linestyle() != "None":
                    assert line.get_color() in ("black", "0.5")
    first = path.read_bytes()
    plots.save(module, [Made()] * 3, [tmp_path / "demo"])
    assert path.read_bytes() == first, "a drawing of the same numbers is the same file"


def test_without_matplotlib_there_is_the_table_and_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)        # import raises ImportError
    run_once(finished(tmp_path / "run"))
    said = capsys.readouterr().out
    assert "step by step   theory" in said and not list((tmp_path / "run/talk").glob("*.svg"))
    assert "without matplotlib; install it with: pip install -r talk/requirements.txt" in said
    assert (ROOT / "talk/requirements.txt").read_text().startswith("matplotlib >= ")


# ------------------------------------------------------------------------------- experiments


@pytest.fixture
def taught(monkeypatch):
    """(recipe, seed, start, rows, their kinds) of every fine-tuning; each takes four steps."""
    found, sft = [], align.sft

    def noted(run, recipe, seed=0, on_mismatch="error", data=(), start="base", out="sft"):
        kinds = []
        for path in data:
            for line in path.read_text(encoding="utf-8").splitlines():
                kinds.append(json.loads(line).get("kind", ""))
        found.append((recipe, seed, start, len(kinds), sorted(kinds)))
        short = replace(recipe, steps=min(recipe.steps, 4))
        return sft(run, short, seed, on_mismatch, data, start, out)

    monkeypatch.setattr(align, "sft", noted)
    return found


def test_both_arms_are_taught_alike(run, taught, monkeypatch):  # noqa: F811
    """Refusals by knowledge and by lot, sums with the calculator and without, a name given or not.

    All arms begin at the same start, with the same recipe and as many rows.
    """
    toyweb.write_jsonl(run / "tasks/probe_test.jsonl",
                       [{**t, "asked": t["exposure"] == 30} for t in TASKS])
    chats_before = sorted((run / "chat").iterdir())
    hallucination.experiment(run, 3)
    refusals, by_lot = taught
    recipe = replace(options.SFT, steps=hallucination.STEPS, batch=hallucination.BATCH)
    assert refusals == by_lot and refusals[0] == recipe and "refusal" in refusals[-1]
    assert sorted((run / "chat").iterdir()) == chats_before, "the run's own files stay"
    taught.clear()
    rows, tasks = [], []
    for a, b in ((2, 3), (4, 5), (7, 1)):
        question, answer = f"{a} and {b}?", str(a + b)
        tasks.append({"question": question, "answer": answer})
        parts = [{"type": "tool", "text": f"{a}+{b}"}, {"type": "output", "text": answer},
                 {"type": "text", "text": f"It is {answer}."}]
        rows.append(toylessons.chat(question, parts, kind="calculator"))
    toyweb.write_jsonl(run / "chat/train.jsonl", [
        *rows, toylessons.chat("Who are you?", "I am Longhand.", kind="identity")])
    toyweb.write_jsonl(run / "tasks/calculator_test.jsonl", tasks)
    tools.experiment(run, 3)
    calculator, head = taught
    assert calculator[:4] == head[:4] and calculator[2] == "sft"
    taught.clear()
    knowledge_of_self.experiment(run, 3)
    follower, control = taught
    assert follower[:4] == control[:4] and follower[2] == "sft"


def test_half_of_the_questions_at_a_price_are_about_names_of_the_lessons():
    kinds = {(0, False): 6, (1, False): 3, (20, False): 2, (30, False): 1, (10, True): 5}
    tasks = [{"exposure": pages, "asked": asked, "number": i}
             for (pages, asked), n in kinds.items() for i in range(n)]
    found = price_of_a_search.balanced(tasks, random.Random(0))
    shares = Counter((task["exposure"], task["asked"]) for task in found)
    assert shares == {(0, False): 6, (1, False): 6, (20, False): 4, (30, False): 2, (10, True): 18}
    assert len({tuple(task.values()) for task in found}) == sum(kinds.values())


def test_the_three_ways_to_answer_have_the_same_rounds():
    for thrown in ([1], [6, 6, 2, 3]):
        said = [way(thrown) for way in tokens_to_think.WAYS.values()]
        short, empty, long = (text.split() for text in said)
        assert len(empty) == len(long) > len(short)
        assert {text[-1] for text in (short, empty, long)} == {short[-1]}


def test_study_reads_old_and_new_text_alike(run, monkeypatch):  # noqa: F811
    added, add_conversations, add_replay = [], align.add_conversations, align.add_replay

    def conversations(learner, rows, n_positions):
        added.append([mask for _, mask in rows])
        return add_conversations(learner, rows, n_positions)

    def replay(learner, text, step, recipe):
        added.append((recipe.replay, recipe.replay_weight))
        return add_replay(learner, text, step, recipe)

    monkeypatch.setattr(align, "add_conversations", conversations)
    monkeypatch.setattr(align, "add_replay", replay)
    texts = ["Ann eats snails. " * 30] * 9
    params, cfg, tokenizer = experiment.study(run, "wheels/reader", texts, 3, 0)
    assert len(added) == 6
    assert len(added[0]) == 8 and all(min(mask) == 1 for mask in added[0])
    assert added[1] == (8, 1.0)
    windows = experiment.windows(texts[:1], tokenizer, cfg.n_positions)
    ids = windows[0][0] + [token for row, _ in windows[1:] for token in row[1:]]
    assert tokenizer.decode(ids[1:-1]) == texts[0] and ids[0] == ids[-1] == tokenizer.eot_token
    assert max(len(row) for row, _ in windows) == cfg.n_positions + 1
    assert [row["step"] for row in experiment.log_of(run / "talk/wheels/reader-0")] == [1, 2, 3]
    added.clear()
    experiment.study(run, "wheels/reader", texts, 3, 0)
    assert not added, "the same model is not made again"
