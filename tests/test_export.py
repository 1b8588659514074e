"""chat/export.py: a GGUF file taken apart again, byte by byte."""

import dataclasses
import json
import struct

import numpy as np
import pytest

import bpe
from chat import export
import gpt
from model import bfloat16, checkpoint, folders, llama
from tokens import patterns
from tokens.added import Flags, LeaveOut
from conftest import run_script

TOK = bpe.Tokenizer.train(["the lamp is lit, said the goat. user assistant"] * 4, 320)
CFG = gpt.Config(TOK.n_vocab + 6, 48, 32, 2, 2)
PARAMS = gpt.init(CFG, 0)
LLAMA = llama.Config(TOK.n_vocab, 48, 32, 2, 4, 2, 16, 64, 1e-6, 5e5,
                     llama.RopeScaling(8.0, 1.0, 4.0, 16))


def dequantize(data, shape):
    """The numbers that the bytes of q8_0 stand for."""
    blocks = np.frombuffer(data, export.BLOCK_Q8_0)
    return (blocks["d"].astype(np.float32)[:, None] * blocks["q"]).reshape(shape)


def read(path):
    """({key: value}, {name: array}) of a GGUF file."""
    data, at = path.read_bytes(), 0

    def take(form):
        nonlocal at
        (x,) = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return x

    def string():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n:at].decode()

    def value(kind):
        return string() if kind == 8 else take({4: "I", 5: "i", 6: "f", 7: "?"}[kind])

    assert take("4s") == b"GGUF" and take("I") == 3
    n_tensors, n_keys, keys, tensors = take("Q"), take("Q"), {}, {}
    for _ in range(n_keys):
        key, kind = string(), take("I")
        if kind == 9:
            kind, n = take("I"), take("Q")
            keys[key] = [value(kind) for _ in range(n)]
        else:
            keys[key] = value(kind)
    table = []
    for _ in range(n_tensors):
        name, shape = string(), [take("Q") for _ in range(take("I"))][::-1]
        table.append((name, shape, take("I"), take("Q")))
    begin = -(-at // keys["general.alignment"]) * keys["general.alignment"]
    for name, shape, kind, offset in table:
        assert offset % keys["general.alignment"] == 0
        n = int(np.prod(shape))
        first = begin + offset
        if kind == 8:
            tensors[name] = dequantize(data[first:first + n // 32 * 34], shape)
        else:
            tensors[name] = np.frombuffer(data, "<f4", n, first).reshape(shape)
    return keys, tensors


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "m.gguf"
    export.save(path, PARAMS, CFG, TOK)
    keys, tensors = read(path)
    end, ggml = TOK.special_tokens["<|im_end|>"], "tokenizer.ggml."
    tokens, kinds = keys[ggml + "tokens"], keys[ggml + "token_type"]
    assert keys["general.architecture"] == "gpt2" and keys[ggml + "pre"] == "qwen2"
    assert keys["general.name"] == "longhand" and keys["general.file_type"] == 0
    assert keys["gpt2.block_count"] == 2 and keys["gpt2.context_length"] == 48
    assert len(tokens) == len(set(tokens)) == len(kinds) == CFG.vocab_size
    assert tokens[TOK.encode_ordinary(" the")[0]] == "Ġthe" and kinds[-1] == 5
    assert kinds[end] == 3 and keys[ggml + "eos_token_id"] == end
    assert not keys[ggml + "add_bos_token"] and "im_sep" in keys["tokenizer.chat_template"]
    # documents begin behind a token, and with the next one they end
    export.save(tmp_path / "base.gguf", PARAMS, CFG, TOK, name="base")
    base = read(tmp_path / "base.gguf")[0]
    assert base[ggml + "add_bos_token"] and "tokenizer.chat_template" not in base
    assert base[ggml + "bos_token_id"] == base[ggml + "eos_token_id"] == TOK.eot_token
    assert sum(t.size for t in tensors.values()) == sum(p.size for p in PARAMS.values())
    np.testing.assert_array_equal(tensors["token_embd.weight"], PARAMS["wte.weight"])
    turned = PARAMS["h.1.attn.c_attn.weight"].T
    np.testing.assert_array_equal(tensors["blk.1.attn_qkv.weight"], turned)
    np.testing.assert_array_equal(tensors["blk.0.ffn_norm.bias"], PARAMS["h.0.ln_2.bias"])


def test_q8_0(tmp_path):
    """Each number is off by half a step of its block, and by what float16 makes of the step."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 64)).astype(np.float32) * rng.choice([1e-3, 1, 50], (40, 1))
    x[3] = 0
    back = dequantize(export.quantize(x), x.shape)
    step = np.abs(x.reshape(40, 2, 32)).max(-1, keepdims=True) / 127
    rounded = 127 * np.maximum(step * 2.0 ** -11, 2.0 ** -25)
    off = np.abs(back - x).reshape(40, 2, 32)
    assert (off <= 0.5 * step * 1.001 + rounded).all() and not back[3].any()
    export.save(tmp_path / "a", PARAMS, CFG, TOK)
    export.save(tmp_path / "b", PARAMS, CFG, TOK, "q8_0")
    (_, a), (_, b) = read(tmp_path / "a"), read(tmp_path / "b")
    changed = {k for k in a if not np.array_equal(a[k], b[k])}
    assert "position_embd.weight" not in changed and "token_embd.weight" in changed
    assert all(a[k].ndim == 2 for k in changed)
    assert (tmp_path / "b").stat().st_size < 0.6 * (tmp_path / "a").stat().st_size


def test_some_rows_at_a_time(tmp_path, monkeypatch):
    """Whatever a part takes, and whether the model is in float32 or stays in bfloat16."""
    params = {name: bfloat16.narrow(p) for name, p in noisy(LLAMA).items()}
    tensors = folders.in_files(params, LLAMA)
    folders.save_config(tmp_path, LLAMA)
    checkpoint.save_safetensors(tmp_path / "model.safetensors", tensors, {"format": "pt"})
    for kind in ("f32", "q8_0"):
        found = []
        for dtype, part in (("float32", 10 ** 6), ("bfloat16", 10 ** 6), ("bfloat16", 100)):
            monkeypatch.setattr(export, "PART", part)
            params, cfg = folders.load(tmp_path, dtype=dtype)
            export.save(tmp_path / "m.gguf", params, cfg, TOK, kind)
            found.append((tmp_path / "m.gguf").read_bytes())
        assert found[0] == found[1] == found[2]


def test_from_the_command_line(tmp_path):
    gpt.save(tmp_path / "run/sft", PARAMS, CFG)
    TOK.save(tmp_path / "run/sft/tokenizer.json")
    words, path = ["sample.py", "export", "--run", tmp_path / "run"], tmp_path / "m.gguf"
    done = run_script(*words, "--gguf", path, "--type", "q8_0")
    assert done.returncode == 0 and "as q8_0" in done.stdout, done.stderr
    assert path.read_bytes()[:4] == b"GGUF"
    done = run_script(*words)
    assert done.returncode == 1 and "python sample.py export --gguf FILE" in done.stderr


def test_a_pattern_of_ones_own_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none that llama.cpp knows"):
        own = bpe.Tokenizer(TOK.ranks, r"\S+|\s+", TOK.special_tokens)
        export.save(tmp_path / "m.gguf", PARAMS, CFG, own)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="expected f32 or q8_0"):
        export.save(tmp_path / "m.gguf", PARAMS, CFG, TOK, "q4")


def test_added_words(tmp_path):
    """Words that are text are USER_DEFINED; what GGUF cannot say of them is refused."""
    n, parts = TOK.n_vocab, (TOK.ranks, TOK.pattern, TOK.special_tokens)
    with_word = bpe.Tokenizer(*parts, words={"lighthouse": n})
    export.save(tmp_path / "m.gguf", PARAMS, CFG, with_word)
    keys = read(tmp_path / "m.gguf")[0]
    assert keys["tokenizer.ggml.tokens"][n] == "lighthouse"
    assert keys["tokenizer.ggml.token_type"][n - 1:n + 2] == [3, 4, 5]
    wide = bpe.Tokenizer(*parts, words={"x": n}, flags={"x": Flags(lstrip=True)})
    with pytest.raises(ValueError, match="the token 'x' takes white space along"):
        export.save(tmp_path / "m.gguf", PARAMS, CFG, wide)


def noisy(cfg):
    rng = np.random.default_rng(0)
    params = llama.init(cfg, 0)
    for p in params.values():
        p += 0.1 * rng.standard_normal(p.shape, np.float32)
    return params


def test_a_llama(tmp_path):
    cfg = dataclasses.replace(LLAMA, tied=False, qkv_bias=True, o_bias=True)
    params = noisy(cfg)
    export.save(tmp_path / "m.gguf", params, cfg, TOK, "f32", "my model")
    keys, tensors = read(tmp_path / "m.gguf")
    assert keys["general.architecture"] == "llama" and keys["general.name"] == "my model"
    found = {key.removeprefix("llama."): x for key, x in keys.items() if key[:6] == "llama."}
    assert found == {
        "vocab_size": cfg.vocab_size, "context_length": 48, "embedding_length": 32,
        "block_count": 2, "feed_forward_length": 64, "attention.head_count": 4,
        "attention.head_count_kv": 2, "attention.key_length": 16, "attention.value_length": 16,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "rope.dimension_count": 16, "rope.freq_base": 5e5}
    assert sum(t.size for t in tensors.values()) == cfg.n_params + 8
    for name, ours in (("attn_v", "attn.v"), ("attn_output", "attn.o"), ("ffn_gate", "mlp.gate"),
                       ("ffn_up", "mlp.up"), ("ffn_down", "mlp.down")):
        turned = params[f"h.1.{ours}.weight"].T
        np.testing.assert_array_equal(tensors[f"blk.1.{name}.weight"], turned)
    np.testing.assert_array_equal(tensors["blk.1.ffn_norm.weight"], params["h.1.ln_2.weight"])
    np.testing.assert_array_equal(tensors["output.weight"], params["lm_head.weight"])
    plain = llama.rotary_frequencies(dataclasses.replace(cfg, rope_scaling=None))
    scaled = plain / tensors["rope_freqs.weight"]
    np.testing.assert_allclose(scaled, llama.rotary_frequencies(cfg), rtol=1e-6)


def test_a_llamas_pairs_are_neighbours(tmp_path):
    """Queries and keys turned in llama.cpp's way have the products that ours have."""
    cfg = dataclasses.replace(LLAMA, qkv_bias=True, o_bias=True)
    params = noisy(cfg)
    export.save(tmp_path / "m.gguf", params, cfg, TOK)
    _, tensors = read(tmp_path / "m.gguf")
    x = np.random.default_rng(1).standard_normal((1, 7, 32)).astype(np.float32)
    cos, sin = llama.rotary_tables(cfg, np.arange(7), np.float32)

    def theirs(name, n_head):
        w, b = tensors[f"blk.0.{name}.weight"], tensors[f"blk.0.{name}.bias"]
        q = gpt.split_heads(x @ w.T + b, n_head)                # (1,n_head,T,HS)
        a, b = q[..., 0::2], q[..., 1::2]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    block = gpt.block_params(params, 0)
    turn = cos[None, None], sin[None, None]
    for name, ours, n_head in (("attn_q", "attn.q", 4), ("attn_k", "attn.k", 2)):
        want, _ = llama.heads_forward(x, block, ours, n_head, turn, cfg)
        np.testing.assert_allclose(theirs(name, n_head), want, atol=1e-5)


def test_qwens(tmp_path):
    qwen2 = dataclasses.replace(LLAMA, rope_scaling=None, qkv_bias=True)
    qwen3 = dataclasses.replace(LLAMA, rope_scaling=None, qk_norm=True)
    for name, cfg, more in (("qwen2", qwen2, "attn_q.bias"),
                            ("qwen3", qwen3, "attn_q_norm.weight")):
        params = noisy(cfg)
        export.save(tmp_path / "m.gguf", params, cfg, TOK, "q8_0")
        keys, tensors = read(tmp_path / "m.gguf")
        assert keys["general.architecture"] == name and f"{name}.rope.freq_base" in keys
        assert f"blk.1.{more}" in tensors and "rope_freqs.weight" not in tensors
        matrix = params["h.0.attn.q.weight"].T                  # the rows stay where they are
        np.testing.assert_allclose(tensors["blk.0.attn_q.weight"], matrix, atol=0.005)
    for cfg, message in (
        (dataclasses.replace(LLAMA, qkv_bias=True), "does not scale the rotary positions of qwen2"),
        (dataclasses.replace(qwen3, qkv_bias=True, o_bias=True), "qwen3 has no biases"),
        (dataclasses.replace(LLAMA, o_bias=True), "no model of transformers has these together"),
    ):
        with pytest.raises(ValueError, match=message):
            export.save(tmp_path / "n.gguf", noisy(cfg), cfg, TOK)
    assert not (tmp_path / "n.gguf").exists()


def test_patterns_of_other_models():
    """llama.cpp knows them by name. It leaves out Qwen's normal form."""
    own = bpe.Tokenizer(TOK.ranks, patterns.PATTERNS["qwen2"], TOK.special_tokens, "NFC")
    assert export.pattern_of(own) == "qwen2"
    own = bpe.Tokenizer(TOK.ranks, patterns.PATTERNS["cl100k"], TOK.special_tokens)
    assert export.pattern_of(own) == "llama-bpe"
    smollm = patterns.Split(r"\p{N}"), patterns.Split(patterns.PATTERNS["gpt2"])
    own = bpe.Tokenizer(TOK.ranks, smollm, TOK.special_tokens, (LeaveOut("\x04"),))
    assert export.pattern_of(own) == "smollm"
    own = bpe.Tokenizer(TOK.ranks, patterns.PATTERNS["qwen2"], TOK.special_tokens, "NFKC")
    with pytest.raises(ValueError, match="none that llama.cpp knows"):
        export.pattern_of(own)


def test_roles_of_a_model_of_others(tmp_path):
    """What begins and ends a text, and the chat template, are what the files beside it say."""
    specials = {"<s>": 316, "</s>": 317, "<|end|>": 318}
    own = bpe.Tokenizer(TOK.ranks, TOK.pattern, specials)
    cfg = dataclasses.replace(LLAMA, vocab_size=320)
    ggml = "tokenizer.ggml."

    def exported(config, **files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        files["tokenizer_config"] = config
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        export.save(folder / "m.gguf", llama.init(cfg, 0), cfg, own, folder=folder)
        return read(folder / "m.gguf")[0]

    names = {"bos_token": "<s>", "eos_token": {"content": "<|end|>"}}
    keys = exported({**names, "add_bos_token": True, "chat_template": "{{ messages }}"})
    assert keys[ggml + "bos_token_id"] == 316 and keys[ggml + "eos_token_id"] == 318
    assert keys[ggml + "add_bos_token"] and keys["tokenizer.chat_template"] == "{{ messages }}"
    around = {"post_processor": {"single": [{"SpecialToken": {"id": "<s>"}}]}}
    assert exported(names, tokenizer=around)[ggml + "add_bos_token"]
    assert not exported({**names, "add_bos_token": False}, tokenizer=around)[ggml + "add_bos_token"]
    keys = exported({"bos_token": None, "eos_token": "</s>"}, tokenizer={"post_processor": None})
    assert not keys[ggml + "add_bos_token"] and keys[ggml + "eos_token_id"] == 317
    assert ggml + "bos_token_id" not in keys and "tokenizer.chat_template" not in keys
