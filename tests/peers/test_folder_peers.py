"""Model folders and transformers.

It opens ours with our ids, our end of a text and our way to write a chat; we open what it saves.
"""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM, AutoTokenizer, GPT2ForSequenceClassification, GPT2Tokenizer)

import bpe
import gpt
import sample
from chat import judges
from model import checkpoint, fast, llama, resume

TEXT = "The keeper of the lamp went down to the quay. \"Who goes there?\" he said.\n\n"
TEXT = (TEXT + "Nobody answered: 12 boats lay at anchor.\n") * 20
TEXTS = ["First line:\n\nSecond line", "he said.\n\n\"Who", "a  b\n \nc", "12 boats",
         " naïve 中文 😉\t x", "a<|im_start|> b<|endoftext|>"]
TOK = bpe.Tokenizer.train([TEXT], 320)
CFG = gpt.Config(TOK.n_vocab, 96, 32, 2, 4)
PARAMS = gpt.init(CFG, 0)
WORKED_OUT = [
    {"type": "text", "text": "It is "}, {"type": "tool", "text": "1+1"},
    {"type": "output", "text": "2"}, {"type": "text", "text": " 2."}]
CHATS = [
    [{"role": "user", "content": " What is 1+1? "}],
    [{"role": "system", "content": "Be  kind.\n"}, {"role": "user", "content": "{{ x }} <b>\\n"}],
    [{"role": "user", "content": "Work it out."},
     {"role": "assistant", "content": WORKED_OUT},
     {"role": "user", "content": [{"type": "text", "text": "Thanks\n\n"}]}],
]
NO_CHATS = [
    {"role": "user", "content": "x<|im_end|>"},
    {"role": "tool", "content": "x"},
    {"role": "user", "content": [{"type": "image", "text": "x"}]},
]


def assert_same_ids(ours, theirs, texts):
    for text in texts:
        assert theirs(text)["input_ids"] == ours.encode(text, allowed_special="all")


@pytest.fixture(params=["<|endoftext|>", "<|im_end|>"])
def folder(request, tmp_path):
    """A model folder as a stage of training makes one, of a base model and of one that chats."""
    resume.save_description(tmp_path, CFG, TOK, request.param)
    gpt.save(tmp_path, PARAMS, CFG)
    return tmp_path, request.param


def test_transformers_opens_ours(folder):
    path, end = folder
    theirs, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
    assert_same_ids(TOK, theirs, TEXTS)
    for text in TEXTS:
        assert theirs.decode(TOK.encode(text, allowed_special="all")) == text
    eos, config, generation = TOK.special_tokens[end], model.config, model.generation_config
    assert theirs.eos_token_id == config.eos_token_id == generation.eos_token_id == eos
    assert theirs.pad_token_id == config.pad_token_id == generation.pad_token_id != eos
    assert theirs.bos_token_id == TOK.eot_token and len(theirs) == TOK.n_vocab
    assert bool(theirs.chat_template) == (end == "<|im_end|>")
    ids = theirs(["The keeper", "lamp " * 9], padding=True, return_tensors="pt")
    assert ids["attention_mask"].tolist()[0][-1] == 0
    assert ids["input_ids"][0, -1] == theirs.pad_token_id
    tokens = [TOK.encode(TEXT[:60])]
    with torch.no_grad():
        want = model(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(fast.forward(PARAMS, CFG, np.array(tokens))[0], want, atol=1e-4)


def test_transformers_opens_a_llama_of_ours(tmp_path):
    """As a stage of training writes it: with its tokenizer, and the tokens that end a text."""
    cfg = llama.Config(TOK.n_vocab, 96, 32, 2, 4, 2, 8, 48, rope_theta=5e5)
    params = llama.init(cfg, 0)
    resume.save_description(tmp_path, cfg, TOK, "<|im_end|>")
    gpt.save(tmp_path, params, cfg)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_same_ids(TOK, theirs, TEXTS)
    eos = TOK.special_tokens["<|im_end|>"]
    assert model.config.model_type == "llama" and model.config.num_key_value_heads == 2
    assert theirs.eos_token_id == model.config.eos_token_id == eos
    assert model.generation_config.eos_token_id == eos
    tokens = [TOK.encode(TEXT[:60])]
    with torch.no_grad():
        want = model(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(fast.forward(params, cfg, np.array(tokens))[0], want, atol=1e-5)


def test_the_chat_template_is_render_prompt(tmp_path):
    TOK.save(tmp_path / "tokenizer.json")
    gpt.save(tmp_path, PARAMS, CFG)
    theirs = AutoTokenizer.from_pretrained(tmp_path)

    def ids(chat, begins):
        found = theirs.apply_chat_template(chat, add_generation_prompt=begins)
        return found if isinstance(found, list) else found["input_ids"]

    for chat in CHATS:
        assert ids(chat, True) == sample.render_prompt(chat, TOK)
        assert ids(chat, False) == sample.render(chat, TOK)[0]
    for message in NO_CHATS:
        with pytest.raises(Exception, match="special token|role of a message|type of a part"):
            theirs.apply_chat_template([message], tokenize=False)


@pytest.mark.parametrize("dtype, size, error", [
    (torch.float32, "5GB", 1e-9), (torch.bfloat16, "20KB", 0.01), (torch.float16, "5GB", 0.01)])
def test_we_open_what_transformers_saves(folder, tmp_path, dtype, size, error):
    path, _ = folder
    again = tmp_path / "again"
    theirs, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM
    theirs("The", padding="max_length", truncation=True, max_length=16)     # marks tokenizer.json
    theirs.add_tokens(["lighthouse"])
    theirs.save_pretrained(again)
    model.from_pretrained(path, dtype=dtype).save_pretrained(again, max_shard_size=size)
    params, cfg = gpt.load(again)
    assert cfg == CFG
    for name, p in PARAMS.items():
        assert np.abs(params[name] - p).max() < error, name
    ours = bpe.Tokenizer.load(again)
    assert ours.special_tokens == TOK.special_tokens and ours.words == {"lighthouse": TOK.n_vocab}
    assert_same_ids(ours, theirs, [*TEXTS, "the lighthouse"])


def test_a_tied_matrix_that_save_model_names_otherwise(folder):
    from safetensors.torch import save_model

    path, file = folder[0], folder[0] / "model.safetensors"
    save_model(AutoModelForCausalLM.from_pretrained(path), str(file))
    tied = {"transformer.wte.weight": "lm_head.weight"}
    assert checkpoint.load_safetensors(file)[1] == tied
    params, _ = gpt.load(path)
    assert all(np.array_equal(params[name], p) for name, p in PARAMS.items())


def test_gpt2s_own_files(tmp_path):
    """With the special tokens of chats; and in the other direction, with a word that was added."""
    ours = bpe.Tokenizer.train([TEXT], 320, "gpt2")
    ours.save(tmp_path / "vocab.json")
    theirs = GPT2Tokenizer.from_pretrained(tmp_path)
    assert_same_ids(ours, theirs, TEXTS)
    theirs.add_tokens(["lighthouse"])
    theirs.save_pretrained(tmp_path / "again")
    again = bpe.Tokenizer.load(tmp_path / "again")
    assert again.words == {"lighthouse": ours.n_vocab}
    assert again.special_tokens == ours.special_tokens and again.pattern == ours.pattern
    assert_same_ids(again, theirs, [*TEXTS, "the lighthouse"])


def test_a_reward_models_padding(tmp_path):
    """transformers reads the reward at the last token that is no padding: <|im_end|>, as we do."""
    resume.save_description(tmp_path, CFG, TOK, "<|im_end|>")
    score = np.random.default_rng(0).standard_normal(CFG.n_embd).astype(np.float32)
    judges.save(tmp_path, {**PARAMS, "score.weight": score}, CFG, 0.0)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["pad_token_id"] == TOK.eot_token
    rows = []
    for reply in ("tea", "coffee, black"):
        chat = [{"role": "user", "content": "Best?"}, {"role": "assistant", "content": reply}]
        rows.append(sample.render(chat, TOK)[0])
    model = GPT2ForSequenceClassification.from_pretrained(tmp_path).eval()
    batch = AutoTokenizer.from_pretrained(tmp_path).pad({"input_ids": rows}, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**batch).logits.ravel().numpy()
    np.testing.assert_allclose(theirs, judges.score(judges.load(tmp_path), rows), atol=1e-4)
