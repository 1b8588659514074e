"""export.py: a model and its tokenizer as one GGUF file, which llama.cpp and LM Studio load.

    python sample.py export --gguf longhand.gguf                    float32
    python sample.py export --gguf longhand.gguf --type q8_0        matrices in blocks of 32 bytes with a scale: a quarter of the size

A file is a header, keys with values (the model's sizes, the vocabulary, its merges, how a chat is written), a table of tensors, and their
data, each from a multiple of 32 bytes on. All numbers are little-endian; a shape is written with the dimension that is next to
each other in memory first. q8_0 keeps of 32 numbers x the scale d = max|x| / 127 as float16 and round(x / d) as bytes.

Source: the GGUF specification, version 3, of the ggml project.
"""

import struct
from pathlib import Path

from model import cores         # noqa: F401  before numpy
import numpy as np
from run import disk
from tokens import huggingface
from tokens.patterns import PATTERNS
from tokens.ranks import to_characters

ALIGNMENT = 32
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9              # kinds of values
F32, Q8_0 = 0, 8                                                            # kinds of tensors
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5                                           # kinds of tokens
# Our patterns cut as these of llama.cpp do.
CUTS = {"gpt2": "gpt-2", "cl100k": "dbrx", "gpt4": "dbrx", "o200k": "gpt-4o", "qwen2": "qwen2", "digits": "qwen2"}
BLOCK = {"attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_norm": "ln_2", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}


def quantize(x):
    """(..., n) float32, n a multiple of 32 -> bytes of q8_0."""
    x = np.ascontiguousarray(x, np.float32).reshape(-1, 32)
    d = np.abs(x).max(1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        q = x * np.where(d == 0, np.float32(0), np.float32(1) / d)
    blocks = np.empty(len(x), [("d", "<f2"), ("q", "i1", 32)])
    blocks["d"], blocks["q"] = d[:, 0], np.trunc(q + np.copysign(np.float32(0.5), q))       # halves away from zero
    return blocks.tobytes()


def dequantize(data, shape):
    blocks = np.frombuffer(data, [("d", "<f2"), ("q", "i1", 32)])
    return (blocks["d"].astype(np.float32)[:, None] * blocks["q"]).reshape(shape)


def text(s):
    data = s.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def value(kind, x):
    if kind == STRING:
        return text(x)
    return struct.pack({UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}[kind], x)


def entry(key, kind, x):
    if isinstance(x, list):
        return text(key) + struct.pack("<IIQ", ARRAY, kind, len(x)) + b"".join(value(kind, each) for each in x)
    return text(key) + struct.pack("<I", kind) + value(kind, x)


def tensors_of(params, cfg):
    """{name in a GGUF file: array}; the matrices of GPT-2 are (in, out), ggml's (out, in)."""
    out = {"token_embd.weight": params["wte.weight"], "position_embd.weight": params["wpe.weight"]}
    for i in range(cfg.n_layer):
        for name, ours in BLOCK.items():
            weight = params[f"h.{i}.{ours}.weight"]
            out[f"blk.{i}.{name}.weight"] = weight.T if weight.ndim == 2 else weight
            out[f"blk.{i}.{name}.bias"] = params[f"h.{i}.{ours}.bias"]
    return out | {"output_norm.weight": params["ln_f.weight"], "output_norm.bias": params["ln_f.bias"]}


def vocabulary(tokenizer, size, chats):
    """The entries that describe the tokenizer, for a model that knows size tokens and chats, or else goes on with documents, before each
    of which one token stands."""
    cut = next((theirs for ours, theirs in CUTS.items() if PATTERNS[ours] == tokenizer.pattern), None)
    if cut is None or tokenizer.normalize:
        raise ValueError(f"the tokenizer's pattern {str(tokenizer.pattern)[:60]!r} is none that llama.cpp knows; a GGUF file needs one of {', '.join(CUTS)}")
    odd = [token for token, flags in tokenizer.flags.items() if flags != flags._replace(lstrip=False, rstrip=False, single_word=False)]
    if odd:
        raise ValueError(f"the token {odd[0]!r} takes white space along or stands for whole words only (lstrip, rstrip, single_word), which GGUF cannot say")
    tokens, kinds = [f"[unused {i}]" for i in range(size)], [UNUSED] * size
    for token, i in tokenizer.ranks.items():
        tokens[i], kinds[i] = to_characters(token), NORMAL
    for names, kind in ((tokenizer.special_tokens, CONTROL), (tokenizer.words, USER_DEFINED)):
        for name, i in names.items():
            tokens[i], kinds[i] = name, kind
    merges = [f"{to_characters(a)} {to_characters(b)}" for a, b in huggingface.all_merges(tokenizer.ranks)]
    special = tokenizer.special_tokens
    out = [("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.pre", STRING, cut), ("tokenizer.ggml.tokens", STRING, tokens),
           ("tokenizer.ggml.token_type", INT32, kinds), ("tokenizer.ggml.merges", STRING, merges)]
    begin, end = special.get("<|endoftext|>"), special.get("<|im_end|>" if chats else "<|endoftext|>")
    out += [(f"tokenizer.ggml.{name}_token_id", UINT32, token) for name, token in (("bos", begin), ("eos", end)) if token is not None]
    out += [("tokenizer.ggml.add_bos_token", BOOL, not chats and begin is not None)]
    return out + [("tokenizer.chat_template", STRING, huggingface.CHAT_TEMPLATE)] * chats


def save(path, params, cfg, tokenizer, kind="f32", name="longhand", chats=None):
    """Write a model as GGUF; the file appears whole or not at all. chats: whether it was taught to (default: if the vocabulary is one for
    chats and the name is not base)."""
    if kind not in ("f32", "q8_0"):
        raise ValueError(f"type {kind!r}: expected f32 or q8_0")
    if chats is None:
        chats = "<|im_sep|>" in tokenizer.special_tokens and name != "base"
    entries = [("general.architecture", STRING, "gpt2"), ("general.name", STRING, name), ("general.alignment", UINT32, ALIGNMENT),
               ("general.file_type", UINT32, 0 if kind == "f32" else 7), ("general.quantization_version", UINT32, 2),
               ("gpt2.context_length", UINT32, cfg.n_positions), ("gpt2.embedding_length", UINT32, cfg.n_embd), ("gpt2.block_count", UINT32, cfg.n_layer),
               ("gpt2.feed_forward_length", UINT32, 4 * cfg.n_embd), ("gpt2.attention.head_count", UINT32, cfg.n_head),
               ("gpt2.attention.layer_norm_epsilon", FLOAT32, 1e-5), ("gpt2.vocab_size", UINT32, cfg.vocab_size), *vocabulary(tokenizer, cfg.vocab_size, chats)]
    head, table, at, parts = b"".join(entry(*e) for e in entries), [], 0, []
    for key, a in tensors_of(params, cfg).items():
        # as llama.cpp's own tool: matrices, but not the positions, which are added and not multiplied
        small = kind == "q8_0" and a.ndim == 2 and a.shape[1] % 32 == 0 and key != "position_embd.weight"
        data = quantize(a) if small else np.ascontiguousarray(a, "<f4").tobytes()
        table.append(text(key) + struct.pack(f"<I{a.ndim}QIQ", a.ndim, *a.shape[::-1], Q8_0 if small else F32, at))
        parts += [data, bytes(-len(data) % ALIGNMENT)]
        at += len(data) + -len(data) % ALIGNMENT
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(table), len(entries)) + head + b"".join(table)
    disk.remove_temporaries(Path(path).parent, Path(path).name)
    with disk.whole_file(Path(path)) as file:
        file.writelines([head, bytes(-len(head) % ALIGNMENT), *parts])
