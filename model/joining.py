"""joining.py: how a process learns that it is a rank, and of which run.

    python train.py --ranks 2               starts one more process of this very command line
    mpirun -n 2 python train.py ...         MPI has started all of them (srun does so too)
    torchrun --nproc-per-node 2 -- train.py ...     torchrun has, on one machine

A started process finds its number in its environment, under the names that torchrun made common:
RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE. MPI has names of its own.

Only rank 0 is heard: what the others print goes nowhere, but for the error that ends one of them.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from model import cores                     # before numpy
from model import mpi_ranks
from model import ranks
from model import shared_ranks
from run import command

PLACE = "LONGHAND_RANKS_PLACE"      # where rank 0 waits for those that it has started
TORCHRUN = "TORCHELASTIC_RUN_ID"    # in what torchrun starts, but not where a script sets RANK


def add_argument(parser):
    """The option --ranks."""
    parser.add_argument("--ranks", type=int, metavar="N",
                        help="processes of this machine that share the work (default: one; "
                        "mpirun, srun and torchrun say it themselves)")


def numbers_of(environment):
    """(rank, size) as torchrun's variables have them. None if there are none, or for one process.

    ValueError if they are incomplete, or name several machines.
    """
    names = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
    if not any(name in environment for name in names[:2]) or environment.get("WORLD_SIZE") == "1":
        return None
    try:
        rank, size, _, local_size = (int(environment[name]) for name in names)
    except (KeyError, ValueError):
        found = {name: environment.get(name) for name in names}
        raise ValueError(f"{found}: expected four numbers, as torchrun sets them; "
                         "or start with --ranks N, or with mpirun") from None
    if not 0 <= rank < size:
        raise ValueError(f"RANK {rank}: expected a number below WORLD_SIZE {size}")
    if local_size != size:
        raise ValueError(
            f"WORLD_SIZE {size}, LOCAL_WORLD_SIZE {local_size}: torchrun's ranks work on one "
            "machine; on several, start with mpirun or srun, which needs: pip install mpi4py")
    return rank, size


def place_of(port):
    """Where the ranks meet that torchrun has started: its port names the run."""
    folder = Path(tempfile.gettempdir()) / f"longhand-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return str(folder / port)


def start_others(n):
    """Start ranks 1 to n - 1 by this process's own command line. Returns rank 0."""
    folder = tempfile.mkdtemp(prefix="ranks-")
    place = f"{folder}/meet"
    children = {}
    try:
        for rank in range(1, n):
            numbers = {"RANK": rank, "WORLD_SIZE": n, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": n}
            variables = {name: str(value) for name, value in numbers.items()}
            children[rank] = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                env={**os.environ, **variables, PLACE: place},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        return shared_ranks.host(n, place, children)
    except BaseException:
        for child in children.values():
            child.kill()
            child.wait()
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)       # all have come, or none will


def connect(n, environment):
    """The Ranks of this process. n: what --ranks says, or None.

    Where srun or mpirun has started several, RANK and WORLD_SIZE count only if they come from
    torchrun: a batch script may have set them for another program.
    """
    of_mpi, of_torchrun = mpi_ranks.size_in(environment), None
    if (of_mpi or 1) == 1 or PLACE in environment or TORCHRUN in environment:
        of_torchrun = numbers_of(environment)
    started = of_torchrun[1] if of_torchrun else of_mpi
    if n is not None and n < 1:
        raise ValueError(f"--ranks {n}: must be at least 1")
    if n and (started or 1) > 1 and n != started:       # one alone may start others
        raise ValueError(f"--ranks {n}: this process was started as one of {started}; "
                         "leave the option out, or start the command by itself")
    if PLACE in environment:
        signal.signal(signal.SIGINT, signal.SIG_IGN)        # rank 0 hears it and tells
        return shared_ranks.come(*of_torchrun, environment[PLACE])
    if of_torchrun and of_torchrun[1] > 1:
        rank, size = of_torchrun
        place = place_of(environment.get("MASTER_PORT", "29500"))
        return shared_ranks.come(rank, size, place) if rank else shared_ranks.host(size, place)
    if of_mpi and of_mpi > 1:
        return mpi_ranks.connect(of_mpi)
    if (n or 1) > 1:
        return start_others(n)
    return ranks.ALONE


def divide_cores(here):
    """Give each rank its part of the machine's cores, the same number everywhere.

    Where mpirun has bound each rank to cores of its own, it keeps them all.
    """
    if here.size == 1:
        return
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    host = os.uname().nodename
    found = here.all_objects([host, own])
    sharing = sum(1 for their_host, theirs in found if their_host == host and theirs == own)
    numbers = here.all_objects(max(1, cores.N_THREADS // sharing))
    cores.N_THREADS = min(numbers)


@contextlib.contextmanager
def joined(n=None):
    """Join this process to the other ranks of its run, and give its Ranks.

    n: how many ranks there are to be, as --ranks says; None if the environment tells.
    An error in the block ends all ranks. Where it is raised by rank 0, it goes on from here;
    another rank prints it and ends.
    """
    here = connect(n, os.environ)
    if here.size == 1:
        yield here
        return
    divide_cores(here)
    ranks.enter(here)
    try:
        with contextlib.ExitStack() as silence:
            if here.rank:
                nowhere = silence.enter_context(open(os.devnull, "w", encoding="utf-8"))
                silence.enter_context(contextlib.redirect_stdout(nowhere))
                silence.enter_context(contextlib.redirect_stderr(nowhere))
            yield here
            if here.cards:
                here.cards.close()
            here.close()
    except BaseException as error:
        why = reason(error)
        here.fail(why)
        if here.cards:
            here.cards.abort()
        if here.rank == 0:
            raise
        if why != shared_ranks.INTERRUPTED:
            print(f"rank {here.rank}: error: {why}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        ranks.enter(ranks.ALONE)


def reason(error):
    """Why a rank ends, in one line, or with the traceback of an error that nobody foresaw."""
    if isinstance(error, KeyboardInterrupt):
        return shared_ranks.INTERRUPTED
    if isinstance(error, (ValueError, OSError, MemoryError)):
        return command.message(error)
    return "".join(traceback.format_exception(error)).rstrip()
