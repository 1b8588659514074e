"""align.py on a model of others: it learns, writes and is judged in the format of that model."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import align
import gpt
import sample
from chat import arena, formats, jinja, judges, lessons, options, terminal
from chat.formats import WRITTEN_OUT
from model import checkpoint, llama
from small_talker import TOK
from test_formats import CALL, END, OTHER, SMOLLM, folder_of, reply

CFG = llama.Config(OTHER.n_vocab, 96, 16, 2, 4, 2, 4, 24)
ASK = {"role": "user", "content": "Hi"}
GSM8K = [{"question": f"Half of {2 * i}?", "answer": f"{2 * i}/2 = <<{2 * i}/2={i}>>{i}\n#### {i}"}
         for i in range(1, 13)]
PAIRS = [{"chosen": [ASK, reply(f"a {i}")], "rejected": [ASK, reply(f"b {i}")]} for i in range(4)]


def put(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path):
    """A run folder with a tiny Llama of others, which has no chat template."""
    gpt.save(tmp_path / "base", llama.init(CFG, 0), CFG)
    folder_of(tmp_path / "base", OTHER, eos_token="<|endoftext|>")
    put(tmp_path / "gsm8k.jsonl", GSM8K)
    for name in ("train", "test"):
        put(tmp_path / "pairs" / f"{name}.jsonl", PAIRS)
    return tmp_path


def talker():
    """OTHER, as a tokenizer of a model that chats in ChatML."""
    tokenizer = type(OTHER)(*OTHER.__reduce__()[1])
    template, names = WRITTEN_OUT["chatml"]
    tokenizer.chats = formats.Template("here", {"default": template}, names, tokenizer, {END})
    return tokenizer


# ---------------------------------------------------------------------------------------- lessons

def test_conversations_without_calls(tmp_path, capsys):
    """They are counted, and so is what does not fit the context."""
    path = put(tmp_path / "chats.jsonl", [
        {"messages": [ASK, reply(CALL)]}, {"messages": [ASK, reply(CALL[1:3])]},
        {"messages": [ASK, reply("a" * 80)]}, GSM8K[0]])
    rows = lessons.conversations([path], talker(), 60)
    texts = [OTHER.decode([i for i, m in zip(ids, mask) if m]) for ids, mask in rows]
    assert texts == ["48/2 = 24<|im_end|>", "2/2 = 1\n#### 1<|im_end|>"]
    said = capsys.readouterr().err
    assert "2 x call of the calculator, which the model's chats have no place for" in said
    assert "1 x a reply that is nothing but calls of a tool" in said
    assert "1 of 3 conversations do not fit the context, which allows 61 tokens" in said


def test_thoughts_beside_replies(tmp_path, monkeypatch, capsys):
    """As the chat data of Qwen 3 and DeepSeek have them: learned where a template writes them."""
    def render(template, variables):
        text = ""
        for m in variables["messages"]:
            thoughts = f"<think>{m['thinking']}</think>" if "thinking" in m else ""
            text += f"<|im_start|>{m['role']}\n{thoughts}{m['content']}<|im_end|>\n"
        return text + "<|im_start|>assistant\n" * variables["add_generation_prompt"]

    monkeypatch.setattr(jinja, "run_template", render)
    path = put(tmp_path / "chats.jsonl", [{"messages": [
        ASK, reply("a", reasoning_content="So. "),
        ASK, reply("b", reasoning_content="No", weight=0), ASK, reply("c")]}])
    thoughtful, chatml = talker(), talker()
    thoughtful.chats.templates = {"default": "T"}
    for tokenizer, first, n_lost in ((thoughtful, "<think>So. </think>a", 0), (chatml, "a", 1)):
        (ids, mask), = lessons.conversations([path], tokenizer, 200)
        learned = OTHER.decode([i for i, m in zip(ids, mask) if m])
        assert learned == f"{first}<|im_end|>c<|im_end|>"
        assert capsys.readouterr().err.count(f"1 x {lessons.THOUGHTS}") == n_lost
    (ids, mask), = lessons.conversations([path], TOK, 200)       # a model made here
    assert "So." not in TOK.decode(ids) and f"1 x {lessons.THOUGHTS}" in capsys.readouterr().err


def test_a_comparison_learns_its_last_reply_alone(tmp_path):
    begun = [ASK, reply("Who?"), ASK]
    path = put(tmp_path / "pairs.jsonl", [
        {"chosen": [*begun, reply("a")], "rejected": [*begun, reply("b")]},
        {"chosen": [ASK, reply(CALL[1:3])], "rejected": [ASK, reply("b")]}])
    tokenizer = talker()
    (rows, _), = lessons.comparisons([path], tokenizer, 96)
    prompt = tokenizer.chats.prompt(begun)
    for (ids, mask), text in zip(rows, "ab"):
        written = [*OTHER.encode_ordinary(text), END]
        assert (ids, mask) == (prompt + written, [0] * len(prompt) + [1] * len(written))


# ----------------------------------------------------------------------------------------- replies

def by_heart(question, text):
    """A model that has learned a reply by heart, surely, with its tokenizer."""
    tokenizer = talker()
    prompt = lessons.prompt_of({"question": question}, tokenizer)
    ids = prompt + tokenizer.encode(text, allowed_special="all")
    params, cfg = sample.by_heart(ids, tokenizer.n_vocab)
    params["wpe.weight"] *= 9
    return params, cfg, tokenizer


@pytest.mark.parametrize("text, right, ended", [
    ("<think>\n#### 1\n</think>\n\n#### 2<|im_end|>", True, True),
    ("<think>\n#### 2\n</think>\n\n#### 1<|im_end|>", False, True),
    ("<think>\n#### 2<|im_end|>", False, True),
    ("#### 2<|eot_id|>", False, False),
    ("#### 2", False, False),
])
def test_replies_are_graded_by_their_answers(text, right, ended):
    """Thoughts are part of what is learned, and no part of the answer."""
    task = {"question": "Half of 4?", "answer": "2", "kind": "gsm8k"}
    model = by_heart(task["question"], text)
    (written,), (verdict,) = arena.ask(*model, [task], 0.0, 0, len(text))
    assert (verdict.correct, verdict.ended) == (right, ended)
    recipe = dataclasses.replace(options.RL, prompts=2, group=2, max_tokens=len(text))
    rollout = align.roll_out(model, [task], recipe, np.random.default_rng(0))
    assert (align.reward_answer(rollout) == right).all() and (rollout.ended == ended).all()
    n = len(model[2].encode(text, allowed_special="all"))
    assert rollout.replies[0].ids[:n] == written.ids[:n]
    tokens, targets, sampled = align.policy_rows(rollout.replies)
    assert sampled[0].sum() == len(rollout.replies[0].ids)
    if ended:
        assert targets[0][sampled[0] > 0][-1] == END


# ------------------------------------------------------------------------------------------ stages

def learn(run, command, *more):
    data = [] if command == "rl" else ["--data", str(run / "pairs/train.jsonl")]
    if command == "sft":
        data = ["--data", str(run / "gsm8k.jsonl"), "--replay", "0"]
    if command == "rl":
        data = ["--tasks", str(run / "gsm8k.jsonl"), "--batch", "0", "--prompts", "2", "--group",
                "2", "--max-tokens", "6"]
    align.main([command, "--run", str(run), *data, "--steps", "2", *more])


def test_a_base_model_becomes_an_assistant(run, capsys):
    """Each stage leaves a folder that chats in the format, and the next stage takes it from there.
    """
    learn(run, "sft", "--chat-format", "chatml", "--batch", "4")
    assert "[2/2 = 1\n#### 1<|im_end|>]" in capsys.readouterr().err
    for command in ("rl", "dpo", "reward"):
        learn(run, command, *(["--batch", "2"] if command != "rl" else []))
        ours = formats.load(run / command, OTHER)
        assert ours.templates["default"] == WRITTEN_OUT["chatml"][0] and END in ours.ends
    for stage in ("sft", "rl", "dpo"):
        capsys.readouterr()
        terminal.main(["chat", "--model", str(run / stage), "--ask", "Hi", "--max-tokens", "3"])
        assert "you> Hi\nlonghand> " in capsys.readouterr().out
        config = json.loads((run / stage / "config.json").read_text())
        assert config["eos_token_id"] == sorted(ours.ends)
    assert judges.load(run / "reward").cfg == CFG
    learn(run, "rl", "--leash", "0.1", "--leash-to", "base", "--out", "rl2")    # its weights alone


def test_a_base_model_is_asked_in_a_format_that_is_named(run, capsys):
    """eval, with samples too, and arena; without the option, one line names folder and option."""
    for name in ("facts", "identity", "calculator", "wheel"):
        put(run / "tasks" / f"{name}_test.jsonl", [{"question": "1+1?", "answer": "2"}])
    shutil.copytree(run / "base", run / "sft")
    formats.load(run / "base", OTHER, "llama3").write(run / "sft")
    for command in (["eval"], ["eval", "--samples", "2"], ["arena"]):
        args = [*command, "--run", str(run)]
        with pytest.raises(ValueError, match=f"^{run}/base: has no chat template, .*--chat-format"):
            align.main(args)
        align.main([*args, "--chat-format", "chatml"])
        assert "base" in capsys.readouterr().out
    asked = [arena.opened(run / name, "chatml")[2].chats for name in ("base", "sft")]
    assert asked[0].templates != asked[1].templates     # that of sft/ stays its own


def test_a_folder_with_a_template_needs_no_option(run):
    folder_of(run / "base", OTHER, chat_template=SMOLLM, eos_token="<|im_end|>")
    learn(run, "sft", "--batch", "2")
    assert formats.load(run / "sft", OTHER).templates["default"] == SMOLLM


def test_the_format_is_part_of_what_a_stage_depends_on(run):
    learn(run, "sft", "--chat-format", "chatml")
    with pytest.raises(ValueError, match="cannot resume, chat_format: checkpoint 'chatml', now 'l"):
        learn(run, "sft", "--chat-format", "llama3")
    learn(run, "sft", "--chat-format", "llama3", "--on-mismatch", "restart")
    assert formats.load(run / "sft", OTHER).text([ASK]).startswith("<|begin_of_text|>")
    folder = folder_of(run / "base", OTHER, chat_template=SMOLLM, eos_token="<|im_end|>")
    learn(run, "sft", "--out", "other")
    folder_of(folder, OTHER, chat_template=SMOLLM.replace("are", "is"), eos_token="<|im_end|>")
    with pytest.raises(ValueError, match="cannot resume, chat_template: checkpoint"):
        learn(run, "sft", "--out", "other")


def test_what_a_base_model_lacks_is_told_in_one_line(run):
    with pytest.raises(ValueError, match="base: neither has a chat template nor the tokens of our "
                                         "own chats; .*--chat-format chatml, llama3, or a folder"):
        learn(run, "sft")
    with pytest.raises(ValueError, match="--chat-format: the name is empty"):
        learn(run, "sft", "--chat-format", "")
    with pytest.raises(FileNotFoundError, match="no such shard; .*; or learn without such text: "
                                                "--replay 0"):
        learn(run, "sft", "--chat-format", "chatml", "--replay", "1")
    assert not (run / "sft").exists()


def test_a_model_in_several_files(run):
    """Hugging Face cuts large ones, and an index says which file holds what."""
    base = run / "base"
    shutil.move(base / "model.safetensors", base / "model-00001-of-00001.safetensors")
    tensors, _ = checkpoint.load_safetensors(base / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    learn(run, "sft", "--chat-format", "chatml")
    assert (run / "sft/model.safetensors").exists()
