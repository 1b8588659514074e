"""Adapters in PEFT: it opens ours, we open its own, and logits and gradients are equal.

Models of both families, small and at random, in float64.
"""

import numpy as np
import peft
import pytest
import torch
import transformers

import gpt
from model import adapters, fast, lora

SIZES = dict(vocab_size=97, eos_token_id=None, bos_token_id=None)
LLAMA = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=32)
MODELS = {
    "gpt2": dict(n_embd=24, n_layer=2, n_head=4, n_positions=32),
    "llama": LLAMA,
    "qwen3": dict(LLAMA, head_dim=8, tie_word_embeddings=True),
}


@pytest.fixture(params=MODELS)
def base(request, tmp_path, monkeypatch):
    """(folder, transformers' model in float64, our params in float64, our Config)"""
    if request.param != "gpt2":
        llama_peers = pytest.importorskip("test_llama_peers")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(request.param, **SIZES, **MODELS[request.param])
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    folder = tmp_path / "base"
    model.save_pretrained(folder)
    params, cfg = gpt.load(folder)
    params = {name: p.astype(np.float64) for name, p in params.items()}
    if request.param != "gpt2":
        model = llama_peers.in_float64(model, cfg, monkeypatch)
    return folder, model.double().eval(), params, cfg


def with_adapter(params, cfg, rank=3):
    """The model with an adapter whose B is not 0; numbers that float32 holds exactly."""
    params = {**params, **lora.init(params, cfg, rank, 7.5, 0)}
    rng = np.random.default_rng(1)
    for name in lora.learned(params):
        drawn = 0.3 * rng.standard_normal(params[name].shape)
        params[name] = drawn.astype(np.float32).astype(np.float64)
    return params


def in_float32(params):
    return {name: p.astype(np.float32) for name, p in params.items()}


def tokens_for(cfg):
    return np.random.default_rng(2).integers(0, cfg.vocab_size, (3, 17))


def assert_same_logits(theirs, params, cfg, atol=1e-10):
    tokens = tokens_for(cfg)
    with torch.no_grad():
        want = theirs(torch.tensor(tokens)).logits.numpy()
    got, _ = fast.forward(params, cfg, tokens)
    np.testing.assert_allclose(got, want, atol=atol)


def test_peft_opens_ours_with_equal_logits_and_gradients(base, tmp_path):
    folder, model, params, cfg = base
    params = with_adapter(params, cfg)
    adapters.write(tmp_path, in_float32(params), cfg, folder)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path, is_trainable=True).double()
    assert_same_logits(theirs, params, cfg)

    tokens = tokens_for(cfg)
    inputs, targets = torch.tensor(tokens[:, :-1]), torch.tensor(tokens[:, 1:])
    logits = theirs(inputs).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    _, grads = fast.loss_and_grads(params, cfg, tokens[:, :-1], tokens[:, 1:])
    found = {}
    for name, p in theirs.named_parameters():
        if p.requires_grad:
            found[name.replace(".default.", ".")] = p.grad.numpy().T
        else:
            assert p.grad is None
    assert len(found) == len(grads) == 2 * len(lora.layers(cfg))
    for name, grad in grads.items():
        layer, _, letter = name.rpartition(".lora_")
        theirs_is = adapters.tensor_name(adapters.module_name(cfg, layer), letter)
        np.testing.assert_allclose(grad, found[theirs_is], atol=1e-8, err_msg=name)


def test_the_merged_model_is_the_one_that_peft_merges(base, tmp_path):
    folder, model, params, cfg = base
    params = in_float32(with_adapter(params, cfg))
    adapters.write(tmp_path / "adapter", params, cfg, folder)
    gpt.save(tmp_path / "merged", lora.merged(params), cfg)
    ours = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    theirs = peft.PeftModel.from_pretrained(model.float(), tmp_path / "adapter").merge_and_unload()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters()):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("kinds", ["all", "few"])
def test_we_open_what_peft_saves(base, tmp_path, kinds):
    folder, model, params, cfg = base
    few = ["c_attn"] if model.config.model_type == "gpt2" else ["q_proj", "v_proj"]
    modules = "all-linear" if kinds == "all" else few
    config = peft.LoraConfig(
        r=5, lora_alpha=3, target_modules=modules, init_lora_weights=False, task_type="CAUSAL_LM",
        fan_in_fan_out=model.config.model_type == "gpt2")
    theirs = peft.get_peft_model(model.float(), config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    adapter = adapters.read(tmp_path / "theirs", params, cfg)
    assert adapter[lora.SCALE] == 0.6
    assert len(adapter) - 1 == sum(p.requires_grad for p in theirs.parameters())
    assert_same_logits(theirs.double(), {**params, **adapter}, cfg)


def test_what_is_not_computed_here_is_refused(base, tmp_path):
    folder, model, params, cfg = base
    few = ["c_attn"] if model.config.model_type == "gpt2" else ["q_proj"]
    for options, said in ((dict(use_dora=True), "use_dora is True"),
                          (dict(use_rslora=True), "use_rslora is True"),
                          (dict(modules_to_save=["lm_head"]), "modules_to_save is")):
        copy = transformers.AutoModelForCausalLM.from_pretrained(folder)
        config = peft.LoraConfig(r=2, target_modules=few, **options)
        peft.get_peft_model(copy, config).save_pretrained(tmp_path / "other")
        with pytest.raises(ValueError, match=said):
            adapters.read(tmp_path / "other", params, cfg)
