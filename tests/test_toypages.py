"""web/toypages.py: the pages are as many and as different as they should be."""
from collections import Counter

from web import toypages
from web import warc
from toy_world import N, world  # noqa: F401


def test_the_default_world_has_the_promised_size():
    pages = toypages.pages()
    hosts = {p.url.split("/")[2].removeprefix("www.") for p in pages}
    assert len(pages) == 3000 == len({p.url for p in pages}) and 130 <= len(hosts) <= 170
    assert set(Counter(p.label for p in pages)) == set(toypages.LABELS)
    assert all(h.endswith(".example") for h in hosts)


def test_every_page_comes_back_from_the_warc(world):
    run, truth = world
    wanted = {p.url: p for p in toypages.pages(0, N)}
    seen, encodings = Counter(), Counter()
    for path in sorted((run / "crawl").glob("*.warc.gz")):
        for r in warc.read_warc(path):
            seen[r.type] += 1
            if r.type == "response":
                page = wanted[r.url]
                if page.html is None:
                    assert r.body.startswith(b"\x89PNG")
                    continue
                text = r.body.decode(page.charset or "utf-8")
                whole = page.html.encode(page.charset or "utf-8",
                    "xmlcharrefreplace").decode(page.charset or "utf-8")
                assert whole == text if not r.truncated else whole.startswith(text)
                encodings[str(page.charset)] += 1
    assert seen["response"] == seen["request"] == seen["metadata"] == len(truth)
    assert seen["warcinfo"] == 1
    assert {"utf-8", "windows-1252", "iso-8859-1", "None"} <= set(encodings)
    assert set(encodings) & {"shift_jis", "gb18030", "windows-1251"}
