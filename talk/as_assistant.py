"""as_assistant.py: a transcript in front of a question makes an assistant of a base model, almost.

Write the beginning of a document in which a person asks and an assistant answers, and put your
question last: base goes on with that document, so it answers. But its turn never ends: it writes
the person's next line, too. The pages of this world have no transcripts, so here base first reads
some about other entities, and the control reads as many of the old pages.

Refuted if a base model that read transcripts does not answer behind one, or stops after its answer.

    python -m talk.as_assistant
"""

from talk import in_context, plots, results     # before numpy
from talk.experiment import continuations, share, study
import numpy as np

import sample
from run import command
from talk import working_memory
from web import toybooks, toywords, toyworld

STAGES = ("base",)
SECONDS = 60
PAGES = list(toywords.EXPOSURES)        # that tell the fact that is asked for
EACH = 40                               # questions for each of these
N_TURNS = 4                             # of the transcript in front
WAYS = {"alone": "question alone", "behind": "behind a transcript"}
MODELS = {"base": "base", "control": "base, after more of the old pages",
          "reader": "base, after transcripts"}
MARKS = {"answers": "answers in form", "right": "rightly", "asks": "then writes the person's line"}


def halves(entities):
    """(entities that transcripts are about, those that are asked about): every other one."""
    return entities[::2], entities[1::2]


def prompt(rng, way, asked, others):
    """What base goes on with: a question, alone or behind a transcript about others."""
    if way == "alone":
        return asked["question"]
    before = [working_memory.task(rng, one, rng.choice(list(one["facts"]))) for one in others]
    turns = [(task["question"], task["reply"]) for task in before]
    return toybooks.transcript([*turns, (asked["question"], None)])


def marks(asked, text):
    """(answers in form, rightly, then writes the person's line) of what was written behind."""
    first, _, _ = text.strip().partition(".")           # its first sentence
    begin = asked["reply"][:asked["reply"].index(asked["answer"])]
    right = f"{first}." == asked["reply"]
    return first.startswith(begin), right, "\nHuman:" in text


def ask(model, way, entities, known, rng):
    """(questions, 1 + marks) pages and marks of what a model writes."""
    tasks, prompts, pages = [], [], []
    for n in PAGES:
        facts = [(one, name) for one in entities if one["exposure"] == n for name in one["facts"]]
        for entity, name in rng.sample(facts, min(EACH, len(facts))):
            tasks.append(working_memory.task(rng, entity, name))
            prompts.append(prompt(rng, way, tasks[-1], rng.sample(known, N_TURNS)))
            pages.append(n)
    texts = continuations(model, prompts, 48, 0.0)
    print(f"      {tasks[-1]['question']} -> {' | '.join(texts[-1].strip().split(chr(10)))}")
    found = [marks(task, text) for task, text in zip(tasks, texts)]
    return np.column_stack([pages, np.array(found)])


def experiment(run, seed):
    """Base reads transcripts, and its control old pages; both and base are asked in both ways."""
    rng, found = toyworld.stream(seed, "as assistant"), {}
    told, asked = halves(working_memory.known_entities(run))
    known = [entity for entity in told if entity["exposure"] >= 10]
    texts = [toybooks.transcript_page(rng, known) for _ in range(1200)]
    old = in_context.ordinary(run, texts, rng)
    models = {"base": sample.load_model(run / "base")}
    for name, pages in (("control", old), ("reader", texts)):
        models[name] = study(run, f"as_assistant/{name}", pages, 300, seed, batch=4, replay=1,
                             lr=1e-3)
    for name, model in models.items():
        for way, said in WAYS.items():
            print(f"   {MODELS[name]}, {said}")
            table = ask(model, way, asked, known, toyworld.stream(seed, "asked", way))
            for i, (mark, what) in enumerate(MARKS.items(), 1):
                found[f"{name}, {way}, {mark}"] = share(f"   {what:30}", table[:, i].sum(),
                                                        len(table))
            by_pages = [float(table[table[:, 0] == n, 2].mean()) for n in PAGES]
            found[f"{name}, {way}, by pages"] = by_pages
            shown = ", ".join(f"{n}: {x:.0%}" for n, x in zip(PAGES, by_pages))
            print(f"      rightly, by pages that tell the fact: {shown}")
    return found


def plot(figure, found):
    """What each model writes in each way."""
    axes = figure.subplots()
    groups = [(name, way) for name in MODELS for way in WAYS]
    series = {what: [f"{name}, {way}, {mark}" for name, way in groups]
              for mark, what in MARKS.items()}
    names = [f"{model.replace('base, ', '')}, {way}" for model in MODELS.values() for way in WAYS]
    plots.bars(axes, found, series, names)
    axes.tick_params(axis="x", labelsize=7)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.set_ylabel("continuations (%)")
    right, asks = (100 * plots.mean(found, f"reader, behind, {mark}") for mark in ("right", "asks"))
    plots.title(figure, f"Behind a transcript base answers rightly in {right:.0f} % of cases, and "
                        f"writes the person's next line in {asks:.0f} %")


if __name__ == "__main__":
    command.run(results.main)
