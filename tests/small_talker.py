"""A small model that talks nonsense, its tokenizer, and a way to choose what it says."""

from model import fast                  # before numpy
import bpe
import gpt
import numpy as np

TEXTS = ["the lamp is lit, said the goat. user assistant 0 1 2 3 4 5 6 7 8 9 37*48=1776 "] * 4
TOK = bpe.Tokenizer.train(TEXTS, 330)
CFG = gpt.Config(TOK.n_vocab, 48, 16, 2, 2)
PARAMS = gpt.init(CFG, 0)
for _p in PARAMS.values():
    _p += np.random.default_rng(5).standard_normal(_p.shape).astype(np.float32) * 0.1
S = TOK.special_tokens


def enc(text):
    """Ids of a text without special tokens."""
    return TOK.encode_ordinary(text)


def scripted(monkeypatch, wanted):
    """Make the model want a fixed sequence of tokens, and record what it reads.

    It wants the first behind what it reads first, and one more for each token that it reads then.
    """
    read = []

    def decode(params, cfg, tokens, cache, n_new=None, only_last=False):
        n = tokens.shape[1] if n_new is None else n_new[0]
        read.extend(tokens[0, (0 if read else n - 1) : n].tolist())
        cache.length += n
        logits = np.zeros((len(tokens), CFG.vocab_size), np.float32)
        logits[:, wanted[min(len(read), len(wanted)) - 1]] = 9.0
        return logits if only_last else logits[:, None]

    monkeypatch.setattr(fast, "decode", decode)
    monkeypatch.setattr(gpt, "decode", decode)
    return read
