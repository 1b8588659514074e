"""inside.py: what goes on in a model while it reads one text.

Training needs only what comes out at the end; here everything is kept: how much each head of each layer looks at each token, what the
residual stream would say after each layer if the model ended there (the logit lens), and what is left of the last probabilities
after temperature, top-k, top-p and min-p.

    python -m chat.inside "The kistbat eats"     for each token the likeliest next ones, layer by layer

Sources: nostalgebraist 2020 (the logit lens); Vaswani et al. 2017 (attention).
"""

import argparse
import functools

import sample                   # before numpy
import gpt
from chat import generate
from run import command
import numpy as np


def look(params, cfg, ids):
    """(attention (L,NH,T,T), logits after each layer (L+1,T,V), the first before any) of T ids.

    The walk is gpt.py's own, with an attention that writes down whom it looked at.
    """
    tokens = np.asarray(ids)[None]
    gpt.check_tokens(cfg, tokens)
    T = tokens.shape[1]
    seen = np.empty((cfg.n_layer, cfg.n_head, T, T), np.float32)

    def attend_and_note(i, q, k, v):
        o, cache = gpt.attention_forward(q, k, v, np.tri(T, dtype=bool))
        lse = cache[-1]
        scores = gpt.attention_scores(q, k, np.tri(T, dtype=bool))
        seen[i] = np.exp(scores - lse)[0]
        return o, cache

    wte = params["wte.weight"]
    x = gpt.embedding_forward(tokens, np.arange(T)[None], wte, params["wpe.weight"])
    streams = [x]
    for i in range(cfg.n_layer):
        attend = functools.partial(attend_and_note, i)
        x, _ = gpt.block_forward(x, gpt.block_params(params, i), cfg.n_head, attend)
        streams.append(x)
    logits = []
    for x in streams:
        y, _ = gpt.layernorm_forward(x, params["ln_f.weight"], params["ln_f.bias"])
        logits.append((y @ wte.T)[0])
    return seen, np.stack(logits)


def likeliest(tokenizer, p, n):
    """(..., V) probabilities -> nested lists of the n largest, as [token, its text, probability]."""
    if p.ndim > 1:
        return [likeliest(tokenizer, each, n) for each in p]
    best = np.argsort(-p, kind="stable")[:n]
    return [[int(i), piece(tokenizer, int(i)), round(float(p[i]), 5)] for i in best]


def piece(tokenizer, token):
    return tokenizer.token_bytes[token].decode("utf-8", "replace")


def describe(model, ids, n=12, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, lens=3):
    """What the page shows of a text: its pieces; for each position the n likeliest next tokens before and after the settings; and
    after each layer the likeliest ones."""
    params, cfg, tokenizer = model
    _, logits = look(params, cfg, ids)
    logits[:, :, tokenizer.holes] = -np.inf
    logits = logits[:, :, :tokenizer.n_vocab]
    before = generate.probabilities(logits[-1])
    after = generate.probabilities(logits[-1], temperature, top_k, top_p, min_p)
    shown = [[[i, text, p, round(float(a[i]), 5)] for i, text, p in row] for row, a in zip(likeliest(tokenizer, before, n), after)]
    surprise = [None] + [round(float(-np.log(max(before[t, ids[t + 1]], 1e-30))), 3) for t in range(len(ids) - 1)]
    return {"ids": list(map(int, ids)), "pieces": [piece(tokenizer, i) for i in ids], "surprise": surprise, "next": shown,
            "lens": [likeliest(tokenizer, generate.probabilities(layer), lens) for layer in logits], "layers": cfg.n_layer, "heads": cfg.n_head, "context": cfg.n_positions}


def parse_args(argv=None):
    p = argparse.ArgumentParser(prog="python -m chat.inside", description="What a model thinks comes next, layer by layer.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("text", help="what it reads")
    p.add_argument("--model", default="out/demo/base", help="a model folder")
    return p.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    model = sample.load_model(args.model)
    tokenizer = model[2]
    found = describe(model, [*sample.document_begin(tokenizer), *tokenizer.encode_ordinary(args.text)], lens=1)
    print(f"{'token':16}" + "".join(f"{f'layer {i}' if i else 'embedding':>14}" for i in range(found["layers"] + 1)) + f"{'p':>8}")
    for t, token in enumerate(found["pieces"]):
        print(f"{token!r:16}" + "".join(f"{layer[t][0][1]!r:>14}" for layer in found["lens"]) + f"{found['lens'][-1][t][0][2]:8.2f}")


if __name__ == "__main__":
    command.run(main)
