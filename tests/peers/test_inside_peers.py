"""The page's views Inside, Playground and Arena in headless Chromium, on a small run.

Every behaviour is driven in light and dark, on a desktop and on a phone, with no error on the
console. Needs Chromium and the playwright package.
"""

import itertools
import json
import time

import numpy as np
import pytest

import bpe
import gpt
import sample
from chat import generate, inside, votes
from chat.request import Refused
from chromium import browser  # noqa: F401  a fixture
from page_run import requests_to, watched
from serving import post, running
from test_beginnings import LONG, run_of

TEXT = ("the lamp is lit, said the goat. user assistant system 0 1 2 3 4 5 6 7 8 9 "
        "Who are you? 37*48 = 1776 \u0115")
TOK = bpe.Tokenizer.train([TEXT] * 4, 330)
CFG = gpt.Config(TOK.n_vocab, 128, 16, 2, 2)
SEEN = [("light", 1280, 900), ("dark", 1280, 900), ("light", 390, 844), ("dark", 390, 844)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three stages that differ, pages to begin with, and the automatic arena's table."""
    run = tmp_path_factory.mktemp("run")
    for seed, stage in enumerate(("base", "sft", "rl")):
        params = gpt.init(CFG, seed)
        for p in params.values():
            noise = np.random.default_rng([seed, p.size]).standard_normal(p.shape)
            p += noise.astype(np.float32) * 0.5
        gpt.save(run / stage, params, CFG)
        TOK.save(run / stage / "tokenizer.json")
    run_of(run, [f"the lamp{LONG}", f"The colour of the owl is grey{LONG}"],
           [("the owl", 20), ("the newt", 0)])
    rated = {"name": "sft", "rating": 1100.0, "low": 1050.0, "high": 1150.0, "rank": 1,
             "battles": 30, "score": 0.7}
    (run / "arena.json").write_text(json.dumps([rated]))
    return run


@pytest.fixture(scope="module")
def server(run):
    with running(run) as server:
        yield server


@pytest.fixture(params=SEEN, ids=lambda seen: f"{seen[0]}, {seen[1]}")
def page(request, browser):  # noqa: F811
    scheme, width, height = request.param
    context = browser.new_context(color_scheme=scheme, has_touch=width < 500,
                                  viewport={"width": width, "height": height})
    page = context.new_page()
    # What the browser itself says of a refusal, or of a request that a test cuts off.
    refused = ("Failed to load resource: the server responded with a status of 4",
               "Failed to load resource: net::ERR_FAILED")
    with watched(page, lambda said: said.startswith(refused)):
        yield page
    context.close()


@pytest.fixture
def opened(page, server):
    """A function that opens a view."""
    def at(view):
        page.goto(f"http://{server.address}/#{view}")
        return page

    return at


def wait_for(page, condition):
    page.wait_for_function(condition)


def text_of(selector):
    """The text of an element, in JavaScript."""
    return f"document.querySelector({json.dumps(selector)}).textContent"


def pieces(page, box="#inside_pieces"):
    return page.locator(f"{box} .tok").all_text_contents()


def read(page, text):
    """Have a text read, and wait until its pieces are there."""
    page.fill("#text", text)
    page.click("#read")
    shown(page, text)


def shown(page, text, special=True):
    """Wait until the pieces of a text are shown."""
    ids = inside.ids_of(TOK, text, special)
    want = [inside.spelled(TOK, i).replace("\n", "⏎") for i in ids]
    page.wait_for_function("""want => JSON.stringify(want) === JSON.stringify(
        [...document.querySelectorAll("#inside_pieces .tok")].map(e => e.textContent))""", arg=want)
    return want


CONTRAST = """() => {
  // WCAG's ratio of each visible text and what lies behind it.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
  const light = rgb => {
    const [r, g, b] = rgb.map(c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = e => {
    const own = rgba(getComputedStyle(e).backgroundColor);
    if (own[3] === 1 || !e.parentElement) return own.slice(0, 3);
    return over(own, behind(e.parentElement));
  };
  const low = [];
  for (const e of document.querySelectorAll("section.on *")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    const style = getComputedStyle(e);
    if (!own || !e.checkVisibility() || e.matches(":disabled, .paper textarea")) continue;
    const back = behind(e), front = over(rgba(style.color), back);
    const [a, b] = [light(back), light(front)].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    const name = e.id || e.className || e.tagName;
    if (ratio < 4.5) low.push([name, e.textContent.slice(0, 20), ratio]);
  }
  return low;
}"""


def check_contrast(page):
    assert page.evaluate(CONTRAST) == []


# ------------------------------------------------------------------------------------------ reading


def test_a_text_its_bars_layers_and_attention(opened):
    page = opened("inside")
    read(page, "the lamp is")
    n = page.locator("#inside_pieces .tok").count()
    assert page.locator("#bars button").count() == 14 and page.locator("#lens tr").count() == n + 1
    assert "nats" in page.inner_text("#inside_legend") and f"{n} tokens of 128" in page.inner_text(
        "#inside_legend")
    page.locator("#bars button").nth(2).click()     # that token is written, and what follows shown
    wait_for(page, f"document.querySelectorAll('#inside_pieces .tok').length == {n + 1}")
    page.fill("#in_temperature", "0.2")
    page.press("#in_temperature", "Tab")
    wait_for(page, text_of("#bars .share") + ".includes('→')")
    page.fill("#in_temperature", "1")
    page.press("#in_temperature", "Tab")
    wait_for(page, "!" + text_of("#bars .share") + ".includes('→')")
    check_contrast(page)


@pytest.mark.parametrize("field, value, wrong", [
    ("in_temperature", "", "temperature is empty: give a number, 0 to 2"),
    ("in_top_p", "2", "top-p is 2: give a number, 0.01 to 1"),
])
def test_a_wrong_setting_is_an_error(opened, field, value, wrong):
    """It is taken neither for 0 nor for what stood there: nothing is asked, and nothing is lost."""
    page = opened("inside")
    read(page, "the lamp is")
    n = page.locator("#inside_pieces .tok").count()
    looked, drawn = requests_to(page, "/api/look"), requests_to(page, "/completions")
    page.fill(f"#{field}", value)
    page.press(f"#{field}", "Tab")
    wait_for(page, text_of("#inside_error") + f" === {json.dumps(wrong)}")
    page.click("#roll")
    page.wait_for_timeout(200)
    assert page.inner_text("#inside_error") == wrong and looked == drawn == []
    assert page.input_value("#text") == "the lamp is"
    page.fill(f"#{field}", "1")
    page.press(f"#{field}", "Tab")
    wait_for(page, text_of("#inside_error") + " === ''")
    page.click("#roll")
    wait_for(page, f"document.querySelectorAll('#inside_pieces .tok').length == {n + 1}")


def test_drawing_uses_what_was_typed(opened):
    """Also if it was not read before. Nothing that was typed is lost."""
    page = opened("inside")
    read(page, "the lamp")
    page.fill("#text", "said the goat")
    page.click("#roll")
    n = len(inside.ids_of(TOK, "said the goat"))
    wait_for(page, f"document.querySelectorAll('#inside_pieces .tok').length == {n + 1}")
    assert page.input_value("#text").startswith("said the goat")
    page.fill("#text", "the lamp is lit")
    page.locator("#bars button").first.click()      # of the text before: the new one is read first
    shown(page, "the lamp is lit")
    wait_for(page, text_of("#inside_said") + ".includes('read first')")
    assert page.input_value("#text") == "the lamp is lit"


def test_undo_brings_back_what_drawing_dropped(opened):
    page = opened("inside")
    read(page, "the lamp is lit")
    tokens = page.locator("#inside_pieces .tok")
    n = tokens.count()
    tokens.nth(1).click()
    page.click("#roll")
    wait_for(page, "document.querySelectorAll('#inside_pieces .tok').length == 3")
    assert f"{n - 2} tokens behind" in page.inner_text("#inside_said")
    page.focus("#text")
    page.keyboard.press("Control+z")
    shown(page, "the lamp is lit")
    assert page.input_value("#text") == "the lamp is lit"
    page.click("#in_redo")
    wait_for(page, "document.querySelectorAll('#inside_pieces .tok').length == 3")
    page.click("#in_undo")
    shown(page, "the lamp is lit")
    page.focus("#text")
    page.keyboard.press("End")
    page.keyboard.type(" said")
    page.keyboard.press("Control+z")
    wait_for(page, "document.querySelector('#text').value === 'the lamp is lit'")
    page.keyboard.press("Control+Shift+z")
    wait_for(page, "document.querySelector('#text').value === 'the lamp is lit said'")
    assert "press Read" in page.inner_text("#inside_said")


def test_undo_brings_back_the_very_text(opened):
    """Also where its tokens, as a text, would be another one."""
    page = opened("inside")
    page.fill("#text", "<|endoftext|>the lamp ")
    page.click("#read")
    shown(page, "the lamp ")
    page.click("#roll")
    n = len(inside.ids_of(TOK, "the lamp "))
    wait_for(page, f"document.querySelectorAll('#inside_pieces .tok').length == {n + 1}")
    page.click("#in_undo")
    shown(page, "the lamp ")
    assert page.input_value("#text") == "<|endoftext|>the lamp "


def test_special_tokens(opened):
    """Their names are read as one token each, or as letters; bytes are spelled."""
    page = opened("inside")
    page.fill("#text", "<|im_start|>user\u0115")
    page.click("#read")
    want = shown(page, "<|im_start|>user\u0115")
    assert want[0] == "<|im_start|>" and want[-2:] == ["\\xc4", "\\x95"]
    assert page.locator("#inside_pieces .special").all_text_contents() == ["<|im_start|>"]
    page.uncheck("#in_special")
    shown(page, "<|im_start|>user\u0115", special=False)
    check_contrast(page)


def test_tokens_of_a_chat(page, server):
    """inspectIds shows them as they are, in the view and by the model that is named."""
    ids = sample.render_prompt([{"role": "user", "content": "Who?"}], TOK)
    page.goto(f"http://{server.address}/")
    page.wait_for_selector("#inside_model option", state="attached")
    page.evaluate("([ids, model]) => inspectIds(ids, model)", [ids, "rl"])
    page.wait_for_selector("#view_inside.on")
    wait_for(page, f"document.querySelectorAll('#inside_pieces .tok').length == {len(ids)}")
    assert pieces(page)[:2] == ["<|im_start|>", inside.spelled(TOK, ids[1])]
    assert page.input_value("#inside_model") == "rl"
    assert page.input_value("#text") == TOK.decode(ids)
    page.click("#read")
    page.wait_for_timeout(300)
    assert pieces(page) == [inside.spelled(TOK, i) for i in ids]


def test_another_model_reads_the_same_tokens(opened):
    page = opened("inside")
    read(page, "the lamp is lit")
    page.locator("#inside_pieces .tok").nth(2).click()
    before = page.locator("#bars").inner_text()
    page.select_option("#inside_model", "rl")
    wait_for(page, f"document.querySelector('#bars').innerText !== {json.dumps(before)}")
    assert page.locator("#inside_pieces .tok.on").inner_text().strip() == "lamp"


def test_by_keyboard(opened):
    """Tab into the pieces, arrows and Space; the page does not scroll. Then layers, bars, grid."""
    page = opened("inside")
    read(page, "the lamp is lit")
    page.focus("#in_undo")
    page.keyboard.press("Tab")
    if page.evaluate("document.activeElement.id") == "in_redo":
        page.keyboard.press("Tab")
    n = page.locator("#inside_pieces .tok").count()
    focused = "document.activeElement.textContent"
    assert page.evaluate(focused) == page.locator("#inside_pieces .tok").nth(n - 1).text_content()
    page.keyboard.press("Home")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == " lamp" == page.locator("#inside_pieces .on").text_content()
    top = page.evaluate("scrollY")
    page.keyboard.press("Space")
    page.wait_for_timeout(300)              # a browser scrolls smoothly
    assert page.evaluate("scrollY") == top and "lamp" in page.inner_text("#after")
    page.keyboard.press("ArrowLeft")
    assert "the" in page.inner_text("#after")
    page.locator("#lens .lens_cell").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.inner_text("#lens_said").startswith("embedding, after the: ")
    page.focus("#text")
    page.keyboard.type("goat ")
    page.keyboard.press("Control+Enter")
    wait_for(page, text_of("#inside_pieces") + ".includes('goat')")


def test_an_answer_that_comes_late_is_not_shown(page, server):
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
    page.goto(f"http://{server.address}/#inside")
    page.fill("#text", "the lamp")
    page.click("#read")
    wait_for(page, "window.late && " + text_of("#inside_pieces") + ".includes('lamp')")
    page.wait_for_timeout(200)
    assert "".join(pieces(page)).endswith("the lamp")
    assert page.input_value("#text") == "the lamp"


def test_a_text_like_a_special_token_stays_text(page, tmp_path):
    """<||> is a token of its own here, and no special one: it stays in the text when a token is
    added.
    """
    tok = bpe.Tokenizer.train(["<||>lamp <||> goat <||>"] * 20, 285)
    assert len(tok.encode_ordinary("<||>")) == 1
    cfg = gpt.Config(tok.n_vocab, 64, 16, 2, 2)
    gpt.save(tmp_path / "base", gpt.init(cfg, 0), cfg)
    tok.save(tmp_path / "base/tokenizer.json")
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/#inside")
        page.fill("#text", "<||>lamp")
        page.click("#read")
        wait_for(page, text_of("#inside_pieces") + ".endsWith('<||>lamp')")
        page.locator("#bars button").first.click()
        wait_for(page, "document.querySelector('#text').value !== '<||>lamp'")
        assert page.input_value("#text").startswith("<||>lamp")


# ---------------------------------------------------------------------------------------- attention


def test_attention(opened, run):
    """A cell is read by mouse, by a tap and by arrows; the future is masked."""
    page = opened("inside")
    read(page, "the lamp is lit")
    ids = inside.ids_of(TOK, "the lamp is lit")
    n = len(ids)
    wait_for(page, text_of("#where") + ".startsWith('Point at')")
    box = page.locator("#grid").bounding_box()
    page.locator("#grid").scroll_into_view_if_needed()

    def cell(row, column):
        return {"x": (column + .5) * box["width"] / n, "y": (row + .5) * box["height"] / n}

    touch = page.evaluate("innerWidth < 500")
    point = page.locator("#grid").tap if touch else page.locator("#grid").hover
    point(position=cell(3, 1))
    params, cfg = gpt.load(run / "base")
    seen, _ = inside.look(params, cfg, ids)
    said = page.inner_text("#where")
    assert said.startswith("␣is (4) looks at the (2): ") and said.endswith(" %")
    assert float(said.split(": ")[1].rstrip(" %")) == pytest.approx(
        100 * seen[0, 0, 3, 1], abs=0.3)
    point(position=cell(1, 3))
    assert "Masked: later tokens are not seen" in page.inner_text("#where")
    last = page.locator("#lens tr").last.locator("td").last.bounding_box()
    assert last["x"] + last["width"] <= page.evaluate("innerWidth")     # no layer is cut off
    page.focus("#grid")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#where").startswith("the (2) looks at the (2)")
    for choose in (lambda: page.select_option("#layer", index=1),
                   lambda: page.select_option("#head", index=1),
                   lambda: page.select_option("#inside_model", "sft"),
                   lambda: read(page, "the goat")):
        page.focus("#grid")
        page.keyboard.press("ArrowLeft")
        choose()
        wait_for(page, text_of("#where") + ".startsWith('Point at')")
        assert page.locator("#cross").is_hidden()


def test_labels_of_a_long_text(opened):
    """Some names stay, and those of the cell that is pointed at."""
    page = opened("inside")
    text = "the lamp is lit, said the goat. " * 6
    read(page, text)
    n = len(inside.ids_of(TOK, text))
    assert n > 40
    wait_for(page, text_of("#where") + ".startsWith('Point at')")
    page.focus("#grid")
    for key in ["ArrowLeft"] * 2 + ["ArrowUp"]:
        page.keyboard.press(key)
    for side in ("#keys", "#queries"):
        assert 16 <= page.locator(f"{side} span").count() <= 34
        assert page.locator(f"{side} span.on").count() == 1
    assert f"({n - 1})" in page.inner_text("#where")
    read(page, "the")                       # one question after the other
    check_contrast(page)


# -------------------------------------------------------------------------------- what if


def press(page, part):
    page.locator(f"[data-part='{part}']:visible").click()


def test_parts_that_are_off(opened, server):
    page = opened("inside")
    read(page, "the lamp is lit")
    page.check("input[value=off]")
    press(page, "1.2")
    page.wait_for_selector("#changed:not([hidden])")
    ids = inside.ids_of(TOK, "the lamp is lit")
    want = post(server, "/api/contrast", {"model": "base", "tokens": ids, "off": ["1.2"], "n": 14})
    assert percent(want["moved"][-1]) in page.inner_text("#moved")
    assert "without 1.2" in page.inner_text("#bars_legend")
    shares = page.locator("#bars .share").all_inner_texts()
    assert shares[0] == " → ".join(percent(share) for share in want["next"][-1][0][2:])
    page.locator("#changed_pieces .tok").nth(1).click()
    assert percent(want["moved"][1]) in page.inner_text("#moved")
    assert page.locator("#inside_pieces .on").inner_text() == "the"
    check_contrast(page)
    page.locator("[data-part='1.1']:visible").focus()       # and by keyboard
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    wait_for(page, text_of("#bars_legend") + ".includes('1.2, 2.1')")
    assert page.locator("[aria-pressed=true]:visible").count() == 2
    page.check("input[value='']")
    page.wait_for_selector("#changed", state="hidden")


def percent(x):
    """As the page writes a share."""
    return "100 %" if x >= .9995 else f"{100 * x:.{2 if x < .01 else 1}f} %"


def test_parts_of_another_text(opened, server):
    """All behind the last layer gives the other text's prediction; unequal lengths are said."""
    page = opened("inside")
    read(page, "the lamp is lit")
    page.check("input[value=patch]")
    page.fill("#other_text", "the lamp")
    wait_for(page, text_of("#other_said") + ".includes('both must have as many')")
    press(page, "layer2")
    page.wait_for_timeout(300)
    assert page.locator("#changed").is_hidden() and page.inner_text("#inside_error") == ""
    page.fill("#other_text", "the goat is lit")
    wait_for(page, text_of("#other_said") + ".includes('Both texts have')")
    page.wait_for_selector("#changed:not([hidden])")
    other = post(server, "/api/look", {"model": "base", "text": "the goat is lit", "n": 1})
    [_, text, share, _] = other["next"][-1][0]
    rows = dict(zip(page.locator("#bars button").all_inner_texts(),
                    page.locator("#bars .share").all_inner_texts()))
    shown_text = text.replace("\n", "⏎")
    shown_text = "␣" + shown_text[1:] if shown_text.startswith(" ") else shown_text
    shown_text = "".join(chr(0x2400 + ord(c)) if c < " " else c for c in shown_text)
    assert rows[shown_text].split(" → ")[-1] == percent(share)
    check_contrast(page)
    page.check("#patch_place")              # the last place alone is enough behind the last layer
    page.locator("#inside_pieces .tok").nth(1).click()
    wait_for(page, text_of("#moved") + ".startsWith('0.00 %')")
    page.locator("#inside_pieces .tok").last.click()
    assert not page.inner_text("#moved").startswith("0.00 %")
    page.locator("#other_pieces .tok").nth(1).click()       # and no other place is
    wait_for(page, text_of("#moved") + ".startsWith('0.00 %')")


def test_which_places_count(opened, server):
    """A table of places and layers; a cell patches there."""
    page = opened("inside")
    read(page, "the lamp is lit")
    page.check("input[value=patch]")
    page.fill("#other_text", "the goat is lit")
    wait_for(page, text_of("#other_said") + ".includes('Both texts have')")
    page.click("#find_places")
    page.wait_for_selector("#places button")
    ids, other = (inside.ids_of(TOK, f"the {name} is lit") for name in ("lamp", "goat"))
    body = {"model": "base", "tokens": ids, "other_tokens": other}
    want = post(server, "/api/trace", body)
    rows = [percent(share) for shares in zip(*want["shares"]) for share in shares]
    assert page.locator("#places button").all_inner_texts() == rows
    assert "␣lamp ← ␣goat" in page.inner_text("#places")
    page.locator("#places button").nth(2 * CFG.n_layer).click()     # layer 1, at " lamp"
    asked = {"model": "base", "tokens": ids, "other_tokens": other, "patch": ["layer1"],
             "places": [2]}
    moved = post(server, "/api/contrast", asked)["moved"][-1]
    wait_for(page, text_of("#moved") + f".startsWith('{percent(moved)}')")
    check_contrast(page)
    page.fill("#other_text", "the goat")
    wait_for(page, "!document.querySelector('#places button')")
    assert page.is_disabled("#find_places")


def test_another_stage(opened, server):
    page = opened("inside")
    read(page, "the lamp is lit")
    page.check("input[value=against]")
    options = page.locator("#against option").all_text_contents()
    assert sorted(options) == ["rl", "sft"]
    page.select_option("#against", "rl")
    wait_for(page, text_of("#bars_legend") + ".includes('rl')")
    ids = inside.ids_of(TOK, "the lamp is lit")
    other = post(server, "/api/look", {"model": "rl", "tokens": ids, "n": 1})
    page.wait_for_selector("#changed:not([hidden])")
    mean = sum(other["surprise"][1:]) / (len(ids) - 1)
    assert f"rl: {mean:.2f} nats" in page.inner_text("#changed_name")
    assert "base" in page.inner_text("#bars_legend")
    check_contrast(page)


def test_heads_that_copy(opened, server):
    page = opened("inside")
    read(page, "the lamp is lit")
    page.click("#find_copying")
    page.wait_for_selector("#copying button")
    want = post(server, "/api/induction", {"model": "base"})
    scores = [percent(score) for row in want["scores"] for score in row]
    assert page.locator("#copying button").all_inner_texts() == scores
    assert percent(want["chance"]) in page.inner_text("#copying_said")
    page.locator("#copying button").nth(3).click()
    assert [page.input_value("#layer"), page.input_value("#head")] == ["1", "1"]
    page.click("#copying_read")
    wait_for(page, "document.querySelectorAll('#inside_pieces .tok').length"
                   f" == {len(want['ids'])}")
    assert pieces(page) == [inside.spelled(TOK, i).replace("\n", "⏎") for i in want["ids"]]
    check_contrast(page)


# --------------------------------------------------------------------------------------- playground


@pytest.fixture
def slowly(monkeypatch):
    """Every token takes a twentieth of a second."""
    step = generate.Batch._read

    def late(self):
        time.sleep(0.05)
        return step(self)

    monkeypatch.setattr(generate.Batch, "_read", late)


def written(page):
    return "".join(page.locator("#play_mirror mark").all_text_contents())


def rest(page):
    page.wait_for_selector("#play_go:enabled")


def go_on(page, longest=8):
    page.fill("#play_longest", str(longest))
    page.click("#play_go")
    rest(page)


def test_a_page_that_goes_on(opened, server):
    """What the model writes is coloured, stays when one types, and goes by Undo."""
    page = opened("playground")
    page.fill("#play_text", "the lamp")
    page.fill("#play_seed", "7")
    page.fill("#play_temperature", "1")
    go_on(page)
    body = {"prompt": "the lamp", "max_tokens": 8, "seed": 7, "temperature": 1, "model": "base"}
    [choice] = post(server, "/v1/completions", body)["choices"]
    assert page.input_value("#play_text") == "the lamp" + choice["text"]
    assert written(page) == choice["text"] and page.inner_text("#play_said").startswith("8 tokens")
    page.focus("#play_text")
    page.keyboard.press("Control+Home")
    page.keyboard.type("Look: ")
    assert written(page) == choice["text"]
    assert page.input_value("#play_text") == "Look: the lamp" + choice["text"]
    page.keyboard.press("Control+z")
    assert page.input_value("#play_text") == "the lamp" + choice["text"]
    page.click("#play_undo")
    assert page.input_value("#play_text") == "the lamp" and written(page) == ""
    page.click("#play_redo")
    assert page.input_value("#play_text") == "the lamp" + choice["text"]
    check_contrast(page)


def test_it_goes_on_from_the_very_tokens(opened, server):
    """Twice 4 tokens are 8 tokens at temperature 0."""
    page = opened("playground")
    page.fill("#play_text", "the lamp")
    page.fill("#play_temperature", "0")
    go_on(page, 4)
    go_on(page, 4)
    body = {"prompt": "the lamp", "max_tokens": 8, "temperature": 0, "model": "base"}
    [choice] = post(server, "/v1/completions", body)["choices"]
    assert page.input_value("#play_text") == "the lamp" + choice["text"]


def prompts_of(page):
    """A list that gets the prompt of each text that the page has written from now on."""
    return requests_to(page, "/v1/completions", "prompt")


def test_it_goes_on_from_what_was_typed(opened):
    page = opened("playground")
    prompts = prompts_of(page)
    page.fill("#play_text", "the lamp")
    go_on(page, 3)
    page.focus("#play_text")
    page.keyboard.press("Control+End")
    page.keyboard.type(" said")
    text = page.input_value("#play_text")
    go_on(page, 3)
    assert prompts == [inside.ids_of(TOK, "the lamp"), inside.ids_of(TOK, text)]
    assert page.input_value("#play_text").startswith(text) and text.endswith(" said")


def test_it_goes_on_from_where_it_was_stopped(opened, server):
    """Tokens that a stop string has cut off are no part of the page."""
    page = opened("playground")
    prompts = prompts_of(page)
    body = {"prompt": "the lamp", "max_tokens": 12, "temperature": 0, "model": "base"}
    [choice] = post(server, "/v1/completions", body)["choices"]
    written_text = choice["text"].rstrip("\ufffd")
    ends = written_text[len(written_text) // 2]
    before = "the lamp" + written_text[:written_text.index(ends)]
    page.fill("#play_text", "the lamp")
    page.fill("#play_temperature", "0")
    page.fill("#play_ends", ends)
    go_on(page, 12)
    assert page.input_value("#play_text") == before
    assert "the page ends here" in page.inner_text("#play_said")
    page.fill("#play_ends", "")
    go_on(page, 2)
    assert prompts[1] == inside.ids_of(TOK, before)


def test_settings_of_a_page(opened, server):
    """Each of them reaches the server."""
    page = opened("playground")
    sent = []
    page.on("request", lambda r: r.url.endswith("/v1/completions") and sent.append(
        r.post_data_json))
    page.fill("#play_text", "the lamp")
    page.select_option("#play_model", "sft")
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "longest": 6, "seed": 3}
    for name, value in given.items():
        page.fill(f"#play_{name}", str(value))
    page.fill("#play_ends", "lit\\n")
    page.click("#play_go")
    rest(page)
    [body] = sent
    given["max_tokens"] = given.pop("longest")
    assert given.items() <= body.items() and body["stop"] == ["lit\n"] and body["model"] == "sft"
    assert body["prompt"] == inside.ids_of(TOK, "the lamp")


def test_beginnings_to_try(opened):
    page = opened("playground")
    page.fill("#play_longest", "4")
    page.click("#play_beginnings button:has-text('the newt: on no page')")
    wait_for(page, "document.querySelectorAll('#play_mirror mark').length == 1")
    rest(page)
    assert page.input_value("#play_text").startswith("The colour of the newt is")
    page.click("#play_beginnings button:has-text('the owl: on 20 pages')")
    rest(page)
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert "newt" in page.input_value("#play_text")     # nothing is lost


def test_stopping_a_page(opened, slowly):
    page = opened("playground")
    for stop in (lambda: page.click("#play_stop"), lambda: page.keyboard.press("Escape"),
                 lambda: page.keyboard.type("x")):
        page.fill("#play_text", "the lamp")
        page.fill("#play_longest", "100")
        page.focus("#play_text")
        page.keyboard.press("Control+Enter")
        wait_for(page, "document.querySelector('#play_mirror mark')?.textContent.length > 3")
        stop()
        text = page.input_value("#play_text")
        assert len(text) > len("the lamp") + 2
        page.wait_for_timeout(300)
        assert page.input_value("#play_text") == text and page.inner_text("#play_error") == ""
        assert page.is_enabled("#play_go")
        assert page.evaluate("document.activeElement.id") == "play_text"


def test_a_page_longer_than_the_context(opened):
    """The model reads its end, and the page says so."""
    page = opened("playground")
    page.fill("#play_text", "the lamp is lit, said the goat. " * 30)
    go_on(page)
    n = len(inside.ids_of(TOK, "the lamp is lit, said the goat. " * 30))
    assert f"has read the last {CFG.n_positions - 8} tokens of {n}" in page.inner_text("#play_said")
    assert written(page)


def test_probabilities_and_alternatives(opened, server):
    """A token shows what might have stood there; another one goes on from there."""
    page = opened("playground")
    page.fill("#play_text", "the lamp is")
    page.fill("#play_temperature", "0")
    go_on(page, 6)
    before = page.input_value("#play_text")
    page.check("#play_shares")
    page.wait_for_selector("#play_pieces .tok.written")
    typed = len(inside.ids_of(TOK, "the lamp is"))
    marks = page.evaluate("[...document.querySelectorAll('#play_pieces .tok')].map("
                          "e => e.classList.contains('written'))")
    assert marks == [False] * typed + [True] * 6
    tokens = page.locator("#play_pieces .tok")
    ids = inside.ids_of(TOK, "the lamp is")
    look = post(server, "/api/look", {"model": "base", "tokens": ids, "n": 2})
    first, second = look["next"][-1]
    touch = page.evaluate("innerWidth < 500")
    (tokens.nth(typed).tap if touch else tokens.nth(typed).click)()
    assert percent(first[2]) in page.inner_text("#play_chosen")
    assert page.locator("#play_bars .share").nth(1).inner_text() == percent(second[2])
    check_contrast(page)
    page.locator("#play_bars button").nth(1).click()
    wait_for(page, text_of("#play_said") + ".startsWith('6 tokens')")
    rest(page)
    body = {"prompt": [*ids, second[0]], "max_tokens": 6, "temperature": 0, "model": "base"}
    [choice] = post(server, "/v1/completions", body)["choices"]
    after = inside.text_of(TOK, [*ids, second[0]]) + choice["text"]
    assert page.input_value("#play_text") == after and after != before
    page.uncheck("#play_shares")
    page.click("#play_undo")
    page.click("#play_undo")
    assert page.input_value("#play_text") == before


@pytest.mark.parametrize("field, value, wrong", [
    ("temperature", "9", "temperature is 9: give a number, 0 to 2"),
    ("longest", "", "longest is empty: give a number, 1 or more"),
    ("seed", "-1", "seed is -1: give a number, 0 or more"),
])
def test_errors_of_a_page(opened, field, value, wrong):
    """A field that is empty or wrong is named, and nothing is sent."""
    page = opened("playground")
    sent = requests_to(page, "/completions")
    page.fill("#play_text", "the lamp")
    page.fill(f"#play_{field}", value)
    page.click("#play_go")
    wait_for(page, text_of("#play_error") + f" === {json.dumps(wrong)}")
    assert page.input_value("#play_text") == "the lamp" and page.is_enabled("#play_go")
    assert sent == []


# -------------------------------------------------------------------------------------------- arena


@pytest.fixture
def file(run):
    """The run's file of votes, which is not there at first."""
    path = run / votes.FILE
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


def test_a_blind_vote(opened, file):
    """No name is in the page before the vote; then the names, the line and the rating are there."""
    page = opened("arena")
    answers = []
    page.on("response", lambda r: "/api/battle" in r.url and answers.append(r))
    assert page.inner_text("#votes_note") in ("", "No votes yet.")
    page.fill("#duel_question", "Who?")
    page.press("#duel_question", "Enter")
    page.wait_for_selector("[data-vote=left]:enabled")
    duel = page.inner_html("#duel") + answers[0].text()
    assert not any(name in duel for name in ("base", "sft", '"rl"', ": rl"))
    assert page.evaluate("document.activeElement.dataset.vote") == "left"
    check_contrast(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")                    # right is better
    wait_for(page, text_of("#duel_said") + ".startsWith('Left was')")
    [line] = [json.loads(line) for line in file.read_text().splitlines()]
    assert line["vote"] == "right" and line["question"] == "Who?"
    for side in ("left", "right"):
        assert page.inner_text(f"#duel_{side}_name") == f"{side}: {line[side]}"
    assert page.locator("#duel_right.better").count() == 1
    assert page.inner_text("#votes_note").startswith("1 vote on 1 question")
    assert "too few votes" in page.inner_text("#votes_table")
    assert page.locator("[data-vote]:enabled").count() == 0
    assert "1050 to 1150" in page.inner_text("#ranked_table")
    assert "Nobody voted here" in page.inner_text("#ranked_note")
    check_contrast(page)


def test_both_replies_grow_side_by_side(opened, file, monkeypatch):
    """Both are read while they are written, and nobody votes before their end."""
    step = generate.Batch.step

    def late(self):
        time.sleep(0.05)
        return step(self)

    monkeypatch.setattr(generate.Batch, "step", late)
    page = opened("arena")
    page.fill("#duel_question", "Who?")
    page.press("#duel_question", "Enter")
    sizes = "['duel_left', 'duel_right'].map(id => $(id).innerText.length)"
    page.wait_for_function(f"{sizes}.every(size => size > 3)")
    early = page.evaluate(sizes)
    assert page.locator("[data-vote]:enabled").count() == 0 and page.is_disabled("#duel_ask")
    assert page.inner_text("#duel_said") == "Two models are answering ..."
    assert page.input_value("#duel_question") == "Who?"
    page.wait_for_function(f"Math.max(...{sizes}) > {max(early)} + 5")
    monkeypatch.undo()
    page.wait_for_selector("[data-vote=left]:enabled")
    assert page.input_value("#duel_question") == ""
    page.click("[data-vote=left]")
    wait_for(page, text_of("#duel_said") + ".startsWith('Left was')")
    [line] = [json.loads(line) for line in file.read_text().splitlines()]
    for side in ("left", "right"):
        said = page.text_content(f"#duel_{side}").removesuffix(" … (cut off)")
        assert said == line[f"{side}_reply"]


def test_a_battle_that_breaks_off(opened, server, monkeypatch):
    """What was asked stays in the box, and no vote is taken on half of a reply."""
    page = opened("arena")
    in_step = votes.in_step

    def broken(*given):
        yield from itertools.islice(in_step(*given), 2)
        raise Refused(500, "the model failed")

    monkeypatch.setattr(votes, "in_step", broken)
    page.fill("#duel_question", "Who?")
    page.click("#duel_ask")
    wait_for(page, text_of("#duel_error") + " === 'the model failed'")
    assert page.input_value("#duel_question") == "Who?" and page.is_enabled("#duel_ask")
    assert page.locator("[data-vote]:enabled").count() == 0
    monkeypatch.undo()
    page.click("#duel_ask")
    page.wait_for_selector("[data-vote=left]:enabled")
    assert page.inner_text("#duel_error") == ""


def test_a_vote_comes_once_and_errors_lose_nothing(opened, file):
    page = opened("arena")
    page.fill("#duel_question", "goat " * 300)
    page.click("#duel_ask")
    wait_for(page, text_of("#duel_error") + ".includes('context')")
    assert page.input_value("#duel_question").startswith("goat goat")
    for name in ("base", "sft"):
        page.uncheck(f"#duel_models input[value={name}]")
    page.fill("#duel_question", "Who?")
    page.click("#duel_ask")
    wait_for(page, text_of("#duel_error") + ".includes('needs two')")
    page.check("#duel_models input[value=sft]")
    page.click("#duel_ask")
    page.wait_for_selector("[data-vote=tie]:enabled")
    page.dblclick("[data-vote=tie]", force=True)
    wait_for(page, text_of("#duel_said") + ".startsWith('Left was')")
    assert len(file.read_text().splitlines()) == 1 and "base" not in page.inner_text("#duel_said")
    assert page.inner_text("#duel_error") == ""


def test_a_battle_without_a_temperature(opened):
    page = opened("arena")
    sent = requests_to(page, "/api/battle")
    page.fill("#duel_question", "Who?")
    page.fill("#duel_temperature", "")
    page.click("#duel_ask")
    wait_for(page, text_of("#duel_error") + " === 'temperature is empty: give a number, 0 to 2'")
    assert page.input_value("#duel_question") == "Who?" and page.is_enabled("#duel_ask")
    assert sent == []


def test_names_come_with_their_own_battle(opened, file):
    """While a vote is on its way no other battle begins; one that fails can be given again."""
    page = opened("arena")
    page.fill("#duel_question", "Who?")
    page.click("#duel_ask")
    page.wait_for_selector("[data-vote=left]:enabled")
    page.route("**/api/vote", lambda route: route.abort())
    page.click("[data-vote=left]")
    wait_for(page, text_of("#duel_error") + " !== ''")
    assert page.locator("[data-vote]:enabled").count() == 4
    page.unroute("**/api/vote")
    late = []
    page.route("**/api/vote", lambda route: late.append(route))
    page.click("[data-vote=left]")
    assert page.is_disabled("#duel_ask")
    wait_for(page, "document.querySelector('#duel_ask').disabled")
    page.fill("#duel_question", "Who is that?")
    page.press("#duel_question", "Enter")
    page.wait_for_timeout(200)
    assert page.inner_text("#duel_asked") == "Who?"
    while not late:
        page.wait_for_timeout(50)
    late[0].continue_()
    wait_for(page, text_of("#duel_said") + ".startsWith('Left was')")
    assert page.input_value("#duel_question") == "Who is that?"
    assert len(file.read_text().splitlines()) == 1
