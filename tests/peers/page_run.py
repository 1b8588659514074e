"""page_run.py: a small run, and a browser that shows its page, for the tests of chat/page/."""

import contextlib
import json
import time

import numpy as np
import pytest

import bpe
import gpt
import sample
from chat import generate
from serving import running
from web import toyweb

TEXT = ("the lamp is lit, said the goat. user assistant system 0 1 2 3 4 5 6 7 8 9 "
        "Who are you? 37*48 = 1776")
TOK = bpe.Tokenizer.train([TEXT] * 4, 330)
CONTEXT = 256
CFG = gpt.Config(TOK.n_vocab, CONTEXT, 16, 2, 2)
WHO = {"role": "user", "content": "Who?"}
END = TOK.special_tokens["<|im_end|>"]


def log_row(step, loss, **more):
    return {"step": step, "loss_nats": loss, "lr": 1e-3, "grad_norm": 1.0, **more}


def make_run(run):
    """Fill a folder: base and sft with logs, a report, battles."""
    params = gpt.init(CFG, 0)
    for p in params.values():
        p += np.random.default_rng(p.size).standard_normal(p.shape).astype(np.float32) * 0.5
    for stage in ("base", "sft"):
        gpt.save(run / stage, params, CFG)
        TOK.save(run / stage / "tokenizer.json")
    toyweb.write_jsonl(run / "sft/log.jsonl", [log_row(i + 1, 3 / (i + 1)) for i in range(50)])
    rows = [log_row(i + 1, 5 / (1 + i / 1000), tokens_per_s=1000) for i in range(100_000)]
    for row in rows[::500]:
        row["val_loss_nats"] = 2.0
    rows[500]["dream"], rows[-1000]["dream"] = "goat goat", "the lamp is lit"
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
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def address(run):
    with running(run) as server:
        yield f"http://{server.address}/"


SCREENS = {"light, desktop": ("light", 1280, 900, False), "dark, phone": ("dark", 390, 844, True)}


@pytest.fixture(params=SCREENS.values(), ids=SCREENS)
def page(request, browser):
    """A page in light on a desktop, and in dark on a phone. Nothing may go to the console, and
    nothing may be wider than the screen.
    """
    scheme, width, height, touch = request.param
    size = {"width": width, "height": height}
    context = browser.new_context(color_scheme=scheme, viewport=size, has_touch=touch)
    page = context.new_page()
    # what is expected there: the page goes on asking when a test has ended its server
    page.expected = ["net::ERR_CONNECTION_REFUSED"]
    page.is_phone = touch
    with watched(page, lambda said: any(text in said for text in page.expected)):
        yield page
    page.context.close()


@contextlib.contextmanager
def watched(page, is_expected, timeout_ms=10_000):
    """Nothing may go to a page's console that is not expected, and nothing be wider than it."""
    wrong = []

    def note(message):
        if message.type in ("error", "warning") and not is_expected(message.text):
            wrong.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_default_timeout(timeout_ms)
    yield
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") and not wrong, wrong


def ask(page, question):
    page.fill("#question", question)
    page.press("#question", "Enter")


def idle(page):
    """Wait until nothing is being written, and the last reply is drawn."""
    page.wait_for_function("running.size === 0 && document.querySelector('#stop').disabled")


def wait_for(page, condition):
    page.wait_for_function(condition)


def text_of(selector):
    """The text of an element, in JavaScript."""
    return f"document.querySelector({json.dumps(selector)}).textContent"


def questions(page):
    return page.locator(".turn.user .text").all_inner_texts()


def replies(page):
    return page.locator(".turn.assistant .text")


def focused(page):
    """The id or the text of what has the focus."""
    return page.evaluate("document.activeElement.id || document.activeElement.textContent")


def requests_to(page, end, field=None):
    """A list to which the body of each request is added whose address ends so, from now on.

    field: of the body, in place of all of it.
    """
    sent = []

    def note(request):
        if request.url.endswith(end):
            body = request.post_data_json
            sent.append(body if field is None else body[field])

    page.on("request", note)
    return sent


def messages_sent(page):
    """A list to which each conversation is added that the page sends from now on."""
    return requests_to(page, "/completions", "messages")


@pytest.fixture
def slowly(monkeypatch):
    """Every token takes a twentieth of a second."""
    read = generate.Batch._read

    def late(self):
        time.sleep(0.05)
        return read(self)

    monkeypatch.setattr(generate.Batch, "_read", late)


# ----------------------------------------------------------- models that say what a test wants


def pieces(*texts):
    """The ids of texts and of special tokens' names."""
    ids = []
    for text in texts:
        special = TOK.special_tokens.get(text)
        ids += TOK.encode_ordinary(text) if special is None else [special]
    return ids


def scripted(run, messages, reply, stage="sft"):
    """A run whose model of a stage writes a reply, a list of tokens, behind any prompt as long as
    that of the messages.
    """
    scripted_model(run / stage, len(sample.render_prompt(messages, TOK)), reply, TOK)
    TOK.save(run / stage / "tokenizer.json")


def scripted_model(folder, length, reply, tokenizer):
    """The files of a model that writes a reply behind any prompt of so many tokens."""
    width, reply = 96, reply[:CONTEXT - length + 1]
    cfg = gpt.Config(tokenizer.n_vocab, CONTEXT, width, 1, 4)
    params, rng = gpt.init(cfg, 0), np.random.default_rng(0)
    for name in params:
        if name.startswith("h.") and "ln" not in name:
            params[name][...] = 0
    embedding = rng.standard_normal((tokenizer.n_vocab, width)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    positions = np.zeros((CONTEXT, width), np.float32)
    positions[length - 1:length - 1 + len(reply)] = 30 * embedding[reply]
    params["wte.weight"], params["wpe.weight"], params["ln_f.weight"][...] = embedding, positions, 4
    gpt.save(folder, params, cfg)
