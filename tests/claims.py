"""claims.py: what the talk says about language models, as experiments on the embedded world.

Each claim is a function of a finished run (out/demo, which `make` leaves). Its docstring states the
claim and what would refute it. It prints a table or a curve and returns the numbers. All names,
facts and games of this world are invented. So whatever a model knows of them, it has learned here,
and the truth is known.

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

import align  # noqa: E402  before numpy
from chat import arena, chats, generate, judges, models, options, probe, tuning  # noqa: E402
from model import corpus, evaluate, fast  # noqa: E402
import numpy as np  # noqa: E402
from run import command, disk  # noqa: E402
import sample  # noqa: E402
from tokens.shards import read_documents  # noqa: E402
import train  # noqa: E402
from web import toylessons, toyweb, toywords, toyworld  # noqa: E402

CLAIMS = []


def claim(function):
    """Count a function among the claims."""
    CLAIMS.append(function)
    return function


# ------------------------------------------------------------------- what the claims have in common


def share(label, right, n):
    """Print a share with its 95 % interval, and return it."""
    low, high = arena.wilson(right, n)
    print(f"   {label} {right / n:6.1%} ({low:.1%} to {high:.1%} of {n:,})")
    return float(right / n)


def questions(run, exposure=10):
    """The held-out tasks about facts that stand on so many pages or more."""
    tasks = chats.tasks(run / "tasks" / "facts_test.jsonl")
    return [task for task in tasks if task.get("exposure", exposure) >= exposure]


def continuations(model, texts, n_tokens, temperature, seed=0):
    """What a model writes after each text, as if it continued a document, up to its end."""
    params, cfg, tokenizer = model
    end, written = tokenizer.eot_token, []
    prompts = [[end, *tokenizer.encode_ordinary(text)] for text in texts]
    for i in range(0, len(prompts), 128):
        replies = generate.generate(
            params, cfg, tokenizer, prompts[i:i + 128], stop={end}, max_new_tokens=n_tokens,
            temperature=temperature, seed=seed, tools=False)
        for reply in replies:
            written.append(tokenizer.decode([token for token in reply.ids if token != end]))
    return written


def teach(run, name, rows, steps, seed, start="base", batch=32, lr=2e-3):
    """A model for one experiment, claims/NAME: the stage start, fine-tuned on conversations."""
    path = run / "claims" / f"{name}.jsonl"
    toyweb.write_jsonl(path, rows)
    recipe = replace(options.SFT, steps=steps, lr=lr, warmup=10, batch=batch, replay=0)
    align.sft(run, recipe, seed, "restart", [path], start, f"claims/{name}")
    return tuning.load_stage(run, f"claims/{name}", mend="make claims")


def reinforce(run, reward, seed, out, start, tasks=None, held_out=None, **settings):
    """Reinforce the stage start at a constant rate. -> accuracy before and after, and the log"""
    recipe = replace(options.RL, min_lr=settings["lr"], batch=0, save_every=settings["steps"],
                     **settings)
    measured = align.rl(run, recipe, reward, seed, "restart", tasks, held_out, out, start)
    return *measured, log_of(run / out)


def log_of(folder):
    """The rows of a stage's log."""
    return [row for _, row in disk.read_jsonl(folder / "log.jsonl")]


def training_chats(run, *kinds):
    """The run's conversations of some kinds."""
    rows = [row for _, row in disk.read_jsonl(run / "chat" / "train.jsonl")]
    return [row for row in rows if row["kind"] in kinds]


def right(model, tasks, temperature=0.0, seed=0):
    """(tasks,) whether each task was answered rightly."""
    verdicts = arena.ask(*model, tasks, temperature, seed, max_tokens=80)[1]
    return np.array([verdict.correct for verdict in verdicts])


def both_ways(label, model, tasks, seed):
    """Print and return a model's accuracy at temperature 1, and print the greedy one."""
    ok, greedy = right(model, tasks, 1.0, seed), right(model, tasks)
    return share(f"{label} greedy {greedy.mean():.1%}, at temperature 1", ok.sum(), len(ok))


# -------------------------------------------------------------------------------------- base models


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
    texts = continuations(base, [task["question"] + "\n" for task in tasks], 60, 1.0, seed)
    replies, verdicts = arena.ask(*sft, tasks, 1.0, seed)
    print(f"   asked {tasks[0]['question']!r}, it continues: {' '.join(texts[0].split())!r}")
    print(f"   the assistant: {sample.reply_text(replies[0].ids, sft[2])!r}")
    short = sum(len(base[2].encode_ordinary(text)) < 30 for text in texts)
    ended = sum(verdict.ended and verdict.n_tokens < 30 for verdict in verdicts)
    return {
        "base ends": share("base   ends within 30 tokens of the question:", short, len(tasks)),
        "sft ends": share("sft    ends within 30 tokens of the question:", ended, len(tasks)),
    }


@claim
def few_shot(run, seed):
    """Examples in front of a question make a large base model answer it, without any training. This
    works because later tokens of a document are easier to predict than early ones. Refuted if
    accuracy does not rise with the number of examples, or if the loss does not fall along a window.
    """
    base, rng, out = sample.load_model(run / "base"), np.random.default_rng(seed), {}
    facts = {(task["entity"], *task["options"]): task for task in questions(run)}
    asked = list(facts.values())            # each fact once; the options tell its kind
    for k in (0, 1, 2, 4, 8):
        prompts = []                        # "name: value": only the examples tell what is asked
        for task in asked:
            others = [asked[i] for i in rng.permutation(len(asked))]
            others = [x for x in others if x["options"] == task["options"] and x is not task]
            lines = [f"{x['entity']}: {x['answer']}." for x in others[:k]]
            prompts.append("\n".join([*lines, f"{task['entity']}:"]))
        texts = continuations(base, prompts, 8, 0.0)
        n_right = sum(task["answer"] in text for task, text in zip(asked, texts))
        out[f"{k} examples"] = share(f"{k} examples in front:", n_right, len(prompts))
    if out["8 examples"] <= 0.1:
        print("   a guess among ten does as well: so small a model does not learn from examples")
    params, cfg, tokenizer = base
    T = cfg.n_positions
    rows = evaluate.validation_rows(corpus.load_run(run, tokenizer)[1], T, 128).astype(np.int64)
    nll = fast.token_losses(params, cfg, rows[:, :-1], rows[:, 1:]).mean(0)
    early, late = nll[T // 16:T // 8].mean(), nll[T * 3 // 4:].mean()
    print(f"   loss of tokens {T // 16} to {T // 8} of a window {early:.3f} nats, "
          f"of its last quarter {late:.3f}")
    return out | {"late minus early": float(late - early)}


@claim
def regurgitation(run, seed):
    """A page that was read again and again is recited word for word; a page that was read once is
    not. Refuted if the share of recited pages does not rise with the number of readings.
    """
    model = params, cfg, tokenizer = tuning.load_stage(run, "base")
    train_shards, val_shards = corpus.load_run(run, tokenizer)
    T, rng, out = cfg.n_positions, np.random.default_rng(seed), {}
    marks = np.concatenate(val_shards).astype(np.int64)
    pages = np.split(marks, np.flatnonzero(marks == tokenizer.eot_token))
    pages = [page for page in pages if len(page) >= 97]
    pages = [pages[i][:T + 1].tolist() for i in rng.permutation(len(pages))]
    times = (0, 1, 3, 10, 30)
    groups = [pages[i::len(times)] for i in range(len(times))]
    shown = []
    for group, n in zip(groups, times):
        for page in group:
            shown += [page] * n
    shown = [shown[i] for i in rng.permutation(len(shown))]
    windows = train.Windows(train_shards, T, seed)
    recipe = replace(options.SFT, steps=len(shown) // 8, lr=4e-4, min_lr=4e-4, warmup=10)
    identity = {"stage": "regurgitation", "seed": seed}
    folder = run / "claims" / "regurgitation"
    with tuning.begun(folder, model, recipe, identity, "restart") as learner:
        for step in learner.steps():        # as many windows of the old text as pages to remember
            rows = windows.rows(8 * step, 8)
            learner.add(rows[:, :-1], rows[:, 1:], np.full((8, T), 0.5 / (8 * T)))
            batch = [(page, [0.5] * len(page)) for page in shown[8 * step:8 * step + 8]]
            loss, _ = align.add_conversations(learner, batch, T)
            learner.update(loss, {})
    for group, n in zip(groups, times):
        replies = generate.generate(params, cfg, tokenizer, [page[:33] for page in group],
                                    stop=set(), max_new_tokens=64, temperature=0.0, tools=False)
        same = []
        for reply, page in zip(replies, group):
            equal = [x == y for x, y in zip(reply.ids, page[33:97])]
            same.append(equal.index(False) if False in equal else len(equal))
        recited = float(np.mean(np.array(same) == 64))
        print(f"   read {n:2} times: of {len(group)} pages, begun with 32 tokens, the next 64 "
              f"recited {recited:6.1%}; on average {np.mean(same):4.1f} of them")
        out[f"recited after {n}"] = recited
    return out


# ------------------------------------------------------------------------------------ the assistant


def sums(run):
    """The run's conversations with sums, as they are and without the calls of the calculator."""
    rows, plain = training_chats(run, "calculator"), []
    for row in rows:
        question, answer = (message["content"] for message in row["messages"])
        plain.append(toylessons.chat(question, answer[-1]["text"]))
    return rows, plain


@claim
def tools(run, seed):
    """Arithmetic in the head is unreliable, a calculator is reliable. The assistant is taught its
    sums once more: with the calculator, and without it from the same start in as many steps.
    Refuted if it does as well without.
    """
    tasks, out = chats.tasks(run / "tasks" / "calculator_test.jsonl"), {}
    digits = np.array([len(task["answer"].lstrip("-")) for task in tasks])
    for name, rows in zip(("with the calculator", "without it"), sums(run)):
        ok = right(teach(run, "tools", rows, 300, seed, "sft", lr=1e-3), tasks)
        out[name] = share(f"{name:20}", ok.sum(), len(ok))
        by_digits = [f"{n}: {ok[digits == n].mean():.0%}" for n in np.unique(digits)]
        print(f"   {'':20} by digits of the result: {', '.join(by_digits)}")
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
    tasks = []
    for row in rows:
        question, answer = (message["content"] for message in row["messages"])
        tasks.append({"question": question, "answer": answer[1]["text"], "kind": "calculator"})
    path = run / "claims" / "sums.jsonl"
    toyweb.write_jsonl(path, tasks)
    before, after, log = reinforce(
        run, "answer", seed, "claims/reached", "claims/reach", path,
        run / "tasks" / "calculator_test.jsonl", steps=25, lr=2e-4)
    for x in log[::4]:
        print(f"   step {x['step']:3}   with a call {x['calls']:6.1%}   right {x['accuracy']:6.1%}")
    before, after = before["at_temperature_1"], after["at_temperature_1"]
    print(f"   sums it never saw, at temperature 1: {before:.1%} before, {after:.1%} after")
    return {"calls first": log[0]["calls"], "calls last": log[-1]["calls"],
            "right before": before, "right after": after}


def replies_with(model, conversations, wanted):
    """How many of a model's replies have the text that is wanted of each."""
    prompts = [sample.render_prompt(messages, model[2]) for messages in conversations]
    stop = {sample.special(model[2], "<|im_end|>")}
    replies = generate.generate(*model, prompts, stop=stop, max_new_tokens=24, temperature=0.0)
    texts = [sample.reply_text(reply.ids, model[2]) for reply in replies]
    return sum(word in text for word, text in zip(wanted, texts))


@claim
def knowledge_of_self(run, seed):
    """A base model has no identity. Conversations or a system message give it one. Refuted if the
    base model names itself, or if a model that learned to follow system messages does not take
    names from them that it never saw.
    """
    rng, taken = toyworld.stream(seed, "self"), {e["stem"] for e in toyworld.entities(0)}
    asks, held = list(toywords.IDENTITY[0].questions), list(toywords.IDENTITY[0].held_out)

    def told(n, questions):
        """Conversations in which a system message gives a new name, and those names."""
        rows, names = [], []
        for _ in range(n):
            names.append(toyworld.new_name(rng, "person", taken)[1])
            row = toylessons.chat(rng.choice(questions), f"I am {names[-1]}.")
            row["messages"].insert(0, {"role": "system", "content": f"You are {names[-1]}."})
            rows.append(row)
        return rows, names

    old = training_chats(run, "identity", "talk", "fact")
    some = np.random.default_rng(seed).permutation(len(old))[:1500]
    base, sft = (sample.load_model(run / stage) for stage in ("base", "sft"))
    rows = told(3000, asks)[0] + [old[i] for i in some]
    follower = teach(run, "self", rows, 400, seed, "sft")
    rows, names = told(100, held)
    named = [row["messages"][:2] for row in rows]
    plain = [toylessons.chat(question)["messages"] for question in held + asks]
    texts = continuations(base, [question + "\n" for question in held + asks], 24, 0.0)
    print(f"   base, asked {held[0]!r}: {' '.join(texts[0].split())!r}")
    longhand, n = ["Longhand"] * len(plain), len(plain)
    n_right = {
        "base model says Longhand": (sum("Longhand" in text for text in texts), n),
        "by data: sft says Longhand": (replies_with(sft, plain, longhand), n),
        "sft, a system message gives another name": (replies_with(sft, named, names), 100),
        "taught to follow it, names it never saw": (replies_with(follower, named, names), 100),
        "and without a system message Longhand": (replies_with(follower, plain, longhand), n),
    }
    return {what: share(f"{what:46}", *counts) for what, counts in n_right.items()}


@claim
def assistant(run, seed):
    """Examples make an assistant of a base model: it answers questions in words that it was never
    shown, and ends its replies. Rewards for right answers teach it more, random rewards teach it
    nothing, and comparisons teach a model what people prefer. Refuted by under nine in ten
    well-known facts, a reply without an end, under 95 % after reinforcement, or a control that
    gains.
    """
    found, out = arena.evaluate(*sample.load_model(run / "sft"), run), {}
    known = [counts for kind, counts in found.items() if kind.startswith("facts on 10+ pages")]
    n_right, n_asked, _ = np.sum(known, 0)
    out["facts"] = share("facts on ten pages or more, in other words:", n_right, n_asked)
    _, n_asked, n_ended = np.sum(list(found.values()), 0)
    out["replies that end"] = share("replies that end:", n_ended, n_asked)
    stages = {"sft": "examples alone", "rl": "reinforced", "rl_random": "with random rewards"}
    for stage, taught in stages.items():
        if stage != "sft":
            found = arena.evaluate(*sample.load_model(run / stage), run)
        out[f"the wheel, {stage}"] = share(f"the wheel, {taught}:", *found["wheel"][:2])
    _, agreed, pairs = align.reward(run, options.REWARD, seed, "restart", out="claims/reward")
    return out | {"comparisons in order": share("held-out comparisons in order:", agreed, pairs)}


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
            thrown = [rng.randint(1, 6) for _ in range(rng.randint(1, 8))]
            if len(thrown) < 3 or toyworld.is_held_out(*thrown) == test:    # of the short few exist
                found.append(thrown)
        return found

    def filler(thrown):                     # as many words, which say nothing
        words = ", ".join(["so so"] * len(thrown))
        return f"Step by step: {words}. {toyworld.wheel_answer(thrown, False)}"

    ways = {"at once": lambda thrown: toyworld.wheel_answer(thrown, False),
            "as long, no steps": filler,
            "step by step": lambda thrown: toyworld.wheel_answer(thrown, True)}
    lessons, tests = rounds(6000, False), rounds(800, True)
    tasks = [{"question": toyworld.wheel_question(thrown),
              "answer": toywords.NUMBERS[sum(thrown) % 10]} for thrown in tests]
    n_throws = np.array([len(thrown) for thrown in tests])
    print("   throws to add     " + "".join(f"{n:6}" for n in range(1, 9)) + "   tokens")
    for name, answer in ways.items():
        rows = [toylessons.chat(toyworld.wheel_question(thrown), answer(thrown))
                for thrown in lessons]
        model = teach(run, "think", rows, 400, seed)
        verdicts = arena.ask(*model, tasks, 0.0, 0, 80)[1]
        ok = np.array([verdict.correct for verdict in verdicts])
        by_throws = {n: float(ok[n_throws == n].mean()) for n in range(1, 9)}
        length = np.mean([verdict.n_tokens for verdict in verdicts])
        print(f"   {name:18}" + "".join(f"{x:6.0%}" for x in by_throws.values()) + f"{length:9.1f}")
        out |= {f"{name}, 2 throws": by_throws[2], f"{name}, 8 throws": by_throws[8]}
    return out


@claim
def spelling(run, seed):
    """A model sees tokens and no letters. So it spells and counts letters badly, and does better
    when a word is given letter by letter. Refuted if words as tokens do as well as words as
    letters.
    """
    rng, words, out = toyworld.stream(seed, "spelling"), set(), {}
    for path in sorted((run / "docs").glob("*.jsonl.gz")):
        for _, text in read_documents(path):
            words |= {word for word in re.findall(r"[a-z]+", text) if 5 <= len(word) <= 10}
    words = sorted(words)
    rng.shuffle(words)
    seen, new = words[len(words) // 5:], words[:len(words) // 5]

    def count(words, letters):              # each number as often, or a guess would do
        while True:
            word, times = rng.choice(words), rng.randrange(3)
            found = [c for c in "abcdefghijklmnopqrstuvwxyz" if word.count(c) == times]
            if found:
                question = f"Count {rng.choice(found)} in: {' '.join(word) if letters else word}."
                return question, f"It is {toywords.NUMBERS[times]}."

    def spell(words, letters):
        word = rng.choice(words)
        return f"Spell: {' '.join(word) if letters else word}.", " ".join(word)

    for what, lesson in (("to spell", spell), ("to count a letter", count)):
        for given, letters in (("tokens", False), ("letters", True)):
            rows = [toylessons.chat(*lesson(seen, letters)) for _ in range(6000)]
            model = teach(run, "spelling", rows, 350, seed)
            for some, whose in ((seen, "words it was taught with"), (new, "new words")):
                asked = [lesson(some, letters) for _ in range(300)]
                tasks = [{"question": q, "answer": answer.rstrip(".")} for q, answer in asked]
                ok = right(model, tasks)
                label = f"{what:18} {whose:25} as {given:8}"
                out[f"{what}, {whose} as {given}"] = share(label, ok.sum(), len(ok))
    return out


@claim
def hallucination(run, seed):
    """A model trained to answer invents answers about names that it never read. Trained to refuse
    what it does not know, it refuses, also for names that were not in this training. Refuted if
    wrong answers about unknown names stay, if it refuses what it knows, or if refusals of questions
    drawn by lot distinguish names that it has read from others as well.
    """
    tasks = chats.tasks(run / "tasks" / "probe_train.jsonl")
    out, asked = {}, probe.ask_often(sample.load_model(run / "sft"), tasks, seed=seed)
    known, other, none = "10 pages or more, asked before", "10 pages or more", "no page"

    def wrong(test, row):
        return test[row][1] / sum(test[row])

    def refused(test, row):
        return test[row][2] / sum(test[row])

    for name, control in (("taught by what it knows", False), ("taught at random", True)):
        probed = probe.probe(run, options.SFT, seed, control, "restart", asked)
        counts, before, after, free = probed
        print(f"   {name}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))
        print(textwrap.indent(probe.table(probed), "   "))
        out |= {"before: wrong of no page": wrong(before, none),
                f"{name}: wrong of no page": wrong(after, none),
                f"{name}: refused of known": refused(after, known),
                f"{name}: refused of read but never asked": refused(after, other),
                f"{name}: refused of no page less those, at temperature 1":
                    refused(free, none) - refused(free, other)}
    return out


# ------------------------------------------------------------------------------------ reinforcement

DISH = re.compile("|".join(sorted(toywords.SLOTS["meal"], key=len, reverse=True)))


def gold(text):
    """The true value of a supper: 1 for each different dish up to the fourth, -1 for each later."""
    dishes = DISH.findall(text)
    return len(set(dishes[:4])) - max(0, len(dishes) - 4)


def supper_question(rng):
    """(a person, what they had for supper as a question)."""
    who = rng.choice(toywords.SLOTS["folk"])
    return who, f"What did {who} have for supper?"


def supper(rng):
    """A conversation about a supper of one to four dishes."""
    who, question = supper_question(rng)
    n = rng.choices((1, 2, 3, 4), (4, 3, 2, 1))[0]
    *dishes, last = rng.sample(toywords.SLOTS["meal"], n)
    menu = f"{', '.join(dishes)} and {last}" if dishes else last
    answer = f"{who} had {menu} at {rng.choice(toywords.SLOTS['place'])}."
    return toylessons.chat(question, toyworld.capital(answer))


def compared(run, model, asked, seed):
    """Four replies to each question with scores, as labellers who like suppers would give them.

    -> (rows of completions, the share of pairs that the true values put in order). Gumbel noise
    makes a labeller prefer a to b with probability sigmoid(gold(a) - gold(b)).
    """
    tasks = [{"question": question, "answer": "-"} for question in asked for _ in range(4)]
    replies, _ = arena.ask(*model, tasks, 1.0, seed)
    texts = [sample.reply_text(reply.ids, model[2]) or "-" for reply in replies]
    truth = np.array([gold(text) for text in texts])
    n_dishes = np.bincount([len(DISH.findall(text)) for text in texts])[1:].tolist()
    print(f"   suppers of 1, 2, ... dishes, among those compared: {n_dishes}")
    felt = truth + np.random.default_rng(seed).gumbel(size=len(truth))
    rows = []
    for i, question in enumerate(asked):
        completions = [{"response": texts[j], "overall_score": felt[j]}
                       for j in range(4 * i, 4 * i + 4)]
        rows.append({"instruction": question, "completions": completions})
    four = truth[2000:].reshape(-1, 4)                      # those of the held-out questions
    first, second = np.triu_indices(4, 1)
    best = 1 / (1 + np.exp(-np.abs(four[:, first] - four[:, second])))
    return rows, best.mean()


@claim
def gamed(run, seed):
    """A reward model stands in for what people like, and can be gamed. Pressed hard enough, replies
    that it scores ever higher become worse in truth; a leash to the start prevents this. Here
    hardly any comparison shows that more than four dishes are too many. Refuted if truth rises with
    the reward to the end without a leash, or falls with one.
    """
    rng, out, folder = toyworld.stream(seed, "gamed"), {}, run / "claims"
    rows = [supper(rng) for _ in range(1500)]
    model = teach(run, "suppers", rows, 120, seed, "sft", 64, 6e-4)
    asked = [supper_question(rng)[1] for _ in range(700)]
    tasks = [{"question": question, "answer": "-"} for question in asked]
    toyweb.write_jsonl(folder / "supper_tasks.jsonl", tasks[:300])
    toyweb.write_jsonl(folder / "few_supper_tasks.jsonl", tasks[:8])    # rl measures on something
    rows, limit = compared(run, model, asked, seed)
    toyweb.write_jsonl(folder / "compared.jsonl", rows[:500])
    toyweb.write_jsonl(folder / "held_out.jsonl", rows[500:])
    recipe = replace(options.REWARD, steps=150, lr=3e-4)
    _, n_right, pairs = align.reward(
        run, recipe, seed, "restart", [folder / "compared.jsonl"], folder / "held_out.jsonl",
        "claims/judge", "claims/suppers")
    agreed = share("reward model: held-out pairs in order", n_right, pairs)
    print(f"   that is {agreed / limit:.1%} of the {limit:.1%} that the truth itself reaches")
    out["share of the limit"] = float(agreed / limit)
    for name, leash in (("no leash", 0.0), ("leash 0.2", 0.2)):
        steps, texts = press(run, leash, seed)
        print(f"   {name}: step  sqrt(KL)   reward model   truth   tokens")
        for x in [*steps[:30:3], *steps[30::10], steps[-1]]:
            distance = max(0.0, x["kl_nats"]) ** 0.5
            print(f"   {'':{len(name)}}  {x['step']:4}  {distance:8.2f}  {x['reward']:12.2f}  "
                  f"{x['truth']:6.2f}   {x['length']:6.1f}")
        print(f"   in the end: {texts[0]!r}")
        truth = [x["truth"] for x in steps]
        out |= {f"{name}: truth first": truth[0], f"{name}: best": max(truth),
                f"{name}: last": truth[-1],
                f"{name}: reward gained": steps[-1]["reward"] - steps[0]["reward"]}
    return out


def press(run, leash, seed):
    """Reinforce against the judge. Returns the log with the true values, and the last replies."""
    judge, history, last = judges.load(run / "claims" / "judge"), [], []

    def proxy(rollout):
        history.append(float(np.mean([gold(text) for text in rollout.texts])))
        last[:] = rollout.texts
        rows = []
        for task, text in zip(rollout.tasks, rollout.texts):
            messages = toylessons.chat(task["question"], text or "-")["messages"]
            rows.append(sample.render(messages, judge.tokenizer)[0][-judge.cfg.n_positions:])
        scores = judges.score(judge, rows)
        return np.where(rollout.ended, scores, scores.min())    # one cut off is as bad as any

    proxy.__name__ = "judge"
    folder = run / "claims"
    # A finished run would only be looked up, and no truth recorded.
    shutil.rmtree(folder / "pressed", ignore_errors=True)
    # No leash is one of no strength, so that the distance is measured.
    *_, log = reinforce(
        run, proxy, seed, "claims/pressed", "claims/suppers", folder / "supper_tasks.jsonl",
        folder / "few_supper_tasks.jsonl", steps=50, lr=1e-4, warmup=5, prompts=8, group=8,
        leash=leash or 1e-9, max_tokens=80)
    return [x | {"truth": truth} for x, truth in zip(log, history)], last


@claim
def past_the_teacher(run, seed):
    """A model that imitates stops at its teacher; a rewarded one passes him, as AlphaGo did. The
    teacher sometimes makes a mistake in a step. Refuted if imitation alone passes the teacher at
    temperature 1, where a model does as its teacher did, or if reinforcement does not.
    """
    rng, out, slip = toyworld.stream(seed, "teacher"), {}, 0.1
    lessons, n_right = [], 0
    for _ in range(9000):
        thrown, at, steps = toyworld.throws(rng), 0, []
        for n in thrown:
            mistake = rng.choice((1, 9)) if rng.random() < slip else 0
            at = (at + n + mistake) % 10
            steps.append(f"{toywords.NUMBERS[n]} {toywords.NUMBERS[at]}")
        answer = f"Step by step: {', '.join(steps)}. It stops at {toywords.NUMBERS[at]}."
        lessons.append(toylessons.chat(toyworld.wheel_question(thrown), answer))
        n_right += at == sum(thrown) % 10
    out["teacher"] = n_right / len(lessons)
    print(f"   the teacher is right {out['teacher']:.1%}")
    tasks = chats.tasks(run / "tasks" / "wheel_test.jsonl")
    for n in (300, 600):
        model = teach(run, f"imitation{n}", lessons, n, seed)
        out[f"imitation {n}"] = both_ways(f"imitation, {n:3} steps:", model, tasks, seed)
    *_, log = reinforce(run, "answer", seed, "claims/passed", "claims/imitation600", steps=40,
                        lr=2e-4)
    accuracies = [f"{x['step']}: {x['accuracy']:.0%}" for x in log[::5]]
    print("   then reinforcement, step: " + ", ".join(accuracies))
    model = sample.load_model(run / "claims" / "passed")
    return out | {"reinforced": both_ways("after it:            ", model, tasks, seed)}


@claim
def longer_replies(run, seed):
    """Reinforcement from right answers alone makes replies longer, because the long ones are right;
    nothing asks for length. Refuted if length does not grow with accuracy, or if it grows under
    random rewards as well.
    """
    out = {}
    print("   theory: a model that learns only its right replies multiplies the odds of step by"
          "\n   step by ten a round; each row counts as a round")
    for stage in ("rl", "rl_random"):
        log = log_of(run / stage)
        print(f"   {stage:10} step  reward  accuracy  length  step by step   theory")
        theory = log[0]["stepwise"]         # odds times ten a round: one guess in ten is right
        for x in log[::max(1, len(log) // 7)]:
            print(f"   {'':10} {x['step']:4}  {x['reward']:6.2f}  {x['accuracy']:8.2f}  "
                  f"{x['length']:6.1f}  {x['stepwise']:12.2f}   {theory:6.2f}")
            if stage == "rl":
                theory = theory / (theory + (1 - theory) / 10)
        for what in ("length", "accuracy"):
            out[f"{stage} {what}"] = log[-1][what] - log[0][what]
    return out


@claim
def ranking(run, seed):
    """Judged by battles, examples and rewards for right answers improve the model they begin with;
    random rewards do not. Refuted if intervals overlap where a model should be better, or do not
    overlap where it should not.
    """
    rated = arena.fight(run, [*models.in_run(run), *models.in_run(run / "claims")], seed)
    print(textwrap.indent(arena.table(rated), "   "))
    by_name = {r.name: r for r in rated}
    for better, worse in (("sft", "base"), ("rl", "sft"), ("rl_random", "sft"),
                          ("claims/passed", "claims/imitation600")):
        if better in by_name and worse in by_name:
            certain = by_name[better].low > by_name[worse].high
            print(f"   {better} is {'' if certain else 'not certainly '}above {worse}")
    return {r.name: r.rating for r in rated}


# --------------------------------------------------------------------------------------------- main


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
    """Run a claim in this process.

    Sends through the pipe, for each seed, (what it printed, what it found, seconds), or the error.
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
        if jobs[i][0] == "ranking":                         # it ranks what the others made
            concurrent.futures.wait(futures[:i])
        here, there = context.Pipe(False)
        process = context.Process(target=alone, args=(there, *jobs[i]), daemon=True)
        process.start()
        there.close()
        try:
            return here.recv()
        except EOFError:
            process.join()
            name, run, _ = jobs[i]
            return ValueError(f"{name} of {run}: its process ended with {process.exitcode}")

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
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: expected some of {', '.join(known)}")
    if args.seeds < 1:
        raise ValueError(f"--seeds {args.seeds}: expected at least one")
    for run in args.run:
        for stage in ("base", "sft", "rl", "rl_random"):
            tuning.load_stage(run, stage, mend=f"make RUN={run}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # so that the processes end as well
    names = [name for name in known if name in (args.claims or known)]
    n_runs, jobs = len(args.run), []
    for name in names:
        for i, run in enumerate(args.run):
            jobs.append((name, run, range(i, args.seeds * n_runs, n_runs)))
    results = spread(jobs)
    for name in names:
        statement = " ".join(known[name].__doc__.split())
        print(f"\n{textwrap.fill(f'{name}: {statement}', 80)}\n", flush=True)
        found = []
        for _ in args.run:
            found += next(results)
            print("".join(said for said, *_ in found[-args.seeds:]), end="", flush=True)
        if len(found) > 1:
            print(f"   mean and spread of {len(found)}:")
            for what in found[0][1]:
                values = [numbers[what] for _, numbers, _ in found]
                print(f"   {np.mean(values):9.3f} +- {np.std(values, ddof=1):.3f}  {what}")
        print(f"   {sum(seconds for *_, seconds in found):.0f} s on one core", flush=True)
    print(f"\n{time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    command.run(main)
