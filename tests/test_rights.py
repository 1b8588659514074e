"""web/rights.py: what owners of pages write, in every form, and what only looks like it."""

import random
import time

import pytest

from web import message
from web import rights as room
from web.rights import rights


@pytest.mark.parametrize(
    "headers, html, said",
    [
        ({}, b'<meta name="robots" content="index, follow">', None),
        ({}, b'<META CONTENT="NoAI, noimageai" NAME=Robots>', "noai"),
        ({}, b"<meta name='robots' content='noindex'/>", "noindex"),
        ({}, b'<meta name="robots" content="none">', "none"),
        ({}, b'<!-- <meta name="robots" content="noindex"> -->', None),
        ({}, b'<meta name="googlebot" content="noindex">', None),
        ({}, b'<meta name="tdm-reservation" content="1">', "tdm_reservation"),
        ({}, b'<meta name="tdm-reservation" content="0">', None),
        ({"x-robots-tag": "noarchive, noai"}, b"", "noai"),
        ({"x-robots-tag": "googlebot: noindex, nofollow"}, b"", None),
        ({"x-robots-tag": "unavailable_after: 25 Jun 2010, noindex"}, b"", "noindex"),
        ({"tdm-reservation": "1"}, b"", "tdm_reservation"),
        ({"tdm-reservation": "0"}, b"", None),
        ({}, b"<p>robots say noindex", None),
        ({}, b'<metal name="robots" content="noindex">', None),
    ],
)
def test_rights(headers, html, said):
    assert rights(headers, html) == (said, None)


# What owners of pages write. A line is a form.
FORBIDS = r"""
<meta name="robots" content="noai">
<META NAME="ROBOTS" CONTENT="NOAI">
<meta content='noai' name='robots'>
<meta name=robots content=noai>
<meta name="robots" content="noai" />
<meta name='robots'content='noindex,follow'/>
<meta/name="robots"/content="noai">
<meta name = "robots" content = "noai">
<meta id=a name=" robots " content=" noai ">
<meta data-a='>' name="robots" content="noai">
<meta name="robots" content="index, noai">
<meta name="robots" content="noarchive,noai,max-snippet:-1">
<meta name="robots" content="no&#97;i">
<meta name="&#x72;obots" content="noai">
<meta name="robots" content="index&comma;noai">
<meta name="robots" content="noindex nofollow">
<meta name="robots" content="none">
<meta name="robots" content="noarchive,&#10;noai">
<meta name="longhand" content="noindex">
<meta name="Longhand" content="noai">
<meta http-equiv="X-Robots-Tag" content="noai">
<meta name="tdm-reservation" content="1">
<meta content=1 name=TDM-Reservation>
<meta property="tdm-reservation" content=" 1 ">
<meta http-equiv="TDM-Reservation" content="'1'">
<meta name="googlebot, robots" content="noai">
<meta name="robots" content="max-image-preview:large, noai">
<meta name=robots content="longhand: noai">
<meta name="robots" content="otherbot: index, *: noai">
<meta name="robots" content="unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT">
<meta name="robots" content="noai" name="description">
<meta name="robots" content="index"><meta name="robots" content="noai">
<noscript><meta name="robots" content="noai"></noscript>
<script src=a.js /><meta name="robots" content="noai">
<script>"<!--"</script><meta name="robots" content="noai">
<script>'<body>'</script><meta name="robots" content="noai">
<script>if (a < b) c = "<meta "</script><meta name=robots content=noai>
<!-- a --><meta name="robots" content="noai"><!-- b -->
<!--[if IE]><p><![endif]--><meta name="robots" content="noai">
<!--><meta name="robots" content="noai">
<style>a > b {}</style><meta name="robots" content="noai">
<link title="<!--"><meta name="robots" content="noai">
<body class=a><p>A page without a head<meta name="robots" content="noai">
"""
ALLOWS = r"""
<meta name="robots" content="index, follow">
<meta name="robots" content="">
<meta name="robots">
<meta name="description" content="noai">
<meta name="googlebot" content="noai">
<meta name="robots" content="googlebot: noai">
<meta name="robots" data-content="noai">
<meta data-name="robots" content="noai">
<meta content="noai">
<meta name="robots" content="max-image-preview:none">
<meta name="robots" content="index" content="noai">
<meta name="author" name="robots" content="noai">
<metadata name="robots" content="noai">
<meta name="robots" content="noimageai">
<meta name="robotsx" content="noai">
<meta name="robots" content="unavailable_after: Thu, 03 Dec 2099 13:09:53 GMT">
<meta name="tdm-reservation" content="0">
<meta name="tdm-policy" content="1">
<p title='<meta name="robots" content="noai">'>
<img alt="a > b" title='<meta name=robots content=noai>'>
<p name="robots" content="noai">
&lt;meta name="robots" content="noai">
<!-- <meta name="robots" content="noai"> -->
<!-- <meta name="robots" content="noai"> --!>
<!--><!--<meta name=robots content=noai>-->
<script>'<meta name="robots" content="noai">'</script>
<script type="text/x"><!-- <meta name=robots content=noai> --></script>
<style><meta name="robots" content="noai"></style>
<title><meta name="robots" content="noai"></title>
<textarea><meta name=robots content=noai></textarea>
<template><p><meta name=robots content=noai></template>
<iframe><meta name=robots content=noai></iframe>
<xmp><meta name=robots content=noai></xmp>
</meta name=robots content=noai>
< meta name=robots content=noai>
"""
FORBIDS, ALLOWS = FORBIDS.strip().split("\n"), ALLOWS.strip().split("\n")
CRAWLED = "2026-06-01T00:00:00Z"


@pytest.mark.parametrize("form", FORBIDS)
def test_forms_of_no(form):
    for page in (
        form,
        f"<!doctype html><html><head><title>x</title>{form}</head><body><p>Text.",
        f"<html><p>Text.</p>{form}",
        f"{form[:-1]}",
    ):
        assert rights({}, page.encode(), CRAWLED)[0], page
    assert (
        rights({}, f"<html>{form}</html>".encode("utf-16"), CRAWLED)[0]
        and rights(
            {"content-type": "text/html; charset=utf-16le"}, form.encode("utf-16-le"), CRAWLED
        )[0]
    )


@pytest.mark.parametrize("form", ALLOWS)
def test_forms_that_are_no_no(form):
    for page in (
        form,
        f"<!doctype html><html><head><title>x</title>{form}</head><body><p>Text.",
        f"<html><p>Text.</p>{form}",
    ):
        assert rights({}, page.encode(), CRAWLED) == (None, None), page


def test_forms_in_any_company():
    """A form counts whatever complete markup stands around it; one no among many is enough."""
    rng, whole = (
        random.Random(0),
        [form for form in FORBIDS if not form.startswith(("<script src", "<!-->"))],
    )
    others = [
        *ALLOWS,
        *(f"<script>{form}</script>" for form in whole if "script" not in form),
        *(f"<!-- {form} -->" for form in whole if "--" not in form),
        "<p>Text",
        "</p>",
        "&amp;",
        "<br/>",
        "1 < 2",
        "<b title='a>b'>",
        "é",
        "\0",
        "<a href=license>",
        '<a rel="license" href="/l">',
        "<svg><path d='M0'/></svg>",
        "<body>",
        "</head>",
        "<![CDATA[x]]>",
        "<?php x ?>",
        "<p title=it's>",
    ]
    for _ in range(3000):
        pieces = [rng.choice(others) for _ in range(rng.randrange(12))]
        no = rng.random() < 0.5
        if no:
            pieces.insert(rng.randrange(len(pieces) + 1), rng.choice(whole))
        assert bool(rights({}, "\n".join(pieces).encode(), CRAWLED)[0]) is no, pieces


@pytest.mark.parametrize(
    "headers, said",
    [
        ("X-Robots-Tag: noarchive\r\nX-Robots-Tag: noai", "noai"),
        ("X-Robots-Tag: otherbot: noindex\r\nX-Robots-Tag: noai", "noai"),
        ("X-Robots-Tag: otherbot: noindex\r\nX-Robots-Tag: googlebot: noai", None),
        ("X-Robots-Tag: unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT, noai", "noai"),
        ("X-Robots-Tag: unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT", "unavailable_after"),
        ("X-Robots-Tag: unavailable_after: Thu, 03 Dec 2026 13:09:53 GMT", None),
        ("TDM-Reservation: 1", "tdm_reservation"),
        ("TDM-Reservation: 0\r\ntdm-reservation: 1", "tdm_reservation"),
        ("tdm-reservation: 10", None),
        ('tdm-reservation: "1"', "tdm_reservation"),
        ('tdm-reservation: "0"', None),
        (
            "X-Robots-Tag: max-snippet:-1, max-image-preview:large\r\n"
            "X-Robots-Tag: max-video-preview:-1",
            None,
        ),
    ],
)
def test_rights_in_headers(headers, said):
    for date in (CRAWLED, ""):
        head = headers if date else headers + "\r\nDate: Mon, 01 Jun 2026 00:00:00 GMT"
        assert rights(message.parse_headers(head.encode()), b"<p>x", date) == (said, None)


@pytest.mark.parametrize(
    "html, licence",
    [
        (
            b'<a rel="license" href="https://creativecommons.org/licenses/by/4.0/">CC</a>',
            "https://creativecommons.org/licenses/by/4.0/",
        ),
        (b"<LINK HREF=/terms REL='nofollow License'>", "/terms"),
        (b'<a rel="licenses" href="x">', None),
        (b'<a href="license">', None),
        (b'<a rel="license">', None),
        (b'<a rel=license href="/l?a=1&amp;b&copy=2">', "/l?a=1&b&copy=2"),
        (b"<p>licensed under <a rel=license href=/a>BY</a> <a rel=license href=/b>", "/a"),
        (b"<!-- <a rel=license href=/a> --><a rel=license href=/b>", "/b"),
        (b'<script>"<a rel=license href=/a>"</script>', None),
        ('<a rel=license href="/\u00e9&eacute;">'.encode(), "/\u00e9\u00e9"),
        (
            b'<p title="<a rel=license href=/a>"><link rel=license href=/b><a rel=license href=/c>',
            "/b",
        ),
    ],
)
def test_a_licence_is_kept(html, licence):
    assert rights({}, html) == (None, licence)


@pytest.mark.parametrize(
    "html",
    [
        b"<meta " * 100_000 + b"robots",
        b"<a rel=license " * 60_000,
        b"<!--" * 200_000 + b"robots",
        b"<meta a=" + b'"' * 400_000 + b"robots>",
    ],
)
def test_rights_in_linear_time(html):
    start = time.process_time()
    rights({}, html)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("tries", [1, 2, 64])
def test_tags_behind_the_one_that_matters(monkeypatch, tries):
    monkeypatch.setattr(room, "MAX_METAS", tries)
    metas = b"<meta name=robots content=index>" * 70
    others = metas + b'<a href="/license">x</a><metal license>' * 70
    meta = b'<meta name="&#114;obots" content=noindex>'
    link = b"<link rel=license href=/by>"
    assert rights({}, others + meta + others) == ("noindex", None)
    assert rights({}, meta + metas) == ("noindex", None)
    assert rights({}, others + link + others) == (None, "/by")
    assert rights({}, link + others + meta) == ("noindex", None)
    assert rights({}, others + b"<!--" + meta + link + b"-->" + others) == (None, None)
