"""train.py: pre-training. Token shards in, a base model out.

The loop is the whole file read from the bottom: take a batch, get loss and gradients from gpt.py, clip,
AdamW, log one line, now and then validate, dream a few lines and save. Everything that decides a step is
computed from (seed, step), so a run killed at any moment and started again ends with the same bits.

Left out: several GPUs, mixed precision, dropout.

    python train.py                                                 the demo: out/demo/tokens -> out/demo/base
    python train.py --preset shakespeare --data FILE.txt --run out/shakespeare      nanoGPT's CPU run

Sources: Loshchilov & Hutter 2019 (AdamW, cosine schedule); Karpathy's nanoGPT (the small recipes);
Chen & Goodman 1999 (the n-gram model a neural one has to beat).
"""

import argparse
import hashlib
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import gpt                      # before numpy: it tells NumPy's BLAS which CPU this is
import bpe
import weights
import numpy as np


@dataclass(frozen=True)
class Recipe:
    """What to train and how. One step sees batch * T tokens, whatever the micro-batch."""

    model: gpt.Config
    steps: int
    batch: int                  # rows a step
    micro_batch: int            # rows that are in memory at once
    lr: float
    min_lr: float
    warmup: int                 # steps
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1   # on matrices and embeddings, not on biases and norms
    clip: float = 1.0           # gradient norm
    eval_every: int = 250
    save_every: int = 250


PRESETS = {
    # 0.76M parameters, about seven passes over the embedded world
    "demo": Recipe(gpt.PRESETS["demo"], steps=1900, batch=8, micro_batch=8, lr=4e-3, min_lr=4e-4, warmup=100,
                   eval_every=500, save_every=200),
    # nanoGPT's config for a laptop CPU, at three times its learning rate: for the same work that brings the
    # validation loss from 1.90 to 1.77
    "shakespeare": Recipe(gpt.PRESETS["shakespeare"], steps=2000, batch=12, micro_batch=12, lr=3e-3, min_lr=3e-4,
                          warmup=100, beta2=0.99, eval_every=250, save_every=250),
    # 124M on ten billion tokens, the recipe of llm.c: 524,288 tokens a step
    "gpt2": Recipe(gpt.PRESETS["gpt2"], steps=18865, batch=512, micro_batch=4, lr=6e-4, min_lr=0.0, warmup=700,
                   eval_every=250, save_every=250),
}


# ------------------------------------------------------------------------------------------------ optimizer


class AdamW:
    """Adam with weight decay taken apart from the gradient.

        m <- m + (1 - b1)(g - m)      v <- v + (1 - b2)(g^2 - v)
        p <- p - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + wd p),  t = 1, 2, ...

    Works in place on the arrays of params, in blocks that stay in cache: memory is walked once. Biases and norms are
    small and many, so they are updated side by side as one vector.
    """

    BLOCK = 32768               # floats; six arrays of it fit a core's L2

    def __init__(self, params, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1):
        self.params, self.t = params, 0
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay
        self.small = [k for k, p in params.items() if p.ndim < 2]
        self.moments = np.zeros((2, sum(params[k].size for k in self.small)), next(iter(params.values())).dtype)
        self.m, self.v, at = {}, {}, 0
        for k, p in params.items():
            if p.ndim < 2:
                self.m[k], self.v[k] = self.moments[:, at:at + p.size]
                at += p.size
            else:
                self.m[k], self.v[k] = np.zeros_like(p), np.zeros_like(p)
        self.large = [(k, i, min(i + self.BLOCK, p.size)) for k, p in params.items() if p.ndim >= 2
                      for i in range(0, p.size, self.BLOCK)]

    def step(self, grads, lr, scale=1.0):
        """One update with the gradients times scale, which is how clipping arrives here."""
        self.t += 1
        decay = lr * self.weight_decay                  # on matrices and embeddings

        def blocks(part):
            for k, i, j in self.large[part(len(self.large))]:
                self._update(*(a[k].reshape(-1)[i:j] for a in (self.params, grads, self.m, self.v)), lr, scale, decay)

        gpt.in_parallel(blocks)
        if self.small:
            p, g = (np.concatenate([a[k] for k in self.small]) for a in (self.params, grads))
            self._update(p, g, *self.moments, lr, scale, 0.0)
            at = 0
            for k in self.small:
                n = self.params[k].size
                self.params[k][...] = p[at:at + n]
                at += n

    def _update(self, p, g, m, v, lr, scale, decay):
        b1, b2 = self.beta1, self.beta2
        c1, c2 = 1.0 - b1 ** self.t, math.sqrt(1.0 - b2 ** self.t)
        d = g * ((1.0 - b1) * scale)
        m *= b1
        m += d
        d *= d
        d *= (1.0 - b2) / (1.0 - b1) ** 2
        v *= b2
        v += d
        np.sqrt(v, out=d)                               # m / c1 / (sqrt(v) / c2 + eps) = (c2 / c1) m / (sqrt(v) + c2 eps)
        d += c2 * self.eps
        np.divide(m, d, out=d)
        d *= lr * c2 / c1
        if decay:
            p *= 1.0 - decay
        p -= d


def grad_norm(grads):
    """Length of all gradients taken as one vector."""
    return math.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))


def clip_scale(norm, limit):
    """Factor that brings a gradient of this norm down to the limit; 1 when it is below."""
    return min(1.0, limit / norm) if norm > 0 else 1.0


def learning_rate(step, recipe):
    """Linear warm-up to lr, then a cosine towards min_lr, reached when the last step is done. Steps count from 0."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.min_lr + 0.5 * (recipe.lr - recipe.min_lr) * (1.0 + math.cos(math.pi * progress))


# ----------------------------------------------------------------------------------------------------- data


class Windows:
    """Rows of T+1 tokens from memory-mapped shards: inputs are the first T, targets the last T.

    Each epoch cuts the shards into windows from a new random offset and visits them all in a new random
    order. Which windows make up row i of the run depends on the seed and i alone, so the position of a
    loader is a number and needs no saving.
    """

    def __init__(self, shards, T, seed):
        self.shards = [s for s in shards if len(s) >= 2 * T]
        if 0 < len(self.shards) < len(shards):
            print(f"{len(shards) - len(self.shards)} of {len(shards)} shards are shorter than two windows of {T} tokens "
                  f"and are left out ({sum(len(s) for s in shards if len(s) < 2 * T):,} tokens)", file=sys.stderr)
        if not self.shards:
            raise ValueError(f"{sum(map(len, shards))} tokens are too few for windows of {T}; "
                             "make more text, or train with a shorter context")
        self.T, self.seed, self._epoch = T, seed, None
        self.per_epoch = sum(map(self._windows, self.shards))

    def _windows(self, shard):
        return len(shard) // self.T - 1                 # this many fit behind any offset below T

    def _starts(self, epoch):
        if self._epoch != epoch:
            rng, starts = np.random.default_rng((self.seed, epoch)), []
            for i, shard in enumerate(self.shards):
                offset = int(rng.integers(self.T))
                starts += [(i, offset + self.T * j) for j in range(self._windows(shard))]
            self._epoch, self._order = epoch, [starts[j] for j in rng.permutation(len(starts))]
        return self._order

    def rows(self, first, count):
        """(count, T+1) int64: rows first .. first + count - 1 of the run."""
        out = np.empty((count, self.T + 1), np.int64)
        for i in range(count):
            epoch, j = divmod(first + i, self.per_epoch)
            shard, start = self._starts(epoch)[j]
            out[i] = self.shards[shard][start:start + self.T + 1]
        return out


def load_shards(run, tokenizer):
    """(train, val) lists of memory maps from run/tokens, checked against the run's tokenizer."""
    folder, found = Path(run) / "tokens", {}
    for split in ("train", "val"):
        paths = sorted(folder.glob(f"{split}_*.bin"))
        if not paths:
            raise FileNotFoundError(f"{folder}/{split}_*.bin: no token shards; make them with: "
                                    f"python bpe.py encode --run {run}")
        for path in paths:
            info = bpe.shard_info(path)
            if info.n_vocab and info.fingerprint != tokenizer.fingerprint:
                raise ValueError(f"{path}: made by another tokenizer ({info.fingerprint}) than {run}/tokenizer.json "
                                 f"({tokenizer.fingerprint}); remake it with: python bpe.py encode --run {run}")
        found[split] = [bpe.open_shard(p) for p in paths]
    return found["train"], found["val"]


def load_characters(path):
    """(tokenizer, train, val) of a text file with its characters as tokens, the last tenth for validation."""
    try:
        text = Path(path).read_bytes().decode("utf-8")          # as it is: no newline is translated
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: not UTF-8 text ({e.reason} at byte {e.start})") from None
    if not text:
        raise ValueError(f"{path}: empty file, there is nothing to learn")
    tokenizer = bpe.Tokenizer.characters(text)
    ids = tokenizer.encode_to_numpy(text)
    cut = int(len(ids) * 0.9)
    return tokenizer, [ids[:cut]], [ids[cut:]]


# ----------------------------------------------------------------------------------------------- evaluation


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


def evaluate(params, cfg, tokenizer, shards, batch=32):
    """(nats per token, bits per byte) on the validation rows."""
    rows, n_bytes = validation_rows(shards, cfg.n_positions), bytes_of_tokens(tokenizer)
    nats = {True: 0.0, False: 0.0}                      # of tokens with bytes, and without
    for i in range(0, len(rows), batch):
        tokens, targets = rows[i:i + batch, :-1], rows[i:i + batch, 1:]
        for plain in nats:
            weights = ((n_bytes[targets] > 0) == plain).astype(np.float64)
            nats[plain] += gpt.loss_and_grads(params, cfg, tokens, targets, weights, want_grads=False)[0]
    targets = rows[:, 1:]
    return sum(nats.values()) / targets.size, nats[True] / math.log(2) / n_bytes[targets].sum()


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


def dream(params, cfg, tokenizer, seed, n_tokens=60):
    """What the model writes by itself after an end of text (after token 0 where there is none), at temperature 1."""
    rng = np.random.default_rng(seed)
    token = tokenizer.special_tokens.get("<|endoftext|>", 0)
    cache, ids = gpt.Cache(cfg, 1), []
    for _ in range(min(n_tokens, cfg.n_positions)):
        logits = gpt.decode(params, cfg, np.array([[token]]), cache, only_last=True)[0]
        token = int(np.argmax(logits + rng.gumbel(size=logits.shape)))      # the same as drawing from their softmax
        ids.append(token)
    return tokenizer.decode(ids)


# ----------------------------------------------------------------------------- checkpoints, log, exact resume


def settings(recipe):
    """What of a recipe decides the weights, as one flat dict: the model's sizes too, but not when to look and save."""
    flat = asdict(recipe)
    return {k: v for k, v in {**flat.pop("model", {}), **flat}.items() if k not in ("eval_every", "save_every")}


def save_checkpoint(folder, params, optimizer, step, identity):
    """One file holds all that resuming needs, and it appears whole or not at all."""
    tensors = dict(params)
    for kind in ("m", "v"):
        tensors.update({f"adamw.{kind}.{k}": a for k, a in getattr(optimizer, kind).items()})
    weights.save_safetensors(Path(folder) / "trainer.safetensors", tensors,
                         {"step": str(step), "adamw.t": str(optimizer.t), "identity": json.dumps(identity, sort_keys=True)})


def load_checkpoint(folder, params, optimizer, identity, on_mismatch="error"):
    """Fill params and optimizer from the folder's checkpoint; returns the steps done, 0 when there is none.

    identity is everything a run depends on: recipe, seed, fingerprints of data and starting weights. A
    checkpoint of another identity is an error, or ignored with a notice when on_mismatch is "restart".
    """
    path = Path(folder) / "trainer.safetensors"
    if not path.exists():
        return 0
    places = {prefix + k: a for prefix, arrays in (("", params), ("adamw.m.", optimizer.m), ("adamw.v.", optimizer.v))
              for k, a in arrays.items()}
    try:
        tensors, meta = weights.load_safetensors(path)
        theirs = json.loads(meta["identity"])
        step, t = int(meta["step"]), int(meta["adamw.t"])
        differs = [f"{k}: checkpoint {theirs.get(k)!r}, now {identity.get(k)!r}"
                   for k in {**identity, **theirs} if theirs.get(k) != identity.get(k)]
        if not differs:
            differs = [f"{k}: checkpoint {getattr(tensors.get(k), 'shape', None)}, now {a.shape}" for k, a in places.items()
                       if k not in tensors or tensors[k].shape != a.shape or not np.isfinite(tensors[k]).all()]
        if not 0 < t <= step <= identity.get("steps", step):
            differs.append(f"step {step} with {t} updates: impossible")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        differs = [f"it is damaged ({type(e).__name__}: {e})"]
    if differs:
        if on_mismatch == "restart":
            print(f"{path}: cannot resume, {differs[0]}; starting over", file=sys.stderr)
            return 0
        shown = "; ".join(differs[:6] + [f"and {len(differs) - 6} more"] * (len(differs) > 6))
        raise ValueError(f"{path}: cannot resume, {shown}. Give back the old settings, start over "
                         f"with --on-mismatch restart, or train into another folder with --run")
    for k, a in places.items():
        a[...] = tensors[k]
    optimizer.t = t
    return step


class Log:
    """log.jsonl: one JSON object a line, each with its step. Lines after the resumed step are dropped,
    so that a run killed between two checkpoints does not leave steps twice."""

    def __init__(self, folder, step):
        self.path = Path(folder) / "log.jsonl"
        kept = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except (ValueError, KeyError, TypeError, RecursionError):
                    break                               # the half line a kill left behind
        weights.write_text(self.path, "".join(f"{line}\n" for line in kept))
        self.file = open(self.path, "a", encoding="utf-8")

    def write(self, **values):
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()


def begin(folder, params, optimizer, cfg, tokenizer, identity, on_mismatch="error"):
    """Open a stage's folder: (steps done, log), with params and optimizer filled from a checkpoint of this run.

    A model that some other run finished there is not overwritten unless on_mismatch says so; and then it goes
    at once, so that no half-trained folder ever looks finished.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.safetensors"
    done = load_checkpoint(folder, params, optimizer, identity, on_mismatch)
    if not done and model.exists():
        if on_mismatch != "restart":
            raise ValueError(f"{model}: a model that this run did not make is already there. Replace it with "
                             "--on-mismatch restart, or train into another folder with --run")
        model.unlink()
    if not done:
        (folder / "trainer.safetensors").unlink(missing_ok=True)       # it would stand beside a tokenizer that is not its own
    gpt.save_config(folder, cfg)
    tokenizer.save(folder / "tokenizer.json")
    return done, Log(folder, done)


def update(optimizer, grads, loss, step, recipe):
    """Clip and apply one step's gradients; returns (gradient norm, learning rate)."""
    norm, lr = grad_norm(grads), learning_rate(step, recipe)
    if not math.isfinite(norm):
        raise ValueError(f"step {step + 1}: loss {loss}, gradient norm {norm}; lower --lr (now {recipe.lr})")
    optimizer.step(grads, lr, clip_scale(norm, recipe.clip))
    return norm, lr


def fingerprint(arrays):
    """A short name for the exact contents of some arrays."""
    h = hashlib.sha256()
    for a in arrays:
        h.update(str((a.shape, a.dtype.str)).encode())
        h.update(np.ascontiguousarray(a).view(np.uint8).data)
    return h.hexdigest()[:16]


# ----------------------------------------------------------------------------------------------------- train


def train(recipe, tokenizer, train_shards, val_shards, folder, seed=0, on_mismatch="error"):
    """Run the recipe to its end, or on from where an earlier call was killed. Returns (params, last log entry)."""
    cfg, folder = recipe.model, Path(folder)
    windows = Windows(train_shards, cfg.n_positions, seed)
    validation_rows(val_shards, cfg.n_positions)        # an error now rather than after an hour
    identity = {**settings(recipe), "seed": seed, "tokens": fingerprint(train_shards),
                "tokenizer": tokenizer.fingerprint, "threads": gpt.N_THREADS}
    params = gpt.init(cfg, seed)
    optimizer = AdamW(params, recipe.beta1, recipe.beta2, weight_decay=recipe.weight_decay)
    done, log = begin(folder, params, optimizer, cfg, tokenizer, identity, on_mismatch)
    started = time.perf_counter()
    tokens_per_step = recipe.batch * cfg.n_positions
    print(f"{folder}: {cfg.n_params:,} parameters, {recipe.steps:,} steps of {tokens_per_step:,} tokens, "
          f"{recipe.steps * recipe.batch / windows.per_epoch:.1f} passes over {windows.per_epoch * cfg.n_positions:,} tokens"
          + (f"; resuming after step {done:,}" if done else ""), file=sys.stderr)

    entry = {}
    for step in range(done, recipe.steps):
        t0 = time.perf_counter()
        rows = windows.rows(step * recipe.batch, recipe.batch)
        loss, grads = 0.0, None
        for i in range(0, recipe.batch, recipe.micro_batch):
            part = rows[i:i + recipe.micro_batch]
            weights = np.full((len(part), cfg.n_positions), 1.0 / tokens_per_step)      # a mean over the whole step
            part_loss, part_grads = gpt.loss_and_grads(params, cfg, part[:, :-1], part[:, 1:], weights)
            loss += part_loss
            if grads is None:
                grads = part_grads
            else:
                for k in grads:
                    grads[k] += part_grads[k]
        norm, lr = update(optimizer, grads, loss, step, recipe)
        dt = time.perf_counter() - t0
        entry = dict(step=step + 1, tokens=(step + 1) * tokens_per_step, loss_nats=round(loss, 6), lr=lr,
                     grad_norm=round(norm, 6), dt_s=round(dt, 4), tokens_per_s=round(tokens_per_step / dt))
        last = step + 1 == recipe.steps
        if last or (step + 1) % recipe.eval_every == 0:
            entry["val_loss_nats"], entry["val_bits_per_byte"] = evaluate(params, cfg, tokenizer, val_shards)
            said = dream(params, cfg, tokenizer, seed + step)
            print(f"\nstep {step + 1:,}: validation {entry['val_loss_nats']:.4f} nats a token, "
                  f"{entry['val_bits_per_byte']:.4f} bits a byte. It dreams: {said!r}", file=sys.stderr)
        log.write(**entry)
        if last or (step + 1) % recipe.save_every == 0:
            save_checkpoint(folder, params, optimizer, step + 1, identity)
        if last or (step + 1) % 10 == 0:
            left = (time.perf_counter() - started) / (step + 1 - done) * (recipe.steps - step - 1)
            print(f"\rstep {step + 1:,}/{recipe.steps:,}  loss {loss:.4f}  lr {lr:.2e}  norm {norm:.2f}  "
                  f"{entry['tokens_per_s']:,} tokens/s  {left:,.0f} s left ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if not entry:                                       # it was already finished
        entry["tokens"] = done * tokens_per_step
        entry["val_loss_nats"], entry["val_bits_per_byte"] = evaluate(params, cfg, tokenizer, val_shards)
    gpt.save(folder, params, cfg)
    return params, entry


def parse_args(argv=None):
    p = argparse.ArgumentParser(description="Pre-train a GPT.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    where = p.add_argument_group("where")
    where.add_argument("--run", default="out/demo", help="run folder")
    where.add_argument("--data", help="a text file to train on by its characters, in place of RUN/tokens")
    what = p.add_argument_group("what; the defaults are the preset's")
    what.add_argument("--preset", default="demo", choices=sorted(PRESETS), help="model and recipe")
    what.add_argument("--steps", type=int, help="optimizer steps")
    what.add_argument("--batch", type=int, help="rows a step")
    what.add_argument("--micro-batch", type=int, help="rows in memory at once; the step stays the same")
    what.add_argument("--lr", type=float, help="peak learning rate; the final one keeps its ratio to it")
    what.add_argument("--eval-every", type=int, help="steps between validations")
    what.add_argument("--save-every", type=int, help="steps between checkpoints")
    p.add_argument("--seed", type=int, default=0, help="of the weights and of the order of the data")
    p.add_argument("--on-mismatch", default="error", choices=("error", "restart"),
                   help="when the folder holds a checkpoint of other settings or data")
    return p.parse_args(argv)


def main(argv=None):
    args, started = parse_args(argv), time.perf_counter()
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: must be 0 or more")
    recipe = PRESETS[args.preset]
    changes = {k: getattr(args, k) for k in ("steps", "batch", "micro_batch", "lr", "eval_every", "save_every")}
    changes = {k: v for k, v in changes.items() if v is not None}
    for name, value in changes.items():
        if not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} {value}: must be above 0 and finite")
    if "lr" in changes:
        changes["min_lr"] = recipe.min_lr * args.lr / recipe.lr
    recipe = replace(recipe, **changes)
    recipe = replace(recipe, micro_batch=min(recipe.micro_batch, recipe.batch), warmup=min(recipe.warmup, recipe.steps))

    run = Path(args.run)
    if args.data:
        tokenizer, train_shards, val_shards = load_characters(args.data)
        run.mkdir(parents=True, exist_ok=True)
    else:
        if not run.is_dir():
            raise FileNotFoundError(f"{run}: no such run folder; make the demo's with: make, or name a text with --data")
        path = run / "tokenizer.json"
        if not path.exists():
            raise FileNotFoundError(f"{path}: no tokenizer; train one with: python bpe.py train --run {run}")
        tokenizer = bpe.Tokenizer.load(path)
        train_shards, val_shards = load_shards(run, tokenizer)
    recipe = replace(recipe, model=replace(recipe.model, vocab_size=tokenizer.n_vocab))
    for shard in (*train_shards, *val_shards):
        if int(shard.max()) >= tokenizer.n_vocab:
            raise ValueError(f"{getattr(shard, 'filename', args.data)}: token {int(shard.max())} is beyond the "
                             f"vocabulary of {tokenizer.n_vocab}")

    _, last = train(recipe, tokenizer, train_shards, val_shards, run / "base", args.seed, args.on_mismatch)
    seconds = time.perf_counter() - started
    # The same tokens under n-gram models of the training text (of its first 20 million tokens a shard).
    seen = np.concatenate([np.asarray(s[:20_000_000]) for s in train_shards])
    targets, n_bytes = validation_rows(val_shards, recipe.model.n_positions)[:, 1:].ravel(), bytes_of_tokens(tokenizer)
    nats = {n: ngram_nats(seen, targets, n, tokenizer.n_vocab) for n in (1, 5)}
    bits = {n: x[n_bytes[targets] > 0].sum() / math.log(2) / n_bytes[targets].sum() for n, x in nats.items()}
    print(f"validation, nats a token: {last['val_loss_nats']:.4f}; 5-gram {nats[5].mean():.4f}, unigram {nats[1].mean():.4f}")
    read, made = f"{last['tokens']:,} tokens read", f"{recipe.model.n_params:,} parameters"
    print(f"{'base':8} {read:32} {made:36} {seconds:5.0f} s   bits a byte {last['val_bits_per_byte']:.3f}; "
          f"5-gram {bits[5]:.3f}, unigram {bits[1]:.3f}")


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:                             # whoever read our output has gone, as head does
        os._exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, MemoryError) as e:
        sys.exit(f"train.py: error: {e}")
