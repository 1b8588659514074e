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

Rotary positions turn pairs of channels. Here, and in llama.cpp's qwen2 and qwen3, channel i of a
head is paired with i + HS/2; in its llama, as in the files of Llama's makers, 2i with 2i + 1. So
the channels of a llama's queries and keys change places, which changes none of their products.

Sources: the GGUF specification, version 3, of the ggml project; llama.cpp, conversion/llama.py.
"""

import argparse
import dataclasses
import json
import struct
from pathlib import Path

import sample                           # before numpy
import numpy as np
from chat import formats, models
from model import families, llama, llama_folders
from run import command, disk
from tokens import huggingface, patterns
from tokens.added import LeaveOut, steps_of
from tokens.patterns import Split, to_characters

ALIGNMENT = 32
PART = 2 ** 20                                                      # numbers written at a time
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9      # kinds of values
FORMATS = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}
F32, Q8_0 = 0, 8                                                    # kinds of tensors
TYPES = ("f32", "q8_0")                                             # of the matrices in a file
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5                  # kinds of tokens
BLOCK_Q8_0 = np.dtype([("d", "<f2"), ("q", "i1", 32)])
# The patterns of llama.cpp that cut a text as ours do; tests/peers/test_export_peers.py ran them.
PATTERNS = {
    "gpt-2": [patterns.PATTERNS["gpt2"]],
    "llama-bpe": [patterns.PATTERNS["cl100k"]],     # takes a piece that is a token first, as we do
    "dbrx": [patterns.PATTERNS["gpt4"]],
    "gpt-4o": [patterns.PATTERNS["o200k"]],         # but takes marks such as Hindi's for no letters
    "qwen2": [patterns.PATTERNS["qwen2"], patterns.PATTERNS["digits"]],
    "smollm": [(Split(r"\p{N}"), Split(patterns.PATTERNS["gpt2"]))],
}
# The parameters of a block: their names in GGUF, and in gpt.py or model/llama.py.
BLOCK = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
LLAMA_BLOCK = {
    "attn_norm": "ln_1",
    "attn_q": "attn.q",
    "attn_k": "attn.k",
    "attn_v": "attn.v",
    "attn_q_norm": "attn.q_norm",
    "attn_k_norm": "attn.k_norm",
    "attn_output": "attn.o",
    "ffn_norm": "ln_2",
    "ffn_gate": "mlp.gate",
    "ffn_up": "mlp.up",
    "ffn_down": "mlp.down",
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


def architecture_of(cfg):
    """llama.cpp's name of the model; ValueError for a model that it does not compute."""
    if families.of(cfg) is not llama:
        return "gpt2"
    architecture = llama_folders.model_type_of(cfg)
    if architecture != "llama" and cfg.rope_scaling:
        raise ValueError(f"llama.cpp does not scale the rotary positions of {architecture}: "
                         "the model cannot be a GGUF file")
    if architecture == "qwen3" and cfg.qkv_bias:
        raise ValueError("llama.cpp's qwen3 has no biases: the model cannot be a GGUF file")
    return architecture


def tensors_of(params, cfg):
    """(name in a GGUF file, array) of each tensor. Matrices are (in, out) here, there (out, in)."""
    architecture = architecture_of(cfg)
    yield "token_embd.weight", params["wte.weight"]
    if architecture == "gpt2":
        yield "position_embd.weight", params["wpe.weight"]
    elif cfg.rope_scaling:
        yield "rope_freqs.weight", rotary_factors(cfg)
    block = BLOCK if architecture == "gpt2" else LLAMA_BLOCK
    for i in range(cfg.n_layer):
        for name, ours in block.items():
            for kind in ("weight", "bias"):
                if f"h.{i}.{ours}.{kind}" not in params:
                    continue
                a = params[f"h.{i}.{ours}.{kind}"].T            # of a vector, the vector
                if architecture == "llama" and ours in ("attn.q", "attn.k"):
                    a = neighbours(a, cfg.head_size)
                yield f"blk.{i}.{name}.{kind}", a
    for name, ours in (("output_norm", "ln_f"), ("output", "lm_head")):
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in params:
                yield f"{name}.{kind}", params[f"{ours}.{kind}"]


def neighbours(a, head_size):
    """Rows of heads, (heads*HS, ...), in the order 0, HS/2, 1, HS/2 + 1, ... within each head."""
    a = np.asarray(a)
    halves = a.reshape(-1, 2, head_size // 2, *a.shape[1:])
    return halves.swapaxes(1, 2).reshape(a.shape)


def rotary_factors(cfg):
    """(HS/2,): by what the frequency of each pair is divided."""
    plain = dataclasses.replace(cfg, rope_scaling=None)
    return llama.rotary_frequencies(plain) / llama.rotary_frequencies(cfg)


def pattern_of(tokenizer):
    """llama.cpp's name of the tokenizer's pattern; ValueError if GGUF cannot say what it does."""
    for token, flags in tokenizer.flags.items():
        if flags.lstrip or flags.rstrip or flags.single_word:
            raise ValueError(
                f"the token {token!r} takes white space along or stands for whole words only "
                "(lstrip, rstrip, single_word), which GGUF cannot say"
            )
    # llama.cpp changes no text before it cuts it. Others export Qwen, which has NFC, all the same.
    changes = [step for step in steps_of(tokenizer.normalize) if not isinstance(step, LeaveOut)]
    for name, ours in PATTERNS.items():
        if tokenizer.pattern in ours and changes in ([], ["NFC"]):
            return name
    raise ValueError(
        f"the tokenizer's pattern {str(tokenizer.pattern)[:60]!r} is none that llama.cpp knows; "
        f"a GGUF file needs one of {', '.join(PATTERNS)}"
    )


def sizes_of(cfg):
    """The entries (key, kind of value, value) of the sizes of a model."""
    architecture = architecture_of(cfg)
    sizes = {
        "vocab_size": cfg.vocab_size,
        "context_length": cfg.n_positions,
        "embedding_length": cfg.n_embd,
        "block_count": cfg.n_layer,
        "attention.head_count": cfg.n_head,
    }
    if architecture == "gpt2":
        sizes["feed_forward_length"] = 4 * cfg.n_embd
        numbers = {"attention.layer_norm_epsilon": 1e-5}
    else:
        sizes["feed_forward_length"] = cfg.n_hidden
        sizes["attention.head_count_kv"] = cfg.n_kv_head
        sizes["attention.key_length"] = cfg.head_size
        sizes["attention.value_length"] = cfg.head_size
        sizes["rope.dimension_count"] = cfg.head_size
        numbers = {
            "attention.layer_norm_rms_epsilon": cfg.norm_eps,
            "rope.freq_base": cfg.rope_theta,
        }
    entries = [(f"{architecture}.{key}", UINT32, x) for key, x in sizes.items()]
    return entries + [(f"{architecture}.{key}", FLOAT32, x) for key, x in numbers.items()]


def vocabulary_of(size, tokenizer):
    """The entries of a vocabulary of that size: tokens, their kinds, the merges."""
    tokens = [f"[unused {i}]" for i in range(size)]
    kinds = [UNUSED] * size
    for token, i in tokenizer.ranks.items():
        tokens[i], kinds[i] = to_characters(token), NORMAL
    for names, kind in ((tokenizer.special_tokens, CONTROL), (tokenizer.words, USER_DEFINED)):
        for name, i in names.items():
            tokens[i], kinds[i] = name, kind
    pairs = huggingface.all_merges(tokenizer.ranks)
    merges = [" ".join(map(to_characters, pair)) for pair in pairs]
    return [
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, pattern_of(tokenizer)),
        ("tokenizer.ggml.tokens", STRING, tokens),
        ("tokenizer.ggml.token_type", INT32, kinds),
        ("tokenizer.ggml.merges", STRING, merges),
    ]


def roles_beside(folder, tokenizer):
    """The entries of roles_of() of a model of others, from the files beside it.

    llama.cpp knows the further tokens that end a reply, such as <|eom_id|>, by their names.
    """
    names = formats.special_names(folder)
    ids = {}
    for role in ("bos", "eos"):
        name = names.get(f"{role}_token", "<|endoftext|>")
        ids[role] = tokenizer.special_tokens.get(name)
    adds_begin = formats.json_beside(folder, "tokenizer_config.json").get("add_bos_token")
    if adds_begin is None:                          # then what tokenizer.json puts around a text
        around = formats.json_beside(folder, "tokenizer.json").get("post_processor")
        begin = names.get("bos_token")
        adds_begin = begin is not None and json.dumps(begin) in json.dumps(around)
    _, templates = formats.templates_of(folder)
    return [
        ("tokenizer.ggml.bos_token_id", UINT32, ids["bos"]),
        ("tokenizer.ggml.eos_token_id", UINT32, ids["eos"]),
        ("tokenizer.ggml.add_bos_token", BOOL, bool(adds_begin)),
        ("tokenizer.chat_template", STRING, templates.get("default")),
    ]


def roles_of(tokenizer, chats):
    """The entries of what begins and ends a text, and of how a chat is written.

    chats: whether the model holds conversations. If not it goes on with documents, and the token
    that stands before each of them begins and ends a text.
    """
    begin = tokenizer.special_tokens.get("<|endoftext|>")
    end = tokenizer.special_tokens.get("<|im_end|>") if chats else begin
    return [
        ("tokenizer.ggml.bos_token_id", UINT32, begin),
        ("tokenizer.ggml.eos_token_id", UINT32, end),
        ("tokenizer.ggml.add_bos_token", BOOL, not chats and begin is not None),
        ("tokenizer.chat_template", STRING, huggingface.CHAT_TEMPLATE if chats else None),
    ]


def save(path, params, cfg, tokenizer, kind="f32", name="longhand", folder=None):
    """Write a model as GGUF, some rows at a time; the file appears whole or not at all.

    kind: f32 or q8_0. A model of ours holds conversations if its vocabulary has the tokens for them
    and its name is not base. folder: where the files of a model of others lie.
    """
    if kind not in TYPES:
        raise ValueError(f"type {kind!r}: expected {' or '.join(TYPES)}")
    ours = huggingface.is_for_chats(tokenizer.special_tokens)
    if folder and not ours:
        roles = roles_beside(folder, tokenizer)
    else:
        roles = roles_of(tokenizer, chats=ours and name != "base")
    entries = [
        ("general.architecture", STRING, architecture_of(cfg)),
        ("general.name", STRING, name),
        ("general.alignment", UINT32, ALIGNMENT),
        ("general.file_type", UINT32, 0 if kind == "f32" else 7),
        ("general.quantization_version", UINT32, 2),
        *sizes_of(cfg),
        *vocabulary_of(cfg.vocab_size, tokenizer),
        *roles,
    ]
    entries = [entry(*each) for each in entries if each[2] is not None]
    table, begin = [], 0
    for key, a in tensors_of(params, cfg):
        small = is_quantized(key, a, kind)
        numbers = a.ndim, *a.shape[::-1], Q8_0 if small else F32, begin
        table.append(value(STRING, key) + struct.pack(f"<I{a.ndim}QIQ", *numbers))
        n_bytes = a.size // 32 * BLOCK_Q8_0.itemsize if small else 4 * a.size
        begin += n_bytes + -n_bytes % ALIGNMENT
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(table), len(entries))
    head += b"".join(entries) + b"".join(table)
    disk.remove_temporaries(Path(path).parent, {Path(path).name})
    with disk.whole_file(Path(path)) as file:
        file.write(head + bytes(-len(head) % ALIGNMENT))
        for key, a in tensors_of(params, cfg):
            begin = file.tell()
            for rows in parts(a):
                file.write(quantize(rows) if is_quantized(key, a, kind) else rows.tobytes())
            file.write(bytes((begin - file.tell()) % ALIGNMENT))


def parts(a):
    """A tensor as arrays of some of its rows, so that never more of it is widened or rounded."""
    step = max(1, PART * len(a) // a.size)
    for begin in range(0, len(a), step):
        yield np.ascontiguousarray(a[begin:begin + step], "<f4")


def is_quantized(key, a, kind):
    """Whether a tensor is written as q8_0.

    As in llama.cpp's own tool, positions are not: they are added, not multiplied.
    """
    whole_blocks = a.ndim == 2 and a.shape[1] % 32 == 0
    return kind == "q8_0" and whole_blocks and key != "position_embd.weight"


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
    model = sample.load_model(folder, dtype="bfloat16")     # what the file has so stays there
    save(args.gguf, *model, args.type, folder.name, folder)
    size = Path(args.gguf).stat().st_size
    print(f"{args.gguf}: {folder} as {args.type}, {size / 1e6:,.1f} MB")


if __name__ == "__main__":
    command.run(main)
