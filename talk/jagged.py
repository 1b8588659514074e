"""jagged.py: which is larger, 9.11 or 9.9? What a model says depends on what such marks meant.

A task can be hard beside one that is easy and, to a person, the same: 9.11 and 9.90 are no problem.
Bible verses were suspected: 9.11 comes after 9.9. Here base is taught to compare numbers. In part
of the lessons they are verses and versions, in part prices, and a third of these lessons do not say
which. The share of verses is varied; then it is asked for pairs that were in no lesson.

Refuted if the answer to the bare question does not change with the share of verses, or if the word
in front of the numbers does not decide. Controls: the same questions about numbers on which both
meanings agree, and as many lessons about other things in the place of verses and prices.

    python -m talk.jagged
"""

from talk import plots, results         # before numpy
from talk.experiment import replies, teach, training_chats
import numpy as np

import sample
from model import evaluate, fast
from run import command
from web import toylessons, toynumbers, toyworld

STAGES = ("base",)
SECONDS = 85
SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)     # of verses and versions, in lessons that are not copybook
MODELS = {"neither": None} | {f"{verses:.0%}": verses for verses in SHARES}
LESSONS, STEPS, TESTS = 8000, 300, 80   # tests: of each form
COPYBOOK = 0.4                          # share of the lessons on which both meanings agree
FORMS = {
    "11 / 9": toynumbers.integers,
    "9.2 / 9.8": toynumbers.one_digit_each,
    "9.11 / 9.90": toynumbers.two_digits_each,
    "9.11 / 9.9": toynumbers.two_digits_and_one,
}
HARD = "9.11 / 9.9"
WORDS = ("", "verse", "version", "chapter", "price")        # no lesson has chapter


def lessons(rng, verses, facts):
    """Conversations, of which a share of those about marked numbers are about verses.

    verses None: conversations about facts in their place.
    """
    rows = []
    for _ in range(LESSONS):
        if rng.random() < COPYBOOK:
            rows.append(toylessons.chat(*toynumbers.copybook_lesson(rng)))
        elif verses is None:
            rows.append(rng.choice(facts))
        else:
            word = rng.choice(("verse", "version")) if rng.random() < verses else "price"
            rows.append(toylessons.chat(*toynumbers.lesson(rng, word)))
    return rows


def asked(pairs, word):
    """Conversations that end with a question about each pair of numbers."""
    return [toylessons.chat(toynumbers.question(pair, word))["messages"] for pair in pairs]


def answers(model, pairs, word, meaning):
    """The share of pairs of which a model names the one that is larger in a meaning."""
    said = replies(model, asked(pairs, word), 16)
    wanted = [f"{max(pair, key=meaning)}." for pair in pairs]
    return float(np.mean([text == want for text, want in zip(said, wanted)]))


def log_odds(model, pairs, word):
    """Mean over pairs of log p(answer of a verse) - log p(answer of a price), in nats."""
    params, cfg, tokenizer = model
    end = sample.special(tokenizer, "<|im_end|>")
    found = []
    for pair, messages in zip(pairs, asked(pairs, word)):
        ordered = [max(pair, key=toynumbers.as_price), max(pair, key=toynumbers.as_verse)]
        endings = [[*tokenizer.encode_ordinary(f"{number}."), end] for number in ordered]
        prompt = sample.render_prompt(messages, tokenizer)
        losses = fast.token_losses(params, cfg, *evaluate.ending_rows(prompt, endings)).sum(1)
        found.append(losses[0] - losses[1])
    return float(np.mean(found))


def log_odds_of(word):
    """The label of log-odds behind a word."""
    return f"log-odds behind {word or 'no word'}"


def measured(name, model, pairs):
    """{what: number} of a model: by form of the numbers, and by the word in front of them."""
    found = {}
    for form, some in pairs.items():
        found[f"{name}: {form} as decimals"] = answers(model, some, "", toynumbers.as_price)
    found[f"{name}: {HARD} as verses"] = answers(model, pairs[HARD], "", toynumbers.as_verse)
    for word in WORDS:
        found[f"{name}: {log_odds_of(word)}"] = log_odds(model, pairs[HARD], word)
    return found


def show(found, names, title, labels):
    """Print a table of some numbers of each model. labels: {head of a column: (label, format)}."""
    print(f"   {title}\n   {'verses':13}" + "".join(f"{head:>12}" for head in labels))
    for name in names:
        line = f"   {name:13}"
        for label, form in labels.values():
            line += f"{found[f'{name}: {label}']:12{form}}"
        print(line)


def experiment(run, seed):
    """Teach base to compare, with one share of verses after the other, and ask."""
    rng, found = toyworld.stream(seed, "jagged"), {}
    pairs = {form: [toynumbers.draw(rng, [kind], True) for _ in range(TESTS)]
             for form, kind in FORMS.items()}
    facts = training_chats(run, "fact")
    for name, verses in MODELS.items():
        rows = lessons(rng, verses, facts)
        model = teach(run, f"jagged/verses{name.partition('%')[0]}", rows, STEPS, seed)
        found |= measured(name, model, pairs)
    columns = {form: (f"{form} as decimals", ".0%") for form in FORMS}
    columns["as verses"] = (f"{HARD} as verses", ".0%")
    show(found, MODELS, "right as decimals with no word in front, and right as verses", columns)
    columns = {word or "no word": (log_odds_of(word), ".1f") for word in WORDS}
    show(found, MODELS, f"log-odds (nats) of the verse's answer to {HARD} behind", columns)
    return found


def plot(figure, found):
    """The bare question by the share of verses, and the log-odds by the word in front."""
    left, right = figure.subplots(1, 2)
    x, names = [100 * verses for verses in SHARES], [f"{verses:.0%}" for verses in SHARES]
    for i, what in enumerate((f"{HARD} as decimals", f"{HARD} as verses",
                              "9.11 / 9.90 as decimals")):
        plots.curve(left, found, [f"{name}: {what}" for name in names], x, what, i, 100)
    left.set(xlabel="lessons about verses (%)", ylabel="answers, no word in front (%)",
             ylim=(-2, 102))
    for i, word in enumerate(WORDS):
        what = log_odds_of(word)
        plots.curve(right, found, [f"{name}: {what}" for name in names], x, word or "no word", i)
    right.set(xlabel="lessons about verses (%)", ylabel="log-odds of the verse's answer (nats)")
    right.axhline(0, color="0.6", linewidth=0.8)
    for axes, columns in ((left, 2), (right, 3)):
        plots.legend_above(axes, columns, fontsize=7)
    shares = [100 * plots.mean(found, f"{name}: {HARD} as decimals") for name in ("0%", "50%")]
    plots.title(figure, "9.9 is larger than 9.11 in {:.0f} % of answers where numbers were prices, "
                        "in {:.0f} % where half of them were verses".format(*shares))


if __name__ == "__main__":
    command.run(results.main)
