"""The encodings of the web, from bytes to text and back, as browsers have them.

Python's codecs differ from the Encoding Standard in a few hundred codes, in the labels, and in how
many bytes a wrong byte costs. So Python's codec is used where it agrees with the standard, and a
table where it does not.

Source: the Encoding Standard (WHATWG).
"""
import codecs
import re
import unicodedata
from functools import cache
from itertools import product


# ----------------------------------------------------------------- encodings: labels and characters

# Each encoding, and the other labels that mean it, but for those of `labels`. latin-1 is Python's
# word for iso-8859-1.
LABELS_OF = """
    utf-8: unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf8 x-unicode20utf8
    ibm866: 866 cp866 csibm866
    iso-8859-2: csisolatin2 iso-ir-101 iso_8859-2 iso_8859-2:1987 l2 latin2
    iso-8859-3: csisolatin3 iso-ir-109 iso_8859-3 iso_8859-3:1988 l3 latin3
    iso-8859-4: csisolatin4 iso-ir-110 iso_8859-4 iso_8859-4:1988 l4 latin4
    iso-8859-5: csisolatincyrillic cyrillic iso-ir-144 iso_8859-5 iso_8859-5:1988
    iso-8859-6: arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6-e
        iso-8859-6-i iso-ir-127 iso_8859-6 iso_8859-6:1987
    iso-8859-7: csisolatingreek ecma-118 elot_928 greek greek8 iso-ir-126 iso_8859-7
        iso_8859-7:1987 sun_eu_greek
    iso-8859-8: csiso88598e csisolatinhebrew hebrew iso-8859-8-e iso-ir-138 iso_8859-8
        iso_8859-8:1988 visual
    iso-8859-8-i: csiso88598i logical
    iso-8859-10: csisolatin6 iso-ir-157 l6 latin6
    iso-8859-13: iso-8859-14: iso-8859-15: csisolatin9 iso_8859-15 l9
    koi8-r: cskoi8r koi koi8 koi8_r
    koi8-u: koi8-ru
    macintosh: csmacintosh mac x-mac-roman
    windows-874: dos-874 iso-8859-11 iso8859-11 iso885911 tis-620
    windows-1250: windows-1251: windows-1252: ansi_x3.4-1968 ascii cp819 csisolatin1 ibm819
        iso-8859-1 iso-ir-100 iso8859-1 iso88591 iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii
        latin-1
    windows-1253: windows-1254: csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9
        iso_8859-9:1989 l5 latin5
    windows-1255: windows-1256: windows-1257: windows-1258: x-mac-cyrillic: x-mac-ukrainian
    gbk: chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 iso-ir-58 x-gbk
    big5: big5-hkscs cn-big5 csbig5 x-x-big5
    euc-jp: cseucpkdfmtjapanese x-euc-jp
    iso-2022-jp: csiso2022jp
    shift_jis: csshiftjis ms932 ms_kanji shift-jis sjis windows-31j x-sjis
    euc-kr: cseuckr csksc56011987 iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601
        windows-949
    replacement: csiso2022kr hz-gb-2312 iso-2022-cn iso-2022-cn-ext iso-2022-kr
    utf-16be: unicodefffe
    utf-16le: csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16
    iso-8859-16: gb18030: x-user-defined:
    """


def labels():
    """{label: encoding}. Of windows-1250, cp1250 is a label, too, and of iso-8859-2 iso88592."""
    found = {}
    for word in LABELS_OF.split():
        if word.endswith(":"):
            encoding = word = word.removesuffix(":")
            kind, _, number = word.rpartition("-")
            if kind == "windows" and number != "874":
                found[f"cp{number}"] = found[f"x-cp{number}"] = encoding
            elif kind == "iso-8859" and number not in ("i", "16"):
                found[f"iso8859-{number}"] = found[f"iso8859{number}"] = encoding
        found[word] = encoding
    return found


LABELS = labels()
# The names of Python's codecs that are not the names of their encodings.
CODECS = {"windows-874": "cp874", "x-mac-cyrillic": "mac_cyrillic", "iso-8859-8-i": "iso8859-8",
          "ibm866": "cp866", "big5": "big5hkscs", "shift_jis": "cp932",
          "euc-kr": "cp949"}
# Codes that Python's codec lacks or reads otherwise. Of two bytes: a code in hexadecimal, its
# character, and the characters of the codes that follow. The tests have digests of all codes.
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


def parting(codes, cut):
    """Patterns of (codes, runs of ASCII and single bytes; a code that the end has cut off)."""
    return re.compile(codes + rb"|[\x00-\x7f]+|.", re.S), re.compile(cut)


PAIR = parting(rb"[\x81-\xfe].", rb"[\x81-\xfe]")
PARTS = {
    "big5": PAIR,
    "euc-kr": PAIR,
    "shift_jis": parting(rb"[\x81-\x9f\xe0-\xfc].", rb"[\x81-\x9f\xe0-\xfc]"),
    "euc-jp": parting(rb"\x8f[\xa1-\xfe].|[\x8e\x8f\xa1-\xfe].",
                      rb"\x8f[\xa1-\xfe]|[\x8e\x8f\xa1-\xfe]"),
    "gb18030": parting(rb"[\x81-\xfe](?:[0-9][\x81-\xfe][0-9]|[^0-9]|[0-9][\x81-\xfe]?\Z)",
                       rb"[\x81-\xfe](?:[0-9][\x81-\xfe]?)?"),
}
HIGH = range(0x81, 0xff)
LEADS = [*range(0x81, 0xa0), *range(0xe0, 0xfd)]
ROWS = range(0xa1, 0xff)
# ISO-2022-JP: escape sequences, pairs of bytes, and a sequence that is cut off at the end.
ESCAPE = re.compile(rb"\x1b(\([BJI]|\$[@B])")
CUT_ESCAPE = re.compile(rb"\x1b[($]?\Z")
PAIRS = re.compile(rb"[!-~][^\x1b]|.", re.S)
NO_ASCII = re.compile("[\x0e\x0f\x1b\x80-\xff]")
ROMAN = {0x5c: "\u00a5", 0x7e: "\u203e"}            # where JIS X 0201 differs from ASCII
HIGH_BIT = bytes(b | 0x80 for b in range(256))      # turns its pairs into those of EUC-JP

MULTI_BYTE = {*PARTS, "gbk", "iso-2022-jp"}
INDEX = {"gbk": "gb18030", "iso-2022-jp": "euc-jp"}     # encodings with the characters of others
JAPANESE = "shift_jis", "euc-jp", "iso-2022-jp"
SEVEN_BITS = "iso-2022-jp", "replacement"
HALF_WIDTH = range(0xff61, 0xff61 + 63)             # katakana of half width
SOUND_MARKS = {"\uff9e": "\u309b", "\uff9f": "\u309c"}      # of half width -> of full width
BOX = "\u2550\u255e\u2561\u256a\u5341\u5345"        # have two codes in Big5; the second counts


def encoding_of(label):
    """The encoding that a label means on the web; None if it means none.

    >>> encoding_of(" Latin1 "), encoding_of("x-sjis"), encoding_of("utf-7")
    ('windows-1252', 'shift_jis', None)
    """
    return LABELS.get((label or "").strip(" \t\r\n\f\"'").lower())


def known(code, codec):
    """The text of bytes in Python's codec, "" if they are wrong."""
    try:
        return code.decode(codec)
    except UnicodeDecodeError:
        return ""


class Index(dict):
    """{code: character} of a multi-byte encoding, but for codes of four bytes: they are too many.

    A part that is no code is ASCII, which stands for itself, or becomes U+FFFD. An ASCII byte
    behind a lead byte stays.
    """

    def __missing__(self, part):
        if part[0] < 0x80:
            return part.decode("ascii")
        if len(part) == 4:
            return known(part, "gb18030") or "\ufffd"
        return "\ufffd" + (chr(part[-1]) if part[-1] < 0x80 else "")


@cache
def index(name):
    """The Index of a multi-byte encoding."""
    if name == "euc-jp":
        return japanese_index()
    found, leads = Index(), LEADS if name == "shift_jis" else HIGH
    for code in map(bytes, product(leads, range(0x40, 0xff))):
        if char := known(code, CODECS.get(name, name)):
            found[code] = char
    if name == "gb18030":
        found.update({b"\x80": "\u20ac", b"\x81\x35\xf4\x37": "\ue7c7"})
    if name == "shift_jis":
        found[b"\x80"] = "\x80"
        for i, char in enumerate(HALF_WIDTH):
            found[bytes([0xa1 + i])] = chr(char)
    for run in re.findall("[^ \n]+", TWO_BYTES.get(name, "")):          # one holds U+3000
        first, characters_ = int(run[:4], 16), run[4:]
        for i, char in enumerate(characters_):
            found[(first + i).to_bytes(2, "big")] = char
    return found


def japanese_index():
    """The Index of EUC-JP: the characters of Shift_JIS in another arrangement, and JIS X 0212."""
    found, shift_jis = Index(), index("shift_jis")
    for row, cell in product(range(94), repeat=2):
        trail = cell + 0x9f if row % 2 else cell + 0x40 + (cell >= 63)
        char = shift_jis.get(bytes([LEADS[row // 2], trail]))
        if char:
            found[bytes([0xa1 + row, 0xa1 + cell])] = char
    for i, char in enumerate(HALF_WIDTH):
        found[bytes([0x8e, 0xa1 + i])] = chr(char)
    for pair in product(ROWS, repeat=2):
        code = bytes([0x8f, *pair])
        if char := known(code, "euc_jp"):
            found[code] = char
    found[b"\x8f\xa2\xb7"] = "\uff5e"
    return found


@cache
def doubtful(name):
    """A pattern of the characters for which Python's codec may have read another code."""
    wrong, found = {"\0"}, index(name)                      # NUL: no set is empty
    for code in [*map(bytes, zip(range(0x80, 0x100))), *found]:
        if (theirs := known(code, CODECS.get(name, name))) != found[code]:
            wrong.add(theirs)
    return re.compile("[" + "".join(map(re.escape, wrong)) + "]")


@cache
def characters(name):
    """The 256 characters of an encoding of single bytes. Windows's gaps are control characters."""
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
    """ISO-2022-JP -> text. Escape sequences say what the bytes behind them are.

    Two sequences with nothing between them are an error, since something could be hidden there.
    """
    data = CUT_ESCAPE.sub(b"", data)
    text, mode, pieces = [], b"(B", ESCAPE.split(data)      # a piece, a sequence, a piece ...
    for i, piece in enumerate(pieces):
        last = i == len(pieces) - 1
        if i % 2:
            mode = piece
        elif not piece and i and not last:
            text.append("\ufffd")
        elif mode[:1] == b"$":
            parts = PAIRS.findall(piece)
            if last and parts and len(parts[-1]) == 1 and 0x20 < parts[-1][0] < 0x7f:
                parts.pop()                                 # a pair that is cut off
            for part in parts:
                code = part.translate(HIGH_BIT) if part.isascii() else b""
                text.append(index("euc-jp").get(code, "\ufffd"))
        elif mode == b"(I":
            for byte in piece:
                half = 0x20 < byte < 0x60
                text.append(chr(HALF_WIDTH[byte - 0x21]) if half else "\ufffd")
        else:
            piece = NO_ASCII.sub("\ufffd", piece.decode("latin-1"))
            text.append(piece.translate(ROMAN) if mode == b"(J" else piece)
    return "".join(text)


def text_of(data, name):
    """Bytes in the encoding of this name -> str. A code that the end cuts off is left out.

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
    text = known(data, CODECS.get(name, name))              # ten times as fast as parts
    if text and not doubtful(name).search(text):
        return text
    part, cut = PARTS[name]
    parts = part.findall(data)
    if parts and cut.fullmatch(parts[-1]):
        parts.pop()
    return "".join(map(index(name).__getitem__, parts))


# ----------------------------------------------------------- text to bytes, for the links of a page

@cache
def codes(name):
    """{character: code} of an encoding. The first of several codes counts.

    By the standard, codes of HKSCS, codes that NEC took from IBM, and codes of three bytes are not
    written.
    """
    if name not in MULTI_BYTE:
        return {c: bytes([b]) for b, c in enumerate(characters(name)) if c != "\ufffd"}
    found = {}
    for code, char in sorted(index(INDEX.get(name, name)).items(), reverse=True):
        excepted = len(code) > 2
        if name == "big5":
            excepted = code[0] < 0xa1 or char in BOX and char in found
        elif name == "shift_jis":
            excepted = 0xed <= code[0] <= 0xf9
        elif name == "gb18030":
            excepted = len(code) != 2
        if not excepted:
            found[char] = code
    found.update((chr(b), bytes([b])) for b in range(0x80))
    if name in JAPANESE:
        found["\u2212"] = found["\uff0d"]
        found.update({"\u00a5": b"\\", "\u203e": b"~"})
    if name == "iso-2022-jp":
        for half in map(chr, HALF_WIDTH):
            full = SOUND_MARKS.get(half) or unicodedata.normalize("NFKC", half)
            found[half] = found[full]
    return found


def bytes_of(text, name, unknown="&#{};"):
    """Text -> bytes in the encoding of this name, as browsers write forms and the queries of links.

    unknown: the replacement for a character that the encoding lacks, with its number filled in.
    Encodings that browsers do not write become UTF-8.
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


# ----------------------------------------------------------------------------- normal forms of text

MANY_MARKS = re.compile(rb"[^\0][^\0]{29}(?=[^\0])")        # of combining classes; letters have 0
# 31 marks in a row are at least 16 characters that are no letters: some are two marks each.
FEWEST = 16
MAY_BE_MARK = re.compile(r"[^\x00-\u02ff\w\s]")
MAY_BE_MARKS = re.compile(MAY_BE_MARK.pattern + f"{{{FEWEST}}}")
TWO_MARKS = "\u0f73\u0f75\u0f81"    # show their combining class only when they are decomposed


def stream_safe(text):
    """The text with U+034F after 30 combining marks in a row (UAX #15, section 13).

    Without it normal forms take quadratic time in Python, which sorts such marks. Every 16th
    character is looked at first: a run of 16 holds one of them.
    """
    if not MAY_BE_MARK.search(text[::FEWEST]) or not MAY_BE_MARKS.search(text):
        return text
    for mark in TWO_MARKS:
        text = text.replace(mark, unicodedata.normalize("NFD", mark))
    classes = bytes(map(unicodedata.combining, text))
    pieces, at = [], 0
    for found in MANY_MARKS.finditer(classes):
        pieces.append(text[at:found.end()])
        at = found.end()
    return "\u034f".join([*pieces, text[at:]])
