"""What the stages ask of the model: copied rows, policy weights, the reward's head, fine-tuning."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

import align
import bpe
import gpt
import sample
import train
from chat import generate, options
from model import cores, corpus, fast, operations, parallel, walk
from tokens.shards import write_shard
from conftest import check_grad

RNG = np.random.default_rng(0)
CFG = gpt.Config(vocab_size=13, n_positions=9, n_embd=8, n_layer=2, n_head=2)


def model(cfg=CFG):
    params = gpt.init(cfg, 1, np.float64)
    for p in params.values():
        p += 0.2 * RNG.standard_normal(p.shape)
    return params


# ---------------------------------------------------------------------------------------- the model


def test_what_a_block_adds():
    """add means the same for all gradients of a block."""
    params = model()
    p = walk.layer_params(params, CFG, 1)
    x, dy = RNG.standard_normal((2, 10, 8))

    def block(out, add):
        shapes = {**walk.way_of(CFG).block_shapes(CFG, 2, 5), "t": (10, 8)}
        arrays = SimpleNamespace(hidden=None, **{k: np.empty(shape) for k, shape in shapes.items()})
        arrays.do = arrays.t
        walk.block_forward(operations, x.copy(), None, p, arrays, CFG)
        places = out or [np.empty_like(a) for a in p.values()]
        grads = dict(zip(p, places))
        walk.block_backward(operations, dy.copy(), p, arrays, CFG, grads, add)
        return grads.values()

    once = [g.copy() for g in block(None, False)]
    twice = block([g.copy() for g in once], True)
    for a, b in zip(once, twice):
        np.testing.assert_allclose(b, 2 * a, rtol=1e-12, atol=1e-14)


def test_a_step_without_weight_clears_the_gradients():
    """What the arrays held before is gone, also where no product writes to them."""
    params, (tokens, targets) = model(), RNG.integers(0, 13, (2, 3, 7))
    grads = {k: np.full_like(p, 7.0) for k, p in params.items()}
    no_weight = np.zeros((3, 7))
    loss, _ = fast.loss_and_grads(params, CFG, tokens, targets, no_weight, grads=grads)
    assert loss == 0.0 and not any(g.any() for g in grads.values())


def test_fresh_parameters():
    """The spreads of GPT-2. That of n numbers is known to 1 / sqrt(2n); five of these are right."""
    cfg = gpt.Config(vocab_size=500, n_positions=64, n_embd=48, n_layer=6, n_head=4)
    params, others = gpt.init(cfg, 0), gpt.init(cfg, 1)
    for name, p in params.items():
        if p.ndim == 1:
            assert (p == (0.0 if name.endswith("bias") else 1.0)).all(), name
            continue
        want = 0.02 / np.sqrt(2 * 6) if name.endswith("c_proj.weight") else 0.02
        assert p.std() == pytest.approx(want, rel=5 / np.sqrt(2 * p.size)), name
        assert not np.array_equal(p, others[name])


def test_draw_never_hits_a_token_without_probability():
    p = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    last = 1 - 2.0 ** -53
    assert generate.draw(p, np.array([0.0, 0.5, last, 0.0])).tolist() == [1, 2, 1, 1]


# --------------------------------------------------------------------------------------- generation


def test_a_reply_is_the_same_whoever_comes_and_goes():
    """Prompts that come several times are read once. One ends early, another takes its place."""
    params, tokenizer = model(), bpe.Tokenizer.characters("0123456789abc")
    params["ln_f.weight"] *= 3.0                            # another row's logits give other tokens
    prompts = [[5, 6], [1, 2], [3, 4], [3, 4], [3, 4], [1, 2], [7, 8], [9, 10], [11, 12], [0, 1],
               [2, 2]]
    whole, short = (sample.Settings(max_new_tokens=n, tools=False, seed=3) for n in (6, 1))

    def finish(batch):
        while len(batch):
            batch.step()

    want = []
    for stream, prompt in enumerate(prompts):
        batch = generate.Batch(params, CFG, tokenizer, 1)
        want += batch.add([prompt], whole, [stream])
        finish(batch)
    assert len({tuple(row.ids) for row in want}) == len(want)
    early, late = prompts[:-1], prompts[-1:]
    for ends in range(len(early)):
        batch = generate.Batch(params, CFG, tokenizer, 12)
        settings = [whole] * len(early)
        settings[ends] = short
        rows = batch.add(early, settings, range(len(early)))
        batch.step()
        assert len(batch.rows) == len(early) > len(batch)   # it leaves when another comes
        rows += batch.add(late, whole, [len(early)])
        finish(batch)
        for i, row in enumerate(rows):
            n = 1 if i == ends else 6
            assert row.prompt == prompts[i] and row.ids == want[i].ids[:n]


# --------------------------------------------------------------------------- reinforcement, rewards


@pytest.mark.parametrize("leash", [0.0, 0.3])
def test_the_gradient_of_a_rollout(leash, monkeypatch):
    """add_replies adds the gradient of -A log p / n + leash / 2 (log p_ref - log p)^2 / n."""
    monkeypatch.setattr(cores, "N_THREADS", 1)
    params, reference = model(), model()
    prompts = [[1, 2], [1, 2], [3, 4, 5], [3, 4, 5]]
    replies = [sample.Reply([6, 7, 8, 10], [1, 0, 0, 1], "stop"),
               sample.Reply([9, 10], [1, 1], "stop"),
               sample.Reply([2, 2, 2], [1, 1, 1], "stop"),
               sample.Reply([1, 0, 12, 4, 5], [1, 1, 1, 0, 1], "stop")]
    replies = [reply._replace(prompt=prompt) for prompt, reply in zip(prompts, replies)]
    rows, advantage = align.policy_rows(replies), np.array([1.0, -0.7, 0.0, -1.2])
    log_p_reference = align.log_probabilities(reference, CFG, *rows)
    rollout = align.Rollout(None, replies, None, None, None, None)
    recipe = dataclasses.replace(options.RL, leash=leash)

    def asked():
        log_p = align.log_probabilities(params, CFG, *rows)
        d = log_p_reference - log_p
        return ((-advantage[:, None] * log_p + leash / 2 * d * d) * rows[2]).sum() / rows[2].sum()

    grads = parallel.Gradients(params, CFG)
    learner = SimpleNamespace(model=(params, CFG, None), engine=fast, add=grads.add)
    _, info = align.add_replies(learner, recipe, rollout, advantage, reference)
    check_grad(asked, {k: (params[k], grads.sum[k]) for k in params}, n=2)
    distance = ((align.log_probabilities(params, CFG, *rows) - log_p_reference) * rows[2]).sum() / 4
    assert info == ({"kl_nats": pytest.approx(distance)} if leash else {})


# -------------------------------------------------------------------------------------- fine-tuning

TEXT = "What is it? It is a goat. user assistant Turn the wheel: one two. "
CHATS = [{"messages": [{"role": "user", "content": f"What is {thing}?"},
                       {"role": "assistant", "content": f"It is a {thing}."}]}
         for thing in ("goat", "wheel of wheels", "one")]


@pytest.fixture
def run(tmp_path):
    """A run folder with a base model, its text and three conversations."""
    tokenizer = bpe.Tokenizer.train([TEXT] * 3, 300)
    cfg = gpt.Config(tokenizer.n_vocab, 80, 16, 2, 2)
    gpt.save(tmp_path / "base", gpt.init(cfg, 0), cfg)
    tokenizer.save(tmp_path / "base" / "tokenizer.json")
    for name in ("tokens", "chat"):
        (tmp_path / name).mkdir()
    ids = tokenizer.encode_to_numpy(TEXT * 30)
    for split in ("train", "val"):
        write_shard(tmp_path / "tokens" / f"{split}_000000.bin", ids, tokenizer)
    lines = "".join(json.dumps(chat) + "\n" for chat in CHATS)
    (tmp_path / "chat" / "train.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def test_a_step_of_sft_is_what_it_says(run, monkeypatch):
    """The gradient of the mean over the assistant's tokens, and replay_weight times that of the
    mean over the text."""
    changes = {"steps": 1, "batch": 3, "replay": 2, "replay_weight": 0.5, "warmup": 1}
    recipe = dataclasses.replace(options.SFT, **changes)
    params, cfg, tokenizer = sample.load_model(run / "base")
    seen, update = [], train.update

    def watched(optimizer, grads, *rest):
        seen.append({k: g.copy() for k, g in grads.items()})
        return update(optimizer, grads, *rest)

    monkeypatch.setattr(train, "update", watched)
    align.sft(run, recipe)
    rows = align.pad_rows([sample.render(chat["messages"], tokenizer) for chat in CHATS])
    _, want = fast.loss_and_grads(params, cfg, rows[0], rows[1], rows[2] / rows[2].sum())
    text = train.Windows(corpus.load_run(run, tokenizer)[0], cfg.n_positions, 1).rows(0, 2)
    _, of_text = fast.loss_and_grads(params, cfg, text[:, :-1], text[:, 1:])
    for k in want:
        both = want[k] + 0.5 * of_text[k]
        # Some 40 sums of at most 300 terms in a row: sqrt(40 * 300) = 110 roundings of 6e-8.
        most = 1e-5 * np.abs(both).max()
        np.testing.assert_allclose(seen[0][k], both, rtol=0, atol=most, err_msg=k)


def test_fine_tuning_decays_nothing(run):
    """Positions that no conversation reaches have no gradient and keep their bits."""
    recipe = dataclasses.replace(options.SFT, steps=3, batch=1, replay=0, warmup=1)
    align.sft(run, recipe)
    params, _, tokenizer = sample.load_model(run / "base")
    before, after = params["wpe.weight"], sample.load_model(run / "sft")[0]["wpe.weight"]
    longest = max(len(sample.render(chat["messages"], tokenizer)[0]) for chat in CHATS)
    assert longest < 70
    np.testing.assert_array_equal(after[longest:], before[longest:])
    assert (after[:5] != before[:5]).all()
