"""chat/judges.py: a reward model's gradient, its files, and what it refuses to read."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

import align
import gpt
from chat import judges
from model import cores, families, llama, lora, parallel
from conftest import check_grad
from test_llama import random_params
from test_align import CFG as TINY, TOK, run  # noqa: F401  a fixture
from test_stages import CFG, RNG, model


def test_the_gradient_of_a_reward_model(monkeypatch):
    """Rows of unequal length, in two parts, after a step whose gradient must not be left."""
    monkeypatch.setattr(cores, "N_THREADS", 1)
    params = {**model(), "score.weight": RNG.standard_normal(8)}
    rows = [RNG.integers(0, 13, n).tolist() for n in (9, 3, 5, 1, 7)]
    c = RNG.standard_normal(5)
    parts = [slice(0, 3), slice(3, 5)]
    grads = parallel.Gradients(params, CFG)

    def squares_of(part):  # a loss of rewards, and its gradient
        return lambda rewards: (float(c[part] @ rewards**2), 2 * c[part] * rewards)

    for _ in range(2):
        grads.clear()
        for part in parts:
            judges.add_gradient(
                SimpleNamespace(gradients=grads), rows[part], squares_of(part)
            )

    def loss():
        return float(c @ judges.raw_rewards(params, CFG, rows) ** 2)

    alone = np.concatenate([judges.raw_rewards(params, CFG, [row]) for row in rows])
    together = judges.raw_rewards(params, CFG, rows)
    np.testing.assert_allclose(together, alone, rtol=1e-12)  # padding says nothing
    check_grad(loss, {k: (params[k], grads.sum[k]) for k in params}, n=3)


def test_a_reward_model_of_a_shorter_context(run):
    """It must be able to read the longest reply that may come."""
    align.main(f"reward --run {run} --steps 2 --batch 4 --start base".split())
    cfg = dataclasses.replace(TINY, n_positions=64)
    gpt.save(run / "base", gpt.init(cfg, 0), cfg)
    args = f"rl --run {run} --start base --reward model --steps 1 --group 2 --prompts 2".split()
    args += ["--batch", "0"]
    with pytest.raises(
        ValueError,
        match="reward: reads 48 tokens, and a question with its reply may have 64; "
        "give a smaller --max-tokens",
    ):
        align.main(args)
    align.main([*args, "--max-tokens", "8"])


def test_a_reward_is_read_at_the_last_id():
    """Padding says nothing, and a conversation that is too long is refused."""
    params = {**gpt.init(TINY, 0), "score.weight": np.random.default_rng(1).standard_normal(32)}
    judge = judges.Judge(params, TINY, TOK, 0.5)
    together = judges.score(judge, [[1] * 48, [1], [1, 2]], batch=2)
    alone = [judges.score(judge, [ids])[0] for ids in ([1] * 48, [1], [1, 2])]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    with pytest.raises(ValueError, match="49 positions, the model.s context is 48"):
        judges.score(judge, [[1] * 48, [1] * 49])


@pytest.mark.parametrize("name", llama.EXAMPLES)
def test_a_judge_of_the_other_family(name, tmp_path):
    """Its files hold what it is, and its gradient is the measured one."""
    cfg = dataclasses.replace(llama.EXAMPLES[name], vocab_size=TOK.n_vocab)
    params = llama.init(cfg, 0, np.float32)
    gpt.save(tmp_path, params, cfg)
    TOK.save(tmp_path / "tokenizer.json")
    params["score.weight"] = np.linspace(-1, 1, 8, dtype=np.float32)
    for _ in range(2):                              # again, as when a run is killed at its end
        judges.save(tmp_path, params, cfg, 0.5)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [
        {"Llama": "Llama", "Qwen 2": "Llama", "Qwen 3": "Qwen3"}[name] + "ForSequenceClassification"
    ]
    judge = judges.load(tmp_path)
    assert judge.cfg == cfg and judge.bias == 0.5
    assert all(np.array_equal(judge.params[key], params[key]) for key in params)

    double = {**random_params(cfg), "score.weight": RNG.standard_normal(8)}
    grads = parallel.Gradients(double, cfg)
    rows = [[1, 2, 3], [4, 5]]
    judges.add_gradient(SimpleNamespace(gradients=grads), rows,
                        lambda rewards: (float(rewards @ rewards), 2 * rewards))
    check_grad(lambda: float(np.sum(judges.raw_rewards(double, cfg, rows) ** 2)),
               {key: (double[key], grads.sum[key]) for key in double if key != "lm_head.weight"},
               n=2)


@pytest.mark.parametrize("name", ["GPT-2", "Qwen 3"])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_gradient_of_a_reward_model_with_an_adapter(name, n_threads, monkeypatch):
    """Of A, B and the head, in two parts, after a step whose gradient must not be left."""
    monkeypatch.setattr(cores, "N_THREADS", n_threads)
    cfg = lora.EXAMPLES[name]
    params = families.of(cfg).init(cfg, 0, np.float64)
    params |= lora.init(params, cfg, 2, 3.0, 0) | {"score.weight": RNG.standard_normal(8)}
    for key, p in params.items():
        if key != lora.SCALE:
            p += 0.1 * RNG.standard_normal(p.shape)
    rows = [RNG.integers(0, cfg.vocab_size, n).tolist() for n in (5, 3, 6, 1, 4)]
    grads = parallel.Gradients(params, cfg)
    grads.sum.flat[...] = 9.0
    for _ in range(2):
        grads.clear()
        for part in rows[:3], rows[3:]:
            judges.add_gradient(SimpleNamespace(gradients=grads), part,
                                lambda rewards: (float(rewards @ rewards), 2 * rewards))
    rewards = judges.raw_rewards(params, cfg, rows)
    merged = judges.raw_rewards(lora.in_memory(params), cfg, rows)
    np.testing.assert_allclose(rewards, merged, rtol=1e-10)
    check_grad(lambda: float(np.sum(judges.raw_rewards(params, cfg, rows) ** 2)),
               {key: (params[key], grad) for key, grad in grads.sum.items()}, n=2)


@pytest.mark.parametrize("name", ["GPT-2", "Qwen 3"])
def test_an_adapter_is_merged_into_a_judge(name, tmp_path):
    """The head learns beside the adapter, and nothing else does."""
    cfg = dataclasses.replace(lora.EXAMPLES[name], vocab_size=TOK.n_vocab)
    params = families.of(cfg).init(cfg, 0)
    gpt.save(tmp_path, params, cfg)
    TOK.save(tmp_path / "tokenizer.json")
    params |= lora.init(params, cfg, 2, 4.0, 0)
    for key in params:
        if key.endswith("lora_B"):
            params[key] += 0.1
    params["score.weight"] = np.linspace(-1, 1, 8, dtype=np.float32)
    learned = {key for key in params if ".lora_" in key} | {"score.weight"}
    assert lora.learned(params).keys() == learned
    judges.save(tmp_path, params, cfg, 0.5)
    found = judges.load(tmp_path).params
    whole = lora.in_memory(params)
    assert found.keys() == whole.keys()
    for key, p in whole.items():
        np.testing.assert_array_equal(found[key], p)


def test_its_files(tmp_path):
    gpt.save(tmp_path, gpt.init(TINY, 0), TINY)
    TOK.save(tmp_path / "tokenizer.json")
    with pytest.raises(
        ValueError, match="has no score.weight of 32 numbers, so it is no reward model"
    ):
        judges.load(tmp_path)
    params = {**gpt.init(TINY, 0), "score.weight": np.arange(32, dtype=np.float32)}
    judges.save(tmp_path, params, TINY, 0.25)
    judge = judges.load(tmp_path)
    assert judge.bias == 0.25 and all(np.array_equal(judge.params[k], params[k]) for k in params)
    assert json.loads((tmp_path / "config.json").read_text())["num_labels"] == 1
    with pytest.raises(
        FileNotFoundError,
        match="none: no finished reward model; make it with: python align.py reward",
    ):
        judges.load(tmp_path / "none")
