"""run/tasks.py: the number of a task, phases that tasks share, kills, and the script for Slurm."""

import argparse
import doctest
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from run import tasks
from conftest import ROOT

NAMES = {"read": tasks.ALL, "join": tasks.FIRST, "write": tasks.ALL}
TWO = [tasks.Task(0, 2), tasks.Task(1, 2)]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(tasks, "LONGEST_PAUSE_S", 0.05)


def test_doctests():
    assert doctest.testmod(tasks).failed == 0


# --------------------------------------------------------------------------------- who am I


@pytest.mark.parametrize("text", [
    "", "1", "1/1", "2/2", "-1/2", "0/0", "a/b", "0/2 ", "1/2/3", "٠/٢"
])
def test_what_is_no_task(text):
    with pytest.raises(ValueError, match="a task is I/N"):
        tasks.parse(text)


@pytest.mark.parametrize("environ, want", [
    ({}, None),
    ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}, (1, 4)),
    ({"PMI_RANK": "2", "PMI_SIZE": "3"}, (2, 3)),
    ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "9"}, (3, 8)),
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),         # a batch script, not srun's
])
def test_mpirun_and_srun_tell_the_number(environ, want):
    assert tasks.started(environ) == want
    assert tasks.chosen(None, environ) == (want or tasks.ALONE)
    assert tasks.chosen(tasks.Task(5, 6), environ) == (5, 6)    # an option counts more


def test_shares_are_all_of_it_once():
    for n in (1, 2, 3, 7):
        shares = [tasks.Task(i, n).own(list(range(5))) for i in range(n)]
        assert sorted(sum(shares, [])) == list(range(5))
    assert tasks.Task(1, 2).own(list("abcde")) == ["b", "d"]


def test_tasks_on_one_machine_share_its_cpus():
    alone = tasks.workers_here({})
    assert alone >= 1
    one_of_many = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": str(100 * alone)}
    assert tasks.workers_here(one_of_many) == 1
    assert tasks.workers_here({**one_of_many, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}) == alone


def options(*argv):
    parser = argparse.ArgumentParser()
    tasks.add_options(parser, NAMES)
    args = parser.parse_args(argv)
    tasks.check_options(parser, args, NAMES)
    return args


@pytest.mark.parametrize("argv, says", [
    ("--task 2/2", "--task: 2/2: a task is I/N"),
    ("--slurm 0", "--slurm 0: from 1 to 1000"),
    ("--slurm 1001", "--slurm 1001: from 1 to 1000"),
    ("--slurm 2 --task 0/2", "--task 0/2: would have no effect"),
    ("--slurm 2 --phase read", "--phase read: would have no effect"),
    ("--task 1/2 --phase join", "--task 1/2: has no part in --phase join"),
])
def test_options_that_do_not_go_together(argv, says, capsys):
    with pytest.raises(SystemExit):
        options(*argv.split())
    assert says in capsys.readouterr().err


def test_options():
    assert options().task is None and options("--task", "1/2").task == (1, 2)
    assert options("--task", "1/2", "--phase", "write").phase == "write"


# ---------------------------------------------------------------------------------- the phases


def phases(folder, task, only=None, **made_of):
    return tasks.Phases(folder, task, NAMES, made_of, only)


def do_all(folder, task, log, **more):
    """All phases of a task; each adds (phase, task's number) to the log."""
    work = phases(folder, task, **more)
    for name in NAMES:
        work.run(name, lambda: log.append((name, task.index)))


def test_one_task_takes_the_phases_in_order_and_each_once(tmp_path, capsys):
    log = []
    do_all(tmp_path / "w", tasks.ALONE, log)
    do_all(tmp_path / "w", tasks.ALONE, log)
    assert log == [("read", 0), ("join", 0), ("write", 0)]
    assert capsys.readouterr().err == ""


def test_a_phase_begins_when_all_have_completed_the_one_before(tmp_path, capsys):
    log, threads = [], []
    for task in (*TWO[::-1], tasks.Task(0, 2)):
        threads.append(threading.Thread(target=do_all, args=(tmp_path / "w", task, log)))
    for thread in threads[:2]:
        thread.start()
        time.sleep(0.1)
    for thread in threads[:2]:
        thread.join(20)
    assert sorted(log[:2]) == [("read", 0), ("read", 1)]
    assert log[2] == ("join", 0)
    assert sorted(log[3:]) == [("write", 0), ("write", 1)]
    assert "task 1/2: waits for task 0/2 (join)" in capsys.readouterr().err
    threads[2].start()                      # a task that is started again has nothing to do
    threads[2].join(20)
    assert len(log) == 5


def test_a_phase_that_failed_is_done_again(tmp_path):
    work, calls = phases(tmp_path / "w", TWO[1]), []

    def fails():
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        work.run("read", fails)
    assert work.missing("read") == [0, 1]
    assert work.run("read", fails) and work.missing("read") == [0]
    assert not work.run("read", fails) and len(calls) == 2


def test_one_phase_alone_does_not_wait(tmp_path):
    log = []
    phases(tmp_path / "w", TWO[0], "read").run("read", lambda: log.append("read"))
    with pytest.raises(ValueError, match="--phase join: comes after --phase read, which task 1/2"):
        do_all(tmp_path / "w", TWO[0], log, only="join")
    do_all(tmp_path / "w", TWO[1], log, only="read")
    do_all(tmp_path / "w", TWO[0], log, only="join")
    do_all(tmp_path / "w", TWO[1], log, only="join")       # is not its own
    assert log == ["read", ("read", 1), ("join", 0)]


def test_another_number_of_tasks_is_refused(tmp_path):
    folder = phases(tmp_path / "w", TWO[0]).folder
    for task in (tasks.ALONE, tasks.Task(0, 3)):
        with pytest.raises(ValueError, match=f"begun by 2 tasks, .* rm -r {folder}"):
            phases(tmp_path / "w", task)
    phases(tmp_path / "w", TWO[1])
    phases(tmp_path / "v", tasks.ALONE)
    with pytest.raises(ValueError, match="begun by 1 tasks, and this is task 0/2"):
        phases(tmp_path / "v", TWO[0])


def test_work_that_is_complete_is_done_for_any_number_of_tasks_but_one(tmp_path):
    log = []
    for _ in range(2):
        for only in NAMES:
            for task in TWO:
                do_all(tmp_path / "w", task, log, only=only)
        phases(tmp_path / "w", TWO[0]).finish()
    assert len(log) == 5
    do_all(tmp_path / "w", tasks.Task(1, 3), log)
    assert len(log) == 5
    do_all(tmp_path / "w", tasks.ALONE, log)
    assert len(log) == 8


def test_what_is_made_of_something_else_is_begun_anew(tmp_path):
    log, place = [], tmp_path / "w"
    first = phases(place, tasks.ALONE, seed=1)
    first.run("read", lambda: (first.folder / "half").write_text("made with seed 1"))
    do_all(place, TWO[0], log, only="read", seed=2)
    (place / "junk").write_text("of another program")
    do_all(place, tasks.ALONE, log, seed=3)
    assert log == [("read", 0)] + [(name, 0) for name in NAMES]
    assert not first.folder.exists() and not (place / "junk").exists()
    do_all(place, TWO[1], log, only="read", seed=2)         # not cleared away by one task alone
    third = phases(place, tasks.ALONE, seed=3)
    third.finish()
    assert [tasks.begun_by(path) for path in place.iterdir()] == [2]
    phases(tmp_path / "v", tasks.ALONE).finish()
    assert not (tmp_path / "v").exists()


def test_finish_keeps_the_marks_of_several_tasks(tmp_path):
    place = tmp_path / "w"
    other, work = phases(place, TWO[0], seed=1), phases(place, TWO[0], seed=2)
    (work.folder / "texts").mkdir()
    (work.folder / "texts" / "0").write_text("much")
    work.run("read", lambda: None)
    work.finish()
    assert not other.folder.exists()
    found = [path.relative_to(work.folder).as_posix() for path in work.folder.rglob("*")]
    assert sorted(found) == ["done", "done/read.0-of-2", "tasks.json"]


def test_two_numbers_of_tasks_at_once_are_noticed(tmp_path):
    """The second one saw no record yet, and has just replaced that of the first."""
    work = phases(tmp_path / "w", TWO[0])
    other = json.loads(work.record.read_text()) | {"tasks": 3}
    work.record.write_text(json.dumps(other))
    with pytest.raises(ValueError, match="begun by 3 tasks"):
        work.run("read", lambda: pytest.fail("it goes on"))


def test_a_record_that_is_damaged_or_gone(tmp_path):
    log = []
    do_all(tmp_path / "w", TWO[0], log, only="read")
    work = phases(tmp_path / "w", TWO[0])
    work.record.write_text('{"tas')
    do_all(tmp_path / "w", TWO[1], log, only="read")
    assert work.missing("read") == []
    work.record.unlink()
    with pytest.raises(ValueError, match="was removed while task 0/2 was at work"):
        work.check_folder()


def test_times_of_files_decide_nothing(tmp_path):
    """A clock that differs by an hour, or a copy that has lost all times."""
    log = []
    do_all(tmp_path / "w", tasks.Task(0, 1), log)
    for shift_s in (-3600, 3600):
        for path in (tmp_path / "w").rglob("*"):
            os.utime(path, (time.time() + shift_s, time.time() + shift_s))
        do_all(tmp_path / "w", tasks.Task(0, 1), log)
    assert len(log) == 3


def test_a_task_is_kept_out_of_its_own_work_only(tmp_path):
    with tasks.locked(tmp_path, "x.py", TWO[0]), tasks.locked(tmp_path, "x.py", TWO[1]):
        with pytest.raises(ValueError, match="another x.py-task-1-of-2 is writing there"):
            with tasks.locked(tmp_path, "x.py", TWO[1]):
                pass
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------- processes, kills, the script

COMMAND = """
import sys, time
from pathlib import Path
from run import disk, tasks

folder, argv = Path(sys.argv[1]), sys.argv[2:]
args = dict(zip(argv[::2], argv[1::2]))
task = tasks.chosen(tasks.parse(args["--task"]) if "--task" in args else None)
names = {"read": tasks.ALL, "join": tasks.FIRST}
numbers = list(range(40))

def read():
    for n in task.own(numbers):
        path = phases.folder / f"{n}.txt"
        if not path.exists():
            time.sleep(0.05)
            disk.write_text(path, f"{n * n}\\n")

def join():
    texts = [(phases.folder / f"{n}.txt").read_text() for n in numbers]
    disk.write_text(folder / "squares.txt", "".join(texts))

with tasks.locked(folder, "squares", task):
    phases = tasks.Phases(folder / ".new", task, names, {}, args.get("--phase"))
    phases.run("read", read)
    phases.run("join", join)
"""
SQUARES = "".join(f"{n * n}\n" for n in range(40))


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The words of a command that writes squares into the folder "f"."""
    (tmp_path / "squares.py").write_text(COMMAND)
    (tmp_path / "f").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in (*tasks.STARTERS, "SLURM_STEP_NUM_TASKS", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    return [sys.executable, str(tmp_path / "squares.py"), str(tmp_path / "f")]


def test_two_tasks_of_which_one_is_killed(tmp_path, command):
    start = lambda i: subprocess.Popen([*command, "--task", f"{i}/2"], stderr=subprocess.PIPE)
    other, r = start(0), random.Random(0)
    for _ in range(3):
        killed = start(1)
        time.sleep(r.uniform(0, 0.3))
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    assert other.poll() is None and not (tmp_path / "f" / "squares.txt").exists()
    again = start(1)
    assert again.wait(20) == other.wait(20) == 0
    assert (tmp_path / "f" / "squares.txt").read_text() == SQUARES
    other.communicate()
    again.communicate()


def test_a_task_begins_while_another_ends(tmp_path, monkeypatch):
    """The last one to end removes the folder of the locks, just before a lock is made there."""
    resolve = Path.resolve

    def late(path, *_):
        monkeypatch.setattr(Path, "resolve", resolve)
        path.rmdir()
        return resolve(path)

    monkeypatch.setattr(Path, "resolve", late)
    with tasks.locked(tmp_path, "x.py", tasks.Task(0, 2)):
        assert len(list((tmp_path / ".tasks").iterdir())) == 1
    assert not (tmp_path / ".tasks").exists()


SLURM = {
    "sbatch": """\
        echo "$@" >>calls
        for word in "$@"; do
            case $word in
                --array=0-*) last=${word#--array=0-} ;;
                --export=ALL,*) export "${word#--export=ALL,}" ;;
            esac
        done
        for i in $(seq 0 $last); do
            export SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$i SLURM_CPUS_PER_TASK=8
            bash "$word" >&2 || exit 1
        done
        echo 7
    """,
    "srun": """\
        [ "$1 $2 $3 $4" = "-n 1 -c 8" ] || exit 1
        shift 4
        SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 exec "$@"
    """,
    "scontrol": 'echo "$@" >>calls',
    "sleep": "exit",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A stand-in for Slurm that does its jobs at once; returns the file that notes its calls."""
    for name, text in SLURM.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/bash\n" + textwrap.dedent(text))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "calls"


def test_the_script_for_slurm(tmp_path, command, slurm):
    names = {"read": tasks.ALL, "join": tasks.FIRST}
    (tmp_path / "job").write_text(tasks.slurm_script(command, 3, names, tmp_path / "log"))
    done = subprocess.run(["bash", "job"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "f" / "squares.txt").read_text() == SQUARES
    read, join = slurm.read_text().splitlines()
    assert read == "--parsable --array=0-2 --export=ALL,PHASE=read job"
    assert join == "--parsable --array=0-0 --dependency=afterok:7 --export=ALL,PHASE=join job"
    assert (tmp_path / "log").is_dir()


def test_the_script_goes_back_into_the_queue_before_the_limit(tmp_path, command, slurm):
    script = tasks.slurm_script(["sleeps"], 3, {"read": tasks.ALL}, tmp_path / "log")
    (tmp_path / "job").write_text(script)
    (tmp_path / "bin" / "sleeps").write_text(f"#!/bin/bash\nkill -USR1 $PPID\nread <> <(:)")
    (tmp_path / "bin" / "sleeps").chmod(0o755)
    environ = {**os.environ, "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2",
               "SLURM_CPUS_PER_TASK": "8", "PHASE": "read"}
    job = subprocess.Popen(["bash", "job"], env=environ, start_new_session=True)
    try:
        job.wait(20)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
    assert slurm.read_text() == "requeue 5_2\n"


def test_words_of_a_command_without_slurm():
    words = ["x.py", "--run", "r", "--slurm", "8", "--order", "paper"]
    assert tasks.without_slurm(words) == ["x.py", "--run", "r", "--order", "paper"]
    assert tasks.without_slurm(["--slurm=8", "a"]) == ["a"]
    assert tasks.without_slurm(["--slu", "8", "a"]) == ["a"]
