"""chat/export.py's files in the reader of the gguf package, in transformers and in llama.cpp.

The package xllamacpp brings llama.cpp compiled, and its server.
"""

import dataclasses
import json
import random
import re
import unicodedata
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFReader, quants

import bpe
import gpt
import sample
from chat import export, formats, generate
from conversations import TOOLS, conversation
from model import families, llama
from tokens.patterns import PATTERNS, Split
from test_export import dequantize

ROOT = Path(__file__).resolve().parent.parent.parent

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


class LlamaCpp:
    """llama.cpp's server with a file; skips the test where xllamacpp is not installed.

    It computes in float32, as we do: its cache and its attention would take float16 otherwise. It
    has one thread, since two wait for each other in a loop, for minutes on a busy machine.
    """

    def __init__(self, path):
        package = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
        options = package.CommonParams()
        options.model.path, options.n_ctx, options.n_parallel = str(path), 256, 1
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
        options.verbosity, options.warmup = -1, False
        options.cache_type_k = options.cache_type_v = package.ggml_type.GGML_TYPE_F32
        attention = package.llama_flash_attn_type
        options.flash_attn_type = attention.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = package.Server(options)

    def ask(self, route, **body):
        """What it answers to a request."""
        request = urllib.request.Request(
            self.server.listening_address + route, json.dumps(body).encode(),
            {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def ids(self, text, begin=False, special=False):
        """The tokens of a text; begin: with what stands before it; special: named ones are meant.
        """
        answer = self.ask("/tokenize", content=text, add_special=begin, parse_special=special)
        return answer["tokens"]

    def write(self, ids, n, bias=(), **more):
        """What it says of up to n likeliest tokens after ids; bias: [[token, to its logit], ...]"""
        return self.ask("/completion", prompt=ids, n_predict=n, temperature=0, return_tokens=True,
                        logit_bias=list(bias), **more)

    def log_probabilities(self, ids, vocab_size, plain):
        """(vocab_size,) log p of the token after ids.

        It tells them with a token whose bytes are characters, so plain, one of those, is made to
        come next. This changes no probability that it tells.
        """
        answer = self.write(ids, 1, [[plain, 1000]], n_probs=vocab_size)
        found = np.full(vocab_size, np.nan)
        for each in answer["completion_probabilities"][0]["top_logprobs"]:
            found[each["id"]] = each["logprob"]
        return found


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


def assert_same_text(theirs, params, cfg, tokenizer, ids, n, log_p_within):
    """llama.cpp says the n greedy tokens that we say after ids, with the same probabilities."""
    end = tokenizer.special_tokens["<|im_end|>"]
    (want,) = generate.generate(params, cfg, tokenizer, [ids], max_new_tokens=n, temperature=0.0,
                                tools=False, stop=frozenset([end, tokenizer.eot_token]))
    unused = [[i, False] for i in range(tokenizer.n_vocab, cfg.vocab_size)]
    said = theirs.write(ids, n, unused)["tokens"]
    assert said == want.ids
    logits, _ = families.of(cfg).forward(params, cfg, np.array([ids + said]))
    ours = torch.log_softmax(torch.tensor(logits[0], dtype=torch.float64), -1).numpy()
    (plain,) = tokenizer.encode_ordinary("e")
    for i in range(0, len(said), 10):
        found = theirs.log_probabilities(ids + said[:i], cfg.vocab_size, plain)
        assert np.abs(found - ours[len(ids) - 1 + i]).max() < log_p_within
    return said


def log_p_within(cfg):
    """How exact llama.cpp is in float32. Its GELU is a table of float16, here to 2^-11."""
    return 0.02 if families.of(cfg) is gpt else 1e-4


def test_llama_cpp_says_the_same(model, tmp_path):
    """The same tokens for a text, the same fifty greedy ones after it, the same probabilities."""
    params, cfg, tokenizer = model
    export.save(tmp_path / "m.gguf", *model)
    theirs = LlamaCpp(tmp_path / "m.gguf")
    ids = tokenizer.encode_ordinary(TEXT)
    assert theirs.ids(TEXT) == ids
    assert_same_text(theirs, params, cfg, tokenizer, ids, 50, log_p_within(cfg))
    export.save(tmp_path / "base.gguf", *model, name="base")
    assert LlamaCpp(tmp_path / "base.gguf").ids(TEXT, begin=True) == [tokenizer.eot_token, *ids]


def test_llama_cpp_with_rounded_weights(model, tmp_path):
    """With q8_0 it also rounds what is multiplied with such weights to 8 bits."""
    params, cfg, tokenizer = model
    export.save(tmp_path / "m.gguf", *model, "q8_0")
    theirs = LlamaCpp(tmp_path / "m.gguf")
    ids = tokenizer.encode_ordinary(TEXT)
    logits, _ = families.of(cfg).forward(rounded(params), cfg, np.array([ids]))
    ours = torch.softmax(torch.tensor(logits[0]), -1).numpy()
    (plain,) = tokenizer.encode_ordinary("e")
    for n in range(5, len(ids) + 1, 5):
        found = np.exp(theirs.log_probabilities(ids[:n], cfg.vocab_size, plain))
        assert np.abs(found - ours[n - 1]).max() < 0.1


def test_llama_cpp_chats_with_the_demo(tmp_path):
    """A model that has learned: its replies to questions, as tokens and as text without specials.
    """
    folder = ROOT / "out" / "demo" / "sft"
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"no model in {folder}")
    params, cfg, tokenizer = sample.load_model(folder)
    export.save(tmp_path / "m.gguf", params, cfg, tokenizer, folder=folder)
    theirs, n_said = LlamaCpp(tmp_path / "m.gguf"), 0
    for question in ("Tell me of the goat.", "Who are you?", "What is 12 + 30?", "Hi 🐐"):
        messages = [{"role": "user", "content": question}]
        ids = sample.render_prompt(messages, tokenizer)
        prompt = theirs.ask("/apply-template", messages=messages)["prompt"]
        assert theirs.ids(prompt, begin=True, special=True) == ids
        said = assert_same_text(theirs, params, cfg, tokenizer, ids, 100, log_p_within(cfg))
        answer = theirs.ask("/v1/chat/completions", messages=messages, max_tokens=100,
                            temperature=0)["choices"][0]["message"]["content"]
        specials = tokenizer.special_tokens.values()
        assert answer == tokenizer.decode([i for i in said if i not in specials])
        n_said += len(said)
    # and a document, as a base model writes it
    ids = tokenizer.encode_ordinary("The ferry")
    n_said += len(assert_same_text(theirs, params, cfg, tokenizer, ids, 60, log_p_within(cfg)))
    assert n_said > 90


ODD = [
    " ", "  ", "\n", "\r\n", "\t", "\x0b", "\x1c", "\x85", "\u00a0", "\u2028", "\u3000", "\ufeff",
    "'s", "'S", "'LL", "'\u017f", "12", "\u00b2", "\u0663", "\u2167", "!", "...", "//\n", "_",
    "a", "Z", "e\u0301", "\u01c5", "\u02b0", "\u0130", "\u0e01\u0e47", "\u0928\u093f", "\ud55c",
    "\U000e0041", "\U0001f468\u200d\U0001f469",
]


def varied_texts(shared):
    """English, code, 49 languages, and odd characters side by side."""
    texts = [shared("english.txt").read_text(encoding="utf-8")[:20_000]]
    texts.append(Path(export.__file__).read_text(encoding="utf-8"))
    for path in sorted(shared("udhr").glob("*.txt"))[::8]:
        texts.append(path.read_text(encoding="utf-8")[:1500])
    rng = random.Random(0)
    return texts + ["".join(rng.choices(ODD, k=60)) for _ in range(300)]


def one_layer(vocab_size, family="llama"):
    cfg = dataclasses.replace(CONFIGS[family], vocab_size=vocab_size, n_embd=32, n_layer=1)
    return llama.init(cfg, 0), cfg


@pytest.mark.parametrize("name, vocabulary, n, pattern", [
    ("gpt-2", "r50k_base", 50_256, PATTERNS["gpt2"]),
    ("llama-bpe", "cl100k_base", 100_256, PATTERNS["cl100k"]),
    ("dbrx", "cl100k_base", 100_256, PATTERNS["gpt4"]),
    ("gpt-4o", "o200k_base", 199_998, PATTERNS["o200k"]),
    ("qwen2", "r50k_base", 50_256, PATTERNS["digits"]),
    ("smollm", "r50k_base", 49_000, (Split(r"\p{N}"), Split(PATTERNS["gpt2"]))),
])
def test_llama_cpp_cuts_texts_as_we_do(tmp_path, shared, name, vocabulary, n, pattern):
    """By every pattern that is known by a name.

    llama.cpp's gpt-4o takes combining marks for no letters, and capitals beyond ASCII for small
    ones.
    """
    whole = bpe.Tokenizer.load(shared(f"{vocabulary}.tiktoken"), "gpt2", {})
    ranks = {token: i for token, i in whole.ranks.items() if i < n}
    tokenizer = bpe.Tokenizer(ranks, pattern, {"<|endoftext|>": n})
    assert export.pattern_of(tokenizer) == name
    export.save(tmp_path / "m.gguf", *one_layer(n + 1), tokenizer, "q8_0")
    theirs = LlamaCpp(tmp_path / "m.gguf")
    texts = varied_texts(shared)
    if name == "gpt-4o":
        texts = [re.sub(r"[^\x00-\x7f]", "", text) for text in texts]
    for text in texts:
        assert theirs.ids(text) == tokenizer.encode_ordinary(text)


@pytest.mark.parametrize("name, family", [("llama3_1", "llama"), ("qwen3", "qwen3")])
def test_llama_cpp_writes_chats_of_others(tmp_path, shared, name, family):
    """Ids of texts, the chat template with and without tools, and each token that ends a reply.

    llama.cpp puts the first token in front itself, so its text of a chat lacks it. It brings no
    text into Qwen's normal form, and where a template trims a text it takes away ASCII's white
    space alone.
    """
    folder = shared(f"tokenizers/{name}/tokenizer.json").parent
    tokenizer = bpe.Tokenizer.load(folder / "tokenizer.json")
    model = one_layer(tokenizer.n_vocab, family)
    export.save(tmp_path / "m.gguf", *model, tokenizer, "q8_0", name, folder)
    theirs, ours = LlamaCpp(tmp_path / "m.gguf"), formats.load(folder, tokenizer)
    for text in varied_texts(shared):
        text = unicodedata.normalize("NFC", text)
        assert theirs.ids(text) == tokenizer.encode_ordinary(text)
    begin = ours.special.get("bos_token", "") if name == "llama3_1" else ""
    rng = random.Random(name)
    for i in range(50):
        messages = conversation(rng, calls=i % 2 == 1)
        messages = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        for m in messages:
            m["content"] = re.sub("[\u00a0\u2028]", "-", m["content"])
        tools = {"tools": TOOLS} if i % 4 == 1 else {}
        text = theirs.ask("/apply-template", messages=messages, **tools)["prompt"]
        assert begin + text == ours.text(messages, **tools)
        text = unicodedata.normalize("NFC", text)
        ids = tokenizer.encode(begin + text, allowed_special="all")
        assert theirs.ids(text, begin=True, special=True) == ids
    for end in ours.ends:
        answer = theirs.write(ids[:20], 5, [[end, 1000]])
        assert answer["stop_type"] == "eos" and answer["tokens_predicted"] == 1


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


@pytest.mark.parametrize("name, family", [("llama3_1", "llama"), ("qwen3", "qwen3")])
def test_real_tokenizers(tmp_path, shared, name, family):
    """transformers makes a tokenizer of the file, which gives our ids."""
    folder = shared(f"tokenizers/{name}/tokenizer.json").parent
    tokenizer = bpe.Tokenizer.load(folder / "tokenizer.json")
    cfg = dataclasses.replace(CONFIGS[family], vocab_size=tokenizer.n_vocab, n_embd=32)
    params = llama.init(cfg, 0)
    export.save(tmp_path / "m.gguf", params, cfg, tokenizer, "q8_0", name, folder)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    text = shared("english.txt").read_text(encoding="utf-8")[:10_000] + TEXT
    text += "<|im_start|>\n\n \n<|eot_id|>"
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer.encode(text, allowed_special="all")
