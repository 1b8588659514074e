"""web/extract.py: the shape of the text, what goes, what stays, hostile pages, the benchmark."""
import gzip
import hashlib
import html
import io
import json
import os
import random
import re
import sys
import unicodedata
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from web import elements
from web import charset
from web import encoding
from run import command
from web import extract
from web import warc
from web.extract import main_text
from test_linear import growth, seconds

SENTENCE = "The ferry leaves the harbour at noon, and whoever is late waits for the next one. "
LONG = SENTENCE * 4
DATA = Path(os.environ.get("LONGHAND_DATA")
            or Path(__file__).parent.parent.parent / "shared" / "data")


# --------------------------------------------------------------------------------------------------
# The scorer of the article extraction benchmark (4-gram shingles, every page weighs the same).

def shingles(text, n=4):
    tokens = re.findall(r"\w+", text or "")
    if not tokens:
        return Counter()
    n_shingles = max(1, len(tokens) - n + 1)
    return Counter(tuple(tokens[i:i + n]) for i in range(n_shingles))


def compare(gold, got, n=4):
    """(TP, FP, FN) of a page, divided by their sum."""
    gold, got = shingles(gold, n), shingles(got, n)
    counts = [sum((gold & got).values()), sum((got - gold).values()), sum((gold - got).values())]
    return tuple(c / (sum(counts) or 1) for c in counts)


def f1(rows):
    """Harmonic mean of mean precision and mean recall.

    A page without prediction is in no mean precision.
    """
    precision = [1 if fp == fn == 0 else tp / (tp + fp) for tp, fp, fn in rows if tp + fp]
    recall = [1 if fp == fn == 0 else tp / (tp + fn) for tp, fp, fn in rows if tp + fn]
    p, r = sum(precision) / len(precision), sum(recall) / len(recall)
    return 2 * p * r / (p + r), p, r


BENCHMARKS = {                  # name: its gold, and the key of a page's text in it
    "extraction": ("ground-truth.json", "articleBody"),
    "readability": ("gold.json", "text"),
}


def benchmark(name="extraction"):
    """({id: (HTML bytes, gold text)} to work with, the same of the fifth held out), or a skip.

    Held out are the ids whose SHA-256 comes first: nobody looks into these pages while working
    on the rules. extraction is half of the article extraction benchmark, readability the test
    pages of Mozilla's Readability.js.
    """
    file, key = BENCHMARKS[name]
    truth = DATA / name / file
    if not truth.exists():
        pytest.skip(f"no benchmark pages at {truth.parent}; LONGHAND_DATA names another folder")
    gold = json.loads(truth.read_text(encoding="utf-8"))
    by_hash = sorted(gold, key=lambda k: hashlib.sha256(k.encode()).digest())
    n_aside = len(gold) // 5
    return [{k: (gzip.decompress((truth.parent / f"{k}.html.gz").read_bytes()), gold[k][key])
             for k in keys}
            for keys in (by_hash[n_aside:], by_hash[:n_aside])]


@pytest.mark.parametrize("gold, got, counts", [
    ("a b c d", "a b c", (.5, 0, .5)),
    ("a b c a b c", "a b c", (.25, 0, .75)),
    ("a", "", (0, 0, 1)),
    ("", "", (0, 0, 0)),
])
def test_scorer_against_published_vectors(gold, got, counts):
    assert compare(gold, got, n=3) == counts


def test_scorer_leaves_an_empty_prediction_out_of_precision():
    assert f1([(1, 0, 0), (0, 0, 1)])[1:] == (1, .5)


# F1 must be at least that on the pages to work with, and on those held out. At the time of
# writing it is 0.982 and 0.986, 0.968 and 0.978; trafilatura 2.3.1 has at best 0.975 and 0.977,
# 0.936 and 0.954 (tests/peers/test_extract_peers.py).
@pytest.mark.parametrize("name, least, least_aside", [
    ("extraction", 0.98, 0.98),
    ("readability", 0.965, 0.97),
])
def test_benchmark_f1(name, least, least_aside):
    work, held_out = benchmark(name)
    rows = {k: compare(gold, main_text(page)) for k, (page, gold) in {**work, **held_out}.items()}
    for part, keys in (("all", rows), ("to work with", work), ("held out", held_out)):
        print("%-12s %2d pages: F1 %.4f precision %.4f recall %.4f"
              % (part, len(keys), *f1([rows[k] for k in keys])))
    assert f1([rows[k] for k in work])[0] >= least
    assert f1([rows[k] for k in held_out])[0] >= least_aside


def in_chinese(text):
    """Turns every word into one to four Chinese characters, always the same ones.

    There are no spaces, and a full stop becomes 。.
    """
    def word(found):
        number = zlib.crc32(found[0].lower().encode())
        n_characters = max(1, round(len(found[0]) / 3))
        return "".join(chr(0x4e00 + (number >> 7 * i) % 20_000) for i in range(n_characters))
    text = re.sub(r"[^\W\d_]+(?:['’][^\W\d_]+)*", word, text)
    text = re.sub(r"[.,!?](?=\s|$|[\"”’)])", lambda mark: "。，！？"[".,!?".index(mark[0])], text)
    return re.sub(r"(?<=[^\0-\x7f]) (?=[^\0-\x7f])", "", text)


MARKUP = re.compile(
    r"""(?is)<!--.*?-->|<(script|style|textarea)\b.*?</\1\s*>|"""
    r"""<[a-z/!?](?:[^>"']|"[^"]*"|'[^']*')*>""")


def page_in_chinese(page):
    ends = [0, *(end for found in MARKUP.finditer(page) for end in found.span()), len(page)]
    pieces = [page[a:b] for a, b in zip(ends, ends[1:])]
    pieces[::2] = [html.escape(in_chinese(html.unescape(text)), quote=False)
                   for text in pieces[::2]]
    return "".join(pieces)


def page_without_names(page):
    """Classes and ids as a machine makes them up."""
    def renamed(found):
        names = (f"c{zlib.crc32(name.encode()):x}" for name in found[3].split())
        return found[1] + found[2] + " ".join(names) + found[2]
    return re.sub(r"""(\s(?:class|id)=)(["'])(.*?)\2""", renamed, page, flags=re.S)


def test_benchmark_in_another_language_and_without_names():
    """F1 on the pages to work with is 0.980 at the time of writing.

    It is 0.975 in Chinese and 0.960 without names.
    """
    work = benchmark()[0]
    chinese, nameless = [], []
    for page, gold in work.values():
        page = charset.decode(page)
        spaced = " ".join                         # every character a word
        chinese.append(compare(spaced(in_chinese(gold)), spaced(main_text(page_in_chinese(page)))))
        nameless.append(compare(gold, main_text(page_without_names(page))))
    print("in Chinese %.4f %.4f %.4f, without names %.4f %.4f %.4f" % (*f1(chinese), *f1(nameless)))
    assert f1(chinese)[0] >= 0.97 and f1(nameless)[0] >= 0.95


# --------------------------------------------------------------------------------------------------
# The shape of the text.

@pytest.mark.parametrize("page, text", [
    ("<p>One.</p><p>Two.</p>", "One.\nTwo."),
    ("<p>One.<p>Two.", "One.\nTwo."),                                # never closed
    ("<div>One.<div>Two.</div>Three.</div>", "One.\nTwo.\nThree."),  # text before and after a block
    ("<div>One.<div></div>Two.</div>", "One.\nTwo."),                # an empty block still parts
    ("<p>One<br>two<br/>three", "One\ntwo\nthree"),
    ("<p>wo<b>r</b>d <i>and</i>\n\t  more&nbsp; words</p>", "word and more words"),
    ("<h1>Title</h1><p>Text.</p><h2>Nothing follows</h2>", "Title\nText."),
    ("<ul><li>One</li><li>Two<p>more</p></ul>", "- One\n- Two\nmore"),
    ("<ul><li>One<li>Two<ul><li>Deep</ul><li>Three</ul>", "- One\n- Two\n- Deep\n- Three"),
    ("<table><tr><td>a</td><td>b</td></tr><tr><th>c<th>d</table>", "a | b\nc | d"),
    ("<table><tr><td><p>One.<p>Two.<td>Three.</table>", "One.\nTwo.\nThree."),  # a layout table
    ("<pre>def f():\n    return 1</pre>", "def f():\n    return 1"),
    ("<pre>\n\tif x:\n\t\ty()\n</pre>", "\tif x:\n\t\ty()"),
    ("<pre><code><span>if</span> x:\n<span>    </span><span>y</span>  = 1\n\n    z</code></pre>",
     "if x:\n    y  = 1\n    z"),
    ("<pre>    first\n      second</pre>", "    first\n      second"),
    ("<pre>&nbsp;&nbsp;x &amp;lt; 1 \n</pre><p>  after  that", "  x < 1\nafter that"),
    ("<p>Solve <math><mi>a</mi><mo>=</mo><mn>0</mn></math>, then go on.",
     "Solve a = 0 , then go on."),
    ("<p>So <math alttext='E=mc^2'><mi>E</mi></math> holds.", "So E=mc^2 holds."),
    ("<p>So <span style='display: none'><math><mi>E</mi>"
     "<annotation encoding='application/x-tex'>{\\displaystyle E&lt;m}</annotation>"
     "</math></span><img src=e.png> holds.", "So E<m holds."),
    ("<p>So <span class=katex><span class=katex-mathml><math>"
     "<annotation encoding=application/x-tex>x^2</annotation></math></span>"
     "<span aria-hidden=true>x2</span></span> holds.", "So x^2 holds."),
    ("<p>x.php?id=5&amp;section=2&amp;param=3&amp;copy=1", "x.php?id=5&section=2&param=3&copy=1"),
    ("<p>&amp;eacute;&amp;#233;&amp;#xe9; &amp;eacute", "ééé &eacute"),
    ("<template>no</template><div><template shadowrootmode=open><p>One"
     "<template>no <template>no</template> no</template><p>two</template></div>", "One\ntwo"),
    ("<template>no<template shadowrootmode=open>no</template></template>"
     "<template data-x=shadowrootmode>no</template><p>One", "One"),
    ("<template ShadowRootMode='closed'>One</template>", "One"),
    ("<p>a &lt; b &amp;amp; c &#8217;&eacute;&hellip;",
     "a < b & c ’é…"),                                               # escaped twice, resolved twice
    ("<p>e\u0301</p>", "é"),                                         # NFC
    ("<p>so\u00adft zero\u200bwidth \x01control</p>", "soft zerowidth control"),
    ("<p>a<!-- b -->c<!-- <p>d</p> -->e", "ace"),
    ("<p>One <!-- never ended > two <p>three", "One two\nthree"),
    ("<p>One <![CDATA[ x ]]> two", "One two"),
    ("<script>'</p>' <p>no</script><p>yes", "yes"),
    ("<p>yes<script>var a = '<p>no", "yes"),                         # cut off in a script
    ("<p>One <svg><text>no</text></svg>two", "One two"),
    ("<svg>never closed <p>One", "never closed\nOne"),
    ("<p title='a > b' class=\"x\">One", "One"),
    ("<p title=it's>One</p><p>it's", "One\nit's"),
    ("<P CLASS=x>One</P>", "One"),
    ("One", "One"), ("", ""), ("<p></p>", ""),
    ("<", "<"), ("<p", ""), ("a < b", "a < b"), ("<>x", "<>x"),
    ("&#" + "9" * 5000 + ";", "\ufffd"), ("&amp;#" + "9" * 5000 + "x", "&#" + "9" * 5000 + "x"),
    ("&#" + "0" * 5000 + "65;", "A"), ("&#x" + "9" * 5000 + ";", "\ufffd"),
    ("&#" + "0" * 9 + ";", "\ufffd"), ("\ud800One \udfff", "\ufffdOne \ufffd"),
    ("<p><a href=/a>One</a><a href=/b>two</a> and three</p>",
     "One two and three"),                                           # two links are not glued
    ("<p>w<a href=/a>or</a>d</p>", "word"),
    ("<p>世界\n  人权 <b>宣</b>言\n이 문장\n은</p>",
     "世界人权 宣言 이 문장 은"),                                     # a wrapped line of Chinese has no space
    ("<p><ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp>字</ruby></p>", "漢字"),
    ("<title/><p>One<iframe src=x /><p>two<svg/> three", "One\ntwo three"),  # as in XHTML
    ("<p class='[&>p]:mt-4'>One</p>", "One"),
    ("<h1>Head<a class=headerlink href=#h>¶</a></h1><p>Text.", "Head\nText."),
    ("<pre><a href=#1>1</a> let a = 1;\n<a href=#2>2</a> let b = 2;</pre>",
     "1 let a = 1;\n2 let b = 2;"),
    ("\0<p>N\0UL", "NUL"), ("<plaintext><p>One", "One"),
    ("&#xD800;&#0;&#1114112;", "\ufffd\ufffd\ufffd"),
])
def test_blocks(page, text):
    assert main_text(page) == text


def test_bytes_str_and_url():
    page = "<p>Grüße</p>"
    assert main_text(page) == main_text(page.encode()) == "Grüße"
    assert main_text(page.encode("latin1"), "http://x.y/", "latin1") == "Grüße"
    assert main_text(bytearray(page.encode())) == "Grüße"


def page_of(*extra, body=""):
    return (f"<html><head><title>no title</title></head><body {body}><div id=x><h1>Head</h1>"
            f"<p>{LONG}</p><p>{LONG}</p>{''.join(extra)}</div></body>")


EXPECTED = "\n".join(["Head", LONG.strip(), LONG.strip()])


@pytest.mark.parametrize("extra", [
    f"<nav><p>{SENTENCE}</p></nav>", f"<footer>{SENTENCE}</footer>",
    f"<aside><p>{SENTENCE}</p></aside>", f"<form>{SENTENCE}</form>",
    f"<div class='related-posts'>{SENTENCE}</div>", f"<div id=cookie_banner>{SENTENCE}</div>",
    f"<section class=comments>{LONG}{LONG}</section>",
    f"<div style='display: none'>{SENTENCE}</div>", f"<div hidden>{SENTENCE}</div>",
    f"<div aria-hidden=true>{SENTENCE}</div>", f"<div role=navigation>{SENTENCE}</div>",
    "<p>Written <span class=byline>by Jo</span></p>".replace("Written ", ""),
    "<ul><li><a href=/a>First other page</a></li><li><a href=/b>Second other page</a></li></ul>",
    "<div><a href=/a>One</a> <a href=/b>Two</a></div>",
    "<p>Advertisement</p>", "<p>Share this</p>", "<button>Buy</button>",
    "<ul>"
    f"{''.join(f'<li><h3><a href=/{i}>A page</a></h3><p>{SENTENCE}</p></li>' for i in range(4))}"
    "</ul>",
    f"<noscript><p>{SENTENCE}</p></noscript>",
    f"<figure><figcaption>{SENTENCE}</figcaption></figure>",
    f"<template><p>{SENTENCE}</p></template>", "<iframe>x</iframe>",
    "<select><option>x</select>", "<textarea><p>x</textarea>",
])
def test_boilerplate_goes(extra):
    assert main_text(page_of(extra)) == EXPECTED


@pytest.mark.parametrize("extra, line", [
    (f"<p>{SENTENCE}<a href=/x>a link</a></p>", SENTENCE + "a link"),
    ("<p title='hidden treasure'>Short.</p>", "Short."),    # a word in a title hides nothing
    ("<p onclick=\"this.className='hidden'\">Short.</p>", "Short."),
    ("<div class='football-scores'>Three to one.</div>", "Three to one."),
    ("<div class='overflow-hidden'>Short.</div>", "Short."),
    ("<div class='article-body related'>Short.</div>", "Short."),       # names the article
    ("<h2><a href=/x>A linked heading</a></h2><p>Text.</p>", "A linked heading\nText."),
    ("<ul><li>print</li><li>comment</li></ul>", "- print\n- comment"),
])
def test_content_stays(extra, line):
    assert main_text(page_of(extra)) == EXPECTED + "\n" + line


@pytest.mark.parametrize("line, text", [
    ("<h2>Food <span class='mw-editsection'>[<a href=/e>edit</a>]</span></h2><p>Mice.",
     "Food\nMice."),
    ("<p>Mice <span hidden>and <span>hidden</span> things</span> run.</p>", "Mice run."),
    (f"<p>{SENTENCE}<span class=date>In May</span> it leaves at one.</p>",
     SENTENCE + "In May it leaves at one."),
    (f"<p>{SENTENCE}<span style='display: none'>x</span>Always.</p>", SENTENCE + "Always."),
    ("<div><span class=share>Share <div>on a network</div> now</span>Text.</div>", "Text."),
    ("<div><span class=share>Share</div><div>Text.</div>",
     "Text."),                                          # never closed: ends with its element
    (f"<p><span class=caption>{LONG}</span></p>", LONG.strip()),
    ("<p><span>W</span>hile</p>", "While")])
def test_boilerplate_in_a_line(line, text):
    assert main_text(page_of(line)) == EXPECTED + "\n" + text


def test_a_word_that_all_parts_of_a_page_are_named_by_counts_for_nothing():
    for name in ("widget", "comment", "teaser", "share"):
        parts = "".join(f"<div class='{name}'><p>{i}. {SENTENCE}</p></div>" for i in range(9))
        assert main_text(f"<body><nav><a href=/>Home</a></nav>{parts}") == "\n".join(
            f"{i}. {SENTENCE}".strip() for i in range(9))


def test_a_list_of_teasers_goes_in_any_markup():
    for card in ("<div><h3><a href=/{0}>Title {0}</a></h3><p>{1}</p></div>",
                 "<li><a href=/{0}>A title of many words, number {0}</a><p>{1}</p></li>",
                 "<article><a href=/{0}><img src=x><h2>Title {0}</h2></a><p>{1}</p>"
                 "<span>1.2.2020</span></article>"):
        cards = "".join(card.format(i, SENTENCE) for i in range(5))
        assert main_text(page_of(f"<section><h2>More</h2>{cards}</section>")) == EXPECTED


def test_a_list_of_what_the_page_is_about_stays():
    items = "".join(f"<li><h3><a href=/{i}>Place {i}</a></h3><p>{SENTENCE}</p></li>"
                    for i in range(9))
    text = main_text(f"<body><nav><a href=/>Home</a></nav><h1>Nine places</h1><ul>{items}</ul>")
    assert text.count(SENTENCE.strip()) == 9


def test_a_short_chapter_is_not_left_behind():
    chapters = [f"<div class='{name}'><h2>{name}</h2>{f'<p>{LONG}</p>' * n}</div>"
                for name, n in (("first", 9), ("second", 40), ("index", 8))]
    text = main_text("<body><nav><a href=/>Home</a></nav>" + "".join(chapters))
    assert text.count(LONG.strip()) == 57


PARAGRAPHS = [f"<p>{i}. {SENTENCE}{SENTENCE}</p>" for i in range(20)]
PARTS = {           # pages with {0:3}, the first three paragraphs, {3:20}, the others ...
    "a short section before":
        "<main><h1>T</h1><section>{0:6}</section><section>{6:20}</section></main>",
    "a short section behind":
        "<main><h1>T</h1><section>{0:14}</section><section>{14:20}</section></main>",
    "three sections":
        "<main><h1>T</h1><section>{0:2}</section><section>{2:18}</section>"
        "<section>{18:20}</section></main>",
    "pages divided by an advert":
        "<article><h1>T</h1><div class=page1>{0:4}</div><div class=ad>Advertisement</div>"
        "<div class=page2>{4:20}</div></article>",
    "a long page, an advert, a short one":
        "<article><h1>T</h1><div class=page-1>{0:15}</div><div class=ad>Advertisement</div>"
        "<div class=page-2>{15:20}</div></article>",
    "text before its own chapters":
        "<div role=main><section><h1>T</h1>{0:3}"
        "<section><h2>Details</h2>{3:20}</section></section></div>",
    "a layout table between":
        "<main><h1>T</h1>{0:3}<table><tr><td>{3:18}</table>{18:20}</main>",
    "a lede":
        "<article><h1>T</h1><div class=article__intro>{0:1}</div>"
        "<div class=c>{1:20}</div></article>",
    "a question":
        "<article><h1>T</h1><div class=question>{0:1}</div></article><div id=answers>"
        "<div class=answer>{1:4}</div><div class=answer>{4:6}</div></div>",
    "a long text before, with wrappers":
        "<div><div><h1>T</h1>{0:3}</div></div><div><div><div class=b>{3:20}</div></div></div>",
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_an_article_beside_the_largest_one(name):
    page = re.sub(r"\{(\d+):(\d+)\}",
                  lambda part: "".join(PARAGRAPHS[int(part[1]):int(part[2])]), PARTS[name])
    used = max(int(end) for end in re.findall(r":(\d+)\}", PARTS[name]))
    text = main_text("<body><nav><a href=/>Home</a></nav><div class=top>Welcome to the site</div>"
                     f"{page}<div>Call us for any questions.</div>")
    got = [line for line in text.split("\n") if SENTENCE.strip() in line]
    assert got == [f"{i}. {SENTENCE}{SENTENCE}".strip() for i in range(used)]
    assert "Welcome" not in text and "Call us" not in text and "Advertisement" not in text


def test_what_stands_beside_the_text_and_is_none():
    for extra in (f"<div class=teaser-box><p>{SENTENCE}</p></div>",
                  f"<header><p>{LONG}</p></header>",
                  f"<div><a href=/x>{LONG}{LONG}</a><p>{SENTENCE}</p></div>"):
        text = main_text(f"<body><div>{extra}<div><div class=x><h1>Head</h1>"
                         f"{f'<p>{LONG}</p>' * 9}</div></div></div>")
        assert text.startswith("Head\n")
    bio = f"<div class=who><p>{SENTENCE}</p></div>"
    text = main_text(f"<body><div><div class=x>{f'<p>{LONG}</p>' * 9}</div>{bio}</div>")
    assert text == "\n".join([LONG.strip()] * 9)


@pytest.mark.parametrize("name", [
    "Related articles", "3 Comments", "12 thoughts on “Tides”", "Leave a Reply:",
    "Das könnte Sie auch interessieren", "Articles similaires", "Читайте также", "関連記事",
    "More from The Harbour Post"])
@pytest.mark.parametrize("behind", ["", f"<h2>Night</h2><p>{SENTENCE}</p>"])
def test_a_section_that_is_no_part_of_the_text_ends_at_the_next_heading_of_its_rank(name, behind):
    other = f"<h2>{name}</h2><h3>Ebb</h3><p>Not this one. {SENTENCE}</p><p>Nor this one. {LONG}</p>"
    text = main_text(f"<body><div><h1>Tides</h1><h2>Day</h2><p>{LONG}</p>{other}{behind}</div>")
    assert text == "\n".join(
        ["Tides", "Day", LONG.strip()] + ["Night", SENTENCE.strip()] * bool(behind))


def test_a_chapter_of_that_name_stays():
    """In a manual "Comments" is a chapter among others; behind an article it is none."""
    chapter = f"<h2>%s</h2><p>%s. {LONG}</p>"
    manual = [chapter % (name, name) for name in ("Names", "Comments", "Numbers")]
    assert "\nComments. The ferry" in main_text("<body><div>" + "".join(manual) + "</div>")
    assert "Comments" not in main_text("<body><div>" + "".join(manual[:2]) + "</div>")
    assert "Comments" not in main_text(
        f"<body><div><h1>Tides</h1><p>{LONG}</p>" + "".join(manual[1:]) + "</div>")


def test_a_page_of_comments_alone_stays():
    page = f"<body><div><h1>Tides</h1><h2>3 comments</h2><p>{LONG}</p><p>{LONG}</p></div>"
    assert main_text(page).count("ferry") == 8


def test_other_articles_below_the_one_with_the_title_go():
    article = f"<article><%s>%s</%s><p>%s. {LONG * 2}</p></article>"
    own, other = article % ("h1", "Tides", "h1", "Tides"), article % ("h2", "Boats", "h2", "Boats")
    text = main_text(f"<body><main>{own}{other}{other}</main>")
    assert text.splitlines() == ["Tides", f"Tides. {LONG * 2}".strip()]
    # A page of posts, and postings below a title.
    for page in (other * 3, own.replace("Tides", "Ebb") + own):
        text = main_text(f"<body><main><h1>Harbour</h1>{page}</main>")
        assert text.count("ferry") == 8 * page.count("<article>")


def test_a_subtitle_between_the_title_and_the_text():
    """A line as long as two sentences; a byline is shorter."""
    page = (f"<body><div class=top><h1>Tides</h1><p>%s</p></div>"
            f"<div><div class=y>{f'<p>{LONG}</p>' * 9}</div>"
            "<div class=z>Tide tables, in print</div></div>")
    for lede, kept in (("The moon pulls at the sea, and the sea at the land: how the harbour lives "
                        "by a clock of its own, and what it costs the town to keep it.", True),
                       ("By Ann Other, who writes of harbours", False)):
        assert (lede in main_text(page % lede)) == kept
        assert lede not in main_text((page % lede).replace("h1", "h4"))


def test_comments_of_a_long_article_go_though_nothing_names_it():
    paragraphs = f"<p>{LONG}</p>"
    comments = f"<div class=commentlist>{paragraphs.replace('ferry', 'reader') * 40}</div>"
    text = main_text(f"<body><div><h1>Site</h1><h1>Tides</h1>{paragraphs * 18}{comments}</div>")
    assert "reader" not in text and text.count("ferry") == 18 * 4


def test_the_lines_of_a_short_main_stay_together():
    inside = ("<section><p>First</p>Alone<div><h4>A heading</h4><p>One more</p>Too</div>"
              f"<div><h4>Another</h4><p>{SENTENCE}{SENTENCE}</p></div></section>")
    for tag in ("main", "article"):
        text = main_text(f"<nav><a href=/>Home</a></nav><{tag}>{inside}</{tag}>")
        assert text.split("\n")[:6] == [
            "First", "Alone", "A heading", "One more", "Too", "Another"]


NAMES_IN_SENTENCES = [
    "date", "entry-date", "dateline", "post-tags", "search", "vote", "time", "author",
    "share-count", "ad", "rating", "button", "caption"]


@pytest.mark.parametrize("name", NAMES_IN_SENTENCES)
def test_a_name_tears_no_word_out_of_a_sentence(name):
    word = f"<span class='{name}'>3 May 2020</span>"
    for before, after in (("On ", " the council decided."), ("", " - The council met."),
                          ("It was on ", "."), ("It was on ", ""),
                          ("At one, on ", f", and {word}.")):
        line = f"{before}{word}{after}"
        assert main_text(page_of(f"<p>{line}</p>")) == (
            EXPECTED + "\n" + re.sub("<.*?>", "", line)), line
        assert main_text(page_of(f"<div><b>{before}</b> <i>{word}</i>{after}</div>")).endswith(
            "3 May 2020" + re.sub("<.*?>", "", after))
    for alone in (word, f" {word} | {word} ", f"<b>{word}</b>",
                  f"{word} · <span class=share>7 shares</span>"):
        assert main_text(page_of(f"<p>{alone}</p>")) == EXPECTED, alone


def test_every_button_goes():
    for name in extract.BUTTONS:
        assert main_text(page_of(f"<p>{name} …</p>")) == EXPECTED, name


def test_a_button_in_a_sentence_and_one_alone():
    assert main_text(page_of("<p>Press <button>Save</button> to keep it.</p>")) == (
        EXPECTED + "\nPress Save to keep it.")
    assert main_text(page_of("<p>Set <label for=x>Name</label> first.</p>")) == (
        EXPECTED + "\nSet Name first.")
    for alone in ("<button>Save</button>",
                  "<p><button>Save</button> <button>Print</button></p>",
                  "<label>Name</label><input>",
                  "<button><div>Save</div> now</button>"):
        assert main_text(page_of(alone)) == EXPECTED
    page = page_of(f"<h3><button aria-expanded=false>When?</button></h3><p>{SENTENCE}</p>")
    assert main_text(page) == f"{EXPECTED}\nWhen?\n{SENTENCE.strip()}"


@pytest.mark.parametrize("code, text", [
    ("<pre><code class=hljs><span class=hljs-comment># add one</span>\n"
     "x += 1 <span class=hljs-comment># done</span></code></pre>", "# add one\nx += 1 # done"),
    ("<pre><span class='token comment'>// say it</span>\nsay();</pre>", "// say it\nsay();"),
    ("<pre><span class='hljs-meta'>@dec</span>\n<span class='token tag'>&lt;p></span></pre>",
     "@dec\n<p>"),
    ("<code><span class=comment># one</span><br>x = 1</code>", "# one\nx = 1"),
    ("<pre><div class='line comment'># one</div><div class=line>x = 1</div></pre>", "# one\nx = 1"),
    ("<pre><span hidden>1</span>x = 1</pre>", "x = 1")])
def test_comments_of_programs_stay(code, text):
    assert main_text(page_of(code)) == EXPECTED + "\n" + text


@pytest.mark.parametrize("items", [
    "<ul>{}</ul>", "<ol>{}</ol>", "<div class=list><ul>{}</ul></div>"])
def test_a_list_of_labels_with_links_is_text(items):
    links = [f"{name}, <a href=/{name}>use a search index with or without vectors</a>."
             for name in ("Acme Studio", "Acme Cloud", "Zed", "Lo")]
    got = main_text(page_of("<p>These products do it:</p>",
                            items.format("".join(f"<li>{link}</li>" for link in links)),
                            f"<p>{LONG}</p>"))
    assert got == "\n".join([EXPECTED, "These products do it:",
                             *("- " + re.sub("<.*?>", "", link) for link in links), LONG.strip()])
    menu = "".join(f"<li><a href=/{i}>A title of several words, number {i}</a></li>"
                   for i in range(5))
    assert main_text(page_of(items.format(menu))) == EXPECTED


@pytest.mark.parametrize("inside", [
    f"<blockquote><p>{SENTENCE}</p></blockquote>", f"<p>{SENTENCE}</p>",
    f"<ul><li>{SENTENCE}</li></ul>", f"<div>{SENTENCE}</div>"])
def test_a_figure_may_hold_text(inside):
    got = main_text(page_of(f"<figure class=wp-block-quote>{inside}"
                            "<figcaption>A fisherman</figcaption></figure>"))
    assert got.replace("- ", "") == EXPECTED + "\n" + SENTENCE.strip()


def test_answers_that_a_reader_unfolds():
    for hidden in ("hidden", "style='display: none'", "aria-hidden=true"):
        for item in ("<h3>Question {0}?</h3><div {1}><p>{2}</p></div>",
                     "<div><h3>Question {0}?</h3><div {1}>{2}</div></div>",
                     "<div><div><h4><button>Question {0}?</button></h4></div>"
                     "<div {1}>{2}</div></div>"):
            items = "".join(item.format(i, hidden, SENTENCE) for i in range(4))
            text = main_text(page_of(items))
            assert text.count(SENTENCE.strip()) == 12 and text.count("Question") == 4
            # One alone is a message box.
            assert main_text(page_of(item.format(0, hidden, SENTENCE))) == EXPECTED


def test_a_name_of_a_place_is_true_of_small_boxes_only():
    for name in ("sidebar", "newsletter", "carousel", "teaser", "body-ad-wrapper",
                 "sharing-with-a-developer", "contextmenu"):
        rest = f"<div>{f'<p>{LONG}</p>' * 8}</div>"
        for n in (1, 2, 4):
            text = main_text(page_of(f"<div class='{name}'>{f'<p>{SENTENCE}</p>' * n}</div>", rest))
            assert text.count(SENTENCE.strip()) == 40 + n * (n > 2), (name, n)


def test_paragraphs_that_all_have_the_name_of_a_place():
    half = f"<p class=contextmenu>{SENTENCE}</p><p>{SENTENCE}</p>" * 6
    text = main_text(f"<nav><a href=/>Home</a></nav><div>{half}</div>")
    assert text.count(SENTENCE.strip()) == 12


def test_comments_go_however_long_if_there_is_an_article():
    posts = f"<div class=comments>{f'<p>{LONG}</p>' * 30}</div>"
    article = "".join(PARAGRAPHS[:5])
    for tag in ("article", "div class=entry-content"):
        assert main_text(f"<body><{tag}>{article}</{tag.split()[0]}>{posts}").count("\n") == 4
    assert main_text(f"<body><h1>A thread</h1><p>Ten voices.</p>{posts}").count(LONG.strip()) == 30


@pytest.mark.parametrize("share, kept", [(5, False), (30, True)])
def test_hidden_text_stays_if_it_is_most_of_the_page(share, kept):
    text = main_text(
        f"<article><h1>T</h1><div style='visibility: hidden'>{f'<p>{LONG}</p>' * share}</div>"
        f"<div>{f'<p>{SENTENCE}</p>' * 16}</div></article>")
    assert text.count(LONG.strip()) == (share if kept else 0)
    assert text.split("\n").count(SENTENCE.strip()) == 16


def test_tags_in_an_article_in_json():
    tagged = f"<p>{LONG}<a href='/x'>a link</a></p><p>One &amp; two<br/>three</p>"
    for body in (tagged, html.escape(tagged)):
        script = json.dumps({"articleBody": body})
        page = f"<script type='application/ld+json'>{script}</script><p>Loading"
        assert main_text(page) == f"{LONG}a link\nOne & two\nthree"
    script = json.dumps({"articleBody": f"{LONG}\nIf a < b and c > d."})
    page = f"<script type='application/ld+json'>{script}</script>"
    assert main_text(page) == f"{LONG.strip()}\nIf a < b and c > d."


def test_a_heading_goes_with_what_stood_under_it():
    links = "<ul><li><a href=/a>One</a></li><li><a href=/b>Two</a></li></ul>"
    page = page_of(f"<h2>Links</h2>{links}<h2>Text</h2><p>{LONG}</p><h2>More links</h2>{links}")
    assert main_text(page) == f"{EXPECTED}\nText\n{LONG.strip()}"
    assert main_text("<h2>One</h2><h2>Two</h2>") == "One\nTwo"


@pytest.mark.parametrize("name", [
    "sidebar", "has-sidebar", "meta", "author", "navbar-fixed", "comment", "widget"])
def test_a_boilerplate_name_on_the_page_itself(name):
    assert main_text(page_of(body=f"class='{name}'")) == EXPECTED
    assert main_text(page_of().replace("id=x", f"class='{name}'")) == EXPECTED


def test_a_wrong_name_on_the_page_does_not_save_what_is_rightly_named():
    page = page_of(f"<div class=related>{SENTENCE}</div>")
    assert main_text(page.replace("id=x", "class=sidebar")) == EXPECTED


def test_page_in_a_form_and_page_in_noscript():
    assert main_text(page_of().replace("div", "form")) == EXPECTED
    assert main_text(page_of().replace("div", "noscript")) == EXPECTED


def test_comments_longer_than_the_article():
    assert main_text(page_of(f"<div class=comments>{f'<p>{LONG}</p>' * 5}</div>")) == EXPECTED


def test_container_leaves_the_rest_of_the_page():
    page = (f"<div>Breaking: a small thing.</div><div>{page_of()}</div>"
            "<div>Call us for any questions.</div>")
    assert main_text(page) == EXPECTED


def test_nothing_comes_twice_or_glued():
    parts = [f"Sentence number {i} is here and it is long enough to count as prose."
             for i in range(30)]
    for shape in ("<main><article>{}</article></main>", "<article><div>{}</div></article>",
                  "<table><tr><td>{}</table>", "{}"):
        for tag in ("p", "div", "li", "blockquote", "td", "section", "h2"):
            inside = "".join(f"<{tag}>{p}</{tag}>" for p in parts)
            lines = re.split(r"\n| \| ", main_text(shape.format(inside) + "<p>end of it."))
            assert [line.removeprefix("- ") for line in lines[:30]] == parts, (shape, tag)


def test_short_page_without_prose_keeps_its_text():
    assert main_text("<div class=menu><a href=/>Home</a></div><p>We moved.</p>") == "We moved."
    assert main_text("<div class=sidebar>All there is.</div>") == "All there is."


def test_article_in_json_when_the_page_has_no_text():
    script = json.dumps({"@graph": [{"articleBody": f"{LONG}\n{LONG}"}]})
    page = f"<script type='application/ld+json'>{script}</script><p>Loading"
    assert main_text(page) == f"{LONG.strip()}\n{LONG.strip()}"
    assert main_text("<script type='application/ld+json'>{articleBody</script><p>One") == "One"
    assert main_text('<script type="application/ld+json">{"articleBody": '
                     '"One \\ud83d\\ude00 two \\ud800 three"}</script>') == "One 😀 two \ufffd three"


# --------------------------------------------------------------------------------------------------
# Made pages: as blogs, forums, manuals, encyclopedias and others are built, in many languages.

PAGES = {
"German news, boxes between the paragraphs": ("""\
<!doctype html><html lang="de"><head><title>Brücke gesperrt - Anzeiger</title></head><body>
<header class="kopf"><a href="/">Anzeiger</a><nav><ul><li><a href="/politik">Politik</a></li>\
<li><a href="/sport">Sport</a></li></ul></nav></header>
<div class="spalte"><div class="artikel"><span class="dachzeile">Verkehr</span>\
<h1>Die alte Brücke bleibt bis zum Frühjahr gesperrt</h1>
<div class="autorenzeile"><span class="autor">Von Jana Weiß</span> \
<time>12.11.2021, 17:04 Uhr</time></div>
<figure><img src="b.jpg"><figcaption>Die Brücke am Morgen. Foto: dpa</figcaption></figure>
<p>Wer vom Markt zum Bahnhof will, muss seit Montag einen Umweg von zwei Kilometern fahren.</p>
<p>Bei einer Prüfung fanden Ingenieure Risse in drei der neun Pfeiler, teilte die Stadt mit.</p>
<div class="anzeige"><span>Anzeige</span>\
<a href="/x">Jetzt Strom wechseln und 200 Euro sparen</a></div>
<p>„Wir haben keine Wahl“, sagte der Bürgermeister. \
Die Reparatur kostet <b>4,5 Millionen Euro</b>.</p>
<div class="lesen-sie-auch"><strong>Lesen Sie auch:</strong> \
<a href="/y">So marode sind die Brücken im Land</a></div>
<h2>Busse fahren weiter</h2>
<p>Die Linien 3 und 7 halten an einer Ersatzstelle hinter dem Rathaus; \
Fußgänger dürfen die Brücke nutzen.</p>
</div><div class="teilen"><a href="#">Teilen</a> <a href="#">Merken</a></div>
<div class="kommentare"><h3>Kommentare (2)</h3>\
<p><b>Heinz</b> Das war doch seit Jahren bekannt, und keiner hat etwas getan!</p>\
<p><b>Uschi</b> Dann fahre ich eben mit dem Rad, das ist ohnehin gesünder.</p></div></div>
<div class="fuss"><a href="/impressum">Impressum</a> \
<a href="/daten">Datenschutz</a> © Anzeiger Verlag</div>
<div id="cookie-hinweis"><p>Wir verwenden Cookies, um Inhalte zu personalisieren \
und die Zugriffe auf unsere Website zu analysieren.</p>\
<button>Zustimmen</button></div></body></html>""",
"""Verkehr
Die alte Brücke bleibt bis zum Frühjahr gesperrt
Wer vom Markt zum Bahnhof will, muss seit Montag einen Umweg von zwei Kilometern fahren.
Bei einer Prüfung fanden Ingenieure Risse in drei der neun Pfeiler, teilte die Stadt mit.
„Wir haben keine Wahl“, sagte der Bürgermeister. Die Reparatur kostet 4,5 Millionen Euro.
Busse fahren weiter
Die Linien 3 und 7 halten an einer Ersatzstelle hinter dem Rathaus; \
Fußgänger dürfen die Brücke nutzen."""),

"French blog with comments and a sidebar": ("""\
<!doctype html><html lang="fr"><body class="single single-post postid-12">\
<div id="page"><header id="masthead"><p class="site-title"><a href="/">Carnet de jardin</a></p>\
<p class="site-description">Un potager au fil des saisons</p></header>
<div id="content">\
<article id="post-12" class="post-12 post type-post status-publish category-social tag-related">\
<header class="entry-header"><h1 class="entry-title">Semer les fèves en novembre</h1>\
<div class="entry-meta">Publié le <time>3 novembre 2020</time> par \
<a href="/auteur">Lucie</a></div></header>
<div class="entry-content"><p>Les fèves aiment le froid : \
semées à l’automne, elles lèvent avant l’hiver et fleurissent dès mars.</p>
<p>Voici comment je procède :</p><ol><li>J’ouvre un sillon de cinq centimètres.</li>\
<li>Je pose une graine tous les dix centimètres.</li>\
<li>Je couvre de terre et d’un peu de compost.</li></ol>
<blockquote><p>À la Sainte-Catherine, tout bois prend racine.</p></blockquote>
<p>Il n’y a presque rien d’autre à faire, \
sinon attendre et surveiller les pucerons au printemps.</p>
<div class="sharedaddy sd-sharing-enabled"><h3>Partager :</h3>\
<ul><li><a href="#">Facebook</a></li><li><a href="#">Twitter</a></li></ul></div>
<div id="jp-relatedposts"><h3>Articles similaires</h3><p><a href="/a">Les pois d’hiver</a></p>\
<p><a href="/b">Le compost en dix questions</a></p></div></div>
<footer class="entry-footer">Classé dans <a href="/c">Potager</a></footer></article>
<div id="comments"><h2>2 réflexions sur « Semer les fèves en novembre »</h2>\
<ol class="commentlist">\
<li><p>Chez moi les mulots mangent toutes les graines, \
avez-vous une astuce contre ces bêtes ?</p></li>\
<li><p>Merci pour ces conseils, j’essaie dès ce week-end avec les enfants !</p></li></ol>
<form><p>Votre adresse e-mail ne sera pas publiée.</p></form></div></div>
<div id="secondary" class="widget-area"><section class="widget"><h2>Articles récents</h2>\
<ul><li><a href="/1">Un</a></li><li><a href="/2">Deux</a></li></ul></section></div>
<footer id="colophon">Fièrement propulsé par le vent</footer></div></body></html>""",
"""Les fèves aiment le froid : semées à l’automne, \
elles lèvent avant l’hiver et fleurissent dès mars.
Voici comment je procède :
- J’ouvre un sillon de cinq centimètres.
- Je pose une graine tous les dix centimètres.
- Je couvre de terre et d’un peu de compost.
À la Sainte-Catherine, tout bois prend racine.
Il n’y a presque rien d’autre à faire, sinon attendre et surveiller les pucerons au printemps."""),

"Spanish recipe": ("""<html lang="es"><body><div class="cabecera"><a href="/">Cocina fácil</a> \
<a href="/postres">Postres</a> <a href="/sopas">Sopas</a></div><main>
<h1>Gazpacho de sandía</h1><div class="rating">★★★★☆ (31 votos)</div>\
<div class="intro">Una sopa fría para los días de calor, \
lista en diez minutos y sin encender el fuego.</div>
<div class="ingredientes"><h2>Ingredientes</h2><ul><li>1 kg de sandía</li>\
<li>500 g de tomates</li><li>1 pepino</li><li>Sal y vinagre</li></ul></div>
<div class="pasos"><h2>Preparación</h2>\
<ol><li>Corta la sandía y los tomates en trozos y quita las pepitas.</li>\
<li>Tritura todo con el pepino, la sal y el vinagre.</li>\
<li>Enfría la sopa dos horas y sírvela con hielo.</li></ol></div>
<table><tr><th>Ración</th><th>Calorías</th></tr><tr><td>1 plato</td><td>90</td></tr></table>
<div class="compartir"><a href="#">Compartir</a></div>
<div class="recetas-relacionadas"><h3>También te puede gustar</h3>\
<ul><li><a href="/1">Ajoblanco de almendras</a></li><li><a href="/2">Salmorejo cordobés</a></li>\
<li><a href="/3">Sopa de melón</a></li></ul></div></main>
<footer><p>© 2021 Cocina fácil. Todos los derechos reservados.</p></footer></body></html>""",
"""Gazpacho de sandía
Una sopa fría para los días de calor, lista en diez minutos y sin encender el fuego.
Ingredientes
- 1 kg de sandía
- 500 g de tomates
- 1 pepino
- Sal y vinagre
Preparación
- Corta la sandía y los tomates en trozos y quita las pepitas.
- Tritura todo con el pepino, la sal y el vinagre.
- Enfría la sopa dos horas y sírvela con hielo.
Ración | Calorías
1 plato | 90"""),

"Portuguese list article with linked headings": ("""<html lang="pt"><body><div class="menu">\
<ul><li><a href="/">Início</a></li><li><a href="/v">Viagens</a></li></ul></div>\
<div class="conteudo"><h1>Três praias para fugir do barulho</h1>
<p>Nem toda praia do litoral fica cheia no verão. Estas três continuam quietas mesmo em janeiro.</p>
<div class="item"><h2><a href="/p/1">1. Praia do Farol</a></h2><img src="1.jpg">\
<p>Só se chega a pé, por uma trilha de quarenta minutos. \
A areia é clara, e o mar fica calmo até o meio da tarde, quando o vento muda. \
Leve água, porque não há nenhum quiosque, e volte antes do pôr do sol: \
a trilha não tem luz e cruza um riacho que sobe com a maré. \
No fim de semana um guarda do parque fica na entrada e anota o nome de cada visitante.</p></div>
<div class="item"><h2><a href="/p/2">2. Enseada das Garças</a></h2><img src="2.jpg">\
<p>As garças chegam de manhã cedo e pousam nas pedras do lado norte. \
Há um restaurante simples que abre nos fins de semana e serve peixe do dia com arroz e banana. \
O acesso é por estrada de terra, e carros baixos costumam encalhar depois da chuva. \
Quem dorme na vila vizinha pode ir de barco com os pescadores, \
que saem às seis e voltam ao meio-dia.</p></div>
<div class="item"><h2><a href="/p/3">3. Ponta Seca</a></h2><img src="3.jpg">\
<p>O nome engana: é a praia mais verde das três, com mata até a beira da água. \
As ondas são fortes, boas para quem surfa e ruins para crianças. \
Ao lado corre um rio raso de água doce, onde dá para se lavar do sal antes de voltar para o carro. \
Em dias claros se vê o farol da primeira praia, pequeno e branco, \
do outro lado da baía, e à noite a luz dele passa pela areia.</p></div>
</div><div class="veja-mais"><h3>Veja mais</h3><a href="/x">As melhores trilhas do sul</a> \
<a href="/y">O que levar na mochila</a></div></body></html>""",
"""Três praias para fugir do barulho
Nem toda praia do litoral fica cheia no verão. Estas três continuam quietas mesmo em janeiro.
1. Praia do Farol
Só se chega a pé, por uma trilha de quarenta minutos. \
A areia é clara, e o mar fica calmo até o meio da tarde, quando o vento muda. \
Leve água, porque não há nenhum quiosque, e volte antes do pôr do sol: \
a trilha não tem luz e cruza um riacho que sobe com a maré. \
No fim de semana um guarda do parque fica na entrada e anota o nome de cada visitante.
2. Enseada das Garças
As garças chegam de manhã cedo e pousam nas pedras do lado norte. \
Há um restaurante simples que abre nos fins de semana e serve peixe do dia com arroz e banana. \
O acesso é por estrada de terra, e carros baixos costumam encalhar depois da chuva. Quem \
dorme na vila vizinha pode ir de barco com os pescadores, que saem às seis e voltam ao meio-dia.
3. Ponta Seca
O nome engana: é a praia mais verde das três, com mata até a beira da água. \
As ondas são fortes, boas para quem surfa e ruins para crianças. \
Ao lado corre um rio raso de água doce, onde dá para se lavar do sal antes de voltar para o carro. \
Em dias claros se vê o farol da primeira praia, pequeno e branco, \
do outro lado da baía, e à noite a luz dele passa pela areia."""),

"Italian page laid out in tables, paragraphs of <br><br>": ("""\
<HTML><BODY BGCOLOR="#ffffff"><TABLE BORDER=0 WIDTH="100%">\
<TR><TD COLSPAN=2 ALIGN=center><FONT SIZE=5>Museo della carta</FONT></TD></TR>
<TR><TD WIDTH=140 VALIGN=top><A HREF="a.html">Orari</A><BR>\
<A HREF="b.html">Biglietti</A><BR>\
<A HREF="c.html">Come arrivare</A><BR><A HREF="d.html">Contatti</A></TD>
<TD VALIGN=top><FONT FACE="Times"><B>La storia del mulino</B><BR><BR>\
Il mulino fu costruito nel 1592 sulla riva del torrente, \
dove l’acqua non gela nemmeno d’inverno.<BR><BR>
Per due secoli vi si fece carta da lettere per i mercanti di Lucca e di Genova; \
i fogli portavano in filigrana una piccola torre.<BR><BR>
Oggi una ruota gira ancora, \
e ogni domenica un vecchio cartaio mostra ai bambini come si fa un foglio.</FONT></TD></TR>
<TR><TD COLSPAN=2 ALIGN=center><FONT SIZE=1>\
<A HREF="/">Home</A> - <A HREF="m.html">Mappa</A> - <A HREF="p.html">Privacy</A></FONT></TD></TR>\
</TABLE></BODY></HTML>""",
"""La storia del mulino
Il mulino fu costruito nel 1592 sulla riva del torrente, dove l’acqua non gela nemmeno d’inverno.
Per due secoli vi si fece carta da lettere per i mercanti di Lucca e di Genova; \
i fogli portavano in filigrana una piccola torre.
Oggi una ruota gira ancora, \
e ogni domenica un vecchio cartaio mostra ai bambini come si fa un foglio."""),

"Polish forum thread": ("""\
<html lang="pl"><body><div id="wrap"><div class="headerbar"><a href="/">Forum rowerowe</a></div>\
<ul class="linklist"><li><a href="/">Strona główna</a></li><li><a href="/faq">FAQ</a></li></ul>
<div id="page-body"><h2><a href="/t1">Jaki łańcuch na zimę?</a></h2>
<div class="post"><div class="postprofile"><a href="/u1">Marek</a><br>Posty: 210</div>\
<div class="postbody"><p class="author">autor: <a href="/u1">Marek</a> » 12 sty 2019, 13:44</p>\
<div class="content">Po każdej jeździe po soli łańcuch jest rudy.<br><br>\
Czy warto kupić taki z powłoką, czy lepiej smarować częściej zwykły?</div>\
<div class="signature">Nie ma złej pogody</div></div></div>
<div class="post"><div class="postprofile"><a href="/u2">Ola</a><br>Posty: 15</div>\
<div class="postbody"><p class="author">autor: <a href="/u2">Ola</a> » 12 sty 2019, 18:02</p>\
<div class="content">\
<blockquote><div><cite>Marek napisał:</cite>Czy warto kupić taki z powłoką</div></blockquote>\
Nie warto. Powłoka schodzi po miesiącu, a kosztuje trzy razy więcej.</div></div></div>
<div class="post"><div class="postprofile"><a href="/u1">Marek</a><br>Posty: 211</div>\
<div class="postbody"><p class="author">autor: <a href="/u1">Marek</a> » 13 sty 2019, 07:15</p>\
<div class="content">Dzięki! W takim razie kupię zwykły i większą butelkę oleju.</div>\
<div class="signature">Nie ma złej pogody</div></div></div>
<div class="action-bar"><a href="/r">Odpowiedz</a> <a href="/n">Następny temat</a></div></div>\
<div id="page-footer"><p>Powered by phpBB</p></div></div></body></html>""",
"""Jaki łańcuch na zimę?
Po każdej jeździe po soli łańcuch jest rudy.
Czy warto kupić taki z powłoką, czy lepiej smarować częściej zwykły?
Marek napisał:Czy warto kupić taki z powłoką
Nie warto. Powłoka schodzi po miesiącu, a kosztuje trzy razy więcej.
Dzięki! W takim razie kupię zwykły i większą butelkę oleju."""),

"Russian documentation with code": ("""\
<html lang="ru"><body><div class="document"><div class="sphinxsidebar"><h3>Содержание</h3>\
<ul><li><a href="#a">Установка</a></li><li><a href="#b">Первые шаги</a></li></ul></div>
<div class="body" role="main"><section id="a">\
<h1>Первые шаги<a class="headerlink" href="#a">¶</a></h1>\
<p>Библиотека читает таблицы из файлов <code class="docutils">.csv</code> \
и считает суммы по столбцам.</p>
<div class="highlight-python"><div class="highlight">\
<pre><span></span><span class="kn">import</span> <span class="nn">tabla</span>
<span class="n">t</span> <span class="o">=</span> \
<span class="n">tabla</span><span class="o">.</span><span class="n">read</span>\
<span class="p">(</span><span class="s2">"a.csv"</span><span class="p">)</span>
<span class="k">if</span> <span class="n">t</span> &lt; 3: \
<span class="nb">print</span>(t)</pre></div></div>
<div class="admonition note"><p class="admonition-title">Примечание</p>\
<p>Первая строка файла считается заголовком.</p></div>
<h2>Параметры<a class="headerlink" href="#b">¶</a></h2>\
<table class="docutils"><thead><tr><th>Имя</th><th>Смысл</th></tr></thead>\
<tbody><tr><td><code>sep</code></td><td>разделитель, по умолчанию запятая</td></tr>\
<tr><td><code>skip</code></td><td>сколько строк пропустить</td></tr></tbody></table>
<dl><dt>tabla.sum(column)</dt>\
<dd><p>Возвращает сумму столбца; пустые ячейки не считаются.</p></dd></dl></section></div></div>
<div class="related" role="navigation"><ul><li><a href="/n">далее</a></li>\
<li><a href="/p">назад</a></li></ul></div></body></html>""",
"""Первые шаги
Библиотека читает таблицы из файлов .csv и считает суммы по столбцам.
import tabla
t = tabla.read("a.csv")
if t < 3: print(t)
Примечание
Первая строка файла считается заголовком.
Параметры
Имя | Смысл
sep | разделитель, по умолчанию запятая
skip | сколько строк пропустить
- tabla.sum(column)
- Возвращает сумму столбца; пустые ячейки не считаются."""),

"Turkish news without <p>": ("""\
<html lang="tr"><body>\
<div class="ust"><a href="/">Gündem</a> <a href="/spor">Spor</a> <a href="/eko">Ekonomi</a></div>\
<div class="haber"><div class="baslik"><h1>Limandaki eski vapur müze oluyor</h1></div>\
<div class="tarih">4 Mart 2022 - 11:20</div>
<div class="metin">Otuz yıl boyunca iki yakayı birbirine bağlayan vapur, \
bu yaz müze olarak kapılarını açacak.<div class="reklam">Reklam</div>\
Belediye, geminin makine dairesini olduğu gibi koruyacağını, \
güverteye ise küçük bir kitaplık kuracağını duyurdu.
<br><br>Vapurun son kaptanı, \
“Onu hurdalıkta görmektense burada çay içmeyi yeğlerim,” dedi.</div></div>
<div class="ilgili"><div><a href="/1">Vapur seferlerine kış ayarı</a></div>\
<div><a href="/2">Yeni iskele gelecek yıl açılıyor</a></div></div>\
<div class="yorumlar">\
<div>Mehmet: Çok güzel bir haber, çocukluğum o vapurda geçti, mutlaka gideceğim.</div></div>\
<div class="alt">Her hakkı saklıdır</div></body></html>""",
"""Otuz yıl boyunca iki yakayı birbirine bağlayan vapur, bu yaz müze olarak kapılarını açacak.
Belediye, geminin makine dairesini olduğu gibi koruyacağını, \
güverteye ise küçük bir kitaplık kuracağını duyurdu.
Vapurun son kaptanı, “Onu hurdalıkta görmektense burada çay içmeyi yeğlerim,” dedi."""),

"Arabic encyclopedia": ("""\
<html lang="ar" dir="rtl"><body class="mediawiki"><div id="mw-navigation"><h2>قائمة التصفح</h2>\
<ul><li><a href="/1">الصفحة الرئيسية</a></li><li><a href="/2">أحدث التغييرات</a></li></ul></div>
<div id="content" class="mw-body" role="main"><h1 id="firstHeading">بومة الحظائر</h1>\
<div id="siteSub" class="noprint">من الموسوعة الحرة</div>\
<div id="bodyContent"><div id="mw-content-text"><table class="infobox">\
<tr><th>الطائفة</th><td>طيور</td></tr><tr><th>الوزن</th><td>400 غرام</td></tr></table>
<p><b>بومة الحظائر</b> طائر <a href="/b">ليلي</a> يعيش قرب <a href="/c">المزارع</a> \
ويصطاد القوارض الصغيرة في الظلام.\
<sup id="r1" class="reference"><a href="#n1">[1]</a></sup></p>
<div id="toc" class="toc"><h2>محتويات</h2>\
<ul><li><a href="#a">1 الوصف</a></li><li><a href="#b">2 الغذاء</a></li></ul></div>
<h2><span class="mw-headline">الوصف</span>\
<span class="mw-editsection">[<a href="/e">عدل</a>]</span></h2>\
<p>وجهها أبيض على شكل قلب، وجناحاها طويلان، وطيرانها لا صوت له تقريبا.</p>
<h2><span class="mw-headline">الغذاء</span>\
<span class="mw-editsection">[<a href="/e">عدل</a>]</span></h2>\
<ul><li>الفئران</li><li>الخفافيش الصغيرة</li><li>الحشرات الكبيرة</li></ul></div>
<div id="catlinks" class="catlinks"><a href="/k">تصنيفات</a>: <a href="/k1">بوميات</a></div>\
</div></div><div id="footer"><p>النصوص منشورة برخصة المشاع الإبداعي.</p></div></body></html>""",
"""بومة الحظائر
بومة الحظائر طائر ليلي يعيش قرب المزارع ويصطاد القوارض الصغيرة في الظلام.[1]
الوصف
وجهها أبيض على شكل قلب، وجناحاها طويلان، وطيرانها لا صوت له تقريبا.
الغذاء
- الفئران
- الخفافيش الصغيرة
- الحشرات الكبيرة"""),

"Chinese news of short paragraphs": ("""\
<html lang="zh"><body><div class="top"><a href="/">首页</a><a href="/gn">国内</a><a href="/gj">国际</a>\
<a href="/ty">体育</a></div><div class="path"><a href="/">新闻</a> &gt; <a href="/s">社会</a></div>
<div class="main"><h1>老城区的最后一家照相馆</h1><div class="info"><span class="time">2021-05-06 09:12</span> \
<span class="source">来源：晚报</span></div><div class="article" id="artibody">
<p>　　巷子口的照相馆开了四十年。</p><p>　　店主姓陈，今年七十一岁。他说，从前每逢春节，门外都排着长队，一家人穿着新衣服来拍全家福。</p>
<p>　　“现在谁都有手机了。”他笑着说。</p><p>　　店里的相机还是老式的木箱子，底片要在暗房里冲洗半个小时。年轻人觉得新鲜，周末会专程过来。</p>\
<p>　　下个月，这条巷子就要拆了。</p></div>
<div class="editor">责任编辑：王芳</div></div><div class="xiangguan"><h2>相关新闻</h2>\
<ul><li><a href="/1">旧城改造二期工程启动</a></li><li><a href="/2">胶片相机为何重新流行</a></li>\
<li><a href="/3">一条老街的三十年</a></li></ul></div>
<div class="foot"><a href="/about">关于我们</a> | \
<a href="/c">联系我们</a> <p>版权所有 未经许可不得转载</p></div></body></html>""",
"""巷子口的照相馆开了四十年。
店主姓陈，今年七十一岁。他说，从前每逢春节，门外都排着长队，一家人穿着新衣服来拍全家福。
“现在谁都有手机了。”他笑着说。
店里的相机还是老式的木箱子，底片要在暗房里冲洗半个小时。年轻人觉得新鲜，周末会专程过来。
下个月，这条巷子就要拆了。"""),

"Japanese blog of lines, ranking and cards": ("""\
<html lang="ja"><body><header><h1><a href="/">港町日記</a></h1></header>\
<div id="wrapper"><article><h2>はじめての渡し船</h2><p class="post-meta">2019年4月2日 <a href="/c">散歩</a></p>
<div class="entry">朝の七時、桟橋にはまだ誰もいなかった。<br>切符は船の中で買うらしい。<br><br>\
船長は無口な人で、帽子を少し持ち上げただけで舵を切った。向こう岸までは五分もかからない。<br>\
それでも、川の真ん中で見た朝日は忘れられない。<br><br>帰りは橋を渡った。</div>
<ul class="sns"><li><a href="#">ツイート</a></li><li><a href="#">シェア</a></li></ul></article>
<div class="kanren"><h3>関連記事</h3>\
<div class="card"><a href="/1"><h4>灯台までの坂道を歩いてみた話</h4></a>\
<p>港から灯台までは三キロの上り坂です。途中で…</p></div>\
<div class="card"><a href="/2"><h4>市場で食べる朝ごはんのすすめ</h4></a>\
<p>市場の食堂は五時に開きます。漁師さんと並んで…</p></div>\
<div class="card"><a href="/3"><h4>雨の日に行きたい喫茶店まとめ</h4></a>\
<p>雨の日の港町は静かです。こんな日は…</p></div></div></div>
<div id="side"><h3>人気ランキング</h3><ol><li><a href="/1">灯台までの坂道を歩いてみた話</a></li>\
<li><a href="/2">市場で食べる朝ごはんのすすめ</a></li></ol></div><footer>© 港町日記</footer></body></html>""",
"""はじめての渡し船
朝の七時、桟橋にはまだ誰もいなかった。
切符は船の中で買うらしい。
船長は無口な人で、帽子を少し持ち上げただけで舵を切った。向こう岸までは五分もかからない。
それでも、川の真ん中で見た朝日は忘れられない。
帰りは橋を渡った。"""),

"Hindi questions and answers": ("""\
<html lang="hi"><body><div class="nav"><a href="/">मुखपृष्ठ</a> <a href="/q">प्रश्न</a></div>\
<div class="question"><h1>बारिश में मोबाइल भीग जाए तो क्या करें?</h1>\
<div class="body"><p>कल शाम मेरा फ़ोन पानी में गिर गया। अब स्क्रीन चालू नहीं हो रही है।</p>\
<p>क्या इसे चावल में रखने से फ़ायदा होगा?</p></div><div class="votes">12</div></div>
<div class="answer"><div class="body">\
<p>सबसे पहले फ़ोन को बंद करें और बैटरी निकाल दें। गीले फ़ोन को चार्ज करना ख़तरनाक है।</p>\
<p>फिर उसे सूखे कपड़े से पोंछकर दो दिन तक हवा में रहने दें।</p></div>\
<div class="votes">30</div></div>
<div class="answer"><div class="body"><p>चावल से कोई ख़ास फ़र्क़ नहीं पड़ता। \
पास की दुकान पर दिखाना बेहतर है।</p></div><div class="votes">4</div></div>
<div class="sidebar"><h4>मिलते-जुलते प्रश्न</h4><a href="/1">फ़ोन गरम क्यों होता है?</a>\
<a href="/2">बैटरी जल्दी क्यों ख़त्म होती है?</a></div></body></html>""",
"""बारिश में मोबाइल भीग जाए तो क्या करें?
कल शाम मेरा फ़ोन पानी में गिर गया। अब स्क्रीन चालू नहीं हो रही है।
क्या इसे चावल में रखने से फ़ायदा होगा?
सबसे पहले फ़ोन को बंद करें और बैटरी निकाल दें। गीले फ़ोन को चार्ज करना ख़तरनाक है।
फिर उसे सूखे कपड़े से पोंछकर दो दिन तक हवा में रहने दें।
चावल से कोई ख़ास फ़र्क़ नहीं पड़ता। पास की दुकान पर दिखाना बेहतर है।"""),

"the whole page in elements named sidebar": ("""<html><body class="has-sidebar sidebar-right">\
<div class="sidebar-container"><div class="sidebar-content"><h1>The night train</h1>\
<div>The night train leaves at ten, and nobody sleeps before the border.</div>\
<div>In the corridor two soldiers play cards on a suitcase, and the loser pays for the tea.</div>\
<div>At dawn the plain is white with frost, and the first villages light their stoves.</div></div>\
<div class="sidebar"><div>More stories</div><div><a href="/1">The day bus</a></div>\
<div><a href="/2">The long bridge</a></div></div></div></body></html>""",
"""The night train
The night train leaves at ten, and nobody sleeps before the border.
In the corridor two soldiers play cards on a suitcase, and the loser pays for the tea.
At dawn the plain is white with frost, and the first villages light their stoves."""),

"a table with linked names": ("""\
<html><body><div id="menu"><a href="/">Home</a> <a href="/s">Scores</a></div>\
<div id="text"><h1>Longest rivers of the island</h1>\
<p>The table gives the length of each river from its source to the sea, \
as measured in the survey of 1988.</p>
<table class="stats"><caption>Rivers over 50 km</caption>\
<thead><tr><th>River</th><th>Length</th><th>Mouth</th></tr></thead><tbody>\
<tr><td><a href="/r1">Great Ouzel</a></td><td>112 km</td>\
<td><a href="/t1">Port Anselm</a></td></tr>\
<tr><td><a href="/r2">Black Water</a></td><td>87 km</td>\
<td><a href="/t2">Sandhaven</a></td></tr>\
<tr><td><a href="/r3">Little Ouzel</a></td><td>53 km</td>\
<td>joins the Great Ouzel</td></tr></tbody></table>
<p>Shorter streams are left out, as are canals.</p></div>\
<div id="bottom"><a href="/c">Contact</a></div></body></html>""",
"""Longest rivers of the island
The table gives the length of each river from its source to the sea, \
as measured in the survey of 1988.
Rivers over 50 km
River | Length | Mouth
Great Ouzel | 112 km | Port Anselm
Black Water | 87 km | Sandhaven
Little Ouzel | 53 km | joins the Great Ouzel
Shorter streams are left out, as are canals."""),

"a page builder that calls all its parts widgets": ("""\
<html><body><div class="page-builder"><div class="builder-widget widget-nav-menu">\
<ul><li><a href="/">Home</a></li><li><a href="/a">About</a></li></ul></div>
<div class="builder-widget widget-heading">\
<div class="widget-container"><h1>How we roast</h1></div></div>\
<div class="builder-widget widget-text"><div class="widget-container">\
<p>We roast twice a week, in a drum that takes twelve kilograms of green beans at a time.\
</p></div></div>
<div class="builder-widget widget-image"><img src="a.jpg"></div>\
<div class="builder-widget widget-text"><div class="widget-container">\
<p>The first crack comes after nine minutes. \
From then on it is a matter of smell, and of nerves.</p></div></div>
<div class="builder-widget widget-text"><div class="widget-container">\
<p>Light roasts leave the drum a minute later, \
dark ones after three, and then the fan takes over.</p></div></div>
<div class="builder-widget widget-social-icons"><a href="#">Facebook</a> \
<a href="#">Instagram</a></div></div></body></html>""",
"""How we roast
We roast twice a week, in a drum that takes twelve kilograms of green beans at a time.
The first crack comes after nine minutes. From then on it is a matter of smell, and of nerves.
Light roasts leave the drum a minute later, dark ones after three, and then the fan takes over."""),

"Korean article in spans and sections of its own": ("""\
<html lang="ko"><body><div id="root">\
<div class="css-1x2y"><a href="/">홈</a><a href="/news">뉴스</a></div><div class="css-9ab">\
<section class="css-77"><span class="css-1">골목 끝 작은 서점은 밤 열 시까지 불을 켜 둔다. \
늦게 퇴근하는 사람들을 위해서다.</span></section>\
<section class="css-77"><span class="css-1">주인은 책을 팔기보다 이야기를 듣는 일이 더 많다고 말한다. </span>\
<span class="css-1">그래도 매달 월세는 낸다.</span></section>\
<section class="css-77"><span class="css-1">다음 달에는 동네 아이들이 쓴 시집이 나온다.</span></section></div>\
<div class="css-5d"><a href="/1">서점 지도</a><a href="/2">이달의 책</a></div></div></body></html>""",
"""골목 끝 작은 서점은 밤 열 시까지 불을 켜 둔다. 늦게 퇴근하는 사람들을 위해서다.
주인은 책을 팔기보다 이야기를 듣는 일이 더 많다고 말한다. 그래도 매달 월세는 낸다.
다음 달에는 동네 아이들이 쓴 시집이 나온다."""),

"Greek law of nested lists": ("""<html lang="el"><body><ul class="menu">\
<li><a href="/">Αρχική</a></li><li><a href="/n">Νόμοι</a></li></ul>\
<div id="law"><h1>Κανονισμός βιβλιοθήκης</h1><h2>Άρθρο 1</h2>\
<ol><li>Τα βιβλία δανείζονται για τρεις εβδομάδες.\
<ol><li>Τα λεξικά διαβάζονται μόνο στην αίθουσα.</li>\
<li>Οι χάρτες δεν δανείζονται.</li></ol></li><li>Ο δανεισμός παρατείνεται μία φορά.</li></ol>\
<h2>Άρθρο 2</h2><p>Όποιος χάσει βιβλίο το αντικαθιστά με ίδιο ή πληρώνει την αξία του.</p></div>\
<div class="footer">Επικοινωνία</div></body></html>""",
"""Κανονισμός βιβλιοθήκης
Άρθρο 1
- Τα βιβλία δανείζονται για τρεις εβδομάδες.
- Τα λεξικά διαβάζονται μόνο στην αίθουσα.
- Οι χάρτες δεν δανείζονται.
- Ο δανεισμός παρατείνεται μία φορά.
Άρθρο 2
Όποιος χάσει βιβλίο το αντικαθιστά με ίδιο ή πληρώνει την αξία του."""),

"Vietnamese poem of short lines": ("""\
<html lang="vi"><body><div class="menu"><a href="/">Trang chủ</a><a href="/tho">Thơ</a></div>\
<div class="poem"><h1>Bến cũ</h1>\
<p>Chiều xuống bến sông xưa<br>Con đò nằm lặng lẽ<br>\
Ai về trong gió nhẹ<br>Mang theo một câu hò</p>\
<p>Trăng lên đầu ngọn tre<br>Nước trôi như ngày ấy<br>\
Người đi không trở lại<br>Chỉ còn bóng trên đê</p>\
<p class="author">Khuyết danh</p></div>\
<div class="share"><a href="#">Chia sẻ</a></div></body></html>""",
"""Bến cũ
Chiều xuống bến sông xưa
Con đò nằm lặng lẽ
Ai về trong gió nhẹ
Mang theo một câu hò
Trăng lên đầu ngọn tre
Nước trôi như ngày ấy
Người đi không trở lại
Chỉ còn bóng trên đê"""),

"a figure that is a table, and one that is code": ("""\
<html><body><main><h1>Sorting</h1>\
<p>The times below were taken on one machine, with one thread, and are medians of nine runs.</p>\
<figure class="wp-block-table"><table><tr><td>quicksort</td><td>1.2 s</td></tr>\
<tr><td>merge sort</td><td>1.4 s</td></tr></table><figcaption>Lower is better</figcaption></figure>\
<figure class="highlight"><pre>sort(a)
print(a[0])</pre></figure>\
<figure><img src="x.png"><figcaption>A sorted list</figcaption></figure>\
<p>Both need less than two seconds for ten million numbers, \
so the choice hardly matters here.</p></main></body></html>""",
"""Sorting
The times below were taken on one machine, with one thread, and are medians of nine runs.
quicksort | 1.2 s
merge sort | 1.4 s
sort(a)
print(a[0])
Both need less than two seconds for ten million numbers, so the choice hardly matters here."""),
}


@pytest.mark.parametrize("name", PAGES)
def test_made_page(name):
    page, text = PAGES[name]
    assert main_text(page) == text


def declarations():
    """{language: HTML} of the declarations of human rights in the crawl, or a skip."""
    crawl = DATA / "crawl-dev.warc.gz"
    if not crawl.exists():
        pytest.skip(f"no {crawl}; LONGHAND_DATA names another folder")
    return {record.url.split("/")[-1]: record.body.decode() for record in warc.read_warc(str(crawl))
            if record.type == "response" and "udhr" in record.url}


def test_declarations_of_human_rights_come_out_whole():
    pages = declarations()
    assert len(pages) == 150
    for language, page in pages.items():
        text = re.sub(r"(?m)^- ", "", main_text(page))
        shown = unicodedata.normalize("NFC", re.sub(r"(?s)<title>.*?</title>|<[^>]*>", "", page))
        assert "".join(text.split()) == "".join(elements.clean(shown).split()), language


FRAMES = {          # body, menus of a word or two, teasers of a line, a footer of a sentence
    "blog":
        "<body><header><a href=/>{w}</a><nav>{menu}</nav></header>"
        "<article><h1>{t}</h1><div class='entry-content'>{body}</div></article>"
        "<div id=comments><ol><li><p>{s}</p></li><li><p>{s}</p></li></ol></div>"
        "<aside class=sidebar><h2>{w}</h2>{menu}</aside><footer>{s}</footer>",
    "news of nameless <div>":
        "<body><div>{menu}</div><div><div><div><h1>{t}</h1></div><div>{body}</div></div>"
        "<div>{cards}</div></div><div>{menu}{menu}</div>",
    "tables":
        "<body><table><tr><td colspan=2><b>{t}</b><tr><td>{menu}<td>{lines}"
        "<tr><td colspan=2><a href=/>{w}</a> - <a href=/>{w}</a></table>",
    "sidebar":
        "<body class=sidebar><div class=with-sidebar><div>{body}</div>"
        "<div class=sidebar>{menu}<p>{s}</p></div></div><div class=footer>{s}</div>",
}
DRESSED = ("eng deu fra spa por_BR ita pol rus tur arb cmn_hans jpn hin kor tha vie pes_1 ben heb "
           "ell_monotonic nld swe ind tam").split()


@pytest.mark.parametrize("frame", FRAMES)
def test_declarations_in_frames_of_their_own_language(frame):
    """The first paragraphs are the text.

    Words and lines of the rest are the menus, teasers and comments around it.
    """
    scores = {}
    for language in DRESSED:
        source = DATA / "udhr" / f"{language}.txt"
        if not source.exists():
            pytest.skip(f"no {source}; LONGHAND_DATA names another folder")
        lines = [unicodedata.normalize("NFC", " ".join(line.split()))
                 for line in source.read_text(encoding="utf-8").split("\n")]
        wide = language in ("cmn_hans", "jpn", "kor")
        lines = [html.escape(line) for line in lines if len(line) >= (30 if wide else 60)]
        text, rest = lines[:12], iter(lines[12:] * 9)
        cut = lambda n: next(rest)[:n // 2 if wide else n].strip()
        fill = {
            "menu": lambda: "<ul>" + "".join(
                f"<li><a href=/>{cut(12)}</a>" for _ in range(7)) + "</ul>",
            "w": lambda: cut(10),
            "t": lambda: cut(40),
            "s": lambda: next(rest),
            "body": lambda: "".join(f"<p>{line}</p>" for line in text),
            "lines": lambda: "<br><br>".join(text),
            "cards": lambda: "".join(
                f"<div><a href=/><h3>{cut(50)}</h3></a><p>{cut(90)}…</p></div>" for _ in range(6)),
        }
        page = re.sub(r"\{(\w+)\}", lambda name: fill[name[1]](), FRAMES[frame])
        got = main_text(page)
        tp, fp, fn = compare(" ".join(html.unescape("".join(text))),
                             " ".join(got.replace("\n", "")))
        scores[language] = 2 * tp / (2 * tp + fp + fn)
    print(frame, " ".join(f"{language} {score:.3f}"
                          for language, score in sorted(scores.items(), key=lambda x: x[1])))
    assert min(scores.values()) > 0.93 and sum(scores.values()) / len(scores) > 0.97


# --------------------------------------------------------------------------------------------------
# Hostile pages: linear time, no recursion, budgets.

HOSTILE = [
    "<div>" * 100_000, "<p>x" * 30_000, "<a " * 100_000, "<a b=\"" * 100_000, "<" * 500_000,
    "<!--" * 100_000, "<![CDATA[" * 100_000, "<script>" * 100_000,
    "<svg>" * 50_000, "<table><tr><td>" * 10_000, "<tr><td>a<td>b" * 20_000,
    "<table><td colspan=9007199254740991>x", "<span class=meta>x" * 20_000, "<ul><li>x" * 20_000,
    "<div>" * 200 + "</section>" * 100_000,
    "<section><table><td>" + "<div>" * 200 + "</section>" * 10_000,
    "<div " + "class " * 100_000 + ">", '<div class="' + "-a" * 100_000 + '">x',
    "&" * 500_000, "<pre>" + "\n" * 100_000,
    "<script type=application/ld+json>" * 10_000 + "articleBody",
    "<script type=application/ld+json>" + '{"articleBody":[' * 50_000 + "</script>",
    "<p>a" + "\u0315\u0300" * 50_000, "<p>a" + "\u0f73" * 100_000,
    "<table><tr>" + f"<td>{'cell ' * 20}</td>" * 60_000,
    "<p>One<a " + "=" * 1_000_000 + ">", "<div " + "a=b " * 500_000 + ">x", "&#" + "9" * 1_000_000,
    "<div class" + " " * 500_000 + ">", "x" * 1_000_000,
    "<a href=x>" * 100_000, "<div>\u2028" * 1000,
    "<table>" + "<tr><td>a<td>b" * 500_000, "<p>" + "word " * 180_000,
    "<p>" + "<a href=x>word</a> " * 60_000, "<p>" + "<span class=share>w</span>ord " * 60_000,
    "<span class=share><div>x" * 50_000, "<p>" + "<span hidden>w</span>ord " * 60_000,
    "<nav>" * 100_000 + "</nav>" * 100_000, "<nav><nav></nav>" * 50_000, "<nav>" * 200_000,
    "<figure>" * 100_000 + "<table>", "<figure><pre>x" * 50_000,
    "<a b='>" * 200_000, "<p title=\"it's\">x" * 100_000,
    '"articleBody":"' + "\\\\" * 1_000_000, '"articleBody":"x' * 200_000,
    ('"articleBody":"' + "\\n" * 60_000) * 20,
    "<svg><path></path>" * 100_000, "<h1>x" * 100_000,
    "<div>" + "<div><h3><a href=x>title</a></h3><p>text</div>" * 50_000,
    "<div>" * 250 + "</section>" * 100_000, "<div class='" + "a-b " * 500_000 + "'>x",
    "".join(f"<div class='a{i} share' id={i} hidden>x" for i in range(50_000)),
    "<template shadowrootmode=open>" * 60_000, "<template>" * 100_000,
    "<template>" * 50_000 + "</template>" * 50_000,
    "<math>" * 100_000, "<math><annotation application/x-tex " * 50_000,
    "<math alttext='{\\displaystyle " + " " * 500_000 + "'></math>",
    "<p>a<math>x</math>" * 50_000, "<button>" * 100_000, "<code>" * 100_000,
    "<h3>x</h3><div hidden>y</div>" * 30_000, "<pre>" + "    x\n" * 100_000, "&amp;amp;" * 100_000,
    "<section><p>" + SENTENCE + "</p>" + "<section>" * 40 + f"<p>{SENTENCE}</p>" * 9000,
    ("<section>" + f"<p>{SENTENCE}</p>" * 40) * 250,
    "<article class=comment>" + f"<p>{SENTENCE}</p>" * 9000,
    f"<span class='comment {'a' * 1000}'>" + f"<article><p>{SENTENCE}</p></article>" * 5000,
    "<plaintext>" + "<p>x" * 100_000, "<select><option>x" * 50_000,
    "<pre>" + "<a href=x>1</a> code\n" * 100_000, "<p" * 1_000_000, "<" + "a" * 1_000_000,
    "<div class=share>" * 250 + "<p>x" * 50_000, "<DIV><Script>a</sCRIPT>" * 50_000,
    "<p>" + "漢a" * 500_000, "<p>" + "漢\n" * 500_000,
    "<p>漢" + "\n" * 500_000 + "a", "<p>" + "漢 \n \n" * 200_000,
]


@pytest.mark.parametrize("i", range(len(HOSTILE)))
def test_hostile_page_in_linear_time(i):
    """A page that takes long may do so on a slow machine, if a quarter of it takes a quarter."""
    # The whole ones are for torture.py, the doubled ones for test_linear.py.
    page = HOSTILE[i][:len(HOSTILE[i]) // 2]
    if seconds(main_text, page) > 3:                # a budget of the tree takes 1.3 s, however long
        assert growth(main_text, lambda n: page[:n], len(page) // 4) < 9


@pytest.mark.parametrize("text, safe", [
    ("plain", "plain"),
    ("e" + "\u0301" * 30, "e" + "\u0301" * 30),
    ("e" + "\u0301" * 31, "e" + "\u0301" * 30 + "\u034f\u0301"),
    ("\u0315\u0300" * 40 + "x", ("\u0315\u0300" * 15 + "\u034f") * 2 + "\u0315\u0300" * 10 + "x"),
    ("e\u0301" * 100, "e\u0301" * 100),
    ("\u0f73" * 16, "\u0f71\u0f72" * 15 + "\u034f\u0f71\u0f72"),
    ("\U0001e944" * 31, "\U0001e944" * 30 + "\u034f\U0001e944"),
])
def test_stream_safe(text, safe):
    assert encoding.stream_safe(text) == safe
    assert main_text("<p>a" + text) == unicodedata.normalize(
        "NFC", encoding.stream_safe("a" + text))


def test_marks_are_found_wherever_they_begin():
    for n_before in range(40):
        safe = encoding.stream_safe("a" * n_before + "e" + "\u0301" * 31)
        assert safe == "a" * n_before + "e" + "\u0301" * 30 + "\u034f\u0301"


def test_no_mark_is_overlooked():
    marks = [chr(c) for c in range(0x110000)
             if unicodedata.combining(unicodedata.normalize("NFD", chr(c))[-1])]
    assert len(marks) > 900
    assert all(encoding.MAY_BE_MARKS.search(unicodedata.normalize("NFD", mark)[-1] * 16)
               for mark in marks)


def test_every_mark_that_has_no_class_of_its_own_is_decomposed():
    odd = [chr(c) for c in range(0x110000)
           if unicodedata.combining(unicodedata.normalize("NFD", chr(c))[0])
           and not unicodedata.combining(chr(c))]
    assert odd == ["\u0f73", "\u0f75", "\u0f81"]


INSERTS = ("<!-- --> <script> </script> <style> <![CDATA[ ]]> <plaintext> "
           "<table> <tr> <td> </table> </div> <div> <span¤class=share> </span> <a¤href=x> </a> "
           "&# & <svg> <nav> </nav> <footer> <p> <li> <pre> <h1> <br> <select> <figure> <form> "
           "<p¤title=' \" ' = < </ > <title> <textarea>").split()
ODD = "\0\x0b\x85\u2028\ufeff\u200b\xad\ud800\udfff\U0001f600\u0301漢"


def page_of_numbered_words(rng):
    """Random markup; every word is another one, with a space before and after it."""
    count = iter(range(10**9))
    words = lambda: " " + " ".join(f"w{next(count)}" for _ in range(rng.randint(1, 14))) + ". "

    def element(depth):
        tag = rng.choice("div p ul li table tr td section article aside nav footer h2 h3 span b a "
                         "blockquote pre form figure dl dt dd main em br".split())
        attrs = rng.choice(["", "", "", " class=share", " class='post-body'", ' id="comments"',
                            " hidden", " style='display: none'", " href=/x"])
        inside = "".join(words() if depth > 5 or rng.random() < 0.5 else element(depth + 1)
                         for _ in range(rng.randint(1, 4)))
        ending = "" if tag == "br" or rng.random() < 0.15 else f"</{tag}>"
        return f"<{tag}{attrs}>{inside}{ending}"
    return "<html><body>" + "".join(element(0) for _ in range(rng.randint(2, 9)))


def mutated(rng, page, other, odd):
    """The page after some cuts, repetitions, flips, splices and insertions.

    Unless odd, they happen only where there is a space.
    """
    for _ in range(rng.randint(0, 8)):
        i = rng.randrange(len(page) + 1)
        j = min(len(page), i + rng.randint(1, rng.choice((3, 40, 400))))
        if not odd:
            i = max(0, page.rfind(" ", 0, i))
            j = max(i, page.rfind(" ", 0, j))
        splice = rng.randrange(len(other))
        splice = other[splice:splice + 300].partition(" ")[2].rpartition(" ")[0]
        page = rng.choice((
            page[:i] + page[j:],
            page[:j] + page[i:],
            page[:i] + chr(rng.randrange(32, 127)) + page[i + 1:],
            page[:i] + " " + splice + page[i:],
            page[:i] + " " + rng.choice(INSERTS).replace("¤", " ") + page[i:],
            page[:i] + rng.choice(ODD if odd else " ") + page[i:],
        ))
        page = page[:i] if rng.random() < 0.03 else page
    return page


def is_text(text):
    text.encode()
    return (unicodedata.is_normalized("NFC", text)
            and all(line.strip() for line in text.split("\n")) or not text)


def test_mutated_pages_lose_words_but_neither_repeat_nor_glue_them(seed=0, n=1200):
    rng = random.Random(seed)
    for _ in range(n):
        page = mutated(rng, page_of_numbered_words(rng), page_of_numbered_words(rng), odd=False)
        text = main_text(page)
        assert is_text(text)
        assert not Counter(re.findall(r"w\d+", text)) - Counter(re.findall(r"w\d+", page)), page


def test_mutated_real_pages(seed=0, n=1200):
    rng, work = random.Random(seed), benchmark()[0]
    pages = [charset.decode(page) for page, gold in list(work.values())[:20]]
    for _ in range(n):
        page, i = rng.choice(pages), rng.random()
        i = int(i * len(page))
        page = page[i:i + rng.choice((2000, 20_000, 40_000))]
        page = mutated(rng, page, rng.choice(pages), odd=True)
        text = main_text(rng.choice((
            page, page.encode("utf-8", "replace"), page.encode("cp1252", "replace"))))
        assert is_text(text) and len(text) <= 3 * len(page)


def test_same_page_same_text_however_often():
    pages = [page_of(f"<p>{i}") for i in range(5)]
    first = [main_text(p) for p in pages]
    assert [main_text(p) for p in pages * 4] == first * 4


# --------------------------------------------------------------------------------------------------
# The command line.

def test_main_reads_a_file_and_standard_input(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.html"
    page.write_bytes("<p>Grüße".encode())
    extract.main([str(page)])
    stdin = SimpleNamespace(buffer=io.BytesIO("<p>Grüße".encode("cp1252")))
    monkeypatch.setattr(sys, "stdin", stdin)
    extract.main(["-", "--charset", "latin1"])
    assert capsys.readouterr().out == "Grüße\nGrüße\n"


def run_main(monkeypatch, capsys, *args):
    """What the command ends with, and what it prints as its errors."""
    monkeypatch.setattr(sys, "argv", ["extract.py"])
    with pytest.raises(SystemExit) as stop:
        command.run(lambda: extract.main(list(map(str, args))), error_status=2, data=True)
    return stop.value.code, capsys.readouterr().err


def test_main_names_a_missing_file(tmp_path, monkeypatch, capsys):
    code, said = run_main(monkeypatch, capsys, tmp_path / "none\x1b.html")
    assert code == 2
    assert re.fullmatch(
        r"extract\.py: error: .*none\\x1b\.html: No such file or directory\n", said)


@pytest.mark.parametrize("stream, name", [("stdin", "input"), ("stdout", "output")])
def test_main_with_a_closed_stream(stream, name, capsys, monkeypatch):
    monkeypatch.setattr(sys, stream, None)
    assert run_main(monkeypatch, capsys, "-") == (
        2, f"extract.py: error: standard {name} is closed\n")
