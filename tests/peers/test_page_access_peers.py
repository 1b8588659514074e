"""Whom the page (chat/page/) lets in: with a keyboard, a screen reader, a phone, or a key.

In headless Chromium. Needs Chromium and the playwright package.
"""

import pytest

from chromium import browser  # noqa: F401  a fixture
from page_run import (  # noqa: F401
    END, WHO, address, ask, focused, idle, page, pieces, questions, replies, requests_to, run,
    scripted, slowly, text_of, wait_for,
)
from serving import running
from web import toyweb

VIEWS = ["chat", "inside", "tokens", "data", "training"]

# Texts whose contrast with what is behind them is below 4.5: [contrast, text, class]
LOW_CONTRAST = """() => {
  const parsed = colour => {
    const [r, g, b, a = 1] = colour.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
    const scale = colour.startsWith("color(") ? 255 : 1;
    return [r * scale, g * scale, b * scale, a];
  };
  const over = (top, below) => {
    const mixed = [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
    return [...mixed, 1];
  };
  const behind = element => {
    if (!element) return [255, 255, 255, 1];
    const colour = parsed(getComputedStyle(element).backgroundColor);
    return colour[3] === 1 ? colour : over(colour, behind(element.parentElement));
  };
  const opacity = element =>
    element ? getComputedStyle(element).opacity * opacity(element.parentElement) : 1;
  const luminance = ([r, g, b]) => {
    const linear = [r, g, b].map(x => x / 255)
      .map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    return .2126 * linear[0] + .7152 * linear[1] + .0722 * linear[2];
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const text = texts.currentNode.data.trim();
    if (!text || !element.checkVisibility() || element.closest(":disabled, script")) continue;
    const ground = behind(element);
    const ink = parsed(getComputedStyle(element).color);
    const seen = over([...ink.slice(0, 3), ink[3] * opacity(element)], ground);
    const [low, high] = [luminance(seen), luminance(ground)].sort((a, b) => a - b);
    const contrast = (high + .05) / (low + .05);
    if (contrast < 4.5) found.push([contrast.toFixed(2), text, element.className]);
  }
  return found;
}"""

# Focusable elements without a name: their tags.
NAMELESS = """() => [...document.querySelectorAll(
  "button, input, select, textarea, canvas, summary, meter")]
  .filter(element => element.checkVisibility())
  .filter(element => ![element.ariaLabel, element.textContent.trim(), element.title,
    element.getAttribute("aria-labelledby"), element.labels?.[0]?.textContent.trim()].some(Boolean))
  .map(element => element.outerHTML.slice(0, 90))"""


def pressed_until(page, key, condition, most=60):
    """Press a key until a condition in JavaScript holds."""
    for _ in range(most):
        if page.evaluate(condition):
            return
        page.keyboard.press(key)
    raise AssertionError(f"not reached with {most} times {key}: {condition}")


# -------------------------------------------------------------------------- contrast, names, sizes


@pytest.mark.parametrize("view", VIEWS)
def test_contrast_and_names(page, address, view):
    """Of every text in every view 4.5 to 1; every control has a name, and the page a heading."""
    page.goto(f"{address}#{view}")
    page.wait_for_timeout(700)
    if view == "chat":
        page.click("#settings summary")
        page.fill("#max_tokens", "5")
        for _ in range(2):
            ask(page, "Who?")
            idle(page)
        page.locator("text=retry").click()
        idle(page)
        page.check("#raw")
        page.wait_for_selector("#conversation_tokens .tok")
        page.locator("#turns button", has_text="edit").first.click()
    if view == "tokens":
        page.fill("#cut_text", "lamp goat 0123456789 " * 8)
        wait_for(page, "document.querySelectorAll('#cuts .tok').length > 40")
    if view == "training":
        page.locator("#stages input[value=sft]").check()
        wait_for(page, "document.querySelectorAll('.legend span').length > 2")
    assert page.evaluate(LOW_CONTRAST) == []
    assert page.evaluate(NAMELESS) == []
    assert page.locator("h1").count() == 1 and page.inner_text("h1") == "Longhand"


def test_the_contrast_check_finds_a_fault(page, address):
    page.goto(address)
    page.add_style_tag(content=".who { opacity: .6 } .note { color: #888 }")
    ask(page, "Who?")
    idle(page)
    assert page.evaluate(LOW_CONTRAST)


def in_order(page):
    """The nodes of the tree that a screen reader reads, {"role", "name", ...}, in their order."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    by_id = {node["nodeId"]: node for node in nodes}
    found, waiting = [], [nodes[0]]
    while waiting:
        node = waiting.pop()
        waiting += [by_id[child] for child in reversed(node["childIds"]) if child in by_id]
        if not node["ignored"]:
            more = {each["name"]: each["value"].get("value") for each in node["properties"]}
            name = node.get("name", {}).get("value", "").strip()
            found.append({**more, "role": node["role"]["value"], "name": name})
    return found


def check_tree(page):
    """All that takes the focus has a name, headings leave out no level, and errors are said."""
    nodes = in_order(page)
    silent = [node for node in nodes
              if node.get("focusable") and not node["name"] and node["role"] != "RootWebArea"]
    assert not silent
    levels = [node["level"] for node in nodes if node["role"] == "heading"]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:])), levels
    return nodes


@pytest.mark.parametrize("view, done", [
    ("chat", None),
    ("playground", None),
    ("inside", "document.querySelector('#bars button')"),
    ("arena", "document.querySelector('[data-vote=left]:enabled')"),
    ("walk", "document.querySelector('#walk[data-drawn]')"),
    ("tokens", "document.querySelector('#cuts .tok')"),
    ("data", "document.querySelector('#funnel .bar')"),
    ("training", "document.querySelector('figure canvas')"),
])
def test_the_tree_of_each_view(page, address, view, done):
    """Of each view, when it shows something."""
    page.goto(f"{address}#{view}")
    if view == "chat":
        page.wait_for_selector("#ask_all:enabled")
        page.click("#settings summary")
        page.fill("#max_tokens", "5")
        page.fill("#question", "Who?")
        page.click("#ask_all")
        idle(page)
        page.check("#raw")
        page.wait_for_selector("#conversation_tokens .tok")
    if view == "arena":
        page.fill("#duel_question", "Who?")
        page.press("#duel_question", "Enter")
    if done:
        page.wait_for_function(done, timeout=60_000)
    nodes = check_tree(page)
    live = {node.get("live") for node in nodes} - {None, "off"}
    if view in ("chat", "playground", "inside", "arena", "walk"):
        assert live == {"polite", "assertive"}      # what is new, and what is wrong
    names = [node["name"] for node in nodes if node["role"] == "group"]
    expected = {"chat": {"reply of base", "reply of sft"}, "arena": {"left", "right", "your vote"}}
    assert expected.get(view, set()) <= set(names)


def test_the_check_of_the_tree_finds_faults(page, address):
    page.goto(address)
    page.wait_for_selector("#send:enabled")
    for fault in ("<span tabindex=0></span>", "<button> </button>", "<h3>Two levels down</h3>",
                  "<h1>A second one</h1>"):
        page.evaluate("html => document.querySelector('#turns').innerHTML = html", fault)
        with pytest.raises(AssertionError):
            check_tree(page)


def test_sizes_on_a_phone(page, address):
    """No field makes iOS zoom, and buttons are large enough for a finger."""
    page.goto(address)
    page.click("#settings summary")
    ask(page, "Who?")
    idle(page)
    sizes = page.evaluate("[...document.querySelectorAll('input, select, textarea')]"
                          ".map(e => parseFloat(getComputedStyle(e).fontSize))")
    assert min(sizes) >= 16
    if page.is_phone:
        for button in page.locator("#view_chat button:visible").all():
            box = button.bounding_box()
            assert box["width"] >= 44 and box["height"] >= 44, (button.inner_text(), box)


def test_percentages_stand_beside_their_bars(page, address):
    """Also those above 90 %."""
    page.goto(address + "#inside")
    page.fill("#in_temperature", "0.01")
    page.press("#in_temperature", "Enter")
    wait_for(page, text_of("#bars") + ".includes('100 %')")
    bars = page.locator("#bars .bar").all()
    labels = page.locator("#bars .bar span, #bars .share").all()
    for bar, label in zip(bars, labels, strict=True):
        bar, label = bar.bounding_box(), label.bounding_box()
        assert label["x"] > bar["x"] + bar["width"]
        assert label["x"] + label["width"] <= page.viewport_size["width"]


# ---------------------------------------------------------------------------------- by keyboard


def test_by_keyboard_alone(page, address):
    """Ask, retry, edit, versions, tokens, Inside, and back. The focus is never lost."""
    page.goto(address)
    page.wait_for_selector("#send:enabled")
    page.evaluate("max_tokens.value = 5; question.focus()")
    page.keyboard.type("Who?")
    page.keyboard.press("Enter")
    idle(page)
    assert focused(page) == "question"
    pressed_until(page, "Shift+Tab", "document.activeElement.textContent === 'retry'")
    page.keyboard.press("Enter")
    idle(page)
    lost = "document.activeElement === document.body"
    if not page.is_phone:
        assert focused(page) == "question"
    assert page.is_phone or not page.evaluate(lost)
    pressed_until(page, "Shift+Tab", "document.activeElement.textContent === '‹'")
    page.keyboard.press("Enter")
    assert "1 of 2" in page.inner_text(".turn.assistant .who")
    pressed_until(page, "Shift+Tab", "document.activeElement.textContent === 'edit'")
    page.keyboard.press("Space")
    assert focused(page) == "question" and page.input_value("#question") == "Who?"
    page.keyboard.press("Escape")
    assert focused(page) == "question"
    pressed_until(page, "Tab", "document.activeElement.id === 'raw'")
    page.keyboard.press("Space")
    page.wait_for_selector("#conversation_tokens .tok")
    pressed_until(page, "Shift+Tab", "document.activeElement.matches('.tok')")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End"):
        page.keyboard.press(key)
    tokens = "[...document.querySelectorAll('#conversation_tokens .tok[role]')]"
    assert page.evaluate(f"document.activeElement === {tokens}.at(-1)")
    assert page.inner_text(".about_piece").startswith("token ")
    page.keyboard.press("Enter")
    wait_for(page, "location.hash === '#inside' && inside_pieces.children.length > 0")


def test_the_focus_after_stop(page, address, slowly):
    page.goto(address)
    ask(page, "Who?")
    page.wait_for_selector("#stop:enabled")
    page.focus("#stop")
    page.keyboard.press("Enter")
    idle(page)
    assert page.is_phone or focused(page) == "question"
    page.locator("text=retry").click()
    page.wait_for_selector("#stop:enabled")
    assert page.is_phone or focused(page) == "question"
    page.keyboard.press("Escape")
    idle(page)


def test_a_view_is_where_it_was_left(page, tmp_path):
    """Back to Chat does not jump to the top."""
    scripted(tmp_path, [WHO], pieces("the lamp\n") * 90)
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        for _ in range(2):
            ask(page, "Who?")
            idle(page)
        page.evaluate("scrollTo(0, 500)")
        page.click("nav >> text=Data")
        assert page.evaluate("scrollY") == 0
        page.click("nav >> text=Chat")
        assert page.evaluate("scrollY") == 500


# ------------------------------------------------------------------------------ a screen reader


def test_a_screen_reader_hears_what_is_new(page, tmp_path, slowly):
    """Each sentence once, when it is whole; nothing again when the page draws."""
    text = "the lamp is lit. said the goat. 0 1 2"
    scripted(tmp_path, [WHO], [*pieces(text), END])
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        page.evaluate("""() => {
          window.heard = [];
          const hear = changes => changes.forEach(change =>
            change.addedNodes.forEach(node => heard.push(node.textContent)));
          new MutationObserver(hear).observe(said, { childList: true, subtree: true });
        }""")
        ask(page, "Who?")
        idle(page)
        heard = page.evaluate("heard")
        assert "".join(heard) == text and 2 <= len(heard) <= 4
        assert all(part.strip() for part in heard)
        page.evaluate("drawChat(); drawChat()")
        page.locator("#turns button", has_text="edit").click()
        page.keyboard.press("Escape")
        assert page.evaluate("heard") == heard
        live = page.locator("[aria-live=polite]:visible, [role=log]")
        assert [box.get_attribute("id") for box in live.all()] == ["said"]


def test_the_tree_of_a_screen_reader(page, address):
    """What it finds: a heading, the views, the box, the buttons."""
    page.goto(address)
    page.wait_for_selector("#send:enabled")
    page.get_by_role("heading", name="Longhand", level=1).wait_for(state="attached")
    for name in ("Chat", "Inside", "Tokens", "Data", "Training"):
        page.get_by_role("navigation").get_by_role("link", name=name).wait_for()
    page.get_by_role("textbox", name="message").wait_for()
    for name in ("Send", "Ask all", "Stop", "New"):
        page.get_by_role("button", name=name, exact=True).wait_for()
    ask(page, "Who?")
    idle(page)
    page.get_by_role("meter", name="context").wait_for()


# ---------------------------------------------------------------------------------- with a key


def test_a_key_that_is_not_given(browser, run):  # noqa: F811
    """Who dismisses the question for it is not asked again, in no view; a button asks."""
    asked = []
    with running(run, key="sesame") as server:
        page = browser.new_page()

        def answer(dialog):
            asked.append(dialog.message)
            if len(asked) == 1:
                dialog.dismiss()
            else:
                dialog.accept("sesame")

        page.on("dialog", answer)
        page.goto(f"http://{server.address}/#training")
        page.wait_for_selector("#locked:visible")
        page.wait_for_timeout(5000)
        assert len(asked) == 1
        page.click("nav >> text=Data")
        page.wait_for_timeout(300)
        assert len(asked) == 1
        page.click("#locked")
        page.wait_for_selector("#locked", state="hidden")
        page.click("nav >> text=Training")
        page.wait_for_selector("#stages input")
        assert len(asked) == 2
        page.close()


# ---------------------------------------------------------------------------- Tokens and Data


def test_tokens_of_one_vocabulary(page, address):
    """How to see others is said; a piece and its number are joined, by mouse, finger and arrows."""
    page.goto(address + "#tokens")
    page.fill("#cut_text", "the lamp is lit")
    wait_for(page, "document.querySelector('#cuts .pieces')?.textContent === 'the lamp is lit'")
    assert "--ranks" in page.inner_text("#vocabularies_note")
    numbers = page.inner_text("#cuts .ids").split()
    tokens = page.locator("#cuts .tok")
    assert tokens.count() == len(numbers)
    if page.is_phone:
        tokens.nth(1).tap()
    else:
        tokens.nth(1).hover()
    assert page.inner_text("#cuts .ids .on") == numbers[1]
    assert page.inner_text(".about_piece") == f"token {numbers[1]}"
    tokens.nth(0).focus()
    page.keyboard.press("End")
    assert page.inner_text("#cuts .ids .on") == numbers[-1]


def test_data_that_appears_later(page, tmp_path):
    """The report is shown when data.py has written it."""
    toyweb.write_jsonl(tmp_path / "base/log.jsonl", [{"step": 1}])
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/#data")
        page.wait_for_selector("text=The run has no report yet")
        (tmp_path / "docs").mkdir()
        (tmp_path / "docs/report.json").write_text(
            '{"stages": {"url": {"documents_in": 90, "documents_out": 80, "reasons": {}}}}')
        page.wait_for_selector(".funnel")
        assert page.inner_text(".funnel").split() == ["in", "the", "crawl", "90", "url", "80"]
