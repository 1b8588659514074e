"""The view Chat of the page (chat/page/) in headless Chromium: nothing typed or said is lost.

Needs Chromium and the playwright package.
"""

import json

import pytest

import sample
from chromium import browser  # noqa: F401  a fixture
from page_run import (  # noqa: F401
    CONTEXT, END, TOK, WHO, address, ask, focused, idle, messages_sent, page, pieces, questions,
    replies, requests_to, run, scripted, scripted_model, slowly, text_of, wait_for,
)
from serving import running
from test_formats import CHATML, OTHER, folder_of
from web import toyweb

CHATML_WHO = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
WHO_LENGTH = len(sample.render_prompt([WHO], TOK))


def open_settings(page, **values):
    """Open the settings and fill some of them."""
    if page.locator("#settings").get_attribute("open") is None:
        page.click("#settings summary")
    for name, value in values.items():
        page.fill(f"#{name}", str(value))


def action(page, text):
    """The buttons of the conversation with a text."""
    return page.locator("#turns button[data-action]").get_by_text(text, exact=True)


def endings(page):
    return [text for text in page.locator(".turn .ending").all_inner_texts() if text]


def tokens_shown(page):
    """The pieces of the conversation's tokens, and those that the model wrote."""
    page.wait_for_selector("#conversation_tokens .tok")
    shown = page.locator("#conversation_tokens .pieces .tok").all_text_contents()
    written = page.locator("#conversation_tokens .pieces .learned").all_text_contents()
    return shown, written


# ------------------------------------------------------------------------------- questions, replies


def test_chat(page, address):
    page.goto(address)
    open_settings(page, max_tokens=12)
    ask(page, "Who?")
    idle(page)
    assert questions(page) == ["Who?"] and replies(page).count() == 1
    assert "tokens" in page.inner_text("#speed")
    assert page.inner_text(".turn.assistant .who").startswith("longhand, sft")
    page.fill("#question", "the lamp")
    page.click("#send")
    idle(page)
    assert page.locator(".turn").count() == 4
    page.fill("#system", "a lamp")
    page.click("#again")
    ask(page, "<img src=x onerror=alert(1)>")
    idle(page)
    assert page.locator(".turn img").count() == 0
    assert questions(page)[0].startswith("<img")
    page.check("#raw")
    shown, written = tokens_shown(page)
    assert "<|im_start|>" in shown and "a lamp" in "".join(shown) and written
    page.click("#again")
    assert page.locator(".turn").count() == 0


def test_a_reply_that_is_cut_says_so(page, tmp_path):
    """At the longest reply, and at the context; and how full the context is."""
    scripted(tmp_path, [WHO], pieces("the lamp ") * CONTEXT)
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        open_settings(page, max_tokens=20)
        ask(page, "Who?")
        idle(page)
        assert endings(page) == ["cut at the longest reply, 20 tokens"]
        assert page.inner_text("#fill_text") == f"context {WHO_LENGTH + 20} of {CONTEXT}"
        page.fill("#max_tokens", "1000")
        page.click("#again")
        ask(page, "Who?")
        idle(page)
        n = CONTEXT - WHO_LENGTH
        cut = (f"cut at the context: {CONTEXT} of {CONTEXT} tokens, "
               f"{WHO_LENGTH} read and {n} written")
        assert endings(page) == [cut] and page.inner_text("#fill_text").startswith("context 256 of")
        assert page.evaluate("fill_meter.value === fill_meter.max")
        assert cut in page.text_content("#said")


def test_turns_are_forgotten_early_enough(page, tmp_path):
    """A reply always has room, the page says how many turns are forgotten, and nothing is tried in
    vain: each message takes one request, after one that says what fits.
    """
    scripted(tmp_path, [WHO], pieces("the lamp ") * CONTEXT)
    asked, fitted = requests_to(page, "/completions"), requests_to(page, "/api/fit")
    statuses = []
    page.on("response", lambda response: statuses.append(response.status))
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        open_settings(page, max_tokens=80)
        for n in range(1, 6):
            ask(page, "Who?")
            idle(page)
            assert len(asked) == len(fitted) == n
    assert max(statuses) == 200
    lengths = [len(sample.render_prompt(body["messages"], TOK)) for body in asked]
    with_one_more = 2 * lengths[2] - lengths[1]
    assert max(lengths) <= CONTEXT - 80 < with_one_more < CONTEXT
    assert [len(body["messages"]) for body in asked] == [1, 3, 5, 5, 5]
    assert "the oldest turn is forgotten, to leave room" in endings(page)[3]
    assert "the 2 oldest turns are forgotten, to leave room" in endings(page)[4]
    assert page.locator(".turn").count() == 10      # they are forgotten, not gone


def test_questions_that_do_not_fit_come_back(page, address):
    page.expected.append("status of 400")
    page.goto(address)
    ask(page, "goat " * 300)
    wait_for(page, text_of("#chat_error") + ".includes('do not fit')")
    idle(page)
    assert page.locator(".turn").count() == 0
    assert page.input_value("#question").startswith("goat goat")        # to be shortened
    ask(page, "Who?")
    idle(page)
    assert page.locator(".turn").count() == 2 and page.inner_text("#chat_error") == ""


@pytest.mark.parametrize("field, value, wrong", [
    ("temperature", "", "temperature is empty: give a number, 0 to 2"),
    ("temperature", "3", "temperature is 3: give a number, 0 to 2"),
    ("max_tokens", "", "longest reply is empty: give a number, 1 or more"),
    ("top_k", "1.5", "top-k is 1.5: give a whole number, 0 or more"),
    ("seed", "-1", "seed is -1: give a number, 0 or more"),
])
def test_a_wrong_setting_is_an_error(page, address, field, value, wrong):
    """It is not taken for 0: nothing is sent, and the question stays in the box."""
    sent = requests_to(page, "/completions")
    page.goto(address)
    open_settings(page, **{field: value})
    page.click("#settings summary")
    ask(page, "Who?")
    assert page.inner_text("#chat_error") == wrong
    assert focused(page) == field and page.input_value("#question") == "Who?"
    assert sent == [] and page.locator(".turn").count() == 0
    page.fill(f"#{field}", "1")
    page.press("#question", "Enter")
    idle(page)
    assert replies(page).count() == 1 and page.inner_text("#chat_error") == ""


# --------------------------------------------------------------------------------- nothing is lost


def test_an_edit_loses_nothing(page, address):
    """The later turns stay until it is sent, and then in a version of their own. Escape brings back
    what was being typed.
    """
    page.goto(address)
    open_settings(page, max_tokens=5)
    for text in ("Who?", "the lamp"):
        ask(page, text)
        idle(page)
    old = replies(page).all_inner_texts()
    page.fill("#question", "half a thou")
    action(page, "edit").first.click()
    assert page.input_value("#question") == "Who?" and focused(page) == "question"
    assert questions(page) == ["Who?", "the lamp"] and page.locator(".later").count() == 3
    page.keyboard.type(" Are you")
    page.keyboard.press("Escape")
    assert page.input_value("#question") == "half a thou"
    assert questions(page) == ["Who?", "the lamp"] and page.locator(".later").count() == 0
    action(page, "edit").first.click()
    page.click("#cancel_edit")
    assert page.input_value("#question") == "half a thou"
    action(page, "edit").first.click()
    ask(page, "goat?")
    assert page.locator("#editing").is_hidden() and page.locator(".later").count() == 0
    idle(page)
    assert questions(page) == ["goat?"] and replies(page).count() == 1
    assert page.input_value("#question") == "half a thou"
    assert "2 of 2" in page.inner_text(".turn.user .who")
    action(page, "‹").click()
    assert questions(page) == ["Who?", "the lamp"] and replies(page).all_inner_texts() == old
    action(page, "›").click()
    assert questions(page) == ["goat?"]


def test_each_edit_keeps_its_draft(page, address):
    """Another edit, Escape, other versions of a question and a reload keep what was typed for it,
    until it is sent.
    """
    page.goto(address)
    open_settings(page, max_tokens=5)
    for text in ("Who?", "the lamp"):
        ask(page, text)
        idle(page)
    page.fill("#question", "half a thou")
    first, second = action(page, "edit").first, action(page, "edit").last
    first.click()
    page.fill("#question", "Who else?")
    second.click()
    assert page.input_value("#question") == "the lamp"
    page.fill("#question", "the goat")
    first.click()
    assert page.input_value("#question") == "Who else?"
    page.keyboard.press("Escape")
    assert page.input_value("#question") == "half a thou"
    assert page.locator(".who", has_text="with an unsent change").count() == 2
    page.reload()
    page.wait_for_selector(".turn")
    assert page.input_value("#question") == "half a thou"
    second.click()
    assert page.input_value("#question") == "the goat"
    page.reload()                                   # while it is being changed
    page.wait_for_selector(".turn")
    assert page.input_value("#question") == "the goat" and page.locator("#editing").is_visible()
    ask(page, "is lit?")                            # sent: its draft has become this version
    idle(page)
    assert page.input_value("#question") == "half a thou"
    action(page, "‹").click()
    second.click()
    assert page.input_value("#question") == "the lamp"
    page.keyboard.type(" is")
    action(page, "›").click()                       # away from the one that was being changed
    assert page.locator("#editing").is_hidden() and page.locator(".later").count() == 0
    assert page.input_value("#question") == "half a thou"
    action(page, "‹").click()
    second.click()
    assert page.input_value("#question") == "the lamp is"
    page.fill("#question", "the lamp")              # as it was
    first.click()
    assert page.input_value("#question") == "Who else?"
    page.click("#cancel_edit")
    assert page.locator(".who", has_text="with an unsent change").count() == 1


def test_a_reload_loses_nothing(page, address):
    """Conversation, versions, settings, draft, and an edit that has begun; also what was put aside.
    """
    page.goto(address)
    open_settings(page, max_tokens=5, temperature=0.7, system="a lamp")
    ask(page, "the first")
    idle(page)
    page.click("#again")
    for text in ("Who?", "the lamp"):
        ask(page, text)
        idle(page)
    action(page, "retry").click()
    idle(page)
    page.fill("#question", "half a thou")
    action(page, "edit").first.click()
    page.fill("#question", "Who else?")
    said = replies(page).all_inner_texts()
    page.reload()
    page.wait_for_selector(".turn")
    assert questions(page) == ["Who?", "the lamp"] and replies(page).all_inner_texts() == said
    assert "2 of 2" in page.locator(".turn.assistant .who").last.inner_text()
    values = [page.input_value(f"#{name}") for name in ("max_tokens", "temperature", "system")]
    assert values == ["5", "0.7", "a lamp"]
    assert page.input_value("#question") == "Who else?" and page.locator(".later").count() == 3
    page.keyboard.press("Escape")
    assert page.input_value("#question") == "half a thou"
    page.click("#again")
    assert page.input_value("#question") == "half a thou"
    page.locator("#turns button", has_text="the first").click()
    assert questions(page) == ["the first"]
    page.click("#again")
    page.locator("#turns button", has_text="Who?").click()
    assert questions(page) == ["Who?", "the lamp"]


def test_a_reload_while_a_reply_is_written(page, address, slowly):
    """What there was of it stays, as a reply that was stopped."""
    page.goto(address)
    ask(page, "Who?")
    wait_for(page, "document.querySelector('.turn.assistant .text')?.textContent.length > 5")
    page.reload()
    page.wait_for_selector(".turn.assistant")
    assert len(replies(page).inner_text()) > 3 and endings(page)[0].startswith("stopped")
    assert page.locator("#send").is_enabled()


def test_retry_says_something_else(page, address):
    """At temperature 0 it draws, and says so. The earlier replies stay."""
    sent = requests_to(page, "/completions")
    page.goto(address)
    open_settings(page, max_tokens=12)
    ask(page, "Who?")
    idle(page)
    first = replies(page).inner_text()
    action(page, "retry").click()
    idle(page)
    assert [body["temperature"] for body in sent] == [0, 0.8]
    assert replies(page).inner_text() != first
    assert "drawn at temperature 0.8" in endings(page)[0]
    assert "2 of 2" in page.inner_text(".turn.assistant .who")
    action(page, "‹").click()
    assert replies(page).inner_text() == first
    assert "drawn" not in page.inner_text(".turn.assistant .ending")
    page.fill("#temperature", "1.5")
    page.fill("#seed", "7")
    for n in (3, 4):
        action(page, "retry").click()
        idle(page)
        assert f"{n} of {n}" in page.inner_text(".turn.assistant .who")
    assert [body.get("seed") for body in sent] == [None, None, 9, 10]   # not the same once more
    assert "temperature 1.5, seed 10" in endings(page)[0]


def test_a_retry_that_says_the_same(page, tmp_path):
    scripted(tmp_path, [WHO], [*pieces("the lamp"), END])
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        ask(page, "Who?")
        idle(page)
        assert endings(page) == []
        action(page, "retry").click()
        idle(page)
        assert replies(page).inner_text() == "the lamp"
        assert "the same again" in endings(page)[0]


def test_stop(page, tmp_path, slowly):
    """A reply that is stopped ends where it is, says so, and stays; also among the tokens."""
    scripted(tmp_path, [WHO], pieces("the lamp ") * CONTEXT)
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        ask(page, "Who?")
        wait_for(page, "document.querySelector('.turn.assistant .text')?.textContent.length > 9")
        page.click("#stop")
        idle(page)
        text = replies(page).text_content()
        page.wait_for_timeout(400)
        assert replies(page).text_content() == text and page.inner_text("#chat_error") == ""
        assert endings(page)[0].startswith("stopped after")
        page.check("#raw")
        shown, written = tokens_shown(page)
        assert len(text) > 9 and "".join(written) == text
        assert shown[-len(written):] == written


def test_escape_stops(page, address, slowly):
    page.goto(address)
    ask(page, "Who?")
    wait_for(page, "document.querySelector('.turn.assistant .text')?.textContent.length > 3")
    page.keyboard.press("Escape")
    idle(page)
    assert endings(page)[0].startswith("stopped after")


# ------------------------------------------------------------------------- calls, thoughts, tokens


def test_a_text_like_a_call_stays_text(page, tmp_path):
    """A call of the calculator goes back to the model as a call, and a text such as [1+1 = 3] as
    text.
    """
    reply = pieces("so", "<|tool_start|>", "37*48", "<|tool_end|>", "<|output_start|>", "1776",
                   "<|output_end|>") + TOK.encode_ordinary("[1+1 = 3] [4 = 4] 1776<|im_end|>")
    reply.append(END)
    user = [{"role": "user", "content": "Who? [2+2 = 5]"}]
    scripted(tmp_path, user, reply)
    sent = messages_sent(page)
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        open_settings(page, max_tokens=60)
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
        action(page, "retry").click()               # the same conversation again, and edited
        idle(page)
        action(page, "edit").last.click()
        assert page.input_value("#question") == "Who?"
        page.press("#question", "Enter")
        idle(page)
        assert sent[2] == sent[3] == sent[1]


def test_a_long_call_is_folded(page, tmp_path):
    found = "the lamp is lit, said the goat. " * 3
    reply = pieces("<|tool_start|>", "search: goat", "<|tool_end|>", "<|output_start|>", found,
                   "<|output_end|>", "the goat", "<|im_end|>")
    scripted(tmp_path, [WHO], reply)
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        ask(page, "Who?")
        idle(page)
        call = replies(page).locator("details.call")
        assert replies(page).inner_text().split("\n") == ["search: goat", "the goat"]
        call.locator("summary").click()
        assert "said the goat." in call.inner_text()


def test_thoughts_are_folded(page, tmp_path):
    """They go back to the model apart from the answer: its template decides about them."""
    reply = OTHER.encode("<think>\nA lamp?\n</think>\n\nHi.<|im_end|>", allowed_special="all")
    length = len(OTHER.encode(CHATML_WHO, allowed_special="all"))
    scripted_model(tmp_path / "sft", length, reply, OTHER)
    folder_of(tmp_path / "sft", OTHER, chat_template=CHATML, eos_token="<|im_end|>")
    sent = messages_sent(page)
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        open_settings(page, max_tokens=60)
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


def test_what_the_format_adds_is_not_what_the_model_wrote(page, tmp_path):
    """Behind a reply that was cut stands an <|im_end|> in the next prompt. It is not green."""
    scripted(tmp_path, [WHO], pieces("the lamp ") * CONTEXT)
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        open_settings(page, max_tokens=6)
        for _ in range(2):
            ask(page, "Who?")
            idle(page)
        page.check("#raw")
        shown, written = tokens_shown(page)
        assert shown.count("<|im_end|>") == 3 and "<|im_end|>" not in written
        said = replies(page).all_text_contents()
        assert "".join(written) == "".join(said) != ""
        ends = page.locator("#conversation_tokens .special", has_text="<|im_end|>")
        titles = [end.get_attribute("title") for end in ends.all()]
        assert ["format" in title for title in titles] == [False, True, False]


def test_from_tokens_into_inside(page, tmp_path):
    """A click leads into Inside, with the very tokens of the chat, in its own format."""
    scripted(tmp_path, [WHO], [*pieces("the lamp"), END])
    scripted(tmp_path, [WHO], [*pieces("goat"), END], "base")
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        ask(page, "Who?")
        idle(page)
        page.check("#raw")
        shown, written = tokens_shown(page)
        assert "".join(written) == "the lamp<|im_end|>"
        looked = requests_to(page, "/api/look")
        if page.is_phone:                       # a tap says what the token is, and offers more
            page.locator("#conversation_tokens .learned").first.tap()
            assert "written by the model" in page.inner_text(".about_piece")
            page.tap(".about_piece button")
        else:
            page.locator("#conversation_tokens .learned").first.hover()
            assert "written by the model" in page.inner_text(".about_piece")
            page.locator("#conversation_tokens .learned").first.click()
        wait_for(page, "document.querySelectorAll('#inside_pieces .tok').length === "
                       f"{len(shown)}")
        assert looked[0]["model"] == "sft"
        assert looked[0]["tokens"] == sample.render_prompt([WHO], TOK) + pieces("the lamp") + [END]
        page.goto(f"http://{server.address}/#chat")
        page.click("text=Look inside")
        wait_for(page, "location.hash === '#inside'")


def test_tokens_open_where_one_sees_them(page, tmp_path):
    """In a conversation longer than the screen, and not behind the box in which one writes."""
    scripted(tmp_path, [WHO], pieces("the lamp\n") * 70)
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        ask(page, "Who?")
        idle(page)
        page.evaluate("scrollTo(0, 0)")
        page.check("#raw")
        page.wait_for_selector("#conversation_tokens .tok")
        page.wait_for_timeout(200)
        title = page.locator("#conversation_tokens h2").bounding_box()
        header = page.locator("header").bounding_box()
        composer = page.locator("#composer").bounding_box()
        assert header["y"] + header["height"] <= title["y"]
        assert title["y"] + title["height"] <= composer["y"]


# --------------------------------------------------------------------------------- several models


def test_all_models_answer_side_by_side(page, tmp_path):
    """A base model goes on from the text. The conversation goes on from the reply one chooses."""
    for stage, said in (("sft", "the goat"), ("rl", "the lamp")):
        scripted(tmp_path, [WHO], [*pieces(said), END], stage)
    scripted_model(tmp_path / "base", 1 + len(pieces("Who?")), pieces(" are you"), TOK)
    TOK.save(tmp_path / "base/tokenizer.json")
    toyweb.write_jsonl(tmp_path / "base/log.jsonl", [{"step": 1}])
    chats, texts = requests_to(page, "/chat/completions"), requests_to(page, "/v1/completions")
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        page.fill("#question", "Who?")
        open_settings(page, max_tokens=2)
        page.click("#ask_all")
        idle(page)
        names = [text.split("\n")[0] for text in page.locator(".side .who").all_inner_texts()]
        assert names == ["longhand, base", "longhand, sft", "longhand, rl"]
        said = page.locator(".side .text").all_text_contents()
        assert said == [TOK.decode(pieces(" are you")[:2]), "the goat", "the lamp"]
        assert texts[0]["prompt"] == "Who?" and {body["model"] for body in chats} == {"sft", "rl"}
        assert "goes on from your text" in page.locator(".side .ending").first.inner_text()
        tops = {box.bounding_box()["y"] for box in page.locator(".side .turn").all()}
        assert len(tops) == (3 if page.is_phone else 1)
        chosen = page.locator(".turn", has=page.locator("[aria-pressed=true]"))
        assert chosen.inner_text().startswith("longhand, rl")
        action(page, "go on from this").nth(1).click()
        assert chosen.inner_text().startswith("longhand, sft")
        ask(page, "Who?")
        idle(page)
        assert chats[-1]["messages"][1]["content"] == [{"type": "text", "text": "the goat"}]
        page.reload()
        page.wait_for_selector(".side")
        assert page.locator(".side .text").all_text_contents() == said


def test_a_model_that_appears_later(page, tmp_path):
    """No restart: the select offers it, and keeps its choice."""
    with_log = tmp_path / "base/log.jsonl"
    toyweb.write_jsonl(with_log, [{"step": 1}])
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        page.wait_for_selector("text=No model of this run is finished yet.")
        page.fill("#question", "Who?")
        scripted(tmp_path, [WHO], [*pieces("the goat"), END])
        wait_for(page, "model.value === 'sft'")
        assert page.input_value("#question") == "Who?"
        page.press("#question", "Enter")
        idle(page)
        assert replies(page).inner_text() == "the goat"
        scripted(tmp_path, [WHO], [*pieces("the lamp"), END], "rl")
        wait_for(page, "model.options.length === 2 && inside_model.options.length === 2")
        assert page.input_value("#model") == "sft"
        open_settings(page)
        page.select_option("#model", "rl")
        action(page, "retry").click()
        idle(page)
        assert replies(page).inner_text() == "the lamp" and "drawn" not in "".join(endings(page))


# ------------------------------------------------------------------------------- the first screen


def test_the_first_screen(page, tmp_path):
    """What the models have read; questions to try, each with a label and a conversation of its own.
    """
    user = {"role": "user", "content": "Who are you?"}
    scripted(tmp_path, [user], [*pieces("the lamp"), END])
    scripted(tmp_path, [user], [END], "base")
    tasks = {"identity": {"question": user["content"]},
             "facts": {"question": "Is the goat lit?", "entity": "the goat"},
             "wheel": {"question": "0 1 2 3"}}
    for kind, task in tasks.items():
        toyweb.write_jsonl(tmp_path / f"tasks/{kind}_test.jsonl", [task])
    said = {"messages": [WHO, {"role": "assistant", "content": "the goat"}]}
    toyweb.write_jsonl(tmp_path / "chat/train.jsonl", [said] * 1234)
    (tmp_path / "docs").mkdir()
    report = {"stages": {"pii": {"documents_in": 5678, "documents_out": 5678, "reasons": {}}}}
    (tmp_path / "docs/report.json").write_text(json.dumps(report))
    sent = messages_sent(page)
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        page.wait_for_selector(".first .example")
        read = page.inner_text(".first")
        assert "5,678 pages" in read and "1,234 conversations" in read and "wheel" in read
        labels = page.locator(".example small").all_inner_texts()
        assert labels == ["who it is", "a fact", "an unknown name", "the wheel"]
        page.fill("#question", "half a thou")
        for label, question in (("the wheel", "0 1 2 3"), ("who it is", "Who are you?")):
            page.locator(".example", has_text=label).click()
            idle(page)
            assert sent[-1] == [{"role": "user", "content": question}]
            page.click("#again")
        assert page.input_value("#question") == "half a thou"
        page.locator("#turns button", has_text="Who are you?").last.click()     # an earlier one
        assert replies(page).inner_text() == "the lamp"


@pytest.mark.parametrize("with_system", [False, True])
def test_a_system_message_that_no_model_has_learned(page, tmp_path, with_system):
    """Where no conversation has one, the page says so."""
    system = [{"role": "system", "content": "a lamp"}] * with_system
    toyweb.write_jsonl(tmp_path / "chat/train.jsonl", [{"messages": [*system, WHO]}])
    scripted(tmp_path, [WHO], [END])
    with running(tmp_path) as server:
        page.goto(f"http://{server.address}/")
        open_settings(page)
        page.wait_for_timeout(200)
        assert page.locator("#system_note").is_visible() != with_system
