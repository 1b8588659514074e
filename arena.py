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

align.py arena lets the models of a run battle over its held-out questions.

Sources: Wilson 1927; Chen et al. 2021 (pass@k); Wang et al. 2022 (self-consistency); Bradley and Terry 1952; Hunter 2004 (the
iteration); Chiang et al. 2024 (Chatbot Arena: intervals and ranks).
"""

import itertools
from collections import Counter, namedtuple

import gpt                      # before numpy
import numpy as np

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
    nll = gpt.token_losses(params, cfg, tokens, targets).sum(1)
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


def ratings(battles, seed=0, rounds=200):
    """[Rated], the best first: 95 % of what battles drawn again give lies between low and high; the rank counts who is surely
    better, 1 + those whose low is above one's high."""
    names = sorted({name for a, b, _ in battles for name in (a, b)})
    if len(names) < 2:
        raise ValueError(f"an arena needs battles between two models at least, found {', '.join(names) or 'none'}")
    rng, fitted = np.random.default_rng(seed), bradley_terry(tally(battles, names))
    again = np.array([bradley_terry(tally([battles[i] for i in rng.integers(0, len(battles), len(battles))], names)) for _ in range(rounds)])
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
