"""working_memory.py: what stands in the context is read, what is in the weights is recollected.

A model knows the facts of pages as one knows what one read a month ago: often seen, well known;
seen once, vaguely. What stands before the question is at hand. So paste the text you ask about.
Some lessons ask in the words of passages, and some leave words out, so that no word decides alone.

Refuted if answers from a passage are right in less than 95 % of cases or depend on how many pages
told the fact, or if a passage that contradicts those pages is not followed.

    python -m talk.working_memory
"""

from talk import plots, results         # before numpy
from talk.experiment import right, share, teach
import numpy as np

import sample
from chat import chats
from run import command
from web import toybooks, toylessons, toywords, toyworld

STAGES = ("sft",)
SECONDS = 70
STEPS, BATCH = 400, 32                  # each conversation is about a name of its own
PAGES = [0, *toywords.EXPOSURES]        # that tell a fact, in the world
EACH = 100                              # questions for each of these
ASKED = {
    "no passage": "recollected, without a passage",
    "passage": "a passage says what the pages said",
    "new wording": "the same in a wording that was not taught",
    "contradiction": "a passage says something else",
    "before": "before it was taught to read passages",
}


def known_entities(run):
    """The entities of a run, from its questions about facts."""
    found = {}
    for task in chats.tasks(run / "tasks" / "facts_test.jsonl"):
        for kind, attributes in toywords.KINDS.items():
            for name, attribute in attributes.items():
                if attribute.values == task.get("options"):
                    entity = {"name": task["entity"], "kind": kind, "facts": {},
                              "exposure": task["exposure"]}
                    found.setdefault(task["entity"], entity)["facts"][name] = task["answer"]
    return list(found.values())


def new_entities(rng, n, others):
    """n entities of which no page tells. Their names begin unlike those of the others."""
    taken, found = " ".join(entity["name"].lower() for entity in others), []
    while len(found) < n:
        kind = rng.choice(list(toywords.KINDS))
        entity = toyworld.new_entity(rng, kind, 0, False, set())
        if entity["stem"] not in taken:
            found.append(entity)
    return found


def conversation(rng, entity):
    """A passage of one to four facts with a question about one of them, and its answer."""
    names = rng.sample(list(entity["facts"]), rng.randint(1, 4))
    asked = rng.choice(names)
    question = rng.choice(toywords.KINDS[entity["kind"]][asked].questions).format(n=entity["name"])
    if rng.random() < 1 / 3:
        question = toybooks.echo(rng, entity, asked)
    text = f"{toybooks.passage(rng, entity, names)} {toybooks.with_gaps(rng, question)}"
    return toylessons.chat(text, toyworld.fact_answer(entity, asked))


def task(rng, entity, asked, told=None, held_out=False):
    """A question in a wording kept for testing, behind a passage about the entity that is told."""
    attribute = toywords.KINDS[entity["kind"]][asked]
    question = rng.choice(attribute.held_out).format(n=entity["name"])
    if told:
        names = rng.sample(list(told["facts"]), rng.randint(1, 4))
        if asked not in names:
            names[0] = asked
        question = f"{toybooks.passage(rng, told, names, held_out)} {question}"
    source = told or entity
    return {"question": question, "answer": source["facts"][asked], "kind": "fact",
            "reply": toyworld.fact_answer(source, asked)}


def tasks(rng, entities):
    """{"passage": [task] ...} about facts of some entities, the same facts in each."""
    found = {name: [] for name in ASKED}
    facts = [(entity, name) for entity in entities for name in entity["facts"]]
    for entity, asked in rng.sample(facts, min(EACH, len(facts))):
        other = toybooks.with_other_value(rng, entity, asked)
        found["no passage"].append(task(rng, entity, asked))
        found["passage"].append(task(rng, entity, asked, entity))
        found["new wording"].append(task(rng, entity, asked, entity, held_out=True))
        found["contradiction"].append(task(rng, entity, asked, other))
    found["before"] = found["passage"]
    return found


def about_another(model, entities, others, rng):
    """Shares of answers from a passage about another entity, where the fact is known."""
    asked = []
    for entity in entities:
        for name, fact in entity["facts"].items():
            other = rng.choice([one for one in others if one["kind"] == entity["kind"]])
            if entity["exposure"] >= 20 and other["facts"][name] != fact:
                asked.append((task(rng, entity, name, other), fact))
    from_passage = right(model, [one for one, _ in asked])
    known = right(model, [{**one, "answer": fact} for one, fact in asked])
    print("   a passage about another of its kind:")
    return {"of another": share("   it says what the passage says", from_passage.sum(), len(asked)),
            "of its own": share("   it says its own fact         ", known.sum(), len(asked))}


def experiment(run, seed):
    """Teach sft to answer from passages about new names; ask about those of all pages."""
    rng, entities = toyworld.stream(seed, "working memory"), known_entities(run)
    entities += new_entities(rng, 30, entities)
    taught = new_entities(rng, STEPS * BATCH, entities)
    rows = [conversation(rng, entity) for entity in taught]
    sft = sample.load_model(run / "sft")
    reader = teach(run, "working_memory/reader", rows, STEPS, seed, "sft", batch=BATCH)
    curves = {name: [] for name in ASKED}
    print(f"   {'answers as asked for, by pages that tell the fact':51}", end="")
    print("".join(f"{n:5}" for n in PAGES))
    for n in PAGES:
        some = [entity for entity in entities if entity["exposure"] == n]
        for name, asked in tasks(rng, some).items():
            model = sft if name in ("no passage", "before") else reader
            curves[name].append(float(np.mean(right(model, asked))))
    for name, said in ASKED.items():
        print(f"   {said:51}" + "".join(f"{100 * x:4.0f}%" for x in curves[name]))
    return curves | about_another(reader, entities, taught[:500], rng)


def plot(figure, found):
    """Right answers by pages, with and without a passage."""
    axes = figure.subplots()
    for i, (name, said) in enumerate(ASKED.items()):
        plots.curve(axes, found, name, range(len(PAGES)), said, i, 100)
    axes.set_xticks(range(len(PAGES)), PAGES)
    axes.set(xlabel="pages that tell the fact", ylabel="answers as asked for (%)", ylim=(-4, 104))
    axes.legend(frameon=False, fontsize=8)
    lowest = 100 * min(plots.mean(found, "passage").min(), plots.mean(found, "contradiction").min())
    plots.title(figure, f"From a passage at least {lowest:.0f} % of answers are right, however "
                        "often the model read the fact before")


if __name__ == "__main__":
    command.run(results.main)
