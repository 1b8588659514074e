"""commands.py: the commands of align.py, which run its stages and print what came of them."""

import json
import sys

from chat import arena, formats, options, places         # before numpy
from model import joining, report
from run import disk, runs

# The options that are parameters of a stage, beside its recipe.
GIVEN = ("run", "seed", "on_mismatch", "start", "out", "data", "held_out", "tasks", "reward",
         "reference")


def after_sft(args, recipe, n):
    """Ask questions that are held out. -> (what was learned from, the result), for the last line"""
    result = f"{recipe.steps * min(recipe.batch, n) / n:.1f} passes"
    if (args.run / "tasks" / "facts_test.jsonl").exists():
        place = places.of(recipe)
        model = place.model(formats.open_model(args.run / args.out))
        facts, ended = arena.examine(*model, args.run, place.engine)
        print("held-out questions, in words that no conversation used: facts told on ten\n"
              f"pages or more {facts:.1%} right; replies that end by themselves {ended:.1%}")
        result += f", facts {facts:.1%} right"
    else:
        print(f"not examined: no questions in {args.run / 'tasks'}")
    return f"{n:,} conversations", result


def after_rl(args, recipe, measured):
    """Compare what arena.measure gave before and after."""
    before, after = measured
    unseen = f"{before['problems']} unseen problems"
    print(f"{unseen:22}   greedy   at temperature 1   mean length   step by step")
    for name, m in (("before", before), ("after", after)):
        print(f"{name:22}{m['greedy']:9.1%} {m['at_temperature_1']:18.1%} "
              f"{m['length']:13.1f} {m['stepwise']:14.1%}")
    learned = f"{recipe.steps * recipe.prompts * recipe.group:,} replies"
    return learned, f"right {before['greedy']:.1%} -> {after['greedy']:.1%}"


def after_pairs(args, recipe, counts):
    """How many pairs that were held out a reward model, or DPO, puts in order."""
    n, in_order, n_pairs = counts
    share = in_order / max(n_pairs, 1)
    low, high = arena.wilson(in_order, n_pairs)
    print(f"held-out pairs in order: {share:.1%} of {n_pairs:,}; "
          f"19 times of 20 the true share\nlies between {low:.1%} and {high:.1%}")
    return f"{n:,} comparisons", f"pairs in order {share:.1%}"


AFTER = {"sft": after_sft, "rl": after_rl, "reward": after_pairs, "dpo": after_pairs}


def run_arena(args, place):
    """Rate models by battles."""
    folders = [name if name.is_dir() else args.run / name for name in args.models]
    rated = arena.fight(
        args.run, folders, args.seed, chat_format=args.chat_format, place=place)
    print(arena.table(rated))
    print("The mean of a fight is 1000, so ratings compare within one fight only.")
    if not args.models:                     # for the page
        rows = [each._asdict() for each in rated]
        disk.write_text(args.run / "arena.json", json.dumps(rows) + "\n")


def run(args, stages):
    """Run a command of options.parse_args. stages: {its name: the function of align.py}"""
    runs.start_clock()
    recipe = options.recipe_of(args) if args.command in stages else None
    print(options.COMMANDS[args.command], file=sys.stderr)      # says how long the demo takes
    if args.command == "eval":
        arena.print_run(args.run, args.samples, args.seed, args.chat_format, places.of(args))
    elif args.command == "arena":
        run_arena(args, places.of(args))
    else:
        given = {name: getattr(args, name) for name in GIVEN if name in args}
        with joining.joined(args.ranks):
            found = stages[args.command](recipe=recipe, **given)
            report.print_ranks()
            print(runs.row(args.out, *AFTER[args.command](args, recipe, found)))
