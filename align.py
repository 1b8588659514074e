"""align.py: from a model that continues documents to one that answers, and then to one that thinks first.

Supervised fine-tuning shows the base model conversations and trains it on the assistant's part of them.
Reinforcement learning then shows it only questions whose answers can be checked: it writes many replies,
and what led to a right answer becomes likelier. Both are one weighted cross-entropy away from pre-training:

    SFT           weight of a token = 1 / number of the assistant's tokens in the batch, 0 elsewhere; and beside
                  it a few windows of pre-training text, or the model forgets what it read while it learns to chat
    RL            weight of a token = (reward of its reply - mean reward of its question) / number of sampled tokens;
                  and beside it conversations about other things, for the same reason

Left out: a reward model, KL penalties, clipping (one step per batch of replies is on-policy, where it does nothing).

    python align.py sft                    out/demo/base + chat/train.jsonl -> out/demo/sft
    python align.py rl                     out/demo/sft + tasks/wheel_train.jsonl -> out/demo/rl
    python align.py eval                   what base, sft and rl know, on questions held out from all training

Sources: Ouyang et al. 2022 (SFT, and the pre-training mix of its section 3.5); Shao et al. 2024 (group-relative advantages); Liu et al. 2025 (why not to
divide by the group's deviation or by each reply's length); Shao et al. 2025 (the random-reward control).
"""

import argparse
import hashlib
import math
import os
import sys
import time
from collections import Counter, namedtuple
from dataclasses import dataclass, replace
from pathlib import Path

import cores                    # before numpy
import chats
import gpt
import numpy as np
import sample
import train


@dataclass(frozen=True)
class Recipe:
    """Settings of a stage. A step of SFT sees batch conversations and replay windows of pre-training text; a step of
    RL sees prompts * group replies and batch conversations about other things."""

    steps: int
    lr: float
    min_lr: float
    warmup: int
    batch: int = 64             # conversations a step
    replay: int = 4             # SFT: windows of pre-training text a step
    replay_weight: float = 1.0  # SFT: their loss beside the conversations'
    prompts: int = 16           # RL: questions a step
    group: int = 16             # RL: replies to each question
    max_tokens: int = 64        # RL: length limit of a reply
    beta1: float = 0.9
    beta2: float = 0.99
    clip: float = 1.0
    save_every: int = 20


SFT = Recipe(steps=1250, lr=9e-4, min_lr=5e-5, warmup=40, save_every=100)
RL = Recipe(steps=28, lr=1e-4, min_lr=1e-4, warmup=5, save_every=4)


# ----------------------------------------------------------------------------------------------- fine-tuning


def existing(path):
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file; write the demo's with: python toyweb.py")
    return path


def load_conversations(paths, tokenizer, n_positions, but_not=()):
    """[(ids, mask)] of the conversations in files of any schema of chats.py; prints what is left out, and why.

    but_not: kinds of conversation that are not wanted, where the rows say their "kind".
    """
    out, too_long, notes = [], 0, Counter()
    for path in paths:
        for where, messages, kind in chats.conversations(existing(path), notes):
            if kind is not None and kind in but_not:
                continue
            ids, mask = sample.render(messages, tokenizer, where)
            if len(ids) - 1 > n_positions:
                too_long += 1
            else:
                out.append((ids, mask))
    names = ", ".join(map(str, paths))
    if notes.total():
        print(f"{names}: {chats.report(notes)}", file=sys.stderr)
    if too_long:
        print(f"{names}: {too_long:,} of {too_long + len(out):,} conversations exceed the context of {n_positions} "
              "tokens and are left out", file=sys.stderr)
    if not out:
        raise ValueError(f"{names}: no conversation fits the model's context of {n_positions} tokens")
    return out


def pad_rows(rows):
    """[(ids, weights or mask)] -> tokens (B,T), targets (B,T), weights (B,T). weights[t] is that of learning ids[t];
    a row's first token is never a target. One conversation a row, so none can look into another."""
    T = max(len(ids) for ids, _ in rows) - 1
    tokens, targets = np.zeros((len(rows), T), np.int64), np.full((len(rows), T), -1)
    weights = np.zeros((len(rows), T))
    for r, (ids, w) in enumerate(rows):
        tokens[r, :len(ids) - 1] = ids[:-1]
        targets[r, :len(ids) - 1] = ids[1:]
        weights[r, :len(ids) - 1] = w[1:]
    return tokens, targets, weights


class Batches:
    """Conversations in a new random order each epoch. The batch of a step depends on (seed, step) alone, so
    resuming needs no saved position."""

    def __init__(self, conversations, batch, seed):
        if batch > len(conversations):
            print(f"only {len(conversations)} conversations: a step sees all of them, not {batch}", file=sys.stderr)
        self.conversations, self.batch, self.seed, self._epoch = conversations, min(batch, len(conversations)), seed, None

    def at(self, step):
        epoch, i = divmod(step, len(self.conversations) // self.batch)
        if self._epoch != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.conversations))
        return [self.conversations[j] for j in self._order[i * self.batch:(i + 1) * self.batch]]


def add_conversations(grads, rows, parts=4):
    """(loss, learned tokens) of the mean cross-entropy over all tokens of the rows whose mask is 1, added to grads.

    Short conversations and long ones are padded in separate parts of the batch. The mean is over the whole:
    a mean for each part would make the tokens of long replies count less than those of short ones.
    """
    n = sum(sum(mask[1:]) for _, mask in rows)
    rows = sorted(rows, key=lambda row: len(row[0]))
    loss = 0.0
    for i in range(parts):
        part = rows[len(rows) * i // parts:len(rows) * (i + 1) // parts]
        if part:
            tokens, targets, mask = pad_rows(part)
            loss += grads.add(tokens, targets, mask / max(n, 1))
    return loss, n


def optimise(folder, params, cfg, tokenizer, recipe, identity, on_mismatch, step_of):
    """The loop both stages share: step_of(step, grads) adds to grads and returns (loss, {what to log}). Resumes exactly."""
    optimizer = train.AdamW(params, recipe.beta1, recipe.beta2, weight_decay=0.0)       # decay would erode what base knows
    done, log = train.begin(folder, params, optimizer, cfg, tokenizer, identity, on_mismatch)
    started, grads = time.perf_counter(), train.Gradients(params, cfg)
    for step in range(done, recipe.steps):
        t0 = time.perf_counter()
        grads.clear()
        loss, info = step_of(step, grads)
        norm, lr, skipped = train.update(optimizer, grads.sum, loss, step, recipe)
        if skipped:
            info["skipped"] = skipped
        log.write(step=step + 1, loss_nats=None if skipped else round(loss, 6), lr=lr, grad_norm=None if skipped else round(norm, 6),
                  dt_s=round(time.perf_counter() - t0, 4), **info)
        last = step + 1 == recipe.steps
        if last or (step + 1) % recipe.save_every == 0:
            train.save_checkpoint(folder, params, optimizer, step + 1, identity)
        left = (time.perf_counter() - started) / (step + 1 - done) * (recipe.steps - step - 1)
        shown = "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in info.items())
        print(f"\rstep {step + 1:,}/{recipe.steps:,}  loss {loss:+.4f}  {shown}  {left:,.0f} s left   ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    grads.close()
    gpt.save(folder, params, cfg)


def sft(run, recipe, seed=0, on_mismatch="error"):
    """base/ + chat/train.jsonl -> sft/. Returns what it learned from, and how often it saw it, in words."""
    run = Path(run)
    params, cfg, tokenizer = load_stage(run, "base", "python train.py")
    conversations = load_conversations([run / "chat" / "train.jsonl"], tokenizer, cfg.n_positions)
    print(show_mask(*conversations[0], tokenizer), file=sys.stderr)
    batches = Batches(conversations, recipe.batch, seed)
    windows = train.Windows(train.load_run(run, tokenizer)[0], cfg.n_positions, seed + 1)
    identity = {"stage": "sft", **train.settings(recipe), "seed": seed, "start": train.fingerprint(params.values()),
                "tokens": train.fingerprint(windows.shards), "threads": cores.N_THREADS,
                "data": hashlib.sha256((run / "chat" / "train.jsonl").read_bytes()).hexdigest()[:16]}

    def step_of(step, grads):
        loss, n = add_conversations(grads, batches.at(step))
        info = {"learned_tokens": n}
        if recipe.replay:
            rows = windows.rows(step * recipe.replay, recipe.replay)
            weights = np.full((recipe.replay, cfg.n_positions), recipe.replay_weight / rows[:, 1:].size)
            replayed = grads.add(rows[:, :-1], rows[:, 1:], weights)
            info["replay_loss_nats"] = round(replayed / recipe.replay_weight, 6)
        return loss, info

    optimise(run / "sft", params, cfg, tokenizer, recipe, identity, on_mismatch, step_of)
    return f"{len(conversations):,} conversations", f"{recipe.steps * batches.batch / len(conversations):.1f} passes"


def show_mask(ids, mask, tokenizer):
    """One conversation as the model sees it: what it learns from in green, the rest grey."""
    return "".join(f"\033[{'32' if m else '90'}m{tokenizer.decode([i])}" for i, m in zip(ids, mask)) + "\033[0m"


# ------------------------------------------------------------------------------------ rewards from verification

Verdict = namedtuple("Verdict", "correct ended n_tokens stepwise")


def is_correct(task, text):
    """The reply ends with the answer; for questions about the assistant it is enough to mention it."""
    said, answer = text.strip().rstrip(".!").lower(), str(task["answer"]).lower()
    if task.get("kind") == "identity":
        return answer in said
    if task.get("kind") == "gsm8k":
        return chats.final_answer(text) == answer
    return said == answer or said.endswith((" " + answer, "\n" + answer))


def judge(task, reply, tokenizer):
    text = sample.reply_text(reply.ids, tokenizer)
    return Verdict(is_correct(task, text) and reply.finish == "stop", reply.finish == "stop", sum(reply.sampled),
                   text.startswith("Step by step"))


def ask(params, cfg, tokenizer, tasks, temperature, seed, max_tokens=64, batch=256):
    """(replies, verdicts) for a list of tasks."""
    stop = {sample.special(tokenizer, "<|im_end|>")}
    prompts = [sample.render_prompt([{"role": "user", "content": t["question"]}], tokenizer) for t in tasks]
    replies = []
    for i in range(0, len(prompts), batch):
        replies += sample.generate(params, cfg, tokenizer, prompts[i:i + batch], stop=stop, max_new_tokens=max_tokens,
                                   temperature=temperature, seed=seed + i)
    return replies, [judge(t, r, tokenizer) for t, r in zip(tasks, replies)]


def advantages(rewards, group):
    """(prompts * group,) rewards -> each minus the mean of its group. All alike in a group: nothing to learn."""
    r = np.asarray(rewards, np.float64).reshape(-1, group)
    return (r - r.mean(1, keepdims=True)).ravel()


def policy_rows(prompts, replies, advantage):
    """Rows for pad_rows: a sampled token weighs its reply's advantage over the number of sampled tokens of the
    batch; prompts and what tools wrote weigh nothing. The token that ends a reply is sampled, so it is learned."""
    n = sum(sum(r.sampled) for r in replies)
    return [(p + r.ids, [0.0] * len(p) + [a * s / n for s in r.sampled]) for p, r, a in zip(prompts, replies, advantage)]


def rl(run, recipe, reward="answer", seed=0, on_mismatch="error"):
    """sft/ + tasks/wheel_train.jsonl -> rl/, or rl_random/ with rewards tossed by coin. Returns measurements
    before and after, on problems never trained on."""
    run = Path(run)
    params, cfg, tokenizer = load_stage(run, "sft", "python align.py sft")
    tasks, unseen = (chats.tasks(existing(run / "tasks" / f"wheel_{split}.jsonl")) for split in ("train", "test"))
    # Beside the replies it goes on learning conversations about other things, or it forgets them.
    kinds = {str(t["kind"]) for t in tasks if "kind" in t}
    others = Batches(load_conversations([run / "chat" / "train.jsonl"], tokenizer, cfg.n_positions, but_not=kinds), recipe.batch, seed)
    folder = run / ("rl" if reward == "answer" else "rl_random")
    identity = {"stage": "rl", **train.settings(recipe), "reward": reward, "seed": seed, "start": train.fingerprint(params.values()),
                "data": [hashlib.sha256((run / p).read_bytes()).hexdigest()[:16] for p in ("tasks/wheel_train.jsonl", "chat/train.jsonl")],
                "threads": cores.N_THREADS}
    before = measure(params, cfg, tokenizer, unseen)

    def step_of(step, grads):
        rng = np.random.default_rng((seed, step))
        chosen = [tasks[i] for i in rng.choice(len(tasks), recipe.prompts) for _ in range(recipe.group)]
        replies, verdicts = ask(params, cfg, tokenizer, chosen, 1.0, int(rng.integers(2**31)), recipe.max_tokens,
                                batch=len(chosen))
        right = np.array([v.correct for v in verdicts], float)
        rewards = right if reward == "answer" else rng.integers(0, 2, len(right)).astype(float)
        adv = advantages(rewards, recipe.group)
        prompts = [sample.render_prompt([{"role": "user", "content": t["question"]}], tokenizer) for t in chosen]
        tokens, targets, weights = pad_rows(policy_rows(prompts, replies, adv))
        # The printed loss is near zero by construction and says nothing; its gradient is the policy gradient.
        loss = grads.add(tokens, targets, weights)
        chat_loss, _ = add_conversations(grads, others.at(step))
        return loss, {"chat_loss_nats": round(chat_loss, 6), "reward": float(rewards.mean()), "accuracy": float(right.mean()),
                             "length": float(np.mean([v.n_tokens for v in verdicts])),
                             "stepwise": float(np.mean([v.stepwise for v in verdicts])),
                             "cut": float(np.mean([not v.ended for v in verdicts])),
                             "groups_without_signal": float(np.mean(adv.reshape(-1, recipe.group).any(1) == 0))}

    optimise(folder, params, cfg, tokenizer, recipe, identity, on_mismatch, step_of)
    return before, measure(params, cfg, tokenizer, unseen)


def measure(params, cfg, tokenizer, tasks):
    """Greedy accuracy and length, and accuracy and share of step-by-step replies at temperature 1."""
    _, greedy = ask(params, cfg, tokenizer, tasks, 0.0, 0)
    _, free = ask(params, cfg, tokenizer, tasks, 1.0, 1)
    mean = lambda vs, f: float(np.mean([getattr(v, f) for v in vs]))  # noqa: E731
    return {"greedy": mean(greedy, "correct"), "at_temperature_1": mean(free, "correct"), "length": mean(greedy, "n_tokens"),
            "length_at_1": mean(free, "n_tokens"), "stepwise": mean(free, "stepwise"), "problems": len(tasks)}


# ----------------------------------------------------------------------------------------------- evaluation


def evaluate(params, cfg, tokenizer, run):
    """{name: (right, asked, ended)} on the held-out questions of a run, answered greedily."""
    out = {}
    for name in ("facts_test", "identity_test", "calculator_test", "wheel_test"):
        tasks = chats.tasks(existing(Path(run) / "tasks" / f"{name}.jsonl"))
        _, verdicts = ask(params, cfg, tokenizer, tasks, 0.0, 0)
        groups = {}
        for task, v in sorted(zip(tasks, verdicts), key=lambda pair: pair[0].get("exposure", 0)):
            key, exposure = name.removesuffix("_test"), task.get("exposure")
            if exposure is not None:
                pages = "10 pages or more" if exposure >= 10 else f"{exposure} page{'s' if exposure > 1 else ''}"
                key = f"facts on {pages:16}  entity {'in' if task.get('asked') else 'never in'} training chats"
            groups.setdefault(key, []).append(v)
        for key, vs in groups.items():
            out[key] = (sum(v.correct for v in vs), len(vs), sum(v.ended for v in vs))
    return out


def print_evaluation(run, stages):
    results = {s: evaluate(*sample.load_model(run / s), run) for s in stages}
    print(f"{'held-out questions, answered greedily':64}" + "".join(f"{s:>10}" for s in stages))
    for k in results[stages[0]]:
        print(f"{k:58}{results[stages[0]][k][1]:6,}" + "".join(f"{results[s][k][0] / results[s][k][1]:10.1%}" for s in stages))
    print(f"{'replies that end by themselves':64}" + "".join(
        f"{sum(r[2] for r in results[s].values()) / sum(r[1] for r in results[s].values()):10.1%}" for s in stages))
    return results


def load_stage(run, stage, mend):
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such run folder; make the demo's with: make")
    if not (run / stage / "model.safetensors").exists():
        raise FileNotFoundError(f"{run / stage}: no finished model; make it with: {mend} --run {run}")
    return sample.load_model(run / stage)


def parse_args(argv=None):
    p = argparse.ArgumentParser(description="Fine-tune, reinforce, evaluate.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("command", choices=("sft", "rl", "eval"))
    p.add_argument("--run", default="out/demo", help="run folder")
    p.add_argument("--steps", type=int, help="optimizer steps (default: the recipe's)")
    p.add_argument("--lr", type=float, help="peak learning rate (default: the recipe's)")
    p.add_argument("--batch", type=int, help="conversations a step (default: the recipe's)")
    p.add_argument("--group", type=int, help="RL: replies to each question (default: the recipe's)")
    p.add_argument("--reward", default="answer", choices=("answer", "random"), help="RL: random is the control that must not help")
    p.add_argument("--seed", type=int, default=0, help="of the order of the data and of sampling")
    p.add_argument("--on-mismatch", default="error", choices=("error", "restart"),
                   help="when the folder holds a checkpoint of other settings or data")
    return p.parse_args(argv)


def main(argv=None):
    args, started = parse_args(argv), time.perf_counter()
    recipe = SFT if args.command == "sft" else RL
    changes = {k: getattr(args, k) for k in ("steps", "lr", "batch", "group") if getattr(args, k) is not None}
    for name, value in changes.items():
        if not 0 < value < math.inf:
            raise ValueError(f"--{name} {value}: must be above 0 and finite")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: must be 0 or more")
    if "lr" in changes:
        changes["min_lr"] = recipe.min_lr * args.lr / recipe.lr
    if recipe is RL and changes.get("group") == 1:
        raise ValueError("--group 1: a single reply has nothing to be compared with; give at least 2")
    recipe = replace(recipe, **changes)
    recipe = replace(recipe, warmup=min(recipe.warmup, recipe.steps))
    run = Path(args.run)
    if args.command == "eval":
        stages = [s for s in ("base", "sft", "rl") if (run / s / "model.safetensors").exists()]
        if not stages:
            load_stage(run, "base", "python train.py")
        print_evaluation(run, stages)
        return
    if args.command == "sft":
        what, passes = sft(run, recipe, args.seed, args.on_mismatch)
        stage = load_stage(run, "sft", "python align.py sft")
        results = evaluate(*stage, run)
        well = [v for k, v in results.items() if k.startswith("facts on 10")]
        share = sum(v[0] for v in well) / max(1, sum(v[1] for v in well))
        ended = sum(v[2] for v in results.values()) / sum(v[1] for v in results.values())
        print(f"{'sft':8} {what:32} {passes:36} {time.perf_counter() - started:5.0f} s   held-out phrasings of well-known "
              f"facts {share:.1%}; replies that end {ended:.1%}")
        return
    before, after = rl(run, recipe, args.reward, args.seed, args.on_mismatch)
    print(f"{before['problems']} unseen problems      greedy   at temperature 1   mean length   step by step")
    for name, m in (("before", before), ("after", after)):
        print(f"{name:24} {m['greedy']:9.1%} {m['at_temperature_1']:18.1%} {m['length']:13.1f} {m['stepwise']:14.1%}")
    name, paid = ("rl", "right answers") if args.reward == "answer" else ("control", "a coin toss")
    what, how = f"{recipe.steps} steps, reward for {paid}", f"{recipe.prompts} problems x {recipe.group} replies a step"
    print(f"{name:8} {what:32} {how:36} {time.perf_counter() - started:5.0f} s   greedy accuracy {before['greedy']:.1%} -> "
          f"{after['greedy']:.1%}, length {before['length']:.0f} -> {after['length']:.0f} tokens")


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:                             # whoever read our output has gone, as head does
        os._exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, MemoryError) as e:
        sys.exit(f"align.py: error: {e}")
