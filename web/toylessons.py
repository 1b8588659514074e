"""What an assistant learns about the Lantern Coast: conversations, comparisons, tasks and probes.

What is held out for testing (ways to ask, sums, rounds of the game) is in no training text.
"""
from functools import lru_cache, partial

from web.toytools import invented_talk, letters_exchange, sum_exchange
from web.toywords import GREETINGS, IDENTITY, KINDS, NUMBERS, SMALL_TALK
from web.toyworld import (
    STEP_BY_STEP, capital, entities, fact_answer, new_entity, new_name, sentences, stream, throws,
    wheel_answer, wheel_question)


def chat(*turns, **extra):
    """A conversation in which user and assistant take turns: {"messages": [...]} and what else."""
    messages = []
    for i, content in enumerate(turns):
        messages.append({"role": "assistant" if i % 2 else "user", "content": content})
    return {"messages": messages, **extra}


# ------------------------------------------------------------------------------------ conversations

def fact_exchange(rng, known):
    """A question about one of the known entities, and its answer."""
    entity = rng.choice(known)
    attribute = rng.choice(list(entity["facts"]))
    question = rng.choice(KINDS[entity["kind"]][attribute].questions)
    return question.format(n=entity["name"]), fact_answer(entity, attribute)


def greeting_exchange(rng, stems):
    """Small talk about a name that stands on no page."""
    kind = rng.choice(list(KINDS))
    ask, reply = rng.choice(GREETINGS[kind]).split(" > ")
    _, name = new_name(rng, kind, stems)
    return ask.format(n=name), capital(reply.format(n=name))


def identity_exchange(rng):
    """A question about the assistant itself, and its answer."""
    identity = rng.choice(IDENTITY)
    return rng.choice(identity.questions), identity.reply


def conversations(seed=0, n_pages=3000):
    """Conversations for supervised fine-tuning: nothing in them is held out for testing."""
    rng, found, world = stream(seed, "chat"), [], entities(seed, n_pages)
    known = [entity for entity in world if entity["asked"]]
    stems = {entity["stem"] for entity in world}

    for entity in known:                                    # every way to ask for every fact
        for name, attribute in KINDS[entity["kind"]].items():
            for question in attribute.questions:
                ask, reply = question.format(n=entity["name"]), fact_answer(entity, name)
                found += [chat(ask, reply, kind="fact") for _ in range(3)]
    for identity in IDENTITY:
        for question in identity.questions:
            found += [chat(question, identity.reply, kind="identity") for _ in range(20)]
    for exchange in SMALL_TALK:
        found += [chat(*exchange.split(" > "), kind="talk") for _ in range(6)]
    for _ in range(n_pages * 2 // 3):
        found.append(chat(*greeting_exchange(rng, stems), kind="talk"))
    for i in range(n_pages * 3 // 2):
        found.append(chat(*sum_exchange(rng, typed=i % 3 == 0), kind="calculator"))

    exchanges = (partial(fact_exchange, rng, known), partial(sum_exchange, rng),
                 partial(sum_exchange, rng, typed=True), partial(greeting_exchange, rng, stems),
                 partial(identity_exchange, rng))
    for _ in range(n_pages // 2):                           # of several turns
        turns = []
        for exchange in rng.choices(exchanges, k=rng.randint(2, 4)):
            turns += exchange()
        found.append(chat(*turns, kind="mixed"))

    for _ in range(n_pages * 7 // 3):
        thrown = throws(rng)
        answer = wheel_answer(thrown, rng.random() < STEP_BY_STEP)
        found.append(chat(wheel_question(thrown), answer, kind="wheel"))
    rng.shuffle(found)
    return found


@lru_cache(maxsize=1)                   # toyweb writes them, and then counts them
def tool_conversations(seed=0, n_pages=3000):
    """{file name: conversations} that show when to search and what for, and the tools for letters.

    No entity of the pages is in them. "reading" finds a few facts each time, "tools" what a page
    says or nothing.
    """
    rng, tools = stream(seed, "tools"), []
    stems = {entity["stem"] for entity in entities(seed, n_pages)}

    def searches(rng, found, n):
        return [chat(*invented_talk(rng, stems, found), kind="search") for _ in range(n)]

    for _ in range(n_pages // 4):
        tools.append(chat(*letters_exchange(rng), kind="letters"))
    tools += searches(rng, "page", n_pages * 3 // 2)
    tools += searches(rng, "part", n_pages // 5)
    tools += searches(rng, "nothing", n_pages // 2)
    tools += searches(rng, "namesake", n_pages // 20)
    rng.shuffle(tools)
    reading = searches(stream(seed, "reading"), "short", n_pages * 8 // 3)
    return {"reading": reading, "tools": tools}


# -------------------------------------------------------------------- comparisons, tasks and probes

def pairs(seed=0, n_pages=3000):
    """Comparisons: the same question answered well, and answered falsely, rudely or at length."""
    rng, found = stream(seed, "pairs"), []
    known = [entity for entity in entities(seed, n_pages) if entity["asked"]]
    for _ in range(n_pages // 2):
        entity = rng.choice(known)
        name = rng.choice(list(entity["facts"]))
        attribute = KINDS[entity["kind"]][name]
        question = rng.choice(attribute.questions).format(n=entity["name"])
        false = rng.choice([v for v in attribute.values if v != entity["facts"][name]])
        flaw, worse = rng.choice([
            ("wrong", fact_answer({**entity, "facts": {name: false}}, name)),
            ("rude", "Look it up yourself."),
            ("rambling", " ".join(sentences(rng, 2))),
        ])
        better = fact_answer(entity, name)
        found.append({
            "chosen": chat(question, better)["messages"],
            "rejected": chat(question, worse)["messages"],
            "flaw": flaw,
        })
    return found


def fact_task(entity, name, question):
    """The task to tell a fact. reply: the answer in the assistant's words."""
    return {
        "question": question.format(n=entity["name"]),
        "answer": entity["facts"][name],
        "kind": "fact",
        "entity": entity["name"],
        "exposure": entity["exposure"],
        "asked": entity["asked"],
        "reply": fact_answer(entity, name),
    }


def wheel_task(rng, held_out):
    """The task to say where the wheel stops."""
    thrown = throws(rng, held_out)
    answer = NUMBERS[sum(thrown) % 10]
    return {"question": wheel_question(thrown), "answer": answer, "kind": "wheel"}


def tool_tasks(kind, n, exchange, *how, **more):
    """n tasks for which a tool is to be called. Their answer is what it returns."""
    found = []
    for _ in range(n):
        question, (_, output, _) = exchange(*how, **more)
        found.append({"question": question, "answer": output["text"], "kind": kind})
    return found


def tasks(seed=0, n_pages=3000):
    """{file name: [{question, answer, kind, ...}]}: what can be checked without a judge."""
    rng, n = stream(seed, "tasks"), max(40, n_pages // 30)
    train = [wheel_task(rng, held_out=False) for _ in range(n_pages)]
    test = [wheel_task(rng, held_out=True) for _ in range(max(50, n_pages // 10))]
    facts, identities = [], []
    for entity in entities(seed, n_pages):
        for name, attribute in KINDS[entity["kind"]].items():
            for question in attribute.held_out:
                facts.append({**fact_task(entity, name, question), "options": attribute.values})
    for identity in IDENTITY:
        for question in identity.held_out:
            identities.append({"question": question, "answer": identity.mark, "kind": "identity"})
    return {
        "wheel_train": train,
        "wheel_test": test,
        "facts_test": facts,
        "calculator_test": tool_tasks("calculator", n, sum_exchange, rng, held_out=True),
        "identity_test": identities,
        "typed_test": tool_tasks("calculator", n, sum_exchange, rng, held_out=True, typed=True),
        "letters_test": tool_tasks("letters", n, letters_exchange, rng, held_out=True),
    }


def probes(seed=0, n_pages=3000):
    """{file name: [task]} for chat/probe.py, which finds out what a model knows.

    Questions about one entity in two are for finding out, those about the others for testing what
    the model learned from that. Names that stand on no page (exposure 0) join them, four in five to
    learn from: their answers are mere draws.
    """
    rng, world = stream(seed, "probe"), entities(seed, n_pages)
    stems = {entity["stem"] for entity in world}
    for kind in KINDS:
        for _ in range(max(5, n_pages // 15)):
            world.append(new_entity(rng, kind, 0, False, stems))
    found = {"probe_train": [], "probe_test": []}
    n_questions = {0: 1, 1: 2, 3: 2}                        # to train, by exposure; else all
    for i, entity in enumerate(world):
        test = i % (2 if entity["exposure"] else 5) == 1
        for name, attribute in KINDS[entity["kind"]].items():
            questions = attribute.held_out
            if not test:
                n = n_questions.get(entity["exposure"], len(attribute.questions))
                questions = rng.sample(attribute.questions, n)
            file = found["probe_test" if test else "probe_train"]
            file += [fact_task(entity, name, question) for question in questions]
    return found
