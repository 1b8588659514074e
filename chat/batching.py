"""batching.py: many replies at once, of requests that come and go.

A GPU or CPU that writes one reply mostly waits for its weights to come out of memory; one that writes thirty reads them once for all.
So between two tokens the writer lets new requests in and those that ended out, and none waits for another to end. Each reply has
settings and random numbers of its own (sample.Batch). Only the last bits of its sums depend on the replies beside it.

A Job goes in through submit, which refuses it when too many wait, and what is written comes out of its queue of events.

Nobody takes all of it. The last places are kept for jobs that have none yet, so a request for 32 texts
leaves room for short ones. The next place goes to the client with the fewest rows. Where the queue is
full, the client with most jobs in it gives way.

Left out: a long prompt is read whole before anyone gets a next token; nobody is put off for another.

Source: Yu et al. 2022 (Orca: batches whose rows come and go).
"""

import collections
import queue
import sys
import threading
import time

import sample
from model import device, fast

PLACES, WAITING = 32, 64        # rows written at once; requests that may wait for a place
KEPT = 4                        # one place in so many is kept for jobs that have no row yet
PADDED = 1024                   # tokens, padding among them, in the prompts that are read side by side
PACE = 2e-3                     # seconds between two messages to streams: with more, the writer waits for its turn at the interpreter
FAILED = "the model failed; see the server's own output"


class Declined(Exception):
    """Why a job is not taken: reason is "full", "closing" or "failed"."""

    def __init__(self, reason, message):
        super().__init__(message)
        self.reason = reason


class Job:
    """One request.

    prompts  each becomes a row
    events   what is written: {number of the row: [text, entries, finish]}. None says that nothing more
             comes: declined says why, or the writer failed
    entries  where log probabilities are asked for, one for each token: (token, characters of the reply
             in front of it, whether it is shown, its log probability, [(token, log probability)] of the
             likeliest)
    calls    whether an event comes also for a token that is not shown, as in a call of the calculator
    client   who asks; the places are shared out between clients
    """

    def __init__(self, prompts, settings, stop=(), stream=True, calls=False, client=None):
        self.prompts, self.settings, self.stop = prompts, settings.check(), stop
        self.stream, self.calls = stream, calls
        self.client, self.declined = client, None
        self.events, self.gone, self.begun, self.rows, self.tokens = queue.SimpleQueue(), False, 0, [], 0
        self.written, self.handed, self.left = {}, 0.0, len(prompts)    # the next event, when the last was handed over, rows to end

    def hand_over(self):
        self.events.put(self.written)
        self.written, self.handed = {}, time.monotonic()

    def write_nothing(self):
        """End every row before its first token."""
        self.written = {i: ["", [], "length"] for i in range(len(self.prompts))}
        self.hand_over()


class Writer(threading.Thread):
    """Writes the replies of all jobs, one token of each at a time. upload (params, cfg) -> params: to the GPU that is to write; what looks
    inside the model works on params as they came."""

    def __init__(self, model, places=PLACES, waiting=WAITING, upload=None):
        super().__init__(daemon=True)
        self.params, self.cfg, self.tokenizer = model
        self.places, self.most_waiting = places, waiting
        self.coming = set()                                 # jobs of which rows are just being read
        self.batch = sample.Batch(upload(self.params, self.cfg) if upload else self.params, self.cfg, self.tokenizer, places, engine=device if upload else fast)
        self.waiting, self.changed, self.closing, self.failed, self.texts = collections.deque(), threading.Condition(), False, False, {}

    def submit(self, job):
        with self.changed:
            if self.failed:
                raise Declined("failed", FAILED)
            if self.closing:
                raise Declined("closing", "the server is shutting down")
            self.waiting = collections.deque(other for other in self.waiting if not other.gone)
            if len(self.waiting) >= self.most_waiting:
                self._make_room(job.client)
            self.waiting.append(job)
            self.changed.notify()

    def _make_room(self, client):
        """Decline the last job of the client with most jobs waiting; this client's, if it has as many."""
        n = len(self.waiting)
        full = Declined("full", f"{n} requests are waiting already; try again later")
        waiting = collections.Counter(other.client for other in self.waiting)
        greediest = max(waiting, key=waiting.get, default=client)
        theirs = [other for other in self.waiting if other.client == greediest and not other.begun]
        if not theirs or waiting[greediest] <= waiting[client] + 1:
            raise full
        last = theirs[-1]
        self.waiting.remove(last)
        last.declined = full
        last.events.put(None)

    def close(self):
        """No more jobs; those there are, are finished."""
        with self.changed:
            self.closing = True
            self.changed.notify()

    def run(self):
        try:
            while self._admit():
                for row, token, *_ in self.batch.step():
                    self._pass_on(row, token)
                for row, (job, _, _) in list(self.texts.items()):
                    if job.gone:
                        self._drop(row)
                self.batch.read()
        except Exception as e:                              # nobody may wait for a writer that is no more
            print(f"batching.py: the writer failed: {type(e).__name__}: {e}", file=sys.stderr)
            with self.changed:
                self.failed = True
                for job in {id(job): job for job in [*(job for job, _, _ in self.texts.values()), *self.coming, *self.waiting]}.values():
                    job.events.put(None)
            raise

    def _admit(self):
        """Let in who fits, in the order of their coming; wait while there is nothing to do. False when there never will be."""
        with self.changed:
            while True:
                each = self._next()
                if each or len(self.batch):
                    break
                if self.closing:
                    return False
                self.changed.wait()
        if each:
            rows = self.batch.add([job.prompts[i] for job, i in each], [job.settings for job, _ in each], [i for _, i in each])
            for (job, i), row in zip(each, rows):
                job.rows.append(row)
                self.texts[row] = job, i, sample.Text(self.tokenizer, job.stop)
        return True

    def _next(self):
        """[(job, number of its prompt)] that come in together: a job of many prompts fills the places as they become free."""
        each, longest, kept = [], 0, self.places // KEPT
        rows = collections.Counter(job.client for job, _, _ in self.texts.values())
        while True:
            self.waiting = collections.deque(
                job for job in self.waiting if not job.gone and job.begun < len(job.prompts))
            free = self.places - len(self.batch) - len(each)
            fit = [job for job in self.waiting if free > (kept if job.begun else 0)]
            if not fit:
                break
            job = min(fit, key=lambda job: rows[job.client])    # of equals the first that came
            longest = max(longest, len(job.prompts[job.begun]))
            if each and (len(each) + 1) * longest > PADDED:
                break
            each.append((job, job.begun))
            job.begun += 1
            rows[job.client] += 1
        self.coming = {job for job, _ in each}
        return each

    def _pass_on(self, row, token):
        job, i, text = self.texts[row]
        job.tokens += 1
        before = text.length
        shown = text.put(token)
        entry = None
        if row.likely:
            said = token not in text.names and not text.hidden
            entry = (token, before, said, *row.likely[-1])
        finish = row.finish
        if text.stopped:
            if not finish:
                self.batch.drop(row)
            finish = "stop"
        if finish:
            shown += text.end()
            del self.texts[row]
        if shown or entry or finish or job.calls:
            part = job.written.setdefault(i, ["", [], None])
            part[0] += shown
            part[1] += [entry] if entry else []
            part[2] = finish
            if finish or job.stream and time.monotonic() - job.handed >= PACE * len(self.batch):
                job.hand_over()

    def _drop(self, row):
        self.batch.drop(row)
        del self.texts[row]
