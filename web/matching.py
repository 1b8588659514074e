"""Near-duplicates in files of documents: the steps sign, match and drop of web/dedup_steps.py.

A work folder holds what the steps leave for each file NAME.jsonl.gz of documents:

    sign    NAME.keys.npy           its documents' band keys (14, n) uint64: one row for each band
            NAME.names.tsv          their dates, addresses and ids
            NAME.signed.json        the record, written last
    match   pairs.BAND.PART.npy     (2, m) int32: pairs of documents with the same key
            index.BAND.PART.npy     (q,) int32: documents with a key of an earlier crawl
            NAME.drop.npy           (n,) bool: which documents go
            matched.json            the record, written last

`match` numbers the documents of all files in order. It looks for pairs in one band at a time, which
needs 33 bytes a document. Bands are divided by the keys' first bits: a band has a part for each
task, up to 14, and no part has more than MOST_AT_ONCE. One task joins all pairs to clusters, which
needs 14 bytes a document.

Of a cluster the document stays that was fetched first (the least date, then url, then id), in
whatever order the files come. Contents decide, not names, sizes or times: each record has the
SHA-256 of what its step read and wrote. A file that has changed is signed again, and a step refuses
files that do not belong together. An index is refused for documents that another version signs.
"""

import contextlib
import gzip
import json
import os
from pathlib import Path

from model import cores  # noqa: F401   unused: its import, before NumPy's, sets BLAS threads
import numpy as np

from run import disk, parquet, runs
from web import dedup
from web.dedup import BANDS, NO_SIGNATURE, ROWS, SHINGLE, band_keys, minhash

TOGETHER = 1000                 # documents whose band keys are made at once
MOST_AT_ONCE = 1 << 27          # documents of a part of a band, 5 GB of memory
SHARE_OF_NAMES = 64             # the names of one in so many documents are in memory at once
FEW = 1 << 20                   # documents, over all bands whose pairs stand in one file

# ---------------------------------------------------------------------------------- steps on files

# Signatures depend on these and on the text.
METHOD = {"version": 3, "shingle": SHINGLE, "bands": BANDS, "rows": ROWS}
# An index says by the dtype of its keys which version signed its documents.
KEY_TYPES = {"0.10": np.dtype(np.uint64), "v1": np.dtype([("v1", np.uint64)])}


def save_array(path, a):
    """Write an array as a .npy file, whole."""
    with disk.whole_file(path) as f:
        np.save(f, a)


def load_array(path, shape, dtypes, remake):
    """Load an array of this shape and one of these dtypes, memory-mapped. None: any length.

    ValueError for any other file, with `remake`, the command that makes it again.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file; make it with: {remake}")
    try:
        a = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as e:
        raise ValueError(
            f"{path}: damaged ({e}); delete it and make it again with: {remake}") from None
    fits = len(shape) == a.ndim and all(want in (None, n) for want, n in zip(shape, a.shape))
    if a.dtype not in dtypes or not fits:
        raise ValueError(f"{path}: {a.dtype} {a.shape} is not what this step writes; "
                         f"delete it and make it again with: {remake}")
    return a


def load_index(path, version="0.10"):
    """The sorted band keys of an earlier crawl, (14, m).

    ValueError for any other file, and if another version has signed its documents.
    """
    remake = "python -m web.dedup match --save-index"
    index = load_array(path, (BANDS, None), list(KEY_TYPES.values()), remake)
    if index.dtype != KEY_TYPES[version]:
        other = next(name for name, dtype in KEY_TYPES.items() if dtype == index.dtype)
        raise ValueError(f"{path}: signed by the rules of FineWeb {other}, and these documents by "
                         f"those of {version}; take another index, or data.py --fineweb {other}")
    index = index.view(np.uint64)
    if any((band[1:] < band[:-1]).any() for band in index):
        raise ValueError(f"{path}: no index, because its keys are not sorted; "
                         f"make it again with: {remake}")
    return index


def save_record(path, record):
    """Write a step's record as JSON, with METHOD."""
    disk.write_text(path, json.dumps({**METHOD, **record}, indent=1) + "\n")


def load_record(path, remake):
    """Load a step's record, without METHOD. ValueError if another version wrote it."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; make it with: {remake}")
    record = disk.read_json(path)
    if {key: record.pop(key, None) for key in METHOD} != METHOD:
        raise ValueError(
            f"{path}: made by another version of dedup.py; make it again with: {remake}")
    return record


# --------------------------------------------------------------------------------------------- sign


def name_of(doc):
    """Date, url and id of a document. Of a cluster the document with the least name stays."""
    no_separators = {9: " ", 10: " ", 13: " "}
    return "\t".join(str(doc.get(k, "")).translate(no_separators) for k in ("date", "url", "id"))


def stem_of(path):
    """A file's name without its ending: docs/000000.jsonl.gz -> 000000."""
    return Path(path).name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")


def save_keys(work, stem, keys, names, source=None):
    """Write names and band keys (n, 14) of documents, then the record: both files are whole.

    source: {"file", "sha256"} of the documents if they come from a file.
    """
    work = Path(work)
    disk.write_text(work / f"{stem}.names.tsv", "".join(f"{name}\n" for name in names))
    save_array(work / f"{stem}.keys.npy", np.ascontiguousarray(keys.T))
    written = {part: runs.sha256_of(work / f"{stem}.{part}") for part in ("names.tsv", "keys.npy")}
    save_record(work / f"{stem}.signed.json", {**(source or {}), **written})


def load_keys(work, stem):
    """Load (record, band keys (14, n)) of a signed file.

    ValueError unless record, keys and names are whole and were written together.
    """
    remake = f"python -m web.dedup sign FILE --work {work}, where FILE is {stem}.jsonl or .jsonl.gz"
    keys = load_array(Path(work) / f"{stem}.keys.npy", (BANDS, None), [np.uint64], remake)
    record = load_record(Path(work) / f"{stem}.signed.json", remake)
    for part in ("names.tsv", "keys.npy"):
        path = Path(work) / f"{stem}.{part}"
        if not path.exists() or runs.sha256_of(path) != record.get(part):
            raise ValueError(f"{path}: not what {stem}.signed.json was written for; "
                             f"make it again with: {remake}")
    return record, keys


def signature_and_name(line):
    """(signature, name) of a line of a file of documents."""
    doc = json.loads(line.encode("utf-8", "surrogateescape").decode("utf-8"))
    if not isinstance(doc, dict) or not isinstance(doc.get("text"), str):
        raise ValueError(f'expected {{"text": "..."}}, found {line[:60]!r}')
    name = name_of(doc)
    name.encode("utf-8")            # ValueError for a lone surrogate, which no file can hold
    return minhash([doc["text"]])[0], name


def sign(path, work):
    """Write band keys and names of a file of documents; returns the number of documents.

    Writes no keys if a file with these contents was signed already.
    """
    record_path = Path(work) / f"{stem_of(path)}.signed.json"
    source = {"file": os.path.realpath(path), "sha256": runs.sha256_of(path)}
    try:
        record = load_record(record_path, "")
    except (ValueError, FileNotFoundError):     # damaged, or another version's: sign again
        record = {}
    if record.get("sha256") == source["sha256"]:
        with contextlib.suppress(ValueError, FileNotFoundError):
            _, keys = load_keys(work, stem_of(path))
            save_record(record_path, {**record, **source})      # it may stand in another place now
            return keys.shape[1]
    elif record.get("file", source["file"]) != source["file"]:
        raise ValueError(f"{path}: {work} holds the signatures of another file of this name, "
                         f"{record['file']}; rename one of them, or give it another --work")
    parts, signatures, names = [], [], []
    for n, line in enumerate(parquet.text_lines(path, "surrogateescape"), 1):
        try:
            signature, name = signature_and_name(line)
        except (ValueError, RecursionError) as e:   # not UTF-8, not JSON, nested too deep, no text
            reason = str(e)[:200]
            raise ValueError(f"{path}:{n}: no document with a text ({reason})") from None
        signatures.append(signature)
        names.append(name)
        if len(signatures) == TOGETHER:         # a signature has eight times the bytes of its keys
            parts.append(keys_of(signatures))
            signatures = []
    check_unchanged(path, source["sha256"], work)
    parts.append(keys_of(signatures))
    save_keys(work, stem_of(path), np.concatenate(parts), names, source)
    return len(names)


def keys_of(signatures):
    """The band keys of a list of n signatures, (n, 14) uint64; n may be 0."""
    return band_keys(np.array(signatures, np.uint64).reshape(-1, BANDS * ROWS))


def check_unchanged(path, sha256, work):
    """ValueError if a file has changed since it was signed."""
    if runs.sha256_of(path) != sha256:
        raise ValueError(f"{path}: has changed since it was signed; "
                         f"run: python -m web.dedup sign {path} --work {work}, then match and drop")


# -------------------------------------------------------------------------------------------- match


def stems_in(work):
    """Names of the signed files in the order of `match`, also of those that were cut short."""
    ends = ".keys.npy", ".signed.json"
    found = {path.name.removesuffix(end) for end in ends for path in Path(work).glob(f"*{end}")}
    return sorted(found, key=lambda stem: f"{stem}.keys.npy")


class Documents:
    """All documents of the signed files in a work folder, numbered in the order of the files."""

    def __init__(self, work):
        self.work, self.stems, self.sizes = Path(work), stems_in(work), []
        if not self.stems:
            raise FileNotFoundError(f"{work}: no *.keys.npy; make them with: "
                                    f"python -m web.dedup sign FILES --work {work}")
        for stem in self.stems:
            remake = f"python -m web.dedup sign FILE --work {work}"
            keys = load_array(self.work / f"{stem}.keys.npy", (BANDS, None), [np.uint64], remake)
            self.sizes.append(keys.shape[1])
        # Numbers of four bytes, as long as they suffice: join_pairs has one for each document.
        self.number = np.int32 if sum(self.sizes) < 2 ** 31 else np.int64

    def __len__(self):
        return sum(self.sizes)

    def band(self, k, part=0, parts=1):
        """Numbers and keys of the documents in a part of a band: (m,) int32, (m,) uint64.

        Keys of a part have the same first bits. Documents without a signature are in no part.
        """
        first, numbers, found = 0, [], []
        for stem, n in zip(self.stems, self.sizes):
            path = self.work / f"{stem}.keys.npy"
            begin = path.stat().st_size - 8 * n * (BANDS - k)       # rows follow a header
            keys = np.fromfile(path, np.uint64, n, offset=begin)
            inside = keys != NO_SIGNATURE
            if parts > 1:
                inside &= (keys >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32) == part
            numbers.append(np.flatnonzero(inside).astype(self.number) + self.number(first))
            found.append(keys[inside])
            first += n
        return np.concatenate(numbers), np.concatenate(found)


def parts_of_bands(n_documents, n_tasks):
    """[(band, part, parts)]: the bands, divided so that a part fits, and each task has some.

    A band has as many parts as there are tasks, so that more tasks need less memory each. But it
    has no more than 14 for that, because every task that has a part of a band reads all of it.

    >>> len(parts_of_bands(1000, 1)), parts_of_bands(1000, 2)[:3], len(parts_of_bands(1000, 1000))
    (14, [(0, 0, 2), (0, 1, 2), (1, 0, 2)], 1008)
    """
    parts = max(min(n_tasks, BANDS), -(-n_documents // MOST_AT_ONCE), -(-n_tasks // BANDS))
    return [(k, part, parts) for k in range(BANDS) for part in range(parts)]


def find_pairs(work, to, task, index=(), version="0.10"):
    """Find a task's part of all pairs, and write them to files in the folder `to`.

    index: files of band keys of earlier crawls. version: see dedup.minhash. The task also checks
    its part of the signed files. What is there already is not made again.
    """
    documents = Documents(work)
    (Path(work) / "matched.json").unlink(missing_ok=True)       # of an earlier match
    for stem in task.own(documents.stems):
        load_keys(work, stem)
    earlier = [load_index(path, version) for path in index]
    pieces = task.own(parts_of_bands(len(documents), task.of))
    n_together = max(1, FEW // max(1, len(documents)))      # few documents: all bands in one file
    for i in range(0, len(pieces), n_together):
        k, part, _ = pieces[i]
        name = f"{k:02}.{part:04}.npy"
        if (to / f"pairs.{name}").exists():
            continue
        found = [pairs_of_band(documents, *piece, earlier) for piece in pieces[i:i + n_together]]
        left, right, old = map(np.concatenate, zip(*found))
        if earlier:
            save_array(to / f"index.{name}", old)
        save_array(to / f"pairs.{name}", np.array([left, right]))


def pairs_of_band(documents, k, part, parts, earlier):
    """The pairs of documents in a part of a band, and the documents that earlier crawls have.

    -> (m,), (m,), (q,) int32, numbers of documents. earlier: indices, each (14, m).
    """
    numbers, keys = documents.band(k, part, parts)
    left, right = dedup.same_keys(keys)
    old = np.zeros(len(keys), bool)
    for bands in earlier:
        old |= dedup.in_index(keys, bands[k])
    return numbers[left], numbers[right], numbers[old]


def first_of_clusters(documents, root, several):
    """The document with the least name of each cluster that has several: (k,) numbers.

    root (n,): the cluster of each document, which is the number of its earliest. several: the
    clusters that have several, sorted. A name in a dict takes 300 bytes, so a part of the clusters
    is looked at at once, and all names are read again for the next part.
    """
    at_once, found = 1 + len(root) // SHARE_OF_NAMES, []
    for start in range(0, len(several), at_once):
        some = several[start:start + at_once]
        is_one = np.zeros(len(root), bool)
        is_one[some] = True
        found.append(least_names(documents, root, is_one[root]))
    return np.concatenate([several[:0], *found])


def least_names(documents, root, wanted):
    """The document with the least name of each cluster that is wanted (n,): (k,) numbers."""
    least, i = {}, 0
    for stem in documents.stems:
        for name in disk.read_lines(documents.work / f"{stem}.names.tsv"):
            if wanted[i]:
                cluster = int(root[i])
                least[cluster] = min(least.get(cluster, (name, i)), (name, i))
            i += 1
    return np.array([i for _, i in least.values()], root.dtype)


def join_pairs(work, found, save_index=None, version="0.10"):
    """Decide from all pairs which documents go, and write NAME.drop.npy beside each NAME.keys.npy.

    found: the folder of the pairs. A cluster goes as a whole if one of its documents has a key of
    an earlier crawl. save_index: a file for the band keys of the documents that stay. Returns the
    numbers of (documents, dropped ones, dropped ones because of an earlier crawl).
    """
    work, documents = Path(work), Documents(work)
    n = len(documents)
    root, of_index = np.arange(n, dtype=documents.number), np.zeros(n, bool)
    for path in sorted(found.glob("pairs.*.npy")):
        dedup.join(root, *np.load(path))
    for path in sorted(found.glob("index.*.npy")):
        of_index[root[np.load(path)]] = True                # marks the root of a whole cluster
    old = of_index[root]
    drop = root != np.arange(n, dtype=documents.number)     # all but the earliest of each cluster
    several = np.unique(root[drop])
    drop[several] = True
    first = first_of_clusters(documents, root, several)
    drop[first] = False
    drop |= old
    del root
    ends = np.cumsum(documents.sizes)
    for stem, part in zip(documents.stems, np.split(drop, ends[:-1])):
        save_array(work / f"{stem}.drop.npy", part)
    if save_index:
        save_keys_of_crawl(save_index, documents, ~drop, version)
    signed = {stem: record_without_place(work, stem) for stem in documents.stems}
    digests = {stem: runs.sha256_of(work / f"{stem}.drop.npy") for stem in documents.stems}
    save_record(work / "matched.json", {"signed": signed, "drop.npy": digests})
    return n, int(drop.sum()), int(old.sum())


def save_keys_of_crawl(path, documents, stays, version):
    """Write an index: of each band the sorted keys of the documents that stay, (14, m)."""
    with disk.whole_file(path) as file:
        for k in range(BANDS):
            numbers, keys = documents.band(k)
            keys = np.sort(keys[stays[numbers]]).view(KEY_TYPES[version])
            if k == 0:
                kind = np.lib.format.dtype_to_descr(keys.dtype)
                np.lib.format.write_array_header_1_0(
                    file, {"descr": kind, "fortran_order": False, "shape": (BANDS, len(keys))})
            file.write(keys.tobytes())


def record_without_place(work, stem):
    """A file's record of `sign` without the file's place, because files may move."""
    remake = f"python -m web.dedup sign FILE --work {work}"
    record = load_record(Path(work) / f"{stem}.signed.json", remake)
    return {key: value for key, value in record.items() if key != "file"}


# --------------------------------------------------------------------------------------------- drop


def load_match(work):
    """Load the record of the last match: {"signed": {name: record}, "drop.npy": {name: SHA-256}}.

    ValueError if files were signed or removed after it, because a match depends on all of them.
    """
    remake = f"python -m web.dedup match --work {work}, with the --index it had"
    found = load_record(Path(work) / "matched.json", remake)
    signed = {stem: record_without_place(work, stem) for stem in stems_in(work)}
    if found.keys() != {"signed", "drop.npy"}:
        raise ValueError(f"{work}/matched.json: not what match writes; run: {remake}")
    matched = found["signed"]
    if matched != signed:
        changed = [s for s in {*matched, *signed} if matched.get(s) != signed.get(s)]
        raise ValueError(f"{work}: {min(changed)} was signed or removed after the last match; "
                         f"run: {remake}")
    return found


def check_matched(path, work, matched):
    """ValueError unless a file was matched and has not changed since. matched: see load_match."""
    stem = stem_of(path)
    if stem not in matched["signed"]:
        raise ValueError(f"{path}: not among the files matched in {work}; "
                         f"run: python -m web.dedup sign {path} --work {work}, then match and drop")
    check_unchanged(path, matched["signed"][stem]["sha256"], work)


def drop_lines(path, work, to, matched):
    """Write a file without its dropped documents to the folder `to`.

    matched: see load_match. Returns the numbers of documents (kept, dropped).
    """
    remake = f"python -m web.dedup match --work {work}"
    drop_path = Path(work) / f"{stem_of(path)}.drop.npy"
    drop = load_array(drop_path, (None,), [bool], remake)
    if runs.sha256_of(drop_path) != matched["drop.npy"][stem_of(path)]:
        raise ValueError(
            f"{drop_path}: not what the last match wrote; make it again with: {remake}")
    with disk.whole_file(Path(to) / f"{stem_of(path)}.jsonl.gz") as f:
        with gzip.GzipFile("", "wb", 6, f, mtime=0) as out:
            for line, goes in zip(parquet.text_lines(path), drop.tolist()):
                if not goes:
                    out.write(line.encode())
        check_matched(path, work, matched)                  # may have changed while it was read
    return int((~drop).sum()), int(drop.sum())


def claim(to, work):
    """Mark the folder of the results as that of this work folder.

    ValueError if it holds other files: results of another work folder may have the same names.
    """
    mark, owner = to / ".dedup-work", os.fsencode(os.path.realpath(work))
    there = sorted(to.glob("*.jsonl.gz"))
    if there and not (mark.exists() and mark.read_bytes() == owner):
        raise ValueError(f"{there[0]}: already there, and not made from {work}; "
                         f"delete {to}, or name another folder with --to")
    with disk.whole_file(mark) as f:
        f.write(owner)


