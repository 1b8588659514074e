"""The guidelines for people who write conversations, and what people write who follow them.

Conversations that make an assistant were first written by people: a company hires them and gives
them guidelines, which say what a good answer is. Here the guidelines are a page of the toy world,
and each rule is a check, so it can be counted how well an answer follows them.
"""
import math
import re
from collections import Counter

from web.toywords import KINDS
from web.toyworld import capital

GUIDELINES = """\
Guidelines for people who write answers for Longhand

You are given the question of a visitor. Write the answer that Longhand
should give.
Be truthful: look the matter up on the pages, and write what they say, also
where few pages say it.
Be helpful: answer what was asked, in one sentence that ends with a full stop.
Name the thing that was asked about, so that the answer can be read alone.
Write as you would say it yourself. Five people who write well write five
different sentences.
"""
RULES = ("truthful", "one sentence", "names the thing", "as people say it")


def attribute_of(task):
    """The attribute of KINDS that a task about a fact asks for."""
    for kind in KINDS.values():
        for attribute in kind.values():
            if task["reply"] == sentence(attribute.statements[0], task):
                return attribute
    raise ValueError(f"{task['question']}: its reply {task['reply']!r} states no attribute")


def sentence(statement, task):
    """A statement about the name and the answer of a task, as a sentence."""
    return capital(statement.format(n=task["entity"], v=task["answer"])) + "."


def true_answers(task):
    """The five sentences that people who follow the guidelines write."""
    return [sentence(statement, task) for statement in attribute_of(task).statements]


def value_said(task, text):
    """The value of the attribute that a text says of the thing asked about, right or not; or None.

    If it says several, the longest counts.
    """
    text = text.replace(task["entity"], "")
    said = [value for value in attribute_of(task).values if re.search(rf"\b{value}\b", text)]
    return max(said, key=len, default=None)


def wording(task, text):
    """A text without the name and the value: the sentence as a pattern."""
    value = value_said(task, text)
    pattern = text.replace(capital(task["entity"]), "{n}").replace(task["entity"], "{n}")
    return pattern.replace(value, "{v}") if value else pattern


def is_said_by_people(task, text):
    """Whether a text, true or false, is one of the five sentences, as a pattern."""
    return wording(task, text) in {wording(task, answer) for answer in true_answers(task)}


def kept_rules(task, text):
    """Which of the RULES an answer follows."""
    named = task["entity"].lower() in text.lower()
    whole = text.endswith(".") and text.count(".") == 1
    said = is_said_by_people(task, text)
    checks = (value_said(task, text) == task["answer"], whole, named, said)
    return {rule for rule, followed in zip(RULES, checks) if followed}


def n_wordings(tasks, texts):
    """How many wordings answers have, as many as if all were equally frequent.

    It is e to the entropy of the wordings of a kind of fact, and the mean over the kinds. A text
    that no person would write does not count.
    """
    used = {}
    for task, text in zip(tasks, texts):
        if is_said_by_people(task, text):
            kind = attribute_of(task).statements[0]
            used.setdefault(kind, Counter())[wording(task, text)] += 1
    numbers = []
    for counts in used.values():
        shares = [n / counts.total() for n in counts.values()]
        numbers.append(math.exp(-sum(share * math.log(share) for share in shares)))
    return sum(numbers) / max(1, len(numbers))
