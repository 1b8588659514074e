"""charset.py: labels, declarations, and the text that bytes are."""
import codecs

import pytest

import charset
from charset import codec_of, decode
from extract import main_text

@pytest.mark.parametrize("label, codec", [
    ("ISO-8859-1", "cp1252"), ("latin1", "cp1252"), ("us-ascii", "cp1252"), ("iso-8859-9", "cp1254"), ("TIS-620", "cp874"),
    ("gb2312", "gb18030"), ("x-gbk", "gb18030"), ("Shift_JIS", "cp932"), ("windows-31j", "cp932"), ("ks_c_5601-1987", "cp949"),
    (" 'UTF8' ", "utf-8"), ("x-user-defined", "cp1252"), ("koi8-r", "koi8_r"), ("no-such-charset", None), ("", None),
    (None, None), ("rot13", None), ("utf-7", None), ("\0", None), ("idna", None), ("ü", None), ("x-cp1251", "cp1251"), ("ISO_8859-2:1987", "iso8859-2"),
    ("unicode_escape", None), ("raw_unicode_escape", None), ("raw-unicode-escape", None), ("punycode", None), ("zlib", None), ("hex", None), ("base64", None),
    ("undefined", None), ("charmap", None), ("mbcs", None), ("utf_8_sig", None), ("utf-32", None), ("hz-gb-2312", None), ("iso-2022-kr", None), ("cp037", None)])
def test_charset_labels(label, codec):
    assert codec_of(label) == codec


def test_every_label_has_a_codec_and_no_text_of_surrogates():
    for codec in set(charset.LABELS.values()):
        assert codecs.lookup(codec)
        for tail in (b"\xff", b"\\ud800", b"\x1b$B", b"\x80\\u12", b"\xed\xa0\x80", b"\x00\xd8"):
            main_text(b"<p>\xe9 One" + tail, charset=next(label for label, c in charset.LABELS.items() if c == codec)).encode()


@pytest.mark.parametrize("data, charset, text", [
    ("naïve “quotes”".encode(), "iso-8859-1", "naïve “quotes”"),               # valid UTF-8 wins over what is declared
    ("“quotes” – é".encode("cp1252"), "utf-8", "“quotes” – é"),                # declared UTF-8 is not
    ("“quotes” – é".encode("cp1252"), "iso-8859-1", "“quotes” – é"),           # latin1 means windows-1252
    (b"caf\xe9 \x81", "windows-1252", "café \ufffd"),                          # a hole in the code page
    ("Привет".encode("koi8-r"), "koi8-r", "Привет"),
    ("汉字".encode("gbk"), "gb2312", "汉字"),
    ("カタカナ".encode("cp932"), "shift_jis", "カタカナ"),
    ("汉字汉字".encode("gbk")[:-1], "gb2312", "汉字汉"),                        # cut off in a character
    ("汉字é".encode()[:-1], None, "汉字"),
    (b"\xef\xbb\xbfhi", "cp1252", "hi"),
    (b"\xff\xfeh\0i\0", None, "hi"), (b"\xfe\xff\0h\0i", None, "hi"),
    (b'<meta charset="windows-1251">' + "Привет".encode("cp1251"), None, '<meta charset="windows-1251">Привет'),
    (b"caf\xe9", "no-such-charset", "café"),
    (b"a" * 1000 + b"\xff", None, "a" * 1000 + "\ufffd"),                      # one bad byte does not make it cp1252
])
def test_decode(data, charset, text):
    assert decode(data, charset) == text


@pytest.mark.parametrize("meta, text", [
    ("<meta http-equiv='Content-Type' content='text/html; charset=windows-1251'>", "Привет"),
    ("<META CHARSET=windows-1251>", "Привет"),
    ("<meta content='text/html; charset=windows-1251' http-equiv=content-type>", "Привет"),
    ("<meta name=description content='charset=koi8-r'><meta charset=windows-1251>", "Привет"),
    ("<meta charset=utf-16><meta charset=windows-1251>", "Привет"),            # a readable tag is not in UTF-16
    ("<meta name=description content='charset=windows-1251'>", "Ïðèâåò")])
def test_meta_charset(meta, text):
    assert decode(meta.encode() + "Привет".encode("cp1251"))[len(meta):] == text


def test_http_charset_comes_before_meta():
    assert decode(b"<meta charset=koi8-r>" + "Привет".encode("cp1251"), "windows-1251")[-6:] == "Привет"
