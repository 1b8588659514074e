"""resume.py: a training that is killed goes on, and ends with the bits it would have had.

A stage of training has a folder: config.json and the tokenizer from the beginning, log.jsonl,
trainer.safetensors (the last checkpoint), and model.safetensors at the end. begin() looks whether a
checkpoint there belongs to this run. If it does, the run goes on from it. If it belongs to another
run, the user decides. Until a new model is finished, a finished old one stays where it is.

train.py lists what a checkpoint holds, and why that is enough.
"""

import contextlib
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from model import adapters, checkpoint
from model import cores                     # before numpy
from model import folders
from model import ranks
from model import zero
import numpy as np
from run import disk, runs
from tokens import huggingface

CHECKPOINT = "trainer.safetensors"
ROUNDING = "ranks", "threads", "micro_batch"    # in an identity: what decides the order of sums
NEW = ".new"            # in a stage's folder: a new model is made here while an old one is there

# ------------------------------------------------------------------------------------- fingerprints


def fingerprint(arrays):
    """A short name for the contents of arrays: of a thousand pieces where one is above 64 MB."""
    digest = hashlib.sha256()
    for a in arrays:
        a = getattr(a, "bits", a)               # of a matrix in bfloat16
        digest.update(str((a.shape, a.dtype.str)).encode())
        flat = a.reshape(-1, order="A")         # of a transposed view without a copy
        distance = max(1, a.nbytes // (64 << 20)) * (1 << 16)
        for start in range(0, a.size, distance):
            piece = np.ascontiguousarray(flat[start:start + (1 << 16)])
            digest.update(piece.view(np.uint8).data)
    return digest.hexdigest()[:16]


# -------------------------------------------------------------------------------------- checkpoints


def checkpoint_arrays(params, optimizer):
    """{name in a checkpoint: array} of all arrays that training changes."""
    arrays = dict(params)
    for name, m in optimizer.m.items():
        arrays[f"adamw.m.{name}"] = m
    for name, v in optimizer.v.items():
        arrays[f"adamw.v.{name}"] = v
    for name, mean in getattr(optimizer, "mean", {}).items():
        arrays[f"muon.mean.{name}"] = mean
    return arrays


def weight_of(name):
    """(the name of the weight that an array of a checkpoint belongs to, whether it is its mean)"""
    for prefix in ("adamw.m.", "adamw.v.", "muon.mean."):
        if name.startswith(prefix):
            return name.removeprefix(prefix), True
    return name, False


def load_checkpoint(path, params, optimizer, parts=zero.EVERYTHING):
    """Fill params and optimizer from a checkpoint without differences(). Returns the steps done.

    Rank 0 reads, and sends array by array to the others, whose path is None. Each keeps the rows
    that its optimizer has. All return 0 where rank 0's path is None too.
    """
    saved, counts = {}, None
    if path:
        saved, about = checkpoint.load_safetensors(path)
        counts = [int(about[key]) for key in ("step", "adamw.t", "adamw.skipped")]
    counts = parts.here.all_objects(counts)[0]
    if not counts:
        return 0
    for name, a in checkpoint_arrays(params, optimizer).items():
        weight, is_mean = weight_of(name)
        whole = saved[name] if path else np.empty(params[weight].shape, a.dtype)
        parts.here.broadcast([whole])
        a[...] = whole[parts.kept(weight)] if is_mean else whole
    step, optimizer.t, optimizer.skipped = counts
    return step


def differences(path, params, optimizer, identity):
    """Why a run cannot go on from this checkpoint: a list of sentences, empty if it can.

    identity: {name: value} of everything a run depends on: recipe, seed, fingerprints of the data
    and of the weights it starts with.
    """
    found = []
    try:
        saved, about = checkpoint.load_safetensors(path)
        theirs = json.loads(about["identity"])
        other_ranks = theirs.get("ranks", 1) != identity.get("ranks", 1)
        for name in {**identity, **theirs}:
            if other_ranks and name in ROUNDING:
                continue
            if theirs.get(name) != identity.get(name):
                found.append(f"{name}: checkpoint {theirs.get(name)!r}, now {identity.get(name)!r}")
        if found:
            return found
        step, t, skipped = (int(about[k]) for k in ("step", "adamw.t", "adamw.skipped"))
        for name, a in checkpoint_arrays(params, optimizer).items():
            shape = getattr(saved.get(name), "shape", None)
            weight = params.get(weight_of(name)[0], a)      # a rank has some rows of its mean
            if shape != weight.shape:
                found.append(f"{name}: checkpoint {shape}, now {weight.shape}")
            elif not np.isfinite(saved[name]).all():
                found.append(f"{name}: holds numbers that are not finite")
        if not 0 <= t <= t + skipped <= step <= identity.get("steps", step):
            found.append(f"step {step} with {t} updates and {skipped} skipped: impossible")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        found = [f"it is damaged ({type(e).__name__}: {e})"]
    return found


def kept_settings(folder, identity, names, here=ranks.ALONE):
    """{name: value} of the named settings, from the run's own checkpoint in the folder, if any.

    How many rows are computed at once and how many threads there are decide the order of sums, and
    so their last bits. A run that goes on keeps what it began with, wherever it goes on. But on
    another number of ranks nothing is kept. Rank 0 reads the checkpoint for all.
    """
    return here.all_objects(None if here.rank else _kept_settings(folder, identity, names))[0]


def _kept_settings(folder, identity, names):
    for place in (Path(folder), Path(folder) / NEW):
        try:
            _, about = checkpoint.load_safetensors(place / CHECKPOINT)
            before = dict(json.loads(about["identity"]))
        except (OSError, ValueError, KeyError, TypeError):      # none, or none that can be read
            continue
        if before.get("ranks", 1) != identity.get("ranks", 1):
            continue
        if all(before.get(k) == v for k, v in identity.items() if k not in names):
            return {name: before[name] for name in names if name in before}
    return {}


def keep_threads(kept):
    """Use as many threads as a run began with, if kept_settings() found it. Returns how many."""
    n = kept.get("threads", cores.N_THREADS)
    if n != cores.N_THREADS:
        print(f"going on with {n} threads, as this run began, for the same bits; "
              f"this machine has {cores.N_THREADS} cores", file=sys.stderr)
        cores.N_THREADS = n
    return n


# ---------------------------------------------------------------------------------------------- log


class Log:
    """log.jsonl: a JSON object for each step, with the seconds since the run began (spent_s).

    Lines after the step of the checkpoint are dropped: these steps are made again. seconds: what
    earlier processes spent on the steps that stay. Where there are ranks, sent_bytes is what this
    one has sent since the line before.
    """

    def __init__(self, folder, step, here=ranks.ALONE):
        self.here, self.sent = here, here.sent
        path, self.seconds, kept = Path(folder) / "log.jsonl", 0.0, []
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                if entry["step"] > step:
                    continue
                self.seconds = float(entry.get("spent_s", 0.0))
            except (ValueError, KeyError, TypeError, RecursionError):
                break                       # half a line, which a kill left behind
            kept.append(f"{line}\n")
        disk.write_text(path, "".join(kept))
        self.file = open(path, "a", encoding="utf-8")

    def write(self, **values):
        """Add the line of one step."""
        values["spent_s"] = round(runs.seconds_spent(), 1)
        if self.here.size > 1:
            values["sent_bytes"] = self.here.sent - self.sent
            self.sent = self.here.sent
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()


# ------------------------------------------------------------------------------------------- stages


class NoLog:
    """The log of a rank that writes none."""

    def write(self, **values):
        """Write nothing."""


class Stage(NamedTuple):
    """A stage that has begun: where its files go, and how far earlier processes took it."""

    folder: Path
    place: Path                 # the folder, or NEW in it
    done: int                   # steps
    log: Log
    identity: dict
    parts: zero.Parts = zero.EVERYTHING

    def save_checkpoint(self, params, optimizer, step):
        """Write all that going on needs into one file, which appears whole or not at all.

        Rank 0 writes. A mean whose rows lie on all ranks is brought together when its turn comes.
        """
        about = {
            "step": str(step),
            "adamw.t": str(optimizer.t),
            "adamw.skipped": str(optimizer.skipped),
            "identity": json.dumps(self.identity, sort_keys=True),
        }
        arrays = checkpoint_arrays(params, optimizer)
        for name, a in arrays.items():
            weight, is_mean = weight_of(name)
            if is_mean:
                arrays[name] = self.parts.gathered(weight, a)
        if self.parts.here.rank:
            for a in arrays.values():
                np.asarray(a)
            return
        checkpoint.save_safetensors(self.place / CHECKPOINT, arrays, about)

    def finish(self, params, cfg, save):
        """Write the model with save(folder, params, cfg). Only now does an old model go."""
        if self.parts.here.rank:
            return
        save(self.place, params, cfg)
        self.log.file.flush()
        if self.place != self.folder:
            old = [CHECKPOINT, *adapters.FILES]
            runs.publish(self.place, self.folder, "model.safetensors", old)


@contextlib.contextmanager
def begin(folder, params, optimizer, cfg, tokenizer, identity, on_mismatch="error",
          parts=zero.EVERYTHING, end="<|endoftext|>"):
    """Give a Stage, with params and optimizer filled from its checkpoint if there is one.

    No other process can train in the folder meanwhile. A checkpoint or a model of another run there
    is an error unless on_mismatch is "restart". Then a finished model stays, with all its files,
    until this one is finished: the new one is made in FOLDER/.new.
    parts: what this rank updates. Rank 0 reads and writes the files for all.
    end: the token after which the model has nothing more to say; transformers wants to know.
    """
    folder = Path(folder)
    check_same(identity, parts.here)
    if parts.here.rank:
        done = load_checkpoint(None, params, optimizer, parts)
        yield Stage(folder, folder, done, NoLog(), identity, parts)
        return
    with runs.locked(folder, "training"):
        runs.settle(folder / NEW, folder)
        place, done, others = None, 0, {}
        for candidate in (folder, folder / NEW):
            path = candidate / CHECKPOINT
            if path.exists():
                others[path] = differences(path, params, optimizer, identity)
                if not others[path]:
                    place = candidate
                    del others[path]
        path = place / CHECKPOINT if place else None
        if place:
            say_if_rounded_otherwise(path, identity)
        else:
            place = start_over(folder, others, on_mismatch)
        done = load_checkpoint(path, params, optimizer, parts)
        if not done or not (place / "config.json").exists():
            save_description(place, cfg, tokenizer, end)
        log = Log(place, done, parts.here)
        runs.add_earlier(log.seconds)
        try:
            yield Stage(folder, place, done, log, identity, parts)
        finally:
            log.file.close()


def check_same(identity, here):
    """ValueError if a rank has other data or settings than rank 0."""
    first, *others = here.all_objects(identity if here.size > 1 else {})
    for rank, theirs in enumerate(others, 1):
        for name in {**first, **theirs}:
            if first.get(name) != theirs.get(name):
                raise ValueError(f"{name}: rank {rank} has {theirs.get(name)!r}, rank 0 has "
                                 f"{first.get(name)!r}; all need the same data and settings")


def say_if_rounded_otherwise(path, identity):
    """Say it where a run goes on with another number of ranks than it had."""
    _, about = checkpoint.load_safetensors(path)
    before, now = json.loads(about["identity"]).get("ranks", 1), identity.get("ranks", 1)
    if before != now:
        print(f"going on with {now} rank{'s' * (now > 1)} where there were {before}: the last bits "
              "of sums are no longer those of the run that began", file=sys.stderr)


def start_over(folder, others, on_mismatch):
    """Where a run that begins anew makes its files; ValueError if it must not begin there.

    others: {checkpoint of another run: differences}
    """
    model = folder / "model.safetensors"
    for path, differs in others.items():
        if on_mismatch == "restart":
            print(f"{path}: cannot resume, {differs[0]}; starting over", file=sys.stderr)
            continue
        more = [f"and {len(differs) - 6} more"] if len(differs) > 6 else []
        raise ValueError(
            f"{path}: cannot resume, {'; '.join(differs[:6] + more)}. Give back the old settings, "
            "start over with --on-mismatch restart, or train into another folder with --run")
    if model.exists() and on_mismatch != "restart":
        raise ValueError(
            f"{model}: a model that this run did not make is already there. Replace it with "
            "--on-mismatch restart, or train into another folder with --run or --out")
    shutil.rmtree(folder / NEW, ignore_errors=True)
    if not model.exists():
        for name in (CHECKPOINT, *adapters.FILES):      # their tokenizer is about to be replaced
            (folder / name).unlink(missing_ok=True)
        return folder
    print(f"{model}: stays until this run is finished", file=sys.stderr)
    (folder / NEW).mkdir()
    return folder / NEW


def save_description(folder, cfg, tokenizer, end):
    """config.json and, with a tokenizer, its files: all of a model but its weights."""
    if tokenizer:
        tokenizer.save(folder / "tokenizer.json", end)
        ids = {}            # which tell transformers what begins, ends and pads a text
        for role, name in huggingface.roles(tokenizer.special_tokens, end).items():
            ids[f"{role}_token_id"] = tokenizer.special_tokens.get(name)
        path = Path(folder) / "generation_config.json"
        disk.write_text(path, json.dumps(ids, indent=2) + "\n")
    folders.save_config(folder, cfg)
