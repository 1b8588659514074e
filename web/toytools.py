"""Conversations in which the assistant of the Lantern Coast calls a tool: sums, letters, searches.

A reply that calls a tool has parts: the call, what the tool returns, and the sentence. When to
search is what has to be learned. All searches are about entities that were invented for a single
conversation, so that a name and what a page says of it can only be copied. None is about an entity
of the pages. In some searches nothing is found, and in some the page does not hold the answer. Then
the assistant says that it does not know.

Sums are in chat/train.jsonl. Searches and letters take many more steps to learn and are in files of
their own: RUN/chat/reading.jsonl finds a few facts each time, RUN/chat/tools.jsonl what a page
says. From whole pages alone, a model of this size does not begin to read in so few steps. So teach
the first file to `sft`, and then the second, among the other conversations so that nothing is
forgotten:

    python align.py sft --start sft --out reader --steps 400 --lr 1e-3 \\
      --data out/demo/chat/reading.jsonl
    python align.py sft --start reader --out tools --steps 900 --lr 1e-3 \\
      --data out/demo/chat/tools.jsonl out/demo/chat/train.jsonl
    python sample.py chat --model out/demo/tools

That takes seven minutes. Asked as talk/searching.py asks, 84 % of the facts that one page tells are
then right. That file gives the tools a larger share of the conversations, and comes to 90 %.
"""
from web import search
from web.toypages import entity_text
from web.toywords import (
    COUNT_ASKS, COUNT_HELD_OUT, FACT_ASKS, GUESTS, KINDS, NAME_PARTS, SPELL_ASKS, SPELL_HELD_OUT,
    SUM_ASKS, SUM_HELD_OUT, SUM_TYPED, SUM_TYPED_HELD_OUT, SUM_WORDS)
from web.toyworld import capital, fact_answer, fill, is_held_out, new_entity, new_name

UNKNOWN = "I do not know."
MOST_CHARACTERS = 430       # of a conversation with a search: it must fit 256 positions


def with_tool(call, output, text):
    """The parts of a reply that calls a tool once."""
    return [
        {"type": "tool", "text": call},
        {"type": "output", "text": output},
        {"type": "text", "text": text},
    ]


# --------------------------------------------------------------------------------------------- sums

def draw_number(rng, most_digits):
    """A number of one digit up to so many."""
    n_digits = rng.randint(1, most_digits)
    return rng.randint(10 ** (n_digits - 1), 10 ** n_digits - 1)


def sum_exchange(rng, held_out=False, typed=False):
    """A sum that is, or is not, kept for testing, and its answer.

    typed: as people type it, "12+30", and not in a sentence.
    """
    while True:
        operator = rng.choice("+-*")
        most_digits = 2 if operator == "*" else 4 if typed else 3
        a, b = draw_number(rng, most_digits), draw_number(rng, most_digits)
        if is_held_out(a, operator, b) == held_out:
            break
    word, value = SUM_WORDS[operator], {"+": a + b, "-": a - b, "*": a * b}[operator]
    if typed:
        asks = SUM_TYPED_HELD_OUT if held_out else SUM_TYPED
    else:
        asks = SUM_HELD_OUT if held_out else SUM_ASKS
    question = rng.choice(asks).format(a=a, w=word, o=operator, b=b)
    return question, with_tool(f"{a}{operator}{b}", str(value), f"{a} {word} {b} is {value}.")


# ------------------------------------------------------------------------------------------ letters

def draw_word(rng, held_out):
    """A word that is, or is not, kept for testing: of a name that nobody has."""
    while True:
        _, name = new_name(rng, rng.choice(list(KINDS)))
        word = rng.choice(name.removeprefix("the ").split())
        if is_held_out(word.lower()) == held_out:
            return word


def letters_exchange(rng, held_out=False):
    """A question about the letters of a word, and its answer."""
    word = draw_word(rng, held_out)
    if rng.random() < 0.5:
        asks = SPELL_HELD_OUT if held_out else SPELL_ASKS
        question = rng.choice(asks).format(n=word)
        output = " ".join(word)
        return question, with_tool(f"spell: {word}", output, output)
    asks = COUNT_HELD_OUT if held_out else COUNT_ASKS
    letter = rng.choice(word.lower() if rng.random() < 0.8 else "aeioulmnrst")
    question = rng.choice(asks).format(c=letter, n=word)
    output = str(word.lower().count(letter))
    return question, with_tool(f"count: {letter} in {word}", output, output)


# ----------------------------------------------------------------------------------------- searches

def told(entity, name, text):
    """Whether a text tells a fact of an entity."""
    statements = KINDS[entity["kind"]][name].statements
    value = entity["facts"][name]
    return any(s.format(n=entity["name"], v=value).lower() in text.lower() for s in statements)


def found_passage(rng, entity):
    """What a search for an entity finds on a new page about it."""
    _, body = entity_text(rng, entity)
    words = search.words_of(entity["name"])
    rare = next(word for word in words if word.startswith(entity["stem"]))
    return search.passage("\n".join(body), rare)


def short_passage(rng, entity):
    """One to four facts of an entity, in any words. That is learned sooner than whole passages."""
    lines = []
    for name in rng.sample(list(entity["facts"]), rng.randint(1, 4)):
        statement = rng.choice(KINDS[entity["kind"]][name].statements)
        lines.append(statement.format(n=entity["name"], v=entity["facts"][name]))
    return " ".join(capital(line) + "." for line in lines)


def namesake_passage(rng, entity):
    """What a search for a person finds who has the first name of a guest of an inn."""
    first, family = entity["name"].split()
    other = rng.choice([name for name in NAME_PARTS["family"] if name != family])
    numbers = {"room": str(rng.randint(11, 999)), "bill": str(rng.randint(2, 9999))}
    text = fill(rng, rng.choice(GUESTS), g=f"{first} {other}", **numbers)
    return search.passage(text, first.lower())


def fact_question(rng, entity, name, any_words):
    """A question about a fact. any_words: a third of them in words that suit any fact."""
    asks = KINDS[entity["kind"]][name].questions
    if any_words and rng.random() < 1 / 3:
        asks = FACT_ASKS
    return capital(rng.choice(asks).format(a=name, n=entity["name"]))


def search_talk(rng, entity, found="page"):
    """Turns of a conversation about an entity, which begins with a search.

    Later questions are answered from the same passage. found: "page"; "short", a few facts; "part",
    a page that does not tell one of the facts, all of which are asked for; "namesake", a line about
    somebody else; or "nothing".
    """
    names, output = list(entity["facts"]), search.NOTHING
    rng.shuffle(names)
    if found == "short":
        output = short_passage(rng, entity)
    elif found == "namesake":
        output = namesake_passage(rng, entity)
    elif found != "nothing":
        output = found_passage(rng, entity)
    if found == "part":
        lines = search.SENTENCE.findall(output)
        output = "".join(line for line in lines if not told(entity, names[0], line)).strip()
    known = [name for name in names if told(entity, name, output)]
    asked = known or names[:1]
    if found == "part":
        asked = rng.choice([[names[0], *known], [*known, names[0]]])
    n_characters, turns = len(output), []
    for name in asked:
        question = fact_question(rng, entity, name, any_words=found != "short")
        reply = fact_answer(entity, name) if name in known else UNKNOWN
        n_characters += len(question) + len(reply)
        if not turns:
            reply = with_tool(f"search: {entity['name']}", output, reply)
        elif n_characters > MOST_CHARACTERS:
            break
        turns += [question, reply]
    return turns


def invented_talk(rng, stems, found):
    """search_talk about an entity that stands on no page. stems: of those that do."""
    kind = "person" if found == "namesake" else rng.choice(list(KINDS))
    entity = new_entity(rng, kind, 0, False, set(stems))
    return search_talk(rng, entity, found)
