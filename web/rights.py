"""What a page says of its own use: directives for robots, reservations, licences.

A page can forbid its use in three places: the X-Robots-Tag header, a <meta name="robots">, and the
TDM Reservation Protocol, as a header or a <meta>. The protocol's file of a whole site
(/.well-known/tdmrep.json) is not read, because no page holds it.

    rights({}, b'<meta name="robots" content="noai">')     ->  ("noai", None)
    rights({}, b'<a rel="license" href="/by">CC</a>')      ->  (None, "/by")

Sources: Google's and Bing's documentation of robots directives; TDMRep (W3C community group, 2022).
"""

import re

from run import command
from web import charset
from web import markup
from web import robots

MAX_TAG = 4096                                  # bytes in which a tag names a licence
LINK = re.compile(r"<(?:a|link)[ \t\r\n\f/]", re.I)
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

    if b"\0" in html[:1000] or b"\x1b$" in html:        # UTF-16 or ISO-2022-JP: tags are not ASCII
        label = charset.label_in(headers.get("content-type", ""))
        html = charset.decode(html, label).encode("utf-8", "replace")
    lower, source = html.lower(), html.decode("latin-1")        # of the same length
    licences = licence_links(source, lower)
    last = max(lower.rfind(b"<meta"), *licences, -1)    # behind it no tag matters
    licence = None
    for begin, name, inside in markup.tags(source):
        if begin > last:
            break
        if name == "meta" and (reason := meta_reservation(markup.attributes(inside), now)):
            return reason, None
        licence = licence or licences.get(begin)
    return None, licence


def meta_reservation(tag, now):
    """Why the <meta> with these attributes forbids the use of its page, or None."""
    if "tdm-reservation" in robots.names_of(tag):
        if tag.get("content", "").strip(" \t\r\n\"'") == "1":
            return "tdm_reservation"
    return robots.reservation(robots.of_meta(tag), now)


def licence_links(source, lower):
    """{where a tag seems to begin that links the page's licence: the address}; mostly empty.

    source: the page as Latin-1 text; lower: its bytes in lower case.
    """
    found, at = {}, lower.find(b"license")
    while at >= 0:
        begin = lower.rfind(b"<", max(0, at - MAX_TAG), at)
        end = lower.find(b">", at, at + MAX_TAG)
        link = LINK.match(source, begin) if begin >= 0 and end >= 0 else None
        if link:
            inside = source[link.end():end].encode("latin-1").decode("utf-8", "replace")
            tag = markup.attributes(inside)
            address = tag.get("href", "").strip()
            if address and "license" in tag.get("rel", "").lower().split():
                found[begin] = address
        at = lower.find(b"license", max(at + 1, end))
    return found


if __name__ == "__main__":
    command.only_imported(__doc__)
