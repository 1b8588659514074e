"""align.py: from a model that continues documents to one that answers, and then to one that thinks first.

Supervised fine-tuning shows the base model conversations and trains it on the assistant's part of them.
Reinforcement learning then shows it only questions: it writes many replies, and what led to a good one becomes
likelier. Good is what can be checked, or what a reward model says, which learned from comparisons what people like.
DPO learns from the comparisons at once. All are one weighted cross-entropy away from pre-training:

    SFT           weight of a token = 1 / number of the assistant's tokens in the batch, 0 elsewhere; and beside
                  it a few windows of pre-training text, or the model forgets what it read while it learns to chat
    RL            weight of a token = (reward of its reply - mean reward of its question) / number of sampled tokens;
                  and beside it conversations about other things, for the same reason (and with --replay the text as well)
    others        chat/objectives.py: ratios and clipping, KL to where it began, DPO, the reward model's comparisons

    python align.py sft                    out/demo/base + chat/train.jsonl -> out/demo/sft
    python align.py rl                     out/demo/sft + tasks/wheel_train.jsonl -> out/demo/rl
    python align.py reward                 out/demo/sft + pairs/train.jsonl -> out/demo/reward
    python align.py dpo                    out/demo/sft + pairs/train.jsonl -> out/demo/dpo
    python align.py eval                   what base, sft and rl know, on questions held out from all training
    python align.py arena [MODEL ...]      ratings of models, by their answers to those questions

Sources: Ouyang et al. 2022 (SFT, the reward model, the pre-training mix of its section 3.5); Shao et al. 2024 (group-relative
advantages); Liu et al. 2025 (why not to divide by the group's deviation or by each reply's length); Shao et al. 2025 (the
random-reward control); Rafailov et al. 2023 (DPO).
"""

import argparse
import hashlib
import inspect
import json
import math
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from model import cores                    # before numpy
from model import adamw
from model import corpus
from model import parallel
from model import planning
from model import resume
from chat import arena
from chat import chats
from model import checkpoint
from run import command, disk
from model import fast
import gpt
import numpy as np
from chat import objectives
from run import runs
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
    batch: int = 64             # conversations a step; RL: may be 0
    replay: int = 2             # windows of pre-training text a step
    replay_weight: float = 0.5  # their loss beside the conversations'
    keep_moments: bool = False  # SFT: begin with the optimizer's moments that pre-training ended with
    prompts: int = 16           # RL: questions a step
    group: int = 16             # RL: replies to each question
    max_tokens: int = 64        # RL: length limit of a reply
    epochs: int = 1             # RL: steps on the same replies; with more than one their ratios are clipped
    clip_low: float = 0.2       # RL: how far a ratio may go below 1 and above
    clip_high: float = 0.2
    baseline: str = "mean"      # RL: of a group (objectives.advantages)
    normaliser: str = "tokens"  # RL: what a token counts (objectives.normaliser)
    kl: float = 0.0             # RL: how strongly to stay near the model it began with; DPO: beta
    kl_kind: str = "k2"         # RL: the estimate (objectives.kl_estimate)
    beta1: float = 0.9
    beta2: float = 0.99
    clip: float = 1.0
    save_every: int = 20


SFT = Recipe(steps=1250, lr=2e-3, min_lr=5e-5, warmup=40, save_every=100)
RL = Recipe(steps=28, lr=1e-4, min_lr=1e-4, warmup=5, replay=0, save_every=4)
REWARD = Recipe(steps=400, lr=1e-3, min_lr=0.0, warmup=20, batch=16, save_every=100)   # batch: comparisons a step
DPO = Recipe(steps=100, lr=1e-4, min_lr=0.0, warmup=10, batch=16, kl=0.1, save_every=25)


# ----------------------------------------------------------------------------------------------- fine-tuning


def load_conversations(paths, tokenizer, n_positions, but_not=()):
    """[(ids, mask)] of the conversations in files of any schema of chat/chats.py; prints what is left out, and why.

    but_not: kinds of conversation that are not wanted, where the rows say their "kind".
    """
    out, too_long, notes = [], 0, Counter()
    for path in paths:
        for where, messages, kind in chats.conversations(path, notes):
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
        raise ValueError(f"{names}: " + (f"no conversation fits the model's context of {n_positions} tokens" if too_long else "no conversation in it"))
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


def pack(texts, n_positions, prompt=()):
    """Rows [tokens, targets, weights, positions, segments] with the prompt, a list of ids, and behind it as many of the texts
    [(tokens, targets, weights)] as fit: each text sees the prompt and itself, so the gradient is that of one text a row, for a fraction
    of the work."""
    def begun():
        return [[*prompt], [-1] * len(prompt), [0.0] * len(prompt), [*range(len(prompt))], [0] * len(prompt)]

    rows = [begun() for _ in range(-(-sum(len(tokens) for tokens, *_ in texts) // (n_positions - len(prompt))))]
    for i, text in enumerate(sorted(texts, key=lambda text: -len(text[0])), 1):     # the longest first, each into the row that has least
        row, n = min(rows, key=lambda row: len(row[0])), len(text[0])
        if len(row[0]) + n > n_positions:
            row = begun()
            rows.append(row)
        for values, more in zip(row, (*text, range(len(prompt), len(prompt) + n), [i] * n)):
            values.extend(more)
    return rows


def stack(rows):
    """Rows of pack -> (tokens, targets, weights, positions, segments), (B,T) each, as Gradients.add takes them."""
    T = max(len(row[0]) for row in rows)
    return tuple(np.array([[*row[i], *[fill] * (T - len(row[i]))] for row in rows]) for i, fill in enumerate((0, -1, 0.0, 0, -1)))


def add_conversations(grads, rows, n_positions):
    """(loss, learned tokens) of the mean cross-entropy over all tokens of the rows whose mask is 1, added to grads. The mean is over
    the whole: a mean for each conversation would make the tokens of long replies count less than those of short ones."""
    n = sum(sum(mask[1:]) for _, mask in rows)
    packed = pack([(ids[:-1], ids[1:], [m / max(n, 1) for m in mask[1:]]) for ids, mask in rows], n_positions)
    most = max(cores.N_THREADS, planning.AT_ONCE // n_positions)
    return sum(grads.add(*stack(packed[i:i + most])) for i in range(0, len(packed), most)), n


def share_prompts(rows, weights, n_positions):
    """Rows of policy_rows, many of which begin with the same prompt: yields (tokens, targets, weights, positions, segments) of rows
    that hold it once."""
    tokens, targets, mask = rows
    groups, out = {}, []
    for r in range(len(tokens)):                            # the prompt's last token predicts the reply's first: it goes with the reply
        begin, end = int((mask[r] > 0).argmax()), int((targets[r] >= 0).sum())
        groups.setdefault(tokens[r, :begin].tobytes(), (tokens[r, :begin].tolist(), []))[1].append([a[r, begin:end] for a in (tokens, targets, weights)])
    for prompt, replies in groups.values():
        out += pack(replies, n_positions, prompt)
    out.sort(key=lambda row: len(row[0]))
    for part in (out[:len(out) // 2], out[len(out) // 2:]):     # short rows and long ones apart, so that little of them is padding
        if part:
            yield stack(part)


def updates_of(folder):
    path = Path(folder) / "trainer.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no checkpoint, so there are no moments to begin with; leave out --keep-moments")
    return int(checkpoint.load_safetensors(path)[1]["adamw.t"])


def inherit_moments(optimizer, folder):
    """Begin with the moments that another stage's training ended with."""
    path = Path(folder) / "trainer.safetensors"
    tensors, meta = checkpoint.load_safetensors(path)
    for kind, moments in (("m", optimizer.m), ("v", optimizer.v)):
        for k, a in moments.items():
            theirs = tensors.get(f"adamw.{kind}.{k}")
            if theirs is None or theirs.shape != a.shape:
                raise ValueError(f"{path}: adamw.{kind}.{k} is {getattr(theirs, 'shape', 'not there')}, expected {a.shape}; leave out --keep-moments")
            a[...] = theirs
    optimizer.t = int(meta["adamw.t"])


def optimise(folder, params, cfg, tokenizer, recipe, identity, on_mismatch, step_of, save=gpt.save, moments=None):
    """The loop all stages share: step_of(step, grads) adds to grads and returns (loss, {what to log}). Resumes exactly. moments: the
    folder of a stage whose moments the optimizer begins with; the identity holds how many updates made them."""
    optimizer = adamw.AdamW(params, recipe.beta1, recipe.beta2, weight_decay=0.0)       # decay would erode what base knows
    identity = {**identity, "threads": resume.keep_threads(resume.kept_settings(folder, identity, ("threads",)))}
    with resume.begin(folder, params, optimizer, cfg, tokenizer, identity, on_mismatch, end="<|im_end|>") as stage:
        if moments and not stage.done:
            inherit_moments(optimizer, moments)
        started, grads = time.perf_counter(), parallel.Gradients(params, cfg)
        for step in range(stage.done, recipe.steps):
            t0 = time.perf_counter()
            grads.clear()
            loss, info = step_of(step, grads)
            if grads.added:
                norm, lr, skipped = train.update(optimizer, grads.sum, loss, step, recipe)
            else:                                               # nothing to learn from: the model stays as it is
                norm, lr, skipped = 0.0, train.learning_rate(step, recipe), None
            if skipped:
                info["skipped"] = skipped
            stage.log.write(step=step + 1, loss_nats=None if skipped else round(loss, 6), lr=lr,
                            grad_norm=None if skipped else round(norm, 6), dt_s=round(time.perf_counter() - t0, 4), **info)
            last = step + 1 == recipe.steps
            if last or (step + 1) % recipe.save_every == 0:
                stage.save_checkpoint(params, optimizer, step + 1)
            left = (time.perf_counter() - started) / (step + 1 - stage.done) * (recipe.steps - step - 1)
            shown = "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in info.items())
            line = f"step {step + 1:,}/{recipe.steps:,}  {left:,.0f} s left  loss {loss:+.4f}  {shown}"
            width = shutil.get_terminal_size().columns - 1      # a line that is longer could not be written over
            print("\r" + line[:width].ljust(width), end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        grads.close()
        stage.finish(params, cfg, save)


def digest(paths):
    """A short name for the contents of files."""
    h = hashlib.sha256()
    for path in paths:
        h.update(Path(path).read_bytes())
    return h.hexdigest()[:16]


def replayed(run, recipe, tokenizer, cfg, seed):
    """(add(step, grads) -> what to log, identity) of the pre-training text that is read on beside what a stage is about; or the model
    forgets what it knew."""
    if not recipe.replay:
        return lambda step, grads: {}, {}
    windows = train.Windows(corpus.load_run(run, tokenizer)[0], cfg.n_positions, seed + 1)

    def add(step, grads):
        rows = windows.rows(step * recipe.replay, recipe.replay)
        weights = np.full((recipe.replay, cfg.n_positions), recipe.replay_weight / rows[:, 1:].size)
        return {"replay_loss_nats": round(grads.add(rows[:, :-1], rows[:, 1:], weights) / recipe.replay_weight, 6)}

    return add, {"tokens": resume.fingerprint(windows.shards)}


def sft(run, recipe, seed=0, on_mismatch="error", data=(), start="base", out="sft"):
    """base/ + chat/train.jsonl -> sft/; or another stage, other files of chats, another folder. Returns what it learned from, and how
    often it saw it, in words."""
    run = Path(run)
    data = data or [run / "chat" / "train.jsonl"]
    params, cfg, tokenizer = load_stage(run, start, "python train.py" if start == "base" else "python align.py sft", out)
    conversations = load_conversations(data, tokenizer, cfg.n_positions)
    print_mask(*conversations[0], tokenizer)
    batches = Batches(conversations, recipe.batch, seed)
    add_replay, of_replay = replayed(run, recipe, tokenizer, cfg, seed)
    identity = {"stage": "sft", **train.settings(recipe), "seed": seed, "start": resume.fingerprint(params.values()),
                **of_replay, "data": digest(data)}

    def step_of(step, grads):
        chosen = batches.at(step)
        loss, n = add_conversations(grads, chosen, cfg.n_positions)
        info = {"learned_tokens": n, "tokens": sum(len(ids) - 1 for ids, _ in chosen) + recipe.replay * cfg.n_positions}
        return loss, info | add_replay(step, grads)

    moments = run / start if recipe.keep_moments else None
    if moments:
        identity["updates_before"] = updates_of(moments)
    optimise(run / out, params, cfg, tokenizer, recipe, identity, on_mismatch, step_of, moments=moments)
    return f"{len(conversations):,} conversations", f"{recipe.steps * batches.batch / len(conversations):.1f} passes"


def print_mask(ids, mask, tokenizer):
    """One conversation as the model sees it: what it learns from in green, the rest grey.

    The colours are ours; control sequences in the text are spelled out.
    """
    terminal = command.uncensored(sys.stderr)
    for i, m in zip(ids, mask):
        colour = "\033[32m" if m else "\033[90m"
        print(colour + command.printable(tokenizer.decode([i])), end="", file=terminal)
    print("\033[0m", file=terminal)


# ---------------------------------------------------------------------------------------------- reinforcement


def log_probabilities(params, cfg, rows):                   # (tokens, targets, mask) -> (B,T), 0 where the mask is
    tokens, targets, mask = rows
    return -fast.token_losses(params, cfg, tokens, np.where(mask > 0, targets, -1))


def policy_rows(prompts, replies):
    """Rows whose mask is 1 on what the model chose; prompts and what tools wrote are not. The token that ends a reply is sampled, so it is
    learned."""
    return pad_rows([(p + r.ids, [0] * len(p) + r.sampled) for p, r in zip(prompts, replies)])


def named(reward):
    """What a reward that is not one of ours is called: a function by its name, an object by that of its class."""
    return getattr(reward, "__name__", type(reward).__name__ if callable(reward) else "model")


def paid(reward, tasks, replies, verdicts, tokenizer, rng):
    """(B,) what each reply earns.

    answer     1 if it is right, else 0; a reply that was cut off is wrong
    random     0 or 1, tossed by coin
    model      the score that a reward model, as load_reward returns it, gives. It learned from whole
               replies, so one that was cut off gets the lowest score of the batch
    function   (tasks, texts) -> rewards, used as they are. If it has a parameter named `ended`, it is
               told (B,) which replies ended by themselves; the others were cut off
    """
    ended = np.array([v.ended for v in verdicts])
    if reward == "answer":
        return np.array([v.correct for v in verdicts], float)
    if reward == "random":
        return rng.integers(0, 2, len(verdicts)).astype(float)
    name = named(reward)
    if callable(reward):
        texts = [sample.reply_text(r.ids, tokenizer) for r in replies]
        told = {"ended": ended.copy()} if takes_ended(reward) else {}
        try:
            found = np.array(reward(tasks, texts, **told), float)
        except Exception as e:
            raise ValueError(f"the reward {name} raised {type(e).__name__}: {e}") from e
    else:
        found = np.array(score(reward, [r.prompt + r.ids for r in replies]), float)
        found[~ended] = found.min()
    if found.shape != (len(replies),) or not np.isfinite(found).all():
        raise ValueError(f"the reward {name} gave {str(found)[:60]} for {len(replies)} replies: expected a finite number for each")
    return found


def takes_ended(function):
    try:
        return "ended" in inspect.signature(function).parameters
    except (ValueError, TypeError):                         # some that are written in C do not say
        return False


class Rollout(NamedTuple):
    """What a batch of questions brought, kept for as many steps as are made with it. (B,) for each reply, (B,T) for each token."""

    rows: tuple                 # tokens, targets, mask: 1 on what was sampled
    counts: np.ndarray          # (B,T) what each token counts in the objective
    advantage: np.ndarray       # (B,)
    l_old: np.ndarray           # (B,T) log-probabilities before the first step; None where none are needed
    l_ref: np.ndarray           # (B,T) those of the model it began with; None without a leash
    info: dict                  # what to log


def roll_out(model, reference, recipe, reward, tasks, rng):
    """Ask some of the tasks, a group of replies each, and find what to make of the replies."""
    params, cfg, tokenizer = model
    chosen = [tasks[i] for i in rng.choice(len(tasks), recipe.prompts) for _ in range(recipe.group)]
    replies, verdicts = arena.ask(params, cfg, tokenizer, chosen, 1.0, int(rng.integers(2**31)), recipe.max_tokens, batch=len(chosen))
    rewards = paid(reward, chosen, replies, verdicts, tokenizer, rng)
    advantage = objectives.advantages(rewards, recipe.group, recipe.baseline)
    rows = policy_rows([r.prompt for r in replies], replies)
    counts = objectives.normaliser(rows[2], recipe.normaliser, recipe.max_tokens)
    info = {"reward": float(rewards.mean()), **describe(replies, verdicts, recipe.group),
            "groups_without_signal": float((advantage.reshape(-1, recipe.group) == 0).all(1).mean())}
    if not reference:                                       # what has no advantage has no gradient
        learned = np.flatnonzero(advantage)
        rows, counts, advantage = tuple(a[learned] for a in rows), counts[learned], advantage[learned]
    l_old = log_probabilities(params, cfg, rows) if len(advantage) and (reference or recipe.epochs > 1) else None
    return Rollout(rows, counts, advantage, l_old, log_probabilities(reference, cfg, rows) if reference else None, info)


def describe(replies, verdicts, group):
    """Of a batch of replies in groups: {what: mean}."""
    right, length = (np.array([getattr(v, k) for v in verdicts], float) for k in ("correct", "n_tokens"))
    return {"accuracy": float(right.mean()), "length": float(length.mean()),
            "length_right": float(length[right > 0].mean()) if right.any() else None,
            "length_wrong": float(length[right == 0].mean()) if not right.all() else None,
            "pass_at_4": float(np.mean([arena.pass_at_k(group, int(r.sum()), min(4, group)) for r in right.reshape(-1, group)])),
            "stepwise": float(np.mean([v.stepwise for v in verdicts])), "calls": float(np.mean([0 in r.sampled for r in replies])), "cut": float(np.mean([not v.ended for v in verdicts])),
            "entropy": -float(np.mean([x for r in replies for x, s in zip(r.logp, r.sampled) if s]))}


def policy_weights(params, cfg, recipe, rollout, again):
    """(B,T) the weight of each token in the step, and {what to log}. again: whether the model has moved since the rollout."""
    rows, counts, advantage, l_old, l_ref, _ = rollout
    l, info = log_probabilities(params, cfg, rows) if again else l_old, {}
    if recipe.epochs == 1:                                  # on policy: every ratio is 1, nothing is clipped
        _, weights = objectives.policy(0.0, counts, advantage)
    else:
        _, weights = objectives.clipped(l, l_old, counts, advantage, recipe.clip_low, recipe.clip_high)
        info["clipped"] = float(((weights == 0) & (counts * advantage[:, None] != 0)).sum() / max(1, (rows[2] > 0).sum()))
    if recipe.kl:
        weights = weights + recipe.kl * objectives.kl_estimate(l, l_ref, counts, recipe.kl_kind)[1]
        info["kl_nats"] = float(((l - l_ref) * rows[2]).sum() / len(rows[2]))               # of a reply
    return weights, info


def load_reference(run, stage, start, params, cfg):
    """The weights a leash is tied to, a copy of params where the stage is the one to begin with."""
    if stage in (None, start):
        return {k: p.copy() for k, p in params.items()}
    reference, theirs, _ = load_stage(run, stage, "python align.py sft")
    differs = [f"{k} {getattr(theirs, k)}, expected {getattr(cfg, k)}" for k in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
               if getattr(theirs, k) != getattr(cfg, k)]
    if differs:
        raise ValueError(f"{run / stage}: a reference of another shape than {start}: {'; '.join(differs)}")
    return reference


def rl(run, recipe, reward="answer", seed=0, on_mismatch="error", tasks=None, unseen=None, out=None, start="sft", reference=None):
    """sft/ + tasks/wheel_train.jsonl -> rl/. Returns measurements before and after, on problems never trained on.

    reward: answer, random (the control), model (what reward/ says), or a function, as in paid. tasks, unseen: files of other tasks; of
    tasks without unseen, every tenth is kept to measure on, 300 at most. start, out: the stages it begins with and makes. reference: the
    one to stay near, where the recipe has a KL; the start if not said.
    """
    run = Path(run)
    name = reward if isinstance(reward, str) else named(reward)
    out = out or {"answer": "rl", "random": "rl_random", "model": "rlhf"}.get(name, f"rl_{name}")
    params, cfg, tokenizer = model = load_stage(run, start, "python align.py sft", out)
    files = [tasks or run / "tasks" / "wheel_train.jsonl", *([run / "chat" / "train.jsonl"] if recipe.batch else [])]
    if recipe.batch and not files[1].exists():
        raise FileNotFoundError(f"{files[1]}: no conversations about other things to learn beside the replies; leave them out with --batch 0")
    unseen = unseen or (None if tasks else run / "tasks" / "wheel_test.jsonl")
    tasks = arena.fitting(files[0], tokenizer, cfg.n_positions)
    if unseen:
        unseen = arena.fitting(unseen, tokenizer, cfg.n_positions)
    else:
        every = max(10, -(-len(tasks) // 300))
        unseen, tasks = tasks[::every], [t for i, t in enumerate(tasks) if i % every] or tasks
    # Beside the replies it goes on learning conversations about other things, or it forgets them.
    kinds = {str(t["kind"]) for t in tasks if "kind" in t}
    others = recipe.batch and Batches(load_conversations(files[1:], tokenizer, cfg.n_positions, but_not=kinds), recipe.batch, seed)
    add_replay, of_replay = replayed(run, recipe, tokenizer, cfg, seed)
    identity = {"stage": "rl", **train.settings(recipe), "reward": name, "seed": seed, "start": resume.fingerprint(params.values()),
                **of_replay, "data": digest(files)}
    if reward == "model":
        reward = load_reward(run / "reward")
        identity["judge"] = resume.fingerprint(reward[0].values())
        if reward[1].vocab_size != cfg.vocab_size:
            raise ValueError(f"{run / 'reward'}: knows {reward[1].vocab_size} tokens, {run / start} {cfg.vocab_size}: they do not read the same ids")
        longest = max(map(len, arena.prompts(tokenizer, tasks))) + recipe.max_tokens
        longest = min(longest, cfg.n_positions)
        if reward[1].n_positions < longest:
            raise ValueError(f"{run / 'reward'}: reads {reward[1].n_positions} tokens, and a question with its "
                             f"reply may have {longest}; give a smaller --max-tokens")
    reference = load_reference(run, reference, start, params, cfg) if recipe.kl else None
    if reference:
        identity["reference"] = resume.fingerprint(reference.values())
    before = arena.measure(params, cfg, tokenizer, unseen, recipe.max_tokens)
    kept, warned = {}, set()                                # the number of a batch and its Rollout

    def warn(what, when, text):                             # once
        if when and what not in warned:
            warned.add(what)
            print(f"\nalign.py: {text}", file=sys.stderr)

    def step_of(step, grads):
        batch, again = divmod(step, recipe.epochs)
        if batch not in kept:
            kept.clear()
            kept[batch] = roll_out(model, reference, recipe, reward, tasks, np.random.default_rng((seed, batch)))
        rollout, loss = kept[batch], 0.0
        info = dict(rollout.info)
        earn = {"answer": ", and count as wrong", "model": ", and get the lowest score"}.get(name, "")
        warn("cut", info["cut"] > 0.2, f"{info['cut']:.0%} of the replies do not end within {recipe.max_tokens} tokens or the context of "
             f"{cfg.n_positions}{earn}; give more with --max-tokens")
        why = "no group has replies of different rewards"
        if recipe.baseline == "none":
            why = "no reply has a reward other than 0"
        warn("silent", info["groups_without_signal"] == 1, f"{why}: there is nothing to learn from")
        if step % recipe.save_every == 0:
            info["greedy"] = float(np.mean([v.correct for v in arena.ask(params, cfg, tokenizer, unseen[:64], 0.0, 0, recipe.max_tokens)[1]]))
        if len(rollout.advantage):
            weights, more = policy_weights(params, cfg, recipe, rollout, again)
            # The printed loss is near zero by construction and says nothing; its gradient is the policy gradient.
            loss = sum(grads.add(*part) for part in share_prompts(rollout.rows, weights, cfg.n_positions))
            info |= more
        if others:
            info["chat_loss_nats"] = round(add_conversations(grads, others.at(step), cfg.n_positions)[0], 6)
        return loss, info | add_replay(step, grads)

    optimise(run / out, params, cfg, tokenizer, recipe, identity, on_mismatch, step_of)
    return before, arena.measure(params, cfg, tokenizer, unseen, recipe.max_tokens)


# ------------------------------------------------------------------------------------------- learning from comparisons


def load_comparisons(paths, tokenizer, most):
    """[(rows, scores)] of files of comparisons: of each prompt (ids, mask) of its replies, and their scores.

    most: ids of the longest row. A reward is read at the last id, so the model's context must hold
    all of them. DPO and SFT only predict the last id, so a row may have one more. Comparisons with
    a longer row are left out, and how many is printed.
    """
    out, notes = [], Counter()
    for path in paths:
        for where, (prompt, replies, scores) in chats.comparisons(path, notes):
            rows = []
            for reply in replies:
                ids, mask = sample.render([*prompt, {"role": "assistant", "content": reply}], tokenizer, where)
                begin = len(sample.render_prompt(prompt, tokenizer))
                rows.append((ids, [0] * begin + mask[begin:]))          # earlier replies are part of the prompt
            if max(len(ids) for ids, _ in rows) > most:
                notes[f"longer than {most} tokens, which is what the model's context allows"] += 1
            else:
                out.append((rows, np.array(scores, float)))
    names = ", ".join(map(str, paths))
    if notes.total():
        print(f"{names}: {chats.report(notes)}", file=sys.stderr)
    if not out:
        raise ValueError(f"{names}: no comparison fits the model's context, which allows {most} tokens")
    return out


def score_rows(params, cfg, rows, grads=None, loss_of=None):
    """Rewards of rows of ids, (n,): the score of the hidden state at the last token. With loss_of, rewards -> (loss, dr, ...), the
    gradients are added to grads, an object with sum and begun, and what loss_of gave is returned."""
    T = max(map(len, rows))
    tokens, last, out = np.zeros((len(rows), T), np.int64), np.array([len(ids) - 1 for ids in rows]), []
    for r, ids in enumerate(rows):
        tokens[r, :len(ids)] = ids

    def head(y):
        h = y[np.arange(len(rows)), last]                   # (n,C)
        rewards = h @ params["score.weight"]
        if not loss_of:
            out.append(rewards)
            return 0.0, None, None
        out.append(loss_of(rewards))
        dr, dy = out[0][1].astype(y.dtype), np.zeros_like(y)
        dy[np.arange(len(rows)), last] = dr[:, None] * params["score.weight"]
        d = dr @ h
        grads.sum["score.weight"][...] = grads.sum["score.weight"] + d if grads.added else d
        return out[0][0], dy, None

    if not loss_of:
        fast.hidden_and_grads(params, cfg, tokens, head, want_grads=False)
        return out[0]
    fast.hidden_and_grads(params, cfg, tokens, head, True, grads.sum, grads.added, grads.arena)
    grads.added = True
    return out[0]


def score(model, rows, batch=64):
    """(n,) rewards a reward model gives to conversations, lists of ids that end with a reply.

    ValueError where one is longer than the model's context: the reward is read at the last id.
    """
    params, cfg, tokenizer, bias = model
    longest = max(map(len, rows))
    if longest > cfg.n_positions:
        raise ValueError(f"a conversation of {longest} tokens does not fit "
                         f"the reward model's context of {cfg.n_positions}")
    return np.concatenate([score_rows(params, cfg, rows[i:i + batch]) for i in range(0, len(rows), batch)]) + bias


def save_reward(folder, params, cfg, bias):
    """As transformers' GPT2ForSequenceClassification with one label reads it."""
    config = disk.read_json(Path(folder) / "config.json")
    config |= {"architectures": ["GPT2ForSequenceClassification"], "num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}, "reward_bias": bias}
    disk.write_text(Path(folder) / "config.json", json.dumps(config, indent=2) + "\n")
    tensors = {f"transformer.{k}": p for k, p in params.items() if k != "score.weight"}
    checkpoint.save_safetensors(Path(folder) / "model.safetensors", {**tensors, "score.weight": params["score.weight"][None]}, {"format": "pt"})


def load_reward(folder):
    """(params with score.weight, cfg, tokenizer, bias) of a reward model."""
    path = Path(folder) / "model.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{folder}: no finished reward model; make it with: python align.py reward")
    params, cfg, tokenizer = sample.load_model(folder)
    tensors = checkpoint.load_safetensors(path)[0]
    if "score.weight" not in tensors or tensors["score.weight"].size != cfg.n_embd:
        raise ValueError(f"{path}: has no score.weight of {cfg.n_embd} numbers, so it is no reward model")
    params["score.weight"] = np.array(tensors["score.weight"], np.float32).reshape(-1)
    return params, cfg, tokenizer, float(disk.read_json(Path(folder) / "config.json").get("reward_bias", 0.0))


def agreement(model, comparisons):
    """Share of the pairs of replies of different scores that a reward model puts in the right order; and how many there are."""
    rewards = score(model, [ids for rows, _ in comparisons for ids, _ in rows])
    scores = np.concatenate([s for _, s in comparisons])
    prompts = np.repeat(np.arange(len(comparisons)), [len(s) for _, s in comparisons])
    _, _, right, n = objectives.preferences(rewards, scores, prompts)
    return right / max(n, 1), n


def reward(run, recipe, seed=0, on_mismatch="error", data=(), held_out=None, out="reward", start="sft"):
    """sft/ + pairs/train.jsonl -> reward/. Returns (comparisons, share of held-out pairs in order, number of those)."""
    run = Path(run)
    data, held_out = data or [run / "pairs" / "train.jsonl"], held_out or run / "pairs" / "test.jsonl"
    params, cfg, tokenizer = load_stage(run, start, "python align.py sft", out)
    comparisons, test = (load_comparisons(files, tokenizer, cfg.n_positions) for files in (data, [held_out]))
    params["score.weight"] = np.zeros(cfg.n_embd, np.float32)
    identity = {"stage": "reward", **train.settings(recipe), "seed": seed, "start": resume.fingerprint(params.values()),
                "data": digest(data)}
    batches = Batches(comparisons, recipe.batch, seed)

    def step_of(step, grads):
        chosen = batches.at(step)
        scores, prompts = np.concatenate([s for _, s in chosen]), np.repeat(np.arange(len(chosen)), [len(s) for _, s in chosen])
        loss, _, right, n = score_rows(params, cfg, [ids for rows, _ in chosen for ids, _ in rows], grads,
                                       lambda rewards: objectives.preferences(rewards.astype(np.float64), scores, prompts, centre=0.01))
        return loss, {"pairs": n, "in_order": right / max(n, 1)}

    def save(folder, params, cfg):                          # what people liked scores 0 on average
        best = [rows[int(s.argmax())][0] for rows, s in comparisons[:500]]
        save_reward(folder, params, cfg, -float(score((params, cfg, tokenizer, 0.0), best).mean()))

    optimise(run / out, params, cfg, tokenizer, recipe, identity, on_mismatch, step_of, save)
    return len(comparisons), *agreement(load_reward(run / out), test)


def dpo(run, recipe, seed=0, on_mismatch="error", data=(), held_out=None, out="dpo", start="sft", reference=None):
    """sft/ + pairs/train.jsonl -> dpo/. Returns (pairs, share of held-out pairs whose better reply gained more, number of those)."""
    run = Path(run)
    data, held_out = data or [run / "pairs" / "train.jsonl"], held_out or run / "pairs" / "test.jsonl"
    params, cfg, tokenizer = load_stage(run, start, "python align.py sft", out)

    def pairs_of(files):                                    # [(chosen, rejected)] of ids and mask: the best reply and each that is worse
        comparisons = load_comparisons(files, tokenizer, cfg.n_positions + 1)
        return [(rows[int(s.argmax())], rows[i]) for rows, s in comparisons for i in np.flatnonzero(s < s.max())]

    pairs, test = pairs_of(data), pairs_of([held_out])
    reference = load_reference(run, reference, start, params, cfg)
    identity = {"stage": "dpo", **train.settings(recipe), "seed": seed, "start": resume.fingerprint(params.values()), "reference": resume.fingerprint(reference.values()),
                "data": digest(data)}
    batches = Batches(pairs, recipe.batch, seed)

    def compared(pairs):                                    # -> rows, their log-probabilities, the reference's; (n,), (n,) what each side gained
        rows = pad_rows([row for pair in pairs for row in pair])
        l, l_ref = log_probabilities(params, cfg, rows), log_probabilities(reference, cfg, rows)
        gained = ((l - l_ref) * rows[2]).sum(1)
        return rows, l, l_ref, gained[0::2], gained[1::2]

    def step_of(step, grads):
        rows, l, l_ref, chosen, rejected = compared(batches.at(step))
        loss, weights = objectives.dpo(l, l_ref, rows[2], recipe.kl)
        grads.add(rows[0], rows[1], weights)
        return loss, {"in_order": float((chosen > rejected).mean()), "chosen": float(chosen.mean()), "rejected": float(rejected.mean())}

    optimise(run / out, params, cfg, tokenizer, recipe, identity, on_mismatch, step_of)
    right = 0
    for i in range(0, len(test), 32):
        *_, chosen, rejected = compared(test[i:i + 32])
        right += int((chosen > rejected).sum())
    return len(pairs), right / max(len(test), 1), len(test)


# ---------------------------------------------------------------------------------------------- the command line


def load_stage(run, stage, mend, out=None):
    """The model that a stage ended with. out: the folder of the stage that is to come."""
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such run folder; make the demo's with: make")
    if not (run / stage / "model.safetensors").exists():
        raise FileNotFoundError(f"{run / stage}: no finished model; make it with: {mend} --run {run}")
    if out and (run / out).resolve() == (run / stage).resolve():
        raise ValueError(f"--out {out}: the model it begins with lies there and would be lost; give another name")
    arena.refuse_judges([run / stage])
    return sample.load_model(run / stage, writable=True)


def parse_args(argv=None):
    p = argparse.ArgumentParser(description="Fine-tune, reinforce, learn from comparisons, evaluate.")
    p.add_argument("command", choices=("sft", "rl", "reward", "dpo", "eval", "arena"))
    p.add_argument("models", nargs="*", type=Path, help="arena: model folders, or stages of the run (default: all of them)")
    p.add_argument("--run", default="out/demo", help="run folder (default: %(default)s)")
    p.add_argument("--data", nargs="+", type=Path, help="sft: chats, reward and dpo: comparisons, in any schema of chat/chats.py (default: the run's)")
    p.add_argument("--start", help="the stage to begin with (default: base for sft, else sft)")
    p.add_argument("--reference", help="RL with --kl, dpo: the stage to stay near (default: the one it begins with)")
    p.add_argument("--tasks", type=Path, help="RL: questions with answers (default: the run's wheel_train.jsonl)")
    p.add_argument("--held-out", type=Path, help="what to measure on (default: the run's)")
    p.add_argument("--steps", type=int, help="optimizer steps (default: the recipe's)")
    p.add_argument("--lr", type=float, help="peak learning rate (default: the recipe's)")
    p.add_argument("--batch", type=int, help="conversations a step (default: the recipe's)")
    p.add_argument("--replay", type=int, help="sft, RL: windows of pre-training text a step (default: the recipe's)")
    p.add_argument("--keep-moments", action="store_true", help="sft: begin with the optimizer's moments that pre-training ended with")
    p.add_argument("--prompts", type=int, help="RL: questions a step (default: the recipe's)")
    p.add_argument("--group", type=int, help="RL: replies to each question (default: the recipe's)")
    p.add_argument("--max-tokens", type=int, help="RL: longest reply (default: the recipe's)")
    p.add_argument("--epochs", type=int, help="RL: steps on the same replies, clipped if more than one (default: the recipe's)")
    p.add_argument("--baseline", choices=("mean", "rloo", "std", "none"), help="RL: what a reward is compared with (default: the recipe's)")
    p.add_argument("--normaliser", choices=("tokens", "replies", "constant"), help="RL: what a token counts (default: the recipe's)")
    p.add_argument("--kl", type=float, help="RL: weight of the KL to the model it began with; dpo: beta (default: the recipe's)")
    p.add_argument("--reward", choices=("answer", "random", "model"),
                   help="RL: random is the control that must not help (default: answer)")
    p.add_argument("--samples", type=int,
                   help="eval: try each problem so often at temperature 1 too: pass@k, majority, best of n (default: do not)")
    p.add_argument("--out", help="name of the stage's folder in the run (default: that of the command)")
    p.add_argument("--seed", type=int, help="of the order of the data and of sampling (default: 0)")
    p.add_argument("--on-mismatch", choices=("error", "restart"),
                   help="when the folder holds a checkpoint of other settings or data (default: error)")
    args = p.parse_intermixed_args(argv)
    refuse_others(args)
    args.reward = args.reward or "answer"
    args.seed = args.seed or 0
    args.on_mismatch = args.on_mismatch or "error"
    return args


# What each command takes besides --run: settings of its recipe, and the rest.
SETTINGS = {"sft": "steps lr batch replay", "rl": "steps lr batch replay prompts group max_tokens epochs baseline normaliser kl",
            "reward": "steps lr batch", "dpo": "steps lr batch kl"}
OTHERS = {"sft": "data start out keep_moments seed on_mismatch",
          "rl": "tasks held_out start out reference reward seed on_mismatch",
          "reward": "data held_out start out seed on_mismatch",
          "dpo": "data held_out start out reference seed on_mismatch",
          "eval": "samples seed",
          "arena": "models seed"}


def refuse_others(args):
    """ValueError for an option that the command would ignore, and for an empty name.

    What was not given is None, False or an empty list of models.
    """
    if args.models and args.command != "arena":
        why = "; eval asks those of --run" if args.command == "eval" else ""
        raise ValueError(f"{args.models[0]}: only the arena takes models{why}")
    taken = {}
    for name, others in OTHERS.items():
        taken[name] = ["command", "run", "models", *SETTINGS.get(name, "").split(), *others.split()]
    for name, value in vars(args).items():
        option = f"--{name.replace('_', '-')}"
        if value is not None and value is not False and name not in taken[args.command]:
            takers = ", ".join(other for other in taken if name in taken[other])
            raise ValueError(f"{option}: no option of {args.command}, but of {takers}")
        if value == "":
            raise ValueError(f"{option}: the name is empty")
    if args.command == "eval" and args.seed is not None and not args.samples:
        raise ValueError(f"--seed {args.seed}: eval without --samples asks greedily, where nothing is drawn")


def recipe_of(args):
    """The command's recipe with what the command line says otherwise."""
    recipe = {"sft": SFT, "rl": RL, "reward": REWARD, "dpo": DPO}[args.command]
    changes = {k: getattr(args, k) for k in SETTINGS[args.command].split() if getattr(args, k) is not None}
    for name, value in changes.items():
        may_be_0 = args.command == "rl" and name in ("kl", "batch") or name == "replay"
        if not isinstance(value, str) and not (0 < value < math.inf or value == 0 and may_be_0):
            raise ValueError(f"--{name.replace('_', '-')} {value}: must be {'0 or more' if may_be_0 else 'above 0'} and finite")
    compares = changes.get("baseline", recipe.baseline) != "none"
    if args.command == "rl" and compares and changes.get("group") == 1:
        raise ValueError("--group 1: a single reply has nothing to be compared with; "
                         "give at least 2, or --baseline none")
    if args.command == "rl" and args.reference and not changes.get("kl"):
        raise ValueError(f"--reference {args.reference}: nothing is held near it without --kl")
    changes["keep_moments"] = args.keep_moments
    if "lr" in changes:
        changes["min_lr"] = recipe.min_lr * args.lr / recipe.lr
    recipe = replace(recipe, **changes)
    every = max(recipe.epochs, recipe.save_every // recipe.epochs * recipe.epochs)      # a batch of replies is not kept in a checkpoint
    if recipe.steps % recipe.epochs:
        raise ValueError(f"--steps {recipe.steps} is no multiple of --epochs {recipe.epochs}")
    return replace(recipe, warmup=min(recipe.warmup, recipe.steps), save_every=every)


def main(argv=None):
    args = parse_args(argv)
    runs.start_clock()
    run = Path(args.run)
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: must be 0 or more")
    if args.samples is not None and args.samples < 1:
        raise ValueError(f"--samples {args.samples}: must be at least 1")
    if args.command == "eval":
        stages = [s for s in ("base", "sft", "rl") if (run / s / "model.safetensors").exists()]
        if not stages:
            load_stage(run, "base", "python train.py")
        arena.print_evaluation(run, stages)
        if args.samples:
            judge = load_reward(run / "reward") if (run / "reward" / "model.safetensors").exists() else None
            arena.print_tries(run, stages, args.samples, judge and (lambda rows: score(judge, rows)), args.seed)
        return
    if args.command == "arena":
        rated = arena.fight(run, [m if m.is_dir() else run / m for m in args.models], args.seed)
        print(arena.table(rated))
        if not args.models:                                 # for the page
            disk.write_text(run / "arena.json", json.dumps([{k: float(x) if k != "name" else x for k, x in r._asdict().items()} for r in rated]) + "\n")
        return
    recipe, seconds = recipe_of(args), runs.seconds_spent
    if args.command == "sft":
        out = args.out or "sft"
        what, passes = sft(run, recipe, args.seed, args.on_mismatch, args.data, args.start or "base", out)
        stage = load_stage(run, out, "python align.py sft")
        results = arena.evaluate(*stage, run) if (run / "tasks" / "facts_test.jsonl").exists() else {}
        well = [v for k, v in results.items() if k.startswith("facts on 10")]
        share = sum(v[0] for v in well) / max(1, sum(v[1] for v in well))
        ended = sum(v[2] for v in results.values()) / max(1, sum(v[1] for v in results.values()))
        print(f"{out:8} {what:32} {passes:36} {seconds():5.0f} s   " + (f"held-out phrasings of well-known facts {share:.1%}; replies that end {ended:.1%}"
                                                                        if results else f"not examined: no questions in {run / 'tasks'}"))
    elif args.command in ("reward", "dpo"):
        what = run, recipe, args.seed, args.on_mismatch, args.data, args.held_out, args.out or args.command, args.start or "sft"
        n, share, pairs = reward(*what) if args.command == "reward" else dpo(*what, args.reference)
        low, high = arena.wilson(round(share * pairs), pairs)
        print(f"{args.command:8} {f'{n:,} comparisons':32} {f'{recipe.steps} steps of {recipe.batch}':36} {seconds():5.0f} s   "
              f"held-out pairs in order {share:.1%} ({low:.1%} to {high:.1%} of {pairs:,})")
    else:
        before, after = rl(run, recipe, args.reward, args.seed, args.on_mismatch, args.tasks, args.held_out, args.out, args.start or "sft", args.reference)
        print(f"{before['problems']} unseen problems      greedy   at temperature 1   mean length   step by step")
        for name, m in (("before", before), ("after", after)):
            print(f"{name:24} {m['greedy']:9.1%} {m['at_temperature_1']:18.1%} {m['length']:13.1f} {m['stepwise']:14.1%}")
        name, paid = {"answer": ("rl", "right answers"), "random": ("control", "a coin toss"), "model": ("rlhf", "the reward model")}[args.reward]
        what, how = f"{recipe.steps} steps, reward for {paid}", f"{recipe.prompts} problems x {recipe.group} replies a step"
        print(f"{name:8} {what:32} {how:36} {seconds():5.0f} s   greedy accuracy {before['greedy']:.1%} -> "
              f"{after['greedy']:.1%}, length {before['length']:.0f} -> {after['length']:.0f} tokens")


if __name__ == "__main__":
    command.run(main)
