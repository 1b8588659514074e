"""pages.py: keys and values on a GPU, in pages, for rows whose texts differ in length.

A row of a plain cache has memory for the longest text that could come. Of 256 replies most are much
shorter. Here the memory is divided into pages of PAGE positions. A row takes a page when its text
has filled the last, and on the average half a page of each row is empty.

    pool         page 0    page 1    page 2    page 3    page 4    ...    each (L, NKV, PAGE, HS)
    table        row 0: 4 1       row 1: 4 0       row 2: 3
    n_rows       how many rows have a page: 2 of page 4, in which two texts begin alike

A page that several rows have is only read. A row that writes into it gets a copy first.

Source: Kwon et al. 2023 (PagedAttention).
"""

import copy

from model import fast                  # before numpy
from model import families
import numpy as np

PAGE = 64           # positions


class Pool:
    """Which pages are free. n_rows (n,): how many rows have each page."""

    def __init__(self, n):
        self.n_rows = np.zeros(n, np.int32)
        self.free = list(range(n))[::-1]

    def new(self):
        """A free page for a row. IndexError where there is none."""
        page = self.free.pop()
        self.n_rows[page] = 1
        return page

    def share(self, page):
        """Another row has a page too."""
        self.n_rows[page] += 1
        return page

    def give_back(self, page):
        """A row has a page no more."""
        self.n_rows[page] -= 1
        if self.n_rows[page] == 0:
            self.free.append(page)


def bytes_a_page(cfg, dtype):
    """Of keys and values of all layers."""
    heads, width = families.kv_heads(cfg)
    return 2 * cfg.n_layer * heads * PAGE * width * np.dtype(dtype).itemsize


def pages_of_replies(prompts, group, n_prompt, n_reply):
    """How many pages replies take: to so many prompts of n_prompt tokens, a group to each.

    A group shares the whole pages of its prompt. The last token is not read.
    """
    shared, rest = divmod(n_prompt - 1, PAGE)
    of_a_reply = -(-(rest + n_reply) // PAGE)
    return prompts * (shared + group * of_a_reply)


class PagedCache(fast.Cache):
    """fast.Cache in pages, in arrays of xp, which is CuPy.

    k, v (L,pages,NKV,PAGE,HS); table (B,most) and used (B,): the pages of each row, on the host.
    budget: bytes. All rows have pages for the longest text if so many fit in it; one row has.
    """

    def __init__(self, xp, cfg, batch, n_positions=None, like=None, budget=None):
        S = cfg.n_positions if n_positions is None else n_positions
        if not 1 <= S <= cfg.n_positions:
            raise ValueError(f"cache of {S} positions, the model's context is {cfg.n_positions}")
        heads, width = families.kv_heads(cfg)
        most = -(-S // PAGE)
        dtype = np.float32 if like is None else like.dtype
        n_pages = batch * most
        if budget is not None:
            n_pages = min(n_pages, max(most, int(budget // bytes_a_page(cfg, dtype))))
        self.room, self.pool = S, Pool(n_pages)
        shape = cfg.n_layer, n_pages, heads, PAGE, width
        self.k, self.v = xp.empty(shape, dtype), xp.empty(shape, dtype)
        self.table = np.zeros((batch, most), np.int32)
        self.used = np.zeros(batch, np.int64)
        self.length = np.zeros(batch, np.int64)
        self.joined = {}

    @property
    def shape(self):
        """(L,B,NKV,S,HS), as a plain cache's k has it."""
        L, _, heads, _, width = self.k.shape
        return L, len(self.length), heads, self.room, width

    def rows(self, part):
        """As of fast.Cache: the pages are those of all."""
        if not isinstance(part, slice):
            raise ValueError(f"rows of a cache: {part!r}, expected a slice")
        some = copy.copy(self)
        some.table, some.used = self.table[part], self.used[part]
        some.length = self.length[part]
        return some

    def _needs(self, n_new):
        """What n_new (B,) more tokens a row need: (is_shared, end), (B,) each

        is_shared: whether the page that a row writes into next is also another row's. end: how many
        pages it has then. Rows that were shortened give back first what is behind their text.
        """
        for row in np.flatnonzero(self.used > -(-self.length // PAGE)):
            self.cut(row, self.length[row])
        end = -(-(self.length + n_new) // PAGE)
        rows = np.arange(len(self.length))
        next_page = np.minimum(self.length // PAGE, self.table.shape[1] - 1)
        is_begun = self.length % PAGE > 0
        n_rows = self.pool.n_rows[self.table[rows, next_page]]
        return is_begun & (n_rows > 1) & (n_new > 0), end

    def lacks(self, n_new):
        """How many pages are missing for n_new (B,) more tokens a row; 0 if none are."""
        is_shared, end = self._needs(n_new)
        wanted = is_shared.sum() + np.maximum(0, end - self.used).sum()
        return max(0, int(wanted) - len(self.pool.free))

    def has_free(self, n):
        """Whether so many tokens have pages that no row has."""
        return n <= PAGE * len(self.pool.free)

    def extend(self, n_new):
        """Take the pages that n_new (B,) more tokens a row need."""
        if self.lacks(n_new):
            raise ValueError(f"a cache of {len(self.pool.n_rows)} pages of {PAGE} tokens has none "
                             "left; write fewer texts at once")
        is_shared, end = self._needs(n_new)
        for row in np.flatnonzero(is_shared):
            i = self.length[row] // PAGE
            self._copy_page(row, i, self.table[row, i])
        for row in np.flatnonzero(end > self.used):
            while self.used[row] < end[row]:
                self.table[row, self.used[row]] = self.pool.new()
                self.used[row] += 1

    def _copy_page(self, row, i, source):
        """Let page number i of a row be a copy of another page, in the place of what it was."""
        page = self.pool.new()
        for a in (self.k, self.v):
            a[:, page] = a[:, source]
        self._put(row, i, page)

    def _put(self, row, i, page):
        """Let page number i of a row be this one."""
        if i < self.used[row]:
            self.pool.give_back(self.table[row, i])
        self.table[row, i] = page
        self.used[row] = max(self.used[row], i + 1)

    def take(self, row, source, n):
        """As fast.Cache.take. Whole pages are shared; the last is copied, if a page is free."""
        for i in range(self.length[row] // PAGE, n // PAGE):
            self._put(row, i, self.pool.share(self.table[source, i]))
        last = n // PAGE
        if n % PAGE and not self.pool.free:
            n = max(int(self.length[row]), last * PAGE)
        elif n % PAGE:
            self._copy_page(row, last, self.table[source, last])
        self.length[row] = n
        return n

    def swap(self, a, b):
        """Exchange two rows with all that they hold."""
        for x in (self.table, self.used, self.length):
            x[[a, b]] = x[[b, a]]

    def cut(self, row, n):
        """Keep the first n positions of a row, and give back the pages behind them."""
        kept = -(-n // PAGE)
        for page in self.table[row, kept : self.used[row]]:
            self.pool.give_back(page)
        self.used[row] = min(self.used[row], kept)
        self.length[row] = n
