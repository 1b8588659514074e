"""The view Training of the page (chat/page/) in headless Chromium: a run while it is made.

Needs Chromium and the playwright package.
"""

import contextlib
import json

import gpt
from chromium import browser  # noqa: F401  a fixture
from model import checkpoint
from page_run import CFG, TOK, address, log_row, page, run, text_of, wait_for  # noqa: F401
from run import runs
from serving import running
from web import toyweb

# Keeps what is written on each canvas, [text, left, right], and the x of each point of a line.
SPY = """
  const plain = CanvasRenderingContext2D.prototype;
  const { fillText, lineTo } = plain;
  const kept = canvas => canvas.drawn ??= { texts: [], xs: [], rings: 0 };
  plain.fillText = function (text, x, y) {
    const width = this.measureText(text).width;
    const left = { left: x, right: x - width, center: x - width / 2 }[this.textAlign];
    kept(this.canvas).texts.push([text, left, left + width]);
    return fillText.call(this, text, x, y);
  };
  plain.lineTo = function (x, y) {
    kept(this.canvas).xs.push(x);
    return lineTo.call(this, x, y);
  };
  const { stroke } = plain;
  plain.arc = (arc => function (...given) {
    kept(this.canvas).radius = given[2];
    return arc.apply(this, given);
  })(plain.arc);
  plain.stroke = function () {
    if (kept(this.canvas).radius > 4 * devicePixelRatio) kept(this.canvas).rings++;
    kept(this.canvas).radius = 0;
    return stroke.call(this);
  };
"""


def drawn(page, key):
    """What has been drawn on the canvas of a chart since it was made."""
    return page.evaluate(f"document.querySelector('figure[data-key={key}] canvas').drawn")


def stages(page):
    return [text.split("\n")[0] for text in page.locator("#stages li").all_inner_texts()]


def chosen(page):
    return [box.get_attribute("value") for box in page.locator("#stages input:checked").all()]


LEGEND = "figure[data-key=loss_nats] .legend span"


def colour(page, stage):
    return page.evaluate(f"""[...document.querySelectorAll('{LEGEND}')]
        .filter(span => span.textContent.startsWith('{stage} '))
        .map(span => getComputedStyle(span).color)[0]""")


def test_training_from_its_first_step(page, tmp_path):
    """A run of which only the world is being made: stages, then curves, dreams and models appear,
    without a reload.
    """
    working = contextlib.ExitStack()
    working.enter_context(runs.locked(tmp_path / "log", "make of 1-toyweb"))
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/#training")
        page.wait_for_selector("#stages li")
        names = ["world", "documents", "tokenizer", "tokens", "base", "sft", "rl", "rl_random"]
        assert stages(page) == names
        cards = page.locator("#stages li")
        assert "at work now" in cards.first.inner_text() and "to come" in cards.last.inner_text()
        assert all(text.count(".") >= 1 for text in page.locator("#stages p").all_inner_texts())
        assert "Nothing has been trained yet" in page.inner_text("#training_note")
        working.close()
        (tmp_path / "log/1-toyweb.json").write_text("{}")
        wait_for(page, text_of("#stages li") + ".includes('finished')")
        working.enter_context(runs.locked(tmp_path / "base", "training"))
        log = open(tmp_path / "base/log.jsonl", "w", buffering=1)
        log.write(json.dumps(log_row(1, 6.5)) + "\n")
        page.wait_for_selector("figure[data-key=loss_nats]")
        wait_for(page, text_of("figcaption .legend") + ".includes('base 6.5')")
        assert chosen(page) == ["base"] and page.inner_text("#training_note") == ""
        assert "at work now" in cards.nth(4).inner_text()
        row = log_row(2, 4.5, val_loss_nats=5.0, dream="the lamp\n<b>is lit</b>")
        log.write(json.dumps(row) + "\n")
        page.wait_for_selector(".dreams")
        assert page.inner_text(".dreams p") == "the lamp\n<b>is lit</b>"
        assert "base, step 2" in page.inner_text(".dreams")
        page.wait_for_selector("figure[data-key=val_loss_nats]")        # from the first value on
        log.write(json.dumps(log_row(3, 4.0, val_loss_nats=4.5, dream="said the goat")) + "\n")
        wait_for(page, "document.querySelectorAll('.dreams details').length === 2")
        assert page.locator(".dreams b").all_inner_texts() == ["base, step 2", "base, step 3"]
        log.close()
        gpt.save(tmp_path / "base", gpt.init(CFG, 0), CFG)
        TOK.save(tmp_path / "base/tokenizer.json")
        working.close()
        wait_for(page, "model.options.length === 1")
        page.wait_for_selector("#stages li:nth-child(5).done")


def test_a_training_that_was_killed(page, tmp_path):
    """It is not at work, and its card says how far it came and what makes it go on."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base/.training.lock").touch()          # whose holder is dead
    toyweb.write_jsonl(tmp_path / "base/log.jsonl", [log_row(i + 1, 5.0) for i in range(437)])
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/#training")
        card = page.locator("#stages li.stopped")
        assert "stopped" in card.locator(".state").inner_text()
        assert "Stopped at step 437: make begins it anew." in card.inner_text()
        about = {"step": "400", "identity": json.dumps({"steps": 1200})}
        checkpoint.save_safetensors(tmp_path / "base/trainer.safetensors", {}, about)
        page.wait_for_selector("text=Stopped at step 437 of 1,200: make goes on from step 400.")


def test_training(page, address, run):
    """It opens on base, also where another log was written last. Lines that are written while one
    looks appear, also below a log of 100,000 lines.
    """
    with open(run / "sft/log.jsonl", "a") as f:
        f.write(json.dumps(log_row(51, 7.0)) + "\n")
    page.goto(address + "#training")
    page.wait_for_selector("figure")
    assert stages(page) == ["base", "sft"] and chosen(page) == ["base"]
    assert "sft" in page.inner_text("#arena")
    page.locator("#stages input[value=sft]").check()
    with open(run / "sft/log.jsonl", "a") as f:
        f.write(json.dumps(log_row(52, 123.0)) + "\n")
    wait_for(page, text_of("figure[data-key=loss_nats] .legend") + ".includes('sft 123')")
    page.wait_for_selector("figure[data-key=val_loss_nats]")


def test_a_chart(page, address):
    """Axes with numbers at both ends and a name; nothing is written over the curve; words for those
    who do not see it; a ring on the curve for each dream.
    """
    page.add_init_script(SPY)
    page.goto(address + "#training")
    page.wait_for_selector("figure")
    page.wait_for_timeout(300)
    found = drawn(page, "loss_nats")
    texts = {text: (left, right) for text, left, right in found["texts"]}
    assert {"1", "step", "100k"} <= set(texts)
    values = [text for text in texts if text not in ("1", "step", "100k")]
    assert len(values) == 3
    assert max(texts[text][1] for text in values) < min(found["xs"])
    assert min(left for left, _ in texts.values()) >= 0
    width = page.evaluate("document.querySelector('figure canvas').width")
    assert max(right for _, right in texts.values()) <= width
    assert found["rings"] == 2
    chart = page.get_by_role("img", name="loss, nats: base from 5 at step 1 to")
    chart.wait_for()
    dreams = page.locator(".dreams")
    assert "base, step 501 goat goat" in dreams.inner_text()
    loss = page.locator("figure[data-key=loss_nats]").bounding_box()
    beside = dreams.bounding_box()
    if page.is_phone:
        assert beside["y"] >= loss["y"] + loss["height"]
    else:
        assert beside["x"] > loss["x"] + loss["width"] and abs(beside["y"] - loss["y"]) < 5


def test_a_stage_keeps_its_colour(page, address):
    """Whatever else is chosen."""
    page.goto(address + "#training")
    page.wait_for_selector("figure")
    base = colour(page, "base")
    page.locator("#stages input[value=sft]").check()
    wait_for(page, f"document.querySelectorAll('{LEGEND}').length == 2")
    sft = colour(page, "sft")
    assert base and sft and base != sft and colour(page, "base") == base
    page.locator("#stages input[value=base]").uncheck()
    wait_for(page, f"document.querySelectorAll('{LEGEND}').length == 1")
    assert colour(page, "sft") == sft


def test_few_validations_are_points(page, tmp_path):
    """The first one is seen at once, and not only the line to the second."""
    rows = [log_row(i, 5.0 / i) for i in range(1, 200)]
    rows[99]["val_loss_nats"] = 3.0
    toyweb.write_jsonl(tmp_path / "base/log.jsonl", rows)
    page.add_init_script(SPY.replace("plain.stroke =", "plain.unused ="))
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/#training")
        page.wait_for_selector("figure[data-key=val_loss_nats]")
        page.wait_for_timeout(300)
        assert drawn(page, "val_loss_nats").get("radius")
        assert not drawn(page, "loss_nats").get("radius")
        assert "100" in [text for text, *_ in drawn(page, "val_loss_nats")["texts"]]


def test_a_log_that_is_begun_anew(page, tmp_path):
    """Its old lines and dreams are gone from the page, too."""
    log = tmp_path / "base/log.jsonl"
    toyweb.write_jsonl(log, [log_row(i, 5.0, dream="goat") for i in range(1, 9)])
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/#training")
        page.wait_for_selector(".dreams")
        toyweb.write_jsonl(log, [log_row(1, 7.5)])
        wait_for(page, text_of("figcaption .legend") + ".includes('base 7.5')")
        assert page.locator(".dreams").count() == 0


def test_the_log_of_a_real_training(page, tmp_path):
    """What train.py writes is what the page shows: curves, validation and dreams."""
    import train

    (tmp_path / "input.txt").write_text("the lamp is lit, said the goat. " * 400)
    train.main(["--preset", "shakespeare", "--data", str(tmp_path / "input.txt"),
                "--run", str(tmp_path), "--steps", "4", "--eval-every", "2", "--batch", "2"])
    rows = [json.loads(line) for line in open(tmp_path / "base/log.jsonl")]
    dreams = [row["dream"] for row in rows if "dream" in row]
    assert len(dreams) == 2
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/#training")
        page.wait_for_selector(".dreams")
        shown = page.locator(".dreams p").all_text_contents()
        assert shown == dreams
        for key in ("loss_nats", "val_loss_nats", "lr", "grad_norm"):
            page.wait_for_selector(f"figure[data-key={key}]")
