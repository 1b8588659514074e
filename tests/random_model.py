"""random_model.py: a model of a published shape with random weights, as Hugging Face has it.

    python tests/random_model.py llama-3.1-8b out/llama/base --layers 2 --dtype bf16 \
        --tokenizer ../shared/data/tokenizers/llama3_1

It writes nonsense, in the time and the memory that the model with that name takes. docs/llama.md
was tried out on such folders.
"""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model import cores                                             # noqa: E402,F401
from model import bfloat16, checkpoint, folders, llama              # noqa: E402
import numpy as np                                                  # noqa: E402

FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def drawn(cfg, dtype, seed=0):
    """{name: tensor} with the deviations of llama.init.

    Each number is one of the 65,536 quantiles of the normal distribution, and two random bytes say
    which. This takes 4 ns a number; drawing from the distribution takes 20 to 27.
    """
    rng, normal = np.random.default_rng(seed), NormalDist(0.0, 0.02)
    quantiles = np.array([normal.inv_cdf((i + 0.5) / 65_536) for i in range(65_536)], np.float32)
    if dtype == "bf16":
        quantiles = bfloat16.narrow(quantiles).bits
    tensors = {}
    for name, shape in llama.param_shapes(cfg).items():
        if len(shape) == 1:
            tensors[name] = np.full(shape, not name.endswith("bias"), np.float32)
            continue
        tensor = np.empty(shape, quantiles.dtype)
        for rows in np.array_split(tensor, -(-tensor.size // 2 ** 20)):
            which = np.frombuffer(rng.bytes(2 * rows.size), np.uint16)
            np.take(quantiles, which.reshape(rows.shape), out=rows, mode="clip")
        tensors[name] = bfloat16.Array(tensor) if dtype == "bf16" else tensor
    return tensors


def main():
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=llama.PRESETS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="in place of the shape's")
    parser.add_argument("--dtype", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--tokenizer", type=Path, help="folder with a tokenizer.json to copy")
    args = parser.parse_args()
    cfg = llama.PRESETS[args.shape]
    if args.layers:
        cfg = replace(cfg, n_layer=args.layers)
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if args.tokenizer and (args.tokenizer / name).exists():
            shutil.copy(args.tokenizer / name, args.folder)
    folders.save_config(args.folder, cfg)
    tensors = folders.in_files(drawn(cfg, args.dtype), cfg)
    checkpoint.save_safetensors(args.folder / "model.safetensors", tensors, {"format": "pt"})
    print(f"{args.folder}: {args.shape}, {cfg.n_layer} layers, {cfg.n_params:,} parameters")


if __name__ == "__main__":
    main()
