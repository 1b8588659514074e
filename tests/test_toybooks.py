"""web/toybooks.py: pages say what they should, and nothing that is held out stands on them."""
from collections import Counter

import pytest

from web import toybooks, toywords, toyworld
from small_talker import TOK


@pytest.fixture
def rng():
    return toyworld.stream(0, "test_toybooks")


@pytest.fixture
def entity(rng):
    return toyworld.new_entity(rng, "animal", 0, False, set())


def test_a_passage_tells_the_facts_and_no_others(rng, entity):
    for held_out in (False, True):
        text = toybooks.passage(rng, entity, ["food", "home"], held_out)
        told = [fact for fact, value in entity["facts"].items() if value in text]
        assert {"food", "home"} <= set(told) and text.count(".") == 2


def test_the_last_wording_stands_in_no_passage_that_is_learned(rng, entity):
    last = toywords.KINDS["animal"]["food"].statements[-1]
    last = toyworld.capital(last.format(n=entity["name"], v=entity["facts"]["food"]))
    learned = {toybooks.passage(rng, entity, ["food"]) for _ in range(100)}
    assert len(learned) == 4 and f"{last}." not in learned
    assert toybooks.passage(rng, entity, ["food"], held_out=True) == f"{last}."


def test_an_echo_asks_in_the_words_that_are_learned(rng, entity):
    asked = {toybooks.echo(rng, entity, "food") for _ in range(100)}
    learned = toywords.KINDS["animal"]["food"].statements[:-1]
    said = [statement.format(n=entity["name"], v="what") for statement in learned]
    assert asked == {f"{toyworld.capital(statement)}?" for statement in said}


def test_one_word_in_seven_is_left_out_and_never_a_name(rng):
    question = "What does Edda Finch do all day long?"
    left = Counter(word for _ in range(2000) for word in toybooks.with_gaps(rng, question).split())
    assert left["What"] == left["Edda"] == left["Finch"] == 2000
    assert all(1620 < left[word] < 1780 for word in ("does", "do", "all", "day", "long?"))


def test_another_value_is_another_one_and_of_this_fact_alone(rng, entity):
    for _ in range(20):
        other = toybooks.with_other_value(rng, entity, "food")
        changed = [name for name, fact in entity["facts"].items() if other["facts"][name] != fact]
        assert changed == ["food"] and other["name"] == entity["name"]
        assert other["facts"]["food"] in toywords.KINDS["animal"]["food"].values


def test_a_transcript_ends_where_an_answer_is_missing():
    assert toybooks.transcript([("Who?", "I."), ("Where?", None)]) == (
        "Human: Who?\nAssistant: I.\nHuman: Where?\nAssistant:")


def test_a_page_with_a_transcript_asks_and_answers_in_turn(rng, entity):
    for _ in range(20):
        lines = toybooks.transcript_page(rng, [entity]).split("\n")
        assert all(line.startswith("Human: ") for line in lines[::2])
        answers = {line.removeprefix("Assistant: ") for line in lines[1::2]}
        assert answers <= {toyworld.fact_answer(entity, name) for name in entity["facts"]}
        held = [question.format(n=entity["name"]) for a in toywords.KINDS["animal"].values()
                for question in a.held_out]
        assert not {line.removeprefix("Human: ") for line in lines} & set(held)


@pytest.mark.parametrize("rule, made", [
    (("as it is", "nothing"), "so ke ma"),
    (("as it is", "ending"), "so ke ma du"),
    (("reversed", "nothing"), "ma ke so"),
    (("reversed", "twice"), "ma ke so so"),
    (("reversed", "ending"), "ma ke so du"),
    (("turned", "nothing"), "ke ma so"),
])
def test_rules(rule, made):
    assert " ".join(toybooks.apply(toybooks.Rule(*rule), ["so", "ke", "ma"], "du")) == made


def test_a_drill_says_the_same_three_times(rng):
    for _ in range(20):
        (first, *_), *again = toybooks.drill(rng)
        said = first.split()
        assert again == [(first, True), (first, True)]
        assert len(set(said)) == len(said) and set(said) <= set(toybooks.SYLLABLES)


def test_a_word_list_is_gone_through_three_times(rng):
    for _ in range(20):
        page = toybooks.word_list(rng)
        entries = toybooks.text_of(page).split("\n")[:-1]
        assert set(Counter(entries).values()) == {3}
        known = [counts for _, counts in page[1::2]]
        assert known == [False] * (len(known) // 3) + [True] * (len(known) * 2 // 3)
        assert not any(counts for _, counts in page[::2])


def read(page):
    """[(word, what the rule makes of it)] of an exercise."""
    lines = toybooks.text_of(page).split("\n")[:-1]
    return [[part.split() for part in line.split(":")] for line in lines]


def test_an_exercise_has_one_rule_and_one_ending(rng):
    """Which of all rules explain its lines? One, with one ending."""
    for _ in range(50):
        page, explained = toybooks.exercise(rng), []
        lines = read(page)
        for rule in toybooks.RULES + toybooks.HELD_OUT_RULES:
            ending = lines[0][1][-1]
            if all(toybooks.apply(rule, word, ending) == made for word, made in lines):
                explained.append(rule)
        assert len(explained) == 1 and explained[0] in toybooks.RULES
        if explained[0].then == "ending":
            assert ending in toybooks.endings() and ending not in toybooks.endings(held_out=True)
        assert all(counts == (":" not in part) for part, counts in page)
    assert not set(toybooks.RULES) & set(toybooks.HELD_OUT_RULES)


def test_words_that_are_held_out_stand_on_no_page(rng):
    for _ in range(100):
        for word, _ in read(toybooks.exercise(rng)):
            assert not toyworld.is_held_out(*word)
        for entry in toybooks.text_of(toybooks.word_list(rng)).split("\n")[:-1]:
            noun, *word = entry.split()
            assert noun not in toybooks.nouns(held_out=True)
            assert not toyworld.is_held_out(*word)
    for noun, word in toybooks.translations(rng, 8, held_out=True):
        assert noun.strip() in toybooks.nouns(held_out=True)
        assert toyworld.is_held_out(*word.split())
    assert not set(toybooks.nouns()) & set(toybooks.nouns(held_out=True))


def test_only_what_can_be_known_counts():
    (ids, mask), = toybooks.rows_of([[(" lamp lamp", False), (" lamp", True)]], TOK)
    n = len(TOK.encode_ordinary(" lamp lamp"))
    assert TOK.decode(ids[1:]) == " lamp lamp lamp" and ids[0] == TOK.eot_token
    assert mask == [0] * (n + 1) + [1] * (len(ids) - n - 1)


def test_pages_are_cut_to_as_many_tokens(rng):
    page, texts = "the goat is lit. " * 9, ["lamp lamp", "the lamp is lit", "said 123"]
    for text, cut in zip(texts, toybooks.cut_alike(rng, [page], texts, TOK)):
        assert page.startswith(cut)
        assert len(TOK.encode_ordinary(cut)) == len(TOK.encode_ordinary(text))
