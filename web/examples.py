"""A made-up page for each stage of data.py, which that stage must drop, and one that all must keep.

    python data.py --check

takes these pages through the stages, runs the examples in data.py's docstrings, and compares its
definitions with their fast twins on the page that is kept. It exits with 1 if anything is wrong. A
rule that was added to data.py may drop pages, for a reason that is not in REASONS. That is shown
and is not wrong: the page goes on as if the rule were not there.
"""
import doctest
from collections import namedtuple

from model import cores  # noqa: F401   before NumPy
import numpy as np

from web import dedup, options, pii, pipeline, quality
from web.toywords import FOREIGN
from web.warc import Record

# stage: the one that must drop the page, or "kept".
Example = namedtuple("Example", "stage url body type", defaults=["text/html"])


def html(*paragraphs, head=""):
    """The bytes of a page with these paragraphs."""
    body = "".join(f"<p>{paragraph}</p>\n" for paragraph in paragraphs)
    return f"<html><head>{head}<title>A page</title></head><body>\n{body}</body></html>".encode()


LIGHTHOUSE = (
    "The lighthouse keeper climbed the stairs every evening with a can of oil in one hand. "
    "There were one hundred and twelve steps, and she had counted them many times.",
    "From the gallery she could see the fishing boats that came home around the cape. "
    "When the fog was thick, she rang the bell until the last of them had answered.",
    "One winter the storm broke a window and put out the lamp. She carried a lantern to the "
    "rail and stood there until morning. Nobody was lost that night.",
    "If you know more about her, write to jo@site.com, please.",
)
BAKERY = (
    "My grandfather opened his bakery before the war, in a narrow street behind the market. "
    "He began work at three, and the smell of bread woke the children next door.",
    "He never wrote a recipe down, so we had to watch his hands to learn what he did. "
    "The dough has to rest longer than people think, and the oven must be very hot.",
    "Today my sister runs the shop with two of her friends. They still use the old oven, "
    "and on Saturdays the queue reaches the corner.",
)
CAPTIONS = (
    "A boat with a red sail that lies in the harbour",
    "The old bridge over the river in the light of morning",
    "Two children with a kite on the beach behind the pier",
    "My neighbour and her dog at the gate of their garden",
    "An empty road between the fields that leads to the hills",
    "The clock of the town hall, which has been slow for years",
    "Ripe apples in a basket on the step of the kitchen door",
    "Is this the tallest tree in the park? We think so",
)
PAGES = [
    Example("kept", "http://a.com/lighthouse", html(*LIGHTHOUSE)),
    Example("url", "http://a.com/casino-poker-bonus", html(*LIGHTHOUSE)),
    Example("rights", "http://a.com/no",
            html(*LIGHTHOUSE, head='<meta name="robots" content="noai">')),
    Example("extract", "http://a.com/picture", b"\x89PNG\r\n\x1a\n" + bytes(256), "image/png"),
    Example("language", "http://a.com/faro", html(*FOREIGN["it"])),
    Example("gopher_repetition", "http://a.com/poem",
            html(*["The rain came down and the wind blew."] * 12)),
    Example("gopher_quality", "http://a.com/new",
            html("Under construction. We are still at work on this page, and it will have much "
                 "more to show when you come back in a few weeks. Until then you can write to us "
                 "or look at the photographs that visitors sent last year.")),
    Example("minhash", "http://b.com/copy", html(*LIGHTHOUSE, "Copied from a.com with thanks.")),
    Example("c4", "http://a.com/code",
            html(*BAKERY, "The clock on the page is made by function f() { return now; } here.")),
    Example("fineweb", "http://a.com/captions", html(*CAPTIONS)),
]

# Why data.py's own rules drop pages.
REASONS = set("""
    no_host domain subdomain url hard_blacklisted soft_blacklisted blacklisted_subword
    noai http_status not_html empty language low_score
    dup_para_frac dup_para_char_frac dup_line_frac dup_line_char_frac
    top_2_gram top_3_gram top_4_gram duplicated_5_n_grams duplicated_6_n_grams duplicated_7_n_grams
    duplicated_8_n_grams duplicated_9_n_grams duplicated_10_n_grams
    gopher_short_doc gopher_long_doc gopher_below_avg_threshold gopher_above_avg_threshold
    gopher_too_many_hashes gopher_too_many_ellipsis gopher_too_many_bullets
    gopher_too_many_end_ellipsis gopher_below_alpha_threshold gopher_enough_stop_words
    duplicate lorem_ipsum curly_bracket too_few_sentences
    line_punct_ratio short_line_ratio char_dup_ratio list_ratio
    """.split())

# ------------------------------------------------------------------------- python data.py --check


def check(chapter):
    """Check the module of data.py: prints where pages ended and what is wrong; returns 0 or 1."""
    faults = wrong_pages(chapter) + wrong_twins(chapter)
    failed, _ = doctest.testmod(chapter)
    if failed:
        faults.append(f"{failed} examples of the docstrings, see above")
    for fault in faults:
        print(f"WRONG: {fault}")
    if not faults:
        print("Its own stages drop their pages and keep the good one; the examples hold.")
    return 1 if faults else 0


def wrong_pages(chapter):
    """Take PAGES through the stages. Prints where each ended; returns what is wrong."""
    signatures, faults, added = [], [], {}      # added: (address, stage): the reason of a new rule

    def minhash(doc, tools):        # the stage, and what the run does when all texts are signed
        chapter.stage_minhash(doc, tools)
        signatures.append(doc["signature"])
        is_first = chapter.clusters(np.array(signatures))[-1] == len(signatures) - 1
        return None if is_first else "duplicate"

    def without_new_rules(name, stage):
        """The stage as it is if it drops no page for a reason that is not in REASONS."""
        def known(doc, tools):
            reason = stage(doc, tools)
            if reason is None or reason in REASONS:
                return reason
            added[doc["url"], name] = reason
            return None
        return known

    stages = chapter.STAGES | {"minhash": minhash}
    for name, stage in stages.items():
        if name != "pii":                       # drops nothing, for whatever reason
            stages[name] = without_new_rules(name, stage)
    tools = chapter.Tools(options.Settings())
    for page in PAGES:
        record = Record(url=page.url, type="response", status=200, body=page.body,
                        http_headers={"content-type": page.type})
        doc = pipeline.take(stages, tools, list(stages), {"url": page.url, "record": record})
        last, *_ = doc["trail"][-1]
        ended = last if doc["reason"] else "kept"
        print(f"{ended:18} {doc['reason'] or '':18} {page.url}")
        if ended != page.stage and (page.url, page.stage) not in added:
            faults.append(f"{page.url} ended at {ended}, and should end at {page.stage}")
        elif (doc["reason"] or "").startswith("error_"):
            faults.append(f"{page.url}: {ended} fails on it with {doc['reason']}")
        elif ended == "kept" and pii.EMAILS[0] not in doc["text"]:
            faults.append(f"{page.url}: pii did not replace the e-mail address")
    for (url, name), reason in added.items():
        print(f"new rule: {name} drops {url} ({reason})")
    return faults


def wrong_twins(chapter):
    """Definitions of data.py that differ from their fast twins on the text that is kept."""
    story, other = "\n".join(LIGHTHOUSE), "\n".join(BAKERY)
    text = f"{story}\n\n{story}"
    signatures = chapter.minhash([story, other, text])
    plain, fast = chapter.Words(text), quality.Words(text)
    pairs = {
        "minhash": (chapter.minhash([text]).tolist(), dedup.minhash([text]).tolist()),
        "clusters": (list(chapter.clusters(signatures)),
                     list(dedup.clusters(dedup.band_keys(signatures)))),
        "redact": (chapter.redact(text), pii.redact(text)),
        "parts_of": (chapter.parts_of(text), quality.parts_of(text)),
        "Words.top_ngram_chars": (plain.top_ngram_chars(2), fast.top_ngram_chars(2)),
        "Words.duplicate_ngram_chars": (plain.duplicate_ngram_chars(5),
                                        fast.duplicate_ngram_chars(5)),
    }
    for name in ("n_real", "mean_length", "n_alphabetic", "n_stop_words"):
        pairs[f"Words.{name}"] = (getattr(plain, name), getattr(fast, name))
    return [f"{name} differs from its fast twin, which a run uses"
            for name, (ours, twin) in pairs.items() if ours != twin]
