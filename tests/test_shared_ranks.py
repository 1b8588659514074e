"""model/ranks.py and model/shared_ranks.py: what ranks tell each other, and how they end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from model import joining, ranks, shared_ranks

PROGRAM = [sys.executable, "tests/rank_programs.py"]


def run(*words, timeout=60, **variables):
    """(exit status, standard output, standard error, seconds) of a program of rank_programs.py."""
    started = time.monotonic()
    done = subprocess.run(
        [*PROGRAM, *map(str, words)], cwd=ROOT, env={**os.environ, **variables},
        capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr, time.monotonic() - started


def start(*words, **variables):
    """A program that goes on while the test does."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, words)], cwd=ROOT, env={**os.environ, **variables},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def as_torchrun(rank, size, port):
    """The variables that torchrun gives to a process."""
    numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    return {"MASTER_PORT": f"test-{os.getpid()}-{port}"} | {k: str(v) for k, v in numbers.items()}


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_collective_beside_numpy(n):
    """The program compares bit for bit. Chunks of 64 bytes cut every array."""
    status, out, err, _ = run("collectives", "--ranks", n)
    assert status == 0, err
    assert json.loads(out)["size"] == n and not err


def test_the_size_of_chunks_changes_no_bit():
    sums = {json.loads(run("collectives", "--ranks", 3, "--chunk", c)[1])["sums"]
            for c in (24, 1 << 20)}
    assert len(sums) == 1


@pytest.mark.parametrize("where", [
    "reduce_scatter 1", "all_gather 2", "broadcast 1", "sum_in_order 0", "say 2", "say 0",
    "reduce_scatter_in_memory 1", "all_gather_in_memory 0"])
def test_a_rank_is_killed_in_a_collective(where):
    """All others end within ten seconds and name it. Rank 0 itself may be the one."""
    dead = int(where.split()[1])
    status, out, err, _ = run("kill_at", where, "--ranks", 3)
    assert time.monotonic() - float(out) < 10 and status == (-9 if dead == 0 else 1)
    said = err.split("\n")
    for rank in {0, 1, 2} - {dead}:
        line, = [line for line in said if line.startswith(f"rank {rank}: ")]
        assert f"rank {dead} (pid " in line and "has died" in line
        assert "the same command goes on from the last checkpoint" in line
    if dead:
        assert "exit code -9" in err


def test_a_rank_is_killed_while_others_compute():
    """A process that the dead rank had forked still lives, and hides nothing."""
    status, _, err, seconds = run("computing", "--ranks", 3)
    assert status == 1 and seconds < 10
    assert err.count("rank 1 (pid ") == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_rank_is_told_to_all(rank):
    status, _, err, seconds = run("failing", rank, "--ranks", 3)
    assert status == 1 and seconds < 10
    assert err.count("this rank has no luck") == 3
    own = "rank_programs.py: error: this" if rank == 0 else "rank 1: error: this"
    assert own in err and f"rank {rank} (pid " in err and "Traceback" not in err


def test_an_error_that_nobody_foresaw_has_its_traceback():
    status, _, err, _ = run("foreseen_by_none", "--ranks", 2)
    assert status == 1 and "IndexError: pop from empty list" in err and "[].pop()" in err


def test_ranks_at_different_collectives():
    status, _, err, seconds = run("apart", "--ranks", 2)
    assert status == 1 and seconds < 10
    assert "reduce_scatter of 1 arrays, 32 bytes of float64" in err
    assert "reduce_scatter of 1 arrays, 40 bytes of float64" in err


def test_nobody_comes():
    status, _, err, _ = run("waiting", 0, LONGHAND_RANKS_WAIT_S="0.5", **as_torchrun(0, 3, "a"))
    assert status == 1 and "nobody came, 1, 2 did not" in err and "MASTER_PORT" in err
    status, _, err, _ = run("waiting", 0, LONGHAND_RANKS_WAIT_S="0.5", **as_torchrun(2, 3, "a"))
    assert status == 1 and "rank 2 of 3 waited 0.5 s for rank 0 at " in err


def test_one_does_not_come():
    first = start("waiting", 0, LONGHAND_RANKS_WAIT_S="1.5", **as_torchrun(0, 3, "b"))
    second = start("waiting", 0, **as_torchrun(1, 3, "b"))
    for process in (first, second):
        _, err = process.communicate(timeout=20)
        assert process.returncode == 1
        assert f"rank 1 (pid {second.pid}) came, 2 did not" in err


def test_a_rank_that_ends_before_it_comes(monkeypatch):
    """Rank 0 does not wait for the time-out."""
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    place = f"/tmp/ranks-{os.getpid()}"
    with pytest.raises(ChildProcessError, match=r"rank 1 \(pid .*before it came \(exit code 3\)"):
        shared_ranks.host(2, place, {1: child})
    os.unlink(place)


def test_a_rank_is_started_twice():
    """Before the others have come and after: it is refused by name, and the run goes on."""
    early = start("waiting", 3, **as_torchrun(1, 3, "c"))
    first = start("waiting", 3, **as_torchrun(0, 3, "c"))
    time.sleep(1.5)                             # the place is there now
    status, _, err, _ = run("waiting", 0, **as_torchrun(1, 3, "c"))
    assert status == 1
    assert f"rank 1 is there already, as process {early.pid}" in err
    status, _, err, _ = run("waiting", 0, **as_torchrun(2, 4, "c"))
    assert status == 1 and "says that there are 4 ranks, rank 0 that there are 3" in err
    last = start("waiting", 3, **as_torchrun(2, 3, "c"))
    assert first.stdout.readline() == "all have come\n"
    for rank in (0, 2):
        status, _, err, _ = run("waiting", 0, **as_torchrun(rank, 3, "c"))
        assert status == 1 and f"rank {rank} is there already" in err
    for process in (early, first, last):
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0 and not err


def test_a_place_that_a_killed_run_left_behind():
    first = start("waiting", 60, **as_torchrun(0, 2, "d"))
    second = start("waiting", 60, **as_torchrun(1, 2, "d"))
    first.stdout.readline()
    first.kill()
    assert "rank 0 (pid" in second.communicate(timeout=10)[1]
    first.communicate()
    again = start("waiting", 0, **as_torchrun(0, 2, "d"))
    assert run("waiting", 0, **as_torchrun(1, 2, "d"))[0] == 0
    assert again.wait(10) == 0
    again.communicate()


def test_a_rank_ends_whose_standard_error_nobody_reads():
    """As of `python train.py --ranks 2 2>&1 | head`."""
    first = start("waiting", 60, **as_torchrun(0, 2, "e"))
    second = start("waiting", 60, **as_torchrun(1, 2, "e"))
    first.stdout.readline()
    second.stderr.close()
    first.kill()
    assert second.wait(10) == 1
    second.stdout.close()
    first.communicate()


def test_a_process_that_ends_before_it_is_refused():
    """Rank 0 cannot answer it, and goes on to watch the others."""
    first = start("waiting", 60, **as_torchrun(0, 2, "f"))
    second = start("waiting", 60, **as_torchrun(1, 2, "f"))
    first.stdout.readline()
    os.kill(first.pid, signal.SIGSTOP)
    with socket.socket(socket.AF_UNIX) as late, socket.socket(socket.AF_UNIX) as life:
        late.connect(joining.place_of(as_torchrun(0, 2, "f")["MASTER_PORT"]))
        hello = json.dumps({"rank": 1, "size": 2, "pid": 5}).encode()
        socket.send_fds(late, [hello], [life.fileno()])
    os.kill(first.pid, signal.SIGCONT)
    time.sleep(0.5)
    second.kill()
    second.communicate()
    until = time.monotonic() + 10
    while first.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    status = first.poll()
    first.kill()
    assert status == 1 and f"rank 1 (pid {second.pid}) has died" in first.communicate()[1]


def test_a_temporary_folder_with_too_long_a_name(tmp_path):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    status, _, err, _ = run("waiting", 0, "--ranks", 2, TMPDIR=str(folder))
    assert status == 1 and f"error: {folder}" in err and "set TMPDIR to another folder" in err


def test_control_c_is_heard_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)   # make's other half is deaf
    process = start("waiting", 60, "--ranks", 3)
    signal.signal(signal.SIGINT, before)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130 and err == "rank_programs.py: interrupted\n"


def test_alone_there_is_nothing_to_exchange():
    a = np.arange(3.0)
    ranks.ALONE.sum_in_order([a])
    ranks.ALONE.broadcast([a])
    assert (a == [0, 1, 2]).all() and ranks.ALONE.all_objects(5) == [5]
    assert ranks.ALONE.own_slice(7) == slice(0, 7) and ranks.here() is ranks.ALONE
    with pytest.raises(NotImplementedError, match="a run of one rank sends nothing"):
        ranks.ALONE.outbox()


def test_arrays_that_cannot_be_exchanged():
    two = ranks.Ranks()
    two.size = 2
    two.say = lambda value: [value, value]
    with pytest.raises(ValueError, match="not contiguous"):
        two.sum_in_order([np.zeros((4, 4))[:, 1:]])
    with pytest.raises(ValueError, match="float32 and float64: arrays of one dtype"):
        two.sum_in_order([np.zeros(4), np.zeros(4, np.float32)])


def test_the_exit_status_of_a_killed_process():
    assert "memory runs out" in shared_ranks.exit_status(-9)
    assert shared_ranks.exit_status(1) == "exit code 1"
