"""chat/terminal.py: completions and conversations as a user has them."""

import dataclasses
import io
import itertools
import json
import os

import numpy as np
import pytest

import gpt
import sample
from chat import batching, formats, generate, models, served, terminal
from model import bfloat16, fast, llama
from conftest import at_a_terminal, run_main, run_script
from small_talker import CFG, PARAMS, S, TOK, enc, scripted
from test_formats import CHATML, OTHER, folder_of
from test_llama import random_params


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "sft"
    gpt.save(folder, PARAMS, CFG)
    TOK.save(folder / "tokenizer.json")
    return folder


def test_completion_and_chat_from_the_command_line(model):
    done = run_script(
        "sample.py", "the lamp", "--model", model, "--max-tokens", "8", "-n", "2", "--seed", "4"
    )
    assert done.returncode == 0 and done.stdout.count("the lamp") == 2, done.stderr
    assert (
        done.stdout
        == run_script(
            "sample.py", "the lamp", "--model", model, "--max-tokens", "8", "-n", "2", "--seed", "4"
        ).stdout
    )
    done = run_script("sample.py", "chat", "--run", model.parent, "--ask", "who?", "--ask", "why?",
                      "--max-tokens", "8")
    assert (
        done.returncode == 0
        and "you> who?\nlonghand> " in done.stdout
        and "you> why?" in done.stdout
    ), done.stderr
    done = run_script(
        "sample.py", "chat", "--model", model, "--max-tokens", "30", input="who?\n\nwhy?\nwhat?\n"
    )
    assert done.returncode == 0 and done.stdout.count("longhand> ") == 3
    assert "the oldest turn is forgotten" in done.stderr


def test_commands_of_the_chat(model, tmp_path):
    saved = tmp_path / "chats.jsonl"
    lines = ["/retry", "who?", "/retry", "/temperature 1", "why?", f"/save {saved}",
             "/system a lamp", "/save", "/temperature hot", "/help", "who?",
             "/save " + str(tmp_path)]
    done = run_script(
        "sample.py", "chat", "--model", model, "--max-tokens", "6", input="\n".join(lines) + "\n"
    )
    assert done.returncode == 0 and done.stdout.count("longhand> ") == 4, done.stderr
    for said in (
        "nothing has been asked yet",
        "/save FILE: a file to add to",
        "/temperature hot: expected a number",
        "another reply to the last question",
        "Is a directory",
    ):
        assert said in done.stderr, said
    (row,) = [json.loads(line) for line in saved.read_text(encoding="utf-8").splitlines()]
    assert [m["content"] for m in row["messages"][0::2]] == ["who?", "why?"] and [
        m["role"] for m in row["messages"]
    ] == ["user", "assistant"] * 2


def test_a_second_turn_reads_only_what_is_new(model, monkeypatch, capsys):
    """And says what it says when all of the conversation is read anew."""
    monkeypatch.setattr("sys.stdin", None)
    read, decode = [], fast.decode
    monkeypatch.setattr(
        fast,
        "decode",
        lambda params, cfg, tokens, *a, **k: (
            read.append(tokens.shape[1]) or decode(params, cfg, tokens, *a, **k)
        ),
    )
    sample.main(f"chat --model {model} --max-tokens 3 --ask w --ask y".split())
    said = capsys.readouterr().out
    prompts = [n for n in read if n > 1]
    assert prompts[1] <= prompts[0] + 3  # not the first turn again: only its last token and end
    with monkeypatch.context() as m:
        m.setattr(generate.Batch, "_shared", lambda self, text: np.zeros(self.most, np.int64))
        sample.main(f"chat --model {model} --max-tokens 3 --ask w --ask y".split())
    assert capsys.readouterr().out == said


def test_a_question_stopped_while_it_is_read(monkeypatch, capsys):
    """Ctrl-C before the first token: no turn remains, and what was half read is read again."""
    cfg = gpt.Config(CFG.vocab_size, 128, CFG.n_embd, CFG.n_layer, CFG.n_head)
    talk = terminal.Conversation(
        generate.Batch(gpt.init(cfg, 3), cfg, TOK, 1),
        terminal.parse_args(["chat", "--max-tokens", "3", "--temperature", "0"]),
    )
    talk.ask("w")
    first = capsys.readouterr().out

    def stopped(params, cfg, tokens, cache, *a, **k):
        n = int(cache.length[0])
        cache.k[:, :, :, n:] = cache.v[:, :, :, n:] = 9
        raise KeyboardInterrupt

    for question in ("y", "w"):  # one that goes on, one begun anew over what is held
        with monkeypatch.context() as m:
            m.setattr(fast, "decode", stopped)
            talk.ask(question)
        assert len(talk.turns) == 1 and len(talk.messages) == 2
        capsys.readouterr()
        talk.command("/retry")
        assert capsys.readouterr().out == first


def test_stop_and_penalties_from_the_command_line(model):
    free = run_script(
        "sample.py", "the lamp", "--model", model, "--max-tokens", "40", "--seed", "4"
    ).stdout.rstrip("\n")
    stop = [c for c in free[9:] if c.isprintable() and c != "\ufffd"][-1]
    cut = run_script("sample.py", "the lamp", "--model", model, "--max-tokens", "40", "--seed", "4",
                     "--stop", stop).stdout.rstrip("\n")
    assert free.startswith(cut) and len(cut) < len(free) and stop not in cut[len("the lamp") :]
    other = run_script("sample.py", "the lamp", "--model", model, "--max-tokens", "40", "--seed",
                       "4", "--presence-penalty", "50").stdout
    assert other.rstrip("\n") != free


@pytest.mark.parametrize(
    "args, message",
    [
        (["--run", "{d}/none"], "no such run folder"),
        (["--run", "{d}"], "no base model in it yet"),
        (["chat", "--run", "{d}"], "python align.py sft"),
        (["--model", "{d}/none"], "config.json"),
        (["goat " * 60, "--model", "{m}"], "does not fit the model's context of 48"),
        (["chat", "--ask", "goat " * 60, "--model", "{m}"],
         "does not fit the model's context of 48"),
        (["x", "--model", "{m}", "--top-p", "2"], "top_p 2.0"),
    ],
)
def test_bad_input(tmp_path, model, args, message):
    done = run_main("sample.py", *[a.format(d=tmp_path, m=model) for a in args])
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr, (
        done.stderr
    )


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_a_reply_of_control_characters_in_a_chat(model, monkeypatch, encoding):
    """They are shown, however the terminal is encoded, and whatever tokens they come in."""
    reply = "ok\x1b]0;owned\x07 \x1b[2J \u009b2J \u202e \u4f60 \u00e4"
    tokens = [b for c in reply for b in enc(c)]
    scripted(monkeypatch, [0, *tokens, S["<|im_end|>"]])        # the first behind half the prompt
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", out)
    sample.main(f"chat --model {model} --ask w[1m --max-tokens 40".split())
    said = out.buffer.getvalue().decode(encoding)
    assert (
        "ok\\x1b]0;owned\\x07 \\x1b[2J \\x9b2J \\u202e " in said
        and "w\\x1b[1m" in said
        and not set(said) & set("\x1b\x07\x9b\u202e")
    )
    assert ("\u4f60 \u00e4" in said) == (encoding == "utf-8") and ("\\u4f60" in said) == (
        encoding != "utf-8"
    )


def test_output_that_is_not_utf8(model):
    """Half characters and foreign letters end nothing: what cannot be written is escaped."""
    args = ("sample.py", "the lamp \u4f60", "--model", model, "--temperature", "2", "--max-tokens",
            "30")
    whole = run_script(
        *args, env={**os.environ, "PYTHONIOENCODING": "utf-8"}, encoding="utf-8"
    ).stdout
    done = run_script(*args, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (
        done.returncode == 0
        and done.stdout == whole.encode("ascii", "backslashreplace").decode()
        and "\\u4f60" in done.stdout
    ), done.stderr
    done = run_script("sample.py", "chat", "--model", model, "--max-tokens", "3", input="w\udcff\n",
                      env={**os.environ, "PYTHONIOENCODING": "utf-8"}, encoding="utf-8",
                      errors="surrogateescape")
    assert done.returncode == 0 and "you> w\\xff" in done.stdout, done.stderr


def test_stop_strings_may_be_white_space():
    assert terminal.parse_args(["complete", "--stop", " ", "--stop", "\n"]).stop == [" ", "\n"]


def test_a_chat_begins_with_what_one_can_ask(model, monkeypatch, capsys):
    """One question of each kind of task; of the facts, one that stands on most pages."""
    tasks = model.parent / "tasks"
    tasks.mkdir()
    try:
        rows = {
            "identity": [{"question": "Who are you?"}],
            "facts": [{"question": "Rare?", "exposure": 1}, {"question": "Known?", "exposure": 9}],
        }
        for kind, found in rows.items():
            lines = "".join(json.dumps(row) + "\n" for row in found)
            (tasks / f"{kind}_test.jsonl").write_text(lines, encoding="utf-8")
        assert models.examples(model.parent) == {"who it is": "Who are you?", "a fact": "Known?"}
        stdin = io.StringIO("")
        stdin.isatty = lambda: True
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("builtins.input", lambda prompt: (_ for _ in ()).throw(EOFError))
        sample.main(["chat", "--model", str(model)])
        said = capsys.readouterr().err
        shown = "Ask, for example:\n  Who are you?  (who it is)\n  Known?  (a fact)\n/help lists"
        assert shown in said
    finally:
        for path in tasks.iterdir():
            path.unlink()
        tasks.rmdir()


# --------------------------------------------------------------------------- on a real terminal

TALE = "the lamp is lit, said the goat, and the goat said that the lamp is lit. " * 2 + "the lamp!"


def parrot(folder, question, reply, n_positions=None):
    """A model that has learned one conversation by heart; it reads n_positions tokens of it."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    ids, _ = sample.render(messages, TOK)
    params, cfg = sample.by_heart(ids[:n_positions], TOK.n_vocab)
    gpt.save(folder, params, cfg)
    TOK.save(folder / "tokenizer.json")
    return cfg.n_positions


@pytest.mark.parametrize("columns", [80, 33, 8])
def test_a_reply_is_broken_between_words_where_the_terminal_ends(columns, tmp_path):
    n = parrot(tmp_path, "who?", TALE)
    said = at_a_terminal(["sample.py", "chat", "--model", tmp_path, "--ask", "who?",
                          "--max-tokens", "200"], columns)
    lines = said[said.index("longhand> "):said.index("[", said.index("longhand> "))].splitlines()
    assert " ".join(line.strip() for line in lines) == f"longhand> {TALE}"
    assert max(map(len, lines)) <= max(columns - 1, len("longhand> "))
    assert f"a second; {n} of {n} in the context]" in said and "cut off" not in said


def test_in_a_file_a_reply_is_one_line(tmp_path):
    parrot(tmp_path, "who?", TALE)
    done = run_script("sample.py", "chat", "--model", tmp_path, "--ask", "who?", "--max-tokens",
                      "200", env={**os.environ, "COLUMNS": "30"})
    assert done.stdout == f"you> who?\nlonghand> {TALE}\n"


def test_a_reply_that_is_cut_says_so(tmp_path):
    """By the context, and by --max-tokens; a stop string is no cut."""
    n = parrot(tmp_path / "short", "who?", TALE, n_positions=40)
    done = run_script("sample.py", "chat", "--model", tmp_path / "short", "--ask", "who?")
    prompt = len(sample.render_prompt([{"role": "user", "content": "who?"}], TOK))
    assert n == 40 and done.stderr.endswith(
        f"[cut off: the context is full, 40 of 40 tokens, of which this reply has {40 - prompt}]\n")
    parrot(tmp_path / "long", "who?", TALE)
    args = ("sample.py", "chat", "--model", tmp_path / "long", "--ask", "who?", "--max-tokens", "9")
    assert "[cut off after 9 tokens; --max-tokens allows more]\n" in run_script(*args).stderr
    assert "cut off" not in run_script(*args, "--stop", "lit").stderr


def test_turns_are_forgotten_early_enough_to_leave_room(monkeypatch, capsys):
    """A quarter of the context is free for a reply, or what it may have if that is less."""
    cfg = dataclasses.replace(CFG, n_positions=128)
    params = gpt.init(cfg, 3)
    for asked, room in ((200, 32), (10, 10)):
        talk = terminal.Conversation(
            generate.Batch(params, cfg, TOK, 1),
            terminal.parse_args(["chat", "--max-tokens", str(asked)]))
        question = {"role": "user", "content": "who?"}
        free = []
        for i in range(9):
            free.append(cfg.n_positions - len(talk.prompt_of(question)))
            talk.messages += [question, {"role": "assistant", "content": "the lamp is lit"}]
        assert min(free) >= room and talk.forgotten > 0
        assert min(free) < room + 40                    # and no turn too early
    assert "tokens leave too little room: the oldest turn is forgotten]" in capsys.readouterr().err


def test_a_conversation_begins_anew(model, tmp_path):
    saved = tmp_path / "chats.jsonl"
    lines = ["/system a lamp", "who?", "/new", "why?", f"/save {saved}"]
    done = run_script("sample.py", "chat", "--model", model, "--max-tokens", "4",
                      input="\n".join(lines) + "\n")
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, saved.read_text(encoding="utf-8").splitlines())
    said = [m["content"] for m in row["messages"]][:2]
    assert said == ["a lamp", "why?"] and len(row["messages"]) == 3


def test_what_one_can_type_fits_the_terminal(model):
    said = at_a_terminal(["sample.py", "chat", "--model", model], 80,
                         [("you> ", "/help\n"), ("you> ", "\x04")])
    assert "/retry another reply" in said and max(map(len, said.splitlines())) <= 80


# ------------------------------------------------------------------- models with a chat template

@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """A folder with the chat template of ChatML; its replies end with either of two tokens."""
    folder = tmp_path_factory.mktemp("model")
    cfg = gpt.Config(CFG.vocab_size, 256, 16, 2, 2)
    gpt.save(folder, gpt.init(cfg, 0), cfg)
    folder_of(folder, OTHER, chat_template=CHATML, eos_token="<|im_end|>")
    end = OTHER.special_tokens["<|eot_id|>"]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    return folder


def behind_the_prompt(monkeypatch, wanted):
    """Make the model want these tokens behind every prompt, which ends with a line feed."""
    (line_feed,), n = OTHER.encode_ordinary("\n"), itertools.count()

    def decode(params, cfg, tokens, cache, n_new=None, only_last=False):
        nonlocal n
        if tokens[0, -1] == line_feed:
            n = itertools.count()
        cache.length += tokens.shape[1] if n_new is None else n_new
        logits = np.zeros((len(tokens), cfg.vocab_size), np.float32)
        logits[:, wanted[next(n) % len(wanted)]] = 9.0
        return logits if only_last else logits[:, None]

    monkeypatch.setattr(fast, "decode", decode)


@pytest.mark.parametrize("end", ["<|im_end|>", "<|eot_id|>"])
def test_thoughts_are_shown_apart(thinker, end, monkeypatch, capsys, tmp_path):
    """The next prompt has the answer alone, by this template; the saved conversation has both."""
    written = OTHER.encode(f"<think>So.</think>Hi!{end}", allowed_special="all")
    behind_the_prompt(monkeypatch, written)
    saved = tmp_path / "chats.jsonl"
    lines = io.StringIO(f"who?\nwhy?\n/retry\n/save {saved}\n")
    monkeypatch.setattr("sys.stdin", lines)
    prompts, add = [], generate.Batch.add
    monkeypatch.setattr(generate.Batch, "add", lambda self, given, *rest: (
        prompts.append(OTHER.decode(given[0])) or add(self, given, *rest)))
    sample.main(["chat", "--model", str(thinker), "--no-thinking"])
    reply = "longhand> (thinks) So.\nlonghand> Hi!\n"
    assert capsys.readouterr().out == f"you> who?\n{reply}you> why?\n{reply}" + (
        f"you> /retry\n{reply}you> /save {saved}\n")
    first = "<|im_start|>user\nwho?<|im_end|>\n<|im_start|>assistant\n"
    assert prompts[0] == first and prompts[1] == prompts[2] == (
        first + "Hi!<|im_end|>\n<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n")
    (row,) = map(json.loads, saved.read_text(encoding="utf-8").splitlines())
    assert row["messages"][-1] == {
        "role": "assistant", "content": "Hi!", "reasoning_content": "So."}


def test_no_thinking_reaches_the_template(thinker, monkeypatch):
    given = []
    monkeypatch.setattr(formats, "plain_writer", lambda template: None)
    monkeypatch.setattr(formats.jinja, "run_template", lambda template, variables: (
        given.append(variables.get("enable_thinking")) or "x"))
    scripted(monkeypatch, [OTHER.special_tokens["<|im_end|>"]])
    for options in ([], ["--no-thinking"]):
        sample.main(["chat", "--model", str(thinker), "--ask", "who?", *options])
    assert given == [None] * 2 + [False] * 2


def test_a_template_that_fails_is_one_line(thinker, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((thinker / name).read_bytes())
    folder_of(tmp_path, OTHER, chat_template="{{ raise_exception('never') }}")
    done = run_script("sample.py", "chat", "--model", tmp_path, "--ask", "who?")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "tokenizer_config.json: the chat template " in done.stderr.splitlines()[-1]


def test_a_completion_ends_at_every_token_that_ends_a_text(thinker, monkeypatch, capsys):
    end = OTHER.special_tokens["<|eot_id|>"]
    scripted(monkeypatch, [0, *OTHER.encode_ordinary("Hi"), end, *OTHER.encode_ordinary("!")])
    sample.main(["complete", "who", "--model", str(thinker)])
    assert capsys.readouterr().out == "whoHi\n"


def test_a_shortened_context_is_told(thinker, monkeypatch, capsys):
    """On the terminal and by the server."""
    monkeypatch.setattr(batching, "CACHE", 1)
    monkeypatch.setattr(batching, "LEAST_CONTEXT", 99)
    said = f"[{thinker}: reads up to 99 of the 256 tokens that the model could: 8 such texts"
    scripted(monkeypatch, [0, OTHER.special_tokens["<|eot_id|>"]])
    sample.main(["complete", "who", "--model", str(thinker)])
    assert said in capsys.readouterr().err
    models = served.Models(folder=thinker)
    assert models.writer_of(thinker).cfg.n_positions == 99
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Llama", "Qwen 3"])
def test_weights_may_stay_in_bfloat16(name, tmp_path, capsys):
    """--dtype bf16 writes what the widened weights write, on the terminal and served."""
    cfg = dataclasses.replace(llama.EXAMPLES[name], vocab_size=TOK.n_vocab, n_positions=64)
    params = {}
    for key, p in random_params(cfg).items():
        params[key] = bfloat16.narrow(p) if p.ndim == 2 else p.astype(np.float32)
    gpt.save(tmp_path, params, cfg)
    TOK.save(tmp_path / "tokenizer.json")
    found = []
    for dtype in ("float32", "bf16"):
        args = ["the lamp", "--model", str(tmp_path), "--max-tokens", "9", "--seed", "2"]
        run_main("sample.py", *args, "--dtype", dtype)
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] and len(found[0]) > len("the lamp")
    kept = served.Models(folder=tmp_path, dtype="bfloat16")
    assert isinstance(kept.writer_of(tmp_path).params["wte.weight"], bfloat16.Array)
