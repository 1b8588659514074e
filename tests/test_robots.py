"""web/robots.py: what robots.txt allows; which directives are for us and forbid a page's use."""
import doctest
import random
import time

import pytest

from web import boilerplate
from web import charset
from web import encoding
from web import extract
from web import markup
from web import robots
from web.message import parse_headers
from web.robots import (
    allowed, directives, forbids_links, matches, moment, parse_robots, reservation)

NOW = moment("2026-06-01T12:00:00Z")


def test_examples_of_the_docstrings():
    for module in (boilerplate, charset, encoding, extract, markup, robots):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed


@pytest.mark.parametrize("line, want", [
    ("noai", "noai"), ("NOINDEX", "noindex"), ("none", "none"), ("index, follow", None),
    ("all", None), ("", None), ("noarchive,noai", "noai"), ("noindex nofollow", "noindex"),
    ("noarchive|noai", "noai"), ("nofollow/noindex", "noindex"), ("noai=true", "noai"),
    ("nofollow; noai", "noai"), ('"noai"', "noai"), ("noai.", "noai"), (",, ,noai,", "noai"),
    ("noimageai", None), ("noindexing, no ai, no-index", None), ("follow,\r\n\tnoai", "noai"),
    # for whom
    ("googlebot: noindex", None), ("googlebot: noindex, nofollow", None),
    ("otherbot: noindex, googlebot: noai", None), ("noai, otherbot: noindex", "noai"),
    ("otherbot: noindex, longhand: noai", "noai"),
    ("longhand: noindex", "noindex"), ("Longhand/1.0: noindex", "noindex"), ("*: noai", "noai"),
    ("all: noai", "noai"), ("robots: noai", "noai"), ("otherbot: noindex, *: index, noai", "noai"),
    ("longhand: index, otherbot: noai", None), ("other bot : noai", None), ("otherbot:noai", None),
    ("longhand2: noai", None), ("otherbot: max-snippet: 5, noai", None),
    ("longhand: max-snippet: 5, noai", "noai"),
    # values are no directives and their names no robots
    ("max-snippet:-1, max-image-preview:large, max-video-preview:-1", None),
    ("max-snippet: -1, noai", "noai"), ("max-image-preview:none", None),
    ("max-image-preview: none, noindex", "noindex"),
    ("max-something-new: none, noai", "noai"), ("noindex: true", "noindex"),
    ("noai max-snippet: 5", "noai"), ("noai unavailable_after: 2099-01-01", "noai"),
    ("max-image-preview=none", None),
    ("max-image-preview:large noindex", "noindex"), ("max-snippet = 5 noarchive noai", "noai"),
    ("max-snippet: none noarchive", None), ("otherbot: max-snippet:5 noai", None),
    # a colon behind what is no robot
    ("ai-train: no, noindex", "noindex"), ("rating: adult; noai", "noai"),
    ("otherbot: noindex, rating: adult, noai", None), ("otherbot: noyaca, noai", None),
    ("otherbot:, noai", None), ("rating: none, noai", None),
    # dates
    ("unavailable_after: 2025-12-03 noindex", "noindex"),
    ("unavailable_after: 25 Jun 2030 15:00:00 PST noai", "noai"), ("unavailable_after: none", None),
    ("unavailable_after: 2025/12/03", "unavailable_after"),
    ("unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT, noai", "noai"),
    ("unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT", "unavailable_after"),
    ("unavailable_after: Thu, 03 Dec 2026 13:09:53 GMT", None),
    ("unavailable_after: Thu, 03 Dec 2026 13:09:53 GMT, otherbot: noai", None),
    ("unavailable_after: 25 Jun 2010, noindex", "noindex"),
    ("unavailable_after: 25 Jun 2010 15:00:00 PST", "unavailable_after"),
    ("unavailable_after: Wednesday, 03-Dec-25 13:09:53 GMT, noarchive", "unavailable_after"),
    ("unavailable_after: 2025-12-03", "unavailable_after"), ("unavailable_after: 2026-12-03", None),
    ("unavailable_after: 2026-06-01T13:30:00+02:00", "unavailable_after"),
    ("unavailable_after: 2026-06-01T12:00:01Z", None),
    ("unavailable_after: December 3, 2025 13:00:00 GMT, noarchive", "unavailable_after"),
    ("unavailable_after:25-Aug-2007 15:00:00 EST", "unavailable_after"),
    ("unavailable_after: never", None), ("unavailable_after: never, noai", "noai"),
    ("unavailable_after", None), ("unavailable_after:", None),
    ("otherbot: unavailable_after: 2025-12-03", None), ("longhand: unavailable_after: 2025-12-03",
        "unavailable_after"), ("unavailable_after: 2030-01-01, unavailable_after: 2025-01-01",
        "unavailable_after"),
    ("Unavailable_After: Wed, 03 Dec 2025 13:09:53 GMT", "unavailable_after"),
    ("unavailable_after: 99999-99-99 99:99", None), ("13:09:53 GMT, noarchive", None)])
def test_reservation(line, want):
    assert reservation(line, NOW) == want


def test_without_a_time_of_the_fetch_no_date_has_passed():
    assert reservation("unavailable_after: 2010-01-01") is None
    assert reservation("unavailable_after: 2010-01-01, noai") == "noai"


def test_any_line_is_read():
    rng, pieces = random.Random(0), ["unavailable_after", ":", "=", ",", ";", " ", "\t", "7",
        "2025-12-03", "Wed, 03 Dec 2025", "noai", "otherbot", "longhand", "max-snippet", "*",
        "none", "\"", "x", "\n", "/"]
    for _ in range(5000):
        line = "".join(rng.choice(pieces) for _ in range(rng.randrange(12)))
        assert reservation(line, NOW) in (None, "noai", "noindex", "none", "unavailable_after")
        assert forbids_links(line) in (True, False)


@pytest.mark.parametrize("line, want", [
    ("nofollow", True), ("none", True), ("index, NoFollow", True), ("otherbot: nofollow", False),
    ("longhand: nofollow", True), ("max-image-preview: none", False), ("nofollowing", False),
    ("noindex", False)])
def test_forbids_links(line, want):
    assert forbids_links(line) is want


def test_values_come_with_their_directives():
    line = ("max-snippet: -1, unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT, "
            "max-image-preview:large, noarchive")
    assert list(directives(line)) == [("max-snippet", "-1"),
        ("unavailable_after", "wed, 03 dec 2025 13:09:53 gmt"), ("max-image-preview", "large"),
        ("noarchive", "")]


@pytest.mark.parametrize("head, want", [
    (b"X-Robots-Tag: noarchive\r\nX-Robots-Tag: noai", "noai"),
    (b"X-ROBOTS-TAG: noai\r\nx-robots-tag: noarchive", "noai"),
    (b"X-Robots-Tag: otherbot: noindex\r\nX-Robots-Tag: noai", "noai"),
    (b"X-Robots-Tag: otherbot: noindex\r\nX-Robots-Tag: googlebot: noai", None),
    (b"X-Robots-Tag: otherbot: noindex,\r\n noai", None),
    (b"X-Robots-Tag: index\r\nServer: x", None), (b"", None)])
def test_each_line_of_a_header_begins_anew(head, want):
    """In the joined value of two lines, noai would be for the other robot."""
    found = [reservation(line) for line in robots.lines(parse_headers(head))]
    assert next(filter(None, found), None) == want


@pytest.mark.parametrize("text, iso", [
    ("Wed, 03 Dec 2025 13:09:53 GMT", "2025-12-03T13:09:53+00:00"),
    ("2025-12-03", "2025-12-03T00:00:00+00:00"), ("25 Jun 2010", "2010-06-25T00:00:00+00:00"),
    ("2025-12-03t13:09:53z", "2025-12-03T13:09:53+00:00"),
    ("2025-12-03 13:09:53 UTC", "2025-12-03T13:09:53+00:00"),
    ("2025-12-03T13:09:53 gmt", "2025-12-03T13:09:53+00:00"),
    ("2025/12/03 10:00:00", "2025-12-03T10:00:00+00:00"),
    ("2025.12.03", "2025-12-03T00:00:00+00:00"),
    ("03-Dec-2025", "2025-12-03T00:00:00+00:00"), ("December 3rd, 2025",
        "2025-12-03T00:00:00+00:00"), ("1st Dec 2025", "2025-12-01T00:00:00+00:00"),
        ("12/03/2025", None),
    ("3 Dec 2025 13:09", "2025-12-03T13:09:00+00:00"), ("2025-12-03 13:09:53",
        "2025-12-03T13:09:53+00:00"), ("soon", None), ("", None), ("9" * 10_000, None),
        ("\ud800", None), ("1 Jan 99999 00:00:00 GMT", None)])
def test_moment(text, iso):
    found = moment(text)
    assert (found and found.isoformat()) == iso


@pytest.mark.parametrize("tag, want", [
    ({"name": "robots"}, True), ({"name": "googlebot, robots"}, True),
    ({"name": "Robots,GoogleBot"}, True), ({"name": "robots otherbot"}, True),
    ({"property": "robots"}, True), ({"http-equiv": "X-Robots-Tag"}, True),
    ({"name": "LONGHAND"}, True), ({"name": "googlebot"}, False), ({"name": "my-robots"}, False),
    ({"name": "description"}, False), ({}, False)])
def test_whose_a_meta_is(tag, want):
    assert robots.of_meta({**tag, "content": "noai"}) == "noai" * want


def test_hostile_lines_take_no_time():
    for piece in ("max-", "max-a:", "max-a: b ", "max-a ", "unavailable_after:",
        "unavailable_after: 1 ", "a:", " ", "noai ", ",", "max-a:b\t"):
        start = time.process_time()
        reservation(piece * (100_000 // len(piece)), NOW)
        assert time.process_time() - start < 2, piece


# --------------------------------------------------------------------------------------- robots.txt

@pytest.mark.parametrize("text, want", [
    ("User-agent: *\nDisallow: /a", [(False, "/a")]),
    ("User-agent: other\nDisallow: /\n", []),
    ("User-agent: *\nDisallow: /\n\nUser-agent: LongHand/2.0 (x)\nAllow: /b # yes\n",
        [(True, "/b")]),
    ("User-agent: longhand-images\nDisallow: /", []),
    ("User-agent: *\nDisallow: /\nUser-agent: longhand\nDisallow:", []),
    ("User-agent: a\nUser-agent: longhand\nDisallow: /x\n\n"
     "User-agent: b\nDisallow: /y\nUser-agent: longhand\nDisallow: /z",
     [(False, "/x"), (False, "/z")]),
    ("User-agent: longhand\nSitemap: http://a/\n\nUser-agent: b\nDisallow: /x", [(False, "/x")]),
    ("user-AGENT : *\r\nDISALLOW :/x\r\n", [(False, "/x")]),
    ("User-agent: *\rDisallow: /x\r", [(False, "/x")]),
    ("Disallow: /before\nnonsense\nUser-agent: *\nDisallow: cgi", [(False, "/cgi")]),
    ("User-agent: *\nDisallow: /%7ea ä", [(False, "/~a%20%C3%A4")]),
    ("<html><p>User-agent: soft 404", []), ("", [])])
def test_robots_groups(text, want):
    assert parse_robots(text.splitlines()) == (want, None)


@pytest.mark.parametrize("value, want", [("2", 2.0), ("0.5", 0.5), ("x", None), ("-1", None),
    ("inf", None), ("", None), ("1e3", None), ("2\nCrawl-delay: 7", 7.0)])
def test_crawl_delay(value, want):
    assert parse_robots(f"User-agent: *\nCrawl-delay: {value}\nDisallow: /a".splitlines()) == (
        [(False, "/a")], want)
    assert parse_robots(
        f"User-agent: *\nCrawl-delay: {value}\nUser-agent: longhand\nDisallow:".splitlines()) == (
        [], None)


@pytest.mark.parametrize("pattern, path, want", [
    ("/fish", "/fish", 1), ("/fish", "/fishheads/x?y", 1), ("/fish", "/Fish", 0),
    ("/fish", "/cat/fish", 0), ("/fish/", "/fish", 0), ("/*.php", "/a/b.php?c", 1),
    ("/*.php", "/", 0), ("/*.php$", "/a.php", 1), ("/*.php$", "/a.php?b", 0),
    ("/*.php$", "/a.php.php", 1), ("/fish*.php", "/fishy.php", 1),
    ("/fish*.php", "/x/fish.php", 0), ("/a$", "/a", 1), ("/a$", "/ab", 0), ("*", "/", 1),
    ("/*", "/", 1), ("/$", "/", 1), ("/$", "/x", 0), ("/a*$", "/a", 1),
    ("/a*b*$", "/a-b-", 1), ("/a*bc$", "/abcbc", 1), ("/a*ab$", "/ab", 0), ("/a$b", "/a$b", 1),
    ("/a**b", "/axb", 1), ("*x", "/ax", 1)])
def test_patterns(pattern, path, want):
    assert matches(pattern, path) == want


def test_of_the_rules_that_match_the_longest_decides():
    def verdict(path, **rules):
        return allowed([(key[0] == "a", value) for key, value in rules.items()],
            f"http://a.org{path}")
    assert verdict("/page", a="/p", d="/") and not verdict("/page", a="/", d="/p")
    assert verdict("/page", d="/p", a="/p")
    assert not verdict("/page.htm", a="/page", d="/*.htm") and verdict("/", a="/$", d="/")
    assert not verdict("/page", a="/$", d="/")
    assert verdict("/x") and not verdict("/x?print=1", d="/*?")


def test_hostile_patterns_take_no_time():
    start = time.process_time()
    assert not matches("/" + "*a" * 500 + "b", "/" + "a" * 2000)
    assert time.process_time() - start < 0.1
