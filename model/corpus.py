"""corpus.py: the tokens that a run learns from, as lists of arrays for training and validation.

    load_run(run, tokenizer)            RUN/tokens, as bpe.py encode writes it
    load_shards(paths, raw, tokenizer)  shards of llm.c, modded-nanogpt, or nanoGPT (raw)
    load_documents(paths, tokenizer)    .txt, .jsonl, .jsonl.gz and .parquet files
    load_characters(path)               a text of which every character is a token

Shards are mapped from the disk, so they may be larger than memory.
"""

import sys
from pathlib import Path

import bpe
import numpy as np
from run import runs
from tokens.shards import check_ids, open_shard, read_documents


def load_run(run, tokenizer):
    """(train, val) shards of RUN/tokens; ValueError if another tokenizer made them."""
    folder, shards = Path(run) / "tokens", {}
    again = f"python bpe.py encode --run {run}"
    runs.check_settled(folder / ".new", again)
    for split in ("train", "val"):
        first = folder / f"{split}_000000.bin"
        if not first.exists():
            raise FileNotFoundError(f"{first}: no such shard; make them with: {again}")
        paths = sorted(folder.glob(f"{split}_*.bin"))
        shards[split] = [open_shard(path, tokenizer) for path in paths]
    return shards["train"], shards["val"]


def load_shards(paths, raw, tokenizer=None):
    """(train, val) shards that any program wrote, given as files or folders.

    A file with "val" in its name is for validation. raw: uint16 tokens without a header.
    """
    files = []
    for path in paths:
        files.extend(path.glob("*.bin") if path.is_dir() else [path])
    train, val = [], []
    for path in sorted(files):
        split = val if "val" in path.name else train
        split.append(open_raw(path) if raw else open_shard(path, tokenizer))
    for name, found in (("val", val), ("train", train)):
        if not found:
            names = ", ".join(map(str, sorted(files))) or "no *.bin file"
            raise FileNotFoundError(f"{names}: no shard for {name}; the validation shards are "
                                    'those with "val" in their names')
    return train, val


def open_raw(path):
    """A memory map of a file with uint16 tokens and nothing else, as nanoGPT writes them."""
    n_bytes = path.stat().st_size
    if n_bytes == 0 or n_bytes % 2:
        raise ValueError(f"{path}: {n_bytes} bytes are no whole number of uint16 tokens above 0")
    return np.memmap(path, "<u2", "r")


def load_characters(path):
    """(tokenizer, train, val) of a text with its characters as tokens; the last tenth is val."""
    try:
        text = Path(path).read_bytes().decode("utf-8")      # no newline is translated
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: not UTF-8 text ({e.reason} at byte {e.start})") from None
    if not text:
        raise ValueError(f"{path}: empty file, there is nothing to learn")
    tokenizer = bpe.Tokenizer.characters(text)
    ids = tokenizer.encode_to_numpy(text, disallowed_special=())
    cut = int(len(ids) * 0.9)
    return tokenizer, [ids[:cut]], [ids[cut:]]


def load_documents(paths, tokenizer):
    """(train, val) tokens of documents, about a tenth of them for validation.

    Before each document stands <|endoftext|>, if the vocabulary has it.
    """
    parts = {"train": [], "val": []}
    start = tokenizer.special_tokens.get("<|endoftext|>")
    for path in paths:
        for split, text in read_documents(path, val_percent=10):
            if start is not None:
                parts[split].append(np.array([start], np.uint32))
            parts[split].append(tokenizer.encode_to_numpy(text, disallowed_special=()))
    empty = [split for split, found in parts.items() if not found]
    if empty:
        names = ", ".join(map(str, paths))
        raise ValueError(f"{names}: too few documents for {' and '.join(empty)}")
    return [np.concatenate(parts["train"])], [np.concatenate(parts["val"])]


def load_data(run, data=None, tokenizer_path=None, raw=False):
    """(tokenizer or None, train, val) of a run folder, or of the files and folders in data.

    Without a tokenizer, a text is learned by its characters, and shards are only numbers.
    """
    if not data:
        if tokenizer_path or raw:
            option = "--tokenizer" if tokenizer_path else "--raw"
            raise ValueError(f"{option}: says how to read --data; {run}/tokens has the tokenizer "
                             "of its run")
        if not run.is_dir():
            raise FileNotFoundError(f"{run}: no such run folder; make the demo's with: make, or "
                                    "name a text with --data")
        path = run / "tokenizer.json"
        if not path.exists():
            raise FileNotFoundError(f"{path}: no tokenizer; train one with: "
                                    f"python bpe.py train --run {run}")
        tokenizer = bpe.Tokenizer.load(path)
        return tokenizer, *load_run(run, tokenizer)
    for path in data:
        if not path.exists():
            raise FileNotFoundError(f"{path}: No such file or folder")
    tokenizer = bpe.Tokenizer.load(tokenizer_path) if tokenizer_path else None
    if all(path.suffix == ".bin" or path.is_dir() for path in data):
        return tokenizer, *load_shards(data, raw, tokenizer)
    if raw:
        raise ValueError(f"--raw is for shards of tokens, and {data[0]} is none")
    if tokenizer:
        return tokenizer, *load_documents(data, tokenizer)
    if len(data) == 1 and data[0].suffix == ".txt":
        return load_characters(data[0])
    raise ValueError(f"{data[0]}: give the --tokenizer in whose tokens it is to be learned; "
                     "make one with: python bpe.py train")


def check_shards(shards, n_tokens, data=None):
    """ValueError for an id that is no token; names data[0] if the tokens came from there."""
    source = data[0] if data else None
    for shard in shards:
        check_ids(shard, n_tokens, source)


def long_enough(shards, T):
    """The shards with at least two windows of T tokens; says which are left out."""
    kept = [shard for shard in shards if len(shard) >= 2 * T]
    n_tokens = sum(map(len, shards))
    if not kept:
        raise ValueError(f"{n_tokens} tokens are too few for windows of {T}; make more text, or "
                         "train with a shorter context")
    if len(kept) < len(shards):
        print(f"{len(shards) - len(kept)} of {len(shards)} shards are shorter than two windows of "
              f"{T} tokens and are left out ({n_tokens - sum(map(len, kept)):,} tokens)",
              file=sys.stderr)
    return kept


def document_windows(shards, T, document_start):
    """For each shard, where windows of T tokens begin, if each begins where a document begins.

    Windows do not overlap. document_start: the token before each document. Tokens between the end
    of a window and the next document are in none; the share of them is printed.
    """
    starts = [_document_starts(shard, T, document_start) for shard in shards]
    n_windows, n_tokens = sum(map(len, starts)), sum(map(len, shards))
    if not n_windows:
        raise ValueError(f"no document starts {T} tokens before the end of its shard; train "
                         "without --align-documents")
    print(f"windows at the start of documents: {n_windows:,}; "
          f"{1 - n_windows * T / n_tokens:.1%} of the tokens are in none", file=sys.stderr)
    return starts


def _document_starts(shard, T, document_start):
    documents = np.flatnonzero(np.asarray(shard) == document_start)
    starts, free = [], 0        # free: the first token that is in no window yet
    while True:
        k = np.searchsorted(documents, free)
        if k == len(documents) or documents[k] + T >= len(shard):
            return np.array(starts, np.int64)
        starts.append(documents[k])
        free = documents[k] + T


def start_token(tokenizer):
    """The token that stands before each document; ValueError if there is none."""
    token = tokenizer.special_tokens.get("<|endoftext|>") if tokenizer else None
    if token is None:
        raise ValueError("--align-documents needs a tokenizer with <|endoftext|>, which tells "
                         "documents apart")
    return token


def add_arguments(parser):
    """The options --data, --tokenizer, --raw and --align-documents."""
    parser.add_argument("--data", nargs="+", type=Path, metavar="PATH",
                        help="in place of DIR/tokens: .txt, .jsonl, .jsonl.gz or .parquet "
                        "files, token shards (.bin), or folders of shards")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE",
                        help="of --data: tokenizer.json or .tiktoken. Without one, a text is "
                        "learned by its characters, and shards have the preset's vocabulary")
    parser.add_argument("--raw", action="store_true",
                        help="the shards are uint16 tokens without a header, as nanoGPT's are")
    parser.add_argument("--align-documents", action="store_true",
                        help="begin every row where a document begins")
