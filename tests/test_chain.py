"""chat/chain.py: the stages of a run in order, how far each is, and what its models have read."""

import json
import os
import signal
import subprocess
import sys

import pytest

from chat import chain
from conftest import ROOT
from run import runs
from web import toyweb

SAID = {"messages": [{"role": "user", "content": "Who?"}]}
SYSTEM = {"messages": [{"role": "system", "content": "a lamp"}]}


def states(run):
    return {stage["name"]: stage["state"] for stage in chain.stages(run)}


def test_a_run_while_make_is_at_work(tmp_path):
    """Its stages stand in the order of the chain, each with a sentence, from the first lock on."""
    (tmp_path / "log").mkdir()
    assert states(tmp_path) == {}
    names = ["world", "documents", "tokenizer", "tokens", "base", "sft", "rl", "rl_random"]
    with runs.locked(tmp_path / "log", "make of 1-toyweb"):
        assert list(states(tmp_path)) == names
        assert states(tmp_path)["world"] == "now" and states(tmp_path)["base"] == "later"
    (tmp_path / "log/1-toyweb.json").write_text("{}")
    assert states(tmp_path)["world"] == "done"
    with runs.locked(tmp_path / "base", "training"):
        (tmp_path / "base/log.jsonl").write_text("")
        assert states(tmp_path)["base"] == "now"
        found = chain.stages(tmp_path)
    assert [stage["name"] for stage in found if stage["log"]] == ["base"]
    assert all(stage["about"].endswith(".") for stage in found)


def test_stages_in_the_order_of_the_chain(tmp_path):
    """Whatever was written last; the reader's own stages come at the end."""
    for i, name in enumerate(("rl_random", "mine", "sft", "rl", "base")):
        toyweb.write_jsonl(tmp_path / name / "log.jsonl", [{"step": 1}])
        os.utime(tmp_path / name / "log.jsonl", (i, i))
    assert list(chain.logs_of(tmp_path)) == ["base", "sft", "rl", "rl_random", "mine"]
    (tmp_path / "sft/model.safetensors").write_bytes(b"")
    assert states(tmp_path) == {"base": "stopped", "sft": "done", "rl": "stopped",
                                "rl_random": "stopped", "mine": "stopped"}
    assert chain.stages(tmp_path)[-1]["about"] == chain.OTHER
    assert set(chain.TRAINED) == {stage.name for stage in chain.STAGES[4:]}


TRAIN = """import signal, sys, time, train
signal.signal(signal.SIGINT, signal.default_int_handler)    # a process of make's other half is deaf
progress = train.report.print_progress
def wait(entry, *rest):
    progress(entry, *rest)
    if entry["step"] == 5:
        print("five", flush=True)
        time.sleep(600)
train.report.print_progress = wait
train.main(sys.argv[1:])
"""


def train(run, *more):
    """A training that waits behind its fifth step; its checkpoint is of the fourth."""
    (run / "input.txt").write_text("the lamp is lit, said the goat. " * 400)
    command = ["--preset", "shakespeare", "--data", run / "input.txt", "--run", run,
               "--steps", "9", "--save-every", "4", "--batch", "2", *more]
    process = subprocess.Popen([sys.executable, "-c", TRAIN, *map(str, command)], cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout.readline() == "five\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_training_that_is_stopped(tmp_path, number):
    """It is at work as long as its process lives, and then says how far it came."""
    process = train(tmp_path)
    try:
        (base,) = chain.stages(tmp_path)
        assert base["state"] == "now" and "stopped" not in base
    finally:
        process.send_signal(number)
        process.wait()
        process.stdout.close()
    left_behind = (tmp_path / "base/.training.lock").exists()
    assert left_behind == (number == signal.SIGKILL)
    with open(tmp_path / "base/log.jsonl", "ab") as log:
        log.write(b'{"step": 6, "los')
    (base,) = chain.stages(tmp_path)
    assert base["state"] == "stopped" and base["made"]
    assert base["stopped"] == {"step": 5, "steps": 9, "saved": 4}
    (tmp_path / "base/trainer.safetensors").unlink()
    assert chain.stopped_at(tmp_path / "base") == {"step": 5, "steps": None, "saved": None}


def test_a_stage_of_make_that_is_killed(tmp_path):
    """Only the file of its lock is left."""
    (tmp_path / "log").mkdir()
    (tmp_path / "log/.make of 2-data.lock").touch()
    documents = chain.stages(tmp_path)[0]
    assert documents["name"] == "documents" and documents["state"] == "stopped"
    assert documents["stopped"] == {"step": None, "steps": None, "saved": None}


def test_what_is_a_run(tmp_path):
    assert not chain.is_run(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "base").mkdir()
    assert not chain.is_run(tmp_path)
    (tmp_path / ".toyweb.py.lock").touch()
    assert chain.is_run(tmp_path)
    (tmp_path / ".toyweb.py.lock").unlink()
    (tmp_path / "crawl").mkdir()
    assert chain.is_run(tmp_path)
    (tmp_path / "crawl").rmdir()
    (tmp_path / "base/log.jsonl").touch()
    assert chain.is_run(tmp_path)


@pytest.mark.parametrize("rows, found", [
    ([SAID] * 3, (3, False)), ([SAID, SYSTEM], (2, True)), ([], (0, False))])
def test_conversations(tmp_path, rows, found):
    """How many, and whether one has a message of the system; also after the file has changed."""
    assert chain.conversations(tmp_path) == (0, None)
    toyweb.write_jsonl(tmp_path / "chat/train.jsonl", rows)
    assert chain.conversations(tmp_path) == found
    toyweb.write_jsonl(tmp_path / "chat/tools.jsonl", [SYSTEM])
    assert chain.conversations(tmp_path) == (found[0], True)


def test_conversations_that_change(tmp_path):
    """A file that make has written anew is counted again."""
    path = tmp_path / "chat/train.jsonl"
    for n in (3, 5):
        toyweb.write_jsonl(path, [SAID] * n)
        assert chain.conversations(tmp_path) == (n, False)


def test_what_was_read(tmp_path):
    """Only of models that are there is it said what they have read."""
    assert chain.what_was_read(tmp_path, ["base", "sft"]) == []
    stages = {"url": {"documents_out": 12_000}, "pii": {"documents_out": 9_000}}
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/report.json").write_text(json.dumps({"stages": stages}))
    toyweb.write_jsonl(tmp_path / "chat/train.jsonl", [SAID] * 1_000)
    assert chain.what_was_read(tmp_path, []) == []
    (base,) = chain.what_was_read(tmp_path, ["base"])
    assert "9,000 documents" in base and "invented" not in base
    assert len(chain.what_was_read(tmp_path, ["sft"])) == 2         # of --model sft
    _, sft = chain.what_was_read(tmp_path, ["base", "sft"])
    assert "1,000 conversations" in sft and "game" not in sft
    toyweb.write_jsonl(tmp_path / "tasks/wheel_test.jsonl", [{"question": "Turn."}])
    base, sft = chain.what_was_read(tmp_path, ["base", "sft"])
    assert "invented" in base and "game" in sft
