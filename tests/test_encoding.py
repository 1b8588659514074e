"""web/encoding.py: the web's encodings code by code."""
import hashlib
import itertools
import time

import pytest

from web import encoding
from web.encoding import bytes_of, encoding_of, text_of


PAIRS = [bytes(pair) for pair in itertools.product(range(256), repeat=2)]


def digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# --------------------------------------------------------------------------------- labels and codes
#
# The digests were computed from the standard's own files (encodings.json and index-*.txt of
# whatwg/encoding of 21 May 2026) by decoders that were written from its text and share nothing with
# web/encoding.py.

@pytest.mark.parametrize("label, name", [
    ("ISO-8859-1", "windows-1252"), ("latin1", "windows-1252"), ("us-ascii", "windows-1252"),
    ("iso-8859-9", "windows-1254"), ("TIS-620", "windows-874"),
    ("gb2312", "gbk"), ("x-gbk", "gbk"), ("Shift_JIS", "shift_jis"), ("windows-31j", "shift_jis"),
    ("ks_c_5601-1987", "euc-kr"), (" 'UTF8' ", "utf-8"), ("x-user-defined", "x-user-defined"),
    ("koi8-r", "koi8-r"), ("no-such-charset", None), ("", None), (None, None), ("rot13", None),
    ("utf-7", None), ("\0", None), ("idna", None), ("ü", None),
    ("x-cp1251", "windows-1251"), ("ISO_8859-2:1987", "iso-8859-2"),
    # Python has these codecs, and the web does not.
    ("unicode_escape", None), ("raw_unicode_escape", None), ("raw-unicode-escape", None),
    ("punycode", None), ("zlib", None), ("hex", None), ("base64", None), ("undefined", None),
    ("charmap", None), ("mbcs", None), ("utf_8_sig", None), ("utf-32", None), ("cp037", None),
    # A browser decodes none of these.
    ("hz-gb-2312", "replacement"), ("iso-2022-kr", "replacement"),
    ("iso-2022-cn", "replacement")])
def test_labels(label, name):
    assert encoding_of(label) == name


def test_the_labels_are_those_of_the_standard():
    labels = {label: name for label, name in encoding.LABELS.items()
              if label != "latin-1"}                                    # Python's word for it
    assert digest(f"{label} {labels[label]}" for label in sorted(labels)) == "d9153e22e1ff5385"


@pytest.mark.parametrize("name, want", [
    ("gb18030", "ddb573cb565cc087"), ("big5", "5db8510a452c5ec2"), ("euc-jp", "88979c43f196be21"),
    ("shift_jis", "904685dc8391bcdf"), ("euc-kr", "49f2d2d43b652e99")])
def test_every_pair_of_bytes_is_what_the_standard_says(name, want):
    """And what follows a wrong one is not lost with it: two full stops stand behind each pair."""
    assert digest(text_of(pair + b"..", name) for pair in PAIRS) == want


def test_codes_of_three_and_four_bytes():
    assert digest(text_of(b"\x8f" + pair + b".", "euc-jp") for pair in PAIRS) == "1f2cdf4f693abae6"
    codes = itertools.product(range(0x81, 0x85), range(0x30, 0x3a),
                              range(0x81, 0xff), range(0x30, 0x3a))
    assert digest(text_of(bytes(code), "gb18030") for code in codes) == "141675e15128440b"


def test_every_pair_of_bytes_behind_an_escape_sequence():
    texts = (text_of(b"\x1b$B" + pair + b"\x1b(B.", "iso-2022-jp") for pair in PAIRS)
    assert digest(texts) == "79e191d4abf94fa7"


def test_encodings_of_single_bytes():
    names = sorted(set(encoding.LABELS.values()) - encoding.MULTI_BYTE
                   - {"utf-8", "utf-16le", "utf-16be", "replacement"})
    assert len(names) == 29
    assert digest(text_of(bytes(range(256)), name) for name in names) == "b679529dec5d3901"


@pytest.mark.parametrize("name, data, text", [
    ("iso-2022-jp", b"a\x1b$B9A\x1b(Bb", "a港b"),
    ("iso-2022-jp", b"\x1b(J\\~\x1b(I1\x1b(B\\", "¥‾ｱ\\"),
    ("iso-2022-jp", b"\x1b$B9A\x1b(B\x1b$B9A", "港\ufffd港"),
    ("iso-2022-jp", b"\x1b$B9\n9A", "\ufffd港"),
    ("iso-2022-jp", b"a\x1b.b\x0e\xe9", "a\ufffd.b\ufffd\ufffd"),
    ("iso-2022-jp", b"a\x1b$B9A9", "a港"), ("iso-2022-jp", b"a\x1b$", "a"),
    ("gbk", b"\x80\xb8\xdb", "€港"), ("gbk", b"\x81", ""), ("gbk", b"\x81\x30\x81", ""),
    ("gbk", b"\x81\x30\x81.", "\ufffd0\ufffd."), ("gb18030", b"\x95\x32\x82\x36", "𠀀"),
    ("utf-16le", b"\x2f\x6e\xe3\x53a\0\xff", "港口a"),
    ("utf-16be", b"\x6e\x2f\xd8\x00\0a", "港\ufffda"),
    ("euc-jp", b"\x8f\xa1", ""), ("big5", b"\x88\x62", "Ê̄"),
    ("replacement", b"anything", "\ufffd"), ("replacement", b"", ""),
    ("x-user-defined", b"a\x80\xff", "a\uf780\uf7ff")])
def test_text_of(name, data, text):
    assert text_of(data, name) == text


@pytest.mark.parametrize("name", sorted(
    set(encoding.LABELS.values())
    - {"utf-8", "utf-16le", "utf-16be", "replacement", "iso-2022-jp"}))
def test_bytes_and_back(name):
    """What is written is read as it was; what is read can be written, but for HKSCS and such."""
    table = encoding.codes(name)
    differ = {"\xa5", "\u203e", "\u2212"}         # Japanese encodings write another character
    assert all(text_of(code, name) == char for char, code in table.items()
               if char not in differ or name not in encoding.JAPANESE)
    if name in encoding.MULTI_BYTE:
        known = set(encoding.index(encoding.INDEX.get(name, name)).values())
    else:
        known = set(encoding.characters(name)) - {"\ufffd"}
    share = {"big5": .7, "euc-jp": .5, "shift_jis": .75}.get(name, .8)
    assert len(known & set(table)) > share * len(known)
    assert bytes_of("a\U0001f980", name) in (b"a&#129408;", "a\U0001f980".encode("gb18030"))


@pytest.mark.parametrize("name, text, data", [
    ("windows-1252", "ä€\x81", b"\xe4\x80\x81"), ("koi8-u", "ў", b"\xae"),
    ("gbk", "€港", b"\x80\xb8\xdb"), ("gbk", "𠀀", b"&#131072;"),
    ("gb18030", "𠀀", b"\x95\x32\x82\x36"),
    ("big5", "十兀", b"\xa4\x51\xa4\x61"), ("big5", "㡵", b"&#14453;"),
    ("shift_jis", "纊¥", b"\xfa\x5c\\"), ("euc-jp", "ｱ港", b"\x8e\xb1\xb9\xc1"),
    ("euc-jp", "丂", b"&#19970;"),
    ("iso-2022-jp", "a港ｱb港", b"a\x1b$B9A%\"\x1b(Bb\x1b$B9A\x1b(B"),
    ("utf-16le", "ä", b"\xc3\xa4"), ("replacement", "ä", b"\xc3\xa4"),
    ("utf-8", "\ud800", b"?")])
def test_bytes_of(name, text, data):
    assert bytes_of(text, name) == data


def test_linear_time_in_every_encoding():
    for name in sorted(encoding.MULTI_BYTE):
        for piece in (b"\x81", b"\xff", b"\x1b$B", b"\x8f\xa1", b"\x810", b"a\xa1"):
            text_of(piece, name)                                               # builds the table
            start = time.process_time()
            text_of(piece * (100_000 // len(piece)), name)
            assert time.process_time() - start < 2
