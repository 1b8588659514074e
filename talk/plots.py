"""plots.py: drawings of what the experiments found, readable in black and white.

    save(module, found, runs)       RUN/talk/NAME.svg, if matplotlib is installed
    bars, curve                     means with their spread, for an experiment's plot()

An experiment's plot(figure, found) draws on a matplotlib figure. found has the numbers of each
world and seed; a label stands for a number, or for a list of them, which is a curve.
"""

import textwrap

from model import cores     # noqa: F401  before numpy: it sets up the matrix products
import numpy as np

INSTALL = "pip install -r talk/requirements.txt"
SIZE = (7.0, 4.2)                       # inches
# Text stays text: the outlines of its letters would make a file four times as large.
STYLE = {"font.size": 9, "legend.fontsize": 8, "legend.frameon": False, "svg.fonttype": "none",
         "font.family": "sans-serif"}
FILLS = [("white", ""), ("0.55", ""), ("0.85", "///"), ("0.2", ""), ("white", "...")]
LINES = [("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"), ((0, (5, 1)), "v")]

# ------------------------------------------------------------------------------------------ numbers


def values(found, label):
    """The numbers of a label in all worlds and seeds: (found,), or (found, points) for a curve.

    A list of labels of numbers makes a curve, too.
    """
    if isinstance(label, list):
        return np.stack([values(found, each) for each in label], axis=1)
    return np.array([numbers[label] for numbers in found], float)


def mean(found, label):
    """The mean of a label's numbers, or of its curves."""
    return values(found, label).mean(0)


def spread(found, label):
    """The deviation of a label's numbers, or of its curves; 0 if there is one of them."""
    every = values(found, label)
    return every.std(0, ddof=1) if len(every) > 1 else 0 * every[0]


# ----------------------------------------------------------------------------------------- drawing


def bars(axes, found, series, groups):
    """Groups of bars side by side, with their values and, of several worlds, their spread.

    series: {what the bars of one filling are: their labels, one for each group}. groups: what
    stands below each group. Values are shares, and shown in percent.
    """
    width = min(0.4, 0.8 / len(series))
    for i, (name, labels) in enumerate(series.items()):
        fill, hatch = FILLS[i % len(FILLS)] if len(series) > 1 else ("0.75", "")
        middle = i - (len(series) - 1) / 2
        places = np.arange(len(groups)) + middle * width
        heights = 100 * mean(found, labels)
        errors = 100 * spread(found, labels)
        axes.bar(
            places,
            heights,
            width,
            label=name,
            color=fill,
            hatch=hatch,
            edgecolor="black",
            yerr=errors if len(found) > 1 else None,
            capsize=3,
        )
        for x, height, error in zip(places, heights, errors):
            axes.annotate(
                f"{height:.0f}",
                (x, height + error + 1),
                ha="center",
                fontsize=8,
            )
    names = [textwrap.fill(group, 88 // len(groups)) for group in groups]
    axes.set_xticks(range(len(groups)), names)
    axes.set_ylim(0, 114)
    axes.set_yticks(range(0, 101, 20))
    if len(series) > 1:
        legend_above(axes, len(series))


def legend_above(axes, columns, **settings):
    """A legend above the axes, where no bar and no curve is. settings: of the legend."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, **settings)


def curve(axes, found, label, x, name, which, scale=1.0):
    """A line through the means of a curve; a grey band shows the spread of several worlds.

    label: of a curve, or a list of labels of numbers. x: where its points stand. which: the number
    of its style. scale: 100 for shares in percent.
    """
    style, mark = LINES[which % len(LINES)]
    middle = scale * mean(found, label)
    apart = scale * spread(found, label)
    axes.plot(
        x,
        middle,
        label=name,
        color="black",
        linestyle=style,
        marker=mark,
        markersize=4,
        markerfacecolor="white",
        markevery=max(1, len(middle) // 12),
    )
    if len(found) > 1:
        axes.fill_between(x, middle - apart, middle + apart, color="0.8", linewidth=0)


def title(figure, text):
    """Write what the experiment showed above the drawing."""
    text = text.replace(" %", "\N{NO-BREAK SPACE}%")
    figure.suptitle(textwrap.fill(text, 72), x=0.02, ha="left", fontsize=11)


# ---------------------------------------------------------------------------------- whole drawings


def matplotlib_here():
    """Whether matplotlib is installed."""
    try:
        import matplotlib               # noqa: F401  it is no requirement of the project
    except ImportError:
        return False
    return True


def save(module, found, runs):
    """Draw what an experiment found. Returns the file, or None where matplotlib is missing."""
    if not matplotlib_here():
        return None
    import matplotlib
    from matplotlib.figure import Figure

    name = module.__name__.rpartition(".")[2]
    path = runs[0] / "talk" / f"{name}.svg"
    seeds = len(found) // len(runs)
    command = f"python -m talk.{name} --run {' '.join(map(str, runs))}"
    command += f" --seeds {seeds}" if seeds > 1 else ""
    worlds = "worlds: " if len(runs) > 1 else "world: "
    worlds += ", ".join(run.name for run in runs)
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(SIZE, layout="constrained")
        module.plot(figure, found)
        figure.supxlabel(f"{worlds}; {command}", x=0.02, ha="left", fontsize=6.5, color="0.3")
        figure.savefig(path, metadata={"Date": None})
    return path
