"""inside.py: what goes on in a model while it reads one text.

Training needs only what comes out at the end. Here everything is kept: how much each head of each
layer looks at each token; what the residual stream would say after each layer, if the model ended
there (the logit lens); and what temperature, top-k, top-p and min-p leave of the last
probabilities.

    python -m chat.inside "The kistbat eats"    for each token the likeliest next, layer by layer
    python -m chat.inside "The kistbat eats" --off 1.3 --off mlp2       and without these parts
    python -m chat.inside "The kistbat eats" --patch 2.1 --other "The glulblow eats"
    python -m chat.inside "The kistbat eats" --device cuda              what a GPU makes of it

Sources: nostalgebraist 2020 (the logit lens); Vaswani et al. 2017 (attention).
"""

import argparse
import codecs

import sample                   # before numpy
import gpt
from chat import generate, models, patching
from chat.api import spelled
from model import cores, device, families, llama, operations
from run import command
import numpy as np

COLUMN = 11                     # characters of a layer in the table, and how many layers fit
LAYERS = max(2, min(5, (command.columns() - 25) // COLUMN))


# --------------------------------------------------------------------------------- texts and tokens


def ids_of(tokenizer, text, special=False):
    """The ids of a text behind the token that begins a document.

    special: whether names such as <|im_start|> stand for special tokens. A text that begins with
    one says itself how it begins, and nothing is put in front of it.
    """
    if not special:
        return [*generate.document_begin(tokenizer), *tokenizer.encode_ordinary(text)]
    ids = tokenizer.encode(text, allowed_special="all")
    if ids and ids[0] in tokenizer.special_tokens.values():
        return ids
    return [*generate.document_begin(tokenizer), *ids]


def is_begun(tokenizer, ids):
    """Whether ids_of has put the token that begins a document in front of these ids."""
    begin, special = generate.document_begin(tokenizer), tokenizer.special_tokens.values()
    n = len(begin)
    return n > 0 and list(ids[:n]) == begin and not (len(ids) > n and ids[n] in special)


def text_of(tokenizer, ids):
    """The text that ids_of makes these ids of, with the names of special tokens."""
    return "".join(parts_of(tokenizer, ids))


def parts_of(tokenizer, ids):
    """What each token adds to text_of: the first part of a character nothing, its last part all."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    parts = [decoder.decode(tokenizer.decode_bytes([i])) for i in ids]
    if parts:
        parts[-1] += decoder.decode(b"", True)
    if is_begun(tokenizer, ids):
        parts[0] = ""
    return parts


# ------------------------------------------------------------------------------ inside of the model


def attention_of(cache):
    """(L,B,NH,T,T): how much each head looks at each token, from the cache of a trunk_forward.

    The cache holds queries, keys and the logarithm of each softmax's sum for the backward.
    """
    seen = []
    for _, attention, *_ in cache[2]:
        q, k, _, visible, _, lse = attention[1]
        seen.append(np.exp(gpt.attention_scores(q, k, visible) - lse))
    return np.stack(seen)


def look(params, cfg, ids):
    """(attention (L,NH,T,T), logits after each layer (L+1,T,V), the first before any) of T ids.

    What a block read was normed by its first norm. The last norm makes the same n of it, and scales
    it by its own weights.
    """
    tokens = np.asarray(ids)[None]
    y, cache = families.of(cfg).trunk_forward(params, cfg, tokens)
    head = params[families.head_name(cfg)]
    w, b = params["ln_f.weight"], params.get("ln_f.bias", 0.0)
    logits = []
    for ln_1, *_ in cache[2]:
        n = ln_1[0][0]                                          # (T,C)
        logits.append((n * w + b) @ head.T)
    logits.append(y[0] @ head.T)
    return attention_of(cache)[:, 0], np.stack(logits)


def look_on_gpu(params, cfg, ids):
    """look() of parameters on the GPU, by its kernels and in its number format.

    A step that could go back keeps what is needed: of each block what its first norm made of the
    stream, its queries and keys, and the logarithms of the sums of its softmax.
    """
    tokens, T = np.asarray(ids)[None], len(ids)
    step = device.Step(params, cfg, 1, T, cores.Arena())
    step.put(tokens, np.full(tokens.shape, -1), np.zeros(tokens.shape))
    step.forward()
    n_kv_head, _ = families.kv_heads(cfg)
    visible = np.tri(T, dtype=bool)
    seen, logits = [], []
    for s in step.trunk.blocks:
        qkv = device.kernels.on_host(s.qkv).reshape(1, T, -1)
        q, k, _ = operations.heads(qkv, cfg.n_head, n_kv_head)
        k = llama.grouped_forward(k, cfg.n_head // n_kv_head)
        scores = gpt.attention_scores(q, k, visible)
        seen.append(np.exp(scores - device.kernels.on_host(s.lse))[0])
        logits.append(logits_on_gpu(step, normed_by_last(step, s.n_1)))
    logits.append(logits_on_gpu(step, step.a["y"]))
    return np.stack(seen), np.stack(logits)


def normed_by_last(step, n):
    """What the last norm makes of what was normed, n (T,C): see look."""
    on_host = device.kernels.on_host
    y = on_host(n) * on_host(step.params["ln_f.weight"])
    if "ln_f.bias" in step.params:
        y += on_host(step.params["ln_f.bias"])
    y = device.cp.asarray(y)
    return y if n.dtype == np.float32 else device.kernels.to_bf16(y)


def logits_on_gpu(step, y):
    """The logits (T,V) of y (T,C), on the host."""
    w = step.params[step.head]
    z = device.cp.empty((len(y), len(w)), y.dtype)
    device.kernels.matmul(y, w, z, w_t=True)
    return device.kernels.on_host(z)[:, : step.cfg.vocab_size]


def predictions(tokenizer, logits, *settings):
    """The probabilities of logits (T,V) -> (T, n_vocab). Ids that no token has get none.

    settings: as for generate.probabilities.
    """
    logits = logits.copy()
    logits[:, tokenizer.holes] = -np.inf
    return generate.probabilities(logits[:, :tokenizer.n_vocab], *settings)


def likeliest(tokenizer, p, n):
    """(..., V) probabilities -> nested lists of the n largest, as [token, its text, probability]"""
    if p.ndim > 1:
        return [likeliest(tokenizer, each, n) for each in p]
    best = np.argsort(-p, kind="stable")[:n]
    return [[int(i), spelled(tokenizer, int(i)), round(float(p[i]), 5)] for i in best]


def surprises(p, ids):
    """The nats of each token, given those before it; None for the first. p (T,V)."""
    found = [None]
    for t, token in enumerate(ids[1:]):
        found.append(round(float(-np.log(max(p[t, token], 1e-30))), 3))
    return found


def describe(model, ids, n=12, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, lens=3, look=look):
    """What the page shows of a text.

    next: for each position the n likeliest next tokens, each with its probability before the
    settings and after them. surprise: the nats of each token, given those before it. lens: after
    each layer the likeliest next tokens of each position. pieces: the tokens, spelled in bytes
    where they are parts of characters; parts: what each adds to the text. look: or look_on_gpu.
    """
    params, cfg, tokenizer = model
    _, logits = look(params, cfg, ids)
    before = predictions(tokenizer, logits[-1])
    after = predictions(tokenizer, logits[-1], temperature, top_k, top_p, min_p)
    shown = likeliest(tokenizer, before, n)
    for t, row in enumerate(shown):
        for entry in row:
            entry.append(round(float(after[t, entry[0]]), 5))
    return {
        "ids": list(map(int, ids)),
        "pieces": [spelled(tokenizer, int(i)) for i in ids],
        "text": text_of(tokenizer, ids),
        "parts": parts_of(tokenizer, ids),
        "surprise": surprises(before, ids),
        "next": shown,
        "lens": [likeliest(tokenizer, predictions(tokenizer, z), lens) for z in logits],
        "layers": cfg.n_layer,
        "heads": cfg.n_head,
        "context": cfg.n_positions,
    }


def side_by_side(tokenizer, first, second, ids, n=12):
    """What the page shows of two predictions (T,V) for one text.

    next: for each position the tokens that are among the n likeliest of either, as [token, its
    text, its probability in the first, in the second]; the likeliest come first. surprise: the nats
    of each token, of the first and of the second. moved: for each position the share of the
    probability that the second gives to other tokens than the first does.
    """
    rows = []
    for p, q in zip(first, second):
        tops = [np.argsort(-each, kind="stable")[:n] for each in (p, q)]
        either = np.unique(np.concatenate(tops))
        order = either[np.argsort(-np.maximum(p[either], q[either]), kind="stable")]
        row = []
        for i in order[:n]:
            shares = round(float(p[i]), 5), round(float(q[i]), 5)
            row.append([int(i), spelled(tokenizer, int(i)), *shares])
        rows.append(row)
    moved = np.abs(first - second).sum(-1) / 2
    return {
        "next": rows,
        "surprise": [surprises(first, ids), surprises(second, ids)],
        "moved": [round(float(x), 5) for x in moved],
    }


# ---------------------------------------------------------------------------------- in the terminal


def parse_args(argv):
    """The options of `python -m chat.inside`."""
    parser = argparse.ArgumentParser(
        prog="python -m chat.inside",
        description="Show what a model thinks comes next, layer by layer, and what it thinks when "
        "parts of it are changed.",
    )
    parser.add_argument("text", help="what it reads; special tokens may be written out")
    change = parser.add_argument_group("changes")
    change.add_argument("--off", action="append", default=[], metavar="PART",
                        help="a head, such as 1.3 (layer.head), or an MLP, such as mlp2, that is "
                        "to add nothing; may be repeated")
    change.add_argument("--patch", action="append", default=[], metavar="PART",
                        help="a head, an MLP, or all that is behind a layer, such as layer2, that "
                        "is to write what it wrote for --other; may be repeated")
    change.add_argument("--other", metavar="TEXT",
                        help="the text that --patch takes from, with as many tokens")
    models.add_options(parser)
    device.add_arguments(parser)
    return models.check_options(parser.parse_args(argv))


def main(argv=None):
    """Print a table: a line for each token, with the likeliest next one after some layers."""
    args = parse_args(argv)
    if bool(args.patch) != (args.other is not None):
        raise ValueError("--patch and --other belong together: a part, and the text from which it "
                         "takes what it writes")
    if args.device == "cuda" and (args.off or args.patch):
        raise ValueError("--device cuda: what changes --off and --patch make is computed on the "
                         "cores; leave it out")
    gpu = device.chosen(args, is_for_writing=True)
    folder = models.chosen(args, ("base", "sft"), "base model", "train.py")
    model = sample.load_model(folder, dtype=device.kept_on_cpu(args))
    params, cfg, tokenizer = model
    ids = ids_of(tokenizer, args.text, special=True)
    if gpu:
        model = device.upload(params, cfg, gpu.bf16), cfg, tokenizer
        print_layers(describe(model, ids, lens=1, look=look_on_gpu))
        return
    if not (args.off or args.patch):
        print_layers(describe(model, ids, lens=1))
        return
    other = None if args.other is None else ids_of(tokenizer, args.other, special=True)
    change = patching.change_of(cfg, args.off, args.patch)
    plain = patching.changed(params, cfg, ids, patching.Change())
    logits = patching.changed(params, cfg, ids, change, other)
    first, second = predictions(tokenizer, plain), predictions(tokenizer, logits)
    print_change(tokenizer, ids, side_by_side(tokenizer, first, second, ids, n=8))


def print_layers(found):
    """The table of a text: what is likeliest after some layers."""
    n = found["layers"]
    shown = sorted({round(i * n / (LAYERS - 1)) for i in range(LAYERS)})    # the first and the last
    print(row("token", [f"layer {i}" if i else "embedding" for i in shown], "p"))
    for t, token in enumerate(found["pieces"]):
        guesses = [quoted(found["lens"][i][t][0][1]) for i in shown]
        probability = found["lens"][n][t][0][2]
        print(row(quoted(token), guesses, f"{probability:.2f}"))


def print_change(tokenizer, ids, found):
    """The table of a text with a change: the likeliest next token before and after it."""
    print(f"{'token':16}  {'next':16}{'p':>6}  {'changed':16}{'p':>6}  {'moved':>6}")
    for t, token in enumerate(ids):
        guesses = found["next"][t]
        before = max(guesses, key=lambda guess: guess[2])
        after = max(guesses, key=lambda guess: guess[3])
        piece = quoted(spelled(tokenizer, token))
        print(f"{piece[:16]:16}  {quoted(before[1])[:16]:16}{before[2]:6.2f}  "
              f"{quoted(after[1])[:16]:16}{after[3]:6.2f}  {found['moved'][t]:6.1%}")
    print(f"\n{'after the last token':24}{'before':>8}{'after':>8}")
    for _, text, p, q in found["next"][-1]:
        print(f"{quoted(text)[:24]:24}{p:8.3f}{q:8.3f}")
    before, after = found["surprise"]
    if len(ids) > 1:
        print(f"{'nats a token':24}{np.mean(before[1:]):8.3f}{np.mean(after[1:]):8.3f}")


def quoted(piece):
    """A token for a table: in quotes, on one line."""
    return "'" + piece.replace("\n", "\\n") + "'"


def row(token, guesses, p):
    """A line of the table, of 80 columns at most. What is too long for its column is cut."""
    cells = "".join(f"{guess[: COLUMN - 1]:>{COLUMN}}" for guess in guesses)
    return f"{token[:16]:16} {cells} {p:>6}"


if __name__ == "__main__":
    command.run(main)
