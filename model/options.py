"""options.py: the command line of train.py, and the recipe that it asks for."""

import argparse
import math
from dataclasses import replace
from pathlib import Path

from model import corpus
from model import device
from model import joining
from model import planning
from model import report
from run import command


def parse_args(argv, presets):
    """The command line. presets: {name: recipe}"""
    p = argparse.ArgumentParser(
        description="Pre-train a GPT on tokens or text.", epilog=report.recipe_table(presets),
        formatter_class=argparse.RawDescriptionHelpFormatter)
    where = p.add_argument_group("from where to where")
    where.add_argument("--run", type=Path, default=Path("out/demo"), metavar="DIR",
                       help="run folder; the model goes to DIR/base (default: %(default)s)")
    corpus.add_arguments(where)
    where.add_argument("--init", type=Path, metavar="MODEL",
                       help="begin with this model: a GPT-2 folder, or a .bin of llm.c")
    what = p.add_argument_group("what; defaults are the preset's, see below")
    what.add_argument("--preset", default="demo", choices=presets, metavar="NAME",
                      help=f"model and recipe: {', '.join(presets)} (default: %(default)s)")
    what.add_argument("--steps", type=int, metavar="N", help="optimizer steps")
    what.add_argument("--batch", type=int, metavar="N", help="rows a step")
    what.add_argument("--lr", type=float, metavar="RATE",
                      help="peak learning rate; the final one keeps its ratio to it")
    what.add_argument("--eval-every", type=int, metavar="N", help="steps between validations")
    what.add_argument("--save-every", type=int, metavar="N", help="steps between checkpoints")
    what.add_argument("--seed", type=int, default=0, metavar="N",
                      help="of the weights and of the order of the data (default: %(default)s)")
    what.add_argument("--on-mismatch", default="error", choices=("error", "restart"),
                      help="what to do if the folder holds a checkpoint of other settings or "
                      "data (default: %(default)s)")
    planning.add_arguments(p)
    device.add_arguments(p)
    joining.add_argument(p.add_argument_group("several processes"))
    instead = p.add_argument_group("instead of training")
    instead.add_argument("--check", action="store_true",
                         help="check the preset's schedule, micro-batches and optimizers")
    args = p.parse_args(argv)
    if args.check:
        taken = {"check", "preset", "steps", "batch", "lr"}
        command.refuse(p, argv, taken, "--check trains no model")
    return args


def recipe_of(args, presets):
    """The preset with what the command line changes; ValueError for a number that cannot be."""
    recipe, changes = presets[args.preset], {}
    for name in ("steps", "batch", "lr", "eval_every", "save_every", "micro_batch", "memory_gb"):
        value = getattr(args, name)
        if value is None:
            continue
        if not 0 < value < math.inf:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} {value}: must be above 0 and finite")
        if name not in ("micro_batch", "memory_gb"):
            changes[name] = value
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: must be 0 or more")
    if args.lr:
        changes["min_lr"] = recipe.min_lr * args.lr / recipe.lr
    recipe = replace(recipe, **changes)
    if (args.micro_batch or 0) > recipe.batch:
        raise ValueError(f"--micro-batch {args.micro_batch}: more rows than the {recipe.batch} of "
                         "a step (--batch)")
    return replace(recipe, warmup=min(recipe.warmup, recipe.steps))
