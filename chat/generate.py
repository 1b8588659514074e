"""generate.py: many replies side by side, each the same as sample.generate writes it alone.

To write one token, a model reads all of its weights. Replies that are written side by side read
them once for all. Measured on the demo's assistant, in processor time: 64 replies take 0.17 s, and
0.78 s in sample.generate; 4 replies take 23 ms and 42 ms. Besides:

- Rows come and go one by one, each with settings and random numbers of its own.
- A long prompt is read in pieces, and the rows beside it get their next token after each.
- What a tool writes into a reply is read like a prompt, and not token by token.
- No prompt is read again as far as a row has read it that is there, or was there lately: a system
  prompt, the earlier turns of a conversation, a prompt that is given several times.

Sources: Agrawal et al. 2023 (SARATHI: prompts in pieces); Zheng et al. 2023 (SGLang: what prompts
begin with is kept).
"""

from model import fast                  # before numpy
from model import ranks
import numpy as np
import sample

PIECE = 128         # tokens of prompts that are read between two tokens of the rows beside them
ALONE = 1024        # the same where no row is written
SHORTEST = 32       # prompts that are read side by side get equal parts of a piece, but no smaller


def probabilities(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """sample.probabilities for many rows: (B,V) -> (B,V). Each setting is a number or (B,)."""
    settings = [np.broadcast_to(x, len(logits)) for x in (temperature, top_k, top_p, min_p)]
    cold = settings[0] == 0
    if not cold.any():
        return _of_hot(logits, *settings)
    p = np.zeros(logits.shape)
    p[cold, logits[cold].argmax(-1)] = 1.0
    if not cold.all():
        p[~cold] = _of_hot(logits[~cold], *(x[~cold] for x in settings))
    return p


def _of_hot(logits, temperature, top_k, top_p, min_p):
    """probabilities of rows whose temperature is not 0."""
    z = logits.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    with np.errstate(over="ignore"):
        z /= temperature[:, None]
    p = np.exp(z)
    for row in np.flatnonzero((top_k > 0) & (top_k < z.shape[1])):
        smallest = kth_largest(z[row], top_k[row])
        p[row][z[row] < smallest] = 0.0         # in z, -inf would: but its exp takes longer
    p /= p.sum(-1, keepdims=True)
    rows = np.flatnonzero(top_p < 1.0)
    if len(rows):
        for row in rows:
            leave_out_tail(p[row], top_p[row])
        p[rows] /= p[rows].sum(-1, keepdims=True)
    if (min_p > 0).any():
        p[p < min_p[:, None] * p.max(-1, keepdims=True)] = 0.0
        p /= p.sum(-1, keepdims=True)
    return p


def kth_largest(z, k):
    """The k-th largest of z (V,).

    The k-th largest of the maxima of blocks is no larger, and only what reaches it is looked at. Of
    50,000 logits, the fiftieth is found in a tenth of the time.
    """
    width = len(z) // (4 * k)
    if width > 1:
        n_blocks = len(z) // width
        largest = z[: n_blocks * width].reshape(n_blocks, width).max(1)
        z = z[z >= np.partition(largest, -k)[-k]]
    return np.partition(z, -k)[-k]


def leave_out_tail(p, top_p):
    """Set to 0 those of p (V,) that top_p leaves out; sample.probabilities says which.

    Only tokens that are likely enough are sorted, as soon as they have the share together: then all
    others are left out. Of 50,000, they are mostly some hundred.
    """
    for rare in (1e-3, 1e-4, 1e-5, 1e-6, 0.0):
        likely = np.flatnonzero(p >= rare)
        if p[likely].sum() > top_p + 1e-9:                  # sums are more exact than that
            break
    order = likely[np.argsort(-p[likely], kind="stable")]
    ranked = p[order]
    before = np.cumsum(ranked) - ranked
    kept = before < top_p
    p[...] = 0.0
    p[order[kept]] = ranked[kept]


def draw(p, u):
    """sample.draw for many rows: (B,V) probabilities, (B,) numbers in [0,1) -> (B,) tokens."""
    ends = np.cumsum(p, -1)
    drawn = [np.searchsorted(e, u_row * e[-1], side="right") for e, u_row in zip(ends, u)]
    return np.array(drawn)


def likeliest(z, token, n):
    """The model's own log-probabilities, from the logits z (V,) of one row.

    -> (log-probability of the token, [(token, log-probability)] of the n likeliest)
    """
    z = z.astype(np.float64)
    logp = z - z.max()
    logp -= np.log(np.exp(logp).sum())
    best = np.argsort(-logp, kind="stable")[:n]
    return float(logp[token]), [(int(i), float(logp[i])) for i in best]


class Row:
    """A reply while it is written.

    ids, sampled, logp, finish   as in sample.Reply; finish is None until the row has ended
    done                         whether it is written no more: it has ended, or it was dropped
    unread                       its last token, which the model has not read
    likeliest                    with settings.alternatives, what likeliest() says of each token
    """

    def __init__(self, prompt, settings, stream, n_positions):
        self.prompt, self.settings = prompt, settings
        self.given = prompt             # what it reads first; with its ids, if it was set back
        self.ids, self.sampled, self.logp, self.likeliest = [], [], [], []
        self.finish, self.done = None, False
        self.unread = prompt[-1]
        self.room = sample.longest_reply(prompt, settings, n_positions)
        self.left = min(settings.max_new_tokens, self.room)     # tokens that the model may choose
        self.uniform = np.random.default_rng((settings.seed, stream)).random(self.left)
        self.output = []                # tokens that a tool still writes
        penalties = settings.presence_penalty, settings.frequency_penalty
        repeats = settings.repetition_penalty != 1
        self.penalised = repeats or any(penalties) or settings.logit_bias
        self.needs_logits = self.penalised or settings.alternatives >= 0

    def begin_again(self):
        """Let all that it has be read as a prompt."""
        self.given = [*self.prompt, *self.ids]

    def put(self, token, sampled, logp):
        """Write one more token, which may end the row."""
        self.ids.append(token)
        self.unread = token
        self.sampled.append(int(sampled))
        self.left -= sampled
        self.logp.append(logp)
        if token in self.settings.stop:
            self.finish = "stop"
        elif not self.left or len(self.ids) == self.room:
            self.finish = "length"
        self.done = self.finish is not None


class Batch:
    """Rows that are written side by side, at most `most` of them.

        rows = batch.add(prompts, settings)
        while len(batch):
            batch.step()                # one more token for every row whose prompt is read

    The places of the cache, one a line:

        rows that are written       the first `ready` of `rows`
        rows whose prompt is read   the others
        free places                 each still holds the text of the row that was there last

    As far as any place holds a new prompt, its keys and values are copied. If a row in front is
    reading the same, the new row waits for it. The last token of a prompt is read together with
    those that were written.

    texts    (most, positions) the tokens of each place; of a prompt also those not read yet
    used     (most,) the step at which a free place was last used; a new row takes the oldest
    n_prompt, n_known   tokens of all prompts and of what tools wrote, and how many of them were not
                        read again
    piece    tokens of prompts that are read between two of the rows beside them, or None: PIECE
    """

    def __init__(
        self, params, cfg, tokenizer, most, n_positions=None, engine=fast, piece=None,
    ):
        self.params, self.cfg, self.tokenizer = params, cfg, tokenizer
        self.engine = engine
        self.most = most
        self.piece = piece or PIECE
        n_positions = n_positions or cfg.n_positions
        self.cache = engine.Cache(cfg, most, n_positions, like=params["wte.weight"])
        self.texts = np.full((most, n_positions), -1, np.int32)
        self.used = np.zeros(most, np.int64)
        self.rows, self.ready = [], 0
        self.set_back = []                      # rows that wait for memory
        self.n_steps = self.n_prompt = self.n_known = 0
        self.active = None                      # the cache of the rows that are written, or None
        self.settings = None                    # theirs, as arrays for probabilities
        # On a GPU tokens are drawn there; an id that is no token's is hidden.
        self.draw_there = getattr(engine, "decode_and_draw", None)
        self.hidden = engine.hidden_ids(tokenizer) if self.draw_there else None
        self.tool_end = tokenizer.special_tokens.get("<|tool_end|>")

    def __len__(self):
        """How many rows are still being written."""
        return sum(not row.done for row in [*self.rows, *self.set_back])

    def add(self, prompts, settings, streams=None):
        """Begin a row for each prompt, a list of ids; returns the rows.

        settings: one for all, or a list; all checked. streams: the stream of random numbers of
        each row (default: 0, 1, 2 and so on).
        """
        for prompt in prompts:
            sample.check_prompt(prompt, self.cfg)
        if isinstance(settings, sample.Settings):
            settings = [settings] * len(prompts)
        self._leave()
        free = self.most - len(self.rows) - len(self.set_back)
        if len(prompts) > free:
            raise ValueError(
                f"{len(prompts)} more rows, and {free} of {self.most} places are free"
            )
        rows = []
        for prompt, each, stream in zip(prompts, settings, streams or range(len(prompts))):
            row = Row(prompt, each, stream, self.cfg.n_positions)
            self._take_place(row)
            rows.append(row)
        return rows

    def drop(self, row):
        """End a row before its time."""
        row.done = True

    # ---- places

    def _shared(self, text):
        """(most,) how many tokens of a text, a list, each place begins with."""
        behind = [*text, -2]                    # which no place holds
        return (self.texts[:, : len(behind)] != behind).argmax(1)

    def _take_place(self, row):
        """Give a new row the place behind the others. A free place loses its text for that.

        It is the place whose text the prompt goes on from, or else the one used least recently.
        """
        place, text = len(self.rows), row.given[:-1]
        known = np.minimum(self._shared(text), self.cache.length)
        taken = place + known[place:].argmax()
        if known[taken] < self.cache.length[taken]:
            self.used[taken] = self.n_steps     # more than this prompt may go on from it
            taken = place + self.used[place:].argmin()
        self.cache.cut(taken, int(known[taken]))
        self._swap(place, taken)
        self.texts[place] = -1
        self.texts[place, : len(text)] = text
        self.rows.append(row)
        self.n_prompt += len(row.given)
        self.n_known += int(known[taken])

    def _copy(self, place, source, n):
        """Give a place the first n keys and values of another, beyond those that it has."""
        before = self.cache.length[place]
        self.n_known += int(self.cache.take(place, source, n) - before)

    def _swap(self, a, b):
        """Exchange two places with all that they hold."""
        if a == b:
            return
        self.cache.swap(a, b)
        for x in (self.texts, self.used):
            x[[a, b]] = x[[b, a]]
        if max(a, b) < len(self.rows):
            self.rows[a], self.rows[b] = self.rows[b], self.rows[a]
        self.active = None

    def _leave(self):
        """Rows that are done give up their places."""
        for i in reversed(range(len(self.rows))):
            if not self.rows[i].done:
                continue
            if i < self.ready:
                self.ready -= 1
                self._swap(i, self.ready)
                i = self.ready
            last = len(self.rows) - 1
            self._swap(i, last)
            self.rows.pop()
            self.used[last] = self.n_steps
            self.active = None

    # ---- reading

    def _find_known(self):
        """Copy what other places hold of the new prompts. Returns the rows that must read next.

        A row waits while a row in front of it reads what it needs as well. No more rows are looked
        at than a piece has room for, or each piece would cost as much as all places together.
        """
        length, readers = self.cache.length, []
        for row in self.rows[self.ready :]:
            if len(readers) == ALONE // SHORTEST:
                break
            place = self.rows.index(row)
            shared = self._shared(row.given[:-1])
            known = np.minimum(shared, length)
            best = known.argmax()
            if known[best] > length[place]:
                self._copy(place, best, known[best])
            if not self._begin(row) and shared[:place].max(initial=0) <= length[place]:
                readers.append(row)
        return readers

    def _begin(self, row):
        """Let a row be written if only the last token of its prompt is unread; returns whether."""
        place = self.rows.index(row)
        if self.cache.length[place] < len(row.given) - 1:
            return False
        self._swap(place, self.ready)
        self.ready += 1
        self.active = None
        return True

    def _read_pieces(self, rows):
        """Read on in the prompts of some rows, side by side, as far as a piece goes."""
        piece = self.piece if self.ready else ALONE
        left = [len(row.given) - 1 - self.cache.length[self.rows.index(row)] for row in rows]
        T = min(max(piece // len(rows), SHORTEST), max(left))
        rows = rows[: max(1, piece // T)]
        for place, row in enumerate(rows, self.ready):
            self._swap(self.rows.index(row), place)
        n_new = np.minimum(left[: len(rows)], T)
        tokens = np.zeros((len(rows), n_new.max()), np.int64)
        places = self.cache.rows(slice(self.ready, self.ready + len(rows)))
        for r, (row, begin) in enumerate(zip(rows, places.length)):
            tokens[r, : n_new[r]] = row.given[begin : begin + n_new[r]]
        if not self._has_room(places, n_new):
            return
        self.engine.decode(self.params, self.cfg, tokens, places, n_new, only_last=True)
        for row in rows:
            self._begin(row)

    def _read_prompts(self):
        """Read a piece of the prompts that are not read."""
        readers = self._find_known() if self.ready < len(self.rows) else []
        if readers:
            self._read_pieces(readers)
            self._find_known()                  # those that have waited for it

    def _has_room(self, places, n_new):
        """Whether some rows, a part of the cache, have memory for n_new more tokens each.

        If need be, free places lose their texts, and then rows are set back: the last first. They
        read all they had, and go on, when there is room. ValueError where one row alone has none.
        """
        while places.lacks(n_new):
            free = np.arange(len(self.rows), self.most)
            free = free[self.cache.length[free] > 0]
            if len(free):
                oldest = free[self.used[free].argmin()]
                self.cache.cut(oldest, 0)
                continue
            if len(self.rows) == 1:
                places.extend(n_new)                    # ValueError: it says what is missing
            self._set_back()
            return False
        return True

    def _set_back(self):
        """Take the last row's place. It will read its prompt and its ids again."""
        row = self.rows.pop()
        place = len(self.rows)
        self.ready = min(self.ready, place)
        self.active = None
        self.cache.cut(place, 0)
        row.begin_again()
        self.set_back.append(row)

    def _let_in(self):
        """Give rows that were set back a place again, if their text could double there."""
        self.set_back = [row for row in self.set_back if not row.done]
        while self.set_back and len(self.rows) < self.most:
            row = self.set_back[-1]
            if self.rows and not self.cache.has_free(2 * len(row.given)):
                return
            self._take_place(self.set_back.pop())

    def _unread(self):
        """The last token (ready,) of every row whose prompt is read, which is read now."""
        if not self.active:
            self._changed()
        tokens = np.array([row.unread for row in self.rows[: self.ready]], np.int64)
        self.texts[np.arange(self.ready), self.active.length] = tokens
        return tokens

    def _read(self):
        """Read the last token of every row whose prompt is read -> logits (ready, V)."""
        tokens = self._unread()
        decode = self.engine.decode
        return decode(self.params, self.cfg, tokens[:, None], self.active, only_last=True)

    def _changed(self):
        """Other rows stand in the first places now."""
        self.active = self.cache.rows(slice(0, self.ready))
        self.settings = []
        for name in ("temperature", "top_k", "top_p", "min_p"):
            each = [getattr(row.settings, name) for row in self.rows[: self.ready]]
            self.settings.append(np.array(each))

    # ---- writing

    def step(self):
        """Read what is new, then write one token of every row whose prompt is read.

        Returns [(row, token)].
        """
        self.n_steps += 1
        self._leave()
        if self.set_back:
            self._let_in()
        self._read_prompts()
        while self.ready:
            ready = self.cache.rows(slice(0, self.ready))
            if self._has_room(ready, np.ones(self.ready, int)):
                break
        if not self.ready:
            return []
        rows = self.rows[: self.ready]
        if self.draw_there and not any(row.needs_logits for row in rows):
            return self._write(rows, *self._read_and_draw(rows))
        return self._write(rows, *self._draw(rows, self._read()))

    def _uniform(self, rows):
        """A random number of each row's own stream."""
        return np.array([row.uniform[-row.left] for row in rows])

    def _read_and_draw(self, rows):
        """Read the last token of some rows and draw the next on the GPU: see _draw."""
        tokens = self._unread()
        settings = np.array([*self.settings, self._uniform(rows)], np.float64)
        drawn, logp = self.draw_there(
            self.params, self.cfg, tokens[:, None], self.active, settings,
            self.tokenizer.n_vocab, self.hidden,
        )
        return drawn, logp, None

    def _draw(self, rows, z):
        """Draw a token of some rows from their logits z (ready, V).

        -> tokens, their log-probabilities as they were drawn, logits without those of no token
        """
        z[:, self.tokenizer.holes] = -np.inf    # numbers that no token has
        z = z[:, :self.tokenizer.n_vocab]
        penalised = z
        for i, row in enumerate(rows):
            if row.penalised:
                penalised = z.copy() if penalised is z else penalised
                row_z = z[i].astype(np.float64)
                penalised[i] = sample.penalise(row_z, row.prompt, row.ids, row.settings)
        p = probabilities(penalised, *self.settings)
        drawn = draw(p, self._uniform(rows))
        return drawn, np.log(p[np.arange(len(p)), drawn]), z

    def _write(self, rows, drawn, logp, z):
        """Write the tokens that were drawn, and what tools say to them. Returns what step does."""
        written, logp = [], logp.tolist()
        for i, (row, token) in enumerate(zip(rows, drawn.tolist())):
            sampled = not row.output
            if not sampled:
                token = row.output.pop(0)
            if row.settings.alternatives >= 0:
                row.likeliest.append(likeliest(z[i], token, row.settings.alternatives))
            row.put(token, sampled, logp[i] if sampled else 0.0)
            if row.settings.tools and sampled and token == self.tool_end:
                row.output = sample.tool_output(row.ids, self.tokenizer)
            written.append((row, token))
            # Where alternatives are wanted, each of its tokens needs logits of its own.
            if row.output and row.settings.alternatives < 0:
                written += self._write_output(row)
        return written

    def _write_output(self, row):
        """Write all that a tool says, and let the row read it like a prompt."""
        before = len(row.ids)
        while row.output and not row.done:
            row.put(row.output.pop(0), 0, 0.0)
        written = row.ids[before:]
        if not row.done:
            row.begin_again()
            place = self.rows.index(row)
            self.texts[place, : len(row.given) - 1] = row.given[:-1]
            self.ready -= 1
            self._swap(place, self.ready)
            self.active = None
            self.n_prompt += len(written)
        return [(row, token) for token in written]


# The token in front of each document: of GPT-2, Qwen and ours; of Llama 3; of DeepSeek.
DOCUMENT_BEGINS = (
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
)


def document_begin(tokenizer):
    """The token that stands before each document, in a list; [] if the vocabulary has none."""
    names = tokenizer.special_tokens
    return [names[name] for name in DOCUMENT_BEGINS if name in names][:1]


def generate(params, cfg, tokenizer, prompts, engine=fast, streams=None, watch=None, **settings):
    """sample.generate, side by side: [Reply] to several prompts. engine: model.fast or .device.

    streams: as for Batch.add. watch: a function that is told how many replies are finished.
    """
    if not prompts:
        return []
    settings = sample.Settings(**settings).check()
    longest = max(prompts, key=len)
    n_positions = len(longest) + sample.longest_reply(longest, settings, cfg.n_positions)
    # Nobody waits for the next token, so prompts are read in large pieces.
    batch = Batch(params, cfg, tokenizer, len(prompts), n_positions, engine, piece=ALONE)
    rows = batch.add(prompts, settings, streams)
    while len(batch):
        batch.step()
        if watch:
            watch(len(prompts) - len(batch))
    return [sample.Reply(row.ids, row.sampled, row.finish, row.logp, row.prompt) for row in rows]


def generate_on_ranks(params, cfg, tokenizer, prompts, **settings):
    """generate(), where each rank writes its share of the replies, and all ranks get all of them.

    A reply has the random numbers of its place among all, whoever writes it.
    """
    here = ranks.here()
    own = here.own_slice(len(prompts))
    streams = list(range(own.start, own.stop))
    replies = generate(params, cfg, tokenizer, prompts[own], streams=streams, **settings)
    if here.size == 1:
        return replies
    sent = []
    for reply in replies:
        ids = [int(i) for i in reply.ids]
        logp = [float(x) for x in reply.logp]
        sent.append([ids, reply.sampled, reply.finish, logp])
    written = []
    for of_rank in here.all_objects(sent):
        written += of_rank
    return [sample.Reply(*each, prompt) for each, prompt in zip(written, prompts)]
