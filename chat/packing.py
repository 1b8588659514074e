"""packing.py: several texts in one row of a batch.

align.py defines a batch with one text a row (align.pad_rows). Texts differ in length, so most of
such a batch is padding. Here texts stand side by side:

    one text a row     packed       a prompt that is shared: segment 0, which all see
    aaaa....           aaaabbcc     pppaaaabbcc
    bb......
    cc......

Each text keeps the positions that it would have alone and has a segment of its own; a token sees
the earlier tokens of its segment and of segment 0 (model/fast.py). So the gradient is that of one
text a row (tests/test_packing.py). On one core, that of 64 conversations of the demo takes 0.24 s
instead of 0.86, and that of 256 replies to 16 questions 0.38 s instead of 1.22.
"""

from model import cores                 # before numpy
import numpy as np

from model import planning

ROW = 512           # tokens that a row may have where the context is longer than its texts


def row_length(texts, n_positions, n_prompt=0):
    """How many tokens a row may have: those of ROW, or of two of the longest texts.

    Today's models read 100,000 tokens and more. A row as long as that would cost the square of its
    length in attention, and as much memory for what tells the texts apart.
    """
    longest = n_prompt + max((len(tokens) for tokens, _, _ in texts), default=0)
    return min(n_positions, max(ROW, 2 * longest))


def fill(texts, n_positions, prompt=()):
    """[row] that hold all texts (tokens, targets, weights), at most n_positions tokens a row.

    A row is a list of pieces (position of its first token, segment, text), of which the first is
    the prompt. The longest text comes first, each into the row that is the shortest so far.
    """
    begin = len(prompt)
    pieces = [(0, 0, (prompt, np.full(begin, -1), np.zeros(begin)))]
    n_tokens = sum(len(tokens) for tokens, _, _ in texts)
    rows = [list(pieces) for _ in range(-(-n_tokens // (n_positions - begin)))]     # rounded up
    by_length = sorted(texts, key=lambda text: -len(text[0]))
    for segment, text in enumerate(by_length, 1):
        row = min(rows, key=length, default=None)
        if row is None or length(row) + len(text[0]) > n_positions:
            row = list(pieces)
            rows.append(row)
        row.append((begin, segment, text))
    return rows


def length(row):
    """How many tokens a row has."""
    return sum(len(text[0]) for _, _, text in row)


def stack(rows):
    """[row] -> (tokens, targets, weights, positions, segments), (B,T) each, padded."""
    shape = len(rows), max(map(length, rows))
    tokens = np.zeros(shape, np.int64)
    positions = np.zeros(shape, np.int64)
    targets = np.full(shape, -1)
    segments = np.full(shape, -1)
    weights = np.zeros(shape)
    for r, row in enumerate(rows):
        end = 0
        for begin, segment, text in row:
            n = len(text[0])
            place = r, slice(end, end + n)
            tokens[place], targets[place], weights[place] = text
            positions[place] = np.arange(begin, begin + n)
            segments[place] = segment
            end += n
    return tokens, targets, weights, positions, segments


def text_of(r, begin, tokens, targets, weights):
    """Row r of (B,T) arrays from position `begin` to its last target."""
    end = int((targets[r] >= 0).sum())
    return [a[r, begin:end] for a in (tokens, targets, weights)]


def packed(tokens, targets, weights, n_positions):
    """Yield the rows of align.pad_rows side by side, in parts that keep the cores busy."""
    texts = [text_of(r, 0, tokens, targets, weights) for r in range(len(tokens))]
    n_positions = row_length(texts, n_positions)
    rows = fill(texts, n_positions)
    at_once = max(cores.N_THREADS, planning.AT_ONCE // n_positions)
    for i in range(0, len(rows), at_once):
        yield stack(rows[i:i + at_once])


def shared(tokens, targets, weights, sampled, n_positions):
    """Yield the rows of align.policy_rows with each prompt once, before all replies to it.

    sampled (B,T): above 0 on what the model chose. The prompt's last token predicts the first token
    of the reply, so it belongs to the reply.
    """
    groups = {}                                 # the prompt's tokens -> the replies to it
    for r in range(len(tokens)):
        begin = int((sampled[r] > 0).argmax())
        prompt = tuple(tokens[r, :begin].tolist())
        groups.setdefault(prompt, []).append(text_of(r, begin, tokens, targets, weights))
    rows = []
    for prompt, replies in groups.items():
        rows += fill(replies, row_length(replies, n_positions, len(prompt)), prompt)
    rows.sort(key=length)                       # short and long rows apart need less padding
    middle = len(rows) // 2
    for part in (rows[:middle], rows[middle:]):
        if part:
            yield stack(part)
