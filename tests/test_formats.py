"""chat/formats.py: which format a folder has, ChatML and Llama 3 in Python, what is learned."""

import json
import random
import shutil

import pytest

import bpe
import sample
from chat import formats, jinja
from chat.template import Unusable
from conversations import TOOLS, conversation, text_of
from small_talker import TOK
from tokens import huggingface

NAMES = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>",
         "<|start_header_id|>", "<|end_header_id|>"]
OTHER = bpe.Tokenizer.train(["user assistant Hi, who are you?"], 280, special_tokens=NAMES)
HELLO = [{"role": "user", "content": "Hi"}]
CHATML = formats.CHATML.replace("SYSTEM", "")
SMOLLM = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
          "{{ '<|im_start|>system\\nYou are SmolLM.<|im_end|>\\n' }}{% endif %}"
          "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
SPELLED = """{%- for message in messages -%}
    {{- "<|im_start|>" + message.role + "\\n" + message.content + "<|im_end|>" + "\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def folder_of(path, tokenizer=OTHER, beside=(), **config):
    """A folder with a tokenizer, its tokenizer_config.json, and other files."""
    tokenizer.save(path / "tokenizer.json")
    (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, content in dict(beside).items():
        (path / name).parent.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name).write_text(text, encoding="utf-8")
    return path


def made(template, bos="<|begin_of_text|>"):
    return formats.Template("here", {"default": template}, {"bos_token": bos}, OTHER, {1})


# ------------------------------------------------------------------------- models made here

def test_models_made_here_keep_their_format(tmp_path):
    """By their special tokens: also where transformers has saved the folder, or with null."""
    template = huggingface.CHAT_TEMPLATE
    for i, given in enumerate([{"chat_template": template}, {}]):
        (tmp_path / str(i)).mkdir()
        folder = folder_of(tmp_path / str(i), TOK, {"chat_template.jinja": template}, **given)
        ours = formats.load(folder, TOK)
        assert isinstance(ours, formats.Own)
        assert ours.prompt(HELLO) == sample.render_prompt(HELLO, TOK)
        assert ours.ends == {TOK.special_tokens["<|im_end|>"]}
        assert ours.thinking(ours.prompt(HELLO)) is None
    # A reply stays what was written, although its text has other tokens.
    written = [TOK.encode_ordinary("g")[0], *TOK.encode_ordinary("oat"), *ours.ends]
    turn = [*HELLO, {"role": "assistant", **ours.content([], written)}]
    assert turn[1]["content"] == "goat" and turn[1]["ids"] == written
    assert ours.content([], written[:-1]) == ours.content([], written)      # it is ended
    assert ours.prompt([*turn, *HELLO]) == (
        sample.render_prompt(HELLO, TOK) + written + sample.render_prompt(HELLO, TOK))


def test_without_a_template_or_our_tokens_there_are_no_chats(tmp_path):
    ours = formats.load(folder_of(tmp_path), OTHER)
    said = f"{tmp_path}/tokenizer_config.json: has no chat template, so this is .* --chat-format ch"
    with pytest.raises(ValueError, match=said):
        ours.prompt(HELLO)


# --------------------------------------------------------------------- written out in Python

@pytest.mark.parametrize("template, writer", [
    (CHATML, "chatml"), (SMOLLM, "chatml"), (SPELLED, "chatml"), (formats.LLAMA3, "llama3"),
    (formats.DEFINED + CHATML, "chatml"), (formats.LLAMA3.replace("\n", "\\n"), "llama3"),
    (CHATML + "\n", "chatml"), (SMOLLM.replace("You are SmolLM.", "Line.\\nLine."), "chatml"),
    (CHATML + " ", None), ("a" + CHATML, None), (CHATML.replace("system", "user"), "chatml"),
    (SMOLLM.replace("!=", "=="), None), (SMOLLM.replace("loop.first and", ""), None),
    (CHATML.replace("+ '\n' }}", "+ '\n' }}\n"), None), (CHATML.replace("+ '\n' }}", "}}"), None),
    (formats.LLAMA3.replace("| trim", ""), None), (huggingface.CHAT_TEMPLATE, None), ("", None),
    (CHATML.replace("{% endfor %}", "{# x #}{% endfor %}"), None), ("{%" * 50_000, None),
], ids=range(20))
def test_which_templates_are_known(template, writer):
    found = formats.plain_writer(template)
    assert getattr(getattr(found, "func", found), "__name__", None) == writer


def test_chatml():
    messages = [{"role": "system", "content": "S"}, *HELLO, {"role": "assistant", "content": ""}]
    expected = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert made(CHATML).text(messages[:2]) == expected + "<|im_start|>assistant\n"
    assert made(SMOLLM).text(messages, add_generation_prompt=False) == (
        expected + "<|im_start|>assistant\n<|im_end|>\n")
    assert made(SMOLLM).text(HELLO).startswith("<|im_start|>system\nYou are SmolLM.<|im_end|>\n<")
    with pytest.raises(ValueError, match="^here: the chat template needs a text as the content"):
        made(CHATML).text([{"role": "user", "content": [{"type": "image"}]}])


def test_llama3_has_its_first_token_once():
    ours, ids = made(formats.LLAMA3), OTHER.special_tokens
    assert ours.text([{"role": "system", "content": " S\n"}, *HELLO]) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n")
    prompt = ours.prompt(HELLO)
    assert prompt[0] == ids["<|begin_of_text|>"] and prompt.count(prompt[0]) == 1
    assert prompt[1] == ids["<|start_header_id|>"] and ids["<|eot_id|>"] in prompt
    with pytest.raises(ValueError, match="here: the chat template needs a text as the bos_token"):
        made(formats.LLAMA3, None).text(HELLO)


@pytest.mark.parametrize("template", [CHATML, SMOLLM, SPELLED, formats.LLAMA3])
def test_in_python_and_in_jinja_a_chat_is_the_same(template):
    pytest.importorskip("jinja2", "3.1.6", reason="jinja2 is not here")
    rng, plain = random.Random(1), formats.plain_writer(template)
    for i in range(100):
        messages = formats.prepared(conversation(rng, calls=i % 2 == 1))
        variables = {"bos_token": "<s>", "tools": TOOLS, "add_generation_prompt": i % 3 > 0}
        text = jinja.run_template(template, {**variables, "messages": messages})
        assert plain(messages, variables) == text


# --------------------------------------------------------------------------- other templates

@pytest.fixture
def shown(monkeypatch):
    """What a template in Jinja is given: rendering is replaced by a list of it."""
    given = []
    monkeypatch.setattr(jinja, "run_template", lambda template, variables: (
        given.append((template, variables)) or "<|im_start|>x<|im_end|>"))
    return given


def test_what_a_template_is_given(shown):
    ours = made("T")
    messages = [{"role": "user", "content": "Hi", "name": None},
                {"role": "assistant", "content": "x", "ids": [1], "thinking": "t"}]
    tokens = OTHER.special_tokens
    assert ours.prompt(messages + HELLO, options={"enable_thinking": False}) == [
        tokens["<|im_start|>"], *OTHER.encode_ordinary("x"), tokens["<|im_end|>"]]
    (template, variables), = shown
    assert template == "T" and variables == {
        "bos_token": "<|begin_of_text|>", "enable_thinking": False, "tools": None,
        "documents": None, "add_generation_prompt": True,
        "messages": [{"role": "user", "content": "Hi"},
                     {"thinking": "t", "role": "assistant", "content": "x",
                      "reasoning_content": "t"}, *HELLO],
    }


def test_null_is_kept_where_a_template_asks_for_it(monkeypatch):
    """And where it fails all the same, both ways are not told apart by another error."""
    def render(template, variables):
        if any("content" not in m for m in variables["messages"]):
            raise jinja.Failed("UndefinedError", "fails")
        return "null" if variables["messages"][-1]["content"] is None else "text"

    monkeypatch.setattr(jinja, "run_template", render)
    assert made("T").text([{"role": "user", "content": None}]) == "null"
    assert made("T").text(HELLO) == "text"
    with pytest.raises(ValueError, match="^here: the chat template fails$"):
        made("T").text([{"role": "user"}])


def test_arguments_of_calls_are_texts_where_a_template_fails_on_objects(monkeypatch):
    """DeepSeek V3's, which also asks for null; Llama 3.1's gets the object."""
    def render(template, variables):
        message = variables["messages"][-1]
        if template == "DeepSeek" and "content" not in message:
            raise jinja.Failed("UndefinedError", "fails")
        arguments = message["tool_calls"][0]["function"]["arguments"]
        if template == "DeepSeek" and not isinstance(arguments, str):
            raise jinja.Failed("TypeError", "fails")
        return repr(arguments)

    monkeypatch.setattr(jinja, "run_template", render)
    call = {"function": {"name": "f", "arguments": {"x": "\u00e4"}}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    assert made("DeepSeek").text(messages) == repr('{"x": "\u00e4"}')
    assert made("Llama").text(messages) == repr({"x": "\u00e4"})
    assert call["function"]["arguments"] == {"x": "\u00e4"}


def test_conversations_that_no_template_can_have(shown):
    for messages, said in (([], "without any message"), ("Hi", "expected a list of messages"),
                           (["Hi"], "expected a list of messages")):
        with pytest.raises(ValueError, match=said):
            made("T").text(messages)
    with pytest.raises(ValueError, match="there is nothing to reply to"):
        made("T").prompt([{"role": "assistant", "content": "x"}])
    assert not shown


def test_thoughts_that_the_prompt_begins():
    ours = made("T")
    for end, thoughts in (("", None), ("<think>\n", "a"), ("<think>\n\n</think>\n\n", None)):
        prompt = OTHER.encode_ordinary("assistant" + end)
        content = ours.content(prompt, OTHER.encode_ordinary("a</think>b"))
        assert content.get("reasoning_content") == thoughts
        assert content["content"] == ("b" if thoughts else "a</think>b")


# ----------------------------------------------------------------------------------- folders

def test_where_the_template_stands(tmp_path, shown):
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "U"}]
    files = {"chat_template.jinja": "J", "additional_chat_templates/tool_use.jinja": "A"}
    for i, (config, beside, plain, with_tools) in enumerate([
            ({"chat_template": "T"}, {}, "T", "T"), ({"chat_template": named}, {}, "D", "U"),
            ({"chat_template": named}, files, "J", "A"),
            ({}, {"chat_template.jinja": "J"}, "J", "J")]):
        (tmp_path / str(i)).mkdir()
        ours = formats.load(folder_of(tmp_path / str(i), OTHER, beside, **config), OTHER)
        ours.text(HELLO)
        ours.text(HELLO, TOOLS)
        assert [template for template, _ in shown[-2:]] == [plain, with_tools]
    shutil.rmtree(tmp_path / "1")
    (tmp_path / "1").mkdir()
    ours = formats.load(folder_of(tmp_path / "1", chat_template=named[1:]), OTHER)
    with pytest.raises(ValueError, match="has the chat templates tool_use, and none .* default"):
        ours.text(HELLO)


@pytest.mark.parametrize("given", [7, [7], {"default": "x"}, [{"name": "default"}],
                                   [{"name": "default", "template": 3}]])
def test_a_template_that_is_none(tmp_path, given):
    with pytest.raises(ValueError, match="tokenizer_config.json: chat_template is .*, expected"):
        formats.load(folder_of(tmp_path, chat_template=given), OTHER)


def test_a_template_that_is_no_text(tmp_path):
    (folder_of(tmp_path) / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="chat_template.jinja: not UTF-8 text"):
        formats.load(tmp_path, OTHER)


def test_special_tokens_that_a_template_may_name(tmp_path):
    token = {"__type": "AddedToken", "content": "<|begin_of_text|>", "lstrip": False}
    config = {"bos_token": token, "eos_token": "<|eot_id|>", "pad_token": None, "unk_token": 3}
    beside = {"special_tokens_map.json": {"eos_token": {"content": "<|im_end|>"}}}
    folder = folder_of(tmp_path, OTHER, beside, chat_template="T", **config)
    assert formats.load(folder, OTHER).special == {
        "bos_token": "<|begin_of_text|>", "eos_token": "<|im_end|>"}
    folder_of(folder, OTHER, chat_template="T", added_tokens_decoder={}, **config)
    assert formats.load(folder, OTHER).special["eos_token"] == "<|eot_id|>"


def test_all_tokens_that_end_a_reply(tmp_path):
    end = OTHER.special_tokens["<|eot_id|>"]
    for written, configured, ends in (([1, 2], 3, {1, 2, 3}), (None, [4], {4}), (5, None, {5})):
        beside = {"generation_config.json": {"eos_token_id": written},
                  "config.json": {"eos_token_id": configured}}
        folder = folder_of(tmp_path, OTHER, beside, chat_template="T", eos_token="<|eot_id|>")
        assert formats.load(folder, OTHER).ends == ends | {end}
    (tmp_path / "config.json").write_text('{"eos_token_id": ["x"]}')
    with pytest.raises(ValueError, match=r"config.json: eos_token_id is \"\['x'\]\", expected"):
        formats.load(tmp_path, OTHER)


# --------------------------------------------------------------------- published tokenizers

def test_llama_3_1s_chats_need_no_jinja2(shared, monkeypatch):
    monkeypatch.setattr(jinja, "run_template", None)
    folder = shared("tokenizers/llama3_1")
    ours = formats.load(folder, bpe.Tokenizer.load(folder / "tokenizer.json"))
    assert ours.prompt(HELLO) == [128000, 128006, 882, 128007, 271, 13347, 128009,
                                  128006, 78191, 128007, 271]
    assert ours.ends == {128009}


def test_qwen_3s_thoughts(shared):
    pytest.importorskip("jinja2", "3.1.6", reason="jinja2 is not here")
    folder = shared("tokenizers/qwen3")
    ours = formats.load(folder, bpe.Tokenizer.load(folder / "tokenizer.json"))
    end = [198, 151644, 77091, 198]             # line feed, <|im_start|> assistant, line feed
    assert ours.prompt(HELLO)[-4:] == end
    plain = ours.prompt(HELLO, options={"enable_thinking": False})
    assert plain[-8:] == [*end, 151667, 271, 151668, 271]
    reply = ours.tokenizer.encode("<think>\nSo.\n</think>\n\nHi!<|im_end|>", allowed_special="all")
    assert ours.content(ours.prompt(HELLO), reply) == {"content": "Hi!", "reasoning_content": "So."}
    assert text_of(random.Random(1)) == text_of(random.Random(1))


# ------------------------------------------------------------------------------ what is learned

def reply(text, **more):
    return {"role": "assistant", "content": text, **more}


CALL = [{"type": "text", "text": "48/2 = "}, {"type": "tool", "text": "48/2"},
        {"type": "output", "text": "24"}, {"type": "text", "text": "24"}]
END = OTHER.special_tokens["<|im_end|>"]


def ending(template, *ends):
    """A format whose replies end with these special tokens."""
    ours = made(template)
    ours.ends = frozenset(OTHER.special_tokens[name] for name in ends)
    return ours


def shown_as(row):
    """A row as text, with what is learned in brackets."""
    ids, mask = row
    assert len(ids) == len(mask)
    text = ""
    for i, token in enumerate(ids):
        if mask[i] and not (i and mask[i - 1]):
            text += "["
        text += OTHER.decode([token])
        if mask[i] and not mask[i + 1:i + 2] == [1]:
            text += "]"
    return text


def test_what_is_learned_of_a_conversation():
    """Each reply with the token that ends it: not its line feed, and nothing of what is read."""
    chatml = ending(SMOLLM, "<|im_end|>", "<|endoftext|>")
    two_turns = [*HELLO, reply("Who?"), {"role": "user", "content": "I"}, reply("<|im_end|> a")]
    row, = chatml.conversation(two_turns)
    assert shown_as(row) == (
        "<|im_start|>system\nYou are SmolLM.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n[Who?<|im_end|>]\n"
        "<|im_start|>user\nI<|im_end|>\n<|im_start|>assistant\n[<|im_end|> a<|im_end|>]")
    assert row[0] == OTHER.encode(chatml.text(two_turns, None, False), allowed_special="all")[:-1]
    prompt = chatml.prompt(HELLO)
    assert row[0][:len(prompt)] == prompt and row[1][:len(prompt)] == [0] * len(prompt)
    llama3 = ending(formats.LLAMA3, "<|eot_id|>")
    row, = llama3.conversation([*HELLO, reply(" Who?\n")])
    assert shown_as(row) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[Who?<|eot_id|>]")


def test_prompts_and_replies_are_encoded_apart():
    """A model reads the prompt as its own tokens, also where they would join with the reply's."""
    ours = ending(CHATML, "<|im_end|>")
    (ids, mask), = ours.conversation([*HELLO, reply("\nWho?")])
    n = mask.index(1)
    assert ids[:n] == ours.prompt(HELLO) and OTHER.decode(ids[n:]) == "\nWho?<|im_end|>"


def test_what_is_read_and_not_learned():
    ours = ending(CHATML, "<|im_end|>")
    row, = ours.conversation([*HELLO, reply("a", weight=0), *HELLO, reply("b")])
    assert shown_as(row).count("[") == 1 and "a<|im_end|>" in shown_as(row)
    row, = ours.conversation([*HELLO, reply(CALL)])
    assert shown_as(row).endswith("[48/2 = 24<|im_end|>]")
    with pytest.raises(Unusable, match="nothing but calls of a tool"):
        ours.conversation([*HELLO, reply(CALL[1:3])])
    with pytest.raises(ValueError, match="^file:3: .*expected"):
        ours.conversation(HELLO * 2, "file:3")
    chat = [*HELLO, reply("goat")]
    assert formats.Own(TOK).conversation(chat) == [sample.render(chat, TOK)]


def test_a_template_that_rewrites_turns_is_learned_turn_by_turn(monkeypatch):
    """As Qwen 3's, which takes the thoughts out of all replies but the last."""
    def render(template, variables):
        text = ""
        for m in variables["messages"]:
            thoughts = "<think>\n" * (m is variables["messages"][-1] and m["role"] == "assistant")
            text += f"<|im_start|>{m['role']}\n{thoughts}{m['content']}<|im_end|>\n"
        return text + "<|im_start|>assistant\n" * variables["add_generation_prompt"]

    monkeypatch.setattr(jinja, "run_template", render)
    rows = ending("T", "<|im_end|>").conversation([*HELLO, reply("a"), *HELLO, reply("b")])
    first = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert [shown_as(row) for row in rows] == [
        f"{first}[<think>\na<|im_end|>]", f"{first}a<|im_end|>\n{first}[<think>\nb<|im_end|>]"]


def thoughtful(template, variables):
    """A conversation as a template of R1's kind writes it.

    Prompts begin the thoughts, and replies are without them; "keep": with them, in other spaces.
    """
    text = ""
    for m in variables["messages"]:
        content = m["content"]
        if template == "keep" and "reasoning_content" in m:
            content = f"<think>{m['reasoning_content']}</think>{content}"
        elif template != "keep":
            content = content.split("</think>")[-1]
        text += f"<|im_start|>{m['role']}\n{content}<|im_end|>\n"
    return text + "<|im_start|>assistant\n<think>\n" * variables["add_generation_prompt"]


@pytest.mark.parametrize("template, message, learned", [
    ("R1", reply("a", reasoning_content="So."), "So.\n</think>\n\na"),
    ("R1", reply("a", thinking="So."), "So.\n</think>\n\na"),
    ("R1", reply("<think>\nSo.\n</think>\n\na"), "So.\n</think>\n\na"),
    ("R1", reply("a"), "\n</think>\n\na"),
    ("keep", reply("a", reasoning_content="So."), "So.</think>a"),
    ("keep", reply("a"), "\n</think>\n\na"),
])
def test_a_reply_to_a_prompt_that_begins_its_thoughts(monkeypatch, template, message, learned):
    """What is read in training is the prompt of a chat, and what is learned tells both apart."""
    monkeypatch.setattr(jinja, "run_template", thoughtful)
    ours = ending(template, "<|im_end|>")
    (ids, mask), = ours.conversation([*HELLO, message])
    n, prompt = mask.index(1), ours.prompt(HELLO)
    assert ids[:n] == prompt and OTHER.decode(prompt).endswith("assistant\n<think>\n")
    assert all(mask[n:]) and OTHER.decode(ids[n:]) == f"{learned}<|im_end|>"
    told = ours.content(prompt, ids[n:])
    assert told["content"] == "a" and told.get("reasoning_content", "") in ("", "So.")
    rows = ours.conversation([*HELLO, message, *HELLO, message])
    assert len(rows) == 2 and rows[0] == (ids, mask)
    assert shown_as(rows[1]).endswith(f"<think>\n[{learned}<|im_end|>]")


def test_which_thoughts_have_weight(monkeypatch):
    """Those that the template writes: here of the last reply, as in Qwen 3's."""
    def render(template, variables):
        text = ""
        for m in variables["messages"]:
            is_last = m is variables["messages"][-1]
            thoughts = f"<think>{m['thinking']}</think>" if is_last and "thinking" in m else ""
            text += f"<|im_start|>{m['role']}\n{thoughts}{m['content']}<|im_end|>\n"
        return text + "<|im_start|>assistant\n" * variables["add_generation_prompt"]

    monkeypatch.setattr(jinja, "run_template", render)
    row, = ending("T", "<|im_end|>").conversation([*HELLO, reply("a", reasoning_content="So.")])
    assert shown_as(row) == ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
                             "[<think>So.</think>a<|im_end|>]")
    rows = ending("T", "<|im_end|>").conversation(
        [*HELLO, reply("a", reasoning_content="So."), *HELLO, reply("b", reasoning="Yes.")])
    assert [shown_as(row).count("think>So.") for row in rows] == [1, 0]
    assert shown_as(rows[1]).endswith("a<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                                      "<|im_start|>assistant\n[<think>Yes.</think>b<|im_end|>]")


@pytest.mark.parametrize("written, said", [
    ("<|im_start|>reply\na<|im_end|>", "asks for a reply behind .*<think>.n', and writes it "
                                           "behind another text.*--chat-format"),
    ("<|im_start|>assistant\n<think>\na\n", "ends a reply with .*think>.na.n', and known ends are "
                                            "<.im_end.>; name its end as eos_token_id"),
])
def test_replies_that_cannot_be_told_from_prompts(monkeypatch, written, said):
    def render(template, variables):
        asked = "<|im_start|>assistant\n<think>\n"
        return asked if variables["add_generation_prompt"] else written

    monkeypatch.setattr(jinja, "run_template", render)
    with pytest.raises(ValueError, match=f"^file:3: here: the chat template {said}"):
        ending("T", "<|im_end|>").conversation([*HELLO, reply("a")], "file:3")


def test_the_answer_is_what_is_behind_the_thoughts():
    ours = made(CHATML)
    ids = OTHER.encode("<think>\n#### 1\n</think>\n\n#### 2<|im_end|>", allowed_special="all")
    assert ours.answer(ours.prompt(HELLO), ids) == "#### 2"
    assert ours.answer(ours.prompt(HELLO), OTHER.encode_ordinary("<think> #### 1")) == ""


def test_qwen_3_is_learned_as_it_writes(shared):
    pytest.importorskip("jinja2", "3.1.6", reason="jinja2 is not here")
    folder = shared("tokenizers/qwen3")
    ours = formats.load(folder, bpe.Tokenizer.load(folder / "tokenizer.json"))
    rows = ours.conversation([*HELLO, reply("<think>\nx\n</think>\n\na"), *HELLO, reply("b")])
    learned = [[i for i, m in zip(ids, mask) if m] for ids, mask in rows]
    assert [ours.tokenizer.decode(ids) for ids in learned] == [
        "<think>\nx\n</think>\n\na<|im_end|>", "<think>\n\n</think>\n\nb<|im_end|>"]
    assert ours.prompt(HELLO) == rows[0][0][:rows[0][1].index(1)]


# ------------------------------------------------------------------------ --chat-format, and files

def test_a_format_that_is_chosen(tmp_path):
    tokens = OTHER.special_tokens
    (tmp_path / "base").mkdir()
    base = folder_of(tmp_path / "base", beside={"generation_config.json": {
        "eos_token_id": tokens["<|endoftext|>"], "temperature": 0.6}}, eos_token="<|endoftext|>")
    assert not formats.load(base, OTHER).is_known
    chatml = formats.load(base, OTHER, "chatml")
    assert chatml.ends == {tokens["<|endoftext|>"], END} and chatml.is_known
    assert chatml.text(HELLO) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    llama3 = formats.load(base, OTHER, "llama3")
    assert llama3.prompt(HELLO)[0] == tokens["<|begin_of_text|>"]
    assert llama3.ends == {tokens["<|endoftext|>"], tokens["<|eot_id|>"]}
    assert llama3.digest != chatml.digest == formats.load(base, OTHER, "chatml").digest
    (tmp_path / "other").mkdir()
    other = folder_of(tmp_path / "other", chat_template=SMOLLM, eos_token="<|im_end|>")
    of_other = formats.load(base, OTHER, str(other))
    assert of_other.text(HELLO).startswith("<|im_start|>system\nYou are SmolLM.")
    assert of_other.ends == chatml.ends


@pytest.mark.parametrize("chosen, tokenizer, said", [
    ("chat", OTHER, "no folder with a chat template and an eos_token; name one, or chatml or "),
    ("llama3", bpe.Tokenizer.train(["a"], 262, special_tokens=["<|im_end|>"]),
     "has no token <.begin_of_text.>, which this format needs"),
    ("chatml", TOK, "has the tokens of our own format"),
])
def test_a_format_that_cannot_be_chosen(tmp_path, chosen, tokenizer, said):
    folder_of(tmp_path, tokenizer)
    with pytest.raises(ValueError, match=f"^--chat-format {chosen}: .*{said}"):
        formats.load(tmp_path, tokenizer, chosen)


def test_a_format_is_written_beside_a_model(tmp_path):
    """So that the folder is loaded with the same, whatever template lay there before."""
    for name in ("base", "sft"):
        (tmp_path / name).mkdir()
    token = {"__type": "AddedToken", "content": "<|endoftext|>"}
    base = folder_of(tmp_path / "base", OTHER, {"chat_template.jinja": "J", "vocab.json": "{}",
                                                "generation_config.json": {"temperature": 0.6}},
                     eos_token=token, model_max_length=9)
    sft = folder_of(tmp_path / "sft", TOK, {"chat_template.jinja": "old"})
    formats.load(base, OTHER, "chatml").write(sft)
    again = formats.load(sft, OTHER)
    assert again.templates == {"default": CHATML} and again.text(HELLO).startswith("<|im_start|>")
    ends = sorted([END, OTHER.special_tokens["<|endoftext|>"]])
    assert again.ends == set(ends)
    config = json.loads((sft / "tokenizer_config.json").read_text())
    assert config == {"eos_token": "<|im_end|>", "model_max_length": 9, "chat_template": CHATML}
    written = json.loads((sft / "generation_config.json").read_text())
    assert written == {"temperature": 0.6, "eos_token_id": ends}
    for name in ("tokenizer.json", "vocab.json"):
        assert (sft / name).read_bytes() == (base / name).read_bytes()
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "U"}]
    folder_of(base, chat_template=named, eos_token="<|im_end|>")
    (base / "chat_template.jinja").unlink()
    formats.load(base, OTHER).write(sft)
    assert formats.load(sft, OTHER).templates == {"default": "D", "tool_use": "U"}
