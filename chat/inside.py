"""inside.py: what goes on in a model while it reads one text.

Training needs only what comes out at the end. Here everything is kept: how much each head of each
layer looks at each token; what the residual stream would say after each layer, if the model ended
there (the logit lens); and what temperature, top-k, top-p and min-p leave of the last
probabilities.

    python -m chat.inside "The kistbat eats"    for each token the likeliest next, layer by layer

Sources: nostalgebraist 2020 (the logit lens); Vaswani et al. 2017 (attention).
"""

import argparse

import sample                   # before numpy
import gpt
from chat import generate, models
from model import families
from run import command
import numpy as np

COLUMN = 11                     # characters of a layer in the table, and how many layers fit
LAYERS = max(2, min(5, (command.columns() - 25) // COLUMN))


def look(params, cfg, ids):
    """(attention (L,NH,T,T), logits after each layer (L+1,T,V), the first before any) of T ids.

    All of it lies in what the definition keeps for its backward: queries, keys and the logarithm of
    each softmax's sum give the attention. What a block read was normed by its first norm. The last
    norm makes the same n of it, and scales it by its own weights.
    """
    tokens = np.asarray(ids)[None]
    y, cache = families.of(cfg).trunk_forward(params, cfg, tokens)
    blocks = cache[2]
    head = params[families.head_name(cfg)]
    w, b = params["ln_f.weight"], params.get("ln_f.bias", 0.0)
    seen, logits = [], []
    for ln_1, attention, *_ in blocks:
        n = ln_1[0][0]                                          # (T,C)
        logits.append((n * w + b) @ head.T)
        q, k, _, visible, _, lse = attention[1]
        seen.append(np.exp(gpt.attention_scores(q, k, visible) - lse)[0])
    logits.append(y[0] @ head.T)
    return np.stack(seen), np.stack(logits)


def likeliest(tokenizer, p, n):
    """(..., V) probabilities -> nested lists of the n largest, as [token, its text, probability]"""
    if p.ndim > 1:
        return [likeliest(tokenizer, each, n) for each in p]
    best = np.argsort(-p, kind="stable")[:n]
    return [[int(i), tokenizer.decode([i]), round(float(p[i]), 5)] for i in best]


def describe(model, ids, n=12, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, lens=3):
    """What the page shows of a text.

    next: for each position the n likeliest next tokens, each with its probability before the
    settings and after them. surprise: the nats of each token, given those before it. lens: after
    each layer the likeliest next tokens of each position.
    """
    params, cfg, tokenizer = model
    _, logits = look(params, cfg, ids)
    logits[:, :, tokenizer.holes] = -np.inf             # ids that no token has
    logits = logits[:, :, : tokenizer.n_vocab]
    before = generate.probabilities(logits[-1])
    after = generate.probabilities(logits[-1], temperature, top_k, top_p, min_p)
    shown = likeliest(tokenizer, before, n)
    for t, row in enumerate(shown):
        for entry in row:
            entry.append(round(float(after[t, entry[0]]), 5))
    surprise = [None]
    for t, token in enumerate(ids[1:]):
        surprise.append(round(float(-np.log(max(before[t, token], 1e-30))), 3))
    return {
        "ids": list(map(int, ids)),
        "pieces": [tokenizer.decode([i]) for i in ids],
        "surprise": surprise,
        "next": shown,
        "lens": [likeliest(tokenizer, generate.probabilities(z), lens) for z in logits],
        "layers": cfg.n_layer,
        "heads": cfg.n_head,
        "context": cfg.n_positions,
    }


def main(argv=None):
    """Print a table: a line for each token, with the likeliest next one after some layers."""
    parser = argparse.ArgumentParser(
        prog="python -m chat.inside",
        description="Show what a model thinks comes next, layer by layer.",
    )
    parser.add_argument("text", help="what it reads; special tokens may be written out")
    parser.add_argument("--dtype", default="float32", choices=("bf16", "float32"),
                        help="bf16 keeps weights as the file has them, in half of the memory, and "
                        "is slower (default: %(default)s)")
    models.add_options(parser)
    args = models.check_options(parser.parse_args(argv))
    folder = models.chosen(args, ("base", "sft"), "base model", "train.py")
    model = sample.load_model(folder, dtype={"bf16": "bfloat16"}.get(args.dtype, args.dtype))
    tokenizer = model[2]
    ids = tokenizer.encode(args.text, allowed_special="all")
    found = describe(model, [*generate.document_begin(tokenizer), *ids], lens=1)
    n = found["layers"]
    shown = sorted({round(i * n / (LAYERS - 1)) for i in range(LAYERS)})    # the first and the last
    print(row("token", [f"layer {i}" if i else "embedding" for i in shown], "p"))
    for t, token in enumerate(found["pieces"]):
        guesses = [repr(found["lens"][i][t][0][1]) for i in shown]
        probability = found["lens"][n][t][0][2]
        print(row(repr(token), guesses, f"{probability:.2f}"))


def row(token, guesses, p):
    """A line of the table, of 80 columns at most. What is too long for its column is cut."""
    cells = "".join(f"{guess[: COLUMN - 1]:>{COLUMN}}" for guess in guesses)
    return f"{token[:16]:16} {cells} {p:>6}"


if __name__ == "__main__":
    command.run(main)
