"""options.py: the recipes of the four stages of align.py, and its command line."""

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path

from chat import variants
from model import device, joining


@dataclass(frozen=True)
class Recipe:
    """What every stage has."""

    steps: int
    lr: float                   # the peak learning rate; the schedule is train.py's
    min_lr: float               # the last one
    warmup: int                 # steps
    batch: int                  # conversations, comparisons or pairs a step
    save_every: int             # steps between checkpoints
    beta1: float = 0.9
    beta2: float = 0.99
    clip: float = 1.0           # the largest norm of a gradient
    lora_rank: int | None = None        # of an adapter that learns in the place of the model
    lora_alpha: float | None = None
    adapter: str | None = None          # the folder of one that learns on
    dtype: str | None = None            # of the model beside it; on a GPU, of all that computes
    device: str | None = None           # "cuda": the GPU; else the cores
    chat_format: str | None = None      # of a model that brings none, see formats.load


@dataclass(frozen=True)
class SftRecipe(Recipe):
    """A step also reads some windows of pre-training text."""

    replay: int = 2             # windows a step
    replay_weight: float = 1.0  # their loss beside that of the conversations


@dataclass(frozen=True)
class RlRecipe(SftRecipe):
    """A step has prompts * group replies, and `batch` conversations beside them."""

    prompts: int = 16           # questions a step
    group: int = 16             # replies to each question
    max_tokens: int = 64        # of a reply
    baseline: str = "mean"      # what a reward is compared with
    normaliser: str = "tokens"  # what a token counts
    leash: float = 0.0          # its strength, beta

    def __post_init__(self):
        if self.group == 1 and self.baseline != "none":
            raise ValueError("--group 1: a single reply has nothing to be compared with; "
                             "give at least 2, or --baseline none")


@dataclass(frozen=True)
class DpoRecipe(Recipe):
    """A step has `batch` pairs."""

    leash: float = 0.1          # its strength, beta


SFT = SftRecipe(steps=1250, lr=1.6e-3, min_lr=0.0, warmup=40, batch=32, save_every=100)
RL = RlRecipe(steps=16, lr=1e-4, min_lr=1e-4, warmup=5, batch=64, save_every=4, replay=0)
REWARD = Recipe(steps=400, lr=1e-3, min_lr=0.0, warmup=20, batch=16, save_every=100)
DPO = DpoRecipe(steps=100, lr=1e-4, min_lr=0.0, warmup=10, batch=16, save_every=25)
RECIPES = {"sft": SFT, "rl": RL, "reward": REWARD, "dpo": DPO}
MAY_BE_0 = {"sft": ("replay",), "rl": ("batch", "replay", "leash")}     # 0 turns it off

# The settings that are options.
SETTINGS = {
    "steps": "optimizer steps",
    "lr": "peak learning rate; the last one keeps its ratio to it",
    "batch": "{} a step",
    "replay": "windows of pre-training text a step",
    "prompts": "questions a step",
    "group": "replies to each question",
    "max_tokens": "length limit of a reply",
    "baseline": "what a reward is compared with",
    "normaliser": "what divides the weight of a token",
    "leash": "strength of the pull to the model of --leash-to",
}
BATCH = {"sft": "conversations", "rl": "conversations about other things",
         "reward": "comparisons", "dpo": "pairs of replies"}

CHOICES = {
    "baseline": ["mean", *variants.BASELINES],
    "normaliser": ["tokens", *variants.NORMALISERS],
}

# What each command does, and how long that takes for the demo on two cores.
COMMANDS = {
    "sft": "Fine-tune a model on conversations. The demo takes two minutes.",
    "rl": "Reinforce replies with high rewards. The demo takes 20 seconds.",
    "reward": "Train a reward model on comparisons. The demo takes a minute.",
    "dpo": "Learn from comparisons without a reward model. The demo takes 25 seconds.",
    "eval": "Ask base, sft and rl the questions held out. The demo takes 10 seconds, "
            "and 90 with --samples 16.",
    "arena": "Rate models by battles over the questions held out. The demo takes 5 seconds.",
}
SCHEMAS = "in any schema of chat/chats.py"


FOLDERS = {"answer": "rl", "random": "rl_random", "model": "rlhf"}


def folder_of(reward):
    """The stage that RL makes with a reward, by its name: rl_NAME for one of the reader's own."""
    return FOLDERS.get(reward, f"rl_{reward}")


def option(name):
    """max_tokens -> --max-tokens"""
    return "--" + name.replace("_", "-")


def recipe_settings(name):
    """{setting: its value in a command's recipe} of those that are options."""
    recipe = RECIPES[name]
    return {key: getattr(recipe, key) for key in SETTINGS if hasattr(recipe, key)}


def add_stage(parser, name, rewards):
    """Add the options of a command that has a recipe."""
    add = parser.add_argument
    if name == "rl":
        add("--reward", choices=rewards, default="answer",
            help="random is the control, which must not help (default: %(default)s)")
    if name in ("rl", "dpo"):
        add("--leash-to", metavar="STAGE", dest="reference",
            help="the reference of the leash (default: that of --start)")
    add("--on-mismatch", choices=("error", "restart"), default="error",
        help="if the folder holds a checkpoint of other settings or data (default: %(default)s)")

    add = parser.add_argument_group("from what to where, in the run folder").add_argument
    start = "base" if name == "sft" else "sft"
    add("--start", default=start, help="stage to begin with (default: %(default)s)")
    if name == "rl":
        add("--out", help="stage to make (default: rl, rl_random or rlhf, as the reward is)")
        add("--tasks", type=Path, help="questions with answers (default: tasks/wheel_train.jsonl)")
        add("--held-out", type=Path, help="questions to measure on (default: "
            "tasks/wheel_test.jsonl; of --tasks every tenth)")
    else:
        add("--out", default=name, help="stage to make (default: %(default)s)")
        what = "conversations" if name == "sft" else "comparisons"
        file = "chat/train.jsonl" if name == "sft" else "pairs/train.jsonl"
        add("--data", nargs="+", type=Path, help=f"{what}, {SCHEMAS} (default: {file})")
    if name in ("reward", "dpo"):
        add("--held-out", type=Path, help="comparisons to measure on (default: pairs/test.jsonl)")

    add_lora(parser)
    add_device(parser, LEARNS)
    joining.add_argument(parser.add_argument_group("several processes"))
    add = parser.add_argument_group("recipe").add_argument
    add("--chat-format", metavar="FORMAT", help="how a model of others writes chats: chatml, "
        "llama3, or a folder with a chat template (default: its own template)")
    for key, value in recipe_settings(name).items():
        what = SETTINGS[key].format(BATCH[name])
        add(option(key), type=type(value), default=value, choices=CHOICES.get(key),
            help=what + " (default: %(default)s)")


def add_lora(parser):
    """Add the options of a low-rank adapter."""
    about = "LoRA: a small adapter learns, and the model stays as it is until both are merged"
    add = parser.add_argument_group("adapter", about).add_argument
    add("--lora-rank", type=int, metavar="R", help="rank of the adapter (default: all learns)")
    add("--lora-alpha", type=float, metavar="ALPHA", help="its strength (default: 16)")
    add("--adapter", metavar="FOLDER",
        help="go on with one, such as RUN/OUT/adapter or PEFT's own (default: a new one)")


LEARNS = "it learns there, and writes and judges replies there"
ANSWERS = "the models answer there"
BESIDE_AN_ADAPTER = ("; on the CPU, of the model beside an adapter: bf16 keeps what the file has "
                     "so, in half of the memory (default: float32)")


def add_device(parser, what):
    """Add the options --device and --dtype. what: a model does on a GPU, LEARNS or ANSWERS."""
    add = parser.add_argument_group("on what").add_argument
    add("--device", default="cpu", choices=("cpu", "cuda"),
        help=f"cuda: the GPU, through CuPy; {what} (default: %(default)s)")
    add("--dtype", choices=("bf16", "float32"), help="on the GPU, of weights and activations "
        "(default: bf16 where it can)" + (BESIDE_AN_ADAPTER if what == LEARNS else ""))


def parse_args(argv, rewards):
    """The command line. rewards: the names of the rewards that RL can have."""
    parser = argparse.ArgumentParser(description="Make an assistant of a base model.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        p = commands.add_parser(name, help=text.partition(".")[0], description=text)
        p.add_argument("--run", type=Path, default=Path("out/demo"),
                       help="run folder (default: %(default)s)")
        if name == "arena":
            p.add_argument("models", nargs="*", type=Path,
                           help="model folders, or stages of the run (default: all its stages)")
        if name == "eval":
            p.add_argument("--samples", type=int, help="also try each problem this many times at "
                           "temperature 1: pass@k, majority, best by reward (default: do not)")
            p.add_argument("--seed", type=int, help="of the samples (default: 0)")
        else:
            p.add_argument("--seed", type=int, default=0,
                           help="of all that is drawn (default: %(default)s)")
        if name in RECIPES:
            add_stage(p, name, rewards)
        else:
            p.add_argument("--chat-format", metavar="FORMAT", help="how a model without a chat "
                           "template is asked: chatml, llama3, or a folder with a template")
            add_device(p, ANSWERS)
    args = parser.parse_args(argv)
    check_args(args)
    return args


def check_args(args):
    """ValueError for an option that is out of range or would have no effect."""
    if args.command == "eval":
        if args.seed is not None and not args.samples:
            raise ValueError(f"--seed {args.seed}: eval without --samples asks greedily, "
                             "where nothing is drawn")
        if args.samples is not None and args.samples < 1:
            raise ValueError(f"--samples {args.samples}: must be at least 1")
        args.seed = args.seed or 0
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: must be 0 or more")
    for name in ("out", "start", "reference", "chat_format"):
        if getattr(args, name, None) == "":
            shown = "--leash-to" if name == "reference" else option(name)
            raise ValueError(f"{shown}: the name is empty")
    if args.command in RECIPES:
        check_lora(args)
    else:
        device.check_dtype(args)
    if args.command == "rl":
        if args.reference and not args.leash:
            raise ValueError(f"--leash-to {args.reference}: there is no leash without --leash")
        args.out = args.out or folder_of(args.reward)


def check_lora(args):
    """ValueError for options of an adapter that are out of range or contradict each other."""
    rank, alpha = args.lora_rank, args.lora_alpha
    if args.adapter == "":
        raise ValueError("--adapter: the name is empty")
    if args.adapter and (rank, alpha) != (None, None):
        raise ValueError(f"--adapter {args.adapter}: it has its own rank and alpha; "
                         "leave out --lora-rank and --lora-alpha")
    if rank is not None and rank < 1:
        raise ValueError(f"--lora-rank {rank}: must be at least 1")
    if args.dtype and args.device == "cpu" and rank is None and not args.adapter:
        raise ValueError(f"--dtype {args.dtype}: on the CPU the model learns in float32; bf16 is "
                         "for one that stays as it is beside an adapter (--lora-rank or --adapter),"
                         " or for --device cuda")
    if alpha is not None and rank is None:
        raise ValueError(f"--lora-alpha {alpha}: there is no adapter without --lora-rank")
    if alpha is not None and not 0 < alpha < math.inf:
        raise ValueError(f"--lora-alpha {alpha}: must be above 0 and finite")


def recipe_of(args):
    """The recipe of a stage, with the settings of the command line."""
    settings = {name: getattr(args, name) for name in recipe_settings(args.command)}
    recipe = changed(RECIPES[args.command], settings, MAY_BE_0.get(args.command, ()))
    names = "lora_rank", "lora_alpha", "adapter", "dtype", "chat_format"
    device = None if args.device == "cpu" else args.device
    return replace(recipe, device=device, **{name: getattr(args, name, None) for name in names})


def changed(recipe, settings, may_be_0=()):
    """A recipe with other settings. ValueError for one that is out of range."""
    for name, value in settings.items():
        if isinstance(value, str) or value == 0 and name in may_be_0:
            continue
        if not 0 < value < math.inf:
            expected = "0 or more" if name in may_be_0 else "above 0"
            raise ValueError(f"{option(name)} {value}: must be {expected} and finite")
    min_lr = recipe.min_lr
    if settings["lr"] != recipe.lr:
        min_lr = recipe.min_lr * settings["lr"] / recipe.lr
    warmup = min(recipe.warmup, settings["steps"])
    return replace(recipe, **settings, min_lr=min_lr, warmup=warmup)
