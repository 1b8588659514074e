"""checkpoint.py: the files models are kept in.

safetensors, the format of Hugging Face checkpoints, read by memory map and refused when it is not well formed;
and the .bin files of llm.c. Nothing here knows what a transformer is: tensors are names, shapes and bytes.

    safetensors   u64 header length | JSON header | the tensors, little-endian, back to back
                  header: {name: {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, "__metadata__": {..}}
    llm.c model   256 int32: magic 20240326, version, context, vocabulary, layers, heads, channels, padded vocabulary
                  | 16 tensors, each for all layers at once, matrices as (out, in); version 3 float32, 5 bfloat16

Every file is there whole or not at all (run/disk.py).

Sources: huggingface/safetensors, README (the format and what a reader must refuse); karpathy/llm.c, train_gpt2.cu.
"""

import json
import os
import struct
from pathlib import Path

import numpy as np
from run.disk import distinct, read_json, whole_file

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
          "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "BF16": "<u2"}
MAX_HEADER = 100_000_000                                # bytes; the format's own limit
LLMC_MAGIC, LLMC_DTYPES = 20240326, {3: "<f4", 5: "<u2"}


def widen(bits):
    """bfloat16 as uint16 -> float32: the upper half of a float32, so the lower half is zeros."""
    return (bits.astype("<u4") << 16).view("<f4")


# ---------------------------------------------------------------------------------------------- safetensors


def save_safetensors(path, tensors, metadata=None):
    """Write {name: array}. The header is padded with spaces to a multiple of 8, so that floats begin aligned."""
    header, offset, arrays = {"__metadata__": metadata or {}}, 0, []
    codes = {np.dtype(v): k for k, v in DTYPES.items() if k != "BF16"}
    for name, array in tensors.items():
        array = np.asarray(array, order="C")
        header[name] = {"dtype": codes[array.dtype], "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
        arrays.append(array)
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with whole_file(path) as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for array in arrays:
            f.write(array.reshape(-1).view(np.uint8).data)


def _header(path, size):
    """(entries, metadata, where the data begins) of a safetensors file; ValueError where it breaks the format."""
    with open(path, "rb") as f:
        head = f.read(8)
        n = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= n <= min(size - 8, MAX_HEADER):
            raise ValueError(f"{path}: not a safetensors file (header length {n}, file of {size} bytes)")
        text = f.read(n)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=distinct)
        if not text.startswith(b"{"):
            raise ValueError("it must begin with '{'")
        metadata = header.pop("__metadata__", None)         # null is none
        metadata = {} if metadata is None else metadata
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise ValueError(f"its __metadata__ is {str(metadata)[:60]}, expected texts by name")
        for name, entry in header.items():
            dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets")) if isinstance(entry, dict) else (None,) * 3
            numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2 else [None]
            if not isinstance(dtype, str) or not all(type(x) is int and x >= 0 for x in numbers):
                raise ValueError(f"{name[:60]}: {str(entry)[:100]}, expected dtype, shape and two data_offsets")
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path}: bad safetensors header: {str(e)[:200]}") from None
    return header, metadata, 8 + n


def load_safetensors(path):
    """({name: read-only array mapped from the file}, metadata). BF16, which NumPy lacks, is widened to float32.

    ValueError if the file is not well formed: cut short, holes or overlaps between tensors, a size that
    disagrees with a shape, a name twice, a dtype we do not know.
    """
    size = os.path.getsize(path)
    header, metadata, start = _header(path, size)
    data, tensors, end = np.asarray(np.memmap(path, np.uint8, "r")), {}, 0       # an array: each slice of a memmap runs Python
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        (a, b), shape = entry["data_offsets"], tuple(entry["shape"])
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{path}: {name} has dtype {entry['dtype']}, which this reader does not know")
        dtype, need = np.dtype(DTYPES[entry["dtype"]]), 1
        for n in shape:
            need *= n
        need *= dtype.itemsize
        if a != end or b - a != need or start + b > size:
            raise ValueError(f"{path}: {name} spans bytes {a}..{b}, expected to begin at {end}, hold {need} and end "
                             f"within {size - start}: truncated or overlapping; copy or save the file again")
        end = b
        try:
            array = data[start + a:start + b].view(dtype).reshape(shape)
        except ValueError:                              # nothing, times more than NumPy counts
            raise ValueError(f"{path}: {name} has the shape {shape}, which is too large") from None
        tensors[name] = widen(array) if entry["dtype"] == "BF16" else array
    if start + end != size:
        raise ValueError(f"{path}: {size} bytes, the header accounts for {start + end}; copy or save the file again")
    return {name: tensors[name] for name in header}, metadata


def load_index(path):
    """{name: array} of a checkpoint in several safetensors files, which its model.safetensors.index.json names."""
    files, tensors = read_json(path).get("weight_map"), {}
    if not isinstance(files, dict) or not all(isinstance(file, str) and Path(file).name == file for file in files.values()):
        raise ValueError(f"{path}: expected a weight_map from names of tensors to names of files")
    for file in sorted(set(files.values())):
        part = Path(path).parent / file
        if not part.is_file():
            raise FileNotFoundError(f"{part}: no such file, but {Path(path).name} says that it holds {sum(f == file for f in files.values())} of the "
                                    f"{len(files)} tensors; fetch it too")
        found = load_safetensors(part)[0]
        wrong = [name for name in found if files.get(name) != file] + [name for name in files if files[name] == file and name not in found]
        if wrong:
            raise ValueError(f"{part}: {wrong[0]!r} is not in both this file and what {Path(path).name} says of it; fetch both again")
        tensors.update(found)
    return tensors


# ---------------------------------------------------------------------------------------------------- llm.c


def _llmc_layout(V, T, L, C):
    """[(our name or name with {i}, shape in the file)] of the 16 tensors in llm.c's order; V padded."""
    per_layer = [("ln_1.weight", (C,)), ("ln_1.bias", (C,)), ("attn.c_attn.weight", (3 * C, C)), ("attn.c_attn.bias", (3 * C,)),
                 ("attn.c_proj.weight", (C, C)), ("attn.c_proj.bias", (C,)), ("ln_2.weight", (C,)), ("ln_2.bias", (C,)),
                 ("mlp.c_fc.weight", (4 * C, C)), ("mlp.c_fc.bias", (4 * C,)), ("mlp.c_proj.weight", (C, 4 * C)), ("mlp.c_proj.bias", (C,))]
    return [("wte.weight", (V, C)), ("wpe.weight", (T, C)), *((f"h.{{i}}.{k}", (L, *s)) for k, s in per_layer),
            ("ln_f.weight", (C,)), ("ln_f.bias", (C,))]


def is_llmc(path):
    with open(path, "rb") as f:
        return f.read(4) == struct.pack("<i", LLMC_MAGIC)


def load_llmc(path):
    """({Hugging Face name: float32 array}, sizes) of an llm.c model file; matrices turned to (in, out) and
    the vocabulary's padding cut off. sizes: vocab_size, n_positions, n_embd, n_layer, n_head."""
    size = os.path.getsize(path)
    words = np.fromfile(path, "<i4", 256)
    if len(words) < 256 or words[0] != LLMC_MAGIC:
        raise ValueError(f"{path}: not an llm.c model (magic {words[0] if len(words) else None}, expected {LLMC_MAGIC})")
    version, T, V, L, NH, C, V_padded = map(int, words[1:8])
    if version not in LLMC_DTYPES:
        raise ValueError(f"{path}: version {version}, expected 3 (float32) or 5 (bfloat16); "
                         "write it again with llm.c's train_gpt2.py")
    if min(T, V, L, NH, C) < 1 or V_padded < V:
        raise ValueError(f"{path}: impossible sizes in the header: {words[2:8].tolist()}")
    layout, dtype = _llmc_layout(V_padded, T, L, C), np.dtype(LLMC_DTYPES[version])
    need = 1024 + dtype.itemsize * sum(int(np.prod(s, dtype=np.int64)) for _, s in layout)
    if size != need:
        raise ValueError(f"{path}: {size} bytes, the header's sizes need {need}: truncated, or another format")
    body, tensors, at = np.asarray(np.memmap(path, dtype, "r", offset=1024)), {}, 0
    for name, shape in layout:
        n = int(np.prod(shape, dtype=np.int64))
        array = body[at:at + n].reshape(shape)
        at += n
        for i, one in enumerate(array) if "{i}" in name else [(None, array)]:
            one = one[:V] if name == "wte.weight" else one.T if one.ndim == 2 and i is not None else one
            tensors[name.format(i=i)] = np.array(widen(one) if version == 5 else one, np.float32, order="C")
    return tensors, dict(vocab_size=V, n_positions=T, n_embd=C, n_layer=L, n_head=NH)
