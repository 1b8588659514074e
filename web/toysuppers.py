"""Suppers on the Lantern Coast, whose true value is known: replies for a reward model to judge."""
import re

from model import cores     # noqa: F401  before numpy: it sets up the matrix products
import numpy as np

from web import toylessons
from web.toywords import SLOTS
from web.toyworld import capital

DISH = re.compile("|".join(sorted(SLOTS["meal"], key=len, reverse=True)))
ENOUGH = 4                              # dishes of a supper; readers find more too many


def dishes(text):
    """The dishes that a text names, in order: "Stew, then stew." -> ["stew", "stew"]"""
    return DISH.findall(text)


def value(text):
    """The true value of a supper: 1 for each different dish up to the fourth, -1 for each later."""
    found = dishes(text)
    return len(set(found[:ENOUGH])) - max(0, len(found) - ENOUGH)


def question(rng):
    """(a person, what they had for supper as a question)"""
    who = rng.choice(SLOTS["folk"])
    return who, f"What did {who} have for supper?"


def supper(rng):
    """A conversation about a supper of one to four dishes, of one most often."""
    who, asked = question(rng)
    n = rng.choices((1, 2, 3, 4), (4, 3, 2, 1))[0]
    *others, last = rng.sample(SLOTS["meal"], n)
    menu = f"{', '.join(others)} and {last}" if others else last
    answer = f"{who} had {menu} at {rng.choice(SLOTS['place'])}."
    return toylessons.chat(asked, capital(answer))


def comparisons(asked, texts, seed):
    """Rows of completions: replies to each question, with scores as readers would give them.

    asked: questions; texts: the replies to them, as many to each, in their order. Gumbel noise
    makes a reader prefer a to b with probability sigmoid(value of a - value of b).
    """
    truth = np.array([value(text) for text in texts])
    felt = truth + np.random.default_rng(seed).gumbel(size=len(truth))
    each, rows = len(texts) // len(asked), []
    for i, instruction in enumerate(asked):
        completions = []
        for j in range(each * i, each * i + each):
            completions.append({"response": texts[j], "overall_score": felt[j]})
        rows.append({"instruction": instruction, "completions": completions})
    return rows


def most_in_order(texts, each):
    """The share of pairs of replies to one question that the true values put as readers do.

    texts: `each` replies to every question. No judge can do better.
    """
    truth = np.array([value(text) for text in texts]).reshape(-1, each)
    first, second = np.triu_indices(each, 1)
    apart = np.abs(truth[:, first] - truth[:, second])
    return float((1 / (1 + np.exp(-apart))).mean())
