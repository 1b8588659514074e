"""The page (chat/page/) in headless Chromium: every view of a small run, no error on the console.

Needs Chromium and the playwright package.
"""

import contextlib
import functools
import http.server
import json
import threading
import time

import numpy as np
import pytest

import bpe
import gpt
import sample
from chat import generate
from chromium import browser  # noqa: F401  a fixture
from serving import running
from test_formats import CHATML, OTHER, folder_of
from web import toyweb

TEXT = ("the lamp is lit, said the goat. user assistant system 0 1 2 3 4 5 6 7 8 9 "
        "Who are you? 37*48 = 1776")
TOK = bpe.Tokenizer.train([TEXT] * 4, 330)
CFG = gpt.Config(TOK.n_vocab, 256, 16, 2, 2)
WHO = {"role": "user", "content": "Who?"}
CHATML_WHO = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"


def log_row(step, loss, **more):
    return {"step": step, "loss_nats": loss, "lr": 1e-3, "grad_norm": 1.0, **more}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run, params = tmp_path_factory.mktemp("run"), gpt.init(CFG, 0)
    for p in params.values():
        p += np.random.default_rng(p.size).standard_normal(p.shape).astype(np.float32) * 0.5
    for stage in ("base", "sft"):
        gpt.save(run / stage, params, CFG)
        TOK.save(run / stage / "tokenizer.json")
    toyweb.write_jsonl(run / "sft/log.jsonl", [log_row(i + 1, 3 / (i + 1)) for i in range(50)])
    rows = [log_row(i + 1, 5 / (1 + i / 1000), tokens_per_s=1000) for i in range(100_000)]
    for row in rows[::500]:
        row["val_loss_nats"] = 2.0
    toyweb.write_jsonl(run / "base/log.jsonl", rows)
    stage = {"documents_in": 10, "documents_out": 7, "bytes_in": 1, "bytes_out": 1, "seconds": 0.1,
             "reasons": {"too short": 3}, "examples": {"too short": ["<b>a page</b>"]}}
    (run / "docs").mkdir()
    (run / "docs/report.json").write_text(json.dumps({"stages": {"gopher": stage}}))
    rated = {"name": "sft", "rating": 1100.0, "low": 1050.0, "high": 1150.0, "rank": 1,
             "battles": 30, "score": 0.7}
    (run / "arena.json").write_text(json.dumps([rated]))
    return run


@pytest.fixture(scope="module")
def address(run):
    with running(run) as server:
        yield f"http://{server.address}/"


@pytest.fixture(params=[("light", 1200, 900), ("dark", 390, 844)],
                ids=["light, desktop", "dark, phone"])
def page(request, browser):  # noqa: F811
    scheme, width, height = request.param
    size = {"width": width, "height": height}
    page = browser.new_context(color_scheme=scheme, viewport=size).new_page()
    wrong = []

    def note(message):
        # What the browser itself says of an answer that is no 200 is not the page's.
        refused = "Failed to load resource: the server responded with a status of 400"
        if message.type in ("error", "warning") and not message.text.startswith(refused):
            wrong.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_default_timeout(10_000)
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") and not wrong, wrong
    page.context.close()


def ask(page, question):
    page.fill("#question", question)
    page.press("#question", "Enter")


def idle(page):
    page.wait_for_selector("#stop:disabled", state="attached")


def wait_for(page, condition):
    page.wait_for_function(condition)


def text_of(selector):
    """The text of an element, in JavaScript."""
    return f"document.querySelector({json.dumps(selector)}).textContent"


def replies(page):
    return page.locator(".turn.assistant .text")


@pytest.fixture
def slowly(monkeypatch):
    """Every token takes a twentieth of a second."""
    read = generate.Batch._read

    def late(self):
        time.sleep(0.05)
        return read(self)

    monkeypatch.setattr(generate.Batch, "_read", late)


# -------------------------------------------------------------------------------------------- chat


def test_chat(page, address):
    page.goto(address)
    page.click("summary")
    page.fill("#max_tokens", "12")
    ask(page, "Who?")
    idle(page)
    assert page.locator(".turn.user .text").all_inner_texts() == ["Who?"]
    assert replies(page).count() == 1
    first = replies(page).inner_text()
    assert "tokens" in page.inner_text("#speed")
    page.fill("#temperature", "1.5")
    page.fill("#seed", "7")
    page.click("text=retry")
    idle(page)
    assert replies(page).inner_text() != first
    page.fill("#question", "the lamp")
    page.click("#send")
    idle(page)
    assert page.locator(".turn").count() == 4
    page.locator("text=edit").first.click()
    assert page.input_value("#question") == "Who?" and page.locator(".turn").count() == 0
    page.fill("#system", "a lamp")
    ask(page, "<img src=x onerror=alert(1)>")
    idle(page)
    assert page.locator(".turn img").count() == 0
    assert page.locator(".turn.user .text").inner_text().startswith("<img")
    page.check("#raw")
    page.wait_for_selector(".pieces .learned")
    pieces = page.inner_text("#turns .pieces")
    assert "<|im_start|>" in pieces and "a lamp" in pieces
    page.click("#again")
    assert page.locator(".turn").count() == 0


def test_stop(page, address, slowly):
    """A reply that is stopped ends where it is, and stays."""
    page.goto(address)
    ask(page, "Who?")
    wait_for(page, "document.querySelector('.turn.assistant .text')?.textContent.length > 3")
    page.click("#stop")
    idle(page)
    text = replies(page).inner_text()
    page.wait_for_timeout(400)
    assert text and replies(page).inner_text() == text and page.inner_text("#chat_error") == ""


def scripted(run, messages, reply):
    """A run whose sft model writes a reply, a list of tokens, behind any prompt as long as that of
    the messages.
    """
    scripted_model(run / "sft", len(sample.render_prompt(messages, TOK)), reply, TOK)
    TOK.save(run / "sft/tokenizer.json")


def scripted_model(folder, length, reply, tokenizer):
    """The files of a model that writes a reply behind any prompt of so many tokens."""
    width = 96
    cfg = gpt.Config(tokenizer.n_vocab, 256, width, 1, 4)
    params, rng = gpt.init(cfg, 0), np.random.default_rng(0)
    for name in params:
        if name.startswith("h.") and "ln" not in name:
            params[name][...] = 0
    embedding = rng.standard_normal((tokenizer.n_vocab, width)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    positions = np.zeros((256, width), np.float32)
    positions[length - 1:length - 1 + len(reply)] = 30 * embedding[reply]
    params["wte.weight"], params["wpe.weight"], params["ln_f.weight"][...] = embedding, positions, 4
    gpt.save(folder, params, cfg)


def messages_sent(page):
    """A list to which each conversation is added that the page sends from now on."""
    sent = []

    def note(request):
        if request.url.endswith("/completions"):
            sent.append(request.post_data_json["messages"])

    page.on("request", note)
    return sent


def test_a_text_like_a_call_stays_text(page, tmp_path):
    """A call of the calculator goes back to the model as a call, and a text such as [1+1 = 3] as
    text.
    """
    reply = []
    for piece in ("so", "<|tool_start|>", "37*48", "<|tool_end|>", "<|output_start|>", "1776",
                  "<|output_end|>", "[1+1 = 3] [4 = 4] 1776<|im_end|>", "<|im_end|>"):
        special = TOK.special_tokens.get(piece)
        reply += TOK.encode_ordinary(piece) if special is None else [special]
    user = [{"role": "user", "content": "Who? [2+2 = 5]"}]
    scripted(tmp_path, user, reply)
    sent = messages_sent(page)
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        for question in (user[0]["content"], "Who?"):
            ask(page, question)
            idle(page)
        said = {"role": "assistant", "content": sample.reply_parts(reply, TOK)}
        kinds = [part["type"] for part in said["content"]]
        assert kinds == ["text", "tool", "output", "text"]
        assert sent == [user, [*user, said, WHO]]
        first = replies(page).first
        assert first.locator(".call").all_inner_texts() == ["[37*48 = 1776]"]
        shown = "so[37*48 = 1776][1+1 = 3] [4 = 4] 1776<|im_end|>"
        assert first.inner_text().replace("\n", "") == shown
        page.locator("text=retry").click()          # the same conversation again, and edited
        idle(page)
        page.locator("text=edit").last.click()
        assert page.input_value("#question") == "Who?"
        page.press("#question", "Enter")
        idle(page)
        assert sent[2] == sent[3] == sent[1]


def test_thoughts_are_folded(page, tmp_path):
    """They go back to the model apart from the answer: its template decides about them."""
    reply = OTHER.encode("<think>\nA lamp?\n</think>\n\nHi.<|im_end|>", allowed_special="all")
    length = len(OTHER.encode(CHATML_WHO, allowed_special="all"))
    scripted_model(tmp_path / "sft", length, reply, OTHER)
    folder_of(tmp_path / "sft", OTHER, chat_template=CHATML, eos_token="<|im_end|>")
    sent = messages_sent(page)
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        page.click("summary")
        page.fill("#temperature", "0")
        page.fill("#max_tokens", "60")
        ask(page, "Who?")
        idle(page)
        thoughts = replies(page).locator("details")
        assert thoughts.get_attribute("open") is None
        assert replies(page).inner_text().split() == ["thoughts", "Hi."]
        thoughts.locator("summary").click()
        assert "A lamp?" in thoughts.inner_text()
        ask(page, "Who?")
        idle(page)
    said = {"role": "assistant", "content": [{"type": "text", "text": "Hi."}],
            "reasoning_content": "A lamp?"}
    assert sent == [[WHO], [WHO, said, WHO]]


def test_a_call_that_is_stopped_is_none(page, tmp_path, slowly):
    """Half a call does not go back to the model, as it would be a whole one there."""
    call = [TOK.special_tokens["<|tool_start|>"], *TOK.encode_ordinary("1+1+" * 60)]
    scripted(tmp_path, [WHO], TOK.encode_ordinary("so") + call)
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        ask(page, "Who?")
        page.wait_for_selector(".call")
        page.click("#stop")
        idle(page)
        assert replies(page).inner_text() == "so" and page.locator(".call").count() == 0


def test_questions_to_try(page, tmp_path):
    """An empty conversation shows them; a click asks one; a new conversation shows them again."""
    user = {"role": "user", "content": "Who are you?"}
    reply = [*TOK.encode_ordinary("the lamp"), TOK.special_tokens["<|im_end|>"]]
    scripted(tmp_path, [user], reply)
    tasks = [{"question": user["content"]}]
    toyweb.write_jsonl(tmp_path / "tasks/identity_test.jsonl", tasks)
    button = "#turns button:has-text('Who are you?')"
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        page.click(button)
        page.wait_for_selector(".turn.assistant .text:has-text('the lamp')")
        assert page.inner_text(".turn.user .text") == "Who are you?"
        page.click("#again")
        page.wait_for_selector(button)


def test_errors_are_shown(page, address):
    page.goto(address)
    ask(page, "goat " * 300)
    wait_for(page, text_of("#chat_error") + ".includes('do not fit')")
    assert page.locator(".turn").count() == 0
    assert page.input_value("#question").startswith("goat goat")        # to be shortened
    ask(page, "Who?")
    idle(page)
    assert page.locator(".turn").count() == 2 and page.inner_text("#chat_error") == ""


def test_a_conversation_longer_than_the_context(page, address):
    """Its oldest turns are forgotten, and the page says so."""
    page.goto(address)
    page.click("summary")
    page.fill("#max_tokens", "8")
    for _ in range(12):
        ask(page, "the lamp is lit, said the goat.")
        idle(page)
        if "forgotten" in page.inner_text("#chat_error"):
            break
    assert "forgotten" in page.inner_text("#chat_error") and replies(page).last.inner_text() != ""


# ----------------------------------------------------------------------------------- other views


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


def test_training(page, address, run):
    """Live: lines that are written while one looks appear, also below a log of 100,000 lines."""
    page.goto(address + "#training")
    page.wait_for_selector("figure")
    chosen = page.locator("#stages input:checked").get_attribute("value")
    assert "sft" in page.inner_text("#arena") and chosen in ("base", "sft")
    page.locator("#stages input[value=sft]").check()
    with open(run / "sft/log.jsonl", "a") as f:
        f.write(json.dumps(log_row(51, 123.0)) + "\n")
    wait_for(page, text_of("figure[data-key=loss_nats] figcaption") + ".includes('sft 123')")
    page.locator("#stages input[value=base]").check()
    wait_for(page, "document.querySelector('figure[data-key=val_loss_nats]') !== null")


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
