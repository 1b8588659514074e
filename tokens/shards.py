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

import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from run import disk, parquet, runs
from tokens.added import well_formed

HEADER_BYTES = 1024
UINT16, UINT32 = (20240520, 1), (20240801, 7)           # magic and version
DTYPES = {UINT16: np.dtype("<u2"), UINT32: np.dtype("<u4")}
LARGEST = 2**31 - 1                                     # ids in one shard


# ---- one shard -----------------------------------------------------------------------------------


def kind_of(n_vocab):
    """Magic and version of a shard whose ids are below n_vocab."""
    return UINT16 if n_vocab <= 2**16 else UINT32


def dtype_of(tokenizer):
    """The type of a tokenizer's ids in shards."""
    return DTYPES[kind_of(tokenizer.n_vocab)]


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
    kind = kind_of(n_vocab or high + 1)
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


def read_documents(path, val_percent=0, opened=None):
    """Yield ("train" or "val", text) for each document of a file of any kind.

    .parquet, .jsonl and .jsonl.gz: the SHA-256 of a document's id, or of its text if it has no id,
    decides whether it is for validation. So it stays on its side whatever other documents are
    there. A .txt file is one document: its last val_percent, from the start of a line, are for
    validation. opened: as for parquet.documents.
    """
    print(f"bpe.py: reading {path}", file=sys.stderr)
    if path.suffix == ".txt":
        yield from halves_of(path, val_percent)
        return
    for document in parquet.documents(path, ("text", "id"), opened=opened):
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
