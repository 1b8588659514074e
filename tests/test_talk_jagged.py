"""talk/jagged.py: its lessons, and what it counts as an answer."""

from collections import Counter

from talk import jagged
from web import toylessons, toynumbers, toyworld


def test_the_share_of_verses():
    facts = [toylessons.chat("Is it?", "It is.")]
    rows = {}
    for verses in (None, 0.0, 0.25, 1.0):
        found = jagged.lessons(toyworld.stream(0, "x"), verses, facts)
        texts = [row["messages"][0]["content"] for row in found]
        rows[verses] = Counter()
        for text in texts:
            words = [word for word in ("verse", "version", "price", "Is it") if word in text]
            rows[verses][words[0] if words else ""] += 1
        assert len(found) == jagged.LESSONS
    with_a_word = jagged.LESSONS * (1 - jagged.COPYBOOK) * (1 - toynumbers.WITHOUT_A_WORD)
    assert set(rows[0.0]) == {"", "price"} and set(rows[1.0]) == {"", "verse", "version"}
    assert abs((rows[0.25]["verse"] + rows[0.25]["version"]) / with_a_word - 0.25) < 0.03
    assert rows[None]["Is it"] / jagged.LESSONS > 0.55 and not rows[None]["price"]


def test_answers(monkeypatch):
    """9.9. is the decimals' answer, 9.11. the verses', and with a word in front it is neither."""
    said = ["9.9.", "9.11.", "verse 9.11.", "9.9"]
    monkeypatch.setattr(jagged, "replies", lambda model, conversations, n: said)
    pairs = [("9.11", "9.9")] * 4
    assert jagged.answers(None, pairs, "", toynumbers.as_price) == 0.25
    assert jagged.answers(None, pairs, "", toynumbers.as_verse) == 0.25
