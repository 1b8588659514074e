"""web/urls.py and data.url_filter: hosts, domains, lists, suffixes, and what is refused."""

import gzip

import pytest

import data
from web import urls
from web.urls import Blocklist

BLOCK = Blocklist(
    domains={"bad.com", "bad.nice.com", "evil.co.uk", "6.6.6.6"},
    urls={"http://x.com/bad", "y.com/worse"},
    hard=frozenset({"poker"}),
    soft=frozenset({"hot", "cam"}),
    subwords=("bigblack",),
)


@pytest.mark.parametrize(
    "url, reason",
    [
        ("http://bad.com/", "domain"),
        ("http://www.bad.com/x", "domain"),
        ("https://user:pw@A.B.BAD.COM.:80/", "domain"),
        ("http://bad.nice.com/", "subdomain"),
        ("http://deep.bad.nice.com/", None),
        ("http://nice.com/", None),
        ("http://notbad.com/", None),
        ("http://news.evil.co.uk/", "domain"),
        ("http://co.uk/", None),
        ("http://6.6.6.6/x", "domain"),
        ("http://6.6.6.7/x", None),
        ("http://x.com/bad", "url"),
        ("http://x.com/bad2", None),
        ("https://y.com/worse", "url"),
        ("http://a.com/poker", "hard_blacklisted"),
        ("http://a.com/Poker", None),
        ("http://a.com/pokers", None),
        ("http://poker.com/", "hard_blacklisted"),
        ("http://a.com/a%20poker-b", None),
        ("http://a.com/a-poker-b", "hard_blacklisted"),
        ("http://a.com/hot-cam", "soft_blacklisted"),
        ("http://a.com/hot-hot", None),
        ("http://a.com/hot", None),
        ("http://a.com/x-Big-BLACK-y", "blacklisted_subword"),
        ("http://a.com/big/black", "blacklisted_subword"),
        ("http://bad.com/poker", "domain"),
        ("http://a.com/poker-hot-cam-bigblack", "hard_blacklisted"),
        ("http://a.com/hot-cam-bigblack", "soft_blacklisted"),
        ("", "no_host"),
        ("a.com/x", "no_host"),
        ("http://[bad/", "no_host"),
        ("http:///x", "no_host"),
        ("http://a.com/" + "x" * 8000, None),
        ("http://a%20b.BAD.com/", "domain"),
        ("http://bad.com:80x[::1]/", "domain"),
        ("http://[::1]:80/", None),
        ("http://localhost/", None),
        ("http://xn--bcher-kva.de/", None),
        ("http://bücher.de/ä", None),
    ],
)
def test_url_filter(url, reason):
    assert data.url_filter(url, BLOCK) == ((None, reason) if reason else (url, None))


def test_default_words_and_ordinary_urls():
    assert data.url_filter("http://a.com/viagra")[1] == "hard_blacklisted"
    for url in (
        "https://en.wikipedia.org/wiki/Sex_education",
        "http://www.essex.ac.uk/",
        "https://a.org/scunthorpe",
    ):
        assert data.url_filter(url) == (url, None)


@pytest.mark.parametrize(
    "host, domain",
    [
        ("a.b.com", "b.com"),
        ("b.com", "b.com"),
        ("news.bbc.co.uk", "bbc.co.uk"),
        ("x.blogspot.com", "blogspot.com"),
        ("t.co", "t.co"),
        ("a.gov.br", "a.gov.br"),
        ("1.2.3.4", "1.2.3.4"),
        ("localhost", "localhost"),
        ("", ""),
    ],
)
def test_registered_domain(host, domain):
    assert urls.registered_domain(host) == domain


def test_load_blocklist(tmp_path):
    for name, text in (
        ("adult/domains", "Bad.com\n\n# comment\n"),
        ("adult/domains.1", "worse.com"),
        ("adult/urls", "x.com/Y\n"),
        ("adult/usage", "no.com"),
        ("adult/expressions", "(a|b)"),
        ("mine.txt", "mine.com\r\n"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    got = urls.load_blocklist([tmp_path, tmp_path / "mine.txt"])
    (tmp_path / "adult" / "urls.1.gz").write_bytes(gzip.compress(b"y.com/Z\n"))
    got = urls.load_blocklist([tmp_path, tmp_path / "mine.txt"])
    assert (
        all(name in got.domains for name in ("bad.com", "worse.com", "mine.com"))
        and len(got.domains.hashes) == 3
    )
    assert (
        all(name in got.urls for name in ("x.com/Y", "y.com/Z"))
        and "x.com/y" not in got.urls
        and "" not in got.domains
    )
    (tmp_path / "words").write_text("Big-Word\n\n# no\n")
    got = urls.load_blocklist(
        [], hard=tmp_path / "words", soft=tmp_path / "words", subwords=tmp_path / "words"
    )
    assert (got.hard, got.soft, got.subwords) == ({"bigword"}, {"bigword"}, ("bigword",))
    (tmp_path / "adult" / "urls.1.gz").write_bytes(gzip.compress(b"y.com/Z\n")[:-9])
    with pytest.raises(ValueError, match="urls.1.gz: damaged gzip"):
        urls.load_blocklist([tmp_path])
    for missing in (tmp_path / "none", tmp_path / "adult" / "usage" / "x"):
        with pytest.raises(FileNotFoundError, match="--blocklist takes"):
            urls.load_blocklist([missing])


def test_public_suffixes(tmp_path):
    """The rules of the list's own description, and its examples."""
    path = tmp_path / "list.dat"
    path.write_text(
        "// ===BEGIN ICANN DOMAINS===\ncom\nuk\nco.uk\n*.ck\n!www.ck\njp\n*.kobe.jp\n"
        "!city.kobe.jp\n公司.cn\n"
        "// ===BEGIN PRIVATE DOMAINS===\nblogspot.com\n",
        encoding="utf-8",
    )
    rules = urls.load_suffixes(path)
    for host, want in (
        ("a.b.example.com", "example.com"),
        ("x.bbc.co.uk", "bbc.co.uk"),
        ("co.uk", "co.uk"),
        ("a.b.c.ck", "b.c.ck"),
        ("www.ck", "www.ck"),
        ("x.www.ck", "www.ck"),
        ("a.city.kobe.jp", "city.kobe.jp"),
        ("a.b.c.kobe.jp", "b.c.kobe.jp"),
        ("x.y.blogspot.com", "blogspot.com"),
        ("a.b.unheard", "b.unheard"),
        ("8.8.8.8", "8.8.8.8"),
        ("localhost", "localhost"),
        ("a.xn--55qx5d.cn", "a.xn--55qx5d.cn"),
    ):
        assert urls.registered_domain(host, rules) == want, host
    assert data.url_filter(
        "http://x.bad.c.ck/", Blocklist(domains={"bad.c.ck"}, suffixes=rules)
    ) == (None, "domain")
    path.write_text("// nothing\n")
    with pytest.raises(ValueError, match="no rules"):
        urls.load_suffixes(path)
