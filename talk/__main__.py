"""Runs the experiments of the talk: all of them, or some.

    python -m talk                          all, on out/demo, where no result of them is kept
    python -m talk spelling tools           some
    python -m talk --list                   what there is
    python -m talk --seeds 3                each with three seeds: mean and spread
    python -m talk --run out/demo out/seed1
                                            in several worlds; make RUN=out/seed1 SEED=1 makes one
"""

import argparse
import sys

from talk import results
from run import command


def parse_args(argv=None):
    """The options of the command."""
    p = argparse.ArgumentParser(prog="python -m talk",
                                description="Put the talk's claims to the test.")
    p.add_argument("names", nargs="*", metavar="NAME",
                   help="experiments, as --list names them (default: all)")
    p.add_argument("--list", action="store_true",
                   help="only list the experiments, and which results are kept")
    results.add_options(p)
    args = results.checked(p.parse_args(argv))
    unknown = [name for name in args.names if name not in results.names()]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: expected some of {', '.join(results.names())}")
    args.names = [name for name in results.names() if name in (args.names or results.names())]
    return args


def main(argv=None):
    """List the experiments, then run them."""
    args = parse_args(argv)
    results.list_all(args.names, args.run, args.seeds)
    if not args.list:
        sys.stdout.flush()
        results.run_all(args.names, args.run, args.seeds)


if __name__ == "__main__":
    command.run(main)
