"""web/examples.py: python data.py --check is content, and finds each kind of fault."""

import subprocess
import sys

import pytest

import data
from conftest import ROOT
from web import examples


def test_each_stage_drops_its_page(capsys):
    assert data.main(["--check"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [page.stage for page in examples.PAGES]
    assert max(map(len, [*lines, last])) <= 80 and last.startswith("Its own stages")


def test_there_is_a_page_for_each_stage_that_drops():
    stages = [page.stage for page in examples.PAGES]
    assert sorted(stages) == sorted(["kept", *data.STAGES.keys() - {"pii"}])


def drop_nothing(doc, tools):
    """A stage that forgot its rules."""


def drop_all(doc, tools):
    """A stage that drops every page."""
    return "all"


@pytest.mark.parametrize("stage", data.STAGES)
def test_a_stage_that_does_nothing_is_found(stage, monkeypatch, capsys):
    if stage == "minhash":
        monkeypatch.setattr(data, "clusters", lambda signatures: range(len(signatures)))
    elif stage == "extract":            # then nothing has a text
        monkeypatch.setitem(data.STAGES, stage, drop_all)
    else:
        monkeypatch.setitem(data.STAGES, stage, drop_nothing)
    assert data.main(["--check"]) == 1
    assert "WRONG: http://" in capsys.readouterr().out


def test_a_stage_that_drops_too_much_is_found(monkeypatch, capsys):
    monkeypatch.setitem(data.STAGES, "pii", drop_all)
    assert data.main(["--check"]) == 1
    assert "lighthouse ended at pii, and should end at kept" in capsys.readouterr().out


RULES = sorted(data.STAGES.keys() - {"extract", "minhash", "pii"})


@pytest.mark.parametrize("stage", RULES)
def test_a_new_rule_is_shown_and_hides_no_fault(stage, monkeypatch, capsys):
    """A reason that data.py did not have. The pages go on to the stages that they are for."""
    function = data.STAGES[stage]
    monkeypatch.setitem(data.STAGES, stage, lambda doc, tools: function(doc, tools) or "too_dull")
    assert data.main(["--check"]) == 0
    assert f"new rule: {stage} drops http://a.com/lighthouse" in capsys.readouterr().out
    monkeypatch.setitem(data.STAGES, stage, lambda doc, tools: function(doc, tools) or "list_ratio")
    assert data.main(["--check"]) == 1
    monkeypatch.setitem(data.STAGES, stage, lambda doc, tools: 1 / 0)
    assert data.main(["--check"]) == 1


@pytest.mark.parametrize("name, value, twin", [
    ("SHINGLE", 7, "minhash"),
    ("clusters", lambda signatures: range(len(signatures)), "clusters"),
    ("EMAIL", data.CITATION, "redact"),
    ("STOP_WORDS", {"the"}, "Words.n_stop_words"),
    ("parts_of", lambda text: ([text], [text]), "parts_of"),
    ("repeats", lambda parts: (1, 1), "examples of the docstrings"),
])
def test_a_definition_that_differs_from_its_twin_is_found(name, value, twin, monkeypatch, capsys):
    monkeypatch.setattr(data, name, value)
    assert data.main(["--check"]) == 1
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG: ")]
    assert any(twin in line for line in said)


def test_the_command_ends_with_the_status(tmp_path):
    """Also from a copy of data.py that somebody changed."""
    source = (ROOT / "data.py").read_text(encoding="utf-8")
    for old, new, status in (("", "", 0), ('"curly_bracket"\n', "None\n", 1)):
        (tmp_path / "data.py").write_text(source.replace(old, new) if old else source, "utf-8")
        done = subprocess.run([sys.executable, tmp_path / "data.py", "--check"], cwd=tmp_path,
                              env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        assert done.returncode == status and not done.stderr, done.stderr
        assert [*tmp_path.iterdir()] == [tmp_path / "data.py"]
