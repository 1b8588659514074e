"""dedup.py: near-duplicates, found by MinHash.

Two texts are near-duplicates when they share most of their shingles, the runs of five words in them. Comparing all pairs of a
million texts is out of the question, so each gets a signature: for each of 112 orders of all shingles the first one that the
text has. Two texts that share a part s of their shingles agree in each of the 112 with probability s. The signature is cut into
14 bands of 8, and texts that agree in any whole band are linked: with probability 1 - (1 - s^8)^14, which is 0.06 for s = 0.5
and 0.997 for s = 0.85. What links connect, in any number of steps, is a cluster, and of a cluster one text is kept: the one
that was fetched first (by its date, then url, then id), whatever order the files come in.

The steps leave files, so that many processes and machines can share them, and one that was killed does not begin anew:

    python dedup.py sign docs/*.jsonl.gz --work W       each file's band keys, W/NAME.keys.npy, and names, W/NAME.names.tsv
    python dedup.py match --work W --index 2024.npy     which documents go: W/NAME.drop.npy; the index is of an earlier crawl
    python dedup.py drop docs/*.jsonl.gz --work W --to out       the files without them

data.py takes the same steps within the pipeline. Formula, seeds and constants are datatrove's, so that signatures are equal bit
for bit; of a band only a 64-bit key is kept, which for a billion documents joins two bands by mistake once in forty runs.

Sources: Broder 1997 (MinHash); Penedo et al. 2024 (FineWeb: 5-grams, 14 bands of 8); datatrove's minhash.py.
"""

import argparse
import functools
import gzip
import hashlib
import json
import multiprocessing
import os
import sys
import unicodedata
from pathlib import Path

import checkpoint
import extract
import numpy as np
import regex
import runs
from filters import PUNCTUATION, Words

SHINGLE, BANDS, ROWS = 5, 14, 8
MERSENNE = np.uint64((1 << 61) - 1)
NO_SIGNATURE = np.uint64(0xFFFFFFFFFFFFFFFF)                # minima are below 2^61
NUMBER = regex.compile(r"\p{Nd}+(?:[.,،٫⎖⎗⎘]\p{Nd}+)?")
TWO_WORDS = regex.compile(r"0[a-z]+0")                      # 0px0: a number takes letters, but no more numbers
TO_SPACE = {ord(c): " " for c in PUNCTUATION}
BLOCK = 256                     # shingles times 112 numbers of 8 bytes: fits a core's cache


# ------------------------------------------------------------------------------------------------------- signatures


@functools.cache
def permutations():                                         # -> a, b (112,) uint64
    """datatrove's multipliers and offsets: what NumPy's old generator draws after seed 1."""
    rng, n = np.random.RandomState(1), BANDS * ROWS
    return rng.randint(1, MERSENNE, n, np.uint64), rng.randint(0, MERSENNE, n, np.uint64)


def normalize(text):
    """By what documents are compared: lower case, numbers 0, no punctuation or accents."""
    text = " ".join(NUMBER.sub("0", text.lower()).translate(TO_SPACE).split())
    if text.isascii():
        return text
    text = unicodedata.normalize("NFD", extract.stream_safe(text))
    return text.translate({ord(c): None for c in set(text) if unicodedata.category(c) == "Mn"}).strip()


def shingle_hashes(text):                                   # a normalized text of T words -> (T-4,) uint64
    """The first 8 bytes of each shingle's SHA-1, its words joined by spaces."""
    if not text.isascii() or "cannot" in text or TWO_WORDS.search(text):        # else its words are what stands between spaces
        text = " ".join(Words(text).strings())
    joined, sha1 = text.encode("utf-8", "surrogatepass"), hashlib.sha1
    spaces = np.flatnonzero(np.frombuffer(joined, np.uint8) == ord(" "))
    begins, ends = [0, *(spaces + 1).tolist()], [*spaces.tolist(), len(joined)]
    return np.frombuffer(b"".join([sha1(joined[i:j]).digest()[:8] for i, j in zip(begins, ends[SHINGLE - 1:])]), "<u8")


def minhash(texts):                                         # n texts -> (n, 112) uint64
    """Signatures, bit for bit datatrove's: min over shingles h of (h*a + b mod 2^64) mod (2^61-1).

    The product wraps at 64 bits before the modulus, so this is no permutation by the book. A text
    of fewer than 5 words has no shingle: its row is all ones, and it is nobody's duplicate.
    """
    (a, b), sixty_one = permutations(), np.uint64(61)
    signatures, (x, y) = np.full((len(texts), BANDS * ROWS), NO_SIGNATURE, np.uint64), np.empty((2, BLOCK, BANDS * ROWS), np.uint64)
    for row, text in zip(signatures, texts):
        hashes = shingle_hashes(normalize(text))
        for at in range(0, len(hashes), BLOCK):
            h = hashes[at:at + BLOCK, None]
            u, v = x[:len(h)], y[:len(h)]
            np.multiply(h, a, out=u)
            u += b
            np.right_shift(u, sixty_one, out=v)             # u mod 2^61 - 1 = its low 61 bits + the others,
            u &= MERSENNE
            u += v
            np.subtract(u, MERSENNE, out=v)                 # less the modulus where that is not below 0: there it wraps
            np.minimum(u, v, out=u)
            np.minimum(row, u.min(0), out=row)
    return signatures


def band_keys(signatures):                                  # (n, 112) uint64 -> (n, 14) uint64
    """A band's 8 minima as one number. Without a signature all of them are NO_SIGNATURE."""
    bands, keys = signatures.reshape(-1, BANDS, ROWS), np.zeros((len(signatures), BANDS), np.uint64)
    for j in range(ROWS):
        keys = (keys ^ bands[:, :, j]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    keys[signatures[:, 0] == NO_SIGNATURE] = NO_SIGNATURE
    return keys


# --------------------------------------------------------------------------------------------------------- clusters


def clusters(keys):                                         # (n, 14) uint64 -> (n,) int64
    """The earliest document of each one's cluster. Bands one after the other, in sorted order: equal keys stand together."""
    root = np.arange(len(keys))                             # the earliest known of the cluster
    real = np.flatnonzero(keys[:, 0] != NO_SIGNATURE)
    for k in range(BANDS):
        key = keys[real, k]
        order = np.argsort(key, kind="stable")
        same = key[order[1:]] == key[order[:-1]]
        left, right = real[order[:-1][same]], real[order[1:][same]]     # m equals make a chain of m-1 pairs
        while len(left):
            low, high = np.minimum(root[left], root[right]), np.maximum(root[left], root[right])
            differ = low < high
            root[high[differ]] = low[differ]                # hang later roots under earlier ones
            while (root[root] != root).any():
                root = root[root]                           # halve every path
            left, right = left[differ], right[differ]
    return root


def keep_first(signatures):                                 # (n, 112) uint64 -> (n,) bool
    """True for the earliest document of each cluster, of all that equal bands link in any steps."""
    return clusters(band_keys(signatures)) == np.arange(len(signatures))


def deduplicate(texts):                                     # n texts -> (n,) bool
    """True for documents to keep: the earliest of each cluster, and those without duplicates."""
    return keep_first(minhash(texts))


def in_index(keys, index):                                  # (n, 14), (14, m) sorted rows -> (n,) bool
    """Whether a document shares a band with one of an earlier crawl."""
    found = np.zeros(len(keys), bool)
    for k in range(BANDS if index.shape[1] else 0):
        at = np.minimum(np.searchsorted(index[k], keys[:, k]), index.shape[1] - 1)
        found |= (index[k, at] == keys[:, k]) & (keys[:, k] != NO_SIGNATURE)
    return found


# ---------------------------------------------------------------------------------------------------- steps on files


def save_array(path, a):
    with runs.whole_file(path) as f:
        np.save(f, a)


def load_array(path, width, remake):
    """An array of uint64 in rows of that many, or of bool; ValueError naming the file and the command that makes it again."""
    try:
        a = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as e:
        if isinstance(e, FileNotFoundError):
            raise FileNotFoundError(f"{path}: no such file; make it with: {remake}") from None
        raise ValueError(f"{path}: damaged ({e}); delete it and make it again with: {remake}") from None
    if a.dtype != (np.uint64 if width else bool) or a.ndim != (2 if width else 1) or width and width not in a.shape:
        raise ValueError(f"{path}: {a.dtype} {a.shape} is not what this step writes; delete it and make it again with: {remake}")
    return a


def name_of(doc):
    """What decides which document of a cluster is kept, and the least is: fetched first, then by url and id."""
    return "\t".join(str(doc.get(k, "")).translate({9: " ", 10: " ", 13: " "}) for k in ("date", "url", "id"))


def save_keys(work, stem, signatures, names):
    """The two files of `sign`; the one that says that both are there comes last."""
    checkpoint.write_text(Path(work) / f"{stem}.names.tsv", "".join(f"{name}\n" for name in names))
    save_array(Path(work) / f"{stem}.keys.npy", band_keys(signatures))


def stem_of(path):
    return Path(path).name.removesuffix(".gz").removesuffix(".jsonl")


def sign(path, work):
    """Band keys and names of a file of documents; what is there is not made again. -> the number of documents"""
    if (Path(work) / f"{stem_of(path)}.keys.npy").exists():
        return len(load_array(Path(work) / f"{stem_of(path)}.keys.npy", BANDS, "python dedup.py sign"))
    signatures, names = [], []
    for n, line in enumerate(checkpoint.read_lines(path), 1):
        try:
            doc = json.loads(line)
            signatures.append(minhash([doc["text"]])[0])
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"{path}:{n}: no document with a text ({type(e).__name__}: {e})") from None
        names.append(name_of(doc))
    save_keys(work, stem_of(path), np.array(signatures, np.uint64).reshape(-1, BANDS * ROWS), names)
    return len(names)


def match(work, index=(), save_index=None):
    """Decide which documents go: NAME.drop.npy beside each NAME.keys.npy. -> (documents, dropped, dropped for the index)

    index: files of band keys of earlier crawls; what is linked to a document in them goes, with its cluster. save_index: a file
    for the band keys of what stays.
    """
    work = Path(work)
    paths = sorted(work.glob("*.keys.npy"))
    if not paths:
        raise FileNotFoundError(f"{work}: no *.keys.npy; make them with: python dedup.py sign FILES --work {work}")
    parts = [load_array(p, BANDS, "python dedup.py sign") for p in paths]
    keys, sizes = np.concatenate(parts), list(map(len, parts))
    root, n = clusters(keys), len(keys)
    old = np.zeros(n, bool)
    for path in index:                                      # of a whole cluster, at its root
        np.logical_or.at(old, root, in_index(keys, load_array(path, BANDS, "python dedup.py match --save-index")))
    old = old[root]
    several, least = np.bincount(root, minlength=n)[root] > 1, {}
    lines = (line for p in paths for line in open(work / p.name.replace(".keys.npy", ".names.tsv"), encoding="utf-8"))
    for i, line in enumerate(lines):
        if several[i]:
            least[root[i]] = min(least.get(root[i], (line, i)), (line, i))
    drop = several | old
    drop[[i for _, i in least.values() if not old[i]]] = False
    for p, part in zip(paths, np.split(drop, np.cumsum(sizes)[:-1])):
        save_array(work / p.name.replace(".keys.npy", ".drop.npy"), part)
    if save_index:
        save_array(save_index, np.sort(keys[~drop & (keys[:, 0] != NO_SIGNATURE)].T, axis=1))
    return n, int(drop.sum()), int(old.sum())


def drop_lines(path, work, to):
    """The file without the documents that match() dropped, in the folder `to`. -> the number kept"""
    drop = load_array(Path(work) / f"{stem_of(path)}.drop.npy", None, f"python dedup.py match --work {work}")
    kept, i = 0, -1
    with runs.whole_file(Path(to) / f"{stem_of(path)}.jsonl.gz") as f, gzip.GzipFile("", "wb", 6, f, mtime=0) as out:
        for i, line in enumerate(checkpoint.read_lines(path)):
            if i >= len(drop):
                break
            if not drop[i]:
                out.write(line.encode())
                kept += 1
        if i + 1 != len(drop):
            raise ValueError(f"{path}: has not the {len(drop)} documents that it was signed with; delete {work} and sign again")
    return kept


def parse_args(argv=None):
    p = argparse.ArgumentParser(description="Remove near-duplicates from files of documents, in steps.")
    p.add_argument("step", choices=("sign", "match", "drop"), help="in this order")
    p.add_argument("files", nargs="*", type=Path, help="of sign and drop: .jsonl or .jsonl.gz with a text, date, url and id on each line")
    p.add_argument("--work", type=Path, required=True, metavar="DIR", help="where the steps leave their files")
    p.add_argument("--to", type=Path, metavar="DIR", help="of drop: where the files without duplicates go")
    p.add_argument("--index", type=Path, nargs="+", default=[], metavar="FILE", help="of match: band keys of earlier crawls, whose near-duplicates go too")
    p.add_argument("--save-index", type=Path, metavar="FILE", help="of match: write the band keys of what stays")
    p.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes, over files (default: one per CPU)")
    args = p.parse_args(argv)
    if bool(args.files) == (args.step == "match"):
        p.error("match takes no files, sign and drop need some")
    if (args.step == "drop") != bool(args.to):
        p.error("--to belongs to drop, which needs it")
    if (args.index or args.save_index) and args.step != "match":
        p.error("--index and --save-index belong to match")
    if args.workers < 1:
        p.error(f"--workers {args.workers}: at least 1")
    stems = list(map(stem_of, args.files))
    if len(set(stems)) < len(stems):
        p.error("two of the files have the same name; take them one folder at a time")
    return args


def main(argv=None):
    args = parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.step == "match":
        n, dropped, old = match(args.work, args.index, args.save_index)
        print(f"{n:,} documents, {dropped:,} near-duplicates" + (f", {old:,} of them of earlier crawls" if args.index else ""))
        return
    work = functools.partial(sign, work=args.work)
    if args.step == "drop":
        args.to.mkdir(parents=True, exist_ok=True)
        work = functools.partial(drop_lines, work=args.work, to=args.to)
    n = 0
    with multiprocessing.Pool(min(args.workers, len(args.files))) as pool:
        for i, m in enumerate(pool.imap(work, args.files), 1):
            n += m
            print(f"\r{args.step}: {i} of {len(args.files)} files, {n:,} documents ", end="", file=sys.stderr, flush=True)
    print(f"\n{n:,} documents {'signed' if args.step == 'sign' else 'kept'}")


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:                             # whoever read our output has gone, as head does
        os._exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError) as e:
        sys.exit(f"dedup.py: error: {e}")
