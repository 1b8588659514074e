"""tasks.py: several tasks, on one machine or on many, share the work of one command.

    python data.py --run R --task 0/2       one half of the work; --task 1/2 is the other half
    mpirun -n 2 python data.py --run R      the same: mpirun and srun tell each task its number
    python data.py --run R --slurm 100      prints a script that runs 100 tasks under Slurm

All tasks see one folder, and nothing else connects them. The work has phases. A task does its part
of a phase, marks that with an empty file, and waits for the marks of the others before it begins
the next phase. A task that was killed is simply started again: what is marked is not done again.
No clock and no time of a file decides anything. How a command is written for tasks:

    NAMES = {"count": tasks.ALL, "merge": tasks.FIRST, "encode": tasks.ALL}     its phases, in order

    task = tasks.chosen(args.task)          --task, else mpirun's or srun's number, else ALONE
    with tasks.locked(folder, "bpe.py", task):
        phases = tasks.Phases(folder / ".new", task, NAMES, made_of, args.phase)
        phases.run("count", count)          # calls count() unless this task has completed it
        phases.run("merge", merge)          # task 0 alone
        phases.run("encode", encode)
        if phases.is_complete():
            phases.finish()

made_of is a dict of all that decides the result but the number of tasks; phases.folder is for the
files of this work. In count(), a task takes task.own(files): files i, i+n, ... It may be killed
anywhere and is then called again. So it writes each result whole (run/disk.py) into phases.folder,
under a name that depends on the file and not on the task, and leaves out what is there. Then the
result is the same for any number of tasks, and a task that runs twice at once does no harm. One
task takes the same way, and never waits.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

from run import disk, progress, runs

HOME = Path(__file__).parent.parent
ALL, FIRST = "all", "first"         # who does a phase: every task its part, or task 0 all of it
LONGEST_PAUSE_S = 5                 # between two looks at the marks of the others
MOST_UNDER_SLURM = 1000             # Slurm's MaxArraySize is 1001 where nobody has changed it

# Variables that tell a process its number, and how many there are on all machines and on this one.
# A batch script has SLURM_PROCID and SLURM_NTASKS too; what srun starts has SLURM_STEP_NUM_TASKS.
STARTERS = {
    "OMPI_COMM_WORLD_RANK": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),  # Open MPI
    "PMI_RANK": ("PMI_SIZE", "MPI_LOCALNRANKS"),                                     # MPICH, Intel
    "SLURM_PROCID": ("SLURM_STEP_NUM_TASKS", None),                                  # srun
}


class Task(NamedTuple):
    """Task number `index`, from 0, of so many."""

    index: int
    of: int

    def own(self, items):
        """This task's items of a list: number index, index + of, and so on."""
        return items[self.index::self.of]

    def __str__(self):
        return f"{self.index}/{self.of}"


ALONE = Task(0, 1)

# ------------------------------------------------------------------------ what decides a result


def program(patterns):
    """[name, SHA-256] of each of the project's files that these patterns name, for made_of."""
    return [[path.relative_to(HOME).as_posix(), runs.sha256_of(path)]
            for pattern in patterns for path in sorted(HOME.glob(pattern))]


# --------------------------------------------------------------------------------- who am I


def parse(text):
    """The Task of "1/4". ValueError for anything else.

    >>> parse("1/4")
    Task(index=1, of=4)
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    task = Task(int(found[1]), int(found[2])) if found else None
    if not task or task.index >= task.of:
        raise ValueError(f"{text}: a task is I/N, I from 0 to N-1; of two they are 0/2 and 1/2")
    return task


def started(environ=os.environ):
    """The Task that mpirun or srun has made of this process; None if neither has started it."""
    for index, (size, _) in STARTERS.items():
        if index in environ and size in environ:
            return parse(f"{environ[index]}/{environ[size]}")
    return None


def chosen(task=None, environ=os.environ):
    """The Task of --task if it was given, else that of mpirun or srun, else ALONE."""
    return task or started(environ) or ALONE


def workers_here(environ=os.environ):
    """Worker processes for a task: the CPUs that it may use, over the tasks on this machine."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for index, (_, local_size) in STARTERS.items():
        if index in environ and local_size in environ:
            return max(1, n // int(environ[local_size]))
    return n


# ----------------------------------------------------------------------------------- options


def add_options(parser, names):
    """Add --task, --slurm and, if there are several phases, --phase. names: see Phases."""
    add = parser.add_argument_group("many machines").add_argument
    add("--task", type=of_option, metavar="I/N",
        help="do part I, from 0, of N; all parts use one folder (default: what mpirun or srun "
             "says, else 0/1)")
    if len(names) > 1:
        add("--phase", choices=list(names),
            help="do this phase and end (default: all, with waiting for the other tasks)")
    add("--slurm", type=int, metavar="N", help="print a script for N tasks under Slurm, and end")


def of_option(text):
    """parse() for argparse, which shows the message of its own errors only."""
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_options(parser, args, names):
    """End with an error if --task, --phase and --slurm do not go together."""
    task, phase = args.task, getattr(args, "phase", None)
    if args.slurm is not None:
        if not 1 <= args.slurm <= MOST_UNDER_SLURM:
            parser.error(f"--slurm {args.slurm}: from 1 to {MOST_UNDER_SLURM}, because Slurm's "
                         f"MaxArraySize is {MOST_UNDER_SLURM + 1}")
        for name, value in (("task", task), ("phase", phase)):
            if value:
                parser.error(f"--{name} {value}: would have no effect; the script of --slurm "
                             f"sets it")
    if task and phase and task.index and names[phase] == FIRST:
        parser.error(f"--task {task}: has no part in --phase {phase}, which is task 0's")


# ---------------------------------------------------------------------------------- the phases


@contextlib.contextmanager
def locked(folder, name, task):
    """runs.locked for one task: it keeps the same task out, and lets the others in.

    The locks of several tasks stand in a folder of their own. In its folder, runs.locked removes
    temporary files whose processes do not run here; those of a task may run on another machine.
    """
    if task == ALONE:
        with runs.locked(folder, name):
            yield
        return
    locks, of_task = Path(folder) / ".tasks", f"{name}-task-{task.index}-of-{task.of}"
    try:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(runs.locked(locks, of_task))
            except FileNotFoundError:           # another task has just removed the folder
                held.enter_context(runs.locked(locks, of_task))
            yield
    finally:
        with contextlib.suppress(OSError):          # the locks of others are in it
            locks.rmdir()


class Phases:
    """The phases of a command's work, as one task sees them.

    place: the folder of unfinished work. names: {phase: ALL or FIRST}, in their order. made_of:
    what the result depends on, a dict for JSON. only: the one phase to do, instead of all.

    self.folder is the folder in `place` for all files of this work; its name is a hash of made_of.
    So work that was begun with other options is not gone on with. finish() removes it.
    ValueError if another number of tasks has begun this work and not completed it.
    """

    def __init__(self, place, task, names, made_of, only=None):
        text = json.dumps(made_of, sort_keys=True)
        self.place, self.task, self.names, self.only = Path(place), task, names, only
        self.folder = self.place / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.marks, self.record = self.folder / "done", self.folder / "tasks.json"
        if task == ALONE:
            self.clear()
        if begun_by(self.folder) is None:
            self.marks.mkdir(parents=True, exist_ok=True)
            disk.write_text(self.record, json.dumps({"tasks": task.of, **made_of}, indent=1) + "\n")
        self.check_folder()

    def clear(self):
        """Remove what one task need not go on with: all but this work, and that of several tasks.

        Work that several tasks have completed goes too, since one task is asked to make it anew.
        """
        for path in self.place.iterdir() if self.place.exists() else ():
            n = begun_by(path)
            if n is None or (n == 1 and path != self.folder) or (n > 1 and self.is_complete(path)):
                remove(path)

    def missing(self, name, folder=None):
        """The numbers of the tasks that have not completed a phase yet."""
        folder = folder or self.folder
        n = begun_by(folder)
        needed = range(n if self.names[name] == ALL else 1)
        there = set(os.listdir(folder / "done"))
        return [i for i in needed if f"{name}.{i}-of-{n}" not in there]

    def is_complete(self, folder=None):
        """Whether all tasks have completed all phases."""
        return not any(self.missing(name, folder) for name in self.names)

    def check_folder(self):
        """ValueError unless the folder is still there and that of this number of tasks.

        Work that another number of tasks has completed is complete.
        """
        n = begun_by(self.folder)
        if n is None:
            raise ValueError(f"{self.folder}: was removed while task {self.task} was at work; "
                             f"unless another run replaces this one, start all tasks again")
        if n != self.task.of and not self.is_complete():
            raise ValueError(
                f"{self.folder}: begun by {n} tasks, and this is task {self.task}; go on with "
                f"--task 0/{n} and so on, or, to begin anew, end all tasks and remove it: "
                f"rm -r {shlex.quote(str(self.folder))}")

    def run(self, name, work):
        """Do this task's part of a phase, work(), unless it is done. First wait for the last phase.

        Returns whether work() was called.
        """
        if self.only not in (None, name):
            return False
        if self.names[name] == FIRST and self.task.index:
            return False
        if self.task.index not in self.missing(name):
            return False
        before = list(self.names)[:list(self.names).index(name)]
        if before:
            self.wait_for(before[-1])
        self.check_folder()
        work()
        self.check_folder()
        disk.write_text(self.marks / f"{name}.{self.task}".replace("/", "-of-"), "")
        return True

    def wait_for(self, name):
        """Wait until all tasks have completed a phase; a line on standard error says for whom.

        ValueError instead, if this task was asked to do one phase only.
        """
        pause_s, shown = 0.05, None
        while missing := self.missing(name):
            who = in_words(missing, self.task.of)
            if self.only:
                raise ValueError(f"--phase {self.only}: comes after --phase {name}, which {who} "
                                 f"must do first; work folder {self.folder}")
            if who != shown:
                progress.show(f"task {self.task}: waits for {who} ({name})")
            shown = who
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)
            self.check_folder()
        progress.end()

    def check_products(self, products):
        """ValueError if all is done, but none of the files `products` is there any more."""
        if self.is_complete() and not any(path.exists() for path in products):
            raise ValueError(f"{self.folder}: says that all tasks have done their work, but what "
                             f"they made is no longer there; to begin anew, end all tasks and "
                             f"run: rm -r {shlex.quote(str(self.folder))}")

    def finish(self):
        """Remove the files of complete work.

        Several tasks also remove what is left of other work in `place`; one task has done so when
        it began. What several have done stays marked, so that a task that is started again does
        nothing. For one task alone nothing stays.
        """
        if self.task == ALONE:
            remove(self.folder)
            with contextlib.suppress(OSError):          # unfinished work of several tasks is there
                self.place.rmdir()
            return
        for path in self.place.iterdir():
            if path != self.folder:
                remove(path)
        for path in self.folder.iterdir():
            if path not in (self.marks, self.record):
                remove(path)


def begun_by(folder):
    """How many tasks share the work of a folder; None if it holds no work."""
    try:
        return int(disk.read_json(Path(folder) / "tasks.json")["tasks"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove(path):
    """Remove a file or a folder with all that is in it, or what is left of them."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def in_words(missing, n):
    """The first few of some tasks, for a message.

    >>> in_words([0, 3], 4)
    'tasks 0/4 and 3/4'
    """
    some = [f"{i}/{n}" for i in missing[:3]]
    if len(missing) > 3:
        return f"tasks {', '.join(some)} and {len(missing) - 3} others"
    return f"task{'s' * (len(some) > 1)} {' and '.join(some)}"


# ---------------------------------------------------------------------------------------- Slurm

SCRIPT = """\
#!/bin/bash
# {program}: {n} tasks under Slurm. Start it on the login node, with: bash FILE
# It sends Slurm one array of tasks for each phase of the work. A phase begins when all tasks of the
# one before have ended well. A task that reaches its time limit goes back into the queue, and goes
# on where it was. To change time, CPUs or memory, edit the lines that begin with #SBATCH.
#SBATCH --job-name={program}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={log}/%x-%A-%a.txt

if [ -z "$SLURM_ARRAY_TASK_ID" ]; then
    mkdir -p {log}
    after=
    for phase in {phases}; do
        last={last}
        case $phase in {first}) last=0 ;; esac
        after=$(sbatch --parsable --array=0-$last ${{after:+--dependency=afterok:$after}} \\
                --export=ALL,PHASE=$phase "$0") || exit 1
        echo "$phase: job $after"
    done
    exit
fi

cd {folder} || exit 1
trap 'scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"' USR1
sleep $((SLURM_ARRAY_TASK_ID % {stagger}))     # seconds, so that not all read the folder at once
# srun must be told the number of CPUs again (Slurm 22.05). In the background, and with `wait`, it
# lets bash see the signal.
srun -n 1 -c "${{SLURM_CPUS_PER_TASK:-1}}" {command}{phase} --task "$SLURM_ARRAY_TASK_ID/{n}" &
wait $!
"""


def slurm_script(command, n, names, log, cpus=8, stagger=30):
    """The text of a script that runs a command as n tasks under Slurm.

    command: its words, without --task, --phase and --slurm. names: its phases. log: a folder for
    what the tasks print, which the script makes.
    """
    first = [name for name, who in names.items() if who == FIRST]
    return SCRIPT.format(
        program=Path(command[1]).stem if len(command) > 1 else command[0],
        n=n,
        cpus=cpus,
        log=shlex.quote(os.path.abspath(log)),
        phases=" ".join(names),
        phase=' --phase "$PHASE"' if len(names) > 1 else "",
        last=n - 1,
        first="|".join(first) or "-",
        folder=shlex.quote(os.getcwd()),
        command=shlex.join(command),
        stagger=stagger,
    )


def without_slurm(argv):
    """A command's words without --slurm N, also if it is abbreviated or written --slurm=N."""
    left, skip = [], False
    for word in argv:
        if skip:
            skip = False
        elif len(word) > 3 and "--slurm".startswith(word.partition("=")[0]):
            skip = "=" not in word
        else:
            left.append(word)
    return left
