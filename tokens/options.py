"""options.py: the command line of bpe.py, and the options that it refuses together."""

import argparse
from pathlib import Path

from run import tasks
from tokens.by_tasks import PHASES
from tokens.patterns import PATTERNS
from tokens.trainer import TIES
from tokens.vocabularies import PUBLISHED


def parse_args(argv, description):
    """The command line, checked. Its command is None if none is given."""
    parser = argparse.ArgumentParser(prog="bpe.py", description=description)
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add_command(name, text):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--run", type=Path, metavar="DIR",
                         help="folder of the run (default: out/demo)")
        if name in PHASES:
            add_reading(sub.add_argument)
            tasks.add_options(sub, PHASES[name])
        return sub.add_argument

    option = add_command("train", "learn a vocabulary from documents")
    option("--vocab-size", type=int, default=1024, metavar="N",
           help="number of ids, special tokens included (default: %(default)s)")
    option("--pattern", choices=PATTERNS, default="digits", metavar="NAME",
           help="how text is cut before merging: one of "
           f"{', '.join(PATTERNS)} (default: %(default)s)")
    option("--ties", choices=TIES, default="rustbpe",
           help="of pairs with equal counts, merge the one that this tool would merge "
           "(default: %(default)s)")
    option("--min-frequency", type=int, default=1, metavar="N",
           help="stop when no pair occurs so often (default: %(default)s)")

    option = add_command("encode", "turn documents into token shards")
    option("--shard-tokens", type=int, default=100_000_000, metavar="N",
           help="tokens in a full shard (default: %(default)s)")
    option("--val-percent", type=int, default=5, metavar="P",
           help="per cent of documents for validation, chosen by a hash of the id; "
           "of a .txt file, its last lines (default: %(default)s)")
    add_vocabulary(option)

    option = add_command("decode", "turn ids back into text")
    option("ids", nargs="*", metavar="ID", help="token ids (default: from stdin)")
    add_vocabulary(option)

    option = add_command("show", "print the tokens of a text, special tokens recognised")
    option("text", nargs="?", metavar="TEXT", help="a text (default: some examples)")
    option("--steps", action="store_true", help="print the merges, one at a time")
    add_vocabulary(option, nargs="+")

    args = parser.parse_args(argv)
    if args.command in PHASES:
        tasks.check_options(parser, args, PHASES[args.command])
    check(args, parser.error)
    return args


def add_reading(option):
    """The options of the commands that read documents. option: a parser's add_argument."""
    option("--input", type=Path, nargs="+", metavar="FILE",
           help=".txt, .jsonl, .jsonl.gz or .parquet files (default: those in RUN/docs)")
    option("--workers", type=int, default=tasks.workers_here(), metavar="N",
           help="processes (default: %(default)s, the CPUs over the tasks that mpirun has started "
           "here)")


def add_vocabulary(option, nargs=None):
    """The options that name a tokenizer, or with nargs several."""
    option("--vocab", metavar="NAME", nargs=nargs,
           help="a tokenizer.json, vocab.json or .tiktoken file, or one of "
           f"{', '.join(PUBLISHED)} (default: the run's tokenizer)")
    option("--ranks", type=Path, metavar="DIR",
           help="folder of the published .tiktoken files (default: tiktoken's cache)")


def check(args, error):
    """Refuse options without effect and numbers out of range. error: takes the message."""
    vocab = getattr(args, "vocab", None) or []
    names = [vocab] if isinstance(vocab, str) else vocab
    if args.run is not None and names and args.command in ("decode", "show"):
        error(f"--run {args.run}: would have no effect, --vocab names the tokenizer")
    if getattr(args, "ranks", None) is not None and not PUBLISHED.keys() & names:
        error(f"--ranks {args.ranks}: would have no effect without a --vocab of "
              f"{', '.join(PUBLISHED)}")
    for option in ("workers", "min_frequency"):
        if getattr(args, option, 1) < 1:
            error(f"--{option.replace('_', '-')} {getattr(args, option)}: at least 1")
    if args.command == "encode" and not (0 <= args.val_percent < 100 and args.shard_tokens > 0):
        raise ValueError(f"--val-percent {args.val_percent} must be 0 to 99, --shard-tokens "
                         f"{args.shard_tokens} 1 or more")
    args.run = args.run or Path("out/demo")
