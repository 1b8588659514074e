"""shards.py: documents to token shards, the files that train.py reads.

A shard has llm.c's format, so that each of the two programs reads the other's shards:

    bytes 0 to 1023     256 words of 32 bits, little-endian
        word 0, 1       magic and version: 20240520, 1 for uint16 ids; 20240801, 7 for uint32 ids
        word 2          the number of ids
        word 3          the size of the vocabulary
        word 4, 5       the tokenizer's fingerprint
    bytes 1024 on       the ids

llm.c does not read words 3 to 5. In the shards of other programs they are zero.
"""

import functools
import hashlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import regex

from run import disk, parquet, progress, runs
from tokens.added import well_formed
from tokens.pieces import batches_of
from tokens.trainer import in_processes

HEADER_BYTES = 1024
UINT16, UINT32 = (20240520, 1), (20240801, 7)           # magic and version
DTYPES = {UINT16: np.dtype("<u2"), UINT32: np.dtype("<u4")}
LARGEST = 2**31 - 1                                     # ids in one shard
BATCH_CHARACTERS = 2**20                                # encoded together by one process


# ---- one shard -----------------------------------------------------------------------------------

def write_shard(path, ids, tokenizer=None):
    """Write ids, (n,) of any integer type, as one shard.

    Ids take two bytes each if the vocabulary has at most 65,536 tokens, else four. Without a
    tokenizer the largest id decides, and words 3 to 5 are zero.
    """
    ids = np.asarray(ids)
    n_vocab = tokenizer.n_vocab if tokenizer else 0
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not 0 < len(ids) <= LARGEST:
        raise ValueError(f"{path}: ids are {ids.dtype} {ids.shape}, "
                         f"a shard takes 1 to {LARGEST} integers")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= (n_vocab or 2**32):
        raise ValueError(f"{path}: ids {low} to {high} are not all in a vocabulary of {n_vocab}")
    kind = UINT16 if (n_vocab or high + 1) <= 2**16 else UINT32
    header = np.zeros(HEADER_BYTES // 4, "<i4")
    header[:4] = *kind, len(ids), n_vocab
    if tokenizer:
        header[4:6] = np.frombuffer(bytes.fromhex(tokenizer.fingerprint), "<i4")
    with disk.whole_file(Path(path)) as file:
        file.write(header)
        file.write(ids.astype(DTYPES[kind], copy=False))


class ShardInfo(NamedTuple):
    """What the header of a shard says."""
    n_tokens: int
    dtype: np.dtype
    n_vocab: int            # 0 in shards of other programs
    fingerprint: str        # 16 zeros in shards of other programs


def shard_info(path):
    """Read the header of a shard and check that it fits the file; ValueError if it does not."""
    path = Path(path)
    remedy = f"make it with: python bpe.py encode --run {path.parent.parent}"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such shard; {remedy}")
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES).ljust(HEADER_BYTES, b"\0")
    magic, version, n_tokens, n_vocab = np.frombuffer(header, "<i4")[:4].tolist()
    if (magic, version) not in DTYPES:
        raise ValueError(f"{path}: magic {magic} version {version} is no token shard's; {remedy}. "
                         f"Bare uint16 tokens, as nanoGPT writes them, are read by: "
                         f"python train.py --raw")
    dtype, n_bytes = DTYPES[magic, version], path.stat().st_size
    expected = HEADER_BYTES + n_tokens * dtype.itemsize
    if n_tokens < 1 or n_bytes != expected:
        raise ValueError(f"{path}: has {n_bytes} bytes, but its header's {n_tokens} tokens make "
                         f"{expected}; {remedy}")
    return ShardInfo(n_tokens, dtype, n_vocab, header[16:24].hex())


def open_shard(path, tokenizer=None):
    """The ids of a shard as a read-only memory map, (n,) uint16 or uint32.

    ValueError if the shard was made by another tokenizer than this one.
    """
    info = shard_info(path)
    if tokenizer and info.n_vocab and info.fingerprint != tokenizer.fingerprint:
        raise ValueError(f"{path}: made by another tokenizer ({info.fingerprint}) than this one "
                         f"({tokenizer.fingerprint}); remake it with: "
                         f"python bpe.py encode --run {Path(path).parent.parent}")
    return np.memmap(path, info.dtype, "r", offset=HEADER_BYTES, shape=(info.n_tokens,))


def check_ids(ids, n_vocab, path=None):
    """ValueError if an id is not in the vocabulary. path: the file, if ids are no memory map."""
    largest = int(ids.max())
    if largest >= n_vocab:
        raise ValueError(f"{getattr(ids, 'filename', path)}: token {largest} is beyond "
                         f"the vocabulary of {n_vocab}")


# ---- documents -----------------------------------------------------------------------------------

def input_files(run, files=None):
    """The files of documents: those that are given, else all in RUN/docs."""
    docs = run / "docs"
    if files:
        return files
    runs.check_settled(docs / ".new" / "shards", f"python data.py --run {run}")
    files = sorted(docs.glob("*.jsonl")) + sorted(docs.glob("*.jsonl.gz"))
    tables = sorted(docs.glob("*.parquet"))
    if files and tables:
        raise ValueError(f"{docs}: has {files[0].name} and {tables[0].name}, which may be the same "
                         "documents; move one kind away, or name the files with --input")
    if not files and not tables:
        raise FileNotFoundError(f"{docs}: no documents; make them with: python data.py --run {run}")
    return files or tables


def read_documents(path, val_percent=0):
    """Yield ("train" or "val", text) for each document of a file of any kind.

    .parquet, .jsonl and .jsonl.gz: the SHA-256 of a document's id, or of its text if it has no id,
    decides whether it is for validation. So it stays on its side whatever other documents are
    there. A .txt file is one document: its last val_percent, from the start of a line, are for
    validation.
    """
    print(f"bpe.py: reading {path}", file=sys.stderr)
    if path.suffix == ".txt":
        yield from halves_of(path, val_percent)
        return
    for document in parquet.documents(path, ("text", "id")):
        text = well_formed(document["text"])
        name = document.get("id")
        key = text if name is None else well_formed(str(name))
        percent = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") % 100
        yield "val" if percent < val_percent else "train", text


def halves_of(path, val_percent):
    """read_documents of a .txt file."""
    try:
        text = path.read_bytes().decode("utf-8")
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    end = len(text) * (100 - val_percent) // 100
    if val_percent:
        end = text.rfind("\n", 0, end) + 1 or end
    for split, half in (("train", text[:end]), ("val", text[end:])):
        if half:
            yield split, half


# ---- all documents of a run ----------------------------------------------------------------------

def encode_documents(tokenizer, documents):
    """[(split, text)] -> [(split, ids, bytes of the text)]. Ids begin with <|endoftext|>."""
    first = [tokenizer.eot_token] if "<|endoftext|>" in tokenizer.special_tokens else []
    first = np.array(first, np.uint32)
    each = tokenizer.encode_many([text for _, text in documents], num_threads=1)
    return [(split, np.concatenate([first, ids]), len(text.encode("utf-8")))
            for (split, text), ids in zip(documents, each)]


def encode_files(files, tokenizer, folder, val_percent, shard_tokens, workers):
    """Encode files of documents into the shards of a folder; returns a Counter of what was done.

    A document may go on in the next shard. The ids of a split first go to a temporary file without
    a name, so memory holds one batch of documents or one shard. New shards are made in folder/.new,
    and the old ones stay until all are made. Then all old ones go before the first new one comes:
    if shards of two --val-percent lay side by side, train and val would share documents.
    """
    new, counts = folder / ".new", Counter()
    with (runs.locked(folder, "bpe.py encode"), disk.naming(folder),
          tempfile.TemporaryFile(dir=folder) as train, tempfile.TemporaryFile(dir=folder) as val):
        runs.settle(new, folder)
        ids_of = {"val": val, "train": train}
        documents = (pair for path in files for pair in read_documents(path, val_percent))
        encode_into(ids_of, documents, tokenizer, workers, counts)
        if not counts["bytes"]:
            raise ValueError(f"{files[0]}: no text in the input")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            for split, file in ids_of.items():
                file.seek(0)
                n_tokens = counts[f"{split} tokens"]
                for k in range(-(-n_tokens // shard_tokens)):           # rounded up
                    ids = np.fromfile(file, np.uint32, shard_tokens)
                    write_shard(new / f"{split}_{k:06d}.bin", ids, tokenizer)
                if not n_tokens:
                    print(f"bpe.py: no {split} documents, so no {split} shard", file=sys.stderr)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        names = [path.name for path in folder.iterdir()]
        old = [name for name in names if regex.fullmatch(r"(train|val)_\d{6,}\.bin", name)]
        runs.publish(new, folder, "train_000000.bin", old)
    return counts


def encode_into(ids_of, documents, tokenizer, workers, counts):
    """Append the ids of all documents to the files ids_of[split] and count them."""
    start = time.perf_counter()
    batches = batches_of(documents, lambda document: len(document[1]), BATCH_CHARACTERS)
    tokenizer.encoder.pairs             # made once, before the processes are forked
    work = functools.partial(encode_documents, tokenizer)
    for batch in in_processes(work, batches, workers):
        for split, ids, n_bytes in batch:
            ids_of[split].write(ids)
            counts[f"{split} documents"] += 1
            counts[f"{split} tokens"] += len(ids)
            counts["bytes"] += n_bytes
        seconds, mb = time.perf_counter() - start, counts["bytes"] / 1e6
        if seconds > 2:
            n_documents = counts["train documents"] + counts["val documents"]
            progress.show(f"encode: {n_documents:,} documents, {mb:,.0f} MB, "
                          f"{mb / seconds:.1f} MB/s")
    if time.perf_counter() - start > 2:
        print(file=sys.stderr)
