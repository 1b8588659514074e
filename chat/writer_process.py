"""writer_process.py: a batching.Writer in a process of its own.

A server has a thread for each connection. A Writer among them would wait for its turn at Python's
interpreter after each of its operations. 64 clients of the demo's assistant get 6,400 tokens a
second that way on two cores, and 9,100 from a process that only writes.

    the server's process                            the writer's process
    ------------------------------------------------------------------------
    WriterProcess.submit    -- a Job -------------> Writer.submit
    WriterProcess.leave     -- its number --------> Writer.leave
    WriterProcess.close     -- None --------------> Writer.close
    WriterProcess.run       <- counts, [(number of a job, event)] after each step
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import weakref

import sample
from chat.batching import FAILED, Writer, fitted
from chat.request import Refused


class WriterProcess(threading.Thread):
    """A Writer as the server sees it: the thread hands on what the process writes.

    model    (params, cfg, tokenizer) as the process loads it from the folder, too
    counts   what /health says of the writer
    jobs     {number: job} of those that somebody waits for
    sending  lock of the pipe, of jobs and of the flags

    ChildProcessError if the process does not begin.
    """

    def __init__(self, model, folder, upload=None, dtype="float32"):
        super().__init__(daemon=True)
        self.params, self.cfg, self.tokenizer = model
        self.jobs, self.sending = {}, threading.Lock()
        self.closing, self.failed = False, False
        spawn = multiprocessing.get_context("spawn")    # a fork would hold the clients' sockets
        self.pipe, far_end = spawn.Pipe()
        args = far_end, folder, upload, dtype
        self.process = spawn.Process(target=write, args=args, daemon=True)
        self.process.start()
        far_end.close()                 # a copy would keep the pipe alive
        try:
            self.counts, _ = self.pipe.recv()
        except (EOFError, OSError):
            message = "the process that should write has ended; see the server's own output"
            raise ChildProcessError(f"{folder}: {message}") from None

    def submit(self, job):
        """Put a job into the queue. Refused if it cannot be, here or as the job's only event."""
        with self.sending:
            if self.failed:
                raise Refused(500, FAILED)
            if self.closing:
                raise Refused(503, "the server is shutting down")
            self.jobs[job.number] = job
            self._send(job)

    def leave(self, job):
        """Nobody waits for a job any more."""
        with self.sending:
            if self.jobs.pop(job.number, None) and job.left:
                self._send(job.number)

    def close(self):
        """Take no more jobs; finish those that are there."""
        with self.sending:
            self.closing = True
            self._send(None)

    def _send(self, message):
        with contextlib.suppress(OSError):      # the process has ended, as run finds too
            self.pipe.send(message)

    def run(self):
        """Hand on what the process writes, until it ends."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                self.counts, events = self.pipe.recv()
                for number, event in events:
                    job = self.jobs.get(number)
                    if job:
                        job.events.put(event)
        with self.sending:              # nobody may wait for a writer that is no more
            self.failed = not self.closing
            for job in self.jobs.values():
                job.events.put(Refused(500, FAILED))
        self.process.join()


def write(pipe, folder, upload, dtype):
    """What the process does: write what comes through the pipe, until it is told to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # Ctrl-C ends the server, which ends this
    sending = threading.Lock()
    jobs = weakref.WeakValueDictionary()            # {number: job} of those that have not ended

    def deliver(writer, events):
        """Send the events of a step."""
        numbered = [(job.number, event) for job, event in events]
        with sending:
            pipe.send((writer.counts, numbered))

    def take(message):
        """Do what the server says."""
        if isinstance(message, int):
            job = jobs.get(message)
            if job:
                writer.leave(job)
            return
        jobs[message.number] = message
        try:
            writer.submit(message)
        except Refused as e:
            deliver(writer, [(message, e)])

    def read():
        """Do all that the server says."""
        try:
            while (message := pipe.recv()) is not None:
                take(message)
        except (EOFError, OSError):     # the server is no more
            os._exit(1)
        writer.close()

    def end(*_):
        threading.Thread(target=writer.close).start()   # as the main thread may have its lock

    writer = Writer(fitted(sample.load_model(folder, dtype=dtype)), upload=upload, deliver=deliver)
    signal.signal(signal.SIGTERM, end)  # systemd sends it to all processes of a service
    deliver(writer, [])                 # it is ready
    threading.Thread(target=read, daemon=True).start()
    writer.run()
