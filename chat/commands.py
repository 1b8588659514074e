"""commands.py: the commands of align.py, which run its stages and print what came of them."""

import sys

import sample
from chat import arena, options
from run import command, runs


def print_result(name, learned, result):
    """The line with which a stage ends, in the columns of all stages."""
    print(f"{name:8} {learned:20} {result:36} {runs.seconds_spent():5.0f} s")


def run_sft(args, recipe, stage):
    """Fine-tune, then ask questions that are held out."""
    n = stage(args.run, recipe, args.seed, args.on_mismatch, args.data, args.start, args.out)
    result = f"{recipe.steps * min(recipe.batch, n) / n:.1f} passes"
    if (args.run / "tasks" / "facts_test.jsonl").exists():
        facts, ended = arena.examine(*sample.load_model(args.run / args.out), args.run)
        print("held-out questions, in words that no conversation used: facts told on ten\n"
              f"pages or more {facts:.1%} right; replies that end by themselves {ended:.1%}")
        result += f", facts {facts:.1%} right"
    else:
        print(f"not examined: no questions in {args.run / 'tasks'}")
    print_result(args.out, f"{n:,} conversations", result)


def run_rl(args, recipe, stage):
    """Reinforce, and compare what was measured before and after."""
    out = args.out or options.folder_of(args.reward)
    before, after = stage(
        args.run,
        recipe,
        args.reward,
        args.seed,
        args.on_mismatch,
        args.tasks,
        args.held_out,
        out,
        args.start,
        args.leash_to,
    )
    print(arena.comparison(before, after))
    learned = f"{recipe.steps * recipe.prompts * recipe.group:,} replies"
    print_result(out, learned, f"right {before['greedy']:.1%} -> {after['greedy']:.1%}")


def run_pairs(args, recipe, stage):
    """Learn from comparisons: a reward model, or DPO, which alone has a leash."""
    more = {"reference": args.leash_to} if args.command == "dpo" else {}
    n, in_order, n_pairs = stage(
        args.run,
        recipe,
        args.seed,
        args.on_mismatch,
        args.data,
        args.held_out,
        args.out,
        args.start,
        **more,
    )
    share = in_order / max(n_pairs, 1)
    low, high = arena.wilson(in_order, n_pairs)
    print(f"held-out pairs in order: {share:.1%} of {n_pairs:,}; "
          f"19 times of 20 the true share\nlies between {low:.1%} and {high:.1%}")
    print_result(args.out, f"{n:,} comparisons", f"pairs in order {share:.1%}")


def run_arena(args):
    """Rate models by battles."""
    folders = [name if name.is_dir() else args.run / name for name in args.models]
    rated = arena.fight(args.run, folders, args.seed)
    print(arena.table(rated))
    print("The mean of a fight is 1000, so ratings compare within one fight only.")
    if not args.models:                     # for the page
        arena.save(args.run / "arena.json", rated)


def run(args, stages):
    """Run a command of options.parse_args. stages: {its name: the function of align.py}"""
    runs.start_clock()
    recipe = options.recipe_of(args)
    print(options.COMMANDS[args.command], file=sys.stderr)      # says how long the demo takes
    if args.command == "eval":
        arena.print_run(args.run, args.samples, args.seed)
    elif args.command == "arena":
        run_arena(args)
    elif args.command == "sft":
        run_sft(args, recipe, stages["sft"])
    elif args.command == "rl":
        run_rl(args, recipe, stages["rl"])
    else:
        run_pairs(args, recipe, stages[args.command])


if __name__ == "__main__":
    command.only_imported(__doc__)
