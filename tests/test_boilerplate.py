"""web/boilerplate.py: what the names of an element say against it."""

import pytest

from web import boilerplate


@pytest.mark.parametrize(
    "attrs, reasons",
    [
        ("", ()),
        (' class="post-footer relatedPosts"', ("footer", "relate")),
        (" class=footnote", ()),
        (' CLASS="SIDEBAR"', ("sideba",)),
        (" id=sideBar-left_2", ("sideba",)),
        (' class="topNav"', ("nav",)),
        (' class="rightsidebar"', ("sideba",)),
        (' role="navigation"', ("naviga",)),
        (" itemprop=datePublished", ("date",)),
        (' class="operating-system overlap unrelated"', ()),
        (' class="post type-post hentry tag-social"', ()),
        (' class="entry-content share"', ()),
        (' class="Kommentare"', ("kommen",)),
        (' class="comentarios"', ("coment",)),
        (" hidden", ("hidden",)),
        (' title="hidden"', ()),
        (' class="sr-only"', ("hidden",)),
        (' aria-hidden="true"', ("hidden",)),
        (' aria-hidden="false"', ()),
        (' data-class="ad"', ()),
    ],
)
def test_reasons_in_names(attrs, reasons):
    assert boilerplate.boilerplate(attrs) == reasons


@pytest.mark.parametrize(
    "heading, is_end",
    [
        ("3 Comments", True),
        ("Related articles:", True),
        ("More from the harbour", True),
        ("Kommentare (12)", True),
        ("\u76f8\u5173\u6587\u7ae0", True),
        ("Tides", False),
        ("", False),
    ],
)
def test_headings_behind_a_text(heading, is_end):
    assert boilerplate.is_afterwards(heading) is is_end


def test_names_of_a_lede_and_shapes():
    assert boilerplate.is_lede(' class="articleIntro"') and boilerplate.is_lede(" id=standfirst")
    assert not boilerplate.is_lede(' class="introduction"')
    assert not boilerplate.is_lede(" " + "x" * boilerplate.MAX_NAMES + ' class="lede"')
    assert boilerplate.shape(' class="part part-3"') == boilerplate.shape(" class='part part-12'")


def test_words_that_end_in_a_name_of_boilerplate():
    for tail in boilerplate.TAILS:
        assert boilerplate.boilerplate(f' class="my{tail} text"') == (tail[:6],)
