"""The short form of torture.py, and whether it sees what it is there to see: planted faults."""

import os
import random
import re
import shutil

import bpe
from tokens.shards import write_shard
import gpt
import pytest
import torture
from conftest import ROOT

# A stage in small: files that belong together, and one by itself, all made as the real ones do it.
STAGE = '''
import argparse, atexit, shutil, time
from pathlib import Path
from run import command, disk
from run import runs

def main():
    p = argparse.ArgumentParser()
    p.add_argument("--run", type=Path)
    p.add_argument("--letter", default="x")
    args = p.parse_args()
    with runs.locked(args.run, "stage.py"):
        new = args.run / ".new"
        runs.settle(new, args.run)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        write(args.run / "three", args.letter)
        for name in ("one", "two"):
            write(new / name, args.letter)
        runs.publish(new, args.run, "one")
    print("done")

def write(path, letter):
    with disk.whole_file(path) as f:
        for _ in range(20):
            f.write((letter * 1000 + path.name).encode())
            f.flush()

command.run(main)
'''
WORDS = ["stage.py", "--run", torture.RUN]
STAGES = [torture.Stage("stage", [*WORDS, "--letter", "xyz"], WORDS, [])]    # larger than the older

MADE = "        new.mkdir()\n"
GONE = "        [(args.run / name).unlink(missing_ok=True) for name in ('one', 'two')]\n"
SCRATCH = """        scratch = args.run / f"scratch-{time.time_ns()}"
        scratch.touch()
        atexit.register(scratch.unlink)
"""
# name: file, what stands there, what is written in its place, the section that must see it, and
# what it must say
FAULTS = {
    "a file is written in place": (
        "run/disk.py",
        '            with open(tmp, "xb") as f:\n',
        '            tmp = path\n            with open(tmp, "wb") as f:\n',
        "kills", "neither the older product nor the new one|gone before|torn"),
    "the old products go first": (
        "stage.py", MADE, MADE + GONE, "kills", "gone before the new products are whole"),
    "what a killed one left stays": (
        "stage.py", MADE, MADE + SCRATCH, "kills", "left over"),
    "an interrupt is no clean end": (
        "run/command.py",
        "    except KeyboardInterrupt:\n",
        "    except ZeroDivisionError:\n",
        "kills", "traceback"),
    "the old products go before a full disk": (
        "stage.py", MADE, MADE + GONE, "disks", "gone before the new products are whole"),
    "an error names no file": (
        "run/disk.py",
        "            raise OSError(e.errno, e.strerror, str(path)) from None\n",
        "            raise OSError(e.errno, e.strerror) from None\n",
        "disks", "no single clear line"),
    "an error is called a success": (
        "run/command.py",
        "        sys.exit(error_status)\n    sys.exit(status)\n",
        "        sys.exit(0)\n    sys.exit(status)\n",
        "disks", "something else"),
    "the lock does not hold": (
        "run/runs.py",
        "            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
        "two", "one ends with|something else|torn"),
}


def scripts(folder, file=None, old=None, new=None):
    """A folder with runs.py, disk.py, command.py and the small stage, one of them with a fault."""
    (folder / "run").mkdir(parents=True)
    for name in ("run/runs.py", "run/disk.py", "run/command.py"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "stage.py").write_text(STAGE, encoding="utf-8")
    if file:
        text = (folder / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file} has changed: plant the fault elsewhere"
        (folder / file).write_text(text.replace(old, new), encoding="utf-8")
    return folder


def held(result):
    assert not result.breaks, "\n".join(result.breaks)
    return result


def test_the_small_stage_holds(tmp_path, monkeypatch):
    with torture.World(scripts(tmp_path / "code"), stages=STAGES) as world:
        kills = held(torture.section(world, "kills", 0, seed=1, minimum=8))
        assert sum(n for what, n in kills.counts.items() if what.startswith("SIG")) >= 6
        two = held(torture.section(world, "two", 0, seed=1, minimum=5))
        assert two.counts["one refused"] >= 2
        monkeypatch.setattr(torture, "MAY_MOUNT", False)
        disks = held(torture.section(world, "disks", 0, seed=1, minimum=4))
        assert disks.counts["full RLIMIT_FSIZE"] >= 1


def test_full_disks(tmp_path):
    with torture.World(scripts(tmp_path / "code"), stages=STAGES) as world:
        result = held(torture.section(world, "disks", 0, seed=1, minimum=5))
    if "full tmpfs" not in result.counts:
        pytest.skip("no right to mount a file system; a limit to the size of files was tried")
    assert result.counts["full tmpfs"] >= 3


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_seen(tmp_path, name):
    *fault, section, says = FAULTS[name]
    with torture.World(scripts(tmp_path / "code", *fault), stages=STAGES) as world:
        for seed in (18, 2, *range(60)):                # the first two see them all, or most
            result = torture.section(world, section, 0, seed, number=0)
            if any(re.search(says, text.split("\n")[0]) for text in result.breaks):
                assert f"--only {section} --seed {seed} --number 0" in result.breaks[0]
                return
    raise AssertionError(f"not seen in 62 trials: {name}")


def test_a_trial_that_fails_itself_is_no_success():
    result = torture.repeated("kills", lambda rng, number: 1 / 0, 1, 0)
    assert result.tried == 1 and "ZeroDivisionError" in result.breaks[0]


def test_toyweb_in_odd_surroundings(tmp_path):
    """One stage of the real ones; test_data.py, test_train.py and others kill theirs."""
    with torture.World(names=["toyweb"]) as world:
        for name in ("kills", "disks", "two"):
            held(torture.section(world, name, 0, seed=3, minimum=1))
        names = {"a folder that is not UTF-8", "all three closed", "an empty environment",
                 "a read-only run"}
        for number, odd in enumerate(torture.ODD):
            if odd.name in names:
                held(torture.section(world, "odd", 0, number=number))


def test_files_and_texts(tmp_path):
    rng = random.Random(4)
    world = ModelWorld(tmp_path)
    for name, data in torture.model_files(world).items():
        (tmp_path / name).write_bytes(data)
    for name in torture.model_files(world):             # undamaged, all of them are read
        assert torture.isolated(torture.read_model_file, tmp_path, name)[:2] == ("read", None), name
    faults = [fault for i in range(6) for fault in torture.model_trial(world, rng, i + 2).faults]
    faults += [fault for i in range(3) for fault in torture.page_trial(rng, 7 * i, 20_000).faults]
    faults += [fault for i in range(4) for fault in torture.text_trial(world, rng, i).faults]
    assert not faults, "\n".join(faults)


def test_bounds_of_an_isolated_call():
    assert torture.isolated(len, "abc")[:2] == (3, None)
    assert "MemoryError" in torture.isolated(lambda: len(bytearray(1 << 30)), memory_mb=200)[1]
    assert "died" in torture.isolated(os._exit, 3)[1]
    assert "KeyError" in torture.isolated(lambda: {}[1])[1]


def test_a_server(tmp_path):
    result = torture.server_trial(ModelWorld(tmp_path), random.Random(5), 0, size=0.04)
    assert not result.faults, "\n".join(result.faults)
    assert result.counts["malformed"] >= 100


class ModelWorld:
    """The folder of a world as far as these sections look into it, with a model made here."""

    def __init__(self, folder):
        self.folder, self.finished = folder, folder / "main"
        tokenizer = bpe.Tokenizer.train([torture.PROSE, "goat 0123456789"], 300)
        cfg = gpt.Config(tokenizer.n_vocab, 64, 16, 1, 2)
        for main in (folder / "main", folder / "done" / "train"):
            for stage in ("base", "sft"):
                gpt.save(main / stage, gpt.init(cfg, 0), cfg)
                tokenizer.save(main / stage / "tokenizer.json")
            tokenizer.save(main / "tokenizer.json")
            (main / "tokens").mkdir()
            ids = tokenizer.encode_to_numpy(torture.PROSE)
            write_shard(main / "tokens" / "val_000000.bin", ids, tokenizer)
