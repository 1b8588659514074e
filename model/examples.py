"""examples.py: python train.py --check, which compares train.py with its fast twins.

It draws the schedule of a recipe, and takes a few steps in float64 with the definitions and with
what train() uses in their place. It exits with 1 if anything is wrong.
"""

import math

from model import adamw                     # before numpy
from model import muon
from model import parallel
import gpt
import numpy as np

CFG = gpt.Config(vocab_size=11, n_positions=6, n_embd=8, n_layer=2, n_head=2)


def check(train, recipe):
    """Check the schedule, and a step against the definitions. Prints; returns the exit status.

    train: the module.
    """
    faults = check_schedule(train, recipe) + check_step(train)
    for fault in faults:
        print(f"WRONG: {fault}")
    if not faults:
        print("The schedule is sound. Micro-batches, AdamW and Muon agree with their definitions.")
    return 1 if faults else 0


def check_schedule(train, recipe):
    """Draw the learning rate over a run. Returns what is wrong with it."""
    rates = [train.learning_rate(step, recipe) for step in range(recipe.steps + 1)]
    for step in np.linspace(0, recipe.steps, 20).astype(int):
        bar = "#" * round(50 * rates[step] / recipe.lr)
        print(f"step {step:7,}  learning rate {rates[step]:.2e}  {bar}")
    rising = np.diff(rates[:recipe.warmup])
    falling = np.diff(rates[recipe.warmup:])
    faults = []
    if min(rates) < 0.0 or not math.isclose(max(rates), recipe.lr):
        faults.append(f"rates from {min(rates):g} to {max(rates):g}, the peak is {recipe.lr:g}")
    if (rising <= 0.0).any():
        faults.append("the learning rate does not rise in the warm-up")
    if (falling > 0.0).any():
        faults.append("the learning rate rises after the warm-up")
    if recipe.warmup < recipe.steps and not math.isclose(rates[recipe.warmup], recipe.lr):
        faults.append(f"the decay begins at {rates[recipe.warmup]:g}, the peak is {recipe.lr:g}")
    end = rates[-1]
    if recipe.warmup < recipe.steps and abs(end - recipe.min_lr) > 1e-9 * recipe.lr:
        faults.append(f"the learning rate ends at {end:g} and not at {recipe.min_lr:g}")
    return faults


def check_step(train):
    """What is wrong with unequal micro-batches, AdamW and Muon, in float64."""
    rows = np.random.default_rng(0).integers(0, CFG.vocab_size, (5, CFG.n_positions + 1))
    params = gpt.init(CFG, 0, np.float64)
    inputs, targets = rows[:, :-1], rows[:, 1:]
    _, want = gpt.loss_and_grads(params, CFG, inputs, targets)
    work = parallel.Gradients(params, CFG)
    train.add_gradients(work, rows, micro_batch=2)
    work.close()
    faults = []
    for name, g in want.items():
        if np.abs(work.sum[name] - g).max() > 1e-12:
            faults.append(f"the gradient of {name} in micro-batches")
    pairs = (train.AdamW, adamw.AdamW, {}), (train.Muon, muon.Muon, {"ratio": 5.0})
    for plain, fast, more in pairs:
        expected = after_three_steps(plain, want, more)
        for name, p in after_three_steps(fast, want, more).items():
            if np.abs(p - expected[name]).max() > 1e-9:
                faults.append(f"{fast.__name__}'s update of {name}")
    return faults


def after_three_steps(optimizer_class, grads, more):
    """The parameters of a fresh model after three equal steps."""
    params = gpt.init(CFG, 0, np.float64)
    optimizer = optimizer_class(params, **more)
    for _ in range(3):
        optimizer.step(grads, lr=0.01, scale=0.5)
    return params
