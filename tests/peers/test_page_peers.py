"""The page (chat/page/) in headless Chromium: Inside, Tokens, Data, and who may ask.

The other views have files of their own. Needs Chromium and the playwright package.
"""

import contextlib
import functools
import http.server
import json
import threading

import pytest

import bpe
import gpt
from chromium import browser  # noqa: F401  a fixture
from page_run import TOK, WHO, address, page, run, text_of, wait_for  # noqa: F401
from serving import running


def test_tokens(page, address):
    page.goto(address + "#tokens")
    page.fill("#cut_text", "the lamp\nis lit")
    wait_for(page, "document.querySelector('#cuts .pieces')?.textContent.includes('lit')")
    assert page.locator("#cuts .tok").count() == len(TOK.encode_ordinary("the lamp\nis lit"))


def test_data(page, address):
    page.goto(address + "#data")
    page.wait_for_selector(".funnel")
    page.click("text=gopher: 3 dropped")
    page.click("text=too short 3")
    assert page.locator("pre.sample").inner_text() == "<b>a page</b>"
    assert "7" in page.inner_text(".funnel")


# ---------------------------------------------------------------------------------- who may ask


@contextlib.contextmanager
def new_page(browser):  # noqa: F811
    page = browser.new_page()
    try:
        yield page
    finally:
        page.close()


@pytest.mark.parametrize("key", ["sesame", "schl\u00fcssel \u9375"])
def test_a_key(browser, run, key):  # noqa: F811
    """The page asks for it and sends it, whatever its letters."""
    with running(run, key=key) as server, new_page(browser) as page:
        page.on("dialog", lambda dialog: dialog.accept(key))
        page.goto(f"http://{server.address}/#tokens")
        page.fill("#cut_text", "the lamp")
        wait_for(page, "document.querySelector('#cuts .pieces')?.textContent.includes('lamp')")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A site of the files in a folder."""

    def log_message(self, *_):
        pass


@pytest.fixture
def origin(tmp_path):
    """The address of another site."""
    handler = functools.partial(Quiet, directory=tmp_path)
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{site.server_address[1]}"
    site.shutdown()
    site.server_close()


ASK = """async ([url, body]) => {
  const headers = { "Content-Type": "application/json", Authorization: "Bearer sesame",
                    "X-Stainless-Lang": "js", "X-Stainless-Helper-Method": "stream" };
  const request = body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers };
  try {
    const answer = await fetch(url, request);
    return [answer.status, await answer.text()];
  } catch (e) { return [null, e.name]; }
}"""


@pytest.mark.parametrize("named, allowed", [
    ("*", True), ("own", True), ("http://localhost:1", False), (None, False)])
def test_a_page_of_another_origin(browser, run, origin, named, allowed):  # noqa: F811
    """Where --origin names it, a browser lets it ask, with any header, and read answers, refusals
    and streams.
    """
    body = {"messages": [WHO], "max_tokens": 3}
    requests = [
        ("/models", None, 200),
        ("/chat/completions", body, 200),
        ("/chat/completions", {**body, "stream": True}, 200),
        ("/chat/completions", {**body, "n": 99}, 400),
        ("/models/none", None, 404),
    ]
    named = origin if named == "own" else named
    with running(run, key="sesame", origin=named) as server, new_page(browser) as page:
        page.goto(f"{origin}/")
        for path, body, want in requests:
            got, text = page.evaluate(ASK, [f"http://{server.address}/v1{path}", body])
            assert got == (want if allowed else None), (path, got, text)
            if allowed and body and body.get("stream"):
                assert text.endswith("data: [DONE]\n\n")
