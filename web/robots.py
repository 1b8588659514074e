"""What owners ask of robots: robots.txt says what may be fetched, and a page how it may be used.

robots.txt is a file of a host. Its rules stand in groups, each for the robots that it names; the
longest rule that matches an address decides, and of equally long ones the one that allows. A page
reserves its use in X-Robots-Tag headers and <meta name="robots">. A value is a list such as "noai,
max-snippet: -1, unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT". In a header, a name such as
"otherbot:" begins the directives for one robot only; they end at the next robot's name or with the
line, so repeated headers are read line by line. "ai-train: no" names no robot, because no directive
follows. The value of a directive is no directive: "max-image-preview: none" forbids nothing.

Sources: RFC 9309 (robots.txt); Google's "Robots meta tag, data-nosnippet, and X-Robots-Tag
specifications", for names, lists and dates; noai is DeviantArt's.
"""
import datetime
import email.utils
import re

from web.addresses import escape

AGENT = "longhand"                                          # what owners of pages call us


# --------------------------------------------------------------------------------------- robots.txt

DELAY = re.compile(r"\d{1,9}(\.\d{1,9})?")


def parse_robots(lines):
    """([(whether it allows, pattern)], seconds between visits or None): what robots.txt asks of us.

    Groups for the same name are one. If none names us, the group for everyone counts.
    """
    groups, names, naming = {}, set(), False
    for line in lines:
        key, _, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if key == "user-agent":
            names = names if naming else set()
            naming = True
            name = re.match("[a-z_-]*", value.lower())[0] or value      # Longhand/1.0 is longhand
            if name in (AGENT, "*"):
                names.add(name)
                groups.setdefault(name, [])
        elif key in ("allow", "disallow", "crawl-delay"):   # other lines, as Sitemap, end no group
            naming = False
            for name in names:
                groups[name].append((key, value))
    rules, delays = [], []
    for key, value in groups.get(AGENT, groups.get("*", [])):
        if key == "crawl-delay":
            if DELAY.fullmatch(value):
                delays.append(float(value))
        elif value:
            pattern = value if value[0] in "/*" else f"/{value}"
            rules.append((key == "allow", escape(pattern)))
    return rules, max(delays, default=None)


def matches(pattern, path):
    """Whether a path begins as a pattern says, in which * is any text and a final $ the end."""
    if pattern.endswith("$"):
        pattern = pattern[:-1] + "\n"           # no path holds a \n, so it is found at the end
    first, *others = pattern.split("*")
    path, at = path + "\n", len(first)
    if not path.startswith(first):
        return False
    for piece in others:
        at = path.find(piece, at) + len(piece)
        if at < len(piece):                                 # not found
            return False
    return True


def allowed(rules, address):
    """Whether an address may be fetched. Without a rule that matches, it may."""
    path = "/" + address.split("/", 3)[3]
    matching = [(len(pattern), allow) for allow, pattern in rules if matches(pattern, path)]
    _, allow = max(matching, default=(0, True))
    return allow


# ----------------------------------------------------------------------------- directives of a page

EVERYBODY = ("*", "robots", "all", AGENT)                   # names for us
PART = re.compile(r"""            # of a line: a directive with a value, or what is between these
      \bunavailable_after[ \t]{0,9}[:=] (?P<date>[^,;]*(?:,[ \t]*[0-9][^,;]*)?)    # Wed, 3 Dec 2025
    | \b(?P<name>max-[a-z-]{1,40})[ \t]{0,9}[:=][ \t]{0,9} (?P<value>[^ \t,;]*)
    | (?P<text>(?:(?!\b(?:unavailable_after|max-[a-z-]{1,40})[ \t]{0,9}[:=])[^,;])+)
""", re.X)
SINGLE = set("index follow none noindex nofollow noarchive nocache nosnippet noodp noydir noai "
             "noimageai noimageindex notranslate indexifembedded".split())
RESERVED = ("noai", "noindex", "none")                      # none is noindex and nofollow
BETWEEN_WORDS = re.compile(r"[\s:=|/]+")
MARKS = " \t\r\n\f\"'.[]"
YEAR_FIRST = re.compile(r"\A([0-9]{4})[/.]([0-9]{1,2})[/.]")
ORDINAL = re.compile(r"(?<=[0-9])(?:st|nd|rd|th)\b", re.I)
UTC = re.compile(r" ?(?:z|utc|gmt)\Z", re.I)


def moment(text):
    """A date as HTTP, ISO 8601 or people write it -> datetime; None if it is no date.

    A day means its first second. A time without a zone is UTC's.
    """
    text = YEAR_FIRST.sub(r"\1-\2-", ORDINAL.sub("", text.strip(MARKS)[:100]))
    forms = (
        (datetime.datetime.fromisoformat, UTC.sub("+00:00", text).upper()),
        (email.utils.parsedate_to_datetime, text),
        (email.utils.parsedate_to_datetime, f"{text} 00:00:00 +0000"),
    )
    for parse, form in forms:
        try:
            found = parse(form)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return found if found.tzinfo else found.replace(tzinfo=datetime.timezone.utc)
    return None


def directives(line):
    """Yield (directive, its value or "") of the directives for us in a header's line or a <meta>.

    >>> list(directives("noarchive, otherbot: noindex, longhand: noai, max-snippet: -1"))
    [('noarchive', ''), ('noai', ''), ('max-snippet', '-1')]
    """
    ours = True
    for part in PART.finditer(line.lower()):
        words = part["text"] or ""
        before, colon, behind = words.partition(":")
        name = before.strip(MARKS)
        if colon and name not in SINGLE:
            words = behind
            first = behind.split()[0].strip(MARKS) if behind.strip() else "all"
            if first in SINGLE or first == "all" or re.match("no.", first):     # a directive
                ours = name.partition("/")[0] in EVERYBODY
        if not ours:
            continue
        words = filter(None, BETWEEN_WORDS.split(words))    # "noindex nofollow" is seen, too
        if part["name"]:
            yield part["name"], part["value"].strip(MARKS)
        elif part["text"] is None:
            date = part["date"].strip(MARKS)
            yield "unavailable_after", date
            words = filter(SINGLE.__contains__, date.split()[1:])
        for word in words:
            yield word.strip(MARKS), ""


def lines(headers):
    """The X-Robots-Tag lines of a response's headers, as web/warc.py or a plain dict has them."""
    return getattr(headers, "lines", {}).get("x-robots-tag") or [headers.get("x-robots-tag", "")]


def reservation(line, now=None):
    """The directive of a line that forbids the use of a page, or None.

    It is one of RESERVED, or a date (unavailable_after) that had passed when the page was fetched,
    which is now: a crawl must give the same documents whenever it is read.
    """
    found = list(directives(line))
    reserved = [name for name, _ in found if name in RESERVED]
    for name, value in found:
        if name == "unavailable_after" and now and (until := moment(value)) and until <= now:
            reserved.append(name)
    return reserved[0] if reserved else None


def names_of(tag):
    """The names in the attributes of a <meta>: "googlebot, robots" are two."""
    name = tag.get("name") or tag.get("property") or tag.get("http-equiv", "")
    return name.lower().replace(",", " ").split()


def of_meta(tag):
    """The directives in the attributes of a <meta>; "" if it has none for us."""
    for_us = any(name in ("robots", "x-robots-tag", AGENT) for name in names_of(tag))
    return tag.get("content", "") if for_us else ""


def forbids_links(line):
    """Whether a line asks not to follow the links of its page."""
    return any(name in ("nofollow", "none") for name, _ in directives(line))
