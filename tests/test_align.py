"""align.py: masks, advantages, the policy gradient, rewards, and whole stages that are killed."""

import dataclasses
import functools
import io
import json
import re
import shutil
import sys

import numpy as np
import pytest

import align
import bpe
import gpt
import sample
import train
from chat import arena, generate, judges, lessons, options, rollouts
from model import fast, parallel
from run import command
from tokens.shards import write_shard
from conftest import check_grad, run_main, run_script

TOK = bpe.Tokenizer.train(
    [
        "What is it? It is a goat. user assistant Turn the wheel: one two. It stops at three. "
        "Step by step: one one, two three."
    ]
    * 3,
    330,
)
CFG = gpt.Config(TOK.n_vocab, 48, 32, 2, 2)
END = TOK.special_tokens["<|im_end|>"]
CHATS = [
    {
        "messages": [{"role": "user", "content": f"What is {w}?"},
                     {"role": "assistant", "content": f"It is a {w}."}]
    }
    for w in ("goat", "wheel", "one", "two")
]
TASKS = [
    {"question": f"Turn the wheel: {w}.", "answer": w, "kind": "wheel"}
    for w in ("one", "two", "three")
]
PAIRS = [
    {"chosen": c["messages"],
     "rejected": [c["messages"][0], {"role": "assistant", "content": f"one {w} two."}]}
    for c in CHATS
    for w in ("goat", "wheel", "three")
]


@pytest.fixture
def run(tmp_path):
    """A run folder with a tiny base model, conversations and tasks."""
    gpt.save(tmp_path / "base", gpt.init(CFG, 0), CFG)
    TOK.save(tmp_path / "base" / "tokenizer.json")
    (tmp_path / "tokens").mkdir()
    for split in ("train", "val"):
        write_shard(tmp_path / "tokens" / f"{split}_000000.bin",
                    TOK.encode_to_numpy("Turn the wheel: one two. It is a goat. " * 30), TOK)
    for name, rows in (
        ("chat/train", CHATS * 8),
        ("pairs/train", PAIRS),
        ("pairs/test", PAIRS),
        ("tasks/wheel_train", TASKS),
        ("tasks/wheel_test", TASKS),
        ("tasks/calculator_test", TASKS),
        ("tasks/facts_test", [{**t, "kind": "fact", "exposure": 10, "asked": True} for t in TASKS]),
        ("tasks/identity_test", TASKS),
    ):
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return tmp_path


def behind(prompts, replies):
    """Replies as sample.generate gives them, each with its prompt."""
    return [reply._replace(prompt=prompt) for prompt, reply in zip(prompts, replies)]


def put(path, text):
    path.write_text(text, encoding="utf-8")


# ---------------------------------------------------------------------------- batches and gradients


def test_rows_line_up_targets_with_weights():
    tokens, targets, weights = align.pad_rows([([5, 6, 7, 8], [0, 0, 1, 1]), ([5, 9], [0, 1])])
    np.testing.assert_array_equal(tokens, [[5, 6, 7], [5, 0, 0]])
    np.testing.assert_array_equal(targets, [[6, 7, 8], [9, -1, -1]])
    np.testing.assert_array_equal(weights, [[0, 1, 1], [1, 0, 0]])


def test_a_batch_with_nothing_to_learn_contributes_nothing():
    params = gpt.init(CFG, 0)
    grads = parallel.Gradients(params, CFG)
    loss, n = align.add_conversations(grads, [([1, 2, 3], [0, 0, 0])], CFG.n_positions)
    assert (loss, n) == (0.0, 0) and not any(g.any() for g in grads.sum.values())


def test_only_the_assistants_tokens_are_learned():
    params = gpt.init(CFG, 0)
    ids, mask = sample.render(CHATS[0]["messages"], TOK)
    loss, n = align.add_conversations(
        parallel.Gradients(params, CFG), [(ids, mask)], CFG.n_positions
    )
    logits, _ = fast.forward(params, CFG, np.array([ids[:-1]]))
    logp = logits[0] - np.log(np.exp(logits[0]).sum(-1, keepdims=True))
    by_hand = -np.mean([logp[t - 1, ids[t]] for t in range(1, len(ids)) if mask[t]])
    assert loss == pytest.approx(by_hand, rel=1e-4) and n == sum(mask)


def test_the_policy_gradient_is_that_of_the_surrogate():
    """d/dtheta sum_i A_i sum_t log p(token) / n, by finite differences over whole replies."""
    cfg = gpt.Config(11, 12, 8, 1, 2)
    params = gpt.init(cfg, 0, np.float64)
    for p in params.values():
        p += 0.2 * np.random.default_rng(1).standard_normal(p.shape)
    prompts = [[1, 2], [3, 4, 5]]
    replies = [sample.Reply([6, 7, 8, 10], [1, 0, 0, 1], "stop"),
               sample.Reply([9, 10], [1, 1], "stop")]
    adv = np.array([0.7, -0.4])
    tokens, targets, mask = align.policy_rows(behind(prompts, replies))
    _, grads = fast.loss_and_grads(
        params, cfg, tokens, targets, align.policy_weights(align.normaliser(mask), adv)
    )

    def surrogate():
        total = 0.0
        for p, r, a in zip(prompts, replies, adv):
            ids = p + r.ids
            logits = fast.forward(params, cfg, np.array([ids]))[0][0]
            logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            total -= a * sum(
                logp[len(p) + t - 1, r.ids[t]] for t in range(len(r.ids)) if r.sampled[t]
            )
        return total / 4  # tokens the model chose: 6, 10, 9, 10

    check_grad(surrogate, {k: (params[k], grads[k]) for k in params}, n=5)


def test_a_group_of_equal_rewards_moves_nothing():
    params = gpt.init(CFG, 0)
    replies = [sample.Reply([3, END], [1, 1], "stop")] * 4
    tokens, targets, mask = align.policy_rows(behind([[1, 2]] * 4, replies))
    weights = align.policy_weights(align.normaliser(mask), align.advantages([1, 1, 1, 1], 4))
    _, grads = fast.loss_and_grads(params, CFG, tokens, targets, weights)
    assert not any(g.any() for g in grads.values())


def test_without_a_baseline_equal_rewards_are_learned_from(run, capsys):
    """REINFORCE: every reply that is paid becomes likelier, also a single one; with a baseline
    there is nothing to learn."""
    recipe = dataclasses.replace(
        options.RL, steps=2, group=1, prompts=4, max_tokens=8, batch=0, baseline="none"
    )

    def always(rollout):
        return np.ones(len(rollout.texts))

    def never(rollout):
        return np.zeros(len(rollout.texts))

    norms = {}
    with_mean = dataclasses.replace(recipe, group=2, baseline="mean")
    for name, reward, how, warning in (
        ("always", always, recipe, None),
        ("never", never, recipe,
         "no reply has a reward other than 0: there is nothing to learn from"),
        ("mean", always, with_mean,
         "no group has replies of different rewards: there is nothing to learn from"),
    ):
        align.rl(run, how, reward, start="base", out=name)
        norms[name] = [
            json.loads(line)["grad_norm"]
            for line in (run / name / "log.jsonl").read_text().splitlines()
        ]
        said = capsys.readouterr().err
        assert warning in said if warning else "nothing to learn" not in said
    assert min(norms["always"]) > 0 and norms["never"] == norms["mean"] == [0.0, 0.0]
    args = f"rl --run {run} --group 1 --steps 1 --prompts 2 --batch 0 --start base".split()
    align.main([*args, "--baseline", "none", "--out", "one"])
    for more in ([], ["--baseline", "rloo"]):
        with pytest.raises(
            ValueError,
            match="--group 1: a single reply has nothing to be compared with; give at least 2, or",
        ):
            align.main([*args, *more])


def test_a_two_armed_bandit_is_solved():
    """One prompt, the reply 'A' pays and 'B' does not: the policy learns A within a few steps."""
    cfg = gpt.Config(6, 4, 16, 1, 2)
    params, optimizer = gpt.init(cfg, 0), None
    optimizer = train.AdamW(params, 0.9, 0.99, weight_decay=0.0)
    tok = bpe.Tokenizer.characters("012345")
    for step in range(40):
        replies = generate.generate(
            params, cfg, tok, [[0]] * 32, stop=(), max_new_tokens=1, seed=step
        )
        adv = align.advantages([float(r.ids[0] == 3) for r in replies], 32)
        tokens, targets, mask = align.policy_rows(behind([[0]] * 32, replies))
        _, grads = fast.loss_and_grads(
            params, cfg, tokens, targets, align.policy_weights(align.normaliser(mask), adv)
        )
        optimizer.step(grads, 0.01)
    p = np.exp(fast.forward(params, cfg, np.array([[0]]))[0][0, 0])
    assert (p / p.sum())[3] > 0.95


def test_the_table_of_recipes_is_that_of_the_options():
    """align.py's docstring says what chat/options.py has."""
    row = r"^    (sft|rl|reward|dpo) +(\d+) +([\d.]+) +(-|[\d.]+) +(\d.*)$"
    rows = re.findall(row, align.__doc__, re.M)
    assert [name for name, *_ in rows] == list(options.RECIPES)
    for name, steps, lr, beta, rest in rows:
        recipe = options.RECIPES[name]
        assert (int(steps), float(lr)) == (recipe.steps, recipe.lr), name
        assert beta == str(getattr(recipe, "leash", "-")), name
        want = [recipe.batch]
        if name == "sft":
            want = [recipe.batch, recipe.replay]
        if name == "rl":
            want = [recipe.group, recipe.prompts, recipe.batch]
        assert [int(n) for n in re.findall(r"\d+", rest)] == want, name


# ------------------------------------------------------------------------------------------ rewards


def test_a_reply_that_is_cut_is_not_right():
    ids = TOK.encode_ordinary("It stops at three.")
    assert arena.judge(
        TASKS[2], sample.Reply(ids + [END], [1] * (len(ids) + 1), "stop"), TOK
    ).correct
    cut = arena.judge(TASKS[2], sample.Reply(ids, [1] * len(ids), "length"), TOK)
    assert not cut.correct and not cut.ended and cut.n_tokens == len(ids)


def rollout_of(replies, **more):
    """A rollout of replies to the third task."""
    n = len(replies)
    texts = [sample.reply_text(reply.ids, TOK) for reply in replies]
    ended = np.array([reply.finish == "stop" for reply in replies])
    lengths = np.array([sum(reply.sampled) for reply in replies])
    return align.Rollout(
        [TASKS[2]] * n, replies, texts, ended, lengths, np.random.default_rng(0), **more
    )


REPLIES = [
    sample.Reply(TOK.encode_ordinary(text) + [END] * (finish == "stop"), [1], finish, [0.0], [1, 2])
    for text, finish in (
        ("It stops at three.", "stop"),
        ("one two", "stop"),
        ("It stops at three.", "length"),
        ("goat", "length"),
    )
]


def test_what_replies_earn():
    """A right answer that ended, a coin, and what a reward model says, of which cut-off replies get
    the lowest."""

    def earned(name, **more):
        return rollouts.checked(align.REWARDS[name], name, rollout_of(REPLIES, **more)).tolist()

    assert earned("answer") == [1, 0, 0, 0] and set(earned("random")) <= {0.0, 1.0}
    params = {**gpt.init(CFG, 0),
              "score.weight": np.random.default_rng(1).standard_normal(32).astype(np.float32)}
    judge = judges.Judge(params, CFG, TOK, 0.5)
    scores = judges.score(judge, [r.prompt + r.ids for r in REPLIES])
    found = earned("model", judge=judge)
    assert (
        found[:2] == scores[:2].tolist()
        and found[2:] == [scores.min()] * 2
        and len(set(scores)) == 4
    )


def test_the_reward_is_found_before_training(run):
    """By its name in the table, or as a function; another name is an error at once."""
    assert rollouts.find_reward("answer", align.REWARDS) == ("answer", align.reward_answer)
    assert (
        rollouts.find_reward(len, {}) == ("len", len)
        and rollouts.find_reward(functools.partial(len), {})[0] == "partial"
    )
    with pytest.raises(
        ValueError, match="unknown reward 'brevity': expected one of answer, random, model"
    ):
        align.rl(run / "none", options.RL, "brevity")


# ------------------------------------------------------------------------------------- whole stages


def test_sft_then_rl_then_eval(run, capsys):
    put(run / "chat/train.jsonl", json.dumps(CHATS[0]) + "\n")
    align.main(f"sft --run {run} --steps 40 --lr 0.01".split())
    params, cfg, tok = sample.load_model(run / "sft")
    prompt = sample.render_prompt([{"role": "user", "content": "What is goat?"}], tok)
    (reply,) = generate.generate(params, cfg, tok, [prompt], temperature=0, stop={END})
    assert reply.finish == "stop" and sample.reply_text(reply.ids, tok) == "It is a goat."
    align.main(f"rl --run {run} --steps 2 --group 4".split())
    log = [json.loads(line) for line in (run / "rl/log.jsonl").read_text().splitlines()]
    assert len(log) == 2 and {"reward", "length", "stepwise", "cut",
                              "groups_without_signal"} <= set(log[0])
    align.main(f"rl --run {run} --steps 2 --group 4 --reward random".split())
    assert (run / "rl_random/model.safetensors").exists()
    capsys.readouterr()
    align.main(["eval", "--run", str(run)])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert (
        out.split("\n")[0].split()[-3:] == ["base", "sft", "rl"]
        and "replies that end by themselves" in out
    )


def test_reward_model_then_rl_against_it(run, capsys):
    """The reward model puts the pairs in order, transformers' shape; RL against it raises what it
    says, and stays near where it began."""
    align.main(f"sft --run {run} --steps 20 --batch 8".split())
    align.main(f"reward --run {run} --steps 60 --batch 4 --lr 0.003".split())
    out = capsys.readouterr().out
    assert "12 comparisons" in out and "held-out pairs in order: 100.0%" in out
    judge = judges.load(run / "reward")
    assert set(judge[0]) == {*gpt.param_shapes(CFG), "score.weight"}
    rows = [
        ids
        for rows, _ in lessons.comparisons([run / "pairs/train.jsonl"], TOK, 48)
        for ids, _ in rows
    ]
    rewards = judges.score(judge, rows)
    assert np.abs(rewards[0::2].mean()) < 1e-4 and (rewards[0::2] > rewards[1::2]).all()
    assert np.allclose(
        judges.score(judge, rows, batch=3), rewards, atol=1e-5
    )  # alone and padded the same
    hidden = []
    fast.hidden_and_grads(
        judge[0],
        CFG,
        np.array([rows[0]]),
        lambda y: (hidden.append(y[0, -1] @ judge[0]["score.weight"] + judge[3]), None, None),
        want_grads=False,
    )
    assert rewards[0] == pytest.approx(hidden[0], abs=1e-5)
    said = {}
    for leash in ("0", "5"):
        align.main(
            ["rl", "--run", str(run), "--steps", "12", "--group", "8", "--prompts", "4", "--batch",
             "1", "--reward", "model", "--lr", "0.003", "--leash", leash, "--out", f"rlhf{leash}",
             "--max-tokens", "12"]
        )
        said[leash] = [
            json.loads(line) for line in (run / f"rlhf{leash}/log.jsonl").read_text().splitlines()
        ]
    assert np.mean([x["reward"] for x in said["0"][-4:]]) > np.mean(
        [x["reward"] for x in said["0"][:4]]
    )
    assert "kl_nats" in said["5"][0] and abs(said["5"][0]["kl_nats"]) < 1e-3  # where it began
    gpt.load(run / "rlhf5")


def conversation(n):
    """A conversation of n ids: a sign that is in no merge is a token each."""
    few = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "#"}]
    return [few[0],
            {"role": "assistant", "content": "#" * (1 + n - len(sample.render(few, TOK)[0]))}]


@pytest.mark.parametrize("command, most", [("sft", 49), ("dpo", 49), ("reward", 48)])
def test_the_longest_row(run, capsys, command, most):
    """A context of 48 reads 48 ids. SFT and DPO only predict the last one; a reward is read at it.
    One id more is left out, and said."""
    fits, longer = conversation(most), conversation(most + 1)
    assert [len(sample.render(messages, TOK)[0]) for messages in (fits, longer)] == [most, most + 1]
    bad = [fits[0], {"role": "assistant", "content": "goat"}]

    def write(*chosen):
        if command == "sft":
            put(run / "chat/train.jsonl",
                "".join(json.dumps({"messages": messages}) + "\n" for messages in chosen))
        for split in ("train", "test"):
            put(
                run / f"pairs/{split}.jsonl",
                "".join(
                    json.dumps({"chosen": messages, "rejected": bad}) + "\n" for messages in chosen
                ),
            )

    begin = [command, "--run", str(run), "--start", "base", "--steps", "2", "--batch", "1"]
    write(fits, longer)
    align.main(begin)
    said = capsys.readouterr()
    assert (run / command / "model.safetensors").exists()
    assert "1 conversations" in said.out or "1 comparisons" in said.out
    kind = "conversations" if command == "sft" else "comparisons"
    assert f"1 of 2 {kind} do not fit the context, which allows {most} tokens" in said.err
    log = [json.loads(line) for line in (run / command / "log.jsonl").read_text().splitlines()]
    assert len(log) == 2 and all(
        np.isfinite(row["loss_nats"]) and row["grad_norm"] > 0 for row in log
    )
    write(longer)
    with pytest.raises(ValueError, match="no conversation fits|no comparison fits"):
        align.main([*begin, "--out", "none"])
    assert not (run / "none").exists()


def test_replies_that_fill_the_context(run):
    """Questions that leave room for one token, replies up to the last place: scored, learned, held
    near a reference."""
    align.main(f"reward --run {run} --steps 3 --batch 4 --start base".split())
    judge = judges.load(run / "reward")
    room = [
        n for n in range(1, 60) if len(lessons.prompt_of({"question": "#" * n}, TOK)) in (47, 40)
    ]
    assert len(room) == 2
    put(
        run / "tasks/wheel_train.jsonl",
        "".join(
            json.dumps({"question": "#" * n, "answer": "one"}) + "\n" for n in (*room, room[-1] + 1)
        ),
    )
    seen = []

    def scored(rollout):
        seen.append(rollout.ended)
        return np.arange(len(rollout.texts))

    def longest(judge, rows):
        seen.append(max(map(len, rows)))
        return score(judge, rows)

    recipe = dataclasses.replace(
        options.RL, steps=2, group=4, prompts=4, batch=1, leash=0.1, max_tokens=64
    )
    align.rl(run, recipe, scored, start="base", out="own")
    assert not np.concatenate(seen).all()  # some were cut by the context
    with pytest.MonkeyPatch.context() as patch:
        score = judges.score
        patch.setattr(judges, "score", longest)
        align.rl(run, recipe, "model", start="base")
    assert seen[-1] == CFG.n_positions
    for row in (run / "rlhf/log.jsonl").read_text().splitlines():
        assert np.isfinite(json.loads(row)["reward"])
    with pytest.raises(ValueError, match="49 positions, the model.s context is 48"):
        judges.score(judge, [[1] * 48, [1] * 49])
    assert np.isfinite(judges.score(judge, [[1] * 48, [1]])).all()


def test_dpo(run, capsys):
    align.main(f"sft --run {run} --steps 20 --batch 8".split())
    align.main(f"dpo --run {run} --steps 30 --batch 4 --lr 0.003".split())
    assert "held-out pairs in order: 100.0%" in capsys.readouterr().out
    log = [json.loads(line) for line in (run / "dpo/log.jsonl").read_text().splitlines()]
    assert (
        log[0]["loss_nats"] == pytest.approx(np.log(2), abs=1e-4)
        and log[-1]["loss_nats"] < 0.5
        and log[-1]["chosen"] > log[-1]["rejected"]
    )


def test_what_a_step_of_rl_logs(run):
    align.main(f"sft --run {run} --steps 20 --batch 8".split())
    align.main(
        f"rl --run {run} --steps 3 --group 8 --reward random".split()
        + ["--normaliser", "replies", "--baseline", "std"]
    )
    log = [json.loads(line) for line in (run / "rl_random/log.jsonl").read_text().splitlines()]
    assert len({x["length"] for x in log}) == 3  # fresh replies at each step
    assert (
        log[0]["pass_at_4"] >= log[0]["accuracy"]
        and log[0]["entropy"] > 0
        and 0 <= log[0]["greedy"] <= 1
    )


def test_a_reward_of_ones_own(run):
    """Any function of a rollout; one that gives nonsense is an error, and nothing finished is left
    behind."""
    align.main(f"sft --run {run} --steps 20 --batch 8".split())
    recipe = dataclasses.replace(options.RL, steps=2, group=4, prompts=2, max_tokens=12, warmup=1)

    def brevity(rollout):
        return [-len(text) for text in rollout.texts]

    align.rl(run, recipe, brevity)
    assert json.loads((run / "rl_brevity/log.jsonl").read_text().splitlines()[0])["reward"] < 0
    for nonsense in (lambda rollout: [1.0], lambda rollout: [np.nan] * len(rollout.texts)):
        with pytest.raises(ValueError, match="expected a finite number for each"):
            align.rl(run, recipe, nonsense, out="nonsense")
    assert not (run / "nonsense/model.safetensors").exists()

    def broken(rollout):
        return rollout.texts[0]["no such key"]

    with pytest.raises(ValueError, match="the reward broken raised TypeError: string indices"):
        align.rl(run, recipe, broken, out="broken")
    with pytest.raises(ValueError, match="the reward <lambda> raised"):
        align.rl(run, recipe, lambda rollout: [[1], [2, 3]], out="broken")
    align.rl(run, recipe, functools.partial(brevity))
    assert (run / "rl_partial/model.safetensors").exists()


def test_a_run_of_ones_own(run, capsys):
    """Chats and tasks of one's own, and none of the demo's files."""
    shutil.rmtree(run / "tasks")
    chats, tasks, long = run / "mine.jsonl", run / "asked.jsonl", "what " * 60
    (run / "chat/train.jsonl").rename(chats)
    tasks.write_text(
        "".join(
            json.dumps({"question": f"{i}?" if i else long, "answer": " Four. "}) + "\n"
            for i in range(21)
        ),
        encoding="utf-8",
    )
    align.main(f"sft --run {run} --data {chats} --steps 5 --batch 8 --replay 0".split())
    assert "not examined: no questions in" in capsys.readouterr().out
    rl = f"rl --run {run} --tasks {tasks} --steps 2 --group 4 --prompts 2 --max-tokens 8".split()
    with pytest.raises(
        FileNotFoundError, match="chat/train.jsonl: no conversations about other things.*--batch 0"
    ):
        align.main(rl)
    align.main([*rl, "--batch", "0", "--replay", "1"])
    said = capsys.readouterr()
    assert (
        "1 of 21 questions do not fit the context, which allows 47 tokens," in said.err
        and "2 unseen problems" in said.out
    )
    assert "replay_loss_nats" in (run / "rl/log.jsonl").read_text()


def test_tries(run, capsys):
    align.main(f"sft --run {run} --steps 60 --batch 8 --lr 0.01".split())
    align.main(f"reward --run {run} --steps 5 --batch 4".split())
    (run / "tasks/facts_test.jsonl").write_text(
        json.dumps(
            {"question": "What is goat?", "answer": "goat", "reply": "It is a goat.",
             "options": ["wheel", "goat"], "exposure": 10}
        )
        + "\n"
    )
    align.main(f"eval --run {run} --samples 5".split())
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for what in (
        "% right",
        "3 problems, 5 tries each",
        "pass@1 ",
        "pass@4 ",
        "pass@5 ",
        "majority of 5",
        "best of 5 by reward/",
        "likeliest of ten",
    ):
        assert what in out, out


def test_arena(run, capsys):
    align.main(f"sft --run {run} --steps 60 --batch 8 --lr 0.01".split())
    align.main(["arena", "--run", str(run)])
    out = capsys.readouterr().out
    assert "rank  model" in out and "base" in out and "sft" in out
    assert [row["rank"] for row in json.loads((run / "arena.json").read_text())] == [1.0, 2.0]
    with pytest.raises(ValueError, match="needs two models at least, found 1"):
        arena.fight(run, [run / "sft"])


def test_chats_of_others(run):
    """A file of GSM8K's kind in place of the run's chats."""
    (run / "gsm.jsonl").write_text(
        json.dumps({"question": "one two", "answer": "<<1+1=2>>two\n#### 2"}) + "\n"
    )
    align.main(["sft", "--run", str(run), "--steps", "2", "--data", str(run / "gsm.jsonl")])
    assert (run / "sft/model.safetensors").exists()


# ---------------------------------------------------------------------------------------- bad input


def test_a_chat_cannot_write_to_the_terminal(run):
    """The conversation that is shown in colours spells out what would move the cursor or rename the
    window."""
    evil = "\x1b]0;owned\x07\x1b[2J\x9b1m\u202e"
    put(
        run / "chat/train.jsonl",
        json.dumps({"messages": [CHATS[0]["messages"][0], {"role": "assistant", "content": evil}]})
        + "\n",
    )
    done = run_script(
        "align.py", "sft", "--run", run, "--steps", "1", "--batch", "1", "--replay", "0"
    )
    assert done.returncode == 0, done.stderr
    assert "learns to write what is in [brackets]" in done.stderr
    assert (
        done.stderr.count("\\x1b") == 2
        and "\\x07" in done.stderr
        and not set(done.stderr) & set("\x1b\x07\x9b\u202e")
    )

    class Screen(io.StringIO):
        def isatty(self):
            return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", command.Terminal(Screen(), progress=True))
        align.main(f"sft --run {run} --steps 1 --batch 1 --replay 0".split())
        said = sys.stderr.getvalue()
    shown = re.sub("\x1b\\[(32|90|0)m", "", said)
    assert (
        "learns to write what is green" in said
        and said.count("\x1b[32m") == 1
        and shown.count("\\x1b") == 2
    )
    assert not set(shown) & set("\x1b\x07\x9b\u202e")
    put(run / "chat/train.jsonl", json.dumps({evil: 1}) + "\n")
    done = run_script("align.py", "sft", "--run", run)
    assert (
        done.returncode == 1
        and "\\x1b]0;owned" in done.stderr
        and not set(done.stderr) & set("\x1b\x07\x9b\u202e")
    )


def test_options_of_other_commands_are_refused(run, capsys):
    """Whatever their value; tests/test_options.py tries them all."""
    for args in (
        "sft --leash 0",
        "sft --reward answer",
        "reward --replay 0",
        "eval --batch 0",
        "arena --on-mismatch error",
        "sft --samples 3",
        "sft x",
    ):
        with pytest.raises(SystemExit):
            align.main([*args.split(), "--run", str(run)])
        assert f"unrecognized arguments: {args.split()[1]}" in capsys.readouterr().err
    for args, message in (
        ("sft --out=", "--out: the name is empty"),
        ("rl --seed -1", "--seed -1: must be 0 or more"),
        ("rl --leash-to base", "--leash-to base: there is no leash without --leash"),
        ("dpo --leash 0", "--leash 0.0: must be above 0 and finite"),
        ("rl --replay -1", "--replay -1: must be 0 or more and finite"),
        ("eval --seed 0", "--seed 0: eval without --samples asks greedily"),
        ("eval --samples 0", "--samples 0: must be at least 1"),
        ("arena nowhere",
         "nowhere: no finished model; name a folder that holds one, or a stage of"),
        ("eval --run nowhere", "nowhere: no such run folder"),
        ("arena --run nowhere", "nowhere: no such run folder"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            align.main([*args.split(), *(["--run", str(run)] if "--run" not in args else [])])


@pytest.mark.parametrize(
    "command, spoil, message",
    [
        ("sft", lambda r: put(r / "chat/train.jsonl", ""),
         "train.jsonl: empty, there is nothing to learn from"),
        ("sft", lambda r: (r / "chat/train.jsonl").unlink(), "python -m web.toyweb"),
        ("sft", lambda r: put(r / "chat/train.jsonl", "{broken\n"), "train.jsonl:1: not JSON"),
        ("sft", lambda r: put(r / "chat/train.jsonl", '{"text": "x"}\n'),
         "train.jsonl:1: of no known schema: the keys text"),
        (
            "sft",
            lambda r: put(
                r / "chat/train.jsonl", '{"messages": [{"role": "user", "content": "hi"}]}\n'
            ),
            "train.jsonl: nothing in it can be used: 1 x question at the end without a reply; "
            "1 x conversation with nothing in it",
        ),
        (
            "sft",
            lambda r: put(
                r / "chat/train.jsonl",
                json.dumps(
                    {
                        "messages": [{"role": "user", "content": "goat " * 99},
                                     CHATS[0]["messages"][1]]
                    }
                )
                + "\n",
            ),
            "no conversation fits the model's context, which allows 49 tokens",
        ),
        ("sft", lambda r: (r / "base/model.safetensors").unlink(),
         "no finished model; make it with: python train.py"),
        ("sft", lambda r: (r / "tokens/train_000000.bin").unlink(), "python bpe.py encode"),
        ("rl", lambda r: None, "python align.py sft"),
        ("eval", lambda r: (r / "tasks/facts_test.jsonl").unlink(),
         "facts_test.jsonl: no such file"),
        ("eval", lambda r: put(r / "tasks/facts_test.jsonl", '{"question": "x"}\n'),
         'facts_test.jsonl:1: no task: expected {"question": "...", "answer": ...}'),
        ("eval", lambda r: put(r / "tasks/facts_test.jsonl", '{"question": 5, "answer": 5}\n'),
         "facts_test.jsonl:1: no task: expected"),
        (
            "eval",
            lambda r: put(
                r / "tasks/facts_test.jsonl", '{"question": "x", "answer": 5, "exposure": "3"}\n'
            ),
            "facts_test.jsonl:1: exposure is no number of pages: '3'",
        ),
        ("sft", lambda r: put(r / "chat/train.jsonl", "[" * 200_000 + "\n"),
         "train.jsonl:1: not JSON"),
        ("sft", lambda r: (r / "chat/train.jsonl").write_bytes(b'{"messages": "\xff"}\n'),
         "train.jsonl:1: not JSON"),
        ("sft", lambda r: put(r / "chat/train.jsonl", '{"messages": [{"role": "system"}]}\n'),
         "train.jsonl:1: conversation with nothing in it"),
        (
            "sft",
            lambda r: put(
                r / "chat/train.jsonl", '{"messages": [{"role": "user", "content": 5}]}\n'
            ),
            "train.jsonl:1: content that is no text: message 0 of the user has the content 5",
        ),
        (
            "sft",
            lambda r: put(
                r / "chat/train.jsonl", '{"messages": [{"role": "user", "content": ["hi"]}]}\n'
            ),
            "train.jsonl:1: content that is no text: message 0 of the user has the content ['hi']",
        ),
        ("sft", lambda r: put(r / "base/config.json", "[]"), "config.json: expected a JSON object"),
    ],
)
def test_bad_input(run, command, spoil, message):
    spoil(run)
    done = run_main("align.py", command, "--run", run)
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr, (
        done.stderr
    )
    assert not (run / "sft").exists() and not (run / "rl").exists()


def test_a_missing_run_folder(tmp_path):
    done = run_script("align.py", "sft", "--run", tmp_path / "none")
    assert done.returncode != 0 and "no such run folder" in done.stderr
