"""train.py: pre-training. Token shards in, a base model out.

The loop at the end of the file: take a batch, get loss and gradients from gpt.py, clip, AdamW, log one line, now
and then validate, dream a few lines and save. Everything that decides a step is
computed from (seed, step), so a run killed at any moment and started again ends with the same bits.

Left out: several GPUs, dropout.

    python train.py                                                 the demo: out/demo/tokens -> out/demo/base
    python train.py --preset shakespeare --data FILE.txt --run out/shakespeare      nanoGPT's CPU run
    python train.py --preset gpt2 --data fineweb10B/ --tokenizer r50k_base.tiktoken --run out/gpt2      shards of llm.c
    python train.py --device cuda ...                               the same on a GPU, in bfloat16 (model/device.py)
    python train.py --bench char                                    tokens a second on random tokens

Sources: Loshchilov & Hutter 2019 (AdamW, cosine schedule); Karpathy's nanoGPT and llm.c (the recipes).
"""

import argparse
import contextlib
import hashlib
import json
import math
import mmap
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from model import cores                    # before numpy: it tells NumPy's BLAS which CPU this is
import bpe
from model import checkpoint
from run import command, disk
from model import device
from model import evaluate
from model import fast
from model import operations
from model import folders
import gpt
import numpy as np
from run import runs
from tokens import huggingface
from tokens.shards import check_ids, open_shard, read_documents


@dataclass(frozen=True)
class Recipe:
    """What to train and how. One step sees batch * T tokens, however few of them fit in memory at once."""

    model: gpt.Config
    steps: int
    batch: int                  # rows a step
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
    "demo": Recipe(gpt.PRESETS["demo"], steps=1900, batch=8, lr=4e-3, min_lr=4e-4, warmup=100, eval_every=500, save_every=200),
    # nanoGPT's config for a laptop CPU, at three times its learning rate: for the same work that brings the
    # validation loss from 1.90 to 1.77
    "shakespeare": Recipe(gpt.PRESETS["shakespeare"], steps=2000, batch=12, lr=3e-3, min_lr=3e-4, warmup=100, beta2=0.99),
    # nanoGPT's config for a GPU and the same text, without its dropout: it will overfit before the end
    "baby": Recipe(gpt.PRESETS["baby"], steps=5000, batch=64, lr=1e-3, min_lr=1e-4, warmup=100, beta2=0.99),
    # llm.c's recipes on FineWeb: 10, 30 and 150 billion tokens, and 33.5 billion of FineWeb-Edu
    "gpt2": Recipe(gpt.PRESETS["gpt2"], steps=18865, batch=512, lr=6e-4, min_lr=0.0, warmup=700),
    "gpt2-medium": Recipe(gpt.PRESETS["gpt2-medium"], steps=60000, batch=512, lr=3e-4, min_lr=0.0, warmup=700),
    "gpt2-large": Recipe(gpt.PRESETS["gpt2-large"], steps=286102, batch=512, lr=2.5e-4, min_lr=0.0, warmup=700),
    "gpt2-xl": Recipe(gpt.PRESETS["gpt2-xl"], steps=32000, batch=1024, lr=6e-4, min_lr=6e-5, warmup=700),
}

# What --bench measures: model, rows a step
BENCH = {
    "char": (gpt.PRESETS["shakespeare"], 12),
    "small": (gpt.Config(512, 128, 128, 4, 4), 16),
    "baby": (gpt.PRESETS["baby"], 16),
    "gpt2": (gpt.Config(50304, 512, 768, 12, 12), 2),
}


# ------------------------------------------------------------------------------------------------ optimizer


class AdamW:
    """Adam with weight decay taken apart from the gradient.

        m <- m + (1 - b1)(g - m)      v <- v + (1 - b2)(g^2 - v)
        p <- p - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + wd p),  t = 1, 2, ...

    Works in place on the arrays of params, in blocks that stay in cache: memory is walked once. Biases and norms are
    small and many, so they are updated side by side as one vector.
    """

    BLOCK = 131072              # floats: few enough blocks, small enough for the cache

    def __init__(self, params, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1):
        self.params, self.t, self.skipped = params, 0, 0
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

        cores.in_parallel(blocks)
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

    With document_start, the token before each document, every window begins where a document begins, and what lies
    between the end of one window and the next such place is left out.
    """

    def __init__(self, shards, T, seed, document_start=None):
        self.shards = [s for s in shards if len(s) >= 2 * T]
        if not self.shards:
            raise ValueError(f"{sum(map(len, shards))} tokens are too few for windows of {T}; "
                             "make more text, or train with a shorter context")
        if len(self.shards) < len(shards):
            print(f"{len(shards) - len(self.shards)} of {len(shards)} shards are shorter than two windows of {T} tokens "
                  f"and are left out ({sum(len(s) for s in shards if len(s) < 2 * T):,} tokens)", file=sys.stderr)
        self.T, self.seed, self._epoch, self.aligned = T, seed, None, None
        self.per_epoch = sum(len(s) // T - 1 for s in self.shards)      # so many fit behind any offset below T
        if document_start is not None:
            self.aligned = [self._at_documents(s, document_start) for s in self.shards]
            self.per_epoch, n_tokens = sum(map(len, self.aligned)), sum(map(len, self.shards))
            if not self.per_epoch:
                raise ValueError(f"no document starts {T} tokens before the end of its shard; train without --align-documents")
            print(f"windows at the start of documents: {self.per_epoch:,}; {1 - self.per_epoch * T / n_tokens:.1%} of the "
                  "tokens are in none", file=sys.stderr)

    def _at_documents(self, shard, document_start):     # -> starts of windows that do not overlap
        documents, starts, at = np.flatnonzero(np.asarray(shard) == document_start), [], 0
        while (k := np.searchsorted(documents, at)) < len(documents) and documents[k] + self.T < len(shard):
            starts.append(documents[k])
            at = starts[-1] + self.T
        return np.array(starts, np.int64)

    def _starts(self, epoch):                           # (per_epoch, 2) int64: shard, first token
        if self._epoch != epoch:
            rng, found = np.random.default_rng((self.seed, epoch)), []
            for i, shard in enumerate(self.shards):
                offset = int(rng.integers(self.T))
                starts = self.aligned[i] if self.aligned else offset + self.T * np.arange(len(shard) // self.T - 1)
                found.append(np.stack([np.full(len(starts), i), starts], 1))
            found = np.concatenate(found)
            self._epoch, self._order = epoch, found[rng.permutation(len(found))]
        return self._order

    def rows(self, first, count):
        """(count, T+1) int64: rows first .. first + count - 1 of the run."""
        out = np.empty((count, self.T + 1), np.int64)
        for n in range(count):
            epoch, j = divmod(first + n, self.per_epoch)
            i, start = self._starts(epoch)[j]
            out[n] = self.shards[i][start:start + self.T + 1]
        return out


def load_run(run, tokenizer):
    """(train, val) lists of memory maps from run/tokens, checked against the run's tokenizer."""
    folder, found = Path(run) / "tokens", {}
    runs.check_settled(folder / ".new", f"python bpe.py encode --run {run}")
    for split in ("train", "val"):
        paths = sorted(folder.glob(f"{split}_*.bin"))
        if folder / f"{split}_000000.bin" not in paths:
            raise FileNotFoundError(f"{folder}/{split}_000000.bin: no such shard; make them with: "
                                    f"python bpe.py encode --run {run}")
        found[split] = [open_shard(p, tokenizer) for p in paths]
    return found["train"], found["val"]


def load_shards(paths, raw, tokenizer=None):
    """(train, val) of token shards that any program wrote: llm.c, modded-nanogpt, and with raw nanoGPT, whose files are
    uint16 tokens and nothing else. tokenizer: as for open_shard. What has "val" in its name is for validation."""
    paths = sorted(p for path in paths for p in (path.glob("*.bin") if path.is_dir() else [path]))
    split = {True: [], False: []}
    for path in paths:
        n_bytes = path.stat().st_size
        if raw and (n_bytes % 2 or not n_bytes):
            raise ValueError(f"{path}: {n_bytes} bytes are no whole number of uint16 tokens above 0")
        split["val" in path.name].append(np.memmap(path, "<u2", "r") if raw else open_shard(path, tokenizer))
    for name, found in (("val", split[True]), ("train", split[False])):
        if not found:
            raise FileNotFoundError(f"{', '.join(map(str, paths)) or 'no *.bin file'}: no shard for {name}; the validation shards "
                                    'are those with "val" in their names')
    return split[False], split[True]


def load_characters(path):
    """(tokenizer, train, val) of a text file with its characters as tokens, the last tenth for validation."""
    try:
        text = Path(path).read_bytes().decode("utf-8")          # as it is: no newline is translated
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: not UTF-8 text ({e.reason} at byte {e.start})") from None
    if not text:
        raise ValueError(f"{path}: empty file, there is nothing to learn")
    tokenizer = bpe.Tokenizer.characters(text)
    ids = tokenizer.encode_to_numpy(text, disallowed_special=())
    cut = int(len(ids) * 0.9)
    return tokenizer, [ids[:cut]], [ids[cut:]]


def load_documents(paths, tokenizer):
    """(train, val) of .txt, .jsonl and .jsonl.gz files in a tokenizer's tokens, about a tenth for validation. Before each
    document stands <|endoftext|>, where the vocabulary has it."""
    parts, start = {"train": [], "val": []}, tokenizer.special_tokens.get("<|endoftext|>")
    for path in paths:
        for split, text in read_documents(path, val_percent=10):
            parts[split] += [np.array([start], np.uint32)] * (start is not None) + [tokenizer.encode_to_numpy(text, disallowed_special=())]
    if not all(parts.values()):
        raise ValueError(f"{', '.join(map(str, paths))}: too few documents for {' and '.join(k for k, v in parts.items() if not v)}")
    return tuple([np.concatenate(parts[split])] for split in ("train", "val"))


def dream(params, cfg, tokenizer, seed, n_tokens=60, engine=fast):
    """What the model writes by itself after an end of text (after token 0 where there is none), at temperature 1."""
    rng = np.random.default_rng(seed)
    token = tokenizer.special_tokens.get("<|endoftext|>", 0)
    cache, ids = engine.Cache(cfg, 1, like=params["wte.weight"]), []
    for _ in range(min(n_tokens, cfg.n_positions)):
        logits = engine.decode(params, cfg, np.array([[token]]), cache, only_last=True)[0, :tokenizer.n_vocab]
        logits[tokenizer.holes] = -np.inf               # ids that no token has
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
    about = {"step": str(step), "adamw.t": str(optimizer.t), "identity": json.dumps(identity, sort_keys=True)}
    checkpoint.save_safetensors(Path(folder) / "trainer.safetensors", tensors, about)


def differences(path, params, optimizer, identity):
    """What keeps a run from going on from this checkpoint: a list of sentences, empty when nothing does.

    identity is everything a run depends on: recipe, seed, fingerprints of data and starting weights.
    """
    try:
        tensors, meta = checkpoint.load_safetensors(path)
        theirs = json.loads(meta["identity"])
        step, t = int(meta["step"]), int(meta["adamw.t"])
        found = [f"{k}: checkpoint {theirs.get(k)!r}, now {identity.get(k)!r}"
                 for k in {**identity, **theirs} if theirs.get(k) != identity.get(k)]
        if not found:
            found = [f"{k}: checkpoint {getattr(tensors.get(k), 'shape', None)}, now {a.shape}"
                     for k, a in checkpoint_arrays(params, optimizer).items()
                     if k not in tensors or tensors[k].shape != a.shape or not np.isfinite(tensors[k]).all()]
        if not 0 <= t - identity.get("updates_before", 0) <= step <= identity.get("steps", step):
            found.append(f"step {step} with {t} updates: impossible")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        found = [f"it is damaged ({type(e).__name__}: {e})"]
    return found


def checkpoint_arrays(params, optimizer):
    """{name in a checkpoint: the array it fills}."""
    return {prefix + k: a for prefix, arrays in (("", params), ("adamw.m.", optimizer.m), ("adamw.v.", optimizer.v))
            for k, a in arrays.items()}


def load_checkpoint(path, params, optimizer):
    """Fill params and optimizer from a checkpoint that has no differences(); returns the steps done."""
    tensors, meta = checkpoint.load_safetensors(path)
    for k, a in checkpoint_arrays(params, optimizer).items():
        a[...] = tensors[k]
    optimizer.t = int(meta["adamw.t"])
    return int(meta["step"])


def checkpoint_identity(path):
    """The identity of the run that a checkpoint is of; empty where there is none to read."""
    try:
        return dict(json.loads(checkpoint.load_safetensors(path)[1]["identity"]))
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def kept_settings(folder, identity, names):
    """{name: value} of settings that a run keeps from its own checkpoint, because they decide the order of its sums and
    so its last bits: how many rows at once, how many threads. Empty where the folder has no checkpoint of this run."""
    for place in (Path(folder), Path(folder) / NEW):
        before = checkpoint_identity(place / "trainer.safetensors")
        if before and all(before.get(k) == v for k, v in identity.items() if k not in names):
            return {k: before[k] for k in names if k in before}
    return {}


def keep_threads(kept):
    """As many threads as a run began with, where kept_settings() knows it, else one for each core. Returns how many."""
    n = kept.get("threads", cores.N_THREADS)
    if n != cores.N_THREADS:
        print(f"going on with {n} threads, as this run began, for the same bits; this machine has {cores.N_THREADS} cores", file=sys.stderr)
        cores.N_THREADS = n
    return n


class Log:
    """log.jsonl: one JSON object a line, each with its step, and the seconds spent since the run began (spent_s).

    Lines after the resumed step are dropped, so that a run killed between two checkpoints does not leave steps twice.
    seconds: what the processes before this one spent on the steps that are kept.
    """

    def __init__(self, folder, step):
        self.path, self.seconds = Path(folder) / "log.jsonl", 0.0
        kept = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    if entry["step"] <= step:
                        kept.append(line)
                        self.seconds = float(entry.get("spent_s", 0.0))
                except (ValueError, KeyError, TypeError, RecursionError):
                    break                               # the half line a kill left behind
        disk.write_text(self.path, "".join(f"{line}\n" for line in kept))
        self.file = open(self.path, "a", encoding="utf-8")

    def write(self, **values):
        self.file.write(json.dumps({**values, "spent_s": round(runs.seconds_spent(), 1)}) + "\n")
        self.file.flush()


NEW = ".new"                    # in a stage's folder: where a model is made while another run's finished one stands there


class Stage(NamedTuple):
    """A stage that has begun: where its files go, and how far an earlier process took it."""

    folder: Path
    place: Path                 # the folder, or NEW in it
    done: int                   # steps
    log: Log
    identity: dict

    def save_checkpoint(self, params, optimizer, step):
        save_checkpoint(self.place, params, optimizer, step, self.identity)

    def finish(self, params, cfg, save):
        """Write the model with save(folder, params, cfg). An old one goes only now."""
        save(self.place, params, cfg)
        self.log.file.flush()
        if self.place != self.folder:
            runs.publish(self.place, self.folder, "model.safetensors", ["trainer.safetensors"])


@contextlib.contextmanager
def begun(folder, params, optimizer, cfg, tokenizer, identity, on_mismatch="error", end="<|endoftext|>"):
    """Give a Stage for a folder that no other process trains in, with params and optimizer filled from its checkpoint.

    A checkpoint of another run, or a model that another run finished there, is an error unless on_mismatch is
    "restart". Then a finished model stays, with all that belongs to it, until this one is finished: it is made in
    FOLDER/.new. end: the token behind which the model has no more to say, for transformers.
    """
    folder = Path(folder)
    with runs.locked(folder, "training"):
        runs.settle(folder / NEW, folder)
        place, found = folder, {}
        for candidate in (folder, folder / NEW):
            path = candidate / "trainer.safetensors"
            if path.exists():
                found[candidate] = differences(path, params, optimizer, identity)
                if not found[candidate]:
                    place = candidate
        resumes = found.get(place) == []
        if not resumes:
            place = start_over(folder, found, on_mismatch)
        done = load_checkpoint(place / "trainer.safetensors", params, optimizer) if resumes else 0
        if not resumes or not (place / "config.json").exists():         # what a stage wrote in it when it ended stays
            if tokenizer:
                tokenizer.save(place / "tokenizer.json", end)
                save_generation_config(place, tokenizer, end)
            folders.save_config(place, cfg)
        log = Log(place, done)
        runs.add_earlier(log.seconds)
        try:
            yield Stage(folder, place, done, log, identity)
        finally:
            log.file.close()


def start_over(folder, found, on_mismatch):
    """The place for a run that goes on from nothing, after asking whether it may. found: {place: differences}."""
    model = folder / "model.safetensors"
    for place, differs in found.items():
        path = place / "trainer.safetensors"
        if on_mismatch == "restart":
            print(f"{path}: cannot resume, {differs[0]}; starting over", file=sys.stderr)
            continue
        shown = "; ".join(differs[:6] + [f"and {len(differs) - 6} more"] * (len(differs) > 6))
        raise ValueError(f"{path}: cannot resume, {shown}. Give back the old settings, start over "
                         f"with --on-mismatch restart, or train into another folder with --run")
    if model.exists() and on_mismatch != "restart":
        raise ValueError(f"{model}: a model that this run did not make is already there. Replace it with "
                         "--on-mismatch restart, or train into another folder with --run or --out")
    shutil.rmtree(folder / NEW, ignore_errors=True)
    if not model.exists():
        (folder / "trainer.safetensors").unlink(missing_ok=True)       # it would stand beside a tokenizer that is not its own
        return folder
    print(f"{model}: stays until this run is finished", file=sys.stderr)
    (folder / NEW).mkdir()
    return folder / NEW


def save_generation_config(folder, tokenizer, end):
    """generation_config.json, which tells transformers where a text begins and ends, and what pads it; config.json repeats it."""
    ids = {f"{role}_token_id": tokenizer.special_tokens.get(name) for role, name in huggingface.roles(tokenizer.special_tokens, end).items()}
    disk.write_text(Path(folder) / "generation_config.json", json.dumps(ids, indent=2) + "\n")


MOST_SKIPPED = 10               # updates in a row that may fail before a run gives up


def update(optimizer, grads, loss, step, recipe):
    """Clip and apply one step's gradients. Returns (gradient norm, learning rate, None or why the step was skipped):
    one number that is not finite would spread to every weight."""
    norm, lr = grad_norm(grads), learning_rate(step, recipe)
    why = why_skipped(optimizer, loss, norm, step, recipe)
    if not why:
        optimizer.step(grads, lr, clip_scale(norm, recipe.clip))
    return norm, lr, why


def why_skipped(optimizer, loss, norm, step, recipe):
    """None for a step that may be taken, else the reason, also said aloud; ValueError when it is one too many in a row."""
    if math.isfinite(loss) and math.isfinite(norm):
        optimizer.skipped = 0
        return None
    why = f"loss {loss}, gradient norm {norm}"
    optimizer.skipped += 1
    print(f"\nstep {step + 1}: skipped, {why}", file=sys.stderr)
    if optimizer.skipped == MOST_SKIPPED:
        raise ValueError(f"step {step + 1}: {MOST_SKIPPED} steps in a row were skipped, the last with {why}; lower --lr (now {recipe.lr})")
    return why


def fingerprint(arrays):
    """A short name for the contents of some arrays; of one above 64 MB, of a thousand pieces of it."""
    h = hashlib.sha256()
    for a in arrays:
        h.update(str((a.shape, a.dtype.str)).encode())
        flat = a.reshape(-1)
        step = max(1, a.nbytes // (64 << 20)) * (1 << 16)
        for i in range(0, a.size, step):
            h.update(np.ascontiguousarray(flat[i:i + (1 << 16)]).view(np.uint8).data)
    return h.hexdigest()[:16]


# ------------------------------------------------------------------------------------------- data parallelism

PROCESS_FLOATS = 1 << 27        # gradients of all processes together: 512 MB
AT_ONCE = 8192                  # tokens at once that keep a CPU busy; more only take memory


def n_processes(cfg):
    """How many processes share the rows of a batch: one for each core, while each can have gradients of its own."""
    fits = sys.platform == "linux" and cfg.n_params * cores.N_THREADS <= PROCESS_FLOATS
    return cores.N_THREADS if fits else 1


def shared_like(arrays):
    """{name: array} of the same shapes in memory that processes forked from this one will share; and all of it as one vector."""
    dtype, n = next(iter(arrays.values())).dtype, sum(a.size for a in arrays.values())
    flat, views, at = np.frombuffer(mmap.mmap(-1, n * dtype.itemsize), dtype), {}, 0
    for k, a in arrays.items():
        views[k] = flat[at:at + a.size].reshape(a.shape)
        at += a.size
    return views, flat


class Gradients:
    """The sum of the gradients of a step's micro-batches, in arrays made once.

    A small model's rows are divided among processes, as a cluster divides them among machines: all have the same weights,
    each has rows and gradients of its own, and the gradients are added up. Threads could do the same, but Python runs only
    one of them at a time, and where NumPy's calls are short they would wait for each other a sixth of the time. Weights
    and gradients lie in memory that the processes share: the arrays in params move there. A large model stays with the
    threads of gpt.py, which need no second gradient.
    """

    def __init__(self, params, cfg, recompute=False):
        self.params, self.cfg, self.recompute, self.arena = params, cfg, recompute, cores.Arena()
        self.others, self.begun, n = [], False, n_processes(cfg)
        self.threads = None if n == 1 else 1
        if n == 1:
            self.sum = {k: np.empty_like(p) for k, p in params.items()}
            return
        self.sum, self.flat = shared_like(params)
        for k, a in shared_like(params)[0].items():
            a[...] = params[k]
            params[k] = a
        for _ in range(1, n):
            (grads, flat), (pipe, end) = shared_like(params), multiprocessing.Pipe()
            inherited = [pipe, *(other.pipe for other in self.others)]
            process = multiprocessing.get_context("fork").Process(target=_serve, args=(end, inherited, params, cfg, recompute, grads), daemon=True)
            process.start()
            end.close()
            self.others.append(SimpleNamespace(process=process, pipe=pipe, flat=flat))

    def clear(self):
        self.begun = False

    def add(self, tokens, targets, weights, positions=None, segments=None):     # (B,T) each
        """The batch's loss; its gradients are added to what came since clear()."""
        n = min(len(self.others) + 1, len(tokens))
        rows, others = [cores.Share(i, n)(len(tokens)) for i in range(n)], self.others[:n - 1]
        mine, *theirs = [[a if a is None else a[r] for a in (tokens, targets, weights, positions, segments)] for r in rows]
        for other, part in zip(others, theirs):
            with contextlib.suppress(ConnectionError):  # it has died: _answer says so
                other.pipe.send(part)
        try:
            loss, _ = fast.loss_and_grads(self.params, self.cfg, *mine[:3], grads=self.sum, add=self.begun, arena=self.arena,
                                         recompute=self.recompute, threads=self.threads, positions=mine[3], segments=mine[4])
        finally:                                        # whatever happened here, hear them all
            losses = [_answer(other) for other in others]
        for of_rows in losses:
            if isinstance(of_rows, Exception):
                raise of_rows
            loss += of_rows

        def add_up(part):
            mine = part(self.flat.size)
            for i in range(mine.start, mine.stop, operations.BLOCK_FLOATS):
                at = slice(i, min(i + operations.BLOCK_FLOATS, mine.stop))
                for other in others:
                    self.flat[at] += other.flat[at]

        if others:
            cores.in_parallel(add_up)
        self.begun = True
        return loss

    def close(self):
        """End the other processes, as losing sight of this object does."""
        for other in self.others:
            other.pipe.close()
            other.process.join()
        self.others = []


def _serve(pipe, inherited, params, cfg, recompute, grads):
    """A process that answers rows with their loss and leaves their gradients in grads, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is for the process that asks
    for end in inherited:                               # held open here, they would never tell that it has ended
        end.close()
    arena = cores.Arena()
    while True:
        try:
            tokens, targets, weights, positions, segments = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer = fast.loss_and_grads(params, cfg, tokens, targets, weights, grads=grads, arena=arena, recompute=recompute, threads=1,
                                        positions=positions, segments=segments)[0]
        except Exception as e:
            answer = e
        try:
            pipe.send(answer)
        except ConnectionError:                         # the process that asked has been killed
            return


def _answer(other):
    try:
        return other.pipe.recv()
    except (EOFError, ConnectionError):
        other.process.join()
        return ChildProcessError(f"a process of the training ended (exit code {other.process.exitcode}; -9 is what comes when memory runs "
                                 "out); the same command goes on from the last checkpoint")


# ------------------------------------------------------------------------------------------- memory and speed

# bfloat16 matrix products, dense, 1e12 operations a second. What is not here has an unknown utilisation.
PEAK_TFLOPS = {"A100": 312.0, "H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "RTX 4090": 165.2}


def flops_per_token(cfg, T):
    """Of a training step: 6 for each parameter and 6 L C T for causal attention, llm.c's count."""
    return 6 * cfg.n_params + 6 * cfg.n_layer * cfg.n_embd * T


def peak_flops(gpu):
    """Operations a second that a GPU's tensor cores can do, None where the table does not know it."""
    known = [k for k in PEAK_TFLOPS if k in gpu.name] if gpu and gpu.bf16 else []
    return 1e12 * PEAK_TFLOPS[max(known, key=len)] if known else None


def available_bytes():
    """Memory that can be had without swapping."""
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            return next(int(line.split()[1]) << 10 for line in f if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def memory_plan(cfg, rows, recompute=False):
    """{what: bytes} of training with so many rows at once, in all processes together."""
    n, T = min(n_processes(cfg), rows), cfg.n_positions
    shares = [cores.Share(i, n)(rows) for i in range(n)]
    plans = [fast.memory_plan(cfg, s.stop - s.start, T, recompute, threads=1 if n_processes(cfg) > 1 else None) for s in shares]
    return {k: plans[0][k] if k in ("parameters", "AdamW") else sum(plan[k] for plan in plans) for k in plans[0]}


def fit_batch(cfg, batch, budget, micro_batch=None, recompute=False, gpu=None):
    """(rows at once, recompute, plan in bytes) for a step of batch rows: as many rows as keep the machine busy and fit
    the budget. Fewer rows at once never change what a step computes, so nothing else has to give."""
    T = cfg.n_positions
    rows = micro_batch or max(1, min(batch, device.ROW_TOKENS // T if gpu else max(cores.N_THREADS, AT_ONCE // T)))
    smaller = [rows] if micro_batch else range(rows, 0, -1)
    for again in sorted({recompute, True}):
        for rows in smaller:
            plan = device.memory_plan(cfg, rows, again, gpu.bf16) if gpu else memory_plan(cfg, rows, again)
            if sum(plan.values()) <= budget:
                return rows, again, plan
    raise ValueError(f"{cfg.n_params:,} parameters with {rows} row{'s' * (rows > 1)} of {T} tokens at once need {sum(plan.values()) / 1e9:.2f} GB, "
                     f"{budget / 1e9:.2f} GB are to be had; train a smaller --preset, or raise --memory-gb")


def print_plan(plan):
    print("memory: " + ", ".join(f"{k} {v / 1e6:,.1f}" for k, v in plan.items()) + f" = {sum(plan.values()) / 1e6:,.1f} MB",
          file=sys.stderr)


def bench(setting, seconds=10.0):
    """Full training steps on random tokens: {tokens_per_s, gflop_per_s, peak_rss_mb ...}, the median step of so many seconds."""
    cfg, B = BENCH[setting]
    T = cfg.n_positions
    print_plan(memory_plan(cfg, B))
    params = gpt.init(cfg, 0)
    optimizer, grads = AdamW(params), Gradients(params, cfg)
    tokens, targets = np.random.default_rng(0).integers(0, cfg.vocab_size, (2, B, T))
    weights = np.full((B, T), 1.0 / (B * T))
    times, begun = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begun < seconds:
        t0 = time.perf_counter()
        grads.clear()
        grads.add(tokens, targets, weights)
        optimizer.step(grads.sum, 6e-4, clip_scale(grad_norm(grads.sum), 1.0))
        times.append(time.perf_counter() - t0)
    peak, n = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(grads.others)
    grads.close()
    peak += n * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss          # of the largest child; counts shared memory again
    dt = sorted(times[2:])[len(times[2:]) // 2]         # the first two warm up
    return {"bench": setting, "tokens_per_s": round(B * T / dt, 1), "gflop_per_s": round(B * T / dt * flops_per_token(cfg, T) / 1e9, 1),
            "ms_per_step": round(1e3 * dt, 2), "steps": len(times) - 2, "cores": cores.N_THREADS,
            "peak_rss_mb": round(peak / 1024)}


# ----------------------------------------------------------------------------------------------------- train


def train(recipe, tokenizer, train_shards, val_shards, folder, seed=0, on_mismatch="error", micro_batch=None, recompute=False,
          budget=None, start=None, align_documents=False, gpu=None):
    """Run the recipe to its end, or on from where an earlier call was killed. Returns (params, last log entry).

    start: parameters to begin with instead of fresh ones. micro_batch, recompute and budget (bytes) as for fit_batch;
    a run that goes on keeps the micro-batch it began with, because the order of a sum decides its last bits. gpu: what
    device.connect() found, to train there.
    """
    cfg, folder = recipe.model, Path(folder)
    T, tokens_per_step = cfg.n_positions, recipe.batch * cfg.n_positions
    document_start = tokenizer.special_tokens.get("<|endoftext|>") if align_documents and tokenizer else None
    if align_documents and document_start is None:
        raise ValueError("--align-documents needs a tokenizer with <|endoftext|>, which tells documents apart")
    windows = Windows(train_shards, T, seed, document_start)
    evaluate.validation_rows(val_shards, T)             # an error now rather than after an hour
    identity = {**settings(recipe), "seed": seed, "tokens": fingerprint(train_shards),
                "tokenizer": tokenizer.fingerprint if tokenizer else None, "align_documents": align_documents,
                "start": fingerprint(start.values()) if start else None}
    if gpu:
        identity["device"] = f"{gpu.name}, {'bf16' if gpu.bf16 else 'float32'}"
    kept = kept_settings(folder, identity, ("micro_batch", "threads"))
    micro_batch = micro_batch or kept.get("micro_batch")
    if not gpu:
        identity["threads"] = keep_threads(kept)
    budget = budget or (0.9 * gpu.free_bytes if gpu else 0.8 * available_bytes())
    micro_batch, recompute, plan = fit_batch(cfg, recipe.batch, budget, micro_batch, recompute, gpu)
    print_plan(plan)
    identity["micro_batch"] = micro_batch
    params = start or gpt.init(cfg, seed)
    optimizer = AdamW(params, recipe.beta1, recipe.beta2, weight_decay=recipe.weight_decay)
    with begun(folder, params, optimizer, cfg, tokenizer, identity, on_mismatch) as stage:
        done, started = stage.done, time.perf_counter()
        print(f"{folder}: {cfg.n_params:,} parameters, {recipe.steps:,} steps of {tokens_per_step:,} tokens, {micro_batch} of {recipe.batch} "
              f"rows at once{', activations recomputed' * recompute}, "
              f"{recipe.steps * recipe.batch / windows.per_epoch:.1f} passes over {windows.per_epoch * T:,} tokens, "
              f"learning rate {recipe.lr:g} after {recipe.warmup:,} steps, {recipe.min_lr:g} at the end"
              + (f"; resuming after step {done:,}" if done else ""), file=sys.stderr)
        if gpu:
            work = device.Training(params, optimizer, cfg, micro_batch, recompute, gpu.bf16)
            for_evaluation, peak = work.params, peak_flops(gpu)
        else:
            work = Gradients(params, cfg, recompute)
            for_evaluation, peak = params, None

        def validate():                                     # takes no memory of its own
            return evaluate.validation_loss(for_evaluation, cfg, tokenizer, val_shards, min(32, micro_batch), work.arena, device if gpu else fast)

        entry = {}
        for step in range(done, recipe.steps):
            t0, loss = time.perf_counter(), 0.0
            work.clear()
            for i in range(0, recipe.batch, micro_batch):
                rows = windows.rows(step * recipe.batch + i, min(micro_batch, recipe.batch - i))
                each = np.full((len(rows), T), 1.0 / tokens_per_step)       # a mean over the whole step
                loss += work.add(rows[:, :-1], rows[:, 1:], each)
            if gpu:                                         # the loss stays there until all is done
                lr = learning_rate(step, recipe)
                loss, norm = work.update(lr, recipe.clip)
                skipped = why_skipped(optimizer, loss, norm, step, recipe)
            else:
                norm, lr, skipped = update(optimizer, work.sum, loss, step, recipe)
            dt = time.perf_counter() - t0
            mfu = tokens_per_step / dt * flops_per_token(cfg, T) / peak if peak else None
            entry = dict(step=step + 1, tokens=(step + 1) * tokens_per_step, loss_nats=round(loss, 6), lr=lr,
                         grad_norm=round(norm, 6), dt_s=round(dt, 4), tokens_per_s=round(tokens_per_step / dt), mfu=mfu and round(mfu, 4))
            if skipped:
                entry.update(skipped=skipped, loss_nats=None, grad_norm=None)
            last = step + 1 == recipe.steps
            if last or (step + 1) % recipe.eval_every == 0:
                nats, bits = entry["val_loss_nats"], entry["val_bits_per_byte"] = validate()
                if not math.isfinite(nats):
                    raise ValueError(f"step {step + 1}: validation loss {nats}; lower --lr (now {recipe.lr})")
                said = f". It dreams: {dream(for_evaluation, cfg, tokenizer, seed + step, engine=device if gpu else fast)!r}" if tokenizer else ""
                print(f"\nstep {step + 1:,}: validation {nats:.4f} nats a token, {f'{bits:.4f}' if tokenizer else 'unknown'} bits a byte{said}",
                      file=sys.stderr)
            stage.log.write(**entry)
            if last or (step + 1) % recipe.save_every == 0:
                if gpu:
                    work.download()
                stage.save_checkpoint(params, optimizer, step + 1)
            left = (time.perf_counter() - started) / (step + 1 - done) * (recipe.steps - step - 1)
            print(f"\rstep {step + 1:,}/{recipe.steps:,}  loss {loss:.4f}  norm {norm:.2f}  lr {lr:.2e}  {entry['tokens_per_s']:,} tokens/s  "
                  f"mfu {f'{mfu:.1%}' if mfu else 'unknown'}  {left:,.0f} s left ", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        work.close()
        if not entry:                                       # it was already finished
            entry["tokens"] = done * tokens_per_step
            entry["val_loss_nats"], entry["val_bits_per_byte"] = validate()
        stage.finish(params, cfg, gpt.save)
        return params, entry


def parse_args(argv=None):
    p = argparse.ArgumentParser(description="Pre-train a GPT.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    where = p.add_argument_group("from what to where")
    where.add_argument("--run", default="out/demo", help="run folder")
    where.add_argument("--data", nargs="+", type=Path, help="in place of RUN/tokens: .txt, .jsonl or .jsonl.gz files, token shards (.bin) or "
                       "folders of them")
    where.add_argument("--tokenizer", type=Path, help="of --data: tokenizer.json or .tiktoken. Without one, a text is learned by its "
                       "characters, and shards are taken to be of the preset's vocabulary")
    where.add_argument("--raw", action="store_true", help="the shards have no header: uint16 tokens, as nanoGPT writes them")
    where.add_argument("--align-documents", action="store_true", help="let every row begin where a document begins")
    where.add_argument("--init", type=Path, help="begin with this model: a GPT-2 folder, or a .bin of llm.c")
    what = p.add_argument_group("what; the defaults are the preset's")
    what.add_argument("--preset", default="demo", choices=sorted(PRESETS), help="model and recipe")
    what.add_argument("--steps", type=int, help="optimizer steps")
    what.add_argument("--batch", type=int, help="rows a step")
    what.add_argument("--lr", type=float, help="peak learning rate; the final one keeps its ratio to it")
    what.add_argument("--eval-every", type=int, help="steps between validations")
    what.add_argument("--save-every", type=int, help="steps between checkpoints")
    fit = p.add_argument_group("what fits in memory; none of it changes what a step computes, but for the last bits of its sums")
    fit.add_argument("--micro-batch", type=int, help="rows in memory at once (default: what fits)")
    fit.add_argument("--recompute", action="store_true", help="keep no activations but the blocks' inputs (default: when it must)")
    fit.add_argument("--memory-gb", type=float, help="memory to plan for (default: four fifths of what is free)")
    device.add_arguments(p)
    p.add_argument("--seed", type=int, default=0, help="of the weights and of the order of the data")
    p.add_argument("--on-mismatch", default="error", choices=("error", "restart"),
                   help="when the folder holds a checkpoint of other settings or data")
    instead = p.add_argument_group("instead of training")
    instead.add_argument("--bench", choices=list(BENCH), help="time training steps on random tokens and print a line of JSON")
    args = p.parse_args(argv)
    if args.bench:
        command.refuse(p, argv, {"bench", "device", "dtype"}, "it measures its own setting")
    return args


def load_tokens(args, recipe):
    """(tokenizer or None, train shards, val shards) as the command line says."""
    run = Path(args.run)
    tokenizer = bpe.Tokenizer.load(args.tokenizer) if args.tokenizer else None
    if not args.data:
        if args.tokenizer or args.raw:
            raise ValueError(f"{'--tokenizer' if args.tokenizer else '--raw'}: says how to read --data; {run}/tokens has the tokenizer of its run")
        if not run.is_dir():
            raise FileNotFoundError(f"{run}: no such run folder; make the demo's with: make, or name a text with --data")
        path = run / "tokenizer.json"
        if not path.exists():
            raise FileNotFoundError(f"{path}: no tokenizer; train one with: python bpe.py train --run {run}")
        tokenizer = bpe.Tokenizer.load(path)
        return tokenizer, *load_run(run, tokenizer)
    for path in args.data:
        if not path.exists():
            raise FileNotFoundError(f"{path}: No such file or folder")
    if all(p.suffix == ".bin" or p.is_dir() for p in args.data):
        found = tokenizer, *load_shards(args.data, args.raw, tokenizer)
    elif args.raw:
        raise ValueError(f"--raw is for shards of tokens, and {args.data[0]} is none")
    elif tokenizer:
        found = tokenizer, *load_documents(args.data, tokenizer)
    elif len(args.data) == 1 and args.data[0].suffix == ".txt":
        found = load_characters(args.data[0])
    else:
        raise ValueError(f"{args.data[0]}: give the --tokenizer whose tokens it is to be learned in; make one with: python bpe.py train")
    run.mkdir(parents=True, exist_ok=True)
    return found


def main(argv=None):
    args = parse_args(argv)
    runs.start_clock()
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: must be 0 or more")
    recipe = PRESETS[args.preset]
    changes = {k: getattr(args, k) for k in ("steps", "batch", "lr", "eval_every", "save_every")}
    changes = {k: v for k, v in changes.items() if v is not None}
    for name, value in {**changes, "micro_batch": args.micro_batch, "memory_gb": args.memory_gb}.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} {value}: must be above 0 and finite")
    if args.bench and args.device != "cpu":
        raise ValueError("--bench measures the CPU; for the GPU there is: make gpu")
    gpu = device.chosen(args)
    if args.bench:
        print(json.dumps(bench(args.bench)))
        return
    if "lr" in changes:
        changes["min_lr"] = recipe.min_lr * args.lr / recipe.lr
    recipe = replace(recipe, **changes)
    if (args.micro_batch or 0) > recipe.batch:
        raise ValueError(f"--micro-batch {args.micro_batch}: more rows than the {recipe.batch} of a step (--batch)")
    recipe = replace(recipe, warmup=min(recipe.warmup, recipe.steps))

    tokenizer, train_shards, val_shards = load_tokens(args, recipe)
    params = None
    if args.init:
        params, cfg = gpt.load(args.init)
        recipe = replace(recipe, model=cfg)
        if tokenizer and tokenizer.n_vocab > cfg.vocab_size:
            raise ValueError(f"{args.init}: knows {cfg.vocab_size} tokens, the tokenizer has {tokenizer.n_vocab}")
    elif tokenizer:
        recipe = replace(recipe, model=replace(recipe.model, vocab_size=tokenizer.n_vocab))
    V = recipe.model.vocab_size
    for shard in (*train_shards, *val_shards):          # of a model's vocabulary that is padded, not all are tokens
        check_ids(shard, tokenizer.n_vocab if tokenizer else V, args.data and args.data[0])

    _, last = train(recipe, tokenizer, train_shards, val_shards, Path(args.run) / "base", args.seed, args.on_mismatch,
                    args.micro_batch, args.recompute,
                    args.memory_gb and args.memory_gb * 1e9, params, args.align_documents, gpu)
    seconds = runs.seconds_spent()
    # The same tokens under n-gram models of the training text (of its first 20 million tokens).
    seen, targets = np.concatenate([np.asarray(s[:20_000_000]) for s in train_shards[:1]]), evaluate.validation_rows(val_shards, recipe.model.n_positions)[:, 1:].ravel()
    nats = {n: evaluate.ngram_nats(seen, targets, n, V) for n in (1, 5)}
    print(f"validation, nats a token: {last['val_loss_nats']:.4f}; 5-gram {nats[5].mean():.4f}, unigram {nats[1].mean():.4f}")
    bits = {n: evaluate.bits_per_byte(x, targets, evaluate.bytes_of_tokens(tokenizer)) if tokenizer else math.nan for n, x in nats.items()}
    read, made = f"{last['tokens']:,} tokens read", f"{recipe.model.n_params:,} parameters"
    print(f"{'base':8} {read:32} {made:36} {seconds:5.0f} s   bits a byte {last['val_bits_per_byte'] if tokenizer else math.nan:.3f}; "
          f"5-gram {bits[5]:.3f}, unigram {bits[1]:.3f}")


if __name__ == "__main__":
    command.run(main)
