"""batching.py: one thread writes the replies of all clients, who come and go.

Replies that are written side by side read the weights once for all (generate.Batch). Between two
tokens the Writer lets new requests in and ended ones out, so nobody waits until somebody else's
reply has ended. A request is a Job. Places are shared fairly:

- The last places are kept for jobs that have none yet, so that a request for 32 texts leaves room
  for short ones.
- The next place goes to the client with the fewest rows.
- If the queue is full, the client with most jobs in it gives way.

A long prompt is read in pieces (generate.PIECE), between which the others get their next token.

Source: Yu et al. 2022 (Orca: batches whose rows come and go).
"""

import collections
import itertools
import queue
import sys
import threading
import time
from dataclasses import dataclass, field, replace

from chat import generate
from chat.request import Refused
from chat.stream import Text
from model import device, families, fast

PLACES, WAITING = 64, 64        # rows written at once; requests that may wait for a place
CACHE = 5 << 29                 # bytes of keys and values: a large model has fewer places
FEWEST = 8                      # places that any model has
LEAST_CONTEXT = 4096            # positions of each, where the model has as many
KEPT = 4                        # one place in so many is kept for jobs that have no row yet
REST = 2                        # steps without new rows while more wait than fit: a tenth less work
# Seconds between two events of a job, times the number of rows. Four times as many events would
# take the processor from the writer: 64 clients would get a sixth fewer tokens.
PACE = 2e-3
FAILED = "the model failed; see the server's own output"


@dataclass
class Grown:
    """What a row has grown by.

    ids      its tokens
    entries  with settings.alternatives, one for each token: (token, characters of the reply in
             front of it, whether it is shown, and what generate.likeliest says of it)
    parts    with Job.calls, what stream.Parts returned for each token
    finish   why the row has ended, or None
    """

    text: str = ""
    ids: list = field(default_factory=list)
    entries: list = field(default_factory=list)
    parts: list = field(default_factory=list)
    finish: str = None

    def add(self, more):
        """Grow by more."""
        self.text += more.text
        self.ids += more.ids
        self.entries += more.entries
        self.parts += more.parts
        self.finish = more.finish


class Job:
    """One request for a text behind each of its prompts.

    number  of this job; no other one of this process has it
    client  a name for the client; places are shared out between clients
    """

    numbers = itertools.count()

    def __init__(self, prompts, settings, stop=(), stream=True, client=None):
        self.prompts, self.settings, self.stop = prompts, settings.check(), stop
        self.stream, self.client, self.number = stream, client, next(self.numbers)
        self.events = queue.SimpleQueue()       # {number of a prompt: Grown}; a Refused is the end
        self.begun, self.left = 0, len(prompts)     # prompts with a row; rows whose end is unread
        self.calls = False              # whether calls of tools are wanted, as Grown.parts
        self.gone = False               # nobody waits for it any more
        self.written = collections.defaultdict(Grown)       # the next event
        self.handed = 0.0               # when the last one was handed over

    def __getstate__(self):
        """What another process gets of it: all but the queue."""
        return {**vars(self), "events": None}


def put_in_queues(_, events):
    """Hand events of some jobs, [(job, event)], to the threads that wait for them."""
    for job, event in events:
        job.events.put(event)


def bytes_a_position(cfg):
    """Of a row's keys and values in float32."""
    n_heads, head_size = families.kv_heads(cfg)
    return 2 * cfg.n_layer * n_heads * head_size * 4


def fitted(model, folder=None):
    """A model (params, cfg, tokenizer) with as long a context as the server has memory for.

    Models of today read 100,000 tokens and more, whose keys and values take gigabytes a row.
    folder: the model's. If it is given, a line says how much of the context is left out.
    """
    params, cfg, tokenizer = model
    room = CACHE // (FEWEST * bytes_a_position(cfg))
    n_positions = min(cfg.n_positions, max(room, LEAST_CONTEXT))
    if folder and n_positions < cfg.n_positions:
        size = FEWEST * n_positions * bytes_a_position(cfg) / 2**30
        print(f"[{folder}: reads up to {n_positions:,} of the {cfg.n_positions:,} tokens that the "
              f"model could: {FEWEST} such texts take {size:.1f} GiB of memory]", file=sys.stderr)
    return params, replace(cfg, n_positions=n_positions), tokenizer


def places_for(cfg):
    """How many rows are written at once: PLACES, or as many as CACHE holds."""
    a_place = cfg.n_positions * bytes_a_position(cfg)
    return min(PLACES, max(FEWEST, CACHE // a_place))


class Writer(threading.Thread):
    """Writes the replies of all jobs, one token of each at a time.

    params  of the model as it was loaded; upload (params, cfg) -> those on the GPU that writes
    texts   {row that is being written: (job, number of its prompt, Text)}
    coming  jobs whose prompts are being read
    deliver (the writer, [(job, event)]) hands over the events of a step; several threads call it
    """

    def __init__(self, model, places=None, waiting=WAITING, upload=None, deliver=put_in_queues):
        super().__init__(daemon=True)
        self.params, self.cfg, self.tokenizer = model
        self.places, self.most_waiting = places or places_for(self.cfg), waiting
        params, engine = self.params, fast
        if upload:
            params, engine = upload(self.params, self.cfg), device
        self.batch = generate.Batch(params, self.cfg, self.tokenizer, self.places, engine=engine)
        self.waiting, self.coming, self.texts = collections.deque(), set(), {}
        self.deliver, self.events = deliver, []     # events of this step
        self.rested = 0                 # steps since rows came in
        self.changed = threading.Condition()
        self.closing, self.failed = False, False

    def submit(self, job):
        """Put a job into the queue; Refused if it cannot be."""
        with self.changed:
            if self.failed:
                raise Refused(500, FAILED)
            if self.closing:
                raise Refused(503, "the server is shutting down")
            self.waiting = collections.deque(other for other in self.waiting if not other.gone)
            if len(self.waiting) >= self.most_waiting:
                self._make_room(job.client)
            self.waiting.append(job)
            self.changed.notify()

    def leave(self, job):
        """Nobody waits for a job any more."""
        job.gone = True

    @property
    def counts(self):
        """What /health says of it."""
        return {
            "writing": len(self.batch),
            "waiting": len(self.waiting),
            "prompt_tokens": self.batch.n_prompt,       # of all requests
            "cached_tokens": self.batch.n_known,        # of these, what an earlier text began with
        }

    def _make_room(self, client):
        """Refuse the last job of the client with most jobs waiting, or else this client's."""
        n = len(self.waiting)
        full = Refused(429, f"{n} requests are waiting already; try again later", code="queue_full")
        waiting = collections.Counter(other.client for other in self.waiting)
        greediest = max(waiting, key=waiting.get, default=client)
        theirs = [other for other in self.waiting if other.client == greediest and not other.begun]
        if not theirs or waiting[greediest] <= waiting[client] + 1:
            raise full
        self.waiting.remove(theirs[-1])
        self.deliver(self, [(theirs[-1], full)])

    def close(self):
        """Take no more jobs; finish those that are there."""
        with self.changed:
            self.closing = True
            self.changed.notify()

    def run(self):
        try:
            while self._admit():
                self._step()
        except Exception as e:          # nobody may wait for a writer that is no more
            print(f"batching.py: the writer failed: {type(e).__name__}: {e}", file=sys.stderr)
            with self.changed:
                self.failed = True
                writing = [job for job, _, _ in self.texts.values()]
                jobs = {*writing, *self.coming, *self.waiting}
                self.deliver(self, [(job, Refused(500, FAILED)) for job in jobs])
            raise

    def _step(self):
        """Write one more token of each row, and hand over the events."""
        for row, token in self.batch.step():
            self._pass_on(row, token)
        for row, (job, _, _) in list(self.texts.items()):
            if job.gone:
                self.batch.drop(row)
                del self.texts[row]
        self.deliver(self, self.events)
        self.events = []

    def _admit(self):
        """Let in the rows that fit; wait if there is nothing to do. False at the end."""
        with self.changed:
            while not (coming := self._next()) and not len(self.batch):
                if self.closing:
                    return False
                self.changed.wait()
        self.rested = 0 if coming else self.rested + 1
        if coming:
            prompts = [job.prompts[i] for job, i in coming]
            settings = [job.settings for job, _ in coming]
            streams = [i for _, i in coming]
            rows = self.batch.add(prompts, settings, streams)
            for (job, i), row in zip(coming, rows):
                self.texts[row] = job, i, Text(self.tokenizer, job.stop)
        return True

    def _next(self):
        """[(job, number of its prompt)] of the rows that come in together.

        A job of many prompts comes in bit by bit, as places become free. While more wait than fit,
        rows come in only after REST steps: several prompts are read at once in less time.
        """
        coming, kept, n_rows = [], self.places // KEPT, len(self.batch)
        rows = collections.Counter(job.client for job, _, _ in self.texts.values())
        while True:
            self.waiting = collections.deque(
                job for job in self.waiting if not job.gone and job.begun < len(job.prompts)
            )
            free = self.places - n_rows - len(coming)
            fitting = [job for job in self.waiting if free > (kept if job.begun else 0)]
            crowded = n_rows and len(fitting) > free
            if not fitting or crowded and not coming and self.rested < REST:
                break
            job = min(fitting, key=lambda job: rows[job.client])    # of equals, the first that came
            coming.append((job, job.begun))
            job.begun += 1
            rows[job.client] += 1
        self.coming = {job for job, _ in coming}
        return coming

    def _pass_on(self, row, token):
        """Add a token that was written to the next event of its job."""
        job, i, text = self.texts[row]
        grown = job.written[i]
        grown.ids.append(token)
        before = text.length
        grown.text += text.put(token)
        grown.parts += [text.piece] if job.calls else []
        if row.likeliest:
            is_shown = token not in text.parts.names and text.parts.kind == "text"
            grown.entries.append((token, before, is_shown, *row.likeliest[-1]))
        grown.finish = row.finish
        if text.stopped and not row.finish:
            self.batch.drop(row)
        if text.stopped:
            grown.finish = "stop"
        if grown.finish:
            grown.text += text.end()
            grown.parts += [text.piece] if job.calls else []
            del self.texts[row]
        now = time.monotonic()
        if grown.finish or job.stream and now - job.handed >= PACE * len(self.texts):
            self.events.append((job, job.written))
            job.written, job.handed = collections.defaultdict(Grown), now
