"""What a run of data.py is told: its options, and those of them that decide what becomes of a page.

Settings go into report.json, and a killed run goes on only with the same ones.
"""

import argparse
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from run import command, tasks

VERSIONS = ("0.10", "v1")       # of FineWeb's rules, see web/quality.py
ORDERS = ("paper", "script")    # of the stages, see data.ORDERS
PHASES = {                      # of a run, see web/pipeline.py
    "pages": tasks.ALL,
    "pairs": tasks.ALL,
    "clusters": tasks.FIRST,
    "rest": tasks.ALL,
    "shards": tasks.ALL,
    "publish": tasks.FIRST,
}
PII = ("email", "ip", "ssn", "phone")


@dataclass(frozen=True)
class Settings:
    """All that decides what becomes of a document."""
    blocklist: tuple = ()       # UT1 folders and files of domains
    hard_words: str = None      # files that replace the lists of words in web/urls.py
    soft_words: str = None
    subwords: str = None
    suffixes: str = None        # public suffix list
    languages: tuple = ("en",)
    language_model: str = None
    tokenizer: str = None
    pii: tuple = ("email", "ip")
    fineweb: str = "0.10"       # one of VERSIONS
    order: str = "paper"        # one of ORDERS
    rights: bool = True         # ask pages for their rights

    @property
    def files(self):
        """The files that the settings name."""
        named = (*self.blocklist, self.hard_words, self.soft_words, self.subwords, self.suffixes,
                 self.language_model, self.tokenizer)
        return [path for path in named if path]


def parse_args(argv):
    """data.py's command line."""
    parser = argparse.ArgumentParser(
        prog="data.py", description="A raw web crawl in, clean documents out, as FineWeb does it.",
        epilog="python data.py crawl --help: how to fetch pages yourself")
    add = parser.add_argument
    add("paths", nargs="*", metavar="WARC_OR_DIR",
        help="WARC, WET or ARC files, or their addresses; texts in .parquet or .jsonl.gz files; "
             "folders of them (default: RUN/crawl)")
    add("--crawl", metavar="NAME",
        help="instead of paths: a crawl of Common Crawl, such as CC-MAIN-2024-51")
    add("--files", type=int, metavar="N",
        help="the first N files of --crawl, about a gigabyte each (default: 1)")
    add("--run", default="out/demo", metavar="DIR",
        help="run folder, documents go to DIR/docs (default: %(default)s)")
    add("--workers", type=int, default=tasks.workers_here(), metavar="N",
        help="processes (default: one per CPU, here %(default)s)")
    add("--dump", metavar="NAME",
        help="the column dump (default: CC-MAIN-... if the path has it, else local)")

    add = parser.add_argument_group("filters").add_argument
    add("--blocklist", nargs="+", default=[], metavar="PATH",
        help="UT1 folders, or files with a domain on each line (default: none)")
    add("--hard-words", metavar="FILE",
        help="words of URLs of which one is enough, a line each (default: a short list)")
    add("--soft-words", metavar="FILE",
        help="words of URLs of which two are enough, a line each (default: a short list)")
    add("--subwords", metavar="FILE",
        help="parts of URLs, a line each (default: a short list)")
    add("--public-suffixes", metavar="FILE",
        help="public_suffix_list.dat (default: a rule of thumb)")
    add("--language", nargs="+", default=["en"], metavar="CODE",
        help="languages to keep (default: en)")
    add("--language-model", metavar="FILE",
        help="fastText model, .bin or .ftz (default: web/language.ftz)")
    add("--index", nargs="+", default=[], metavar="FILE",
        help="band keys of earlier crawls: their near-duplicates go too (default: none)")
    add("--save-index", metavar="FILE", help="write the band keys of this crawl (default: none)")
    add("--pii", nargs="*", default=["email", "ip"], choices=PII,
        help="what is replaced; ssn and phone are US numbers (default: email ip)")
    add("--tokenizer", metavar="FILE",
        help="count tokens with this tokenizer (default: token_count is null)")

    add = parser.add_argument_group("which FineWeb").add_argument
    add("--fineweb", choices=VERSIONS, default="0.10",
        help="rules of datatrove 0.10, or those of FineWeb v1 (default: %(default)s)")
    add("--order", choices=ORDERS, default="paper",
        help="minhash before c4 as in the paper, or after fineweb as in datatrove's script "
             "(default: %(default)s)")
    add("--no-rights", dest="rights", action="store_false",
        help="do not ask pages for their rights, and note no licences")

    tasks.add_options(parser, PHASES)

    add = parser.add_argument_group("instead of a run").add_argument
    add("--check", action="store_true",
        help="check data.py: its doctests, and a made-up page for each stage")
    args = parser.parse_args(argv)
    check(args, parser, argv)
    return args


def check(args, parser, argv):
    """End with an error if options do not go together."""
    if args.check:
        why = "would have no effect; --check reads no crawl"
        if args.paths:
            parser.error(f"{args.paths[0]}: {why}")
        if not args.rights:
            parser.error(f"--no-rights: {why}")
        command.refuse(parser, argv, {"check", "paths"}, "--check reads no crawl")
    tasks.check_options(parser, args, PHASES)
    for name, n in (("workers", args.workers), ("files", args.files)):
        if n is not None and n < 1:
            parser.error(f"--{name} {n}: at least 1")
    if args.files is not None and args.crawl is None:
        parser.error(f"--files {args.files}: counts the files of a --crawl, and none is named")
    if args.crawl == "":
        parser.error("--crawl: the name is empty; give one, such as CC-MAIN-2024-51")
    if args.crawl and args.paths:
        parser.error(f"--crawl {args.crawl} and {args.paths[0]}: one or the other")


def settings_of(args):
    """The Settings of these options."""
    given = {**vars(args), "suffixes": args.public_suffixes, "languages": args.language}
    settings = {}
    for field in fields(Settings):
        value = given[field.name]
        settings[field.name] = tuple(value) if isinstance(value, list) else value
    return Settings(**settings)


def slurm_script(args, argv):
    """The script of --slurm N, which runs this command as N tasks."""
    script = str(Path(__file__).resolve().parents[1] / "data.py")
    words = [sys.executable, script, *tasks.without_slurm(argv)]
    return tasks.slurm_script(words, args.slurm, PHASES, f"{args.run}/log")
