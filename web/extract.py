"""HTML in, the main text out: what a reader would copy, without menus, adverts and footers.

    prune       removes elements that are boilerplate by tag (aside), by name (class="related") or
                by shape (a list of teasers), unless they hold the page's prose: then the name is
                wrong and not the page
    container   finds the smallest element that still holds the prose, and the parts of the text
                beside it
    thin_out    removes from it what is mostly links; then drop_sections removes what stands under
                a heading such as "Related articles"
    render      writes a line for each line, "- " before a list item, " | " between cells

A page that comes out with too little text is read again without prune. There is no rule for a
single site. What is kept follows trafilatura, the extractor of FineWeb. But trafilatura remembers
earlier pages and stops after some time; here the same page always gives the same text. Scripts are
not run and style sheets are not read.

    python -m web.extract page.html         the text of one page
    curl -s URL | python -m web.extract -   the text of a page from a pipe

Source: Barbaresi 2021 (trafilatura, ACL demo).
"""
import argparse
import json
import re
import sys
import unicodedata
from collections import Counter
from contextlib import suppress
from functools import cache
from itertools import accumulate
from pathlib import Path

from run import command
from web.boilerplate import ARTICLE, BUTTONS, PLACES, REPLIES, is_afterwards, is_lede, shape
from web.charset import decode
from web.encoding import stream_safe
from web.markup import unescape_twice
from web.elements import CELLS, ENOUGH, HEADINGS, ITEMS, ROWS, WIDE, Page, clean, size_of

MAX_CHARS = 8_000_000             # characters of a page that are read
DROP = set("aside footer nav menu form fieldset legend option dialog figcaption head "
           "noscript".split())
EXEMPT = {"root", "html", "body", "main"}                   # never removed, whatever their names
SMALL = 200                       # letters of prose in a small box, at most
LONG_ARTICLE = 5000               # letters of prose, more than the first posting of a forum has


def remove(lines):
    """Mark lines as boilerplate."""
    for line in lines:
        line.live = False


def running(values):
    """Sums from the start. The sum over lines [a, b) is running(values)[b] - running(values)[a]."""
    return list(accumulate(values, initial=0))


# ------------------------------------------------------------ boilerplate by tag, by name, by shape

def teasers(page):
    """The elements that are lists of links to other pages, each with a few words of that page.

    Such a list has three or more cards and little else. A card is an element with a title that is a
    link (a heading or 20 letters), and with at most two lines of prose and 400 letters besides.
    """
    titles = running((line.size >= 20 or line.node.tag in HEADINGS)
                     and line.linked > 0.8 * line.size for line in page.lines)
    plain = running(line.size - line.linked for line in page.lines)
    prose = running(line.prose > 0 for line in page.lines)
    children, cards = Counter(), Counter()
    for node in page.nodes[1:]:
        a, b = node.first, node.last
        if a < b and node.tag not in HEADINGS:
            children[node.parent] += 1
            if titles[a] < titles[b] and plain[b] - plain[a] < 400 and prose[b] - prose[a] < 3:
                cards[node.parent] += 1
    return {node for node, n in cards.items()
            if n >= 3 and n > 0.8 * children[node]
            and node.tag not in ROWS and node.tag not in EXEMPT}


def folded(page):
    """Hidden elements behind a heading each, three or more: answers that a reader unfolds."""
    found = set()
    for node in page.nodes:
        if 0 < node.first < node.last and "hidden" in page.verdict(node.attrs):
            heading = page.lines[node.first - 1].node
            if (heading.tag in HEADINGS | ITEMS and heading.last == node.first
                    and node.parent in (heading.parent, heading.parent.parent)):
                found.add(node)
    return found if len(found) >= 3 else ()


def other_articles(page, prose):
    """The <article>s behind the only one with a title, if that one is long.

    They are other pages, or comments.
    """
    articles = [node for node in page.nodes if node.tag == "article"]
    titles = running(line.node.tag == "h1" for line in page.lines)
    own = [node for node in articles if titles[node.first] < titles[node.last]]
    if len(own) != 1 or prose[own[0].last] - prose[own[0].first] <= 4 * ENOUGH:
        return []
    return [node for node in articles if node.first >= own[0].last]


def has_article(page, suspects):
    """Whether the page has an article besides what readers wrote, however much they wrote.

    An article is long, or it has the tag, the name or the only title of one.
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
    for node in page.nodes:
        long = outside[node.last] - outside[node.first] > 4 * ENOUGH
        if long and (node.tag == "article" or titles == [node] or named(node.attrs)):
            return True
    return False


def reasons_against(page, node, lists, answers):
    """Why an element may be boilerplate."""
    reasons = () if node in answers else page.verdict(node.attrs)
    if node.tag in DROP:
        reasons += (node.tag,)
    if node in lists:
        reasons += ("teasers",)
    if "pre" in node.inside and node.tag != "pre" and "hidden" not in reasons:
        return ()                                           # "comment" is a comment of a program
    return reasons


def prune(page):
    """Remove boilerplate by tag, name and shape, unless it holds the page's prose.

    A reason is wrong if the elements with it hold 4/5 of the prose together: a whole page may be
    called a form. For names of places and for lists of teasers 2/5 are enough, and the name of a
    place is believed of small boxes only. For what readers wrote it is 3/5; but if there is an
    article besides, that reason is always right. A hidden element with 2/3 of the prose stays.
    """
    lines, lists, answers = page.lines, teasers(page), folded(page)
    prose = running(line.prose for line in lines)
    suspects, held, until = [], Counter(), Counter()        # held: letters of prose by reason
    for node in page.nodes:
        a, b = node.first, node.last
        if a == b or node.tag in EXEMPT:
            continue
        reasons = reasons_against(page, node, lists, answers)
        if reasons:
            suspects.append((node, reasons))
        for reason in reasons:
            if a >= until[reason]:              # else it is inside the last element with it
                held[reason] += prose[b] - prose[a]
                until[reason] = b
    wrong = set()
    for reason in set(held) - {"hidden"}:
        refuted_by = 4 / 5
        if reason in REPLIES:
            refuted_by = 3 / 5
        elif reason in PLACES or reason == "teasers":
            refuted_by = 2 / 5
        if held[reason] and held[reason] >= refuted_by * prose[-1]:
            wrong.add(reason)
    if not wrong.isdisjoint(REPLIES) and has_article(page, suspects):
        wrong -= REPLIES
    for node in other_articles(page, prose):
        remove(lines[node.first:node.last])
    end = 0                                     # of the element that was removed last
    for node, reasons in suspects:
        a, b = node.first, node.last
        size = prose[b] - prose[a]
        void = wrong | PLACES if size > SMALL else wrong
        if "hidden" in reasons and size > prose[-1] * 2 / 3:
            continue
        if a >= end and not void.issuperset(reasons):
            end = b
            remove(lines[a:b])


# -------------------------------------------------------------------------------- where the text is

HOLDERS = set("html body main article section div center form table tbody tr td".split())


def core(page, prose, plain):
    """The indices of the elements from the root to the smallest one that still holds the text.

    It goes down while one child has 2/3 of the prose and half of all text, and the rest has less
    than 2000 letters or a tenth of the prose: a larger rest is another chapter. It does not go into
    a <main> or <article> of little prose, where amounts say nothing about what is text.
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


SUBTITLE = 120                    # letters of a subtitle, which is longer than a byline
MAX_LINES_TO_TITLE = 40           # between the text and its title
MAX_LEVELS = 3                    # levels of elements around the core that are searched for parts


def parts_beside(page, above, i, prose, plain):
    """The parts of the text among the children of nodes[above], of which nodes[i] is the core.

    A part has prose. It is a paragraph, or has the same shape as nodes[i], or is a line of
    nodes[above] itself. Or it leads in: it stands before nodes[i], is mostly prose, and is long, or
    named a lede, or has the title. Returns the ranges of lines of the parts before nodes[i], and of
    those behind it.
    """
    nodes, lines = page.nodes, page.lines
    outer, beside = nodes[above], nodes[i]
    ranges, at, child = [], outer.first, above + 1
    shape_of = cache(shape)                                 # elements may share long attributes
    while child < outer.below:
        node = nodes[child]
        a, b, child = node.first, node.last, node.below
        ranges += [(n, n + 1) for n in range(at, a)]        # lines of the outer element itself
        at, have = b, prose[b] - prose[a]
        if node is beside or not have:
            continue
        is_part = node.tag == "p" or (
            node.tag == beside.tag and shape_of(node.attrs) == shape_of(beside.attrs))
        few_links = have > 0.8 * (plain[b] - plain[a])
        may_lead_in = a < beside.first and node.tag != "header" and few_links
        if is_part or may_lead_in and (
                have > 2 * ENOUGH or is_lede(node.attrs)
                or any(line.node.tag == "h1" for line in lines[a:b])):
            ranges.append((a, b))
    ranges += [(n, n + 1) for n in range(at, outer.last)]
    ranges = [(a, b) for a, b in ranges if prose[a] < prose[b]]
    before = [(a, b) for a, b in ranges if a < beside.first]
    after = [(a, b) for a, b in ranges if a >= beside.last]
    return before, after


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
    """The index of the smallest element that holds the text; the rest of its lines are removed.

    The text is the core, and parts before it or before one of the next elements around it. What
    follows the core is mostly something else, so parts behind it are only searched for beside the
    core itself. Parts must have a tenth of the prose of the core, but for those right before it.
    """
    nodes, lines = page.nodes, page.lines
    prose = running(line.prose * line.live for line in lines)
    plain = running((line.size - line.linked) * line.live for line in lines)
    *path, top = core(page, prose, plain)
    i, kept, levels = top, [(nodes[top].first, nodes[top].last)], 0
    least = (prose[nodes[top].last] - prose[nodes[top].first]) / 10
    for above in reversed(path):
        outer, inner = nodes[above], nodes[i]
        if levels == MAX_LEVELS or outer.tag in ("html", "root"):
            break
        if plain[outer.last] - plain[outer.first] > plain[inner.last] - plain[inner.first]:
            before, after = parts_beside(page, above, i, prose, plain)
            levels += 1
            if levels > 1 or sum(prose[b] - prose[a] for a, b in after) < least:
                after = []
            if levels > 1 and sum(prose[b] - prose[a] for a, b in before) < least:
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


# ----------------------------------------------------------------- boilerplate inside the container

def thin_out(page, at):
    """Remove lines of the container that are 2/3 links, and blocks that are 17/20 links.

    An item with a label beside its links is text. A cell of one line is judged with its row, an
    item of one line with its list, and a heading with the text under it.
    """
    nodes, lines, end = page.nodes, page.lines, page.nodes[at].below
    chars = running(line.size * line.live for line in lines)
    linked = []
    for line in lines:
        has_label = line.size - line.linked >= 3 and "item" in line.node.inside
        linked.append(line.linked if line.live and not has_label else 0)
    linked = running(linked)
    while (at := at + 1) < end:
        node = nodes[at]
        a, b, tag = node.first, node.last, node.tag
        alone = b - a == 1
        in_row = tag in CELLS and node.parent.last - node.parent.first > 1
        if tag in HEADINGS or alone and (tag in ITEMS or in_row):
            continue
        if linked[b] - linked[a] > (2 / 3 if alone else 17 / 20) * (chars[b] - chars[a]):
            at = node.below - 1
            remove(lines[a:b])


def drop_sections(page, at):
    """Remove sections that are no part of the text above them: comments, other articles.

    A section begins with a heading that says so, and ends at the next heading of its rank. A
    heading of one word, such as "Comments" in a manual, is a chapter's if there are chapters of its
    rank before and behind it. Nothing is removed if too little would be left.
    """
    lines = page.lines[page.nodes[at].first:page.nodes[at].last]
    headings = {}                               # {live heading: whether it says so}
    for line in lines:
        if line.live and line.node.tag in HEADINGS:
            headings[line] = is_afterwards(line.text)
    last_chapter = {line.node.tag: line for line, afterwards in headings.items() if not afterwards}
    chapters, rank, doomed = set(), "", []      # rank: of the section that is to be removed
    for line in lines:
        tag = line.node.tag
        if line in headings and (not rank or tag <= rank):
            one_word = line.text.strip(" :").isalpha() and not WIDE.search(line.text)
            rank = tag if headings[line] and not (one_word and tag in chapters) else ""
            if not rank:
                chapters.add(tag)
            if last_chapter.get(tag) is line:
                chapters.discard(tag)           # no chapter of its rank is behind it
        if rank:
            doomed.append(line)
    left = sum(line.prose * line.live for line in set(lines) - set(doomed))
    if left > 2 * ENOUGH:
        remove(doomed)


# ------------------------------------------------------------------------------------ lines to text

LONGEST = max(map(len, BUTTONS))                            # to lower-case a long line takes time


def lines_to_show(page, top):
    """The live lines of the container, without buttons and without headings of empty sections."""
    lines = page.lines[top.first:top.last]
    shown, below, emptied = [], "", True        # below: the tag of the line that comes next
    for line in reversed(lines):
        tag = line.node.tag
        name = line.text.strip(" .:…!")
        button = len(name) <= LONGEST and name.lower() in BUTTONS and not line.node.inside
        if button or not line.live or emptied and tag in HEADINGS and tag >= below:
            emptied = True
        else:
            shown.append(line)
            emptied, below = False, tag if tag in HEADINGS else "p"
    return shown[::-1] or [line for line in lines if line.live]


def render(page, top):
    """The text of the container: each line on a line of its own, or in its table row.

    A table with several lines in a cell is a way to lay out the page, and has no rows.
    """
    lines = lines_to_show(page, top)
    outer_cell, outer_item = top.inside.get("cell"), top.inside.get("item")
    in_cell = Counter(line.node.inside.get("cell") for line in lines)
    layout = {cell.parent for cell, n in in_cell.items() if cell and n > 1}
    text, item, row = [], outer_item, None
    for line in lines:
        before, item_before = row, item
        item, cell = line.node.inside.get("item"), line.node.inside.get("cell")
        bullet = "" if item in (None, item_before, outer_item) else "- "
        in_row = cell and cell is not outer_cell and cell.parent not in layout
        row = cell.parent if in_row else None
        if not row or row is not before:
            text.append([])
        text[-1].append(bullet + line.text)
    return "\n".join(map(" | ".join, text))


# ---------------------------------------------------------------------------------------- all of it

ARTICLE_BODY = re.compile(r'"articleBody"\s*:\s*("[^"\\]*(?:\\.[^"\\]*){,50000}")', re.S)
END_TAG = re.compile(r"</[a-zA-Z][^<>]*>|<br\s*/?>", re.I)
SURROGATE = re.compile("[\ud800-\udfff]")


def article_in_json(source):
    """The longest articleBody in the JSON that the page carries for search engines, or "".

    Some sites put HTML there, with or without its < as entities.
    """
    best = ""
    for found in ARTICLE_BODY.finditer(source):
        with suppress(ValueError):
            best = max(best, json.loads(found[1], strict=False), key=len)
    text = best if "<" in best else unescape_twice(best)
    if END_TAG.search(text):
        lines = [line.text for line in Page(text, False).lines]
    else:
        lines = map(clean, best.split("\n"))
    return "\n".join(filter(None, lines))


def main_text(page, url=None, charset=None, counts=None):
    """The main text of an HTML page: lines joined by single newlines, in NFC; "" if it has none.

    page: str, or bytes. charset: of bytes, what the HTTP header says. url: not used, for no rule
    depends on the site. counts: a Counter for "page_cut", a page that is longer than the limits.
    No page is an error, and the time is linear in its length. Lone surrogates become U+FFFD, and at
    most 30 combining marks follow each other.

    >>> main_text("<nav><a href=/>Home</a></nav><h1>Owls</h1><p>Owls hunt at night.<p>Softly.")
    'Owls\\nOwls hunt at night.\\nSoftly.'
    """
    source = page if isinstance(page, str) else decode(bytes(page[:4 * MAX_CHARS]), charset)
    cut = len(source) > MAX_CHARS or len(page) > 4 * MAX_CHARS
    source = source[:MAX_CHARS]
    if isinstance(page, str) or b"\0" in page:              # in bytes this takes a tenth
        source = source.replace("\0", "")
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
        if len(best) >= ENOUGH or size_of(best) >= ENOUGH:      # the length is known at once
            break
    else:
        best = max(best, article_in_json(source), key=len)
    if cut and counts is not None:
        counts["page_cut"] += 1
    if best.isascii():
        return best
    return unicodedata.normalize("NFC", stream_safe(SURROGATE.sub("\ufffd", best)))


# ------------------------------------------------------------------------------------- command line

def main(argv=None):
    """Print the text of one page."""
    parser = argparse.ArgumentParser(
        prog="python -m web.extract", description="Print the main text of an HTML page.")
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
