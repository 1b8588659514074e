"""chat/comparisons.py: trees, transcripts, pairs and completions, and what becomes of bad ones."""

import pytest

from chat import comparisons, template
from test_chats import PROMPT, TREE, TWO, assistant, compare, flat, node, read, said

ASKED = "\n\nHuman: Is salt a rock?\n\nAssistant: Yes.\n\nHuman: Which?\n\nAssistant:"


@pytest.mark.parametrize(
    "rows",
    [[{"message_tree_id": "Q", "tree_state": "ready_for_export", "prompt": TREE}], list(flat(TREE)),
     list(flat(TREE))[::-1]],
)
def test_openassistant(tmp_path, rows):
    found, notes = read(tmp_path, *rows)
    assert found == [[said("Q"), said("best", "assistant"), said("and?"), said("so", "assistant")]]
    assert notes == {"message not in en": 1, "message deleted": 1,
                     "message not passed by review": 1}
    found, _ = compare(tmp_path, *rows)
    assert found == [
        comparisons.Comparison([said("Q")], ["best", "worse"], [0, -1]),
        comparisons.Comparison(
            [said("Q"), said("best", "assistant"), said("and?")], ["so", "or so"], [0, -1]
        ),
    ]
    with pytest.raises(
        ValueError,
        match="nothing in it can be used: 1 x message not in de; "
        "1 x conversation with nothing in it",
    ):
        read(tmp_path, *rows, lang="de")


def test_hh_rlhf(tmp_path):
    begin = "\n\nHuman: Hello\n\nAssistant: Hi!\n\nHuman: Tell me:\n\n1. two\n\nAssistant:"
    row = {"chosen": begin + " With joy.\n\nReally.", "rejected": begin + " No."}
    prompt = [*TWO, said("Tell me:\n\n1. two")]
    assert compare(tmp_path, row) == (
        [comparisons.Comparison(prompt, ["With joy.\n\nReally.", "No."], [1, 0])],
        {},
    )
    assert read(tmp_path, row) == ([[*prompt, said("With joy.\n\nReally.", "assistant")]], {})
    others = [
        {"chosen": begin + " A", "rejected": begin + " A"},
        {"chosen": begin, "rejected": begin + " A"},
        {"chosen": begin + " A\n\nHuman: B\n\nAssistant: C", "rejected": begin + " D"},
        {"chosen": "\n\nHuman: A\n\nHuman: B\n\nAssistant: C",
         "rejected": "\n\nHuman: A\n\nHuman: B\n\nAssistant: D"},
        {"chosen": begin + " A\n\nHuman: B", "rejected": begin + " A\n\nHuman: C"},
    ]
    found, notes = compare(tmp_path, row, *others)
    assert found[1:] == [comparisons.Comparison([said("A\n\nB")], ["C", "D"], [1, 0])]
    assert notes == {"pair of two equal replies": 1, "pair with an empty message": 1,
                     "pair that differs before its last reply": 1,
                     "message joined to the one before it, of the same role": 2,
                     "pair that does not end with a reply": 1}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "chosen": " Halite.", "rejected": " Granite."},
        {"prompt": ASKED.lstrip() + " ", "chosen": "Halite.", "rejected": "Granite."},
        {"prompt": "\n\nHuman: Is salt a rock?\n\nAssistant: Yes.\n\nHuman: Which?",
         "chosen": "Halite.", "rejected": "Granite."},
        {"prompt": ASKED, "chosen": ASKED + " Halite.", "rejected": ASKED + " Granite."},
        {"chosen": ASKED.lstrip() + " Halite.", "rejected": ASKED.lstrip() + " Granite."},
        {"prompt": PROMPT, "chosen": [said("Halite.", "assistant")], "rejected": "Granite."},
        {
            "conversations": [{"from": "human", "value": "Is salt a rock?"},
                              {"from": "gpt", "value": "Yes."},
                              {"from": "human", "value": "Which?"}],
            "chosen": {"from": "gpt", "value": "Halite."},
            "rejected": {"from": "gpt", "value": "Granite."},
        },
    ],
)
def test_the_prompt_of_a_pair(tmp_path, row):
    """Transcripts of HH-RLHF in a column of their own, messages, LLaMA-Factory's turns."""
    assert compare(tmp_path, row) == (
        [comparisons.Comparison(PROMPT, ["Halite.", "Granite."], [1, 0])],
        {},
    )


def test_a_prompt_that_stands_in_the_replies_too(tmp_path):
    """All of it, its last message, with white space or without; or only the last question of a
    longer conversation."""
    replies = [assistant("Halite."), assistant("Granite.")]
    want = [comparisons.Comparison(PROMPT, ["Halite.", "Granite."], [1, 0])]
    for prompt, begin in (
        (PROMPT, PROMPT),
        (PROMPT, PROMPT[-1:]),
        (PROMPT, [*PROMPT[:2], said("Which? ")]),
        ("Which?", PROMPT),
        ("Is salt a rock?", PROMPT),
    ):
        found, notes = compare(
            tmp_path,
            {"prompt": prompt,
             **dict(zip(("chosen", "rejected"), ([*begin, reply] for reply in replies)))},
        )
        assert [
            c._replace(prompt=[{**m, "content": m["content"].strip()} for m in c.prompt])
            for c in found
        ] == want and not notes


def test_a_transcript_with_a_beginning(tmp_path):
    """What stands before the first Human is the system's; a reply may quote a transcript."""
    begin = "Be brief.\n\nHuman: Hello\n\nAssistant:"
    want = [
        comparisons.Comparison(
            [said("Be brief.", "system"), said("Hello")], ["Hi!", "No.\n\nHuman: x"], [1, 0]
        )
    ]
    assert compare(
        tmp_path, {"prompt": begin, "chosen": " Hi!", "rejected": " No.\n\nHuman: x"}
    ) == (want, {})
    found, notes = compare(tmp_path, {"chosen": begin + " Hi!", "rejected": begin + " No."})
    assert found[0].prompt == want[0].prompt and not notes


def test_a_prompt_that_speaks_of_humans(tmp_path):
    """A text that only begins like a transcript is the user's, and keeps its words."""
    row = {"prompt": "Human: kind or machine?", "chosen": "Kind. ", "rejected": "No."}
    assert compare(tmp_path, row)[0] == [
        comparisons.Comparison([said("Human: kind or machine?")], ["Kind. ", "No."], [1, 0])
    ]


def test_prompts_by_other_names(tmp_path):
    """Intel's orca_dpo_pairs, Argilla's, Alpaca's; the system's words in the prompt, the replies or
    the row."""
    want = comparisons.Comparison(
        [said("Be brief.", "system"), said("Hello")], ["Hi!", "No."], [1, 0]
    )
    system, replies = said("Be brief.", "system"), {"chosen": "Hi!", "rejected": "No."}
    lists = {key: [said("Hello"), said(text, "assistant")] for key, text in replies.items()}
    rows = [
        {"system": "Be brief.", "question": "Hello", **replies},
        {"system": "Be brief.", "input": "Hello", **replies},
        {"system_prompt": "Be brief.", "instruction": "Hello", **replies},
        {"prompt": [system, said("Hello")], **lists},
        {"system": "Be brief.", "chosen": [system, *lists["chosen"]],
         "rejected": lists["rejected"]},
    ]
    assert compare(tmp_path, *rows) == ([want] * 5, {})
    both = {"instruction": "Add.", "input": "1 and 2", "chosen": "3", "rejected": "4"}
    assert compare(tmp_path, both)[0] == [
        comparisons.Comparison([said("Add.\n1 and 2")], ["3", "4"], [1, 0])
    ]


def test_pairs_of_messages(tmp_path):
    """Ours, binarised UltraFeedback, TRL's with and without the prompt in both."""
    good, bad = ([said("Hello"), said("Hi!", "assistant")],
                 [said("Hello"), said("Go away.", "assistant")])
    want = comparisons.Comparison([said("Hello")], ["Hi!", "Go away."], [1, 0])
    rows = [
        {"chosen": good, "rejected": bad, "flaw": "rude"},
        {"prompt": "Hello", "prompt_id": "1", "messages": good, "chosen": good, "rejected": bad,
         "score_chosen": 8.0, "score_rejected": 2.0},
        {"prompt": "Hello", "chosen": "Hi!", "rejected": "Go away."},
        {"prompt": good[:1], "chosen": good[1:], "rejected": bad[1:]},
    ]
    assert compare(tmp_path, *rows) == ([want] * 4, {})
    assert read(tmp_path, *rows) == ([good] * 4, {})


def test_ultrafeedback(tmp_path):
    def row(*scores):
        return {
            "source": "x",
            "instruction": "Hello",
            "models": [],
            "completions": [
                {"model": "m", "response": f"reply {i}", "overall_score": s}
                for i, s in enumerate(scores)
            ],
        }

    assert compare(tmp_path, row(3, 8.5, 3), row(5, 5), row()) == (
        [comparisons.Comparison([said("Hello")], ["reply 0", "reply 1", "reply 2"], [3, 8.5, 3])],
        {"replies that all have one score, or are empty": 2},
    )
    assert read(tmp_path, row(3, 8.5, 3)) == ([[said("Hello"), said("reply 1", "assistant")]], {})


@pytest.mark.parametrize(
    "row",
    [
        {
            "message_tree_id": "Q",
            "prompt": node("Q", "prompter", node("A", "assistant", rank=0),
                           node("B", "assistant", rank=1), node(None, "assistant")),
        },
        {
            "message_tree_id": "Q",
            "prompt": node(
                "Q", "prompter", node("A", "assistant", rank=0), node("B", "assistant", rank=1), 5
            ),
        },
        {
            "message_tree_id": "Q",
            "prompt": node("Q", "prompter", node("A", "assistant", rank=0),
                           node("B", "assistant", rank=1), node("C", "wizard")),
        },
    ],
)
def test_a_tree_with_a_message_that_is_none(tmp_path, row):
    assert read(tmp_path, row) == ([[said("Q"), said("A", "assistant")]],
                                   {"no message of a tree": 1})
    assert compare(tmp_path, row) == ([comparisons.Comparison([said("Q")], ["A", "B"], [0, -1])],
                                      {"no message of a tree": 1})


@pytest.mark.parametrize(
    "bad, reason",
    [({"rank": "best"}, "rank is no number"), ({"rank": True}, "rank is no number"),
     ({"rank": float("nan")}, "rank is no number"), ({"replies": 5}, "replies is no list")],
)
def test_a_tree_with_a_reply_that_is_malformed(tmp_path, bad, reason):
    row = {
        "message_tree_id": "Q",
        "prompt": node("Q", "prompter", node("A", "assistant"), {**node("B", "assistant"), **bad}),
    }
    assert read(tmp_path, row) == ([[said("Q"), said("A", "assistant")]], {reason: 1})
    found, notes = compare(tmp_path, row, {"chosen": TWO, "rejected": [TWO[0], assistant("No")]})
    assert len(found) == 1 and notes == {reason: 1, "tree without ranked replies": 1}


def test_completions_without_a_score(tmp_path):
    completions = [
        {"response": text, "overall_score": score}
        for text, score in (
            ("a", 1),
            ("b", 2),
            ("c", None),
            (None, 3),
            ("", 4),
            ("d", "5"),
            ("e", 10**400),
        )
    ]
    found, notes = compare(
        tmp_path, {"instruction": "Hello", "completions": [*completions, 5], "system": "Be brief."}
    )
    assert found == [
        comparisons.Comparison([said("Be brief.", "system"), said("Hello")], ["a", "b"], [1, 2])
    ]
    assert notes == {"the overall_score of a completion is no number": 3,
                     "the response of a completion is no text": 1, template.EMPTY: 1,
                     "a completion of no known form": 1}


def test_a_second_message_of_one_id(tmp_path):
    """With both, a message could be its own ancestor, and a tree without end."""
    message = {"message_id": "a", "parent_id": None, "text": "Q", "role": "prompter",
               "message_tree_id": "a"}
    reply = {**message, "message_id": "b", "parent_id": "a", "text": "A", "role": "assistant"}
    found, notes = read(tmp_path, message, reply, {**message, "parent_id": "b"})
    assert found == [[said("Q"), said("A", "assistant")]] and notes == {
        "second message of one message_id": 1
    }


def test_pairs_of_no_use_are_counted(tmp_path):
    rows = [{"chosen": [], "rejected": []}, {"chosen": TWO, "rejected": []},
            {"chosen": TWO, "rejected": TWO[:1] * 2}]
    with pytest.raises(
        ValueError, match="2 x pair with an empty message; .* x pair that does not end with a reply"
    ):
        compare(tmp_path, *rows)
    system = said("Be brief.", "system")
    with pytest.raises(ValueError, match="pairs.jsonl:1: pair that does not end with a reply"):
        compare(
            tmp_path, {"chosen": [system, TWO[1]], "rejected": [system, said("No", "assistant")]}
        )


def test_messages_whose_tree_has_no_beginning(tmp_path):
    """Whose parent was not exported, or that are each other's parents."""
    rows = [{**node("Q", "prompter"), "parent_id": None},
            {**node("A", "assistant"), "parent_id": "Q"},
            {**node("B", "assistant"), "parent_id": "gone"},
            {**node("C", "prompter"), "parent_id": "D"},
            {**node("D", "assistant"), "parent_id": "C"}]
    found, notes = read(tmp_path, *rows)
    assert found == [[said("Q"), said("A", "assistant")]]
    assert notes == {"message whose tree has no beginning": 3}
    found, notes = read(tmp_path, *rows[:2], {**rows[2], "role": "system"})
    assert len(found) == 1 and notes == {"no message of a tree": 1}
