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
MAX_METAS = 64                    # of a page, that are read alone
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
    page, lower, licence = html.decode("latin-1"), html.lower(), None
    # Behind the last place no tag matters.
    last = max(last_reservation(page, lower, now), last_licence(lower))
    for begin, name, inside in markup.tags(page):
        if begin > last:
            break
        if name == "meta" and (reason := meta_reservation(inside, now)):
            return reason, None
        if name in ("a", "link") and not licence and "license" in inside.lower():
            tag = markup.attributes(inside.encode("latin-1").decode("utf-8", "replace"))
            if "license" in tag.get("rel", "").lower().split():
                licence = tag.get("href", "").strip() or None
    return None, licence


def last_reservation(page, lower, now):
    """Where the last tag seems to begin that forbids the use of a page, or -1.

    page: the page in Latin-1; lower: its bytes in lower case. Each <meta> is read alone, as if
    nothing stood around it. Nearly none forbids anything, so few pages are read as a whole, which
    saves a third of the time.
    """
    begin = len(lower)
    for _ in range(MAX_METAS):                  # a tag that does not end may take long to read
        begin = lower.rfind(b"<meta", 0, begin)
        if begin < 0:
            return -1
        _, name, inside = next(markup.tags(page, begin))
        if name == "meta" and meta_reservation(inside, now):
            break
    return begin


def last_licence(lower):
    """Where the last tag seems to begin that may link the page's licence, or -1."""
    at = len(lower)
    while (at := lower.rfind(b"license", 0, at)) >= 0:
        begin = lower.rfind(b"<", 0, at)
        if LINK.match(lower, max(begin, 0)):
            return begin
        at = max(begin, 0)
    return -1


def meta_reservation(inside, now):
    """Why a <meta> forbids the use of its page, or None. inside: of its tag."""
    lower = inside.lower()
    if "&" not in lower and not any(map(lower.__contains__, RESERVING)):
        return None                                         # to parse it would take much longer
    tag = markup.attributes(inside)
    if "tdm-reservation" in robots.names_of(tag):
        if tag.get("content", "").strip(" \t\r\n\"'") == "1":
            return "tdm_reservation"
    return robots.reservation(robots.of_meta(tag), now)
