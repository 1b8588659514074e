"""chat/page.html in headless Chromium against a small run: every view, without an error.

Needs Chromium and the playwright package.
"""

import functools
import http.server
import json
import shutil
import threading
import time

import numpy as np
import pytest

import bpe
import gpt
import serving
import sample
from chat import generate, served, serve
from web import toyweb

NAMES = ["chromium", "chromium-browser", "google-chrome"]
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
TOK = serving.TOK
CFG = gpt.Config(TOK.n_vocab, 256, 16, 2, 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run, params = tmp_path_factory.mktemp("run"), gpt.init(CFG, 0)
    for p in params.values():
        p += np.random.default_rng(p.size).standard_normal(p.shape).astype(np.float32) * 0.5
    for stage in ("base", "sft"):
        gpt.save(run / stage, params, CFG)
        TOK.save(run / stage / "tokenizer.json")
    other = {"lr": 1e-3, "grad_norm": 1.0}
    lines = [{"step": i + 1, "loss_nats": 3 / (i + 1), **other} for i in range(50)]
    toyweb.write_jsonl(run / "sft/log.jsonl", lines)
    lines = []
    for i in range(100_000):
        loss = 5 / (1 + i / 1000)
        lines.append({"step": i + 1, "loss_nats": loss, "tokens_per_s": 1000, **other})
        if i % 500 == 0:
            lines[-1]["val_loss_nats"] = 2.0
    toyweb.write_jsonl(run / "base/log.jsonl", lines)
    stage = {
        "documents_in": 10,
        "documents_out": 7,
        "bytes_in": 1,
        "bytes_out": 1,
        "seconds": 0.1,
        "reasons": {"too short": 3},
        "examples": {"too short": ["<b>a page</b>"]},
    }
    (run / "docs").mkdir()
    (run / "docs/report.json").write_text(json.dumps({"stages": {"gopher": stage}}))
    rated = {"name": "sft", "rating": 1100.0, "low": 1050.0, "high": 1150.0}
    rated |= {"rank": 1, "battles": 30, "score": 0.7}
    (run / "arena.json").write_text(json.dumps([rated]))
    return run


@pytest.fixture(scope="module")
def address(run):
    server = serve.Server(served.Models(run), port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{server.address}/"
    server.close()


@pytest.fixture(scope="module")
def browser():
    with pytest.importorskip("playwright.sync_api").sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


SCREENS = {"light, desktop": ("light", 1200, 900), "dark, phone": ("dark", 390, 844)}


@pytest.fixture(params=SCREENS.values(), ids=SCREENS)
def page(request, browser):
    scheme, width, height = request.param
    size, wrong = {"width": width, "height": height}, []
    page = browser.new_context(color_scheme=scheme, viewport=size).new_page()
    # what the browser itself says of an answer that is no 200 is not the page's
    expected = "Failed to load resource: the server responded with a status of 400"

    def hear(message):
        if message.type in ("error", "warning") and not message.text.startswith(expected):
            wrong.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.set_default_timeout(10_000)
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") and not wrong, wrong
    page.context.close()


def until(page, selector, what):
    """Wait until the text of an element is as a method or a property of it says."""
    page.wait_for_function(f"document.querySelector('{selector}')?.textContent.{what}")


def idle(page):
    page.wait_for_selector("#stop:disabled", state="attached")


def test_chat(page, address):
    page.goto(address)
    page.click("summary")
    page.fill("#max_tokens", "12")
    page.fill("#question", "Who?")
    page.press("#question", "Enter")
    idle(page)
    assert page.locator(".turn.user .text").all_inner_texts() == ["Who?"]
    assert page.locator(".turn.assistant").count() == 1
    first = page.locator(".turn.assistant .text").inner_text()
    assert "12 tokens" in page.inner_text("#speed") or first
    page.fill("#temperature", "1.5")
    page.fill("#seed", "7")
    page.click("text=retry")
    idle(page)
    assert page.locator(".turn.assistant .text").inner_text() != first
    page.fill("#question", "the lamp")
    page.click("#send")
    idle(page)
    assert page.locator(".turn").count() == 4
    page.locator("text=edit").first.click()
    assert page.input_value("#question") == "Who?" and page.locator(".turn").count() == 0
    page.fill("#system", "a lamp")
    page.fill("#question", "<img src=x onerror=alert(1)>")
    page.press("#question", "Enter")
    idle(page)
    assert page.locator(".turn img").count() == 0
    assert page.inner_text(".turn.user .text").startswith("<img")
    page.check("#raw")
    page.wait_for_selector(".pieces .learned")
    pieces = page.inner_text("#turns .pieces")
    assert "<|im_start|>" in pieces and "a lamp" in pieces
    page.click("#again")
    assert page.locator(".turn").count() == 0


def test_stop(page, address, monkeypatch):
    """A reply that is stopped ends where it is, and stays."""
    read = generate.Batch.read
    monkeypatch.setattr(generate.Batch, "read", lambda self: (time.sleep(0.05), read(self))[1])
    page.goto(address)
    page.fill("#question", "Who?")
    page.press("#question", "Enter")
    until(page, ".turn.assistant .text", "length > 3")
    page.click("#stop")
    idle(page)
    text = page.locator(".turn.assistant .text").inner_text()
    page.wait_for_timeout(400)
    assert text and page.inner_text(".turn.assistant .text") == text
    assert page.inner_text("#chat_error") == ""


def scripted(folder, replies):
    """A model that writes replies: [(tokens of the prompt, list of tokens to write), ...]."""
    cfg, width = gpt.Config(TOK.n_vocab, 256, 96, 1, 4), 96
    params, rng = gpt.init(cfg, 0), np.random.default_rng(0)
    for name in params:
        if name.startswith("h.") and "ln" not in name:
            params[name][...] = 0
    embedding = rng.standard_normal((TOK.n_vocab, width)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    positions = np.zeros((256, width), np.float32)
    for length, reply in replies:
        for i, token in enumerate(reply):
            positions[length - 1 + i] = 30 * embedding[token]
    params["wte.weight"], params["wpe.weight"], params["ln_f.weight"][...] = embedding, positions, 4
    gpt.save(folder, params, cfg)
    TOK.save(folder / "tokenizer.json")


def test_a_text_like_a_call_stays_text(page, tmp_path):
    """A call of the calculator goes back as a call, and a text such as [1+1 = 3] as text."""
    user = [{"role": "user", "content": "Who? [2+2 = 5]"}]
    call = ("<|tool_start|>", "37*48", "<|tool_end|>", "<|output_start|>", "1776", "<|output_end|>")
    end = TOK.special_tokens["<|im_end|>"]
    said = TOK.encode_ordinary("[1+1 = 3] [4 = 4] 1776<|im_end|>")
    reply = [*serving.names("so", *call), *said, end]
    scripted(tmp_path / "sft", [(len(sample.render_prompt(user, TOK)), reply)])
    server = serve.Server(served.Models(tmp_path), port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sent = []

    def hear(request):
        if request.url.endswith("/completions"):
            sent.append(request.post_data_json)

    page.on("request", hear)
    try:
        page.goto(f"http://{server.address}/")
        for question in (user[0]["content"], "Who?"):
            page.fill("#question", question)
            page.press("#question", "Enter")
            idle(page)
        said = {"role": "assistant", "content": sample.reply_parts(reply, TOK)}
        assert [part["type"] for part in said["content"]] == ["text", "tool", "output", "text"]
        again = [*user, said, {"role": "user", "content": "Who?"}]
        assert [body["messages"] for body in sent] == [user, again]
        first = page.locator(".turn.assistant .text").first
        assert first.locator(".call").all_inner_texts() == ["[37*48 = 1776]"]
        shown = first.inner_text().replace("\n", "")
        assert shown == "so[37*48 = 1776][1+1 = 3] [4 = 4] 1776<|im_end|>"
        page.locator("text=retry").click()      # the same conversation again, and edited
        idle(page)
        assert sent[2]["messages"] == sent[1]["messages"]
        page.locator("text=edit").last.click()
        assert page.input_value("#question") == "Who?"
        page.press("#question", "Enter")
        idle(page)
        assert sent[3]["messages"] == sent[1]["messages"]
    finally:
        server.close()


def test_a_call_that_is_stopped_is_none(page, tmp_path, monkeypatch):
    """Half a call does not go back to the model, as it would be a whole one there."""
    call = [TOK.special_tokens["<|tool_start|>"], *TOK.encode_ordinary("1+1+" * 60)]
    asked = [{"role": "user", "content": "Who?"}]
    n = len(sample.render_prompt(asked, TOK))
    scripted(tmp_path / "sft", [(n, TOK.encode_ordinary("so") + call)])
    read = generate.Batch.read
    monkeypatch.setattr(generate.Batch, "read", lambda self: (time.sleep(0.05), read(self))[1])
    server = serve.Server(served.Models(tmp_path), port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page.goto(f"http://{server.address}/")
        page.fill("#question", "Who?")
        page.press("#question", "Enter")
        page.wait_for_selector(".call")
        page.click("#stop")
        idle(page)
        assert page.inner_text(".turn.assistant .text") == "so"
        assert page.locator(".call").count() == 0
    finally:
        server.close()


def test_errors_are_shown(page, address):
    page.goto(address)
    page.fill("#question", "goat " * 300)
    page.press("#question", "Enter")
    until(page, "#chat_error", "includes('do not fit')")
    assert page.locator(".turn").count() == 0
    assert page.input_value("#question").startswith("goat goat")        # to be shortened
    page.fill("#question", "Who?")
    page.press("#question", "Enter")
    idle(page)
    assert page.locator(".turn").count() == 2 and page.inner_text("#chat_error") == ""


def test_a_conversation_longer_than_the_context(page, address):
    """Its oldest turns are forgotten, and that is said."""
    page.goto(address)
    page.click("summary")
    page.fill("#max_tokens", "8")
    for _ in range(12):
        page.fill("#question", "the lamp is lit, said the goat.")
        page.press("#question", "Enter")
        idle(page)
        if "forgotten" in page.inner_text("#chat_error"):
            break
    assert "forgotten" in page.inner_text("#chat_error")
    assert page.locator(".turn.assistant .text").last.inner_text() != ""


def test_inside(page, address):
    page.goto(address + "#inside")
    page.fill("#text", "the lamp is")
    page.click("#read")
    until(page, "#inside_pieces", "endsWith('the lamp is')")
    n = page.locator("#inside_pieces .tok").count()
    assert page.locator("#bars .bar").count() == 14 and page.locator("#lens tr").count() == n + 1
    page.locator("#bars button").nth(2).click()         # that token is written
    page.wait_for_function(f"document.querySelectorAll('#inside_pieces .tok').length == {n + 1}")
    page.fill("#in_temperature", "0.2")
    page.press("#in_temperature", "Enter")
    until(page, "#bars .bar span", "includes('→')")
    page.locator("#inside_pieces .tok").nth(1).click()
    assert "after" in page.inner_text("#after")
    before = page.evaluate("document.querySelector('#grid').toDataURL()")
    page.select_option("#layer", index=1)
    page.select_option("#head", index=1)
    page.wait_for_function(f"document.querySelector('#grid').toDataURL() != {json.dumps(before)}")
    page.click("#roll")
    page.wait_for_function("document.querySelectorAll('#inside_pieces .tok').length == 3")


def test_an_answer_that_comes_late_is_not_shown(page, address):
    """The first text is looked at slowly, and another one has been asked for meanwhile."""
    page.add_init_script("""let n = 0; const plain = fetch;
      window.fetch = async (...given) => {
        const answer = await plain(...given);
        if (given[0] === "/api/look" && n++ === 0) {
          await new Promise(done => setTimeout(done, 500));
          window.late = true;
        }
        return answer;
      };""")
    page.goto(address + "#inside")
    page.fill("#text", "the lamp")
    page.click("#read")
    page.wait_for_function("window.late")
    until(page, "#inside_pieces", "includes('lamp')")
    page.wait_for_timeout(200)
    assert page.inner_text("#inside_pieces").endswith("the lamp")


def test_a_text_like_a_special_token_stays_text(page, tmp_path):
    """<||> is a token here, and no special one: it stays in the text when a token is added."""
    tok = bpe.Tokenizer.train(["<||>lamp <||> goat <||>"] * 20, 285)
    assert len(tok.encode_ordinary("<||>")) == 1
    cfg = gpt.Config(tok.n_vocab, 64, 16, 2, 2)
    gpt.save(tmp_path / "base", gpt.init(cfg, 0), cfg)
    tok.save(tmp_path / "base/tokenizer.json")
    server = serve.Server(served.Models(tmp_path), port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page.goto(f"http://{server.address}/#inside")
        page.fill("#text", "<||>lamp")
        page.click("#read")
        until(page, "#inside_pieces", "endsWith('<||>lamp')")
        page.locator("#bars button").first.click()
        page.wait_for_function("document.querySelector('#text').value !== '<||>lamp'")
        assert page.input_value("#text").startswith("<||>lamp")
    finally:
        server.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize("named, may", [
    ("*", True),
    ("own", True),
    ("http://localhost:1", False),
    (None, False),
])
def test_a_page_of_another_origin(browser, run, tmp_path, named, may):
    """Where --origin names it, a browser lets it ask, with any header, and read what comes back."""
    quiet = functools.partial(Quiet, directory=tmp_path)
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), quiet)
    origin = f"http://127.0.0.1:{site.server_address[1]}"
    named = origin if named == "own" else named
    server = serve.Server(served.Models(run), port=0, key="sesame", origin=named)
    for each in (site, server):
        threading.Thread(target=each.serve_forever, daemon=True).start()
    page = browser.new_page()
    ask = """async ([url, body]) => {
      const headers = {
        "Content-Type": "application/json", Authorization: "Bearer sesame",
        "X-Stainless-Lang": "js", "X-Stainless-Helper-Method": "stream"
      };
      const post = { method: "POST", headers, body: JSON.stringify(body) };
      try {
        const answer = await fetch(url, body ? post : { headers });
        return [answer.status, await answer.text()];
      } catch (e) { return [null, e.name]; }
    }"""
    asked = {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 3}
    try:
        page.goto(f"{origin}/")
        url = f"http://{server.address}/v1"
        for path, body, want in (
            ("/models", None, 200),
            ("/models/none", None, 404),
            ("/chat/completions", asked, 200),
            ("/chat/completions", {**asked, "stream": True}, 200),
            ("/chat/completions", {**asked, "n": 99}, 400),
        ):
            got, text = page.evaluate(ask, [url + path, body])
            assert got == (want if may else None), (path, got, text)
            if may and body and "stream" in body:
                assert text.endswith("data: [DONE]\n\n")
    finally:
        page.close()
        site.shutdown()
        site.server_close()
        server.close()


def test_tokens(page, address):
    page.goto(address + "#tokens")
    page.fill("#cut_text", "the lamp\nis lit")
    until(page, "#cuts .pieces", "includes('lit')")
    assert page.locator("#cuts .tok").count() == len(TOK.encode_ordinary("the lamp\nis lit"))


def test_data(page, address):
    page.goto(address + "#data")
    page.wait_for_selector(".funnel")
    page.click("text=gopher: 3 dropped")
    page.click("text=too short 3")
    assert page.inner_text("pre.sample") == "<b>a page</b>"
    assert "7" in page.inner_text(".funnel")


def test_training(page, address, run):
    """Lines that are written while one looks appear; a log of 100,000 is there at once."""
    page.goto(address + "#training")
    page.wait_for_selector("figure")
    chosen = page.locator("#stages input:checked").get_attribute("value")
    assert "sft" in page.inner_text("#arena") and chosen in ("base", "sft")
    page.locator("#stages input[value=sft]").check()
    with open(run / "sft/log.jsonl", "a") as f:
        f.write(json.dumps({"step": 51, "loss_nats": 123.0, "lr": 1e-3, "grad_norm": 1.0}) + "\n")
    until(page, "figure[data-key=loss_nats] figcaption", "includes('sft 123')")
    started = time.time()
    page.locator("#stages input[value=base]").check()
    page.wait_for_function("document.querySelector('figure[data-key=val_loss_nats]') !== null")
    assert time.time() - started < 5


@pytest.mark.parametrize("key", ["sesame", "schl\u00fcssel \u9375"])
def test_a_key(browser, run, key):
    """The page asks for it and sends it, whatever its letters."""
    server = serve.Server(served.Models(run), port=0, key=key)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()
    page.on("dialog", lambda dialog: dialog.accept(key))
    try:
        page.goto(f"http://{server.address}/#tokens")
        page.fill("#cut_text", "the lamp")
        until(page, "#cuts .pieces", "includes('lamp')")
    finally:
        page.close()
        server.close()


def test_questions_to_try(tmp_path, browser):
    """An empty conversation shows them; a click asks one, and a new one shows them again."""
    user = {"role": "user", "content": "Who are you?"}
    reply = [*TOK.encode_ordinary("the lamp"), TOK.special_tokens["<|im_end|>"]]
    scripted(tmp_path / "sft", [(len(sample.render_prompt([user], TOK)), reply)])
    (tmp_path / "tasks").mkdir()
    question = json.dumps({"question": user["content"]})
    (tmp_path / "tasks" / "identity_test.jsonl").write_text(question + "\n")
    server = serve.Server(served.Models(tmp_path), port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()
    try:
        page.goto(f"http://{server.address}/")
        page.click("#turns button:has-text('Who are you?')")
        page.wait_for_selector(".turn.assistant .text:has-text('the lamp')")
        assert page.inner_text(".turn.user .text") == "Who are you?"
        page.click("#again")
        page.wait_for_selector("#turns button:has-text('Who are you?')")
    finally:
        page.close()
        server.close()
