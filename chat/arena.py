"""arena.py: which model is better, and how sure we may be.

Numbers about models are counts of a few hundred answers, so each comes with an interval. One model at a time:

    wilson          k right of n -> the range in which the true share lies, 19 times of 20
    pass_at_k       would one of k tries be right? from c right of n tries, without bias
    majority        the answer most tries agree on
    best_of         the try a judge likes best
    choose          the option a model finds likeliest, for questions with options

And against each other, as in Chatbot Arena: battles, of which each is won, lost or drawn, are explained by one rating a model,

    P(a beats b) = 1 / (1 + 10^((R_b - R_a) / 400))

the likeliest ratings (Bradley and Terry), which no order of the battles can change; intervals from battles drawn again.

align.py eval asks the models of a run its held-out questions; align.py arena lets them battle over the answers.

Sources: Wilson 1927; Chen et al. 2021 (pass@k); Wang et al. 2022 (self-consistency); Bradley and Terry 1952; Hunter 2004 (the
iteration); Chiang et al. 2024 (Chatbot Arena: intervals and ranks).
"""

import itertools
import sys
from collections import Counter, namedtuple
from pathlib import Path

from model import fast  # before numpy
from chat import chats, generate
from chat.models import in_run, is_judge
import numpy as np
import sample

# ------------------------------------------------------------------------------------------------ one model


def wilson(right, n, z=1.96):
    """(low, high) of a share of which right of n were seen; (0, 1) of nothing seen."""
    if not n:
        return 0.0, 1.0
    p, d = right / n, 1 + z * z / n
    middle, half = (p + z * z / (2 * n)) / d, z / d * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def pass_at_k(n, right, k):
    """The chance that of k tries, drawn from n of which some were right, one at least is right: 1 - C(n-c, k) / C(n, k)."""
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} tries: k must be from 1 to the number of tries")
    if n - right < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - right + 1, n + 1)))


def majority(answers):
    """The most frequent of some tries' answers, the first of equals; None, for a try without one, does not vote."""
    votes = Counter(a for a in answers if a is not None)
    return votes.most_common(1)[0][0] if votes else None


def best_of(scores, right, n):
    """How often the best of n tries by a judge's score is right, averaged over all ways to draw n of the tries. (tries,) each."""
    right = np.asarray(right, float)[np.argsort(-np.asarray(scores, float), kind="stable")]
    tries = len(right)
    # The i-th best wins where it is drawn and no better one is: C(tries-1-i, n-1) / C(tries, n)
    chance, out = n / tries, 0.0
    for i in range(tries - n + 1):
        out += chance * right[i]
        chance *= (tries - i - n) / (tries - 1 - i) if tries - 1 - i else 0.0
    return float(out)


def choose(params, cfg, tokenizer, prompt, options, per_token=True):
    """The number of the option that the model finds likeliest behind the prompt, a list of ids; and -log probability of each, the mean
    over its tokens unless per_token is False."""
    rows = [prompt + tokenizer.encode_ordinary(option) for option in options]
    n, T = np.array([len(ids) - len(prompt) for ids in rows]), max(map(len, rows)) - 1
    tokens, targets = np.zeros((len(rows), T), np.int64), np.full((len(rows), T), -1)
    for r, ids in enumerate(rows):
        tokens[r, :len(ids) - 1] = ids[:-1]
        targets[r, len(prompt) - 1:len(ids) - 1] = ids[len(prompt):]
    nll = fast.token_losses(params, cfg, tokens, targets).sum(1)
    nll = nll / np.maximum(n, 1) if per_token else nll
    return int(nll.argmin()), nll.tolist()


# ------------------------------------------------------------------------------------------------- against each other

Battle = namedtuple("Battle", "a b score")              # two names; 1: a won, 0: b won, 0.5: a draw


def tally(battles, names):
    """-> (n,n) wins, w[i,j]: how often i beat j, a draw half a win for each."""
    at, wins = {name: i for i, name in enumerate(names)}, np.zeros((len(names), len(names)))
    for a, b, score in battles:
        wins[at[a], at[b]] += score
        wins[at[b], at[a]] += 1 - score
    return wins


def bradley_terry(wins, draws=0.5, steps=10_000, tolerance=1e-10):
    """(n,n) wins -> (n,) ratings, their mean 1000. draws: of everybody with everybody, so that whoever lost all has a rating too."""
    wins = wins + draws / 2 * (1 - np.eye(len(wins)))
    games, won, strength = wins + wins.T, wins.sum(1), np.ones(len(wins))
    for _ in range(steps):                                  # Hunter's: raises the likelihood every time
        new = won / (games / (strength[:, None] + strength)).sum(1)
        new /= np.exp(np.log(new).mean())
        done, strength = np.abs(np.log(new / strength)).max() < tolerance, new
        if done:
            break
    return 1000 + 400 * np.log10(strength)


Rated = namedtuple("Rated", "name rating low high rank battles score")


def ratings(battles, seed=0, rounds=200, about=None):
    """[Rated], the best first: 95 % of what battles drawn again give lies between low and high; the rank counts who is surely
    better, 1 + those whose low is above one's high. about: which question each battle is about; then whole questions are drawn, for
    the battles of a model about one are over the same answer, and a hundred of them tell no more of it than one."""
    names = sorted({name for a, b, _ in battles for name in (a, b)})
    if len(names) < 2:
        raise ValueError(f"an arena needs battles between two models at least, found {', '.join(names) or 'none'}")
    rng, fitted = np.random.default_rng(seed), bradley_terry(tally(battles, names))
    groups = {}
    for battle, group in zip(battles, range(len(battles)) if about is None else about):
        groups.setdefault(group, []).append(battle)
    tallies = [tally(group, names) for group in groups.values()]
    again = np.array([bradley_terry(sum(tallies[i] for i in rng.integers(0, len(tallies), len(tallies)))) for _ in range(rounds)])
    low, high = np.percentile(again, [2.5, 97.5], axis=0)
    wins = tally(battles, names)
    out = [Rated(name, fitted[i], low[i], high[i], 1 + int((low > high[i]).sum()), int((wins + wins.T)[i].sum()), wins[i].sum() / (wins + wins.T)[i].sum())
           for i, name in enumerate(names)]
    return sorted(out, key=lambda r: -r.rating)


def elo(battles, k=4, start=1000):
    """Ratings moved after every battle, as chess does it: what Bradley and Terry's are better than, for they hang on the order."""
    r = {}
    for a, b, score in battles:
        expected = 1 / (1 + 10 ** ((r.get(b, start) - r.get(a, start)) / 400))
        r[a], r[b] = r.get(a, start) + k * (score - expected), r.get(b, start) - k * (score - expected)
    return r


def table(rated):
    lines = [f"{'rank':>4}  {'model':24}{'rating':>8}{'95 %':>16}{'battles':>10}{'won':>8}"]
    for r in rated:
        interval = f"{r.low:,.0f} to {r.high:,.0f}"
        lines.append(f"{r.rank:4}  {r.name:24}{r.rating:8,.0f}{interval:>16}{r.battles:10,}{r.score:8.1%}")
    return "\n".join(lines)


def battles(answers):
    """{model: [how good its answer to each question was]} -> the battles of all pairs over all questions."""
    out = []
    for a, b in itertools.combinations(answers, 2):
        out += [Battle(a, b, 0.5 if x == y else float(x > y)) for x, y in zip(answers[a], answers[b])]
    return out


# --------------------------------------------------------------------------------------------------- answers

Verdict = namedtuple("Verdict", "correct ended n_tokens stepwise")


def last_word(text):
    """The last word of a text, a Fraction where it is a number; None where there is none."""
    words = text.split()
    if not words:
        return None
    word = words[-1].strip("*_()%`\"'\u201c\u201d").removesuffix("$")      # $25$ is TeX
    return chats.comparable(word) if chats.is_number(word) else words[-1]


def is_correct(task, text):
    """The reply ends with the answer; for questions about the assistant it is enough to mention it.

    Numbers are compared as numbers: 1,776 is 1776. Of GSM8K's kind it is the number behind ####.
    """
    said, answer = (str(what).strip().rstrip(".!").lower() for what in (text, task["answer"]))
    if task.get("kind") == "identity":
        return answer in said
    if task.get("kind") == "gsm8k":
        return chats.comparable(chats.final_answer(text)) == chats.comparable(answer)
    if chats.is_number(answer) and last_word(said) == chats.comparable(answer):
        return True
    return said == answer or said.endswith((" " + answer, "\n" + answer))


def judge(task, reply, tokenizer):
    text = sample.reply_text(reply.ids, tokenizer)
    return Verdict(is_correct(task, text) and reply.finish == "stop", reply.finish == "stop", sum(reply.sampled),
                   text.startswith("Step by step"))


def prompts(tokenizer, tasks):
    return [sample.render_prompt([{"role": "user", "content": t["question"]}], tokenizer) for t in tasks]


def fitting(path, tokenizer, n_positions):
    """The tasks of a file whose questions leave room for a reply; prints how many do not."""
    return fitting_all(path, [(tokenizer, n_positions)])


def fitting_all(path, readers):
    """As fitting, for readers [(tokenizer, n_positions)]: the tasks that fit all of them."""
    tasks = chats.tasks(path)
    room = np.full(len(tasks), True)
    for tokenizer, n_positions in readers:
        room &= [len(prompt) < n_positions for prompt in prompts(tokenizer, tasks)]
    fit = [t for t, fits in zip(tasks, room) if fits]
    least = min(n_positions for _, n_positions in readers)
    if len(fit) < len(tasks):
        print(f"{path}: {len(tasks) - len(fit):,} of {len(tasks):,} questions fill the context of "
              f"{least} tokens and are left out", file=sys.stderr)
    if not fit:
        raise ValueError(f"{path}: no question that fits the model's context of {least} tokens")
    return fit


def ask(params, cfg, tokenizer, tasks, temperature, seed, max_tokens=64, batch=256):
    """(replies, verdicts) for a list of tasks."""
    rows, replies = prompts(tokenizer, tasks), []
    stop = {sample.special(tokenizer, "<|im_end|>")}
    for i in range(0, len(rows), batch):
        replies += generate.generate(params, cfg, tokenizer, rows[i:i + batch], stop=stop,
                                     max_new_tokens=max_tokens, temperature=temperature, seed=seed + i)
    return replies, [judge(t, r, tokenizer) for t, r in zip(tasks, replies)]


def measure(params, cfg, tokenizer, tasks, max_tokens=64):
    """Greedy accuracy and length, and accuracy and share of step-by-step replies at temperature 1."""
    _, greedy = ask(params, cfg, tokenizer, tasks, 0.0, 0, max_tokens)
    _, free = ask(params, cfg, tokenizer, tasks, 1.0, 1, max_tokens)
    mean = lambda vs, f: float(np.mean([getattr(v, f) for v in vs]))  # noqa: E731
    return {"greedy": mean(greedy, "correct"), "at_temperature_1": mean(free, "correct"), "length": mean(greedy, "n_tokens"),
            "length_at_1": mean(free, "n_tokens"), "stepwise": mean(free, "stepwise"), "problems": len(tasks)}


def evaluate(params, cfg, tokenizer, run):
    """{name: (right, asked, ended)} on the held-out questions of a run, answered greedily."""
    out = {}
    for name in ("facts_test", "identity_test", "calculator_test", "wheel_test"):
        tasks = fitting(Path(run) / "tasks" / f"{name}.jsonl", tokenizer, cfg.n_positions)
        _, verdicts = ask(params, cfg, tokenizer, tasks, 0.0, 0)
        groups = {}
        for task, v in sorted(zip(tasks, verdicts), key=lambda pair: pair[0].get("exposure", 0)):
            key, exposure = name.removesuffix("_test"), task.get("exposure")
            if exposure is not None:
                pages = "10 pages or more" if exposure >= 10 else f"{exposure} page{'s' if exposure > 1 else ''}"
                key = f"facts on {pages:16}  entity {'in' if task.get('asked') else 'never in'} training chats"
            groups.setdefault(key, []).append(v)
        for key, vs in groups.items():
            out[key] = (sum(v.correct for v in vs), len(vs), sum(v.ended for v in vs))
    return out


def print_evaluation(run, stages):
    """Prints right answers in percent, and between what and what the true share lies, 19 times of 20."""
    def cell(right, n):
        low, high = wilson(right, n)
        return f"{100 * right / n:6.1f} ({100 * low:.0f}-{100 * high:.0f})".rjust(16)

    results = {s: evaluate(*sample.load_model(run / s), run) for s in stages}
    print(f"{'held-out questions, answered greedily: % right':60}" + "".join(f"{s:>16}" for s in stages))
    for k, (_, n, _) in results[stages[0]].items():
        print(f"{k:54}{n:6,}" + "".join(cell(results[s][k][0], n) for s in stages))
    ended = [(sum(r[2] for r in results[s].values()), sum(r[1] for r in results[s].values())) for s in stages]
    print(f"{'replies that end by themselves':54}{ended[0][1]:6,}" + "".join(cell(*e) for e in ended))
    return results


def vote(task, text):
    """What a reply says, for a vote: its number, its last word, or for a fact all of it; None where it says nothing."""
    text = text.strip().rstrip(".!").lower()
    if task.get("kind") == "gsm8k":                         # the number behind ####
        return chats.comparable(chats.final_answer(text))
    if task.get("kind") == "fact":                          # the whole reply
        return text or None
    return last_word(text)


def tries(params, cfg, tokenizer, tasks, n, score_of=None, seed=0, max_tokens=64):
    """{what: share right} of n replies to each task at temperature 1: of any (pass@1), of the best of k (pass@k), of what most say, and of
    the one that score_of, conversations as ids -> scores, likes best."""
    many = [t for t in tasks for _ in range(n)]
    replies, verdicts = ask(params, cfg, tokenizer, many, 1.0, seed, max_tokens)
    right = np.array([v.correct for v in verdicts]).reshape(-1, n)
    out = {f"pass@{k}": float(np.mean([pass_at_k(n, int(r.sum()), k) for r in right])) for k in sorted({1, *(4 ** i for i in range(1, 9) if 4 ** i < n), n})}
    said = [vote(t, sample.reply_text(r.ids, tokenizer)) if v.ended else None for t, r, v in zip(many, replies, verdicts)]
    chosen = [said[i:i + n].index(most) if (most := majority(said[i:i + n])) is not None else 0 for i in range(0, len(many), n)]
    out[f"majority of {n}"] = float(np.mean([r[i] for r, i in zip(right, chosen)]))
    if score_of:
        scores = np.array(score_of([[*r.prompt, *r.ids] for r in replies])).reshape(-1, n)
        out[f"best of {n} by reward/"] = float(np.mean([best_of(s, r, n) for s, r in zip(scores, right)]))
    return out


def choice(tokenizer, task, as_document):
    """(ids of all before the answer, the options) of a task with "options" and a "reply"."""
    begin = task["reply"][:task["reply"].index(task["answer"])].rstrip()
    if as_document:
        prompt = [tokenizer.eot_token, *tokenizer.encode_ordinary(f"{task['question']} {begin}")]
    else:
        prompt = prompts(tokenizer, [task])[0] + tokenizer.encode_ordinary(begin)
    return prompt, [f" {option}" for option in task["options"]]


def likeliest(params, cfg, tokenizer, tasks, as_document=False):
    """Share of the tasks of which the model finds the right one of the "options" likeliest.

    The options stand behind the words of the task's "reply". Tasks that do not fit the context are
    left out, and how many is printed; nan where none fits.
    """
    right = []
    for task in tasks:
        prompt, options = choice(tokenizer, task, as_document)
        longest = max(len(tokenizer.encode_ordinary(option)) for option in options)
        if len(prompt) + longest - 1 <= cfg.n_positions:    # the last token is only predicted
            best, _ = choose(params, cfg, tokenizer, prompt, options)
            right.append(task["options"][best] == task["answer"])
    if len(right) < len(tasks):
        left_out = len(tasks) - len(right)
        print(f"{left_out:,} of {len(tasks):,} questions with options exceed the context "
              f"of {cfg.n_positions} tokens and are left out", file=sys.stderr)
    return float(np.mean(right)) if right else float("nan")


def print_tries(run, stages, n, score_of=None, seed=0):
    run, found = Path(run), {}
    models = {stage: sample.load_model(run / stage) for stage in stages}
    readers = [(tokenizer, cfg.n_positions) for _, cfg, tokenizer in models.values()]
    games = fitting_all(run / "tasks" / "wheel_test.jsonl", readers)
    facts = fitting_all(run / "tasks" / "facts_test.jsonl", readers)
    facts = [t for t in facts if t.get("exposure", 0) >= 10 and "options" in t]
    for stage, model in models.items():
        found[stage] = tries(*model, games, n, score_of, seed)
        if facts:
            found[stage]["well-known facts, the likeliest of ten"] = likeliest(*model, facts, as_document=stage == "base")
    print(f"{f'{len(games)} problems, {n} tries each at temperature 1':64}" + "".join(f"{s:>10}" for s in stages))
    for what in found[stages[0]]:
        print(f"{what:64}" + "".join(f"{found[s][what]:10.1%}" for s in stages))


def refuse_judges(folders):
    for folder in folders:
        if is_judge(folder):
            raise ValueError(f"{folder}: a reward model, which judges replies and writes none")


def fight(run, folders=(), seed=0, n=300):
    """Ratings of models, by default all of the run, that each answered the same n held-out questions at temperature 1. A right answer
    beats a wrong one, and a wrong one beats one that never ends."""
    folders = folders or in_run(run)
    twice = [str(folder) for folder, n in Counter(folder.resolve() for folder in folders).items() if n > 1]
    if twice:
        raise ValueError(f"{twice[0]}: named twice; nobody battles against himself")
    refuse_judges(folders)
    if len(folders) < 2:
        raise ValueError(f"{run}: an arena needs two models at least, found {len(folders)}; make the demo's with: make")
    models = {folder: sample.load_model(folder) for folder in folders}
    readers = [(tokenizer, cfg.n_positions) for _, cfg, tokenizer in models.values()]
    tasks = []
    for name in ("facts", "calculator", "wheel", "identity"):
        tasks += fitting_all(run / "tasks" / f"{name}_test.jsonl", readers)
    tasks = [tasks[i] for i in np.random.default_rng(seed).permutation(len(tasks))[:n]]
    answers = {}
    for folder, model in models.items():
        _, verdicts = ask(*model, tasks, 1.0, seed)
        answers[str(folder.relative_to(run) if folder.is_relative_to(run) else folder)] = [v.correct + 0.5 * v.ended for v in verdicts]
    return ratings(battles(answers), seed, about=[*range(len(tasks))] * (len(answers) * (len(answers) - 1) // 2))
