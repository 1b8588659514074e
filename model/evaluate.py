"""evaluate.py: how well a model goes on with text it has not seen.

Nats per token say how surprised it is; bits per byte say the same for any tokenizer. An n-gram model counted on the
same training text is what memory alone can do: a model worth its name is below it. HellaSwag asks which of four
endings belongs to a text.

    python -m model.evaluate gpt2/ --hellaswag hellaswag_val.jsonl --tokenizer r50k_base.tiktoken
    python -m model.evaluate out/demo/base --tokens out/demo/tokens/val_000000.bin

Sources: Chen & Goodman 1999 (n-grams); Zellers et al. 2019 (HellaSwag), by the procedure of llm.c.
"""

import argparse
import math
import sys
from pathlib import Path

from model import cores                    # before numpy
import bpe
from run import command, disk
from model import device
from model import fast
import gpt
import numpy as np
from tokens.shards import check_ids, open_shard


def validation_rows(shards, T, most=2000):
    """(n, T+1): consecutive windows from the start of each shard, at most that many; the same in every evaluation."""
    rows = [s[i:i + T + 1] for s in shards for i in range(0, len(s) - T, T)][:most]
    if not rows:
        raise ValueError(f"validation: {sum(map(len, shards))} tokens do not fill one window of {T + 1}; make more documents")
    return np.array(rows, np.int64)


def bytes_of_tokens(tokenizer):
    """(V,) how many bytes of text each token stands for: none for special tokens.

    Bits per byte compare models with different tokenizers. Where a token has no bytes its nats are left out too.
    """
    n_bytes = np.array([len(b) for b in tokenizer.token_bytes])
    n_bytes[list(tokenizer.special_tokens.values())] = 0
    return n_bytes


def bits_per_byte(nats, targets, n_bytes):
    return float(nats[n_bytes[targets] > 0].sum() / math.log(2) / n_bytes[targets].sum())


def validation_loss(params, cfg, tokenizer, shards, batch=32, arena=None, engine=fast):
    """(nats per token, bits per byte or None without a tokenizer) on the validation rows, so many at once."""
    rows, arena = validation_rows(shards, cfg.n_positions), arena or cores.Arena()
    nats = np.concatenate([engine.token_losses(params, cfg, rows[i:i + batch, :-1], rows[i:i + batch, 1:], arena).astype(np.float64)
                           for i in range(0, len(rows), batch)])
    return float(nats.mean()), bits_per_byte(nats, rows[:, 1:], bytes_of_tokens(tokenizer)) if tokenizer else None


def hellaswag(params, cfg, tokenizer, path, most=None, engine=fast):
    """(accuracy, accuracy by mean) on lines of {"ctx", "endings", "label"}; Zellers et al. 2019, as llm.c measures it.

    Four endings of a context, each as " " + ending. The model chooses the ending of the lowest loss: summed over its
    tokens, and as mean per token, which does not favour the short. What does not fit the context loses its beginning.
    """
    right, n, cut = np.zeros(2), 0, 0
    for n, (at, row) in enumerate(disk.read_jsonl(path), 1):
        try:
            context, endings, label = tokenizer.encode_ordinary(row["ctx"]), [tokenizer.encode_ordinary(" " + e) for e in row["endings"]], int(row["label"])
            if not (context and isinstance(row["endings"], list) and 0 <= label < len(endings)):
                raise ValueError(f"a ctx of {len(context)} tokens, {len(endings)} endings, label {label}")
        except (KeyError, TypeError, ValueError) as e:
            raise ValueError(f"{path}:{at}: expected ctx, endings and label ({type(e).__name__}: {e})") from None
        most_ending = max(map(len, endings))
        if most_ending > cfg.n_positions:
            raise ValueError(f"{path}:{at}: an ending of {most_ending} tokens, the model's context is {cfg.n_positions}")
        keep = context[max(0, len(context) + most_ending - cfg.n_positions - 1):]
        cut += len(keep) < len(context)
        tokens, targets = np.zeros((len(endings), len(keep) + most_ending - 1), np.int64), None
        targets = np.full(tokens.shape, -1)
        for i, ending in enumerate(endings):
            whole = keep + ending
            tokens[i, :len(whole) - 1] = whole[:-1]
            targets[i, len(keep) - 1:len(whole) - 1] = ending
        nats = engine.token_losses(params, cfg, tokens, targets).sum(1)
        right += [nats.argmin() == label, (nats / [len(e) for e in endings]).argmin() == label]
        print(f"\r{n} examples, {right[0] / n:.4f}, {right[1] / n:.4f} by mean ", end="", file=sys.stderr, flush=True)
        if n == most:
            break
    print(f"\n{path}: {cut} of {n} contexts lost their beginning" if cut else "", file=sys.stderr)
    return *(right / n), n


def ngram_nats(train, val, n, vocab_size, discount=0.75):
    """Nats of each validation token under an n-gram model counted on train: what memory of the last n-1
    tokens alone can do. Interpolated absolute discounting (Chen & Goodman 1999, eq. 14):

        p(w | h) = max(c(h w) - d, 0) / c(h) + d * kinds(h) / c(h) * p(w | shorter h)

    ending in the uniform 1/V. Histories never seen pass everything on to the shorter one.
    """
    tokens = np.concatenate([np.asarray(train, np.int64), np.asarray(val, np.int64)])
    n_train = len(train)
    p = np.full(len(val), 1.0 / vocab_size)
    history = np.zeros(len(tokens), np.int64)           # a number for the last k-1 tokens before each position
    for k in range(1, n + 1):
        gram = np.unique(history * vocab_size + tokens, return_inverse=True)[1].ravel()
        seen_h, seen_g = history[:n_train], gram[:n_train]
        count_h = np.bincount(seen_h, minlength=history.max() + 1)
        count_g = np.bincount(seen_g, minlength=gram.max() + 1)
        first = np.unique(seen_g, return_index=True)[1]
        kinds = np.bincount(seen_h[first], minlength=len(count_h))
        h, g = history[n_train:], gram[n_train:]
        c = np.maximum(count_h[h], 1)
        longer = np.maximum(count_g[g] - discount, 0.0) / c + discount * kinds[h] / c * p
        p = np.where(count_h[h] > 0, longer, p)
        # The gram ending one token earlier; the first token has none before it, so it gets a number of its own.
        history = np.concatenate([[gram.max() + 1], gram[:-1]])
    return -np.log(p)


def parse_args(argv=None):
    p = argparse.ArgumentParser(prog="python -m model.evaluate", description="How well a model goes on with text.")
    p.add_argument("model", type=Path, help="a GPT-2 folder, or a .bin of llm.c")
    p.add_argument("--tokenizer", type=Path, help="tokenizer.json or .tiktoken (default: the tokenizer.json beside the model)")
    p.add_argument("--tokens", type=Path, nargs="+", help="token shards: nats a token and bits a byte on their first windows")
    p.add_argument("--hellaswag", type=Path, help="jsonl of HellaSwag: share of right endings")
    p.add_argument("--most", type=int, help="of its examples, this many (default: all)")
    device.add_arguments(p)
    return p.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    if args.most is not None and not args.hellaswag:
        raise ValueError(f"--most {args.most}: of the examples of --hellaswag, which is not given")
    if not (args.tokens or args.hellaswag):
        raise ValueError("nothing to measure; give --tokens or --hellaswag")
    if args.most is not None and args.most < 1:
        raise ValueError(f"--most {args.most}: must be at least 1")
    gpu = device.chosen(args)
    params, cfg = gpt.load(args.model)
    tokenizer = bpe.Tokenizer.load(args.tokenizer or args.model / "tokenizer.json")
    if tokenizer.n_vocab > cfg.vocab_size:
        raise ValueError(f"{args.tokenizer or args.model}: the tokenizer has {tokenizer.n_vocab} tokens, the model knows {cfg.vocab_size}")
    params, engine = (device.upload(params, cfg, gpu.bf16), device) if gpu else (params, fast)
    if args.tokens:
        shards = [open_shard(p, tokenizer) for p in args.tokens]
        for shard in shards:
            check_ids(shard, tokenizer.n_vocab)
        nats, bits = validation_loss(params, cfg, tokenizer, shards, engine=engine)
        print(f"{args.model}: {nats:.4f} nats a token, {bits:.4f} bits a byte")
    if args.hellaswag:
        accuracy, by_mean, n = hellaswag(params, cfg, tokenizer, args.hellaswag, args.most, engine)
        print(f"{args.model}: HellaSwag accuracy {accuracy:.4f}, {by_mean:.4f} by mean loss, {n:,} examples")


if __name__ == "__main__":
    command.run(main)
