"""rollouts.py: what align.py rl reads, logs about the replies of a step, and checks of a reward.

A rollout is align.Rollout: the replies of one step, those to one question side by side.
"""

import sys
from typing import NamedTuple

import train                            # before numpy
from chat import arena, grading, judges, lessons, tuning
import numpy as np

from model import resume
from run import progress


class Given(NamedTuple):
    """What a run of RL has beside its model."""

    tasks: list                     # the questions to learn from
    unseen: list                    # the questions to measure on
    others: lessons.Batches         # conversations about other things, or None
    text: train.Windows             # pre-training text, or None
    reference: dict                 # the weights that the leash is tied to, or None
    judge: judges.Judge             # the run's reward model, or None
    identity: dict                  # what the result depends on, see tuning.identity

    def put(self, learner):
        """The same with the reference and the judge where a stage computes (tuning.Learner)."""
        reference, judge = learner.put(self.reference), learner.place.judge(self.judge)
        return self._replace(reference=reference, judge=judge)


def read(run, recipe, model, name, reward, judged, seed, tasks, held_out, start, reference):
    """Read all that a run of RL needs beside its model: a Given.

    name, reward: the function that gives the rewards. judged: whether it asks the reward model. The
    other arguments are those of align.rl.
    """
    params, cfg, tokenizer = model
    path, tasks, unseen = split_tasks(run, tasks, held_out, model)
    files = [path]
    others = judge = leash_to = None
    if recipe.batch:
        chats = run / "chat" / "train.jsonl"
        if not chats.exists():
            raise FileNotFoundError(f"{chats}: no conversations about other things to learn beside "
                                    "the replies; leave them out with --batch 0")
        files.append(chats)
        kinds = {str(task["kind"]) for task in tasks if "kind" in task}
        others = lessons.conversations([chats], tokenizer, cfg.n_positions, but_not=kinds)
        others = lessons.Batches(others, recipe.batch, seed)
    text = tuning.replay_text(run, recipe, tokenizer, cfg, seed)
    if judged:
        judge = judges.load(run / "reward")
        judges.check_fit(run / "reward", judge, model, tasks, recipe.max_tokens)
    if recipe.leash:
        leash_to = tuning.load_reference(run, reference, start, params, cfg)
    identity = tuning.identity("rl", seed, params, files, text, leash_to)
    identity["reward"] = [name, tuning.source_digest(reward)]
    identity["judge"] = judge and resume.fingerprint(judge.params.values())
    return Given(tasks, unseen, others, text, leash_to, judge, identity)


def find_reward(reward, rewards):
    """(name, function) of a reward: a name in {name: function}, or a function that is not there."""
    if not isinstance(reward, str):
        return getattr(reward, "__name__", type(reward).__name__), reward
    if reward not in rewards:
        raise ValueError(f"unknown reward {reward!r}: expected one of {', '.join(rewards)}")
    return reward, rewards[reward]


def split_tasks(run, path, held_out, model):
    """(the file, tasks to learn from, tasks to measure on)

    path, held_out: files, by default those of the run's wheel. Of another file without one of tasks
    that are held out, every tenth is kept to measure on, or fewer where that were more than 300.
    """
    if not path:
        path, held_out = run / "tasks/wheel_train.jsonl", held_out or run / "tasks/wheel_test.jsonl"
    found = lessons.tasks(path, [model])
    if held_out:
        return path, found, lessons.tasks(held_out, [model])
    every = max(10, -(-len(found) // 300))
    rest = [task for i, task in enumerate(found) if i % every]
    return path, rest or found, found[::every]


def describe(rollout, rewards, advantage, group):
    """{name: mean over the replies} for the log.

    length_right and length_wrong: mean tokens of the right and of the wrong replies. stepwise: the
    share that thinks step by step. calls: the share that calls a tool. cut: the share that was cut
    off. entropy: the mean of -log p of a sampled token. groups_without_signal: the share of groups
    whose rewards are all equal.
    """
    right = np.array([grading.is_correct(*each) for each in zip(rollout.tasks, rollout.texts)])
    right &= rollout.ended
    log_p, calls = [], []
    for reply in rollout.replies:
        calls.append(0 in reply.sampled)        # what a tool wrote was not sampled
        log_p += [x for x, sampled in zip(reply.logp, reply.sampled) if sampled]
    k = min(4, group)
    by_group = right.reshape(-1, group).sum(1)
    silent = (advantage.reshape(-1, group) == 0).all(1)
    means = {
        "reward": rewards,
        "accuracy": right,
        "length": rollout.lengths,
        "length_right": rollout.lengths[right],
        "length_wrong": rollout.lengths[~right],
        "pass_at_4": [arena.pass_at_k(group, int(n), k) for n in by_group],
        "stepwise": [text.startswith(arena.STEPWISE) for text in rollout.texts],
        "calls": calls,
        "cut": ~rollout.ended,
        "entropy": np.negative(log_p),
        "groups_without_signal": silent,
    }
    # None where there is no such reply
    return {name: float(np.mean(x)) if len(x) else None for name, x in means.items()}


def warn(info, recipe, n_positions, given):
    """Warn of replies that are cut off, and of rewards that say nothing.

    given: the warnings that a run has printed, a set. None is printed twice.
    """
    found = {}
    if info["cut"] > 0.2:
        found["cut"] = (f"{info['cut']:.0%} of the replies do not end within {recipe.max_tokens} "
                        f"tokens or the context of {n_positions}; allow more with --max-tokens")
    if info["groups_without_signal"] == 1:
        why = "no group has replies of different rewards"
        if recipe.baseline == "none":
            why = "no reply has a reward other than 0"
        found["silent"] = f"{why}: there is nothing to learn from"
    for name in sorted(found.keys() - given):
        progress.end()
        print(f"align.py: {found[name]}", file=sys.stderr)
    given.update(found)


def checked(reward, name, rollout):
    """The rewards (B,) of a rollout. ValueError if they are not a finite number for each reply."""
    n = len(rollout.replies)
    try:
        rewards = np.array(reward(rollout), float)
    except Exception as e:
        raise ValueError(f"the reward {name} raised {type(e).__name__}: {e}") from e
    if rewards.shape != (n,) or not np.isfinite(rewards).all():
        raise ValueError(f"the reward {name} gave {str(rewards)[:60]} for {n} replies: "
                         "expected a finite number for each")
    return rewards
