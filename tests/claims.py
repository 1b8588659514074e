"""claims.py: what the talk says about language models, as experiments on the embedded world.

Each is a function of a finished run (out/demo, what `make` leaves). Its docstring states the claim and what would refute it; it prints
a table or a curve and returns the numbers. All the names, facts and games of this world are invented, so what a model knows
of them it learned here, and truth is known.

    python tests/claims.py                  all of them
    python tests/claims.py dreams tools     some of them
    python tests/claims.py --seeds 3        each with three seeds, where chance has a part in it: mean and spread
"""

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import align                    # noqa: E402  before numpy
import arena                    # noqa: E402
import chats                    # noqa: E402
import evaluate                 # noqa: E402
import gpt                      # noqa: E402
import numpy as np              # noqa: E402
import probe                    # noqa: E402
import sample                   # noqa: E402
import toyweb                   # noqa: E402
import train                    # noqa: E402

CLAIMS = []


def claim(function):
    CLAIMS.append(function)
    return function


def questions(run, name="facts_test", exposure=10):
    return [t for t in chats.tasks(run / "tasks" / f"{name}.jsonl") if t.get("exposure", exposure) >= exposure]


def continuations(model, texts, n_tokens, temperature, seed=0):
    """What a model writes after each text, as it would go on with a document, up to its end."""
    params, cfg, tokenizer = model
    end = tokenizer.eot_token
    prompts, out = [[end, *tokenizer.encode_ordinary(text)] for text in texts], []
    for i in range(0, len(prompts), 128):
        out += sample.generate(params, cfg, tokenizer, prompts[i:i + 128], stop={end}, max_new_tokens=n_tokens, temperature=temperature, seed=seed, tools=False)
    return [tokenizer.decode([i for i in reply.ids if i != end]) for reply in out]


def interval(right, n):
    low, high = arena.wilson(right, n)
    return f"{right / n:6.1%} ({low:.1%} to {high:.1%} of {n:,})"


@claim
def dreams(run, seed):
    """A base model dreams documents: nothing asked, it writes pages like those it read, and asked, it goes on as the page might that
    holds the question. Refuted if it stops after answering, as the assistant does.
    """
    base, sft = (sample.load_model(run / stage) for stage in ("base", "sft"))
    for text in continuations(base, [""] * 3, 60, 1.0, seed):
        print("   dreamt: " + " ".join(text.split()))
    tasks = questions(run)[::4]
    texts = continuations(base, [t["question"] + "\n" for t in tasks], 60, 1.0, seed)
    replies, verdicts = align.ask(*sft, tasks, 1.0, seed)
    print(f"   asked {tasks[0]['question']!r}, it goes on: {' '.join(texts[0].split())!r}")
    print(f"   the assistant: {sample.reply_text(replies[0].ids, sft[2])!r}")
    stops = sum(len(base[2].encode_ordinary(t)) < 30 for t in texts), sum(v.ended and v.n_tokens < 30 for v in verdicts)
    for name, n in zip(("base", "sft"), stops):
        print(f"   {name:6} ends within 30 tokens of the question: {interval(n, len(tasks))}")
    return {"base ends": stops[0] / len(tasks), "sft ends": stops[1] / len(tasks)}


@claim
def few_shot(run, seed):
    """Large base models can be made to answer by examples in front of the question, without any training; the beginning of it is that
    later tokens of a document are easier than early ones. Refuted if accuracy does not rise with the number of examples, or the loss
    does not fall with what stands before a token.
    """
    base, rng, out = sample.load_model(run / "base"), np.random.default_rng(seed), {}
    world = [e for e in toyweb.entities(0) if e["exposure"] >= 10]
    for k in (0, 1, 2, 4, 8):                               # name: value; what is asked of the name only the examples tell
        prompts, values = [], []
        for e in world:
            for a in list(e["facts"])[:3]:
                others = [x for x in (world[j] for j in rng.permutation(len(world))) if x["kind"] == e["kind"] and x is not e][:k]
                prompts.append("\n".join([*(f"{x['name']}: {x['facts'][a]}." for x in others), f"{e['name']}:"]))
                values.append(e["facts"][a])
        right = sum(value in text for value, text in zip(values, continuations(base, prompts, 8, 0.0)))
        print(f"   {k} examples in front: {interval(right, len(prompts))}")
        out[f"{k} examples"] = right / len(prompts)
    params, cfg, tokenizer = base
    rows = evaluate.validation_rows(train.load_run(run, tokenizer)[1], cfg.n_positions, 128).astype(np.int64)
    nll = gpt.token_losses(params, cfg, rows[:, :-1], rows[:, 1:]).mean(0)
    early, late = nll[cfg.n_positions // 16:cfg.n_positions // 8].mean(), nll[cfg.n_positions * 3 // 4:].mean()
    print(f"   loss of tokens {cfg.n_positions // 16} to {cfg.n_positions // 8} of a window {early:.3f} nats, of its last quarter {late:.3f}")
    return out | {"late minus early": float(late - early)}


@claim
def tools(run, seed):
    """Arithmetic in the head is unreliable, a calculator is not: the same model, the same questions, with its tool and without (it must
    then go on by itself where the result would stand). Refuted if it does as well without.
    """
    model, out, tasks = sample.load_model(run / "sft"), {}, chats.tasks(run / "tasks" / "calculator_test.jsonl")
    params, cfg, tokenizer = model
    stop = {sample.special(tokenizer, "<|im_end|>")}
    prompts = [sample.render_prompt([{"role": "user", "content": t["question"]}], tokenizer) for t in tasks]
    for with_tool in (True, False):
        replies = sample.generate(params, cfg, tokenizer, prompts, stop=stop, max_new_tokens=64, temperature=0.0, tools=with_tool)
        right = [align.judge(t, r, tokenizer).correct for t, r in zip(tasks, replies)]
        by_digits = Counter(), Counter()
        for t, ok in zip(tasks, right):
            n = len(t["answer"].lstrip("-"))
            by_digits[0][n] += ok
            by_digits[1][n] += 1
        name = "with the calculator" if with_tool else "in its head"
        print(f"   {name:20} {interval(sum(right), len(right))}; by digits of the result: " +
              ", ".join(f"{n}: {by_digits[0][n] / by_digits[1][n]:.0%}" for n in sorted(by_digits[1])))
        out[name] = sum(right) / len(right)
    return out


@claim
def hallucination(run, seed):
    """A model trained to answer makes things up about names it never read; asked what it knows, and trained to refuse what it does not,
    it says so, of other names too. Refuted if wrong answers about unknown names stay, if it refuses what it knows, or if refusals
    taught for questions drawn by lot do as well.
    """
    out = {}
    for name, control in (("taught by what it knows", False), ("taught by lot", True)):
        counts, before, after = probe.probe(run, seed=seed, control=control, on_mismatch="restart")
        print(f"   {name}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))
        print("   " + probe.table(before, after).replace("\n", "\n   "))
        known = [sum(after[row][i] for row in after if row.startswith("10 pages")) for i in range(3)]
        out |= {f"{name}, wrong of no page": after["no page"][1] / sum(after["no page"]), f"{name}, refused of well known": known[2] / sum(known)}
    return out | {"wrong of no page before": before["no page"][1] / sum(before["no page"])}


LIKED = ("soup", "pears", "tart", "biscuits", "milk", "eel", "dumplings", "egg", "bread", "lemonade", "toast", "pie", "tea", "honey")


def gold(text):
    """What a reader of stories in truth likes: different things to eat, few words twice, about twenty words."""
    words = [w.strip(".,:;!?\"'").lower() for w in text.split()]
    long = [w for w in words if len(w) > 3]
    return 1.5 * len(set(words) & set(LIKED)) - 0.7 * (len(long) - len(set(long))) - abs(len(words) - 20) / 10


@claim
def gamed(run, seed):
    """A reward model is a stand-in for what people like, and can be gamed: pressed hard enough, replies that it likes ever better get
    worse in truth, and staying near where one began prevents it. Refuted if truth goes on rising with the reward without a leash.
    """
    rng, out, folder = toyweb.stream(seed, "gamed"), {}, run / "gamed"
    folk = toyweb.SLOTS["folk"]
    ask = lambda: f"Tell me of {rng.choice(folk)}."  # noqa: E731
    toyweb.write_jsonl(folder / "stories.jsonl", [toyweb.chat(ask(), " ".join(toyweb.sentences(rng, 2))) for _ in range(1500)])
    toyweb.write_jsonl(folder / "tasks.jsonl", [{"question": ask(), "answer": "-"} for _ in range(300)])
    align.sft(run, replace(align.SFT, steps=120, lr=6e-4, warmup=10), seed, "restart", [folder / "stories.jsonl"], "sft", "gamed_sft")
    model, tasks = align.load_stage(run, "gamed_sft", "make"), [{"question": ask(), "answer": "-"} for _ in range(500) for _ in range(4)]
    texts = [sample.reply_text(r.ids, model[2]) for r in align.ask(*model, [tasks[i - i % 4] for i in range(len(tasks))], 1.0, seed)[0]]
    noise = np.random.default_rng(seed).gumbel(size=len(texts))     # so a labeller prefers a to b with sigma(gold a - gold b)
    rows = [{"instruction": tasks[i]["question"], "completions": [{"response": texts[j] or "-", "overall_score": gold(texts[j]) + noise[j]} for j in range(i, i + 4)]}
            for i in range(0, len(texts), 4)]
    toyweb.write_jsonl(folder / "train.jsonl", rows[:400])
    toyweb.write_jsonl(folder / "test.jsonl", rows[400:])
    difference = [abs(gold(texts[i + a]) - gold(texts[i + b])) for i in range(1600, 2000, 4) for a in range(4) for b in range(a)]
    bayes = float(np.mean(1 / (1 + np.exp(-np.array(difference)))))
    _, right, n = align.reward(run, align.REWARD, seed, "restart", [folder / "train.jsonl"], folder / "test.jsonl", "gamed_reward", "gamed_sft")
    print(f"   reward model: held-out pairs in order {interval(round(right * n), n)}; who knew the truth would have {bayes:.1%}")
    judge, history = align.load_reward(run / "gamed_reward"), []

    def proxy(tasks, texts):
        history.append(float(np.mean([gold(text) for text in texts])))
        prompts = [[{"role": "user", "content": t["question"]}, {"role": "assistant", "content": text or "-"}] for t, text in zip(tasks, texts)]
        return align.score(judge, [sample.render(m, judge[2])[0][-judge[1].n_positions:] for m in prompts])

    for name, kl, stage in (("no leash", 1e-9, "gamed_free"), ("KL 0.1", 0.1, "gamed_kl")):
        history.clear()
        recipe = replace(align.RL, steps=120, lr=3e-4, min_lr=3e-4, warmup=5, batch=1, kl=kl, save_every=40)
        align.rl(run, recipe, proxy, seed, "restart", folder / "tasks.jsonl", folder / "tasks.jsonl", stage, "gamed_sft")
        log = [json.loads(line) for line in (run / stage / "log.jsonl").read_text().splitlines()]
        print(f"   {name:9} step  sqrt(KL)   reward model   truth")
        for i in [*range(0, len(log), 12), len(log) - 1]:
            print(f"   {'':9} {i + 1:4}  {max(0.0, log[i]['kl_nats']) ** 0.5:8.2f}  {log[i]['reward']:12.2f}  {history[i]:6.2f}")
        out |= {f"{name}: best truth": max(history), f"{name}: last truth": history[-1], f"{name}: reward gained": log[-1]["reward"] - log[0]["reward"]}
    return out | {"right of pairs / what truth would have": right / bayes}


@claim
def longer_replies(run, seed):
    """Reinforcement from right answers alone makes replies longer, because it is long ones that are right; nobody asked for length.
    Refuted if length does not grow with accuracy, or grows under rewards by lot as well.
    """
    out = {}
    for stage in ("rl", "rl_random"):
        path = run / stage / "log.jsonl"
        log = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
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
    """Judged by battles, each stage beats the one it was made from. Refuted if intervals overlap or the order is another."""
    rated = align.fight(run, seed=seed)
    print("   " + arena.table(rated).replace("\n", "\n   "))
    return {r.name: r.rating for r in rated}


def parse_args(argv=None):
    p = argparse.ArgumentParser(description="Put the talk's claims to the test.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("claims", nargs="*", help=f"some of {', '.join(f.__name__ for f in CLAIMS)} (default: all)")
    p.add_argument("--run", type=Path, default=ROOT / "out" / "demo", help="a finished run folder")
    p.add_argument("--seeds", type=int, default=1, help="how often, with other seeds")
    return p.parse_args(argv)


def main(argv=None):
    args, begun = parse_args(argv), time.perf_counter()
    known = {f.__name__: f for f in CLAIMS}
    unknown = [name for name in args.claims if name not in known]
    if unknown or args.seeds < 1:
        raise ValueError(f"{', '.join(unknown) or args.seeds}: expected some of {', '.join(known)}, and at least one seed")
    for stage in ("base", "sft", "rl"):
        align.load_stage(args.run, stage, "make")
    for name in args.claims or known:
        started, found = time.perf_counter(), []
        print(f"\n{name}: {' '.join(known[name].__doc__.split())}\n", flush=True)
        for seed in range(args.seeds):
            found.append(known[name](args.run, seed))
        if args.seeds > 1:
            print(f"   mean and spread of {args.seeds} seeds: " + ", ".join(
                f"{k} {np.mean([x[k] for x in found]):.3g} +- {np.std([x[k] for x in found], ddof=1):.2g}" for k in found[0]))
        print(f"   {time.perf_counter() - started:.0f} s", flush=True)
    print(f"\n{time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, MemoryError) as e:
        sys.exit(f"claims.py: error: {e}")
