"""Which encoding a page is in: bytes in, text out, as browsers read them.

A page names its encoding in the HTTP header, in a <meta> tag, or not at all, and often wrongly. Two
things are proofs: a byte order mark, and bytes beyond ASCII that are valid UTF-8. Only then do the
declarations count. `read` has the whole order; the codecs are in web/encoding.py.

    python -m web.extract page.html --charset iso-8859-2    what the HTTP header says

Source: the HTML Standard, 13.2.3 (encoding).
"""
import codecs
import re
from itertools import islice

from web.encoding import MULTI_BYTE, SEVEN_BITS, encoding_of, text_of
from web.markup import WS, attributes, tags

# Shares of U+FFFD in what is not ASCII, up to which a text is believed to be
UTF_8_ANYWAY = 0.25               # UTF-8, whatever is declared
UTF_8_DECLARED = 0.5              # UTF-8, as declared
DECLARED = 0.01                   # in another declared encoding, before the next one is tried
HARDLY_WRONG = 0.005              # share of U+FFFD in a page up to which nothing declared is UTF-8
MAX_TRIES = 4                     # encodings that a page declares

LABEL = re.compile(r"""(?:^|[;,\s])charset\s*=\s*["']?([^\s;"',]+)""", re.I)
MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16le"), (b"\xfe\xff", "utf-16be"))
XML = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=[\s"']*([\w:.-]{1,100})""", re.I)
IN_CONTENT = re.compile(
    rf"""charset[{WS}]*=[{WS}]*(?:"([^"]*)"|'([^']*)'|([^{WS};"'][^{WS};]*))""", re.I)
MISSPELT = re.compile(
    "(?:windows|win|cp)[-_ ]?(125[0-8]|874)|iso[-_ ]?8859[-_ ]?([0-9]{1,2})", re.I)
NO_TEXT = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
WIDE_TAG = re.compile(rb"<\0[!-~]\0|\0<\0[!-~]")
SEQUENCES = re.compile(rb"\x1b\$[@B][!-~]{2}")              # of ISO-2022-JP
MEANT_IN_META = {"utf-16le": "utf-8", "utf-16be": "utf-8", "x-user-defined": "windows-1252"}


def label_in(content_type):
    """The label of an encoding in the value of a Content-Type header, or None."""
    found = LABEL.search(content_type)
    return found and found[1]


# ----------------------------------------------------------------------------- what a page declares

def meant_by(declaration):
    """The encoding that somebody meant by a declaration that is no label, or None.

    >>> meant_by("text/html; charset:win1251"), meant_by("koi8-r/")
    ('windows-1251', 'koi8-r')
    """
    if found := MISSPELT.search(declaration):
        return encoding_of(f"windows-{found[1]}" if found[1] else f"iso-8859-{found[2]}")
    words = re.findall(r"[\w-]+", declaration)
    return next(filter(None, map(encoding_of, reversed(words))), None)


def declarations(data, label):
    """Yield the encodings that the HTTP header, the <meta> tags and the XML declaration name.

    Tags anywhere count: browsers begin again for one behind the first 1024 bytes. A page whose tags
    can be read as ASCII is not in UTF-16; a tag that says so means UTF-8 (HTML Standard). Last
    comes what browsers do not understand (they guess by the letters): misspelt labels, and tags
    that hold a Content-Type but misspell http-equiv.
    """
    others = []
    if name := encoding_of(label):
        yield name
    elif label:
        others.append(label)
    found = tags(data.decode("latin-1")) if b"charset" in data.lower() else ()
    for _, tag_name, inside in found:
        if tag_name != "meta":
            continue
        tag = attributes(inside)
        label, content = tag.get("charset"), tag.get("content", "")
        is_type = tag.get("http-equiv", "").lower() == "content-type"
        if label is None and is_type and (match := IN_CONTENT.search(content)):
            label = match[match.lastindex]
        if name := encoding_of(label):
            yield MEANT_IN_META.get(name, name)
        elif label or is_type or content.lower().startswith("text/html"):
            others += [label or "", content]
    if match := XML.match(data):
        others.insert(0, match[1].decode("ascii"))
    for name in filter(None, map(meant_by, others)):
        yield MEANT_IN_META.get(name, name)


# --------------------------------------------------------------------------------- what is believed

def read(data, label=None):
    """(text of a page, its encoding); no bytes are an error. label: the charset of the HTTP header.

    In this order:
    1. A byte order mark, or the first tag or XML declaration in UTF-16.
    2. UTF-16 that the header names, if the bytes hold controls, as letters in UTF-16 do.
    3. A page in ASCII is in what it declares first; that matters only for encodings of seven bits.
    4. UTF-8 if the bytes are valid. No declaration is as certain.
    5. What the page declares: see read_declared.
    6. UTF-8 if hardly a byte is wrong, else windows-1252, as browsers in the West.
    A character that the end cuts off is left out: crawlers cut pages.
    """
    for mark, name in MARKS:
        if data.startswith(mark):
            return text_of(data[len(mark):], name), name
    name = encoding_of(label) or ""
    if WIDE_TAG.match(data):
        name = "utf-16le" if data[0] else "utf-16be"
    if name.startswith("utf-16") and NO_TEXT.search(data):
        return text_of(data, name), name
    if data.isascii():
        name = next(declarations(data, label), "windows-1252")
        if name != "replacement" and SEQUENCES.search(data):
            name = "iso-2022-jp"
        return text_of(data, name if name in SEVEN_BITS else "utf-8"), name
    try:
        text, n = codecs.utf_8_decode(data, "strict", False)
        if n == len(data) or not text.isascii():
            return text, "utf-8"
    except UnicodeDecodeError:
        pass
    text = data.decode("utf-8", "replace")
    if found := read_declared(data, label, text):
        return found
    if text.count("\ufffd") < HARDLY_WRONG * len(data):
        return text, "utf-8"
    return text_of(data, "windows-1252"), "windows-1252"


def read_declared(data, label, as_utf_8):
    """(text, encoding) of a page that is not valid UTF-8, by its declarations; None without any.

    The first declared encoding in which hardly a character is wrong counts, else the first that is
    not UTF-8. A wrong byte becomes U+FFFD and costs no other. UTF-8 comes before encodings of
    single bytes, in which nothing ever is wrong, if three of four characters are valid in it.
    """
    first, wrong = None, share_wrong(as_utf_8)
    for name in islice(dict.fromkeys(declarations(data, label)), MAX_TRIES):
        if name == "utf-8":
            if wrong <= UTF_8_DECLARED:
                return as_utf_8, name
            continue
        text = text_of(data, name)
        share = share_wrong(text)
        better = wrong > UTF_8_ANYWAY or name in MULTI_BYTE and share < wrong
        if share <= DECLARED and better:
            return text, name
        first = first or (text, name)
    return (as_utf_8, "utf-8") if wrong <= UTF_8_ANYWAY else first


def share_wrong(text):
    """The share of U+FFFD in the part of a text that is not ASCII."""
    beyond = len(text) - len(text.encode("ascii", "ignore"))
    return text.count("\ufffd") / max(beyond, 1)


def decode(data, label=None):
    """Bytes of a page -> str, never an error. label: the charset of the HTTP header. See read."""
    return read(data, label)[0]
