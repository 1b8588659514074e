"""HTML as characters: references such as &amp;, tags, and the attributes in them.

    attributes      the inside of a tag -> {name: value}, with the references resolved
    names_in        the inside of a tag -> what its element is called
    tokens          all tags, and the text between them
    tags            the start tags alone

Tags end where browsers end them, and take linear time on any page. One thing differs: a quote or a
comment that is never closed hides nothing.

Source: the HTML Standard, 13.2.5 (tags).
"""
import html
import re


MAX_TAG = 250_000                 # characters of a tag that are read
WS = r" \t\n\f\r"                 # white space in tags; other spaces belong to names and values

# ----------------------------------------------------------------------------- character references

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


# --------------------------------------------------------------------------------------- attributes

NAME = rf"[^{WS}/>][^{WS}/>=]*"
VALUE = rf"""[{WS}]*=[{WS}]*(?:"([^"]*)"?|'([^']*)'?|([^{WS}>]*))"""
ATTRIBUTE = re.compile(rf"({NAME})(?:{VALUE})?")
NAMES = re.compile(r"""(?i)\s(?:class|id|role|itemprop)\s*=\s*"""
                   r"""(?:"([^"]*)|'([^']*)|([^\s"'>]+))""")


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


def names_in(source):
    """What an element is called: its class, id, role and itemprop, from the inside of its tag.

    `attributes` would find the same, in 4 % more of the time of an extraction.
    """
    return " ".join([a or b or c for a, b, c in NAMES.findall(source)])


# --------------------------------------------------------------------------------------------- tags

TAG = re.compile(r"<(?:(/?)([a-zA-Z][^\s/>]*)([^>]*)>?|(!--)(-?>)?|[!?/][^>]*>?)")
COMMENT_END = re.compile(r"--!?>")
# Attributes up to the > that is in no quotes. The pattern matches any text, so it never backtracks,
# and the limit of 2000 keeps its memory small.
INSIDE = re.compile(rf"(?:[{WS}/]+|{NAME}(?:[{WS}]*=[{WS}]*"
                    rf"""(?:"[^"]*"|'[^']*'|[^{WS}"'>][^{WS}>]*)?)?){{,2000}}""")
SCRIPTS = {"script", "style", "textarea", "xmp"}            # their content is no markup
NO_TAGS = SCRIPTS | set("title iframe noembed noframes template".split())   # no tags of the page
SKIP = NO_TAGS | set("svg math object audio video canvas map select datalist rt rp".split())
MENUS = {"nav", "footer"}
NESTED = MENUS | {"template"}                               # may contain others of the same name
EDGES = {tag: re.compile(rf"(?ai)<(/{'?' if tag in NESTED else ''}){tag}(?![^\s/>])[^>]*>?")
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
    _, _, tex = inside.partition("application/x-tex")
    if tex:
        text = tex.partition(">")[2].partition("<")[0]
    else:
        text = attributes(attrs).get("alttext", "") or TAG.sub(" ", inside)
    text = " ".join(text.split())
    if text.startswith("{\\displaystyle") and text.endswith("}"):
        text = text[len("{\\displaystyle"):-1].strip()
    return text


def is_shown(tag, attrs):
    """Whether an element is shown although others of its name are skipped."""
    return attrs.endswith("/") or tag == "template" and "shadowrootmode" in attributes(attrs)


def whole_tag(source, begin):
    """(attributes, end) of the tag whose name ends at begin; a > in quotes does not end it."""
    at = begin
    while (end := INSIDE.match(source, at).end()) > at:
        at = end
    return source[begin:at], min(at + 1, len(source))


def tokens(source, skip, at=0):
    """Yield (text, "/" or "", name, attributes, place) of each tag, with the text before it.

    "/" marks an end tag; names are in lower case. skip: names of elements that are skipped with all
    their content. Where something was skipped, and at comments and the end of the page, the name is
    "". A formula has the name math, and its text in place of the attributes. A template that is a
    shadow root is not skipped. at: where to begin.
    """
    hopeless = set()                            # hopeless: names that nothing ends from here on
    while True:
        for found in TAG.finditer(source, at):
            start, end = found.span()
            text, at = source[at:start], end
            closing, tag, attrs, comment, whole = found.groups()
            if tag:
                tag = tag.lower()
                if attrs and (attrs[-1] != '"' or attrs[-2:] == '="' or "'" in attrs) and (
                        attrs.count('"') % 2 or "'" in attrs):          # the > may be in quotes
                    attrs, at = whole_tag(source, found.start(3))
                if tag in skip and not closing and not is_shown(tag, attrs):
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
            elif comment and not whole:         # one that never ends is taken to its first >
                found = comment not in hopeless and COMMENT_END.search(source, at)
                if not found:
                    hopeless.add(comment)
                at = found.end() if found else source.find(">", at) + 1 or len(source)
            yield text, closing, tag, attrs, start
            if at != end:                       # continue behind what was skipped
                break
        else:
            yield source[at:], "", "", "", at
            return


def tags(source, at=0):
    """Yield (place, lower-case name, inside) of each start tag, from `at` on.

    Comments, elements without tags in them and templates are skipped. A <noscript> counts, because
    we run no scripts.
    """
    for _, closing, name, inside, place in tokens(source, NO_TAGS, at):
        if name and not closing:
            yield place, name, inside
