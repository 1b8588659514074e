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
import numpy as np
from run import disk, runs
from tokens import huggingface

CHECKPOINT = "trainer.safetensors"
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


def load_checkpoint(path, params, optimizer):
    """Fill params and optimizer from a checkpoint without differences(). Returns the steps done."""
    saved, about = checkpoint.load_safetensors(path)
    for name, a in checkpoint_arrays(params, optimizer).items():
        a[...] = saved[name]
    optimizer.t = int(about["adamw.t"])
    optimizer.skipped = int(about["adamw.skipped"])
    return int(about["step"])


def differences(path, params, optimizer, identity):
    """Why a run cannot go on from this checkpoint: a list of sentences, empty if it can.

    identity: {name: value} of everything a run depends on: recipe, seed, fingerprints of the data
    and of the weights it starts with.
    """
    found = []
    try:
        saved, about = checkpoint.load_safetensors(path)
        theirs = json.loads(about["identity"])
        for name in {**identity, **theirs}:
            if theirs.get(name) != identity.get(name):
                found.append(f"{name}: checkpoint {theirs.get(name)!r}, now {identity.get(name)!r}")
        if found:
            return found
        step, t, skipped = (int(about[k]) for k in ("step", "adamw.t", "adamw.skipped"))
        for name, a in checkpoint_arrays(params, optimizer).items():
            shape = getattr(saved.get(name), "shape", None)
            if shape != a.shape:
                found.append(f"{name}: checkpoint {shape}, now {a.shape}")
            elif not np.isfinite(saved[name]).all():
                found.append(f"{name}: holds numbers that are not finite")
        if not 0 <= t <= t + skipped <= step <= identity.get("steps", step):
            found.append(f"step {step} with {t} updates and {skipped} skipped: impossible")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        found = [f"it is damaged ({type(e).__name__}: {e})"]
    return found


def kept_settings(folder, identity, names):
    """{name: value} of the named settings, from the run's own checkpoint in the folder, if any.

    How many rows are computed at once and how many ranks there are decide the order of sums, and
    so their last bits. A run that goes on keeps what it began with, wherever it goes on.
    """
    for place in (Path(folder), Path(folder) / NEW):
        try:
            _, about = checkpoint.load_safetensors(place / CHECKPOINT)
            before = dict(json.loads(about["identity"]))
        except (OSError, ValueError, KeyError, TypeError):      # none, or none that can be read
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
    earlier processes spent on the steps that stay.
    """

    def __init__(self, folder, step):
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
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()


# ------------------------------------------------------------------------------------------- stages


class Stage(NamedTuple):
    """A stage that has begun: where its files go, and how far earlier processes took it."""

    folder: Path
    place: Path                 # the folder, or NEW in it
    done: int                   # steps
    log: Log
    identity: dict

    def save_checkpoint(self, params, optimizer, step):
        """Write all that going on needs into one file, which appears whole or not at all."""
        about = {
            "step": str(step),
            "adamw.t": str(optimizer.t),
            "adamw.skipped": str(optimizer.skipped),
            "identity": json.dumps(self.identity, sort_keys=True),
        }
        arrays = checkpoint_arrays(params, optimizer)
        checkpoint.save_safetensors(self.place / CHECKPOINT, arrays, about)

    def finish(self, params, cfg, save):
        """Write the model with save(folder, params, cfg). Only now does an old model go."""
        save(self.place, params, cfg)
        self.log.file.flush()
        if self.place != self.folder:
            old = [CHECKPOINT, *adapters.FILES]
            runs.publish(self.place, self.folder, "model.safetensors", old)


@contextlib.contextmanager
def begin(folder, params, optimizer, cfg, tokenizer, identity, on_mismatch="error",
          end="<|endoftext|>"):
    """Give a Stage, with params and optimizer filled from its checkpoint if there is one.

    No other process can train in the folder meanwhile. A checkpoint or a model of another run there
    is an error unless on_mismatch is "restart". Then a finished model stays, with all its files,
    until this one is finished: the new one is made in FOLDER/.new.
    end: the token after which the model has nothing more to say; transformers wants to know.
    """
    folder = Path(folder)
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
        if place:
            done = load_checkpoint(place / CHECKPOINT, params, optimizer)
        else:
            place = start_over(folder, others, on_mismatch)
        if not done or not (place / "config.json").exists():
            save_description(place, cfg, tokenizer, end)
        log = Log(place, done)
        runs.add_earlier(log.seconds)
        try:
            yield Stage(folder, place, done, log, identity)
        finally:
            log.file.close()


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
