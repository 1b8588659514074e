"""model/adapters.py: what is written is read again, and what cannot be computed is refused.

tests/peers/test_adapter_peers.py opens the same folders in PEFT.
"""

import json

import numpy as np
import pytest

from model import adapters, checkpoint, fast, lora
from test_fast_llama import batch
from test_lora import CASES, adapted


def float32(params):
    return {name: p.astype(np.float32) for name, p in params.items()}


@pytest.fixture
def saved(tmp_path):
    """A folder, and the model and the adapter that it was written from."""
    cfg = CASES["Llama"]
    params = float32(adapted(cfg))
    adapters.write(tmp_path, params, cfg, "out/demo/base")
    return tmp_path, params, cfg


def change(path, **values):
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, **values}), encoding="utf-8")


@pytest.mark.parametrize("only", [None, ("attn.q", "attn.v", "attn.c_attn"), ("mlp.c_proj", "up")])
@pytest.mark.parametrize("cfg", CASES.values(), ids=CASES)
def test_what_is_written_is_read_again(tmp_path, cfg, only):
    params = float32(adapted(cfg, only=only))
    adapters.write(tmp_path, params, cfg, "base")
    read = adapters.read(tmp_path, lora.without(params), cfg)
    assert read.keys() == lora.of_params(params).keys()
    for name, array in read.items():
        np.testing.assert_array_equal(array, params[name])
        assert array.dtype == np.float32 and (array.ndim == 0 or array.flags.c_contiguous)
    tokens, targets, _ = batch(cfg)
    whole = {**lora.without(params), **read}
    np.testing.assert_array_equal(
        fast.token_losses(whole, cfg, tokens, targets),
        fast.token_losses(params, cfg, tokens, targets))


def test_the_form_is_pefts(saved):
    folder, params, cfg = saved
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["r"] == 2 and config["lora_alpha"] == 3.0 and not config["fan_in_fan_out"]
    assert config["target_modules"] == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert config["base_model_name_or_path"] == "out/demo/base"
    tensors, _ = checkpoint.load_safetensors(folder / "adapter_model.safetensors")
    assert len(tensors) == 2 * 7 * cfg.n_layer
    a = tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"]
    b = tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"]
    np.testing.assert_array_equal(a, params["h.1.attn.q.lora_A"].T)         # (r,in)
    np.testing.assert_array_equal(b, params["h.1.attn.q.lora_B"].T)         # (out,r)


def test_the_form_for_a_gpt2(tmp_path):
    cfg = CASES["GPT-2"]
    adapters.write(tmp_path, float32(adapted(cfg)), cfg, "base")
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["fan_in_fan_out"] and config["target_modules"] == ["c_attn", "c_fc", "c_proj"]
    tensors, _ = checkpoint.load_safetensors(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight" in tensors


def test_one_of_two_layers_of_a_kind_has_its_whole_name(tmp_path):
    cfg = CASES["GPT-2"]
    adapters.write(tmp_path, float32(adapted(cfg, only="mlp.c_proj")), cfg, "base")
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_modules"] == ["transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"]


@pytest.mark.parametrize(
    "values, said",
    [({"peft_type": "LOHA"}, "peft_type is 'LOHA', which is not computed here; expected 'LORA'"),
     ({"use_dora": True}, "use_dora is True"), ({"use_rslora": True}, "use_rslora is True"),
     ({"bias": "all"}, "bias is 'all'"), ({"rank_pattern": {"q_proj": 4}}, "rank_pattern is"),
     ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
     ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
     ({"r": 0}, "r is 0 and lora_alpha 3.0, expected numbers"), ({"r": "2"}, "r is '2'"),
     ({"lora_alpha": None}, "lora_alpha None"), ({"lora_alpha": float("nan")}, "lora.scale is nan"),
     ({"r": 3}, r"lora_A.weight has shape \(2, 8\), the model and r = 3 ask for \(3, 8\)")],
)
def test_a_config_that_is_not_computed_here(saved, values, said):
    folder, params, cfg = saved
    change(folder / "adapter_config.json", **values)
    with pytest.raises(ValueError, match=said):
        adapters.read(folder, lora.without(params), cfg)


def test_tensors_that_do_not_fit(saved):
    folder, params, cfg = saved
    path, base = folder / "adapter_model.safetensors", lora.without(params)
    tensors = {name: np.array(p) for name, p in checkpoint.load_safetensors(path)[0].items()}
    a = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    for changed, said in (
        ({**tensors, "base_model.model.lm_head.lora_A.weight": tensors[a]},
         "has a tensor base_model.model.lm_head.lora_A.weight, which is of no linear layer"),
        ({**tensors, a: np.full_like(tensors[a], np.inf)}, "lora_A.weight holds numbers that are"),
        ({k: p for k, p in tensors.items() if k != a}, r"A and B of h.0.attn.q have shapes None"),
        ({}, "lora.scale without any matrix"),
    ):
        checkpoint.save_safetensors(path, changed)
        with pytest.raises(ValueError, match=said):
            adapters.read(folder, base, cfg)
    with pytest.raises(ValueError, match="which is of no linear layer|is it an adapter of another"):
        checkpoint.save_safetensors(path, tensors)
        adapters.read(folder, adapted(CASES["GPT-2"]), CASES["GPT-2"])
    path.unlink()
    with pytest.raises(FileNotFoundError, match="adapter_model.safetensors: no such file; an adap"):
        adapters.read(folder, base, cfg)


def test_numbers_that_are_not_finite_are_not_saved(saved):
    folder, params, cfg = saved
    params["h.1.mlp.up.lora_B"][0, 0] = np.nan
    with pytest.raises(ValueError, match="not saved, h.1.mlp.up.lora_B holds numbers"):
        adapters.write(folder, params, cfg, "base")
