"""export.py: a model and its tokenizer as one GGUF file, which llama.cpp and LM Studio load.

    python sample.py export --gguf longhand.gguf                  float32
    python sample.py export --gguf longhand.gguf --type q8_0      a quarter of the size

    header      "GGUF", the version, how many tensors and how many entries
    entries     key, kind, value: the sizes of the model, its vocabulary, how a chat is written
    table       of each tensor: its name, its shape, its kind, where its data begins
    data        of each tensor, from a multiple of 32 bytes on

All numbers are little-endian, and a shape begins with its last dimension. q8_0 cuts a matrix into
blocks of 32 numbers x, and keeps of each the scale d = max|x| / 127 as float16 and round(x / d) as
bytes.

Source: the GGUF specification, version 3, of the ggml project.
"""

import argparse
import struct
from pathlib import Path

import sample                           # before numpy
import numpy as np
from chat import models
from run import command, disk
from tokens import huggingface, patterns
from tokens.patterns import to_characters

ALIGNMENT = 32
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9      # kinds of values
FORMATS = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}
F32, Q8_0 = 0, 8                                                    # kinds of tensors
TYPES = ("f32", "q8_0")                                             # of the matrices in a file
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5                  # kinds of tokens
BLOCK_Q8_0 = np.dtype([("d", "<f2"), ("q", "i1", 32)])
# Our patterns, and the ones of llama.cpp that cut a text in the same way.
PATTERNS = {
    "gpt2": "gpt-2",
    "cl100k": "dbrx",
    "gpt4": "dbrx",
    "o200k": "gpt-4o",
    "qwen2": "qwen2",
    "digits": "qwen2",
}
# The parameters of a block: their names in GGUF and in GPT-2.
BLOCK = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


def quantize(x):
    """(..., n) float32 with n a multiple of 32 -> the bytes of q8_0."""
    x = np.ascontiguousarray(x, np.float32).reshape(-1, 32)
    d = np.abs(x).max(1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        scaled = x * np.where(d == 0, np.float32(0), np.float32(1) / d)
    blocks = np.empty(len(x), BLOCK_Q8_0)
    blocks["d"] = d[:, 0]
    blocks["q"] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))   # halves away from zero
    return blocks.tobytes()


def value(kind, x):
    """A number, or a text: its length in bytes, and the bytes."""
    if kind != STRING:
        return struct.pack(FORMATS[kind], x)
    data = x.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def entry(key, kind, x):
    """An entry: a key with a value, or with a list of values of one kind."""
    if not isinstance(x, list):
        return value(STRING, key) + struct.pack("<I", kind) + value(kind, x)
    head = value(STRING, key) + struct.pack("<IIQ", ARRAY, kind, len(x))
    return head + b"".join(value(kind, each) for each in x)


def tensors_of(params, cfg):
    """{name in a GGUF file: array}. Matrices are (in, out) in GPT-2 and (out, in) in ggml."""
    tensors = {
        "token_embd.weight": params["wte.weight"],
        "position_embd.weight": params["wpe.weight"],
    }
    for i in range(cfg.n_layer):
        for name, ours in BLOCK.items():            # .T does not change a vector
            tensors[f"blk.{i}.{name}.weight"] = params[f"h.{i}.{ours}.weight"].T
            tensors[f"blk.{i}.{name}.bias"] = params[f"h.{i}.{ours}.bias"]
    tensors["output_norm.weight"] = params["ln_f.weight"]
    tensors["output_norm.bias"] = params["ln_f.bias"]
    return tensors


def pattern_of(tokenizer):
    """llama.cpp's name of the tokenizer's pattern; ValueError if GGUF cannot say what it does."""
    for token, flags in tokenizer.flags.items():
        if flags.lstrip or flags.rstrip or flags.single_word:
            raise ValueError(
                f"the token {token!r} takes white space along or stands for whole words only "
                "(lstrip, rstrip, single_word), which GGUF cannot say"
            )
    for ours, theirs in PATTERNS.items():
        if patterns.PATTERNS[ours] == tokenizer.pattern and not tokenizer.normalize:
            return theirs
    raise ValueError(
        f"the tokenizer's pattern {str(tokenizer.pattern)[:60]!r} is none that llama.cpp knows; "
        f"a GGUF file needs one of {', '.join(PATTERNS)}"
    )


def entries_of(cfg, tokenizer, kind, name, chats):
    """The entries (key, kind of value, value): the sizes of the model, then its vocabulary.

    chats: whether the model holds conversations. If not it goes on with documents, and the token
    that stands before each of them begins and ends a text.
    """
    size = cfg.vocab_size
    tokens = [f"[unused {i}]" for i in range(size)]
    kinds = [UNUSED] * size
    for token, i in tokenizer.ranks.items():
        tokens[i], kinds[i] = to_characters(token), NORMAL
    for names, kind in ((tokenizer.special_tokens, CONTROL), (tokenizer.words, USER_DEFINED)):
        for name, i in names.items():
            tokens[i], kinds[i] = name, kind
    pairs = huggingface.all_merges(tokenizer.ranks)
    begin = tokenizer.special_tokens.get("<|endoftext|>")
    end = tokenizer.special_tokens.get("<|im_end|>") if chats else begin
    merges = [" ".join(map(to_characters, pair)) for pair in pairs]
    entries = [
        ("general.architecture", STRING, "gpt2"),
        ("general.name", STRING, name),
        ("general.alignment", UINT32, ALIGNMENT),
        ("general.file_type", UINT32, 0 if kind == "f32" else 7),
        ("general.quantization_version", UINT32, 2),
        ("gpt2.context_length", UINT32, cfg.n_positions),
        ("gpt2.embedding_length", UINT32, cfg.n_embd),
        ("gpt2.block_count", UINT32, cfg.n_layer),
        ("gpt2.feed_forward_length", UINT32, 4 * cfg.n_embd),
        ("gpt2.attention.head_count", UINT32, cfg.n_head),
        ("gpt2.attention.layer_norm_epsilon", FLOAT32, 1e-5),
        ("gpt2.vocab_size", UINT32, size),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, pattern_of(tokenizer)),
        ("tokenizer.ggml.tokens", STRING, tokens),
        ("tokenizer.ggml.token_type", INT32, kinds),
        ("tokenizer.ggml.merges", STRING, merges),
        ("tokenizer.ggml.bos_token_id", UINT32, begin),
        ("tokenizer.ggml.eos_token_id", UINT32, end),
        ("tokenizer.ggml.add_bos_token", BOOL, not chats and begin is not None),
        ("tokenizer.chat_template", STRING, huggingface.CHAT_TEMPLATE if chats else None),
    ]
    return [each for each in entries if each[2] is not None]


def save(path, params, cfg, tokenizer, kind="f32", name="longhand"):
    """Write a model as GGUF; the file appears whole or not at all.

    kind: f32 or q8_0. A model holds conversations if its vocabulary has the tokens for them and its
    name is not base.
    """
    if kind not in TYPES:
        raise ValueError(f"type {kind!r}: expected {' or '.join(TYPES)}")
    chats = "<|im_sep|>" in tokenizer.special_tokens and name != "base"
    entries = entries_of(cfg, tokenizer, kind, name, chats)
    table, parts, begin = [], [], 0
    for key, a in tensors_of(params, cfg).items():
        # As in llama.cpp's own tool, positions stay as they are: they are added, not multiplied.
        small = kind == "q8_0" and a.ndim == 2 and key != "position_embd.weight"
        small = small and a.shape[1] % 32 == 0
        data = quantize(a) if small else np.ascontiguousarray(a, "<f4").tobytes()
        numbers = a.ndim, *a.shape[::-1], Q8_0 if small else F32, begin
        table.append(value(STRING, key) + struct.pack(f"<I{a.ndim}QIQ", *numbers))
        padding = bytes(-len(data) % ALIGNMENT)
        parts += [data, padding]
        begin += len(data) + len(padding)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(table), len(entries))
    head += b"".join(entry(*each) for each in entries) + b"".join(table)
    disk.remove_temporaries(Path(path).parent, Path(path).name)
    with disk.whole_file(Path(path)) as file:
        file.writelines([head, bytes(-len(head) % ALIGNMENT), *parts])


def parse_args(argv=None):
    """The options of `sample.py export`."""
    p = argparse.ArgumentParser(
        prog="sample.py export", description="Write a GGUF file for llama.cpp and LM Studio."
    )
    p.add_argument("--gguf", metavar="FILE", help="the file to write")
    p.add_argument("--type", default="f32", choices=TYPES,
                   help="type of the matrices in it (default: %(default)s)")
    models.add_options(p)
    return models.check_options(p.parse_args(argv))


def main(argv=None):
    """Write the model that --run or --model asks for."""
    args = parse_args(argv)
    if not args.gguf:
        raise ValueError("a model is exported with: python sample.py export --gguf FILE")
    folder = models.chosen(args, ["rl", "sft", "base"], "base model", "train.py")
    save(args.gguf, *sample.load_model(folder), args.type, folder.name)
    size = Path(args.gguf).stat().st_size
    print(f"{args.gguf}: {folder} as {args.type}, {size / 1e6:,.1f} MB")


if __name__ == "__main__":
    command.run(main)
