"""golden.py: what PyTorch computes for a tiny GPT-2, kept in golden.json for tests/test_golden.py.

The model is tests/peers/torch_gpt.py, the optimizer torch.optim.AdamW, the schedule PyTorch's own,
all in float64. Kept are the losses and gradients of three batches, logits, and ten steps of
training. Of a tensor two numbers are kept: its length, and its product with a fixed random
direction, which sees every entry, its place and its sign.

Weights and batches are made here for both sides. They come from numpy.random.RandomState, whose
numbers NumPy promises never to change. One thing is not PyTorch's own: its clip_grad_norm_ adds
1e-6 to the norm, so the clipping is written out.

    python3 -m venv /tmp/golden
    /tmp/golden/bin/pip install torch==2.13.0 numpy regex
    /tmp/golden/bin/python tests/golden.py              writes tests/golden.json
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "peers")]

from model import fast  # noqa: E402
import gpt  # noqa: E402
import numpy as np  # noqa: E402
import train  # noqa: E402

PATH = HERE / "golden.json"
# Decode computes the logits of 512 ids at a time.
CFG = gpt.Config(vocab_size=530, n_positions=12, n_embd=16, n_layer=2, n_head=2)
# Some steps are clipped, others are not.
RECIPE = train.Recipe(CFG, steps=10, batch=3, lr=1e-2, min_lr=1e-3, warmup=3,
                      beta1=0.9, beta2=0.95, weight_decay=0.1, clip=1.7)
COLUMNS = [0, 1, 511, 512, 529]                         # of logits at the ends of each row


class Batch(NamedTuple):
    tokens: np.ndarray          # (B,T) int
    targets: np.ndarray         # (B,T) int, -1 is ignored
    weights: np.ndarray         # (B,T), None for the mean over what is not ignored
    temperature: float


def starting_weights():
    """{name: array} in float64. Biases are not 0 and norms not 1: no gradient is 0 by accident."""
    random = np.random.RandomState(0)
    params = {}
    for name, shape in gpt.param_shapes(CFG).items():
        spread = 0.1 if len(shape) == 1 else 0.25
        mean = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        params[name] = mean + spread * random.standard_normal(shape)
    return params


def directions():
    """{name: array}, a random direction for each tensor, and "logits", one for rows of logits."""
    random = np.random.RandomState(1)
    shapes = {**gpt.param_shapes(CFG), "logits": (CFG.vocab_size,)}
    return {name: random.standard_normal(shape) for name, shape in shapes.items()}


def batches():
    """{name: Batch}: the mean over all targets; over some, in rows shorter than the context;
    weights of both signs and a temperature."""
    random = np.random.RandomState(2)
    tokens, targets = random.randint(0, CFG.vocab_size, (2, 3, 12))
    ignored = targets[:, :9].copy()
    ignored[0, :4] = -1
    ignored[1] = -1
    weights = random.standard_normal((3, 12))
    weights[2, 5:9] = 0.0
    weighted = targets.copy()
    weighted[1, 3:] = -1
    return {
        "mean": Batch(tokens, targets, None, 1.0),
        "ignored": Batch(tokens[:, :9], ignored, None, 1.0),
        "weighted": Batch(tokens, weighted, weights, 1.7),
    }


def training_rows():
    """(steps, B, T+1) tokens of a few repeated rows, so that there is something to learn."""
    random = np.random.RandomState(3)
    texts = random.randint(0, CFG.vocab_size, (5, CFG.n_positions + 1))
    return texts[random.randint(0, len(texts), (RECIPE.steps, RECIPE.batch))]


def two_numbers(arrays):
    """{name: [length, product with its direction]} of {name: array}."""
    along = directions()
    return {name: [float(np.linalg.norm(a)), float(np.vdot(along[name], a))]
            for name, a in arrays.items()}


def without_key_biases(params):
    """{name: array} with 0 for the biases of keys.

    They add the same to all scores of a query, so their gradients are nothing but rounding, and
    AdamW divides rounding by its own size: they end anywhere.
    """
    params = dict(params)
    for i in range(CFG.n_layer):
        name, C = f"h.{i}.attn.c_attn.bias", CFG.n_embd
        params[name] = params[name].copy()
        params[name][C:2 * C] = 0.0
    return params


# ----------------------------------------------------------------------------------- PyTorch's side


LINEAR = {"attn.c_attn": "c_attn", "attn.c_proj": "c_proj",
          "mlp.c_fc": "fc", "mlp.c_proj": "fc_proj"}


def theirs(name):
    """The name that torch_gpt.py has for a parameter."""
    if name.startswith("h."):
        name = "blocks." + name[2:]
    for our_layer, their_layer in LINEAR.items():
        name = name.replace(our_layer, their_layer)
    return name


def ours(name, tensor):
    """One of its tensors as an array of our shape: PyTorch keeps a linear layer as (out, in)."""
    array = tensor.detach().numpy()
    return array.T if array.ndim == 2 and name.startswith("h.") else array


def make():
    import torch
    import torch.nn.functional as F
    import torch_gpt

    torch.set_default_dtype(torch.float64)

    def fresh():
        model = torch_gpt.GPT(CFG.vocab_size, CFG.n_positions, CFG.n_embd, CFG.n_layer, CFG.n_head)
        places = dict(model.named_parameters())
        with torch.no_grad():
            for name, p in starting_weights().items():
                transposed = ours(name, torch.tensor(p))
                places[theirs(name)].copy_(torch.tensor(transposed.copy()))
        assert len(places) == len(starting_weights())
        return model

    def arrays(model, what):
        found = dict(model.named_parameters())
        return {name: ours(name, what(found[theirs(name)])) for name in gpt.param_shapes(CFG)}

    def losses_and_gradients(batch):
        model = fresh()
        logits = model(torch.tensor(batch.tokens)) / batch.temperature
        rows = logits.flatten(0, 1), torch.tensor(batch.targets).flatten()
        if batch.weights is None:
            loss = F.cross_entropy(*rows, ignore_index=-1)
        else:
            each = F.cross_entropy(*rows, ignore_index=-1, reduction="none")
            loss = (each * torch.tensor(batch.weights).flatten()).sum()
        loss.backward()
        return {"loss": loss.item(), "gradients": two_numbers(arrays(model, lambda p: p.grad))}

    def training():
        model = fresh()
        betas = RECIPE.beta1, RECIPE.beta2
        optimizer = torch_gpt.adamw(model, RECIPE.lr, betas, RECIPE.weight_decay)
        schedule = torch.optim.lr_scheduler
        warmup = schedule.LinearLR(optimizer, 1 / RECIPE.warmup, 1.0, RECIPE.warmup - 1)
        cosine = schedule.CosineAnnealingLR(optimizer, RECIPE.steps - RECIPE.warmup,
                                            RECIPE.min_lr)
        rates = schedule.SequentialLR(optimizer, [warmup, cosine], [RECIPE.warmup])
        steps = []
        for rows in torch.tensor(training_rows()):
            loss = model(rows[:, :-1], rows[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
            steps.append([loss.item(), norm.item(), optimizer.param_groups[0]["lr"]])
            for p in model.parameters():
                p.grad *= min(1.0, RECIPE.clip / norm.item())
            optimizer.step()
            rates.step()
        after = without_key_biases(arrays(model, lambda p: p))
        return {"steps: loss, norm, rate": steps, "weights": two_numbers(after)}

    found = batches()
    logits = fresh()(torch.tensor(found["mean"].tokens)).detach().numpy()
    return {
        "made by": f"python tests/golden.py, PyTorch {torch.__version__}",
        "logits: some columns": logits[:, [0, -1]][:, :, COLUMNS].tolist(),
        "logits: product with the direction": (logits @ directions()["logits"]).tolist(),
        "batches": {name: losses_and_gradients(batch) for name, batch in found.items()},
        "training": training(),
    }


def as_text(value, depth=0):
    """JSON with one list of numbers a line."""
    if isinstance(value, dict):
        items = [(f"{json.dumps(name)}: ", x) for name, x in value.items()]
        begin, end = "{}"
    elif isinstance(value, list) and any(isinstance(x, list) for x in value):
        items = [("", x) for x in value]
        begin, end = "[]"
    else:
        return json.dumps(value)
    lines = [" " * (depth + 1) + name + as_text(x, depth + 1) for name, x in items]
    return begin + "\n" + ",\n".join(lines) + "\n" + " " * depth + end


if __name__ == "__main__":
    argparse.ArgumentParser(description="Write tests/golden.json anew.").parse_args()
    PATH.write_text(as_text(make()) + "\n", encoding="utf-8")
    print(f"{PATH}: {PATH.stat().st_size:,} bytes")
