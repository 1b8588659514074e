"""Pages, WARC records and a small crawl made by hand, for the tests of data.py and its rooms."""

import gzip
import json
import random
import types

import pytest

import data
from run import command
from web import pii

MAIL, IP = pii.EMAILS[0], pii.IPS[0]


def record(block, type="response", version="1.0", length=None, **fields):
    """One WARC record. url= and other keywords become headers (_ for -); length: Content-Length."""
    fields = {"WARC-Record-ID": "<urn:uuid:1>", "WARC-Date": "2024-01-02T03:04:05Z", **fields}
    fields = {
        ("WARC-Target-URI" if k == "url" else k.replace("_", "-")): v for k, v in fields.items()
    }
    head = f"WARC/{version}\r\nWARC-Type: {type}\r\n" + "".join(
        f"{k}: {v}\r\n" for k, v in fields.items()
    )
    if length is not False:
        head += f"Content-Length: {len(block) if length is None else length}\r\n"
    return head.encode() + b"\r\n" + block + b"\r\n\r\n"


def http(body, *headers, status="HTTP/1.1 200 OK"):
    return "\r\n".join((status, *headers, "", "")).encode() + body


def page(body=b"<p>x", url="http://a.com/", **fields):
    return record(http(body, "Content-Type: text/html"), url=url, **fields)


rng = random.Random(0)
VOCABULARY = [
    "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 8))) for _ in range(5000)
]


def prose(n, seed=0):
    """n different words in sentences of ten, a line for each."""
    chosen = random.Random(seed).sample(VOCABULARY, n)
    return "\n".join("the " + " ".join(chosen[i : i + 10]) + " of it." for i in range(0, n, 10))


def reason(result):
    kept, why = result
    assert (kept is None) != (why is None)
    return why


def lines_of(n_end, n, size=60, end="."):
    return "\n".join(
        (VOCABULARY[i] + " " + prose(20, i).replace("\n", " "))[: size - 1]
        + (end if i < n_end else "x")
        for i in range(n)
    )


@pytest.fixture
def stub_language(monkeypatch):
    """A language model that knows one word."""

    def predict(texts):
        assert not any("\n" in t for t in texts)
        return [("en" if " the " in f" {t} " else "de") for t in texts], [
            0.5 if "unsure" in t else 0.9 for t in texts
        ]

    def load(path=None):
        return types.SimpleNamespace(predict=predict)

    monkeypatch.setattr(data.language, "load", load)


GOOD = prose(300)


def html_of(text):
    return (
        "<html><body><nav><a href=/>Home</a></nav><main>"
        + "".join(f"<p>{line}</p>" for line in text.split("\n"))
        + "</main></body></html>"
    ).encode()


PAGES = [  # url, record, stage that drops it, reason
    ("http://a.com/good", html_of(GOOD), None, None),
    (
        "http://a.com/mail",
        html_of(prose(300, 1) + "\nwrite to the jo@site.com or 8.8.8.8 of it."),
        None,
        None,
    ),
    ("http://a.com/casino", html_of(prose(300, 2)), "url", "hard_blacklisted"),
    ("http://bad.com/", html_of(prose(300, 3)), "url", "domain"),
    ("http://a.com/empty", b"<html><body></body></html>", "extract", "empty"),
    ("http://a.com/pdf", b"%PDF-1.4", "extract", "not_html"),
    ("http://a.com/german", html_of(prose(300, 4).replace("the ", "das ")), "language", "language"),
    ("http://a.com/unsure", html_of("unsure of the " + prose(300, 5)), "language", "low_score"),
    (
        "http://a.com/repeats",
        html_of("\n".join(["the same line of it."] * 60)),
        "gopher_repetition",
        "dup_line_frac",
    ),
    ("http://a.com/short", html_of(prose(30, 6)), "gopher_quality", "gopher_short_doc"),
    ("http://a.com/copy", html_of(GOOD), "minhash", "duplicate"),
    (
        "http://a.com/code",
        html_of(prose(300, 7) + "\nfunction the of { it }"),
        "c4",
        "curly_bracket",
    ),
    ("http://a.com/lines", html_of(prose(300, 8).replace(".\n", " ")), "c4", "too_few_sentences"),
    (
        "http://a.com/menu",
        html_of(
            prose(300, 9).replace(".", "") + "\nthe end. One of it. Two. Three. Four. Five. Six."
        ),
        "fineweb",
        "line_punct_ratio",
    ),
]


@pytest.fixture
def crawl(tmp_path, stub_language):
    """A run folder with PAGES in two WARCs, and other records between them."""
    folder = tmp_path / "run" / "crawl"
    folder.mkdir(parents=True)
    rs = [record(b"software: x\r\n", type="warcinfo")]
    for i, (url, body, *_) in enumerate(PAGES):
        rs += [
            record(b"GET / HTTP/1.1\r\n\r\n", type="request", url=url),
            page(
                body,
                url,
                WARC_Record_ID=f"<urn:uuid:{i}>",
                WARC_Date=f"2024-01-02T03:04:{5 + i:02}Z",
            ),
            record(b"", type="metadata", url=url),
        ]
    half = len(rs) // 2
    (folder / "000000.warc.gz").write_bytes(b"".join(map(gzip.compress, rs[:half])))
    (folder / "000001.warc").write_bytes(b"".join(rs[half:]))
    (tmp_path / "block.txt").write_text("bad.com\n", encoding="utf-8")
    return tmp_path / "run"


def run(crawl, *more):
    data.main(
        [
            "--run",
            str(crawl),
            "--workers",
            "1",
            "--blocklist",
            str(crawl.parent / "block.txt"),
            *more,
        ]
    )


def fails(crawl, *more):
    """What a run says that must fail."""
    with pytest.raises((ValueError, OSError)) as caught:
        run(crawl, *more)
    return command.message(caught.value)


def documents(crawl):
    return [
        json.loads(line)
        for path in sorted((crawl / "docs").glob("*.jsonl.gz"))
        for line in gzip.open(path, "rt", encoding="utf-8")
    ]


def dropped(crawl):
    with gzip.open(crawl / "docs" / "dropped.tsv.gz", "rt", encoding="utf-8") as lines:
        return [tuple(line.rstrip("\n").split("\t")) for line in lines]


def files_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
