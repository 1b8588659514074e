"""Near-duplicates, found by MinHash: data.minhash and data.clusters for many documents.

data.py says what a signature is, and why 14 bands of 8 link texts that share 85 % of their shingles
and not those that share half. Here are the same functions, faster, and three steps on files. A
step that was killed does not begin anew. Machines that share the work sign into folders of their
own; copy the files of these into one folder before `match`.

    python -m web.dedup sign docs/*.jsonl.gz --work W
        writes each file's band keys, W/NAME.keys.npy, and names, W/NAME.names.tsv
    python -m web.dedup match --work W --index 2024.npy
        writes which documents go, W/NAME.drop.npy; the index is of an earlier crawl
    python -m web.dedup drop docs/*.jsonl.gz --work W --to out
        writes the files without them

Of a cluster the document stays that was fetched first (the least date, then url, then id), in
whatever order the files come. Contents decide, not names, sizes or times. Each step writes its
record last (NAME.signed.json, matched.json), with the SHA-256 of what it read and wrote. A file
that has changed is signed again, and a step refuses files that do not belong together.

data.py takes the same steps within its run. Words, formula, seeds and constants are datatrove
0.10's, so that signatures are equal bit for bit; with version="v1" they are those of datatrove 0.2,
which made FineWeb v1 (with NLTK's words, few of whose rules act on text without punctuation). Of a
band only a 64-bit key is kept: among a billion documents 0.38 pairs are linked by mistake
(14 bands, 5e17 pairs, 2^64 keys). An index is refused for documents that another version signs.

Sources: Broder 1997 (MinHash); Penedo et al. 2024 (FineWeb: 5-grams, 14 bands of 8); datatrove's
minhash.py.
"""

import argparse
import contextlib
import functools
import gzip
import hashlib
import json
import os
import re
import sys
import unicodedata
from pathlib import Path

from model import cores                    # before NumPy
from run import command, disk
from web import encoding
import numpy as np
import regex
from run import progress, runs
from web.words import PUNCTUATION, SPECIAL, UNITS, Memory, split_piece

SHINGLE, BANDS, ROWS = 5, 14, 8
MERSENNE = np.uint64((1 << 61) - 1)
NO_SIGNATURE = np.uint64(0xFFFFFFFFFFFFFFFF)                # minima are below 2^61
NUMBER = regex.compile(r"\p{Nd}+(?:[.,،٫⎖⎗⎘]\p{Nd}+)?")
# What is split of a normalized text in ASCII: doesnt -> does nt, 0km -> 0 km.
SPLIT = frozenset(piece for piece, words in SPECIAL.items() if len(words) > 1)
SPLIT_NUMBER = regex.compile(f"0(?:{'|'.join(UNITS)})(?![a-z0])")
MARK = re.compile(f"[{re.escape(''.join(sorted(PUNCTUATION)))}]")
DIGITS = re.compile(r"\d+")
OLD_MARKS = re.compile("[‘‒―`;]")                           # the last two come of Greek letters
OLD_WORDS = re.compile(
    r"\b(can(?=not\b)|gim(?=me\b)|gon(?=na\b)|got(?=ta\b)|lem(?=me\b)|wan(?=na(?:\s|\Z)))"
    r"(not|me|na|ta)")
DIGEST = np.dtype([("first", "<u8"), ("rest", "V12")])      # a SHA-1
BLOCK = 256                     # shingles times 112 numbers of 8 bytes: fits a core's cache

# -------------------------------------------------------------------------------------- signatures


@functools.cache
def permutations():
    """datatrove's multipliers and offsets, (112,) uint64 each: NumPy's old generator, seed 1."""
    rng, n = np.random.RandomState(1), BANDS * ROWS
    return rng.randint(1, MERSENNE, n, np.uint64), rng.randint(0, MERSENNE, n, np.uint64)


def normalize(text, version="0.10"):
    """The form in which documents are compared: lower case, numbers 0, no punctuation, no accents.

    "v1" deletes punctuation, which joins what stood at its sides: don't -> dont, 3.14 -> 0.
    """
    text = text.lower()
    if version == "v1":
        text = MARK.sub("", " ".join(text.split()))
    else:
        text = " ".join(MARK.sub(" ", NUMBER.sub("0", text)).split())
    if not text.isascii():
        text = unicodedata.normalize("NFD", encoding.stream_safe(text))
        marks = {ord(c): None for c in set(text) if unicodedata.category(c) == "Mn"}
        text = (text.translate(marks) if marks else text).strip()
    return DIGITS.sub("0", text).strip() if version == "v1" else text


words_in = Memory(lambda piece: " ".join(split_piece(piece)))


def split_v1(text):
    """The words of FineWeb v1, joined by spaces: NLTK's rules that act without punctuation."""
    text = OLD_MARKS.sub(r" \g<0> ", text)
    return " ".join(OLD_WORDS.sub(r" \g<1> \g<2> ", text).split())


def split(text):
    """The words of a normalized text, joined by spaces. In ASCII nearly no piece is split."""
    pieces = text.split()
    if text.isascii() and SPLIT.isdisjoint(pieces) and not SPLIT_NUMBER.search(text):
        return " ".join(pieces)
    return " ".join(map(words_in.__getitem__, pieces))


def shingle_hashes(text, version="0.10"):
    """The first 8 bytes of each shingle's SHA-1: a normalized text of T words -> (T-4,) uint64.

    Cuts all shingles out of one string, at its spaces, instead of joining five words for each.
    The bare SHA-1 takes half of the time.
    """
    text = split_v1(text) if version == "v1" else split(text)
    joined, sha1 = text.encode("utf-8", "surrogatepass"), hashlib.sha1
    spaces = np.flatnonzero(np.frombuffer(joined, np.uint8) == ord(" "))
    begins = [0, *(spaces + 1).tolist()]
    ends = [*spaces.tolist(), len(joined)][SHINGLE - 1:]
    digests = [sha1(joined[begin:end]).digest() for begin, end in zip(begins, ends)]
    return np.frombuffer(b"".join(digests), DIGEST)["first"]


def minhash(texts, version="0.10"):
    """data.minhash: n texts -> (n, 112) uint64, in a third of the time.

    Takes the shingles in blocks that stay in a core's cache, and the remainder modulo 2^61-1
    without a division: the low 61 bits plus the others, once less the modulus where that is not
    negative.
    """
    (a, b), n = permutations(), BANDS * ROWS
    signatures = np.full((len(texts), n), NO_SIGNATURE, np.uint64)
    x, y = np.empty((2, BLOCK, n), np.uint64)
    for row, text in zip(signatures, texts):
        hashes = shingle_hashes(normalize(text, version), version)
        for at in range(0, len(hashes), BLOCK):
            h = hashes[at:at + BLOCK, None]
            u, v = x[:len(h)], y[:len(h)]
            np.multiply(h, a, out=u)
            u += b
            np.right_shift(u, np.uint64(61), out=v)
            u &= MERSENNE
            u += v
            np.subtract(u, MERSENNE, out=v)                 # wraps to a huge number below zero
            np.minimum(u, v, out=u)
            np.minimum(row, u.min(0), out=row)
    return signatures


def band_keys(signatures):
    """A band's 8 minima as one number: (n, 112) uint64 -> (n, 14) uint64.

    A document without a signature has NO_SIGNATURE for each.
    """
    bands = signatures.reshape(-1, BANDS, ROWS)
    keys = np.zeros((len(signatures), BANDS), np.uint64)
    for j in range(ROWS):
        keys = (keys ^ bands[:, :, j]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    keys[signatures[:, 0] == NO_SIGNATURE] = NO_SIGNATURE
    return keys


# ---------------------------------------------------------------------------------------- clusters


def clusters(keys):
    """data.clusters from band keys: (n, 14) uint64 -> (n,) int64, for millions of documents.

    Takes one band after the other in sorted order, where equal keys stand side by side.
    """
    root = np.arange(len(keys))                             # the earliest known of the cluster
    real = np.flatnonzero(keys[:, 0] != NO_SIGNATURE)
    for k in range(BANDS):
        key = keys[real, k]
        order = np.argsort(key, kind="stable")
        same = key[order[1:]] == key[order[:-1]]
        left, right = real[order[:-1][same]], real[order[1:][same]]     # m equals: m-1 pairs
        while len(left):
            low = np.minimum(root[left], root[right])
            high = np.maximum(root[left], root[right])
            differ = low < high
            root[high[differ]] = low[differ]                # hang later roots under earlier ones
            while (root[root] != root).any():
                root = root[root]                           # halve every path
            left, right = left[differ], right[differ]
    return root


def in_index(keys, index):
    """Which documents share a band with one of an earlier crawl: (n, 14), (14, m) -> (n,) bool.

    The rows of the index are sorted.
    """
    found = np.zeros(len(keys), bool)
    for k in range(BANDS if index.shape[1] else 0):
        at = np.minimum(np.searchsorted(index[k], keys[:, k]), index.shape[1] - 1)
        found |= (index[k, at] == keys[:, k]) & (keys[:, k] != NO_SIGNATURE)
    return found


# ---------------------------------------------------------------------------------- steps on files

# Signatures depend on these and on the text.
METHOD = {"version": 2, "shingle": SHINGLE, "bands": BANDS, "rows": ROWS}
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
    return Path(path).name.removesuffix(".gz").removesuffix(".jsonl")


def save_keys(work, stem, signatures, names, source=None):
    """Write names and band keys of documents, then the record that says that both are whole.

    source: {"file", "sha256"} of the documents if they come from a file.
    """
    work = Path(work)
    disk.write_text(work / f"{stem}.names.tsv", "".join(f"{name}\n" for name in names))
    save_array(work / f"{stem}.keys.npy", band_keys(signatures))
    written = {part: runs.sha256_of(work / f"{stem}.{part}") for part in ("names.tsv", "keys.npy")}
    save_record(work / f"{stem}.signed.json", {**(source or {}), **written})


def load_keys(work, stem):
    """Load (record, band keys) of a signed file.

    ValueError unless record, keys and names are whole and were written together.
    """
    remake = f"python -m web.dedup sign FILE --work {work}, where FILE is {stem}.jsonl or .jsonl.gz"
    keys = load_array(Path(work) / f"{stem}.keys.npy", (None, BANDS), [np.uint64], remake)
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
            return len(keys)
    elif record.get("file", source["file"]) != source["file"]:
        raise ValueError(f"{path}: {work} holds the signatures of another file of this name, "
                         f"{record['file']}; rename one of them, or give it another --work")
    signatures, names = [], []
    for n, line in enumerate(disk.read_lines(path, "surrogateescape"), 1):
        try:
            signature, name = signature_and_name(line)
        except (ValueError, RecursionError) as e:   # not UTF-8, not JSON, nested too deep, no text
            reason = str(e)[:200]
            raise ValueError(f"{path}:{n}: no document with a text ({reason})") from None
        signatures.append(signature)
        names.append(name)
    check_unchanged(path, source["sha256"], work)
    signatures = np.array(signatures, np.uint64).reshape(-1, BANDS * ROWS)
    save_keys(work, stem_of(path), signatures, names, source)
    return len(names)


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


def first_of_clusters(work, stems, root, several):
    """The document with the least name of each cluster that has several, as indices."""
    least, i = {}, 0
    for stem in stems:
        for name in disk.read_lines(work / f"{stem}.names.tsv"):
            if several[i]:
                least[root[i]] = min(least.get(root[i], (name, i)), (name, i))
            i += 1
    return [i for _, i in least.values()]


def match(work, index=(), save_index=None, version="0.10"):
    """Decide which documents go, and write NAME.drop.npy beside each NAME.keys.npy.

    index: files of band keys of earlier crawls. A cluster that is linked to one of their documents
    goes as a whole. save_index: a file for the band keys of the documents that stay. version: see
    minhash. Returns the numbers of (documents, dropped ones, dropped ones because of the index).
    """
    work = Path(work)
    stems = stems_in(work)
    if not stems:
        raise FileNotFoundError(f"{work}: no *.keys.npy; "
                                f"make them with: python -m web.dedup sign FILES --work {work}")
    records, parts = zip(*[load_keys(work, stem) for stem in stems])
    keys, sizes = np.concatenate(parts), list(map(len, parts))
    root, n = clusters(keys), len(keys)
    old = np.zeros(n, bool)
    for path in index:                                      # marks the root of a whole cluster
        np.logical_or.at(old, root, in_index(keys, load_index(path, version)))
    old = old[root]
    several = np.bincount(root, minlength=n)[root] > 1
    drop = several | old
    drop[[i for i in first_of_clusters(work, stems, root, several) if not old[i]]] = False
    (work / "matched.json").unlink(missing_ok=True)
    for stem, part in zip(stems, np.split(drop, np.cumsum(sizes)[:-1])):
        save_array(work / f"{stem}.drop.npy", part)
    if save_index:
        stays = ~drop & (keys[:, 0] != NO_SIGNATURE)
        save_array(save_index, np.sort(keys[stays].T, axis=1).view(KEY_TYPES[version]))
    save_record(work / "matched.json", {
        "signed": dict(zip(stems, map(without_place, records))),
        "drop.npy": {stem: runs.sha256_of(work / f"{stem}.drop.npy") for stem in stems},
    })
    return n, int(drop.sum()), int(old.sum())


def without_place(record):
    """A record of `sign` without the file's place, because files may move."""
    return {key: value for key, value in record.items() if key != "file"}


# --------------------------------------------------------------------------------------------- drop


def load_match(work):
    """Load the record of the last match: {"signed": {name: record}, "drop.npy": {name: SHA-256}}.

    ValueError if files were signed or removed after it, because a match depends on all of them.
    """
    remake = f"python -m web.dedup match --work {work}, with the --index it had"
    found = load_record(Path(work) / "matched.json", remake)
    signed = {}
    for stem in stems_in(work):
        record = load_record(Path(work) / f"{stem}.signed.json", remake)
        signed[stem] = without_place(record)
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
            for line, goes in zip(disk.read_lines(path), drop.tolist()):
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


# -------------------------------------------------------------------------------------- commands


def parse_args(argv=None):
    """The options of a step."""
    parser = argparse.ArgumentParser(
        prog="python -m web.dedup",
        description="Remove near-duplicates from files of documents, in three steps.")
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for step, purpose in STEPS.items():
        p = steps.add_parser(step, help=purpose, description=f"Step of three: {purpose}.")
        if step != "match":
            p.add_argument("files", nargs="+", type=Path, metavar="FILE",
                           help=".jsonl or .jsonl.gz; a line has text, date, url, id")
            p.add_argument("--workers", type=int, default=cores.N_THREADS, metavar="N",
                           help="processes, over files (default: one per CPU, here %(default)s)")
        p.add_argument("--work", type=Path, required=True, metavar="DIR",
                       help="folder in which the steps leave their files (required)")
        if step == "match":
            p.add_argument("--index", type=Path, nargs="+", default=(), metavar="FILE",
                           help="band keys of earlier crawls, whose near-duplicates go too "
                                "(default: none)")
            p.add_argument("--save-index", type=Path, metavar="FILE",
                           help="write the band keys of what stays (default: none)")
        if step == "drop":
            p.add_argument("--to", type=Path, required=True, metavar="DIR",
                           help="folder for the files without duplicates (required)")
    args = parser.parse_args(argv)
    if args.step != "match":
        if args.workers < 1:
            parser.error(f"--workers {args.workers}: at least 1")
        if len(set(map(stem_of, args.files))) < len(args.files):
            parser.error("two of the files have the same name; rename them, or give each folder a "
                         "--work and a --to of its own")
    return args


STEPS = {
    "sign": "write band keys and names of every file",
    "match": "decide which documents go",
    "drop": "write the files without them",
}


def each_file(step, function, args):
    """Yields function(path) in the order of args.files, and says how many files are done."""
    n = min(args.workers, len(args.files))
    alone = contextlib.nullcontext(functools.partial(map, function))
    with cores.processes(n, function) if n > 1 else alone as in_order:
        for i, answer in enumerate(in_order(args.files), 1):
            progress.show(f"{step}: {i} of {len(args.files)} files")
            yield answer
    print(file=sys.stderr)


def sign_command(args):
    """Sign files."""
    n = sum(each_file("sign", functools.partial(sign, work=args.work), args))
    print(f"{n:,} documents signed")


def match_command(args):
    """Decide which documents go."""
    n, dropped, old = match(args.work, args.index, args.save_index)
    of_index = f", {old:,} of them of earlier crawls" if args.index else ""
    n_files = len(stems_in(args.work))
    print(f"{n:,} documents of {n_files:,} files, {dropped:,} near-duplicates{of_index}")


def drop_command(args):
    """Check that everything belongs together, then write the files without duplicates."""
    matched = load_match(args.work)
    taken = [args.work, *(path.parent for path in args.files)]
    if os.path.realpath(args.to) in map(os.path.realpath, taken):
        raise ValueError(f"--to {args.to}: the results need a folder of their own, "
                         "not that of the files or of --work")
    with runs.locked(args.to, "dedup.py"):
        claim(args.to, args.work)
        check = functools.partial(check_matched, work=args.work, matched=matched)
        write = functools.partial(drop_lines, work=args.work, to=args.to, matched=matched)
        list(each_file("check", check, args))               # all, before the first is written
        kept, dropped = map(sum, zip(*each_file("drop", write, args)))
    print(f"{kept:,} documents kept, {dropped:,} dropped")
    missing = set(matched["signed"]) - set(map(stem_of, args.files))
    if missing:
        print(f"dedup.py: {len(missing)} files that were matched are not among these, "
              f"such as {min(missing)}", file=sys.stderr)
    left = set(map(stem_of, args.to.glob("*.jsonl.gz"))) - set(matched["signed"])
    if left:
        print(f"dedup.py: {args.to} holds {len(left)} files from before, which are no longer "
              f"matched, such as {min(left)}.jsonl.gz", file=sys.stderr)


def main(argv=None):
    """Run a step. One process at a time works in a work folder."""
    args = parse_args(argv)
    step = {"sign": sign_command, "match": match_command, "drop": drop_command}[args.step]
    with runs.locked(args.work, "dedup.py"):
        step(args)


if __name__ == "__main__":
    command.run(main)
