"""HTML in, the main text out: what a reader would copy, without menus, adverts and footers.

The page is scanned once into two flat lists: its elements in document order, each knowing its
parent, and its blocks (text between two boundaries), each knowing its element. All the rest is sums
over those lists, in loops and without recursion: no page is too deep, and none costs more than its
length.

    scan        tags -> elements and blocks; scripts, comments and drawings never enter
    prune       elements go that are boilerplate by tag (nav, footer) or by name (class="related"),
                unless the page's prose hangs in them: then the name is wrong and not the page
    container   the smallest element that still holds nearly all of the prose
    thin_out    in it, what is mostly links goes, and lists of teasers
    render      a line for a block, "- " before a list item, " | " between the cells of a row

A page that comes out with too little is read again with fewer rules. What is kept follows
trafilatura, the extractor of FineWeb, but not its memory of earlier pages and not its stopwatch:
the same page always gives the same text. Not here: scripts are not run, style sheets are not read;
PDF and pictures are not text.

    python extract.py page.html             the text of one page
    curl -s URL | python extract.py -       of a page from a pipe

Sources: Barbaresi 2021 (trafilatura, ACL demo); the HTML standard for tags and charset labels.
"""
import argparse
import html
import json
import os
import re
import sys
import unicodedata
from collections import Counter

# A budget in characters and elements, never in seconds: what is beyond it is not read.
MAX_CHARS, MAX_NODES, MAX_DEPTH, MAX_TAG = 8_000_000, 200_000, 256, 250_000
ENOUGH = 250                      # characters of text; with fewer, fewer rules are tried

# --------------------------------------------------------------------------------------------------
# Bytes to characters.

# The labels of the HTML standard, and four misspelt ones, with Python's codec for what they mean on
# the web. No other name of a codec counts: Python has some that are not charsets.
LABELS = {label: codec for codec, labels in {
    "utf-8": "utf-8 utf8 unicode-1-1-utf-8 unicode11utf8 unicode20utf8 x-unicode20utf8",
    "utf-16-le": "utf-16 utf-16le unicode unicodefeff ucs-2 csunicode iso-10646-ucs-2",
    "utf-16-be": "utf-16be unicodefffe",
    "cp1252": "ascii us-ascii ansi_x3.4-1968 iso-8859-1 iso8859-1 iso88591 iso_8859-1 "
              "iso_8859-1:1987 iso-ir-100 csisolatin1 latin1 latin-1 l1 cp819 ibm819 cp1252 "
              "windows-1252 x-cp1252 x-user-defined",
    "iso8859-2": "iso-8859-2 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 iso-ir-101 csisolatin2 "
                 "latin2 l2",
    "iso8859-3": "iso-8859-3 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 iso-ir-109 csisolatin3 "
                 "latin3 l3",
    "iso8859-4": "iso-8859-4 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 iso-ir-110 csisolatin4 "
                 "latin4 l4",
    "iso8859-5": "iso-8859-5 iso8859-5 iso88595 iso_8859-5 iso_8859-5:1988 iso-ir-144 cyrillic "
                 "csisolatincyrillic",
    "iso8859-6": "iso-8859-6 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987 iso-ir-127 arabic "
                 "csisolatinarabic asmo-708 ecma-114 iso-8859-6-e iso-8859-6-i csiso88596e "
                 "csiso88596i",
    "iso8859-7": "iso-8859-7 iso8859-7 iso88597 iso_8859-7 iso_8859-7:1987 iso-ir-126 greek greek8 "
                 "csisolatingreek ecma-118 elot_928 sun_eu_greek",
    "iso8859-8": "iso-8859-8 iso8859-8 iso88598 iso_8859-8 iso_8859-8:1988 iso-ir-138 hebrew "
                 "csisolatinhebrew iso-8859-8-e iso-8859-8-i csiso88598e csiso88598i logical "
                 "visual",
    "iso8859-10": "iso-8859-10 iso8859-10 iso885910 iso-ir-157 csisolatin6 latin6 l6",
    "iso8859-13": "iso-8859-13 iso8859-13 iso885913",
    "iso8859-14": "iso-8859-14 iso8859-14 iso885914",
    "iso8859-15": "iso-8859-15 iso8859-15 iso885915 iso_8859-15 csisolatin9 l9",
    "iso8859-16": "iso-8859-16",
    "cp866": "ibm866 cp866 866 csibm866",
    "cp874": "iso-8859-11 iso8859-11 iso885911 tis-620 windows-874 dos-874",
    "cp1250": "windows-1250 cp1250 x-cp1250",
    "cp1251": "windows-1251 cp1251 x-cp1251",
    "cp1253": "windows-1253 cp1253 x-cp1253",
    "cp1254": "windows-1254 cp1254 x-cp1254 iso-8859-9 iso8859-9 iso88599 iso_8859-9 "
              "iso_8859-9:1989 iso-ir-148 csisolatin5 latin5 l5",
    "cp1255": "windows-1255 cp1255 x-cp1255",
    "cp1256": "windows-1256 cp1256 x-cp1256",
    "cp1257": "windows-1257 cp1257 x-cp1257",
    "cp1258": "windows-1258 cp1258 x-cp1258",
    "koi8_r": "koi8-r koi8 koi koi8_r cskoi8r",
    "koi8_u": "koi8-u koi8-ru",
    "mac_roman": "macintosh mac x-mac-roman csmacintosh",
    "mac_cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "gb18030": "gb18030 gbk x-gbk gb2312 gb_2312 gb_2312-80 chinese csgb2312 csiso58gb231280 "
               "iso-ir-58",
    "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5",
    "euc_jp": "euc-jp x-euc-jp cseucpkdfmtjapanese",
    "iso2022_jp": "iso-2022-jp csiso2022jp",
    "cp932": "shift_jis shift-jis sjis x-sjis windows-31j ms932 ms_kanji csshiftjis",
    "cp949": "euc-kr ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 korean windows-949 cseuckr "
             "csksc56011987 iso-ir-149",
}.items() for label in labels.split()}
MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
META = re.compile(r"<meta\s([^>]*)>", re.I)
ATTRIBUTE = re.compile(r"""([^\s"'>/=]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+)))?""")


def attributes(source):
    """What stands in a tag after its name -> {lower-case name: value}; of equal names the first."""
    found = {}
    for name, double, single, bare in ATTRIBUTE.findall(source[:MAX_TAG]):
        found.setdefault(name.lower(), double or single or bare)
    return found


def codec_of(label):
    """Python's codec for a charset label as the web means it; None if nobody knows the label."""
    return LABELS.get((label or "").strip(" \t\r\n\f\"'").lower())


def declared_in_meta(data):
    """Codecs that <meta> tags in the first 1024 bytes declare; a description declares nothing."""
    for tag in META.findall(data[:1024].decode("latin-1")):
        found = attributes(tag)
        label = found.get("charset")
        if label is None and found.get("http-equiv", "").lower() == "content-type":
            label = found.get("content", "").lower().partition("charset=")[2].partition(";")[0]
        codec = codec_of(label)
        if codec:                 # a tag that was read as ASCII is not in UTF-16
            yield "utf-8" if codec.startswith("utf-16") else codec


def decode(data, charset=None):
    """Bytes of a page -> str, never an error.

    Byte order mark; UTF-8 if valid, a character cut off at the end forgiven; the charset of the
    HTTP header; <meta>; then UTF-8 with replacement if hardly a byte is wrong, else windows-1252.
    Declarations come after UTF-8: bytes that happen to be valid UTF-8 are that, whatever they say.
    """
    for mark, codec in MARKS:
        if data.startswith(mark):
            return data[len(mark):].decode(codec, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and not data[:error.start].isascii():
            return data[:error.start].decode("utf-8")
    for codec in (codec_of(charset), *declared_in_meta(data)):
        if codec == "cp1252":     # the web's has no holes, Python's has five
            return data.decode("cp1252", "replace")
        try:
            if codec and codec != "utf-8":
                return data.decode(codec)
        except UnicodeDecodeError as error:
            if error.start > len(data) - 4:                 # cut off in a character
                return data[:error.start].decode(codec, "replace")
    text = data.decode("utf-8", "replace")
    return text if text.count("\ufffd") < 0.005 * len(data) else data.decode("cp1252", "replace")


# --------------------------------------------------------------------------------------------------
# The scanner: characters to elements and blocks.

# A tag ends at the first > outside a quoted attribute value, or with the input. Once begun, the
# pattern cannot fail, so it never backtracks. What is between = and = costs 430 bytes while it is
# matched: MORE goes on in a tag that has a thousand. Groups: slash, name, attributes, start of a
# comment.
IN_TAG = r"""(?:[^>=]+|=\s*(?:"[^"]*"|'[^']*')?){,2000}"""
TAG = re.compile(rf"<(?:(/?)([a-zA-Z][^\s/>]*)({IN_TAG})>?|(!--)|[!?/][^>]*(?:>|\Z))")
MORE = re.compile(rf"{IN_TAG}>?")
COMMENT_END = re.compile(r"--!?>")
INVISIBLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u2060\ufeff"
                       "\ufff9-\ufffc\ufffe\uffff]+")

SCRIPTS = {"script", "style", "textarea", "xmp"}            # what is in them is no markup
SKIP = SCRIPTS | set("title iframe noembed noframes svg math template object audio video canvas "
                     "map select datalist".split())
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
ITEMS, CELLS = {"li", "dt", "dd"}, {"td", "th"}
ROWS = CELLS | {"tr", "tbody", "thead", "tfoot", "table", "caption"}
BLOCKS = HEADINGS | ITEMS | ROWS | set(
    "address article aside blockquote body button center details dialog dir div dl fieldset "
    "figcaption figure footer form head header hgroup html label legend main menu nav noscript ol "
    "option p pre section summary ul".split())
KEEPS_P = ROWS - {"table"} | set("label button option legend html head body".split())
# A start tag of the left ends an open element of the middle, unless one of the right is between.
CLOSES = {tag: (set(closed.split()), set(wall.split())) for tags, closed, wall in (
    ("li", "li", "ul ol menu dir"), ("dt dd", "dt dd", "dl"), ("option", "option", "select"),
    ("td th", "td th", "tr table"), ("tr", "tr td th", "table"),
    ("tbody thead tfoot", "tbody thead tfoot tr", "table")) for tag in tags.split()}


class Node:
    """An element: names (class, id, role ...), blocks [first, last), and sums over these."""
    __slots__ = ("tag", "names", "parent", "item", "cell", "pre", "first", "last",
                 "chars", "linked", "prose", "dead")

    def __init__(self, tag, names, parent, first):
        self.tag, self.names, self.parent, self.first, self.last = tag, names, parent, first, first
        self.item = self if tag in ITEMS else parent and parent.item    # list item that it is in
        self.cell = self if tag in CELLS else parent and parent.cell    # table cell that it is in
        self.pre = tag == "pre" or bool(parent and parent.pre)
        self.chars = self.linked = self.prose = 0
        self.dead = False


class Block:
    """A line of text, the element it hangs in, and how many of its characters are links."""
    __slots__ = ("text", "node", "linked")

    def __init__(self, text, node, linked):
        self.text, self.node, self.linked = text, node, linked


MANY_MARKS = re.compile(rb"[^\0][^\0]{29}(?=[^\0])")        # of combining classes; letters have 0
SURROGATE = re.compile("[\ud800-\udfff]")
LONG_NUMBER = re.compile("&#([0-9]{8,})")


def stream_safe(text):
    """The text with U+034F after 30 combining marks in a row (UAX #15, section 13).

    Normal forms sort such marks, in Python in quadratic time.
    """
    if text.isascii():
        return text
    for mark in "\u0f73\u0f75\u0f81":                       # show their class when decomposed
        text = text.replace(mark, unicodedata.normalize("NFD", mark))
    classes = bytes(map(unicodedata.combining, text))
    cuts = [found.end() for found in MANY_MARKS.finditer(classes)]
    return "\u034f".join(text[a:b] for a, b in zip([0, *cuts], [*cuts, None])) if cuts else text


def unescape(text):
    """html.unescape, which would refuse a number of more than 4300 digits."""
    return html.unescape(LONG_NUMBER.sub(lambda n: "&#" + (n[1].lstrip("0")[:8] or "0"), text))


def clean(text):
    """Single spaces, no controls, entities resolved, twice as in trafilatura: many escape twice."""
    if "&" in text:
        text = unescape(unescape(text))
    return INVISIBLE.sub("", " ".join(text.split()))


class Scanner:
    """Builds nodes and blocks, in document order; nodes[0] is a root that no end tag closes."""

    def __init__(self, source):
        root = Node("root", "", None, 0)
        self.nodes, self.blocks, self.stack = [root], [], [root]
        self.opened = Counter()                             # tags of the stack
        self.parts, self.linked, self.link = [], 0, None    # link: where the open <a> began
        self.scan(source)
        self.close_to(0)

    def scan(self, source):
        at, hopeless = 0, set()                             # hopeless: what nothing ends any more
        while len(self.nodes) < MAX_NODES:
            found = TAG.search(source, at)
            text = source[at:found.start()] if found else source[at:]
            if text:
                self.parts.append(text)
                if self.link:
                    self.linked += len(text.strip())
            if not found:
                return
            at = found.end()
            closing, tag, attrs, comment = found.groups()
            while attrs and source[at - 1] != ">" and at < len(source):
                at = MORE.match(source, at).end()
            if comment:                                     # if it never ends, to its first >
                end = None if comment in hopeless else COMMENT_END.search(source, found.start() + 2)
                if not end:
                    hopeless.add(comment)
                at = end.end() if end else source.find(">", at) + 1 or len(source)
            elif not tag:
                continue
            elif (tag := tag.lower()) in SKIP:
                end = -1 if closing or tag in hopeless else end_of(source, tag, at)
                if end >= 0:
                    at = end
                elif not closing:
                    hopeless.add(tag)
                    if tag in SCRIPTS:                      # the page was cut off in a script
                        return
            elif tag == "a":
                self.link = self.stack[-1] if not closing and "href" in attrs.lower() else None
            elif tag in ("br", "hr"):
                self.flush()
            elif tag in BLOCKS or tag in ("span", "time"):
                if closing:
                    self.end(tag)
                else:
                    self.start(tag, attrs)

    def start(self, tag, attrs):
        names = names_of(attrs) if attrs else ""
        if tag == "span" and not boilerplate(names) and self.stack[-1].tag != "span":
            return                                          # markup within a sentence
        if tag in BLOCKS and tag not in KEEPS_P and self.stack[-1].tag == "p":
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
        self.flush()
        node = Node(tag, names, self.stack[-1], len(self.blocks))
        self.nodes.append(node)
        if len(self.stack) < MAX_DEPTH:                     # deeper ones stay empty, their text
            self.stack.append(node)                         # goes to the one above
            self.opened[tag] += 1

    def end(self, tag):
        if not self.opened[tag]:
            return self.flush()
        for depth in range(len(self.stack) - 1, 0, -1):
            here = self.stack[depth].tag
            if here == tag:
                return self.close_to(depth)
            if tag in ("span", "time") or here in CELLS and tag not in ROWS:
                return                                      # no end tag reaches out of a cell

    def close_to(self, depth):
        self.flush()
        for node in self.stack[depth:]:
            node.last = len(self.blocks)
            self.opened[node.tag] -= 1
            if node is self.link:                           # an <a> ends with its element
                self.link = None
        del self.stack[depth:]

    def flush(self):
        """What was read since the last boundary becomes a block, in <pre> a block for each line."""
        if self.parts:
            text, node = "".join(self.parts), self.stack[-1]
            for line in text.split("\n") if node.pre else (text,):
                line = clean(line)
                if line:
                    self.blocks.append(Block(line, node, min(self.linked, len(line))))
            self.parts, self.linked = [], 0


def end_of(source, tag, at):
    """Behind the end tag of the element whose start tag ended at `at`, or -1 if it has none."""
    while (at := source.find("</", at)) >= 0:
        name_end = at + 2 + len(tag)
        if source[at + 2:name_end].lower() == tag and not source[name_end:name_end + 1].isalnum():
            return source.find(">", name_end) + 1 or len(source)
        at += 2
    return -1


# --------------------------------------------------------------------------------------------------
# What is boilerplate.

DROP = set("aside footer nav menu form fieldset button label legend option dialog figure "
           "figcaption head noscript time".split())
# Parts of class, id and role that speak against an element; the core of the list is trafilatura's.
NAMES = re.compile(r"""(?x)
    foot(?:er)?(?!note|ball) | related | viral | \bshar(?:e|ing)\b | share(?:bar|tools|-) | social
  | syndication | newsletter | subscri | cookie | consent | \btags?(?:\s|$) | tag-?list | side-?bar
  | banner | \bmeta\b | \bmenu | sub-?nav | \bnav\b | navigation | nav(?:bar|box) | breadcrumb
  | pagination | \bpager | author | byline | rating | widget | attachment | timestamp | dateline
  | \bdate\b | \btime\b | user-info | -ad-|\bads?\b | advert | outbrain | taboola | criteo | sponsor
  | promo | modal | pop-?up | overlay | premium | paywall | side-stories | most-?popular | trending
  | recommend | \bmore-(?:stories|news|from) | read-(?:more|next) | teaser | caption | credit
  | copyright | tool-?bar | skip-?link | sr-only | screen-?reader | noprint | notloaded | info-?box
  | (?:^|\s)hidden(?:\s|$) | \bhide-
  | role=(?:navigation|banner|complementary|contentinfo|search|dialog|menu)""")
COMMENTS = re.compile(r"comment|disqus|akismet|\breplies\b|\brespond\b")
# Names of the article itself. It may carry others: blogs put a post's tags among its classes.
ARTICLE = re.compile(r"itemprop=articlebody|\bhentry\b"
                     r"|(?:article|entry|post|story)-*(?:body|content|text)(?![a-z])")
NAMED = ("class", "id", "role", "itemprop", "style", "hidden")
# Lines that are buttons, whatever holds them.
LABEL = re.compile(r"(?i)(?:advert(?:isement)?s?|share(?: this)?(?: article| story)?|tweet"
                   r"|pin(?: it)?|e-?mail|print|facebook|twitter|pinterest|whatsapp|linkedin|reddit"
                   r"|comments?|read more|continue reading|loading|copy link)[.:…!]*")
VERDICTS = {}                     # names -> boilerplate(names): sites repeat themselves


def names_of(attrs):
    """Class, id, role and itemprop in one lower-case string; what is hidden is named "hidden"."""
    lower = attrs.lower()
    if not any(name in lower for name in NAMED):
        return ""
    found = attributes(lower)
    names = f"{found.get('class', '')} {found.get('id', '')}"
    for name in ("role", "itemprop"):
        if name in found:
            names += f" {name}={found[name]}"
    style = found.get("style", "").replace(" ", "")
    if ("hidden" in found or found.get("aria-hidden") == "true"
            or "display:none" in style or "visibility:hidden" in style):
        names += " hidden"
    return names.replace("_", "-")


def boilerplate(names):
    """0: nothing in the names speaks against the element; 1: something does; 2: it is comments."""
    if names not in VERDICTS:
        if len(VERDICTS) > 100_000:
            VERDICTS.clear()
        comments, other = COMMENTS.search(names), NAMES.search(names)
        VERDICTS[names] = 0 if ARTICLE.search(names) else 2 if comments else 1 if other else 0
    return VERDICTS[names]


def is_prose(block):
    """Long enough for a sentence, not mostly links, and no heading."""
    size = len(block.text)
    return size >= 40 and block.linked < 0.4 * size and block.node.tag not in HEADINGS


def weigh(nodes, blocks):
    """Fill every node's chars, linked and prose with the sums over the live blocks under it.

    On a page with next to no prose, any text that is no link counts as prose.
    """
    live = [block for block in blocks if not block.node.dead]
    prose = [len(block.text) if is_prose(block) else 0 for block in live]
    if sum(prose) < ENOUGH:
        prose = [len(block.text) - block.linked for block in live]
    for node in nodes:
        node.chars = node.linked = node.prose = 0
    for block, n in zip(live, prose):
        block.node.chars += len(block.text)
        block.node.linked += block.linked
        block.node.prose += n
    for node in reversed(nodes[1:]):                        # children come after their parents
        node.parent.chars += node.chars
        node.parent.linked += node.linked
        node.parent.prose += node.prose


def prune(nodes, blocks, by_tag=True, by_name=True):
    """Mark boilerplate as dead, with all that is under it, and weigh the rest.

    What holds over half of the page's prose is no boilerplate; comments may hold up to 6/7 of it.
    """
    for node in nodes:
        node.dead = False
    weigh(nodes, blocks)
    total = nodes[0].prose
    for node in nodes[1:]:
        named = boilerplate(node.names) if by_name else 0
        named = 0 if node.tag in ("html", "body", "main") else named
        limit = total * 6 / 7 if named == 2 else total / 2
        suspect = named or by_tag and node.tag in DROP
        node.dead = node.parent.dead or bool(suspect) and (node.prose < limit or not node.prose)
    weigh(nodes, blocks)


HOLDERS = set("html body main article section div center form table tbody tr td".split())


def container(nodes):
    """The smallest element with nearly all prose: from the root down while one child has 3/4."""
    best = nodes[0]
    for node in nodes[1:]:
        if node.parent is best and node.tag in HOLDERS and node.prose > 0.75 * best.prose:
            best = node
    return best


def thin_out(nodes, blocks, top):
    """In the container, mark as dead what is mostly links, and lists of teasers.

    A teaser is an item with a linked heading; a list is one if it has three or more and no other.
    """
    headings = [b for b in blocks if b.node.tag in HEADINGS]
    headed = {b.node.item for b in headings if b.linked > 0.8 * len(b.text)}
    items, teasers = Counter(), Counter()                   # list -> how many it has
    for node in nodes:
        if node.tag == "li":
            items[node.parent] += 1
            teasers[node.parent] += node in headed
    inside = {top}
    for node in nodes:
        if node.parent in inside:
            inside.add(node)
            if node.tag == "p" or node.tag in ITEMS:
                links = node.linked > 0.8 * node.chars and node.chars < 200
            else:
                links = node.linked > 0.5 * node.chars and node.prose < 0.3 * node.chars
                links = links and node.tag not in HEADINGS
            teaser_list = items[node] > 2 and items[node] == teasers[node]
            node.dead = node.dead or node.parent.dead or links or teaser_list


def render(blocks, top):
    """The live blocks of the container as lines: each once, on its own or in its table row."""
    live = [b for b in blocks[top.first:top.last]
            if not b.node.dead and not LABEL.fullmatch(b.text)]
    texts = [i for i, b in enumerate(live, 1) if b.node.tag not in HEADINGS]
    live = live[:texts[-1]] if texts else live              # no headings with nothing under them
    in_cell = Counter(b.node.cell for b in live)
    is_row = {}                                             # rows of one-line cells; not layout
    for block in live:
        cell = block.node.cell
        if cell is not None and cell is not top.cell:
            is_row[cell.parent] = is_row.get(cell.parent, True) and in_cell[cell] == 1
    lines, item, row = [], top.item, None
    for block in live:
        node, text = block.node, block.text
        if node.item is not None and node.item is not item and node.item is not top.item:
            text = "- " + text
        item = node.item
        here = node.cell and is_row.get(node.cell.parent) and node.cell.parent
        if here and here is row:
            lines[-1].append(text)
        else:
            lines.append([text])
        row = here
    return list(map(" | ".join, lines))


# --------------------------------------------------------------------------------------------------
# All of it.

def article_in_json(source):
    """The longest articleBody that the page carries for search engines, as JSON-LD; or ""."""
    best, at = "", source.find("ld+json") if "articleBody" in source else -1
    while at >= 0:
        at = source.find(">", at) + 1
        end = end_of(source, "script", at) if at else -1
        if end < 0:
            break
        try:
            waiting = [json.loads(source[at:source.rfind("</", at, end)])]
        except (ValueError, RecursionError):
            waiting = []
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                body = value.get("articleBody")
                best = body if isinstance(body, str) and len(body) > len(best) else best
                value = list(value.values())
            if isinstance(value, list):
                waiting += value
        at = source.find("ld+json", end)
    return "\n".join(filter(None, map(clean, best.split("\n"))))


def main_text(page, url=None, charset=None):
    """The main text of an HTML page: blocks joined by single newlines, in NFC; "" if it has none.

    page: str, or bytes, then charset is what the HTTP header says. url is not used: no rule depends
    on the site. Raises for nothing that a page can hold; the time is linear in its length. Lone
    surrogates become U+FFFD, and no more than 30 combining marks follow each other.

    >>> main_text("<nav><a href=/>Home</a></nav><h1>Owls</h1><p>Owls hunt at night.<p>Softly.")
    'Owls\\nOwls hunt at night.\\nSoftly.'
    """
    source = page if isinstance(page, str) else decode(bytes(page[:4 * MAX_CHARS]), charset)
    source = source[:MAX_CHARS].replace("\0", "")
    scanner = Scanner(source)
    nodes, blocks, best = scanner.nodes, scanner.blocks, ""
    for rules in ((True, True), (True, False), (False, False)):         # by tag, by name
        prune(nodes, blocks, *rules)
        top = container(nodes)
        thin_out(nodes, blocks, top)
        text = "\n".join(render(blocks, top))
        if not best or len(text) > 2 * len(best):
            best = text
        if len(best) >= ENOUGH:
            break
    else:
        best = max(best, article_in_json(source), key=len)
    if best.isascii():
        return best
    return unicodedata.normalize("NFC", stream_safe(SURROGATE.sub("\ufffd", best)))


def main(argv=None):
    parser = argparse.ArgumentParser(prog="extract.py", description="HTML -> main text")
    parser.add_argument("page", metavar="FILE.html", help="the page; - for standard input")
    parser.add_argument("--charset", help="what the HTTP header says (default: nothing)")
    args = parser.parse_args(argv)
    closed = sys.stdout is None and "output" or args.page == "-" and sys.stdin is None and "input"
    if closed:
        print(f"extract.py: error: standard {closed} is closed", file=sys.stderr)
        sys.exit(2)
    try:
        data = sys.stdin.buffer.read() if args.page == "-" else open(args.page, "rb").read()
    except OSError as error:
        print(f"extract.py: error: {args.page}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    sys.stdout.reconfigure(encoding="utf-8")
    print(main_text(data, charset=args.charset))


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:                                 # the reader has gone, as of | head
        os._exit(141)
    except KeyboardInterrupt:
        print("extract.py: interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:                                # standard output is full
        print(f"extract.py: error: {error.strerror}", file=sys.stderr)
        os._exit(2)
