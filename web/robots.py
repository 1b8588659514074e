"""What a page says of its use: the directives in X-Robots-Tag and <meta name="robots">.

A value is a list such as "noai, max-snippet: -1, unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT".
In a header, "otherbot: noindex" begins what is for one robot only. It ends at the next robot's name
or with the line, so repeated headers are read line by line. "ai-train: no" names no robot: no
directive follows. Dates hold commas and colons; the value of a directive is no directive:
"max-image-preview: none" forbids nothing.

robots.txt, which says what may be fetched, is read by web/crawl.py.

Sources: Google's "Robots meta tag, data-nosnippet, and X-Robots-Tag specifications", for names,
lists and dates; noai is DeviantArt's.
"""
import datetime
import email.utils
import re

AGENT = "longhand"                                          # what owners of pages call us
EVERYBODY = ("*", "robots", "all", AGENT)                   # whose directives are for us
VALUED = re.compile(r"[ \t]*(max-[a-z-]+|unavailable_after)[ \t]*[:=](.*)", re.S)
BEFORE_VALUED = re.compile(r"(?<![ \t])[ \t]+(?=(?:max-[a-z-]+|unavailable_after)[ \t]*[:=])")
BEHIND_VALUE = re.compile(r"(\bmax-[a-z-]{1,40}[ \t]*[:=][ \t]*[^ \t,;]{1,40})[ \t]+(?=[a-z])")
SINGLE = set("index follow none noindex nofollow noarchive nocache nosnippet noodp noydir noai "
             "noimageai noimageindex notranslate indexifembedded".split())
RESERVED = ("noai", "noindex", "none")                      # none is noindex and nofollow
DATE = re.compile(r"unavailable_after[ \t]*[:=]([^,;]*(?:,[ \t]*[0-9][^,;]*)?)")   # Wed, 3 Dec 2025
BETWEEN_WORDS = re.compile(r"[\s:=|/]+")
MARKS = " \t\r\n\f\"'.[]"
YEAR_FIRST = re.compile(r"\A([0-9]{4})[/.]([0-9]{1,2})[/.]")
ORDINAL = re.compile(r"(?<=[0-9])(?:st|nd|rd|th)\b", re.I)
UTC = re.compile(r" ?(?:z|utc|gmt)\Z", re.I)


def moment(text):
    """A date as HTTP, ISO 8601 or people write it -> datetime; None if it is none. A day is its
    first second; without a zone, it is UTC's."""
    text = YEAR_FIRST.sub(r"\1-\2-", ORDINAL.sub("", text.strip(MARKS)[:100]))
    for parse, form in ((datetime.datetime.fromisoformat, UTC.sub("+00:00", text).upper()),
                        (email.utils.parsedate_to_datetime, text),
                        (email.utils.parsedate_to_datetime, f"{text} 00:00:00 +0000")):
        try:
            found = parse(form)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return found if found.tzinfo else found.replace(tzinfo=datetime.timezone.utc)
    return None


def begins_directive(text):
    """Whether a text begins with a directive or is empty: before it, a robot's name can stand."""
    word = (text.split() or ["all"])[0].strip(MARKS)
    return bool(word in SINGLE or word == "all" or re.match("no.", word) or VALUED.match(text))


def directives(line):
    """Yield (directive, its value or "") of those in a header's line or a <meta> that are for us.

    >>> list(directives("noarchive, otherbot: noindex, longhand: noai, max-snippet: -1"))
    [('noarchive', ''), ('noai', ''), ('max-snippet', '-1')]
    """
    dates, ours = [], True

    def put_aside(found):                                   # with its commas and colons
        dates.append(found[1])
        return f"unavailable_after:{len(dates) - 1}"

    line = DATE.sub(put_aside, line.lower())
    line = BEHIND_VALUE.sub(r"\1,", BEFORE_VALUED.sub(",", line))
    for part in re.split("[,;]", line):
        name, colon, rest = part.partition(":")
        if colon and not VALUED.match(part) and name.strip(MARKS) not in SINGLE:
            if begins_directive(rest):
                ours = name.strip(MARKS).partition("/")[0] in EVERYBODY
            part = rest
        if not ours:
            continue
        words = filter(None, BETWEEN_WORDS.split(part))     # "noindex nofollow" is seen, too
        if valued := VALUED.match(part):
            name, value = valued.groups()
            value = (dates[int(value)] if name == "unavailable_after" else value).strip(MARKS)
            yield name, value
            words = filter(SINGLE.__contains__, value.split()[1:])      # behind a date
        for word in words:
            yield word.strip(MARKS), ""


def lines(headers):
    """The X-Robots-Tag lines of a response's headers, as web/warc.py or a plain dict has them."""
    return getattr(headers, "lines", {}).get("x-robots-tag") or [headers.get("x-robots-tag", "")]


def reservation(line, now=None):
    """The directive of a line that forbids the use of a page, or None.

    One of RESERVED, or a date (unavailable_after) that has passed. now: when the page was fetched.
    That, and not today, so that a crawl gives the same documents whenever it is read.
    """
    found = list(directives(line))
    for name, _ in found:
        if name in RESERVED:
            return name
    for name, value in found:
        if name == "unavailable_after" and now and (until := moment(value)) and until <= now:
            return name
    return None


def names_of(tag):
    """The names of a <meta>: "googlebot, robots" are two."""
    name = tag.get("name") or tag.get("property") or tag.get("http-equiv", "")
    return name.lower().replace(",", " ").split()


def of_meta(tag):
    """The directives in the attributes of a <meta>; "" if it has none for us."""
    for_us = any(name in ("robots", "x-robots-tag", AGENT) for name in names_of(tag))
    return tag.get("content", "") if for_us else ""


def forbids_links(line):
    """Whether a line asks not to follow the links of its page."""
    return any(name in ("nofollow", "none") for name, _ in directives(line))
