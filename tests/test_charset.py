"""web/charset.py: which of a page's declarations counts."""
import random

import pytest

from web import encoding
from web.charset import decode, read
from web.extract import main_text


# ----------------------------------------------------------------------------------- which encoding

RUSSIAN = "Паром отходит в полдень."
HARBOUR = "港口在城市的北边，渡轮每天中午从这里出发"


@pytest.mark.parametrize("data, label, text", [
    ("naïve “quotes”".encode(), "iso-8859-1", "naïve “quotes”"),        # valid UTF-8 wins
    ("“quotes” – é".encode("cp1252"), "utf-8", "“quotes” – é"),         # declared UTF-8 is not
    ("“quotes” – é".encode("cp1252"), "iso-8859-1", "“quotes” – é"),    # latin1 is windows-1252
    (b"caf\xe9 \x81", "windows-1252", "café \x81"),                     # Python's table has a hole
    ("Привет".encode("koi8-r"), "koi8-r", "Привет"),
    ("汉字".encode("gbk"), "gb2312", "汉字"),
    ("カタカナ".encode("cp932"), "shift_jis", "カタカナ"),
    # A text may be cut off in a character.
    ("汉字汉字".encode("gbk")[:-1], "gb2312", "汉字汉"),
    ("汉字é".encode()[:-1], None, "汉字"), ("\ufeff汉字é".encode()[:-1], None, "汉字"),
    ("<p>港".encode("utf-16-le")[:-1], "utf-16", "<p>"),
    # A byte order mark wins over all else.
    (b"\xef\xbb\xbfhi", "cp1252", "hi"),
    (b"\xff\xfeh\0i\0", None, "hi"), (b"\xfe\xff\0h\0i", None, "hi"),
    (b"\xff\xfeh\0i\0", "utf-16be", "hi"),
    # A page may declare its encoding itself, and labels have several spellings.
    (b'<meta charset="windows-1251">' + "Привет".encode("cp1251"), None,
     '<meta charset="windows-1251">Привет'),
    (b"caf\xe9", "no-such-charset", "café"), ("Привет".encode("cp1251"), "win1251", "Привет"),
    ("ŁÓDŹ".encode("iso8859-2"), "ISO8859_2", "ŁÓDŹ"),
    (b"a" * 1000 + b"\xff", None, "a" * 1000 + "\ufffd"),   # one bad byte does not make it cp1252
    # One wrong byte costs a character and not the encoding; an ASCII byte behind it stays.
    (HARBOUR.encode("gbk") + b"\xff" + HARBOUR.encode("gbk"), "gb2312",
     HARBOUR + "\ufffd" + HARBOUR),
    (b"\xb8\xdb\xff<p>\xbf\xda", "gbk", "港\ufffd<p>口"),
    ("한국".encode("euc-kr") + b"\xc9<b>" + "한국".encode("euc-kr"), "euc-kr", "한국\ufffd<b>한국"),
    ("港口".encode("big5") + b"\xff\x80", "big5", "港口\ufffd\ufffd"),
    ("港".encode("cp932") + b"\xfd\xa0" + "口".encode("cp932"), "sjis", "港\ufffd\ufffd口"),
    ("港".encode("euc_jp") + b"\x80" + "口".encode("euc_jp"), "euc-jp", "港\ufffd口"),
    ("Ελλάδα".encode("cp1253") + b"\xff", "windows-1253", "Ελλάδα\ufffd"),
    ("один два\xff три".encode().replace(b"\xc3\xbf", b"\xff"), "utf-8", "один два\ufffd три"),
    ((RUSSIAN + "\xff" + RUSSIAN).encode().replace(b"\xc3\xbf", b"\xff"), "windows-1252",
     RUSSIAN + "\ufffd" + RUSSIAN),                                     # most of it valid UTF-8
    ("é\xffé".encode().replace(b"\xc3\xbf", b"\xff"), "utf-8", "é\ufffdé"),
    ("항구는 도시에".encode().replace("시".encode(), b"\xec\0\x8b\x9c") + "항구는".encode() * 2,
     None, "항구는 도\ufffd\0\ufffd\ufffd에항구는항구는"),               # undeclared and short
    ("항구는 도시에 항구".encode().replace("시".encode(), b"\xec\x8b"), "shift_jis",
     "항구는 도\ufffd에 항구"),
    (("港口" * 3).encode("gbk"), "gbk", "港口" * 3),
    # UTF-16 is declared by a header, or shown by a tag; and a header may lie.
    ("<p>港".encode("utf-16-le"), "utf-16", "<p>港"),
    ("<p>港".encode("utf-16-be"), "utf-16be", "<p>港"),
    ("Привет".encode("utf-16-le"), "utf-16le", "Привет"),
    ("港口".encode("utf-16-le"), "utf-16", "港口"),
    ('<?xml version="1.0"?>é'.encode("utf-16-be"), None, '<?xml version="1.0"?>é'),
    ("<p>é".encode(), "utf-16", "<p>é"), (b"<p>x", "utf-16", "<p>x"),
    # ISO-2022-JP is ASCII, and ASCII is valid UTF-8.
    ("中午".encode("iso2022_jp"), "iso-2022-jp", "中午"),
    ("<meta charset=iso-2022-jp>港口".encode("iso2022_jp"), None, "<meta charset=iso-2022-jp>港口"),
    ("港口".encode("iso2022_jp"), "utf-8", "港口"), ("港口".encode("iso2022_jp"), None, "港口"),
    ("é".encode(), "iso-2022-jp", "é"),
    # No browser decodes these.
    (b"~{8[?Z~}", "hz-gb-2312", "\ufffd"),
    (b"<meta charset=iso-2022-kr>\x1b$)C\x0eGQ19", None, "\ufffd"),
    (b"\x1b$B9A", "iso-2022-cn", "\ufffd"),
    # Of two declarations the first counts, unless it cannot be.
    ("Привет".encode("koi8-r") + b"<meta charset=windows-1251>", "koi8-r",
     "Привет<meta charset=windows-1251>"),
    (("港口、船" * 5).encode("euc_jp") + b"<meta charset=euc-jp>", "shift_jis",
     "港口、船" * 5 + "<meta charset=euc-jp>"),
    (("港口" * 60).encode("gbk") + b"\xff<meta charset=latin1>", "gbk",
     "港口" * 60 + "\ufffd<meta charset=latin1>"),
])
def test_decode(data, label, text):
    assert decode(data, label) == text


@pytest.mark.parametrize("head", [
    "<meta http-equiv='Content-Type' content='text/html; charset=windows-1251'>",
    "<META CHARSET=windows-1251>", "<meta/charset='windows-1251'/>",
    "<meta\tname=x\ncharset\f= windows-1251 >",
    "<meta content='text/html; charset=windows-1251' http-equiv=content-type>",
    "<meta http-equiv=content-type content='text/html; charset = \"windows-1251\" ; x'>",
    "<meta http-equiv=content-type content='charset; charset=windows-1251'>",
    "<meta charset=&#119;indows-1251>", "<meta charset=' windows-1251 '>",
    # Other things may stand before it.
    "<meta name=description content='charset=koi8-r'><meta charset=windows-1251>",
    "<!-- <meta charset=koi8-r> --><meta charset=windows-1251>",
    "<script>'<meta charset=koi8-r>'</script><meta charset=windows-1251>",
    "<title><meta charset=koi8-r></title><meta charset=windows-1251>",
    "<p title='<meta charset=koi8-r>'><meta charset=windows-1251>",
    "<meta charset=nonsense><meta charset=windows-1251>",
    "<noscript><meta charset=windows-1251></noscript>",
    "<meta charset=windows-1251><meta charset=koi8-r>",
    "<!--" + "x" * 5000 + "--><meta charset=windows-1251>",
    "<p>" * 2000 + "<meta charset=windows-1251>",
    "<meta charset=utf-16><meta charset=windows-1251>",
    "<?xml version='1.0' encoding='windows-1251'?><html>",
    '<?xml version="1.0" standalone="no" encoding = "Windows-1251" ?>',
    "<?xml encoding='koi8-r'?><meta charset=windows-1251>",
    "<meta charset=utf-8><meta charset=windows-1251>",
    # It may be misspelt.
    "<meta charset=windows-1251/>", "<meta charset='windows-1251;'>",
    "<meta charset='text/html; charset=windows-1251'>",
    "<meta charset=win-1251>", "<meta charset=windows1251>", "<meta charset='Windows 1251'>",
    "<meta charset='charset=cp-1251'>",
    "<meta http-equiv=content-type content='text/html; charset:windows-1251'>",
    "<meta http-equiv=content-type content='text/html; charset windows-1251'>",
    "<meta charset='' http-equiv=content-type content='text/html; charset=windows-1251'>",
    "<meta charset=win-1250><meta charset=windows-1251>",
    "\n <?xml version='1.0' encoding='windows-1251'?>", "<?XML ENCODING='windows-1251'?>",
    "<?xml version='1.0'encoding=' windows-1251 '?>", "<?xml encoding=windows-1251?>",
    '<meta httpequiv="ContentType" content="text/html; charset=windows-1251">',
    "<meta name='Content-Type' content='text/html;charset=windows-1251'>",
    "<meta content='text/html;charset=koi8-r'><meta charset=windows-1251>"])
def test_declared_in_the_page(head):
    assert read(head.encode() + RUSSIAN.encode("cp1251")) == (head + RUSSIAN, "windows-1251")


@pytest.mark.parametrize("head", [
    "<meta name=description content='charset=windows-1251'>",
    "<!-- <meta charset=windows-1251> -->", "<script><meta charset=windows-1251>",
    "<metal charset=windows-1251>", "<template><meta charset=windows-1251></template>",
    "<meta http-equiv=refresh content='0;charset=windows-1251'>",
    "<meta charset=x-user-defined>", ""])
def test_not_declared(head):
    assert read(head.encode() + RUSSIAN.encode("cp1251"))[1] == "windows-1252"


@pytest.mark.parametrize("data, label, name", [
    (b"x", None, "windows-1252"), (b"x", "koi8-r", "koi8-r"),
    (b"<meta charset=utf-8>", None, "utf-8"),
    ("é".encode(), "koi8-r", "utf-8"), (b"\xef\xbb\xbfx", "koi8-r", "utf-8"),
    ("x".encode("utf-16"), None, "utf-16le"), (b"<meta charset=big5>", "nonsense", "big5")])
def test_the_encoding_of_a_page(data, label, name):
    assert read(data, label)[1] == name


def test_no_bytes_are_an_error_and_no_text_has_surrogates():
    rng = random.Random(0)
    for _ in range(2000):
        label = rng.choice([*encoding.LABELS, None])
        data = b"".join(rng.choice([b"\x1b$B", b"\x1b(I", b"\x8f", b"\xa1", b"<", b"\0", b"\xd8",
                                    b"\xff\xfe", b"\xed\xa0\x80", b"a",
                                    bytes([rng.randrange(256)])])
                        for _ in range(rng.randrange(20)))
        decode(data, label).encode()
    for label in encoding.LABELS:
        main_text(b"<p>\xe9 One\x1b$B\xed\xa0\x80", charset=label).encode()
