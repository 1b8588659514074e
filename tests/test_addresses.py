"""web/addresses.py: one spelling for each address, and what is no address."""
import pytest

from web import addresses
from web.addresses import normalise


@pytest.mark.parametrize("link, want", [
    ("HTTP://Example.org:80/a/../%7euser#top", "http://example.org/~user"),
    ("https://example.org:443", "https://example.org/"),
    ("https://example.org:80", "https://example.org:80/"),
    ("//b.org/x", "http://b.org/x"), ("", "http://a.org/d/e?q"), ("#x", "http://a.org/d/e?q"),
    ("f", "http://a.org/d/f"), ("../../..", "http://a.org/"), ("/a/b/..", "http://a.org/a/"),
    ("./", "http://a.org/d/"), ("?r=1&s", "http://a.org/d/e?r=1&s"),
    (" \n/x y\t", "http://a.org/x%20y"), ("/%e4%2f%41", "http://a.org/%E4%2FA"),
    ("/ä?ß=\"<", "http://a.org/%C3%A4?%C3%9F=%22%3C"), ("/%zz%", "http://a.org/%zz%"),
    ("http://bücher.example/", "http://xn--bcher-kva.example/"),
    ("http://a.org./", "http://a.org/"), ("http://[::1]:8000/x", "http://[::1]:8000/x"),
    ("http://a.org//b//c", "http://a.org//b//c"), ("/a;b=c/d:e@f", "http://a.org/a;b=c/d:e@f"),
    ("http://a.org?x", "http://a.org/?x"), ("/%2e%2e/x", "http://a.org/x"),
    ("/x?", "http://a.org/x"), ("/ä\ud800"[:2], "http://a.org/%C3%A4"),
    # Empty segments are segments.
    ("/a//b", "http://a.org/a//b"), ("/a//../b", "http://a.org/a/b"),
    ("//b.org//", "http://b.org//"), ("http://b.org//../x", "http://b.org/x"),
    ("..//x", "http://a.org//x"), ("x//", "http://a.org/d/x//"),
    ("/a/./b/../../c/.", "http://a.org/c/"), ("/a/%2E%2e/b%2fc/.%2e/", "http://a.org/"),
    ("/a;p/..;x", "http://a.org/a;p/..;x"),
    # Browsers do this to links that people type.
    ("\\\\b.org\\x\\..\\y?a\\b", "http://b.org/y?a%5Cb"), ("\\x", "http://a.org/x"),
    ("http:\\\\b.org", "http://b.org/"), ("http:///b.org/x", "http://b.org/x"),
    ("////b.org", "http://b.org/"), ("https:b.org", "https://b.org/"),
    ("http:f", "http://a.org/d/f"), ("http:/f", "http://a.org/f"),
    ("https:/b.org", "https://b.org/"), ("http:?r", "http://a.org/d/e?r"),
    ("ht\ntp://b.o\trg/a\r\nb", "http://b.org/ab"), ("\0 \x1f/x\x0c ", "http://a.org/x"),
    ("/x\xa0", "http://a.org/x%C2%A0"), ("http://a.org\\@b/", "http://a.org/@b/"),
    ("/a?b#c?d", "http://a.org/a?b"), ("#a?b", "http://a.org/d/e?q"), ("?", "http://a.org/d/e"),
    ("/%", "http://a.org/%"), (":80/x", "http://a.org/d/:80/x"), ("1:2", "http://a.org/d/1:2"),
    ("./a:b", "http://a.org/d/a:b"),
    # One host has one name.
    ("http://B%C3%BCcher.example/", "http://xn--bcher-kva.example/"),
    ("http://faß.de/", "http://xn--fa-hia.de/"), ("http://ＧＯ。org/", "http://go.org/"),
    ("http://a\xadb.org/", "http://ab.org/"),
    ("http://BU\u0308CHER.example/", "http://xn--bcher-kva.example/"),
    ("http://0x7f.1/", "http://127.0.0.1/"), ("http://017.0.0.010/", "http://15.0.0.8/"),
    ("http://16909060/", "http://1.2.3.4/"), ("http://a.org:080/", "http://a.org/"),
    ("http://a.org:/", "http://a.org/"), ("https://a.org:443/?", "https://a.org/"),
    ("http://[::1]:80/", "http://[::1]/"), ("http://[0:0::0:1]/", "http://[::1]/"),
    ("http://[2001:DB8:0:0:1::]/", "http://[2001:db8:0:0:1::]/")])
def test_an_address_has_one_spelling(link, want):
    assert normalise(link, "http://a.org/d/e?q") == want
    assert normalise(want) == want


@pytest.mark.parametrize("link", [
    "mailto:x@y.org", "javascript:void(0)", "data:text/html,x", "ftp://a.org/",
    "file:///etc/passwd", "http://", "http://me:secret@a.org/",
    "http://[::::]/", "http://[1:2]/", "http://[12345::]/", "http://[]/",
    "http://a.org:99999/", "http://a.org:x/", "http://[::1", "http://a b/", "http://a..b/",
    "http://" + "a" * 64 + ".org/", "http://" + "ü" * 70 + ".org/", "http://a.org/\ud800",
    "tel:123", "http://a.org:80:80/",
    "http://1.2.3.4.5/", "http://256.1.1.1/", "http://1.2.3.08/",
    "?", "/x", "http:", "https:?x"])
def test_what_is_no_address_is_said(link):
    with pytest.raises(ValueError):
        normalise(link)


def test_links_without_a_query_or_to_other_things_stay_as_they_are():
    for link in ("/\u00e4", "#\u00e4?\u00e4", "mailto:x", ""):
        assert addresses.in_encoding(link, "koi8-r") == link
