"""growth_plot.py: log-log plots as SVG, written by hand: for growth.py.

A drawing has panels side by side. Each has a curve for us and perhaps one for a peer. The dashed
line rises in proportion to n: what is parallel to it grows like n. Browsers that are set to dark
get dark colours.
"""

import math
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 420, 290                # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 62, 46
COLOURS = ["ours", "peer"]              # classes of the style sheet
STYLE = """
  .paper { fill: #ffffff } .frame { fill: none; stroke: #8c959f }
  .grid { stroke: #d8dee4 } .guide { stroke: #8c959f; stroke-dasharray: 5 4; fill: none }
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 14px }
  .line { fill: none; stroke-width: 2.2; stroke-linejoin: round }
  .ours { stroke: #0969da } .peer { stroke: #bc4c00 }
  circle.ours, text.ours { fill: #0969da; stroke: none }
  circle.peer, text.peer { fill: #bc4c00; stroke: none }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } .grid { stroke: #2a313c } text { fill: #e6edf3 }
    .ours { stroke: #58a6ff } .peer { stroke: #f0883e }
    circle.ours, text.ours { fill: #58a6ff } circle.peer, text.peer { fill: #f0883e }
  }
"""


class Panel(NamedTuple):
    """What one panel shows. curves: {name: [(n, value)]}, ours first."""

    label: str
    curves: dict


class Axis:
    """A logarithmic axis: values to pixels, and where its ticks are."""

    def __init__(self, values, begin, end):
        low, high = math.log10(min(values)), math.log10(max(values))
        room = max(0.06 * (high - low), 0.35 - 0.5 * (high - low))      # at least 0.7 decades
        self.low, self.high = low - room, high + room
        self.begin, self.end = begin, end

    def __call__(self, value):
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self):
        """Powers of ten; between few of them also 2 and 5 times these."""
        steps = (1,) if self.high - self.low > 2.2 else (1, 2, 5)
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        all_ticks = [step * 10.0**k for k in decades for step in steps]
        return [x for x in all_ticks if self.low <= math.log10(x) <= self.high]


def short(x):
    """A number as it stands at a tick.

    >>> [short(x) for x in (1e-5, 20, 5e3, 1e6)]
    ['0.00001', '20', '5k', '1M']
    """
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= factor:
            return f"{x / factor:g}{letter}"
    return f"{x:.7f}".rstrip("0").rstrip(".")


def text_at(x, y, words, kind="", anchor="start"):
    """A text element."""
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'


def line_of(points, kind):
    """A broken line through points (x, y)."""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" class="{kind}"/>'


def guide(axis_x, axis_y, n, value):
    """The part inside the panel of the line through (n, value) along which values grow like n."""
    most = min(10**axis_x.high, n * 10**axis_y.high / value)
    least = max(10**axis_x.low, n * 10**axis_y.low / value)
    ends = [(axis_x(x), axis_y(value * x / n)) for x in (least, most)]
    return line_of(ends, "guide")


def grid_of(axis_x, axis_y):
    """Yields the lines of the grid and the numbers beside them."""
    for x in axis_x.ticks():
        yield line_of([(axis_x(x), axis_y.begin), (axis_x(x), axis_y.end)], "grid")
        yield text_at(axis_x(x), axis_y.begin + 17, short(x), anchor="middle")
    for y in axis_y.ticks():
        yield line_of([(axis_x.begin, axis_y(y)), (axis_x.end, axis_y(y))], "grid")
        yield text_at(axis_x.begin - 7, axis_y(y) + 4, short(y), anchor="end")


def panel_elements(panel, left, x_label):
    """Yields the elements of a panel that begins at a pixel."""
    points = [point for curve in panel.curves.values() for point in curve]
    begin, end = left + LEFT, left + WIDTH - RIGHT
    axis_x = Axis([n for n, _ in points], begin, end)
    axis_y = Axis([value for _, value in points], HEIGHT - BOTTOM, TOP)
    yield from grid_of(axis_x, axis_y)
    ours = next(iter(panel.curves.values()))
    yield guide(axis_x, axis_y, *ours[-1])
    for kind, curve in reversed([*zip(COLOURS, panel.curves.values())]):     # ours above
        places = [(axis_x(n), axis_y(value)) for n, value in curve]
        yield line_of(places, f"line {kind}")
        for x, y in places:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="{kind}"/>'
    yield (f'<rect x="{begin}" y="{TOP}" width="{end - begin}" '
           f'height="{HEIGHT - BOTTOM - TOP}" class="frame"/>')
    yield text_at(begin, TOP - 9, panel.label)
    yield text_at((begin + end) / 2, HEIGHT - 9, x_label, anchor="middle")


def drawing(title, x_label, panels):
    """The text of an SVG file."""
    width = WIDTH * len(panels)
    elements = [text_at(LEFT, 24, title, "title")]
    at = width - RIGHT
    for kind, name in reversed([*zip(COLOURS, panels[0].curves)]):
        elements.append(text_at(at, 24, f"\N{BLACK CIRCLE} {name}", kind, "end"))
        at -= 8 * len(name) + 34
    for i, panel in enumerate(panels):
        elements += panel_elements(panel, i * WIDTH, x_label)
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" '
            f'viewBox="0 0 {width} {HEIGHT}" role="img">')
    paper = f'<rect width="{width}" height="{HEIGHT}" rx="6" class="paper"/>'
    parts = [head, f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", paper, *elements]
    return "\n".join([*parts, "</svg>", ""])
