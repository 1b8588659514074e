"""Pages and passages from which a model can only learn to look back at what it has just read.

Passages tell facts of an entity in front of a question. Pages of exercises are about tongues that
are invented for one page each: drills, word lists that are gone through again, and rules that are
applied line by line. Nothing of them helps on another page, so learning them by heart is no use.
"""

from itertools import product
from typing import NamedTuple

from web.toywords import KINDS, listed
from web.toyworld import capital, fact_answer, is_held_out

# ------------------------------------------------------------- passages in front of a question


def passage(rng, entity, attributes, held_out=False):
    """Sentences that tell some facts of an entity: "The crubpard lives on moonflowers. ..."

    held_out: in the wording that is kept for testing, the last statement of each attribute.
    """
    told = []
    for name in attributes:
        *statements, last = KINDS[entity["kind"]][name].statements
        statement = last if held_out else rng.choice(statements)
        told.append(capital(statement.format(n=entity["name"], v=entity["facts"][name])) + ".")
    return " ".join(told)


def with_other_value(rng, entity, name):
    """The entity as if one of its facts were another one."""
    values = KINDS[entity["kind"]][name].values
    other = rng.choice([value for value in values if value != entity["facts"][name]])
    return {**entity, "facts": {**entity["facts"], name: other}}


# -------------------------------------------------------------------- transcripts of conversations


SPEAKERS = listed("""
    Visitor, Guide | Guest, Porter | Child, Aunt | Pupil, Teacher | Traveller, Ferryman | Reader,
    Editor | Caller, Clerk | Son, Mother
""")


def transcript(turns, speakers=("Human", "Assistant")):
    """A page on which somebody asks and somebody answers: a line for each.

    turns: [(question, answer)]. An answer of None is left to be written, behind "Assistant:".
    """
    lines = []
    for question, answer in turns:
        lines.append(f"{speakers[0]}: {question}")
        lines.append(f"{speakers[1]}:" if answer is None else f"{speakers[1]}: {answer}")
    return "\n".join(lines)


def transcript_page(rng, entities):
    """A transcript of speakers that are none of those asked with, about some entities."""
    turns = []
    for _ in range(rng.randint(3, 7)):
        entity = rng.choice(entities)
        name = rng.choice(list(entity["facts"]))
        question = rng.choice(KINDS[entity["kind"]][name].questions)
        turns.append((question.format(n=entity["name"]), fact_answer(entity, name)))
    return transcript(turns, rng.choice(SPEAKERS).split(", "))


# ---------------------------------------------------------------- exercises in invented tongues

SYLLABLES = """
    ba be bo da de do fa fe fo ga go ha he ho ka ke ki la le li lo lu ma me mi mo mu na ne no nu pa
    pe po ra re ri ro sa se so su ta te ti to tu va ve wa we wo
""".split()
NOUNS = """
    lamp tea goat boat soup hat key door bed bell bird book bread bridge candle cat chair cloud coat
    cup day dog egg fire fish foot glass gold hand hill horse house ice jam king knife leaf letter
    milk moon mouse night nut oil paper pear rain river road rope salt sand sea ship shoe snow song
    star stone sun table town tree wall water wind wolf wood
""".split()
ORDERS = {"as it is": (0, 1, 2), "reversed": (2, 1, 0), "turned": (1, 2, 0), "swapped": (1, 0, 2)}
DOUBLED = ("nothing", "the first", "the last")


class Rule(NamedTuple):
    """What is done with each word of an exercise, in this order."""

    order: str                          # in which the three syllables come
    doubled: str                        # which of them is then said twice
    with_ending: bool                   # whether a syllable is added, the same to all words


RULES = [Rule(*parts) for parts in product(ORDERS, DOUBLED, (False, True))]
HELD_OUT_RULES = [
    Rule("reversed", "nothing", True),
    Rule("as it is", "the last", True),
    Rule("turned", "the first", False),
    Rule("turned", "nothing", True),
    Rule("swapped", "the first", True),
    Rule("reversed", "the last", False),
]


def new_word(rng, n=3, held_out=False):
    """A word of n different syllables, of those that are, or are not, kept for testing."""
    while True:
        word = rng.sample(SYLLABLES, n)
        if is_held_out(*word) == held_out:
            return word


def nouns(held_out=False):
    """The English words of word lists that are, or are not, kept for testing."""
    return NOUNS[::5] if held_out else [noun for noun in NOUNS if noun not in NOUNS[::5]]


def apply(rule, word, ending):
    """The syllables that a rule makes of a word: reversed, with the ending lu: so ke ma lu."""
    made = [word[i] for i in ORDERS[rule.order]]
    if rule.doubled == "the first":
        made.insert(0, made[0])
    if rule.doubled == "the last":
        made.append(made[-1])
    return made + [ending] * rule.with_ending


def drill(rng):
    """A page on which a few syllables are said three times."""
    said = " ".join(rng.sample(SYLLABLES, rng.randint(3, 10)))
    return f"Say it three times: {said} {said} {said}"


def translations(rng, n, held_out=False):
    """n entries of a word list: "lamp so ke"."""
    found = []
    for noun in rng.sample(nouns(held_out), n):
        found.append(" ".join([noun, *new_word(rng, 2, held_out)]))
    return found


def word_list(rng):
    """A page with a list of words of a new tongue, which is gone through twice more."""
    entries = translations(rng, rng.randint(1, 6))
    found = list(entries)
    for _ in range(2):
        rng.shuffle(entries)
        found += entries
    return f"Word list: {', '.join(found)}"


def examples(rng, rule, n, held_out=False):
    """n lines of an exercise, a word and what the rule makes of it: "ma ke so: so ke ma lu"."""
    ending, found = rng.choice(SYLLABLES), []
    for _ in range(n):
        word = new_word(rng, held_out=held_out)
        found.append(f"{' '.join(word)}: {' '.join(apply(rule, word, ending))}")
    return found


def exercise(rng):
    """A page on which one rule is applied to one word after the other."""
    rule = rng.choice([rule for rule in RULES if rule not in HELD_OUT_RULES])
    return f"Exercise: {', '.join(examples(rng, rule, 7))}"
