"""llama_folders.py: how Hugging Face describes a model of model/llama.py.

Its config.json has other words for the same sizes, its tensors have other names, and its matrices
are (out,in) where ours are (in,out). model/folders.py reads and writes the files.

    model_type   what it adds                                 in our Config
    llama        attention_bias: q, k, v and o have biases    qkv_bias, o_bias
    qwen2        q, k and v have biases                       qkv_bias
    qwen3        as llama; each head's q and k are normed     qk_norm
    mistral      attention may see a window only              refused where a text can be longer

Everything in a config.json that changes the arithmetic is computed, or refused by name.

Sources: transformers 5, configuration_{llama,mistral,qwen2,qwen3}.py, modeling_rope_utils.py.
"""

import dataclasses
import math

from model import bfloat16, llama

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# Sizes that every config.json has: their names in our Config, and there.
SIZES = {
    "vocab_size": "vocab_size",
    "n_positions": "max_position_embeddings",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_hidden": "intermediate_size",
}
# What else it may say, and the values under which the model is model/llama.py's.
SETTINGS = {
    "hidden_act": ("silu", "swish"),            # two names of one function
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1.0, None),
    "rope_interleaved": (False, None),          # SmolLM 2 says so; else neighbours would be turned
    "quantization_config": (None,),
}
FACTORS = ("factor", "low_freq_factor", "high_freq_factor")
BEFORE = "original_max_position_embeddings"
# Names of tensors: those outside of the blocks, then of the parts of a block.
OUTSIDE = {
    "wte.weight": "model.embed_tokens.weight",
    "ln_f.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
PARTS = {
    "ln_1": "input_layernorm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "ln_2": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def file_name(name):
    """Hugging Face's name: "h.3.ln_1.weight" -> "model.layers.3.input_layernorm.weight" """
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, i, rest = name.split(".", 2)
    part, kind = rest.rsplit(".", 1)
    return f"model.layers.{i}.{PARTS[part]}.{kind}"


def is_transposed(name):
    """Whether a file has the transpose of a parameter. That of a vector is the vector itself."""
    return name.startswith("h.")


# ----------------------------------------------------------------------------------------- reading


def config_of(config):
    """The llama.Config of what a config.json says; ValueError where it describes another model.

    tied is what tie_word_embeddings says, which need not be true of the file.
    """
    missing = [theirs for theirs in SIZES.values() if theirs not in config]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    for key in (*SIZES.values(), "num_key_value_heads", "head_dim", "sliding_window"):
        if config.get(key) is not None:
            check_number(key, config[key], (int,))
    eps = config.get("rms_norm_eps", 1e-6)
    check_number("rms_norm_eps", eps)
    for key, ours in SETTINGS.items():
        if config.get(key, ours[0]) not in ours:
            raise ValueError(f"{key} is {repr(config[key])[:60]}, which is not computed here; "
                             f"expected {ours[0]!r}")
    model_type = config["model_type"]
    has_biases = model_type in ("llama", "qwen3") and bool(config.get("attention_bias"))
    sizes = {ours: config[theirs] for ours, theirs in SIZES.items()}
    theta, scaling = rope_of(config)
    cfg = llama.Config(
        **sizes,
        n_kv_head=config.get("num_key_value_heads") or sizes["n_head"],
        head_size=config.get("head_dim") or default_head_size(config),
        norm_eps=eps,
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=has_biases or model_type == "qwen2",
        o_bias=has_biases,
        qk_norm=model_type == "qwen3",
        tied=bool(config.get("tie_word_embeddings")),
    )
    check_window(config, cfg)
    return cfg


def check_number(key, value, types=(int, float)):
    """ValueError unless a value is a finite number above 0 of one of the types."""
    if type(value) not in types or not 0 < value < math.inf:
        kind = "an integer" if types == (int,) else "a number"
        raise ValueError(f"{key} is {repr(value)[:60]}, expected {kind} above 0")


def default_head_size(config):
    """HS where config.json has no head_dim."""
    if config["model_type"] == "qwen3":
        return 128
    C, NH = config["hidden_size"], config["num_attention_heads"]
    if C % NH:
        raise ValueError(f"hidden_size {C} is no multiple of num_attention_heads {NH}, and there "
                         "is no head_dim")
    return C // NH


def rope_of(config):
    """(theta, RopeScaling or None) of the rotary positions.

    transformers 5 writes both into rope_parameters, and wrote rope_theta and rope_scaling before.
    """
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"rope_scaling is {rope!r}, expected an object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise ValueError(f"rope_type is {kind!r}, which is not computed here; "
                         "expected 'default' or 'llama3'")
    known = {"rope_theta", "rope_type", "type", "partial_rotary_factor", BEFORE, *FACTORS}
    unknown = sorted(rope.keys() - known)
    if unknown:
        raise ValueError(f"rope_parameters has {unknown[0]}, which is not computed here")
    if rope.get("partial_rotary_factor") not in (1.0, None):
        raise ValueError(f"partial_rotary_factor is {rope['partial_rotary_factor']!r}, which is "
                         "not computed here; expected 1.0")
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
    check_number("rope_theta", theta)
    if kind == "default":
        return theta, None
    missing = [key for key in FACTORS if key not in rope]
    if missing:
        raise ValueError(f"rope_type 'llama3' lacks {', '.join(missing)}")
    before = config.get(BEFORE) or rope.get(BEFORE) or config["max_position_embeddings"]
    check_number(BEFORE, before, (int,))
    for key in FACTORS:
        check_number(key, rope[key])
    scaling = llama.RopeScaling(*(rope[key] for key in FACTORS), before)
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        raise ValueError(f"low_freq_factor {scaling.low_freq_factor} is not below "
                         f"high_freq_factor {scaling.high_freq_factor}")
    return theta, scaling


def check_window(config, cfg):
    """ValueError if some query cannot see all keys before it."""
    layer_types = config.get("layer_types") or []
    for layer_type in layer_types:
        if layer_type != "full_attention":
            raise ValueError(f"layer_types has {layer_type!r}, which is not computed here; "
                             "expected 'full_attention'")
    window = config.get("sliding_window", 4096 if config["model_type"] == "mistral" else None)
    if config["model_type"] in ("qwen2", "qwen3"):
        of_full_attention = config.get("max_window_layers", 28)         # the first blocks
        if not config.get("use_sliding_window") or layer_types or of_full_attention >= cfg.n_layer:
            window = None
    if window is not None and window < cfg.n_positions:
        raise ValueError(
            f"sliding_window is {window}, below max_position_embeddings {cfg.n_positions}; "
            "attention in a window is not computed here. The window makes no difference to texts "
            f"that fit it: for these write \"max_position_embeddings\": {window}")


def with_head(path, tensors, cfg):
    """(cfg, tensors) of a file, with cfg.tied as the file has it: configs were wrong both ways.

    A head beside the embedding is one of its own, unless it is meant to be the embedding and equals
    it. A file may also have one of the two, under either name, or the trunk without "model.".
    """
    if "embed_tokens.weight" in tensors:
        if not cfg.tied:
            raise ValueError(f"{path}: has no tensor lm_head.weight, although tie_word_embeddings "
                             "is false in config.json: it is a model without its head")
        tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    embedding, head = tensors.get(OUTSIDE["wte.weight"]), tensors.get("lm_head.weight")
    if embedding is None and cfg.tied:
        tensors = {OUTSIDE["wte.weight"]: head, **tensors} if head is not None else tensors
    elif head is None:
        cfg = dataclasses.replace(cfg, tied=True)
    elif cfg.tied:
        cfg = dataclasses.replace(cfg, tied=bfloat16.are_equal(embedding, head))
    return cfg, tensors


# ----------------------------------------------------------------------------------------- writing


def config_for(cfg):
    """What config.json says of a llama.Config, in the words that old and new readers know."""
    model_type = model_type_of(cfg)
    rope_scaling = None
    if cfg.rope_scaling:
        s = cfg.rope_scaling
        factors = s.factor, s.low_freq_factor, s.high_freq_factor
        rope_scaling = {"rope_type": "llama3", **dict(zip(FACTORS, factors)),
                        BEFORE: s.original_n_positions}
    return {
        "architectures": [ARCHITECTURES[model_type]],
        "model_type": model_type,
        **{theirs: getattr(cfg, ours) for ours, theirs in SIZES.items()},
        "num_key_value_heads": cfg.n_kv_head,
        "head_dim": cfg.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": cfg.norm_eps,
        "rope_theta": cfg.rope_theta,
        "rope_scaling": rope_scaling,
        "attention_bias": cfg.o_bias,
        "mlp_bias": False,
        "use_sliding_window": False,
        "tie_word_embeddings": cfg.tied,
        "torch_dtype": "float32",
    }


def model_type_of(cfg):
    """Which of Hugging Face's models has the options of a llama.Config; ValueError if none has."""
    if cfg.qkv_bias == cfg.o_bias:
        return "qwen3" if cfg.qk_norm else "llama"
    if cfg.qkv_bias and not cfg.qk_norm:
        return "qwen2"
    raise ValueError(f"qkv_bias {cfg.qkv_bias}, o_bias {cfg.o_bias} and qk_norm {cfg.qk_norm}: "
                     "no model of transformers has these together")
