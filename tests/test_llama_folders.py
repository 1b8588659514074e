"""model/llama_folders.py: models of the Llama family in Hugging Face folders."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import gpt
from model import bfloat16, checkpoint, folders, llama, llama_folders

SCALING = llama.RopeScaling(8.0, 1.0, 4.0, 32)
PLAIN = llama.Config(19, 64, 12, 2, 4, 2, 6, 20, rope_theta=5e5, rope_scaling=SCALING)
CONFIGS = {
    "llama": PLAIN,
    "llama untied": replace(PLAIN, tied=False, n_kv_head=1, norm_eps=1e-6),
    "llama with biases": replace(PLAIN, qkv_bias=True, o_bias=True, rope_scaling=None),
    "qwen2": replace(PLAIN, qkv_bias=True, n_kv_head=4),
    "qwen3": replace(PLAIN, qk_norm=True),
    "qwen3 with biases": replace(PLAIN, qk_norm=True, qkv_bias=True, o_bias=True, tied=False),
}
ids = pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)


def random_params(cfg, seed=0):
    rng = np.random.default_rng(seed)
    params = llama.init(cfg, seed)
    for p in params.values():
        p += 0.1 * rng.standard_normal(p.shape, np.float32)
    return params


def rewrite(folder, remove=(), **changes):
    """Change some entries of a config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key in remove:
        del config[key]
    path.write_text(json.dumps(config | changes))


def tensors_in(folder):
    return checkpoint.load_safetensors(folder / "model.safetensors")[0]


def assert_same(params, others):
    assert list(params) == list(others)
    for name, p in params.items():
        np.testing.assert_array_equal(np.asarray(p), others[name], err_msg=name)


@ids
def test_save_then_load(tmp_path, cfg):
    params = random_params(cfg)
    gpt.save(tmp_path, params, cfg)
    for writable in (True, False):
        again, same = gpt.load(tmp_path, writable)
        assert same == cfg and same.rope_scaling == cfg.rope_scaling
        assert_same(again, params)
        for p in again.values():
            assert p.dtype == np.float32 and p.flags.writeable == writable
            assert p.flags.c_contiguous or not writable


@ids
def test_a_config_that_was_written_is_read(tmp_path, cfg):
    cfg = replace(cfg, n_embd=16)                       # heads could have 4 channels, and have 6
    folders.save_config(tmp_path, cfg)
    assert folders.load_config(tmp_path) == cfg


def test_configs_of_public_models():
    """As the models on the hub have them: old ones, with rope_theta and rope_scaling apart."""
    smollm2 = {
        "model_type": "llama", "attention_bias": False, "eos_token_id": 0, "hidden_act": "silu",
        "hidden_size": 576, "intermediate_size": 1536, "max_position_embeddings": 8192,
        "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None,
        "rope_theta": 100000, "tie_word_embeddings": True, "vocab_size": 49152}
    assert llama_folders.config_of(smollm2) == llama.PRESETS["smollm2-135m"]
    llama_3_2 = {
        "model_type": "llama", "attention_bias": False, "eos_token_id": [128001, 128008, 128009],
        "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "mlp_bias": False, "num_attention_heads": 32,
        "num_hidden_layers": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256}
    assert llama_folders.config_of(llama_3_2) == llama.PRESETS["llama-3.2-1b"]
    qwen3 = {
        "model_type": "qwen3", "attention_bias": False, "eos_token_id": 151645, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072,
        "max_position_embeddings": 40960, "max_window_layers": 28, "num_attention_heads": 16,
        "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
        "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936}
    assert llama_folders.config_of(qwen3) == llama.PRESETS["qwen3-0.6b"]
    for cfg in llama.PRESETS.values():
        assert llama_folders.config_of(llama_folders.config_for(cfg)) == cfg


def test_the_words_of_hugging_face(tmp_path):
    """Names and shapes as transformers has them; the tokens that begin and end a text are kept."""
    cfg = CONFIGS["llama untied"]
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 1, "eos_token_id": [2, 7]}))
    gpt.save(tmp_path, random_params(cfg), cfg)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "llama" and config["architectures"] == ["LlamaForCausalLM"]
    assert config["eos_token_id"] == [2, 7] and config["bos_token_id"] == 1
    assert config["num_key_value_heads"] == 1 and config["head_dim"] == 6
    assert config["rope_scaling"] == {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}
    shapes = {name: p.shape for name, p in tensors_in(tmp_path).items()}
    of_block = {
        "input_layernorm.weight": (12,),
        "self_attn.q_proj.weight": (24, 12),
        "self_attn.k_proj.weight": (6, 12),
        "self_attn.v_proj.weight": (6, 12),
        "self_attn.o_proj.weight": (12, 24),
        "post_attention_layernorm.weight": (12,),
        "mlp.gate_proj.weight": (20, 12),
        "mlp.up_proj.weight": (20, 12),
        "mlp.down_proj.weight": (12, 20),
    }
    expected = {f"model.layers.{i}.{name}": shape
                for i in range(2) for name, shape in of_block.items()}
    assert shapes == {"model.embed_tokens.weight": (19, 12), **expected,
                      "model.norm.weight": (12,), "lm_head.weight": (19, 12)}


def test_arrays_are_the_mapped_file(tmp_path):
    gpt.save(tmp_path, random_params(PLAIN), PLAIN)
    params, _ = gpt.load(tmp_path, writable=False)
    for p in params.values():
        owner = p
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        assert isinstance(owner, np.memmap)


@pytest.mark.parametrize("narrow, lines", [
    (bfloat16.narrow, 16), (bfloat16.narrow, 1), (np.float16, 16), (np.float16, 7)])
@ids
def test_halves_are_widened(tmp_path, monkeypatch, cfg, narrow, lines):
    monkeypatch.setattr(checkpoint, "LINES", lines)
    params = {name: np.asarray(narrow(p), np.float32) for name, p in random_params(cfg).items()}
    gpt.save(tmp_path, {name: narrow(p) for name, p in params.items()}, cfg)
    for writable in (True, False):
        again, same = gpt.load(tmp_path, writable)
        assert same == cfg and all(p.flags.c_contiguous for p in again.values())
        assert_same(again, params)


def test_matrices_stay_in_bfloat16(tmp_path):
    """They give the same logits, are saved as they were, and take no memory."""
    params = {name: bfloat16.narrow(p) for name, p in random_params(PLAIN).items()}
    gpt.save(tmp_path / "m", params, PLAIN)
    kept, cfg = folders.load(tmp_path / "m", writable=False, dtype="bfloat16")
    for p in kept.values():
        assert isinstance(p, bfloat16.Array) == (p.ndim == 2)
    tokens = np.array([[3, 1, 4, 1, 5]])
    logits, _ = llama.forward(kept, cfg, tokens)
    widened, _ = gpt.load(tmp_path / "m")
    np.testing.assert_allclose(logits, llama.forward(widened, cfg, tokens)[0], atol=1e-5)
    folders.save(tmp_path / "again", kept, cfg)
    assert_same(gpt.load(tmp_path / "again")[0], widened)
    assert isinstance(tensors_in(tmp_path / "again")["model.embed_tokens.weight"], bfloat16.Array)
    with pytest.raises(ValueError, match="dtype 'int8': expected float32 or bfloat16"):
        folders.load(tmp_path / "m", dtype="int8")


def peak_of(function):
    """(most bytes allocated at a time while a function runs, what it gives)"""
    tracemalloc.start()
    try:
        result = function()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("narrow", [np.float32, np.float16, bfloat16.narrow])
def test_memory_is_the_model_and_one_tensor(tmp_path, narrow):
    cfg = llama.Config(500, 64, 128, 4, 4, 2, 32, 256)
    params = {name: narrow(p) for name, p in random_params(cfg).items()}
    small = 100_000                                     # names, shapes, a config
    saving, _ = peak_of(lambda: gpt.save(tmp_path, params, cfg))
    largest = max(4 * p.size for p in params.values())
    assert saving < largest + small
    model = sum(4 * p.size for p in params.values())
    assert model > 4 * (largest + small)
    loading, _ = peak_of(lambda: gpt.load(tmp_path))
    assert model <= loading < model + largest + small
    mapped, _ = peak_of(lambda: gpt.load(tmp_path, writable=False))
    assert mapped < (0 if narrow is np.float32 else model + largest) + small
    if narrow is bfloat16.narrow:
        kept, _ = peak_of(lambda: folders.load(tmp_path, writable=False, dtype="bfloat16"))
        assert kept < largest + small                   # a block, to see that all is finite


def test_weights_in_several_files(tmp_path):
    cfg = CONFIGS["llama untied"]
    params = random_params(cfg)
    gpt.save(tmp_path, params, cfg)
    tensors, where = tensors_in(tmp_path), {}
    for i in range(3):
        file, part = f"model-0000{i + 1}-of-00003.safetensors", list(tensors)[i::3]
        checkpoint.save_safetensors(tmp_path / file, {name: tensors[name] for name in part})
        where.update(dict.fromkeys(part, file))
    (tmp_path / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for writable in (True, False):
        again, same = gpt.load(tmp_path, writable)
        assert same == cfg
        assert_same(again, params)


def test_a_training_that_is_not_finished(tmp_path):
    """Its checkpoint has our own names and shapes."""
    params = random_params(PLAIN)
    folders.save_config(tmp_path, PLAIN)
    optimizer = {f"adamw.m.{name}": p for name, p in params.items()}
    checkpoint.save_safetensors(tmp_path / "trainer.safetensors", params | optimizer)
    again, same = gpt.load(tmp_path)
    assert same == PLAIN
    assert_same(again, params)


def test_the_file_says_whether_the_head_is_tied(tmp_path):
    """tie_word_embeddings has been wrong both ways."""
    untied = replace(PLAIN, tied=False)
    params = random_params(untied)
    gpt.save(tmp_path, params, untied)
    rewrite(tmp_path, tie_word_embeddings=True)
    again, cfg = gpt.load(tmp_path)
    assert cfg == untied
    assert_same(again, params)
    for names in (["model.embed_tokens.weight"], ["lm_head.weight"],
                  ["lm_head.weight", "model.embed_tokens.weight"]):
        params = random_params(PLAIN)
        gpt.save(tmp_path, params, PLAIN)
        tensors = tensors_in(tmp_path)
        matrix = tensors.pop("model.embed_tokens.weight")
        tensors |= dict.fromkeys(names, matrix)
        checkpoint.save_safetensors(tmp_path / "model.safetensors", tensors)
        again, cfg = gpt.load(tmp_path)
        assert cfg == PLAIN
        assert_same(again, params)
    checkpoint.save_safetensors(tmp_path / "model.safetensors", {
        name: p for name, p in tensors.items() if name != "lm_head.weight"})
    rewrite(tmp_path, tie_word_embeddings=False)
    assert gpt.load(tmp_path)[1] == PLAIN


def test_a_trunk_alone_and_buffers(tmp_path):
    """transformers' LlamaModel, which has no head, writes names without a prefix."""
    params = random_params(PLAIN)
    gpt.save(tmp_path, params, PLAIN)
    tensors = {name.removeprefix("model."): p for name, p in tensors_in(tmp_path).items()}
    tensors["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)
    checkpoint.save_safetensors(tmp_path / "model.safetensors", tensors)
    assert_same(gpt.load(tmp_path)[0], params)
    rewrite(tmp_path, tie_word_embeddings=False)
    with pytest.raises(ValueError, match="no tensor lm_head.weight, .* model without its head"):
        gpt.load(tmp_path)


ROPE = {"rope_theta": 7e4, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize("written, theta, scaling", [
    ({"rope_theta": 7e4}, 7e4, None),
    ({"rope_theta": 70000, "rope_scaling": None}, 7e4, None),
    ({}, 1e4, None),
    ({"rope_parameters": {"rope_theta": 7e4, "rope_type": "default"}}, 7e4, None),
    ({"rope_parameters": ROPE}, 7e4, SCALING),
    ({"rope_theta": 5.0, "rope_parameters": ROPE}, 7e4, SCALING),
    ({"rope_theta": 7e4, "rope_scaling": {**ROPE, "type": "llama3"}}, 7e4, SCALING),
    ({"rope_theta": 7e4, "rope_scaling": {k: v for k, v in ROPE.items() if k[:5] != "rope_"}
      | {"type": "llama3"}}, 7e4, SCALING),
    ({"original_max_position_embeddings": 32, "rope_parameters": {
        k: v for k, v in ROPE.items() if k[:8] != "original"}}, 7e4, SCALING),
    ({"max_position_embeddings": 32, "rope_parameters": {
        k: v for k, v in ROPE.items() if k[:8] != "original"}}, 7e4, SCALING),
])
def test_rotary_positions_in_old_and_new_configs(tmp_path, written, theta, scaling):
    folders.save_config(tmp_path, PLAIN)
    rewrite(tmp_path, ("rope_theta", "rope_scaling"), **written)
    cfg = folders.load_config(tmp_path)
    assert cfg.rope_theta == theta and cfg.rope_scaling == scaling


def test_defaults_of_a_config(tmp_path):
    folders.save_config(tmp_path, replace(PLAIN, n_embd=24, n_kv_head=4))
    rewrite(tmp_path, ("head_dim", "num_key_value_heads", "rms_norm_eps"))
    assert folders.load_config(tmp_path) == replace(PLAIN, n_embd=24, n_kv_head=4, norm_eps=1e-6)
    rewrite(tmp_path, model_type="qwen3")
    assert folders.load_config(tmp_path).head_size == 128


@pytest.mark.parametrize("changes, message", [
    ({"model_type": "gemma2"}, "model_type is 'gemma2'; the models that are read here are gpt2"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu', which is not computed here; expected 'silu'"),
    ({"mlp_bias": True}, "mlp_bias is True, which is not computed here; expected False"),
    ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}, which is not"),
    ({"rope_interleaved": True}, "rope_interleaved is True, which is not computed here"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, which is not computed"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear', which is"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type is 'yarn', which is not"),
    ({"rope_scaling": {"rope_type": "dynamic"}}, "rope_type is 'dynamic', which is not"),
    ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type is 'longrope', which is not"),
    ({"rope_scaling": None, "rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
     "rope_parameters has full_attention, which is not computed here"),
    ({"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}},
     "partial_rotary_factor is 0.5, which is not computed here"),
    ({"rope_scaling": "linear"}, "rope_scaling is 'linear', expected an object"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
     "rope_type 'llama3' lacks low_freq_factor, high_freq_factor"),
    ({"rope_scaling": {**ROPE, "factor": 0}}, "factor is 0, expected a number above 0"),
    ({"rope_scaling": {**ROPE, "low_freq_factor": 4.0}}, "low_freq_factor 4.0 is not below high"),
    ({"rope_scaling": {**ROPE, "original_max_position_embeddings": 8.5}},
     "original_max_position_embeddings is 8.5, expected an integer above 0"),
    ({"rope_theta": "big"}, "rope_theta is 'big', expected a number above 0"),
    ({"rms_norm_eps": -1}, "rms_norm_eps is -1, expected a number above 0"),
    ({"hidden_size": "12"}, "hidden_size is '12', expected an integer above 0"),
    ({"num_hidden_layers": None}, "config: n_layer = None"),
    ({"num_key_value_heads": 3}, "n_head 4 is no multiple of n_kv_head 3"),
    ({"head_dim": 5}, "head_size 5 is odd"),
    ({"head_dim": None, "hidden_size": 14}, "hidden_size 14 is no multiple of num_attention_heads"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "has 'sliding_attention'"),
    ({"model_type": "mistral", "sliding_window": 63}, "sliding_window is 63, below"),
    ({"model_type": "mistral", "max_position_embeddings": 4097}, "sliding_window is 4096, below"),
    ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8,
      "max_window_layers": 1}, "sliding_window is 8, below max_position_embeddings 64"),
])
def test_a_config_that_is_not_computed_is_refused(tmp_path, changes, message):
    folders.save_config(tmp_path, PLAIN)
    rewrite(tmp_path, **changes)
    with pytest.raises(ValueError) as error:
        folders.load_config(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'config.json'}: ")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [
    {"model_type": "mistral", "sliding_window": None, "max_position_embeddings": 9999},
    {"model_type": "mistral", "sliding_window": 64},
    {"model_type": "mistral"},
    {"model_type": "qwen2", "sliding_window": 8},
    {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8,
     "max_window_layers": 2},
    {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 8,
     "layer_types": ["full_attention"] * 2},
    {"hidden_act": "swish"},
])
def test_a_window_that_is_not_in_use(tmp_path, changes):
    folders.save_config(tmp_path, PLAIN)
    rewrite(tmp_path, **changes)
    assert folders.load_config(tmp_path).n_layer == 2


def test_a_file_that_does_not_fit_its_config(tmp_path):
    gpt.save(tmp_path, random_params(PLAIN), PLAIN)
    tensors, path = dict(tensors_in(tmp_path)), tmp_path / "model.safetensors"
    for changes, message in (
        ({"num_attention_heads": 8},
         r"layers.0.self_attn.q_proj.weight has shape \(24, 12\), config.json says \(48, 12\)"),
        ({"num_key_value_heads": 4},
         r"self_attn.k_proj.weight has shape \(12, 12\), config.json says \(24, 12\)"),
        ({"intermediate_size": 21}, r"mlp.gate_proj.weight has shape \(20, 12\), config.json says"),
        ({"num_hidden_layers": 3}, "no tensor model.layers.2.input_layernorm.weight, which config"),
        ({"num_hidden_layers": 1}, "has a tensor model.layers.1.input_layernorm.weight"),
        ({"num_hidden_layers": 10**9}, "20 tensors are too few for config.json's 10"),
        ({"model_type": "qwen2"}, "no tensor model.layers.0.self_attn.q_proj.bias"),
        ({"model_type": "qwen3"}, "no tensor model.layers.0.self_attn.q_norm.weight"),
        ({"attention_bias": True}, "no tensor model.layers.0.self_attn.q_proj.bias"),
    ):
        folders.save_config(tmp_path, PLAIN)
        rewrite(tmp_path, **changes)
        with pytest.raises(ValueError, match=message):
            gpt.load(tmp_path)
    folders.save_config(tmp_path, PLAIN)
    norm = np.ones(12, np.float32)
    for more, message in (
        ({"model.norm.bias": norm}, "has a tensor model.norm.bias, which is in none"),
        ({"model.layers.0.self_attn.o_proj.bias": norm}, "o_proj.bias, which is in none of config"),
        ({"model.norm.weight": norm * np.nan}, "model.norm.weight holds numbers that"),
    ):
        checkpoint.save_safetensors(path, tensors | more)
        with pytest.raises(ValueError, match=message):
            gpt.load(tmp_path)
    checkpoint.save_safetensors(path, tensors | {"score.weight": norm})     # a reward model's
    gpt.load(tmp_path)
    wrong = np.ones((20, 12), np.float32)
    wrong[19, 11] = np.inf
    name = "model.layers.1.mlp.up_proj.weight"
    checkpoint.save_safetensors(path, tensors | {name: bfloat16.narrow(wrong)})
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(ValueError, match=f"{name} holds numbers that are not finite"):
            folders.load(tmp_path, writable=False, dtype=dtype)


def test_the_makers_own_files_are_refused(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="params.json is of the form .* fetch the model in"):
        gpt.load(tmp_path)


def test_a_model_that_transformers_has_not(tmp_path):
    cfg = replace(PLAIN, o_bias=True)
    with pytest.raises(ValueError, match="qkv_bias False, o_bias True and qk_norm False: no model"):
        gpt.save(tmp_path, llama.init(cfg, 0), cfg)
    for name, cfg in CONFIGS.items():
        assert llama_folders.model_type_of(cfg) == name.split()[0]
