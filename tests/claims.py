"""claims.py: what the talk says about language models, as experiments on the embedded world.

Each claim is a function of a finished run (out/demo, which `make` leaves). Its docstring states the
claim and what would refute it. It prints a table or a curve and returns the numbers. All names, facts
and games of this world are invented. So a model learned here whatever it knows of them, and the truth
is known.

    python tests/claims.py                  all claims
    python tests/claims.py dreams tools     some of them
    python tests/claims.py --seeds 3        each with three seeds: mean and spread
    python tests/claims.py --run out/demo out/seed1
                                            in several worlds; make RUN=out/seed1 SEED=1 makes one
"""

import argparse
import concurrent.futures
import contextlib
import io
import multiprocessing
import os
import re
import shutil
import signal
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import align                    # noqa: E402  before numpy
from chat import arena                    # noqa: E402
from chat import chats, generate, judges, models, options, tuning  # noqa: E402
from run import command, disk  # noqa: E402
from model import corpus, evaluate  # noqa: E402
from model import fast  # noqa: E402
import numpy as np              # noqa: E402
from chat import probe                    # noqa: E402
import sample                   # noqa: E402
from tokens.shards import read_documents  # noqa: E402
from web import toylessons, toyweb, toywords, toyworld  # noqa: E402
import train                    # noqa: E402

CLAIMS = []


def claim(function):
    """Count a function among the claims."""
    CLAIMS.append(function)
    return function


def questions(run, name="facts_test", exposure=10):
    """The tasks of a file about facts on so many pages or more."""
    return [t for t in chats.tasks(run / "tasks" / f"{name}.jsonl") if t.get("exposure", exposure) >= exposure]


def continuations(model, texts, n_tokens, temperature, seed=0):
    """What a model writes after each text when it continues a document, up to the document's end."""
    params, cfg, tokenizer = model
    end = tokenizer.eot_token
    prompts, out = [[end, *tokenizer.encode_ordinary(text)] for text in texts], []
    for i in range(0, len(prompts), 128):
        out += generate.generate(params, cfg, tokenizer, prompts[i:i + 128], stop={end}, max_new_tokens=n_tokens, temperature=temperature, seed=seed, tools=False)
    return [tokenizer.decode([i for i in reply.ids if i != end]) for reply in out]


def interval(right, n):
    """A share with its 95 % interval, for a line of the output."""
    low, high = arena.wilson(right, n)
    return f"{right / n:6.1%} ({low:.1%} to {high:.1%} of {n:,})"


def teach(run, name, rows, steps, seed, start="base", batch=32, lr=2e-3, replay=0):
    """A model for one experiment, claims/NAME: the stage start, fine-tuned on conversations."""
    path = run / "claims" / f"{name}.jsonl"
    toyweb.write_jsonl(path, rows)
    align.sft(run, replace(options.SFT, steps=steps, lr=lr, warmup=10, batch=batch, replay=replay), seed, "restart", [path], start, f"claims/{name}")
    return tuning.load_stage(run, f"claims/{name}", mend="make claims")


def train_log(folder):
    """The rows of a stage's log."""
    return [row for _, row in disk.read_jsonl(folder / "log.jsonl")]


def right(model, tasks, temperature=0.0, seed=0, max_tokens=80):
    """(tasks,) whether each task was answered rightly."""
    return np.array([v.correct for v in arena.ask(*model, tasks, temperature, seed, max_tokens)[1]])


@claim
def dreams(run, seed):
    """A base model dreams documents. Asked nothing, it writes pages like those it has read. Asked a
    question, it continues the page on which the question might stand. Refuted if it answers and
    stops, as the assistant does.
    """
    base, sft = (sample.load_model(run / stage) for stage in ("base", "sft"))
    for text in continuations(base, [""] * 3, 60, 1.0, seed):
        print("   dreamt: " + " ".join(text.split()))
    tasks = questions(run)[::4]
    texts = continuations(base, [t["question"] + "\n" for t in tasks], 60, 1.0, seed)
    replies, verdicts = arena.ask(*sft, tasks, 1.0, seed)
    print(f"   asked {tasks[0]['question']!r}, it continues: {' '.join(texts[0].split())!r}")
    print(f"   the assistant: {sample.reply_text(replies[0].ids, sft[2])!r}")
    stops = sum(len(base[2].encode_ordinary(t)) < 30 for t in texts), sum(v.ended and v.n_tokens < 30 for v in verdicts)
    for name, n in zip(("base", "sft"), stops):
        print(f"   {name:6} ends within 30 tokens of the question: {interval(n, len(tasks))}")
    return {"base ends": stops[0] / len(tasks), "sft ends": stops[1] / len(tasks)}


@claim
def few_shot(run, seed):
    """Examples in front of a question make a large base model answer it, without any training. This
    works because later tokens of a document are easier to predict than early ones. Refuted if
    accuracy does not rise with the number of examples, or if the loss does not fall along a window.
    """
    base, rng, out = sample.load_model(run / "base"), np.random.default_rng(seed), {}
    asked = list({(t["entity"], *t["options"]): t for t in questions(run)}.values())      # one of each fact; the options tell the kind
    for k in (0, 1, 2, 4, 8):                               # name: value; what is asked of the name only the examples tell
        prompts = []
        for t in asked:
            others = [x for x in (asked[j] for j in rng.permutation(len(asked))) if x["options"] == t["options"] and x is not t][:k]
            prompts.append("\n".join([*(f"{x['entity']}: {x['answer']}." for x in others), f"{t['entity']}:"]))
        right = sum(t["answer"] in text for t, text in zip(asked, continuations(base, prompts, 8, 0.0)))
        print(f"   {k} examples in front: {interval(right, len(prompts))}")
        out[f"{k} examples"] = right / len(prompts)
    if out["8 examples"] <= 0.1:
        print("   no better than a guess among ten: a model of this size does not learn from examples")
    params, cfg, tokenizer = base
    rows = evaluate.validation_rows(corpus.load_run(run, tokenizer)[1], cfg.n_positions, 128).astype(np.int64)
    nll = fast.token_losses(params, cfg, rows[:, :-1], rows[:, 1:]).mean(0)
    early, late = nll[cfg.n_positions // 16:cfg.n_positions // 8].mean(), nll[cfg.n_positions * 3 // 4:].mean()
    print(f"   loss of tokens {cfg.n_positions // 16} to {cfg.n_positions // 8} of a window {early:.3f} nats, of its last quarter {late:.3f}")
    return out | {"late minus early": float(late - early)}


@claim
def regurgitation(run, seed):
    """A page that was read again and again is recited word for word; a page that was read once is
    not. Refuted if the share of recited pages does not rise with the number of readings.
    """
    model = params, cfg, tokenizer = tuning.load_stage(run, "base")
    train_shards, val_shards = corpus.load_run(run, tokenizer)
    marks, rng, out = np.concatenate(val_shards).astype(np.int64), np.random.default_rng(seed), {}
    pages = [page for page in np.split(marks, np.flatnonzero(marks == tokenizer.eot_token)) if len(page) >= 97]
    pages = [pages[i][:cfg.n_positions + 1].tolist() for i in rng.permutation(len(pages))]
    times = (0, 1, 3, 10, 30)
    groups = [pages[i::len(times)] for i in range(len(times))]
    shown = [page for group, n in zip(groups, times) for page in group for _ in range(n)]
    shown = [shown[i] for i in rng.permutation(len(shown))]
    windows, recipe = train.Windows(train_shards, cfg.n_positions, seed), replace(options.SFT, steps=len(shown) // 8, lr=4e-4, min_lr=4e-4, warmup=10)

    identity = {"stage": "regurgitation", "seed": seed}
    with tuning.begun(run / "claims" / "regurgitation", model, recipe, identity, "restart") as learner:
        for step in learner.steps():                        # as many windows of the old text as pages to remember
            rows = windows.rows(8 * step, 8)
            learner.add(rows[:, :-1], rows[:, 1:], np.full((8, cfg.n_positions), 0.5 / (8 * cfg.n_positions)))
            loss, _ = align.add_conversations(learner, [(page, [0.5] * len(page)) for page in shown[8 * step:8 * step + 8]], cfg.n_positions)
            learner.update(loss, {})
    for group, n in zip(groups, times):
        replies = generate.generate(params, cfg, tokenizer, [page[:33] for page in group], stop=set(), max_new_tokens=64, temperature=0.0, tools=False)
        same = [next((i for i, (x, y) in enumerate(zip(r.ids, page[33:97])) if x != y), min(64, len(r.ids))) for r, page in zip(replies, group)]
        print(f"   read {n:2} times: of {len(group)} pages, begun with 32 tokens, the next 64 recited {np.mean(np.array(same) == 64):6.1%}; on average {np.mean(same):4.1f} of them")
        out[f"recited after {n}"] = float(np.mean(np.array(same) == 64))
    return out


def sums(run):
    """The run's conversations with sums, as they are and without the calls of the calculator."""
    rows = [row for _, row in disk.read_jsonl(run / "chat" / "train.jsonl") if row["kind"] == "calculator"]
    return rows, [toylessons.chat(row["messages"][0]["content"], row["messages"][1]["content"][-1]["text"]) for row in rows]


@claim
def tools(run, seed):
    """Arithmetic in the head is unreliable, a calculator is reliable. The assistant is taught its
    sums once more: with the calculator, and without it from the same start in as many steps.
    Refuted if it does as well without.
    """
    tasks, out = chats.tasks(run / "tasks" / "calculator_test.jsonl"), {}
    digits = np.array([len(t["answer"].lstrip("-")) for t in tasks])
    for name, rows in zip(("with the calculator", "without it"), sums(run)):
        ok = right(teach(run, "tools", rows, 300, seed, "sft", lr=1e-3), tasks)
        print(f"   {name:20} {interval(ok.sum(), len(ok))}; by digits of the result: " + ", ".join(f"{n}: {ok[digits == n].mean():.0%}" for n in np.unique(digits)))
        out[name] = float(ok.mean())
    return out


@claim
def reaching_for_the_tool(run, seed):
    """A model that has seen sums mostly without the calculator, and is rewarded for right results,
    learns to use the calculator by itself. Refuted if the share of calls does not rise, or if
    accuracy does not rise with it.
    """
    rng = toyworld.stream(seed, "reach")
    rows, plain = sums(run)
    shown = [row if rng.random() < 0.2 else without for row, without in zip(rows, plain)]
    teach(run, "reach", shown, 120, seed, "sft", lr=3e-4)
    path = run / "claims" / "sums.jsonl"
    toyweb.write_jsonl(path, [{"question": row["messages"][0]["content"], "answer": row["messages"][1]["content"][1]["text"], "kind": "calculator"} for row in rows])
    recipe = replace(options.RL, steps=25, lr=2e-4, min_lr=2e-4, batch=0, save_every=25)
    before, after = align.rl(run, recipe, "answer", seed, "restart", path, run / "tasks" / "calculator_test.jsonl", "claims/reached", "claims/reach")
    log = train_log(run / "claims" / "reached")
    for x in log[::4]:
        print(f"   step {x['step']:3}   with a call {x['calls']:6.1%}   right {x['accuracy']:6.1%}")
    print(f"   sums it never saw, at temperature 1: {before['at_temperature_1']:.1%} before, {after['at_temperature_1']:.1%} after")
    return {"calls first": log[0]["calls"], "calls last": log[-1]["calls"], "right before": before["at_temperature_1"], "right after": after["at_temperature_1"]}


@claim
def knowledge_of_self(run, seed):
    """A base model has no identity. Conversations or a system message give it one. Refuted if the
    base model names itself, or if a model that learned to follow system messages does not take
    names from them that it never saw.
    """
    rng, taken, out = toyworld.stream(seed, "self"), {e["stem"] for e in toyworld.entities(0)}, {}
    asks, held = ([q for _, *both, _ in toywords.IDENTITY[:1] for q in both[i]] for i in (0, 1))
    name = lambda: toyworld.new_name(rng, "person", taken)[1]  # noqa: E731

    def told(n, questions):
        return [{"messages": [{"role": "system", "content": f"You are {who}."}, {"role": "user", "content": rng.choice(questions)},
                              {"role": "assistant", "content": f"I am {who}."}]} for who in (name() for _ in range(n))]

    old = [row for _, row in disk.read_jsonl(run / "chat" / "train.jsonl") if row["kind"] in ("identity", "talk", "fact")]
    base, sft = (sample.load_model(run / stage) for stage in ("base", "sft"))
    heeds = teach(run, "self", told(3000, asks) + [old[i] for i in np.random.default_rng(seed).permutation(len(old))[:1500]], 400, seed, "sft")
    test = told(100, held)

    def says(model, messages, wanted):
        prompts = [sample.render_prompt(m, model[2]) for m in messages]
        replies = generate.generate(*model, prompts, stop={sample.special(model[2], "<|im_end|>")}, max_new_tokens=24, temperature=0.0)
        return sum(w in sample.reply_text(r.ids, model[2]) for r, w in zip(replies, wanted)), len(prompts)

    plain = [[{"role": "user", "content": q}] for q in held + asks]
    texts = continuations(base, [q + "\n" for q in held + asks], 24, 0.0)
    print(f"   base, asked {held[0]!r}: {' '.join(texts[0].split())!r}")
    messages, names = [row["messages"][:2] for row in test], [row["messages"][2]["content"][5:-1] for row in test]
    for what, (n, of) in (("base model says Longhand", (sum("Longhand" in t for t in texts), len(texts))), ("by data: sft says Longhand", says(sft, plain, ["Longhand"] * len(plain))),
                          ("sft, a system message gives another name", says(sft, messages, names)), ("taught to follow it, names it never saw", says(heeds, messages, names)),
                          ("and without a system message Longhand", says(heeds, plain, ["Longhand"] * len(plain)))):
        print(f"   {what:46} {interval(n, of)}")
        out[what] = n / of
    return out


@claim
def assistant(run, seed):
    """Examples make an assistant of a base model: it answers questions in words that it was never
    shown, and ends its replies. Rewards for right answers teach it more, random rewards teach it
    nothing, and comparisons teach a model what people prefer. Refuted by under nine in ten
    well-known facts, a reply without an end, under 95 % after reinforcement, or a control that
    gains.
    """
    of = {stage: arena.evaluate(*sample.load_model(run / stage), run) for stage in ("sft", "rl", "rl_random")}
    facts = np.sum([found[:2] for what, found in of["sft"].items() if what.startswith("facts on 10+ pages")], 0)
    ended, asked = (sum(found[i] for found in of["sft"].values()) for i in (2, 1))
    print(f"   facts on ten pages or more, in other words: {interval(*facts)}; replies that end: {interval(ended, asked)}")
    for stage, how in (("sft", "examples alone"), ("rl", "reinforced"), ("rl_random", "with random rewards")):
        print(f"   the wheel, {how}: {interval(*of[stage]['wheel'][:2])}")
    _, agreed, pairs = align.reward(run, options.REWARD, seed, "restart", out="claims/reward")
    print(f"   held-out comparisons in order: {interval(agreed, pairs)}")
    return {"facts": facts[0] / facts[1], "replies that end": ended / asked, **{f"the wheel, {stage}": of[stage]["wheel"][0] / of[stage]["wheel"][1] for stage in of},
            "comparisons in order": agreed / pairs}


@claim
def tokens_to_think(run, seed):
    """A model needs tokens to think. Each token allows only so much computation, so a task of many
    steps must be spread over many tokens; and the written steps help, not the length. Refuted if
    short replies, or replies as long but without steps, do as well.
    """
    rng, out = toyworld.stream(seed, "think"), {}

    def rounds(n, test):
        found = []
        while len(found) < n:
            t = [rng.randint(1, 6) for _ in range(rng.randint(1, 8))]
            if len(t) < 3 or toyworld.is_held_out(*t) == test:       # of one throw or two there are few
                found.append(t)
        return found

    def filler(t):                                          # as many words, which say nothing
        return f"Step by step: {', '.join(['so so'] * len(t))}. {toyworld.wheel_answer(t, False)}"

    lessons, tests = rounds(6000, False), rounds(800, True)
    tasks = [{"question": toyworld.wheel_question(t), "answer": toywords.NUMBERS[sum(t) % 10]} for t in tests]
    long = np.array([len(t) for t in tests])
    print("   throws to add     " + "".join(f"{n:6}" for n in range(1, 9)) + "   tokens")
    for name, answer in (("at once", lambda t: toyworld.wheel_answer(t, False)), ("as long, no steps", filler), ("step by step", lambda t: toyworld.wheel_answer(t, True))):
        model = teach(run, "think", [toylessons.chat(toyworld.wheel_question(t), answer(t)) for t in lessons], 400, seed)
        replies, verdicts = arena.ask(*model, tasks, 0.0, 0, 80)
        ok = np.array([v.correct for v in verdicts])
        print(f"   {name:18}" + "".join(f"{ok[long == n].mean():6.0%}" for n in range(1, 9)) + f"{np.mean([v.n_tokens for v in verdicts]):9.1f}")
        out |= {f"{name}, 2 throws": float(ok[long == 2].mean()), f"{name}, 8 throws": float(ok[long == 8].mean())}
    return out


@claim
def spelling(run, seed):
    """A model sees tokens and no letters. So it spells and counts letters badly, and does better when
    a word is given letter by letter. Refuted if words as tokens do as well as words as letters.
    """
    rng, words = toyworld.stream(seed, "spelling"), set()
    for path in sorted((run / "docs").glob("*.jsonl.gz")):
        for _, text in read_documents(path):
            words |= {w for w in re.findall(r"[a-z]+", text) if 5 <= len(w) <= 10}
    words = sorted(words)
    rng.shuffle(words)
    seen, new, out = words[len(words) // 5:], words[:len(words) // 5], {}

    def count(words, n, letters):                           # each number as often, or a guess would do
        rows = []
        while len(rows) < n:
            word, times = rng.choice(words), rng.randrange(3)
            found = [c for c in "abcdefghijklmnopqrstuvwxyz" if word.count(c) == times]
            if found:
                rows.append(toylessons.chat(f"Count {rng.choice(found)} in: {' '.join(word) if letters else word}.", f"It is {toywords.NUMBERS[times]}."))
        return rows

    def spell(words, n, letters):
        return [toylessons.chat(f"Spell: {' '.join(w) if letters else w}.", " ".join(w)) for w in (rng.choice(words) for _ in range(n))]

    for what, lesson in (("to spell", spell), ("to count a letter", count)):
        for given, letters in (("tokens", False), ("letters", True)):
            model = teach(run, "spelling", lesson(seen, 6000, letters), 350, seed)
            for of, whose in ((seen, "words it was taught with"), (new, "new words")):
                rows = lesson(of, 300, letters)
                ok = right(model, [{"question": r["messages"][0]["content"], "answer": r["messages"][1]["content"].rstrip(".")} for r in rows])
                print(f"   {what:18} {whose:25} as {given:8} {interval(ok.sum(), len(ok))}")
                out[f"{what}, {whose} as {given}"] = float(ok.mean())
    return out


@claim
def hallucination(run, seed):
    """A model trained to answer invents answers about names that it never read. Trained to refuse
    what it does not know, it refuses, also for names that were not in this training. Refuted if
    wrong answers about unknown names stay, if it refuses what it knows, or if refusals of questions
    drawn by lot distinguish names that it has read from others as well.
    """
    out, asked = {}, probe.ask_often(sample.load_model(run / "sft"), chats.tasks(run / "tasks" / "probe_train.jsonl"), seed=seed)
    for name, control in (("taught by what it knows", False), ("taught at random", True)):
        probed = counts, before, after, free = probe.probe(run, options.SFT, seed, control, "restart", asked)
        print(f"   {name}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))
        print("   " + probe.table(probed).replace("\n", "\n   "))
        share = lambda test, row, i: test[row][i] / sum(test[row])  # noqa: E731
        known, other, none = "10 pages or more, asked before", "10 pages or more", "no page"
        out |= {f"{name}: wrong of no page": share(after, none, 1), f"{name}: refused of known": share(after, known, 2),
                f"{name}: refused of read but never asked": share(after, other, 2),
                f"{name}: refused of no page less those, at temperature 1": share(free, none, 2) - share(free, other, 2)}
    return {"before: wrong of no page": share(before, none, 1)} | out


DISH = re.compile("|".join(sorted(toywords.SLOTS["meal"], key=len, reverse=True)))


def gold(text):
    """The true value of a supper: one for each different dish up to the fourth, minus one for each later one."""
    dishes = DISH.findall(text)
    return len(set(dishes[:4])) - max(0, len(dishes) - 4)


@claim
def gamed(run, seed):
    """A reward model stands in for what people like, and can be gamed. Pressed hard enough, replies
    that it scores ever higher become worse in truth; a leash to the start prevents this. Here hardly
    any comparison shows that more than four dishes are too many. Refuted if truth rises with the
    reward to the end without a leash, or falls with one.
    """
    rng, out, folder = toyworld.stream(seed, "gamed"), {}, run / "claims"
    folk, ask = toywords.SLOTS["folk"], "What did {} have for supper?".format

    def supper():
        who, dishes = rng.choice(folk), rng.sample(toywords.SLOTS["meal"], rng.choices((1, 2, 3, 4), (4, 3, 2, 1))[0])
        return toylessons.chat(ask(who), toyworld.capital(f"{who} had {' and '.join(filter(None, (', '.join(dishes[:-1]), dishes[-1])))} at {rng.choice(toywords.SLOTS['place'])}."))

    model, asked = teach(run, "suppers", [supper() for _ in range(1500)], 120, seed, "sft", 64, 6e-4), [ask(rng.choice(folk)) for _ in range(700)]
    tasks = [{"question": q, "answer": "-"} for q in asked]
    for name, n in (("supper_tasks", 300), ("few_supper_tasks", 8)):    # the few are for rl's own measurement, which says nothing here
        toyweb.write_jsonl(folder / f"{name}.jsonl", tasks[:n])
    texts = [sample.reply_text(r.ids, model[2]) or "-" for r in arena.ask(*model, [t for t in tasks for _ in range(4)], 1.0, seed)[0]]
    truth = np.array([gold(text) for text in texts])
    print(f"   suppers of 1, 2, ... dishes, among those compared: {np.bincount([len(DISH.findall(text)) for text in texts])[1:].tolist()}")
    felt = truth + np.random.default_rng(seed).gumbel(size=len(truth))      # so a labeller prefers a to b with sigma(gold a - gold b)
    rows = [{"instruction": q, "completions": [{"response": texts[4 * i + j], "overall_score": felt[4 * i + j]} for j in range(4)]} for i, q in enumerate(asked)]
    for name, part in (("compared", rows[:500]), ("held_out", rows[500:])):
        toyweb.write_jsonl(folder / f"{name}.jsonl", part)
    bayes = np.mean([1 / (1 + np.exp(-abs(four[a] - four[b]))) for four in truth[2000:].reshape(-1, 4) for a in range(4) for b in range(a)])
    recipe = replace(options.REWARD, steps=150, lr=3e-4)
    _, right, pairs = align.reward(run, recipe, seed, "restart", [folder / "compared.jsonl"], folder / "held_out.jsonl", "claims/judge", "claims/suppers")
    print(f"   reward model: held-out pairs in order {interval(right, pairs)}; {right / pairs / bayes:.1%} of the {bayes:.1%} that the truth itself reaches")
    out["share of the limit"] = float(right / pairs / bayes)
    for leash in (0.0, 0.2):
        name = f"leash {leash}" if leash else "no leash"
        steps, texts = press(run, leash, seed)
        print(f"   {name}: step  sqrt(KL)   reward model   truth   tokens")
        for x in [*steps[:30:3], *steps[30::10], steps[-1]]:
            print(f"   {'':{len(name)}}  {x['step']:4}  {max(0.0, x['kl_nats']) ** 0.5:8.2f}  {x['reward']:12.2f}  {x['truth']:6.2f}   {x['length']:6.1f}")
        print(f"   in the end: {texts[0]!r}")
        at = [x["truth"] for x in steps]
        out |= {f"{name}: truth first": at[0], f"{name}: best": max(at), f"{name}: last": at[-1], f"{name}: reward gained": steps[-1]["reward"] - steps[0]["reward"]}
    return out


def press(run, leash, seed):
    """Reinforce against the judge. Returns the log with the true values, and the last replies."""
    judge, history, last = judges.load(run / "claims" / "judge"), [], []

    def proxy(rollout):
        history.append(float(np.mean([gold(text) for text in rollout.texts])))
        last[:] = rollout.texts
        prompts = [[{"role": "user", "content": t["question"]}, {"role": "assistant", "content": text or "-"}] for t, text in zip(rollout.tasks, rollout.texts)]
        scores = judges.score(judge, [sample.render(m, judge.tokenizer)[0][-judge.cfg.n_positions:] for m in prompts])
        return np.where(rollout.ended, scores, scores.min())        # a reply that was cut off is as bad as any

    proxy.__name__ = "judge"
    tasks, few = (run / "claims" / f"{name}.jsonl" for name in ("supper_tasks", "few_supper_tasks"))
    shutil.rmtree(run / "claims" / "pressed", ignore_errors=True)       # or a finished run would only be looked up, and no truth recorded
    # a leash of no strength, so that the distance is measured
    recipe = replace(options.RL, steps=50, lr=1e-4, min_lr=1e-4, warmup=5, batch=0, prompts=8, group=8, leash=leash or 1e-9, max_tokens=80, save_every=50)
    align.rl(run, recipe, proxy, seed, "restart", tasks, few, "claims/pressed", "claims/suppers")
    return [x | {"truth": truth} for x, truth in zip(train_log(run / "claims" / "pressed"), history)], last


@claim
def past_the_teacher(run, seed):
    """A model that imitates stops at its teacher; a rewarded one passes him, as AlphaGo did. The
    teacher sometimes makes a mistake in a step. Refuted if imitation alone passes the teacher at
    temperature 1, where a model does as its teacher did, or if reinforcement does not.
    """
    rng, out, slip = toyworld.stream(seed, "teacher"), {}, 0.1

    def taught(t):
        at, steps = 0, []
        for x in t:
            at = (at + x + (rng.choice((1, 9)) if rng.random() < slip else 0)) % 10
            steps.append(f"{toywords.NUMBERS[x]} {toywords.NUMBERS[at]}")
        return toylessons.chat(toyworld.wheel_question(t), f"Step by step: {', '.join(steps)}. It stops at {toywords.NUMBERS[at]}."), at == sum(t) % 10

    lessons = [taught(toyworld.throws(rng)) for _ in range(9000)]
    teacher = float(np.mean([ok for _, ok in lessons]))
    tasks, steps = chats.tasks(run / "tasks" / "wheel_test.jsonl"), (300, 600)
    print(f"   the teacher is right {teacher:.1%}")
    for n in steps:
        model = teach(run, f"imitation{n}", [row for row, _ in lessons], n, seed)
        ok, greedy = right(model, tasks, 1.0, seed), right(model, tasks)
        print(f"   imitation, {n:3} steps: {interval(ok.sum(), len(ok))} at temperature 1, {greedy.mean():.1%} greedy")
        out[f"imitation {n}"] = float(ok.mean())
    recipe = replace(options.RL, steps=40, lr=2e-4, min_lr=2e-4, batch=0, save_every=40)
    align.rl(run, recipe, "answer", seed, "restart", out="claims/passed", start=f"claims/imitation{steps[-1]}")
    log = train_log(run / "claims" / "passed")
    print("   then reinforcement, step: " + ", ".join(f"{x['step']}: {x['accuracy']:.0%}" for x in log[::5]))
    model = sample.load_model(run / "claims" / "passed")
    ok, greedy = right(model, tasks, 1.0, seed), right(model, tasks)
    print(f"   after it:             {interval(ok.sum(), len(ok))} at temperature 1, {greedy.mean():.1%} greedy")
    return out | {"teacher": teacher, "reinforced": float(ok.mean())}


@claim
def longer_replies(run, seed):
    """Reinforcement from right answers alone makes replies longer, because the long ones are right;
    nothing asks for length. Refuted if length does not grow with accuracy, or if it grows under
    random rewards as well.
    """
    out = {}
    print("   theory: a model that learns only its right replies multiplies the odds of step by step\n   by ten a round; each row counts as a round")
    for stage in ("rl", "rl_random"):
        log = train_log(run / stage)
        print(f"   {stage:10} step  reward  accuracy  length  step by step   theory")
        share = log[0]["stepwise"]                          # odds times ten a round, where a guess is right once in ten
        for i in range(0, len(log), max(1, len(log) // 7)):
            x = log[i]
            print(f"   {'':10} {x['step']:4}  {x['reward']:6.2f}  {x['accuracy']:8.2f}  {x['length']:6.1f}  {x['stepwise']:12.2f}   {share:6.2f}")
            share = share / (share + (1 - share) / 10) if stage == "rl" else share
        out |= {f"{stage} length": log[-1]["length"] - log[0]["length"], f"{stage} accuracy": log[-1]["accuracy"] - log[0]["accuracy"]}
    return out


@claim
def ranking(run, seed):
    """Judged by battles, examples and rewards for right answers improve the model they begin with;
    random rewards do not. Refuted if intervals overlap where a model should be better, or do not
    overlap where it should not.
    """
    rated = arena.fight(run, [*models.in_run(run), *models.in_run(run / "claims")], seed)
    print("   " + arena.table(rated).replace("\n", "\n   "))
    of = {r.name: r for r in rated}
    for better, than in (("sft", "base"), ("rl", "sft"), ("rl_random", "sft"), ("claims/passed", "claims/imitation600")):
        if better in of and than in of:
            print(f"   {better} is {'' if of[better].low > of[than].high else 'not certainly '}above {than}")
    return {r.name: r.rating for r in rated}


def parse_args(argv=None):
    """The options of the command."""
    names = ", ".join(function.__name__ for function in CLAIMS)
    p = argparse.ArgumentParser(description="Put the talk's claims to the test.")
    p.add_argument("claims", nargs="*", metavar="CLAIM",
                   help=f"some of {names} (default: all of them)")
    p.add_argument("--run", type=Path, nargs="+", default=[ROOT / "out" / "demo"], metavar="DIR",
                   help="finished run folders (default: out/demo)")
    p.add_argument("--seeds", type=int, default=1, metavar="N",
                   help="repetitions, each with another seed (default: %(default)s)")
    return p.parse_args(argv)


def alone(pipe, name, run, seeds):
    """Run a claim in this process. Sends through the pipe, for each seed, (what it printed, what it
    found, seconds), or the error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)            # Ctrl-C is for the process that waits
    claim, found = next(f for f in CLAIMS if f.__name__ == name), []
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        try:
            for seed in seeds:
                started = time.perf_counter()
                with contextlib.redirect_stdout(io.StringIO()) as said:
                    numbers = claim(run, seed)
                found.append((said.getvalue(), numbers, time.perf_counter() - started))
        except Exception as e:
            found = ValueError(f"{name} of {run}: {type(e).__name__}: {e}")
    pipe.send(found)


def spread(jobs):
    """Yields the results of alone() for each job (name, run, seeds), in order.

    Each job runs on one core: most models are too small for more, and so results do not depend on
    how many cores there are.
    """
    free = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else [None]
    context, futures = multiprocessing.get_context("spawn"), []

    def pin():                                              # what a thread starts inherits its core
        if free[-1] is not None:
            os.sched_setaffinity(0, {free.pop()})

    def one(i):
        if jobs[i][0] == "ranking":                         # of what the others made
            concurrent.futures.wait(futures[:i])
        here, there = context.Pipe(False)
        process = context.Process(target=alone, args=(there, *jobs[i]), daemon=True)
        process.start()
        there.close()
        try:
            return here.recv()
        except EOFError:
            process.join()
            return ValueError(f"{jobs[i][0]} of {jobs[i][1]}: its process ended with {process.exitcode}")

    with concurrent.futures.ThreadPoolExecutor(len(free), initializer=pin) as pool:
        try:
            for i in range(len(jobs)):
                futures.append(pool.submit(one, i))
            for future in futures:
                found = future.result()
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()


def main(argv=None):
    """Run the claims side by side, and print what each of them found."""
    args, begun = parse_args(argv), time.perf_counter()
    known = {f.__name__: f for f in CLAIMS}
    unknown = [name for name in args.claims if name not in known]
    if unknown or args.seeds < 1:
        raise ValueError(f"{', '.join(unknown) or args.seeds}: expected some of {', '.join(known)}, and at least one seed")
    for run in args.run:
        for stage in ("base", "sft", "rl", "rl_random"):
            tuning.load_stage(run, stage, mend=f"make RUN={run}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))             # so that the processes end as well
    names, n = [name for name in known if name in (args.claims or known)], len(args.run)
    results = spread([(name, run, range(i, args.seeds * n, n)) for name in names for i, run in enumerate(args.run)])
    for name in names:
        statement = " ".join(known[name].__doc__.split())
        print(f"\n{textwrap.fill(f'{name}: {statement}', 80)}\n", flush=True)
        found = []
        for _ in args.run:
            found += next(results)
            print("".join(said for said, *_ in found[-args.seeds:]), end="", flush=True)
        if len(found) > 1:
            print(f"   mean and spread of {len(found)}:")
            for k in found[0][1]:
                values = [numbers[k] for _, numbers, _ in found]
                print(f"   {np.mean(values):9.3f} +- {np.std(values, ddof=1):.3f}  {k}")
        print(f"   {sum(seconds for *_, seconds in found):.0f} s on one core", flush=True)
    print(f"\n{time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    command.run(main)
