"""nccl_cpu.py: the few names of cupy.cuda.nccl that model/nccl_ranks.py uses, without any GPU.

Processes of this machine send each other files in a folder. What would make NCCL wait for ever, or
what it leaves undefined, is an error here: a send whose receiver sends too, without a group; ranks
that ask for different things, or of which one has recorded a call that another makes as it is; a
communicator that is destroyed before the graphs that know it, or while another rank is dead.

CALLS lists what this process has asked for: (whether it came from a graph, the operations).

    cupy_cpu.cuda.nccl = nccl_cpu
    sys.modules.update({"cupy": cupy_cpu, "cupy.cuda": cupy_cpu.cuda})
"""

import atexit
import ctypes
import json
import os
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import NamedTuple

import cupy_cpu

LIMIT_S = float(os.environ.get("LONGHAND_NCCL_LIMIT_S", 20))     # NCCL would wait for ever
NCCL_UINT8 = 1
CALLS = []
available = True

_group = None           # between groupStart() and groupEnd(): what is asked for


class NcclError(RuntimeError):
    pass


def get_unique_id():
    """128 numbers that name a folder."""
    name = tempfile.mkdtemp(prefix="nccl-").encode()
    return tuple(name.ljust(128, b"\0"))


def groupStart():
    global _group
    if _group is not None:
        raise NcclError("a group in a group")
    _group = []


def groupEnd():
    global _group
    operations, _group = _group, None
    if operations:
        _submit(operations)


class Operation(NamedTuple):
    """A call. peer: whom it is to or from; None for all ranks."""

    communicator: object
    name: str
    here: int           # the address that is read
    there: int          # the address that is written
    n_bytes: int
    peer: int

    def described(self):
        return [self.name, self.peer, self.n_bytes]


class Captured:
    """Operations in a graph. It lives as long as the graph does."""

    def __init__(self, operations):
        self.operations = operations
        for communicator in {operation.communicator for operation in operations}:
            communicator.captured.append(weakref.ref(self))

    def __call__(self):
        _execute(self.operations, True)


def _submit(operations):
    if cupy_cpu._tape is not None:
        cupy_cpu._tape.append(Captured(operations))
    else:
        _execute(operations, False)


def _execute(operations, in_graph):
    """Do what a group asks for: all that is sent is sent before anything is received."""
    CALLS.append((in_graph, [operation.described() for operation in operations]))
    sent = []
    for operation in operations:
        if operation.name != "recv":
            sent += operation.communicator.post(operation, in_graph)
    for operation in operations:
        if operation.name != "send":
            operation.communicator.take(operation, in_graph)
    for path in sent:
        _wait(lambda: not path.exists(), f"for another rank to take {path.name}")


def _wait(is_so, what):
    until = time.monotonic() + LIMIT_S
    while not is_so():
        if time.monotonic() > until:
            raise NcclError(f"it would wait for ever {what}")
        time.sleep(2e-4)


class NcclCommunicator:
    """The ranks of a folder, seen from one of them."""

    def __init__(self, n, number, rank):
        self.folder = Path(bytes(number).rstrip(b"\0").decode())
        self.n, self.rank, self.captured, self.is_open = n, rank, [], True
        self.counts = {}                # {(name, from, to): how many messages}
        self._meet("came")
        atexit.register(self._at_exit)

    def _meet(self, what):
        """Wait until all ranks are at the same point."""
        (self.folder / f"{what} {self.rank}").touch()
        for r in range(self.n):
            _wait((self.folder / f"{what} {r}").exists, f"for rank {r}, which has not {what}")

    def _at_exit(self):
        if self.is_open:
            sys.stderr.write("NCCL: neither destroyed nor aborted; the process would hang\n")
            sys.stderr.flush()
            os._exit(9)

    def _ask(self, *arguments):
        if not self.is_open:
            raise NcclError("invalid argument: the communicator is gone")
        if _group is not None:
            _group.append(Operation(self, *arguments))
        else:
            _submit([Operation(self, *arguments)])

    def send(self, address, n, dtype, peer, stream):
        self._ask("send", address, 0, n, peer)

    def recv(self, address, n, dtype, peer, stream):
        self._ask("recv", 0, address, n, peer)

    def allGather(self, here, there, n, dtype, stream):
        if there <= here < there + self.n * n and here != there + self.rank * n:
            raise NcclError("allGather in place, but not from the own place")
        self._ask("allGather", here, there, n, None)

    def _path(self, name, source, target):
        key = name, source, target
        self.counts[key] = self.counts.get(key, 0) + 1
        return self.folder / f"{name} {source} to {target}, {self.counts[key]}"

    def post(self, operation, in_graph):
        """Send an operation's bytes to whom they are for. Returns the files."""
        peers = [operation.peer] if operation.name == "send" else self._others()
        name = "send" if operation.name == "send" else operation.name
        data, sent = ctypes.string_at(operation.here, operation.n_bytes), []
        for peer in peers:
            path = self._path(name, self.rank, peer)
            head = json.dumps([name, operation.n_bytes, in_graph]).encode()
            fresh = path.with_suffix(".fresh")
            fresh.write_bytes(head + b"\n" + data)
            fresh.rename(path)
            sent.append(path)
        return sent

    def take(self, operation, in_graph):
        """Receive an operation's bytes from whom they come."""
        name = "send" if operation.name == "recv" else operation.name
        peers = [operation.peer] if operation.name == "recv" else self._others()
        expected = [name, operation.n_bytes, in_graph]
        for peer in peers:
            path = self._path(name, peer, self.rank)
            _wait(path.exists, f"at {path.name}")
            head, _, data = path.read_bytes().partition(b"\n")
            path.unlink()
            if json.loads(head) != expected:
                raise NcclError(
                    f"rank {self.rank} is at {expected} (name, bytes, in a graph), rank {peer} at "
                    f"{json.loads(head)}")
            place = peer * operation.n_bytes if operation.name == "allGather" else 0
            ctypes.memmove(operation.there + place, data, operation.n_bytes)
        if operation.name == "allGather":
            own = operation.there + self.rank * operation.n_bytes
            ctypes.memmove(own, operation.here, operation.n_bytes)

    def _others(self):
        return [r for r in range(self.n) if r != self.rank]

    def check_async_error(self):
        pass

    def _end(self):
        if any(captured() for captured in self.captured):
            raise NcclError("it would wait for ever for the end of a graph that it is in")
        self.is_open = False

    def destroy(self):
        if self.is_open:
            self._end()
            self._meet("left")

    def abort(self):
        if self.is_open:
            self._end()
