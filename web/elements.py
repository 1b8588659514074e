"""A page as two flat lists: its elements in document order, and its lines of text.

A line is the text between two boundaries. An element is a range of both lists, so a sum over it is
a difference of two running sums. Nothing here is recursive: no page is too deep, and the time is
linear in its length. Sizes are in letters; a Chinese character counts as two.

Source: the HTML Standard, 13.1 (which tags may be left out).
"""
import re
from functools import cache

from web.boilerplate import boilerplate
from web.markup import MENUS, SKIP, tokens, unescape_twice

# Limits of what is read of a page: in elements, lines and levels, never in seconds.
MAX_NODES, MAX_LINES, MAX_DEPTH = 200_000, 200_000, 256
ENOUGH = 150                      # letters of prose; a page with less is judged by all its text

# ------------------------------------------------------------------------------- characters to text

INVISIBLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u2060\ufeff"
                       "\ufff9-\ufffc\ufffe\uffff]+")
WIDE = re.compile("[\u1100-\u115f\u2e80-\ua4cf\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
                  "\U0001b000-\U0001b2ff\U00020000-\U0003ffff]+")
BEYOND = re.compile("[\u1100-\U0010ffff]")                 # found in a quarter of the time
CJK = re.compile("[\u3000-\u312f\u31f0-\u9fff\uf900-\ufaff\uff01-\uff60]")      # Hangul has spaces
WRAPPED = re.compile(rf"(?<={CJK.pattern})[^\S\n]*\n\s*(?={CJK.pattern})")


def clean(text):
    """The text with single spaces, without controls, its entities resolved."""
    if "&" in text:
        text = unescape_twice(text)
    if "\n" in text and CJK.search(text):
        text = WRAPPED.sub("", text)
    if text.isprintable() and "  " not in text and "\ufffc" not in text:
        text = text.strip(" ")                      # the usual case; it saves 5 % of an extraction
    else:
        text = INVISIBLE.sub("", " ".join(text.split()))
    return text.rstrip(" ¶")


def clean_code(text):
    """A line of a program, which keeps its spaces and tabs."""
    if "&" in text:
        text = unescape_twice(text)
    return INVISIBLE.sub("", text.replace("\xa0", " ")).rstrip()


def size_of(text):
    """The length of a text in letters; wide characters count as two."""
    if text.isascii() or not BEYOND.search(text):
        return len(text)
    return len(text) + sum(map(len, WIDE.findall(text)))


# ------------------------------------------------------------------------------- elements and lines

HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
ITEMS, CELLS = {"li", "dt", "dd"}, {"td", "th"}
ROWS = CELLS | {"tr", "tbody", "thead", "tfoot", "table", "caption"}
BLOCKS = HEADINGS | ITEMS | ROWS | set(
    "address article aside blockquote body center details dialog dir div dl fieldset "
    "figcaption figure footer form head header hgroup html legend main menu nav noscript ol "
    "option p pre section summary ul".split())
KEEPS_P = ROWS - {"table"} | set("option legend html head body".split())
# A start tag ends an open element of the first set, unless one of the second is between them.
CLOSES = {"li": ({"li"}, {"ul", "ol", "menu", "dir"}), "option": ({"option"}, {"select"})}
CLOSES |= dict.fromkeys(("dt", "dd"), ({"dt", "dd"}, {"dl"}))
CLOSES |= dict.fromkeys(("td", "th"), ({"td", "th"}, {"tr", "table"}))
CLOSES |= {"tr": ({"tr", "td", "th"}, {"table"})}
CLOSES |= dict.fromkeys(("tbody", "thead", "tfoot"), ({"tbody", "thead", "tfoot", "tr"}, {"table"}))
BLOCK, LINK, BREAK, SPAN, BUTTON, CODE, FORMULA = range(1, 8)
KINDS = dict.fromkeys(BLOCKS, BLOCK) | dict.fromkeys(("br", "hr"), BREAK)
KINDS |= dict.fromkeys(("button", "label"), BUTTON)
KINDS |= {"a": LINK, "span": SPAN, "code": CODE, "math": FORMULA}
WITHIN = dict.fromkeys(ITEMS, "item") | dict.fromkeys(CELLS, "cell") | {"pre": "pre"}
BUTTON_NAME = ' class="button"'   # the text in a button counts as in a span of this name
WORD_CHARACTER = re.compile(r"\w")
PROSE = 40                        # letters that a line of prose has at least
SHORT_PIECE = 200                 # letters that a piece of boilerplate in a line has at most


class Formula(str):
    """A part of a line that stays even if it is hidden."""


class Node:
    """An element. Its lines are [first, last); the nodes inside it end before nodes[below]."""
    __slots__ = ("tag", "attrs", "parent", "first", "last", "below", "inside")

    def __init__(self, tag, attrs, parent, first):
        self.tag, self.attrs, self.parent, self.first = tag, attrs, parent, first
        self.inside = parent.inside if parent else {}       # the item, cell and <pre> around it
        if tag in WITHIN:
            self.inside = {**self.inside, WITHIN[tag]: self}


class Line:
    """Text between two boundaries, the node around it, and its size in letters.

    linked: the part of the size that is in links. prose: the size if the line is long enough for a
    sentence, not mostly links, and no heading; else 0. live: False once it is found boilerplate.
    """
    __slots__ = ("text", "node", "size", "linked", "prose", "live")

    def __init__(self, text, node, linked):
        self.text, self.node, self.size, self.live = text, node, size_of(text), True
        self.linked = min(linked, len(text)) * self.size // len(text)
        prose = self.size >= PROSE and self.linked < 0.4 * self.size and node.tag not in HEADINGS
        self.prose = self.size if prose else 0


class Page:
    """The nodes and lines of a page, in document order; nodes[0] is a root that nothing closes.

    rules: whether menus are skipped and spans are judged by their names.
    """

    def __init__(self, source, rules):
        root = Node("root", "", None, 0)
        self.nodes, self.lines = [root], []
        self.stack = [root]             # the open nodes
        self.parts, self.letters, self.linked = [], 0, 0    # of the line that is being read
        self.link = None                # the node in which the open <a> is
        self.after_link = -1            # how many parts there were when an <a> ended
        self.span = ""                  # the attributes of an open span that is judged by its name
        self.named = []                 # ranges of parts that stand in such spans
        self.in_code = 0                # how many <code> are open
        self.verdict = cache(boilerplate)       # of this page: sites repeat themselves
        self.within_budget = True       # else the rest is not read
        self.scan(source, rules)
        self.flush()
        self.close_to(0)
        if sum(line.prose for line in self.lines) < ENOUGH:
            for line in self.lines:     # almost no prose: all text counts
                line.prose = line.size - line.linked

    def scan(self, source, rules):
        """Read all tags and texts."""
        parts, stack = self.parts, self.stack
        for text, closing, tag, attrs, _ in tokens(source, SKIP | MENUS if rules else SKIP):
            if text and (parts or not text.isspace() or "pre" in stack[-1].inside):
                self.add(text)
            kind = KINDS.get(tag)
            if kind is None:
                continue
            if not self.within_budget:
                return
            if kind == BLOCK and closing:
                self.end(tag)
            elif kind == BLOCK:
                self.start(tag, attrs)
                if len(self.nodes) >= MAX_NODES:
                    self.within_budget = False
                    return
            elif kind == LINK:
                if len(parts) == self.after_link:           # two links with nothing in between
                    parts.append(" ")
                self.after_link = len(parts) if closing and parts else -1
                self.link = stack[-1] if not closing and "href" in attrs.lower() else None
            elif kind == BREAK:
                self.flush()
            elif kind == CODE:
                self.in_code = max(0, self.in_code + (-1 if closing else 1))
            elif kind == FORMULA:
                self.add(Formula(f" {attrs} "))
            elif self.span:                                 # it may contain others of its tag
                if tag == self.span_tag:
                    self.depth += -1 if closing else 1
                if not self.depth:
                    self.end_piece()
                    self.span = ""
            elif rules and not closing:
                self.open_span(tag, attrs)

    def add(self, text):
        """Add a piece to the line that is being read."""
        self.parts.append(text)
        letters = len(text.strip())
        self.letters += letters
        if self.link:
            self.linked += letters

    def open_span(self, tag, attrs):
        """Begin a span, if its name is boilerplate, or a button.

        In a program only a hidden one counts; in a heading a button does not count.
        """
        node = self.stack[-1]
        verdict = self.verdict(attrs)
        hidden = "hidden" in verdict
        if tag != "span":
            verdict, attrs = node.tag not in HEADINGS, BUTTON_NAME
        if hidden or verdict and not self.in_code and "pre" not in node.inside:
            self.span, self.span_tag, self.hidden, self.depth = attrs, tag, hidden, 1
            self.broken = False                             # whether a line ended in the span
            self.holder, self.before = node, (len(self.parts), self.letters, self.linked)

    def end_piece(self):
        """End the piece of the line that stands in the span.

        Of a hidden span only formulas stay. A span with several lines is not a word in a sentence,
        so its last line is removed as well if it is short.
        """
        n_parts, letters, linked = self.before
        if self.hidden or self.broken and self.letters - letters < SHORT_PIECE:
            formulas = [part for part in self.parts[n_parts:] if isinstance(part, Formula)]
            del self.parts[n_parts:]
            self.letters, self.linked = letters, linked
            for part in formulas:
                self.add(part)
        elif len(self.parts) > n_parts:
            self.named.append((n_parts, len(self.parts)))

    def cut(self):
        """Remove what is boilerplate from a line with boilerplate spans.

        A span in a sentence is a word of it, whatever its name is. A line of nothing but such spans
        is removed, unless it is long. A heading loses its spans: they are buttons to edit or share.
        """
        rest, at = [], 0
        for begin, end in [*self.named, (len(self.parts), 0)]:
            rest += self.parts[at:begin]
            at = end
        alone = not WORD_CHARACTER.search("".join(rest))
        if alone and self.letters < SHORT_PIECE:
            self.parts.clear()
        elif not alone and self.stack[-1].tag in HEADINGS:
            self.parts[:] = rest

    def flush(self):
        """Make a line of what was read since the last boundary; in <pre>, one for each line."""
        if self.span:
            self.end_piece()
            self.before, self.broken = (0, 0, 0), True
        if self.named:
            self.cut()
        if self.parts:
            self.add_lines("".join(self.parts), self.stack[-1])
        self.parts.clear()
        self.named.clear()
        self.letters, self.linked, self.after_link = 0, 0, -1

    def add_lines(self, text, node):
        """Add the lines of a text that stands in a node."""
        share = self.linked / max(len(text), 1)
        in_pre = "pre" in node.inside
        for raw in text.split("\n") if in_pre else [text]:
            line = clean_code(raw) if in_pre else clean(raw)
            if line and len(self.lines) == MAX_LINES:
                self.within_budget = False
                break
            if line:
                self.lines.append(Line(line, node, round(share * len(raw))))

    def start(self, tag, attrs):
        """Open a node, and close those that its tag ends."""
        if self.parts or self.span:
            self.flush()
        if self.stack[-1].tag == "p" and tag not in KEEPS_P:
            self.close_to(len(self.stack) - 1)
        if tag in CLOSES:
            closed, wall = CLOSES[tag]
            for depth in range(len(self.stack) - 1, 0, -1):
                if self.stack[depth].tag in closed:
                    self.close_to(depth)
                    if tag not in ROWS:
                        break
                elif self.stack[depth].tag in wall:
                    break
        node = Node(tag, self.span or attrs, self.stack[-1], len(self.lines))
        self.nodes.append(node)
        if len(self.stack) < MAX_DEPTH:         # deeper nodes stay empty: their text goes to the
            self.stack.append(node)             # one above
        else:
            node.last, node.below = node.first, len(self.nodes)

    def end(self, tag):
        """Close the innermost node of a tag, if one is open, and those in it."""
        if self.parts or self.span:
            self.flush()
        for depth in range(len(self.stack) - 1, 0, -1):
            open_tag = self.stack[depth].tag
            if open_tag == tag:
                self.close_to(depth)
                return
            if open_tag in CELLS and tag not in ROWS:       # no end tag reaches out of a cell
                return

    def close_to(self, depth):
        """Close all open nodes from a depth on."""
        last, below = len(self.lines), len(self.nodes)
        while len(self.stack) > depth:
            node = self.stack.pop()
            node.last, node.below = last, below
            if node is self.link:               # an <a> or a span ends with its node
                self.link = None
            if self.span and node is self.holder:
                self.span = ""
