"""evaluate.py: how well a model continues text that it has not seen.

Nats a token say how surprised it is; bits a byte say the same whatever the tokenizer. An n-gram
model counted on the same training text shows what memory alone can do, so a model should beat it.
HellaSwag asks which of four endings belongs to a text.

    python -m model.evaluate gpt2/ --hellaswag hellaswag_val.jsonl --tokenizer r50k_base.tiktoken
    python -m model.evaluate out/demo/base --tokens out/demo/tokens/val_000000.bin

Sources: Chen & Goodman 1999 (n-grams); Zellers et al. 2019 (HellaSwag), by the procedure of llm.c.
"""

import argparse
import math
import sys
from pathlib import Path

from model import cores                     # before numpy
import bpe
from model import device
from model import fast
from model import ranks
import gpt
import numpy as np
from run import command, disk, progress
from tokens.shards import check_ids, open_shard

NGRAM_TOKENS = 20_000_000       # of the training text, that n-grams are counted on
NGRAM_TOKENS_PER_S = 550_000    # on one core of a Zen 4

# ---------------------------------------------------------------------------------- validation loss


def validation_rows(shards, T, most=2000):
    """(n, T+1) tokens: consecutive windows from the start of each shard, at most so many.

    They are the same in every evaluation.
    """
    rows = [shard[i:i + T + 1] for shard in shards for i in range(0, len(shard) - T, T)]
    if not rows:
        n_tokens = sum(map(len, shards))
        raise ValueError(f"validation: {n_tokens} tokens do not fill one window of {T + 1}; "
                         "make more documents")
    return np.array(rows[:most], np.int64)


def bits_per_byte(nats, targets, tokenizer):
    """The nats of targets, arrays of one shape, as bits for each byte of their text.

    Special tokens stand for no text and are left out. None without a tokenizer.
    """
    if tokenizer is None:
        return None
    n_bytes = np.array([len(b) for b in tokenizer.token_bytes])
    n_bytes[list(tokenizer.special_tokens.values())] = 0
    of_text = n_bytes[targets] > 0
    bits = nats[of_text].sum() / math.log(2)
    return float(bits / n_bytes[targets].sum())


def validation_loss(
    params, cfg, tokenizer, shards, batch=32, arena=None, engine=fast, here=ranks.ALONE,
):
    """(nats a token, bits a byte) on the validation rows, batch rows at once.

    Bits a byte are None without a tokenizer. here: the ranks that divide the rows.
    """
    rows, arena = validation_rows(shards, cfg.n_positions), arena or cores.Arena()

    def nats_of(rows):
        nats = []
        for i in range(0, len(rows), batch):
            tokens, targets = rows[i:i + batch, :-1], rows[i:i + batch, 1:]
            of_batch = engine.token_losses(params, cfg, tokens, targets, arena)
            nats.append(of_batch.astype(np.float64))
        return np.concatenate(nats)

    nats = here.by_rows(nats_of, rows)
    return float(nats.mean()), bits_per_byte(nats, rows[:, 1:], tokenizer)


def dream(params, cfg, tokenizer, seed, n_tokens=60, engine=fast):
    """A text that the model writes by itself, at temperature 1.

    It begins after an <|endoftext|>, or after token 0 where the vocabulary has none.
    """
    rng = np.random.default_rng(seed)
    token = tokenizer.special_tokens.get("<|endoftext|>", 0)
    cache, ids = engine.Cache(cfg, 1, like=params["wte.weight"]), []
    for _ in range(min(n_tokens, cfg.n_positions)):
        logits = engine.decode(params, cfg, np.array([[token]]), cache, only_last=True)[0]
        logits = logits[:tokenizer.n_vocab]
        logits[tokenizer.holes] = -np.inf               # ids that no token has
        noise = rng.gumbel(size=logits.shape)           # the largest sum is a draw from the softmax
        token = int(np.argmax(logits + noise))
        ids.append(token)
    return tokenizer.decode(ids)


# ----------------------------------------------------------------------------------- n-gram models


def ngram_nats(train, val, n, vocab_size, discount=0.75):
    """Nats of each validation token under an n-gram model counted on train.

    It shows what memory of the last n-1 tokens alone can do. Interpolated absolute discounting
    (Chen & Goodman 1999, eq. 14), ending in the uniform 1/V:

        p(w | h) = max(c(h w) - d, 0) / c(h) + d * kinds(h) / c(h) * p(w | shorter h)

    A history that was never seen leaves the probability to the shorter one.
    """
    tokens = np.concatenate([np.asarray(train, np.int64), np.asarray(val, np.int64)])
    n_train = len(train)
    p = np.full(len(val), 1.0 / vocab_size)
    history = np.zeros(len(tokens), np.int64)       # a number for the last k-1 tokens of each place
    for _ in range(n):
        _, gram = np.unique(history * vocab_size + tokens, return_inverse=True)
        gram = gram.ravel()
        seen_h, seen_g = history[:n_train], gram[:n_train]
        count_h = np.bincount(seen_h, minlength=history.max() + 1)
        count_g = np.bincount(seen_g, minlength=gram.max() + 1)
        _, first = np.unique(seen_g, return_index=True)
        kinds = np.bincount(seen_h[first], minlength=len(count_h))
        h, g = history[n_train:], gram[n_train:]
        c = np.maximum(count_h[h], 1)
        discounted = np.maximum(count_g[g] - discount, 0.0) / c
        longer = discounted + discount * kinds[h] / c * p
        p = np.where(count_h[h] > 0, longer, p)
        # The next history is the gram that ends one token earlier. The first token has none before
        # it and gets a number of its own.
        history = np.concatenate([[gram.max() + 1], gram[:-1]])
    return -np.log(p)


def ngram_losses(tokenizer, train_shards, val_shards, cfg):
    """{n: (nats a token, bits a byte)} of n-gram models on the validation rows, for n of 1 and 5.

    They are counted on the first NGRAM_TOKENS tokens. Bits a byte are None without a tokenizer.
    """
    seen = np.asarray(train_shards[0][:NGRAM_TOKENS])
    targets = validation_rows(val_shards, cfg.n_positions)[:, 1:].ravel()
    seconds = (len(seen) + len(targets)) / NGRAM_TOKENS_PER_S
    if seconds > 5:
        print(f"counting n-grams of {len(seen):,} tokens, about {seconds:.0f} s", file=sys.stderr)
    losses = {}
    for n in (1, 5):
        nats = ngram_nats(seen, targets, n, cfg.vocab_size)
        losses[n] = nats.mean(), bits_per_byte(nats, targets, tokenizer)
    return losses


# --------------------------------------------------------------------------------------- HellaSwag


def read_question(row, tokenizer, where):
    """(context, [ending], label) of a line of HellaSwag in tokens; ValueError if it is none."""
    try:
        context = tokenizer.encode_ordinary(row["ctx"])
        endings = [tokenizer.encode_ordinary(" " + ending) for ending in row["endings"]]
        label = int(row["label"])
        if not (context and isinstance(row["endings"], list) and 0 <= label < len(endings)):
            raise ValueError(f"a ctx of {len(context)} tokens, {len(endings)} endings, "
                             f"label {label}")
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(f"{where}: expected ctx, endings and label "
                         f"({type(e).__name__}: {e})") from None
    return context, endings, label


def ending_rows(context, endings):
    """(tokens, targets), one row for each ending behind the context; only the ending counts."""
    longest = max(map(len, endings))
    tokens = np.zeros((len(endings), len(context) + longest - 1), np.int64)
    targets = np.full(tokens.shape, -1)
    for row, ending in enumerate(endings):
        whole = context + ending
        tokens[row, :len(whole) - 1] = whole[:-1]
        targets[row, len(context) - 1:len(whole) - 1] = ending
    return tokens, targets


def hellaswag(params, cfg, tokenizer, path, most=None, engine=fast):
    """(accuracy, accuracy by mean, number) on lines of {"ctx", "endings", "label"}.

    The model chooses the ending with the lowest loss: summed over its tokens, and as the mean of
    its tokens, which does not favour short endings. A context that is too long loses its beginning.
    """
    right, n, n_cut = np.zeros(2), 0, 0
    questions = disk.read_jsonl(path)[:most]
    work = progress.Work("questions", len(questions))
    for n, (line, row) in enumerate(questions, 1):
        context, endings, label = read_question(row, tokenizer, f"{path}:{line}")
        longest = max(map(len, endings))
        if longest > cfg.n_positions:
            raise ValueError(f"{path}:{line}: an ending of {longest} tokens, the model's context "
                             f"is {cfg.n_positions}")
        surplus = max(0, len(context) + longest - 1 - cfg.n_positions)
        n_cut += surplus > 0
        tokens, targets = ending_rows(context[surplus:], endings)
        nats = engine.token_losses(params, cfg, tokens, targets).sum(1)
        means = nats / [len(ending) for ending in endings]
        right += nats.argmin() == label, means.argmin() == label
        work.at(n, more=f", {right[0] / n:.4f} right, {right[1] / n:.4f} by mean")
    work.end()
    if n_cut:
        print(f"{path}: {n_cut} of {n} contexts lost their beginning", file=sys.stderr)
    return *(right / n), n


# ------------------------------------------------------------------------------------ command line


def parse_args(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m model.evaluate",
                                description="How well a model continues text.")
    p.add_argument("model", type=Path, help="a GPT-2 folder, or a .bin of llm.c")
    p.add_argument("--tokenizer", type=Path, metavar="FILE",
                   help="tokenizer.json or .tiktoken (default: the model's tokenizer.json)")
    p.add_argument("--tokens", type=Path, nargs="+", metavar="SHARD",
                   help="token shards: nats a token and bits a byte on their first windows")
    p.add_argument("--hellaswag", type=Path, metavar="JSONL",
                   help="questions of HellaSwag: the share of right endings")
    p.add_argument("--most", type=int, metavar="N", help="only its first N questions")
    device.add_arguments(p)
    return p.parse_args(argv)


def main(argv=None):
    """Measure what the command line asks for."""
    args = parse_args(argv)
    if args.most is not None and (args.most < 1 or not args.hellaswag):
        raise ValueError(f"--most {args.most}: at least 1, of the questions of --hellaswag")
    if not (args.tokens or args.hellaswag):
        raise ValueError(f"{args.model}: nothing to measure; give --tokens or --hellaswag")
    gpu = device.chosen(args)
    params, cfg = gpt.load(args.model)
    tokenizer = bpe.Tokenizer.load(args.tokenizer or args.model / "tokenizer.json")
    if tokenizer.n_vocab > cfg.vocab_size:
        raise ValueError(f"{args.tokenizer or args.model}: the tokenizer has {tokenizer.n_vocab} "
                         f"tokens, the model knows {cfg.vocab_size}")
    engine = device if gpu else fast
    if gpu:
        params = device.upload(params, cfg, gpu.bf16)
    if args.tokens:
        shards = [open_shard(path, tokenizer) for path in args.tokens]
        for shard in shards:
            check_ids(shard, tokenizer.n_vocab)
        nats, bits = validation_loss(params, cfg, tokenizer, shards, engine=engine)
        print(f"{args.model}: {nats:.4f} nats a token, {bits:.4f} bits a byte")
    if args.hellaswag:
        by_sum, by_mean, n = hellaswag(params, cfg, tokenizer, args.hellaswag, args.most, engine)
        print(f"{args.model}: HellaSwag accuracy {by_sum:.4f}, {by_mean:.4f} by mean loss, "
              f"{n:,} examples")


if __name__ == "__main__":
    command.run(main)
