"""chat/formats.py beside transformers: chats as apply_chat_template writes them, and their ids."""

import json
import os
import random
import shutil
from pathlib import Path

import jinja2
import numpy as np
import pytest
import torch
import transformers
from transformers.utils.chat_template_utils import render_jinja_template

import align
import bpe
import gpt
import sample
from chat import api, formats, generate, jinja, lessons, options, terminal, thinking
from model import llama
from conversations import TOOLS, conversation

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(os.environ.get("LONGHAND_DATA", ROOT.parent / "shared" / "data"))
QUESTIONS = ["Who are you?", "\u4f60\u597d <|im_end|>", "Why?"]
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
        is_prompt = messages[-1]["role"] != "assistant"
        options = {"enable_thinking": rng.random() < 0.5} if rng.random() < 0.5 else {}
        tools = TOOLS if calls and rng.random() < 0.8 else None
        text, ids = theirs(tokenizer, messages, tools, add_generation_prompt=is_prompt, **options)
        assert ours.text(messages, tools, is_prompt, options) == text
        assert ours.tokenizer.encode(text, allowed_special="all") == ids
        if is_prompt:
            assert ours.prompt(messages, tools, options) == ids
        n_tools += any(m["role"] == "tool" for m in messages)
    assert (n_tools > 50) == calls


LLAMA_TOOLS = (                         # as Llama 3.1's, in short
    "{{ bos_token }}{% if tools %}{% for t in tools %}{{ t | tojson(indent=4) }}\n{% endfor %}"
    "{% endif %}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}"
    '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'
    "{% else %}{{ m.content | trim }}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def as_of_openai(messages):
    """Messages with the arguments of calls as texts and an id each, as clients send them back."""
    found = []
    for m in messages:
        calls = []
        for call in m.get("tool_calls", []):
            arguments = call["function"]["arguments"]
            if not isinstance(arguments, str):
                arguments = json.dumps(arguments, ensure_ascii=False)
            calls.append({**call, "function": {**call["function"], "arguments": arguments}})
        found.append({**m, "tool_calls": calls} if calls else m)
    return found


def as_objects(messages):
    """Messages with the arguments of calls as objects, as transformers asks for them."""
    found = json.loads(json.dumps(messages))
    for m in found:
        for call in m.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return found


def test_tools_of_a_request(both, monkeypatch):
    """200 requests as clients send them: the prompts are transformers'; calls are read back."""
    name, ours, tokenizer = both
    if name == "llama3_1":              # the published one without tools lies here
        template = LLAMA_TOOLS
        ours = formats.Template("here", {"default": template}, ours.special, ours.tokenizer,
                                ours.ends)
        monkeypatch.setattr(tokenizer, "chat_template", template)
    elif name == "deepseek_v3":         # it has no place for tools, but for calls
        with pytest.raises(ValueError, match="has no place for tools; leave them out"):
            formats.Calling(ours, TOOLS, []).prompt([{"role": "user", "content": "Hi"}])
    cfg = llama.Config(len(tokenizer), 8192, 8, 1, 1, 1, 8, 8)
    rng, n_read = random.Random(name), 0
    for _ in range(200):
        messages = as_of_openai(conversation(rng, True, null=name == "deepseek_v3"))
        if messages[-1]["role"] == "assistant":
            messages.pop()
        tools = None if name == "deepseek_v3" else TOOLS
        body = {"messages": messages, "tools": tools, "temperature": 0}
        bare, format, names = api.with_tools(body, ours, cfg)
        expected = messages if name == "deepseek_v3" else as_objects(messages)
        _, ids = theirs(tokenizer, expected, tools, add_generation_prompt=True)
        assert api.fields.prompt_of(bare, cfg, format) == ids
        for i, m in enumerate(messages):
            if not m.get("tool_calls") or name == "deepseek_v3" or m.get("content"):
                continue
            before, written = as_objects(messages[:i]) or [{"role": "user", "content": ""}], m
            if name == "llama3_1":
                written = {**m, "tool_calls": m["tool_calls"][:1]}
            begin = ours.text(before, tools)
            text = ours.text(before + as_objects([written]), tools, False)
            reply = tokenizer(text[len(begin):], add_special_tokens=False).input_ids
            text = ours.content(ours.prompt(before, tools), reply)["content"]
            calls = [call["function"] for call in written["tool_calls"]]
            found = thinking.Calls(names).put(text, ended=True)
            assert found == ("", [(f["name"], f["arguments"]) for f in calls]), text
            n_read += 1
    assert n_read > 30 or name == "deepseek_v3"


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


def test_a_chat_is_theirs(both, tmp_path, monkeypatch, capsys):
    """Three turns, greedy: the same prompts, the same replies, ended by any of several tokens."""
    name, _, tokenizer = both
    torch.manual_seed(0)
    family = "Qwen3" if name == "qwen3" else "Llama"
    cfg = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=512,
        tie_word_embeddings=True, initializer_range=0.3)
    model = getattr(transformers, f"{family}ForCausalLM")(cfg).eval()
    messages, turns, ends = [], [], [tokenizer.eos_token_id]
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True,
                                               return_dict=False, return_tensors="pt")
        n = prompt.shape[1]
        whole = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                               max_new_tokens=30, eos_token_id=ends)[0].tolist()
        if len(ends) == 1:                          # from now on this token ends a reply too
            ends.append(whole[n + 20])
            whole = whole[:whole.index(ends[1], n) + 1]
        turns.append((whole[:n], whole[n:]))
        text = tokenizer.decode(whole[n:], skip_special_tokens=True,
                                clean_up_tokenization_spaces=False)
        messages.append({"role": "assistant", "content": text})
    assert len(turns[0][1]) <= 21

    model.generation_config.eos_token_id = ends
    model.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DATA / "tokenizers" / name / file, tmp_path)
    found, say = [], terminal.say

    def note(batch, prompt, *rest):
        ids = say(batch, prompt, *rest)
        found.append((prompt, ids))
        return ids

    monkeypatch.setattr(terminal, "say", note)
    asked = [word for question in QUESTIONS for word in ("--ask", question)]
    sample.main(["chat", "--model", str(tmp_path), "--max-tokens", "30", *asked])
    assert found == turns


# ------------------------------------------------------------------------------- what is learned

MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}"
    "{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def of_words(message, rng):
    """A message with a text of words alone: no names of tokens, no white space around it."""
    words = ["Hi", "48/2", "na\u00efve", "\u4f60\u597d", "3.14\n", "\U0001f600", "don't"]
    return {"role": message["role"], "content": " ".join(rng.choices(words, k=5)).strip()}


def test_the_mask_is_theirs(both):
    """Where a template marks what the assistant writes, all ids to the last end are equal."""
    name, _, tokenizer = both
    folder = DATA / "tokenizers" / name
    ids = bpe.Tokenizer.load(folder / "tokenizer.json")
    if name == "qwen3":
        template, end = MARKED, ids.special_tokens["<|im_end|>"]
    elif name == "llama3_1":
        template = MARKED.replace("<|im_end|>", "<|eot_id|>").replace("<|im_start|>", "")
        end = ids.special_tokens["<|eot_id|>"]
    else:
        pytest.skip("the same as Qwen 3's")
    ours = formats.Template("here", {"default": template}, {}, ids, {end})
    rng, n_turns = random.Random(name), 0
    for _ in range(40):
        messages = [m for m in conversation(rng, False) if m["role"] != "system"]
        messages = [of_words(m, rng) for m in messages]
        if messages[-1]["role"] == "user":
            messages.append({"role": "assistant", "content": "Yes."})
        theirs = tokenizer.apply_chat_template(
            messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True)
        (found, mask), = ours.conversation(messages)
        n = len(found)
        assert found == theirs["input_ids"][:n] and mask == theirs["assistant_masks"][:n]
        assert not any(theirs["assistant_masks"][n:])
        n_turns += len(messages)
    assert n_turns > 150


def test_a_format_that_we_write_is_read_by_transformers(both, tmp_path):
    """--chat-format beside a base model: its chats, its ids and what ends them."""
    name, _, _ = both
    if name == "deepseek_v3":
        pytest.skip("it has neither format's tokens")
    chosen = {"llama3_1": "llama3", "qwen3": "chatml"}[name]
    ids = bpe.Tokenizer.load(DATA / "tokenizers" / name / "tokenizer.json")
    base = tmp_path / "base"
    tokenizer = transformers.AutoTokenizer.from_pretrained(DATA / "tokenizers" / name)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(base)
    ours = formats.load(base, ids, chosen)
    ours.write(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    generation = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert sorted(ours.ends) == generation.eos_token_id and again.eos_token_id in ours.ends
    rng = random.Random(name)
    for _ in range(20):
        messages = conversation(rng, False)
        theirs = again.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert theirs == ids.encode(ours.text(messages), allowed_special="all")


R1 = (                                  # as DeepSeek R1's, in short
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}<\uff5cUser\uff5c>{{ m.content }}"
    "{% else %}<\uff5cAssistant\uff5c>{{ m.content.split('</think>')[-1] }}"
    "<\uff5cend\u2581of\u2581sentence\uff5c>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<\uff5cAssistant\uff5c><think>\n{% endif %}"
)


def test_all_stages_read_the_prompt_of_a_chat(tmp_path):
    """DeepSeek's tokenizer, and a template that begins the thoughts in the prompt."""
    folder = DATA / "tokenizers" / "deepseek_v3"
    if not folder.exists():
        pytest.skip("no deepseek_v3: set LONGHAND_DATA to a folder that has it")
    cfg = llama.Config(128896, 64, 8, 1, 1, 1, 8, 8)
    gpt.save(tmp_path / "sft", llama.init(cfg, 0), cfg)
    for file in folder.iterdir():
        shutil.copy(file, tmp_path / "sft")
    (tmp_path / "sft/chat_template.jinja").write_text(R1, encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "sft")
    asked = {"role": "user", "content": "Who are you?"}
    prompt = theirs.apply_chat_template([asked], add_generation_prompt=True, return_dict=False)
    assert theirs.decode(prompt).endswith("<think>\n")

    model = _, _, tokenizer = formats.open_model(tmp_path / "sft")
    batch = generate.Batch(*model, 1)
    talk = terminal.Conversation(batch, terminal.parse_args(["chat"]), formats.of(tokenizer))
    assert talk.prompt_of(asked) == prompt

    good = {"role": "assistant", "content": "<think>\nSo.\n</think>\n\nI."}
    bad = {"role": "assistant", "content": "He."}
    row = {"chosen": [asked, good], "rejected": [asked, bad]}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row), encoding="utf-8")
    found = lessons.conversations([tmp_path / "pairs.jsonl"], tokenizer, 64)
    ((better, worse),) = lessons.pairs([tmp_path / "pairs.jsonl"], tokenizer, 64)
    texts = ["So.\n</think>\n\nI.", "So.\n</think>\n\nI.", "\n</think>\n\nHe."]
    for (ids, mask), text in zip([*found, better, worse], texts):
        n = mask.index(1)
        assert ids[:n] == prompt and all(mask[n:])
        assert theirs.decode(ids[n:]) == text + theirs.eos_token

    recipe = options.changed(options.RL, {**options.recipe_settings("rl"), "prompts": 1,
                                          "group": 2, "max_tokens": 3}, ("replay", "leash"))
    task = {"question": asked["content"], "answer": "I"}
    rollout = align.roll_out(model, [task], recipe, np.random.default_rng(0))
    assert [reply.prompt for reply in rollout.replies] == [prompt] * 2
