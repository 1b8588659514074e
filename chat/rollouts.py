"""rollouts.py: what align.py rl reads, logs about the replies of a step, and checks of a reward.

A rollout is align.Rollout: the replies of one step, those to one question side by side.
"""

import sys
from typing import NamedTuple

import train                            # before numpy
from chat import arena, grading, judges, lessons, tuning
import numpy as np

from model import resume
from run import command


class Given(NamedTuple):
    """What a run of RL has beside its model."""

    tasks: list                     # the questions to learn from
    unseen: list                    # the questions to measure on
    others: lessons.Batches         # conversations about other things, or None
    text: train.Windows             # pre-training text, or None
    reference: dict                 # the weights that the leash is tied to, or None
    judge: judges.Judge             # the run's reward model, or None
    files: list                     # those of the tasks and of others


def read(run, recipe, model, seed, tasks, unseen, start, reference, judged):
    """Read all that a run of RL needs beside its model: a Given.

    judged: whether a reward model gives the rewards. The other arguments are those of align.rl.
    """
    params, cfg, tokenizer = model
    files, tasks, unseen = lessons.split_tasks(run, tasks, unseen, tokenizer, cfg.n_positions)
    others = judge = leash_to = None
    if recipe.batch:
        files, others = lessons.beside(run, files, tasks, recipe.batch, seed, tokenizer, cfg)
    text = tuning.replay_text(run, recipe, tokenizer, cfg, seed)
    if judged:
        judge = judges.load(run / "reward")
        judges.check_fit(run / "reward", judge, model, tasks, recipe.max_tokens)
    if recipe.leash:
        leash_to = tuning.load_reference(run, reference, start, params, cfg)
    return Given(tasks, unseen, others, text, leash_to, judge, files)


def identity(given, params, seed, name, reward):
    """What the result of RL depends on: tuning.identity, the reward and its judge."""
    found = tuning.identity("rl", seed, params, given.files, given.text, given.reference)
    found["reward"] = [name, tuning.source_digest(reward)]
    found["judge"] = given.judge and resume.fingerprint(given.judge.params.values())
    return found


def describe(rollout, rewards, advantage, group):
    """{name: mean over the replies} for the log.

    length_right and length_wrong: mean tokens of the right and of the wrong replies. stepwise: the
    share that thinks step by step. calls: the share that calls a tool. cut: the share that was cut
    off. entropy: the mean of -log p of a sampled token. groups_without_signal: the share of groups
    whose rewards are all equal.
    """
    right = np.zeros(len(rollout.tasks))
    for i, (task, text) in enumerate(zip(rollout.tasks, rollout.texts)):
        right[i] = rollout.ended[i] and grading.is_correct(task, text)
    length = rollout.lengths
    log_p, calls = [], []
    for reply in rollout.replies:
        calls.append(0 in reply.sampled)        # what a tool wrote was not sampled
        log_p += [x for x, sampled in zip(reply.logp, reply.sampled) if sampled]
    k = min(4, group)
    pass_at_4 = [arena.pass_at_k(group, int(n), k) for n in right.reshape(-1, group).sum(1)]
    silent = (advantage.reshape(-1, group) == 0).all(1)
    stepwise = [text.startswith(arena.STEPWISE) for text in rollout.texts]
    length_right = length_wrong = None          # where there is no such reply
    if right.any():
        length_right = float(length[right > 0].mean())
    if not right.all():
        length_wrong = float(length[right == 0].mean())
    return {
        "reward": float(rewards.mean()),
        "accuracy": float(right.mean()),
        "length": float(length.mean()),
        "length_right": length_right,
        "length_wrong": length_wrong,
        "pass_at_4": float(np.mean(pass_at_4)),
        "stepwise": float(np.mean(stepwise)),
        "calls": float(np.mean(calls)),
        "cut": float(np.mean(~rollout.ended)),
        "entropy": -float(np.mean(log_p)),
        "groups_without_signal": float(silent.mean()),
    }


class Warnings:
    """Warnings about the replies of a run, each printed once."""

    def __init__(self, recipe, n_positions):
        self.recipe, self.n_positions = recipe, n_positions
        self.given = set()

    def give(self, name, text):
        """Print a warning, unless it was printed before."""
        if name not in self.given:
            self.given.add(name)
            print(f"\nalign.py: {text}", file=sys.stderr)

    def look(self, info):
        """Warn of replies that are cut off, and of rewards that say nothing."""
        recipe = self.recipe
        if info["cut"] > 0.2:
            self.give("cut", f"{info['cut']:.0%} of the replies do not end within "
                      f"{recipe.max_tokens} tokens or the context of {self.n_positions}; "
                      "allow more with --max-tokens")
        if info["groups_without_signal"] == 1:
            why = "no group has replies of different rewards"
            if recipe.baseline == "none":
                why = "no reply has a reward other than 0"
            self.give("silent", f"{why}: there is nothing to learn from")


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


if __name__ == "__main__":
    command.only_imported(__doc__)
