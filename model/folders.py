"""folders.py: a GPT-2 in a Hugging Face folder, written and read; a model file of llm.c, read.

A folder holds config.json and model.safetensors. gpt.load and gpt.save come here.

    python -m model.folders out/demo/base       the sizes of a model and statistics of its tensors
"""

import argparse
import json
from pathlib import Path

import numpy as np

from gpt import Config, param_shapes
from model import checkpoint
from run import command, disk


def save_config(folder, cfg):
    """Write config.json as Hugging Face transformers reads it.

    Its classifiers look here, and not into generation_config.json, which train.py writes, for the
    tokens that begin, end and pad a text. Without any they would take GPT-2's own.
    """
    written = Path(folder) / "generation_config.json"
    tokens = disk.read_json(written) if written.exists() else {}
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "bos_token_id": tokens.get("bos_token_id"),
        "eos_token_id": tokens.get("eos_token_id"),
        "pad_token_id": tokens.get("pad_token_id"),
        "n_ctx": cfg.n_positions,
        **vars(cfg),
    }
    disk.write_text(Path(folder) / "config.json", json.dumps(config, indent=2) + "\n")


def save(folder, params, cfg):
    """Write a Hugging Face GPT-2 folder.

    model.safetensors comes last: where it is, the folder is whole.
    """
    bad = [name for name, p in params.items() if not np.isfinite(p).all()]
    if bad:
        raise ValueError(f"{folder}: not saved, {bad[0]} and {len(bad) - 1} other tensors hold "
                         "numbers that are not finite; train with a lower --lr")
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_config(folder, cfg)
    tensors = {**params, "wte.weight": params["wte.weight"][: cfg.vocab_size]}
    checkpoint.save_safetensors(Path(folder) / "model.safetensors", tensors, {"format": "pt"})


# What else a config.json may say that changes the arithmetic, and the values under which the model
# is gpt.py's.
GPT2_SETTINGS = {
    "model_type": ("gpt2",),
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
        raise FileNotFoundError(
            f"{path}: no such file; a model folder holds config.json and model.safetensors. "
            "Make the demo's with: python train.py")
    config = disk.read_json(path)
    names = Config.__dataclass_fields__
    missing = [name for name in names if name not in config]
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(missing)}")
    try:
        cfg = Config(**{name: config[name] for name in names})
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from None
    settings = {**GPT2_SETTINGS, "n_inner": (None, 4 * cfg.n_embd)}
    for key, ours in settings.items():
        if config.get(key, ours[0]) not in ours:
            raise ValueError(f"{path}: {key} is {config[key]!r}; "
                             f"this model is GPT-2, with {ours[0]!r}")
    return cfg


def check_finite(path, name, p):
    """ValueError where a tensor holds a number that is not finite."""
    with np.errstate(all="ignore"):
        # A sum takes no memory, and is not finite where one number is not. It may overflow.
        finite = np.isfinite(p.sum()) or np.isfinite(p).all()
    if not finite:
        raise ValueError(f"{path}: {name} holds numbers that are not finite; "
                         "save the model again from a checkpoint that is sound")


def tied(path, tensors):
    """Tensors under the names of gpt.py: without "transformer.", embedding and head as wte.weight.

    safetensors' save_model writes what is shared once, and may have chosen the name lm_head.weight.
    Other tools write it twice.
    """
    found = {name.removeprefix("transformer."): array for name, array in tensors.items()}
    if len(found) < len(tensors):
        raise ValueError(f"{path}: has tensors with and without transformer. before the same name; "
                         "only one of each could be meant")
    head = found.pop("lm_head.weight", None)
    if head is None:
        config = disk.read_json(Path(path).parent / "config.json")
        if config.get("tie_word_embeddings") is False:
            raise ValueError(f"{path}: has no tensor lm_head.weight, although tie_word_embeddings "
                             "is false in config.json")
    elif not np.array_equal(found.setdefault("wte.weight", head), head):
        raise ValueError(f"{path}: lm_head.weight is not wte.weight; "
                         "this model has one matrix for both (tie_word_embeddings)")
    return found


def _tensors_of(folder):
    """(path, {name: array}) of the file that holds the tensors, or names the files that do.

    A folder whose training is still going on has no model.safetensors yet: then it is the last
    checkpoint.
    """
    for name in ("model.safetensors", "model.safetensors.index.json", "trainer.safetensors"):
        path = folder / name
        if path.exists() and path.suffix == ".json":
            return path, checkpoint.load_index(path)
        if path.exists():
            return path, checkpoint.load_safetensors(path)[0]
    advice = f"finish the training that began {folder}"
    other = next(folder.glob("pytorch_model*.bin"), None)
    if other:
        advice = (f"{other.name} is PyTorch's own format: load the folder in transformers and save "
                  "it with save_pretrained()")
    raise FileNotFoundError(f"{folder / 'model.safetensors'}: no such file; {advice}")


def load(folder, writable=True):
    """(params, cfg) of a Hugging Face GPT-2 folder or of a model file of llm.c.

    The arrays are float32 and may be written to. With writable=False they are the file itself where
    it holds float32, mapped, and read when they are needed. Names may be those that tied() knows;
    the buffers of causal masks that some exports hold are ignored.
    """
    folder = Path(folder)
    if folder.is_file():
        tensors, sizes = checkpoint.load_llmc(folder)
        path, cfg = folder, Config(**sizes)
    else:
        cfg = load_config(folder)
        path, tensors = _tensors_of(folder)
    layers, params = f"config.json's {cfg.n_layer} layers", {}
    if cfg.n_layer > len(tensors):      # otherwise it takes long to name what is missing
        raise ValueError(f"{path}: {len(tensors)} tensors are too few for {layers}")
    if path != folder:
        tensors = tied(path, tensors)
    shapes = param_shapes(cfg)
    for name in tensors:
        is_mask = name.endswith((".attn.bias", ".attn.masked_bias"))
        if name.startswith("h.") and name not in shapes and not is_mask:
            raise ValueError(f"{path}: has a tensor {name}, which is in none of {layers}")
    requirements = ["C", "A", "W"] if writable else ["C", "A"]
    for name, shape in shapes.items():
        if name not in tensors:
            raise ValueError(f"{path}: has no tensor {name}, which {layers} need")
        if tensors[name].shape != shape:
            raise ValueError(f"{path}: {name} has shape {tensors[name].shape}, "
                             f"config.json says {shape}")
        params[name] = np.require(tensors[name], np.float32, requirements)
        check_finite(path, name, params[name])
    return params, cfg


def parse_args(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m model.folders",
                                     description="Describe a GPT-2 checkpoint.")
    parser.add_argument("folder", help="a Hugging Face GPT-2 folder, or a model file of llm.c")
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
