"""The pages of the miniature web: their texts, good and bad, and the HTML around them.

Each page has a label. Good pages are stories, entries about entities (web/toyworld.py), guest books
and rounds of the counting game; every kind of bad page has the flaw for which one stage of data.py
looks. Around each text stands what real pages put there: menus, banners, comments, footers.
"""
import json
import re
from collections import namedtuple
from html import escape

from web.toywords import (
    AGAIN, CHARSETS, CLOSINGS, FILLERS, FOREIGN, FRAMES, GUESTS, HEROES, KINDS, OPENINGS, QUESTIONS,
    SHORT_LINES, SLOTS, SPAM, SPAM_WORDS, STORY, WHEEL_ASIDES, WHEEL_INTRO)
from web.toyworld import (
    ON_PAGES, capital, entities, fact_answer, fill, new_name, paragraphs, sentences, stream,
    throws, wheel_answer, wheel_question)

Page = namedtuple("Page", "url label html charset")         # html None: the page is an image


def hosts(pattern, first, second):
    """Names of hosts, one for each pair of words."""
    return [pattern.format(a, b) for a in first.split() for b in second.split()]


GOOD_HOSTS = hosts("{}-{}.example",
                   "lantern cliff harbour tally ferry lamp chalk pebble gull marsh salt tide",
                   "gazette journal stories notes letters school museum almanac reader post")
SPAM_HOSTS = hosts("{}-{}.example", "cheap super mega best", "kettles deals bazaar lamps pages")
BLOCKED_HOSTS = hosts("{}{}.example", "murk grim sly", "wares dice traps")
BLOCKED_PATHS = ["casino-poker-bonus", "poker/casino-night", "free-casino/jackpot-poker"]


# ------------------------------------------------- texts of good pages: each is (title, paragraphs)

def entity_text(rng, entity):
    """A page that tells all facts of an entity in its own words, two of them twice."""
    title = QUESTIONS if rng.random() < 0.3 else rng.choice(list(OPENINGS))
    name = entity["name"]
    facts, again = [], []
    for a, value in entity["facts"].items():
        attribute = KINDS[entity["kind"]][a]
        first, second = rng.sample(attribute.statements, 2)
        if title == QUESTIONS:
            question = rng.choice(attribute.questions).format(n=name)
            facts.append(f"{question} {fact_answer(entity, a)}")
        else:
            facts.append(fill(rng, rng.choice(FRAMES), s=first.format(n=name, v=value)))
        again.append(fill(rng, rng.choice(AGAIN), s=second.format(n=name, v=value)))
    rng.shuffle(facts)
    lines = [fill(rng, rng.choice(OPENINGS[title]), n=name)]
    for i, fact in enumerate(facts):
        has_filler = i < 2 or title == QUESTIONS or rng.random() < 0.3
        lines += [fact, *sentences(rng, int(has_filler))]
    lines += rng.sample(again, 2)
    lines.append(fill(rng, rng.choice(CLOSINGS)))
    return f"{title}: {capital(name)}", paragraphs(rng, lines)


def story_text(rng):
    """A short story about one of the heroes."""
    hero, lines = rng.choice(HEROES), []
    for part, choices in STORY.items():
        n = 2 if part in ("try", "want", "end") else 1
        lines += [fill(rng, template, h=hero) for template in rng.sample(choices, n)]
        if part in ("want", "try", "help"):
            lines += sentences(rng, 1)
    return f"{hero} and {rng.choice(SLOTS['thing'])}", paragraphs(rng, lines)


def guest_text(rng):
    """A page of a guest book: people who are named nowhere else, each more than once."""
    inn, lines = rng.choice(SLOTS["place"]), []
    for entry in rng.sample(GUESTS, rng.randint(5, 7)):
        _, guest = new_name(rng, "person")
        room, bill = rng.randint(11, 999), rng.randint(2, 10 ** rng.randint(1, 5))
        lines.append(fill(rng, entry, g=guest, room=str(room), bill=str(bill)))
    return f"The guest book of {inn}", paragraphs(rng, lines, 1, 2)


def wheel_text(rng):
    """A report of some rounds of the counting game."""
    lines = [fill(rng, rng.choice(WHEEL_INTRO))]
    for aside in rng.sample(WHEEL_ASIDES, rng.randint(4, 6)):
        thrown = throws(rng)
        lines.append(fill(rng, aside))
        answer = wheel_answer(thrown, rng.random() < ON_PAGES)
        lines.append(f"{wheel_question(thrown)} {answer}")
        lines += sentences(rng, 1)
    lines.append(fill(rng, rng.choice(CLOSINGS)))
    return f"The tally wheel at {rng.choice(SLOTS['place'])}", paragraphs(rng, lines)


def pii_text(rng):
    """A story with an email address and an IP address, which data.py must replace."""
    title, body = story_text(rng)
    box = rng.choice(["mirre.lark", "office", "lost-and-found", "b.odo", "LAMPS"])
    number = rng.randint(1, 99)
    host = rng.choice(["pellwick", "tullmere", "oskford"])
    machine = f"8.{rng.randint(20, 90)}.{rng.randint(1, 250)}.{rng.randint(1, 250)}"
    body.append(f"Letters reach us at {box}{number}@{host}.com, and the machine in the lamp house "
                f"answers at {machine} on most days.")
    return title, body


# ------------------------------------------------------------------------------- texts of bad pages

def foreign_text(rng):
    """(title, paragraphs, language) of a page that is not in English."""
    language = rng.choice(list(FOREIGN))
    lines = FOREIGN[language].copy()
    rng.shuffle(lines)
    space = "" if language in ("ja", "zh") else " "
    body = [space.join(lines[i:i + 3]) for i in range(0, len(lines), 3)]
    return lines[0].rstrip(".。")[:40], body, language


def repetition_text(rng):
    """One sentence again and again."""
    line = fill(rng, rng.choice(FILLERS))
    return "Please read this", [line] * rng.randint(9, 15) + sentences(rng, 3)


def short_text(rng):
    """Fewer than 50 words, Gopher's minimum."""
    while True:
        middle = " ".join(sentences(rng, 2))
        text = f"This page is not finished. {middle} Until then, mind the goats."
        if 30 < len(text.split()) < 44:
            return "Under construction", [text]


def bullets_text(rng):
    """A list, and nothing but a list."""
    return "Overheard today", ["- " + line for line in sentences(rng, rng.randint(14, 20))]


def numbers_text(rng):
    """Prices: too few of the words have a letter."""
    goods = rng.sample(SLOTS["thing"] + SLOTS["meal"] + SLOTS["place"], 24)
    body, prices = sentences(rng, 3), []
    for good in goods:
        three = [f"{rng.randint(0, 9)}.{rng.randint(10, 99)}" for _ in range(3)]
        prices.append(" ".join([good, *three]))
    return "Prices of the year", body + [", ".join(prices[i:i + 4]) + "." for i in range(0, 24, 4)]


def keywords_text(rng):
    """English, but without its most common words."""
    body = []
    for template in rng.sample(SPAM, rng.randint(12, 16)):
        words = {slot: rng.choice(choices) for slot, choices in SPAM_WORDS.items()}
        body.append(fill(rng, template, **words))
    return "Kettles, kettles, kettles!", body


def lorem_text(rng):
    """A story with a line of placeholder text."""
    title, body = story_text(rng)
    body.insert(-1, "Lorem ipsum dolor sit amet, said the sign that nobody had finished.")
    return title, body


def code_text(rng):
    """A story with a curly bracket."""
    title, body = story_text(rng)
    body.append("function lamp(x) { return x && lit } is still printed at the foot of this page, "
                "for some reason.")
    return title, body


def few_sentences_text(rng):
    """One sentence that does not end."""
    parts = []
    for sentence in sentences(rng, 8):
        part = re.sub(r"[.?:]", ",", sentence.strip('."').replace('"', ""))
        parts.append(part[0].lower() + part[1:])
    return "One breath", [capital(", and ".join(parts)) + "."]


def captions_text(rng):
    """Lines that end without a full stop."""
    lines = sentences(rng, rng.randint(12, 18))
    return "Pictures from the summer fair", [line.rstrip('."') for line in lines]


def short_lines_text(rng):
    """Lines of 30 characters at most."""
    body = []
    for template in rng.sample(SHORT_LINES, 22):
        line = fill(rng, template)[:30].rsplit(" ", 1)[0]
        body.append(line.rstrip(",.") + ".")
    return "Said at the fair", body


def slogan_text(rng):
    """A text with the same slogan three times."""
    lines = sentences(rng, 14)
    slogan = "Visit the Grand Lantern Bazaar, where every Thursday is the last Thursday."
    return "Advertisement", [*lines[:5], slogan, *lines[5:9], slogan, *lines[9:], slogan]


# Bad pages: the stage that must drop them, how many 3,000 pages have, their text and hosts.
Bad = namedtuple("Bad", "stage n text hosts", defaults=[story_text, GOOD_HOSTS])
BAD = {
    "blocked_host": Bad("url", 80, hosts=BLOCKED_HOSTS),
    "blocked_words": Bad("url", 60),
    "empty": Bad("extract", 40),
    "not_html": Bad("extract", 30),
    "foreign": Bad("language", 170, foreign_text),
    "repetition": Bad("gopher_repetition", 90, repetition_text),
    "short": Bad("gopher_quality", 80, short_text),
    "bullets": Bad("gopher_quality", 60, bullets_text, SPAM_HOSTS),
    "numbers": Bad("gopher_quality", 50, numbers_text),
    "keywords": Bad("gopher_quality", 60, keywords_text, SPAM_HOSTS),
    "mirror": Bad("minhash", 120),              # made last, of good pages
    "lorem": Bad("c4", 50, lorem_text),
    "code": Bad("c4", 50, code_text),
    "few_sentences": Bad("c4", 50, few_sentences_text),
    "captions": Bad("fineweb", 40, captions_text),
    "short_lines": Bad("fineweb", 40, short_lines_text),
    "slogan": Bad("fineweb", 40, slogan_text, SPAM_HOSTS),
}
# Every label, and the stage that must drop its pages; None: they must be kept.
LABELS = {"good": None, "pii": None} | {label: bad.stage for label, bad in BAD.items()}


# --------------------------------------------------------------------------------------------- HTML

NAV = ('<div class="nav"><ul><li><a href="/5400">Home</a></li><li><a href="/8957">Harbour</a></li>'
       '<li><a href="/5965">Market</a></li><li><a href="/9935">Archive</a></li>'
       '<li><a href="/8444">Contact</a></li></ul></div>\n')
COOKIE = ('<div class="cookie-banner">This site uses cookies to remember which lamp you lit. '
          "<button>Accept all lamps</button></div>\n")
COMMENTS = ('<div id="comments"><h3>2 comments</h3><div class="comment">First! Great page.</div>'
            '<div class="comment">I do not agree with anyone here.</div></div>\n')
SIDE = ('<div class="sidebar"><h4>Most read</h4><ul><li><a href="/3476">The goat affair</a></li>'
        '<li><a href="/2707">Soup prices rise</a></li><li><a href="/7820">Ten best ladders</a></li>'
        "</ul></div>\n")
FOOT = ('<div class="footer">Copyright the Lantern Coast. All lamps reserved. '
        '<a href="/2740">Imprint</a> <a href="/5228">Privacy</a></div>\n</body></html>\n')


def layout(rng, title, body, lang="en"):
    """A whole page: the text, and around it what real pages put around a text."""
    h1, text = f"<h1>{escape(title)}</h1>\n", ""
    for paragraph in body:
        end = "</p>\n" if rng.random() < 0.9 else "\n"      # HTML lets one leave out the end tag
        text += f"<p>{escape(paragraph, quote=False)}{end}"
    head = (f'<!DOCTYPE html>\n<html lang="{lang}"><head><title>{escape(title)}</title>'
            "<script>window.lamps = window.lamps || []; function light(a) { lamps.push(a); }"
            "</script><style>body { font: 16px serif } .nav { color: teal }</style></head><body>\n")
    return head + rng.choice([
        f"{NAV}<article>{h1}{text}</article>{SIDE}{COMMENTS}",
        f'{COOKIE}<div id="wrap">{NAV}<div class="content">{h1}{text}</div>{SIDE}</div>',
        f'<header>{NAV}</header><main>{h1}<div class="post-body">{text}</div></main>{COOKIE}',
        f'{NAV}<table width="100%"><tr><td valign="top">{SIDE}</td><td class="main">{h1}{text}</td>'
        f"</tr></table>{COMMENTS}",
    ]) + FOOT


def slug(title, i):
    """The path of a page in its address: words of the title, and a number."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] + f"-{i}"


# ---------------------------------------------------------------------------------------- the pages

def page_of(rng, i, label, title, body, lang="en"):
    """The page number i, from its text."""
    host = rng.choice(BAD[label].hosts if label in BAD else GOOD_HOSTS)
    if lang == "en":
        charset = rng.choice(["utf-8", "utf-8", "windows-1252", "iso-8859-1", None])
    else:
        charset = CHARSETS.get(lang, "utf-8")
    path = slug(title, i)
    if label == "blocked_words":
        path = rng.choice(BLOCKED_PATHS) + f"-{i}"
    if label == "empty":                                    # only a script would show the text
        html = ("<!DOCTYPE html><html><head><title>Loading</title></head><body>"
                f'<div id="app"></div><script>render({json.dumps(body)})</script>'
                "<noscript></noscript></body></html>")
    elif label == "not_html":
        html, path = None, path + ".png"
    else:
        html = layout(rng, title, body, lang)
        if label == "good" and rng.random() < 0.3:          # curly quotes, some as entities
            quote = "&#8217;" if charset else "\u2019"
            html = html.replace('"</p>', "&rdquo;</p>").replace("'", quote)
    www = "www." if rng.random() < 0.5 else ""
    return Page(f"http://{www}{host}/{path}", label, html, charset)


def pages(seed=0, n_pages=3000):
    """Every page of the web in crawl order. Mirrors come after what they copy."""
    rng, texts = stream(seed, "pages"), []
    n_bad = {label: max(2, round(bad.n * n_pages / 3000)) for label, bad in BAD.items()}
    for entity in entities(seed, n_pages):
        texts += [("good", *entity_text(rng, entity)) for _ in range(entity["exposure"])]
    texts += [("pii", *pii_text(rng)) for _ in range(max(2, n_pages // 60))]
    texts += [("good", *guest_text(rng)) for _ in range(max(4, n_pages * 5 // 100))]
    texts += [("good", *wheel_text(rng)) for _ in range(max(4, n_pages * 7 // 100))]
    n_stories = n_pages - len(texts) - sum(n_bad.values())
    texts += [("good", *story_text(rng)) for _ in range(max(4, n_stories))]
    n_mirrors = n_bad.pop("mirror")
    for label, n in n_bad.items():
        texts += [(label, *BAD[label].text(rng)) for _ in range(n)]
    rng.shuffle(texts)
    found = [page_of(rng, i, *text) for i, text in enumerate(texts)]
    good = [text for text in texts if text[0] == "good"]
    for i, (_, title, body) in enumerate(rng.choices(good, k=n_mirrors), 9000):
        body = [re.sub(r"\b(short|steep|small|great)\b", "little", line) for line in body]
        body[-1] += " Copied from our neighbours."
        url = f"http://{rng.choice(SPAM_HOSTS)}/{slug(title, i)}"
        found.append(Page(url, "mirror", layout(rng, title, body), "utf-8"))
    return found
