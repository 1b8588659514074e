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
    lower, licence = html.lower(), None
    last = max(lower.rfind(b"<meta"), last_licence(lower))      # behind it no tag matters
    for begin, name, inside in markup.tags(html.decode("latin-1")):
        if begin > last:
            break
        if name == "meta" and (reason := meta_reservation(markup.attributes(inside), now)):
            return reason, None
        if name in ("a", "link") and not licence and "license" in inside.lower():
            tag = markup.attributes(inside.encode("latin-1").decode("utf-8", "replace"))
            if "license" in tag.get("rel", "").lower().split():
                licence = tag.get("href", "").strip() or None
    return None, licence


def last_licence(lower):
    """Where the last tag seems to begin that may link the page's licence, or -1."""
    at = len(lower)
    while (at := lower.rfind(b"license", 0, at)) >= 0:
        begin = lower.rfind(b"<", 0, at)
        if LINK.match(lower, max(begin, 0)):
            return begin
        at = max(begin, 0)
    return -1


def meta_reservation(tag, now):
    """Why the <meta> with these attributes forbids the use of its page, or None."""
    if "tdm-reservation" in robots.names_of(tag):
        if tag.get("content", "").strip(" \t\r\n\"'") == "1":
            return "tdm_reservation"
    return robots.reservation(robots.of_meta(tag), now)
