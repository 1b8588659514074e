"""Bytes of a page in, its text out: which encoding a page is in.

    python extract.py page.html --charset iso-8859-2        what the HTTP header says

Sources: the HTML standard, section 13.2.3; the Encoding standard (WHATWG) for labels.
"""
import re

MAX_TAG = 250_000                 # characters of a tag that are read

# The labels of the HTML standard, and four misspelt ones, behind Python's codec for what they mean
# on the web. No other name of a codec counts: Python has some that are not charsets.
LABELS = {label: group.split()[0] for group in """
    =utf-8 utf-8 utf8 unicode-1-1-utf-8 unicode11utf8 unicode20utf8 x-unicode20utf8 =utf-16-le
    utf-16 utf-16le unicode unicodefeff ucs-2 csunicode iso-10646-ucs-2 =utf-16-be utf-16be
    unicodefffe =cp1252 ascii us-ascii ansi_x3.4-1968 iso-8859-1 iso8859-1 iso88591 iso_8859-1
    iso_8859-1:1987 iso-ir-100 csisolatin1 latin1 latin-1 l1 cp819 ibm819 cp1252 windows-1252
    x-cp1252 x-user-defined =iso8859-2 iso-8859-2 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987
    iso-ir-101 csisolatin2 latin2 l2 =iso8859-3 iso-8859-3 iso8859-3 iso88593 iso_8859-3
    iso_8859-3:1988 iso-ir-109 csisolatin3 latin3 l3 =iso8859-4 iso-8859-4 iso8859-4 iso88594
    iso_8859-4 iso_8859-4:1988 iso-ir-110 csisolatin4 latin4 l4 =iso8859-5 iso-8859-5 iso8859-5
    iso88595 iso_8859-5 iso_8859-5:1988 iso-ir-144 cyrillic csisolatincyrillic =iso8859-6
    iso-8859-6 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987 iso-ir-127 arabic csisolatinarabic
    asmo-708 ecma-114 iso-8859-6-e iso-8859-6-i csiso88596e csiso88596i =iso8859-7 iso-8859-7
    iso8859-7 iso88597 iso_8859-7 iso_8859-7:1987 iso-ir-126 greek greek8 csisolatingreek
    ecma-118 elot_928 sun_eu_greek =iso8859-8 iso-8859-8 iso8859-8 iso88598 iso_8859-8
    iso_8859-8:1988 iso-ir-138 hebrew csisolatinhebrew iso-8859-8-e iso-8859-8-i csiso88598e
    csiso88598i logical visual =iso8859-10 iso-8859-10 iso8859-10 iso885910 iso-ir-157
    csisolatin6 latin6 l6 =iso8859-13 iso-8859-13 iso8859-13 iso885913 =iso8859-14 iso-8859-14
    iso8859-14 iso885914 =iso8859-15 iso-8859-15 iso8859-15 iso885915 iso_8859-15 csisolatin9 l9
    =iso8859-16 iso-8859-16 =cp866 ibm866 cp866 866 csibm866 =cp874 iso-8859-11 iso8859-11
    iso885911 tis-620 windows-874 dos-874 =cp1250 windows-1250 cp1250 x-cp1250 =cp1251
    windows-1251 cp1251 x-cp1251 =cp1253 windows-1253 cp1253 x-cp1253 =cp1254 windows-1254
    cp1254 x-cp1254 iso-8859-9 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 iso-ir-148
    csisolatin5 latin5 l5 =cp1255 windows-1255 cp1255 x-cp1255 =cp1256 windows-1256 cp1256
    x-cp1256 =cp1257 windows-1257 cp1257 x-cp1257 =cp1258 windows-1258 cp1258 x-cp1258 =koi8_r
    koi8-r koi8 koi koi8_r cskoi8r =koi8_u koi8-u koi8-ru =mac_roman macintosh mac x-mac-roman
    csmacintosh =mac_cyrillic x-mac-cyrillic x-mac-ukrainian =gb18030 gb18030 gbk x-gbk gb2312
    gb_2312 gb_2312-80 chinese csgb2312 csiso58gb231280 iso-ir-58 =big5hkscs big5 big5-hkscs
    cn-big5 csbig5 x-x-big5 =euc_jp euc-jp x-euc-jp cseucpkdfmtjapanese =iso2022_jp iso-2022-jp
    csiso2022jp =cp932 shift_jis shift-jis sjis x-sjis windows-31j ms932 ms_kanji csshiftjis
    =cp949 euc-kr ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 korean windows-949 cseuckr
    csksc56011987 iso-ir-149
    """.split("=")[1:] for label in group.split()[1:]}
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
