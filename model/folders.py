"""folders.py: models in Hugging Face folders, written and read; a model file of llm.c, read.

A folder holds config.json and model.safetensors, or several files in place of that one. gpt.load
and gpt.save come here. What Hugging Face calls the parts of a Llama says model/llama_folders.py.

    python -m model.folders out/demo/base       the sizes of a model and statistics of its tensors
"""

import argparse
import json
from pathlib import Path

import numpy as np

import gpt
from model import bfloat16, checkpoint, families, llama_folders
from model.llama import Config as LlamaConfig
from run import command, disk

DTYPES = ("float32", "bfloat16")        # of the matrices that load() gives


def layout(cfg):
    """{name of a parameter: (its name in a file, whether the file has its transpose)}"""
    names = families.of(cfg).param_shapes(cfg)
    if not isinstance(cfg, LlamaConfig):
        return {name: (name, False) for name in names}
    return {
        name: (llama_folders.file_name(name), llama_folders.is_transposed(name)) for name in names
    }


def save_config(folder, cfg):
    """Write config.json as Hugging Face transformers reads it.

    Its classifiers look here, and not into generation_config.json, which train.py writes, for the
    tokens that begin, end and pad a text. Without any they would take those of a model they know.
    Several tokens that end a text stay a list.
    """
    written = Path(folder) / "generation_config.json"
    tokens = disk.read_json(written) if written.exists() else {}
    of_family = llama_folders.config_for if isinstance(cfg, LlamaConfig) else gpt2_config
    config = {
        **of_family(cfg),
        "bos_token_id": tokens.get("bos_token_id"),
        "eos_token_id": tokens.get("eos_token_id"),
        "pad_token_id": tokens.get("pad_token_id"),
    }
    disk.write_text(Path(folder) / "config.json", json.dumps(config, indent=2) + "\n")


def gpt2_config(cfg):
    """What config.json says of a gpt.Config."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "n_ctx": cfg.n_positions,
        **vars(cfg),
    }


def save(folder, params, cfg):
    """Write a Hugging Face folder. Matrices in bfloat16 stay so.

    model.safetensors comes last: where it is, the folder is whole.
    """
    bad = [name for name, p in params.items() if not is_finite(p)]
    if bad:
        raise ValueError(f"{folder}: not saved, {bad[0]} and {len(bad) - 1} other tensors hold "
                         "numbers that are not finite; train with a lower --lr")
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_config(folder, cfg)
    tensors = in_files(params, cfg)
    checkpoint.save_safetensors(Path(folder) / "model.safetensors", tensors, {"format": "pt"})


def in_files(params, cfg):
    """{name in a file: tensor as it is there} of parameters, and of what lies beside them."""
    tensors, names = {}, layout(cfg)
    for name, p in params.items():
        in_file, transposed = names.get(name, (name, False))
        if name in ("wte.weight", "lm_head.weight"):
            p = p[: cfg.vocab_size]
        tensors[in_file] = p.T if transposed else p
    return tensors


# What else a config.json may say that changes the arithmetic, and the values under which the model
# is gpt.py's.
GPT2_SETTINGS = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "tie_word_embeddings": (True, False),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}


def load_config(folder):
    """The Config of a Hugging Face folder; ValueError where it describes another model."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; {advice_without_config(Path(folder))}")
    config = disk.read_json(path)
    model_type = config.get("model_type", "gpt2")
    try:
        if model_type == "gpt2":
            return gpt2_config_of(config)
        if model_type in llama_folders.ARCHITECTURES:
            return llama_folders.config_of(config)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from None
    raise ValueError(f"{path}: model_type is {model_type!r}; the models that are read here are "
                     f"gpt2, {', '.join(llama_folders.ARCHITECTURES)}")


def advice_without_config(folder):
    """What to do about a folder without config.json."""
    for name in ("params.json", "consolidated.00.pth", "consolidated.safetensors"):
        if (folder / name).exists():
            return (f"{name} is of the form that the model's makers use themselves, whose rotary "
                    "positions turn other pairs of channels; fetch the model in Hugging Face's "
                    "form: config.json and model*.safetensors")
    return ("a model folder holds config.json and model.safetensors. "
            "Make the demo's with: python train.py")


def gpt2_config_of(config):
    """The gpt.Config of what a config.json says; ValueError where it describes another model."""
    names = gpt.Config.__dataclass_fields__
    missing = [name for name in names if name not in config]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    cfg = gpt.Config(**{name: config[name] for name in names})
    settings = {**GPT2_SETTINGS, "n_inner": (None, 4 * cfg.n_embd)}
    for key, ours in settings.items():
        if config.get(key, ours[0]) not in ours:
            raise ValueError(f"{key} is {config[key]!r}; this model is GPT-2, with {ours[0]!r}")
    return cfg


def is_finite(p):
    """Whether all numbers of a tensor are."""
    if isinstance(p, bfloat16.Array):
        return all(is_finite(block) for _, block in p.blocks())
    with np.errstate(all="ignore"):
        # A sum takes no memory, and is not finite where one number is not. It may overflow.
        return bool(np.isfinite(p.sum()) or np.isfinite(p).all())


def gpt2_names(path, tensors, config):
    """Tensors under the names of gpt.py: without "transformer.", embedding and head as wte.weight.

    safetensors' save_model writes what is shared once, and may have chosen the name lm_head.weight.
    Other tools write it twice.
    """
    found = without_prefix(path, tensors, "transformer.")
    head = found.pop("lm_head.weight", None)
    if head is None:
        if config.get("tie_word_embeddings") is False:
            raise ValueError(f"{path}: has no tensor lm_head.weight, although tie_word_embeddings "
                             "is false in config.json")
    elif not bfloat16.are_equal(found.setdefault("wte.weight", head), head):
        raise ValueError(f"{path}: lm_head.weight is not wte.weight; "
                         "this model has one matrix for both (tie_word_embeddings)")
    return found


def without_prefix(path, tensors, prefix):
    """Tensors whose names lose a prefix; ValueError where that makes two of them one."""
    found = {name.removeprefix(prefix): array for name, array in tensors.items()}
    if len(found) < len(tensors):
        raise ValueError(f"{path}: has tensors with and without {prefix} before the same name; "
                         "only one of each could be meant")
    return found


WHOLE = "model.safetensors", "model.safetensors.index.json"     # one of them, where all is there


def is_finished(folder):
    """Whether a folder holds a whole model, in one file or in several."""
    return any((Path(folder) / name).exists() for name in WHOLE)


def open_tensors(folder):
    """(path, {name: array}) of the file that holds the tensors, or names the files that do.

    A folder whose training is still going on has no model.safetensors yet: then it is the last
    checkpoint.
    """
    for name in (*WHOLE, "trainer.safetensors"):
        path = folder / name
        if path.exists() and path.suffix == ".json":
            return path, checkpoint.load_index(path)
        if path.exists():
            tensors, _ = checkpoint.load_safetensors(path)
            if any(tensor.endswith(".lora_A") for tensor in tensors):
                raise ValueError(f"{path}: holds an adapter without its model; finish the training "
                                 f"that began {folder}, which merges the two")
            return path, tensors
    advice = f"finish the training that began {folder}"
    other = next(folder.glob("pytorch_model*.bin"), None)
    if other:
        advice = (f"{other.name} is PyTorch's own format: load the folder in transformers and save "
                  "it with save_pretrained()")
    raise FileNotFoundError(f"{folder / 'model.safetensors'}: no such file; {advice}")


def parameter(p, transposed, writable, dtype):
    """A tensor of a file, or its transpose, as load() gives it."""
    in_bfloat16 = isinstance(p, bfloat16.Array)
    p = p.T if transposed else p
    if in_bfloat16 and dtype == "bfloat16" and p.ndim == 2:
        return p
    if not (writable or in_bfloat16) and p.dtype == np.float32:
        return np.require(p, requirements=["A"])
    # A copy has its rows together: a product with one row then takes 5 % to 15 % less time.
    return np.require(checkpoint.in_order(p, np.float32), requirements=["A", "W"])


def load(folder, writable=True, dtype="float32"):
    """(params, cfg) of a Hugging Face folder or of a model file of llm.c.

    The arrays are float32 and may be written to. With writable=False they are the file itself where
    it holds float32, mapped, and read when they are needed; some are transposed views. One tensor
    is read after the other: what it takes besides the model is one tensor.

    dtype "bfloat16" leaves matrices that the file has in bfloat16 there: bfloat16.Arrays, mapped.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: expected {' or '.join(DTYPES)}")
    folder = Path(folder)
    if folder.is_file():
        tensors, sizes = checkpoint.load_llmc(folder)
        path, cfg = folder, gpt.Config(**sizes)
        names = layout(cfg)
    else:
        path, tensors, cfg, names = _open(folder)
    params = {}
    for name, shape in families.of(cfg).param_shapes(cfg).items():
        in_file, transposed = names[name]
        if in_file not in tensors:
            raise ValueError(f"{path}: has no tensor {in_file}, which config.json's {cfg.n_layer} "
                             "layers need")
        p = tensors[in_file]
        expected = shape[::-1] if transposed else shape
        if p.shape != expected:
            raise ValueError(f"{path}: {in_file} has shape {p.shape}, config.json says {expected}")
        params[name] = parameter(p, transposed, writable, dtype)
        if not is_finite(params[name]):
            raise ValueError(f"{path}: {in_file} holds numbers that are not finite; "
                             "save the model again from a checkpoint that is sound")
    return params, cfg


def _open(folder):
    """(path, {name: tensor}, Config, layout) of a Hugging Face folder, or of a training's.

    ValueError where the file has tensors that the model has not. The buffers of causal masks and of
    rotary positions that some exports hold are ignored.
    """
    cfg = load_config(folder)
    path, tensors = open_tensors(folder)
    if cfg.n_layer > len(tensors):      # otherwise it takes long to name what is missing
        raise ValueError(f"{path}: {len(tensors)} tensors are too few for config.json's "
                         f"{cfg.n_layer} layers")
    of_model = "h."                     # tensors with this prefix must be known
    if path.name == "trainer.safetensors":          # has our own names
        names = {name: (name, False) for name in layout(cfg)}
    elif isinstance(cfg, LlamaConfig):
        cfg, tensors = llama_folders.with_head(path, tensors, cfg)
        names, of_model = layout(cfg), "model."
    else:
        config = disk.read_json(folder / "config.json")
        names, tensors = layout(cfg), gpt2_names(path, tensors, config)
    known = {in_file for in_file, _ in names.values()}
    for name in tensors:
        is_buffer = name.endswith((".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"))
        if name.startswith(of_model) and name not in known and not is_buffer:
            raise ValueError(f"{path}: has a tensor {name}, which is in none of config.json's "
                             f"{cfg.n_layer} layers")
    return path, tensors, cfg, names


def parse_args(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m model.folders",
                                     description="Describe a model.")
    parser.add_argument("folder", help="a Hugging Face folder, or a model file of llm.c")
    return parser.parse_args(argv)


def main(argv=None):
    """Print the sizes of a model and statistics of its tensors."""
    args = parse_args(argv)
    params, cfg = load(args.folder)
    print(f"{args.folder}: {cfg}, {cfg.n_params:,} parameters")
    for name, p in params.items():
        print(f"  {name:26} {str(p.shape):14} mean {p.mean():+.4f}  std {p.std():.4f}")


if __name__ == "__main__":
    command.run(main)
