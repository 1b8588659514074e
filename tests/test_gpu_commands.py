"""Commands that learn nothing, with --device cuda: they print what they print on the cores.

eval, arena, chat.probe, chat.inside, model.evaluate and chat.serve, on a GPU or on the CPU that
plays one. All that replies depend on is tried: each option of sampling, tools, and few pages.
"""

import functools
import itertools
import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_device import MODELS, close   # skips where neither a GPU nor g++ is there
from test_places import CFG, ON_A_GPU, TASKS, TOK, write_run
from test_probe import TASKS as PROBES

import align
import gpt
import sample
from chat import arena, generate, inside, judges, probe, serve, served
from model import device, evaluate, families, fast, pages
from model.llama import Config
from serving import post
from tokens.shards import open_shard

LLAMA = Config(TOK.n_vocab, 40, 16, 1, 2, 1, 8, 24, qk_norm=True, tied=False)
SHORT = replace(CFG, n_positions=28)        # replies are cut off early
FAMILIES = {"GPT-2": CFG, "Llama": LLAMA}


def weights(cfg, seed=0, spread=0.2):
    """Weights that tell tokens apart."""
    rng, params = np.random.default_rng(seed), families.of(cfg).init(cfg, seed)
    for p in params.values():
        p += (spread * rng.standard_normal(p.shape)).astype(np.float32)
    return params


def write_model(folder, cfg, seed):
    """Save a model."""
    gpt.save(folder, weights(cfg, seed), cfg)
    TOK.save(folder / "tokenizer.json")


@pytest.fixture
def run(tmp_path):
    """A run of two models and a reward model. Some questions have options."""
    write_run(tmp_path)
    for seed, name in enumerate(("base", "sft")):
        write_model(tmp_path / name, CFG, seed)
    judge = weights(CFG, 3)
    judge["score.weight"] = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    write_model(tmp_path / "reward", CFG, 3)
    judges.save(tmp_path / "reward", judge, CFG, 0.5)
    fact = {"kind": "fact", "exposure": 10, "options": ["one", "two", "three", "a goat"]}
    facts = [{**task, **fact, "reply": f"It is {task['answer']}."} for task in TASKS[:2]]
    files = {"facts": facts, "identity": TASKS[:1], "calculator": TASKS[1:2], "wheel": TASKS[:1]}
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"tasks/{name}_test.jsonl").write_text(text, encoding="utf-8")
    for name in ("train", "test"):
        text = "".join(json.dumps(row) + "\n" for row in PROBES)
        (tmp_path / f"tasks/probe_{name}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def written(monkeypatch):
    """{engine: the ids of all replies to questions}"""
    found, ask = {fast: [], device: []}, arena.ask

    def ask_and_keep(*args, engine=fast, **how):
        replies, verdicts = ask(*args, engine=engine, **how)
        found[engine] += [reply.ids for reply in replies]
        return replies, verdicts

    monkeypatch.setattr(arena, "ask", ask_and_keep)
    return found


@pytest.mark.parametrize("words, n", [
    ("eval --samples 2", 2 * (5 + 2)),
    ("arena", 2 * 5),
])
def test_models_are_asked_there(run, words, n, written, capsys):
    """And what is printed is the same, with what is likeliest and what a reward model likes."""
    for seed, name in enumerate(("base", "sft")):
        write_model(run / name, SHORT, seed)
    said = []
    for more in ((), ON_A_GPU):
        align.main([*words.split(), "--run", str(run), *more])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert written[fast] == written[device] and len(written[device]) == n
    assert len({tuple(ids) for ids in written[device]}) > 3
    if "eval" in words:
        assert "best of 2 by reward/" in said[0] and "the likeliest of ten" in said[0]


def test_options_by_likelihood():
    """arena.choose of weights on a GPU."""
    params, prompt, options = weights(CFG), [3, 5, 7], [[1, 2], [9], [4, 4, 6]]
    there = device.upload(params, CFG, False)
    want = arena.choose(params, CFG, prompt, options)
    close(arena.choose(there, CFG, prompt, options, device), want, 1e-4)


def test_a_model_is_probed_there(run, written):
    """What it knows is found there, and it learns there."""
    model = sample.load_model(run / "sft")
    right, texts = probe.ask_often(model, PROBES, times=1)
    place = probe.places.place("cuda", "float32")
    again = probe.ask_often(model, PROBES, times=1, place=place)
    assert (right == again[0]).all() and (texts == again[1]).all()
    known = np.arange(4)[:, None] % 2 == np.zeros(5)
    asked = known, np.array([["It is so."] * 5] * 4, object)
    found = []
    for device_name in (None, "cuda"):
        settings = {"steps": 2, "lr": 1e-3, "batch": 2, "replay": 0}
        recipe = probe.options.changed(probe.options.SFT, settings, ["replay"])
        recipe = probe.replace(recipe, device=device_name, dtype=device_name and "float32")
        found.append(probe.probe(run, recipe, asked=asked, out=f"made_{device_name}"))
    assert found[0] == found[1]
    assert written[fast] == written[device] and len(written[device]) == 4 * len(PROBES)


# -------------------------------------------------------------------------------- looking inside


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bf16, tolerance", [(False, 1e-4), (True, 0.06)])
def test_what_goes_on_inside_is_that_of_the_kernels(name, bf16, tolerance):
    cfg = MODELS[name]
    params = weights(cfg, 1, 0.1)
    there = device.upload(params, cfg, bf16)
    ids = [3, 5, 7, 1, 9, 9, 2]
    seen, lens = inside.look(params, cfg, ids)
    found, logits = inside.look_on_gpu(there, cfg, ids)
    assert found.shape == seen.shape and logits.shape == lens.shape
    close(found, seen, tolerance, "attention")
    for layer, want in enumerate(lens):
        close(logits[layer], want, tolerance, f"behind layer {layer}")


def test_inside_from_the_command_line(run, capsys):
    said = []
    for more in ((), ON_A_GPU):
        inside.main(["the goat", "--model", str(run / "sft"), *more])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "layer 1" in said[0]
    with pytest.raises(ValueError, match="--device cuda: what changes --off and --patch make"):
        inside.main(["the goat", "--model", str(run / "sft"), "--off", "1.1", *ON_A_GPU])


def test_text_is_measured_there(run, capsys):
    """model.evaluate, of a run's shard and of questions with endings."""
    questions = run / "questions.jsonl"
    row = {"ctx": "It is", "endings": ["a goat", "one two", "three", "it"], "label": 2}
    questions.write_text(json.dumps(row) + "\n")
    shard = run / "tokens" / "val_000000.bin"
    words = [str(run / "sft"), "--tokens", str(shard), "--hellaswag", str(questions)]
    said = []
    for more in ((), ON_A_GPU):
        evaluate.main([*words, *more])
        said.append(capsys.readouterr().out.splitlines())
    (of_text, of_endings), (of_text_there, of_endings_there) = said
    assert of_endings == of_endings_there
    nats, there = (float(line.split(": ")[1].split()[0]) for line in (of_text, of_text_there))
    assert there == pytest.approx(nats, abs=1e-4)
    params, cfg, _ = sample.load_model(run / "sft")
    on_gpu = device.upload(params, cfg, False)
    shards = [open_shard(shard, TOK)]
    found = evaluate.validation_loss(on_gpu, cfg, TOK, shards, batch=3, engine=device)
    assert found == pytest.approx(evaluate.validation_loss(params, cfg, TOK, shards), abs=1e-4)


# ---------------------------------------------------------------------------- how replies are drawn

PROMPTS = [[3, 5, 7, 1], [2], [9, 9, 1, 4, 4], [3, 5, 7, 1], [8, 6], [11, 3]]
DRAWN_THERE = {                 # two numbers a row come to the host
    "temperature": {"temperature": 0.6},
    "greedy": {"temperature": 0.0},
    "top_k": {"top_k": 5, "temperature": 1.4},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.05, "temperature": 1.3},
    "stop": {"stop": frozenset(range(0, TOK.n_vocab, 4)), "max_new_tokens": 15},
    "a short limit": {"max_new_tokens": 3},
    "a seed": {"seed": 11, "top_k": 20, "top_p": 0.95},
}
DRAWN_HERE = {                  # the logits come to the host
    "repetition": {"repetition_penalty": 1.5},
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": 0.9},
    "a bias": {"logit_bias": ((4, 3.0), (7, -50.0), (4, 1.0))},
    "alternatives": {"alternatives": 3},
    "all": {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.4,
            "logit_bias": ((9, 2.0),), "top_k": 40, "top_p": 0.9, "min_p": 0.01,
            "temperature": 0.8, "alternatives": 0},
}


def settings_of(options):
    """A reply's Settings."""
    return sample.Settings(**{"max_new_tokens": 9, "seed": 5, "tools": False, **options}).check()


def replies(engine, params, cfg, prompts, settings):
    """The rows that a batch wrote."""
    batch = generate.Batch(params, cfg, TOK, len(prompts), engine=engine)
    rows = batch.add(prompts, settings)
    while len(batch):
        batch.step()
    return rows


def check_replies(cfg, params, prompts, settings):
    """Both engines write the same, and call it as likely. Returns the rows of the GPU."""
    there = device.upload(params, cfg, False)
    want = replies(fast, params, cfg, prompts, settings)
    got = replies(device, there, cfg, prompts, settings)
    for row, other in zip(got, want):
        assert (row.ids, row.finish, row.sampled) == (other.ids, other.finish, other.sampled)
        np.testing.assert_allclose(row.logp, other.logp, atol=1e-4)
        for (logp, best), (logp_other, best_other) in zip(row.likeliest, other.likeliest):
            assert logp == pytest.approx(logp_other, abs=1e-4)
            assert [token for token, _ in best] == [token for token, _ in best_other]
        assert len(row.likeliest) == len(other.likeliest)
    return got


@pytest.fixture
def calls(monkeypatch):
    """How often each way to read the last tokens was taken on the GPU."""
    found = {"decode_and_draw": 0, "decode": 0}

    def counted(name, *args, function, **how):
        found[name] += args[2].shape[1] == 1
        return function(*args, **how)

    for name in found:
        function = functools.partial(counted, name, function=getattr(device, name))
        monkeypatch.setattr(device, name, function)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_each_option_of_sampling(family, calls):
    """Rows with settings of their own, side by side: the same tokens as on the cores."""
    cfg = FAMILIES[family]
    params = weights(cfg)
    ways = [settings_of(options) for options in DRAWN_THERE.values()]
    prompts = list(itertools.islice(itertools.cycle(PROMPTS), len(ways)))
    rows = check_replies(cfg, params, prompts, ways)
    assert calls["decode_and_draw"] >= 9 and calls["decode"] == 0
    finishes = dict(zip(DRAWN_THERE, rows))
    assert finishes["stop"].finish == "stop" and len(finishes["a short limit"].ids) == 3
    plain = replies(fast, params, cfg, prompts, [settings_of({})] * len(prompts))
    assert sum(row.ids != other.ids for row, other in zip(rows, plain)) >= 6

    both = [*ways[:2], *(settings_of(options) for options in DRAWN_HERE.values())]
    prompts = list(itertools.islice(itertools.cycle(PROMPTS), len(both)))
    check_replies(cfg, params, prompts, both)
    assert calls["decode"] >= 9


def parrot(*steps):
    """Weights of LLAMA that go from each token of a list to the one behind it, all but surely."""
    params = {name: np.zeros_like(p) for name, p in weights(LLAMA).items()}
    for name, p in params.items():
        if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight", "norm.weight")):
            p += 1.0
    for i, (token, following) in enumerate(steps):
        params["wte.weight"][token, i] = 1.0
        params["lm_head.weight"][following, i] += 3.0
    return params


def test_a_tool_writes_into_a_reply(calls):
    """Its answer is not drawn. The model goes on behind it, with the random numbers it would have
    had."""
    names = TOK.special_tokens
    start, end = names["<|tool_start|>"], names["<|tool_end|>"]
    call = [start, *TOK.encode_ordinary("2*3"), end]
    done, stop = names["<|output_end|>"], names["<|im_end|>"]
    (six,) = TOK.encode_ordinary("6")
    params = parrot((3, start), *itertools.pairwise(call), (done, stop), (9, 3))
    ways = [settings_of({"tools": tools, "stop": frozenset([stop]), "max_new_tokens": 8})
            for tools in (True, False, True)]
    rows = check_replies(LLAMA, params, [[3], [3], [9]], ways)
    answer = [names["<|output_start|>"], six, done]
    assert rows[0].ids == [*call, *answer, stop]
    assert rows[0].sampled == [1] * len(call) + [0] * 3 + [1]
    assert rows[1].ids[: len(call)] == call and rows[1].sampled == [1] * len(rows[1].ids)
    assert rows[2].ids[1:] == rows[0].ids and calls["decode"] == 0


# ---------------------------------------------------------------------------------------- a server


@pytest.mark.parametrize("family", FAMILIES)
def test_a_server_answers_from_there(family, tmp_path, monkeypatch):
    """Four requests at once, in so few pages that rows are set back: the answers of the cores."""
    cfg = FAMILIES[family]
    write_model(tmp_path / "sft", cfg, 4)
    (tmp_path / "chain.json").write_text("[]")
    monkeypatch.setattr(pages, "PAGE", 8)
    make, set_back = device.Cache.__init__, []
    budget = 8 * pages.bytes_a_page(cfg, np.float32)
    monkeypatch.setattr(device.Cache, "__init__",
                        lambda cache, *args, **how: make(cache, *args, **how, budget=budget))
    plain = generate.Batch._set_back
    monkeypatch.setattr(generate.Batch, "_set_back",
                        lambda batch: set_back.append(batch) or plain(batch))
    asks = [{"prompt": text, "max_tokens": 14, "seed": i, "temperature": 0.9, "top_p": 0.95}
            for i, text in enumerate(("It is", "one two", "It is a goat", "three"))]
    asks[2]["frequency_penalty"] = 0.5
    found = []
    for upload in (None, functools.partial(serve.uploaded, "float32")):
        served_models = served.Models(folder=tmp_path / "sft", upload=upload)
        server = serve.Server(served_models, port=0)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        answers = {}

        def ask(i):
            answers[i] = post(server, "/v1/completions", asks[i])["choices"][0]["text"]

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(asks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.close()
        found.append(answers)
        assert bool(set_back) == bool(upload)
    assert found[0] == found[1] and len(set(found[0].values())) == len(asks)
