"""Bytes of a page in, its text out, as browsers read them: the web's encodings and not Python's.

A page names its encoding in the HTTP header, in a <meta> tag, or not at all, and often wrongly. Two
things are proofs: a byte order mark, and bytes beyond ASCII that are valid UTF-8. Only then do the
declarations count (see `read`).

    tags            the start tags of a page; comments, scripts and titles hold none
    attributes      what stands in a tag, character references resolved
    text_of         bytes in a named encoding -> text
    bytes_of        text -> bytes in a named encoding, as browsers write the query of a link
    read, decode    bytes in whatever encoding -> text

The codecs are those of the Encoding Standard. Python's differ from them in a few hundred codes, in
the labels, and in how many bytes a wrong one costs.

    python -m web.extract page.html --charset iso-8859-2    what the HTTP header says

Sources: the Encoding Standard (WHATWG); the HTML Standard, 13.2.3 (encoding) and 13.2.5 (tags).
"""
import codecs
import re
import unicodedata
from functools import cache
from itertools import islice, product

from web.markup import WS, attributes, tags

# Shares of U+FFFD in what is not ASCII: of text that is UTF-8 against all declarations, of one that
# is UTF-8 as declared, and of text in another declared encoding that is believed before the next.
UTF_8_ANYWAY, UTF_8_DECLARED, DECLARED = 0.25, 0.5, 0.01
MAX_TRIES = 4                     # encodings that a page declares

# --------------------------------------------------------------------------------------------------
# Encodings: labels and characters.

# =encoding, then the labels that mean it. No other name of a codec counts: some of Python's are no
# charsets. latin-1 is Python's word for iso-8859-1.
LABELS = {label: group.split()[0] for group in """
    =utf-8 utf-8 unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf8 x-unicode20utf8 =ibm866
    ibm866 866 cp866 csibm866 =iso-8859-2 iso-8859-2 csisolatin2 iso-ir-101 iso8859-2 iso88592
    iso_8859-2 iso_8859-2:1987 l2 latin2 =iso-8859-3 iso-8859-3 csisolatin3 iso-ir-109
    iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3 =iso-8859-4 iso-8859-4 csisolatin4
    iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4 =iso-8859-5 iso-8859-5
    csisolatincyrillic cyrillic iso-ir-144 iso8859-5 iso88595 iso_8859-5 iso_8859-5:1988
    =iso-8859-6 iso-8859-6 arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114
    iso-8859-6-e iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987
    =iso-8859-7 iso-8859-7 csisolatingreek ecma-118 elot_928 greek greek8 iso-ir-126 iso8859-7
    iso88597 iso_8859-7 iso_8859-7:1987 sun_eu_greek =iso-8859-8 iso-8859-8 csiso88598e
    csisolatinhebrew hebrew iso-8859-8-e iso-ir-138 iso8859-8 iso88598 iso_8859-8
    iso_8859-8:1988 visual =iso-8859-8-i iso-8859-8-i csiso88598i logical =iso-8859-10
    iso-8859-10 csisolatin6 iso-ir-157 iso8859-10 iso885910 l6 latin6 =iso-8859-13 iso-8859-13
    iso8859-13 iso885913 =iso-8859-14 iso-8859-14 iso8859-14 iso885914 =iso-8859-15 iso-8859-15
    csisolatin9 iso8859-15 iso885915 iso_8859-15 l9 =iso-8859-16 iso-8859-16 =koi8-r koi8-r
    cskoi8r koi koi8 koi8_r =koi8-u koi8-u koi8-ru =macintosh macintosh csmacintosh mac
    x-mac-roman =windows-874 windows-874 dos-874 iso-8859-11 iso8859-11 iso885911 tis-620
    =windows-1250 windows-1250 cp1250 x-cp1250 =windows-1251 windows-1251 cp1251 x-cp1251
    =windows-1252 windows-1252 ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1
    iso-ir-100 iso8859-1 iso88591 iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii x-cp1252
    latin-1 =windows-1253 windows-1253 cp1253 x-cp1253 =windows-1254 windows-1254 cp1254
    csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5 latin5
    x-cp1254 =windows-1255 windows-1255 cp1255 x-cp1255 =windows-1256 windows-1256 cp1256
    x-cp1256 =windows-1257 windows-1257 cp1257 x-cp1257 =windows-1258 windows-1258 cp1258
    x-cp1258 =x-mac-cyrillic x-mac-cyrillic x-mac-ukrainian =gbk gbk chinese csgb2312
    csiso58gb231280 gb2312 gb_2312 gb_2312-80 iso-ir-58 x-gbk =gb18030 gb18030 =big5 big5
    big5-hkscs cn-big5 csbig5 x-x-big5 =euc-jp euc-jp cseucpkdfmtjapanese x-euc-jp =iso-2022-jp
    iso-2022-jp csiso2022jp =shift_jis shift_jis csshiftjis ms932 ms_kanji shift-jis sjis
    windows-31j x-sjis =euc-kr euc-kr cseuckr csksc56011987 iso-ir-149 korean ks_c_5601-1987
    ks_c_5601-1989 ksc5601 ksc_5601 windows-949 =replacement replacement csiso2022kr hz-gb-2312
    iso-2022-cn iso-2022-cn-ext iso-2022-kr =utf-16be utf-16be unicodefffe =utf-16le utf-16le
    csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 =x-user-defined x-user-defined
    """.split("=")[1:] for label in group.split()[1:]}
# Python's codec, where it is not named as the encoding is.
CODECS = {"windows-874": "cp874", "x-mac-cyrillic": "mac_cyrillic", "iso-8859-8-i": "iso8859-8",
          "ibm866": "cp866", "big5": "big5hkscs", "shift_jis": "cp932",
          "euc-kr": "cp949"}
# What Python's codec lacks or reads otherwise. Of two bytes: a code in hexadecimal, its character,
# and those of the codes that follow. The tests have digests of all codes of the standard.
ONE_BYTE = {"koi8-u": {0xae: "\u045e", 0xbe: "\u040e"}, "windows-1255": {0xca: "\u05ba"}}
TWO_BYTES = {
    "gb18030": """
        a3a0\u3000 a6d9︐︒︑︓︔︕︖ a6ec︗︘ a6f3︙ a8bcḿ
        fe59龴 fe61龵 fe66龶龷 fe6d龸 fe7e龹 fe90龺 fea0龻
        """,
    "big5": """
        877a㡵𡵓𣚞𦀡㻬 87a1𥣞㫵竼龗𤅡𨤍𣇪𠪊𣉞䌊蒄龖鐯䤰蘓墖靊鈘秐稲晠権袝瑌篅枂稬剏遆㓦珄𥶹瓆鿇垳䤯呌䄱𣚎
        87c8堘穲𧭥讏䚮𦺈䆁𥶙箮𢒼鿈𢓁𢓉𢓌鿉蔄𣖻䂴鿊䓡𪷿拁灮鿋
        8e69箸 8e6f簆 8e7e糎 8eab緒 8eb4縝 8ecd者 8ed0耨 8f57菁 8f69蒨 8f6e萏 8fcb覦覩 8ffe起 906d都 907a銹
        90dc靜 90f1響 91bf鼖 9244蔃 92af兙兛兝兞 92c8鍮 92d1瑹 9447浧 94ca禛 95d9邗 9644靝 96ed瀞 96fc嬨 9b76爁
        9b78矗 9b7b纇 9bc6駖 9bde釔 9bec惞 9bf6澶 9c42輶 9c53侻 9c62營 9c68鄄 9c6b鷰 9c77菏 9cbc尐秣 9cd0婧
        9d57輋 9d5a筑 9dc4拐 9ea9恢 9eef痹 9efd汊 9f60鬮 9f66鼗 9fcb僭 9fd8弌 a063蠏 a077拎 a0d5瑨 a0df煢 a0e4牐
        a145‧ a14e﹑ a1c2¯ a1e3～ a1f2⊕⊙ a241∕﹨ a244￥ a246￠￡
        a3c0␀␁␂␃␄␅␆␇␈␉␊␋␌␍␎␏␐␑␒␓␔␕␖␗␘␙␚␛␜␝␞␟␡€
        c6cf廴 c6d3无 c6d5癶 c6d7隶 c6de〃仝 fa5f倩 fa66偽 fabd包 fac5卄 fad5卿 fb48嘅 fbb8婷 fbf3幵 fbf9廐
        fc4f彘 fc6c悤 fcb9撐 fce2晴 fcf1杞 fdb7沜渝 fdbb港 fdf1煮 fe52猪 fe6f瑜 feaa瓩 fedd砉
        """}
# How bytes part into ASCII and codes; a byte that begins no code is alone. The second expression is
# what the end of a page leaves of a code.
PAIR = rb"[\x81-\xfe].|[\x00-\x7f]+|.", rb"[\x81-\xfe]"
PARTS = {name: (re.compile(parts, re.S), re.compile(cut)) for name, (parts, cut) in {
    "big5": PAIR, "euc-kr": PAIR,
    "shift_jis": (rb"[\x81-\x9f\xe0-\xfc].|[\x00-\x7f]+|.", rb"[\x81-\x9f\xe0-\xfc]"),
    "euc-jp": (rb"\x8f[\xa1-\xfe].|[\x8e\x8f\xa1-\xfe].|[\x00-\x7f]+|.",
               rb"\x8f[\xa1-\xfe]|[\x8e\x8f\xa1-\xfe]"),
    "gb18030": (rb"[\x81-\xfe](?:[0-9][\x81-\xfe][0-9]|[^0-9]|[0-9][\x81-\xfe]?\Z)|[\x00-\x7f]+|.",
                rb"[\x81-\xfe](?:[0-9][\x81-\xfe]?)?")}.items()}
HIGH, LEADS, ROWS = range(0x81, 0xff), [*range(0x81, 0xa0), *range(0xe0, 0xfd)], range(0xa1, 0xff)
# ISO-2022-JP: sequences, pairs of bytes, and what is cut off at the end of either.
ESCAPE, CUT_ESCAPE = re.compile(rb"\x1b(\([BJI]|\$[@B])"), re.compile(rb"\x1b[($]?\Z")
ONLY_PAIRS, CUT_PAIR = re.compile(rb"(?:[!-~][!-~])*"), re.compile(rb"[!-~]")
PAIRS = re.compile(rb"[!-~][^\x1b]|.", re.S)
NO_ASCII = re.compile("[\x0e\x0f\x1b\x80-\xff]")
ROMAN = {0x5c: "\u00a5", 0x7e: "\u203e"}                    # where JIS X 0201 is not ASCII
HIGH_BIT = bytes(b | 0x80 for b in range(256))              # from there to EUC-JP

MULTI_BYTE = {*PARTS, "gbk", "iso-2022-jp"}
INDEX = {"gbk": "gb18030", "iso-2022-jp": "euc-jp"}         # whose characters an encoding has
JAPANESE = "shift_jis", "euc-jp", "iso-2022-jp"
SEVEN_BITS = "iso-2022-jp", "replacement"
HALF_WIDTH = 0xff61                                         # the first katakana of half width
SOUND_MARKS = {"\uff9e": "\u309b", "\uff9f": "\u309c"}      # of half width -> that stand alone
BOX = "\u2550\u255e\u2561\u256a\u5341\u5345"                # of two codes in Big5, has the second
LABEL = re.compile(r"""(?:^|[;,\s])charset\s*=\s*["']?([^\s;"',]+)""", re.I)


def encoding_of(label):
    """The encoding that a label means on the web; None if nobody knows it.

    >>> encoding_of(" Latin1 "), encoding_of("x-sjis"), encoding_of("utf-7")
    ('windows-1252', 'shift_jis', None)
    """
    return LABELS.get((label or "").strip(" \t\r\n\f\"'").lower())


def known(code, codec):
    """The character of a code by Python's codec, "" if it has none."""
    try:
        return code.decode(codec)
    except UnicodeDecodeError:
        return ""


def label_in(content_type):
    """The label in the value of a Content-Type header, or None."""
    found = LABEL.search(content_type)
    return found and found[1]


class Index(dict):
    """{code: character} of a multi-byte encoding. Parts that are no code: ASCII stands for itself,
    all else becomes U+FFFD, without an ASCII byte that a lead byte seemed to take with it."""

    def __missing__(self, part):
        if part[0] < 0x80:
            return part.decode("ascii")
        return "\ufffd" + (chr(part[-1]) if part[-1] < 0x80 else "")


class FourBytes(Index):
    """Of GB18030, whose codes of four bytes are too many for a table."""

    def __missing__(self, part):
        if len(part) < 4:
            return "\u20ac" if part == b"\x80" else super().__missing__(part)
        if part == b"\x81\x35\xf4\x37":
            return "\ue7c7"
        return known(part, "gb18030") or "\ufffd"


@cache
def index(name):
    """The Index of a multi-byte encoding."""
    if name == "euc-jp":
        return japanese_index()
    found = FourBytes() if name == "gb18030" else Index()
    for code in map(bytes, product(LEADS if name == "shift_jis" else HIGH, range(0x40, 0xff))):
        if char := known(code, CODECS.get(name, name)):
            found[code] = char
    if name == "shift_jis":
        found[b"\x80"] = "\x80"
        found.update((bytes([0xa1 + i]), chr(HALF_WIDTH + i)) for i in range(63))
    for run in re.findall("[^ \n]+", TWO_BYTES.get(name, "")):
        for i, char in enumerate(run[4:]):
            found[(int(run[:4], 16) + i).to_bytes(2, "big")] = char
    return found


def japanese_index():
    """EUC-JP: of two bytes the characters of Shift_JIS in another arrangement, and JIS X 0212."""
    found, shift_jis = Index(), index("shift_jis")
    for row, cell in product(range(94), repeat=2):
        trail = cell + 0x9f if row % 2 else cell + 0x40 + (cell >= 63)
        char = shift_jis.get(bytes([LEADS[row // 2], trail]))
        if char:
            found[bytes([0xa1 + row, 0xa1 + cell])] = char
    found.update((bytes([0x8e, 0xa1 + i]), chr(HALF_WIDTH + i)) for i in range(63))
    for code in (bytes([0x8f, *pair]) for pair in product(ROWS, repeat=2)):
        if char := known(code, "euc_jp"):
            found[code] = char
    found[b"\x8f\xa2\xb7"] = "\uff5e"
    return found


@cache
def doubtful(name):
    """A pattern of the characters for which Python's codec takes codes of others."""
    codec = CODECS.get(name, name)
    wrong = {known(code, codec) for code, char in index(name).items() if known(code, codec) != char}
    wrong |= {"gb18030": {"\u1e3f"}, "shift_jis": set("\uf8f0\uf8f1\uf8f2\uf8f3")}.get(name, set())
    return re.compile("[\0" + "".join(map(re.escape, wrong)) + "]")     # NUL: no set is empty


def by_python(data, name):
    """The text as Python's codec reads it, ten times as fast, or "" where the web may differ."""
    text = known(data, CODECS.get(name, name))
    return "" if doubtful(name).search(text) else text


@cache
def characters(name):
    """The 256 characters of an encoding of single bytes. Holes in those of Windows are controls."""
    if name == "x-user-defined":
        return "".join(map(chr, [*range(0x80), *range(0xf780, 0xf800)]))
    found = list(bytes(range(256)).decode(CODECS.get(name, name), "replace"))
    for byte in range(0x80, 0xa0):
        if found[byte] == "\ufffd" and name.startswith("windows-"):
            found[byte] = chr(byte)
    for byte, char in ONE_BYTE.get(name, {}).items():
        found[byte] = char
    return "".join(found)


def japanese_in_seven_bits(data):
    """ISO-2022-JP: escape sequences say what the bytes behind them are.

    Two sequences with nothing between them are an error: something could be hidden there.
    """
    data = CUT_ESCAPE.sub(b"", data)
    text, mode, pieces = [], b"(B", ESCAPE.split(data)      # a piece, a sequence, a piece ...
    for i, piece in enumerate(pieces):
        last = i == len(pieces) - 1
        if i % 2:
            mode = piece
        elif not piece and i and not last:
            text.append("\ufffd")
        elif mode[:1] == b"$" and ONLY_PAIRS.fullmatch(piece):
            text.append(text_of(piece.translate(HIGH_BIT), "euc-jp"))
        elif mode[:1] == b"$":
            parts = PAIRS.findall(piece)
            if last and parts and CUT_PAIR.fullmatch(parts[-1]):
                parts.pop()
            for part in parts:
                double = len(part) == 2 and 0x20 < part[1] < 0x7f
                code = bytes(b | 0x80 for b in part) if double else b""
                text.append(index("euc-jp").get(code, "\ufffd"))
        elif mode == b"(I":
            text += [chr(HALF_WIDTH - 0x21 + b) if 0x20 < b < 0x60 else "\ufffd" for b in piece]
        else:
            piece = NO_ASCII.sub("\ufffd", piece.decode("latin-1"))
            text.append(piece.translate(ROMAN) if mode == b"(J" else piece)
    return "".join(text)


def text_of(data, name):
    """Bytes in the encoding of this name -> str; a code that the end cuts off is left out.

    "replacement" stands for encodings that browsers refuse, because text can be hidden in them.
    """
    if name == "replacement":
        return "\ufffd" if data else ""
    if name == "utf-8":
        return codecs.utf_8_decode(data, "replace", False)[0]
    if name == "utf-16le":
        return codecs.utf_16_le_decode(data, "replace", False)[0]
    if name == "utf-16be":
        return codecs.utf_16_be_decode(data, "replace", False)[0]
    if name == "iso-2022-jp":
        return japanese_in_seven_bits(data)
    if name not in MULTI_BYTE:
        return codecs.charmap_decode(data, "replace", characters(name))[0]
    name = INDEX.get(name, name)
    if text := by_python(data, name):
        return text
    part, cut = PARTS[name]
    parts = part.findall(data)
    if parts and cut.fullmatch(parts[-1]):
        parts.pop()
    return "".join(map(index(name).__getitem__, parts))


# --------------------------------------------------------------------------------------------------
# Text to bytes, for the links of a page.

@cache
def codes(name):
    """{character: code} of an encoding. Of several codes the first, with the standard's exceptions:
    no code of HKSCS, none that NEC took from IBM's, none of three bytes."""
    if name not in MULTI_BYTE:
        return {c: bytes([b]) for b, c in enumerate(characters(name)) if c != "\ufffd"}
    found = {}
    for code, char in sorted(index(INDEX.get(name, name)).items(), reverse=True):
        if not (name == "big5" and (code[0] < 0xa1 or char in BOX and char in found)
                or name == "shift_jis" and 0xed <= code[0] <= 0xf9 or len(code) > 2):
            found[char] = code
    found.update((chr(b), bytes([b])) for b in range(0x80))
    if name == "gbk":
        found["\u20ac"] = b"\x80"
    if name in JAPANESE:
        found["\u2212"] = found["\uff0d"]
        found.update({"\u00a5": b"\\", "\u203e": b"~"})
    if name == "iso-2022-jp":
        for half in map(chr, range(HALF_WIDTH, HALF_WIDTH + 63)):
            found[half] = found[SOUND_MARKS.get(half) or unicodedata.normalize("NFKC", half)]
    return found


def bytes_of(text, name, unknown="&#{};"):
    """Text -> bytes in the encoding of this name, as browsers write forms and the queries of links.

    unknown is filled with the number of a character that the encoding does not have. UTF-8 stands
    for the encodings that nobody writes.
    """
    if name.startswith("utf-") or name == "replacement":
        return text.encode("utf-8", "replace")
    table, found = codes(name), []
    for char in text:
        code = table.get(char)
        if code is None and name == "gb18030":
            code = char.encode("gb18030", "ignore")
        found.append(code or unknown.format(ord(char)).encode())
    return in_seven_bits(found) if name == "iso-2022-jp" else b"".join(found)


def in_seven_bits(parts):
    """Codes of EUC-JP and ASCII -> ISO-2022-JP."""
    found, double = bytearray(), False
    for part in parts:
        if double != (part[0] >= 0x80):
            double = not double
            found += b"\x1b$B" if double else b"\x1b(B"
        found += bytes(b & 0x7f for b in part)
    return bytes(found) + b"\x1b(B" * double


# --------------------------------------------------------------------------------------------------
# Which encoding a page is in.

MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16le"), (b"\xfe\xff", "utf-16be"))
XML = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=[\s"']*([\w:.-]{1,100})""", re.I)
IN_CONTENT = re.compile(
    rf"""charset[{WS}]*=[{WS}]*(?:"([^"]*)"|'([^']*)'|([^{WS};"'][^{WS};]*))""", re.I)
MISSPELT = re.compile(
    "(?:windows|win|cp)[-_ ]?(125[0-8]|874)|iso[-_ ]?8859[-_ ]?([0-9]{1,2})", re.I)
NO_TEXT = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
WIDE_TAG = re.compile(rb"<\0[!-~]\0|\0<\0[!-~]")
SEQUENCES = re.compile(rb"\x1b\$[@B][!-~]{2}")
MEANT_IN_META = {"utf-16le": "utf-8", "utf-16be": "utf-8", "x-user-defined": "windows-1252"}


def meant_by(declaration):
    """The encoding that is meant by what is no label, or None.

    >>> meant_by("text/html; charset:win1251"), meant_by("koi8-r/")
    ('windows-1251', 'koi8-r')
    """
    if found := MISSPELT.search(declaration):
        return encoding_of(f"windows-{found[1]}" if found[1] else f"iso-8859-{found[2]}")
    words = re.findall(r"[\w-]+", declaration)
    return next(filter(None, map(encoding_of, reversed(words))), None)


def declarations(data, label):
    """Yield the encodings that the HTTP header, the <meta> tags and the XML declaration name.

    Tags anywhere count: browsers begin again for one behind the first 1024 bytes. What was read as
    ASCII is not in UTF-16: who says so there means UTF-8 (HTML Standard). Last comes what browsers
    do not understand (they guess by the letters): misspelt labels, and tags that hold a
    Content-Type but misspell http-equiv.
    """
    others = []
    if name := encoding_of(label):
        yield name
    elif label:
        others.append(label)
    metas = tags(data.decode("latin-1")) if b"charset" in data.lower() else ()
    for tag in (attributes(inside) for _, name, inside in metas if name == "meta"):
        label, content = tag.get("charset"), tag.get("content", "")
        is_type = tag.get("http-equiv", "").lower() == "content-type"
        if label is None and is_type and (found := IN_CONTENT.search(content)):
            label = found[found.lastindex]
        if name := encoding_of(label):
            yield MEANT_IN_META.get(name, name)
        elif label or is_type or content.lower().startswith("text/html"):
            others += [label or "", content]
    if found := XML.match(data):
        others.insert(0, found[1].decode("ascii"))
    for name in filter(None, map(meant_by, others)):
        yield MEANT_IN_META.get(name, name)


def share_wrong(text):
    """The share of U+FFFD in what of a text is not ASCII."""
    beyond = len(text) - len(text.encode("ascii", "ignore"))
    return text.count("\ufffd") / beyond if beyond else 0


def read(data, label=None):
    """(text of a page, its encoding); no bytes are an error. label: the charset of the HTTP header.

    In this order:
    1. A byte order mark, or the first tag or XML declaration in UTF-16.
    2. UTF-16 that the header names, if the bytes hold controls, as letters in UTF-16 do.
    3. ASCII is in what is declared first; that matters if the encoding has only seven bits.
    4. UTF-8 if the bytes are valid. No declaration is as certain.
    5. What is declared: the first in which hardly a character is wrong, else the first that is not
       UTF-8. A wrong byte becomes U+FFFD and costs no other. UTF-8 of which three of four
       characters are valid comes before encodings of single bytes, in which nothing ever is wrong.
    6. UTF-8 if three of four characters are valid or hardly a byte is wrong, else windows-1252, as
       browsers in the West.
    What is cut off of a character at the end is left out: crawlers cut pages.
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
    text, first = data.decode("utf-8", "replace"), None
    wrong = share_wrong(text)
    for name in islice(dict.fromkeys(declarations(data, label)), MAX_TRIES):
        if name == "utf-8" and wrong <= UTF_8_DECLARED:
            return text, name
        if name != "utf-8":
            found = text_of(data, name), name
            share = share_wrong(found[0])
            if share <= DECLARED and (wrong > UTF_8_ANYWAY or name in MULTI_BYTE and share < wrong):
                return found
            first = first or found
    if wrong <= UTF_8_ANYWAY:
        return text, "utf-8"
    if first:
        return first
    if text.count("\ufffd") < 0.005 * len(data):
        return text, "utf-8"
    return text_of(data, "windows-1252"), "windows-1252"


def decode(data, label=None):
    """Bytes of a page -> str, never an error. label: the charset of the HTTP header. See read."""
    return read(data, label)[0]


# --------------------------------------------------------------------------------------------------
# Normal forms of text.

MANY_MARKS = re.compile(rb"[^\0][^\0]{29}(?=[^\0])")        # of combining classes; letters have 0
# Marks are no letters. Of 31 in a row, three characters can be two marks each.
MAY_BE_MARKS = re.compile(r"[^\x00-\u02ff\w\s]{16}")
TWO_MARKS = "\u0f73\u0f75\u0f81"    # show their combining class only when they are decomposed


def stream_safe(text):
    """The text with U+034F after 30 combining marks in a row (UAX #15, section 13).

    Without it normal forms take quadratic time in Python, which sorts such marks.
    """
    if not MAY_BE_MARKS.search(text):
        return text
    for mark in TWO_MARKS:
        text = text.replace(mark, unicodedata.normalize("NFD", mark))
    classes = bytes(map(unicodedata.combining, text))
    pieces, at = [], 0
    for found in MANY_MARKS.finditer(classes):
        pieces.append(text[at:found.end()])
        at = found.end()
    return "\u034f".join([*pieces, text[at:]])
