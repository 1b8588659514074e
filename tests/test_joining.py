"""model/joining.py: how a process learns that it is a rank."""

import json
import os

import pytest
from model import cores, joining, ranks
from test_shared_ranks import as_torchrun, run

NUMBERS = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


def test_numbers_in_the_environment():
    assert joining.numbers_of({}) is None
    assert joining.numbers_of(NUMBERS) == (1, 4)


@pytest.mark.parametrize("changed, message", [
    ({"LOCAL_WORLD_SIZE": "2"}, "on several, start with mpirun or srun"),
    ({"RANK": "4"}, "RANK 4: expected a number below WORLD_SIZE 4"),
    ({"LOCAL_RANK": "x"}, "'LOCAL_RANK': 'x'.*expected four numbers"),
])
def test_numbers_that_cannot_be(changed, message):
    with pytest.raises(ValueError, match=message):
        joining.numbers_of({**NUMBERS, **changed})


def test_a_part_of_the_numbers():
    with pytest.raises(ValueError, match="'WORLD_SIZE': None.*or start with --ranks N"):
        joining.numbers_of({"RANK": "0"})


@pytest.mark.parametrize("n, environment, message", [
    (0, {}, "--ranks 0: must be at least 1"),
    (2, NUMBERS, "--ranks 2: this process was started as one of 4"),
    (1, {"PMI_SIZE": "3"}, "--ranks 1: this process was started as one of 3"),
])
def test_an_option_that_the_environment_contradicts(n, environment, message):
    with pytest.raises(ValueError, match=message):
        joining.connect(n, environment)


def test_a_run_of_one():
    one = {**NUMBERS, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    part = {"RANK": "0", "WORLD_SIZE": "1"}     # as in a pod of Kubernetes
    for n, environment in ((None, {}), (1, {}), (1, one), (None, part),
                           (None, {"SLURM_STEP_NUM_TASKS": "1"})):
        assert joining.connect(n, environment) is ranks.ALONE
    with joining.joined() as here:
        assert here is ranks.ALONE


def test_cores_are_divided(monkeypatch):
    """Two ranks that may use the same cores, and one that mpirun has bound to another one."""
    own = sorted(os.sched_getaffinity(0))
    host = os.uname().nodename

    class Three(ranks.Ranks):
        size = 3

        def all_objects(self, value):
            if isinstance(value, list):
                return [value, [host, own], [host, [9999]]]
            return [value, value, 5]

    monkeypatch.setattr(cores, "N_THREADS", 8)
    joining.divide_cores(Three())
    assert cores.N_THREADS == 4


def test_a_started_process_has_its_part_of_the_cores():
    threads = json.loads(run("collectives", "--ranks", 2)[1])["threads"]
    assert threads == max(1, cores.N_THREADS // 2)


def test_a_wrong_place_is_no_mistake_of_the_option():
    status, _, err, _ = run("collectives", "--ranks", 3, **as_torchrun(0, 2, "x"))
    assert status == 1 and "--ranks 3: this process was started as one of 2" in err


def test_a_process_that_slurm_started_alone_may_start_others():
    """As in the shell of `srun --pty bash`."""
    status, out, err, _ = run("collectives", "--ranks", 2, SLURM_STEP_NUM_TASKS="1")
    assert status == 0 and json.loads(out)["size"] == 2, err


def test_srun_counts_more_than_numbers_that_its_script_has_set(monkeypatch):
    """Unless torchrun has set them, which srun may have started."""
    monkeypatch.setattr(joining.mpi_ranks, "connect", lambda size: f"MPI's {size}")

    def connected(environment):
        of_srun = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
        try:
            return joining.connect(None, {**environment, **of_srun})
        except ValueError as error:
            return str(error)

    for of_script in ({"RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "2"}, NUMBERS):
        assert connected(of_script) == "MPI's 2"
    of_torchrun = {**NUMBERS, "LOCAL_WORLD_SIZE": "2", joining.TORCHRUN: "none"}
    assert "WORLD_SIZE 4, LOCAL_WORLD_SIZE 2: torchrun's ranks" in connected(of_torchrun)
