"""checkpoint.py: the files that models are kept in.

safetensors, the format of Hugging Face checkpoints, read by memory map and refused when it is not
well formed; and the .bin files of llm.c.

    safetensors   u64 header length | JSON header | the tensors, little-endian, back to back
                  header: {name: {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]},
                           "__metadata__": {..}}
    llm.c model   256 int32: magic 20240326, version, context, vocabulary, layers, heads, channels,
                  padded vocabulary | 16 tensors, each for all layers at once, matrices as
                  (out, in); version 3 float32, 5 bfloat16

Every file is there whole or not at all (run/disk.py).

Sources: huggingface/safetensors, README (the format and what a reader must refuse); karpathy/llm.c,
train_gpt2.cu.
"""

import json
import math
import os
import struct
from pathlib import Path

import numpy as np

from gpt import Config, param_shapes
from model import bfloat16
from model.bfloat16 import widen
from run.disk import distinct, read_json, whole_file

DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
    "BF16": "<u2",                                      # NumPy has no type for it
}
MAX_HEADER = 100_000_000                                # bytes; the format's own limit
LINES = 16                                              # float32 in a cache line of 64 bytes
LLMC_MAGIC, LLMC_DTYPES = 20240326, {3: "<f4", 5: "<u2"}


# ------------------------------------------------------------------------------------ safetensors


def save_safetensors(path, tensors, metadata=None):
    """Write {name: array}, one after the other: a view may be of any order, and is copied alone.

    The header is padded with spaces to a multiple of 8, so that floats begin aligned.
    """
    codes = {np.dtype(dtype): code for code, dtype in DTYPES.items() if code != "BF16"}
    header, offset = {"__metadata__": metadata or {}}, 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": "BF16" if isinstance(array, bfloat16.Array) else codes[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with whole_file(path) as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            numbers = array.bits if isinstance(array, bfloat16.Array) else np.asarray(array)
            f.write(in_order(numbers, numbers.dtype).reshape(-1).view(np.uint8).data)


def in_order(a, dtype):
    """An array, or a copy, of a dtype and with its rows together in memory.

    Of a transposed view it takes LINES columns at a time, which fill whole cache lines of the copy:
    in a fifth of the time.
    """
    flags = a.bits.flags if isinstance(a, bfloat16.Array) else a.flags
    if a.ndim != 2 or flags.c_contiguous:
        return np.ascontiguousarray(a, dtype)
    copy = np.empty(a.shape, dtype)
    for begin in range(0, a.shape[1], LINES):
        at = slice(begin, begin + LINES)
        copy[:, at] = a[:, at]
    return copy


def _check_entry(name, entry):
    """ValueError unless it says what a tensor is: dtype, shape, and where it begins and ends."""
    try:
        begin, end = entry["data_offsets"]
        dtype, shape = entry["dtype"], entry["shape"]
        are_sizes = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        if isinstance(dtype, str) and isinstance(shape, list) and are_sizes:
            return
    except (TypeError, KeyError, ValueError):
        pass
    raise ValueError(f"{name[:60]}: {str(entry)[:100]}, expected dtype, shape and two data_offsets")


def _is_texts(x):
    return isinstance(x, dict) and all(isinstance(value, str) for value in x.values())


def _header(path, size):
    """(entries, metadata, where the data begins) of a safetensors file.

    ValueError where it breaks the format.
    """
    with open(path, "rb") as f:
        head = f.read(8)
        n = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= n <= min(size - 8, MAX_HEADER):
            raise ValueError(f"{path}: not a safetensors file "
                             f"(header length {n}, file of {size} bytes)")
        text = f.read(n)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=distinct)
        if not text.startswith(b"{"):
            raise ValueError("it must begin with '{'")
        metadata = header.pop("__metadata__", None)
        metadata = {} if metadata is None else metadata
        if not _is_texts(metadata):
            raise ValueError(f"its __metadata__ is {str(metadata)[:60]}, expected texts by name")
        for name, entry in header.items():
            _check_entry(name, entry)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path}: bad safetensors header: {str(e)[:200]}") from None
    return header, metadata, 8 + n


def load_safetensors(path):
    """({name: read-only array mapped from the file}, metadata).

    BF16, which NumPy lacks, gives a bfloat16.Array. ValueError if the file is not well formed: cut
    short, holes or overlaps between tensors, a size that disagrees with a shape, a name twice, a
    dtype that is not known.
    """
    size = os.path.getsize(path)
    header, metadata, start = _header(path, size)
    data = np.asarray(np.memmap(path, np.uint8, "r"))   # a slice of a memmap would run Python
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        (a, b), shape = entry["data_offsets"], tuple(entry["shape"])
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{path}: {name} has the unknown dtype {entry['dtype']}")
        dtype = np.dtype(DTYPES[entry["dtype"]])
        need = math.prod(shape) * dtype.itemsize
        if a != end or b - a != need or start + b > size:
            raise ValueError(
                f"{path}: {name} spans bytes {a}..{b}, expected to begin at {end}, hold {need} and "
                f"end within {size - start}: truncated or overlapping; copy or save the file again")
        end = b
        try:
            array = data[start + a : start + b].view(dtype).reshape(shape)
        except ValueError:                  # no numbers, in more rows than NumPy counts
            raise ValueError(f"{path}: {name} has the shape {shape}, which is too large") from None
        tensors[name] = bfloat16.Array(array) if entry["dtype"] == "BF16" else array
    if start + end != size:
        raise ValueError(f"{path}: {size} bytes, the header accounts for {start + end}; "
                         "copy or save the file again")
    return {name: tensors[name] for name in header}, metadata


def load_index(path):
    """{name: array} of a checkpoint in several files, named by a model.safetensors.index.json."""
    path, tensors = Path(path), {}
    file_of = read_json(path).get("weight_map")
    if not _is_texts(file_of) or any(Path(file).name != file for file in file_of.values()):
        raise ValueError(f"{path}: expected a weight_map from names of tensors to names of files")
    for file in sorted(set(file_of.values())):
        part, wanted = path.parent / file, {name for name in file_of if file_of[name] == file}
        if not part.is_file():
            raise FileNotFoundError(
                f"{part}: no such file, but {path.name} says that it holds {len(wanted)} of the "
                f"{len(file_of)} tensors; fetch it too")
        found, _ = load_safetensors(part)
        wrong = sorted(found.keys() ^ wanted)
        if wrong:
            raise ValueError(f"{part}: {wrong[0]!r} is not in both this file and what {path.name} "
                             "says of it; fetch both again")
        tensors.update(found)
    return tensors


# ------------------------------------------------------------------------------------------ llm.c


def _llmc_layout(V, T, L, C):
    """[(our name, with {i} for the layer, and the shape in the file)] of llm.c's 16 tensors.

    V: with its padding. The order is ours, with the tensors of all layers together.
    """
    layout = []
    for name, shape in param_shapes(Config(V, T, C, n_layer=1, n_head=1)).items():
        if name.startswith("h.0."):
            layout.append((name.replace("h.0.", "h.{i}."), (L, *reversed(shape))))
        else:
            layout.append((name, shape))
    return layout


def load_llmc(path):
    """({Hugging Face name: float32 array}, sizes) of an llm.c model file.

    Matrices are turned to (in, out), and the vocabulary's padding is cut off. sizes: vocab_size,
    n_positions, n_embd, n_layer, n_head.
    """
    size = os.path.getsize(path)
    words = np.fromfile(path, "<i4", 256)
    if len(words) < 256 or words[0] != LLMC_MAGIC:
        magic = words[0] if len(words) else None
        raise ValueError(f"{path}: not an llm.c model (magic {magic}, expected {LLMC_MAGIC})")
    version, T, V, L, NH, C, V_padded = map(int, words[1:8])
    if version not in LLMC_DTYPES:
        raise ValueError(f"{path}: version {version}, expected 3 (float32) or 5 (bfloat16); "
                         "write it again with llm.c's train_gpt2.py")
    if min(T, V, L, NH, C) < 1 or V_padded < V:
        raise ValueError(f"{path}: impossible sizes in the header: {words[2:8].tolist()}")
    layout, dtype = _llmc_layout(V_padded, T, L, C), np.dtype(LLMC_DTYPES[version])
    need = 1024 + dtype.itemsize * sum(math.prod(shape) for _, shape in layout)
    if size != need:
        raise ValueError(f"{path}: {size} bytes, the header's sizes need {need}: truncated, or "
                         "another format")
    body, tensors, at = np.asarray(np.memmap(path, dtype, "r", offset=1024)), {}, 0
    for name, shape in layout:
        n = math.prod(shape)
        array = body[at : at + n].reshape(shape)
        at += n
        if version == 5:
            array = widen(array)
        if name == "wte.weight":
            array = array[:V]
        of_layers = array.swapaxes(1, -1) if "{i}" in name else [array]     # to (in, out)
        for i, one in enumerate(of_layers):
            tensors[name.format(i=i)] = np.array(one, np.float32, order="C")
    return tensors, dict(vocab_size=V, n_positions=T, n_embd=C, n_layer=L, n_head=NH)
