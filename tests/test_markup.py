"""web/markup.py: start tags and attributes as browsers find them."""
import pytest

from web.markup import attributes, tags


@pytest.mark.parametrize("source, want", [
    (' a=1 B="2" c=\'3\' d', {"a": "1", "b": "2", "c": "3", "d": ""}),
    ("/a=1/b=2/", {"a": "1/b=2/"}),
    ("/a/b", {"a": "", "b": ""}),
    (' a = 1\nb\t=\t"2"', {"a": "1", "b": "2"}),
    (' a="1"b=2', {"a": "1", "b": "2"}),
    (" a=1 a=2", {"a": "1"}),
    (" =a=1", {"=a": "1"}),
    (' "x"=1', {'"x"': "1"}),
    (" a=x\"y'z", {"a": "x\"y'z"}),
    (' a="1', {"a": "1"}),
    (" a=\xa0b c\xa0=d", {"a": "\xa0b", "c\xa0": "d"}),
    (" a= b=c", {"a": "b=c"}),
    (" a=''b", {"a": "", "b": ""}),
    ("", {}),
    # character references: in attributes a name needs its semicolon before = and letters
    (' a="&amp;&lt;&#65;&#x42;&#67 &eacute;"', {"a": "&<AB\x43 é"}),
    (' a="?x&copy=1&sect&region&amp=2"', {"a": "?x&copy=1§&region&amp=2"}),
    (' a="&notit;&not;&not &notin;"', {"a": "&notit;¬¬ ∉"}),
    (' a="&copy2&copy_&copy"', {"a": "&copy2©_©"}),
    (' a="&#38;amp;&unknown;&;&#;&#x;"', {"a": "&amp;&unknown;&;&#;&#x;"}),
    (' a="&#xD800;&#99999999999999999999;&#128;"', {"a": "\ufffd\ufffd€"}),
    (f' a="&#{"9" * 5000};&#x{"f" * 5000};&#{"0" * 5000}65;"', {"a": "\ufffd\ufffdA"}),
])
def test_attributes(source, want):
    assert attributes(source) == want


@pytest.mark.parametrize("source, names", [
    ("<a><B/><c d=e></a><f", "a b c f"),
    ("<a title='<b>'><c title=\"'<d>'\"><e t=x'><f>", "a c e f"),
    ("<a title='>'><b title=\">\" c><d title='say \"hi' e=\"x>y\"><f>", "a b d f"),
    ("<!-- <a> --><b><!--> <c><!---><d><!-- <e> --!><f><!--!><g>-->", "b c d f"),
    ("<!-- <a>", ""),
    ("<!doctype html><a><?b <c>?><d></ <e>><f><![CDATA[<g>]]>", "a d f"),
    ("</a title='<b>'><c>", "c"),
    ("< a><1><b>", "b"),
    ("<a<b><c>", "a<b c"),
    ("<script>'<a>'</scripty></script ><b>", "b"),
    ("<SCRIPT>'<a>'</Script/><b>", "b"),
    ("<script><a></\u017fcript><b>", ""),
    ("<script src=x /><a>", "script a"),
    ("<title><a></title><b>", "b"),
    ("<title><a>", "title a"),
    ("<textarea><a></textarea><style><b></style><xmp><c></xmp><iframe><d></iframe><f>", "f"),
    ("<template><a></template><b>", "b"),
    ("<template><template><a></template><b></template><c>", "c"),
    ("<noscript><a></noscript>", "noscript a"),
    ("<template shadowrootmode=open><a></template><b>", "template a b"),
    ("<template data-x='shadowrootmode' id=a><a></template><b>", "b"),
    ("<a b='c>'<d>", "a"),
    ("<a b=\"c><d>", "a d"),                                    # nothing closes the quote
    ("<a " + "b=c " * 5000 + "><d>", "a d"),
    ("<a " + "b='>' " * 5000 + "><d>", "a d"),
    ("<div\n\tid=a\n><a>", "div a"),
])
def test_tags(source, names):
    assert [name for _, name, _ in tags(source)] == names.split()
    assert all(source[start] == "<" for start, *_ in tags(source))
