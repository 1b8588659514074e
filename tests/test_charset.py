"""web/encoding.py and web/charset.py: the web's encodings code by code, which of the declarations counts, and the tags that hold them."""
import hashlib
import itertools
import random
import time

import pytest

from web import encoding
from web.charset import decode, read
from web.encoding import bytes_of, encoding_of, text_of
from web.extract import main_text
from web.markup import attributes, tags

PAIRS = [bytes(pair) for pair in itertools.product(range(256), repeat=2)]


def digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------
# Labels and codes. The digests were computed from the standard's own files (encodings.json, index-*.txt of
# whatwg/encoding of 21 May 2026) by decoders that were written from its text and share nothing with web/encoding.py.

@pytest.mark.parametrize("label, name", [
    ("ISO-8859-1", "windows-1252"), ("latin1", "windows-1252"), ("us-ascii", "windows-1252"), ("iso-8859-9", "windows-1254"), ("TIS-620", "windows-874"),
    ("gb2312", "gbk"), ("x-gbk", "gbk"), ("Shift_JIS", "shift_jis"), ("windows-31j", "shift_jis"), ("ks_c_5601-1987", "euc-kr"),
    (" 'UTF8' ", "utf-8"), ("x-user-defined", "x-user-defined"), ("koi8-r", "koi8-r"), ("no-such-charset", None), ("", None),
    (None, None), ("rot13", None), ("utf-7", None), ("\0", None), ("idna", None), ("ü", None), ("x-cp1251", "windows-1251"), ("ISO_8859-2:1987", "iso-8859-2"),
    ("unicode_escape", None), ("raw_unicode_escape", None), ("raw-unicode-escape", None), ("punycode", None), ("zlib", None), ("hex", None), ("base64", None),
    ("undefined", None), ("charmap", None), ("mbcs", None), ("utf_8_sig", None), ("utf-32", None), ("cp037", None),
    ("hz-gb-2312", "replacement"), ("iso-2022-kr", "replacement"), ("iso-2022-cn", "replacement")])
def test_labels(label, name):
    assert encoding_of(label) == name


def test_the_labels_are_those_of_the_standard():
    labels = {label: name for label, name in encoding.LABELS.items() if label != "latin-1"}          # Python's word for it
    assert digest(f"{label} {labels[label]}" for label in sorted(labels)) == "d9153e22e1ff5385"


@pytest.mark.parametrize("name, want", [
    ("gb18030", "ddb573cb565cc087"), ("big5", "5db8510a452c5ec2"), ("euc-jp", "88979c43f196be21"),
    ("shift_jis", "904685dc8391bcdf"), ("euc-kr", "49f2d2d43b652e99")])
def test_every_pair_of_bytes_is_what_the_standard_says(name, want):
    """And what follows a wrong one is not lost with it: two full stops stand behind each pair."""
    assert digest(text_of(pair + b"..", name) for pair in PAIRS) == want


def test_codes_of_three_and_four_bytes():
    assert digest(text_of(b"\x8f" + pair + b".", "euc-jp") for pair in PAIRS) == "1f2cdf4f693abae6"
    codes = itertools.product(range(0x81, 0x85), range(0x30, 0x3a), range(0x81, 0xff), range(0x30, 0x3a))
    assert digest(text_of(bytes(code), "gb18030") for code in codes) == "141675e15128440b"


def test_every_pair_of_bytes_behind_an_escape_sequence():
    assert digest(text_of(b"\x1b$B" + pair + b"\x1b(B.", "iso-2022-jp") for pair in PAIRS) == "79e191d4abf94fa7"


def test_encodings_of_single_bytes():
    names = sorted(set(encoding.LABELS.values()) - encoding.MULTI_BYTE - {"utf-8", "utf-16le", "utf-16be", "replacement"})
    assert len(names) == 29 and digest(text_of(bytes(range(256)), name) for name in names) == "b679529dec5d3901"


@pytest.mark.parametrize("name, data, text", [
    ("iso-2022-jp", b"a\x1b$B9A\x1b(Bb", "a港b"), ("iso-2022-jp", b"\x1b(J\\~\x1b(I1\x1b(B\\", "¥‾ｱ\\"), ("iso-2022-jp", b"\x1b$B9A\x1b(B\x1b$B9A", "港\ufffd港"),
    ("iso-2022-jp", b"\x1b$B9\n9A", "\ufffd港"), ("iso-2022-jp", b"a\x1b.b\x0e\xe9", "a\ufffd.b\ufffd\ufffd"), ("iso-2022-jp", b"a\x1b$B9A9", "a港"), ("iso-2022-jp", b"a\x1b$", "a"),
    ("gbk", b"\x80\xb8\xdb", "€港"), ("gbk", b"\x81", ""), ("gbk", b"\x81\x30\x81", ""), ("gbk", b"\x81\x30\x81.", "\ufffd0\ufffd."), ("gb18030", b"\x95\x32\x82\x36", "𠀀"),
    ("utf-16le", b"\x2f\x6e\xe3\x53a\0\xff", "港口a"), ("utf-16be", b"\x6e\x2f\xd8\x00\0a", "港\ufffda"), ("euc-jp", b"\x8f\xa1", ""), ("big5", b"\x88\x62", "Ê̄"),
    ("replacement", b"anything", "\ufffd"), ("replacement", b"", ""), ("x-user-defined", b"a\x80\xff", "a\uf780\uf7ff")])
def test_text_of(name, data, text):
    assert text_of(data, name) == text


@pytest.mark.parametrize("name", sorted(set(encoding.LABELS.values()) - {"utf-8", "utf-16le", "utf-16be", "replacement", "iso-2022-jp"}))
def test_bytes_and_back(name):
    """All that can be written is read as it was, and all that is read can be written, but for HKSCS and the like."""
    table = encoding.codes(name)
    differ = {"\xa5", "\u203e", "\u2212"}                                        # Japanese encodings write another character
    assert all(text_of(code, name) == char for char, code in table.items() if char not in differ or name not in encoding.JAPANESE)
    known = set(encoding.index(encoding.INDEX.get(name, name)).values()) if name in encoding.MULTI_BYTE else set(encoding.characters(name)) - {"\ufffd"}
    assert len(known & set(table)) > {"big5": .7, "euc-jp": .5, "shift_jis": .75}.get(name, .8) * len(known)
    assert bytes_of("a\U0001f980", name) in (b"a&#129408;", "a\U0001f980".encode("gb18030"))


@pytest.mark.parametrize("name, text, data", [
    ("windows-1252", "ä€\x81", b"\xe4\x80\x81"), ("koi8-u", "ў", b"\xae"), ("gbk", "€港", b"\x80\xb8\xdb"), ("gbk", "𠀀", b"&#131072;"), ("gb18030", "𠀀", b"\x95\x32\x82\x36"),
    ("big5", "十兀", b"\xa4\x51\xa4\x61"), ("big5", "㡵", b"&#14453;"), ("shift_jis", "纊¥", b"\xfa\x5c\\"), ("euc-jp", "ｱ港", b"\x8e\xb1\xb9\xc1"), ("euc-jp", "丂", b"&#19970;"),
    ("iso-2022-jp", "a港ｱb港", b"a\x1b$B9A%\"\x1b(Bb\x1b$B9A\x1b(B"), ("utf-16le", "ä", b"\xc3\xa4"), ("replacement", "ä", b"\xc3\xa4"), ("utf-8", "\ud800", b"?")])
def test_bytes_of(name, text, data):
    assert bytes_of(text, name) == data


# ------------------------------------------------------------------------------------------------------
# Which encoding.

RUSSIAN = "Паром отходит в полдень."
HARBOUR = "港口在城市的北边，渡轮每天中午从这里出发"


@pytest.mark.parametrize("data, label, text", [
    ("naïve “quotes”".encode(), "iso-8859-1", "naïve “quotes”"),               # valid UTF-8 wins over what is declared
    ("“quotes” – é".encode("cp1252"), "utf-8", "“quotes” – é"),                # declared UTF-8 is not
    ("“quotes” – é".encode("cp1252"), "iso-8859-1", "“quotes” – é"),           # latin1 means windows-1252
    (b"caf\xe9 \x81", "windows-1252", "café \x81"),                            # a hole in Python's code page
    ("Привет".encode("koi8-r"), "koi8-r", "Привет"),
    ("汉字".encode("gbk"), "gb2312", "汉字"),
    ("カタカナ".encode("cp932"), "shift_jis", "カタカナ"),
    ("汉字汉字".encode("gbk")[:-1], "gb2312", "汉字汉"),                        # cut off in a character
    ("汉字é".encode()[:-1], None, "汉字"), ("\ufeff汉字é".encode()[:-1], None, "汉字"), ("<p>港".encode("utf-16-le")[:-1], "utf-16", "<p>"),
    (b"\xef\xbb\xbfhi", "cp1252", "hi"),
    (b"\xff\xfeh\0i\0", None, "hi"), (b"\xfe\xff\0h\0i", None, "hi"), (b"\xff\xfeh\0i\0", "utf-16be", "hi"),
    (b'<meta charset="windows-1251">' + "Привет".encode("cp1251"), None, '<meta charset="windows-1251">Привет'),
    (b"caf\xe9", "no-such-charset", "café"), ("Привет".encode("cp1251"), "win1251", "Привет"), ("ŁÓDŹ".encode("iso8859-2"), "ISO8859_2", "ŁÓDŹ"),
    (b"a" * 1000 + b"\xff", None, "a" * 1000 + "\ufffd"),                      # one bad byte does not make it cp1252
    # One wrong byte costs a character and not the encoding; an ASCII byte behind it stays.
    (HARBOUR.encode("gbk") + b"\xff" + HARBOUR.encode("gbk"), "gb2312", HARBOUR + "\ufffd" + HARBOUR), (b"\xb8\xdb\xff<p>\xbf\xda", "gbk", "港\ufffd<p>口"),
    ("한국".encode("euc-kr") + b"\xc9<b>" + "한국".encode("euc-kr"), "euc-kr", "한국\ufffd<b>한국"), ("港口".encode("big5") + b"\xff\x80", "big5", "港口\ufffd\ufffd"),
    ("港".encode("cp932") + b"\xfd\xa0" + "口".encode("cp932"), "sjis", "港\ufffd\ufffd口"), ("港".encode("euc_jp") + b"\x80" + "口".encode("euc_jp"), "euc-jp", "港\ufffd口"),
    ("Ελλάδα".encode("cp1253") + b"\xff", "windows-1253", "Ελλάδα\ufffd"), ("один два\xff три".encode().replace(b"\xc3\xbf", b"\xff"), "utf-8", "один два\ufffd три"),
    ((RUSSIAN + "\xff" + RUSSIAN).encode().replace(b"\xc3\xbf", b"\xff"), "windows-1252", RUSSIAN + "\ufffd" + RUSSIAN),       # most of it valid UTF-8
    ("é\xffé".encode().replace(b"\xc3\xbf", b"\xff"), "utf-8", "é\ufffdé"),
    ("항구는 도시에".encode().replace("시".encode(), b"\xec\0\x8b\x9c") + "항구는".encode() * 2, None, "항구는 도\ufffd\0\ufffd\ufffd에항구는항구는"),             # undeclared and short
    ("항구는 도시에 항구".encode().replace("시".encode(), b"\xec\x8b"), "shift_jis", "항구는 도\ufffd에 항구"), (("港口" * 3).encode("gbk"), "gbk", "港口" * 3),
    # UTF-16 by header, by a tag, and a header that lies
    ("<p>港".encode("utf-16-le"), "utf-16", "<p>港"), ("<p>港".encode("utf-16-be"), "utf-16be", "<p>港"), ("Привет".encode("utf-16-le"), "utf-16le", "Привет"),
    ("港口".encode("utf-16-le"), "utf-16", "港口"), ('<?xml version="1.0"?>é'.encode("utf-16-be"), None, '<?xml version="1.0"?>é'), ("<p>é".encode(), "utf-16", "<p>é"), (b"<p>x", "utf-16", "<p>x"),
    # ISO-2022-JP is ASCII, and ASCII is valid UTF-8
    ("中午".encode("iso2022_jp"), "iso-2022-jp", "中午"), ("<meta charset=iso-2022-jp>港口".encode("iso2022_jp"), None, "<meta charset=iso-2022-jp>港口"),
    ("港口".encode("iso2022_jp"), "utf-8", "港口"), ("港口".encode("iso2022_jp"), None, "港口"), ("é".encode(), "iso-2022-jp", "é"),
    # What no browser decodes
    (b"~{8[?Z~}", "hz-gb-2312", "\ufffd"), (b"<meta charset=iso-2022-kr>\x1b$)C\x0eGQ19", None, "\ufffd"), (b"\x1b$B9A", "iso-2022-cn", "\ufffd"),
    # Two declarations: the first, unless it cannot be
    ("Привет".encode("koi8-r") + b"<meta charset=windows-1251>", "koi8-r", "Привет<meta charset=windows-1251>"),
    (("港口、船" * 5).encode("euc_jp") + b"<meta charset=euc-jp>", "shift_jis", "港口、船" * 5 + "<meta charset=euc-jp>"),
    (("港口" * 60).encode("gbk") + b"\xff<meta charset=latin1>", "gbk", "港口" * 60 + "\ufffd<meta charset=latin1>"),
])
def test_decode(data, label, text):
    assert decode(data, label) == text


@pytest.mark.parametrize("head", [
    "<meta http-equiv='Content-Type' content='text/html; charset=windows-1251'>", "<META CHARSET=windows-1251>", "<meta/charset='windows-1251'/>", "<meta\tname=x\ncharset\f= windows-1251 >",
    "<meta content='text/html; charset=windows-1251' http-equiv=content-type>", "<meta http-equiv=content-type content='text/html; charset = \"windows-1251\" ; x'>",
    "<meta http-equiv=content-type content='charset; charset=windows-1251'>", "<meta charset=&#119;indows-1251>", "<meta charset=' windows-1251 '>",
    "<meta name=description content='charset=koi8-r'><meta charset=windows-1251>", "<!-- <meta charset=koi8-r> --><meta charset=windows-1251>",
    "<script>'<meta charset=koi8-r>'</script><meta charset=windows-1251>", "<title><meta charset=koi8-r></title><meta charset=windows-1251>",
    "<p title='<meta charset=koi8-r>'><meta charset=windows-1251>", "<meta charset=nonsense><meta charset=windows-1251>", "<noscript><meta charset=windows-1251></noscript>",
    "<meta charset=windows-1251><meta charset=koi8-r>", "<!--" + "x" * 5000 + "--><meta charset=windows-1251>", "<p>" * 2000 + "<meta charset=windows-1251>",
    "<meta charset=utf-16><meta charset=windows-1251>", "<?xml version='1.0' encoding='windows-1251'?><html>", '<?xml version="1.0" standalone="no" encoding = "Windows-1251" ?>',
    "<?xml encoding='koi8-r'?><meta charset=windows-1251>", "<meta charset=utf-8><meta charset=windows-1251>",
    "<meta charset=windows-1251/>", "<meta charset='windows-1251;'>", "<meta charset='text/html; charset=windows-1251'>", "<meta charset=win-1251>", "<meta charset=windows1251>", "<meta charset='Windows 1251'>", "<meta charset='charset=cp-1251'>",
    "<meta http-equiv=content-type content='text/html; charset:windows-1251'>", "<meta http-equiv=content-type content='text/html; charset windows-1251'>",
    "<meta charset='' http-equiv=content-type content='text/html; charset=windows-1251'>", "<meta charset=win-1250><meta charset=windows-1251>",
    "\n <?xml version='1.0' encoding='windows-1251'?>", "<?XML ENCODING='windows-1251'?>", "<?xml version='1.0'encoding=' windows-1251 '?>", "<?xml encoding=windows-1251?>",
    '<meta httpequiv="ContentType" content="text/html; charset=windows-1251">', "<meta name='Content-Type' content='text/html;charset=windows-1251'>", "<meta content='text/html;charset=koi8-r'><meta charset=windows-1251>"])
def test_declared_in_the_page(head):
    assert read(head.encode() + RUSSIAN.encode("cp1251")) == (head + RUSSIAN, "windows-1251")


@pytest.mark.parametrize("head", [
    "<meta name=description content='charset=windows-1251'>", "<!-- <meta charset=windows-1251> -->", "<script><meta charset=windows-1251>", "<metal charset=windows-1251>",
    "<template><meta charset=windows-1251></template>", "<meta http-equiv=refresh content='0;charset=windows-1251'>", "<meta charset=x-user-defined>", ""])
def test_not_declared(head):
    assert read(head.encode() + RUSSIAN.encode("cp1251"))[1] == "windows-1252"


@pytest.mark.parametrize("data, label, name", [
    (b"x", None, "windows-1252"), (b"x", "koi8-r", "koi8-r"), (b"<meta charset=utf-8>", None, "utf-8"), ("é".encode(), "koi8-r", "utf-8"), (b"\xef\xbb\xbfx", "koi8-r", "utf-8"),
    ("x".encode("utf-16"), None, "utf-16le"), (b"<meta charset=big5>", "nonsense", "big5")])
def test_the_encoding_of_a_page(data, label, name):
    assert read(data, label)[1] == name


def test_no_bytes_are_an_error_and_no_text_has_surrogates():
    rng = random.Random(0)
    for _ in range(2000):
        label = rng.choice([*encoding.LABELS, None])
        data = b"".join(rng.choice([b"\x1b$B", b"\x1b(I", b"\x8f", b"\xa1", b"<", b"\0", b"\xd8", b"\xff\xfe", b"\xed\xa0\x80", b"a", bytes([rng.randrange(256)])]) for _ in range(rng.randrange(20)))
        decode(data, label).encode()
    for label in encoding.LABELS:
        main_text(b"<p>\xe9 One\x1b$B\xed\xa0\x80", charset=label).encode()


def test_linear_time_in_every_encoding():
    for name in sorted(encoding.MULTI_BYTE):
        for piece in (b"\x81", b"\xff", b"\x1b$B", b"\x8f\xa1", b"\x810", b"a\xa1"):
            text_of(piece, name)                                               # builds the table
            start = time.process_time()
            text_of(piece * (100_000 // len(piece)), name)
            assert time.process_time() - start < 2


# ------------------------------------------------------------------------------------------------------
# Tags.

@pytest.mark.parametrize("source, want", [
    (' a=1 B="2" c=\'3\' d', {"a": "1", "b": "2", "c": "3", "d": ""}), ("/a=1/b=2/", {"a": "1/b=2/"}), ("/a/b", {"a": "", "b": ""}), (' a = 1\nb\t=\t"2"', {"a": "1", "b": "2"}),
    (' a="1"b=2', {"a": "1", "b": "2"}), (" a=1 a=2", {"a": "1"}), (" =a=1", {"=a": "1"}), (' "x"=1', {'"x"': "1"}), (" a=x\"y'z", {"a": "x\"y'z"}), (' a="1', {"a": "1"}),
    (" a=\xa0b c\xa0=d", {"a": "\xa0b", "c\xa0": "d"}), (" a= b=c", {"a": "b=c"}), (" a=''b", {"a": "", "b": ""}), ("", {}),
    # character references: in attributes a name needs its semicolon before = and letters
    (' a="&amp;&lt;&#65;&#x42;&#67 &eacute;"', {"a": "&<AB\x43 é"}), (' a="?x&copy=1&sect&region&amp=2"', {"a": "?x&copy=1§&region&amp=2"}), (' a="&notit;&not;&not &notin;"', {"a": "&notit;¬¬ ∉"}),
    (' a="&copy2&copy_&copy"', {"a": "&copy2©_©"}), (' a="&#38;amp;&unknown;&;&#;&#x;"', {"a": "&amp;&unknown;&;&#;&#x;"}), (' a="&#xD800;&#99999999999999999999;&#128;"', {"a": "\ufffd\ufffd€"}),
    (f' a="&#{"9" * 5000};&#x{"f" * 5000};&#{"0" * 5000}65;"', {"a": "\ufffd\ufffdA"})])
def test_attributes(source, want):
    assert attributes(source) == want


@pytest.mark.parametrize("source, names", [
    ("<a><B/><c d=e></a><f", "a b c f"), ("<a title='<b>'><c title=\"'<d>'\"><e t=x'><f>", "a c e f"), ("<!-- <a> --><b><!--> <c><!---><d><!-- <e> --!><f><!--!><g>-->", "b c d f"), ("<!-- <a>", ""),
    ("<!doctype html><a><?b <c>?><d></ <e>><f><![CDATA[<g>]]>", "a d f"), ("</a title='<b>'><c>", "c"), ("< a><1><b>", "b"), ("<a<b><c>", "a<b c"),
    ("<script>'<a>'</scripty></script ><b>", "script b"), ("<SCRIPT>'<a>'</Script/><b>", "script b"), ("<script><a>", "script"), ("<script src=x /><a>", "script a"), ("<title><a></title><b>", "title b"),
    ("<title><a>", "title a"), ("<textarea><a></textarea><style><b></style><xmp><c></xmp><iframe><d></iframe><template><e></template><f>", "textarea style xmp iframe template f"),
    ("<noscript><a></noscript>", "noscript a"), ("<template shadowrootmode=open><a></template><b>", "template a b"), ("<template data-x='shadowrootmode' id=a><a></template><b>", "template b"), ("<a b='c>'<d>", "a"), ("<a b=\"c><d>", "a"), ("<a " + "b=c " * 5000 + "><d>", "a d"), ("<div\n\tid=a\n><a>", "div a")])
def test_tags(source, names):
    assert [name for _, name, _ in tags(source)] == names.split()
    assert all(source[start] == "<" for start, *_ in tags(source))
