"""shared_ranks.py: ranks that are processes of one machine.

Rank 0 waits at a place, a Unix socket, where the others come. Then each other rank has two lines
to rank 0:

    the meeting line    for say(): each rank sends its value, rank 0 sends all of them back
    the life line       nobody reads it but a thread. It ends when a process ends, however that
                        happens: so a death is known at once, also in the middle of a product

Gradients and weights lie in memory that all of them share. The ranks meet, and then each reads
those of the others where they lie. Other arrays are copied there first. Each rank has two outboxes
and fills them in turns: in an exchange it fills one, all meet, and then each reads the outboxes of
the others. When it comes to fill the same one again, all have met once more, so nobody is reading
it.

The memory has no name. It is gone when the last process is, and so are the lines.
"""

import contextlib
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from model import cores                     # before numpy
from model import ranks
import numpy as np
from run import command

GRACE_S = 1.0           # for a rank to fail by itself, when another says that it has failed
GO_ON = "the same command goes on from the last checkpoint"
INTERRUPTED = "interrupted"
IN_MEMORY = hasattr(os, "memfd_create")     # else what ranks share is a file on a disk


def wait_s():
    """How many seconds ranks wait for each other to come."""
    return float(os.environ.get("LONGHAND_RANKS_WAIT_S", 60))


# ---------------------------------------------------------------------------------------- coming


class Line:
    """A socket for values, each a line of JSON. receive() gives None at its end."""

    def __init__(self, end):
        end.settimeout(None)
        self.socket = end
        self.file = end.makefile("rwb")

    def send(self, value):
        """Send a value. OSError if the other end is gone."""
        self.file.write(json.dumps(value).encode() + b"\n")
        self.file.flush()

    def receive(self):
        """The next value, or None if the other end is gone."""
        try:
            line = self.file.readline()
        except OSError:
            return None
        return json.loads(line) if line.endswith(b"\n") else None


class Member:
    """A rank that has come to rank 0: its process and its two lines."""

    def __init__(self, rank, pid, meeting, life):
        self.rank, self.pid = rank, pid
        self.meeting, self.life = meeting, life
        self.is_done = False

    def __str__(self):
        return f"rank {self.rank} (pid {self.pid})"


def _listen(place):
    """A socket at the place. ValueError if somebody is listening there, or none can be made."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(place) == 0:
                raise ValueError(f"rank 0 is there already, at {place}: was it started twice?")
        if os.path.exists(place):               # a killed run has left it behind
            os.unlink(place)
        listener.bind(place)
        listener.listen(128)
    except OSError as error:                    # a path may have about 100 bytes
        raise ValueError(f"{place}: no socket can be made there ({error}); "
                         "set TMPDIR to another folder, such as /tmp") from None
    return listener


def _hello(connection):
    """(what a process that has come says of itself, its life line); None if it says nothing."""
    connection.settimeout(5)
    try:
        text, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
        hello = json.loads(text)
        return hello, socket.socket(fileno=descriptors[0])
    except (OSError, ValueError, IndexError):
        return None


def _refusal(hello, size, members):
    """Why a process cannot be the rank that it says it is; None if it can.

    members: {rank: Member} of those that are there.
    """
    rank = hello["rank"]
    if hello["size"] != size:
        return (f"rank {rank} says that there are {hello['size']} ranks, "
                f"rank 0 that there are {size}")
    if not 0 < rank < size:
        return f"rank {rank} is no rank from 1 to {size - 1}"
    if rank in members:
        return (f"rank {rank} is there already, as process {members[rank].pid}: "
                f"process {hello['pid']} is a second one, started twice")
    return None


def _admit(listener, size, members):
    """Let the next process in that has come: into members, unless it is refused."""
    connection, _ = listener.accept()
    found = _hello(connection)
    if not found:
        connection.close()
        return
    hello, life = found
    refusal = _refusal(hello, size, members)
    if refusal:
        with contextlib.suppress(OSError):      # it may have ended
            connection.sendall(json.dumps({"refused": refusal}).encode())
        connection.close()
        return
    members[hello["rank"]] = Member(hello["rank"], hello["pid"], connection, life)


def _missing(size, members):
    """Who came and who did not, in words."""
    came = [str(members[r]) for r in sorted(members)]
    absent = [str(r) for r in range(1, size) if r not in members]
    return f"{', '.join(came) or 'nobody'} came, {', '.join(absent)} did not"


def _wait_for_all(listener, size, place, children):
    """{rank: Member} of ranks 1 to size - 1. ValueError if one of them does not come."""
    members, until = {}, time.monotonic() + wait_s()
    while len(members) < size - 1:
        if select.select([listener], [], [], 0.1)[0]:
            _admit(listener, size, members)
        for rank, child in children.items():
            if rank not in members and child.poll() is not None:
                raise ChildProcessError(
                    f"rank {rank} (pid {child.pid}) ended before it came "
                    f"({exit_status(child.returncode)}); see what it printed")
        if time.monotonic() > until:
            why = (f"rank 0 waited {wait_s():g} s at {place}: {_missing(size, members)}. Look at "
                   "what they printed, and whether all have the same WORLD_SIZE and MASTER_PORT, "
                   "each a RANK of its own, on one machine")
            for member in members.values():
                with contextlib.suppress(OSError):
                    member.meeting.sendall(json.dumps({"refused": why}).encode())
            raise TimeoutError(why)
    return members


def exit_status(code):
    """The exit status of a process, in words."""
    if code == -signal.SIGKILL:
        return "exit code -9, which a process gets when memory runs out"
    return f"exit code {code}"


def _memory():
    """The descriptor of memory that all ranks see."""
    if IN_MEMORY:
        return os.memfd_create("ranks")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def host(size, place, children=None):
    """Be rank 0: wait for the others at a place, the path of a socket. Returns SharedRanks.

    children: {rank: subprocess.Popen} of those that this process has started.
    """
    children = children or {}
    listener = _listen(place)
    members = _wait_for_all(listener, size, place, children)
    descriptor = _memory()
    for member in members.values():
        welcome = json.dumps({"pid": os.getpid()}).encode()
        socket.send_fds(member.meeting, [welcome], [descriptor])
        member.meeting, member.life = Line(member.meeting), Line(member.life)
    hub = Hub(listener, place, size, members, children)
    return SharedRanks(0, size, descriptor, hub)


def come(rank, size, place):
    """Be another rank: come to rank 0 at a place. Returns SharedRanks.

    TimeoutError if rank 0 is not there in time, ValueError if it refuses this process.
    """
    until = time.monotonic() + wait_s()
    while True:
        meeting = socket.socket(socket.AF_UNIX)
        try:
            meeting.connect(place)
            break
        except OSError:
            meeting.close()
            if time.monotonic() > until:
                raise TimeoutError(
                    f"rank {rank} of {size} waited {wait_s():g} s for rank 0 at {place}: was it "
                    "started on this machine, and what did it print?") from None
            time.sleep(0.05)
    life, far_end = socket.socketpair()
    hello = {"rank": rank, "size": size, "pid": os.getpid()}
    socket.send_fds(meeting, [json.dumps(hello).encode()], [far_end.fileno()])
    far_end.close()
    text, descriptors, _, _ = socket.recv_fds(meeting, 4096, 1)
    if not text:
        raise ChildProcessError(f"rank 0 at {place} ended before all ranks had come")
    answer = json.loads(text)
    if "refused" in answer:
        raise ValueError(answer["refused"])
    spoke = Spoke(rank, Member(0, answer["pid"], Line(meeting), Line(life)))
    return SharedRanks(rank, size, descriptors[0], spoke)


# ---------------------------------------------------------------------------- meeting and dying


def end_process(rank, why):
    """End this process at once, whatever its threads are doing, and say why."""
    if why == INTERRUPTED:
        os._exit(130)
    begins = "\n" if rank == 0 else ""          # below the line of progress
    text = command.printable(f"rank {rank}: {why}")
    try:
        sys.__stderr__.write(f"{begins}{text}\n")       # at once: the others write now as well
        sys.__stderr__.flush()
    finally:
        os._exit(1)                             # also where nobody reads it, or it is closed


def close_in_children(lines):
    """Let no process that is forked from now on hold a line open: its end could not be seen."""
    def close():
        for line in lines:
            os.close(line.socket.fileno())

    os.register_at_fork(after_in_child=close)


class Hub:
    """Rank 0's ends of all lines."""

    def __init__(self, listener, place, size, members, children):
        self.listener, self.place, self.size = listener, place, size
        self.members, self.children = members, children
        self.in_order = [members[r] for r in sorted(members)]
        self.is_closed, self.all_done = False, threading.Event()
        close_in_children([m.life for m in self.in_order] + [m.meeting for m in self.in_order])
        threading.Thread(target=self._watch, daemon=True).start()

    def say(self, value):
        """The values of all ranks, which each rank gets."""
        values = [json.loads(json.dumps(value))]        # a list for a tuple, as the others get it
        for member in self.in_order:
            said = member.meeting.receive()
            if said is None:
                self._wait_for_the_end(member)
            values.append(said["value"])
        for member in self.in_order:
            try:
                member.meeting.send(values)
            except OSError:
                self._wait_for_the_end(member)
        return values

    def _wait_for_the_end(self, member):
        """The thread knows why the line broke, and ends this process."""
        time.sleep(GRACE_S + 2)
        raise ChildProcessError(f"{member} no longer answers; {GO_ON}")

    def _watch(self):
        """What the thread does: see who ends, and refuse who comes too late."""
        lives = {member.life.socket: member for member in self.in_order}
        while lives:
            ready, _, _ = select.select([self.listener, *lives], [], [])
            for end in ready:
                if end is self.listener:
                    _admit(self.listener, self.size, self.members)
                    continue
                member = lives.pop(end)
                said = member.life.receive()
                if said is None:
                    self._end(f"{member} has died{self._how(member)}; {GO_ON}")
                elif "failed" in said:
                    time.sleep(GRACE_S)
                    self._end(f"{member} has failed: {said['failed']}")
        self.all_done.set()

    def _how(self, member):
        """The exit status of a rank that this process has started."""
        child = self.children.get(member.rank)
        if not child:
            return ""
        try:
            return f" ({exit_status(child.wait(5))})"
        except subprocess.TimeoutExpired:       # its memory is still being given back
            return ""

    def _end(self, why):
        if not self.is_closed:
            self.tell(why)
            end_process(0, why)

    def tell(self, why):
        """Tell all others to end."""
        for member in self.in_order:
            try:
                member.life.send({"failed": why})
            except OSError:                     # it has ended
                pass

    def fail(self, why):
        """Rank 0 ends: tell the others."""
        self.is_closed = True
        self.tell(why if why == INTERRUPTED else f"rank 0 (pid {os.getpid()}) has failed: {why}")
        self._leave()

    def close(self):
        """Wait until all others are done."""
        self.all_done.wait()
        self.is_closed = True
        self._leave()

    def _leave(self):
        if os.path.exists(self.place):
            os.unlink(self.place)
        for child in self.children.values():
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


class Spoke:
    """Another rank's ends of its two lines."""

    def __init__(self, rank, hub):
        self.rank, self.hub = rank, hub
        self.is_closed = False
        close_in_children([hub.meeting, hub.life])
        threading.Thread(target=self._watch, daemon=True).start()

    def say(self, value):
        """The values of all ranks."""
        try:
            self.hub.meeting.send({"value": value})
            values = self.hub.meeting.receive()
        except OSError:
            values = None
        if values is None:
            time.sleep(GRACE_S + 2)             # the thread knows why, and ends this process
            raise ChildProcessError(f"{self.hub} no longer answers; {GO_ON}")
        return values

    def _watch(self):
        said = self.hub.life.receive()
        if self.is_closed:
            return
        if said is None:
            end_process(self.rank, f"{self.hub} has died; {GO_ON}")
        end_process(self.rank, said["failed"])

    def fail(self, why):
        """This rank ends: tell rank 0, which tells the others."""
        self._last_word({"failed": why})

    def close(self):
        """This rank is done."""
        self._last_word({"done": True})

    def _last_word(self, value):
        self.is_closed = True
        try:
            self.hub.life.send(value)
        except OSError:                         # rank 0 has ended
            pass


class SharedRanks(ranks.Ranks):
    """The ranks of one machine, seen from one of them."""

    def __init__(self, rank, size, descriptor, lines):
        self.rank = self.local_rank = rank
        self.size = self.local_size = size
        self.lines = lines
        self.descriptor, self.n_bytes = descriptor, 0       # the memory, and how much is in use
        self.outboxes = self._of_all_ranks(2 * ranks.CHUNK_BYTES).reshape(size, 2, -1)
        self.turn = 0           # which of the two outboxes is filled now
        self.seen = []          # what memory() has made: (size,n) uint8

    def _of_all_ranks(self, n_bytes):
        """More memory that all ranks see, a row for each: (size,n) uint8, n at least n_bytes.

        Each rank must call it, and all must meet between two calls: where one were ahead, the file
        would shrink again.
        """
        begin, unit = self.n_bytes, mmap.ALLOCATIONGRANULARITY
        row = -(-n_bytes // unit) * unit
        self.n_bytes += self.size * row
        os.ftruncate(self.descriptor, self.n_bytes)
        memory = mmap.mmap(self.descriptor, self.size * row, offset=begin)
        return np.frombuffer(memory, np.uint8).reshape(self.size, row)

    def memory(self, n_bytes):
        """As of Ranks."""
        if not IN_MEMORY:
            return super().memory(n_bytes)
        self.meet(f"memory of {n_bytes:,} bytes")
        self.seen.append(self._of_all_ranks(n_bytes))
        return self.seen[-1][self.rank, :n_bytes]

    def of_all(self, a):
        """As of Ranks."""
        for memory in self.seen:
            begin = a.ctypes.data - memory[self.rank].ctypes.data
            end = begin + a.nbytes
            if begin >= 0 and end <= memory.shape[1] and a.flags.c_contiguous:
                return memory[:, begin:end].view(a.dtype).reshape(self.size, *a.shape)
        return None

    def say(self, value):
        """As of Ranks."""
        return self.lines.say(value)

    def outbox(self):
        """As of Ranks."""
        return self.outboxes[self.rank, self.turn, :ranks.CHUNK_BYTES]

    def exchange(self, what, mine, theirs):
        """As of Ranks, without a copy."""
        self.meet(what)                         # all outboxes are full
        outboxes = self.outboxes[:, self.turn]
        self.turn = 1 - self.turn
        return [outbox[part] for outbox, part in zip(outboxes, theirs)]

    def fail(self, why):
        """As of Ranks."""
        self.lines.fail(why)

    def close(self):
        """As of Ranks."""
        self.lines.close()
