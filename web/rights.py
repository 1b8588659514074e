"""What a page says of its own use: directives for robots, reservations, licences.

A page can forbid its use in three places: the X-Robots-Tag header, a <meta name="robots">, and the
TDM Reservation Protocol, as a header or a <meta>. The protocol's file of a whole site
(/.well-known/tdmrep.json) is not read, because no page holds it.

    rights({}, b'<meta name="robots" content="noai">')     ->  ("noai", None)
    rights({}, b'<a rel="license" href="/by">CC</a>')      ->  (None, "/by")

Sources: Google's and Bing's documentation of robots directives; TDMRep (W3C community group, 2022).
"""

import re

from web import charset, markup, robots

LINK = re.compile(rb"<(?:a|link)[ \t\r\n\f/]")
RESERVING = ("robots", robots.AGENT, "tdm-reservation")     # parts of the names of such a <meta>
MAX_TRIES = 64                    # tags that are read to see whether they matter
BETWEEN_VALUES = re.compile(r"[,;\s\"']+")


def rights(headers, html, date=""):
    """(why the page may not be used or None, the address of its licence or None).

    headers: of HTTP, in lower case; html: the bytes of the page; date: when it was fetched
    (WARC-Date, else the header's Date), for pages that are available until some day.
    A <meta> counts wherever it stands in the page, and so does a link to a licence; but neither
    counts in a comment, script, title or template.
    """
    now = robots.moment(date) or robots.moment(headers.get("date", ""))
    for line in robots.lines(headers):
        if reason := robots.reservation(line, now):
            return reason, None
    if "1" in BETWEEN_VALUES.split(headers.get("tdm-reservation", "")):
        return "tdm_reservation", None

    japanese = b"\x1b" in html and b"\x1b$" in html     # one byte is found 20 times as fast as two
    if japanese or b"\0" in html[:1000]:                # ISO-2022-JP or UTF-16: tags are not ASCII
        label = charset.label_in(headers.get("content-type", ""))
        html = charset.decode(html, label).encode("utf-8", "replace")
    page, licence = html.decode("latin-1"), None
    last = last_that_matters(page, html.lower(), now)       # nearly always there is none
    for begin, name, inside in markup.tags(page):
        if begin > last:
            break
        if name == "meta" and (reason := meta_reservation(inside, now)):
            return reason, None
        if name in ("a", "link") and not licence:
            licence = licence_in(inside)
    return None, licence


def last_that_matters(page, lower, now):
    """Where the last tag seems to begin that forbids the use of a page or names its licence, or -1.

    page: the page in Latin-1; lower: its bytes in lower case. What stands around a tag does not
    count here, so it may be in a comment.
    """
    begin = at = len(lower)
    for _ in range(MAX_TRIES):              # a tag that does not end may take long to read
        begin = lower.rfind(b"<meta", 0, begin)
        if begin < 0 or reserves(page, begin, now):
            break
    for _ in range(MAX_TRIES):
        at = lower.rfind(b"license", begin + 1, at)
        if at < 0:
            return begin
        at = max(lower.rfind(b"<", 0, at), 0)
        if LINK.match(lower, at) and licence_in(next(markup.tags(page, at))[2]):
            break
    return at


def reserves(page, begin, now):
    """Whether the tag that begins there is a <meta> that forbids the use of its page."""
    _, name, inside = next(markup.tags(page, begin))
    return name == "meta" and meta_reservation(inside, now)


def licence_in(inside):
    """The address of the licence that an <a> or <link> names, or None."""
    if "license" not in inside.lower():
        return None
    tag = markup.attributes(inside.encode("latin-1").decode("utf-8", "replace"))
    is_licence = "license" in tag.get("rel", "").lower().split()
    return is_licence and tag.get("href", "").strip() or None


def meta_reservation(inside, now):
    """Why a <meta> forbids the use of its page, or None. inside: of its tag."""
    lower = inside.lower()
    if "&" not in lower and not any(map(lower.__contains__, RESERVING)):
        return None                                         # parsing it would take ten times as long
    tag = markup.attributes(inside)
    if "tdm-reservation" in robots.names_of(tag):
        if tag.get("content", "").strip(" \t\r\n\"'") == "1":
            return "tdm_reservation"
    return robots.reservation(robots.of_meta(tag), now)
