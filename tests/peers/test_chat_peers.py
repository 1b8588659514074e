"""chat/formats.py beside transformers: chats as apply_chat_template writes them, and their ids."""

import json
import os
import random
from pathlib import Path

import jinja2
import pytest
import transformers
from transformers.utils.chat_template_utils import render_jinja_template

import bpe
from chat import formats, jinja
from conversations import TOOLS, conversation

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(os.environ.get("LONGHAND_DATA", ROOT.parent / "shared" / "data"))
PLAIN = {"llama3_1": True, "qwen3": False, "deepseek_v3": False}


@pytest.fixture(scope="module", params=list(PLAIN))
def both(request):
    """(the name of a published tokenizer, our format, transformers' tokenizer)."""
    folder = DATA / "tokenizers" / request.param
    if not folder.exists():
        pytest.skip(f"no {folder.name}: set LONGHAND_DATA to a folder that has it")
    ours = formats.load(folder, bpe.Tokenizer.load(folder / "tokenizer.json"))
    return request.param, ours, transformers.AutoTokenizer.from_pretrained(folder)


def theirs(tokenizer, messages, tools, **options):
    """(text, ids) by apply_chat_template.

    It drops what is null, and then DeepSeek's template fails where it asks for it. There the text
    is that of the function behind, which hands the template what it is given.
    """
    try:
        text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **options)
    except jinja2.UndefinedError:
        (text,), _ = render_jinja_template([messages], tools=tools, **options,
                                           chat_template=tokenizer.chat_template,
                                           **tokenizer.special_tokens_map)
        return text, tokenizer(text, add_special_tokens=False).input_ids
    return text, tokenizer.apply_chat_template(messages, tools=tools, return_dict=False, **options)


@pytest.mark.parametrize("calls", [False, True], ids=["without tools", "with tools"])
def test_200_conversations(both, calls):
    name, ours, tokenizer = both
    rng, n_tools = random.Random(name), 0
    for _ in range(200):
        messages = conversation(rng, calls, null=name == "deepseek_v3")
        options = {"add_generation_prompt": messages[-1]["role"] != "assistant"}
        if rng.random() < 0.5:
            options["enable_thinking"] = rng.random() < 0.5
        tools = TOOLS if calls and rng.random() < 0.8 else None
        text, ids = theirs(tokenizer, messages, tools, **options)
        assert ours.text(messages, tools, **options) == text
        assert ours.tokenizer.encode(text, allowed_special="all") == ids
        if options.pop("add_generation_prompt"):
            assert ours.prompt(messages, tools, **options) == ids
        n_tools += any(m["role"] == "tool" for m in messages)
    assert (n_tools > 50) == calls


def test_what_a_template_may_name(both):
    name, ours, tokenizer = both
    assert ours.special == tokenizer.special_tokens_map
    assert tokenizer.eos_token_id in ours.ends
    assert (formats.plain_writer(ours.templates["default"]) is not None) == PLAIN[name]


def test_templates_beside_the_tokenizer(both, tmp_path):
    """A file of its own, a list of named ones, and both: the one that transformers takes."""
    _, _, tokenizer = both
    tokenizer.save_pretrained(tmp_path)
    ours = formats.load(tmp_path, bpe.Tokenizer.load(tmp_path / "tokenizer.json"))
    assert ours.path.name == "chat_template.jinja"
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["chat_template"] = [{"name": "default", "template": "plain {{ messages|length }}"},
                               {"name": "tool_use", "template": "tools {{ tools|tojson }}"}]
    path.write_text(json.dumps(config), encoding="utf-8")
    messages = [{"role": "user", "content": "Hi"}]
    for _ in range(2):
        again = transformers.AutoTokenizer.from_pretrained(tmp_path)
        ours = formats.load(tmp_path, ours.tokenizer)
        for tools in (None, [], TOOLS):
            text = again.apply_chat_template(messages, tools=tools, tokenize=False)
            assert ours.text(messages, tools, add_generation_prompt=False) == text
        (tmp_path / "chat_template.jinja").unlink(missing_ok=True)


PIECES = [
    "{% for m in messages %}\n  {{ m.content }}\n  {% endfor %}\n",
    "  {%- if tools %}{{ tools | tojson }}{% endif %}\n\n",
    "{{ tools | tojson(indent=2) }} {{ messages | tojson(sort_keys=True, ensure_ascii=True) }}",
    "{{ strftime_now('%Y') }}{{ bos_token }}{{ eos_token is defined }}{{ nothing is defined }}",
    "{% set n = namespace(a=1, b=2) %}{% for m in messages %}{% set n.a = n.a + 1 %}{% endfor %}"
    "{{ n.a }}",
    "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{% if loop.first %}"
    "{% continue %}{% endif %}{{ m.role }}{% endfor %}",
    "{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}",
    "{{ dict(a=1) | items | list }}{{ messages | map(attribute='role') | join(',') }}",
    "{{ messages[0].content.split('l')[-1].strip() }}{{ messages[0]['content'] | upper }}",
    "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(messages | length) }}",
    "{{ messages[-1].thinking }}{{ messages[-1].reasoning_content }}",
    "{{ raise_exception('no') }}", "{{ missing.x }}", "{{ ''.__class__.__mro__ }}", "{% for %}",
    "{% set n = namespace(_a=1) %}", "{{ messages.append(1) }}", "{{ 1 / 0 }}",
]


def test_parts_of_templates(both):
    """Each alone and three together: equal to theirs, or an error where they raise one."""
    _, ours, tokenizer = both
    rng, n_failed = random.Random(1), 0
    messages = [{"role": "user", "content": "Hello <b>"}, {"role": "tool", "content": "\u00fc"},
                {"role": "assistant", "content": "x", "reasoning": "so"}]
    for i in range(80):
        template = PIECES[i] if i < len(PIECES) else "".join(rng.choices(PIECES[:11], k=3))
        tools = rng.choice([None, TOOLS])
        options = {"tools": tools, "add_generation_prompt": True}
        made = formats.Template("here", {"default": template}, ours.special, ours.tokenizer, {1})
        try:
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, chat_template=template, **options)
        except Exception:
            n_failed += 1
            with pytest.raises(ValueError, match="^here: the chat template [^\n]+$"):
                made.text(messages, **options)
        else:
            assert made.text(messages, **options) == text, template
    assert n_failed == 7


def test_jinja2_is_not_asked_for_more_than_it_has():
    assert tuple(map(int, jinja2.__version__.split("."))) >= jinja.OLDEST
