"""run/runs.py: files that belong together after a kill, locks, and stages that are finished."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from run import disk, runs
from conftest import ROOT


class PowerLoss(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


# ----------------------------------------------------------------------- files that belong together

OLD = {"a": "old", "b": "old", "gone": "old", "sign": "old"}
FRESH = {"a": "new", "b": "new", "deep/c": "new", "sign": "new"}


def fill(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder):
    paths = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_text() for p in paths}


@pytest.mark.parametrize("survives", range(12))
def test_several_files_are_old_or_new_wherever_the_power_fails(tmp_path, monkeypatch, survives):
    """The power fails after so many changes of the folder.

    Readers go by the sign. Where it is there, they never see old files beside new ones.
    """
    folder, new, left = tmp_path / "f", tmp_path / "f/.new", [survives]
    fill(folder, OLD)
    fill(new, FRESH)

    def change(function):
        def limited(*args, **kwargs):
            if not left[0]:
                raise PowerLoss
            left[0] -= 1
            return function(*args, **kwargs)
        return limited

    with monkeypatch.context() as m:
        for module, name in ((os, "replace"), (os, "unlink"), (shutil, "rmtree")):
            m.setattr(module, name, change(getattr(module, name)))
        m.setattr(type(folder), "unlink", change(type(folder).unlink))
        try:
            runs.publish(new, folder, "sign", ["gone"])
        except PowerLoss:
            pass
    seen = {k: v for k, v in read(folder).items() if not k.startswith(".new/")}
    if "sign" in seen:
        assert seen in (OLD, FRESH)
    if seen not in (OLD, FRESH):
        with pytest.raises(ValueError, match="when that was killed; finish it with: again"):
            runs.check_settled(new, "again")
    if (new / runs.MOVES).exists():                     # the command runs again
        runs.settle(new, folder)
        assert read(folder) == FRESH
    runs.check_settled(new, "again")


def test_the_test_above_reaches_the_end(tmp_path):
    """With twelve changes the whole of publish() is done, so every place before was tried."""
    fill(tmp_path / "f", OLD)
    fill(tmp_path / "f/.new", FRESH)
    runs.publish(tmp_path / "f/.new", tmp_path / "f", "sign", ["gone"])
    assert read(tmp_path / "f") == FRESH


# ------------------------------------------------------------------------------------------- locks

HOLD = """import sys
from run import runs
with runs.locked(sys.argv[1], "train.py"):
    print("held", flush=True)
    sys.stdin.read()
"""
FORK = """import os, sys, time
from run import runs
with runs.locked(sys.argv[1], "x"):
    pid = os.fork()
    if not pid:
        os.close(1)
        time.sleep(60)
        os._exit(0)
    print(pid, flush=True)
    os.kill(os.getpid(), 9)
"""


def hold(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_holds_against_other_processes_and_this_one_until_its_holder_is_dead(tmp_path):
    assert not runs.is_locked(tmp_path, "train.py")
    other = hold(tmp_path)
    assert runs.is_locked(tmp_path, "train.py") and not runs.is_locked(tmp_path, "bpe.py")
    with pytest.raises(ValueError, match="another train.py is writing there; wait for its end"):
        with runs.locked(tmp_path, "train.py"):
            pass
    with runs.locked(tmp_path, "bpe.py"):               # another stage of the same folder
        pass
    assert runs.is_locked(tmp_path, "train.py")         # to ask has not freed it
    other.kill()
    other.wait()
    assert runs.lock_of(tmp_path, "train.py").exists() and not runs.is_locked(tmp_path, "train.py")
    with runs.locked(tmp_path, "train.py"):             # whatever the dead one left
        assert runs.is_locked(tmp_path, "train.py")     # by this process itself
        second = subprocess.run([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, text=True,
                                stdin=subprocess.DEVNULL, capture_output=True)
        assert "another train.py is writing there" in second.stderr
        with pytest.raises(ValueError, match="another train.py is writing there"):
            with runs.locked(tmp_path / "." / "x" / "..", "train.py"):
                pass
    assert not [p for p in tmp_path.iterdir() if p.is_file()]


def test_the_lock_is_not_held_by_children_that_outlive_their_parent(tmp_path):
    done = subprocess.run([sys.executable, "-c", FORK, str(tmp_path)], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        with runs.locked(tmp_path, "x"):
            pass
    finally:
        os.kill(int(done.stdout), signal.SIGKILL)


# -------------------------------------------------------------------------------------------- time


def test_the_seconds_of_killed_processes_count():
    runs.start_clock()
    runs.add_earlier(100)
    assert 100 <= runs.seconds_spent() < 160
    assert len(runs.row("base", "3,891,200 tokens read", "758,912 parameters")) == 78
    runs.start_clock()
    assert runs.seconds_spent() < 60


def test_the_rows_stand_below_the_words_of_the_makefile():
    head = re.search(r"printf '([^']+)' stage from to seconds", (ROOT / "Makefile").read_text())[1]
    widths = [int(width) for width in re.findall(r"%-?(\d+)s", head)]
    assert sum(widths) + len(widths) - 1 == len(runs.row("", "", "")) == 78


# ------------------------------------------------------------------------------------------ stages

SCRIPT = """import sys
from pathlib import Path
run = Path(sys.argv[sys.argv.index("--run") + 1])
with open(run / "times", "a") as f:
    f.write("x")
text = (run / "in.txt").read_text()
if "fail" in text:
    sys.exit(3)
(run / "out.txt").write_text(text.upper())
print("the row of", text)
"""


@pytest.fixture
def run(tmp_path):
    run = tmp_path / "a run"                            # RUN of make may have no space; this may
    run.mkdir()
    (run / "in.txt").write_text("one")
    (tmp_path / "script.py").write_text(SCRIPT)
    return run


def stage(run, *more):
    words = [str(run.parent / "script.py"), "--run", "{run}", *more]
    return runs.stage(run, "1-x", ["in.txt"], ["out.txt"], words)


BAD_SIGN = '{"command": 1, "made_of": {"in.txt": 3}, "makes": {}}'


def times(run):
    return len((run / "times").read_text())


def test_a_finished_stage_is_finished_wherever_it_was_copied(run, tmp_path, capfdbinary):
    assert stage(run) == 0 and times(run) == 1
    assert (run / "log/1-x.txt").read_text() == "the row of one\n"
    assert stage(run) == 0 and times(run) == 1
    copy = tmp_path / "elsewhere"
    shutil.copytree(run, copy, copy_function=shutil.copyfile)
    for path in copy.rglob("*"):                        # products look older than their sources
        os.utime(path, (1, 1) if path.name == "out.txt" else (2, 2))
    assert stage(copy) == 0 and times(copy) == 1


@pytest.mark.parametrize("spoil", [
    lambda run: (run / "in.txt").write_text("two"),
    lambda run: (run / "out.txt").unlink(),
    lambda run: (run / "log/1-x.txt").unlink(),
    lambda run: (run / "log/1-x.json").unlink(),
    lambda run: (run / "log/1-x.json").write_text("{"),
    lambda run: (run / "log/1-x.json").write_text("[]"),
    lambda run: (run / "log/1-x.json").write_text(BAD_SIGN),
])
def test_a_stage_is_made_again_when_something_is_missing_or_other(run, spoil, capfdbinary):
    stage(run)
    spoil(run)
    assert stage(run) == 0 and times(run) == 2
    assert (run / "out.txt").read_text() == (run / "in.txt").read_text().upper()


def test_equal_size_and_time_do_not_hide_other_contents_that_were_written_later(run, capfdbinary):
    stage(run)
    before = (run / "in.txt").stat()
    (run / "in.txt").write_text("two")                  # as long as "one"
    os.utime(run / "in.txt", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert stage(run) == 0 and times(run) == 2


def test_other_settings_make_a_stage_again(run, capfdbinary):
    stage(run)
    assert stage(run, "--seed", "1") == 0 and times(run) == 2


def test_a_stage_that_fails_has_no_sign_and_keeps_what_was_printed_before(run, capfdbinary):
    stage(run)
    (run / "in.txt").write_text("fail")
    assert stage(run) == 3
    assert not (run / "log/1-x.json").exists()
    assert (run / "log/1-x.txt").read_text() == "the row of one\n"
    assert stage(run) == 3                              # and is not finished now
    (run / "in.txt").write_text("one")
    assert stage(run) == 0 and times(run) == 4


def test_a_stage_says_what_it_is_about(run, capfd):
    """One line without options; without such a line the whole command."""
    words = [str(run.parent / "script.py"), "--run", "{run}"]
    for about, said in (("makes out of in", f"makes out of in ({words[0]})"),
                        (None, f"{words[0]} --run '{run}'")):
        (run / "log/1-x.json").unlink(missing_ok=True)
        assert runs.stage(run, "1-x", ["in.txt"], ["out.txt"], words, about=about) == 0
        assert capfd.readouterr().err.splitlines()[0] == f"1-x: {said}"


def test_a_stage_that_makes_nothing_is_an_error(run, capfdbinary):
    with pytest.raises(ValueError, match="script.py ended well but did not make other.txt"):
        runs.stage(run, "1-x", [], ["other.txt"], [str(run.parent / "script.py"), "--run", "{run}"])
    assert not (run / "log/1-x.json").exists()


def test_a_stage_killed_at_any_moment_is_made_again(run, tmp_path):
    slow = SCRIPT.replace('print(', 'import time; time.sleep(0.3); print(')
    (tmp_path / "script.py").write_text(slow)
    words = [sys.executable, "-m", "run.runs", "--run", str(run), "--name", "1-x",
             "--made-of", "in.txt", "--makes", "out.txt",
             "--", str(tmp_path / "script.py"), "--run", "{run}"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    while not (run / "out.txt").exists():               # the product is there, the row is not
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "log/1-x.txt").exists()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "the row of one\n" and times(run) == 2
    assert (run / "log/1-x.txt").read_text() == "the row of one\n"
    assert sorted(p.name for p in (run / "log").iterdir()) == ["1-x.json", "1-x.txt"]
