"""Pages and passages from which a model can only learn to look back at what it has just read.

Passages tell facts of an entity in front of a question. Pages of exercises are about tongues that
are invented for one page each: drills, word lists that are gone through again, and rules that are
applied line by line. Nothing of them helps on another page, so learning them by heart is no use.
"""

from typing import NamedTuple

from web.toywords import KINDS
from web.toyworld import capital, fact_answer, is_held_out, stream

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


def echo(rng, entity, name):
    """A statement of a passage as a question: "The crubpard lives on what?"

    It is never in the wording that is kept for testing.
    """
    statement = rng.choice(KINDS[entity["kind"]][name].statements[:-1])
    return capital(statement.format(n=entity["name"], v="what")) + "?"


def with_gaps(rng, question):
    """The question without about one word in seven; the first stays, and those with a capital.

    So names of people and places stay. A model that learns from such questions cannot rely on a
    single word of them.
    """
    first, *others = question.split(" ")
    left = [word for word in others if word[0].isupper() or rng.random() < 0.85]
    return " ".join([first, *left])


def with_other_value(rng, entity, name):
    """The entity as if one of its facts were another one."""
    values = KINDS[entity["kind"]][name].values
    other = rng.choice([value for value in values if value != entity["facts"][name]])
    return {**entity, "facts": {**entity["facts"], name: other}}


# -------------------------------------------------------------------- transcripts of conversations


def transcript(turns):
    """A page on which a person asks and an assistant answers: a line for each.

    turns: [(question, answer)]. An answer of None is left to be written, behind "Assistant:".
    """
    lines = []
    for question, answer in turns:
        lines.append(f"Human: {question}")
        lines.append("Assistant:" if answer is None else f"Assistant: {answer}")
    return "\n".join(lines)


def transcript_page(rng, entities):
    """A transcript about some entities."""
    turns = []
    for _ in range(rng.randint(3, 7)):
        entity = rng.choice(entities)
        name = rng.choice(list(entity["facts"]))
        question = rng.choice(KINDS[entity["kind"]][name].questions)
        turns.append((question.format(n=entity["name"]), fact_answer(entity, name)))
    return transcript(turns)


# ---------------------------------------------------------------- exercises in invented tongues

SYLLABLES = """
    ba be bo do du fe fo gu ha he ho ke la le li ma me mo mu ne no pa pe po ra re ri ro sa se so su
    ta te ti to
""".split()
NOUNS = """
    lamp tea goat boat soup hat key door bed bell bird book bread bridge candle cat chair cloud coat
    cup day dog egg fire fish foot glass gold hand hill horse house ice jam king knife leaf letter
    milk moon mouse night nut oil paper pear rain river road rope salt sand sea ship shoe snow song
    star stone sun table town tree wall water wind wolf wood
""".split()
ORDERS = {"as it is": (0, 1, 2), "reversed": (2, 1, 0), "turned": (1, 2, 0)}


class Rule(NamedTuple):
    """What an exercise does with each word."""

    order: str                          # in which the three syllables come
    then: str                           # "nothing"; the last one "twice"; "ending" adds a syllable


RULES = [
    Rule("as it is", "nothing"),
    Rule("as it is", "twice"),
    Rule("as it is", "ending"),
    Rule("reversed", "nothing"),
    Rule("reversed", "twice"),
]
HELD_OUT_RULES = [Rule("reversed", "ending"), Rule("turned", "nothing"), Rule("turned", "ending")]


def new_word(rng, n=3, held_out=False):
    """A word of n different syllables, of those that are, or are not, kept for testing."""
    while True:
        word = rng.sample(SYLLABLES, n)
        if is_held_out(*word) == held_out:
            return word


def nouns(held_out=False):
    """The English words of word lists that are, or are not, kept for testing."""
    return NOUNS[::5] if held_out else [noun for noun in NOUNS if noun not in NOUNS[::5]]


def endings(held_out=False):
    """The syllables that exercises add to words that are, or are not, kept for testing."""
    last = SYLLABLES[::6]
    return last if held_out else [syllable for syllable in SYLLABLES if syllable not in last]


def apply(rule, word, ending):
    """The syllables that a rule makes of a word: so ke ma, reversed with the ending du, ma ke so du

    All words of an exercise get the same ending, if its rule adds one.
    """
    made = [word[i] for i in ORDERS[rule.order]]
    last = {"nothing": [], "twice": made[-1:], "ending": [ending]}
    return made + last[rule.then]


# A page of exercises is a list of (part, counts): counts tells whether the part can be known from
# those before it. The others are by lot, and nothing is to be learned from them.


def text_of(page):
    """The text of a page of exercises."""
    return "".join(part for part, _ in page)


def spoken(syllables):
    """Syllables as they stand on pages, each behind a space."""
    return "".join(f" {syllable}" for syllable in syllables)


def drill(rng):
    """A page on which a few syllables are said three times."""
    said = spoken(rng.sample(SYLLABLES, rng.randint(3, 10)))
    return [(said, False), (said, True), (said, True)]


def translations(rng, n, held_out=False):
    """n entries of a word list, (noun, word) each: (" lamp", " so ke")."""
    found = []
    for noun in rng.sample(nouns(held_out), n):
        found.append((f" {noun}", spoken(new_word(rng, 2, held_out))))
    return found


def word_list(rng):
    """A page with a list of words of a new tongue, which is gone through twice more."""
    entries, page = translations(rng, rng.randint(2, 6)), []
    for counts in (False, True, True):
        for noun, word in entries:
            page += [(noun, False), (f"{word}\n", counts)]
        rng.shuffle(entries)
    return page


def examples(rng, rule, n, held_out=False):
    """n lines of an exercise, (a word, what the rule makes of it): (" so ke ma:", " ma ke so")."""
    ending, found = rng.choice(endings(held_out)), []
    for _ in range(n):
        word = new_word(rng, held_out=held_out)
        found.append((f"{spoken(word)}:", spoken(apply(rule, word, ending))))
    return found


def exercise(rng):
    """A page on which one rule is applied to one word after the other."""
    page = []
    for word, made in examples(rng, rng.choice(RULES), rng.randint(4, 9)):
        page += [(word, False), (f"{made}\n", True)]
    return page


def books(seed):
    """[(name, pages, how many a step, last learning rate)] of what a model reads, in this order.

    First come drills alone: heads that look back form on these, and the others build on them. Rules
    take longest.
    """
    rng, later = stream(seed, "books"), stream(seed, "exercises")
    kinds = [*4 * [exercise], word_list, word_list, drill]
    first = [drill(rng) for _ in range(24 * 300)]
    then = [rng.choice(kinds)(rng) for _ in range(12 * 600)]
    kinds[-2] = exercise                # from now on five to one word list and one drill
    last = [later.choice(kinds)(later) for _ in range(12 * 700)]
    return [("first", first, 24, 2e-3), ("then", then, 12, 2e-4), ("last", last, 12, 2e-4)]


def rows_of(pages, tokenizer):
    """[(ids, mask)] of pages of exercises; the mask is 1 where a token can be known."""
    found = []
    for page in pages:
        ids, mask = [tokenizer.eot_token], [0]
        for part, counts in page:
            of_part = tokenizer.encode_ordinary(part)
            ids += of_part
            mask += [int(counts)] * len(of_part)
        found.append((ids, mask))
    return found


def cut_alike(rng, pages, texts, tokenizer):
    """A page, drawn by lot, for each text, cut to as many tokens as the text has."""
    ids = [tokenizer.encode_ordinary(page) for page in pages]
    found = []
    for text in texts:
        n = len(tokenizer.encode_ordinary(text))
        found.append(tokenizer.decode(rng.choice(ids)[:n]))
    return found
