"""spelling.py: a model spells and counts letters badly, because it sees tokens and no letters.

A word reaches a model as one token or a few, and a token says nothing of the letters in it. People
see letters, so tasks with letters look easy to them. Given the same word letter by letter, a model
has one token for each letter, and does better.

Refuted if the model does as well with words as tokens as with words as letters.

    python -m talk.spelling
"""

import re

from talk import plots, results         # before numpy
from talk.experiment import right, share, teach
from run import command
from tokens.shards import read_documents
from web import toylessons, toywords, toyworld

STAGES = ("base",)
SECONDS = 55
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
TASKS = ("to spell", "to count a letter")
WHOSE = ("words it was taught with", "new words")
GIVEN = ("tokens", "letters")


def words_of(run, rng):
    """(words to teach with, words to ask for), from the documents of the run, by lot."""
    words = set()
    for path in sorted((run / "docs").glob("*.jsonl.gz")):
        for _, text in read_documents(path):
            words |= {word for word in re.findall(r"[a-z]+", text) if 5 <= len(word) <= 10}
    words = sorted(words)
    rng.shuffle(words)
    fifth = len(words) // 5
    return words[fifth:], words[:fifth]


def written(word, given):
    """A word as tokens, "word", or as letters, "w o r d"."""
    return " ".join(word) if given == "letters" else word


def spell(rng, words, given):
    """(question, answer): the letters of a word."""
    word = rng.choice(words)
    return f"Spell: {written(word, given)}.", " ".join(word)


def count(rng, words, given):
    """(question, answer): how often a letter is in a word.

    None, one and two are asked for equally often, or a model would do well with a guess.
    """
    while True:
        word, times = rng.choice(words), rng.randrange(3)
        letters = [letter for letter in ALPHABET if word.count(letter) == times]
        if letters:
            question = f"Count {rng.choice(letters)} in: {written(word, given)}."
            return question, f"It is {toywords.NUMBERS[times]}."


def label(task, whose, given):
    """The name of a number."""
    return f"{task}, {whose} as {given}"


def taught_and_asked(run, seed, task, given, words, rng):
    """Teach one task with words given in one way. Returns the shares of right answers."""
    lesson = spell if task == "to spell" else count
    rows = [toylessons.chat(*lesson(rng, words[0], given)) for _ in range(6000)]
    name = f"spelling/{lesson.__name__}_{given}"
    model = teach(run, name, rows, 450, seed)
    found = {}
    for whose, some in zip(WHOSE, words):
        asked = [lesson(rng, some, given) for _ in range(300)]
        tasks = [{"question": question, "answer": answer.rstrip(".")} for question, answer in asked]
        ok = right(model, tasks)
        said = f"{task:18} {whose:25} as {given:8}"
        found[label(task, whose, given)] = share(said, ok.sum(), len(ok))
    return found


def experiment(run, seed):
    """Teach both tasks with words as tokens and as letters, with as many rows and steps each."""
    rng, found = toyworld.stream(seed, "spelling"), {}
    words = words_of(run, rng)
    for task in TASKS:
        for given in GIVEN:
            found |= taught_and_asked(run, seed, task, given, words, rng)
    return found


def plot(figure, found):
    """Right answers by task and words, as tokens and as letters."""
    axes = figure.subplots()
    groups = [(task, whose) for task in TASKS for whose in WHOSE]
    series = {}
    for given in GIVEN:
        series[f"word as {given}"] = [label(*group, given) for group in groups]
    plots.bars(axes, found, series, [f"{task}: {whose}" for task, whose in groups])
    axes.set_ylabel("right answers (%)")
    in_tokens = 100 * plots.mean(found, label(*groups[1], "tokens"))
    in_letters = 100 * plots.mean(found, label(*groups[1], "letters"))
    plots.title(figure, f"New words are spelled rightly in {in_tokens:.0f} % of cases when given "
                        f"as tokens, in {in_letters:.0f} % when given as letters")


if __name__ == "__main__":
    command.run(results.main)
