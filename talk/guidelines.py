"""guidelines.py: an assistant that learns from its own conversations loses facts and wordings.

People write the first conversations, after guidelines (web/toyguidelines.py): they look things up,
and each has words of his own. Later data sets are written by an assistant, as UltraChat's are. Here
the answers of sft to new questions teach base. So there is a second assistant, and its answers
teach base once more.

Refuted if the assistants taught by an assistant are as often right, and in as many words, as the
control: base taught by people's answers to the same questions, with as many rows and steps.

    python -m talk.guidelines
"""

import textwrap
from collections import Counter

from talk import plots, results         # before numpy
from talk.experiment import replies, teach
import numpy as np

import sample
from chat import chats
from run import command
from web import toyguidelines, toylessons, toyworld

STAGES = ("base", "sft")
SECONDS = 48
STEPS = 260
TEMPERATURE = 0.8
ROUNDS = 6                              # answers to teach with, to each question
WRITERS = ("people", "an assistant", "its student")
PAGES = {"1 page": (1,), "3 pages": (3,), "10 pages or more": (10, 20, 30)}


def questions_of(run, rng):
    """(tasks to teach with, tasks about the same facts in words that are kept for testing).

    No conversation of sft is about one in three of the well-known names, nor about the others.
    """
    tasks = chats.tasks(run / "tasks" / "probe_test.jsonl")
    held_out = [task for task in tasks if task["exposure"]]
    asked = []
    for task in {task["reply"]: task for task in held_out}.values():
        questions = toyguidelines.attribute_of(task).questions
        for question in rng.sample(questions, ROUNDS):
            asked.append(task | {"question": question.format(n=task["entity"])})
    return asked, held_out


def written_by_people(tasks, rng):
    """The answers of people who follow the guidelines."""
    return [rng.choice(toyguidelines.true_answers(task)) for task in tasks]


def written_by(model, tasks, seed):
    """The answers of an assistant."""
    asked = [toylessons.chat(task["question"])["messages"] for task in tasks]
    texts = replies(model, asked, 32, TEMPERATURE, seed)
    return [text.strip() or "." for text in texts]


def rows(tasks, texts):
    """Conversations: one question and its answer each."""
    return [toylessons.chat(task["question"], text) for task, text in zip(tasks, texts)]


def judged(tasks, texts):
    """{what: number} of answers: the rules that they follow, wordings, and truth by pages."""
    kept = [toyguidelines.kept_rules(task, text) for task, text in zip(tasks, texts)]
    found = {rule: float(np.mean([rule in k for k in kept])) for rule in toyguidelines.RULES}
    found["wordings"] = toyguidelines.n_wordings(tasks, texts)
    for name, exposures in PAGES.items():
        some = ["truthful" in k for k, task in zip(kept, tasks) if task["exposure"] in exposures]
        found[name] = float(np.mean(some))
    return found


def repeated(tasks, lessons, texts, held_out):
    """(the share of wrong lessons, the share of these whose false value the student says, too)."""
    taught = {}
    for task, text in zip(tasks, lessons):
        value = toyguidelines.value_said(task, text)
        taught.setdefault(task["reply"], Counter())[value] += 1
    same, wrong = [], []
    for task, text in zip(held_out, texts):
        value, n = taught[task["reply"]].most_common(1)[0]
        wrong.append(value != task["answer"])
        if value and wrong[-1] and n > 1:
            same.append(toyguidelines.value_said(task, text) == value)
    return float(np.mean(wrong)), float(np.mean(same)) if same else 0.0


def experiment(run, seed):
    """Teach base by people, by an assistant, and by its student; judge what each says."""
    rng, found = toyworld.stream(seed, "guidelines"), {}
    asked, held_out = questions_of(run, rng)
    print(textwrap.indent(toyguidelines.GUIDELINES, "   | "))
    print(f"   {len(asked):,} questions to teach with, {len(held_out)} about the same facts to "
          f"ask\n   {'conversations':26}    true  by pages: 1     3   10+   well said  wordings")
    teacher = sample.load_model(run / "sft")
    for writer in WRITERS:
        by_people = writer == "people"
        texts = written_by_people(asked, rng) if by_people else written_by(teacher, asked, seed)
        name = f"guidelines/{writer.replace(' ', '_')}"
        student = teach(run, name, rows(asked, texts), STEPS, seed)
        answers = written_by(student, held_out, seed)
        for whose, numbers in (("written by", judged(asked, texts)),
                               ("taught by", judged(held_out, answers))):
            by_pages = [f"{numbers[name]:6.0%}" for name in PAGES]
            print(f"   {f'{whose} {writer}':26}  {numbers['truthful']:6.1%}         "
                  + "".join(by_pages) + f"{numbers['as people say it']:12.0%}"
                  f"{numbers['wordings']:10.1f}")
            found |= {f"{whose} {writer}: {what}": x for what, x in numbers.items()}
        if not by_people:
            wrong, same = repeated(asked, texts, answers, held_out)
            print(f"   of {wrong:.1%} of facts that it was taught falsely, it repeats {same:.1%}")
            found |= {f"{writer}: taught falsely": wrong, f"{writer}: repeated": same}
            teacher = student
    return found


def plot(figure, found):
    """Truth by pages, and wordings, by who wrote the conversations."""
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    series = {f"by {writer}": [f"taught by {writer}: {name}" for name in PAGES]
              for writer in WRITERS}
    plots.bars(left, found, series, list(PAGES))
    left.set_ylabel("true answers (%)")
    places = np.arange(len(WRITERS))
    labels = [f"taught by {writer}: wordings" for writer in WRITERS]
    plots.curve(right, found, labels, places, "", 0)
    right.set_xticks(places, WRITERS, rotation=30)
    right.set(ylabel="wordings of an answer", ylim=(0, 5))
    true = [100 * plots.mean(found, f"taught by {writer}: truthful") for writer in WRITERS]
    plots.title(figure, "Taught by people {:.0f} % of answers are true, by an assistant {:.0f} %, "
                        "by its student {:.0f} %".format(*true))


if __name__ == "__main__":
    command.run(results.main)
