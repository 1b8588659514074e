"""chat/export.py's files in the gguf package's reader, and in llama.cpp if it is installed."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Types, GGUFReader, quants

import bpe
from chat import export, generate
import gpt
from test_export import dequantize

TEXT = "the lamp is lit, said the goat.\n\nuser assistant  0 12 345 6789 I'll naïve 你好 😉 \t x"
CFG = gpt.Config(330, 128, 64, 3, 4)


@pytest.fixture(scope="module")
def model():
    tok = bpe.Tokenizer.train([TEXT] * 4, 322)
    params = gpt.init(CFG, 0)
    for k, p in params.items():
        noise = np.random.default_rng(p.size).standard_normal(p.shape).astype(np.float32)
        p += noise * (0.3 if p.ndim == 2 else 0.1)
    return params, CFG, tok


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_the_gguf_packages_reader(model, tmp_path, kind):
    params, cfg, tok = model
    export.save(tmp_path / "m.gguf", *model, kind)
    reader = GGUFReader(tmp_path / "m.gguf")

    def field(name):
        return reader.get_field(name).contents()

    assert field("general.architecture") == "gpt2" and field("gpt2.block_count") == 3
    assert field("tokenizer.ggml.tokens")[tok.encode_ordinary(" the")[0]] == "Ġthe"
    assert len(field("tokenizer.ggml.token_type")) == cfg.vocab_size
    assert field("tokenizer.chat_template")
    ours = export.tensors_of(params, cfg)
    assert {t.name for t in reader.tensors} == set(ours)
    for t in reader.tensors:
        if t.tensor_type == Types.F32:
            np.testing.assert_array_equal(t.data.reshape(ours[t.name].shape), ours[t.name])
        else:
            np.testing.assert_array_equal(t.data, quants.quantize(ours[t.name], Types.Q8_0))
    assert any(t.tensor_type == Types.Q8_0 for t in reader.tensors) == (kind == "q8_0")


def llama(path, **how):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    how |= {"n_ctx": 128, "n_threads": 2, "type_k": 0, "type_v": 0}
    return llama_cpp.Llama(str(path), verbose=False, **how)


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_llama_cpp_says_the_same(model, tmp_path, kind):
    """The same tokens for a text, and from them the same fifty greedy ones.

    With q8_0 ours are those of our own model with the weights that are in the file.
    """
    params, cfg, tok = model
    export.save(tmp_path / "m.gguf", *model, kind)
    theirs = llama(tmp_path / "m.gguf")
    ids = tok.encode_ordinary(TEXT)
    assert theirs.tokenize(TEXT.encode(), add_bos=False, special=False) == ids
    if kind == "q8_0":
        params = dict(params)
        for k, a in params.items():
            if a.ndim == 2 and k != "wpe.weight":
                turned = a if k == "wte.weight" else a.T
                back = dequantize(export.quantize(turned), turned.shape)
                params[k] = back if k == "wte.weight" else np.ascontiguousarray(back.T)
    how = {"max_new_tokens": 50, "temperature": 0.0, "tools": False}
    (want,) = generate.generate(params, cfg, tok, [ids], **how)
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
    base = llama(tmp_path / "base.gguf")
    assert base.tokenize(TEXT.encode(), add_bos=True, special=False) == [tok.eot_token, *ids]
    same = next((i for i, (a, b) in enumerate(zip(said, want.ids)) if a != b), 50)
    # llama.cpp rounds what it multiplies with q8_0 weights to 8 bits too
    assert same == 50 if kind == "f32" else same >= 10
