"""by_tasks.py: bpe.py train and encode on files of documents, by one task or by several.

run/tasks.py says how tasks share work. Of n tasks, task i takes files i, i + n, i + 2n and so on.
The result has the same bytes for any number of tasks.

    train    count      each task counts the pieces of its files
             merge      task 0 adds the counts up, merges, and writes the tokenizer
    encode   encode     each task writes the ids of each of its files
             cut        each task cuts its shards, i, i + n and so on, out of these ids
             publish    task 0 puts all shards in place of the old ones

A shard holds a fixed number of ids, wherever files end. So it may begin and end inside a file:

    ids of the files    000000000000111112222222222222223333333
    shards of 10 ids    0000000000 0011111222 2222222222 2223333333

A task that was killed goes on: `encode` behind its last whole file, `cut` behind its last shard.
"""

import contextlib
import functools
import itertools
import json
import secrets
import shlex
import shutil
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import regex

from run import disk, progress, runs, tasks
from tokens import shards, trainer
from tokens.patterns import PATTERNS
from tokens.pieces import batches_of

PHASES = {
    "train": {"count": tasks.ALL, "merge": tasks.FIRST},
    "encode": {"encode": tasks.ALL, "cut": tasks.ALL, "publish": tasks.FIRST},
}
SPLITS = ("train", "val")
TOKENIZER = ("tokenizer.tiktoken", "tokenizer.json", "tokenizer_config.json")
BATCH_CHARACTERS = 2**20                                # encoded together by one process
PROGRAM = ("bpe.py", "tokens/*.py", "run/parquet.py")   # on which the results depend


# ---- what is begun, and by whom ------------------------------------------------------------------


@contextlib.contextmanager
def phases_of(command, folder, files, settings, task, only=None):
    """The tasks.Phases of a command's work on files, with a lock on the folder of the result.

    settings: a dict of what else decides the result. For one task alone, nothing stays of work that
    fails because of its input.
    """
    sizes = [[path.name, path.stat().st_size] for path in files]
    made_of = {"files": sizes, "program": tasks.program(PROGRAM), **settings}
    place = folder / f".{command}"
    with tasks.locked(folder, f"bpe.py {command}", task), disk.naming(folder):
        begin = functools.partial(tasks.Phases, place, task, PHASES[command], made_of, only)
        phases = begin()
        mine = task.own(files)
        digests = [digest_of(path) for path in mine]
        before = digests_of_begin(phases, digests)
        if before != digests and task == tasks.ALONE:
            tasks.remove(phases.folder)
            phases = begin()
            digests_of_begin(phases, digests)
        elif before != digests:
            changed = [path for path, old, new in zip(mine, before, digests) if old != new]
            raise ValueError(f"{changed[0]}: has changed since task {task} began; "
                             f"{again(phases.folder)}")
        try:
            yield phases
        except ValueError:
            if task == tasks.ALONE:
                tasks.remove(phases.folder)
                with contextlib.suppress(OSError):      # work of several tasks is in it
                    place.rmdir()
            raise


def digest_of(path):
    """The SHA-256 of a file. A pipe can be read only once, and is never the same as before."""
    return runs.sha256_of(path) if path.is_file() else secrets.token_hex()


def digests_of_begin(phases, digests):
    """The digests that the files of this task had when it first began, which may be now.

    They stand among the marks. Each task reads its own files only.
    """
    path = phases.marks / f"files-of-{phases.task.index}.json"
    if not path.exists():
        disk.write_text(path, json.dumps({"sha256": digests}))
    return disk.read_json(path)["sha256"]


def again(folder):
    """What to do about a folder of work that cannot be gone on with."""
    return f"to begin anew, end all tasks and run: rm -r {shlex.quote(str(folder))}"


def slurm_script(args, argv):
    """The script that runs a command line of bpe.py as args.slurm tasks under Slurm."""
    words = [sys.executable, str(tasks.HOME / "bpe.py"), *tasks.without_slurm(argv)]
    return tasks.slurm_script(words, args.slurm, PHASES[args.command], args.run / "log")


# ---- train ---------------------------------------------------------------------------------------


def train_run(learn, files, args):
    """Count and merge; returns the tokenizer, or None if this task does not merge.

    learn: the function from {piece: count} to a tokenizer.
    """
    settings = {name: getattr(args, name)
                for name in ("vocab_size", "pattern", "ties", "min_frequency")}
    task, made = tasks.chosen(args.task), []

    def count():
        if args.ties != "minbpe":
            count_files(task.own(files), phases.folder / f"{task.index}.npz", args)
            return
        # Of equal pairs minbpe takes the one that comes first. So the pieces have to be added up in
        # the order of the corpus, file by file.
        for number, file in task.own(list(enumerate(files))):
            count_files([file], phases.folder / f"{number}.npz", args)

    def merge():
        counts = Counter()
        for path in sorted(phases.folder.glob("*.npz"), key=lambda path: int(path.stem)):
            counts.update(load_counts(path))        # new pieces come behind the known ones
        made.append(learn(counts))
        # No other task writes these. One that was killed meanwhile has left a temporary file.
        disk.remove_temporaries(args.run, TOKENIZER)
        made[0].save(args.run / "tokenizer.tiktoken")
        made[0].save(args.run / "tokenizer.json")

    with phases_of("train", args.run, files, settings, task, args.phase) as phases:
        phases.run("count", count)
        phases.run("merge", merge)
        finish(phases, [args.run / "tokenizer.json"])
    return made[0] if made else None


def count_files(files, path, args):
    """Write the counts of the pieces of some files, unless that is done."""
    if path.exists():
        return
    reading = progress.Reading(files)
    texts = (text for file in files
             for _, text in shards.read_documents(file, opened=reading.opened))
    texts = with_progress("count", texts, len, reading)
    save_counts(path, trainer.count_pieces(texts, PATTERNS[args.pattern], args.workers))


def save_counts(path, counts):
    """Write {piece (bytes): count} as a file of arrays."""
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    numbers = np.fromiter(counts.values(), np.int64, len(counts))
    pieces = np.frombuffer(b"".join(counts), np.uint8)
    with disk.whole_file(path) as file:
        np.savez(file, lengths=lengths, counts=numbers, pieces=pieces)


def load_counts(path):
    """Read such a file -> {piece (bytes): count}, in the same order."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ends = np.cumsum(arrays["lengths"]).tolist()
            counts = arrays["counts"].tolist()
            pieces = arrays["pieces"].tobytes()
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: damaged ({error}); {again(path.parent)}") from None
    return {pieces[i:j]: count for i, j, count in zip([0, *ends], ends, counts)}


# ---- encode --------------------------------------------------------------------------------------


def encode_run(files, tokenizer, args):
    """Encode files of documents into the shards of RUN/tokens.

    Returns a Counter of what was done by all tasks, or None if this task does not publish. The old
    shards stay until all new ones are made, and go before the first new one comes: if shards of two
    --val-percent lay side by side, train and val would share documents.
    """
    folder, counts, task = args.run / "tokens", Counter(), tasks.chosen(args.task)
    settings = {"tokenizer": tokenizer.fingerprint, "val_percent": args.val_percent,
                "shard_tokens": args.shard_tokens}

    def cut():
        parts = Parts(phases.folder, len(files), tokenizer)
        if not sum(parts.counts["bytes"]):
            raise ValueError(f"{files[0]}: no text in the input")
        parts.cut_shards(task, args.shard_tokens)

    def publish():
        publish_shards(phases.folder / "shards", folder)
        parts = Parts(phases.folder, len(files), tokenizer)
        counts.update({name: sum(numbers) for name, numbers in parts.counts.items()})

    with phases_of("encode", folder, files, settings, task, args.phase) as phases:
        phases.run("encode", lambda: encode_files(phases, files, tokenizer, args))
        phases.run("cut", cut)
        phases.run("publish", publish)
        finish(phases, folder.glob("*.bin"))
    return counts or None


def part(folder, number, split):
    """The file of the ids of one file of documents, those for training or those for validation."""
    return folder / f"{number:06d}.{split}"


def record(folder, number):
    """The file that says that the ids of a file are all there, and how many they are."""
    return folder / f"{number:06d}.json"


def encode_files(phases, files, tokenizer, args):
    """Write the ids of each file of this task, unless that is done."""
    tokenizer.encoder.pairs             # made once, before the processes are forked
    todo = [(number, path) for number, path in phases.task.own(list(enumerate(files)))
            if not record(phases.folder, number).exists()]
    reading = progress.Reading(path for _, path in todo)
    documents = documents_of(todo, args.val_percent, reading.opened)
    batches = batches_of(documents, lambda document: len(document[2]), BATCH_CHARACTERS)
    work = functools.partial(encode_documents, tokenizer)
    made = itertools.chain.from_iterable(trainer.in_processes(work, batches, args.workers))
    encoded = with_progress("encode", made, lambda document: document[3], reading)
    for number, documents in itertools.groupby(encoded, lambda document: document[0]):
        write_part(phases.folder, number, documents)


def documents_of(files, val_percent, opened=None):
    """Yields (number of the file, "train" or "val", text) for each document of files.

    (number, None, "") follows behind the documents of each file, so that an empty one has its part.
    """
    for number, path in files:
        for split, text in shards.read_documents(path, val_percent, opened):
            yield number, split, text
        yield number, None, ""


def encode_documents(tokenizer, documents):
    """[(number, split, text)] -> [(number, split, ids, bytes of the text)].

    The ids of each document begin with <|endoftext|>. They have the type that they have in shards.
    """
    dtype = shards.dtype_of(tokenizer)
    first = [tokenizer.eot_token] if "<|endoftext|>" in tokenizer.special_tokens else []
    first = np.array(first, dtype)
    each = tokenizer.encode_many([text for _, _, text in documents], num_threads=1)
    return [(number, split, np.concatenate([first, ids.astype(dtype)]), len(text.encode("utf-8")))
            for (number, split, text), ids in zip(documents, each)]


def with_progress(label, documents, size_of, reading):
    """The documents, with a line on standard error: how fast they come, and how long still.

    size_of(document): its bytes. reading: the progress.Reading of their files.
    """
    start = shown = time.perf_counter()
    mb = 0.0
    for n, document in enumerate(documents, 1):
        yield document
        mb += size_of(document) / 1e6
        now = time.perf_counter()
        if now - start < progress.SHORT_S or now - shown < progress.OFTEN_S:
            continue
        shown, seconds, share = now, now - start, reading.share()
        line = f"{label}: {n:,} documents, {mb:,.0f} MB, {mb / seconds:.1f} MB/s"
        if share > 0:
            line += f", {progress.duration(seconds * (1 - share) / share)} left"
        progress.show(line)
    progress.end()


def write_part(folder, number, documents):
    """Write the ids of one file, and then their record. documents: those of encode_documents."""
    counts = Counter()
    with (disk.whole_file(part(folder, number, "train")) as train,
          disk.whole_file(part(folder, number, "val")) as val):
        file_of = {"train": train, "val": val}
        for _, split, ids, n_bytes in documents:
            if split is None:
                continue
            file_of[split].write(ids)
            counts[f"{split} documents"] += 1
            counts[f"{split} tokens"] += len(ids)
            counts["bytes"] += n_bytes
    disk.write_text(record(folder, number), json.dumps(counts))


class Parts:
    """The ids of all files, as the tasks have written them: two long texts of ids, train and val.

    counts["train tokens"][k] is the number of such ids of file k.
    """

    COUNTS = ("train documents", "val documents", "train tokens", "val tokens", "bytes")

    def __init__(self, folder, n_files, tokenizer):
        self.folder, self.tokenizer = folder, tokenizer
        records = [disk.read_json(record(folder, number)) for number in range(n_files)]
        self.counts = {name: [found.get(name, 0) for found in records] for name in self.COUNTS}

    def cut_shards(self, task, shard_tokens):
        """Write the shards of a task, unless they are there."""
        folder = self.folder / "shards"
        folder.mkdir(exist_ok=True)
        for split in SPLITS:
            n_tokens = sum(self.counts[f"{split} tokens"])
            begins = range(0, n_tokens, shard_tokens)
            for k, begin in task.own(list(enumerate(begins))):
                path = folder / f"{split}_{k:06d}.bin"
                if not path.exists():
                    end = min(begin + shard_tokens, n_tokens)
                    shards.write_shard(path, self.ids(split, begin, end), self.tokenizer)

    def ids(self, split, begin, end):
        """The ids from place `begin` to before `end`, (end - begin,)."""
        dtype, found, first = shards.dtype_of(self.tokenizer), [], 0
        for number, size in enumerate(self.counts[f"{split} tokens"]):
            low, high = max(begin - first, 0), min(end - first, size)
            if low < high:
                path = part(self.folder, number, split)
                found.append(np.fromfile(path, dtype, high - low, offset=low * dtype.itemsize))
                if len(found[-1]) != high - low:
                    raise ValueError(f"{path}: has less than {size} ids; {again(self.folder)}")
            first += size
        return np.concatenate(found)


def publish_shards(made, folder):
    """Put the shards of the folder `made` in place of the old ones.

    This may be killed anywhere and called again: the folder gets the name .new, and then its files
    move (runs.publish).
    """
    new = folder / ".new"
    runs.settle(new, folder)
    if made.exists():
        shutil.rmtree(new, ignore_errors=True)
        disk.replace(made, new)
    if not new.exists():                    # settle() has moved them
        return
    for split in SPLITS:
        if not (new / f"{split}_000000.bin").exists():
            print(f"bpe.py: no {split} documents, so no {split} shard", file=sys.stderr)
    names = [path.name for path in folder.iterdir()]
    old = [name for name in names if regex.fullmatch(r"(train|val)_\d{6,}\.bin", name)]
    runs.publish(new, folder, "train_000000.bin", old)


def finish(phases, products):
    """Clear away what complete work no longer needs, and say what is complete.

    products: files of which one at least must be there then. ValueError if somebody has deleted
    them since several tasks made them.
    """
    task, missing = phases.task, [name for name in phases.names if phases.missing(name)]
    phases.check_products(products)
    if not missing and task.index == 0:
        phases.finish()
    if task != tasks.ALONE or missing:
        then = f"; next: {missing[0]}" if missing else ", and all of the work is complete"
        print(f"task {task} has done its part{then}")
