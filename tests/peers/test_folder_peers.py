"""Model folders and transformers: it opens ours with our ids, our end, our way to write a chat; we open what it saves.

    python -m pytest tests/peers/test_folder_peers.py
"""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2ForSequenceClassification, GPT2Tokenizer

import bpe
import gpt
import sample
from model import checkpoint, fast, resume

TEXT = "The keeper of the lamp went down to the quay. \"Who goes there?\" he said.\n\nNobody answered: 12 boats lay at anchor.\n" * 20
TEXTS = ["First line:\n\nSecond line", "he said.\n\n\"Who", "a  b\n \nc", "12 boats", " naïve 中文 😉\t x", "a<|im_start|> b<|endoftext|>"]
TOK = bpe.Tokenizer.train([TEXT], 320)
CFG = gpt.Config(TOK.n_vocab, 96, 32, 2, 4)
PARAMS = gpt.init(CFG, 0)
CHATS = [
    [{"role": "user", "content": " What is 1+1? "}],
    [{"role": "system", "content": "Be  kind.\n"}, {"role": "user", "content": "{{ x }} <b>\\n"}],
    [{"role": "user", "content": "Work it out."},
     {"role": "assistant", "content": [{"type": "text", "text": "It is "}, {"type": "tool", "text": "1+1"}, {"type": "output", "text": "2"}, {"type": "text", "text": " 2."}]},
     {"role": "user", "content": [{"type": "text", "text": "Thanks\n\n"}]}]]


@pytest.fixture(params=["<|endoftext|>", "<|im_end|>"])
def folder(request, tmp_path):
    """A model folder as a stage of training begins and ends one; of a base model, and of one that chats."""
    resume.save_description(tmp_path, CFG, TOK, request.param)
    gpt.save(tmp_path, PARAMS, CFG)
    return tmp_path, request.param


def test_transformers_opens_ours(folder):
    path, end = folder
    theirs, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
    for text in TEXTS:
        assert theirs(text)["input_ids"] == TOK.encode(text, allowed_special="all")
        assert theirs.decode(TOK.encode(text, allowed_special="all")) == text
    eos = TOK.special_tokens[end]
    assert theirs.eos_token_id == model.config.eos_token_id == model.generation_config.eos_token_id == eos
    assert theirs.pad_token_id == model.config.pad_token_id == model.generation_config.pad_token_id != eos
    assert theirs.bos_token_id == TOK.eot_token and len(theirs) == TOK.n_vocab
    assert bool(theirs.chat_template) == (end == "<|im_end|>")
    ids = theirs(["The keeper", "lamp " * 9], padding=True, return_tensors="pt")
    assert ids["attention_mask"].tolist()[0][-1] == 0 and ids["input_ids"][0, -1] == theirs.pad_token_id
    with torch.no_grad():
        want = model(torch.tensor([TOK.encode(TEXT[:60])])).logits[0].numpy()
    np.testing.assert_allclose(fast.forward(PARAMS, CFG, np.array([TOK.encode(TEXT[:60])]))[0][0], want, atol=1e-4)


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
    for bad in ({"role": "user", "content": "x<|im_end|>"}, {"role": "tool", "content": "x"}, {"role": "user", "content": [{"type": "image", "text": "x"}]}):
        with pytest.raises(Exception, match="special token|role of a message|type of a part"):
            theirs.apply_chat_template([bad], tokenize=False)


@pytest.mark.parametrize("dtype, size", [(torch.float32, "5GB"), (torch.bfloat16, "20KB"), (torch.float16, "5GB")])
def test_we_open_what_transformers_saves(folder, tmp_path, dtype, size):
    path, end = folder
    theirs = AutoTokenizer.from_pretrained(path)
    theirs("The", padding="max_length", truncation=True, max_length=16)             # leaves its marks in tokenizer.json
    theirs.add_tokens(["lighthouse"])
    theirs.save_pretrained(tmp_path / "again")
    AutoModelForCausalLM.from_pretrained(path, dtype=dtype).save_pretrained(tmp_path / "again", max_shard_size=size)
    params, cfg = gpt.load(tmp_path / "again")
    ours = bpe.Tokenizer.load(tmp_path / "again")
    assert cfg == CFG and all(np.abs(params[k] - PARAMS[k]).max() < {torch.float32: 1e-9}.get(dtype, 0.01) for k in PARAMS)
    assert ours.special_tokens == TOK.special_tokens and ours.words == {"lighthouse": TOK.n_vocab}
    for text in (*TEXTS, "the lighthouse"):
        assert ours.encode(text, allowed_special="all") == theirs(text)["input_ids"]


def test_a_tied_matrix_that_save_model_names_otherwise(folder, tmp_path):
    from safetensors.torch import save_model
    path, _ = folder
    save_model(AutoModelForCausalLM.from_pretrained(path), str(path / "model.safetensors"))
    assert checkpoint.load_safetensors(path / "model.safetensors")[1] == {"transformer.wte.weight": "lm_head.weight"}
    assert all(np.array_equal(gpt.load(path)[0][k], PARAMS[k]) for k in PARAMS)


def test_gpt2s_own_files(tmp_path):
    """With the special tokens of chats; and in the other direction, with a word that was added."""
    ours = bpe.Tokenizer.train([TEXT], 320, "gpt2")
    ours.save(tmp_path / "vocab.json")
    theirs = GPT2Tokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert theirs(text)["input_ids"] == ours.encode(text, allowed_special="all")
    theirs.add_tokens(["lighthouse"])
    theirs.save_pretrained(tmp_path / "again")
    again = bpe.Tokenizer.load(tmp_path / "again")
    assert again.words == {"lighthouse": ours.n_vocab} and again.special_tokens == ours.special_tokens and again.pattern == ours.pattern
    for text in (*TEXTS, "the lighthouse"):
        assert again.encode(text, allowed_special="all") == theirs(text)["input_ids"]


def test_a_reward_models_padding(tmp_path):
    """transformers reads the reward from the last token that is no padding: <|im_end|>, as we do."""
    from chat import judges
    resume.save_description(tmp_path, CFG, TOK, "<|im_end|>")
    params = {**PARAMS, "score.weight": np.random.default_rng(0).standard_normal(CFG.n_embd).astype(np.float32)}
    judges.save(tmp_path, params, 0.0)
    rows = [sample.render([{"role": "user", "content": "Best?"}, {"role": "assistant", "content": reply}], TOK)[0] for reply in ("tea", "coffee, black")]
    model, tokenizer = GPT2ForSequenceClassification.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] == TOK.eot_token
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    with torch.no_grad():
        np.testing.assert_allclose(model(**batch).logits.ravel().numpy(), judges.score(judges.load(tmp_path), rows), atol=1e-4)
