"""reasoning.py: rewarded for the end alone, a model learns to try, to check and to go back.

Nobody showed DeepSeek-R1 how long to think. Its replies grew while it was reinforced, and more of
them went back to what they had said before. Here a puzzle needs tries (web/toypuzzles.py). In most
answers that the model learned from, one attempt is claimed, right or not; few go back after an
attempt that fails. The reward pays for a right last attempt; the control's is a coin's toss.

Refuted if right replies, tries, the share that goes back and length do not rise together, if most
of the rise comes in ten steps, or if they rise under random rewards.

    python -m talk.reasoning
"""

import shutil

from talk import plots, results         # before numpy
from talk.experiment import load, reinforce, share, stage, teach, write
import numpy as np

import sample
from chat import arena
from run import command
from web import toylessons, toypuzzles, toyworld

STAGES = ("sft",)
SECONDS = 145
LESSONS, TEACH, STEPS = 6400, 400, 120
GO_BACK = 0.07                          # of the answers to learn from
LIMIT = 170                             # tokens of a reply
EACH = 8                                # replies to each puzzle that is held out
KEPT = {"right": "right replies (%)", "back": "replies that go back (%)",
        "tries": "tries a reply", "tokens": "tokens a reply"}
REWARDS = {"the end": "rewarded for a right end", "a coin": "random rewards"}


def lessons(seed):
    """Conversations: one attempt is claimed, and in a few of them others fail before."""
    rng, found = toyworld.stream(seed, "reasoning"), []
    puzzles = toypuzzles.puzzles()
    for _ in range(LESSONS):
        task = toypuzzles.task(rng, rng.choice(puzzles))
        goes_back = rng.random() < GO_BACK
        reply = toypuzzles.answer(rng, task["throws"], goes_back)
        found.append(toylessons.chat(task["question"], reply))
    return found


def tasks_of(seed, held_out):
    """All puzzles that are, or are not, held out, in a random order."""
    rng = toyworld.stream(seed, "puzzles", held_out)
    found = [toypuzzles.task(rng, puzzle) for puzzle in toypuzzles.puzzles(held_out)]
    rng.shuffle(found)
    return found


def reward_of(name, notes):
    """The reward, which notes the means of each step."""

    def rewards(rollout):
        right = np.array([*map(toypuzzles.is_solved, rollout.tasks, rollout.texts)])
        right &= rollout.ended
        tries = np.array([len(toypuzzles.attempts(text)) for text in rollout.texts])
        notes.append({
            "right": float(right.mean()),
            "back": float((tries > 1).mean()),
            "tries": float(tries.mean()),
            "tokens": float(rollout.lengths.mean()),
        })
        return right if name == "the end" else rollout.rng.integers(0, 2, len(right))

    return rewards


def press(run, seed, name, tasks):
    """Reinforce with one of the REWARDS. Returns (the model, the means of each step)."""
    model, notes = f"reasoning/{name.replace(' ', '_')}", []
    learned = write(run, "reasoning/puzzles", seed, tasks)
    few = write(run, "reasoning/few", seed, tasks[:8])              # rl measures on something
    # A finished run would only be looked up, and nothing noted.
    shutil.rmtree(run / stage(model, seed), ignore_errors=True)
    reinforce(run, model, reward_of(name, notes), seed, stage("reasoning/taught", seed), learned,
              few, steps=STEPS, lr=1.5e-5, prompts=8, group=8, max_tokens=LIMIT)
    return load(run, model, seed), notes


def show(name, notes):
    """Print the means of every ten steps."""
    print(f"   {REWARDS[name]}\n   {'steps':>9}   right   go back   tries   tokens")
    for i in range(0, len(notes), 10):
        x = {what: np.mean([row[what] for row in notes[i:i + 10]]) for what in KEPT}
        print(f"   {i:3} to {i + 9:3}  {x['right']:6.1%}  {x['back']:7.1%}  {x['tries']:6.2f}  "
              f"{x['tokens']:6.1f}")


def ask(model, tasks, each, seed):
    """(replies, texts, right) to each task, at temperature 1: right is (tasks, each)."""
    asked = [task for task in tasks for _ in range(each)]
    replies, verdicts = arena.ask(*model, asked, 1.0, seed, LIMIT)
    texts = [sample.reply_text(reply.ids, model[2]) for reply in replies]
    ended = [verdict.ended for verdict in verdicts]
    right = np.array([*map(toypuzzles.is_solved, asked, texts)])
    return replies, texts, (right & ended).reshape(-1, each)


def rise(curve):
    """(how much a curve rises from its first ten steps to its last, the largest part in ten)"""
    tens = np.mean(np.reshape(curve, (-1, 10)), 1)
    total = tens[-1] - tens[0]
    return float(total), float(np.max(np.diff(tens)) / total) if total else 0.0


def experiment(run, seed):
    """Teach, then reinforce with both rewards."""
    model = teach(run, "reasoning/taught", lessons(seed), TEACH, seed, "sft")
    held_out = tasks_of(seed, True)
    *_, right = ask(model, held_out, EACH, seed)
    found = {"before": share("held out, before:", right.sum(), right.size)}
    for name, said in REWARDS.items():
        model, notes = press(run, seed, name, tasks_of(seed, False))
        show(name, notes)
        *_, right = ask(model, held_out, EACH, seed)
        found[name] = share(f"held out, {said}:", right.sum(), right.size)
        for what in KEPT:
            found[f"{name}: {what}"] = curve = [row[what] for row in notes]
            found[f"{name}: rise of {what}"], most = rise(curve)
            if name == "the end":
                found[f"most of it in ten steps, {what}"] = most
    return found


def plot(figure, found):
    """What rises along the steps, with both rewards."""
    steps = range(1, STEPS + 1)
    for axes, (what, unit) in zip(figure.subplots(2, 2).flat, KEPT.items()):
        for which, (name, said) in enumerate(REWARDS.items()):
            scale = 100 if "%" in unit else 1
            plots.curve(axes, found, f"{name}: {what}", steps, said, which, scale)
        axes.set_ylabel(unit)
        axes.set_xlabel("step of reinforcement")
    figure.axes[0].set_ylim(0, 110)
    figure.axes[0].legend(loc="upper left")
    first, last, longer = (plots.mean(found, label) for label in
                           ("before", "the end", "the end: rise of tokens"))
    plots.title(figure, f"Rewarded for a right end, held-out puzzles go from {100 * first:.0f} to "
                        f"{100 * last:.0f} % right, and replies grow by {longer:.0f} tokens")


if __name__ == "__main__":
    command.run(results.main)
