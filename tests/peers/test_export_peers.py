"""chat/export.py's files in the reader of the gguf package, in transformers and in llama.cpp.

llama.cpp's package for Python, llama-cpp-python, has to be compiled: its tests skip without it.
"""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFReader, quants

import bpe
import gpt
from chat import export, generate
from model import families, llama
from test_export import dequantize

TEXT = "the lamp is lit, said the goat.\n\nuser assistant  0 12 345 6789 I'll naïve 你好 😉 \t x"
SCALING = llama.RopeScaling(8.0, 1.0, 4.0, 32)
CONFIGS = {
    "gpt2": gpt.Config(330, 128, 64, 3, 4),
    "llama": llama.Config(330, 128, 64, 3, 4, 2, 16, 96, 1e-6, 5e5, SCALING, tied=False),
    "llama with biases": llama.Config(
        330, 128, 64, 3, 4, 1, 32, 96, 1e-5, 1e4, qkv_bias=True, o_bias=True),
    "qwen2": llama.Config(330, 128, 64, 3, 4, 2, 16, 96, 1e-6, 1e6, qkv_bias=True),
    "qwen3": llama.Config(330, 128, 64, 3, 4, 2, 128, 96, 1e-6, 1e6, qk_norm=True, tied=False),
}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    cfg = CONFIGS[request.param]
    params = families.of(cfg).init(cfg, 0)
    for p in params.values():
        noise = np.random.default_rng(p.size).standard_normal(p.shape).astype(np.float32)
        p += noise * (0.3 if p.ndim == 2 else 0.1)
    return params, cfg, bpe.Tokenizer.train([TEXT] * 4, 322)


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_the_gguf_packages_reader(model, tmp_path, kind):
    params, cfg, tok = model
    export.save(tmp_path / "m.gguf", *model, kind)
    reader = GGUFReader(tmp_path / "m.gguf")

    def field(name):
        return reader.get_field(name).contents()

    architecture = field("general.architecture")
    assert architecture == export.architecture_of(cfg)
    assert field(f"{architecture}.block_count") == 3
    assert field("tokenizer.ggml.tokens")[tok.encode_ordinary(" the")[0]] == "Ġthe"
    assert len(field("tokenizer.ggml.token_type")) == cfg.vocab_size
    assert field("tokenizer.chat_template")
    ours, kinds = dict(export.tensors_of(params, cfg)), set()
    assert {t.name for t in reader.tensors} == set(ours)
    for t in reader.tensors:
        kinds.add(t.tensor_type.name)
        want = ours[t.name]
        if t.tensor_type == GGMLQuantizationType.F32:
            np.testing.assert_array_equal(t.data.reshape(want.shape), want)
        else:
            np.testing.assert_array_equal(t.data, quants.quantize(want, t.tensor_type))
    assert kinds == {"F32"} | ({"Q8_0"} if kind == "q8_0" else set())


def llama_cpp(path):
    package = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    return package.Llama(str(path), n_ctx=128, n_threads=2, verbose=False, type_k=0, type_v=0)


def rounded(params):
    """The weights as q8_0 keeps them."""
    found = dict(params)
    for name, a in params.items():
        if name in ("wte.weight", "lm_head.weight"):
            found[name] = dequantize(export.quantize(a), a.shape)
        elif a.ndim == 2 and name != "wpe.weight":
            turned = dequantize(export.quantize(a.T), a.T.shape)
            found[name] = np.ascontiguousarray(turned.T)
    return found


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_llama_cpp_says_the_same(model, tmp_path, kind):
    """The same tokens for a text, and after them the same fifty greedy ones.

    With q8_0 they are those of our own model with rounded weights, and only the first ten: it also
    rounds what is multiplied with such weights to 8 bits.
    """
    params, cfg, tok = model
    export.save(tmp_path / "m.gguf", *model, kind)
    theirs = llama_cpp(tmp_path / "m.gguf")
    ids = tok.encode_ordinary(TEXT)
    assert theirs.tokenize(TEXT.encode(), add_bos=False, special=False) == ids
    params = rounded(params) if kind == "q8_0" else params
    (want,) = generate.generate(params, cfg, tok, [ids], max_new_tokens=50, temperature=0.0,
                                tools=False)
    theirs.reset()
    theirs.eval(ids)
    said = []
    for _ in range(50):
        if theirs._logits_all:
            logits = theirs.scores[theirs.n_tokens - 1]
        else:
            logits = np.ctypeslib.as_array(theirs._ctx.get_logits(), (cfg.vocab_size,))
        said.append(int(logits[:tok.n_vocab].argmax()))
        theirs.eval([said[-1]])
    export.save(tmp_path / "base.gguf", *model, kind, name="base")
    begun = llama_cpp(tmp_path / "base.gguf").tokenize(TEXT.encode(), add_bos=True, special=False)
    assert begun == [tok.eot_token, *ids]
    n = 50 if kind == "f32" else 10
    assert said[:n] == want.ids[:n]


def test_transformers_opens_our_llamas(model, tmp_path):
    """transformers reads GGUF files, and puts the channels of a llama back as they were.

    It takes qwen3's heads of 128 channels for granted, and reads neither biases of a llama nor
    rope_freqs.
    """
    params, cfg, tokenizer = model
    if families.of(cfg) is gpt or cfg.o_bias:
        pytest.skip("not one of those that it reads in full")
    cfg = dataclasses.replace(cfg, rope_scaling=None)
    export.save(tmp_path / "m.gguf", params, cfg, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf")
    tokens = np.random.default_rng(0).integers(0, cfg.vocab_size, (2, 50))
    with torch.no_grad():
        want = theirs(torch.tensor(tokens)).logits.numpy()
    ours, _ = llama.forward(params, cfg, tokens)
    assert np.abs(ours - want).max() < 1e-5 * np.abs(want).max()
