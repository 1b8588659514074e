"""induction.py: finds the heads that look back for the same token and copy what came after it.

The text is made of random tokens, and then says the same ones again. Nobody can know them the first
time. The second time, a head that looks from each token to the one *after* its earlier copy sees
what comes next. Its score is how much of its attention goes there.

    tokens      <|endoftext|>  a  b  c  d  a  b  c  d
    reading                                   b
    the score counts attention to         c (the first one), which comes next

talk/induction.py asks what a model can no longer do without these heads.

Source: Olsson et al. 2022 (In-context Learning and Induction Heads).
"""

from model import families, fast        # before numpy
import numpy as np

from chat import generate, inside


def rows_of(tokenizer, rng, tokens, n_rows, length):
    """(n_rows, 1 + 2 length) ids: random tokens, no one twice, and then the same ones again.

    rng: of the module random. In front of each row stands what begins a document, if the vocabulary
    has such a token; without one, rows are shorter by one.
    """
    begin = generate.document_begin(tokenizer)
    found = []
    for _ in range(n_rows):
        once = rng.sample(tokens, length)
        found.append(begin + once + once)
    return np.array(found)


def ordinary_tokens(tokenizer):
    """The ids of all tokens that are neither special nor part of a character."""
    others = set(tokenizer.special_tokens.values())
    others.update(tokenizer.holes.tolist())
    found = []
    for i in range(tokenizer.n_vocab):
        if i in others:
            continue
        if "\ufffd" not in tokenizer.decode([i]):
            found.append(i)
    return found


def length_of(rows):
    """How many tokens the rows say twice."""
    return rows.shape[1] // 2


def losses(params, cfg, rows):
    """(T - 1,) nats of each token after the first, the mean over the rows (n,T)."""
    nats = fast.token_losses(params, cfg, rows[:, :-1], rows[:, 1:])        # (n,T-1)
    return nats.mean(0)


def second_time(params, cfg, rows):
    """Nats a token of what is said again. Its first token is left out: nobody could know it."""
    n = length_of(rows)
    nats = losses(params, cfg, rows)
    return float(nats[1 - n:].mean())


def scores(params, cfg, rows):
    """(L,NH) how much each head looks at the token after the earlier place of the one it reads.

    It is the mean over the rows (n,T), and over the tokens that are read again and have such a one.
    """
    n = length_of(rows)
    T = rows.shape[1]
    family = families.of(cfg)
    _, cache = family.trunk_forward(params, cfg, rows)
    seen = inside.attention_of(cache)                           # (L,n,NH,T,T)
    reading = np.arange(T - n, T - 1)       # the last token's next one is not in the text
    copied = reading - n + 1
    return seen[..., reading, copied].mean((1, 3))
