"""growth.py: how time and memory grow with the input, stage by stage, ours and the peers'.

    python tests/peers/growth.py                    docs/growth.md and docs/growth/*.svg
    python tests/peers/growth.py --only pages rows  measure some stages again

Each point is measured in a process of its own on one core: processor seconds of the work without
what prepares it, and the most memory that the process had meanwhile. Finished points are kept in
out/growth.json. A run that was interrupted goes on after the last one, and a finished run only
draws again. With --fresh nothing is kept. All of it takes a quarter of an hour.

The processes of a stage and side are forks of one that has imported everything:

    driver -> python growth.py --series pages ours 30 100 ...      imports
              fork for 30       prepares the input
                  fork          does the work, and measures itself
                  fork          the same again, of short works
              fork for 100      and so on
"""

import argparse
import json
import math
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import growth_plot

ROOT = Path(__file__).resolve().parents[2]
POINTS = ROOT / "out" / "growth.json"
PAGE, PLOTS = ROOT / "docs" / "growth.md", ROOT / "docs" / "growth"
SIDES = "ours", "theirs"
FORK = multiprocessing.get_context("fork")
SHORT_S, ROUNDS = 1.0, 3        # works that take less are done in so many processes
REPEAT_S = 0.5                  # so long a work is repeated in its process
TOLERANCE = 0.15                # of an exponent, for noise
FREE_MB = 5                     # that a process has before the work; adding less is no growth


class Stage(NamedTuple):
    """A row of the table below. The works are NAME_ours and NAME_theirs of growth_works.py.

    theirs   the last n at which the peer is measured; None: there is no peer
    repeat   whether the work is repeated in one process; else it is done in new ones, because the
             second time would be faster
    expected, exponent   how time should grow, and the largest exponent that this allows
    """

    title: str
    unit: str
    numbers: list
    theirs: int
    peer: str
    repeat: bool
    expected: str
    exponent: float
    about: str


def numbers(first, last, steps=(1, 3)):
    """1, 3, 10, 30 and so on from first to last."""
    all_numbers = [step * 10**k for k in range(8) for step in steps]
    return [n for n in all_numbers if first <= n <= last]


def powers(first, last):
    """16, 64, 256 and so on."""
    return [4**k for k in range(10) if first <= 4**k <= last]


LINEAR, SORTED, SQUARE = ("n", 1.0), ("n log n", 1.1), ("n^2", 2.0)
STAGES = {
    "pages": Stage(
        "Pages to documents", "pages", numbers(30, 30_000), 3000, "trafilatura + datatrove",
        False, *SORTED,
        "`data.run` on a crawl of the embedded web: all eight stages. The peer is trafilatura "
        "with datatrove's four filters, which looks for no near-duplicates and writes nothing."),
    "encode": Stage(
        "Text to tokens", "characters", numbers(10_000, 10_000_000), 10_000_000, "tiktoken",
        False, *LINEAR,
        "English, cl100k, for the first time: hardly a piece is remembered yet."),
    "piece": Stage(
        "One long piece to tokens", "letters", numbers(1000, 1_000_000), 1_000_000, "tiktoken",
        False, *SORTED,
        "Letters by lot without a space are a single piece, which BPE merges as a whole. "
        "The plain definition takes n^2."),
    "decode": Stage(
        "Tokens to text", "tokens", numbers(1000, 1_000_000), 1_000_000, "tiktoken",
        True, *LINEAR, "A list of ids by lot to text."),
    "corpus": Stage(
        "Training a vocabulary, by text", "characters", numbers(10_000, 10_000_000), 10_000_000,
        "rustbpe", False, *LINEAR,
        "4,096 tokens from English. Counting pieces grows with the text, merging with the number "
        "of different pieces, which grows more slowly."),
    "vocabulary": Stage(
        "Training a vocabulary, by tokens", "tokens", [300, 1000, 3000, 10_000, 32_768, 65_536],
        65_536, "rustbpe", False, *LINEAR,
        "From 11.8 MB of English. Counting pieces takes the same time for all; later merges "
        "touch fewer places."),
    "forward": Stage(
        "Losses, by positions", "positions", powers(16, 16_384), 16_384, "PyTorch",
        True, *SQUARE,
        "One row of T tokens through 4 blocks of 128 channels. Attention takes T^2 operations, "
        "everything else T. Memory should grow like T: no square of scores exists at once."),
    "training": Stage(
        "A training step, by positions", "positions", powers(16, 16_384), 16_384, "PyTorch",
        True, *SQUARE, "The same model and row: forward, backward, clipping and AdamW."),
    "prompt": Stage(
        "Reading a prompt, by positions", "positions", powers(16, 4096), 4096, "transformers",
        True, *SQUARE, "The same model reads T tokens into an empty cache."),
    "token": Stage(
        "A hundred tokens behind a prompt", "positions", powers(16, 16_384), 16_384,
        "transformers", True, *LINEAR,
        "The same model with T tokens in the cache decodes one more, 100 times. Attention "
        "looks at all of them, everything else takes the same time at each position."),
    "batch": Stage(
        "A training step, by rows", "rows", [1, 3, 10, 30, 100, 256], 256, "PyTorch",
        True, *LINEAR,
        "Rows of 128 tokens, as many at once as train.py takes, so memory should not grow "
        "beyond 64 rows. PyTorch takes all at once."),
    "rows": Stage(
        "Replies side by side", "replies", numbers(1, 1000), 1000, "transformers",
        True, *LINEAR, "32 tokens behind each of n different prompts of 16 tokens."),
    "clients": Stage(
        "Clients of the server", "clients", [1, 4, 16, 64, 256], None, None,
        False, *LINEAR,
        "Each client asks at once for a reply of 200 tokens from an untrained model of the demo's "
        "shape. The server writes 32 at a time, and the others wait or ask again."),
}

# Said on the page where an exponent is larger than it should be.
REASONS = {
    "rows": "Each prompt is compared with all places of the cache.",
    "clients": "Clients that find the queue full ask again.",
}

# ------------------------------------------------------------------------------------- measurements


def used():
    """(processor seconds, peak MB) of this process so far."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime, own.ru_maxrss / 1024


def in_fork(function):
    """What a function returns in a copy of this process."""
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=lambda: sender.send(function()))
    process.start()
    sender.close()
    try:
        return receiver.recv()              # EOFError if the copy has died
    finally:
        process.join()


def do(work, repeat):
    """Do a work and measure it: {"seconds", "before_mb", "mb"}. before_mb: before it began."""
    _, before_mb = used()
    seconds = []
    while not seconds or repeat and sum(seconds) < REPEAT_S:
        begun, _ = used()
        found = work()
        seconds.append(used()[0] - begun)
    if isinstance(found, dict) and "before_mb" in found:        # it measures another process
        return found
    return {"seconds": min(seconds), "before_mb": before_mb, "mb": used()[1]}


def point(prepare, n, repeat):
    """The least that some processes use for the work of size n. For a long one, one is enough."""
    work = prepare(n)
    found = [in_fork(lambda: do(work, repeat))]
    while len(found) < ROUNDS and found[0]["seconds"] < SHORT_S and not repeat:
        found.append(in_fork(lambda: do(work, repeat)))
    return {key: min(each[key] for each in found) for key in found[0]}


def series(name, side, sizes):
    """Print a line of JSON for each size: [n, point]."""
    import growth_works

    prepare = getattr(growth_works, f"{name}_{side}")
    prepare(STAGES[name].numbers[0])                # to import what it needs
    for n in sizes:
        found = in_fork(lambda: point(prepare, n, STAGES[name].repeat))
        print(json.dumps([n, found]), flush=True)


def measured(name, side, sizes):
    """Yield (n, point), from a new process on one core. RuntimeError where it fails."""
    words = [sys.executable, str(Path(__file__).resolve()), "--series", name, side]
    core = {max(os.sched_getaffinity(0))}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([*words, *map(str, sizes)], stdout=subprocess.PIPE, text=True,
                                   stderr=errors, preexec_fn=lambda: os.sched_setaffinity(0, core))
        for line in process.stdout:
            if line.startswith("["):                # and not what a library prints
                yield json.loads(line)
        if process.wait():
            errors.seek(0)
            raise RuntimeError(f"{name} {side}: {errors.read().strip()[-600:]}")


def sizes(name, side):
    """At which n a stage is measured."""
    stage = STAGES[name]
    most = stage.numbers[-1] if side == "ours" else stage.theirs or 0
    return [n for n in stage.numbers if n <= most]


def measure_missing(name, side, points):
    """Add the points of a stage and side that are not in points {"stage side n": point}."""
    missing = [n for n in sizes(name, side) if f"{name} {side} {n}" not in points]
    begun = time.perf_counter()
    try:
        for n, found in measured(name, side, missing) if missing else ():
            points[f"{name} {side} {n}"] = found
            print(f"{name:12}{side:8}{n:12,}{found['seconds']:12.5f} s{found['mb']:9,.0f} MB   "
                  f"({time.perf_counter() - begun:.0f} s)", flush=True)
            POINTS.parent.mkdir(exist_ok=True)
            temporary = POINTS.with_suffix(".tmp")
            temporary.write_text(json.dumps(points, indent=0), encoding="utf-8")
            temporary.replace(POINTS)
    except RuntimeError as error:                   # the stage is not drawn
        print(f"failed: {error}", file=sys.stderr)


# --------------------------------------------------------------------------------------- evaluation


def last_decade(curve):
    """The points [(n, value)] from a tenth of the last n on."""
    last = curve[-1][0]
    return [(n, value) for n, value in curve if n >= 0.09 * last]


def exponent(curve):
    """The slope of log value over log n in the last decade: n^2 has 2."""
    some = last_decade(curve)
    xs = [math.log(n) for n, _ in some]
    ys = [math.log(value) for _, value in some]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((a - x) * (b - y) for a, b in zip(xs, ys))
    return above / sum((a - x) ** 2 for a in xs)


def curve_of(name, side, points, value):
    """[(n, value(point))] of a stage and side."""
    return [(n, value(points[f"{name} {side} {n}"])) for n in sizes(name, side)]


def seconds(point):
    """Of processor time; above 0, for its logarithm is taken."""
    return max(point["seconds"], 1e-6)


def added_mb(point):
    """What the work added to the memory of its process, and what was free there already."""
    return max(point["mb"] - point["before_mb"], 0) + FREE_MB


class Growth(NamedTuple):
    """Of a stage and side: the exponents of time and memory, and the bytes of one n more. None
    where hardly any memory was added."""

    time: float = None
    memory: float = None
    each: float = None


def growth_of(name, side, points):
    """The Growth; all None for a side that is not there."""
    if not sizes(name, side):
        return Growth()
    time = exponent(curve_of(name, side, points, seconds))
    added = curve_of(name, side, points, added_mb)
    (few, least), *_, (many, most) = last_decade(added)
    if most < 2 * FREE_MB:
        return Growth(time)
    return Growth(time, exponent(added), 2**20 * (most - least) / (many - few))


def figure(x, digits=3):
    """A number with so many digits."""
    if x >= 10**digits:
        return f"{x:,.0f}"
    return f"{x:.{max(0, digits - 1 - math.floor(math.log10(x)))}f}"


def is_worse(x, most):
    """Whether an exponent is larger than it should be."""
    return x is not None and x > most + TOLERANCE


def cell(x, most=math.inf):
    """An exponent in the table, bold if it is too large."""
    if x is None:
        return "-"
    return f"**{x:.2f}**" if is_worse(x, most) else f"{x:.2f}"


def bytes_cell(x):
    """A number of bytes in the table.

    >>> [bytes_cell(x) for x in (None, 1.84, 73_000)]
    ['-', '1.8', '73 k']
    """
    if x is None:
        return "-"
    for factor, letter in ((1e6, " M"), (1e3, " k")):
        if x >= factor:
            return figure(x / factor, 2) + letter
    return figure(max(x, 0.01), 2)


def plot(name, points):
    """Write the drawing of a stage."""
    stage = STAGES[name]
    names = dict(zip(SIDES, ("Longhand", stage.peer)))
    panels = []
    for label, value in (("processor seconds", seconds), ("peak memory of the process, MB",
                                                          lambda point: point["mb"])):
        curves = {}
        for side in SIDES[:2 if stage.theirs else 1]:
            curves[names[side]] = curve_of(name, side, points, value)
        panels.append(growth_plot.Panel(label, curves))
    PLOTS.mkdir(exist_ok=True)
    text = growth_plot.drawing(stage.title, stage.unit, panels)
    (PLOTS / f"{name}.svg").write_text(text, encoding="utf-8")


# ---------------------------------------------------------------------------------- docs/growth.md

HEAD = """# How cost grows

One plot a stage, over three decades of input where memory allows: processor seconds and peak
memory on one core, ours and the peer's. All axes are logarithmic. The dashed lines rise in
proportion to n: what is parallel to one grows like n. `python tests/peers/growth.py` measures,
draws and writes this page; `--only NAME` measures one stage again. Seconds are those of the work
alone. Memory is the most that the process had, with its libraries and its input.

In this table, time and memory are exponents: slopes in the last decade, 1 for what grows like n,
2 for what grows like n^2. The exponent of memory is that of what the work adds, plus 5 MB that a
process has free before. The last columns say how many bytes one more page (or token, or row) takes
there. A dash means that hardly any memory is added. **Bold** exponents are larger than they should
be.

"""


def summary(names, points):
    """Yields the lines of the table of exponents."""
    yield ("| stage | n | time should be | time | peer's time | memory | peer's memory "
           "| bytes each | peer's bytes |")
    yield "|" + " --- |" * 9
    for name in names:
        stage = STAGES[name]
        ours, theirs = (growth_of(name, side, points) for side in SIDES)
        anchor = stage.title.lower().replace(",", "").replace(" ", "-")
        cells = [f"[{name}](#{anchor})", stage.unit, stage.expected,
                 cell(ours.time, stage.exponent), cell(theirs.time), cell(ours.memory, 1),
                 cell(theirs.memory), bytes_cell(ours.each), bytes_cell(theirs.each)]
        yield f"| {' | '.join(cells)} |"


def section(name, points):
    """Yields the lines about a stage."""
    stage = STAGES[name]
    sides = SIDES[:2 if stage.theirs else 1]
    about, ours = stage.about, growth_of(name, "ours", points)
    if is_worse(ours.time, stage.exponent) or is_worse(ours.memory, 1):
        reason = REASONS.get(name, "The reason is not known.")
        about += f" **Worse than {stage.expected}.** {reason}"
    yield f"## {stage.title}\n\n{textwrap.fill(about, 100)}\n"
    yield f'<img src="growth/{name}.svg" width="840" alt="{stage.title}">\n'
    heads = [stage.unit, *(f"seconds{of}" for of in ("", f", {stage.peer}")[:len(sides)])]
    heads += [f"MB{of}" for of in ("", f", {stage.peer}")[:len(sides)]]
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for n in stage.numbers:
        found = [points.get(f"{name} {side} {n}") for side in sides]
        cells = [figure(seconds(point)) if point else "" for point in found]
        cells += [f"{point['mb']:,.0f}" if point else "" for point in found]
        yield f"| {n:,} | {' | '.join(cells)} |"
    yield ""


def is_complete(name, points):
    """Whether no point of a stage is missing."""
    keys = [f"{name} {side} {n}" for side in SIDES for n in sizes(name, side)]
    return all(key in points for key in keys)


def write_page(points):
    """Draw every stage of which all points are there, and write the page."""
    names = [name for name in STAGES if is_complete(name, points)]
    lines = [*summary(names, points), ""]
    for name in names:
        plot(name, points)
        lines += section(name, points)
    PAGE.write_text(HEAD + "\n".join(lines), encoding="utf-8")
    print(*summary(names, points), sep="\n")


def parse_args():
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0].partition(": ")[2])
    p.add_argument("--only", nargs="+", choices=STAGES, metavar="NAME",
                   help=f"measure these again: {', '.join(STAGES)}")
    p.add_argument("--fresh", action="store_true", help="measure everything again")
    p.add_argument("--series", nargs="+", help=argparse.SUPPRESS)
    return p.parse_args()


def main():
    """Measure what is missing, then draw; exit code 1 if something failed."""
    args = parse_args()
    if args.series:
        name, side, *of = args.series
        series(name, side, map(int, of))
        return 0
    names = args.only or list(STAGES)
    points = json.loads(POINTS.read_text(encoding="utf-8")) if POINTS.exists() else {}
    if args.only or args.fresh:
        points = {key: x for key, x in points.items() if key.split()[0] not in names}
    for name in names:
        for side in SIDES:
            measure_missing(name, side, points)
    write_page(points)
    return int(not all(is_complete(name, points) for name in names))


if __name__ == "__main__":
    sys.exit(main())
