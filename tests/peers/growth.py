"""growth.py: how time and memory grow with the input, stage by stage, ours and the peers'.

    python tests/peers/growth.py                    docs/growth.md and docs/growth/*.svg
    python tests/peers/growth.py --only pages rows  measure some stages again

Each point is measured in a process of its own on one core: processor seconds of the work without
what prepares it, and the most memory that the process ever had. Finished points are kept in
out/growth.json. A run that was interrupted goes on after the last one, and a finished run only
draws again. With --fresh nothing is kept. All of it takes a quarter of an hour.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import growth_plot

ROOT = Path(__file__).resolve().parents[2]
POINTS = ROOT / "out" / "growth.json"
PAGE, PLOTS = ROOT / "docs" / "growth.md", ROOT / "docs" / "growth"
SIDES = "ours", "theirs"
SHORT_S, ROUNDS = 1.0, 3        # works that take less are measured in so many processes
REPEAT_S = 1.0                  # so long a work is repeated in its process
TOLERANCE = 0.15                # of an exponent, for noise
FEW_MB = 3                      # less is no growth


class Stage(NamedTuple):
    """A row of the table below. The works are NAME_ours and NAME_theirs of growth_works.py.

    theirs   the last n at which the peer is measured; None: there is no peer
    repeat   whether the same work is repeated in its process, where nothing is remembered
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

# ------------------------------------------------------------------------------------- measurements


def used():
    """(processor seconds, peak MB) of this process so far."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime, own.ru_maxrss / 1024


def measure_here(name, side, n):
    """One point: {"seconds", "before_mb", "mb"}. before_mb: memory before the work began."""
    import growth_works

    work = getattr(growth_works, f"{name}_{side}")(n)
    _, before_mb = used()
    seconds = []
    while not seconds or STAGES[name].repeat and sum(seconds) < REPEAT_S:
        begun, _ = used()
        found = work()
        seconds.append(used()[0] - begun)
        if isinstance(found, dict) and "before_mb" in found:    # of another process
            return found
    return {"seconds": min(seconds), "before_mb": before_mb, "mb": used()[1]}


def measure(name, side, n):
    """The same, in a new process on one core."""
    words = [sys.executable, str(Path(__file__).resolve()), "--point", name, side, str(n)]
    core = {max(os.sched_getaffinity(0))}
    done = subprocess.run(words, capture_output=True, text=True,
                          preexec_fn=lambda: os.sched_setaffinity(0, core))
    if done.returncode:
        raise RuntimeError(f"{name} {side} {n}: {done.stderr.strip()[-600:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def best(name, side, n):
    """The least that some processes use; of a long work one process is enough."""
    found = [measure(name, side, n)]
    rounds = 1 if STAGES[name].repeat else ROUNDS
    while len(found) < rounds and found[0]["seconds"] < SHORT_S:
        found.append(measure(name, side, n))
    return {key: min(point[key] for point in found) for key in found[0]}


def wanted(name):
    """The points (side, n) of a stage, ours and the peer's in turns."""
    stage = STAGES[name]
    for n in stage.numbers:
        yield "ours", n
        if stage.theirs and n <= stage.theirs:
            yield "theirs", n


def measure_all(names, points):
    """Measure what is missing in points {"stage side n": point}, and keep it."""
    for name in names:
        for side, n in wanted(name):
            key = f"{name} {side} {n}"
            if key in points:
                continue
            begun = time.perf_counter()
            try:
                points[key] = best(name, side, n)
            except RuntimeError as error:           # its stage is not drawn
                print(f"failed: {error}", file=sys.stderr)
                continue
            print(f"{key:28}{points[key]['seconds']:10.4f} s{points[key]['mb']:9.0f} MB"
                  f"   ({time.perf_counter() - begun:.0f} s)", flush=True)
            POINTS.parent.mkdir(exist_ok=True)
            temporary = POINTS.with_suffix(".tmp")
            temporary.write_text(json.dumps(points, indent=0), encoding="utf-8")
            temporary.replace(POINTS)


# ---------------------------------------------------------------------------------------- evaluation


def exponent(curve):
    """The slope of log value over log n in the last decade of [(n, value)]: n^2 has 2."""
    last = max(n for n, _ in curve)
    xs = [math.log(n) for n, _ in curve if n >= 0.99 * last / 10]
    ys = [math.log(value) for n, value in curve if n >= 0.99 * last / 10]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((a - x) * (b - y) for a, b in zip(xs, ys))
    return above / sum((a - x) ** 2 for a in xs)


def curve_of(name, side, points, value):
    """[(n, value(point))] of a stage and side."""
    return [(n, value(points[f"{name} {each} {n}"])) for each, n in wanted(name) if each == side]


def seconds(point):
    return max(point["seconds"], 1e-6)


def growth_mb(point):
    """What the work added to the memory of its process."""
    return max(point["mb"] - point["before_mb"], 0.01)


def memory_exponent(curve):
    """The exponent of growth_mb; None where hardly any memory was added."""
    return exponent(curve) if curve[-1][1] > FEW_MB else None


def figure(x):
    """Three digits of a number."""
    if x >= 1000:
        return f"{x:,.0f}"
    return f"{x:.{max(0, 2 - math.floor(math.log10(x)))}f}"


def number_or_dash(x):
    return "-" if x is None else f"{x:.2f}"


def exponents(name, side, points):
    """(of time, of memory), or (None, None) for a side that is not there."""
    if side == "theirs" and not STAGES[name].theirs:
        return None, None
    memory = memory_exponent(curve_of(name, side, points, growth_mb))
    return exponent(curve_of(name, side, points, seconds)), memory


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
memory on one core, ours and the peer's. All axes are logarithmic, and the dashed lines rise in
proportion to n. `python tests/peers/growth.py` measures, draws, and writes this page; `--only
NAME` measures one stage again. Seconds are those of the work alone. Memory is the most that the
process had, with its libraries and input.

The exponent is the slope in the last decade: 1 for what grows like n, 2 for what grows like n^2.
That of memory is of what the work adds; a dash means under 3 MB. **Bold** figures are worse than
they should be.

"""


def summary(names, points):
    """Yields the lines of the table of exponents."""
    yield "| stage | over | should be | time | peer's | memory | peer's |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name in names:
        stage = STAGES[name]
        (time_ours, memory), (time_theirs, memory_theirs) = (
            exponents(name, side, points) for side in SIDES)
        shown = [number_or_dash(x) for x in (time_ours, time_theirs, memory, memory_theirs)]
        if time_ours > stage.exponent + TOLERANCE:
            shown[0] = f"**{shown[0]}**"
        if memory and memory > 1 + TOLERANCE:
            shown[2] = f"**{shown[2]}**"
        link = f"[{name}](#{stage.title.lower().replace(',', '').replace(' ', '-')})"
        yield f"| {link} | {stage.unit} | {stage.expected} | {' | '.join(shown)} |"


def section(name, points):
    """Yields the lines about a stage."""
    stage = STAGES[name]
    sides = SIDES[:2 if stage.theirs else 1]
    yield f"## {stage.title}\n\n{stage.about}\n"
    yield f'<img src="growth/{name}.svg" width="840" alt="{stage.title}: time and memory">\n'
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


def write_page(points):
    """Draw every stage of which all points are there, and write the page."""
    names = [name for name in STAGES
             if all(f"{name} {side} {n}" in points for side, n in wanted(name))]
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
    p.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    return p.parse_args()


def main():
    """Measure what is missing, then draw."""
    args = parse_args()
    if args.point:
        name, side, n = args.point
        print(json.dumps(measure_here(name, side, int(n))))
        return
    names = args.only or list(STAGES)
    points = json.loads(POINTS.read_text(encoding="utf-8")) if POINTS.exists() else {}
    if args.only or args.fresh:
        points = {key: x for key, x in points.items() if key.split()[0] not in names}
    measure_all(names, points)
    write_page(points)


if __name__ == "__main__":
    main()
