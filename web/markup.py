"""HTML as characters: references such as &amp;, tags, and the attributes in them.

    attributes      the inside of a tag -> {name: value}, with the references resolved
    tags            the start tags, exactly as browsers find them
    tokens          all tags, and the text between them

There are two scanners, because a page is read for two purposes. What it declares (its charset, its
rights, its links) must be what a browser sees: that is for `tags`. Its text is for `tokens`, which
takes 0.6 of the time, forgives a quote that is never closed, and skips scripts, drawings and menus
in one jump. Both take linear time on any page.

Source: the HTML Standard, 13.2.5 (tags).
"""
import html
import re

from run import command

MAX_TAG = 250_000                 # characters of a tag that are read
WS = r" \t\n\f\r"                 # white space in tags; other spaces belong to names and values
COMMENT_END = re.compile(r"--!?>")


# --------------------------------------------------------------------------------------------------
# Character references.

LONG_NUMBER = re.compile("&#([0-9]{8,})")
WHOLE_ENTITY = re.compile("&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
# An attribute may hold an address such as ?a=1&copy=2, which means no copyright sign: in front of a
# letter or a = a reference needs its semicolon there.
REFERENCE = re.compile("&(?:#(?:[0-9]+|[xX][0-9a-fA-F]+);?"
                       "|([a-zA-Z][a-zA-Z0-9]*(?:;|(?![a-zA-Z0-9=]))))")


def unescape(text):
    """The text with references resolved. html.unescape alone fails on numbers of 4300 digits."""
    return html.unescape(LONG_NUMBER.sub(lambda n: "&#" + (n[1].lstrip("0")[:8] or "0"), text))


def unescape_twice(text):
    """The text with references resolved twice, as trafilatura does: many pages escape twice.

    The second time a reference needs its semicolon: id=5&amp;section=2 has no section sign.
    """
    return WHOLE_ENTITY.sub(lambda found: unescape(found[0]), unescape(text))


def resolve(reference):
    """A match of REFERENCE -> the characters that it stands for, or the same text."""
    if reference[1]:
        return html.entities.html5.get(reference[1], reference[0])
    return unescape(reference[0])


# --------------------------------------------------------------------------------------------------
# Attributes, and start tags as browsers find them.

NAME = rf"[^{WS}/>][^{WS}/>=]*"
VALUE = rf"""[{WS}]*=[{WS}]*(?:"([^"]*)"?|'([^']*)'?|([^{WS}>]*))"""
ATTRIBUTE = re.compile(rf"({NAME})(?:{VALUE})?")
IN_TAG = (rf"(?:[{WS}/]+"
          rf"""|{NAME}(?:[{WS}]*=[{WS}]*(?:"[^"]*"?|'[^']*'?|[^{WS}"'>][^{WS}>]*)?)?)""")
TAG = re.compile(rf"<(?:(!--)|(/?)([a-zA-Z][^{WS}/>]*)({IN_TAG}{{,2000}})|[!?/][^>]*)")
# Elements without tags in them: their content is text, or no part of the page (template).
NO_TAGS = {name: re.compile(rf"</{name}(?=[{WS}/>])", re.I | re.A) for name in
           "script style textarea title xmp iframe noembed noframes template".split()}


def attributes(source):
    """The inside of a tag, after its name -> {lower-case name: value}.

    Of two attributes with the same name, the first counts.

    >>> attributes(' HREF="?a=1&copy=2&amp;b" async')
    {'href': '?a=1&copy=2&b', 'async': ''}
    """
    found = {}
    for name, double, single, bare in ATTRIBUTE.findall(source[:MAX_TAG]):
        value = double or single or bare
        found.setdefault(name.lower(), REFERENCE.sub(resolve, value) if "&" in value else value)
    return found


def tags(source):
    """Yield (place, lower-case name, inside) of each start tag.

    Comments and the content of the elements in NO_TAGS are skipped. A comment, a script or a style
    that never ends reaches to the end of the page. A template counts if it is a shadow root. A
    <noscript> counts, because we run no scripts.
    """
    at, endless = 0, set()
    while found := TAG.search(source, at):
        start, at = found.span()
        comment, closing, name, inside = found.groups()
        if comment and not source.startswith((">", "->"), at):      # <!--> is a whole comment
            end = COMMENT_END.search(source, at)
            if not end:
                return
            at = end.end()
        if not name:
            continue
        if at < len(source) and source[at] != ">":          # it has thousands of attributes
            at = source.find(">", at) + 1 or len(source)
        if closing:
            continue
        name = name.lower()
        yield start, name, inside
        if name == "template" and "shadowrootmode" in attributes(inside):
            continue                                        # a shadow root is part of the page
        if name in NO_TAGS and name not in endless and not inside.endswith("/"):
            if end := NO_TAGS[name].search(source, at):
                at = end.end()
            elif name in ("script", "style"):
                return
            else:
                endless.add(name)


# --------------------------------------------------------------------------------------------------
# Tags and the text between them.

# ANY_TAG ends a tag at the first >. If that leaves a quote open, WHOLE finds the > outside of
# quoted values, and MORE continues in a tag of a thousand attributes. These two match any text, so
# they never backtrack, and the limit of 2000 keeps their memory small.
ANY_TAG = re.compile(r"<(?:(/?)([a-zA-Z][^\s/>]*)([^>]*)>?|(!--)|[!?/][^>]*>?)")
QUOTED = r"""(?:[^>=]+|=\s*(?:"[^"]*"|'[^']*')?){,2000}"""
WHOLE, MORE = re.compile(rf"</?[a-zA-Z][^\s/>]*({QUOTED})>?"), re.compile(rf"{QUOTED}>?")
SCRIPTS = {"script", "style", "textarea", "xmp"}            # their content is no markup
SKIP = SCRIPTS | set("title iframe noembed noframes svg math template object audio video canvas "
                     "map select datalist rt rp".split())
MENUS = {"nav", "footer"}
NESTED = MENUS | {"template"}                               # may contain others of the same name
EDGES = {tag: re.compile(rf"<(/{'?' if tag in NESTED else ''}){tag}(?![^\s/>])[^>]*>?", re.I)
         for tag in SKIP | MENUS}


def end_of(source, tag, at):
    """The end of the element whose start tag ends at `at`, or -1 if nothing ends it."""
    depth = 1
    for found in EDGES[tag].finditer(source, at):
        depth += -1 if found[1] else 1
        if not depth:
            return found.end()
    return -1


def formula(attrs, inside):
    """A MathML element as text: its TeX if the page has that, else its symbols with spaces."""
    found = inside.find("application/x-tex")
    if found >= 0:
        text = inside[inside.find(">", found) + 1:].partition("<")[0]
    else:
        text = attributes(attrs).get("alttext", "") or ANY_TAG.sub(" ", inside)
    text = " ".join(text.split())
    if text.startswith("{\\displaystyle") and text.endswith("}"):
        text = text[len("{\\displaystyle"):-1].strip()
    return text


def quoted_tag(source, start):
    """(attributes, end) of the tag at start, which a > in a quoted value does not end."""
    found = WHOLE.match(source, start)
    attrs, at = found[1], found.end()
    while source[at - 1] != ">" and at < len(source):
        at = MORE.match(source, at).end()
    return attrs, at


def tokens(source, skip):
    """Yield (text before a tag, "/" if it is an end tag, its name in lower case, its attributes).

    skip: names of elements that are skipped with all their content. Where something was skipped,
    and at comments and the end of the page, the name is "". A formula has the name math, and its
    text in place of the attributes. A template that is a shadow root is not skipped.
    """
    at, going, hopeless = 0, True, set()        # hopeless: names that nothing ends from here on
    while going:
        going = False
        for found in ANY_TAG.finditer(source, at):
            start, end = found.span()
            text, at = source[at:start], end
            closing, tag, attrs, comment = found.groups()
            if tag:
                tag = tag.lower()
                if attrs and (attrs[-1] != '"' or "'" in attrs) and (
                        attrs.count('"') % 2 or attrs.count("'") % 2):     # a quote is open
                    attrs, at = quoted_tag(source, start)
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
            elif comment:                       # one that never ends is taken to its first >
                found = comment not in hopeless and COMMENT_END.search(source, start + 2)
                if not found:
                    hopeless.add(comment)
                at = found.end() if found else source.find(">", at) + 1 or len(source)
            yield text, closing, tag, attrs
            if at != end:                       # continue behind what was skipped
                going = True
                break
    yield source[at:], "", "", ""


if __name__ == "__main__":
    command.only_imported(__doc__)
