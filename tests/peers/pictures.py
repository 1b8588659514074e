"""pictures.py: the pictures of README.md and docs/, drawn from a finished run.

    make pictures                                   from out/demo, into docs/pictures
    python tests/peers/pictures.py out/demo         the same

Plots are drawn by matplotlib as SVG; browsers that are set to dark get dark colours. The page is
photographed in Chromium, in light and in dark.
"""

import argparse
import contextlib
import json
import re
import sys
import textwrap
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import sample                           # noqa: E402  before numpy
import matplotlib                       # noqa: E402
import numpy as np                      # noqa: E402
from matplotlib.figure import Figure    # noqa: E402

import gpt                              # noqa: E402
from chat import generate, serve, served  # noqa: E402
from chromium import PATHS              # noqa: E402
from run import disk                    # noqa: E402
from tokens import shards               # noqa: E402

OUT = ROOT / "docs/pictures"
STYLE = {"font.size": 11, "legend.frameon": False, "svg.fonttype": "none", "axes.spines.top": False,
         "axes.spines.right": False, "font.family": "sans-serif", "svg.hashsalt": "longhand"}
COLOURS = {                             # {name: (in light, in dark)}
    "ink": ("#22242a", "#e6e4df"),
    "soft": ("#6b6e76", "#9b9da4"),
    "line": ("#d8d5cd", "#303339"),
    "blue": ("#2f5d8c", "#8ab4e8"),
    "orange": ("#b0601f", "#e8a46a"),
    "wash": ("#dbe6f1", "#2a3d52"),
    "tint": ("#f3e3d3", "#4a3523"),
}
INK, SOFT, LINE, BLUE, ORANGE, WASH, TINT = (light for light, _ in COLOURS.values())
INKED = {"text.color": INK, "axes.edgecolor": SOFT, "axes.labelcolor": INK, "xtick.color": SOFT,
         "ytick.color": SOFT}
BEGINNING = "The postmistress found"
FEW = 0.01                              # a token of less probability gets no box in coin()
QUESTIONS = ["Who are you?", "What food should I bring for the glulblow?",
             "Work out 37 times 48 for me."]


# ----------------------------------------------------------------------------------------- drawing

def save(figure, name):
    """Write a figure as OUT/NAME.svg, with a second set of colours for dark pages."""
    path = OUT / f"{name}.svg"
    figure.savefig(path, transparent=True, metadata={"Date": None})
    text = path.read_text(encoding="utf-8")
    for colour, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{colour})")
    light, dark = (" ".join(f"--{colour}: {pair[i]};" for colour, pair in COLOURS.items())
                   for i in (0, 1))
    style = f"<style>svg {{ {light} }}\n@media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}"
    text = text.replace("<defs>", f"{style}</style>\n <defs>", 1)
    disk.write_text(path, text)


def plain_axes(figure):
    """Axes without frame and ticks, from (0, 0) to (1, 1), over the whole figure."""
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    return axes


# -------------------------------------------------------------------------------- the whole chain

def said(run, stage, pattern):
    """What a pattern finds in what a stage of make printed."""
    return re.findall(pattern, (run / f"log/{stage}.txt").read_text(encoding="utf-8"))


def rows_of_chain(run):
    """[(what happens, by which file, what came out, how much of it)] of a run, in its order."""
    report = disk.read_json(run / "docs/report.json")
    pages = next(iter(report["stages"].values()))["documents_in"]
    documents = list(report["stages"].values())[-1]["documents_out"]
    n_tokens = sum(shards.open_shard(path).size for path in (run / "tokens").glob("*.bin"))
    bits, counted = said(run, "5-base", r"(?:model|5-gram) .*?([\d.]+) bits a byte")
    known, = said(run, "6-sft", r"facts ([\d.]+)% right")
    before, after = said(run, "7-rl", r"right ([\d.]+)% -> ([\d.]+)%")[0]
    return [
        ("a crawl of the web", "", f"{pages:,} pages"),
        ("keep the good text", "data.py", f"{documents:,} documents"),
        ("cut it into tokens", "bpe.py", f"{n_tokens:,} tokens"),
        ("predict the next token", "gpt.py, train.py",
         f"{float(bits):.2f} bits a byte (5-gram: {float(counted):.2f})"),
        ("imitate conversations", "align.py sft",
         f"knows {float(known):.0f} % of the well-known facts"),
        ("reinforce right answers", "align.py rl",
         f"puzzles right: {float(before):.0f} → {float(after):.0f} %"),
        ("write one token after another", "sample.py", "you can talk to it"),
    ]


def chain(run):
    """Every stage, from the crawl to the chat, with what came out. For a narrow screen."""
    rows = rows_of_chain(run)
    figure = Figure((4.2, 4.9))
    axes = plain_axes(figure)
    height = 1 / len(rows)
    for i, (what, file, count) in enumerate(rows):
        y = 1 - (i + 0.5) * height
        fill = TINT if i in (0, len(rows) - 1) else WASH
        axes.add_patch(box(0.02, y - 0.36 * height, 0.96, 0.72 * height, fill))
        axes.text(0.05, y + 0.12 * height, what, va="center", fontsize=11, color=INK)
        axes.text(0.05, y - 0.17 * height, count, va="center", fontsize=11, weight="bold",
                  color=BLUE)
        axes.text(0.95, y + 0.12 * height, file, va="center", ha="right", fontsize=10, color=SOFT)
        if i:
            axes.annotate("", (0.5, y + 0.36 * height), (0.5, y + 0.64 * height),
                          arrowprops={"arrowstyle": "->", "color": SOFT})
    save(figure, "chain")


def box(x, y, width, height, fill):
    """A box with round corners."""
    from matplotlib.patches import FancyBboxPatch
    return FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.015",
                          facecolor=fill, edgecolor="none")


# ---------------------------------------------------------------------------------------- training

def loss(run):
    """The loss of base along its steps, and what it dreams at up to four of them."""
    log = [row for _, row in disk.read_jsonl(run / "base/log.jsonl")]
    dreams = [row for row in log if row.get("dream")]
    places = np.unique(np.linspace(0, len(dreams) - 1, 4).round().astype(int))
    figure = Figure((7.0, 5.4), layout="constrained")
    axes, words = figure.subplots(2, 1, height_ratios=(3, 2))
    axes.plot([row["step"] for row in log], [row["loss_nats"] for row in log], color=BLUE,
              linewidth=0.8, label="a batch of what it reads")
    validated = [row for row in log if row.get("val_loss_nats") is not None]
    axes.plot([row["step"] for row in validated], [row["val_loss_nats"] for row in validated],
              "o", color=ORANGE, markersize=5, label="pages that it never reads")
    axes.set(xlabel="step", ylabel="loss (nats a token)", ylim=(0, None))
    axes.legend()
    words.axis("off")
    for i, place in enumerate(places):
        row = dreams[place]
        text = textwrap.shorten(" ".join(row["dream"].split()), 88, placeholder=" ...")
        words.text(0, 1 - i / 4, f"step {row['step']:,}", color=ORANGE, fontsize=10, va="top",
                   transform=words.transAxes)
        words.text(0.14, 1 - i / 4, textwrap.fill(text, 60), color=INK, fontsize=10, va="top",
                   transform=words.transAxes)
    save(figure, "loss")


def coin(run):
    """A model gives probabilities; a coin decides. Three tokens are drawn, one after the other."""
    params, cfg, tokenizer = sample.load_model(run / "base")
    ids = [*generate.document_begin(tokenizer), *tokenizer.encode_ordinary(BEGINNING)]
    rng = np.random.default_rng(1)
    figure = Figure((7.0, 3.6))
    axes = plain_axes(figure)
    for i in range(3):
        logits, _ = gpt.forward(params, cfg, np.array([ids]))
        p = generate.probabilities(logits[:, -1])[0]
        drawn = rng.random()
        chosen = draw_coin(axes, 1 - i / 3, tokenizer, ids, p, drawn)
        ids.append(chosen)
    save(figure, "coin")


def draw_coin(axes, top, tokenizer, ids, p, drawn):
    """One row of coin(): the text, its likely next tokens, and the number. Returns the token."""
    text = tokenizer.decode(ids).replace("<|endoftext|>", "")
    axes.text(0.02, top - 0.05, f"{text} ...", va="center", color=INK, fontsize=11)
    order = np.argsort(-p)
    ends = np.cumsum(p[order])
    hit = int(np.searchsorted(ends, drawn))
    for rank, (token, end) in enumerate(zip(order, ends)):
        x, width = 0.02 + 0.96 * (end - p[token]), 0.96 * p[token]
        if p[token] < FEW and rank != hit:
            continue
        fill, colour = (TINT, ORANGE) if rank == hit else (WASH, BLUE)
        axes.add_patch(box(x, top - 0.2, max(width - 0.003, 0.001), 0.1, fill))
        word = tokenizer.decode([int(token)]).strip()
        if p[token] > 0.013 * max(3, len(word)):
            label = f"{word}\n{p[token]:.0%}"
            axes.text(x + width / 2, top - 0.15, label, ha="center", va="center", fontsize=9,
                      color=colour)
    x = 0.02 + 0.96 * drawn
    axes.plot([x, x], [top - 0.22, top - 0.08], color=ORANGE, linewidth=2)
    token = repr(tokenizer.decode([int(order[hit])]))
    axes.text(min(max(x, 0.2), 0.8), top - 0.25, f"the coin says {drawn:.2f}: {token}", ha="center",
              va="center", fontsize=10, color=ORANGE)
    return int(order[hit])


def reinforcement(run):
    """Right answers and the length of replies along the steps, beside the control."""
    figure = Figure((7.0, 3.2), layout="constrained")
    for axes, key, name, scale in zip(
            figure.subplots(1, 2), ("accuracy", "length"),
            ("right answers (%)", "tokens a reply"), (100, 1)):
        for stage, label, colour, style in (("rl", "rewarded when right", BLUE, "-"),
                                            ("rl_random", "rewarded by coin toss", ORANGE, "--")):
            log = [row for _, row in disk.read_jsonl(run / stage / "log.jsonl")]
            axes.plot([row["step"] for row in log], [scale * row[key] for row in log], style,
                      color=colour, label=label)
        axes.set(xlabel="step of reinforcement learning", ylabel=name, ylim=(0, None))
    figure.axes[1].legend()
    save(figure, "reinforcement")


# ---------------------------------------------------------------------------------------- the page

@contextlib.contextmanager
def serving(run):
    """A server of the run; its address."""
    server = serve.Server(served.Models(run, apart=False), port=0)
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    try:
        yield f"http://{server.address}/"
    finally:
        server.close()


def photograph(run):
    """The chat and the views Inside and Walk, in light and in dark."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, PATHS))
    with serving(run) as address, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            size = {"width": 760, "height": 690}
            page = browser.new_context(color_scheme=scheme, viewport=size).new_page()
            page.goto(address)
            for question in QUESTIONS:
                page.fill("#question", question)
                page.press("#question", "Enter")
                page.wait_for_selector("#stop:disabled", state="attached")
            page.screenshot(path=OUT / f"chat_{scheme}.png")
            page.goto(address + "#inside")
            page.fill("#text", "The glulblow eats")
            page.click("#read")
            page.wait_for_selector("#lens td")
            page.screenshot(path=OUT / f"inside_{scheme}.png")
            page.set_viewport_size({"width": 1060, "height": 640})
            page.goto(address + "#walk")
            page.wait_for_selector("#walk_panel canvas")
            page.locator("#walk_forward canvas").nth(8).scroll_into_view_if_needed()
            page.wait_for_timeout(1000)             # what is in view is drawn when it is seen
            page.screenshot(path=OUT / f"walk_{scheme}.png")
            page.context.close()
        browser.close()


PICTURES = {"chain": chain, "loss": loss, "coin": coin, "reinforcement": reinforcement,
            "page": photograph}


def main(argv=None):
    """Draw all pictures, or the ones that are named."""
    parser = argparse.ArgumentParser(description="Draw the pictures of README.md and docs/.")
    parser.add_argument("run", nargs="?", type=Path, default=Path("out/demo"),
                        help="a finished run")
    parser.add_argument("--only", choices=PICTURES, nargs="+", help="these pictures alone")
    args = parser.parse_args(argv)
    if not (args.run / "summary.txt").exists():
        sys.exit(f"{args.run}/summary.txt: not there; make the run first: make RUN={args.run}")
    OUT.mkdir(exist_ok=True)
    with matplotlib.rc_context(STYLE | INKED):
        for name in args.only or PICTURES:
            PICTURES[name](args.run)
            print(f"{name}: drawn")


if __name__ == "__main__":
    main()
