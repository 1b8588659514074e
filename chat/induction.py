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
    found = []
    for _ in range(n_rows):
        once = rng.sample(tokens, length)
        found.append([*generate.document_begin(tokenizer), *once, *once])
    return np.array(found)


def ordinary_tokens(tokenizer):
    """The ids of all tokens that are neither special nor part of a character."""
    others = {*tokenizer.special_tokens.values(), *tokenizer.holes.tolist()}
    ordinary = [i for i in range(tokenizer.n_vocab) if i not in others]
    return [i for i in ordinary if "\ufffd" not in tokenizer.decode([i])]


def length_of(rows):
    """How many tokens the rows say twice."""
    return rows.shape[1] // 2


def losses(params, cfg, rows):
    """(T - 1,) nats of each token after the first, the mean over the rows (n,T)."""
    return fast.token_losses(params, cfg, rows[:, :-1], rows[:, 1:]).mean(0)


def second_time(params, cfg, rows):
    """Nats a token of what is said again. Its first token is left out: nobody could know it."""
    n = length_of(rows)
    return float(losses(params, cfg, rows)[1 - n:].mean())


def scores(params, cfg, rows):
    """(L,NH) how much each head looks at the token after the earlier place of the one it reads.

    It is the mean over the rows (n,T), and over the tokens that are read again and have such a one.
    """
    n, T = length_of(rows), rows.shape[1]
    _, cache = families.of(cfg).trunk_forward(params, cfg, rows)
    seen = inside.attention_of(cache)                           # (L,n,NH,T,T)
    reading = np.arange(T - n, T - 1)       # the last token's next one is not in the text
    return seen[..., reading, reading - n + 1].mean((1, 3))
