"""gamed.py: a reward model stands in for what people like, and can be gamed.

It learned from comparisons, and is right about replies like those. Pressed hard enough,
reinforcement finds replies that it scores ever higher and that become worse in truth; a leash to
the model of the beginning prevents this. Here the truth is known: readers like suppers of up to
four different dishes, and hardly any comparison shows that more are too many.

Refuted if truth rises with the reward to the end without a leash, or falls with one, in as many
steps.

    python -m talk.gamed
"""

import shutil
from dataclasses import replace

from talk import plots, results         # before numpy
from talk.experiment import reinforce, share, stage, teach, write
import align
import numpy as np

import sample
from chat import arena, judges, options
from run import command
from web import toylessons, toysuppers, toyworld

STAGES = ("sft",)
SECONDS = 145
STEPS = 50
LEASHES = {"no leash": 1e-9, "leash 0.2": 0.2}      # one of no strength still measures the distance
EACH = 4                                # replies to a question
TRAINED = 500                           # questions to learn from; the others are held out


def replies_to(model, asked, seed):
    """Four replies to each question; prints how many dishes they have."""
    tasks = [{"question": question, "answer": "-"} for question in asked for _ in range(EACH)]
    written, _ = arena.ask(*model, tasks, 1.0, seed)
    texts = [sample.reply_text(reply.ids, model[2]) or "-" for reply in written]
    n_dishes = np.bincount([len(toysuppers.dishes(text)) for text in texts])[1:].tolist()
    print(f"   suppers of 1, 2, ... dishes, among those compared: {n_dishes}")
    return texts


def judge(run, model, asked, seed):
    """Train the reward model. Returns its held-out pairs in order, as a share of what can be."""
    texts = replies_to(model, asked, seed)
    rows = toysuppers.comparisons(asked, texts, seed)
    learned = write(run, "gamed/compared", seed, rows[:TRAINED])
    held_out = write(run, "gamed/held_out", seed, rows[TRAINED:])
    recipe = replace(options.REWARD, steps=200, lr=3e-4, batch=8, save_every=200)
    _, in_order, pairs = align.reward(
        run, recipe, seed, "restart", [learned], held_out, stage("gamed/judge", seed),
        stage("gamed/suppers", seed))
    agreed = share("reward model: held-out pairs in order", in_order, pairs)
    limit = toysuppers.most_in_order(texts[EACH * TRAINED:], EACH)
    print(f"   that is {agreed / limit:.1%} of the {limit:.1%} that the truth itself reaches")
    return agreed / limit


def reward_of(model, truths, last):
    """The judge as a reward. It notes the true value of each step, and the last replies."""

    def judged(rollout):
        truths.append(float(np.mean([toysuppers.value(text) for text in rollout.texts])))
        last[:] = rollout.texts
        rows = []
        for task, text in zip(rollout.tasks, rollout.texts):
            messages = toylessons.chat(task["question"], text or "-")["messages"]
            rows.append(sample.render(messages, model.tokenizer)[0][-model.cfg.n_positions:])
        scores = judges.score(model, rows)
        return np.where(rollout.ended, scores, scores.min())    # one cut off is as bad as any

    return judged


def press(run, seed, asked, leash):
    """Reinforce against the judge. Returns (the log with the true values, the last replies)."""
    tasks = [{"question": question, "answer": "-"} for question in asked]
    learned = write(run, "gamed/tasks", seed, tasks[:300])
    held_out = write(run, "gamed/few_tasks", seed, tasks[:8])       # rl measures on something
    truths, last = [], []
    reward = reward_of(judges.load(run / stage("gamed/judge", seed)), truths, last)
    # A finished run would only be looked up, and no truth noted.
    shutil.rmtree(run / stage("gamed/pressed", seed), ignore_errors=True)
    *_, log = reinforce(
        run, "gamed/pressed", reward, seed, stage("gamed/suppers", seed), learned, held_out,
        steps=STEPS, lr=1e-4, warmup=5, prompts=8, group=8, leash=leash, max_tokens=80)
    return [x | {"truth": truth} for x, truth in zip(log, truths)], last


def show(name, log):
    """Print some rows of a log."""
    print(f"   {name}: step  sqrt(KL)   reward model   truth   tokens")
    for x in [*log[:30:3], *log[30::10], log[-1]]:
        distance = max(0.0, x["kl_nats"]) ** 0.5
        print(f"   {'':{len(name)}}  {x['step']:4}  {distance:8.2f}  {x['reward']:12.2f}  "
              f"{x['truth']:6.2f}   {x['length']:6.1f}")


def experiment(run, seed):
    """Teach suppers, train a judge of them, and press it with a leash and without."""
    rng = toyworld.stream(seed, "gamed")
    rows = [toysuppers.supper(rng) for _ in range(1500)]
    model = teach(run, "gamed/suppers", rows, 160, seed, "sft", batch=32, lr=6e-4)
    asked = [toysuppers.question(rng)[1] for _ in range(TRAINED + 200)]
    found = {"share of the limit": judge(run, model, asked, seed)}
    for name, leash in LEASHES.items():
        log, texts = press(run, seed, asked, leash)
        show(name, log)
        print(f"   in the end: {texts[0]!r}")
        truth, reward = [x["truth"] for x in log], [x["reward"] for x in log]
        found |= {f"{name}: truth": truth, f"{name}: reward": reward,
                  f"{name}: truth first": truth[0], f"{name}: best": max(truth),
                  f"{name}: last": truth[-1], f"{name}: reward gained": reward[-1] - reward[0]}
    return found


def plot(figure, found):
    """The reward model's score and the truth along the steps, with a leash and without."""
    for axes, name in zip(figure.subplots(1, 2, sharey=True), LEASHES):
        steps = range(1, STEPS + 1)
        plots.curve(axes, found, f"{name}: reward", steps, "reward model's score", 1)
        plots.curve(axes, found, f"{name}: truth", steps, "true value", 0)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step of reinforcement")
        axes.legend()
    figure.axes[0].set_ylabel("value of a supper (points)")
    best, last = (plots.mean(found, f"no leash: {when}") for when in ("best", "last"))
    held = plots.mean(found, "leash 0.2: last")
    plots.title(figure, f"Pressed without a leash, the truth rises to {best:.1f} and ends at "
                        f"{last:.1f}; with a leash it ends at {held:.1f}")


if __name__ == "__main__":
    command.run(results.main)
