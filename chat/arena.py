"""arena.py: which model is better, and how sure can we be?

Scores of models are counts of a few hundred answers, so each comes with an interval (wilson).

Models against each other, as in Chatbot Arena: each question is a battle that is won, lost or
drawn, and each model has one rating R that explains its battles,

    P(a beats b) = 1 / (1 + 10^((R_b - R_a) / 400))

The ratings are the likeliest ones (Bradley and Terry), so the order of the battles does not matter.
Their mean is 1000 in every fight: another opponent moves them all, and ratings of different fights
cannot be compared.

Sources: Wilson 1927; Chen et al. 2021 (pass@k); Wang et al. 2022 (self-consistency); Bradley and
Terry 1952; Hunter 2004 (the iteration); Chiang et al. 2024 (Chatbot Arena: intervals and ranks).
"""

import sys
from collections import Counter
from functools import partial
from typing import NamedTuple

from model import fast                  # before numpy
import numpy as np

from chat import formats, generate, grading, judges, lessons, models, places, tuning
from model.evaluate import ending_rows
from model.folders import is_finished
from run import progress

# -------------------------------------------------------------------------------- one model


def wilson(right, n, z=1.96):
    """(low, high) between which the true share lies, 19 times of 20; (0, 1) if nothing was seen."""
    if n == 0:
        return 0.0, 1.0
    p = right / n
    scale = 1 + z * z / n
    middle = (p + z * z / (2 * n)) / scale
    half = z / scale * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def pass_at_k(n, right, k):
    """The chance that one at least of k tries is right, drawn from n tries of which some are.

    It is 1 - C(n - right, k) / C(n, k).
    """
    if n - right < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - right + 1, n + 1)))


def majority(answers):
    """The place of the first try with the most frequent answer. None is a try without an answer."""
    votes = Counter(answer for answer in answers if answer is not None)
    return answers.index(votes.most_common(1)[0][0]) if votes else 0


def best_of(scores, right, n):
    """How often the best of n tries, by a judge's score, is right.

    scores, right: (tries,) each. It is the mean over all ways to draw n of the tries.
    """
    by_score = np.argsort(-np.asarray(scores, float), kind="stable")
    right = np.asarray(right, float)[by_score]
    tries = len(right)
    total = 0.0
    # The i-th best wins if it is drawn and no better one is: C(tries-1-i, n-1) / C(tries, n)
    chance = n / tries
    for i in range(tries - n + 1):
        total += chance * right[i]
        if i + 1 < tries:
            chance *= (tries - i - n) / (tries - 1 - i)
    return float(total)


def choose(params, cfg, prompt, options, engine=fast):
    """-log p of each option behind a prompt, the mean over its tokens: (options,)

    prompt: ids; options: lists of ids that could follow it.
    """
    tokens, targets = ending_rows(prompt, options)
    nll = engine.token_losses(params, cfg, tokens, targets).sum(1)
    return nll / [max(len(option), 1) for option in options]


# ------------------------------------------------------------------------------- against each other


def battles(scores):
    """How good each model's answers are (models, questions) -> wins (questions, models, models)

    wins[q, i, j] is 1 if i beats j at question q, and 0.5 if it is a draw.
    """
    a, b = scores.T[:, :, None], scores.T[:, None, :]
    return ((a > b) + 0.5 * (a == b)) * (1 - np.eye(len(scores)))


def bradley_terry(wins, draws=0.5, steps=10_000, tolerance=1e-10):
    """The likeliest ratings (n,) of wins (n,n); their mean is 1000.

    draws: so many of each pair are added, so that a model that lost all its battles has a rating.
    """
    wins = wins + draws / 2 * (1 - np.eye(len(wins)))
    games, won = wins + wins.T, wins.sum(1)
    strength = np.ones(len(wins))           # 10^(R / 400), but for a factor
    for _ in range(steps):                  # each step raises the likelihood (Hunter 2004)
        new = won / (games / (strength[:, None] + strength)).sum(1)
        new /= np.exp(np.log(new).mean())
        change = np.abs(np.log(new / strength)).max()
        strength = new
        if change < tolerance:
            break
    return 1000 + 400 * np.log10(strength)


class Rated(NamedTuple):
    """A model's place in a fight."""

    name: str
    rating: float
    low: float              # 95 % of the ratings of battles drawn again lie
    high: float             # between low and high
    rank: int               # 1 + how many are surely better: those whose low is above this high
    battles: int
    score: float            # share of its battles that it won


def ratings(names, wins, seed=0, rounds=200):
    """[Rated] of models, the best first. wins: as battles returns them.

    Battles of one question share an answer, so they tell less than as many of different ones. To
    find the intervals, whole questions are drawn again.
    """
    rng = np.random.default_rng(seed)
    again = []
    for _ in range(rounds):
        drawn = rng.integers(0, len(wins), len(wins))
        again.append(bradley_terry(wins[drawn].sum(0)))
    low, high = np.percentile(again, [2.5, 97.5], axis=0)
    wins = wins.sum(0)
    fitted, fought = bradley_terry(wins), (wins + wins.T).sum(1)
    found = []
    for i, name in enumerate(names):
        rank = 1 + int((low > high[i]).sum())
        share = wins[i].sum() / fought[i]
        found.append(Rated(name, fitted[i], low[i], high[i], rank, int(fought[i]), share))
    return sorted(found, key=lambda rated: -rated.rating)


def table(rated):
    """The ratings of a fight as text."""
    lines = [f"{'rank':>4}  {'model':24}{'rating':>8}{'95 %':>16}{'battles':>10}{'won':>8}"]
    for r in rated:
        interval = f"{r.low:,.0f} to {r.high:,.0f}"
        lines.append(f"{r.rank:4}  {r.name:24}{r.rating:8,.0f}{interval:>16}"
                     f"{r.battles:10,}{r.score:8.1%}")
    return "\n".join(lines)


def opened(folder, chat_format=None):
    """formats.open_model, for a model that is to answer questions.

    chat_format: how a model is asked that has no format of its own. ValueError if it has none.
    """
    model = _, _, tokenizer = formats.open_model(folder)
    if tokenizer.chats.is_known:
        return model
    if not chat_format:
        raise ValueError(f"{folder}: has no chat template, so nothing says how it is asked; give "
                         f"one: --chat-format {', '.join(formats.WRITTEN_OUT)} or a folder with a "
                         "template")
    tokenizer.chats = formats.load(folder, tokenizer, chat_format)
    return model


def fighters(run, folders, chat_format=None):
    """{folder: its model} of a fight, by default of all models of the run."""
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such run folder; make the demo's with: make")
    folders = folders or models.in_run(run)
    for folder, times in Counter(folder.resolve() for folder in folders).items():
        if times > 1:
            raise ValueError(f"{folder}: named twice; nobody battles against himself")
    for folder in folders:
        if not is_finished(folder):
            raise FileNotFoundError(f"{folder}: no finished model; name a folder that holds one, "
                                    f"or a stage of {run}")
        tuning.refuse_judge(folder)
    if len(folders) < 2:
        found = ", ".join(map(str, folders)) or "none"
        raise ValueError(f"{run}: an arena needs two models at least, found {len(folders)} "
                         f"({found}); make the demo's with: make")
    return {folder: opened(folder, chat_format) for folder in folders}


def fight(run, folders=(), seed=0, n=300, chat_format=None, place=places.CORES):
    """[Rated] of models, by default all of the run, on n questions held out from all training.

    Each answers the same questions once at temperature 1. A right answer beats a wrong one, and a
    wrong one beats one that never ends. place: where they answer.
    """
    loaded = fighters(run, folders, chat_format)
    tasks = []
    for name in ("facts", "calculator", "wheel", "identity"):
        tasks += lessons.tasks(run / "tasks" / f"{name}_test.jsonl", loaded.values())
    tasks = [tasks[i] for i in np.random.default_rng(seed).permutation(len(tasks))[:n]]
    answers = {}
    for folder, model in loaded.items():
        name = str(folder.relative_to(run) if folder.is_relative_to(run) else folder)
        print(f"{name} answers {len(tasks)} questions", file=sys.stderr)
        _, verdicts = ask(*place.model(model), tasks, 1.0, seed, engine=place.engine)
        answers[name] = [verdict.correct + 0.5 * verdict.ended for verdict in verdicts]
    names = sorted(answers)
    return ratings(names, battles(np.array([answers[name] for name in names])), seed)


# ------------------------------------------------------------------------------------------ answers

STEPWISE = "Step by step"           # how replies begin that think before they answer


class Verdict(NamedTuple):
    """What is to be said of a reply to a task."""

    correct: bool
    ended: bool             # by itself; else it was cut off, and is not correct
    n_tokens: int           # that the model chose
    stepwise: bool


def judge(task, reply, tokenizer):
    """The Verdict on a reply."""
    text = formats.of(tokenizer).answer(reply.prompt, reply.ids)
    ended = reply.finish == "stop"
    correct = ended and grading.is_correct(task, text)
    return Verdict(correct, ended, sum(reply.sampled), text.startswith(STEPWISE))


def ask(
    params, cfg, tokenizer, tasks, temperature, seed, max_tokens=64, batch=256, engine=fast
):
    """(replies, verdicts) of a model that is asked some tasks. engine: what computes with params"""
    prompts = [lessons.prompt_of(task, tokenizer) for task in tasks]
    stop = formats.of(tokenizer).ends
    replies, work = [], progress.Work("answers", len(prompts))
    for i in range(0, len(prompts), batch):
        replies += generate.generate_on_ranks(
            params, cfg, tokenizer, prompts[i:i + batch], stop=stop, max_new_tokens=max_tokens,
            temperature=temperature, seed=seed + i, engine=engine,
            watch=partial(work.at, before=i),
        )
    work.end()
    return replies, [judge(task, reply, tokenizer) for task, reply in zip(tasks, replies)]


def means(verdicts):
    """A Verdict of shares and of the mean number of tokens."""
    return Verdict(*np.mean(verdicts, axis=0).tolist())


def greedy(params, cfg, tokenizer, tasks, max_tokens=64, engine=fast):
    """The share of a model's greedy replies that are right."""
    _, verdicts = ask(params, cfg, tokenizer, tasks, 0.0, 0, max_tokens, engine=engine)
    return means(verdicts).correct


def measure(params, cfg, tokenizer, tasks, max_tokens=64, engine=fast):
    """{what: number} of a model's greedy replies, and of replies at temperature 1."""
    print(f"asking {len(tasks)} questions to measure on", file=sys.stderr)
    model = params, cfg, tokenizer
    coldest = means(ask(*model, tasks, 0.0, 0, max_tokens, engine=engine)[1])
    free = means(ask(*model, tasks, 1.0, 1, max_tokens, engine=engine)[1])
    return {
        "greedy": coldest.correct,
        "at_temperature_1": free.correct,
        "length": coldest.n_tokens,
        "length_at_1": free.n_tokens,
        "stepwise": free.stepwise,
        "problems": len(tasks),
    }


# --------------------------------------------------------------------------------------- evaluation


def kind_of(name, task):
    """The row of the evaluation that a task counts in.

    Facts are told apart by how many pages tell them, and by whether training chats ask about them.
    """
    pages = task.get("exposure")
    if pages is None:
        return name
    told = f"{pages} pages"
    if pages >= 10:
        told = "10+ pages"
    elif pages == 1:
        told = "1 page"
    return f"facts on {told}, {'' if task.get('asked') else 'never '}asked"


def evaluate(params, cfg, tokenizer, run, engine=fast):
    """{kind of question: (right, asked, ended)} of greedy answers to a run's held-out questions."""
    found = {}
    for name in ("facts", "identity", "calculator", "wheel"):
        path = run / "tasks" / f"{name}_test.jsonl"
        tasks = lessons.tasks(path, [(params, cfg, tokenizer)])
        _, verdicts = ask(params, cfg, tokenizer, tasks, 0.0, 0, engine=engine)
        rows = sorted(zip(tasks, verdicts), key=lambda row: row[0].get("exposure", 0))
        for task, verdict in rows:
            kind = kind_of(name, task)
            right, asked, ended = found.get(kind, (0, 0, 0))
            found[kind] = (right + verdict.correct, asked + 1, ended + verdict.ended)
    return found


def examine(params, cfg, tokenizer, run, engine=fast):
    """(share of facts on ten pages or more that are right, share of replies that end)"""
    found = evaluate(params, cfg, tokenizer, run, engine)
    facts = [row for kind, row in found.items() if kind.startswith("facts on 10+ pages")]
    right, asked, _ = np.sum(facts or [(0, 0, 0)], 0)
    _, replies, ended = np.sum(list(found.values()), 0)
    return right / max(1, asked), ended / max(1, replies)


def percent(right, n):
    """A share in percent, and the range in which the true one lies."""
    low, high = wilson(right, n)
    share = "100" if right == n else f"{100 * right / n:.1f}"
    return f"{share} ({100 * low:.0f}-{100 * high:.0f})"


def print_evaluation(run, stages, chat_format=None, place=places.CORES):
    """Print the percentages of right answers of some models of a run, side by side."""
    results = []
    for stage in stages:
        print(f"{stage} answers the held-out questions", file=sys.stderr)
        model = place.model(opened(run / stage, chat_format))
        results.append(evaluate(*model, run, place.engine))

    def print_row(what, cells):
        print(f"{what:38}" + "".join(f"{cell:>14}" for cell in cells))

    print_row("held-out questions, greedy: % right", stages)
    for kind, (_, n, _) in results[0].items():
        print_row(f"{kind:32}{n:6,}", [percent(*found[kind][:2]) for found in results])
    totals = [np.sum(list(found.values()), 0) for found in results]
    print_row(f"{'replies that end by themselves':32}{totals[0][1]:6,}",
              [percent(ended, n) for _, n, ended in totals])
    print("Facts: by how many pages tell them, and whether any chat asked about them.\n"
          "In brackets: where the true share lies, 19 times of 20.")


def print_run(run, samples=None, seed=0, chat_format=None, place=places.CORES):
    """Print what the models of a run know, and with samples what so many tries a problem bring.

    chat_format: as for opened. place: where the models answer.
    """
    stages = [stage for stage in ("base", "sft", "rl") if is_finished(run / stage)]
    if not stages:
        tuning.load_stage(run, "base")       # which says what is missing
    print_evaluation(run, stages, chat_format, place)
    if samples:
        has_judge = is_finished(run / "reward")
        judge = judges.load(run / "reward", place) if has_judge else None
        print_tries(run, stages, samples, judge, seed, chat_format, place)


# ------------------------------------------------------------------------- many tries a question


def tries(
    params, cfg, tokenizer, tasks, n, judge=None, seed=0, max_tokens=64, engine=fast
):
    """{what: share right} of n replies to each task at temperature 1.

    pass@k: of one at least of k; majority: of the answer that most replies give; best of n: of the
    reply that a reward model likes best.
    """
    many = [task for task in tasks for _ in range(n)]
    replies, verdicts = ask(params, cfg, tokenizer, many, 1.0, seed, max_tokens, engine=engine)
    right = np.array([verdict.correct for verdict in verdicts]).reshape(-1, n)
    ks = [1]
    while ks[-1] * 4 < n:
        ks.append(ks[-1] * 4)
    found = {}
    for k in sorted({*ks, n}):
        found[f"pass@{k}"] = float(np.mean([pass_at_k(n, int(row.sum()), k) for row in right]))

    votes = []
    for task, reply, verdict in zip(many, replies, verdicts):
        text = formats.of(tokenizer).answer(reply.prompt, reply.ids)
        votes.append(grading.vote(task, text) if verdict.ended else None)
    winners = [majority(votes[i:i + n]) for i in range(0, len(votes), n)]
    found[f"majority of {n}"] = float(right[range(len(tasks)), winners].mean())

    if judge:
        rewards = judges.score(judge, [[*reply.prompt, *reply.ids] for reply in replies])
        best = [best_of(scores, row, n) for scores, row in zip(rewards.reshape(-1, n), right)]
        found[f"best of {n} by reward/"] = float(np.mean(best))
    return found


def likeliest(params, cfg, tokenizer, tasks, as_document=False, engine=fast):
    """The share of tasks with options of which the model finds the right option the likeliest.

    The options stand behind the words of the task's "reply". as_document: as on a page, else as in
    a chat. Tasks that do not fit the context are left out, and how many is printed; nan if none
    fits.
    """
    right = []
    for task in tasks:
        begin = task["reply"][:task["reply"].index(task["answer"])].rstrip()
        if as_document:
            text = f"{task['question']} {begin}"
            prompt = [tokenizer.eot_token, *tokenizer.encode_ordinary(text)]
        else:
            prompt = lessons.prompt_of(task, tokenizer) + tokenizer.encode_ordinary(begin)
        options = [tokenizer.encode_ordinary(f" {option}") for option in task["options"]]
        longest = max(map(len, options))
        if len(prompt) + longest - 1 <= cfg.n_positions:    # the last token is only predicted
            best = choose(params, cfg, prompt, options, engine).argmin()
            right.append(task["options"][best] == task["answer"])
    if len(right) < len(tasks):
        print(f"{len(tasks) - len(right):,} of {len(tasks):,} questions with options do not fit "
              f"the context of {cfg.n_positions} tokens and are left out", file=sys.stderr)
    return float(np.mean(right)) if right else float("nan")


def print_tries(
    run, stages, n, judge=None, seed=0, chat_format=None, place=places.CORES
):
    """Print what n tries at each problem of the wheel come to, and what each model finds likely."""
    loaded = {stage: opened(run / stage, chat_format) for stage in stages}
    games = lessons.tasks(run / "tasks" / "wheel_test.jsonl", loaded.values())
    facts = lessons.tasks(run / "tasks" / "facts_test.jsonl", loaded.values())
    facts = [task for task in facts if task.get("exposure", 0) >= 10 and "options" in task]
    results = []
    for stage, model in loaded.items():
        print(f"{stage} tries {len(games)} problems {n} times each; with 16 tries of the demo's "
              "300 this takes half a minute", file=sys.stderr)
        model = place.model(model)
        found = tries(*model, games, n, judge, seed, engine=place.engine)
        if facts:
            of_ten = likeliest(*model, facts, stage == "base", place.engine)
            found["well-known facts, the likeliest of ten"] = of_ten
        results.append(found)
    print()
    print(f"{f'{len(games)} problems, {n} tries each at temperature 1':44}"
          + "".join(f"{stage:>11}" for stage in stages))
    for what in results[0]:
        print(f"{what:44}" + "".join(f"{found[what]:11.1%}" for found in results))
    if judge:
        print("Best of n: the reward model learned from comparisons of other answers. Where it\n"
              "knows little of these problems, the reply that it likes best is right less\n"
              "often than the one that most agree on.")
