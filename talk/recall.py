"""recall.py: what base remembers follows how often it read it; the rest it makes up as fluently.

Begin a page about a name, and base goes on with what it read of that name. Of a name that it never
read it says something of the same kind, without a hedge: that is how such pages go on. Only inside
is it less sure.

Refuted if right values do not rise with the pages that tell them, or if base leaves the sentence
open for names of no page. These names are the control of all others.

    python -m talk.recall
"""

from talk import plots, results         # before numpy
from talk.experiment import continuations
import numpy as np

import sample
from chat import chats
from model import evaluate, fast
from run import command
from web import toywords, toyworld

STAGES = ("base",)
SECONDS = 10
TITLE = "From the Lantern Encyclopedia"
PAGES = (0, *toywords.EXPOSURES)        # that tell a fact
SURE = "probability of what it says"


def form(task):
    """The reply to a task without its name and value: "{n} eats {v}."."""
    reply = task["reply"].lower().replace(task["entity"].lower(), "{n}")
    return reply.replace(task["answer"].lower(), "{v}")


def facts_of(run, most):
    """{pages that tell it: [task]}: each fact once, with its "options"; most: names of no page."""
    known = chats.tasks(run / "tasks" / "facts_test.jsonl")
    options = {form(task): task["options"] for task in known}
    made_up = chats.tasks(run / "tasks" / "probe_test.jsonl")
    once = {task["reply"]: task for task in known}
    none = {task["reply"]: task for task in made_up if task["exposure"] == 0}
    found = {n: [task for task in once.values() if task["exposure"] == n] for n in PAGES}
    found[0] = [task | {"options": options[form(task)]} for task in none.values()][:most]
    return found


def begun(rng, task):
    """A page about a name, up to where the value of the fact should stand."""
    opening = toyworld.fill(rng, rng.choice(toywords.OPENINGS[TITLE]), n=task["entity"])
    sentence = task["reply"].removesuffix(f" {task['answer']}.")
    return f"{TITLE}: {toyworld.capital(task['entity'])}\n{opening} {sentence}"


def chance(model, text, options):
    """(options,) the probability that the model goes on with each."""
    params, cfg, tokenizer = model
    prompt = [tokenizer.eot_token, *tokenizer.encode_ordinary(text)]
    endings = [tokenizer.encode_ordinary(f" {option}") for option in options]
    losses = fast.token_losses(params, cfg, *evaluate.ending_rows(prompt, endings))
    return np.exp(-losses.sum(1))


def told(model, tasks, rng):
    """(tasks, 3): right, another value of the kind, the probability of the likeliest value."""
    texts = [begun(rng, task) for task in tasks]
    found = []
    for task, text, written in zip(tasks, texts, continuations(model, texts, 10, 0.0)):
        is_right = written.strip().startswith(task["answer"])
        is_value = written.strip().startswith(tuple(task["options"]))
        sure = chance(model, text, task["options"]).max()
        found.append((is_right, is_value and not is_right, sure))
    return np.array(found, float)


def experiment(run, seed):
    """Begin pages about names of no page, of one, and of more, up to a value."""
    model = sample.load_model(run / "base")
    rng, found, sure = toyworld.stream(seed, "recall"), {}, {}
    print("   pages that tell it   facts   right   another value   its probability")
    for n, tasks in facts_of(run, 240).items():
        numbers = told(model, tasks, rng)
        right, other, sure[n] = numbers[:, 0].mean(), numbers[:, 1].mean(), numbers[:, 2]
        print(f"   {n:19} {len(tasks):7} {right:7.1%} {other:15.1%} {sure[n].mean():17.2f}")
        found[f"right, {n} pages"] = float(right)
        found[f"another value, {n} pages"] = float(other)
        found[f"{SURE}, {n} pages"] = float(sure[n].mean())
    most = max(PAGES)
    surer = float(np.mean(sure[most][:, None] > sure[0]))
    print(f"   of a name of {most} pages and one of none, it is surer of the first: {surer:.1%}")
    return found | {"surer of the one it knows": surer}


def plot(figure, found):
    """Right values, other values and the probability of what is said, by pages."""
    axes = figure.subplots()
    places = np.arange(len(PAGES))
    for i, what in enumerate(("right", "another value", SURE)):
        plots.curve(axes, found, [f"{what}, {n} pages" for n in PAGES], places, what, i, 100)
    axes.set_xticks(places, PAGES)
    axes.set(xlabel="pages that tell the fact", ylabel="continuations, probability (%)")
    axes.set_ylim(-2, 102)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    once, often = (100 * plots.mean(found, f"right, {n} pages") for n in (1, 10))
    other = 100 * plots.mean(found, "another value, 0 pages")
    plots.title(figure, f"Base tells {once:.0f} % of the facts of one page and {often:.0f} % of "
                        f"those of ten; of names that it never read it says a false value in "
                        f"{other:.0f} %")


if __name__ == "__main__":
    command.run(results.main)
