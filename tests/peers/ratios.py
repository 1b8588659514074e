"""ratios.py: how fast and how large this tree is, beside the tree of another commit.

    git worktree add ../old COMMIT
    python tests/peers/ratios.py ../old --run out/demo              all works, half an hour
    python tests/peers/ratios.py ../old --only "step of char" RL    some of them

Every work runs as a process of its own in both trees, in turns: old, new, new, old, and so on. The
table has the shortest time of each tree and the memory of its largest process. A ratio above 1
means that this tree is faster. Inputs are copied from a finished run for each process. Without a
command that shows the time of the work alone, the time is that of the whole process.
"""

import argparse
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("LONGHAND_DATA", ROOT.parent / "shared" / "data"))
WANTED = 0.95
REPEATS = 3                     # of a work that is measured inside its process

# ------------------------------------------------------------------ works measured inside a process


def room(*names):
    """The first of these modules that the tree has: they have moved."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(f"the tree has none of {', '.join(names)}")


def crawled_pages(data):
    """The bodies of all pages in a crawl of real ones."""
    warc = room("web.warc", "warc")
    records = warc.read_warc(data / "crawl-dev.warc.gz")
    return [record.body for record in records if record.type == "response"]


def extraction(data):
    """Main text of real pages."""
    pages, extract = crawled_pages(data), room("web.extract", "extract")
    return lambda: [extract.main_text(page) for page in pages]


def filters(data):
    """The rules of Gopher, C4 and FineWeb on the texts of real pages, each rule on each text."""
    texts = [text for text in extraction(data)() if text]
    rules = room("data")
    try:
        from web.quality import parts_of, words_of
        arguments = {"gopher_repetition": (words_of, parts_of), "gopher_quality": (words_of,),
                     "c4_quality": (), "fineweb_quality": (words_of,)}
    except ModuleNotFoundError:             # rules that split texts themselves
        names = "gopher_repetition", "gopher_quality", "c4_quality", "fineweb_quality"
        arguments = dict.fromkeys(names, ())

    def work():
        for text in texts:
            for name, more in arguments.items():
                getattr(rules, name)(text, *more)

    return work


def encoding(data, tokenizer):
    """Tokens of a text of some megabytes."""
    tokenizer = room("bpe").Tokenizer.load(tokenizer)
    text = (data / "english.txt").read_text(encoding="utf-8")
    return lambda: tokenizer.encode_ordinary(text)


def decoding(data, tokenizer):
    """The text of these tokens."""
    ids = encoding(data, tokenizer)()
    tokenizer = room("bpe").Tokenizer.load(tokenizer)
    return lambda: tokenizer.decode(ids)


def writing(_, model):
    """200 tokens, one after the other."""
    generate = room("chat.generate", "sample").generate
    params, cfg, tokenizer = room("sample").load_model(model)
    prompt = tokenizer.encode_ordinary("Once upon a time")
    settings = {"stop": frozenset(), "max_new_tokens": 200, "seed": 1, "tools": False}
    return lambda: generate(params, cfg, tokenizer, [prompt], **settings)


def inside(name, data, *more):
    """Print the shortest time of one of the works above."""
    room("model.cores", "cores")            # before numpy
    prepare = {f.__name__: f for f in (extraction, filters, encoding, decoding, writing)}[name]
    work, seconds = prepare(Path(data), *map(Path, more)), []
    for _ in range(REPEATS):
        beginning = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - beginning)
    print(json.dumps({"seconds": min(seconds)}))


# ---------------------------------------------------------------------------------------- the works


class Work(NamedTuple):
    """What is measured.

    commands: the arguments of Python. The first one whose file exists in a tree is run there.
    inputs: glob patterns of what it needs of a run.
    """

    name: str
    commands: list
    inputs: str = ""


TOKENS = "tokenizer* tokens/*"
WORKS = [
    Work("data.py", ["data.py --run RUN --blocklist RUN/blocklist"], "crawl/* blocklist/*/*"),
    Work("bpe.py train", ["bpe.py train --run RUN"], "docs/*.jsonl.gz"),
    Work("bpe.py encode", ["bpe.py encode --run RUN"], "docs/*.jsonl.gz tokenizer*"),
    Work("step of char", ["-m model.bench char", "train.py --bench char"]),
    Work("step of small", ["-m model.bench small", "train.py --bench small"]),
    Work("step of baby", ["-m model.bench baby", "train.py --bench baby"]),
    Work("train.py, 100 steps", ["train.py --run RUN --steps 100"], TOKENS),
    Work("SFT, 40 steps", ["align.py sft --run RUN --steps 40"], f"{TOKENS} base/* chat/* tasks/*"),
    Work("RL, 4 steps", ["align.py rl --run RUN --steps 4"], f"{TOKENS} sft/* chat/* tasks/*"),
    Work("writing 200 tokens", ["INSIDE --inside writing DATA RUN/base"], "base/*"),
    Work("serving 1,000 tokens", ["tests/peers/serve_load.py RUN/sft 15"], "sft/*"),
    Work("extraction", ["INSIDE --inside extraction DATA"]),
    Work("filters", ["INSIDE --inside filters DATA"]),
    Work("encode english.txt", ["INSIDE --inside encoding DATA RUN/tokenizer.json"], "tokenizer*"),
    Work("decode english.txt", ["INSIDE --inside decoding DATA RUN/tokenizer.json"], "tokenizer*"),
]


def command_in(tree, work, run):
    """The words of the first command whose file the tree has."""
    paths = {"INSIDE": Path(__file__).resolve(), "DATA": DATA, "RUN": run}
    for command in work.commands:
        words = []
        for word in command.split():
            first, slash, rest = word.partition("/")
            words.append(f"{paths.get(first, first)}{slash}{rest}")
        file = words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
        if (tree / file).exists():
            return words
    raise ValueError(f"{tree}: has no file of {' or '.join(work.commands)}")


def seconds_in(printed, wall_s):
    """The time of the work alone, if the process printed it, else that of the whole process."""
    last = printed.strip().splitlines()[-1:] or [""]
    if found := re.search(r'"seconds": ([0-9.e-]+)', last[0]):
        return float(found[1])
    if found := re.search(r'"ms_per_step": ([0-9.]+)', last[0]):
        return float(found[1]) / 1e3
    if found := re.search(r"^([0-9,]+) tokens a second, one client", printed, re.M):
        return 1e3 / float(found[1].replace(",", ""))
    return wall_s


def copy_inputs(work, run, to):
    """Copy what a work needs of a run to another folder."""
    to.mkdir()
    for pattern in work.inputs.split():
        for path in run.glob(pattern):
            copy = to / path.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)


def measure(tree, run, work):
    """(seconds, MB of the largest process) of a work in a tree, with a copy of its inputs."""
    with tempfile.TemporaryDirectory() as folder:
        here, out, err = (Path(folder) / name for name in ("run", "stdout", "stderr"))
        copy_inputs(work, run, here)
        words = command_in(tree, work, here)
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        with open(out, "w") as stdout, open(err, "w") as stderr:
            beginning = time.perf_counter()
            process = subprocess.Popen([sys.executable, *words], cwd=tree, env=environment,
                                       stdout=stdout, stderr=stderr)
            _, status, used = os.wait4(process.pid, 0)      # also of the processes it waited for
            wall_s = time.perf_counter() - beginning
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said = err.read_text(encoding="utf-8", errors="replace")[-500:]
            command = " ".join(words)
            raise ValueError(f"{command} in {tree} ended with {process.returncode}: {said}")
        return seconds_in(out.read_text(encoding="utf-8"), wall_s), used.ru_maxrss / 1024


def compare(work, trees, rounds):
    """Measure a work in both trees in turns, and print its line. trees: (tree, run), old first."""
    found = {tree: [] for tree, _ in trees}
    for i in range(rounds):
        for tree, run in trees if i % 2 == 0 else reversed(trees):
            found[tree].append(measure(tree, run, work))
    (old_s, old_mb), (new_s, new_mb) = (map(min, zip(*seen)) for seen in found.values())
    verdict = "" if old_s >= WANTED * new_s else f"   under {WANTED}"
    print(f"{work.name:22}{old_s:10.4g}{new_s:10.4g}{old_s / new_s:8.2f}{old_mb:10,.0f}"
          f"{new_mb:8,.0f}{verdict}", flush=True)


def parse_args(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0].partition(": ")[2])
    p.add_argument("old", type=Path, metavar="OLD", help="folder of the other commit's worktree")
    p.add_argument("--run", type=Path, default=ROOT / "out" / "demo", metavar="DIR",
                   help="finished run, only read (default: out/demo)")
    p.add_argument("--old-run", type=Path, metavar="DIR",
                   help="finished run of the other commit (default: that of --run)")
    p.add_argument("--rounds", type=int, default=4, metavar="N",
                   help="measurements in each tree (default: %(default)s)")
    p.add_argument("--only", nargs="+", metavar="WORK", choices=[work.name for work in WORKS],
                   help=f"some of: {', '.join(work.name for work in WORKS)}")
    return p.parse_args(argv)


def main():
    """Print the table; exit code 1 if a work failed."""
    if sys.argv[1:2] == ["--inside"]:
        inside(*sys.argv[2:])
        return 0
    args = parse_args()
    new_run, old_run = args.run.resolve(), (args.old_run or args.run).resolve()
    for run in new_run, old_run:
        if not (run / "sft" / "model.safetensors").exists():
            raise ValueError(f"{run}: no finished run; make one with: make RUN={run}")
    failed = False
    print(f"{'work':22}{'old s':>10}{'new s':>10}{'ratio':>8}{'old MB':>10}{'new MB':>8}")
    for work in WORKS:
        if args.only and work.name not in args.only:
            continue
        try:
            compare(work, [(args.old.resolve(), old_run), (ROOT, new_run)], args.rounds)
        except ValueError as error:
            print(f"{work.name:22}failed: {error}", flush=True)
            failed = True
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        print(f"ratios.py: error: {error}", file=sys.stderr)
        sys.exit(1)
