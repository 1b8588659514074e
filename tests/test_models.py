"""chat/models.py: which model of a run a command means."""

import argparse
import itertools
import json

import pytest

from chat import models
from web.toywords import NAME_PARTS


def make(folder, architecture="GPT2LMHeadModel"):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))


def options(**given):
    return argparse.Namespace(**{"run": None, "model": None, **given})


def test_the_models_of_a_run(tmp_path):
    """A reward model writes nothing, and a folder without a model is none."""
    for name in ("sft", "base"):
        make(tmp_path / name)
    make(tmp_path / "reward", "GPT2ForSequenceClassification")
    (tmp_path / "docs").mkdir()
    assert models.in_run(tmp_path) == [tmp_path / "base", tmp_path / "sft"]
    (tmp_path / "sft" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json: not JSON"):
        models.in_run(tmp_path)


def test_the_model_that_is_chosen(tmp_path):
    make(tmp_path / "sft")
    stages = ["rl", "sft"], "assistant", "align.py sft"
    assert models.chosen(options(run=tmp_path), *stages) == tmp_path / "sft"
    make(tmp_path / "rl")
    assert models.chosen(options(run=tmp_path), *stages) == tmp_path / "rl"
    assert models.chosen(options(model="x"), *stages).name == "x"
    with pytest.raises(FileNotFoundError, match="no base model in it yet; .* train.py --run"):
        models.chosen(options(run=tmp_path), ["base"], "base model", "train.py")
    with pytest.raises(FileNotFoundError, match="none: no such run folder"):
        models.chosen(options(run=tmp_path / "none"), *stages)


def test_a_model_in_training_is_chosen_where_none_is_finished(tmp_path, capsys):
    stages = ["rl", "sft"], "assistant", "align.py sft"
    (tmp_path / "sft").mkdir()
    with pytest.raises(FileNotFoundError, match="no assistant in it yet"):
        models.chosen(options(run=tmp_path), *stages)
    (tmp_path / "sft" / "trainer.safetensors").write_bytes(b"")
    assert models.chosen(options(run=tmp_path), *stages) == tmp_path / "sft"
    assert "sft: still in training; this is its last checkpoint" in capsys.readouterr().err
    (tmp_path / "rl").mkdir()
    (tmp_path / "rl" / "trainer.safetensors").write_bytes(b"")
    make(tmp_path / "old")
    assert models.chosen(options(run=tmp_path), ["old", "sft"], "", "") == tmp_path / "old"
    (tmp_path / "sft" / "model.safetensors").write_bytes(b"")
    assert models.chosen(options(run=tmp_path), *stages) == tmp_path / "sft"
    assert "still in training" not in capsys.readouterr().err


def test_options_that_exclude_each_other():
    args = options()
    models.check_options(args)
    assert args.run == "out/demo"
    with pytest.raises(ValueError, match="--run a: --model b stands in place of the run's"):
        models.check_options(options(run="a", model="b"))


def test_questions_to_try(tmp_path):
    """One of each kind of task; of the facts one that stands on most pages, and the same question
    about a name that nobody has read.
    """
    assert models.examples(tmp_path) == {}
    (tmp_path / "tasks").mkdir()
    facts = [{"question": f"Is it the {n}?", "entity": f"the {n}", "exposure": n}
             for n in (3, 9, 1)]
    for kind, rows in (("wheel", [{"question": "Turn."}]), ("facts", facts)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "tasks" / f"{kind}_test.jsonl").write_text(text)
    assert models.examples(tmp_path) == {
        "a fact": "Is it the 9?",
        "an unknown name": f"Is it {models.NOWHERE}?",
        "the wheel": "Turn.",
    }


def test_the_unknown_name_is_unknown():
    """No animal can have it, whatever the seed of the world."""
    parts = [NAME_PARTS[part] for part in ("onset", "vowel", "coda", "animal")]
    names = {"the " + "".join(chosen) for chosen in itertools.product(*parts)}
    assert len(names) > 1000 and models.NOWHERE not in names


def test_a_model_in_several_files_is_found(tmp_path):
    """As Llama 3.1 8B comes: its index stands in place of model.safetensors."""
    make(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "base" / "model-1-of-1.safetensors")
    assert models.in_run(tmp_path) == []
    (tmp_path / "base" / "model.safetensors.index.json").write_text("{}")
    assert models.in_run(tmp_path) == [tmp_path / "base"]
    found = models.chosen(options(run=tmp_path), ["sft", "base"], "model", "train.py")
    assert found == tmp_path / "base"
