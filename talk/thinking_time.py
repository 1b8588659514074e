"""thinking_time.py: the more tokens a model may think, the more it gets right.

The models of reasoning.py answer puzzles that are held out, and the budget of tokens is cut. Two
questions beside: do later tries differ from earlier ones, more than by chance? And does
reinforcement find what the model before it did not find in 64 replies (Yue et al. 2025)? pass@k is
the chance that one of k replies at least is right (Chen et al. 2021).

Refuted if accuracy does not fall with the budget, or if most of the fall comes in one step of it.

    python -m talk.thinking_time
"""

from talk import plots, reasoning, results      # before numpy
from talk.experiment import load, share
import numpy as np

import sample
from chat import arena
from run import command
from web import toypuzzles

STAGES = ("sft",)
AFTER = ("reasoning",)                  # its models answer
SECONDS = 25
EACH = 64                               # replies to each puzzle that is held out
AT = (1, 4, 16, 64)
BUDGETS = range(20, reasoning.LIMIT + 1, 15)        # tokens


def last_attempt(text, thrown):
    """The last attempt in a reply that is whole; "" if none is."""
    whole = [x for x in toypuzzles.attempts(text) if toypuzzles.throws_of(x, thrown)]
    return whole[-1] if whole else ""


def cut(replies, right, tasks, tokenizer):
    """Accuracy within budgets of tokens: of replies that have ended, and with the last attempt."""
    lengths = np.array([len(reply.ids) for reply in replies])
    ended, forced = [], []
    for budget in BUDGETS:
        ended.append(float((right & (lengths <= budget)).mean()))
        solved = []
        for task, reply in zip(tasks, replies):
            text = last_attempt(sample.reply_text(reply.ids[:budget], tokenizer), task["throws"])
            solved.append(toypuzzles.solves(task, text))
        forced.append(float(np.mean(solved)))
    return ended, forced


def repeats(texts, tasks, each):
    """(share of later tries that an earlier one of the reply equals, the same beside another reply)

    The second share compares a try with those that stand earlier in another reply to the puzzle:
    as often would a model repeat itself that does not look at what it has tried.
    """
    own, other = [], []
    for i in range(0, len(texts), each):
        tried = []
        for text in texts[i:i + each]:
            used = [toypuzzles.throws_of(x, tasks[i]["throws"]) for x in toypuzzles.attempts(text)]
            tried.append([throws for throws in used if throws])     # those that break no rule
        for mine, others in zip(tried, tried[1:] + tried[:1]):
            for n in range(1, min(len(mine), len(others) + 1)):
                own.append(mine[n] in mine[:n])
                other.append(mine[n] in others[:n])
    return float(np.mean(own or [0])), float(np.mean(other or [0]))


def habits(texts, tasks):
    """{what: share} of attempts: those that break no rule, and what becomes of right and wrong."""
    in_order, wrong_claimed, right_left = [], [], []
    for text, task in zip(texts, tasks):
        said = toypuzzles.attempts(text)
        for i, attempt in enumerate(said):
            in_order.append(toypuzzles.throws_of(attempt, task["throws"]) is not None)
            is_last = i == len(said) - 1
            if toypuzzles.solves(task, attempt):
                right_left.append(not is_last)
            else:
                wrong_claimed.append(is_last and text.endswith(toypuzzles.CLAIM))
    return {
        "break no rule": float(np.mean(in_order)),
        "wrong, claimed": float(np.mean(wrong_claimed or [0])),
        "right, given up": float(np.mean(right_left or [0])),
    }


def pass_at(right, name):
    """Print and return the chance that one of k replies is right, the mean over puzzles."""
    each = right.shape[1]
    chances = []
    for k in AT:
        of_puzzles = [arena.pass_at_k(each, n, k) for n in right.sum(1).tolist()]
        chances.append(float(np.mean(of_puzzles)))
    print(f"   {name}: " + ", ".join(f"pass@{k} {p:.1%}" for k, p in zip(AT, chances)))
    return {f"{name}: pass@{k}": p for k, p in zip(AT, chances)}


def experiment(run, seed):
    """Ask both models, the rewarded one and that of the beginning, the same puzzles."""
    tasks = reasoning.tasks_of(seed, True)
    asked = [task for task in tasks for _ in range(EACH)]
    _, said, before = reasoning.ask(load(run, "reasoning/taught", seed), tasks, EACH, seed)
    model = load(run, "reasoning/the_end", seed)
    replies, texts, after = reasoning.ask(model, tasks, EACH, seed)
    ended, forced = cut(replies, after.ravel(), asked, model[2])
    print("   tokens   right: has ended   with the last attempt")
    for budget, a, b in zip(BUDGETS, ended, forced):
        print(f"   {budget:6}   {a:16.1%}   {b:21.1%}")
    own, other = repeats(texts, asked, EACH)
    print(f"   later tries that repeat one of the same reply: {own:.1%}, of another: {other:.1%}")
    found = pass_at(before, "before") | pass_at(after, "after")
    for name, of in (("before", said), ("after", texts)):
        print(f"   attempts {name}")
        for what, part in habits(of, asked).items():
            print(f"   {part:7.1%}   {what}")
            found[f"{name}: {what}"] = part
    new = after.any(1) & ~before.any(1)
    found["new"] = share(f"solved after, in none of {EACH} before:", new.sum(), len(tasks))
    lost = before.any(1) & ~after.any(1)
    found["lost"] = share(f"solved before, in none of {EACH} after:", lost.sum(), len(tasks))
    return found | {"ended": ended, "forced": forced, "repeats": own, "by chance": other}


def plot(figure, found):
    """Accuracy within budgets of tokens; pass@k before and after."""
    left, right = figure.subplots(1, 2)
    plots.curve(left, found, "ended", BUDGETS, "replies that have ended", 0, 100)
    plots.curve(left, found, "forced", BUDGETS, "the last attempt so far", 1, 100)
    left.set_xlabel("budget (tokens)")
    for which, name in enumerate(("before", "after")):
        labels = [f"{name}: pass@{k}" for k in AT]
        plots.curve(right, found, labels, AT, f"{name} reinforcement", which, 100)
    right.set_xscale("log", base=2)
    right.set_xticks(AT, AT)
    right.set_xlabel("replies to a puzzle, k")
    for axes, what in ((left, "right"), (right, "one of k right")):
        axes.set_ylabel(f"{what} (%)")
        axes.set_ylim(0, 102)
        axes.legend(loc="lower right")
    new = 100 * plots.mean(found, "new")
    plots.title(figure, f"The less time to think, the fewer right answers; {new:.0f} % of the "
                        f"puzzles are solved after reinforcement and in no try of {EACH} before")


if __name__ == "__main__":
    command.run(results.main)
