"""What is true on the Lantern Coast: its creatures, towns and people, and the counting game.

Every name is made up, so whatever a model trained on this world says about it, it learned here.
Each entity has four facts and stands on a known number of pages. The counting game turns a wheel
of ten pegs: its answer is a sum modulo ten, and one round in ten is kept for testing.
"""
import hashlib
import random
import re
from itertools import accumulate

from web.toywords import EXPOSURES, FILLERS, KINDS, NAME_PARTS, NUMBERS, SLOTS

N_THROWS = 8                      # of the die, in a round of the counting game
STEP_BY_STEP = 0.3                # share of the answers in conversations that show their steps
ON_PAGES = 0.6                    # and of those on pages


# ---------------------------------------------------------------------------------------- sentences

def stream(seed, *names):
    """A random stream for one part of the world. Adding another part never changes this one."""
    return random.Random("/".join(map(str, (seed, *names))))


def capital(text):
    """The text with its first letter in capitals, past an opening quote."""
    i = text.startswith('"')
    return text[:i] + text[i:i + 1].upper() + text[i + 1:]


def fill(rng, template, **given):
    """A sentence from a template: "{folk} at {place}" -> "A carter at the tram stop".

    given: the words of some slots. No two slots have the same words, so {folk} and {folk2} are two
    people.
    """
    taken = set(given.values())

    def choose(slot):
        name = slot[1]
        if name not in given:
            options = SLOTS.get(name) or SLOTS[name.rstrip("0123456789")]
            given[name] = rng.choice([option for option in options if option not in taken])
            taken.add(given[name])
        return given[name]

    return capital(re.sub(r"\{(\w+)\}", choose, template))


def sentences(rng, n):
    """n different sentences that say nothing in particular."""
    return [fill(rng, template) for template in rng.sample(FILLERS, n)]


def paragraphs(rng, lines, low=2, high=4):
    """Sentences -> paragraphs of low to high sentences."""
    found = []
    while lines:
        n = rng.randint(low, high)
        found.append(" ".join(lines[:n]))
        lines = lines[n:]
    return found


# ------------------------------------------------------------------------- entities and their facts

def new_name(rng, kind, taken=()):
    """(stem, name) of an animal, a town or a person. The stem is none of those taken."""
    stem = None
    while stem is None or stem in taken:
        stem = "".join(rng.choice(NAME_PARTS[part]) for part in ("onset", "vowel", "coda"))
    ends = {part: rng.choice(NAME_PARTS[part]) for part in ("animal", "town", "person", "family")}
    if kind == "animal":
        return stem, f"the {stem}{ends['animal']}"
    family = f" {ends['family']}" if kind == "person" else ""
    return stem, stem.capitalize() + ends[kind] + family


def new_entity(rng, kind, exposure, asked, stems):
    """A new entity. No two names begin alike: stems are those taken, which its own joins."""
    stem, name = new_name(rng, kind, stems)
    stems.add(stem)
    facts = {fact: rng.choice(attribute.values) for fact, attribute in KINDS[kind].items()}
    return {"name": name, "stem": stem, "kind": kind, "exposure": exposure, "asked": asked,
            "facts": facts}


def entities(seed, n_pages=3000):
    """All entities of a world.

    exposure: on how many pages it stands. asked: whether training conversations may ask about it;
    two in three of those on ten pages or more. What an assistant says about the others, it must
    have carried over from reading to answering.
    """
    rng, found, stems = stream(seed, "entities"), [], set()
    for kind in KINDS:
        for exposure, count in EXPOSURES.items():
            for i in range(max(2, round(count * n_pages / 3000))):
                asked = exposure >= 10 and i % 3 < 2
                found.append(new_entity(rng, kind, exposure, asked, stems))
    return found


def fact_answer(entity, attribute):
    """A fact in the assistant's words: the first statement of the attribute."""
    statement = KINDS[entity["kind"]][attribute].statements[0]
    return capital(statement.format(n=entity["name"], v=entity["facts"][attribute])) + "."


# -------------------------------------------------------------------------------- the counting game

def is_held_out(*numbers):
    """Whether a round or a sum is kept for testing: a hash picks one in ten. No text has those."""
    return hashlib.sha256(repr(numbers).encode()).digest()[0] < 26


def throws(rng, held_out=False):
    """The throws of a die in one round that is, or is not, kept for testing."""
    while True:
        thrown = [rng.randint(1, 6) for _ in range(N_THROWS)]
        if is_held_out(*thrown) == held_out:
            return thrown


def wheel_question(thrown):
    """Throws 2 6 1 -> "Turn the wheel: two six one."."""
    return "Turn the wheel: " + " ".join(NUMBERS[n] for n in thrown) + "."


def wheel_answer(thrown, step_by_step):
    """Throws 2 6 1 -> "It stops at nine."

    step_by_step: "Step by step: two two, six eight, one nine. It stops at nine." Each step repeats
    the throw and then says where the wheel stands.
    """
    stands = [NUMBERS[total % 10] for total in accumulate(thrown)]
    steps = ", ".join(f"{NUMBERS[n]} {stand}" for n, stand in zip(thrown, stands))
    return (f"Step by step: {steps}. " if step_by_step else "") + f"It stops at {stands[-1]}."
