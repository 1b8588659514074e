"""HTML in, the main text out: what a reader would copy, without menus, adverts and footers.

The page is read once into two flat lists: its elements in document order, and its lines (text
between two boundaries). An element is a range of both, so all the rest is running sums, in loops
and without recursion: no page is too deep, and none costs more than its length.

    tokens      tags and the text between them; scripts, drawings and menus are skipped in one jump
    Page        tags -> elements and lines; spans named as boilerplate go if they are whole lines
    prune       elements go that are boilerplate by tag (aside), by name (class="related") or by
                shape (a list of teasers), unless the page's prose hangs in them: then the name is
                wrong and not the page
    container   the smallest element that still holds the prose, and the parts of the text that
                stand beside it
    thin_out    in it, what is mostly links goes; then drop_sections removes what stands under a
                heading such as "Related articles"
    render      a line for a line, "- " before a list item, " | " between the cells of a row

A page that comes out with too little is read again without prune. No rule knows a site; none knows
a language but the words in names and on buttons. Sizes are in letters; a Chinese character is two.
What is kept follows trafilatura, the extractor of FineWeb, but not its memory of earlier pages and
not its stopwatch: the same page always gives the same text. Scripts are not run, style sheets are
not read; PDF and pictures are not text.

    python -m web.extract page.html         the text of one page
    curl -s URL | python -m web.extract -   of a page from a pipe

Sources: Barbaresi 2021 (trafilatura, ACL demo); the HTML standard for tags.
"""
import argparse
import json
import re
import sys
import unicodedata
from collections import Counter
from functools import cache
from itertools import accumulate
from pathlib import Path

from run import command
from web.charset import attributes, decode, unescape

# A budget in characters, elements and lines, never in seconds: what is beyond it is not read.
MAX_CHARS, MAX_NODES, MAX_LINES, MAX_DEPTH = 8_000_000, 200_000, 200_000, 256
MAX_REASONS = 32                  # that the names of one element give against it; real ones have 16
ENOUGH = 150                      # letters of text; with fewer, it is tried without the rules

# --------------------------------------------------------------------------------------------------
# Characters to text.

INVISIBLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u2060\ufeff"
                       "\ufff9-\ufffc\ufffe\uffff]+")
WIDE = re.compile("[\u1100-\u115f\u2e80-\ua4cf\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
                  "\U0001b000-\U0001b2ff\U00020000-\U0003ffff]+")
CJK = re.compile("[\u3000-\u312f\u31f0-\u9fff\uf900-\ufaff\uff01-\uff60]")          # without Hangul, which has spaces
WRAPPED = re.compile(rf"(?<={CJK.pattern})[^\S\n]*\n\s*(?={CJK.pattern})")
MANY_MARKS = re.compile(rb"[^\0][^\0]{29}(?=[^\0])")        # of combining classes; letters have 0
MAY_BE_MARKS = re.compile(r"[^\x00-\u02ff\w\s]{16}")         # marks are no letters, and three of them are two each
SURROGATE = re.compile("[\ud800-\udfff]")
WHOLE_ENTITY = re.compile("&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")


def stream_safe(text):
    """The text with U+034F after 30 combining marks in a row (UAX #15, section 13).

    Normal forms sort such marks, in Python in quadratic time.
    """
    if not MAY_BE_MARKS.search(text):
        return text
    for mark in "\u0f73\u0f75\u0f81":                       # show their class when decomposed
        text = text.replace(mark, unicodedata.normalize("NFD", mark))
    classes = bytes(map(unicodedata.combining, text))
    cuts = [found.end() for found in MANY_MARKS.finditer(classes)]
    return "\u034f".join(text[a:b] for a, b in zip([0, *cuts], [*cuts, None])) if cuts else text


def resolve(text):
    """The text without entities, twice as in trafilatura, since many pages escape twice.

    The second time only with a semicolon: the address id=5&amp;section=2 names no section sign.
    """
    return WHOLE_ENTITY.sub(lambda found: unescape(found[0]), unescape(text))


def clean(text):
    """Single spaces, no controls, entities resolved."""
    if "&" in text:
        text = resolve(text)
    if "\n" in text and CJK.search(text):
        text = WRAPPED.sub("", text)
    if text.isprintable() and "  " not in text and "\ufffc" not in text:         # the rule, and no space but " " is printable
        text = text.strip(" ")
    else:
        text = INVISIBLE.sub("", " ".join(text.split()))
    return text.rstrip(" ¶")


def clean_code(text):
    """A line of a program: its spaces and tabs stay, since they are part of the program."""
    text = resolve(text) if "&" in text else text
    return INVISIBLE.sub("", text.replace("\xa0", " ")).rstrip()


def size_of(text):
    """Its length in letters: a character that is as wide as two counts as two."""
    return len(text) if text.isascii() else len(text) + sum(map(len, WIDE.findall(text)))


# --------------------------------------------------------------------------------------------------
# The tokenizer: characters to tags and the text between them.

# TAG ends a tag at the first >. Where that leaves a quote open, WHOLE finds the > outside of quoted
# values, and MORE goes on in a tag of a thousand attributes: once begun these two cannot fail, so
# they never backtrack, and the bound keeps their memory small.
TAG = re.compile(r"<(?:(/?)([a-zA-Z][^\s/>]*)([^>]*)>?|(!--)|[!?/][^>]*>?)")
IN_TAG = r"""(?:[^>=]+|=\s*(?:"[^"]*"|'[^']*')?){,2000}"""
WHOLE, MORE = re.compile(rf"</?[a-zA-Z][^\s/>]*({IN_TAG})>?"), re.compile(rf"{IN_TAG}>?")
COMMENT_END = re.compile(r"--!?>")
SCRIPTS = {"script", "style", "textarea", "xmp"}            # what is in them is no markup
SKIP = SCRIPTS | set("title iframe noembed noframes svg math template object audio video canvas "
                     "map select datalist rt rp".split())
MENUS = {"nav", "footer"}
NESTED = MENUS | {"template"}                               # may hold others of their kind
EDGES = {tag: re.compile(rf"<(/{'?' if tag in NESTED else ''}){tag}(?![^\s/>])[^>]*>?", re.I)
         for tag in SKIP | MENUS}


def end_of(source, tag, at):
    """Behind the end tag of the element whose start tag ended at `at`, or -1 if it has none."""
    depth = 1
    for found in EDGES[tag].finditer(source, at):
        depth += -1 if found[1] else 1
        if not depth:
            return found.end()
    return -1


def formula(attrs, inside):
    """A MathML element as text: its TeX if it comes with it, else its symbols, a space between."""
    found = inside.find("application/x-tex")
    if found >= 0:
        text = inside[inside.find(">", found) + 1:].partition("<")[0]
    else:
        text = attributes(attrs).get("alttext", "") or TAG.sub(" ", inside)
    text = " ".join(text.split())
    if text.startswith("{\\displaystyle") and text.endswith("}"):
        text = text[len("{\\displaystyle"):-1].strip()
    return text


def tokens(source, skip):
    """Yield (text before a tag, "/" if it is an end tag, its name in lower case, its attributes).

    Elements in skip go with all that is in them. They, comments and the end have no name; of a
    formula, which is named math, the text stands in place of the attributes. A template with
    shadowrootmode is shown, so it is no template.
    """
    at, going, hopeless = 0, True, set()                    # hopeless: what nothing ends any more
    while going:
        going = False
        for found in TAG.finditer(source, at):
            start, end = found.span()
            text, at = source[at:start], end
            closing, tag, attrs, comment = found.groups()
            if tag:
                tag = tag.lower()
                if attrs and (attrs[-1] != '"' or "'" in attrs) and (
                        attrs.count('"') % 2 or attrs.count("'") % 2):
                    found = WHOLE.match(source, start)
                    attrs, at = found[1], found.end()
                    while source[at - 1] != ">" and at < len(source):
                        at = MORE.match(source, at).end()
                shown = tag == "template" and "shadowrootmode" in attributes(attrs)
                if tag in skip and not closing and not shown and not attrs.endswith("/"):
                    behind = -1 if tag in hopeless else end_of(source, tag, at)
                    if behind >= 0 and tag == "math":
                        attrs = formula(attrs, source[at:behind])
                        at = behind
                    elif behind >= 0:
                        at, tag = behind, ""
                    elif tag in SCRIPTS:                    # the page was cut off in a script
                        at, tag = len(source), ""
                    else:
                        hopeless.add(tag)
            elif comment:                                   # if it never ends, to its first >
                found = comment not in hopeless and COMMENT_END.search(source, start + 2)
                if not found:
                    hopeless.add(comment)
                at = found.end() if found else source.find(">", at) + 1 or len(source)
            yield text, closing, tag, attrs
            if at != end:                                   # begin again behind what was skipped
                going = True
                break
    yield source[at:], "", "", ""


# --------------------------------------------------------------------------------------------------
# The tree: elements and lines.

HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
ITEMS, CELLS = {"li", "dt", "dd"}, {"td", "th"}
ROWS = CELLS | {"tr", "tbody", "thead", "tfoot", "table", "caption"}
BLOCKS = HEADINGS | ITEMS | ROWS | set(
    "address article aside blockquote body center details dialog dir div dl fieldset "
    "figcaption figure footer form head header hgroup html legend main menu nav noscript ol "
    "option p pre section summary ul".split())
KEEPS_P = ROWS - {"table"} | set("option legend html head body".split())
# A start tag of the left ends an open element of the middle, unless one of the right is between.
CLOSES = {tag: (set(closed.split()), set(wall.split())) for tags, closed, wall in (
    ("li", "li", "ul ol menu dir"), ("dt dd", "dt dd", "dl"), ("option", "option", "select"),
    ("td th", "td th", "tr table"), ("tr", "tr td th", "table"),
    ("tbody thead tfoot", "tbody thead tfoot tr", "table")) for tag in tags.split()}
BLOCK, LINK, BREAK, SPAN, BUTTON, CODE, FORMULA = range(1, 8)
KINDS = dict.fromkeys(BLOCKS, BLOCK) | {
    "a": LINK, "br": BREAK, "hr": BREAK, "span": SPAN, "code": CODE, "button": BUTTON,
    "label": BUTTON, "math": FORMULA}
WITHIN = {"li": "item", "dt": "item", "dd": "item", "td": "cell", "th": "cell", "pre": "pre"}
BUTTON_NAME = ' class="button"'    # what stands in a button counts as named so
WORD_CHARACTER = re.compile(r"\w")
PROSE = 40                        # letters from which a line may be a sentence


class Node:
    """An element: its lines are [first, last), the nodes in it end before nodes[below]."""
    __slots__ = ("tag", "attrs", "parent", "first", "last", "below", "inside")

    def __init__(self, tag, attrs, parent, first):
        self.tag, self.attrs, self.parent, self.first = tag, attrs, parent, first
        self.inside = parent.inside if parent else {}       # the item, cell ... that it is in
        if tag in WITHIN:
            self.inside = {**self.inside, WITHIN[tag]: self}


class Line:
    """Text between two boundaries, the node it hangs in, and its size in letters.

    Of the size, linked is in links; prose is all or nothing of it: a line that is long enough for a
    sentence, not mostly links and no heading. live turns False when the line is found boilerplate.
    """
    __slots__ = ("text", "node", "size", "linked", "prose", "live")

    def __init__(self, text, node, linked):
        self.text, self.node, self.size, self.live = text, node, size_of(text), True
        self.linked = min(linked, len(text)) * self.size // len(text)
        prose = self.size >= PROSE and self.linked < 0.4 * self.size and node.tag not in HEADINGS
        self.prose = self.size if prose else 0


class Page:
    """The nodes and lines of a page, in document order; nodes[0] is a root that nothing closes."""

    def __init__(self, source, rules):
        root = Node("root", "", None, 0)
        self.nodes, self.lines = [root], []
        self.stack, self.tags = [root], ["root"]            # the open nodes, their tags
        self.parts, self.letters, self.linked = [], 0, 0    # of a line so far
        self.link = None                                    # the node the open <a> is in
        self.after_link = -1                                # how many parts when an <a> ended
        self.span = ""                                      # attributes of an open span with a name
        self.named = []                                     # which parts stand in such spans
        self.formulas = set()                               # which parts are formulas
        self.in_code = 0                                    # how many <code> are open
        self.verdict = cache(boilerplate)                   # of this page: sites repeat themselves
        self.within_budget = True                           # else the rest is not read
        self.scan(source, rules)
        self.flush()
        self.close_to(0)
        if sum(line.prose for line in self.lines) < ENOUGH:
            for line in self.lines:                         # next to no prose: all text counts
                line.prose = line.size - line.linked

    def scan(self, source, rules):
        parts, stack = self.parts, self.stack
        for text, closing, tag, attrs in tokens(source, SKIP | MENUS if rules else SKIP):
            if text and (parts or not text.isspace() or "pre" in stack[-1].inside):
                self.add(text)
            kind = KINDS.get(tag)
            if kind is None:
                continue
            if not self.within_budget:
                return
            if kind == BLOCK:
                if closing:
                    self.end(tag)
                else:
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
                self.formulas.add(len(parts))
                self.add(f" {attrs} ")
            elif self.span:                                 # others may be nested in it
                if tag == self.span_tag:
                    self.depth += -1 if closing else 1
                if not self.depth:
                    self.end_piece()
                    self.span = ""
            elif rules and not closing:
                self.open_span(tag, attrs)

    def add(self, text):
        """A piece of the line that is being read."""
        self.parts.append(text)
        letters = len(text.strip())
        self.letters += letters
        if self.link:
            self.linked += letters

    def open_span(self, tag, attrs):
        """A span with a boilerplate name, or a button; in programs and headings only some count."""
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
        """The piece of the line that stands in the span: of a hidden one only formulas stay.

        A span that lines ended in is no word, so its short last line goes as well.
        """
        n_parts, letters, linked = self.before
        if self.hidden or self.broken and self.letters - letters < 200:
            formulas = [part for i, part in enumerate(self.parts[n_parts:], n_parts)
                        if i in self.formulas]
            del self.parts[n_parts:]
            self.letters, self.linked = letters, linked
            for text in formulas:
                self.formulas.add(len(self.parts))
                self.add(text)
        elif len(self.parts) > n_parts:
            self.named.append((n_parts, len(self.parts)))

    def cut(self):
        """Of a line with boilerplate spans, what is boilerplate.

        A span in a sentence is a word of it, whatever its name. A line of nothing but such spans
        goes, unless it is long. A heading loses them: they are buttons to edit or to share it.
        """
        in_spans = set()
        for a, b in self.named:
            in_spans.update(range(a, b))
        rest = [part for i, part in enumerate(self.parts) if i not in in_spans]
        alone = not WORD_CHARACTER.search("".join(rest))
        if alone and self.letters < 200:
            self.parts.clear()
        elif not alone and self.stack[-1].tag in HEADINGS:
            self.parts[:] = rest

    def flush(self):
        """What was read since the last boundary becomes a line, in <pre> a line for each line."""
        if self.span:
            self.end_piece()
            self.before, self.broken = (0, 0, 0), True
        if self.named:
            self.cut()
        parts, node = self.parts, self.stack[-1]
        if parts:
            self.add_lines("".join(parts), node)
            parts.clear()
        self.named.clear()
        self.formulas.clear()
        self.letters, self.linked, self.after_link = 0, 0, -1

    def add_lines(self, text, node):
        share = self.linked / len(text) if text else 0
        in_pre = "pre" in node.inside
        for line in text.split("\n") if in_pre else (text,):
            linked, line = round(share * len(line)), clean_code(line) if in_pre else clean(line)
            if line and len(self.lines) == MAX_LINES:
                self.within_budget = False
                break
            if line:
                self.lines.append(Line(line, node, linked))

    def start(self, tag, attrs):
        if self.parts or self.span:
            self.flush()
        if self.tags[-1] == "p" and tag not in KEEPS_P:
            self.close_to(len(self.tags) - 1)
        if tag in CLOSES:
            closed, wall = CLOSES[tag]
            for depth in range(len(self.stack) - 1, 0, -1):
                if self.tags[depth] in closed:
                    self.close_to(depth)
                    if tag not in ROWS:
                        break
                elif self.tags[depth] in wall:
                    break
        node = Node(tag, self.span or attrs, self.stack[-1], len(self.lines))
        self.nodes.append(node)
        if len(self.stack) < MAX_DEPTH:                     # deeper ones stay empty, their text
            self.stack.append(node)                         # goes to the one above
            self.tags.append(tag)
        else:
            node.last, node.below = node.first, len(self.nodes)

    def end(self, tag):
        if self.parts or self.span:
            self.flush()
        tags = self.tags
        if tags[-1] == tag:
            self.close_to(len(tags) - 1)
        elif tag in tags:
            for depth in range(len(tags) - 1, 0, -1):
                if tags[depth] == tag:
                    return self.close_to(depth)
                if tags[depth] in CELLS and tag not in ROWS:
                    return                                  # no end tag reaches out of a cell

    def close_to(self, depth):
        last, below = len(self.lines), len(self.nodes)
        while len(self.stack) > depth:
            node = self.stack.pop()
            self.tags.pop()
            node.last, node.below = last, below
            if node is self.link:                           # an <a> or a span ends with its node
                self.link = None
            if self.span and node is self.holder:
                self.span = ""


# --------------------------------------------------------------------------------------------------
# What speaks against an element: its tag, a word of its names, links.

DROP = set("aside footer nav menu form fieldset legend option dialog figcaption head "
           "noscript".split())
EXEMPT = {"root", "html", "body", "main"}                   # whatever their names
# Words of class, id, role and itemprop, the core of them trafilatura's. One of six letters stands
# for all words that begin with it. Names are mostly English everywhere; not all are.
VOCABULARY = set("""
    nav navi naviga navbar navbox subnav menu menus submen megame dropdo breadc pagina pager paging
    toolba topbar masthe banner footer foot coloph copyri imprint impressum sideba catlin editse
    login signin signup modal popup popups overlay overlays toolti lightb offcan print search dialog
    cookie consen newsle subscr paywal promo promos syndic signat userin postpr ad ads adv advert
    sponso outbra tabool criteo anzeig werbun reklam iklan annons annonce publicidad publicidade
    publicite pubblicita share shares sharin shareb sharet sharedaddy social addthi addtoa viral
    teilen partag compartir compartilhar condiv paylas bagika relate relaci recomm simila sugges
    trendi mostre readmo upsell recirc teaser verwan correl powiaz terkai ilgili commen koment
    coment kommen disqus akisme respond reply replie yorum yoruml reacties meta date dates time
    datum fecha dateli timest byline author autor autore auteur avtor yazar tags taglis tagclo
    rating vote votes credit credits captio attach carous slides galler infobo button cta discla
    """.split())
# Of these, the ones that say where a box stands or how it looks. They are true of small boxes.
PLACES = set("""
    nav navi naviga navbar menu submen dropdo sideba search dialog carous slides slider teaser print
    ad adv promo promos sponso newsle meta date dates time tags attach infobo readmo share sharin
    social rating breadc button
    """.split())
# And these name what readers wrote: beside an article it goes, in a forum it is the text.
REPLIES = set("""
    commen koment coment kommen disqus reply replie respon respond sugges yorum yoruml reacties
    """.split())
SMALL = 200                       # letters of prose that a small box may hold
LONG_ARTICLE = 5000               # letters of prose that no posting opens a thread with
CONCEALED = {"hidden", "sr-only", "screen-reader-text", "visually-hidden", "visuallyhidden"}
TAILS = ("sidebar", "footer", "banner", "menu", "comments", "caption", "author")
# Names of the article itself. It may carry others: blogs put a post's tags among its classes.
ARTICLE = re.compile(r"(?i)articlebody|\b(?:hentry|status-publish)\b"
                     r"|(?:article|entry|post|story)[-_]*(?:body|content|text)(?![a-z])")
NAMES = re.compile(r"""(?i)\s(?:class|id|role|itemprop)\s*=\s*"""
                   r"""(?:"([^"]*)|'([^']*)|([^\s"'>]+))""")
WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+")                    # navLinks_2 -> nav Links
HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden")


def names_in(attrs):
    """What an element is called: its class, id, role and itemprop."""
    return " ".join([a or b or c for a, b, c in NAMES.findall(attrs)])


def boilerplate(attrs):
    """The reasons that an element's attributes give against it.

    >>> boilerplate(' class="post-footer relatedPosts"'), boilerplate(' class="footnote"')
    (('footer', 'relate'), ())
    """
    if "hidden" in attrs or "none" in attrs or "sr-only" in attrs or "reader" in attrs:
        found = attributes(attrs)
        if ("hidden" in found or found.get("aria-hidden") == "true"
                or HIDDEN.search(found.get("style", ""))
                or not CONCEALED.isdisjoint(found.get("class", "").split())):
            return ("hidden",)
    names = names_in(attrs)
    if not names:
        return ()
    lower, reasons = names.lower(), {}
    words = WORD.findall(lower) if names == lower else WORD.findall(names) + WORD.findall(lower)
    for word in map(str.lower, words):
        if word not in VOCABULARY and word[:6] not in VOCABULARY:
            word = next(filter(word.endswith, TAILS), "")
        if word:
            reasons[word[:6]] = True
            if len(reasons) == MAX_REASONS:
                break
    return () if reasons and ARTICLE.search(names) else tuple(reasons)


def remove(lines):
    for line in lines:
        line.live = False


def running(values):
    """Sums from the start: the sum over lines [a, b) is running(values)[b] - running(values)[a]."""
    return list(accumulate(values, initial=0))


def teasers(page):
    """The lists of links to other pages, each with a few words of it.

    Three or more cards, and little else. A card is an element with a linked heading or a line of 20
    letters that is a link, and with at most two lines of prose and 400 letters besides.
    """
    lines = page.lines
    titles = running((line.size >= 20 or line.node.tag in HEADINGS)
                     and line.linked > 0.8 * line.size for line in lines)
    plain = running(line.size - line.linked for line in lines)
    prose = running(line.prose > 0 for line in lines)
    children, cards = Counter(), Counter()
    for node in page.nodes[1:]:
        a, b = node.first, node.last
        if a < b and node.tag not in HEADINGS:
            children[node.parent] += 1
            if titles[a] < titles[b] and plain[b] - plain[a] < 400 and prose[b] - prose[a] < 3:
                cards[node.parent] += 1
    return {node for node, n in cards.items() if n >= 3 and n > 0.8 * children[node]
            and node.tag not in ROWS and node.tag not in EXEMPT}


def folded(page):
    """Hidden elements that follow a heading each, three or more: a reader unfolds such answers."""
    found = set()
    for node in page.nodes:
        if 0 < node.first < node.last and "hidden" in page.verdict(node.attrs):
            heading = page.lines[node.first - 1].node
            if (heading.tag in HEADINGS | ITEMS and heading.last == node.first
                    and node.parent in (heading.parent, heading.parent.parent)):
                found.add(node)
    return found if len(found) >= 3 else ()


def other_articles(page, prose):
    """The <article>s behind the only one with a title, if that is long: other pages, comments."""
    articles = [node for node in page.nodes if node.tag == "article"]
    titles = running(line.node.tag == "h1" for line in page.lines)
    own = [node for node in articles if titles[node.first] < titles[node.last]]
    if len(own) != 1 or prose[own[0].last] - prose[own[0].first] <= 4 * ENOUGH:
        return []
    return [node for node in articles if node.first >= own[0].last]


def has_article(page, suspects):
    """Whether an article stands beside what readers wrote, however long that is.

    It has its tag, its name or the only title, or it is long.
    """
    outside, end = [line.prose for line in page.lines], 0
    for node, reasons in suspects:
        if node.first >= end and not REPLIES.isdisjoint(reasons):
            end = node.last
            outside[node.first:end] = [0] * (end - node.first)
    outside = running(outside)
    if outside[-1] > LONG_ARTICLE:
        return True
    titles = [line.node.parent for line in page.lines if line.node.tag == "h1"]
    named = cache(ARTICLE.search)                           # elements may share long attributes
    return any(outside[node.last] - outside[node.first] > 4 * ENOUGH for node in page.nodes
               if node.tag == "article" or titles == [node] or named(node.attrs))


def prune(page):
    """Remove boilerplate by tag, name and shape, unless the page's prose hangs in it.

    A reason counts for nothing if the elements that give it hold 4/5 of the prose together: a whole
    page may be called a form. For names of places and for lists of teasers 2/5 are enough, and a
    place that holds more prose than a small box is none. For what readers wrote it is 3/5, but if
    there is an article besides, it always counts. What is hidden stays if it is 2/3 of the prose.
    """
    lines, lists, answers = page.lines, teasers(page), folded(page)
    prose = running(line.prose for line in lines)
    suspects, held, until = [], Counter(), Counter()
    for node in page.nodes:
        a, b = node.first, node.last
        if a == b or node.tag in EXEMPT:
            continue
        reasons = page.verdict(node.attrs) if node not in answers else ()
        if node.tag in DROP:
            reasons += (node.tag,)
        if node in lists:
            reasons += ("teasers",)
        if "pre" in node.inside and node.tag != "pre" and "hidden" not in reasons:
            reasons = ()                                    # "comment" is a comment of a program
        if reasons:
            suspects.append((node, reasons))
        for reason in reasons:
            if a >= until[reason]:
                held[reason] += prose[b] - prose[a]
                until[reason] = b
    wrong = set()
    for reason in set(held) - {"hidden"}:
        share = 4 / 5
        if reason in REPLIES:
            share = 3 / 5
        elif reason in PLACES or reason == "teasers":
            share = 2 / 5
        if held[reason] and held[reason] >= share * prose[-1]:
            wrong.add(reason)
    if not wrong.isdisjoint(REPLIES) and has_article(page, suspects):
        wrong -= REPLIES
    for node in other_articles(page, prose):
        remove(lines[node.first:node.last])
    end = 0                                                 # of what was removed last
    for node, reasons in suspects:
        a, b = node.first, node.last
        size = prose[b] - prose[a]
        void = wrong | PLACES if size > SMALL else wrong
        if "hidden" in reasons and size > prose[-1] * 2 / 3:
            continue
        if a >= end and not void.issuperset(reasons):
            end = b
            remove(lines[a:b])


HOLDERS = set("html body main article section div center form table tbody tr td".split())


def core(page, prose, plain):
    """The indices of the elements from the root to the smallest one that still holds the text.

    Down while one child has 2/3 of the prose and half of all text, and the rest is below 2000
    letters or a tenth of it: more is no blurb, but another chapter. A <main> or <article> of little
    prose is not looked into: there, the amount says nothing about what is text.
    """
    nodes, path, i = page.nodes, [0], 1
    while i < nodes[path[-1]].below:
        above, node = nodes[path[-1]], nodes[i]
        have = prose[above.last] - prose[above.first]
        text = plain[above.last] - plain[above.first]
        mine = prose[node.last] - prose[node.first]
        if above.tag in ("main", "article") and have < 2 * ENOUGH:
            break
        if (node.tag in HOLDERS and mine > have * 2 / 3 and have - mine < max(2000, have / 10)
                and plain[node.last] - plain[node.first] > text / 2):
            path.append(i)
            i += 1
        else:
            i = node.below
    return path


DIGITS = re.compile("[0-9]+")
# Names of the first paragraph of an article, which often stands beside it.
LEDES = set("intro lead lede perex standf dek abstra chapo chapea vorspa einlei entrad "
            "ingres".split())
SUBTITLE = 120                    # letters of a line behind the title that is no byline
MAX_LINES_TO_TITLE = 40           # from the text
MAX_LEVELS = 3                    # of elements around the core that are looked into
MAX_NAMES = 1000                  # characters of attributes in which a lede is named


def shape(attrs):
    """What the parts of a text often have in common: their classes, but for numbers in them."""
    return DIGITS.sub("", attributes(attrs).get("class", ""))


def is_lede(node):
    names = names_in(node.attrs[:MAX_NAMES])
    return any(word.lower()[:6] in LEDES for word in WORD.findall(names))


def leads_in(page, node, have, text):
    """Whether what stands before the core belongs to it: long, named a lede or with the title."""
    return node.tag != "header" and have > 0.8 * text and (
        have > 2 * ENOUGH or is_lede(node)
        or any(line.node.tag == "h1" for line in page.lines[node.first:node.last]))


def parts_beside(page, above, i, prose, plain):
    """The parts of the text among the children of nodes[above], of which nodes[i] is the core.

    A part has prose, and is a paragraph, or of the same shape as nodes[i], or a line of
    nodes[above] itself, or it leads in. Returns the ranges of their lines, before nodes[i] and
    after it.
    """
    nodes = page.nodes
    outer, beside = nodes[above], nodes[i]
    ranges, at, child, classes = [], outer.first, above + 1, cache(shape)
    while child < outer.below:
        node = nodes[child]
        a, b, child = node.first, node.last, node.below
        ranges += [(n, n + 1) for n in range(at, a)]        # lines of the outer element itself
        at, have = b, prose[b] - prose[a]
        if node is not beside and have and (
                node.tag == "p"
                or node.tag == beside.tag and classes(node.attrs) == classes(beside.attrs)
                or a < beside.first and leads_in(page, node, have, plain[b] - plain[a])):
            ranges.append((a, b))
    ranges += [(n, n + 1) for n in range(at, outer.last)]
    ranges = [(a, b) for a, b in ranges if prose[a] < prose[b]]
    return ([part for part in ranges if part[0] < beside.first],
            [part for part in ranges if part[0] >= beside.last])


def subtitles(page, first):
    """The lines of long prose between the title and the text, which begins at line first."""
    lines, found = page.lines, []
    for n in range(first - 1, max(0, first - MAX_LINES_TO_TITLE) - 1, -1):
        if lines[n].node.tag == "h1":
            return found[::-1]
        if lines[n].live and lines[n].prose >= SUBTITLE:
            found.append(n)
    return []


def container(page):
    """The index of the smallest element that holds the text; what is not text in it is removed.

    The text is the core, and parts that stand before it or before one of the next elements around
    it; those must be a tenth of it. What follows is mostly something else: parts of it are only
    looked for beside the core itself, and must be a tenth of it.
    """
    nodes, lines = page.nodes, page.lines
    prose = running(line.prose * line.live for line in lines)
    plain = running((line.size - line.linked) * line.live for line in lines)
    *path, top = core(page, prose, plain)
    i, kept, levels = top, [(nodes[top].first, nodes[top].last)], 0
    size = prose[nodes[top].last] - prose[nodes[top].first]
    for above in reversed(path):
        outer, inner = nodes[above], nodes[i]
        if levels == MAX_LEVELS or outer.tag in ("html", "root"):
            break
        if plain[outer.last] - plain[outer.first] > plain[inner.last] - plain[inner.first]:
            before, after = parts_beside(page, above, i, prose, plain)
            levels += 1
            if levels > 1 or sum(prose[b] - prose[a] for a, b in after) < size / 10:
                after = []
            if levels > 1 and sum(prose[b] - prose[a] for a, b in before) < size / 10:
                before = []
            if before or after:
                kept += before + after
                top = above
        i = above
    if ledes := subtitles(page, nodes[top].first):
        kept += [(n, n + 1) for n in ledes]
        top = max(i for i in path if nodes[i].first <= ledes[0])
    at = nodes[top].first
    for a, b in sorted(kept):
        remove(lines[at:a])
        at = b
    remove(lines[at:nodes[top].last])
    return top


def thin_out(page, at):
    """In the container, remove lines that are links for 2/3 or more, and blocks that are for 17/20.

    An item with a label beside its links is text. A cell of one line is judged with its row, an
    item of one line with its list; a heading with what is under it.
    """
    nodes, lines, end = page.nodes, page.lines, page.nodes[at].below
    chars = running(line.size * line.live for line in lines)
    linked = []
    for line in lines:
        label = line.size - line.linked >= 3 and "item" in line.node.inside
        linked.append(line.linked if line.live and not label else 0)
    linked = running(linked)
    while (at := at + 1) < end:
        node = nodes[at]
        a, b, tag = node.first, node.last, node.tag
        alone = b - a == 1
        if tag in HEADINGS or alone and (
                tag in ITEMS or tag in CELLS and node.parent.last - node.parent.first > 1):
            continue
        if linked[b] - linked[a] > (2 / 3 if alone else 17 / 20) * (chars[b] - chars[a]):
            at = node.below - 1
            remove(lines[a:b])


# Headings of what follows a text; digits and marks at either end do not count.
SECTIONS = set("""
comment|comments|leave a comment|leave a reply|post a comment|add a comment|write a comment
join the discussion|join the conversation|reader comments|what do you think|related
related articles|related posts|related stories|related news|related content|related topics
similar articles|similar posts|similar stories|latest news|latest posts|latest articles
latest stories|recent news|recent posts|recent articles|recent stories|more news|more posts
more articles|more stories|other news|other posts|other articles|other stories|top stories
popular posts|popular articles|featured posts|featured articles|trending|trending now
read next|read also|read more|up next|keep reading|you may also like|you might also like
you may also enjoy|you may be interested in|you might be interested in|recommended
recommended for you|recommended articles|recommended reading|also in the news|most read
most popular|most viewed|about the author|about the authors|about author
kommentar|kommentare|kommentar schreiben|schreibe einen kommentar|kommentar verfassen
mehr zum thema|das könnte sie auch interessieren|das könnte dich auch interessieren
auch interessant|weitere artikel|weitere beiträge|weitere meldungen|weitere themen
weitere nachrichten|ähnliche artikel|ähnliche beiträge|verwandte artikel|verwandte beiträge
verwandte themen|lesen sie auch|neueste beiträge|aktuelle beiträge|beliebte beiträge
meistgelesen|über den autor|über die autorin
commentaires|laisser un commentaire|articles similaires|articles récents|à lire aussi|lire aussi
sur le même sujet|dans la même rubrique|à propos de l'auteur
comentarios|deja un comentario|artículos relacionados|noticias relacionadas|te puede interesar
también te puede interesar|lo más leído|entradas recientes
comentários|deixe um comentário|artigos relacionados|notícias relacionadas|leia também|mais lidas
commenti|lascia un commento|articoli correlati|leggi anche|potrebbe interessarti
reacties|plaats een reactie|gerelateerde artikelen|lees ook|meest gelezen
kommentarer|relaterade artiklar|läs också|läs även|mest lästa
komentarze|dodaj komentarz|powiązane artykuły|zobacz także|czytaj także|czytaj również
komentáře|související články|přečtěte si také
yorumlar|yorum yap|benzer haberler|ilgili haberler
комментарии|оставить комментарий|похожие статьи|похожие записи|читайте также|другие новости
komentar|berita terkait|artikel terkait|baca juga|bình luận|bài viết liên quan|tin liên quan
التعليقات|مقالات ذات صلة|أخبار ذات صلة|اقرأ أيضا|संबंधित खबरें|यह भी पढ़ें
评论|相关文章|相关新闻|相关阅读|推荐阅读|関連記事|関連ニュース|コメント|おすすめ記事|人気記事|관련기사|관련 기사|댓글|추천 기사
""".strip().replace("\n", "|").split("|"))
SECTIONS_ON = ("more from ", "more on ", "more in ", "latest from ", "comments on ", "comment on ",
               "thoughts on ", "thought on ", "responses to ", "response to ", "replies to ",
               "kommentare zu ", "gedanken zu ", "mehr von ", "mehr aus ")
ENDS = re.compile(r"\A[\W\d_]+|[\W\d_]+\Z")


def is_afterwards(heading):
    """Whether a heading says that what is under it is no part of the text above.

    >>> is_afterwards("3 Comments"), is_afterwards("Related articles:"), is_afterwards("Tides")
    (True, True, False)
    """
    name = ENDS.sub("", heading[:100].lower())
    return name in SECTIONS or name.startswith(SECTIONS_ON)


def drop_sections(page, at):
    """Remove sections that are no part of the text above them: comments, other articles.

    A section begins with a heading that says so and ends at the next one of its rank. A heading of
    one word may be a chapter's ("Comments" in a manual): with chapters of its rank before and
    behind it, it is one. An article must be left.
    """
    lines = page.lines[page.nodes[at].first:page.nodes[at].last]
    headings = {line: is_afterwards(line.text) for line in lines
                if line.live and line.node.tag in HEADINGS}
    last_chapter = {line.node.tag: line for line, afterwards in headings.items() if not afterwards}
    chapters, rank, doomed = set(), "", []                  # rank: of the section that goes
    for line in lines:
        tag = line.node.tag
        if line in headings and (not rank or tag <= rank):
            one_word = line.text.strip(" :").isalpha() and not WIDE.search(line.text)
            if headings[line] and not (one_word and tag in chapters):
                rank = tag
            else:
                rank = ""
                chapters.add(tag)
            if last_chapter.get(tag) is line:
                chapters.discard(tag)                       # none of its rank is behind it
        if rank:
            doomed.append(line)
    left = sum(line.prose * line.live for line in lines)
    left -= sum(line.prose * line.live for line in doomed)
    if left > 2 * ENOUGH:
        remove(doomed)


# --------------------------------------------------------------------------------------------------
# Lines to text.

# Lines that are buttons, but for items and cells: advert, share, read more, comments, a network.
BUTTONS = set("""
ad|advertisement|advertisements|advert|sponsored|anzeige|werbung|publicité|publicidad|publicidade
pubblicità|advertentie|annons|reklama|reklam|реклама|إعلان|विज्ञापन|โฆษณา|quảng cáo|iklan|广告|廣告|広告
광고|share|share this|share article|share story|share this article|share this story|teilen|partager
compartir|compartilhar|condividi|delen|dela|udostępnij|paylaş|поделиться|مشاركة|शेयर करें|chia sẻ
bagikan|分享|シェア|공유|read more|continue reading|weiterlesen|lire la suite|leer más|leia mais
leggi tutto|lees meer|läs mer|czytaj więcej|devamını oku|читать далее|اقرأ المزيد|और पढ़ें|อ่านต่อ
đọc thêm|阅读更多|続きを読む|더 보기|comment|comments|print|email|e-mail|copy link|loading|tweet|pin
pin it|facebook|twitter|pinterest|whatsapp|telegram|linkedin|reddit
""".strip().replace("\n", "|").split("|"))


def render(page, top):
    """The live lines of the container as text: each once, on its own or in its table row.

    A heading goes when all that stood under it is gone.
    """
    live, below, emptied = [], "", True                     # below: the tag of what comes next
    for line in reversed(page.lines[top.first:top.last]):
        tag = line.node.tag
        button = line.text.lower().strip(" .:…!") in BUTTONS and not line.node.inside
        if button or not line.live or emptied and tag in HEADINGS and tag >= below:
            emptied = True
        else:
            live.append(line)
            emptied, below = False, tag if tag in HEADINGS else "p"
    live = live[::-1] or [line for line in page.lines[top.first:top.last] if line.live]
    outer_cell, outer_item = top.inside.get("cell"), top.inside.get("item")
    in_cell = Counter(line.node.inside.get("cell") for line in live)
    layout = {cell.parent for cell, n in in_cell.items() if cell and n > 1}
    text, item, row = [], outer_item, None
    for line in live:
        inside, before = line.node.inside, row
        bullet = "- " if inside.get("item") not in (None, item, outer_item) else ""
        item, cell = inside.get("item"), inside.get("cell")
        row = cell.parent if cell and cell is not outer_cell and cell.parent not in layout else None
        if row and row is before:
            text[-1].append(bullet + line.text)
        else:
            text.append([bullet + line.text])
    return "\n".join(map(" | ".join, text))


# --------------------------------------------------------------------------------------------------
# All of it.

ARTICLE_BODY = re.compile(r'"articleBody"\s*:\s*("[^"\\]*(?:\\.[^"\\]*){,50000}")', re.S)
END_TAG = re.compile(r"</[a-zA-Z][^<>]*>|<br\s*/?>", re.I)


def article_in_json(source):
    """The longest articleBody in the JSON that the page carries for search engines, or "".

    Some sites put HTML there, with or without its < as entities.
    """
    best = ""
    for found in ARTICLE_BODY.finditer(source):
        try:
            best = max(best, json.loads(found[1], strict=False), key=len)
        except ValueError:
            pass
    text = best if "<" in best else resolve(best)
    if END_TAG.search(text):
        lines = [line.text for line in Page(text, False).lines]
    else:
        lines = map(clean, best.split("\n"))
    return "\n".join(filter(None, lines))


def main_text(page, url=None, charset=None, counts=None):
    """The main text of an HTML page: lines joined by single newlines, in NFC; "" if it has none.

    page: str, or bytes, then charset is what the HTTP header says. url is not used: no rule depends
    on the site. counts, a Counter, is told "page_cut" if a budget ends before the page. Raises for
    nothing that a page can hold; the time is linear in its length. Lone surrogates become U+FFFD,
    and no more than 30 combining marks follow each other.

    >>> main_text("<nav><a href=/>Home</a></nav><h1>Owls</h1><p>Owls hunt at night.<p>Softly.")
    'Owls\\nOwls hunt at night.\\nSoftly.'
    """
    source = page if isinstance(page, str) else decode(bytes(page[:4 * MAX_CHARS]), charset)
    cut = len(source) > MAX_CHARS or len(page) > 4 * MAX_CHARS
    source = source[:MAX_CHARS].replace("\0", "")
    best, tree = "", None
    for rules in (True, False):
        del tree                                            # never two in memory
        tree = Page(source, rules)
        cut = cut or not tree.within_budget
        if rules:
            prune(tree)
        at = container(tree)
        thin_out(tree, at)
        if rules:
            drop_sections(tree, at)
        text = render(tree, tree.nodes[at])
        if not best or len(text) > 2 * len(best):
            best = text
        if size_of(best) >= ENOUGH:
            break
    else:
        best = max(best, article_in_json(source), key=len)
    if cut and counts is not None:
        counts["page_cut"] += 1
    if best.isascii():
        return best
    return unicodedata.normalize("NFC", stream_safe(SURROGATE.sub("\ufffd", best)))


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m web.extract", description="HTML -> main text")
    parser.add_argument("page", metavar="FILE.html", help="the page; - for standard input")
    parser.add_argument("--charset", help="what the HTTP header says (default: nothing)")
    args = parser.parse_args(argv)
    if sys.stdout is None:
        raise ValueError("standard output is closed")
    if args.page == "-" and sys.stdin is None:
        raise ValueError("standard input is closed")
    data = sys.stdin.buffer.read() if args.page == "-" else Path(args.page).read_bytes()
    sys.stdout.reconfigure(encoding="utf-8")
    print(main_text(data, charset=args.charset))


if __name__ == "__main__":
    command.run(main, error_status=2, data=True)
