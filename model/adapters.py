"""adapters.py: low-rank adapters in the form of PEFT, Hugging Face's library: written and read.

An adapter (model/lora.py) is small, and many of them may belong to one model. Its folder holds

    adapter_config.json         rank, alpha, the kinds of layers, and where the model is
    adapter_model.safetensors   of each layer A as (r,in) and B as (out,r): ours transposed

What an adapter_config.json says that is not computed here is refused by name.

Source: huggingface/peft, tuners/lora/config.py and utils/save_and_load.py.
"""

import json
from pathlib import Path

import numpy as np

import gpt
from model import checkpoint, families, lora
from run import disk

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
FOLDER = "adapter"          # in the folder of the model that it is merged into
FILES = f"{FOLDER}/{CONFIG}", f"{FOLDER}/{TENSORS}"
# What a config may say that changes the arithmetic, and the values that are computed here.
SETTINGS = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_rslora": (False,),
    "use_dora": (False,),
    "lora_bias": (False,),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None,),
    "layer_replication": (None,),
    "init_lora_weights": (True, False, "gaussian"),     # others begin with another model
}
LLAMA = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def module_name(cfg, layer):
    """transformers' name of a layer: "h.3.attn.q" -> "model.layers.3.self_attn.q_proj" """
    if families.of(cfg) is gpt:
        return f"transformer.{layer}"
    _, i, part = layer.split(".", 2)
    return f"model.layers.{i}.{LLAMA[part]}"


def tensor_name(module, letter):
    """PEFT's name of a layer's A or B."""
    return f"base_model.model.{module}.lora_{letter}.weight"


def write(folder, params, cfg, base):
    """Write the adapter beside a model's params. base: the folder of the model itself."""
    tensors, modules = {}, []
    for layer in lora.layers(cfg):
        if f"{layer}.lora_A" not in params:
            continue
        module = module_name(cfg, layer)
        modules.append(module)
        for letter in "AB":
            array = params[f"{layer}.lora_{letter}"]
            if not np.isfinite(array).all():
                raise ValueError(f"{folder}: not saved, {layer}.lora_{letter} holds numbers "
                                 "that are not finite; train with a lower --lr")
            tensors[tensor_name(module, letter)] = np.ascontiguousarray(array.T)
    rank = len(array)                                   # the last one is a B, (r,out)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": params[lora.SCALE].item() * rank,
        "lora_dropout": 0.0,
        "target_modules": targets(cfg, modules),
        "fan_in_fan_out": families.of(cfg) is gpt,      # GPT-2's matrices lie there as (in,out)
        "bias": "none",
        "inference_mode": True,
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    disk.write_text(Path(folder) / CONFIG, json.dumps(config, indent=2) + "\n")
    checkpoint.save_safetensors(Path(folder) / TENSORS, tensors, {"format": "pt"})


def targets(cfg, modules):
    """The kinds of layers with an adapter, as q_proj; all names where some of a kind have none.

    PEFT takes the end of a name for all layers that end so.
    """
    kinds = {module.rpartition(".")[2] for module in modules}
    of_kinds = []
    for layer in lora.layers(cfg):
        module = module_name(cfg, layer)
        if module.rpartition(".")[2] in kinds:
            of_kinds.append(module)
    return sorted(kinds) if of_kinds == modules else modules


def read(folder, params, cfg):
    """The adapter {name: array} of a folder, for the params of the model that it belongs to."""
    path, tensors_path = Path(folder) / CONFIG, Path(folder) / TENSORS
    for each in (path, tensors_path):
        if not each.is_file():
            raise FileNotFoundError(f"{each}: no such file; an adapter's folder holds {CONFIG} and "
                                    f"{TENSORS}, as python align.py sft --lora-rank 8 writes them")
    config = disk.read_json(path)
    for key, ours in SETTINGS.items():
        if config.get(key, ours[0]) not in ours:
            raise ValueError(f"{path}: {key} is {repr(config[key])[:60]}, which is not computed "
                             f"here; expected {ours[0]!r}")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    is_number = type(rank) is int and type(alpha) in (int, float)
    if not is_number or rank < 1:
        raise ValueError(f"{path}: r is {rank!r} and lora_alpha {alpha!r}, expected numbers")
    tensors, _ = checkpoint.load_safetensors(tensors_path)
    dtype = params["wte.weight"].dtype
    adapter = {lora.SCALE: np.array(alpha / rank, dtype)}
    for layer, (n_in, n_out) in lora.layers(cfg).items():
        module = module_name(cfg, layer)
        for letter, shape in (("A", (rank, n_in)), ("B", (n_out, rank))):
            name = tensor_name(module, letter)
            if name not in tensors:
                continue
            array = np.asarray(tensors.pop(name))
            if array.shape != shape:
                raise ValueError(f"{tensors_path}: {name} has shape {array.shape}, the model and "
                                 f"r = {rank} ask for {shape}; is it an adapter of another model?")
            if not np.isfinite(array).all():
                raise ValueError(f"{tensors_path}: {name} holds numbers that are not finite")
            adapter[f"{layer}.lora_{letter}"] = np.array(array.T, dtype, order="C")
    if tensors:
        raise ValueError(f"{tensors_path}: has a tensor {min(tensors)}, which is of no linear "
                         "layer in the blocks of this model")
    try:
        lora.check({**params, **adapter}, cfg)
    except ValueError as error:
        raise ValueError(f"{tensors_path}: {error}") from None
    return adapter
